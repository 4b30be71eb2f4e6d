//! What anybody on the network says: mDNS, ARP, and what the kernel makes of it.

use std::net::IpAddr;

use dms3_node::coordinator::presence::fuzzing::{arp, kernel};
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

/// An ARP packet and where it came from, or a message of the kernel: whoever is near said so himself.
pub(crate) fn network(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    match script.byte() {
        Some(0) => {
            let Some(source) = script.array() else { return };
            frame_of_arp(source, script.rest());
        }
        Some(1) => of_kernel(script.rest()),
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
