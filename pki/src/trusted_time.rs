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
    /// What a coordinator told last since the start, and when: the time of the house, which may be before the floor once it corrected itself.
    told: Option<(Timestamp, Mono)>,
    /// A person vouched for the system clock since the start: then the floor is the time, not only a bound.
    accepted: bool,
}

impl TrustedTime {
    /// `floor`: the latest of build time and the floor that was kept on disk.
    pub fn new(floor: Timestamp, mono: Mono) -> Self {
        Self { floor, at: mono, told: None, accepted: false }
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
        self.told = Some((at, mono));
    }

    /// A person said that the system clock is right (`time accept`, `init`).
    pub fn accept(&mut self, wall: Timestamp, mono: Mono) {
        self.raise(wall, mono);
        self.accepted = true;
    }

    /// What is proven to have passed. Keep it on disk every hour; a wall clock alone never moves it.
    pub fn floor(&self, mono: Mono) -> Timestamp {
        self.floor + mono.since(self.at)
    }

    /// The time, whether it is more than a lower bound, and whether the system clock is too far ahead to be believed.
    ///
    /// Whom a coordinator told the time goes by that, however its own clock is set meanwhile: a house has one time.
    pub fn now(&self, wall: Timestamp, mono: Mono) -> (Timestamp, bool, bool) {
        let floor = self.floor(mono);
        let ahead = wall > floor + FAR_AHEAD;
        if let Some((at, then)) = self.told {
            let told = at + mono.since(then);
            let near = wall.since(told).max(told.since(wall)) <= SLOW;
            return (if near { wall } else { told }, true, ahead);
        }
        if ahead {
            return (floor, self.accepted, true);
        }
        (wall.max(floor), self.accepted || wall + SLOW >= floor, false)
    }

    /// For what goes for good because it is old: the system clock only while NTP vouches for it and it is within reason, else what is proven.
    /// Early where a machine was off and no time server is reached, and never late.
    pub fn certain(&self, wall: Timestamp, mono: Mono, synchronised: bool) -> Timestamp {
        let floor = self.floor(mono);
        if let Some((at, then)) = self.told {
            // Not what it said before it corrected itself.
            return floor.min(at + mono.since(then));
        }
        if synchronised && wall <= floor + FAR_AHEAD { wall.max(floor) } else { floor }
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
    fn whom_a_coordinator_told_the_time_goes_by_that_however_its_own_clock_is_set() {
        let mut time = TrustedTime::new(BUILD, BOOT);
        time.told(BUILD + days(9), BOOT);
        let later = BOOT + days(1);
        for wall in [Timestamp(0), BUILD, BUILD + days(10) + days(100), BUILD + days(20_000)] {
            assert_eq!(time.now(wall, later).0, BUILD + days(10), "{wall}");
            assert!(time.now(wall, later).1);
        }
        let near = BUILD + days(10) + Duration::from_secs(3);
        assert_eq!(time.now(near, later).0, near, "its own clock is the finer one");
        // The coordinator's clock was wrong, and is right again.
        time.told(BUILD + days(2), later);
        assert_eq!(time.now(Timestamp(0), later), (BUILD + days(2), true, false));
        assert_eq!(time.floor(later), BUILD + days(10), "certificates are judged by what was proven once");
        assert_eq!(time.certain(BUILD + days(300), later, true), BUILD + days(2), "and nothing is old by what it took back");
    }

    #[test]
    fn nothing_is_old_by_a_clock_for_which_only_itself_speaks() {
        let time = TrustedTime::new(BUILD, BOOT);
        for (wall, synchronised, certain) in [
            (BUILD + days(29), false, BUILD),
            (BUILD + days(29), true, BUILD + days(29)),
            (BUILD + days(401), true, BUILD),
            (Timestamp(0), true, BUILD),
        ] {
            assert_eq!(time.certain(wall, BOOT, synchronised), certain, "{wall} {synchronised}");
        }
        assert_eq!(time.certain(BUILD + days(29), BOOT + days(3), false), BUILD + days(3), "what has passed has passed");
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
