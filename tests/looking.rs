//! Live pictures: what a camera sees now, on the page of whoever looks, and nowhere else.

use std::process::Command;

use dms3_core::arming::ArmState;
use dms3_core::protocol::events::EVENT_LIMIT;
use dms3_core::protocol::frame::{self, Message};
use dms3_core::protocol::message::{STILL_LIMIT, StillV1};
use dms3_node::mesh::link::Connection;
use reqwest::Method;

use crate::harness::skip::skipped;
use crate::harness::{House, MjpegCamera, Node, Plan, Visitor, eventually};
use crate::insiders::Thief;

fn plan() -> Plan {
    Plan { web: Some(String::new()), ..Plan::default() }
}

/// Status, type and body.
async fn look(visitor: &Visitor, path: &str) -> (u16, String, Vec<u8>) {
    let answer = visitor.ask(Method::GET, path, &[], String::new()).await;
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
    let cached = answer.headers().get("cache-control").cloned();
    let status = answer.status().as_u16();
    if status == 200 {
        assert_eq!(cached.unwrap(), "no-store", "it lies in no browser's cache");
    }
    (status, kind, answer.bytes().await.unwrap().to_vec())
}

fn is_picture(bytes: &[u8]) -> bool {
    image::load_from_memory(bytes).is_ok_and(|picture| (picture.width(), picture.height()) == (320, 240))
}

#[tokio::test]
async fn whoever_looks_sees_what_a_camera_sees_while_it_watches_and_nothing_while_the_house_is_disarmed() {
    let house = House::planned_with_cameras(plan(), ["porch"]).await;
    let (owner, stranger) = (house.owner().await, house.visitor().await);
    let seen = MjpegCamera::start().await;
    house.camera("porch").motion.shows(&seen);
    let mut open = owner.watches("?parts=cameras").await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let path = format!("/nodes/{}/live/cam", house.node_of(house.camera("porch")));
    open.hears("cameras", "data-live").await;
    let (status, kind, picture) = look(&owner, &path).await;
    assert!(status == 200 && kind == "image/jpeg" && is_picture(&picture), "{status} {kind}");
    assert_eq!(look(&stranger, &path).await.0, 401);
    assert!(house.coordinator.told("Ann looks at camera porch/cam live"));
    for nowhere in ["/nodes/x/live/cam", &path.replace("/cam", "/attic"), &path.replace("/cam", "/..%2f..%2fetc%2fpasswd")] {
        assert!(look(&owner, nowhere).await.0 >= 400, "{nowhere}");
    }

    house.disarm().await;
    open.hears("cameras", "Off while the house is disarmed, for your privacy.").await;
    house.agrees(ArmState::Disarmed).await;
    let mut said = String::new();
    // A picture of a second ago may be shown once more.
    eventually("nothing is shown any more", async || {
        let (status, _, words) = look(&owner, &path).await;
        said = String::from_utf8_lossy(&words).into_owned();
        status == 503
    })
    .await;
    assert!(said.contains("It is off while it does not watch."), "{said}");
    assert!(!owner.get("/cameras").await.has("data-live"));
}

#[tokio::test]
async fn a_camera_that_may_always_be_looked_at_shows_itself_in_a_disarmed_house_and_records_nothing() {
    if Command::new("motion").arg("-h").output().is_err() {
        return skipped("looking", "motion", "needs motion");
    }
    let house = House::planned(plan()).await;
    house.disarm().await;
    let camera = MjpegCamera::start().await;
    let sections = format!(
        "[mesh]\nmdns = \"loopback\"\nmdns_port = {}\n[camera]\nspool_dir = {:?}\n[[camera.detector]]\nname = \"garden\"\nurl = {:?}\nwidth = 320\nheight = 240\n\
         framerate = 10\nlive = \"always\"\n",
        house.mdns_port.number(),
        house.dir().join("spool"),
        camera.url()
    );
    let garden = Node::new(house.dir(), "garden", "camera", None, &sections);
    let word = house.token(&["--name", "garden"]).await;
    garden.cli_with(&["enroll", "-"], &word).await.good();
    garden.start();
    let owner = house.owner().await;
    let mut open = owner.watches("?parts=cameras").await;
    let path = format!("/nodes/{}/live/garden", house.node_of(&garden));
    open.hears("cameras", "data-live").await;
    let (status, _, picture) = look(&owner, &path).await;
    assert!(status == 200 && is_picture(&picture), "{status} {}", String::from_utf8_lossy(&picture));
    assert!(garden.told("it shows its picture and records nothing"));
    let status = house.look().await.unwrap();
    assert_eq!((status.state, status.watch().0), (ArmState::Disarmed, 0), "looking is not watching");
    assert!(house.events().await.is_empty());
    // Root at the camera has the last word.
    garden.cli(&["pause", "1h"]).await.good();
    eventually("one that is stopped by hand shows nothing", async || look(&owner, &path).await.0 == 503).await;
    assert!(owner.get("/cameras").await.has("Stopped by hand on the camera."));
}

async fn show(connection: &Connection, source: &str, length: u32, bytes: &[u8]) {
    let head = StillV1 { source: source.to_owned(), length, why: "\u{1b}[2J".repeat(100) };
    let frame = frame::encode(&Message::Still(head), EVENT_LIMIT).unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    // The other side may have seen enough before the end.
    let _ = stream.write_all(&[&frame, bytes].concat()).await;
    let _ = stream.finish();
    let _ = stream.stopped().await;
}

#[tokio::test]
async fn a_stolen_camera_that_shows_what_it_should_not_harms_nobody() {
    let house = House::planned_with_cameras(plan(), ["porch", "hall"]).await;
    let owner = house.owner().await;
    let porch = house.camera("porch");
    let path = format!("/nodes/{}/live/cam", house.node_of(porch));
    porch.stop().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let (connection, mut link) = Thief::of(&house, porch).link().await;
    let jpeg = |length: usize| [&[0xff, 0xd8, 0xff][..], &vec![0; length - 3]].concat();
    // Nobody looks.
    for source in ["cam", "", "\u{7}"] {
        show(&connection, source, 3_000_000, &jpeg(3_000_000)).await;
    }
    let page = b"<script>alert(1)</script>".to_vec();
    let cases = [
        (u32::try_from(page.len()).unwrap(), page, "What it sent is no picture."),
        (100, jpeg(200_000), "Its picture is longer than it said."),
        (200_000, jpeg(100), "Its picture is shorter than it said."),
        (STILL_LIMIT + 1, jpeg(100), "Its picture is too large (4194305 bytes)."),
        (u32::MAX, jpeg(100), "Its picture is too large (4294967295 bytes)."),
        (0, Vec::new(), "[2J[2J[2J"),
    ];
    let (next, answer) = tokio::sync::watch::channel((0, Vec::new()));
    let asking = async {
        for (length, bytes, words) in cases {
            next.send_replace((length, bytes));
            // An answer counts for a second.
            eventually(words, async || {
                let (status, kind, said) = look(&owner, &path).await;
                assert_eq!((status, kind.as_str()), (503, "text/plain; charset=utf-8"));
                assert!(!said.contains(&0x1b) && said.len() < 300 && !said.starts_with(b"<"), "{}", String::from_utf8_lossy(&said));
                String::from_utf8_lossy(&said).contains(words)
            })
            .await;
        }
    };
    let answering = async {
        loop {
            if let Message::Look(look) = link.receiver.recv(&connection).await.unwrap() {
                assert_eq!(look.source, "cam");
                let (length, bytes) = answer.borrow().clone();
                show(&connection, "cam", length, &bytes).await;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
    assert_eq!(connection.close_reason(), None, "it is still linked");
    drop(connection);
    porch.start();
    house.is_unharmed(before).await;
}
