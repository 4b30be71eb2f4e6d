//! Thousands of made-up histories of a house: whatever is lost, replayed, restarted, restored or set wrong, no disarm is ever invented, and
//! when the noise ends every camera agrees with the coordinator.
//!
//! `DMS3_HISTORIES` says how many (100 000): half of them always the same, half from a seed that is drawn anew each time. A failure prints its
//! seed, and `DMS3_HISTORIES=1 DMS3_SEED=…` tells that history.

mod links;
mod noise;
mod witness;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::arming::{ArmState, LEASE};
use crate::id::{BootId, MeshId, NodeId};
use crate::presence::{AWAY_PROBES, Device, MacAddr, Person, Presence, Sensor};
use crate::protocol::frame::to_bytes;
use crate::protocol::message::{AckV1, DetectorReportV1, DetectorsV1, HealthV1, HelloV1, SignedStateV1, StateV1, WindowV1};
use crate::roster::{NodeRole, NodeStatus, RosterRow};
use crate::time::{Mono, Now, Timestamp};
use crate::windows::Windows;
use crate::{camera, coordinator};

const MESH: MeshId = MeshId([7; 10]);
const ME: NodeId = NodeId([0xcc; 32]);
/// 2026, in milliseconds: the true time at which each history begins.
const EPOCH: u64 = 1_790_000_000_000;
const AWAY_AFTER: Duration = Duration::from_secs(14);
/// Longest time a message of a live link takes.
const DELAY: u64 = 5_000;

type Version = (u32, u64);

#[test]
fn in_no_history_is_a_disarm_invented_and_after_the_noise_all_agree() {
    let of_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = of_env("DMS3_HISTORIES").unwrap_or(100_000);
    let (first, drawn) = of_env("DMS3_SEED").map_or_else(|| (1, rand::random_range(1 << 32..1 << 48)), |seed| (seed, seed + count / 2));
    eprintln!("{count} histories: from seed {first}, and from seed {drawn}");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(count.max(1));
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let mut seen = Seen::default();
                    for nth in (part..count).step_by(usize::try_from(threads).unwrap()) {
                        let half = count.div_ceil(2);
                        let seed = if nth < half { first + nth } else { drawn + nth - half };
                        let told = Told(seed, Vec::new());
                        history(seed, told, count == 1, &mut seen);
                    }
                    seen
                })
            })
            .collect();
        for part in parts {
            seen.add(&part.join().expect("a history failed: its seed is above"));
        }
    });
    eprintln!("{seen:?}");
    if count >= 1000 {
        // A test that never gets there proves nothing.
        let Seen {
            disarms,
            agreed_disarmed,
            restored,
            raised,
            leases_over,
            timed_ends,
            windows_end,
            arrivals_end,
            exhausted,
            departures,
            old_cameras,
            renewals,
            moved,
            forgotten,
            unsaved_arms,
            refused_disarms,
            written_again,
        } = seen;
        for (what, n) in [
            ("disarms", disarms),
            ("agreed disarmed", agreed_disarmed),
            ("restored", restored),
            ("raised", raised),
            ("leases over", leases_over),
            ("timed ends", timed_ends),
            ("windows that disarm by their end or themselves", windows_end),
            ("arrivals that end an arming", arrivals_end),
            ("exhausted", exhausted),
            ("departures", departures),
            ("cameras from a backup", old_cameras),
            ("renewals", renewals),
            ("links that moved", moved),
            ("people forgotten", forgotten),
            ("armings that no disk took", unsaved_arms),
            ("disarms that no disk took", refused_disarms),
            ("armings written when the disk was back", written_again),
        ] {
            assert!(n * 500 >= count, "only {n} of {what} in {count} histories");
        }
    }
}

/// What came up at all.
#[derive(Debug, Default)]
struct Seen {
    disarms: u64,
    agreed_disarmed: u64,
    restored: u64,
    raised: u64,
    leases_over: u64,
    timed_ends: u64,
    windows_end: u64,
    arrivals_end: u64,
    exhausted: u64,
    departures: u64,
    old_cameras: u64,
    renewals: u64,
    moved: u64,
    /// Whose name was kept until then.
    forgotten: u64,
    unsaved_arms: u64,
    refused_disarms: u64,
    written_again: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.disarms += other.disarms;
        self.agreed_disarmed += other.agreed_disarmed;
        self.restored += other.restored;
        self.raised += other.raised;
        self.leases_over += other.leases_over;
        self.timed_ends += other.timed_ends;
        self.windows_end += other.windows_end;
        self.arrivals_end += other.arrivals_end;
        self.exhausted += other.exhausted;
        self.departures += other.departures;
        self.old_cameras += other.old_cameras;
        self.renewals += other.renewals;
        self.moved += other.moved;
        self.forgotten += other.forgotten;
        self.unsaved_arms += other.unsaved_arms;
        self.refused_disarms += other.refused_disarms;
        self.written_again += other.written_again;
    }
}

/// Says which history failed, and how it went.
struct Told(u64, Vec<String>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history {} failed: DMS3_HISTORIES=1 DMS3_SEED={} tells it\n{}", self.0, self.0, self.1.join("\n"));
        }
    }
}

/// A machine's clocks, as wrong as clocks get.
#[derive(Debug)]
struct Clock {
    /// Of the wall clock, in milliseconds.
    off: i64,
    trusted: bool,
    booted: u64,
}

impl Clock {
    fn now(&self, time: u64) -> Now {
        Now { at: Timestamp(time.saturating_add_signed(self.off)), mono: Mono(time - self.booted), trusted: self.trusted }
    }
}

/// A person's arming, as an honest witness with a true clock remembers it.
#[derive(Debug)]
struct Armed {
    /// True time before which time does not end it; `None`: time never does.
    not_before: Option<u64>,
    was_away: bool,
    night: bool,
}

struct Cam {
    id: NodeId,
    settings: camera::Settings,
    machine: Option<camera::Camera>,
    disk: Option<(camera::MemoryV1, Option<StateV1>)>,
    clock: Clock,
    /// Its disk takes nothing.
    full: bool,
    /// Number of the live link, if there is one.
    link: Option<u64>,
    /// Where the coordinator heard it last.
    address: Option<String>,
    /// On their way to it: (when, link, state, the coordinator's time).
    incoming: Vec<(u64, u64, StateV1, Timestamp)>,
    /// On their way to the coordinator.
    outgoing: Vec<(u64, u64, AckV1)>,
    watching: bool,
    /// The witness: milliseconds that it ran, until when of these its disarm may last, and until when without a coordinator.
    awake: u64,
    disarm_ends: u64,
    lost_ends: Option<u64>,
    greatest: Option<(Version, StateV1)>,
    /// Its disk has not taken what it obeys.
    behind: bool,
    /// Something was written, and what the witness knew when it was: milliseconds of disarm left, and until it arms itself.
    written: bool,
    left_on_disk: (u64, Option<u64>),
    /// What its disk held at some time, and what the witness knew then: milliseconds of disarm left, and until it arms itself.
    backups: Vec<(camera::MemoryV1, Option<StateV1>, u64, Option<u64>)>,
    revoked: bool,
}

struct World {
    rng: StdRng,
    told: Told,
    verbose: bool,
    time: u64,
    settings: coordinator::Settings,
    coordinator: Option<coordinator::Coordinator>,
    disk: coordinator::MemoryV1,
    /// With what was left of a person's timed disarm.
    backups: Vec<(coordinator::MemoryV1, Option<u64>)>,
    clock: Clock,
    cams: Vec<Cam>,
    links: u64,
    /// All that was ever published under a number: more than one only after a restore.
    published: BTreeMap<Version, Vec<StateV1>>,
    /// The phones that answer probes.
    near: Vec<Device>,
    /// The coordinator had proof of somebody's phone since it started, could see, and knew everybody to be gone.
    sighted: bool,
    /// And since it started.
    sighted_ever: bool,
    blind: bool,
    /// True time at which the disarm that holds ends by itself.
    lease_ends: u64,
    /// Probes of each phone that were really sent since it gave proof, or since the coordinator began to look.
    asked: BTreeMap<Device, u32>,
    armed: Option<Armed>,
    /// Milliseconds that the coordinator ran, and at how many of these a person's timed disarm is over.
    ran: u64,
    disarm_over: Option<u64>,
    noisy: bool,
}

/// Nobody's.
const STRANGER: u8 = 9;

fn phone(n: u8) -> Device {
    Device::Mac(MacAddr([2, 0, 0, 0, 0, n]))
}

/// Half of the houses have some.
fn windows(rng: &mut StdRng) -> Windows {
    let count = rng.random_range(0..4_usize).saturating_sub(1);
    let rows = std::iter::repeat_with(|| {
        let state = [ArmState::Night, ArmState::Night, ArmState::Away, ArmState::Disarmed][rng.random_range(0..4_usize)].to_wire();
        let (start, end) = (rng.random_range(0..24) * 60, rng.random_range(0..24) * 60);
        WindowV1 { state, days: rng.random(), start, end, from_day: None, to_day: None }
    });
    Windows::new(rows.take(count).collect(), "Europe/Berlin").unwrap()
}

fn history(seed: u64, told: Told, verbose: bool, seen: &mut Seen) {
    let mut world = World::new(seed, told, verbose, seen);
    let events = world.rng.random_range(10..60);
    for _ in 0..events {
        world.something_happens(seen);
    }
    world.noise_ends(seen);
    for _ in 0..12 {
        world.second(1000, seen);
    }
    let state = world.coordinator().state().clone();
    let memory = &world.disk;
    assert_eq!(memory.state, state, "what is published is saved");
    for cam in world.cams.iter().filter(|cam| !cam.revoked) {
        let machine = cam.machine.as_ref().unwrap();
        assert_eq!(machine.effective(), state.arm_state(), "camera {:?} agrees: {:?}", cam.id, machine);
        let watches = cam.settings.sources[0].watch_in.contains(&state.arm_state()) && machine.paused().is_none();
        assert_eq!(cam.watching, watches, "camera {:?} does what it agrees to", cam.id);
    }
    let dashboard = world.coordinator().dashboard(world.clock.now(world.time));
    assert!(
        dashboard.nodes.iter().filter(|node| node.role == NodeRole::Camera && node.status == NodeStatus::Active).all(|node| node.current),
        "{dashboard:?}"
    );
    for cam in world.cams.iter().filter(|cam| !cam.revoked) {
        let shown = dashboard.nodes.iter().find(|node| node.node == cam.id).unwrap();
        assert_eq!(shown.address, cam.address, "camera {:?} is shown where it is", cam.id);
        assert!(!cam.machine.as_ref().unwrap().owes_save(), "camera {:?} has on its disk what holds", cam.id);
    }
    seen.agreed_disarmed += u64::from(state.arm_state() == ArmState::Disarmed);
    seen.exhausted += u64::from(state.version() == (u32::MAX, u64::MAX));
}

impl Cam {
    fn new(n: u8, rng: &mut StdRng) -> Self {
        let watch_in = if rng.random_bool(0.5) { vec![ArmState::Away] } else { vec![ArmState::Night, ArmState::Away] };
        let on_coordinator_lost = match rng.random_range(0..3) {
            0 => camera::OnLost::Hold,
            1 => camera::OnLost::ArmAfter { after: Duration::from_secs(20), state: ArmState::Night },
            _ => camera::OnLost::ArmAfter { after: Duration::from_secs(15 * 60), state: ArmState::Away },
        };
        Self {
            id: NodeId([n; 32]),
            settings: camera::Settings {
                sources: vec![camera::SourceSettings { name: "porch".to_owned(), watch_in }],
                on_coordinator_lost,
            },
            machine: None,
            disk: None,
            clock: Clock { off: 0, trusted: true, booted: EPOCH },
            full: false,
            link: None,
            address: None,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            watching: false,
            awake: 0,
            disarm_ends: 0,
            lost_ends: None,
            greatest: None,
            behind: false,
            written: false,
            left_on_disk: (0, None),
            backups: Vec::new(),
            revoked: false,
        }
    }
}

impl World {
    fn new(seed: u64, told: Told, verbose: bool, seen: &mut Seen) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let people = ["Anna", "Ben"].into_iter().zip(1..).map(|(name, n)| Person {
            name: name.to_owned(),
            devices: vec![phone(n)],
            away_after: AWAY_AFTER,
            counts: true,
        });
        let settings = coordinator::Settings {
            machine: crate::health::Machine::default(),
            mesh: MESH,
            me: ME,
            windows: windows(&mut rng),
            presence_enabled: rng.random_bool(0.9),
            people: people.collect(),
            may_disarm_away: rng.random_bool(0.9),
            may_disarm_night: rng.random_bool(0.1),
            exit_delay: Duration::from_secs(if rng.random_bool(0.5) { 60 } else { 3 }),
            blind_alert_after: Duration::from_secs(120),
            arm_when_blind_after: rng.random_bool(0.3).then_some(Duration::from_secs(20)),
        };
        let clock = Clock { off: 0, trusted: true, booted: EPOCH };
        let (coordinator, effects) = coordinator::Coordinator::start(settings.clone(), None, clock.now(EPOCH));
        let [coordinator::Effect::Publish { memory, decision: Some(_) }] = &effects[..] else { panic!("a new house: {effects:?}") };
        let disk = (**memory).clone();
        let cams = (0..rng.random_range(1..=4_u8)).map(|n| Cam::new(n, &mut rng)).collect();
        let mut world = Self {
            told,
            verbose,
            time: EPOCH,
            settings,
            coordinator: Some(coordinator),
            backups: vec![(disk.clone(), None)],
            published: BTreeMap::from([(disk.state.version(), vec![disk.state.clone()])]),
            disk,
            clock,
            cams,
            links: 0,
            near: Vec::new(),
            sighted: false,
            sighted_ever: false,
            blind: false,
            lease_ends: 0,
            asked: BTreeMap::new(),
            armed: None,
            ran: 0,
            disarm_over: None,
            noisy: true,
            rng,
        };
        if world.rng.random_bool(0.02) {
            // A house at the end of all numbers.
            world.coordinator = None;
            world.disk.state.epoch = u32::MAX;
            world.disk.state.rev = u64::MAX - world.rng.random_range(0..6);
            world.published.insert(world.disk.state.version(), vec![world.disk.state.clone()]);
            world.start_coordinator(seen);
        }
        world.roster(seen);
        for n in 0..world.cams.len() {
            world.start_camera(n, false, seen);
            world.link(n, seen);
        }
        world
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.verbose {
            self.told.1.push(format!("{:>9.1} s  {}", (self.time - EPOCH) as f64 / 1000.0, what()));
        }
    }

    fn coordinator(&self) -> &coordinator::Coordinator {
        self.coordinator.as_ref().unwrap()
    }

    /// `step` milliseconds pass, then everybody ticks and what is due arrives.
    fn second(&mut self, step: u64, seen: &mut Seen) {
        self.time += step;
        if step > 30_000 {
            // Nobody looked: what was known is not known any more.
            self.looks_anew();
        }
        for cam in self.cams.iter_mut().filter(|cam| cam.machine.is_some()) {
            cam.awake += step;
        }
        self.ran += if self.coordinator.is_some() { step } else { 0 };
        self.tell(coordinator::Input::Tick, seen);
        self.witness_timed_disarm();
        for n in 0..self.cams.len() {
            self.deliver(n, seen);
            self.camera(n, camera::Input::Tick, seen);
            let cam = &mut self.cams[n];
            if let Some((memory, state)) = cam.disk.clone()
                && self.noisy
                && self.rng.random_bool(0.02)
            {
                let (disarm, lost) = cam.left_on_disk;
                cam.backups.push((memory, state, disarm, lost));
            }
        }
    }

    fn roster(&mut self, seen: &mut Seen) {
        let row = |node, role, revoked: bool| RosterRow {
            node,
            role,
            name: "x".to_owned(),
            status: if revoked { NodeStatus::Revoked } else { NodeStatus::Active },
            enrolled_at: Timestamp(0),
            revoked_at: None,
            token: None,
        };
        let rows =
            self.cams.iter().map(|cam| row(cam.id, NodeRole::Camera, cam.revoked)).chain([row(ME, NodeRole::Coordinator, false)]).collect();
        self.tell(coordinator::Input::Roster(rows), seen);
    }

    fn start_coordinator(&mut self, seen: &mut Seen) {
        self.clock.booted = self.time - self.rng.random_range(0..1000);
        self.looks_anew();
        (self.sighted_ever, self.blind) = (false, false);
        let left = self.disk.state.until.map_or(Duration::ZERO, |until| until.since(self.clock.now(self.time).at).min(LEASE));
        self.lease_ends = self.time + left.as_millis() as u64;
        // The witness believes the disk for what came before, and his own watch from here.
        self.armed = self.disk.over.as_ref().filter(|over| over.state.is_armed()).map(|over| Armed {
            not_before: over.left.map(|left| self.time + left),
            was_away: over.was_away,
            night: !over.ends_by_presence,
        });
        let before = self.disk.state.clone();
        let (machine, effects) = coordinator::Coordinator::start(self.settings.clone(), Some(self.disk.clone()), self.clock.now(self.time));
        self.say(|| format!("the coordinator starts from {:?} {:?}", before.version(), before.arm_state()));
        assert!(matches!(effects.first(), Some(coordinator::Effect::Publish { .. })), "a start publishes: {effects:?}");
        self.coordinator = Some(machine);
        self.carry_out(effects, false, seen);
    }

    /// Nothing that was seen before counts.
    fn looks_anew(&mut self) {
        self.sighted = false;
        self.asked.clear();
    }

    fn stop_coordinator(&mut self) {
        self.say(|| "the coordinator crashes".to_owned());
        self.coordinator = None;
        for n in 0..self.cams.len() {
            if self.cams[n].link.take().is_some() {
                self.camera(n, camera::Input::LinkDown, &mut Seen::default());
            }
        }
    }

    fn tell(&mut self, input: coordinator::Input, seen: &mut Seen) {
        let now = self.clock.now(self.time);
        let Some(machine) = &mut self.coordinator else { return };
        let by_person = matches!(input, coordinator::Input::Command { .. });
        match &input {
            coordinator::Input::Sighting { device, .. } if self.settings.people.iter().any(|person| person.devices.contains(device)) => {
                (self.sighted, self.sighted_ever) = (true, true);
                self.asked.remove(device);
            }
            coordinator::Input::Blind(why) => {
                if self.blind != why.is_some() {
                    let seen_blindly = self.blind && self.sighted;
                    self.sighted = seen_blindly;
                    self.asked.clear();
                }
                self.blind = why.is_some();
            }
            coordinator::Input::Probed { device, sent: true } if !self.blind => *self.asked.entry(device.clone()).or_default() += 1,
            _ => {}
        }
        let effects = machine.handle(input, now);
        self.carry_out(effects, by_person, seen);
    }

    fn carry_out(&mut self, effects: Vec<coordinator::Effect>, by_person: bool, seen: &mut Seen) {
        let mut probed = Vec::new();
        for effect in effects {
            match effect {
                coordinator::Effect::Probe(probe) => probed.push(probe.device),
                coordinator::Effect::Save { memory } => {
                    self.witness_override(&memory, by_person, seen);
                    assert_eq!(memory.state, self.disk.state, "a state is published, not only saved");
                    self.disk = *memory;
                }
                coordinator::Effect::Publish { memory, decision } => {
                    self.witness_override(&memory, by_person, seen);
                    self.witness_state(&memory, by_person, decision.is_some(), seen);
                    self.disk = *memory;
                    self.backups.push((self.disk.clone(), self.disarm_over.map(|end| end.saturating_sub(self.ran))));
                    (0..self.cams.len()).for_each(|n| self.push(n));
                }
                coordinator::Effect::Alert(fault) => {
                    self.say(|| format!("alert: {}", fault.key));
                    seen.restored += u64::from(fault.key == "states-conflict");
                }
                coordinator::Effect::Arrived => {
                    assert!(self.sighted && self.disk.state.arm_state() == ArmState::Disarmed, "only whoever comes home disarms by that");
                }
                coordinator::Effect::AlertOver { .. } | coordinator::Effect::Mark { .. } => {}
            }
        }
        self.witness_presence(seen);
        for device in probed {
            // The network may be gone in that moment.
            let sent = !self.noisy || self.rng.random_bool(0.95);
            self.tell(coordinator::Input::Probed { device: device.clone(), sent }, seen);
            if sent && self.near.contains(&device) {
                self.tell(coordinator::Input::Sighting { device, sensor: Sensor::ArpProbe }, seen);
            }
        }
    }

    /// Whatever time alone does is done then, at the end of all numbers too, which is answered with the next look.
    fn looks_twice(&mut self, seen: &mut Seen) {
        (0..2).for_each(|_| self.tell(coordinator::Input::Tick, seen));
    }

    fn start_camera(&mut self, n: usize, corrupt: bool, seen: &mut Seen) {
        let cam = &mut self.cams[n];
        cam.clock.booted = self.time - self.rng.random_range(0..1000);
        let memory = cam.disk.clone().filter(|_| !corrupt);
        if corrupt {
            cam.disk = None;
        }
        let found = cam.disk.as_ref().and_then(|(_, state)| state.clone()).map(|state| (state.version(), state));
        assert!(corrupt || cam.behind || cam.greatest == found, "camera {n} thought that its disk holds {:?}", cam.greatest);
        cam.greatest = found;
        cam.disarm_ends = cam.disarm_ends.min(cam.awake + cam.left_on_disk.0);
        if std::mem::take(&mut cam.behind) {
            // Its disk had not taken what it obeyed last: it finds something older, and no more time than was left of that.
            cam.disarm_ends = cam.awake + cam.left_on_disk.0;
            cam.lost_ends = cam.left_on_disk.1.map(|left| cam.awake + left);
        }
        let (machine, effects) = camera::Camera::start(cam.settings.clone(), memory, corrupt, cam.clock.now(self.time));
        assert!(!corrupt || machine.effective() == ArmState::Away, "a camera that cannot read its memory is armed");
        cam.machine = Some(machine);
        self.say(|| format!("camera {n} starts, corrupt: {corrupt}"));
        self.camera_does(n, effects, seen);
        self.cams[n].witness_disk();
    }

    fn camera(&mut self, n: usize, input: camera::Input, seen: &mut Seen) {
        let now = self.cams[n].clock.now(self.time);
        let Some(machine) = &mut self.cams[n].machine else { return };
        let state = matches!(input, camera::Input::State { .. });
        let effects = machine.handle(input, now);
        self.camera_does(n, effects, seen);
        if !state {
            self.witness_camera(n, seen);
        }
    }

    fn camera_does(&mut self, n: usize, effects: Vec<camera::Effect>, seen: &mut Seen) {
        let (mut acted, mut outcome) = (false, None);
        for effect in effects {
            match effect {
                camera::Effect::Save(memory) => {
                    assert!(!acted, "saved after it was done");
                    let cam = &mut self.cams[n];
                    let machine = cam.machine.as_ref().unwrap();
                    if !cam.full {
                        let state = memory.held.as_ref().map(state_of);
                        (cam.disk, cam.written) = (Some((*memory, state)), true);
                        outcome = machine.owes_save().then_some(Ok(()));
                        continue;
                    }
                    outcome = Some(Err("no space".to_owned()));
                    if machine.effective() == ArmState::Disarmed {
                        seen.refused_disarms += 1;
                        break;
                    }
                    seen.unsaved_arms += 1;
                }
                camera::Effect::Watch { on, .. } => {
                    acted = true;
                    self.cams[n].watching = on;
                }
                camera::Effect::Ack(ack) => {
                    if let Some(link) = self.cams[n].link {
                        for when in self.ways() {
                            self.cams[n].outgoing.push((when, link, ack.clone()));
                        }
                    }
                }
                camera::Effect::Alert { key, text } => {
                    self.say(|| format!("camera {n}: {text}"));
                    seen.raised += u64::from(key == "raised");
                    seen.leases_over += u64::from(text.contains("ran out"));
                }
            }
        }
        let cam = &mut self.cams[n];
        cam.behind = cam.machine.as_ref().unwrap().owes_save();
        let Some(outcome) = outcome else { return };
        let machine = cam.machine.as_mut().unwrap();
        let (failed, before) = (outcome.is_err(), machine.effective());
        let effects = machine.handle(camera::Input::Saved(outcome), cam.clock.now(self.time));
        let after = machine.effective();
        assert!(after >= before && (!failed || after.is_armed()), "camera {n} obeys {after:?}, failed: {failed}, before: {before:?}");
        assert_eq!(machine.owes_save(), failed, "camera {n} knows what is on its disk");
        seen.written_again += u64::from(!failed && after.is_armed());
        self.say(|| format!("camera {n}'s disk takes something: {}", !failed));
        self.camera_does(n, effects, seen);
    }
}

/// In these histories nobody can forge: what is signed was published.
fn sign(state: &StateV1) -> SignedStateV1 {
    SignedStateV1 { payload: to_bytes(state).unwrap(), signer: [1; 32], signature: Vec::new() }
}

fn state_of(signed: &SignedStateV1) -> StateV1 {
    crate::protocol::frame::from_bytes(&signed.payload).unwrap()
}
