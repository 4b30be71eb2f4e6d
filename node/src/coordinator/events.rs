//! Takes what cameras saw: on the disk first, then acknowledged.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use data_encoding::HEXLOWER;
use dms3_core::event::Event;
use dms3_core::fault::{Fault, FaultKind};
use dms3_core::id::{EventId, NodeId};
use dms3_core::protocol::events::{AttachmentKeptV1, BytesV1, EventKeptV1, EventRefusedV1, EventV1, MissingV1};
use dms3_core::protocol::frame::Message;
use dms3_core::roster::RosterRow;
use dms3_core::time::Timestamp;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::alerts::Word;
use super::offences::Offences;
use super::pace::{Lines, Pace};
use crate::clock::Clock;
use crate::mesh::link::{Connection, LinkError};
use crate::mesh::transfer::Body;
use crate::store::events::{Events, ForeignEvent, MEDIA_DIR};
use crate::store::is_full;
use crate::store::media::{Media, WrongHash};

/// A camera tries again so long after the disk took nothing.
const AGAIN: Duration = Duration::from_secs(30);
/// The same trouble is told this often, and of one node no more than so many in that time.
const TELL_EVERY: Duration = Duration::from_secs(600);
const TELL_AT_MOST: usize = 10;
/// Bytes that are written at once: a disk that is slow holds up nothing but its own stream. Many streams hold as much in memory each.
const BATCH: usize = 64 * 1024;
/// Events that a node may tell of at once, and how soon after each of them one more. A camera that comes back after weeks is no slower for
/// it than its disk.
const EVENTS: u32 = 2000;
const EVENT_EVERY: Duration = Duration::from_millis(20);

/// What was told of one node, and when.
type Told = Vec<(String, Instant)>;

/// Keeps events and their contents. Clones share it.
#[derive(Debug, Clone)]
pub struct Keeper {
    state_dir: PathBuf,
    room: Arc<OnceCell<Room>>,
    clock: Clock,
    /// Hears of each event of which something was kept.
    news: Option<News>,
    /// Troubles that were told, of each node its own.
    told: Arc<Mutex<HashMap<NodeId, Told>>>,
    /// How fast each node tells of events, and what is logged of them.
    paces: Arc<Mutex<HashMap<NodeId, (Pace, Lines)>>>,
    offences: Offences,
    /// Counts up when events came or went, or were seen: for open pages.
    changes: Arc<watch::Sender<u64>>,
}

/// Who is told of events that were kept. Nobody waits for him: what he could not take he looks up.
#[derive(Debug, Clone)]
pub struct News {
    pub ids: mpsc::Sender<EventId>,
    pub missed: watch::Sender<()>,
}

/// Where they are kept.
#[derive(Debug)]
pub struct Room {
    pub events: Events,
    pub media: Media,
    /// See [`crate::store::events::Opened::trouble`].
    pub trouble: Option<String>,
}

impl Keeper {
    pub fn new(state_dir: PathBuf, clock: Clock, news: Option<News>) -> Self {
        Self {
            state_dir,
            room: Arc::default(),
            clock,
            news,
            told: Arc::default(),
            paces: Arc::default(),
            offences: Offences::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.vouched_now().at
    }

    /// What nodes do against the rules, in what they tell of events and otherwise.
    pub fn offences(&self) -> &Offences {
        &self.offences
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Somebody came home, which disarmed the house.
    pub async fn arrival(&self, first: Timestamp, last: Timestamp) -> anyhow::Result<()> {
        self.room().await?.events.note_arrival(first, last).await?;
        self.changed();
        Ok(())
    }

    /// Something of the events is other than it was.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Opened when it is first asked for, and again until that succeeds: a house that cannot keep events guards all the same.
    pub async fn room(&self) -> Result<&Room> {
        let open = async || {
            let opened = Events::open(&self.state_dir).await.context("the events of this house cannot be opened")?;
            if let Some(trouble) = &opened.trouble {
                tracing::error!("{trouble}");
            }
            let media = Media::open(&self.state_dir.join(MEDIA_DIR))?;
            Ok(Room { events: opened.events, media, trouble: opened.trouble })
        };
        self.room.get_or_try_init(open).await
    }

    /// Opens it beside all else that starts, as it is read whole, and tells people (`words`) what was wrong with it.
    pub async fn open(self, words: mpsc::Sender<Word>, stop: CancellationToken) -> Result<()> {
        let room = self.room().await;
        let key = "events".to_owned();
        let word = match &room {
            Ok(_) => Word::Ends { key, text: "What the cameras see is kept again.".to_owned() },
            Err(error) => {
                let text = format!("What the cameras see is not kept: {error:#}. They keep it themselves and try again.");
                Word::Begins(Fault::new(key, FaultKind::Other, text))
            }
        };
        let damaged = room.as_ref().ok().and_then(|room| room.trouble.clone());
        let damaged = damaged.map(|trouble| Word::Once(Fault::new("events-damaged", FaultKind::Other, trouble)));
        for word in std::iter::once(word).chain(damaged) {
            // The driver is gone only when the node stops.
            drop(words.send(word).await);
        }
        room?;
        stop.cancelled().await;
        Ok(())
    }

    /// The answer to a telling of an event.
    pub async fn event(&self, row: &RosterRow, told: EventV1) -> Message {
        let wait = self.with_pace(row.node, |(pace, _)| pace.next(EVENTS, EVENT_EVERY, Instant::now()));
        if !wait.is_zero() {
            self.offences.limited(row.node, "it tells of more events than any camera sees: they are taken slowly");
            tokio::time::sleep(wait).await;
        }
        let (id, rev, age) = (told.id, told.rev, told.age);
        let event = match told.checked() {
            Ok(event) => event,
            Err(why) => return self.refused(row, id, why, None),
        };
        let now = self.now();
        let began = age.map_or(event.started, |age| Timestamp(now.0.saturating_sub(age)));
        match self.keep(row, &event, began, now).await {
            Ok((fresh, missing)) => {
                if fresh && let Some(more) = self.with_pace(row.node, |(_, lines)| lines.next(Instant::now())) {
                    tracing::info!("{}/{}: {} {id}{more}", row.name, event.source, event.kind.words());
                }
                self.tell_news(id);
                Message::EventKept(EventKeptV1 { id, rev, missing })
            }
            Err(error) if error.downcast_ref::<ForeignEvent>().is_some() => self.refused(row, id, format!("{error:#}"), None),
            Err(error) => {
                let why = if is_full(&error) { "its disk is full".to_owned() } else { format!("{error:#}") };
                self.cannot_keep(row, "an event", &error);
                self.refused(row, id, why, u32::try_from(AGAIN.as_secs()).ok())
            }
        }
    }

    /// Whether it is a new one, and what is missing of it.
    async fn keep(&self, row: &RosterRow, event: &Event, began: Timestamp, now: Timestamp) -> Result<(bool, Vec<MissingV1>)> {
        let Room { events, media, .. } = self.room().await?;
        let kept = events.keep_event(media, row.node, &row.name, event, began, now).await?;
        let missing = kept.missing.into_iter().map(|hash| MissingV1 { hash, from: media.part_length(&part_name(&hash, row.node)) });
        Ok((kept.fresh, missing.collect()))
    }

    fn refused(&self, row: &RosterRow, id: EventId, why: String, again_after: Option<u32>) -> Message {
        if again_after.is_none() {
            self.offences.limited(row.node, &format!("what it tells of an event is not taken: {why}"));
            self.tell(row, &format!("event {id} of {} is not taken: {why}", row.name));
        }
        Message::EventRefused(EventRefusedV1 { id, why, again_after })
    }

    /// The answer to an attachment; `None`: there is none, and the camera comes again. An error is one of the link.
    pub async fn bytes(
        &self,
        row: &RosterRow,
        head: BytesV1,
        mut body: Body,
        connection: &Connection,
    ) -> Result<Option<Message>, LinkError> {
        let kept = Message::AttachmentKept(AttachmentKeptV1 { event: head.event, hash: head.hash });
        let length = match self.awaited(row.node, &head).await {
            Ok(Some(length)) => length,
            Ok(None) => {
                body.stop();
                return Ok(Some(kept));
            }
            Err(error) => {
                body.stop();
                if error.downcast_ref::<Untrue>().is_some() {
                    self.offences.limited(row.node, &format!("an attachment of it is not taken: {error}"));
                }
                self.tell(row, &format!("an attachment of {} is not taken: {error:#}", row.name));
                return Ok(None);
            }
        };
        match self.take(row.node, &head, length, &mut body, connection).await {
            Ok(Ok(())) => {
                tracing::debug!("{}: an attachment is kept", row.name);
                self.tell_news(head.event);
                Ok(Some(kept))
            }
            Ok(Err(error)) => {
                body.stop();
                if error.downcast_ref::<Untrue>().is_some() || error.downcast_ref::<WrongHash>().is_some() {
                    self.offences.limited(row.node, &format!("an attachment of it is not taken: {error}"));
                }
                self.cannot_keep(row, "an attachment", &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How long the attachment is that this event lacks; `None`: it lacks nothing of it.
    async fn awaited(&self, node: NodeId, head: &BytesV1) -> Result<Option<u64>> {
        let events = &self.room().await?.events;
        match events.attachment(node, head.event, head.hash).await? {
            Some(announced) => Ok((!announced.kept).then_some(announced.length)),
            // Of what went its camera need bring no more, and it forgets it.
            None if events.was_removed(node, head.event).await? => Ok(None),
            None => Err(Untrue("nobody told of it".to_owned()).into()),
        }
    }

    /// The outer error is one of the link.
    async fn take(
        &self,
        node: NodeId,
        head: &BytesV1,
        length: u64,
        body: &mut Body,
        connection: &Connection,
    ) -> Result<Result<()>, LinkError> {
        let Room { events, media, .. } = match self.room().await {
            Ok(room) => room,
            Err(error) => return Ok(Err(error)),
        };
        // It may have come for another event while this one was told.
        let (looking, hash) = (media.clone(), head.hash);
        if matches!(blocking(move || Ok(looking.length(&hash))).await, Ok(Some(there)) if there == length) {
            return Ok(self.noted(node, events, media, head).await);
        }
        let name = part_name(&head.hash, node);
        let opening = media.clone();
        let opened = blocking(move || opening.part(&name)).await;
        let mut part = match opened {
            Ok(part) => part,
            Err(error) => return Ok(Err(error)),
        };
        if part.written() != head.from {
            return Ok(Err(anyhow::anyhow!("it begins at byte {}, and {} are here", head.from, part.written())));
        }
        loop {
            let mut batch = Vec::new();
            let mut ended = false;
            while batch.len() < BATCH && !ended {
                match body.chunk(connection).await? {
                    Some(chunk) => batch.extend_from_slice(&chunk),
                    None => ended = true,
                }
            }
            let appended = blocking(move || {
                if part.written() + batch.len() as u64 > length {
                    return Err(Untrue(format!("it is longer than the {length} bytes that were announced")).into());
                }
                part.append(&batch)?;
                Ok(part)
            });
            part = match appended.await {
                Ok(part) => part,
                Err(error) => return Ok(Err(error)),
            };
            if ended {
                break;
            }
        }
        if part.written() < length {
            // The link broke, or its camera stopped: the rest comes later.
            return Ok(Err(anyhow::anyhow!("{} of {length} bytes came", part.written())));
        }
        let (finishing, hash) = (media.clone(), head.hash);
        let finished = match blocking(move || finishing.finish(part, &hash)).await {
            Ok(()) => self.noted(node, events, media, head).await,
            Err(error) => Err(error),
        };
        Ok(finished)
    }

    /// A content that is there is one of this event from now on; if the event went meanwhile, it goes too.
    async fn noted(&self, node: NodeId, events: &Events, media: &Media, head: &BytesV1) -> Result<()> {
        if events.keep_attachment(media, head.event, head.hash, self.now()).await? {
            return Ok(());
        }
        ensure!(events.was_removed(node, head.event).await?, "it is gone again");
        events.discard(media, &[head.hash]).await?;
        Ok(())
    }

    fn with_pace<T>(&self, node: NodeId, of: impl FnOnce(&mut (Pace, Lines)) -> T) -> T {
        of(self.paces.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default())
    }

    fn tell_news(&self, id: EventId) {
        self.changed();
        if let Some(News { ids, missed }) = &self.news
            && ids.try_send(id).is_err()
        {
            missed.send_replace(());
        }
    }

    fn cannot_keep(&self, row: &RosterRow, what: &str, error: &anyhow::Error) {
        let text = format!("{what} of {} cannot be kept: {error:#}", row.name);
        // It meets now a file and now the database, and is one trouble.
        let key = if is_full(error) { "the disk is full" } else { &text };
        self.tell_as(row, key, &text);
    }

    fn tell(&self, row: &RosterRow, what: &str) {
        self.tell_as(row, what, what);
    }

    /// Not more often than it helps, and one node's troubles never hide another's.
    fn tell_as(&self, row: &RosterRow, key: &str, what: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.entry(row.node).or_default();
        known.retain(|(_, at)| at.elapsed() < TELL_EVERY);
        if known.len() > TELL_AT_MOST || known.iter().any(|(known, _)| known == key) {
            return;
        }
        if known.len() == TELL_AT_MOST {
            tracing::warn!("what more is wrong with events of {} is not told for some minutes", row.name);
        } else {
            tracing::warn!("{what}");
        }
        known.push((key.to_owned(), Instant::now()));
    }
}

/// What a camera said of an attachment is not so, and no network or disk is to blame.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Untrue(String);

/// Of each node by itself: what one sends never mixes with what another sends.
fn part_name(hash: &[u8; 32], node: NodeId) -> String {
    format!("{}-{}", HEXLOWER.encode(hash), node.short())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
