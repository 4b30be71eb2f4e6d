//! What happens in a house: people, phones, crashes, backups, broken links, wrong clocks.

use super::*;

impl World {
    pub(super) fn something_happens(&mut self, seen: &mut Seen) {
        let n = self.rng.random_range(0..self.cams.len());
        match self.rng.random_range(0..118) {
            0..20 => {
                let seconds = self.rng.random_range(1..5);
                (0..seconds).for_each(|_| self.second(1000, seen));
            }
            20..27 => (0..20).for_each(|_| self.second(1000, seen)),
            27..32 => {
                // The machines sleep, or only time passes: minutes, hours.
                let step = *[61_000, 10 * 60_000, 3 * 3_600_000, 7 * 3_600_000].get(self.rng.random_range(0..4_usize)).unwrap();
                self.second(step, seen);
            }
            32..42 => {
                self.near = if self.rng.random_bool(0.5) { Vec::new() } else { vec![phone(self.rng.random_range(1..=2))] };
                let stranger = self.rng.random_bool(0.2).then_some(phone(STRANGER));
                if let Some(device) = stranger.or(self.near.first().cloned()) {
                    self.tell(coordinator::Input::Sighting { device, sensor: Sensor::Neighbour }, seen);
                }
            }
            42..54 => self.somebody_decides(seen),
            54..58 => {
                let why = self.rng.random_bool(0.5).then(|| "the cable is out".to_owned());
                self.tell(coordinator::Input::Blind(why), seen);
            }
            58..64 => {
                self.stop_coordinator();
                if self.rng.random_bool(0.3) {
                    // A backup is restored.
                    let old = self.rng.random_range(0..self.backups.len());
                    let (disk, left) = self.backups[old].clone();
                    self.disk = disk;
                    self.disarm_over = left.map(|left| self.ran + left);
                    self.say(|| "an older backup is restored".to_owned());
                }
                if self.rng.random_bool(0.8) {
                    self.start_coordinator(seen);
                    self.roster(seen);
                }
            }
            64..70 => {
                if self.coordinator.is_none() {
                    self.start_coordinator(seen);
                    self.roster(seen);
                }
            }
            70..75 => {
                self.cams[n].machine = None;
                self.unlink(n, seen);
                self.say(|| format!("camera {n} crashes"));
                if self.rng.random_bool(0.1) {
                    self.restore_camera(n, seen);
                }
                if self.rng.random_bool(0.7) {
                    let corrupt = self.rng.random_bool(0.05);
                    self.start_camera(n, corrupt, seen);
                }
            }
            75..78 => {
                if self.cams[n].machine.is_none() {
                    self.start_camera(n, false, seen);
                }
            }
            78..84 => self.link(n, seen),
            84..88 => self.unlink(n, seen),
            88..91 => {
                // A peer hands on what a coordinator once signed, maybe long ago.
                let all: Vec<StateV1> = self.published.values().flatten().cloned().collect();
                let state = all[self.rng.random_range(0..all.len())].clone();
                self.say(|| format!("camera {n} is handed {:?} {:?}", state.version(), state.arm_state()));
                self.hand(n, state, false, Timestamp(0), seen);
            }
            91..93 => {
                if self.cams[n].link.is_some() {
                    self.say(|| format!("camera {n} gets garbage"));
                    self.camera(n, camera::Input::Unreadable { why: "garbage".to_owned() }, seen);
                    assert!(self.cams[n].machine.as_ref().unwrap().effective() == ArmState::Away, "garbage arms");
                }
            }
            93..98 => {
                let hour = 3_600_000;
                let off = *[-365 * 24 * hour, -hour, -600_000, 0, 600_000, 3 * hour, 24 * hour, 400 * 24 * hour]
                    .get(self.rng.random_range(0..8_usize))
                    .unwrap();
                let trusted = self.rng.random_bool(0.7);
                let whose = if self.rng.random_bool(0.6) { &mut self.clock } else { &mut self.cams[n].clock };
                (whose.off, whose.trusted) = (off, trusted);
                self.say(|| format!("a clock jumps to {off} ms, trusted: {trusted}"));
            }
            98..101 => self.camera_reports(n, seen),
            101..103 => {
                self.say(|| format!("camera {n} is revoked"));
                self.cams[n].revoked = true;
                self.roster(seen);
                self.unlink(n, seen);
            }
            103..104 => {
                let new = u8::try_from(self.cams.len()).unwrap();
                self.say(|| format!("camera {new} is paired"));
                let cam = Cam::new(new, &mut self.rng);
                self.cams.push(cam);
                self.roster(seen);
                self.start_camera(usize::from(new), false, seen);
                self.link(usize::from(new), seen);
            }
            104..107 => self.moves(n, seen),
            107..110 => self.somebody_is_forgotten(seen),
            110..113 => {
                self.cams[n].full = self.rng.random_bool(0.6);
                let full = self.cams[n].full;
                self.say(|| format!("the disk of camera {n} is full: {full}"));
            }
            113..116 => self.a_phone_is_learned_or_forgotten(seen),
            _ => {
                let time = self.rng.random_bool(0.5).then_some(Duration::from_secs(30));
                self.camera(n, camera::Input::Pause(time), seen);
            }
        }
    }

    /// Somebody writes an old image to its SD card. The witness knows what was left of its time then.
    fn restore_camera(&mut self, n: usize, seen: &mut Seen) {
        let cam = &mut self.cams[n];
        if cam.backups.is_empty() {
            return;
        }
        let (memory, state, disarm_left, lost_left) = cam.backups[self.rng.random_range(0..cam.backups.len())].clone();
        cam.greatest = state.as_ref().map(|state| (state.version(), state.clone()));
        cam.disk = Some((memory, state));
        cam.disarm_ends = cam.awake + disarm_left;
        cam.lost_ends = lost_left.map(|left| cam.awake + left);
        (cam.left_on_disk, cam.behind) = ((disarm_left, lost_left), false);
        seen.old_cameras += 1;
        self.say(|| format!("an older backup of camera {n} is restored"));
    }

    /// It says what it does, truly or not: that is shown, and decides nothing.
    fn camera_reports(&mut self, n: usize, seen: &mut Seen) {
        let node = self.cams[n].id;
        let since = Timestamp(self.rng.random());
        let source = DetectorReportV1 { source: "porch".to_owned(), phase: self.rng.random(), since, detail: String::new(), live: 1 };
        self.tell(coordinator::Input::Detectors { node, report: DetectorsV1 { sources: vec![source] } }, seen);
        let report = HealthV1 {
            at: Timestamp(self.rng.random()),
            node_uptime: self.rng.random(),
            machine_uptime: self.rng.random(),
            cpu_millicelsius: None,
            load_centi: 0,
            mem_total_kib: 0,
            mem_available_kib: 0,
            disk_total_mib: 0,
            disk_free_mib: 0,
            unknown_frames: 0,
            clock_trusted: self.rng.random(),
            outbox: crate::protocol::message::OutboxV1::default(),
            mails: self.rng.random(),
            under_voltage: None,
            spool: 0,
        };
        self.tell(coordinator::Input::Health { node, report }, seen);
    }

    pub(super) fn somebody_decides(&mut self, seen: &mut Seen) {
        let length = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..8 * 3600) * 1000);
        let short = self.rng.random_bool(0.5);
        let length = length.map(|length| if short { length % 40_000 + 1 } else { length });
        let until = length.map(|length: u64| self.clock.now(self.time).at + Duration::from_millis(length));
        let command = match self.rng.random_range(0..10) {
            0..3 => {
                coordinator::Command::Arm { state: ArmState::Away, until, now: self.rng.random_bool(0.5), stays: self.rng.random_bool(0.2) }
            }
            3..5 => coordinator::Command::Arm { state: ArmState::Night, until, now: true, stays: false },
            5..8 => coordinator::Command::Disarm { until, stays: until.is_some() && self.rng.random_bool(0.2) },
            _ => coordinator::Command::Auto,
        };
        self.say(|| format!("somebody says {command:?} for {length:?} ms"));
        let by = if self.rng.random_bool(0.5) { "Anna" } else { "Ben" }.to_owned();
        self.tell(coordinator::Input::Command { command, by }, seen);
    }

    /// Who is forgotten is named no more, and that is all: what he chose holds on.
    fn somebody_is_forgotten(&mut self, seen: &mut Seen) {
        if self.coordinator.is_none() {
            return;
        }
        let person = *["Anna", "Ben", "Nobody", ""].get(self.rng.random_range(0..4_usize)).unwrap();
        self.say(|| format!("{person:?} is forgotten"));
        self.looks_twice(seen);
        let before = self.disk.clone();
        self.tell(coordinator::Input::Forget { person: person.to_owned() }, seen);
        self.witness_forgotten(&before, person, seen);
    }

    /// What was nobody's is somebody's from now on, or is it no more. Neither decides anything.
    fn a_phone_is_learned_or_forgotten(&mut self, seen: &mut Seen) {
        if self.coordinator.is_none() {
            return;
        }
        let device = phone(STRANGER);
        let owner = self.settings.people.iter_mut().find(|person| person.devices.contains(&device));
        let input = if let Some(owner) = owner {
            owner.devices.retain(|known| *known != device);
            self.asked.remove(&device);
            coordinator::Input::Unlearned { device }
        } else {
            let person = self.rng.random_range(0..self.settings.people.len());
            let person = &mut self.settings.people[person];
            person.devices.push(device.clone());
            coordinator::Input::Learned { person: person.name.clone(), device }
        };
        self.say(|| format!("{input:?}"));
        self.tell(input, seen);
    }

    pub(super) fn noise_ends(&mut self, seen: &mut Seen) {
        self.say(|| "the noise ends".to_owned());
        self.noisy = false;
        self.cams.iter_mut().for_each(|cam| cam.full = false);
        if self.coordinator.is_none() {
            self.start_coordinator(seen);
        }
        self.roster(seen);
        for n in 0..self.cams.len() {
            if self.cams[n].machine.is_none() {
                self.start_camera(n, false, seen);
            }
            self.unlink(n, seen);
            self.link(n, seen);
            if self.cams[n].link.is_some() && self.rng.random_bool(0.2) {
                self.moves(n, seen);
            }
        }
    }
}
