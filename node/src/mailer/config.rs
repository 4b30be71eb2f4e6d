//! `[mail]`: the server that takes mail, the account there, and who gets it.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dms3_core::alerting::Settings;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use super::address::Address;
use super::connect;
use super::rules::{self, CameraFile, RulesFile};
use super::secret::{self, Password};
use crate::config_text::{Wrong, number, optional_number, size, time, word};

/// How a node mails; nothing in it is of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailConfig {
    /// A host name or an IP address, as the server's certificate says it.
    pub server: String,
    pub port: u16,
    pub security: Security,
    /// Without TLS, to a machine other than this one: somebody wrote that they want it.
    pub allow_clear_text: bool,
    /// None: the server takes mail from anybody here.
    pub login: Option<Login>,
    /// PEM; only servers whose certificates come from these are believed. None: those that browsers believe.
    pub ca_file: Option<PathBuf>,
    pub from: Address,
    /// What mail programs show as the sender.
    pub from_name: String,
    /// At least one.
    pub to: Vec<Address>,
    /// What we call ourselves in EHLO. None: this machine's name if it has a domain, else its address.
    pub hello_name: Option<String>,
    /// Bytes of a clip that may go along.
    pub max_attachment: u64,
    /// For each step of a conversation; `smtp::longest` tells what a whole one may take.
    pub timeout: Duration,
    /// Where the buttons in mails lead.
    pub dashboard_url: Option<String>,
    /// The user's own templates, which replace ours file by file.
    pub template_dir: Option<PathBuf>,
    /// What is mailed, and how often.
    pub rules: Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Plain at first, then TLS; never without.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Readable by everybody on the way.
    None,
}

impl Security {
    /// The port that servers use for it (RFC 6409 and RFC 8314).
    pub fn usual_port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Password,
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailFile {
    server: String,
    #[serde(default, deserialize_with = "optional_number::<1, 65535, _, _>")]
    port: Option<u16>,
    #[serde(default = "start_tls", deserialize_with = "word")]
    security: Security,
    #[serde(default)]
    allow_clear_text: bool,
    user: Option<String>,
    /// Of any type, since the error about a wrong one would show the value.
    password: Option<toml::Value>,
    password_file: Option<PathBuf>,
    password_credential: Option<String>,
    ca_file: Option<PathBuf>,
    from: String,
    to: Vec<String>,
    hello_name: Option<String>,
    #[serde(default = "max_attachment", deserialize_with = "word")]
    max_attachment: String,
    #[serde(deserialize_with = "time", default = "timeout")]
    timeout: Duration,
    dashboard_url: Option<String>,
    template_dir: Option<PathBuf>,
    #[serde(default = "rules::hourly_cap", deserialize_with = "number::<1, 1000, _, _>")]
    hourly_cap: u32,
    #[serde(default = "rules::cooldown", deserialize_with = "time")]
    cooldown: Duration,
    #[serde(default, rename = "camera")]
    cameras: Vec<CameraFile>,
}

fn start_tls() -> Security {
    Security::StartTls
}

/// Base64 makes 20 MB of it, and few servers take more than 25.
fn max_attachment() -> String {
    "15MB".to_owned()
}

fn timeout() -> Duration {
    Duration::from_secs(20)
}

const LARGEST_ATTACHMENT: u64 = 100_000_000;
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

impl MailConfig {
    /// Checks what serde cannot see. `path` is where the config lies: a password in it is a secret. Returns what works but badly as well.
    pub fn new(file: MailFile, path: &Path) -> Result<(Self, Vec<String>), Wrong> {
        let mut warnings = Vec::new();
        let server = file.server.trim().trim_end_matches('.').to_owned();
        if ServerName::try_from(server.as_str()).is_err() {
            let why =
                format!("{server:?} is no server: write its host name, such as \"smtp.example.org\", or its IP address, without a port");
            return Err(Wrong::new("server", why));
        }
        let port = file.port.unwrap_or(file.security.usual_port());
        let far = file.security == Security::None && !is_here(&server);
        if far && !file.allow_clear_text {
            return Err(Wrong::new(
                "security",
                format!(
                    "\"none\" would send pictures and password to {server} readable by everybody on the way: write \"starttls\" or \"tls\", \
                     or allow_clear_text = true if it must be"
                ),
            ));
        }
        if far {
            warnings.push(format!("[mail] goes to {server} without TLS: who is on the way can read the pictures and the password"));
        }
        if file.security == Security::StartTls && port == Security::Tls.usual_port() {
            warnings
                .push("[mail] port 465 is usually TLS from the first byte: if mail does not go out, write security = \"tls\"".to_owned());
        }
        let login = Login::new(file.user, file.password, file.password_file, file.password_credential)?;
        if let Some(Login { password: Password::Written(_), .. }) = &login
            && std::fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o007 != 0)
        {
            let path = path.display();
            warnings.push(format!("{path} holds the password of [mail] and every user of this machine can read it: sudo chmod 640 {path}"));
        }
        if let Some(ca_file) = &file.ca_file
            && !ca_file.is_absolute()
        {
            return Err(Wrong::new("ca_file", format!("{ca_file:?} is no absolute path: write one that begins with /")));
        }
        let (from, from_name) = sender(&file.from).map_err(|why| Wrong::new("from", why))?;
        if file.to.is_empty() {
            return Err(Wrong::new("to", "nobody would get mail: write at least one address, such as [\"anna@example.org\"]"));
        }
        let mut to: Vec<Address> = Vec::new();
        for (nth, text) in file.to.iter().enumerate() {
            let wrong = |why| Wrong::new(format!("to.{nth}"), why);
            let address: Address = text.parse().map_err(wrong)?;
            if to.contains(&address) {
                return Err(wrong(format!("{address} stands there twice")));
            }
            to.push(address);
        }
        if let Some(name) = &file.hello_name
            && !is_hello_name(name)
        {
            let why = format!("{name:?} is no name of a machine: write one such as \"coordinator.example.org\", or leave it out");
            return Err(Wrong::new("hello_name", why));
        }
        let max_attachment = size(&file.max_attachment).map_err(|why| Wrong::new("max_attachment", why))?;
        if max_attachment > LARGEST_ATTACHMENT {
            let why = format!("{:?} is more than any mail server takes: write 100MB or less, or 0MB for none", file.max_attachment);
            return Err(Wrong::new("max_attachment", why));
        }
        if !TIMEOUTS.contains(&file.timeout) {
            let why = format!("it is {}; write 1s to 5m, such as 20s", humantime::format_duration(file.timeout));
            return Err(Wrong::new("timeout", why));
        }
        if let Some(url) = &file.dashboard_url
            && !is_link(url)
        {
            return Err(Wrong::new("dashboard_url", format!("{url:?} is no link: write one such as \"https://dms3.local:8443\"")));
        }
        if let Some(dir) = &file.template_dir
            && !dir.is_absolute()
        {
            return Err(Wrong::new("template_dir", format!("{dir:?} is no absolute path: write one that begins with /")));
        }
        let rules = RulesFile { hourly_cap: file.hourly_cap, cooldown: file.cooldown, cameras: file.cameras }.settings(&to)?;
        let config = Self {
            template_dir: file.template_dir,
            rules,
            server,
            port,
            security: file.security,
            allow_clear_text: file.allow_clear_text,
            login,
            ca_file: file.ca_file,
            from,
            from_name,
            to,
            hello_name: file.hello_name,
            max_attachment,
            timeout: file.timeout,
            dashboard_url: file.dashboard_url,
        };
        Ok((config, warnings))
    }

    /// Reads what the section only names, so that a mistake is found before the first alert. An error says what to do.
    pub fn look(&self) -> Result<()> {
        if let Some(login) = &self.login {
            login.password.read()?;
        }
        connect::trusted(self.ca_file.as_deref()).context("[mail] cannot be used")?;
        Ok(())
    }
}

impl Login {
    fn new(
        user: Option<String>,
        written: Option<toml::Value>,
        file: Option<PathBuf>,
        credential: Option<String>,
    ) -> Result<Option<Self>, Wrong> {
        let passwords: Vec<Password> = [
            written.map(|value| match value {
                toml::Value::String(text) => secret::check(&text).map(Password::Written).map_err(|why| Wrong::new("password", why)),
                _ => Err(Wrong::new("password", "it is no text: write it between quotes")),
            }),
            file.map(|path| match path.is_absolute() {
                true => Ok(Password::File(path)),
                false => Err(Wrong::new("password_file", format!("{path:?} is no absolute path: write one that begins with /"))),
            }),
            credential.map(|name| match is_credential(&name) {
                true => Ok(Password::Credential(name)),
                false => {
                    Err(Wrong::new("password_credential", format!("{name:?} is no name of a credential: write that of LoadCredential=")))
                }
            }),
        ]
        .into_iter()
        .flatten()
        .collect::<Result<_, _>>()?;
        let user = user.map(|user| match user.is_empty() || user.contains(char::is_control) {
            true => Err(Wrong::new("user", "it is empty or has control characters: write the name of the mail account")),
            false => Ok(user),
        });
        match (user.transpose()?, <[Password; 1]>::try_from(passwords)) {
            (Some(user), Ok([password])) => Ok(Some(Self { user, password })),
            (None, Err(none)) if none.is_empty() => Ok(None),
            (Some(_), Err(none)) if none.is_empty() => {
                Err(Wrong::new("user", "there is no password: write password_file, password_credential or password too"))
            }
            (None, Ok(_)) => Err(Wrong::new("user", "there is a password and no user: write user = \"...\" too")),
            (_, Err(_)) => Err(Wrong::new("password", "give one of password, password_file and password_credential, not several")),
        }
    }
}

/// Whether mail for it stays within this machine.
fn is_here(server: &str) -> bool {
    server.eq_ignore_ascii_case("localhost") || server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// "dms3@example.org" or "House <dms3@example.org>".
fn sender(text: &str) -> Result<(Address, String), String> {
    match text.trim().strip_suffix('>').and_then(|text| text.split_once('<')) {
        Some((name, address)) => {
            let name = name.trim().trim_matches('"').trim();
            if name.contains(char::is_control) || name.chars().count() > 64 {
                return Err(format!("{name:?} is no name of a sender: write 64 letters at most, without line breaks"));
            }
            Ok((address.parse()?, if name.is_empty() { SENDER.to_owned() } else { name.to_owned() }))
        }
        None => Ok((text.parse()?, SENDER.to_owned())),
    }
}

const SENDER: &str = "DMS3";

fn is_credential(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.len() <= 255 && name.bytes().all(allowed) && !name.starts_with('.')
}

/// A domain as RFC 5321 wants it after EHLO.
pub(super) fn is_hello_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn is_link(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty()) && url.len() <= 500 && url.chars().all(|c| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
