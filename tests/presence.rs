//! Phones on a real (if small) network decide: the last one that leaves arms the house, the first that returns disarms it.

use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::presence::Presence;
use dms3_node::clock::wall;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{Host, House, Lan, Plan, eventually, throughout, within};

/// So short that the twelve last probes, a second apart, decide.
const AWAY_AFTER: Duration = Duration::from_secs(6);
/// They take longer than it, and the machine may be busy.
const AND_PROBES: Duration = Duration::from_secs(20);
/// Several of them go unanswered, and not all.
const A_MOMENT: Duration = Duration::from_secs(5);

struct Home {
    house: House,
    anna: Host,
    ben: Host,
}

/// Both at home, and so disarmed; two cameras, paired over mDNS with nothing but a word.
async fn home() -> Home {
    home_with(AWAY_AFTER).await
}

async fn home_with(away_after: Duration) -> Home {
    let home = home_by(away_after, "").await;
    home.house.agrees(ArmState::Disarmed).await;
    home.house.forget();
    home
}

/// `rules`: keys of `[coordinator.presence]`.
async fn home_by(away_after: Duration, rules: &str) -> Home {
    let lan = Lan::new();
    let (anna, ben) = (lan.host("anna"), lan.host("ben"));
    let person = |name: &str, phone: &Host| {
        let away_after = away_after.as_secs();
        format!("[[coordinator.presence.person]]\nname = \"{name}\"\ndevices = [\"{}\"]\naway_after = \"{away_after}s\"\n", phone.mac)
    };
    let presence = format!("[coordinator.presence]\n{rules}\n{}{}", person("Anna", &anna), person("Ben", &ben));
    let mut house = House::planned(Plan { presence: Some(presence), lan: Some(lan), ..Plan::default() }).await;
    for name in ["porch", "hall"] {
        house.add_camera(name).await;
    }
    eventually("both are seen to be home", async || {
        house.look().await.is_some_and(|house| house.people.iter().all(|person| person.presence == Presence::Home))
    })
    .await;
    Home { house, anna, ben }
}

/// The first lines that `status` prints: the house's and one for each person, "then" and "seen" in place of the times.
async fn first_screen(house: &House) -> String {
    let since = house.look().await.unwrap().since;
    let since = jiff::Timestamp::from_millisecond(since.0.cast_signed()).unwrap().to_zoned(jiff::tz::TimeZone::system());
    let since = since.strftime("%H:%M: ").to_string();
    let said = house.coordinator.cli(&["status"]).await.good();
    let line = |line: &str| match (line.split_once(", last seen "), line.split_once(" since ").zip(line.split_once(&since))) {
        (Some((person, ago)), _) if ago.ends_with(" s ago") || ago.ends_with(" min ago") => format!("{person}, seen"),
        // After midnight the day stands before the time.
        (None, Some(((state, _), (_, why)))) => format!("{state} since then: {why}"),
        _ => line.to_owned(),
    };
    said.lines().take(3).map(line).collect::<Vec<_>>().join("\n")
}

/// Waits until it is just that.
async fn says(house: &House, screen: &str) {
    let mut last = String::new();
    eventually(&format!("status says {screen:?}"), async || {
        let now = first_screen(house).await;
        if now != last {
            eprintln!("status says {now:?}");
            last.clone_from(&now);
        }
        now == screen
    })
    .await;
}

#[tokio::test]
async fn the_last_phone_that_leaves_arms_every_camera_and_the_first_that_returns_disarms_them() {
    if cannot_make_networks("presence") {
        return;
    }
    let Home { house, anna, ben } = home().await;
    anna.leaves();
    let mut last_seen = None;
    within(AWAY_AFTER + AND_PROBES, "Anna is away", async || {
        let Some(house) = house.look().await else { return false };
        let anna = house.people.iter().find(|person| person.name == "Anna").unwrap();
        last_seen = anna.last_seen;
        anna.presence == Presence::Away
    })
    .await;
    let silence = wall().since(last_seen.expect("she was seen"));
    assert!(silence >= AWAY_AFTER, "nobody is away after a silence of {silence:?}");
    assert!(house.does_agree(ArmState::Disarmed).await, "Ben is home");
    ben.leaves();
    within(AWAY_AFTER + AND_PROBES, "the last one that leaves arms every camera", async || house.does_agree(ArmState::Away).await).await;
    says(&house, "Armed (away) since then: everybody left. 2 of 2 watching.\n  Anna: away, seen\n  Ben: away, seen").await;

    ben.returns();
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator");
    ben.talks_to(&coordinator);
    within(Duration::from_secs(5), "one phone disarms every camera", async || house.does_agree(ArmState::Disarmed).await).await;
    says(&house, "Disarmed since then: Ben came home. No camera watches.\n  Anna: away, seen\n  Ben: home, seen").await;
    for camera in &house.cameras {
        assert_eq!((camera.motion.starts(), camera.motion.stops()), (1, 1), "{}", camera.name);
    }
    drop(house);
}

#[tokio::test]
async fn where_presence_may_not_disarm_whoever_comes_home_is_told_to_do_it() {
    if cannot_make_networks("presence") {
        return;
    }
    let Home { house, anna, ben } = home_by(AWAY_AFTER, "presence_may_disarm = { away = \"never\" }").await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    anna.leaves();
    ben.leaves();
    within(AWAY_AFTER + AND_PROBES, "the last one that leaves arms every camera", async || house.does_agree(ArmState::Away).await).await;
    let before = house.standing().await;
    ben.returns();
    ben.talks_to(&house.plan.lan.as_ref().unwrap().machine("coordinator"));
    says(&house, "Armed (away) since then: everybody left. 2 of 2 watching.\n  Anna: away, seen\n  Ben: home, seen").await;
    throughout(A_MOMENT, "his phone disarms nothing", async || house.standing().await == before).await;
    house.is_unharmed(before).await;
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(
        said.contains("Somebody is home, but by the config (`presence_may_disarm`) only a person disarms: `dms3-node disarm`."),
        "{said}"
    );
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    says(&house, "Disarmed since then: disarmed by root. No camera watches.\n  Anna: away, seen\n  Ben: home, seen").await;
    assert!(!house.coordinator.cli(&["status"]).await.good().contains("only a person disarms"));
}

#[tokio::test]
async fn a_phone_that_is_silent_for_a_moment_arms_nothing() {
    if cannot_make_networks("presence") {
        return;
    }
    let Home { house, anna, ben } = home().await;
    let before = house.standing().await;
    // As long as some probes go unanswered, and then a little time to see that nothing follows from it.
    for _ in 0..2 {
        anna.leaves();
        ben.leaves();
        throughout(A_MOMENT, "nobody is away yet", async || house.standing().await == before).await;
        anna.returns();
        ben.returns();
        throughout(A_MOMENT, "somebody is home", async || house.standing().await == before).await;
    }
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_coordinator_whose_cable_is_out_is_blind_and_decides_nothing() {
    if cannot_make_networks("presence") {
        return;
    }
    let Home { house, .. } = home().await;
    let before = house.standing().await;
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator");
    coordinator.leaves();
    eventually("it says that it is blind", async || house.look().await.is_some_and(|house| house.blind.is_some())).await;
    throughout(AWAY_AFTER + AND_PROBES, "not seeing anybody is not away", async || house.standing().await == before).await;
    coordinator.returns();
    eventually("it sees again", async || house.look().await.is_some_and(|house| house.blind.is_none())).await;
    house.agrees(ArmState::Disarmed).await;
    assert_eq!(house.standing().await, before);
}

#[tokio::test]
async fn a_router_that_fails_with_all_phones_behind_it_arms_nothing() {
    if cannot_make_networks("presence") {
        return;
    }
    // Longer than it takes to find out.
    let away_after = Duration::from_secs(30);
    let Home { house, anna, ben } = home_with(away_after).await;
    let router = house.plan.lan.as_ref().unwrap().machine("router");
    eventually("the router is heard", async || {
        router.talks_to(&house.plan.lan.as_ref().unwrap().machine("coordinator"));
        house.look().await.is_some_and(|house| house.blind.is_none())
    })
    .await;
    let before = house.standing().await;
    // The cameras hang on a cable, and talk.
    for gone in [&router, &anna, &ben] {
        gone.leaves();
    }
    within(away_after, "it says why it is blind", async || {
        house.look().await.is_some_and(|house| house.blind.is_some_and(|why| why.contains(&router.ip)))
    })
    .await;
    throughout(away_after + AND_PROBES, "nobody left", async || house.standing().await == before).await;
    for back in [&router, &anna, &ben] {
        back.returns();
    }
    eventually("it sees again", async || house.look().await.is_some_and(|house| house.blind.is_none())).await;
    house.is_unharmed_and_told(before, "presence is blind: the gateway").await;
}
