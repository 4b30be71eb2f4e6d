//! Hands over what waits in the outbox, over whatever link is up: events, then pictures, then clips.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use dms3_core::event::{AttachmentKind, Event};
use dms3_core::id::EventId;
use dms3_core::protocol::events::{BytesV1, EventV1};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::OutboxV1;
use dms3_core::time::{Mono, SinceBoot};
use futures_util::future::try_join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Kept, TIDY};
use crate::clock::{Clock, boot};
use crate::mesh::link::Connection;
use crate::mesh::transfer::{TransferError, Urgency, send_bytes, send_event};

/// Events told and pictures sent at once; clips go one by one.
const AT_ONCE: usize = 8;
/// Answers that are written down together, with one fsync.
const ANSWERS: usize = 32;
/// What is not answered in this time is told again.
const AGAIN: Duration = Duration::from_secs(30);
/// The same trouble is told this often.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// Contents that were sent and not taken and rest; where there are more the coordinator takes none, and the others need not try.
const RESTING: usize = 32;
/// What waits is counted for people no more often than this.
const COUNT: Duration = Duration::from_millis(500);

/// What binds it to the link.
#[derive(Debug)]
pub struct Wire {
    /// The link that is up.
    pub link: watch::Receiver<Option<Connection>>,
    /// What the coordinator answered: [`Message::EventKept`] and its like.
    pub answers: mpsc::Receiver<Message>,
    pub counts: watch::Sender<OutboxV1>,
}

/// What the sender needs.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) kept: Kept,
    pub(super) clock: Clock,
    pub(super) wire: Wire,
}

/// What is on its way over one link.
#[derive(Debug, Default)]
struct OnTheWay {
    told: HashMap<EventId, (u32, Instant)>,
    /// Contents that are sent (`None`), or since when they rest: all of it went, or the coordinator wanted no more of it.
    bytes: HashMap<[u8; 32], Option<Instant>>,
    clip: Option<[u8; 32]>,
    /// What the coordinator has of each content that it lacks. It says so over this link, and it holds for one sending.
    from: HashMap<[u8; 32], u64>,
    /// Sent and not taken: it is looked at here before it is sent again.
    doubted: HashSet<[u8; 32]>,
    /// Refused for a while.
    rests: HashMap<EventId, Instant>,
    /// Why, and when people were told so.
    refusal: Option<(String, Instant)>,
}

/// A disk that takes nothing must not end it: whoever watches goes on watching.
pub(super) async fn deliver(mut delivery: Delivery, stop: CancellationToken) -> Result<()> {
    let mut said: Option<String> = None;
    loop {
        let began = Instant::now();
        let Err(error) = delivery.work(&stop).await else { return Ok(()) };
        let why = format!("{error:#}");
        if began.elapsed() > 2 * TIDY || said.as_ref() != Some(&why) {
            tracing::error!("the outbox cannot be written, what was seen waits: {why}");
        }
        said = Some(why);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(TIDY) => {}
        }
    }
}

/// What came of sending a content.
#[derive(Debug)]
struct Sent {
    event: EventId,
    hash: [u8; 32],
    result: Result<(), NotSent>,
}

#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("it is not what it was when it was kept")]
    Spoiled,
}

impl Delivery {
    /// Until the stop; an error is one of the disk. It can be begun again: what was on its way is asked anew.
    async fn work(&mut self, stop: &CancellationToken) -> Result<()> {
        let mut tidy = tokio::time::interval(TIDY);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut count, mut uncounted) = (tokio::time::interval(COUNT), true);
        count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut news = self.kept.news.subscribe();
        let mut sending = JoinSet::new();
        let mut way = OnTheWay::default();
        let mut link = self.wire.link.clone();
        while self.wire.answers.try_recv().is_ok() {}
        loop {
            let connection = link.borrow_and_update().clone();
            if let Some(connection) = &connection {
                self.send(connection, &mut way, &mut sending).await?;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = link.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // Whatever was on its way may not have arrived: all is asked anew.
                    sending.shutdown().await;
                    way = OnTheWay::default();
                }
                Some(answer) = self.wire.answers.recv() => {
                    let mut answers = vec![answer];
                    while answers.len() < ANSWERS && let Ok(more) = self.wire.answers.try_recv() {
                        answers.push(more);
                    }
                    for answer in &answers {
                        way.heard(answer);
                    }
                    try_join_all(answers.into_iter().map(|answer| self.heard(answer))).await?;
                }
                Some(sent) = sending.join_next() => match sent {
                    Ok(sent) => self.sent(sent, &mut way).await?,
                    Err(error) => {
                        tracing::error!("sending a picture or clip panicked, all is asked anew: {error}");
                        sending.shutdown().await;
                        way = OnTheWay::default();
                    }
                },
                Ok(()) = news.changed() => {}
                _ = tidy.tick() => {
                    self.kept.tidy(&self.clock).await?;
                    way.forget_old();
                }
                _ = count.tick(), if uncounted => {
                    let counts = self.kept.outbox.counts().await?;
                    self.wire.counts.send_if_modified(|told| std::mem::replace(told, counts) != counts);
                    uncounted = false;
                    continue;
                }
            }
            uncounted = true;
        }
    }

    async fn send(&self, connection: &Connection, way: &mut OnTheWay, sending: &mut JoinSet<Sent>) -> Result<()> {
        let outbox = &self.kept.outbox;
        for event in outbox.untold(u32::try_from(AT_ONCE)?).await? {
            let known = way.told.get(&event.id).is_some_and(|(rev, _)| *rev == event.rev);
            if !known && !self.tell(connection, way, &event).await {
                return Ok(());
            }
        }
        for (kind, urgency) in [(AttachmentKind::Picture, Urgency::Picture), (AttachmentKind::Clip, Urgency::Clip)] {
            // Those that rest must not hide the others.
            for missing in outbox.missing(kind, u32::try_from(AT_ONCE + way.bytes.len())?).await? {
                let full = match urgency {
                    Urgency::Picture => way.bytes.values().filter(|rests| rests.is_none()).count() >= AT_ONCE,
                    Urgency::Clip => way.clip.is_some(),
                };
                if full || way.bytes.len() >= AT_ONCE + RESTING || way.bytes.contains_key(&missing.hash) {
                    continue;
                }
                let Some(from) = way.from.get(&missing.hash) else {
                    // Another link had the word, or used it: what is there now the answer to the next telling says.
                    if !way.told.contains_key(&missing.event)
                        && let Some(event) = outbox.event(missing.event).await?
                        && !self.tell(connection, way, &event).await
                    {
                        return Ok(());
                    }
                    continue;
                };
                let from = (*from).min(missing.length);
                way.from.remove(&missing.hash);
                let file = match self.kept.media.get(&missing.hash) {
                    Ok(file) => file,
                    Err(error) => {
                        tracing::error!("a picture or clip of event {} is gone from the outbox: {error}", missing.event);
                        outbox.attachment_kept(missing.event, missing.hash).await?;
                        outbox.lost("gone", 1).await?;
                        continue;
                    }
                };
                way.bytes.insert(missing.hash, None);
                if urgency == Urgency::Clip {
                    way.clip = Some(missing.hash);
                }
                let head = BytesV1 { event: missing.event, hash: missing.hash, from };
                let (connection, media) = (connection.clone(), self.kept.media.clone());
                let is_doubted = way.doubted.remove(&missing.hash);
                sending.spawn(async move {
                    let (event, hash) = (head.event, head.hash);
                    let sent = async {
                        if is_doubted
                            && !tokio::task::spawn_blocking(move || media.is_right(&hash))
                                .await
                                .map_err(std::io::Error::other)
                                .flatten()
                                .map_err(TransferError::from)?
                        {
                            return Err(NotSent::Spoiled);
                        }
                        Ok(send_bytes(&connection, head, file, urgency).await?)
                    };
                    Sent { event, hash, result: sent.await }
                });
            }
        }
        Ok(())
    }

    /// False: nothing more can be told now.
    async fn tell(&self, connection: &Connection, way: &mut OnTheWay, event: &Event) -> bool {
        if way.told.len() >= AT_ONCE || way.rests.contains_key(&event.id) {
            return true;
        }
        let now = self.clock.now();
        way.told.insert(event.id, (event.rev, Instant::now()));
        let sent = send_event(connection, EventV1::of(event, age_of(event, now.mono))).await;
        sent.inspect_err(|error| tracing::debug!("an event was not told: {error}")).is_ok()
    }

    async fn sent(&self, sent: Sent, way: &mut OnTheWay) -> Result<()> {
        way.clip.take_if(|clip| *clip == sent.hash);
        match sent.result {
            Err(NotSent::Spoiled) => {
                tracing::error!("a picture or clip of event {} is spoiled on this disk and is given up", sent.event);
                way.bytes.remove(&sent.hash);
                return self.kept.outbox.spoiled(sent.hash).await;
            }
            Err(error) => tracing::debug!("an attachment was not sent: {error}"),
            Ok(()) => {}
        }
        // Unless the answer was here first it has its time now, and whoever wants none of it his peace.
        if let Some(rests) = way.bytes.get_mut(&sent.hash) {
            *rests = Some(Instant::now());
        }
        Ok(())
    }

    async fn heard(&self, answer: Message) -> Result<()> {
        let outbox = &self.kept.outbox;
        match answer {
            Message::EventKept(kept) => {
                outbox.kept(kept.id, kept.rev, &kept.missing.iter().map(|missing| missing.hash).collect::<Vec<_>>()).await
            }
            Message::AttachmentKept(kept) => outbox.attachment_kept(kept.event, kept.hash).await,
            Message::EventRefused(refused) if refused.again_after.is_none() => {
                tracing::error!("the coordinator will not take event {}: {}; it stays here", refused.id, refused.why);
                outbox.refused(refused.id, &refused.why).await
            }
            _ => Ok(()),
        }
    }
}

/// How long ago it began, by the clock that nobody sets; milliseconds.
fn age_of(event: &Event, mono: Mono) -> Option<u64> {
    let age = SinceBoot { boot: boot()?, mono }.since(event.started_since_boot?)?;
    u64::try_from(age.as_millis()).ok()
}

impl OnTheWay {
    fn heard(&mut self, answer: &Message) {
        match answer {
            Message::EventKept(kept) => {
                self.told.remove(&kept.id);
                self.from.extend(kept.missing.iter().map(|missing| (missing.hash, missing.from)));
            }
            Message::AttachmentKept(kept) => self.ended(&kept.hash),
            Message::EventRefused(refused) => {
                self.told.remove(&refused.id);
                if let Some(secs) = refused.again_after {
                    let is_known = |(why, at): &(String, Instant)| *why == refused.why && at.elapsed() < TELL_EVERY;
                    if !self.refusal.as_ref().is_some_and(is_known) {
                        tracing::warn!("the coordinator does not take event {} now, nor perhaps others: {}", refused.id, refused.why);
                        self.refusal = Some((refused.why.clone(), Instant::now()));
                    }
                    self.rests.insert(refused.id, Instant::now() + Duration::from_secs(secs.into()));
                }
            }
            _ => {}
        }
    }

    /// The coordinator has it.
    fn ended(&mut self, hash: &[u8; 32]) {
        self.bytes.remove(hash);
        self.doubted.remove(hash);
        // Another event that lacks it was told what was there before.
        self.from.remove(hash);
        self.clip.take_if(|clip| clip == hash);
    }

    fn forget_old(&mut self) {
        let now = Instant::now();
        self.told.retain(|_, (_, since)| now.duration_since(*since) < AGAIN);
        self.rests.retain(|_, until| *until > now);
        let over = self.bytes.extract_if(|_, since| since.is_some_and(|since| now.duration_since(since) >= AGAIN));
        for (hash, _) in over {
            // What was said of it meanwhile is old.
            self.from.remove(&hash);
            self.doubted.insert(hash);
        }
    }
}
