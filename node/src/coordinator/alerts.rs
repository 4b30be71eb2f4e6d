//! Decides what is mailed of events and faults, and puts it into the spool of mails. Bringing it away is the post's business.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::alerting::{AlertPolicy, Effect, Input, Movement, Settings};
use dms3_core::event::{AttachmentKind, Event};
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::events::Keeper;
use crate::clock::Clock;
use crate::mailer::letters::{Facts, Writer};
use crate::store::events::{Filter, MOST, StoredEvent};
use crate::store::mails::{ClipV1, LetterV1, Mails};

/// What is older than this when the node starts was mailed, or is no news any more.
const CAUGHT_UP: Duration = Duration::from_secs(3600);
/// The source of a camera node that has only one, as the config calls it by default.
const ONLY: &str = "cam";

/// A condition that begins, or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Began { key: String, text: String },
    Over { key: String, text: String },
}

/// What the service needs.
#[derive(Debug, Clone)]
pub struct Alerts {
    pub settings: Settings,
    pub keeper: Keeper,
    pub mails: Mails,
    pub writer: Writer,
    pub clock: Clock,
    /// Events of which something was kept.
    pub kept: Arc<Mutex<mpsc::Receiver<EventId>>>,
    pub faults: Arc<Mutex<mpsc::Receiver<Fault>>>,
    /// Why the house is as it is.
    pub reason: watch::Receiver<Option<String>>,
    pub tests: Arc<Mutex<mpsc::Receiver<()>>>,
    /// Name of this node.
    pub node: String,
    /// Told when there is a mail to be brought away.
    pub post: watch::Sender<()>,
}

/// Until told to stop. What was kept while this did not run is caught up with first: an event that is told twice is known by its id.
pub async fn run(alerts: Alerts, stop: CancellationToken) -> Result<()> {
    let now = alerts.clock.now();
    let settings = alerts.settings.clone();
    let mut policy = match alerts.mails.memory().await? {
        Some(memory) => AlertPolicy::restore(settings, memory, now),
        None => AlertPolicy::new(settings, now),
    };
    let (mut kept, mut faults, mut tests) = (alerts.kept.lock().await, alerts.faults.lock().await, alerts.tests.lock().await);
    let events = &alerts.keeper.room().await?.events;
    let filter = Filter { since: Some(now.at - CAUGHT_UP), limit: MOST, ..Filter::default() };
    let mut news: VecDeque<EventId> = events.events(&filter).await?.iter().rev().map(|event| event.id).collect();
    loop {
        if let Some(id) = news.pop_front() {
            if let Some(event) = events.event(id).await? {
                let (told, minute) = (as_told(&event), minute_of_day(event.began));
                alerts.take(&mut policy, Input::Event { event: &told, minute }).await?;
            }
            continue;
        }
        let wake = policy.next_wake(alerts.clock.now());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(id) = kept.recv() => news.push_back(id),
            Some(fault) = faults.recv() => match &fault {
                Fault::Began { key, text } => alerts.take(&mut policy, Input::Fault { key, text }).await?,
                Fault::Over { key, text } => alerts.take(&mut policy, Input::FaultOver { key, text }).await?,
            },
            Some(()) = tests.recv() => alerts.test(&policy).await?,
            () = tokio::time::sleep(wake.unwrap_or(CAUGHT_UP)) => alerts.take(&mut policy, Input::Tick).await?,
        }
    }
}

impl Alerts {
    async fn take(&self, policy: &mut AlertPolicy, input: Input<'_>) -> Result<()> {
        let now = self.clock.now();
        let effects = policy.handle(input, now);
        if !policy.changed() {
            return Ok(());
        }
        let mut letters = Vec::new();
        for effect in effects {
            letters.extend(self.write(effect, now.at).await?);
        }
        self.mails.save(policy.memory(), &letters).await?;
        if !letters.is_empty() {
            self.post.send_replace(());
        }
        Ok(())
    }

    /// A mail that no rule holds back.
    async fn test(&self, policy: &AlertPolicy) -> Result<()> {
        let (writer, node, to, now) = (self.writer.clone(), self.node.clone(), self.settings.recipients.clone(), self.clock.now().at);
        let letter = tokio::task::spawn_blocking(move || writer.test(&node, to, now)).await?;
        self.mails.save(policy.memory(), &[letter]).await?;
        self.post.send_replace(());
        Ok(())
    }

    async fn write(&self, effect: Effect, now: Timestamp) -> Result<Vec<LetterV1>> {
        let writer = self.writer.clone();
        let why_armed = self.reason.borrow().clone();
        let work: Box<dyn FnOnce() -> Vec<LetterV1> + Send> = match effect {
            Effect::EventMail { movement, to, held_back } => {
                let event = self.keeper.room().await?.events.event(movement.event).await?;
                let clip = event.as_ref().and_then(clip_of).map(|(clip, length)| (clip, length, None::<u32>));
                let clip = match clip {
                    Some((_, length, seconds)) => Some((Some(length), seconds)),
                    // One that goes on may still get one.
                    None => event.filter(|event| event.ended.is_none()).map(|_| (None, None)),
                };
                let facts = Facts { why_armed, clip };
                Box::new(move || vec![writer.event(&movement, to, held_back, &facts, now)])
            }
            Effect::ClipMail { event, source, clip, length, to, held_back } => {
                let Some(event) = self.keeper.room().await?.events.event(event).await? else { return Ok(Vec::new()) };
                let attachment = event.attachments.iter().find(|known| known.attachment.hash == clip);
                let name = attachment.map_or_else(|| "clip".to_owned(), |known| known.attachment.name.clone());
                let movement = Movement { event: event.id, source, started: event.started, changed: event.changed, picture: None };
                let clip = ClipV1 { mime: mime_of(&name).to_owned(), name, hash: clip };
                Box::new(move || vec![writer.clip(&movement, clip, length, to, held_back, now)])
            }
            Effect::Digest(digest) => Box::new(move || vec![writer.digest(&digest, now)]),
            Effect::FaultMail { notices, to, held_back } => Box::new(move || {
                let count = notices.len();
                let letters = notices.iter().enumerate();
                letters.map(|(nth, notice)| writer.fault(notice, to.clone(), held_back.filter(|_| nth + 1 == count), now)).collect()
            }),
            Effect::Arrived { .. } => return Ok(Vec::new()),
        };
        Ok(tokio::task::spawn_blocking(work).await?)
    }
}

/// As the rules know it: the camera as people call it, and only those attachments that are here.
fn as_told(event: &StoredEvent) -> Event {
    let attachments = event.attachments.iter().filter(|known| known.kept_at.is_some()).map(|known| known.attachment.clone());
    Event {
        id: event.id,
        source: label(&event.camera, &event.source),
        kind: event.kind,
        started: event.began,
        ended: event.ended,
        changed: event.changed,
        state: event.state,
        attachments: attachments.collect(),
        rev: event.rev,
    }
}

/// The node's name is enough where it has one source that nobody named.
pub(super) fn label(camera: &str, source: &str) -> String {
    if source == ONLY || source == camera { camera.to_owned() } else { format!("{camera}/{source}") }
}

fn clip_of(event: &StoredEvent) -> Option<(ClipV1, u64)> {
    let clip = event.attachments.iter().map(|known| &known.attachment).find(|attachment| attachment.kind == AttachmentKind::Clip)?;
    Some((ClipV1 { name: clip.name.clone(), mime: mime_of(&clip.name).to_owned(), hash: clip.hash }, clip.length))
}

fn mime_of(name: &str) -> &'static str {
    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "mp4" | "m4v" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "avi" => "video/x-msvideo",
        _ => "application/octet-stream",
    }
}

fn minute_of_day(at: Timestamp) -> u16 {
    let known = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let time = known.map(|at| at.to_zoned(TimeZone::system()).time());
    time.map_or(0, |time| u16::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).unwrap_or(0))
}
