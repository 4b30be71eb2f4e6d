//! START HERE: every input the coordinator reacts to, every effect it causes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arming::{ArmState, Override};
use crate::dashboard::{Dashboard, PersonView};
use crate::id::{MeshId, NodeId};
use crate::presence::{Device, Person, Sensor};
use crate::protocol::message::{AckV1, DetectorsV1, HealthV1, HelloV1, StateV1};
use crate::roster::RosterRow;
use crate::time::{Now, Timestamp};

/// A disarm is a lease of at most this.
pub const LEASE: Duration = Duration::from_secs(12 * 3600);

/// What the rules need to know of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mesh: MeshId,
    pub me: NodeId,
    pub zone: String,
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
    pub over: Option<Override>,
    /// An arm command in its exit delay: (what, when).
    pub pending: Option<(Override, Timestamp)>,
    pub by_presence: u8,
}

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// `now`: without exit delay.
    Arm {
        state: ArmState,
        until: Option<Timestamp>,
        now: bool,
    },
    Disarm {
        until: Option<Timestamp>,
    },
    /// Ends any override: windows and presence decide again.
    Auto,
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
    },
    LinkDown {
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
    Health {
        node: NodeId,
        report: HealthV1,
    },
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
    /// Ask the device whether it is near, now.
    Probe {
        device: Device,
    },
    /// Tell people. `key` names the condition, so that its end can be told too.
    Alert {
        key: String,
        text: String,
    },
    AlertOver {
        key: String,
        text: String,
    },
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

/// The coordinator's rules. Pure: the same inputs give the same effects.
#[derive(Debug)]
pub struct Coordinator {
    #[expect(dead_code, reason = "rules follow")]
    settings: Settings,
}

impl Coordinator {
    /// `memory`: what was saved last, `None` for a new house (which starts armed, until somebody is known to be home or a person disarms).
    /// The effects must be carried out before the first input.
    pub fn start(settings: Settings, _memory: Option<MemoryV1>, _now: Now) -> (Self, Vec<Effect>) {
        (Self { settings }, Vec::new())
    }

    pub fn handle(&mut self, _input: Input, _now: Now) -> Vec<Effect> {
        Vec::new()
    }

    /// The state that holds now.
    #[expect(clippy::unimplemented, reason = "rules follow")]
    pub fn state(&self) -> &StateV1 {
        unimplemented!()
    }

    /// All that is shown.
    #[expect(clippy::unimplemented, reason = "rules follow")]
    pub fn dashboard(&self, _now: Now) -> Dashboard {
        unimplemented!()
    }
}
