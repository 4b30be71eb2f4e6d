//! What a person or presence decides reaches every camera, and nothing that breaks ever disarms a house.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::roster::NodeStatus;

use crate::harness::{House, LINKED_WITHIN, Node, eventually, within};

/// From a decision to the command that starts a detector on a slow and busy machine; on a Pi it is a few milliseconds.
const ISSUED_WITHIN_MS: u64 = 1000;
/// What a node says whose last run was killed.
const KILLED: &str = "the last run of this node could not end: it was killed, or the power went";
/// What a camera says of a link whose coordinator was started anew.
const RESTARTED: &str = "the link to the coordinator ended: the other side was restarted";
/// The same where it only seems so: somebody was heard to start, and nobody answers on the link any more.
const RESTARTED_SILENTLY: &str = "the link to the coordinator ended: the coordinator was restarted";
const ENDED: &str = "the link to the coordinator ended: ";
const LINKED: &str = "linked to coordinator ";

#[tokio::test]
async fn every_camera_watches_when_the_house_is_armed_and_none_when_it_is_not() {
    let house = House::with_cameras(["porch", "hall"]).await;
    let before: Vec<_> = house.cameras.iter().map(|camera| commands(camera).len()).collect();
    let said = house.coordinator.cli(&["arm", "--now"]).await.good();
    assert!(said.contains("Armed (away)"), "{said}");
    house.agrees(ArmState::Away).await;
    for (camera, before) in house.cameras.iter().zip(before) {
        let told = commands(camera).split_off(before);
        let [Some(after_ms)] = told[..] else { panic!("{} tells once how soon the command was issued: {told:?}", camera.name) };
        assert!(after_ms <= ISSUED_WITHIN_MS, "{}: the command was issued after {after_ms} ms", camera.name);
    }
    eventually("both are seen to watch", async || house.coordinator.cli(&["status"]).await.good().contains("2 of 2 watching.")).await;
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains("Armed (away) since"), "{said}");

    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    for camera in &house.cameras {
        assert_eq!((camera.motion.starts(), camera.motion.stops()), (1, 1), "{}", camera.name);
    }
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains("Disarmed since"), "{said}");
}

/// Of each detector that a camera started, how many milliseconds after the decision; `None`: after no decision.
fn commands(camera: &Node) -> Vec<Option<u64>> {
    let log = camera.log();
    let lines = log.lines().filter(|line| line.contains("detector command issued"));
    lines.map(|line| line.split_once("after_ms=")?.1.split_whitespace().next()?.parse().ok()).collect()
}

#[tokio::test]
async fn a_window_arms_the_house_with_everybody_in_it_and_says_so_and_a_person_overrules_it() {
    let house = House::with_cameras(["porch"]).await;
    let coordinator = &house.coordinator;
    house.disarm().await;
    coordinator.cli(&["auto"]).await.good();
    house.agrees(ArmState::Disarmed).await;
    // The whole day, whatever time it is where this runs.
    coordinator.configure("[[coordinator.window]]\nstate = \"away\"\n");
    coordinator.restart().await;
    house.agrees(ArmState::Away).await;
    let said = coordinator.cli(&["why"]).await.good();
    assert!(said.starts_with("Armed (away) since ") && said.contains(": a window for away began.\n"), "{said}");
    assert!(said.contains("\n  Window: until ") && said.contains(" it asks for armed (away) at least.\n"), "{said}");

    coordinator.cli(&["disarm", "--guests", "--for", "2h"]).await.good();
    house.agrees(ArmState::Disarmed).await;
    let said = coordinator.cli(&["why"]).await.good();
    assert!(said.contains(": disarmed for guests by ") && said.contains("\n  By hand: a person chose it, until "), "{said}");
    let said = coordinator.cli(&["disarm", "--guests"]).await.bad();
    assert!(said.contains("how long do your guests stay? Say --until 23:00 or --for 4h"), "{said}");

    coordinator.cli(&["auto"]).await.good();
    house.agrees(ArmState::Away).await;
    coordinator.cli(&["arm", "--vacation", "--now"]).await.good();
    let said = coordinator.cli(&["status"]).await.good();
    assert!(said.contains(": armed for a vacation by "), "{said}");
    // A camera keeps the windows beside its state, for a time without its coordinator.
    let said = house.coordinator.cli(&["log"]).await.good();
    assert!(said.contains("a window for away began"), "{said}");
}

#[tokio::test]
async fn at_night_only_cameras_that_are_to_watch_at_night_do() {
    let house = House::with_cameras(["porch"]).await;
    house.coordinator.cli(&["arm", "--night", "--now"]).await.good();
    eventually("the camera holds the state of the night", async || {
        house.view("porch").await.is_some_and(|porch| porch.current)
            && house.look().await.is_some_and(|house| house.state == ArmState::Night)
    })
    .await;
    assert_eq!(house.camera("porch").motion.starts(), 0, "this one watches in \"away\" only");
    let status = house.camera("porch").camera_status().await.unwrap();
    assert_eq!(status.effective, ArmState::Night);
}

#[tokio::test]
async fn whatever_is_killed_while_the_house_is_armed_it_stays_armed() {
    let house = House::with_cameras(["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;

    house.coordinator.sigkill().await;
    for camera in &house.cameras {
        assert!(camera.motion.running().is_some(), "{} watches on without a coordinator", camera.name);
    }
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    for camera in &house.cameras {
        assert_eq!(camera.motion.starts(), 1, "{} was not disturbed", camera.name);
        assert_eq!(camera.lines_with(RESTARTED), 1, "{} tells once why its link ended", camera.name);
    }
    assert_eq!(house.coordinator.lines_with(KILLED), 1, "and the coordinator why it began anew");

    let (porch, before) = (house.camera("porch"), house.standing().await);
    porch.sigkill().await;
    eventually("its detector dies with it", async || porch.motion.running().is_none()).await;
    porch.start();
    house.stands(before).await;
    house.is_unharmed(before).await;
    assert_eq!(house.coordinator.lines_with("the link of node porch"), 1, "the coordinator tells once that its link ended");

    // Alone: without the coordinator too.
    house.coordinator.sigkill().await;
    porch.sigkill().await;
    porch.start();
    eventually("it watches again from memory alone", async || porch.motion.running().is_some()).await;
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    assert_eq!(house.camera("hall").lines_with(RESTARTED), 2);
    assert_eq!((porch.lines_with(KILLED), house.coordinator.lines_with(KILLED)), (2, 2));
}

#[tokio::test]
async fn a_coordinator_that_is_killed_again_as_soon_as_it_is_back_finds_its_cameras_each_time() {
    let house = House::with_cameras(["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    // The first link may have been made anew when the time became known.
    let told = |words| house.cameras.iter().map(|camera| camera.lines_with(words)).collect::<Vec<_>>();
    let (linked, ended) = (told(LINKED), told(ENDED));
    for _ in 0..5 {
        house.coordinator.sigkill().await;
        house.coordinator.start();
        // The cameras come back, or are about to, when it is killed again.
        house.answers().await;
    }
    house.stands(before).await;
    assert_eq!(house.coordinator.lines_with(KILLED), 5, "it says each time why it began anew");
    for (nth, camera) in house.cameras.iter().enumerate() {
        assert_eq!((camera.motion.starts(), camera.motion.stops()), (1, 0), "{} was not disturbed", camera.name);
        // Not every time was long enough for a link; each one that was has one line of why it ended.
        let (linked, ended) = (camera.lines_with(LINKED) - linked[nth], camera.lines_with(ENDED) - ended[nth]);
        assert!(linked == ended && (1..=5).contains(&ended), "{}: {linked} links began anew and {ended} ended", camera.name);
        let restarts = camera.lines_with(RESTARTED) + camera.lines_with(RESTARTED_SILENTLY);
        assert_eq!(restarts, ended, "{} says of each why", camera.name);
    }
}

#[tokio::test]
async fn whatever_is_killed_while_the_house_is_disarmed_no_camera_watches() {
    let house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    let (porch, before) = (house.camera("porch"), house.standing().await);
    assert_eq!(porch.lines_with(RESTARTED), 1);

    porch.sigkill().await;
    porch.start();
    house.stands(before).await;
    house.is_unharmed(before).await;
    assert_eq!(house.coordinator.lines_with("the link of node porch"), 1);

    // Both at once.
    house.coordinator.sigkill().await;
    porch.sigkill().await;
    porch.start();
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    assert_eq!((porch.lines_with(KILLED), house.coordinator.lines_with(KILLED)), (2, 2), "each of them says why it began anew");
    assert_eq!(porch.motion.starts(), 0, "nobody was filmed");
}

#[tokio::test]
async fn a_state_that_was_decided_while_a_camera_was_off_is_the_first_that_it_hears() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    porch.stop().await;
    house.arm().await;
    porch.start();
    house.agrees(ArmState::Away).await;
    porch.stop().await;
    assert!(porch.motion.running().is_none(), "a node that ends takes its detector with it");
    house.disarm().await;
    porch.start();
    house.agrees(ArmState::Disarmed).await;
    assert!(porch.camera_status().await.unwrap().linked.is_some());
}

#[tokio::test]
async fn a_coordinator_that_comes_from_an_old_backup_arms_the_house_instead_of_disarming_it() {
    let house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    let (state, backup) = (house.coordinator.state_dir(), house.dir().join("backup"));
    house.coordinator.stop().await;
    copy(&state, &backup);
    house.coordinator.start();
    house.answers().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;

    house.coordinator.stop().await;
    fs::remove_dir_all(&state).unwrap();
    copy(&backup, &state);
    house.coordinator.start();
    house.answers().await;
    within(LINKED_WITHIN, "the coordinator learns that it forgot something, and all agree", async || {
        house.look().await.is_some_and(|house| house.epoch > before.version.0) && house.is_whole(ArmState::Away).await
    })
    .await;
    let porch = house.camera("porch");
    assert_eq!((porch.motion.starts(), porch.motion.stops()), (1, 0), "it watched all the time");
    assert_eq!(house.coordinator.lines_with("alert states-conflict"), 1, "and people are told");

    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
}

#[tokio::test]
async fn a_store_that_is_damaged_is_no_reason_to_begin_anew() {
    let house = House::with_cameras(["porch"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house.coordinator.stop().await;
    let store = house.coordinator.state_dir().join(dms3_node::store::STORE_FILE);
    for journal in ["-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{journal}", store.display())));
    }
    let damaged = "this is no database, and was never one".repeat(200);
    fs::write(&store, &damaged).unwrap();
    house.coordinator.start();
    house.coordinator.fails().await;
    assert!(house.coordinator.told(store.to_str().unwrap()), "it says which file");
    assert_eq!(fs::read(&store).unwrap(), damaged.as_bytes(), "what is left of it is left alone: somebody may mend it");
    assert!(house.camera("porch").motion.running().is_some());
}

#[tokio::test]
async fn a_camera_whose_memory_is_damaged_watches() {
    let house = House::with_cameras(["porch", "hall"]).await;
    let before = house.standing().await;
    house.coordinator.stop().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let kept: Vec<_> = fs::read_dir(porch.state_dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(kept.iter().any(|name| name == "camera.state"), "{kept:?}");
    fs::write(porch.state_dir().join("camera.state"), "nonsense").unwrap();
    porch.start();
    eventually("it watches", async || porch.motion.running().is_some()).await;
    let why = ["this camera is armed, since its memory cannot be read", "camera.state: this is no memory of a camera"];
    assert!(porch.line_with_all(&why), "and says why");
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    assert_eq!((porch.motion.starts(), house.camera("hall").motion.starts()), (1, 0), "the other one was not disturbed");
}

#[tokio::test]
async fn a_detector_that_is_stopped_by_hand_stays_so_until_a_person_or_time_ends_it() {
    let house = House::with_cameras(["porch"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let porch = house.camera("porch");
    porch.cli(&["pause", "2h"]).await.good();
    eventually("the detector ends", async || porch.motion.running().is_none()).await;
    eventually("everybody can see that it was stopped by hand", async || {
        house.look().await.is_some_and(|house| house.problems.iter().any(|problem| problem.contains("stopped by hand")))
    })
    .await;
    house.disarm().await;
    house.arm().await;
    eventually("the camera has heard", async || house.view("porch").await.is_some_and(|porch| porch.current)).await;
    assert_eq!(porch.motion.starts(), 1, "arming does not end it");
    porch.cli(&["resume"]).await.good();
    house.agrees(ArmState::Away).await;
    porch.cli(&["pause", "13h"]).await.bad();
    assert!(house.coordinator.cli(&["pause", "1h"]).await.bad().contains("camera"));
}

#[tokio::test]
async fn a_node_that_is_revoked_is_out_at_once_and_for_good() {
    let house = House::with_cameras(["porch", "hall"]).await;
    let before = house.standing().await;
    let said = house.coordinator.cli(&["revoke", "porch"]).await.good();
    for words in [
        "\"porch\"",
        "its key and certificate",
        "whether the house was armed",
        "what it saw",
        "rtsp://",
        "withdraw it at the mail provider",
    ] {
        assert!(said.contains(words), "a person is told what it knew ({words}): {said}");
    }
    let porch = house.camera("porch");
    within(Duration::from_secs(1), "its link is closed", async || {
        porch.camera_status().await.is_some_and(|status| status.linked.is_none())
    })
    .await;
    eventually("it says why", async || porch.told("revoked")).await;
    house.is_unharmed_and_told(before, "the link of node porch").await;
    assert_eq!(house.told_since(before, "revoked node"), 1, "and the coordinator who did it");

    // What is decided now it does not learn.
    let starts = porch.motion.starts();
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let armed = house.standing().await;
    porch.stop().await;
    let told = porch.lines_with("revoked");
    porch.start();
    eventually("it is refused again, and says so", async || porch.lines_with("revoked") > told).await;
    let mut status = None;
    eventually("it answers", async || {
        status = porch.camera_status().await;
        status.is_some()
    })
    .await;
    let status = status.unwrap();
    assert_eq!((&status.linked, porch.motion.starts()), (&None, starts));
    assert!((status.epoch, status.rev) <= (Some(before.version.0), Some(before.version.1)), "it learned nothing: {status:?}");
    let row = house.view("porch").await.unwrap();
    assert_eq!(row.status, NodeStatus::Revoked);
    house.is_unharmed_and_told(armed, "was not let in: the node was revoked").await;

    // Nor does a new word bring its key back.
    let word = house.token(&[]).await;
    porch.stop().await;
    let why = porch.cli_with(&["enroll", "-", "--again", "--timeout", "5s"], &word).await.bad();
    assert!(why.contains("revoked"), "{why}");
    house.is_unharmed_and_told(armed, "with token").await;
}

#[tokio::test]
async fn a_camera_has_the_name_that_people_gave_it_last() {
    let house = House::with_cameras(["porch"]).await;
    let before = house.standing().await;
    house.coordinator.cli(&["rename", "porch", "Garden door"]).await.good();
    assert!(house.view("Garden door").await.is_some());
    assert!(house.coordinator.cli(&["rename", "porch", "x"]).await.bad().contains("porch"));
    house.coordinator.cli(&["rename", "Garden door", ""]).await.bad();
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    eventually("it is linked under that name", async || house.view("Garden door").await.is_some_and(|node| node.liveness == "online"))
        .await;
    assert_eq!(house.standing().await.version, before.version);
}

#[tokio::test]
async fn an_order_that_cannot_be_meant_is_refused() {
    let house = House::new().await;
    let before = house.standing().await;
    for wrong in [vec!["arm", "--for", "soon"], vec!["arm", "--until", "25:00"], vec!["disarm", "--for", "0s"], vec!["revoke", "nobody"]] {
        house.coordinator.cli(&wrong).await.bad();
    }
    assert_eq!(house.standing().await, before);
    let second = format!("{}{}", house.coordinator.cli(&["run"]).await.bad(), house.coordinator.log());
    assert!(second.contains("another"), "two nodes never share a state directory: {second}");
    assert_eq!(house.standing().await, before);
}

fn copy(from: &Path, to: &Path) {
    let out = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
