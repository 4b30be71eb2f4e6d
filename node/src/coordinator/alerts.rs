//! Tells the rules of alerts what the house sees and what is wrong. Their mails are the desk's business, and bringing them away the post's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use dms3_core::alerting::Input;
use dms3_core::event::{Event, OwnMail};
use dms3_core::fault::Fault;
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::events::Keeper;
use crate::clock::minute_of_day;
use crate::mailer::desk::{Book, Circumstances, Desk, DeskContext, label};
use crate::store::events::Events;
use dms3_core::event::StoredEvent;
use dms3_core::event::{EventFilter, MOST};

/// So far back it is looked at least when something may have been missed, and how far at most: afterwards it is no news any more.
const LOOK_BACK: Duration = Duration::from_secs(3600);
const NO_NEWS: Duration = Duration::from_secs(3 * 86_400);
/// How often it is noted that all is looked at, and what may be on its way then.
const NOTE_EVERY: Duration = Duration::from_secs(600);
const ON_ITS_WAY: Duration = Duration::from_secs(60);
/// Faults that ended and of which the words are kept until they are told; of what happened once, so much, too.
const ENDED: usize = 200;
/// A camera that mails by itself and does not say in this time that its mail server took it is not waited for any longer.
const CAMERAS_PATIENCE: Duration = Duration::from_secs(120);
/// Events that wait for their cameras; with more the house mails at once.
const WAITING: usize = 1000;

/// What a service has people told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It happened, and has no end of its own.
    Once(Fault),
    Begins(Fault),
    Ends {
        key: String,
        text: String,
    },
}

/// What is wrong, as state: whoever was away for a while sees what lasts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// By their keys.
    lasting: BTreeMap<String, Fault>,
    /// What was said of those that ended last.
    over: BTreeMap<String, String>,
    /// What happened last, numbered, the oldest first.
    once: VecDeque<(u64, Fault)>,
}

impl Faults {
    pub fn begins(&mut self, fault: Fault) {
        self.over.remove(&fault.key);
        self.lasting.insert(fault.key.clone(), fault);
    }

    pub fn happened(&mut self, fault: Fault) {
        let number = self.once.back().map_or(1, |(last, _)| last + 1);
        self.once.push_back((number, fault));
        while self.once.len() > ENDED {
            self.once.pop_front();
        }
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
    pub desk: DeskContext,
    pub keeper: Keeper,
    /// Events of which something was kept.
    pub kept: Arc<Mutex<mpsc::Receiver<EventId>>>,
    /// Told if some of those could not be told.
    pub missed: watch::Receiver<()>,
    pub faults: watch::Receiver<Faults>,
    /// The number of what the rules heard last of what happened once: it outlives a restart of the service.
    pub heard: Arc<AtomicU64>,
    /// Why the house is as it is.
    pub reason: watch::Receiver<Option<String>>,
    /// The last time in which somebody came home and disarmed the house by that.
    pub arrivals: watch::Receiver<Option<(Timestamp, Timestamp)>>,
    pub tests: Arc<Mutex<mpsc::Receiver<()>>>,
    /// Why no mail is made, for people.
    pub trouble: watch::Sender<Option<String>>,
}

/// Until told to stop. What was kept while this did not run is caught up with first: an event that is told twice is known by its id.
pub async fn run(mut alerts: Alerts, stop: CancellationToken) -> Result<()> {
    let mut desk = Desk::open(alerts.desk.clone()).await?;
    let (kept, tests) = (alerts.kept.clone(), alerts.tests.clone());
    let (mut kept, mut tests) = (kept.lock().await, tests.lock().await);
    let keeper = alerts.keeper.clone();
    let events = &keeper.room().await?.events;
    let mut news = VecDeque::new();
    let mut cameras = VecDeque::new();
    let mails = alerts.desk.mails.open().await?;
    let mut caught_up = mails.caught_up().await?;
    // When it is looked whether that can be noted; `None`: nothing came since.
    let mut note_at: Option<Instant> = None;
    alerts.missed.mark_changed();
    alerts.faults.mark_changed();
    alerts.trouble.send_replace(None);
    loop {
        let wake = desk.next_wake().unwrap_or(LOOK_BACK);
        let patience = cameras.front().map(|(until, _)| *until);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Ok(()) = alerts.faults.changed() => {
                let faults = alerts.faults.borrow_and_update().clone();
                // What the rules know already they hear once more for nothing.
                for fault in faults.lasting.values() {
                    alerts.take(&mut desk, Input::Fault(fault), events).await?;
                }
                for (key, text) in &faults.over {
                    alerts.take(&mut desk, Input::FaultOver { key, text }, events).await?;
                }
                for (number, fault) in &faults.once {
                    if *number > alerts.heard.load(Ordering::Relaxed) {
                        alerts.take(&mut desk, Input::Once(fault), events).await?;
                        alerts.heard.store(*number, Ordering::Relaxed);
                    }
                }
            }
            // One from before a restart changes nothing that was told since.
            Ok(()) = alerts.arrivals.changed() => {
                let arrival = *alerts.arrivals.borrow_and_update();
                if let Some((from, to)) = arrival {
                    alerts.take(&mut desk, Input::Arrival { from, to }, events).await?;
                }
            }
            Some(()) = tests.recv() => desk.test().await?,
            () = tokio::time::sleep(wake) => alerts.take(&mut desk, Input::Tick, events).await?,
            () = tokio::time::sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                if let Some((_, id)) = cameras.pop_front() {
                    alerts.tell(&mut desk, events, id).await?;
                }
            }
            () = tokio::time::sleep_until(note_at.unwrap_or_else(Instant::now)), if note_at.is_some() => {
                let knows_all = news.is_empty() && cameras.is_empty() && kept.is_empty() && !alerts.missed.has_changed().unwrap_or(false);
                note_at = (!knows_all).then(|| Instant::now() + NOTE_EVERY);
                if knows_all {
                    let until = keeper.now() - ON_ITS_WAY;
                    mails.note_caught_up(until).await?;
                    caught_up = Some(until);
                }
            }
            // What comes now goes first: whatever is looked up once more is older.
            Some(id) = kept.recv() => {
                note_at.get_or_insert_with(|| Instant::now() + NOTE_EVERY);
                alerts.look_at(&mut desk, &mut cameras, events, id).await?;
            }
            // Looked through to its end, however much is missed meanwhile: then once more.
            id = async { news.pop_front() }, if !news.is_empty() => {
                if let Some(id) = id {
                    alerts.look_at(&mut desk, &mut cameras, events, id).await?;
                }
            }
            Ok(()) = alerts.missed.changed() => {
                note_at.get_or_insert_with(|| Instant::now() + NOTE_EVERY);
                news = since(events, look_from(caught_up, keeper.now())).await?;
            }
        }
    }
}

/// From when on it is looked what came, where all is known that came until `caught_up`.
fn look_from(caught_up: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let least = now - LOOK_BACK;
    caught_up.unwrap_or(least).min(least).max(now - NO_NEWS)
}

/// Events that came since then, the oldest first.
async fn since(events: &Events, then: Timestamp) -> Result<VecDeque<EventId>> {
    let mut filter = EventFilter { received_since: Some(then), limit: MOST, ..EventFilter::default() };
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

/// When a camera is not waited for any longer, and with which event.
type Cameras = VecDeque<(Instant, EventId)>;

impl Alerts {
    async fn look_at(&self, desk: &mut Desk, cameras: &mut Cameras, events: &Events, id: EventId) -> Result<()> {
        let Some(event) = events.event(id).await? else { return Ok(()) };
        let waits = cameras.iter().any(|(_, waiting)| *waiting == id);
        match event.own_mail {
            OwnMail::Sent => {}
            OwnMail::Begun if waits => return Ok(()),
            OwnMail::Begun if cameras.len() < WAITING => {
                cameras.push_back((Instant::now() + CAMERAS_PATIENCE, id));
                return Ok(());
            }
            OwnMail::None | OwnMail::Begun => return self.tell(desk, events, id).await,
        }
        tracing::debug!("event {id} was mailed by {} itself", event.camera);
        cameras.retain(|(_, waiting)| *waiting != id);
        Ok(())
    }

    async fn tell(&self, desk: &mut Desk, events: &Events, id: EventId) -> Result<()> {
        let Some(event) = events.event(id).await? else { return Ok(()) };
        let told = as_told(&event);
        self.take(desk, Input::Event { event: &told, minute: minute_of_day(event.began) }, events).await
    }

    async fn take(&self, desk: &mut Desk, input: Input<'_>, events: &Events) -> Result<()> {
        let circumstances = Circumstances { why_armed: self.reason.borrow().clone(), note: None };
        desk.take(input, &circumstances, Book::House(events)).await?;
        Ok(())
    }
}

/// As the rules know it: the camera as people call it, and only those attachments that are here.
fn as_told(event: &StoredEvent) -> Event {
    let here = event.attachments.iter().filter(|known| known.kept_at.is_some()).map(|known| known.attachment.clone());
    Event {
        id: event.id,
        source: label(&event.camera, &event.source),
        kind: event.kind,
        started: event.began,
        started_since_boot: None,
        ended: event.ended,
        changed: event.changed,
        state: event.state,
        attachments: here.collect(),
        rev: event.rev,
        own_mail: event.own_mail,
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::alerting::Settings;
    use dms3_core::event::{Attachment, EventKind};
    use dms3_core::fault::FaultKind;
    use dms3_core::id::NodeId;
    use dms3_web::templates::MAIL;

    use super::*;
    use crate::clock::{Clock, StandStill};
    use crate::mailer::letters::Writer;
    use crate::mesh::testing::eventually;
    use crate::store::mails::MailBox;
    use crate::store::media::Media;

    struct TestDesk {
        dir: tempfile::TempDir,
        alerts: Alerts,
        faults: watch::Sender<Faults>,
        missed: watch::Sender<()>,
    }

    async fn desk() -> TestDesk {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let keeper = Keeper::new(dir.path().to_owned(), clock.clone(), None);
        let media: Media = keeper.room().await.unwrap().media.clone();
        let ((faults, faults_in), (missed, missed_in)) = (watch::channel(Faults::default()), watch::channel(()));
        let desk = DeskContext {
            settings: Settings { recipients: vec!["anna@example.org".to_owned()], ..Settings::default() },
            mails: MailBox::new(dir.path().to_owned()),
            writer: Writer { templates: MAIL.templates(None), media, dashboard: None, max_attachment: 1000, with_pictures: true },
            clock,
            machine: "hall".to_owned(),
            post: watch::Sender::new(()),
        };
        let alerts = Alerts {
            desk,
            keeper,
            kept: Arc::new(Mutex::new(mpsc::channel(1).1)),
            missed: missed_in,
            faults: faults_in,
            heard: Arc::default(),
            reason: watch::channel(None).1,
            arrivals: watch::channel(None).1,
            tests: Arc::new(Mutex::new(mpsc::channel(1).1)),
            trouble: watch::Sender::new(None),
        };
        TestDesk { dir, alerts, faults, missed }
    }

    impl TestDesk {
        /// Runs the service until so many mails lie in the spool, or for a moment longer if there are to be no more.
        async fn runs_until(&self, number: usize) {
            let stop = CancellationToken::new();
            let mails = self.alerts.desk.mails.open().await.unwrap();
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
        let lost = Fault::new("lost:1", FaultKind::CameraLost { camera: "porch".to_owned() }, "porch is lost.");
        desk.faults.send_modify(|faults| faults.begins(lost));
        desk.runs_until(1).await;
        desk.runs_until(1).await;
        // It ends while nobody listens.
        desk.faults.send_modify(|faults| faults.ends("lost:1".to_owned(), "porch is back.".to_owned()));
        desk.runs_until(2).await;
        desk.runs_until(2).await;
        let mails = desk.alerts.desk.mails.open().await.unwrap();
        let last = *mails.waiting().await.unwrap().last().unwrap();
        assert!(mails.mail(last).await.unwrap().unwrap().letter.unwrap().text.contains("porch is back"));
    }

    fn locked(number: u32) -> Fault {
        let text = format!("Enrollment token {number} was locked.");
        Fault::new(format!("token-locked-{number}"), FaultKind::TokenLocked { source: "10.0.0.9".to_owned() }, text)
    }

    #[tokio::test]
    async fn what_happened_once_is_mailed_once_however_often_the_alerts_or_the_coordinator_are_started_anew() {
        let mut desk = desk().await;
        desk.faults.send_modify(|faults| faults.happened(locked(1)));
        desk.runs_until(1).await;
        desk.faults.send_modify(|faults| faults.happened(locked(2)));
        desk.runs_until(2).await;
        desk.runs_until(2).await;
        let mails = desk.alerts.desk.mails.open().await.unwrap();
        let last = *mails.waiting().await.unwrap().last().unwrap();
        assert_eq!(mails.mail(last).await.unwrap().unwrap().letter.unwrap().subject, "DMS3: A pairing word is locked");
        // Of the coordinator's next process nothing but the disk is left.
        (desk.faults, desk.alerts.faults) = watch::channel(Faults::default());
        desk.alerts.heard = Arc::default();
        desk.runs_until(2).await;
    }

    #[test]
    fn a_thousand_things_that_happened_once_take_no_more_room_than_a_few() {
        let mut faults = Faults::default();
        (0..1000).for_each(|number| faults.happened(locked(number)));
        assert_eq!((faults.once.len(), faults.lasting.len(), faults.once.back().unwrap().0), (ENDED, 0, 1000));
    }

    /// Of a movement that the camera tells of now.
    async fn kept(desk: &TestDesk, began: Timestamp, received: Timestamp) {
        let event = Event {
            id: EventId::new(began, rand::random()),
            source: "cam".to_owned(),
            kind: EventKind::Movement,
            started: began,
            started_since_boot: None,
            ended: Some(began),
            changed: None,
            state: dms3_core::arming::ArmState::Away,
            attachments: Vec::<Attachment>::new(),
            rev: 1,
            own_mail: OwnMail::None,
        };
        let room = desk.alerts.keeper.room().await.unwrap();
        room.events.keep_event(&room.media, NodeId([1; 32]), "porch", &event, began, received).await.unwrap();
    }

    #[tokio::test]
    async fn an_event_that_nobody_could_be_told_of_is_looked_up_and_mailed() {
        let desk = desk().await;
        let now = desk.alerts.desk.clock.now().at;
        // Seen five hours ago by a camera that comes back only now.
        kept(&desk, now - 5 * LOOK_BACK, now).await;
        desk.missed.send_replace(());
        desk.runs_until(1).await;
        assert!(desk.dir.path().join("mail.db").exists());
    }

    #[tokio::test]
    async fn what_came_just_before_the_coordinator_went_off_for_hours_is_mailed_when_it_is_back() {
        let desk = desk().await;
        let now = desk.alerts.desk.clock.now().at;
        let mails = desk.alerts.desk.mails.open().await.unwrap();
        mails.note_caught_up(now - 6 * LOOK_BACK).await.unwrap();
        kept(&desk, now - 5 * LOOK_BACK, now - 5 * LOOK_BACK).await;
        // What came before that was mailed then.
        kept(&desk, now - 7 * LOOK_BACK, now - 7 * LOOK_BACK).await;
        desk.runs_until(1).await;

        assert_eq!(look_from(None, now), now - LOOK_BACK);
        assert_eq!(look_from(Some(now), now), now - LOOK_BACK, "a clock that was set back hides nothing");
        assert_eq!(look_from(Some(now - NO_NEWS - LOOK_BACK), now), now - NO_NEWS);
    }

    #[tokio::test]
    async fn that_all_is_looked_at_is_noted_after_a_while() {
        let desk = desk().await;
        let now = desk.alerts.desk.clock.now().at;
        let mails = desk.alerts.desk.mails.open().await.unwrap();
        kept(&desk, now, now).await;
        let stop = CancellationToken::new();
        let look = async {
            eventually("it is mailed", async || mails.waiting().await.unwrap().len() == 1).await;
            assert_eq!(mails.caught_up().await.unwrap(), None);
            let time = StandStill::begin();
            tokio::time::advance(NOTE_EVERY + Duration::from_secs(1)).await;
            while mails.caught_up().await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
            time.end().await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(run(desk.alerts.clone(), stop.clone()), look);
        ended.unwrap();
        let noted = mails.caught_up().await.unwrap().unwrap();
        assert!(noted <= desk.alerts.desk.clock.now().at - ON_ITS_WAY && noted >= now - ON_ITS_WAY);
    }
}
