//! Which device is behind an address of the own networks, and whether it may be somebody's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use dms3_core::presence::MacAddr;

use super::links::{Link, Neighbour, Netlink};
use super::look;

/// As the kernel knows them now.
#[derive(Debug)]
pub(crate) struct Network {
    links: Vec<Link>,
    neighbours: Vec<Neighbour>,
}

impl Network {
    /// Of these interfaces, or all.
    pub(crate) async fn look(wanted: &[String]) -> Result<Self> {
        let netlink = Netlink::open()?;
        let links = netlink.links(wanted).await?;
        let mut neighbours = netlink.known().await?;
        neighbours.retain(|neighbour| links.iter().any(|link| link.index == neighbour.interface));
        Ok(Self { links, neighbours })
    }

    /// Whoever talks with us from there. `None`: it is in no network of ours, so whose address it is only a router knows.
    pub(crate) fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.neighbours.iter().find(|neighbour| neighbour.ip == address).map(|neighbour| neighbour.mac)
    }

    pub(crate) fn addresses_of(&self, mac: MacAddr) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.neighbours.iter().filter(|known| known.mac == mac).map(|known| known.ip).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Why this can be nobody's device, in words. Asks every address of the own networks.
    pub(crate) async fn objection(&self, mac: MacAddr) -> Option<String> {
        if let Err(why) = mac.check() {
            return Some(why);
        }
        if self.links.iter().any(|link| link.mac == mac) {
            return Some(format!("{mac} is the coordinator itself, which is always here"));
        }
        if self.is_gateway(mac) {
            return Some(format!("{mac} is the router of this network, which is always here: it may stand in for a device behind it"));
        }
        match self.machines_behind(mac).await {
            0 | 1 => None,
            many => Some(format!(
                "{mac} has {many} machines behind it, as a Wi-Fi extender has, or a router that answers for others: \
                 it would tell that somebody is home whenever any of them is. Let the device use another access point"
            )),
        }
    }

    fn is_gateway(&self, mac: MacAddr) -> bool {
        let gateways = |link: &Link| [link.gateway.map(IpAddr::from), link.gateway6.map(IpAddr::from)];
        self.links.iter().flat_map(gateways).flatten().any(|gateway| self.mac_of(gateway) == Some(mac))
    }

    /// How many IPv4 addresses answer from there. An address that a phone had yesterday does not.
    async fn machines_behind(&self, mac: MacAddr) -> usize {
        let known: BTreeSet<Ipv4Addr> =
            self.neighbours.iter().filter(|known| known.mac == mac).filter_map(|known| ipv4(known.ip)).collect();
        let mut machines = BTreeSet::new();
        for link in self.links.iter().filter(|link| link.is_usable()) {
            let of_link = link.subnets.iter().filter(|subnet| subnet.is_swept()).flat_map(|subnet| subnet.others());
            let near = known.iter().copied().filter(|ip| link.subnet_of(*ip).is_some_and(|subnet| !subnet.is_swept()));
            let asked: Vec<Ipv4Addr> = of_link.chain(near).collect();
            match look(&link.name, &asked).await {
                Ok(look) => machines.extend(look.answers.into_iter().filter(|(_, from)| *from == mac).map(|(ip, _)| ip)),
                // It cannot be asked who is behind it: what the kernel knows must do.
                Err(error) => {
                    tracing::debug!("{error:#}");
                    machines.extend(known.iter().copied());
                }
            }
        }
        machines.len()
    }
}

fn ipv4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
