//! Ears and voice on the own networks: hears ARP and the kernel's neighbour events, asks one address or all of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::presence::{MacAddr, Sensor};
use tokio::net::UdpSocket;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::arp;
use super::links::{Change, Link, Neighbour, Netlink};
use super::packet::{ArpSocket, BROADCAST};

/// Interfaces are read anew when the kernel tells of a change, and so often in case that it was missed.
const READ_EVERY: Duration = Duration::from_secs(10);
/// A sweep says so many questions at a time, and then lets Wi-Fi and the answers have their turn.
const AT_A_TIME: usize = 16;
const PACE: Duration = Duration::from_millis(10);
/// A sweep that got stuck.
const GIVE_UP: Duration = Duration::from_secs(5);
/// RFC 863: whatever comes there is thrown away.
const DISCARD_PORT: u16 = 9;

/// Proof that a device is there, now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) mac: MacAddr,
    /// Its IPv4 address, if it said one that is of the network that it is on.
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) sensor: Sensor,
    /// On which interface.
    pub(crate) interface: u32,
}

#[derive(Debug)]
pub(crate) enum Sensed {
    Heard(Heard),
    /// Interfaces, addresses, gateways or carrier changed.
    Links,
    /// The sweep is over. `sent`: every address of every network was asked.
    Swept {
        sent: bool,
    },
}

pub(crate) struct Senses {
    netlink: Netlink,
    voice: Voice,
    wanted: Vec<String>,
    links: Vec<Link>,
    by_index: HashMap<u32, usize>,
    own: HashSet<MacAddr>,
    /// The interfaces must be read again.
    stale: bool,
    read: Interval,
    backlog: VecDeque<Neighbour>,
    /// The sweep under way.
    sweep: Option<Sweep>,
    pace: Interval,
    too_large: HashSet<(Ipv4Addr, u8)>,
    packet: [u8; 64],
}

enum Voice {
    Arp(ArpSocket),
    /// Without the right to say ARP: datagrams make the kernel say it, and its neighbour events tell of the answers.
    Udp(UdpSocket, String),
}

struct Sweep {
    left: VecDeque<Ipv4Addr>,
    failed: bool,
    began: Instant,
}

impl Senses {
    /// On these interfaces, or all.
    pub(crate) async fn open(wanted: Vec<String>) -> Result<Self> {
        Self::with_socket(wanted, ArpSocket::open()).await
    }

    /// `socket`: what became of opening it.
    pub(super) async fn with_socket(wanted: Vec<String>, socket: io::Result<ArpSocket>) -> Result<Self> {
        let netlink = Netlink::open()?;
        let voice = match socket {
            Ok(socket) => Voice::Arp(socket),
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::PermissionDenied => "CAP_NET_RAW is missing".to_owned(),
                    _ => error.to_string(),
                };
                Voice::Udp(UdpSocket::bind("0.0.0.0:0").await.context("cannot open a UDP socket to ask devices with")?, why)
            }
        };
        let ticks = |every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut senses = Self {
            netlink,
            voice,
            wanted,
            links: Vec::new(),
            by_index: HashMap::new(),
            own: HashSet::new(),
            stale: false,
            read: ticks(READ_EVERY),
            backlog: VecDeque::new(),
            sweep: None,
            pace: ticks(PACE),
            too_large: HashSet::new(),
            packet: [0; 64],
        };
        senses.set_links(senses.netlink.links(&senses.wanted).await?);
        Ok(senses)
    }

    /// Why ARP itself can be neither heard nor said.
    pub(crate) fn handicap(&self) -> Option<&str> {
        match &self.voice {
            Voice::Arp(_) => None,
            Voice::Udp(_, why) => Some(why),
        }
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(crate) fn wanted(&self) -> &[String] {
        &self.wanted
    }

    /// Which devices the kernel holds for proven, and where. That may be a minute old: it tells whom to ask, not who is there.
    pub(crate) async fn held(&self) -> Result<Vec<Heard>> {
        let neighbours = self.netlink.reachable().await?.into_iter();
        Ok(neighbours.filter_map(|held| self.heard(held.interface, held.mac, ipv4(held), Sensor::Neighbour)).collect())
    }

    /// Without ARP of our own: the addresses that the kernel really asked for us.
    pub(crate) async fn asked_by_kernel(&self) -> Result<HashSet<Ipv4Addr>> {
        self.netlink.asked().await
    }

    /// Without ARP of our own: the devices that the kernel believes in, and so did not ask.
    pub(crate) async fn believed_by_kernel(&self) -> Result<HashSet<MacAddr>> {
        Ok(self.netlink.reachable().await?.into_iter().map(|neighbour| neighbour.mac).collect())
    }

    /// Whether the kernel holds any device of our networks for proven.
    pub(crate) async fn is_anybody_reachable(&self) -> Result<bool> {
        Ok(self.netlink.reachable().await?.iter().any(|neighbour| self.by_index.contains_key(&neighbour.interface)))
    }

    /// What happens next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Sensed> {
        loop {
            if self.stale {
                let links = self.netlink.links(&self.wanted).await?;
                self.stale = false;
                if links != self.links {
                    self.set_links(links);
                    if let Some(sweep) = &mut self.sweep {
                        (sweep.left, sweep.failed) = (VecDeque::new(), true);
                    }
                    return Ok(Sensed::Links);
                }
            }
            if let Some(neighbour) = self.backlog.pop_front() {
                if let Some(heard) = self.heard(neighbour.interface, neighbour.mac, ipv4(neighbour), Sensor::Neighbour) {
                    return Ok(Sensed::Heard(heard));
                }
                continue;
            }
            tokio::select! {
                change = self.netlink.next() => match change? {
                    Change::Reachable(neighbour) => self.backlog.push_back(neighbour),
                    Change::Links => self.stale = true,
                },
                received = self.voice.receive(&mut self.packet) => {
                    let (len, source) = received.context("cannot hear ARP")?;
                    let Some(said) = self.packet.get(..len).and_then(|packet| arp::parse(packet, source.mac)) else { continue };
                    let sensor = match said.answers {
                        Some(target) if self.own.contains(&target) => Sensor::ArpProbe,
                        _ => Sensor::ArpHeard,
                    };
                    if let Some(heard) = self.heard(source.interface, said.sender, Some(said.sender_ip), sensor) {
                        return Ok(Sensed::Heard(heard));
                    }
                }
                _ = self.read.tick() => self.stale = true,
                _ = self.pace.tick(), if self.sweep.is_some() => {
                    if let Some(sent) = self.go_on_sweeping() {
                        return Ok(Sensed::Swept { sent });
                    }
                }
            }
        }
    }

    /// Whether an address is in a network that can be asked now.
    pub(crate) fn can_reach(&self, ip: Ipv4Addr) -> bool {
        self.links.iter().any(|link| link.is_usable() && link.subnet_of(ip).is_some())
    }

    /// Asks one address: the device itself if it is known, and everybody if it is not or `aloud`. An error: nothing was sent.
    pub(crate) fn ask(&self, ip: Ipv4Addr, mac: Option<MacAddr>, aloud: bool) -> io::Result<()> {
        let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for link in self.links.iter().filter(|link| link.is_usable()) {
            let Some(subnet) = link.subnet_of(ip) else { continue };
            let said = match &self.voice {
                Voice::Udp(socket, _) => socket.try_send_to(&[], (ip, DISCARD_PORT).into()).map(drop),
                Voice::Arp(socket) => {
                    let question = arp::request(link.mac, subnet.own, ip);
                    let directly = mac.map(|mac| socket.send(link.index, mac.0, &question));
                    let to_all = (aloud || mac.is_none()).then(|| socket.send(link.index, BROADCAST, &question));
                    match (directly, to_all) {
                        (Some(Ok(())), _) | (None, Some(Ok(()))) => Ok(()),
                        (Some(Err(error)), None) | (None, Some(Err(error))) => Err(error),
                        (Some(Err(_)), Some(said)) => said,
                        (None, None) => continue,
                    }
                }
            };
            if result.is_err() {
                result = said;
            }
        }
        result
    }

    /// Begins to ask every address of the own networks, if that is not under way. False: there is none to ask.
    pub(crate) fn sweep(&mut self) -> bool {
        if self.sweep.is_some() {
            return true;
        }
        let mut left = VecDeque::new();
        let mut all = true;
        for link in self.links.iter().filter(|link| link.is_usable()) {
            for subnet in &link.subnets {
                if subnet.is_swept() {
                    left.extend(subnet.others());
                    continue;
                }
                all = false;
                if self.too_large.insert((subnet.own, subnet.prefix)) {
                    tracing::warn!(
                        "the network {}/{} on {} is too large to ask all its addresses: a device there is found only when it says something",
                        subnet.own,
                        subnet.prefix,
                        link.name
                    );
                }
            }
        }
        if !self.sweep_over(left) {
            return false;
        }
        // Who may be where nobody was asked was not asked.
        if let Some(sweep) = &mut self.sweep {
            sweep.failed = !all;
        }
        true
    }

    /// As [`Self::sweep`], over these addresses.
    pub(crate) fn sweep_over(&mut self, left: VecDeque<Ipv4Addr>) -> bool {
        if left.is_empty() {
            return false;
        }
        self.sweep = Some(Sweep { left, failed: false, began: Instant::now() });
        true
    }

    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// The next few questions. At the end, whether all got out.
    fn go_on_sweeping(&mut self) -> Option<bool> {
        let mut sweep = self.sweep.take()?;
        for _ in 0..AT_A_TIME {
            let Some(ip) = sweep.left.front() else { break };
            match self.ask(*ip, None, true) {
                Err(error) if is_busy(&error) && sweep.began.elapsed() < GIVE_UP => break,
                Err(_) => sweep.failed = true,
                Ok(()) => {}
            }
            sweep.left.pop_front();
        }
        if sweep.left.is_empty() {
            return Some(!sweep.failed);
        }
        self.sweep = Some(sweep);
        None
    }

    fn set_links(&mut self, links: Vec<Link>) {
        self.by_index = links.iter().enumerate().map(|(place, link)| (link.index, place)).collect();
        self.own = links.iter().map(|link| link.mac).collect();
        self.links = links;
    }

    fn heard(&self, interface: u32, mac: MacAddr, ip: Option<Ipv4Addr>, sensor: Sensor) -> Option<Heard> {
        let link = &self.links[*self.by_index.get(&interface)?];
        if self.own.contains(&mac) {
            return None;
        }
        Some(Heard { mac, ip: ip.filter(|ip| link.subnet_of(*ip).is_some()), sensor, interface })
    }
}

impl Voice {
    async fn receive(&self, packet: &mut [u8]) -> io::Result<(usize, super::packet::Source)> {
        match self {
            Self::Arp(socket) => socket.receive(packet).await,
            Self::Udp(..) => std::future::pending().await,
        }
    }
}

fn ipv4(neighbour: Neighbour) -> Option<Ipv4Addr> {
    match neighbour.ip {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

/// Its queue is full: later it goes.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}
