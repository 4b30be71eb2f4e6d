//! Other users of the camera's machine: those of the hook group may hand in events, and nobody can do more.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use super::{good, jpeg, said};
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
