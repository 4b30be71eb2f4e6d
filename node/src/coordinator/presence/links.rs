//! What the kernel knows of the network, by netlink: interfaces, their addresses and gateways, and neighbours. Needs no right.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::presence::MacAddr;
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinSet;

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
}

impl Link {
    /// Can hear and be heard.
    pub(crate) fn is_usable(&self) -> bool {
        self.carrier && !self.subnets.is_empty()
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

/// Until the kernel is asked again.
const BUSY: Duration = Duration::from_millis(5);

type Messages = std::pin::Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Sync>>;

pub(crate) struct Netlink {
    handle: Handle,
    messages: Messages,
    /// Drives the connection; ends with this.
    _connection: JoinSet<()>,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self> {
        let groups = [MulticastGroup::Neigh, MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).context("cannot ask the kernel about the network")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self { handle, messages: Box::pin(messages.map(|(message, _)| message)), _connection: tasks })
    }

    /// The next thing that matters. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Change> {
        while let Some(message) = self.messages.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                    if let Some(neighbour) = reachable(&message) {
                        return Ok(Change::Reachable(neighbour));
                    }
                }
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(_)
                    | RouteNetlinkMessage::DelLink(_)
                    | RouteNetlinkMessage::NewAddress(_)
                    | RouteNetlinkMessage::DelAddress(_)
                    | RouteNetlinkMessage::NewRoute(_)
                    | RouteNetlinkMessage::DelRoute(_),
                )
                | NetlinkPayload::Overrun(_) => return Ok(Change::Links),
                _ => {}
            }
        }
        bail!("the kernel no longer tells about the network")
    }

    /// Every interface that could be looked on (all, or those of these names), with or without carrier.
    pub(crate) async fn links(&self, wanted: &[String]) -> Result<Vec<Link>> {
        let read = || async {
            let links: Vec<_> = self.handle.link().get().execute().try_collect().await?;
            let addresses: Vec<_> = self.handle.address().get().execute().try_collect().await?;
            let routes: Vec<_> = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect().await?;
            Ok((links, addresses, routes))
        };
        let (links, addresses, routes) = answered(read).await.context("cannot read the interfaces of this machine")?;
        let mut links: Vec<Link> = links.iter().filter_map(link).filter(|link| is_wanted(&link.name, wanted)).collect();
        let places: HashMap<u32, usize> = links.iter().enumerate().map(|(place, link)| (link.index, place)).collect();
        for address in addresses {
            let (Some(place), AddressFamily::Inet) = (places.get(&address.header.index), address.header.family) else { continue };
            let own = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                _ => None,
            });
            if let Some(own) = own {
                links[*place].subnets.push(Subnet { own, prefix: address.header.prefix_len });
            }
        }
        for (interface, gateway) in routes.iter().filter_map(default_gateway) {
            if let Some(place) = places.get(&interface) {
                links[*place].gateway.get_or_insert(gateway);
            }
        }
        Ok(links)
    }

    /// The neighbours that the kernel holds proven now.
    pub(crate) async fn reachable(&self) -> Result<Vec<Neighbour>> {
        Ok(self.neighbours().await?.iter().filter_map(reachable).collect())
    }

    /// The IPv4 addresses that the kernel is asking, or asked in vain. Of the others it believes an old word and asks nobody.
    pub(crate) async fn asked(&self) -> Result<HashSet<Ipv4Addr>> {
        Ok(self.neighbours().await?.iter().filter_map(asked).collect())
    }

    async fn neighbours(&self) -> Result<Vec<NeighbourMessage>> {
        let read = || self.handle.neighbours().get().execute().try_collect::<Vec<_>>();
        answered(read).await.context("cannot read the kernel's neighbours")
    }
}

/// What the kernel answers, in time. It is busy while it still lists what was asked before and is not wanted any more.
async fn answered<T, F: Future<Output = Result<T, rtnetlink::Error>>>(read: impl Fn() -> F) -> Result<T> {
    let asked = async {
        loop {
            match read().await {
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EBUSY => tokio::time::sleep(BUSY).await,
                other => return other,
            }
        }
    };
    Ok(tokio::time::timeout(ANSWER_WITHIN, asked).await.context("the kernel does not answer")??)
}

fn is_wanted(name: &str, wanted: &[String]) -> bool {
    if wanted.is_empty() { !GUESTS.iter().any(|guests| name.starts_with(guests)) } else { wanted.iter().any(|one| one == name) }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let can_look = flags.contains(LinkFlags::Up | LinkFlags::Broadcast) && !flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp);
    if !can_look || message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let mut name = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr),
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        mac: mac?,
        carrier: flags.contains(LinkFlags::Running | LinkFlags::LowerUp),
        subnets: Vec::new(),
        gateway: None,
    })
}

fn default_gateway(route: &RouteMessage) -> Option<(u32, Ipv4Addr)> {
    let mut interface = None;
    let mut gateway = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            _ => {}
        }
    }
    if route.header.destination_prefix_length == 0 { interface.zip(gateway) } else { None }
}

/// Only REACHABLE is proof: the others are guesses (STALE, DELAY, PROBE), failures, or what somebody wrote down by hand.
fn reachable(message: &NeighbourMessage) -> Option<Neighbour> {
    let given = NeighbourFlags::Proxy | NeighbourFlags::ExtLearned;
    if message.header.state != NeighbourState::Reachable || message.header.flags.intersects(given) {
        return None;
    }
    let mut mac = None;
    let mut ip = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            _ => {}
        }
    }
    Some(Neighbour { interface: message.header.ifindex, mac: mac?, ip: ip? })
}

fn asked(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    let asks = matches!(message.header.state, NeighbourState::Incomplete | NeighbourState::Probe | NeighbourState::Failed);
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    ip.filter(|_| asks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        message.header.flags = flags;
        message.attributes = vec![
            NeighbourAttribute::Destination(Ipv4Addr::new(192, 168, 1, 20).into()),
            NeighbourAttribute::LinkLayerAddress(vec![0x24, 0xda, 0x9b, 0, 0, 1]),
        ];
        message
    }

    #[test]
    fn of_the_kernels_neighbours_only_the_reachable_ones_are_near() {
        use NeighbourState::{Delay, Failed, Incomplete, Noarp, None as Empty, Permanent, Probe, Reachable, Stale};
        let found = reachable(&neighbour(Reachable, NeighbourFlags::empty())).unwrap();
        assert_eq!(
            (found.interface, found.mac.to_string().as_str(), found.ip.to_string().as_str()),
            (3, "24:da:9b:00:00:01", "192.168.1.20")
        );
        for state in [Delay, Failed, Incomplete, Empty, Noarp, Permanent, Probe, Stale, NeighbourState::Other(0x82)] {
            assert_eq!(reachable(&neighbour(state, NeighbourFlags::empty())), None, "{state:?}");
        }
        assert_eq!(reachable(&neighbour(Reachable, NeighbourFlags::ExtLearned)), None);
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
        use NeighbourState::{Delay, Failed, Incomplete, Noarp, None as Empty, Permanent, Probe, Reachable, Stale};
        for (state, expected) in [
            (Incomplete, true),
            (Probe, true),
            (Failed, true),
            (Reachable, false),
            (Stale, false),
            (Delay, false),
            (Permanent, false),
            (Noarp, false),
            (Empty, false),
        ] {
            assert_eq!(asked(&neighbour(state, NeighbourFlags::empty())).is_some(), expected, "{state:?}");
        }
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
