//! Random streams of inputs, crashes among them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Events that a mail tells of or counts.
pub(super) fn events_in(effect: &Effect) -> u32 {
    let (own, held_back) = match effect {
        Effect::EventMail { held_back, .. } => (1, held_back),
        Effect::Digest(digest) => (digest.movements.len() as u32 + digest.more, &digest.held_back),
        Effect::ClipMail { held_back, .. } | Effect::FaultMail { held_back, .. } => (0, held_back),
        Effect::Arrived { .. } => return 0,
    };
    own + held_back.map_or(0, |held_back| held_back.events)
}

/// The ids that a mail names.
fn named_in(effect: &Effect) -> Vec<EventId> {
    match effect {
        Effect::EventMail { movement, .. } => vec![movement.event],
        Effect::Digest(digest) => digest.movements.iter().map(|movement| movement.event).collect(),
        _ => Vec::new(),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The event of this number, as far as it got: with a picture, with a clip, ended.
    Event {
        n: u32,
        picture: bool,
        clip: bool,
        ended: bool,
    },
    Wait(u64),
    Fault(u8),
    FaultOver(u8),
    Once,
    Arrival {
        ago: u64,
    },
    Crash,
    Reboot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..200_u32, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(n, picture, clip, ended)| Step::Event { n, picture, clip, ended }),
        6 => (1..40_u64).prop_map(|quarters| Step::Wait(quarters * 250)),
        2 => (1..8000_u64).prop_map(|quarters| Step::Wait(quarters * 250)),
        1 => (0..4_u8).prop_map(Step::Fault),
        1 => (0..4_u8).prop_map(Step::FaultOver),
        1 => Just(Step::Once),
        1 => (0..60_000_u64).prop_map(|ago| Step::Arrival { ago }),
        1 => Just(Step::Crash),
        1 => Just(Step::Reboot),
    ];
    proptest::collection::vec(step, 1..400)
}

fn settings() -> impl Strategy<Value = Settings> {
    (1..8_u32, 0..4_u32, prop_oneof![Just(0), 0..60_u64], 0..300_u64).prop_map(|(cap, kept_for_faults, hold, cooldown)| {
        let porch = Rule { cooldown: Duration::from_secs(cooldown), ..Rule::default() };
        let flat = Rule { recipients: vec!["tenant".to_owned()], states: vec![ArmState::Away], ..Rule::default() };
        let cameras = BTreeMap::from([("camera 0".to_owned(), porch), ("camera 1".to_owned(), flat)]);
        Settings { cap, kept_for_faults, hold: Duration::from_secs(hold), hold_in: vec![ArmState::Away], cameras, ..house() }
    })
}

/// Number `n` is always of the same camera, state and hour; it starts when it is first seen.
fn numbered(n: u32, started: u64) -> Event {
    let event = event(n, &format!("camera {}", n % 5), started);
    in_state(event, [ArmState::Away, ArmState::Night, ArmState::Away, ArmState::Disarmed][(n / 5 % 4) as usize])
}

fn to_be_told(settings: &Settings, event: &Event) -> bool {
    event.state.is_armed() && settings.rule(&event.source).states.contains(&event.state)
}

/// What came in, as the family would list it.
#[derive(Default)]
struct Witness {
    started: BTreeMap<u32, u64>,
    to_tell: BTreeSet<EventId>,
}

impl Witness {
    fn step(&mut self, house: &mut House, step: &Step) {
        match *step {
            Step::Event { n, picture, clip: with_clip, ended } => {
                let started = *self.started.entry(n).or_insert(house.time);
                let mut event = numbered(n, started);
                event.ended = ended.then_some(Timestamp(T + house.time));
                if picture {
                    event = with(event, AttachmentKind::Picture, 1);
                }
                if with_clip {
                    event = clip(event);
                }
                if to_be_told(&house.settings, &event) {
                    self.to_tell.insert(event.id);
                }
                house.sees(&event);
            }
            Step::Wait(ms) => drop(house.waits(ms)),
            Step::Fault(n) => drop(house.fault(&n.to_string())),
            Step::FaultOver(n) => drop(house.fault_over(&n.to_string())),
            Step::Once => drop(house.happens("token")),
            Step::Arrival { ago } => {
                let to = Timestamp(T + house.time);
                house.gets(Input::Arrival { from: to - Duration::from_millis(ago), to });
            }
            Step::Crash => house.crashes(),
            Step::Reboot => house.reboots(),
        }
    }

    fn is_content(&self, house: &House) -> Result<(), TestCaseError> {
        let told: Vec<_> = house.told.iter().flat_map(|(_, effect)| named_in(effect)).collect();
        let arrivals = house.told.iter().filter_map(|(_, effect)| match effect {
            Effect::Arrived { events } => Some(events.clone()),
            _ => None,
        });
        let arrived = arrivals.collect::<Vec<_>>().concat();
        let once: BTreeSet<_> = told.iter().chain(&arrived).copied().collect();
        prop_assert_eq!(once.len(), told.len() + arrived.len(), "told twice");
        prop_assert!(once.is_subset(&self.to_tell), "told what is not to be told");
        let counted: u32 = house.told.iter().map(|(_, effect)| events_in(effect)).sum();
        prop_assert_eq!(counted as usize + arrived.len(), self.to_tell.len(), "each is told or counted, and once");
        Ok(())
    }
}

fn mails(house: &House) -> Vec<(u64, &Effect)> {
    house.told.iter().filter(|(_, effect)| !matches!(effect, Effect::Arrived { .. })).map(|(at, effect)| (*at, effect)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn each_event_is_told_or_counted_once_and_no_hour_sees_more_mails_than_the_cap(settings in settings(), steps in steps()) {
        let mut house = House::new(settings.clone());
        let mut witness = Witness::default();
        for step in &steps {
            witness.step(&mut house, step);
            prop_assert!(house.disk.len() < 20_000);
        }
        house.waits_secs(14 * 86_400);
        prop_assert_eq!(house.policy.next_wake(house.now()), None, "in the end it is calm");
        witness.is_content(&house)?;

        let mails = mails(&house);
        for (nth, (at, _)) in mails.iter().enumerate() {
            let within = mails[..=nth].iter().filter(|(before, _)| at - before < 3_600_000).count();
            prop_assert!(within <= settings.cap as usize, "{} mails within an hour", within);
        }
        let events: Vec<_> = mails.iter().filter_map(|(at, effect)| match effect {
            Effect::EventMail { movement, .. } => Some((*at, movement.source.clone())),
            _ => None,
        }).collect();
        for pair in events.iter().enumerate().flat_map(|(nth, one)| events[..nth].iter().map(move |other| (other, one))) {
            let ((before, source), (after, other)) = pair;
            let cooldown = settings.rule(source).cooldown.as_millis() as u64;
            prop_assert!(source != other || after - before >= cooldown, "{} is told of too often", source);
        }
    }

    #[test]
    fn who_wakes_only_when_told_misses_nothing(settings in settings(), steps in steps()) {
        let (mut sleeper, mut restless) = (House::new(settings.clone()), House::new(settings));
        let (mut one, mut other) = (Witness::default(), Witness::default());
        for step in steps.iter().filter(|step| !matches!(step, Step::Wait(8000..))).chain([&Step::Wait(300_000)]) {
            one.step(&mut sleeper, step);
            if let Step::Wait(ms) = step {
                for _ in 0..ms / 250 {
                    restless.time += 250;
                    restless.gets(Input::Tick);
                }
            } else {
                other.step(&mut restless, step);
            }
        }
        prop_assert_eq!(sleeper.told, restless.told);
    }
}
