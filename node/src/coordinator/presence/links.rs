//! What the kernel knows of the network, by netlink: interfaces, their addresses and gateways, and neighbours. Needs no right.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::presence::MacAddr;
use futures_util::{Stream, StreamExt};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_proto::sys::{AsyncSocket as _, SocketAddr};
use netlink_proto::{ConnectionHandle, new_connection};
use tokio::task::JoinSet;

use super::kernel::Message;

/// Greater networks are not swept: a thousand questions a minute are enough.
const SWEPT_PREFIX: u8 = 22;
/// Interfaces that programs make for their guests: nobody's phone is there, and they stay up when the house's network is gone.
const GUESTS: [&str; 12] = ["docker", "br-", "veth", "virbr", "vnet", "lxc", "lxdbr", "cni", "flannel", "cali", "podman", "zt"];
/// The kernel answers at once or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// An own IPv4 address and the network it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) own: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    pub(crate) fn contains(self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.own.to_bits()) & self.mask() == 0
    }

    pub(crate) fn is_swept(self) -> bool {
        self.prefix >= SWEPT_PREFIX
    }

    /// Every address that another device may have.
    pub(crate) fn others(self) -> impl Iterator<Item = Ipv4Addr> {
        let network = self.own.to_bits() & self.mask();
        let last = network | !self.mask();
        // A network of two addresses (RFC 3021) has neither a name nor a broadcast of its own.
        let (first, last) = if self.prefix >= 31 { (network, last) } else { (network + 1, last - 1) };
        (first..=last).map(Ipv4Addr::from_bits).filter(move |ip| *ip != self.own)
    }
}

/// An interface that devices can be looked for on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    pub(crate) carrier: bool,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Own IPv6 addresses that may be used, with the length of their prefix.
    pub(crate) ip6: Vec<(Ipv6Addr, u8)>,
    pub(crate) gateway6: Option<Ipv6Addr>,
}

impl Link {
    /// Can hear and be heard.
    pub(crate) fn is_usable(&self) -> bool {
        self.carrier && (self.has_ipv4() || self.own_ip6().is_some())
    }

    pub(crate) fn has_ipv4(&self) -> bool {
        !self.subnets.is_empty()
    }

    /// From where neighbours are asked by IPv6: the link's own address if it has one, which is a neighbour's of every other address.
    pub(crate) fn own_ip6(&self) -> Option<Ipv6Addr> {
        let of_link = self.ip6.iter().find(|(ip, _)| ip.is_unicast_link_local());
        of_link.or(self.ip6.first()).map(|(ip, _)| *ip)
    }

    /// Who must answer if this network is there at all.
    pub(crate) fn router(&self) -> Option<IpAddr> {
        self.gateway.map(IpAddr::from).or(self.gateway6.map(IpAddr::from))
    }

    /// Whether a device with this address is a neighbour on it. The kernel's way to an address of IPv6 is that of its prefix; our own
    /// questions (`by_ndp`) reach any neighbour.
    pub(crate) fn reaches(&self, ip: IpAddr, by_ndp: bool) -> bool {
        let is_there = match ip {
            IpAddr::V4(ip) => self.subnet_of(ip).is_some(),
            IpAddr::V6(_) if by_ndp => self.own_ip6().is_some(),
            IpAddr::V6(ip) => self.ip6.iter().any(|(own, prefix)| {
                let mask = u128::MAX.checked_shl(128 - u32::from((*prefix).min(128))).unwrap_or(0);
                (own.to_bits() ^ ip.to_bits()) & mask == 0
            }),
        };
        self.carrier && is_there
    }

    pub(crate) fn subnet_of(&self, ip: Ipv4Addr) -> Option<Subnet> {
        self.subnets.iter().copied().find(|subnet| subnet.contains(ip))
    }
}

/// A neighbour that the kernel has just proven to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) interface: u32,
    pub(crate) mac: MacAddr,
    pub(crate) ip: IpAddr,
}

#[derive(Debug)]
pub(crate) enum Change {
    Reachable(Neighbour),
    /// Interfaces, addresses or routes: read them again.
    Links,
}

/// Learnt by another program. Not in musl's libc.
const NTF_EXT_LEARNED: u8 = 0x10;
/// Until the kernel is asked again.
const BUSY: Duration = Duration::from_millis(5);

type Messages = std::pin::Pin<Box<dyn Stream<Item = NetlinkMessage<Message>> + Send + Sync>>;

pub(crate) struct Netlink {
    handle: ConnectionHandle<Message>,
    messages: Messages,
    /// Drives the connection; ends with this.
    _connection: JoinSet<()>,
    /// What a test makes up instead.
    #[cfg(test)]
    made_up: Option<tokio::sync::watch::Receiver<Vec<Link>>>,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self> {
        let ipv4 = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE;
        let ipv6 = libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_IPV6_ROUTE;
        let groups = libc::RTMGRP_NEIGH | libc::RTMGRP_LINK | ipv4 | ipv6;
        let open = || {
            let (mut connection, handle, messages) = new_connection(netlink_proto::sys::protocols::NETLINK_ROUTE)?;
            connection.socket_mut().socket_mut().bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
            std::io::Result::Ok((connection, handle, messages))
        };
        let (connection, handle, messages) = open().context("cannot ask the kernel about the network")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self {
            handle,
            messages: Box::pin(messages.map(|(message, _)| message)),
            _connection: tasks,
            #[cfg(test)]
            made_up: None,
        })
    }

    /// Of this machine's own network nothing is told.
    #[cfg(test)]
    pub(super) fn made_up(links: tokio::sync::watch::Receiver<Vec<Link>>) -> Result<Self> {
        Ok(Self { made_up: Some(links), messages: Box::pin(futures_util::stream::pending()), ..Self::open()? })
    }

    /// The next thing that matters. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Change> {
        while let Some(message) = self.messages.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => match message.kind {
                    libc::RTM_NEWNEIGH => {
                        if let Some(neighbour) = reachable(&message) {
                            return Ok(Change::Reachable(neighbour));
                        }
                    }
                    libc::RTM_NEWLINK
                    | libc::RTM_DELLINK
                    | libc::RTM_NEWADDR
                    | libc::RTM_DELADDR
                    | libc::RTM_NEWROUTE
                    | libc::RTM_DELROUTE => return Ok(Change::Links),
                    _ => {}
                },
                NetlinkPayload::Overrun(_) => return Ok(Change::Links),
                _ => {}
            }
        }
        bail!("the kernel no longer tells about the network")
    }

    /// Every interface that could be looked on (all, or those of these names), with or without carrier.
    pub(crate) async fn links(&self, wanted: &[String]) -> Result<Vec<Link>> {
        #[cfg(test)]
        if let Some(links) = &self.made_up {
            return Ok(links.borrow().clone());
        }
        let read = async {
            let links = self.listed(libc::RTM_GETLINK, libc::AF_UNSPEC).await?;
            let addresses = self.listed(libc::RTM_GETADDR, libc::AF_UNSPEC).await?;
            let routes = self.listed(libc::RTM_GETROUTE, libc::AF_UNSPEC).await?;
            Ok((links, addresses, routes))
        };
        let (links, addresses, routes) = in_time(read).await.context("cannot read the interfaces of this machine")?;
        let mut links: Vec<Link> = links.iter().filter_map(link).filter(|link| is_wanted(&link.name, wanted)).collect();
        let places: HashMap<u32, usize> = links.iter().enumerate().map(|(place, link)| (link.index, place)).collect();
        for (interface, subnet) in addresses.iter().filter_map(subnet) {
            if let Some(place) = places.get(&interface) {
                links[*place].subnets.push(subnet);
            }
        }
        for (interface, ip, prefix) in addresses.iter().filter_map(own_ip6) {
            if let Some(place) = places.get(&interface) {
                links[*place].ip6.push((ip, prefix));
            }
        }
        for (interface, gateway) in routes.iter().filter_map(default_gateway) {
            let Some(place) = places.get(&interface) else { continue };
            match gateway {
                IpAddr::V4(ip) => links[*place].gateway = links[*place].gateway.or(Some(ip)),
                IpAddr::V6(ip) => links[*place].gateway6 = links[*place].gateway6.or(Some(ip)),
            }
        }
        Ok(links)
    }

    /// The neighbours that the kernel holds proven now.
    pub(crate) async fn reachable(&self) -> Result<Vec<Neighbour>> {
        #[cfg(test)]
        if self.made_up.is_some() {
            return Ok(Vec::new());
        }
        Ok(self.neighbours().await?.iter().filter_map(reachable).collect())
    }

    /// The neighbours that the kernel knows, proven now or some time ago.
    pub(crate) async fn known(&self) -> Result<Vec<Neighbour>> {
        Ok(self.neighbours().await?.iter().filter_map(known).collect())
    }

    /// The addresses that the kernel is asking, or asked in vain. Of the others it believes an old word and asks nobody.
    pub(crate) async fn asked(&self) -> Result<HashSet<IpAddr>> {
        Ok(self.neighbours().await?.iter().filter_map(asked).collect())
    }

    async fn neighbours(&self) -> Result<Vec<Message>> {
        in_time(self.listed(libc::RTM_GETNEIGH, libc::AF_UNSPEC)).await.context("cannot read the kernel's neighbours")
    }

    /// All that the kernel has of a kind. It is busy while it still lists what was asked before and is not wanted any more.
    async fn listed(&self, kind: u16, family: i32) -> Result<Vec<Message>> {
        'asked: loop {
            let mut question = NetlinkMessage::from(Message::question(kind, family));
            question.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let mut answers = self.handle.request(question, SocketAddr::new(0, 0))?;
            let mut list = Vec::new();
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => list.push(message),
                    NetlinkPayload::Error(error) if error.raw_code() == -libc::EBUSY => {
                        tokio::time::sleep(BUSY).await;
                        continue 'asked;
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    _ => bail!("the kernel lost a part of its answer"),
                }
            }
            return Ok(list);
        }
    }
}

/// Of names and their addresses that somebody said, those that mean a neighbour; nothing that came from beyond a router.
pub(crate) fn believable(links: &[Link], from: IpAddr, said: Vec<(String, IpAddr)>) -> Vec<(String, IpAddr)> {
    let is_near = |ip: IpAddr| links.iter().any(|link| link.reaches(ip, false));
    said.into_iter().filter(|(_, ip)| is_near(from) && is_near(*ip)).collect()
}

async fn in_time<T>(read: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_WITHIN, read).await.context("the kernel does not answer")?
}

fn is_wanted(name: &str, wanted: &[String]) -> bool {
    if wanted.is_empty() { !GUESTS.iter().any(|guests| name.starts_with(guests)) } else { wanted.iter().any(|one| one == name) }
}

pub(super) fn link(message: &Message) -> Option<Link> {
    let flags = u32::from_ne_bytes(message.field(8)?).cast_signed();
    let has = |wanted| flags & wanted == wanted;
    let can_look = has(libc::IFF_UP | libc::IFF_BROADCAST) && flags & (libc::IFF_LOOPBACK | libc::IFF_NOARP) == 0;
    if !can_look || u16::from_ne_bytes(message.field(2)?) != libc::ARPHRD_ETHER {
        return None;
    }
    let name = message.attribute(libc::IFLA_IFNAME)?.strip_suffix(&[0])?;
    Some(Link {
        index: u32::from_ne_bytes(message.field(4)?),
        name: String::from_utf8(name.to_vec()).ok()?,
        mac: MacAddr(message.attribute(libc::IFLA_ADDRESS)?.try_into().ok()?),
        carrier: has(libc::IFF_RUNNING | libc::IFF_LOWER_UP),
        subnets: Vec::new(),
        gateway: None,
        ip6: Vec::new(),
        gateway6: None,
    })
}

/// An own address, and the interface that has it.
pub(super) fn subnet(message: &Message) -> Option<(u32, Subnet)> {
    let [prefix] = message.field(1)?;
    let own = message.ip(libc::IFA_LOCAL)?;
    match own {
        IpAddr::V4(own) => Some((u32::from_ne_bytes(message.field(4)?), Subnet { own, prefix })),
        IpAddr::V6(_) => None,
    }
}

/// An own IPv6 address that may be used, the interface that has it, and the length of its prefix.
pub(super) fn own_ip6(message: &Message) -> Option<(u32, Ipv6Addr, u8)> {
    let [prefix, flags] = message.field(1)?;
    let is_ours = u32::from(flags) & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) == 0;
    match message.ip(libc::IFA_LOCAL).or_else(|| message.ip(libc::IFA_ADDRESS))? {
        IpAddr::V6(own) if is_ours => Some((u32::from_ne_bytes(message.field(4)?), own, prefix)),
        _ => None,
    }
}

pub(super) fn default_gateway(route: &Message) -> Option<(u32, IpAddr)> {
    let [prefix] = route.field(1)?;
    let interface = u32::from_ne_bytes(route.attribute(libc::RTA_OIF)?.try_into().ok()?);
    Some((interface, route.ip(libc::RTA_GATEWAY)?)).filter(|_| prefix == 0)
}

/// Only REACHABLE is proof: the others are guesses (STALE, DELAY, PROBE), failures, or what somebody wrote down by hand.
pub(super) fn reachable(message: &Message) -> Option<Neighbour> {
    neighbour(message, |state| state == libc::NUD_REACHABLE)
}

/// Whoever talks with us is known, though perhaps not proven: TCP may be all that the kernel has of it for a while.
fn known(message: &Message) -> Option<Neighbour> {
    neighbour(message, |state| state & (libc::NUD_REACHABLE | libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE) != 0)
}

fn neighbour(message: &Message, is_wanted: impl Fn(u16) -> bool) -> Option<Neighbour> {
    let [flags] = message.field(10)?;
    if !is_wanted(state(message)?) || flags & (libc::NTF_PROXY | NTF_EXT_LEARNED) != 0 {
        return None;
    }
    Some(Neighbour {
        interface: u32::from_ne_bytes(message.field(4)?),
        mac: MacAddr(message.attribute(libc::NDA_LLADDR)?.try_into().ok()?),
        ip: message.ip(libc::NDA_DST)?,
    })
}

pub(super) fn asked(message: &Message) -> Option<IpAddr> {
    let is_asked = matches!(state(message)?, libc::NUD_INCOMPLETE | libc::NUD_PROBE | libc::NUD_FAILED);
    message.ip(libc::NDA_DST).filter(|_| is_asked)
}

fn state(neighbour: &Message) -> Option<u16> {
    neighbour.field(8).map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: u16, flags: u8) -> Message {
        let mut bytes = vec![2, 0, 0, 0, 3, 0, 0, 0];
        bytes.extend_from_slice(&state.to_ne_bytes());
        bytes.extend_from_slice(&[flags, 1]);
        bytes.extend_from_slice(&[8, 0, 1, 0, 192, 168, 1, 20]);
        bytes.extend_from_slice(&[10, 0, 2, 0, 0x24, 0xda, 0x9b, 0, 0, 1, 0, 0]);
        Message { kind: libc::RTM_NEWNEIGH, bytes }
    }

    #[test]
    fn of_the_kernels_neighbours_only_the_reachable_ones_are_near() {
        use libc::{NUD_DELAY, NUD_FAILED, NUD_INCOMPLETE, NUD_NOARP, NUD_NONE, NUD_PERMANENT, NUD_PROBE, NUD_REACHABLE, NUD_STALE};
        let found = reachable(&message(NUD_REACHABLE, 0)).unwrap();
        assert_eq!(
            (found.interface, found.mac.to_string().as_str(), found.ip.to_string().as_str()),
            (3, "24:da:9b:00:00:01", "192.168.1.20")
        );
        for state in [NUD_DELAY, NUD_FAILED, NUD_INCOMPLETE, NUD_NONE, NUD_NOARP, NUD_PERMANENT, NUD_PROBE, NUD_STALE, 0x82] {
            assert_eq!(reachable(&message(state, 0)), None, "{state:#x}");
        }
        assert_eq!(reachable(&message(NUD_REACHABLE, NTF_EXT_LEARNED)), None);
        let mut bridged = message(NUD_REACHABLE, 0);
        bridged.bytes[0] = 7;
        assert_eq!(reachable(&bridged), None, "of a bridge's table: no address of the house");
    }

    /// The same over IPv6, where a router's or phone's own address of the link stays in the kernel's list long after it left.
    #[test]
    fn of_ipv6_neighbours_too_only_the_reachable_ones_are_near() {
        let ip: Ipv6Addr = "fe80::26da:9bff:fe00:1".parse().unwrap();
        let neighbour6 = |state: u16| {
            let mut bytes = vec![10, 0, 0, 0, 3, 0, 0, 0];
            bytes.extend_from_slice(&state.to_ne_bytes());
            bytes.extend_from_slice(&[libc::NTF_ROUTER, 1, 20, 0, 1, 0]);
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&[10, 0, 2, 0, 0x24, 0xda, 0x9b, 0, 0, 1, 0, 0]);
            Message { kind: libc::RTM_NEWNEIGH, bytes }
        };
        assert_eq!(reachable(&neighbour6(libc::NUD_REACHABLE)).unwrap().ip, IpAddr::V6(ip));
        for state in [libc::NUD_STALE, libc::NUD_FAILED, libc::NUD_DELAY, libc::NUD_PROBE, libc::NUD_INCOMPLETE, libc::NUD_PERMANENT] {
            assert_eq!(reachable(&neighbour6(state)), None, "{state:#x}");
        }
        assert_eq!(asked(&neighbour6(libc::NUD_PROBE)), Some(IpAddr::V6(ip)));
        assert_eq!(asked(&neighbour6(libc::NUD_STALE)), None);
    }

    #[test]
    fn an_ipv6_address_that_is_still_being_tried_is_none_to_ask_from() {
        let ip: Ipv6Addr = "fd77::2".parse().unwrap();
        let address = |flags: u8| {
            let mut bytes = vec![10, 64, flags, 0, 2, 0, 0, 0, 20, 0, 1, 0];
            bytes.extend_from_slice(&ip.octets());
            Message { kind: libc::RTM_NEWADDR, bytes }
        };
        assert_eq!(own_ip6(&address(0x80)), Some((2, ip, 64)));
        assert_eq!(own_ip6(&address(0x40)), None, "tentative");
        assert_eq!(own_ip6(&address(0x88)), None, "somebody else has it");
        let link = Link {
            index: 2,
            name: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            carrier: true,
            subnets: Vec::new(),
            gateway: None,
            ip6: vec![(ip, 64), ("fe80::2".parse().unwrap(), 64)],
            gateway6: Some("fe80::1".parse().unwrap()),
        };
        assert!(link.is_usable() && !Link { ip6: Vec::new(), ..link.clone() }.is_usable());
        assert_eq!((link.own_ip6(), link.router()), (Some("fe80::2".parse().unwrap()), Some("fe80::1".parse().unwrap())));
        for (other, by_kernel) in [("fd77::9", true), ("fe80::9", true), ("2001:db8::9", false)] {
            let other = other.parse().unwrap();
            assert_eq!((link.reaches(other, false), link.reaches(other, true)), (by_kernel, true), "{other}");
        }
        assert!(!link.reaches(Ipv4Addr::new(192, 168, 1, 1).into(), true));
        let says = |ip: &str| ("anna.local".to_owned(), ip.parse().unwrap());
        let said = vec![says("fd77::9"), says("2001:db8::9"), says("192.168.1.1")];
        let links = [link];
        assert_eq!(believable(&links, "fe80::9".parse().unwrap(), said.clone()), [says("fd77::9")]);
        assert_eq!(believable(&links, "2001:db8::9".parse().unwrap(), said), []);
    }

    #[test]
    fn a_message_that_was_cut_off_says_nothing() {
        let whole = message(libc::NUD_REACHABLE, 0);
        for length in 0..whole.bytes.len() - 2 {
            let cut = Message { bytes: whole.bytes[..length].to_vec(), ..whole.clone() };
            assert_eq!(reachable(&cut), None, "{length} bytes");
        }
    }

    #[tokio::test]
    async fn a_list_that_was_asked_for_and_is_not_wanted_any_more_is_in_nobodys_way() {
        let netlink = Netlink::open().unwrap();
        // The kernel begins each and goes on with it only as it is read.
        for links in futures_util::future::join_all((0..20).map(|_| netlink.links(&[]))).await {
            links.unwrap();
        }
    }

    #[test]
    fn the_kernel_asked_only_those_that_it_does_not_believe_in() {
        use libc::{NUD_DELAY, NUD_FAILED, NUD_INCOMPLETE, NUD_NOARP, NUD_NONE, NUD_PERMANENT, NUD_PROBE, NUD_REACHABLE, NUD_STALE};
        for (state, expected) in [
            (NUD_INCOMPLETE, true),
            (NUD_PROBE, true),
            (NUD_FAILED, true),
            (NUD_REACHABLE, false),
            (NUD_STALE, false),
            (NUD_DELAY, false),
            (NUD_PERMANENT, false),
            (NUD_NOARP, false),
            (NUD_NONE, false),
        ] {
            assert_eq!(asked(&message(state, 0)).is_some(), expected, "{state:#x}");
        }
    }

    #[test]
    fn whoever_talks_with_us_is_known_and_what_somebody_wrote_down_by_hand_is_not() {
        use libc::{NUD_DELAY, NUD_FAILED, NUD_INCOMPLETE, NUD_NOARP, NUD_PERMANENT, NUD_PROBE, NUD_REACHABLE, NUD_STALE};
        for (state, expected) in [
            (NUD_REACHABLE, true),
            (NUD_STALE, true),
            (NUD_DELAY, true),
            (NUD_PROBE, true),
            (NUD_INCOMPLETE, false),
            (NUD_FAILED, false),
            (NUD_PERMANENT, false),
            (NUD_NOARP, false),
        ] {
            assert_eq!(known(&message(state, 0)).is_some(), expected, "{state:#x}");
        }
        assert!(known(&message(NUD_STALE, NTF_EXT_LEARNED)).is_none());
    }

    #[test]
    fn a_bridge_of_containers_is_not_the_house_unless_a_person_says_so() {
        for name in ["docker0", "br-0123456789ab", "veth12ab", "virbr0"] {
            assert!(!is_wanted(name, &[]) && is_wanted(name, &[name.to_owned()]), "{name}");
        }
        for name in ["eth0", "enp3s0", "wlan0", "br0"] {
            assert!(is_wanted(name, &[]) && !is_wanted(name, &["eth9".to_owned()]), "{name}");
        }
    }

    #[test]
    fn a_sweep_asks_every_other_address_of_the_network_and_no_more() {
        let home = Subnet { own: Ipv4Addr::new(192, 168, 1, 2), prefix: 24 };
        let asked: Vec<_> = home.others().collect();
        assert_eq!(asked.len(), 253);
        assert!(!asked.contains(&home.own) && asked.iter().all(|ip| home.contains(*ip)));
        assert!(!asked.contains(&Ipv4Addr::new(192, 168, 1, 0)) && !asked.contains(&Ipv4Addr::new(192, 168, 1, 255)));
        for (prefix, others, swept) in [(22, 1021, true), (30, 1, true), (31, 1, true), (32, 0, true), (21, 2045, false)] {
            let subnet = Subnet { prefix, ..home };
            assert_eq!((subnet.others().count(), subnet.is_swept()), (others, swept), "/{prefix}");
        }
        assert!(Subnet { prefix: 0, ..home }.contains(Ipv4Addr::new(8, 8, 8, 8)));
    }
}
