//! A client of DMS3 in Go becomes a camera.

use std::fmt::Write as _;

use super::source::{Component, Source};
use super::{Imported, Report, coordinator, mail, quoted};

const CLIENT: [&str; 7] = [
    "Server.IP",
    "Server.Port",
    "Server.CheckInterval",
    "Logging.LogLevel",
    "Logging.LogDevice",
    "Logging.LogFilename",
    "Logging.LogLocation",
];
/// All but `MOTION`.
const COMMANDS: [&str; 9] = ["APLAY", "BASH", "CAT", "ENV", "GREP", "IP", "PGREP", "PING", "PKILL"];

pub(super) fn convert(source: &Source) -> Imported {
    let mut report = Report::default();
    let client = &source.client;
    let mut config = String::from("# Made of the config of DMS3 in Go by `dms3-node import`.\nrole = \"camera\"\n");
    config += &coordinator::logging(client, &mut report);
    if let Some(address) = client.text("Server.IP", &mut report) {
        report.not_needed(&client.key("Server.IP"), "the coordinator is found by itself; on a network without mDNS: [mesh] peers");
        if is_plain(&address) {
            let _ = write!(config, "\n[mesh]\n# Only for a network without mDNS:\n# peers = [{}]\n", quoted(&address));
        }
    }
    client.not_needed(
        &["Server.Port", "Server.CheckInterval"],
        "the coordinator tells its cameras at once, on a link that stays",
        &mut report,
    );
    client.tell_unknown(&CLIENT, &mut report);
    config += &motion(source, &mut report);
    coordinator::dashboard_of_a_camera(&source.dashboard, &mut report);
    mail::of_a_camera(source, &mut report);
    Imported { config, report }
}

/// `SysCommands` but for Motion, of either role.
pub(super) fn commands(libs: &Component, report: &mut Report) {
    for name in COMMANDS {
        libs.not_needed(&[&format!("SysCommands.{name}")], "nothing of ours starts other programs to find out who is home", report);
    }
    let known: Vec<String> = COMMANDS.iter().chain(&["MOTION"]).map(|name| format!("SysCommands.{name}")).collect();
    libs.tell_unknown(&known.iter().map(String::as_str).collect::<Vec<_>>(), report);
}

/// `SysCommands.MOTION`: any line for the shell there, a program and its arguments here.
fn motion(source: &Source, report: &mut Report) -> String {
    let libs = &source.libs;
    let mut detector = String::from("\n[camera]\n\n[[camera.detector]]\nwatch_in = [\"night\", \"away\"]\n");
    report.carried("watch_in", "watch_in = [\"night\", \"away\"]: as there, it watches in an \"Always On\" range with people at home too");
    commands(libs, report);
    let Some(line) = libs.text("SysCommands.MOTION", report) else { return detector };
    let key = libs.key("SysCommands.MOTION");
    if !line.split_whitespace().all(is_plain) {
        report.look(&key, format!("{line:?} is a line for the shell: write it as command = [\"program\", \"argument\"]"));
        return detector;
    }
    let mut words: Vec<&str> = line.split_whitespace().collect();
    // Its own config stays its own; `-n` and `-c` are given by us.
    let config = words.iter().position(|word| *word == "-c").and_then(|at| {
        let path = words.get(at + 1).copied();
        words.drain(at..(at + 2).min(words.len()));
        path
    });
    words.retain(|word| !matches!(*word, "-n" | "-b"));
    let command: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let _ = writeln!(detector, "command = [{}]", command.join(", "));
    let conf = config.unwrap_or("/etc/motion/motion.conf");
    if conf.starts_with('/') {
        let _ = writeln!(
            detector,
            "# Your own motion.conf, as it is. Without this line DMS3 writes one, and what Motion saw is moved to the coordinator.\nconfig = {}",
            quoted(conf)
        );
        report.carried(&key, format!("command = [{}], config = {}", command.join(", "), quoted(conf)));
        report.look(
            conf,
            "\"daemon on\" in it is overruled; put the lines of config/motion-hooks.conf into it, or keep its line for dms3mail",
        );
    } else {
        report.look(&key, format!("{conf:?} is no absolute path: DMS3 writes a motion.conf of its own"));
    }
    detector
}

/// Nothing in it that a shell would take for something else.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c))
}
