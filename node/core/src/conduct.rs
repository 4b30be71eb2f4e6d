//! How a node behaves on its link: why it was put out or limited last, and whether two machines use its identity.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::BootId;
use crate::time::{Mono, Now, Timestamp};

/// Who did nothing wrong for so long is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(86_400);
/// Who is put out more often than this in that time is told of.
const PUT_OUTS: usize = 3;
const PUT_OUTS_WITHIN: Duration = Duration::from_secs(600);
/// An identity with which one process takes over from another more often than this in that time is used by two machines.
const TAKEOVERS: usize = 3;
const TAKEOVERS_WITHIN: Duration = Duration::from_secs(60);
/// Takeovers in memory.
const KNOWN: usize = 64;

/// What a node did against the rules since that was looked at last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// The last of it, in words.
    pub why: String,
    pub count: u64,
    /// How often its link was ended for it. Not counted where a weak network may be to blame.
    pub put_out: u32,
}

/// Why a node was put out or limited last, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    pub why: String,
    pub at: Timestamp,
    /// How often, for whatever reason, since it was forgiven last.
    pub count: u64,
    /// It was put out so often in a short time that people are told.
    pub hostile: bool,
}

/// Two machines use one identity: they throw each other out. It is so until a person looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twice {
    pub at: Timestamp,
    /// Where they dialled from last.
    pub one: String,
    pub other: String,
}

/// What is remembered of one node.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    blame: Option<Blame>,
    last: Option<Mono>,
    put_outs: VecDeque<Mono>,
    /// The process at the other end of its link, and from where it dialled.
    link: Option<(BootId, String)>,
    /// When another process took over, and from which.
    takeovers: VecDeque<(Mono, BootId)>,
    twice: Option<Twice>,
}

impl Conduct {
    pub(crate) fn blame(&self) -> Option<&Blame> {
        self.blame.as_ref()
    }

    pub(crate) fn twice(&self) -> Option<&Twice> {
        self.twice.as_ref()
    }

    pub(crate) fn offended(&mut self, offence: Offence, now: Now) {
        let Offence { why, count, put_out } = offence;
        self.put_outs.retain(|at| now.mono.since(*at) < PUT_OUTS_WITHIN);
        self.put_outs.extend((0..put_out).map(|_| now.mono).take(PUT_OUTS + 1));
        let often = self.put_outs.len() > PUT_OUTS;
        while self.put_outs.len() > PUT_OUTS {
            self.put_outs.pop_front();
        }
        let before = self.blame.take();
        self.blame = Some(Blame {
            why,
            at: now.at,
            count: before.as_ref().map_or(0, |blame| blame.count).saturating_add(count),
            hostile: often || before.is_some_and(|blame| blame.hostile),
        });
        self.last = Some(now.mono);
    }

    /// Time passed.
    pub(crate) fn look(&mut self, mono: Mono) {
        if self.last.is_some_and(|last| mono.since(last) >= FORGIVEN_AFTER) {
            self.forgive();
        }
    }

    /// A link of the node is up; `took_over`: another one was. What is new of its identity is to be kept.
    ///
    /// A process that dials anew while its old link is not known to be dead takes over from itself, which is no news. A machine that is
    /// started again and again takes over from others, but none of those ever comes back; of two machines each does.
    pub(crate) fn link_up(&mut self, boot: BootId, address: &str, took_over: bool, now: Now) -> Option<Twice> {
        let (loser, from) = self.link.replace((boot, address.to_owned())).filter(|(loser, _)| took_over && *loser != boot)?;
        self.takeovers.retain(|(at, _)| now.mono.since(*at) < TAKEOVERS_WITHIN);
        self.takeovers.push_back((now.mono, loser));
        if self.takeovers.len() > KNOWN {
            self.takeovers.pop_front();
        }
        let came_back = self.takeovers.iter().any(|(_, loser)| *loser == boot);
        if self.twice.is_some() || self.takeovers.len() <= TAKEOVERS || !came_back {
            return None;
        }
        let (one, other) = places(&from, address);
        self.twice = Some(Twice { at: now.at, one, other });
        self.twice.clone()
    }

    /// Kept from before a restart.
    pub(crate) fn marked(&mut self, twice: Twice) {
        self.twice = Some(twice);
    }

    /// A person looked at it, or put it out of the house.
    pub(crate) fn clear(&mut self) {
        self.forgive();
        self.takeovers.clear();
        self.twice = None;
    }

    fn forgive(&mut self) {
        (self.blame, self.last) = (None, None);
        self.put_outs.clear();
    }
}

/// Two addresses for people: their ports only where nothing else tells them apart.
fn places(one: &str, other: &str) -> (String, String) {
    let ip = |text: &str| text.parse::<SocketAddr>().map_or_else(|_| text.to_owned(), |address| address.ip().to_string());
    match (ip(one), ip(other)) {
        (near, far) if near == far => (one.to_owned(), other.to_owned()),
        places => places,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { at: Timestamp(1_795_000_000_000 + secs * 1000), mono: Mono(secs * 1000), trusted: true }
    }

    fn put_out(why: &str, put_out: u32) -> Offence {
        Offence { why: why.to_owned(), count: 1, put_out }
    }

    #[test]
    fn who_is_put_out_more_than_three_times_in_ten_minutes_is_told_of() {
        for (times, hostile) in [
            (&[(0, 1), (1, 1), (2, 1)][..], false),
            (&[(0, 1), (1, 1), (2, 1), (599, 1)], true),
            (&[(0, 1), (1, 1), (2, 1), (600, 1)], false),
            (&[(0, 4)], true),
            (&[(0, u32::MAX)], true),
            // It is limited, or slow, however often.
            (&[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)], false),
            (&[(0, 2), (500, 1), (1000, 2), (1700, 2)], false),
        ] {
            let mut conduct = Conduct::default();
            times.iter().for_each(|(secs, often)| conduct.offended(put_out("it lies", *often), at(*secs)));
            assert_eq!(conduct.blame().is_some_and(|blame| blame.hostile), hostile, "{times:?}");
        }
    }

    #[test]
    fn the_last_reason_is_remembered_with_its_time_and_how_often_until_a_day_without_or_a_person() {
        const DAY: u64 = 86_400;
        let mut conduct = Conduct::default();
        conduct.offended(put_out("it lies", 4), at(0));
        conduct.offended(Offence { why: "it talks too much".to_owned(), count: 7, put_out: 0 }, at(10));
        let blame = |hostile| Blame { why: "it talks too much".to_owned(), at: at(10).at, count: 8, hostile };
        assert_eq!(conduct.blame(), Some(&blame(true)));
        conduct.look(at(10 + DAY - 1).mono);
        assert_eq!(conduct.blame(), Some(&blame(true)), "told of until it is forgiven");
        conduct.look(at(10 + DAY).mono);
        assert_eq!(conduct.blame(), None);
        conduct.offended(put_out("it lies", 1), at(20 + DAY));
        assert!(!conduct.blame().unwrap().hostile);
        conduct.clear();
        assert_eq!(conduct.blame(), None);
    }

    /// Each link: when, which process, whether another link was up.
    fn marked(links: &[(u64, u8, bool)]) -> Option<Twice> {
        let mut conduct = Conduct::default();
        let mut told = links.iter().filter_map(|(secs, process, took_over)| {
            conduct.link_up(BootId([*process; 4]), &format!("10.0.0.{process}:4000"), *took_over, at(*secs))
        });
        let first = told.next();
        assert_eq!(told.next(), None, "told once");
        first
    }

    #[test]
    fn two_machines_with_one_identity_are_known_by_what_comes_back() {
        let twice = |secs, one: &str, other: &str| Some(Twice { at: at(secs).at, one: one.to_owned(), other: other.to_owned() });
        for (what, links, expected) in [
            (
                "two machines",
                &[(0, 1, false), (5, 2, true), (15, 1, true), (25, 2, true), (35, 1, true), (45, 2, true)][..],
                twice(35, "10.0.0.2", "10.0.0.1"),
            ),
            ("three takeovers", &[(0, 1, false), (5, 2, true), (15, 1, true), (25, 2, true)], None),
            ("four in more than a minute", &[(0, 1, false), (5, 2, true), (30, 1, true), (50, 2, true), (65, 1, true)], None),
            ("one machine that crashes", &[(0, 1, false), (5, 2, true), (10, 3, true), (15, 4, true), (20, 5, true), (25, 6, true)], None),
            ("one that dials anew all the time", &[(0, 1, false), (5, 1, true), (6, 1, true), (7, 1, true), (8, 1, true)], None),
            ("one after the other", &[(0, 1, false), (5, 2, false), (15, 1, false), (25, 2, false), (35, 1, false)], None),
            // It makes itself another one each time; the one that it robs comes back.
            (
                "a thief who hides",
                &[(0, 1, false), (5, 7, true), (6, 8, true), (7, 9, true), (20, 1, true)],
                twice(20, "10.0.0.9", "10.0.0.1"),
            ),
        ] {
            assert_eq!(marked(links), expected, "{what}");
        }
    }

    #[test]
    fn a_mark_stays_until_a_person_clears_it_and_then_all_is_counted_anew() {
        let mut conduct = Conduct::default();
        let mut link = |secs, process: u8, clear: bool| {
            if clear {
                conduct.clear();
            }
            conduct.link_up(BootId([process; 4]), "10.0.0.1:4000", true, at(secs)).is_some()
        };
        assert!(!link(0, 1, false) && !link(1, 2, false) && !link(2, 1, false) && !link(3, 2, false) && link(4, 1, false));
        assert!(!link(5, 2, false), "it is known");
        assert!(!link(6, 1, true) && !link(7, 2, false) && !link(8, 1, false) && link(9, 2, false), "they are still two");
        conduct.clear();
        assert_eq!(conduct.twice(), None);
        conduct.marked(Twice { at: at(0).at, one: "10.0.0.1".to_owned(), other: "10.0.0.2".to_owned() });
        conduct.look(at(1_000_000).mono);
        assert!(conduct.twice().is_some(), "no time clears it");
    }

    #[test]
    fn two_machines_behind_one_address_are_told_apart_by_their_ports() {
        let told = |one, other| places(one, other);
        assert_eq!(told("10.0.0.1:5", "10.0.0.2:6"), ("10.0.0.1".to_owned(), "10.0.0.2".to_owned()));
        assert_eq!(told("[fd00::1]:5", "[fd00::1]:6"), ("[fd00::1]:5".to_owned(), "[fd00::1]:6".to_owned()));
    }

    #[test]
    fn whoever_takes_over_without_end_fills_no_memory() {
        let mut conduct = Conduct::default();
        for nth in 0..1000_u16 {
            let [high, low] = nth.to_be_bytes();
            conduct.link_up(BootId([high, low, 0, 0]), "10.0.0.1:4000", true, at(1));
        }
        assert_eq!(conduct.takeovers.len(), KNOWN);
    }
}
