//! Whatever is killed at whatever moment: what a hook was told is kept arrives, once, and the family is told of it.
//!
//! `DMS3_CRASHES` says how many crashes (10), `DMS3_SEED` which ones; the order in which processes are run is theirs all the same.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dms3_core::event::EventKind;
use dms3_core::event::StoredEvent;
use dms3_core::event::{EventFilter, MOST};
use dms3_core::id::EventId;
use dms3_node::store::events::Events;
use dms3_node::store::media::Media;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::process::Command;

use super::jpeg;
use super::telling::Told;
use crate::harness::smtp::{MailServer, header};
use crate::harness::{BINARY, Camera, House, eventually, within};
use crate::mail::mailing_house;

/// Hooks that are called at the same time.
const CALLERS: usize = 3;
/// Events, of which no other picture is: they flow while things are killed, and are kept at the end.
const EVENTS: usize = 1000;
/// Mails of an hour, as many as may be: nearly each movement of a thousand events has its own. What are more are held back and counted.
const CAP: usize = 1000;

/// What became of the pictures that hooks were given.
#[derive(Debug, Default)]
struct Ledger {
    /// The hook ended with 0.
    kept: Mutex<HashMap<[u8; 32], Of>>,
    /// It did not, or was killed: nobody knows.
    unknown: Mutex<HashMap<[u8; 32], Of>>,
    number: AtomicUsize,
    /// Of those that were kept, such that are events of their own.
    events: AtomicUsize,
    /// Hooks that are called now are killed.
    shoot: AtomicBool,
}

/// What a picture is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    Own,
    /// A movement that has others, too.
    Shared(usize),
    Unnamed,
    Snapshot,
}

pub(super) fn of_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_that_a_hook_was_told_is_kept_is_lost_or_doubled_or_kept_quiet_whatever_is_killed() {
    let rounds = usize::try_from(of_env("DMS3_CRASHES").unwrap_or(10)).unwrap();
    let seed = of_env("DMS3_SEED").unwrap_or_else(|| rand::random_range(0..1 << 32));
    eprintln!("DMS3_CRASHES={rounds} DMS3_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, &format!("hourly_cap = {CAP}\ncooldown = \"0s\"")).await;
    let porch = house.camera("porch");
    let ledger = Ledger::default();
    let mut cut_off = Vec::new();
    let plain = fs::read(jpeg(house.dir(), b"plain.jpg", 7)).unwrap();
    let began = Instant::now();
    for round in 0..rounds {
        let callers: [u64; CALLERS] = std::array::from_fn(|_| random.random());
        let is_over = AtomicBool::new(false);
        let told = AtomicUsize::new(0);
        let enough = EVENTS * (round + 1) / rounds;
        let calls = futures_util::future::join_all(callers.iter().map(|seed| {
            let (ledger, plain, is_over, told, dir) = (&ledger, &plain, &is_over, &told, house.dir());
            async move {
                let mut random = StdRng::seed_from_u64(*seed);
                while ledger.events.load(Ordering::Relaxed) < enough || !is_over.load(Ordering::Relaxed) {
                    call(porch, ledger, dir, plain, &mut random).await;
                    told.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        let crash = async {
            let after = random.random_range(1..=(EVENTS / rounds).div_ceil(2));
            let pause = Duration::from_micros(random.random_range(0..40_000));
            within(Duration::from_secs(60), "hooks end", async || told.load(Ordering::Relaxed) >= after).await;
            // Anywhere in what the next call does.
            tokio::time::sleep(pause).await;
            // Whatever the others are, one is between the mail that the server has and our note of it.
            match if round == 0 { 4 } else { random.random_range(0..6) } {
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
                4 => {
                    server.holds(true);
                    let before = server.taken();
                    within(Duration::from_secs(60), "a mail is there", async || server.taken() > before).await;
                    house.coordinator.sigkill().await;
                    cut_off.push(message_id(server.mails().last().unwrap()));
                    server.holds(false);
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
    let called = began.elapsed();
    house.answers().await;
    let (kept, unknown) = (ledger.kept.into_inner().unwrap(), ledger.unknown.into_inner().unwrap());
    hands_all_over(porch, Duration::from_secs(60 + kept.len() as u64 / 10)).await;
    let handed_over = began.elapsed();
    let outbox = porch.camera_status().await.unwrap().outbox;
    assert_eq!((outbox.lost, outbox.refused), (0, 0));

    let movements = movements(&stored(&house).await);
    let told = async || Told::by(&server.mails()).and_later(&house, CAP, Duration::ZERO).await;
    let mut last = (None, usize::MAX);
    within(Duration::from_secs(60 + movements.len() as u64 / 10), "everybody is told of every movement", async || {
        let waiting = house.look().await.and_then(|house| house.mail).map(|mail| mail.waiting);
        let lacks = told().await.lacks(&movements);
        let before = std::mem::replace(&mut last, (waiting, lacks));
        if before != last {
            eprintln!("{waiting:?} mails wait, {lacks} movements are not told of");
        }
        waiting == Some(0) && lacks == 0
    })
    .await;
    let mailed = began.elapsed();
    house.coordinator.stop().await;

    let found = found(&house).await;
    let lost = kept.keys().filter(|hash| !found.contains_key(*hash)).count();
    let doubled = found.values().filter(|times| **times > 1).count();
    assert_eq!((lost, doubled), (0, 0), "of {} kept and {} unknown", kept.len(), unknown.len());
    let foreign = found.keys().filter(|hash| !kept.contains_key(*hash) && !unknown.contains_key(*hash)).count();
    assert_eq!(foreign, 0, "nothing else is there");
    let events = stored(&house).await;
    assert!(events.len() >= EVENTS, "{} events", events.len());
    each_is_once(&events, &kept.into_iter().chain(unknown).collect());

    let (mails, told) = (server.mails(), told().await);
    assert_eq!(told.lacks(&movements), 0);
    let ids: BTreeSet<_> = events.iter().map(|event| event.id).collect();
    assert!(told.named.keys().all(|event| ids.contains(event)), "a mail tells of what nobody has");
    for id in &cut_off {
        assert!(mails.iter().filter(|mail| message_id(mail) == *id).count() > 1, "{id} was not noted as sent, and it is not sent again");
    }
    let twice = told.named.values().filter(|mails| **mails > 1).count();
    eprintln!(
        "{} events: {} movements, of which {} are named in {} mails and {} counted; doubles: {} mails came again, {twice} movements are in two; \
         called in {called:.1?}, handed over after {handed_over:.1?}, mailed after {mailed:.1?}",
        events.len(),
        movements.len(),
        told.named.len(),
        mails.len(),
        told.counted,
        told.repeated,
    );
}

/// Of a house that is armed people are told of each of these.
fn movements(events: &[StoredEvent]) -> BTreeSet<EventId> {
    events.iter().filter(|event| event.kind == EventKind::Movement).map(|event| event.id).collect()
}

fn message_id(mail: &str) -> String {
    header(mail, "Message-ID").unwrap()
}

/// No event is there twice: what belongs together is together, and nothing is there without its picture.
fn each_is_once(events: &[StoredEvent], pictures: &HashMap<[u8; 32], Of>) {
    let mut shared: HashMap<usize, HashSet<EventId>> = HashMap::new();
    for event in events {
        assert!(!event.attachments.is_empty(), "event {} is one half", event.id);
        for known in &event.attachments {
            let of = pictures[&known.attachment.hash];
            let kind = if of == Of::Snapshot { EventKind::Snapshot } else { EventKind::Movement };
            assert_eq!(event.kind, kind, "{of:?}");
            match of {
                Of::Own | Of::Snapshot => assert_eq!(event.attachments.len(), 1, "{of:?}"),
                Of::Shared(movement) => {
                    shared.entry(movement).or_default().insert(event.id);
                }
                Of::Unnamed => {}
            }
        }
    }
    for (movement, events) in shared {
        assert_eq!(events.len(), 1, "movement {movement} is there more than once");
    }
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
    let mut kept: Vec<_> = ledger.kept.into_inner().unwrap().into_keys().collect();
    kept.sort_unstable();
    assert_eq!(hashes, kept, "each once");
}

/// One call of a hook with a picture that no other has: of its own event, of one that many share, of none that is named, a snapshot.
async fn call(porch: &Camera, ledger: &Ledger, dir: &Path, plain: &[u8], random: &mut StdRng) {
    let number = ledger.number.fetch_add(1, Ordering::Relaxed);
    let bytes = [plain, number.to_string().as_bytes()].concat();
    let file = dir.join(format!("{number}.jpg"));
    fs::write(&file, &bytes).unwrap();
    let movement = number / 20;
    let of = match random.random_range(0..10) {
        0 => Of::Shared(movement),
        1 => Of::Unnamed,
        2 | 3 => Of::Snapshot,
        _ => Of::Own,
    };
    let mut command = Command::new(BINARY);
    let words = ["hook", "picture", "--camera", "cam", "--kind", if of == Of::Snapshot { "2" } else { "1" }, "--file"];
    match of {
        Of::Own => command.args(words).arg(&file).args(["--event", &number.to_string()]),
        Of::Shared(_) => command.args(words).arg(&file).args(["--event", &format!("shared-{movement}"), "--pixels", "5"]),
        Of::Snapshot => command.args(words).arg(&file),
        Of::Unnamed => command.args(["mail", "-pixels=7"]).arg(format!("-filename={}", file.display())),
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
    list.lock().unwrap().insert(hash(&bytes), of);
    if status.success() && matches!(of, Of::Own | Of::Snapshot) {
        ledger.events.fetch_add(1, Ordering::Relaxed);
    }
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
        let page = store.events(&EventFilter { limit: MOST, before, ..EventFilter::default() }).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

pub(super) fn hash(bytes: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().try_into().unwrap()
}
