//! For tests/fuzz alone: what is read of ARP, neighbour discovery, DHCP and mDNS, of the kernel's messages and of the system bus's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

use super::bluetooth::wire::{self, Call, Kind, Settings, Value};
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

/// A message of the system bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfBus {
    /// How many bytes it takes.
    pub length: usize,
    /// Who sends it, of which object, what it is called, and why it refuses.
    pub head: [String; 4],
    /// All texts of its content, if that is of a kind that BlueZ or the bus says to us.
    pub content: Vec<String>,
}

/// The first message of what the system bus sends. `None`: the rest of it is yet to come. An error: the connection is at its end.
pub fn bus(bytes: &[u8]) -> Result<Option<OfBus>, &'static str> {
    let Some((message, length)) = wire::first(bytes)? else { return Ok(None) };
    let of = |settings: Settings<'_>| {
        let text = |value| if let Value::Text(text) = value { text } else { "" };
        settings.into_iter().flat_map(|(key, value)| [key, text(value)]).map(str::to_owned).collect::<Vec<_>>()
    };
    let content = |signature: &str| {
        let mut content = message.content(signature)?;
        let mut texts = Vec::new();
        match signature {
            "v" => texts.extend(of(vec![("", content.value()?)])),
            "a{oa{sa{sv}}}" => {
                for (path, interfaces) in content.objects()? {
                    texts.push(path.to_owned());
                    texts.extend(interfaces.into_iter().flat_map(|(_, settings)| of(settings)));
                }
            }
            _ => texts.push(content.text()?.to_owned()),
        }
        match signature {
            "oa{sa{sv}}" => texts.extend(content.interfaces()?.into_iter().flat_map(|(_, settings)| of(settings))),
            "sa{sv}as" => texts.extend(of(content.settings()?)),
            _ => {}
        }
        if matches!(signature, "sa{sv}as" | "oas") {
            texts.extend(content.texts()?.into_iter().map(str::to_owned));
        }
        Some(texts)
    };
    let kinds = ["s", "v", "sa{sv}as", "oas", "oa{sa{sv}}", "a{oa{sa{sv}}}"];
    let content = kinds.into_iter().find_map(content).unwrap_or_default();
    if message.kind == Kind::Refusal {
        assert!(message.words().starts_with(message.error.trim()));
    }
    let head = [&message.sender, &message.path, &message.member, &message.error].map(String::clone);
    Ok(Some(OfBus { length, head, content }))
}

/// A call of ours with one text and one setting.
pub fn bus_call(path: &str, member: &str, key: &str, value: &str) -> Vec<u8> {
    let settings = [(key, Value::Text(value))];
    wire::call(&Call { to: "org.bluez", path, interface: "", member, texts: &[key], settings: Some(&settings) }, 1)
}

/// The texts of a call of [`bus_call`].
pub fn bus_called(bytes: &[u8]) -> Option<(String, String, String, String)> {
    let (message, length) = wire::first(bytes).ok()??;
    let mut content = message.content("sa{sv}").filter(|_| length == bytes.len())?;
    let (text, settings) = (content.text()?, content.settings()?);
    match settings[..] {
        [(key, Value::Text(value))] if key == text => {
            Some((message.path.clone(), message.member.clone(), key.to_owned(), value.to_owned()))
        }
        _ => None,
    }
}
