//! What is to be told becomes a letter: facts and pictures in, words out.

use std::time::Duration;

use dms3_core::alerting::{Digest, HeldBack, Movement, Notice, What};
use dms3_core::fault::FaultKind;
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use dms3_web::mail::{
    Around, Cid, Clip, ClipState, DigestMail, Ended, EventMail, Fault, FaultMail, HeldBack as HeldBackWords, Link, Mail,
    Movement as MovementWords, Name, Picture, Sentence, TestMail, When,
};
use dms3_web::templates::Templates;
use jiff::tz::TimeZone;

use super::config::MailConfig;
use crate::clock::calendar;
use crate::picture::{self, Bounds};
use crate::store::mails::{ClipV1, LetterV1};
use crate::store::media::Media;

/// Of faults and of the house.
const HOUSE: &str = "house";

/// Writes letters. Blocking: reads pictures and scales them.
#[derive(Debug, Clone)]
pub struct Writer {
    pub templates: Templates,
    pub media: Media,
    pub dashboard: Option<Link>,
    /// Bytes of a clip that goes along.
    pub max_attachment: u64,
    /// `false`: what it writes shows none, whatever there is.
    pub with_pictures: bool,
}

/// What is known beside the effect of the rules.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Why the house was armed.
    pub why_armed: Option<String>,
    /// What is unusual about this mail, as a sentence.
    pub note: Option<String>,
    /// The event has a clip, or will have one: (length in bytes, in seconds), as far as known.
    pub clip: Option<(Option<u64>, Option<u32>)>,
}

/// A clip as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipFile {
    /// As the reader's computer will call it.
    pub name: String,
    /// Such as "video/mp4".
    pub mime: String,
    pub hash: [u8; 32],
    /// Bytes.
    pub length: u64,
    /// How long the movement was, if it is known.
    pub seconds: Option<u32>,
}

impl Writer {
    pub fn new(config: &MailConfig, templates: Templates, media: Media) -> Self {
        let dashboard = config.dashboard_url.as_deref().and_then(Link::new);
        Self { templates, media, dashboard, max_attachment: config.max_attachment, with_pictures: true }
    }

    pub fn event(&self, movement: &Movement, to: Vec<String>, held_back: Option<HeldBack>, facts: &Facts, now: Timestamp) -> LetterV1 {
        let mut pictures = Vec::new();
        let alt = match movement.changed {
            Some(percent) => format!("What {} saw: {percent} % of the picture changed", movement.source),
            None => format!("What {} saw", movement.source),
        };
        let shown = self.picture(movement.picture, picture::MAIL, movement.event, 0, &alt, &mut pictures);
        let clip = facts.clip.map(|(bytes, seconds)| {
            let too_large = bytes.is_some_and(|bytes| bytes > self.max_attachment);
            Clip { state: if too_large { ClipState::TooLarge } else { ClipState::Follows }, seconds, bytes }
        });
        let mail = Mail::Event(EventMail {
            camera: movement.source.as_str().into(),
            when: when(movement.started),
            percent: movement.changed,
            pictures: shown.into_iter().collect(),
            clip,
            around: self.around(held_back, facts),
        });
        LetterV1 { pictures, events: vec![movement.event], ..self.letter(&mail, movement.source.clone(), to, now) }
    }

    /// The clip of an event that was mailed; one that is too large stays at home, and the mail says so.
    pub fn clip(
        &self,
        movement: &Movement,
        file: ClipFile,
        to: Vec<String>,
        held_back: Option<HeldBack>,
        facts: &Facts,
        now: Timestamp,
    ) -> LetterV1 {
        let ClipFile { name, mime, hash, length, seconds } = file;
        let words = |state| {
            let mail = Mail::Event(EventMail {
                camera: movement.source.as_str().into(),
                when: when(movement.started),
                percent: movement.changed,
                pictures: Vec::new(),
                clip: Some(Clip { state, seconds, bytes: Some(length) }),
                around: self.around(held_back, facts),
            });
            LetterV1 { events: vec![movement.event], ..self.letter(&mail, movement.source.clone(), to.clone(), now) }
        };
        if length > self.max_attachment {
            return words(ClipState::TooLarge);
        }
        let without = words(ClipState::NotAttached);
        let clip = ClipV1 { name, mime, hash, text_without: without.text, html_without: without.html };
        LetterV1 { clip: Some(clip), ..words(ClipState::Attached) }
    }

    pub fn digest(&self, digest: &Digest, facts: &Facts, now: Timestamp) -> LetterV1 {
        let mut pictures = Vec::new();
        let movements = digest.movements.iter().enumerate().map(|(nth, movement)| MovementWords {
            camera: movement.source.as_str().into(),
            time: time_of_day(movement.started),
            percent: movement.changed,
            picture: self.picture(
                movement.picture,
                picture::MAIL_LIST,
                movement.event,
                nth,
                &format!("What {} saw", movement.source),
                &mut pictures,
            ),
        });
        let movements: Vec<_> = movements.collect();
        let sources: std::collections::BTreeSet<_> = digest.movements.iter().map(|movement| movement.source.clone()).collect();
        let one = sources.first().filter(|source| sources.len() == 1 && !source.is_empty()).cloned();
        let mail = Mail::Digest(DigestMail {
            camera: one.as_deref().map(Name::from),
            count: u32::try_from(movements.len()).unwrap_or(u32::MAX).saturating_add(digest.more),
            span: span(digest.last.since(digest.first)),
            until: when(digest.last),
            movements,
            around: self.around(digest.held_back, facts),
        });
        let events = digest.movements.iter().map(|movement| movement.event).collect();
        LetterV1 { pictures, events, ..self.letter(&mail, one.unwrap_or_else(|| HOUSE.to_owned()), digest.to.clone(), now) }
    }

    pub fn fault(&self, notice: &Notice, to: Vec<String>, held_back: Option<HeldBack>, now: Timestamp) -> LetterV1 {
        let over = || Some(Ended { how: notice.text.trim_end_matches('.').into(), when: when(notice.at) });
        let (often, ended) = match notice.what {
            What::Began | What::Once => (None, None),
            What::Over => (None, over()),
            What::Flapping { begins } => {
                (Some(format!("It comes and goes: {begins} times within an hour. From now on it is summed up each hour.")), None)
            }
            What::Again { begins, lasts: true } => (Some(format!("It came {begins} more times, and lasts.")), None),
            What::Again { begins, lasts: false } => (Some(format!("It came {begins} more times, and is over for now.")), over()),
        };
        let mail = Mail::Fault(FaultMail {
            fault: fault_of(notice),
            since: when(notice.since),
            once: notice.what == What::Once,
            often: often.map(Sentence::from),
            ended,
            around: self.around(held_back, &Facts::default()),
        });
        self.letter(&mail, HOUSE.to_owned(), to, now)
    }

    pub fn test(&self, node: &str, to: Vec<String>, now: Timestamp) -> LetterV1 {
        let mail = Mail::Test(TestMail {
            node: node.into(),
            when: when(now),
            around: Around { dashboard: self.dashboard.clone(), ..Around::default() },
        });
        self.letter(&mail, HOUSE.to_owned(), to, now)
    }

    fn letter(&self, mail: &Mail, about: String, to: Vec<String>, at: Timestamp) -> LetterV1 {
        let rendered = mail.render(&self.templates);
        for complaint in &rendered.complaints {
            tracing::warn!("{complaint}");
        }
        LetterV1 {
            at,
            about,
            to,
            subject: rendered.subject,
            text: rendered.text,
            html: rendered.html,
            pictures: Vec::new(),
            clip: None,
            events: Vec::new(),
        }
    }

    fn around(&self, held_back: Option<HeldBack>, facts: &Facts) -> Around {
        let held_back = held_back.map(|held| HeldBackWords {
            count: held.events.saturating_add(held.clips).saturating_add(held.faults),
            since: calendar(held.since, "%H:%M").as_str().into(),
        });
        let sentence = |text: &Option<String>| text.as_deref().map(Sentence::from);
        Around { note: sentence(&facts.note), why_armed: sentence(&facts.why_armed), held_back, dashboard: self.dashboard.clone() }
    }

    /// A picture that cannot be shown is told in the log, and its mail goes without it.
    fn picture(
        &self,
        hash: Option<[u8; 32]>,
        bounds: Bounds,
        event: EventId,
        nth: usize,
        alt: &str,
        pictures: &mut Vec<(String, Vec<u8>)>,
    ) -> Option<Picture> {
        let hash = hash.filter(|_| self.with_pictures)?;
        let small = self.media.get(&hash).map_err(anyhow::Error::from).and_then(|file| picture::small(file, bounds));
        match small {
            Ok(small) => {
                let cid = Cid::new(&format!("p{nth}.{event}@dms3"))?;
                pictures.push((cid.as_str().to_owned(), small.jpeg));
                Some(Picture { cid, width: small.width, height: small.height, alt: alt.into() })
            }
            Err(error) => {
                tracing::warn!("the mail about event {event} goes without its picture: {error:#}");
                None
            }
        }
    }
}

/// As mails word it. Of what has no words of its own the text is all.
fn fault_of(notice: &Notice) -> Fault {
    let name = |text: &String| Name::from(text.as_str());
    match &notice.kind {
        FaultKind::CameraLost { camera } => Fault::CameraLost { camera: name(camera) },
        FaultKind::NoPicture { camera } => Fault::NoPicture { camera: name(camera) },
        FaultKind::Unconfirmed { camera } => Fault::Unconfirmed { camera: name(camera) },
        FaultKind::DetectorFailed { camera, why } => {
            Fault::DetectorFailed { camera: name(camera), why: format!("{}.", why.trim_end_matches('.')).into() }
        }
        FaultKind::ArmedItself { camera } => Fault::ArmedItself { camera: name(camera) },
        FaultKind::Blind { why } => Fault::Blind { why: format!("{}.", why.trim_end_matches('.')).into() },
        FaultKind::DiskNearlyFull { node, free_mib } => Fault::DiskNearlyFull { node: name(node), free_mib: *free_mib },
        FaultKind::OutboxStuck { camera, waiting } => Fault::OutboxStuck { camera: name(camera), waiting: *waiting },
        FaultKind::TokenLocked { source } => Fault::TokenLocked { source: name(source) },
        FaultKind::PasswordsGuessed { source, count } => Fault::PasswordsGuessed { source: name(source), count: *count },
        FaultKind::IdentityTwice { camera, one, other } => {
            Fault::IdentityTwice { camera: name(camera), one: name(one), other: name(other) }
        }
        FaultKind::PutOut { camera, why } => Fault::PutOut { camera: name(camera), why: format!("{}.", why.trim_end_matches('.')).into() },
        FaultKind::StateConflict => Fault::StateConflict { what: notice.text.as_str().into() },
        FaultKind::CoordinatorGone { told_by } => Fault::CoordinatorGone { told_by: name(told_by) },
        FaultKind::Other => {
            let headline = notice.text.split(": ").next().unwrap_or_default().trim_end_matches('.');
            let to_do = vec!["`dms3-node status` on the coordinator says more.".into()];
            Fault::Other { headline: headline.into(), what: notice.text.as_str().into(), to_do }
        }
    }
}

fn when(at: Timestamp) -> When {
    let zone = TimeZone::system();
    When { time: time_of_day(at), day: calendar(at, "%A %-d %B %Y").as_str().into(), zone: zone.iana_name().unwrap_or("local time").into() }
}

fn time_of_day(at: Timestamp) -> Name {
    calendar(at, "%H:%M:%S").as_str().into()
}

/// "10 minutes", as one says it.
fn span(duration: Duration) -> Name {
    let minutes = duration.as_secs().div_ceil(60).max(1);
    match minutes {
        1 => "a minute".into(),
        2..120 => format!("{minutes} minutes").as_str().into(),
        _ => format!("{} hours", minutes / 60).as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use dms3_web::templates::MAIL;

    use super::*;

    #[test]
    fn a_mail_that_loses_its_clip_on_the_way_no_longer_says_that_it_is_attached() {
        let dir = tempfile::tempdir().unwrap();
        let writer = |dashboard: Option<&str>| Writer {
            templates: MAIL.templates(None),
            media: Media::open(dir.path()).unwrap(),
            dashboard: dashboard.and_then(Link::new),
            max_attachment: 1000,
            with_pictures: true,
        };
        let movement =
            Movement { event: EventId([1; 16]), source: "porch".to_owned(), started: Timestamp(1), changed: Some(5), picture: None };
        let file = |length, seconds| ClipFile { name: "a.mp4".to_owned(), mime: "video/mp4".to_owned(), hash: [1; 32], length, seconds };
        let facts = Facts { note: Some("porch sent this by itself.".to_owned()), ..Facts::default() };
        for (dashboard, where_it_is) in [(None, "it is at home"), (Some("https://dms3.local"), "see it on the dashboard")] {
            let to = vec!["a@example.org".to_owned()];
            let letter = writer(dashboard).clip(&movement, file(1000, Some(65)), to, None, &facts, Timestamp(2));
            let without = [LetterV1::drop_clip, LetterV1::shed].map(|lose| {
                let mut letter = letter.clone();
                lose(&mut letter);
                letter
            });
            let [dropped, shed] = &without;
            assert_eq!((&dropped.text, &dropped.subject, &dropped.clip, &shed.clip), (&shed.text, &letter.subject, &None, &None));
            for (text, lost) in [(&letter.text, &dropped.text), (&letter.html, &dropped.html)] {
                assert!(text.contains("Attached to this mail") && text.contains("is attached"), "{text}");
                assert!(text.contains("porch sent this by itself.") && lost.contains("porch sent this by itself."), "{text}");
                assert!(lost.contains("Not attached to this mail") && !lost.contains("is attached"), "{lost}");
                assert!(lost.split_whitespace().collect::<Vec<_>>().join(" ").contains(where_it_is), "{lost}");
            }
        }
        for (seconds, words) in [(Some(65), "Too large to attach (1 min 5 s, 1 kB)."), (None, "Too large to attach (1 kB).")] {
            let large = writer(None).clip(&movement, file(1001, seconds), Vec::new(), None, &Facts::default(), Timestamp(2));
            assert!(large.clip.is_none() && large.text.contains(words), "{}", large.text);
        }
    }

    #[test]
    fn each_fault_is_mailed_in_words_of_its_own_with_its_facts_and_its_end_in_those_of_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer {
            templates: MAIL.templates(None),
            media: Media::open(dir.path()).unwrap(),
            dashboard: None,
            max_attachment: 1000,
            with_pictures: true,
        };
        let porch = || "porch".to_owned();
        let mail = |kind: &FaultKind, text: &str, what| {
            let notice =
                Notice { key: "key".to_owned(), kind: kind.clone(), text: text.to_owned(), what, since: Timestamp(1), at: Timestamp(2) };
            let letter = writer.fault(&notice, Vec::new(), None, Timestamp(3));
            (letter.subject, letter.text.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        for (kind, headline, words) in [
            (FaultKind::CameraLost { camera: porch() }, "porch is lost while the house is armed", "Nothing is heard of porch."),
            (FaultKind::NoPicture { camera: porch() }, "porch gives no picture", "Look whether the camera is plugged in"),
            (FaultKind::Unconfirmed { camera: porch() }, "porch has not confirmed that the house is armed", "does not say that it watches"),
            (
                FaultKind::DetectorFailed { camera: porch(), why: "it is busy.".to_owned() },
                "porch is not watching",
                "run: it is busy. What",
            ),
            (FaultKind::ArmedItself { camera: porch() }, "porch armed itself", "the house does not ask for it"),
            (FaultKind::Blind { why: "the cable is out".to_owned() }, "It cannot be seen who is home", "itself: the cable is out. What"),
            (FaultKind::DiskNearlyFull { node: porch(), free_mib: 90 }, "The disk of porch is nearly full", "90 MB are free."),
            (FaultKind::OutboxStuck { camera: porch(), waiting: 3 }, "3 events do not reach the coordinator", "They wait on porch"),
            (FaultKind::TokenLocked { source: "10.0.0.9".to_owned() }, "A pairing word is locked", "Somebody at 10.0.0.9"),
            (
                FaultKind::PasswordsGuessed { source: "10.0.0.9".to_owned(), count: 10 },
                "Somebody guesses passwords of the dashboard",
                "10 wrong ones came from 10.0.0.9",
            ),
            (
                FaultKind::IdentityTwice { camera: porch(), one: "10.0.0.8".to_owned(), other: "10.0.0.9".to_owned() },
                "Two machines say that they are porch",
                "One is at 10.0.0.8, the other at 10.0.0.9.",
            ),
            (
                FaultKind::PutOut { camera: porch(), why: "it lies".to_owned() },
                "porch is put out again and again",
                "The last reason: it lies. What",
            ),
            (FaultKind::StateConflict, "The coordinator has forgotten a decision", "The facts: as they are."),
            (FaultKind::CoordinatorGone { told_by: porch() }, "The coordinator does not answer", "porch tells this itself."),
            (FaultKind::Other, "The facts", "The facts: as they are."),
        ] {
            let (subject, text) = mail(&kind, "The facts: as they are.", What::Began);
            assert_eq!(subject, format!("DMS3: {headline}"));
            for part in ["Problem: ", words, "Since ", "What you can do: - "] {
                assert!(text.contains(part), "{part}: {text}");
            }
            let (subject, text) = mail(&kind, "All is well.", What::Over);
            assert_eq!(subject, "DMS3: All is well");
            assert!(text.contains("Over: All is well") && text.contains("until") && !text.contains("What you can do"), "{text}");
        }
        let kind = FaultKind::CameraLost { camera: porch() };
        for (what, words) in [
            (What::Once, "At "),
            (What::Flapping { begins: 4 }, "It comes and goes: 4 times within an hour."),
            (What::Again { begins: 5, lasts: true }, "It came 5 more times, and lasts. Nothing is heard of porch."),
            (What::Again { begins: 5, lasts: false }, "It came 5 more times, and is over for now."),
        ] {
            let (_, text) = mail(&kind, "porch is back.", what);
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
