//! All that is shown of the house, as plain data: what `status`, `nodes` and the dashboard render.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::conduct::{Blame, Twice};
use crate::id::NodeId;
use crate::presence::{Device, Frames, MacAddr, Presence, Sensor};
use crate::protocol::message::{HealthV1, LiveView};
use crate::roster::{NodeRole, NodeStatus};
use crate::time::Timestamp;
use crate::windows::Span;

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
    /// The strongest window in force, whether or not a person's choice overrules it.
    #[serde(default)]
    pub window: Option<Span>,
    /// Begins next, within a week.
    #[serde(default)]
    pub next_window: Option<Span>,
    /// Exit delay: the state that comes, and when.
    pub pending: Option<(ArmState, Timestamp)>,
    pub presence: Presence,
    /// Why the sensors see nothing, if so.
    pub blind: Option<String>,
    /// False: the house looks for nobody, by its config.
    #[serde(default)]
    pub presence_enabled: bool,
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
    /// `None`: this house mails nothing.
    #[serde(default)]
    pub mail: Option<MailView>,
    /// What looking for people has cost the network since the coordinator started. `None`: it looks for nobody.
    #[serde(default)]
    pub frames: Option<Frames>,
    /// What people should know of their devices (a private address, an extender). It names them: not for viewers.
    #[serde(default)]
    pub devices: Vec<String>,
    /// They name people: not for viewers.
    #[serde(default)]
    pub phones: Phones,
}

impl Dashboard {
    /// What time it is for the coordinator that says this: its own machine's clock may be wrong.
    pub fn now(&self) -> Option<Timestamp> {
        self.nodes.iter().find(|node| node.role == NodeRole::Coordinator)?.last_contact
    }
}

/// Devices beside those of the config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phones {
    pub learned: Vec<LearnedDevice>,
    /// For an owner to decide.
    pub asking: Vec<AskingView>,
}

/// A device that somebody taught the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedDevice {
    pub person: String,
    /// No host name.
    pub device: Device,
    pub at: Timestamp,
    pub by: String,
}

/// A device that may be a person's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskingView {
    pub person: String,
    pub mac: MacAddr,
    pub addresses: Vec<IpAddr>,
    /// A device of that person which is gone, and whose address or name it has now. `None`: it opened the link that was made for that person.
    pub like: Option<MacAddr>,
    /// As both called themselves.
    #[serde(default)]
    pub name: Option<String>,
}

/// Mails that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailView {
    pub waiting: u64,
    pub oldest: Option<Timestamp>,
    /// Why, if it was tried.
    pub why: Option<String>,
    /// Given up, since ever.
    pub lost: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonView {
    pub name: String,
    pub presence: Presence,
    /// False: neither holds the house open nor disarms it.
    #[serde(default = "counts")]
    pub counts: bool,
    pub last_seen: Option<Timestamp>,
    pub device: Option<String>,
    pub sensor: Option<Sensor>,
    /// So many are known. With none nothing can be known of the person.
    #[serde(default)]
    pub devices: usize,
    /// So many seconds of silence, and probes that nobody answers, until it is taken for gone.
    #[serde(default)]
    pub away_secs: u64,
}

fn counts() -> bool {
    true
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
    /// "debian 12"
    #[serde(default)]
    pub os: Option<String>,
    /// "linux aarch64"
    #[serde(default)]
    pub platform: Option<String>,
    #[serde(default)]
    pub kernel: Option<String>,
    pub version: Option<String>,
    pub last_contact: Option<Timestamp>,
    /// What it acknowledged last: (epoch, rev).
    pub applied: Option<(u32, u64)>,
    /// Whether that is the state of now.
    pub current: bool,
    pub detectors: Vec<DetectorView>,
    /// From the decision to its acknowledgement of the state of now, in milliseconds.
    pub ack_ms: Option<u64>,
    /// What it said last of its machine.
    pub health: Option<HealthV1>,
    /// Until its disk is full, at the pace of the last days.
    #[serde(default)]
    pub disk_days: Option<u64>,
    /// When its certificate ends.
    #[serde(default)]
    pub cert_end: Option<Timestamp>,
    /// Why it was put out or limited last.
    #[serde(default)]
    pub blame: Option<Blame>,
    /// Two machines use its identity.
    #[serde(default)]
    pub twice: Option<Twice>,
}

/// A detector that should watch now and is not seen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing<'a> {
    pub node: &'a NodeView,
    pub detector: &'a DetectorView,
}

impl Missing<'_> {
    /// "porch", or "porch/garden" where one node drives several cameras or names one otherwise.
    pub fn name(&self) -> String {
        let (node, source) = (&self.node.name, &self.detector.source);
        if self.node.detectors.len() == 1 || node == source { node.clone() } else { format!("{node}/{source}") }
    }
}

impl Dashboard {
    /// How many detectors should watch now, and those that are not seen to.
    pub fn watch(&self) -> (usize, Vec<Missing<'_>>) {
        let nodes = self.nodes.iter().filter(|node| node.status == NodeStatus::Active);
        let all = nodes.flat_map(|node| node.detectors.iter().map(move |detector| Missing { node, detector }));
        let should: Vec<_> = all.filter(|one| one.detector.should_watch).collect();
        let watches = |one: &Missing<'_>| one.node.liveness == "online" && one.detector.phase == "watching";
        (should.len(), should.into_iter().filter(|one| !watches(one)).collect())
    }
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
    #[serde(default)]
    pub live: LiveView,
}
