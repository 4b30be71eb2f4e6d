//! What a node presents: its key, its certificate, the one that signed it, and the trust bundle it lives under.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dms3_core::id::{MeshId, NodeId};
use dms3_core::protocol::frame;
use dms3_core::protocol::message::SignedBundleV1;
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::chain::{Leaf, Refusal, Usage, check_chain, check_usage, read_leaf};
use crate::{LEAF_LIFE, NodeKey, PkiError, TrustBundle, TrustedRoot, files};

/// The node's key (PEM), made before pairing.
pub const KEY_FILE: &str = "node.key";
/// Leaf, issuing certificate and bundle in one file, so that no crash leaves parts of two identities.
const IDENTITY_FILE: &str = "identity";

/// An enrolled node's identity. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    key: Arc<NodeKey>,
    leaf: CertificateDer<'static>,
    issuing: CertificateDer<'static>,
    bundle: Arc<TrustBundle>,
    said: Leaf,
}

#[derive(Serialize, Deserialize)]
struct IdentityFileV1 {
    version: u8,
    leaf: Vec<u8>,
    issuing: Vec<u8>,
    bundle: SignedBundleV1,
}

impl Identity {
    /// Puts the parts together once they fit: the leaf is for this key, in this house, for its role, in force at `now`.
    pub fn new(key: Arc<NodeKey>, leaf: Vec<u8>, issuing: Vec<u8>, bundle: TrustBundle, now: Timestamp) -> Result<Self, PkiError> {
        let said = read_leaf(&leaf, &bundle.mesh())?;
        if said.node != key.id() {
            return Err(PkiError::ForeignLeaf);
        }
        if said.role == NodeRole::Coordinator {
            check_usage(&leaf, Usage::Server)?;
            if !bundle.is_coordinator(&said.node) {
                return Err(Refusal::NotInBundle.into());
            }
        }
        check_usage(&leaf, Usage::Client)?;
        let (leaf, issuing) = (CertificateDer::from(leaf), CertificateDer::from(issuing));
        check_chain(&leaf, std::slice::from_ref(&issuing), bundle.anchors(), Usage::Client, now)?;
        Ok(Self { key, leaf, issuing, bundle: Arc::new(bundle), said })
    }

    /// The identity in a state directory; `None` if the node is not enrolled yet.
    pub fn load(dir: &Path) -> Result<Option<Self>, PkiError> {
        let path = dir.join(IDENTITY_FILE);
        let Some(bytes) = files::read_private(&path)? else { return Ok(None) };
        let file: IdentityFileV1 = frame::from_bytes(&bytes).map_err(|why| PkiError::damaged(&path, why))?;
        if file.version != 1 {
            return Err(PkiError::damaged(&path, "it was written by a newer version"));
        }
        let key = Arc::new(NodeKey::load(&dir.join(KEY_FILE))?);
        let root = frame::from_bytes::<dms3_core::protocol::message::BundleV1>(&file.bundle.payload)
            .ok()
            .and_then(|bundle| bundle.roots.into_iter().next())
            .ok_or_else(|| PkiError::damaged(&path, "its trust bundle names no root"))?;
        let bundle = TrustBundle::verify(&file.bundle, TrustedRoot::Certificate(&root)).map_err(|why| PkiError::damaged(&path, why))?;
        // An expired certificate is still ours: it opens the link on which it is renewed.
        let at = read_leaf(&file.leaf, &bundle.mesh()).map_err(|why| PkiError::damaged(&path, why))?.not_after;
        Self::new(key, file.leaf, file.issuing, bundle, at).map(Some).map_err(|why| PkiError::damaged(&path, why))
    }

    /// Replaces the identity in the state directory whole. The key must lie there already ([`NodeKey::save_new`]).
    pub fn store(&self, dir: &Path) -> Result<(), PkiError> {
        let file =
            IdentityFileV1 { version: 1, leaf: self.leaf.to_vec(), issuing: self.issuing.to_vec(), bundle: self.bundle.signed().clone() };
        let bytes = frame::to_bytes(&file).map_err(PkiError::Encoding)?;
        files::write_atomic(&dir.join(IDENTITY_FILE), &bytes, files::PRIVATE)
    }

    /// The same node with a renewed certificate (leaf first, then the one that signed it).
    pub fn renewed(&self, chain: &[Vec<u8>], now: Timestamp) -> Result<Self, PkiError> {
        let (leaf, issuing) = match chain {
            [leaf, issuing, ..] => (leaf.clone(), issuing.clone()),
            [leaf] => (leaf.clone(), self.issuing.to_vec()),
            [] => return Err(Refusal::Unreadable.into()),
        };
        Self::new(self.key.clone(), leaf, issuing, self.bundle.as_ref().clone(), now)
    }

    /// The same node under a newer bundle of the same root; `None` if it is not newer.
    pub fn with_bundle(&self, signed: &SignedBundleV1) -> Result<Option<Self>, PkiError> {
        Ok(self.bundle.newer(signed)?.map(|bundle| Self { bundle: Arc::new(bundle), ..self.clone() }))
    }

    pub fn key(&self) -> &Arc<NodeKey> {
        &self.key
    }

    pub fn node(&self) -> NodeId {
        self.said.node
    }

    pub fn role(&self) -> NodeRole {
        self.said.role
    }

    pub fn mesh(&self) -> MeshId {
        self.bundle.mesh()
    }

    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// DER.
    pub fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    /// DER.
    pub fn issuing(&self) -> &[u8] {
        &self.issuing
    }

    pub fn not_after(&self) -> Timestamp {
        self.said.not_after
    }

    /// When to renew: after a third of the life, ±10 %. `jitter` is drawn once from 0.0..1.0, so that a house full of cameras does not
    /// renew at once.
    pub fn renew_at(&self, jitter: f64) -> Timestamp {
        let third = LEAF_LIFE / 3;
        self.said.not_after - LEAF_LIFE + third.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
    }

    /// Life that is left at `now`.
    pub fn left(&self, now: Timestamp) -> Duration {
        self.said.not_after.since(now)
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.clone(), self.issuing.clone()]
    }
}
