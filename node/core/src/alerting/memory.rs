//! What the rules of alerts remember: small, bounded, and saved whole.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::cap::{ClockV1, SentV1};
use super::faults::FaultsV2;
use super::{Movement, SHOWN};
use crate::id::EventId;
use crate::time::{Mono, Timestamp};

/// Where what belongs to no camera has its place. No camera has an empty name.
pub(super) const HOUSE: &str = "";
/// Events that wait for their picture, in the whole house.
pub(super) const WAITING: usize = 64;
/// Cameras whose bursts are kept apart. What more there are share one digest.
pub(super) const SOURCES: usize = 32;
/// Events with a mail of their own that are known again: their clips follow.
const MAILED: usize = 128;
/// Other events that are known again, so that nothing is told twice.
const SEEN: usize = 256;

/// Events that are known again as long as this runs: what a flood brings is looked through more than once.
const RECENT: usize = 4096;

/// What need not survive a restart, as it only keeps a number from being too large.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: HashSet<EventId>,
    /// Oldest first.
    order: VecDeque<EventId>,
}

impl Recent {
    /// Whether it was there before; from now on it is.
    pub(super) fn see(&mut self, event: EventId) -> bool {
        if !self.known.insert(event) {
            return true;
        }
        if self.order.len() >= RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(event);
        false
    }
}

/// What must survive a restart. All times in it are those of its own clock, except those that people read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryV2 {
    pub(super) clock: ClockV1,
    pub(super) sent: SentV1,
    /// Oldest first.
    pub(super) waiting: Vec<WaitingV1>,
    /// By name, so that their order does not tell when somebody looked.
    pub(super) sources: Vec<SourceV1>,
    /// Oldest first.
    pub(super) mailed: Vec<MailedV1>,
    /// Oldest first. Those that wait or are shown, too.
    seen: Vec<EventId>,
    /// The last arrival: what started then is not mailed.
    pub(super) arrival: Option<(Timestamp, Timestamp)>,
    pub(super) faults: FaultsV2,
}

/// An event that is to be told and was not yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WaitingV1 {
    pub(super) source: String,
    pub(super) shown: ShownV1,
    pub(super) ended: bool,
    pub(super) clip: Option<ClipV1>,
    /// When it was first told to us.
    pub(super) seen: u64,
    /// An arrival may call it off.
    pub(super) held: bool,
}

/// A movement without its camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShownV1 {
    pub(super) event: EventId,
    pub(super) started: Timestamp,
    pub(super) changed: Option<u8>,
    pub(super) picture: Option<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClipV1 {
    pub(super) hash: [u8; 32],
    pub(super) length: u64,
}

/// The burst of a camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceV1 {
    /// Empty: the house, for what belongs to no camera of this list.
    pub(super) source: String,
    /// End of the cooldown.
    pub(super) quiet_until: u64,
    /// What is held is not told before.
    pub(super) due: u64,
    /// The hourly cap holds it: it goes as soon as it may, and the next mail counts it.
    pub(super) capped: bool,
    pub(super) held: HeldV1,
}

/// What is to be told in the next digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldV1 {
    pub(super) shown: Vec<ShownV1>,
    pub(super) more: u32,
    pub(super) clips: u32,
    pub(super) faults: u32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MailedV1 {
    pub(super) event: EventId,
    pub(super) source: String,
    pub(super) clip: ClipMailV1,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ClipMailV1 {
    NotThere,
    Waits(ClipV1),
    Told,
}

impl MemoryV2 {
    pub(super) fn new(mono: Mono) -> Self {
        Self {
            clock: ClockV1::new(mono),
            sent: SentV1::default(),
            waiting: Vec::new(),
            sources: Vec::new(),
            mailed: Vec::new(),
            seen: Vec::new(),
            arrival: None,
            faults: FaultsV2::default(),
        }
    }

    /// Whether it was there before; from now on it is.
    pub(super) fn see(&mut self, event: EventId) -> bool {
        let known = self.seen.contains(&event);
        if !known {
            make_room(&mut self.seen, SEEN);
            self.seen.push(event);
        }
        known
    }

    /// Returns how many clips are given up for it: none unless hundreds were mailed since.
    pub(super) fn was_mailed(&mut self, mailed: MailedV1) -> u32 {
        let gone = make_room(&mut self.mailed, MAILED);
        self.mailed.push(mailed);
        let Some(gone) = gone else { return 0 };
        self.see(gone.event);
        u32::from(matches!(gone.clip, ClipMailV1::Waits(_)))
    }

    /// Where what the camera saw is held: its own place, or the house's if there is none left.
    pub(super) fn place(&mut self, source: &str) -> &mut SourceV1 {
        let find = |name: &str| self.sources.binary_search_by(|known| known.source.as_str().cmp(name));
        let found = match find(source) {
            Err(_) if self.sources.len() >= SOURCES => find(HOUSE).map_err(|at| (at, HOUSE)),
            found => found.map_err(|at| (at, source)),
        };
        let at = found.unwrap_or_else(|(at, name)| {
            self.sources.insert(at, SourceV1::new(name));
            at
        });
        &mut self.sources[at]
    }

    /// Forgets cameras of which there is nothing to remember.
    pub(super) fn tidy(&mut self) {
        let ran = self.clock.ran;
        self.sources.retain(|source| source.quiet_until > ran || !source.held.is_empty());
    }
}

impl SourceV1 {
    fn new(source: &str) -> Self {
        Self { source: source.to_owned(), quiet_until: 0, due: 0, capped: false, held: HeldV1::default() }
    }

    pub(super) fn ready_at(&self) -> u64 {
        self.due.max(self.quiet_until)
    }

    /// `due`: not told before, unless something older is.
    pub(super) fn hold(&mut self, shown: ShownV1, due: u64) {
        if self.held.is_empty() {
            (self.due, self.capped) = (due, false);
        }
        self.held.around(shown.started);
        if self.held.shown.len() < SHOWN {
            self.held.shown.push(shown);
        } else {
            self.held.more = self.held.more.saturating_add(1);
        }
    }

    /// Takes out what is held.
    pub(super) fn take(&mut self) -> HeldV1 {
        self.capped = false;
        std::mem::take(&mut self.held)
    }
}

impl HeldV1 {
    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty() && self.more == 0 && self.clips == 0 && self.faults == 0
    }

    pub(super) fn events(&self) -> u32 {
        self.more.saturating_add(u32::try_from(self.shown.len()).unwrap_or(u32::MAX))
    }

    /// It reaches from before to after `at`.
    pub(super) fn around(&mut self, at: Timestamp) {
        if self.is_empty() {
            (self.first, self.last) = (at, at);
        } else {
            (self.first, self.last) = (self.first.min(at), self.last.max(at));
        }
    }
}

impl Default for HeldV1 {
    fn default() -> Self {
        Self { shown: Vec::new(), more: 0, clips: 0, faults: 0, first: Timestamp(0), last: Timestamp(0) }
    }
}

impl ShownV1 {
    pub(super) fn of(&self, source: &str) -> Movement {
        Movement { event: self.event, source: source.to_owned(), started: self.started, changed: self.changed, picture: self.picture }
    }
}

/// Removes and returns the oldest if there are `limit` already.
pub(super) fn make_room<T>(list: &mut Vec<T>, limit: usize) -> Option<T> {
    (list.len() >= limit && !list.is_empty()).then(|| list.remove(0))
}
