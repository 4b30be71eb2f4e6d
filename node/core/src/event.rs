//! What a detector saw, from start to end: one event is built from what its hooks say, in whatever order they say it.

mod stored;

use std::time::Duration;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use crate::arming::ArmState;
use crate::id::EventId;
use crate::time::{SinceBoot, Timestamp};

pub use stored::{EventCounts, EventFilter, MOST, StoredAttachment, StoredEvent, Thumbnail, seconds_between};

/// Hooks that name no event (the Go program's line) tell of the same movement while no more than this lies between them.
pub const GAP: Duration = Duration::from_secs(30);
/// An event that nobody ended and of which nothing was heard for so long is over: its detector was killed.
pub const FORGOTTEN: Duration = Duration::from_secs(600);
/// Motion writes a picture for each camera and moment; one that writes thousands for one event is misconfigured, and the rest of the
/// house must not suffer for it. What is above is kept in further events.
pub const ATTACHMENTS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    /// The camera: name of the source on its node.
    pub source: String,
    pub kind: EventKind,
    /// By the camera's trusted time.
    pub started: Timestamp,
    /// The same moment by the camera's clock that never jumps; `None`: not known, and everywhere but on the camera.
    #[serde(default)]
    pub started_since_boot: Option<SinceBoot>,
    /// `None` while it goes on.
    pub ended: Option<Timestamp>,
    /// Greatest part of the picture that changed, in percent, 0..=100; `None`: not known.
    pub changed: Option<u8>,
    /// What the camera obeyed when it began.
    pub state: ArmState,
    pub attachments: Vec<Attachment>,
    /// Grows by one with each change, so that the newest telling of an event wins.
    pub rev: u32,
    /// Whether its camera mails it itself.
    #[serde(default)]
    pub own_mail: OwnMail,
}

/// Whether a camera mails an event itself, since the coordinator did not acknowledge it in time, or always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnMail {
    #[default]
    None,
    /// The mail is in its spool.
    Begun,
    /// A mail server took it.
    Sent,
}

/// A closed set; on the wire a number, where an unknown one is a movement: what is not understood is not kept quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    Movement,
    /// Somebody asked for a picture; nothing moved.
    Snapshot,
    /// The detector no longer gets a picture from its camera.
    CameraLost,
    CameraFound,
}

/// A file of an event. Its content is found by `hash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub kind: AttachmentKind,
    /// The camera's name of the file, for people: never a path, never used as one.
    pub name: String,
    pub taken: Timestamp,
    /// Bytes.
    pub length: u64,
    /// SHA-256.
    pub hash: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentKind {
    Picture,
    Clip,
}

/// What one call of a hook says of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub said: Said,
    /// The detector's own name of the event (Motion: `%{eventid}`); `None`: it names none.
    pub key: Option<String>,
    pub at: Timestamp,
    /// `at` by the clock that never jumps, if this machine was on then.
    pub since_boot: Option<SinceBoot>,
    pub changed: Option<u8>,
    pub attachment: Option<Attachment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    EventStart,
    Picture,
    Snapshot,
    Movie,
    EventEnd,
    CameraLost,
    CameraFound,
}

/// An event that a note may belong to: as it is kept, with what the hooks said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    pub event: Event,
    pub key: Option<String>,
    pub last: Timestamp,
}

impl Said {
    fn kind(self) -> EventKind {
        match self {
            Self::EventStart | Self::Picture | Self::Movie | Self::EventEnd => EventKind::Movement,
            Self::Snapshot => EventKind::Snapshot,
            Self::CameraLost => EventKind::CameraLost,
            Self::CameraFound => EventKind::CameraFound,
        }
    }
}

impl Recent {
    /// Whether the note tells of this event. `source` is the same already.
    ///
    /// The end of an event and its clip come in any order, so an ended one still takes what names it. A movement whose hooks name no event
    /// goes on while they come often enough.
    pub fn takes(&self, note: &Note) -> bool {
        if note.said.kind() != EventKind::Movement || self.event.kind != EventKind::Movement {
            return false;
        }
        if note.attachment.is_some() && self.event.attachments.len() >= ATTACHMENTS {
            return false;
        }
        match (&self.key, &note.key) {
            (Some(own), Some(named)) => own == named,
            (None, None) => note.at.since(self.last).max(self.last.since(note.at)) <= GAP,
            _ => false,
        }
    }

    /// Whether the note's file is here already, told by the same call: a node that died before it could answer had kept it, and its hook left
    /// it in the spool. What a hook names is found by its name in [`Recent::takes`]; this is for snapshots, and for movements that went on
    /// since.
    pub fn has(&self, note: &Note) -> bool {
        let apart = |a: Timestamp, b: Timestamp| a.since(b).max(b.since(a));
        self.key == note.key
            && self.event.kind == note.said.kind()
            && note.attachment.as_ref().is_some_and(|new| {
                let known = &self.event.attachments;
                known.iter().any(|known| known.hash == new.hash && known.name == new.name && apart(known.taken, new.taken) <= GAP)
            })
    }

    /// The event that begins with this note.
    pub fn begin(id: EventId, source: &str, state: ArmState, note: Note) -> Self {
        let kind = note.said.kind();
        let event = Event {
            id,
            source: source.to_owned(),
            kind,
            started: note.at,
            started_since_boot: note.since_boot,
            ended: (kind != EventKind::Movement).then_some(note.at),
            changed: None,
            state,
            attachments: Vec::new(),
            rev: 0,
            own_mail: OwnMail::None,
        };
        let mut recent = Self { event, key: note.key.clone(), last: note.at };
        recent.take(note);
        recent
    }

    /// A file that is there already (a hook that was called twice, a spool that was read again) is not taken twice.
    pub fn take(&mut self, note: Note) {
        let event = &mut self.event;
        if note.at < event.started {
            (event.started, event.started_since_boot) = (note.at, note.since_boot);
        }
        self.last = self.last.max(note.at);
        event.changed = event.changed.max(note.changed);
        match note.said {
            Said::EventEnd => event.ended = event.ended.max(Some(note.at)),
            // It goes on after what looked like its end.
            _ if event.ended.is_some() => event.ended = event.ended.max(Some(self.last)),
            _ => {}
        }
        if let Some(attachment) = note.attachment
            && !event.attachments.iter().any(|known| known.hash == attachment.hash && known.name == attachment.name)
        {
            event.attachments.push(attachment);
        }
        event.rev = event.rev.saturating_add(1);
    }

    /// Its camera mails it itself. Whether that is news.
    pub fn mails(&mut self, own_mail: OwnMail) -> bool {
        let event = &mut self.event;
        let is_news = own_mail > event.own_mail;
        if is_news {
            event.own_mail = own_mail;
            event.rev = event.rev.saturating_add(1);
        }
        is_news
    }

    /// Ends it if it is over without anybody's word. Whether it changed.
    pub fn ends_by_silence(&mut self, now: Timestamp) -> bool {
        let silence = if self.key.is_some() { FORGOTTEN } else { GAP };
        // A clock that jumped back must not keep an event open for ever.
        let over = now.since(self.last).max(self.last.since(now)) > silence;
        if self.event.ended.is_none() && over {
            self.event.ended = Some(self.last);
            self.event.rev = self.event.rev.saturating_add(1);
            return true;
        }
        false
    }
}

impl OwnMail {
    pub fn to_wire(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Begun => 1,
            Self::Sent => 2,
        }
    }

    /// What is not known counts as nothing: better a mail twice than none.
    pub fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Begun,
            2 => Self::Sent,
            _ => Self::None,
        }
    }
}

impl EventKind {
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Movement => 1,
            Self::Snapshot => 2,
            Self::CameraLost => 3,
            Self::CameraFound => 4,
        }
    }

    pub fn from_wire(byte: u8) -> Self {
        match byte {
            2 => Self::Snapshot,
            3 => Self::CameraLost,
            4 => Self::CameraFound,
            _ => Self::Movement,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Movement => "movement",
            Self::Snapshot => "snapshot",
            Self::CameraLost => "camera lost",
            Self::CameraFound => "camera found",
        }
    }
}

impl AttachmentKind {
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Picture => 1,
            Self::Clip => 2,
        }
    }

    /// What is not known is not shown as a picture.
    pub fn from_wire(byte: u8) -> Self {
        if byte == 1 { Self::Picture } else { Self::Clip }
    }
}

/// Changed pixels as a part of the whole picture: rounded up, as the Go program did (a cat far away is not "0 %"), and never above 100.
/// `None`: a picture without a size.
pub fn changed_percent(pixels: u64, width: u32, height: u32) -> Option<u8> {
    let whole = u64::from(width) * u64::from(height);
    if whole == 0 {
        return None;
    }
    let percent = (u128::from(pixels) * 100).div_ceil(u128::from(whole)).min(100);
    u8::try_from(percent).ok()
}

/// The local time in the name of a file that Motion made: `YYYYMMDDhhmmss` anywhere, also in a longer number (`%v%Y%m%d…`), also with
/// separators between its parts. Of several the first one that is a time.
pub fn time_in_name(name: &[u8]) -> Option<DateTime> {
    (0..name.len()).find_map(|at| time_at(name.get(at..)?))
}

fn time_at(text: &[u8]) -> Option<DateTime> {
    let mut rest = text;
    let year = i16::try_from(number(&mut rest, 4)?).ok()?;
    let mut parts = [0_i8; 5];
    for part in &mut parts {
        if let Some((b'-' | b'_' | b':' | b'.' | b'T', after)) = rest.split_first().map(|(first, after)| (*first, after)) {
            rest = after;
        }
        *part = i8::try_from(number(&mut rest, 2)?).ok()?;
    }
    let [month, day, hour, minute, second] = parts;
    // Motion is of this century; a counter that looks like the year 0120 is none.
    if !(2000..2200).contains(&year) {
        return None;
    }
    DateTime::new(year, month, day, hour, minute, second, 0).ok()
}

fn number(text: &mut &[u8], digits: usize) -> Option<u32> {
    let (number, rest) = text.split_at_checked(digits)?;
    *text = rest;
    number.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp(1_795_000_000_000);

    fn note(said: Said, key: Option<&str>, after: u64) -> Note {
        Note { said, key: key.map(str::to_owned), at: T + Duration::from_secs(after), since_boot: None, changed: None, attachment: None }
    }

    fn with_file(mut note: Note, kind: AttachmentKind, number: u8) -> Note {
        note.attachment = Some(Attachment { kind, name: format!("{number}.jpg"), taken: note.at, length: 5, hash: [number; 32] });
        note
    }

    fn began(note: Note) -> Recent {
        Recent::begin(EventId([1; 16]), "porch", ArmState::Away, note)
    }

    #[test]
    fn one_movement_is_one_event_in_whatever_order_its_hooks_come() {
        let mut recent = began(note(Said::EventStart, Some("7"), 0));
        let picture = with_file(note(Said::Picture, Some("7"), 1), AttachmentKind::Picture, 1);
        for note in [
            picture.clone(),
            note(Said::EventEnd, Some("7"), 9),
            with_file(note(Said::Movie, Some("7"), 8), AttachmentKind::Clip, 2),
            picture,
        ] {
            assert!(recent.takes(&note), "{note:?}");
            recent.take(note);
        }
        let event = recent.event;
        assert_eq!((event.started, event.ended), (T, Some(T + Duration::from_secs(9))));
        assert_eq!(event.attachments.len(), 2, "a hook that was called twice tells nothing new");
        assert_eq!(event.rev, 5);
    }

    #[test]
    fn another_movement_is_another_event() {
        let recent = began(note(Said::EventStart, Some("7"), 0));
        assert!(!recent.takes(&note(Said::Picture, Some("8"), 1)));
        assert!(!recent.takes(&note(Said::Picture, None, 1)));
        assert!(!recent.takes(&note(Said::Snapshot, Some("7"), 1)), "a snapshot is no movement");
    }

    #[test]
    fn a_file_that_is_told_again_is_known_and_the_same_content_later_is_another() {
        let told = |said, after| with_file(note(said, None, after), AttachmentKind::Picture, 1);
        let snapshot = began(told(Said::Snapshot, 0));
        assert!(snapshot.has(&told(Said::Snapshot, GAP.as_secs())), "the file in the spool is a few seconds younger");
        assert!(!snapshot.has(&told(Said::Snapshot, GAP.as_secs() + 1)), "a camera that shows the same for ever");
        assert!(!snapshot.has(&told(Said::Picture, 0)));
        assert!(!snapshot.has(&with_file(note(Said::Snapshot, None, 0), AttachmentKind::Picture, 2)));
        assert!(!snapshot.has(&with_file(note(Said::Snapshot, Some("7"), 0), AttachmentKind::Picture, 1)));
        assert!(!snapshot.has(&note(Said::Snapshot, None, 0)));
    }

    #[test]
    fn hooks_that_name_no_event_tell_of_one_while_they_come_often_enough() {
        let mut recent = began(with_file(note(Said::Picture, None, 0), AttachmentKind::Picture, 1));
        let next = note(Said::Picture, None, GAP.as_secs());
        assert!(recent.takes(&next));
        recent.take(next);
        assert!(recent.takes(&note(Said::Movie, None, 2 * GAP.as_secs())));
        assert!(!recent.takes(&note(Said::Picture, None, 2 * GAP.as_secs() + 1)));
        assert!(!recent.ends_by_silence(T + 2 * GAP));
        assert!(recent.ends_by_silence(T + 2 * GAP + Duration::from_secs(1)));
        assert_eq!(recent.event.ended, Some(T + GAP));
        assert!(!recent.ends_by_silence(T + 9 * GAP), "once");
    }

    #[test]
    fn an_event_whose_detector_was_killed_ends_with_what_was_heard_last() {
        let mut recent = began(note(Said::EventStart, Some("7"), 0));
        recent.take(note(Said::Picture, Some("7"), 5));
        assert!(!recent.ends_by_silence(T + FORGOTTEN));
        assert!(recent.ends_by_silence(T + FORGOTTEN + Duration::from_secs(6)));
        assert_eq!(recent.event.ended, Some(T + Duration::from_secs(5)));
    }

    #[test]
    fn an_event_takes_so_many_pictures_and_no_more_and_still_hears_of_its_end() {
        let mut recent = began(note(Said::EventStart, Some("7"), 0));
        for number in 0..ATTACHMENTS {
            let mut picture = with_file(note(Said::Picture, Some("7"), 1), AttachmentKind::Picture, 1);
            picture.attachment.as_mut().unwrap().name = number.to_string();
            assert!(recent.takes(&picture));
            recent.take(picture);
        }
        assert!(!recent.takes(&with_file(note(Said::Picture, Some("7"), 1), AttachmentKind::Picture, 2)));
        assert!(recent.takes(&note(Said::EventEnd, Some("7"), 2)));
    }

    #[test]
    fn what_changed_is_rounded_up_and_never_more_than_all() {
        for (pixels, width, height, percent) in [
            (0, 640, 480, Some(0)),
            (1, 640, 480, Some(1)),
            (15_360, 640, 480, Some(5)),
            (15_361, 640, 480, Some(6)),
            (20_000, 100, 100, Some(100)),
            (u64::MAX, u32::MAX, u32::MAX, Some(100)),
            (5, 0, 480, None),
        ] {
            assert_eq!(changed_percent(pixels, width, height), percent, "{pixels} of {width}x{height}");
        }
    }

    #[test]
    fn the_time_is_found_in_every_name_that_motion_gives() {
        let time = DateTime::new(2026, 11, 23, 8, 1, 30, 0).unwrap();
        for name in [
            "20261123080130-00.jpg",
            "01-20261123080130-00.jpg",
            "01-20261123080130.mp4",
            "20261123080130.jpg",
            "0120261123080130.mkv",
            "front door-03-20261123080130-07.jpg",
            "2026-11-23_08-01-30.jpg",
            "2026-11-23T08:01:30.jpg",
            "99999999999999-20261123080130-00.jpg",
        ] {
            assert_eq!(time_in_name(name.as_bytes()), Some(time), "{name}");
        }
        for name in ["", "lastsnap.jpg", "20261323080130.jpg", "2026112308013", "01-20260230080130.jpg", "\u{fe}\u{ff}", "11111111111111"] {
            assert_eq!(time_in_name(name.as_bytes()), None, "{name}");
        }
    }
}
