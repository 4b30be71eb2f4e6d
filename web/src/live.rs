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
const PARTS: [(&str, &str); 9] = [
    ("state", "parts/state.html"),
    ("banner", "parts/banner.html"),
    ("confirm", "parts/confirm.html"),
    ("people", "parts/people.html"),
    ("asking", "parts/asking.html"),
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
    is: Hashes,
}

/// What a part says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hashes {
    /// All but ages: those tick on the page by themselves.
    news: u64,
    /// With the moments that ages count from: that something was heard again is news with the next heartbeat.
    all: u64,
}

impl Part {
    fn new(name: &'static str, html: String) -> Self {
        let (mut news, mut all) = (DefaultHasher::new(), DefaultHasher::new());
        for (text, moment) in ages_apart(&html) {
            news.write(text.as_bytes());
            all.write(text.as_bytes());
            all.write(moment.as_bytes());
        }
        Self { name, html: Arc::from(html), is: Hashes { news: news.finish(), all: all.finish() } }
    }

    /// Whether a page that was sent `before` is to be sent this.
    fn is_news(&self, before: Option<&Hashes>, beat: bool) -> bool {
        before.is_none_or(|before| before.news != self.is.news || beat && before.all != self.is.all)
    }
}

/// Its texts, each with the moment of the age behind it: `<time datetime="THIS" … data-age>12 min ago</time>`.
fn ages_apart(html: &str) -> impl Iterator<Item = (&str, &str)> {
    html.split("<time ").enumerate().map(|(nth, text)| {
        let age = || {
            let (attributes, rest) = text.split_once('>')?;
            let (_, behind) = rest.split_once("</time>")?;
            (nth > 0 && attributes.ends_with("data-age")).then_some((behind, attributes))
        };
        age().unwrap_or((text, ""))
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
    sent: HashMap<&'static str, Hashes>,
    beat: Instant,
    first: bool,
}

pub(crate) async fn updates(State(page): State<Page>, Extension(guest): Extension<Guest>, Query(wanted): Query<Wanted>) -> Response {
    let (dashboard, events, less) = (page.house.dashboard.subscribe(), page.house.events.clone(), page.house.less.clone());
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
            let beat = Instant::now() >= self.beat;
            if beat {
                self.beat = Instant::now() + HEARTBEAT;
                // A session that became too old ends here.
                if !self.may_still_look().await {
                    return None;
                }
                let clock = self.page.clock();
                events.push(Event::default().event("now").data(clock.moment(clock.now).iso));
            }
            events.extend(self.changed_parts(beat).await);
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

    async fn changed_parts(&mut self, beat: bool) -> Vec<Event> {
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
        for part in &wanted {
            if !part.is_news(self.sent.get(part.name), beat) {
                continue;
            }
            self.sent.insert(part.name, part.is);
            changed.push(Event::default().event(part.name).data(part.html.replace(SECRET, &secret)));
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
    fn a_part_that_only_grew_older_says_the_same_and_what_was_heard_again_is_told_with_the_heartbeat() {
        let part = |html: String| Part::new("people", html);
        let ann = |at: &str, age: &str, is: &str| {
            let age = format!("<time datetime=\"{at}\" title=\"{at}\" data-age>{age}</time>");
            part(format!("<b>{is}</b> {age}, <time datetime=\"{at}\">18:31</time> {age}."))
        };
        let before = ann("18:30", "just now", "Home");
        for (now, at_once, with_the_beat) in [
            (ann("18:30", "1 min ago", "Home"), false, false),
            (ann("18:30", "just now", "Away"), true, true),
            (part("<time datetime=\"18:30\">".to_owned()), true, true),
        ] {
            assert_eq!((now.is_news(Some(&before.is), false), now.is_news(Some(&before.is), true)), (at_once, with_the_beat), "{now:?}");
        }
        let of = |at: &str| part(format!("<p>Heard <time datetime=\"{at}\" data-age>just now</time></p>"));
        assert!(!of("18:31").is_news(Some(&of("18:30").is), false) && of("18:31").is_news(Some(&of("18:30").is), true));
        assert!(before.is_news(None, false));
    }
}
