//! Phones that may become somebody's: links by which one asks, strangers that look like one that changed its address, and what an owner says.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use data_encoding::BASE32_NOPAD;
use dms3_core::accounts::{Hidden, Throttle};
use dms3_core::dashboard::{self, AskingView, LearnedDevice};
use dms3_core::presence::{Device, MacAddr, Person};
use dms3_core::request::{Here, HereStanding};
use dms3_core::time::{Mono, Timestamp};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{Semaphore, watch};

use super::presence::likeness::{Like, Mark};
use super::presence::network::Network;
use crate::clock::Clock;

/// Life of a link.
const LINK_LIFE: Duration = Duration::from_secs(600);
/// For so long it is known that there was one: whoever opens it late guesses nothing.
const KNOWN_FOR: Duration = Duration::from_secs(3600);
/// Links of which is known. A new one takes the place of the oldest.
const LINKS: usize = 32;
/// Bytes of chance in the word of a link: 32 letters.
const WORD_BYTES: usize = 20;
/// A stranger that looks like a phone is shown for so long after it was heard last.
const LIKE_FOR: Duration = Duration::from_secs(300);
/// Strangers that look like one phone, and like any: whoever invents addresses hides no other stranger for long.
const LIKES_OF_ONE: usize = 2;
const LIKES: usize = 16;
/// Looks at the network at once, and when to try again if there are more.
const LOOKS: usize = 2;
const BUSY: Duration = Duration::from_secs(3);
/// Strangers of which an owner said that they are nobody's.
const DECLINED: usize = 64;

/// Clones are the same. Links are in memory only: none survives a restart.
#[derive(Clone)]
pub struct Phones {
    inner: Arc<Mutex<Inner>>,
    devices: watch::Sender<Vec<Device>>,
    clock: Clock,
    /// Of `[coordinator.presence]`.
    interfaces: Arc<[String]>,
    /// Whoever has a link costs the network no more than so many looks at once.
    looks: Arc<Semaphore>,
}

#[derive(Default)]
struct Inner {
    learned: Vec<LearnedDevice>,
    links: VecDeque<Link>,
    throttle: Throttle,
    likes: VecDeque<(Like, Mono)>,
    people: Vec<Person>,
    declined: VecDeque<MacAddr>,
}

#[derive(Debug, Clone)]
struct Link {
    hash: [u8; 32],
    person: String,
    made: Mono,
    /// The one phone that it is for: the first that asked.
    phone: Option<Phone>,
}

#[derive(Debug, Clone)]
struct Phone {
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    answer: Option<bool>,
}

/// Who opened a link, as the network knows him.
struct Visitor {
    mac: MacAddr,
    addresses: Vec<IpAddr>,
}

impl Link {
    fn lives(&self, now: Mono) -> bool {
        now.since(self.made) < LINK_LIFE
    }
}

impl Phones {
    pub fn new(clock: Clock, interfaces: Vec<String>, learned: Vec<LearnedDevice>) -> Self {
        let inner = Inner { learned, ..Inner::default() };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            devices: watch::Sender::default(),
            clock,
            interfaces: interfaces.into(),
            looks: Arc::new(Semaphore::new(LOOKS)),
        }
    }

    /// Of a house in which these are somebody's.
    #[cfg(test)]
    pub(crate) fn of(devices: &[Device]) -> Self {
        let phones = Self::new(Clock::alone(), Vec::new(), Vec::new());
        phones.devices.send_replace(devices.to_vec());
        phones
    }

    /// All devices of people now, for the sensors.
    pub fn devices(&self) -> watch::Receiver<Vec<Device>> {
        self.devices.subscribe()
    }

    /// Whose they are.
    pub(crate) fn owners(&self) -> HashMap<Device, String> {
        let inner = self.lock();
        let owned = |person: &Person| person.devices.iter().map(|device| (device.clone(), person.name.clone())).collect::<Vec<_>>();
        inner.people.iter().flat_map(owned).collect()
    }

    pub(crate) fn is_known(&self, mac: MacAddr) -> bool {
        self.devices.borrow().contains(&Device::Mac(mac))
    }

    /// Who has what from now on.
    pub(super) fn belong_to(&self, people: &[Person]) {
        let devices = people.iter().flat_map(|person| person.devices.clone()).collect();
        self.lock().people = people.to_vec();
        self.devices.send_replace(devices);
    }

    /// A device is kept as somebody's. Whoever asked for it hears so.
    pub(super) fn learned(&self, device: LearnedDevice) {
        let mut inner = self.lock();
        if let Device::Mac(mac) = device.device {
            inner.answer(&device.person, mac, true);
            inner.likes.retain(|(like, _)| like.mac != mac);
        }
        inner.learned.push(device);
    }

    pub(super) fn has_learned(&self, device: &Device) -> bool {
        self.lock().learned.iter().any(|known| known.device == *device)
    }

    pub(super) fn forgotten(&self, device: &Device) {
        self.lock().learned.retain(|known| known.device != *device);
    }

    /// The person is forgotten: the devices that he has no more.
    pub(super) fn forget(&self, person: &str) -> Vec<Device> {
        let mut inner = self.lock();
        inner.links.retain(|link| link.person != person);
        let gone = inner.learned.extract_if(.., |known| known.person == person).map(|known| known.device);
        gone.collect()
    }

    /// Neither this phone nor this stranger is that person's.
    pub(super) fn declined(&self, person: &str, mac: MacAddr) {
        let mut inner = self.lock();
        inner.answer(person, mac, false);
        inner.likes.retain(|(like, _)| like.mac != mac);
        inner.declined.push_back(mac);
        if inner.declined.len() > DECLINED {
            inner.declined.pop_front();
        }
    }

    /// For people. `is_gone`: whether a device of somebody is away, and whose it is.
    pub(super) fn view(&self, gone: impl Fn(MacAddr) -> Option<String>) -> dashboard::Phones {
        let now = self.clock.now().mono;
        let inner = self.lock();
        let of_links = inner.links.iter().filter(|link| link.lives(now)).filter_map(|link| {
            let phone = link.phone.as_ref().filter(|phone| phone.answer.is_none())?;
            Some(AskingView { person: link.person.clone(), mac: phone.mac, addresses: phone.addresses.clone(), like: None, name: None })
        });
        let of_likes = inner.likes.iter().filter(|(_, at)| now.since(*at) < LIKE_FOR).filter_map(|(like, _)| {
            let (addresses, name) = match &like.mark {
                Mark::Place(ip) => (vec![*ip], None),
                Mark::Name(name) => (Vec::new(), Some(name.clone())),
            };
            Some(AskingView { person: gone(like.device)?, mac: like.mac, addresses, like: Some(like.device), name })
        });
        let mut asking: Vec<AskingView> = Vec::new();
        for one in of_links.chain(of_likes) {
            if !asking.iter().any(|other| (&other.person, other.mac) == (&one.person, one.mac)) {
                asking.push(one);
            }
        }
        dashboard::Phones { learned: inner.learned.clone(), asking }
    }

    /// The word of a new link, and until when it is good.
    pub(super) fn link(&self, person: &str) -> Result<(Hidden, Timestamp)> {
        let mut bytes = [0; WORD_BYTES];
        SystemRandom::new().fill(&mut bytes).ok().context("this machine has no random numbers")?;
        let word = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.links.retain(|link| now.mono.since(link.made) < KNOWN_FOR);
        if inner.links.len() >= LINKS {
            inner.links.pop_front();
        }
        inner.links.push_back(Link { hash: hash(&word), person: person.to_owned(), made: now.mono, phone: None });
        Ok((Hidden(word), now.at + LINK_LIFE))
    }

    /// A sensor saw a stranger where a phone was that has made its address up.
    pub(crate) fn looks_like(&self, like: Like) {
        let now = self.clock.now().mono;
        let mut inner = self.lock();
        if inner.declined.contains(&like.mac) {
            return;
        }
        inner.likes.retain(|(known, at)| now.since(*at) < LIKE_FOR && (known.device, known.mac) != (like.device, like.mac));
        let of_this = inner.likes.iter().filter(|(known, _)| known.device == like.device).count();
        if of_this >= LIKES_OF_ONE || inner.likes.len() >= LIKES {
            return;
        }
        inner.likes.push_back((like, now));
    }

    /// Somebody opened a link.
    pub(super) async fn here(&self, word: &Hidden, address: IpAddr, asks: bool) -> Here {
        let hash = hash(&word.0);
        let opened = self.lock().open(hash, address, self.clock.now().mono);
        let link = match opened {
            Ok(link) => link,
            Err(standing) => return standing.into(),
        };
        let Ok(_look) = self.looks.try_acquire() else { return HereStanding::Wait(BUSY.as_secs()).into() };
        let network = match Network::look(&self.interfaces).await {
            Ok(network) => network,
            Err(error) => {
                tracing::warn!("{error:#}: a phone that asks to be learned cannot be found");
                return HereStanding::Refused("The house cannot see its own network now. Try again in a moment.".to_owned()).into();
            }
        };
        let Some(mac) = network.mac_of(address) else { return HereStanding::Refused(elsewhere(address)).into() };
        let visitor = Visitor { mac, addresses: network.addresses_of(mac) };
        // Whoever asked already, or was the one phone of this link, hears what came of it.
        if let Some(phone) = &link.phone {
            return visitor.hears(if phone.mac == mac { answered(phone.answer) } else { HereStanding::Ended });
        }
        if self.is_known(mac) {
            return visitor.hears(HereStanding::Refused("The house knows this phone already: there is nothing to do.".to_owned()));
        }
        if let Some(why) = network.objection(mac).await {
            return visitor.hears(HereStanding::Refused(format!("This phone cannot be learned: {why}.")));
        }
        if !asks {
            return visitor.hears(HereStanding::Ready);
        }
        let standing = self.lock().ask(hash, &visitor, self.clock.now().mono);
        tracing::info!("a phone ({mac}, {address}) asks to be learned by a link that was made for it");
        visitor.hears(standing)
    }

    /// Why this can be nobody's device, in words.
    pub(super) async fn objection(&self, device: &Device) -> Result<Option<String>> {
        match device {
            Device::Mac(mac) => Ok(Network::look(&self.interfaces).await?.objection(*mac).await),
            // Nobody can be asked by Bluetooth.
            Device::Bluetooth(_) => Ok(None),
            Device::Host(_) => Ok(Some(format!("{device} is no address of a device: write it into the config"))),
        }
    }

    /// Bluetooth devices of people, with how long a silence makes their owner away.
    pub(crate) fn by_bluetooth(&self) -> HashMap<MacAddr, Duration> {
        let inner = self.lock();
        let devices = inner.people.iter().flat_map(|person| person.devices.iter().map(move |device| (device, person.away_after)));
        let address = |(device, away_after): (&Device, Duration)| match device {
            Device::Bluetooth(address) => Some((*address, away_after)),
            Device::Mac(_) | Device::Host(_) => None,
        };
        devices.filter_map(address).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The link of that word, if there is one and it is good.
    fn open(&mut self, hash: [u8; 32], from: IpAddr, now: Mono) -> Result<Link, HereStanding> {
        if let Some(wait) = self.throttle.wait(from, "", true, now) {
            return Err(HereStanding::Wait(wait.as_secs().max(1)));
        }
        // By its hash: nobody learns by the time it takes how much of a word is right.
        match self.links.iter().find(|link| link.hash == hash) {
            Some(link) if link.lives(now) => Ok(link.clone()),
            Some(_) => Err(HereStanding::Ended),
            None => {
                self.throttle.failed(from, "", now);
                Err(HereStanding::Ended)
            }
        }
    }

    fn ask(&mut self, hash: [u8; 32], visitor: &Visitor, now: Mono) -> HereStanding {
        let Some(link) = self.links.iter_mut().find(|link| link.hash == hash && link.lives(now)) else { return HereStanding::Ended };
        let phone = link.phone.get_or_insert_with(|| Phone { mac: visitor.mac, addresses: visitor.addresses.clone(), answer: None });
        // Another may have been faster.
        if phone.mac == visitor.mac { answered(phone.answer) } else { HereStanding::Ended }
    }

    fn answer(&mut self, person: &str, mac: MacAddr, add: bool) {
        let asked = self.links.iter_mut().filter(|link| link.person == person).filter_map(|link| link.phone.as_mut());
        asked.filter(|phone| phone.mac == mac).for_each(|phone| phone.answer = Some(add));
    }
}

impl Visitor {
    fn hears(self, standing: HereStanding) -> Here {
        // A link that is over tells nobody anything.
        if standing == HereStanding::Ended { standing.into() } else { Here { standing, mac: Some(self.mac), addresses: self.addresses } }
    }
}

fn answered(answer: Option<bool>) -> HereStanding {
    match answer {
        None => HereStanding::Asked,
        Some(true) => HereStanding::Added,
        Some(false) => HereStanding::Declined,
    }
}

/// Why there is no device to be seen behind an address.
fn elsewhere(address: IpAddr) -> String {
    if address.is_loopback() {
        return "This page came by way of the coordinator itself, as through a proxy or a tunnel: so the house cannot see which phone you hold. \
                Open the link by the coordinator's own address, or run `sudo dms3-node presence learn` there."
            .to_owned();
    }
    format!(
        "Your phone ({address}) is not on the house's own network: it may use mobile data, a VPN, a guest Wi-Fi or the network of another \
         router. Switch those off, join the house's Wi-Fi and open this page again."
    )
}

fn hash(word: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, word.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: MacAddr = MacAddr([0xda, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([0xda, 0, 0, 0, 0, 2]);
    const STRANGER: MacAddr = MacAddr([0xda, 0, 0, 0, 0, 3]);
    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 20));

    fn at(secs: u64) -> Mono {
        Mono(secs * 1000)
    }

    fn visitor(mac: MacAddr) -> Visitor {
        Visitor { mac, addresses: vec![FROM] }
    }

    /// With a link for Anna that was made at 0 s.
    fn inner() -> Inner {
        let link = Link { hash: hash("word"), person: "Anna".to_owned(), made: at(0), phone: None };
        Inner { links: VecDeque::from([link]), ..Inner::default() }
    }

    #[test]
    fn a_link_is_for_one_phone_and_for_ten_minutes() {
        let mut inner = inner();
        let mut ask = |word: &str, mac, secs| match inner.open(hash(word), FROM, at(secs)) {
            Ok(_) => inner.ask(hash(word), &visitor(mac), at(secs)),
            Err(standing) => standing,
        };
        assert_eq!(ask("other", PHONE, 1), HereStanding::Ended);
        assert_eq!(ask("word", PHONE, 2), HereStanding::Asked);
        assert_eq!(ask("word", OTHER, 3), HereStanding::Ended);
        assert_eq!(ask("word", PHONE, 599), HereStanding::Asked);
        assert_eq!(ask("word", PHONE, 600), HereStanding::Ended);
    }

    #[test]
    fn a_phone_hears_what_an_owner_said_of_it() {
        for (add, standing) in [(true, HereStanding::Added), (false, HereStanding::Declined)] {
            let mut inner = inner();
            inner.ask(hash("word"), &visitor(PHONE), at(1));
            inner.answer("Ben", PHONE, add);
            inner.answer("Anna", OTHER, add);
            assert_eq!(inner.ask(hash("word"), &visitor(PHONE), at(2)), HereStanding::Asked, "of somebody else");
            inner.answer("Anna", PHONE, add);
            assert_eq!(inner.ask(hash("word"), &visitor(PHONE), at(3)), standing);
        }
    }

    #[test]
    fn whoever_guesses_links_waits_and_whoever_comes_late_does_not() {
        let mut inner = inner();
        for _ in 0..50 {
            assert_eq!(inner.open(hash("word"), FROM, at(700)).unwrap_err(), HereStanding::Ended);
        }
        let mut waits = 0;
        for guess in 0..50 {
            match inner.open(hash(&format!("guess {guess}")), FROM, at(700)) {
                Err(HereStanding::Wait(secs)) => waits = secs,
                other => assert_eq!(other.unwrap_err(), HereStanding::Ended),
            }
        }
        assert!(waits > 0);
        assert!(matches!(inner.open(hash("word"), FROM, at(700)), Err(HereStanding::Wait(_))));
        let elsewhere = IpAddr::from([192, 168, 1, 21]);
        assert_eq!(inner.open(hash("word"), elsewhere, at(700)).unwrap_err(), HereStanding::Ended);
    }

    #[test]
    fn each_word_is_another_and_none_is_kept() {
        let phones = Phones::of(&[]);
        let words: std::collections::BTreeSet<String> = (0..100).map(|_| phones.link("Anna").unwrap().0.0).collect();
        assert!(words.len() == 100 && words.iter().all(|word| word.len() == 32));
        assert_eq!(phones.lock().links.len(), LINKS);
        assert!(!format!("{:?}", phones.lock().links).contains(words.first().unwrap()));
    }

    #[test]
    fn a_stranger_at_the_place_of_a_phone_that_is_away_is_offered_until_an_owner_says_no() {
        let phones = Phones::of(&[Device::Mac(PHONE)]);
        let like = Like { device: PHONE, mac: STRANGER, mark: Mark::Place(FROM) };
        let asks = |phones: &Phones, is_gone: bool| phones.view(|mac| (is_gone && mac == PHONE).then(|| "Anna".to_owned())).asking;
        phones.looks_like(like.clone());
        phones.looks_like(like.clone());
        assert_eq!(asks(&phones, false), []);
        let offer = AskingView { person: "Anna".to_owned(), mac: STRANGER, addresses: vec![FROM], like: Some(PHONE), name: None };
        assert_eq!(asks(&phones, true), [offer]);
        for n in 10..100 {
            phones.looks_like(Like { mac: MacAddr([0xda, 0, 0, 0, 0, n]), ..like.clone() });
        }
        assert_eq!(asks(&phones, true).len(), LIKES_OF_ONE, "whoever invents addresses fills no page");
        phones.declined("Anna", STRANGER);
        phones.looks_like(like);
        assert!(asks(&phones, true).iter().all(|one| one.mac != STRANGER));
    }

    #[test]
    fn who_is_forgotten_has_no_devices_and_no_links() {
        let phones = Phones::of(&[]);
        let device = |person: &str, device| LearnedDevice { person: person.to_owned(), device, at: Timestamp(0), by: "root".to_owned() };
        phones.learned(device("Anna", Device::Mac(PHONE)));
        phones.learned(device("Ben", Device::Mac(OTHER)));
        phones.link("Anna").unwrap();
        assert_eq!(phones.forget("Anna"), [Device::Mac(PHONE)]);
        assert_eq!(phones.view(|_| None).learned, [device("Ben", Device::Mac(OTHER))]);
        assert!(phones.lock().links.is_empty());
        phones.forgotten(&Device::Mac(OTHER));
        assert_eq!(phones.view(|_| None).learned, []);
    }
}
