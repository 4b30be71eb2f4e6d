//! Ways that are cut, in one direction or both, once or all the time, and healed.

use std::time::Duration;

use dms3_core::arming::ArmState;

use super::{LINK_ENDED, NO_ANSWER, REACHED_WITHIN, house_on, lan, lives};
use crate::events::{good, jpeg, picture};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{Lan, eventually, within};

#[tokio::test]
async fn a_camera_that_is_cut_off_in_either_direction_watches_on_and_hears_what_was_decided_when_the_way_is_healed() {
    if cannot_make_networks("networks") {
        return;
    }
    // Whom nobody hears, who hears nobody, and both.
    let house = house_on(Lan::new(), ["dumb", "deaf", "alone", "well"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    for (name, sent, got) in [("dumb", 100, 0), ("deaf", 0, 100), ("alone", 100, 100)] {
        lan(&house).machine(name).loses(sent, got);
    }
    let cut = ["dumb", "deaf", "alone"].map(|name| house.camera(name));
    for (nth, camera) in (0..).zip(cut) {
        eventually(&format!("{} knows that its link is dead", camera.name), async || camera.lines_with(NO_ANSWER) == 1).await;
        let told = format!("the link of node {} at ", camera.name);
        eventually("and so does its coordinator", async || house.coordinator.line_with_all(&[&told, "ended: no answer"])).await;
        eventually("it says whom it looks for", async || camera.told("no coordinator is reached: no answer (")).await;
        assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
        good(picture(camera, &camera.name, "450", &jpeg(house.dir(), format!("cut-{nth}.jpg").as_bytes(), nth)));
    }
    assert_eq!(house.camera("well").lines_with(LINK_ENDED), 0);
    // Decided while they were away.
    house.disarm().await;
    eventually("the others have heard", async || house.camera("well").motion.running().is_none()).await;
    for camera in cut {
        assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
        lan(&house).machine(&camera.name).loses_nothing();
    }
    within(REACHED_WITHIN, "all hear it", async || house.is_whole(ArmState::Disarmed).await).await;
    house.has_events(3).await;
    assert_eq!(house.coordinator.pid(), before.pid());
    for camera in cut {
        assert_eq!((camera.lines_with(LINK_ENDED), camera.motion.starts(), camera.motion.stops()), (1, 1, 1), "{}", camera.name);
    }
    lives(&house).await;
}

/// A cable that is out and in again so often, each time for this long.
const FLAP: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_camera_whose_cable_is_loose_is_what_it_was_when_it_holds_again() {
    if cannot_make_networks("networks") {
        return;
    }
    // 20: for a minute, as `scripts/soak networks` does it.
    let flaps: u32 = std::env::var("DMS3_FLAPS").map_or(2, |flaps| flaps.parse().expect("DMS3_FLAPS is a number"));
    let house = house_on(Lan::new(), ["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let cables = ["porch", "coordinator"].map(|name| lan(&house).machine(name));
    for (nth, cable) in cables.iter().enumerate() {
        for flap in 0..flaps {
            cable.leaves();
            tokio::time::sleep(FLAP).await;
            let seen = format!("{nth}-{flap}.jpg");
            let file = jpeg(house.dir(), seen.as_bytes(), u8::try_from(flap).unwrap() + 100 * u8::try_from(nth).unwrap());
            good(picture(house.camera("porch"), &seen, "450", &file));
            cable.returns();
            tokio::time::sleep(FLAP).await;
        }
    }
    house.is_unharmed(before).await;
    house.has_events(2 * usize::try_from(flaps).unwrap()).await;
    for camera in &house.cameras {
        assert_eq!((camera.motion.starts(), camera.motion.stops()), (1, 0), "{} watched on", camera.name);
    }
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    assert_eq!(house.events().await.len(), 2 * usize::try_from(flaps).unwrap(), "each once");
}
