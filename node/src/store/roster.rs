//! Who is enrolled. A node is never deleted: a revocation must last.

use anyhow::{Context as _, bail, ensure};
use dms3_core::conduct::Twice;
use dms3_core::id::{NodeId, TokenId};
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow, check_name, is_taken};
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use dms3_core::request::AuditKind;

use super::history::note;
use super::{Store, fixed, stamp, unstamp};

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub row: RosterRow,
    /// Live tokens that the node had used: cancelled with it, or it would come back with a new key.
    pub cancelled: Vec<TokenId>,
}

impl Store {
    /// Everybody, in the order of enrollment; revoked nodes too.
    pub async fn roster(&self) -> anyhow::Result<Vec<RosterRow>> {
        let mut connection = self.pool.acquire().await?;
        read_roster(&mut connection).await
    }

    /// Enrols a node without a token: the coordinator itself.
    pub async fn add_node(&self, row: &RosterRow) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        let others = read_roster(&mut tx).await?;
        ensure!(!is_taken(&row.name, &others), "there is a node named {:?} already", row.name);
        put_node(&mut tx, row).await?;
        note(&mut tx, row.enrolled_at, AuditKind::Enrolled, Some(row.node), &row.name).await?;
        tx.commit().await.with_context(|| format!("cannot enrol {:?}", row.name))
    }

    /// Gives a node another name and returns its row. The name must be free among the active nodes.
    pub async fn rename(&self, node: NodeId, name: &str, now: Timestamp) -> anyhow::Result<RosterRow> {
        let name = check_name(name).map_err(anyhow::Error::msg)?;
        let mut tx = self.begin().await?;
        let mut rows = read_roster(&mut tx).await?;
        let Some(at) = rows.iter().position(|row| row.node == node) else { bail!("no node {} is enrolled here", node.short()) };
        let mut row = rows.swap_remove(at);
        ensure!(!is_taken(&name, &rows), "there is a node named {name:?} already");
        let before = std::mem::replace(&mut row.name, name);
        put_node(&mut tx, &row).await?;
        note(&mut tx, now, AuditKind::Renamed, Some(node), &format!("{before} -> {}", row.name)).await?;
        tx.commit().await.with_context(|| format!("cannot rename {before:?}"))?;
        self.settle().await;
        Ok(row)
    }

    /// Puts a node out for good, and every live token that it used. Again: the same answer.
    pub async fn revoke(&self, node: NodeId, now: Timestamp) -> anyhow::Result<Revocation> {
        let mut tx = self.begin().await?;
        let Some(mut row) = read_node(&mut tx, node).await? else { bail!("no node {} is enrolled here", node.short()) };
        ensure!(row.role != NodeRole::Coordinator, "{:?} is the coordinator itself: it cannot be revoked", row.name);
        let cancelled = sqlx::query(
            "SELECT id FROM token WHERE cancelled = 0 AND expires_at > $2 AND id IN (SELECT token FROM token_use WHERE node = $1)",
        )
        .bind(node.0.as_slice())
        .bind(stamp(now))
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .map(|row| Ok(TokenId(fixed(row.try_get("id")?)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
        for token in &cancelled {
            sqlx::query("UPDATE token SET cancelled = 1 WHERE id = $1").bind(token.0.as_slice()).execute(&mut *tx).await?;
            note(&mut tx, now, AuditKind::TokenCancelled, Some(node), &token.to_string()).await?;
        }
        if row.status == NodeStatus::Active {
            row.status = NodeStatus::Revoked;
            row.revoked_at = Some(now);
            put_node(&mut tx, &row).await?;
            unmark(&mut tx, node).await?;
            note(&mut tx, now, AuditKind::Revoked, Some(node), &row.name).await?;
        }
        tx.commit().await.with_context(|| format!("cannot revoke {:?}", row.name))?;
        self.settle().await;
        Ok(Revocation { row, cancelled })
    }

    /// Keeps that two machines use the identity of a node. Of one that was revoked meanwhile nothing is kept.
    pub async fn mark(&self, node: NodeId, twice: &Twice) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        let Some(row) = read_node(&mut tx, node).await?.filter(|row| row.status == NodeStatus::Active) else { return Ok(()) };
        let Twice { at, one, other } = twice;
        sqlx::query(
            "INSERT INTO twice (node, at, one, other) VALUES ($1, $2, $3, $4)
             ON CONFLICT (node) DO UPDATE SET at = excluded.at, one = excluded.one, other = excluded.other",
        )
        .bind(node.0.as_slice())
        .bind(stamp(*at))
        .bind(one)
        .bind(other)
        .execute(&mut *tx)
        .await?;
        note(&mut tx, *at, AuditKind::UsedTwice, Some(node), &format!("{} at {one} and at {other}", row.name)).await?;
        tx.commit().await.with_context(|| format!("cannot keep that two machines use the identity of {:?}", row.name))
    }

    /// A person looked: the node is marked no longer.
    pub async fn clear(&self, node: NodeId, by: &str, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        let Some(row) = read_node(&mut tx, node).await? else { bail!("no node {} is enrolled here", node.short()) };
        unmark(&mut tx, node).await?;
        note(&mut tx, now, AuditKind::Cleared, Some(node), &format!("{} by {by}", row.name)).await?;
        tx.commit().await.with_context(|| format!("cannot clear {:?}", row.name))
    }

    /// Nodes whose identity two machines use.
    pub async fn marks(&self) -> anyhow::Result<Vec<(NodeId, Twice)>> {
        let rows =
            sqlx::query("SELECT node, at, one, other FROM twice").fetch_all(&self.pool).await.context("cannot read who is marked")?;
        let mark = |row: SqliteRow| {
            let twice = Twice { at: unstamp(row.try_get("at")?), one: row.try_get("one")?, other: row.try_get("other")? };
            Ok((NodeId(fixed(row.try_get("node")?)?), twice))
        };
        rows.into_iter().map(mark).collect()
    }
}

async fn unmark(connection: &mut SqliteConnection, node: NodeId) -> anyhow::Result<()> {
    sqlx::query("DELETE FROM twice WHERE node = $1").bind(node.0.as_slice()).execute(connection).await?;
    Ok(())
}

pub(super) async fn read_roster(connection: &mut SqliteConnection) -> anyhow::Result<Vec<RosterRow>> {
    let rows = sqlx::query("SELECT node, role, name, status, enrolled_at, revoked_at, token FROM roster ORDER BY enrolled_at, node")
        .fetch_all(connection)
        .await
        .context("cannot read the roster")?;
    rows.into_iter().map(read_row).collect()
}

pub(super) async fn read_node(connection: &mut SqliteConnection, node: NodeId) -> anyhow::Result<Option<RosterRow>> {
    let row = sqlx::query("SELECT node, role, name, status, enrolled_at, revoked_at, token FROM roster WHERE node = $1")
        .bind(node.0.as_slice())
        .fetch_optional(connection)
        .await
        .context("cannot read the roster")?;
    row.map(read_row).transpose()
}

pub(super) async fn put_node(connection: &mut SqliteConnection, row: &RosterRow) -> anyhow::Result<()> {
    sqlx::query(
        "INSERT INTO roster (node, role, name, status, enrolled_at, revoked_at, token) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (node) DO UPDATE SET name = excluded.name, status = excluded.status, revoked_at = excluded.revoked_at,
         token = excluded.token",
    )
    .bind(row.node.0.as_slice())
    .bind(match row.role {
        NodeRole::Coordinator => "coordinator",
        NodeRole::Camera => "camera",
    })
    .bind(&row.name)
    .bind(match row.status {
        NodeStatus::Active => "active",
        NodeStatus::Revoked => "revoked",
    })
    .bind(stamp(row.enrolled_at))
    .bind(row.revoked_at.map(stamp))
    .bind(row.token.map(|token| token.0.to_vec()))
    .execute(connection)
    .await?;
    Ok(())
}

/// An unknown role or status is an error, never a guess: one of them would be an admission.
fn read_row(row: SqliteRow) -> anyhow::Result<RosterRow> {
    let token: Option<Vec<u8>> = row.try_get("token")?;
    let revoked_at: Option<i64> = row.try_get("revoked_at")?;
    Ok(RosterRow {
        node: NodeId(fixed(row.try_get("node")?)?),
        role: match row.try_get("role")? {
            "coordinator" => NodeRole::Coordinator,
            "camera" => NodeRole::Camera,
            other => bail!("the roster holds the unknown role {other:?}"),
        },
        name: row.try_get("name")?,
        status: match row.try_get("status")? {
            "active" => NodeStatus::Active,
            "revoked" => NodeStatus::Revoked,
            other => bail!("the roster holds the unknown status {other:?}"),
        },
        enrolled_at: unstamp(row.try_get("enrolled_at")?),
        revoked_at: revoked_at.map(unstamp),
        token: token.map(fixed).transpose()?.map(TokenId),
    })
}
