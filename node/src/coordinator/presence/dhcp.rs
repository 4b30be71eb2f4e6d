//! Who asks for an address (RFC 2131, 2132): which MAC address a device of that name has now.

use dms3_core::presence::MacAddr;

const UDP_HEADER: usize = 8;
const REQUEST: u8 = 1;
const ETHERNET: [u8; 2] = [1, 6];
/// Where the hardware address stands, and where the options begin behind the cookie.
const CHADDR: usize = 28;
const COOKIE_AT: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const PAD: u8 = 0;
const END: u8 = 255;
const HOST_NAME: u8 = 12;
const MESSAGE_TYPE: u8 = 53;
/// Discover, request, inform: of one who is here and stays. Not release or decline.
const COMES: [u8; 3] = [1, 3, 8];
/// Of a name: more is no label of one.
const LONGEST: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dhcp {
    pub(crate) sender: MacAddr,
    /// Its first label, in small letters.
    pub(crate) name: Option<String>,
}

/// What a client says, from its IPv4 header on, if it says it of itself: `source` is where the frame came from.
pub(crate) fn parse(packet: &[u8], source: [u8; 6]) -> Option<Dhcp> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    if packet[0] >> 4 != 4 || header < 20 || source == [0; 6] || source[0] & 1 == 1 {
        return None;
    }
    let message = packet.get(header + UDP_HEADER..)?;
    let is_own = message.get(CHADDR..CHADDR + 6)? == source.as_slice();
    if message[0] != REQUEST || message[1..3] != ETHERNET || !is_own || message.get(COOKIE_AT..)?.first_chunk()? != &COOKIE {
        return None;
    }
    let (mut kind, mut name) = (None, None);
    let mut options = &message[COOKIE_AT + COOKIE.len()..];
    while let [option, rest @ ..] = options {
        options = match *option {
            PAD => rest,
            END => break,
            option => {
                let (length, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                match option {
                    MESSAGE_TYPE => kind = value.first().copied(),
                    HOST_NAME => name = label(value),
                    _ => {}
                }
                rest
            }
        };
    }
    COMES.contains(&kind?).then_some(Dhcp { sender: MacAddr(source), name })
}

/// The first label of a name, if it is one.
pub(crate) fn label(name: &[u8]) -> Option<String> {
    let first = name.split(|byte| *byte == b'.').next()?;
    let is_label = (1..=LONGEST).contains(&first.len()) && first.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    is_label.then(|| String::from_utf8_lossy(first).to_ascii_lowercase())
}

#[cfg(test)]
pub(super) fn asks(mac: MacAddr, kind: u8, name: &str) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67, 0, 0, 0, 0];
    packet.extend([REQUEST, 1, 6]);
    packet.resize(28 + CHADDR, 0);
    packet.extend(mac.0);
    packet.resize(28 + COOKIE_AT, 0);
    packet.extend(COOKIE);
    packet.extend([MESSAGE_TYPE, 1, kind, PAD]);
    packet.extend([HOST_NAME, u8::try_from(name.len()).unwrap()]);
    packet.extend(name.as_bytes());
    packet.push(END);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: MacAddr = MacAddr([0xda, 0xa1, 0x19, 0, 0, 1]);

    #[test]
    fn a_phone_that_asks_for_an_address_says_its_name() {
        for kind in COMES {
            let said = parse(&asks(PHONE, kind, "Annas-iPhone"), PHONE.0).unwrap();
            assert_eq!(said, Dhcp { sender: PHONE, name: Some("annas-iphone".to_owned()) });
        }
        assert_eq!(parse(&asks(PHONE, 3, "annas-iphone.lan"), PHONE.0).unwrap().name.as_deref(), Some("annas-iphone"));
        let mut long_header = asks(PHONE, 3, "a");
        long_header[0] = 0x46;
        long_header.splice(20..20, [1, 1, 1, 0]);
        assert_eq!(parse(&long_header, PHONE.0).unwrap().name.as_deref(), Some("a"));
    }

    #[test]
    fn what_is_no_name_is_none_and_the_phone_is_there_all_the_same() {
        for name in ["", "anna's", "<b>", "a b", "..", "\u{e4}nna", &"a".repeat(64)] {
            assert_eq!(parse(&asks(PHONE, 1, name), PHONE.0).unwrap().name, None, "{name:?}");
        }
    }

    #[test]
    fn nobody_is_there_because_another_or_half_a_packet_says_so() {
        let whole = asks(PHONE, 3, "annas-iphone");
        assert_eq!(parse(&whole, [0xda, 0xa1, 0x19, 0, 0, 2]), None);
        for kind in [0, 2, 4, 5, 6, 7] {
            assert_eq!(parse(&asks(PHONE, kind, "annas-iphone"), PHONE.0), None, "{kind}");
        }
        // Cut in its last option, whose name is then not there, it is no message.
        for length in 0..whole.len() - 1 {
            let said = parse(&whole[..length], PHONE.0);
            assert!(said.is_none_or(|said| said.name.is_none()), "{length} bytes");
        }
        for at in [0, 28, 29, 30, 28 + COOKIE_AT] {
            let mut other = whole.clone();
            other[at] ^= 0x10;
            assert_eq!(parse(&other, PHONE.0), None, "byte {at}");
        }
        assert_eq!(parse(&whole, [0; 6]), None);
    }
}
