//! Every message of the mesh and of enrollment. A released struct never changes: a new version is a new struct, and the frame's
//! `version` chooses. postcard is not self-describing, so a changed field would be read as something else without an error.

use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::id::{BootId, MeshId, NodeId, TokenId};
use crate::time::Timestamp;

/// TLS application protocol of the mesh port. The number is the major version; servers speak N and N-1.
pub const ALPN_MESH: &[u8] = b"dms3/1";
/// TLS application protocol of the enrollment port.
pub const ALPN_ENROLL: &[u8] = b"dms3-enroll/1";

/// The state of the house as the coordinator signs it. Also what both sides keep on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateV1 {
    pub mesh: MeshId,
    /// Grows when a coordinator finds that it forgot something (a restored backup); compared before `rev`.
    pub epoch: u32,
    /// Grows by one with every new state.
    pub rev: u64,
    /// [`ArmState::to_wire`]; every unknown value means armed.
    pub state: u8,
    /// In words for people: "everybody left".
    pub reason: String,
    /// When the arm state last changed, by the coordinator's clock.
    pub since: Timestamp,
    /// When a disarm ends unless renewed (always present in a disarm), or when an override ends.
    pub until: Option<Timestamp>,
    /// Arming windows, so that a camera alone can still raise the state. Empty until windows exist.
    pub windows: Vec<WindowV1>,
    /// The coordinator's IANA zone, in which windows are read.
    pub zone: String,
}

impl StateV1 {
    pub fn arm_state(&self) -> ArmState {
        ArmState::from_wire(self.state)
    }

    /// States are ordered by this; only a greater one is ever applied.
    pub fn version(&self) -> (u32, u64) {
        (self.epoch, self.rev)
    }
}

/// A time range that asks for a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowV1 {
    /// [`ArmState::to_wire`].
    pub state: u8,
    /// Bit 0 Monday … bit 6 Sunday: the days on which it begins.
    pub days: u8,
    /// Minutes after local midnight, 0..1440. `start > end`: across midnight.
    pub start: u16,
    pub end: u16,
    /// First and last local date as days since 1970-01-01; `None`: no bound.
    pub from_day: Option<i32>,
    pub to_day: Option<i32>,
}

/// The postcard bytes of a [`StateV1`] with the signature of a coordinator's node key over "dms3 state v1" ‖ mesh id ‖ payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStateV1 {
    pub payload: Vec<u8>,
    /// Raw Ed25519 public key of the signer; its node id must be in the trust bundle.
    pub signer: [u8; 32],
    /// 64 bytes.
    pub signature: Vec<u8>,
}

/// Who may act as a coordinator, signed by the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleV1 {
    pub mesh: MeshId,
    /// Only a greater one replaces a bundle.
    pub epoch: u64,
    /// DER certificates of the roots, the first is the one that names the mesh.
    pub roots: Vec<Vec<u8>>,
    pub coordinators: Vec<NodeId>,
}

/// The postcard bytes of a [`BundleV1`] with the first root's signature over "dms3 bundle v1" ‖ mesh id ‖ payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBundleV1 {
    pub payload: Vec<u8>,
    /// 64 bytes (the root's key is Ed25519).
    pub signature: Vec<u8>,
}

/// First message of the side that dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloV1 {
    pub mesh: MeshId,
    pub boot: BootId,
    pub hostname: String,
    /// Of the software, "0.1.0".
    pub version: String,
    /// Operating system name and version in lower case, "debian 12"; "unknown" if it does not tell.
    pub os: String,
    /// "linux x86_64".
    pub platform: String,
    pub kernel: String,
    /// Its trusted time.
    pub time: Timestamp,
    /// The newest signed state that it holds.
    pub held: Option<SignedStateV1>,
    /// Epoch of the trust bundle that it holds.
    pub bundle_epoch: u64,
    /// Names of its detectors.
    pub sources: Vec<String>,
}

/// The answer that makes a link: from here on it is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WelcomeV1 {
    pub boot: BootId,
    /// What is proven of the time, or the time: the other side keeps it as a lower bound for good.
    pub time: Timestamp,
    /// The name under which people know the other side.
    pub name: String,
    /// If newer than the one in Hello.
    pub bundle: Option<SignedBundleV1>,
    /// True: the certificate is expired; anything but a renewal closes the link.
    pub renew_only: bool,
}

/// The answer that ends it; the link is closed after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectV1 {
    /// [`CloseCode`].
    pub code: u16,
    pub detail: String,
}

/// The state, pushed latest-wins and whole after every Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushV1 {
    pub signed: SignedStateV1,
    /// By the clock that wrote `until`, so that a lease is measured against it, and for nothing else: it may be a clock that nobody
    /// vouches for.
    pub time: Timestamp,
}

/// Cameras that one node may drive: a coordinator remembers each of them.
pub const SOURCES_LIMIT: usize = 64;

/// What each source of a node now does about the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckV1 {
    pub epoch: u32,
    pub rev: u64,
    pub sources: Vec<SourceAckV1>,
    /// The signed state that is held now: newer than the pushed one if a restored coordinator pushed an old one, else `None`.
    pub held: Option<SignedStateV1>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceAckV1 {
    pub source: String,
    /// [`ArmState::to_wire`] of what this source obeys: the pushed state, or a stronger one of its own.
    pub effective: u8,
    /// Whether it was told to watch.
    pub watch: bool,
}

/// What the detectors of a node really do. Sent on change and after every Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorsV1 {
    pub sources: Vec<DetectorReportV1>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorReportV1 {
    pub source: String,
    /// [`DetectorPhase`].
    pub phase: u8,
    pub since: Timestamp,
    /// Why, in words, when it failed: the detector's last words.
    pub detail: String,
    /// [`LiveView`].
    pub live: u8,
}

/// When a source may be looked at live, by its own config.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveView {
    #[default]
    Never,
    /// Only while it watches anyway: nobody is looked at in his own disarmed house.
    Watching,
    Always,
}

impl LiveView {
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Never => 1,
            Self::Watching => 2,
            Self::Always => 3,
        }
    }

    /// What is not known shows nothing.
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            2 => Self::Watching,
            3 => Self::Always,
            _ => Self::Never,
        }
    }
}

/// Coordinator to camera, on the control stream: somebody wants to see what this source sees now. The answer is a [`StillV1`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookV1 {
    pub source: String,
}

/// Longest picture of a [`StillV1`], in bytes.
pub const STILL_LIMIT: u32 = 4 << 20;

/// Camera to coordinator, on a stream of its own: what a source sees now. The bytes of a JPEG follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillV1 {
    pub source: String,
    /// Bytes that follow; 0: there is no picture.
    pub length: u32,
    /// Why there is none, in words for people.
    pub why: String,
}

/// What a detector does, as opposed to what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DetectorPhase {
    Stopped,
    Starting,
    Watching,
    Stopping,
    /// Told to watch and not watching; it is tried again with back-off.
    Failed,
    /// Stopped by hand with `pause`.
    Paused,
}

impl DetectorPhase {
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Stopped => 1,
            Self::Starting => 2,
            Self::Watching => 3,
            Self::Stopping => 4,
            Self::Failed => 5,
            Self::Paused => 6,
        }
    }

    /// What is not known is not trusted to watch.
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Stopped,
            2 => Self::Starting,
            3 => Self::Watching,
            4 => Self::Stopping,
            6 => Self::Paused,
            _ => Self::Failed,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Watching => "watching",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Paused => "paused by hand",
        }
    }
}

/// Latest wins; every 30 s and on change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthV1 {
    pub at: Timestamp,
    /// Seconds since the node and the machine started.
    pub node_uptime: u64,
    pub machine_uptime: u64,
    /// Thousandths of a degree Celsius, as the kernel gives it.
    pub cpu_millicelsius: Option<i32>,
    /// One minute load average, in hundredths.
    pub load_centi: u32,
    pub mem_total_kib: u64,
    pub mem_available_kib: u64,
    pub disk_total_mib: u64,
    pub disk_free_mib: u64,
    /// Frames of a type that this version does not know, skipped since the start.
    pub unknown_frames: u64,
    /// Whether its clock is only a lower bound.
    pub clock_trusted: bool,
    pub outbox: OutboxV1,
    /// It mails by itself what the coordinator does not acknowledge, and that the coordinator is gone.
    pub mails: bool,
    /// Whether its power supply is too weak now; `None`: the machine does not tell.
    pub under_voltage: Option<bool>,
    /// Calls of hooks that wait in its spool.
    pub spool: u64,
}

/// What waits on a camera.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxV1 {
    /// Events that the coordinator lacks, or of which it lacks something.
    pub waiting: u64,
    /// Bytes of pictures and clips on the camera's disk.
    pub bytes: u64,
    /// When the oldest of them was made.
    pub oldest: Option<Timestamp>,
    /// Pictures, clips and entries that could not be kept, since ever.
    pub lost: u64,
    /// Events that the coordinator will not take.
    pub refused: u64,
}

/// Asks for a new certificate over the same key, on a live link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewV1 {
    /// PKCS#10 in DER.
    pub csr: Vec<u8>,
}

/// The renewed certificate, leaf first (DER).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedV1 {
    pub chain: Vec<Vec<u8>>,
}

/// Enrollment: what the Pi says once it has checked the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginV1 {
    pub token: TokenId,
    /// PKCS#10 in DER.
    pub csr: Vec<u8>,
    pub hostname: String,
    pub version: String,
    /// Signature of the token key over "dms3 enroll" ‖ TLS exporter("dms3-enroll", 32 bytes) ‖ SHA-256(csr). 64 bytes.
    pub signature: Vec<u8>,
}

/// Enrollment: all that the Pi needs to be of the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantV1 {
    pub leaf: Vec<u8>,
    pub issuing: Vec<u8>,
    pub bundle: SignedBundleV1,
    pub coordinators: Vec<CoordinatorHintV1>,
    pub time: Timestamp,
    pub name: String,
}

/// Where a coordinator may be; who it is only its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorHintV1 {
    pub node: NodeId,
    /// Of the mesh. Its address is the one that answered the enrollment.
    pub port: u16,
}

/// Enrollment: a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyV1 {
    /// [`DenyCode`].
    pub code: u16,
    /// Milliseconds to wait before trying again; 0: do not.
    pub retry_after: u32,
}

/// Enrollment: the Pi has everything on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredV1 {}

/// Why an enrollment was refused. Kept coarse: a stranger learns nothing about tokens that he does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyCode {
    Busy = 1,
    /// Unknown, expired, cancelled, used up, or the signature is wrong: one answer for all.
    Token = 2,
    Locked = 3,
    Malformed = 4,
    /// The coordinator's clock is not to be trusted: it issues nothing.
    Clock = 5,
    Internal = 6,
    /// This node was revoked.
    Revoked = 7,
}

impl DenyCode {
    pub fn from_wire(code: u16) -> Option<Self> {
        [Self::Busy, Self::Token, Self::Locked, Self::Malformed, Self::Clock, Self::Internal, Self::Revoked]
            .into_iter()
            .find(|known| *known as u16 == code)
    }

    /// What happened and what to do, for the person at the Pi.
    pub fn words(self) -> &'static str {
        match self {
            Self::Busy => "the coordinator is pairing others right now; trying again",
            Self::Token => {
                "the coordinator does not take this token: it is used up, expired, cancelled or of another house. Make a new one with `dms3-node token new`"
            }
            Self::Locked => "this token was locked after too many wrong attempts. Make a new one with `dms3-node token new`",
            Self::Malformed => "the coordinator could not read our request: are both nodes of the same version?",
            Self::Clock => {
                "the coordinator's clock is not vouched for, so it signs nothing. Let it reach a time server, or if its clock is right, run `sudo dms3-node time accept` there; then enrol again"
            }
            Self::Internal => "the coordinator could not store the pairing: see its log",
            Self::Revoked => "this node was revoked by a person. Remove its state directory to give it a new key, then pair it anew",
        }
    }
}

/// Why a link was closed or refused: QUIC application close codes and [`RejectV1::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// Said by a node that stops on purpose.
    GoingDown = 1,
    /// A newer link of the same node took over.
    TakenOver = 2,
    Revoked = 3,
    /// A frame that breaks the rules: too long, unreadable, of an unknown type that must be understood.
    Protocol = 4,
    /// It spoke of another mesh.
    WrongMesh = 5,
    /// Too slow: Hello, a write or a read took longer than allowed.
    Timeout = 6,
    /// Not in the roster.
    NotEnrolled = 7,
    /// Too many at once or too often; come again later.
    Busy = 8,
    /// An expired certificate asked for something else than a renewal.
    RenewOnly = 9,
    Internal = 10,
    /// The certificate was renewed or the trust bundle changed: dial again.
    Resync = 11,
    /// The one that answered is no coordinator of this house.
    NotACoordinator = 12,
    /// The side that dialled took another of its dials.
    Spare = 13,
}

impl CloseCode {
    pub const ALL: [Self; 13] = [
        Self::GoingDown,
        Self::TakenOver,
        Self::Revoked,
        Self::Protocol,
        Self::WrongMesh,
        Self::Timeout,
        Self::NotEnrolled,
        Self::Busy,
        Self::RenewOnly,
        Self::Internal,
        Self::Resync,
        Self::NotACoordinator,
        Self::Spare,
    ];

    pub fn from_wire(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u64 == code)
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::GoingDown => "the other side is going down on purpose",
            Self::TakenOver => "a newer link of the same node took over (if this repeats, two machines use one identity)",
            Self::Revoked => "this node was revoked by a person",
            Self::Protocol => "a message broke the rules of the protocol",
            Self::WrongMesh => "the other side belongs to another house",
            Self::Timeout => "the other side was too slow",
            Self::NotEnrolled => "this node is not enrolled here",
            Self::Busy => "the other side is busy",
            Self::RenewOnly => "the certificate is expired and may only be renewed",
            Self::Internal => "the other side had an internal error: see its log",
            Self::Resync => "the other side asks to dial again",
            Self::NotACoordinator => "the node that answered is no coordinator of this house",
            Self::Spare => "the other side dialled more than once and took another link",
        }
    }
}
