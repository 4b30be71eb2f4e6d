//! Every key of DMS3 in Go has a word in the report, and what is written can be run.

use std::path::Path;

use super::source::{Component, Source};
use super::*;
use crate::config;

/// As they are shipped with DMS3 1.4.8.
const SERVER: &str = r#"
[Server]
Port = 49300
CheckInterval = 15
EnableDashboard = true
[Audio]
Enable = true
PlayMotionStart = ""
PlayMotionStop = ""
[AlwaysOn]
Enable = true
TimeRange = ["2300", "0400"]
[UserProxy]
IPBase = "10.10.10."
IPRange = [100, 254]
MacsToFind = ["24:da:9b:0d:53:8f", "f8:cf:c5:d2:bb:9e"]
[Logging]
LogLevel = 2
LogDevice = 0
LogFilename = "dms3server.log"
LogLocation = "/var/log/dms3"
"#;
const CLIENT: &str = r#"
[Server]
IP = "10.10.10.9"
Port = 49300
CheckInterval = 15
[Logging]
LogLevel = 2
LogDevice = 1
LogFilename = "dms3client.log"
LogLocation = "/var/log/dms3"
"#;
const DASHBOARD: &str = r#"
[Server]
Port = 8081
Filename = "dms3dashboard.html"
FileLocation = ""
Title = "DMS3 Dashboard"
ReSort = true
ServerFirst = true
[Server.DeviceStatus]
Caution = 200
Danger = 3000
Missing = 28800
[Client]
ImagesFolder = "/home/pi/pictures"
"#;
const MAIL: &str = r#"
Filename = "dms3mail.html"
FileLocation = ""
[Email]
From = "house@example.org"
To = "family@example.org"
[SMTP]
Address = "smtp.gmail.com"
Port = 587
Username = "house"
Password = "very secret"
[Logging]
LogLevel = 1
LogDevice = 1
LogFilename = "dms3mail.log"
LogLocation = "/var/log/dms3"
"#;
const LIBS: &str = r#"
[SysCommands]
APLAY = "/usr/bin/aplay"
BASH = "/usr/bin/bash"
CAT = "/usr/bin/cat"
ENV = "/usr/bin/env"
GREP = "/usr/bin/grep"
IP = "/usr/sbin/ip"
MOTION = "/usr/bin/motion"
PGREP = "/usr/bin/pgrep"
PING = "/usr/bin/ping"
PKILL = "/usr/bin/pkill"
"#;

fn shipped() -> Source {
    Source {
        server: Component::of("dms3server", SERVER),
        client: Component::of("dms3client", CLIENT),
        dashboard: Component::of("dms3dashboard", DASHBOARD),
        mail: Component::of("dms3mail", MAIL),
        libs: Component::of("dms3libs", LIBS),
    }
}

fn with_server(text: &str) -> Source {
    Source { server: Component::of("dms3server", text), dashboard: Component::default(), mail: Component::default(), ..shipped() }
}

/// The config as the node reads it, and the report.
fn imported(source: &Source, role: Role) -> (config::Config, String) {
    let imported = convert(source, role);
    let config = config::Config::parse(&imported.config, Path::new("/etc/dms3/dms3.toml"));
    (config.unwrap_or_else(|error| panic!("{error:#}\n{}", imported.config)), imported.report.text())
}

fn keys(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap();
    let mut keys: Vec<String> = Vec::new();
    let mut open: Vec<(String, toml::Table)> = vec![(String::new(), table)];
    while let Some((prefix, table)) = open.pop() {
        for (name, value) in table {
            match value {
                toml::Value::Table(table) => open.push((format!("{prefix}{name}."), table)),
                _ => keys.push(format!("{prefix}{name}")),
            }
        }
    }
    keys
}

#[test]
fn every_key_that_it_ships_has_a_word_in_the_report() {
    let (_, server) = imported(&shipped(), Role::Coordinator);
    let (_, client) = imported(&shipped(), Role::Camera);
    for (name, text, report) in [
        ("dms3server", SERVER, &server),
        ("dms3dashboard", DASHBOARD, &server),
        ("dms3mail", MAIL, &server),
        ("dms3libs", LIBS, &server),
        ("dms3client", CLIENT, &client),
        ("dms3libs", LIBS, &client),
        ("dms3dashboard", DASHBOARD, &client),
    ] {
        for key in keys(text) {
            assert!(report.contains(&format!("{name} {key}:")), "{name} {key} is not in\n{report}");
        }
    }
    assert!(!server.contains("very secret"));
    let config = convert(&shipped(), Role::Coordinator).config;
    assert!(config.contains("very secret") && !without_password(&config).contains("very secret"));
}

#[test]
fn the_server_becomes_a_coordinator_that_knows_its_people_and_its_nights() {
    let (config, report) = imported(&shipped(), Role::Coordinator);
    let own = config.coordinator().unwrap();
    let people: Vec<_> = own.presence.people().iter().map(|person| person.devices.len()).collect();
    assert_eq!(people, [1, 1]);
    let [window] = own.windows.as_slice() else { panic!("{:?}", own.windows) };
    assert_eq!((window.state, window.from.as_str(), window.to.as_str()), (dms3_core::arming::ArmState::Night, "23:00", "04:00"));
    assert_eq!((own.web.enabled, own.web.title.as_str()), (true, "DMS3 Dashboard"));
    assert_eq!(config.mail.as_ref().map(|mail| (mail.server.as_str(), mail.port)), Some(("smtp.gmail.com", 587)));
    assert!(report.contains("24:da:9b:0d:53:8f is the phone of \"Person 1\" now: write a name"));
}

#[test]
fn the_client_becomes_a_camera_that_watches_at_night_too_with_its_own_motion() {
    let (config, report) = imported(&shipped(), Role::Camera);
    let config::Role::Camera(camera) = &config.role else { panic!("no camera") };
    let [detector] = camera.detectors.as_slice() else { panic!("{:?}", camera.detectors) };
    assert_eq!(detector.watch_in.len(), 2);
    assert!(report.contains("the coordinator mails what this camera sees"));
    for (line, words) in [
        ("/usr/bin/libcamerify motion", "command = [\"/usr/bin/libcamerify\", \"motion\"], config = \"/etc/motion/motion.conf\""),
        ("/usr/local/bin/motion -c /usr/local/etc/motion/motion.conf", "config = \"/usr/local/etc/motion/motion.conf\""),
        ("motion; rm -rf /", "PLEASE LOOK AT IT"),
    ] {
        let libs = Component::of("dms3libs", &format!("[SysCommands]\nMOTION = {}", quoted(line)));
        let (_, report) = imported(&Source { libs, ..shipped() }, Role::Camera);
        assert!(report.contains(words), "{line}: {report}");
    }
}

#[test]
fn odd_files_are_read_as_far_as_they_make_sense_and_the_rest_is_told() {
    for (text, told) in [
        ("", "only people arm and disarm this house"),
        ("[UserProxy]\nMacsToFind = []", "only people arm and disarm this house"),
        ("[UserProxy]\nMacsToFind = ['24-DA-9B-0D-53-8F', 'phone']", "\"phone\" is no MAC address and was left out"),
        ("[UserProxy]\nMacsToFind = '24:da:9b:0d:53:8f'", "it is no list of texts"),
        ("[Server]\nEnableDashboard = 'yes'", "it is string where true or false belongs"),
        ("[Server]\nChekInterval = 15", "DMS3 in Go knows no such key"),
        ("[AlwaysOn]\nEnable = true", "there is no time range with it"),
        ("[AlwaysOn]\nEnable = true\nTimeRange = ['8', '9']", "\"8\" is no time of day as \"2300\" is one: no window was written"),
        (
            "[AlwaysOn]\nEnable = true\nTimeRange = ['23:00', '04:00']",
            "from = \"23:00\", to = \"04:00\", though DMS3 in Go did not understand it",
        ),
        ("[AlwaysOn]\nEnable = true\nTimeRange = ['23', '0400']", "from = \"23:00\", to = \"04:00\""),
        ("[AlwaysOn]\nEnable = true\nTimeRange = ['230059', '040001']", "from = \"23:00\", to = \"04:01\""),
        ("[AlwaysOn]\nEnable = true\nTimeRange = ['0800', '0800']", "it begins when it ends"),
        ("[AlwaysOn]\nEnable = true\nTimeRange = ['2300']", "1 times where two belong"),
        ("[AlwaysOn]\nEnable = false\nTimeRange = ['2300', '0400']", "the window is written as a comment"),
        ("[Audio]\nPlayMotionStart = 'beep.wav'", "is no absolute path"),
        ("[Audio]\nPlayMotionStart = '/nowhere/beep.wav'", "there is no file \"/nowhere/beep.wav\": our own sound is played"),
    ] {
        let (config, report) = imported(&with_server(text), Role::Coordinator);
        assert!(report.contains(told), "{text}\n{report}");
        let windows = config.coordinator().unwrap().windows.len();
        assert_eq!(windows, usize::from(text.contains("Enable = true") && report.contains("to = ")), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dms3server.toml"), "[Server]\nPort = = 1\n").unwrap();
    let error = Source::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("dms3server.toml line 2"), "{error}");
}

#[test]
fn a_mail_account_without_a_server_mails_nothing_and_says_so() {
    let source = Source { mail: Component::of("dms3mail", "[Email]\nFrom = 'a@b.c'"), ..shipped() };
    let (config, report) = imported(&source, Role::Coordinator);
    assert!(config.mail.is_none() && report.contains("no section [mail] was written"));
    let tls = MAIL.replace("587", "465");
    let (config, _) = imported(&Source { mail: Component::of("dms3mail", &tls), ..shipped() }, Role::Coordinator);
    assert_eq!(config.mail.unwrap().security, crate::mailer::config::Security::Tls);
}

#[test]
fn a_config_that_is_there_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/dms3.toml");
    write_new(&path, "role = 'camera'").unwrap();
    let error = write_new(&path, "role = 'coordinator'").unwrap_err().to_string();
    assert!(error.contains("exists: move it away first"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "role = 'camera'");
}
