//! Sightings of people's devices become Home, Away or Unknown. Arriving is instant, leaving is slow.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
        let digits: String = text.trim().chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        let not = || format!("\"{text}\" is no MAC address: write six pairs of hexadecimal digits, as in 24:da:9b:0d:53:8f");
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| not())?;
        let mac = Self(bytes.try_into().map_err(|_| not())?);
        if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
            return Err(format!("{mac} is no address of a device (it is a group or empty address)"));
        }
        Ok(mac)
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

/// A thing that a person carries. Further kinds (Bluetooth) are further variants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Device {
    Mac(MacAddr),
    /// An IP address or host name, for a network where its address is fixed.
    Host(String),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Host(host) => f.write_str(host),
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
}

impl Sensor {
    pub fn words(self) -> &'static str {
        match self {
            Self::Neighbour => "talked with this machine",
            Self::ArpHeard => "was heard on the network",
            Self::ArpProbe => "answered a probe",
        }
    }
}
