//! What is to be told becomes a letter: facts and pictures in, words out.

use std::time::Duration;

use dms3_core::alerting::{Digest, HeldBack, Movement, Notice, What};
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use dms3_web::mail::{
    Around, Cid, Clip, ClipState, DigestMail, EventMail, Fault, FaultMail, HeldBack as HeldBackWords, Link, Mail,
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
        length: u64,
        to: Vec<String>,
        held_back: Option<HeldBack>,
        now: Timestamp,
    ) -> LetterV1 {
        let words = |state| {
            let mail = Mail::Event(EventMail {
                camera: movement.source.as_str().into(),
                when: when(movement.started),
                percent: movement.changed,
                pictures: Vec::new(),
                clip: Some(Clip { state, seconds: None, bytes: Some(length) }),
                around: self.around(held_back, &Facts::default()),
            });
            LetterV1 { events: vec![movement.event], ..self.letter(&mail, movement.source.clone(), to.clone(), now) }
        };
        if length > self.max_attachment {
            return words(ClipState::TooLarge);
        }
        let without = words(ClipState::NotAttached);
        let ClipFile { name, mime, hash } = file;
        let clip = ClipV1 { name, mime, hash, text_without: without.text, html_without: without.html };
        LetterV1 { clip: Some(clip), ..words(ClipState::Attached) }
    }

    pub fn digest(&self, digest: &Digest, now: Timestamp) -> LetterV1 {
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
            around: self.around(digest.held_back, &Facts::default()),
        });
        let events = digest.movements.iter().map(|movement| movement.event).collect();
        LetterV1 { pictures, events, ..self.letter(&mail, one.unwrap_or_else(|| HOUSE.to_owned()), digest.to.clone(), now) }
    }

    pub fn fault(&self, notice: &Notice, to: Vec<String>, held_back: Option<HeldBack>, now: Timestamp) -> LetterV1 {
        let (text, ended) = match notice.what {
            What::Began => (notice.text.clone(), None),
            What::Over => (notice.text.clone(), Some(when(notice.at))),
            What::Flapping { begins } => {
                (format!("{} It comes and goes: {begins} times within an hour. From now on it is summed up.", notice.text), None)
            }
            What::Again { begins, lasts } => {
                let now = if lasts { "it lasts" } else { "it is over for now" };
                (format!("{} It came {begins} more times; {now}.", notice.text), (!lasts).then(|| when(notice.at)))
            }
        };
        let headline: Sentence = notice.text.trim_end_matches('.').into();
        let fault = Fault::Other { headline, what: text.into(), to_do: vec!["`dms3-node status` on the coordinator says more.".into()] };
        let mail = Mail::Fault(FaultMail { fault, since: when(notice.since), ended, around: self.around(held_back, &Facts::default()) });
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
        Around { note: None, why_armed: facts.why_armed.as_deref().map(Sentence::from), held_back, dashboard: self.dashboard.clone() }
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
    use super::*;

    #[test]
    fn a_mail_that_loses_its_clip_on_the_way_no_longer_says_that_it_is_attached() {
        let dir = tempfile::tempdir().unwrap();
        let writer = |dashboard: Option<&str>| Writer {
            templates: Templates::default(),
            media: Media::open(dir.path()).unwrap(),
            dashboard: dashboard.and_then(Link::new),
            max_attachment: 1000,
            with_pictures: true,
        };
        let movement =
            Movement { event: EventId([1; 16]), source: "porch".to_owned(), started: Timestamp(1), changed: Some(5), picture: None };
        let file = || ClipFile { name: "a.mp4".to_owned(), mime: "video/mp4".to_owned(), hash: [1; 32] };
        for (dashboard, where_it_is) in [(None, "it is at home"), (Some("https://dms3.local"), "see it on the dashboard")] {
            let letter = writer(dashboard).clip(&movement, file(), 1000, vec!["a@example.org".to_owned()], None, Timestamp(2));
            let without = [LetterV1::drop_clip, LetterV1::shed].map(|lose| {
                let mut letter = letter.clone();
                lose(&mut letter);
                letter
            });
            let [dropped, shed] = &without;
            assert_eq!((&dropped.text, &dropped.subject, &dropped.clip, &shed.clip), (&shed.text, &letter.subject, &None, &None));
            for (text, lost) in [(&letter.text, &dropped.text), (&letter.html, &dropped.html)] {
                assert!(text.contains("Attached to this mail") && text.contains("is attached"), "{text}");
                assert!(lost.contains("Not attached to this mail") && !lost.contains("is attached"), "{lost}");
                assert!(lost.split_whitespace().collect::<Vec<_>>().join(" ").contains(where_it_is), "{lost}");
            }
        }
        let large = writer(None).clip(&movement, file(), 1001, Vec::new(), None, Timestamp(2));
        assert!(large.clip.is_none() && large.text.contains("Too large to attach"), "{}", large.text);
    }
}
