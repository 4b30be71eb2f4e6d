//! What strangers try on our two ports, told to the log with its cause, without letting them fill it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dms3_pki::tls::{RefusedBy, alert_words};
use tokio::time::Instant;

use crate::mesh::link::{ConnectionError, tls_alert, words};

const EVERY: Duration = Duration::from_secs(60);
/// Lines of one kind in that time; the rest is counted.
const LINES: u32 = 5;

/// Each kind of cause has lines of its own, so that a flood of one does not hide another.
#[derive(Debug, Default)]
pub struct Strangers {
    told: Mutex<HashMap<Kind, Told>>,
}

/// What a stranger can choose freely (codes and texts of his own) is no kind: there are only as many as there are alerts of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// The TLS alert with which we refused.
    Refused(u8),
    Enrollment,
    Other,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    lines: u32,
    more: u32,
}

impl Strangers {
    /// The handshake with somebody at `from` failed.
    pub(super) fn refused(&self, from: SocketAddr, error: &ConnectionError) {
        match error {
            ConnectionError::TransportError(ours) => match tls_alert(ours.code) {
                Some(alert) => self.note(from, Kind::Refused(alert), alert_words(alert, RefusedBy::OurPort)),
                None => self.note(from, Kind::Other, &words(error)),
            },
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

    fn note(&self, from: SocketAddr, kind: Kind, why: &str) {
        self.tell(kind, &format!("{from} was not let in: {why}"));
    }

    fn tell(&self, kind: Kind, what: &str) {
        match self.line(kind, Instant::now()) {
            None => tracing::debug!("{what}"),
            Some(Line { before, last }) => {
                let before = if before > 0 { format!(" ({before} more were not told)") } else { String::new() };
                let last = if last { "; further ones like it are only counted for a minute" } else { "" };
                tracing::info!("{what}{before}{last}");
            }
        }
    }

    /// Whether a line may be written.
    fn line(&self, kind: Kind, now: Instant) -> Option<Line> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(kind).or_insert(Told { since: now, lines: 0, more: 0 });
        let mut before = 0;
        if now.duration_since(told.since) >= EVERY {
            before = told.more;
            *told = Told { since: now, lines: 0, more: 0 };
        }
        if told.lines == LINES {
            told.more = told.more.saturating_add(1);
            return None;
        }
        told.lines += 1;
        Some(Line { before, last: told.lines == LINES })
    }
}

/// One that may be written.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// Attempts since the last line that were not told.
    before: u32,
    /// The next ones will not be told for a while.
    last: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVOKED: Kind = Kind::Refused(44);

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_strangers_is_five_lines_a_minute_and_a_number() {
        let strangers = Strangers::default();
        let told: Vec<_> = (0..1000).filter_map(|_| strangers.line(REVOKED, Instant::now())).collect();
        assert_eq!(told.iter().map(|line| line.last).collect::<Vec<_>>(), [false, false, false, false, true]);
        tokio::time::advance(EVERY).await;
        assert_eq!(strangers.line(REVOKED, Instant::now()), Some(Line { before: 995, last: false }));
        assert_eq!(strangers.line(REVOKED, Instant::now()), Some(Line { before: 0, last: false }), "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_kind_does_not_hide_another() {
        let strangers = Strangers::default();
        for _ in 0..1000 {
            strangers.line(Kind::Refused(48), Instant::now());
        }
        assert!(strangers.line(REVOKED, Instant::now()).is_some());
        assert!(strangers.line(Kind::Other, Instant::now()).is_some());
    }
}
