//! The facts of a mail, as plain data. Templates see each field by its name.

use serde::Serialize;

use super::{Cid, Fault, Link, Name, Sentence};

/// A moment in words; nothing here reads a clock or knows a time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct When {
    /// "08:01:30"
    pub time: Name,
    /// "Monday 23 November 2026"
    pub day: Name,
    /// "Europe/Berlin"
    pub zone: Name,
}

/// A picture that the same mail holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Picture {
    pub cid: Cid,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What is read aloud, and shown where pictures are off.
    pub alt: Sentence,
}

/// Where a clip is. Templates see `clip.state`: "attached", "follows", "too-large", "not-attached".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipState {
    Attached,
    /// Another mail in this thread will bring it.
    Follows,
    /// It stays at home.
    TooLarge,
    /// It was to be attached, and a server did not take it, or it is kept no longer.
    NotAttached,
}

/// The clip of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Clip {
    pub state: ClipState,
    /// Length, when it is known.
    pub seconds: Option<u32>,
    /// Size, when it is known.
    pub bytes: Option<u64>,
}

/// What any mail may say beside its matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Around {
    /// Unusual circumstances: "porch sent this by itself: the coordinator does not answer".
    pub note: Option<Sentence>,
    /// "Everybody left at 07:41."
    pub why_armed: Option<Sentence>,
    /// Alerts that the hourly cap held back.
    pub held_back: Option<HeldBack>,
    /// Where more is to be seen.
    pub dashboard: Option<Link>,
}

/// Alerts that were not sent. A count of 0 is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldBack {
    pub count: u32,
    /// "07:00"
    pub since: Name,
}

/// A camera saw movement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventMail {
    pub camera: Name,
    /// When the movement began.
    pub when: When,
    /// How much of the picture changed, 0 to 100.
    pub percent: Option<u8>,
    /// The best first; it is what one sees first. The first [`MAX_SHOWN`](super::MAX_SHOWN) are shown. May be empty in the mail that brings the clip later.
    pub pictures: Vec<Picture>,
    /// `None`: none was or will be made.
    pub clip: Option<Clip>,
    #[serde(flatten)]
    pub around: Around,
}

/// What was seen since the last mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DigestMail {
    /// `None`: several cameras.
    pub camera: Option<Name>,
    /// All movements, those that are not listed included.
    pub count: u32,
    /// "10 minutes"
    pub span: Name,
    /// When the last of them began.
    pub until: When,
    /// The first [`MAX_SHOWN`](super::MAX_SHOWN) are shown, the rest is counted.
    pub movements: Vec<Movement>,
    #[serde(flatten)]
    pub around: Around,
}

/// One line of a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Movement {
    pub camera: Name,
    /// "08:03:12"
    pub time: Name,
    /// How much of the picture changed, 0 to 100.
    pub percent: Option<u8>,
    /// A small one.
    pub picture: Option<Picture>,
}

/// Something is wrong, or good again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultMail {
    pub fault: Fault,
    pub since: When,
    /// It happened at `since`, and there is nothing that could end.
    pub once: bool,
    /// How often it came: "It came 4 times within an hour."
    pub often: Option<Sentence>,
    /// Set when it is over.
    pub ended: Option<Ended>,
    #[serde(flatten)]
    pub around: Around,
}

/// The end of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// "porch is back", without a full stop.
    pub how: Sentence,
    #[serde(flatten)]
    pub when: When,
}

/// Mail works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestMail {
    /// The node that sends it.
    pub node: Name,
    pub when: When,
    #[serde(flatten)]
    pub around: Around,
}
