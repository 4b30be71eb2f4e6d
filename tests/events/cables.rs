//! A clip on a slow network: the cable is pulled in the midst of it, or something more urgent comes.

use std::fs::File;
use std::time::Duration;

use dms3_core::arming::ArmState;

use super::bytes::{clip, goes_on, noise, part};
use super::crashes::hash;
use super::good;
use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, Lan, Plan, eventually, within};

/// Of the camera: five megabytes in a second.
const RATE: &str = "40mbit";
const CLIP: usize = 20 << 20;
/// On its way for ten seconds.
const LONG_CLIP: usize = 50 << 20;

async fn house_on_a_slow_network() -> House {
    let house = House::planned_with_cameras(Plan { lan: Some(Lan::new()), ..Plan::default() }, ["porch"]).await;
    house.plan.lan.as_ref().unwrap().machine("porch").is_slow(RATE);
    house
}

/// Of the only clip that comes now; `None`: none comes.
fn there(house: &House) -> Option<usize> {
    part(&house.coordinator).and_then(|path| usize::try_from(path.metadata().ok()?.len()).ok())
}

#[tokio::test]
async fn a_clip_goes_on_where_it_was_when_its_cable_was_out_for_so_long_that_the_link_was_given_up() {
    if cannot_make_networks("a_clip_goes_on_where_it_was_when_its_cable_was_out_for_so_long_that_the_link_was_given_up") {
        return;
    }
    let house = house_on_a_slow_network().await;
    let (porch, cable) = (house.camera("porch"), house.plan.lan.as_ref().unwrap().machine("porch"));
    let file = house.dir().join("clip.mp4");
    let hash = hash(&noise(&file, CLIP, 1));
    good(clip(porch, "7", &file));
    within(Duration::from_secs(60), "half of the clip is there", async || there(&house).is_some_and(|there| there >= CLIP / 2)).await;
    cable.leaves();
    let half = File::open(part(&house.coordinator).expect("it was not whole yet")).unwrap();
    eventually("the camera gives the link up", async || porch.camera_status().await.is_some_and(|status| status.linked.is_none())).await;
    assert_eq!(porch.lines_with("the link to the coordinator ended: no answer"), 1);
    let before = usize::try_from(half.metadata().unwrap().len()).unwrap();
    assert!((CLIP / 2..CLIP).contains(&before), "{before} of {CLIP} bytes");
    let sent = cable.sent();
    cable.returns();
    goes_on(&house, &hash, &half, CLIP).await;
    let sent = cable.sent() - sent;
    assert!(sent < (CLIP - before + CLIP / 4) as u64, "{sent} bytes were sent, where {} lacked", CLIP - before);
}

#[tokio::test]
async fn what_is_decided_overtakes_a_clip() {
    if cannot_make_networks("what_is_decided_overtakes_a_clip") {
        return;
    }
    let house = house_on_a_slow_network().await;
    let porch = house.camera("porch");
    let file = house.dir().join("clip.mp4");
    let hash = hash(&noise(&file, LONG_CLIP, 1));
    good(clip(porch, "7", &file));
    within(Duration::from_secs(60), "some of the clip is there", async || there(&house).is_some_and(|there| there > 1 << 20)).await;
    let half = File::open(part(&house.coordinator).unwrap()).unwrap();
    let mut before = 0;
    // The coordinator knows that the camera obeys: its answer overtakes the clip too.
    for state in [ArmState::Away, ArmState::Disarmed] {
        if state.is_armed() {
            house.arm().await
        } else {
            house.disarm().await
        }
        house.agrees(state).await;
        let now = there(&house).expect("the clip is not whole yet");
        assert!((before + 1..LONG_CLIP).contains(&now), "{before} bytes were there before, then {now}: nothing of it came, or all");
        before = now;
    }
    goes_on(&house, &hash, &half, LONG_CLIP).await;
}
