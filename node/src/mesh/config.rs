//! `[mesh]` of dms3.toml.

use std::net::{Ipv6Addr, SocketAddr};

use serde::Deserialize;

use crate::config_text::{Wrong, address, number, word};

/// UDP port of the mesh where nothing else is said.
pub const MESH_PORT: u16 = 47100;
/// UDP port of multicast DNS (RFC 6762).
pub const MDNS_PORT: u16 = 5353;

/// How this node reaches others and is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeshConfig {
    /// Address and UDP port on which a coordinator listens. `[::]` means every address of the machine, IPv4 and IPv6. A camera only dials:
    /// it uses the address and a port of the system's choice.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Where coordinators may be, for networks without mDNS: `house.example`, `192.168.1.2`, `[fd00::2]:47100`. Tried before what mDNS
    /// hears. Who they are only their certificates say.
    pub peers: Vec<String>,
    /// "on"; "off": neither advertised nor browsed; "loopback": within this machine only.
    #[serde(deserialize_with = "word")]
    pub mdns: MdnsMode,
    /// UDP port of mDNS. Another one than 5353 is a discovery of its own, apart from everything else on the network.
    #[serde(deserialize_with = "number::<1, 65535, _, _>")]
    pub mdns_port: u16,
    pub limits: Limits,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, MESH_PORT)),
            peers: Vec::new(),
            mdns: MdnsMode::On,
            mdns_port: MDNS_PORT,
            limits: Limits::default(),
        }
    }
}

impl MeshConfig {
    /// What serde cannot see.
    pub fn check(&self) -> Result<(), Wrong> {
        for (nth, peer) in self.peers.iter().enumerate() {
            super::dial::check_peer(peer).map_err(|why| Wrong::new(format!("peers.{nth}"), why))?;
        }
        let limits = &self.limits;
        if limits.reserve >= limits.handshakes {
            return Err(Wrong::new(
                "limits.reserve",
                format!("it is {}; it must be less than handshakes ({})", limits.reserve, limits.handshakes),
            ));
        }
        Ok(())
    }
}

/// Discovery by multicast DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MdnsMode {
    #[default]
    On,
    Off,
    Loopback,
}

/// What strangers may take of us before they have proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// New handshakes at once, of all addresses together.
    #[serde(deserialize_with = "number::<1, 100_000, _, _>")]
    pub handshakes: u32,
    /// How many of those are kept for addresses from which an active node came lately.
    #[serde(deserialize_with = "number::<0, 99_999, _, _>")]
    pub reserve: u32,
    /// New handshakes at once from one address (of IPv6 networks other than ours: from one /64).
    #[serde(deserialize_with = "number::<1, 100_000, _, _>")]
    pub handshakes_per_address: u32,
    /// Handshakes from one address that may fail within ten seconds.
    #[serde(deserialize_with = "number::<1, 100_000, _, _>")]
    pub failures_per_address: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 64, reserve: 32, handshakes_per_address: 4, failures_per_address: 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_every_key_can_be_set() {
        assert_eq!(toml::from_str::<MeshConfig>("").unwrap(), MeshConfig::default());
        let config: MeshConfig = toml::from_str(
            r#"
            listen = "192.168.1.2:47200"
            peers = ["house.example", "[fd00::2]:47100"]
            mdns = "loopback"
            mdns_port = 5454
            [limits]
            handshakes = 10
            reserve = 5
            handshakes_per_address = 2
            failures_per_address = 3
            "#,
        )
        .unwrap();
        assert_eq!(config.limits, Limits { handshakes: 10, reserve: 5, handshakes_per_address: 2, failures_per_address: 3 });
        assert_eq!(config.mdns, MdnsMode::Loopback);
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn impossible_values_are_refused_with_their_key() {
        for (wrong, told) in [
            ("lisen = \"[::]:1\"", "line 1: lisen: "),
            ("mdns = \"maybe\"", "line 1: mdns: unknown variant `maybe`, expected one of `on`, `off`, `loopback`"),
            ("mdns = false", "line 1: mdns: unknown variant `false`, expected one of `on`, `off`, `loopback`"),
            ("mdns_port = 70000", "line 1: mdns_port: invalid value: integer `70000`, expected a whole number, 1 to 65535"),
            ("mdns_port = 0", "line 1: mdns_port: invalid value: integer `0`, expected a whole number, 1 to 65535"),
            ("listen = \"here\"", "line 1: listen: "),
            ("[limits]\nmagic = 1", "line 2: [limits] magic: "),
            ("[limits]\nhandshakes = 0", "line 2: [limits] handshakes: invalid value: integer `0`, expected a whole number, 1 to 100000"),
        ] {
            let error = toml::from_str::<MeshConfig>(wrong).expect_err(wrong);
            let why = crate::config_text::told(&error, wrong);
            assert!(why.starts_with(told), "{wrong}: {why}");
        }
        for (wrong, key) in [
            ("peers = [\"\"]", "peers.0"),
            ("peers = [\"a b\"]", "peers.0"),
            ("peers = [\"house:99999\"]", "peers.0"),
            ("[limits]\nreserve = 64", "limits.reserve"),
        ] {
            let config: MeshConfig = toml::from_str(wrong).unwrap();
            assert_eq!(config.check().unwrap_err().key, key, "{wrong}");
        }
    }
}
