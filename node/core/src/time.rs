//! Two kinds of time, and an argument that carries both.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z, by the trusted time of the node that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, rhs: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Milliseconds of a clock that only goes forward and goes on while the machine sleeps (`CLOCK_BOOTTIME`). Means nothing to another
/// machine or after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A moment by the clock of a machine that no setting of its time moves, and of which boot it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SinceBoot {
    /// Another one after each boot.
    pub boot: u128,
    pub mono: Mono,
}

impl SinceBoot {
    /// How long after `earlier` this is; `None` where the machine was started anew between them.
    pub fn since(self, earlier: SinceBoot) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.mono.since(earlier.mono))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, rhs: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(rhs.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The time, as every rule gets it: read once by `clock.rs`, an argument from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Trusted time: never before the floor, never a wall clock that is out of all reason.
    pub at: Timestamp,
    /// For every "how long": waiting, silence, leases.
    pub mono: Mono,
    /// False while `at` is only a lower bound (a Pi without a clock that nobody told the time yet, a clock far ahead).
    pub trusted: bool,
}

impl fmt::Display for Timestamp {
    /// Seconds since 1970, for messages that have no calendar at hand; `node` formats times for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A duration as people say it: "45 s", "20 min", "1 h 30 min", "3 d 2 h".
pub fn duration_words(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (great, small) = match secs {
        0..120 => return format!("{secs} s"),
        120..3600 => return format!("{} min", secs / 60),
        3600..86_400 => ((secs / 3600, "h"), (secs % 3600 / 60, "min")),
        _ => ((secs / 86_400, "d"), (secs % 86_400 / 3600, "h")),
    };
    match small {
        (0, _) => format!("{} {}", great.0, great.1),
        (n, unit) => format!("{} {} {n} {unit}", great.0, great.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_since_another_boot_is_no_time_ago() {
        let at = |boot, mono| SinceBoot { boot, mono: Mono(mono) };
        assert_eq!(at(1, 900).since(at(1, 400)), Some(Duration::from_millis(500)));
        assert_eq!(at(1, 400).since(at(1, 900)), Some(Duration::ZERO));
        assert_eq!(at(2, 900).since(at(1, 400)), None);
    }

    #[test]
    fn durations_are_said_as_people_say_them() {
        for (secs, words) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3599, "59 min"), (7200, "2 h"), (5400, "1 h 30 min"), (266_400, "3 d 2 h")]
        {
            assert_eq!(duration_words(Duration::from_secs(secs)), words);
        }
    }
}
