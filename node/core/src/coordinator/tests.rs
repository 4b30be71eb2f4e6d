//! What the house decides, remembers and tells.

mod behaving;
mod deciding;
mod forgetting;
mod people;
mod watching_over;
mod windows;

use super::*;
use crate::id::{BootId, TokenId};
use crate::presence::MacAddr;
use crate::protocol::message::{DetectorPhase, DetectorReportV1, SourceAckV1};
use crate::roster::{NodeRole, NodeStatus};
use crate::time::Mono;
use ArmState::{Away, Disarmed, Night};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const ME: NodeId = NodeId([9; 32]);
const PORCH: NodeId = NodeId([1; 32]);

fn phone(n: u8) -> Device {
    Device::Mac(MacAddr([0x24, 0, 0, 0, 0, n]))
}

fn settings() -> Settings {
    let person =
        |name: &str, n| Person { name: name.to_owned(), devices: vec![phone(n)], away_after: Duration::from_secs(60), counts: true };
    Settings {
        machine: crate::health::Machine::default(),
        mesh: MeshId([1; 10]),
        me: ME,
        windows: Windows::new(Vec::new(), "Europe/Berlin").unwrap(),
        presence_enabled: true,
        people: vec![person("Anna", 1), person("Ben", 2)],
        may_disarm_away: true,
        may_disarm_night: false,
        exit_delay: Duration::from_secs(60),
        blind_alert_after: Duration::from_secs(120),
        arm_when_blind_after: None,
    }
}

/// A coordinator with its disk, the phones that are near, and clocks that are turned by hand.
struct House {
    settings: Settings,
    machine: Coordinator,
    disk: MemoryV1,
    now: Now,
    near: Vec<Device>,
    publications: u64,
    arrivals: u64,
    decisions: Vec<Decision>,
    /// Their keys, and those of ends.
    alerts: Vec<String>,
    faults: Vec<Fault>,
    /// What was said of ends.
    ends: Vec<String>,
    /// What is kept of identities that two machines use.
    marks: Vec<(NodeId, Twice)>,
}

impl House {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let now = Now { at: Timestamp(1_000 * HOUR), mono: Mono(77), trusted: true };
        let (machine, effects) = Coordinator::start(settings.clone(), None, now);
        let [Effect::Publish { memory, .. }] = &effects[..] else { panic!("{effects:?}") };
        let disk = (**memory).clone();
        let mut house = Self {
            settings,
            machine,
            disk,
            now,
            near: Vec::new(),
            publications: 0,
            arrivals: 0,
            decisions: Vec::new(),
            alerts: Vec::new(),
            faults: Vec::new(),
            ends: Vec::new(),
            marks: Vec::new(),
        };
        house.carry_out(effects);
        house
    }

    /// Anna is home.
    fn with_anna_home() -> Self {
        let mut house = Self::new();
        house.comes(1);
        assert_eq!(house.state(), Disarmed);
        house
    }

    fn handle(&mut self, input: Input) {
        let effects = self.machine.handle(input, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut asked = Vec::new();
        for effect in effects {
            match effect {
                Effect::Publish { memory, decision } => {
                    self.disk = *memory;
                    self.publications += 1;
                    self.decisions.extend(decision);
                }
                Effect::Save { memory } => self.disk = *memory,
                Effect::Mark { node, twice } => self.marks.push((node, twice)),
                Effect::Probe(probe) => asked.push(probe.device),
                Effect::Arrived => self.arrivals += 1,
                Effect::Alert(fault) => {
                    self.alerts.push(fault.key.clone());
                    self.faults.push(fault);
                }
                Effect::AlertOver { key, text } => {
                    self.alerts.push(format!("over {key}"));
                    self.ends.push(text);
                }
            }
        }
        assert_eq!(self.disk.over.is_some(), self.machine.house.memory.over.is_some(), "what was decided is saved");
        assert_eq!(&self.disk.state, self.machine.state());
        for device in asked {
            self.handle(Input::Probed { device: device.clone(), sent: true });
            if self.near.contains(&device) {
                self.handle(Input::Sighting { device, sensor: Sensor::ArpProbe });
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now.mono.0 += millis;
        self.now.at.0 += millis;
        self.handle(Input::Tick);
    }

    fn seconds(&mut self, n: u64) {
        (0..n).for_each(|_| self.pass(SECOND));
    }

    fn comes(&mut self, n: u8) {
        self.near.push(phone(n));
        self.handle(Input::Sighting { device: phone(n), sensor: Sensor::Neighbour });
    }

    fn all_leave(&mut self) {
        self.near.clear();
        self.seconds(80);
        assert_eq!(self.dashboard().presence, Presence::Away);
    }

    fn restart(&mut self, off: u64) {
        self.now.at.0 += off;
        self.now.mono = Mono(5);
        let (machine, effects) = Coordinator::start(self.settings.clone(), Some(self.disk.clone()), self.now);
        self.machine = machine;
        self.carry_out(effects);
    }

    fn command(&mut self, command: Command) {
        self.handle(Input::Command { command, by: "root".to_owned() });
    }

    fn arm(&mut self, state: ArmState, time: Option<u64>) {
        let until = time.map(|time| Timestamp(self.now.at.0 + time));
        self.command(Command::Arm { state, until, now: true, stays: false });
    }

    fn disarm(&mut self, time: Option<u64>) {
        self.command(Command::Disarm { until: time.map(|time| Timestamp(self.now.at.0 + time)), stays: false });
    }

    fn state(&self) -> ArmState {
        self.machine.state().arm_state()
    }

    fn dashboard(&self) -> Dashboard {
        self.machine.dashboard(self.now)
    }

    fn reason(&self) -> String {
        self.dashboard().reason
    }

    fn roster(&mut self, nodes: &[(NodeId, NodeRole, NodeStatus)]) {
        let rows = nodes.iter().map(|(node, role, status)| RosterRow {
            node: *node,
            role: *role,
            name: if *node == PORCH { "porch".to_owned() } else { format!("node {}", node.0[0]) },
            status: *status,
            enrolled_at: Timestamp(0),
            revoked_at: None,
            token: Some(TokenId([0; 5])),
        });
        self.handle(Input::Roster(rows.collect()));
    }

    fn with_porch(mut self) -> Self {
        self.roster(&[(PORCH, NodeRole::Camera, NodeStatus::Active), (ME, NodeRole::Coordinator, NodeStatus::Active)]);
        self
    }

    fn link(&mut self, held: Option<StateV1>) {
        self.link_of(0, "10.0.0.2:5", held);
    }

    /// Of this process, from there.
    fn link_of(&mut self, process: u8, address: &str, held: Option<StateV1>) {
        let hello = HelloV1 {
            mesh: self.settings.mesh,
            boot: BootId([process; 4]),
            hostname: "pi".to_owned(),
            version: "0.1.0".to_owned(),
            os: "debian 12".to_owned(),
            platform: "linux".to_owned(),
            kernel: "6".to_owned(),
            time: Timestamp(0),
            held: None,
            bundle_epoch: 0,
            sources: vec!["porch".to_owned()],
        };
        self.handle(Input::LinkUp { node: PORCH, address: address.to_owned(), hello: Box::new(hello), held, cert_end: Timestamp(0) });
    }

    /// The porch obeys: what it says after each push.
    fn acks(&mut self) {
        self.acks_as(self.state());
    }

    fn acks_as(&mut self, effective: ArmState) {
        let (epoch, rev) = self.machine.state().version();
        let source = SourceAckV1 { source: "porch".to_owned(), effective: effective.to_wire(), watch: effective.is_armed() };
        self.handle(Input::Ack { node: PORCH, ack: AckV1 { epoch, rev, sources: vec![source], held: None }, held: None });
    }

    fn reports(&mut self, phase: DetectorPhase) {
        let report =
            DetectorReportV1 { source: "porch".to_owned(), phase: phase.to_wire(), since: self.now.at, detail: String::new(), live: 1 };
        self.handle(Input::Detectors { node: PORCH, report: DetectorsV1 { sources: vec![report] } });
    }

    fn held(&mut self, held: StateV1) {
        let ack = AckV1 { epoch: held.epoch, rev: held.rev, sources: Vec::new(), held: None };
        self.handle(Input::Ack { node: PORCH, ack, held: Some(held) });
    }
}
