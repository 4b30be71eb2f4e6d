//! What a camera tells of an event becomes rows.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use dms3_core::event::{ATTACHMENTS, AttachmentKind, Event, Thumbnail};
use dms3_core::id::{EventId, NodeId};
use dms3_core::time::Timestamp;
use sqlx::{Row as _, SqliteConnection};

use super::read::thumbnail_column;
use super::{ForeignEvent, Kept, measure, own};
use crate::store::{fixed, stamp};

/// What a camera tells, and when.
pub(super) struct Telling {
    pub(super) node: NodeId,
    pub(super) camera: String,
    pub(super) event: Event,
    pub(super) began: Timestamp,
    pub(super) now: Timestamp,
}

/// Writes it down, unless it is old; what is there of its contents (`lengths`, one for each attachment) is not missing.
pub(super) async fn keep(connection: &mut SqliteConnection, telling: &Telling, lengths: &[Option<u64>]) -> anyhow::Result<Kept> {
    let Telling { node, event, now, .. } = telling;
    if let Some(owner) = owner(connection, "SELECT node FROM removed WHERE id = $1", event.id).await? {
        ensure!(owner == *node, ForeignEvent(event.id));
        return Ok(Kept { fresh: false, missing: Vec::new() });
    }
    let owner = owner(connection, "SELECT node FROM event WHERE id = $1", event.id).await?;
    ensure!(owner.is_none_or(|owner| owner == *node), ForeignEvent(event.id));
    let before = own(connection, event.id).await?.1;
    let newer = put_event(connection, telling).await?;
    let changed = put_attachments(connection, event, lengths, newer, *now).await?;
    let missing: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT hash FROM attachment WHERE event = $1 AND kept_at IS NULL GROUP BY hash ORDER BY min(nth), hash")
            .bind(event.id.0.as_slice())
            .fetch_all(&mut *connection)
            .await?;
    if newer || changed {
        measure(connection, event.id, before).await?;
    }
    Ok(Kept { fresh: owner.is_none(), missing: missing.into_iter().map(fixed).collect::<anyhow::Result<_>>()? })
}

async fn owner(connection: &mut SqliteConnection, sql: &'static str, id: EventId) -> anyhow::Result<Option<NodeId>> {
    let node: Option<Vec<u8>> = sqlx::query_scalar(sql).bind(id.0.as_slice()).fetch_optional(connection).await?;
    Ok(node.map(fixed).transpose()?.map(NodeId))
}

/// Whether this telling is newer than what was known.
async fn put_event(connection: &mut SqliteConnection, telling: &Telling) -> anyhow::Result<bool> {
    let Telling { node, camera, event, began, now } = telling;
    let put = sqlx::query(
        "INSERT INTO event (id, node, camera, source, kind, started, ended, began, received_at, changed, state, rev, own_mail, size, seen_by_any)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, 0)
         ON CONFLICT (id) DO UPDATE SET source = excluded.source, kind = excluded.kind, started = excluded.started, ended = excluded.ended,
         changed = excluded.changed, state = excluded.state, rev = excluded.rev, own_mail = max(event.own_mail, excluded.own_mail) WHERE event.rev < excluded.rev",
    )
    .bind(event.id.0.as_slice())
    .bind(node.0.as_slice())
    .bind(camera)
    .bind(&event.source)
    .bind(i64::from(event.kind.to_wire()))
    .bind(stamp(event.started))
    .bind(event.ended.map(stamp))
    .bind(stamp(*began))
    .bind(stamp(*now))
    .bind(event.changed.map(i64::from))
    .bind(i64::from(event.state.to_wire()))
    .bind(i64::from(event.rev))
    .bind(i64::from(event.own_mail.to_wire()))
    .execute(connection)
    .await
    .context("cannot keep the event")?;
    Ok(put.rows_affected() > 0)
}

/// Writes what a newer telling adds, and of each attachment whether its content is there. Whether anything changed.
async fn put_attachments(
    connection: &mut SqliteConnection,
    event: &Event,
    lengths: &[Option<u64>],
    newer: bool,
    now: Timestamp,
) -> anyhow::Result<bool> {
    let rows = sqlx::query("SELECT nth, hash, kept_at FROM attachment WHERE event = $1")
        .bind(event.id.0.as_slice())
        .fetch_all(&mut *connection)
        .await?;
    let mut known = HashMap::new();
    for row in rows {
        let kept_at: Option<i64> = row.try_get("kept_at")?;
        known.insert((row.try_get::<i64, _>("nth")?, fixed::<32>(row.try_get("hash")?)?), kept_at.is_some());
    }
    let mut changed = false;
    for ((nth, attachment), length) in event.attachments.iter().enumerate().zip(lengths) {
        let nth = i64::try_from(nth)?;
        // One that is not as long as it was announced would count for room that nobody takes.
        let there = *length == Some(attachment.length);
        let sql = match known.insert((nth, attachment.hash), there) {
            Some(kept) if kept == there => continue,
            Some(_) => "UPDATE attachment SET kept_at = $4 WHERE event = $1 AND nth = $2 AND hash = $3",
            None if !newer => continue,
            None => {
                "INSERT INTO attachment (event, nth, hash, kept_at, kind, name, taken, length, thumbnail)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
            }
        };
        let mut query =
            sqlx::query(sql).bind(event.id.0.as_slice()).bind(nth).bind(attachment.hash.as_slice()).bind(there.then(|| stamp(now)));
        if sql.starts_with("INSERT") {
            let thumbnail = match attachment.kind {
                AttachmentKind::Picture => Thumbnail::NotTried,
                AttachmentKind::Clip => Thumbnail::Impossible,
            };
            query = query
                .bind(i64::from(attachment.kind.to_wire()))
                .bind(&attachment.name)
                .bind(stamp(attachment.taken))
                .bind(i64::try_from(attachment.length).context("an attachment is longer than any disk")?)
                .bind(thumbnail_column(thumbnail));
        }
        query.execute(&mut *connection).await.context("cannot keep the attachments")?;
        changed = true;
    }
    // Only a camera that tells now this and now that comes here: what is handed over stays, but it must not fill the disk with rows.
    ensure!(known.len() <= ATTACHMENTS, "with what was told before it has {} attachments", known.len());
    Ok(changed)
}
