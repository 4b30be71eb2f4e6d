//! What nodes must not forget: SQLite files, each behind a narrow API of one verb each. All SQL of DMS3 is in this folder.
//!
//! `store.db` is what the coordinator knows of its house, `events.db` what its cameras saw, each with a connection of its own: a decision never
//! waits for a picture. `outbox.db` is a camera's.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use dms3_core::time::Timestamp;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlSafeStr as _, Sqlite, Transaction};

pub mod accounts;
mod apart;
pub mod events;
mod group;
mod history;
mod learned;
pub mod mails;
pub mod media;
mod memory;
pub mod outbox;
mod roster;
mod tokens;

#[cfg(test)]
mod tests;

use apart::Damage;
pub use history::Keep;
pub use memory::Remembered;
pub use roster::Revocation;
pub use tokens::Redemption;

/// The file, in the coordinator's state directory.
pub const STORE_FILE: &str = "store.db";

/// Tells our file from any other SQLite file, and from an empty one: "DMS3".
const APPLICATION_ID: i64 = 0x444D_5333;

/// What the coordinator's file went through, in order.
const HOUSE: [(&str, &str); 4] = [
    ("house", include_str!("migrations/0001_house.sql")),
    ("twice", include_str!("migrations/0002_twice.sql")),
    ("heard", include_str!("migrations/0003_heard.sql")),
    ("learned", include_str!("migrations/0004_learned.sql")),
];

/// The open store of a house. Clones share it.
///
/// A method that returned Ok has its change on disk (WAL, synchronous FULL); one that failed or was dropped changed nothing.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Makes the store of a new house in `dir`. Refuses where one exists.
    pub async fn create(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(STORE_FILE);
        ensure!(!path.exists(), "{} exists already: this machine is a coordinator. Nothing was changed", path.display());
        // Under another name until it is whole: a crash in here leaves no store that looks like one.
        let unfinished = dir.join(format!("{STORE_FILE}.new"));
        for leftover in [unfinished.clone(), beside(&unfinished, "-wal"), beside(&unfinished, "-shm")] {
            match std::fs::remove_file(&leftover) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", leftover.display()));
                }
                _ => {}
            }
        }
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .with_context(|| format!("cannot create {}", unfinished.display()))?;
        let store = Self { pool: connect(&unfinished).await? };
        sqlx::query("PRAGMA application_id = 0x444D5333").execute(&store.pool).await?;
        migrate(&store.pool, &unfinished, &HOUSE).await?;
        store.close().await;
        std::fs::rename(&unfinished, &path).with_context(|| format!("cannot rename {}", unfinished.display()))?;
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("cannot sync {}", dir.display()))?;
        Self::open(dir).await
    }

    /// Opens the store of this house. A missing, foreign or damaged file is an error that says what to do, never a new empty store:
    /// a house that forgot its state would forget who is revoked and what it told its cameras.
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(STORE_FILE);
        ensure!(path.exists(), "{} is missing: restore it from a backup, or make a new house with `dms3-node init`", path.display());
        let told = |error: anyhow::Error| {
            let path = path.display();
            // Whoever restores a backup over a store that is whole loses a day of the house for nothing.
            let of_the_disk = error.chain().any(|cause| cause.downcast_ref::<sqlx::Error>().is_some()) && !apart::is_damage(&error);
            error.context(match of_the_disk {
                true => format!(
                    "{path} cannot be opened now: is there room on its disk, and may this user write there? What is in it is left alone"
                ),
                false => {
                    format!("{path} is damaged or no store of DMS3: restore it from a backup (the node starts with no store but its own)")
                }
            })
        };
        let pool = connect(&path).await.map_err(told)?;
        let verified = async {
            let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&pool).await?;
            ensure!(id == APPLICATION_ID, "its mark is {id:#x}, not {APPLICATION_ID:#x}");
            // All of it, indexes against tables: a wrong bit in the key of a node would put that node out of the house. It is a small file.
            let findings: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(3)").fetch_all(&pool).await?;
            ensure!(findings == ["ok"], "SQLite finds: {}", findings.join("; "));
            Ok(())
        };
        verified.await.map_err(told)?;
        migrate(&pool, &path, &HOUSE).await.map_err(|error| if apart::is_damage(&error) { told(error) } else { error })?;
        Ok(Self { pool })
    }

    /// Writes everything back into the one file and lets it go.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Moves what was written from the journal into the file. A journal that is damaged later is dropped from there on without a word, as after
    /// any power cut: who is enrolled and revoked must not be in it for weeks. What fails is done by itself later.
    async fn settle(&self) {
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await {
            tracing::debug!("the journal of the store stays as it is: {error}");
        }
    }

    async fn begin(&self) -> anyhow::Result<Transaction<'static, Sqlite>> {
        begin(&self.pool).await
    }
}

/// Whether it failed because the disk is full, for a file or for SQLite. Of the latter only its words are left: writes share a commit.
pub fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
            // sqlite3_errstr(SQLITE_FULL), and SQLITE_IOERR_SHMSIZE: the index of its journal is a file too.
            || ["database or disk is full", "(code: 4874)"].iter().any(|words| cause.to_string().contains(words))
    })
}

/// A transaction that will write: taking the lock at once, it cannot fail half-way for another writer.
async fn begin(pool: &SqlitePool) -> anyhow::Result<Transaction<'static, Sqlite>> {
    let begun = match pool.begin_with("BEGIN IMMEDIATE").await {
        // A commit that a full disk refused SQLite has rolled back by itself, of which sqlx does not know: a new connection does.
        Err(error) if error.as_database_error().is_none() => {
            pool.acquire().await.context("cannot open the store anew")?.close().await.context("cannot open the store anew")?;
            pool.begin_with("BEGIN IMMEDIATE").await
        }
        begun => begun,
    };
    begun.context("cannot write to the store")
}

/// One connection: the coordinator is one process, its writes are short, and each connection costs memory.
async fn connect(path: &Path) -> anyhow::Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .statement_cache_capacity(24)
        .command_buffer_size(8)
        .row_buffer_size(16)
        // 512 KiB of pages are plenty; the rest of the 20 MB belongs to cameras.
        .pragma("cache_size", "-512")
        .pragma("journal_size_limit", "1048576")
        // `forget PERSON` means it.
        .pragma("secure_delete", "ON");
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options)
        .await
        .with_context(|| format!("cannot open {}", path.display()))?;
    Ok(pool)
}

/// Brings the tables to what this version knows. Each step is a file that never changes once released.
async fn migrate(pool: &SqlitePool, path: &Path, steps: &[(&'static str, &'static str)]) -> anyhow::Result<()> {
    let steps = (1..)
        .zip(steps.iter().copied())
        .map(|(version, (what, sql))| Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false));
    match Migrator::with_migrations(steps.collect()).run(pool).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..)) => {
            bail!("{} was written by a newer version of dms3-node: install that version again", path.display())
        }
        // None of these steps ever changes.
        Err(error @ (MigrateError::VersionMismatch(_) | MigrateError::Dirty(_))) => Err(Damage(path.to_owned(), error.to_string()).into()),
        Err(error) => Err(error).with_context(|| format!("cannot bring {} up to date", path.display())),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A time as the database holds it.
fn stamp(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn unstamp(at: i64) -> Timestamp {
    Timestamp(u64::try_from(at).unwrap_or(0))
}

/// A fixed-length value such as an id.
fn fixed<const N: usize>(bytes: Vec<u8>) -> anyhow::Result<[u8; N]> {
    let length = bytes.len();
    bytes.try_into().map_err(|_| anyhow!("the store holds {length} bytes where {N} belong: restore it from a backup"))
}

fn parsed<T: std::str::FromStr>(text: &str) -> anyhow::Result<T> {
    T::from_str(text).map_err(|_| anyhow!("the store holds {text:?} where something else belongs: restore it from a backup"))
}
