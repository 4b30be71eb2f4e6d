//! A network without IPv4.

use dms3_core::arming::ArmState;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{Addresses, House, Lan, Plan};

async fn manual_house(addresses: Addresses, mesh: &str) -> House {
    let plan = Plan { lan: Some(Lan::with(addresses)), mesh: mesh.to_owned(), ..Plan::default() };
    House::planned(plan).await
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
