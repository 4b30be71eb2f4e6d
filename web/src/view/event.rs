//! Events as lists and pages show them.

use dms3_core::event::{AttachmentKind, EventKind, StoredAttachment, StoredEvent, Thumbnail, seconds_between};
use jiff::civil::Date;
use serde::Serialize;

use super::{Clock, Moment};

/// Days in the chart.
pub(crate) const DAYS: usize = 14;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EventItem {
    pub(crate) id: String,
    pub(crate) camera: String,
    pub(crate) at: Moment,
    pub(crate) changed: Option<u8>,
    pub(crate) thumb: Option<String>,
    /// Why there is no picture.
    pub(crate) placeholder: Option<&'static str>,
    pub(crate) pictures: usize,
    pub(crate) clip: Option<Clip>,
    pub(crate) going_on: bool,
    pub(crate) kind: &'static str,
    /// Of what is no movement, or none of a stranger.
    pub(crate) words: Option<&'static str>,
    pub(crate) seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Clip {
    pub(crate) secs: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Day {
    pub(crate) date: String,
    pub(crate) label: String,
    pub(crate) count: u64,
    /// Percent of the highest.
    pub(crate) height: u64,
}

pub(crate) fn item(event: &StoredEvent, who: &str, clock: &Clock) -> EventItem {
    let pictures: Vec<_> = event.attachments.iter().filter(|one| one.attachment.kind == AttachmentKind::Picture).collect();
    let clip = event.attachments.iter().find(|one| one.attachment.kind == AttachmentKind::Clip);
    let shown = pictures.iter().find(|one| one.kept_at.is_some());
    let (kind, words) = match event.kind {
        EventKind::CameraLost => ("camera-lost", Some("no picture of it")),
        EventKind::CameraFound => ("camera-found", Some("its picture is back")),
        EventKind::Snapshot => ("snapshot", Some("snapshot")),
        _ if event.arrival => ("motion", Some("somebody came home")),
        _ => ("motion", None),
    };
    let placeholder = match (shown, pictures.is_empty(), kind) {
        (Some(_), ..) => None,
        (None, _, "camera-lost") => Some("No picture of the camera"),
        (None, true, _) => Some("No picture"),
        (None, false, _) => Some("The picture is on its way"),
    };
    EventItem {
        id: event.id.to_string(),
        camera: camera(event),
        at: clock.moment(event.began),
        changed: event.changed,
        thumb: shown.map(|one| picture_url(event, one, one.thumbnail == Thumbnail::Made)),
        placeholder,
        pictures: pictures.len(),
        clip: clip.map(|_| Clip { secs: event.over().map(|over| seconds_between(event.began, over)) }),
        going_on: event.ended.is_none() && kind == "motion",
        kind,
        words,
        seen: event.seen_by.iter().any(|name| name == who),
    }
}

/// "porch", or "porch/garden" where a node drives several.
pub(crate) fn camera(event: &StoredEvent) -> String {
    if event.camera == event.source { event.camera.clone() } else { format!("{}/{}", event.camera, event.source) }
}

pub(crate) fn picture_url(event: &StoredEvent, one: &StoredAttachment, small: bool) -> String {
    let hash: String = one.attachment.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/events/{}/{}/{hash}", event.id, if small { "small" } else { "file" })
}

/// One bar for each day, the last is today.
pub(crate) fn chart(days: &[Date], counts: &[u64]) -> Vec<Day> {
    let highest = counts.iter().copied().max().unwrap_or(0).max(1);
    days.iter()
        .zip(counts)
        .map(|(day, count)| Day {
            date: day.to_string(),
            label: day.strftime("%a %-d %b").to_string(),
            count: *count,
            height: (count * 100).div_ceil(highest),
        })
        .collect()
}

/// The last [`DAYS`] days, today last.
pub(crate) fn days(clock: &Clock) -> Vec<Date> {
    let Some(today) = clock.today() else { return Vec::new() };
    let mut days: Vec<_> = std::iter::successors(Some(today), |day| day.yesterday().ok()).take(DAYS).collect();
    days.reverse();
    days
}
