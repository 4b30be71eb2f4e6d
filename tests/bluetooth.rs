//! Bluetooth decides who is home, where it can, and nothing is decided for want of it. Against BlueZ's interface, not against a radio.

use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::presence::{Presence, Sensor};
use nix::sys::signal::Signal;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{Bluez, House, Lan, Plan, eventually, throughout, within};

/// A tag on a key ring. Its address is one that it made up for good, which as a MAC address would be that of a group.
const TAG: &str = "F1:DA:9B:00:00:01";
const NEAR: i16 = -55;
const FAR: i16 = -90;
/// The twelve last probes, a second apart, decide; the machine may be busy.
const AWAY_WITHIN: Duration = Duration::from_secs(30);
/// Longer than these probes take.
const LONG: Duration = Duration::from_secs(17);

/// Anna has a tag and nothing else. bluetoothd hears what a test says.
async fn home(bluez: &Bluez) -> House {
    home_with(bluez, &format!("\"bt:{TAG}\"")).await
}

async fn home_with(bluez: &Bluez, devices: &str) -> House {
    let presence = format!(
        "[coordinator.presence]\nbluetooth_min_rssi = -70\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [{devices}]\n\
         away_after = \"6s\"\n"
    );
    let house = House::planned(Plan { presence: Some(presence), lan: Some(Lan::new()), ..Plan::default() }).await;
    house.coordinator.set_variable("DBUS_SYSTEM_BUS_ADDRESS", bluez.address().into());
    house.coordinator.restart().await;
    house.answers().await;
    house
}

async fn with_a_radio() -> (House, Bluez) {
    let mut bluez = Bluez::new();
    bluez.start_bus().await;
    bluez.start().await;
    bluez.plug();
    // Before anybody listened.
    bluez.hears(TAG, NEAR);
    let house = home(&bluez).await;
    listens(&bluez).await;
    (house, bluez)
}

async fn listens(bluez: &Bluez) {
    eventually("bluetoothd listens for us", async || bluez.is_discovering()).await;
}

async fn anna(house: &House) -> Option<Presence> {
    Some(house.look().await?.people.first()?.presence)
}

/// As long as it advertises itself.
async fn is_home(house: &House, bluez: &Bluez) {
    eventually("Anna is home", async || {
        bluez.hears(TAG, NEAR);
        anna(house).await == Some(Presence::Home)
    })
    .await;
}

async fn complains(house: &House, of: &str) {
    eventually(&format!("status says {of:?}"), async || {
        let problems = house.look().await.map(|house| house.problems).unwrap_or_default();
        problems.iter().any(|problem| problem.starts_with("Bluetooth cannot be listened to: ") && problem.contains(of))
    })
    .await;
}

async fn is_content(house: &House) {
    eventually("status says nothing of Bluetooth any more", async || {
        house.look().await.is_some_and(|house| !house.problems.iter().any(|problem| problem.contains("Bluetooth")))
    })
    .await;
}

#[tokio::test]
async fn a_tag_that_is_heard_near_disarms_the_house_and_its_silence_arms_it() {
    if cannot_make_networks("bluetooth") {
        return;
    }
    let (house, bluez) = with_a_radio().await;
    let asked = bluez.log();
    let filter = asked.find("SetDiscoveryFilter {\"Transport\": \"le\", \"RSSI\": -70, \"DuplicateData\": True}").expect("how to listen");
    assert!(asked.find("StartDiscovery").is_some_and(|started| started > filter), "{asked}");

    within(AWAY_WITHIN, "nobody is home, whatever bluetoothd remembers", async || anna(&house).await == Some(Presence::Away)).await;
    house.agrees(ArmState::Away).await;
    assert_eq!(house.look().await.unwrap().people[0].last_seen, None);
    // What bluetoothd hears from afar and what it has to say besides proves as little. Nor does whoever else is on the bus.
    let guests = bluez.guests();
    assert!(!guests.is_empty(), "the coordinator is on the bus");
    throughout(Duration::from_secs(3), "nobody is home", async || {
        bluez.hears(TAG, FAR);
        bluez.mentions(TAG);
        bluez.hears("F1:DA:9B:00:00:02", NEAR);
        guests.iter().for_each(|guest| bluez.somebody_claims(TAG, NEAR, guest));
        anna(&house).await == Some(Presence::Away)
    })
    .await;

    bluez.hears(TAG, NEAR);
    within(Duration::from_secs(5), "Anna came", async || anna(&house).await == Some(Presence::Home)).await;
    house.agrees(ArmState::Disarmed).await;
    let view = house.look().await.unwrap().people.remove(0);
    assert_eq!((view.device.as_deref(), view.sensor), (Some("bt:f1:da:9b:00:00:01"), Some(Sensor::Bluetooth)));
    throughout(LONG, "she stays as long as the tag is heard", async || {
        bluez.hears(TAG, NEAR);
        anna(&house).await == Some(Presence::Home)
    })
    .await;
    within(AWAY_WITHIN, "she left", async || anna(&house).await == Some(Presence::Away)).await;
    house.agrees(ArmState::Away).await;
    assert!(!house.coordinator.told("Bluetooth cannot"), "nothing was wrong");
}

#[tokio::test]
async fn what_bluetooth_lacks_is_said_and_it_is_listened_to_as_soon_as_all_is_there() {
    if cannot_make_networks("bluetooth") {
        return;
    }
    let mut bluez = Bluez::new();
    let house = home(&bluez).await;
    complains(&house, "the system bus cannot be reached").await;
    bluez.start_bus().await;
    complains(&house, "bluetoothd does not run").await;
    bluez.start().await;
    complains(&house, "this machine has no Bluetooth adapter").await;
    assert_eq!(anna(&house).await, Some(Presence::Unknown), "whom nobody can hear is not away");
    assert_eq!(house.coordinator.lines_with("this machine has no Bluetooth adapter"), 1, "it is said once");
    bluez.plug();
    listens(&bluez).await;
    is_content(&house).await;
    is_home(&house, &bluez).await;
    house.agrees(ArmState::Disarmed).await;
}

/// Anna is home and the house disarmed.
async fn anna_at_home() -> (House, Bluez) {
    let (house, bluez) = with_a_radio().await;
    is_home(&house, &bluez).await;
    house.agrees(ArmState::Disarmed).await;
    (house, bluez)
}

#[tokio::test]
async fn whoever_is_home_when_bluetoothd_fails_has_not_left() {
    if cannot_make_networks("bluetooth") {
        return;
    }
    let (house, mut bluez) = anna_at_home().await;
    let before = house.standing().await;
    // It does not answer, its adapter is switched off, it is gone.
    bluez.signal(Signal::SIGSTOP);
    complains(&house, "org.bluez does not answer").await;
    bluez.signal(Signal::SIGCONT);
    is_content(&house).await;
    is_home(&house, &bluez).await;
    bluez.switch_off();
    complains(&house, "the Bluetooth adapter hci0 is switched off").await;
    bluez.kill();
    complains(&house, "bluetoothd does not run").await;
    throughout(LONG, "Anna has not left", async || anna(&house).await == Some(Presence::Home)).await;
    house.is_unharmed(before).await;
    bluez.start().await;
    bluez.plug();
    is_content(&house).await;
    is_home(&house, &bluez).await;
}

#[tokio::test]
async fn an_adapter_that_is_pulled_out_and_a_bus_that_ends_tell_nothing_of_anybody_until_they_are_back() {
    if cannot_make_networks("bluetooth") {
        return;
    }
    let (house, mut bluez) = anna_at_home().await;
    let before = house.standing().await;
    bluez.stops_listening();
    listens(&bluez).await;
    is_home(&house, &bluez).await;
    bluez.unplug();
    complains(&house, "this machine has no Bluetooth adapter").await;
    bluez.kill();
    bluez.kill_bus();
    complains(&house, "the system bus cannot be reached").await;
    throughout(LONG, "Anna has not left", async || anna(&house).await == Some(Presence::Home)).await;
    house.is_unharmed(before).await;
    bluez.start_bus().await;
    bluez.start().await;
    bluez.plug();
    is_content(&house).await;
    is_home(&house, &bluez).await;
    within(AWAY_WITHIN, "now she left", async || anna(&house).await == Some(Presence::Away)).await;
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn a_phone_that_was_paired_is_known_under_the_addresses_that_it_makes_up() {
    if cannot_make_networks("bluetooth") {
        return;
    }
    const MADE_UP: &str = "5A:00:00:00:00:07";
    let mut bluez = Bluez::new();
    bluez.start_bus().await;
    bluez.start().await;
    bluez.plug();
    bluez.remembers(MADE_UP);
    bluez.recognizes(MADE_UP, TAG);
    let house = home(&bluez).await;
    listens(&bluez).await;
    eventually("Anna is home", async || {
        bluez.hears_object(MADE_UP, NEAR);
        anna(&house).await == Some(Presence::Home)
    })
    .await;
}

#[tokio::test]
async fn a_tag_is_taught_to_a_house_that_knows_no_device_of_anybody_and_taken_from_it_again() {
    if cannot_make_networks("bluetooth") {
        return;
    }
    let mut bluez = Bluez::new();
    bluez.start_bus().await;
    bluez.start().await;
    bluez.plug();
    let house = home_with(&bluez, "").await;
    let says = async |words: &str| house.coordinator.cli(&["status"]).await.good().contains(words);
    assert!(says("person \"Anna\" has no device yet").await && says("Anna: not known, for want of a device").await);
    assert!(!bluez.is_discovering(), "the radio is left alone");

    let tag = format!("bt:{}", TAG.to_lowercase());
    let said = house.coordinator.cli(&["presence", "learn", "Anna", "--device", &format!("BT:{TAG}")]).await.good();
    assert!(said.contains(&format!("{tag} is a device of Anna from now on.")), "{said}");
    listens(&bluez).await;
    assert_eq!(house.look().await.unwrap().state, ArmState::Away, "that it is known disarms nothing");
    is_home(&house, &bluez).await;
    house.agrees(ArmState::Disarmed).await;
    assert!(!says("no device yet").await);
    within(AWAY_WITHIN, "she left", async || anna(&house).await == Some(Presence::Away)).await;
    house.agrees(ArmState::Away).await;
    is_home(&house, &bluez).await;
    house.agrees(ArmState::Disarmed).await;

    let said = house.coordinator.cli(&["presence", "forget", &tag]).await.good();
    assert!(said.contains(&format!("{tag} is no device of Anna any more")), "{said}");
    assert_eq!(anna(&house).await, Some(Presence::Unknown));
    assert!(says("person \"Anna\" has no device yet").await);
    bluez.hears(TAG, NEAR);
    throughout(Duration::from_secs(3), "nothing is known of her, and nothing changes", async || {
        anna(&house).await == Some(Presence::Unknown) && house.does_agree(ArmState::Disarmed).await
    })
    .await;
}
