//! Events as the coordinator keeps them, and as they are shown.

use serde::{Deserialize, Serialize};

use super::{Attachment, EventKind, OwnMail};
use crate::arming::ArmState;
use crate::id::{EventId, NodeId};
use crate::time::Timestamp;

/// No page of events is longer.
pub const MOST: u32 = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    pub id: EventId,
    pub node: NodeId,
    /// Name of the node when it told of the event first.
    pub camera: String,
    /// Name of the source on its node.
    pub source: String,
    pub kind: EventKind,
    /// By the camera's clock.
    pub started: Timestamp,
    /// By the camera's clock; `None` while it goes on.
    pub ended: Option<Timestamp>,
    /// By the coordinator's clock, as well as it knows: events are ordered by it.
    pub began: Timestamp,
    /// First heard of.
    pub received_at: Timestamp,
    /// Percent of the picture, 0..=100.
    pub changed: Option<u8>,
    /// What the camera obeyed when it began.
    pub state: ArmState,
    /// It began shortly before somebody came home, and is taken for that.
    #[serde(default)]
    pub arrival: bool,
    pub rev: u32,
    /// Whether its camera mails it itself.
    pub own_mail: OwnMail,
    /// Bytes that its attachments take on this disk.
    pub size: u64,
    /// In the order in which they were made.
    pub attachments: Vec<StoredAttachment>,
    /// Who has seen it, in the order in which they did.
    pub seen_by: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAttachment {
    pub attachment: Attachment,
    /// `None`: it is not whole on this disk.
    pub kept_at: Option<Timestamp>,
    pub thumbnail: Thumbnail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thumbnail {
    NotTried,
    Made,
    /// It is a clip, or a picture that cannot be read.
    Impossible,
}

impl StoredEvent {
    /// When it was over, by the coordinator's clock as `began`; `None` while it goes on.
    pub fn over(&self) -> Option<Timestamp> {
        let ended = self.ended?;
        let by_camera = ended.since(self.started);
        // The camera's clock may be ahead or behind, and where it began may come from the name of a file: what is too long is none of them.
        let length = if ended > self.began { by_camera.min(ended.since(self.began)) } else { by_camera };
        Some(self.began + length)
    }

    /// Where it stands in the order of events.
    pub fn place(&self) -> (Timestamp, EventId) {
        (self.began, self.id)
    }
}

/// How long an event went on, and so its clip, in whole seconds.
pub fn seconds_between(began: Timestamp, over: Timestamp) -> u32 {
    u32::try_from(over.since(began).as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Since midnight.
    pub today: u64,
    /// In the last 7 times 24 hours.
    pub week: u64,
    pub all: u64,
    /// What nobody has seen.
    pub unseen: u64,
    /// Bytes of all attachments on this disk; one that belongs to several events counts once.
    pub bytes: u64,
}

/// Which events are asked for. [`EventFilter::default`]: the newest 50.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Began then or later.
    pub since: Option<Timestamp>,
    /// First heard of then or later.
    pub received_since: Option<Timestamp>,
    /// Began before then.
    pub until: Option<Timestamp>,
    /// Name of the node, of the source, or `node/source`.
    pub camera: Option<String>,
    pub kind: Option<EventKind>,
    /// Not those that this one has seen.
    pub unseen_by: Option<String>,
    /// At most so many, and never more than [`MOST`].
    pub limit: u32,
    /// The next page: what comes after the event at this place ([`StoredEvent::place`]), also if that one was removed meanwhile.
    pub before: Option<(Timestamp, EventId)>,
}

impl Default for EventFilter {
    fn default() -> Self {
        Self { since: None, received_since: None, until: None, camera: None, kind: None, unseen_by: None, limit: 50, before: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_long_as_the_clock_that_can_be_right_says() {
        let hour = 3_600_000;
        let length = |started: u64, ended: Option<u64>| {
            let event = StoredEvent {
                id: EventId([1; 16]),
                node: NodeId([1; 32]),
                camera: "porch".to_owned(),
                source: "cam".to_owned(),
                kind: EventKind::Movement,
                started: Timestamp(started),
                ended: ended.map(Timestamp),
                began: Timestamp(100 * hour),
                received_at: Timestamp(100 * hour),
                changed: None,
                state: ArmState::Away,
                arrival: false,
                rev: 1,
                own_mail: OwnMail::None,
                size: 0,
                attachments: Vec::new(),
                seen_by: Vec::new(),
            };
            event.over().map(|over| seconds_between(event.began, over))
        };
        assert_eq!(length(100 * hour, None), None);
        assert_eq!(length(100 * hour, Some(100 * hour + 8_200)), Some(9));
        assert_eq!(length(110 * hour, Some(110 * hour + 8_000)), Some(8), "the camera's clock is ahead");
        assert_eq!(length(50 * hour, Some(50 * hour + 8_000)), Some(8), "or behind");
        assert_eq!(length(50 * hour, Some(100 * hour + 8_000)), Some(8), "its file has an old name");
        assert_eq!(length(100 * hour, Some(100 * hour)), Some(1));
    }
}
