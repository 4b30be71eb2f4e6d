//! Hands over what waits in the outbox, and hears what became of it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use dms3_core::event::{AttachmentKind, Event};
use dms3_core::id::EventId;
use dms3_core::protocol::events::{BytesV1, EventV1};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::OutboxV1;
use dms3_core::time::{Mono, Timestamp};
use futures_util::future::try_join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Kept;
use crate::clock::Clock;
use crate::mesh::link::Connection;
use crate::mesh::transfer::{Urgency, send_bytes, send_event};

/// Events told and pictures sent at once; clips go one by one.
const AT_ONCE: usize = 8;
/// Answers that are written down together, with one fsync.
const ANSWERS: usize = 32;
/// What is not answered in this time is told again.
const AGAIN: Duration = Duration::from_secs(30);
/// What waits is counted for people no more often than this.
const COUNT: Duration = Duration::from_millis(500);
/// How often it is tidied.
const TIDY: Duration = Duration::from_secs(10);

/// What the sender needs.
#[derive(Debug)]
pub struct Delivery {
    pub kept: Kept,
    pub clock: Clock,
    /// The link that is up.
    pub link: watch::Receiver<Option<Connection>>,
    /// What the coordinator answered: [`Message::EventKept`] and its like.
    pub answers: mpsc::Receiver<Message>,
    pub counts: watch::Sender<OutboxV1>,
}

/// What is on its way over one link.
#[derive(Debug, Default)]
struct OnTheWay {
    told: HashMap<EventId, (u32, Instant)>,
    /// Contents, and since when.
    bytes: HashMap<[u8; 32], Instant>,
    clip: Option<[u8; 32]>,
    /// What the coordinator has of each content that it lacks.
    from: HashMap<[u8; 32], u64>,
    /// Refused for a while.
    rests: HashMap<EventId, Instant>,
}

/// Hands over what waits, as long as the node lives.
pub async fn deliver(mut delivery: Delivery, stop: CancellationToken) -> Result<()> {
    let mut tidy = tokio::time::interval(TIDY);
    tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut count, mut uncounted) = (tokio::time::interval(COUNT), true);
    count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut news = delivery.kept.news.subscribe();
    let mut sending = JoinSet::new();
    let mut way = OnTheWay::default();
    let mut link = delivery.link.clone();
    loop {
        let connection = link.borrow_and_update().clone();
        if let Some(connection) = &connection {
            delivery.send(connection, &mut way, &mut sending).await?;
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
            Some(answer) = delivery.answers.recv() => {
                let mut answers = vec![answer];
                while answers.len() < ANSWERS && let Ok(more) = delivery.answers.try_recv() {
                    answers.push(more);
                }
                for answer in &answers {
                    way.heard(answer);
                }
                try_join_all(answers.into_iter().map(|answer| delivery.heard(answer))).await?;
            }
            Some(sent) = sending.join_next() => {
                if let Ok((hash, Err(error))) = sent {
                    tracing::debug!("an attachment was not sent: {error}");
                    way.ended(&hash);
                }
            }
            Ok(()) = news.changed() => {}
            _ = tidy.tick() => {
                delivery.kept.tidy(&delivery.clock).await?;
                way.forget_old();
            }
            _ = count.tick(), if uncounted => {
                let counts = delivery.kept.counts().await?;
                delivery.counts.send_if_modified(|told| std::mem::replace(told, counts) != counts);
                uncounted = false;
                continue;
            }
        }
        uncounted = true;
    }
}

type Sent = ([u8; 32], Result<(), crate::mesh::transfer::TransferError>);

impl Delivery {
    async fn send(&self, connection: &Connection, way: &mut OnTheWay, sending: &mut JoinSet<Sent>) -> Result<()> {
        let outbox = &self.kept.outbox;
        let now = self.clock.now();
        for event in outbox.untold(u32::try_from(AT_ONCE)?).await? {
            let known = way.told.get(&event.id).is_some_and(|(rev, _)| *rev == event.rev);
            if known || way.told.len() >= AT_ONCE || way.rests.contains_key(&event.id) {
                continue;
            }
            way.told.insert(event.id, (event.rev, Instant::now()));
            let age = age_of(&event, now.at, now.mono);
            if let Err(error) = send_event(connection, EventV1::of(&event, age)).await {
                tracing::debug!("an event was not told: {error}");
                return Ok(());
            }
        }
        for (kind, urgency) in [(AttachmentKind::Picture, Urgency::Picture), (AttachmentKind::Clip, Urgency::Clip)] {
            for missing in outbox.missing(kind, u32::try_from(AT_ONCE)?).await? {
                let full = match urgency {
                    Urgency::Picture => way.bytes.len() >= AT_ONCE,
                    Urgency::Clip => way.clip.is_some(),
                };
                if full || way.bytes.contains_key(&missing.hash) {
                    continue;
                }
                let file = match self.kept.media.get(&missing.hash) {
                    Ok(file) => file,
                    Err(error) => {
                        tracing::error!("a picture or clip of event {} is gone from the outbox: {error}", missing.event);
                        outbox.attachment_kept(missing.event, missing.hash).await?;
                        outbox.lost("gone", 1).await?;
                        continue;
                    }
                };
                way.bytes.insert(missing.hash, Instant::now());
                if urgency == Urgency::Clip {
                    way.clip = Some(missing.hash);
                }
                let from = way.from.remove(&missing.hash).unwrap_or(0).min(missing.length);
                let head = BytesV1 { event: missing.event, hash: missing.hash, from };
                let connection = connection.clone();
                sending.spawn(async move { (missing.hash, send_bytes(&connection, head, file, urgency).await) });
            }
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
            Message::EventRefused(refused) if refused.again_after.is_some() => {
                tracing::warn!("the coordinator does not take event {} now: {}", refused.id, refused.why);
                Ok(())
            }
            Message::EventRefused(refused) => {
                tracing::error!("the coordinator will not take event {}: {}; it stays here", refused.id, refused.why);
                outbox.refused(refused.id, &refused.why).await
            }
            _ => Ok(()),
        }
    }
}

/// How long ago it began, if that can be said without a clock that jumps: it is not kept over a reboot.
fn age_of(event: &Event, now: Timestamp, mono: Mono) -> Option<u64> {
    let age = now.since(event.started);
    // The machine was started since.
    (age <= Duration::from_millis(mono.0)).then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
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
                    self.rests.insert(refused.id, Instant::now() + Duration::from_secs(secs.into()));
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, hash: &[u8; 32]) {
        self.bytes.remove(hash);
        self.clip.take_if(|clip| clip == hash);
    }

    fn forget_old(&mut self) {
        let now = Instant::now();
        self.told.retain(|_, (_, since)| now.duration_since(*since) < AGAIN);
        self.rests.retain(|_, until| *until > now);
        let clip = self.clip;
        // A clip may take long; its stream ends by itself when it stands still.
        self.bytes.retain(|hash, since| Some(*hash) == clip || now.duration_since(*since) < AGAIN);
    }
}
