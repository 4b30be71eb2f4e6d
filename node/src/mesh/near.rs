//! Which addresses are of our own networks. What is heard by mDNS was said there: an address elsewhere may be right, but is tried last.

use std::net::{IpAddr, Ipv6Addr};

/// IPv6 networks of our interfaces, and IPv4 ones written as such, with their prefix lengths.
#[derive(Debug, Clone, Default)]
pub struct Networks(Vec<(Ipv6Addr, u32)>);

impl Networks {
    /// As they are now; none if the system does not say.
    pub fn read() -> Self {
        let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Self::default() };
        let network = |interface: nix::ifaddrs::InterfaceAddress| {
            let (address, mask) = (interface.address?, interface.netmask?);
            if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                return Some((address.ip().to_ipv6_mapped(), 96 + mask.ip().to_bits().leading_ones()));
            }
            Some((address.as_sockaddr_in6()?.ip(), mask.as_sockaddr_in6()?.ip().to_bits().leading_ones()))
        };
        Self(interfaces.filter_map(network).collect())
    }

    pub fn has(&self, ip: IpAddr) -> bool {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        self.0.iter().any(|(network, bits)| within(ip, *network, *bits))
    }

    /// Those of IPv6 itself.
    pub fn of_ipv6(self) -> Vec<(Ipv6Addr, u32)> {
        self.0.into_iter().filter(|(network, _)| network.to_ipv4_mapped().is_none()).collect()
    }
}

pub fn within(address: Ipv6Addr, network: Ipv6Addr, bits: u32) -> bool {
    masked(address, bits) == masked(network, bits)
}

pub fn masked(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_near_and_nobody_knows_where_is_not() {
        let own = Networks::read();
        for near in ["127.0.0.1", "127.200.3.4", "::1"] {
            assert!(own.has(near.parse().unwrap()), "{near}");
        }
        for far in ["203.0.113.9", "11.168.77.4", "2001:db8::9"] {
            assert!(!own.has(far.parse().unwrap()), "{far}");
        }
        assert!(own.of_ipv6().iter().all(|(network, bits)| network.to_ipv4_mapped().is_none() && *bits <= 128));
    }
}
