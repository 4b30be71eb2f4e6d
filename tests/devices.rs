//! What is known of people's devices, and what looking for them costs, is on the page for those whom it concerns.

use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, Lan, PASSWORD, Plan, Visitor, eventually};

async fn guest(house: &House, owner: &Visitor, name: &str, role: &str) -> Visitor {
    owner.submit("/accounts/add", &[("name", name), ("role", role), ("password", PASSWORD)]).await;
    let visitor = house.visitor().await;
    visitor.signs_in(name, PASSWORD).await;
    visitor
}

#[tokio::test]
async fn what_is_amiss_with_a_device_is_on_the_page_of_the_family_and_no_viewers_and_what_looking_costs_on_everybodys() {
    if cannot_make_networks("devices") {
        return;
    }
    let lan = Lan::new();
    let phone = lan.host("phone");
    let presence = format!(
        "[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"{}\"]\n\
         [[coordinator.presence.person]]\nname = \"Ben\"\ndevices = [\"da:a1:19:00:00:01\"]\n\
         [[coordinator.presence.person]]\nname = \"Cleo\"\ndevices = []\n",
        phone.mac
    );
    let house = House::planned(Plan { presence: Some(presence), web: Some(String::new()), lan: Some(lan), ..Plan::default() }).await;
    let owner = house.owner().await;
    let (member, viewer) = (guest(&house, &owner, "Max", "member").await, guest(&house, &owner, "Vic", "viewer").await);
    let said =
        ["da:a1:19:00:00:01 is a private address", "has no device yet", "<code>sudo dms3-node presence learn Cleo</code>", "No phone yet"];
    for family in [&owner, &member] {
        let page = family.get("/").await;
        assert!(said.iter().all(|words| page.has(words)), "{}", page.text);
        family.watches("").await.hears("people", "is a private address").await;
    }
    let page = viewer.get("/").await;
    for words in said.iter().chain(&["Anna", "Ben", "Cleo", "da:a1:19"]) {
        assert!(!page.has(words), "a viewer sees no names: {words} in {}", page.text);
    }
    eventually("what was sent is counted for everybody", async || {
        house.look().await.is_some_and(|house| house.frames.is_some_and(|frames| frames.arp_direct + frames.arp_broadcast > 0))
    })
    .await;
    for anybody in [&owner, &viewer] {
        let page = anybody.get("/system").await;
        assert!(page.has("Looking for phones") && page.has(" ARP ("), "{}", page.text);
    }
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains("Cleo: not known, for want of a device") && said.contains("Looking for them took "), "{said}");
}
