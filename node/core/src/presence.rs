//! Sightings of people's devices become Home, Away or Unknown. Arriving is instant, leaving is slow.

use std::fmt;
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
    /// At least one; any of them home means that the person is.
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
