//! Whether the sensors see at all. Blind is not away: with no network nobody can be proven gone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dms3_core::time::Mono;

use super::links::Link;

/// Silence of the whole network for so long, with the gateway asked and silent too, is blindness.
const SILENCE: Duration = Duration::from_secs(30);
/// A gateway that says nothing by itself is asked so often while somebody's device is silent, ...
const ASK_EVERY: Duration = Duration::from_secs(9);
/// ...and so often while nobody is about to be missed.
const ASK_AT_EASE: Duration = Duration::from_secs(30);
/// So many questions it must have left open.
const ASKED: u32 = 3;
/// One that answered before and is silent now is asked so often, and is gone when it left so many questions open: sooner than anybody may
/// be away whose phone spoke through it, whoever else is heard on the cable.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const GONE: u32 = 5;

#[derive(Debug)]
pub(crate) struct Sight {
    /// Anybody at all.
    heard: Mono,
    /// Questions to the gateways since then.
    unanswered: u32,
    gateways: BTreeMap<IpAddr, Gateway>,
    told: Option<Option<String>>,
    /// The network of a device is gone while another is up.
    lost: Option<String>,
}

/// Of one usable interface.
#[derive(Debug, Default)]
struct Gateway {
    /// It was heard at least once.
    answers: bool,
    heard: Option<Mono>,
    asked: Option<Mono>,
    unanswered: u32,
}

impl Sight {
    pub(crate) fn new(now: Mono) -> Self {
        Self { heard: now, unanswered: 0, gateways: BTreeMap::new(), told: None, lost: None }
    }

    /// `from`: the address of whoever it was, if he said it.
    pub(crate) fn heard(&mut self, from: Option<IpAddr>, now: Mono) {
        (self.heard, self.unanswered) = (now, 0);
        if let Some(gateway) = from.and_then(|from| self.gateways.get_mut(&from)) {
            *gateway = Gateway { answers: true, heard: Some(now), asked: gateway.asked, unanswered: 0 };
        }
    }

    /// The interface on which a device was heard last cannot hear any more: another that can says nothing about that device.
    pub(crate) fn lost(&mut self, why: Option<String>) {
        self.lost = why;
    }

    /// The gateways to ask now, because they were not heard for a while. `at_ease`: nobody's going depends on it.
    pub(crate) fn gateways_due(&mut self, links: &[Link], at_ease: bool, now: Mono) -> Vec<IpAddr> {
        let usable: Vec<_> = links.iter().filter(|link| link.is_usable()).filter_map(Link::router).collect();
        self.gateways.retain(|gateway, _| usable.contains(gateway));
        let mut due = Vec::new();
        for address in usable {
            let gateway = self.gateways.entry(address).or_insert_with(|| Gateway { asked: Some(now), ..Gateway::default() });
            let every = match (gateway.answers && gateway.unanswered > 0, at_ease) {
                (true, _) => ASK_AGAIN,
                (false, false) => ASK_EVERY,
                (false, true) => ASK_AT_EASE,
            };
            if gateway.asked.max(gateway.heard).is_none_or(|last| now.since(last) >= every) {
                gateway.asked = Some(now);
                due.push(address);
            }
        }
        due
    }

    /// A gateway was really asked; `heard`: and its answer would be.
    pub(crate) fn was_asked(&mut self, gateway: IpAddr, heard: bool) {
        self.unanswered = self.unanswered.saturating_add(1);
        if let Some(gateway) = self.gateways.get_mut(&gateway).filter(|_| heard) {
            gateway.unanswered = gateway.unanswered.saturating_add(1);
        }
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
                (Some(link), _) => format!("{} has no address, of IPv4 or IPv6", link.name),
                (None, []) => "no network interface is up".to_owned(),
                (None, wanted) => format!("there is no interface {} that is up", wanted.join(" or ")),
            });
        }
        if self.lost.is_some() {
            return self.lost.clone();
        }
        let gone = |gateway: &Gateway| {
            // The last question has its time to be answered; one more does not bring the gateway back.
            let last_is_open = gateway.asked.is_none_or(|asked| now.since(asked) < ASK_AGAIN / 2);
            gateway.answers && gateway.unanswered >= GONE + u32::from(last_is_open)
        };
        let silent = |link: &&&Link| link.router().and_then(|gateway| self.gateways.get(&gateway)).is_some_and(gone);
        if let Some((gateway, name)) = usable.iter().find(silent).and_then(|link| Some((link.router()?, &link.name))) {
            return Some(format!("the gateway {gateway} on {name} does not answer any more, so nobody behind it would be heard"));
        }
        if self.unanswered < ASKED || now.since(self.heard) < SILENCE {
            return None;
        }
        let gateway = usable.iter().find_map(|link| link.router().map(|gateway| (gateway, &link.name)));
        gateway.map(|(gateway, name)| format!("the gateway {gateway} does not answer, and nobody else is heard on {name}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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
            ip6: Vec::new(),
            gateway6: None,
        }
    }

    /// Of a network without IPv4, whose gateway is known by its address of the link.
    fn link6() -> Link {
        let [own, gateway] = ["fe80::2", "fe80::1"].map(|ip| ip.parse().unwrap());
        Link { subnets: Vec::new(), gateway: None, ip6: vec![(own, 64)], gateway6: Some(gateway), ..link(true) }
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
            for gateway in sight.gateways_due(&links, false, now) {
                asked += 1;
                sight.was_asked(gateway, true);
            }
            if let Some(why) = sight.change(&links, &[], now) {
                blind = Some((second, why.unwrap()));
                break;
            }
        }
        let (second, why) = blind.unwrap();
        assert!(second == 30 && asked == 3 && why.contains("192.168.1.1"), "{second} {asked} {why}");
        sight.heard(None, Mono(61_000));
        assert_eq!(sight.change(&links, &[], Mono(61_000)), Some(None));
    }

    #[test]
    fn a_network_without_ipv4_is_seen_and_is_gone_with_its_gateway() {
        let links = [link6()];
        let gateway = links[0].router().unwrap();
        let mut sight = Sight::new(Mono(0));
        assert_eq!(sight.change(&links, &[], Mono(0)), Some(None));
        assert!(sight.change(&[Link { ip6: Vec::new(), ..link6() }], &[], Mono(1)).unwrap().unwrap().contains("no address"));
        assert_eq!(sight.change(&links, &[], Mono(2)), Some(None));
        sight.gateways_due(&links, false, Mono(2));
        sight.heard(Some(gateway), Mono(1000));
        let mut told = Vec::new();
        for second in 2..60 {
            let now = Mono(second * 1000);
            sight.heard(Some("fe80::7".parse().unwrap()), now);
            sight.gateways_due(&links, false, now).into_iter().for_each(|due| sight.was_asked(due, true));
            told.extend(sight.change(&links, &[], now).map(|why| (second, why)));
        }
        // Once: each further question in vain is none of its returns.
        let [(second, Some(why))] = &told[..] else { panic!("{told:?}") };
        assert!(*second < 25 && why.contains("fe80::1"), "{second} {why}");
    }

    #[test]
    fn a_gateway_is_asked_rarely_while_nobody_is_missed() {
        let (links, gateway) = ([link(true)], IpAddr::from([192, 168, 1, 1]));
        let mut asked = [0, 0];
        for (nth, at_ease) in [false, true].into_iter().enumerate() {
            let mut sight = Sight::new(Mono(0));
            for second in 0..3600 {
                let due = sight.gateways_due(&links, at_ease, Mono(second * 1000));
                asked[nth] += due.len();
                due.iter().for_each(|due| sight.was_asked(*due, true));
                if !due.is_empty() {
                    sight.heard(Some(gateway), Mono(second * 1000));
                }
            }
        }
        assert!(asked[0] == 399 && asked[1] == 119, "{asked:?}");
    }

    #[test]
    fn a_gateway_that_is_gone_is_blindness_whoever_else_is_heard() {
        let (links, gateway) = ([link(true)], IpAddr::from([192, 168, 1, 1]));
        let mut sight = Sight::new(Mono(0));
        sight.change(&links, &[], Mono(0));
        let mut blind = None;
        for second in 1..120 {
            let now = Mono(second * 1000);
            // Something on the cable talks all the time. The gateway answers for a minute, but for a question that gets lost.
            sight.heard(Some(IpAddr::from([192, 168, 1, 7])), now);
            for due in sight.gateways_due(&links, false, now) {
                sight.was_asked(due, true);
                if second < 60 && second % 4 != 0 {
                    sight.heard(Some(gateway), now);
                }
            }
            if let Some(why) = sight.change(&links, &[], now) {
                blind = Some((second, why.unwrap()));
                break;
            }
        }
        let (second, why) = blind.unwrap();
        assert!((70..=80).contains(&second) && why.contains("192.168.1.1"), "{second} {why}");
        sight.heard(Some(gateway), Mono(121_000));
        assert_eq!(sight.change(&links, &[], Mono(121_000)), Some(None));
    }

    #[test]
    fn a_gateway_that_never_answers_blinds_nobody() {
        let links = [link(true)];
        let mut sight = Sight::new(Mono(0));
        assert_eq!(sight.change(&links, &[], Mono(0)), Some(None));
        for second in 1..600 {
            let now = Mono(second * 1000);
            sight.heard(Some(IpAddr::from([192, 168, 1, 7])), now);
            sight.gateways_due(&links, false, now).into_iter().for_each(|due| sight.was_asked(due, true));
            assert_eq!(sight.change(&links, &[], now), None);
        }
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
