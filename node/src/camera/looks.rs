//! Somebody looks: the coordinator asks, the source answers, the picture goes its own way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::protocol::message::{DetectorPhase, DetectorsV1, LookV1, StillV1};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::detector::Look;
use crate::mesh::link::Connection;
use crate::mesh::transfer;

/// A source that is just started or stopped answers after that.
const ANSWER_WITHIN: Duration = Duration::from_secs(9);
/// Looks that are answered at once, whatever the number of sources.
const AT_ONCE: usize = 8;

/// Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    pub(super) asked: Arc<Mutex<mpsc::Receiver<LookV1>>>,
    pub(super) sources: Arc<HashMap<String, mpsc::Sender<Look>>>,
    /// What the detectors do.
    pub(super) reports: watch::Receiver<DetectorsV1>,
    pub(super) link: watch::Receiver<Option<Connection>>,
}

impl Looks {
    pub(super) async fn run(self, stop: CancellationToken) -> Result<()> {
        let mut asked = self.asked.lock().await;
        let mut answers = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(_) = answers.join_next() => {}
                Some(LookV1 { source }) = asked.recv(), if answers.len() < AT_ONCE => {
                    answers.spawn(self.clone().answer(source));
                }
            }
        }
    }

    async fn answer(self, source: String) {
        let seen = self.see(&source).await;
        let (why, picture) = match seen {
            Ok(picture) => (String::new(), picture),
            Err(why) => (why, Vec::new()),
        };
        let Some(connection) = self.link.borrow().clone() else { return };
        let still = StillV1 { source, length: u32::try_from(picture.len()).unwrap_or(0), why };
        if let Err(error) = transfer::send_still(&connection, still, &picture).await {
            tracing::debug!("a live picture did not get through: {error}");
        }
    }

    async fn see(&self, source: &str) -> Result<Vec<u8>, String> {
        let Some(looks) = self.sources.get(source) else { return Err("there is no such camera here".to_owned()) };
        let paused = DetectorPhase::Paused.to_wire();
        if self.reports.borrow().sources.iter().any(|report| report.source == source && report.phase == paused) {
            return Err("it is stopped by hand on the camera".to_owned());
        }
        let (answer, seen) = oneshot::channel();
        let asked = async {
            looks.send(Look { answer }).await.ok()?;
            seen.await.ok()
        };
        match timeout(ANSWER_WITHIN, asked).await {
            Ok(Some(seen)) => seen,
            Ok(None) => Err("its detector shows nothing".to_owned()),
            Err(_) => Err("its detector did not answer in time".to_owned()),
        }
    }
}
