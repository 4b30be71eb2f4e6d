//! Whoever comes home is seen by a camera before the phone is on the Wi-Fi: that is kept, marked, and no mail's matter.

use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_node::clock::wall;

use crate::events::{good, jpeg, picture, said};
use crate::harness::skip::cannot_make_networks;
use crate::harness::smtp::{MailServer, header};
use crate::harness::{House, Lan, Plan, eventually, within};

/// So short that the twelve last probes, a second apart, decide.
const AWAY_AFTER: Duration = Duration::from_secs(6);
/// They take longer than it, and the machine may be busy.
const AND_PROBES: Duration = Duration::from_secs(20);
/// From what the camera sees to the phone being heard; no mail goes out for so long.
const HOLD: Duration = Duration::from_secs(20);

async fn sees(house: &House, event: &str, colour: u8) {
    let porch = house.camera("porch");
    good(said(porch, "event-start", event));
    good(picture(porch, event, "450", &jpeg(house.dir(), format!("{event}.jpg").as_bytes(), colour)));
    good(said(porch, "event-end", event));
}

#[tokio::test]
async fn what_a_camera_sees_of_whoever_comes_home_is_marked_and_not_mailed_and_of_anybody_else_it_is() {
    if cannot_make_networks("arrivals") {
        return;
    }
    let lan = Lan::new();
    let anna = lan.host("anna");
    let mut server = MailServer::new();
    server.start_in(Some(&lan.host("coordinator").netns), &[]);
    let sections = format!(
        "arrival_hold = \"{}s\"\n[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"{}\"]\n\
         away_after = \"{}s\"\n{}",
        HOLD.as_secs(),
        anna.mac,
        AWAY_AFTER.as_secs(),
        server.section("cooldown = \"0s\"")
    );
    let mut house = House::planned(Plan { presence: Some(sections), lan: Some(lan), ..Plan::default() }).await;
    house.add_camera("porch").await;
    anna.talks_to(&house.plan.lan.as_ref().unwrap().machine("coordinator"));
    house.agrees(ArmState::Disarmed).await;
    anna.leaves();
    within(AWAY_AFTER + AND_PROBES, "she left", async || house.does_agree(ArmState::Away).await).await;

    sees(&house, "1", 1).await;
    house.has_events(1).await;
    anna.returns();
    anna.talks_to(&house.plan.lan.as_ref().unwrap().machine("coordinator"));
    within(Duration::from_secs(5), "her phone disarms the camera", async || house.does_agree(ArmState::Disarmed).await).await;
    eventually("what it saw is marked", async || house.events().await[0].arrival).await;
    let listed = house.coordinator.cli(&["events"]).await.good();
    assert!(listed.contains(" arrival "), "{listed}");

    anna.leaves();
    within(AWAY_AFTER + AND_PROBES, "she left", async || house.does_agree(ArmState::Away).await).await;
    sees(&house, "2", 2).await;
    // A mail of what was seen before would have come by then.
    let mails = server.has(1).await;
    let events = house.has_events(2).await;
    assert_eq!(events.iter().map(|event| event.arrival).collect::<Vec<_>>(), [true, false]);
    let waited = wall().since(events[1].began);
    assert!(waited >= HOLD, "whoever comes home has {HOLD:?}, and this mail went out after {waited:?}");
    let subject = header(&mails[0], "Subject").unwrap();
    let time = dms3_node::clock::calendar(events[1].began, "%H:%M:%S");
    assert!(subject.starts_with("DMS3: porch saw movement") && subject.ends_with(&time), "{subject}, and not {time}");
    eventually("nothing waits", async || house.status().await.mail.is_some_and(|mail| mail.waiting == 0)).await;
    assert_eq!(server.taken(), 1);
}
