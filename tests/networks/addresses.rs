//! Addresses of every kind, two networks at once, and addresses that change.

use std::time::Duration;

use dms3_core::arming::ArmState;

use super::{LINK_ENDED, house_on, lan, lives};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{Addresses, Host, House, Lan, Plan, eventually, within};

/// A coordinator that got another address is found again.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
const MOVED: &str = "the link to the coordinator ended: the coordinator has another address and does not answer at the old one";

#[tokio::test]
async fn a_house_lives_on_a_network_of_every_kind_of_address() {
    if cannot_make_networks("networks") {
        return;
    }
    for addresses in [Addresses::Both, Addresses::OnlyV4, Addresses::OnlyV6, Addresses::OnlyLinkLocal] {
        eprintln!("--- {addresses:?}");
        let house = house_on(Lan::with(addresses), ["porch"]).await;
        lives(&house).await;
        let before = house.standing().await;
        house.coordinator.sigkill().await;
        house.coordinator.start();
        house.answers().await;
        house.stands(before).await;
        lives(&house).await;
    }
}

#[tokio::test]
async fn a_coordinator_on_two_networks_serves_both_and_when_one_fails_the_other_notices_nothing() {
    if cannot_make_networks("networks") {
        return;
    }
    let lan = Lan::new();
    let coordinator = lan.host("coordinator");
    lan.joins_both(&coordinator);
    lan.host("porch");
    lan.host_beyond("hall");
    let house = house_on(lan, ["porch", "hall"]).await;
    let lan = super::lan(&house);
    // By whichever of its addresses answered first.
    for (name, networks) in [("porch", ["192.168.77.", "[fd77:"]), ("hall", ["192.168.78.", "[fd78:"])] {
        let at = house.view(name).await.unwrap().address.unwrap();
        assert!(networks.iter().any(|network| at.starts_with(network)), "{name} is linked from {at}");
    }
    lives(&house).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let [porch, hall] = ["porch", "hall"].map(|name| house.camera(name));
    for (cable, cut, spared) in [(lan.second(&coordinator), hall, porch), (coordinator.clone(), porch, hall)] {
        let (ended, spared_ended) = (cut.lines_with(LINK_ENDED), spared.lines_with(LINK_ENDED));
        cable.leaves();
        eventually(&format!("{} knows", cut.name), async || cut.lines_with(LINK_ENDED) > ended).await;
        assert!(cut.motion.running().is_some(), "{} watches on", cut.name);
        assert!(house.view(&spared.name).await.unwrap().current, "{} is linked", spared.name);
        cable.returns();
        within(super::REACHED_WITHIN, "all are linked", async || house.is_whole(ArmState::Away).await).await;
        assert_eq!(house.standing().await, before);
        assert_eq!(spared.lines_with(LINK_ENDED), spared_ended, "{} noticed nothing", spared.name);
    }
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    lives(&house).await;
}

/// Its link was not made anew for it.
async fn keeps_its_link_while(house: &House, host: &Host, what: &str) {
    let linked = house.coordinator.lines_with("node porch is linked from");
    host.renews();
    for state in [ArmState::Away, ArmState::Disarmed] {
        if state.is_armed() {
            house.arm().await
        } else {
            house.disarm().await
        }
        within(super::PATIENCE, &format!("{what}: what is decided now reaches it"), async || house.does_agree(state).await).await;
    }
    assert_eq!(house.coordinator.lines_with("node porch is linked from"), linked, "{what}: over the same link");
}

#[tokio::test]
async fn a_lease_that_is_renewed_with_the_same_address_ends_no_link() {
    if cannot_make_networks("networks") {
        return;
    }
    let house = house_on(Lan::new(), ["porch"]).await;
    for name in ["porch", "coordinator"] {
        keeps_its_link_while(&house, &lan(&house).machine(name), name).await;
    }
    lives(&house).await;
}

async fn is_found_again(mesh: &str, camera: &str) {
    let plan = Plan { lan: Some(Lan::with(Addresses::OnlyV4)), mesh: mesh.to_owned(), ..Plan::default() };
    let mut house = House::planned(plan).await;
    for name in ["porch", "hall"] {
        let node = house.new_camera(name);
        node.configure(camera);
        let coordinator = lan(&house).machine("coordinator").ip;
        let word = house.token(&["--name", name, "--hint", &coordinator]).await;
        node.cli_with(&["enroll", "-"], &word).await.good();
        node.start();
        house.cameras.push(node);
    }
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;
    for address in ["192.168.77.210", "192.168.77.211"] {
        lan(&house).machine("coordinator").moves_to(address);
        within(FOUND_WITHIN, &format!("all find it at {address}"), async || {
            let mut found = true;
            for camera in &house.cameras {
                let linked = camera.camera_status().await.and_then(|status| status.linked);
                found &= linked.is_some_and(|at| at.starts_with(&format!("{address}:")));
            }
            found
        })
        .await;
        house.is_unharmed(before).await;
    }
    for camera in &house.cameras {
        assert_eq!((camera.lines_with(LINK_ENDED), camera.lines_with(MOVED)), (2, 2), "{} says why", camera.name);
    }
    assert!(house.coordinator.told("the addresses of this machine changed, its nodes are told where it is: 192.168.77.210"));
    lives(&house).await;
}

#[tokio::test]
async fn a_coordinator_that_gets_another_address_is_found_again() {
    if cannot_make_networks("networks") {
        return;
    }
    is_found_again("", "").await;
}

#[tokio::test]
async fn a_coordinator_that_gets_another_address_is_found_again_where_mdns_is_off() {
    if cannot_make_networks("networks") {
        return;
    }
    is_found_again("mdns = \"off\"", "[mesh]\nmdns = \"off\"\n").await;
}
