//! What the house decides: a person's override first, then presence; every new state gets the next number and, if disarmed, a lease.

use std::time::Duration;

use super::{Command, Decision, Effect, LEASE, MemoryV1, Settings};
use crate::arming::{ArmState, Override, Window, decide, follow_presence};
use crate::presence::{Presence, PresenceTracker};
use crate::protocol::message::StateV1;
use crate::roster::without_name;
use crate::time::{Mono, Now, Timestamp, duration_words};
use crate::windows::Span;

/// What is left of a timed override is saved so often.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// A disarm lasts this much longer than the override that asks for it, so that no camera starts in the moment before the next state comes.
const HAND_OVER: Duration = Duration::from_secs(10);
/// In milliseconds.
const MINUTE: u64 = 60_000;
/// A lease that is off by less than this is not worth a new state.
const LEASE_SLACK: Duration = Duration::from_secs(60);

/// Why a state holds: for this machine, and without names for all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    named: String,
    anonymous: String,
}

/// What was decided, and what it was decided from.
#[derive(Debug)]
pub(super) struct House {
    pub(super) memory: MemoryV1,
    pub(super) tracker: PresenceTracker,
    /// As it was at the last look.
    pub(super) presence: Presence,
    /// When the newest state was published.
    pub(super) published: Mono,
    saved: MemoryV1,
    saved_at: Mono,
    last: Mono,
    /// Of the exit delay.
    pending_left: Duration,
    /// Of the disarm that holds, by a clock that nobody can set.
    lease_left: Duration,
    /// The window in force in this minute since 1970: they begin and end with minutes.
    window: Option<(u64, Option<Span>)>,
}

impl House {
    pub(super) fn start(settings: &Settings, memory: Option<MemoryV1>, now: Now) -> (Self, Vec<Effect>) {
        let new = memory.is_none();
        let memory = memory.unwrap_or_else(|| newborn(settings, now));
        let people = if settings.presence_enabled { settings.people.clone() } else { Vec::new() };
        let mut house = Self {
            tracker: PresenceTracker::new(people, now.mono),
            presence: Presence::Unknown,
            published: now.mono,
            saved: memory.clone(),
            saved_at: now.mono,
            last: now.mono,
            pending_left: memory.pending.as_ref().map_or(Duration::ZERO, |(_, when)| when.since(now.at).min(settings.exit_delay)),
            lease_left: memory.state.until.map_or(Duration::ZERO, |until| until.since(now.at).min(LEASE)),
            window: None,
            memory,
        };
        // What was not saved of a disarm's time is over: a machine that crashes every half minute must not stretch it.
        if let Some(Override { state: ArmState::Disarmed, left: Some(left), .. }) = &mut house.memory.over {
            *left = left.saturating_sub(millis(SAVE_EVERY));
        }
        let settled = house.settle(settings, None, now);
        let published = settled.iter().any(|effect| matches!(effect, Effect::Publish { .. }));
        let mut effects = settled;
        if !published {
            let decision = new.then(|| house.decision(settings, now));
            effects = vec![Effect::Publish { memory: Box::new(house.memory.clone()), decision }];
        }
        (house, effects)
    }

    /// Time passed: deducted from all that ends by itself.
    pub(super) fn pass(&mut self, mono: Mono) {
        let elapsed = mono.since(self.last);
        self.last = self.last.max(mono);
        self.lease_left = self.lease_left.saturating_sub(elapsed);
        self.pending_left = self.pending_left.saturating_sub(elapsed);
        let pending = self.memory.pending.as_mut().map(|(over, _)| over);
        for left in self.memory.over.iter_mut().chain(pending).filter_map(|over| over.left.as_mut()) {
            *left = left.saturating_sub(millis(elapsed));
        }
    }

    /// The probes that are due.
    pub(super) fn ask(&mut self, settings: &Settings, mono: Mono) -> Vec<Effect> {
        if !settings.presence_enabled {
            return Vec::new();
        }
        self.tracker.tick(mono).into_iter().map(Effect::Probe).collect()
    }

    /// A person decides. The reason is given if an override began or ended with it.
    pub(super) fn command(&mut self, settings: &Settings, command: Command, by: String, now: Now) -> Option<Reason> {
        command.check(now).ok()?;
        match command {
            Command::Arm { state, until, now: at_once, stays } => {
                let over = self.chosen(state, until, stays, by, now);
                let delayed =
                    state == ArmState::Away && !at_once && self.memory.state.arm_state() < state && !settings.exit_delay.is_zero();
                if delayed {
                    // Asked again, it comes no later.
                    let earlier = self.memory.pending.take().map(|(_, when)| when);
                    if earlier.is_none() {
                        self.pending_left = settings.exit_delay;
                    }
                    self.memory.pending = Some((over, earlier.unwrap_or(now.at + settings.exit_delay)));
                    return None;
                }
                Some(self.begin(settings, over))
            }
            Command::Disarm { until, stays } => {
                let over = self.chosen(ArmState::Disarmed, until, stays, by, now);
                Some(self.begin(settings, over))
            }
            Command::Auto => {
                self.memory.pending = None;
                self.memory.over.take()?;
                self.memory.restored = false;
                let now_says = self.now_says();
                Some(Reason { named: format!("automatic again ({by}): {now_says}"), anonymous: format!("automatic again: {now_says}") })
            }
        }
    }

    /// What holds stays; only the name goes, from its reason and from what was chosen, whose end would name him again. Saved with the next
    /// look at what must be.
    pub(super) fn forget(&mut self, person: &str) {
        self.memory.reason = without_name(&self.memory.reason, person);
        let pending = self.memory.pending.as_mut().map(|(over, _)| over);
        for over in self.memory.over.iter_mut().chain(pending) {
            over.by = without_name(&over.by, person);
        }
    }

    /// A camera holds a state that we signed. If it is not older than ours and not ours, then we forgot something: our numbers go past it,
    /// and the house is armed, since what we forgot may have been an arming.
    pub(super) fn held(&mut self, held: &StateV1) -> Option<Reason> {
        let mine = &mut self.memory.state;
        if held.mesh != mine.mesh
            || held.version() < mine.version()
            || held == mine
            || (exhausted(mine) && mine.arm_state() == ArmState::Away)
        {
            return None;
        }
        mine.rev = mine.rev.max(held.rev);
        mine.epoch = held.epoch.saturating_add(1);
        self.memory.pending = None;
        self.memory.restored = true;
        self.memory.over = Some(Override {
            state: ArmState::Away,
            until: None,
            left: None,
            by: "the coordinator itself".to_owned(),
            was_away: self.presence == Presence::Away,
            was_home: self.presence == Presence::Home,
            ends_by_presence: true,
        });
        Some(Reason::plain("armed to be safe: the coordinator had forgotten newer states (was a backup restored?)"))
    }

    /// Looks at presence and time, decides, and says what is to be saved or published. `cause`: an override began or ended.
    pub(super) fn settle(&mut self, settings: &Settings, cause: Option<Reason>, now: Now) -> Vec<Effect> {
        let mut overridden = cause.is_some();
        let by_person = overridden;
        let mut reason = cause;
        let was_armed = self.memory.state.arm_state().is_armed();
        let news = self.look(settings, now);
        let came_home = news.is_some() && self.presence == Presence::Home;
        if now.trusted {
            self.window = Some((now.at.0 / MINUTE, self.window(settings, now)));
        }
        let window = self.by_window(settings, now);
        let asked = window.map_or(0, ArmState::to_wire);
        let began = std::mem::replace(&mut self.memory.by_window, asked) != asked;
        if let Some((over, _)) = self.memory.pending.take_if(|(_, when)| self.pending_left.is_zero() || *when <= now.at) {
            reason = Some(self.begin(settings, Override { was_away: false, was_home: false, ..over }));
            overridden = true;
            self.mark_override();
        }
        if let Some(over) = self.memory.over.take_if(|over| ended(over, self.presence, now)) {
            self.memory.restored = false;
            reason = Some(self.end_of(&over, news.as_ref(), now));
            overridden = true;
        }
        let before = ArmState::from_wire(self.memory.by_presence);
        let (by_presence, why) = self.by_presence(settings, before, now);
        self.memory.by_presence = by_presence.to_wire();
        let over = self.memory.over.as_ref().map(|over| over.state);
        // Presence has been followed already.
        let state = decide(over, window.map(Window::of), Presence::Unknown, by_presence, true);
        let state = if exhausted(&self.memory.state) { ArmState::Away } else { state };

        if overridden || state.to_wire() != self.memory.state.state {
            let reason = reason.or(why).or(news).or_else(|| began.then(|| self.window_says(window)));
            let reason = reason.unwrap_or_else(|| Reason::plain(self.now_says()));
            let mut effects = vec![self.publish(settings, state, Some(reason), now)];
            if came_home && !by_person && was_armed && self.memory.state.arm_state() == ArmState::Disarmed {
                effects.push(Effect::Arrived);
            }
            effects
        } else if self.are_windows_new(settings) || state == ArmState::Disarmed && self.lease_is_due(settings, now) {
            vec![self.publish(settings, state, None, now)]
        } else if self.must_save(now.mono) {
            self.saved = self.memory.clone();
            self.saved_at = now.mono;
            vec![Effect::Save { memory: Box::new(self.memory.clone()) }]
        } else {
            Vec::new()
        }
    }

    /// The window in force. A clock that nobody vouches for knows of none.
    pub(super) fn window(&self, settings: &Settings, now: Now) -> Option<Span> {
        let known = self.window.filter(|(minute, _)| *minute == now.at.0 / MINUTE);
        known.map_or_else(|| settings.windows.at(now.at), |(_, span)| span).filter(|_| now.trusted)
    }

    /// Whether the numbers of states are used up, which keeps the house armed for good.
    pub(super) fn exhausted(&self) -> bool {
        exhausted(&self.memory.state)
    }

    /// Whether somebody is home and presence may not disarm what nobody chose.
    pub(super) fn waits_for_a_person(&self) -> bool {
        self.presence == Presence::Home && self.memory.over.is_none() && self.memory.state.arm_state().is_armed() && !self.exhausted()
    }

    fn chosen(&self, state: ArmState, until: Option<Timestamp>, stays: bool, by: String, now: Now) -> Override {
        Override {
            state,
            until,
            left: until.map(|until| millis(until.since(now.at))),
            by,
            was_away: self.presence == Presence::Away,
            was_home: self.presence == Presence::Home,
            ends_by_presence: !stays && state != ArmState::Night,
        }
    }

    fn begin(&mut self, settings: &Settings, over: Override) -> Reason {
        let verb = match (over.state, over.ends_by_presence) {
            (ArmState::Disarmed, true) => "disarmed",
            (ArmState::Disarmed, false) => "disarmed for guests",
            (ArmState::Night, _) => "armed for the night",
            (ArmState::Away, true) => "armed",
            (ArmState::Away, false) => "armed for a vacation",
        };
        let time = over.left.map(|left| format!(" for {}", duration_words(Duration::from_millis(left)))).unwrap_or_default();
        let reason = Reason { named: format!("{verb} by {}{time}", over.by), anonymous: format!("{verb} by hand{time}") };
        if !settings.presence_enabled && over.until.is_none() {
            // Where nobody looks who is home, this is what a later timed choice returns to.
            self.memory.by_presence = over.state.to_wire();
        }
        self.memory.over = Some(over);
        self.memory.pending = None;
        self.memory.restored = false;
        reason
    }

    /// Presence as it is now. If it became Home or Away: in words.
    fn look(&mut self, settings: &Settings, now: Now) -> Option<Reason> {
        if !settings.presence_enabled {
            return None;
        }
        let changes = self.tracker.changes(now.mono);
        let before = std::mem::replace(&mut self.presence, self.tracker.presence(now.mono));
        self.mark_override();
        if before == self.presence {
            return None;
        }
        match self.presence {
            Presence::Unknown => None,
            Presence::Away if before == Presence::Home => Some(Reason::plain("everybody left")),
            Presence::Away => Some(Reason::plain("nobody is home")),
            Presence::Home => {
                let names: Vec<&str> =
                    changes.iter().filter(|change| change.now == Presence::Home).map(|change| change.name.as_str()).collect();
                let (one, many) = if before == Presence::Away { ("came home", "came home") } else { ("is home", "are home") };
                let who = if names.is_empty() { "somebody".to_owned() } else { names.join(" and ") };
                let does = if names.len() > 1 { many } else { one };
                Some(Reason { named: format!("{who} {does}"), anonymous: format!("somebody {one}") })
            }
        }
    }

    fn mark_override(&mut self) {
        if let Some(over) = &mut self.memory.over {
            over.was_away |= self.presence == Presence::Away;
            over.was_home |= self.presence == Presence::Home;
        }
    }

    /// The presence part of the decision, and why it changed if presence itself does not say.
    fn by_presence(&self, settings: &Settings, before: ArmState, now: Now) -> (ArmState, Option<Reason>) {
        let may_disarm = match before {
            ArmState::Disarmed => true,
            ArmState::Night => settings.may_disarm_night,
            ArmState::Away => settings.may_disarm_away,
        };
        let followed = follow_presence(self.presence, before, may_disarm);
        if !settings.presence_enabled || self.presence != Presence::Unknown || followed != ArmState::Disarmed {
            return (followed, None);
        }
        let blind_for = self.tracker.blindness(now.mono).map(|(_, blind_for)| blind_for);
        if let (Some(limit), Some(blind_for)) = (settings.arm_when_blind_after, blind_for)
            && blind_for >= limit
        {
            let words = duration_words(blind_for);
            return (ArmState::Away, Some(Reason::plain(format!("armed to be safe: it could not be seen who is home for {words}"))));
        }
        if self.memory.over.is_none() && self.memory.state.arm_state() == ArmState::Disarmed && self.lease_left.is_zero() {
            return (ArmState::Away, Some(Reason::plain("the disarm ran out before anybody was seen at home")));
        }
        (followed, None)
    }

    /// What windows ask for. While nobody vouches for the clock none begins, and none that arms ends: a restart at night is no morning.
    fn by_window(&self, settings: &Settings, now: Now) -> Option<ArmState> {
        if now.trusted {
            return self.window(settings, now).map(|span| span.state);
        }
        let remembered = (self.memory.by_window != 0).then(|| ArmState::from_wire(self.memory.by_window));
        remembered.filter(|state| state.is_armed())
    }

    fn window_says(&self, window: Option<ArmState>) -> Reason {
        Reason::plain(match window {
            Some(ArmState::Night) => "the window for the night began".to_owned(),
            Some(ArmState::Away) => "a window for away began".to_owned(),
            Some(ArmState::Disarmed) => "a window without watch began".to_owned(),
            None => format!("the window is over: {}", self.now_says()),
        })
    }

    /// Cameras have other windows than the config says now.
    fn are_windows_new(&self, settings: &Settings) -> bool {
        let state = &self.memory.state;
        state.windows != settings.windows.rows() || state.zone != settings.windows.zone()
    }

    fn end_of(&self, over: &Override, news: Option<&Reason>, now: Now) -> Reason {
        if time_is_up(over, now) {
            let now_says = self.now_says();
            return Reason {
                named: format!("the time chosen by {} is over: {now_says}", over.by),
                anonymous: format!("the chosen time is over: {now_says}"),
            };
        }
        news.cloned().unwrap_or_else(|| Reason::plain(self.now_says()))
    }

    /// What decides where no person does.
    fn now_says(&self) -> &'static str {
        let window = (self.memory.by_window != 0).then(|| ArmState::from_wire(self.memory.by_window));
        match (window, self.presence) {
            (Some(ArmState::Disarmed), _) => "a window without watch",
            (Some(ArmState::Away), _) => "a window for away",
            (Some(ArmState::Night), Presence::Home | Presence::Unknown) => "a window for the night",
            (_, Presence::Home) => "somebody is home",
            (_, Presence::Away) => "nobody is home",
            (None, Presence::Unknown) => "as it was, since it is not known who is home",
        }
    }

    /// `reason`: a decision, which is logged; `None`: the same disarm for longer.
    fn publish(&mut self, settings: &Settings, state: ArmState, reason: Option<Reason>, now: Now) -> Effect {
        let next = &mut self.memory.state;
        let grown = match (next.rev.checked_add(1), next.epoch.checked_add(1)) {
            (Some(rev), _) => Some((next.epoch, rev)),
            (None, Some(epoch)) => Some((epoch, 0)),
            (None, None) => None,
        };
        // Without a greater number only Away is left to be said: equal number and other content arm every camera.
        (next.epoch, next.rev) = grown.unwrap_or(next.version());
        // So the last number is never that of a disarm: who held it could not be told of an arming by a greater one.
        let state = if exhausted(next) { ArmState::Away } else { state };
        if next.arm_state() != state {
            next.since = now.at;
        }
        next.state = state.to_wire();
        next.mesh = settings.mesh;
        next.windows = settings.windows.rows().to_vec();
        settings.windows.zone().clone_into(&mut next.zone);
        let decided = reason.is_some();
        if let Some(reason) = reason {
            next.reason = reason.anonymous;
            self.memory.reason = reason.named;
        }
        // What rests on somebody at home is renewed only while somebody is known to be there.
        let lease = if decided || self.is_renewable(settings, now) { LEASE } else { self.lease_left };
        self.memory.state.until = self.until(settings, lease, now);
        self.lease_left = self.memory.state.until.map_or(Duration::ZERO, |until| until.since(now.at));
        self.published = now.mono;
        self.saved = self.memory.clone();
        self.saved_at = now.mono;
        let decision = decided.then(|| self.decision(settings, now));
        Effect::Publish { memory: Box::new(self.memory.clone()), decision }
    }

    /// Whether the disarm that holds may last longer: it is a person's choice, or somebody is home, or nobody can look, which people were told.
    /// Else a coordinator that is restarted all the time, or that never finds out about one person, would keep an empty house disarmed.
    fn is_renewable(&self, settings: &Settings, now: Now) -> bool {
        self.memory.over.is_some()
            || !settings.presence_enabled
            || self.memory.by_window == ArmState::Disarmed.to_wire()
            || self.presence != Presence::Unknown
            || self.tracker.blindness(now.mono).is_some()
    }

    /// When the state that holds ends by itself.
    fn until(&self, settings: &Settings, lease: Duration, now: Now) -> Option<Timestamp> {
        let over = self.memory.over.as_ref();
        if self.memory.state.arm_state().is_armed() {
            return over.and_then(|over| over.until);
        }
        let lease = now.at + lease;
        let by_clock = over.and_then(|over| over.until).map(|until| until + HAND_OVER);
        let by_stopwatch = over.and_then(|over| over.left).map(|left| now.at + Duration::from_millis(left) + HAND_OVER);
        let by_window =
            self.window(settings, now).filter(|span| over.is_none() && !span.state.is_armed()).map(|span| span.until + HAND_OVER);
        Some([by_clock, by_stopwatch, by_window].into_iter().flatten().fold(lease, Ord::min))
    }

    fn lease_is_due(&self, settings: &Settings, now: Now) -> bool {
        let Some(until) = self.memory.state.until else { return true };
        let left = until.since(now.at);
        if !self.is_renewable(settings, now) {
            // The clock was set: told anew, it ends when it would have ended.
            return left.abs_diff(self.lease_left) > LEASE_SLACK;
        }
        let half = LEASE / 2;
        let longer = self.until(settings, LEASE, now).is_some_and(|next| next > until + LEASE_SLACK);
        // Longer than a lease can be: the clock was set back.
        left > LEASE + LEASE_SLACK || (longer && left.min(self.lease_left) < half)
    }

    fn must_save(&self, mono: Mono) -> bool {
        let left = |memory: &MemoryV1| {
            let pending = memory.pending.as_ref().map(|(over, _)| over);
            [memory.over.as_ref().and_then(|over| over.left), pending.and_then(|over| over.left)]
        };
        let (now, then) = (left(&self.memory), left(&self.saved));
        if now == then {
            return self.memory != self.saved;
        }
        let mut timeless = self.memory.clone();
        if let (Some(over), Some(saved)) = (&mut timeless.over, &self.saved.over) {
            over.left = saved.left;
        }
        if let (Some((over, _)), Some((saved, _))) = (&mut timeless.pending, &self.saved.pending) {
            over.left = saved.left;
        }
        timeless != self.saved || mono.since(self.saved_at) >= SAVE_EVERY
    }

    fn decision(&self, settings: &Settings, now: Now) -> Decision {
        let state = &self.memory.state;
        Decision {
            at: now.at,
            epoch: state.epoch,
            rev: state.rev,
            state: state.arm_state(),
            reason: self.memory.reason.clone(),
            evidence: if settings.presence_enabled { self.tracker.person_views(now.mono) } else { Vec::new() },
        }
    }
}

impl Reason {
    fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { named: text.clone(), anonymous: text }
    }
}

fn newborn(settings: &Settings, now: Now) -> MemoryV1 {
    let reason = "just set up: it is not known yet who is home".to_owned();
    MemoryV1 {
        state: StateV1 {
            mesh: settings.mesh,
            epoch: 0,
            rev: 1,
            state: ArmState::Away.to_wire(),
            reason: reason.clone(),
            since: now.at,
            until: None,
            windows: settings.windows.rows().to_vec(),
            zone: settings.windows.zone().to_owned(),
        },
        reason,
        over: None,
        pending: None,
        by_presence: ArmState::Away.to_wire(),
        restored: false,
        by_window: 0,
    }
}

fn exhausted(state: &StateV1) -> bool {
    state.version() == (u32::MAX, u64::MAX)
}

fn ended(over: &Override, presence: Presence, now: Now) -> bool {
    let by_people = match over.state {
        ArmState::Disarmed => over.was_home && presence == Presence::Away,
        ArmState::Night | ArmState::Away => over.was_away && presence == Presence::Home,
    };
    over.ends_by_presence && by_people || time_is_up(over, now)
}

/// An arming ends late rather than early, a disarm early rather than late: the clock on the wall may be wrong, the stopwatch may have stood still
/// while the machine was off.
fn time_is_up(over: &Override, now: Now) -> bool {
    let Some(until) = over.until else { return false };
    let by_clock = now.at >= until;
    let by_stopwatch = over.left.unwrap_or(0) == 0;
    if over.state.is_armed() { by_stopwatch && (by_clock || !now.trusted) } else { by_stopwatch || by_clock }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
