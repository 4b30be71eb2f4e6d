//! Looks for people's devices on the own networks: by the kernel's neighbour events, by what passes of ARP, neighbour discovery and DHCP,
//! and by asking.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dms3_core::coordinator::Input;
use dms3_core::presence::{Device, Frames, MacAddr, Probe, Sensor};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::senses::{Sensed, Senses};
use self::watch::Watch;
use crate::clock::Clock;
use crate::coordinator::phones::Phones;

mod arp;
pub(crate) mod bluetooth;
mod book;
mod config;
pub(crate) mod crowds;
mod dhcp;
#[doc(hidden)]
pub mod fuzzing;
mod kernel;
pub(super) mod likeness;
mod links;
mod mdns;
mod names;
mod ndp;
#[cfg(test)]
mod netns_tests;
pub(super) mod network;
mod packet;
pub(crate) mod senses;
pub(crate) mod sight;
mod watch;
#[cfg(test)]
mod weeks;

pub use config::{MayDisarm, PersonConfig, PresenceConfig, PresenceMayDisarm, without_devices};

/// What the sensors work with. Only devices that `phones` knows lead to inputs.
#[derive(Clone)]
pub struct PresenceSensors {
    pub config: PresenceConfig,
    pub phones: Phones,
    /// Where they were last, the newest first.
    pub known: Vec<(Device, IpAddr)>,
    /// Takes where they are now, to be known after a restart.
    pub learned: mpsc::Sender<(Device, IpAddr)>,
    /// The probes that the rules ask for.
    pub probes: broadcast::Sender<Probe>,
    /// Takes what people should know of their work.
    pub told: tokio::sync::watch::Sender<Sensing>,
    pub inputs: mpsc::Sender<Input>,
    pub clock: Clock,
}

/// What the sensors have to say that decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sensing {
    pub frames: Frames,
    /// MAC addresses with several machines behind them, and how many.
    pub crowds: BTreeMap<MacAddr, usize>,
    /// Which people's devices do not tell whether they are home, and why, in words.
    pub troubles: Vec<String>,
}

impl Sensing {
    /// How many machines are behind a MAC address. More than one: it is nobody's device, and not to be learned as one.
    pub fn hosts_behind(&self, mac: MacAddr) -> usize {
        self.crowds.get(&mac).copied().unwrap_or(1)
    }
}

/// Tells the rules who is near and whether the sensors see at all, and answers each probe. An error: start it again.
pub async fn run(sensors: PresenceSensors, stop: CancellationToken) -> Result<()> {
    let probes = sensors.probes.subscribe();
    let watch = async { Box::pin(Watch::new(sensors)).await?.run(probes).await };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = watch => ended,
    }
}

/// What one look found.
#[derive(Debug)]
pub struct Look {
    /// Whether every question got out.
    pub sent: bool,
    pub answers: HashMap<Ipv4Addr, MacAddr>,
}

/// Asks each of the addresses once by ARP on the interface and waits for the answers, a second at most after the last question.
pub async fn look(interface: &str, addresses: &[Ipv4Addr]) -> Result<Look> {
    let mut senses = Senses::open(vec![interface.to_owned()]).await?;
    if let Some(why) = senses.handicap() {
        bail!("cannot say ARP: {why}");
    }
    ensure!(senses.links().iter().any(|link| link.is_usable() && link.has_ipv4()), "{interface} is not up, or has no IPv4 address");
    let mut look = Look { sent: false, answers: HashMap::new() };
    if !senses.sweep_over(addresses.iter().copied().collect::<VecDeque<_>>()) {
        return Ok(Look { sent: true, ..look });
    }
    let mut until = Instant::now() + Duration::from_secs(60);
    while look.answers.len() < addresses.len() || senses.is_sweeping() {
        let Ok(sensed) = tokio::time::timeout_at(until, senses.next()).await else { break };
        match sensed.context("the look was cut short")? {
            Sensed::Heard(heard) if heard.sensor == Sensor::ArpProbe => {
                if let Some(IpAddr::V4(ip)) = heard.ip
                    && addresses.contains(&ip)
                {
                    look.answers.insert(ip, heard.mac);
                }
            }
            Sensed::Swept { sent } => {
                look.sent = sent;
                until = Instant::now() + Duration::from_secs(1);
            }
            Sensed::Heard(_) | Sensed::Named(..) | Sensed::Answers(_) | Sensed::Links => {}
        }
    }
    Ok(look)
}
