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

/// (config, line, key as it is told, what is allowed)
type Row = (&'static str, usize, &'static str, &'static str);

async fn are_refused(rows: &[Row]) {
    for (text, line, key, allowed) in rows {
        let why = complaint(text).await;
        let told = format!("line {line}: {key}: ");
        assert!(why.contains(&told), "{text:?} without {told:?}: {why}");
        let rest = why.split_once(&told).unwrap().1;
        assert!(rest.contains(allowed), "{text:?} without {allowed:?}: {why}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_known_and_a_value_of_another_type_are_told_with_file_line_key_and_what_is_allowed() {
    are_refused(&[
        ("role = \"camera\"\nnmae = 1", 2, "nmae", "expected one of `role`, `state_dir`"),
        ("role = \"camera\"\n\n[mesh]\nlisten_on = \"x\"", 4, "[mesh] listen_on", "expected one of `listen`, `peers`"),
        ("role = \"camera\"\nmesh = 1", 2, "mesh", "expected a section"),
        ("role = \"camera\"\n[camera]\non_coordinator_lost = 5", 3, "[camera] on_coordinator_lost", "write \"hold\" or { arm_after"),
        ("role = \"camera\"\n[camera]\nmail_after = 5", 3, "[camera] mail_after", "write \"always\" or 1s to 1d"),
        ("role = \"camera\"\n[camera]\nspool_dir = 5", 3, "[camera] spool_dir", "a path between quotes"),
        ("role = \"camera\"\n[log]\nlevel = \"loud\"", 3, "[log] level", "expected one of `error`, `warn`, `info`, `debug`"),
        ("role = \"camera\"\n[log]\nlevel = 3", 3, "[log] level", "expected one of `error`, `warn`, `info`, `debug`"),
        ("role = \"camera\"\n[log]\ntarget = true", 3, "[log] target", "\"stderr\", \"stdout\" or the absolute path"),
        ("role = \"camera\"\n[mesh]\nmdns = false", 3, "[mesh] mdns", "expected one of `on`, `off`, `loopback`"),
        ("role = \"camera\"\n[mesh]\nmdns_port = 70000", 3, "[mesh] mdns_port", "1 to 65535"),
        ("role = \"camera\"\n[mesh]\nmdns_port = \"5353\"", 3, "[mesh] mdns_port", "1 to 65535"),
        ("role = \"camera\"\n[mesh]\npeers = [\n\"house\",\n5]", 5, "[mesh] peers number 2", "a text between quotes"),
        ("role = \"camera\"\n[mesh]\npeers = \"house\"", 3, "[mesh] peers", "a list"),
        ("role = \"camera\"\n[mesh.limits]\nreserve = -1", 3, "[mesh.limits] reserve", "0 to 99999"),
        ("role = \"butler\"", 1, "role", "`coordinator` or `camera`"),
        ("role = ", 1, "role", "value"),
        ("role = \"camera\"\n[[camera.detector]]\nwatch_in = [\"noon\"]", 3, "[camera.detector] watch_in number 1", "`night`, `away`"),
        ("role = \"camera\"\n[[camera.detector]]\nwatch_in = [\n\"away\",\n5]", 5, "[camera.detector] watch_in number 2", "`away`"),
        ("role = \"camera\"\n[[camera.detector]]\nstop_grace = 5", 3, "[camera.detector] stop_grace", "from \"1s\" to \"60s\""),
        ("role = \"camera\"\n[[camera.detector]]\nwidth = \"wide\"", 3, "[camera.detector] width", "64 to 7680"),
        ("role = \"camera\"\n[camera.detector]\nname = \"a\"", 2, "[camera] detector", "write [[camera.detector]] for each"),
        ("role = \"camera\"\n[camera.outbox]\nmax_size = 5", 3, "[camera.outbox] max_size", "a size such as \"200MB\""),
        ("role = \"coordinator\"\n[coordinator]\nexit_delay = \"soon\"", 3, "[coordinator] exit_delay", "\"90s\", \"5m\" or \"2h\""),
        ("role = \"coordinator\"\n[coordinator]\nexit_delay = 5", 3, "[coordinator] exit_delay", "\"90s\", \"5m\" or \"2h\""),
        ("role = \"coordinator\"\n[coordinator]\nname = 5", 3, "[coordinator] name", "a text between quotes"),
        ("role = \"coordinator\"\n[coordinator.presence]\nenabled = \"no\"", 3, "[coordinator.presence] enabled", "true or false"),
        (
            "role = \"coordinator\"\n[coordinator.presence.presence_may_disarm]\nnight = true",
            3,
            "[coordinator.presence.presence_may_disarm] night",
            "`always` or `never`",
        ),
        (
            "role = \"coordinator\"\n[[coordinator.presence.person]]\ndevices = [\"a\"]",
            2,
            "[coordinator.presence] person number 1",
            "missing field `name`",
        ),
    ])
    .await;
    let why = complaint("state_dir = \"/\"").await;
    assert!(why.contains("line 1: missing field `role`"), "{why}");
}

#[tokio::test]
async fn a_mistake_in_the_section_of_mail_is_told_with_its_key_and_without_the_password() {
    const MAIL: &str = "role = \"camera\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\n";
    // (lines of the section from the fifth on, line, key, what is allowed)
    for (lines, line, key, allowed) in [
        ("pasword = \"hunter2\"", 5, "[mail] pasword", "`password_file`"),
        ("to = [\n\"a@b.c\",\n5]\npassword = \"hunter2\"", 7, "[mail] to number 2", "a text between quotes"),
        ("to = \"a@b.c\"\npassword = \"hunter2\"", 5, "[mail] to", "a list"),
        ("port = \"hunter2\"", 5, "[mail] port", "1 to 65535"),
        ("timeout = \"hunter2\"", 5, "[mail] timeout", "\"90s\", \"5m\" or \"2h\""),
        ("allow_clear_text = \"hunter2\"", 5, "[mail] allow_clear_text", "true or false"),
        ("user = [\"hunter2\"]", 5, "[mail] user", "a text between quotes"),
        ("security = 5 # hunter2", 5, "[mail] security", "`starttls`, `tls`, `none`"),
        ("to = [\"a@b.c\"]\npassword = [\"hunter2\"]", 6, "[mail] password", "between quotes"),
        ("password = hunter2", 5, "[mail] password", "quoted"),
        ("password = \"hunter2", 5, "[mail] password", ""),
        ("password = 'hunter2\"", 5, "[mail] password", ""),
        ("password = \"a\" hunter2", 5, "[mail] password", ""),
    ] {
        let why = complaint(&format!("{MAIL}{lines}\n")).await;
        let told = format!("line {line}: {key}: ");
        assert!(why.contains(&told) && why.contains(allowed), "{lines:?} without {told:?} and {allowed:?}: {why}");
        assert!(!why.contains("hunter2"), "{lines:?}: {why}");
    }
    for text in [
        "role = \"camera\"\n[[camera.detector]]\nurl = [\"rtsp://me:hunter2@x/\"]",
        "role = \"camera\"\n[[camera.detector]]\nurl = \"rtsp://me:hunter2@x/",
        "role = \"camera\"\n[[camera.detector]]\nulr = \"rtsp://me:hunter2@x/\"",
        "role = \"camera\"\n[[camera.detector]]\nwidth = \"rtsp://me:hunter2@x/\"",
    ] {
        let why = complaint(text).await;
        assert!(why.contains("line 3: [camera.detector] ") && !why.contains("hunter2"), "{text:?}: {why}");
    }
}

#[tokio::test]
async fn a_value_that_cannot_work_is_told_with_its_line_key_and_what_is_allowed() {
    are_refused(&[
        ("role = \"camera\"\n[coordinator]", 2, "coordinator", "remove the section [coordinator]"),
        ("role = \"coordinator\"\n[camera]", 2, "camera", "remove the section [camera]"),
        ("role = \"camera\"\nstate_dir = \"here\"", 2, "state_dir", "begins with /"),
        ("role = \"camera\"\n[mesh]\nmdns_port = 0", 3, "[mesh] mdns_port", "1 to 65535"),
        ("role = \"camera\"\n[mesh]\npeers = [\n\"house\",\n\"no such name!\"]", 5, "[mesh] peers number 2", "a name or an IP address"),
        ("role = \"camera\"\n[mesh]\nlisten = \"here\"", 3, "[mesh] listen", "0.0.0.0:47100"),
        ("role = \"camera\"\n[mesh.limits]\nhandshakes = 0", 3, "[mesh.limits] handshakes", "1 to 100000"),
        ("role = \"camera\"\n[mesh.limits]\nreserve = 64", 3, "[mesh.limits] reserve", "less than handshakes (64)"),
        (
            "role = \"camera\"\n[[camera.detector]]\nname = \"a\"\n[[camera.detector]]\nname = \"a\"\nvideo = \"/dev/video1\"",
            5,
            "[camera.detector] name",
            "give each its own",
        ),
        ("role = \"camera\"\n[[camera.detector]]\nname = \"a\"\nwidth = 100", 4, "[camera.detector] width", "multiple of 8"),
        ("role = \"camera\"\n[[camera.detector]]\nname = \"a\"\nwidth = 8", 4, "[camera.detector] width", "64 to 7680"),
        ("role = \"camera\"\n[[camera.detector]]\n[camera.detector.extra]\ndaemon = true", 3, "[camera.detector] extra", "foreground"),
        (
            "role = \"camera\"\n[camera]\non_coordinator_lost = { arm_after = \"5m\", as = \"disarmed\" }",
            3,
            "[camera] on_coordinator_lost",
            "as = \"away\" or as = \"night\"",
        ),
        ("role = \"coordinator\"\n[coordinator]\nname = \"\"", 3, "[coordinator] name", "must not be empty"),
        (
            "role = \"coordinator\"\n[coordinator]\nexit_delay = \"2h\"\n[coordinator.presence]\nenabled = false",
            3,
            "[coordinator] exit_delay",
            "1h or less",
        ),
        ("role = \"coordinator\"\n[coordinator]\ndecisions_for = \"0s\"", 3, "[coordinator] decisions_for", "1h to 3650d"),
        ("role = \"coordinator\"\n[coordinator]\nsightings_for = \"0s\"", 3, "[coordinator] sightings_for", "1h to 3650d"),
        ("role = \"coordinator\"\n[coordinator.events]\nmax_age = \"1m\"", 3, "[coordinator.events] max_age", "1h to 3650d"),
        ("role = \"coordinator\"\n[coordinator.events]\nmax_size = \"0 B\"", 3, "[coordinator.events] max_size", "10 MB or more"),
        ("role = \"camera\"\n[camera.outbox]\nmax_age = \"1m\"", 3, "[camera.outbox] max_age", "1d to 3650d"),
        ("role = \"camera\"\n[camera.outbox]\nmax_size = \"20kB\"", 3, "[camera.outbox] max_size", "10 MB or more"),
        ("role = \"camera\"\n[camera.outbox]\nmax_file = \"0 B\"", 3, "[camera.outbox] max_file", "10 MB or more"),
        ("role = \"coordinator\"\n[coordinator]\nenroll_listen = \"47101\"", 3, "[coordinator] enroll_listen", "address with a port"),
        ("role = \"coordinator\"\n[coordinator]\nenroll_listen = \"0.0.0.0:47100\"", 3, "[coordinator] enroll_listen", "port of its own"),
        ("role = \"coordinator\"\n[mesh]\nlisten = \"192.168.1.2:47101\"", 3, "[mesh] listen", "port of its own"),
        ("role = \"coordinator\"", 1, "[coordinator.presence] person", "enabled = false"),
        ("role = \"camera\"\n[camera]\nmail_after = \"soon\"", 3, "[camera] mail_after", "\"always\" or 1s to 1d"),
        ("role = \"camera\"\n[camera]\nlost_alert_after = \"2d\"", 3, "[camera] lost_alert_after", "1s to 1d"),
        (
            "role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\nto = [\n\"a@b.c\",\n\"anna\"]",
            7,
            "[mail] to number 2",
            "no mail address",
        ),
        (
            "role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\nsecurity = \"none\"",
            6,
            "[mail] security",
            "allow_clear_text",
        ),
        (
            "role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\npassword = 1234567",
            6,
            "[mail] password",
            "between quotes",
        ),
        ("role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"\npasword = \"x\"", 5, "[mail] pasword", "`password`"),
        ("role = \"coordinator\"\n[mail]\nserver = \"a.b\"\nfrom = \"a@b.c\"", 2, "mail", "missing field `to`"),
        (
            "role = \"coordinator\"\n[coordinator.presence]\nsweep = \"1s\"\n[[coordinator.presence.person]]\nname = \"Anna\"",
            3,
            "[coordinator.presence] sweep",
            "5s or more",
        ),
        (
            "role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"An\\nna\"\ndevices = [\"a\"]",
            3,
            "[coordinator.presence.person] name",
            "control",
        ),
        (
            "role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"24:da:9b\"]",
            4,
            "[coordinator.presence.person] devices number 1",
            "MAC",
        ),
        (
            "role = \"coordinator\"\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"a\"]\naway_after = \"1s\"",
            5,
            "[coordinator.presence.person] away_after",
            "5s or more",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_config_that_is_not_there_is_told_with_the_way_to_one() {
    let (dir, _) = check("");
    let node = Node::new(dir.path(), "node", "camera", None, "");
    fs::remove_file(node.config()).unwrap();
    let why = node.cli(&["run"]).await.bad();
    assert!(why.contains("--config") && why.contains("init"), "{why}");
}
