//! START HERE: every input a camera node reacts to, every effect it causes. Arm is a latch, disarm is a lease.

use std::cmp::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arming::{ArmState, LEASE};
use crate::protocol::message::{AckV1, SignedStateV1, SourceAckV1, StateV1};
use crate::time::{Mono, Now, Timestamp, duration_words};
use crate::windows::Windows;

/// What is left of a disarm or a pause is saved so often.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// And so often while no coordinator is there.
const SAVE_EVERY_LOST: Duration = Duration::from_secs(10);
/// What could not be saved is tried again so often.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// The longest time for which a person stops the detectors by hand, so that it cannot be forgotten.
pub const PAUSE_LIMIT: Duration = Duration::from_secs(12 * 3600);

/// Without a coordinator for so long the house's windows are looked at here: a restart of either is no reason to watch.
const ALONE_FOR: Duration = Duration::from_secs(120);

/// What the rules need to know of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub sources: Vec<SourceSettings>,
    pub on_coordinator_lost: OnLost,
}

/// One camera of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    pub name: String,
    pub watch_in: Vec<ArmState>,
}

/// What a disarmed camera does without a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLost {
    ArmAfter {
        after: Duration,
        state: ArmState,
    },
    /// Until the lease ends.
    Hold,
}

/// What must survive a restart, written before anything is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryV1 {
    /// The greatest state ever applied, with its signature.
    pub held: Option<SignedStateV1>,
    /// Milliseconds of disarm left; a reboot never renews it. 0 while armed.
    pub lease_left: u64,
    /// Milliseconds for which the coordinator has been gone while disarmed.
    pub lost_for: u64,
    /// [`ArmState::to_wire`] of what this camera raised itself to; 0: nothing. Ended only by a live coordinator.
    pub raised: u8,
    /// A person stopped the detectors here by hand until then: (until by trusted time, milliseconds left).
    pub paused: Option<(Timestamp, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// At least once a second.
    Tick,
    /// The link to a coordinator is up.
    LinkUp,
    LinkDown,
    /// A state whose signature and signer were verified. `live`: it came over a live link with a coordinator, whose time is `time`.
    State {
        signed: SignedStateV1,
        state: StateV1,
        live: bool,
        time: Timestamp,
    },
    /// A state that could not be read or verified although a coordinator's live link brought it.
    Unreadable {
        why: String,
    },
    /// What became of a [`Effect::Save`]. One that succeeded need only be told while [`Camera::owes_save`].
    Saved(Result<(), String>),
    /// A person at this machine (root) stops the detectors for a while, or (`None`) ends that.
    Pause(Option<Duration>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write it before any effect that follows. If that fails while [`Camera::effective`] is disarmed, none of those that follow holds;
    /// either way the rules are told.
    Save(Box<MemoryV1>),
    /// What each source is to do now; repeated freely, the detector compares.
    Watch {
        source: String,
        on: bool,
    },
    /// Tell the coordinator what was applied.
    Ack(AckV1),
    Alert {
        key: String,
        text: String,
    },
}

/// The camera's rules. Pure: the same inputs give the same effects.
#[derive(Debug)]
pub struct Camera {
    settings: Settings,
    memory: MemoryV1,
    /// `memory.held`, read.
    state: Option<StateV1>,
    linked: bool,
    /// Over this link a coordinator said that what we hold is what holds.
    confirmed: bool,
    last: Mono,
    saved: MemoryV1,
    saved_at: Mono,
    /// The last save failed, so what is on the disk is something older.
    owed: bool,
    /// What each source was told last.
    told: Vec<SourceAckV1>,
}

impl Camera {
    /// `memory`: what was saved last with the decoded `held` state, `None` for a node that was never told a state (which is armed), or
    /// whose memory could not be read (`corrupt`, which is armed and an alert). The effects must be carried out before the first input.
    pub fn start(settings: Settings, memory: Option<(MemoryV1, Option<StateV1>)>, corrupt: bool, now: Now) -> (Self, Vec<Effect>) {
        let (memory, state) = memory.unwrap_or_else(|| (MemoryV1::blank(), None));
        let mut camera = Self {
            settings,
            saved: memory.clone(),
            memory,
            state,
            linked: false,
            confirmed: false,
            last: now.mono,
            saved_at: now.mono,
            owed: false,
            told: Vec::new(),
        };
        let mut alerts = Vec::new();
        if corrupt || camera.memory.held.is_some() != camera.state.is_some() {
            camera.memory.held = None;
            camera.state = None;
            let text = "what this camera remembered of the house cannot be read: it stays armed until a coordinator tells it the state";
            alerts.extend(camera.raise(ArmState::Away, "memory", text.to_owned()));
        }
        camera.charge_for_restart(now);
        alerts.extend(camera.settle(now));
        // The charge too, or the next crash would be free.
        let mut effects = camera.save(camera.memory != camera.saved, now.mono);
        effects.extend(camera.effects(None, alerts, now.mono));
        (camera, effects)
    }

    /// What `input` leads to, to be carried out in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        self.pass(now.mono);
        let mut alerts = Vec::new();
        let mut answer = None;
        match input {
            Input::Tick => {}
            Input::LinkUp => (self.linked, self.confirmed) = (true, false),
            Input::LinkDown => (self.linked, self.confirmed) = (false, false),
            Input::State { signed, state, live: true, time } => {
                let (said, alert) = self.told_live(signed, state, time);
                answer = Some(said);
                alerts.extend(alert);
            }
            Input::State { signed, state, live: false, .. } => self.handed_on(signed, state),
            Input::Unreadable { why } => {
                answer = Some(Answer::Held);
                let text = format!("a state came that cannot be read ({why}): this camera armed itself");
                alerts.extend(self.raise(ArmState::Away, "unreadable", text));
            }
            Input::Saved(result) => {
                let before = self.memory.raised;
                alerts.extend(self.was_saved(result));
                // What was said of it before may not have got out.
                answer = (self.memory.raised != before).then_some(Answer::Applied);
            }
            Input::Pause(time) => alerts.extend(self.pause(time, now)),
        }
        alerts.extend(self.settle(now));
        self.effects(answer, alerts, now.mono)
    }

    /// What this node obeys now: the applied state, or a stronger one of its own.
    pub fn effective(&self) -> ArmState {
        let applied = self.state.as_ref().map_or(ArmState::Away, StateV1::arm_state);
        self.raised().map_or(applied, |raised| applied.max(raised))
    }

    /// What it raised itself to, if it did.
    pub fn raised(&self) -> Option<ArmState> {
        (self.memory.raised != 0).then(|| ArmState::from_wire(self.memory.raised))
    }

    /// How much longer the detectors are stopped by hand.
    pub fn paused(&self) -> Option<Duration> {
        self.memory.paused.map(|(_, left)| Duration::from_millis(left))
    }

    /// What holds is not on the disk: a restart would find something older.
    pub fn owes_save(&self) -> bool {
        self.owed
    }

    /// The state that it holds, whatever it obeys.
    pub fn state(&self) -> Option<&StateV1> {
        self.state.as_ref()
    }

    /// A coordinator speaks on a live link. Only a greater state is applied; the same one confirms what we hold.
    fn told_live(&mut self, signed: SignedStateV1, state: StateV1, time: Timestamp) -> (Answer, Option<Effect>) {
        if let Some(held) = &self.state {
            match state.version().cmp(&held.version()) {
                Ordering::Less => return (Answer::Held, None),
                Ordering::Equal if state != *held => {
                    let text = "two different states bear the same number: this camera armed itself".to_owned();
                    return (Answer::Held, self.raise(ArmState::Away, "conflict", text));
                }
                Ordering::Equal | Ordering::Greater => {}
            }
        }
        let lease = state.until.map_or(Duration::ZERO, |until| until.since(time).min(LEASE));
        self.memory.lease_left = if state.arm_state() == ArmState::Disarmed { millis(lease) } else { 0 };
        let unknown = state.arm_state().to_wire() != state.state;
        let alert = (unknown && self.state.as_ref() != Some(&state)).then(|| Effect::Alert {
            key: "unknown-state".to_owned(),
            text: "the coordinator named a state that this version does not know: this camera takes it for armed (away)".to_owned(),
        });
        self.memory.held = Some(signed);
        self.memory.raised = 0;
        self.memory.lost_for = 0;
        self.state = Some(state);
        self.confirmed = self.linked;
        (Answer::Applied, alert)
    }

    /// A state that did not come from a coordinator itself may arm, and neither lowers nor ends anything.
    fn handed_on(&mut self, signed: SignedStateV1, state: StateV1) {
        let newer = self.state.as_ref().is_none_or(|held| state.version() > held.version());
        if newer && state.arm_state().is_armed() && state.arm_state() >= self.effective() {
            self.memory.held = Some(signed);
            self.memory.lease_left = 0;
            self.state = Some(state);
        }
    }

    /// A disk that is full or gone must not keep a camera from arming, and a disarm that a restart would not know of is none.
    fn was_saved(&mut self, result: Result<(), String>) -> Option<Effect> {
        let Err(why) = result else {
            self.owed = false;
            return None;
        };
        let news = !std::mem::replace(&mut self.owed, true);
        let text = format!("what holds cannot be kept on the disk of this camera ({why}): it stays armed and tries again");
        let raised = if self.effective().is_armed() { None } else { self.raise(ArmState::Away, "disk", text.clone()) };
        raised.or_else(|| news.then(|| Effect::Alert { key: "disk".to_owned(), text }))
    }

    fn pause(&mut self, time: Option<Duration>, now: Now) -> Option<Effect> {
        let time = time.filter(|time| !time.is_zero()).map(|time| time.min(PAUSE_LIMIT));
        self.memory.paused = time.map(|time| (now.at + time, millis(time)));
        let text = format!("the detectors of this camera are stopped by hand for {}", duration_words(time?));
        Some(Effect::Alert { key: "paused".to_owned(), text })
    }

    /// Time passed: deducted from what ends by itself.
    fn pass(&mut self, mono: Mono) {
        let elapsed = millis(mono.since(self.last));
        self.last = self.last.max(mono);
        if self.disarmed() {
            self.memory.lease_left = self.memory.lease_left.saturating_sub(elapsed);
            if !self.confirmed {
                self.memory.lost_for = self.memory.lost_for.saturating_add(elapsed);
            }
        }
        if let Some((_, left)) = &mut self.memory.paused {
            *left = left.saturating_sub(elapsed);
        }
    }

    /// What may not have been saved before the restart is taken as passed: a node that crashes every half minute must not stretch a disarm.
    /// How long it was off is not known, unless the clock tells that it was longer.
    fn charge_for_restart(&mut self, now: Now) {
        if self.disarmed() {
            let by_clock = self.state.as_ref().and_then(|state| state.until).map_or(0, |until| millis(until.since(now.at)));
            let by_memory = self.memory.lease_left.saturating_sub(millis(SAVE_EVERY)).min(millis(LEASE));
            self.memory.lease_left = if now.trusted { by_memory.min(by_clock) } else { by_memory };
            self.memory.lost_for = self.memory.lost_for.saturating_add(millis(SAVE_EVERY_LOST));
        }
        if let Some((until, left)) = &mut self.memory.paused {
            *left = left.saturating_sub(millis(SAVE_EVERY)).min(millis(PAUSE_LIMIT));
            *until = (*until).min(now.at + PAUSE_LIMIT);
        }
    }

    /// Ends what time has ended.
    fn settle(&mut self, now: Now) -> Vec<Effect> {
        let mut alerts = Vec::new();
        if self.disarmed() && self.memory.lease_left == 0 {
            let text = "the disarm ran out and no coordinator renewed it: this camera armed itself".to_owned();
            alerts.extend(self.raise(ArmState::Away, "raised", text));
        }
        if let OnLost::ArmAfter { after, state } = self.settings.on_coordinator_lost
            && self.disarmed()
            && self.memory.lost_for >= millis(after)
            && !self.confirmed
        {
            let text = format!("no coordinator for {}: this camera armed itself", duration_words(after));
            // A state that does not arm is no answer to a lost coordinator.
            let state = if state.is_armed() { state } else { ArmState::Away };
            alerts.extend(self.raise(state, "raised", text));
        }
        if self.disarmed()
            && !self.confirmed
            && self.memory.lost_for >= millis(ALONE_FOR)
            && let Some(window) = self.window(now)
        {
            let text = "no coordinator, and a window of the house began: this camera armed itself".to_owned();
            alerts.extend(self.raise(window, "raised", text));
        }
        self.memory.paused.take_if(|(until, left)| *left == 0 || *until <= now.at);
        alerts
    }

    /// What a window asks for that arms, by a clock that is right.
    fn window(&self, now: Now) -> Option<ArmState> {
        let state = self.state.as_ref().filter(|_| now.trusted)?;
        let windows = Windows::new(state.windows.clone(), &state.zone)?;
        windows.at(now.at).map(|span| span.state).filter(|state| state.is_armed())
    }

    /// Told if it makes a difference.
    fn raise(&mut self, to: ArmState, key: &str, text: String) -> Option<Effect> {
        let before = self.raised();
        let raised = before.map_or(to, |before| before.max(to));
        self.memory.raised = raised.to_wire();
        (before != Some(raised)).then(|| Effect::Alert { key: key.to_owned(), text })
    }

    /// A disarm holds that can still end: there is nothing left to raise once it is Away.
    fn disarmed(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.arm_state() == ArmState::Disarmed) && self.raised() != Some(ArmState::Away)
    }

    /// Save, then act, then answer.
    fn effects(&mut self, answer: Option<Answer>, alerts: Vec<Effect>, mono: Mono) -> Vec<Effect> {
        let mut effects = self.save(self.must_save(mono), mono);
        let told = self.orders();
        if answer.is_some() || told != self.told {
            effects.extend(told.iter().map(|order| Effect::Watch { source: order.source.clone(), on: order.watch }));
            let held = if answer == Some(Answer::Held) { self.memory.held.clone() } else { None };
            let (epoch, rev) = self.state.as_ref().map_or((0, 0), StateV1::version);
            effects.push(Effect::Ack(AckV1 { epoch, rev, sources: told.clone(), held }));
            self.told = told;
        }
        effects.extend(alerts);
        effects
    }

    fn save(&mut self, needed: bool, mono: Mono) -> Vec<Effect> {
        if !needed {
            return Vec::new();
        }
        self.saved = self.memory.clone();
        self.saved_at = mono;
        vec![Effect::Save(Box::new(self.memory.clone()))]
    }

    fn orders(&self) -> Vec<SourceAckV1> {
        let effective = self.effective();
        let order = |source: &SourceSettings| SourceAckV1 {
            source: source.name.clone(),
            effective: effective.to_wire(),
            watch: source.watch_in.contains(&effective) && self.memory.paused.is_none(),
        };
        self.settings.sources.iter().map(order).collect()
    }

    fn must_save(&self, mono: Mono) -> bool {
        // Arming goes on without a disk; a disarm is not to be obeyed before it is on it, and one that is told again is on it no more than before.
        if self.owed {
            return !self.effective().is_armed() || mono.since(self.saved_at) >= SAVE_AGAIN;
        }
        if self.memory == self.saved {
            return false;
        }
        // Time that passes alone is saved now and then. A lease that grew is news, and so is one that became shorter than a restart takes off it:
        // the coordinator's clock was set ahead.
        let (new, old) = (&self.memory, &self.saved);
        let only_time = new.lease_left <= old.lease_left
            && old.lease_left - new.lease_left <= millis(SAVE_EVERY)
            && new.lost_for >= old.lost_for
            && new.raised == old.raised
            && new.paused.map(|(until, _)| until) == old.paused.map(|(until, _)| until)
            && new.held == old.held;
        let every = if self.disarmed() && !self.confirmed { SAVE_EVERY_LOST } else { SAVE_EVERY };
        !only_time || mono.since(self.saved_at) >= every
    }
}

/// What is said to a state that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Applied,
    /// It was not applied; this is what we hold.
    Held,
}

impl MemoryV1 {
    /// Of a node that was never told a state.
    fn blank() -> Self {
        Self { held: None, lease_left: 0, lost_for: 0, raised: 0, paused: None }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
