//! What cameras saw, as the coordinator keeps it: tellings of events, their attachments, who has seen them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dms3_core::event::{AttachmentKind, Event, Thumbnail};
use dms3_core::id::{EventId, NodeId};
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqlitePool;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};
use tokio::sync::RwLock;

use self::read::thumbnail_column;
use self::telling::{Telling, keep};
use super::apart::{self, Kind, Ready};
use super::group::Writer;
use super::media::Media;
use super::{begin, fixed, stamp};

mod read;
mod retention;
mod telling;
#[cfg(test)]
mod tests;

pub use read::Announced;
pub use retention::{Policy, Removals, Removed, Why};

/// The file, in the coordinator's state directory.
pub const EVENTS_FILE: &str = "events.db";
/// Pictures and clips, beside it.
pub const MEDIA_DIR: &str = "media";
/// "DM3E", and what it went through.
const STEPS: &[(&str, &str)] = &[
    ("events", include_str!("migrations/events_0001.sql")),
    ("own mail", include_str!("migrations/events_0002.sql")),
    ("arrivals", include_str!("migrations/events_0003.sql")),
];
const KIND: Kind = Kind { mark: 0x444D_3345, steps: STEPS };
/// Longer than cameras hold back what they could not tell.
const ARRIVALS_FOR: Duration = Duration::from_secs(400 * 86_400);
/// Contents that are looked after at once, so that no event waits long for it.
const AT_ONCE: usize = 50;

/// What cameras saw. Clones share it.
///
/// A method that returned Ok has its change on disk (WAL, synchronous FULL); one that failed changed nothing, one that was dropped may have.
#[derive(Debug, Clone)]
pub struct Events {
    pool: SqlitePool,
    writer: Writer,
    /// Taken for writing by whoever removes contents, for reading by whoever counts on one: nobody counts on what is about to go.
    contents: Arc<RwLock<()>>,
}

/// The events, and what became of those before.
#[derive(Debug)]
pub struct Opened {
    pub events: Events,
    /// In words for people: the events of this house were damaged or lost, and where what is left of them lies.
    pub trouble: Option<String>,
}

/// What came of a telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Nothing was known of this event before.
    pub fresh: bool,
    /// Contents that are not whole on this disk, in the order in which they were made.
    pub missing: Vec<[u8; 32]>,
}

/// The event of that name is another camera's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event {0} belongs to another camera")]
pub struct ForeignEvent(pub EventId);

impl Events {
    /// Opens what the coordinator keeps in `dir`, or makes it. What is damaged is put aside with its pictures and clips and never overwritten:
    /// the house goes on, and takes what its cameras see from now on.
    pub async fn open(dir: &Path) -> anyhow::Result<Opened> {
        let path = dir.join(EVENTS_FILE);
        let Ready { pool, new, damaged } = apart::open(&path, KIND).await?;
        let events = Self { writer: Writer::new(pool.clone()), pool, contents: Arc::default() };
        // Nobody knows any more what they show; left here, they would go as what no event needs.
        let media = if new { put_aside(&dir.join(MEDIA_DIR))? } else { None };
        let their = media.map(|aside| format!(", their pictures and clips in {}", aside.display())).unwrap_or_default();
        let trouble = match damaged {
            Some((aside, error)) => Some(format!(
                "The events of this house cannot be read ({error:#}): they lie in {}{their}. New ones are kept.",
                aside.display()
            )),
            None if !their.is_empty() => Some(format!("{} was missing{their}. New events are kept.", path.display())),
            None => None,
        };
        Ok(Opened { events, trouble })
    }

    /// Writes everything back into the one file and lets it go.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn begin(&self) -> anyhow::Result<Transaction<'static, Sqlite>> {
        begin(&self.pool).await
    }

    /// Keeps what a camera tells of an event. An older or equal telling changes nothing; an attachment that was told once stays.
    ///
    /// `camera` is the node's name now, `began` our own estimate of the start: the first one counts, and none is later than `now`. A content
    /// that `media` has is not missing, and one that it lost is missing again. An event that was removed is not brought back: nothing of it
    /// is missing. Fails with [`ForeignEvent`] if another node told of it first.
    pub async fn keep_event(
        &self,
        media: &Media,
        node: NodeId,
        camera: &str,
        event: &Event,
        began: Timestamp,
        now: Timestamp,
    ) -> anyhow::Result<Kept> {
        let contents = self.contents.clone().read_owned().await;
        let hashes: Vec<_> = event.attachments.iter().map(|attachment| attachment.hash).collect();
        let telling = Telling { node, camera: camera.to_owned(), event: event.clone(), began: began.min(now), now };
        let lengths = whole(media, &hashes).await?;
        let write = self.writer.write(move |connection| {
            Box::pin(async move {
                let kept = keep(connection, &telling, &lengths).await;
                // What was counted on is written: whoever removes contents reads it over this connection, after us.
                drop(contents);
                kept
            })
        });
        write.await
    }

    /// The content of an attachment came: from now on it is kept, if `media` has it as it was announced. False: it has not, or no such event
    /// has such an attachment (any more); nothing may be acknowledged, and the content is for [`Events::discard`].
    pub async fn keep_attachment(&self, media: &Media, event: EventId, hash: [u8; 32], now: Timestamp) -> anyhow::Result<bool> {
        let contents = self.contents.clone().read_owned().await;
        let Some(length) = whole(media, &[hash]).await?.pop().flatten() else { return Ok(false) };
        let write = self.writer.write(move |connection| {
            Box::pin(async move {
                let before = own(connection, event).await?.1;
                let kept =
                    sqlx::query("UPDATE attachment SET kept_at = coalesce(kept_at, $3) WHERE event = $1 AND hash = $2 AND length = $4")
                        .bind(event.0.as_slice())
                        .bind(hash.as_slice())
                        .bind(stamp(now))
                        .bind(i64::try_from(length)?)
                        .execute(&mut *connection)
                        .await?;
                if kept.rows_affected() > 0 {
                    measure(connection, event, before).await?;
                }
                drop(contents);
                Ok(kept.rows_affected() > 0)
            })
        });
        write.await.context("cannot keep the attachment")
    }

    /// Somebody came home, which disarmed the house: what began from `first` to `last` is taken for the arrival, also if it comes later.
    pub async fn note_arrival(&self, first: Timestamp, last: Timestamp) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO arrival (first, last) VALUES ($1, $2) ON CONFLICT (last) DO NOTHING")
            .bind(stamp(first))
            .bind(stamp(last))
            .execute(&mut *tx)
            .await
            .context("cannot write down that somebody came home")?;
        sqlx::query("DELETE FROM arrival WHERE last < $1").bind(stamp(last - ARRIVALS_FOR)).execute(&mut *tx).await?;
        tx.commit().await.context("cannot write down that somebody came home")
    }

    /// Somebody has seen the event. The first time counts. One that was removed meanwhile is no error.
    pub async fn mark_seen(&self, event: EventId, who: &str, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        let known = sqlx::query("UPDATE event SET seen_by_any = 1 WHERE id = $1").bind(event.0.as_slice()).execute(&mut *tx).await?;
        if known.rows_affected() == 0 {
            return Ok(());
        }
        sqlx::query("INSERT INTO seen (event, who, at) VALUES ($1, $2, $3) ON CONFLICT (event, who) DO NOTHING")
            .bind(event.0.as_slice())
            .bind(who)
            .bind(stamp(now))
            .execute(&mut *tx)
            .await?;
        tx.commit().await.context("cannot write down who has seen the event")
    }

    /// Somebody has seen all that there is.
    pub async fn mark_all_seen(&self, who: &str, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO seen (event, who, at) SELECT id, $1, $2 FROM event WHERE TRUE ON CONFLICT (event, who) DO NOTHING")
            .bind(who)
            .bind(stamp(now))
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE event SET seen_by_any = 1 WHERE seen_by_any = 0").execute(&mut *tx).await?;
        tx.commit().await.context("cannot write down who has seen the events")
    }

    /// At most `limit` pictures that are here and of which nobody tried to make a thumbnail yet.
    pub async fn without_thumbnail(&self, limit: u32) -> anyhow::Result<Vec<[u8; 32]>> {
        let hashes: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT DISTINCT hash FROM attachment WHERE thumbnail = 0 AND kept_at IS NOT NULL LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await
                .context("cannot read which pictures have no thumbnail")?;
        hashes.into_iter().map(fixed).collect()
    }

    /// A picture has its thumbnail, or (`made` is false) will never have one.
    pub async fn thumbnail_tried(&self, hash: [u8; 32], made: bool) -> anyhow::Result<()> {
        sqlx::query("UPDATE attachment SET thumbnail = $2 WHERE hash = $1 AND kind = $3")
            .bind(hash.as_slice())
            .bind(thumbnail_column(if made { Thumbnail::Made } else { Thumbnail::Impossible }))
            .bind(i64::from(AttachmentKind::Picture.to_wire()))
            .execute(&self.pool)
            .await
            .context("cannot write down that a picture has a thumbnail")?;
        Ok(())
    }

    /// Removes those of the contents that no event needs, and returns how many that were. Nothing is counted on meanwhile that is about to go.
    ///
    /// For what [`Events::delete_event`] and [`Events::retention`] return and, at the start, for all that [`Media::list`] finds: whatever a
    /// crash left behind goes with it.
    pub async fn discard(&self, media: &Media, hashes: &[[u8; 32]]) -> anyhow::Result<usize> {
        let mut removed = 0;
        for some in hashes.chunks(AT_ONCE) {
            let _contents = self.contents.write().await;
            let mut unneeded = Vec::new();
            for hash in some {
                let users: i64 = sqlx::query_scalar("SELECT count(*) FROM attachment WHERE hash = $1 AND kept_at IS NOT NULL")
                    .bind(hash.as_slice())
                    .fetch_one(&self.pool)
                    .await
                    .context("cannot read which contents are needed")?;
                if users == 0 {
                    unneeded.push(*hash);
                }
            }
            removed += unneeded.len();
            let media = media.clone();
            tokio::task::spawn_blocking(move || unneeded.iter().try_for_each(|hash| media.remove(hash))).await??;
        }
        Ok(removed)
    }
}

/// Gives another name to a directory that is there and not empty.
fn put_aside(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let holds_any = Media::holds_any(dir)?;
    if !holds_any {
        return Ok(None);
    }
    let free = (1..10_000).map(|nth| dir.with_extension(format!("damaged-{nth}"))).find(|aside| !aside.exists());
    let aside = free.with_context(|| format!("too many lie beside {}", dir.display()))?;
    std::fs::rename(dir, &aside).with_context(|| format!("cannot put {} aside", dir.display()))?;
    Ok(Some(aside))
}

/// How long the contents are that are there.
async fn whole(media: &Media, hashes: &[[u8; 32]]) -> anyhow::Result<Vec<Option<u64>>> {
    let (media, hashes) = (media.clone(), hashes.to_vec());
    Ok(tokio::task::spawn_blocking(move || hashes.iter().map(|hash| media.length(hash)).collect()).await?)
}

/// Contents that this event alone has, and how many bytes they are.
async fn own(connection: &mut SqliteConnection, event: EventId) -> anyhow::Result<(Vec<[u8; 32]>, u64)> {
    let rows = sqlx::query(
        "SELECT DISTINCT hash, length FROM attachment WHERE event = $1 AND kept_at IS NOT NULL AND NOT EXISTS
         (SELECT 1 FROM attachment AS other WHERE other.hash = attachment.hash AND other.event <> $1 AND other.kept_at IS NOT NULL)",
    )
    .bind(event.0.as_slice())
    .fetch_all(connection)
    .await
    .context("cannot read which contents an event has")?;
    let (mut hashes, mut bytes) = (Vec::with_capacity(rows.len()), 0_u64);
    for row in rows {
        hashes.push(fixed(row.try_get("hash")?)?);
        bytes = bytes.saturating_add(u64::try_from(row.try_get::<i64, _>("length")?)?);
    }
    Ok((hashes, bytes))
}

/// Writes down what the event takes on this disk, and all events do. `before`: bytes that it alone had.
async fn measure(connection: &mut SqliteConnection, event: EventId, before: u64) -> anyhow::Result<()> {
    sqlx::query(
        "UPDATE event SET size = (SELECT CAST(coalesce(sum(length), 0) AS BIGINT) FROM
         (SELECT DISTINCT hash, length FROM attachment WHERE event = $1 AND kept_at IS NOT NULL) AS content) WHERE id = $1",
    )
    .bind(event.0.as_slice())
    .execute(&mut *connection)
    .await?;
    let after = own(connection, event).await?.1;
    weigh(connection, before, after).await
}

/// What was `before` bytes of the whole is now `after`.
async fn weigh(connection: &mut SqliteConnection, before: u64, after: u64) -> anyhow::Result<()> {
    if before != after {
        sqlx::query("UPDATE media SET bytes = bytes + $1")
            .bind(i64::try_from(after)? - i64::try_from(before)?)
            .execute(connection)
            .await
            .context("cannot write down how much the events take")?;
    }
    Ok(())
}
