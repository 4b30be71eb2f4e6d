//! A card that dies: each file of a node's state in turn is emptied, cut in half, or has a bit turned over. The node goes on as it should,
//! or it does not start and says in one sentence which file it is and what to do. It never comes back disarmed or as somebody else.
//!
//! `DMS3_TORN`: how many bits of each file are turned over, one after the other (1); `DMS3_SEED`: which ones.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use dms3_pki::Identity;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::events::{good, jpeg, picture};
use crate::harness::smtp::MailServer;
use crate::harness::{House, Node, Plan, eventually};

/// A camera that lost what it knew of its coordinator's port notices a restart by silence.
const JUDGED_WITHIN: Duration = Duration::from_secs(60);

/// What becomes of a node that finds such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Goes,
    Refuses,
    /// It depends on which part is damaged: a page of a database that nobody reads, a line break of a key.
    Either,
}
use Then::{Either, Goes, Refuses};

/// Beginnings of the paths of all files, and what becomes of the node when they are damaged. The first that fits counts.
const OF_A_COORDINATOR: &[(&str, Then)] = &[
    ("node.key", Either),
    ("identity", Refuses),
    ("ca/root.key", Goes),
    ("ca/", Either),
    // A journal, and what belongs to it: from the damage on it is dropped, and the cameras know better.
    ("store.db-", Goes),
    ("store.db", Either),
    // What must not keep a house from being guarded.
    ("events.db", Goes),
    ("mail.db", Goes),
    ("accounts.db", Goes),
    ("media/", Goes),
    ("web/", Goes),
    ("clock", Goes),
    ("lock", Goes),
    ("mesh.keys", Goes),
    ("last_nodes", Goes),
];
const OF_A_CAMERA: &[(&str, Then)] = &[
    ("node.key", Either),
    ("identity", Refuses),
    ("camera.state", Goes),
    ("outbox.db", Goes),
    ("mail.db", Goes),
    ("outbox/", Goes),
    ("detector/", Goes),
    ("clock", Goes),
    ("lock", Goes),
    ("mesh.keys", Goes),
    ("last_coordinator", Goes),
    ("name", Goes),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Emptied,
    Halved,
    Turned,
}

impl Damage {
    fn done_to(self, file: &Path, random: &mut StdRng) -> String {
        let length = fs::metadata(file).unwrap().len();
        let open = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
        match self {
            Self::Emptied => open.set_len(0).unwrap(),
            Self::Halved => open.set_len(length / 2).unwrap(),
            Self::Turned => {
                let (at, bit) = (random.random_range(0..length), random.random_range(0..8));
                let mut byte = [0];
                open.read_exact_at(&mut byte, at).unwrap();
                open.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
                return format!("bit {bit} of byte {at} of {length} turned over");
            }
        }
        format!("{self:?}")
    }
}

/// An armed house that has lived: disarmed and armed again, with an owner, an event that came and one that waits, a mail that waits.
async fn house_that_lived() -> House {
    let plan = Plan { web: Some(String::new()), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    let porch = house.camera("porch");
    // Nobody serves there.
    let server = MailServer::new();
    for node in [&house.coordinator, &porch.node] {
        node.configure(&server.section_kept_in(house.dir(), &node.name));
        node.restart().await;
    }
    house.answers().await;
    house.owner().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    good(picture(porch, "1", "5", &jpeg(house.dir(), b"1.jpg", 1)));
    house.has_events(1).await;
    eventually("its mail waits", async || house.look().await.is_some_and(|house| house.mail.is_some_and(|mail| mail.waiting > 0))).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

/// The files below a directory, from there.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut to_look) = (BTreeSet::new(), vec![dir.to_owned()]);
    while let Some(at) = to_look.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                to_look.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found
}

/// Damages one file after the other, and looks each time what becomes of the node that starts with it.
async fn all_are_damaged(house: &House, node: &Node, table: &[(&str, Then)], damage: Damage) {
    let of_env = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = of_env("DMS3_SEED").unwrap_or_else(|| rand::random_range(0..1 << 32));
    let times = if damage == Damage::Turned { of_env("DMS3_TORN").unwrap_or(1) } else { 1 };
    eprintln!("DMS3_TORN={times} DMS3_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (state, whole) = (node.state_dir(), house.dir().join("whole"));
    let identity = house.identity_of(node).node();
    if node.runs() {
        node.sigkill().await;
    }
    copy(&state, &whole);
    let all = files(&whole);
    for (name, _) in table {
        assert!(all.iter().any(|file| file.to_str().unwrap().starts_with(name)), "no file {name}: {all:?}");
    }
    for file in &all {
        let name = file.to_str().unwrap();
        let Some((_, then)) = table.iter().find(|(begin, _)| name.starts_with(begin)) else {
            panic!("what becomes of a node whose {name} is damaged? The table does not say")
        };
        if fs::metadata(whole.join(file)).unwrap().len() == 0 {
            continue;
        }
        for _ in 0..times {
            fs::remove_dir_all(&state).unwrap();
            copy(&whole, &state);
            let what = format!("{}: {name}: {}", node.name, damage.done_to(&state.join(file), &mut random));
            let logged = node.log().len();
            node.start();
            let goes = judged(house, node, &what).await;
            let log = node.log().split_off(logged);
            assert!(!log.contains("panicked"), "{what}: {log}");
            match goes {
                true => {
                    assert_ne!(*then, Refuses, "{what}: it should not have started");
                    assert_eq!(house.identity_of(node).node(), identity, "{what}: it is somebody else");
                    node.sigkill().await;
                }
                false => {
                    assert_ne!(*then, Goes, "{what}: it should have gone on: {log}");
                    let path = state.join(file);
                    // Of a database the file itself is named, and of a key the certificate that it does not fit.
                    let named =
                        |line: &str| line.contains(path.to_str().unwrap()) || (name == "node.key" && line.contains("/identity is damaged"));
                    let told = |line: &&str| named(line) && line.to_lowercase().contains("restore");
                    assert!(log.lines().any(|line| told(&line)), "{what}: no line says which file it is and what to do: {log}");
                    // It is left alone.
                    let left = Identity::load(&state).map(|found| found.map(|found| found.node()));
                    assert!(!matches!(left, Ok(Some(other)) if other != identity), "{what}: it is somebody else");
                }
            }
            assert!(
                house.cameras.iter().filter(|camera| camera.runs()).all(|camera| camera.motion.running().is_some()),
                "{what}: all watch"
            );
        }
    }
    fs::remove_dir_all(&state).unwrap();
    copy(&whole, &state);
    node.start();
    eventually("all is well again", async || house.does_agree(ArmState::Away).await).await;
}

/// Whether it goes on as it should; it may also end. A camera is never seen disarmed.
async fn judged(house: &House, node: &Node, what: &str) -> bool {
    let began = Instant::now();
    loop {
        if node.has_failed() {
            return false;
        }
        if let Some(camera) = node.camera_status().await {
            assert!(camera.effective.is_armed(), "{what}: it came back disarmed");
        }
        if house.is_whole(ArmState::Away).await {
            return true;
        }
        assert!(began.elapsed() < JUDGED_WITHIN, "{what}: it neither goes on nor refuses to: {:?}", house.look().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    let out = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

async fn of_a_coordinator(damage: Damage) {
    let house = house_that_lived().await;
    let porch = house.camera("porch");
    let watched = || (porch.motion.starts(), porch.motion.stops());
    let before = watched();
    all_are_damaged(&house, &house.coordinator, OF_A_COORDINATOR, damage).await;
    assert_eq!(watched(), before, "the camera was not disturbed");
}

async fn of_a_camera(damage: Damage) {
    let house = house_that_lived().await;
    let porch = house.camera("porch");
    // What it sees now waits.
    house.coordinator.stop().await;
    good(picture(porch, "2", "5", &jpeg(house.dir(), b"2.jpg", 2)));
    porch.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    all_are_damaged(&house, &porch.node, OF_A_CAMERA, damage).await;
}

#[tokio::test]
async fn a_coordinator_one_of_whose_files_was_emptied_goes_on_or_says_which() {
    of_a_coordinator(Damage::Emptied).await;
}

#[tokio::test]
async fn a_coordinator_one_of_whose_files_was_cut_in_half_goes_on_or_says_which() {
    of_a_coordinator(Damage::Halved).await;
}

#[tokio::test]
async fn a_coordinator_in_one_of_whose_files_a_bit_is_wrong_goes_on_or_says_which() {
    of_a_coordinator(Damage::Turned).await;
}

#[tokio::test]
async fn a_camera_one_of_whose_files_was_emptied_goes_on_or_says_which() {
    of_a_camera(Damage::Emptied).await;
}

#[tokio::test]
async fn a_camera_one_of_whose_files_was_cut_in_half_goes_on_or_says_which() {
    of_a_camera(Damage::Halved).await;
}

#[tokio::test]
async fn a_camera_in_one_of_whose_files_a_bit_is_wrong_goes_on_or_says_which() {
    of_a_camera(Damage::Turned).await;
}
