//! Plays a sound when the house is armed and when it is disarmed. Nobody waits for it: it hears what holds from a watch, where only the
//! newest counts, and plays one sound after the other.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config_text::{Wrong, time};

/// Our own recordings: scripts/sounds makes them.
const ARMED: &[u8] = include_bytes!("sound/armed.wav");
const DISARMED: &[u8] = include_bytes!("sound/disarmed.wav");
/// A minute of music from a CD.
const FILE_AT_MOST: u64 = 12_000_000;
/// Of what a player complains: the last line says most, and ALSA has many before it.
const COMPLAINT_AT_MOST: u64 = 16_000;
/// What it said last may arrive after its end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// `[coordinator.sound]`, `[camera.sound]`. Without the section nothing is played: most of these machines have no speaker, and each of them
/// would complain. Whoever writes it wants to hear something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoundConfig {
    pub enabled: bool,
    /// `None`: our own.
    pub armed: Option<PathBuf>,
    pub disarmed: Option<PathBuf>,
    /// Gets a WAV file on its standard input. No shell reads it.
    pub command: Vec<String>,
    /// A player that takes longer is killed.
    #[serde(deserialize_with = "time")]
    pub at_most: Duration,
}

impl Default for SoundConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            armed: None,
            disarmed: None,
            command: ["aplay", "-q", "-"].map(str::to_owned).to_vec(),
            at_most: Duration::from_secs(20),
        }
    }
}

impl SoundConfig {
    /// What serde cannot see.
    pub fn check(&self) -> Result<(), Wrong> {
        for (key, file) in [("armed", &self.armed), ("disarmed", &self.disarmed)] {
            if let Some(file) = file.as_ref().filter(|file| !file.is_absolute()) {
                return Err(Wrong::new(key, format!("{file:?} is no absolute path: write one that begins with /")));
            }
        }
        if self.command.first().is_none_or(|program| program.trim().is_empty()) {
            return Err(Wrong::new("command", "it is empty: write a program and its arguments, such as [\"aplay\", \"-q\", \"-\"]"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.at_most) {
            return Err(Wrong::new("at_most", "write 1s to 5m, such as 20s"));
        }
        Ok(())
    }

    /// Whether it could be played now: the files are sounds, the player is there. For `check-config`; a node starts without a sound.
    pub fn look(&self) -> Result<()> {
        for (key, file) in [("armed", &self.armed), ("disarmed", &self.disarmed)] {
            if let Some(file) = file {
                let recording = length_of(file).and_then(|_| std::fs::read(file).with_context(|| cannot_read(file)));
                recording.and_then(|recording| is_wav(file, &recording)).context(key)?;
            }
        }
        let Some(program) = self.command.first().filter(|program| !is_installed(program)) else { return Ok(()) };
        bail!("command: {}", no_program(program))
    }
}

/// What the service works with.
#[derive(Clone)]
pub struct Sound {
    pub config: SoundConfig,
    /// Whether the state that this node decides or obeys is an armed one.
    pub armed: watch::Receiver<bool>,
    /// What people heard last, or need not hear: what held before the start.
    pub heard: Arc<AtomicBool>,
    /// For people: why there is no sound.
    pub trouble: watch::Sender<Option<String>>,
}

impl Sound {
    /// What `armed` holds now was so before.
    pub fn new(config: SoundConfig, armed: watch::Receiver<bool>, trouble: watch::Sender<Option<String>>) -> Self {
        let heard = Arc::new(AtomicBool::new(*armed.borrow()));
        Self { config, armed, heard, trouble }
    }

    async fn play(&self, armed: bool) -> Result<()> {
        let (file, own) = if armed { (&self.config.armed, ARMED) } else { (&self.config.disarmed, DISARMED) };
        let recording = match file {
            None => own.to_vec(),
            // Read each time: whoever puts another one there hears it.
            Some(file) => {
                let recording = length_of(file).map(|_| tokio::fs::read(file))?.await.with_context(|| cannot_read(file))?;
                is_wav(file, &recording)?;
                recording
            }
        };
        let Some((program, arguments)) = self.config.command.split_first() else { bail!("there is no command to play it with") };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::Error::msg(no_program(program)),
            _ => anyhow::Error::from(error).context(format!("cannot start {program:?}")),
        })?;
        let (status, said) = Player::of(child).play(&recording, self.config.at_most).await.with_context(|| format!("{program:?}"))?;
        let said = said.lines().last().map(|line| format!(" and the words {line:?}")).unwrap_or_default();
        ensure!(status.success(), "{program:?} ended with {status}{said}");
        Ok(())
    }

    /// Once, until it works again.
    fn tell(&self, armed: bool, played: Result<()>) {
        let why = played.err().map(|error| format!("{error:#}"));
        let was_silent = self.trouble.borrow().is_some();
        match &why {
            Some(why) if !was_silent => {
                tracing::warn!("no sound tells that the house is {}: {why}", if armed { "armed" } else { "disarmed" })
            }
            Some(why) => tracing::debug!("no sound: {why}"),
            None if was_silent => tracing::info!("sounds are played again"),
            None => {}
        }
        self.trouble.send_replace(why.map(|why| format!("No sound tells that the house was armed or disarmed: {why}.")));
    }
}

/// Plays a sound after each change. One that came and went again while another sound was played is not told any more.
pub async fn run(mut sound: Sound, stop: CancellationToken) -> Result<()> {
    loop {
        let armed = *sound.armed.borrow_and_update();
        if sound.heard.swap(armed, Ordering::Relaxed) != armed {
            let played = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                played = sound.play(armed) => played,
            };
            sound.tell(armed, played);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = sound.armed.changed() => changed.context("nobody tells any more whether the house is armed")?,
        }
    }
}

/// A player and what it started. Killed if it is let go before its end.
struct Player {
    child: Child,
    group: Option<Pid>,
}

impl Player {
    /// `child`: the first of its process group.
    fn of(child: Child) -> Self {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Self { child, group }
    }

    /// How it ended, and what it complained of.
    async fn play(mut self, recording: &[u8], at_most: Duration) -> Result<(ExitStatus, String)> {
        let (stdin, stderr) = (self.child.stdin.take(), self.child.stderr.take());
        let mut said = Vec::new();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that plays something else reads nothing and closes its end.
                drop(stdin.write_all(recording).await);
            }
        };
        let listen = async {
            if let Some(stderr) = stderr {
                drop(stderr.take(COMPLAINT_AT_MOST).read_to_end(&mut said).await);
            }
        };
        let ended = tokio::time::timeout(at_most, async {
            let mut listen = std::pin::pin!(listen);
            let mut silent = false;
            let end = async { tokio::join!(self.child.wait(), feed).0 };
            let mut end = std::pin::pin!(end);
            let status = loop {
                tokio::select! {
                    status = &mut end => break status,
                    () = &mut listen, if !silent => silent = true,
                }
            };
            if !silent {
                // Something that it started may hold the other end for ever.
                drop(tokio::time::timeout(LAST_WORDS, listen).await);
            }
            status
        })
        .await;
        let status =
            ended.map_err(|_| anyhow::anyhow!("it did not end within {} and was killed", humantime::format_duration(at_most)))??;
        self.group = None;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // The child was not waited for: its number is nobody else's yet.
        if let Some(group) = self.group {
            _ = killpg(group, Signal::SIGKILL);
        }
    }
}

fn length_of(file: &Path) -> Result<()> {
    let about = std::fs::metadata(file).with_context(|| cannot_read(file))?;
    ensure!(about.is_file(), "{} is no file", file.display());
    ensure!(about.len() <= FILE_AT_MOST, "{} is longer than {} MB", file.display(), FILE_AT_MOST / 1_000_000);
    Ok(())
}

fn cannot_read(file: &Path) -> String {
    format!("cannot read {}", file.display())
}

/// "RIFF", four bytes of length, "WAVE". aplay would play whatever else it gets as noise.
fn is_wav(file: &Path, recording: &[u8]) -> Result<()> {
    let is_one = recording.starts_with(b"RIFF") && recording.get(8..12) == Some(b"WAVE");
    ensure!(is_one, "{} is no WAV file (`sox SOUND {}` makes one of most others)", file.display(), file.with_extension("wav").display());
    Ok(())
}

fn no_program(program: &str) -> String {
    let package = if program == "aplay" { " (Debian package alsa-utils)" } else { "" };
    format!("there is no program {program:?} on this machine{package}")
}

fn is_installed(program: &str) -> bool {
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.contains('/') {
        return runs(Path::new(program));
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| runs(&dir.join(program))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_sounds_are_wav_files_and_small() {
        for recording in [ARMED, DISARMED] {
            is_wav(Path::new("ours"), recording).unwrap();
            assert!(recording.len() < 12_000, "{}", recording.len());
        }
        assert_ne!(ARMED, DISARMED);
    }

    #[test]
    fn what_cannot_be_played_is_refused_with_its_key() {
        let check = |text: &str| toml::from_str::<SoundConfig>(text).unwrap().check().map_err(|wrong| wrong.to_string());
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("enabled = false\narmed = \"/a.wav\"\ncommand = [\"paplay\", \"/b.wav\"]\nat_most = \"1s\""), Ok(()));
        for (text, key) in [
            ("armed = \"a.wav\"", "armed: "),
            ("disarmed = \"sounds/a.wav\"", "disarmed: "),
            ("command = []", "command: "),
            ("command = [\" \"]", "command: "),
            ("at_most = \"500ms\"", "at_most: "),
            ("at_most = \"6m\"", "at_most: "),
        ] {
            assert!(check(text).unwrap_err().starts_with(key), "{text}");
        }
    }
}
