//! ARP packets (RFC 826, Ethernet and IPv4): bytes to meaning and back.

use std::net::Ipv4Addr;

use dms3_core::presence::MacAddr;

pub(crate) const LEN: usize = 28;
/// Hardware Ethernet, protocol IPv4, lengths 6 and 4.
const HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) sender: MacAddr,
    /// Unspecified in a packet that asks whether an address is free.
    pub(crate) sender_ip: Ipv4Addr,
    /// To whom it answers; none: it asks.
    pub(crate) answers: Option<MacAddr>,
}

/// What the packet says, if it is whole and says it of its own sender: `source` is where the frame came from.
/// A packet that speaks of somebody else proves nothing about them.
pub(crate) fn parse(packet: &[u8], source: [u8; 6]) -> Option<Arp> {
    // Short frames are padded: more bytes are no fault.
    let packet: &[u8; LEN] = packet.first_chunk()?;
    let sender: [u8; 6] = *packet[8..].first_chunk()?;
    let sender_ip: [u8; 4] = *packet[14..].first_chunk()?;
    let target: [u8; 6] = *packet[18..].first_chunk()?;
    let is_device = sender != [0; 6] && sender[0] & 1 == 0;
    if packet[..6] != HEAD || packet[6] != 0 || sender != source || !is_device {
        return None;
    }
    let answers = match packet[7] {
        REQUEST => None,
        REPLY => Some(MacAddr(target)),
        _ => return None,
    };
    Some(Arp { sender: MacAddr(sender), sender_ip: sender_ip.into(), answers })
}

/// "Who has `ip`? Tell `own_ip`."
pub(crate) fn request(own: MacAddr, own_ip: Ipv4Addr, ip: Ipv4Addr) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[..6].copy_from_slice(&HEAD);
    packet[7] = REQUEST;
    packet[8..14].copy_from_slice(&own.0);
    packet[14..18].copy_from_slice(&own_ip.octets());
    packet[24..].copy_from_slice(&ip.octets());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);
    const US: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 0, 0, 2]);
    const PHONE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);
    const OUR_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

    fn reply() -> [u8; LEN] {
        let mut packet = request(PHONE, PHONE_IP, OUR_IP);
        packet[7] = REPLY;
        packet[18..24].copy_from_slice(&US.0);
        packet
    }

    #[test]
    fn a_question_has_the_bytes_that_the_standard_says() {
        assert_eq!(
            request(US, OUR_IP, PHONE_IP),
            [0, 1, 8, 0, 6, 4, 0, 1, 0xb8, 0x27, 0xeb, 0, 0, 2, 192, 168, 1, 2, 0, 0, 0, 0, 0, 0, 192, 168, 1, 20]
        );
    }

    #[test]
    fn a_phone_is_known_by_its_question_and_by_its_answer() {
        let asks = parse(&request(PHONE, PHONE_IP, OUR_IP), PHONE.0).unwrap();
        assert_eq!(asks, Arp { sender: PHONE, sender_ip: PHONE_IP, answers: None });
        assert_eq!(parse(&reply(), PHONE.0).unwrap().answers, Some(US));
        let mut padded = reply().to_vec();
        padded.extend([0; 18]);
        assert_eq!(parse(&padded, PHONE.0).unwrap().answers, Some(US));
    }

    #[test]
    fn a_packet_that_another_device_sent_in_the_phones_name_is_no_proof() {
        assert_eq!(parse(&reply(), US.0), None);
    }

    #[test]
    fn what_is_no_whole_arp_packet_is_no_proof() {
        for len in 0..LEN {
            assert_eq!(parse(&reply()[..len], PHONE.0), None, "{len} bytes");
        }
        for (at, byte) in [(0, 1), (1, 6), (2, 0x86), (4, 8), (5, 16), (6, 1), (7, 0), (7, 3), (7, 8)] {
            let mut packet = reply();
            packet[at] = byte;
            assert_eq!(parse(&packet, PHONE.0), None, "byte {at} = {byte}");
        }
        let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(parse(&request(group, PHONE_IP, OUR_IP), group.0), None);
        assert_eq!(parse(&request(MacAddr([0; 6]), PHONE_IP, OUR_IP), [0; 6]), None);
    }
}
