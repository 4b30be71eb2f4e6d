//! What the tests of a house are told with: houses, networks, a detector that only says that it was started, and patience.

mod bluez;
mod browser;
mod fake_motion;
pub(crate) mod forger;
mod house;
mod lan;
mod mjpeg;
mod node;
mod port;
mod relay;
pub(crate) mod rogue;
mod samples;
pub(crate) mod skip;
pub(crate) mod smtp;
mod terminal;
mod visitor;

use std::time::{Duration, Instant};

pub(crate) use bluez::Bluez;
pub(crate) use browser::{Browser, PHONE};
pub(crate) use fake_motion::{FakeMotion, Make};
pub(crate) use house::{Camera, House, Plan, Standing};
pub(crate) use lan::{Addresses, Helper, Host, Lan};
pub(crate) use mjpeg::{MjpegCamera, Scene};
pub(crate) use node::{BINARY, Node};
pub(crate) use port::{Port, TcpPort};
pub(crate) use relay::Relay;
pub(crate) use samples::{Answers, Samples};
pub(crate) use terminal::Terminal;
pub(crate) use visitor::{PASSWORD, Page, Visitor};

/// Longest wait for what has no promised time. Machines that run tests are slow and shared.
const PATIENCE: Duration = Duration::from_secs(30);
/// A camera is linked again so soon after a fault's end.
pub(crate) const LINKED_WITHIN: Duration = Duration::from_secs(3);

/// Waits until `check` holds.
pub(crate) async fn eventually(what: &str, check: impl AsyncFnMut() -> bool) {
    within(PATIENCE, what, check).await;
}

/// Waits until `check` holds, which must be in `time`.
pub(crate) async fn within(time: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    loop {
        // Looked at once more after the time: the machine may have slept through it.
        let last = began.elapsed() >= time;
        if check().await {
            return;
        }
        assert!(!last, "not within {time:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sees that `check` holds at every look for `time`.
pub(crate) async fn throughout(time: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < time {
        assert!(check().await, "no longer so after {:?}: {what}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
