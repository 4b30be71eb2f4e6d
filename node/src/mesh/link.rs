//! One peer: a connection with its one control stream of frames. Limits stand before memory, a time before every wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dms3_core::protocol::frame::{self, CONTROL_LIMIT, FrameError, HEADER, HELLO_LIMIT, Header, Message};
use dms3_core::protocol::message::CloseCode;
use dms3_pki::tls::{RefusedBy, alert_words};
pub use quinn::{Connection, ConnectionError};
use quinn::{RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

/// A frame that cannot be handed over in this time ends the link: whoever comes back gets the whole state anew.
pub const STALL: Duration = Duration::from_secs(10);
/// Of streams; the others are events (0) and bulk (-10).
const CONTROL_PRIORITY: i32 = 10;
/// Room is made as bytes arrive, not as they are announced.
const STEP: usize = 4 * 1024;
/// Frames of types that nobody knows here, in a minute: a newer version may send some.
const UNKNOWN: u32 = 256;
/// How long a last word may take to get there.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{}", words(.0))]
    Closed(#[from] ConnectionError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Timeout(&'static str),
    /// We closed it.
    #[error("closed by this node: {}", .0.words())]
    Ours(CloseCode),
    #[error("a message that has no place {0}")]
    Unexpected(&'static str),
    /// The other side ended the control stream and not the link.
    #[error("the other side ended the conversation")]
    Ended,
}

impl LinkError {
    /// What was said when it was closed.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Closed(ConnectionError::ApplicationClosed(close)) => CloseCode::from_wire(close.error_code.into_inner()),
            Self::Ours(code) => Some(*code),
            _ => None,
        }
    }

    /// The other side says that a person revoked this node. To be believed only of somebody whose own certificate was checked before.
    pub fn is_revocation(&self) -> bool {
        let refused = match self {
            Self::Closed(ConnectionError::ConnectionClosed(theirs)) => tls_alert(theirs.error_code) == Some(REVOKED_ALERT),
            _ => false,
        };
        refused || matches!(self, Self::Closed(_)) && self.close_code() == Some(CloseCode::Revoked)
    }

    /// What to close the link with.
    pub fn answer(&self) -> CloseCode {
        match self {
            Self::Frame(_) | Self::Unexpected(_) | Self::Ended => CloseCode::Protocol,
            Self::Timeout(_) => CloseCode::Timeout,
            Self::Closed(_) => CloseCode::GoingDown,
            Self::Ours(code) => *code,
        }
    }

    /// The other side let go of it.
    pub fn is_wordless(&self) -> bool {
        matches!(self, Self::Closed(ConnectionError::ApplicationClosed(close)) if close.error_code == WORDLESS)
    }

    /// Whether the node at the other end lost its memory of us: it was restarted.
    pub fn is_reset(&self) -> bool {
        matches!(self, Self::Closed(ConnectionError::Reset))
    }
}

/// Both halves. The first frame of either side may be 4 KiB long ([`HELLO_LIMIT`]), later ones 64 KiB.
#[derive(Debug)]
pub struct Link {
    pub sender: Sender,
    pub receiver: Receiver,
}

#[derive(Debug)]
pub struct Sender {
    connection: Connection,
    stream: SendStream,
}

#[derive(Debug)]
pub struct Receiver {
    stream: RecvStream,
    limit: usize,
    buffer: Vec<u8>,
    filled: usize,
    unknown: Arc<AtomicU64>,
    /// Since when, and how many of them in that minute.
    skipped: (Instant, u32),
}

impl Link {
    /// Opens the control stream: the side that dialled. `unknown` counts frames that were skipped because nobody knows their type.
    pub async fn open(connection: &Connection, unknown: Arc<AtomicU64>) -> Result<Self, LinkError> {
        let (send, recv) = connection.open_bi().await?;
        Ok(Self::new(connection, send, recv, unknown))
    }

    /// Waits until the side that dialled opens the control stream and says something on it.
    pub async fn accept(connection: &Connection, unknown: Arc<AtomicU64>) -> Result<Self, LinkError> {
        let (send, recv) = connection.accept_bi().await?;
        Ok(Self::new(connection, send, recv, unknown))
    }

    fn new(connection: &Connection, stream: SendStream, recv: RecvStream, unknown: Arc<AtomicU64>) -> Self {
        // Fails only on a stream that is closed already, which the first frame tells.
        let _ = stream.set_priority(CONTROL_PRIORITY);
        Self {
            sender: Sender { connection: connection.clone(), stream },
            receiver: Receiver { stream: recv, limit: HELLO_LIMIT, buffer: Vec::new(), filled: 0, unknown, skipped: (Instant::now(), 0) },
        }
    }
}

impl Sender {
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        self.send_frame(&frame::encode(message, CONTROL_LIMIT)?).await
    }

    /// A frame that was encoded for many. Not to be dropped half-way while the link is to live on.
    pub async fn send_frame(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        match timeout(STALL, self.stream.write_all(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.ended()),
            Err(_) => Err(LinkError::Timeout("the other side took nothing from us for 10 s")),
        }
    }

    /// Says `message`, gives it a moment to get there, and closes.
    pub async fn last_word(mut self, message: &Message, code: CloseCode) {
        if self.send(message).await.is_ok() && self.stream.finish().is_ok() {
            let _ = timeout(LAST_WORD, self.stream.stopped()).await;
        }
        close(&self.connection, code);
    }

    fn ended(&self) -> LinkError {
        self.connection.close_reason().map_or(LinkError::Ended, LinkError::Closed)
    }
}

impl Receiver {
    /// The next message that this version knows; others are skipped and counted, unless they must be understood. May be dropped at any
    /// time and called again: what has arrived is kept.
    pub async fn recv(&mut self, connection: &Connection) -> Result<Message, LinkError> {
        loop {
            let Some(header) = self.header()? else {
                self.read(HEADER, connection).await?;
                continue;
            };
            let length = HEADER + header.length;
            if self.filled < length {
                self.read(length, connection).await?;
                continue;
            }
            let message = frame::decode(header, &self.buffer[HEADER..length]);
            // One large frame does not hold its room for the life of the link.
            self.buffer = Vec::new();
            self.filled = 0;
            self.limit = CONTROL_LIMIT;
            match message? {
                Some(message) => return Ok(message),
                None => self.skip()?,
            }
        }
    }

    /// Whoever is flooded with what he does not know is not kept busy by it.
    fn skip(&mut self) -> Result<(), LinkError> {
        self.unknown.fetch_add(1, Ordering::Relaxed);
        let (since, count) = &mut self.skipped;
        if since.elapsed() >= Duration::from_secs(60) {
            self.skipped = (Instant::now(), 1);
            return Ok(());
        }
        *count += 1;
        if *count > UNKNOWN { Err(LinkError::Unexpected("here: too many of a type that this version does not know")) } else { Ok(()) }
    }

    fn header(&self) -> Result<Option<Header>, FrameError> {
        match self.buffer.first_chunk::<HEADER>() {
            Some(bytes) if self.filled >= HEADER => Ok(Some(Header::parse(*bytes, self.limit)?)),
            _ => Ok(None),
        }
    }

    /// Some more bytes, at most up to `upto` in all.
    async fn read(&mut self, upto: usize, connection: &Connection) -> Result<(), LinkError> {
        self.buffer.resize(upto.min(self.filled + STEP), 0);
        match self.stream.read(&mut self.buffer[self.filled..]).await {
            Ok(Some(more)) => {
                self.filled += more;
                Ok(())
            }
            Ok(None) => Err(LinkError::Ended),
            Err(_) => Err(connection.close_reason().map_or(LinkError::Ended, LinkError::Closed)),
        }
    }
}

/// Ends a link with a reason that both sides can read.
pub fn close(connection: &Connection, code: CloseCode) {
    connection.close(VarInt::from_u32(code as u32), code.words().as_bytes());
}

/// The certificates that the other side presented, leaf first, verified in the handshake.
pub fn peer_certificates(connection: &Connection) -> Vec<CertificateDer<'static>> {
    connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|certificates| *certificates)
        .unwrap_or_default()
}

/// What quinn closes with where nobody else does.
const WORDLESS: VarInt = VarInt::from_u32(0);

/// Why a connection ended or never came to be, for people.
pub fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => match CloseCode::from_wire(close.error_code.into_inner()) {
            Some(code) => code.words().to_owned(),
            None if close.error_code == WORDLESS => "the other side hung up without a word".to_owned(),
            None => format!("the other side closed with the unknown code {}: is it of a newer version?", close.error_code),
        },
        ConnectionError::TransportError(ours) => match tls_alert(ours.code) {
            Some(alert) => alert_words(alert, RefusedBy::Us).to_owned(),
            None => format!("the other side broke the rules of QUIC: {ours}"),
        },
        ConnectionError::ConnectionClosed(theirs) => match tls_alert(theirs.error_code) {
            Some(alert) => alert_words(alert, RefusedBy::Peer).to_owned(),
            None if theirs.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED => CloseCode::Busy.words().to_owned(),
            None => format!("the other side ended the connection: {theirs}"),
        },
        ConnectionError::Reset => "the other side was restarted".to_owned(),
        ConnectionError::TimedOut => "no answer".to_owned(),
        ConnectionError::LocallyClosed => "closed by this node".to_owned(),
        ConnectionError::VersionMismatch => "the other side speaks another version of QUIC: update the older of the two".to_owned(),
        ConnectionError::CidsExhausted => "too many connections".to_owned(),
    }
}

/// certificate_revoked (RFC 8446, section 6).
const REVOKED_ALERT: u8 = 44;

/// RFC 9001, section 4.8: a TLS alert is a crypto error of QUIC.
pub fn tls_alert(code: quinn::TransportErrorCode) -> Option<u8> {
    u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}
