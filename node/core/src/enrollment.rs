//! One-time tokens: issue, redeem, expire. The coordinator keeps only the public half of the key that the secret yields.

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, TokenId};
use crate::time::Timestamp;

/// A token as the coordinator keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub id: TokenId,
    /// Raw Ed25519 public key derived from the secret.
    pub key: [u8; 32],
    /// Name for the node, if the person gave one.
    pub name: Option<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub uses: u32,
    pub used_by: Vec<NodeId>,
    /// Nodes that confirmed with `Stored`.
    pub stored_by: Vec<NodeId>,
    pub bad_signatures: u32,
    pub cancelled: bool,
}
