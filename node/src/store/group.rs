//! Writes that wait at the same moment share one transaction, and with it one fsync; each has its own result.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqlitePool;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::begin;

/// Writes of one transaction: what reads is let in between.
const MOST: usize = 64;

type Work = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, anyhow::Result<()>> + Send>;

/// A write that waits.
struct Job {
    work: Work,
    may_be_lost: bool,
    /// Told after the commit.
    done: oneshot::Sender<anyhow::Result<()>>,
}

/// Does the writes of one database. Clones are the same.
#[derive(Clone)]
pub(super) struct Writer(Arc<Inner>);

struct Inner {
    pool: SqlitePool,
    jobs: mpsc::Sender<Job>,
    waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Job>>>,
    /// The one task that writes: begun with the first write, ended with the last clone of the writer.
    task: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(pool: SqlitePool) -> Self {
        let (jobs, waiting) = mpsc::channel(4 * MOST);
        Self(Arc::new(Inner { pool, jobs, waiting: Arc::new(tokio::sync::Mutex::new(waiting)), task: Mutex::default() }))
    }

    /// Does `work` in a transaction that others may share. On the disk when this returns Ok; an error of `work` undoes what it did and
    /// nothing else. Whoever drops this does not learn whether it was done.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.ask(false, work).await
    }

    /// As [`Writer::write`], for what a power cut may undo until something else is written. For what will be heard again then.
    pub(super) async fn write_lazily<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.ask(true, work).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        may_be_lost: bool,
        work: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (value, made) = oneshot::channel();
        let (done, answered) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let made = work(connection);
            Box::pin(async move {
                // Whoever asked may have gone away.
                drop(value.send(made.await?));
                Ok(())
            })
        });
        self.wake();
        self.0.jobs.send(Job { work, may_be_lost, done }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())??;
        made.await.map_err(|_| stopped())
    }

    fn wake(&self) {
        let mut task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner);
        // It does not end by itself, but the runtime in which it was begun may have.
        while task.try_join_next().is_some() {}
        if task.is_empty() {
            task.spawn(serve(self.0.pool.clone(), self.0.waiting.clone()));
        }
    }
}

fn stopped() -> anyhow::Error {
    anyhow!("the store was stopped")
}

async fn serve(pool: SqlitePool, waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Job>>>) {
    let mut waiting = waiting.lock().await;
    let mut jobs = Vec::new();
    while waiting.recv_many(&mut jobs, MOST).await > 0 {
        let (mut asked, mut results) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
        let mut works = Vec::with_capacity(jobs.len());
        let sync = jobs.iter().any(|job| !job.may_be_lost);
        for job in jobs.drain(..) {
            asked.push(job.done);
            works.push(job.work);
        }
        let committed = match sync {
            true => together(&pool, works, &mut results).await,
            false => unsynced(&pool, works, &mut results).await,
        };
        let committed = committed.map_err(|error| format!("{error:#}"));
        // Those after a transaction that died have no result of their own.
        results.resize_with(asked.len(), || Ok(()));
        for (done, result) in asked.into_iter().zip(results) {
            let result = result.and_then(|()| committed.clone().map_err(anyhow::Error::msg));
            drop(done.send(result));
        }
    }
}

/// What each did goes to `results`; it holds only if the whole is Ok.
async fn together(pool: &SqlitePool, works: Vec<Work>, results: &mut Vec<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut tx = begin(pool).await?;
    each(&mut tx, works, results).await?;
    tx.commit().await.context("cannot write to the store")
}

/// The same without an fsync.
async fn unsynced(pool: &SqlitePool, works: Vec<Work>, results: &mut Vec<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await.context("cannot write to the store")?;
    let written = async {
        sqlx::query("PRAGMA synchronous = NORMAL").execute(&mut *connection).await?;
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        each(&mut tx, works, results).await?;
        tx.commit().await?;
        sqlx::query("PRAGMA synchronous = FULL").execute(&mut *connection).await?;
        anyhow::Ok(())
    };
    let written = written.await.context("cannot write to the store");
    if written.is_err() {
        // A new connection syncs what it writes.
        connection.close().await.context("cannot open the store anew")?;
    }
    written
}

async fn each(tx: &mut SqliteConnection, works: Vec<Work>, results: &mut Vec<anyhow::Result<()>>) -> anyhow::Result<()> {
    for work in works {
        let mut own = tx.begin().await.context("cannot write to the store")?;
        let result = AssertUnwindSafe(work(&mut own)).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(anyhow!("writing to the store panicked")));
        match &result {
            Ok(()) => own.commit().await.context("cannot write to the store")?,
            Err(_) => own.rollback().await.context("cannot write to the store")?,
        }
        results.push(result);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::store::connect;

    async fn notebook() -> (tempfile::TempDir, SqlitePool, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.db");
        std::fs::write(&path, []).unwrap();
        let pool = connect(&path).await.unwrap();
        sqlx::query("CREATE TABLE note (number BIGINT NOT NULL PRIMARY KEY)").execute(&pool).await.unwrap();
        (dir, pool.clone(), Writer::new(pool))
    }

    fn note(number: i64) -> impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, anyhow::Result<i64>> {
        move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO note (number) VALUES ($1)").bind(number).execute(connection).await?;
                assert_ne!(number, 13, "nobody writes this number");
                anyhow::ensure!(number != 7, "seven is refused");
                Ok(2 * number)
            })
        }
    }

    async fn numbers(pool: &SqlitePool) -> Vec<i64> {
        sqlx::query_scalar("SELECT number FROM note ORDER BY number").fetch_all(pool).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_writes_with_others_has_a_result_of_his_own() {
        let (_dir, pool, writer) = notebook().await;
        let busy = pool.acquire().await.unwrap();
        let (results, ()) = tokio::join!(join_all((0..20).map(|number| writer.write(note(number)))), async {
            tokio::task::yield_now().await;
            drop(busy);
        });
        for (number, result) in (0..).zip(results) {
            match number {
                7 => assert!(result.unwrap_err().to_string().contains("refused")),
                13 => assert!(result.unwrap_err().to_string().contains("panicked")),
                _ => assert_eq!(result.unwrap(), 2 * number),
            }
        }
        assert_eq!(numbers(&pool).await.len(), 18, "and what failed left nothing behind");
        assert!(writer.write(note(0)).await.is_err(), "it is there already");
        assert_eq!(writer.write(note(20)).await.unwrap(), 40);
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_other_with_him() {
        let (_dir, pool, writer) = notebook().await;
        let busy = pool.acquire().await.unwrap();
        let mut gone = Box::pin(writer.write(note(1)));
        assert!((&mut gone).now_or_never().is_none());
        let stays = writer.write(note(2));
        let (stays, ()) = tokio::join!(stays, async {
            drop(gone);
            drop(busy);
        });
        assert_eq!(stays.unwrap(), 4);
        assert_eq!(numbers(&pool).await, [1, 2]);
    }

    #[tokio::test]
    async fn what_a_power_cut_may_undo_makes_nothing_else_less_sure() {
        let (_dir, pool, writer) = notebook().await;
        let synchronous = async || sqlx::query_scalar::<_, i64>("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
        assert_eq!(synchronous().await, 2);
        assert_eq!(writer.write_lazily(note(1)).await.unwrap(), 2);
        assert!(writer.write_lazily(note(1)).await.is_err());
        assert_eq!(synchronous().await, 2);
        // Nothing can be written: the connection that failed is not used again.
        sqlx::query("PRAGMA query_only = ON").execute(&pool).await.unwrap();
        assert!(writer.write_lazily(note(2)).await.is_err());
        sqlx::query("PRAGMA query_only = OFF").execute(&pool).await.unwrap();
        assert_eq!(synchronous().await, 2);
        assert_eq!(writer.write(note(3)).await.unwrap(), 6);
        assert_eq!(numbers(&pool).await, [1, 3]);
    }
}
