//! Neighbour discovery (RFC 4861), which is to IPv6 what ARP is to IPv4: bytes to meaning and back.

use std::net::Ipv6Addr;

use dms3_core::presence::MacAddr;

/// Of the IPv6 header.
const HEADER: usize = 40;
const ICMPV6: u8 = 58;
/// A router takes one off: whoever sent this is on our own network.
const NEIGHBOURS_ONLY: u8 = 255;
const ECHO_REQUEST: u8 = 128;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
/// Flags of an advertisement.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// All nodes of a network.
const EVERYBODY: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Its routers: whom a device asks that comes.
pub(crate) const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ndp {
    pub(crate) sender: MacAddr,
    /// An address of its own, if it says one: nobody else's for whom it speaks.
    pub(crate) ip: Option<Ipv6Addr>,
    /// At which address it was asked; none: it does not answer.
    pub(crate) answers: Option<Ipv6Addr>,
}

/// What the packet says, from its IPv6 header on, if it is whole and says it of its own sender: `source` is where the frame came from.
/// A packet that speaks of another MAC address proves nothing about it, and one that speaks for another IPv6 address (a proxy) is no
/// proof that somebody has that.
pub(crate) fn parse(packet: &[u8], source: [u8; 6]) -> Option<Ndp> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (from, to) = (address(header, 8)?, address(header, 24)?);
    let icmp = packet.get(HEADER..HEADER + length)?;
    let [kind, code, ..] = *icmp else { return None };
    let is_device = source != [0; 6] && source[0] & 1 == 0;
    let is_said = header[0] >> 4 == 6 && header[6] == ICMPV6 && header[7] == NEIGHBOURS_ONLY && code == 0;
    if !is_device || !is_said || from.is_multicast() || checksum(from, to, icmp) != 0 {
        return None;
    }
    let own = (!from.is_unspecified()).then_some(from);
    let (options, own_mac) = match kind {
        ROUTER_SOLICITATION => (icmp.get(8..)?, SOURCE_MAC),
        ROUTER_ADVERTISEMENT if from.is_unicast_link_local() => (icmp.get(16..)?, SOURCE_MAC),
        SOLICITATION if !address(icmp, 8)?.is_multicast() => (icmp.get(24..)?, SOURCE_MAC),
        ADVERTISEMENT if own.is_some() && !address(icmp, 8)?.is_multicast() => (icmp.get(24..)?, TARGET_MAC),
        _ => return None,
    };
    let said = mac_of(options, own_mac)?;
    if said.is_some_and(|mac| mac != source) {
        return None;
    }
    let (mut ip, mut answers) = (own, None);
    if kind == ADVERTISEMENT {
        let target = address(icmp, 8)?;
        // A proxy leaves Override out, and answers from an address of its own.
        if icmp[4] & OVERRIDE != 0 && said.is_some() {
            ip = Some(target);
        }
        answers = (icmp[4] & SOLICITED != 0 && !to.is_multicast()).then_some(to);
    }
    let ip = ip.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    Some(Ndp { sender: MacAddr(source), ip, answers })
}

/// The option that holds a MAC address of that kind. Outer `None`: the options are broken.
fn mac_of(mut options: &[u8], kind: u8) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    while let [this, eights, ..] = *options {
        let length = usize::from(eights) * 8;
        // RFC 4861, 4.6: a packet with an option of no length is thrown away.
        let (option, rest) = options.split_at_checked(length).filter(|_| length > 0)?;
        if this == kind && found.is_none() {
            found = Some(*option.get(2..)?.first_chunk::<6>()?);
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?))
}

/// "Who has `ip`? Tell `own_ip`." And to which MAC address that goes: to the device itself if its own is known, else to the group of its
/// address.
pub(crate) fn question(own: MacAddr, own_ip: Ipv6Addr, ip: Ipv6Addr, device: Option<MacAddr>) -> ([u8; 6], Vec<u8>) {
    let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&ip.octets());
    icmp.extend_from_slice(&[SOURCE_MAC, 1]);
    icmp.extend_from_slice(&own.0);
    match device {
        Some(mac) => (mac.0, packet(own_ip, ip, icmp)),
        None => {
            let group = group_of(ip);
            (mac_of_group(group), packet(own_ip, group, icmp))
        }
    }
}

/// A ping to all. Who answers it has to ask for us first, and is heard by that. Many phones do not: silence proves nothing.
pub(crate) fn call(own_ip: Ipv6Addr) -> ([u8; 6], Vec<u8>) {
    (mac_of_group(EVERYBODY), packet(own_ip, EVERYBODY, vec![ECHO_REQUEST, 0, 0, 0, 0xd3, 0x53, 0, 1]))
}

/// The solicited-node group (RFC 4291, 2.7.1), to which also goes the question whether the address is free.
pub(crate) fn group_of(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 2464, 7.
fn mac_of_group(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn packet(from: Ipv6Addr, to: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let sum = checksum(from, to, &icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let length = u16::try_from(icmp.len()).unwrap_or_default().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], ICMPV6, NEIGHBOURS_ONLY];
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(&icmp);
    packet
}

/// Of an ICMPv6 message and what stands for its header (RFC 8200, 8.1). Zero, if the message holds the right one already.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, icmp: &[u8]) -> u16 {
    let words =
        |bytes: &[u8]| bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum::<u32>();
    let length = u32::try_from(icmp.len()).unwrap_or_default();
    // At most 65 kB: 32 bits hold the sum.
    let mut sum = words(&from.octets()) + words(&to.octets()) + length + u32::from(ICMPV6) + words(icmp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// What a device with this address answers to whoever asked for it.
#[cfg(test)]
pub(super) fn answer(mac: MacAddr, own: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let head = [ADVERTISEMENT, 0, 0, 0, SOLICITED | OVERRIDE, 0, 0, 0];
    packet(own, to, [&head[..], &own.octets(), &[TARGET_MAC, 1], &mac.0].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);
    const US: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 0, 0, 2]);
    const PHONE_IP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x26da, 0x9bff, 0xfe00, 1);
    const PHONE_GLOBAL: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x21);
    const OUR_IP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    fn said(kind: u8, flags: u8, from: Ipv6Addr, to: Ipv6Addr, target: Option<Ipv6Addr>, options: &[u8]) -> Vec<u8> {
        let mut icmp = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        icmp.extend(target.map(|target| target.octets()).into_iter().flatten());
        icmp.extend_from_slice(options);
        packet(from, to, icmp)
    }

    fn option(kind: u8, mac: MacAddr) -> Vec<u8> {
        [&[kind, 1][..], &mac.0].concat()
    }

    fn answer(flags: u8, from: Ipv6Addr, of: Ipv6Addr, options: &[u8]) -> Vec<u8> {
        said(ADVERTISEMENT, flags, from, OUR_IP, Some(of), options)
    }

    #[test]
    fn a_question_has_the_bytes_that_the_standard_says() {
        let (to, packet) = question(US, OUR_IP, PHONE_IP, None);
        assert_eq!(to, [0x33, 0x33, 0xff, 0, 0, 1]);
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(address(&packet, 24).unwrap(), "ff02::1:ff00:1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet[40..42], [135, 0]);
        assert_eq!(packet[44..48], [0; 4]);
        assert_eq!(packet[48..64], PHONE_IP.octets());
        assert_eq!(packet[64..], [1, 1, 0xb8, 0x27, 0xeb, 0, 0, 2]);
        assert_eq!(checksum(OUR_IP, address(&packet, 24).unwrap(), &packet[40..]), 0);
        assert_ne!(packet[42..44], [0, 0]);
        let (to, packet) = question(US, OUR_IP, PHONE_IP, Some(PHONE));
        assert_eq!((to, address(&packet, 24).unwrap()), (PHONE.0, PHONE_IP));
        let (to, packet) = call(OUR_IP);
        assert_eq!((to, packet[40], address(&packet, 24).unwrap()), ([0x33, 0x33, 0, 0, 0, 1], 128, EVERYBODY));
    }

    #[test]
    fn a_checksum_is_that_of_a_real_packet() {
        // A router solicitation as Linux sent it.
        let from: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        let to: Ipv6Addr = "ff02::2".parse().unwrap();
        let mut icmp = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let sum: u32 = [0xfe80u32, 0x5054, 0x00ff, 0xfe12, 0x3456, 0xff02, 2, 16, 58, 0x8500, 0x0101, 0x5254, 0x0012, 0x3456].iter().sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let expected = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
        assert_eq!(checksum(from, to, &icmp), expected);
        icmp[2..4].copy_from_slice(&expected.to_be_bytes());
        assert_eq!(checksum(from, to, &icmp), 0);
    }

    #[test]
    fn a_phone_is_known_by_all_that_it_says_of_itself() {
        let asks = question(PHONE, PHONE_IP, OUR_IP, None).1;
        assert_eq!(parse(&asks, PHONE.0), Some(Ndp { sender: PHONE, ip: Some(PHONE_IP), answers: None }));
        let arrives = said(ROUTER_SOLICITATION, 0, PHONE_IP, EVERYBODY, None, &option(SOURCE_MAC, PHONE));
        assert_eq!(parse(&arrives, PHONE.0), Some(Ndp { sender: PHONE, ip: Some(PHONE_IP), answers: None }));
        // Before it has an address it asks whether one is free: it is there, and the address is not its own yet.
        let tries = said(SOLICITATION, 0, Ipv6Addr::UNSPECIFIED, group_of(PHONE_IP), Some(PHONE_IP), &[]);
        assert_eq!(parse(&tries, PHONE.0), Some(Ndp { sender: PHONE, ip: None, answers: None }));
        // As Linux answers a question to all, ...
        let loud = answer(SOLICITED | OVERRIDE, PHONE_GLOBAL, PHONE_GLOBAL, &option(TARGET_MAC, PHONE));
        assert_eq!(parse(&loud, PHONE.0), Some(Ndp { sender: PHONE, ip: Some(PHONE_GLOBAL), answers: Some(OUR_IP) }));
        // ...and one to itself; ...
        let quiet = answer(SOLICITED, PHONE_GLOBAL, PHONE_GLOBAL, &[]);
        assert_eq!(parse(&quiet, PHONE.0), Some(Ndp { sender: PHONE, ip: Some(PHONE_GLOBAL), answers: Some(OUR_IP) }));
        // ...as an iPhone does, from another address of its own.
        let from_other = answer(SOLICITED | OVERRIDE, PHONE_IP, PHONE_GLOBAL, &option(TARGET_MAC, PHONE));
        assert_eq!(parse(&from_other, PHONE.0).unwrap().ip, Some(PHONE_GLOBAL));
        let unasked = said(ADVERTISEMENT, OVERRIDE, PHONE_IP, EVERYBODY, Some(PHONE_IP), &option(TARGET_MAC, PHONE));
        assert_eq!(parse(&unasked, PHONE.0), Some(Ndp { sender: PHONE, ip: Some(PHONE_IP), answers: None }));
    }

    #[test]
    fn who_speaks_for_another_is_no_proof_of_him() {
        // In the phone's name: nobody.
        let lie = answer(SOLICITED | OVERRIDE, PHONE_IP, PHONE_IP, &option(TARGET_MAC, PHONE));
        assert_eq!(parse(&lie, US.0), None);
        assert_eq!(parse(&question(PHONE, PHONE_IP, OUR_IP, None).1, US.0), None);
        // A proxy is there itself, at its own address: the phone is not.
        let proxy = answer(SOLICITED, OUR_IP, PHONE_IP, &option(TARGET_MAC, US));
        assert_eq!(parse(&proxy, US.0), Some(Ndp { sender: US, ip: Some(OUR_IP), answers: Some(OUR_IP) }));
    }

    #[test]
    fn what_came_through_a_router_or_is_not_whole_is_no_proof() {
        let whole = question(PHONE, PHONE_IP, OUR_IP, None).1;
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], PHONE.0), None, "{length} bytes");
        }
        let mut padded = whole.clone();
        padded.extend([0; 6]);
        assert!(parse(&padded, PHONE.0).is_some(), "padding says nothing");
        for at in [0, 6, 7, 20, 40, 41, 42, 60, 65] {
            let mut other = whole.clone();
            other[at] ^= 0x40;
            assert_eq!(parse(&other, PHONE.0), None, "byte {at}");
        }
        assert_eq!(parse(&whole, [1, 0, 0, 0, 0, 1]), None);
        assert_eq!(parse(&whole, [0; 6]), None);
        for (kind, flags, from, target, options) in [
            (SOLICITATION, 0, PHONE_IP, Some(EVERYBODY), vec![]),
            (ADVERTISEMENT, OVERRIDE, Ipv6Addr::UNSPECIFIED, Some(PHONE_IP), vec![]),
            (ADVERTISEMENT, OVERRIDE, PHONE_IP, Some(EVERYBODY), vec![]),
            (ROUTER_ADVERTISEMENT, 0, PHONE_GLOBAL, Some(PHONE_IP), vec![]),
            (SOLICITATION, 0, PHONE_IP, Some(OUR_IP), vec![SOURCE_MAC, 0, 0, 0, 0, 0, 0, 0]),
            (SOLICITATION, 0, PHONE_IP, Some(OUR_IP), vec![SOURCE_MAC, 2, 0, 0, 0, 0, 0, 0]),
            (SOLICITATION, 0, PHONE_IP, Some(OUR_IP), vec![SOURCE_MAC]),
            (137, 0, PHONE_IP, Some(OUR_IP), vec![]),
        ] {
            assert_eq!(parse(&said(kind, flags, from, OUR_IP, target, &options), PHONE.0), None, "{kind} {target:?} {options:?}");
        }
    }
}
