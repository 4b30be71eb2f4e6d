//! Links between the coordinator and its cameras: as bad as the noise makes them.

use super::*;

impl World {
    pub(super) fn deliver(&mut self, n: usize, seen: &mut Seen) {
        let time = self.time;
        let due = |when: &u64| *when <= time;
        let states: Vec<_> = self.cams[n].incoming.extract_if(.., |(when, ..)| due(when)).collect();
        for (_, link, state, sent) in states {
            if self.cams[n].link == Some(link) {
                self.hand(n, state, true, sent, seen);
            }
        }
        let acks: Vec<_> = self.cams[n].outgoing.extract_if(.., |(when, ..)| due(when)).collect();
        for (_, link, ack) in acks {
            if self.cams[n].link == Some(link) {
                let held = ack.held.as_ref().map(state_of);
                self.tell(coordinator::Input::Ack { node: self.cams[n].id, ack, held }, seen);
            }
        }
    }

    /// A link of the noise loses, doubles and delays; a later one may overtake.
    pub(super) fn ways(&mut self) -> Vec<u64> {
        if !self.noisy {
            return vec![self.time];
        }
        let copies = *[0, 1, 1, 1, 1, 2].get(self.rng.random_range(0..6_usize)).unwrap();
        (0..copies).map(|_| self.time + self.rng.random_range(0..DELAY)).collect()
    }

    pub(super) fn push(&mut self, n: usize) {
        let (Some(link), Some(coordinator)) = (self.cams[n].link, &self.coordinator) else { return };
        let (state, sent) = (coordinator.state().clone(), self.clock.now(self.time).at);
        for when in self.ways() {
            self.cams[n].incoming.push((when, link, state.clone(), sent));
        }
    }

    pub(super) fn link(&mut self, n: usize, seen: &mut Seen) {
        if self.coordinator.is_none() || self.cams[n].machine.is_none() || self.cams[n].link.is_some() {
            return;
        }
        if self.cams[n].revoked {
            return;
        }
        self.say(|| format!("camera {n} links"));
        self.links += 1;
        self.cams[n].link = Some(self.links);
        let held = self.cams[n].machine.as_ref().and_then(|machine| machine.state()).cloned();
        let hello = HelloV1 {
            mesh: MESH,
            boot: BootId([0; 4]),
            hostname: "pi".to_owned(),
            version: "0".to_owned(),
            os: String::new(),
            platform: String::new(),
            kernel: String::new(),
            time: Timestamp(0),
            held: None,
            bundle_epoch: 0,
            sources: vec!["porch".to_owned()],
        };
        let (node, address) = (self.cams[n].id, "[::1]:1".to_owned());
        self.cams[n].address = Some(address.clone());
        self.tell(coordinator::Input::LinkUp { node, address, hello: Box::new(hello), held, cert_end: Timestamp(0) }, seen);
        self.camera(n, camera::Input::LinkUp, seen);
        self.push(n);
    }

    pub(super) fn unlink(&mut self, n: usize, seen: &mut Seen) {
        if self.cams[n].link.take().is_none() {
            return;
        }
        self.say(|| format!("camera {n} loses its link"));
        self.camera(n, camera::Input::LinkDown, seen);
        self.tell(coordinator::Input::LinkDown { node: self.cams[n].id }, seen);
    }

    /// Its router gave it another address and the link lives on; or the word of that comes when the link is gone already.
    pub(super) fn moves(&mut self, n: usize, seen: &mut Seen) {
        if self.coordinator.is_none() {
            return;
        }
        let (node, address) = (self.cams[n].id, format!("10.0.0.{}:1", self.rng.random::<u8>()));
        self.say(|| format!("camera {n} moves to {address}"));
        self.looks_twice(seen);
        let before = self.view_of(n);
        let held = self.disk.clone();
        self.tell(coordinator::Input::Moved { node, address: address.clone() }, seen);
        self.cams[n].address = Some(address);
        assert_eq!(self.disk, held, "where a camera is decides nothing");
        self.witness_moved(n, before);
        seen.moved += u64::from(self.cams[n].link.is_some());
    }

    pub(super) fn hand(&mut self, n: usize, state: StateV1, live: bool, sent: Timestamp, seen: &mut Seen) {
        let before = self.cams[n].machine.as_ref().map(camera::Camera::effective);
        let lease = state.until.map_or(0, |until| until.since(sent).min(LEASE).as_millis() as u64);
        let version = state.version();
        self.camera(n, camera::Input::State { signed: sign(&state), state: state.clone(), live, time: sent }, seen);
        let cam = &mut self.cams[n];
        let Some(machine) = &cam.machine else { return };
        if live && machine.state() == Some(&state) && version == state.version() {
            cam.disarm_ends = cam.awake + lease;
            cam.lost_ends = None;
        }
        if !live {
            assert!(machine.effective() >= before.unwrap(), "what is handed on lowered a camera");
        }
        self.witness_camera(n, seen);
    }
}
