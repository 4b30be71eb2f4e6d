//! Open pages stay true: each change of the house is sent as the parts of the page that it changes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use dms3_core::accounts::{Ask, Role, Told};
use dms3_core::dashboard::Dashboard;
use futures_util::{StreamExt as _, stream};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::gate::Guest;
use crate::page::first::{self, HOME, Kept};
use crate::page::nodes::CAMERAS;
use crate::page::{Page, Place, nodes};

/// So often a page hears that the house is there, and what time it is.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Changes that come faster are sent together.
const TOGETHER: Duration = Duration::from_millis(50);
/// What is known of an account's events is asked anew after so long, since days end.
const OLD: Duration = Duration::from_secs(60);
/// Accounts whose parts are kept.
const ACCOUNTS: usize = 64;
/// Stands in parts that are made for all pages of an account where each session's own secret belongs. No text can hold it.
const SECRET: &str = "\u{1}secret\u{1}";

/// The parts of the first screen, and the state on every other, by their templates.
const PARTS: [(&str, &str); 8] = [
    ("state", "parts/state.html"),
    ("banner", "parts/banner.html"),
    ("confirm", "parts/confirm.html"),
    ("people", "parts/people.html"),
    ("events", "parts/events.html"),
    ("chart", "parts/chart.html"),
    ("nodes", "parts/nodes.html"),
    ("why", "parts/why.html"),
];
const ADD: Place<'_> = Place { here: "nodes", path: "/nodes/add" };
/// What a page that asks for nothing in particular shows.
const FIRST_SCREEN: [&str; 8] = ["banner", "confirm", "first", "people", "events", "chart", "nodes", "why"];

/// What was made for one account is made once, however many pages it has open.
#[derive(Debug, Default)]
pub(crate) struct Live {
    made: tokio::sync::Mutex<HashMap<(String, Role), Made>>,
    kept: Mutex<HashMap<String, (u64, u64, Instant, Kept)>>,
}

#[derive(Debug)]
struct Made {
    of: Arc<Dashboard>,
    events: u64,
    at: Instant,
    parts: Arc<Parts>,
}

type Parts = Vec<Part>;

#[derive(Debug, Clone)]
struct Part {
    name: &'static str,
    html: Arc<str>,
    /// Of what it says. Ages are not part of that: they tick on the page by themselves.
    hash: u64,
}

impl Part {
    fn new(name: &'static str, html: String) -> Self {
        let mut hasher = DefaultHasher::new();
        without_ages(&html).for_each(|text| hasher.write(text.as_bytes()));
        Self { name, html: Arc::from(html), hash: hasher.finish() }
    }
}

/// All of it but the words in `<time … data-age>12 min ago</time>`.
fn without_ages(html: &str) -> impl Iterator<Item = &str> {
    html.split("data-age>").enumerate().map(|(nth, text)| match (nth, text.find("</time>")) {
        (1.., Some(end)) => &text[end..],
        _ => text,
    })
}

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    /// Names with commas between them; none: the first screen.
    #[serde(default)]
    parts: String,
    /// Whose part `node` is.
    #[serde(default)]
    node: String,
}

/// One open page.
struct Watcher {
    page: Page,
    guest: Guest,
    wanted: Wanted,
    dashboard: watch::Receiver<Option<Arc<Dashboard>>>,
    events: watch::Receiver<u64>,
    less: watch::Receiver<u64>,
    /// The hash of each part that was sent last.
    sent: HashMap<&'static str, u64>,
    beat: Instant,
    first: bool,
}

pub(crate) async fn updates(State(page): State<Page>, Extension(guest): Extension<Guest>, Query(wanted): Query<Wanted>) -> Response {
    let (dashboard, events, less) = (page.house.dashboard.clone(), page.house.events.clone(), page.house.less.clone());
    let watcher = Watcher { guest, wanted, dashboard, events, less, sent: HashMap::new(), beat: Instant::now(), first: true, page };
    let changes = stream::unfold(watcher, |mut watcher| async move {
        let sent = watcher.next().await?;
        Some((stream::iter(sent.into_iter().map(Ok::<_, Infallible>)), watcher))
    });
    Sse::new(changes.flatten()).into_response()
}

impl Watcher {
    /// What to send next; `None`: the session is over.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            if !std::mem::take(&mut self.first) {
                let beat = tokio::time::sleep_until(self.beat);
                tokio::select! {
                    changed = self.dashboard.changed() => changed.ok()?,
                    changed = self.events.changed() => changed.ok()?,
                    changed = self.less.changed() => {
                        changed.ok()?;
                        if !self.may_still_look().await {
                            return None;
                        }
                        continue;
                    }
                    () = beat => {}
                }
                if Instant::now() < self.beat {
                    tokio::time::sleep(TOGETHER).await;
                }
            }
            let mut events = Vec::new();
            if Instant::now() >= self.beat {
                self.beat = Instant::now() + HEARTBEAT;
                // A session that became too old ends here.
                if !self.may_still_look().await {
                    return None;
                }
                let clock = self.page.clock();
                events.push(Event::default().event("now").data(clock.moment(clock.now).iso));
            }
            events.extend(self.changed_parts().await);
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    async fn may_still_look(&mut self) -> bool {
        let ask = Ask::Who { session: self.guest.session.clone() };
        match self.page.house.account(ask).await {
            Told::Visitor(visitor) => {
                self.guest.visitor = visitor;
                true
            }
            _ => false,
        }
    }

    async fn changed_parts(&mut self) -> Vec<Event> {
        let Some(house) = self.dashboard.borrow_and_update().clone() else { return Vec::new() };
        let events = *self.events.borrow_and_update();
        let parts = self.page.live.parts(&self.page, &self.guest, &house, events).await;
        let secret = self.guest.csrf();
        let wants = |name: &str| match self.wanted.parts.as_str() {
            "" => FIRST_SCREEN.contains(&name),
            some => some.split(',').any(|one| one == name),
        };
        let mut wanted: Parts = parts.iter().filter(|part| wants(part.name)).cloned().collect();
        // Few pages show these, each its own.
        if wants("first") {
            let first = first::first_camera(&self.page, &self.guest, &house).await;
            wanted.extend(self.made("first", "parts/first.html", HOME, context! { first }));
        }
        if wants("pairing") {
            let (_, pairing) = nodes::shown(&self.page, &self.guest, &house).await;
            wanted.extend(self.made("pairing", "parts/pairing.html", ADD, context! { pairing => Value::from(Serde(pairing)) }));
        }
        if wants("node")
            && let Some(node) = nodes::find(&house, &self.wanted.node)
        {
            let card = nodes::card(&self.page, node, &self.guest.visitor.name).await;
            wanted.extend(self.made("node", "parts/node.html", ADD, context! { node => Value::from(Serde(card)) }));
        }
        if wants("cameras") {
            wanted.extend(self.made("cameras", "parts/cameras.html", CAMERAS, context! { cameras => nodes::stills(&self.page, &house) }));
        }
        let mut changed = Vec::new();
        for Part { name, html, hash } in &wanted {
            if self.sent.insert(name, *hash) != Some(*hash) {
                changed.push(Event::default().event(*name).data(html.replace(SECRET, &secret)));
            }
        }
        changed
    }

    fn made(&self, name: &'static str, template: &'static str, place: Place<'_>, facts: Value) -> Option<Part> {
        let facts = self.page.facts(Some(&self.guest), place, SECRET.to_owned(), None, facts);
        match self.page.render(template, facts) {
            Ok(html) => Some(Part::new(name, html)),
            Err(error) => {
                tracing::error!("the part {name} of the page cannot be made: {error:#}");
                None
            }
        }
    }
}

impl Live {
    async fn parts(&self, page: &Page, guest: &Guest, house: &Arc<Dashboard>, events: u64) -> Arc<Parts> {
        // Whoever comes first makes them; the others wait for it.
        let mut made = self.made.lock().await;
        let key = (guest.visitor.name.clone(), guest.visitor.role);
        if let Some(made) = made.get(&key)
            && Arc::ptr_eq(&made.of, house)
            && made.events == events
            && made.at.elapsed() < OLD
        {
            return made.parts.clone();
        }
        let kept = self.kept(page, guest, house, events).await;
        let facts = first::facts(page, guest, house, &kept).await;
        let mut parts = Vec::with_capacity(PARTS.len());
        for (name, template) in &PARTS {
            match page.render(template, page.facts(Some(guest), HOME, SECRET.to_owned(), None, facts.clone())) {
                Ok(html) => parts.push(Part::new(name, html)),
                Err(error) => tracing::error!("the part {name} of the page cannot be made: {error:#}"),
            }
        }
        let parts = Arc::new(parts);
        if made.len() >= ACCOUNTS {
            made.clear();
        }
        made.insert(key, Made { of: house.clone(), events, at: Instant::now(), parts: parts.clone() });
        parts
    }

    /// What the store knows changes with an event or a decision, and when a day ends.
    async fn kept(&self, page: &Page, guest: &Guest, house: &Dashboard, events: u64) -> Kept {
        let who = &guest.visitor.name;
        let known = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(who).cloned();
        match known {
            Some((of, rev, at, kept)) if of == events && rev == house.rev && at.elapsed() < OLD => kept,
            _ => {
                let kept = first::kept(page, who).await;
                let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if all.len() >= ACCOUNTS {
                    all.clear();
                }
                all.insert(who.clone(), (events, house.rev, Instant::now(), kept.clone()));
                kept
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_only_grew_older_says_the_same() {
        let hash = |html: &str| Part::new("people", html.to_owned()).hash;
        let ann =
            |age: &str, is: &str| hash(&format!("<b>{is}</b> <time datetime=\"x\" data-age>{age}</time> <time data-age>{age}</time>."));
        assert_eq!(ann("just now", "Home"), ann("1 min ago", "Home"));
        assert_ne!(ann("just now", "Home"), ann("just now", "Away"));
        assert_ne!(hash("<time>18:31</time>"), hash("<time>18:32</time>"));
        assert_ne!(hash("data-age>a"), hash("data-age>b"));
    }
}
