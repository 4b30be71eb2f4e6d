//! What state the house is in, and the one function that decides it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::presence::Presence;
use crate::time::Timestamp;

/// A disarm is a lease of at most this.
pub const LEASE: Duration = Duration::from_secs(12 * 3600);

/// What holds now. Armed means not `Disarmed`; the order is "how strongly": of two, the greater wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArmState {
    Disarmed,
    Night,
    Away,
}

impl ArmState {
    pub fn is_armed(self) -> bool {
        self != Self::Disarmed
    }

    /// The state on the wire and on disk. Zero is no state on purpose: a block of zeros is not a disarm.
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Disarmed => 1,
            Self::Night => 2,
            Self::Away => 3,
        }
    }

    /// Every value that this version does not know means armed.
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Disarmed,
            2 => Self::Night,
            _ => Self::Away,
        }
    }

    /// For people: "Armed (away)".
    pub fn words(self) -> &'static str {
        match self {
            Self::Disarmed => "Disarmed",
            Self::Night => "Armed (night)",
            Self::Away => "Armed (away)",
        }
    }
}

/// What a person chose for a while. Wins over windows and presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    pub state: ArmState,
    /// Ends by itself then; `None`: only by a person, an arrival or a departure.
    pub until: Option<Timestamp>,
    /// Milliseconds until then by a clock that nobody can set, saved every minute: a wall clock that jumps must not end an arming early.
    pub left: Option<u64>,
    /// Who chose it, for the decision log: "root on the coordinator", a dashboard login.
    pub by: String,
    /// Nobody was home at some time since it began: from then on an arrival ends an arm override.
    pub was_away: bool,
    /// Somebody was home at some time since it began: from then on the departure of the last person ends a disarm override.
    pub was_home: bool,
    /// Coming and going ends it: an arming by an arrival after the house was Away, a disarm by the departure of the last person. False for
    /// the night, a vacation and guests.
    pub ends_by_presence: bool,
}

/// What the strongest window in force asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// A person wrote `state = "disarmed"` for this time: beats presence.
    Disarm,
    /// A floor under presence.
    AtLeast(ArmState),
}

impl Window {
    /// What a window with this state asks for.
    pub fn of(state: ArmState) -> Self {
        if state.is_armed() { Self::AtLeast(state) } else { Self::Disarm }
    }
}

/// A person's override wins; else a window is a floor under presence. Not knowing changes nothing.
///
/// `by_presence` is what presence said last; with `may_disarm` false, somebody home does not lower it.
pub fn decide(over: Option<ArmState>, window: Option<Window>, presence: Presence, by_presence: ArmState, may_disarm: bool) -> ArmState {
    let by_presence = follow_presence(presence, by_presence, may_disarm);
    match (over, window) {
        (Some(over), _) => over,
        (None, Some(Window::Disarm)) => ArmState::Disarmed,
        (None, Some(Window::AtLeast(floor))) => by_presence.max(floor),
        (None, None) => by_presence,
    }
}

/// The presence part of the decision, which is remembered while presence is Unknown.
pub fn follow_presence(presence: Presence, by_presence: ArmState, may_disarm: bool) -> ArmState {
    match presence {
        Presence::Away => ArmState::Away,
        Presence::Home if may_disarm => ArmState::Disarmed,
        Presence::Home | Presence::Unknown => by_presence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ArmState::{Away, Disarmed, Night};

    #[test]
    fn only_the_one_byte_means_disarmed() {
        for byte in 0..=u8::MAX {
            assert_eq!(ArmState::from_wire(byte) == Disarmed, byte == 1, "{byte}");
        }
        for state in [Disarmed, Night, Away] {
            assert_eq!(ArmState::from_wire(state.to_wire()), state);
        }
    }

    #[test]
    fn not_knowing_changes_nothing() {
        for before in [Disarmed, Night, Away] {
            assert_eq!(decide(None, None, Presence::Unknown, before, true), before);
        }
    }

    #[test]
    fn nobody_home_during_the_night_window_is_away() {
        let night = Some(Window::AtLeast(Night));
        assert_eq!(decide(None, night, Presence::Away, Disarmed, true), Away);
        assert_eq!(decide(None, night, Presence::Home, Away, true), Night);
    }

    #[test]
    fn a_person_wins_over_window_and_presence() {
        assert_eq!(decide(Some(Disarmed), Some(Window::AtLeast(Night)), Presence::Away, Away, true), Disarmed);
        assert_eq!(decide(Some(Away), Some(Window::Disarm), Presence::Home, Disarmed, true), Away);
    }

    #[test]
    fn where_presence_may_not_disarm_somebody_home_lowers_nothing() {
        assert_eq!(decide(None, None, Presence::Home, Away, false), Away);
        assert_eq!(decide(None, None, Presence::Home, Away, true), Disarmed);
    }

    #[test]
    fn a_window_that_a_person_wrote_disarms_against_presence() {
        assert_eq!(decide(None, Some(Window::Disarm), Presence::Away, Away, true), Disarmed);
    }
}
