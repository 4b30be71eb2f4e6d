//! Spans of time as people type them: "90s", "45m", "2h", "1h30m", "7d".

use std::time::Duration;

/// Reads numbers with units (s, m, h, d), the greatest first; a bare number is refused, for nobody knows what it counts.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let not = || format!("\"{text}\" is no span of time: write it like 90s, 45m, 2h, 1h30m or 7d");
    let mut rest = text.trim();
    let mut total = 0_u64;
    let mut last_unit = u64::MAX;
    if rest.is_empty() {
        return Err(not());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(not)?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| not())?;
        let mut letters = after.chars();
        let unit = match letters.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(not()),
        };
        if unit >= last_unit {
            return Err(not());
        }
        last_unit = unit;
        total = number.checked_mul(unit).and_then(|span| total.checked_add(span)).ok_or_else(not)?;
        rest = letters.as_str().trim_start();
    }
    if total > 366 * 86_400 {
        return Err(format!("\"{text}\" is longer than a year"));
    }
    Ok(Duration::from_secs(total))
}

/// "1 h 30 min", "45 s": two units at most, rounded down.
pub fn span_words(span: Duration) -> String {
    let secs = span.as_secs();
    let (days, hours, minutes, seconds) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60, secs % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")];
    let first = parts.iter().position(|(number, _)| *number > 0).unwrap_or(3);
    let words: Vec<String> =
        parts.iter().skip(first).take(2).filter(|(number, _)| *number > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, secs) in [("90s", 90), ("45m", 2700), (" 2h ", 7200), ("1h30m", 5400), ("1h 30m", 5400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_says_how_to_write_one() {
        for text in ["", " ", "5", "h", "-1h", "1.5h", "1h1h", "30m1h", "2 weeks", "99999999999999999999h", "500d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_said_in_two_units_at_most() {
        for (secs, words) in [(0, "0 s"), (45, "45 s"), (3600, "1 h"), (5400, "1 h 30 min"), (90_061, "1 d 1 h")] {
            assert_eq!(span_words(Duration::from_secs(secs)), words);
        }
    }
}
