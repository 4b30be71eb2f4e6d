//! Arming and disarming are heard, where somebody wants to hear them; nothing waits for a sound.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dms3_core::arming::ArmState;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::harness::{BINARY, House, Node, Plan, eventually, throughout};

const ARMED: &[u8] = include_bytes!("../node/src/sound/armed.wav");
const DISARMED: &[u8] = include_bytes!("../node/src/sound/disarmed.wav");

/// It writes down what it gets, and when it begins and ends. While there is a file `hold` it does not end, nor does what it started; with
/// a file `complaint` it says that and fails.
const SCRIPT: &str = r#"#!/bin/sh
cd "@DIR@" || exit 9
echo "begin $$" >> told
cat > "got.$$.new" && mv "got.$$.new" "got.$$"
grep ^Cap /proc/self/status > caps
if [ -e hold ]; then
    sh -c 'while [ -e hold ]; do sleep 0.05; done' &
    echo $! > "child.$$"
    wait
fi
if [ -e complaint ]; then cat complaint >&2; echo "fail $$" >> told; exit 3; fi
echo "end $$" >> told
"#;

/// Plays nothing.
struct Player {
    dir: PathBuf,
}

impl Player {
    fn new(parent: &Path, name: &str) -> Self {
        let dir = parent.join(name);
        fs::create_dir_all(&dir).unwrap();
        let player = Self { dir };
        fs::write(player.program(), SCRIPT.replace("@DIR@", player.dir.to_str().unwrap())).unwrap();
        fs::set_permissions(player.program(), fs::Permissions::from_mode(0o755)).unwrap();
        player
    }

    fn program(&self) -> PathBuf {
        self.dir.join("player")
    }

    /// `[ROLE.sound]`
    fn section(&self, role: &str, more: &str) -> String {
        format!("[{role}.sound]\ncommand = [{:?}, \"an argument\"]\n{more}\n", self.program())
    }

    fn told(&self, what: &str) -> Vec<i32> {
        let told = fs::read_to_string(self.dir.join("told")).unwrap_or_default();
        told.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok()).collect()
    }

    /// What was played to the end, one after the other.
    fn played(&self) -> Vec<&'static str> {
        let told = fs::read_to_string(self.dir.join("told")).unwrap_or_default();
        let lines: Vec<_> = told.lines().collect();
        for pair in lines.chunks(2) {
            let [begin, end] = pair else { continue };
            let same = begin.strip_prefix("begin ").is_some_and(|pid| end.ends_with(&format!(" {pid}")));
            assert!(same, "never two at once: {told}");
        }
        let name = |pid: &i32| match fs::read(self.dir.join(format!("got.{pid}"))).unwrap() {
            sound if sound == ARMED => "armed",
            sound if sound == DISARMED => "disarmed",
            _ => "another",
        };
        self.told("end").iter().map(name).collect()
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.dir.join(file), text).unwrap();
    }

    fn take_away(&self, file: &str) {
        fs::remove_file(self.dir.join(file)).unwrap();
    }
}

/// A manual house, its coordinator with that section.
fn plan(section: &str) -> Plan {
    Plan { presence: Some(format!("[coordinator.presence]\nenabled = false\n{section}")), ..Plan::default() }
}

async fn has_played(player: &Player, sounds: &[&str]) {
    eventually(&format!("it played {sounds:?}"), async || player.played() == sounds).await;
}

async fn problem(house: &House) -> Option<String> {
    house.look().await?.problems.into_iter().find(|problem| problem.starts_with("No sound tells "))
}

#[tokio::test]
async fn arming_and_disarming_are_heard_once_each_and_a_start_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (hall, porch) = (Player::new(dir.path(), "hall"), Player::new(dir.path(), "porch"));
    let plan = Plan { camera: porch.section("camera", ""), ..plan(&hall.section("coordinator", "")) };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    // A new house is armed, and so is a new camera.
    has_played(&hall, &["disarmed"]).await;
    has_played(&porch, &["disarmed"]).await;
    house.arm().await;
    has_played(&hall, &["disarmed", "armed"]).await;
    has_played(&porch, &["disarmed", "armed"]).await;
    for node in [&house.coordinator, &house.cameras[0].node] {
        node.restart().await;
    }
    house.answers().await;
    house.agrees(ArmState::Away).await;
    house.coordinator.cli(&["arm", "--night", "--now"]).await.good();
    eventually("it is night", async || house.look().await.is_some_and(|house| house.state == ArmState::Night)).await;
    throughout(Duration::from_secs(2), "armed it was before", async || hall.told("begin").len() + porch.told("begin").len() == 4).await;
    house.disarm().await;
    has_played(&hall, &["disarmed", "armed", "disarmed"]).await;
    has_played(&porch, &["disarmed", "armed", "disarmed"]).await;
}

/// aplay itself, on a sound card that is a file.
#[tokio::test]
async fn our_own_sounds_are_played_by_aplay_where_nothing_else_is_written() {
    if Command::new("aplay").arg("--version").output().is_err() {
        crate::harness::skip::skipped("sounds", "aplay", "needs aplay (Debian package alsa-utils)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (card, played) = (dir.path().join("asound.conf"), dir.path().join("played.wav"));
    let text = format!("pcm.!default {{ type file; slave.pcm \"none\"; file {played:?}; format \"wav\" }}\npcm.none {{ type null }}\n");
    fs::write(&card, text).unwrap();
    let house = House::planned(plan("[coordinator.sound]\n")).await;
    house.coordinator.set_variable("ALSA_CONFIG_PATH", card);
    house.coordinator.restart().await;
    house.answers().await;
    // Behind the header, and before the silence that aplay fills its last buffer with.
    let is = |sound: &[u8]| fs::read(&played).is_ok_and(|played| played.get(44..).is_some_and(|played| played.starts_with(&sound[44..])));
    house.disarm().await;
    eventually("it is heard that the house is disarmed", async || is(DISARMED)).await;
    house.arm().await;
    eventually("it is heard that the house is armed", async || is(ARMED)).await;
    assert_eq!(problem(&house).await, None);
}

#[tokio::test]
async fn a_sound_that_lasts_holds_up_nothing_and_the_newest_is_played_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let player = Player::new(dir.path(), "hall");
    let house = House::planned_with_cameras(plan(&player.section("coordinator", "at_most = \"5m\"")), ["porch"]).await;
    has_played(&player, &["disarmed"]).await;
    player.put("hold", "");
    house.arm().await;
    eventually("the sound is played", async || player.told("begin").len() == 2).await;
    for _ in 0..3 {
        house.disarm().await;
        house.agrees(ArmState::Disarmed).await;
        house.arm().await;
        house.agrees(ArmState::Away).await;
    }
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    assert_eq!(player.told("begin").len(), 2, "one at a time");
    player.take_away("hold");
    has_played(&player, &["disarmed", "armed", "disarmed"]).await;
    // What came and went while it was played is not told.
    player.put("hold", "");
    house.arm().await;
    eventually("the sound is played", async || player.told("begin").len() == 4).await;
    house.disarm().await;
    house.arm().await;
    player.take_away("hold");
    has_played(&player, &["disarmed", "armed", "disarmed", "armed"]).await;
    throughout(Duration::from_secs(2), "no more is played", async || player.told("begin").len() == 4).await;
    assert_eq!(problem(&house).await, None);
}

#[tokio::test]
async fn a_player_that_hangs_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let player = Player::new(dir.path(), "hall");
    let house = House::planned_with_cameras(plan(&player.section("coordinator", "at_most = \"2s\"")), []).await;
    has_played(&player, &["disarmed"]).await;
    player.put("hold", "");
    house.arm().await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    eventually("it is told", async || problem(&house).await.is_some_and(|why| why.contains("did not end within 2s and was killed"))).await;
    let hung = player.told("begin")[1];
    let child = fs::read_to_string(player.dir.join(format!("child.{hung}"))).unwrap().trim().parse().unwrap();
    for pid in [hung, child] {
        eventually("it is gone", async || is_gone(pid)).await;
    }
    // One that plays when the node ends goes with it.
    let before = player.told("begin").len();
    house.arm().await;
    eventually("another one plays", async || player.told("begin").len() > before).await;
    let hung = *player.told("begin").last().unwrap();
    house.coordinator.stop().await;
    eventually("it is gone", async || is_gone(hung)).await;
}

/// Or waits for nobody to ask how it ended.
fn is_gone(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(Pid::from_raw(pid), None).is_err() || state.contains(") Z ")
}

#[tokio::test]
async fn a_sound_that_cannot_be_played_is_told_once_until_one_can() {
    let dir = tempfile::tempdir().unwrap();
    let (hall, porch) = (Player::new(dir.path(), "hall"), Player::new(dir.path(), "porch"));
    let plan = Plan { camera: porch.section("camera", ""), ..plan(&hall.section("coordinator", "")) };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    let camera = house.camera("porch");
    has_played(&hall, &["disarmed"]).await;
    has_played(&porch, &["disarmed"]).await;
    for times in 1..=2 {
        for player in [&hall, &porch] {
            player.put("complaint", "first words\naudio open error: no speaker\n");
        }
        let failed = || [&hall, &porch].map(|player| player.told("fail").len());
        for _ in 0..2 {
            let before = failed();
            house.arm().await;
            house.agrees(ArmState::Away).await;
            eventually("it failed", async || failed() == before.map(|failed| failed + 1)).await;
            house.disarm().await;
            house.agrees(ArmState::Disarmed).await;
            eventually("it failed again", async || failed() == before.map(|failed| failed + 2)).await;
        }
        let words = "ended with exit status: 3 and the words \"audio open error: no speaker\"";
        eventually("status of the house says it", async || problem(&house).await.is_some_and(|why| why.contains(words))).await;
        let camera_says = async || camera.camera_status().await.unwrap().sound_trouble;
        assert!(camera_says().await.is_some_and(|why| why.contains(words)));
        assert!(camera.cli(&["status"]).await.good().contains(words));
        for node in [&house.coordinator, &camera.node] {
            assert_eq!(node.lines_with("no sound tells that the house is "), times, "{}", node.name);
        }
        for player in [&hall, &porch] {
            player.take_away("complaint");
        }
        house.arm().await;
        eventually("all is well", async || problem(&house).await.is_none() && camera_says().await.is_none()).await;
        for node in [&house.coordinator, &camera.node] {
            assert_eq!(node.lines_with("sounds are played again"), times, "{}", node.name);
        }
        house.disarm().await;
        house.agrees(ArmState::Disarmed).await;
        eventually("both were played", async || [&hall, &porch].iter().all(|player| player.played().len() == 1 + 2 * times)).await;
    }
}

#[tokio::test]
async fn a_file_of_the_user_is_played_as_it_is_then_and_one_that_is_no_sound_never() {
    let dir = tempfile::tempdir().unwrap();
    let player = Player::new(dir.path(), "hall");
    let file = dir.path().join("gong.wav");
    let house = House::planned(plan(&player.section("coordinator", &format!("disarmed = {file:?}")))).await;
    house.disarm().await;
    let says = async |words: &str| problem(&house).await.is_some_and(|why| why.contains(words));
    eventually("there is no such file", async || says("cannot read ").await).await;
    house.arm().await;
    has_played(&player, &["armed"]).await;
    fs::write(&file, b"RIFF....WAVEfmt and so on").unwrap();
    house.disarm().await;
    has_played(&player, &["armed", "another"]).await;
    fs::write(&file, b"ID3 is no sound that every player knows").unwrap();
    house.arm().await;
    house.disarm().await;
    eventually("it is no sound", async || says("is no WAV file").await).await;
    assert!(player.played().iter().filter(|sound| **sound == "another").count() == 1);
}

#[tokio::test]
async fn check_config_says_what_cannot_be_played_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.wav"), dir.path().join("bad.wav"));
    fs::write(&good, ARMED).unwrap();
    fs::write(&bad, "ID3").unwrap();
    for role in ["coordinator", "camera"] {
        let node = Node::new(dir.path(), role, role, None, "");
        let plain = fs::read_to_string(node.config()).unwrap();
        let plain = if role == "camera" { plain } else { format!("{plain}[coordinator.presence]\nenabled = false\n") };
        let check = async |keys: &str| {
            fs::write(node.config(), format!("{plain}[{role}.sound]\n{keys}\n")).unwrap();
            node.cli(&["check-config"]).await
        };
        check(&format!("command = [\"true\"]\narmed = {good:?}\ndisarmed = {good:?}")).await.good();
        check(&format!("enabled = false\narmed = {bad:?}\ncommand = [\"no-such-player\"]")).await.good();
        for (keys, words) in [
            (format!("command = [\"true\"]\narmed = {bad:?}"), "armed: ".to_owned() + bad.to_str().unwrap() + " is no WAV file"),
            ("command = [\"true\"]\ndisarmed = \"/no/such.wav\"".to_owned(), "disarmed: cannot read /no/such.wav: No such file".to_owned()),
            (format!("command = [\"true\"]\ndisarmed = {:?}", dir.path()), format!("disarmed: {} is no file", dir.path().display())),
            ("command = [\"no-such-player\"]".to_owned(), "command: there is no program \"no-such-player\" on this machine".to_owned()),
            (format!("command = [{good:?}]"), "command: there is no program".to_owned()),
            ("command = []".to_owned(), "command: it is empty".to_owned()),
            ("armed = \"good.wav\"".to_owned(), "armed: \"good.wav\" is no absolute path".to_owned()),
        ] {
            let why = check(&keys).await.bad();
            assert!(why.contains(&format!("[{role}.sound]")) && why.contains(&words), "{keys}: {why}");
        }
    }
}

#[tokio::test]
async fn what_plays_has_none_of_the_rights_of_the_node() {
    if !nix::unistd::geteuid().is_root() {
        crate::harness::skip::skipped("sounds", "root", "needs root to start a node as somebody else with a right of root's");
        return;
    }
    let house = House::new().await;
    let player = Player::new(house.dir(), "hall");
    house.coordinator.configure(&player.section("coordinator", ""));
    house.coordinator.stop().await;
    let nobody = "65534";
    assert!(Command::new("chown").args(["-R", nobody]).arg(house.dir()).status().unwrap().success());
    // As systemd starts it.
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--reuid", nobody, "--regid", nobody, "--clear-groups", "--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"]);
    command.args([BINARY, "run", "--config"]).arg(house.coordinator.config()).kill_on_drop(true);
    let mut node = command.spawn().unwrap();
    eventually("it answers", async || house.look().await.is_some()).await;
    let caps = |file: PathBuf, set: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(&format!("{set}:"))).map(|bits| u64::from_str_radix(bits.trim(), 16).unwrap())
    };
    let net_raw = 1 << 13;
    assert_eq!(caps(format!("/proc/{}/status", node.id().unwrap()).into(), "CapEff"), Some(net_raw), "the node can say ARP");
    house.disarm().await;
    has_played(&player, &["disarmed"]).await;
    for set in ["CapEff", "CapPrm", "CapAmb"] {
        assert_eq!(caps(player.dir.join("caps"), set), Some(0), "{set} of the player");
    }
    node.start_kill().unwrap();
    node.wait().await.unwrap();
}
