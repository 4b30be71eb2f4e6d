//! Handshakes that failed, told to the log without letting a stranger fill it.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(60);
/// Lines in that time; the rest is counted.
const LINES: u32 = 5;

#[derive(Debug, Default)]
pub(super) struct Strangers {
    told: Mutex<Option<Told>>,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    lines: u32,
    more: u32,
}

impl Strangers {
    /// Somebody at `from` was not let in.
    pub(super) fn note(&self, from: SocketAddr, why: &str) {
        if let Some(more) = self.may_tell(Instant::now()) {
            if more > 0 {
                tracing::info!("{more} more attempts to link were refused");
            }
            tracing::info!("{from} was not let in: {why}");
        } else {
            tracing::debug!("{from} was not let in: {why}");
        }
    }

    /// How many were not told before this one, if this one is to be told.
    fn may_tell(&self, now: Instant) -> Option<u32> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *told {
            Some(told) if now.duration_since(told.since) < EVERY => {
                if told.lines < LINES {
                    told.lines += 1;
                    return Some(0);
                }
                told.more += 1;
                None
            }
            _ => {
                let more = told.take().map_or(0, |told| told.more);
                *told = Some(Told { since: now, lines: 1, more: 0 });
                Some(more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_strangers_is_five_lines_a_minute_and_a_number() {
        let strangers = Strangers::default();
        let told = (0..1000).filter(|_| strangers.may_tell(Instant::now()).is_some()).count();
        assert_eq!(told, 5);
        tokio::time::advance(EVERY).await;
        assert_eq!(strangers.may_tell(Instant::now()), Some(995));
    }
}
