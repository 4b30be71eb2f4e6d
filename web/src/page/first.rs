//! The first screen, as a whole and in its parts.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use dms3_core::coordinator::Decision;
use dms3_core::dashboard::Dashboard;
use dms3_core::event::{EventFilter, StoredEvent};
use dms3_core::id::NodeId;
use dms3_core::request::{Answer, Request};
use dms3_core::roster::{NodeRole, NodeStatus};
use minijinja::value::Serde;
use minijinja::{Value, context};

use super::{Page, Place, nodes, phones};
use crate::gate::Guest;
use crate::view::{event, home, node};

pub(crate) const HOME: Place<'_> = Place { here: "home", path: "/" };
/// Events on the first screen.
const SHOWN: u32 = 6;
/// Decisions on the first screen.
const DECISIONS: u32 = 3;

/// What of the first screen comes from the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pub(crate) unseen: Vec<StoredEvent>,
    pub(crate) unseen_count: u64,
    /// Whether anything ever happened.
    pub(crate) ever: bool,
    pub(crate) days: Vec<u64>,
    pub(crate) totals: HashMap<NodeId, u64>,
    pub(crate) decisions: Vec<Decision>,
    /// Why some of it is not known.
    pub(crate) trouble: Option<String>,
}

pub(super) async fn home(State(page): State<Page>, Extension(guest): Extension<Guest>) -> Response {
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let kept = kept(&page, &guest.visitor.name).await;
    page.show_with(StatusCode::OK, Some(&guest), HOME, "home.html", facts(&page, &guest, &house, &kept).await)
}

/// Asks the store; what it does not answer is missing, with the reason.
pub(crate) async fn kept(page: &Page, who: &str) -> Kept {
    let mut kept = Kept::default();
    let filter = EventFilter { unseen_by: Some(who.to_owned()), limit: SHOWN, ..EventFilter::default() };
    match page.house.ask(Request::Events { filter }, who).await {
        Answer::Events(events) => kept.unseen = events,
        Answer::Refused(why) => kept.trouble = Some(why),
        _ => {}
    }
    if let Answer::Counts(counts) = page.house.ask(Request::Unseen { who: who.to_owned() }, who).await {
        kept.unseen_count = counts.first().copied().unwrap_or(0);
    }
    kept.days = days(page, who, None).await;
    if let Answer::Totals(totals) = page.house.ask(Request::EventTotals, who).await {
        kept.totals = totals.into_iter().collect();
    }
    kept.ever = kept.totals.values().any(|total| *total > 0);
    if let Answer::Log(log) = page.house.ask(Request::LastDecisions { count: DECISIONS, until: None }, who).await {
        kept.decisions = log.decisions;
    }
    kept
}

/// How many events each day of the chart has, of that camera or of all.
pub(super) async fn days(page: &Page, who: &str, camera: Option<String>) -> Vec<u64> {
    let clock = page.clock();
    let mut days = event::days(&clock);
    days.extend(days.last().and_then(|today| today.tomorrow().ok()));
    let bounds = days.into_iter().filter_map(|day| clock.midnight(day)).collect();
    match page.house.ask(Request::EventDays { bounds, camera }, who).await {
        Answer::Counts(counts) => counts,
        _ => Vec::new(),
    }
}

/// All that the templates of the first screen and of its parts see.
pub(crate) async fn facts(page: &Page, guest: &Guest, house: &Arc<Dashboard>, kept: &Kept) -> Value {
    let clock = page.clock();
    let mut confirm = home::confirm(house, &clock);
    confirm.problems.extend(kept.trouble.iter().map(|why| format!("Events cannot be shown: {why}.")));
    confirm.notes.extend(page.complaints());
    let items: Vec<_> = kept.unseen.iter().map(|one| event::item(one, &guest.visitor.name, &clock)).collect();
    let more = kept.unseen_count.saturating_sub(items.len() as u64);
    let first = first_camera(page, guest, house).await;
    let names = guest.may(dms3_core::accounts::Act::SeeNames);
    if !names {
        confirm.problems.iter_mut().for_each(|text| *text = without_names(text, house));
    }
    let mut why = home::why(&kept.decisions, &clock);
    if !names {
        why.iter_mut().for_each(|one| one.reason = without_names(&one.reason, house));
    }
    let mut banner = home::banner(house, &clock);
    let mut evidence = home::evidence(house, &clock);
    if !names {
        banner.reason = without_names(&banner.reason, house);
        evidence.retain(|(is_of_a_person, _)| !is_of_a_person);
    }
    let evidence: Vec<_> = evidence.into_iter().map(|(_, text)| text).collect();
    let cards = node::cards(house, &kept.totals, &page.settings.limits, page.settings.coordinator_first, &clock);
    context! {
        banner => Value::from(Serde(banner)),
        confirm => Value::from(Serde(confirm)),
        people => Value::from(Serde(if names { home::people(house, &clock) } else { Vec::new() })),
        devices => if names { house.devices.clone() } else { Vec::new() },
        asking => phones::asking(guest, house),
        people_hidden => !names && !house.people.is_empty(),
        somebody => home::presence_name(house.presence),
        presence_enabled => house.presence_enabled,
        events => context! { items => Value::from(Serde(items)), more, ever => kept.ever },
        chart => context! { days => Value::from(Serde(event::chart(&event::days(&clock), &kept.days))) },
        nodes => Value::from(Serde(cards)),
        reporting => Value::from(Serde(node::reporting(house))),
        first,
        why => Value::from(Serde(why)),
        evidence => Value::from(Serde(evidence)),
        state => Value::from(Serde(home::pill(house))),
    }
}

/// How the first camera comes; nothing once there is one. A word is shown to the session that made it alone.
pub(crate) async fn first_camera(page: &Page, guest: &Guest, house: &Dashboard) -> Value {
    if house.nodes.iter().any(|node| node.role == NodeRole::Camera && node.status == NodeStatus::Active) {
        return Value::from(());
    }
    let (token, pairing) = nodes::shown(page, guest, house).await;
    context! { token => Value::from(Serde(token)), pairing => Value::from(Serde(pairing)) }
}

/// Viewers see no names in what was decided.
pub(crate) fn without_names(text: &str, house: &Dashboard) -> String {
    house.people.iter().fold(text.to_owned(), |text, person| dms3_core::roster::without_name(&text, &person.name))
}
