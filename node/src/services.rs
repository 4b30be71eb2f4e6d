//! Starts services together, sees how each one ends, stops them together.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long services may take to stop before they are dropped. Below systemd's `TimeoutStopSec`; Motion alone may need 10 s.
const STOP_GRACE: Duration = Duration::from_secs(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(60);

/// Tasks that run for the life of the node. The end of a vital one stops the node (systemd starts it again); any other is started
/// again with back-off, and arming goes on.
#[derive(Default)]
pub struct Services {
    tasks: JoinSet<Result<()>>,
    names: HashMap<tokio::task::Id, &'static str>,
    stop: CancellationToken,
}

impl Services {
    /// Cancelled when the node stops.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Without this one the node is not what it says it is.
    pub fn vital(&mut self, name: &'static str, service: impl Future<Output = Result<()>> + Send + 'static) {
        #[cfg(debug_assertions)]
        let service = crate::failpoint::under(name, service);
        // Boxed: tokio makes a dozen functions for each kind of task and scheduler, and here is a kind for each service.
        self.spawn(name, Box::pin(service));
    }

    fn spawn(&mut self, name: &'static str, service: BoxFuture<'static, Result<()>>) {
        let handle = self.tasks.spawn(service);
        self.names.insert(handle.id(), name);
    }

    /// `start` makes the service anew after each end. `ended` hears why, before the next start.
    pub fn restarting<F, S>(&mut self, name: &'static str, mut start: S, ended: impl Fn(&str) + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
        S: FnMut(CancellationToken) -> F + Send + 'static,
    {
        let start = move |stop| -> BoxFuture<'static, Result<()>> {
            let service = start(stop);
            #[cfg(debug_assertions)]
            let service = crate::failpoint::under(name, service);
            Box::pin(service)
        };
        let service = again_and_again(name, Box::new(start), Box::new(ended), self.stop.clone());
        self.spawn(name, Box::pin(service));
    }

    /// Runs until `shutdown` ends or a vital service does, then stops all. An error names the service that ended.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut result = Ok(());
        tokio::pin!(shutdown);
        tokio::select! {
            () = &mut shutdown => tracing::info!("stopping"),
            Some(ended) = self.tasks.join_next_with_id() => {
                result = match self.outcome(ended) {
                    (name, Ok(())) => Err(anyhow!("{name} ended, and the node cannot do without it")),
                    (name, Err(error)) => Err(error).with_context(|| format!("{name} failed, and the node cannot do without it")),
                };
            }
        }
        self.stop.cancel();
        let deadline = Instant::now() + STOP_GRACE;
        loop {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(None) => return result,
                Ok(Some(ended)) => {
                    if let (name, Err(error)) = self.outcome(ended) {
                        tracing::warn!("{name} did not stop cleanly: {error:#}");
                    }
                }
                Err(_) => {
                    let late: Vec<_> = self.names.values().copied().collect();
                    tracing::warn!("did not stop within {} s: {}", STOP_GRACE.as_secs(), late.join(", "));
                    return result;
                }
            }
        }
    }

    fn outcome(&mut self, ended: Result<(tokio::task::Id, Result<()>), tokio::task::JoinError>) -> (&'static str, Result<()>) {
        match ended {
            Ok((id, result)) => (self.names.remove(&id).unwrap_or("a service"), result),
            Err(error) => {
                let name = self.names.remove(&error.id()).unwrap_or("a service");
                let why = match error.try_into_panic() {
                    Ok(panic) => anyhow!("it panicked: {}", panic_words(panic.as_ref())),
                    Err(_) => anyhow!("it was aborted"),
                };
                (name, Err(why))
            }
        }
    }
}

async fn again_and_again(
    name: &'static str,
    mut start: Box<dyn FnMut(CancellationToken) -> BoxFuture<'static, Result<()>> + Send>,
    ended: Box<dyn Fn(&str) + Send>,
    stop: CancellationToken,
) -> Result<()> {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let started = Instant::now();
        let why = match AssertUnwindSafe(start(stop.clone())).catch_unwind().await {
            _ if stop.is_cancelled() => return Ok(()),
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("it panicked: {}", panic_words(panic.as_ref())),
        };
        if started.elapsed() > LAST_BACKOFF {
            backoff = FIRST_BACKOFF;
        }
        tracing::warn!("{name} stopped, starting again in {:.1} s: {why}", backoff.as_secs_f64());
        ended(&why);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

/// What a panic said, if it said something.
pub fn panic_words(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_vital_service_stops_the_node_and_is_named() {
        let mut services = Services::default();
        let stop = services.stop_token();
        services.vital("driver", async { Err(anyhow!("disk gone")) });
        services.vital("peers", async move {
            stop.cancelled().await;
            Ok(())
        });
        let error = services.run(std::future::pending()).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "driver failed, and the node cannot do without it: disk gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_vital_service_stops_the_node() {
        let mut services = Services::default();
        services.vital("store", async { panic!("oh") });
        let error = services.run(std::future::pending()).await.unwrap_err();
        assert!(format!("{error:#}").contains("store failed") && format!("{error:#}").contains("oh"), "{error:#}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_not_vital_is_started_again_after_errors_and_panics() {
        let starts = Arc::new(AtomicUsize::new(0));
        let ends = Arc::new(AtomicUsize::new(0));
        let (counter, ended) = (starts.clone(), ends.clone());
        let mut services = Services::default();
        services.restarting(
            "mailer",
            move |stop| {
                let nth = counter.fetch_add(1, Ordering::SeqCst);
                async move {
                    match nth {
                        0 => anyhow::bail!("no server"),
                        1 => panic!("oh"),
                        _ => stop.cancelled().await,
                    }
                    Ok(())
                }
            },
            move |_| {
                ended.fetch_add(1, Ordering::SeqCst);
            },
        );
        services.run(tokio::time::sleep(Duration::from_secs(30))).await.unwrap();
        assert_eq!((starts.load(Ordering::SeqCst), ends.load(Ordering::SeqCst)), (3, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_stop_holds_the_node_only_for_the_grace() {
        let mut services = Services::default();
        services.vital("deaf", std::future::pending());
        services.run(async {}).await.unwrap();
    }
}
