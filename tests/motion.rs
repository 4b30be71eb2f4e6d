//! The real Motion on a real video: starts when the house is armed, watches, is started again when it dies, and ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use dms3_core::arming::ArmState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::skip::skipped;
use crate::harness::{House, Node, eventually};

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
    let conf = garden.state_dir().join("detector/garden/motion.conf");

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
