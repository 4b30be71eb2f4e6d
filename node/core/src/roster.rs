//! Who is enrolled, with what role; who is revoked. The row is the authority, not the certificate.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::time::Timestamp;

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    Coordinator,
    Camera,
}

/// Whether a valid certificate of this node means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    Active,
    Revoked,
}

/// One enrolled node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterRow {
    pub node: NodeId,
    pub role: NodeRole,
    pub name: String,
    pub status: NodeStatus,
    pub enrolled_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// The token it was enrolled with; `None` for the coordinator itself.
    pub token: Option<crate::id::TokenId>,
}

/// Longest name of a node or person, in characters.
pub const NAME_LIMIT: usize = 40;

/// A name that people gave: trimmed, 1 to 40 characters, no control characters. Emoji and right-to-left are names too.
pub fn check_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    if name.chars().count() > NAME_LIMIT {
        return Err(format!("a name has at most {NAME_LIMIT} characters, this one has {}", name.chars().count()));
    }
    if name.chars().any(char::is_control) {
        return Err("a name must not contain control characters such as line breaks".to_owned());
    }
    Ok(name.to_owned())
}
