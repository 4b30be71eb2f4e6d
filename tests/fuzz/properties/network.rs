//! What anybody on the network says: mDNS, ARP, and what the kernel makes of it; and what the system bus says of Bluetooth.

use std::net::IpAddr;

use dms3_node::coordinator::presence::fuzzing::{arp, bus, bus_call, bus_called, dhcp, kernel, mdns, ndp};
use dms3_node::mesh::MdnsMode;
use dms3_node::mesh::discovery::fuzzing::Ear;

use super::script::Script;

/// Records and good-byes, one after the other: what is kept of them is bounded, and can be dialled.
pub(crate) fn record(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let Some(mode) = script.byte() else { return };
    let mode = if mode & 1 == 0 { MdnsMode::On } else { MdnsMode::Loopback };
    let mut ear = Ear::new(mode);
    while let Some([what, p0, p1]) = script.array() {
        let name = format!("name-{}", what >> 5);
        match what & 3 {
            0 => {
                if let Some(first) = ear.list().first() {
                    ear.keep(first.address);
                }
            }
            1 => ear.good_bye(&name),
            _ => {
                let mut addresses = Vec::new();
                for _ in 0..what >> 2 & 7 {
                    addresses.extend(script.some().and_then(address));
                }
                ear.hear(&name, u16::from_be_bytes([p0, p1]), &addresses, script.some().unwrap_or_default());
            }
        }
        let list = ear.list();
        assert!(list.len() <= 256);
        for one in &list {
            let ip = one.address.ip();
            assert!(one.address.port() > 0 && one.enroll != Some(0), "{one:?}");
            assert!(one.node.len() == 8 && one.node.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{one:?}");
            assert!(!ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4]), "{one:?}");
            assert!(!ip.to_canonical().is_loopback() || mode == MdnsMode::Loopback, "another machine's loopback is nowhere: {one:?}");
            assert!(list.iter().filter(|other| other.address.ip() == ip).count() <= 4, "{one:?}");
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// A packet of ARP, neighbour discovery or DHCP and where it came from, a message of the kernel, or an answer by mDNS: whoever is near said
/// so himself, and what he said is bounded.
pub(crate) fn network(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    match script.byte() {
        Some(0) => {
            let Some(source) = script.array() else { return };
            frame_of_arp(source, script.rest());
        }
        Some(1) => of_kernel(script.rest()),
        Some(2) => {
            let Some(source) = script.array() else { return };
            frame_of_ndp(source, script.rest());
        }
        Some(3) => {
            let Some(source) = script.array() else { return };
            frame_of_dhcp(source, script.rest());
        }
        Some(4) => {
            let Some([high, low]) = script.array() else { return };
            answer_of_mdns(u16::from_be_bytes([high, low]), script.rest());
        }
        _ => {}
    }
}

fn frame_of_arp(source: [u8; 6], packet: &[u8]) {
    let Some((sender, ip, answers)) = arp(packet, source) else { return };
    assert!(sender == source && sender[0] & 1 == 0 && sender != [0; 6], "nobody is near because somebody else says so");
    // RFC 826: hardware Ethernet, protocol IPv4, their lengths, a question or an answer; who, whose address, to whom.
    assert_eq!(packet[..7], [0, 1, 8, 0, 6, 4, 0]);
    assert_eq!((packet[8..14] == sender, packet[14..18] == ip.octets()), (true, true));
    assert_eq!(answers.map(|to| to == packet[18..24]), (packet[7] == 2).then_some(true));
    assert_eq!(arp(&[packet, &[0; 18]].concat(), source), Some((sender, ip, answers)), "padding says nothing");
    let other = source.map(|byte| byte ^ 2);
    assert_eq!(arp(packet, other), None);
}

fn of_kernel(bytes: &[u8]) {
    let Some(said) = kernel(bytes) else { return };
    if let Some((_, _, ip)) = said.reachable {
        assert!(said.asked.is_none(), "{ip} is there, and not asked for");
    }
    if let Some((own, prefix, asked)) = said.subnet {
        assert!(asked < 1024 && (asked == 0 || prefix >= 22), "{own}/{prefix}: a sweep asks {asked}");
    }
}

fn frame_of_ndp(source: [u8; 6], packet: &[u8]) {
    let Some((sender, ip, answers)) = ndp(packet, source) else { return };
    assert!(sender == source && sender[0] & 1 == 0 && sender != [0; 6], "nobody is near because somebody else says so");
    // RFC 4861: ICMPv6 with a hop limit that no router leaves, of neighbour discovery.
    assert_eq!((packet[0] >> 4, packet[6], packet[7], packet[41]), (6, 58, 255, 0));
    assert!((133..=136).contains(&packet[40]));
    if let Some(ip) = ip {
        let is_said = [&packet[8..24], &packet[48..packet.len().min(64)]].contains(&&ip.octets()[..]);
        assert!(is_said && !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback(), "{ip}");
    }
    assert!(answers.is_none_or(|to| packet[40] == 136 && packet[24..40] == to.octets()));
    assert_eq!(ndp(&[packet, &[0; 6]].concat(), source), Some((sender, ip, answers)), "padding says nothing");
    assert_eq!(ndp(packet, source.map(|byte| byte | 1)), None);
}

fn frame_of_dhcp(source: [u8; 6], packet: &[u8]) {
    let Some((sender, name)) = dhcp(packet, source) else { return };
    assert!(sender == source && sender[0] & 1 == 0 && sender != [0; 6], "nobody is near because somebody else says so");
    let header = usize::from(packet[0] & 15) * 4;
    assert_eq!(packet[header + 36..header + 42], source);
    if let Some(name) = name {
        assert!((1..=63).contains(&name.len()), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)), "{name}");
    }
    assert_eq!(dhcp(packet, source.map(|byte| byte ^ 2)), None);
}

fn answer_of_mdns(id: u16, packet: &[u8]) {
    let said = mdns(id, packet);
    assert!(said.len() <= 16 && said.iter().all(|(name, _)| name.len() <= 255 * 3));
    for (_, ip) in &said {
        let stands_there = match ip {
            IpAddr::V4(ip) => packet.windows(4).any(|part| part == ip.octets()),
            IpAddr::V6(ip) => packet.windows(16).any(|part| part == ip.octets()),
        };
        assert!(stands_there, "{ip}");
    }
    assert!(said.is_empty() || (packet[..2] == id.to_be_bytes() && mdns(id ^ 1, packet).is_empty()), "an answer to another question");
}

/// What the system bus sends: a message is read when all of it is there, whatever follows it; each text of it stands there, and all of them
/// no more than once; what was read can be asked with.
pub(crate) fn of_bus(bytes: &[u8]) {
    let Ok(Some(said)) = bus(bytes) else { return };
    assert!((16..=bytes.len()).contains(&said.length), "{said:?}");
    assert_eq!(bus(&bytes[..said.length]), Ok(Some(said.clone())));
    assert_eq!(bus(&bytes[..said.length - 1]), Ok(None));
    let texts = || said.head.iter().chain(&said.content);
    assert!(texts().map(String::len).sum::<usize>() <= said.length, "{said:?}");
    for text in texts() {
        let stands_there = text.is_empty() || bytes[..said.length].windows(text.len()).any(|part| part == text.as_bytes());
        assert!(stands_there, "{text:?}");
    }
    let [_, path, member, _] = &said.head;
    for pair in said.content.chunks_exact(2) {
        let call = bus_called(&bus_call(path, member, &pair[0], &pair[1])).expect("our own call can be read");
        assert_eq!(call, (path.clone(), member.clone(), pair[0].clone(), pair[1].clone()));
    }
}
