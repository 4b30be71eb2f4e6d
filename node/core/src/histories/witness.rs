//! The honest witness: he has a true clock, forgets nothing, and knows what may be and what may not.

use crate::arming::Override;
use crate::dashboard::NodeView;

use super::*;

impl World {
    /// Everybody is away only after so many questions that each phone left without an answer; and then nobody is home until somebody is seen.
    pub(super) fn witness_presence(&mut self, seen: &mut Seen) {
        let Some(machine) = &self.coordinator else { return };
        if machine.presence() != Presence::Away {
            return;
        }
        for device in self.settings.people.iter().flat_map(|person| &person.devices) {
            let asked = self.asked.get(device).copied().unwrap_or_default();
            assert!(asked >= AWAY_PROBES && !self.blind, "away after {asked} probes of {device} at {}", self.time);
        }
        seen.departures += u64::from(self.sighted);
        self.sighted = false;
        if let Some(armed) = &mut self.armed {
            armed.was_away = true;
        }
    }

    /// A person's arming ends by a person, by its true time, or by an arrival after the house was empty.
    pub(super) fn witness_override(&mut self, memory: &coordinator::MemoryV1, by_person: bool, seen: &mut Seen) {
        // What a person asked for takes the place of what was, now that the exit delay is over.
        let by_person = by_person || (self.disk.pending.is_some() && memory.pending.is_none());
        if by_person {
            let disarmed = memory.over.as_ref().filter(|over| over.state == ArmState::Disarmed);
            self.disarm_over = disarmed.and_then(|over| over.left).map(|left| self.ran + left);
        }
        let before = self.disk.over.as_ref().filter(|over| over.state.is_armed());
        let after = memory.over.as_ref().filter(|over| over.state.is_armed());
        // Who chose it may have been forgotten since; the house's own choice is another one all the same.
        let which = |over: &Override| (over.by == "the coordinator itself", over.until, over.state);
        if before.map(which) == after.map(which) && !by_person {
            return;
        }
        let presence = self.coordinator.as_ref().map(coordinator::Coordinator::presence);
        if let (Some(armed), None, false) = (&self.armed, &memory.over, by_person) {
            let arrived = armed.was_away && !armed.night && self.sighted && presence != Some(Presence::Away);
            let over = armed.not_before.is_some_and(|end| self.time >= end);
            assert!(arrived || over, "an arming ended by nobody: {armed:?} at {}", self.time);
            seen.arrivals_end += u64::from(arrived);
            seen.timed_ends += u64::from(over);
        }
        self.armed = after.map(|over| Armed {
            not_before: over.left.map(|left| self.time + left),
            was_away: presence == Some(Presence::Away),
            night: !over.ends_by_presence,
        });
    }

    /// What a person disarmed for a time is not disarmed for longer, however often the coordinator is restarted meanwhile.
    pub(super) fn witness_timed_disarm(&self) {
        let timed = self.disk.over.as_ref().is_some_and(|over| over.state == ArmState::Disarmed && over.left.is_some());
        let over = self.coordinator.is_some() && self.disarm_over.is_some_and(|end| self.ran >= end);
        assert!(!(timed && over), "disarmed for longer than a person chose: {:?} at {}", self.disk.over, self.time);
    }

    /// Nothing that is kept names him, and nothing else changed: neither what holds nor what somebody chose, nor for how long.
    pub(super) fn witness_forgotten(&self, before: &coordinator::MemoryV1, person: &str, seen: &mut Seen) {
        let names = |memory: &coordinator::MemoryV1| {
            let chosen = memory.over.iter().chain(memory.pending.iter().map(|(over, _)| over));
            chosen.map(|over| &over.by).chain([&memory.reason]).any(|text| !person.is_empty() && text.contains(person))
        };
        let after = &self.disk;
        assert!(!names(after), "{person} is still named: {after:?}");
        assert_eq!(after.reason.is_empty(), before.reason.is_empty());
        let nameless = |memory: &coordinator::MemoryV1| {
            let mut memory = memory.clone();
            memory.reason.clear();
            let pending = memory.pending.as_mut().map(|(over, _)| over);
            for over in memory.over.iter_mut().chain(pending) {
                over.by.clear();
                // Time that passed is written with the name.
                over.left = over.left.map(|_| 0);
            }
            memory
        };
        assert_eq!(nameless(after), nameless(before), "forgetting {person} changed what holds");
        seen.forgotten += u64::from(names(before));
    }

    /// As it was but for the address, and for having been heard.
    pub(super) fn witness_moved(&self, n: usize, before: Option<NodeView>) {
        let cam = &self.cams[n];
        let Some(after) = self.view_of(n) else { return };
        assert_eq!(after.address, cam.address, "camera {n} is shown where it was before");
        assert!(cam.link.is_some() || after.liveness != "online", "camera {n} has no link: {after:?}");
        assert!(cam.link.is_some() || !after.current, "camera {n} has no link: {after:?}");
        let heard = NodeView { address: None, liveness: String::new(), last_contact: None, ..after };
        assert_eq!(before.map(|before| NodeView { address: None, liveness: String::new(), last_contact: None, ..before }), Some(heard));
    }

    /// What is shown of it.
    pub(super) fn view_of(&self, n: usize) -> Option<NodeView> {
        let dashboard = self.coordinator().dashboard(self.clock.now(self.time));
        dashboard.nodes.into_iter().find(|node| node.node == self.cams[n].id)
    }

    /// The numbers grow, and a disarm has a reason that the world knows of.
    pub(super) fn witness_state(&mut self, memory: &coordinator::MemoryV1, by_person: bool, decided: bool, seen: &mut Seen) {
        let (before, after) = (&self.disk.state, &memory.state);
        let again = before == after;
        let at_the_end = after.version() == (u32::MAX, u64::MAX) && after.arm_state() == ArmState::Away;
        assert!(again || at_the_end || after.version() > before.version(), "{:?} after {:?}", after.version(), before.version());
        let now = self.clock.now(self.time);
        if after.arm_state() == ArmState::Disarmed && !again {
            let until = after.until.expect("each disarm is a lease");
            assert!(until <= now.at + LEASE + Duration::from_secs(10), "a lease of more than 12 h");
            if !decided {
                // The same for longer, which rests on a person's choice, on somebody who was seen, or on nobody being able to look.
                let over = self.disk.over.as_ref().is_some_and(|over| !over.state.is_armed());
                let longer = self.time + until.since(now.at).as_millis() as u64 > self.lease_ends;
                assert!(
                    !longer
                        || over
                        || memory.by_window == ArmState::Disarmed.to_wire()
                        || self.sighted_ever
                        || self.blind
                        || !self.settings.presence_enabled,
                    "renewed by nobody: {before:?} → {after:?}"
                );
                seen.renewals += 1;
            }
            self.lease_ends = self.time + until.since(now.at).as_millis() as u64;
        }
        if before.arm_state().is_armed() && after.arm_state() == ArmState::Disarmed {
            seen.disarms += 1;
            assert!(decided, "a disarm without a row in the log");
            // Whether the arming may have ended was judged above; where nobody looks, or can, who is home, what was before it comes back.
            let came_back = self.disk.over.is_some() && self.disk.by_presence == ArmState::Disarmed.to_wire();
            // A window that armed is over, or one that disarms began.
            let disarmed = ArmState::Disarmed.to_wire();
            let ended = memory.by_window != self.disk.by_window && self.disk.by_presence == disarmed;
            let window = ended || memory.by_window == disarmed;
            assert!(by_person || self.sighted || came_back || window, "nobody decided that: {before:?} → {after:?}");
            seen.windows_end += u64::from(window);
        }
        let forgot_a_disarm = (self.disk.by_window, memory.by_window) == (ArmState::Disarmed.to_wire(), 0);
        assert!(now.trusted || memory.by_window == self.disk.by_window || forgot_a_disarm, "a window by a clock that nobody vouches for");
        let (version, state) = (after.version(), after.arm_state());
        self.published.entry(version).or_default().push(after.clone());
        let why = memory.reason.clone();
        self.say(|| format!("published {version:?} {state:?}: {why}"));
    }

    pub(super) fn witness_camera(&mut self, n: usize, _seen: &mut Seen) {
        let cam = &mut self.cams[n];
        let machine = cam.machine.as_ref().unwrap();
        let held = machine.state().map(|state| (state.version(), state.clone()));
        let (version, before) = (held.as_ref().map(|held| held.0), cam.greatest.as_ref().map(|held| held.0));
        assert!(held == cam.greatest || version > before, "camera {n} went from {:?} to {held:?}", cam.greatest);
        cam.greatest = held;
        if let camera::OnLost::ArmAfter { after, .. } = cam.settings.on_coordinator_lost
            && cam.link.is_none()
            && cam.lost_ends.is_none()
        {
            cam.lost_ends = Some(cam.awake + after.as_millis() as u64);
        }
        if machine.effective() == ArmState::Disarmed {
            let state = machine.state().expect("a disarm that nobody told");
            let known = self.published.get(&state.version()).is_some_and(|all| all.contains(state));
            assert!(known && state.arm_state() == ArmState::Disarmed, "a disarm that nobody published: {state:?}");
            assert!(cam.awake < cam.disarm_ends, "camera {n} is disarmed beyond its lease: {machine:?}");
            let lost = cam.lost_ends.is_some_and(|end| cam.awake >= end);
            assert!(!lost, "camera {n} is disarmed and lost its coordinator long ago: {machine:?}");
        }
        cam.witness_disk();
        let machine = cam.machine.as_ref().unwrap();
        let watches = cam.settings.sources[0].watch_in.contains(&machine.effective()) && machine.paused().is_none();
        assert_eq!(cam.watching, watches, "camera {n} does what it obeys: {machine:?}");
        let (disk, saved) = cam.disk.as_ref().map_or((None, 0), |(memory, state)| (state.as_ref(), memory.raised));
        if machine.owes_save() {
            assert!(machine.effective().is_armed(), "camera {n} obeys a disarm that its disk did not take: {machine:?}");
            return;
        }
        assert_eq!(disk, machine.state(), "what camera {n} obeys is on its disk");
        assert_eq!(saved != 0, machine.raised().is_some(), "what camera {n} raised is on its disk");
    }
}

impl Cam {
    /// What a restart would find, and for how long that would hold.
    pub(super) fn witness_disk(&mut self) {
        if std::mem::take(&mut self.written) {
            self.left_on_disk = (self.disarm_ends.saturating_sub(self.awake), self.lost_ends.map(|end| end.saturating_sub(self.awake)));
        }
    }
}
