//! PEM (RFC 7468), so that `openssl` can show what lies in the state directory.

use rustls::pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

pub(crate) const KEY: SectionKind = SectionKind::PrivateKey;
pub(crate) const CERTIFICATE: SectionKind = SectionKind::Certificate;

/// One section. The text is wiped after use, since it may be a key.
pub(crate) fn encode(der: &[u8], kind: SectionKind) -> Zeroizing<String> {
    let label = if kind == KEY { "PRIVATE KEY" } else { "CERTIFICATE" };
    let body = Zeroizing::new(data_encoding::BASE64.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 80));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The first section, if it is of that kind.
pub(crate) fn decode(text: &[u8], kind: SectionKind) -> Option<Zeroizing<Vec<u8>>> {
    match <(SectionKind, Vec<u8>)>::from_pem_slice(text) {
        Ok((found, der)) if found == kind => Some(Zeroizing::new(der)),
        _ => None,
    }
}
