//! A clock that only counts what surely passed, and how many mails went out in the last hour by it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HOUR, Settings};
use crate::time::Mono;

/// Milliseconds that this memory has lived. A restart never sets it back and a reboot never makes it jump, so that deadlines can be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClockV1 {
    pub(super) ran: u64,
    mono: Mono,
}

impl ClockV1 {
    pub(super) fn new(mono: Mono) -> Self {
        Self { ran: 0, mono }
    }

    /// What it will show at `mono`.
    pub(super) fn at(&self, mono: Mono) -> u64 {
        self.ran.saturating_add(millis(mono.since(self.mono)))
    }

    pub(super) fn pass(&mut self, mono: Mono) {
        self.ran = self.at(mono);
        self.mono = self.mono.max(mono);
    }

    /// After a restart. A clock that shows less than before was reset by a reboot, and what it shows is all that surely passed. If it
    /// shows more, no less than the difference did, with or without a reboot.
    pub(super) fn resume(&mut self, mono: Mono) {
        if mono < self.mono {
            self.ran = self.ran.saturating_add(mono.0);
            self.mono = mono;
        }
    }
}

/// When the mails of the last hour went out, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentV1(Vec<u64>);

impl SentV1 {
    /// From when on one more makes no more than `limit` in any hour; `None`: never.
    pub(super) fn free_at(&self, limit: usize) -> Option<u64> {
        if limit == 0 {
            return None;
        }
        let last = self.0.len().checked_sub(limit).and_then(|at| self.0.get(at));
        Some(last.map_or(0, |sent| sent.saturating_add(millis(HOUR))))
    }

    pub(super) fn push(&mut self, ran: u64) {
        self.0.retain(|sent| ran.saturating_sub(*sent) < millis(HOUR));
        self.0.push(ran);
    }
}

impl Settings {
    /// Mails in an hour, faults included.
    pub(super) fn limit(&self) -> usize {
        usize::try_from(self.cap).unwrap_or(usize::MAX)
    }

    /// So many must have gone out in an hour before events wait. However much is kept for faults, an event has a chance.
    pub(super) fn event_limit(&self) -> usize {
        let kept = usize::try_from(self.kept_for_faults).unwrap_or(usize::MAX);
        self.limit().saturating_sub(kept).max(1).min(self.limit())
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
