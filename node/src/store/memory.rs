//! The coordinator's memory: its rules' state and what it last signed, saved with the decision before it is published.

use anyhow::{Context as _, anyhow, ensure};
use dms3_core::coordinator::{Decision, MemoryV1};
use dms3_core::protocol::frame::{from_bytes, to_bytes};
use dms3_core::protocol::message::SignedStateV1;
use dms3_core::time::Timestamp;
use ring::digest;
use sqlx::Row as _;

use super::{Store, fixed, stamp, unstamp};

/// What was saved last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub memory: MemoryV1,
    pub signed: SignedStateV1,
    pub saved_at: Timestamp,
}

impl Store {
    /// What was saved last, `None` for a house that never decided anything. Damage is an error: the node must not start over it.
    pub async fn memory(&self) -> anyhow::Result<Option<Remembered>> {
        let row = sqlx::query("SELECT version, memory, signed, sum, saved_at FROM memory WHERE id = 1")
            .fetch_optional(&self.pool)
            .await
            .context("cannot read the memory of the house")?;
        let Some(row) = row else { return Ok(None) };
        let version: i64 = row.try_get("version")?;
        ensure!(version == 1, "the memory of the house has version {version}, this dms3-node knows 1: install the newer version again");
        let (memory, signed): (Vec<u8>, Vec<u8>) = (row.try_get("memory")?, row.try_get("signed")?);
        let sum: [u8; 32] = fixed(row.try_get("sum")?)?;
        // quick_check sees a broken page, not a flipped bit in a value; this value can be a disarm.
        ensure!(sum == sum_of(&memory, &signed), "the memory of the house is damaged: restore the store from a backup");
        let unreadable = |why: String| anyhow!("the memory of the house cannot be read ({why}): restore the store from a backup");
        Ok(Some(Remembered {
            memory: from_bytes(&memory).map_err(unreadable)?,
            signed: from_bytes(&signed).map_err(unreadable)?,
            saved_at: unstamp(row.try_get("saved_at")?),
        }))
    }

    /// Saves what the rules remember, the state as signed, and the decision if there is one: all or nothing, one fsync.
    pub async fn save(&self, memory: &MemoryV1, signed: &SignedStateV1, decisions: &[Decision], now: Timestamp) -> anyhow::Result<()> {
        let memory = to_bytes(memory).map_err(|why| anyhow!("cannot encode the memory of the house: {why}"))?;
        let signed = to_bytes(signed).map_err(|why| anyhow!("cannot encode the signed state: {why}"))?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO memory (id, version, memory, signed, sum, saved_at) VALUES (1, 1, $1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, memory = excluded.memory, signed = excluded.signed,
             sum = excluded.sum, saved_at = excluded.saved_at",
        )
        .bind(&memory)
        .bind(&signed)
        .bind(sum_of(&memory, &signed).as_slice())
        .bind(stamp(now))
        .execute(&mut *tx)
        .await?;
        for decision in decisions {
            let evidence = serde_json::to_string(&decision.evidence)?;
            sqlx::query("INSERT INTO decision (at, epoch, rev, state, reason, evidence) VALUES ($1, $2, $3, $4, $5, $6)")
                .bind(stamp(decision.at))
                .bind(i64::from(decision.epoch))
                .bind(i64::try_from(decision.rev).unwrap_or(i64::MAX))
                .bind(i64::from(decision.state.to_wire()))
                .bind(&decision.reason)
                .bind(evidence)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await.context("cannot save the memory of the house")
    }
}

fn sum_of(memory: &[u8], signed: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&u64::try_from(memory.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(memory);
    context.update(signed);
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}
