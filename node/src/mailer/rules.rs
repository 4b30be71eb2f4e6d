//! Which events are mailed, to whom and how often: the part of `[mail]` that is about alerts.

use std::collections::BTreeMap;
use std::time::Duration;

use dms3_core::alerting::{Hours, Rule, Settings};
use dms3_core::arming::ArmState;
use serde::Deserialize;

use super::address::Address;
use crate::config_text::Wrong;

const HOURLY_CAP: u32 = 20;
/// Of the cap: a tree in the wind must not keep quiet that a camera is lost.
const KEPT_FOR_FAULTS: u32 = 5;
const COOLDOWN: Duration = Duration::from_secs(120);
const COOLDOWNS: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const MINUTES: u16 = 24 * 60;

/// `[[mail.camera]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraFile {
    /// The node's name, or NODE/SOURCE.
    name: String,
    #[serde(default, deserialize_with = "crate::config_text::optional_words")]
    states: Option<Vec<ArmState>>,
    /// "22:00-06:30"
    hours: Option<Vec<String>>,
    to: Option<Vec<String>>,
    #[serde(default, deserialize_with = "crate::config_text::optional_time")]
    cooldown: Option<Duration>,
}

/// The keys of `[mail]` itself.
#[derive(Default)]
pub struct RulesFile {
    pub hourly_cap: u32,
    pub cooldown: Duration,
    pub cameras: Vec<CameraFile>,
}

pub fn hourly_cap() -> u32 {
    HOURLY_CAP
}

pub fn cooldown() -> Duration {
    COOLDOWN
}

impl RulesFile {
    /// `to`: the house's recipients.
    pub fn settings(self, to: &[Address]) -> Result<Settings, Wrong> {
        check_cooldown(self.cooldown).map_err(|why| Wrong::new("cooldown", why))?;
        let mut cameras = BTreeMap::new();
        for (nth, camera) in self.cameras.into_iter().enumerate() {
            let name = camera.name.trim().to_owned();
            let of = |key: &str, why: String| Wrong::new(format!("camera.{nth}.{key}"), why);
            if name.is_empty() || cameras.contains_key(&name) {
                return Err(of(
                    "name",
                    format!("{name:?} is empty or stands there twice: write a camera's name as `dms3-node events` shows it"),
                ));
            }
            let rule = rule(camera, self.cooldown).map_err(|(key, why)| of(key, why))?;
            cameras.insert(name, rule);
        }
        Ok(Settings {
            recipients: to.iter().map(Address::to_string).collect(),
            cap: self.hourly_cap,
            kept_for_faults: KEPT_FOR_FAULTS.min(self.hourly_cap.saturating_sub(1)),
            hold: Duration::ZERO,
            hold_in: Vec::new(),
            cameras,
            usual: Rule { cooldown: self.cooldown, ..Rule::default() },
        })
    }
}

fn rule(camera: CameraFile, cooldown: Duration) -> Result<Rule, (&'static str, String)> {
    let default = vec![ArmState::Night, ArmState::Away];
    let states = camera.states.unwrap_or(default);
    if states.is_empty() || states.contains(&ArmState::Disarmed) {
        return Err(("states", "write \"night\", \"away\" or both: what is seen while the house is disarmed is never mailed".to_owned()));
    }
    let hours =
        camera.hours.unwrap_or_default().iter().map(|text| hours(text)).collect::<Result<Vec<_>, _>>().map_err(|why| ("hours", why))?;
    let to = camera.to.unwrap_or_default();
    let recipients = to.iter().map(|text| text.parse::<Address>().map(|address| address.to_string())).collect::<Result<Vec<_>, _>>();
    let cooldown = camera.cooldown.unwrap_or(cooldown);
    check_cooldown(cooldown).map_err(|why| ("cooldown", why))?;
    Ok(Rule { states, hours, recipients: recipients.map_err(|why| ("to", why))?, cooldown })
}

fn check_cooldown(cooldown: Duration) -> Result<(), String> {
    if COOLDOWNS.contains(&cooldown) { Ok(()) } else { Err("write 0s to 24h".to_owned()) }
}

/// "22:00-06:30"
fn hours(text: &str) -> Result<Hours, String> {
    let wrong = || format!("{text:?} are no hours: write them as \"22:00-06:30\"");
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        let sum = hour.checked_mul(60)?.checked_add(minute)?;
        (minute < 60 && sum <= MINUTES).then_some(sum)
    };
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    Ok(Hours { from: minute(from).ok_or_else(wrong)?, to: minute(to).ok_or_else(wrong)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_written_as_on_a_clock() {
        assert_eq!(hours("22:00-06:30"), Ok(Hours { from: 1320, to: 390 }));
        assert_eq!(hours("0:00 - 24:00"), Ok(Hours { from: 0, to: 1440 }));
        for wrong in ["", "22", "22:00", "22:60-1:00", "24:01-1:00", "a:b-c:d", "-1:00-2:00", "99999:00-1:00"] {
            assert!(hours(wrong).is_err(), "{wrong}");
        }
    }
}
