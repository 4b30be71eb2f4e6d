//! What is kept for a while: decisions with their evidence, where devices were last seen, who was let in and put out.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use dms3_core::arming::ArmState;
use dms3_core::coordinator::Decision;
use dms3_core::dashboard::PersonView;
use dms3_core::id::NodeId;
use dms3_core::presence::{Device, MacAddr};
use dms3_core::request::{AuditEntry, AuditKind, Heard};
use dms3_core::roster::without_name;
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, fixed, parsed, stamp, unstamp};

const DAY: Duration = Duration::from_secs(86_400);

/// Spans in which devices were heard, in all.
const SPANS: i64 = 20_000;

/// How long what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Decisions, and (see [`super::events::Events::prune`]) that an event was removed.
    pub decisions: Duration,
    pub sightings: Duration,
    /// Ended tokens and audit rows.
    pub audit: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { decisions: DAY * 30, sightings: DAY * 7, audit: DAY * 365 }
    }
}

impl Store {
    /// The decision log from `since` on, oldest first.
    pub async fn decisions(&self, since: Timestamp) -> anyhow::Result<Vec<Decision>> {
        let rows = sqlx::query("SELECT at, epoch, rev, state, reason, evidence FROM decision WHERE at >= $1 ORDER BY id")
            .bind(stamp(since))
            .fetch_all(&self.pool)
            .await
            .context("cannot read the decision log")?;
        rows.into_iter().map(decision).collect()
    }

    /// The last decisions, oldest first.
    pub async fn last_decisions(&self, count: u32, until: Option<Timestamp>) -> anyhow::Result<Vec<Decision>> {
        let rows = sqlx::query("SELECT at, epoch, rev, state, reason, evidence FROM decision WHERE at <= $2 ORDER BY id DESC LIMIT $1")
            .bind(i64::from(count))
            .bind(until.map_or(i64::MAX, stamp))
            .fetch_all(&self.pool)
            .await
            .context("cannot read the decision log")?;
        rows.into_iter().rev().map(decision).collect()
    }

    /// Where the device was last, so that after a restart it can be asked directly.
    pub async fn remember_address(&self, device: &Device, address: IpAddr, at: Timestamp) -> anyhow::Result<()> {
        sqlx::query(
            "INSERT INTO sighting (device, address, at) VALUES ($1, $2, $3)
             ON CONFLICT (device) DO UPDATE SET address = excluded.address, at = excluded.at",
        )
        .bind(device_text(device))
        .bind(address.to_string())
        .bind(stamp(at))
        .execute(&self.pool)
        .await
        .context("cannot remember an address")?;
        Ok(())
    }

    /// The last known address of each device that was seen since then.
    pub async fn known_addresses(&self, since: Timestamp) -> anyhow::Result<Vec<(Device, IpAddr, Timestamp)>> {
        let rows = sqlx::query("SELECT device, address, at FROM sighting WHERE at >= $1 ORDER BY at DESC, device")
            .bind(stamp(since))
            .fetch_all(&self.pool)
            .await
            .context("cannot read the known addresses")?;
        rows.into_iter()
            .map(|row| Ok((parse_device(row.try_get("device")?)?, parsed(row.try_get("address")?)?, unstamp(row.try_get("at")?))))
            .collect()
    }

    /// Spans in which devices were heard. One that is written already grows.
    pub async fn heard(&self, spans: &[Heard]) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        for span in spans {
            sqlx::query(
                "INSERT INTO heard (device, first, last, signs) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (device, first) DO UPDATE SET last = excluded.last, signs = excluded.signs",
            )
            .bind(device_text(&span.device))
            .bind(stamp(span.first))
            .bind(stamp(span.last))
            .bind(i64::try_from(span.signs).unwrap_or(i64::MAX))
            .execute(&mut *tx)
            .await
            .context("cannot write down when devices were heard")?;
        }
        tx.commit().await.context("cannot write down when devices were heard")
    }

    /// The spans that went on since then, the oldest first.
    pub async fn heard_since(&self, since: Timestamp) -> anyhow::Result<Vec<Heard>> {
        let rows = sqlx::query("SELECT device, first, last, signs FROM heard WHERE last >= $1 ORDER BY first, device")
            .bind(stamp(since))
            .fetch_all(&self.pool)
            .await
            .context("cannot read when devices were heard")?;
        let span = |row: SqliteRow| {
            Ok(Heard {
                device: parse_device(row.try_get("device")?)?,
                first: unstamp(row.try_get("first")?),
                last: unstamp(row.try_get("last")?),
                signs: u64::try_from(row.try_get::<i64, _>("signs")?)?,
            })
        };
        rows.into_iter().map(span).collect()
    }

    /// Removes a person from what is kept: his devices' addresses, and his name and evidence from the decision log.
    /// Returns how many rows changed. (What holds now is the machine's own: `Input::Forget`.)
    pub async fn forget(&self, person: &str, devices: &[Device], now: Timestamp) -> anyhow::Result<u64> {
        let mut tx = self.begin().await?;
        let mut changed = 0;
        for device in devices {
            let done = sqlx::query("DELETE FROM sighting WHERE device = $1").bind(device_text(device)).execute(&mut *tx).await?;
            changed += done.rows_affected();
            let done = sqlx::query("DELETE FROM heard WHERE device = $1").bind(device_text(device)).execute(&mut *tx).await?;
            changed += done.rows_affected();
        }
        let rows = sqlx::query("SELECT id, reason, evidence FROM decision ORDER BY id").fetch_all(&mut *tx).await?;
        for row in rows {
            let (id, reason, evidence): (i64, String, String) = (row.try_get("id")?, row.try_get("reason")?, row.try_get("evidence")?);
            let views: Vec<PersonView> = serde_json::from_str(&evidence).context("the decision log cannot be read")?;
            let kept: Vec<&PersonView> = views.iter().filter(|view| view.name != person).collect();
            let anonymous = without_name(&reason, person);
            if kept.len() == views.len() && anonymous == reason {
                continue;
            }
            sqlx::query("UPDATE decision SET reason = $2, evidence = $3 WHERE id = $1")
                .bind(id)
                .bind(anonymous)
                .bind(serde_json::to_string(&kept)?)
                .execute(&mut *tx)
                .await?;
            changed += 1;
        }
        changed += super::learned::forget(&mut tx, person).await?;
        note(&mut tx, now, AuditKind::Forgotten, None, "a person").await?;
        tx.commit().await.context("cannot forget that person")?;
        // The log of writes still holds the old pages until it is written back and cut.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await.context("cannot clear the write-ahead log")?;
        Ok(changed)
    }

    /// Drops what is older than it is kept. Nodes, revocations and live tokens are never dropped.
    pub async fn prune(&self, keep: Keep, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        for (sql, before) in [
            ("DELETE FROM decision WHERE at < $1", now - keep.decisions),
            ("DELETE FROM sighting WHERE at < $1", now - keep.sightings),
            ("DELETE FROM heard WHERE last < $1", now - keep.sightings),
            ("DELETE FROM audit WHERE at < $1", now - keep.audit),
            ("DELETE FROM token WHERE expires_at < $1", now - keep.audit),
        ] {
            sqlx::query(sql).bind(stamp(before)).execute(&mut *tx).await?;
        }
        // A device that comes and goes all day is no reason to fill a card.
        sqlx::query("DELETE FROM heard WHERE first < (SELECT first FROM heard ORDER BY first DESC LIMIT 1 OFFSET $1)")
            .bind(SPANS)
            .execute(&mut *tx)
            .await?;
        tx.commit().await.context("cannot drop what is too old")?;
        self.settle().await;
        Ok(())
    }

    /// Writes down that a person vouched for the machine's clock, which said `at`.
    pub async fn time_accepted(&self, at: Timestamp, by: &str) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        note(&mut tx, at, AuditKind::TimeAccepted, None, by).await?;
        tx.commit().await.context("cannot write down who vouched for the clock")
    }

    /// What happened to the authority of this house since then, oldest first.
    pub async fn audit(&self, since: Timestamp) -> anyhow::Result<Vec<AuditEntry>> {
        let rows = sqlx::query("SELECT at, kind, node, detail FROM audit WHERE at >= $1 ORDER BY id")
            .bind(stamp(since))
            .fetch_all(&self.pool)
            .await
            .context("cannot read the audit log")?;
        rows.into_iter()
            .map(|row| {
                let node: Option<Vec<u8>> = row.try_get("node")?;
                Ok(AuditEntry {
                    at: unstamp(row.try_get("at")?),
                    kind: parsed_kind(row.try_get("kind")?)?,
                    node: node.map(fixed).transpose()?.map(NodeId),
                    detail: row.try_get("detail")?,
                })
            })
            .collect()
    }
}

/// One audit row, in the transaction of what it tells.
pub(super) async fn note(
    connection: &mut SqliteConnection,
    at: Timestamp,
    kind: AuditKind,
    node: Option<NodeId>,
    detail: &str,
) -> anyhow::Result<()> {
    sqlx::query("INSERT INTO audit (at, kind, node, detail) VALUES ($1, $2, $3, $4)")
        .bind(stamp(at))
        .bind(kind.word())
        .bind(node.map(|node| node.0.to_vec()))
        .bind(detail)
        .execute(connection)
        .await
        .context("cannot write the audit log")?;
    Ok(())
}

fn decision(row: SqliteRow) -> anyhow::Result<Decision> {
    Ok(Decision {
        at: unstamp(row.try_get("at")?),
        epoch: u32::try_from(row.try_get::<i64, _>("epoch")?)?,
        rev: u64::try_from(row.try_get::<i64, _>("rev")?)?,
        state: ArmState::from_wire(u8::try_from(row.try_get::<i64, _>("state")?).unwrap_or(0)),
        reason: row.try_get("reason")?,
        evidence: serde_json::from_str(row.try_get("evidence")?).context("the decision log cannot be read")?,
    })
}

fn parsed_kind(text: &str) -> anyhow::Result<AuditKind> {
    parsed(text)
}

pub(super) fn device_text(device: &Device) -> String {
    match device {
        Device::Mac(mac) => format!("mac {mac}"),
        Device::Host(host) => format!("host {host}"),
        Device::Bluetooth(address) => format!("bluetooth {address}"),
    }
}

pub(super) fn parse_device(text: &str) -> anyhow::Result<Device> {
    match text.split_once(' ') {
        Some(("mac", mac)) => Ok(Device::Mac(MacAddr::parse(mac).map_err(anyhow::Error::msg)?)),
        Some(("host", host)) => Ok(Device::Host(host.to_owned())),
        Some(("bluetooth", address)) => Ok(Device::Bluetooth(MacAddr::parse_bluetooth(address).map_err(anyhow::Error::msg)?)),
        _ => anyhow::bail!("the store holds the unknown device {text:?}"),
    }
}
