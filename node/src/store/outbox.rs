//! The camera's outbox: what it saw stays here, on its own disk, until the coordinator has kept it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use dms3_core::arming::ArmState;
use dms3_core::event::{AttachmentKind, Event, EventKind, FORGOTTEN, Note, OwnMail, Recent};
use dms3_core::id::EventId;
use dms3_core::protocol::message::OutboxV1;
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use super::apart::{self, Kind, Ready};
use super::group::Writer;
use super::{begin, fixed, stamp, unstamp};

#[cfg(test)]
mod tests;

/// The file, in the camera's state directory.
pub const OUTBOX_FILE: &str = "outbox.db";
/// "DM3O", and what it went through.
const STEPS: &[(&str, &str)] = &[
    ("outbox", include_str!("migrations/outbox_0001.sql")),
    ("own mail", include_str!("migrations/outbox_0002.sql")),
    ("what waits is found", include_str!("migrations/outbox_0003.sql")),
];
const KIND: Kind = Kind { mark: 0x444D_334F, steps: STEPS };
/// Bytes of all that is told of events that wait, their files aside: a hundred thousand of them. More is not taken, so that whoever may call
/// hooks cannot fill the disk with words.
const MOST: u64 = 64 << 20;
/// Version of `body`.
const VERSION: i64 = 1;
/// Events of one source that a note may belong to: those of which something was heard last.
const CANDIDATES: i64 = 8;

/// What a camera saw and nobody else has yet. Clones share it.
///
/// A method that returned Ok has its change on disk; one that failed changed nothing. What the coordinator has may be forgotten in a power cut:
/// then it is told once more.
#[derive(Debug, Clone)]
pub struct Outbox {
    pool: SqlitePool,
    writer: Writer,
    mails_all: bool,
    most: u64,
}

/// Nothing more is taken before the coordinator has some of what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many events wait for the coordinator")]
pub struct TooMany;

/// The outbox, and where the damaged one that it replaces was put.
#[derive(Debug)]
pub struct Opened {
    pub outbox: Outbox,
    /// There was none.
    pub new: bool,
    pub damaged: Option<(PathBuf, anyhow::Error)>,
}

/// An attachment that the coordinator knows of and does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub event: EventId,
    pub hash: [u8; 32],
    /// Bytes in all.
    pub length: u64,
}

impl Outbox {
    /// Opens the outbox of a camera, or makes it. A damaged one is put aside, never overwritten: a camera must go on watching.
    pub async fn open(dir: &Path) -> anyhow::Result<Opened> {
        let Ready { pool, new, damaged } = apart::open(&dir.join(OUTBOX_FILE), KIND).await?;
        let outbox = Self { writer: Writer::new(pool.clone()), pool, mails_all: false, most: MOST };
        if damaged.is_some() {
            outbox.lost("damage", 1).await?;
        }
        Ok(Opened { outbox, new, damaged })
    }

    /// Every movement that is noted from now on is one that this camera mails itself: the coordinator must hear so from the first telling on.
    pub fn mailing_all(self) -> Self {
        Self { mails_all: true, ..self }
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Bytes instead of `MOST`.
    #[cfg(test)]
    pub fn take_no_more_than(&mut self, bytes: u64) {
        self.most = bytes;
    }

    /// Writes down what a hook said, as part of the event that it belongs to or of a new one named `id`. The attachment's file must be on
    /// the disk. Returns the event as it is now. Fails with [`TooMany`] where there is no room for it.
    pub async fn note(&self, source: &str, state: ArmState, id: EventId, note: Note) -> anyhow::Result<Event> {
        let (source, mails_all, most) = (source.to_owned(), self.mails_all, self.most);
        let write = self.writer.write(move |connection| {
            Box::pin(async move {
                ensure!(used(connection).await? < most, TooMany);
                if let Some(attachment) = &note.attachment {
                    let rows = sqlx::query(
                        "SELECT version, body, key, last FROM event WHERE source = $1 AND id IN
                         (SELECT event FROM attachment WHERE hash = $2)",
                    )
                    .bind(&source)
                    .bind(attachment.hash.as_slice())
                    .fetch_all(&mut *connection)
                    .await?;
                    for known in rows.into_iter().map(read_recent) {
                        let known = known?;
                        if known.has(&note) {
                            return Ok(known.event);
                        }
                    }
                }
                // A name is found however many other movements came between.
                let rows =
                    sqlx::query("SELECT version, body, key, last FROM event WHERE source = $1 AND key IS $2 ORDER BY last DESC LIMIT $3")
                        .bind(&source)
                        .bind(&note.key)
                        .bind(CANDIDATES)
                        .fetch_all(&mut *connection)
                        .await?;
                let known = rows.into_iter().map(read_recent).collect::<anyhow::Result<Vec<_>>>()?;
                let recent = match known.into_iter().find(|recent| recent.takes(&note)) {
                    Some(mut recent) => {
                        recent.take(note);
                        recent
                    }
                    None => {
                        let mut recent = Recent::begin(id, &source, state, note);
                        if mails_all && recent.event.kind == EventKind::Movement {
                            recent.mails(OwnMail::Begun);
                        }
                        recent
                    }
                };
                put(connection, &recent).await?;
                Ok(recent.event)
            })
        });
        write.await.context("cannot write to the outbox")
    }

    /// This camera mails the event itself. One that is gone needs no mark.
    pub async fn mails(&self, id: EventId, own_mail: OwnMail) -> anyhow::Result<()> {
        let write = self.writer.write(move |connection| {
            Box::pin(async move {
                let row = sqlx::query("SELECT version, body, key, last FROM event WHERE id = $1")
                    .bind(id.0.as_slice())
                    .fetch_optional(&mut *connection)
                    .await?;
                let Some(mut recent) = row.map(read_recent).transpose()? else { return Ok(()) };
                if recent.mails(own_mail) {
                    put(connection, &recent).await?;
                }
                Ok(())
            })
        });
        write.await.context("cannot write to the outbox")
    }

    /// What a camera that mails by itself may have to mail, the oldest first: events of which the coordinator acknowledged nothing (or
    /// `all`), and those whose mail it began and that went on after `since`. At most `limit`, the newest.
    pub async fn to_mail(&self, all: bool, since: Timestamp, limit: u32) -> anyhow::Result<Vec<Event>> {
        let rows = sqlx::query(
            "SELECT version, body, key, last FROM event WHERE own_mail = 0 AND (kept_rev < 0 OR $1) OR own_mail > 0 AND last >= $2
             ORDER BY id DESC LIMIT $3",
        )
        .bind(all)
        .bind(stamp(since))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().rev().map(|row| Ok(read_recent(row)?.event)).collect()
    }

    /// Ends the events that are over without anybody's word. Whether there were any.
    pub async fn end_silent(&self, now: Timestamp) -> anyhow::Result<bool> {
        let rows = sqlx::query("SELECT version, body, key, last FROM event WHERE open = 1").fetch_all(&self.pool).await?;
        let mut ended = rows.into_iter().map(read_recent).collect::<anyhow::Result<Vec<_>>>()?;
        ended.retain_mut(|recent| recent.ends_by_silence(now));
        if ended.is_empty() {
            return Ok(false);
        }
        let mut tx = begin(&self.pool).await?;
        for recent in &ended {
            put(&mut tx, recent).await?;
        }
        tx.commit().await.context("cannot write to the outbox")?;
        Ok(true)
    }

    pub async fn event(&self, id: EventId) -> anyhow::Result<Option<Event>> {
        let row = sqlx::query("SELECT version, body, key, last FROM event WHERE id = $1")
            .bind(id.0.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(read_recent(row)?.event)).transpose()
    }

    /// At most `limit` events of which the coordinator lacks the newest telling, the newest first: what moves now matters more than what
    /// moved an hour ago.
    pub async fn untold(&self, limit: u32) -> anyhow::Result<Vec<Event>> {
        let rows =
            sqlx::query("SELECT version, body, key, last FROM event WHERE refused IS NULL AND kept_rev < rev ORDER BY id DESC LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter().map(|row| Ok(read_recent(row)?.event)).collect()
    }

    /// At most `limit` attachments that the coordinator knows of and lacks: pictures with the newest first, clips with the oldest first.
    pub async fn missing(&self, kind: AttachmentKind, limit: u32) -> anyhow::Result<Vec<Missing>> {
        let sql = match kind {
            AttachmentKind::Picture => {
                "SELECT event, hash, attachment.length AS length FROM attachment JOIN event ON event.id = attachment.event WHERE kept = 0
                 AND dropped = 0 AND refused IS NULL AND kept_rev >= rev AND kind = $1 ORDER BY attachment.event DESC, nth LIMIT $2"
            }
            AttachmentKind::Clip => {
                "SELECT event, hash, attachment.length AS length FROM attachment JOIN event ON event.id = attachment.event WHERE kept = 0
                 AND dropped = 0 AND refused IS NULL AND kept_rev >= rev AND kind = $1 ORDER BY attachment.event, nth LIMIT $2"
            }
        };
        let rows = sqlx::query(sql).bind(i64::from(kind.to_wire())).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                let length: i64 = row.try_get("length")?;
                Ok(Missing {
                    event: EventId(fixed(row.try_get("event")?)?),
                    hash: fixed(row.try_get("hash")?)?,
                    length: u64::try_from(length).unwrap_or(0),
                })
            })
            .collect()
    }

    /// The coordinator has this telling of the event on its disk, and all of its attachments but those that it lacks.
    pub async fn kept(&self, id: EventId, rev: u32, lacks: &[[u8; 32]]) -> anyhow::Result<()> {
        let lacks = lacks.to_vec();
        let write = self.writer.write_lazily(move |connection| Box::pin(kept(connection, id, rev, lacks)));
        write.await.context("cannot write to the outbox")
    }

    /// The coordinator has the attachment on its disk, whole.
    pub async fn attachment_kept(&self, id: EventId, hash: [u8; 32]) -> anyhow::Result<()> {
        let write = self.writer.write_lazily(move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE attachment SET kept = 1 WHERE event = $1 AND hash = $2")
                    .bind(id.0.as_slice())
                    .bind(hash.as_slice())
                    .execute(connection)
                    .await?;
                Ok(())
            })
        });
        write.await.context("cannot write to the outbox")
    }

    /// A content is not what it was when it came: nobody will ever take it. It is counted as lost; the events stay.
    pub async fn spoiled(&self, hash: [u8; 32]) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        let dropped = sqlx::query("UPDATE attachment SET dropped = 1 WHERE hash = $1 AND kept = 0 AND dropped = 0")
            .bind(hash.as_slice())
            .execute(&mut *tx)
            .await?;
        count(&mut tx, "spoiled", u32::try_from(dropped.rows_affected()).unwrap_or(u32::MAX)).await?;
        tx.commit().await.context("cannot write to the outbox")
    }

    /// The coordinator will never take it. It stays here until it is too old.
    pub async fn refused(&self, id: EventId, why: &str) -> anyhow::Result<()> {
        sqlx::query("UPDATE event SET refused = $2 WHERE id = $1").bind(id.0.as_slice()).bind(why).execute(&self.pool).await?;
        Ok(())
    }

    /// Forgets what the coordinator has whole and what nothing more will be heard of, and what is refused and older than `refused_before`.
    /// Returns the contents that nobody needs any more.
    pub async fn forget(&self, now: Timestamp, refused_before: Timestamp) -> anyhow::Result<Vec<[u8; 32]>> {
        let mut tx = begin(&self.pool).await?;
        let gone =
            "SELECT id FROM event WHERE open = 0 AND abs(last - $1) > $2 AND (refused IS NOT NULL AND last < $3 OR refused IS NULL AND
                    kept_rev >= rev AND NOT EXISTS (SELECT 1 FROM attachment WHERE event = id AND kept = 0 AND dropped = 0))";
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(gone)
            .bind(stamp(now))
            .bind(i64::try_from(FORGOTTEN.as_millis()).unwrap_or(i64::MAX))
            .bind(stamp(refused_before))
            .fetch_all(&mut *tx)
            .await?;
        let unneeded = remove(&mut tx, ids).await?;
        tx.commit().await.context("cannot write to the outbox")?;
        Ok(unneeded)
    }

    /// Gives up events that wait and of which nothing was heard since then. Returns how many, which are counted as lost, and the contents
    /// that nobody needs any more.
    pub async fn give_up_older(&self, than: Timestamp) -> anyhow::Result<(usize, Vec<[u8; 32]>)> {
        let mut tx = begin(&self.pool).await?;
        let old = "SELECT id FROM event WHERE open = 0 AND last < $1 AND refused IS NULL";
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(old).bind(stamp(than)).fetch_all(&mut *tx).await?;
        let number = ids.len();
        if number == 0 {
            return Ok((0, Vec::new()));
        }
        let unneeded = remove(&mut tx, ids).await?;
        count(&mut tx, "old", u32::try_from(number).unwrap_or(u32::MAX)).await?;
        tx.commit().await.context("cannot write to the outbox")?;
        Ok((number, unneeded))
    }

    /// Gives up attachments until `bytes` are free: what the coordinator has already first, then clips, then pictures, of each the oldest
    /// first. What is told of an event stays. Returns the contents that nobody needs any more.
    pub async fn give_up(&self, bytes: u64) -> anyhow::Result<Vec<[u8; 32]>> {
        let mut tx = begin(&self.pool).await?;
        let rows = sqlx::query(
            "SELECT event, nth, kind, hash, length, kept FROM attachment WHERE dropped = 0 ORDER BY kept DESC, kind DESC, event, nth",
        )
        .fetch_all(&mut *tx)
        .await?;
        let (mut free, mut contents) = (0_u64, Vec::new());
        for row in rows {
            if free >= bytes {
                break;
            }
            let (event, nth, kind): (Vec<u8>, i64, i64) = (row.try_get("event")?, row.try_get("nth")?, row.try_get("kind")?);
            let (hash, length, kept): (Vec<u8>, i64, i64) = (row.try_get("hash")?, row.try_get("length")?, row.try_get("kept")?);
            sqlx::query("UPDATE attachment SET dropped = 1 WHERE event = $1 AND nth = $2").bind(&event).bind(nth).execute(&mut *tx).await?;
            if kept == 0 {
                let what = if kind == i64::from(AttachmentKind::Clip.to_wire()) { "clip" } else { "picture" };
                count(&mut tx, what, 1).await?;
            }
            free = free.saturating_add(u64::try_from(length).unwrap_or(0));
            contents.push(hash);
        }
        let unneeded = unneeded(&mut tx, contents).await?;
        tx.commit().await.context("cannot write to the outbox")?;
        Ok(unneeded)
    }

    /// Whether any event needs this content.
    pub async fn needs(&self, hash: [u8; 32]) -> anyhow::Result<bool> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM attachment WHERE hash = $1 AND dropped = 0")
            .bind(hash.as_slice())
            .fetch_one(&self.pool)
            .await?;
        Ok(count > 0)
    }

    /// What waits, and what was lost so far.
    pub async fn counts(&self) -> anyhow::Result<OutboxV1> {
        let row = sqlx::query(
            "SELECT count(*) AS waiting, min(id) AS oldest FROM event WHERE refused IS NULL AND (kept_rev < rev OR EXISTS
             (SELECT 1 FROM attachment WHERE event = id AND kept = 0 AND dropped = 0))",
        )
        .fetch_one(&self.pool)
        .await?;
        let (waiting, oldest): (i64, Option<Vec<u8>>) = (row.try_get("waiting")?, row.try_get("oldest")?);
        let bytes: Option<i64> =
            sqlx::query_scalar("SELECT sum(length) FROM (SELECT DISTINCT hash, length FROM attachment WHERE dropped = 0)")
                .fetch_one(&self.pool)
                .await?;
        let lost: Option<i64> = sqlx::query_scalar("SELECT sum(count) FROM loss").fetch_one(&self.pool).await?;
        let refused: i64 = sqlx::query_scalar("SELECT count(*) FROM event WHERE refused IS NOT NULL").fetch_one(&self.pool).await?;
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok(OutboxV1 {
            waiting: number(waiting),
            bytes: number(bytes.unwrap_or(0)),
            oldest: oldest.map(fixed).transpose()?.map(|id| EventId(id).made_at()),
            lost: number(lost.unwrap_or(0)),
            refused: number(refused),
        })
    }

    /// Counts what was lost, so that it can be told.
    pub async fn lost(&self, what: &str, times: u32) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        count(&mut tx, what, times).await?;
        tx.commit().await.context("cannot write to the outbox")
    }
}

/// Removes events. Returns the contents that nobody needs any more.
async fn remove(connection: &mut SqliteConnection, ids: Vec<Vec<u8>>) -> anyhow::Result<Vec<[u8; 32]>> {
    let mut contents = Vec::new();
    for id in ids {
        let hashes: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT hash FROM attachment WHERE event = $1").bind(&id).fetch_all(&mut *connection).await?;
        contents.extend(hashes);
        sqlx::query("DELETE FROM event WHERE id = $1").bind(&id).execute(&mut *connection).await?;
    }
    unneeded(connection, contents).await
}

/// Bytes of this database that hold something.
async fn used(connection: &mut SqliteConnection) -> anyhow::Result<u64> {
    let bytes: i64 = sqlx::query_scalar(
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}

async fn put(connection: &mut SqliteConnection, recent: &Recent) -> anyhow::Result<()> {
    let event = &recent.event;
    sqlx::query(
        "INSERT INTO event (id, source, key, last, open, version, body, rev, kept_rev, refused, own_mail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, -1, NULL, $9)
         ON CONFLICT (id) DO UPDATE SET last = excluded.last, open = excluded.open, version = excluded.version, body = excluded.body,
         rev = excluded.rev, own_mail = excluded.own_mail",
    )
    .bind(event.id.0.as_slice())
    .bind(&event.source)
    .bind(&recent.key)
    .bind(stamp(recent.last))
    .bind(i64::from(event.ended.is_none()))
    .bind(VERSION)
    .bind(serde_json::to_string(event)?)
    .bind(i64::from(event.rev))
    .bind(i64::from(event.own_mail.to_wire()))
    .execute(&mut *connection)
    .await?;
    for (nth, attachment) in event.attachments.iter().enumerate() {
        sqlx::query(
            "INSERT INTO attachment (event, nth, kind, hash, length, kept, dropped) VALUES ($1, $2, $3, $4, $5, 0, 0) ON CONFLICT (event, nth) DO NOTHING",
        )
        .bind(event.id.0.as_slice())
        .bind(i64::try_from(nth)?)
        .bind(i64::from(attachment.kind.to_wire()))
        .bind(attachment.hash.as_slice())
        .bind(i64::try_from(attachment.length)?)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn kept(connection: &mut SqliteConnection, id: EventId, rev: u32, lacks: Vec<[u8; 32]>) -> anyhow::Result<()> {
    let told: Option<i64> =
        sqlx::query_scalar("SELECT rev FROM event WHERE id = $1").bind(id.0.as_slice()).fetch_optional(&mut *connection).await?;
    // What it says of a telling that was never ours means nothing.
    if told.is_none_or(|told| i64::from(rev) > told) {
        return Ok(());
    }
    sqlx::query("UPDATE event SET kept_rev = max(kept_rev, $2) WHERE id = $1")
        .bind(id.0.as_slice())
        .bind(i64::from(rev))
        .execute(&mut *connection)
        .await?;
    if told == Some(i64::from(rev)) {
        sqlx::query("UPDATE attachment SET kept = 1 WHERE event = $1").bind(id.0.as_slice()).execute(&mut *connection).await?;
        for hash in lacks {
            sqlx::query("UPDATE attachment SET kept = 0 WHERE event = $1 AND hash = $2")
                .bind(id.0.as_slice())
                .bind(hash.as_slice())
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

fn read_recent(row: SqliteRow) -> anyhow::Result<Recent> {
    let version: i64 = row.try_get("version")?;
    ensure!(version == VERSION, "the outbox holds an event of version {version}: install the newer version of dms3-node again");
    let body: String = row.try_get("body")?;
    let event = serde_json::from_str(&body).context("the outbox holds an event that cannot be read")?;
    Ok(Recent { event, key: row.try_get("key")?, last: unstamp(row.try_get("last")?) })
}

/// Those of `contents` that no event needs.
async fn unneeded(connection: &mut SqliteConnection, contents: Vec<Vec<u8>>) -> anyhow::Result<Vec<[u8; 32]>> {
    let mut unneeded = Vec::new();
    for hash in contents {
        let users: i64 = sqlx::query_scalar("SELECT count(*) FROM attachment WHERE hash = $1 AND dropped = 0")
            .bind(&hash)
            .fetch_one(&mut *connection)
            .await?;
        if users == 0 {
            unneeded.push(fixed(hash)?);
        }
    }
    Ok(unneeded)
}

async fn count(connection: &mut SqliteConnection, what: &str, times: u32) -> anyhow::Result<()> {
    sqlx::query("INSERT INTO loss (what, count) VALUES ($1, $2) ON CONFLICT (what) DO UPDATE SET count = loss.count + excluded.count")
        .bind(what)
        .bind(i64::from(times))
        .execute(connection)
        .await?;
    Ok(())
}
