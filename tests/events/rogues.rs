//! A camera of the house in a thief's hands, that tells of events as no camera would.

use std::time::Duration;

use dms3_core::id::EventId;
use dms3_core::protocol::events::{AttachmentV1, BytesV1, EVENT_LIMIT, EventV1};
use dms3_core::protocol::frame::{self, Message};
use dms3_core::protocol::message::CloseCode;
use dms3_core::time::Timestamp;
use dms3_node::clock::wall;
use dms3_node::mesh::link::{Connection, Link};
use dms3_node::mesh::transfer::send_event;
use dms3_node::store::events::Events;

use super::{good, jpeg, picture};
use crate::harness::{House, eventually, within};
use crate::insiders::{Thief, raw};
use crate::strangers::armed_house;

/// What a link that stands still is ended after, and some.
const ENDED_WITHIN: Duration = Duration::from_secs(50);

pub(crate) fn event(attachments: Vec<AttachmentV1>) -> EventV1 {
    let now = wall();
    EventV1 {
        id: EventId::new(now, rand::random()),
        source: "cam".to_owned(),
        kind: 1,
        started: now,
        ended: Some(now),
        age: Some(0),
        changed: Some(5),
        state: 2,
        attachments,
        rev: 1,
        own_mail: 0,
    }
}

fn attachment(hash: [u8; 32], length: u64) -> AttachmentV1 {
    AttachmentV1 { kind: 1, name: "a.jpg".to_owned(), taken: Timestamp(1), length, hash }
}

/// The answer to what was told; what the coordinator says of the house is passed over.
async fn answer(connection: &Connection, link: &mut Link) -> Message {
    loop {
        match link.receiver.recv(connection).await.unwrap() {
            Message::Push(_) | Message::Bundle(_) => {}
            answer => return answer,
        }
    }
}

/// On a stream of its own: the frame and what follows it.
pub(crate) async fn say(connection: &Connection, bytes: &[u8]) {
    let mut stream = connection.open_uni().await.unwrap();
    // The other side may have heard enough before the end.
    let _ = stream.write_all(bytes).await;
    let _ = stream.finish();
    let _ = stream.stopped().await;
}

pub(crate) fn bytes(event: EventId, hash: [u8; 32], from: u64, content: &[u8]) -> Vec<u8> {
    [frame::encode(&Message::Bytes(BytesV1 { event, hash, from }), EVENT_LIMIT).unwrap().as_slice(), content].concat()
}

pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

async fn told(house: &House, cause: &str) {
    eventually(&format!("one line names camera and cause: {cause}"), async || house.coordinator.line_with_all(&["porch", cause])).await;
}

#[tokio::test]
async fn a_camera_that_tells_lies_of_events_harms_nobody() {
    let house = armed_house().await;
    let (porch, hall) = (house.camera("porch"), house.camera("hall"));
    good(picture(hall, "1", "5", &jpeg(house.dir(), b"hall.jpg", 1)));
    let of_hall = house.has_events(1).await.remove(0);
    porch.stop().await;
    let before = house.standing().await;
    let memory = resident_kib(before.pid());
    let thief = Thief::of(&house, porch);
    let (connection, mut link) = thief.link().await;

    // Another one's event: neither told anew nor added to.
    send_event(&connection, EventV1 { id: of_hall.id, rev: 9, ..event(Vec::new()) }).await.unwrap();
    assert!(matches!(answer(&connection, &mut link).await, Message::EventRefused(refused) if refused.again_after.is_none()));
    told(&house, "belongs to another camera").await;
    say(&connection, &bytes(of_hall.id, of_hall.attachments[0].attachment.hash, 0, b"other")).await;
    told(&house, "nobody told of it").await;

    // Attachments that are not what was told.
    let own = event(vec![attachment([1; 32], 100), attachment([2; 32], 100), attachment([3; 32], 100)]);
    send_event(&connection, own.clone()).await.unwrap();
    assert!(matches!(answer(&connection, &mut link).await, Message::EventKept(kept) if kept.missing.len() == 3));
    say(&connection, &bytes(own.id, [1; 32], 0, &[0; 3_000_000])).await;
    told(&house, "it is longer than the 100 bytes that were announced").await;
    say(&connection, &bytes(own.id, [2; 32], 0, &[0; 100])).await;
    told(&house, "does not have the hash that was announced").await;
    say(&connection, &bytes(own.id, [3; 32], u64::MAX, b"beyond")).await;
    told(&house, "it begins at byte 18446744073709551615").await;
    say(&connection, &bytes(own.id, [9; 32], 0, b"nobody")).await;

    // What would write to our terminal, or break a calculation.
    for wrong in [
        EventV1 { source: "cam\u{1b}[2J\n1970 ERROR the house burns".to_owned(), ..event(Vec::new()) },
        event(vec![AttachmentV1 { name: "\u{1b}]0;x\u{7}".to_owned(), ..attachment([4; 32], 1) }]),
        event(vec![attachment([4; 32], u64::MAX)]),
    ] {
        send_event(&connection, wrong.clone()).await.unwrap();
        assert!(matches!(answer(&connection, &mut link).await, Message::EventRefused(_)), "{wrong:?}");
    }
    for strange in [
        EventV1 { started: Timestamp(u64::MAX), ended: Some(Timestamp(0)), age: Some(u64::MAX), changed: Some(255), ..event(Vec::new()) },
        EventV1 {
            started: Timestamp(0),
            ended: Some(Timestamp(u64::MAX)),
            age: None,
            kind: 99,
            state: 99,
            rev: u32::MAX,
            ..event(Vec::new())
        },
        EventV1 { id: EventId([0xff; 16]), age: Some(0), ..event(Vec::new()) },
    ] {
        send_event(&connection, strange.clone()).await.unwrap();
        assert!(matches!(answer(&connection, &mut link).await, Message::EventKept(_)), "{strange:?}");
    }
    assert!(!house.coordinator.log().contains("ERROR the house burns") && !house.coordinator.log().contains('\u{1b}'));
    house.coordinator.cli(&["events", "--since", "1000d"]).await.good();
    house.status().await;

    // As much as may be told; people want to read the list all the same.
    for nth in 0..30 {
        let most = (0..200).map(|number| attachment([[nth, number].as_slice(), &[7; 30]].concat().try_into().unwrap(), 1 << 20));
        send_event(&connection, event(most.collect())).await.unwrap();
        assert!(matches!(answer(&connection, &mut link).await, Message::EventKept(_)));
    }
    house.coordinator.cli(&["events", "--since", "1000d"]).await.good();

    // A thousand events that nobody takes do not fill the log.
    let lines = house.coordinator.log().lines().count();
    for _ in 0..1000 {
        send_event(&connection, EventV1 { source: String::new(), ..event(Vec::new()) }).await.unwrap();
        assert!(matches!(answer(&connection, &mut link).await, Message::EventRefused(_)));
    }
    assert!(house.coordinator.log().lines().count() < lines + 20);
    assert_eq!(connection.close_reason(), None, "it is still linked");

    // Too long a frame ends its link.
    let kind = u16::from_be_bytes(frame::encode(&Message::Event(own), EVENT_LIMIT).unwrap()[4..6].try_into().unwrap());
    say(&connection, &raw(300 * 1024, kind, 0, &[0; 100])).await;
    assert_eq!(Thief::put_out(&connection).await, Some(CloseCode::Protocol));
    told(&house, "a frame of 307200 bytes").await;

    assert!(resident_kib(before.pid()) < memory + 64 * 1024, "{memory} KiB before, {} KiB after", resident_kib(before.pid()));
    house.is_unharmed(before).await;
    good(picture(hall, "2", "5", &jpeg(house.dir(), b"hall2.jpg", 2)));
    eventually("what an honest camera sees arrives", async || {
        house
            .events()
            .await
            .iter()
            .filter(|event| event.camera == "hall" && event.attachments.iter().all(|known| known.kept_at.is_some()))
            .count()
            == 2
    })
    .await;
    porch.start();
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn of_an_event_that_went_nothing_more_is_wanted_and_its_camera_is_told() {
    let house = armed_house().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let thief = Thief::of(&house, porch);
    let (connection, mut link) = thief.link().await;
    let own = event(vec![attachment([1; 32], 100)]);
    send_event(&connection, own.clone()).await.unwrap();
    assert!(matches!(answer(&connection, &mut link).await, Message::EventKept(kept) if kept.missing.len() == 1));
    let store = Events::open(&house.coordinator.state_dir()).await.unwrap().events;
    store.delete_event(own.id, own.started).await.unwrap();
    say(&connection, &bytes(own.id, [1; 32], 0, &[0; 100])).await;
    let Message::AttachmentKept(kept) = answer(&connection, &mut link).await else { panic!("it is told to forget it") };
    assert_eq!((kept.event, kept.hash), (own.id, [1; 32]));
    store.close().await;
}

#[tokio::test]
async fn a_camera_that_begins_everything_and_ends_nothing_holds_only_its_own_places() {
    let house = armed_house().await;
    let (porch, hall) = (house.camera("porch"), house.camera("hall"));
    porch.stop().await;
    let before = house.standing().await;
    let memory = resident_kib(before.pid());
    let thief = Thief::of(&house, porch);
    let (connection, mut link) = thief.link().await;
    let own = event(vec![attachment([1; 32], 1 << 30)]);
    send_event(&connection, own.clone()).await.unwrap();
    assert!(matches!(answer(&connection, &mut link).await, Message::EventKept(_)));

    // A thousand streams: one with a clip that never goes on, the others with a first byte.
    let mut open = Vec::new();
    let flood = async {
        for nth in 0..1000 {
            let mut stream = connection.open_uni().await.unwrap();
            let begun = if nth == 0 { bytes(own.id, [1; 32], 0, &[0; 1000]) } else { vec![0] };
            stream.write_all(&begun).await.unwrap();
            open.push(stream);
        }
    };
    // No more are let in than the coordinator has places for.
    let waited = tokio::time::timeout(Duration::from_secs(3), flood).await;
    assert!(waited.is_err() && open.len() <= 16, "{} streams", open.len());
    for nth in 0..5_u8 {
        good(picture(hall, &nth.to_string(), "5", &jpeg(house.dir(), format!("{nth}.jpg").as_bytes(), nth)));
    }
    eventually("what an honest camera sees arrives meanwhile", async || {
        house
            .events()
            .await
            .iter()
            .filter(|event| event.camera == "hall" && event.attachments.iter().all(|known| known.kept_at.is_some()))
            .count()
            == 5
    })
    .await;
    assert!(resident_kib(before.pid()) < memory + 64 * 1024);
    within(ENDED_WITHIN, "it is put out", async || connection.close_reason().is_some()).await;
    told(&house, "was begun and not").await;
    house.is_unharmed(before).await;
    porch.start();
    house.is_unharmed(before).await;
}
