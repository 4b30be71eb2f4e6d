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
        Self::found(dir, &NodeKey::generate()?, NodeKey::generate()?, now)
    }

    /// [`Authority::create`] with these keys.
    pub(crate) fn found(dir: &Path, root_key: &NodeKey, issuing_key: NodeKey, now: Timestamp) -> Result<Self, PkiError> {
        if fs::symlink_metadata(dir).is_ok() {
            return Err(PkiError::Exists(dir.to_owned()));
        }
        let unfinished = dir.with_extension("unfinished");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(PkiError::file("remove", &unfinished)(error)),
            _ => {}
        }
        files::create_dir_private(&unfinished)?;

        let mesh = mesh_id_of_spki(&spki_of_public(&root_key.public()));
        let root_params = profile::root(&mesh)?;
        let root = root_params.self_signed(root_key)?.der().to_vec();
        let issuing = sign_issuing(&mesh, &root, root_key, &issuing_key, now)?;
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
        let (root_path, issuing_path) = (dir.join(ROOT_CERTIFICATE), dir.join(ISSUING_CERTIFICATE));
        let (root, issuing) = (read_certificate(&root_path)?, read_certificate(&issuing_path)?);
        let root_public = chain::ed25519_key(&root).map_err(|why| PkiError::damaged(&root_path, why))?;
        // Else it is found out by whoever is paired or renewed next, who only sees that nothing fits.
        for (path, certificate) in [(&root_path, &root), (&issuing_path, &issuing)] {
            if !chain::is_signed_by(certificate, &root_public) {
                return Err(PkiError::damaged(path, "it is not signed by the key of root.crt"));
            }
        }
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

    /// An error says why the root key on this machine is none. Fine where it lies elsewhere.
    pub fn check_root_key(&self) -> Result<(), PkiError> {
        match self.root_key() {
            Err(PkiError::RootAway) => Ok(()),
            other => other.map(|_| ()),
        }
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
    if !verify(&public, info.raw, &request.signature_value.data) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use x509_parser::extensions::{GeneralName, ParsedExtension};

    use super::*;
    use crate::LEAF_LIFE;
    use crate::forge::{House, NOW, SECOND, key_of};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn an_authority_is_founded_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        // What a founding that lost power left behind is no house yet.
        fs::create_dir(dir.path().join("ca.unfinished")).unwrap();
        fs::write(dir.path().join("ca.unfinished/root.key"), "half").unwrap();
        let authority = Authority::create(&path, NOW).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let again = Authority::open(&path).unwrap();
        assert_eq!(
            (again.mesh(), again.root_der(), again.issuing_der()),
            (authority.mesh(), authority.root_der(), authority.issuing_der())
        );
        assert!(matches!(Authority::create(&path, NOW), Err(PkiError::Exists(_))));
        assert_eq!(Authority::open(&path).unwrap().mesh(), authority.mesh());
        fs::create_dir(dir.path().join("empty")).unwrap();
        assert!(matches!(Authority::create(&dir.path().join("empty"), NOW), Err(PkiError::Exists(_))));
    }

    #[test]
    fn keys_of_the_authority_are_its_owners_alone() {
        let house = House::found();
        let mode = |name: &str| fs::metadata(house.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca"), mode("ca/root.key"), mode("ca/issuing.key")), (0o700, 0o600, 0o600));
        fs::set_permissions(house.dir.path().join("ca/issuing.key"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Authority::open(&house.dir.path().join("ca")), Err(PkiError::KeyReadable { .. })));
    }

    #[test]
    fn a_certificate_of_the_authority_with_one_wrong_bit_is_named() {
        for name in [ROOT_CERTIFICATE, ISSUING_CERTIFICATE] {
            let house = House::found();
            let ca = house.dir.path().join("ca");
            let mut der = read_certificate(&ca.join(name)).unwrap();
            // In its signature, which is its end.
            let last = der.len() - 1;
            der[last] ^= 1;
            write_certificate(&ca.join(name), &der).unwrap();
            let why = Authority::open(&ca).unwrap_err().to_string();
            assert!(why.contains(name) && why.contains("is damaged") && why.contains("Restore it from a backup"), "{why}");
        }
    }

    #[test]
    fn a_root_key_that_is_damaged_is_known_before_it_is_needed_and_one_that_is_away_is_no_damage() {
        let house = House::found();
        let key = house.dir.path().join("ca/root.key");
        house.authority.check_root_key().unwrap();
        files::write_atomic(&key, b"nothing", files::PRIVATE).unwrap();
        assert!(matches!(house.authority.check_root_key(), Err(PkiError::Damaged { .. })));
        fs::remove_file(&key).unwrap();
        house.authority.check_root_key().unwrap();
    }

    #[test]
    fn files_of_two_authorities_are_not_mixed() {
        let (house, other) = (House::found(), House::found());
        let ca = house.dir.path().join("ca");
        fs::copy(other.dir.path().join("ca/root.key"), ca.join("root.key")).unwrap();
        assert!(matches!(house.authority.sign_bundle(&bundle_of(&house)), Err(PkiError::Damaged { .. })));
        fs::copy(other.dir.path().join("ca/issuing.key"), ca.join("issuing.key")).unwrap();
        assert!(matches!(Authority::open(&ca), Err(PkiError::Damaged { .. })));
        fs::write(ca.join("root.crt"), "nothing").unwrap();
        assert!(matches!(Authority::open(&ca), Err(PkiError::Damaged { .. })));
        assert!(matches!(Authority::open(&house.dir.path().join("absent")), Err(PkiError::File { .. })));
    }

    fn bundle_of(house: &House) -> BundleV1 {
        BundleV1 { mesh: house.authority.mesh(), epoch: 1, roots: vec![house.authority.root_der().to_vec()], coordinators: vec![] }
    }

    /// The table of the design, section 3.
    #[test]
    fn certificates_say_what_the_design_says() {
        let house = House::found();
        let mesh = house.authority.mesh();
        let start = 1_577_836_800; // 2020-01-01
        let root = chain::parse(house.authority.root_der()).unwrap();
        let issuing = chain::parse(house.authority.issuing_der()).unwrap();
        assert_eq!(root.validity().not_after.timestamp(), 253_402_214_400, "9999-12-31");
        let five_years = issuing.validity().not_after.timestamp() - i64::try_from(NOW.as_secs()).unwrap();
        assert_eq!(five_years, 1826 * 86_400);
        for (certificate, path_length) in [(&root, 1), (&issuing, 0)] {
            assert_eq!(certificate.validity().not_before.timestamp(), start);
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(path_length));
            let usage = certificate.key_usage().unwrap().unwrap().value;
            assert_eq!(usage.flags, 1 << 5, "certSign alone");
            assert!(certificate.extended_key_usage().unwrap().is_none());
            assert!(certificate.subject_alternative_name().unwrap().is_none());
            let names = certificate.name_constraints().unwrap().unwrap();
            assert!(names.critical);
            let permitted = names.value.permitted_subtrees.as_ref().unwrap();
            assert!(matches!(permitted.as_slice(), [only] if only.base == GeneralName::DNSName(&format!("{mesh}.dms3.internal"))));
            let excluded = names.value.excluded_subtrees.as_ref().unwrap().iter().map(|tree| &tree.base).collect::<Vec<_>>();
            assert_eq!(excluded, [&GeneralName::IPAddress(&[0; 8]), &GeneralName::IPAddress(&[0; 32])]);
        }

        for (identity, role) in [(&house.coordinator, NodeRole::Coordinator), (&house.camera, NodeRole::Camera)] {
            let leaf = chain::parse(identity.leaf()).unwrap();
            assert_eq!(leaf.validity().not_before.timestamp(), start);
            assert_eq!(identity.not_after(), NOW + LEAF_LIFE);
            assert_eq!(LEAF_LIFE, DAY * 90);
            assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
            assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
            let usage = leaf.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((usage.client_auth, usage.server_auth), (true, role == NodeRole::Coordinator));
            assert!(!usage.any && usage.other.is_empty());
            let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
            let own = format!("{}.node.{mesh}.dms3.internal", identity.node());
            let shared = format!("coordinator.{mesh}.dms3.internal");
            let expected = match role {
                NodeRole::Coordinator => vec![GeneralName::DNSName(&own), GeneralName::DNSName(&shared)],
                NodeRole::Camera => vec![GeneralName::DNSName(&own)],
            };
            assert_eq!(*names, expected);
            assert!(leaf.name_constraints().unwrap().is_none());
        }
    }

    #[test]
    fn no_leaf_outlives_the_certificate_that_signed_it_and_the_root_key_renews_that() {
        let house = House::found();
        let key = house.camera.key();
        let issue = |authority: &Authority, now| authority.issue(&key.csr().unwrap(), NodeRole::Camera, &key.id(), now);
        let end = house.authority.issuing_not_after().unwrap();
        let late = issue(&house.authority, end - DAY).unwrap();
        assert_eq!(chain::not_after(&chain::parse(&late).unwrap()), end);
        assert!(matches!(issue(&house.authority, end), Err(PkiError::IssuingExpired)));

        let renewed = house.authority.renew_issuing(end).unwrap();
        let leaf = issue(&renewed, end).unwrap();
        let renewed_identity = house.camera.renewed(&[leaf, renewed.issuing_der().to_vec()], end + SECOND).unwrap();
        assert_eq!(renewed_identity.not_after(), end + LEAF_LIFE);
        // Same key: leafs of the old certificate stay good.
        assert_eq!(chain::ed25519_key(renewed.issuing_der()).unwrap(), chain::ed25519_key(house.authority.issuing_der()).unwrap());
    }

    fn why(result: Result<Vec<u8>, PkiError>) -> &'static str {
        match result {
            Err(PkiError::Request(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_only_proof_of_a_key_and_proves_it() {
        let house = House::found();
        let key = NodeKey::generate().unwrap();
        let csr = key.csr().unwrap();
        let ask = |csr: &[u8]| house.authority.issue(csr, NodeRole::Camera, &key.id(), NOW);
        assert!(ask(&csr).is_ok());
        assert_eq!(why(ask(&NodeKey::generate().unwrap().csr().unwrap())), "it is for another key than the one it belongs to");

        let mut broken = csr.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(why(ask(&broken)), "it is not signed by its own key");
        // Somebody else's key in a request that the asker signed.
        let other = NodeKey::generate().unwrap();
        let at = csr.windows(32).position(|window| window == key.public()).unwrap();
        let mut swapped = csr.clone();
        swapped[at..at + 32].copy_from_slice(&other.public());
        let asked = house.authority.issue(&swapped, NodeRole::Camera, &other.id(), NOW);
        assert_eq!(why(asked), "it is not signed by its own key");

        for garbage in [&[][..], b"garbage", &csr[..csr.len() - 1], &[csr.as_slice(), &[0]].concat()] {
            assert_eq!(why(ask(garbage)), "it cannot be read");
        }
        assert_eq!(why(ask(&[0x30; REQUEST_LIMIT + 1])), "it is too long");
        for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let csr = rcgen::CertificateParams::default().serialize_request(&key_of(kind)).unwrap();
            assert_eq!(why(ask(csr.der())), "its key is not Ed25519");
        }
    }

    #[test]
    fn whatever_a_request_asks_for_it_gets_a_cameras_certificate() {
        let house = House::found();
        let key = NodeKey::generate().unwrap();
        let mut greedy = house.params(&key, NodeRole::Coordinator);
        greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        greedy.use_authority_key_identifier_extension = false;
        greedy.serial_number = None;
        // rcgen writes no validity or serial into a request.
        (greedy.not_before, greedy.not_after) = {
            let defaults = rcgen::CertificateParams::default();
            (defaults.not_before, defaults.not_after)
        };
        let csr = greedy.serialize_request(&key).unwrap();
        let leaf = house.authority.issue(csr.der(), NodeRole::Camera, &key.id(), NOW).unwrap();
        let said = chain::read_leaf(&leaf, &house.authority.mesh()).unwrap();
        assert_eq!((said.node, said.role, said.not_after), (key.id(), NodeRole::Camera, NOW + LEAF_LIFE));
        let leaf = chain::parse(&leaf).unwrap();
        assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
        assert!(!leaf.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(
            !leaf.extensions().iter().any(|extension| matches!(extension.parsed_extension(), ParsedExtension::UnsupportedExtension { .. }))
        );
    }

    #[test]
    fn every_certificate_has_its_own_serial_number() {
        let house = House::found();
        let serials = [house.authority.root_der(), house.authority.issuing_der(), house.coordinator.leaf(), house.camera.leaf()]
            .map(|der| chain::parse(der).unwrap().raw_serial().to_vec());
        for (at, serial) in serials.iter().enumerate() {
            assert!((16..=20).contains(&serial.len()), "{serial:?}");
            assert!(!serials[..at].contains(serial));
        }
    }

    #[test]
    fn the_house_goes_on_without_its_root_key_and_cannot_name_coordinators() {
        let house = House::found();
        fs::remove_file(house.dir.path().join("ca/root.key")).unwrap();
        let authority = Authority::open(&house.dir.path().join("ca")).unwrap();
        assert!(!authority.root_on_box());
        let key = NodeKey::generate().unwrap();
        assert!(authority.issue(&key.csr().unwrap(), NodeRole::Camera, &key.id(), NOW).is_ok());
        assert!(authority.renew_own(&house.coordinator, NOW).is_ok());
        assert!(matches!(authority.sign_bundle(&bundle_of(&house)), Err(PkiError::RootAway)));
        assert!(matches!(authority.renew_issuing(NOW), Err(PkiError::RootAway)));
        assert!(matches!(authority.own_identity(Arc::new(key), NOW), Err(PkiError::RootAway)));
    }
}
