//! Whether the sensors see at all. Blind is not away: with no network nobody can be proven gone.

use std::net::Ipv4Addr;
use std::time::Duration;

use dms3_core::time::Mono;

use super::links::Link;

/// Silence of the whole network for so long, with the gateway asked and silent too, is blindness.
const SILENCE: Duration = Duration::from_secs(30);
/// In silence the gateway is asked so often.
const ASK_EVERY: Duration = Duration::from_secs(9);
/// So many questions it must have left open.
const ASKED: u32 = 3;

#[derive(Debug)]
pub(crate) struct Sight {
    /// Anybody at all.
    heard: Mono,
    asked: Option<Mono>,
    /// Questions to the gateways since then.
    unanswered: u32,
    told: Option<Option<String>>,
    /// The network of a device is gone while another is up.
    lost: Option<String>,
}

impl Sight {
    pub(crate) fn new(now: Mono) -> Self {
        Self { heard: now, asked: None, unanswered: 0, told: None, lost: None }
    }

    pub(crate) fn heard(&mut self, now: Mono) {
        (self.heard, self.unanswered) = (now, 0);
    }

    /// The interface on which a device was heard last cannot hear any more: another that can says nothing about that device.
    pub(crate) fn lost(&mut self, why: Option<String>) {
        self.lost = why;
    }

    /// The gateways to ask now, because nothing was heard for a while.
    pub(crate) fn gateways_due(&mut self, links: &[Link], now: Mono) -> Vec<Ipv4Addr> {
        let last = self.asked.map_or(self.heard, |asked| asked.max(self.heard));
        if now.since(last) < ASK_EVERY {
            return Vec::new();
        }
        self.asked = Some(now);
        links.iter().filter(|link| link.is_usable()).filter_map(|link| link.gateway).collect()
    }

    /// A gateway was really asked.
    pub(crate) fn was_asked(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// What to tell, if it changed: why the sensors are blind, or that they see.
    pub(crate) fn change(&mut self, links: &[Link], wanted: &[String], now: Mono) -> Option<Option<String>> {
        let why = self.why(links, wanted, now);
        if self.told.as_ref() == Some(&why) {
            return None;
        }
        self.told = Some(why.clone());
        Some(why)
    }

    fn why(&self, links: &[Link], wanted: &[String], now: Mono) -> Option<String> {
        let usable: Vec<_> = links.iter().filter(|link| link.is_usable()).collect();
        if usable.is_empty() {
            return Some(match (links.first(), wanted) {
                (Some(link), _) if !link.carrier => format!("{} has no connection (cable out, or Wi-Fi lost)", link.name),
                (Some(link), _) => format!("{} has no IPv4 address", link.name),
                (None, []) => "no network interface is up".to_owned(),
                (None, wanted) => format!("there is no interface {} that is up", wanted.join(" or ")),
            });
        }
        if self.lost.is_some() {
            return self.lost.clone();
        }
        if self.unanswered < ASKED || now.since(self.heard) < SILENCE {
            return None;
        }
        let gateway = usable.iter().find_map(|link| link.gateway.map(|gateway| (gateway, &link.name)));
        gateway.map(|(gateway, name)| format!("the gateway {gateway} does not answer, and nobody else is heard on {name}"))
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::presence::MacAddr;

    use super::super::links::Subnet;
    use super::*;

    fn link(carrier: bool) -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            carrier,
            subnets: vec![Subnet { own: Ipv4Addr::new(192, 168, 1, 2), prefix: 24 }],
            gateway: Some(Ipv4Addr::new(192, 168, 1, 1)),
        }
    }

    #[test]
    fn a_pulled_cable_is_told_at_once_and_so_is_its_return() {
        let mut sight = Sight::new(Mono(0));
        assert_eq!(sight.change(&[link(true)], &[], Mono(0)), Some(None));
        assert_eq!(sight.change(&[link(true)], &[], Mono(1)), None);
        let why = sight.change(&[link(false)], &[], Mono(2)).unwrap().unwrap();
        assert!(why.contains("eth0"), "{why}");
        assert!(sight.change(&[], &["wlan0".into()], Mono(3)).unwrap().unwrap().contains("wlan0"));
        assert_eq!(sight.change(&[link(true)], &[], Mono(4)), Some(None));
    }

    #[test]
    fn a_silent_gateway_alone_on_a_silent_network_is_blindness() {
        let links = [link(true)];
        let mut sight = Sight::new(Mono(0));
        assert_eq!(sight.change(&links, &[], Mono(0)), Some(None));
        let mut asked = 0;
        let mut blind = None;
        for second in 1..60 {
            let now = Mono(second * 1000);
            for _ in sight.gateways_due(&links, now) {
                asked += 1;
                sight.was_asked();
            }
            if let Some(why) = sight.change(&links, &[], now) {
                blind = Some((second, why.unwrap()));
                break;
            }
        }
        let (second, why) = blind.unwrap();
        assert!(second == 30 && asked == 3 && why.contains("192.168.1.1"), "{second} {asked} {why}");
        sight.heard(Mono(61_000));
        assert_eq!(sight.change(&links, &[], Mono(61_000)), Some(None));
    }

    #[test]
    fn a_network_without_gateway_or_a_machine_that_slept_is_not_blind() {
        let lonely = [Link { gateway: None, ..link(true) }];
        let mut sight = Sight::new(Mono(0));
        assert_eq!(sight.change(&lonely, &[], Mono(0)), Some(None));
        assert_eq!(sight.change(&lonely, &[], Mono(600_000)), None);
        assert_eq!(sight.change(&[link(true)], &[], Mono(600_000)), None);
    }
}
