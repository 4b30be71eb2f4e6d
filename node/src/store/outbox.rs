//! The camera's outbox: what it saw stays here, on its own disk, until the coordinator has kept it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use dms3_core::arming::ArmState;
use dms3_core::event::{AttachmentKind, Event, FORGOTTEN, Note, Recent};
use dms3_core::id::EventId;
use dms3_core::protocol::message::OutboxV1;
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use super::apart::{self, Kind, Ready};
use super::group::Writer;
use super::{begin, fixed, stamp, unstamp};

/// The file, in the camera's state directory.
pub const OUTBOX_FILE: &str = "outbox.db";
/// "DM3O", and what it went through.
const KIND: Kind = Kind { mark: 0x444D_334F, steps: &[("outbox", include_str!("migrations/outbox_0001.sql"))] };
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
}

/// The outbox, and where the damaged one that it replaces was put.
#[derive(Debug)]
pub struct Opened {
    pub outbox: Outbox,
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
        let Ready { pool, damaged, .. } = apart::open(&dir.join(OUTBOX_FILE), KIND).await?;
        let outbox = Self { writer: Writer::new(pool.clone()), pool };
        if damaged.is_some() {
            outbox.lost("damage", 1).await?;
        }
        Ok(Opened { outbox, damaged })
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Writes down what a hook said, as part of the event that it belongs to or of a new one named `id`. The attachment's file must be on
    /// the disk. Returns the event as it is now.
    pub async fn note(&self, source: &str, state: ArmState, id: EventId, note: Note) -> anyhow::Result<Event> {
        let source = source.to_owned();
        let write = self.writer.write(move |connection| {
            Box::pin(async move {
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
                    None => Recent::begin(id, &source, state, note),
                };
                put(connection, &recent).await?;
                Ok(recent.event)
            })
        });
        write.await.context("cannot write to the outbox")
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
                 AND dropped = 0 AND refused IS NULL AND kept_rev >= rev AND kind = $1 ORDER BY event.id DESC, nth LIMIT $2"
            }
            AttachmentKind::Clip => {
                "SELECT event, hash, attachment.length AS length FROM attachment JOIN event ON event.id = attachment.event WHERE kept = 0
                 AND dropped = 0 AND refused IS NULL AND kept_rev >= rev AND kind = $1 ORDER BY event.id, nth LIMIT $2"
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
        let mut contents = Vec::new();
        for id in ids {
            let hashes: Vec<Vec<u8>> =
                sqlx::query_scalar("SELECT hash FROM attachment WHERE event = $1").bind(&id).fetch_all(&mut *tx).await?;
            contents.extend(hashes);
            sqlx::query("DELETE FROM event WHERE id = $1").bind(&id).execute(&mut *tx).await?;
        }
        let unneeded = unneeded(&mut tx, contents).await?;
        tx.commit().await.context("cannot write to the outbox")?;
        Ok(unneeded)
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

async fn put(connection: &mut SqliteConnection, recent: &Recent) -> anyhow::Result<()> {
    let event = &recent.event;
    sqlx::query(
        "INSERT INTO event (id, source, key, last, open, version, body, rev, kept_rev, refused) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, -1, NULL)
         ON CONFLICT (id) DO UPDATE SET last = excluded.last, open = excluded.open, version = excluded.version, body = excluded.body,
         rev = excluded.rev",
    )
    .bind(event.id.0.as_slice())
    .bind(&event.source)
    .bind(&recent.key)
    .bind(stamp(recent.last))
    .bind(i64::from(event.ended.is_none()))
    .bind(VERSION)
    .bind(serde_json::to_string(event)?)
    .bind(i64::from(event.rev))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dms3_core::event::{Attachment, GAP, Said};

    use super::*;

    const T: Timestamp = Timestamp(1_795_000_000_000);

    fn note(said: Said, key: &str, after: u64) -> Note {
        Note { said, key: Some(key.to_owned()), at: T + Duration::from_secs(after), changed: None, attachment: None }
    }

    fn file(said: Said, key: &str, after: u64, number: u8, length: u64) -> Note {
        let kind = if said == Said::Movie { AttachmentKind::Clip } else { AttachmentKind::Picture };
        let attachment = Attachment { kind, name: format!("{number}"), taken: T, length, hash: [number; 32] };
        Note { attachment: Some(attachment), ..note(said, key, after) }
    }

    fn id(number: u8) -> EventId {
        EventId::new(T + Duration::from_secs(number.into()), [number; 10])
    }

    async fn outbox() -> (tempfile::TempDir, Outbox) {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path()).await.unwrap().outbox;
        (dir, outbox)
    }

    #[tokio::test]
    async fn an_event_waits_until_the_coordinator_has_all_of_it_and_is_forgotten_then() {
        let (dir, outbox) = outbox().await;
        outbox.note("porch", ArmState::Away, id(1), note(Said::EventStart, "7", 0)).await.unwrap();
        let event = outbox.note("porch", ArmState::Night, id(2), file(Said::Picture, "7", 1, 5, 100)).await.unwrap();
        assert_eq!((event.id, event.rev, event.state), (id(1), 2, ArmState::Away), "the second note is of the same event");
        assert_eq!(outbox.untold(9).await.unwrap(), std::slice::from_ref(&event));
        assert!(outbox.missing(AttachmentKind::Picture, 9).await.unwrap().is_empty(), "the coordinator does not know of it yet");

        // A power cut.
        outbox.close().await;
        let outbox = Outbox::open(dir.path()).await.unwrap().outbox;
        outbox.kept(id(1), 2, &[[5; 32]]).await.unwrap();
        assert!(outbox.untold(9).await.unwrap().is_empty());
        let missing = outbox.missing(AttachmentKind::Picture, 9).await.unwrap();
        assert_eq!(missing, [Missing { event: id(1), hash: [5; 32], length: 100 }]);
        assert_eq!(
            outbox.counts().await.unwrap(),
            OutboxV1 { waiting: 1, bytes: 100, oldest: Some(T + Duration::from_secs(1)), ..OutboxV1::default() }
        );

        outbox.attachment_kept(id(1), [5; 32]).await.unwrap();
        assert_eq!(outbox.counts().await.unwrap().waiting, 0);
        let later = T + FORGOTTEN + Duration::from_secs(60);
        assert!(outbox.forget(later, Timestamp(0)).await.unwrap().is_empty(), "it is not over");
        assert!(outbox.end_silent(later).await.unwrap());
        assert_eq!(outbox.untold(9).await.unwrap().len(), 1, "its end is news");
        outbox.kept(id(1), 3, &[]).await.unwrap();
        assert_eq!(outbox.forget(later, Timestamp(0)).await.unwrap(), [[5; 32]]);
        assert_eq!(outbox.counts().await.unwrap(), OutboxV1::default());
        assert!(!outbox.needs([5; 32]).await.unwrap());
    }

    #[tokio::test]
    async fn what_the_coordinator_says_of_an_older_telling_settles_no_newer_one() {
        let (_dir, outbox) = outbox().await;
        outbox.note("porch", ArmState::Away, id(1), note(Said::EventStart, "7", 0)).await.unwrap();
        outbox.note("porch", ArmState::Away, id(1), file(Said::Picture, "7", 1, 5, 100)).await.unwrap();
        outbox.kept(id(1), 1, &[]).await.unwrap();
        assert_eq!(outbox.untold(9).await.unwrap().len(), 1);
        outbox.kept(id(1), 9, &[]).await.unwrap();
        assert_eq!(outbox.untold(9).await.unwrap().len(), 1, "nor one that was never told");
        outbox.kept(id(1), 2, &[[5; 32]]).await.unwrap();
        assert_eq!(outbox.missing(AttachmentKind::Picture, 9).await.unwrap().len(), 1);
        // It found the content after all.
        outbox.kept(id(1), 2, &[]).await.unwrap();
        assert!(outbox.missing(AttachmentKind::Picture, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_moves_now_goes_before_what_moved_before() {
        let (_dir, outbox) = outbox().await;
        for number in 1..=3 {
            outbox.note("porch", ArmState::Away, id(number), file(Said::Picture, &number.to_string(), 0, number, 10)).await.unwrap();
            outbox.note("porch", ArmState::Away, id(number), file(Said::Movie, &number.to_string(), 0, 10 + number, 10)).await.unwrap();
        }
        let untold: Vec<_> = outbox.untold(2).await.unwrap().iter().map(|event| event.id).collect();
        assert_eq!(untold, [id(3), id(2)]);
        for number in 1..=3 {
            outbox.kept(id(number), 2, &[[number; 32], [10 + number; 32]]).await.unwrap();
        }
        let hashes = async |kind| outbox.missing(kind, 9).await.unwrap().iter().map(|missing| missing.hash[0]).collect::<Vec<_>>();
        assert_eq!(hashes(AttachmentKind::Picture).await, [3, 2, 1]);
        assert_eq!(hashes(AttachmentKind::Clip).await, [11, 12, 13]);
    }

    #[tokio::test]
    async fn where_there_is_no_room_old_clips_are_given_up_before_pictures_and_it_is_counted() {
        let (_dir, outbox) = outbox().await;
        for number in 1..=3 {
            outbox.note("porch", ArmState::Away, id(number), file(Said::Picture, &number.to_string(), 0, number, 10)).await.unwrap();
            outbox.note("porch", ArmState::Away, id(number), file(Said::Movie, &number.to_string(), 0, 10 + number, 100)).await.unwrap();
        }
        // What the coordinator has costs nothing.
        outbox.attachment_kept(id(3), [3; 32]).await.unwrap();
        assert_eq!(outbox.give_up(5).await.unwrap(), [[3; 32]]);
        assert_eq!(outbox.counts().await.unwrap().lost, 0);
        assert_eq!(outbox.give_up(150).await.unwrap(), [[11; 32], [12; 32]]);
        assert_eq!(outbox.give_up(105).await.unwrap(), [[13; 32], [1; 32]]);
        let counts = outbox.counts().await.unwrap();
        assert_eq!((counts.lost, counts.bytes, counts.waiting), (4, 10, 3), "the events are told all the same");
    }

    #[tokio::test]
    async fn a_content_that_two_events_share_stays_while_one_needs_it() {
        let (_dir, outbox) = outbox().await;
        for number in 1..=2 {
            outbox.note("porch", ArmState::Away, id(number), file(Said::Snapshot, &number.to_string(), 0, 9, 10)).await.unwrap();
        }
        outbox.kept(id(1), 1, &[]).await.unwrap();
        let later = T + 2 * FORGOTTEN;
        assert!(outbox.forget(later, Timestamp(0)).await.unwrap().is_empty());
        outbox.kept(id(2), 1, &[]).await.unwrap();
        assert_eq!(outbox.forget(later, Timestamp(0)).await.unwrap(), [[9; 32]]);
    }

    #[tokio::test]
    async fn what_the_coordinator_refuses_stays_for_a_while_and_does_not_hold_up_others() {
        let (_dir, outbox) = outbox().await;
        outbox.note("porch", ArmState::Away, id(1), file(Said::Snapshot, "1", 0, 1, 10)).await.unwrap();
        outbox.refused(id(1), "no").await.unwrap();
        assert!(outbox.untold(9).await.unwrap().is_empty());
        assert_eq!(outbox.counts().await.unwrap().refused, 1);
        let later = T + 2 * FORGOTTEN;
        assert!(outbox.forget(later, T).await.unwrap().is_empty());
        assert_eq!(outbox.forget(later, later).await.unwrap(), [[1; 32]]);
    }

    #[tokio::test]
    async fn an_outbox_that_is_damaged_is_put_aside_and_told_and_a_new_one_takes_its_place() {
        let (dir, outbox) = outbox().await;
        outbox.note("porch", ArmState::Away, id(1), note(Said::EventStart, "7", 0)).await.unwrap();
        outbox.close().await;
        let path = dir.path().join(OUTBOX_FILE);
        for nth in 1..=2 {
            let whole = std::fs::read(&path).unwrap();
            let damaged = if nth == 1 { vec![b'x'; 20_000] } else { whole[..whole.len() / 2].to_vec() };
            std::fs::write(&path, &damaged).unwrap();
            let opened = Outbox::open(dir.path()).await.unwrap();
            let (aside, error) = opened.damaged.unwrap();
            assert_eq!(std::fs::read(&aside).unwrap(), damaged, "{error:#}");
            assert_eq!(opened.outbox.counts().await.unwrap().lost, 1, "it is told");
            opened.outbox.note("porch", ArmState::Away, id(2), note(Said::EventStart, "8", 0)).await.unwrap();
            opened.outbox.close().await;
        }
    }

    #[tokio::test]
    async fn what_lies_in_the_spool_although_it_was_kept_is_not_kept_twice() {
        let (_dir, outbox) = outbox().await;
        let snapshot = |after| Note { key: None, ..file(Said::Snapshot, "", after, 5, 10) };
        let first = outbox.note("porch", ArmState::Away, id(1), snapshot(0)).await.unwrap();
        for number in 2..20 {
            outbox
                .note("porch", ArmState::Away, id(number), Note { key: None, ..file(Said::Snapshot, "", 0, number + 9, 10) })
                .await
                .unwrap();
        }
        assert_eq!(outbox.note("porch", ArmState::Away, id(30), snapshot(0)).await.unwrap(), first);
        assert_eq!(outbox.note("yard", ArmState::Away, id(31), snapshot(0)).await.unwrap().id, id(31), "another camera saw it");
    }

    #[tokio::test]
    async fn hooks_that_name_no_event_are_put_together_by_time() {
        let (_dir, outbox) = outbox().await;
        let unnamed = |after, number| Note { key: None, ..file(Said::Picture, "", after, number, 1) };
        let first = outbox.note("porch", ArmState::Away, id(1), unnamed(0, 1)).await.unwrap();
        let second = outbox.note("porch", ArmState::Away, id(2), unnamed(GAP.as_secs(), 2)).await.unwrap();
        let third = outbox.note("porch", ArmState::Away, id(3), unnamed(3 * GAP.as_secs(), 3)).await.unwrap();
        let elsewhere = outbox.note("yard", ArmState::Away, id(4), unnamed(3 * GAP.as_secs(), 3)).await.unwrap();
        assert_eq!([first.id, second.id, third.id, elsewhere.id], [id(1), id(1), id(3), id(4)]);
    }
}
