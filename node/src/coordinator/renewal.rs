//! STUB
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
pub async fn run(
    _a: std::sync::Arc<dms3_pki::Authority>,
    _d: std::path::PathBuf,
    _i: watch::Sender<dms3_pki::Identity>,
    _c: crate::clock::Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
