//! The watch over people's devices: turns what is sensed into inputs of the rules, and their probes into questions.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::coordinator::Input;
use dms3_core::presence::{Device, Frames, MacAddr, Probe, Urgency};
use dms3_core::time::Mono;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::book::{Book, Finder};
use super::crowds::Crowds;
use super::likeness::{Likeness, Mark};
use super::links::Link;
use super::senses::{Heard, How, Sensed, Senses};
use super::sight::Sight;
use super::{PresenceSensors, mdns};

/// Devices without a known address share a sweep; it is not begun more often.
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_secs(5);
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
/// A routine sweep finds who says nothing of his own accord, which is hardly anybody: each comes after twice the time, at most this.
const SWEEP_AT_LEAST_EVERY: Duration = Duration::from_secs(4 * 3600);
/// From this unanswered probe on everybody is asked: the device may have got a new MAC-to-address pair that our switch does not know.
const ALOUD_FROM: u32 = 3;
/// At this one of the twelve of the last minute all addresses are asked, once: it may have got another address. From then on it is missed, and
/// routine sweeps are not left out. Not before: a phone that sleeps for four minutes of every five would cost hundreds of frames each time.
const SWEEP_AT: u32 = 9;
/// A device left a question open: so long its going may depend on whether the network is there.
const IN_DOUBT: Duration = Duration::from_secs(35);

pub(super) struct Watch {
    sensors: PresenceSensors,
    senses: Senses,
    book: Book,
    sight: Sight,
    likeness: Likeness,
    /// Devices whose probe is the sweep under way.
    waiting: Vec<usize>,
    /// Without ARP of our own: devices for which the kernel was told to ask, at these addresses.
    doubtful: Vec<(usize, IpAddr, Urgency)>,
    /// The interface on which each device was heard last.
    heard_on: HashMap<usize, String>,
    /// Interfaces that had an IPv4 address: without it they hear half of what they did.
    had_ipv4: HashSet<String>,
    crowds: Crowds,
    /// People were told that these have several machines behind them.
    crowded: HashSet<MacAddr>,
    /// Who has which device.
    owners: HashMap<Device, String>,
    in_doubt_until: Mono,
    /// What was sent before this watch began: the one before it failed.
    frames_before: Frames,
    /// How many sweeps there were; when the newest began; whether it got out whole.
    sweeps: (u64, Mono, bool),
    /// When the next routine sweep is due, and how long after it the one behind it.
    sweep_at: Mono,
    sweep_every: Duration,
    resolve_at: Mono,
    resolving: JoinSet<(usize, Result<Vec<IpAddr>, String>)>,
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
                "people's devices cannot be asked by ARP and neighbour discovery: {why}. They are asked by way of the kernel instead, which notices their going later. \
                 Give the service AmbientCapabilities=CAP_NET_RAW, as the packaged unit does"
            );
        }
        let mut book = Book::new(sensors.phones.devices().borrow().clone(), sensors.known.clone());
        // No sighting: a phone that has just left must not disarm the house because the coordinator restarts.
        for held in senses.held().await? {
            book.learn(held.mac, held.ip);
        }
        let frames_before = sensors.told.borrow().frames;
        let owners = sensors.phones.owners();
        Ok(Self {
            senses,
            book,
            sight: Sight::new(now),
            likeness: Likeness::new(&sensors.known),
            waiting: Vec::new(),
            doubtful: Vec::new(),
            heard_on: HashMap::new(),
            had_ipv4: HashSet::new(),
            crowds: Crowds::default(),
            crowded: HashSet::new(),
            owners,
            in_doubt_until: now,
            frames_before,
            sweeps: (0, Mono(0), false),
            sweep_at: now,
            sweep_every: sensors.config.sweep,
            resolve_at: now,
            resolving: JoinSet::new(),
            troubled: HashSet::new(),
            sensors,
        })
    }

    pub(super) async fn run(mut self, mut probes: broadcast::Receiver<Probe>) -> Result<()> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.look_around().await?;
        let mut devices = self.sensors.phones.devices();
        devices.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = devices.changed() => {
                    for place in self.book.follow(&devices.borrow_and_update()) {
                        self.heard_on.remove(&place);
                    }
                    self.owners = self.sensors.phones.owners();
                }
                probe = probes.recv() => match probe {
                    // Not on this network: the sensor for Bluetooth answers it.
                    Ok(Probe { device: Device::Bluetooth(_), .. }) => {}
                    Ok(probe) => self.probe(probe).await?,
                    Err(RecvError::Lagged(lost)) => tracing::warn!("{lost} probes were asked for faster than they could be sent"),
                    Err(RecvError::Closed) => return Ok(()),
                },
                sensed = self.senses.next() => match sensed? {
                    Sensed::Heard(heard) => self.heard(heard).await?,
                    Sensed::Named(heard, name) => {
                        self.book.named(heard.mac, &name);
                        self.resembles(heard.mac, Mark::Name(name));
                        self.heard(heard).await?;
                    }
                    Sensed::Answers(answers) => {
                        for place in self.book.said_by_mdns(&answers) {
                            self.troubled.remove(&place);
                        }
                    }
                    Sensed::Links => {
                        self.sweep_at = self.now();
                        self.sweep_every = self.sensors.config.sweep;
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
        if let Some(IpAddr::V4(ip)) = heard.ip {
            self.crowds.heard(heard.mac, ip, now);
        }
        let is_crowd = self.crowds.hosts_behind(heard.mac, now) > 1;
        if let Some(ip) = heard.ip {
            self.resembles(heard.mac, Mark::Place(ip));
        }
        let on = self.senses.links().iter().find(|link| link.index == heard.interface).map(|link| link.name.clone());
        for place in self.book.heard(heard.mac, heard.ip, now) {
            if let Some(name) = &on {
                self.heard_on.insert(place, name.clone());
            }
            let device = self.book.entry(place).device.clone();
            // It may have been any of those behind it.
            if is_crowd && matches!(device, Device::Mac(_)) {
                continue;
            }
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

    /// Asks the device and says whether that got out.
    async fn probe(&mut self, Probe { device, urgency }: Probe) -> Result<()> {
        let sent = match self.book.place(&device) {
            None => Some(false),
            Some(place) => self.ask(place, urgency),
        };
        match sent {
            Some(sent) => self.tell(Input::Probed { device, sent }).await,
            None => Ok(()),
        }
    }

    /// Whether every question got out. None: that is seen later.
    fn ask(&mut self, place: usize, urgency: Urgency) -> Option<bool> {
        let now = self.now();
        let entry = self.book.entry(place);
        let (mac, unanswered, host) = (entry.mac, entry.unanswered.saturating_add(1), entry.host().map(str::to_owned));
        if host.is_none() && mac.is_some_and(|mac| self.crowds.hosts_behind(mac, now) > 1) {
            // Whoever answers, or does not, is not known to be this device.
            return Some(false);
        }
        if urgency != Urgency::Lookout && unanswered > 1 {
            self.in_doubt_until = now + IN_DOUBT;
        }
        if let (Urgency::Deciding, Some(name)) = (urgency, host.as_deref().and_then(mdns::local_name)) {
            self.senses.ask_for(&name);
        }
        let known = self.book.entry(place).addresses();
        let reachable: Vec<IpAddr> = known.iter().copied().filter(|ip| self.senses.can_reach(*ip)).collect();
        let Some(first) = reachable.iter().find(|ip| ip.is_ipv4()).or(reachable.first()).copied() else {
            return match (host, urgency) {
                (Some(_), _) => {
                    self.cannot_ask(place);
                    Some(false)
                }
                (None, Urgency::Lookout) => Some(false),
                (None, _) => self.probe_by_sweep(place),
            };
        };
        if self.senses.handicap().is_some() {
            if self.senses.ask(first, mac, How::Quiet).is_err() {
                return Some(false);
            }
            // Whether that made the kernel ask is seen later.
            self.doubtful.push((place, first, urgency));
            return None;
        }
        let (at, how) = match urgency {
            Urgency::Deciding => (reachable, How::Both),
            Urgency::Routine if unanswered >= ALOUD_FROM => (vec![first], How::Both),
            Urgency::Routine => (vec![first], How::Quiet),
            Urgency::Lookout => (vec![first], How::Aloud),
        };
        let mut sent = true;
        for ip in at {
            sent &= self.senses.ask(ip, mac, how).is_ok();
        }
        if urgency == Urgency::Deciding {
            self.senses.wake(first);
        }
        if sent {
            self.asked_there(place, urgency);
        }
        Some(sent)
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
        for (place, ip, urgency) in std::mem::take(&mut self.doubtful) {
            let sent = asked.contains(&ip);
            if sent {
                self.asked_there(place, urgency);
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

    /// At the addresses that it had.
    fn asked_there(&mut self, place: usize, urgency: Urgency) {
        self.asked(place);
        if urgency == Urgency::Deciding {
            let entry = self.book.entry(place);
            entry.pressed = entry.pressed.saturating_add(1);
            if entry.pressed == SWEEP_AT {
                self.begin_sweep();
            }
        }
    }

    fn asked(&mut self, place: usize) {
        let entry = self.book.entry(place);
        entry.unanswered = entry.unanswered.saturating_add(1);
    }

    async fn every_second(&mut self) -> Result<()> {
        self.look_what_the_kernel_asked().await?;
        let now = self.now();
        // The first one finds all that is there; later ones are for whoever is not where he was.
        let is_first = self.sweep_every == self.sensors.config.sweep;
        if now >= self.sweep_at && !is_first && self.senses.handicap().is_none() && !self.book.is_anybody_missed(SWEEP_AT) {
            self.sweep_at = now + self.sweep_every;
        }
        if now >= self.sweep_at && self.begin_sweep() {
            self.sweep_at = now + self.sweep_every;
            // Without ARP of our own hardly anybody is heard who does not talk with this machine.
            if self.senses.handicap().is_none() {
                self.sweep_every = more_rarely(self.sweep_every, self.sensors.config.sweep);
            }
        }
        if now >= self.resolve_at && self.resolving.is_empty() {
            self.resolve_at = now + RESOLVE_EVERY;
            let hosts: Vec<(usize, String)> = self.book.hosts().map(|(place, name)| (place, name.to_owned())).collect();
            for (place, name) in hosts {
                // Who is here and answers is where he was.
                let entry = self.book.entry(place);
                let is_missed = entry.unanswered > 0 || entry.addresses().is_empty();
                if let Some(local) = mdns::local_name(&name).filter(|_| is_missed && name.parse::<IpAddr>().is_err()) {
                    self.senses.ask_for(&local);
                }
                self.resolving.spawn(async move { (place, resolve(&name).await) });
            }
        }
        let gateways = self.sight.gateways_due(self.senses.links(), now >= self.in_doubt_until, now);
        if !gateways.is_empty() {
            // Without ARP of our own, silence may only mean that the kernel had no doubts to clear.
            let hears = self.senses.handicap().is_none();
            if !hears && self.senses.is_anybody_reachable().await? {
                self.sight.heard(None, now);
            }
            for gateway in gateways {
                if self.senses.ask(gateway, None, How::Aloud).is_ok() {
                    self.sight.was_asked(gateway, hears);
                }
            }
        }
        for ip in self.book.of_link() {
            self.senses.listen_for(ip);
        }
        self.look_at_crowds();
        self.tell_what_it_cost();
        self.look_around().await
    }

    /// Tells once of a device that shares its MAC address with others: it proves nothing any more.
    fn look_at_crowds(&mut self) {
        let now = self.now();
        let crowds = self.crowds.all(now);
        let of_people: Vec<MacAddr> = self.book.macs().filter(|(device, _)| matches!(device, Device::Mac(_))).map(|(_, mac)| mac).collect();
        for mac in of_people {
            let owner = self.owners.get(&Device::Mac(mac)).map_or("somebody", String::as_str);
            match crowds.get(&mac) {
                Some(hosts) if self.crowded.insert(mac) => {
                    tracing::warn!("{}", crowd_words(owner, mac, *hosts));
                }
                None if self.crowded.remove(&mac) => {
                    tracing::info!("{mac} of {owner} is one machine's own again: it tells whether {owner} is home");
                }
                _ => {}
            }
        }
        let crowded = crowds.iter().filter(|(mac, _)| self.crowded.contains(mac));
        let mut troubles: Vec<String> = crowded.map(|(mac, hosts)| crowd_words(self.owner(*mac), *mac, *hosts)).collect();
        let mut usable = self.senses.links().iter().filter(|link| link.is_usable()).peekable();
        if usable.peek().is_some() && !usable.any(Link::has_ipv4) {
            troubles.extend(self.book.nowhere().map(|mac| unseen_words(self.owner(mac), mac)));
        }
        self.sensors.told.send_if_modified(|told| {
            let is_news = told.crowds != crowds || told.troubles != troubles;
            (told.crowds, told.troubles) = (crowds, troubles);
            is_news
        });
    }

    /// It may be a device that made up another address.
    fn resembles(&mut self, mac: MacAddr, mark: Mark) {
        let (now, phones) = (self.now(), &self.sensors.phones);
        let like = self.likeness.heard(mac, mark, |mac| phones.is_known(mac), now);
        like.into_iter().for_each(|like| phones.looks_like(like));
    }

    fn owner(&self, mac: MacAddr) -> &str {
        self.owners.get(&Device::Mac(mac)).map_or("somebody", String::as_str)
    }

    fn tell_what_it_cost(&self) {
        let frames = self.frames_before + self.senses.frames();
        self.sensors.told.send_if_modified(|told| std::mem::replace(&mut told.frames, frames) != frames);
    }

    /// Tells when the sensors went blind or see again.
    async fn look_around(&mut self) -> Result<()> {
        let now = self.now();
        let hears = |name: &String| self.senses.links().iter().any(|link| link.is_usable() && link.name == *name);
        let lost = self.heard_on.values().find(|name| !hears(name));
        let lost = lost.map(|name| format!("{name}, on which people's devices were heard, has no connection"));
        let usable = self.senses.links().iter().filter(|link| link.is_usable());
        self.had_ipv4.extend(usable.clone().filter(|link| link.has_ipv4()).map(|link| link.name.clone()));
        let half = usable.clone().find(|link| !link.has_ipv4() && self.had_ipv4.contains(&link.name));
        let half = half.map(|link| format!("{} lost its IPv4 address (if that is for good: restart the node)", link.name));
        self.sight.lost(lost.or(half));
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

    fn resolved(&mut self, place: usize, addresses: Result<Vec<IpAddr>, String>) {
        match addresses {
            Ok(ips) => {
                self.troubled.remove(&place);
                self.book.resolved(place, Finder::System, ips);
            }
            Err(why) => {
                let entry = self.book.entry(place);
                // It may be known by mDNS, or by the MAC address for which it asked for an address.
                if entry.addresses().is_empty() && entry.mac.is_none() && self.troubled.insert(place) {
                    let device = &self.book.entry(place).device;
                    tracing::warn!(
                        "the address of the device {device} cannot be found: {why}. Its MAC address in the config needs no name server"
                    );
                }
            }
        }
    }

    fn cannot_ask(&mut self, place: usize) {
        let sees = self.senses.links().iter().any(Link::is_usable);
        let entry = self.book.entry(place);
        if let (true, Some(ip)) = (sees, entry.addresses().first().copied()) {
            let device = entry.device.clone();
            if self.troubled.insert(place) {
                tracing::warn!("the device {device} cannot be asked: {ip} is in no network of this machine");
            }
        }
    }

    fn now(&self) -> Mono {
        self.sensors.clock.now().mono
    }

    async fn tell(&self, input: Input) -> Result<()> {
        self.sensors.inputs.send(input).await.ok().context("nobody takes what the sensors tell")
    }
}

/// How long after the next routine sweep the one behind it comes.
fn more_rarely(every: Duration, at_first: Duration) -> Duration {
    (every * 2).min(SWEEP_AT_LEAST_EVERY).max(at_first)
}

fn crowd_words(owner: &str, mac: MacAddr, hosts: usize) -> String {
    format!(
        "{mac} of {owner} has {hosts} machines behind it (a Wi-Fi extender, or a router that answers for others): it does not tell whether \
         {owner} is home. Give {owner}'s device by its host name or IPv4 address, or let it use another access point"
    )
}

fn unseen_words(owner: &str, mac: MacAddr) -> String {
    format!(
        "{mac} of {owner} was not seen yet. In a network without IPv4 nobody can be looked for whose address is not known: until it is seen \
         once, it is not known whether {owner} is away"
    )
}

async fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(ip) = name.parse() {
        return Ok(vec![ip]);
    }
    let found = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((name, 0)))
        .await
        .map_err(|_| "the name server does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let is_elsewhere = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
    let mut ips: Vec<IpAddr> = found.map(|address| address.ip()).filter(is_elsewhere).collect();
    // A different order is no other answer.
    ips.sort_unstable();
    ips.dedup();
    Ok(ips).and_then(|ips| if ips.is_empty() { Err("it has no address".to_owned()) } else { Ok(ips) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_network_is_asked_more_and_more_rarely() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        let mut every = minutes(1);
        let mut in_a_day = 0;
        let mut passed = Duration::ZERO;
        while passed < minutes(24 * 60) {
            in_a_day += 1;
            passed += every;
            every = more_rarely(every, minutes(1));
        }
        assert!(every == minutes(240) && (11..=16).contains(&in_a_day), "{in_a_day}");
        assert_eq!(more_rarely(minutes(300), minutes(300)), minutes(300), "as rarely as a person says");
    }
}
