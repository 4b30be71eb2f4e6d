//! The real Motion on a real video: starts when the house is armed, watches, is started again when it dies, and ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::event::StoredEvent;
use dms3_core::event::{AttachmentKind, EventKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::skip::skipped;
use crate::harness::{House, MjpegCamera, Node, Scene, eventually, throughout, within};

/// The processes that were started with this motion.conf.
fn motions(conf: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word == conf.as_os_str().as_encoded_bytes()) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// A few seconds of a box that moves before a still wall; Motion plays a file over and over.
fn video(dir: &Path) -> PathBuf {
    let path = dir.join("garden.mp4");
    let out = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "lavfi", "-i", "color=gray:size=320x240:rate=10:duration=12"])
        .args(["-f", "lavfi", "-i", "color=white:size=60x60:rate=10:duration=12"])
        .args(["-filter_complex", "overlay=x='if(gte(t,6),40*(t-6),-100)':y=90", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    path
}

#[tokio::test]
async fn motion_watches_a_video_while_the_house_is_armed_and_is_started_again_when_it_dies() {
    for program in ["motion", "ffmpeg"] {
        if Command::new(program).arg("-h").output().is_err() {
            return skipped("motion", program, "needs motion and ffmpeg");
        }
    }
    let mut house = House::new().await;
    house.disarm().await;
    let url = format!("file://{}", video(house.dir()).display());
    let sections = format!(
        "[mesh]\nmdns = \"loopback\"\nmdns_port = {}\n[[camera.detector]]\nname = \"garden\"\nurl = {url:?}\nwidth = 320\nheight = 240\nframerate = 10\nthreshold = 500\n",
        house.mdns_port.number()
    );
    let garden = Node::new(house.dir(), "garden", "camera", None, &sections);
    let word = house.token(&["--name", "garden"]).await;
    garden.cli_with(&["enroll", "-"], &word).await.good();
    garden.start();
    let conf = garden.run_dir().join("detector/garden/motion.conf");

    house.arm().await;
    eventually("Motion is seen to watch", async || house.coordinator.cli(&["status"]).await.good().contains("1 of 1 watching.")).await;
    assert!(garden.line_with_all(&["the detector is watching, ", " s after its start"]), "and how long that took is told");
    let first = motions(&conf);
    assert_eq!(first.len(), 1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", first[0])).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "it has no capability: {status}");
    eventually("a picture of what moved is on the camera's disk", async || {
        let media = std::fs::read_dir(garden.state_dir().join("media/garden")).into_iter().flatten().flatten();
        media.into_iter().any(|file| file.path().extension().is_some_and(|extension| extension == "jpg"))
    })
    .await;

    let before = house.standing().await;
    kill(first[0], Signal::SIGKILL).unwrap();
    eventually("its death is told", async || garden.told("the detector does not watch: Motion was ended by signal 9 (SIGKILL)")).await;
    eventually("another one watches", async || {
        motions(&conf).first().is_some_and(|now| *now != first[0])
            && house.view("garden").await.is_some_and(|garden| garden.detectors.iter().all(|detector| detector.phase == "watching"))
    })
    .await;

    assert_eq!(house.standing().await, before, "the house is what it was");

    house.disarm().await;
    eventually("Motion ends", async || motions(&conf).is_empty()).await;
    assert_eq!(house.look().await.unwrap().state, ArmState::Disarmed);

    // A node that dies leaves no Motion behind.
    house.arm().await;
    eventually("Motion runs", async || motions(&conf).len() == 1).await;
    garden.sigkill().await;
    eventually("Motion is gone with its node", async || motions(&conf).is_empty()).await;
    house.cameras.clear();
}

/// A camera node of this house that is paired and runs. `detectors`: what makes its `[[camera.detector]]` different.
async fn garden(house: &House, camera: &MjpegCamera, detectors: &[&str]) -> Node {
    let mut sections = format!(
        "[mesh]\nmdns = \"loopback\"\nmdns_port = {}\n[camera]\nspool_dir = {:?}\n",
        house.mdns_port.number(),
        house.dir().join("spool")
    );
    for detector in detectors {
        sections += &format!(
            "[[camera.detector]]\n{detector}\nurl = {:?}\nwidth = 320\nheight = 240\nframerate = 10\nthreshold = 500\n",
            camera.url()
        );
    }
    let garden = Node::new(house.dir(), "garden", "camera", None, &sections);
    let word = house.token(&["--name", "garden"]).await;
    garden.cli_with(&["enroll", "-"], &word).await.good();
    garden.start();
    let all = format!("{0} of {0} watching.", detectors.len());
    eventually("Motion is seen to watch", async || house.coordinator.cli(&["status"]).await.good().contains(&all)).await;
    garden
}

/// What the store holds of this source.
async fn events_of(house: &House, source: &str) -> Vec<StoredEvent> {
    let said = house.coordinator.cli(&["events", "--json", "--since", "1000d"]).await.good();
    let events: Vec<StoredEvent> = serde_json::from_str(&said).unwrap();
    events.into_iter().filter(|event| event.source == source).collect()
}

/// Names of pictures and clips.
fn media(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn what_moves_before_the_real_motion_is_in_the_store_with_a_picture_and_then_a_clip() {
    if Command::new("motion").arg("-h").output().is_err() {
        return skipped("motion", "motion", "needs motion");
    }
    let house = House::new().await;
    let camera = MjpegCamera::start().await;
    // The files of one are ours, those of the other the user's.
    let theirs = house.dir().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let garden = garden(&house, &camera, &["name = \"garden\"", &format!("name = \"street\"\nmedia_dir = {theirs:?}")]).await;

    camera.shows(Scene::Moving);
    for source in ["garden", "street"] {
        eventually(&format!("the picture of {source} came while it moves"), async || {
            events_of(&house, source).await.iter().any(|event| {
                let picture = event.attachments.first();
                event.ended.is_none()
                    && picture.is_some_and(|known| known.attachment.kind == AttachmentKind::Picture && known.kept_at.is_some())
            })
        })
        .await;
    }
    camera.shows(Scene::Still);
    for source in ["garden", "street"] {
        eventually(&format!("the clip of {source} followed"), async || {
            events_of(&house, source).await.iter().all(|event| {
                let kinds: Vec<_> =
                    event.attachments.iter().filter(|known| known.kept_at.is_some()).map(|known| known.attachment.kind).collect();
                event.ended.is_some() && kinds == [AttachmentKind::Picture, AttachmentKind::Clip]
            })
        })
        .await;
        for event in events_of(&house, source).await {
            assert_eq!((event.kind, event.camera.as_str()), (EventKind::Movement, "garden"));
            assert!(event.changed.is_some_and(|changed| changed > 0), "{event:?}");
        }
    }
    let ours = garden.state_dir().join("media/garden");
    eventually("what is kept is not left behind a second time", async || media(&ours).is_empty()).await;
    let kept: usize = events_of(&house, "street").await.iter().map(|event| event.attachments.len()).sum();
    assert_eq!(media(&theirs).len(), kept, "what is the user's is left to him");
}

#[tokio::test]
async fn a_network_camera_that_goes_away_is_told_and_so_is_its_return() {
    if Command::new("motion").arg("-h").output().is_err() {
        return skipped("motion", "motion", "needs motion");
    }
    let house = House::new().await;
    let camera = MjpegCamera::start().await;
    let _garden = garden(&house, &camera, &["name = \"garden\""]).await;
    let has = async |kind| events_of(&house, "garden").await.iter().filter(|event| event.kind == kind).count() == 1;
    // First it hangs, which looks the same from afar, then it hangs up.
    camera.shows(Scene::Frozen);
    throughout(Duration::from_secs(2), "nothing is told yet", async || events_of(&house, "garden").await.is_empty()).await;
    camera.shows(Scene::Gone);
    // Motion says so after 31 to 41 s.
    within(Duration::from_secs(60), "the loss is in the store", async || has(EventKind::CameraLost).await).await;
    camera.shows(Scene::Still);
    within(Duration::from_secs(60), "the return is in the store", async || has(EventKind::CameraFound).await).await;
    assert!(has(EventKind::CameraLost).await, "and the loss was told once");
}
