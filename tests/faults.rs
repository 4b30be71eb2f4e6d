//! What breaks in a house breaks alone: nodes that freeze or forget, detectors that are missing, die, hang or hide behind a wrapper.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dms3_core::arming::ArmState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use crate::harness::skip::cannot_make_networks;
use crate::harness::{House, LINKED_WITHIN, Make, Node, Plan, eventually, throughout, within};

/// A dead peer is known so soon.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

async fn armed_house<const N: usize>(names: [&str; N]) -> House {
    let house = House::with_cameras(names).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

#[tokio::test]
async fn a_coordinator_that_freezes_is_missed_and_taken_back_and_the_cameras_watch_on() {
    let house = armed_house(["porch", "hall"]).await;
    let before = house.standing().await;
    house.coordinator.signal(Signal::SIGSTOP);
    for camera in &house.cameras {
        within(NOTICED_WITHIN, "a camera notices that nobody answers", async || {
            assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
            camera.camera_status().await.is_some_and(|status| status.linked.is_none())
        })
        .await;
        assert_eq!(camera.lines_with("the link to the coordinator ended: no answer"), 1, "{} says why", camera.name);
    }
    house.coordinator.signal(Signal::SIGCONT);
    house.stands(before).await;
    house.is_unharmed(before).await;
    for camera in &house.cameras {
        assert_eq!((camera.motion.starts(), camera.motion.stops()), (1, 0), "{}", camera.name);
    }
}

/// A camera whose state directory, copied while the house was disarmed, was put back after it was armed. It does not run.
async fn camera_with_an_old_memory(house: &House) {
    let porch = house.camera("porch");
    let (state, copy) = (porch.state_dir(), house.dir().join("old"));
    porch.stop().await;
    cp(&state, &copy);
    porch.start();
    house.arm().await;
    house.agrees(ArmState::Away).await;
    porch.sigkill().await;
    eventually("its detector dies with it", async || porch.motion.running().is_none()).await;
    fs::remove_dir_all(&state).unwrap();
    cp(&copy, &state);
}

#[tokio::test]
async fn a_camera_that_comes_from_an_old_backup_is_told_at_once_what_holds() {
    let house = House::with_cameras(["porch", "hall"]).await;
    let disarmed = house.standing().await;
    camera_with_an_old_memory(&house).await;
    let before = house.standing().await;
    house.camera("porch").start();
    house.stands(before).await;
    let ((epoch, rev), ours) = (before.version, disarmed.version);
    let forgot = format!("node porch forgot what it had confirmed (state {epoch}.{rev}; it holds {}.{})", ours.0, ours.1);
    house.is_unharmed_and_told(before, &forgot).await;
    assert_eq!(house.told_since(before, "forgot what it had confirmed"), 1, "nobody else did");
}

#[tokio::test]
async fn a_camera_that_comes_from_an_old_backup_arms_itself_where_nobody_tells_it_what_holds() {
    let after = Duration::from_secs(20);
    let plan = Plan { camera: "on_coordinator_lost = { arm_after = \"20s\", as = \"away\" }".to_owned(), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    camera_with_an_old_memory(&house).await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    house.coordinator.sigkill().await;
    let starts = porch.motion.starts();
    porch.start();
    within(after + LINKED_WITHIN, "it watches when the coordinator was gone long enough", async || porch.motion.running().is_some()).await;
    assert_eq!(porch.motion.starts(), starts + 1);
    assert_eq!(porch.lines_with("alert raised: no coordinator for 20 s"), 1, "and says why");
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    assert_eq!(porch.motion.starts(), starts + 1, "it went on");
}

#[tokio::test]
async fn a_camera_whose_motion_is_missing_is_named_until_it_is_installed() {
    let mut house = House::new().await;
    house.add_camera_with("porch", Make::Missing).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    house.arm().await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    says(&house, "porch/cam should watch and does not: cannot start").await;
    says(&house, "fake-motion: not found; install it or set `command`").await;
    assert_eq!(porch.lines_with("the detector does not watch: cannot start"), porch.lines_with("the detector does not watch"));
    assert!(porch.told("not found; install it or set `command`"), "the camera's log says it too");
    porch.motion.install();
    house.agrees(ArmState::Away).await;
    eventually("the trouble is over", async || house.look().await.is_some_and(|house| house.problems.is_empty())).await;
    house.is_unharmed(before).await;
    assert_eq!(porch.motion.starts(), 1);
}

#[tokio::test]
async fn a_motion_that_dies_is_told_and_started_again() {
    let house = armed_house(["porch", "hall"]).await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    let first = porch.motion.running().unwrap();
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).unwrap();
    says(&house, "porch/cam should watch and does not: Motion was ended by signal 9 (SIGKILL)").await;
    within(LINKED_WITHIN, "another one runs", async || porch.motion.running().is_some_and(|now| now != first)).await;
    house.is_unharmed(before).await;
    assert_eq!(porch.lines_with("the detector does not watch: Motion was ended by signal 9 (SIGKILL)"), 1);
    eventually("the trouble is over", async || house.look().await.is_some_and(|house| house.problems.is_empty())).await;
    assert_eq!((porch.motion.starts(), house.camera("hall").motion.starts()), (2, 1));
}

#[tokio::test]
async fn a_motion_that_hangs_when_it_is_to_end_is_killed_and_the_house_can_be_armed_again() {
    let mut house = House::new().await;
    house.add_camera_with("porch", Make::Stubborn).await;
    let porch = house.camera("porch");
    house.agrees(ArmState::Away).await;
    let pid = house.standing().await.pid();
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;
    house.is_unharmed(before).await;
    let told = "the detector did not end by itself and was killed";
    eventually("it is told", async || porch.lines_with(told) == 1).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    assert_eq!((house.standing().await.pid(), porch.motion.starts()), (pid, 2));
}

#[tokio::test]
async fn a_motion_behind_a_wrapper_starts_and_ends_with_the_house() {
    for make in [Make::Wrapped, Make::Forked] {
        let mut house = House::new().await;
        house.add_camera_with("porch", make).await;
        let porch = house.camera("porch");
        house.agrees(ArmState::Away).await;
        house.disarm().await;
        house.agrees(ArmState::Disarmed).await;
        house.arm().await;
        house.agrees(ArmState::Away).await;
        let before = house.standing().await;
        assert_eq!((porch.motion.starts(), porch.motion.stops()), (2, 1), "{make:?}: asked to end, not killed");
        // What is behind the wrapper may die alone.
        let first = porch.motion.running().unwrap();
        kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).unwrap();
        eventually("another one runs", async || porch.motion.running().is_some_and(|now| now != first)).await;
        house.is_unharmed(before).await;
        assert_eq!(porch.lines_with("the detector does not watch"), 1, "{make:?}");
        let last = porch.motion.running();
        porch.sigkill().await;
        if make == Make::Wrapped {
            eventually("none outlives its node", async || porch.motion.running().is_none()).await;
        }
        // What the kernel does not end with the node (a child of its child; under systemd the unit ends it) the node's next start does.
        porch.start();
        house.stands(before).await;
        let gone = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty());
        eventually("the old one is gone", async || last.is_some_and(gone)).await;
        eventually("a new one runs", async || porch.motion.running().is_some()).await;
    }
}

#[tokio::test]
async fn a_motion_that_somebody_else_started_is_never_touched() {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let mut foreign = porch.motion.of_a_stranger();
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;
    porch.sigkill().await;
    porch.start();
    house.stands(before).await;
    assert!(foreign.try_wait().unwrap().is_none(), "it runs on, although it has the arguments of ours");
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

#[tokio::test]
async fn two_cameras_of_one_name_are_told_apart() {
    let mut house = House::new().await;
    house.add_camera("porch").await;
    // The other machine calls itself so too; its people may have forgotten the first one.
    let other = house.new_camera("porch-of-the-garden");
    let word = house.token(&["--name", "porch"]).await;
    let said = other.cli_with(&["enroll", "-"], &word).await.good();
    assert!(said.contains("\"porch 2\""), "{said}");
    let why = "another node is called \"porch\", so this one is \"porch 2\"";
    assert_eq!(house.coordinator.lines_with(why), 1, "the coordinator's log says why it is not named as it was asked for");
    other.start();
    house.cameras.push(other);
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    for name in ["porch", "porch 2"] {
        assert_eq!(house.view(name).await.unwrap().liveness, "online", "{name}");
    }
    let why = house.coordinator.cli(&["rename", "porch 2", "porch"]).await.bad();
    assert!(why.contains("there is a node named \"porch\" already"), "{why}");
    house.coordinator.cli(&["rename", "porch 2", "Porch"]).await.bad();
    assert!(house.view("porch 2").await.is_some());
    house.is_unharmed(before).await;
}

/// Writes a key that nobody knows into the config, and returns its file and line as they are to be named.
fn spoil(node: &Node, section: &str) -> [String; 2] {
    let config = fs::read_to_string(node.config()).unwrap();
    let before = config.lines().position(|line| line == section).unwrap();
    fs::write(node.config(), config.replacen(section, &format!("{section}\ncolour = \"red\""), 1)).unwrap();
    [format!("{} is not valid", node.config().display()), format!("line {}: [{}] colour", before + 2, section.trim_matches(['[', ']']))]
}

/// Starts a node, which refuses to run and names file, line and key.
async fn refuses(node: &Node, [file, line]: &[String; 2]) {
    node.start();
    node.fails().await;
    assert!(node.line_with_all(&[file, line]), "{} names file and line: {file}, {line}", node.name);
    assert!(node.told("unknown field `colour`"), "{} names the key", node.name);
}

#[tokio::test]
async fn a_node_whose_config_is_spoilt_says_where_and_the_others_watch_on() {
    let house = armed_house(["porch", "hall"]).await;
    let before = house.standing().await;
    let good = fs::read_to_string(house.coordinator.config()).unwrap();
    let place = spoil(&house.coordinator, "[coordinator]");
    // What runs has read its config; the mistake shows at the next start, which nobody chose.
    house.is_unharmed(before).await;
    house.coordinator.sigkill().await;
    refuses(&house.coordinator, &place).await;
    for camera in &house.cameras {
        eventually("its link is gone", async || camera.camera_status().await.is_some_and(|status| status.linked.is_none())).await;
        assert!(camera.motion.running().is_some(), "{} watches on", camera.name);
    }
    fs::write(house.coordinator.config(), good).unwrap();
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    for camera in &house.cameras {
        assert_eq!((camera.motion.starts(), camera.motion.stops()), (1, 0), "{} watched all the time", camera.name);
    }

    let (porch, before) = (house.camera("porch"), house.standing().await);
    let good = fs::read_to_string(porch.config()).unwrap();
    let place = spoil(porch, "[camera]");
    porch.sigkill().await;
    refuses(porch, &place).await;
    house.is_unharmed(before).await;
    assert!(house.camera("hall").motion.running().is_some(), "the other one watches on");
    fs::write(porch.config(), good).unwrap();
    porch.start();
    house.stands(before).await;
    house.is_unharmed_and_told(before, "the link of node porch").await;
    assert_eq!(house.camera("hall").motion.starts(), 1, "the other one was not disturbed");
}

/// A disk of four megabytes in the place of a directory, with what lies in it.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn under(dir: &Path) -> Self {
        let before = dir.with_extension("before");
        fs::rename(dir, &before).unwrap();
        fs::create_dir(dir).unwrap();
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "dms3-test"]).arg(dir).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let disk = Self(dir.to_owned());
        for entry in fs::read_dir(&before).unwrap() {
            cp(&entry.unwrap().path(), dir);
        }
        disk
    }

    pub(crate) fn is_full(&self) {
        let mut filler = File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 512]).is_ok() {}
    }

    pub(crate) fn has_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[tokio::test]
async fn a_coordinator_whose_disk_is_full_arms_at_once_and_disarms_when_there_is_room() {
    if cannot_make_networks("a_coordinator_whose_disk_is_full_arms_at_once_and_disarms_when_there_is_room") {
        return;
    }
    let house = House::with_cameras(["porch", "hall"]).await;
    house.coordinator.stop().await;
    let disk = SmallDisk::under(&house.coordinator.state_dir());
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Disarmed).await;
    let before = house.standing().await;
    disk.is_full();
    house.arm().await;
    within(LINKED_WITHIN, "every camera watches", async || house.does_agree(ArmState::Away).await).await;
    says(&house, "What is decided cannot be written to the disk of the coordinator (").await;
    assert_eq!(house.coordinator.lines_with("what was decided cannot be written"), 1, "one line says so");
    // The store that found no room is opened anew by the next one who writes, and lets go of some: that is taken too.
    drop(house.coordinator.cli(&["token", "new"]).await);
    disk.is_full();
    // It is the disk that a restart would find: so nobody is told of a disarm.
    house.disarm().await;
    throughout(LINKED_WITHIN, "they watch on", async || house.cameras.iter().all(|camera| camera.motion.running().is_some())).await;
    disk.has_room();
    house.agrees(ArmState::Disarmed).await;
    eventually("the trouble is over", async || {
        // So small a disk is nearly full at its best.
        house.look().await.is_some_and(|house| house.problems.iter().all(|problem| problem.contains("disk nearly full (")))
    })
    .await;
    assert_eq!(house.standing().await.pid(), before.pid());
    let log = house.coordinator.cli(&["log"]).await.good();
    assert!(log.contains("armed by root") && log.contains("disarmed by root"), "what was decided meanwhile is in the log: {log}");

    // Killed while what it decided was on no disk: what the cameras hold is the newest, and holds.
    disk.is_full();
    house.arm().await;
    within(LINKED_WITHIN, "every camera watches", async || house.does_agree(ArmState::Away).await).await;
    house.coordinator.sigkill().await;
    disk.has_room();
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Away).await;
    for camera in &house.cameras {
        assert!(camera.motion.running().is_some(), "{} watches", camera.name);
    }

    // Started without room it says what it lacks, and nobody is told to restore what is whole.
    house.coordinator.stop().await;
    disk.is_full();
    house.coordinator.start();
    house.coordinator.fails().await;
    assert!(house.coordinator.told("store.db cannot be opened now: is there room on its disk"), "it names the disk");
    assert!(!house.coordinator.told("restore it from a backup"));
    disk.has_room();
    house.coordinator.start();
    house.answers().await;
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn a_coordinator_without_a_descriptor_to_spare_keeps_its_cameras_and_answers_when_it_has_some_again() {
    let house = armed_house(["porch", "hall"]).await;
    let before = house.standing().await;
    let coordinator = &house.coordinator;
    let links_again = async || {
        let porch = house.camera("porch");
        porch.sigkill().await;
        porch.start();
        within(LINKED_WITHIN, "a camera that starts is linked and watches", async || {
            porch.camera_status().await.is_some_and(|status| status.linked.is_some()) && porch.motion.running().is_some()
        })
        .await;
    };
    let usual = coordinator.descriptors();
    coordinator.limit_descriptors(256);
    // Visitors who may command the house and say nothing, many more than it could take.
    let socket = coordinator.run_dir().join("control.sock");
    let mut silent = Vec::new();
    while silent.len() < 600 {
        let Ok(visitor) = UnixStream::connect(&socket).await else { break };
        silent.push(visitor);
    }
    assert!(silent.len() > 256, "{}", silent.len());
    // Of `usual` some may have been of a visitor that was just leaving.
    eventually("all places are taken", async || coordinator.descriptors() >= usual + 30).await;
    links_again().await;
    let most = coordinator.descriptors();
    assert!(most < usual + 40, "{most} descriptors, {usual} before");
    drop(silent);
    house.stands(before).await;
    assert!(!coordinator.told("cannot take a visitor"));

    // And when there is none at all.
    coordinator.limit_descriptors(0);
    drop(UnixStream::connect(&socket).await);
    eventually("it says so", async || coordinator.line_with_all(&["the control socket cannot take a visitor", "(os error 24)"])).await;
    links_again().await;
    coordinator.limit_descriptors(256);
    house.stands(before).await;
    house.is_unharmed(before).await;
}

/// `status` names it.
async fn says(house: &House, problem: &str) {
    eventually(&format!("status says {problem:?}"), async || house.coordinator.cli(&["status"]).await.good().contains(problem)).await;
}

fn cp(from: &Path, to: &Path) {
    let out = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
