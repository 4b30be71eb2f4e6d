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
