//! What a new camera is told of its place: when it watches, and what it does when the coordinator is gone.

use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use dms3_core::arming::ArmState;
use dms3_core::camera::OnLost;
use nix::unistd::{Gid, Uid, fchown, geteuid};

use super::EnrollArgs;
use crate::config::{ARM_AFTER, Config, check_arm_after};

/// How the commented defaults begin in the config that scripts/install puts there. Who removed or changed one has chosen.
const WATCH_IN: &str = "#watch_in = ";
const ON_LOST: &str = "#on_coordinator_lost = ";
/// A wrong answer is asked for again so often.
const TRIES: usize = 5;

/// `None`: nobody said, the default holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choices {
    watch_in: Option<Vec<ArmState>>,
    on_lost: Option<OnLost>,
}

impl Choices {
    /// What the options say; the rest is asked if `ask`, as far as `config` (its text; `None`: it is to be written) leaves it open.
    pub(super) fn make(args: &EnrollArgs, config: Option<&str>, ask: bool) -> anyhow::Result<Self> {
        let mut choices = Self { watch_in: (!args.watch_in.is_empty()).then(|| args.watch_in.clone()), on_lost: args.on_coordinator_lost };
        let open = |place| config.is_none_or(|text| place_of(text, place).is_some());
        if ask {
            let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout());
            if choices.watch_in.is_none() && open(WATCH_IN) {
                choices.watch_in = Some(ask_watch_in(&mut from, &mut to)?);
            }
            if choices.on_lost.is_none() && open(ON_LOST) {
                choices.on_lost = Some(ask_on_lost(&mut from, &mut to)?);
            }
        }
        Ok(choices)
    }

    /// Sections for a config that has none.
    pub(super) fn sections(&self) -> String {
        let on_lost = self.on_lost.map(|choice| format!("\n[camera]\non_coordinator_lost = {}\n", on_lost_toml(choice)));
        let watch_in = self.watch_in.as_ref().map(|choice| format!("\n[[camera.detector]]\nwatch_in = {}\n", watch_in_toml(choice)));
        on_lost.unwrap_or_default() + &watch_in.unwrap_or_default()
    }

    /// Writes them into the config that is there, in the places of its commented defaults. True if that changed it.
    pub(super) fn write_into(&self, path: &Path, text: &str) -> anyhow::Result<bool> {
        let mut new = text.to_owned();
        let watch_in = self.watch_in.as_ref().map(|choice| ("watch_in", WATCH_IN, watch_in_toml(choice)));
        let on_lost = self.on_lost.map(|choice| ("on_coordinator_lost", ON_LOST, on_lost_toml(choice)));
        for (key, place, value) in [watch_in, on_lost].into_iter().flatten() {
            let Some(line) = place_of(&new, place) else {
                bail!(
                    "{} is a config of your own: write {key} = {value} there instead of giving it here. Nothing was changed",
                    path.display()
                );
            };
            new.replace_range(line, &format!("{key} = {value}"));
        }
        if new == text {
            return Ok(false);
        }
        Config::parse(&new, path).context("the config that these answers make")?;
        replace(path, &new).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(true)
    }
}

/// "away", as `--watch-in` takes it.
pub(super) fn parse_state(text: &str) -> Result<ArmState, String> {
    match text.trim() {
        "away" => Ok(ArmState::Away),
        "night" => Ok(ArmState::Night),
        other => Err(format!("\"{other}\" is not possible: write away (nobody home), night (people sleep), or away,night")),
    }
}

/// "hold", or a time as in "15m".
pub(super) fn parse_on_lost(text: &str) -> Result<OnLost, String> {
    if text.trim() == "hold" {
        return Ok(OnLost::Hold);
    }
    let after = humantime::parse_duration(text.trim())
        .map_err(|_| format!("\"{text}\" is not possible: write hold, or after which time it arms itself, such as 15m or 2h"))?;
    check_arm_after(after)?;
    Ok(OnLost::ArmAfter { after, state: ArmState::Away })
}

fn ask_watch_in(from: &mut impl BufRead, to: &mut impl Write) -> anyhow::Result<Vec<ArmState>> {
    let question =
        "When does this camera watch?\n  1  when nobody is home: for a room\n  2  at night too, while people sleep: for outdoors";
    ask(from, to, question, "1", |answer| match answer {
        "1" | "away" => Ok(vec![ArmState::Away]),
        "2" | "away,night" | "night,away" => Ok(vec![ArmState::Away, ArmState::Night]),
        other => Err(format!("\"{other}\" is not possible: answer 1 or 2")),
    })
}

fn ask_on_lost(from: &mut impl BufRead, to: &mut impl Write) -> anyhow::Result<OnLost> {
    let question = "If the house is disarmed and the coordinator is gone: after which time does this camera arm itself?\n\
                    A time such as 15m, or hold: it stays disarmed, for 12 hours at most. (Armed, it always stays armed.)";
    ask(from, to, question, &humantime::format_duration(ARM_AFTER).to_string(), parse_on_lost)
}

/// Return alone takes `default`.
fn ask<T>(
    from: &mut impl BufRead,
    to: &mut impl Write,
    question: &str,
    default: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> anyhow::Result<T> {
    writeln!(to, "{question}")?;
    for _ in 0..TRIES {
        write!(to, "[{default}] ")?;
        to.flush()?;
        let mut line = String::new();
        ensure!(from.read_line(&mut line).context("cannot read the answer")? > 0, "no answer: nothing was changed");
        let answer = line.trim();
        match parse(if answer.is_empty() { default } else { answer }) {
            Ok(value) => return Ok(value),
            Err(why) => writeln!(to, "{why}")?,
        }
    }
    bail!("no answer that can be used: nothing was changed")
}

/// Where the one line lies that begins so.
fn place_of(text: &str, place: &str) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with(place) {
            found.push(at..at + line.trim_end().len());
        }
        at += line.len();
    }
    // Of several (two detectors) nobody can say which one is meant.
    if found.len() == 1 { found.pop() } else { None }
}

fn watch_in_toml(states: &[ArmState]) -> String {
    let words: Vec<_> = states.iter().map(|state| format!("\"{}\"", state_word(*state))).collect();
    format!("[{}]", words.join(", "))
}

fn on_lost_toml(choice: OnLost) -> String {
    match choice {
        OnLost::Hold => "\"hold\"".to_owned(),
        OnLost::ArmAfter { after, state } => {
            let after = humantime::format_duration(Duration::from_secs(after.as_secs())).to_string().replace(' ', "");
            format!("{{ arm_after = \"{after}\", as = \"{}\" }}", state_word(state))
        }
    }
}

fn state_word(state: ArmState) -> &'static str {
    match state {
        ArmState::Disarmed => "disarmed",
        ArmState::Night => "night",
        ArmState::Away => "away",
    }
}

/// Whole or not at all, with the owner and mode of the old file.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let old = fs::metadata(path)?;
    let beside = path.with_extension("toml.new");
    if beside.exists() {
        fs::remove_file(&beside)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(old.mode() & 0o777).open(&beside)?;
    if geteuid().is_root() {
        fchown(&file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    const EXAMPLE: &str = include_str!("../../../../config/camera.toml");

    fn outdoors() -> Choices {
        Choices { watch_in: Some(vec![ArmState::Night, ArmState::Away]), on_lost: Some(OnLost::Hold) }
    }

    fn holds(text: &str, choices: &Choices) {
        let config = Config::parse(text, Path::new("dms3.toml")).unwrap();
        let Role::Camera(camera) = config.role else { panic!("a camera") };
        assert_eq!(Some(camera.on_coordinator_lost.0), choices.on_lost);
        assert_eq!(Some(&camera.detectors[0].watch_in), choices.watch_in.as_ref());
        assert_eq!(camera.detectors.len(), 1);
    }

    #[test]
    fn an_answer_is_asked_for_until_it_can_be_used_and_return_takes_the_default() {
        let mut said = Vec::new();
        assert_eq!(ask_watch_in(&mut &b"\n"[..], &mut said).unwrap(), [ArmState::Away]);
        assert_eq!(ask_watch_in(&mut &b"3\n 2 \n"[..], &mut said).unwrap(), [ArmState::Away, ArmState::Night]);
        assert!(String::from_utf8(said).unwrap().contains("answer 1 or 2"));
        let mut said = Vec::new();
        let after = |after| OnLost::ArmAfter { after: Duration::from_secs(after), state: ArmState::Away };
        assert_eq!(ask_on_lost(&mut &b"\n"[..], &mut said).unwrap(), after(900));
        assert_eq!(ask_on_lost(&mut &b"soon\n13h\n0s\n2h\n"[..], &mut said).unwrap(), after(7200));
        assert_eq!(ask_on_lost(&mut &b"hold\n"[..], &mut said).unwrap(), OnLost::Hold);
        assert!(ask_on_lost(&mut &b""[..], &mut said).is_err(), "the terminal was closed");
    }

    #[test]
    fn what_was_chosen_stands_in_a_new_config_and_in_the_installed_one() {
        let mut new = "role = \"camera\"\n".to_owned();
        new.push_str(&outdoors().sections());
        holds(&new, &outdoors());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dms3.toml");
        fs::write(&path, EXAMPLE).unwrap();
        let after = Choices { on_lost: Some(parse_on_lost("1h 30m").unwrap()), ..outdoors() };
        assert!(after.write_into(&path, EXAMPLE).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        holds(&text, &after);
        assert_eq!(text.lines().count(), EXAMPLE.lines().count(), "nothing else was touched");
        // Who has chosen is not asked again, and not overruled.
        assert!(place_of(&text, WATCH_IN).is_none() && place_of(&text, ON_LOST).is_none());
        assert!(outdoors().write_into(&path, &text).unwrap_err().to_string().contains("watch_in"));
        assert!(!Choices::default().write_into(&path, EXAMPLE).unwrap());
    }
}
