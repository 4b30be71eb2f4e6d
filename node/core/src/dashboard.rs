//! All that is shown of the house, as plain data: what `status`, `nodes` and the dashboard render.

use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::id::NodeId;
use crate::presence::{Presence, Sensor};
use crate::roster::{NodeRole, NodeStatus};
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dashboard {
    pub state: ArmState,
    pub epoch: u32,
    pub rev: u64,
    /// "everybody left"
    pub reason: String,
    pub since: Timestamp,
    /// When the override that holds now ends by itself.
    pub override_until: Option<Timestamp>,
    /// Whether a person's choice holds now.
    pub overridden: bool,
    /// Exit delay: the state that comes, and when.
    pub pending: Option<(ArmState, Timestamp)>,
    pub presence: Presence,
    /// Why the sensors see nothing, if so.
    pub blind: Option<String>,
    pub people: Vec<PersonView>,
    /// The coordinator first, then by name.
    pub nodes: Vec<NodeView>,
    /// What needs a person, worst first; empty when all is well.
    pub problems: Vec<String>,
    /// What is good to know and no trouble.
    #[serde(default)]
    pub notes: Vec<String>,
    /// False: the coordinator's own clock is only a lower bound, or nobody vouches for it.
    pub clock_trusted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonView {
    pub name: String,
    pub presence: Presence,
    pub last_seen: Option<Timestamp>,
    pub device: Option<String>,
    pub sensor: Option<Sensor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub node: NodeId,
    pub name: String,
    pub role: NodeRole,
    pub status: NodeStatus,
    /// "online", "late", "lost", "never seen"
    pub liveness: String,
    pub address: Option<String>,
    pub hostname: Option<String>,
    pub version: Option<String>,
    pub last_contact: Option<Timestamp>,
    /// What it acknowledged last: (epoch, rev).
    pub applied: Option<(u32, u64)>,
    /// Whether that is the state of now.
    pub current: bool,
    pub detectors: Vec<DetectorView>,
    /// Seconds from the decision to its acknowledgement of the state of now, in milliseconds.
    pub ack_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorView {
    pub source: String,
    /// Whether it should watch in the state of now.
    pub should_watch: bool,
    /// [`crate::protocol::message::DetectorPhase::words`]
    pub phase: String,
    pub since: Option<Timestamp>,
    pub detail: String,
}
