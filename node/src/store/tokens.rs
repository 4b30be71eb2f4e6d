//! Tokens and their one transaction: used up, enrolled and written down together, or nothing of it.

use anyhow::{Context as _, bail, ensure};
use dms3_core::enrollment::{Redeemed, TokenRow};
use dms3_core::id::{NodeId, TokenId};
use dms3_core::protocol::message::DenyCode;
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow, name_for};
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use dms3_core::request::AuditKind;

use super::history::note;
use super::roster::{put_node, read_node, read_roster};
use super::{Store, fixed, stamp, unstamp};

/// What came of a presented token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redemption {
    /// The node is enrolled under this row.
    Granted(Redeemed, RosterRow),
    /// `locked_now`: this very attempt locked the token, which somebody must be told.
    Denied { code: DenyCode, locked_now: bool },
}

impl Store {
    pub async fn insert_token(&self, token: &TokenRow) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO token (id, public_key, name, issued_at, expires_at, uses, bad_signatures, cancelled)
             VALUES ($1, $2, $3, $4, $5, $6, 0, 0)",
        )
        .bind(token.id.0.as_slice())
        .bind(token.key.as_slice())
        .bind(&token.name)
        .bind(stamp(token.issued_at))
        .bind(stamp(token.expires_at))
        .bind(i64::from(token.uses))
        .execute(&mut *tx)
        .await
        .context("cannot store the token")?;
        note(&mut tx, token.issued_at, AuditKind::TokenMade, None, &token.id.to_string()).await?;
        tx.commit().await.context("cannot store the token")
    }

    /// All tokens that are remembered, the newest first.
    pub async fn tokens(&self) -> anyhow::Result<Vec<TokenRow>> {
        let mut tx = self.pool.begin().await?;
        let rows = sqlx::query(
            "SELECT id, public_key, name, issued_at, expires_at, uses, bad_signatures, cancelled FROM token ORDER BY issued_at DESC, id",
        )
        .fetch_all(&mut *tx)
        .await
        .context("cannot read the tokens")?;
        let mut tokens = Vec::with_capacity(rows.len());
        for row in rows {
            let mut token = read_row(row)?;
            read_uses(&mut tx, &mut token).await?;
            tokens.push(token);
        }
        Ok(tokens)
    }

    pub async fn token(&self, id: TokenId) -> anyhow::Result<Option<TokenRow>> {
        let mut tx = self.pool.begin().await?;
        read_token(&mut tx, id).await
    }

    /// Ends a token before its time and returns it. Nodes that it enrolled stay.
    pub async fn cancel_token(&self, id: TokenId, now: Timestamp) -> anyhow::Result<TokenRow> {
        let mut tx = self.begin().await?;
        let Some(mut token) = read_token(&mut tx, id).await? else { bail!("there is no token {id}; see `dms3-node token list`") };
        if !token.cancelled {
            token.cancelled = true;
            sqlx::query("UPDATE token SET cancelled = 1 WHERE id = $1").bind(id.0.as_slice()).execute(&mut *tx).await?;
            note(&mut tx, now, AuditKind::TokenCancelled, None, &id.to_string()).await?;
            tx.commit().await.context("cannot cancel the token")?;
        }
        Ok(token)
    }

    /// A node presents a token: the rules of `core::enrollment`, the use, the roster row and the audit row in one transaction.
    pub async fn redeem(
        &self,
        id: TokenId,
        node: NodeId,
        signature_ok: bool,
        hostname: &str,
        now: Timestamp,
    ) -> anyhow::Result<Redemption> {
        let mut tx = self.begin().await?;
        let Some(mut token) = read_token(&mut tx, id).await? else {
            return Ok(Redemption::Denied { code: DenyCode::Token, locked_now: false });
        };
        let known = read_node(&mut tx, node).await?;
        let revoked = known.as_ref().is_some_and(|row| row.status == NodeStatus::Revoked);
        let bad_before = token.bad_signatures;
        match token.redeem(node, signature_ok, revoked, now) {
            Err(code) => {
                let locked_now = token.bad_signatures > bad_before && token.is_locked();
                if token.bad_signatures > bad_before {
                    sqlx::query("UPDATE token SET bad_signatures = $2 WHERE id = $1")
                        .bind(id.0.as_slice())
                        .bind(i64::from(token.bad_signatures))
                        .execute(&mut *tx)
                        .await?;
                    note(&mut tx, now, AuditKind::BadSignature, Some(node), &id.to_string()).await?;
                }
                if locked_now {
                    note(&mut tx, now, AuditKind::TokenLocked, Some(node), &id.to_string()).await?;
                }
                tx.commit().await.context("cannot write down a refused enrollment")?;
                Ok(Redemption::Denied { code, locked_now })
            }
            Ok(Redeemed::Again) => {
                let row = known.context("the store holds a used token whose node is in no roster")?;
                Ok(Redemption::Granted(Redeemed::Again, row))
            }
            Ok(Redeemed::Fresh) => {
                let row = match known {
                    // The coordinator is enrolled by `init` alone.
                    Some(row) if row.role == NodeRole::Coordinator => {
                        return Ok(Redemption::Denied { code: DenyCode::Malformed, locked_now: false });
                    }
                    Some(mut row) => {
                        row.token = Some(id);
                        row
                    }
                    None => RosterRow {
                        node,
                        role: NodeRole::Camera,
                        name: name_for(token.name.as_deref(), hostname, &read_roster(&mut tx).await?),
                        status: NodeStatus::Active,
                        enrolled_at: now,
                        revoked_at: None,
                        token: Some(id),
                    },
                };
                put_node(&mut tx, &row).await?;
                sqlx::query("INSERT INTO token_use (token, node, used_at) VALUES ($1, $2, $3)")
                    .bind(id.0.as_slice())
                    .bind(node.0.as_slice())
                    .bind(stamp(now))
                    .execute(&mut *tx)
                    .await?;
                note(&mut tx, now, AuditKind::Enrolled, Some(node), &format!("{} by token {id}", row.name)).await?;
                tx.commit().await.context("cannot store the enrollment")?;
                self.settle().await;
                Ok(Redemption::Granted(Redeemed::Fresh, row))
            }
        }
    }

    /// The node has its identity on disk: this use is over.
    pub async fn stored(&self, id: TokenId, node: NodeId, now: Timestamp) -> anyhow::Result<()> {
        let done = sqlx::query("UPDATE token_use SET stored_at = $3 WHERE token = $1 AND node = $2 AND stored_at IS NULL")
            .bind(id.0.as_slice())
            .bind(node.0.as_slice())
            .bind(stamp(now))
            .execute(&self.pool)
            .await
            .context("cannot write down that a node stored its identity")?;
        ensure!(done.rows_affected() <= 1, "one use of a token was stored twice");
        Ok(())
    }
}

async fn read_token(connection: &mut SqliteConnection, id: TokenId) -> anyhow::Result<Option<TokenRow>> {
    let row = sqlx::query("SELECT id, public_key, name, issued_at, expires_at, uses, bad_signatures, cancelled FROM token WHERE id = $1")
        .bind(id.0.as_slice())
        .fetch_optional(&mut *connection)
        .await
        .context("cannot read the token")?;
    let Some(row) = row else { return Ok(None) };
    let mut token = read_row(row)?;
    read_uses(connection, &mut token).await?;
    Ok(Some(token))
}

async fn read_uses(connection: &mut SqliteConnection, token: &mut TokenRow) -> anyhow::Result<()> {
    let uses = sqlx::query("SELECT node, stored_at FROM token_use WHERE token = $1 ORDER BY used_at, node")
        .bind(token.id.0.as_slice())
        .fetch_all(connection)
        .await
        .context("cannot read the uses of a token")?;
    for one in uses {
        let node = NodeId(fixed(one.try_get("node")?)?);
        let stored_at: Option<i64> = one.try_get("stored_at")?;
        token.used_by.push(node);
        if stored_at.is_some() {
            token.stored_by.push(node);
        }
    }
    Ok(())
}

fn read_row(row: SqliteRow) -> anyhow::Result<TokenRow> {
    let cancelled: i64 = row.try_get("cancelled")?;
    Ok(TokenRow {
        id: TokenId(fixed(row.try_get("id")?)?),
        key: fixed(row.try_get("public_key")?)?,
        name: row.try_get("name")?,
        issued_at: unstamp(row.try_get("issued_at")?),
        expires_at: unstamp(row.try_get("expires_at")?),
        uses: u32::try_from(row.try_get::<i64, _>("uses")?).unwrap_or(0),
        used_by: Vec::new(),
        stored_by: Vec::new(),
        bad_signatures: u32::try_from(row.try_get::<i64, _>("bad_signatures")?).unwrap_or(u32::MAX),
        cancelled: cancelled != 0,
    })
}
