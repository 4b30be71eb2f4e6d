//! Arming windows: times for which a person wants the house in a state, whoever is home. Read in the zone of the coordinator, whatever
//! the zone of the machine that reads them.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan as _};
use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::protocol::message::WindowV1;
use crate::time::Timestamp;

/// More than a house needs; what comes from a coordinator is cut there.
pub const WINDOWS_LIMIT: usize = 64;
/// Minutes of a day that has 24 hours.
pub const DAY_MINUTES: u16 = 24 * 60;
/// Every day of the week.
pub const ALL_DAYS: u8 = 0x7f;
/// So far ahead the next window is looked for.
const AHEAD_DAYS: i64 = 8;

/// The windows of a house and the zone in which they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    windows: Vec<WindowV1>,
    zone: TimeZone,
    name: String,
}

/// A window at one of its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub state: ArmState,
    pub from: Timestamp,
    /// Not part of it any more.
    pub until: Timestamp,
}

impl Windows {
    /// `zone`: an IANA name, "Europe/Berlin". `None`: there is no such zone.
    pub fn new(mut windows: Vec<WindowV1>, zone: &str) -> Option<Self> {
        windows.truncate(WINDOWS_LIMIT);
        Some(Self { windows, zone: TimeZone::get(zone).ok()?, name: zone.to_owned() })
    }

    /// As they are sent and signed.
    pub fn rows(&self) -> &[WindowV1] {
        &self.windows
    }

    /// The IANA name of the zone.
    pub fn zone(&self) -> &str {
        &self.name
    }

    /// Of all windows in force the one whose state is the strongest; of equals the one that lasts longest.
    pub fn at(&self, at: Timestamp) -> Option<Span> {
        let spans = self.around(at, 1).filter(|span| span.from <= at && at < span.until);
        spans.max_by_key(|span| (span.state, span.until))
    }

    /// The one that begins next, within a week.
    pub fn next(&self, at: Timestamp) -> Option<Span> {
        self.around(at, AHEAD_DAYS).filter(|span| span.from > at).min_by_key(|span| (span.from, std::cmp::Reverse(span.state)))
    }

    /// Those that begin from the day before to so many days later. A day more on either side: where clocks change at midnight, a window
    /// may begin on the day before its own.
    fn around(&self, at: Timestamp, days: i64) -> impl Iterator<Item = Span> {
        let days = if self.windows.is_empty() { -3 } else { days };
        let millis = i64::try_from(at.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        let today = millis.map(|at| self.zone.to_datetime(at).date());
        (-2..=days)
            .filter_map(move |nth| today?.checked_add(nth.days()).ok())
            .flat_map(move |day| self.windows.iter().filter_map(move |window| self.span(window, day)))
    }

    /// The window's time that begins on that day. In the nights in which clocks change, one that arms is rather longer than it says, and
    /// one that disarms rather shorter.
    fn span(&self, window: &WindowV1, day: Date) -> Option<Span> {
        let number = day.since(Date::constant(1970, 1, 1)).ok()?.get_days();
        let on = (window.days >> day.weekday().to_monday_zero_offset()) & 1 == 1;
        if !on || window.from_day.is_some_and(|first| number < first) || window.to_day.is_some_and(|last| number > last) {
            return None;
        }
        let state = ArmState::from_wire(window.state);
        let last = if window.end > window.start { day } else { day.tomorrow().ok()? };
        let (from, until) = (self.instants(day, window.start)?, self.instants(last, window.end)?);
        let (from, until) = if state.is_armed() { (from.0, until.1) } else { (from.1, until.0) };
        (from < until).then_some(Span { state, from, until })
    }

    /// What the clock on the wall may mean by that minute: the same moment twice, but in the nights in which it is changed.
    fn instants(&self, day: Date, minute: u16) -> Option<(Timestamp, Timestamp)> {
        let local = day.at(0, 0, 0, 0).checked_add(SignedDuration::from_mins(i64::from(minute.min(DAY_MINUTES)))).ok()?;
        let meant = self.zone.to_ambiguous_timestamp(local);
        let stamp = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).ok().map(Timestamp);
        Some((stamp(meant.earlier().ok()?)?, stamp(meant.later().ok()?)?))
    }
}

#[cfg(test)]
mod tests {
    use ArmState::{Away, Disarmed, Night};
    use jiff::civil::DateTime;
    use proptest::prelude::*;

    use super::*;

    const WEEKDAYS: u8 = 0b001_1111;

    fn window(state: ArmState, start: u16, end: u16) -> WindowV1 {
        WindowV1 { state: state.to_wire(), days: ALL_DAYS, start, end, from_day: None, to_day: None }
    }

    fn night() -> WindowV1 {
        window(Night, 23 * 60, 6 * 60)
    }

    fn day(text: &str) -> i32 {
        text.parse::<Date>().unwrap().since(Date::constant(1970, 1, 1)).unwrap().get_days()
    }

    /// "2026-11-24T23:00:00+01:00"
    fn moment(text: &str) -> Timestamp {
        Timestamp(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    /// The state that the windows ask for at each of these local times; a time of day that is there twice means the first.
    fn states<const N: usize>(zone: &str, windows: Vec<WindowV1>, times: [&str; N]) -> [Option<ArmState>; N] {
        let windows = Windows::new(windows, zone).unwrap();
        times.map(|time| {
            let local: DateTime = time.parse().unwrap();
            let at = windows.zone.to_ambiguous_timestamp(local).earlier().unwrap();
            windows.at(Timestamp(u64::try_from(at.as_millisecond()).unwrap())).map(|span| span.state)
        })
    }

    #[test]
    fn a_night_goes_across_midnight_and_its_end_is_not_part_of_it() {
        let times = ["2026-11-24T22:59:59", "2026-11-24T23:00", "2026-11-25T00:00", "2026-11-25T05:59:59", "2026-11-25T06:00"];
        assert_eq!(states("Europe/Berlin", vec![night()], times), [None, Some(Night), Some(Night), Some(Night), None]);
    }

    #[test]
    fn the_day_of_a_window_is_the_day_on_which_it_begins() {
        // 2026-11-27 is a Friday.
        let weekdays = WindowV1 { days: WEEKDAYS, ..night() };
        let times =
            ["2026-11-27T23:30", "2026-11-28T05:00", "2026-11-28T23:30", "2026-11-29T05:00", "2026-11-30T05:00", "2026-11-30T23:30"];
        assert_eq!(states("Europe/Berlin", vec![weekdays], times), [Some(Night), Some(Night), None, None, None, Some(Night)]);
    }

    #[test]
    fn holidays_have_a_first_and_a_last_day() {
        let holidays = WindowV1 { from_day: Some(day("2026-12-24")), to_day: Some(day("2026-12-26")), ..window(Away, 0, DAY_MINUTES) };
        let times = ["2026-12-23T23:59", "2026-12-24T00:00", "2026-12-26T23:59", "2026-12-27T00:00"];
        assert_eq!(states("Europe/Berlin", vec![holidays], times), [None, Some(Away), Some(Away), None]);
    }

    #[test]
    fn of_several_at_once_the_strongest_wins() {
        let windows = vec![night(), window(Away, 60, 120), window(Disarmed, 5 * 60, 7 * 60)];
        let times = ["2026-11-25T00:30", "2026-11-25T01:30", "2026-11-25T05:30", "2026-11-25T06:30"];
        assert_eq!(states("Europe/Berlin", windows, times), [Some(Night), Some(Away), Some(Night), Some(Disarmed)]);
    }

    #[test]
    fn where_the_hour_is_there_twice_an_arming_lasts_for_both_and_a_disarming_for_none_of_the_second() {
        // Berlin, 2026-10-25: at 03:00 it is 02:00 again.
        let windows = |state| Windows::new(vec![window(state, 22 * 60, 2 * 60 + 30)], "Europe/Berlin").unwrap();
        let until = |state| windows(state).at(moment("2026-10-25T00:30:00+02:00")).unwrap().until;
        assert_eq!(until(Night), moment("2026-10-25T02:30:00+01:00"));
        assert_eq!(until(Disarmed), moment("2026-10-25T02:30:00+02:00"));
        let early = |state| Windows::new(vec![window(state, 2 * 60 + 30, 5 * 60)], "Europe/Berlin").unwrap();
        let from = |state| early(state).at(moment("2026-10-25T04:00:00+01:00")).unwrap().from;
        assert_eq!(from(Night), moment("2026-10-25T02:30:00+02:00"));
        assert_eq!(from(Disarmed), moment("2026-10-25T02:30:00+01:00"));
    }

    #[test]
    fn where_the_hour_is_missing_an_arming_begins_before_it_and_a_disarming_after() {
        // Berlin, 2026-03-29: 02:00 is 03:00 at once. New York does so on 2026-03-08.
        for (zone, before, after) in [
            ("Europe/Berlin", "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"),
            ("America/New_York", "2026-03-08T01:30:00-05:00", "2026-03-08T03:30:00-04:00"),
        ] {
            let from = |state| {
                let windows = Windows::new(vec![window(state, 2 * 60 + 30, 5 * 60)], zone).unwrap();
                windows.at(moment(after)).unwrap().from
            };
            assert_eq!(from(Night), moment(before));
            assert_eq!(from(Disarmed), moment(after));
        }
    }

    #[test]
    fn where_clocks_change_at_midnight_or_by_half_an_hour_windows_stand_as_they_say() {
        // Cairo, 2026-04-24: 00:00 is 01:00 at once.
        let cairo = Windows::new(vec![window(Night, 0, 6 * 60)], "Africa/Cairo").unwrap();
        assert_eq!(cairo.at(moment("2026-04-23T23:30:00+02:00")).map(|span| span.state), Some(Night), "begun early");
        assert_eq!(cairo.at(moment("2026-04-24T06:00:00+03:00")), None);
        // Lord Howe, 2026-04-05: at 02:00 it is 01:30 again.
        let howe = Windows::new(vec![window(Night, 22 * 60, 6 * 60)], "Australia/Lord_Howe").unwrap();
        let span = howe.at(moment("2026-04-05T01:45:00+11:00")).unwrap();
        assert_eq!((span.from, span.until), (moment("2026-04-04T22:00:00+11:00"), moment("2026-04-05T06:00:00+10:30")));
    }

    #[test]
    fn the_next_window_is_named_and_none_that_is_a_month_away() {
        let windows = Windows::new(vec![night(), window(Away, 60, 120)], "Europe/Berlin").unwrap();
        let next = windows.next(moment("2026-11-24T12:00:00+01:00")).unwrap();
        assert_eq!((next.state, next.from), (Night, moment("2026-11-24T23:00:00+01:00")));
        let next = windows.next(moment("2026-11-24T23:00:00+01:00")).unwrap();
        assert_eq!((next.state, next.from), (Away, moment("2026-11-25T01:00:00+01:00")));
        let far = WindowV1 { from_day: Some(day("2027-01-01")), ..night() };
        assert_eq!(Windows::new(vec![far], "Europe/Berlin").unwrap().next(moment("2026-11-24T12:00:00+01:00")), None);
    }

    #[test]
    fn a_zone_that_nobody_knows_is_no_zone() {
        assert_eq!(Windows::new(vec![night()], "Europe/Atlantis"), None);
        assert_eq!(Windows::new(vec![night()], ""), None);
    }

    proptest! {
        /// Whatever bytes come from a coordinator.
        #[test]
        fn no_window_brings_it_down_and_the_one_in_force_holds_the_moment(
            rows in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u16>(), any::<u16>(), any::<Option<i32>>(), any::<Option<i32>>()), 0..6),
            at in any::<u64>(),
            zone in prop::sample::select(vec!["Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu", "UTC"]),
        ) {
            let row = |(state, days, start, end, from_day, to_day)| WindowV1 { state, days, start, end, from_day, to_day };
            let windows = Windows::new(rows.into_iter().map(row).collect(), zone).unwrap();
            for at in [Timestamp(at), Timestamp(at % (1 << 42))] {
                if let Some(span) = windows.at(at) {
                    prop_assert!(span.from <= at && at < span.until);
                }
                if let Some(span) = windows.next(at) {
                    prop_assert!(span.from > at);
                }
            }
        }

        /// At any minute of ten years: asked by the clock on the wall, an arming window is never missing where it says that it is.
        #[test]
        fn an_arming_window_holds_at_each_local_time_that_it_names(minutes in 0_i64..5_000_000, start in 0_u16..1440, length in 1_u16..1440) {
            let end = (start + length) % DAY_MINUTES;
            let windows = Windows::new(vec![window(Night, start, end)], "Europe/Berlin").unwrap();
            let at = moment("2024-01-01T00:00:00Z").0 + u64::try_from(minutes).unwrap() * 60_000;
            let local = windows.zone.to_datetime(jiff::Timestamp::from_millisecond(i64::try_from(at).unwrap()).unwrap());
            let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap();
            let named = if start < end { (start..end).contains(&minute) } else { minute >= start || minute < end };
            prop_assert!(!named || windows.at(Timestamp(at)).is_some(), "{local} in {start}..{end}");
        }
    }
}
