//! Whoever only says that he is the coordinator is obeyed by nobody.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use rcgen::ExtendedKeyUsagePurpose;

use crate::harness::rogue::{Advertiser, FalseCoordinator, Leaf, Papers};
use crate::harness::{House, LINKED_WITHIN, eventually, within};
use crate::strangers::armed_house;

#[tokio::test]
async fn nobody_obeys_or_pairs_with_somebody_who_only_says_that_he_is_the_coordinator() {
    let mut house = armed_house().await;
    let other = House::with_cameras(["shed"]).await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let rogues = [
        // A camera's own papers say that it is no coordinator.
        FalseCoordinator::open(141, Papers::stolen(&house.camera("porch").node)),
        FalseCoordinator::open(142, Papers::forged(&mesh, &Leaf::coordinator())),
        FalseCoordinator::open(143, Papers::under_the_real_root(&house.coordinator, &Leaf::coordinator())),
        FalseCoordinator::open(144, Papers::stolen(&other.coordinator)),
        // The house's real issuing key signed it, but the root did not name it.
        FalseCoordinator::open(145, Papers::by_the_stolen_issuing_key(&house.coordinator, &Leaf::coordinator(), None)),
        FalseCoordinator::open(
            146,
            Papers::by_the_stolen_issuing_key(
                &house.coordinator,
                &Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::coordinator() },
                None,
            ),
        ),
    ];
    let mut advertiser = Advertiser::new(&house.mdns_port);
    for (nth, rogue) in rogues.iter().enumerate() {
        // The issuing key's thief could hear a `Begin`, which is of no use to him; here it is the mesh that he is after.
        let enroll = (nth != 4).then(|| rogue.address.port());
        advertiser.advertise(&mesh, rogue.address, enroll);
    }

    // A new camera passes them over and pairs with the real one.
    let word = house.token(&["--name", "yard"]).await;
    let yard = house.new_camera("yard");
    yard.cli_with(&["enroll", "-"], &word).await.good();
    yard.start();
    house.cameras.push(yard);
    house.agrees(ArmState::Away).await;

    // Without the real one the cameras go to all of them, and believe none.
    house.coordinator.sigkill().await;
    let hall = house.camera("hall");
    // Somebody even wrote them into a config.
    let peers: Vec<_> = rogues.iter().map(|rogue| rogue.address.to_string()).collect();
    let config = fs::read_to_string(hall.config()).unwrap();
    fs::write(hall.config(), config.replacen("[mesh]\n", &format!("[mesh]\npeers = {peers:?}\n"), 1)).unwrap();
    hall.restart().await;
    for (nth, rogue) in rogues.iter().enumerate() {
        eventually(&format!("number {nth} is dialled"), async || rogue.knocks() > 0).await;
    }
    eventually("the log names the cause", async || {
        ["not for this use", "another house", "not named by our root"].iter().any(|why| hall.told(why))
    })
    .await;
    for camera in &house.cameras {
        eventually("it is linked to nobody", async || camera.camera_status().await.is_some_and(|status| status.linked.is_none())).await;
        assert_eq!(camera.camera_status().await.unwrap().effective, ArmState::Away, "{}", camera.name);
        assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
    }
    for (nth, rogue) in rogues.iter().enumerate() {
        assert_eq!(rogue.heard(), 0, "number {nth} was told something");
    }
    house.coordinator.start();
    house.answers().await;
    within(LINKED_WITHIN, "the real one is found among them", async || house.does_agree(ArmState::Away).await).await;
}

#[tokio::test]
async fn fifty_advertisements_of_rogues_delay_pairing_by_seconds() {
    let house = House::new().await;
    let mesh = house.identity_of(&house.coordinator).mesh();
    let mut advertiser = Advertiser::new(&house.mdns_port);
    // They take every packet and never answer, which costs the most time.
    let silent: Vec<UdpSocket> = (150..200).map(|last| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap()).collect();
    for rogue in &silent {
        let address = rogue.local_addr().unwrap();
        advertiser.advertise(&mesh, address, Some(address.port()));
    }
    let porch = house.new_camera("porch");
    let heard = porch.cli(&["discover", "--seconds", "5"]).await.good();
    let rogues = heard.lines().filter(|line| line.contains("rogue")).count();
    assert!(rogues >= 40, "only {rogues} of them are heard: {heard}");
    let word = house.token(&[]).await;
    let began = Instant::now();
    porch.cli_with(&["enroll", "-"], &word).await.good();
    assert!(began.elapsed() <= Duration::from_secs(15), "it took {:?}", began.elapsed());
    porch.start();
    within(LINKED_WITHIN, "and it finds its coordinator among them", async || {
        porch.camera_status().await.is_some_and(|status| status.linked.is_some())
    })
    .await;
}
