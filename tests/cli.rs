//! What a person types, and what is said to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::dashboard::NodeView;
use dms3_core::roster::{NodeRole, NodeStatus};

use crate::harness::skip::cannot_make_networks;
use crate::harness::{BINARY, House, Lan, Node, Plan, eventually};

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

/// The cells of a line of a table: columns are two blanks apart at least, and no cell holds two.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn nodes_lists_each_one_with_what_it_holds_does_and_runs() {
    let mut house = House::with_cameras(["porch"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let nodes = async || house.coordinator.cli(&["nodes"]).await.good();
    eventually("the detector is told to watch", async || nodes().await.contains("cam: watching")).await;
    let (said, view) = (nodes().await, house.view("porch").await.unwrap());
    let lines: Vec<_> = said.lines().map(cells).collect();
    assert_eq!(lines[0], ["NAME", "ROLE", "LINK", "STATE", "DETECTORS", "CONTACT", "ADDRESS", "VERSION", "ID"]);
    let version = env!("CARGO_PKG_VERSION");
    let (epoch, rev) = house.standing().await.version;
    let (state, address) = (format!("Armed (away) {epoch}.{rev}"), view.address.clone().unwrap());
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let own = house.node_of(&house.coordinator).short();
    let [name, role, link, holds, detectors, contact, at, runs, id] = lines[1][..] else { panic!("{said}") };
    assert_eq!(
        [name, role, link, holds, detectors, at, runs, id],
        ["Coordinator", "coordinator", "online", &state, "-", "-", version, &own]
    );
    assert!(contact.ends_with(" s ago"), "{said}");
    let porch = house.node_of(house.camera("porch")).short();
    let [name, role, link, holds, detectors, contact, at, runs, id] = lines[2][..] else { panic!("{said}") };
    assert_eq!(
        [name, role, link, holds, detectors, at, runs, id],
        ["porch", "camera", "online", &state, "cam: watching", &address, version, &porch]
    );
    assert!(contact.ends_with(" s ago"), "{said}");
    assert_eq!(lines.len(), 3, "{said}");

    let json = house.coordinator.cli(&["nodes", "--json"]).await.good();
    let rows: Vec<NodeView> = serde_json::from_str(&json).unwrap();
    let roles: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.role)).collect();
    assert_eq!(roles, [("Coordinator", NodeRole::Coordinator), ("porch", NodeRole::Camera)]);
    assert_eq!((rows[1].applied, rows[1].current, &rows[1].detectors), (Some((epoch, rev)), true, &view.detectors));

    // Gone, it holds what it held; put out, it is still listed.
    house.camera("porch").stop().await;
    house.disarm().await;
    eventually("it is behind", async || {
        let said = nodes().await;
        let row = cells(said.lines().nth(2).unwrap());
        row[2] != "online" && row[3] == format!("{epoch}.{rev} (older)")
    })
    .await;
    house.coordinator.cli(&["revoke", "porch"]).await.good();
    let said = nodes().await;
    assert_eq!(cells(said.lines().nth(2).unwrap())[..3], ["porch", "camera", "revoked"], "{said}");
    // A new one of which nothing is known yet.
    let word = house.token(&["--name", "hall"]).await;
    let hall = house.new_camera("hall");
    hall.cli_with(&["enroll", "-"], &word).await.good();
    let id = house.node_of(&hall).short();
    let said = nodes().await;
    let row = said.lines().map(cells).find(|row| row[0] == "hall").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(row, ["hall", "camera", "never seen", "-", "-", "-", "-", "-", &id]);
    house.cameras.push(hall);
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

/// The mode of the socket keeps others out; if that is lost (a careless `chmod`, another umask), who asks still counts, as the kernel says.
#[tokio::test]
async fn whoever_is_not_of_the_group_commands_nothing_even_where_he_may_open_the_socket() {
    if cannot_make_networks("cli") {
        return;
    }
    let mut house = House::with_cameras(["porch"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    fs::set_permissions(house.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let orders = [&["status"][..], &["nodes"], &["disarm"], &["token", "new"], &["revoke", "porch"]];
    house.coordinator.user = Some(NOBODY);
    for order in orders {
        let why = house.coordinator.cli(order).await.bad();
        assert!(why.contains("you may not talk to the node: use sudo, or become a member of the group dms3"), "{order:?}: {why}");
    }
    let socket = house.coordinator.run_dir().join("control.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    for order in orders {
        let said = house.coordinator.cli(order).await;
        assert_eq!(said.out, "", "{order:?}: he learns nothing");
        let why = said.bad();
        assert!(why.contains("may not command this node: only root and members of the group dms3 may"), "{order:?}: {why}");
    }
    house.coordinator.user = None;
    house.is_unharmed(before).await;
    assert_eq!(house.view("porch").await.unwrap().status, NodeStatus::Active);
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
    let mut command = std::process::Command::new(BINARY);
    let answer = command.args(["run", "--config"]).arg(node.config()).env("RUST_LOG", "error").output().unwrap();
    assert!(!String::from_utf8_lossy(&answer.stderr).contains(" INFO "), "RUST_LOG wins: {answer:?}");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_told_at_the_start_and_nothing_else_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (missing, shut) = (dir.path().join("missing"), dir.path().join("shut"));
    fs::create_dir(&shut).unwrap();
    let mut node = Node::new(dir.path(), "camera", "camera", None, "");
    let config = fs::read_to_string(node.config()).unwrap();
    for (place, why) in [(missing, "No such file or directory"), (shut, "Permission denied")] {
        if why == "Permission denied" {
            fs::set_permissions(&place, fs::Permissions::from_mode(0o555)).unwrap();
            if nix::unistd::geteuid().is_root() {
                // Whom no mode stops.
                fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
                node.user = Some(NOBODY);
            }
        }
        let file = place.join("node.log");
        fs::write(node.config(), format!("{config}[log]\ntarget = {file:?}\n")).unwrap();
        let said = node.cli(&["run"]).await.bad();
        for words in [file.to_str().unwrap(), why, "[log]", "target"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    assert!(!node.run_dir().exists() && !node.state_dir().exists());
}

#[tokio::test]
async fn whoever_looks_for_his_phone_sees_how_long_ago_each_device_was_seen() {
    if cannot_make_networks("cli") {
        return;
    }
    let lan = Lan::new();
    let (looker, phone, extender) = (lan.host("looker"), lan.host("phone"), lan.host("extender"));
    for n in 200..205 {
        extender.has_also(&format!("192.168.77.{n}"));
    }
    // A machine on which nothing is set up: no node, no config, nobody's directory.
    let look = async |options: &[&str]| {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &looker.netns, BINARY, "presence", "--for", "5s"])
            .args(options)
            .current_dir("/")
            .env_remove("RUST_LOG");
        let said = command.output().await.unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    };
    let said = look(&["--json"]).await;
    let rows: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = rows.iter().rfind(|row| row["mac"] == phone.mac.as_str()).unwrap_or_else(|| panic!("{said}"));
    assert_eq!((&last["ip"], &last["machines_behind_it"]), (&phone.ip.as_str().into(), &1.into()));
    let many = rows.iter().rfind(|row| row["mac"] == extender.mac.as_str()).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(many["machines_behind_it"], 6, "{said}");
    assert!(last["age_ms"].as_u64().is_some_and(|age| age <= 10_000), "{said}");
    let said = look(&[]).await;
    let list = said.split("devices in all:").nth(1).unwrap_or_else(|| panic!("{said}"));
    assert!(list.lines().any(|line| line.contains(&phone.mac) && line.contains(" ago")), "{said}");
    assert!(list.lines().any(|line| line.contains(&extender.mac) && line.contains("6 machines behind it")), "{said}");
}
