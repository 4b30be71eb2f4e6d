//! Whoever only says that he is the coordinator is obeyed by nobody.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use dms3_core::id::{BootId, NodeId};
use dms3_core::protocol::frame::{self, CONTROL_LIMIT, Message};
use dms3_core::protocol::message::{CloseCode, PushV1, SignedStateV1, StateV1, WelcomeV1};
use dms3_core::roster::NodeRole;
use dms3_node::clock::{Clock, wall};
use dms3_node::mesh::config::Limits;
use dms3_node::mesh::endpoint::Endpoint;
use dms3_node::mesh::keys::MeshKeys;
use dms3_node::mesh::link::Link;
use dms3_pki::{Admission, Admit, NodeKey, sign_state, tls};
use rcgen::ExtendedKeyUsagePurpose;

use crate::harness::rogue::{Advertiser, FalseCoordinator, Leaf, Papers};
use crate::harness::{House, eventually, within};
use crate::insiders::raw;
use crate::strangers::armed_house;

#[tokio::test]
async fn nobody_obeys_or_pairs_with_somebody_who_only_says_that_he_is_the_coordinator() {
    let mut house = armed_house().await;
    let other = House::with_cameras(["shed"]).await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let rogues = impostors(&house, &other);
    let mut advertiser = Advertiser::new(&house.mdns_port);
    for (nth, rogue) in rogues.iter().enumerate() {
        // The issuing key's thief could hear a `Begin`, which is of no use to him; here it is the mesh that he is after.
        let enroll = (nth != 4).then(|| rogue.address.port());
        advertiser.advertise(&mesh, rogue.address, enroll);
    }

    // A new camera passes them over and pairs with the real one.
    let word = house.token(&["--name", "yard"]).await;
    let yard = house.new_camera("yard");
    yard.cli_with(&["enroll", "-"], &word).await.good();
    yard.start();
    house.cameras.push(yard);
    house.agrees(ArmState::Away).await;

    // Without the real one the cameras go to all of them, and believe none.
    let before = house.standing().await;
    house.coordinator.sigkill().await;
    let knocks: Vec<_> = rogues.iter().map(FalseCoordinator::knocks).collect();
    let hall = house.camera("hall");
    // Somebody even wrote them into a config.
    let peers: Vec<_> = rogues.iter().map(|rogue| rogue.address.to_string()).collect();
    let config = fs::read_to_string(hall.config()).unwrap();
    fs::write(hall.config(), config.replacen("[mesh]\n", &format!("[mesh]\npeers = {peers:?}\n"), 1)).unwrap();
    hall.restart().await;
    for (nth, rogue) in rogues.iter().enumerate() {
        eventually(&format!("number {nth} is dialled"), async || rogue.knocks() > knocks[nth]).await;
    }
    for (nth, (rogue, why)) in rogues.iter().zip(CAUSES).enumerate() {
        let address = rogue.address.to_string();
        let named = |line: &str| line.split_once(PASSED_OVER).is_some_and(|(_, told)| cause_of(told, &address) == Some(why));
        eventually(&format!("the log names the cause of number {nth}: {why}"), async || hall.log().lines().any(named)).await;
    }
    for camera in &house.cameras {
        eventually("it is linked to nobody", async || camera.camera_status().await.is_some_and(|status| status.linked.is_none())).await;
        assert_eq!(camera.camera_status().await.unwrap().effective, ArmState::Away, "{}", camera.name);
        assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
    }
    for (nth, rogue) in rogues.iter().enumerate() {
        assert_eq!(rogue.heard(), 0, "number {nth} was told something");
    }
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
}

/// What a camera says of whom it passed over, and of each of them.
const PASSED_OVER: &str = "passed over those that are no coordinator of this house: ";
const CAUSES: [&str; 6] = [
    "the certificate presented is not for this use: it is no coordinator",
    "the one that answered is of another house (a rogue, or a neighbour's)",
    "the one that answered is of another house (a rogue, or a neighbour's)",
    "the certificate presented does not carry the names of a coordinator of our house",
    "the one that answered is not named by our root as a coordinator, or is not enrolled",
    "the certificate presented is not for this use: it is no coordinator",
];

/// `told` is "cause (address, address); cause (address)".
fn cause_of<'a>(told: &'a str, address: &str) -> Option<&'a str> {
    let mut causes = told.split("; ").filter_map(|cause| cause.strip_suffix(')')?.rsplit_once(" ("));
    causes.find(|(_, addresses)| addresses.split(", ").any(|one| one == address)).map(|(cause, _)| cause)
}

#[tokio::test]
async fn a_new_machine_does_not_pair_with_an_impostor_that_it_is_sent_to() {
    let house = armed_house().await;
    let other = House::with_cameras(["shed"]).await;
    let rogues = impostors(&house, &other);
    let word = house.token(&[]).await;
    let before = house.standing().await;
    let why = [
        "is no coordinator",
        "another house",
        "another house",
        "another house",
        "the node that answered is not among the coordinators that the root signed",
        "not for this use",
    ];
    let attempts = rogues.iter().zip(why).enumerate().map(async |(nth, (rogue, why))| {
        let machine = house.new_camera(&format!("machine-{nth}"));
        let config = fs::read_to_string(machine.config()).unwrap();
        fs::write(machine.config(), config.replacen("mdns = \"loopback\"", "mdns = \"off\"", 1)).unwrap();
        let args = ["enroll", "-", "--timeout", "6s", "--coordinator", &rogue.address.to_string()];
        let said = machine.cli_with(&args, &word).await.bad();
        assert!(said.contains(why), "number {nth}: {said}");
        assert!(rogue.knocks() > 0, "number {nth} was asked");
        // Who has the house's stolen issuing key passes the pin: the proof that he hears is worth nothing in any other session.
        assert_eq!(rogue.heard() > 0, nth == ISSUED, "number {nth} heard {} bytes", rogue.heard());
        assert!(!machine.state_dir().join("identity").exists(), "number {nth}");
    });
    futures_util::future::join_all(attempts).await;
    house.is_unharmed(before).await;
    assert_eq!(house.look().await.unwrap().nodes.len(), 3, "nobody was let in");
    // And the word still is what it was.
    house.new_camera("yard").cli_with(&["enroll", "-"], &word).await.good();
}

/// Whose certificate the house's real issuing key signed, but whom the root did not name. He grants whatever he is asked for.
const ISSUED: usize = 4;

fn impostors(house: &House, other: &House) -> [FalseCoordinator; 6] {
    let mesh = house.identity_of(&house.coordinator).mesh();
    [
        // A camera's own papers say that it is no coordinator.
        FalseCoordinator::open(141, Papers::stolen(&house.camera("porch").node).with_root(house)),
        FalseCoordinator::open(142, Papers::forged(&mesh, &Leaf::coordinator())),
        FalseCoordinator::open(143, Papers::under_the_real_root(&house.coordinator, &Leaf::coordinator())),
        FalseCoordinator::open(144, Papers::stolen(&other.coordinator).with_root(other)),
        // The house's real issuing key signed it, but the root did not name it.
        FalseCoordinator::granting(145, Papers::by_the_stolen_issuing_key(&house.coordinator, &Leaf::coordinator(), None), house),
        FalseCoordinator::open(
            146,
            Papers::by_the_stolen_issuing_key(
                &house.coordinator,
                &Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::coordinator() },
                None,
            ),
        ),
    ]
}

/// Lets everybody in who is of the house.
#[derive(Debug)]
struct Everybody;

impl Admit for Everybody {
    fn admit(&self, _: &NodeId) -> Admission {
        Admission::Active(NodeRole::Camera)
    }
}

#[tokio::test]
async fn a_coordinator_that_says_what_cannot_be_read_or_believed_arms_its_cameras() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let (identity, stranger) = (house.identity_of(&house.coordinator), NodeKey::generate().unwrap());
    let state = StateV1 {
        mesh: identity.mesh(),
        epoch: 0,
        rev: 1000,
        state: ArmState::Disarmed.to_wire(),
        reason: "because I say so".to_owned(),
        since: wall(),
        until: Some(wall() + Duration::from_secs(3600)),
        windows: Vec::new(),
        zone: "UTC".to_owned(),
    };
    let push = |signed| frame::encode(&Message::Push(PushV1 { signed, time: wall() }), CONTROL_LIMIT).unwrap();
    let genuine = sign_state(identity.key(), &state).unwrap();
    for (what, bytes, why) in [
        ("a push of 65 KiB", raw(65 * 1024, 4, 1, &[0; 100]), "a frame of 66560 bytes (message type 4)"),
        ("a push of nonsense", raw(10, 4, 1, &[0xff; 10]), "message type 4 version 1 cannot be read"),
        ("a push of a version to come", vec![0, 0, 0, 3, 0, 4, 2, 1, 1, 2, 3], "must be understood"),
        ("a state that a stranger signed", push(sign_state(&stranger, &state).unwrap()), "is not believed"),
        ("a state with another's signature", push(SignedStateV1 { signature: vec![7; 64], ..genuine }), "is not believed"),
    ] {
        let before = house.standing().await;
        house.coordinator.sigkill().await;
        {
            // With its keys a camera is told at once that its link is gone.
            let keys = MeshKeys::load_or_create(&house.coordinator.state_dir()).unwrap();
            let endpoint = Endpoint::bind(house.mesh_port.address(), &keys, Limits::default()).unwrap();
            endpoint.serve(tls::mesh_server(&identity, Arc::new(Everybody), Arc::new(Clock::unkept())).unwrap()).unwrap();
            let (connection, pass) = Box::new(endpoint.accept().await.unwrap()).handshake().await.unwrap();
            pass.authenticated();
            let mut link = Link::accept(&connection, Arc::default()).await.unwrap();
            let Message::Hello(_) = link.receiver.recv(&connection).await.unwrap() else { panic!("no Hello") };
            let welcome = WelcomeV1 { boot: BootId([9; 4]), time: wall(), name: "porch".to_owned(), bundle: None, renew_only: false };
            link.sender.send(&Message::Welcome(welcome)).await.unwrap();
            link.sender.send_frame(&bytes).await.unwrap();
            eventually(&format!("{what} arms"), async || porch.motion.running().is_some()).await;
            eventually(&format!("{what}: {why}"), async || porch.told(why)).await;
            endpoint.close(CloseCode::GoingDown).await;
        }
        house.coordinator.start();
        house.answers().await;
        house.stands(before).await;
    }
}

/// A dead link is noticed after 11 s, and in a crowd it is told each 15 s who failed: the second time of the crowd alone.
const TOLD_OF_THE_CROWD: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fifty_advertisements_of_rogues_delay_pairing_by_seconds() {
    let mut house = armed_house().await;
    let before = house.standing().await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let mut advertiser = Advertiser::new(&house.mdns_port);
    // They take every packet and never answer, which costs the most time.
    let silent: Vec<UdpSocket> = (150..200).map(|last| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap()).collect();
    for rogue in &silent {
        let address = rogue.local_addr().unwrap();
        advertiser.advertise(&mesh, address, Some(address.port()));
    }
    let porch = house.new_camera("yard");
    let heard = porch.cli(&["discover", "--seconds", "5"]).await.good();
    let rogues = heard.lines().filter(|line| line.contains("rogue")).count();
    assert!(rogues >= 40, "only {rogues} of them are heard: {heard}");
    let word = house.token(&["--name", "yard"]).await;
    let began = Instant::now();
    porch.cli_with(&["enroll", "-"], &word).await.good();
    assert!(began.elapsed() <= Duration::from_secs(15), "it took {:?}", began.elapsed());
    porch.start();
    house.cameras.push(porch);
    // It finds its coordinator among them; and another one, that lost its link, does too.
    house.is_unharmed_and_told(before, "enrolled \"yard\"").await;
    house.camera("hall").restart().await;
    house.stands(before).await;

    // Those that lost it look for it among them, say whom they met instead, and find it as soon as it is back.
    house.coordinator.sigkill().await;
    for camera in &house.cameras {
        let crowd = ["no coordinator is reached: no answer (", ", 127.0.0.1", " more)"];
        within(TOLD_OF_THE_CROWD, "a line tells of the crowd that never answers", async || camera.line_with_all(&crowd)).await;
        assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
    }
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
}
