//! For tests/fuzz alone: what is read of ARP, neighbour discovery, DHCP and mDNS, and of the kernel's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

use super::kernel::Message;
use super::{arp, dhcp, links, mdns, ndp};

/// Who says an ARP packet, of which address, and whom it answers.
pub fn arp(packet: &[u8], source: [u8; 6]) -> Option<([u8; 6], Ipv4Addr, Option<[u8; 6]>)> {
    let said = arp::parse(packet, source)?;
    Some((said.sender.0, said.sender_ip, said.answers.map(|mac| mac.0)))
}

/// Who says a packet of neighbour discovery, of which address of its own, and at which address it was asked.
pub fn ndp(packet: &[u8], source: [u8; 6]) -> Option<([u8; 6], Option<Ipv6Addr>, Option<Ipv6Addr>)> {
    let said = ndp::parse(packet, source)?;
    Some((said.sender.0, said.ip, said.answers))
}

/// Who asks for an address by DHCP, and by which name.
pub fn dhcp(packet: &[u8], source: [u8; 6]) -> Option<([u8; 6], Option<String>)> {
    let said = dhcp::parse(packet, source)?;
    Some((said.sender.0, said.name))
}

/// The names and addresses of an answer by mDNS.
pub fn mdns(id: u16, packet: &[u8]) -> Vec<(String, IpAddr)> {
    mdns::addresses(id, packet)
}

/// All that can be read of one message of the kernel; only what it is about means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Interface, MAC address and address of a neighbour that is proven to be there.
    pub reachable: Option<(u32, [u8; 6], IpAddr)>,
    pub asked: Option<IpAddr>,
    pub link: Option<(u32, String)>,
    /// Own address, length of the prefix, and how many addresses a sweep asks.
    pub subnet: Option<(Ipv4Addr, u8, usize)>,
    /// Own IPv6 address, and length of the prefix.
    pub ip6: Option<(Ipv6Addr, u8)>,
    pub gateway: Option<IpAddr>,
}

/// `None`: it is no message about the network.
pub fn kernel(bytes: &[u8]) -> Option<Kernel> {
    let NetlinkPayload::InnerMessage(message) = NetlinkMessage::<Message>::deserialize(bytes).ok()?.payload else { return None };
    Some(Kernel {
        reachable: links::reachable(&message).map(|found| (found.interface, found.mac.0, found.ip)),
        asked: links::asked(&message),
        link: links::link(&message).map(|link| (link.index, link.name)),
        subnet: links::subnet(&message).map(|(_, subnet)| {
            let asked = if subnet.is_swept() { subnet.others().count() } else { 0 };
            (subnet.own, subnet.prefix, asked)
        }),
        ip6: links::own_ip6(&message).map(|(_, ip, prefix)| (ip, prefix)),
        gateway: links::default_gateway(&message).map(|(_, gateway)| gateway),
    })
}
