//! The mails of DMS3 in Go: sent by each camera there, by the coordinator here.

use std::fmt::Write as _;

use super::source::Source;
use super::{Report, quoted};

const MAIL: [&str; 11] = [
    "Filename",
    "FileLocation",
    "Email.From",
    "Email.To",
    "SMTP.Address",
    "SMTP.Port",
    "SMTP.Username",
    "SMTP.Password",
    "Logging.LogLevel",
    "Logging.LogDevice",
    "Logging.LogFilename",
];
const LOG: &str = "what mails do is in the node's log";

/// `[mail]`, if all is there that it needs.
pub(super) fn convert(source: &Source, report: &mut Report) -> String {
    let mail = &source.mail;
    if !mail.is_there() {
        return String::new();
    }
    let known: Vec<&str> = MAIL.into_iter().chain(["Logging.LogLocation"]).collect();
    mail.tell_unknown(&known, report);
    mail.not_needed(&["Logging.LogLevel", "Logging.LogDevice", "Logging.LogFilename", "Logging.LogLocation"], LOG, report);
    for key in ["Filename", "FileLocation"] {
        match mail.text(key, report).as_deref() {
            None | Some("dms3mail.html") => mail.not_needed(&[key], "it is the one that came with it", report),
            Some(_) => report.look(&mail.key(key), "a mail of your own is written anew: [mail] template_dir"),
        }
    }
    let (server, from, to) = (mail.text("SMTP.Address", report), mail.text("Email.From", report), mail.text("Email.To", report));
    let (Some(server), Some(from), Some(to)) = (server, from, to) else {
        report
            .look(&mail.key("SMTP.Address"), "server, sender or receiver is missing: no section [mail] was written, so nothing is mailed");
        return String::new();
    };
    let port = mail.number("SMTP.Port", report).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(587);
    let security = if port == 465 { "tls" } else { "starttls" };
    let mut section = format!(
        "\n[mail]\nserver = {}\nport = {port}\nsecurity = \"{security}\"\nfrom = {}\nto = [{}]\n",
        quoted(&server),
        quoted(&from),
        quoted(&to)
    );
    for (key, ours) in [("SMTP.Address", "server"), ("SMTP.Port", "port, with TLS from now on"), ("Email.From", "from"), ("Email.To", "to")]
    {
        if mail.get(key).is_some() {
            report.carried(&mail.key(key), format!("[mail] {ours}"));
        }
    }
    match (mail.text("SMTP.Username", report), mail.text("SMTP.Password", report)) {
        (Some(user), Some(password)) => {
            let _ = write!(section, "user = {}\npassword = {}\n", quoted(&user), quoted(&password));
            report.carried(&mail.key("SMTP.Username"), "[mail] user");
            report.look(
                &mail.key("SMTP.Password"),
                "it stands in the config, which others cannot read; an app password for this house alone is better",
            );
        }
        (None, None) => mail.not_needed(&["SMTP.Username", "SMTP.Password"], "it was not set", report),
        _ => report.look(&mail.key("SMTP.Username"), "user and password belong together: neither was carried over"),
    }
    section
}

/// On a camera: its coordinator mails.
pub(super) fn of_a_camera(source: &Source, report: &mut Report) {
    if source.mail.is_there() {
        report.look(
            "dms3mail",
            "the coordinator mails what this camera sees: import dms3mail.toml there (it belongs beside dms3server.toml). Motion's line for dms3mail stays as it is",
        );
    }
}
