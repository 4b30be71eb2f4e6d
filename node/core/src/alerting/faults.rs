//! Faults: each is told when it begins and when it ends, unless it comes and goes all the time.

use serde::{Deserialize, Serialize};

use super::cap::millis;
use super::memory::make_room;
use super::{BEGINS, CONFIRM_WITHIN, HOUR, Notice, What};
use crate::fault::{Fault, FaultKind};
use crate::time::Timestamp;

/// Conditions that are known at once.
const FAULTS: usize = 64;
/// Notices that the hourly cap keeps waiting.
const QUEUE: usize = 32;
/// Cameras that were found again lately.
const FOUND: usize = 16;
/// Longest text of a fault, in bytes.
const TEXT: usize = 300;
/// Longest name, or word of a detector, within it.
const WORD: usize = 200;
/// Longest key. That of a camera with the longest name has room.
const KEY: usize = 300;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FaultsV2 {
    known: Vec<FaultV2>,
    /// To be told, oldest first.
    pub(super) queue: Vec<QueuedV2>,
    /// Notices for which there was no room.
    pub(super) dropped: u32,
    /// Cameras, and when they were found again: of a loss and its end, the end may come first.
    found: Vec<(String, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueuedV2 {
    /// The camera whose recipients are told; empty: the house's.
    pub(super) source: String,
    pub(super) notice: Notice,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FaultV2 {
    key: String,
    source: String,
    kind: FaultKind,
    text: String,
    on: bool,
    /// When it began last.
    since: Timestamp,
    /// When it began within the last hour; no more than are needed to call it flapping.
    begins: Vec<u64>,
    flapping: Option<FlappingV1>,
    /// It was there before the restart. Nobody may be left who would tell its end.
    confirm_by: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FlappingV1 {
    /// When it is summed up.
    next: u64,
    /// Since the last notice.
    begins: u32,
    /// People believe that it lasts.
    told_on: bool,
}

impl FaultsV2 {
    /// Whether anything changed. A fault of the house that lasts is only confirmed.
    pub(super) fn begin(&mut self, fault: &Fault, at: Timestamp, ran: u64) -> bool {
        let key = cut(&fault.key, KEY);
        if let Some(fault) = self.known.iter_mut().find(|fault| fault.key == key && fault.on) {
            return fault.confirm_by.take().is_some();
        }
        self.begins(key, "", &fault.kind, &fault.text, at, ran);
        true
    }

    /// It is told, and not remembered.
    pub(super) fn once(&mut self, fault: &Fault, at: Timestamp) -> bool {
        let (key, text) = (cut(&fault.key, KEY).to_owned(), cut(&fault.text, TEXT).to_owned());
        let notice = Notice { key, kind: fault.kind.clone().cut(WORD), text, what: What::Once, since: at, at };
        self.say(Some(QueuedV2 { source: String::new(), notice }));
        true
    }

    pub(super) fn over(&mut self, key: &str, text: &str, at: Timestamp) -> bool {
        let key = cut(key, KEY);
        let Some(fault) = self.known.iter_mut().find(|fault| fault.key == key && fault.on) else { return false };
        let notice = fault.ends(text, at);
        self.say(notice);
        true
    }

    /// An event says that a camera gives no picture, since `at`.
    pub(super) fn lost(&mut self, source: &str, at: Timestamp, ran: u64) {
        // A loss that is new although the last one lasts means that we missed the end of that one.
        let kind = FaultKind::NoPicture { camera: source.to_owned() };
        self.begins(&lost_key(source), source, &kind, &format!("{source} gives no picture any more."), at, ran);
        let found = self.found.iter().find(|(name, _)| name == source).map(|(_, found)| *found);
        if let Some(found) = found.filter(|found| *found >= at) {
            self.found_again(source, found);
        }
    }

    /// An event says that a camera gives pictures again, since `at`.
    pub(super) fn found(&mut self, source: &str, at: Timestamp) -> bool {
        match self.found.iter_mut().find(|(name, _)| name == source) {
            Some((_, found)) => *found = at.max(*found),
            None => {
                make_room(&mut self.found, FOUND);
                self.found.push((source.to_owned(), at));
            }
        }
        self.found_again(source, at);
        true
    }

    /// What time alone does.
    pub(super) fn pass(&mut self, at: Timestamp, ran: u64) {
        let mut notices = Vec::new();
        for fault in &mut self.known {
            if fault.confirm_by.is_some_and(|by| by <= ran) {
                let text = format!("Not seen again since a restart: {}", fault.text);
                notices.push(fault.ends(&text, at));
            }
            notices.push(fault.sums_up(at, ran));
            fault.begins.retain(|begin| ran.saturating_sub(*begin) < millis(HOUR));
        }
        notices.into_iter().for_each(|notice| self.say(notice));
        self.known.retain(|fault| fault.on || fault.flapping.is_some() || !fault.begins.is_empty());
    }

    /// When [`Self::pass`] has something to do.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.known.iter().flat_map(|fault| fault.confirm_by.into_iter().chain(fault.flapping.as_ref().map(|flapping| flapping.next))).min()
    }

    /// After a restart. Events tell the end of what they told of; the rest is reported anew while it lasts.
    pub(super) fn unconfirm(&mut self, ran: u64) {
        for fault in self.known.iter_mut().filter(|fault| fault.on && fault.source.is_empty()) {
            fault.confirm_by = Some(ran.saturating_add(millis(CONFIRM_WITHIN)));
        }
    }

    fn begins(&mut self, key: &str, source: &str, kind: &FaultKind, text: &str, at: Timestamp, ran: u64) {
        let (kind, text) = (kind.clone().cut(WORD), cut(text, TEXT));
        let place = match self.known.iter().position(|fault| fault.key == key) {
            Some(place) => place,
            None if self.known.len() < FAULTS || self.forget_one() => {
                self.known.push(FaultV2::new(key, source));
                self.known.len() - 1
            }
            None => {
                self.dropped = self.dropped.saturating_add(1);
                return;
            }
        };
        let Some(fault) = self.known.get_mut(place) else { return };
        let notice = fault.begins(kind, text, at, ran);
        self.say(notice);
    }

    fn found_again(&mut self, source: &str, at: Timestamp) {
        let key = lost_key(source);
        // An end from before the loss is that of an earlier one.
        if let Some(fault) = self.known.iter_mut().find(|fault| fault.key == key && fault.on && fault.since <= at) {
            let notice = fault.ends(&format!("{source} gives pictures again."), at);
            self.say(notice);
        }
    }

    /// Makes room among those that are over and quiet.
    fn forget_one(&mut self) -> bool {
        let over = self.known.iter().position(|fault| !fault.on && fault.flapping.is_none());
        over.map(|place| self.known.remove(place)).is_some()
    }

    fn say(&mut self, queued: Option<QueuedV2>) {
        let Some(queued) = queued else { return };
        if self.queue.len() < QUEUE {
            self.queue.push(queued);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

impl FaultV2 {
    fn new(key: &str, source: &str) -> Self {
        Self {
            key: key.to_owned(),
            source: source.to_owned(),
            kind: FaultKind::Other,
            text: String::new(),
            on: false,
            since: Timestamp(0),
            begins: Vec::new(),
            flapping: None,
            confirm_by: None,
        }
    }

    fn begins(&mut self, kind: FaultKind, text: &str, at: Timestamp, ran: u64) -> Option<QueuedV2> {
        (self.on, self.since, self.kind) = (true, at, kind);
        text.clone_into(&mut self.text);
        if let Some(flapping) = &mut self.flapping {
            flapping.begins = flapping.begins.saturating_add(1);
            return None;
        }
        self.begins.push(ran);
        if self.begins.len() <= BEGINS {
            return Some(self.notice(What::Began, text, at));
        }
        let begins = u32::try_from(self.begins.len()).unwrap_or(u32::MAX);
        self.begins.clear();
        self.flapping = Some(FlappingV1 { next: ran.saturating_add(millis(HOUR)), begins: 0, told_on: true });
        Some(self.notice(What::Flapping { begins }, text, at))
    }

    fn ends(&mut self, text: &str, at: Timestamp) -> Option<QueuedV2> {
        (self.on, self.confirm_by) = (false, None);
        cut(text, TEXT).clone_into(&mut self.text);
        self.flapping.is_none().then(|| self.notice(What::Over, &self.text, at))
    }

    /// An hour in which it did not begin ends its flapping.
    fn sums_up(&mut self, at: Timestamp, ran: u64) -> Option<QueuedV2> {
        let on = self.on;
        let flapping = self.flapping.as_mut().filter(|flapping| flapping.next <= ran)?;
        let (begins, told_on) = (std::mem::take(&mut flapping.begins), std::mem::replace(&mut flapping.told_on, on));
        if begins > 0 {
            flapping.next = ran.saturating_add(millis(HOUR));
            return Some(self.notice(What::Again { begins, lasts: on }, &self.text, at));
        }
        self.flapping = None;
        (told_on && !on).then(|| self.notice(What::Over, &self.text, at))
    }

    fn notice(&self, what: What, text: &str, at: Timestamp) -> QueuedV2 {
        let notice = Notice { key: self.key.clone(), kind: self.kind.clone(), text: text.to_owned(), what, since: self.since, at };
        QueuedV2 { source: self.source.clone(), notice }
    }
}

fn lost_key(source: &str) -> String {
    format!("camera-lost:{source}")
}

/// Its beginning of at most so many bytes, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}
