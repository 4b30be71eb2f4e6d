//! One word pairs a machine, once, and nothing that goes wrong on the way costs more than pasting it again.

use std::fs;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::roster::NodeRole;
use dms3_node::coordinator::enrollment::TokenView;

use crate::harness::{House, eventually};

async fn tokens(house: &House) -> Vec<TokenView> {
    let said = house.coordinator.cli(&["token", "list", "--json"]).await.good();
    serde_json::from_str(&said).unwrap()
}

async fn cameras(house: &House) -> usize {
    house.status().await.nodes.iter().filter(|node| node.role == NodeRole::Camera).count()
}

#[tokio::test]
async fn a_new_user_pairs_a_camera_with_one_pasted_word() {
    let house = House::new().await;
    let said = house.coordinator.cli(&["token", "new"]).await.good();
    assert!(said.contains("dms3-node enroll"), "the command to paste is shown: {said}");
    let word = said.lines().next().unwrap();

    let porch = house.new_camera("porch");
    // The service runs already and waits, as it does after an installation.
    porch.start();
    eventually("an unpaired camera says what to do", async || porch.told("dms3-node enroll")).await;
    let said = porch.cli_with(&["enroll", "-"], &format!("  {}\n", word.to_uppercase())).await.good();
    assert!(said.contains("is now the camera"), "{said}");

    eventually("the camera is linked without any further word", async || {
        house.look().await.is_some_and(|house| house.nodes.iter().any(|node| node.role == NodeRole::Camera && node.liveness == "online"))
    })
    .await;
    // A new house is armed until somebody says otherwise, and the new camera obeys at once.
    eventually("its detector runs", async || porch.motion.running().is_some()).await;
    let nodes = house.coordinator.cli(&["nodes"]).await.good();
    assert!(nodes.contains("camera") && nodes.contains("online"), "{nodes}");
}

#[tokio::test]
async fn a_word_for_one_camera_pairs_no_second_one() {
    let house = House::new().await;
    let word = house.token(&[]).await;
    let (porch, thief) = (house.new_camera("porch"), house.new_camera("thief"));
    porch.cli_with(&["enroll", "-"], &word).await.good();
    let why = thief.cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert!(!why.is_empty());
    assert_eq!(cameras(&house).await, 1);
    assert!(!thief.state_dir().join("identity").exists());
    assert_eq!(tokens(&house).await[0].standing, "used");
}

#[tokio::test]
async fn one_word_pairs_as_many_cameras_as_it_was_made_for() {
    let house = House::new().await;
    let word = house.token(&["--uses", "2"]).await;
    for name in ["porch", "hall"] {
        house.new_camera(name).cli_with(&["enroll", "-"], &word).await.good();
    }
    house.new_camera("third").cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert_eq!(cameras(&house).await, 2);
}

#[tokio::test]
async fn a_token_that_was_cancelled_pairs_nobody() {
    let house = House::new().await;
    let word = house.token(&["--uses", "5"]).await;
    house.new_camera("porch").cli_with(&["enroll", "-"], &word).await.good();
    let id = tokens(&house).await[0].id.clone();
    house.coordinator.cli(&["token", "cancel", &id]).await.good();
    house.new_camera("hall").cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert_eq!(cameras(&house).await, 1);
    assert_eq!(tokens(&house).await[0].standing, "cancelled");
}

#[tokio::test]
async fn a_word_with_a_typing_error_is_told_before_anybody_is_asked() {
    let house = House::new().await;
    let word = house.token(&[]).await;
    let last = if word.ends_with('q') { 'p' } else { 'q' };
    let mistyped = format!("{}{last}", &word[..word.len() - 1]);
    let porch = house.new_camera("porch");
    for wrong in [mistyped.as_str(), "", "hello", &word[..40], &format!("{word} {word}")] {
        let why = porch.cli_with(&["enroll", "-"], wrong).await.bad();
        assert!(why.to_lowercase().contains("token"), "{wrong:?}: {why}");
    }
    porch.cli_with(&["enroll", "-"], &word).await.good();
}

#[tokio::test]
async fn a_word_of_another_house_pairs_nobody_here() {
    let house = House::new().await;
    let other = House::new().await;
    let word = other.token(&[]).await;
    // It is named the coordinator of this house, which does not prove to be the one of the word.
    let porch = house.new_camera("porch");
    let here = house.enroll_port.address().to_string();
    house.token(&[]).await;
    let why = porch.cli_with(&["enroll", "-", "--timeout", "5s", "--coordinator", &here], &word).await.bad();
    assert!(why.contains("coordinator"), "{why}");
    assert_eq!(cameras(&house).await, 0);
    assert!(!porch.state_dir().join("identity").exists());
}

#[tokio::test]
async fn a_machine_that_is_paired_stays_what_it_is() {
    let mut house = House::new().await;
    house.add_camera("porch").await;
    let porch = house.camera("porch");
    let before = house.node_of(porch);
    let word = house.token(&[]).await;
    let said = porch.cli_with(&["enroll", "-"], &word).await.good();
    assert!(said.contains("already"), "{said}");

    let other = House::new().await;
    let foreign = other.token(&[]).await;
    let why = porch.cli_with(&["enroll", "-"], &foreign).await.bad();
    assert!(why.contains("another house"), "{why}");
    assert_eq!(house.node_of(porch), before);

    let why = house.coordinator.cli_with(&["enroll", "-"], &word).await.bad();
    assert!(why.contains("coordinator"), "{why}");
}

#[tokio::test]
async fn a_house_is_founded_once() {
    let house = House::new().await;
    let dir = house.coordinator.state_dir();
    let root = fs::read(dir.join("ca/root.crt")).unwrap();
    let key = fs::read(dir.join("node.key")).unwrap();
    let why = house.coordinator.cli(&["init"]).await.bad();
    assert!(why.contains("exists"), "{why}");
    // Nor over the remains of one.
    house.coordinator.stop().await;
    fs::remove_dir_all(dir.join("ca")).unwrap();
    house.coordinator.cli(&["init"]).await.bad();
    assert!(!dir.join("ca").exists());
    assert_eq!(fs::read(dir.join("node.key")).unwrap(), key);
    assert!(!root.is_empty());
}

#[tokio::test]
async fn a_camera_that_is_killed_while_it_is_paired_pairs_with_the_same_word() {
    let mut house = House::new().await;
    let word = house.token(&["--name", "porch"]).await;
    let porch = house.new_camera("porch");
    // Five a minute may come from one address: four that die, and one that lives.
    for millis in [30, 90, 180, 400] {
        let mut enroll = porch.spawn_cli(&["enroll", "-"], &word).await;
        tokio::time::sleep(Duration::from_millis(millis + rand::random_range(0..40))).await;
        drop(enroll.start_kill());
        enroll.wait().await.unwrap();
    }
    porch.cli_with(&["enroll", "-"], &word).await.good();
    porch.start();
    house.cameras.push(porch);
    house.agrees(ArmState::Away).await;
    let nodes = house.status().await.nodes;
    assert_eq!(nodes.len(), 2, "no key was paired twice: {nodes:?}");
    let used = &tokens(&house).await[0];
    assert_eq!((used.standing.as_str(), used.used_by.len()), ("used", 1));
}

#[tokio::test]
async fn a_coordinator_that_is_killed_forgets_no_token_and_no_camera() {
    let mut house = House::new().await;
    let word = house.token(&["--uses", "2"]).await;
    let porch = house.new_camera("porch");
    porch.cli_with(&["enroll", "-"], &word).await.good();
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    porch.start();
    house.cameras.push(porch);
    house.new_camera("hall").cli_with(&["enroll", "-"], &word).await.good();
    assert_eq!(cameras(&house).await, 2);
    eventually("the camera that was paired before is linked", async || {
        house.look().await.is_some_and(|house| house.nodes.iter().any(|node| node.liveness == "online" && node.role == NodeRole::Camera))
    })
    .await;
}

#[tokio::test]
async fn a_token_that_a_revoked_camera_used_pairs_nobody_any_more() {
    let mut house = House::new().await;
    let word = house.token(&["--uses", "3"]).await;
    let porch = house.new_camera("porch");
    porch.cli_with(&["enroll", "-"], &word).await.good();
    porch.start();
    house.cameras.push(porch);
    house.agrees(ArmState::Away).await;
    let id = house.node_of(house.camera("porch"));
    let said = house.coordinator.cli(&["revoke", &id.to_string()]).await.good();
    assert!(said.contains("token"), "{said}");
    house.new_camera("hall").cli_with(&["enroll", "-", "--timeout", "5s"], &word).await.bad();
    assert_eq!(tokens(&house).await[0].standing, "cancelled");
}
