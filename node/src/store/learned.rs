//! Devices of people that the house learned beside those of its config.

use anyhow::Context as _;
use dms3_core::dashboard::LearnedDevice;
use dms3_core::presence::Device;
use dms3_core::request::AuditKind;
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::history::{device_text, note, parse_device};
use super::{Store, stamp, unstamp};

impl Store {
    /// All of them, the oldest first.
    pub async fn learned(&self) -> anyhow::Result<Vec<LearnedDevice>> {
        let rows = sqlx::query("SELECT device, person, at, learned_by FROM learned ORDER BY at, device").fetch_all(&self.pool).await;
        rows.context("cannot read the learned devices")?.into_iter().map(learned).collect()
    }

    /// Keeps it, and in the audit log who said so. A device that is kept already is an error.
    pub async fn learn(&self, device: &LearnedDevice) -> anyhow::Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO learned (device, person, at, learned_by) VALUES ($1, $2, $3, $4)")
            .bind(device_text(&device.device))
            .bind(&device.person)
            .bind(stamp(device.at))
            .bind(&device.by)
            .execute(&mut *tx)
            .await
            .with_context(|| format!("cannot keep the device {}", device.device))?;
        note(&mut tx, device.at, AuditKind::DeviceLearned, None, &detail(&device.person, &device.device, &device.by)).await?;
        tx.commit().await.context("cannot keep a device")
    }

    /// Whose it was; `None`: it was not learned.
    pub async fn unlearn(&self, device: &Device, by: &str, now: Timestamp) -> anyhow::Result<Option<String>> {
        let mut tx = self.begin().await?;
        let sql = sqlx::query_scalar("DELETE FROM learned WHERE device = $1 RETURNING person");
        let person: Option<String> = sql.bind(device_text(device)).fetch_optional(&mut *tx).await?;
        if let Some(person) = &person {
            note(&mut tx, now, AuditKind::DeviceForgotten, None, &detail(person, device, by)).await?;
        }
        tx.commit().await.context("cannot forget a device")?;
        Ok(person)
    }
}

/// A person is forgotten: his devices go, and the audit log keeps that there were some. How many rows changed.
pub(super) async fn forget(connection: &mut SqliteConnection, person: &str) -> anyhow::Result<u64> {
    let mut changed = sqlx::query("DELETE FROM learned WHERE person = $1").bind(person).execute(&mut *connection).await?.rows_affected();
    let kinds = [AuditKind::DeviceLearned.word(), AuditKind::DeviceForgotten.word()];
    let rows = sqlx::query("SELECT id, detail FROM audit WHERE kind IN ($1, $2)").bind(kinds[0]).bind(kinds[1]);
    for row in rows.fetch_all(&mut *connection).await? {
        let (id, said): (i64, String) = (row.try_get("id")?, row.try_get("detail")?);
        if said.starts_with(&beginning(person)) {
            let sql = sqlx::query("UPDATE audit SET detail = 'of a person who is forgotten' WHERE id = $1").bind(id);
            changed += sql.execute(&mut *connection).await?.rows_affected();
        }
    }
    Ok(changed)
}

/// "Anna: 24:da:9b:0d:53:8f, by root"
fn detail(person: &str, device: &Device, by: &str) -> String {
    format!("{}{device}, by {by}", beginning(person))
}

fn beginning(person: &str) -> String {
    format!("{person}: ")
}

fn learned(row: SqliteRow) -> anyhow::Result<LearnedDevice> {
    let device = parse_device(row.try_get("device")?)?;
    Ok(LearnedDevice { person: row.try_get("person")?, device, at: unstamp(row.try_get("at")?), by: row.try_get("learned_by")? })
}
