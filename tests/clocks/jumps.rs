//! Clocks that jump under a house that runs: what lasts for a time is measured by the clock that nobody sets.

use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::event::{EventFilter, MOST};
use dms3_core::request::{Answer, Request};
use dms3_node::clock::wall;

use super::{MINUTES, proven, something_moves};
use crate::harness::skip::cannot_fake_clocks;
use crate::harness::{House, Plan, eventually, throughout};

/// By how much a clock is wrong, one after the other, and the hours that a coordinator believes of it: nobody but itself can tell that a clock
/// is some hours or days ahead, and what is proven to have passed it never forgets.
const JUMPS: [(&str, i64); 8] =
    [("+5h", 5), ("-5h", 0), ("+13h", 13), ("+29d", 29 * 24), ("+100d", 0), ("-20000d", 0), ("+26600d", 0), ("+0", 0)];

/// The rules look twice a second.
const LOOKED: Duration = Duration::from_millis(1200);

async fn jumps_under(coordinator: bool, camera: bool) {
    let mut house = House::planned(Plan { web: Some(String::new()), ..Plan::default() }).await;
    house.add_camera("porch").await;
    let porch = house.camera("porch");
    house.agrees(ArmState::Away).await;
    for node in [&house.coordinator, &porch.node] {
        node.stop().await;
        node.may_jump();
        node.start();
    }
    house.answers().await;
    let ann = house.owner().await;
    let mut expected = Vec::new();
    for (nth, (by, believed)) in JUMPS.into_iter().enumerate() {
        let state = if nth % 2 == 0 { ArmState::Away } else { ArmState::Disarmed };
        // A disarm for a time would end early by a clock that is ahead, and so it should.
        let choice: &[&str] = if state.is_armed() { &["arm", "--for", "2h", "--now"] } else { &["disarm"] };
        house.coordinator.cli(choice).await.good();
        house.agrees(state).await;
        for (node, is_wrong) in [(&house.coordinator, coordinator), (&porch.node, camera)] {
            if is_wrong {
                node.jumps(by);
            }
        }
        throughout(LOOKED, &format!("{by}: what a person chose holds, and no lease is over"), async || {
            let camera = porch.camera_status().await;
            house.look().await.is_some_and(|house| house.state == state)
                && camera.is_some_and(|camera| camera.effective == state && !camera.raised)
        })
        .await;
        something_moves(porch, &nth.to_string());
        expected.push(if coordinator { believed * 3600 } else { 0 });
        eventually(&format!("{by}: what is seen gets there"), async || began(&house).await.len() == nth + 1).await;
        // The link may have been made anew to tell the time.
        house.agrees(state).await;
        assert_eq!(ann.get("/").await.status, 200, "{by}: who is signed in stays so");
    }
    let now = wall();
    let mut seen: Vec<i64> = began(&house).await.into_iter().map(|at| at.cast_signed() - now.as_secs().cast_signed()).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    for (seen, expected) in seen.iter().zip(&expected) {
        assert!(seen.abs_diff(*expected) < MINUTES, "{seen} is not {expected}");
    }
    house.coordinator.stop().await;
    let proven = proven(&house.coordinator);
    assert!(proven.since(now).max(now.since(proven)).as_secs() < MINUTES, "nothing of it was ever proven: {proven}");
}

/// When each event began, in seconds since 1970.
async fn began(house: &House) -> Vec<u64> {
    let request = Request::Events { filter: EventFilter { limit: MOST, ..EventFilter::default() } };
    match house.coordinator.ask(&request).await {
        Ok(Answer::Events(events)) => events.iter().map(|event| event.began.as_secs()).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn a_coordinator_whose_clock_jumps_ends_nothing_before_its_time() {
    if cannot_fake_clocks("a_coordinator_whose_clock_jumps_ends_nothing_before_its_time") {
        return;
    }
    jumps_under(true, false).await;
}

#[tokio::test]
async fn a_camera_whose_clock_jumps_goes_by_the_time_of_its_house() {
    if cannot_fake_clocks("a_camera_whose_clock_jumps_goes_by_the_time_of_its_house") {
        return;
    }
    jumps_under(false, true).await;
}

#[tokio::test]
async fn clocks_that_jump_everywhere_change_nothing_in_the_house() {
    if cannot_fake_clocks("clocks_that_jump_everywhere_change_nothing_in_the_house") {
        return;
    }
    jumps_under(true, true).await;
}
