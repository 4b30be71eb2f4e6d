//! Questions by mDNS (RFC 6762): where a name is now, and one that wakes a sleeping phone. They come from a port of our own, so the
//! answer comes to us alone (6.7, "legacy").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const PORT: u16 = 5353;
pub(crate) const GROUP4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
pub(crate) const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;
const PTR: u16 = 12;
const INTERNET: u16 = 1;
/// A name is no longer, whatever its bytes point to (RFC 1035, 3.1).
const LONGEST: usize = 255;
/// Nobody has more addresses that matter.
const MOST: usize = 16;

/// "Which addresses has `name`?" `None`: it is no name of mDNS.
pub(crate) fn where_is(id: u16, name: &str) -> Option<Vec<u8>> {
    question(id, name, &[A, AAAA])
}

/// "Which services are there?" Every phone that speaks mDNS has an answer, and an iPhone wakes for it.
pub(crate) fn wake_up(id: u16) -> Vec<u8> {
    question(id, "_services._dns-sd._udp.local", &[PTR]).unwrap_or_default()
}

/// By which name a device is asked for by mDNS: `annas-iphone` and `annas-iphone.local`, not `annas-iphone.lan`.
pub(crate) fn local_name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match host.strip_suffix(".local") {
        Some(_) => Some(host),
        None if host.contains('.') => None,
        None => Some(format!("{host}.local")),
    }
}

fn question(id: u16, name: &str, kinds: &[u16]) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(64);
    for word in [id, 0, u16::try_from(kinds.len()).ok()?, 0, 0, 0] {
        packet.extend(word.to_be_bytes());
    }
    for kind in kinds {
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?);
            packet.extend(label.as_bytes());
        }
        packet.push(0);
        packet.extend([*kind, INTERNET].into_iter().flat_map(u16::to_be_bytes));
    }
    Some(packet)
}

/// Names and their addresses in an answer to a question with that id. What cannot be read ends the list.
pub(crate) fn addresses(id: u16, packet: &[u8]) -> Vec<(String, IpAddr)> {
    let mut found = Vec::new();
    let _ = read(id, packet, &mut found);
    found
}

fn read(id: u16, packet: &[u8], found: &mut Vec<(String, IpAddr)>) -> Option<()> {
    let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    // An answer (QR), to a plain question (opcode 0), without an error.
    if word(0)? != id || word(2)? & 0xf80f != 0x8000 {
        return None;
    }
    let mut at = HEADER;
    for _ in 0..word(4)? {
        at = name_at(packet, at)?.1 + 4;
    }
    let records = u32::from(word(6)?) + u32::from(word(8)?) + u32::from(word(10)?);
    for _ in 0..records {
        let (name, after) = name_at(packet, at)?;
        let (kind, length) = (word(after)?, usize::from(word(after + 8)?));
        let value = packet.get(after + 10..after + 10 + length)?;
        let ip = match kind {
            A => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            AAAA => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => None,
        };
        if let Some(ip) = ip {
            found.push((name, ip));
            if found.len() == MOST {
                return None;
            }
        }
        at = after + 10 + length;
    }
    Some(())
}

/// A name in small letters, and where the bytes go on behind it. What it points to stands before it, so it cannot go round.
fn name_at(packet: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut name, mut at, mut before, mut end) = (String::new(), start, start, None);
    loop {
        match *packet.get(at)? {
            0 => return Some((name, end.unwrap_or(at + 1))),
            high @ 0xc0.. => {
                let to = (usize::from(high & 0x3f) << 8) | usize::from(*packet.get(at + 1)?);
                end.get_or_insert(at + 2);
                if to >= before {
                    return None;
                }
                (at, before) = (to, to);
            }
            length @ 1..64 => {
                let label = packet.get(at + 1..at + 1 + usize::from(length))?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
                if name.len() > LONGEST {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: [u8; 4] = [192, 168, 1, 20];
    const IP6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20];

    /// As a phone answers: the question again, and its addresses, whose name points to it.
    fn answer(id: u16, name: &str) -> Vec<u8> {
        let mut packet = where_is(id, name).unwrap();
        packet[2] = 0x84;
        packet[7] = 1;
        packet[11] = 1;
        for (kind, value) in [(A, &IP[..]), (AAAA, &IP6[..])] {
            packet.extend([0xc0, 12]);
            packet.extend(kind.to_be_bytes());
            packet.extend([0x80, 1, 0, 0, 0, 120, 0, u8::try_from(value.len()).unwrap()]);
            packet.extend(value);
        }
        packet
    }

    #[test]
    fn a_question_has_the_bytes_that_the_standard_says() {
        let asked = where_is(0x1234, "anna.local").unwrap();
        let name = b"\x04anna\x05local\x00";
        let expected = [&[0x12, 0x34, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0][..], name, &[0, 1, 0, 1], name, &[0, 28, 0, 1]].concat();
        assert_eq!(asked, expected);
        assert_eq!(wake_up(0)[12..], *b"\x09_services\x07_dns-sd\x04_udp\x05local\x00\x00\x0c\x00\x01");
        assert_eq!(where_is(0, "anna..local"), None);
        assert_eq!(where_is(0, &"a".repeat(64)), None);
    }

    #[test]
    fn a_phone_says_where_it_is() {
        let said = addresses(7, &answer(7, "Annas-iPhone.local"));
        assert_eq!(said, [("annas-iphone.local".to_owned(), IP.into()), ("annas-iphone.local".to_owned(), IP6.into())]);
        assert!(addresses(8, &answer(7, "anna.local")).is_empty(), "to another question");
        assert!(addresses(7, &where_is(7, "anna.local").unwrap()).is_empty(), "a question is no answer");
    }

    #[test]
    fn what_is_no_whole_answer_says_no_more_than_its_whole_records() {
        let whole = answer(7, "anna.local");
        for length in 0..whole.len() {
            assert!(addresses(7, &whole[..length]).len() < 2, "{length} bytes");
        }
        // A name that points to itself, or forward, or that never ends.
        for name in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[1, b'a', 0xc0, 12], &[0x40, 1], &[63; 300]] {
            let mut packet = vec![0, 7, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
            packet.extend(name);
            packet.extend([0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
            assert!(addresses(7, &packet).is_empty(), "{name:?}");
        }
        let mut many = vec![0, 7, 0x84, 0, 0, 0, 0, 200, 0, 0, 0, 0];
        many.extend([1, b'a', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4].repeat(200));
        assert_eq!(addresses(7, &many).len(), MOST);
    }

    #[test]
    fn a_name_of_another_domain_is_not_for_mdns() {
        assert_eq!(local_name("annas-iphone").as_deref(), Some("annas-iphone.local"));
        assert_eq!(local_name("Annas-iPhone.local.").as_deref(), Some("annas-iphone.local"));
        assert_eq!(local_name("anna.lan"), None);
    }
}
