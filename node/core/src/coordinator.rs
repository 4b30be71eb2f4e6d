//! START HERE: every input the coordinator reacts to, every effect it causes.

mod house;
mod nodes;
mod troubles;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::house::House;
use self::nodes::Nodes;
use self::troubles::Troubles;
use crate::arming::{ArmState, Override};
use crate::conduct::{Offence, Twice};
use crate::dashboard::{Dashboard, PersonView};
use crate::fault::Fault;
use crate::health::Machine;
use crate::id::{MeshId, NodeId};
use crate::presence::{Device, Person, Presence, Probe, Sensor};
use crate::protocol::message::{AckV1, DetectorsV1, HealthV1, HelloV1, StateV1};
use crate::roster::RosterRow;
use crate::time::{Now, Timestamp};
use crate::windows::Windows;

pub use crate::arming::LEASE;

/// For people, where no camera mails by itself.
const NOBODY_TELLS: &str =
    "Nobody would tell that the coordinator is gone: no camera mails by itself (a section [mail] in the config of one does).";

/// What the rules need to know of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mesh: MeshId,
    pub me: NodeId,
    /// Our own.
    pub machine: Machine,
    /// Times for which a person wants a state, in the house's zone.
    pub windows: Windows,
    /// False: the explicit manual-only house.
    pub presence_enabled: bool,
    pub people: Vec<Person>,
    /// `presence_may_disarm`, per state it would disarm from.
    pub may_disarm_away: bool,
    pub may_disarm_night: bool,
    /// Between a person's arm command and the state, so that he can leave.
    pub exit_delay: Duration,
    /// Blind for so long is an alert.
    pub blind_alert_after: Duration,
    /// Blind for so long arms the house; off by default.
    pub arm_when_blind_after: Option<Duration>,
}

/// What must survive a restart. Saved before it is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryV1 {
    pub state: StateV1,
    /// Why, with names: they stay on this machine, `state.reason` has none.
    pub reason: String,
    pub over: Option<Override>,
    /// An arm command in its exit delay: (what, when).
    pub pending: Option<(Override, Timestamp)>,
    /// [`ArmState::to_wire`] of what presence said last.
    pub by_presence: u8,
    /// The override is our own answer to having forgotten something (a restored backup), and nobody came home or decided since.
    pub restored: bool,
    /// [`ArmState::to_wire`] of what a window asked for last; 0: nothing.
    pub by_window: u8,
}

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// `now`: without exit delay. `stays`: whoever comes, as on a vacation.
    Arm {
        state: ArmState,
        until: Option<Timestamp>,
        now: bool,
        #[serde(default)]
        stays: bool,
    },
    /// `stays`: whoever leaves, as with guests; only with a time.
    Disarm {
        until: Option<Timestamp>,
        #[serde(default)]
        stays: bool,
    },
    /// Ends any override: windows and presence decide again.
    Auto,
}

impl Command {
    /// Whether it can be obeyed; else why not, for the person. The machine ignores a command that cannot.
    pub fn check(&self, now: Now) -> Result<(), String> {
        let until = match self {
            Self::Arm { state: ArmState::Disarmed, .. } => return Err("armed to \"disarmed\" is no order: use `disarm`".to_owned()),
            Self::Disarm { until: None, stays: true } => {
                return Err("a house that stays disarmed though everybody left needs an end: say until when".to_owned());
            }
            Self::Arm { until, .. } | Self::Disarm { until, .. } => *until,
            Self::Auto => None,
        };
        match until {
            Some(until) if until <= now.at => Err("that time is over already: name one that is to come".to_owned()),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// At least once a second.
    Tick,
    /// A sensor has proof that a device is near.
    Sighting {
        device: Device,
        sensor: Sensor,
    },
    /// A probe that was asked for was sent (or could not be: `sent` false). An answer comes as a sighting.
    Probed {
        device: Device,
        sent: bool,
    },
    /// The sensors lost (`Some(why)`) or regained (`None`) their sight.
    Blind(Option<String>),
    /// A person's command, authenticated by the edge it came in at.
    Command {
        command: Command,
        by: String,
    },
    /// The roster, whole, at start and after every change.
    Roster(Vec<RosterRow>),
    /// A link is up (its Welcome was sent). `held`: a state with our own valid signature that the node holds.
    LinkUp {
        node: NodeId,
        address: String,
        hello: Box<HelloV1>,
        held: Option<StateV1>,
        /// When its certificate ends.
        cert_end: Timestamp,
    },
    /// The newest link of the node is gone. A link that was taken over by a newer one ends without a word.
    LinkDown {
        node: NodeId,
    },
    /// It said that it stops on purpose, as for an update; its `LinkDown` follows.
    Farewell {
        node: NodeId,
    },
    /// `held` as in `LinkUp`.
    Ack {
        node: NodeId,
        ack: AckV1,
        held: Option<StateV1>,
    },
    Detectors {
        node: NodeId,
        report: DetectorsV1,
    },
    /// Of a camera's machine, or of our own.
    Health {
        node: NodeId,
        report: HealthV1,
    },
    /// When the certificate of a node ends: ours, or one that was renewed.
    Certificate {
        node: NodeId,
        end: Timestamp,
    },
    /// Whether less is free on our own disk than is to stay free, though nothing is left that could go.
    DiskShort(bool),
    /// The link of the node goes on from another address.
    Moved {
        node: NodeId,
        address: String,
    },
    /// What a node did against the rules of its link since that was told last.
    Offended {
        node: NodeId,
        offence: Offence,
    },
    /// Nodes whose identity two machines use, as it was kept: at start.
    Marked(Vec<(NodeId, Twice)>),
    /// A person looked at what a node did: it is forgiven, and no longer marked.
    Cleared {
        node: NodeId,
    },
    /// A person is to be forgotten: the reason that holds keeps no name.
    Forget {
        person: String,
    },
    /// A device is that person's from now on.
    Learned {
        person: String,
        device: Device,
    },
    /// A device is nobody's any more.
    Unlearned {
        device: Device,
    },
}

impl Input {
    /// The node of which alone it tells something: of a house of a thousand cameras, each of which confirms each state, the others need not
    /// be looked at for it. What time does to them a tick finds out.
    fn only(&self) -> Option<NodeId> {
        match self {
            Self::LinkUp { node, .. }
            | Self::LinkDown { node }
            | Self::Ack { node, .. }
            | Self::Detectors { node, .. }
            | Self::Health { node, .. }
            | Self::Certificate { node, .. }
            | Self::Moved { node, .. }
            | Self::Farewell { node }
            | Self::Offended { node, .. }
            | Self::Cleared { node } => Some(*node),
            Self::Tick
            | Self::Sighting { .. }
            | Self::Probed { .. }
            | Self::Blind(_)
            | Self::Command { .. }
            | Self::Roster(_)
            | Self::DiskShort(_)
            | Self::Marked(_)
            | Self::Learned { .. }
            | Self::Unlearned { .. }
            | Self::Forget { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sign the state in `memory`, save it with the decision in one transaction, then publish it.
    Publish {
        memory: Box<MemoryV1>,
        decision: Option<Decision>,
    },
    /// Save without a new state (an override began or ended that changes nothing, an exit delay).
    Save {
        memory: Box<MemoryV1>,
    },
    /// Keep that two machines use the identity of the node, until a person clears or revokes it.
    Mark {
        node: NodeId,
        twice: Twice,
    },
    /// Ask the device whether it is near, now.
    Probe(Probe),
    /// Tell people. Its key names the condition, so that its end can be told too.
    Alert(Fault),
    AlertOver {
        key: String,
        text: String,
    },
    /// Somebody came home, and that disarmed the house just now.
    Arrived,
}

/// One row of the decision log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub at: Timestamp,
    pub epoch: u32,
    pub rev: u64,
    pub state: ArmState,
    pub reason: String,
    /// What was known of each person.
    pub evidence: Vec<PersonView>,
}

/// Why an armed house stays so although somebody came home.
const ONLY_A_PERSON: &str = "Somebody is home, but by the config (`presence_may_disarm`) only a person disarms: `dms3-node disarm`.";

/// The coordinator's rules. Pure: the same inputs give the same effects.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    house: House,
    nodes: Nodes,
    troubles: Troubles,
}

impl Coordinator {
    /// `memory`: what was saved last, `None` for a new house (which starts armed, until somebody is known to be home or a person disarms).
    /// The effects must be carried out before the first input; among them is always the publication of the state that holds.
    pub fn start(settings: Settings, memory: Option<MemoryV1>, now: Now) -> (Self, Vec<Effect>) {
        let (house, effects) = House::start(&settings, memory, now);
        (Self { settings, house, nodes: Nodes::new(now.mono), troubles: Troubles::default() }, effects)
    }

    /// What `input` leads to, to be carried out in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        self.house.pass(now.mono);
        let mut effects = Vec::new();
        let mut cause = None;
        let mut only = input.only();
        match input {
            Input::Tick => effects.extend(self.house.ask(&self.settings, now.mono)),
            Input::Sighting { device, sensor } => self.house.tracker.sighting(&device, sensor, now),
            Input::Probed { device, sent } => self.house.tracker.probed(&device, sent, now.mono),
            Input::Blind(why) => self.house.tracker.blind(why, now.mono),
            Input::Command { command, by } => cause = self.house.command(&self.settings, command, by, now),
            Input::Roster(rows) => self.nodes.roster(rows, now.mono),
            Input::LinkUp { node, address, hello, held, cert_end } => {
                effects.extend(self.nodes.link_up(node, address, &hello, now).map(|twice| Effect::Mark { node, twice }));
                self.nodes.certificate(node, cert_end, now);
                cause = held.and_then(|held| self.house.held(&held));
            }
            Input::LinkDown { node } => self.nodes.link_down(node, now),
            Input::Farewell { node } => self.nodes.farewell(node, now),
            Input::Ack { node, ack, held } => {
                self.nodes.ack(node, &ack, &self.house, now);
                cause = held.and_then(|held| self.house.held(&held));
            }
            Input::Detectors { node, report } => self.nodes.detectors(node, report, now),
            Input::Health { node, report } => self.nodes.health(node, report, now),
            Input::Certificate { node, end } => self.nodes.certificate(node, end, now),
            Input::DiskShort(short) => self.nodes.disk_short(self.settings.me, short, now),
            Input::Moved { node, address } => self.nodes.moved(node, address, now),
            Input::Offended { node, offence } => self.nodes.offended(node, offence, now),
            Input::Marked(marks) => self.nodes.marked(marks),
            Input::Cleared { node } => self.nodes.cleared(node),
            Input::Forget { person } => self.house.forget(&person),
            Input::Learned { person, device } => {
                if self.owner_of(&device).is_none() {
                    let owner = self.settings.people.iter_mut().find(|known| known.name == person);
                    owner.into_iter().for_each(|owner| owner.devices.push(device.clone()));
                    self.house.tracker.learn(&person, device, now.mono);
                }
            }
            Input::Unlearned { device } => {
                self.settings.people.iter_mut().for_each(|person| person.devices.retain(|known| *known != device));
                self.house.tracker.unlearn(&device, now.mono);
            }
        }
        let decided = self.house.settle(&self.settings, cause, now);
        if decided.iter().any(|effect| matches!(effect, Effect::Publish { .. })) {
            self.nodes.published(now.mono);
            only = None;
        }
        effects.extend(decided);
        self.nodes.look(only, now.mono);
        let troubles = troubles::of(only, &self.settings, &self.house, &self.nodes, now);
        effects.extend(self.troubles.changes(only, troubles, &self.settings, &self.house, &self.nodes));
        effects
    }

    /// The state that holds now.
    pub fn state(&self) -> &StateV1 {
        &self.house.memory.state
    }

    /// Whether somebody's arm command waits for its exit delay.
    pub fn is_arming(&self) -> bool {
        self.house.memory.pending.is_some()
    }

    /// Whether it looks for people at all.
    pub fn looks_for_people(&self) -> bool {
        self.settings.presence_enabled
    }

    /// Who lives here, with all devices that they have.
    pub fn people(&self) -> &[Person] {
        &self.settings.people
    }

    /// Whose device it is.
    pub fn owner_of(&self, device: &Device) -> Option<&str> {
        self.settings.people.iter().find(|person| person.devices.contains(device)).map(|person| person.name.as_str())
    }

    /// Whether a device of somebody was looked for and not found.
    pub fn is_gone(&self, device: &Device, now: Now) -> bool {
        self.house.tracker.is_gone(device, now.mono)
    }

    /// The devices of a person of the config.
    pub fn devices_of(&self, person: &str) -> Vec<Device> {
        let people = self.settings.people.iter().filter(|known| known.name == person);
        people.flat_map(|known| known.devices.clone()).collect()
    }

    /// Who is home, as it was at the last input.
    pub fn presence(&self) -> Presence {
        self.house.presence
    }

    /// All that is shown.
    pub fn dashboard(&self, now: Now) -> Dashboard {
        let memory = &self.house.memory;
        Dashboard {
            state: memory.state.arm_state(),
            epoch: memory.state.epoch,
            rev: memory.state.rev,
            reason: memory.reason.clone(),
            since: memory.state.since,
            override_until: memory.over.as_ref().and_then(|over| over.until),
            overridden: memory.over.is_some(),
            window: self.house.window(&self.settings, now),
            next_window: self.settings.windows.next(now.at).filter(|_| now.trusted),
            pending: memory.pending.as_ref().map(|(over, when)| (over.state, *when)),
            presence: self.house.presence,
            blind: self.house.tracker.blindness(now.mono).filter(|_| self.settings.presence_enabled).map(|(why, _)| why.to_owned()),
            presence_enabled: self.settings.presence_enabled,
            people: self.house.tracker.person_views(now.mono),
            nodes: self.nodes.views(&self.settings, &self.house, now),
            problems: troubles::of(None, &self.settings, &self.house, &self.nodes, now).into_iter().map(|trouble| trouble.text).collect(),
            notes: [(self.house.waits_for_a_person(), ONLY_A_PERSON), (self.nodes.nobody_tells(), NOBODY_TELLS)]
                .into_iter()
                .filter(|(is_so, _)| *is_so)
                .map(|(_, words)| words.to_owned())
                .collect(),
            clock_trusted: now.trusted,
            mail: None,
            frames: None,
            devices: Vec::new(),
            phones: crate::dashboard::Phones::default(),
        }
    }
}

#[cfg(test)]
mod tests;
