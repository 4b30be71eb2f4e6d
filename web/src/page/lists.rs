//! Events by day, one event, and what was decided when.

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use dms3_core::accounts::Act;
use dms3_core::dashboard::Dashboard;
use dms3_core::event::{AttachmentKind, EventFilter, StoredEvent, Thumbnail, seconds_between};
use dms3_core::id::EventId;
use dms3_core::request::{Answer, Request};
use dms3_core::time::Timestamp;
use jiff::civil::Date;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::{Page, Place};
use crate::gate::{Guest, Posted, encoded};
use crate::view::{self, Clock, Moment, event};

/// Events on a page, and decisions.
const PAGE: u32 = 60;
/// Log rows are looked for so far back; the store keeps them as long as its config says.
const DECISIONS_WITHIN: std::time::Duration = std::time::Duration::from_secs(3650 * 86_400);

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    camera: String,
    #[serde(default)]
    day: String,
    #[serde(default)]
    seen: String,
    /// The place of the last event of the page before: "1764000000000.01M8…".
    #[serde(default)]
    before: String,
}

#[derive(Serialize)]
struct Choice {
    value: String,
    label: String,
    on: bool,
}

#[derive(Serialize)]
struct Group<T> {
    date: String,
    words: String,
    count: String,
    items: Vec<T>,
}

pub(super) async fn events(State(page): State<Page>, Extension(guest): Extension<Guest>, Query(wanted): Query<Wanted>) -> Response {
    let clock = page.clock();
    let who = guest.visitor.name.as_str();
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let day = wanted.day.parse::<Date>().ok();
    let filter = EventFilter {
        since: day.and_then(|day| clock.midnight(day)),
        until: day.and_then(|day| day.tomorrow().ok()).and_then(|day| clock.midnight(day)),
        camera: filter_camera(&wanted),
        unseen_by: (wanted.seen == "no").then(|| who.to_owned()),
        before: place_of(&wanted.before),
        limit: PAGE,
        ..EventFilter::default()
    };
    let found = match page.house.ask(Request::Events { filter }, who).await {
        Answer::Events(events) => events,
        Answer::Refused(why) => return page.trouble(Some(&guest), StatusCode::SERVICE_UNAVAILABLE, &view::capital(&why)),
        _ => return page.odd_answer(&guest),
    };
    let unseen = match page.house.ask(Request::Unseen { who: who.to_owned() }, who).await {
        Answer::Counts(counts) => counts.first().copied().unwrap_or(0),
        _ => 0,
    };
    let counts = super::first::days(&page, who, filter_camera(&wanted)).await;
    let query = |before: Option<&StoredEvent>| {
        let mut query = format!("camera={}&day={}&seen={}", encoded(&wanted.camera), encoded(&wanted.day), encoded(&wanted.seen));
        if let Some((at, id)) = before.map(StoredEvent::place) {
            query.push_str(&format!("&before={}.{id}", at.0));
        }
        format!("/events?{query}")
    };
    let older = found.last().filter(|_| found.len() == PAGE as usize).map(|last| query(Some(last)));
    let newer = (!wanted.before.is_empty()).then(|| query(None));
    let mut cameras: Vec<String> = house.nodes.iter().flat_map(names_of).collect();
    cameras.sort_by_key(|name| name.to_lowercase());
    cameras.dedup();
    if !wanted.camera.is_empty() && !cameras.contains(&wanted.camera) {
        cameras.push(wanted.camera.clone());
    }
    let choice = |value: &str, label: &str, on: bool| Choice { value: value.to_owned(), label: label.to_owned(), on };
    let mut camera_choices = vec![choice("", "All cameras", wanted.camera.is_empty())];
    camera_choices.extend(cameras.iter().map(|name| choice(name, name, *name == wanted.camera)));
    let days = event::days(&clock);
    let mut day_choices = vec![choice("", "All days", day.is_none())];
    for one in days.iter().rev() {
        day_choices.push(choice(&one.to_string(), &one.strftime("%a %-d %b").to_string(), Some(*one) == day));
    }
    if let Some(day) = day.filter(|day| !days.contains(day)) {
        day_choices.push(choice(&day.to_string(), &day.strftime("%a %-d %b %Y").to_string(), true));
    }
    let seen_choices = vec![choice("", "All", wanted.seen != "no"), choice("no", "Not seen yet", wanted.seen == "no")];
    let items = found.iter().map(|one| (one.began, item(one, who, &clock)));
    let path = query(None);
    let facts = context! {
        filters => context! { camera => Value::from(Serde(camera_choices)), day => Value::from(Serde(day_choices)), seen => Value::from(Serde(seen_choices)) },
        filtered => day.is_some() || !wanted.camera.is_empty() || wanted.seen == "no",
        chart => context! { days => Value::from(Serde(event::chart(&days, &counts))), camera => encoded(&wanted.camera) },
        unseen,
        groups => Value::from(Serde(groups(items, &clock, "event", "events"))),
        newer,
        older,
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "events", path: &path }, "events.html", facts)
}

fn filter_camera(wanted: &Wanted) -> Option<String> {
    Some(wanted.camera.clone()).filter(|camera| !camera.is_empty())
}

/// In a list by days the clock alone is said.
fn item(one: &StoredEvent, who: &str, clock: &Clock) -> event::EventItem {
    let mut item = event::item(one, who, clock);
    item.at = clock.minute(one.began);
    item
}

/// What a camera may be asked for by.
fn names_of(node: &dms3_core::dashboard::NodeView) -> Vec<String> {
    if node.role != dms3_core::roster::NodeRole::Camera {
        return Vec::new();
    }
    let mut names = vec![node.name.clone()];
    if node.detectors.len() > 1 {
        names.extend(node.detectors.iter().map(|detector| format!("{}/{}", node.name, detector.source)));
    }
    names
}

pub(crate) fn place_of(text: &str) -> Option<(Timestamp, EventId)> {
    let (at, id) = text.split_once('.')?;
    Some((Timestamp(at.parse().ok()?), EventId::parse(id).ok()?))
}

/// By the days of the house, in the order in which they come.
fn groups<T>(items: impl Iterator<Item = (Timestamp, T)>, clock: &Clock, one: &str, many: &str) -> Vec<Group<T>> {
    let mut groups: Vec<Group<T>> = Vec::new();
    for (at, item) in items {
        let (date, words) = clock.day(at);
        match groups.last_mut() {
            Some(last) if last.date == date => last.items.push(item),
            _ => groups.push(Group { date, words, count: String::new(), items: vec![item] }),
        }
    }
    for group in &mut groups {
        group.count = format!("{} {}", group.items.len(), if group.items.len() == 1 { one } else { many });
    }
    groups
}

#[derive(Serialize)]
struct EventPage {
    #[serde(flatten)]
    item: EventFacts,
    seen_by: Vec<String>,
    pictures: Vec<PictureLink>,
    clip: Option<ClipLink>,
    clip_words: Option<String>,
    why: Option<String>,
    newer: Option<String>,
    older: Option<String>,
}

#[derive(Serialize)]
struct EventFacts {
    id: String,
    camera: String,
    at: Moment,
    changed: Option<u8>,
    words: Option<&'static str>,
    kind: &'static str,
    placeholder: Option<&'static str>,
    going_on: bool,
    seen: bool,
}

#[derive(Serialize)]
struct PictureLink {
    url: String,
    thumb: String,
    at: Moment,
    name: String,
}

#[derive(Serialize)]
struct ClipLink {
    url: String,
    #[serde(rename = "type")]
    mime: &'static str,
    secs: Option<u32>,
    size: String,
    name: String,
}

pub(super) async fn event(State(page): State<Page>, Extension(guest): Extension<Guest>, Path(id): Path<String>) -> Response {
    let Ok(id) = EventId::parse(&id) else { return no_such(&page, &guest) };
    let who = guest.visitor.name.as_str();
    let found = match page.house.ask(Request::Event { id }, who).await {
        Answer::Event(event) => *event,
        _ => return no_such(&page, &guest),
    };
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let clock = page.clock();
    let item = event::item(&found, who, &clock);
    let pictures = found.attachments.iter().filter(|one| one.attachment.kind == AttachmentKind::Picture && one.kept_at.is_some());
    let pictures: Vec<_> = pictures
        .map(|one| PictureLink {
            url: event::picture_url(&found, one, false),
            thumb: event::picture_url(&found, one, one.thumbnail == Thumbnail::Made),
            at: clock.second(one.attachment.taken),
            name: one.attachment.name.clone(),
        })
        .collect();
    let clip = found.attachments.iter().find(|one| one.attachment.kind == AttachmentKind::Clip);
    let clip_words = match clip {
        Some(one) if one.kept_at.is_none() => Some("The clip is on its way.".to_owned()),
        None if item.going_on => Some("The clip comes when it is over.".to_owned()),
        _ => None,
    };
    let clip = clip.filter(|one| one.kept_at.is_some()).map(|one| ClipLink {
        url: event::picture_url(&found, one, false),
        mime: super::events::mime_of(AttachmentKind::Clip, &one.attachment.name),
        secs: found.over().map(|over| seconds_between(found.began, over)),
        size: view::size(one.attachment.length),
        name: one.attachment.name.clone(),
    });
    let others = found.seen_by.iter().filter(|name| *name != who && guest.may(Act::SeeNames));
    let seen_by = others.cloned().collect();
    let (newer, older) = match page.house.ask(Request::Neighbours { id }, who).await {
        Answer::Neighbours { newer, older } => (newer, older),
        _ => (None, None),
    };
    let path_of = |id: EventId| format!("/events/{id}");
    let event::EventItem { id: text, camera, at, changed, words, kind, placeholder, going_on, seen, .. } = item;
    let shown = EventPage {
        item: EventFacts { id: text, camera, at, changed, words, kind, placeholder, going_on, seen },
        seen_by,
        pictures,
        clip,
        clip_words,
        why: why(&page, &guest, &house, &found).await,
        newer: newer.map(path_of),
        older: older.map(path_of),
    };
    let path = path_of(id);
    let facts = context! { event => Value::from(Serde(shown)), state => Value::from(Serde(view::home::pill(&house))) };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "events", path: &path }, "event.html", facts)
}

/// Why its camera watched then: what was decided last.
async fn why(page: &Page, guest: &Guest, house: &Dashboard, event: &StoredEvent) -> Option<String> {
    let Answer::Log(log) = page.house.ask(Request::LastDecisions { count: 1, until: Some(event.began) }, &guest.visitor.name).await else {
        return None;
    };
    let decision = log.decisions.last().filter(|decision| decision.state.is_armed())?;
    let reason = if guest.may(Act::SeeNames) { decision.reason.clone() } else { super::first::without_names(&decision.reason, house) };
    Some(view::sentence(&reason))
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

pub(super) async fn delete(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
    Posted(Nothing {}): Posted<Nothing>,
) -> Response {
    let Ok(id) = EventId::parse(&id) else { return no_such(&page, &guest) };
    let answer = page.house.ask(Request::DeleteEvent { id }, &guest.visitor.name).await;
    page.answered(&guest, "/events", answer)
}

fn no_such(page: &Page, guest: &Guest) -> Response {
    let text = "There is no such event: it may have been deleted, or was older than events are kept.";
    page.trouble(Some(guest), StatusCode::NOT_FOUND, text)
}

#[derive(Deserialize)]
pub(super) struct Older {
    #[serde(default)]
    page: usize,
}

#[derive(Serialize)]
struct DecisionLine {
    at: Moment,
    state: &'static str,
    word: &'static str,
    reason: String,
    evidence: Vec<Evidence>,
}

#[derive(Serialize)]
struct Evidence {
    name: String,
    presence: &'static str,
    seen: Option<Moment>,
    device: Option<String>,
}

pub(super) async fn log(State(page): State<Page>, Extension(guest): Extension<Guest>, Query(wanted): Query<Older>) -> Response {
    let clock = page.clock();
    let house = match page.dashboard().await {
        Ok(house) => house,
        Err(trouble) => return trouble,
    };
    let log = match page.house.ask(Request::Log { since: clock.now - DECISIONS_WITHIN }, &guest.visitor.name).await {
        Answer::Log(log) => log,
        Answer::Refused(why) => return page.trouble(Some(&guest), StatusCode::SERVICE_UNAVAILABLE, &view::capital(&why)),
        _ => return page.odd_answer(&guest),
    };
    let names = guest.may(Act::SeeNames);
    let on_page = PAGE as usize;
    let from = wanted.page.saturating_mul(on_page);
    let more = log.decisions.len() > from.saturating_add(on_page);
    let lines = log.decisions.iter().rev().skip(from).take(on_page).map(|decision| {
        let reason = if names { decision.reason.clone() } else { super::first::without_names(&decision.reason, &house) };
        let evidence = decision.evidence.iter().filter(|_| names).map(|person| Evidence {
            name: person.name.clone(),
            presence: view::home::presence_name(person.presence),
            seen: person.last_seen.map(|at| clock.moment(at)),
            device: person.device.clone(),
        });
        let line = DecisionLine {
            at: clock.minute(decision.at),
            state: view::state_name(decision.state),
            word: view::state_word(decision.state),
            reason: view::capital(&reason),
            evidence: evidence.collect(),
        };
        (decision.at, line)
    });
    let facts = context! {
        kept_days => page.settings.decisions_days,
        names_hidden => !names,
        groups => Value::from(Serde(groups(lines, &clock, "decision", "decisions"))),
        newer => (wanted.page > 0).then(|| format!("/log?page={}", wanted.page - 1)),
        older => more.then(|| format!("/log?page={}", wanted.page + 1)),
        state => Value::from(Serde(view::home::pill(&house))),
    };
    page.show_with(StatusCode::OK, Some(&guest), Place { here: "log", path: "/log" }, "log.html", facts)
}
