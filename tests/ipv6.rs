//! Networks without IPv4: everything a house does works over IPv6 alone, and over link-local addresses alone.

use dms3_core::arming::ArmState;
use serde_json::Value;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{Addresses, House, Lan, Plan};

async fn manual_house(addresses: Addresses, mesh: &str) -> House {
    let plan = Plan { lan: Some(Lan::with(addresses)), mesh: mesh.to_owned(), ..Plan::default() };
    House::planned(plan).await
}

/// The addresses of our coordinator that `discover` shows on a camera.
async fn discovered(house: &House) -> Vec<String> {
    let said = house.camera("porch").cli(&["discover", "--json"]).await.good();
    let found: Value = serde_json::from_str(&said).unwrap();
    let ours = found.as_array().unwrap().iter().find(|one| one["ours"] == true).unwrap_or_else(|| panic!("ours is not heard: {said}"));
    ours["addresses"].as_array().unwrap().iter().map(|address| address.as_str().unwrap().to_owned()).collect()
}

/// Paired over mDNS with nothing but a word, the house armed and disarmed; then the coordinator dies, and the camera is started anew.
async fn lives(house: &mut House) {
    house.add_camera("porch").await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    let porch = house.camera("porch");
    assert_eq!(porch.lines_with("ended: the other side was restarted"), 1);
    let before = house.standing().await;
    porch.stop().await;
    porch.start();
    house.stands(before).await;
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_house_lives_on_a_network_without_ipv4() {
    if cannot_make_networks("ipv6") {
        return;
    }
    let mut house = manual_house(Addresses::OnlyV6, "").await;
    lives(&mut house).await;
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator").ip6;
    let shown = discovered(&house).await;
    assert!(shown.contains(&format!("[{coordinator}]:47100")), "{shown:?}");
    assert!(shown.iter().all(|address| address.starts_with('[')), "{shown:?}");
    let nodes = house.coordinator.cli(&["nodes"]).await.good();
    assert!(nodes.contains("[f"), "{nodes}");
}

#[tokio::test]
async fn a_house_lives_on_link_local_addresses_alone() {
    if cannot_make_networks("ipv6") {
        return;
    }
    let mut house = manual_house(Addresses::OnlyLinkLocal, "").await;
    lives(&mut house).await;
    let shown = discovered(&house).await;
    assert!(!shown.is_empty() && shown.iter().all(|address| address.starts_with("[fe80::") && address.contains('%')), "{shown:?}");
    // The address that it remembers has its interface with it, and is enough.
    let porch = house.camera("porch");
    let before = house.standing().await;
    porch.stop().await;
    porch.configure("[mesh]\nmdns = \"off\"\n");
    porch.start();
    house.stands(before).await;
}

#[tokio::test]
async fn a_word_with_an_ipv6_hint_pairs_where_mdns_is_off() {
    if cannot_make_networks("ipv6") {
        return;
    }
    let mut house = manual_house(Addresses::OnlyV6, "mdns = \"off\"").await;
    let coordinator = house.plan.lan.as_ref().unwrap().machine("coordinator").ip6;
    for (name, hint) in [("porch", format!("[{coordinator}]")), ("hall", format!("[{coordinator}]:47101")), ("shed", coordinator.clone())] {
        let camera = house.new_camera(name);
        camera.configure("[mesh]\nmdns = \"off\"\n");
        let word = house.token(&["--name", name, "--hint", &hint]).await;
        camera.cli_with(&["enroll", "-"], &word).await.good();
        camera.start();
        house.cameras.push(camera);
    }
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    house.is_unharmed(before).await;
}
