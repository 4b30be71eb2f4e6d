//! For tests: a house, a forger who may have some of its keys, and a roster that lets everybody in.

use std::sync::Arc;
use std::time::Duration;

use dms3_core::id::NodeId;
use dms3_core::protocol::message::BundleV1;
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use crate::node_key::node_id_of_spki;
use crate::{Admission, Admit, Authority, Identity, NodeKey, TrustBundle, TrustedRoot, profile};

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A house with a coordinator and a camera.
pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) coordinator: Identity,
    pub(crate) camera: Identity,
}

impl House {
    pub(crate) fn found() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), NOW).unwrap();
        let coordinator = authority.own_identity(Arc::new(NodeKey::generate().unwrap()), NOW).unwrap();
        let camera = Self::camera_of(&authority, &coordinator);
        Self { dir, authority, coordinator, camera }
    }

    fn camera_of(authority: &Authority, coordinator: &Identity) -> Identity {
        let key = Arc::new(NodeKey::generate().unwrap());
        let leaf = authority.issue(&key.csr().unwrap(), NodeRole::Camera, &key.id(), NOW).unwrap();
        Identity::new(key, leaf, authority.issuing_der().to_vec(), coordinator.bundle().as_ref().clone(), NOW).unwrap()
    }

    /// The key files as a thief finds them.
    pub(crate) fn root_key(&self) -> NodeKey {
        NodeKey::load(&self.dir.path().join("ca/root.key")).unwrap()
    }

    pub(crate) fn issuing_key(&self) -> NodeKey {
        NodeKey::load(&self.dir.path().join("ca/issuing.key")).unwrap()
    }

    pub(crate) fn bundle(&self, epoch: u64, coordinators: Vec<NodeId>) -> TrustBundle {
        let bundle = BundleV1 { mesh: self.authority.mesh(), epoch, roots: vec![self.authority.root_der().to_vec()], coordinators };
        let signed = self.authority.sign_bundle(&bundle).unwrap();
        TrustBundle::verify(&signed, TrustedRoot::Certificate(self.authority.root_der())).unwrap()
    }

    /// What our authority would write into a leaf for this key.
    pub(crate) fn params(&self, key: &impl PublicKeyData, role: NodeRole) -> CertificateParams {
        let latest = self.authority.issuing_not_after().unwrap();
        profile::leaf(&self.authority.mesh(), &id_of(key), role, NOW, latest).unwrap()
    }

    /// Signed with the stolen issuing key.
    pub(crate) fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Vec<u8> {
        sign_by(params, key, self.authority.issuing_der(), &self.issuing_key())
    }

    /// The certificates that follow a leaf of this house.
    pub(crate) fn above(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.issuing_der().to_vec().into()]
    }

    pub(crate) fn above_with_root(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.issuing_der().to_vec().into(), self.authority.root_der().to_vec().into()]
    }
}

pub(crate) fn id_of(key: &impl PublicKeyData) -> NodeId {
    node_id_of_spki(&key.subject_public_key_info())
}

pub(crate) fn sign_by(params: &CertificateParams, key: &impl PublicKeyData, issuer: &[u8], issuer_key: &impl SigningKey) -> Vec<u8> {
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(issuer), issuer_key).unwrap();
    params.signed_by(key, &issuer).unwrap().der().to_vec()
}

/// A root and an issuing certificate that look exactly like those of `house`, of keys that the forger made.
pub(crate) struct Lookalike {
    pub(crate) root: Vec<u8>,
    pub(crate) issuing: Vec<u8>,
    pub(crate) issuing_key: NodeKey,
}

impl Lookalike {
    pub(crate) fn of(house: &House) -> Self {
        let (root_key, issuing_key) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let mesh = house.authority.mesh();
        let root = profile::root(&mesh).unwrap().self_signed(&root_key).unwrap().der().to_vec();
        let issuing = sign_by(&profile::issuing(&mesh, NOW).unwrap(), &issuing_key, &root, &root_key);
        Self { root, issuing, issuing_key }
    }
}

/// A key of any kind, for rustls and rcgen.
pub(crate) fn key_of(kind: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(kind).unwrap()
}

pub(crate) fn for_tls(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// Gives every node the same answer.
#[derive(Debug)]
pub(crate) struct Roster(pub(crate) Admission);

impl Admit for Roster {
    fn admit(&self, _: &NodeId) -> Admission {
        self.0
    }
}

pub(crate) fn everybody(role: NodeRole) -> Arc<dyn Admit> {
    Arc::new(Roster(Admission::Active(role)))
}
