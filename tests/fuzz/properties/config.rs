//! dms3.toml: what is read can be run, a mistake is told with its line, and no password is ever shown.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use dms3_core::arming::{ArmState, LEASE};
use dms3_core::camera::OnLost;
use dms3_node::camera::detector::{Detector, DetectorConfig, MotionConf, PictureSource};
use dms3_node::config::{Config, CoordinatorConfig, Role};
use dms3_node::mailer::MailConfig;
use dms3_node::mailer::config::Security;

const PASSWORD: &str = "hunter2";
const URL: &str = "rtsp://me:hunter2@x/";
/// As people write it, right and wrong.
const LINES: [&str; 8] = [
    "password = \"hunter2\"",
    "password = hunter2",
    "password = \"hunter2",
    "password = [\"hunter2\"]",
    "url = \"rtsp://me:hunter2@x/\"",
    "url = \"rtsp://me:hunter2@x/ \"",
    "width = \"rtsp://me:hunter2@x/\"",
    "url = \"rtsp://me:hunter2@x/",
];

/// A text, and as a first byte which line with a password comes before which of its lines; none if there is no such line.
pub(crate) fn config(bytes: &[u8]) {
    let Some((first, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    check(text);
    // In a text of several lines it would be no password.
    if text.contains(PASSWORD) || text.contains("\"\"\"") || text.contains("'''") {
        return;
    }
    let (which, at) = (usize::from(first & 7), usize::from(first >> 3));
    let mut lines: Vec<&str> = text.split('\n').collect();
    if at <= lines.len() {
        lines.insert(at, LINES[which]);
        let told = check(&lines.join("\n"));
        assert!(!told.contains(PASSWORD), "{told}");
    }
}

/// All that is said about it.
fn check(text: &str) -> String {
    let path = Path::new("/nowhere/dms3.toml");
    match Config::parse(text, path) {
        Err(error) => {
            let told = format!("{error:#}");
            let place = told.strip_prefix("/nowhere/dms3.toml is not valid: line ").and_then(|rest| rest.split_once(": "));
            let line = place.and_then(|(line, why)| line.parse::<usize>().ok().filter(|_| !why.is_empty()));
            assert!(line.is_some_and(|line| (1..=text.matches('\n').count() + 1).contains(&line)), "{told}");
            told
        }
        Ok(config) => {
            can_run(&config);
            config.warnings.join("\n")
        }
    }
}

fn can_run(config: &Config) {
    assert!(config.state_dir.is_absolute() && config.run_dir.is_absolute());
    assert!(config.mesh.mdns_port > 0 && config.mesh.limits.reserve < config.mesh.limits.handshakes);
    if let Some(mail) = &config.mail {
        can_mail(mail);
    }
    match &config.role {
        Role::Camera(camera) => {
            let names: HashSet<_> = camera.detectors.iter().map(|detector| detector.name.to_lowercase()).collect();
            assert!(!names.is_empty() && names.len() == camera.detectors.len());
            camera.detectors.iter().for_each(can_watch);
            assert!(camera.spool_dir.is_absolute());
            if let OnLost::ArmAfter { after, state } = camera.on_coordinator_lost.0 {
                assert!(state != ArmState::Disarmed && !after.is_zero() && after <= LEASE);
            }
        }
        Role::Coordinator(coordinator) => can_decide(coordinator),
    }
}

fn can_watch(detector: &DetectorConfig) {
    assert!(!detector.watch_in.is_empty() && !detector.watch_in.contains(&ArmState::Disarmed), "{detector:?}");
    assert!(!detector.name.contains(['/', '\0']) && !detector.name.starts_with('.'), "it names a directory: {detector:?}");
    let Detector::Motion(motion) = &detector.detector;
    assert!(motion.command.first().is_some_and(|program| !program.is_empty()));
    let MotionConf::Written(conf) = &motion.conf else { return };
    // Each is a line of motion.conf.
    let is_line = |text: &str| !text.contains(char::is_control);
    for (key, value) in &conf.extra {
        assert!(!key.is_empty() && is_line(key) && is_line(value), "{key:?}: {value:?}");
    }
    match &conf.picture {
        PictureSource::Device(path) => assert!(path.is_absolute() && is_line(&path.to_string_lossy())),
        PictureSource::Url(url) => {
            assert!(is_line(url));
            assert!(url != URL || !conf.picture.shown().contains(PASSWORD));
        }
    }
}

fn can_decide(coordinator: &CoordinatorConfig) {
    let presence = &coordinator.presence;
    assert!(!presence.enabled || !presence.people.is_empty());
    for (person, read) in presence.people.iter().zip(presence.people()) {
        assert!(!read.name.is_empty(), "{person:?}");
        assert_eq!(read.devices.len(), person.devices.len());
        assert!(read.away_after >= Duration::from_secs(5));
    }
    assert!(coordinator.exit_delay <= Duration::from_secs(3600), "such a house is not armed");
}

fn can_mail(mail: &MailConfig) {
    assert!(!mail.to.is_empty() && mail.port > 0 && !mail.timeout.is_zero());
    let is_here = ["localhost", "127.", "::1", "::ffff:127."].iter().any(|here| mail.server.to_ascii_lowercase().starts_with(here));
    assert!(mail.security != Security::None || mail.allow_clear_text || is_here, "{mail:?}");
    assert!(!format!("{mail:?}").contains(PASSWORD));
}
