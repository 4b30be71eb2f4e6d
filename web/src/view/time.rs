//! A moment as pages show it.

use std::time::Duration;

use dms3_core::time::Timestamp;
use jiff::Zoned;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

/// The time at which a page is made, where the house stands.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    pub(crate) now: Timestamp,
    pub(crate) zone: TimeZone,
}

/// What templates see of a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Moment {
    /// "2026-11-28T18:02:00+01:00"
    pub(crate) iso: String,
    /// "today 18:02"
    pub(crate) words: String,
    /// "12 min ago"; of what is to come, nothing.
    pub(crate) age: String,
}

impl Clock {
    pub(crate) fn moment(&self, at: Timestamp) -> Moment {
        let age = if at > self.now { String::new() } else { age(self.now.since(at)) };
        let (Some(then), Some(now)) = (self.zoned(at), self.zoned(self.now)) else {
            return Moment { iso: at.to_string(), words: at.to_string(), age };
        };
        Moment {
            iso: then.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            words: format!("{} {}", day(&then, &now), then.strftime("%H:%M")),
            age,
        }
    }

    /// As [`Clock::moment`], for what is near: to the second.
    pub(crate) fn second(&self, at: Timestamp) -> Moment {
        let mut moment = self.moment(at);
        if let Some(then) = self.zoned(at) {
            moment.words = then.strftime("%H:%M:%S").to_string();
        }
        moment
    }

    /// As [`Clock::moment`], in a list by days: the clock alone.
    pub(crate) fn minute(&self, at: Timestamp) -> Moment {
        let mut moment = self.moment(at);
        if let Some(then) = self.zoned(at) {
            moment.words = then.strftime("%H:%M").to_string();
        }
        moment
    }

    /// ("2026-11-28", "today")
    pub(crate) fn day(&self, at: Timestamp) -> (String, String) {
        match (self.zoned(at), self.zoned(self.now)) {
            (Some(then), Some(now)) => (then.date().to_string(), day(&then, &now)),
            _ => (at.to_string(), at.to_string()),
        }
    }

    pub(crate) fn zone_name(&self) -> String {
        self.zone.iana_name().unwrap_or("local time").replace('_', " ")
    }

    pub(crate) fn today(&self) -> Option<Date> {
        self.zoned(self.now).map(|now| now.date())
    }

    /// When that day begins where the house stands.
    pub(crate) fn midnight(&self, day: Date) -> Option<Timestamp> {
        let at = day.to_zoned(self.zone.clone()).ok()?.timestamp();
        Some(Timestamp(u64::try_from(at.as_millisecond()).ok()?))
    }

    /// The next time that it is so late, strictly after now.
    pub(crate) fn next(&self, hour: i8) -> Option<Timestamp> {
        let now = self.zoned(self.now)?;
        let days = [now.date(), now.date().tomorrow().ok()?];
        let times = days.into_iter().filter_map(|day| {
            let at = day.at(hour, 0, 0, 0).to_zoned(self.zone.clone()).ok()?.timestamp();
            Some(Timestamp(u64::try_from(at.as_millisecond()).ok()?))
        });
        times.into_iter().find(|at| *at > self.now)
    }

    fn zoned(&self, at: Timestamp) -> Option<Zoned> {
        Some(jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?.to_zoned(self.zone.clone()))
    }
}

/// "today", "yesterday", "Mon 3 Nov", with the year if it is another one.
fn day(then: &Zoned, now: &Zoned) -> String {
    let (then_day, today) = (then.date(), now.date());
    if then_day == today {
        "today".to_owned()
    } else if today.yesterday().is_ok_and(|day| day == then_day) {
        "yesterday".to_owned()
    } else if today.tomorrow().is_ok_and(|day| day == then_day) {
        "tomorrow".to_owned()
    } else if then_day.year() == today.year() {
        then.strftime("%a %-d %b").to_string()
    } else {
        then.strftime("%a %-d %b %Y").to_string()
    }
}

/// "just now", "12 min ago": page.js says it in the same words as time goes on.
fn age(age: Duration) -> String {
    match age.as_secs() {
        0..60 => "just now".to_owned(),
        secs @ 60..3600 => format!("{} min ago", secs / 60),
        secs @ 3600..86_400 => format!("{} h ago", secs / 3600),
        secs @ 86_400..172_800 => format!("{} day ago", secs / 86_400),
        secs => format!("{} days ago", secs / 86_400),
    }
}

/// How long something has been up: "41 days", "3 days 4 h", "5 min".
pub(crate) fn length(secs: u64) -> String {
    let days = |count| if count == 1 { "1 day".to_owned() } else { format!("{count} days") };
    match (secs / 86_400, secs % 86_400 / 3600, secs % 3600 / 60) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, _) => format!("{hours} h"),
        (count @ 1..10, hours @ 1.., _) => format!("{} {hours} h", days(count)),
        (count, ..) => days(count),
    }
}

#[cfg(test)]
pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
}

#[cfg(test)]
pub(crate) fn berlin(now: &str) -> Clock {
    Clock { now: at(now), zone: TimeZone::get("Europe/Berlin").unwrap() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_said_as_people_say_them() {
        let clock = berlin("2026-11-28T17:31:00Z");
        let said = |text: &str| {
            let moment = clock.moment(at(text));
            (moment.words, moment.age)
        };
        let of = |words: &str, age: &str| (words.to_owned(), age.to_owned());
        assert_eq!(said("2026-11-28T17:30:30Z"), of("today 18:30", "just now"));
        assert_eq!(said("2026-11-28T17:02:00Z"), of("today 18:02", "29 min ago"));
        assert_eq!(said("2026-11-27T22:59:00Z"), of("yesterday 23:59", "18 h ago"));
        assert_eq!(said("2026-11-26T12:00:00Z"), of("Thu 26 Nov 13:00", "2 days ago"));
        assert_eq!(said("2025-11-26T12:00:00Z"), of("Wed 26 Nov 2025 13:00", "367 days ago"));
        assert_eq!(said("2026-11-29T06:00:00Z"), of("tomorrow 07:00", ""));
        assert_eq!(clock.moment(at("2026-07-01T10:00:00Z")).iso, "2026-07-01T12:00:00+02:00");
        assert_eq!(clock.second(at("2026-11-28T17:31:43Z")).words, "18:31:43");
        assert_eq!(clock.moment(Timestamp(u64::MAX)).age, "");
    }

    #[test]
    fn a_morning_is_always_to_come() {
        assert_eq!(berlin("2026-11-28T17:31:00Z").next(7), Some(at("2026-11-29T06:00:00Z")));
        assert_eq!(berlin("2026-11-28T05:59:59Z").next(7), Some(at("2026-11-28T06:00:00Z")));
        assert_eq!(berlin("2026-11-28T06:00:00Z").next(7), Some(at("2026-11-29T06:00:00Z")));
        // The night in which the clocks go forward has 23 hours.
        assert_eq!(berlin("2026-03-28T22:00:00Z").next(7), Some(at("2026-03-29T05:00:00Z")));
        let clock = berlin("2026-03-29T10:00:00Z");
        assert_eq!(clock.midnight(clock.today().unwrap()), Some(at("2026-03-28T23:00:00Z")));
    }

    #[test]
    fn lengths_have_no_more_detail_than_somebody_wants() {
        let said = [59, 3600, 90_000, 273_600, 864_000, 3_542_400].map(length);
        assert_eq!(said, ["59 s", "1 h", "1 day 1 h", "3 days 4 h", "10 days", "41 days"]);
    }
}
