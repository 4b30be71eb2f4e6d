//! Machines whose clock is wrong: a Pi that wakes up in 1970, a coordinator far ahead, and a house that survives both.

use std::fs;

use dms3_core::arming::ArmState;
use dms3_core::time::Timestamp;
use dms3_node::clock::wall;

use crate::harness::skip::cannot_fake_clocks;
use crate::harness::{House, Node, eventually};

const DAY: u64 = 86_400;

/// "+200d", or, where a time server vouches for this machine's clock and so for any within 400 days, further away.
fn ahead(days: u64) -> String {
    // SAFETY: timex is plain integers, so all zeros is a value of it; with `modes` zero the kernel only fills it in.
    #[allow(unsafe_code, reason = "nix has no adjtimex")]
    let synchronised = unsafe {
        let mut state = std::mem::zeroed::<libc::timex>();
        libc::adjtimex(&raw mut state) >= 0 && state.status & libc::STA_UNSYNC == 0
    };
    format!("+{}d", if synchronised { days + 400 } else { days })
}

/// The time that a node keeps as proven.
fn proven(node: &Node) -> Timestamp {
    Timestamp::from_secs(fs::read_to_string(node.state_dir().join("clock")).unwrap().trim().parse().unwrap())
}

#[tokio::test]
async fn a_coordinator_that_was_once_far_ahead_keeps_its_cameras() {
    if cannot_fake_clocks("a_coordinator_that_was_once_far_ahead_keeps_its_cameras") {
        return;
    }
    let house = House::with_cameras(["porch"]).await;
    house.coordinator.stop().await;
    house.coordinator.set_clock(Some(&ahead(200)));
    house.coordinator.start();
    house.answers().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    assert!(house.status().await.problems.iter().any(|problem| problem.contains("dms3-node time accept")));

    house.coordinator.stop().await;
    house.coordinator.set_clock(None);
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Away).await;
    let porch = house.camera("porch");
    porch.restart().await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    porch.stop().await;
    assert!(proven(porch).since(wall()).as_secs() < DAY, "it never believed that time");
}

#[tokio::test]
async fn a_coordinator_far_ahead_pairs_nobody_and_says_why_until_a_person_vouches_for_its_clock() {
    if cannot_fake_clocks("a_coordinator_far_ahead_pairs_nobody_and_says_why_until_a_person_vouches_for_its_clock") {
        return;
    }
    let house = House::new().await;
    let word = house.token(&["--ttl", "7d"]).await;
    house.coordinator.stop().await;
    house.coordinator.set_clock(Some(&ahead(60)));
    house.coordinator.start();
    house.answers().await;
    let why = house.coordinator.cli(&["token", "new"]).await.bad();
    assert!(why.contains("dms3-node time accept"), "{why}");
    let porch = house.new_camera("porch");
    let why = porch.cli_with(&["enroll", "-", "--timeout", "20s"], &word).await.bad();
    assert!(why.contains("dms3-node time accept"), "{why}");

    house.coordinator.cli(&["time", "accept"]).await.good();
    assert_eq!(house.status().await.problems, Vec::<String>::new());
    house.token(&[]).await;
    assert!(house.coordinator.told("vouches for this machine's clock"), "the log says who did");
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    house.token(&[]).await;

    // The same, while the node is stopped.
    house.coordinator.stop().await;
    house.coordinator.set_clock(Some(&ahead(1000)));
    let said = house.coordinator.cli(&["time", "accept"]).await.good();
    assert!(said.contains("from the next start"), "{said}");
    house.coordinator.start();
    house.answers().await;
    house.token(&[]).await;
    // Time that is proven is not taken back.
    house.coordinator.set_clock(None);
    house.coordinator.stop().await;
    let why = house.coordinator.cli(&["time", "accept"]).await.bad();
    assert!(why.contains("set the clock first"), "{why}");
}

#[tokio::test]
async fn a_pi_in_1970_pairs_links_and_knows_the_time() {
    if cannot_fake_clocks("a_pi_in_1970_pairs_links_and_knows_the_time") {
        return;
    }
    let mut house = House::new().await;
    let word = house.token(&["--name", "porch"]).await;
    let porch = house.new_camera("porch");
    porch.set_clock(Some("@1970-01-01 00:05:00"));
    porch.cli_with(&["enroll", "-"], &word).await.good();
    porch.start();
    house.cameras.push(porch);
    house.agrees(ArmState::Away).await;
    let porch = house.camera("porch");
    eventually("it knows the time", async || porch.camera_status().await.is_some_and(|status| status.clock_trusted)).await;
    porch.stop().await;
    let (told, now) = (proven(porch), wall());
    assert!(now.since(told).as_secs() < 3600 && told.since(now).as_secs() < 60, "{told} is not {now}");
    // And after the next power cut it is not in 1970 again.
    porch.start();
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn a_house_is_founded_on_a_machine_that_was_installed_late_only_with_a_persons_word() {
    if cannot_fake_clocks("a_house_is_founded_on_a_machine_that_was_installed_late_only_with_a_persons_word") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let late = Node::new(dir.path(), "late", "coordinator", None, "[coordinator.presence]\nenabled = false\n");
    late.set_clock(Some("+900d"));
    let why = late.cli(&["init"]).await.bad();
    assert!(why.contains("--accept-clock"), "{why}");
    assert!(!late.state_dir().join("ca").exists());
    late.cli(&["init", "--accept-clock"]).await.good();
    assert!(proven(&late).since(wall()).as_secs() > 800 * DAY);
}
