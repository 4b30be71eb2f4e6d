//! Whatever is killed at whatever moment: what a hook was told is kept arrives, and once.
//!
//! `DMS3_CRASHES` says how many crashes (10), `DMS3_SEED` which ones; the order in which processes are run is theirs all the same.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dms3_node::store::events::{Events, Filter, MOST, StoredEvent};
use dms3_node::store::media::Media;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::process::Command;

use super::jpeg;
use crate::harness::{BINARY, Camera, House, eventually, within};

/// Hooks that are called at the same time.
const CALLERS: usize = 3;
/// What one caller has at least to tell while one thing is killed and started again.
const TOLD_EACH: usize = 20;

/// What became of the pictures that hooks were given.
#[derive(Debug, Default)]
struct Ledger {
    /// The hook ended with 0.
    kept: Mutex<Vec<[u8; 32]>>,
    /// It did not, or was killed: nobody knows.
    unknown: Mutex<Vec<[u8; 32]>>,
    number: AtomicUsize,
    /// Hooks of this number and above are killed.
    shoot: AtomicBool,
}

pub(super) fn of_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_picture_that_a_hook_was_told_is_kept_is_lost_or_doubled_whatever_is_killed() {
    let rounds = of_env("DMS3_CRASHES").unwrap_or(10);
    let seed = of_env("DMS3_SEED").unwrap_or_else(|| rand::random_range(0..1 << 32));
    eprintln!("DMS3_CRASHES={rounds} DMS3_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let ledger = Ledger::default();
    let plain = fs::read(jpeg(house.dir(), b"plain.jpg", 7)).unwrap();
    for round in 0..rounds {
        let callers: [u64; CALLERS] = std::array::from_fn(|_| random.random());
        let is_over = AtomicBool::new(false);
        let told = AtomicUsize::new(0);
        let calls = futures_util::future::join_all(callers.iter().map(|seed| {
            let (ledger, plain, is_over, told, dir) = (&ledger, &plain, &is_over, &told, house.dir());
            async move {
                let mut random = StdRng::seed_from_u64(*seed);
                let mut own = 0;
                while own < TOLD_EACH || !is_over.load(Ordering::Relaxed) {
                    call(porch, ledger, dir, plain, &mut random).await;
                    own += 1;
                    told.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        let crash = async {
            let after = random.random_range(1..CALLERS * TOLD_EACH / 2);
            let pause = Duration::from_micros(random.random_range(0..40_000));
            within(Duration::from_secs(60), "hooks end", async || told.load(Ordering::Relaxed) >= after).await;
            // Anywhere in what the next call does.
            tokio::time::sleep(pause).await;
            match random.random_range(0..5) {
                0 | 1 => {
                    porch.sigkill().await;
                    if random.random() {
                        // Hooks meanwhile find nobody.
                        let later = told.load(Ordering::Relaxed) + CALLERS;
                        within(Duration::from_secs(60), "hooks end", async || told.load(Ordering::Relaxed) >= later).await;
                    }
                    porch.start();
                }
                2 | 3 => {
                    house.coordinator.sigkill().await;
                    house.coordinator.start();
                }
                _ => ledger.shoot.store(true, Ordering::Relaxed),
            }
            is_over.store(true, Ordering::Relaxed);
        };
        tokio::join!(calls, crash);
        ledger.shoot.store(false, Ordering::Relaxed);
        eprintln!("{round}: {} kept, {} unknown", ledger.kept.lock().unwrap().len(), ledger.unknown.lock().unwrap().len());
    }
    house.answers().await;
    let (kept, unknown) = (ledger.kept.into_inner().unwrap(), ledger.unknown.into_inner().unwrap());
    hands_all_over(porch, Duration::from_secs(60 + kept.len() as u64 / 10)).await;
    let outbox = porch.camera_status().await.unwrap().outbox;
    assert_eq!((outbox.lost, outbox.refused), (0, 0));
    house.coordinator.stop().await;

    let found = found(&house).await;
    let lost = kept.iter().filter(|hash| !found.contains_key(*hash)).count();
    let doubled = found.values().filter(|times| **times > 1).count();
    assert_eq!((lost, doubled), (0, 0), "of {} kept and {} unknown", kept.len(), unknown.len());
    let foreign = found.keys().filter(|hash| !kept.contains(hash) && !unknown.contains(hash)).count();
    assert_eq!(foreign, 0, "nothing else is there");
    assert!(kept.len() as u64 >= rounds * (CALLERS * TOLD_EACH) as u64 / 2, "{} kept", kept.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hooks_tell_a_camera_that_hangs_is_kept_once() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let ledger = Ledger::default();
    let plain = fs::read(jpeg(house.dir(), b"plain.jpg", 7)).unwrap();
    porch.signal(Signal::SIGSTOP);
    // They wait a while for its answer and leave it in the spool; it hears them all the same when it goes on.
    let seeds: [u64; 12] = std::array::from_fn(|nth| nth as u64);
    futures_util::future::join_all(seeds.map(|seed| {
        let (ledger, plain, dir) = (&ledger, &plain, house.dir());
        async move { call(porch, ledger, dir, plain, &mut StdRng::seed_from_u64(seed)).await }
    }))
    .await;
    assert_eq!((ledger.kept.lock().unwrap().len(), calls_in(&porch.spool_dir()).len()), (seeds.len(), seeds.len()));
    porch.signal(Signal::SIGCONT);
    let whole = async || {
        let events = house.events().await;
        events.iter().flat_map(|event| &event.attachments).filter(|known| known.kept_at.is_some()).count()
    };
    eventually("all is handed over", async || {
        calls_in(&porch.spool_dir()).is_empty()
            && whole().await >= seeds.len()
            && porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 0)
    })
    .await;
    let mut hashes: Vec<_> =
        house.events().await.iter().flat_map(|event| event.attachments.clone()).map(|known| known.attachment.hash).collect();
    hashes.sort_unstable();
    let mut kept = ledger.kept.into_inner().unwrap();
    kept.sort_unstable();
    assert_eq!(hashes, kept, "each once");
}

/// One call of a hook with a picture that no other has: of its own event, of one that many share, of none that is named, a snapshot.
async fn call(porch: &Camera, ledger: &Ledger, dir: &Path, plain: &[u8], random: &mut StdRng) {
    let number = ledger.number.fetch_add(1, Ordering::Relaxed);
    let bytes = [plain, number.to_string().as_bytes()].concat();
    let file = dir.join(format!("{number}.jpg"));
    fs::write(&file, &bytes).unwrap();
    let mut command = Command::new(BINARY);
    let shared = format!("shared-{}", number / 20);
    match random.random_range(0..4) {
        0 => command.args(["hook", "picture", "--kind", "1", "--event", &number.to_string(), "--camera", "cam", "--file"]).arg(&file),
        1 => command.args(["hook", "picture", "--kind", "1", "--event", &shared, "--camera", "cam", "--pixels", "5", "--file"]).arg(&file),
        2 => command.args(["hook", "picture", "--kind", "2", "--camera", "cam", "--file"]).arg(&file),
        _ => command.args(["mail", "-pixels=7"]).arg(format!("-filename={}", file.display())),
    };
    command.arg("--run-dir").arg(porch.run_dir()).arg("--spool").arg(porch.spool_dir());
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    if ledger.shoot.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_micros(random.random_range(0..120_000))).await;
        // It may be over already.
        let _ = child.start_kill();
    }
    let status = child.wait().await.unwrap();
    let list = if status.success() { &ledger.kept } else { &ledger.unknown };
    list.lock().unwrap().push(hash(&bytes));
    fs::remove_file(file).unwrap();
}

/// Waits until nothing lies in the spool of the camera, and its coordinator has all of its outbox.
pub(super) async fn hands_all_over(camera: &Camera, time: Duration) {
    // What waits is counted twice a second, and not at all in the first moment of a node: it must stay so.
    let mut since: Option<Instant> = None;
    within(time, "all of it is handed over", async || {
        let spool = calls_in(&camera.spool_dir());
        let over = spool.is_empty() && camera.camera_status().await.is_some_and(|status| status.outbox.waiting == 0);
        since = if over { since.or(Some(Instant::now())) } else { None };
        since.is_some_and(|since| since.elapsed() > Duration::from_secs(2))
    })
    .await;
}

/// How often each content is in the store of the coordinator, which does not run. All are whole.
pub(super) async fn found(house: &House) -> HashMap<[u8; 32], usize> {
    let media = Media::open(&house.coordinator.state_dir().join("media")).unwrap();
    let mut found: HashMap<[u8; 32], usize> = HashMap::new();
    for event in stored(house).await {
        for known in event.attachments {
            assert!(known.kept_at.is_some(), "{:?} of event {} is not whole", known.attachment.name, event.id);
            let mut file = media.get(&known.attachment.hash).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            assert_eq!(hash(&bytes), known.attachment.hash, "{}", known.attachment.name);
            *found.entry(known.attachment.hash).or_default() += 1;
        }
    }
    found
}

/// Calls that nobody took yet.
fn calls_in(spool: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect()
}

/// All that the store of the coordinator holds.
pub(super) async fn stored(house: &House) -> Vec<StoredEvent> {
    let store = Events::open(&house.coordinator.state_dir()).await.unwrap().events;
    let mut all: Vec<StoredEvent> = Vec::new();
    loop {
        let before = all.last().map(StoredEvent::place);
        let page = store.events(&Filter { limit: MOST, before, ..Filter::default() }).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

pub(super) fn hash(bytes: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().try_into().unwrap()
}
