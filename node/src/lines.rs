//! Lines for the log that somebody else can cause as often as he likes: some are written, the rest is counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub const EVERY: Duration = Duration::from_secs(60);

/// What is told of one kind: no more than so many lines a minute.
#[derive(Debug)]
pub struct Lines {
    most: u32,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// When the first line of this minute was written.
    since: Option<Instant>,
    lines: u32,
    /// Not written since the last line.
    more: u32,
}

impl Lines {
    pub fn new(most: u32) -> Self {
        Self { most, told: Mutex::default() }
    }

    /// What is to follow the line: a number of those before it that were not written, and whether the next ones will not be; `None`: it is
    /// not to be written.
    pub fn next(&self) -> Option<String> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_over() {
            (told.since, told.lines) = (Some(Instant::now()), 0);
        }
        if told.lines == self.most {
            told.more = told.more.saturating_add(1);
            return None;
        }
        told.lines += 1;
        let before = match std::mem::take(&mut told.more) {
            0 => String::new(),
            more => format!(" ({more} more like it were not written)"),
        };
        let last = if told.lines == self.most { "; further ones like it are only counted for a minute" } else { "" };
        Some(before + last)
    }

    /// How many were not written in a minute that is over; told once.
    pub fn rest(&self) -> Option<u32> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.is_over() || told.more == 0 {
            return None;
        }
        Some(std::mem::take(&mut told.more))
    }
}

impl Told {
    fn is_over(&self) -> bool {
        self.since.is_none_or(|since| since.elapsed() >= EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: &str = "; further ones like it are only counted for a minute";

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_so_many_lines_a_minute_and_a_number() {
        let lines = Lines::new(2);
        let flood = || (0..1000).filter_map(|_| lines.next()).collect::<Vec<_>>();
        assert_eq!(flood(), ["", LAST]);
        assert_eq!(lines.rest(), None, "the minute is not over");
        tokio::time::advance(EVERY).await;
        assert_eq!(flood(), [" (998 more like it were not written)", LAST]);
        tokio::time::advance(EVERY).await;
        assert_eq!((lines.rest(), lines.rest()), (Some(998), None), "told once");
        assert_eq!(lines.next().as_deref(), Some(""));
    }
}
