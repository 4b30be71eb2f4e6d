//! The camera's link to a coordinator: finds one, keeps the link, obeys nobody else.

mod facts;
mod search;
mod session;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::camera::Input;
use dms3_core::id::{BootId, MeshId};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{AckV1, CloseCode, DetectorsV1, HealthV1, LookV1, SignedBundleV1, SignedStateV1};
use dms3_core::roster::check_name;
use dms3_pki::{Identity, tls};
use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::revocation;
use crate::clock::Clock;
use crate::mesh::dial::Backoff;
use crate::mesh::discovery::{self, Heard};
use crate::mesh::endpoint::Endpoint;
use crate::mesh::link::Connection;
use crate::mesh::{MdnsMode, MeshConfig};
use crate::services::panic_words;

/// After a link that worked the first attempt comes at once, spread a little over the cameras of a house.
const AT_ONCE: Duration = Duration::from_millis(250);
/// A link that lived shorter did not work, whatever it said.
const WORKED: Duration = Duration::from_secs(5);
/// After somebody else took over with our identity: two machines that throw each other out all the time help nobody.
const TAKEN_OVER: Duration = Duration::from_secs(5);
/// Between attempts to listen to mDNS.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);

/// What the uplink needs, and where it tells what it hears.
#[derive(Debug)]
pub struct UplinkContext {
    pub endpoint: Endpoint,
    /// Ours, as it lies in `state_dir`; a renewed one is written there.
    pub identity: Identity,
    pub state_dir: PathBuf,
    pub mesh: MeshConfig,
    pub boot: BootId,
    pub inputs: mpsc::Sender<Input>,
    /// What was applied, as it is to be told. Of all three the latest wins.
    pub acks: watch::Receiver<Option<AckV1>>,
    pub detectors: watch::Receiver<DetectorsV1>,
    pub health: watch::Receiver<Option<HealthV1>>,
    /// The newest signed state that this node holds.
    pub held: watch::Receiver<Option<SignedStateV1>>,
    /// Names of our detectors.
    pub sources: Vec<String>,
    pub status: watch::Sender<LinkStatus>,
    pub clock: Clock,
    /// The link that is up, for events and their attachments.
    pub carrier: watch::Sender<Option<Connection>>,
    /// What the coordinator answers to those.
    pub answers: mpsc::Sender<Message>,
    /// Sources that somebody wants to see.
    pub looks: mpsc::Sender<LookV1>,
    /// Counts frames that were skipped because this version does not know their type, for the health report.
    pub unknown: Arc<AtomicU64>,
}

/// For `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where the coordinator is to which the link is up.
    pub linked: Option<SocketAddr>,
    /// The name by which people know this node, once a coordinator has told it.
    pub name: Option<String>,
    /// Why there is no link, in words.
    pub trouble: Option<String>,
    /// A coordinator of this house said that a person revoked this node.
    pub revoked: bool,
    /// There is no link since a coordinator said that it stops, as for an update.
    pub farewell: bool,
}

/// The name by which people know this node.
const NAME: &str = "name";

/// As a coordinator said it last.
pub(super) fn known_name(state_dir: &Path) -> Option<String> {
    check_name(std::fs::read_to_string(state_dir.join(NAME)).ok()?.trim()).ok()
}

fn keep_name(state_dir: &Path, name: &str) -> Result<()> {
    if known_name(state_dir).as_deref() != Some(name) {
        dms3_pki::files::write_atomic(&state_dir.join(NAME), name.as_bytes(), dms3_pki::files::PRIVATE)?;
    }
    Ok(())
}

/// Runs until told to stop.
pub async fn run(context: UplinkContext, stop: CancellationToken) -> Result<()> {
    let heard = Heard::default();
    let (mesh, endpoint, house) = (context.mesh.clone(), context.endpoint.clone(), context.identity.mesh());
    let mut uplink = Uplink::new(context, heard.clone())?;
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        result = uplink.run() => result,
        () = listen(&mesh, &heard) => Ok(()),
        () = listen_for_rings(&endpoint, house, &heard) => Ok(()),
    };
    endpoint.close(CloseCode::GoingDown).await;
    result
}

/// Discovery is not vital: without it there are still the last address and the configured ones.
async fn listen(mesh: &MeshConfig, heard: &Heard) {
    if mesh.mdns == MdnsMode::Off {
        return std::future::pending().await;
    }
    loop {
        // Nor may a panic of it end the link.
        match AssertUnwindSafe(discovery::browse(mesh, heard, CancellationToken::new())).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("discovery stopped, starting it again: {error:#}"),
            Err(panic) => tracing::error!("discovery panicked, starting it again: {}", panic_words(panic.as_ref())),
        }
        sleep(LISTEN_AGAIN).await;
    }
}

async fn listen_for_rings(endpoint: &Endpoint, house: MeshId, heard: &Heard) {
    loop {
        let ring = endpoint.rung().await;
        if ring.mesh == house {
            heard.rung(ring);
        }
    }
}

impl UplinkContext {
    /// What a coordinator of this house, and nobody else, said of this node.
    fn is_revoked(&self, revoked: bool) {
        is_revoked(&self.status, &self.state_dir, revoked);
    }
}

fn is_revoked(status: &watch::Sender<LinkStatus>, state_dir: &Path, revoked: bool) {
    revocation::mark(state_dir, revoked);
    status.send_if_modified(|status| std::mem::replace(&mut status.revoked, revoked) != revoked);
}

struct Uplink {
    context: UplinkContext,
    /// Made of the identity, for every dial.
    tls: Arc<rustls::ClientConfig>,
    heard: Heard,
    backoff: Backoff,
    /// When to renew, as a part of the allowed spread.
    jitter: f64,
    /// What was said of why there is no link, and when.
    said: Option<(String, Instant)>,
}

impl Uplink {
    fn new(context: UplinkContext, heard: Heard) -> Result<Self> {
        let tls = client_tls(&context)?;
        Ok(Self { context, tls, heard, backoff: Backoff::default(), jitter: rand::random_range(0.0..1.0), said: None })
    }

    async fn run(&mut self) -> Result<()> {
        let mut wait = Duration::ZERO;
        loop {
            let found = self.search(wait).await?;
            let started = Instant::now();
            let end = self.session(found).await?;
            let code = end.close_code();
            wait = if code == Some(CloseCode::TakenOver) {
                tracing::warn!("the link ended: {end}");
                TAKEN_OVER.mul_f64(rand::random_range(1.0..3.0))
            } else {
                tracing::info!("the link to the coordinator ended: {end}");
                if started.elapsed() >= WORKED || code == Some(CloseCode::Resync) || end.is_reset() {
                    AT_ONCE.mul_f64(rand::random_range(0.0..1.0))
                } else {
                    self.backoff.wait()
                }
            };
            self.context.status.send_modify(|status| {
                status.linked = None;
                status.farewell = code == Some(CloseCode::GoingDown);
                status.trouble = Some(end.to_string());
            });
            if end.is_revocation() {
                self.context.is_revoked(true);
            }
        }
    }

    /// From now on this is who we are, on disk first. A disk that is full must not keep a camera from watching: then it is so until the next
    /// start, which asks for it again.
    fn become_identity(&mut self, identity: Identity) -> Result<()> {
        if let Err(error) = identity.store(&self.context.state_dir) {
            tracing::error!("the new certificate or trust bundle holds until the next start only: {:#}", anyhow::Error::from(error));
        }
        self.context.identity = identity;
        self.tls = client_tls(&self.context)?;
        Ok(())
    }

    /// A bundle that a coordinator handed us. Only a genuine and newer one is taken.
    fn take_bundle(&mut self, signed: &SignedBundleV1) -> Result<()> {
        match self.context.identity.with_bundle(signed) {
            Ok(Some(identity)) => {
                tracing::info!("took over the trust bundle of epoch {}", identity.bundle().epoch());
                self.become_identity(identity)
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!("a coordinator handed on a trust bundle that is not ours: {:#}", anyhow::Error::from(error));
                Ok(())
            }
        }
    }
}

fn client_tls(context: &UplinkContext) -> Result<Arc<rustls::ClientConfig>> {
    tls::mesh_client(&context.identity, Arc::new(context.clock.clone())).context("this node's certificate cannot be used")
}
