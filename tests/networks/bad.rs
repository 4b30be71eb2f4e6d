//! Networks that lose, delay, reorder and double what is sent, or let little of it through.

use std::time::Duration;

use dms3_core::arming::ArmState;

use super::{house_on, lan, lives};
use crate::events::good;
use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, Lan, within};

/// How often all of it is done over a network that does it badly only now and then.
const TIMES: usize = 5;

/// One camera behind the bad way, one that is not.
async fn house() -> House {
    house_on(Lan::new(), ["porch", "hall"]).await
}

/// The good one never noticed, and the bad one is what it was.
async fn nothing_came_of_it(house: &House, before: crate::harness::Standing) {
    assert_eq!(house.camera("hall").lines_with(super::LINK_ENDED), 0, "the other one notices nothing");
    house.disarm().await;
    within(super::PATIENCE, "both are linked", async || house.is_whole(ArmState::Disarmed).await).await;
    assert_eq!(house.coordinator.pid(), before.pid());
    let porch = house.camera("porch");
    assert_eq!(porch.motion.starts(), porch.motion.stops(), "started and stopped with the house");
}

#[tokio::test]
async fn where_every_fifth_packet_gets_lost_a_house_lives() {
    if cannot_make_networks("networks") {
        return;
    }
    let house = house().await;
    let before = house.standing().await;
    lan(&house).machine("porch").loses(20, 20);
    for _ in 0..TIMES {
        lives(&house).await;
    }
    // A link is made over it, too.
    house.camera("porch").restart().await;
    lives(&house).await;
    nothing_came_of_it(&house, before).await;
}

#[tokio::test]
async fn where_all_takes_its_time_comes_twice_and_in_any_order_a_house_lives() {
    if cannot_make_networks("networks") {
        return;
    }
    let house = house().await;
    let before = house.standing().await;
    let porch = lan(&house).machine("porch");
    let _wire = lan(&house).lengthens(&porch, Duration::from_millis(200), 30, 10);
    for _ in 0..TIMES {
        lives(&house).await;
    }
    house.camera("porch").restart().await;
    lives(&house).await;
    nothing_came_of_it(&house, before).await;
}

#[tokio::test]
async fn where_only_short_packets_get_through_a_house_lives_and_a_link_that_was_made_before_lives_on() {
    if cannot_make_networks("networks") {
        return;
    }
    let house = house().await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    // The link has found out that longer ones get through, and now they do not.
    lives(&house).await;
    lan(&house).machine("porch").way_takes(1280, false);
    clip_comes(&house, "before").await;
    lives(&house).await;
    lan(&house).machine("porch").way_takes(1280, true);
    porch.restart().await;
    lives(&house).await;
    clip_comes(&house, "after").await;
    nothing_came_of_it(&house, before).await;
}

/// Longer than any packet.
async fn clip_comes(house: &House, name: &str) {
    let file = house.dir().join(format!("{name}.mp4"));
    let noise: Vec<u8> = name.bytes().cycle().take(500_000).collect();
    std::fs::write(&file, noise).unwrap();
    let words = ["movie", "--event", name, "--camera", "cam", "--file", file.to_str().unwrap()];
    good(crate::events::hook(house.camera("porch"), &words.map(std::ffi::OsStr::new)));
    within(super::PATIENCE, "the clip comes", async || {
        house
            .events()
            .await
            .iter()
            .any(|event| event.attachments.iter().any(|known| known.kept_at.is_some() && known.attachment.name == format!("{name}.mp4")))
    })
    .await;
}

#[tokio::test]
async fn where_a_megabit_a_second_gets_through_a_house_lives_beside_a_clip_that_is_on_its_way() {
    if cannot_make_networks("networks") {
        return;
    }
    let house = house().await;
    let before = house.standing().await;
    lan(&house).machine("porch").is_slow_both_ways("1mbit");
    lives(&house).await;
    // On its way for half a minute.
    let file = house.dir().join("long.mp4");
    std::fs::write(&file, vec![7; 4_000_000]).unwrap();
    let words = ["movie", "--event", "long", "--camera", "cam", "--file", file.to_str().unwrap()];
    good(crate::events::hook(house.camera("porch"), &words.map(std::ffi::OsStr::new)));
    let is_there = async || {
        let events = house.events().await;
        events.iter().any(|event| event.attachments.iter().any(|known| known.attachment.length == 4_000_000 && known.kept_at.is_some()))
    };
    within(super::PATIENCE, "it is told of", async || house.events().await.len() == 3).await;
    for state in [ArmState::Away, ArmState::Disarmed] {
        if state.is_armed() {
            house.arm().await
        } else {
            house.disarm().await
        }
        within(super::PATIENCE, "what is decided overtakes it", async || house.does_agree(state).await).await;
        assert!(!is_there().await, "it is still on its way");
    }
    within(Duration::from_secs(120), "it comes", is_there).await;
    assert_eq!(house.events().await.len(), 3);
    nothing_came_of_it(&house, before).await;
}
