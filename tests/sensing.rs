//! What phones do to those who look for them: they speak IPv6 alone, move, get lost in bad Wi-Fi, and leave their ghosts behind.

use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::presence::Presence;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{Addresses, Host, House, Lan, Plan, eventually, throughout, within};

/// So short that the twelve last probes, a second apart, decide.
const AWAY_AFTER: Duration = Duration::from_secs(6);
/// They take longer than it, and the machine may be busy.
const AND_PROBES: Duration = Duration::from_secs(20);

/// One person, home and so disarmed, and one camera. `more`: other people.
async fn home_on(lan: Lan, away_after: Duration, more: &str) -> (House, Host) {
    let anna = lan.host("anna");
    let presence = format!(
        "[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"{}\"]\naway_after = \"{}s\"\n{more}",
        anna.mac,
        away_after.as_secs()
    );
    let mut house = House::planned(Plan { presence: Some(presence), lan: Some(lan), ..Plan::default() }).await;
    house.add_camera("porch").await;
    says_hello(&house, &anna);
    eventually("Anna is seen to be home", async || presence_of(&house, "Anna").await == Some(Presence::Home)).await;
    house.agrees(ArmState::Disarmed).await;
    house.forget();
    (house, anna)
}

async fn presence_of(house: &House, name: &str) -> Option<Presence> {
    house.look().await?.people.iter().find(|person| person.name == name).map(|person| person.presence)
}

/// As every phone does when it comes, by IPv6.
fn says_hello(house: &House, phone: &Host) {
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator");
    let mut ping = std::process::Command::new("ip");
    ping.args(["netns", "exec", &phone.netns, "ping", "-6", "-c1", "-W1", &coordinator.ip6]);
    // Whether it was answered is not the point.
    ping.output().unwrap();
}

async fn arms(house: &House) {
    within(AWAY_AFTER + AND_PROBES, "the last one that leaves arms the camera", async || house.does_agree(ArmState::Away).await).await;
}

#[tokio::test]
async fn without_ipv4_the_last_phone_that_leaves_arms_the_house_and_the_first_that_returns_disarms_it() {
    if cannot_make_networks("sensing") {
        return;
    }
    let (house, anna) = home_on(Lan::with(Addresses::OnlyV6), AWAY_AFTER, "").await;
    let before = house.standing().await;
    throughout(AWAY_AFTER * 2, "a phone that is asked by IPv6 answers", async || house.standing().await == before).await;
    anna.leaves();
    arms(&house).await;
    anna.returns();
    within(Duration::from_secs(30), "her phone disarms the house", async || {
        says_hello(&house, &anna);
        house.does_agree(ArmState::Disarmed).await
    })
    .await;

    let before = house.standing().await;
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator");
    coordinator.leaves();
    eventually("it says that it is blind", async || house.look().await.is_some_and(|house| house.blind.is_some())).await;
    throughout(AWAY_AFTER * 3, "not seeing anybody is not away", async || house.standing().await == before).await;
    coordinator.returns();
    eventually("it sees again", async || house.look().await.is_some_and(|house| house.blind.is_none())).await;
    assert_eq!(house.standing().await, before);
    let frames = house.look().await.unwrap().frames.unwrap();
    assert!(frames.ns_direct > 0 && frames.ns_multicast > 0, "{frames:?}");
    assert_eq!((frames.arp_direct, frames.arp_broadcast), (0, 0));
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains("Looking for them took") && said.contains("NDP"), "{said}");
}

#[tokio::test]
async fn neither_a_ghost_in_the_kernel_nor_a_tablet_that_does_not_count_holds_the_house_open() {
    if cannot_make_networks("sensing") {
        return;
    }
    let lan = Lan::new();
    let tablet = lan.host("tablet");
    let more = format!(
        "[[coordinator.presence.person]]\nname = \"Tablet\"\ndevices = [\"{}\", \"da:a1:19:00:00:01\"]\naway_after = \"{}s\"\ncounts = false\n",
        tablet.mac,
        AWAY_AFTER.as_secs()
    );
    let (house, anna) = home_on(lan, AWAY_AFTER, &more).await;
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator");
    tablet.talks_to(&coordinator);
    eventually("the tablet is shown", async || presence_of(&house, "Tablet").await == Some(Presence::Home)).await;
    anna.leaves();
    // What the Go program took for Anna for more than five minutes.
    let mut remember = std::process::Command::new("ip");
    let ghost = "fe80::dead";
    remember.args(["-n", &coordinator.netns, "neigh", "replace", ghost, "lladdr", &anna.mac, "dev", "eth0", "nud", "stale"]);
    assert!(remember.status().unwrap().success());
    arms(&house).await;
    let shows = |state: &str| {
        let mut list = std::process::Command::new("ip");
        list.args(["-n", &coordinator.netns, "neigh", "show", ghost]);
        String::from_utf8(list.output().unwrap().stdout).unwrap().contains(state)
    };
    assert!(shows("STALE"), "the kernel remembers her still");
    assert_eq!(presence_of(&house, "Tablet").await, Some(Presence::Home));
    let before = house.standing().await;
    tablet.talks_to(&coordinator);
    throughout(Duration::from_secs(3), "nor does the tablet disarm it", async || house.standing().await == before).await;
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains("  Tablet: home (does not count), last seen"), "{said}");
    assert!(said.contains("person \"Tablet\": da:a1:19:00:00:01 is a private address"), "{said}");
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_phone_that_is_home_arms_nothing_though_it_moves_and_every_fifth_frame_gets_lost() {
    if cannot_make_networks("sensing") {
        return;
    }
    let (house, anna) = home_on(Lan::with(Addresses::OnlyV4), Duration::from_secs(15), "").await;
    let before = house.standing().await;
    anna.loses(20, 20);
    throughout(Duration::from_secs(25), "a question that is lost is asked again", async || house.standing().await == before).await;
    // Under another address it says nothing by itself.
    anna.loses_nothing();
    anna.moves_to("192.168.77.230");
    throughout(Duration::from_secs(25), "it is found where it is now", async || house.standing().await == before).await;
    let mut seen = None;
    eventually("and asked there", async || {
        let now = house.look().await.and_then(|house| house.people[0].last_seen);
        let again = seen.is_some() && now > seen;
        seen = seen.or(now);
        again
    })
    .await;
    house.is_unharmed(before).await;
    anna.leaves();
    within(Duration::from_secs(15) + AND_PROBES, "and missed", async || house.does_agree(ArmState::Away).await).await;
}
