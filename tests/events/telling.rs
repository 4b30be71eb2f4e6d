//! What the family is told of movements: by the mails that a server took, and by those that the house still owes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use dms3_core::alerting::{AlertPolicy, Effect, Input, Rule, Settings};
use dms3_core::id::EventId;
use dms3_core::time::{Mono, Now, Timestamp};
use dms3_node::store::mails::Mails;
use mail_parser::{Message, MessageParser, MimeHeaders as _};

use crate::harness::House;

/// Movements that people are told of.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Those of which a mail shows a picture, and how many mails do.
    pub(super) named: BTreeMap<EventId, usize>,
    /// So many others are told of in numbers.
    pub(super) counted: usize,
    /// Mails that came once more.
    pub(super) repeated: usize,
}

impl Told {
    /// By these mails. None of them may be about a clip alone.
    pub(super) fn by(mails: &[String]) -> Self {
        let (mut told, mut known) = (Self::default(), HashSet::new());
        for mail in mails {
            let mail = MessageParser::default().parse(mail.as_bytes()).unwrap();
            if !known.insert(mail.message_id().unwrap().to_owned()) {
                told.repeated += 1;
                continue;
            }
            let shown = shown_in(&mail);
            told.counted += movements_in(&mail).checked_sub(shown.len()).unwrap() + held_back_in(&mail);
            for event in shown {
                *told.named.entry(event).or_default() += 1;
            }
        }
        told
    }

    /// And what those of the next hours will tell, by the rules that the house goes by.
    pub(super) async fn and_later(mut self, house: &House, cap: usize, cooldown: Duration) -> Self {
        let (mails, _) = Mails::open(&house.coordinator.state_dir()).await.unwrap();
        let memory = mails.memory().await.unwrap().expect("the rules remember");
        let usual = Rule { cooldown, ..Rule::default() };
        let recipients = vec!["anna@example.org".to_owned()];
        let settings = Settings { recipients, cap: u32::try_from(cap).unwrap(), usual, ..Settings::default() };
        let now = |hours: u64| Now { at: Timestamp(hours * 3_600_000), mono: Mono(hours * 3_600_000), trusted: true };
        let mut policy = AlertPolicy::restore(settings, memory, now(0));
        for hour in 1..10 {
            for effect in policy.handle(Input::Tick, now(hour)) {
                let (movements, held_back) = match effect {
                    Effect::EventMail { movement, held_back, .. } => (vec![movement], held_back),
                    Effect::Digest(digest) => {
                        self.counted += digest.more as usize;
                        (digest.movements, digest.held_back)
                    }
                    Effect::FaultMail { held_back, .. } | Effect::ClipMail { held_back, .. } => (Vec::new(), held_back),
                    Effect::Arrived { .. } => (Vec::new(), None),
                };
                self.counted += held_back.map_or(0, |held| held.events as usize);
                for movement in movements {
                    *self.named.entry(movement.event).or_default() += 1;
                }
            }
        }
        self
    }

    /// Of these movements, those that nobody is told of, not even in numbers.
    pub(super) fn lacks(&self, movements: &BTreeSet<EventId>) -> usize {
        movements.iter().filter(|event| !self.named.contains_key(event)).count().saturating_sub(self.counted)
    }

    /// Telling of one twice counts as two.
    pub(super) fn movements(&self) -> usize {
        self.named.values().sum::<usize>() + self.counted
    }
}

/// Movements that the mail is about; 0: it is about something else.
pub(super) fn movements_in(mail: &Message<'_>) -> usize {
    let subject = mail.subject().unwrap();
    match subject.split_once(" more in ") {
        Some((before, _)) => before.rsplit(' ').next().unwrap().parse().unwrap(),
        None => usize::from(subject.contains("saw movement")),
    }
}

/// "3 alerts were held back since"
fn held_back_in(mail: &Message<'_>) -> usize {
    let text = mail.body_text(0).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    words.windows(5).filter(|words| words[3..] == ["held", "back"]).map(|words| words[0].parse::<usize>().unwrap()).sum()
}

/// "p0.01ARZ3NDEKTSV4RRFFQ69G5FAV@dms3"
fn shown_in(mail: &Message<'_>) -> Vec<EventId> {
    let ids = mail.attachments().filter_map(|part| part.content_id());
    ids.map(|id| EventId::parse(id.split(['.', '@']).nth(1).unwrap()).unwrap()).collect()
}
