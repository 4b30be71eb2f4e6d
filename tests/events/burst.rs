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

use dms3_core::alerting::{AlertPolicy, Effect, Input, Rule, Settings};
use dms3_core::time::{Mono, Now, Timestamp};
use dms3_node::store::mails::Mails;
use mail_parser::MessageParser;
use tokio::process::Command;

use super::crashes::{found, hands_all_over, hash, of_env, stored};
use crate::harness::smtp::MailServer;
use crate::harness::{BINARY, Camera, House, within};
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
        told_in(&server.mails()) + told_later(&house).await >= events
    })
    .await;
    house.coordinator.stop().await;
    let mut found = found(&house).await;
    for hash in &kept {
        assert_eq!(found.remove(hash), Some(1), "each is there, once");
    }
    assert!(found.is_empty(), "and nothing else");
    let events = stored(&house).await.len();
    assert!((pictures.div_ceil(EACH)..=pictures).contains(&events), "{events} events");

    let mails = server.mails();
    let (told, later) = (told_in(&mails), told_later(&house).await);
    eprintln!("{events} events: {} mails tell of {told}, the next ones of {later}", mails.len());
    assert!(mails.len() <= CAP, "{} mails", mails.len());
    assert_eq!(told + later, events, "{told} were mailed and {later} will be");
    for (what, kib) in peaks {
        assert!(kib <= MEMORY_KIB, "{what}: {kib} KiB");
    }
}

/// Movements that the mails tell of. Between any two that are about movements lies the cooldown; one about a fault may come at any time, and
/// counts what was held back.
fn told_in(mails: &[String]) -> usize {
    let mut told = 0;
    let mut last: Option<i64> = None;
    for mail in mails {
        let mail = MessageParser::default().parse(mail.as_bytes()).unwrap();
        let (subject, text) = (mail.subject().unwrap(), mail.body_text(0).unwrap());
        // "3 alerts were held back since"
        let words: Vec<_> = text.split_whitespace().collect();
        told +=
            words.windows(5).filter(|words| words[3..] == ["held", "back"]).map(|words| words[0].parse::<usize>().unwrap()).sum::<usize>();
        let about_movements = match subject.split_once(" more in ") {
            Some((before, _)) => before.rsplit(' ').next().unwrap().parse().unwrap(),
            None => usize::from(subject.contains("saw movement")),
        };
        if about_movements == 0 {
            continue;
        }
        let at = mail.date().unwrap().to_timestamp();
        assert!(last.is_none_or(|last| at - last >= COOLDOWN.as_secs().cast_signed() - 1), "{subject}: too soon");
        last = Some(at);
        told += about_movements;
    }
    told
}

/// Movements that the mails of the next hours will tell of, by the rules that the house goes by.
async fn told_later(house: &House) -> usize {
    let (mails, _) = Mails::open(&house.coordinator.state_dir()).await.unwrap();
    let memory = mails.memory().await.unwrap().expect("the rules remember");
    let usual = Rule { cooldown: COOLDOWN, ..Rule::default() };
    let settings = Settings { recipients: vec!["anna@example.org".to_owned()], cap: CAP as u32, usual, ..Settings::default() };
    let now = |hours: u64| Now { at: Timestamp(hours * 3_600_000), mono: Mono(hours * 3_600_000), trusted: true };
    let mut policy = AlertPolicy::restore(settings, memory, now(0));
    let mut told = 0;
    for hour in 1..10 {
        for effect in policy.handle(Input::Tick, now(hour)) {
            let (movements, held_back) = match effect {
                Effect::EventMail { held_back, .. } => (1, held_back),
                Effect::Digest(digest) => (digest.movements.len() + digest.more as usize, digest.held_back),
                Effect::FaultMail { held_back, .. } | Effect::ClipMail { held_back, .. } => (0, held_back),
                Effect::Arrived { .. } => (0, None),
            };
            told += movements + held_back.map_or(0, |held| held.events as usize);
        }
    }
    told
}

/// The most memory that the process ever had.
pub(super) fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
