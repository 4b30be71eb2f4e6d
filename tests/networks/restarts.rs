//! A coordinator that dies and comes back finds every camera at once, whatever the network lets through.

use std::fs;
use std::time::Duration;

use dms3_core::arming::ArmState;

use super::{NO_ANSWER, house_on, lan, lives};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, LINKED_WITHIN, Lan, Node, eventually};

const LISTENS: &str = " listens on UDP port ";
/// Killed so often while its cameras are linked, and once more until they have given their links up.
const KILLS: usize = 4;

/// Of each camera, how long after the coordinator listened again it was linked, as the coordinator's log tells it.
fn linked_after(house: &House) -> Vec<Duration> {
    let log = house.coordinator.log();
    let time = |line: &str| line.split_whitespace().next()?.parse::<jiff::Timestamp>().ok();
    let lines: Vec<_> = log.lines().collect();
    let since = &lines[lines.iter().rposition(|line| line.contains(LISTENS)).expect("it listens")..];
    let listened = time(since[0]).unwrap();
    let linked = |name: &str| {
        let told = format!("node {name} is linked from");
        let line = since.iter().find(|line| line.contains(&told)).unwrap_or_else(|| panic!("{name} is not linked"));
        Duration::try_from(time(line).unwrap().duration_since(listened)).unwrap()
    };
    house.cameras.iter().map(|camera| linked(&camera.name)).collect()
}

/// Waits until the coordinator has written down where each camera is, which it does a moment after it is linked.
async fn is_written_down(house: &House) {
    eventually("it is written down where the cameras are", async || {
        let known = fs::read_to_string(house.coordinator.state_dir().join("last_nodes")).unwrap_or_default();
        let Some(seen) = house.look().await else { return false };
        house.cameras.iter().all(|camera| {
            let view = seen.nodes.iter().find(|node| node.name == camera.name);
            view.and_then(|node| Some(format!("{} {}\n", node.node, node.address.as_ref()?))).is_some_and(|line| known.contains(&line))
        })
    })
    .await;
}

async fn all_are_back_each_time(what: &str, house: &House) {
    house.agrees(ArmState::Disarmed).await;
    is_written_down(house).await;
    let before = house.standing().await;
    let mut took = Vec::new();
    for nth in 0..=KILLS {
        house.coordinator.sigkill().await;
        if nth == KILLS {
            for camera in &house.cameras {
                eventually(&format!("{} gives its link up", camera.name), async || camera.told(NO_ANSWER)).await;
            }
        }
        house.coordinator.start();
        house.answers().await;
        house.stands(before).await;
        let after = linked_after(house);
        eprintln!("{what}: linked again {after:?} after it listens");
        took.extend(after);
    }
    took.sort_unstable();
    eprintln!("{what}: of {} the middle one {:?}, the last {:?}", took.len(), took[took.len() / 2], took[took.len() - 1]);
    // Promised is a second; a busy machine may need more, and whoever waits for his own keep-alive needs five.
    assert!(took.iter().all(|took| *took <= LINKED_WITHIN), "{what}: {took:?}");
    lives(house).await;
}

/// From its next start on it neither says nor hears anything by mDNS.
async fn turns_mdns_off(node: &Node) {
    let text = fs::read_to_string(node.config()).unwrap();
    let off = "[mesh]\nmdns = \"off\"";
    let text = match text.contains("[mesh]") {
        true => text.replace("mdns = \"loopback\"\n", "").replace("[mesh]", off),
        false => format!("{text}\n{off}\n"),
    };
    fs::write(node.config(), text).unwrap();
    node.restart().await;
}

async fn without_mdns(house: &House) {
    turns_mdns_off(&house.coordinator).await;
    house.answers().await;
    for camera in &house.cameras {
        turns_mdns_off(camera).await;
    }
}

#[tokio::test]
async fn on_one_machine_a_coordinator_that_was_killed_has_every_camera_back_at_once() {
    let house = House::with_cameras(["porch", "hall", "yard"]).await;
    all_are_back_each_time("loopback, mDNS", &house).await;
    without_mdns(&house).await;
    all_are_back_each_time("loopback, no mDNS", &house).await;
}

#[tokio::test]
async fn on_a_network_a_coordinator_that_was_killed_has_every_camera_back_at_once() {
    if cannot_make_networks("networks") {
        return;
    }
    let house = house_on(Lan::new(), ["porch", "hall", "yard"]).await;
    all_are_back_each_time("network, mDNS", &house).await;
    without_mdns(&house).await;
    all_are_back_each_time("network, no mDNS", &house).await;
}

#[tokio::test]
async fn where_no_multicast_gets_through_a_word_with_a_hint_pairs_and_a_coordinator_that_was_killed_is_back_at_once() {
    if cannot_make_networks("networks") {
        return;
    }
    let mut house = house_on(Lan::new(), []).await;
    lan(&house).drops_multicast();
    let coordinator = lan(&house).machine("coordinator");
    let alone = house.new_camera("yard");
    let word = house.token(&["--name", "yard"]).await;
    let why = alone.cli_with(&["enroll", "-", "--timeout", "3s"], &word).await.bad();
    assert!(why.contains("coordinator"), "without a hint nobody is found: {why}");
    for (name, peers) in [("porch", ""), ("hall", "[mesh]\npeers = [\"IP\"]\n")] {
        let camera = house.new_camera(name);
        camera.configure(&peers.replace("IP", &coordinator.ip));
        let word = house.token(&["--name", name, "--hint", &coordinator.ip]).await;
        camera.cli_with(&["enroll", "-"], &word).await.good();
        camera.start();
        house.cameras.push(camera);
    }
    house.agrees(ArmState::Disarmed).await;
    // Whoever forgot where it was needs his config.
    let (porch, hall) = (house.camera("porch"), house.camera("hall"));
    for camera in [porch, hall] {
        camera.stop().await;
        fs::remove_file(camera.state_dir().join("last_coordinator")).unwrap();
        camera.start();
    }
    eventually("one is found again", async || hall.camera_status().await.is_some_and(|status| status.linked.is_some())).await;
    eventually("the other says what it lacks", async || {
        porch.told("no coordinator was heard and none is configured") || porch.camera_status().await.is_some_and(|s| s.linked.is_some())
    })
    .await;
    porch.stop().await;
    porch.configure(&format!("[mesh]\npeers = [{:?}]\n", coordinator.ip));
    porch.start();
    all_are_back_each_time("network without multicast", &house).await;
}
