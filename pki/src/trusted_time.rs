//! The time that certificates and leases are judged by: never before what is proven to have passed, never a clock out of all reason.

use std::time::Duration;

use dms3_core::time::{Mono, Timestamp};

/// A clock further ahead of the floor than this is not believed.
pub const FAR_AHEAD: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// A coordinator further past its floor than this signs nothing until its clock is vouched for.
pub const VOUCHING_NEEDED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A clock behind the floor by no more than this is a clock that runs a little slow, not a lost one.
const SLOW: Duration = Duration::from_secs(120);

/// A floor that rises with proven time, and the clock above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedTime {
    floor: Timestamp,
    /// When `floor` was true.
    at: Mono,
    /// Whether somebody whom we trust told the time since the start: then the floor is the time, not only a bound.
    told: bool,
}

impl TrustedTime {
    /// `floor`: the latest of build time and the floor that was kept on disk.
    pub fn new(floor: Timestamp, mono: Mono) -> Self {
        Self { floor, at: mono, told: false }
    }

    /// It is at least `at`: a token's issue time.
    pub fn raise(&mut self, at: Timestamp, mono: Mono) {
        let floor = self.floor(mono);
        if at > floor {
            (self.floor, self.at) = (at, mono);
        }
    }

    /// It is `at`, says a coordinator on an authenticated link.
    pub fn told(&mut self, at: Timestamp, mono: Mono) {
        self.raise(at, mono);
        self.told = true;
    }

    /// A person said that the system clock is right (`time accept`, `init`).
    pub fn accept(&mut self, wall: Timestamp, mono: Mono) {
        self.told(wall, mono);
    }

    /// What is proven to have passed. Keep it on disk every hour; a wall clock alone never moves it.
    pub fn floor(&self, mono: Mono) -> Timestamp {
        self.floor + mono.since(self.at)
    }

    /// The time, whether it is more than a lower bound, and whether the system clock is too far ahead to be believed.
    pub fn now(&self, wall: Timestamp, mono: Mono) -> (Timestamp, bool, bool) {
        let floor = self.floor(mono);
        if wall > floor + FAR_AHEAD {
            return (floor, self.told, true);
        }
        (wall.max(floor), self.told || wall + SLOW >= floor, false)
    }

    /// Whether a coordinator may issue, renew, expire and announce: its clock is near what is proven, or it is synchronised by NTP
    /// and still within reason.
    pub fn may_sign(&self, wall: Timestamp, mono: Mono, synchronised: bool) -> bool {
        let ahead = wall.since(self.floor(mono));
        ahead <= VOUCHING_NEEDED || (synchronised && ahead <= FAR_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: Timestamp = Timestamp::from_secs(1_795_000_000);
    const BOOT: Mono = Mono(1000);

    fn days(n: u64) -> Duration {
        Duration::from_secs(n * 24 * 60 * 60)
    }

    #[test]
    fn a_pi_without_a_clock_lives_in_the_time_that_is_proven() {
        let time = TrustedTime::new(BUILD, BOOT);
        let (at, trusted, ahead) = time.now(Timestamp(0), BOOT + Duration::from_secs(60));
        assert_eq!((at, trusted, ahead), (BUILD + Duration::from_secs(60), false, false));
    }

    #[test]
    fn a_clock_that_goes_right_is_believed() {
        let time = TrustedTime::new(BUILD, BOOT);
        let wall = BUILD + days(100);
        assert_eq!(time.now(wall, BOOT), (wall, true, false));
        assert_eq!(time.now(BUILD - Duration::from_secs(5), BOOT), (BUILD, true, false), "a little slow");
    }

    #[test]
    fn a_clock_more_than_400_days_ahead_is_judged_by_the_floor_and_flagged() {
        let time = TrustedTime::new(BUILD, BOOT);
        assert_eq!(time.now(BUILD + days(400), BOOT), (BUILD + days(400), true, false));
        assert_eq!(time.now(BUILD + days(400) + Duration::from_millis(1), BOOT), (BUILD, false, true));
    }

    #[test]
    fn a_wall_clock_alone_never_raises_the_floor() {
        let time = TrustedTime::new(BUILD, BOOT);
        let _ = time.now(BUILD + days(300), BOOT);
        assert_eq!(time.floor(BOOT), BUILD);
        assert_eq!(time.now(BUILD, BOOT).0, BUILD);
    }

    #[test]
    fn the_floor_rises_with_tokens_coordinators_and_waiting_and_never_falls() {
        let mut time = TrustedTime::new(BUILD, BOOT);
        time.raise(BUILD + days(3), BOOT);
        assert_eq!(time.floor(BOOT), BUILD + days(3));
        assert!(!time.now(Timestamp(0), BOOT).1, "a token's issue time is only a bound");
        time.raise(BUILD + days(1), BOOT + days(1));
        assert_eq!(time.floor(BOOT + days(1)), BUILD + days(4), "an older time changes nothing");
        time.told(BUILD + days(9), BOOT + days(1));
        assert_eq!(time.now(Timestamp(0), BOOT + days(1)), (BUILD + days(9), true, false), "the coordinator told it");
        assert_eq!(time.floor(Mono(0)), BUILD + days(9), "a mono clock of another boot takes nothing away");
    }

    #[test]
    fn a_coordinator_far_past_its_floor_signs_nothing_until_its_clock_is_vouched_for() {
        let mut time = TrustedTime::new(BUILD, BOOT);
        assert!(time.may_sign(BUILD + days(30), BOOT, false));
        assert!(!time.may_sign(BUILD + days(31), BOOT, false));
        assert!(time.may_sign(BUILD + days(400), BOOT, true), "NTP vouches");
        assert!(!time.may_sign(BUILD + days(401), BOOT, true), "not even NTP");
        assert!(time.may_sign(Timestamp(0), BOOT, false), "a lost clock is judged by the floor");
        time.accept(BUILD + days(401), BOOT);
        assert!(time.may_sign(BUILD + days(401), BOOT, false), "a person vouches");
    }
}
