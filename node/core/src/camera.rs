//! START HERE: every input a camera node reacts to, every effect it causes. Arm is a latch, disarm is a lease.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::protocol::message::{AckV1, SignedStateV1, StateV1};
use crate::time::{Now, Timestamp};

/// What the rules need to know of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub sources: Vec<SourceSettings>,
    pub on_coordinator_lost: OnLost,
}

/// One camera of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    pub name: String,
    pub watch_in: Vec<ArmState>,
}

/// What a disarmed camera does without a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLost {
    ArmAfter {
        after: Duration,
        state: ArmState,
    },
    /// Until the lease ends.
    Hold,
}

/// What must survive a restart, written before anything is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryV1 {
    /// The greatest state ever applied, with its signature.
    pub held: Option<SignedStateV1>,
    /// Milliseconds of disarm left; a reboot never renews it. 0 while armed.
    pub lease_left: u64,
    /// Milliseconds for which the coordinator has been gone while disarmed.
    pub lost_for: u64,
    /// [`ArmState::to_wire`] of what this camera raised itself to; 0: nothing. Ended only by a live coordinator.
    pub raised: u8,
    /// A person stopped the detectors here by hand until then: (until by trusted time, milliseconds left).
    pub paused: Option<(Timestamp, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// At least once a second.
    Tick,
    /// The link to a coordinator is up.
    LinkUp,
    LinkDown,
    /// A state whose signature and signer were verified. `live`: it came over a live link with a coordinator, whose time is `time`.
    State {
        signed: SignedStateV1,
        state: StateV1,
        live: bool,
        time: Timestamp,
    },
    /// A state that could not be read or verified although a coordinator's live link brought it.
    Unreadable {
        why: String,
    },
    /// A person at this machine (root) stops the detectors for a while, or (`None`) ends that.
    Pause(Option<Duration>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write it before any effect that follows.
    Save(Box<MemoryV1>),
    /// What each source is to do now; repeated freely, the detector compares.
    Watch {
        source: String,
        on: bool,
    },
    /// Tell the coordinator what was applied.
    Ack(AckV1),
    Alert {
        key: String,
        text: String,
    },
}

/// The camera's rules. Pure: the same inputs give the same effects.
#[derive(Debug)]
pub struct Camera {
    #[expect(dead_code, reason = "rules follow")]
    settings: Settings,
}

impl Camera {
    /// `memory`: what was saved last with the decoded `held` state, `None` for a node that was never told a state (which is armed), or
    /// whose memory could not be read (`corrupt`, which is armed and an alert). The effects must be carried out before the first input.
    pub fn start(settings: Settings, _memory: Option<(MemoryV1, Option<StateV1>)>, _corrupt: bool, _now: Now) -> (Self, Vec<Effect>) {
        (Self { settings }, Vec::new())
    }

    pub fn handle(&mut self, _input: Input, _now: Now) -> Vec<Effect> {
        Vec::new()
    }

    /// What this node obeys now: the applied state, or a stronger one of its own.
    pub fn effective(&self) -> ArmState {
        ArmState::Away
    }
}
