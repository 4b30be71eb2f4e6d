//! `[[coordinator.window]]`: times for which the house is to be in a state, whoever is home.

use dms3_core::arming::ArmState;
use dms3_core::protocol::message::WindowV1;
use dms3_core::windows::{ALL_DAYS, DAY_MINUTES, WINDOWS_LIMIT, Windows};
use jiff::civil::Date;
use serde::Deserialize;

use crate::config_text::{Wrong, word};

const WEEK: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    #[serde(deserialize_with = "word")]
    pub state: ArmState,
    /// "23:00"
    #[serde(default = "midnight")]
    pub from: String,
    /// Of the next day, if it is not later than `from`. "24:00" is the end of the day.
    #[serde(default = "end_of_day")]
    pub to: String,
    /// "mon", "sat-sun"; empty: every day. The day on which it begins.
    #[serde(default)]
    pub days: Vec<String>,
    /// "2026-12-24", "2026-12-24 to 2027-01-02"; empty: always.
    #[serde(default)]
    pub dates: Vec<String>,
}

fn midnight() -> String {
    "00:00".to_owned()
}

fn end_of_day() -> String {
    "24:00".to_owned()
}

/// The house's windows. `zone`: as the config names it, else that of this machine.
pub fn windows(configs: &[WindowConfig], zone: Option<&str>) -> Result<Windows, Wrong> {
    let mut rows = Vec::new();
    for (nth, config) in configs.iter().enumerate() {
        rows.extend(config.rows().map_err(|wrong| wrong.within(&format!("coordinator.window.{nth}")))?);
    }
    if rows.len() > WINDOWS_LIMIT {
        let why = format!("{} windows, each date of `dates` counted: a house has {WINDOWS_LIMIT} at most", rows.len());
        return Err(Wrong::new("coordinator.window", why));
    }
    let own = jiff::tz::TimeZone::system();
    let name = zone.or(own.iana_name()).unwrap_or("UTC");
    Windows::new(rows, name)
        .ok_or_else(|| Wrong::new("coordinator.zone", format!("there is no zone {name:?}: write one such as \"Europe/Berlin\"")))
}

impl WindowConfig {
    fn rows(&self) -> Result<Vec<WindowV1>, Wrong> {
        let (start, end) = (minute("from", &self.from)?, minute("to", &self.to)?);
        if start == end {
            return Err(Wrong::new("to", "it ends when it begins; for the whole day leave `from` and `to` away"));
        }
        if start == DAY_MINUTES {
            return Err(Wrong::new("from", "a day ends at 24:00: write 00:00 and the day after"));
        }
        let days = if self.days.is_empty() { ALL_DAYS } else { self.days()? };
        let row = |from_day, to_day| WindowV1 { state: self.state.to_wire(), days, start, end, from_day, to_day };
        if self.dates.is_empty() {
            return Ok(vec![row(None, None)]);
        }
        let range = |(nth, text): (usize, &String)| {
            let (first, last) = dates(text).map_err(|why| Wrong::new(format!("dates.{nth}"), why))?;
            Ok(row(Some(first), Some(last)))
        };
        self.dates.iter().enumerate().map(range).collect()
    }

    fn days(&self) -> Result<u8, Wrong> {
        let mut days = 0;
        for (nth, text) in self.days.iter().enumerate() {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let place = |name: &str| WEEK.iter().position(|day| name.trim().eq_ignore_ascii_case(day));
            let (Some(first), Some(last)) = (place(first), place(last)) else {
                return Err(Wrong::new(format!("days.{nth}"), format!("{text:?} is no day: write {}, or \"mon-fri\"", WEEK.join(", "))));
            };
            // "sat-mon" goes on with the next week.
            let length = (last + WEEK.len() - first) % WEEK.len();
            (0..=length).for_each(|step| days |= 1 << ((first + step) % WEEK.len()));
        }
        Ok(days)
    }
}

/// Minutes after midnight.
fn minute(key: &str, text: &str) -> Result<u16, Wrong> {
    let read = || {
        let (hours, minutes) = text.split_once(':')?;
        let number = |text: &str| (text.len() <= 2).then(|| text.parse::<u16>().ok()).flatten();
        let (hours, minutes) = (number(hours)?, number(minutes).filter(|minutes| *minutes < 60)?);
        Some(hours * 60 + minutes).filter(|minute| *minute <= DAY_MINUTES)
    };
    read().ok_or_else(|| Wrong::new(key, format!("{text:?} is no time of day: write one such as \"23:00\"")))
}

/// First and last day, as days since 1970-01-01.
fn dates(text: &str) -> Result<(i32, i32), String> {
    let (first, last) = text.split_once(" to ").unwrap_or((text, text));
    let day = |text: &str| {
        let date: Date = text.trim().parse().ok()?;
        Some(date.since(Date::constant(1970, 1, 1)).ok()?.get_days())
    };
    match (day(first), day(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(_), Some(_)) => Err(format!("{text:?} ends before it begins")),
        _ => Err(format!("{text:?} is no date: write one such as \"2026-12-24\", or \"2026-12-24 to 2027-01-02\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<WindowV1>, String> {
        let config: WindowConfig = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        config.rows().map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_window_needs_only_its_state() {
        let all_day = WindowV1 { state: 3, days: ALL_DAYS, start: 0, end: DAY_MINUTES, from_day: None, to_day: None };
        assert_eq!(read("state = 'away'"), Ok(vec![all_day.clone()]));
        let nights = WindowV1 { state: 2, days: 0b001_1111, start: 1380, end: 360, ..all_day.clone() };
        assert_eq!(read("state = 'night'\nfrom = '23:00'\nto = '6:00'\ndays = ['mon-fri']"), Ok(vec![nights]));
        let weekend = WindowV1 { state: 1, days: 0b110_0001, ..all_day.clone() };
        assert_eq!(read("state = 'disarmed'\ndays = ['Sat-Mon']"), Ok(vec![weekend]));
        let holidays = read("state = 'away'\ndates = ['1970-01-02', '1970-02-01 to 1970-02-03']").unwrap();
        let days: Vec<_> = holidays.iter().map(|row| (row.from_day, row.to_day)).collect();
        assert_eq!(days, [(Some(1), Some(1)), (Some(31), Some(33))]);
    }

    #[test]
    fn what_is_no_time_day_or_date_is_told_with_what_is() {
        for (text, why) in [
            ("state = 'evening'", "evening"),
            ("from = '23:00'", "missing field `state`"),
            ("state = 'night'\nfrom = '25:00'", "from: \"25:00\" is no time of day: write one such as \"23:00\""),
            ("state = 'night'\nfrom = '2300'", "from: \"2300\" is no time of day"),
            ("state = 'night'\nto = '7:60'", "to: \"7:60\" is no time of day"),
            ("state = 'night'\nfrom = '7:00'\nto = '07:00'", "to: it ends when it begins"),
            ("state = 'night'\nfrom = '24:00'\nto = '07:00'", "from: a day ends at 24:00"),
            ("state = 'night'\ndays = ['mon', 'holiday']", "days number 2: \"holiday\" is no day: write mon, tue"),
            ("state = 'away'\ndates = ['24.12.2026']", "\"24.12.2026\" is no date: write one such as \"2026-12-24\""),
            ("state = 'away'\ndates = ['2026-12-24 to 2026-12-01']", "ends before it begins"),
            ("state = 'away'\nzone = 'x'", "unknown field `zone`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let away = || toml::from_str::<WindowConfig>("state = 'away'\ndates = ['2026-12-24', '2026-12-26']").unwrap();
        let many: Vec<_> = std::iter::repeat_with(away).take(33).collect();
        assert!(windows(&many, None).unwrap_err().to_string().contains("a house has 64 at most"));
        assert!(windows(&[], Some("Europe/Atlantis")).unwrap_err().to_string().contains("there is no zone \"Europe/Atlantis\""));
        assert_eq!(windows(&[], Some("Europe/Berlin")).unwrap().zone(), "Europe/Berlin");
    }
}
