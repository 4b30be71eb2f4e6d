//! A node's own key: it never leaves the node, and its hash is the node's id.

use std::path::Path;

use dms3_core::id::NodeId;
use ring::digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{PkiError, files, pem};

/// What DER puts before the 32 bytes of an Ed25519 public key to make a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 key pair with its PKCS#8 bytes.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl NodeKey {
    pub fn generate() -> Result<Self, PkiError> {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| PkiError::NoRandom)?;
        Self::from_pkcs8(document.as_ref()).ok_or(PkiError::NoRandom)
    }

    /// Reads a key that [`NodeKey::save_new`] wrote; refuses a file that others may read.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        Self::load_if_there(path)?.ok_or_else(|| PkiError::file("read", path)(std::io::ErrorKind::NotFound.into()))
    }

    /// The same, `None` if there is no such file.
    pub fn load_if_there(path: &Path) -> Result<Option<Self>, PkiError> {
        let Some(text) = files::read_private(path)? else { return Ok(None) };
        let der = pem::decode(&text, pem::KEY).ok_or_else(|| PkiError::damaged(path, "no private key in PEM"))?;
        Ok(Some(Self::from_pkcs8(&der).ok_or_else(|| PkiError::damaged(path, "not an Ed25519 key in PKCS#8"))?))
    }

    /// Writes the key to a new file of mode 0600. Never replaces a key.
    pub fn save_new(&self, path: &Path) -> Result<(), PkiError> {
        files::write_new(path, pem::encode(&self.pkcs8, pem::KEY).as_bytes(), files::PRIVATE)
    }

    pub fn id(&self) -> NodeId {
        node_id_of_public(&self.public())
    }

    /// The raw public key.
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.pair.public_key().as_ref());
        public
    }

    /// 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// A request for a certificate (PKCS#10, DER), signed with this key. Says nothing but the key: all else the authority decides.
    pub fn csr(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(self)?.der().to_vec())
    }

    pub(crate) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(der).ok()?;
        Some(Self { pair, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn for_tls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()).into()
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey of {:?}", self.id())
    }
}

impl rcgen::PublicKeyData for NodeKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(NodeKey::sign(self, message))
    }
}

/// SHA-256 of the SubjectPublicKeyInfo (DER) of a raw Ed25519 public key.
pub fn node_id_of_public(public: &[u8; 32]) -> NodeId {
    node_id_of_spki(&spki_of_public(public))
}

/// Whether `signature` over `message` is of the key with this raw Ed25519 public key.
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

pub(crate) fn node_id_of_spki(spki: &[u8]) -> NodeId {
    NodeId(sha256(spki))
}

pub(crate) fn spki_of_public(public: &[u8; 32]) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), public].concat()
}

/// The raw key in a SubjectPublicKeyInfo, if it is Ed25519.
pub(crate) fn public_of_spki(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_survives_being_stored_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::generate().unwrap();
        key.save_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = NodeKey::load(&path).unwrap();
        assert_eq!(again.id(), key.id());
        assert!(verify(&key.public(), b"hello", &again.sign(b"hello")));
    }

    #[test]
    fn a_key_is_never_replaced_and_a_damaged_one_is_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::generate().unwrap();
        key.save_new(&path).unwrap();
        assert!(matches!(NodeKey::generate().unwrap().save_new(&path), Err(PkiError::Exists(_))));
        assert_eq!(NodeKey::load(&path).unwrap().id(), key.id());
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(NodeKey::load(&path), Err(PkiError::Damaged { .. })));
        assert!(NodeKey::load_if_there(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_signature_is_of_one_message_and_one_key() {
        let (ours, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let signature = ours.sign(b"arm");
        assert!(verify(&ours.public(), b"arm", &signature));
        assert!(!verify(&ours.public(), b"disarm", &signature));
        assert!(!verify(&other.public(), b"arm", &signature));
        assert!(!verify(&ours.public(), b"arm", &signature[..63]));
    }

    #[test]
    fn the_node_id_is_the_hash_of_the_key_as_a_certificate_carries_it() {
        use rcgen::PublicKeyData;
        let key = NodeKey::generate().unwrap();
        assert_eq!(key.id(), node_id_of_spki(&key.subject_public_key_info()));
        assert_eq!(public_of_spki(&key.subject_public_key_info()), Some(key.public()));
    }
}
