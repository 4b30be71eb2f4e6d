//! For tests/fuzz alone: what reads foreign bytes in here and is nobody else's business, and a house that has the same keys in each run.

use std::path::Path;
use std::sync::Arc;

use dms3_core::id::NodeId;
use dms3_core::time::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::CertificateDer;

use crate::tls::verifier::{CoordinatorVerifier, NodeVerifier, PinnedVerifier};
use crate::{Admit, Authority, NodeKey, PkiError, Refusal, TrustBundle};

/// A key that whoever reads the tests knows.
pub fn key(seed: &[u8; 32]) -> Option<NodeKey> {
    let public = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    // RFC 8410, section 7: version 2, Ed25519, the private key, the public key.
    let head = [0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    NodeKey::from_pkcs8(&[&head[..], seed, &[0x81, 0x21, 0x00], public.public_key().as_ref()].concat())
}

/// [`Authority::create`] with these keys.
pub fn found(dir: &Path, root_key: &NodeKey, issuing_key: NodeKey, now: Timestamp) -> Result<Authority, PkiError> {
    Authority::found(dir, root_key, issuing_key, now)
}

/// Whom the mesh port lets in.
pub fn judge_node(
    bundle: &Arc<TrustBundle>,
    admit: &Arc<dyn Admit>,
    leaf: &[u8],
    rest: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<NodeId, Refusal> {
    NodeVerifier { bundle: bundle.clone(), admit: admit.clone() }.judge(leaf, rest, now).map_err(|(_, refusal)| refusal)
}

/// Whom a node obeys.
pub fn judge_coordinator(bundle: &Arc<TrustBundle>, leaf: &[u8], rest: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Refusal> {
    CoordinatorVerifier { bundle: bundle.clone() }.judge(leaf, rest, now)
}

/// Whom a node with a token tells it.
pub fn judge_pinned(root_pin: [u8; 16], leaf: &[u8], rest: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Refusal> {
    PinnedVerifier { root_pin }.judge(leaf, rest, now)
}

/// An export of the root key whose passphrase can be guessed as quickly as `rounds` say.
pub fn sealed(authority: &Authority, root_key: &NodeKey, passphrase: &str, rounds: u32) -> Result<String, PkiError> {
    authority.sealed(root_key, passphrase, rounds)
}

/// [`Authority::read_export`] of a file with these bytes.
pub fn opened(authority: &Authority, bytes: Vec<u8>, passphrase: &str) -> Result<NodeKey, PkiError> {
    authority.opened(bytes, Path::new("export"), passphrase)
}
