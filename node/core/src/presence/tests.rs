//! Made-up days of families: phones come, go, sleep, and lose what is said to them; sensors go blind; the machine sleeps. Whatever happens,
//! nobody is away who was heard within his time, nobody home after silence and probes, and the same day is decided the same way again.
//!
//! `DMS3_DAYS` says how many (100): half of them always the same, half from a seed that is drawn anew each time. A failure prints its seed,
//! and `DMS3_DAYS=1 DMS3_SEED=…` tells that day.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{AWAY_PROBES, Device, MacAddr, Person, Presence, PresenceTracker, Probe, Sensor};
use crate::time::{Mono, Now, Timestamp};

const DAY: u64 = 86_400;
/// Probes come once a second at most, and each has its time to be answered.
const SPARE: Duration = Duration::from_secs(20);

#[test]
fn in_no_day_is_anybody_away_who_was_heard_or_home_who_was_silent_and_asked() {
    let of_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = of_env("DMS3_DAYS").unwrap_or(100);
    let (first, drawn) = of_env("DMS3_SEED").map_or_else(|| (1, rand::random_range(1 << 32..1 << 48)), |seed| (seed, seed + count / 2));
    eprintln!("{count} days: from seed {first}, and from seed {drawn}");
    let half = count.div_ceil(2);
    let mut seen = Seen::default();
    for nth in 0..count {
        let seed = if nth < half { first + nth } else { drawn + nth - half };
        let told = day(seed, &mut seen);
        if nth % 10 == 0 {
            assert_eq!(day(seed, &mut Seen::default()), told, "day {seed} was decided in another way");
        }
    }
    eprintln!("{seen:?}");
    let Seen { departures, arrivals, blindnesses, slept, late_answers } = seen;
    for (what, n) in [
        ("departures", departures),
        ("arrivals", arrivals),
        ("blindnesses", blindnesses),
        ("sleeps of the machine", slept),
        ("late answers", late_answers),
    ] {
        assert!(n * 5 >= count || count < 100, "only {n} {what} in {count} days");
    }
}

/// What came up at all.
#[derive(Debug, Default)]
struct Seen {
    departures: u64,
    arrivals: u64,
    blindnesses: u64,
    slept: u64,
    /// After many questions in vain.
    late_answers: u64,
}

struct Phone {
    device: Device,
    /// Of its person.
    away_after: Duration,
    home: bool,
    moves_at: u64,
    awake: bool,
    turns_at: u64,
    /// It says something by itself, if it is awake, at such random distances; none: never.
    talks: Option<u64>,
    talks_at: u64,
    /// Longest time that it sleeps.
    sleeps: u64,
    heard: Option<Mono>,
    /// Questions that got out since then.
    asked: u32,
    unsent: Mono,
}

/// What was decided in it, second by second, as one number.
fn day(seed: u64, seen: &mut Seen) -> u64 {
    let _told = Told(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now = Mono(rng.random_range(0..1 << 40));
    let start = now;
    let mut people = Vec::new();
    let mut phones = Vec::new();
    for person in 0..rng.random_range(1..=3u8) {
        let away_after = Duration::from_secs([15, 60, 300, 300, 900][rng.random_range(0..5)]);
        let devices: Vec<Device> = (0..rng.random_range(1..=2u8)).map(|n| Device::Mac(MacAddr([0x24, 0, 0, 0, person, n]))).collect();
        for device in &devices {
            phones.push(Phone {
                device: device.clone(),
                away_after,
                home: rng.random_bool(0.7),
                moves_at: rng.random_range(0..DAY / 4),
                awake: true,
                turns_at: 0,
                talks: [None, None, Some(100), Some(10)][rng.random_range(0..4)],
                talks_at: 0,
                sleeps: rng.random_range(1..=away_after.as_secs() * 2),
                heard: None,
                asked: 0,
                unsent: start,
            });
        }
        people.push(Person { name: format!("person {person}"), devices, away_after, counts: person == 0 || rng.random_bool(0.8) });
    }
    let counts: Vec<bool> = people.iter().map(|person| person.counts).collect();
    let owned: Vec<Vec<Device>> = people.iter().map(|person| person.devices.clone()).collect();
    let mut tracker = PresenceTracker::new(people, now);
    let (loss, unsent) = ([0.0, 0.05, 0.2, 0.5][rng.random_range(0..4)], [0.0, 0.0, 0.01][rng.random_range(0..3)]);
    let (mut blind, mut sees_since) = (false, now);
    let (mut sleeps_at, mut turns_at) = (rng.random_range(1..DAY), rng.random_range(1..DAY / 2));
    let mut decided = DefaultHasher::new();
    let mut before = Presence::Unknown;
    for second in 0..DAY {
        now = now + Duration::from_secs(1);
        if second >= sleeps_at {
            sleeps_at = second + rng.random_range(1..DAY);
            now = now + Duration::from_secs(rng.random_range(40..7200));
            sees_since = now;
            seen.slept += 1;
        }
        if second >= turns_at {
            blind = !blind;
            turns_at = second + rng.random_range(1..if blind { 200 } else { DAY / 2 });
            tracker.blind(blind.then(|| "the cable is out".to_owned()), now);
            sees_since = now;
            seen.blindnesses += u64::from(blind);
        }
        for phone in &mut phones {
            if second >= phone.moves_at {
                phone.home = !phone.home;
                phone.moves_at = second + if rng.random_bool(0.2) { rng.random_range(1..120) } else { rng.random_range(600..DAY / 3) };
            }
            if second >= phone.turns_at {
                phone.awake = !phone.awake;
                phone.turns_at = second + if phone.awake { rng.random_range(1..60) } else { rng.random_range(1..=phone.sleeps) };
            }
            if let Some(every) = phone.talks.filter(|_| second >= phone.talks_at) {
                phone.talks_at = second + rng.random_range(1..=every);
                if phone.home && phone.awake {
                    heard(&mut tracker, phone, Sensor::ArpHeard, now, seen);
                }
            }
        }
        for Probe { device, .. } in tracker.tick(now) {
            let sent = !blind && !rng.random_bool(unsent);
            tracker.probed(&device, sent, now);
            let Some(phone) = phones.iter_mut().find(|phone| phone.device == device) else { panic!("{device} is nobody's") };
            if !sent {
                phone.unsent = now;
                continue;
            }
            phone.asked += 1;
            if phone.home && phone.awake && !rng.random_bool(loss) {
                heard(&mut tracker, phone, Sensor::ArpProbe, now, seen);
            }
        }
        let each: Vec<Presence> = tracker.of_each(now).collect();
        for (presence, owned) in each.iter().zip(&owned) {
            let own = || phones.iter().filter(|phone| owned.contains(&phone.device));
            if *presence == Presence::Away {
                for phone in own() {
                    let silent = now.since(phone.heard.unwrap_or(start).max(sees_since));
                    assert!(!blind && silent >= phone.away_after, "{silent:?} after {} its person is away", phone.device);
                    assert!(phone.asked >= AWAY_PROBES, "{} was asked {} times, and its person is away", phone.device, phone.asked);
                }
            }
            let must_be_gone =
                |phone: &Phone| now.since(phone.heard.unwrap_or(start).max(sees_since).max(phone.unsent)) >= phone.away_after + SPARE;
            assert!(blind || *presence == Presence::Away || !own().all(must_be_gone), "{presence:?}, after silence and probes: {owned:?}");
        }
        let of_those_who_count = || each.iter().zip(&counts).filter(|(_, counts)| **counts).map(|(presence, _)| *presence);
        let house = tracker.presence(now);
        assert_eq!(house == Presence::Home, of_those_who_count().any(|presence| presence == Presence::Home));
        assert_eq!(house == Presence::Away, of_those_who_count().all(|presence| presence == Presence::Away));
        seen.departures += u64::from(house == Presence::Away && before == Presence::Home);
        seen.arrivals += u64::from(house == Presence::Home && before == Presence::Away);
        before = house;
        each.hash(&mut decided);
    }
    decided.finish()
}

fn heard(tracker: &mut PresenceTracker, phone: &mut Phone, sensor: Sensor, mono: Mono, seen: &mut Seen) {
    tracker.sighting(&phone.device, sensor, Now { at: Timestamp(mono.0 + 1_700_000_000_000), mono, trusted: true });
    seen.late_answers += u64::from((8..AWAY_PROBES).contains(&phone.asked));
    (phone.heard, phone.asked) = (Some(mono), 0);
}

/// Says which day failed.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("day {0} failed: DMS3_DAYS=1 DMS3_SEED={0} tells it", self.0);
        }
    }
}
