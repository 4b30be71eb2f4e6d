//! The house's certificate authority: a root that is rarely needed, and an issuing key for daily life.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dms3_core::id::{MeshId, NodeId};
use dms3_core::protocol::message::{BundleV1, SignedBundleV1};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rcgen::{Issuer, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;

use crate::node_key::{node_id_of_public, public_of_spki, spki_of_public, verify};
use crate::profile::{self, mesh_id_of_root, mesh_id_of_spki, root_pin_of};
use crate::{Identity, NodeKey, PkiError, TrustBundle, TrustedRoot, bundle, chain, files, pem};

/// The directory of the authority in the state directory of a coordinator.
pub const AUTHORITY_DIR: &str = "ca";
const ROOT_KEY: &str = "root.key";
const ROOT_CERTIFICATE: &str = "root.crt";
const ISSUING_KEY: &str = "issuing.key";
const ISSUING_CERTIFICATE: &str = "issuing.crt";
/// An honest request has about 150 bytes.
const REQUEST_LIMIT: usize = 2048;

/// An opened authority. The root key stays on disk (or off the box) and is read only to sign with it.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    mesh: MeshId,
    root: Vec<u8>,
    issuing: Vec<u8>,
    issuing_key: NodeKey,
}

impl Authority {
    /// Founds a house: makes root and issuing keys and certificates in the new directory `dir`. Never touches one that is there.
    /// After a crash at any moment the directory is absent or whole.
    pub fn create(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        if fs::symlink_metadata(dir).is_ok() {
            return Err(PkiError::Exists(dir.to_owned()));
        }
        let unfinished = dir.with_extension("unfinished");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(PkiError::file("remove", &unfinished)(error)),
            _ => {}
        }
        files::create_dir_private(&unfinished)?;

        let root_key = NodeKey::generate()?;
        let mesh = mesh_id_of_spki(&spki_of_public(&root_key.public()));
        let root_params = profile::root(&mesh)?;
        let root = root_params.self_signed(&root_key)?.der().to_vec();
        let issuing_key = NodeKey::generate()?;
        let issuing = sign_issuing(&mesh, &root, &root_key, &issuing_key, now)?;
        root_key.save_new(&unfinished.join(ROOT_KEY))?;
        issuing_key.save_new(&unfinished.join(ISSUING_KEY))?;
        write_certificate(&unfinished.join(ROOT_CERTIFICATE), &root)?;
        write_certificate(&unfinished.join(ISSUING_CERTIFICATE), &issuing)?;

        fs::rename(&unfinished, dir).map_err(PkiError::file("create", dir))?;
        files::sync_parent(dir)?;
        Ok(Self { dir: dir.to_owned(), mesh, root, issuing, issuing_key })
    }

    /// Opens what [`Authority::create`] made. Works without the root key.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let root = read_certificate(&dir.join(ROOT_CERTIFICATE))?;
        let issuing_path = dir.join(ISSUING_CERTIFICATE);
        let issuing = read_certificate(&issuing_path)?;
        let issuing_key = NodeKey::load(&dir.join(ISSUING_KEY))?;
        if chain::ed25519_key(&issuing)? != issuing_key.public() {
            return Err(PkiError::damaged(&issuing_path, "it is not the certificate of issuing.key"));
        }
        Ok(Self { dir: dir.to_owned(), mesh: mesh_id_of_root(&root)?, root, issuing, issuing_key })
    }

    pub fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// What tokens say of the root.
    pub fn root_pin(&self) -> Result<[u8; 16], PkiError> {
        Ok(root_pin_of(&self.root)?)
    }

    /// Whether the root key lies on this machine: whoever steals it can name coordinators.
    pub fn root_on_box(&self) -> bool {
        fs::symlink_metadata(self.root_key_path()).is_ok()
    }

    pub fn root_der(&self) -> &[u8] {
        &self.root
    }

    pub fn issuing_der(&self) -> &[u8] {
        &self.issuing
    }

    /// The end of the issuing certificate: five years after it was made.
    pub fn issuing_not_after(&self) -> Result<Timestamp, PkiError> {
        Ok(chain::not_after(&chain::parse(&self.issuing)?))
    }

    /// A leaf for the key of a certificate request, for 90 days. The request must be signed by that key, and the key be `expected`'s;
    /// whatever else it asks for is ignored.
    pub fn issue(&self, csr: &[u8], role: NodeRole, expected: &NodeId, now: Timestamp) -> Result<Vec<u8>, PkiError> {
        let public = read_request(csr)?;
        if node_id_of_public(&public) != *expected {
            return Err(PkiError::Request("it is for another key than the one it belongs to"));
        }
        let latest = self.issuing_not_after()?;
        if latest <= now {
            return Err(PkiError::IssuingExpired);
        }
        let params = profile::leaf(&self.mesh, expected, role, now, latest)?;
        let key = SubjectPublicKeyInfo::from_der(&spki_of_public(&public))?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(self.issuing.as_slice()), &self.issuing_key)?;
        Ok(params.signed_by(&key, &issuer)?.der().to_vec())
    }

    /// A leaf and the certificate that signed it, as `Renewed` carries them.
    pub fn issue_chain(&self, csr: &[u8], role: NodeRole, expected: &NodeId, now: Timestamp) -> Result<Vec<Vec<u8>>, PkiError> {
        Ok(vec![self.issue(csr, role, expected, now)?, self.issuing.clone()])
    }

    /// A new issuing certificate over the same key, for five more years. Needs the root key.
    pub fn renew_issuing(&self, now: Timestamp) -> Result<Self, PkiError> {
        let issuing = sign_issuing(&self.mesh, &self.root, &self.root_key()?, &self.issuing_key, now)?;
        write_certificate(&self.dir.join(ISSUING_CERTIFICATE), &issuing)?;
        Self::open(&self.dir)
    }

    /// Names roots and coordinators. Needs the root key.
    pub fn sign_bundle(&self, bundle: &BundleV1) -> Result<SignedBundleV1, PkiError> {
        bundle::sign(&self.root_key()?, bundle)
    }

    /// The first coordinator's own identity: a leaf, and a bundle (epoch 1) that names this node alone. Needs the root key.
    pub fn own_identity(&self, key: Arc<NodeKey>, now: Timestamp) -> Result<Identity, PkiError> {
        let bundle = BundleV1 { mesh: self.mesh, epoch: 1, roots: vec![self.root.clone()], coordinators: vec![key.id()] };
        let bundle = TrustBundle::verify(&self.sign_bundle(&bundle)?, TrustedRoot::Certificate(&self.root))?;
        let leaf = self.issue(&key.csr()?, NodeRole::Coordinator, &key.id(), now)?;
        Identity::new(key, leaf, self.issuing.clone(), bundle, now)
    }

    /// A new leaf for the coordinator itself.
    pub fn renew_own(&self, identity: &Identity, now: Timestamp) -> Result<Identity, PkiError> {
        let chain = self.issue_chain(&identity.key().csr()?, NodeRole::Coordinator, &identity.node(), now)?;
        identity.renewed(&chain, now)
    }

    pub(crate) fn root_key_path(&self) -> PathBuf {
        self.dir.join(ROOT_KEY)
    }

    pub(crate) fn root_key(&self) -> Result<NodeKey, PkiError> {
        let path = self.root_key_path();
        let key = NodeKey::load_if_there(&path)?.ok_or(PkiError::RootAway)?;
        if key.public() != chain::ed25519_key(&self.root)? {
            return Err(PkiError::damaged(&path, "it is not the key of root.crt"));
        }
        Ok(key)
    }
}

/// The node that asks, once its request is proven to be signed by its own key.
pub fn node_of_request(csr: &[u8]) -> Result<NodeId, PkiError> {
    read_request(csr).map(|public| node_id_of_public(&public))
}

/// The raw key of a certificate request that is whole, short, and signed by that key (proof that the asker holds it).
fn read_request(csr: &[u8]) -> Result<[u8; 32], PkiError> {
    if csr.len() > REQUEST_LIMIT {
        return Err(PkiError::Request("it is too long"));
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(csr) else {
        return Err(PkiError::Request("it cannot be read"));
    };
    let info = &request.certification_request_info;
    let public = public_of_spki(info.subject_pki.raw).ok_or(PkiError::Request("its key is not Ed25519"))?;
    if request.signature_algorithm.algorithm != OID_SIG_ED25519 || !verify(&public, info.raw, &request.signature_value.data) {
        return Err(PkiError::Request("it is not signed by its own key"));
    }
    Ok(public)
}

fn sign_issuing(mesh: &MeshId, root: &[u8], root_key: &NodeKey, key: &NodeKey, now: Timestamp) -> Result<Vec<u8>, PkiError> {
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root), root_key)?;
    Ok(profile::issuing(mesh, now)?.signed_by(key, &issuer)?.der().to_vec())
}

fn write_certificate(path: &Path, der: &[u8]) -> Result<(), PkiError> {
    files::write_atomic(path, pem::encode(der, pem::CERTIFICATE).as_bytes(), 0o644)
}

fn read_certificate(path: &Path) -> Result<Vec<u8>, PkiError> {
    let text = fs::read(path).map_err(PkiError::file("read", path))?;
    let der = pem::decode(&text, pem::CERTIFICATE).ok_or_else(|| PkiError::damaged(path, "no certificate in PEM"))?;
    chain::parse(&der).map_err(|why| PkiError::damaged(path, why))?;
    Ok(der.to_vec())
}
