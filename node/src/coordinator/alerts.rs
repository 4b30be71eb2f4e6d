//! Decides what is mailed of events and faults, and puts it into the spool of mails. Bringing it away is the post's business.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::alerting::{AlertPolicy, Effect, Input, Movement, Settings};
use dms3_core::event::{AttachmentKind, Event};
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::events::Keeper;
use crate::clock::Clock;
use crate::mailer::letters::{ClipFile, Facts, Writer};
use crate::store::events::{Events, Filter, MOST, StoredEvent};
use crate::store::mails::{CAP, LetterV1, MailBox, Mails};

/// What is older than this when the node starts was mailed, or is no news any more.
const CAUGHT_UP: Duration = Duration::from_secs(3600);
/// Faults that ended and of which the words are kept until they are told.
const ENDED: usize = 200;
/// The source of a camera node that has only one, as the config calls it by default.
const ONLY: &str = "cam";

/// What is wrong, as state: whoever was away for a while sees what lasts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// By their keys, in words.
    lasting: BTreeMap<String, String>,
    /// What was said of those that ended last.
    over: BTreeMap<String, String>,
}

impl Faults {
    pub fn begins(&mut self, key: String, text: String) {
        self.over.remove(&key);
        self.lasting.insert(key, text);
    }

    pub fn ends(&mut self, key: String, text: String) {
        self.lasting.remove(&key);
        self.over.insert(key, text);
        while self.over.len() > ENDED {
            self.over.pop_first();
        }
    }
}

/// What the service needs.
#[derive(Debug, Clone)]
pub struct Alerts {
    pub settings: Settings,
    pub keeper: Keeper,
    pub mails: MailBox,
    pub writer: Writer,
    pub clock: Clock,
    /// Events of which something was kept.
    pub kept: Arc<Mutex<mpsc::Receiver<EventId>>>,
    /// Told if some of those could not be told.
    pub missed: watch::Receiver<()>,
    pub faults: watch::Receiver<Faults>,
    /// Why the house is as it is.
    pub reason: watch::Receiver<Option<String>>,
    pub tests: Arc<Mutex<mpsc::Receiver<()>>>,
    /// Name of this node.
    pub node: String,
    /// Told when there is a mail to be brought away.
    pub post: watch::Sender<()>,
    /// Why no mail is made, for people.
    pub trouble: watch::Sender<Option<String>>,
}

/// Until told to stop. What was kept while this did not run is caught up with first: an event that is told twice is known by its id.
pub async fn run(mut alerts: Alerts, stop: CancellationToken) -> Result<()> {
    let now = alerts.clock.now();
    let settings = alerts.settings.clone();
    let mailbox = alerts.mails.clone();
    let mails = mailbox.open().await?;
    let mut policy = match mails.memory().await {
        Ok(Some(memory)) => AlertPolicy::restore(settings, memory, now),
        Ok(None) => AlertPolicy::new(settings, now),
        // Better a mail twice than none any more.
        Err(error) => {
            tracing::error!("{error:#}: the alerts begin anew");
            AlertPolicy::new(settings, now)
        }
    };
    let (kept, tests) = (alerts.kept.clone(), alerts.tests.clone());
    let (mut kept, mut tests) = (kept.lock().await, tests.lock().await);
    let keeper = alerts.keeper.clone();
    let events = &keeper.room().await?.events;
    let mut news = VecDeque::new();
    alerts.missed.mark_changed();
    alerts.faults.mark_changed();
    alerts.trouble.send_replace(None);
    loop {
        let wake = policy.next_wake(alerts.clock.now());
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Ok(()) = alerts.faults.changed() => {
                let faults = alerts.faults.borrow_and_update().clone();
                // What the rules know already they hear once more for nothing.
                for (key, text) in &faults.lasting {
                    alerts.take(mails, &mut policy, Input::Fault { key, text }).await?;
                }
                for (key, text) in &faults.over {
                    alerts.take(mails, &mut policy, Input::FaultOver { key, text }).await?;
                }
            }
            Some(()) = tests.recv() => alerts.test(mails, &policy).await?,
            Ok(()) = alerts.missed.changed() => news = since(events, alerts.clock.now().at - CAUGHT_UP).await?,
            id = async { news.pop_front() }, if !news.is_empty() => {
                if let Some(id) = id {
                    alerts.look_at(mails, &mut policy, events, id).await?;
                }
            }
            Some(id) = kept.recv() => alerts.look_at(mails, &mut policy, events, id).await?,
            () = tokio::time::sleep(wake.unwrap_or(CAUGHT_UP)) => alerts.take(mails, &mut policy, Input::Tick).await?,
        }
    }
}

/// Events that came since then, the oldest first.
async fn since(events: &Events, then: Timestamp) -> Result<VecDeque<EventId>> {
    let mut filter = Filter { received_since: Some(then), limit: MOST, ..Filter::default() };
    let mut found = VecDeque::new();
    loop {
        let page = events.events(&filter).await?;
        for event in &page {
            found.push_front(event.id);
        }
        match page.last() {
            Some(last) if page.len() == MOST as usize => filter.before = Some(last.place()),
            _ => return Ok(found),
        }
    }
}

impl Alerts {
    async fn look_at(&self, mails: &Mails, policy: &mut AlertPolicy, events: &Events, id: EventId) -> Result<()> {
        let Some(event) = events.event(id).await? else { return Ok(()) };
        let (told, minute) = (as_told(&event), crate::clock::minute_of_day(event.began));
        self.take(mails, policy, Input::Event { event: &told, minute }).await
    }

    async fn take(&self, mails: &Mails, policy: &mut AlertPolicy, input: Input<'_>) -> Result<()> {
        let now = self.clock.now();
        let effects = policy.handle(input, now);
        if !policy.changed() {
            return Ok(());
        }
        let mut letters = Vec::new();
        for effect in effects {
            letters.extend(self.write(effect, now.at).await?);
        }
        if !letters.is_empty() && mails.size().await? > CAP {
            tracing::error!("too much mail waits: until it is less, mails have no pictures and clips");
            letters.iter_mut().for_each(LetterV1::shed);
        }
        mails.save(policy.memory(), &letters).await?;
        if !letters.is_empty() {
            self.post.send_replace(());
        }
        Ok(())
    }

    /// A mail that no rule holds back.
    async fn test(&self, mails: &Mails, policy: &AlertPolicy) -> Result<()> {
        let (writer, node, to, now) = (self.writer.clone(), self.node.clone(), self.settings.recipients.clone(), self.clock.now().at);
        let letter = tokio::task::spawn_blocking(move || writer.test(&node, to, now)).await?;
        mails.save(policy.memory(), &[letter]).await?;
        self.post.send_replace(());
        Ok(())
    }

    async fn write(&self, effect: Effect, now: Timestamp) -> Result<Vec<LetterV1>> {
        let writer = self.writer.clone();
        let why_armed = self.reason.borrow().clone();
        let work: Box<dyn FnOnce() -> Vec<LetterV1> + Send> = match effect {
            Effect::EventMail { movement, to, held_back } => {
                let event = self.keeper.room().await?.events.event(movement.event).await?;
                let clip = match event.as_ref().and_then(clip_of) {
                    Some(length) => Some((Some(length), None)),
                    // One that goes on may still get one.
                    None => event.filter(|event| event.ended.is_none()).map(|_| (None, None)),
                };
                let facts = Facts { why_armed, clip };
                Box::new(move || vec![writer.event(&movement, to, held_back, &facts, now)])
            }
            Effect::ClipMail { event, source, clip, length, to, held_back } => {
                let Some(event) = self.keeper.room().await?.events.event(event).await? else { return Ok(Vec::new()) };
                let attachment = event.attachments.iter().find(|known| known.attachment.hash == clip);
                let name = attachment.map_or_else(|| "clip".to_owned(), |known| known.attachment.name.clone());
                let movement = Movement { event: event.id, source, started: event.started, changed: event.changed, picture: None };
                let clip = ClipFile { mime: mime_of(&name).to_owned(), name, hash: clip };
                Box::new(move || vec![writer.clip(&movement, clip, length, to, held_back, now)])
            }
            Effect::Digest(digest) => Box::new(move || vec![writer.digest(&digest, now)]),
            Effect::FaultMail { notices, to, held_back } => Box::new(move || {
                let count = notices.len();
                let letters = notices.iter().enumerate();
                letters.map(|(nth, notice)| writer.fault(notice, to.clone(), held_back.filter(|_| nth + 1 == count), now)).collect()
            }),
            Effect::Arrived { .. } => return Ok(Vec::new()),
        };
        Ok(tokio::task::spawn_blocking(work).await?)
    }
}

/// As the rules know it: the camera as people call it, and only those attachments that are here.
fn as_told(event: &StoredEvent) -> Event {
    let attachments = event.attachments.iter().filter(|known| known.kept_at.is_some()).map(|known| known.attachment.clone());
    Event {
        id: event.id,
        source: label(&event.camera, &event.source),
        kind: event.kind,
        started: event.began,
        ended: event.ended,
        changed: event.changed,
        state: event.state,
        attachments: attachments.collect(),
        rev: event.rev,
    }
}

/// The node's name is enough where it has one source that nobody named.
pub(super) fn label(camera: &str, source: &str) -> String {
    if source == ONLY || source == camera { camera.to_owned() } else { format!("{camera}/{source}") }
}

/// Bytes of the event's clip, if it has one.
fn clip_of(event: &StoredEvent) -> Option<u64> {
    let mut attachments = event.attachments.iter().map(|known| &known.attachment);
    attachments.find(|attachment| attachment.kind == AttachmentKind::Clip).map(|clip| clip.length)
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
    use dms3_core::event::{Attachment, EventKind};
    use dms3_core::id::NodeId;
    use dms3_web::templates::Templates;

    use super::*;
    use crate::mesh::testing::eventually;
    use crate::store::media::Media;

    struct Desk {
        dir: tempfile::TempDir,
        alerts: Alerts,
        faults: watch::Sender<Faults>,
        missed: watch::Sender<()>,
    }

    async fn desk() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let keeper = Keeper::new(dir.path().to_owned(), clock.clone(), None);
        let media: Media = keeper.room().await.unwrap().media.clone();
        let ((faults, faults_in), (missed, missed_in)) = (watch::channel(Faults::default()), watch::channel(()));
        let alerts = Alerts {
            settings: Settings { recipients: vec!["anna@example.org".to_owned()], ..Settings::default() },
            keeper,
            mails: MailBox::new(dir.path().to_owned()),
            writer: Writer { templates: Templates::new(None), media, dashboard: None, max_attachment: 1000 },
            clock,
            kept: Arc::new(Mutex::new(mpsc::channel(1).1)),
            missed: missed_in,
            faults: faults_in,
            reason: watch::channel(None).1,
            tests: Arc::new(Mutex::new(mpsc::channel(1).1)),
            node: "hall".to_owned(),
            post: watch::Sender::new(()),
            trouble: watch::Sender::new(None),
        };
        Desk { dir, alerts, faults, missed }
    }

    impl Desk {
        /// Runs the service until so many mails lie in the spool, or for a moment longer if there are to be no more.
        async fn runs_until(&self, number: usize) {
            let stop = CancellationToken::new();
            let mails = self.alerts.mails.open().await.unwrap();
            let look = async {
                eventually("the mails are made", async || mails.waiting().await.unwrap().len() >= number).await;
                // Whatever it had to say it says before it takes a word of a person.
                stop.cancel();
            };
            let (ended, ()) = tokio::join!(run(self.alerts.clone(), stop.clone()), look);
            ended.unwrap();
            assert_eq!(mails.waiting().await.unwrap().len(), number);
        }
    }

    #[tokio::test]
    async fn a_fault_is_mailed_once_however_often_the_alerts_are_started_anew_and_its_end_once_it_is_over() {
        let desk = desk().await;
        desk.faults.send_modify(|faults| faults.begins("lost:1".to_owned(), "porch is lost.".to_owned()));
        desk.runs_until(1).await;
        desk.runs_until(1).await;
        // It ends while nobody listens.
        desk.faults.send_modify(|faults| faults.ends("lost:1".to_owned(), "porch is back.".to_owned()));
        desk.runs_until(2).await;
        desk.runs_until(2).await;
        let mails = desk.alerts.mails.open().await.unwrap();
        let last = *mails.waiting().await.unwrap().last().unwrap();
        assert!(mails.mail(last).await.unwrap().unwrap().letter.unwrap().text.contains("porch is back"));
    }

    #[tokio::test]
    async fn an_event_that_nobody_could_be_told_of_is_looked_up_and_mailed() {
        let desk = desk().await;
        let room = desk.alerts.keeper.room().await.unwrap();
        let now = desk.alerts.clock.now().at;
        // Seen five hours ago by a camera that comes back only now.
        let began = now - Duration::from_secs(5 * 3600);
        let event = Event {
            id: EventId::new(began, [1; 10]),
            source: "cam".to_owned(),
            kind: EventKind::Movement,
            started: began,
            ended: Some(began),
            changed: None,
            state: dms3_core::arming::ArmState::Away,
            attachments: Vec::<Attachment>::new(),
            rev: 1,
        };
        room.events.keep_event(&room.media, NodeId([1; 32]), "porch", &event, began, now).await.unwrap();
        desk.missed.send_replace(());
        desk.runs_until(1).await;
        assert!(desk.dir.path().join("mail.db").exists());
    }
}
