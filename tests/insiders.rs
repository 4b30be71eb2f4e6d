//! Those who are of the house, by identity, and do not keep to its rules harm nobody but themselves.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::id::MeshId;
use dms3_core::protocol::frame::{self, CONTROL_LIMIT, Message};
use dms3_core::protocol::message::{AckV1, CloseCode, DetectorsV1};
use dms3_core::time::Timestamp;
use dms3_node::clock::{Clock, wall};
use dms3_node::mesh::config::Limits;
use dms3_node::mesh::dial::dial;
use dms3_node::mesh::endpoint::Endpoint;
use dms3_node::mesh::keys::MeshKeys;
use dms3_node::mesh::link::{Connection, Link};
use dms3_pki::{Identity, tls};

use crate::harness::rogue::{Leaf, Papers};
use crate::harness::{House, Node, eventually};
use crate::strangers::{armed_house, greeting, hello};

/// A real identity in the hands of somebody who does not keep to the rules.
pub(crate) struct Thief {
    pub(crate) identity: Identity,
    endpoint: Endpoint,
    coordinator: SocketAddr,
}

impl Thief {
    pub(crate) fn of(house: &House, camera: &Node) -> Self {
        let from = (Ipv4Addr::new(127, 0, 0, 100), 0).into();
        let endpoint = Endpoint::bind(from, &MeshKeys::random().unwrap(), Limits::default()).unwrap();
        Self { identity: house.identity_of(camera), endpoint, coordinator: house.mesh_port.address() }
    }

    pub(crate) async fn dial(&self) -> Connection {
        let tls = tls::mesh_client(&self.identity, Arc::new(Clock::unkept())).unwrap();
        let name = tls::mesh_server_name(&self.identity.mesh());
        dial(&self.endpoint, self.coordinator, &name.to_str(), tls).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> (Connection, Link) {
        let connection = self.dial().await;
        let link = Link::open(&connection, Arc::default()).await.unwrap();
        (connection, link)
    }

    /// Linked, its Welcome heard.
    pub(crate) async fn link(&self) -> (Connection, Link) {
        let (connection, mut link) = self.connect().await;
        link.sender.send(&Message::Hello(hello(self.identity.mesh()))).await.unwrap();
        let Message::Welcome(_) = link.receiver.recv(&connection).await.unwrap() else { panic!("no Welcome") };
        (connection, link)
    }

    pub(crate) async fn put_out(connection: &Connection) -> Option<CloseCode> {
        match tokio::time::timeout(Duration::from_secs(15), connection.closed()).await.expect("it is put out") {
            quinn::ConnectionError::ApplicationClosed(close) => CloseCode::from_wire(close.error_code.into_inner()),
            other => panic!("{other}"),
        }
    }
}

/// Header and payload, whatever they say.
pub(crate) fn raw(length: u32, kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &kind.to_be_bytes(), &[1, flags], payload].concat()
}

#[tokio::test]
async fn a_camera_that_breaks_the_rules_is_put_out_and_no_other_notices() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let thief = Thief::of(&house, porch);
    let mesh = thief.identity.mesh();
    let before = house.standing().await;

    // Instead of a Hello: too long a frame, one that nobody can read, one that must be understood, another message.
    let hello_and_more = {
        let mut bytes = greeting(mesh);
        let length = u32::try_from(bytes.len() - 8 + 1).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes.push(0);
        bytes
    };
    let ack = Message::Ack(AckV1 { epoch: 9, rev: 9, sources: Vec::new(), held: None });
    let firsts = [
        ("an announced gigabyte", raw(1 << 30, 1, 1, b""), "a frame of 1073741824 bytes (message type 1) where at most 4096 are allowed"),
        ("a Hello of 5 KiB", raw(5 * 1024, 1, 1, &[0; 100]), "a frame of 5120 bytes (message type 1) where at most 4096 are allowed"),
        ("a Hello of nonsense", raw(10, 1, 1, &[0xff; 10]), "message type 1 version 1 cannot be read"),
        ("a Hello with a tail", hello_and_more, "message type 1 version 1 cannot be read: 1 bytes too many"),
        ("a type that must be understood", raw(4, 999, 1, b"abcd"), "message type 999 version 1 must be understood"),
        ("an Ack before its Hello", frame::encode(&ack, CONTROL_LIMIT).unwrap(), "a message that has no place before its Hello"),
    ];
    // Before it is let in it is known by its number only, and by where it dials from.
    let who = format!("node {} at 127.0.0.100:", thief.identity.node().short());
    for (what, bytes, why) in firsts {
        let so_far = house.standing().await;
        let (connection, mut link) = thief.connect().await;
        drop(link.sender.send_frame(&bytes).await);
        assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol), "{what}");
        house.is_unharmed_and_names(so_far, &[&who, &format!("said no proper Hello: {why}")]).await;
    }
    let so_far = house.standing().await;
    let (connection, mut link) = thief.connect().await;
    link.sender.send(&Message::Hello(hello(MeshId([1; 10])))).await.unwrap();
    assert!(matches!(link.receiver.recv(&connection).await, Ok(Message::Reject(reject)) if reject.code == CloseCode::WrongMesh as u16));
    let why = format!("is not let in: it speaks of house {}, this is house {mesh}", MeshId([1; 10]));
    house.is_unharmed_and_names(so_far, &[&who, &why]).await;
    // Half a Hello, and then nothing at all.
    let so_far = house.standing().await;
    let (connection, mut link) = thief.connect().await;
    link.sender.send_frame(&raw(100, 1, 1, b"and then nothing")).await.unwrap();
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Timeout));
    house.is_unharmed_and_names(so_far, &[&who, "said no Hello in 5 s"]).await;

    // After its Welcome.
    for (what, bytes, why) in [
        ("a frame of 65 KiB", raw(65 * 1024, 5, 1, &[0; 100]), "a frame of 66560 bytes (message type 5)"),
        ("an Ack of nonsense", raw(3, 5, 1, &[0xff; 3]), "message type 5 version 1 cannot be read"),
        ("a second Hello", greeting(mesh), "a message that has no place on a link that is up"),
    ] {
        let so_far = house.standing().await;
        let (connection, mut link) = thief.link().await;
        drop(link.sender.send_frame(&bytes).await);
        assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol), "{what}");
        house.is_unharmed_and_names(so_far, &["the link of node porch at 127.0.0.100:", &format!("ended: {why}")]).await;
    }
    // A flood of what nobody here knows: some is skipped, as of a newer version.
    let so_far = house.standing().await;
    let (connection, mut link) = thief.link().await;
    for _ in 0..1000 {
        drop(link.sender.send_frame(&raw(4, 999, 0, b"abcd")).await);
    }
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol));
    let why = "too many of a type that this version does not know";
    house.is_unharmed_and_names(so_far, &["the link of node porch at 127.0.0.100:", why]).await;

    // What keeps to the rules is understood, however it is cut; what is unknown and may be skipped is skipped.
    let (connection, mut link) = thief.connect().await;
    for byte in greeting(mesh) {
        link.sender.send_frame(&[byte]).await.unwrap();
    }
    link.sender.send_frame(&raw(4, 999, 0, b"abcd")).await.unwrap();
    assert!(matches!(link.receiver.recv(&connection).await, Ok(Message::Welcome(_))));
    // An acknowledgement of a state that nobody signed counts for nothing.
    link.sender.send(&Message::Ack(AckV1 { epoch: u32::MAX, rev: u64::MAX, sources: Vec::new(), held: None })).await.unwrap();
    assert!(matches!(link.receiver.recv(&connection).await, Ok(Message::Push(_))));
    drop((connection, link));

    house.is_unharmed(before).await;
    porch.start();
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn two_machines_with_one_identity_throw_each_other_out_and_harm_nobody() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    let twin = house.new_camera("twin");
    let out = Command::new("cp").arg("-a").arg(porch.state_dir()).arg(twin.state_dir()).output().unwrap();
    assert!(out.status.success());
    let before = house.standing().await;
    twin.start();
    eventually("the log says what happens", async || {
        house.coordinator.told("a newer link of it took over") && (porch.told("took over") || twin.told("took over"))
    })
    .await;
    assert_eq!(house.view("hall").await.unwrap().liveness, "online");
    assert!(house.camera("hall").motion.running().is_some());
    assert_eq!(house.standing().await, before);
    twin.sigkill().await;
    // Whoever was thrown out waits before it dials again, or the two would do nothing else.
    eventually("one is left, and linked", async || house.does_agree(ArmState::Away).await).await;
    house.is_unharmed_and_told(before, "the link of node porch").await;
    assert_eq!(house.camera("hall").motion.starts(), 1, "the other one was not disturbed");
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_camera_whose_certificate_ended_yesterday_gets_a_new_one_and_until_then_nothing_else() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    // As if it had lain in a drawer.
    let yesterday = jiff::Zoned::now().yesterday().unwrap();
    let ends = (i32::from(yesterday.year()), yesterday.month().cast_unsigned(), yesterday.day().cast_unsigned());
    let papers = Papers::by_the_stolen_issuing_key(&house.coordinator, &Leaf { ends, ..Leaf::camera() }, Some(porch));
    let own = house.identity_of(porch);
    let then = Timestamp(wall().0 - 3 * u64::try_from(DAY.as_millis()).unwrap());
    let bundle = own.bundle().as_ref().clone();
    let old = Identity::new(own.key().clone(), papers.chain[0].to_vec(), own.issuing().to_vec(), bundle, then).unwrap();
    assert!(old.not_after() < wall());
    old.store(&porch.state_dir()).unwrap();

    // In the hands of a thief it opens the door to its renewal only: no state, no word of what its detectors do.
    let thief = Thief::of(&house, porch);
    let (connection, mut link) = thief.connect().await;
    link.sender.send(&Message::Hello(hello(thief.identity.mesh()))).await.unwrap();
    let Message::Welcome(welcome) = link.receiver.recv(&connection).await.unwrap() else { panic!("no Welcome") };
    assert!(welcome.renew_only);
    link.sender.send(&Message::Detectors(DetectorsV1 { sources: Vec::new() })).await.unwrap();
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::RenewOnly));
    assert_ne!(house.view("porch").await.unwrap().liveness, "online");

    porch.start();
    house.is_unharmed_and_told(before, "node porch has an expired certificate and asked for something else than a new one").await;
    assert!(house.identity_of(porch).not_after() > wall());
    assert_eq!(porch.lines_with("this node's certificate is expired: asking the coordinator"), 1);
}
