//! What a person types, and what is said to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use dms3_core::arming::ArmState;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, Lan, Node, Plan, eventually};

/// Nobody's user.
const NOBODY: u32 = 65534;

async fn says(house: &House, words: &str) -> bool {
    house.coordinator.cli(&["status"]).await.good().contains(words)
}

#[tokio::test]
async fn a_person_arms_and_disarms_for_a_while_and_hands_back() {
    let house = House::with_cameras(["porch"]).await;
    house.coordinator.cli(&["arm", "--now", "--for", "2h"]).await.good();
    house.agrees(ArmState::Away).await;
    let left = house.status().await.override_until.unwrap().since(dms3_node::clock::wall());
    assert!(left <= Duration::from_secs(7200) && left > Duration::from_secs(7000), "{left:?}");
    house.coordinator.cli(&["disarm", "--for", "1h"]).await.good();
    house.agrees(ArmState::Disarmed).await;
    assert!(says(&house, " Until ").await);
    house.coordinator.cli(&["arm", "--now", "--until", "07:00"]).await.good();
    house.agrees(ArmState::Away).await;
    assert!(says(&house, "07:00").await, "{}", house.coordinator.cli(&["status"]).await.good());
    assert!(house.status().await.overridden);
    house.coordinator.cli(&["auto"]).await.good();
    assert!(!house.status().await.overridden);
}

#[tokio::test]
async fn a_camera_that_is_missed_is_named_with_the_reason() {
    let house = House::with_cameras(["porch", "garden"]).await;
    house.camera("garden").stop().await;
    eventually("its link is gone", async || house.view("garden").await.is_some_and(|garden| garden.liveness != "online")).await;
    house.arm().await;
    eventually("it is missed since then", async || says(&house, "1 of 2 watching (garden: not linked since ").await).await;

    house.coordinator.restart().await;
    house.answers().await;
    eventually("it is missed by a coordinator that never heard of it", async || {
        says(&house, "1 of 2 watching (garden: not linked since the coordinator started)").await
    })
    .await;
    let nodes = house.coordinator.cli(&["nodes"]).await.good();
    assert!(nodes.contains("Armed (away)"), "{nodes}");
    house.coordinator.cli(&["revoke", "garden"]).await.good();
    assert!(says(&house, "1 of 1 watching.").await);
}

#[tokio::test]
async fn what_was_decided_can_be_read_and_a_person_can_be_forgotten() {
    let house = House::with_cameras(["porch"]).await;
    house.arm().await;
    house.coordinator.cli(&["rename", "porch", "hall"]).await.good();
    let by = house.status().await.reason;
    let user = by.rsplit(' ').next().unwrap().to_owned();
    let log = house.coordinator.cli(&["log"]).await.good();
    for words in ["Armed (away)", "Disarmed", "token-made", "enrolled", "renamed", "porch -> hall", user.as_str()] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let json = house.coordinator.cli(&["log", "--since", "1h", "--json"]).await.good();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["decisions"].as_array().is_some_and(|rows| rows.len() >= 2) && json["audit"].as_array().is_some());

    let before = house.standing().await;
    let said = house.coordinator.cli(&["forget", &user]).await.good();
    assert!(said.contains("is forgotten"), "{said}");
    let log = house.coordinator.cli(&["log"]).await.good();
    assert!(!log.contains(&format!(" {user}")), "{log}");
    assert!(!house.status().await.reason.contains(&user));
    assert_eq!(house.standing().await, before);
    house.coordinator.restart().await;
    house.answers().await;
    assert!(!house.status().await.reason.contains(&user), "nor does it come back");
}

#[tokio::test]
async fn a_camera_that_is_not_paired_says_what_to_do() {
    let house = House::new().await;
    let porch = house.new_camera("porch");
    porch.start();
    eventually("it answers", async || porch.cli(&["status"]).await.err.contains("enroll --config")).await;
    assert!(porch.cli(&["pause", "1h"]).await.bad().contains("not paired"));
}

#[tokio::test]
async fn an_outdoor_camera_is_told_so_when_it_is_paired() {
    let plan = Plan { camera: "#on_coordinator_lost = { arm_after = \"15m\", as = \"away\" }".to_owned(), ..Plan::default() };
    let mut house = House::planned(plan).await;
    let porch = house.new_camera("porch");
    let config = fs::read_to_string(porch.config()).unwrap();
    fs::write(porch.config(), config + "#watch_in = [\"away\"]\n").unwrap();
    // The service waits already, with the config as it was.
    porch.start();
    eventually("it waits", async || porch.told("not paired")).await;
    let file = house.dir().join("word");
    fs::write(&file, house.token(&["--name", "porch"]).await).unwrap();
    let options = ["--watch-in", "away,night", "--on-coordinator-lost", "hold"];
    let enroll = [&["enroll", "--token-file", file.to_str().unwrap()], &options[..]].concat();
    porch.cli(&enroll).await.good();
    let config = fs::read_to_string(porch.config()).unwrap();
    assert!(config.contains("\nwatch_in = [\"away\", \"night\"]\n") && config.contains("\non_coordinator_lost = \"hold\"\n"), "{config}");
    house.cameras.push(porch);
    house.coordinator.cli(&["arm", "--night", "--now"]).await.good();
    eventually("it watches at night", async || house.camera("porch").motion.running().is_some()).await;
    house.agrees(ArmState::Night).await;
    // A config of one's own is one's own.
    let why = house.camera("porch").cli(&enroll).await.bad();
    assert!(why.contains("watch_in"), "{why}");
}

#[tokio::test]
async fn only_root_stops_a_camera_by_hand() {
    if cannot_make_networks("cli") {
        return;
    }
    let mut house = House::with_cameras(["porch"]).await;
    house.camera("porch").stop().await;
    fs::set_permissions(house.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["porch", "porch-motion"] {
        give(&house.dir().join(name), NOBODY);
    }
    house.cameras[0].node.user = Some(NOBODY);
    house.camera("porch").start();
    house.agrees(ArmState::Disarmed).await;
    house.camera("porch").cli(&["status"]).await.good();
    for order in [&["pause", "1h"][..], &["resume"]] {
        let why = house.camera("porch").cli(order).await.bad();
        assert!(why.contains("root"), "{why}");
    }
    assert!(house.camera("porch").camera_status().await.unwrap().paused_secs.is_none());
    house.cameras[0].node.user = None;
    house.camera("porch").cli(&["pause", "1h"]).await.good();
    assert!(house.camera("porch").camera_status().await.unwrap().paused_secs.is_some());
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), user));
    }
}

#[tokio::test]
async fn the_log_goes_where_the_config_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.log");
    let node = Node::new(dir.path(), "camera", "camera", None, &format!("[log]\nlevel = \"info\"\ntarget = {file:?}\n"));
    node.start();
    eventually("it is written into the file", async || fs::read_to_string(&file).is_ok_and(|log| log.contains("not paired"))).await;
    node.stop().await;
    assert_eq!(node.log(), "", "and nowhere else");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    for (target, out, err) in [("stdout", true, false), ("stderr", false, true)] {
        let text = format!(
            "role = \"coordinator\"\nstate_dir = {:?}\n[log]\ntarget = \"{target}\"\n[coordinator.presence]\nenabled = false\n",
            dir.path()
        );
        fs::write(node.config(), text).unwrap();
        // It has no house: it says that it starts, and ends.
        let said = node.cli(&["run"]).await;
        assert_eq!((said.out.contains(" INFO "), said.err.contains(" INFO ")), (out, err), "{target}: {said:?}");
    }
    let mut command = std::process::Command::new(crate::harness::BINARY);
    let answer = command.args(["run", "--config"]).arg(node.config()).env("RUST_LOG", "error").output().unwrap();
    assert!(!String::from_utf8_lossy(&answer.stderr).contains(" INFO "), "RUST_LOG wins: {answer:?}");
}

#[tokio::test]
async fn whoever_looks_for_his_phone_sees_how_long_ago_each_device_was_seen() {
    if cannot_make_networks("cli") {
        return;
    }
    let lan = Lan::new();
    let (looker, phone) = (lan.host("looker"), lan.host("phone"));
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), "looker", "camera", Some(&looker.netns), "");
    let said = node.cli(&["presence", "--for", "5s", "--json"]).await.good();
    let rows: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = rows.iter().rfind(|row| row["mac"] == phone.mac.as_str()).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(last["ip"], phone.ip.as_str());
    assert!(last["age_ms"].as_u64().is_some_and(|age| age <= 10_000), "{said}");
    let said = node.cli(&["presence", "--for", "5s"]).await.good();
    let list = said.split("devices in all:").nth(1).unwrap_or_else(|| panic!("{said}"));
    assert!(list.lines().any(|line| line.contains(&phone.mac) && line.contains(" ago")), "{said}");
}
