//! Clips on their way: cut off, held up, spoiled on the camera's disk.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dms3_core::event::EventFilter;
use dms3_node::store::events::Events;
use nix::sys::signal::Signal;

use super::crashes::hash;
use super::{good, hook, jpeg, picture};
use crate::harness::{Camera, House, Node, eventually, throughout, within};

const CLIP: usize = 20 << 20;

pub(super) fn clip(camera: &Camera, event: &str, file: &Path) -> std::process::Output {
    let words = ["movie", "--event", event, "--camera", "cam", "--file"];
    hook(camera, &words.iter().map(std::ffi::OsStr::new).chain([file.as_os_str()]).collect::<Vec<_>>())
}

/// So many bytes of which no two files have the same.
pub(super) fn noise(path: &Path, bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()
    })
    .take(bytes.div_ceil(8))
    .flatten()
    .take(bytes)
    .collect();
    fs::write(path, &noise).unwrap();
    noise
}

/// Of the only content that comes now.
pub(super) fn part(coordinator: &Node) -> Option<PathBuf> {
    fs::read_dir(coordinator.state_dir().join("media/parts")).ok()?.flatten().map(|entry| entry.path()).next()
}

fn content(node: &Node, dir: &str, hash: &[u8; 32]) -> PathBuf {
    let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    node.state_dir().join(dir).join(&name[..2]).join(&name)
}

/// A house whose camera hands over a clip of which the coordinator, stopped by a signal, has a part. The part's file is open.
async fn house_with_half_a_clip() -> (House, [u8; 32], File) {
    let house = House::with_cameras(["porch"]).await;
    let file = house.dir().join("clip.mp4");
    let bytes = noise(&file, CLIP, 1);
    good(clip(house.camera("porch"), "7", &file));
    let mut half = None;
    within(Duration::from_secs(60), "a part of the clip is there", async || {
        let Some(path) = part(&house.coordinator) else { return false };
        house.coordinator.signal(Signal::SIGSTOP);
        let open = File::open(&path).ok();
        let length = open.as_ref().map_or(0, |file| file.metadata().unwrap().len());
        if (1..CLIP as u64).contains(&length) {
            half = open;
            return true;
        }
        house.coordinator.signal(Signal::SIGCONT);
        false
    })
    .await;
    (house, hash(&bytes), half.unwrap())
}

/// All of it came, and it is the very file of which a part was there before.
pub(super) async fn goes_on(house: &House, hash: &[u8; 32], half: &File, length: usize) {
    let events = house.has_events(1).await;
    assert_eq!(events[0].attachments.len(), 1);
    let path = content(&house.coordinator, "media", hash);
    let whole = File::open(&path).unwrap();
    assert_eq!(whole.metadata().unwrap().len(), length as u64);
    assert_eq!(super::crashes::hash(&fs::read(path).unwrap()), *hash);
    assert_eq!(whole.metadata().unwrap().ino(), half.metadata().unwrap().ino(), "it did not begin anew");
    let porch = house.camera("porch");
    eventually("nothing waits on the camera", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 0)).await;
    assert!(part(&house.coordinator).is_none());
}

#[tokio::test]
async fn a_clip_of_which_a_part_came_before_the_coordinator_died_goes_on_where_it_was() {
    let (house, hash, half) = house_with_half_a_clip().await;
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    goes_on(&house, &hash, &half, CLIP).await;
}

#[tokio::test]
async fn a_clip_goes_on_when_the_camera_dies_in_the_midst_of_it() {
    let (house, hash, half) = house_with_half_a_clip().await;
    let porch = house.camera("porch");
    porch.sigkill().await;
    house.coordinator.signal(Signal::SIGCONT);
    porch.start();
    goes_on(&house, &hash, &half, CLIP).await;
}

#[tokio::test]
async fn a_coordinator_that_hangs_in_the_midst_of_a_clip_gets_the_rest_of_it() {
    let (house, hash, half) = house_with_half_a_clip().await;
    let there = half.metadata().unwrap().len();
    throughout(Duration::from_secs(3), "nothing comes to whoever hangs", async || half.metadata().unwrap().len() == there).await;
    house.coordinator.signal(Signal::SIGCONT);
    goes_on(&house, &hash, &half, CLIP).await;
}

#[tokio::test]
async fn a_coordinator_that_hangs_until_its_link_is_given_up_gets_the_rest_of_a_clip() {
    let (house, hash, half) = house_with_half_a_clip().await;
    let porch = house.camera("porch");
    eventually("the camera gives it up", async || porch.camera_status().await.is_some_and(|status| status.linked.is_none())).await;
    house.coordinator.signal(Signal::SIGCONT);
    goes_on(&house, &hash, &half, CLIP).await;
}

#[tokio::test]
async fn what_is_left_of_an_event_that_went_meanwhile_is_forgotten_at_once_by_its_camera() {
    let (house, hash, half) = house_with_half_a_clip().await;
    let store = Events::open(&house.coordinator.state_dir()).await.unwrap().events;
    let event = store.events(&EventFilter { limit: 1, ..EventFilter::default() }).await.unwrap().remove(0);
    store.delete_event(event.id, event.began).await.unwrap();
    house.coordinator.signal(Signal::SIGCONT);
    let porch = house.camera("porch");
    within(Duration::from_secs(20), "the camera has nothing to bring", async || {
        half.metadata().unwrap().len() == CLIP as u64 && porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 0)
    })
    .await;
    let outbox = porch.camera_status().await.unwrap().outbox;
    assert_eq!((outbox.lost, outbox.refused), (0, 0));
    assert!(house.events().await.is_empty(), "it does not come back");
    assert!(!content(&house.coordinator, "media", &hash).exists() && part(&house.coordinator).is_none(), "nor does its clip stay");
    assert!(!house.coordinator.told("cannot be kept") && !house.coordinator.told("nobody told of it"));
    store.close().await;
}

#[tokio::test]
async fn what_is_spoiled_on_the_cameras_disk_is_told_and_holds_up_nothing_else() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    house.coordinator.sigkill().await;
    // More than are sent at once, clips first in line and pictures too.
    let mut spoiled = Vec::new();
    for nth in 0..10_u8 {
        let file = jpeg(house.dir(), format!("bad-{nth}.jpg").as_bytes(), nth);
        good(picture(porch, &format!("bad-{nth}"), "5", &file));
        spoiled.push(hash(&fs::read(&file).unwrap()));
    }
    let file = house.dir().join("bad.mp4");
    spoiled.push(hash(&noise(&file, 300_000, 2)));
    good(clip(porch, "bad-0", &file));
    for nth in 0..3_u8 {
        let file = house.dir().join(format!("good-{nth}.mp4"));
        noise(&file, 300_000, 10 + u64::from(nth));
        good(clip(porch, &format!("good-{nth}"), &file));
        good(picture(porch, &format!("good-{nth}"), "5", &jpeg(house.dir(), format!("good-{nth}.jpg").as_bytes(), 100 + nth)));
    }
    for hash in &spoiled {
        let path = content(porch, "outbox", hash);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    house.coordinator.start();
    house.answers().await;
    let whole = async || {
        let events = house.events().await;
        events.iter().flat_map(|event| &event.attachments).filter(|known| known.kept_at.is_some()).count()
    };
    eventually("what is good is there", async || whole().await == 6).await;
    within(Duration::from_secs(90), "what is not is counted as lost, and nothing waits", async || {
        let outbox = porch.camera_status().await.unwrap().outbox;
        outbox.lost == spoiled.len() as u64 && outbox.waiting == 0
    })
    .await;
    assert_eq!(house.events().await.len(), 13, "the events are there all the same");
    assert_eq!(porch.lines_with("is spoiled"), spoiled.len(), "each is told once");
    let refused = "its content does not have the hash that was announced";
    assert!((1..=spoiled.len()).contains(&house.coordinator.lines_with(refused)), "nobody sent it again and again");
}
