//! The example configs: what a user starts from can be used.

use std::fs;
use std::path::Path;
use std::process::Command;

use dms3_node::config::Config;

const EXAMPLES: [&str; 2] = ["coordinator.toml", "camera.toml"];

fn read(example: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(example)).unwrap()
}

fn check_config(text: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dms3.toml");
    fs::write(&file, text).unwrap();
    let answer = Command::new(env!("CARGO_BIN_EXE_dms3-node")).arg("check-config").arg("--config").arg(&file).output().unwrap();
    (answer.status.success(), format!("{}{}", String::from_utf8_lossy(&answer.stderr), String::from_utf8_lossy(&answer.stdout)))
}

#[test]
fn every_example_config_can_be_used_as_it_is() {
    for example in EXAMPLES {
        let text = read(example);
        let (good, said) = check_config(&text);
        assert!(good, "{example}: {said}");
    }
}

/// A key stands behind a bare `#`, text behind `# `.
fn written_out(text: &str) -> String {
    let is_key = |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let keys = text.lines().filter(|line| is_key(line)).count();
    assert!(keys >= 10, "it explains only {keys} keys");
    text.lines().map(|line| if is_key(line) { &line[1..] } else { line }).flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn what_an_example_config_calls_a_default_is_the_default() {
    for example in EXAMPLES {
        let text = read(example);
        let config = |text: &str| format!("{:#?}", Config::parse(text, Path::new(example)).unwrap_or_else(|error| panic!("{error:#}")));
        assert_eq!(config(&text), config(&written_out(&text)), "{example}: as it is, and with every default written out");
    }
}

#[test]
fn what_the_example_says_of_mail_can_be_used_once_it_is_no_comment() {
    let text = read("coordinator.toml");
    let (before, mail) = text.split_once("# [mail]\n").unwrap();
    let keys = mail.lines().filter_map(|line| line.strip_prefix("# ")).map(|line| line.strip_prefix("  ").ok_or(line));
    // Prose is no key.
    let keys: Vec<_> = keys.filter_map(|line| line.or_else(|line| if line.starts_with("[[") { Ok(line) } else { Err(()) }).ok()).collect();
    let written = |others: &[&str]| {
        let keys: Vec<_> = keys.iter().filter(|key| !others.iter().any(|other| key.starts_with(other))).copied().collect();
        let config = Config::parse(&format!("{before}[mail]\n{}\n", keys.join("\n")), Path::new("dms3.toml"));
        config.unwrap_or_else(|error| panic!("{error:#}")).mail.unwrap()
    };
    let mail = written(&["password =", "password_credential"]);
    let least = written(&["password", "user", "port", "security", "allow", "max", "timeout", "hello", "ca_file", "dashboard"]);
    assert_eq!(
        (mail.port, mail.security, mail.allow_clear_text, mail.max_attachment, mail.timeout),
        (least.port, least.security, least.allow_clear_text, least.max_attachment, least.timeout),
        "what looks like a default is one"
    );
    written(&["password =", "password_file"]);
    written(&["password_file", "password_credential"]);
}

#[test]
fn a_misspelt_key_is_named_with_its_line() {
    let (good, said) = check_config("role = \"camera\"\n[mesh]\nlisen = \"[::]:1\"\n");
    assert!(!good);
    assert!(said.contains("lisen") && said.contains("line 3") && said.contains("listen"), "{said}");
}

/// The keys that may stand in `section`, as the program itself names them when it hears of another one.
fn keys_of(role: &str, section: &str) -> Vec<String> {
    let (_, said) = check_config(&format!("role = \"{role}\"\n{section}\nno_such_key = 1\n"));
    let list = said.rsplit("expected ").next().unwrap();
    let keys: Vec<_> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(said.contains("no_such_key") && !keys.is_empty(), "{section}: {said}");
    keys
}

#[test]
fn every_key_that_can_be_written_stands_in_the_example_of_its_role() {
    for (role, sections) in [
        (
            "coordinator",
            &[
                "",
                "[log]",
                "[mesh]",
                "[mesh.limits]",
                "[coordinator]",
                "[coordinator.events]",
                "[coordinator.presence]",
                "[[coordinator.presence.person]]",
                "[coordinator.sound]",
                "[web]",
                "[web.limits]",
                "[mail]",
                "[[mail.camera]]",
            ][..],
        ),
        ("camera", &["", "[log]", "[mesh]", "[mesh.limits]", "[camera]", "[camera.outbox]", "[camera.sound]", "[[camera.detector]]"][..]),
    ] {
        let text = read(&format!("{role}.toml"));
        for section in sections {
            // The text of this section alone, so that `listen` of another one does not count.
            let start = if section.is_empty() {
                0
            } else {
                // What a user must fill in stands in a comment.
                let at = text.find(&format!("\n{section}\n")).or_else(|| text.find(&format!("\n# {section}\n")));
                at.unwrap_or_else(|| panic!("{role}: {section}")) + 1
            };
            let end = text[start + 1..].find("\n[").map_or(text.len(), |end| start + 1 + end);
            for key in keys_of(role, section) {
                let sub_section = [format!("[{key}]"), format!("{}.{key}]", section.trim_matches(['[', ']']))];
                let other_role =
                    ["coordinator", "camera"].contains(&key.as_str()) || (role == "camera" && ["mail", "web"].contains(&key.as_str()));
                let there = text[start..end].lines().any(|line| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = ")))
                    || sub_section.iter().any(|name| text.contains(name));
                assert!(there || other_role, "{role}.toml does not explain {key} in {section}");
            }
        }
    }
}
