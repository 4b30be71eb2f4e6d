//! Every clock that a machine may wake up with, on the coordinator, on a camera, on both: nothing is paired anew, and the house stays as it is.

use dms3_core::arming::ArmState;
use dms3_node::clock::{build_time, wall};

use super::{MINUTES, ahead, keeps_events_of_today, proven, something_moves};
use crate::harness::House;
use crate::harness::skip::cannot_fake_clocks;

/// What libfaketime makes of a clock at the start of a process.
fn clocks() -> [String; 6] {
    let before_build = wall().since(build_time()).as_secs() + super::DAY;
    [
        "@1970-01-01 00:05:00".to_owned(),
        format!("-{before_build}"),
        // Within what a camera took for its own before it was told, and what nobody believes.
        ahead(100),
        "+400d".to_owned(),
        "@2038-02-01 12:00:00".to_owned(),
        "@2099-06-01 12:00:00".to_owned(),
    ]
}

/// Each clock in turn, and at the end the right one.
async fn wakes_up_with_every_clock(coordinator: bool, camera: bool) {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let identities = [house.identity_of(&house.coordinator), house.identity_of(porch)].map(|identity| identity.leaf().to_vec());
    let before = house.standing().await;
    for (nth, clock) in clocks().into_iter().map(Some).chain([None]).enumerate() {
        for (node, is_wrong) in [(&house.coordinator, coordinator), (&porch.node, camera)] {
            if is_wrong {
                node.stop().await;
                node.set_clock(clock.as_deref());
                node.start();
            }
        }
        let told = format!("{clock:?}");
        house.answers().await;
        house.agrees(ArmState::Disarmed).await;
        house.arm().await;
        house.agrees(ArmState::Away).await;
        something_moves(porch, &nth.to_string());
        keeps_events_of_today(&house, nth + 1).await;
        // For a time, by the time of the house: neither refused as over nor for years.
        house.coordinator.cli(&["disarm", "--for", "2h"]).await.good();
        house.agrees(ArmState::Disarmed).await;
        let until = house.look().await.unwrap().override_until.expect("it ends by itself");
        assert!(until.since(wall()).as_secs().abs_diff(7200) < MINUTES, "{told}: {until}");
        house.disarm().await;
        house.agrees(ArmState::Disarmed).await;
        let nodes = house.coordinator.cli(&["nodes"]).await.good();
        let ages = nodes.lines().filter(|line| line.contains("online"));
        assert_eq!(ages.clone().count(), 2, "{told}: {nodes}");
        assert!(ages.clone().all(|line| line.contains(" s ago")), "{told}: {nodes}");
    }
    let now = house.standing().await;
    assert_eq!((now.version.0, now.state), (before.version.0, before.state), "nobody began to count anew");
    let after = [house.identity_of(&house.coordinator), house.identity_of(porch)].map(|identity| identity.leaf().to_vec());
    assert_eq!(after, identities, "and no certificate was issued by a clock that was wrong");
    for node in [&house.coordinator, &porch.node] {
        node.stop().await;
        let off = proven(node).since(wall()).max(wall().since(proven(node)));
        assert!(off.as_secs() < MINUTES, "{} keeps {}", node.name, proven(node));
    }
}

#[tokio::test]
async fn a_coordinator_that_wakes_up_with_any_clock_keeps_its_cameras_its_state_and_its_time() {
    if cannot_fake_clocks("a_coordinator_that_wakes_up_with_any_clock_keeps_its_cameras_its_state_and_its_time") {
        return;
    }
    wakes_up_with_every_clock(true, false).await;
}

#[tokio::test]
async fn a_camera_that_wakes_up_with_any_clock_is_linked_and_goes_by_the_time_of_its_house() {
    if cannot_fake_clocks("a_camera_that_wakes_up_with_any_clock_is_linked_and_goes_by_the_time_of_its_house") {
        return;
    }
    wakes_up_with_every_clock(false, true).await;
}

#[tokio::test]
async fn a_house_that_wakes_up_with_any_clock_everywhere_needs_nobody() {
    if cannot_fake_clocks("a_house_that_wakes_up_with_any_clock_everywhere_needs_nobody") {
        return;
    }
    wakes_up_with_every_clock(true, true).await;
}
