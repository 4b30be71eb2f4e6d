//! Papers: whatever somebody presents, only who is of the house gets in, and only its coordinator is obeyed.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dms3_core::id::NodeId;
use dms3_core::protocol::frame::{from_bytes, to_bytes};
use dms3_core::protocol::message::{BundleV1, SignedBundleV1, SignedStateV1, StateV1};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_pki::fuzzing::{found, judge_coordinator, judge_node, judge_pinned, key, opened};
use dms3_pki::{Admission, Admit, Authority, NodeKey, TrustBundle, TrustedRoot, node_of_request, own_state, root_pin_of, verify_state};

use super::der::{Signs, forged};
use super::script::Script;

const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);
const DAY: Duration = Duration::from_secs(86_400);
/// In a certificate that says that it is for a server, and for a client (RFC 5280, 4.2.1.12).
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const PASSPHRASE: &str = "correct horse battery";
/// A guess of the passphrase of an export takes the time that the export asks for, up to seconds.
const ROUNDS: u32 = 2000;

/// A house whose keys are the same in each run, so that what was found stays found. The serial numbers in its certificates are not.
pub(crate) struct House {
    pub(crate) authority: Authority,
    pub(crate) root: NodeKey,
    issuing: NodeKey,
    coordinator: Arc<NodeKey>,
    camera: NodeKey,
    bundle: Arc<TrustBundle>,
    coordinator_leaf: Vec<u8>,
    camera_leaf: Vec<u8>,
    roster: Arc<dyn Admit>,
}

#[derive(Debug)]
struct Roster(HashMap<NodeId, NodeRole>);

impl Admit for Roster {
    fn admit(&self, node: &NodeId) -> Admission {
        self.0.get(node).map_or(Admission::Unknown, |role| Admission::Active(*role))
    }
}

/// Whoever asks is a camera.
#[derive(Debug)]
struct Everybody;

impl Admit for Everybody {
    fn admit(&self, _: &NodeId) -> Admission {
        Admission::Active(NodeRole::Camera)
    }
}

pub(crate) static HOUSE: LazyLock<House> = LazyLock::new(|| {
    let key = |seed| key(&[seed; 32]).expect("a key");
    let (root, coordinator, camera) = (key(1), Arc::new(key(3)), key(4));
    // All that is asked of it later it holds in memory.
    let dir = tempfile::tempdir().expect("a directory");
    let authority = found(&dir.path().join("ca"), &root, key(2), NOW).expect("an authority");
    let identity = authority.own_identity(coordinator.clone(), NOW).expect("an identity");
    let camera_leaf = authority.issue(&camera.csr().expect("a request"), NodeRole::Camera, &camera.id(), NOW).expect("a leaf");
    let roster = HashMap::from([(coordinator.id(), NodeRole::Coordinator), (camera.id(), NodeRole::Camera)]);
    House {
        root,
        issuing: key(2),
        bundle: identity.bundle().clone(),
        coordinator_leaf: identity.leaf().to_vec(),
        coordinator,
        camera,
        camera_leaf,
        roster: Arc::new(Roster(roster)),
        authority,
    }
});

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A certificate of the house, changed, perhaps by somebody who stole the key that signs them all: whoever is let in has a key that the house
/// knows, for this use, in time; whoever is obeyed has that of the coordinator.
pub(crate) fn certificate(bytes: &[u8]) {
    let house = &*HOUSE;
    let mut script = Script::new(bytes);
    let Some([whose, when]) = script.array() else { return };
    let now = [NOW, NOW + 365 * DAY, NOW + 3650 * DAY, Timestamp(0)][usize::from(when % 4)];
    let is_stolen = whose & 2 != 0;
    let sign = |text: &[u8]| house.issuing.sign(text);
    let sign = is_stolen.then_some(&sign as Signs<'_>);
    let genuine = if whose & 1 == 0 { &house.camera_leaf } else { &house.coordinator_leaf };
    let (leaf, issuing) = if whose & 4 == 0 {
        (forged(genuine, script, sign), house.authority.issuing_der().to_vec())
    } else {
        (genuine.clone(), forged(house.authority.issuing_der(), script, sign))
    };
    let rest = [issuing.as_slice().into(), house.authority.root_der().into()];
    let node = judge_node(&house.bundle, &house.roster, &leaf, &rest, now);
    let obeyed = judge_coordinator(&house.bundle, &leaf, &rest, now);
    let told = judge_pinned(house.authority.root_pin().expect("a pin"), &leaf, &rest, now);
    let has = |key: &NodeKey, usage| holds(&leaf, &key.public()) && holds(&leaf, usage);
    if let Ok(node) = node {
        let key = if node == house.camera.id() { &house.camera } else { &house.coordinator };
        assert!(node == key.id() && has(key, CLIENT_AUTH), "{node} is let in");
    }
    if obeyed.is_ok() {
        assert!(has(&house.coordinator, SERVER_AUTH), "somebody else is obeyed");
    }
    if told.is_ok() {
        let name = format!("coordinator.{}.dms3.internal", house.authority.mesh());
        assert!(holds(&leaf, name.as_bytes()) && holds(&leaf, SERVER_AUTH), "somebody else is told a token");
    }
    // The issuing certificate is over by then, and so is the time in which a camera may lie in a drawer.
    let is_over = when % 4 == 2;
    for (who, is_let_in) in [("let in", node.is_ok()), ("obeyed", obeyed.is_ok()), ("told", told.is_ok())] {
        assert!(!is_let_in || is_stolen || leaf == *genuine, "{who} with a certificate that nobody signed");
        assert!(!is_let_in || !is_over, "{who} for ever");
    }
}

/// A request for a certificate, changed by whoever has its key: he gets the certificate of a camera with this key, and nothing else.
pub(crate) fn request(bytes: &[u8]) {
    let house = &*HOUSE;
    let mut script = Script::new(bytes);
    let Some(whose) = script.byte() else { return };
    let sign = |text: &[u8]| house.camera.sign(text);
    let sign = (whose & 1 != 0).then_some(&sign as Signs<'_>);
    let genuine = house.camera.csr().expect("a request");
    let asked = forged(&genuine, script, sign);
    let Ok(node) = node_of_request(&asked) else { return };
    assert!(node == house.camera.id(), "the key of somebody else is proven");
    let leaf = house.authority.issue(&asked, NodeRole::Camera, &node, NOW).expect("the certificate of a camera");
    let everybody: Arc<dyn Admit> = Arc::new(Everybody);
    let rest = [house.authority.issuing_der().into(), house.authority.root_der().into()];
    assert_eq!(judge_node(&house.bundle, &everybody, &leaf, &rest, NOW), Ok(node));
    assert!(judge_coordinator(&house.bundle, &leaf, &rest, NOW).is_err());
    assert!(house.authority.issue(&asked, NodeRole::Camera, &house.coordinator.id(), NOW).is_err());
}

/// What the root and coordinators sign: only theirs is believed, and only for this house.
pub(crate) fn signed(bytes: &[u8]) {
    let Some((what, rest)) = bytes.split_first() else { return };
    match what % 5 {
        0 => signed_bundle(rest),
        1 => sent_bundle(rest),
        2 => signed_state(rest),
        3 => sent_state(rest),
        _ => state_of_a_camera(rest),
    }
}

/// The same bundle with our own root, whose serial number is another one in each run: without it nothing else is looked at.
fn with_our_root(payload: &[u8]) -> Option<BundleV1> {
    let mut bundle = from_bytes::<BundleV1>(payload).ok()?;
    *bundle.roots.first_mut()? = HOUSE.authority.root_der().to_vec();
    Some(bundle)
}

/// Whatever the root signs.
fn signed_bundle(payload: &[u8]) {
    let house = &*HOUSE;
    let mesh = house.authority.mesh();
    let pin = house.authority.root_pin().expect("a pin");
    let ours = with_our_root(payload).map(|bundle| to_bytes(&bundle).expect("it can be written"));
    for payload in [Some(payload.to_vec()), ours].into_iter().flatten() {
        let signature = house.root.sign(&[b"dms3 bundle v1".as_slice(), &mesh.0, &payload].concat());
        let signed = SignedBundleV1 { payload, signature };
        if let Ok(bundle) = TrustBundle::verify(&signed, TrustedRoot::Pin(pin)) {
            assert_eq!((bundle.mesh(), root_pin_of(bundle.root_der())), (mesh, Ok(pin)));
        }
        if let Ok(bundle) = TrustBundle::verify(&signed, TrustedRoot::Certificate(house.authority.root_der())) {
            assert_eq!((bundle.mesh(), bundle.root_der()), (mesh, house.authority.root_der()));
            let newer = house.bundle.newer(&signed).expect("it is genuine").map(|newer| newer.epoch());
            assert_eq!(newer, Some(bundle.epoch()).filter(|epoch| *epoch > house.bundle.epoch()));
        }
    }
}

/// Whatever anybody sends, with a signature that was made for something else too.
fn sent_bundle(bytes: &[u8]) {
    let house = &*HOUSE;
    let Ok(signed) = from_bytes::<SignedBundleV1>(bytes) else { return };
    let payload = with_our_root(&signed.payload).map(|bundle| to_bytes(&bundle).expect("it can be written"));
    let genuine = house.bundle.signed();
    for payload in [Some(signed.payload), payload].into_iter().flatten() {
        for signature in [&signed.signature, &genuine.signature] {
            let signed = SignedBundleV1 { payload: payload.clone(), signature: signature.clone() };
            let read = TrustBundle::verify(&signed, TrustedRoot::Certificate(house.authority.root_der()));
            assert!(read.is_err() || signed == *genuine, "nobody signed it");
        }
    }
}

fn signed_by(key: &NodeKey, payload: &[u8]) -> SignedStateV1 {
    let signature = key.sign(&[b"dms3 state v1".as_slice(), &HOUSE.authority.mesh().0, payload].concat());
    SignedStateV1 { payload: payload.to_vec(), signer: key.public(), signature }
}

/// Whatever the coordinator signs.
fn signed_state(payload: &[u8]) {
    let house = &*HOUSE;
    let mesh = house.authority.mesh();
    let signed = signed_by(&house.coordinator, payload);
    let read = verify_state(&signed, &mesh, &house.bundle);
    assert_eq!(own_state(&signed, &mesh, &house.coordinator), read.as_ref().ok().cloned());
    if let Ok(state) = read {
        assert_eq!(state.mesh, mesh);
        assert_eq!(state.arm_state().is_armed(), state.state != 1, "only the one byte is a disarm");
        let again = to_bytes(&state).expect("what was read can be written");
        assert_eq!(from_bytes::<StateV1>(&again), Ok(state));
    }
}

/// Whatever anybody sends.
fn sent_state(bytes: &[u8]) {
    let house = &*HOUSE;
    let Ok(mut signed) = from_bytes::<SignedStateV1>(bytes) else { return };
    signed.signer = house.coordinator.public();
    assert!(verify_state(&signed, &house.authority.mesh(), &house.bundle).is_err(), "nobody signed it");
}

fn state_of_a_camera(payload: &[u8]) {
    let house = &*HOUSE;
    let mesh = house.authority.mesh();
    let signed = signed_by(&house.camera, payload);
    assert!(verify_state(&signed, &mesh, &house.bundle).is_err());
    assert!(verify_state(&SignedStateV1 { signer: house.coordinator.public(), ..signed }, &mesh, &house.bundle).is_err());
}

/// What a file holds that somebody says is the export of the root key: only the root key of this house comes out.
pub(crate) fn export(bytes: &[u8]) {
    let house = &*HOUSE;
    if rounds(bytes).is_some_and(|rounds| rounds > ROUNDS && rounds <= 10_000_000) {
        return;
    }
    if let Ok(key) = opened(&house.authority, bytes.to_vec(), PASSPHRASE) {
        assert!(key.public() == house.root.public(), "the key of somebody else");
    }
    assert!(opened(&house.authority, bytes.to_vec(), "another passphrase").is_err());
}

/// What the first four bytes after the title say.
fn rounds(bytes: &[u8]) -> Option<u32> {
    let (_, body) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let body: String = body.split_whitespace().collect();
    let bytes = data_encoding::BASE64.decode(body.get(..8)?.as_bytes()).ok()?;
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}
