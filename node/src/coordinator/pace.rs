//! How fast a node may go on with something, so much at once and then one each `every`, and how much is logged of it.

use std::time::Duration;

use tokio::time::Instant;

/// One node's place in time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that it did would be done, had it kept to its pace.
    due: Option<Instant>,
}

impl Pace {
    /// How long the next one is to wait; it counts as done then.
    pub(super) fn next(&mut self, burst: u32, every: Duration, now: Instant) -> Duration {
        let due = self.due.unwrap_or(now).max(now) + every;
        self.due = Some(due);
        due.duration_since(now).saturating_sub(every * burst)
    }

    /// Whether it is ahead of its pace.
    pub(super) fn is_ahead(&self, burst: u32, every: Duration, now: Instant) -> bool {
        self.due.is_some_and(|due| due.saturating_duration_since(now) >= every * burst)
    }

    /// Whether one more may be done now; one that may not counts for nothing.
    pub(super) fn allows(&mut self, burst: u32, every: Duration, now: Instant) -> bool {
        let before = self.due;
        let allowed = self.next(burst, every, now).is_zero();
        if !allowed {
            self.due = before;
        }
        allowed
    }
}

/// Lines of the log about one node: one that is mad, or two that fight, must not fill it.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pace: Pace,
    untold: u64,
}

impl Lines {
    const BURST: u32 = 60;
    const EVERY: Duration = Duration::from_secs(2);

    /// What the next line is to end with; `None`: it is not to be written, and counted.
    pub(super) fn next(&mut self, now: Instant) -> Option<String> {
        if !self.pace.allows(Self::BURST, Self::EVERY, now) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        Some(match std::mem::take(&mut self.untold) {
            0 => String::new(),
            untold => format!(" ({untold} more lines about this node were not written)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_a_node_that_is_mad_some_lines_are_written_and_the_others_counted() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert_eq!((0..1000).filter_map(|_| lines.next(now)).filter(String::is_empty).count(), 60);
        let later = lines.next(now + Lines::EVERY);
        assert_eq!(later.as_deref(), Some(" (940 more lines about this node were not written)"));
        assert_eq!(lines.next(now + Lines::EVERY), None);
    }

    const EVERY: Duration = Duration::from_millis(20);

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_what_follows_waits_its_turn() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let waits: Vec<_> = (0..103).map(|_| pace.next(100, EVERY, now)).collect();
        assert!(waits[..100].iter().all(Duration::is_zero));
        assert_eq!(waits[100..], [EVERY, EVERY * 2, EVERY * 3]);
        assert_eq!(pace.next(100, EVERY, now + EVERY * 103), Duration::ZERO);
        let later = now + EVERY * 1000;
        assert!((0..100).all(|_| pace.next(100, EVERY, later).is_zero()), "who rests may burst again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_is_not_refused_the_longer_for_it() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!((0..1000).filter(|_| pace.allows(30, EVERY, now)).count(), 30);
        assert!(pace.allows(30, EVERY, now + EVERY) && !pace.allows(30, EVERY, now + EVERY));
    }
}
