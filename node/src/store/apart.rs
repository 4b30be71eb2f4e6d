//! Databases that are not what guards the house: a damaged one is put aside and a new one takes its place, since the node must go on.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sqlx::SqlitePool;

use super::{beside, connect};

/// Opens a database or makes it. One that is not whole, or not of this application, is [`is_damage`].
pub(super) async fn open_apart(path: &Path, application: i64) -> anyhow::Result<SqlitePool> {
    let made = !path.exists();
    if made {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
    }
    let pool = connect(path).await?;
    let looked = async {
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(&pool).await?;
        if tables == 0 {
            // No value can be bound to a pragma.
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA application_id = {application}"))).execute(&pool).await?;
        }
        let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&pool).await?;
        let findings: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(3)").fetch_all(&pool).await?;
        anyhow::Ok((id, findings))
    };
    let (id, findings) = looked.await.with_context(|| format!("cannot read {}", path.display()))?;
    if id != application || findings != ["ok"] {
        pool.close().await;
        return Err(Damage(path.to_owned(), findings.join("; ")).into());
    }
    Ok(pool)
}

#[derive(Debug, thiserror::Error)]
#[error("{} is damaged: {}", .0.display(), .1)]
struct Damage(PathBuf, String);

/// SQLite says so, or what it says cannot be of ours.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Damage>().is_some()
        || error.chain().any(|cause| {
            let code = cause.downcast_ref::<sqlx::Error>().and_then(|error| error.as_database_error()?.code());
            // SQLITE_CORRUPT and SQLITE_NOTADB with their extended codes (sqlite.org/rescode.html).
            code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 11 | 26))
        })
}

/// Gives it another name, which is returned.
pub(super) fn put_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let free = (1..10_000).map(|nth| path.with_extension(format!("damaged-{nth}"))).find(|aside| !aside.exists());
    let aside = free.context("too many damaged ones lie beside it")?;
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (beside(path, suffix), beside(&aside, suffix));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot put {} aside", from.display()));
            }
            _ => {}
        }
    }
    Ok(aside)
}
