//! MAC addresses with several machines behind them: a Wi-Fi extender, or a router that answers for others (proxy ARP).

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use dms3_core::presence::MacAddr;
use dms3_core::time::Mono;

/// A phone that moved from one address to another has two for a while, and few machines have three.
const MOST_OF_ONE: usize = 3;
/// So long an address counts that was heard.
const FOR: Duration = Duration::from_secs(600);
/// Of one MAC address, and in all: whoever invents them finds no more room.
const KEPT_OF_ONE: usize = 16;
const KEPT: usize = 1024;
/// How many are told of.
const TOLD: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Crowds {
    heard: HashMap<MacAddr, Vec<(Ipv4Addr, Mono)>>,
    cleared: Option<Mono>,
}

impl Crowds {
    /// A machine at this MAC address said that it has this address.
    pub(crate) fn heard(&mut self, mac: MacAddr, ip: Ipv4Addr, now: Mono) {
        self.clear(now);
        if self.heard.len() >= KEPT && !self.heard.contains_key(&mac) {
            return;
        }
        let ips = self.heard.entry(mac).or_default();
        if let Some((_, at)) = ips.iter_mut().find(|(known, _)| *known == ip) {
            *at = now;
        } else {
            if ips.len() == KEPT_OF_ONE {
                ips.remove(0);
            }
            ips.push((ip, now));
        }
    }

    /// How many machines are behind this MAC address, as far as it can be seen; 0 or 1: it is one machine's own.
    pub(crate) fn hosts_behind(&self, mac: MacAddr, now: Mono) -> usize {
        let ips = self.heard.get(&mac).map_or(0, |ips| ips.iter().filter(|(_, at)| now.since(*at) < FOR).count());
        if ips > MOST_OF_ONE { ips } else { ips.min(1) }
    }

    /// All that have several.
    pub(crate) fn all(&self, now: Mono) -> BTreeMap<MacAddr, usize> {
        let all = self.heard.keys().map(|mac| (*mac, self.hosts_behind(*mac, now)));
        all.filter(|(_, hosts)| *hosts > 1).take(TOLD).collect()
    }

    fn clear(&mut self, now: Mono) {
        if self.cleared.is_some_and(|at| now.since(at) < FOR) {
            return;
        }
        self.cleared = Some(now);
        for ips in self.heard.values_mut() {
            ips.retain(|(_, at)| now.since(*at) < FOR);
        }
        self.heard.retain(|_, ips| !ips.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENDER: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 7]);
    const PHONE: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);

    fn ip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 1, n)
    }

    #[test]
    fn an_extender_is_noticed_and_a_phone_that_moves_is_none() {
        let mut crowds = Crowds::default();
        for n in 1..=3 {
            crowds.heard(PHONE, ip(n), Mono(1000));
        }
        for n in 1..=4 {
            crowds.heard(EXTENDER, ip(10 + n), Mono(1000 * u64::from(n)));
            crowds.heard(EXTENDER, ip(10 + n), Mono(1000 * u64::from(n)));
        }
        assert_eq!((crowds.hosts_behind(PHONE, Mono(5000)), crowds.hosts_behind(EXTENDER, Mono(5000))), (1, 4));
        assert_eq!(crowds.all(Mono(5000)), BTreeMap::from([(EXTENDER, 4)]));
        assert_eq!(crowds.hosts_behind(EXTENDER, Mono(602_000)), 1, "three of them were not heard for ten minutes");
    }

    #[test]
    fn whoever_invents_addresses_finds_only_so_much_room() {
        let mut crowds = Crowds::default();
        for n in 0..10_000u32 {
            let [.., a, b] = n.to_be_bytes();
            crowds.heard(MacAddr([2, 0, 0, 0, a, b]), ip(1), Mono(0));
            crowds.heard(EXTENDER, Ipv4Addr::from(n), Mono(0));
        }
        assert!(crowds.heard.len() <= KEPT && crowds.heard.values().all(|ips| ips.len() <= KEPT_OF_ONE));
        crowds.heard(PHONE, ip(1), Mono(700_000));
        assert_eq!(crowds.heard.len(), 1, "and leaves it to others when he is gone");
    }
}
