//! Sightings of people's devices become Home, Away or Unknown. Arriving is instant, leaving is slow.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;
mod tracker;

pub use tracker::{AWAY_PROBES, PersonChange, PresenceTracker};

/// Whether somebody is home. Unknown is a state of its own: it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Home,
    Away,
    Unknown,
}

/// A 48-bit hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Reads `aa:bb:cc:dd:ee:ff`, also with dashes, dots (`aabb.ccdd.eeff`) or nothing between, either case.
    pub fn parse(text: &str) -> Result<Self, String> {
        let not = || format!("\"{text}\" is no MAC address: write six pairs of hexadecimal digits, as in 24:da:9b:0d:53:8f");
        let mac = Self::digits(text).ok_or_else(not)?;
        mac.check()?;
        Ok(mac)
    }

    /// Whether it can be one device's in a network, or why not, in words.
    pub fn check(self) -> Result<(), String> {
        if self.0[0] & 1 == 1 || self.0 == [0; 6] {
            return Err(format!("{self} is no address of a device (it is a group or empty address)"));
        }
        Ok(())
    }

    /// The same for a Bluetooth address, of which none is a group's: many devices make theirs up, whatever its bits.
    pub fn parse_bluetooth(text: &str) -> Result<Self, String> {
        let not = || format!("\"{text}\" is no Bluetooth address: write six pairs of hexadecimal digits, as in bt:24:da:9b:0d:53:8f");
        Self::digits(text).filter(|address| address.0 != [0; 6]).ok_or_else(not)
    }

    fn digits(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// A phone with "private address" makes one up, and may make up another next month.
    pub fn is_private(self) -> bool {
        self.0[0] & 2 == 2
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A thing that a person carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Device {
    Mac(MacAddr),
    /// An IP address or host name: whoever has that address, or says in mDNS or DHCP that this is its name.
    Host(String),
    /// What advertises itself by Bluetooth LE under this address.
    Bluetooth(MacAddr),
}

impl Device {
    /// Reads a MAC address, an IPv4 address, a host name, or a Bluetooth address behind `bt:`; an error says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some((kind, address)) = text.split_once(':')
            && kind.eq_ignore_ascii_case("bt")
        {
            return MacAddr::parse_bluetooth(address).map(Self::Bluetooth);
        }
        // First, for `192.168.100.100` has twelve digits too.
        match text.parse() {
            Ok(IpAddr::V4(_)) => return Ok(Self::Host(text.to_owned())),
            Ok(IpAddr::V6(_)) => {
                return Err(format!("{text} is an IPv6 address, which phones change all the time: write the device's MAC address"));
            }
            Err(_) => {}
        }
        match MacAddr::parse(text) {
            Ok(mac) => return Ok(Self::Mac(mac)),
            Err(error) if looks_like_mac(text) => return Err(error),
            Err(_) => {}
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        let last_is_word = name.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_alphabetic()));
        if name.len() > 253 || !name.split('.').all(label) || !last_is_word {
            return Err(format!(
                "{text:?} is no device: write its MAC address (24:da:9b:0d:53:8f), its IPv4 address, its host name, or its Bluetooth address \
                 (bt:24:da:9b:0d:53:8f)"
            ));
        }
        Ok(Self::Host(name.to_ascii_lowercase()))
    }

    /// The same for what a running house can be taught: the MAC or Bluetooth address of a device.
    pub fn parse_address(text: &str) -> Result<Self, String> {
        match Self::parse(text)? {
            Self::Host(host) => Err(format!(
                "\"{host}\" is the name or IP address of a device, which only the config can hold: give its MAC address (24:da:9b:0d:53:8f) or its \
                 Bluetooth address (bt:24:da:9b:0d:53:8f)"
            )),
            device => Ok(device),
        }
    }

    /// Whether it is an address in the network that the device made up, and may make up anew. (Of Bluetooth no bit of the address tells.)
    pub fn is_private(&self) -> bool {
        matches!(self, Self::Mac(mac) if mac.is_private())
    }
}

/// Nothing but a MAC address has colons, or that many pairs between dashes.
fn looks_like_mac(text: &str) -> bool {
    let pairs: Vec<_> = text.split('-').collect();
    text.contains(':') || (pairs.len() >= 4 && pairs.iter().all(|pair| pair.len() <= 2))
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Host(host) => f.write_str(host),
            Self::Bluetooth(address) => write!(f, "bt:{address}"),
        }
    }
}

/// Somebody who lives here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    /// Any of them home means that the person is. None yet: nothing can be known of that person, who is then neither home nor away.
    pub devices: Vec<Device>,
    /// Silence before the last probes decide that the person left.
    pub away_after: Duration,
    /// False: shown, and nothing else. Neither holds the house open nor disarms it.
    pub counts: bool,
}

/// A question that the rules want asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub device: Device,
    pub urgency: Urgency,
}

/// How much depends on the answer, and so how loud the question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// The device is home and was silent for a little while: it is asked quietly, for its battery's sake.
    Routine,
    /// It counts: the device is asked in every way that there is.
    Deciding,
    /// It is gone, or nothing can be decided now: perhaps it is back.
    Lookout,
}

/// Frames that the sensors sent, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// ARP questions to one device, ...
    pub arp_direct: u64,
    /// ...and to all, those of sweeps among them.
    pub arp_broadcast: u64,
    /// The same by NDP: neighbour solicitations to one device, ...
    pub ns_direct: u64,
    /// ...and to the group of its address, with a ping to all that may have unknown ones.
    pub ns_multicast: u64,
    /// mDNS questions, for names and to wake a phone.
    pub mdns: u64,
    /// Without CAP_NET_RAW: empty datagrams that make the kernel ask.
    pub datagrams: u64,
}

impl Frames {
    pub fn total(&self) -> u64 {
        let Self { arp_direct, arp_broadcast, ns_direct, ns_multicast, mdns, datagrams } = *self;
        arp_direct + arp_broadcast + ns_direct + ns_multicast + mdns + datagrams
    }

    /// "340 ARP (300 of them to all), 3 NDP (1 to groups)"; empty where none was sent.
    pub fn words(&self) -> String {
        let Self { arp_direct, arp_broadcast, ns_direct, ns_multicast, mdns, datagrams } = *self;
        let kinds = [
            (arp_direct + arp_broadcast, format!("ARP ({arp_broadcast} of them to all)")),
            (ns_direct + ns_multicast, format!("NDP ({ns_multicast} to groups)")),
            (mdns, "mDNS".to_owned()),
            (datagrams, "empty datagrams".to_owned()),
        ];
        let sent = kinds.into_iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}"));
        sent.collect::<Vec<_>>().join(", ")
    }
}

impl std::ops::Add for Frames {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            arp_direct: self.arp_direct + other.arp_direct,
            arp_broadcast: self.arp_broadcast + other.arp_broadcast,
            ns_direct: self.ns_direct + other.ns_direct,
            ns_multicast: self.ns_multicast + other.ns_multicast,
            mdns: self.mdns + other.mdns,
            datagrams: self.datagrams + other.datagrams,
        }
    }
}

/// Which sense it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sensor {
    /// The kernel confirmed the neighbour (NUD reachable).
    Neighbour,
    /// An ARP packet of the device passed by.
    ArpHeard,
    /// It answered our own question.
    ArpProbe,
    /// The same two over IPv6: a packet of neighbour discovery passed by, ...
    NdpHeard,
    /// ...or answered us.
    NdpProbe,
    /// It asked the network for an address.
    DhcpHeard,
    /// It advertised itself by Bluetooth, near enough.
    Bluetooth,
}

impl Sensor {
    pub fn words(self) -> &'static str {
        match self {
            Self::Neighbour => "talked with this machine",
            Self::ArpHeard | Self::NdpHeard => "was heard on the network",
            Self::ArpProbe | Self::NdpProbe => "answered a probe",
            Self::DhcpHeard => "asked for an address",
            Self::Bluetooth => "was heard by Bluetooth",
        }
    }
}
