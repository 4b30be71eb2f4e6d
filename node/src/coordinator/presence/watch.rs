//! The watch over people's devices: turns what is sensed into inputs of the rules, and their probes into questions.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::coordinator::Input;
use dms3_core::presence::Device;
use dms3_core::time::Mono;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::PresenceSensors;
use super::book::Book;
use super::senses::{Heard, Sensed, Senses};
use super::sight::Sight;

/// Devices without a known address share a sweep; it is not begun more often.
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_secs(5);
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
/// From this unanswered probe on everybody is asked: the device may have got a new MAC-to-address pair that our switch does not know.
const ALOUD_FROM: u32 = 3;
/// At this one all addresses are asked, once: it may have got another address.
const SWEEP_AT: u32 = 6;

pub(super) struct Watch {
    sensors: PresenceSensors,
    senses: Senses,
    book: Book,
    sight: Sight,
    /// Devices whose probe is the sweep under way.
    waiting: Vec<usize>,
    /// Without ARP of our own: devices for which the kernel was told to ask, at these addresses.
    doubtful: Vec<(usize, Ipv4Addr)>,
    /// The interface on which each device was heard last.
    heard_on: HashMap<usize, String>,
    /// How many sweeps there were; when the newest began; whether it got out whole.
    sweeps: (u64, Mono, bool),
    /// When the next routine sweep is due.
    sweep_at: Mono,
    resolve_at: Mono,
    resolving: JoinSet<(usize, Result<Ipv4Addr, String>)>,
    /// Host names of which a trouble was told.
    troubled: HashSet<usize>,
}

impl Watch {
    pub(super) async fn new(sensors: PresenceSensors) -> Result<Self> {
        let senses = Senses::open(sensors.config.interfaces.clone()).await?;
        Self::with(sensors, senses).await
    }

    pub(super) async fn with(sensors: PresenceSensors, senses: Senses) -> Result<Self> {
        let now = sensors.clock.now().mono;
        if let Some(why) = senses.handicap() {
            tracing::warn!(
                "people's devices cannot be asked by ARP: {why}. They are asked by way of the kernel instead, which notices their going later. \
                 Give the service AmbientCapabilities=CAP_NET_RAW, as the packaged unit does"
            );
        }
        let mut book = Book::new(sensors.devices.clone(), sensors.known.clone());
        // No sighting: a phone that has just left must not disarm the house because the coordinator restarts.
        for held in senses.held().await? {
            book.learn(held.mac, held.ip);
        }
        Ok(Self {
            senses,
            book,
            sight: Sight::new(now),
            waiting: Vec::new(),
            doubtful: Vec::new(),
            heard_on: HashMap::new(),
            sweeps: (0, Mono(0), false),
            sweep_at: now,
            resolve_at: now,
            resolving: JoinSet::new(),
            troubled: HashSet::new(),
            sensors,
        })
    }

    pub(super) async fn run(mut self, mut probes: broadcast::Receiver<Device>) -> Result<()> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.look_around().await?;
        loop {
            tokio::select! {
                probe = probes.recv() => match probe {
                    Ok(device) => self.probe(device).await?,
                    Err(RecvError::Lagged(lost)) => tracing::warn!("{lost} probes were asked for faster than they could be sent"),
                    Err(RecvError::Closed) => return Ok(()),
                },
                sensed = self.senses.next() => match sensed? {
                    Sensed::Heard(heard) => self.heard(heard).await?,
                    Sensed::Links => {
                        self.sweep_at = self.now();
                        self.look_around().await?;
                    }
                    Sensed::Swept { sent } => self.swept(sent).await?,
                },
                Some(resolved) = self.resolving.join_next() => {
                    let (place, address) = resolved.context("a look-up of a host name failed")?;
                    self.resolved(place, address);
                }
                _ = second.tick() => self.every_second().await?,
            }
        }
    }

    async fn heard(&mut self, heard: Heard) -> Result<()> {
        let now = self.now();
        self.sight.heard(heard.ip, now);
        let on = self.senses.links().iter().find(|link| link.index == heard.interface).map(|link| link.name.clone());
        for place in self.book.heard(heard.mac, heard.ip, now) {
            if let Some(name) = &on {
                self.heard_on.insert(place, name.clone());
            }
            let device = self.book.entry(place).device.clone();
            self.tell(Input::Sighting { device, sensor: heard.sensor }).await?;
            if let Some(learned) = self.book.news_of(place, now)
                && self.sensors.learned.try_send(learned).is_err()
            {
                tracing::debug!("the address of a device could not be kept now: it will be told again");
                self.book.not_told(place);
            }
        }
        self.look_around().await
    }

    /// Sends one question to the device and says whether it got out.
    async fn probe(&mut self, device: Device) -> Result<()> {
        let sent = match self.book.place(&device) {
            None => false,
            Some(place) => {
                let entry = self.book.entry(place);
                let (ip, mac, unanswered) = (entry.ip, entry.mac, entry.unanswered + 1);
                match ip {
                    Some(ip) if self.senses.can_reach(ip) => {
                        let sent = self.senses.ask(ip, mac, unanswered >= ALOUD_FROM).is_ok();
                        if sent && self.senses.handicap().is_some() {
                            // Whether that made the kernel ask is seen later.
                            self.doubtful.push((place, ip));
                            return Ok(());
                        }
                        if sent {
                            self.asked(place);
                            if unanswered == SWEEP_AT {
                                self.begin_sweep();
                            }
                        }
                        sent
                    }
                    _ if matches!(device, Device::Host(_)) => {
                        self.cannot_ask(place, &device, ip);
                        false
                    }
                    _ => match self.probe_by_sweep(place) {
                        Some(sent) => sent,
                        None => return Ok(()),
                    },
                }
            }
        };
        self.tell(Input::Probed { device, sent }).await
    }

    /// A device without a known address is asked by asking everybody. None: the sweep is under way, and its end is the answer.
    fn probe_by_sweep(&mut self, place: usize) -> Option<bool> {
        if self.senses.is_sweeping() || self.begin_sweep() {
            if !self.waiting.contains(&place) {
                self.waiting.push(place);
            }
            return None;
        }
        // The last one was just now: it counts, but only once for each device.
        let (sweep, began, whole) = self.sweeps;
        let fresh = whole && self.now().since(began) < SWEEP_AT_MOST_EVERY && self.book.entry(place).swept != sweep;
        if fresh {
            self.book.entry(place).swept = sweep;
            self.asked(place);
        }
        Some(fresh)
    }

    /// False: the last one was just now, or there is nobody to ask.
    fn begin_sweep(&mut self) -> bool {
        let now = self.now();
        let (count, began, _) = self.sweeps;
        if self.senses.is_sweeping() || (count > 0 && now.since(began) < SWEEP_AT_MOST_EVERY) || !self.senses.sweep() {
            return false;
        }
        self.sweeps = (count + 1, now, false);
        true
    }

    /// A probe counts only if the kernel asked. It does not where it believes to know that the device is there: that is no answer either.
    async fn look_what_the_kernel_asked(&mut self) -> Result<()> {
        if self.doubtful.is_empty() {
            return Ok(());
        }
        let asked = self.senses.asked_by_kernel().await?;
        for (place, ip) in std::mem::take(&mut self.doubtful) {
            let sent = asked.contains(&ip);
            if sent {
                self.asked(place);
                if self.book.entry(place).unanswered == SWEEP_AT {
                    self.begin_sweep();
                }
            }
            let device = self.book.entry(place).device.clone();
            self.tell(Input::Probed { device, sent }).await?;
        }
        Ok(())
    }

    async fn swept(&mut self, whole: bool) -> Result<()> {
        let believed = match self.senses.handicap() {
            Some(_) if !self.waiting.is_empty() => self.senses.believed_by_kernel().await?,
            _ => HashSet::new(),
        };
        self.sweeps.2 = whole && self.senses.handicap().is_none();
        for place in std::mem::take(&mut self.waiting) {
            let sent = whole && self.book.entry(place).mac.is_none_or(|mac| !believed.contains(&mac));
            if sent {
                self.book.entry(place).swept = self.sweeps.0;
                self.asked(place);
            }
            let device = self.book.entry(place).device.clone();
            self.tell(Input::Probed { device, sent }).await?;
        }
        Ok(())
    }

    fn asked(&mut self, place: usize) {
        let entry = self.book.entry(place);
        entry.unanswered = entry.unanswered.saturating_add(1);
    }

    async fn every_second(&mut self) -> Result<()> {
        self.look_what_the_kernel_asked().await?;
        let now = self.now();
        if now >= self.sweep_at && self.begin_sweep() {
            self.sweep_at = now + self.sensors.config.sweep;
        }
        if now >= self.resolve_at && self.resolving.is_empty() {
            self.resolve_at = now + RESOLVE_EVERY;
            for (place, name) in self.book.hosts() {
                let name = name.to_owned();
                self.resolving.spawn(async move { (place, resolve(&name).await) });
            }
        }
        let gateways = self.sight.gateways_due(self.senses.links(), now);
        if !gateways.is_empty() {
            // Without ARP of our own, silence may only mean that the kernel had no doubts to clear.
            let hears = self.senses.handicap().is_none();
            if !hears && self.senses.is_anybody_reachable().await? {
                self.sight.heard(None, now);
            }
            for gateway in gateways {
                if self.senses.ask(gateway, None, true).is_ok() {
                    self.sight.was_asked(gateway, hears);
                }
            }
        }
        self.look_around().await
    }

    /// Tells when the sensors went blind or see again.
    async fn look_around(&mut self) -> Result<()> {
        let now = self.now();
        let hears = |name: &String| self.senses.links().iter().any(|link| link.is_usable() && link.name == *name);
        let lost = self.heard_on.values().find(|name| !hears(name));
        self.sight.lost(lost.map(|name| format!("{name}, on which people's devices were heard, has no connection")));
        let Some(why) = self.sight.change(self.senses.links(), self.senses.wanted(), now) else { return Ok(()) };
        match &why {
            Some(why) => tracing::warn!("presence is blind: {why}"),
            None => {
                let names: Vec<_> = self.senses.links().iter().filter(|link| link.is_usable()).map(|link| link.name.as_str()).collect();
                tracing::info!("presence looks for people's devices on {}", names.join(", "));
            }
        }
        self.tell(Input::Blind(why)).await
    }

    fn resolved(&mut self, place: usize, address: Result<Ipv4Addr, String>) {
        match address {
            Ok(ip) => {
                if self.book.entry(place).ip != Some(ip) {
                    self.troubled.remove(&place);
                }
                self.book.resolved(place, ip);
            }
            Err(why) => {
                if self.troubled.insert(place) {
                    let device = &self.book.entry(place).device;
                    tracing::warn!(
                        "the address of the device {device} cannot be found: {why}. Its MAC address in the config needs no name server"
                    );
                }
            }
        }
    }

    fn cannot_ask(&mut self, place: usize, device: &Device, ip: Option<Ipv4Addr>) {
        let sees = self.senses.links().iter().any(super::links::Link::is_usable);
        if let (true, Some(ip)) = (sees, ip)
            && self.troubled.insert(place)
        {
            tracing::warn!("the device {device} cannot be asked: {ip} is in no network of this machine");
        }
    }

    fn now(&self) -> Mono {
        self.sensors.clock.now().mono
    }

    async fn tell(&self, input: Input) -> Result<()> {
        self.sensors.inputs.send(input).await.ok().context("nobody takes what the sensors tell")
    }
}

async fn resolve(name: &str) -> Result<Ipv4Addr, String> {
    if let Ok(ip) = name.parse() {
        return Ok(ip);
    }
    let found = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((name, 0)))
        .await
        .map_err(|_| "the name server does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let ips = found.filter_map(|address| match address.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    ips.into_iter().next().ok_or_else(|| "it has no IPv4 address".to_owned())
}
