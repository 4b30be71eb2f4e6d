//! Times and tables as people read them.

use std::time::Duration;

use dms3_core::time::Timestamp;
use jiff::tz::TimeZone;

/// "18:02" today, "Mon 3 Nov 18:02" on another day, in this machine's zone.
pub(super) fn clock_time(at: Timestamp, now: Timestamp) -> String {
    let zone = TimeZone::system();
    let Some((at, now)) = zoned(at, &zone).zip(zoned(now, &zone)) else { return at.to_string() };
    if at.date() == now.date() { at.strftime("%H:%M").to_string() } else { at.strftime("%a %-d %b %H:%M").to_string() }
}

/// "3 s", "12 min", "5 h", "41 d".
pub(super) fn age(span: Duration) -> String {
    match span.as_secs() {
        secs @ 0..60 => format!("{secs} s"),
        secs @ 60..3600 => format!("{} min", secs / 60),
        secs @ 3600..86400 => format!("{} h", secs / 3600),
        secs => format!("{} d", secs / 86400),
    }
}

/// Columns wide enough for their longest cell; the last one is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn zoned(at: Timestamp, zone: &TimeZone) -> Option<jiff::Zoned> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    Some(at.to_zoned(zone.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = [vec!["NAME".to_owned(), "STATE".to_owned()], vec!["a long name".to_owned(), String::new()]];
        assert_eq!(table(&rows), "NAME         STATE\na long name\n");
    }

    #[test]
    fn ages_are_said_in_one_unit() {
        assert_eq!(age(Duration::from_secs(59)), "59 s");
        assert_eq!(age(Duration::from_secs(60)), "1 min");
        assert_eq!(age(Duration::from_secs(86400 * 41)), "41 d");
    }

    #[test]
    fn a_time_beyond_every_calendar_is_still_printed() {
        assert!(!clock_time(Timestamp(u64::MAX), Timestamp(0)).is_empty());
    }
}
