//! A stranger with a private address at the place of a device with a private address: perhaps that device, which made up another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use dms3_core::presence::{Device, MacAddr};
use dms3_core::time::Mono;

/// The same is told so often while it is heard.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// Strangers of which is known when they were told of.
const STRANGERS: usize = 64;

/// What a device takes along when it makes up another MAC address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    /// Its IPv4 address.
    Place(IpAddr),
    /// What it called itself when it asked for an address.
    Name(String),
}

/// `mac` has the mark that `device` had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Like {
    pub(crate) device: MacAddr,
    pub(crate) mac: MacAddr,
    pub(crate) mark: Mark,
}

#[derive(Debug, Default)]
pub(crate) struct Likeness {
    /// Of devices with private addresses, as they were last.
    places: HashMap<MacAddr, Mark>,
    names: HashMap<MacAddr, Mark>,
    told: HashMap<(MacAddr, Mark), Mono>,
}

impl Likeness {
    /// `known`: where devices were last, the newest first.
    pub(crate) fn new(known: &[(Device, IpAddr)]) -> Self {
        let mut likeness = Self::default();
        for (device, ip) in known {
            if let Device::Mac(mac) = device
                && mac.is_private()
                && ip.is_ipv4()
            {
                likeness.places.entry(*mac).or_insert(Mark::Place(*ip));
            }
        }
        likeness
    }

    /// Somebody was heard. `is_known`: whether a device is somebody's.
    pub(crate) fn heard(&mut self, mac: MacAddr, mark: Mark, is_known: impl Fn(MacAddr) -> bool, now: Mono) -> Option<Like> {
        // Of IPv6 each device makes its own.
        if !mac.is_private() || matches!(mark, Mark::Place(IpAddr::V6(_))) {
            return None;
        }
        let marks = if matches!(mark, Mark::Place(_)) { &mut self.places } else { &mut self.names };
        if is_known(mac) {
            marks.insert(mac, mark);
            return None;
        }
        let device = *marks.iter().find(|(device, had)| **had == mark && is_known(**device))?.0;
        let key = (mac, mark.clone());
        if self.told.get(&key).is_some_and(|at| now.since(*at) < TELL_EVERY) {
            return None;
        }
        // Whoever invents addresses finds no more room.
        if self.told.len() >= STRANGERS {
            self.told.clear();
        }
        self.told.insert(key, now);
        Some(Like { device, mac, mark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: MacAddr = MacAddr([0xda, 0, 0, 0, 0, 1]);
    const NEW: MacAddr = MacAddr([0xda, 0, 0, 0, 0, 2]);
    const TV: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 3]);

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 168, 1, n])
    }

    fn at(n: u8) -> Mark {
        Mark::Place(ip(n))
    }

    #[test]
    fn a_stranger_with_a_private_address_at_the_place_of_such_a_device_is_told_of_now_and_then() {
        let mut likeness = Likeness::new(&[(Device::Mac(OLD), ip(20)), (Device::Mac(OLD), ip(9)), (Device::Mac(TV), ip(30))]);
        let is_known = |mac| mac == OLD || mac == TV;
        let like = Some(Like { device: OLD, mac: NEW, mark: at(20) });
        assert_eq!(likeness.heard(NEW, at(20), is_known, Mono(0)), like);
        assert_eq!(likeness.heard(NEW, at(20), is_known, Mono(29_000)), None, "it was told just now");
        assert_eq!(likeness.heard(NEW, at(20), is_known, Mono(31_000)), like);
        assert_eq!(likeness.heard(OLD, at(21), is_known, Mono(32_000)), None);
        assert_eq!(likeness.heard(NEW, at(20), is_known, Mono(90_000)), None, "the device is elsewhere now");
        for (mac, place) in [(NEW, 9), (NEW, 30), (TV, 21)] {
            assert_eq!(likeness.heard(mac, at(place), is_known, Mono(200_000)), None);
        }
        assert_eq!(likeness.heard(NEW, at(21), |_| false, Mono(300_000)), None, "the device is nobody's any more");
    }

    #[test]
    fn a_stranger_that_calls_itself_as_a_phone_did_is_told_of_too() {
        let mut likeness = Likeness::default();
        let name = || Mark::Name("annas-iphone".to_owned());
        let is_known = |mac| mac == OLD;
        assert_eq!(likeness.heard(NEW, name(), is_known, Mono(0)), None);
        assert_eq!(likeness.heard(OLD, name(), is_known, Mono(0)), None);
        assert_eq!(likeness.heard(NEW, name(), is_known, Mono(0)), Some(Like { device: OLD, mac: NEW, mark: name() }));
        assert_eq!(likeness.heard(NEW, Mark::Name("pixel".to_owned()), is_known, Mono(0)), None);
        assert_eq!(likeness.heard(TV, name(), is_known, Mono(0)), None, "its address is its own");
    }
}
