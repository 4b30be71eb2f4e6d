//! The outbox at work: keeps what was seen, forgets what the coordinator has, and keeps to its room.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dms3_core::arming::ArmState;
use dms3_core::event::{Attachment, AttachmentKind, Event, Note, OwnMail, Said};
use dms3_core::id::EventId;
use dms3_core::protocol::events::ATTACHMENT_LIMIT;
use dms3_core::time::Timestamp;
use serde::Deserialize;
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::delivery::{Delivery, deliver};
use crate::clock::Clock;
use crate::config_text::{Size, time};
use crate::picture::size_of_picture;
use crate::store::is_full;
use crate::store::media::{Content, Media};
use crate::store::outbox::{Opened, Outbox};

mod delivery;

pub use delivery::Wire;

/// Where pictures and clips lie, in the state directory.
pub const MEDIA_DIR: &str = "outbox";
/// How often it is tidied.
const TIDY: Duration = Duration::from_secs(10);
/// Before it is tidied again, contents may take this part of `max_size` more.
const SLACK: u64 = 16;
/// Bytes that a file may grow while it is copied.
const GROWN: u64 = 1 << 20;
/// What the coordinator will never take stays here so long, for a person to look at.
const REFUSED_FOR: Duration = Duration::from_secs(30 * 86_400);

/// A camera that was off for months, and whose clock stood still, brings away what it saw before anything of it is too old.
const OLD_AFTER: Duration = Duration::from_secs(86_400);

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
    /// An event that waits longer is given up.
    #[serde(deserialize_with = "time")]
    pub max_age: Duration,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            max_size: Size(2_000_000_000),
            keep_free: Size(200_000_000),
            max_file: Size(1_000_000_000),
            max_age: Duration::from_secs(90 * 86_400),
        }
    }
}

/// Events and their contents on this disk. Clones share them.
#[derive(Debug, Clone)]
pub struct Kept {
    pub outbox: Outbox,
    media: Media,
    config: OutboxConfig,
    /// Taken for writing by whoever removes contents: what is copied and not yet noted must not be taken for unneeded.
    contents: Arc<RwLock<()>>,
    fill: Arc<Mutex<Fill>>,
    opened: Instant,
    news: watch::Sender<()>,
}

/// What contents take, in bytes: between two tidyings nobody counts them.
#[derive(Debug, Default)]
struct Fill {
    kept: u64,
    coming: u64,
}

/// A content that is about to be copied, or is being copied.
#[derive(Debug)]
struct Coming {
    fill: Arc<Mutex<Fill>>,
    length: u64,
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
    pub async fn open(state_dir: &Path, config: OutboxConfig, first_source: &str, mails_all: bool, clock: &Clock) -> Result<Self> {
        let Opened { outbox, new, damaged } = Outbox::open(state_dir).await.context("cannot open the outbox")?;
        let media = Media::open(&state_dir.join(MEDIA_DIR))?;
        media.tidy(|_| false)?;
        let outbox = if mails_all { outbox.mailing_all() } else { outbox };
        let kept = Self {
            outbox,
            media,
            config,
            contents: Arc::default(),
            fill: Arc::default(),
            opened: Instant::now(),
            news: watch::Sender::new(()),
        };
        match damaged {
            Some((aside, error)) => {
                tracing::error!("{error:#}; it is kept as {}, and its pictures and clips are told anew", aside.display());
                kept.adopt(first_source, clock.now().at).await?;
            }
            // Whose database is gone is no orphan.
            None if new => {
                let adopted = kept.adopt(first_source, clock.now().at).await?;
                if adopted > 0 {
                    tracing::error!("the database of the outbox is gone: the {adopted} pictures and clips that waited are told anew");
                    kept.outbox.lost("damage", 1).await?;
                }
            }
            None => kept.drop_orphans().await?,
        }
        kept.fill().kept = kept.outbox.counts().await?.bytes;
        Ok(kept)
    }

    /// Notes what a hook said, with its file if there is one. On the disk when this returns. Whether the file is, too.
    pub async fn note(&self, source: &str, state: ArmState, id: EventId, mut note: Note, file: Option<NewFile>) -> Result<(Event, bool)> {
        let began = Instant::now();
        let mut coming = None;
        if let Some(NewFile { file, .. }) = &file {
            let length = file.metadata().context("how long it is")?.len();
            if length <= self.longest() {
                coming = Some(self.make_room(length).await?);
            } else {
                tracing::error!("{source}: a file of {} is not kept: at most {} are (max_file)", Size(length), self.config.max_file);
                self.outbox.lost("too-long", 1).await?;
            }
        }
        let contents = self.contents.read().await;
        if let Some(NewFile { file, kind, name, taken }) = file
            && let Some(coming) = coming
            && let Some(content) = self.copy(file, coming, source).await?
        {
            note.attachment = Some(Attachment { kind, name, taken, length: content.length, hash: content.hash });
        }
        let content = note.attachment.as_ref().map(|attachment| attachment.hash);
        let event = match self.outbox.note(source, state, id, note).await {
            Ok(event) => event,
            Err(error) => {
                drop(contents);
                if let Some(hash) = content
                    && let Err(why) = self.let_go(hash).await
                {
                    tracing::warn!("{source}: a picture or clip that could not be noted stays until the next start: {why:#}");
                }
                return Err(error);
            }
        };
        tracing::debug!(kept_us = began.elapsed().as_micros(), "{source}: what a hook said is on the disk");
        self.news.send_replace(());
        Ok((event, content.is_some()))
    }

    /// A content that was copied and could not be noted must not stay, as nobody counts it.
    async fn let_go(&self, hash: [u8; 32]) -> Result<()> {
        let _contents = self.contents.write().await;
        if !self.outbox.needs(hash).await? {
            self.media.remove(&hash)?;
        }
        Ok(())
    }

    /// Told when something was noted.
    pub fn news(&self) -> watch::Receiver<()> {
        let mut news = self.news.subscribe();
        news.mark_changed();
        news
    }

    /// This camera mails the event itself, which the coordinator is told.
    pub async fn mails(&self, id: EventId, own_mail: OwnMail) -> Result<()> {
        self.outbox.mails(id, own_mail).await?;
        self.news.send_replace(());
        Ok(())
    }

    /// Bytes of the longest file that is kept.
    pub fn longest(&self) -> u64 {
        self.config.max_file.0.min(ATTACHMENT_LIMIT)
    }

    fn fill(&self) -> MutexGuard<'_, Fill> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever hands over more than there is room for before it is tidied again waits until older contents are given up for it.
    async fn make_room(&self, length: u64) -> Result<Coming> {
        let (coming, all) = {
            let mut fill = self.fill();
            fill.coming = fill.coming.saturating_add(length);
            (fill.coming, fill.coming.saturating_add(fill.kept))
        };
        let guard = Coming { fill: self.fill.clone(), length };
        let most = self.config.max_size.0.saturating_add(self.config.max_size.0 / SLACK);
        let is_short = self.media.free().is_some_and(|free| free < coming.saturating_add(self.config.keep_free.0 / 2));
        if all > most || is_short {
            let _contents = self.contents.write().await;
            self.give_up(length).await?;
        }
        Ok(guard)
    }

    /// `None`: there is no room for it, which is counted and told; the event itself is kept all the same.
    async fn copy(&self, file: File, coming: Coming, source: &str) -> Result<Option<Content>> {
        // Whoever goes on writing to it gets no room that was not made.
        let limit = self.longest().min(coming.length.saturating_add(GROWN));
        let (media, half) = (self.media.clone(), self.config.keep_free.0 / 2);
        let copied = tokio::task::spawn_blocking(move || {
            let mut file = file;
            let length = coming.length;
            // It would fill the disk before that is noticed, and the node must write down what it is told meanwhile.
            if media.free().is_some_and(|free| free < length.saturating_add(length.min(half))) {
                return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
            }
            let content = media.keep(&mut file, limit)?;
            coming.came(content.length);
            Ok(content)
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
        for hash in self.outbox.forget(now, now - REFUSED_FOR).await? {
            self.media.remove(&hash)?;
        }
        // A clock that jumps gives up nothing.
        if self.opened.elapsed() >= OLD_AFTER {
            self.give_up_old(clock.certain()).await?;
        }
        self.give_up(0).await
    }

    async fn give_up_old(&self, now: Timestamp) -> Result<()> {
        let (number, contents) = self.outbox.give_up_older(now - self.config.max_age).await?;
        if number > 0 {
            let max_age = humantime::format_duration(self.config.max_age);
            tracing::error!("{number} event(s) waited {max_age} for the coordinator (max_age): they are given up");
        }
        for hash in contents {
            self.media.remove(&hash)?;
        }
        Ok(())
    }

    /// Gives up what there is no room for, where so many bytes are about to come. Nothing is copied meanwhile.
    async fn give_up(&self, coming: u64) -> Result<()> {
        let over = self.outbox.counts().await?.bytes.saturating_add(coming).saturating_sub(self.config.max_size.0);
        let lacking = self.media.free().map_or(0, |free| self.config.keep_free.0.saturating_add(coming).saturating_sub(free));
        let to_free = over.max(lacking);
        if to_free > 0 {
            let given_up = self.outbox.give_up(to_free).await?;
            if !given_up.is_empty() {
                tracing::error!(
                    "there is no room for {} pictures and clips that wait for the coordinator: they are given up",
                    given_up.len()
                );
            }
            for hash in given_up {
                self.media.remove(&hash)?;
            }
        }
        self.fill().kept = self.outbox.counts().await?.bytes;
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

    /// The events of these contents are not known any more. How many there are.
    async fn adopt(&self, source: &str, now: Timestamp) -> Result<usize> {
        let contents = self.media.list()?;
        for hash in &contents {
            let hash = *hash;
            let mut file = self.media.get(&hash)?;
            let data = file.metadata()?;
            let is_picture = size_of_picture(&mut file).is_ok();
            let kind = if is_picture { AttachmentKind::Picture } else { AttachmentKind::Clip };
            let taken = data.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let taken = taken.map_or(now, |at| Timestamp(u64::try_from(at.as_millis()).unwrap_or(now.0)));
            let attachment = Attachment { kind, name: "recovered".to_owned(), taken, length: data.len(), hash };
            let said = if is_picture { Said::Picture } else { Said::Movie };
            let note = Note { said, key: None, at: taken, since_boot: None, changed: None, attachment: Some(attachment) };
            self.outbox.note(source, ArmState::Away, EventId::new(taken, rand::random()), note).await?;
        }
        Ok(contents.len())
    }
}

impl Coming {
    fn came(&self, length: u64) {
        let mut fill = self.fill.lock().unwrap_or_else(PoisonError::into_inner);
        fill.kept = fill.kept.saturating_add(length);
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut fill = self.fill.lock().unwrap_or_else(PoisonError::into_inner);
        fill.coming = fill.coming.saturating_sub(self.length);
    }
}

/// Where the outbox is.
#[derive(Debug)]
pub struct Place {
    pub state_dir: PathBuf,
    pub config: OutboxConfig,
    /// Whose is what a damaged outbox leaves.
    pub first_source: String,
    /// This camera mails every movement itself.
    pub mails_all: bool,
    pub clock: Clock,
}

/// Opens the outbox as soon as the disk lets it (on a full one SQLite opens nothing), and hands over what waits, as long as the node lives.
/// Nothing of the arming waits for it.
pub async fn run(place: Place, kept: watch::Sender<Option<Kept>>, wire: Wire, stop: CancellationToken) -> Result<()> {
    let mut said: Option<String> = None;
    let opened = loop {
        match Kept::open(&place.state_dir, place.config, &place.first_source, place.mails_all, &place.clock).await {
            Ok(opened) => break opened,
            Err(error) => {
                let why = format!("{error:#}");
                if said.as_ref() != Some(&why) {
                    tracing::error!("what is seen cannot be kept, and this camera watches on: {why}");
                }
                said = Some(why);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(TIDY) => {}
        }
    };
    if said.is_some() {
        tracing::info!("what is seen can be kept again");
    }
    kept.send_replace(Some(opened.clone()));
    deliver(Delivery { kept: opened, clock: place.clock, wire }, stop).await
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use dms3_core::event::Said;

    use super::*;
    use crate::clock::StandStill;

    #[tokio::test]
    async fn pictures_whose_database_is_gone_are_told_anew_and_not_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let kept = Kept::open(dir.path(), OutboxConfig::default(), "porch", false, &clock).await.unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"what was seen").unwrap();
        let now = clock.now().at;
        let note = Note { said: Said::Movie, key: None, at: now, since_boot: None, changed: None, attachment: None };
        let new = NewFile { file, kind: AttachmentKind::Clip, name: "a.mp4".to_owned(), taken: now };
        kept.note("porch", ArmState::Away, EventId::new(now, [1; 10]), note, Some(new)).await.unwrap();
        kept.outbox.close().await;
        // A file system that was checked after a power cut has it in lost+found.
        for suffix in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(dir.path().join(format!("outbox.db{suffix}"))));
        }
        let kept = Kept::open(dir.path(), OutboxConfig::default(), "porch", false, &clock).await.unwrap();
        let events = kept.outbox.untold(9).await.unwrap();
        assert_eq!((events.len(), events.first().map(|event| event.attachments.len())), (1, Some(1)));
        assert_eq!(kept.outbox.counts().await.unwrap().lost, 1, "and it is told that something was lost");
    }

    #[tokio::test]
    async fn what_waits_longer_than_it_may_is_given_up_and_counted_with_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let kept = Kept::open(dir.path(), OutboxConfig::default(), "porch", false, &clock).await.unwrap();
        let now = clock.now().at;
        let max_age = OutboxConfig::default().max_age;
        let mut hashes = Vec::new();
        for (age, word) in [(max_age + Duration::from_secs(1), "old"), (max_age - Duration::from_secs(60), "young")] {
            let at = now - age;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(word.as_bytes()).unwrap();
            let note = Note { said: Said::Snapshot, key: None, at, since_boot: None, changed: None, attachment: None };
            let new = NewFile { file, kind: AttachmentKind::Picture, name: word.to_owned(), taken: at };
            let (event, _) = kept.note("porch", ArmState::Away, EventId::new(at, rand::random()), note, Some(new)).await.unwrap();
            hashes.push(event.attachments[0].hash);
        }
        // A clock may be wrong until the coordinator was heard.
        kept.tidy(&clock).await.unwrap();
        assert_eq!(kept.outbox.counts().await.unwrap().waiting, 2);
        kept.give_up_old(now).await.unwrap();
        let counts = kept.outbox.counts().await.unwrap();
        assert_eq!((counts.waiting, counts.lost, counts.bytes), (1, 1, 5), "the young one waits");
        assert!(!kept.media.has(&hashes[0]) && kept.media.has(&hashes[1]));
    }

    #[tokio::test]
    async fn what_waits_is_not_given_up_by_a_clock_that_jumped() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::alone();
        clock.accept().unwrap();
        let kept = Kept::open(dir.path(), OutboxConfig::default(), "porch", false, &clock).await.unwrap();
        let day = Duration::from_secs(86_400);
        let at = clock.now().at - (OutboxConfig::default().max_age - day);
        let note = Note { said: Said::Snapshot, key: None, at, since_boot: None, changed: None, attachment: None };
        kept.note("porch", ArmState::Away, EventId::new(at, rand::random()), note, None).await.unwrap();
        let time = StandStill::begin();
        tokio::time::advance(OLD_AFTER).await;
        time.end().await;
        for days in [29, 26_600] {
            clock.set_ahead(days * 86_400_000);
            kept.tidy(&clock).await.unwrap();
            assert_eq!(kept.outbox.counts().await.unwrap().waiting, 1, "{days} days");
        }
        clock.set_ahead(0);
        clock.pass(2 * day);
        kept.tidy(&clock).await.unwrap();
        let counts = kept.outbox.counts().await.unwrap();
        assert_eq!((counts.waiting, counts.lost), (0, 1), "and by days that passed it is");
    }

    #[tokio::test]
    async fn whoever_hands_over_without_end_gets_no_more_room_than_there_is_before_it_is_tidied() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let (max_size, max_file) = (Size(160_000), Size(100_000));
        let config = OutboxConfig { max_size, max_file, keep_free: Size(0), ..OutboxConfig::default() };
        let kept = Kept::open(dir.path(), config, "porch", false, &clock).await.unwrap();
        let now = clock.now().at;
        for nth in 0..60_u64 {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&nth.to_be_bytes()).unwrap();
            // Nothing but a hole, which costs him nothing.
            let length = if nth % 10 == 9 { 100_000 } else { 10_000 };
            file.set_len(length).unwrap();
            let note = Note { said: Said::Picture, key: None, at: now, since_boot: None, changed: None, attachment: None };
            let new = NewFile { file, kind: AttachmentKind::Picture, name: nth.to_string(), taken: now };
            let (_, has_file) = kept.note("porch", ArmState::Away, EventId::new(now, rand::random()), note, Some(new)).await.unwrap();
            assert!(has_file);
            let there: u64 = kept.media.list().unwrap().iter().filter_map(|hash| kept.media.length(hash)).sum();
            assert!(there <= 170_000, "{there} bytes after {nth}");
        }
        assert_eq!(kept.fill().coming, 0);
        assert!(kept.outbox.counts().await.unwrap().lost > 40, "what was given up is counted");
    }

    #[tokio::test]
    async fn a_content_that_cannot_be_noted_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let mut kept = Kept::open(dir.path(), OutboxConfig::default(), "porch", false, &clock).await.unwrap();
        let now = clock.now().at;
        let note = |kept: Kept| async move {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"what was seen").unwrap();
            let note = Note { said: Said::Picture, key: None, at: now, since_boot: None, changed: None, attachment: None };
            let new = NewFile { file, kind: AttachmentKind::Picture, name: "a.jpg".to_owned(), taken: now };
            kept.note("porch", ArmState::Away, EventId::new(now, rand::random()), note, Some(new)).await
        };
        kept.outbox.take_no_more_than(0);
        assert!(note(kept.clone()).await.is_err());
        assert!(kept.media.list().unwrap().is_empty(), "nobody counts it, so whoever hands over without end would fill the disk");
        kept.outbox.take_no_more_than(1 << 20);
        note(kept.clone()).await.unwrap();
        kept.outbox.take_no_more_than(0);
        assert!(note(kept.clone()).await.is_err());
        assert_eq!(kept.media.list().unwrap().len(), 1, "what another event has stays");
    }
}
