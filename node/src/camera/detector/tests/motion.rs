//! The real Motion on a real video.

use super::super::port::MotionPort;
use super::*;

/// Something that Motion can watch: still for six seconds, then a square that moves for six, then still again; 320x240, 10 a second.
fn make_video(path: &Path) {
    let scene = "color=c=gray:s=320x240:r=10:d=18";
    let square = "color=c=white:s=60x60:r=10:d=18";
    let moves = "[0][1]overlay=x='if(between(t,6,12),20+mod((t-6)*60,220),-100)':y=90:shortest=1";
    let status = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-y", "-f", "lavfi", "-i", scene, "-f", "lavfi", "-i", square])
        .args(["-filter_complex", moves, "-pix_fmt", "yuv420p", "-g", "10"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

/// False, said aloud, where Motion is not installed; in CI that is a failure.
fn installed() -> bool {
    let missing: Vec<_> = ["motion", "ffmpeg"]
        .into_iter()
        .filter(|program| Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err())
        .collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "not installed: {missing:?}");
    eprintln!("SKIPPED, nothing was tested: {} not installed (apt install motion ffmpeg)", missing.join(" and "));
    false
}

/// A directory with a video in it; `None` where Motion is not installed.
fn scene() -> Option<(TempDir, PathBuf)> {
    installed().then(|| {
        let dir = tempfile::tempdir().unwrap();
        let video = dir.path().join("scene.mp4");
        make_video(&video);
        (dir, video)
    })
}

fn on(video: &Path, more: &str) -> String {
    format!("url = \"file://{}\"\nwidth = 320\nheight = 240\nframerate = 10\n{more}", video.display())
}

fn with_ending(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == ending)).collect()
}

/// The process that Motion runs in, by what was noted of it.
fn noted_pid(dir: &Path) -> u32 {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("state/detector/cam/process")).unwrap()).unwrap();
    u32::try_from(record["child"]["pid"].as_u64().unwrap()).unwrap()
}

fn webcontrol(conf: &Path) -> MotionPort {
    let text = fs::read_to_string(conf).unwrap();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    MotionPort { port: value("webcontrol_port ").parse().unwrap(), login: Some(value("webcontrol_authentication ")) }
}

#[tokio::test]
async fn motion_watches_sees_what_moves_and_ends_cleanly() {
    let Some((dir, video)) = scene() else { return };
    let mut source = Source::with(dir, &on(&video, ""));
    source.told(true);
    source.is(DetectorPhase::Starting).await;
    let began = Instant::now();
    source.is(DetectorPhase::Watching).await;
    let after = began.elapsed();
    assert!(after > Duration::from_secs(4), "watching was claimed after {after:?}, when Motion cannot detect yet");

    let media = source.dir.path().join("state/media/cam");
    eventually("a picture of what moved", || !with_ending(&media, "jpg").is_empty()).await;
    let pid = noted_pid(source.dir.path());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.starts_with("Name:\tmotion") && status.contains("CapEff:\t0000000000000000"), "{status}");

    let began = Instant::now();
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(began.elapsed() < Duration::from_secs(9), "it had to be killed");
    assert!(!lives(pid));
    let clip = with_ending(&media, "mp4").pop().expect("no clip");
    let readable = Command::new("ffprobe").args(["-v", "error"]).arg(&clip).output().unwrap();
    assert!(readable.status.success(), "the clip was not finished: {}", String::from_utf8_lossy(&readable.stderr));
    source.ends().await;
}

#[tokio::test]
async fn motion_behind_a_wrapper_is_ours_and_a_strangers_motion_is_not() {
    let Some((dir, video)) = scene() else { return };
    let wrapper = dir.path().join("libcamerify");
    fs::write(&wrapper, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let conf = dir.path().join("theirs.conf");
    let theirs = format!("netcam_url file://{}\nwidth 320\nheight 240\ntarget_dir {}\n", video.display(), dir.path().display());
    fs::write(&conf, theirs).unwrap();
    let mut stranger = Command::new("motion");
    stranger.args(["-n", "-c"]).arg(&conf).stdout(Stdio::null()).stderr(Stdio::null());
    let stranger = Stranger(stranger.spawn().unwrap());

    // As one string, as the documentation of the Pi's cameras has it.
    let mut source = Source::with(dir, &on(&video, &format!("command = \"{} motion\"", wrapper.display())));
    source.told(true);
    source.is(DetectorPhase::Watching).await;
    let pid = noted_pid(source.dir.path());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "motion\n");
    send(pid, Signal::SIGKILL);
    source.says(DetectorPhase::Failed, "signal 9").await;
    source.is(DetectorPhase::Watching).await;
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(!lives(pid) && !lives(noted_pid(source.dir.path())));
    assert!(lives(stranger.0.id()), "a stranger's Motion was ended");
    source.ends().await;
}

#[tokio::test]
async fn a_motion_without_a_picture_does_not_watch_until_it_has_one() {
    if !installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("scene.mp4");
    let mut source = Source::with(dir, &on(&video, ""));
    source.told(true);
    source.says(DetectorPhase::Failed, "Motion runs, but gets no picture from file:///").await;
    source.says(DetectorPhase::Failed, "No such file or directory").await;
    let pid = noted_pid(source.dir.path());
    let whole = source.dir.path().join("whole.mp4");
    make_video(&whole);
    fs::rename(&whole, &video).unwrap();
    source.is(DetectorPhase::Watching).await;
    assert_eq!(noted_pid(source.dir.path()), pid, "Motion tries again by itself");
    source.ends().await;
}

#[tokio::test]
async fn a_motion_that_somebody_paused_does_not_watch() {
    let Some((dir, video)) = scene() else { return };
    let mut source = Source::with(dir, &on(&video, ""));
    source.told(true);
    source.is(DetectorPhase::Watching).await;
    let motion = webcontrol(&source.dir.path().join("run/detector/cam/motion.conf"));
    let stranger = MotionPort { login: None, ..motion.clone() };
    assert!(stranger.get("/0/detection/pause").await.unwrap().contains(" 401 "));
    motion.get("/0/detection/pause").await.unwrap();
    source.says(DetectorPhase::Failed, "paused its detection").await;
    motion.get("/0/detection/start").await.unwrap();
    source.is(DetectorPhase::Watching).await;
    source.ends().await;
}

#[tokio::test]
async fn a_motion_with_the_users_own_config_watches_too() {
    let Some((dir, video)) = scene() else { return };
    let own = dir.path().join("own.conf");
    let media = dir.path().display();
    fs::write(&own, format!("daemon on\nnetcam_url file://{}\nwidth 320\nheight 240\ntarget_dir {media}\n", video.display())).unwrap();
    let mut source = Source::with(dir, &format!("config = {own:?}"));
    source.told(true);
    source.is(DetectorPhase::Watching).await;
    let pid = noted_pid(source.dir.path());
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(!lives(pid));
    source.ends().await;
}

/// A JPEG that can be read, of the right size.
fn is_picture(seen: &[u8]) -> bool {
    image::load_from_memory(seen).is_ok_and(|picture| (picture.width(), picture.height()) == (320, 240))
}

#[tokio::test]
async fn somebody_who_looks_sees_what_motion_sees_while_it_watches_and_nothing_after() {
    let Some((dir, video)) = scene() else { return };
    let mut source = Source::with(dir, &on(&video, ""));
    assert_eq!(source.seen().await, Err("it is off while it does not watch".to_owned()));
    source.told(true);
    source.is(DetectorPhase::Watching).await;
    assert!(is_picture(&source.seen().await.unwrap()));
    let text = fs::read_to_string(source.dir.path().join("run/detector/cam/motion.conf")).unwrap();
    let port = text.lines().find_map(|line| line.strip_prefix("stream_port ")).unwrap().parse().unwrap();
    let stranger = MotionPort { port, login: None };
    assert!(stranger.get("/current").await.unwrap().contains(" 401 "), "other users of this machine see nothing");
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(source.seen().await.is_err());
    source.ends().await;
}

#[tokio::test]
async fn a_camera_that_may_always_be_looked_at_records_nothing_then_and_watches_at_once_when_it_is_told() {
    let Some((dir, video)) = scene() else { return };
    let extra = "live = \"always\"\nextra = { emulate_motion = true, snapshot_interval = 1 }";
    let mut source = Source::with(dir, &on(&video, extra));
    assert!(is_picture(&source.seen().await.unwrap()));
    assert_eq!(source.report.borrow().phase, DetectorPhase::Stopped.to_wire(), "showing is not watching");
    let record = source.dir.path().join("state/detector/cam/view-process");
    let shows = |record: &Path| -> u32 {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        u32::try_from(record["child"]["pid"].as_u64().unwrap()).unwrap()
    };
    let viewer = shows(&record);
    assert!(is_picture(&source.seen().await.unwrap()));
    assert_eq!(shows(&record), viewer, "the same one shows it again");
    assert!(with_ending(&source.dir.path().join("state/media/cam"), "jpg").is_empty(), "it recorded");

    source.told(true);
    // Whoever looks all the time keeps no detector from its camera.
    let looked_at = async {
        while source.report.borrow().phase == DetectorPhase::Stopped.to_wire() {
            drop(source.seen().await);
        }
    };
    tokio::time::timeout(LONG, looked_at).await.expect("it starts");
    source.is(DetectorPhase::Starting).await;
    assert!(!lives(viewer), "two programs would want the camera");
    source.is(DetectorPhase::Watching).await;
    assert!(is_picture(&source.seen().await.unwrap()));
    source.told(false);
    source.is(DetectorPhase::Stopped).await;
    assert!(is_picture(&source.seen().await.unwrap()));
    let viewer = shows(&record);
    source.ends().await;
    assert!(!lives(viewer), "it outlived its node");
}
