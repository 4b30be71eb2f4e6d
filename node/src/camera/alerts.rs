//! A camera that mails by itself: what the coordinator does not acknowledge in time, and that the coordinator is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::alerting::Input;
use dms3_core::event::{Event, EventKind, OwnMail};
use dms3_core::fault::{Fault, FaultKind};
use dms3_core::id::EventId;
use dms3_core::protocol::frame::from_bytes;
use dms3_core::protocol::message::{SignedStateV1, StateV1};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outbox::Kept;
use super::uplink::LinkStatus;
use crate::clock::minute_of_day;
use crate::mailer::desk::{Book, Circumstances, Desk, DeskContext, label};

/// How long the clip of an event may come after what was mailed of it.
const GOES_ON: Duration = Duration::from_secs(3600);
/// Events that are looked at, the newest.
const LOOKED_AT: u32 = 500;
/// Hooks that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Nothing is due: whatever happens wakes it earlier.
const IDLE: Duration = Duration::from_secs(600);
/// A coordinator that said that it stops, as for an update, is missed no sooner.
const BACK_WITHIN: Duration = dms3_core::health::BACK_WITHIN;
/// Names the condition that nothing is heard of the coordinator.
const LOST: &str = "coordinator";

/// When a camera with `[mail]` mails an event by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailAfter {
    /// Every event at once, as the Go program did; the coordinator mails none of them.
    Always,
    /// What the coordinator does not acknowledge in this time.
    Unacknowledged(Duration),
}

impl Default for MailAfter {
    fn default() -> Self {
        Self::Unacknowledged(Duration::from_secs(30))
    }
}

/// What the service needs.
#[derive(Debug, Clone)]
pub struct Alerts {
    pub desk: DeskContext,
    pub after: MailAfter,
    /// The coordinator is missed for so long before that is mailed.
    pub lost_after: Duration,
    pub kept: watch::Receiver<Option<Kept>>,
    pub link: watch::Receiver<LinkStatus>,
    /// Says why the house is as it is.
    pub held: watch::Receiver<Option<SignedStateV1>>,
    pub tests: Arc<Mutex<mpsc::Receiver<()>>>,
    /// Of which events a mail server took a mail.
    pub sent: Arc<Mutex<mpsc::Receiver<Vec<EventId>>>>,
    /// Why no mail is made, for people.
    pub trouble: watch::Sender<Option<String>>,
}

/// An event that may have to be mailed.
#[derive(Debug)]
struct Known {
    since: Instant,
    /// The telling that the rules heard last.
    told: Option<u32>,
}

/// Until told to stop.
pub async fn run(mut alerts: Alerts, stop: CancellationToken) -> Result<()> {
    let mut kept = alerts.kept.clone();
    let kept = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        kept = kept.wait_for(Option::is_some) => kept?.clone(),
    };
    let Some(kept) = kept else { return Ok(()) };
    let (sent, tests) = (alerts.sent.clone(), alerts.tests.clone());
    let (mut sent, mut tests) = (sent.lock().await, tests.lock().await);
    let mut desk = Desk::open(alerts.desk.clone()).await?;
    let mut news = kept.news();
    let mut known = HashMap::new();
    let mut missed_since = Some(Instant::now());
    let mut told = false;
    alerts.trouble.send_replace(None);
    loop {
        let mut due = alerts.look(&mut desk, &kept, &mut known).await?;
        let link = alerts.link.borrow_and_update().clone();
        missed_since = if link.linked.is_some() { None } else { missed_since.or_else(|| Some(Instant::now())) };
        let name = alerts.name();
        let lost_after = if link.farewell { alerts.lost_after.max(BACK_WITHIN) } else { alerts.lost_after };
        match missed_since.map(|since| since + lost_after) {
            None => {
                told = false;
                let text = format!("{name} hears the coordinator again.");
                alerts.take(&mut desk, &kept, Input::FaultOver { key: LOST, text: &text }).await?;
            }
            Some(lost) if lost <= Instant::now() => {
                let after = dms3_core::time::duration_words(lost_after);
                let what = match link.farewell {
                    true => format!("The coordinator was stopped and has not come back for {after}: {name}"),
                    false => format!("{name} has heard nothing of the coordinator for {after}: it"),
                };
                let text = format!("{what} watches on, keeps what it sees and mails it.");
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("{text}");
                }
                let fault = Fault::new(LOST, FaultKind::CoordinatorGone { told_by: name }, text);
                alerts.take(&mut desk, &kept, Input::Fault(&fault)).await?;
            }
            Some(lost) => due = due.min(lost),
        }
        due = due.min(Instant::now() + desk.next_wake().unwrap_or(IDLE));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Ok(()) = news.changed() => tokio::time::sleep(TOGETHER).await,
            Ok(()) = alerts.link.changed() => {}
            Some(()) = tests.recv() => desk.test().await?,
            Some(events) = sent.recv() => {
                for id in events {
                    kept.mails(id, OwnMail::Sent).await?;
                }
            }
            () = tokio::time::sleep_until(due) => alerts.take(&mut desk, &kept, Input::Tick).await.map(drop)?,
        }
    }
}

impl Alerts {
    /// Tells the rules what is to be mailed by this camera. When it is to look again, if nothing happens before.
    async fn look(&self, desk: &mut Desk, kept: &Kept, known: &mut HashMap<EventId, Known>) -> Result<Instant> {
        let now = Instant::now();
        let recent = self.desk.clock.now().at - GOES_ON;
        let events = kept.outbox.to_mail(self.after == MailAfter::Always, recent, LOOKED_AT).await?;
        known.retain(|id, _| events.iter().any(|event| event.id == *id));
        let mut next = now + IDLE;
        for event in events {
            let entry = known.entry(event.id).or_insert(Known { since: now, told: None });
            if let (MailAfter::Unacknowledged(after), OwnMail::None) = (self.after, event.own_mail)
                && entry.since + after > now
            {
                next = next.min(entry.since + after);
                continue;
            }
            if entry.told.replace(event.rev) == Some(event.rev) {
                continue;
            }
            let id = event.id;
            // A picture that is lost tells the coordinator by itself; of what else there is it hears that it need not mail it.
            let marks = event.own_mail == OwnMail::None && event.kind == EventKind::Movement;
            let minute = minute_of_day(event.started);
            let told = Event { source: label(&self.name(), &event.source), ..event };
            if self.take(desk, kept, Input::Event { event: &told, minute }).await? && marks {
                kept.mails(id, OwnMail::Begun).await?;
            }
        }
        Ok(next)
    }

    async fn take(&self, desk: &mut Desk, kept: &Kept, input: Input<'_>) -> Result<bool> {
        let reason = self.held.borrow().as_ref().and_then(|held| from_bytes::<StateV1>(&held.payload).ok());
        let reason = reason.filter(|state| state.arm_state().is_armed());
        let why_armed = reason.map(|state| format!("{}: {}.", state.arm_state().words(), state.reason));
        let circumstances = Circumstances { why_armed, note: self.note() };
        desk.take(input, &circumstances, Book::Camera(&kept.outbox)).await
    }

    /// Why the coordinator does not mail it; a camera that always mails need not say so each time.
    fn note(&self) -> Option<String> {
        let linked = self.link.borrow().linked.is_some();
        let why = match self.after {
            MailAfter::Always => return None,
            MailAfter::Unacknowledged(_) if linked => "the coordinator has not confirmed that it has it",
            MailAfter::Unacknowledged(_) => "the coordinator does not answer",
        };
        Some(format!("{} sent this by itself: {why}.", self.name()))
    }

    /// How people call this camera.
    fn name(&self) -> String {
        self.link.borrow().name.clone().unwrap_or_else(|| self.desk.machine.clone())
    }
}
