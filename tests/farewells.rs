//! Nodes that are stopped on purpose, as for an update, and come back, or do not.

use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;

use crate::events::good;
use crate::harness::smtp::{MailServer, header};
use crate::harness::{House, Plan, eventually, throughout, within};

const ON_PURPOSE: &str = "the other side is going down on purpose";
/// Whoever said that he stops has so long to come back.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const ARM_AFTER: Duration = Duration::from_secs(20);
/// On a busy machine.
const AND: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_camera_that_is_restarted_on_purpose_is_not_missed_and_one_that_stays_away_is_after_a_minute() {
    let house = House::with_cameras(["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let lost = |name: &str| format!("alert lost:{}", house.node_of(house.camera(name)).short());
    house.camera("porch").restart().await;
    house.agrees(ArmState::Away).await;
    house.is_unharmed_and_names(before, &["the link of node porch at ", ON_PURPOSE]).await;
    let stopped = Instant::now();
    house.camera("hall").stop().await;
    eventually("it is not linked", async || house.view("hall").await.is_some_and(|view| view.liveness == "late")).await;
    within(BACK_WITHIN + AND, "people are told", async || {
        house
            .look()
            .await
            .is_some_and(|house| house.problems.iter().any(|problem| problem.contains("hall was stopped and has not come back")))
    })
    .await;
    assert!(stopped.elapsed() >= BACK_WITHIN, "it was missed after {:?}", stopped.elapsed());
    eventually("the log says it once", async || house.coordinator.lines_with(&lost("hall")) == 1).await;
    assert_eq!(house.coordinator.lines_with(&lost("porch")), 0);
    house.camera("hall").start();
    house.agrees(ArmState::Away).await;
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn a_coordinator_that_is_stopped_on_purpose_is_missed_after_a_minute_and_no_camera_arms_sooner_than_it_may() {
    let mut server = MailServer::new();
    server.start(&[]);
    let keys = format!("lost_alert_after = \"1s\"\non_coordinator_lost = {{ arm_after = \"{}s\", as = \"away\" }}", ARM_AFTER.as_secs());
    let house = House::planned_with_cameras(Plan { camera: keys, ..Plan::default() }, ["porch"]).await;
    let porch = house.camera("porch");
    porch.configure(&server.section_with(&porch.config().with_file_name("password"), ""));
    porch.restart().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;

    // An update: stopped, and there again.
    house.coordinator.restart().await;
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    house.stands(before).await;
    assert_eq!(porch.lines_with(&format!("the link to the coordinator ended: {ON_PURPOSE}")), 1);
    assert_eq!((server.taken(), porch.motion.starts()), (0, 0), "nobody noticed");

    let stopped = Instant::now();
    house.coordinator.stop().await;
    throughout(ARM_AFTER - Duration::from_secs(5), "it does not arm itself yet", async || porch.motion.running().is_none()).await;
    within(ARM_AFTER, "it arms itself when its time has come", async || porch.motion.running().is_some()).await;
    assert!(stopped.elapsed() >= ARM_AFTER, "it armed itself after {:?}", stopped.elapsed());
    assert_eq!(server.taken(), 0, "nobody is told yet, though the config says 1s: it was on purpose");
    within(BACK_WITHIN + AND, "the camera mails that nobody came back", async || server.taken() > 0).await;
    assert!(stopped.elapsed() >= BACK_WITHIN, "it mailed after {:?}", stopped.elapsed());
    let mail = server.has(1).await.remove(0);
    assert_eq!(header(&mail, "Subject").unwrap(), "DMS3: The coordinator does not answer");
    let told = "The coordinator was stopped and has not come back for 60 s: porch watches on";
    assert_eq!(porch.lines_with(told), 1, "and its log says so once");

    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    house.stands(before).await;
    server.has(2).await;
    good(crate::events::said(porch, "event-start", "1"));
    house.has_events(1).await;
}
