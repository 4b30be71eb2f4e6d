//! STUB
use crate::clock::Clock;
use dms3_core::protocol::message::*;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
pub struct PeersContext {
    pub endpoint: crate::mesh::endpoint::Endpoint,
    pub identity: watch::Receiver<dms3_pki::Identity>,
    pub state: watch::Receiver<Option<std::sync::Arc<SignedStateV1>>>,
    pub inputs: mpsc::Sender<dms3_core::coordinator::Input>,
    pub roster: super::roster::Roster,
    pub authority: std::sync::Arc<dms3_pki::Authority>,
    pub clock: Clock,
    pub boot: dms3_core::id::BootId,
}
pub async fn run(_c: PeersContext, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
