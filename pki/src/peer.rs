//! Who the other side of a link is, read from a chain that the TLS verifier has accepted.

use dms3_core::id::{MeshId, NodeId};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rustls::pki_types::CertificateDer;

use crate::chain::{Refusal, read_leaf};

/// A peer, as its certificate names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    pub node: NodeId,
    pub role: NodeRole,
    /// Its certificate is past its end: it may renew and nothing else.
    pub expired: bool,
    pub not_after: Timestamp,
}

/// Reads the leaf (first) of a verified chain.
pub fn peer_identity(certificates: &[CertificateDer<'_>], mesh: &MeshId, now: Timestamp) -> Result<PeerIdentity, Refusal> {
    let leaf = read_leaf(certificates.first().ok_or(Refusal::Unreadable)?, mesh)?;
    Ok(PeerIdentity { node: leaf.node, role: leaf.role, expired: now > leaf.not_after, not_after: leaf.not_after })
}
