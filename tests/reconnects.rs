//! Cameras come and go for years: nothing of a link is left when it is over.
//!
//! `DMS3_RECONNECTS`: how many links (1,000; `scripts/soak reconnects`: 100,000).

use std::fs;
use std::time::Duration;

use dms3_core::arming::ArmState;

use crate::harness::{House, Node, Plan, eventually, within};
use crate::insiders::Thief;

/// What a process may take more than after its first links: memory is had in pieces and not given back at once.
const MORE_KB: u64 = 4096;

/// Resident memory in kB, and threads.
fn takes(node: &Node) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()).unwrap();
    (of("VmRSS:"), of("Threads:"))
}

#[tokio::test]
async fn a_camera_that_comes_and_goes_leaves_nothing_behind() {
    let links: u64 = std::env::var("DMS3_RECONNECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let house = House::planned_with_cameras(Plan::default(), ["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let (porch, hall) = (house.camera("porch"), house.camera("hall"));
    porch.stop().await;
    let thief = Thief::of(&house, porch);
    let is_out = async || house.view("porch").await.is_some_and(|porch| porch.liveness != "online");
    let comes_and_goes = async |times: u64| {
        for _ in 0..times {
            let (connection, link) = thief.link().await;
            drop((connection, link));
        }
        eventually("the last one is out", is_out).await;
    };
    comes_and_goes(links / 5).await;
    let coordinator = &house.coordinator;
    let before = (coordinator.descriptors(), takes(coordinator), hall.descriptors(), takes(hall));
    let standing = house.standing().await;
    comes_and_goes(links).await;
    let after = (coordinator.descriptors(), takes(coordinator), hall.descriptors(), takes(hall));
    eprintln!("{links} links: (descriptors, (kB, threads)) of coordinator and camera were {before:?} and are {after:?}");
    eventually("no descriptor is left", async || coordinator.descriptors() <= before.0).await;
    assert!(takes(coordinator).0 < before.1.0 + MORE_KB, "memory grew: {before:?} {after:?}");
    // Threads for what blocks come and go by themselves.
    within(Duration::from_secs(60), "no thread is left", async || takes(coordinator).1 <= before.1.1).await;
    assert!(takes(hall).0 < before.3.0 + MORE_KB && hall.descriptors() <= before.2, "{before:?} {after:?}");
    house.is_unharmed(standing).await;
    assert_eq!(hall.motion.starts(), 1, "the other camera was not disturbed");
}
