//! Tells systemd that the node is ready and alive. Outside of systemd every call does nothing.

use sd_notify::NotifyState;

/// The node does what it is for.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Said by the driver at each tick: a driver that hangs is noticed by systemd's watchdog.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Whether systemd started this node, and so starts it again.
pub fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn notify(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!("systemd did not hear us: {error}");
    }
}
