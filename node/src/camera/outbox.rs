//! The outbox at work: keeps what was seen, hands it to the coordinator, forgets what that has kept, and keeps to its room.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dms3_core::arming::ArmState;
use dms3_core::event::{Attachment, AttachmentKind, Event, Note};
use dms3_core::id::EventId;
use dms3_core::protocol::events::{ATTACHMENT_LIMIT, BytesV1, EventV1};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::OutboxV1;
use dms3_core::time::{Mono, Timestamp};
use futures_util::future::try_join_all;
use nix::sys::statvfs::statvfs;
use serde::Deserialize;
use tokio::sync::{RwLock, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config_text::Size;
use crate::mesh::link::Connection;
use crate::mesh::transfer::{TransferError, Urgency, send_bytes, send_event};
use crate::store::is_full;
use crate::store::media::Media;
use crate::store::outbox::Outbox;

/// Events told and pictures sent at once; clips go one by one.
const AT_ONCE: usize = 8;
/// Answers that are written down together, with one fsync.
const ANSWERS: usize = 32;
/// What is not answered in this time is told again.
const AGAIN: Duration = Duration::from_secs(30);
/// The same trouble is told this often.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// Contents that were sent and not taken and rest; where there are more the coordinator takes none, and the others need not try.
const RESTING: usize = 32;
/// What waits is counted for people no more often than this.
const COUNT: Duration = Duration::from_millis(500);
/// How often it is tidied.
const TIDY: Duration = Duration::from_secs(10);

/// `[camera.outbox]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Pictures and clips that wait take no more than this; then the oldest clips are given up, then the oldest pictures.
    pub max_size: Size,
    /// Room on the disk that is left to others.
    pub keep_free: Size,
    /// A longer file is not taken; its event is.
    pub max_file: Size,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self { max_size: Size(2_000_000_000), keep_free: Size(200_000_000), max_file: Size(1_000_000_000) }
    }
}

/// Events and their contents on this disk. Clones share them.
#[derive(Debug, Clone)]
pub struct Kept {
    pub outbox: Outbox,
    media: Media,
    dir: PathBuf,
    config: OutboxConfig,
    /// Taken for writing by whoever removes contents: what is copied and not yet noted must not be taken for unneeded.
    contents: Arc<RwLock<()>>,
    news: watch::Sender<()>,
}

/// A picture or clip that is not kept yet.
#[derive(Debug)]
pub struct NewFile {
    pub file: File,
    pub kind: AttachmentKind,
    /// For people.
    pub name: String,
    pub taken: Timestamp,
}

impl Kept {
    /// Opens the outbox in the node's state directory; a damaged one was put aside, and what its files hold becomes events of their own.
    pub async fn open(state_dir: &Path, config: OutboxConfig, first_source: &str, clock: &Clock) -> Result<Self> {
        let opened = Outbox::open(state_dir).await.context("cannot open the outbox")?;
        let media = Media::open(&state_dir.join("outbox"))?;
        media.tidy(|_| false)?;
        let kept = Self {
            outbox: opened.outbox,
            media,
            dir: state_dir.to_owned(),
            config,
            contents: Arc::default(),
            news: watch::Sender::new(()),
        };
        if let Some((aside, error)) = opened.damaged {
            tracing::error!("{error:#}; it is kept as {}, and its pictures and clips are told anew", aside.display());
            kept.adopt(first_source, clock.now().at).await?;
        } else {
            kept.drop_orphans().await?;
        }
        Ok(kept)
    }

    /// Notes what a hook said, with its file if there is one. On the disk when this returns.
    pub async fn note(&self, source: &str, state: ArmState, id: EventId, mut note: Note, file: Option<NewFile>) -> Result<Event> {
        let _contents = self.contents.read().await;
        let began = Instant::now();
        if let Some(NewFile { file, kind, name, taken }) = file {
            let length = file.metadata().context("how long it is")?.len();
            if length > self.config.max_file.0.min(ATTACHMENT_LIMIT) {
                tracing::error!("{source}: a file of {} is not kept: at most {} are (max_file)", Size(length), self.config.max_file);
                self.outbox.lost("too-long", 1).await?;
            } else if let Some(content) = self.copy(file, source).await? {
                note.attachment = Some(Attachment { kind, name, taken, length: content.length, hash: content.hash });
            }
        }
        let event = self.outbox.note(source, state, id, note).await?;
        tracing::debug!(kept_us = began.elapsed().as_micros(), "{source}: what a hook said is on the disk");
        self.news.send_replace(());
        Ok(event)
    }

    /// `None`: there is no room for it, which is counted and told; the event itself is kept all the same.
    async fn copy(&self, file: File, source: &str) -> Result<Option<crate::store::media::Content>> {
        let (media, limit) = (self.media.clone(), self.config.max_file.0);
        let copied = tokio::task::spawn_blocking(move || {
            let mut file = file;
            media.keep(&mut file, limit)
        })
        .await?;
        match copied {
            Ok(content) => Ok(Some(content)),
            Err(error) if is_full(&error) => {
                tracing::error!("{source}: the disk is full, a picture or clip is not kept: {error:#}");
                self.outbox.lost("no-room", 1).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends what is over, forgets what the coordinator has, gives up what there is no room for.
    async fn tidy(&self, clock: &Clock) -> Result<()> {
        let now = clock.now().at;
        if self.outbox.end_silent(now).await? {
            self.news.send_replace(());
        }
        let _contents = self.contents.write().await;
        let mut unneeded = self.outbox.forget(now, Timestamp(0)).await?;
        let over = self.outbox.counts().await?.bytes.saturating_sub(self.config.max_size.0);
        let lacking = free_bytes(&self.dir).map_or(0, |free| self.config.keep_free.0.saturating_sub(free));
        let to_free = over.max(lacking);
        if to_free > 0 {
            let given_up = self.outbox.give_up(to_free).await?;
            if !given_up.is_empty() {
                tracing::error!(
                    "there is no room for {} pictures and clips that wait for the coordinator: they are given up",
                    given_up.len()
                );
            }
            unneeded.extend(given_up);
        }
        for hash in unneeded {
            self.media.remove(&hash)?;
        }
        Ok(())
    }

    /// Contents that no event needs: a hook was cut off before its event was noted, and knows it.
    async fn drop_orphans(&self) -> Result<()> {
        for hash in self.media.list()? {
            if !self.outbox.needs(hash).await? {
                self.media.remove(&hash)?;
            }
        }
        Ok(())
    }

    /// The events of these contents are not known any more.
    async fn adopt(&self, source: &str, now: Timestamp) -> Result<()> {
        for hash in self.media.list()? {
            let mut file = self.media.get(&hash)?;
            let data = file.metadata()?;
            let is_picture = crate::store::media::size_of_picture(&mut file).is_ok();
            let kind = if is_picture { AttachmentKind::Picture } else { AttachmentKind::Clip };
            let taken = data.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let taken = taken.map_or(now, |at| Timestamp(u64::try_from(at.as_millis()).unwrap_or(now.0)));
            let attachment = Attachment { kind, name: "recovered".to_owned(), taken, length: data.len(), hash };
            let said = if is_picture { dms3_core::event::Said::Picture } else { dms3_core::event::Said::Movie };
            let note = Note { said, key: None, at: taken, changed: None, attachment: Some(attachment) };
            self.outbox.note(source, ArmState::Away, EventId::new(taken, rand::random()), note).await?;
        }
        Ok(())
    }

    pub async fn counts(&self) -> Result<OutboxV1> {
        self.outbox.counts().await
    }
}

/// Free for us rather than for root.
fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = statvfs(dir).ok()?;
    // The width of these fields depends on the platform.
    #[allow(clippy::unnecessary_cast)]
    let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
    Some(free)
}

/// Where the outbox is, open or not.
#[derive(Debug)]
pub struct Place {
    pub state_dir: PathBuf,
    pub config: OutboxConfig,
    /// Whose is what a damaged outbox leaves.
    pub first_source: String,
    pub clock: Clock,
}

impl Place {
    /// `None`: it cannot be opened now (on a full disk SQLite opens nothing). It is told.
    pub async fn try_open(&self) -> Option<Kept> {
        Kept::open(&self.state_dir, self.config, &self.first_source, &self.clock)
            .await
            .inspect_err(|error| tracing::error!("what is seen cannot be kept, and this camera watches on: {error:#}"))
            .ok()
    }
}

/// Opens the outbox, if it is not open yet, as soon as the disk lets it, and hands over what waits, as long as the node lives.
pub async fn run(place: Place, kept: watch::Sender<Option<Kept>>, wire: Wire, stop: CancellationToken) -> Result<()> {
    while kept.borrow().is_none() {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(TIDY) => {}
        }
        if let Ok(opened) = Kept::open(&place.state_dir, place.config, &place.first_source, &place.clock).await {
            tracing::info!("what is seen can be kept again");
            kept.send_replace(Some(opened));
        }
    }
    let Some(kept) = kept.borrow().clone() else { return Ok(()) };
    deliver(Delivery { kept, clock: place.clock, wire }, stop).await
}

/// What binds it to the link.
#[derive(Debug)]
pub struct Wire {
    /// The link that is up.
    pub link: watch::Receiver<Option<Connection>>,
    /// What the coordinator answered: [`Message::EventKept`] and its like.
    pub answers: mpsc::Receiver<Message>,
    pub counts: watch::Sender<OutboxV1>,
}

/// What the sender needs.
#[derive(Debug)]
struct Delivery {
    kept: Kept,
    clock: Clock,
    wire: Wire,
}

/// What is on its way over one link.
#[derive(Debug, Default)]
struct OnTheWay {
    told: HashMap<EventId, (u32, Instant)>,
    /// Contents that are sent (`None`), or since when they rest: all of it went, or the coordinator wanted no more of it.
    bytes: HashMap<[u8; 32], Option<Instant>>,
    clip: Option<[u8; 32]>,
    /// What the coordinator has of each content that it lacks. It says so over this link, and it holds for one sending.
    from: HashMap<[u8; 32], u64>,
    /// Sent and not taken: it is looked at here before it is sent again.
    doubted: HashSet<[u8; 32]>,
    /// Refused for a while.
    rests: HashMap<EventId, Instant>,
    /// Why, and when people were told so.
    refusal: Option<(String, Instant)>,
}

/// A disk that takes nothing must not end it: whoever watches goes on watching.
async fn deliver(mut delivery: Delivery, stop: CancellationToken) -> Result<()> {
    let mut said: Option<String> = None;
    loop {
        let began = Instant::now();
        let Err(error) = delivery.work(&stop).await else { return Ok(()) };
        let why = format!("{error:#}");
        if began.elapsed() > 2 * TIDY || said.as_ref() != Some(&why) {
            tracing::error!("the outbox cannot be written, what was seen waits: {why}");
        }
        said = Some(why);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(TIDY) => {}
        }
    }
}

/// What came of sending a content.
#[derive(Debug)]
struct Sent {
    event: EventId,
    hash: [u8; 32],
    result: Result<(), NotSent>,
}

#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("it is not what it was when it was kept")]
    Spoiled,
}

impl Delivery {
    /// Until the stop; an error is one of the disk. It can be begun again: what was on its way is asked anew.
    async fn work(&mut self, stop: &CancellationToken) -> Result<()> {
        let mut tidy = tokio::time::interval(TIDY);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut count, mut uncounted) = (tokio::time::interval(COUNT), true);
        count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut news = self.kept.news.subscribe();
        let mut sending = JoinSet::new();
        let mut way = OnTheWay::default();
        let mut link = self.wire.link.clone();
        while self.wire.answers.try_recv().is_ok() {}
        loop {
            let connection = link.borrow_and_update().clone();
            if let Some(connection) = &connection {
                self.send(connection, &mut way, &mut sending).await?;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = link.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // Whatever was on its way may not have arrived: all is asked anew.
                    sending.shutdown().await;
                    way = OnTheWay::default();
                }
                Some(answer) = self.wire.answers.recv() => {
                    let mut answers = vec![answer];
                    while answers.len() < ANSWERS && let Ok(more) = self.wire.answers.try_recv() {
                        answers.push(more);
                    }
                    for answer in &answers {
                        way.heard(answer);
                    }
                    try_join_all(answers.into_iter().map(|answer| self.heard(answer))).await?;
                }
                Some(sent) = sending.join_next() => match sent {
                    Ok(sent) => self.sent(sent, &mut way).await?,
                    Err(error) => {
                        tracing::error!("sending a picture or clip panicked, all is asked anew: {error}");
                        sending.shutdown().await;
                        way = OnTheWay::default();
                    }
                },
                Ok(()) = news.changed() => {}
                _ = tidy.tick() => {
                    self.kept.tidy(&self.clock).await?;
                    way.forget_old();
                }
                _ = count.tick(), if uncounted => {
                    let counts = self.kept.counts().await?;
                    self.wire.counts.send_if_modified(|told| std::mem::replace(told, counts) != counts);
                    uncounted = false;
                    continue;
                }
            }
            uncounted = true;
        }
    }

    async fn send(&self, connection: &Connection, way: &mut OnTheWay, sending: &mut JoinSet<Sent>) -> Result<()> {
        let outbox = &self.kept.outbox;
        for event in outbox.untold(u32::try_from(AT_ONCE)?).await? {
            let known = way.told.get(&event.id).is_some_and(|(rev, _)| *rev == event.rev);
            if !known && !self.tell(connection, way, &event).await {
                return Ok(());
            }
        }
        for (kind, urgency) in [(AttachmentKind::Picture, Urgency::Picture), (AttachmentKind::Clip, Urgency::Clip)] {
            // Those that rest must not hide the others.
            for missing in outbox.missing(kind, u32::try_from(AT_ONCE + way.bytes.len())?).await? {
                let full = match urgency {
                    Urgency::Picture => way.bytes.values().filter(|rests| rests.is_none()).count() >= AT_ONCE,
                    Urgency::Clip => way.clip.is_some(),
                };
                if full || way.bytes.len() >= AT_ONCE + RESTING || way.bytes.contains_key(&missing.hash) {
                    continue;
                }
                let Some(from) = way.from.get(&missing.hash) else {
                    // Another link had the word, or used it: what is there now the answer to the next telling says.
                    if !way.told.contains_key(&missing.event)
                        && let Some(event) = outbox.event(missing.event).await?
                        && !self.tell(connection, way, &event).await
                    {
                        return Ok(());
                    }
                    continue;
                };
                let from = (*from).min(missing.length);
                way.from.remove(&missing.hash);
                let file = match self.kept.media.get(&missing.hash) {
                    Ok(file) => file,
                    Err(error) => {
                        tracing::error!("a picture or clip of event {} is gone from the outbox: {error}", missing.event);
                        outbox.attachment_kept(missing.event, missing.hash).await?;
                        outbox.lost("gone", 1).await?;
                        continue;
                    }
                };
                way.bytes.insert(missing.hash, None);
                if urgency == Urgency::Clip {
                    way.clip = Some(missing.hash);
                }
                let head = BytesV1 { event: missing.event, hash: missing.hash, from };
                let (connection, media) = (connection.clone(), self.kept.media.clone());
                let is_doubted = way.doubted.remove(&missing.hash);
                sending.spawn(async move {
                    let (event, hash) = (head.event, head.hash);
                    let sent = async {
                        if is_doubted
                            && !tokio::task::spawn_blocking(move || media.is_right(&hash))
                                .await
                                .map_err(std::io::Error::other)
                                .flatten()
                                .map_err(TransferError::from)?
                        {
                            return Err(NotSent::Spoiled);
                        }
                        Ok(send_bytes(&connection, head, file, urgency).await?)
                    };
                    Sent { event, hash, result: sent.await }
                });
            }
        }
        Ok(())
    }

    /// False: nothing more can be told now.
    async fn tell(&self, connection: &Connection, way: &mut OnTheWay, event: &Event) -> bool {
        if way.told.len() >= AT_ONCE || way.rests.contains_key(&event.id) {
            return true;
        }
        let now = self.clock.now();
        way.told.insert(event.id, (event.rev, Instant::now()));
        let sent = send_event(connection, EventV1::of(event, age_of(event, now.at, now.mono))).await;
        sent.inspect_err(|error| tracing::debug!("an event was not told: {error}")).is_ok()
    }

    async fn sent(&self, sent: Sent, way: &mut OnTheWay) -> Result<()> {
        way.clip.take_if(|clip| *clip == sent.hash);
        match sent.result {
            Err(NotSent::Spoiled) => {
                tracing::error!("a picture or clip of event {} is spoiled on this disk and is given up", sent.event);
                way.bytes.remove(&sent.hash);
                return self.kept.outbox.spoiled(sent.hash).await;
            }
            Err(error) => tracing::debug!("an attachment was not sent: {error}"),
            Ok(()) => {}
        }
        // Unless the answer was here first it has its time now, and whoever wants none of it his peace.
        if let Some(rests) = way.bytes.get_mut(&sent.hash) {
            *rests = Some(Instant::now());
        }
        Ok(())
    }

    async fn heard(&self, answer: Message) -> Result<()> {
        let outbox = &self.kept.outbox;
        match answer {
            Message::EventKept(kept) => {
                outbox.kept(kept.id, kept.rev, &kept.missing.iter().map(|missing| missing.hash).collect::<Vec<_>>()).await
            }
            Message::AttachmentKept(kept) => outbox.attachment_kept(kept.event, kept.hash).await,
            Message::EventRefused(refused) if refused.again_after.is_none() => {
                tracing::error!("the coordinator will not take event {}: {}; it stays here", refused.id, refused.why);
                outbox.refused(refused.id, &refused.why).await
            }
            _ => Ok(()),
        }
    }
}

/// How long ago it began, if that can be said without a clock that jumps: it is not kept over a reboot.
fn age_of(event: &Event, now: Timestamp, mono: Mono) -> Option<u64> {
    let age = now.since(event.started);
    // The machine was started since.
    (age <= Duration::from_millis(mono.0)).then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

impl OnTheWay {
    fn heard(&mut self, answer: &Message) {
        match answer {
            Message::EventKept(kept) => {
                self.told.remove(&kept.id);
                self.from.extend(kept.missing.iter().map(|missing| (missing.hash, missing.from)));
            }
            Message::AttachmentKept(kept) => self.ended(&kept.hash),
            Message::EventRefused(refused) => {
                self.told.remove(&refused.id);
                if let Some(secs) = refused.again_after {
                    let is_known = |(why, at): &(String, Instant)| *why == refused.why && at.elapsed() < TELL_EVERY;
                    if !self.refusal.as_ref().is_some_and(is_known) {
                        tracing::warn!("the coordinator does not take event {} now, nor perhaps others: {}", refused.id, refused.why);
                        self.refusal = Some((refused.why.clone(), Instant::now()));
                    }
                    self.rests.insert(refused.id, Instant::now() + Duration::from_secs(secs.into()));
                }
            }
            _ => {}
        }
    }

    /// The coordinator has it.
    fn ended(&mut self, hash: &[u8; 32]) {
        self.bytes.remove(hash);
        self.doubted.remove(hash);
        // Another event that lacks it was told what was there before.
        self.from.remove(hash);
        self.clip.take_if(|clip| clip == hash);
    }

    fn forget_old(&mut self) {
        let now = Instant::now();
        self.told.retain(|_, (_, since)| now.duration_since(*since) < AGAIN);
        self.rests.retain(|_, until| *until > now);
        let over = self.bytes.extract_if(|_, since| since.is_some_and(|since| now.duration_since(since) >= AGAIN));
        for (hash, _) in over {
            // What was said of it meanwhile is old.
            self.from.remove(&hash);
            self.doubted.insert(hash);
        }
    }
}
