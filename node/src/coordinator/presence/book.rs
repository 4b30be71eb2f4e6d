//! What is known of each device: where it was last, and which questions it left open.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use dms3_core::presence::{Device, MacAddr};
use dms3_core::time::Mono;

use super::{dhcp, mdns};

/// A device that says much is sighted so often, and whenever it answers.
const SIGHT_EVERY: Duration = Duration::from_secs(1);
/// An address that did not change is told again so often, so that it is not forgotten as old.
const TELL_EVERY: Duration = Duration::from_secs(3600);
/// So many addresses of a device are known: of IPv4, of IPv6 within the link, which stay, and others of IPv6, of which a phone has a few
/// that come and go.
const KEPT: [usize; 3] = [2, 2, 3];

#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: Vec<Entry>,
    by_device: HashMap<Device, usize>,
    by_mac: HashMap<MacAddr, Vec<usize>>,
    /// Devices that the config names by address or host name.
    by_ip: HashMap<IpAddr, Vec<usize>>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) device: Device,
    pub(crate) mac: Option<MacAddr>,
    /// Where it was, the newest first.
    addresses: Vec<IpAddr>,
    /// Of a host: what each source says that its name means.
    found: HashMap<Finder, Vec<IpAddr>>,
    /// Of a host: who asked for an address by its name.
    named: Option<MacAddr>,
    /// Probes since it was seen last.
    pub(crate) unanswered: u32,
    /// How many of them were of the last minute, before it is taken to have left.
    pub(crate) pressed: u32,
    /// The sweep that counted as its probe last.
    pub(crate) swept: u64,
    told: Option<(IpAddr, Mono)>,
    sighted: Option<Mono>,
}

/// Who says which addresses a name has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Finder {
    /// The system's resolver.
    System,
    /// The device itself, by mDNS: of IPv4, and of IPv6, for the two may come apart.
    Mdns4,
    Mdns6,
}

impl Book {
    pub(crate) fn new(devices: Vec<Device>, known: Vec<(Device, IpAddr)>) -> Self {
        let mut book = Self::default();
        devices.into_iter().for_each(|device| book.add(device));
        // The newest comes first: it is to be the last that is remembered.
        for (device, ip) in known.into_iter().rev() {
            if let (Device::Mac(_), Some(at)) = (&device, book.by_device.get(&device)) {
                book.entries[*at].remember(ip);
            }
        }
        book
    }

    fn add(&mut self, device: Device) {
        if self.by_device.contains_key(&device) {
            return;
        }
        let at = self.entries.len();
        let mac = match device {
            Device::Mac(mac) => Some(mac),
            Device::Host(_) | Device::Bluetooth(_) => None,
        };
        if let Some(mac) = mac {
            self.by_mac.entry(mac).or_default().push(at);
        }
        self.by_device.insert(device.clone(), at);
        self.entries.push(Entry {
            device,
            mac,
            addresses: Vec::new(),
            found: HashMap::new(),
            named: None,
            unanswered: 0,
            pressed: 0,
            swept: 0,
            told: None,
            sighted: None,
        });
    }

    /// From now on it is about these; what is known of those that stay, stays. Those that went, which are named by their MAC address.
    pub(crate) fn follow(&mut self, devices: &[Device]) -> Vec<usize> {
        devices.iter().for_each(|device| self.add(device.clone()));
        let gone: Vec<_> = self.by_device.keys().filter(|known| !devices.contains(known)).cloned().collect();
        // Their places stay empty: others are counted from them.
        let places = gone.iter().filter_map(|device| {
            let Device::Mac(mac) = device else { return None };
            let place = self.by_device.remove(device)?;
            // A host may be there too.
            self.by_mac.get_mut(mac).into_iter().for_each(|places| places.retain(|other| *other != place));
            (self.entries[place].mac, self.entries[place].addresses) = (None, Vec::new());
            Some(place)
        });
        places.collect()
    }

    pub(crate) fn place(&self, device: &Device) -> Option<usize> {
        self.by_device.get(device).copied()
    }

    pub(crate) fn entry(&mut self, place: usize) -> &mut Entry {
        &mut self.entries[place]
    }

    /// Every device with its MAC address, as far as it is known.
    pub(crate) fn macs(&self) -> impl Iterator<Item = (&Device, MacAddr)> {
        self.entries.iter().filter_map(|entry| Some((&entry.device, entry.mac?)))
    }

    /// Whether a device is not known to be where it was: it never was seen, or left so many questions of its last minute open.
    pub(crate) fn is_anybody_missed(&self, questions: u32) -> bool {
        self.entries.iter().any(|entry| entry.host().is_none() && (entry.sighted.is_none() || entry.pressed >= questions))
    }

    /// Devices that have no address at which they could be asked.
    pub(crate) fn nowhere(&self) -> impl Iterator<Item = MacAddr> {
        self.entries.iter().filter(|entry| entry.host().is_none() && entry.addresses.is_empty()).filter_map(|entry| entry.mac)
    }

    /// Addresses of IPv6 within the link: a device has one, and asks for it whenever it comes.
    pub(crate) fn of_link(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.entries.iter().flat_map(|entry| &entry.addresses).filter_map(|ip| match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(*ip),
            _ => None,
        })
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.entries.iter().enumerate().filter_map(|(place, entry)| Some((place, entry.host()?)))
    }

    /// A host name has these addresses now.
    pub(crate) fn resolved(&mut self, place: usize, by: Finder, ips: Vec<IpAddr>) {
        let entry = &mut self.entries[place];
        if entry.found.get(&by) == Some(&ips) {
            return;
        }
        entry.found.insert(by, ips);
        entry.mac = entry.named;
        entry.addresses.clear();
        let found: Vec<IpAddr> =
            [Finder::System, Finder::Mdns6, Finder::Mdns4].iter().flat_map(|by| entry.found.get(by)).flatten().copied().collect();
        found.into_iter().for_each(|ip| entry.remember(ip));
        let now = entry.addresses.clone();
        for places in self.by_ip.values_mut() {
            places.retain(|other| *other != place);
        }
        for ip in now {
            self.by_ip.entry(ip).or_default().push(place);
        }
        self.by_ip.retain(|_, places| !places.is_empty());
    }

    /// By mDNS somebody said that a name has these addresses. Whose name it is.
    pub(crate) fn said_by_mdns(&mut self, answers: &[(String, IpAddr)]) -> Vec<usize> {
        let asked: Vec<(usize, String)> = self.hosts().filter_map(|(place, host)| Some((place, mdns::local_name(host)?))).collect();
        let mut places = Vec::new();
        for (place, name) in asked {
            for (by, is_ipv4) in [(Finder::Mdns4, true), (Finder::Mdns6, false)] {
                let mut ips: Vec<IpAddr> =
                    answers.iter().filter(|(said, ip)| *said == name && ip.is_ipv4() == is_ipv4).map(|(_, ip)| *ip).collect();
                ips.sort_unstable();
                ips.dedup();
                // One that speaks of IPv4 alone says nothing of IPv6.
                if !ips.is_empty() {
                    self.resolved(place, by, ips);
                    places.push(place);
                }
            }
        }
        places.dedup();
        places
    }

    /// A device of this name has this MAC address now, and so nobody else.
    pub(crate) fn named(&mut self, mac: MacAddr, name: &str) {
        let is_named = |host: &str| host.parse::<IpAddr>().is_err() && dhcp::label(host.as_bytes()).as_deref() == Some(name);
        let places: Vec<usize> = self.hosts().filter(|(_, host)| is_named(host)).map(|(place, _)| place).collect();
        for place in places {
            let entry = &mut self.entries[place];
            let before = entry.named.replace(mac);
            if before == Some(mac) {
                continue;
            }
            entry.mac = Some(mac);
            if let Some(places) = before.and_then(|before| self.by_mac.get_mut(&before)) {
                places.retain(|other| *other != place);
            }
            self.by_mac.entry(mac).or_default().push(place);
        }
        self.by_mac.retain(|_, places| !places.is_empty());
    }

    /// Which devices this is about; from now on they are asked there.
    pub(crate) fn learn(&mut self, mac: MacAddr, ip: Option<IpAddr>) -> Vec<usize> {
        let mut places: Vec<usize> = ip.and_then(|ip| self.by_ip.get(&ip)).cloned().unwrap_or_default();
        for place in &places {
            self.entries[*place].mac = Some(mac);
        }
        for place in self.by_mac.get(&mac).into_iter().flatten() {
            if let Some(ip) = ip {
                self.entries[*place].remember(ip);
            }
            if !places.contains(place) {
                places.push(*place);
            }
        }
        places
    }

    /// Which devices are sighted by this. `ip`: the address it had, if that is one of a network of ours.
    pub(crate) fn heard(&mut self, mac: MacAddr, ip: Option<IpAddr>, now: Mono) -> Vec<usize> {
        let mut places = self.learn(mac, ip);
        places.retain(|place| {
            let entry = &mut self.entries[*place];
            let again = entry.unanswered == 0 && entry.sighted.is_some_and(|at| now.since(at) < SIGHT_EVERY);
            if !again {
                (entry.unanswered, entry.pressed, entry.sighted) = (0, 0, Some(now));
            }
            !again
        });
        places
    }

    /// The device's address, if it should be kept on disk (again): the one that it has longest.
    pub(crate) fn news_of(&mut self, place: usize, now: Mono) -> Option<(Device, IpAddr)> {
        let entry = &mut self.entries[place];
        let of_link = |ip: &&IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let ipv4 = entry.addresses.iter().find(|ip| ip.is_ipv4());
        let ip = *ipv4.or(entry.addresses.iter().find(of_link)).or(entry.addresses.first())?;
        if entry.told.is_some_and(|(told, at)| told == ip && now.since(at) < TELL_EVERY) {
            return None;
        }
        entry.told = Some((ip, now));
        Some((entry.device.clone(), ip))
    }

    /// What [`Self::news_of`] gave could not be kept.
    pub(crate) fn not_told(&mut self, place: usize) {
        self.entries[place].told = None;
    }
}

impl Entry {
    /// Where it was, the newest first.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// How the config calls it, if not by its MAC address.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.device {
            Device::Host(name) => Some(name),
            Device::Mac(_) | Device::Bluetooth(_) => None,
        }
    }

    fn remember(&mut self, ip: IpAddr) {
        self.addresses.retain(|known| *known != ip);
        self.addresses.insert(0, ip);
        let mut left = KEPT;
        self.addresses.retain(|known| {
            let left = match known {
                IpAddr::V4(_) => &mut left[0],
                IpAddr::V6(ip) if ip.is_unicast_link_local() => &mut left[1],
                IpAddr::V6(_) => &mut left[2],
            };
            let fits = *left > 0;
            *left = left.saturating_sub(1);
            fits
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);
    const STRANGER: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 9]);
    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 20));
    const OTHER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 21));
    const IP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x20));

    #[test]
    fn a_phone_is_asked_where_it_was_heard_last() {
        let phone = Device::Mac(MAC);
        let mut book = Book::new(vec![phone.clone()], vec![(phone.clone(), IP), (phone.clone(), OTHER_IP)]);
        let place = book.place(&phone).unwrap();
        assert_eq!(book.entry(place).addresses(), [IP, OTHER_IP]);
        book.entry(place).unanswered = 5;
        assert_eq!(book.heard(MAC, Some(OTHER_IP), Mono(0)), [place]);
        assert_eq!((book.entry(place).addresses()[0], book.entry(place).unanswered), (OTHER_IP, 0));
        // A word without an address (of a phone that asks whether one is free) is as good, and changes no address.
        assert_eq!(book.heard(MAC, None, Mono(1000)), [place]);
        assert_eq!(book.entry(place).addresses(), [OTHER_IP, IP]);
        // Chatter is told once a second, an answer always.
        assert!(book.heard(MAC, None, Mono(1500)).is_empty());
        book.entry(place).unanswered = 1;
        assert_eq!(book.heard(MAC, None, Mono(1600)), [place]);
    }

    #[test]
    fn nobody_is_missed_who_was_seen_and_answers() {
        let mut book = Book::new(vec![Device::Mac(MAC), Device::Host("anna.lan".into())], vec![(Device::Mac(MAC), IP)]);
        assert!(book.is_anybody_missed(6), "where it was once it need not be now");
        book.heard(MAC, None, Mono(0));
        assert!(!book.is_anybody_missed(6));
        (book.entry(0).unanswered, book.entry(0).pressed) = (11, 5);
        assert!(!book.is_anybody_missed(6), "phones sleep");
        book.entry(0).pressed = 6;
        assert!(book.is_anybody_missed(6));
    }

    #[test]
    fn a_device_of_nobody_is_nobody() {
        let mut book = Book::new(vec![Device::Mac(MAC)], vec![(Device::Mac(STRANGER), IP)]);
        assert!(book.heard(STRANGER, Some(IP), Mono(0)).is_empty());
        assert_eq!(book.place(&Device::Mac(STRANGER)), None);
    }

    #[test]
    fn a_device_that_is_learned_is_followed_and_one_that_is_forgotten_is_nobodys() {
        let (phone, other) = (Device::Mac(MAC), Device::Mac(STRANGER));
        let mut book = Book::new(vec![phone.clone()], vec![(phone.clone(), IP)]);
        assert!(book.follow(&[phone.clone(), other.clone()]).is_empty());
        assert_eq!(book.heard(STRANGER, Some(OTHER_IP), Mono(0)), [1]);
        assert_eq!(book.entry(0).addresses(), [IP], "what was known stays known");
        assert_eq!(book.follow(std::slice::from_ref(&other)), [0]);
        assert!(book.heard(MAC, Some(IP), Mono(5000)).is_empty() && book.place(&phone).is_none());
        assert_eq!(book.heard(STRANGER, Some(OTHER_IP), Mono(5000)), [1]);
        book.follow(&[phone.clone(), other]);
        assert_eq!(book.heard(MAC, Some(IP), Mono(9000)), [book.place(&phone).unwrap()]);
    }

    #[test]
    fn a_host_is_whoever_has_its_address_now() {
        let host = Device::Host("anna.lan".into());
        let mut book = Book::new(vec![host.clone()], vec![]);
        let place = book.place(&host).unwrap();
        assert!(book.heard(MAC, Some(IP), Mono(0)).is_empty());
        book.resolved(place, Finder::System, vec![IP]);
        assert_eq!(book.heard(MAC, Some(IP), Mono(2000)), [place]);
        book.resolved(place, Finder::System, vec![OTHER_IP]);
        assert!(book.heard(MAC, Some(IP), Mono(4000)).is_empty());
        assert_eq!(book.heard(MAC, Some(OTHER_IP), Mono(6000)), [place]);
    }

    #[test]
    fn an_address_is_kept_when_it_changes_and_once_an_hour() {
        let phone = Device::Mac(MAC);
        let mut book = Book::new(vec![phone.clone()], vec![]);
        assert_eq!(book.news_of(0, Mono(0)), None);
        book.heard(MAC, Some(IP), Mono(8000));
        assert_eq!(book.news_of(0, Mono(0)), Some((phone, IP)));
        assert_eq!(book.news_of(0, Mono(60_000)), None);
        assert!(book.news_of(0, Mono(3_600_000)).is_some());
        book.heard(MAC, Some(OTHER_IP), Mono(10000));
        assert!(book.news_of(0, Mono(3_600_001)).is_some());
    }

    #[test]
    fn a_phone_has_several_addresses_and_the_oldest_are_forgotten() {
        let phone = Device::Mac(MAC);
        let mut book = Book::new(vec![phone.clone()], vec![]);
        book.heard(MAC, Some(IP), Mono(0));
        book.heard(MAC, Some(IP6), Mono(0));
        for n in 1..=20u16 {
            book.heard(MAC, Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n).into()), Mono(0));
        }
        let known = book.entry(0).addresses().to_vec();
        assert_eq!(known.len(), 5);
        assert_eq!(known[0], IpAddr::from(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 20)));
        assert!(known.contains(&IP) && known.contains(&IP6), "however many it has of the other kinds");
        assert_eq!(book.news_of(0, Mono(0)), Some((phone.clone(), IP)));
        // Of IPv6 the one that stays is kept on disk.
        let mut book = Book::new(vec![phone.clone()], vec![]);
        book.heard(MAC, Some(IP6), Mono(0));
        book.heard(MAC, Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1).into()), Mono(0));
        assert_eq!(book.news_of(0, Mono(0)), Some((phone, IP6)));
    }

    #[test]
    fn a_host_is_followed_by_mdns_whoever_else_says_what() {
        let host = Device::Host("annas-iphone".into());
        let mut book = Book::new(vec![host, Device::Host("ben.lan".into())], vec![]);
        let says = |name: &str, ip: IpAddr| (name.to_owned(), ip);
        let told = book.said_by_mdns(&[says("annas-iphone.local", IP), says("annas-iphone.local", IP6), says("ben.local", OTHER_IP)]);
        assert_eq!(told, [0]);
        assert_eq!(book.entry(0).addresses(), [IP, IP6]);
        assert_eq!(book.heard(MAC, Some(IP6), Mono(0)), [0]);
        // It got another address of IPv4, and says so alone.
        book.said_by_mdns(&[says("annas-iphone.local", OTHER_IP)]);
        assert!(book.heard(STRANGER, Some(IP), Mono(5000)).is_empty());
        assert_eq!(book.heard(MAC, Some(IP6), Mono(5000)), [0]);
        assert_eq!(book.heard(MAC, Some(OTHER_IP), Mono(9000)), [0]);
    }

    #[test]
    fn a_host_is_whoever_asked_for_an_address_by_its_name_last() {
        let devices = vec![Device::Host("annas-iphone.lan".into()), Device::Host("192.168.1.9".into()), Device::Mac(STRANGER)];
        let mut book = Book::new(devices, vec![]);
        book.named(MAC, "annas-iphone");
        book.named(MAC, "192");
        assert_eq!(book.heard(MAC, None, Mono(0)), [0]);
        assert_eq!(book.heard(MAC, Some(IP6), Mono(2000)), [0]);
        assert_eq!((book.entry(0).addresses().to_vec(), book.entry(0).mac), (vec![IP6], Some(MAC)));
        // The next private address of the same phone.
        let next = MacAddr([0xda, 0xa1, 0x19, 0, 0, 2]);
        book.named(next, "annas-iphone");
        assert!(book.heard(MAC, None, Mono(4000)).is_empty());
        assert_eq!(book.heard(next, None, Mono(6000)), [0]);
        // A device of somebody else may say that name too.
        book.named(STRANGER, "annas-iphone");
        assert_eq!(book.heard(STRANGER, None, Mono(8000)), [2, 0]);
        book.named(next, "annas-iphone");
        assert_eq!(book.heard(STRANGER, None, Mono(10_000)), [2]);
    }
}
