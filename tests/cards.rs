//! A card that fails under a running node: from one moment on the kernel lets nobody write to it. The house is armed all the same, says what is
//! wrong, and disarms nobody whom a restart would not remember.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use dms3_core::arming::ArmState;

use crate::events::{jpeg, picture};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, LINKED_WITHIN, eventually, throughout, within};

/// A file system of its own in the place of a directory, with what lies in it.
struct Card {
    dir: PathBuf,
    image: PathBuf,
}

impl Card {
    fn under(dir: &Path) -> Self {
        let (before, image) = (dir.with_extension("before"), dir.with_extension("card"));
        File::create(&image).unwrap().set_len(48 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", path(&image)]);
        fs::rename(dir, &before).unwrap();
        fs::create_dir(dir).unwrap();
        let card = Self { dir: dir.to_owned(), image };
        card.mount();
        run("cp", &["-a", path(&before.join(".")), path(dir)]);
        run("sync", &["-f", path(dir)]);
        card
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", path(&self.image), path(&self.dir)]);
    }

    /// As the kernel does it by itself once a card gave it an error: whoever has a file open for writing fails too.
    fn fails(&self) {
        run("mount", &["-o", "remount,abort", path(&self.dir)]);
        assert!(File::create(self.dir.join("probe")).is_err(), "nobody can write there");
    }

    /// As it is mounted at the next start of the machine, if the kernel found it so.
    fn can_only_be_read(&self) {
        run("mount", &["-o", "remount,ro", path(&self.dir)]);
    }

    /// The machine was switched off and on. Nobody has a file open there.
    fn works_again(&self) {
        run("umount", &[path(&self.dir)]);
        self.mount();
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.dir).output());
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn a_coordinator_whose_card_lets_nobody_write_arms_at_once_says_so_and_disarms_nobody() {
    if cannot_make_networks("a_coordinator_whose_card_lets_nobody_write_arms_at_once_says_so_and_disarms_nobody") {
        return;
    }
    let house = House::with_cameras(["porch", "hall"]).await;
    house.coordinator.stop().await;
    let card = Card::under(&house.coordinator.state_dir());
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;
    card.fails();
    house.arm().await;
    within(LINKED_WITHIN, "every camera watches", async || house.does_agree(ArmState::Away).await).await;
    says(&house, "What is decided cannot be written to the disk of the coordinator (").await;
    house.disarm().await;
    throughout(LINKED_WITHIN, "they watch on", async || house.cameras.iter().all(|camera| camera.motion.running().is_some())).await;
    // SQLite gives another reason once it has noticed.
    assert!((1..=2).contains(&house.coordinator.lines_with("what was decided cannot be written")), "a line says so for each reason");
    assert_eq!(house.standing().await.pid(), before.pid());

    // Killed and started on that card: it cannot remember what it decides, and its cameras know better.
    house.coordinator.sigkill().await;
    let logged = house.coordinator.log().len();
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    throughout(LINKED_WITHIN, "they watch on", async || house.cameras.iter().all(|camera| camera.motion.running().is_some())).await;
    says(&house, "What is decided cannot be written to the disk of the coordinator (").await;
    assert!(!house.coordinator.log().split_off(logged).contains("panicked"));

    // What the cameras were told is the newest, and holds.
    house.coordinator.sigkill().await;
    card.works_again();
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;

    // Where its store cannot be opened at all it does not begin without it.
    house.coordinator.stop().await;
    card.can_only_be_read();
    let logged = house.coordinator.log().len();
    house.coordinator.start();
    house.coordinator.fails().await;
    let log = house.coordinator.log().split_off(logged);
    let why = "store.db cannot be opened now: is there room on its disk, and may this user write there?";
    assert!(log.lines().any(|line| line.contains(why)), "it says in one sentence what it lacks: {log}");
    assert!(!log.contains("panicked") && !log.contains("from a backup"), "{log}");
    card.works_again();
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    house.coordinator.stop().await;
}

#[tokio::test]
async fn a_camera_whose_card_lets_nobody_write_watches_says_so_and_is_not_disarmed() {
    if cannot_make_networks("a_camera_whose_card_lets_nobody_write_watches_says_so_and_is_not_disarmed") {
        return;
    }
    let house = House::with_cameras(["porch", "hall"]).await;
    let porch = house.camera("porch");
    porch.stop().await;
    let card = Card::under(&porch.state_dir());
    porch.start();
    house.agrees(ArmState::Disarmed).await;
    let pid = porch.pid();
    card.fails();
    house.arm().await;
    within(LINKED_WITHIN, "every camera watches", async || house.does_agree(ArmState::Away).await).await;
    const WHY: &str = "what holds cannot be kept on the disk of this camera (";
    eventually("its log says so", async || porch.lines_with(WHY) == 1).await;
    let status = porch.cli(&["status"]).await.good();
    assert!(status.contains("What holds cannot be written to the disk of this camera ("), "{status}");
    // What it sees cannot be kept either, which whoever hands it over hears: it waits elsewhere, or he knows.
    let handed_over = picture(porch, "1", "5", &jpeg(house.dir(), b"1.jpg", 1));
    let waits = fs::read_dir(porch.spool_dir()).unwrap().count();
    assert!(handed_over.status.success() == (waits > 0), "{handed_over:?}, {waits} files wait in the spool");

    // A disarm that a restart would not know of is none.
    house.disarm().await;
    eventually("the other one obeys", async || house.camera("hall").motion.running().is_none()).await;
    throughout(LINKED_WITHIN, "it watches on", async || porch.motion.running().is_some()).await;
    says(&house, "porch").await;
    assert_eq!(porch.pid(), pid);

    // It needs to write nothing to start.
    porch.sigkill().await;
    let logged = porch.log().len();
    porch.start();
    eventually("it is linked", async || porch.camera_status().await.is_some_and(|status| status.linked.is_some())).await;
    throughout(LINKED_WITHIN, "it watches", async || porch.camera_status().await.is_some_and(|status| status.effective.is_armed())).await;
    eventually("its detector runs", async || porch.motion.running().is_some()).await;
    let log = porch.log().split_off(logged);
    assert!(!log.contains("panicked"), "{log}");
    // Once of what it remembers, and of what it is told.
    assert!((1..=2).contains(&log.lines().filter(|line| line.contains(WHY)).count()), "it says so again: {log}");

    porch.sigkill().await;
    card.works_again();
    porch.start();
    house.agrees(ArmState::Disarmed).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    if waits > 0 {
        house.has_events(1).await;
    }
    porch.stop().await;
}

/// `status` names it.
async fn says(house: &House, problem: &str) {
    eventually(&format!("status says {problem:?}"), async || house.coordinator.cli(&["status"]).await.good().contains(problem)).await;
}
