//! STUB
use dms3_core::presence::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceConfig {
    pub enabled: bool,
    #[serde(skip)]
    pub presence_may_disarm: May,
    #[serde(with = "humantime_serde")]
    pub blind_alert_after: Duration,
    #[serde(with = "humantime_serde")]
    pub arm_when_blind_after: Option<Duration>,
}
impl Default for PresenceConfig {
    fn default() -> Self {
        Self { enabled: true, presence_may_disarm: May, blind_alert_after: Duration::from_secs(120), arm_when_blind_after: None }
    }
}
#[derive(Debug, Clone, Default)]
pub struct May;
impl May {
    pub fn away_may(&self) -> bool {
        true
    }
    pub fn night_may(&self) -> bool {
        false
    }
}
impl PresenceConfig {
    pub fn people(&self) -> Vec<Person> {
        vec![]
    }
    pub fn validate(&self) -> anyhow::Result<Vec<String>> {
        Ok(vec![])
    }
}
#[derive(Clone)]
pub struct PresenceSensors {
    pub config: PresenceConfig,
    pub devices: Vec<Device>,
    pub known: Vec<(Device, std::net::IpAddr)>,
    pub learned: mpsc::Sender<(Device, std::net::IpAddr)>,
    pub probes: tokio::sync::broadcast::Sender<Device>,
    pub inputs: mpsc::Sender<dms3_core::coordinator::Input>,
    pub clock: crate::clock::Clock,
}
pub async fn run(_s: PresenceSensors, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
