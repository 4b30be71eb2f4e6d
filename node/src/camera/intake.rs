//! What hooks hand over, or left in the spool, becomes part of an event in the outbox.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dms3_core::arming::ArmState;
use dms3_core::event::{AttachmentKind, Event, Note, Said, changed_percent, time_in_name};
use dms3_core::id::EventId;
use dms3_core::protocol::events::NAME_LIMIT;
use dms3_core::protocol::message::AckV1;
use dms3_core::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::outbox::{Kept, NewFile};
use crate::clock::Clock;
use crate::hook::{Answer, Call};
use crate::spool;
use crate::store::media::size_of_picture;

/// How often the spool is looked into: it is filled only while this node does not run, or cannot write.
const LOOK: Duration = Duration::from_secs(5);
/// A time that is this much ahead of ours is a mistake.
const AHEAD: Duration = Duration::from_secs(86_400);

/// Takes calls of hooks. Clones are the same.
#[derive(Debug, Clone)]
pub struct Intake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` while the disk does not let it be opened.
    kept: watch::Receiver<Option<Kept>>,
    clock: Clock,
    /// Sources of this node, with the directory of those whose files are ours to remove once they are kept.
    sources: Vec<(String, Option<PathBuf>)>,
    /// What each source obeys.
    acks: watch::Receiver<Option<AckV1>>,
    spool: PathBuf,
}

impl Intake {
    pub fn new(
        kept: watch::Receiver<Option<Kept>>,
        clock: Clock,
        sources: Vec<(String, Option<PathBuf>)>,
        acks: watch::Receiver<Option<AckV1>>,
        spool: PathBuf,
    ) -> Self {
        Self(Arc::new(Inner { kept, clock, sources, acks, spool }))
    }

    /// For the hook socket.
    pub async fn take(self, call: Call, file: Option<File>) -> Answer {
        let said = call.said;
        match self.keep(call, file, true).await {
            Ok(event) => Answer::Kept { event: event.id },
            Err(error) => {
                tracing::error!("what a hook told ({said:?}) cannot be kept now: {error:#}");
                Answer::Later { why: format!("{error:#}") }
            }
        }
    }

    /// Empties the spool, now and whenever something is in it.
    pub async fn empty_spool(self, stop: CancellationToken) -> Result<()> {
        let dir = self.0.spool.clone();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unfinished = spool::Unfinished::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = look.tick() => {}
            }
            unfinished.tidy(&dir, std::time::Instant::now())?;
            let waiting = spool::entries(&dir)?;
            for id in &waiting {
                match spool::read(&dir, *id) {
                    Ok((call, file)) => {
                        // What cannot be kept now stays, and what comes after it with it.
                        self.keep(call, file, false).await.context("what lies in the spool cannot be kept now")?;
                        spool::remove(&dir, *id)?;
                    }
                    Err(error) => {
                        let aside = spool::put_aside(&dir, *id)?;
                        tracing::error!("an entry of the spool is not taken: {error:#}; it stays as {}", aside.display());
                        self.0.kept()?.outbox.lost("spool", 1).await?;
                    }
                }
            }
            if !waiting.is_empty() {
                tracing::info!("took {} from the spool that hooks had left while this node was away", waiting.len());
            }
        }
    }

    async fn keep(&self, call: Call, file: Option<File>, fresh: bool) -> Result<Event> {
        let inner = &self.0;
        let kept = inner.kept()?;
        let source = inner.source(call.camera.as_deref());
        let state = inner.obeyed(&source);
        let name = call.file.as_deref().map(clean_name);
        let said = call.said;
        let kind = match said {
            Said::Movie => AttachmentKind::Clip,
            _ => AttachmentKind::Picture,
        };
        let mut changed = None;
        let mut at = None;
        let mut opened = None;
        if let (Some(file), Some(bytes)) = (file, &call.file) {
            let data = file.metadata().context("what kind of file it is")?;
            at = time_in_name(bytes).and_then(local_time).or_else(|| u64::try_from(data.mtime()).ok().map(Timestamp::from_secs));
            let (file, size) = tokio::task::spawn_blocking(move || {
                let mut file = file;
                let size = (kind == AttachmentKind::Picture).then(|| size_of_picture(&mut file));
                (file, size)
            })
            .await?;
            match (size, call.pixels) {
                (Some(Ok((width, height))), Some(pixels)) => changed = changed_percent(pixels, width, height),
                (Some(Err(error)), _) => {
                    tracing::warn!(
                        "{source}: {:?} has no size, so it is not known how much changed: {error:#}",
                        name.as_deref().unwrap_or_default()
                    );
                }
                _ => {}
            }
            opened = Some((file, data.dev(), data.ino()));
        }
        let now = inner.clock.now().at;
        let told = call.at.as_deref().and_then(time_of_argument);
        let called = if fresh { now } else { call.called };
        let at = told.or(at).unwrap_or(called);
        let at = if at > now + AHEAD { now } else { at };
        let note = Note { said, key: call.event.clone().map(|key| cut(&key)), at, changed, attachment: None };
        let id = EventId::new(now, rand::random());
        let Some((file, dev, ino)) = opened else {
            return kept.note(&source, state, id, note, None).await;
        };
        let new = NewFile { file, kind, name: name.unwrap_or_default(), taken: at };
        let event = kept.note(&source, state, id, note, Some(new)).await?;
        if let (Some(bytes), Some(dir)) = (&call.file, inner.own_dir(&source)) {
            remove_ours(dir, bytes, dev, ino);
        }
        Ok(event)
    }
}

impl Inner {
    fn kept(&self) -> Result<Kept> {
        self.kept.borrow().clone().context("the outbox cannot be opened yet")
    }

    /// The source that the detector means. One that this node does not know keeps its own name: a user's Motion with several cameras.
    fn source(&self, camera: Option<&str>) -> String {
        let first = || self.sources.first().map_or_else(|| "cam".to_owned(), |(name, _)| name.clone());
        match camera {
            Some(name) => {
                let name = cut(&name.chars().filter(|c| !c.is_control()).collect::<String>());
                if name.is_empty() { first() } else { name }
            }
            None => first(),
        }
    }

    /// What the source obeys now; armed as long as nobody knows.
    fn obeyed(&self, source: &str) -> ArmState {
        let acks = self.acks.borrow();
        let sources = acks.as_ref().map(|ack| ack.sources.as_slice()).unwrap_or_default();
        let named = sources.iter().find(|known| known.source == source);
        let strongest = || sources.iter().map(|known| ArmState::from_wire(known.effective)).max();
        named.map(|known| ArmState::from_wire(known.effective)).or_else(strongest).unwrap_or(ArmState::Away)
    }

    fn own_dir(&self, source: &str) -> Option<&Path> {
        self.sources.iter().find(|(name, _)| name == source)?.1.as_deref()
    }
}

/// Our own Motion's file is a second copy now. It is the very file that was handed over, or it stays.
fn remove_ours(dir: &Path, name: &[u8], dev: u64, ino: u64) {
    if name.contains(&b'/') {
        return;
    }
    let path = dir.join(std::ffi::OsStr::from_bytes(name));
    let is_it = std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file() && data.dev() == dev && data.ino() == ino);
    if is_it && let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!("cannot remove {} although it is kept: {error}", path.display());
    }
}

/// For people; never used as a path.
fn clean_name(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    cut(&text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>())
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(NAME_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Local time of this machine.
fn local_time(time: jiff::civil::DateTime) -> Option<Timestamp> {
    let zoned = time.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    u64::try_from(zoned.timestamp().as_millisecond()).ok().map(Timestamp)
}

/// Seconds since 1970, or local time. What is neither is no time.
fn time_of_argument(text: &str) -> Option<Timestamp> {
    match text.parse::<u64>() {
        Ok(secs) if secs < 100_000_000_000 => Some(Timestamp::from_secs(secs)),
        _ => time_in_name(text.as_bytes()).and_then(local_time),
    }
}
