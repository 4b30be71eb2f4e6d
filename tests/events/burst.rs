//! A tree in the wind, or a Motion gone mad: more pictures than anybody wants, as fast as hooks can be called. None is lost, no memory grows,
//! and the family gets a few mails that count them all.
//!
//! `DMS3_BURST` says how many pictures (1000).

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dms3_node::store::mails::Mails;
use mail_parser::MessageParser;
use tokio::process::Command;

use super::crashes::{found, hands_all_over, hash, of_env, stored};
use super::telling::{Told, movements_in};
use crate::harness::smtp::MailServer;
use crate::harness::{BINARY, Camera, eventually, within};
use crate::mail::mailing_house;

/// Hooks that are called at the same time: Motion waits for none of them.
const CALLERS: usize = 16;
/// Pictures of one event.
const EACH: usize = 10;
/// What a node may take of the memory of a small Pi, whatever happens.
const MEMORY_KIB: u64 = 64 * 1024;
/// Mails of an hour; five of them are for faults alone.
const CAP: usize = 8;
const COOLDOWN: Duration = Duration::from_secs(6);

/// As large as one of a cheap camera, and as hard to pack.
fn picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let noise = image::RgbImage::from_fn(640, 480, |x, y| image::Rgb([(x * y / 64 % 251) as u8, (x / 3) as u8, (y / 2) as u8]));
    noise.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// One call, as Motion does it. Whether it ended with 0.
async fn call(camera: &Camera, dir: &Path, plain: &[u8], number: usize) -> Option<[u8; 32]> {
    let bytes = [plain, number.to_string().as_bytes()].concat();
    let file = dir.join(format!("{number}.jpg"));
    fs::write(&file, &bytes).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["hook", "picture", "--kind", "1", "--event", &(number / EACH).to_string(), "--camera", "cam", "--pixels", "5"]);
    command.arg("--file").arg(&file).arg("--run-dir").arg(camera.run_dir()).arg("--spool").arg(camera.spool_dir());
    let status = command.stdin(Stdio::null()).status().await.unwrap();
    fs::remove_file(file).unwrap();
    status.success().then(|| hash(&bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_burst_of_pictures_none_is_lost_the_mails_are_few_and_count_all_and_no_memory_grows() {
    let pictures = usize::try_from(of_env("DMS3_BURST").unwrap_or(1000)).unwrap();
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, &format!("hourly_cap = {CAP}\ncooldown = \"{}s\"", COOLDOWN.as_secs())).await;
    let porch = house.camera("porch");
    let before = house.standing().await;
    let plain = picture();
    let (next, kept, longest) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Duration::ZERO));
    let began = Instant::now();
    futures_util::future::join_all(
        std::iter::repeat_with(async || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pictures {
                    return;
                }
                let began = Instant::now();
                let told = call(porch, house.dir(), &plain, number).await;
                kept.lock().unwrap().extend(told);
                let mut longest = longest.lock().unwrap();
                *longest = longest.max(began.elapsed());
            }
        })
        .take(CALLERS),
    )
    .await;
    let called = began.elapsed();
    hands_all_over(porch, Duration::from_secs(60 + pictures as u64 / 10)).await;
    let over = began.elapsed();
    let peaks = [("camera", peak_kib(porch.pid())), ("coordinator", peak_kib(house.coordinator.pid()))];
    let longest = *longest.lock().unwrap();
    eprintln!(
        "{pictures} pictures of {} kB: called in {called:.1?} (the slowest hook {longest:.1?}), handed over after {over:.1?}, peaks {peaks:?} KiB",
        plain.len() / 1000
    );
    house.is_unharmed(before).await;
    let outbox = porch.camera_status().await.unwrap().outbox;
    assert_eq!((outbox.lost, outbox.refused), (0, 0));
    let kept = kept.into_inner().unwrap();
    assert_eq!(kept.len(), pictures, "every hook kept its picture");

    // However many come, each is looked at by the rules of mails; the last of them later than it is kept.
    within(Duration::from_secs(60), "the rules know of all", async || {
        let events = stored(&house).await.len();
        Told::by(&server.mails()).and_later(&house, CAP, COOLDOWN).await.movements() >= events
    })
    .await;
    // What was on its way when it was stopped goes out when it is back.
    loop {
        house.coordinator.stop().await;
        let (mails, _) = Mails::open(&house.coordinator.state_dir()).await.unwrap();
        if mails.counts().await.unwrap().waiting == 0 {
            break;
        }
        house.coordinator.start();
        eventually("no mail waits", async || house.look().await.and_then(|house| house.mail).is_some_and(|mail| mail.waiting == 0)).await;
    }
    let mut found = found(&house).await;
    for hash in &kept {
        assert_eq!(found.remove(hash), Some(1), "each is there, once");
    }
    assert!(found.is_empty(), "and nothing else");
    let events = stored(&house).await.len();
    assert!((pictures.div_ceil(EACH)..=pictures).contains(&events), "{events} events");

    let mails = server.mails();
    let told = Told::by(&mails);
    let mailed = told.movements();
    let all = told.and_later(&house, CAP, COOLDOWN).await.movements();
    eprintln!("{events} events: {} mails tell of {mailed}, those and the next ones of {all}", mails.len());
    assert!(mails.len() <= CAP, "{} mails", mails.len());
    keep_to_the_cooldown(&mails);
    assert_eq!(all, events, "{mailed} of them were mailed");
    for (what, kib) in peaks {
        assert!(kib <= MEMORY_KIB, "{what}: {kib} KiB");
    }
}

/// Between any two mails about movements lies the cooldown; one about a fault may come at any time, and counts what was held back.
fn keep_to_the_cooldown(mails: &[String]) {
    let mut last: Option<i64> = None;
    for mail in mails {
        let mail = MessageParser::default().parse(mail.as_bytes()).unwrap();
        if movements_in(&mail) == 0 {
            continue;
        }
        let at = mail.date().unwrap().to_timestamp();
        let is_late = last.is_none_or(|last| at - last >= COOLDOWN.as_secs().cast_signed() - 1);
        assert!(is_late, "{}: too soon", mail.subject().unwrap());
        last = Some(at);
    }
}

/// The most memory that the process ever had.
pub(super) fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
