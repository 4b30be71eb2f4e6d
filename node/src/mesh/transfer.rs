//! Events and their attachments on a link: each on a stream of its own, one way, below the control stream in priority.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use dms3_core::protocol::events::{BytesV1, EVENT_LIMIT, EventV1};
use dms3_core::protocol::frame::{self, FrameError, HEADER, Header, Message};
use dms3_core::protocol::message::StillV1;
pub use quinn::RecvStream;
use quinn::{Connection, SendStream};
use tokio::time::timeout;

use super::link::{LinkError, STALL};

/// An event goes before the pictures and clips of others, and after what guards the house.
const EVENT_PRIORITY: i32 = 0;
const PICTURE_PRIORITY: i32 = -5;
const CLIP_PRIORITY: i32 = -10;
/// Bytes of a file at once.
const CHUNK: usize = 32 * 1024;
/// Longest silence within a stream: whoever announces a clip and does not go on holds a place.
const SILENCE: Duration = Duration::from_secs(30);

/// Why bytes did not get through.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// The other side wants no more of this stream.
    #[error("the other side does not take it")]
    Stopped,
}

/// How urgent bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    Picture,
    Clip,
}

/// Tells an event, whole.
pub async fn send_event(connection: &Connection, event: EventV1) -> Result<(), TransferError> {
    let frame = frame::encode(&Message::Event(event), EVENT_LIMIT).map_err(LinkError::from)?;
    let mut stream = open(connection, EVENT_PRIORITY).await?;
    write(connection, &mut stream, &frame).await?;
    let _ = stream.finish();
    Ok(())
}

/// Sends what `file` holds from `head.from` on.
pub async fn send_bytes(connection: &Connection, head: BytesV1, mut file: File, urgency: Urgency) -> Result<(), TransferError> {
    let from = head.from;
    let frame = frame::encode(&Message::Bytes(head), EVENT_LIMIT).map_err(LinkError::from)?;
    let priority = match urgency {
        Urgency::Picture => PICTURE_PRIORITY,
        Urgency::Clip => CLIP_PRIORITY,
    };
    let mut stream = open(connection, priority).await?;
    write(connection, &mut stream, &frame).await?;
    file.seek(SeekFrom::Start(from))?;
    loop {
        // A card that hangs must hang nothing but this.
        let (back, chunk) = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let more = file.read(&mut chunk)?;
            chunk.truncate(more);
            std::io::Result::Ok((file, chunk))
        })
        .await
        .map_err(std::io::Error::other)??;
        file = back;
        if chunk.is_empty() {
            break;
        }
        write(connection, &mut stream, &chunk).await?;
    }
    let _ = stream.finish();
    Ok(())
}

/// What a source sees now. It is old in a second: it goes before clips.
pub async fn send_still(connection: &Connection, head: StillV1, picture: &[u8]) -> Result<(), TransferError> {
    let frame = frame::encode(&Message::Still(head), EVENT_LIMIT).map_err(LinkError::from)?;
    let mut stream = open(connection, PICTURE_PRIORITY).await?;
    write(connection, &mut stream, &frame).await?;
    write(connection, &mut stream, picture).await?;
    let _ = stream.finish();
    Ok(())
}

async fn open(connection: &Connection, priority: i32) -> Result<SendStream, TransferError> {
    let stream = match timeout(SILENCE, connection.open_uni()).await {
        Ok(stream) => stream.map_err(LinkError::from)?,
        Err(_) => return Err(LinkError::Timeout("the other side takes no further stream").into()),
    };
    let _ = stream.set_priority(priority);
    Ok(stream)
}

async fn write(connection: &Connection, stream: &mut SendStream, bytes: &[u8]) -> Result<(), TransferError> {
    // Bulk may wait long for what is more urgent; a link that stands still is ended by its control stream.
    match timeout(SILENCE.max(STALL), stream.write_all(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(quinn::WriteError::Stopped(_))) => Err(TransferError::Stopped),
        Ok(Err(_)) => Err(connection.close_reason().map_or(LinkError::Ended, LinkError::Closed).into()),
        Err(_) => Err(LinkError::Timeout("the other side took nothing of an attachment for 30 s").into()),
    }
}

/// What came on a stream.
#[derive(Debug)]
pub enum Arrived {
    Event(EventV1),
    /// The bytes follow.
    Bytes(BytesV1, Body),
    /// A picture follows, if there is one.
    Still(StillV1, Body),
    /// Of a version to come.
    Unknown,
}

/// The bytes of an attachment.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
}

/// The next stream that the other side opens.
pub async fn accept(connection: &Connection) -> Result<RecvStream, LinkError> {
    Ok(connection.accept_uni().await?)
}

/// Reads the first frame of a stream.
pub async fn read(connection: &Connection, mut stream: RecvStream) -> Result<Arrived, LinkError> {
    let mut head = [0; HEADER];
    read_exact(connection, &mut stream, &mut head).await?;
    let header = Header::parse(head, EVENT_LIMIT)?;
    // Room is made as bytes arrive, not as they are announced.
    let mut payload = Vec::new();
    while payload.len() < header.length {
        let step = (header.length - payload.len()).min(4096);
        let filled = payload.len();
        payload.resize(filled + step, 0);
        read_exact(connection, &mut stream, &mut payload[filled..]).await?;
    }
    match frame::decode(header, &payload)? {
        Some(Message::Event(event)) => Ok(Arrived::Event(event)),
        Some(Message::Bytes(head)) => Ok(Arrived::Bytes(head, Body { stream })),
        Some(Message::Still(head)) => Ok(Arrived::Still(head, Body { stream })),
        Some(_) => Err(LinkError::Unexpected("on a stream of events")),
        None => Ok(Arrived::Unknown),
    }
}

async fn read_exact(connection: &Connection, stream: &mut RecvStream, bytes: &mut [u8]) -> Result<(), LinkError> {
    match timeout(SILENCE, stream.read_exact(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(connection.close_reason().map_or(LinkError::Ended, LinkError::Closed)),
        Err(_) => Err(LinkError::Timeout("an event was begun and not told to its end")),
    }
}

impl Body {
    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self, connection: &Connection) -> Result<Option<Vec<u8>>, LinkError> {
        match timeout(SILENCE, self.stream.read_chunk(CHUNK, true)).await {
            Ok(Ok(chunk)) => Ok(chunk.map(|chunk| chunk.bytes.to_vec())),
            Ok(Err(_)) => Err(connection.close_reason().map_or(LinkError::Ended, LinkError::Closed)),
            Err(_) => Err(LinkError::Timeout("an attachment was begun and not sent to its end")),
        }
    }

    /// We want no more of it.
    pub fn stop(mut self) {
        let _ = self.stream.stop(quinn::VarInt::from_u32(0));
    }
}

impl From<FrameError> for TransferError {
    fn from(error: FrameError) -> Self {
        Self::Link(error.into())
    }
}
