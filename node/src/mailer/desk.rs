//! The desk: what the rules of alerts ask for is written, and put into the spool together with what they remember.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::alerting::{AlertPolicy, Effect, Input, Movement, Settings};
use dms3_core::event::{Attachment, AttachmentKind, seconds_between};
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use tokio::sync::watch;

use super::letters::{ClipFile, Facts, Writer};
use crate::clock::Clock;
use crate::store::events::Events;
use crate::store::mails::{CAP, LetterV1, MailBox, Mails};
use crate::store::outbox::Outbox;

/// The source of a camera node that has only one, as the config calls it by default.
const ONLY: &str = "cam";

/// What a desk needs.
#[derive(Debug, Clone)]
pub struct DeskContext {
    pub settings: Settings,
    pub mails: MailBox,
    pub writer: Writer,
    pub clock: Clock,
    /// Name of this machine, for test mails.
    pub machine: String,
    /// Told when there is a mail to be brought away.
    pub post: watch::Sender<()>,
}

/// Where this node keeps its events.
#[derive(Debug, Clone, Copy)]
pub enum Book<'a> {
    House(&'a Events),
    Camera(&'a Outbox),
}

/// What mails need to know of an event besides what the rules know.
#[derive(Debug)]
struct Entry {
    started: Timestamp,
    ended: Option<Timestamp>,
    changed: Option<u8>,
    attachments: Vec<Attachment>,
}

/// Writes what an effect asks for, and can do so again.
type Work = Arc<dyn Fn(&Writer) -> Vec<LetterV1> + Send + Sync>;

/// Twelve pictures of the largest camera on the slowest Pi take less.
const PICTURES_WITHIN: Duration = Duration::from_secs(60);

/// What is to be said beside the matter of a mail that is written now.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// Why the house is armed.
    pub why_armed: Option<String>,
    /// What is unusual, as a sentence.
    pub note: Option<String>,
}

/// The rules at work.
#[derive(Debug)]
pub struct Desk {
    context: DeskContext,
    mails: Mails,
    policy: AlertPolicy,
}

impl Desk {
    pub async fn open(context: DeskContext) -> Result<Self> {
        let mails = context.mails.open().await?.clone();
        let (settings, now) = (context.settings.clone(), context.clock.now());
        let policy = match mails.memory().await {
            Ok(Some(memory)) => AlertPolicy::restore(settings, memory, now),
            Ok(None) => AlertPolicy::new(settings, now),
            // Better a mail twice than none any more.
            Err(error) => {
                tracing::error!("{error:#}: the alerts begin anew");
                AlertPolicy::new(settings, now)
            }
        };
        Ok(Self { context, mails, policy })
    }

    /// How long there is nothing to do without another input; `None`: for ever.
    pub fn next_wake(&self) -> Option<std::time::Duration> {
        self.policy.next_wake(self.context.clock.now())
    }

    /// Takes what the rules are to know: on the disk when this returns, with the mails that it led to. Whether it meant anything to them.
    pub async fn take(&mut self, input: Input<'_>, circumstances: &Circumstances, book: Book<'_>) -> Result<bool> {
        let now = self.context.clock.now();
        let effects = self.policy.handle(input, now);
        if !self.policy.changed() {
            return Ok(false);
        }
        let mut letters = Vec::new();
        for effect in effects {
            letters.extend(self.write(effect, circumstances, book, now.at).await?);
        }
        if !letters.is_empty() && self.mails.size().await? > CAP {
            tracing::error!("too much mail waits: until it is less, mails have no pictures and clips");
            letters.iter_mut().for_each(LetterV1::shed);
        }
        self.mails.save(self.policy.memory(), &letters).await?;
        if !letters.is_empty() {
            self.context.post.send_replace(());
        }
        Ok(true)
    }

    /// A mail that no rule holds back.
    pub async fn test(&self) -> Result<()> {
        let DeskContext { settings, writer, clock, machine, post, .. } = self.context.clone();
        let letter = tokio::task::spawn_blocking(move || writer.test(&machine, settings.recipients, clock.now().at)).await?;
        self.mails.save(self.policy.memory(), &[letter]).await?;
        post.send_replace(());
        Ok(())
    }

    async fn write(&self, effect: Effect, circumstances: &Circumstances, book: Book<'_>, now: Timestamp) -> Result<Vec<LetterV1>> {
        let Circumstances { why_armed, note } = circumstances.clone();
        let work: Work = match effect {
            Effect::EventMail { movement, to, held_back } => {
                let event = book.event(movement.event).await?;
                let length = event.as_ref().and_then(length_of_clip);
                let clip = match (length, event) {
                    (Some(length), event) => Some((Some(length), event.and_then(|event| event.seconds()))),
                    // One that goes on may still get one.
                    (None, event) => event.filter(|event| event.ended.is_none()).map(|_| (None, None)),
                };
                let facts = Facts { why_armed, note, clip };
                Arc::new(move |writer| vec![writer.event(&movement, to.clone(), held_back, &facts, now)])
            }
            Effect::ClipMail { event, source, clip, length, to, held_back } => {
                let Some(known) = book.event(event).await? else { return Ok(Vec::new()) };
                let name = known.attachments.iter().find(|attachment| attachment.hash == clip);
                let name = name.map_or_else(|| "clip".to_owned(), |attachment| attachment.name.clone());
                let movement = Movement { event, source, started: known.started, changed: known.changed, picture: None };
                let clip = ClipFile { mime: mime_of(&name).to_owned(), name, hash: clip, length, seconds: known.seconds() };
                let facts = Facts { note, ..Facts::default() };
                Arc::new(move |writer| vec![writer.clip(&movement, clip.clone(), to.clone(), held_back, &facts, now)])
            }
            Effect::Digest(digest) => {
                let facts = Facts { note, ..Facts::default() };
                Arc::new(move |writer| vec![writer.digest(&digest, &facts, now)])
            }
            Effect::FaultMail { notices, to, held_back } => Arc::new(move |writer| {
                let count = notices.len();
                let letters = notices.iter().enumerate();
                letters.map(|(nth, notice)| writer.fault(notice, to.clone(), held_back.filter(|_| nth + 1 == count), now)).collect()
            }),
            Effect::Arrived { .. } => return Ok(Vec::new()),
        };
        self.written(work).await
    }

    /// A mail is more than its pictures: where these take too long or bring their decoder down, it goes without.
    async fn written(&self, work: Work) -> Result<Vec<LetterV1>> {
        let (writer, plain) = (self.context.writer.clone(), work.clone());
        let why = match tokio::time::timeout(PICTURES_WITHIN, tokio::task::spawn_blocking(move || work(&writer))).await {
            Ok(Ok(letters)) => return Ok(letters),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("they took longer than {}", humantime::format_duration(PICTURES_WITHIN)),
        };
        tracing::error!("a mail goes without its pictures: {why}");
        let writer = Writer { with_pictures: false, ..self.context.writer.clone() };
        Ok(tokio::task::spawn_blocking(move || plain(&writer)).await?)
    }
}

impl Entry {
    /// How long it went on, if it is over.
    fn seconds(&self) -> Option<u32> {
        Some(seconds_between(self.started, self.ended?))
    }
}

impl Book<'_> {
    /// As it is now, with all of its attachments.
    async fn event(self, id: EventId) -> Result<Option<Entry>> {
        Ok(match self {
            Self::House(events) => events.event(id).await?.map(|event| Entry {
                started: event.began,
                ended: event.over(),
                changed: event.changed,
                attachments: event.attachments.into_iter().map(|known| known.attachment).collect(),
            }),
            Self::Camera(outbox) => outbox.event(id).await?.map(|event| Entry {
                started: event.started,
                ended: event.ended,
                changed: event.changed,
                attachments: event.attachments,
            }),
        })
    }
}

/// What people call a source: the node's name is enough where it has one source that nobody named.
pub fn label(camera: &str, source: &str) -> String {
    if source == ONLY || source == camera { camera.to_owned() } else { format!("{camera}/{source}") }
}

/// What this machine calls itself.
pub fn machine() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

fn length_of_clip(event: &Entry) -> Option<u64> {
    event.attachments.iter().find(|attachment| attachment.kind == AttachmentKind::Clip).map(|clip| clip.length)
}

fn mime_of(name: &str) -> &'static str {
    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "mp4" | "m4v" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "avi" => "video/x-msvideo",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use dms3_web::templates::MAIL;

    use super::*;
    use crate::clock::StandStill;
    use crate::store::media::Media;

    #[tokio::test]
    async fn a_picture_that_brings_its_reader_down_or_to_a_halt_costs_no_mail() {
        let dir = tempfile::tempdir().unwrap();
        let media = Media::open(&dir.path().join("media")).unwrap();
        let picture = media.path(&[7; 32]);
        std::fs::create_dir_all(picture.parent().unwrap()).unwrap();
        // Whoever opens it waits for somebody who writes into it.
        nix::unistd::mkfifo(&picture, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let context = DeskContext {
            settings: Settings::default(),
            mails: MailBox::new(dir.path().to_owned()),
            writer: Writer { templates: MAIL.templates(None), media, dashboard: None, max_attachment: 1000, with_pictures: true },
            clock: Clock::unkept(),
            machine: "hall".to_owned(),
            post: watch::Sender::new(()),
        };
        let desk = Desk::open(context).await.unwrap();
        let now = Timestamp(1);
        let movement =
            Movement { event: EventId([1; 16]), source: "porch".to_owned(), started: now, changed: Some(5), picture: Some([7; 32]) };
        let work: Work = Arc::new(move |writer| vec![writer.event(&movement, Vec::new(), None, &Facts::default(), now)]);
        let time = StandStill::begin();
        let waits = tokio::time::advance(PICTURES_WITHIN + Duration::from_secs(1));
        let (letters, ()) = tokio::join!(desk.written(work), waits);
        let [letter] = &letters.unwrap()[..] else { panic!("one mail") };
        assert!(letter.pictures.is_empty() && letter.text.contains("porch"), "{}", letter.text);
        drop(std::fs::OpenOptions::new().write(true).open(&picture).unwrap());
        time.end().await;

        let bad: Work = Arc::new(|writer| if writer.with_pictures { panic!("a decoder") } else { Vec::new() });
        assert_eq!(desk.written(bad).await.unwrap(), []);
    }
}
