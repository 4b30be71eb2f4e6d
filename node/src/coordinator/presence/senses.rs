//! Ears and voice on the own networks: hears ARP, neighbour discovery, DHCP and the kernel's neighbour events; asks one address or all.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::presence::{Frames, MacAddr, Sensor};
use tokio::net::UdpSocket;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::links::{Change, Link, Neighbour, Netlink, believable};
use super::names::{Names, on};
use super::packet::{BROADCAST, PacketSockets, Source, Talk};
use super::{arp, dhcp, ndp};

/// Interfaces are read anew when the kernel tells of a change, and so often in case that it was missed.
const READ_EVERY: Duration = Duration::from_secs(10);
/// A sweep says so many questions at a time, and then lets Wi-Fi and the answers have their turn.
const AT_A_TIME: usize = 16;
const PACE: Duration = Duration::from_millis(10);
/// A sweep that got stuck.
const GIVE_UP: Duration = Duration::from_secs(5);
/// RFC 863: whatever comes there is thrown away.
const DISCARD_PORT: u16 = 9;
/// The first part of a packet: a DHCP client says who it is in the first 600 bytes, and nothing else of interest is half as long.
const LARGEST: usize = 1024;
/// No family has more, and addresses that are made up find no more room.
const GROUPS: usize = 256;

/// Proof that a device is there, now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) mac: MacAddr,
    /// Its address, if it said one that is of the network that it is on.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) sensor: Sensor,
    /// On which interface.
    pub(crate) interface: u32,
}

#[derive(Debug)]
pub(crate) enum Sensed {
    Heard(Heard),
    /// The same of one that asked for an address by this name.
    Named(Heard, String),
    /// Somebody on our networks says by mDNS that these names have these addresses.
    Answers(Vec<(String, IpAddr)>),
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
    names: Names,
    /// On which interface we listen to which group.
    listens: HashSet<(u32, Ipv6Addr)>,
    frames: Frames,
    /// The interfaces must be read again.
    stale: bool,
    read: Interval,
    backlog: VecDeque<Neighbour>,
    /// The sweep under way.
    sweep: Option<Sweep>,
    pace: Interval,
    too_large: HashSet<(Ipv4Addr, u8)>,
    packet: Box<[u8; LARGEST]>,
}

/// How loud a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// To the device alone, if its MAC address is known; else to all.
    Quiet,
    /// To all: its MAC address may be another one now.
    Aloud,
    Both,
}

enum Voice {
    Raw(PacketSockets),
    /// Without the right to say ARP and neighbour discovery: datagrams make the kernel say it, and its neighbour events tell of the answers.
    Udp {
        ipv4: UdpSocket,
        ipv6: Option<UdpSocket>,
        why: String,
    },
    #[cfg(test)]
    MadeUp(super::packet::Air),
}

struct Sweep {
    left: VecDeque<Ipv4Addr>,
    failed: bool,
    began: Instant,
}

impl Senses {
    /// On these interfaces, or all.
    pub(crate) async fn open(wanted: Vec<String>) -> Result<Self> {
        Self::with_socket(wanted, PacketSockets::open()).await
    }

    /// `socket`: what became of opening it.
    pub(super) async fn with_socket(wanted: Vec<String>, socket: io::Result<PacketSockets>) -> Result<Self> {
        let netlink = Netlink::open()?;
        let voice = match socket {
            Ok(sockets) => Voice::Raw(sockets),
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::PermissionDenied => "CAP_NET_RAW is missing".to_owned(),
                    _ => error.to_string(),
                };
                let ipv4 = UdpSocket::bind("0.0.0.0:0").await.context("cannot open a UDP socket to ask devices with")?;
                Voice::Udp { ipv4, ipv6: UdpSocket::bind("[::]:0").await.ok(), why }
            }
        };
        Self::of(netlink, voice, Names::open().await, wanted).await
    }

    /// On a network that a test makes up.
    #[cfg(test)]
    pub(super) async fn in_air(air: super::packet::Air, links: tokio::sync::watch::Receiver<Vec<Link>>) -> Result<Self> {
        Self::of(Netlink::made_up(links)?, Voice::MadeUp(air), Names::none(), Vec::new()).await
    }

    async fn of(netlink: Netlink, voice: Voice, names: Names, wanted: Vec<String>) -> Result<Self> {
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
            names,
            listens: HashSet::new(),
            frames: Frames::default(),
            stale: false,
            read: ticks(READ_EVERY),
            backlog: VecDeque::new(),
            sweep: None,
            pace: ticks(PACE),
            too_large: HashSet::new(),
            packet: Box::new([0; LARGEST]),
        };
        senses.set_links(senses.netlink.links(&senses.wanted).await?);
        Ok(senses)
    }

    /// Why ARP and neighbour discovery themselves can be neither heard nor said.
    pub(crate) fn handicap(&self) -> Option<&str> {
        match &self.voice {
            Voice::Udp { why, .. } => Some(why),
            _ => None,
        }
    }

    /// What was sent so far.
    pub(crate) fn frames(&self) -> Frames {
        self.frames
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
        Ok(neighbours.filter_map(|held| self.heard(held.interface, held.mac, Some(held.ip), Sensor::Neighbour)).collect())
    }

    /// Without ARP of our own: the addresses that the kernel really asked for us.
    pub(crate) async fn asked_by_kernel(&self) -> Result<HashSet<IpAddr>> {
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
                if let Some(heard) = self.heard(neighbour.interface, neighbour.mac, Some(neighbour.ip), Sensor::Neighbour) {
                    return Ok(Sensed::Heard(heard));
                }
                continue;
            }
            tokio::select! {
                change = self.netlink.next() => match change? {
                    Change::Reachable(neighbour) => self.backlog.push_back(neighbour),
                    Change::Links => self.stale = true,
                },
                received = self.voice.receive(self.packet.as_mut_slice()) => {
                    let (talk, len, source) = received.context("cannot hear ARP, neighbour discovery and DHCP")?;
                    if let Some(sensed) = self.packet.get(..len).and_then(|packet| self.said(talk, packet, source)) {
                        return Ok(sensed);
                    }
                }
                answers = self.names.answers() => {
                    let (from, answers) = answers.context("cannot hear mDNS")?;
                    let answers = believable(&self.links, from, answers);
                    if !answers.is_empty() {
                        return Ok(Sensed::Answers(answers));
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

    /// What a packet says of its sender.
    fn said(&self, talk: Talk, packet: &[u8], source: Source) -> Option<Sensed> {
        match talk {
            Talk::Arp => {
                let said = arp::parse(packet, source.mac)?;
                let is_answer = said.answers.is_some_and(|target| self.own.contains(&target));
                let sensor = if is_answer { Sensor::ArpProbe } else { Sensor::ArpHeard };
                self.heard(source.interface, said.sender, Some(said.sender_ip.into()), sensor).map(Sensed::Heard)
            }
            Talk::Ndp => {
                let said = ndp::parse(packet, source.mac)?;
                let is_own = |ip: Ipv6Addr| self.links.iter().any(|link| link.ip6.iter().any(|(own, _)| *own == ip));
                let sensor = if said.answers.is_some_and(is_own) { Sensor::NdpProbe } else { Sensor::NdpHeard };
                self.heard(source.interface, said.sender, said.ip.map(IpAddr::from), sensor).map(Sensed::Heard)
            }
            Talk::Dhcp => {
                let said = dhcp::parse(packet, source.mac)?;
                let heard = self.heard(source.interface, said.sender, None, Sensor::DhcpHeard)?;
                Some(match said.name {
                    Some(name) => Sensed::Named(heard, name),
                    None => Sensed::Heard(heard),
                })
            }
        }
    }

    /// Whether an address is in a network that can be asked now.
    pub(crate) fn can_reach(&self, ip: IpAddr) -> bool {
        self.links.iter().any(|link| link.is_usable() && link.reaches(ip, self.handicap().is_none()))
    }

    /// Asks at one address, by ARP or neighbour discovery. An error: nothing was sent.
    pub(crate) fn ask(&mut self, ip: IpAddr, mac: Option<MacAddr>, how: How) -> io::Result<()> {
        let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        let by_ndp = self.handicap().is_none();
        for link in self.links.iter().filter(|link| link.is_usable() && link.reaches(ip, by_ndp)) {
            let said = match &self.voice {
                Voice::Udp { ipv4, ipv6, .. } => {
                    let socket = if ip.is_ipv4() { Some(ipv4) } else { ipv6.as_ref() };
                    let said = socket.map(|socket| socket.try_send_to(&[], on(link, ip, DISCARD_PORT)).map(drop));
                    self.frames.datagrams += u64::from(matches!(said, Some(Ok(()))));
                    said.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))
                }
                voice => {
                    let device = mac.filter(|_| how != How::Aloud);
                    let directly = device.map(|mac| say(voice, &mut self.frames, link, ip, Some(mac)));
                    let to_all = (how != How::Quiet || device.is_none()).then(|| say(voice, &mut self.frames, link, ip, None));
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

    /// A device that has this address is heard when it comes back.
    pub(crate) fn listen_for(&mut self, ip: Ipv6Addr) {
        self.listen(ndp::group_of(ip));
    }

    fn listen(&mut self, group: Ipv6Addr) {
        for link in self.links.iter().filter(|link| link.is_usable() && link.own_ip6().is_some()) {
            if self.listens.len() < GROUPS && self.listens.insert((link.index, group)) {
                self.names.listen(group, link.index);
            }
        }
    }

    /// Asks by mDNS which addresses a name has; [`Sensed::Answers`] tells.
    pub(crate) fn ask_for(&mut self, name: &str) {
        self.frames.mdns += self.names.ask(name, &self.links);
    }

    /// A phone that sleeps hears this before anything else.
    pub(crate) fn wake(&mut self, ip: IpAddr) {
        self.frames.mdns += self.names.wake(ip, &self.links);
    }

    /// Begins to ask every address of the own networks, if that is not under way. False: there is none to ask.
    pub(crate) fn sweep(&mut self) -> bool {
        if self.sweep.is_some() {
            return true;
        }
        let mut left = VecDeque::new();
        let mut all = true;
        for link in self.links.iter().filter(|link| link.is_usable()) {
            // The addresses of IPv6 are too many to ask: whoever answers this is found, and nobody proven gone.
            if let Some(own) = link.own_ip6() {
                let (to, packet) = ndp::call(own);
                self.frames.ns_multicast += u64::from(self.voice.send(Talk::Ndp, link.index, to, &packet).is_ok());
            }
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
            match self.ask((*ip).into(), None, How::Aloud) {
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
        self.listen(ndp::ROUTERS);
    }

    fn heard(&self, interface: u32, mac: MacAddr, ip: Option<IpAddr>, sensor: Sensor) -> Option<Heard> {
        let link = &self.links[*self.by_index.get(&interface)?];
        if self.own.contains(&mac) {
            return None;
        }
        let ip = ip.filter(|ip| match ip {
            IpAddr::V4(ip) => link.subnet_of(*ip).is_some(),
            IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback(),
        });
        Some(Heard { mac, ip, sensor, interface })
    }
}

impl Voice {
    async fn receive(&self, packet: &mut [u8]) -> io::Result<(Talk, usize, Source)> {
        match self {
            Self::Raw(sockets) => sockets.receive(packet).await,
            Self::Udp { .. } => std::future::pending().await,
            #[cfg(test)]
            Self::MadeUp(air) => {
                let heard = air.heard.lock().await.recv().await;
                let (talk, bytes, source) = heard.ok_or(io::ErrorKind::BrokenPipe)?;
                packet[..bytes.len()].copy_from_slice(&bytes);
                Ok((talk, bytes.len(), source))
            }
        }
    }

    fn send(&self, talk: Talk, interface: u32, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(sockets) => sockets.send(talk, interface, to, packet),
            Self::Udp { .. } => Err(io::ErrorKind::Unsupported.into()),
            #[cfg(test)]
            Self::MadeUp(air) => air.said.send((talk, to, packet.to_vec())).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// One question on one network: to this device, or to all.
fn say(voice: &Voice, frames: &mut Frames, link: &Link, ip: IpAddr, device: Option<MacAddr>) -> io::Result<()> {
    let nobody = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let count = match ip {
        IpAddr::V4(ip) => {
            let own = link.subnet_of(ip).ok_or_else(nobody)?.own;
            let to = device.map_or(BROADCAST, |mac| mac.0);
            voice.send(Talk::Arp, link.index, to, &arp::request(link.mac, own, ip))?;
            if device.is_some() { &mut frames.arp_direct } else { &mut frames.arp_broadcast }
        }
        IpAddr::V6(ip) => {
            let (to, packet) = ndp::question(link.mac, link.own_ip6().ok_or_else(nobody)?, ip, device);
            voice.send(Talk::Ndp, link.index, to, &packet)?;
            if device.is_some() { &mut frames.ns_direct } else { &mut frames.ns_multicast }
        }
    };
    *count += 1;
    Ok(())
}

/// Its queue is full: later it goes.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}
