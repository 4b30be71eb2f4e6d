//! Whole weeks of a family in one process. Its phones are made up; all between their frames, as bytes, and the states of the house is what
//! runs in every house: what hears and asks, what is believed of it, windows, what people choose, the log. No time passes but that of the
//! story.
//!
//! `DMS3_WEEKS` says how many (1); `DMS3_SEED` tells a story again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::coordinator::{Command, Coordinator, Input};
use dms3_core::presence::{Device, MacAddr, Presence};
use dms3_core::request::{Answer, Request};
use dms3_core::time::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::{ToSpan as _, Zoned};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::links::{Link, Subnet};
use super::packet::{Air, BROADCAST, Source, Talk};
use super::senses::Senses;
use super::watch::Watch;
use super::{PresenceSensors, Sensing, arp, dhcp, ndp};
use crate::clock::{Clock, StandStill};
use crate::config::{Config, CoordinatorConfig, Role};
use crate::control::Asked;
use crate::coordinator::driver::Driver;
use crate::coordinator::enrollment::Tokens;
use crate::coordinator::events::Keeper;
use crate::coordinator::phones::Phones;
use crate::coordinator::roster::Roster;
use crate::coordinator::sightings::Sightings;
use crate::coordinator::{settings, windows};
use crate::mesh::testing::House;
use crate::store::{Keep, Store};

const ZONE: &str = "Europe/Berlin";
/// A Monday. In the night before the next one summer ends there.
const FIRST_DAY: Date = jiff::civil::date(2027, 10, 25);
const DAY: u64 = 86_400;
const CONFIG: &str = r#"
role = "coordinator"
[mesh]
mdns = "off"
[web]
enabled = false
[coordinator]
arrival_hold = "0s"
zone = "Europe/Berlin"
[[coordinator.window]]
state = "night"
from = "22:30"
to = "06:30"
[[coordinator.window]]
state = "disarmed"
days = ["wed"]
from = "10:00"
to = "12:00"
[[coordinator.presence.person]]
name = "Anna"
devices = ["24:da:9b:00:00:01"]
[[coordinator.presence.person]]
name = "Ben"
devices = ["24:da:9b:00:00:02"]
[[coordinator.presence.person]]
name = "Clara"
devices = ["192.168.7.23"]
[[coordinator.presence.person]]
name = "Dora"
away_after = "10m"
devices = ["24:da:9b:00:00:04"]
"#;
const INTERFACE: u32 = 7;
const OWN_MAC: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 0, 0, 1]);
const OWN_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
const OWN_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const GATEWAY_MAC: MacAddr = MacAddr([0x00, 0x1f, 0x3f, 0, 0, 1]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
/// Of the frames of most phones.
const LOST: f64 = 0.05;
/// On the whole. Phones that sleep as these do cost about 1110 an hour at home and 440 away; what phones cost that answer is measured by
/// scripts/bench. With a sweep for each long sleep it was 4600.
const FRAMES_PER_HOUR: u64 = 1200;
/// The last minute of a departure, and what a question and a sweep take.
const SPARE: u64 = 65;
/// Of a phone that comes and goes all the time, in seconds.
const RESTLESS: (u64, u64) = (30 * 60, DAY);
const ANNA: usize = 0;
const BEN: usize = 1;
const CLARA: usize = 2;
const DORA: usize = 3;

struct Phone {
    mac: MacAddr,
    ip: Ipv4Addr,
    /// It says nothing by IPv4.
    ip6: Option<Ipv6Addr>,
    away_after: u64,
    home: bool,
    /// Not flat.
    on: bool,
    awake: bool,
    turns_at: u64,
    /// It sleeps for so long at most, and then is awake for so long at least.
    sleeps: (u64, u64),
    /// Speaks by itself when it is awake, at random distances of so long at most.
    talks: Option<u64>,
    talks_at: u64,
    /// How much of what it says gets lost.
    lost: f64,
    /// A frame of it came through.
    heard: Option<u64>,
    left: u64,
    restless_until: u64,
}

impl Phone {
    fn new(n: u8, ip6: Option<Ipv6Addr>, away_after: u64, sleeps: (u64, u64), talks: Option<u64>) -> Self {
        Self {
            mac: MacAddr([0x24, 0xda, 0x9b, 0, 0, n]),
            ip: Ipv4Addr::new(192, 168, 7, 20 + n),
            ip6,
            away_after,
            home: false,
            on: true,
            awake: true,
            turns_at: 0,
            sleeps,
            talks,
            talks_at: 0,
            // Who never says anything by himself needs a good Wi-Fi.
            lost: if talks.is_some() { LOST } else { 0.0 },
            heard: None,
            left: 0,
            restless_until: 0,
        }
    }

    fn hears(&self) -> bool {
        self.home && self.on && self.awake
    }

    fn patience(&self, now: u64) -> u64 {
        if now < self.restless_until { RESTLESS.0 } else { self.away_after }
    }
}

/// What people do, and what happens to the house.
#[derive(Debug, Clone)]
enum Act {
    Leaves(usize),
    Comes(usize),
    Flat(usize),
    Charged(usize),
    /// It was on and off again too often by now.
    IsRestless(usize),
    Cable(bool),
    Restart,
    Asks(Command),
    /// From now on that is what a person chose; `None`: windows and presence decide.
    Chosen(Option<ArmState>),
    /// It is chosen until somebody is heard.
    UntilArrival,
}

/// What the family expects.
#[derive(Debug, Default)]
struct Expected {
    chosen: Option<ArmState>,
    until_arrival: bool,
    /// The coordinator can see since then, if it does.
    sees_since: u64,
    cable: bool,
    /// By the windows, in this minute.
    is_night: bool,
    is_cleaned: bool,
}

/// How often it came up.
#[derive(Debug, Default)]
struct Seen {
    armed: u64,
    disarmed: u64,
    nights: u64,
    restless: u64,
    blind: u64,
    most_frames: u64,
    frames: u64,
}

/// The coordinator, until it is restarted.
struct Running {
    driver: Driver,
    inputs: mpsc::Receiver<Input>,
    learned: mpsc::Receiver<(Device, std::net::IpAddr)>,
    said: mpsc::UnboundedReceiver<(Talk, [u8; 6], Vec<u8>)>,
    air: mpsc::UnboundedSender<(Talk, Vec<u8>, Source)>,
    _watch: JoinSet<anyhow::Result<()>>,
}

struct Story {
    dir: TempDir,
    house: House,
    own: Box<CoordinatorConfig>,
    store: Store,
    clock: Clock,
    told: watch::Sender<Sensing>,
    links: watch::Sender<Vec<Link>>,
    running: Running,
    phones: Vec<Phone>,
    chance: StdRng,
    /// Seconds since it began.
    now: u64,
    expected: Expected,
    seen: Seen,
    states: Vec<ArmState>,
    problems: BTreeSet<&'static str>,
}

fn link(carrier: bool) -> Link {
    Link {
        index: INTERFACE,
        name: "eth0".to_owned(),
        mac: OWN_MAC,
        carrier,
        subnets: vec![Subnet { own: OWN_IP, prefix: 24 }],
        gateway: Some(GATEWAY),
        ip6: vec![(OWN_IP6, 64)],
        gateway6: None,
    }
}

/// Seconds from the beginning of the story to that moment in the house's zone.
fn at(date: Date, hour: i8, minute: i8, second: i8) -> u64 {
    let of = |date: Date, hour, minute, second| date.at(hour, minute, second, 0).in_tz(ZONE).unwrap().timestamp();
    u64::try_from(of(date, hour, minute, second).as_second() - of(FIRST_DAY, 0, 0, 0).as_second()).unwrap()
}

impl Story {
    async fn begin(seed: u64) -> Self {
        let house = House::new();
        let dir = house.state_dir(&house.coordinator);
        let begins = FIRST_DAY.in_tz(ZONE).unwrap().timestamp().as_second();
        let clock = Clock::of_a_story(Timestamp::from_secs(u64::try_from(begins).unwrap()));
        let path = dir.path().display().to_string();
        let text = format!("state_dir = {path:?}\nrun_dir = {path:?}\n{}", CONFIG.trim_start());
        let config = Config::parse(&text, &dir.path().join("dms3.toml")).unwrap();
        let Role::Coordinator(own) = config.role else { panic!("a coordinator") };
        let store = Store::create(dir.path()).await.unwrap();
        let (told, links) = (watch::Sender::default(), watch::Sender::new(vec![link(true)]));
        let running = Running::start(&house, &own, &store, &clock, &told, &links, dir.path()).await;
        let phones = vec![
            // It is awake one minute of every five, and says nothing by itself.
            Phone::new(1, None, 300, (240, 60), None),
            Phone::new(2, None, 300, (100, 30), Some(100)),
            Phone::new(3, None, 300, (30, 30), Some(20)),
            Phone::new(4, Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x24)), 600, (200, 40), Some(400)),
        ];
        let expected = Expected { cable: true, is_night: true, ..Expected::default() };
        let states = vec![running.driver.machine.state().arm_state()];
        let mut story = Self {
            dir,
            house,
            own,
            store,
            clock,
            told,
            links,
            running,
            phones,
            chance: StdRng::seed_from_u64(seed),
            now: 0,
            expected,
            seen: Seen::default(),
            states,
            problems: BTreeSet::new(),
        };
        // So that nobody is looked for before the first second.
        (0..4).for_each(|n| story.comes(n));
        story
    }

    /// What the next week brings.
    fn plan(&mut self, monday: Date) -> BTreeMap<u64, Vec<Act>> {
        let mut plan: BTreeMap<u64, Vec<Act>> = BTreeMap::new();
        let mut does = |at: u64, act: Act| plan.entry(at).or_default().push(act);
        let day = |n: i64| monday.checked_add(n.days()).unwrap();
        let everybody = [ANNA, BEN, CLARA, DORA];
        for n in 0..5 {
            for who in everybody {
                does(at(day(n), 7, 30, 0) + self.chance.random_range(0..3600), Act::Leaves(who));
                if n != 3 {
                    does(at(day(n), 15, 30, 0) + self.chance.random_range(0..9000), Act::Comes(who));
                }
            }
        }
        let timed = |until: u64, stays| Command::Disarm { until: Some(self.clock_at(until)), stays };
        let arm = |now, stays| Command::Arm { state: ArmState::Away, until: None, now, stays };
        // A craftsman is let in from afar; in the evening Ben has his sport.
        does(at(day(0), 11, 0, 0), Act::Asks(timed(at(day(0), 13, 0, 0), false)));
        does(at(day(0), 11, 0, 0), Act::Chosen(Some(ArmState::Disarmed)));
        does(at(day(0), 13, 0, 0), Act::Chosen(None));
        does(at(day(0), 20, 0, 0), Act::Leaves(BEN));
        does(at(day(0), 22, 40, 0), Act::Comes(BEN));
        // Guests stay while the family is out, longer than until the night begins.
        does(at(day(1), 20, 0, 0), Act::Asks(timed(at(day(2), 1, 0, 0), true)));
        does(at(day(1), 20, 0, 0), Act::Chosen(Some(ArmState::Disarmed)));
        for who in everybody {
            does(at(day(1), 20, 15, 0), Act::Leaves(who));
            does(at(day(2), 0, 15, 0), Act::Comes(who));
        }
        does(at(day(2), 1, 0, 0), Act::Chosen(None));
        // The cable is out, once with nobody at home and once with all.
        for hour in [14, 19] {
            does(at(day(2), hour, 0, 0), Act::Cable(false));
            does(at(day(2), hour, 5, 0), Act::Cable(true));
        }
        // A vacation, in which Ben fetches something.
        does(at(day(3), 9, 0, 0), Act::Asks(arm(true, true)));
        does(at(day(3), 9, 0, 0), Act::Chosen(Some(ArmState::Away)));
        does(at(day(3), 15, 0, 0), Act::Comes(BEN));
        does(at(day(3), 15, 30, 0), Act::Leaves(BEN));
        does(at(day(4), 18, 10, 0), Act::Asks(Command::Auto));
        does(at(day(4), 18, 10, 0), Act::Chosen(None));
        // They arm when they go, and it takes its minute.
        does(at(day(5), 10, 0, 0), Act::Asks(arm(false, false)));
        does(at(day(5), 10, 0, 0), Act::Chosen(Some(ArmState::Disarmed)));
        does(at(day(5), 10, 1, 0), Act::Chosen(Some(ArmState::Away)));
        does(at(day(5), 12, 0, 0), Act::UntilArrival);
        for who in everybody {
            does(at(day(5), 10, 0, 10) + self.chance.random_range(0..30), Act::Leaves(who));
            does(at(day(5), 13, 0, 0) + self.chance.random_range(0..600), Act::Comes(who));
        }
        // Ben alone at home, with a phone that is dying.
        for who in [ANNA, CLARA, DORA] {
            does(at(day(5), 14, 0, 0), Act::Leaves(who));
            does(at(day(5), 18, 0, 0), Act::Comes(who));
        }
        let dying = at(day(5), 14, 30, 0);
        for turn in 0..16 {
            does(dying + 340 * turn, Act::Flat(BEN));
            does(dying + 340 * turn + 325, Act::Charged(BEN));
        }
        does(dying + 30 * 60, Act::IsRestless(BEN));
        // The night in which summer ends, and a restart in it, one in an empty house, and one with all at home.
        does(at(day(6), 3, 30, 0), Act::Restart);
        for who in everybody {
            does(at(day(6), 11, 0, 0) + self.chance.random_range(0..900), Act::Leaves(who));
            does(at(day(6), 16, 0, 0) + self.chance.random_range(0..900), Act::Comes(who));
        }
        does(at(day(6), 13, 0, 0), Act::Restart);
        does(at(day(6), 20, 0, 0), Act::Restart);
        plan
    }

    fn clock_at(&self, second: u64) -> Timestamp {
        self.clock.now().at + Duration::from_secs(second - self.now)
    }

    async fn week(&mut self, monday: Date) {
        let mut plan = self.plan(monday);
        let end = at(monday.checked_add(7.days()).unwrap(), 0, 0, 0);
        let mut frames = self.told.borrow().frames.total();
        while self.now < end {
            let acts = plan.remove(&(self.now + 1)).unwrap_or_default();
            self.second(acts).await;
            if self.now.is_multiple_of(3600) {
                let before = std::mem::replace(&mut frames, self.told.borrow().frames.total());
                self.seen.most_frames = self.seen.most_frames.max(frames - before);
                self.seen.frames += frames - before;
            }
            if self.now.is_multiple_of(DAY) {
                self.store.prune(Keep::default(), self.clock.certain()).await.unwrap();
            }
        }
        assert!(plan.is_empty(), "{plan:?}");
    }

    async fn second(&mut self, acts: Vec<Act>) {
        tokio::time::advance(Duration::from_secs(1)).await;
        self.clock.pass(Duration::from_secs(1));
        self.now += 1;
        for act in acts {
            self.act(act).await;
        }
        self.phones_speak();
        let before = self.running.driver.machine.state().arm_state();
        self.take(Input::Tick).await;
        self.settle().await;
        if self.running.driver.written_at.elapsed() >= Duration::from_secs(600) {
            self.running.driver.write_sightings().await;
        }
        self.judge(before);
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Leaves(who) => (self.phones[who].home, self.phones[who].left) = (false, self.now),
            Act::Comes(who) => self.comes(who),
            Act::Flat(who) => self.phones[who].on = false,
            Act::Charged(who) => {
                self.phones[who].on = true;
                self.comes(who);
            }
            Act::IsRestless(who) => self.phones[who].restless_until = self.now + RESTLESS.1,
            Act::Cable(is_in) => {
                self.links.send_replace(vec![link(is_in)]);
                (self.expected.cable, self.expected.sees_since) = (is_in, self.now + 10);
            }
            Act::Restart => {
                self.running.driver.write_sightings().await;
                let before = self.running.driver.machine.state().arm_state();
                self.running =
                    Running::start(&self.house, &self.own, &self.store, &self.clock, &self.told, &self.links, self.dir.path()).await;
                assert_eq!(self.running.driver.machine.state().arm_state(), before, "a restart decides nothing ({})", self.local());
                self.expected.sees_since = self.now;
                // Which phone is restless is found out anew.
                self.phones.iter_mut().for_each(|phone| phone.restless_until = 0);
            }
            Act::Asks(command) => {
                let (answer, answered) = oneshot::channel();
                let asked = Asked { request: Request::Command(command), by: "Anna".to_owned(), uid: 0, answer };
                self.running.driver.answer(asked).await.unwrap();
                assert!(matches!(answered.await, Ok(Answer::House(_))), "she is obeyed");
                self.note_state();
            }
            Act::Chosen(state) => (self.expected.chosen, self.expected.until_arrival) = (state, false),
            Act::UntilArrival => self.expected.until_arrival = true,
        }
    }

    /// The phone joins the network, and says so.
    fn comes(&mut self, who: usize) {
        let phone = &mut self.phones[who];
        (phone.home, phone.awake, phone.turns_at) = (true, true, self.now + phone.sleeps.1);
        let mac = phone.mac;
        // Who is known by his address is nobody before he says it.
        if who != CLARA {
            self.says(who, Talk::Dhcp, dhcp::asks(mac, 3, "phone"));
        }
        self.announces(who);
    }

    fn announces(&mut self, who: usize) {
        let Phone { mac, ip, ip6, .. } = self.phones[who];
        match ip6 {
            Some(ip6) => self.says(who, Talk::Ndp, ndp::question(mac, ip6, OWN_IP6, None).1),
            None => self.says(who, Talk::Arp, arp::request(mac, ip, GATEWAY).to_vec()),
        }
    }

    fn says(&mut self, who: usize, talk: Talk, packet: Vec<u8>) {
        let phone = &mut self.phones[who];
        if !phone.on || !self.expected.cable || self.chance.random_bool(phone.lost) {
            return;
        }
        phone.heard = Some(self.now);
        let source = Source { interface: INTERFACE, mac: phone.mac.0 };
        self.running.air.send((talk, packet, source)).unwrap();
    }

    fn phones_speak(&mut self) {
        for who in 0..self.phones.len() {
            let now = self.now;
            let phone = &mut self.phones[who];
            if now >= phone.turns_at {
                phone.awake = !phone.awake;
                let (asleep, awake) = phone.sleeps;
                phone.turns_at = now + if phone.awake { awake } else { asleep };
            }
            if let Some(every) = phone.talks
                && now >= phone.talks_at
            {
                phone.talks_at = now + self.chance.random_range(1..=every);
                if phone.hears() {
                    self.announces(who);
                }
            }
        }
    }

    /// Whoever is asked by this packet answers, if he hears it.
    fn asked(&mut self, talk: Talk, to: [u8; 6], packet: &[u8]) {
        if !self.expected.cable {
            return;
        }
        match talk {
            Talk::Arp => {
                let ip = Ipv4Addr::from(*packet[24..].first_chunk::<4>().unwrap());
                let reply = |mac: MacAddr| {
                    let mut reply = arp::request(mac, ip, OWN_IP).to_vec();
                    reply[7] = 2;
                    reply[18..24].copy_from_slice(&OWN_MAC.0);
                    reply
                };
                if ip == GATEWAY {
                    let source = Source { interface: INTERFACE, mac: GATEWAY_MAC.0 };
                    self.running.air.send((talk, reply(GATEWAY_MAC), source)).unwrap();
                }
                let is_asked = |phone: &Phone| phone.ip == ip && phone.ip6.is_none() && (to == BROADCAST || to == phone.mac.0);
                if let Some(who) = self.phones.iter().position(|phone| phone.hears() && is_asked(phone)) {
                    self.says(who, talk, reply(self.phones[who].mac));
                }
            }
            Talk::Ndp => {
                let Some(target) = packet.get(48..64) else { return };
                let is_asked = |phone: &Phone| phone.ip6.is_some_and(|ip6| ip6.octets() == target);
                if let Some(who) = self.phones.iter().position(|phone| phone.hears() && is_asked(phone)) {
                    let Phone { mac, ip6, .. } = self.phones[who];
                    self.says(who, talk, ndp::answer(mac, ip6.unwrap(), OWN_IP6));
                }
            }
            Talk::Dhcp => panic!("the coordinator asks for no address"),
        }
    }

    /// Until nobody has anything more to say in this second.
    async fn settle(&mut self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            tokio::task::yield_now().await;
            while let Ok((talk, to, packet)) = self.running.said.try_recv() {
                self.asked(talk, to, &packet);
                is_quiet = false;
            }
            while let Ok(input) = self.running.inputs.try_recv() {
                self.take(input).await;
                is_quiet = false;
            }
            while let Ok((device, address)) = self.running.learned.try_recv() {
                self.store.remember_address(&device, address, self.clock.now().at).await.unwrap();
            }
            if let Some(ended) = self.running._watch.try_join_next() {
                panic!("the watch ended: {ended:?}");
            }
        }
    }

    async fn take(&mut self, input: Input) {
        self.running.driver.take(input).await.unwrap();
        self.note_state();
    }

    fn note_state(&mut self) {
        let state = self.running.driver.machine.state().arm_state();
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
    }

    fn local(&self) -> Zoned {
        jiff::Timestamp::from_millisecond(i64::try_from(self.clock.now().at.0).unwrap()).unwrap().in_tz(ZONE).unwrap()
    }

    /// Whether the house is in a state that the family expects.
    fn judge(&mut self, before: ArmState) {
        let now = self.now;
        let state = self.running.driver.machine.state().arm_state();
        let silent = |phone: &Phone| phone.heard.map_or(u64::MAX, |heard| now - heard);
        if self.expected.until_arrival && self.phones.iter().any(|phone| silent(phone) == 0) {
            (self.expected.chosen, self.expected.until_arrival) = (None, false);
        }
        if now.is_multiple_of(60) {
            let local = self.local();
            let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
            self.expected.is_night = !(6 * 60 + 30..22 * 60 + 30).contains(&minute);
            self.expected.is_cleaned = local.weekday() == Weekday::Wednesday && (10..12).contains(&local.hour());
        }
        let Expected { is_night, is_cleaned, .. } = self.expected;
        let is_somebody_there = self.phones.iter().any(|phone| silent(phone) < phone.patience(now));
        let missed_for = |phone: &Phone| now.saturating_sub(phone.left.max(self.expected.sees_since));
        let is_gone = |phone: &Phone| (!phone.home || !phone.on) && missed_for(phone) >= phone.patience(now) + SPARE;
        let is_empty = self.expected.cable && self.phones.iter().all(|phone| !phone.home) && self.phones.iter().all(is_gone);
        let at_home = if is_night { ArmState::Night } else { ArmState::Disarmed };
        let may_be: &[ArmState] = match self.expected.chosen {
            Some(chosen) => &[chosen],
            None if !self.expected.cable => &[before],
            None if is_cleaned => &[ArmState::Disarmed],
            None if is_somebody_there => &[at_home],
            None if is_empty => &[ArmState::Away],
            None => &[at_home, ArmState::Away],
        };
        if !may_be.contains(&state) {
            let phones: Vec<_> = self.phones.iter().map(|phone| (phone.home, phone.on, silent(phone))).collect();
            let house = self.running.driver.machine.dashboard(self.clock.vouched_now());
            let local = self.local();
            panic!("{local}: {state:?}, and it should be {may_be:?}; (home, on, silent) {phones:?}\n{house:#?}");
        }
        self.seen.armed += u64::from(before != ArmState::Away && state == ArmState::Away);
        self.seen.disarmed += u64::from(before == ArmState::Away && state != ArmState::Away);
        self.seen.nights += u64::from(before != ArmState::Night && state == ArmState::Night);
        if now.is_multiple_of(60) {
            let problems = self.running.driver.machine.dashboard(self.clock.vouched_now()).problems;
            for (words, times) in [("came and went", &mut self.seen.restless), ("has no connection", &mut self.seen.blind)] {
                if !problems.iter().any(|problem| problem.contains(words)) {
                    self.problems.remove(words);
                } else if self.problems.insert(words) {
                    *times += 1;
                }
            }
        }
    }
}

impl Running {
    async fn start(
        house: &House,
        own: &CoordinatorConfig,
        store: &Store,
        clock: &Clock,
        told: &watch::Sender<Sensing>,
        links: &watch::Sender<Vec<Link>>,
        dir: &std::path::Path,
    ) -> Self {
        let people = own.presence.people();
        let windows = windows::windows(&own.windows, own.zone.as_deref()).unwrap();
        let settings = settings(own, &house.coordinator, windows, people.clone());
        let kept = store.memory().await.unwrap().map(|remembered| remembered.memory);
        let (machine, effects) = Coordinator::start(settings, kept.clone(), clock.vouched_now());
        let phones = Phones::new(clock.clone(), Vec::new(), Vec::new());
        phones.belong_to(&people);
        let (probes, probed) = broadcast::channel(256);
        let roster = Roster::new(Vec::new());
        let mut driver = Driver {
            machine,
            key: house.coordinator.key().clone(),
            store: store.clone(),
            clock: clock.clone(),
            roster: roster.clone(),
            state: watch::Sender::new(None),
            probes: probes.clone(),
            sensing: told.subscribe(),
            private_devices: Vec::new(),
            tokens: Tokens::new(store.clone(), house.authority.clone(), roster, clock.clone()),
            authority: watch::Sender::new(house.authority.clone()).subscribe(),
            kept,
            owed: None,
            mail: None,
            notices: BTreeMap::new(),
            lasting: BTreeMap::new(),
            keeper: Keeper::new(dir.to_owned(), clock.clone(), None),
            arrival_hold: own.arrival_hold,
            sightings: Sightings::default(),
            written_at: Instant::now(),
            phones: phones.clone(),
            learning: JoinSet::new(),
            lookups: JoinSet::new(),
            shown: watch::Sender::new(None),
            shown_at: None,
            doors: None,
            served: watch::Sender::new(None).subscribe(),
            unserved: watch::Sender::new(None).subscribe(),
            armed: watch::Sender::new(false),
            soundless: watch::Sender::new(None).subscribe(),
        };
        driver.carry_out(effects).await.unwrap();
        let ((inputs_in, inputs), (learned_in, learned)) = (mpsc::channel(1024), mpsc::channel(256));
        let ((air, heard), (said_in, said)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let since = clock.certain() - own.sightings_for;
        let known = store.known_addresses(since).await.unwrap().into_iter().map(|(device, ip, _)| (device, ip)).collect();
        let sensors = PresenceSensors {
            config: own.presence.clone(),
            phones,
            known,
            learned: learned_in,
            probes,
            told: told.clone(),
            inputs: inputs_in,
            clock: clock.clone(),
        };
        let senses = Senses::in_air(Air { heard: Mutex::new(heard), said: said_in }, links.subscribe()).await.unwrap();
        let watch = Watch::with(sensors, senses).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(watch.run(probed));
        Self { driver, inputs, learned, said, air, _watch: task }
    }
}

#[tokio::test]
async fn for_weeks_a_family_finds_its_house_as_it_expects_it_in_every_second() {
    let of_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let weeks = of_env("DMS3_WEEKS").unwrap_or(1);
    let seed = of_env("DMS3_SEED").unwrap_or_else(|| rand::random_range(0..1 << 48));
    eprintln!("{weeks} weeks from seed {seed}");
    let mut story = Story::begin(seed).await;
    let time = StandStill::begin();
    for week in 0..weeks {
        story.week(FIRST_DAY.checked_add((7 * i64::try_from(week).unwrap()).days()).unwrap()).await;
    }
    time.end().await;
    let Seen { armed, disarmed, nights, restless, blind, most_frames, frames } = story.seen;
    eprintln!("{:?}, {} states, {:?}", story.seen, story.states.len(), story.told.borrow().frames);
    assert!(armed >= 7 * weeks && disarmed >= 6 * weeks && nights >= 6 * weeks, "{:?}", story.seen);
    assert_eq!((restless, blind), (weeks, 2 * weeks), "told once each: the dying phone, and each time the cable was out");
    assert!(frames / (weeks * 7 * 24) < FRAMES_PER_HOUR, "{frames} frames, at most {most_frames} in an hour");
    assert_eq!(story.running.driver.house().presence, Presence::Home);

    // The log tells the same.
    let logged = story.store.decisions(Timestamp(0)).await.unwrap();
    let mut states: Vec<ArmState> = logged.iter().map(|decision| decision.state).collect();
    states.dedup();
    assert!(weeks > 4 || states == story.states, "{states:?}\n{:?}", story.states);
    let everybody_left: Vec<_> = logged.iter().filter(|decision| decision.reason == "everybody left").collect();
    assert!(!everybody_left.is_empty());
    assert!(everybody_left.iter().all(|decision| decision.evidence.iter().all(|person| person.presence == Presence::Away)));
    // And is forgotten in its time.
    let (now, day) = (story.clock.certain(), Duration::from_secs(DAY));
    let heard = story.store.heard_since(Timestamp(0)).await.unwrap();
    assert!(!heard.is_empty() && heard.iter().all(|span| span.last >= now - 8 * day));
    assert!(logged.iter().all(|decision| decision.at >= now - 31 * day));
    story.store.prune(Keep::default(), now + 25 * day).await.unwrap();
    let kept = story.store.decisions(Timestamp(0)).await.unwrap();
    let young: Vec<_> = logged.into_iter().filter(|decision| decision.at >= now - 5 * day).collect();
    assert_eq!(kept, young);
    assert_eq!(story.store.heard_since(Timestamp(0)).await.unwrap(), []);
}
