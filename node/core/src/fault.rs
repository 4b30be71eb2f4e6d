//! What can be wrong so that people are told of it: facts, of which mails make their words.

use serde::{Deserialize, Serialize};

/// A condition that people are told of, or something that happened and is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Names the condition: the same at its begin and its end.
    pub key: String,
    pub kind: FaultKind,
    /// One sentence, for `status` and the log.
    pub text: String,
}

/// What it is, and whom it is about, as people call it. Stored: only append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// Nothing is heard of a camera while the house is armed.
    CameraLost { camera: String },
    /// The node of a camera is there and gets no picture of it.
    NoPicture { camera: String },
    /// It is connected and has not confirmed that the house is armed.
    Unconfirmed { camera: String },
    /// It should watch and does not; `why` are the last words of its detector.
    DetectorFailed { camera: String, why: String },
    /// It watches although the house does not ask for it.
    ArmedItself { camera: String },
    /// It cannot be seen who is home.
    Blind { why: String },
    /// Of the disk of this node.
    DiskNearlyFull { node: String, free_mib: u64 },
    /// So many of its events do not get to the coordinator, though the camera is linked.
    OutboxStuck { camera: String, waiting: u64 },
    /// A pairing word was tried wrongly too often, last from this address.
    TokenLocked { source: String },
    /// A camera holds a newer state than the coordinator remembers.
    StateConflict,
    /// Told by a camera: nothing is heard of the coordinator.
    CoordinatorGone { told_by: String },
    /// What the text says is all.
    Other,
    /// Somebody at this address tries passwords of the dashboard: so many wrong ones.
    PasswordsGuessed { source: String, count: u32 },
    /// Two machines use the identity of this camera, at these addresses.
    IdentityTwice { camera: String, one: String, other: String },
    /// It breaks the rules and was put out again and again; `why` is the last reason.
    PutOut { camera: String, why: String },
}

impl Fault {
    pub fn new(key: impl Into<String>, kind: FaultKind, text: impl Into<String>) -> Self {
        Self { key: key.into(), kind, text: text.into() }
    }
}

impl FaultKind {
    /// With texts of at most so many bytes each, whole characters.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        let texts = match &mut self {
            Self::CameraLost { camera }
            | Self::NoPicture { camera }
            | Self::Unconfirmed { camera }
            | Self::ArmedItself { camera }
            | Self::OutboxStuck { camera, .. } => [Some(camera), None, None],
            Self::DetectorFailed { camera, why } | Self::PutOut { camera, why } => [Some(camera), Some(why), None],
            Self::IdentityTwice { camera, one, other } => [Some(camera), Some(one), Some(other)],
            Self::Blind { why: text }
            | Self::DiskNearlyFull { node: text, .. }
            | Self::TokenLocked { source: text }
            | Self::PasswordsGuessed { source: text, .. }
            | Self::CoordinatorGone { told_by: text } => [Some(text), None, None],
            Self::StateConflict | Self::Other => [None, None, None],
        };
        for text in texts.into_iter().flatten() {
            text.truncate(text.floor_char_boundary(bytes));
        }
        self
    }
}
