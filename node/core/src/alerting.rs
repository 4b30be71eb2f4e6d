//! Which events and faults are mailed, and when: the first picture at once, the rest of a burst as one digest, never too many in an hour.
//!
//! Nothing that is to be told is dropped in silence: it has a mail of its own, or a line in a digest, or it is counted in one of them.
//!
//! The driver carries out what [`AlertPolicy::handle`] returns and saves [`AlertPolicy::memory`] in the same transaction. An input counts as
//! taken (an event as acknowledged) only after that. What is told again after a crash is known by its id.

mod burst;
mod cap;
mod faults;
mod memory;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::event::Event;
use crate::fault::{Fault, FaultKind};
use crate::id::EventId;
use crate::time::{Now, Timestamp};

pub use self::memory::MemoryV2;
use self::memory::Recent;

/// An event without a picture is mailed without one after so long.
pub const GRACE: Duration = Duration::from_secs(10);
/// Events that a digest shows; the rest is counted.
pub const SHOWN: usize = 12;
/// A condition that began more often than this within an hour is flapping.
pub const BEGINS: usize = 3;
/// After a restart, a fault that nobody reports again within this time is over.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(600);

const HOUR: Duration = Duration::from_secs(3600);

/// What the rules need to know of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The house's recipients: of faults, and of the events of cameras that have none of their own.
    pub recipients: Vec<String>,
    /// Mails of any kind that go out in any hour, at most. With 0 none ever does.
    pub cap: u32,
    /// Of `cap`, so many are for faults alone: a tree in the wind must not keep quiet that a camera is lost.
    pub kept_for_faults: u32,
    /// Each event waits so long before it is told, so that [`Input::Arrival`] can still call it off.
    pub hold: Duration,
    /// Only those that began in one of these states: an arrival ends no other.
    pub hold_in: Vec<ArmState>,
    /// By camera ([`Event::source`]).
    pub cameras: BTreeMap<String, Rule>,
    /// Of all other cameras.
    pub usual: Rule,
}

/// Which events of a camera are mailed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Arm states whose events are mailed. Events of a disarmed house never are.
    pub states: Vec<ArmState>,
    /// Local times whose events are mailed. None: all day.
    pub hours: Vec<Hours>,
    /// None: the house's.
    pub recipients: Vec<String>,
    /// Least time from one mail about movements of this camera to the next; clips and faults do not count.
    pub cooldown: Duration,
}

/// A part of the day, in local minutes since midnight: from `from` on, until before `to`. Crosses midnight if `to` is less than `from`; the
/// whole day if they are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// 0..=1440.
    pub from: u16,
    /// 0..=1440.
    pub to: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'a> {
    /// When [`AlertPolicy::next_wake`] says so; more often does no harm.
    Tick,
    /// An event is stored, or one that is stored has changed, or a file of it came.
    Event {
        /// Only with those attachments whose bytes are all here: they are mailed.
        event: &'a Event,
        /// Local minute of the day in which it started, 0..1440.
        minute: u16,
    },
    /// A condition is there. Said again while it lasts, it is no new one.
    Fault(&'a Fault),
    FaultOver {
        key: &'a str,
        text: &'a str,
    },
    /// Something happened that has no end of its own: told each time that it is said.
    Once(&'a Fault),
    /// An arrival has just disarmed the house. What started in this time (both ends included) is taken for the arrival: it is not mailed if
    /// it was not yet, also if it comes later. What is only counted by then stays counted.
    Arrival {
        from: Timestamp,
        to: Timestamp,
    },
}

/// Each mail is to go to the spool. `to` are the recipients, `held_back` is what the hourly cap held back before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A camera saw movement.
    EventMail { movement: Movement, to: Vec<String>, held_back: Option<HeldBack> },
    /// The clip of an event that had a mail of its own, for the same thread. Only an event's first clip is mailed.
    ClipMail {
        event: EventId,
        source: String,
        /// SHA-256.
        clip: [u8; 32],
        /// Bytes.
        length: u64,
        to: Vec<String>,
        held_back: Option<HeldBack>,
    },
    /// What was seen since the last mail.
    Digest(Digest),
    /// One notice; more if the cap held them back.
    FaultMail { notices: Vec<Notice>, to: Vec<String>, held_back: Option<HeldBack> },
    /// These events are of an arrival: to be marked so. They are not mailed.
    Arrived { events: Vec<EventId> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// At most [`SHOWN`], those that were told first.
    pub movements: Vec<Movement>,
    /// How many there are besides. One that is told again after a restart in a flood (hundreds within an hour) may be counted twice.
    pub more: u32,
    /// When the first and the last of all of them started.
    pub first: Timestamp,
    pub last: Timestamp,
    /// The hourly cap held these back; else a cooldown did.
    pub by_cap: bool,
    pub to: Vec<String>,
    pub held_back: Option<HeldBack>,
}

/// One event, as a mail shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    pub event: EventId,
    /// Empty in a digest of a house with more than 32 cameras that see movement at once.
    pub source: String,
    pub started: Timestamp,
    /// Percent of the picture.
    pub changed: Option<u8>,
    /// SHA-256 of the first picture.
    pub picture: Option<[u8; 32]>,
}

/// What the hourly cap held back and no other mail tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack {
    pub events: u32,
    pub clips: u32,
    pub faults: u32,
    pub since: Timestamp,
}

/// What is said of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Names the condition: the same at its begin and its end.
    pub key: String,
    /// As it was when it began.
    pub kind: FaultKind,
    /// What happened, in a sentence: that it began, or how it ended.
    pub text: String,
    pub what: What,
    /// When it began last.
    pub since: Timestamp,
    /// When that which is said happened.
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Began,
    Over,
    /// It happened, and there is nothing that could end.
    Once,
    /// It began so often within an hour. From now on it is summed up hourly.
    Flapping {
        begins: u32,
    },
    /// So often it began again since the last notice, and whether it lasts.
    Again {
        begins: u32,
        lasts: bool,
    },
}

/// The rules of alerts. Pure: the same inputs give the same effects.
#[derive(Debug)]
pub struct AlertPolicy {
    settings: Settings,
    memory: MemoryV2,
    recent: Recent,
    changed: bool,
}

impl AlertPolicy {
    pub fn new(settings: Settings, now: Now) -> Self {
        Self { settings, memory: MemoryV2::new(now.mono), recent: Recent::default(), changed: true }
    }

    /// Goes on from what was saved last. Time that nobody can vouch for (the machine was off) counts as none, so that no hour sees more mails.
    pub fn restore(settings: Settings, mut memory: MemoryV2, now: Now) -> Self {
        memory.clock.resume(now.mono);
        memory.faults.unconfirm(memory.clock.ran);
        Self { settings, memory, recent: Recent::default(), changed: true }
    }

    /// What `input` leads to, to be carried out in order.
    pub fn handle(&mut self, input: Input<'_>, now: Now) -> Vec<Effect> {
        self.memory.clock.pass(now.mono);
        let ran = self.memory.clock.ran;
        let mut effects = Vec::new();
        let changed = match input {
            Input::Tick => false,
            Input::Event { event, minute } => self.event(event, minute, &mut effects),
            Input::Fault(fault) => self.memory.faults.begin(fault, now.at, ran),
            Input::FaultOver { key, text } => self.memory.faults.over(key, text, now.at),
            Input::Once(fault) => self.memory.faults.once(fault, now.at),
            Input::Arrival { from, to } => self.arrival(from, to, &mut effects),
        };
        self.memory.faults.pass(now.at, ran);
        self.tell(now, &mut effects);
        self.changed = changed || !effects.is_empty();
        effects
    }

    /// Whether [`Self::memory`] is to be saved, with the effects: the last input changed what must survive, or there was none yet. What time
    /// alone moved without an effect, it moves again after a restart.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// What must survive a restart. Twenty kilobytes at most in a usual house, less than 200 in any.
    pub fn memory(&self) -> &MemoryV2 {
        &self.memory
    }

    /// How long nothing happens without another input; `None`: for ever.
    pub fn next_wake(&self, now: Now) -> Option<Duration> {
        let ran = self.memory.clock.at(now.mono);
        self.next_at().map(|at| Duration::from_millis(at.saturating_sub(ran)))
    }
}

impl Settings {
    fn rule(&self, source: &str) -> &Rule {
        self.cameras.get(source).unwrap_or(&self.usual)
    }

    /// Who is told of the camera.
    fn recipients(&self, source: &str) -> &[String] {
        self.cameras.get(source).map(|rule| rule.recipients.as_slice()).filter(|own| !own.is_empty()).unwrap_or(&self.recipients)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            recipients: Vec::new(),
            cap: 20,
            kept_for_faults: 5,
            hold: Duration::ZERO,
            hold_in: Vec::new(),
            cameras: BTreeMap::new(),
            usual: Rule::default(),
        }
    }
}

impl Rule {
    /// Whether an event that began in `state`, in this local minute of the day, is to be told.
    fn tells(&self, state: ArmState, minute: u16) -> bool {
        state.is_armed() && self.states.contains(&state) && (self.hours.is_empty() || self.hours.iter().any(|hours| hours.contain(minute)))
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            states: vec![ArmState::Night, ArmState::Away],
            hours: Vec::new(),
            recipients: Vec::new(),
            cooldown: Duration::from_secs(120),
        }
    }
}

impl Hours {
    /// Whether this local minute of the day, 0..1440, is one of them.
    pub fn contain(&self, minute: u16) -> bool {
        if self.from < self.to { (self.from..self.to).contains(&minute) } else { minute >= self.from || minute < self.to }
    }
}

#[cfg(test)]
mod tests;
