//! The outbox at work: keeps what was seen, forgets what the coordinator has, and keeps to its room.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use dms3_core::arming::ArmState;
use dms3_core::event::{Attachment, AttachmentKind, Event, Note};
use dms3_core::id::EventId;
use dms3_core::protocol::events::ATTACHMENT_LIMIT;
use dms3_core::protocol::message::OutboxV1;
use dms3_core::time::Timestamp;
use nix::sys::statvfs::statvfs;
use serde::Deserialize;
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config_text::Size;
use crate::store::media::Media;
use crate::store::outbox::Outbox;

mod delivery;

pub use delivery::{Delivery, deliver};

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
        Self { max_size: Size(2 << 30), keep_free: Size(200 << 20), max_file: Size(1 << 30) }
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

fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
    })
}

/// Free for us rather than for root.
fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = statvfs(dir).ok()?;
    // The width of these fields depends on the platform.
    #[allow(clippy::unnecessary_cast)]
    let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
    Some(free)
}
