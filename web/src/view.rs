//! What templates see: plain data, made of what the house says. Words that depend on rules are chosen here, layout there.

pub(crate) mod event;
pub(crate) mod home;
pub(crate) mod node;
pub(crate) mod time;

use dms3_core::arming::ArmState;
use serde::Serialize;

pub(crate) use time::{Clock, Moment};

/// "Armed · away"
pub(crate) fn state_word(state: ArmState) -> &'static str {
    match state {
        ArmState::Disarmed => "Disarmed",
        ArmState::Night => "Armed · night",
        ArmState::Away => "Armed · away",
    }
}

/// As styles are called.
pub(crate) fn state_name(state: ArmState) -> &'static str {
    match state {
        ArmState::Disarmed => "disarmed",
        ArmState::Night => "night",
        ArmState::Away => "away",
    }
}

/// A form with one button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Button {
    pub(crate) label: &'static str,
    pub(crate) action: &'static str,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
}

/// What was refused, as a sentence.
pub(crate) fn sentence(text: &str) -> String {
    format!("{}.", capital(text).trim_end_matches('.'))
}

/// "2.1 MB"
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..10_000_000 => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// "everybody left" becomes a sentence of its own.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
