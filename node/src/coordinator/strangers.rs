//! What strangers try on our ports, told to the log with its cause, without letting them fill it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dms3_pki::tls::{RefusedBy, alert_words};
use tokio::time::Instant;

use crate::lines::{EVERY, Lines};
use crate::mesh::link::{ConnectionError, tls_alert, words};
use crate::mesh::socket::Knocks;

/// Lines of one kind in a minute; the rest is counted.
const LINES: u32 = 5;
/// How often it is looked what knocks.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// So many packets of nobody between two looks are a flood: ten times what a big house sends whose coordinator was restarted.
const FLOOD: u64 = 2500;

/// Each kind of cause has lines of its own, so that a flood of one does not hide another.
#[derive(Debug, Default)]
pub struct Strangers {
    told: Mutex<HashMap<Kind, Told>>,
    floods: Mutex<HashMap<Port, Flood>>,
}

/// What a stranger can choose freely (codes and texts of his own) is no kind: there are only as many as there are alerts of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// The TLS alert with which we refused.
    Refused(u8),
    /// A handshake that nobody went on with.
    Silent,
    Enrollment,
    /// He was told to come again.
    Busy,
    /// Why there was no place for a connection to the dashboard.
    Page(&'static str),
    Other,
}

#[derive(Debug)]
struct Told {
    lines: Lines,
    /// The latest that was not written.
    latest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Port {
    Mesh,
    Enrollment,
}

/// What came to a port since the last line about it.
#[derive(Debug, Default)]
struct Flood {
    /// When that line was written; `None`: nothing unusual comes.
    told: Option<Instant>,
    sum: Knocks,
}

impl Strangers {
    /// The handshake with somebody at `from` failed.
    pub(super) fn refused(&self, from: SocketAddr, error: &ConnectionError) {
        match error {
            ConnectionError::TransportError(ours) => match tls_alert(ours.code) {
                Some(alert) => self.note(from, Kind::Refused(alert), alert_words(alert, RefusedBy::OurPort)),
                None => self.note(from, Kind::Other, &words(error)),
            },
            ConnectionError::TimedOut => self.note(from, Kind::Silent, &words(error)),
            _ => self.note(from, Kind::Other, &words(error)),
        }
    }

    /// Somebody at `from` who passed the handshake was not let in for another reason.
    pub(super) fn turned_away(&self, from: SocketAddr, why: &str) {
        self.note(from, Kind::Other, why);
    }

    /// Of an enrollment that came to nothing.
    pub(super) fn enrollment(&self, what: &str) {
        self.tell(Kind::Enrollment, what);
    }

    /// Of an enrollment that is to be tried again.
    pub(super) fn busy(&self, what: &str) {
        self.tell(Kind::Busy, what);
    }

    /// A connection to the dashboard was closed because there are too many.
    pub(super) fn page(&self, from: IpAddr, why: &'static str) {
        self.tell(Kind::Page(why), &format!("a connection to the dashboard from {from} was closed: {why}"));
    }

    /// Once a minute: what was only counted in a minute that is over.
    pub(super) fn sum_up(&self) {
        for told in self.told().values() {
            if let Some(more) = told.lines.rest() {
                tracing::info!("{more} more of this kind in the last minute, the latest: {}", told.latest);
            }
        }
    }

    /// What came to a port since the last look.
    pub(super) fn knocked(&self, port: Port, knocks: Knocks) {
        let mut floods = self.floods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = floods.entry(port).or_default().line(knocks, Instant::now()) {
            tracing::warn!("{} {line}", port.words());
        }
    }

    fn note(&self, from: SocketAddr, kind: Kind, why: &str) {
        self.tell(kind, &format!("{from} was not let in: {why}"));
    }

    fn tell(&self, kind: Kind, what: &str) {
        let mut told = self.told();
        let told = told.entry(kind).or_insert_with(|| Told { lines: Lines::new(LINES), latest: String::new() });
        match told.lines.next() {
            Some(more) => tracing::info!("{what}{more}"),
            None => {
                tracing::debug!("{what}");
                what.clone_into(&mut told.latest);
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Kind, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    fn words(self) -> &'static str {
        match self {
            Self::Mesh => "the mesh port",
            Self::Enrollment => "the enrollment port",
        }
    }
}

impl Flood {
    /// At its beginning, once a minute, and at its end.
    fn line(&mut self, knocks: Knocks, now: Instant) -> Option<String> {
        let floods = knocks.begun + knocks.strange >= FLOOD;
        if !floods && self.told.is_none() {
            return None;
        }
        self.sum = self.sum.and(knocks);
        let passed = self.told.map_or(LOOK, |told| now.duration_since(told));
        let state = match self.told {
            None => "is flooded",
            Some(_) if floods && passed < EVERY => return None,
            Some(_) if floods => "is still flooded",
            Some(_) => "is no longer flooded",
        };
        self.told = floods.then_some(now);
        let Knocks { begun, unanswered, strange, from } = std::mem::take(&mut self.sum);
        let from = from.map(|from| format!(", the latest from {from} if that is not made up")).unwrap_or_default();
        Some(format!(
            "{state}: {} packets of strangers in the last {} s{from}; {begun} of them begin a handshake, {unanswered} answers were not given. \
             Links go on",
            begun + strange,
            passed.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_kind_does_not_hide_another() {
        let strangers = Strangers::default();
        let from = SocketAddr::from(([10, 0, 0, 1], 1));
        for _ in 0..1000 {
            strangers.refused(from, &ConnectionError::TimedOut);
        }
        strangers.turned_away(from, "why");
        strangers.page(from.ip(), "why");
        let latest = |kind| strangers.told()[&kind].latest.clone();
        assert_eq!(strangers.told().len(), 3);
        assert!(latest(Kind::Silent).starts_with("10.0.0.1:1 was not let in: no answer"), "{}", latest(Kind::Silent));
        assert_eq!((latest(Kind::Other), latest(Kind::Page("why"))), (String::new(), String::new()), "these were written");
        tokio::time::advance(EVERY).await;
        assert_eq!(strangers.told()[&Kind::Silent].lines.rest(), Some(995));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flooded_port_is_told_of_at_once_each_minute_and_when_it_is_over() {
        let mut flood = Flood::default();
        let from = Some([10, 0, 0, 1].into());
        let flooded = Knocks { begun: 50_000, unanswered: 49_000, strange: 7, from };
        let mut line = |knocks| flood.line(knocks, Instant::now());
        assert_eq!(line(Knocks { begun: 100, ..Knocks::default() }), None, "a house that comes back");
        let told = line(flooded).unwrap();
        assert!(told.starts_with("is flooded: 50007 packets of strangers") && told.contains("from 10.0.0.1 "), "{told}");
        let mut lines = Vec::new();
        for _ in 0..24 {
            tokio::time::advance(LOOK).await;
            lines.extend(line(flooded));
        }
        lines.extend(line(Knocks { strange: 5, ..Knocks::default() }));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("is still flooded: 600084 packets"), "{lines:?}");
        assert!(lines[2].starts_with("is no longer flooded: 5 packets"), "{lines:?}");
        assert_eq!(line(Knocks::default()), None);
    }
}
