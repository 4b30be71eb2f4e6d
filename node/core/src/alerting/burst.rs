//! Events on their way: they wait for a picture, have a mail of their own, or come into the digest of their camera.

use super::cap::millis;
use super::memory::{ClipMailV1, ClipV1, HOUSE, HeldV1, MailedV1, MemoryV2, ShownV1, WAITING, WaitingV1};
use super::{AlertPolicy, Digest, Effect, GRACE, HeldBack, Rule, SHOWN, Settings};
use crate::event::{Attachment, AttachmentKind, Event, EventKind};
use crate::time::{Now, Timestamp};

impl AlertPolicy {
    /// Whether anything changed.
    pub(super) fn event(&mut self, event: &Event, minute: u16, effects: &mut Vec<Effect>) -> bool {
        let ran = self.memory.clock.ran;
        match event.kind {
            EventKind::Movement => self.movement(event, minute, effects),
            EventKind::Snapshot => false,
            EventKind::CameraLost => {
                let new = event.state.is_armed() && !self.memory.see(event.id);
                if new {
                    self.memory.faults.lost(&event.source, event.started, ran);
                }
                new
            }
            EventKind::CameraFound => self.memory.faults.found(&event.source, event.started),
        }
    }

    fn movement(&mut self, event: &Event, minute: u16, effects: &mut Vec<Effect>) -> bool {
        let memory = &mut self.memory;
        if let Some(known) = memory.known(event) {
            return known;
        }
        if !self.settings.rule(&event.source).tells(event.state, minute) || memory.see(event.id) | self.recent.see(event.id) {
            return false;
        }
        if memory.arrival.is_some_and(|(from, to)| (from..=to).contains(&event.started)) {
            effects.push(Effect::Arrived { events: vec![event.id] });
            return true;
        }
        let ran = memory.clock.ran;
        let waiting = WaitingV1::new(event, self.settings.hold_in.contains(&event.state), ran);
        if memory.waiting.len() < WAITING {
            memory.waiting.push(waiting);
        } else {
            let due = ran.saturating_add(millis(self.settings.hold.max(GRACE)));
            memory.place(&event.source).hold(waiting.shown, due);
        }
        true
    }

    /// Calls off what started within the time and was not told yet.
    pub(super) fn arrival(&mut self, from: Timestamp, to: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let memory = &mut self.memory;
        memory.arrival = Some((from, to));
        let mut events = Vec::new();
        let mut stays = |shown: &ShownV1| {
            let arrived = (from..=to).contains(&shown.started);
            if arrived {
                events.push(shown.event);
            }
            !arrived
        };
        memory.waiting.retain(|waiting| stays(&waiting.shown));
        memory.sources.iter_mut().for_each(|source| source.held.shown.retain(&mut stays));
        events.sort_unstable();
        if !events.is_empty() {
            effects.push(Effect::Arrived { events });
        }
        true
    }

    /// All that is to go out now. Faults first, then fresh pictures, then what waited, clips last.
    pub(super) fn tell(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.tell_faults(now, effects);
        self.tell_ready(now, effects);
        self.tell_what_was_capped(effects);
        self.tell_bursts(effects);
        self.tell_clips(effects);
        self.memory.tidy();
    }

    /// When the clock of the memory shows this, there is something to tell.
    pub(super) fn next_at(&self) -> Option<u64> {
        let memory = &self.memory;
        let free = memory.sent.free_at(self.settings.event_limit());
        let waiting = memory.waiting.iter().map(|waiting| waiting.ready_at(&self.settings));
        let held = memory.sources.iter().filter(|source| !source.held.is_empty()).filter_map(|source| match source.capped {
            true => free.map(|free| free.max(source.ready_at())),
            false => Some(source.ready_at()),
        });
        let clips = free.filter(|_| memory.mailed.iter().any(|mailed| matches!(mailed.clip, ClipMailV1::Waits(_))));
        let notices = memory.sent.free_at(self.settings.limit()).filter(|_| !memory.faults.queue.is_empty());
        waiting.chain(held).chain(clips).chain(notices).chain(memory.faults.next_at()).min()
    }

    fn tell_faults(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let memory = &mut self.memory;
        let dropped = std::mem::take(&mut memory.faults.dropped);
        memory.hold_back(0, dropped, now.at);
        while self.free(self.settings.limit()) {
            let memory = &mut self.memory;
            let Some(first) = memory.faults.queue.first() else { return };
            let to = self.settings.recipients(&first.source).to_vec();
            let queue = std::mem::take(&mut memory.faults.queue);
            let (told, later): (Vec<_>, Vec<_>) = queue.into_iter().partition(|queued| self.settings.recipients(&queued.source) == to);
            memory.faults.queue = later;
            let held_back = memory.sent(&self.settings, &to);
            effects.push(Effect::FaultMail { notices: told.into_iter().map(|queued| queued.notice).collect(), to, held_back });
        }
    }

    fn tell_ready(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let ran = self.memory.clock.ran;
        let waiting = std::mem::take(&mut self.memory.waiting);
        let (ready, wait): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| waiting.ready_at(&self.settings) <= ran);
        self.memory.waiting = wait;
        for WaitingV1 { source, shown, clip, .. } in ready {
            let free = self.free(self.settings.event_limit());
            let place = self.memory.place(&source);
            if place.source != source {
                let due = ran.saturating_add(millis(Rule::default().cooldown));
                place.hold(shown, due);
                place.capped |= !free;
            } else if place.quiet_until > ran {
                place.hold(shown, ran);
            } else if !free {
                place.hold(shown, ran);
                place.capped = true;
            } else {
                place.quiet_until = ran.saturating_add(millis(self.settings.rule(&source).cooldown));
                let to = self.settings.recipients(&source).to_vec();
                let held_back = self.memory.sent(&self.settings, &to);
                effects.push(Effect::EventMail { movement: shown.of(&source), to, held_back });
                let clip = clip.map_or(ClipMailV1::NotThere, ClipMailV1::Waits);
                let clips = self.memory.was_mailed(MailedV1 { event: shown.event, source, clip });
                self.memory.hold_back(clips, 0, now.at);
            }
        }
    }

    /// One digest for all cameras with the same recipients: mails are what is short.
    fn tell_what_was_capped(&mut self, effects: &mut Vec<Effect>) {
        while self.free(self.settings.event_limit()) {
            let (settings, memory) = (&self.settings, &mut self.memory);
            let ran = memory.clock.ran;
            let mut ready = memory.sources.iter_mut().filter(|source| source.capped && !source.held.is_empty() && source.ready_at() <= ran);
            let Some(first) = ready.next() else { return };
            let to = settings.recipients(&first.source).to_vec();
            let mut digest = Digest::new(to.clone(), true);
            for source in std::iter::once(first).chain(ready).filter(|source| settings.recipients(&source.source) == to) {
                source.quiet_until = ran.saturating_add(millis(settings.rule(&source.source).cooldown));
                let held = source.take();
                digest.add(&source.source, held);
            }
            digest.shorten();
            let others = memory.sent(settings, &to);
            digest.held_back = HeldBack::sum(digest.held_back, others);
            effects.push(Effect::Digest(digest));
        }
    }

    fn tell_bursts(&mut self, effects: &mut Vec<Effect>) {
        let ran = self.memory.clock.ran;
        for at in 0..self.memory.sources.len() {
            let free = self.free(self.settings.event_limit());
            let Some(source) = self.memory.sources.get_mut(at) else { return };
            if source.capped || source.held.is_empty() || source.ready_at() > ran {
                continue;
            }
            if !free {
                source.capped = true;
                continue;
            }
            source.quiet_until = ran.saturating_add(millis(self.settings.rule(&source.source).cooldown));
            let mut digest = Digest::new(self.settings.recipients(&source.source).to_vec(), false);
            let held = source.take();
            digest.add(&source.source, held);
            let others = self.memory.sent(&self.settings, &digest.to);
            digest.held_back = HeldBack::sum(digest.held_back, others);
            effects.push(Effect::Digest(digest));
        }
    }

    fn tell_clips(&mut self, effects: &mut Vec<Effect>) {
        for at in 0..self.memory.mailed.len() {
            let free = self.free(self.settings.event_limit());
            let Some(mailed) = self.memory.mailed.get_mut(at) else { return };
            let ClipMailV1::Waits(ClipV1 { hash, length }) = mailed.clip else { continue };
            if !free {
                return;
            }
            mailed.clip = ClipMailV1::Told;
            let (event, source) = (mailed.event, mailed.source.clone());
            let to = self.settings.recipients(&source).to_vec();
            let held_back = self.memory.sent(&self.settings, &to);
            effects.push(Effect::ClipMail { event, source, clip: hash, length, to, held_back });
        }
    }

    /// Whether one more mail makes no more than `limit` in any hour.
    fn free(&self, limit: usize) -> bool {
        self.memory.sent.free_at(limit).is_some_and(|at| at <= self.memory.clock.ran)
    }
}

impl MemoryV2 {
    /// Takes in what is new of an event that is on its way, and returns whether there was anything; `None`: it is not.
    fn known(&mut self, event: &Event) -> Option<bool> {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.shown.event == event.id) {
            return Some(waiting.update(event));
        }
        if let Some(shown) = self.sources.iter_mut().flat_map(|source| &mut source.held.shown).find(|shown| shown.event == event.id) {
            return Some(shown.update(event));
        }
        let mailed = self.mailed.iter_mut().find(|mailed| mailed.event == event.id)?;
        let clip = ClipV1::first(event).filter(|_| mailed.clip == ClipMailV1::NotThere);
        Some(clip.map(|clip| mailed.clip = ClipMailV1::Waits(clip)).is_some())
    }

    /// Notes that a mail goes out now, and takes out what it has to count: all that the cap held back and whose recipients it reaches.
    fn sent(&mut self, settings: &Settings, to: &[String]) -> Option<HeldBack> {
        self.sent.push(self.clock.ran);
        let told = |source: &str| settings.recipients(source).iter().all(|recipient| to.contains(recipient));
        let held = self.sources.iter_mut().filter(|source| source.capped && told(&source.source)).map(|source| source.take());
        held.fold(None, |sum, held| HeldBack::sum(sum, HeldBack::of(&held)))
    }

    /// Counts what nothing else remembers.
    fn hold_back(&mut self, clips: u32, faults: u32, at: Timestamp) {
        if (clips, faults) == (0, 0) {
            return;
        }
        let house = self.place(HOUSE);
        house.capped = true;
        house.held.around(at);
        house.held.clips = house.held.clips.saturating_add(clips);
        house.held.faults = house.held.faults.saturating_add(faults);
    }
}

impl Digest {
    fn new(to: Vec<String>, by_cap: bool) -> Self {
        Self { movements: Vec::new(), more: 0, first: Timestamp(u64::MAX), last: Timestamp(0), by_cap, to, held_back: None }
    }

    fn add(&mut self, source: &str, held: HeldV1) {
        (self.first, self.last) = (self.first.min(held.first), self.last.max(held.last));
        self.more = self.more.saturating_add(held.more);
        self.movements.extend(held.shown.iter().map(|shown| shown.of(source)));
        let beside = HeldV1 { shown: Vec::new(), more: 0, ..held };
        self.held_back = HeldBack::sum(self.held_back, HeldBack::of(&beside));
    }

    /// The rest is counted.
    fn shorten(&mut self) {
        self.movements.sort_by_key(|movement| movement.started);
        let rest = self.movements.len().saturating_sub(SHOWN);
        self.movements.truncate(SHOWN);
        self.more = self.more.saturating_add(u32::try_from(rest).unwrap_or(u32::MAX));
    }
}

impl HeldBack {
    fn of(held: &HeldV1) -> Option<Self> {
        let HeldV1 { clips, faults, first, .. } = *held;
        (!held.is_empty()).then(|| Self { events: held.events(), clips, faults, since: first })
    }

    fn sum(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
        Some(Self {
            events: one.events.saturating_add(other.events),
            clips: one.clips.saturating_add(other.clips),
            faults: one.faults.saturating_add(other.faults),
            since: one.since.min(other.since),
        })
    }
}

impl WaitingV1 {
    fn new(event: &Event, held: bool, seen: u64) -> Self {
        let shown = ShownV1 { event: event.id, started: event.started, changed: None, picture: None };
        let mut waiting = Self { source: event.source.clone(), shown, ended: false, clip: None, seen, held };
        waiting.update(event);
        waiting
    }

    /// A picture is told at once, and so is that there will be none; but nothing within the hold.
    fn ready_at(&self, settings: &Settings) -> u64 {
        let grace = if self.shown.picture.is_some() || self.ended { std::time::Duration::ZERO } else { GRACE };
        let hold = if self.held { settings.hold } else { std::time::Duration::ZERO };
        self.seen.saturating_add(millis(hold.max(grace)))
    }

    fn update(&mut self, event: &Event) -> bool {
        let before = self.clone();
        self.shown.update(event);
        self.ended |= event.ended.is_some();
        self.clip = self.clip.take().or_else(|| ClipV1::first(event));
        *self != before
    }
}

impl ShownV1 {
    fn update(&mut self, event: &Event) -> bool {
        let before = self.clone();
        self.changed = self.changed.max(event.changed);
        self.picture = self.picture.or_else(|| first(event, AttachmentKind::Picture).map(|picture| picture.hash));
        *self != before
    }
}

impl ClipV1 {
    fn first(event: &Event) -> Option<Self> {
        first(event, AttachmentKind::Clip).map(|clip| Self { hash: clip.hash, length: clip.length })
    }
}

fn first(event: &Event, kind: AttachmentKind) -> Option<&Attachment> {
    event.attachments.iter().find(|attachment| attachment.kind == kind)
}
