//! Enrolled cameras in evil hands: each is cut or limited, nobody else notices, and its card says why.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::dashboard::NodeView;
use dms3_core::protocol::events::{AttachmentV1, EVENT_LIMIT, EventV1};
use dms3_core::protocol::frame::{self, Message};
use dms3_core::protocol::message::{
    AckV1, CloseCode, DetectorReportV1, DetectorsV1, HelloV1, SOURCES_LIMIT, SignedStateV1, SourceAckV1, StateV1,
};
use dms3_core::time::Timestamp;
use dms3_node::clock::{Clock, wall};
use dms3_node::mesh::link::{Connection, Link};
use dms3_node::mesh::transfer::send_event;
use dms3_pki::{sign_state, tls};
use mail_parser::MessageParser;

use crate::events::rogues::{bytes, event, resident_kib, say};
use crate::events::{good, jpeg, picture};
use crate::harness::smtp::{MailServer, header};
use crate::harness::{Camera, House, Plan, eventually, forger, within};
use crate::insiders::{Thief, raw};
use crate::strangers::{armed_house, greeting, hello};

/// What a link that takes nothing is ended after, and some.
const STALLED: Duration = Duration::from_secs(40);

async fn blamed(house: &House, words: &str) -> NodeView {
    let mut found = None;
    eventually(&format!("what is known of porch says: {words}"), async || {
        found = house.view("porch").await.filter(|view| view.blame.as_ref().is_some_and(|blame| blame.why.contains(words)));
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn arrives(house: &House, nth: u8) {
    let hall = house.camera("hall");
    good(picture(hall, &nth.to_string(), "5", &jpeg(house.dir(), format!("hall-{nth}.jpg").as_bytes(), nth)));
    eventually("what an honest camera sees arrives meanwhile", async || {
        let told = house.events().await.into_iter().filter(|event| event.camera == "hall");
        told.filter(|event| event.attachments.iter().all(|known| known.kept_at.is_some())).count() == usize::from(nth)
    })
    .await;
}

/// Bytes that go alone, with a gap before each: stream and offset.
type Crumbs = Arc<Mutex<VecDeque<(u8, u16)>>>;

/// As many as there is room for, each in a STREAM frame with an offset of two bytes and a length (RFC 9000, section 19.8).
fn crumble(payload: &mut [u8], crumbs: &Crumbs) {
    let mut crumbs = crumbs.lock().unwrap();
    // What is shorter only acknowledges.
    if crumbs.is_empty() || payload.len() < 64 {
        return;
    }
    payload.fill(0);
    for frame in payload.chunks_exact_mut(6) {
        let Some((stream, offset)) = crumbs.pop_front() else { break };
        let [high, low] = (0x4000 | offset).to_be_bytes();
        frame.copy_from_slice(&[0x0e, stream, high, low, 1, 0xff]);
    }
}

#[tokio::test]
async fn a_camera_that_leaves_a_hundred_thousand_gaps_fills_no_memory_and_is_cut() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    let memory = resident_kib(before.pid());
    let identity = house.identity_of(porch);
    let name = tls::mesh_server_name(&identity.mesh());
    let (most, mut gaps) = (1000_u16, 0_usize);
    for nth in 1..=7 {
        let crumbs = Crumbs::default();
        let written = crumbs.clone();
        let tls = tls::mesh_client(&identity, Arc::new(Clock::unkept())).unwrap();
        let config = forger::config(tls, Arc::new(move |payload| crumble(payload, &written)));
        let endpoint = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, 100), 0).into()).unwrap();
        let connection = endpoint.connect_with(config, house.mesh_port.address(), &name.to_str()).unwrap().await.unwrap();
        let mut link = Link::open(&connection, Arc::default()).await.unwrap();
        link.sender.send(&Message::Hello(hello(identity.mesh()))).await.unwrap();
        assert!(matches!(link.receiver.recv(&connection).await, Ok(Message::Welcome(_))));
        let mut streams = Vec::new();
        for _ in 0..16 {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&[0]).await.unwrap();
            streams.push(stream);
        }
        // What there is to be said is replaced by crumbs, a little of each stream for each packet.
        let send = async |more: Vec<(u8, u16)>, streams: &mut Vec<quinn::SendStream>| {
            // Six bytes each and some to spare, of the 256 KiB that the coordinator takes unread.
            let share = vec![0; more.len() * 7 / streams.len()];
            crumbs.lock().unwrap().extend(more);
            for stream in streams.iter_mut() {
                // The other side may have had enough.
                let _ = stream.write_all(&share).await;
            }
            within(STALLED, "all crumbs are sent", async || {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let is_sent = crumbs.lock().unwrap().is_empty() || connection.close_reason().is_some();
                if !is_sent {
                    let _ = streams[15].write_all(&[0; 1200]).await;
                }
                is_sent
            })
            .await;
        };
        let numbers: Vec<u8> = (0..16).map(|nth| 2 + 4 * nth).collect();
        let all = numbers.iter().flat_map(|stream| (1..=most).map(move |nth| (*stream, 2 * nth)));
        send(all.collect(), &mut streams).await;
        gaps += numbers.len() * usize::from(most);
        assert_eq!(connection.close_reason(), None, "so many in each stream are borne ({nth})");
        arrives(&house, nth).await;
        let now = resident_kib(before.pid());
        assert!(now < memory + 24 * 1024, "{memory} KiB before, {now} KiB with {gaps} gaps");
        // More of them in one stream are not.
        send((most + 1..3 * most).map(|nth| (2, 2 * nth)).collect(), &mut streams).await;
        within(STALLED, "it is cut", async || connection.close_reason().is_some()).await;
        eventually("each time is counted", async || {
            blamed(&house, "too many gaps").await.blame.is_some_and(|blame| blame.count == u64::from(nth))
        })
        .await;
    }
    assert!(gaps >= 100_000, "{gaps}");
    house.is_unharmed_and_told(before, "too many gaps").await;
    porch.start();
    house.is_unharmed(before).await;
}

/// Disarmed, newer than all others, and signed by that camera.
fn forged(house: &House, camera: &Camera) -> SignedStateV1 {
    let identity = house.identity_of(camera);
    let state = StateV1 {
        mesh: identity.mesh(),
        epoch: u32::MAX,
        rev: u64::MAX - 1,
        state: ArmState::Disarmed.to_wire(),
        reason: "everybody is home".to_owned(),
        since: Timestamp(1),
        until: Some(Timestamp(u64::MAX)),
        windows: Vec::new(),
        zone: "UTC".to_owned(),
    };
    sign_state(identity.key(), &state).unwrap()
}

#[tokio::test]
async fn a_camera_that_forges_states_and_speaks_for_others_changes_nothing() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    let hall = async || house.view("hall").await.map(|view| (view.applied, view.current, view.detectors));
    let hall_before = hall().await;
    let thief = Thief::of(&house, porch);
    let mesh = thief.identity.mesh();
    let own = forged(&house, porch);
    // As if our coordinator had signed it.
    let coordinators = SignedStateV1 { signer: house.identity_of(&house.coordinator).key().public(), ..own.clone() };

    for held in [own, coordinators] {
        let (connection, mut link) = thief.connect().await;
        link.sender.send(&Message::Hello(HelloV1 { held: Some(held.clone()), ..hello(mesh) })).await.unwrap();
        assert!(matches!(link.receiver.recv(&connection).await, Ok(Message::Welcome(_))));
        for (epoch, rev) in [(0, 0), before.version, (u32::MAX, u64::MAX)] {
            for name in ["cam", "hall", ""] {
                let source = SourceAckV1 { source: name.to_owned(), effective: ArmState::Disarmed.to_wire(), watch: false };
                let ack = AckV1 { epoch, rev, sources: Vec::from([source]), held: Some(held.clone()) };
                // That of no name ends its link, and the next one is another.
                let _ = link.sender.send(&Message::Ack(ack)).await;
            }
            let phase =
                DetectorReportV1 { source: "hall".to_owned(), phase: 99, since: Timestamp(u64::MAX), detail: String::new(), live: 99 };
            let _ = link.sender.send(&Message::Detectors(DetectorsV1 { sources: vec![phase] })).await;
        }
        assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol));
        blamed(&house, "by no name").await;
        assert_eq!((house.standing().await, hall().await), (before, hall_before.clone()));
    }
    let (connection, mut link) = thief.link().await;
    let many = (0..=SOURCES_LIMIT).map(|nth| SourceAckV1 { source: nth.to_string(), effective: 9, watch: true });
    link.sender.send(&Message::Ack(AckV1 { epoch: 1, rev: 1, sources: many.collect(), held: None })).await.unwrap();
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol));
    blamed(&house, "it names 65 cameras").await;

    // Begun and never ended: by its own word, or on a stream of its own.
    let (connection, mut link) = thief.link().await;
    link.sender.send_frame(&raw(100, 5, 1, b"and then nothing")).await.unwrap();
    let last = Message::Ack(AckV1 { epoch: 0, rev: 0, sources: Vec::new(), held: None });
    link.sender.last_word(&last, CloseCode::GoingDown).await;
    drop(connection);
    let (connection, _link) = thief.link().await;
    let whole = frame::encode(&Message::Event(event(Vec::new())), EVENT_LIMIT).unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&whole[..whole.len() - 1]).await.unwrap();
    stream.finish().unwrap();
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol));
    assert!(house.events().await.is_empty(), "of half an event nothing is kept");

    house.is_unharmed(before).await;
    assert_eq!(hall().await, hall_before);
    porch.start();
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_camera_that_never_reads_is_let_go_and_its_card_says_why() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    let memory = resident_kib(before.pid());
    let (connection, _link) = Thief::of(&house, porch).link().await;
    // Each answer names all that is missing.
    let wanted = |nth: u8| {
        (0..200_u8).map(move |number| AttachmentV1 {
            kind: 1,
            name: "a.jpg".to_owned(),
            taken: Timestamp(1),
            length: 1,
            hash: [[nth, number].as_slice(), &[7; 30]].concat().try_into().unwrap(),
        })
    };
    for nth in 0..30 {
        // It may be cut before all is told.
        let _ = tokio::time::timeout(STALLED, send_event(&connection, event(wanted(nth).collect()))).await;
    }
    arrives(&house, 1).await;
    within(STALLED, "it is let go", async || connection.close_reason().is_some()).await;
    let view = blamed(&house, "put out: the other side took nothing from us for 10 s").await;
    assert!(!view.blame.unwrap().hostile, "a weak network does that, too");
    assert!(resident_kib(before.pid()) < memory + 16 * 1024);
    house.is_unharmed(before).await;
    porch.start();
    house.is_unharmed(before).await;
}

/// Reads what it is answered, to keep the link going.
async fn listens(connection: &Connection, link: &mut Link, answers: &mut usize) {
    while let Ok(message) = link.receiver.recv(connection).await {
        *answers += usize::from(matches!(message, Message::EventKept(_)));
    }
}

#[tokio::test]
async fn a_flood_of_events_is_taken_slowly_fills_no_log_and_holds_up_nobody() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    let memory = resident_kib(before.pid());
    let (connection, mut link) = Thief::of(&house, porch).link().await;
    let lines = house.coordinator.log().lines().count();
    // A flood of words is read slowly.
    for _ in 0..300 {
        link.sender.send(&Message::Detectors(DetectorsV1 { sources: Vec::new() })).await.unwrap();
    }
    let view = blamed(&house, "it is read slowly").await;
    assert!(!view.blame.unwrap().hostile);

    let mut answers = 0;
    let flood = async {
        // As many as it takes: what is taken slowly anyway is not too much.
        for nth in 0..20_000 {
            send_event(&connection, event(Vec::new())).await.unwrap();
            if nth == 2100 {
                // In the middle of it.
                arrives(&house, 1).await;
            }
            let view = if nth > 2100 && nth % 100 == 0 { house.view("porch").await } else { None };
            if view.and_then(|view| view.blame).is_some_and(|blame| blame.why.contains("more events")) {
                break;
            }
        }
        blamed(&house, "more events than any camera sees").await;
    };
    tokio::select! {
        () = flood => {}
        () = listens(&connection, &mut link, &mut answers) => panic!("it is limited and not put out: {:?}", connection.close_reason()),
    }
    assert!(answers > 2000, "{answers}");
    let more = house.coordinator.log().lines().count() - lines;
    assert!(more < 200, "{more} lines");
    let nodes = house.coordinator.cli(&["nodes"]).await.good();
    assert!(nodes.contains("it tells of more events than any camera sees") && nodes.contains("times in all"), "{nodes}");

    assert!(resident_kib(before.pid()) < memory + 32 * 1024);
    house.is_unharmed(before).await;
    drop((connection, link));
    porch.start();
    house.is_unharmed(before).await;
}

/// An armed house with a dashboard that mails.
async fn house_that_tells(server: &MailServer) -> House {
    let plan = Plan { web: Some(String::new()), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch", "hall"]).await;
    house.coordinator.configure(&server.section("cooldown = \"0s\""));
    house.coordinator.restart().await;
    house.answers().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

/// Mails with this in their subject.
fn mails_with(server: &MailServer, words: &str) -> Vec<String> {
    let mut mails = server.mails();
    mails.retain(|mail| header(mail, "Subject").is_some_and(|subject| subject.contains(words)));
    mails
}

fn text_of(mail: &str) -> String {
    let mail = MessageParser::default().parse(mail.as_bytes()).unwrap();
    mail.body_text(0).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_picture_that_would_fill_all_memory_is_kept_as_what_it_is_and_mailed_without_it() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = house_that_tells(&server).await;
    let porch = house.camera("porch");
    porch.stop().await;
    let before = house.standing().await;
    let memory = resident_kib(before.pid());
    // It says that it has 65535 times 65535 pixels: 12 GB. The start of its frame is FF C0, length, precision, height, width.
    let mut bomb = std::fs::read(jpeg(house.dir(), b"bomb.jpg", 3)).unwrap();
    let at = bomb.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    bomb[at + 5..at + 9].fill(0xff);
    let hash: [u8; 32] = ring::digest::digest(&ring::digest::SHA256, &bomb).as_ref().try_into().unwrap();
    let length = bomb.len() as u64;
    let attachment = AttachmentV1 { kind: 1, name: "bomb.jpg".to_owned(), taken: wall(), length, hash };
    let (connection, _link) = Thief::of(&house, porch).link().await;
    // One that goes on waits for its picture.
    let own = EventV1 { ended: None, ..event(vec![attachment]) };
    send_event(&connection, own.clone()).await.unwrap();
    eventually("it is told", async || house.events().await.len() == 1).await;
    say(&connection, &bytes(own.id, hash, 0, &bomb)).await;
    eventually("it is mailed", async || !mails_with(&server, "saw movement").is_empty()).await;
    assert!(house.coordinator.told("goes without its picture"), "{}", mails_with(&server, "saw movement")[0]);
    assert!(resident_kib(before.pid()) < memory + 48 * 1024);
    house.is_unharmed(before).await;
    drop(connection);
    porch.start();
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_camera_that_is_put_out_again_and_again_is_one_mail_and_its_card_says_why_until_a_person_clears_it() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = house_that_tells(&server).await;
    let owner = house.owner().await;
    let porch = house.camera("porch");
    let path = format!("/nodes/{}", house.node_of(porch));
    porch.stop().await;
    let before = house.standing().await;
    let thief = Thief::of(&house, porch);
    let evil = [greeting(thief.identity.mesh()), raw(65 * 1024, 5, 1, &[0; 100])].concat();
    let mut put_out = 0;
    loop {
        let connection = thief.dial().await;
        let mut link = Link::open(&connection, Arc::default()).await;
        if let Ok(link) = &mut link {
            drop(link.sender.send_frame(&evil).await);
        }
        match Thief::put_out(&connection).await {
            Some(CloseCode::Protocol) => put_out += 1,
            // Then it has to wait.
            Some(CloseCode::Busy) => break,
            other => panic!("{other:?}"),
        }
        assert!(put_out < 50, "it is let in as often as it likes");
    }
    assert!(put_out > 4, "{put_out}");
    let why = "put out: a frame of 66560 bytes (message type 5)";
    eventually("all of it is counted", async || {
        house.view("porch").await.and_then(|view| view.blame).is_some_and(|blame| blame.hostile && blame.count == put_out)
    })
    .await;
    let subject = "porch is put out again and again";
    eventually("a mail says so", async || !mails_with(&server, subject).is_empty()).await;
    assert!(text_of(&mails_with(&server, subject)[0]).contains(why));
    let status = house.coordinator.cli(&["status"]).await.good();
    assert!(status.contains("! porch: it breaks the rules") && status.contains(why), "{status}");
    let (page, home) = (owner.get(&path).await, owner.get("/").await);
    let on_page = format!("{why} where at most 65536 are allowed, {put_out} times in all.");
    assert!(page.has(&on_page) && page.has(&format!("{path}/clear")), "{}", page.text);
    assert!(home.has(&on_page) && home.has("porch: it breaks the rules"), "{}", home.text);

    assert_eq!(owner.submit(&format!("{path}/clear"), &[]).await.status, 303);
    let view = house.view("porch").await.unwrap();
    assert_eq!((view.blame, owner.get(&path).await.has("/clear")), (None, false));
    eventually("that it is over is mailed too", async || !mails_with(&server, "porch: a person looked at it").is_empty()).await;
    assert_eq!(mails_with(&server, subject).len(), 1);
    assert_eq!(house.standing().await, before);
    porch.start();
    eventually("the honest one is let in after a moment", async || house.does_agree(ArmState::Away).await).await;
}

/// From now on it dials from there.
fn dials_from(node: &Camera, address: &str) {
    let config = std::fs::read_to_string(node.config()).unwrap();
    std::fs::write(node.config(), config.replace("[mesh]\n", &format!("[mesh]\nlisten = \"{address}:0\"\n"))).unwrap();
}

#[tokio::test]
async fn an_identity_that_two_machines_use_is_mailed_once_with_both_addresses_and_marked_until_a_person_clears_it() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = house_that_tells(&server).await;
    let owner = house.owner().await;
    let (porch, twin) = (house.camera("porch"), house.new_camera("twin"));
    let path = format!("/nodes/{}", house.node_of(porch));
    porch.stop().await;
    let out = Command::new("cp").arg("-a").arg(porch.state_dir()).arg(twin.state_dir()).output().unwrap();
    assert!(out.status.success());
    dials_from(porch, "127.0.0.21");
    dials_from(&twin, "127.0.0.22");
    porch.start();
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let lines = house.coordinator.log().lines().count();
    twin.start();

    // Each waits up to 15 s before it takes its place back, and that happens four times.
    let mut twice = None;
    within(Duration::from_secs(120), "it is marked", async || {
        twice = house.view("porch").await.and_then(|view| view.twice);
        twice.is_some()
    })
    .await;
    let twice = twice.unwrap();
    let mut places = [twice.one.as_str(), twice.other.as_str()];
    places.sort_unstable();
    assert_eq!(places, ["127.0.0.21", "127.0.0.22"]);
    let subject = "Two machines say that they are porch";
    eventually("a mail says so", async || !mails_with(&server, subject).is_empty()).await;
    let text = text_of(&mails_with(&server, subject)[0]);
    assert!(places.iter().all(|place| text.contains(place)) && text.contains("revoke"), "{text}");
    assert_eq!(house.standing().await, before, "what holds is as it was");
    for command in ["status", "nodes"] {
        let said = house.coordinator.cli(&[command]).await.good();
        assert!(said.contains(&format!("two machines use its identity, at {} and at {}", twice.one, twice.other)), "{said}");
    }
    let (page, home) = (owner.get(&path).await, owner.get("/").await);
    assert!(page.has("Two machines use its identity") && page.has(&format!("{path}/clear")), "{}", page.text);
    assert!(home.has("two machines use its identity"), "{}", home.text);

    // They go on, and it is no news; nor is it forgotten.
    let took_over = |node: &Camera| node.lines_with("a newer link of the same node took over");
    let so_far = took_over(porch) + took_over(&twin);
    eventually("they go on", async || took_over(porch) + took_over(&twin) > so_far).await;
    let more = house.coordinator.log().lines().count() - lines;
    assert!(more < 60, "{more} lines");
    house.coordinator.restart().await;
    house.answers().await;
    assert_eq!(house.view("porch").await.unwrap().twice, Some(twice));
    assert_eq!(mails_with(&server, subject).len(), 1);

    // The copy is switched off, and the owner says so.
    twin.sigkill().await;
    eventually("the other one is linked", async || house.does_agree(ArmState::Away).await).await;
    assert_eq!(owner.submit(&format!("{path}/clear"), &[]).await.status, 303);
    assert_eq!(house.view("porch").await.unwrap().twice, None);
    eventually("a mail says that it is over", async || !mails_with(&server, "porch: a person says").is_empty()).await;
    let log = house.coordinator.cli(&["log"]).await.good();
    assert!(log.contains("used-twice") && log.contains("cleared") && log.contains("porch by Ann"), "{log}");
    house.coordinator.restart().await;
    house.answers().await;
    eventually("all is well", async || house.does_agree(ArmState::Away).await).await;
    assert_eq!(house.view("porch").await.unwrap().twice, None);
    assert!(house.coordinator.cli(&["clear", "nobody"]).await.bad().contains("there is no node"));
    assert_eq!(house.standing().await.version, before.version);
}
