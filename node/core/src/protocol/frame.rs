//! Bytes ↔ message: `u32 length | u16 type | u8 version | u8 flags`, big endian, then postcard. `length` counts the payload only.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events::*;
use super::message::*;

/// Bytes before the payload.
pub const HEADER: usize = 8;
/// The receiver must know the type, or close the link.
pub const MUST_UNDERSTAND: u8 = 0x01;

/// Greatest payload of the first frame of either side.
pub const HELLO_LIMIT: usize = 4 * 1024;
/// Greatest payload on the control stream after that.
pub const CONTROL_LIMIT: usize = 64 * 1024;
/// Greatest payload on the enrollment port.
pub const ENROLL_LIMIT: usize = 8 * 1024;

/// One message of the control stream, of a stream of an event, or of enrollment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Hello(HelloV1),
    Welcome(WelcomeV1),
    Reject(RejectV1),
    Push(PushV1),
    Ack(AckV1),
    Detectors(DetectorsV1),
    Health(HealthV1),
    Renew(RenewV1),
    Renewed(RenewedV1),
    Bundle(SignedBundleV1),
    Begin(BeginV1),
    Grant(Box<GrantV1>),
    Deny(DenyV1),
    Stored(StoredV1),
    EventKept(EventKeptV1),
    AttachmentKept(AttachmentKeptV1),
    EventRefused(EventRefusedV1),
    Event(EventV1),
    Bytes(BytesV1),
    Look(LookV1),
    Still(StillV1),
}

/// Why bytes are no message. Each one ends the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes (message type {kind}) where at most {limit} are allowed")]
    TooLong { kind: u16, length: usize, limit: usize },
    #[error("message type {kind} version {version} cannot be read: {why}")]
    Unreadable { kind: u16, version: u8, why: String },
    #[error("message type {kind} version {version} must be understood, and this version of dms3-node does not know it")]
    MustUnderstand { kind: u16, version: u8 },
    #[error("message type {kind} is too long to send: {length} bytes where at most {limit} are allowed")]
    Unsendable { kind: u16, length: usize, limit: usize },
}

/// The 8 bytes before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: usize,
    pub kind: u16,
    pub version: u8,
    pub flags: u8,
}

impl Header {
    /// Refuses a length over `limit` before a byte of payload is read or room for it made.
    pub fn parse(bytes: [u8; HEADER], limit: usize) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, k0, k1, version, flags] = bytes;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let kind = u16::from_be_bytes([k0, k1]);
        if length > limit {
            return Err(FrameError::TooLong { kind, length, limit });
        }
        Ok(Self { length, kind, version, flags })
    }
}

/// The message in `payload`, or `None` if it is of a type or version that this software does not know and may skip.
pub fn decode(header: Header, payload: &[u8]) -> Result<Option<Message>, FrameError> {
    let message = match (header.kind, header.version) {
        (1, 1) => Message::Hello(read(header, payload)?),
        (2, 1) => Message::Welcome(read(header, payload)?),
        (3, 1) => Message::Reject(read(header, payload)?),
        (4, 1) => Message::Push(read(header, payload)?),
        (5, 1) => Message::Ack(read(header, payload)?),
        (6, 1) => Message::Detectors(read(header, payload)?),
        (7, 1) => Message::Health(read(header, payload)?),
        (8, 1) => Message::Renew(read(header, payload)?),
        (9, 1) => Message::Renewed(read(header, payload)?),
        (10, 1) => Message::Bundle(read(header, payload)?),
        (11, 1) => Message::EventKept(read(header, payload)?),
        (12, 1) => Message::AttachmentKept(read(header, payload)?),
        (13, 1) => Message::EventRefused(read(header, payload)?),
        (14, 1) => Message::Look(read(header, payload)?),
        (32, 1) => Message::Event(read(header, payload)?),
        (33, 1) => Message::Bytes(read(header, payload)?),
        (34, 1) => Message::Still(read(header, payload)?),
        (64, 1) => Message::Begin(read(header, payload)?),
        (65, 1) => Message::Grant(Box::new(read(header, payload)?)),
        (66, 1) => Message::Deny(read(header, payload)?),
        (67, 1) => Message::Stored(read(header, payload)?),
        (kind, version) if header.flags & MUST_UNDERSTAND != 0 => return Err(FrameError::MustUnderstand { kind, version }),
        _ => return Ok(None),
    };
    Ok(Some(message))
}

/// Header and payload, ready to send.
pub fn encode(message: &Message, limit: usize) -> Result<Vec<u8>, FrameError> {
    let (kind, payload) = match message {
        Message::Hello(m) => (1, write(m)),
        Message::Welcome(m) => (2, write(m)),
        Message::Reject(m) => (3, write(m)),
        Message::Push(m) => (4, write(m)),
        Message::Ack(m) => (5, write(m)),
        Message::Detectors(m) => (6, write(m)),
        Message::Health(m) => (7, write(m)),
        Message::Renew(m) => (8, write(m)),
        Message::Renewed(m) => (9, write(m)),
        Message::Bundle(m) => (10, write(m)),
        Message::EventKept(m) => (11, write(m)),
        Message::AttachmentKept(m) => (12, write(m)),
        Message::EventRefused(m) => (13, write(m)),
        Message::Look(m) => (14, write(m)),
        Message::Event(m) => (32, write(m)),
        Message::Bytes(m) => (33, write(m)),
        Message::Still(m) => (34, write(m)),
        Message::Begin(m) => (64, write(m)),
        Message::Grant(m) => (65, write(m.as_ref())),
        Message::Deny(m) => (66, write(m)),
        Message::Stored(m) => (67, write(m)),
    };
    // What guards the house must be understood; reports and live pictures may be skipped by an older node, and an event that nobody kept is told again.
    let flags = match message {
        Message::Detectors(_)
        | Message::Health(_)
        | Message::EventKept(_)
        | Message::AttachmentKept(_)
        | Message::EventRefused(_)
        | Message::Event(_)
        | Message::Bytes(_)
        | Message::Look(_)
        | Message::Still(_) => 0,
        _ => MUST_UNDERSTAND,
    };
    let payload = payload.map_err(|why| FrameError::Unreadable { kind, version: 1, why })?;
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= limit => length,
        _ => return Err(FrameError::Unsendable { kind, length: payload.len(), limit }),
    };
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.push(1);
    bytes.push(flags);
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// postcard bytes of a value that is signed or stored.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    write(value)
}

/// The value in `bytes`, all of which it must take up: postcard alone would drop a tail silently.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|error| error.to_string())?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes too many", rest.len())) }
}

fn read<T: DeserializeOwned>(header: Header, payload: &[u8]) -> Result<T, FrameError> {
    from_bytes(payload).map_err(|why| FrameError::Unreadable { kind: header.kind, version: header.version, why })
}

fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    postcard::to_stdvec(value).map_err(|error| error.to_string())
}
