//! Judges a certificate and its chain: of our house, for this use, of this node, and nothing else.

use std::time::Duration;

use dms3_core::id::{MeshId, NodeId};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::node_key::{node_id_of_spki, public_of_spki, verify};
use crate::profile;

/// The only kinds of signature in our certificates and handshakes.
pub(crate) static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[webpki::ring::ED25519, webpki::ring::ECDSA_P256_SHA256];

/// How long after its end a camera's certificate still opens a link on which it may only be renewed.
pub const DRAWER: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// DER after the tag and length of SEQUENCE: id-ecPublicKey with prime256v1 (RFC 5480, 2.1.1), 65 bytes of point.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it cannot be read")]
    Unreadable,
    #[error("it is of another house, or made up")]
    ForeignChain,
    #[error("the root is not the one that the token names")]
    ForeignRoot,
    #[error("a signature in its chain is wrong")]
    Signature,
    #[error("its chain breaks a rule: {0}")]
    Chain(String),
    #[error("it is expired")]
    Expired,
    #[error("its key is neither Ed25519 nor P-256")]
    KeyKind,
    #[error("it is not for this use (a camera's certificate cannot act as a coordinator)")]
    Usage,
    #[error("its names are not those of its key and role in this house")]
    Names,
    #[error("the root did not name this node as a coordinator")]
    NotInBundle,
    #[error("the node is not enrolled here")]
    NotEnrolled,
    #[error("the node was revoked")]
    Revoked,
    #[error("the node is enrolled in another role")]
    Role,
}

/// What a certificate is presented for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// What a leaf of this house says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) node: NodeId,
    pub(crate) role: NodeRole,
    pub(crate) not_after: Timestamp,
}

/// Reads a leaf; refuses a key of another kind, and names that are not exactly those of its key in some role in `mesh`.
pub(crate) fn read_leaf(der: &[u8], mesh: &MeshId) -> Result<Leaf, Refusal> {
    let certificate = parse(der)?;
    let spki = certificate.public_key().raw;
    if !accepted_key(spki) {
        return Err(Refusal::KeyKind);
    }
    let node = node_id_of_spki(spki);
    let names = dns_names(&certificate)?;
    let role = [NodeRole::Coordinator, NodeRole::Camera]
        .into_iter()
        .find(|role| profile::names(mesh, &node, *role) == names)
        .ok_or(Refusal::Names)?;
    Ok(Leaf { node, role, not_after: not_after(&certificate) })
}

/// Refuses a leaf that does not say in so many words that it is for this use: none, "any" or another one is not enough.
pub(crate) fn check_usage(der: &[u8], usage: Usage) -> Result<(), Refusal> {
    let certificate = parse(der)?;
    let said = certificate.extended_key_usage().map_err(|_| Refusal::Unreadable)?.map(|extension| match usage {
        Usage::Server => extension.value.server_auth,
        Usage::Client => extension.value.client_auth,
    });
    if said == Some(true) { Ok(()) } else { Err(Refusal::Usage) }
}

/// Follows signatures, validity, path lengths and name constraints from the leaf to one of `roots`.
pub(crate) fn check_chain(
    leaf: &[u8],
    intermediates: &[CertificateDer<'_>],
    roots: &[TrustAnchor<'_>],
    usage: Usage,
    at: Timestamp,
) -> Result<(), Refusal> {
    let der = CertificateDer::from(leaf);
    let certificate = EndEntityCert::try_from(&der).map_err(refusal)?;
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
    certificate.verify_for_usage(SIGNATURES, roots, intermediates, at, usage, None, None).map(|_| ()).map_err(refusal)
}

/// A root as the end of chains; its name constraints come with it.
pub(crate) fn anchor(der: &[u8]) -> Result<TrustAnchor<'static>, Refusal> {
    let der = CertificateDer::from(der);
    webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned()).map_err(refusal)
}

/// Reads a certificate that takes up all of `der`.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::Unreadable),
    }
}

/// The raw key of a certificate, if it is Ed25519.
pub(crate) fn ed25519_key(der: &[u8]) -> Result<[u8; 32], Refusal> {
    public_of_spki(parse(der)?.public_key().raw).ok_or(Refusal::KeyKind)
}

/// Whether the holder of that raw Ed25519 key signed the certificate. No parser sees a bit that a dying card turned over.
pub(crate) fn is_signed_by(der: &[u8], public: &[u8; 32]) -> bool {
    parse(der).is_ok_and(|certificate| verify(public, certificate.tbs_certificate.as_ref(), &certificate.signature_value.data))
}

pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_secs(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0))
}

fn accepted_key(spki: &[u8]) -> bool {
    let whole = matches!(SubjectPublicKeyInfo::from_der(spki), Ok(([], _)));
    whole && (public_of_spki(spki).is_some() || spki.strip_prefix(&P256_PREFIX).is_some_and(|point| point.len() == 65))
}

/// The subject alternative names, all of which must be DNS names.
fn dns_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Refusal> {
    let extension = certificate.subject_alternative_name().map_err(|_| Refusal::Unreadable)?.ok_or(Refusal::Names)?;
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Ok((*name).to_owned()),
        _ => Err(Refusal::Names),
    };
    extension.value.general_names.iter().map(name).collect()
}

fn refusal(error: webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { .. } => Refusal::Expired,
        webpki::Error::UnknownIssuer => Refusal::ForeignChain,
        webpki::Error::InvalidSignatureForPublicKey => Refusal::Signature,
        webpki::Error::RequiredEkuNotFoundContext(_) => Refusal::Usage,
        webpki::Error::BadDer => Refusal::Unreadable,
        other => Refusal::Chain(other.to_string()),
    }
}
