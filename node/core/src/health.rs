//! What a node's silence means.

use std::time::Duration;

use crate::protocol::message::HelloV1;
use crate::time::Mono;

/// What a node's machine is, as it says itself: nothing is decided by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub hostname: String,
    /// "debian 12"; "unknown" if the system does not tell.
    pub os: String,
    /// "linux aarch64".
    pub platform: String,
    /// "6.12.25".
    pub kernel: String,
}

impl Machine {
    pub fn of(hello: &HelloV1) -> Self {
        Self { hostname: hello.hostname.clone(), os: hello.os.clone(), platform: hello.platform.clone(), kernel: hello.kernel.clone() }
    }
}

/// A node that was not heard of for this long is lost, which is an alert while armed.
pub const LOST_AFTER: Duration = Duration::from_secs(30);
/// A node that said that it stops, as for an update, has this long to come back before it is missed.
pub const BACK_WITHIN: Duration = Duration::from_secs(60);

/// What we conclude from what we heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Its link is up.
    Online,
    /// Its link is down for less than [`LOST_AFTER`], or [`BACK_WITHIN`] if it said that it stops.
    Late,
    Lost,
}

/// `linked`: whether its link is up; `last`: when it was last heard of since we started (`None`: not yet), `started`: when we did;
/// `farewell`: its last word was that it stops.
pub fn liveness(linked: bool, last: Option<Mono>, started: Mono, farewell: bool, now: Mono) -> Liveness {
    let lost_after = if farewell { BACK_WITHIN } else { LOST_AFTER };
    if linked {
        Liveness::Online
    } else if now.since(last.unwrap_or(started)) < lost_after {
        Liveness::Late
    } else {
        Liveness::Lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_becomes_late_and_then_lost() {
        let t = |secs: u64| Mono(secs * 1000);
        assert_eq!(liveness(true, None, t(0), false, t(100)), Liveness::Online);
        assert_eq!(liveness(false, Some(t(80)), t(0), false, t(100)), Liveness::Late);
        assert_eq!(liveness(false, Some(t(70)), t(0), false, t(100)), Liveness::Lost);
        assert_eq!(liveness(false, None, t(90), false, t(100)), Liveness::Late);
        assert_eq!(liveness(false, Some(t(41)), t(0), true, t(100)), Liveness::Late);
        assert_eq!(liveness(false, Some(t(40)), t(0), true, t(100)), Liveness::Lost);
    }
}
