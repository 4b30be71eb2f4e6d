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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::forge::{House, Lookalike, NOW, SECOND, sign_by};

    fn refused(result: Result<Identity, PkiError>) -> PkiError {
        result.expect_err("it does not fit")
    }

    #[test]
    fn a_node_finds_its_identity_again_after_a_restart_even_when_it_has_expired() {
        let house = House::found();
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::load(dir.path()).unwrap().is_none(), "not enrolled yet");
        house.camera.key().save_new(&dir.path().join(KEY_FILE)).unwrap();
        assert!(Identity::load(dir.path()).unwrap().is_none(), "a key alone is no enrollment");
        house.camera.store(dir.path()).unwrap();
        let again = Identity::load(dir.path()).unwrap().unwrap();
        assert_eq!((again.node(), again.role(), again.mesh()), (house.camera.node(), NodeRole::Camera, house.authority.mesh()));
        assert_eq!((again.leaf(), again.issuing()), (house.camera.leaf(), house.camera.issuing()));
        assert_eq!(std::fs::metadata(dir.path().join(IDENTITY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_identity_or_one_of_another_key_is_an_error_and_never_a_fresh_start() {
        let house = House::found();
        let dir = tempfile::tempdir().unwrap();
        house.camera.store(dir.path()).unwrap();
        assert!(Identity::load(dir.path()).is_err(), "the key is gone");
        NodeKey::generate().unwrap().save_new(&dir.path().join(KEY_FILE)).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(PkiError::Damaged { .. })), "another key");
        let path = dir.path().join(IDENTITY_FILE);
        let bytes = std::fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() / 2], &[], &[0; 64], &[&bytes[..], &[0]].concat()] {
            files::write_atomic(&path, damaged, files::PRIVATE).unwrap();
            assert!(matches!(Identity::load(dir.path()), Err(PkiError::Damaged { .. })));
        }
    }

    #[test]
    fn a_grant_is_kept_only_if_every_part_fits() {
        let house = House::found();
        let (key, bundle, issuing) = (house.camera.key(), house.camera.bundle().as_ref(), house.camera.issuing().to_vec());
        let assemble = |leaf: Vec<u8>, now| Identity::new(key.clone(), leaf, issuing.clone(), bundle.clone(), now);
        assert!(assemble(house.camera.leaf().to_vec(), NOW).is_ok());

        let other = house.coordinator.leaf().to_vec();
        assert!(matches!(refused(assemble(other, NOW)), PkiError::ForeignLeaf));
        let expired = refused(assemble(house.camera.leaf().to_vec(), house.camera.not_after() + SECOND));
        assert!(matches!(expired, PkiError::Refused(Refusal::Expired)));
        let mut params = house.params(key.as_ref(), NodeRole::Camera);
        params.extended_key_usages.clear();
        assert!(matches!(refused(assemble(house.sign(&params, key.as_ref()), NOW)), PkiError::Refused(Refusal::Usage)));
        let fake = Lookalike::of(&house);
        let forged = sign_by(&house.params(key.as_ref(), NodeRole::Camera), key.as_ref(), &fake.issuing, &fake.issuing_key);
        assert!(matches!(refused(assemble(forged, NOW)), PkiError::Refused(Refusal::Signature)));
        let elsewhere = House::found();
        let foreign = elsewhere.authority.issue(&key.csr().unwrap(), NodeRole::Camera, &key.id(), NOW).unwrap();
        assert!(matches!(refused(assemble(foreign, NOW)), PkiError::Refused(Refusal::Names)));

        let unnamed = house.sign(&house.params(key.as_ref(), NodeRole::Coordinator), key.as_ref());
        assert!(matches!(refused(assemble(unnamed, NOW)), PkiError::Refused(Refusal::NotInBundle)));
        let coordinator = house.coordinator.key();
        let mut params = house.params(coordinator.as_ref(), NodeRole::Coordinator);
        params.extended_key_usages.retain(|usage| *usage != rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        let mute = Identity::new(coordinator.clone(), house.sign(&params, coordinator.as_ref()), issuing.clone(), bundle.clone(), NOW);
        assert!(matches!(refused(mute), PkiError::Refused(Refusal::Usage)));
    }

    #[test]
    fn a_renewed_certificate_replaces_the_old_one_only_if_it_is_for_the_same_key() {
        let house = House::found();
        let later = NOW + LEAF_LIFE / 2;
        let (key, id) = (house.camera.key(), house.camera.node());
        let chain = house.authority.issue_chain(&key.csr().unwrap(), NodeRole::Camera, &id, later).unwrap();
        let renewed = house.camera.renewed(&chain, later).unwrap();
        assert_eq!((renewed.node(), renewed.not_after()), (id, later + LEAF_LIFE));
        let alone = house.camera.renewed(&chain[..1], later).unwrap();
        assert_eq!(alone.issuing(), house.camera.issuing());
        assert!(house.camera.renewed(&[], later).is_err());
        assert!(matches!(house.camera.renewed(&[house.coordinator.leaf().to_vec()], NOW), Err(PkiError::ForeignLeaf)));

        let own = house.authority.renew_own(&house.coordinator, later).unwrap();
        assert_eq!((own.role(), own.not_after()), (NodeRole::Coordinator, later + LEAF_LIFE));
    }

    #[test]
    fn renewal_comes_after_a_third_of_the_life_give_or_take_a_tenth() {
        let house = House::found();
        let day = |n: u64| NOW + Duration::from_secs(n * 24 * 60 * 60);
        for (jitter, expected) in [(0.0, day(27)), (0.5, day(30)), (1.0, day(33)), (7.0, day(33))] {
            let at = house.camera.renew_at(jitter);
            assert!(at.since(expected) < SECOND && expected.since(at) < SECOND, "{jitter}: {at}");
        }
        assert_eq!(house.camera.left(day(89)), Duration::from_secs(24 * 60 * 60));
    }

    #[test]
    fn a_newer_bundle_is_taken_over_and_an_older_one_is_not() {
        let house = House::found();
        let newer = house.bundle(2, vec![house.coordinator.node(), house.camera.node()]);
        let identity = house.camera.with_bundle(newer.signed()).unwrap().unwrap();
        assert_eq!(identity.bundle().coordinators().len(), 2);
        assert!(identity.with_bundle(house.camera.bundle().signed()).unwrap().is_none());
        assert!(house.camera.with_bundle(House::found().camera.bundle().signed()).is_err());
    }
}
