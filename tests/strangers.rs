//! Those who are not of the house learn nothing and change nothing; those who are and break the rules harm nobody but themselves.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::id::{BootId, MeshId};
use dms3_core::protocol::frame::{self, CONTROL_LIMIT, HELLO_LIMIT, Message};
use dms3_core::protocol::message::{BeginV1, CloseCode, DenyCode, HelloV1};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_node::camera::enrollment::{Enrollment, Refused, enrol};
use dms3_node::clock::Clock;
use dms3_node::mesh::dial::DialError;
use dms3_node::mesh::enrollment as enrollment_port;
use dms3_node::mesh::link::Connection;
use dms3_pki::{EXPORTER_LABEL, NodeKey, TokenWord, token_key};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::ExtendedKeyUsagePurpose;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::harness::rogue::{ENROLL, Leaf, MESH, Papers, client, knock};
use crate::harness::{House, LINKED_WITHIN, Node, eventually, within};
use crate::insiders::{Thief, raw};

/// TLS alerts (RFC 8446, section 6): what a stranger is told, which is not more than this.
const REVOKED: u8 = 44;
const EXPIRED: u8 = 45;
const UNSUPPORTED: u8 = 43;
const BAD: u8 = 42;
const UNKNOWN_CA: u8 = 48;
const DECRYPT: u8 = 51;
const ACCESS_DENIED: u8 = 49;
const CERTIFICATE_REQUIRED: u8 = 116;

/// What the log says of them.
const FOREIGN: &str = "not of this house, or made up";
const NAMELESS: &str = "does not carry the names of its key in this house";
const WRONG_WORD: &str = "its proof of the secret is wrong, or the token is used up, expired, cancelled or not ours";
const UNKNOWN: &str = "the node is not enrolled here in the role of its certificate";

pub(crate) fn hello(mesh: MeshId) -> HelloV1 {
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

pub(crate) fn greeting(mesh: MeshId) -> Vec<u8> {
    frame::encode(&Message::Hello(hello(mesh)), HELLO_LIMIT).unwrap()
}

pub(crate) async fn armed_house() -> House {
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
    }
    // Handshakes that are begun and left.
    for last in 64..70 {
        let endpoint = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        let crypto = QuicClientConfig::try_from(client(MESH, None)).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = endpoint.connect_with(config, house.mesh_port.address(), "x.internal").unwrap();
        drop(tokio::time::timeout(Duration::from_millis(u64::from(last - 64)), connecting).await);
        endpoint.close(0u32.into(), b"");
    }
    house.is_unharmed_and_told(before, "was not let in: the other side ended the connection").await;
    assert_eq!(listens_on_tcp(house.coordinator.pid()), 0, "a port scan finds nothing else");
    assert_eq!(listens_on_tcp(house.camera("porch").pid()), 0);
}

/// How many TCP ports a process listens on.
fn listens_on_tcp(pid: u32) -> usize {
    let ours: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    assert!(!ours.is_empty(), "it has sockets");
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap());
    // The fourth column is the state (0A: listening), the tenth the socket's number.
    let listening = tables.iter().flat_map(|table| table.lines()).map(|line| line.split_whitespace().collect::<Vec<_>>());
    listening
        .filter(|columns| columns.get(3) == Some(&"0A") && columns.get(9).is_some_and(|inode| ours.iter().any(|own| own == inode)))
        .count()
}

#[tokio::test]
async fn whoever_hangs_up_half_way_leaves_no_trace_but_a_line() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let thief = Thief::of(&house, porch);
    porch.start();
    house.agrees(ArmState::Away).await;
    let word = TokenWord::parse(&house.token(&["--uses", "2"]).await).unwrap();
    let before = house.standing().await;

    // The mesh port: after the handshake, in the Hello, after it; and as a camera does that dialled twice.
    let hello = greeting(thief.identity.mesh());
    let half = &hello[..hello.len() / 2];
    let unsaid = "said no proper Hello: ";
    // The last one may be linked before it is known that it hung up.
    let lines = ["node porch went before its Welcome", "node porch is linked from 127.0.0.100:", unsaid];
    for (said, code, lines, times) in [
        (&hello[..0], 0, &[unsaid][..], 1),
        (half, 0, &[unsaid][..], 2),
        (&hello[..0], CloseCode::Spare as u32, &["said no Hello: it took another of its dials"][..], 1),
        (&hello[..], 0, &lines[..], 3),
    ] {
        let (connection, mut link) = thief.connect().await;
        link.sender.send_frame(said).await.unwrap();
        connection.close(code.into(), b"");
        let told = async || lines.iter().map(|line| house.told_since(before, line)).sum::<usize>() >= times;
        within(LINKED_WITHIN, "each one has a line", told).await;
    }
    // The enrollment port: after the handshake, in the Begin, after it, and with what is no Begin.
    let key = NodeKey::generate().unwrap();
    let to = house.enroll_port.address();
    let signed = |exporter: &[u8; 32]| {
        let signature = token_key(&word.secret).unwrap().sign_begin(exporter, &key.csr().unwrap());
        frame::encode(&begin(&word, &key, signature), CONTROL_LIMIT).unwrap()
    };
    for part in [0.0, 0.5, 1.0] {
        let (_endpoint, connection, mut send) = dials_enrollment(to, 112).await;
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
        let frame = signed(&exporter);
        send.write_all(&frame[..(frame.len() as f64 * part) as usize]).await.unwrap();
        connection.close(1u32.into(), b"");
    }
    house.is_unharmed_and_told(before, "an enrollment from 127.0.0.112 ended").await;
    // The word is worth what it was, said in one piece or byte by byte: the one whom it let in is let in again, and one more.
    let paired = answer(to, 114, word.root_pin, |exporter| {
        begin(&word, &key, token_key(&word.secret).unwrap().sign_begin(exporter, &key.csr().unwrap()))
    })
    .await;
    assert!(matches!(paired, Message::Grant(_)), "{paired:?}");
    let (_endpoint, connection, mut send) = dials_enrollment(to, 115).await;
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
    for byte in signed(&exporter) {
        send.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    house.is_unharmed_and_told(before, "at 127.0.0.115 asked again with token").await;
}

#[tokio::test]
async fn whoever_begins_an_enrollment_with_what_is_no_begin_is_put_out_and_named() {
    let house = armed_house().await;
    house.token(&[]).await;
    let before = house.standing().await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let wrong = [
        ("a gigabyte", raw(1 << 30, 64, 1, b""), "its first message cannot be read: a frame of 1073741824 bytes"),
        ("nonsense in a Begin", raw(10, 64, 1, &[0xff; 10]), "its first message cannot be read: message type 64 version 1"),
        ("another message", greeting(mesh), "it did not begin with Begin"),
        ("a half", raw(1000, 64, 1, b"and no more"), "took longer than 10 s and was ended"),
    ];
    let attempts = (116..).zip(wrong).map(async |(last, (what, bytes, why))| {
        let (_endpoint, connection, mut send) = dials_enrollment(house.enroll_port.address(), last).await;
        drop(send.write_all(&bytes).await);
        let end = tokio::time::timeout(Duration::from_secs(15), connection.closed()).await;
        assert!(end.is_ok(), "{what}: whoever breaks the rules is put out");
        let from = format!("an enrollment from 127.0.0.{last} ");
        within(LINKED_WITHIN, &format!("{what}: {why}"), async || house.coordinator.line_with_all(&[&from, why])).await;
    });
    futures_util::future::join_all(attempts).await;
    house.is_unharmed(before).await;
}

/// A plain QUIC client on the enrollment port that believes everybody.
pub(crate) async fn dials_enrollment(to: SocketAddr, last: u8) -> (quinn::Endpoint, Connection, quinn::SendStream) {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    let crypto = QuicClientConfig::try_from(client(ENROLL, None)).unwrap();
    let connection =
        endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), to, "coordinator.dms3.internal").unwrap().await.unwrap();
    let (send, _recv) = connection.open_bi().await.unwrap();
    (endpoint, connection, send)
}

#[tokio::test]
async fn a_thousand_handshakes_that_are_left_open_keep_no_camera_out() {
    let house = armed_house().await;
    let before = house.standing().await;
    let resident = kib(house.coordinator.pid(), "VmRSS:");
    // As few as a careless system gives; a handshake takes none.
    house.coordinator.limit_descriptors(256);
    let descriptors = house.coordinator.descriptors();
    // A thousand first packets, each of a handshake of its own, that were said to somebody else.
    let sink = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client(MESH, None)).unwrap()));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let to = sink.local_addr().unwrap();
    let dials: Vec<_> = (0..1000).map(|_| endpoint.connect_with(config.clone(), to, "coordinator.dms3.internal").unwrap()).collect();
    let mut firsts = BTreeMap::new();
    let mut packet = [0; 2048];
    while firsts.len() < dials.len() {
        let length = sink.recv(&mut packet).await.unwrap();
        let id = packet[6..6 + usize::from(packet[5])].to_vec();
        firsts.entry(id).or_insert_with(|| packet[..length].to_vec());
    }
    // Now they come from a hundred addresses, and whatever is answered is never heard.
    let sockets: Vec<_> = (1..=100).map(|third| UdpSocket::bind((Ipv4Addr::new(127, 0, third, 1), 0)).unwrap()).collect();
    for (first, socket) in firsts.values().zip(sockets.iter().cycle()) {
        socket.send_to(first, house.mesh_port.address()).unwrap();
    }
    let most = house.coordinator.descriptors();
    assert!(most <= descriptors + 4, "{most} descriptors, {descriptors} before");
    let porch = house.camera("porch");
    porch.sigkill().await;
    porch.start();
    house.stands(before).await;
    house.is_unharmed(before).await;
    eventually("a line names the cause", async || house.told_since(before, "was not let in: no answer") > 0).await;
    let grown = kib(house.coordinator.pid(), "VmHWM:").saturating_sub(resident);
    assert!(grown < 16 * 1024, "it grew by {grown} KiB");
}

/// A line of `/proc/<pid>/status`: the memory that a process holds (VmRSS) or held at most (VmHWM).
fn kib(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn where_no_word_lives_nobody_listens_for_new_machines() {
    let house = armed_house().await;
    let before = house.standing().await;
    let knock = async || {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(house.enroll_port.address()).await.unwrap();
        socket.send(&[0; 1200]).await.unwrap();
        // Nobody there: the system itself says so at once. Somebody there: nothing comes, garbage is not answered.
        tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut [0; 10])).await.map(|heard| heard.unwrap_err().kind())
    };
    assert_eq!(knock().await, Ok(std::io::ErrorKind::ConnectionRefused));
    let id = {
        house.token(&[]).await;
        let said = house.coordinator.cli(&["token", "list", "--json"]).await.good();
        let tokens: Vec<dms3_core::request::TokenView> = serde_json::from_str(&said).unwrap();
        tokens.iter().find(|token| token.standing == "live").unwrap().id.clone()
    };
    eventually("the port opens", async || knock().await.is_err()).await;
    house.coordinator.cli(&["token", "cancel", &id]).await.good();
    eventually("and closes with its last word", async || knock().await == Ok(std::io::ErrorKind::ConnectionRefused)).await;
    house.is_unharmed_and_told(before, &format!("enrollment port {} is closed", house.enroll_port.number())).await;
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
    for words in [["127.0.0.70:", "was not let in: a certificate is demanded"], ["127.0.0.71:", "the other side speaks another protocol"]] {
        within(LINKED_WITHIN, words[1], async || house.coordinator.line_with_all(&words)).await;
    }
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
    let expired = Leaf { ends: (2021, 1, 1), ..Leaf::camera() };
    let porch = &house.camera("porch").node;
    let stolen = |leaf: &Leaf, node: Option<&Node>| Papers::by_the_stolen_issuing_key(coordinator, leaf, node);
    let attempts: [(&str, Papers, &[u8], &str); 11] = [
        ("a house made up", Papers::forged(&mesh, &Leaf::camera()), &[UNKNOWN_CA, DECRYPT], FOREIGN),
        ("a coordinator made up", Papers::forged(&mesh, &Leaf::coordinator()), &[UNKNOWN_CA, DECRYPT], FOREIGN),
        ("an issuing key made up", Papers::under_the_real_root(coordinator, &Leaf::camera()), &[UNKNOWN_CA, DECRYPT], FOREIGN),
        ("a camera of another house", Papers::stolen(&other.camera("shed").node), &[BAD], NAMELESS),
        ("a coordinator of another house", Papers::stolen(&other.coordinator), &[BAD], NAMELESS),
        ("the stolen issuing key, a new camera", stolen(&Leaf::camera(), None), &[ACCESS_DENIED], UNKNOWN),
        ("the stolen issuing key, a new coordinator", stolen(&Leaf::coordinator(), None), &[ACCESS_DENIED], UNKNOWN),
        ("a camera that calls itself a coordinator", stolen(&Leaf::coordinator(), Some(porch)), &[ACCESS_DENIED], UNKNOWN),
        ("no usage", stolen(&no_usage, Some(porch)), &[UNSUPPORTED], "not for this use"),
        ("another usage", stolen(&server_only, Some(porch)), &[UNSUPPORTED], "not for this use"),
        ("expired for years", stolen(&expired, Some(porch)), &[EXPIRED], "is expired"),
    ];
    for (last, (what, papers, alerts, why)) in (80..).zip(attempts) {
        let met = knock(house.mesh_port.address(), last, MESH, Some(papers), &greeting(mesh)).await;
        assert_eq!(met.heard, 0, "{what} learned something");
        assert!(met.alert.is_some_and(|alert| alerts.contains(&alert)), "{what}: {met:?}, not {alerts:?}");
        let from = format!("127.0.0.{last}:");
        eventually(&format!("a line says of {what}: {why}"), async || coordinator.line_with_all(&[&from, "was not let in", why])).await;
    }
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_session_that_was_opened_before_a_revocation_opens_nothing_after_it() {
    let house = armed_house().await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    // One TLS client that remembers every session and speaks before it is asked, as a thief would write it.
    let mut crypto = client(MESH, Some(Papers::stolen(porch)));
    crypto.enable_early_data = true;
    let crypto = Arc::new(QuicClientConfig::try_from(crypto).unwrap());
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
    within(LINKED_WITHIN, "a line names the cause", async || {
        house.coordinator.line_with_all(&["127.0.0.90:", "was not let in: the node was revoked"])
    })
    .await;
    house.is_unharmed(before).await;
}

/// `Begin` for a new key with this signature.
pub(crate) fn begin(token: &TokenWord, key: &NodeKey, signature: Vec<u8>) -> Message {
    Message::Begin(BeginV1 {
        token: token.id,
        csr: key.csr().unwrap(),
        hostname: "stranger".to_owned(),
        version: "0.1.0".to_owned(),
        signature,
    })
}

pub(crate) async fn answer(to: SocketAddr, last: u8, pin: [u8; 16], say: impl FnOnce(&[u8; 32]) -> Message) -> Message {
    let source = Some(Ipv4Addr::new(127, 0, 0, last).into());
    let mut channel = enrollment_port::dial(source, to, pin, &Clock::unkept()).await.unwrap();
    let message = say(&channel.exporter().unwrap());
    channel.write(&message).await.unwrap();
    let answer = channel.read().await.unwrap();
    channel.finish().await;
    answer
}

pub(crate) fn denied(answer: &Message) -> Option<DenyCode> {
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

    // Another word, so that the port stays open.
    house.token(&[]).await;
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
    assert_eq!(denied(&answer(to, 131, word.root_pin, right).await), Some(DenyCode::Locked));
    let nodes = house.look().await.unwrap().nodes;
    assert_eq!(nodes.iter().filter(|node| node.role == NodeRole::Camera).count(), 3, "porch, hall and the one that was let in");
    house.is_unharmed_and_told(before, "was locked: somebody at 127.0.0.120 tried it with wrong secrets").await;
    // A few lines a minute, which say that the others are only counted.
    for last in 111..=114 {
        let from = format!("at 127.0.0.{last} with token {}", word.id);
        eventually("each cause has a line", async || house.coordinator.line_with_all(&[&from, WRONG_WORD])).await;
    }
    assert_eq!(house.told_since(before, "further ones like it are only counted"), 1);
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
            result.map(|_| ()).map_err(|error| match error.downcast_ref() {
                Some(Refused(code)) => (Some(*code), error.to_string()),
                None => (None, error.to_string()),
            })
        });
    }
    let results = machines.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(refused.iter().any(|(code, _)| *code == Some(DenyCode::Token)), "{refused:?}");
    for (code, why) in refused {
        // Whoever was not asked yet when the port closed with the last use of the word is told of that.
        let port_closed = code.is_none() && why.contains("a used-up word closes the port");
        assert!(code == Some(DenyCode::Token) && why.contains("used up") || port_closed, "{code:?}: {why}");
    }
    let nodes = house.look().await.unwrap().nodes;
    assert_eq!(nodes.iter().filter(|node| node.role == NodeRole::Camera).count(), 3);
    house.is_unharmed_and_told(before, "enrolled ").await;
    assert_eq!(house.told_since(before, "enrolled "), 1);
}

#[tokio::test]
async fn a_word_of_another_house_is_worth_nothing_here() {
    let (house, other) = (armed_house().await, House::new().await);
    let before = house.standing().await;
    let (foreign, ours) = (TokenWord::parse(&other.token(&[]).await).unwrap(), TokenWord::parse(&house.token(&[]).await).unwrap());
    let (to, key) = (house.enroll_port.address(), NodeKey::generate().unwrap());
    // Our machine does not say it to the coordinator of this house, which does not prove to be its own.
    let dialled = enrollment_port::dial(Some(Ipv4Addr::new(127, 0, 0, 132).into()), to, foreign.root_pin, &Clock::unkept()).await;
    let Err(DialError::Rogue(why)) = dialled else { panic!("the root is not that of the word: {:?}", dialled.is_ok()) };
    assert!(why.contains("is of another house"), "{why}");
    // A liar says it all the same.
    let lie = |exporter: &[u8; 32]| begin(&foreign, &key, token_key(&foreign.secret).unwrap().sign_begin(exporter, &key.csr().unwrap()));
    assert_eq!(denied(&answer(to, 133, ours.root_pin, lie).await), Some(DenyCode::Token));
    house.is_unharmed_and_told(before, &format!("with token {}: {WRONG_WORD}", foreign.id)).await;
    assert_eq!(house.look().await.unwrap().nodes.iter().filter(|node| node.role == NodeRole::Camera).count(), 2);
}
