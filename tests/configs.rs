//! Every example config can be run, and a mistake in one is told with its place and what is allowed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Node;

fn check(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dms3.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

async fn complaint(text: &str) -> String {
    let (dir, _) = check("");
    let node = Node::new(dir.path(), "node", "camera", None, "");
    fs::write(node.config(), text).unwrap();
    let why = node.cli(&["check-config"]).await.bad();
    assert!(why.contains(node.config().to_str().unwrap()), "the file is named: {why}");
    // What cannot be checked cannot be run either.
    node.cli(&["run"]).await.bad();
    why
}

#[tokio::test]
async fn every_example_config_is_valid_as_it_stands() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut seen = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            dms3_node::config::Config::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
            seen += 1;
        }
    }
    assert!(seen >= 2, "an example for each role");
}

#[tokio::test]
async fn a_camera_needs_nothing_and_a_coordinator_only_its_people() {
    for text in [
        "role = \"camera\"",
        "role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"24-DA-9B-0D-53-8F\"]",
        "role = \"coordinator\"\n[coordinator.presence]\nenabled = false",
    ] {
        let (_dir, path) = check(text);
        dms3_node::config::Config::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

#[tokio::test]
async fn a_mistake_is_told_with_file_line_key_and_what_is_allowed() {
    // (config, line, words)
    for (text, line, words) in [
        ("role = \"camera\"\nnmae = 1", 2, ["nmae", "expected"]),
        ("role = \"camera\"\n\n[mesh]\nlisten_on = \"x\"", 4, ["listen_on", "listen"]),
        ("role = \"camera\"\n[camera]\non_coordinator_lost = 5", 3, ["on_coordinator_lost", "hold"]),
        ("role = \"camera\"\n[log]\nlevel = \"loud\"", 3, ["level", "info"]),
        ("role = \"camera\"\n[log]\nlevel = 3", 3, ["level", "3"]),
        ("role = \"camera\"\n[mesh]\nmdns_port = 70000", 3, ["mdns_port", "70000"]),
        ("role = \"butler\"", 1, ["role", "coordinator"]),
        ("role = ", 1, ["role", "value"]),
        ("role = \"camera\"\n[[camera.detector]]\nwatch_in = [\"noon\"]", 3, ["watch_in", "noon"]),
        ("role = \"coordinator\"\n[coordinator]\nexit_delay = \"soon\"", 3, ["exit_delay", "soon"]),
    ] {
        let why = complaint(text).await;
        assert!(why.contains(&format!("line {line}")), "{text:?}: {why}");
        for word in words {
            assert!(why.contains(word), "{text:?} without {word:?}: {why}");
        }
    }
}

#[tokio::test]
async fn a_value_that_cannot_work_is_told_with_its_line_and_key() {
    // (config, line, words)
    for (text, line, words) in [
        ("role = \"camera\"\n[coordinator]", 2, "[coordinator]"),
        ("role = \"coordinator\"\n[camera]", 2, "[camera]"),
        ("role = \"camera\"\nstate_dir = \"here\"", 2, "state_dir"),
        ("role = \"camera\"\n[mesh]\nmdns_port = 0", 3, "mdns_port"),
        ("role = \"camera\"\n[mesh]\npeers = [\n\"house\",\n\"no such name!\"]", 5, "peers"),
        ("role = \"camera\"\n[mesh]\nlisten = \"here\"", 3, "0.0.0.0:47100"),
        ("role = \"camera\"\n[mesh.limits]\nhandshakes = 0", 3, "handshakes"),
        ("role = \"camera\"\n[[camera.detector]]\nname = \"a\"\n[[camera.detector]]\nname = \"a\"\nvideo = \"/dev/video1\"", 5, "name"),
        ("role = \"camera\"\n[[camera.detector]]\nname = \"a\"\nwidth = 100", 4, "multiple of 8"),
        ("role = \"camera\"\n[[camera.detector]]\n[camera.detector.extra]\ndaemon = true", 3, "foreground"),
        ("role = \"camera\"\n[camera]\non_coordinator_lost = { arm_after = \"5m\", as = \"disarmed\" }", 3, "away"),
        ("role = \"coordinator\"\n[coordinator]\nname = \"\"", 3, "name"),
        ("role = \"coordinator\"\n[coordinator]\nexit_delay = \"2h\"\n[coordinator.presence]\nenabled = false", 3, "exit_delay"),
        ("role = \"coordinator\"\n[coordinator]\nexit_delay = 5", 3, "\"90s\", \"5m\" or \"2h\""),
        ("role = \"coordinator\"\n[coordinator]\ndecisions_for = \"0s\"", 3, "decisions_for"),
        ("role = \"coordinator\"\n[coordinator]\nsightings_for = \"0s\"", 3, "sightings_for"),
        ("role = \"coordinator\"\n[coordinator.events]\nmax_age = \"1m\"", 3, "max_age"),
        ("role = \"coordinator\"\n[coordinator.events]\nmax_size = \"0 B\"", 3, "max_size"),
        ("role = \"camera\"\n[camera.outbox]\nmax_age = \"1m\"", 3, "max_age"),
        ("role = \"camera\"\n[camera.outbox]\nmax_size = \"20kB\"", 3, "max_size"),
        ("role = \"camera\"\n[camera.outbox]\nmax_file = \"0 B\"", 3, "max_file"),
        ("role = \"coordinator\"\n[coordinator]\nenroll_listen = \"47101\"", 3, "address with a port"),
        ("role = \"coordinator\"\n[coordinator]\nenroll_listen = \"0.0.0.0:47100\"", 3, "port of its own"),
        ("role = \"coordinator\"\n[mesh]\nlisten = \"192.168.1.2:47101\"", 3, "port of its own"),
        ("role = \"coordinator\"", 1, "person"),
        ("role = \"camera\"\n[camera]\nmail_after = \"soon\"", 3, "always"),
        ("role = \"camera\"\n[camera]\nlost_alert_after = \"2d\"", 3, "1s to 1d"),
        ("role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\nto = [\n\"a@b.c\",\n\"anna\"]", 7, "no mail address"),
        (
            "role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\nsecurity = \"none\"",
            6,
            "allow_clear_text",
        ),
        ("role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\npassword = 1234567", 6, "between quotes"),
        ("role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\npasword = \"x\"", 5, "pasword"),
        ("role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"", 2, "missing field `to`"),
        ("role = \"coordinator\"\n[coordinator.presence]\nsweep = \"1s\"\n[[coordinator.presence.person]]\nname = \"Anna\"", 3, "5s"),
        ("role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"An\\nna\"\ndevices = [\"a\"]", 3, "control"),
        ("role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"24:da:9b\"]", 4, "24:da:9b"),
        ("role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = []", 4, "devices"),
        (
            "role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"a\"]\naway_after = \"1s\"",
            5,
            "away_after",
        ),
    ] {
        let why = complaint(text).await;
        assert!(why.contains(&format!("line {line}")), "{text:?} without line {line}: {why}");
        assert!(why.contains(words), "{text:?} without {words:?}: {why}");
    }
}

#[tokio::test]
async fn a_config_that_is_not_there_is_told_with_the_way_to_one() {
    let (dir, _) = check("");
    let node = Node::new(dir.path(), "node", "camera", None, "");
    fs::remove_file(node.config()).unwrap();
    let why = node.cli(&["run"]).await.bad();
    assert!(why.contains("--config") && why.contains("init"), "{why}");
}
