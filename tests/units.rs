//! What is installed beside the binary: the systemd units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: [&str; 2] = ["dms3-coordinator.service", "dms3-camera.service"];

fn config_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn systemd_analyze(arguments: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .envs([("SYSTEMD_COLORS", "0"), ("SYSTEMD_PAGER", "cat"), ("LC_ALL", "C")])
        .output()
        .expect("systemd-analyze (Debian package systemd, `scripts/needs test` installs it)")
}

/// 0 is nothing at all to attack, 10 is a program of root without any limit.
#[test]
fn both_services_are_shut_in_to_two_of_ten_or_better() {
    for unit in UNITS {
        let answer = systemd_analyze(&["security", "--offline=true"], &config_dir().join(unit));
        let text = String::from_utf8_lossy(&answer.stdout);
        let line = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{unit}: {answer:?}"));
        let level: f64 = line.rsplit(": ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(level <= 2.0, "{line}\n{text}");
    }
}

#[test]
fn systemd_understands_every_line_of_both_services() {
    for unit in UNITS {
        // The program is not installed here: another one in its place.
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(config_dir().join(unit)).unwrap();
        assert!(text.contains("ExecStart=/usr/local/bin/dms3-node run"), "{unit}");
        let file = dir.path().join(unit);
        fs::write(&file, text.replace("/usr/local/bin/dms3-node", env!("CARGO_BIN_EXE_dms3-node"))).unwrap();
        let answer = systemd_analyze(&["verify", "--man=no"], &file);
        let said = String::from_utf8_lossy(&answer.stderr);
        let about_it: Vec<_> = said.lines().filter(|line| line.contains(unit)).collect();
        assert!(about_it.is_empty(), "{about_it:#?}");
        assert!(answer.status.success(), "{said}");
    }
}

/// Whatever happened before, systemd tries again; and a node that hangs is not left hanging.
#[test]
fn a_node_that_ends_or_hangs_is_started_again_for_ever() {
    for unit in UNITS {
        let text = fs::read_to_string(config_dir().join(unit)).unwrap();
        for line in ["Type=notify", "WatchdogSec=30", "Restart=always", "StartLimitIntervalSec=0", "User=dms3"] {
            assert!(text.lines().any(|other| other == line), "{unit} lacks {line}");
        }
    }
}

#[test]
fn only_the_coordinator_has_a_capability_and_only_a_camera_has_devices() {
    let coordinator = fs::read_to_string(config_dir().join(UNITS[0])).unwrap();
    let camera = fs::read_to_string(config_dir().join(UNITS[1])).unwrap();
    assert_eq!(values(&coordinator, "CapabilityBoundingSet="), ["CAP_NET_RAW"]);
    assert_eq!(values(&coordinator, "AmbientCapabilities="), ["CAP_NET_RAW"]);
    assert_eq!(values(&coordinator, "PrivateDevices="), ["yes"]);
    assert_eq!(values(&camera, "CapabilityBoundingSet="), [""]);
    assert_eq!(values(&camera, "AmbientCapabilities="), [""]);
    assert_eq!(values(&camera, "DevicePolicy="), ["closed"]);
    assert!(values(&camera, "DeviceAllow=").contains(&"char-video4linux rw") && values(&camera, "DeviceAllow=").contains(&"char-alsa rw"));
    assert_eq!(values(&camera, "SupplementaryGroups="), ["video audio"]);
}

#[test]
fn what_the_example_says_of_sound_lets_the_coordinator_at_the_sound_card_and_at_nothing_else() {
    let example = fs::read_to_string(config_dir().join("coordinator.toml")).unwrap();
    let lines = example.lines().filter_map(|line| line.strip_prefix("#     "));
    let drop_in: Vec<_> = lines.skip_while(|line| *line != "[Service]").collect();
    assert_eq!(drop_in[1..], ["PrivateDevices=no", "DeviceAllow=char-alsa rw", "SupplementaryGroups=audio"]);
    // As systemd reads it: the unit, then what was added.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(UNITS[0]);
    let text = fs::read_to_string(config_dir().join(UNITS[0])).unwrap();
    fs::write(&file, format!("{}\n{}\n", text.replace("/usr/local/bin/dms3-node", env!("CARGO_BIN_EXE_dms3-node")), drop_in.join("\n")))
        .unwrap();
    let answer = systemd_analyze(&["verify", "--man=no"], &file);
    assert!(answer.status.success() && !String::from_utf8_lossy(&answer.stderr).contains(UNITS[0]), "{answer:?}");
    assert_eq!(values(&text, "DevicePolicy="), ["closed"], "whatever else lies in /dev");
}

/// What the service itself may not: wipe a token where only root writes. Before the node starts, and never for so long that systemd gives up.
#[test]
fn a_token_on_the_boot_partition_is_used_by_a_camera_before_it_starts() {
    let [coordinator, camera] = UNITS.map(|unit| fs::read_to_string(config_dir().join(unit)).unwrap());
    assert_eq!(
        values(&camera, "ExecStartPre="),
        ["-+/usr/local/bin/dms3-node enroll --boot --timeout 30s --config /etc/dms3/dms3.toml"],
        "its failure is no reason not to start"
    );
    assert!(values(&coordinator, "ExecStartPre=").is_empty());
    // 90 s by default.
    assert!(values(&camera, "TimeoutStartSec=").is_empty());
}

#[test]
fn a_second_node_on_a_machine_shares_nothing_with_the_first_but_the_binary() {
    let dir = tempfile::tempdir().unwrap();
    let install = config_dir().join("../scripts/install");
    let arguments = ["--role", "camera", "--unit", "dms3-porch", "--binary", env!("CARGO_BIN_EXE_dms3-node"), "--root"];
    let answer = Command::new(install).args(arguments).arg(dir.path()).output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    let unit = fs::read_to_string(dir.path().join("etc/systemd/system/dms3-porch.service")).unwrap();
    for key in ["User", "Group", "ConfigurationDirectory", "StateDirectory", "RuntimeDirectory", "LogsDirectory"] {
        assert_eq!(values(&unit, &format!("{key}=")), ["dms3-porch"]);
    }
    for key in ["ExecStart=", "ExecStartPre="] {
        assert!(values(&unit, key)[0].ends_with("--config /etc/dms3-porch/dms3.toml"), "{unit}");
    }
    let config = fs::read_to_string(dir.path().join("etc/dms3-porch/dms3.toml")).unwrap();
    assert!(config.contains("\nstate_dir = \"/var/lib/dms3-porch\"\n") && config.contains("\nrun_dir = \"/run/dms3-porch\"\n"), "{config}");
}

fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)).collect()
}
