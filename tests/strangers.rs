//! Those who are not of the house learn nothing and change nothing; those who are and break the rules harm nobody but themselves.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use dms3_core::id::{BootId, MeshId};
use dms3_core::protocol::frame::{self, CONTROL_LIMIT, HELLO_LIMIT, Message};
use dms3_core::protocol::message::{AckV1, BeginV1, CloseCode, DenyCode, HelloV1};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_node::camera::enrollment::{Enrollment, enrol};
use dms3_node::clock::Clock;
use dms3_node::mesh::config::Limits;
use dms3_node::mesh::dial::dial;
use dms3_node::mesh::endpoint::Endpoint;
use dms3_node::mesh::enrollment as enrollment_port;
use dms3_node::mesh::keys::MeshKeys;
use dms3_node::mesh::link::{Connection, Link};
use dms3_pki::{Identity, NodeKey, TokenWord, tls, token_key};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::rogue::{Advertiser, ENROLL, FalseCoordinator, Leaf, MESH, Papers, client, knock};
use crate::harness::{House, LINKED_WITHIN, Node, eventually, within};

/// TLS alerts (RFC 8446, section 6): what a stranger is told, which is not more than this.
const REVOKED: u8 = 44;
const EXPIRED: u8 = 45;
const UNSUPPORTED: u8 = 43;
const BAD: u8 = 42;
const UNKNOWN_CA: u8 = 48;
const DECRYPT: u8 = 51;
const ACCESS_DENIED: u8 = 49;
const CERTIFICATE_REQUIRED: u8 = 116;

fn hello(mesh: MeshId) -> HelloV1 {
    HelloV1 {
        mesh,
        boot: BootId([7; 4]),
        hostname: "stranger".to_owned(),
        version: "0.1.0".to_owned(),
        os: "unknown".to_owned(),
        platform: "linux".to_owned(),
        kernel: "6".to_owned(),
        time: Timestamp(0),
        held: None,
        bundle_epoch: 0,
        sources: vec!["cam".to_owned()],
    }
}

fn greeting(mesh: MeshId) -> Vec<u8> {
    frame::encode(&Message::Hello(hello(mesh)), HELLO_LIMIT).unwrap()
}

async fn armed_house() -> House {
    let house = House::with_cameras(["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

#[tokio::test]
async fn garbage_port_scans_and_early_closes_change_nothing() {
    let house = armed_house().await;
    house.token(&[]).await;
    let before = house.standing().await;
    for port in [&house.mesh_port, &house.enroll_port] {
        for last in 60..64 {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
            for length in [0, 1, 7, 20, 100, 1200, 1500, 9000, 60_000] {
                for _ in 0..10 {
                    let mut garbage: Vec<u8> = (0..length).map(|_| rand::random()).collect();
                    // Every other one looks like the first packet of a QUIC handshake.
                    if let Some(head) = garbage.get_mut(..5)
                        && rand::random()
                    {
                        head.copy_from_slice(&[0xc3, 0, 0, 0, 1]);
                    }
                    drop(socket.send_to(&garbage, port.address()));
                }
            }
        }
        // Nobody listens on TCP. (The test itself holds the ports of these numbers.)
        drop(TcpStream::connect(port.address()));
    }
    // Handshakes that are begun and left.
    for last in 64..70 {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client(MESH, None)).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = endpoint.connect_with(config, house.mesh_port.address(), "x.internal").unwrap();
        drop(tokio::time::timeout(Duration::from_millis(u64::from(last - 64)), connecting).await);
        endpoint.close(0u32.into(), b"");
    }
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn whoever_has_no_certificate_learns_nothing() {
    let house = armed_house().await;
    let before = house.standing().await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let met = knock(house.mesh_port.address(), 70, MESH, None, &greeting(mesh)).await;
    assert_eq!((met.alert, met.heard), (Some(CERTIFICATE_REQUIRED), 0));
    // Nor on the enrollment port's protocol, nor where enrollment is closed.
    let met = knock(house.mesh_port.address(), 71, ENROLL, None, &greeting(mesh)).await;
    assert_eq!((met.alert, met.heard), (Some(120), 0));
    assert!(house.coordinator.told("was not let in: a certificate is demanded"), "one line says so");
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn papers_that_the_house_did_not_issue_open_nothing() {
    let house = armed_house().await;
    let other = House::with_cameras(["shed"]).await;
    let before = house.standing().await;
    let coordinator = &house.coordinator;
    let mesh = house.identity_of(coordinator).mesh();
    let server_only = Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Leaf::camera() };
    let no_usage = Leaf { usages: Vec::new(), ..Leaf::camera() };
    let expired = Leaf { ends: 2021, ..Leaf::camera() };
    let porch = &house.camera("porch").node;
    let stolen = |leaf: &Leaf, node: Option<&Node>| Papers::by_the_stolen_issuing_key(coordinator, leaf, node);
    let attempts: Vec<(&str, Papers, Vec<u8>)> = vec![
        ("a house made up", Papers::forged(&mesh, &Leaf::camera()), vec![UNKNOWN_CA, DECRYPT]),
        ("a coordinator made up", Papers::forged(&mesh, &Leaf::coordinator()), vec![UNKNOWN_CA, DECRYPT]),
        ("an issuing key made up", Papers::under_the_real_root(coordinator, &Leaf::camera()), vec![UNKNOWN_CA, DECRYPT]),
        ("a camera of another house", Papers::stolen(&other.camera("shed").node), vec![BAD, UNKNOWN_CA]),
        ("a coordinator of another house", Papers::stolen(&other.coordinator), vec![BAD, UNKNOWN_CA]),
        ("the stolen issuing key, a new camera", stolen(&Leaf::camera(), None), vec![ACCESS_DENIED]),
        ("the stolen issuing key, a new coordinator", stolen(&Leaf::coordinator(), None), vec![ACCESS_DENIED]),
        ("a camera that calls itself a coordinator", stolen(&Leaf::coordinator(), Some(porch)), vec![ACCESS_DENIED]),
        ("no usage", stolen(&no_usage, Some(porch)), vec![UNSUPPORTED]),
        ("another usage", stolen(&server_only, Some(porch)), vec![UNSUPPORTED]),
        ("expired for years", stolen(&expired, Some(porch)), vec![EXPIRED]),
    ];
    for (last, (what, papers, alerts)) in (80..).zip(attempts) {
        let met = knock(house.mesh_port.address(), last, MESH, Some(papers), &greeting(mesh)).await;
        assert_eq!(met.heard, 0, "{what} learned something");
        assert!(met.alert.is_some_and(|alert| alerts.contains(&alert)), "{what}: {met:?}, not {alerts:?}");
    }
    for why in
        ["not of this house, or made up", "not for this use", "is expired", "not enrolled here", "did not name this node as a coordinator"]
    {
        assert!(coordinator.told(why), "one line says: {why}");
    }
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_session_that_was_opened_before_a_revocation_opens_nothing_after_it() {
    let house = House::with_cameras(["porch"]).await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let porch = house.camera("porch");
    porch.stop().await;
    // One TLS client that remembers every session, as a thief would write it.
    let crypto = Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(client(MESH, Some(Papers::stolen(porch)))).unwrap());
    let endpoint = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, 90), 0).into()).unwrap();
    let link = async || {
        let config = quinn::ClientConfig::new(crypto.clone());
        let connecting = endpoint.connect_with(config, house.mesh_port.address(), "coordinator.internal").unwrap();
        assert!(connecting.into_0rtt().is_err(), "nothing is remembered of a session");
        let config = quinn::ClientConfig::new(crypto.clone());
        let connection = endpoint.connect_with(config, house.mesh_port.address(), "coordinator.internal").unwrap().await?;
        let (mut send, mut recv) = connection.open_bi().await?;
        drop(send.write_all(&greeting(mesh)).await);
        let heard = recv.read_chunk(1 << 16, true).await.ok().flatten();
        match heard {
            // With its streams: dropped, they would end the conversation.
            Some(_) => Ok((connection, send, recv)),
            None => Err(connection.closed().await),
        }
    };
    let (connection, _send, _recv) = link().await.expect("an active node is let in");
    house.coordinator.cli(&["revoke", "porch"]).await.good();
    let end = tokio::time::timeout(LINKED_WITHIN, connection.closed()).await.expect("its link is closed at once");
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(CloseCode::from_wire(close.error_code.into_inner()), Some(CloseCode::Revoked));
    let quinn::ConnectionError::ConnectionClosed(close) = link().await.unwrap_err() else { panic!("not refused in the handshake") };
    assert_eq!(u64::from(close.error_code), 0x100 + u64::from(REVOKED));
}

#[tokio::test]
async fn nobody_obeys_or_pairs_with_somebody_who_only_says_that_he_is_the_coordinator() {
    let mut house = armed_house().await;
    let other = House::with_cameras(["shed"]).await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let rogues = [
        // A camera's own papers say that it is no coordinator.
        FalseCoordinator::open(141, Papers::stolen(&house.camera("porch").node)),
        FalseCoordinator::open(142, Papers::forged(&mesh, &Leaf::coordinator())),
        FalseCoordinator::open(143, Papers::under_the_real_root(&house.coordinator, &Leaf::coordinator())),
        FalseCoordinator::open(144, Papers::stolen(&other.coordinator)),
        // The house's real issuing key signed it, but the root did not name it.
        FalseCoordinator::open(145, Papers::by_the_stolen_issuing_key(&house.coordinator, &Leaf::coordinator(), None)),
        FalseCoordinator::open(
            146,
            Papers::by_the_stolen_issuing_key(
                &house.coordinator,
                &Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::coordinator() },
                None,
            ),
        ),
    ];
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
    house.coordinator.sigkill().await;
    let hall = house.camera("hall");
    // Somebody even wrote them into a config.
    let peers: Vec<_> = rogues.iter().map(|rogue| rogue.address.to_string()).collect();
    let config = fs::read_to_string(hall.config()).unwrap();
    fs::write(hall.config(), config.replacen("[mesh]\n", &format!("[mesh]\npeers = {peers:?}\n"), 1)).unwrap();
    hall.restart().await;
    for (nth, rogue) in rogues.iter().enumerate() {
        eventually(&format!("number {nth} is dialled"), async || rogue.knocks() > 0).await;
    }
    eventually("the log names the cause", async || {
        ["not for this use", "another house", "not named by our root"].iter().any(|why| hall.told(why))
    })
    .await;
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
    within(LINKED_WITHIN, "the real one is found among them", async || house.does_agree(ArmState::Away).await).await;
}

#[tokio::test]
async fn fifty_advertisements_of_rogues_delay_pairing_by_seconds() {
    let house = House::new().await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let mut advertiser = Advertiser::new(&house.mdns_port);
    // They take every packet and never answer, which costs the most time.
    let silent: Vec<UdpSocket> = (150..200).map(|last| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap()).collect();
    for rogue in &silent {
        let address = rogue.local_addr().unwrap();
        advertiser.advertise(&mesh, address, Some(address.port()));
    }
    let porch = house.new_camera("porch");
    let heard = porch.cli(&["discover", "--seconds", "5"]).await.good();
    let rogues = heard.lines().filter(|line| line.contains("rogue")).count();
    assert!(rogues >= 40, "only {rogues} of them are heard: {heard}");
    let word = house.token(&[]).await;
    let began = Instant::now();
    porch.cli_with(&["enroll", "-"], &word).await.good();
    assert!(began.elapsed() <= Duration::from_secs(15), "it took {:?}", began.elapsed());
    porch.start();
    within(LINKED_WITHIN, "and it finds its coordinator among them", async || {
        porch.camera_status().await.is_some_and(|status| status.linked.is_some())
    })
    .await;
}

/// A real identity in the hands of somebody who does not keep to the rules.
struct Thief {
    identity: Identity,
    endpoint: Endpoint,
    coordinator: SocketAddr,
}

impl Thief {
    fn of(house: &House, camera: &Node) -> Self {
        let from = (Ipv4Addr::new(127, 0, 0, 100), 0).into();
        let endpoint = Endpoint::bind(from, &MeshKeys::random().unwrap(), Limits::default()).unwrap();
        Self { identity: house.identity_of(camera), endpoint, coordinator: house.mesh_port.address() }
    }

    async fn connect(&self) -> (Connection, Link) {
        let tls = tls::mesh_client(&self.identity, Arc::new(Clock::unkept())).unwrap();
        let name = tls::mesh_server_name(&self.identity.mesh());
        let connection = dial(&self.endpoint, self.coordinator, &name.to_str(), tls).await.unwrap();
        let link = Link::open(&connection, Arc::default()).await.unwrap();
        (connection, link)
    }

    /// Linked, its Welcome heard.
    async fn link(&self) -> (Connection, Link) {
        let (connection, mut link) = self.connect().await;
        link.sender.send(&Message::Hello(hello(self.identity.mesh()))).await.unwrap();
        let Message::Welcome(_) = link.receiver.recv(&connection).await.unwrap() else { panic!("no Welcome") };
        (connection, link)
    }

    async fn put_out(connection: &Connection) -> Option<CloseCode> {
        match tokio::time::timeout(Duration::from_secs(15), connection.closed()).await.expect("it is put out") {
            quinn::ConnectionError::ApplicationClosed(close) => CloseCode::from_wire(close.error_code.into_inner()),
            other => panic!("{other}"),
        }
    }
}

/// Header and payload, whatever they say.
fn raw(length: u32, kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
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
    let mut firsts = vec![
        ("an announced gigabyte", raw(1 << 30, 1, 1, b"")),
        ("a Hello of 5 KiB", raw(5 * 1024, 1, 1, &[0; 100])),
        ("a Hello of nonsense", raw(10, 1, 1, &[0xff; 10])),
        ("a Hello with a tail", hello_and_more),
        ("a type that must be understood", raw(4, 999, 1, b"abcd")),
        ("an Ack before its Hello", frame::encode(&ack, CONTROL_LIMIT).unwrap()),
    ];
    for (what, bytes) in firsts.drain(..) {
        let (connection, mut link) = thief.connect().await;
        drop(link.sender.send_frame(&bytes).await);
        assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol), "{what}");
    }
    let (connection, mut link) = thief.connect().await;
    link.sender.send(&Message::Hello(hello(MeshId([1; 10])))).await.unwrap();
    assert!(matches!(link.receiver.recv(&connection).await, Ok(Message::Reject(reject)) if reject.code == CloseCode::WrongMesh as u16));
    // Nothing at all.
    let (connection, mut link) = thief.connect().await;
    link.sender.send_frame(&raw(100, 1, 1, b"and then nothing")).await.unwrap();
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Timeout));

    // After its Welcome.
    for (what, bytes) in [
        ("a frame of 65 KiB", raw(65 * 1024, 5, 1, &[0; 100])),
        ("an Ack of nonsense", raw(3, 5, 1, &[0xff; 3])),
        ("a second Hello", greeting(mesh)),
    ] {
        let (connection, mut link) = thief.link().await;
        drop(link.sender.send_frame(&bytes).await);
        assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol), "{what}");
    }
    assert!(house.coordinator.told("porch") && house.coordinator.told("frame of"), "the log names camera and cause");

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

    porch.start();
    eventually("the real one is linked again", async || house.does_agree(ArmState::Away).await).await;
    assert_eq!(house.standing().await, before);
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
    eventually("one is left, and linked", async || house.does_agree(ArmState::Away).await).await;
    assert_eq!(house.standing().await, before);
}

/// `Begin` for a new key with this signature.
fn begin(token: &TokenWord, key: &NodeKey, signature: Vec<u8>) -> Message {
    Message::Begin(BeginV1 {
        token: token.id,
        csr: key.csr().unwrap(),
        hostname: "stranger".to_owned(),
        version: "0.1.0".to_owned(),
        signature,
    })
}

async fn answer(to: SocketAddr, last: u8, pin: [u8; 16], say: impl FnOnce(&[u8; 32]) -> Message) -> Message {
    let source = Some(Ipv4Addr::new(127, 0, 0, last).into());
    let mut channel = enrollment_port::dial(source, to, pin, &Clock::unkept()).await.unwrap();
    let message = say(&channel.exporter().unwrap());
    channel.write(&message).await.unwrap();
    let answer = channel.read().await.unwrap();
    channel.finish().await;
    answer
}

fn denied(answer: &Message) -> Option<DenyCode> {
    match answer {
        Message::Deny(deny) => DenyCode::from_wire(deny.code),
        _ => None,
    }
}

#[tokio::test]
async fn a_begin_that_was_overheard_is_worthless_and_ten_wrong_ones_lock_the_token() {
    let house = armed_house().await;
    let before = house.standing().await;
    let word = TokenWord::parse(&house.token(&["--uses", "2"]).await).unwrap();
    let (to, key) = (house.enroll_port.address(), NodeKey::generate().unwrap());
    let mut overheard = Vec::new();
    let first = answer(to, 110, word.root_pin, |exporter| {
        overheard = token_key(&word.secret).unwrap().sign_begin(exporter, &key.csr().unwrap());
        begin(&word, &key, overheard.clone())
    })
    .await;
    assert!(matches!(first, Message::Grant(_)), "{first:?}");

    // In another session, for the same key and for another one.
    let again = answer(to, 111, word.root_pin, |_| begin(&word, &key, overheard.clone())).await;
    assert_eq!(denied(&again), Some(DenyCode::Token));
    let thief = NodeKey::generate().unwrap();
    for nth in 2..=10 {
        let again = answer(to, 110 + nth, word.root_pin, |_| begin(&word, &thief, overheard.clone())).await;
        assert_eq!(denied(&again), Some(if nth < 10 { DenyCode::Token } else { DenyCode::Locked }), "number {nth}");
    }
    // The right secret comes too late now; nobody else was let in.
    let right = |exporter: &[u8; 32]| begin(&word, &thief, token_key(&word.secret).unwrap().sign_begin(exporter, &thief.csr().unwrap()));
    match enrollment_port::dial(Some(Ipv4Addr::new(127, 0, 0, 130).into()), to, word.root_pin, &Clock::unkept()).await {
        // The port closes with its last token.
        Err(_) => {}
        Ok(_) => assert_eq!(denied(&answer(to, 131, word.root_pin, right).await), Some(DenyCode::Locked)),
    }
    let nodes = house.look().await.unwrap().nodes;
    assert_eq!(nodes.iter().filter(|node| node.role == NodeRole::Camera).count(), 3, "porch, hall and the one that was let in");
    assert!(house.coordinator.told("was locked"), "people are told");
    assert_eq!(house.standing().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_machines_with_one_single_use_token_exactly_one_is_paired() {
    let house = armed_house().await;
    let before = house.standing().await;
    let word = house.token(&[]).await;
    let to = house.enroll_port.address();
    let mut machines = JoinSet::new();
    for last in 101..=200_u8 {
        let state_dir = house.dir().join(format!("machine-{last}"));
        dms3_pki::files::create_dir_private(&state_dir).unwrap();
        let request = Enrollment {
            token: TokenWord::parse(&word).unwrap(),
            clock: Clock::open(&state_dir),
            state_dir,
            hostname: format!("machine-{last}"),
            source: Some(Ipv4Addr::new(127, 0, 1, last).into()),
            timeout: Duration::from_secs(30),
        };
        let (send, candidates) = mpsc::channel(1);
        send.send(to).await.unwrap();
        machines.spawn(async move {
            let result = enrol(request, candidates).await;
            drop(send);
            result.is_ok()
        });
    }
    let paired = machines.join_all().await.into_iter().filter(|paired| *paired).count();
    assert_eq!(paired, 1);
    let nodes = house.look().await.unwrap().nodes;
    assert_eq!(nodes.iter().filter(|node| node.role == NodeRole::Camera).count(), 3);
    assert_eq!(house.standing().await, before);
    for camera in &house.cameras {
        assert!(camera.motion.running().is_some() && camera.camera_status().await.unwrap().linked.is_some(), "{}", camera.name);
    }
}
