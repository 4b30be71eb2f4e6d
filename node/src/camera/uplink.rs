//! STUB
use crate::clock::Clock;
use dms3_core::protocol::message::*;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
pub struct UplinkContext {
    pub endpoint: crate::mesh::endpoint::Endpoint,
    pub identity: dms3_pki::Identity,
    pub state_dir: std::path::PathBuf,
    pub mesh: crate::mesh::MeshConfig,
    pub boot: dms3_core::id::BootId,
    pub inputs: mpsc::Sender<dms3_core::camera::Input>,
    pub acks: watch::Receiver<Option<AckV1>>,
    pub detectors: watch::Receiver<DetectorsV1>,
    pub health: watch::Receiver<Option<HealthV1>>,
    pub held: watch::Receiver<Option<SignedStateV1>>,
    pub sources: Vec<String>,
    pub status: watch::Sender<LinkStatus>,
    pub clock: Clock,
    pub unknown: std::sync::Arc<std::sync::atomic::AtomicU64>,
}
#[derive(Debug, Clone, Default)]
pub struct LinkStatus {
    pub name: Option<String>,
    pub linked: Option<std::net::SocketAddr>,
    pub trouble: Option<String>,
}
pub async fn run(_c: UplinkContext, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
