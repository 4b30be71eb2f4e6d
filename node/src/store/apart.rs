//! A database that is made where it is missing, and put aside where it is damaged: what it holds matters, and nothing waits for its repair.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;

use super::{beside, connect, migrate};

/// What kind of file it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Tells it from any other SQLite file (PRAGMA application_id).
    pub(super) mark: u32,
    pub(super) steps: &'static [(&'static str, &'static str)],
}

/// An open file.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) pool: SqlitePool,
    /// There was none.
    pub(super) new: bool,
    /// Where the damaged one is that it replaces, and what is wrong with that.
    pub(super) damaged: Option<(PathBuf, anyhow::Error)>,
}

/// Opens the file, or makes it. A damaged or foreign one gets another name, and an empty one takes its place.
pub(super) async fn open(path: &Path, kind: Kind) -> anyhow::Result<Ready> {
    match open_at(path, kind).await {
        Ok((pool, new)) => Ok(Ready { pool, new, damaged: None }),
        Err(error) if is_damage(&error) => {
            let aside = put_aside(path)?;
            let (pool, new) = open_at(path, kind).await?;
            Ok(Ready { pool, new, damaged: Some((aside, error)) })
        }
        Err(error) => Err(error),
    }
}

async fn open_at(path: &Path, kind: Kind) -> anyhow::Result<(SqlitePool, bool)> {
    if !path.exists() {
        dms3_pki::files::write_new(path, &[], 0o600)?;
    }
    let pool = connect(path).await?;
    let looked = async {
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(&pool).await?;
        if tables == 0 {
            sqlx::query(AssertSqlSafe(format!("PRAGMA application_id = {}", kind.mark))).execute(&pool).await?;
        }
        let mark: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&pool).await?;
        let findings: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(3)").fetch_all(&pool).await?;
        anyhow::Ok((tables == 0, mark, findings))
    };
    let (new, mark, findings) = looked.await.with_context(|| format!("cannot read {}", path.display()))?;
    if mark != i64::from(kind.mark) || findings != ["ok"] {
        pool.close().await;
        return Err(Damage(path.to_owned(), findings.join("; ")).into());
    }
    migrate(&pool, path, kind.steps).await?;
    Ok((pool, new))
}

#[derive(Debug, thiserror::Error)]
#[error("{} is damaged or not ours: {}", .0.display(), .1)]
pub(super) struct Damage(pub(super) PathBuf, pub(super) String);

/// SQLite says so, or what it says cannot be of ours.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Damage>().is_some()
        || error.chain().any(|cause| {
            let code = cause.downcast_ref::<sqlx::Error>().and_then(|error| error.as_database_error()?.code());
            // SQLITE_CORRUPT and SQLITE_NOTADB with their extended codes (sqlite.org/rescode.html).
            code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 11 | 26))
        })
}

fn put_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let free = (1..10_000).map(|nth| path.with_extension(format!("damaged-{nth}"))).find(|aside| !aside.exists());
    let aside = free.with_context(|| format!("too many damaged ones lie beside {}", path.display()))?;
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
