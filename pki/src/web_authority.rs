//! The dashboard's own authority (design, section 12): browsers and phones are asked to trust it, so it can speak for this machine's names and
//! private addresses and for nothing else. It knows nothing of the mesh, and the mesh nothing of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dms3_core::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use crate::node_key::sha256;
use crate::{PkiError, chain, files, pem, random};

/// The directory in the state directory of a coordinator.
pub const WEB_DIR: &str = "web";
const CA_KEY: &str = "ca.key";
const CA_CERTIFICATE: &str = "ca.crt";
const LEAF_KEY: &str = "page.key";
const LEAF_CERTIFICATE: &str = "page.crt";

/// Twenty years: who trusted it once on a phone is not asked again.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Apple refuses more than 398 days from an authority that it ships and 825 from others.
const LEAF_LIFE: Duration = Duration::from_secs(397 * 86_400);
/// A browser whose clock is behind ours is not "too early".
const EARLY: Duration = Duration::from_secs(2 * 86_400);
/// A leaf with less left than this is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(132 * 86_400);

/// Networks in which no address belongs to a stranger's web site (RFC 1918, 3927, 4193, 4291; loopback).
const PRIVATE_NETWORKS: [(&str, u8); 8] = [
    ("10.0.0.0", 8),
    ("172.16.0.0", 12),
    ("192.168.0.0", 16),
    ("169.254.0.0", 16),
    ("127.0.0.0", 8),
    ("fc00::", 7),
    ("fe80::", 10),
    ("::1", 128),
];

/// An opened authority of the dashboard.
#[derive(Debug)]
pub struct WebAuthority {
    dir: PathBuf,
    certificate: Vec<u8>,
}

/// What the dashboard shows to browsers. The key is PKCS #8.
#[derive(Clone)]
pub struct WebPapers {
    /// The leaf, then the authority's own certificate.
    pub chain: Vec<Vec<u8>>,
    pub key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for WebPapers {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("WebPapers").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl WebPapers {
    /// SHA-256 of the leaf, as browsers show it: `AB:CD:…`.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.chain.first().map_or(&[], Vec::as_slice))
    }
}

impl WebAuthority {
    /// Opens the authority in `dir`, or founds one for the machine called `host`. Half a founding, left by a crash, is begun anew: nobody trusts
    /// what was never shown.
    pub fn open_or_create(dir: &Path, host: &str, now: Timestamp) -> Result<Self, PkiError> {
        let (path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        match fs::read(&path) {
            Ok(text) => {
                let der = pem::decode(&text, pem::CERTIFICATE).ok_or_else(|| PkiError::damaged(&path, "no certificate in PEM"))?;
                let parsed = chain::parse(&der).map_err(|why| PkiError::damaged(&path, why))?;
                let key = read_key(&key_path)?.ok_or_else(|| PkiError::damaged(&key_path, "it is missing"))?;
                if !is_key_of(&key, &parsed) {
                    return Err(PkiError::damaged(&path, "it is not the certificate of ca.key"));
                }
                if !is_signed_by(&parsed, &parsed) {
                    return Err(PkiError::damaged(&path, "it is not signed by ca.key"));
                }
                Ok(Self { dir: dir.to_owned(), certificate: der.to_vec() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::create_dir_private(dir)?;
                let key = new_key()?;
                let certificate = authority(host, now)?.self_signed(&key)?.der().to_vec();
                write_key(&key_path, &key)?;
                files::write_atomic(&path, pem::encode(&certificate, pem::CERTIFICATE).as_bytes(), 0o644)?;
                Ok(Self { dir: dir.to_owned(), certificate })
            }
            Err(error) => Err(PkiError::file("read", &path)(error)),
        }
    }

    /// For phones and browsers that are to trust the page.
    pub fn certificate_pem(&self) -> String {
        pem::encode(&self.certificate, pem::CERTIFICATE).to_string()
    }

    /// SHA-256 of the authority's certificate.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    /// The leaf that is there, if it serves all of `addresses` and lives long enough; else a new one, which is kept. Addresses that the
    /// authority may not speak for (public ones) are left out: no browser would take them from it.
    pub fn papers(&self, addresses: &[IpAddr], now: Timestamp) -> Result<WebPapers, PkiError> {
        let (path, key_path) = (self.dir.join(LEAF_CERTIFICATE), self.dir.join(LEAF_KEY));
        let names = self.names()?;
        let addresses: BTreeSet<IpAddr> = addresses.iter().copied().filter(is_private).collect();
        if let Some(papers) = self.kept(&path, &key_path, &names, &addresses, now)? {
            return Ok(papers);
        }
        let key = match read_key(&key_path) {
            Ok(Some(key)) => key,
            // The leaf's key is worth nothing without the leaf: a new one does.
            _ => new_key()?,
        };
        let ca_key_path = self.dir.join(CA_KEY);
        let ca_key = read_key(&ca_key_path)?.ok_or_else(|| PkiError::damaged(&ca_key_path, "it is missing"))?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(self.certificate.as_slice()), &ca_key)?;
        let der = leaf(&names, &addresses, now)?.signed_by(&key, &issuer)?.der().to_vec();
        write_key(&key_path, &key)?;
        files::write_atomic(&path, pem::encode(&der, pem::CERTIFICATE).as_bytes(), 0o644)?;
        Ok(self.papers_of(der, &key))
    }

    fn papers_of(&self, leaf: Vec<u8>, key: &KeyPair) -> WebPapers {
        WebPapers { chain: vec![leaf, self.certificate.clone()], key: Zeroizing::new(key.serialize_der()) }
    }

    fn kept(
        &self,
        path: &Path,
        key_path: &Path,
        names: &[String],
        addresses: &BTreeSet<IpAddr>,
        now: Timestamp,
    ) -> Result<Option<WebPapers>, PkiError> {
        let Ok(text) = fs::read(path) else { return Ok(None) };
        let Some(der) = pem::decode(&text, pem::CERTIFICATE) else { return Ok(None) };
        let Ok(parsed) = chain::parse(&der) else { return Ok(None) };
        let Ok(Some(key)) = read_key(key_path) else { return Ok(None) };
        let serves = covers(&parsed, names, addresses) && is_key_of(&key, &parsed) && is_signed_by(&parsed, &self.parsed()?);
        let not_before = Timestamp::from_secs(u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(u64::MAX / 1000));
        let lives = not_before <= now && chain::not_after(&parsed).since(now) > RENEW_BEFORE;
        Ok((serves && lives).then(|| self.papers_of(der.to_vec(), &key)))
    }

    fn parsed(&self) -> Result<X509Certificate<'_>, PkiError> {
        Ok(chain::parse(&self.certificate)?)
    }

    /// The names that it may speak for.
    fn names(&self) -> Result<Vec<String>, PkiError> {
        let parsed = self.parsed()?;
        let constraints = parsed.name_constraints().ok().flatten();
        let permitted = constraints.and_then(|constraints| constraints.value.permitted_subtrees.as_ref()).into_iter().flatten();
        let names = permitted.filter_map(|tree| match tree.base {
            GeneralName::DNSName(name) => Some(name.to_owned()),
            _ => None,
        });
        Ok(names.collect())
    }
}

/// A host name as it may stand in a certificate: what systems allow besides is left out.
fn dns_label(host: &str) -> String {
    let label = host.split('.').next().unwrap_or_default();
    let label: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(63).collect::<String>().to_ascii_lowercase();
    let label = label.trim_matches('-');
    if label.is_empty() { "dms3".to_owned() } else { label.to_owned() }
}

fn is_private(address: &IpAddr) -> bool {
    PRIVATE_NETWORKS.iter().any(|(network, bits)| match (network.parse::<IpAddr>(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(*bits);
            network.to_bits() >> shift == address.to_bits() >> shift
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(*bits);
            network.to_bits() >> shift == address.to_bits() >> shift
        }
        _ => false,
    })
}

fn authority(host: &str, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let host = dns_label(host);
    let mut params = common(&format!("DMS3 dashboard of {host}"), now, CA_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let names = [host.clone(), format!("{host}.local"), "localhost".to_owned()].map(GeneralSubtree::DnsName);
    let networks = PRIVATE_NETWORKS.iter().filter_map(|(network, bits)| {
        let network = network.parse().ok()?;
        Some(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(network, *bits)))
    });
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: names.into_iter().chain(networks).collect(), excluded_subtrees: vec![] });
    Ok(params)
}

fn leaf(names: &[String], addresses: &BTreeSet<IpAddr>, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = common(names.first().map_or("dms3", String::as_str), now, LEAF_LIFE)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let names = names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?))).collect::<Result<Vec<_>, rcgen::Error>>()?;
    params.subject_alt_names = names.into_iter().chain(addresses.iter().copied().map(SanType::IpAddress)).collect();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn common(name: &str, now: Timestamp, life: Duration) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let begin = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now - EARLY).as_secs());
    (params.not_before, params.not_after) = (begin, begin + life);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let mut serial: [u8; 16] = random()?;
    // Positive and of full length in DER (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Whether the other one's key signed it.
fn is_signed_by(certificate: &X509Certificate<'_>, by: &X509Certificate<'_>) -> bool {
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &by.public_key().subject_public_key.data);
    key.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).is_ok()
}

/// Whether a leaf names exactly `names`, and at least `addresses`: an address that went away does no harm, and comes back.
fn covers(leaf: &X509Certificate<'_>, names: &[String], addresses: &BTreeSet<IpAddr>) -> bool {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return false };
    let (mut named, mut addressed) = (Vec::new(), BTreeSet::new());
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => named.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                addressed.extend(address.ok());
            }
            _ => return false,
        }
    }
    named == names && addressed.is_superset(addresses)
}

/// Browsers refuse Ed25519.
fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn write_key(path: &Path, key: &KeyPair) -> Result<(), PkiError> {
    let der = Zeroizing::new(key.serialize_der());
    files::write_atomic(path, pem::encode(&der, pem::KEY).as_bytes(), files::PRIVATE)
}

fn read_key(path: &Path) -> Result<Option<KeyPair>, PkiError> {
    let Some(text) = files::read_private(path)? else { return Ok(None) };
    let der = pem::decode(&text, pem::KEY).ok_or_else(|| PkiError::damaged(path, "no key in PEM"))?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), &PKCS_ECDSA_P256_SHA256);
    key.map(Some).map_err(|_| PkiError::damaged(path, "it is no P-256 key"))
}

fn is_key_of(key: &KeyPair, certificate: &X509Certificate<'_>) -> bool {
    use rcgen::PublicKeyData as _;
    key.subject_public_key_info() == certificate.public_key().raw
}

fn fingerprint(der: &[u8]) -> String {
    let bytes: Vec<String> = sha256(der).iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::{ServerName, UnixTime};
    use webpki::{EndEntityCert, KeyUsage};

    use super::*;
    use crate::forge::NOW;

    const DAY: Duration = Duration::from_secs(86_400);

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|one| one.parse().unwrap()).collect()
    }

    /// What a browser that trusts the authority says of the leaf.
    fn opens(papers: &WebPapers, name: &str, at: Timestamp) -> Result<(), webpki::Error> {
        let root = CertificateDer::from(papers.chain[1].as_slice());
        let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
        let der = CertificateDer::from(papers.chain[0].as_slice());
        let leaf = EndEntityCert::try_from(&der).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
        leaf.verify_for_usage(chain::SIGNATURES, &[anchor], &[], at, KeyUsage::server_auth(), None, None)?;
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
    }

    #[test]
    fn a_browser_that_trusts_the_authority_opens_the_page_by_every_private_name_and_address_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let authority = WebAuthority::open_or_create(&dir.path().join("web"), "House-Pi.lan", NOW).unwrap();
        let papers = authority.papers(&addresses(&["192.168.1.5", "fd00::5", "203.0.113.9", "2001:db8::9"]), NOW).unwrap();
        for name in ["house-pi", "house-pi.local", "localhost", "192.168.1.5", "fd00::5"] {
            opens(&papers, name, NOW).unwrap();
        }
        for name in ["bank.example", "203.0.113.9", "2001:db8::9", "192.168.1.6"] {
            assert!(opens(&papers, name, NOW).is_err(), "{name}");
        }
        opens(&papers, "localhost", NOW + 394 * DAY).unwrap();
        assert!(opens(&papers, "localhost", NOW + 396 * DAY).is_err());
    }

    #[test]
    fn whoever_steals_the_authority_cannot_pose_as_a_bank() {
        let dir = tempfile::tempdir().unwrap();
        let authority = WebAuthority::open_or_create(dir.path(), "pi", NOW).unwrap();
        let key = read_key(&dir.path().join(CA_KEY)).unwrap().unwrap();
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(authority.certificate.as_slice()), &key).unwrap();
        for (name, address) in [("bank.example", "10.0.0.1"), ("pi.local", "8.8.8.8"), ("other.local", "10.0.0.1")] {
            let params = leaf(&[name.to_owned()], &BTreeSet::from([address.parse().unwrap()]), NOW).unwrap();
            let der = params.signed_by(&new_key().unwrap(), &issuer).unwrap().der().to_vec();
            let papers = WebPapers { chain: vec![der, authority.certificate.clone()], key: Zeroizing::default() };
            assert_eq!(opens(&papers, name, NOW), Err(webpki::Error::NameConstraintViolation), "{name} {address}");
        }
    }

    #[test]
    fn the_leaf_stays_as_long_as_it_serves_and_is_made_anew_when_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let authority = WebAuthority::open_or_create(dir.path(), "pi", NOW).unwrap();
        let home = addresses(&["192.168.1.5"]);
        let first = authority.papers(&home, NOW).unwrap();
        let same = |papers: &WebPapers| papers.chain == first.chain && papers.key == first.key;
        let again = WebAuthority::open_or_create(dir.path(), "renamed", NOW).unwrap();
        assert_eq!(again.fingerprint(), authority.fingerprint(), "phones trust it");
        assert!(same(&again.papers(&home, NOW + 260 * DAY).unwrap()));
        assert!(same(&again.papers(&[], NOW).unwrap()), "the cable is out for a moment");
        let moved = again.papers(&addresses(&["10.0.0.7"]), NOW).unwrap();
        assert!(!same(&moved) && moved.key == first.key);
        opens(&moved, "10.0.0.7", NOW).unwrap();
        let old = again.papers(&addresses(&["10.0.0.7"]), NOW + 270 * DAY).unwrap();
        assert_ne!(old.chain, moved.chain);
        // The clock was wrong when it was made: it is not valid yet.
        let before = again.papers(&addresses(&["10.0.0.7"]), NOW).unwrap();
        opens(&before, "10.0.0.7", NOW).unwrap();
        fs::write(dir.path().join(LEAF_CERTIFICATE), "nothing").unwrap();
        opens(&again.papers(&home, NOW).unwrap(), "192.168.1.5", NOW).unwrap();
        // One wrong bit, in its signature: no browser would take it.
        let leaf = dir.path().join(LEAF_CERTIFICATE);
        let mut der = pem::decode(&fs::read(&leaf).unwrap(), pem::CERTIFICATE).unwrap();
        let last = der.len() - 1;
        der[last] ^= 1;
        fs::write(&leaf, pem::encode(&der, pem::CERTIFICATE).as_bytes()).unwrap();
        opens(&again.papers(&home, NOW).unwrap(), "192.168.1.5", NOW).unwrap();
        // Its key is worth nothing without it.
        fs::write(dir.path().join(LEAF_KEY), "nothing").unwrap();
        opens(&again.papers(&home, NOW).unwrap(), "192.168.1.5", NOW).unwrap();
    }

    #[test]
    fn keys_of_the_page_are_its_owners_alone_and_a_damaged_authority_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        WebAuthority::open_or_create(&path, "pi", NOW).unwrap().papers(&[], NOW).unwrap();
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode(CA_KEY), mode(LEAF_KEY)), (0o700, 0o600, 0o600));
        fs::set_permissions(path.join(CA_KEY), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(WebAuthority::open_or_create(&path, "pi", NOW), Err(PkiError::KeyReadable { .. })));
        fs::set_permissions(path.join(CA_KEY), fs::Permissions::from_mode(0o600)).unwrap();
        // One wrong bit, in its signature: what it signs would be refused by every browser.
        let whole = fs::read(path.join(CA_CERTIFICATE)).unwrap();
        let mut der = pem::decode(&whole, pem::CERTIFICATE).unwrap();
        let last = der.len() - 1;
        der[last] ^= 1;
        fs::write(path.join(CA_CERTIFICATE), pem::encode(&der, pem::CERTIFICATE).as_bytes()).unwrap();
        assert!(matches!(WebAuthority::open_or_create(&path, "pi", NOW), Err(PkiError::Damaged { .. })));
        fs::write(path.join(CA_CERTIFICATE), whole).unwrap();
        fs::copy(path.join(LEAF_KEY), path.join(CA_KEY)).unwrap();
        assert!(matches!(WebAuthority::open_or_create(&path, "pi", NOW), Err(PkiError::Damaged { .. })));
        fs::write(path.join(CA_CERTIFICATE), "nothing").unwrap();
        assert!(matches!(WebAuthority::open_or_create(&path, "pi", NOW), Err(PkiError::Damaged { .. })));
    }

    #[test]
    fn names_of_machines_become_names_that_a_certificate_may_carry() {
        for (host, name) in [("House-Pi.lan", "house-pi"), ("pi_4", "pi4"), ("", "dms3"), ("-x-", "x"), ("Küche", "kche")] {
            assert_eq!(dns_label(host), name);
        }
    }
}
