//! Events go: because a person says so, because they are old, or because room is wanted. Whatever went is counted, and never comes back.

use std::time::Duration;

use anyhow::Context as _;
use dms3_core::id::{EventId, NodeId};
use dms3_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, SqliteConnection};

use super::read::bytes;
use super::{Events, own, weigh};
use crate::store::{fixed, parsed, stamp};

/// Events that go at once: the store is never locked for long.
const BATCH: u32 = 16;
const DAY: Duration = Duration::from_secs(86_400);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Nothing that began longer ago, unless it came within the last day.
    pub max_age: Duration,
    /// Bytes of attachments in all.
    pub max_bytes: u64,
    /// Bytes that stay free on the disk.
    pub keep_free_bytes: u64,
}

impl Default for Policy {
    /// 30 days, 20 GB, 1 GB free: a card of 32 GB is never full, and a family back from a holiday finds what happened.
    fn default() -> Self {
        Self { max_age: 30 * DAY, max_bytes: 20_000_000_000, keep_free_bytes: 1_000_000_000 }
    }
}

/// Why an event is here no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A person removed it.
    Person,
    /// It was older than `max_age`.
    Age,
    /// There was more than `max_bytes`.
    Size,
    /// Less than `keep_free_bytes` were free.
    Space,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub event: EventId,
    pub why: Why,
    /// Contents that nobody needs any more: for [`Events::discard`].
    pub unneeded: Vec<[u8; 32]>,
}

/// How many events went for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removals {
    pub why: Why,
    pub events: u64,
    /// Bytes of their attachments.
    pub bytes: u64,
}

impl Why {
    const ALL: [Self; 4] = [Self::Person, Self::Age, Self::Size, Self::Space];

    pub fn word(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Age => "age",
            Self::Size => "size",
            Self::Space => "space",
        }
    }
}

impl std::str::FromStr for Why {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|why| why.word() == text).ok_or(())
    }
}

impl Events {
    /// Removes an event for a person and returns the contents that nobody needs any more, for [`Events::discard`]. One that is gone already
    /// is no error.
    pub async fn delete_event(&self, id: EventId, now: Timestamp) -> anyhow::Result<Vec<[u8; 32]>> {
        let mut tx = self.begin().await?;
        let (unneeded, _) = remove(&mut tx, id, Why::Person, now).await?;
        tx.commit().await.context("cannot remove the event")?;
        Ok(unneeded)
    }

    /// Removes a few of the events that the policy does not keep. None: all is as it should be. Else the caller gives the contents to
    /// [`Events::discard`], measures what is free on the disk (`disk_free`, bytes) and calls again.
    ///
    /// By age the oldest go first. Where room is wanted, those that somebody has seen go before those that nobody has, the oldest first;
    /// what came within the last day goes after all others, and never by age.
    pub async fn retention(&self, policy: Policy, now: Timestamp, disk_free: u64) -> anyhow::Result<Vec<Removed>> {
        let mut tx = self.begin().await?;
        let mut over = bytes(&mut tx).await?.saturating_sub(policy.max_bytes);
        let mut wanted = policy.keep_free_bytes.saturating_sub(disk_free);
        let mut removed = Vec::new();
        for id in too_old(&mut tx, policy.max_age, now).await? {
            let (unneeded, free) = remove(&mut tx, id, Why::Age, now).await?;
            (over, wanted) = (over.saturating_sub(free), wanted.saturating_sub(free));
            removed.push(Removed { event: id, why: Why::Age, unneeded });
        }
        if over > 0 || wanted > 0 {
            for id in dispensable(&mut tx, now, BATCH.saturating_sub(u32::try_from(removed.len())?)).await? {
                let why = match (over, wanted) {
                    (0, 0) => break,
                    (0, _) => Why::Space,
                    _ => Why::Size,
                };
                let (unneeded, free) = remove(&mut tx, id, why, now).await?;
                (over, wanted) = (over.saturating_sub(free), wanted.saturating_sub(free));
                removed.push(Removed { event: id, why, unneeded });
            }
        }
        if !removed.is_empty() {
            tx.commit().await.context("cannot remove events")?;
        }
        Ok(removed)
    }

    /// How many events went since then, and why. Older than what [`Events::prune`] is told is forgotten.
    pub async fn removals(&self, since: Timestamp) -> anyhow::Result<Vec<Removals>> {
        let rows = sqlx::query(
            "SELECT why, count(*) AS events, CAST(sum(size) AS BIGINT) AS bytes FROM removed WHERE at >= $1 GROUP BY why ORDER BY why",
        )
        .bind(stamp(since))
        .fetch_all(&self.pool)
        .await
        .context("cannot read which events were removed")?;
        rows.into_iter()
            .map(|row| {
                Ok(Removals {
                    why: parsed(row.try_get("why")?)?,
                    events: u64::try_from(row.try_get::<i64, _>("events")?)?,
                    bytes: u64::try_from(row.try_get::<i64, _>("bytes")?)?,
                })
            })
            .collect()
    }

    /// Forgets of the events that went before `before` that they were ever here.
    pub async fn prune(&self, before: Timestamp) -> anyhow::Result<()> {
        sqlx::query("DELETE FROM removed WHERE at < $1")
            .bind(stamp(before))
            .execute(&self.pool)
            .await
            .context("cannot forget which events were removed")?;
        Ok(())
    }

    /// Whether an event of that name, told by this node, was here and went: its camera need not send any more of it.
    pub async fn was_removed(&self, node: NodeId, id: EventId) -> anyhow::Result<bool> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM removed WHERE id = $1 AND node = $2")
            .bind(id.0.as_slice())
            .bind(node.0.as_slice())
            .fetch_one(&self.pool)
            .await
            .context("cannot read which events were removed")?;
        Ok(count > 0)
    }
}

async fn too_old(connection: &mut SqliteConnection, max_age: Duration, now: Timestamp) -> anyhow::Result<Vec<EventId>> {
    let ids: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM event WHERE began < $1 AND received_at < $2 ORDER BY began, id LIMIT $3")
        .bind(stamp(now - max_age))
        .bind(stamp(now - DAY))
        .bind(i64::from(BATCH))
        .fetch_all(connection)
        .await
        .context("cannot read which events are too old")?;
    ids.into_iter().map(|id| Ok(EventId(fixed(id)?))).collect()
}

/// At most `limit` events that take room, in the order in which they may go.
async fn dispensable(connection: &mut SqliteConnection, now: Timestamp, limit: u32) -> anyhow::Result<Vec<EventId>> {
    let mut events = Vec::new();
    let recently = stamp(now - DAY);
    for (from, until) in [(0, recently), (recently, i64::MAX)] {
        for seen_by_any in [1_i64, 0] {
            let ids: Vec<Vec<u8>> = sqlx::query_scalar(
                "SELECT id FROM event WHERE seen_by_any = $1 AND size > 0 AND received_at >= $2 AND received_at < $3
                 ORDER BY began, id LIMIT $4",
            )
            .bind(seen_by_any)
            .bind(from)
            .bind(until)
            .bind(i64::from(limit) - i64::try_from(events.len())?)
            .fetch_all(&mut *connection)
            .await
            .context("cannot read which events take room")?;
            for id in ids {
                events.push(EventId(fixed(id)?));
            }
        }
    }
    Ok(events)
}

/// Removes an event; returns the contents that nobody needs any more, and their bytes.
async fn remove(connection: &mut SqliteConnection, id: EventId, why: Why, now: Timestamp) -> anyhow::Result<(Vec<[u8; 32]>, u64)> {
    let (unneeded, free) = own(connection, id).await?;
    sqlx::query(
        "INSERT INTO removed (id, node, at, why, size) SELECT id, node, $2, $3, size FROM event WHERE id = $1 ON CONFLICT (id) DO NOTHING",
    )
    .bind(id.0.as_slice())
    .bind(stamp(now))
    .bind(why.word())
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM event WHERE id = $1")
        .bind(id.0.as_slice())
        .execute(&mut *connection)
        .await
        .context("cannot remove an event")?;
    weigh(connection, free, 0).await?;
    Ok((unneeded, free))
}
