//! A disk that is full, on either side: the house is armed all the same, and what was seen arrives when there is room.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dms3_core::arming::ArmState;

use super::{good, jpeg, picture};
use crate::faults::SmallDisk;
use crate::harness::skip::cannot_make_networks;
use crate::harness::{BINARY, Camera, House, LINKED_WITHIN, Plan, eventually, within};

/// What was refused for want of room is tried again so soon.
const AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// A picture for which there is surely no room.
fn large(dir: &Path, nth: u8) -> PathBuf {
    let path = jpeg(dir, format!("large-{nth}.jpg").as_bytes(), nth);
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[nth; 100_000]).unwrap();
    path
}

/// `status` names it.
async fn is_named(house: &House, problem: &str) {
    eventually(&format!("status says {problem:?}"), async || house.coordinator.cli(&["status"]).await.good().contains(problem)).await;
}

/// Armed, with a full disk.
async fn arms(house: &House) {
    house.arm().await;
    within(LINKED_WITHIN, "every camera watches", async || {
        house.look().await.is_some_and(|house| house.state == ArmState::Away)
            && house.cameras.iter().all(|camera| camera.motion.running().is_some())
    })
    .await;
}

#[tokio::test]
async fn what_is_seen_while_the_coordinators_disk_is_full_waits_on_the_camera_until_there_is_room() {
    if cannot_make_networks("what_is_seen_while_the_coordinators_disk_is_full_waits_on_the_camera_until_there_is_room") {
        return;
    }
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    house.coordinator.stop().await;
    let disk = SmallDisk::under(&house.coordinator.state_dir());
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    let pids = (house.coordinator.pid(), porch.pid());
    disk.is_full();
    for nth in 0..10 {
        good(picture(porch, &nth.to_string(), "5", &large(house.dir(), nth)));
    }
    eventually("the coordinator says why", async || house.coordinator.told("of porch cannot be kept")).await;
    eventually("so does the camera", async || porch.told("the coordinator does not take")).await;
    eventually("all wait", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 10)).await;
    arms(&house).await;
    let lines = (house.coordinator.lines_with("of porch cannot be kept"), porch.lines_with("the coordinator does not take"));
    assert_eq!(lines, (1, 1), "once");
    is_named(&house, "Coordinator: disk nearly full").await;
    disk.has_room();
    within(AGAIN_WITHIN, "all is handed over", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 0)).await;
    let events = house.has_events(10).await;
    assert!(events.iter().all(|event| event.attachments.len() == 1));
    house.agrees(ArmState::Away).await;
    assert_eq!((house.coordinator.pid(), porch.pid()), pids, "nobody was started again");
}

/// What the hook ended with, where the spool is on the same disk.
fn picture_or_not(porch: &Camera, event: &str, file: &Path) -> Option<i32> {
    let mut hook = std::process::Command::new(BINARY);
    hook.args(["hook", "picture", "--event", event, "--camera", "cam", "--pixels", "5", "--file"]).arg(file);
    hook.arg("--run-dir").arg(porch.run_dir()).arg("--spool").arg(porch.state_dir().join("spool")).output().unwrap().status.code()
}

#[tokio::test]
async fn a_camera_whose_disk_is_full_says_what_it_could_not_keep_and_watches_on() {
    if cannot_make_networks("a_camera_whose_disk_is_full_says_what_it_could_not_keep_and_watches_on") {
        return;
    }
    // Else there is never enough room on so small a disk.
    let plan = Plan { camera: "outbox = { keep_free = \"0 MB\" }".to_owned(), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    let porch = house.camera("porch");
    porch.stop().await;
    let disk = SmallDisk::under(&porch.state_dir());
    let spool = porch.state_dir().join("spool");
    fs::create_dir(&spool).unwrap();
    porch.start();
    house.agrees(ArmState::Disarmed).await;
    good(picture(porch, "before", "5", &jpeg(house.dir(), b"before.jpg", 1)));
    house.has_events(1).await;
    eventually("nothing waits", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 0)).await;
    let pid = porch.pid();
    disk.is_full();
    let mut kept: u64 = 0;
    for nth in 0..10_u8 {
        match picture_or_not(porch, &format!("full-{nth}"), &large(house.dir(), 10 + nth)) {
            Some(0) => kept += 1,
            Some(75) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(fs::read_dir(&spool).unwrap().next().is_none(), "no half entry is left in the spool");
    assert!(porch.told("disk is full") || porch.told("cannot be kept now"), "it is told");
    arms(&house).await;
    assert_eq!(porch.pid(), pid);
    is_named(&house, "porch: disk nearly full").await;

    // Nor does it need room to start.
    porch.stop().await;
    disk.is_full();
    porch.start();
    house.agrees(ArmState::Away).await;
    assert_eq!(picture_or_not(porch, "started", &large(house.dir(), 30)), Some(75));
    let pid = porch.pid();
    disk.has_room();
    within(AGAIN_WITHIN, "what is seen is kept again", async || {
        picture_or_not(porch, "after", &jpeg(house.dir(), b"after.jpg", 2)) == Some(0)
            && house
                .events()
                .await
                .iter()
                .any(|event| event.attachments.iter().any(|known| known.kept_at.is_some() && known.attachment.name == "after.jpg"))
    })
    .await;
    house.has_events(usize::try_from(1 + kept + 1).unwrap()).await;
    within(AGAIN_WITHIN, "an event without its picture is counted as a loss", async || {
        porch.camera_status().await.is_some_and(|status| status.outbox.lost >= kept && status.outbox.waiting == 0)
    })
    .await;
    house.agrees(ArmState::Away).await;
    assert_eq!(porch.pid(), pid);
}
