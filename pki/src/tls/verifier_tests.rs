//! Each check of each verifier, by a certificate that only this check refuses. The forger holds the issuing key unless said otherwise.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dms3_core::id::NodeId;
use dms3_core::roster::NodeRole::{self, Camera, Coordinator};
use dms3_core::time::Timestamp;
use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
use rcgen::{CertificateParams, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;

use super::verifier::{CoordinatorVerifier, NodeVerifier, PinnedVerifier};
use crate::chain::{Usage, check_chain};
use crate::forge::{House, Lookalike, NOW, Roster, SECOND, everybody, id_of, key_of, sign_by};
use crate::{Admission, DRAWER, NodeKey, Refusal, profile};

/// Asks the mesh port of `house`, whose roster says that everybody is a `role`.
fn at_port(house: &House, role: NodeRole, leaf: &[u8], above: &[CertificateDer<'_>], now: Timestamp) -> Result<NodeId, Refusal> {
    let verifier = NodeVerifier { bundle: house.coordinator.bundle().clone(), admit: everybody(role) };
    verifier.judge(leaf, above, now).map_err(|(_, refusal)| refusal)
}

/// Asks a camera of `house` that dialled.
fn at_camera(house: &House, leaf: &[u8], above: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Refusal> {
    CoordinatorVerifier { bundle: house.camera.bundle().clone() }.judge(leaf, above, now)
}

/// Asks a Pi that holds a token of `house`.
fn at_new_pi(house: &House, leaf: &[u8], above: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Refusal> {
    PinnedVerifier { root_pin: house.authority.root_pin().unwrap() }.judge(leaf, above, now)
}

/// A leaf for the coordinator's own key: in the bundle, so that only what `change` did can be the reason of a refusal.
fn coordinator_leaf(house: &House, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = house.coordinator.key();
    let mut params = house.params(key.as_ref(), Coordinator);
    change(&mut params);
    house.sign(&params, key.as_ref())
}

fn camera_leaf(house: &House, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = house.camera.key();
    let mut params = house.params(key.as_ref(), Camera);
    change(&mut params);
    house.sign(&params, key.as_ref())
}

fn dns(name: String) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[test]
fn nodes_of_the_house_are_let_in_and_its_coordinator_is_obeyed() {
    let house = House::found();
    assert_eq!(at_port(&house, Camera, house.camera.leaf(), &house.above(), NOW), Ok(house.camera.node()));
    assert_eq!(at_port(&house, Coordinator, house.coordinator.leaf(), &house.above(), NOW), Ok(house.coordinator.node()));
    assert_eq!(at_camera(&house, house.coordinator.leaf(), &house.above(), NOW), Ok(()));
    assert_eq!(at_new_pi(&house, house.coordinator.leaf(), &house.above_with_root(), NOW), Ok(()));
    // What the forger's tools make is no worse than what the authority makes.
    assert!(at_port(&house, Camera, &camera_leaf(&house, |_| ()), &house.above(), NOW).is_ok());
    assert!(at_camera(&house, &coordinator_leaf(&house, |_| ()), &house.above(), NOW).is_ok());
}

#[test]
fn a_pi_whose_clock_never_ran_is_not_too_early_for_any_certificate() {
    let house = House::found();
    let early = Timestamp::from_secs(1_580_000_000);
    assert!(at_port(&house, Camera, house.camera.leaf(), &house.above(), early).is_ok());
    assert_eq!(at_camera(&house, house.coordinator.leaf(), &house.above(), early), Ok(()));
    assert_eq!(at_new_pi(&house, house.coordinator.leaf(), &house.above_with_root(), early), Ok(()));
}

#[test]
fn a_lookalike_of_root_and_issuing_ca_opens_nothing() {
    let house = House::found();
    let fake = Lookalike::of(&house);
    let above = [CertificateDer::from(fake.issuing.as_slice()), CertificateDer::from(fake.root.as_slice())];
    for role in [Camera, Coordinator] {
        let key = if role == Camera { house.camera.key() } else { house.coordinator.key() };
        let leaf = sign_by(&house.params(key.as_ref(), role), key.as_ref(), &fake.issuing, &fake.issuing_key);
        assert_eq!(at_port(&house, role, &leaf, &above, NOW), Err(Refusal::Signature), "own root");
        // Shown together with the real issuing certificate and root.
        let mixed = [above.as_slice(), &house.above_with_root()].concat();
        assert_eq!(at_port(&house, role, &leaf, &mixed, NOW), Err(Refusal::Signature), "own issuing CA under the real root");
        if role == Coordinator {
            assert_eq!(at_camera(&house, &leaf, &above, NOW), Err(Refusal::Signature));
            assert_eq!(at_camera(&house, &leaf, &mixed, NOW), Err(Refusal::Signature));
            assert_eq!(at_new_pi(&house, &leaf, &mixed, NOW), Err(Refusal::Signature));
            assert_eq!(at_new_pi(&house, &leaf, &above, NOW), Err(Refusal::ForeignRoot), "the root itself is not the pinned one");
        }
    }
    assert_eq!(at_port(&house, Camera, house.camera.leaf(), &[], NOW), Err(Refusal::ForeignChain), "a leaf without its chain");
}

#[test]
fn a_node_of_another_house_is_a_stranger() {
    let (house, other) = (House::found(), House::found());
    assert_eq!(at_port(&house, Camera, other.camera.leaf(), &other.above(), NOW), Err(Refusal::Names));
    assert_eq!(at_camera(&house, other.coordinator.leaf(), &other.above(), NOW), Err(Refusal::Names));
    assert_eq!(at_new_pi(&house, other.coordinator.leaf(), &other.above_with_root(), NOW), Err(Refusal::ForeignRoot));
    let both = [other.above_with_root(), house.above_with_root()].concat();
    assert_eq!(at_new_pi(&house, other.coordinator.leaf(), &both, NOW), Err(Refusal::Names), "showing our root beside its own");
}

#[test]
fn a_coordinator_that_only_the_issuing_key_made_is_not_obeyed_nor_let_in() {
    let house = House::found();
    let key = NodeKey::generate().unwrap();
    let leaf = house.sign(&house.params(&key, Coordinator), &key);
    assert_eq!(at_camera(&house, &leaf, &house.above(), NOW), Err(Refusal::NotInBundle));
    assert_eq!(at_port(&house, Coordinator, &leaf, &house.above(), NOW), Err(Refusal::NotInBundle));
}

#[test]
fn a_certificate_must_say_what_it_is_for() {
    let house = House::found();
    for usages in [vec![], vec![Any], vec![ServerAuth]] {
        let leaf = camera_leaf(&house, |params| params.extended_key_usages = usages.clone());
        assert_eq!(at_port(&house, Camera, &leaf, &house.above(), NOW), Err(Refusal::Usage), "{usages:?}");
    }
    for usages in [vec![], vec![Any], vec![ClientAuth]] {
        let leaf = coordinator_leaf(&house, |params| params.extended_key_usages = usages.clone());
        assert_eq!(at_camera(&house, &leaf, &house.above(), NOW), Err(Refusal::Usage), "{usages:?}");
        assert_eq!(at_new_pi(&house, &leaf, &house.above_with_root(), NOW), Err(Refusal::Usage), "{usages:?}");
    }
}

#[test]
fn a_camera_cannot_pose_as_a_coordinator_even_once_it_may_serve() {
    let house = House::found();
    assert_eq!(at_camera(&house, house.camera.leaf(), &house.above(), NOW), Err(Refusal::Usage));
    assert_eq!(at_new_pi(&house, house.camera.leaf(), &house.above_with_root(), NOW), Err(Refusal::Usage));
    let serving = camera_leaf(&house, |params| params.extended_key_usages.push(ServerAuth));
    assert_eq!(at_camera(&house, &serving, &house.above(), NOW), Err(Refusal::Names));
    assert_eq!(at_new_pi(&house, &serving, &house.above_with_root(), NOW), Err(Refusal::Names));
    // Not even a node that the root named: its certificate is a camera's.
    let bundle = Arc::new(house.bundle(2, vec![house.camera.node()]));
    assert_eq!(CoordinatorVerifier { bundle }.judge(&serving, &house.above(), NOW), Err(Refusal::Names));
}

#[test]
fn the_names_must_be_those_of_the_key_and_role_and_nothing_more() {
    let (house, other) = (House::found(), House::found());
    let (mesh, camera, coordinator) = (house.authority.mesh(), house.camera.node(), house.coordinator.node());
    let ip = SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let node = |node| dns(profile::node_name(&mesh, &node));
    for names in [
        vec![],
        vec![node(coordinator)],
        vec![node(camera), node(coordinator)],
        vec![node(camera), ip.clone()],
        vec![node(camera), dns("example.org".to_owned())],
        vec![dns(profile::node_name(&other.authority.mesh(), &camera))],
        vec![dns(profile::coordinator_name(&mesh))],
        vec![dns(format!("*.node.{mesh}.dms3.internal"))],
    ] {
        let leaf = camera_leaf(&house, |params| params.subject_alt_names = names.clone());
        assert_eq!(at_port(&house, Camera, &leaf, &house.above(), NOW), Err(Refusal::Names), "{names:?}");
    }
    for names in [
        vec![],
        vec![node(coordinator)],
        vec![dns(profile::coordinator_name(&mesh))],
        vec![node(camera), dns(profile::coordinator_name(&mesh))],
        vec![node(coordinator), dns(profile::coordinator_name(&other.authority.mesh()))],
        vec![node(coordinator), dns(profile::coordinator_name(&mesh)), ip],
    ] {
        let leaf = coordinator_leaf(&house, |params| params.subject_alt_names = names.clone());
        assert_eq!(at_camera(&house, &leaf, &house.above(), NOW), Err(Refusal::Names), "{names:?}");
        assert_eq!(at_new_pi(&house, &leaf, &house.above_with_root(), NOW), Err(Refusal::Names), "{names:?}");
    }
}

#[test]
fn a_camera_out_of_a_drawer_may_come_in_to_renew_for_400_days_and_a_coordinator_never() {
    let house = House::found();
    let end = house.camera.not_after();
    let ask = |now| at_port(&house, Camera, house.camera.leaf(), &house.above(), now).map(|_| ());
    assert_eq!(ask(end), Ok(()));
    assert_eq!(ask(end + SECOND), Ok(()));
    assert_eq!(ask(end + DRAWER), Ok(()));
    assert_eq!(ask(end + DRAWER + SECOND), Err(Refusal::Expired));

    let end = house.coordinator.not_after();
    let (leaf, above) = (house.coordinator.leaf(), house.above());
    assert_eq!(at_camera(&house, leaf, &above, end), Ok(()));
    assert_eq!(at_camera(&house, leaf, &above, end + SECOND), Err(Refusal::Expired));
    assert_eq!(at_new_pi(&house, leaf, &house.above_with_root(), end + SECOND), Err(Refusal::Expired));
    assert_eq!(at_port(&house, Coordinator, leaf, &above, end + SECOND), Err(Refusal::Expired));
}

#[test]
fn the_roster_decides_over_a_valid_certificate() {
    let house = House::found();
    let ask = |answer| {
        let verifier = NodeVerifier { bundle: house.coordinator.bundle().clone(), admit: Arc::new(Roster(answer)) };
        verifier.judge(house.camera.leaf(), &house.above(), NOW)
    };
    let camera = house.camera.node();
    assert_eq!(ask(Admission::Active(Camera)), Ok(camera));
    assert_eq!(ask(Admission::Unknown), Err((Some(camera), Refusal::NotEnrolled)));
    assert_eq!(ask(Admission::Revoked), Err((Some(camera), Refusal::Revoked)));
    assert_eq!(ask(Admission::Active(Coordinator)), Err((Some(camera), Refusal::Role)));
}

/// The public half of an RSA key of 2048 bits: enough to be certified.
fn rsa_public() -> SubjectPublicKeyInfo {
    let mut spki = data_encoding::HEXLOWER.decode(b"30820122300d06092a864886f70d01010105000382010f003082010a02820101").unwrap();
    spki.push(0);
    spki.extend([0xc5; 256]);
    spki.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    SubjectPublicKeyInfo::from_der(&spki).unwrap()
}

#[test]
fn only_ed25519_and_p256_keys_have_a_place_here() {
    let house = House::found();
    let p256 = key_of(&rcgen::PKCS_ECDSA_P256_SHA256);
    let leaf = house.sign(&house.params(&p256, Camera), &p256);
    assert_eq!(at_port(&house, Camera, &leaf, &house.above(), NOW), Ok(id_of(&p256)));

    fn refused(house: &House, key: &impl rcgen::PublicKeyData) {
        let leaf = house.sign(&house.params(key, Camera), key);
        assert_eq!(at_port(house, Camera, &leaf, &house.above(), NOW), Err(Refusal::KeyKind));
        let leaf = house.sign(&house.params(key, Coordinator), key);
        assert_eq!(at_camera(house, &leaf, &house.above(), NOW), Err(Refusal::KeyKind));
        assert_eq!(at_new_pi(house, &leaf, &house.above_with_root(), NOW), Err(Refusal::KeyKind));
    }
    refused(&house, &key_of(&rcgen::PKCS_ECDSA_P384_SHA384));
    refused(&house, &rsa_public());
}

#[test]
fn no_certificate_of_the_chain_is_signed_with_another_kind_of_key() {
    let house = House::found();
    let issuing_key = key_of(&rcgen::PKCS_ECDSA_P384_SHA384);
    let params = profile::issuing(&house.authority.mesh(), NOW).unwrap();
    let issuing = sign_by(&params, &issuing_key, house.authority.root_der(), &house.root_key());
    let key = house.camera.key();
    let leaf = sign_by(&house.params(key.as_ref(), Camera), key.as_ref(), &issuing, &issuing_key);
    let refused = at_port(&house, Camera, &leaf, &[issuing.into()], NOW);
    assert!(matches!(refused, Err(Refusal::Chain(_))), "{refused:?}");
}

/// What the name constraints of the CA certificates refuse, should the check of exact names ever be lost.
#[test]
fn the_authority_can_only_vouch_for_names_of_its_own_house() {
    let house = House::found();
    let ask = |names: Vec<SanType>, above: &[CertificateDer<'_>], sign: &dyn Fn(&CertificateParams) -> Vec<u8>| {
        let mut params = house.params(house.camera.key().as_ref(), Camera);
        params.subject_alt_names = names;
        check_chain(&sign(&params), above, house.coordinator.bundle().anchors(), Usage::Client, NOW)
    };
    let by_issuing = |params: &CertificateParams| house.sign(params, house.camera.key().as_ref());
    // An issuing certificate without constraints of its own: the root's hold.
    let mut lax = profile::issuing(&house.authority.mesh(), NOW).unwrap();
    lax.name_constraints = None;
    let lax_key = NodeKey::generate().unwrap();
    let lax = sign_by(&lax, &lax_key, house.authority.root_der(), &house.root_key());
    let by_lax = |params: &CertificateParams| sign_by(params, house.camera.key().as_ref(), &lax, &lax_key);
    let lax_above = [CertificateDer::from(lax.as_slice())];

    let inside = dns(format!("anything.{}.dms3.internal", house.authority.mesh()));
    assert_eq!(ask(vec![inside.clone()], &house.above(), &by_issuing), Ok(()));
    assert_eq!(ask(vec![inside], &lax_above, &by_lax), Ok(()));
    for outside in [
        dns("bank.example".to_owned()),
        dns("coordinator.aaaaaaaaaaaaaaaa.dms3.internal".to_owned()),
        SanType::IpAddress("192.168.1.5".parse().unwrap()),
        SanType::IpAddress("fd00::5".parse().unwrap()),
    ] {
        for refused in [ask(vec![outside.clone()], &house.above(), &by_issuing), ask(vec![outside.clone()], &lax_above, &by_lax)] {
            assert!(matches!(refused, Err(Refusal::Chain(_))), "{outside:?}: {refused:?}");
        }
    }
}

#[test]
fn the_issuing_key_cannot_make_further_authorities_and_no_authority_is_a_node() {
    let house = House::found();
    let sub_key = NodeKey::generate().unwrap();
    let mut params = profile::issuing(&house.authority.mesh(), NOW).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "sub");
    let sub = house.sign(&params, &sub_key);
    let key = house.camera.key();
    let leaf = sign_by(&house.params(key.as_ref(), Camera), key.as_ref(), &sub, &sub_key);
    let above = [vec![CertificateDer::from(sub)], house.above()].concat();
    let refused = at_port(&house, Camera, &leaf, &above, NOW);
    assert!(matches!(refused, Err(Refusal::Chain(_))), "{refused:?}");

    let ca = camera_leaf(&house, |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let refused = at_port(&house, Camera, &ca, &house.above(), NOW);
    assert!(matches!(refused, Err(Refusal::Chain(_))), "{refused:?}");
}

#[test]
fn garbage_and_certificates_with_a_tail_are_refused() {
    let house = House::found();
    let tail = [house.camera.leaf(), &[0]].concat();
    for leaf in [&[][..], b"garbage", &house.camera.leaf()[..100], &tail] {
        assert_eq!(at_port(&house, Camera, leaf, &house.above(), NOW), Err(Refusal::Unreadable));
        assert_eq!(at_camera(&house, leaf, &house.above(), NOW), Err(Refusal::Unreadable));
        assert_eq!(at_new_pi(&house, leaf, &house.above_with_root(), NOW), Err(Refusal::Unreadable));
    }
    let mut broken = house.camera.leaf().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(at_port(&house, Camera, &broken, &house.above(), NOW), Err(Refusal::Signature));
}
