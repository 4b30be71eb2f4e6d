//! What each certificate of a house says (design, section 3): validity, usages, names and their limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dms3_core::id::{MeshId, NodeId};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};

use crate::chain::{Refusal, parse};
use crate::node_key::sha256;
use crate::{PkiError, random};

/// Life of a leaf.
pub const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Life of an issuing certificate: five years, one of them a leap year.
const ISSUING_LIFE: Duration = Duration::from_secs((5 * 365 + 1) * 24 * 60 * 60);

/// First 10 bytes of SHA-256("dms3-mesh" ‖ SPKI of the root).
pub fn mesh_id_of_root(root_der: &[u8]) -> Result<MeshId, Refusal> {
    Ok(mesh_id_of_spki(parse(root_der)?.public_key().raw))
}

/// First 16 bytes of SHA-256 of the root's SPKI: what a token says of the house.
pub fn root_pin_of(root_der: &[u8]) -> Result<[u8; 16], Refusal> {
    let hash = sha256(parse(root_der)?.public_key().raw);
    let mut pin = [0; 16];
    pin.copy_from_slice(&hash[..16]);
    Ok(pin)
}

pub(crate) fn mesh_id_of_spki(spki: &[u8]) -> MeshId {
    let hash = sha256(&[b"dms3-mesh".as_slice(), spki].concat());
    let mut id = [0; 10];
    id.copy_from_slice(&hash[..10]);
    MeshId(id)
}

fn domain(mesh: &MeshId) -> String {
    format!("{mesh}.dms3.internal")
}

/// The DNS name that only this node's certificate carries.
pub(crate) fn node_name(mesh: &MeshId, node: &NodeId) -> String {
    format!("{node}.node.{}", domain(mesh))
}

/// The DNS name that every coordinator's certificate carries.
pub(crate) fn coordinator_name(mesh: &MeshId) -> String {
    format!("coordinator.{}", domain(mesh))
}

pub(crate) fn names(mesh: &MeshId, node: &NodeId, role: NodeRole) -> Vec<String> {
    match role {
        NodeRole::Coordinator => vec![node_name(mesh, node), coordinator_name(mesh)],
        NodeRole::Camera => vec![node_name(mesh, node)],
    }
}

pub(crate) fn root(mesh: &MeshId) -> Result<CertificateParams, PkiError> {
    let mut params = authority(mesh, "root", 1)?;
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    Ok(params)
}

pub(crate) fn issuing(mesh: &MeshId, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = authority(mesh, "issuing", 0)?;
    end_at(&mut params, now + ISSUING_LIFE);
    Ok(params)
}

/// `latest`: the end of the certificate that signs it.
pub(crate) fn leaf(mesh: &MeshId, node: &NodeId, role: NodeRole, now: Timestamp, latest: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = common(&node.short())?;
    end_at(&mut params, (now + LEAF_LIFE).min(latest));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match role {
        NodeRole::Coordinator => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        NodeRole::Camera => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.subject_alt_names =
        names(mesh, node, role).into_iter().map(|name| Ok(SanType::DnsName(name.try_into()?))).collect::<Result<_, rcgen::Error>>()?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority(mesh: &MeshId, what: &str, path_length: u8) -> Result<CertificateParams, PkiError> {
    let mut params = common(&format!("DMS3 {what} {mesh}"))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain(mesh))],
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)),
        ],
    });
    Ok(params)
}

/// Valid from a constant in the past, so that a Pi without a clock is never "too early".
fn common(name: &str) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let mut serial: [u8; 16] = random()?;
    // Positive and of full length in DER (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// The end of a certificate; dates after the year 9999 cannot be written.
fn end_at(params: &mut CertificateParams, at: Timestamp) {
    const LAST: u64 = 253_370_764_800;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at.as_secs().min(LAST));
}
