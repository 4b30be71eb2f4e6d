//! Addresses on a network: one that changes under a link, and one that only the config knows.

use std::fs;
use std::time::Duration;

use dms3_core::arming::ArmState;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, Lan, Plan, eventually, within};

/// A link that moved to another address is followed at the next sign of life.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(8);

async fn manual_house(mesh: &str) -> House {
    let plan = Plan { lan: Some(Lan::new()), mesh: mesh.to_owned(), ..Plan::default() };
    House::planned(plan).await
}

#[tokio::test]
async fn a_camera_that_gets_another_address_keeps_its_link() {
    if cannot_make_networks("cables") {
        return;
    }
    let mut house = manual_house("").await;
    house.add_camera("porch").await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    house.plan.lan.as_ref().unwrap().machine("porch").moves_to("192.168.77.200");
    within(FOLLOWED_WITHIN, "what is decided now still reaches it", async || {
        house.arm().await;
        house.does_agree(ArmState::Away).await
    })
    .await;
    assert_eq!(house.coordinator.lines_with("node porch is linked from"), 1, "over the same link");
    assert_eq!(porch.lines_with("the link to the coordinator ended"), 0);
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    assert_eq!(house.standing().await.pid(), before.pid());
}

/// The link ends after 11 s without an answer, and half a minute later people are told.
const MISSED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_camera_whose_cable_was_out_is_missed_watches_on_and_is_linked_again_when_it_is_in() {
    if cannot_make_networks("cables") {
        return;
    }
    let mut house = manual_house("").await;
    house.add_camera("porch").await;
    house.add_camera("hall").await;
    house.agrees(ArmState::Away).await;
    let (porch, cable) = (house.camera("porch"), house.plan.lan.as_ref().unwrap().machine("porch"));
    cable.leaves();
    within(MISSED_WITHIN, "people are told", async || {
        assert!(porch.motion.running().is_some(), "it watches on");
        house.look().await.is_some_and(|house| house.problems.iter().any(|problem| problem.contains("porch")))
    })
    .await;
    assert_eq!(porch.lines_with("the link to the coordinator ended: no answer"), 1);
    house.disarm().await;
    eventually("the other one has heard", async || house.camera("hall").motion.running().is_none()).await;
    let before = house.standing().await;
    cable.returns();
    house.is_unharmed(before).await;
    assert!(house.is_whole(ArmState::Disarmed).await);
    assert_eq!((porch.motion.starts(), porch.motion.stops()), (1, 1), "it stopped when it heard, not before");
    eventually("the trouble is over", async || house.look().await.is_some_and(|house| house.problems.is_empty())).await;
}

#[tokio::test]
async fn where_mdns_is_off_a_camera_finds_its_coordinator_where_the_config_says() {
    if cannot_make_networks("cables") {
        return;
    }
    let mut house = manual_house("mdns = \"off\"").await;
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator").ip;
    let porch = house.new_camera("porch");
    porch.configure(&format!("[mesh]\nmdns = \"off\"\npeers = [\"192.168.77.250\", {coordinator:?}]\n"));
    let word = house.token(&["--hint", &coordinator]).await;
    porch.cli_with(&["enroll", "-"], &word).await.good();
    // Only the config knows.
    fs::remove_file(porch.state_dir().join("last_coordinator")).unwrap();
    porch.start();
    house.cameras.push(porch);
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    porch.stop().await;
    fs::remove_file(porch.state_dir().join("last_coordinator")).unwrap();
    porch.start();
    eventually("it is found again", async || house.is_whole(ArmState::Away).await).await;
    house.is_unharmed(before).await;
}
