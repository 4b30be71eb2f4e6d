//! Other users of the camera's machine: those of the hook group may hand in events, and nobody can do more.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;

use super::burst::peak_kib;
use super::crashes::{found, hands_all_over, hash};
use super::{good, jpeg, picture, said};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{BINARY, Camera, House, eventually};

/// Users that nobody has.
const OF_THE_GROUP: u32 = 54_321;
const STRANGER: u32 = 54_322;
/// The group that owns socket and spool here, as `dms3-hook` does where DMS3 is installed.
const GROUP: u32 = 54_400;

/// As that user: in the hook group or not.
fn as_user(user: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let (id, groups) = (user.to_string(), if user == OF_THE_GROUP { GROUP.to_string() } else { user.to_string() });
    command.args(["--reuid", &id, "--regid", &id, "--groups", &groups, "--inh-caps=-all", "--bounding-set=-all"]).arg(program);
    command.process_group(0);
    command
}

fn hook_as(user: u32, camera: &Camera, event: &str, file: &Path) -> Output {
    let mut command = as_user(user, BINARY);
    command.args(["hook", "picture", "--event", event, "--camera", "cam", "--pixels", "5", "--file"]).arg(file);
    command.arg("--run-dir").arg(camera.run_dir()).arg("--spool").arg(camera.spool_dir()).output().unwrap()
}

/// A house whose directories others may enter, and its hook socket and spool are of the group.
async fn house_with_a_hook_group() -> House {
    let house = House::with_cameras(["porch"]).await;
    let porch = house.camera("porch");
    let enter = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    enter(house.dir());
    enter(porch.run_dir().parent().unwrap());
    assert_eq!(fs::metadata(porch.run_dir()).unwrap().permissions().mode() & 0o001, 1, "others come to the hook socket");
    for path in [porch.run_dir().join("hook.sock"), porch.spool_dir()] {
        let mode = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::chown(&path, None, Some(GROUP)).unwrap();
        fs::set_permissions(&path, mode).unwrap();
    }
    house
}

#[tokio::test]
async fn another_user_may_hand_in_events_if_he_is_of_the_group_and_nothing_else() {
    if cannot_make_networks("another_user_may_hand_in_events_if_he_is_of_the_group_and_nothing_else") {
        return;
    }
    let house = house_with_a_hook_group().await;
    let porch = house.camera("porch");
    let before = house.standing().await;
    let file = jpeg(house.dir(), b"a.jpg", 1);
    let secret = jpeg(house.dir(), b"secret.jpg", 2);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

    good(hook_as(OF_THE_GROUP, porch, "1", &file));
    house.has_events(1).await;
    let output = hook_as(STRANGER, porch, "2", &file);
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    let output = hook_as(OF_THE_GROUP, porch, "3", &secret);
    assert_eq!(output.status.code(), Some(66), "what he may not read he cannot send: {}", String::from_utf8_lossy(&output.stderr));

    for user in [OF_THE_GROUP, STRANGER] {
        let mut status = as_user(user, BINARY);
        let output = status.args(["status", "--config"]).arg(porch.config()).output().unwrap();
        assert!(!output.status.success(), "{user} has no power over the node");
        for (program, path) in [
            ("ls", porch.spool_dir()),
            ("ls", porch.state_dir()),
            ("ls", porch.state_dir().join("outbox")),
            ("cat", porch.state_dir().join("outbox.db")),
        ] {
            let output = as_user(user, program).arg(&path).output().unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{user} {program} {}", path.display());
        }
        // Whoever may not write to a socket may not connect to it (unix(7)).
        let may = |socket: &str| {
            let mut test = as_user(user, "test");
            test.arg("-w").arg(porch.run_dir().join(socket)).output().unwrap().status.success()
        };
        assert_eq!((may("control.sock"), may("hook.sock")), (false, user == OF_THE_GROUP), "{user}");
    }
    assert_eq!(house.events().await.len(), 1);
    house.is_unharmed(before).await;
}

#[tokio::test]
async fn nobody_reads_or_removes_what_another_user_left_in_the_spool() {
    if cannot_make_networks("nobody_reads_or_removes_what_another_user_left_in_the_spool") {
        return;
    }
    let house = house_with_a_hook_group().await;
    let porch = house.camera("porch");
    porch.stop().await;
    let file = jpeg(house.dir(), b"a.jpg", 1);
    good(hook_as(OF_THE_GROUP, porch, "1", &file));
    good(said(porch, "event-start", "2"));
    let entries: Vec<_> = fs::read_dir(porch.spool_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 3);
    for path in &entries {
        let data = fs::metadata(path).unwrap();
        assert_eq!((data.gid(), data.mode() & 0o007), (GROUP, 0), "{}", path.display());
        // Also those who know its name.
        for user in [OF_THE_GROUP, STRANGER] {
            // A user's own processes may spoil what is his.
            if data.uid() != user {
                assert!(!as_user(user, "rm").arg("-f").arg(path).output().unwrap().status.success(), "{user} {}", path.display());
                let mut append = as_user(user, "sh");
                let output = append.args(["-c", "echo x >>\"$1\"", "sh"]).arg(path).output().unwrap();
                assert!(!output.status.success(), "{user} {}", path.display());
            }
            if user == STRANGER {
                assert!(!as_user(user, "cat").arg(path).output().unwrap().status.success(), "{}", path.display());
            }
        }
        assert!(path.exists());
    }
    let output = hook_as(STRANGER, porch, "3", &file);
    assert_eq!(output.status.code(), Some(75), "he has no place there: {}", String::from_utf8_lossy(&output.stderr));
    porch.start();
    house.has_events(2).await;
    eventually("the spool is empty", async || fs::read_dir(porch.spool_dir()).unwrap().count() == 0).await;
}

/// Somebody of the group whose Motion was taken over: first he announces movements without end, then he holds connections and says nothing.
/// Ends when its input is closed.
const ATTACK: &str = r#"
import json, select, socket, struct, sys, threading, time

def connect():
    visitor = socket.socket(socket.AF_UNIX)
    visitor.settimeout(20)
    visitor.connect(sys.argv[1])
    return visitor

answers = []
def announce(own):
    for number in range(500):
        call = dict(said="event-start", event=f"attack-{own}-{number}", camera="cam", pixels=None, at=None, called=1, file=None)
        text = json.dumps(call).encode()
        try:
            visitor = connect()
            visitor.sendall(struct.pack(">I", len(text)) + text)
            answers.append(b"kept" in visitor.recv(4096))
        except OSError:
            answers.append(False)
        visitor.close()

began = time.monotonic()
threads = [threading.Thread(target=announce, args=(own,)) for own in range(32)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(answers), len(answers) - sum(answers), int(time.monotonic() - began), flush=True)
silent, told = [], False
while not select.select([sys.stdin], [], [], 0.05)[0]:
    silent = silent[-400:]
    try:
        silent.extend(connect() for _ in range(20))
    except OSError:
        pass
    if len(silent) >= 400 and not told:
        told = True
        print("silent", flush=True)
"#;

#[tokio::test]
async fn whoever_calls_hooks_without_end_holds_up_neither_others_nor_the_house() {
    if cannot_make_networks("whoever_calls_hooks_without_end_holds_up_neither_others_nor_the_house") {
        return;
    }
    let house = house_with_a_hook_group().await;
    let porch = house.camera("porch");
    let mut honest = Vec::new();
    let mut sees = |number: u8| {
        let file = jpeg(house.dir(), format!("{number}.jpg").as_bytes(), number);
        let began = Instant::now();
        good(picture(porch, &number.to_string(), "5", &file));
        assert!(began.elapsed() < Duration::from_secs(3), "our own Motion waits for nobody");
        honest.push(hash(&fs::read(file).unwrap()));
    };
    // Another one may be in the home of somebody.
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let mut attack = as_user(OF_THE_GROUP, python);
    attack.args(["-c", ATTACK]).arg(porch.run_dir().join("hook.sock")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attack = attack.spawn().unwrap();
    eventually("the attack is under way", async || porch.told("hooks of this user call too often")).await;
    (0..10).for_each(&mut sees);
    let mut out = BufReader::new(attack.stdout.take().unwrap());
    let (mut answers, mut silent) = (String::new(), String::new());
    out.read_line(&mut answers).unwrap();
    let answers: Vec<u64> = answers.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [kept, later, secs] = answers[..] else { panic!("{answers:?}") };
    eprintln!("{kept} kept, {later} not, in {secs} s");
    assert!(kept <= 1000 + 50 * (secs + 1) && later > 0);
    out.read_line(&mut silent).unwrap();
    assert_eq!(silent, "silent\n", "all his places are taken");
    (10..20).for_each(&mut sees);
    house.arm().await;
    house.agrees(ArmState::Away).await;
    assert_eq!(house.view("porch").await.unwrap().liveness, "online");
    assert_eq!(fs::read_dir(porch.spool_dir()).unwrap().count(), 0, "what our own Motion saw did not have to go there");
    let lines = porch.lines_with("of this user") + porch.lines_with("a call of a hook came to nothing");
    assert!(porch.lines_with(&format!("(user {OF_THE_GROUP})")) > 0 && lines < 40, "{lines} lines");
    drop(attack.stdin.take());
    assert!(attack.wait().unwrap().success());

    hands_all_over(porch, Duration::from_secs(120)).await;
    let peak = peak_kib(porch.pid());
    assert!(peak < 64 * 1024, "{peak} KiB");
    house.coordinator.stop().await;
    let found = found(&house).await;
    assert!(honest.iter().all(|hash| found.get(hash) == Some(&1)) && found.len() == honest.len());
}
