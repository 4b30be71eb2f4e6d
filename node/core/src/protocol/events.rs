//! What a camera tells of its events, and what the coordinator answers. Rules of [`super::message`] hold: a released struct never changes.
//!
//! An event travels whole, each time it changed, on a stream of its own; the coordinator answers on the control stream when it is on its
//! disk, and which bytes of which attachments it lacks. Those travel on streams of their own. Each answer may be lost and each telling
//! repeated: ids and hashes remove doubles.

use serde::{Deserialize, Serialize};

use crate::event::{Attachment, AttachmentKind, Event, EventKind, OwnMail};
use crate::id::EventId;
use crate::time::Timestamp;

/// Greatest payload of an event's frame.
pub const EVENT_LIMIT: usize = 256 * 1024;
/// No attachment is longer: an hour of Motion's best.
pub const ATTACHMENT_LIMIT: u64 = 4 << 30;
/// Longest name of a source, a file or a detector's own name of an event, in bytes.
pub const NAME_LIMIT: usize = 255;

/// Stream of its own: the whole event as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventV1 {
    pub id: EventId,
    pub source: String,
    /// [`EventKind::to_wire`].
    pub kind: u8,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    /// Milliseconds since it started, by a clock that does not jump; `None`: the machine was started since.
    pub age: Option<u64>,
    /// Percent of the picture.
    pub changed: Option<u8>,
    /// [`crate::arming::ArmState::to_wire`] of what the camera obeyed when it began.
    pub state: u8,
    pub attachments: Vec<AttachmentV1>,
    pub rev: u32,
    /// [`crate::event::OwnMail::to_wire`].
    pub own_mail: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentV1 {
    /// [`AttachmentKind::to_wire`].
    pub kind: u8,
    pub name: String,
    pub taken: Timestamp,
    pub length: u64,
    pub hash: [u8; 32],
}

/// Stream of its own: what follows this frame are the bytes of an attachment, from `from` to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesV1 {
    pub event: EventId,
    pub hash: [u8; 32],
    pub from: u64,
}

/// Control stream, coordinator to camera: this telling of the event is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventKeptV1 {
    pub id: EventId,
    pub rev: u32,
    /// Attachments that are not whole yet.
    pub missing: Vec<MissingV1>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingV1 {
    pub hash: [u8; 32],
    /// Bytes that are there.
    pub from: u64,
}

/// Control stream, coordinator to camera: the attachment is whole, right and on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentKeptV1 {
    pub event: EventId,
    pub hash: [u8; 32],
}

/// Control stream, coordinator to camera: it is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRefusedV1 {
    pub id: EventId,
    /// For people.
    pub why: String,
    /// Seconds until it may be told again; `None`: never, it cannot be kept as it is.
    pub again_after: Option<u32>,
}

impl EventV1 {
    pub fn of(event: &Event, age: Option<u64>) -> Self {
        Self {
            id: event.id,
            source: event.source.clone(),
            kind: event.kind.to_wire(),
            started: event.started,
            ended: event.ended,
            age,
            changed: event.changed,
            state: event.state.to_wire(),
            attachments: event.attachments.iter().map(AttachmentV1::of).collect(),
            rev: event.rev,
            own_mail: event.own_mail.to_wire(),
        }
    }

    /// The event, if it keeps to the limits; else why not.
    pub fn checked(self) -> Result<Event, String> {
        if self.source.is_empty() || self.source.len() > NAME_LIMIT {
            return Err(format!("the name of its camera has {} bytes", self.source.len()));
        }
        // It is shown on terminals and pages, and stands in logs.
        if self.source.chars().any(char::is_control) {
            return Err("the name of its camera has control characters".to_owned());
        }
        if self.attachments.len() > crate::event::ATTACHMENTS {
            return Err(format!("it has {} attachments", self.attachments.len()));
        }
        let attachments: Result<Vec<_>, String> = self.attachments.into_iter().map(AttachmentV1::checked).collect();
        Ok(Event {
            id: self.id,
            source: self.source,
            kind: EventKind::from_wire(self.kind),
            started: self.started,
            started_since_boot: None,
            ended: self.ended,
            changed: self.changed.map(|percent| percent.min(100)),
            state: crate::arming::ArmState::from_wire(self.state),
            attachments: attachments?,
            rev: self.rev,
            own_mail: OwnMail::from_wire(self.own_mail),
        })
    }
}

impl AttachmentV1 {
    fn of(attachment: &Attachment) -> Self {
        Self {
            kind: attachment.kind.to_wire(),
            name: attachment.name.clone(),
            taken: attachment.taken,
            length: attachment.length,
            hash: attachment.hash,
        }
    }

    fn checked(self) -> Result<Attachment, String> {
        if self.name.len() > NAME_LIMIT {
            return Err(format!("the name of an attachment has {} bytes", self.name.len()));
        }
        if self.name.chars().any(char::is_control) {
            return Err("the name of an attachment has control characters".to_owned());
        }
        if self.length > ATTACHMENT_LIMIT {
            return Err(format!("an attachment has {} bytes", self.length));
        }
        let kind = AttachmentKind::from_wire(self.kind);
        Ok(Attachment { kind, name: self.name, taken: self.taken, length: self.length, hash: self.hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arming::ArmState;

    fn event() -> Event {
        let attachment = Attachment { kind: AttachmentKind::Picture, name: "a".into(), taken: Timestamp(2), length: 3, hash: [4; 32] };
        Event {
            id: EventId([1; 16]),
            source: "porch".into(),
            kind: EventKind::CameraLost,
            started: Timestamp(1),
            started_since_boot: None,
            ended: Some(Timestamp(5)),
            changed: Some(6),
            state: ArmState::Night,
            attachments: vec![attachment],
            rev: 7,
            own_mail: OwnMail::Sent,
        }
    }

    #[test]
    fn an_event_arrives_as_it_was_told() {
        assert_eq!(EventV1::of(&event(), Some(9)).checked(), Ok(event()));
    }

    #[test]
    fn an_event_without_measure_is_refused_and_more_than_all_is_all() {
        let told = EventV1::of(&event(), None);
        let attachment = &told.attachments[0];
        for wrong in [
            EventV1 { source: String::new(), ..told.clone() },
            EventV1 { source: "x".repeat(NAME_LIMIT + 1), ..told.clone() },
            EventV1 { attachments: vec![attachment.clone(); crate::event::ATTACHMENTS + 1], ..told.clone() },
            EventV1 { attachments: vec![AttachmentV1 { length: ATTACHMENT_LIMIT + 1, ..attachment.clone() }], ..told.clone() },
            EventV1 { source: "po\u{1b}[2Jrch".into(), ..told.clone() },
            EventV1 { attachments: vec![AttachmentV1 { name: "a\nb".into(), ..attachment.clone() }], ..told.clone() },
            EventV1 { attachments: vec![AttachmentV1 { name: "x".repeat(NAME_LIMIT + 1), ..attachment.clone() }], ..told.clone() },
        ] {
            assert!(wrong.clone().checked().is_err(), "{wrong:?}");
        }
        assert_eq!(EventV1 { changed: Some(255), ..told }.checked().unwrap().changed, Some(100));
    }
}
