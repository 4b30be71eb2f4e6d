//! The rules of coming and going: one sighting is an arrival; leaving takes silence and probes that all went unanswered.

use std::time::Duration;

use super::{Device, Person, Presence, Probe, Sensor, Urgency};
use crate::dashboard::PersonView;
use crate::time::{Mono, Now, Timestamp};

/// So many directed probes in a row, each really sent, must go unanswered before a device counts as gone.
pub const AWAY_PROBES: u32 = 12;
/// The last probes are spread over this much of `away_after`, for a phone sleeps for many seconds on end: a fifth of it, ...
const LAST_PART: u32 = 5;
/// ...a minute at most, and long enough for twelve probes a second apart, the last answer's time, and a second to spare.
const LAST_MINUTE: (Duration, Duration) = (Duration::from_secs(13), Duration::from_secs(60));
/// Probes are never closer than this.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A probe without an answer for so long is unanswered.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A device that is home and silent is asked so often at least.
const ROUTINE_EVERY: Duration = Duration::from_secs(30);
/// And so many times within `away_after`: silence then begins about when the device left, not when it happened to speak last.
const ROUTINE_IN_AWAY_AFTER: u32 = 10;
/// A device of which nothing is known yet, or that has just left, is asked so often: arriving without a word of its own is noticed too.
const LOOKOUT_EVERY: Duration = Duration::from_secs(5);
/// Who left longer ago than this is hardly coming back for his keys: he is asked rarely, since a phone that joins a network says so itself.
const JUST_LEFT: Duration = Duration::from_secs(120);
const RARELY: Duration = Duration::from_secs(45);
/// More changes than this within so long are no comings and goings of a person.
const CHANGES: usize = 3;
const CHANGES_WITHIN: Duration = Duration::from_secs(30 * 60);
/// The device behind them is taken for gone only after so much silence, which would have bridged them all, for so long.
const RESTLESS_AWAY_AFTER: Duration = CHANGES_WITHIN;
const RESTLESS_FOR: Duration = Duration::from_secs(24 * 3600);
/// Ticks come once a second. A greater pause means that nobody looked (the machine slept): what was silence then proves nothing.
const NOBODY_LOOKED: Duration = Duration::from_secs(30);
/// Ticks are never quite a second apart.
const TICK_JITTER: Duration = Duration::from_millis(200);

/// Knows of each person whether they are home, and which devices to ask now. Pure: the sensors' reports and the time come as arguments.
#[derive(Debug, Clone)]
pub struct PresenceTracker {
    people: Vec<Tracked>,
    /// Why the sensors see nothing, and since when.
    blind: Option<(String, Mono)>,
    last_tick: Mono,
}

/// A person came, left, or is no longer known to have done either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonChange {
    pub name: String,
    pub before: Presence,
    pub now: Presence,
}

#[derive(Debug, Clone)]
struct Tracked {
    name: String,
    away_after: Duration,
    counts: bool,
    devices: Vec<TrackedDevice>,
    /// What [`PresenceTracker::changes`] told last.
    told: Presence,
    /// When this one came or left last, the newest last.
    changed: Vec<Mono>,
}

#[derive(Debug, Clone)]
struct TrackedDevice {
    device: Device,
    /// The last proof ever, also from before a blindness.
    last: Option<(Timestamp, Mono, Sensor)>,
    /// Seen since the sensors can see.
    seen: bool,
    /// Last proof, or when the sensors began to see.
    silent_since: Mono,
    asked: Option<Mono>,
    /// Counted probes since then.
    unanswered: u32,
    /// When the last of the [`AWAY_PROBES`] was sent.
    burst_sent: Option<Mono>,
    /// It came and went too often: until then it has more time.
    restless_until: Option<Mono>,
}

impl PresenceTracker {
    /// Nobody is known to be home or away yet.
    pub fn new(people: Vec<Person>, now: Mono) -> Self {
        let people = people
            .into_iter()
            .map(|person| Tracked {
                name: person.name,
                away_after: person.away_after,
                counts: person.counts,
                devices: person.devices.into_iter().map(|device| TrackedDevice::new(device, now)).collect(),
                told: Presence::Unknown,
                changed: Vec::new(),
            })
            .collect();
        Self { people, blind: None, last_tick: now }
    }

    /// The device is that person's from now on. Nothing is known of it yet, so it makes nobody home, and whoever was away is not known to be.
    pub fn learn(&mut self, person: &str, device: Device, now: Mono) {
        let is_known = self.all_devices().any(|tracked| tracked.device == device);
        if let Some(person) = self.people.iter_mut().find(|known| known.name == person && !is_known) {
            person.devices.push(TrackedDevice::new(device, now));
        }
    }

    /// The device is nobody's any more, which sends nobody away: what else the person carries has its whole time from here on.
    pub fn unlearn(&mut self, device: &Device, now: Mono) {
        let blind = self.blind.is_some();
        for person in self.people.iter_mut().filter(|person| person.devices.iter().any(|tracked| tracked.device == *device)) {
            let before = person.presence(blind, now);
            person.devices.retain(|tracked| tracked.device != *device);
            if before != Presence::Away && person.presence(blind, now) == Presence::Away {
                person.devices.iter_mut().for_each(|tracked| tracked.start_anew(now));
            }
        }
    }

    /// Whether the device was looked for and not found, as of somebody who left.
    pub fn is_gone(&self, device: &Device, now: Mono) -> bool {
        let gone = |person: &Tracked| {
            let mut devices = person.devices.iter();
            devices.any(|tracked| tracked.device == *device && tracked.is_gone(tracked.away_after(person.away_after, now), now))
        };
        self.blind.is_none() && self.people.iter().any(gone)
    }

    /// A sensor has proof that the device is near. A device of nobody is ignored.
    pub fn sighting(&mut self, device: &Device, sensor: Sensor, now: Now) {
        for tracked in self.devices_mut(device) {
            tracked.last = Some((now.at, now.mono, sensor));
            tracked.seen = true;
            tracked.silent_since = tracked.silent_since.max(now.mono);
            tracked.unanswered = 0;
            tracked.burst_sent = None;
        }
    }

    /// A probe that [`Self::tick`] asked for was sent, or could not be. Nothing counts while the sensors are blind.
    pub fn probed(&mut self, device: &Device, sent: bool, now: Mono) {
        if !sent || self.blind.is_some() {
            return;
        }
        for person in &mut self.people {
            let usual = person.away_after;
            for tracked in person.devices.iter_mut().filter(|tracked| tracked.device == *device) {
                let away_after = tracked.away_after(usual, now);
                // Of a device that was seen, only the last minute counts: a routine probe that got lost four minutes ago says little.
                if !tracked.seen || tracked.in_last_minute(away_after, now) {
                    tracked.unanswered = tracked.unanswered.saturating_add(1);
                    if tracked.unanswered == AWAY_PROBES {
                        tracked.burst_sent = Some(now);
                    }
                }
            }
        }
    }

    /// The sensors lost (`Some(why)`) or regained (`None`) their sight. What was silence until then is none: it starts anew.
    pub fn blind(&mut self, why: Option<String>, now: Mono) {
        self.blind = match (self.blind.take(), why) {
            (Some((_, since)), Some(why)) => Some((why, since)),
            (None, Some(why)) => {
                self.start_anew(now);
                Some((why, now))
            }
            (Some(_), None) => {
                // A device seen during the blindness was seen all the same.
                let seen: Vec<Device> = self.all_devices().filter(|tracked| tracked.seen).map(|tracked| tracked.device.clone()).collect();
                self.start_anew(now);
                for device in &seen {
                    for tracked in self.devices_mut(device) {
                        tracked.seen = true;
                    }
                }
                None
            }
            (None, None) => None,
        };
    }

    /// Call once a second. What to ask now; the answer to each is [`Self::probed`].
    pub fn tick(&mut self, now: Mono) -> Vec<Probe> {
        if now.since(self.last_tick) > NOBODY_LOOKED {
            self.start_anew(now);
        }
        self.last_tick = self.last_tick.max(now);
        let blind = self.blind.is_some();
        let mut ask = Vec::new();
        for person in &mut self.people {
            let usual = person.away_after;
            for tracked in &mut person.devices {
                let away_after = tracked.away_after(usual, now);
                let (urgency, every) = tracked.pace(away_after, blind, now);
                if tracked.is_due(urgency, every, now) {
                    tracked.asked = Some(now);
                    ask.push(Probe { device: tracked.device.clone(), urgency });
                }
            }
        }
        ask
    }

    /// Anybody home who counts: Home. All of them proven away: Away. Else Unknown, as while the sensors are blind.
    pub fn presence(&self, now: Mono) -> Presence {
        let blind = self.blind.is_some();
        let mut all_away = self.people.iter().any(|person| person.counts);
        for person in self.people.iter().filter(|person| person.counts) {
            match person.presence(blind, now) {
                Presence::Home => return Presence::Home,
                Presence::Away => {}
                Presence::Unknown => all_away = false,
            }
        }
        if all_away { Presence::Away } else { Presence::Unknown }
    }

    /// What is known of each person, with the last proof, in the order of the config.
    pub fn person_views(&self, now: Mono) -> Vec<PersonView> {
        let blind = self.blind.is_some();
        self.people
            .iter()
            .map(|person| {
                let last =
                    person.devices.iter().filter_map(|tracked| tracked.last.map(|last| (tracked, last))).max_by_key(|(_, last)| last.1);
                PersonView {
                    name: person.name.clone(),
                    presence: person.presence(blind, now),
                    counts: person.counts,
                    last_seen: last.map(|(_, (at, _, _))| at),
                    device: last.map(|(tracked, _)| tracked.device.to_string()),
                    sensor: last.map(|(_, (_, _, sensor))| sensor),
                    devices: person.devices.len(),
                    away_secs: person.away_after.as_secs(),
                }
            })
            .collect()
    }

    /// Of each person in the order of the config.
    #[cfg(test)]
    pub(super) fn of_each(&self, now: Mono) -> impl Iterator<Item = Presence> {
        self.people.iter().map(move |person| person.presence(self.blind.is_some(), now))
    }

    /// Who came or left, of those who count, since this was asked last: each change is told once.
    pub fn changes(&mut self, now: Mono) -> Vec<PersonChange> {
        let blind = self.blind.is_some();
        let mut changes = Vec::new();
        for person in self.people.iter_mut().filter(|person| person.counts) {
            let presence = person.presence(blind, now);
            let before = std::mem::replace(&mut person.told, presence);
            if before != presence {
                if before != Presence::Unknown && presence != Presence::Unknown {
                    person.moved(now);
                }
                changes.push(PersonChange { name: person.name.clone(), before, now: presence });
            }
        }
        changes
    }

    /// Devices that came and went more than three times in half an hour, with whose they are. For a day they are taken for gone only after
    /// 30 min of silence.
    pub fn restless(&self, now: Mono) -> impl Iterator<Item = (&str, &Device)> {
        let all = self.people.iter().flat_map(|person| person.devices.iter().map(move |tracked| (person, tracked)));
        all.filter(move |(_, tracked)| tracked.is_restless(now)).map(|(person, tracked)| (person.name.as_str(), &tracked.device))
    }

    /// Why the sensors see nothing, and for how long that has been so.
    pub fn blindness(&self, now: Mono) -> Option<(&str, Duration)> {
        self.blind.as_ref().map(|(why, since)| (why.as_str(), now.since(*since)))
    }

    /// What is not known yet, or any more: everybody is to be seen, or proven away, from here on.
    fn start_anew(&mut self, now: Mono) {
        self.people.iter_mut().flat_map(|person| &mut person.devices).for_each(|tracked| tracked.start_anew(now));
    }

    fn all_devices(&self) -> impl Iterator<Item = &TrackedDevice> {
        self.people.iter().flat_map(|person| &person.devices)
    }

    fn devices_mut<'a>(&'a mut self, device: &'a Device) -> impl Iterator<Item = &'a mut TrackedDevice> {
        self.people.iter_mut().flat_map(|person| &mut person.devices).filter(move |tracked| tracked.device == *device)
    }
}

impl Tracked {
    /// Came or left. Of somebody who does so too often, the device that was heard last is to blame.
    fn moved(&mut self, now: Mono) {
        self.changed.retain(|at| now.since(*at) < CHANGES_WITHIN);
        self.changed.push(now);
        if self.changed.len() <= CHANGES {
            return;
        }
        self.changed.clear();
        if let Some(device) = self.devices.iter_mut().max_by_key(|tracked| tracked.last.map(|(_, mono, _)| mono)) {
            device.restless_until = Some(now + RESTLESS_FOR);
        }
    }

    fn presence(&self, blind: bool, now: Mono) -> Presence {
        let gone = |tracked: &TrackedDevice| !blind && tracked.is_gone(tracked.away_after(self.away_after, now), now);
        if self.devices.iter().any(|tracked| tracked.seen && !gone(tracked)) {
            Presence::Home
        } else if !self.devices.is_empty() && self.devices.iter().all(gone) {
            Presence::Away
        } else {
            Presence::Unknown
        }
    }
}

impl TrackedDevice {
    fn new(device: Device, now: Mono) -> Self {
        Self { device, last: None, seen: false, silent_since: now, asked: None, unanswered: 0, burst_sent: None, restless_until: None }
    }

    /// What is not known of it yet, or any more.
    fn start_anew(&mut self, now: Mono) {
        self.seen = false;
        self.silent_since = now;
        self.asked = None;
        self.unanswered = 0;
        self.burst_sent = None;
    }

    fn away_after(&self, usual: Duration, now: Mono) -> Duration {
        if self.is_restless(now) { usual.max(RESTLESS_AWAY_AFTER) } else { usual }
    }

    fn is_restless(&self, now: Mono) -> bool {
        self.restless_until.is_some_and(|until| now < until)
    }

    /// Silent for long enough, and all of the last probes went unanswered.
    fn is_gone(&self, away_after: Duration, now: Mono) -> bool {
        now.since(self.silent_since) >= away_after && self.burst_sent.is_some_and(|sent| now.since(sent) >= ANSWER_WITHIN)
    }

    fn in_last_minute(&self, away_after: Duration, now: Mono) -> bool {
        now.since(self.silent_since) >= away_after.saturating_sub(last_minute(away_after))
    }

    /// How this device is asked now, and how often.
    fn pace(&self, away_after: Duration, blind: bool, now: Mono) -> (Urgency, Duration) {
        if blind {
            (Urgency::Lookout, LOOKOUT_EVERY)
        } else if self.is_gone(away_after, now) {
            let just_left = self.last.is_some() && now.since(self.silent_since) < away_after + JUST_LEFT;
            (Urgency::Lookout, if just_left { LOOKOUT_EVERY } else { RARELY })
        } else if self.in_last_minute(away_after, now) {
            // Whole seconds, for that is how often this is asked.
            let every = Duration::from_secs((last_minute(away_after) / AWAY_PROBES).as_secs());
            (Urgency::Deciding, every.max(PROBE_EVERY))
        } else if self.seen {
            (Urgency::Routine, ROUTINE_EVERY.min(away_after / ROUTINE_IN_AWAY_AFTER).max(PROBE_EVERY))
        } else {
            (Urgency::Deciding, LOOKOUT_EVERY)
        }
    }

    fn is_due(&self, urgency: Urgency, every: Duration, now: Mono) -> bool {
        // A sighting is as good as a question.
        let seen = self.last.filter(|_| self.seen && urgency == Urgency::Routine).map(|(_, mono, _)| mono);
        match self.asked.max(seen) {
            Some(last) => now.since(last) + TICK_JITTER >= every,
            None => true,
        }
    }
}

/// The part of `away_after`, at its end, over which the [`AWAY_PROBES`] are spread.
fn last_minute(away_after: Duration) -> Duration {
    (away_after / LAST_PART).clamp(LAST_MINUTE.0, LAST_MINUTE.1)
}

#[cfg(test)]
mod tests {
    use super::super::MacAddr;
    use super::*;

    fn phone(n: u8) -> Device {
        Device::Mac(MacAddr([0x24, 0xda, 0x9b, 0, 0, n]))
    }

    fn person(name: &str, devices: &[u8], away_after: u64) -> Person {
        let devices = devices.iter().map(|n| phone(*n)).collect();
        Person { name: name.into(), devices, away_after: Duration::from_secs(away_after), counts: true }
    }

    /// A network: which phones are near, whether our probes get out, and a clock that is turned by hand.
    struct Lan {
        tracker: PresenceTracker,
        now: Mono,
        near: Vec<Device>,
        probes_get_out: bool,
        asked: Vec<(u64, Device)>,
    }

    impl Lan {
        fn of(people: Vec<Person>) -> Self {
            let now = Mono(1_000_000);
            Self { tracker: PresenceTracker::new(people, now), now, near: Vec::new(), probes_get_out: true, asked: Vec::new() }
        }

        fn now(&self) -> Now {
            Now { at: Timestamp(self.now.0 + 1_700_000_000_000), mono: self.now, trusted: true }
        }

        fn heard(&mut self, n: u8) {
            let now = self.now();
            self.tracker.sighting(&phone(n), Sensor::ArpHeard, now);
        }

        fn second(&mut self) {
            self.now = self.now + Duration::from_secs(1);
            for Probe { device, .. } in self.tracker.tick(self.now) {
                self.asked.push((self.now.0, device.clone()));
                self.tracker.probed(&device, self.probes_get_out, self.now);
                if self.probes_get_out && self.near.contains(&device) {
                    let now = self.now();
                    self.tracker.sighting(&device, Sensor::ArpProbe, now);
                }
            }
        }

        fn seconds(&mut self, n: u64) {
            for _ in 0..n {
                self.second();
            }
        }

        /// How long until presence is that, at most `limit` seconds.
        fn seconds_until(&mut self, presence: Presence, limit: u64) -> Option<u64> {
            (0..=limit).find(|n| {
                if *n > 0 {
                    self.second();
                }
                self.presence() == presence
            })
        }

        fn presence(&self) -> Presence {
            self.tracker.presence(self.now)
        }

        fn presence_of(&self, name: &str) -> Presence {
            self.tracker.person_views(self.now).into_iter().find(|view| view.name == name).unwrap().presence
        }
    }

    #[test]
    fn the_phone_in_the_driveway_is_home_at_once() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
        assert_eq!(lan.seconds_until(Presence::Away, 400), Some(300));
        lan.heard(1);
        assert_eq!(lan.presence(), Presence::Home);
    }

    #[test]
    fn just_started_nobody_is_home_or_away() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
        assert_eq!(lan.presence(), Presence::Unknown);
        lan.seconds(299);
        assert_eq!(lan.presence(), Presence::Unknown);
        lan.seconds(1);
        assert_eq!(lan.presence(), Presence::Away);
    }

    #[test]
    fn a_phone_at_home_is_found_with_the_first_tick() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
        lan.near.push(phone(1));
        lan.second();
        assert_eq!(lan.presence(), Presence::Home);
    }

    #[test]
    fn a_phone_that_comes_and_goes_all_the_time_has_half_an_hour_for_a_day_and_nobody_else_has() {
        let mut lan = Lan::of(vec![person("Anna", &[1, 2], 60), person("Ben", &[3], 60)]);
        let turn = |lan: &mut Lan| {
            lan.heard(1);
            let _ = lan.tracker.changes(lan.now);
            lan.seconds_until(Presence::Away, 4000).unwrap();
            let _ = lan.tracker.changes(lan.now);
        };
        lan.seconds_until(Presence::Away, 400).unwrap();
        let _ = lan.tracker.changes(lan.now);
        turn(&mut lan);
        lan.heard(1);
        let _ = lan.tracker.changes(lan.now);
        assert_eq!(lan.tracker.restless(lan.now).count(), 0, "three changes are a person in a hurry");
        lan.seconds_until(Presence::Away, 100).unwrap();
        let _ = lan.tracker.changes(lan.now);
        assert_eq!(lan.tracker.restless(lan.now).collect::<Vec<_>>(), [("Anna", &phone(1))]);

        lan.heard(1);
        assert!((1800..1806).contains(&lan.seconds_until(Presence::Away, 2000).unwrap()), "its silence says little now");
        lan.heard(2);
        lan.heard(3);
        assert!((60..66).contains(&lan.seconds_until(Presence::Away, 100).unwrap()), "of the other devices it says as much as ever");
        lan.seconds(24 * 3600);
        assert_eq!(lan.tracker.restless(lan.now).count(), 0);
        lan.heard(1);
        assert!((60..66).contains(&lan.seconds_until(Presence::Away, 100).unwrap()));
    }

    #[test]
    fn a_departure_is_noticed_within_five_seconds_of_away_after() {
        for away_after in [15, 20, 60, 300, 3600] {
            let mut lan = Lan::of(vec![person("Anna", &[1], away_after)]);
            lan.heard(1);
            let took = lan.seconds_until(Presence::Away, away_after + 10).unwrap();
            assert!((away_after..=away_after + 5).contains(&took), "away_after {away_after}: {took}");
        }
    }

    #[test]
    fn a_silent_phone_that_answers_stays_home_and_is_asked_rarely() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
        lan.near.push(phone(1));
        for _ in 0..3600 {
            lan.second();
            assert_eq!(lan.presence(), Presence::Home);
        }
        assert!((115..=125).contains(&lan.asked.len()), "{}", lan.asked.len());
    }

    #[test]
    fn a_phone_that_was_home_until_now_is_not_away_much_earlier_than_a_talkative_one() {
        for away_after in [30, 60, 300, 3600] {
            for home in [100, 107, 119, 131] {
                let mut lan = Lan::of(vec![person("Anna", &[1], away_after)]);
                lan.near.push(phone(1));
                lan.seconds(away_after + home);
                lan.near.clear();
                let took = lan.seconds_until(Presence::Away, away_after + 10).unwrap();
                let early = (away_after / 10).min(30) + 1;
                assert!((away_after - early..=away_after + 5).contains(&took), "away_after {away_after}: {took}");
            }
        }
    }

    #[test]
    fn one_missed_probe_never_arms() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
        lan.heard(1);
        lan.tracker.probed(&phone(1), true, lan.now);
        for _ in 0..100 {
            lan.now = lan.now + Duration::from_secs(20);
            let _ = lan.tracker.tick(lan.now);
            assert_eq!(lan.presence(), Presence::Home);
        }
    }

    #[test]
    fn eleven_unanswered_probes_are_not_twelve() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        for _ in 0..70 {
            lan.now = lan.now + Duration::from_secs(1);
            let _ = lan.tracker.tick(lan.now);
        }
        for _ in 0..11 {
            lan.tracker.probed(&phone(1), true, lan.now);
        }
        assert_eq!(lan.tracker.presence(lan.now + Duration::from_secs(20)), Presence::Home);
        lan.tracker.probed(&phone(1), true, lan.now);
        assert_eq!(lan.presence(), Presence::Home, "the twelfth has its second to be answered");
        assert_eq!(lan.tracker.presence(lan.now + Duration::from_secs(1)), Presence::Away);
    }

    #[test]
    fn probes_before_the_last_burst_do_not_count() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
        lan.heard(1);
        for _ in 0..50 {
            lan.tracker.probed(&phone(1), true, lan.now);
        }
        for _ in 0..301 {
            lan.now = lan.now + Duration::from_secs(1);
            let _ = lan.tracker.tick(lan.now);
        }
        assert_eq!(lan.presence(), Presence::Home);
    }

    #[test]
    fn the_twelfth_answer_starts_silence_anew() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        lan.seconds(59);
        lan.heard(1);
        lan.seconds(58);
        assert_eq!(lan.presence(), Presence::Home);
        assert_eq!(lan.seconds_until(Presence::Away, 10), Some(2));
    }

    #[test]
    fn probes_that_could_not_be_sent_prove_nothing() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        lan.probes_get_out = false;
        lan.seconds(3600);
        assert_eq!(lan.presence(), Presence::Home);
        lan.probes_get_out = true;
        lan.seconds(11);
        assert_eq!(lan.presence(), Presence::Home);
        assert!(lan.seconds_until(Presence::Away, 3).is_some());
    }

    #[test]
    fn blind_is_not_away_and_seeing_again_starts_silence_anew() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        lan.seconds(58);
        lan.tracker.blind(Some("no network".into()), lan.now);
        assert_eq!(lan.presence(), Presence::Unknown);
        lan.seconds(600);
        assert_eq!(lan.presence(), Presence::Unknown);
        assert_eq!(lan.tracker.blindness(lan.now), Some(("no network", Duration::from_secs(600))));
        lan.tracker.blind(None, lan.now);
        assert_eq!(lan.presence(), Presence::Unknown);
        lan.seconds(59);
        assert_eq!(lan.presence(), Presence::Unknown, "the whole away_after counts from the return of sight");
        assert!(lan.seconds_until(Presence::Away, 5).is_some());
    }

    #[test]
    fn an_empty_house_whose_sensors_go_blind_is_no_longer_known_to_be_empty() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        lan.tracker.blind(Some("no network".into()), lan.now);
        assert_eq!(lan.presence(), Presence::Unknown);
        lan.tracker.blind(Some("still none".into()), lan.now + Duration::from_secs(5));
        assert_eq!(lan.tracker.blindness(lan.now + Duration::from_secs(7)), Some(("still none", Duration::from_secs(7))));
    }

    #[test]
    fn who_is_seen_while_the_sensors_are_blind_is_home() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.tracker.blind(Some("the gateway does not answer".into()), lan.now);
        lan.heard(1);
        assert_eq!(lan.presence(), Presence::Home);
        lan.tracker.blind(None, lan.now);
        assert_eq!(lan.presence(), Presence::Home);
        assert!(lan.seconds_until(Presence::Away, 65).is_some());
    }

    #[test]
    fn sight_that_comes_and_goes_never_arms() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        for _ in 0..50 {
            lan.seconds(55);
            assert_ne!(lan.presence(), Presence::Away);
            lan.tracker.blind(Some("no network".into()), lan.now);
            lan.seconds(1);
            lan.tracker.blind(None, lan.now);
        }
        assert_eq!(lan.presence(), Presence::Unknown);
    }

    #[test]
    fn a_machine_that_slept_looks_again_before_it_says_away() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        lan.seconds(50);
        lan.now = lan.now + Duration::from_secs(8 * 3600);
        lan.second();
        assert_eq!(lan.presence(), Presence::Unknown);
        lan.seconds(58);
        assert_eq!(lan.presence(), Presence::Unknown);
    }

    #[test]
    fn a_person_with_a_phone_and_a_watch_is_home_while_either_is() {
        let mut lan = Lan::of(vec![person("Anna", &[1, 2], 60)]);
        lan.near.push(phone(2));
        lan.heard(1);
        lan.seconds(600);
        assert_eq!(lan.presence_of("Anna"), Presence::Home);
        lan.near.clear();
        assert!(lan.seconds_until(Presence::Away, 95).is_some());
    }

    #[test]
    fn a_phone_left_at_home_is_missed_only_when_the_other_is_proven_away_too() {
        let mut lan = Lan::of(vec![person("Anna", &[1, 2], 60)]);
        lan.heard(1);
        lan.seconds(40);
        lan.heard(2);
        lan.seconds(58);
        assert_eq!(lan.presence(), Presence::Home, "the watch was seen 58 seconds ago");
        assert!(lan.seconds_until(Presence::Away, 5).is_some());
    }

    #[test]
    fn each_person_has_their_own_patience() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 30), person("Ben", &[2], 300)]);
        lan.heard(1);
        lan.heard(2);
        lan.seconds(35);
        assert_eq!((lan.presence_of("Anna"), lan.presence_of("Ben")), (Presence::Away, Presence::Home));
        assert_eq!(lan.presence(), Presence::Home);
        assert!(lan.seconds_until(Presence::Away, 270).is_some());
    }

    #[test]
    fn somebody_unknown_keeps_an_otherwise_empty_house_unknown() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 30), person("Ben", &[2], 300)]);
        lan.seconds(100);
        assert_eq!((lan.presence_of("Anna"), lan.presence_of("Ben")), (Presence::Away, Presence::Unknown));
        assert_eq!(lan.presence(), Presence::Unknown);
    }

    #[test]
    fn a_phone_that_has_just_left_is_looked_for_every_few_seconds_and_later_rarely() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        lan.heard(1);
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        lan.seconds(60);
        lan.near.push(phone(1));
        assert!(lan.seconds_until(Presence::Home, 5).is_some());
        lan.near.clear();
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        lan.seconds(300);
        lan.asked.clear();
        lan.seconds(3600);
        assert!((75..=81).contains(&lan.asked.len()), "{}", lan.asked.len());
        lan.near.push(phone(1));
        assert!(lan.seconds_until(Presence::Home, 46).is_some());
    }

    #[test]
    fn a_tablet_that_does_not_count_is_shown_and_neither_holds_the_house_open_nor_opens_it() {
        let tablet = Person { counts: false, ..person("Tablet", &[2], 60) };
        let mut lan = Lan::of(vec![person("Anna", &[1], 60), tablet]);
        lan.near.push(phone(2));
        lan.heard(1);
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        assert_eq!((lan.presence_of("Anna"), lan.presence_of("Tablet")), (Presence::Away, Presence::Home));
        assert!(lan.tracker.changes(lan.now).iter().all(|change| change.name == "Anna"));
        lan.heard(2);
        assert_eq!(lan.presence(), Presence::Away);
        lan.heard(1);
        assert_eq!(lan.presence(), Presence::Home);
        // Of a house of tablets nothing is known.
        let mut lan = Lan::of(vec![Person { counts: false, ..person("Tablet", &[2], 60) }]);
        lan.seconds(600);
        assert_eq!((lan.presence(), lan.presence_of("Tablet")), (Presence::Unknown, Presence::Away));
    }

    #[test]
    fn the_last_twelve_probes_are_spread_over_the_last_minute() {
        for (away_after, begins, every) in [(300, 240, 5), (3600, 3540, 5), (120, 96, 2), (60, 47, 1)] {
            let mut lan = Lan::of(vec![person("Anna", &[1], away_after)]);
            lan.heard(1);
            let start = lan.now.0;
            assert_eq!(lan.seconds_until(Presence::Away, away_after + 5), Some(away_after));
            let asked: Vec<u64> =
                lan.asked.iter().map(|(at, _)| (at - start) / 1000).filter(|at| (begins..away_after).contains(at)).collect();
            assert_eq!(asked, (begins..away_after).step_by(every).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_phone_that_sleeps_four_minutes_of_every_five_never_arms_the_house_in_a_day() {
        for awake in [35, 60] {
            let mut lan = Lan::of(vec![person("Anna", &[1], 300)]);
            for second in 0..86_400 {
                // It says nothing by itself even when it is awake.
                lan.near = if second % 300 < awake { vec![phone(1)] } else { Vec::new() };
                lan.second();
                assert_ne!(lan.presence(), Presence::Away, "second {second}, awake for {awake} s");
            }
        }
    }

    #[test]
    fn a_visitors_phone_changes_nothing() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60)]);
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        lan.heard(9);
        assert_eq!(lan.presence(), Presence::Away);
    }

    #[test]
    fn without_people_nothing_is_known() {
        let mut lan = Lan::of(Vec::new());
        lan.seconds(600);
        assert_eq!(lan.presence(), Presence::Unknown);
    }

    #[test]
    fn a_phone_that_was_learned_is_nobodys_arrival_before_it_is_heard_and_then_it_is() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60), person("Ben", &[3], 60)]);
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        lan.tracker.learn("Anna", phone(2), lan.now);
        assert_eq!((lan.presence_of("Anna"), lan.presence_of("Ben")), (Presence::Unknown, Presence::Away));
        lan.tracker.learn("Ben", phone(2), lan.now);
        lan.tracker.learn("Eve", phone(9), lan.now);
        lan.heard(9);
        assert_eq!(lan.presence(), Presence::Unknown, "nobody has two owners, and nobody is who lives elsewhere");
        lan.heard(2);
        assert_eq!((lan.presence_of("Anna"), lan.presence_of("Ben")), (Presence::Home, Presence::Away));
        assert!((60..66).contains(&lan.seconds_until(Presence::Away, 70).unwrap()));
        assert!(lan.tracker.is_gone(&phone(2), lan.now) && !lan.tracker.is_gone(&phone(9), lan.now));
    }

    #[test]
    fn a_phone_that_is_taken_from_somebody_leaves_what_is_known_of_the_others_and_sends_nobody_away() {
        let mut lan = Lan::of(vec![person("Anna", &[1, 2], 60), person("Ben", &[3], 60)]);
        lan.heard(1);
        lan.heard(2);
        lan.tracker.unlearn(&phone(2), lan.now);
        assert_eq!(lan.presence_of("Anna"), Presence::Home);
        assert!(lan.seconds_until(Presence::Away, 70).is_some());
        lan.tracker.learn("Anna", phone(2), lan.now);
        lan.heard(2);
        lan.seconds(10);
        lan.tracker.unlearn(&phone(2), lan.now);
        assert_eq!(lan.presence_of("Anna"), Presence::Unknown, "she was home by it just now");
        lan.heard(2);
        assert_eq!(lan.presence_of("Anna"), Presence::Unknown, "it is nobody's");
        assert!((60..66).contains(&lan.seconds_until(Presence::Away, 70).unwrap()));
    }

    /// Thousands of days in which devices come, go, are learned and forgotten, and sensors go blind.
    #[test]
    fn learning_and_forgetting_devices_makes_nobody_home_and_nobody_away() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in 0..2000 {
            let mut chance = rand::rngs::StdRng::seed_from_u64(seed);
            let mut lan = Lan::of(vec![person("Anna", &[1, 2], 20), person("Ben", &[3], 30)]);
            let of = |lan: &Lan| ["Anna", "Ben"].map(|name| lan.presence_of(name));
            for _ in 0..60 {
                let n = chance.random_range(1..8);
                match chance.random_range(0..6) {
                    0 => lan.near.push(phone(n)),
                    1 => lan.near.clear(),
                    2 => lan.heard(n),
                    3 => lan.tracker.blind(chance.random_bool(0.3).then(|| "no network".to_owned()), lan.now),
                    4 => lan.seconds(chance.random_range(1..40)),
                    _ => {
                        let before = of(&lan);
                        if chance.random_bool(0.5) {
                            lan.tracker.learn(if chance.random_bool(0.5) { "Anna" } else { "Ben" }, phone(n), lan.now);
                        } else {
                            lan.tracker.unlearn(&phone(n), lan.now);
                        }
                        for (before, now) in before.into_iter().zip(of(&lan)) {
                            assert!(now == before || now == Presence::Unknown, "{before:?} became {now:?} (seed {seed})");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn each_coming_and_going_is_told_once() {
        let mut lan = Lan::of(vec![person("Anna", &[1], 60), person("Ben", &[2], 60)]);
        lan.near.push(phone(2));
        lan.heard(1);
        lan.second();
        let told = lan.tracker.changes(lan.now);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0], PersonChange { name: "Anna".into(), before: Presence::Unknown, now: Presence::Home });
        assert_eq!(lan.tracker.changes(lan.now), []);
        lan.seconds(65);
        assert_eq!(lan.tracker.changes(lan.now), [PersonChange { name: "Anna".into(), before: Presence::Home, now: Presence::Away }]);
        assert_eq!(lan.tracker.changes(lan.now), []);
    }

    #[test]
    fn a_view_says_which_device_gave_the_last_proof() {
        let mut lan = Lan::of(vec![person("Anna", &[1, 2], 60)]);
        assert_eq!(lan.tracker.person_views(lan.now)[0].last_seen, None);
        lan.heard(1);
        lan.seconds(3);
        lan.heard(2);
        let at = lan.now().at;
        lan.tracker.blind(Some("no network".into()), lan.now);
        let view = lan.tracker.person_views(lan.now).remove(0);
        assert_eq!(view.last_seen, Some(at), "blindness forgets nothing that was seen");
        assert_eq!(view.device, Some(phone(2).to_string()));
        assert_eq!(view.sensor, Some(Sensor::ArpHeard));
        assert_eq!(view.presence, Presence::Unknown);
    }
}
