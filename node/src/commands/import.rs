//! `dms3-node import`: reads the config of DMS3 in Go and writes ours, with a word for each of its keys.

mod camera;
mod coordinator;
mod mail;
mod source;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use self::source::Source;
use super::ConfigArg;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its config directory: /etc/distributed-motion-s3, or dms3_release/config of its sources
    dir: PathBuf,
    /// What this machine becomes, where the directory holds the config of both
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    Coordinator,
    Camera,
}

/// What became of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// As this line of ours.
    Carried(String),
    NotNeeded(&'static str),
    Look(String),
}

/// What became of each key, in the order in which they were looked at.
#[derive(Debug, Default)]
struct Report(Vec<(String, Fate)>);

impl Report {
    fn carried(&mut self, key: &str, ours: impl Into<String>) {
        self.0.push((key.to_owned(), Fate::Carried(ours.into())));
    }

    fn not_needed(&mut self, key: &str, why: &'static str) {
        self.0.push((key.to_owned(), Fate::NotNeeded(why)));
    }

    fn look(&mut self, key: &str, why: impl Into<String>) {
        self.0.push((key.to_owned(), Fate::Look(why.into())));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (key, fate) in &self.0 {
            let (verdict, words) = match fate {
                Fate::Carried(ours) => ("carried over as", ours.as_str()),
                Fate::NotNeeded(why) => ("not needed:", *why),
                Fate::Look(why) => ("PLEASE LOOK AT IT:", why.as_str()),
            };
            // A value may come from anywhere; no control characters to the terminal.
            let line = format!("{key}: {verdict} {words}").replace(char::is_control, " ");
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

/// A config of ours and what became of theirs.
#[derive(Debug)]
struct Imported {
    config: String,
    report: Report,
}

pub(super) async fn run(args: Args, at: &ConfigArg) -> Result<()> {
    let source = Source::read(&args.dir)?;
    let role = match (args.role, source.has_server(), source.has_client()) {
        (Some(role), ..) => role,
        (None, true, false) => Role::Coordinator,
        (None, false, true) => Role::Camera,
        (None, true, true) => bail!(
            "{} holds the config of a server and of a client: say what this machine becomes, --role coordinator or --role camera",
            args.dir.display()
        ),
        (None, false, false) => bail!(
            "there is neither dms3server.toml nor dms3client.toml in {} or below: name the directory that has them, such as \
             /etc/distributed-motion-s3",
            args.dir.display()
        ),
    };
    let imported = convert(&source, role);
    Config::parse(&imported.config, &at.config).context("what would be written is no valid config: please tell the makers of DMS3")?;
    print!("{}", imported.report.text());
    if args.dry_run {
        println!("\n{}", without_password(&imported.config));
        return Ok(());
    }
    write_new(&at.config, &imported.config)?;
    let next = match role {
        Role::Coordinator => "`sudo dms3-node init` makes this machine the coordinator",
        Role::Camera => "`sudo dms3-node enroll` pairs this machine with its coordinator",
    };
    println!(
        "\nWrote {}. Stop and disable DMS3 in Go on this machine first (only one of the two may start Motion); then {next}.",
        at.config.display()
    );
    Ok(())
}

fn convert(source: &Source, role: Role) -> Imported {
    match role {
        Role::Coordinator => coordinator::convert(source),
        Role::Camera => camera::convert(source),
    }
}

/// For the screen, which others may see.
fn without_password(config: &str) -> String {
    let shown = config.lines().map(|line| if line.starts_with("password = ") { "password = \"(not shown)\"" } else { line });
    shown.collect::<Vec<_>>().join("\n")
}

/// Never over a config that is there: somebody may have worked on it. Not readable for others, since it may hold a password.
fn write_new(path: &Path, text: &str) -> Result<()> {
    ensure!(!path.exists(), "{} exists: move it away first, or look at the result with --dry-run. Nothing was changed", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
        .with_context(|| format!("cannot write {}: use sudo", path.display()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(|| format!("cannot write {}", path.display()))
}

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
