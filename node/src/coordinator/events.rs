//! Takes what cameras saw: on the disk first, then acknowledged.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::HEXLOWER;
use dms3_core::event::Event;
use dms3_core::id::{EventId, NodeId};
use dms3_core::protocol::events::{AttachmentKeptV1, BytesV1, EventKeptV1, EventRefusedV1, EventV1, MissingV1};
use dms3_core::protocol::frame::Message;
use dms3_core::roster::RosterRow;
use dms3_core::time::Timestamp;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::mesh::link::{Connection, LinkError};
use crate::mesh::transfer::Body;
use crate::store::events::{Events, ForeignEvent, MEDIA_DIR};
use crate::store::media::Media;

/// A camera tries again so long after the disk took nothing.
const AGAIN: Duration = Duration::from_secs(30);
/// The same trouble is told this often.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// Bytes that are written at once: a disk that is slow holds up nothing but its own stream. Many streams hold as much in memory each.
const BATCH: usize = 64 * 1024;

/// Keeps events and their contents. Clones share it.
#[derive(Debug, Clone)]
pub struct Keeper {
    state_dir: PathBuf,
    room: Arc<OnceCell<Room>>,
    clock: Clock,
    /// Changes whenever something was kept.
    news: watch::Sender<()>,
    told: Arc<Mutex<Option<(String, Instant)>>>,
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
    pub fn new(state_dir: PathBuf, clock: Clock) -> Self {
        Self { state_dir, room: Arc::default(), clock, news: watch::Sender::new(()), told: Arc::default() }
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

    /// Opens it beside all else that starts, as it is read whole, and tells people (`alerts`) what was wrong with it.
    pub async fn open(self, alerts: mpsc::Sender<(String, String)>, stop: CancellationToken) -> Result<()> {
        let room = self.room().await;
        let trouble = match &room {
            Ok(room) => room.trouble.clone(),
            Err(error) => Some(format!("What the cameras see is not kept: {error:#}. They keep it themselves and try again.")),
        };
        if let Some(trouble) = trouble {
            // The driver is gone only when the node stops.
            drop(alerts.send(("events".to_owned(), trouble)).await);
        }
        room?;
        stop.cancelled().await;
        Ok(())
    }

    /// Sees that something was kept.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// The answer to a telling of an event.
    pub async fn event(&self, row: &RosterRow, told: EventV1) -> Message {
        let (id, rev, age) = (told.id, told.rev, told.age);
        let event = match told.checked() {
            Ok(event) => event,
            Err(why) => return self.refused(row, id, why, None),
        };
        let now = self.clock.now().at;
        let began = age.map_or(event.started, |age| Timestamp(now.0.saturating_sub(age)));
        match self.keep(row, &event, began, now).await {
            Ok((fresh, missing)) => {
                if fresh {
                    tracing::info!("{}/{}: {} {id}", row.name, event.source, event.kind.words());
                }
                self.news.send_replace(());
                Message::EventKept(EventKeptV1 { id, rev, missing })
            }
            Err(error) if error.downcast_ref::<ForeignEvent>().is_some() => self.refused(row, id, format!("{error:#}"), None),
            Err(error) => {
                let why = format!("{error:#}");
                self.tell(&format!("an event of {} cannot be kept: {why}", row.name));
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
            self.tell(&format!("event {id} of {} is not taken: {why}", row.name));
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
                self.tell(&format!("an attachment of {} is not taken: {error:#}", row.name));
                return Ok(None);
            }
        };
        match self.take(row.node, &head, length, &mut body, connection).await {
            Ok(Ok(())) => {
                tracing::debug!("{}: an attachment is kept", row.name);
                self.news.send_replace(());
                Ok(Some(kept))
            }
            Ok(Err(error)) => {
                body.stop();
                self.tell(&format!("an attachment of {} cannot be kept: {error:#}", row.name));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How long the attachment is that this event lacks; `None`: it lacks nothing of it.
    async fn awaited(&self, node: NodeId, head: &BytesV1) -> Result<Option<u64>> {
        let announced = self.room().await?.events.attachment(node, head.event, head.hash).await?;
        let announced = announced.context("nobody told of it")?;
        Ok((!announced.kept).then_some(announced.length))
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
                ensure!(part.written() + batch.len() as u64 <= length, "it is longer than the {length} bytes that were announced");
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
            Ok(()) => events.keep_attachment(media, head.event, head.hash, self.clock.now().at).await,
            Err(error) => Err(error),
        };
        Ok(finished.and_then(|kept| if kept { Ok(()) } else { bail!("it is gone again, or its event is") }))
    }

    /// Not more often than it helps.
    fn tell(&self, what: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let again = told.as_ref().is_none_or(|(text, at)| text != what || at.elapsed() >= TELL_EVERY);
        if again {
            tracing::warn!("{what}");
            *told = Some((what.to_owned(), Instant::now()));
        }
    }
}

/// Of each node by itself: what one sends never mixes with what another sends.
fn part_name(hash: &[u8; 32], node: NodeId) -> String {
    format!("{}-{}", HEXLOWER.encode(hash), node.short())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
