//! Machines whose clock is wrong: a Pi that wakes up in 1970, a coordinator far ahead, and a house that survives both.

mod jumps;
mod wrong;

use std::fs;

use dms3_core::arming::ArmState;
use dms3_core::event::{EventFilter, MOST};
use dms3_core::request::{Answer, Request};
use dms3_core::time::Timestamp;
use dms3_node::clock::wall;

use crate::harness::skip::cannot_fake_clocks;
use crate::harness::{BINARY, Camera, House, Node, eventually};

const DAY: u64 = 86_400;

/// A time is that of a fact that is a moment old if it is no further from the true one than this.
const MINUTES: u64 = 300;

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

/// That node's hook, which goes by the clock of its machine, tells of a movement that is over.
fn something_moves(camera: &Camera, event: &str) {
    for what in ["event-start", "event-end"] {
        let now = std::process::Command::new("date").arg("+%s").envs(camera.clock_env()).output().unwrap().stdout;
        let now = String::from_utf8(now).unwrap();
        let mut hook = std::process::Command::new(BINARY);
        hook.args(["hook", what, "--event", event, "--camera", "cam", "--at", now.trim(), "--run-dir"]).arg(camera.run_dir());
        let said = hook.arg("--spool").arg(camera.spool_dir()).envs(camera.clock_env()).output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
}

/// So many events are kept, and each began in truth when the house says so, give or take some minutes.
async fn keeps_events_of_today(house: &House, number: usize) {
    let filter = EventFilter { limit: MOST, ..EventFilter::default() };
    let mut events = Vec::new();
    eventually(&format!("{number} events are kept"), async || {
        events = match house.coordinator.ask(&Request::Events { filter: filter.clone() }).await {
            Ok(Answer::Events(events)) => events,
            _ => Vec::new(),
        };
        events.len() == number
    })
    .await;
    for event in &events {
        let off = wall().since(event.began).max(event.began.since(wall()));
        assert!(off.as_secs() < MINUTES, "an event of now is said to be of {}: {event:?}", event.began);
        assert!(event.ended.is_none_or(|ended| ended >= event.started && ended.since(event.started).as_secs() < MINUTES), "{event:?}");
    }
}

/// The time that a node keeps as proven.
fn proven(node: &Node) -> Timestamp {
    let text = fs::read_to_string(node.state_dir().join("clock")).unwrap();
    Timestamp::from_secs(text.split(' ').next().unwrap().parse().unwrap())
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
async fn a_pi_without_a_clock_that_wakes_before_the_network_knows_that_it_does_not_know_the_time() {
    if cannot_fake_clocks("a_pi_without_a_clock_that_wakes_before_the_network_knows_that_it_does_not_know_the_time") {
        return;
    }
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    porch.stop().await;
    house.coordinator.stop().await;
    porch.set_clock(Some("@1970-01-01 00:00:20"));
    porch.start();
    eventually("it runs", async || porch.camera_status().await.is_some()).await;
    let alone = porch.camera_status().await.unwrap();
    // What its rules see of time (`Now::trusted`): by this no window is evaluated.
    assert!(!alone.clock_trusted && alone.linked.is_none(), "{alone:?}");
    something_moves(porch, "1");
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    let linked = porch.camera_status().await.unwrap();
    assert!(linked.clock_trusted && linked.linked.is_some(), "{linked:?}");
    something_moves(porch, "2");
    keeps_events_of_today(&house, 2).await;
}

#[tokio::test]
async fn as_months_pass_both_roles_renew_their_certificates_and_a_camera_out_of_a_drawer_comes_back_by_itself() {
    if cannot_fake_clocks("as_months_pass_both_roles_renew_their_certificates_and_a_camera_out_of_a_drawer_comes_back_by_itself") {
        return;
    }
    let mut house = House::with_cameras(["porch"]).await;
    house.add_camera("shed").await;
    house.agrees(ArmState::Disarmed).await;
    let leaf = |node: &Node| house.identity_of(node).leaf().to_vec();
    let (porch, shed) = (house.camera("porch"), house.camera("shed"));
    let first = [leaf(&house.coordinator), leaf(porch), leaf(shed)];
    shed.stop().await;
    for (days, nth) in [(40, 1), (140, 2)] {
        let before = [leaf(&house.coordinator), leaf(porch)];
        house.coordinator.stop().await;
        // No time server is reached here, so a person says that it is right.
        house.coordinator.set_clock(Some(&format!("+{days}d")));
        house.coordinator.cli(&["time", "accept"]).await.good();
        house.coordinator.start();
        house.answers().await;
        house.agrees(ArmState::Disarmed).await;
        // The camera's own machine does not know of it: the house tells.
        eventually("both have new certificates", async || leaf(&house.coordinator) != before[0] && leaf(porch) != before[1]).await;
        house.agrees(ArmState::Disarmed).await;
        assert!(porch.lines_with("this node's certificate was renewed") >= nth);
    }
    assert_eq!(leaf(shed), first[2], "in the drawer nothing was renewed");
    shed.start();
    house.arm().await;
    house.agrees(ArmState::Away).await;
    assert!(shed.told("this node's certificate is expired") && leaf(shed) != first[2]);
    assert!(house.identity_of(shed).not_after().since(proven(&house.coordinator)).as_secs() > 80 * DAY);
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
