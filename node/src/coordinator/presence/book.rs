//! What is known of each device: where it was last, and which questions it left open.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dms3_core::presence::{Device, MacAddr};
use dms3_core::time::Mono;

/// A device that says much is sighted so often, and whenever it answers.
const SIGHT_EVERY: Duration = Duration::from_secs(1);
/// An address that did not change is told again so often, so that it is not forgotten as old.
const TELL_EVERY: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: Vec<Entry>,
    by_device: HashMap<Device, usize>,
    by_mac: HashMap<MacAddr, usize>,
    /// Devices that the config names by address or host name.
    by_ip: HashMap<Ipv4Addr, Vec<usize>>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) device: Device,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) ip: Option<Ipv4Addr>,
    /// Probes since it was seen last.
    pub(crate) unanswered: u32,
    /// The sweep that counted as its probe last.
    pub(crate) swept: u64,
    told: Option<(Ipv4Addr, Mono)>,
    sighted: Option<Mono>,
}

impl Book {
    pub(crate) fn new(devices: Vec<Device>, known: Vec<(Device, IpAddr)>) -> Self {
        let mut book = Self::default();
        for device in devices {
            if book.by_device.contains_key(&device) {
                continue;
            }
            let at = book.entries.len();
            let mac = match device {
                Device::Mac(mac) => Some(mac),
                Device::Host(_) => None,
            };
            if let Some(mac) = mac {
                book.by_mac.insert(mac, at);
            }
            book.by_device.insert(device.clone(), at);
            book.entries.push(Entry { device, mac, ip: None, unanswered: 0, swept: 0, told: None, sighted: None });
        }
        // The newest comes first: it wins.
        for (device, ip) in known {
            if let (Device::Mac(_), IpAddr::V4(ip), Some(at)) = (&device, ip, book.by_device.get(&device)) {
                book.entries[*at].ip.get_or_insert(ip);
            }
        }
        book
    }

    pub(crate) fn place(&self, device: &Device) -> Option<usize> {
        self.by_device.get(device).copied()
    }

    pub(crate) fn entry(&mut self, place: usize) -> &mut Entry {
        &mut self.entries[place]
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.entries.iter().enumerate().filter_map(|(place, entry)| match &entry.device {
            Device::Host(name) => Some((place, name.as_str())),
            Device::Mac(_) => None,
        })
    }

    /// A host name has this address now.
    pub(crate) fn resolved(&mut self, place: usize, ip: Ipv4Addr) {
        let entry = &mut self.entries[place];
        if entry.ip == Some(ip) {
            return;
        }
        if let Some(places) = entry.ip.and_then(|old| self.by_ip.get_mut(&old)) {
            places.retain(|other| *other != place);
        }
        (entry.ip, entry.mac) = (Some(ip), None);
        self.by_ip.entry(ip).or_default().push(place);
    }

    /// Which devices this is about; from now on they are asked there.
    pub(crate) fn learn(&mut self, mac: MacAddr, ip: Option<Ipv4Addr>) -> Vec<usize> {
        let mut places: Vec<usize> = ip.and_then(|ip| self.by_ip.get(&ip)).cloned().unwrap_or_default();
        for place in &places {
            self.entries[*place].mac = Some(mac);
        }
        if let Some(place) = self.by_mac.get(&mac) {
            let entry = &mut self.entries[*place];
            entry.ip = ip.or(entry.ip);
            places.push(*place);
        }
        places
    }

    /// Which devices are sighted by this. `ip`: the address it had, if that is one of a network of ours.
    pub(crate) fn heard(&mut self, mac: MacAddr, ip: Option<Ipv4Addr>, now: Mono) -> Vec<usize> {
        let mut places = self.learn(mac, ip);
        places.retain(|place| {
            let entry = &mut self.entries[*place];
            let again = entry.unanswered == 0 && entry.sighted.is_some_and(|at| now.since(at) < SIGHT_EVERY);
            if !again {
                (entry.unanswered, entry.sighted) = (0, Some(now));
            }
            !again
        });
        places
    }

    /// The device's address, if it should be kept on disk (again).
    pub(crate) fn news_of(&mut self, place: usize, now: Mono) -> Option<(Device, IpAddr)> {
        let entry = &mut self.entries[place];
        let ip = entry.ip?;
        if entry.told.is_some_and(|(told, at)| told == ip && now.since(at) < TELL_EVERY) {
            return None;
        }
        entry.told = Some((ip, now));
        Some((entry.device.clone(), ip.into()))
    }

    /// What [`Self::news_of`] gave could not be kept.
    pub(crate) fn not_told(&mut self, place: usize) {
        self.entries[place].told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);
    const STRANGER: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 9]);
    const IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);
    const OTHER_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 21);

    #[test]
    fn a_phone_is_asked_where_it_was_heard_last() {
        let phone = Device::Mac(MAC);
        let mut book = Book::new(vec![phone.clone()], vec![(phone.clone(), IP.into()), (phone.clone(), OTHER_IP.into())]);
        let place = book.place(&phone).unwrap();
        assert_eq!(book.entry(place).ip, Some(IP));
        book.entry(place).unanswered = 5;
        assert_eq!(book.heard(MAC, Some(OTHER_IP), Mono(0)), [place]);
        assert_eq!((book.entry(place).ip, book.entry(place).unanswered), (Some(OTHER_IP), 0));
        // A word without an address (IPv6, or a phone that asks whether an address is free) is as good, and changes no address.
        assert_eq!(book.heard(MAC, None, Mono(1000)), [place]);
        assert_eq!(book.entry(place).ip, Some(OTHER_IP));
        // Chatter is told once a second, an answer always.
        assert!(book.heard(MAC, None, Mono(1500)).is_empty());
        book.entry(place).unanswered = 1;
        assert_eq!(book.heard(MAC, None, Mono(1600)), [place]);
    }

    #[test]
    fn a_device_of_nobody_is_nobody() {
        let mut book = Book::new(vec![Device::Mac(MAC)], vec![(Device::Mac(STRANGER), IP.into())]);
        assert!(book.heard(STRANGER, Some(IP), Mono(0)).is_empty());
        assert_eq!(book.place(&Device::Mac(STRANGER)), None);
    }

    #[test]
    fn a_host_is_whoever_has_its_address_now() {
        let host = Device::Host("anna.lan".into());
        let mut book = Book::new(vec![host.clone()], vec![]);
        let place = book.place(&host).unwrap();
        assert!(book.heard(MAC, Some(IP), Mono(0)).is_empty());
        book.resolved(place, IP);
        assert_eq!(book.heard(MAC, Some(IP), Mono(2000)), [place]);
        book.resolved(place, OTHER_IP);
        assert!(book.heard(MAC, Some(IP), Mono(4000)).is_empty());
        assert_eq!(book.heard(MAC, Some(OTHER_IP), Mono(6000)), [place]);
    }

    #[test]
    fn an_address_is_kept_when_it_changes_and_once_an_hour() {
        let phone = Device::Mac(MAC);
        let mut book = Book::new(vec![phone.clone()], vec![]);
        assert_eq!(book.news_of(0, Mono(0)), None);
        book.heard(MAC, Some(IP), Mono(8000));
        assert_eq!(book.news_of(0, Mono(0)), Some((phone, IP.into())));
        assert_eq!(book.news_of(0, Mono(60_000)), None);
        assert!(book.news_of(0, Mono(3_600_000)).is_some());
        book.heard(MAC, Some(OTHER_IP), Mono(10000));
        assert!(book.news_of(0, Mono(3_600_001)).is_some());
    }
}
