//! A made-up house whose alerts are looked at.

use super::*;
use crate::event::{Attachment, AttachmentKind, EventKind};
use crate::time::Mono;

mod rules;
mod streams;

const T: u64 = 1_795_000_000_000;
const NOON: u16 = 12 * 60;

/// The coordinator of a house, as far as alerts go: it saves what is to be saved and wakes when it is told to.
struct House {
    settings: Settings,
    policy: AlertPolicy,
    /// Milliseconds since the story began.
    time: u64,
    /// When the machine was booted, in the same milliseconds; before the story began: negative.
    booted: i64,
    disk: Vec<u8>,
    told: Vec<(u64, Effect)>,
}

impl House {
    fn new(settings: Settings) -> Self {
        let policy = AlertPolicy::new(settings.clone(), now(0, -1_000_000));
        let mut house = Self { settings, policy, time: 0, booted: -1_000_000, disk: Vec::new(), told: Vec::new() };
        house.save();
        house
    }

    fn save(&mut self) {
        if self.policy.changed() {
            self.disk = postcard::to_stdvec(self.policy.memory()).unwrap();
        }
    }

    fn now(&self) -> Now {
        now(self.time, self.booted)
    }

    /// What the input leads to at once.
    fn gets(&mut self, input: Input<'_>) -> Vec<Effect> {
        let effects = self.policy.handle(input, self.now());
        self.save();
        self.told.extend(effects.iter().map(|effect| (self.time, effect.clone())));
        effects
    }

    fn sees(&mut self, event: &Event) -> Vec<Effect> {
        self.gets(Input::Event { event, minute: NOON })
    }

    fn fault(&mut self, key: &str) -> Vec<Effect> {
        self.gets(Input::Fault(&Fault::new(key, FaultKind::Other, "It is broken.")))
    }

    fn happens(&mut self, key: &str) -> Vec<Effect> {
        self.gets(Input::Once(&Fault::new(key, FaultKind::TokenLocked { source: "10.0.0.9".to_owned() }, "It was locked.")))
    }

    fn fault_over(&mut self, key: &str) -> Vec<Effect> {
        self.gets(Input::FaultOver { key, text: "It is whole." })
    }

    /// Lets time pass and returns what is told meanwhile, with the milliseconds it took.
    fn waits(&mut self, ms: u64) -> Vec<(u64, Effect)> {
        let (began, until) = (self.time, self.time + ms);
        let before = self.told.len();
        while let Some(wake) = self.policy.next_wake(self.now()) {
            let wake = self.time + wake.as_millis() as u64;
            if wake > until {
                break;
            }
            self.time = wake;
            self.gets(Input::Tick);
            assert_ne!(self.policy.next_wake(self.now()), Some(Duration::ZERO), "it would never sleep: {:?}", self.policy);
        }
        self.time = until;
        self.told[before..].iter().map(|(at, effect)| (at - began, effect.clone())).collect()
    }

    fn waits_secs(&mut self, secs: u64) -> Vec<(u64, Effect)> {
        self.waits(secs * 1000)
    }

    /// The process dies and another one reads what was saved.
    fn crashes(&mut self) {
        let memory = postcard::from_bytes(&self.disk).unwrap();
        self.policy = AlertPolicy::restore(self.settings.clone(), memory, self.now());
        self.save();
    }

    fn reboots(&mut self) {
        self.booted = self.time as i64;
        self.crashes();
    }
}

fn now(time: u64, booted: i64) -> Now {
    Now { at: Timestamp(T + time), mono: Mono((time as i64 - booted) as u64), trusted: true }
}

fn event(n: u32, source: &str, started: u64) -> Event {
    let mut id = [0; 16];
    id[12..].copy_from_slice(&n.to_be_bytes());
    Event {
        id: EventId(id),
        source: source.to_owned(),
        kind: EventKind::Movement,
        started: Timestamp(T + started),
        started_since_boot: None,
        ended: None,
        changed: Some(7),
        state: ArmState::Away,
        attachments: Vec::new(),
        rev: 1,
        own_mail: crate::event::OwnMail::None,
    }
}

fn with(mut event: Event, kind: AttachmentKind, content: u8) -> Event {
    let attachment = Attachment { kind, name: "x".to_owned(), taken: event.started, length: 1000, hash: [content; 32] };
    event.attachments.push(attachment);
    event
}

/// An event with its picture.
fn seen(n: u32, source: &str, started: u64) -> Event {
    with(event(n, source, started), AttachmentKind::Picture, n as u8)
}

fn clip(event: Event) -> Event {
    with(event, AttachmentKind::Clip, 0xcc)
}

fn of_kind(mut event: Event, kind: EventKind) -> Event {
    event.kind = kind;
    event
}

fn in_state(mut event: Event, state: ArmState) -> Event {
    event.state = state;
    event
}

fn house() -> Settings {
    Settings { recipients: vec!["family".to_owned()], ..Settings::default() }
}

fn rule(camera: &str, rule: Rule) -> Settings {
    Settings { cameras: BTreeMap::from([(camera.to_owned(), rule)]), ..house() }
}

/// In short, what is told: "mail 1", "clip 1", "digest 2 3 +4", "fault lost began", each with what was held back before ("(5)").
fn short(effect: &Effect) -> String {
    let number = |id: &EventId| u32::from_be_bytes(id.0[12..].try_into().unwrap());
    let list = |ids: Vec<u32>| ids.iter().map(|n| format!(" {n}")).collect::<String>();
    let (text, held_back) = match effect {
        Effect::EventMail { movement, held_back, .. } => (format!("mail {}", number(&movement.event)), *held_back),
        Effect::ClipMail { event, held_back, .. } => (format!("clip {}", number(event)), *held_back),
        Effect::Digest(digest) => {
            let ids = list(digest.movements.iter().map(|movement| number(&movement.event)).collect());
            let more = if digest.more > 0 { format!(" +{}", digest.more) } else { String::new() };
            (format!("digest{ids}{more}"), digest.held_back)
        }
        Effect::FaultMail { notices, held_back, .. } => {
            let notices: Vec<_> = notices.iter().map(|notice| format!("{} {:?}", notice.key, notice.what)).collect();
            (notices.join(", "), *held_back)
        }
        Effect::Arrived { events } => (format!("arrived{}", list(events.iter().map(number).collect())), None),
    };
    match held_back {
        Some(HeldBack { events, clips: 0, faults: 0, .. }) => format!("{text} ({events} before)"),
        Some(HeldBack { events, clips, faults, .. }) => format!("{text} ({events} events, {clips} clips, {faults} faults before)"),
        None => text,
    }
}

fn shorts(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(short).collect()
}

/// "120 digest 2 3": with the seconds it took.
fn timed(told: &[(u64, Effect)]) -> Vec<String> {
    told.iter().map(|(ms, effect)| format!("{} {}", *ms as f64 / 1000.0, short(effect))).collect()
}

/// Whom the mail goes to.
fn to(effect: &Effect) -> Vec<String> {
    match effect {
        Effect::EventMail { to, .. } | Effect::ClipMail { to, .. } | Effect::FaultMail { to, .. } => to.clone(),
        Effect::Digest(digest) => digest.to.clone(),
        Effect::Arrived { .. } => Vec::new(),
    }
}
