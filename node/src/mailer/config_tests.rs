//! What may stand in `[mail]`, and what is said of the rest.

use super::*;
use crate::config_text::told;

const LEAST: &str = "server = \"smtp.example.org\"\nfrom = \"dms3@example.org\"\nto = [\"anna@example.org\"]\n";

fn with(lines: &str) -> Result<(MailConfig, Vec<String>), String> {
    #[derive(Deserialize)]
    struct File {
        mail: MailFile,
    }
    let text = format!("[mail]\n{LEAST}{lines}");
    let file: File = toml::from_str(&text).map_err(|error| told(&error, &text))?;
    MailConfig::new(file.mail, Path::new("/no/such/dms3.toml")).map_err(|wrong| wrong.within("mail").told(&text))
}

#[test]
fn a_server_a_sender_and_somebody_to_tell_are_enough() {
    let (config, warnings) = with("").unwrap();
    assert_eq!((config.port, config.security, config.login.is_none()), (587, Security::StartTls, true));
    assert_eq!((config.max_attachment, config.timeout, config.from_name.as_str()), (15_000_000, Duration::from_secs(20), "DMS3"));
    assert_eq!(warnings, Vec::<String>::new());
    for (security, port) in [("starttls", 587), ("tls", 465)] {
        assert_eq!(with(&format!("security = {security:?}")).unwrap().0.port, port);
    }
    let here = "security = \"none\"\nserver = \"::1\"";
    let text = LEAST.replace("server = \"smtp.example.org\"", here);
    let file: MailFile = toml::from_str(&text).unwrap();
    assert_eq!(MailConfig::new(file, Path::new("/")).unwrap().0.port, 25);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        server = "mail.example.org."
        port = 2525
        user = "dms3"
        password_file = "/etc/dms3/mail.password"
        ca_file = "/etc/dms3/mail-ca.pem"
        from = "\"House, by the lake\" <dms3@example.org>"
        to = ["anna@example.org", "ben@example.net"]
        hello_name = "coordinator.example.org"
        max_attachment = "0MB"
        timeout = "1m"
        dashboard_url = "https://dms3.local:8443"
    "#;
    let (config, warnings) = MailConfig::new(toml::from_str(text).unwrap(), Path::new("/")).unwrap();
    assert_eq!((config.server.as_str(), config.port, config.max_attachment), ("mail.example.org", 2525, 0));
    assert_eq!(config.login.unwrap().password, Password::File("/etc/dms3/mail.password".into()));
    assert_eq!((config.from.as_str(), config.from_name.as_str()), ("dms3@example.org", "House, by the lake"));
    assert_eq!(config.to.len(), 2);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn clear_text_to_another_machine_is_refused_unless_somebody_says_so_by_name() {
    let why = with("security = \"none\"").unwrap_err();
    assert!(why.contains("security") && why.contains("starttls") && why.contains("allow_clear_text = true"), "{why}");
    let (_, warnings) = with("security = \"none\"\nallow_clear_text = true").unwrap();
    assert!(warnings[0].contains("without TLS"), "{warnings:?}");
}

#[test]
fn what_cannot_work_is_refused_with_key_and_what_is_allowed() {
    for (lines, words) in [
        ("port = 0", vec!["port", "65535"]),
        ("port = 70000", vec!["port", "70000", "1 to 65535"]),
        ("port = \"hunter2\"", vec!["port", "1 to 65535"]),
        ("security = \"ssl\"", vec!["security", "ssl", "starttls", "tls"]),
        ("security = true", vec!["security", "`starttls`, `tls`, `none`"]),
        ("allow_clear_text = \"yes\"", vec!["allow_clear_text", "true or false"]),
        ("hourly_cap = 0", vec!["hourly_cap", "1 to 1000"]),
        ("cooldown = \"2d\"", vec!["cooldown", "0s to 24h"]),
        ("camera = [{ name = \"a\", states = [false] }]", vec!["camera] states", "night", "away"]),
        ("camera = [{ name = \"a\", hours = [\"22\"] }]", vec!["camera] hours", "22:00-06:30"]),
        ("user = \"dms3\"", vec!["user", "no password"]),
        ("password = \"hunter2\"", vec!["user", "no user"]),
        ("user = \"\"\npassword = \"hunter2\"", vec!["user", "empty"]),
        ("user = \"a\"\npassword = \"\"", vec!["password", "empty"]),
        ("user = \"a\"\npassword = 12345", vec!["password", "between quotes"]),
        ("user = \"a\"\npassword = \"hunter2\"\npassword_file = \"/x\"", vec!["password", "one of"]),
        ("user = \"a\"\npassword_file = \"mail\"", vec!["password_file", "absolute"]),
        ("user = \"a\"\npassword_credential = \"../x\"", vec!["password_credential", "LoadCredential="]),
        ("ca_file = \"ca.pem\"", vec!["ca_file", "absolute"]),
        ("hello_name = \"my house\"", vec!["hello_name", "coordinator.example.org"]),
        ("max_attachment = \"much\"", vec!["max_attachment", "15MB"]),
        ("max_attachment = 15", vec!["max_attachment", "15MB"]),
        ("max_attachment = \"1GB\"", vec!["max_attachment", "100MB"]),
        ("timeout = \"10ms\"", vec!["timeout", "1s to 5m"]),
        ("timeout = 20", vec!["timeout", "\"90s\""]),
        ("dashboard_url = \"dms3.local\"", vec!["dashboard_url", "https://"]),
        ("dashboard_url = \"javascript:alert(1)\"", vec!["dashboard_url"]),
        ("pasword = \"hunter2\"", vec!["pasword", "password"]),
    ] {
        let why = with(lines).unwrap_err();
        for word in words {
            assert!(why.contains(word), "{lines}: {why}");
        }
        // What is not written at all is asked for where the section begins.
        let last = 4 + lines.lines().count();
        assert!([1].into_iter().chain(5..=last).any(|line| why.starts_with(&format!("line {line}: [mail"))), "{lines}: {why}");
        assert!(!why.contains("hunter2") && !why.contains("12345"), "{why}");
    }
    for (from, to, words) in [
        ("from = \"dms3\"", "", ["from", "no mail address"]),
        ("from = \"House <dms3>\"", "", ["from", "no mail address"]),
        ("from = \"a\\nb <dms3@example.org>\"", "", ["from", "name of a sender"]),
        ("", "to = []", ["to", "at least one"]),
        ("", "to = [\"a@b.c\", \"anna\"]", ["to number 2", "no mail address"]),
        ("", "to = [\"a@b.c\", \"a@b.c\"]", ["to number 2", "twice"]),
        ("", "to = [\"a@b.c\\r\\nBcc: d@e.f\"]", ["to number 1", "no mail address"]),
    ] {
        let mut text = "server = \"x.org\"\n".to_owned();
        text += if from.is_empty() { "from = \"a@b.c\"\n" } else { from };
        text += "\n";
        text += if to.is_empty() { "to = [\"a@b.c\"]\n" } else { to };
        let why = MailConfig::new(toml::from_str(&text).unwrap(), Path::new("/")).unwrap_err().to_string();
        assert!(words.iter().all(|word| why.contains(word)), "{text}: {why}");
    }
    for server in ["", "smtp.example.org:587", "smtp example", "http://x"] {
        let text = LEAST.replace("smtp.example.org", server);
        let why = MailConfig::new(toml::from_str(&text).unwrap(), Path::new("/")).unwrap_err().to_string();
        assert!(why.contains("server: ") && why.contains("without a port"), "{why}");
    }
}

#[test]
fn a_password_in_a_config_that_others_can_read_is_warned_of_and_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dms3.toml");
    let lines = format!("{LEAST}user = \"dms3\"\npassword = \"hunter2\"\n");
    std::fs::write(&path, &lines).unwrap();
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (config, warnings) = MailConfig::new(toml::from_str(&lines).unwrap(), &path).unwrap();
        assert_eq!(warnings.iter().any(|warning| warning.contains("sudo chmod 640")), warned, "{mode:o}: {warnings:?}");
        assert!(!format!("{config:#?} {warnings:?}").contains("hunter2"));
    }
}

#[test]
fn what_the_section_only_names_is_looked_at_before_the_first_alert() {
    let (config, _) = with("user = \"dms3\"\npassword_file = \"/no/such/file\"").unwrap();
    assert!(format!("{:#}", config.look().unwrap_err()).contains("/no/such/file"));
    let (config, _) = with("ca_file = \"/no/such/ca.pem\"").unwrap();
    assert!(format!("{:#}", config.look().unwrap_err()).contains("/no/such/ca.pem"));
    with("user = \"dms3\"\npassword = \"x\"").unwrap().0.look().unwrap();
}
