//! Hooks of `scripts/bench`: as processes one by one, and many at once in the place of processes.

use std::fs::File;
use std::io::{IoSlice, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::event::Said;
use dms3_core::request::Request;
use dms3_node::clock::wall;
use dms3_node::control;
use dms3_node::hook::{Answer, Call, SOCKET, encode};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use rand::{Rng as _, RngCore as _};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::task::{JoinSet, spawn_blocking};

/// Hooks of one camera at once.
const AT_ONCE: usize = 3;
/// Events that wait on a camera; more are not handed in, so that what is measured is what arrives.
const WAITING: u64 = 100;
/// Between two hooks that are measured by themselves.
const REST: Duration = Duration::from_millis(40);
/// A clip is long, a busy disk slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the node's hook with a picture that nobody has seen yet, and `true` the same way: milliseconds of each, and when it began.
pub(super) fn hooks(node: &str, run_dir: &Path, picture: &Path, times: u32) -> Result<()> {
    let bytes = std::fs::read(picture)?;
    let file = picture.with_extension("now.png");
    let run = |command: &mut Command| -> Result<f64> {
        let began = Instant::now();
        let ended = command.stdin(Stdio::null()).status()?;
        ensure!(ended.success(), "{command:?} ended with {ended}");
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    };
    for nth in 0..times {
        std::fs::write(&file, unseen(&bytes))?;
        let bare = run(&mut Command::new("true"))?;
        std::thread::sleep(REST);
        let began = std::time::UNIX_EPOCH.elapsed()?.as_micros();
        let hook = run(Command::new(node)
            .args(["hook", "picture", "--kind", "2", "--event", &format!("bench-{nth}"), "--file"])
            .arg(&file)
            .arg("--run-dir")
            .arg(run_dir)
            .args(["--spool", "/nonexistent"]))?;
        super::say(&format!("{{\"true_ms\": {bare}, \"hook_ms\": {hook}, \"began_us\": {began}}}"));
        std::thread::sleep(REST);
    }
    Ok(())
}

/// Writes a JPEG as a camera's, 1280 x 720 and `bytes` long or a little longer: light from one side, and noise of which a better one keeps more.
pub(super) fn jpeg(path: &Path, bytes: usize) -> Result<()> {
    let mut random = rand::rng();
    let picture = RgbImage::from_fn(1280, 720, |x, y| {
        let light = (x / 8 + y / 12) as u8;
        Rgb([0, 20, 40].map(|shade| light.saturating_add(shade + random.random_range(0..16))))
    });
    for quality in 1..=100 {
        let mut made = Vec::new();
        JpegEncoder::new_with_quality(&mut made, quality).encode_image(&picture)?;
        if made.len() >= bytes {
            return Ok(std::fs::write(path, made)?);
        }
    }
    bail!("no quality makes this picture so long")
}

/// Does what a line asks: `feed COUNT SECONDS PICTURE` (events with a picture each, at the first cameras, as fast as they get away) or
/// `clip CAMERA MEGABYTES`.
pub(super) async fn ask(dir: &Path, line: &str) -> Result<String> {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["feed", count, secs, picture] => {
            let (count, until) = (count.parse::<usize>()?, Instant::now() + Duration::from_secs(secs.parse()?));
            let picture: Arc<[u8]> = std::fs::read(picture)?.into();
            let mut feeding = JoinSet::new();
            for camera in 0..count {
                feeding.spawn(feed(dir.join(format!("{camera}")), picture.clone(), until));
            }
            let mut handed_in = 0;
            while let Some(fed) = feeding.join_next().await {
                handed_in += fed??;
            }
            Ok(format!("fed {handed_in}"))
        }
        ["clip", camera, megabytes] => {
            let (run_dir, length) = (dir.join(camera), megabytes.parse::<usize>()? * 1_000_000);
            spawn_blocking(move || {
                let mut bytes = vec![0; length];
                rand::rng().fill_bytes(&mut bytes);
                hand_in(&run_dir, Said::Movie, "clip.mp4", &bytes)
            })
            .await??;
            Ok("handed in".to_owned())
        }
        _ => bail!("this is not understood"),
    }
}

async fn feed(run_dir: PathBuf, picture: Arc<[u8]>, until: Instant) -> Result<u64> {
    let mut handed_in = 0;
    while Instant::now() < until {
        let waiting = match control::ask(&run_dir.join("control.sock"), &Request::Status).await? {
            dms3_core::request::Answer::Camera(camera) => camera.outbox.waiting,
            other => bail!("a camera answers {other:?}"),
        };
        if waiting >= WAITING {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let mut hooks = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (run_dir, picture) = (run_dir.clone(), picture.clone());
            hooks.spawn_blocking(move || hand_in(&run_dir, Said::Snapshot, "picture.png", &unseen(&picture)));
        }
        while let Some(done) = hooks.join_next().await {
            done??;
            handed_in += 1;
        }
    }
    Ok(handed_in)
}

/// What follows the end of a picture no program looks at; its hash is another.
fn unseen(picture: &[u8]) -> Vec<u8> {
    let mut end = [0; 16];
    rand::rng().fill_bytes(&mut end);
    [picture, &end].concat()
}

/// As the hook does, without a process of its own.
fn hand_in(run_dir: &Path, said: Said, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = File::from(memfd_create("bench", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    let call = Call { said, event: None, camera: None, pixels: None, at: None, called: wall(), file: Some(name.into()) };
    let mut stream = UnixStream::connect(run_dir.join(SOCKET)).context("no hook socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptor = [file.as_fd()];
    ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptor)), "no room for the descriptor");
    let frame = encode(&call)?;
    let sent = sendmsg(&stream, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(frame.get(sent..).unwrap_or_default())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut text = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut text)?;
    match serde_json::from_slice(&text)? {
        Answer::Kept { .. } => Ok(()),
        other => bail!("the camera answers {other:?}"),
    }
}
