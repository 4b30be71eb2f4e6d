//! The server of DMS3 in Go becomes a coordinator.

use std::fmt::Write as _;
use std::path::Path;

use dms3_core::presence::MacAddr;

use super::source::{Component, Source};
use super::{Imported, Report, camera, mail, quoted};

const SERVER: [&str; 14] = [
    "Server.Port",
    "Server.CheckInterval",
    "Server.EnableDashboard",
    "Audio.Enable",
    "Audio.PlayMotionStart",
    "Audio.PlayMotionStop",
    "AlwaysOn.Enable",
    "AlwaysOn.TimeRange",
    "UserProxy.IPBase",
    "UserProxy.IPRange",
    "UserProxy.MacsToFind",
    "Logging.LogLevel",
    "Logging.LogDevice",
    "Logging.LogFilename",
];
const DASHBOARD: [&str; 9] = [
    "Server.Port",
    "Server.Filename",
    "Server.FileLocation",
    "Server.Title",
    "Server.ReSort",
    "Server.ServerFirst",
    "Server.DeviceStatus.Caution",
    "Server.DeviceStatus.Danger",
    "Server.DeviceStatus.Missing",
];

pub(super) fn convert(source: &Source) -> Imported {
    let mut report = Report::default();
    let mut config = String::from("# Made of the config of DMS3 in Go by `dms3-node import`.\nrole = \"coordinator\"\n");
    config += &logging(&source.server, &mut report);
    config += &web(source, &mut report);
    config += "\n[coordinator]\n";
    source.server.not_needed(&["Server.Port"], "the coordinator listens on UDP port 47100, and cameras find it by themselves", &mut report);
    source.server.not_needed(&["Server.CheckInterval"], "phones are watched all the time, and cameras are told at once", &mut report);
    config += &sound(source, &mut report);
    config += &window(source, &mut report);
    config += &presence(source, &mut report);
    config += &mail::convert(source, &mut report);
    let known: Vec<&str> = SERVER.into_iter().chain(["Logging.LogLocation"]).collect();
    source.server.tell_unknown(&known, &mut report);
    let known: Vec<&str> = DASHBOARD.into_iter().chain(["Client.ImagesFolder"]).collect();
    source.dashboard.tell_unknown(&known, &mut report);
    camera::commands(&source.libs, &mut report);
    source.libs.not_needed(&["SysCommands.MOTION"], "Motion runs on cameras: `import` there looks at it", &mut report);
    Imported { config, report }
}

/// `Logging` of a server or a client.
pub(super) fn logging(of: &Component, report: &mut Report) -> String {
    let mut section = String::from("\n[log]\n");
    if let Some(level) = of.number("Logging.LogLevel", report) {
        let ours = match level {
            0 | 1 => "error",
            4 => "debug",
            _ => "info",
        };
        let _ = writeln!(section, "level = \"{ours}\"");
        report.carried(&of.key("Logging.LogLevel"), format!("[log] level = \"{ours}\""));
    }
    match of.number("Logging.LogDevice", report) {
        Some(1) => {
            let place = of.text("Logging.LogLocation", report).unwrap_or_else(|| "/var/log/dms3".to_owned());
            let path = if place.starts_with('/') {
                format!("{}/node.log", place.trim_end_matches('/'))
            } else {
                "/var/log/dms3/node.log".to_owned()
            };
            let _ = writeln!(section, "target = {}", quoted(&path));
            report.carried(&of.key("Logging.LogDevice"), format!("[log] target = {}", quoted(&path)));
            if of.get("Logging.LogLocation").is_some() && path.starts_with("/var/log/dms3/") {
                report.carried(&of.key("Logging.LogLocation"), format!("[log] target = {}", quoted(&path)));
            }
            if !path.starts_with("/var/log/dms3/") {
                report.look(&of.key("Logging.LogLocation"), "the service may write to /var/log/dms3 only, unless you change its unit");
            }
        }
        Some(_) => report.not_needed(&of.key("Logging.LogDevice"), "the log goes to systemd's journal: journalctl -u dms3-node"),
        None => {}
    }
    of.not_needed(&["Logging.LogFilename"], "the file is called node.log", report);
    if of.number("Logging.LogDevice", &mut Report::default()) != Some(1) {
        of.not_needed(&["Logging.LogLocation"], "nothing is written there", report);
    }
    section
}

fn web(source: &Source, report: &mut Report) -> String {
    let (server, dashboard) = (&source.server, &source.dashboard);
    let mut section = String::from("\n[web]\n");
    if let Some(enabled) = server.yes("Server.EnableDashboard", report) {
        let _ = writeln!(section, "enabled = {enabled}");
        report.carried(&server.key("Server.EnableDashboard"), format!("[web] enabled = {enabled}"));
    }
    if let Some(port) = dashboard.number("Server.Port", report) {
        report.look(
            &dashboard.key("Server.Port"),
            format!(
                "the page is at https://NAME.local:8443 now, with accounts and TLS. To keep the number: [web] listen = \"[::]:{port}\""
            ),
        );
    }
    if let Some(title) = dashboard.text("Server.Title", report) {
        let _ = writeln!(section, "title = {}", quoted(&title));
        report.carried(&dashboard.key("Server.Title"), format!("[web] title = {}", quoted(&title)));
    }
    dashboard.not_needed(&["Server.ReSort"], "cameras are always listed by name", report);
    if let Some(first) = dashboard.yes("Server.ServerFirst", report) {
        let _ = writeln!(section, "coordinator_first = {first}");
        report.carried(&dashboard.key("Server.ServerFirst"), format!("[web] coordinator_first = {first}"));
    }
    let look = "it counts in polls, which are no more: a camera that is silent for 10 s is shown in yellow, after 30 s it is lost and people are told. \
                [web.limits] silence_warn changes the first";
    for key in ["Server.DeviceStatus.Caution", "Server.DeviceStatus.Danger"] {
        if dashboard.get(key).is_some() {
            report.look(&dashboard.key(key), look);
        }
    }
    dashboard.not_needed(&["Server.DeviceStatus.Missing"], "a camera stays on the page until a person revokes it", report);
    for key in ["Server.Filename", "Server.FileLocation"] {
        if let Some(text) = dashboard.text(key, report) {
            match (key, text.as_str()) {
                ("Server.Filename", "dms3dashboard.html") => report.not_needed(&dashboard.key(key), "it is the one that came with it"),
                _ => report.look(
                    &dashboard.key(key),
                    "a page of your own is written anew: `dms3-node web templates export DIR`, then [web] template_dir",
                ),
            }
        } else if dashboard.get(key).is_some() {
            report.not_needed(&dashboard.key(key), "it was not set");
        }
    }
    dashboard.not_needed(&["Client.ImagesFolder"], "events are counted where they are kept, on the coordinator", report);
    section
}

/// It lies on every camera there.
pub(super) fn dashboard_of_a_camera(dashboard: &Component, report: &mut Report) {
    dashboard.not_needed(&DASHBOARD, "the page is the coordinator's", report);
    dashboard.not_needed(&["Client.ImagesFolder"], "events are counted where they are kept, on the coordinator", report);
    let known: Vec<&str> = DASHBOARD.into_iter().chain(["Client.ImagesFolder"]).collect();
    dashboard.tell_unknown(&known, report);
}

fn sound(source: &Source, report: &mut Report) -> String {
    let server = &source.server;
    // Without the key there was no sound.
    let enabled = server.yes("Audio.Enable", report).unwrap_or(false);
    let mut section = format!("\n[coordinator.sound]\nenabled = {enabled}\n");
    if server.get("Audio.Enable").is_some_and(toml::Value::is_bool) {
        report.carried(&server.key("Audio.Enable"), format!("[coordinator.sound] enabled = {enabled}"));
    }
    for (key, ours) in [("Audio.PlayMotionStart", "armed"), ("Audio.PlayMotionStop", "disarmed")] {
        match server.text(key, report) {
            Some(path) if path.starts_with('/') && !Path::new(&path).is_file() => {
                report.look(&server.key(key), format!("there is no file {path:?}: our own sound is played"));
            }
            Some(path) if path.starts_with('/') => {
                let _ = writeln!(section, "{ours} = {}", quoted(&path));
                report.carried(&server.key(key), format!("[coordinator.sound] {ours} = {}", quoted(&path)));
            }
            Some(path) => report.look(&server.key(key), format!("{path:?} is no absolute path: our own sound is played")),
            None if server.get(key).is_some_and(toml::Value::is_str) => {
                report.not_needed(&server.key(key), "it was not set: our own sound is played")
            }
            None => {}
        }
    }
    section
}

/// "Always On" is a window: then the house is armed whoever is home.
fn window(source: &Source, report: &mut Report) -> String {
    let server = &source.server;
    let (on, range) = (server.yes("AlwaysOn.Enable", report), server.texts("AlwaysOn.TimeRange", report));
    let (enable, times) = (server.key("AlwaysOn.Enable"), server.key("AlwaysOn.TimeRange"));
    let Some(range) = range else {
        if on.is_some() {
            report.look(&enable, "there is no time range with it: no window was written");
        }
        return String::new();
    };
    let [from, to] = range.as_slice() else {
        report.look(&times, format!("{} times where two belong: no window was written", range.len()));
        return String::new();
    };
    let (from, to) = match (Time::read(from), Time::read(to)) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(why), _) | (_, Err(why)) => {
            report.look(&times, format!("{why}: no window was written"));
            return String::new();
        }
    };
    if from.minute == to.minute {
        report.look(&times, "it begins when it ends, which never was: no window was written");
        return String::new();
    }
    // A window that is armed is rather longer than shorter.
    let (from_text, to_text) = (clock(from.minute), clock(if to.seconds { (to.minute + 1) % (24 * 60) } else { to.minute }));
    let ours = format!("[[coordinator.window]] state = \"night\", from = \"{from_text}\", to = \"{to_text}\"");
    if from.odd || to.odd {
        report.look(&times, format!("carried over as {ours}, though DMS3 in Go did not understand it that way (it reads \"HHMM\")"));
    } else {
        report.carried(&times, ours);
    }
    if on == Some(false) {
        report.look(&enable, "it was switched off: the window is written as a comment");
    } else {
        report.carried(&enable, "that window");
    }
    let text = format!("\n[[coordinator.window]]\nstate = \"night\"\nfrom = \"{from_text}\"\nto = \"{to_text}\"\n");
    if on == Some(false) {
        text.replace("\n[", "\n# [").replace("\nstate", "\n# state").replace("\nfrom", "\n# from").replace("\nto", "\n# to")
    } else {
        text
    }
}

/// A time of the Go program: "HHMMSS", filled up with zeros from the right.
struct Time {
    minute: u16,
    seconds: bool,
    /// Written as people do, not as it was read there.
    odd: bool,
}

impl Time {
    fn read(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let odd = digits.len() != text.len();
        let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |part| part.parse::<u16>().ok());
        let even = matches!(digits.len(), 2 | 4 | 6);
        match (part(0), part(2), part(4)) {
            (Some(hour), Some(minute), Some(second)) if even && hour < 24 && minute < 60 && second < 60 => {
                Ok(Self { minute: hour * 60 + minute, seconds: second > 0, odd })
            }
            (Some(24), Some(0), Some(0)) if even => Ok(Self { minute: 0, seconds: false, odd }),
            _ => Err(format!("{text:?} is no time of day as \"2300\" is one")),
        }
    }
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn presence(source: &Source, report: &mut Report) -> String {
    let server = &source.server;
    server.not_needed(&["UserProxy.IPBase", "UserProxy.IPRange"], "phones are found in the whole network of this machine", report);
    let key = server.key("UserProxy.MacsToFind");
    let macs = server.texts("UserProxy.MacsToFind", report).unwrap_or_default();
    let mut people = String::new();
    let mut number = 0;
    for mac in &macs {
        match MacAddr::parse(mac) {
            Ok(mac) if people.contains(&mac.to_string()) => report.look(&key, format!("{mac} is there twice")),
            Ok(mac) => {
                number += 1;
                let _ = write!(people, "\n[[coordinator.presence.person]]\nname = \"Person {number}\"\ndevices = [\"{mac}\"]\n");
                report.look(
                    &key,
                    format!("{mac} is the phone of \"Person {number}\" now: write a name, and further devices to the same person"),
                );
            }
            Err(_) => report.look(&key, format!("{mac:?} is no MAC address and was left out")),
        }
    }
    if people.is_empty() {
        report.look(
            &key,
            "there is no device in it: only people arm and disarm this house until you name who lives here ([[coordinator.presence.person]])",
        );
        return "\n[coordinator.presence]\nenabled = false\n".to_owned();
    }
    people
}
