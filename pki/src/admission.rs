//! Whether a node with a valid certificate is let in: the roster row is the authority, not the certificate.

use std::fmt::Debug;

use dms3_core::id::NodeId;
use dms3_core::roster::NodeRole;

/// What the roster says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Active(NodeRole),
    Unknown,
    Revoked,
}

/// Asked in every handshake; must answer at once from memory.
pub trait Admit: Send + Sync + Debug {
    fn admit(&self, node: &NodeId) -> Admission;
}
