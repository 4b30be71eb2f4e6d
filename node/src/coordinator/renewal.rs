//! The coordinator's own certificate: renewed long before it ends, presented at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_pki::{Authority, Identity};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// How often it is looked at: a clock may jump, and a failure may pass.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Renews after a third of the certificate's life (±10 %) and tells everybody who presents it.
pub async fn run(
    authority: Arc<Authority>,
    state_dir: PathBuf,
    identity: watch::Sender<Identity>,
    clock: Clock,
    stop: CancellationToken,
) -> Result<()> {
    let jitter = rand::random_range(0.0..1.0);
    loop {
        let current = identity.borrow().clone();
        let now = clock.now();
        // A clock that is only a lower bound is early, never late: it renews nothing too soon, but it must not sign either.
        if now.at >= current.renew_at(jitter) {
            if now.trusted {
                match renew(&authority, &state_dir, &current, now.at) {
                    Ok(renewed) => {
                        tracing::info!("renewed this coordinator's own certificate");
                        identity.send_replace(renewed);
                    }
                    Err(error) => tracing::error!("this coordinator's certificate cannot be renewed: {error:#}"),
                }
            } else {
                tracing::warn!("this coordinator's certificate is to be renewed, and its clock is not to be trusted: set the time");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn renew(authority: &Authority, state_dir: &std::path::Path, current: &Identity, now: dms3_core::time::Timestamp) -> Result<Identity> {
    let renewed = authority.renew_own(current, now)?;
    renewed.store(state_dir)?;
    Ok(renewed)
}
