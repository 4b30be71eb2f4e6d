//! Events as they are shown: one, a page of them, how many.

use std::time::Duration;

use anyhow::Context as _;
use dms3_core::arming::ArmState;
use dms3_core::event::{
    Attachment, AttachmentKind, EventCounts, EventFilter, EventKind, MOST, OwnMail, StoredAttachment, StoredEvent, Thumbnail,
};
use dms3_core::id::{EventId, NodeId};
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::Events;
use crate::store::{fixed, stamp, unstamp};

/// Milliseconds: no `arrival_hold` is longer, so that few rows are looked at.
const LONGEST_ARRIVAL: i64 = 600_000;
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// An attachment as its camera told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Bytes.
    pub length: u64,
    /// It is whole on this disk.
    pub kept: bool,
}

impl Events {
    /// The events that the filter lets through, the newest first.
    pub async fn events(&self, filter: &EventFilter) -> anyhow::Result<Vec<StoredEvent>> {
        let before = filter.before.unwrap_or((Timestamp(u64::MAX), EventId([0xff; 16])));
        let mut tx = self.pool.begin().await?;
        let rows = sqlx::query(
            "SELECT id, node, camera, source, kind, started, ended, began, received_at, changed, state, rev, own_mail, size,
             EXISTS (SELECT 1 FROM arrival WHERE last >= began AND last <= began + $10 AND first <= began) AS arrived FROM event
             WHERE began >= $1 AND began < $2 AND (began, id) < ($3, $4)
             AND ($5 IS NULL OR camera = $5 OR source = $5 OR camera || '/' || source = $5)
             AND ($6 IS NULL OR kind = $6)
             AND ($7 IS NULL OR NOT EXISTS (SELECT 1 FROM seen WHERE seen.event = event.id AND seen.who = $7))
             AND received_at >= $9
             ORDER BY began DESC, id DESC LIMIT $8",
        )
        .bind(filter.since.map_or(0, stamp))
        .bind(filter.until.map_or(i64::MAX, stamp))
        .bind(stamp(before.0))
        .bind(before.1.0.as_slice())
        .bind(filter.camera.as_deref())
        .bind(filter.kind.map(|kind| i64::from(kind.to_wire())))
        .bind(filter.unseen_by.as_deref())
        .bind(i64::from(filter.limit.min(MOST)))
        .bind(filter.received_since.map_or(0, stamp))
        .bind(LONGEST_ARRIVAL)
        .fetch_all(&mut *tx)
        .await
        .context("cannot read the events")?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            events.push(read_event(&mut tx, row).await?);
        }
        Ok(events)
    }

    pub async fn event(&self, id: EventId) -> anyhow::Result<Option<StoredEvent>> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "SELECT id, node, camera, source, kind, started, ended, began, received_at, changed, state, rev, own_mail, size,
             EXISTS (SELECT 1 FROM arrival WHERE last >= began AND last <= began + $2 AND first <= began) AS arrived FROM event WHERE id = $1",
        )
        .bind(id.0.as_slice())
        .bind(LONGEST_ARRIVAL)
        .fetch_optional(&mut *tx)
        .await
        .context("cannot read the event")?;
        match row {
            Some(row) => Ok(Some(read_event(&mut tx, row).await?)),
            None => Ok(None),
        }
    }

    /// What is known of an attachment that `node` told of; `None`: nothing.
    pub async fn attachment(&self, node: NodeId, event: EventId, hash: [u8; 32]) -> anyhow::Result<Option<Announced>> {
        let row = sqlx::query(
            "SELECT length, kept_at FROM attachment JOIN event ON event.id = attachment.event
             WHERE attachment.event = $1 AND hash = $2 AND node = $3 ORDER BY kept_at IS NULL LIMIT 1",
        )
        .bind(event.0.as_slice())
        .bind(hash.as_slice())
        .bind(node.0.as_slice())
        .fetch_optional(&self.pool)
        .await
        .context("cannot read the attachment")?;
        let Some(row) = row else { return Ok(None) };
        let kept_at: Option<i64> = row.try_get("kept_at")?;
        Ok(Some(Announced { length: u64::try_from(row.try_get::<i64, _>("length")?)?, kept: kept_at.is_some() }))
    }

    /// The event that began next after that one, and the last before it.
    pub async fn neighbours(&self, id: EventId) -> anyhow::Result<(Option<EventId>, Option<EventId>)> {
        let mut tx = self.pool.begin().await?;
        let mut found = [None, None];
        for (found, sql) in found.iter_mut().zip([
            "SELECT event.id FROM event, event AS this WHERE this.id = $1 AND (event.began, event.id) > (this.began, this.id)
             ORDER BY event.began, event.id LIMIT 1",
            "SELECT event.id FROM event, event AS this WHERE this.id = $1 AND (event.began, event.id) < (this.began, this.id)
             ORDER BY event.began DESC, event.id DESC LIMIT 1",
        ]) {
            let id: Option<Vec<u8>> = sqlx::query_scalar(sql).bind(id.0.as_slice()).fetch_optional(&mut *tx).await?;
            *found = id.map(fixed).transpose()?.map(EventId);
        }
        let [newer, older] = found;
        Ok((newer, older))
    }

    /// How many began between each of these moments and the next, of that camera or of all.
    pub async fn counts_between(&self, bounds: &[Timestamp], camera: Option<&str>) -> anyhow::Result<Vec<u64>> {
        let mut tx = self.pool.begin().await?;
        let mut counts = Vec::with_capacity(bounds.len());
        for pair in bounds.windows(2) {
            let count: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM event WHERE began >= $1 AND began < $2
                 AND ($3 IS NULL OR camera = $3 OR source = $3 OR camera || '/' || source = $3)",
            )
            .bind(stamp(pair[0]))
            .bind(stamp(pair[1]))
            .bind(camera)
            .fetch_one(&mut *tx)
            .await
            .context("cannot count the events")?;
            counts.push(u64::try_from(count)?);
        }
        Ok(counts)
    }

    /// How many there are of each node.
    pub async fn totals(&self) -> anyhow::Result<Vec<(NodeId, u64)>> {
        let rows = sqlx::query("SELECT node, count(*) AS total FROM event GROUP BY node").fetch_all(&self.pool).await;
        let rows = rows.context("cannot count the events")?;
        rows.into_iter().map(|row| Ok((NodeId(fixed(row.try_get("node")?)?), u64::try_from(row.try_get::<i64, _>("total")?)?))).collect()
    }

    /// How many of them this one has not seen.
    pub async fn unseen(&self, who: &str) -> anyhow::Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM event) - (SELECT count(*) FROM seen WHERE who = $1)")
            .bind(who)
            .fetch_one(&self.pool)
            .await
            .context("cannot count the events")?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many there are. `midnight` is when this day began where the house stands: the store knows no zone.
    pub async fn event_counts(&self, midnight: Timestamp, now: Timestamp) -> anyhow::Result<EventCounts> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "SELECT count(*) AS total, count(CASE WHEN began >= $1 THEN 1 END) AS today, count(CASE WHEN began >= $2 THEN 1 END) AS week,
             count(CASE WHEN seen_by_any = 0 THEN 1 END) AS unseen FROM event",
        )
        .bind(stamp(midnight))
        .bind(stamp(now - WEEK))
        .fetch_one(&mut *tx)
        .await
        .context("cannot count the events")?;
        let number = |column: &str| anyhow::Ok(u64::try_from(row.try_get::<i64, _>(column)?)?);
        Ok(EventCounts {
            today: number("today")?,
            week: number("week")?,
            all: number("total")?,
            unseen: number("unseen")?,
            bytes: bytes(&mut tx).await?,
        })
    }
}

/// Bytes of all attachments on this disk.
pub(super) async fn bytes(connection: &mut SqliteConnection) -> anyhow::Result<u64> {
    let bytes: i64 =
        sqlx::query_scalar("SELECT bytes FROM media").fetch_one(connection).await.context("cannot count the bytes of the events")?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

async fn read_event(connection: &mut SqliteConnection, row: SqliteRow) -> anyhow::Result<StoredEvent> {
    let id = EventId(fixed(row.try_get("id")?)?);
    let attachments =
        sqlx::query("SELECT kind, name, taken, length, hash, kept_at, thumbnail FROM attachment WHERE event = $1 ORDER BY nth, hash")
            .bind(id.0.as_slice())
            .fetch_all(&mut *connection)
            .await
            .context("cannot read the attachments")?;
    let seen_by = sqlx::query_scalar("SELECT who FROM seen WHERE event = $1 ORDER BY at, who")
        .bind(id.0.as_slice())
        .fetch_all(connection)
        .await
        .context("cannot read who has seen the event")?;
    let (kind, state) = (EventKind::from_wire(wire_byte(&row, "kind")?), ArmState::from_wire(wire_byte(&row, "state")?));
    let (ended, changed): (Option<i64>, Option<i64>) = (row.try_get("ended")?, row.try_get("changed")?);
    Ok(StoredEvent {
        id,
        node: NodeId(fixed(row.try_get("node")?)?),
        camera: row.try_get("camera")?,
        source: row.try_get("source")?,
        kind,
        started: unstamp(row.try_get("started")?),
        ended: ended.map(unstamp),
        began: unstamp(row.try_get("began")?),
        received_at: unstamp(row.try_get("received_at")?),
        changed: changed.map(u8::try_from).transpose()?,
        state,
        arrival: row.try_get::<i64, _>("arrived")? == 1 && state.is_armed() && kind == EventKind::Movement,
        rev: u32::try_from(row.try_get::<i64, _>("rev")?)?,
        own_mail: OwnMail::from_wire(wire_byte(&row, "own_mail")?),
        size: u64::try_from(row.try_get::<i64, _>("size")?)?,
        attachments: attachments.into_iter().map(read_attachment).collect::<anyhow::Result<_>>()?,
        seen_by,
    })
}

fn read_attachment(row: SqliteRow) -> anyhow::Result<StoredAttachment> {
    let kept_at: Option<i64> = row.try_get("kept_at")?;
    Ok(StoredAttachment {
        attachment: Attachment {
            kind: AttachmentKind::from_wire(wire_byte(&row, "kind")?),
            name: row.try_get("name")?,
            taken: unstamp(row.try_get("taken")?),
            length: u64::try_from(row.try_get::<i64, _>("length")?)?,
            hash: fixed(row.try_get("hash")?)?,
        },
        kept_at: kept_at.map(unstamp),
        thumbnail: thumbnail(row.try_get("thumbnail")?),
    })
}

pub(super) fn thumbnail_column(thumbnail: Thumbnail) -> i64 {
    match thumbnail {
        Thumbnail::NotTried => 0,
        Thumbnail::Made => 1,
        Thumbnail::Impossible => 2,
    }
}

fn thumbnail(column: i64) -> Thumbnail {
    match column {
        0 => Thumbnail::NotTried,
        1 => Thumbnail::Made,
        _ => Thumbnail::Impossible,
    }
}

/// What is too great for a byte is unknown as any other unknown value.
fn wire_byte(row: &SqliteRow, column: &str) -> anyhow::Result<u8> {
    Ok(u8::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}
