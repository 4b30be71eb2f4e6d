//! The enrollment port's transport: its own endpoint and ALPN, Retry for everybody, small windows. Who may enrol is decided elsewhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use dms3_core::protocol::frame::{self, ENROLL_LIMIT, HEADER, Header, Message};
use dms3_pki::{EXPORTER_LABEL, Identity, tls};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::pki_types::CertificateDer;
use rustls::time_provider::TimeProvider;

use super::config::Limits;
use super::dial::{DialError, refusal};
use super::endpoint::{self, can_answer_retry};
use super::keys::MeshKeys;
use super::socket::{self, CountedSocket, Knocks};
use crate::clock::Clock;

/// A whole enrollment takes a few round trips; nothing on this port lives longer.
pub const ALL_IN: Duration = Duration::from_secs(10);
/// Both sides say this when they are done.
const DONE: u32 = 0;

/// The enrollment port, open.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Arc<CountedSocket>,
}

/// Somebody at the port whose address is proven by a Retry. Dropped: refused.
#[derive(Debug)]
pub struct Knock {
    incoming: quinn::Incoming,
}

/// One encrypted connection with its one stream of frames. Dropped: closed.
#[derive(Debug)]
pub struct Channel {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    /// Of a side that dialled: the socket lives as long as the channel.
    _endpoint: Option<Endpoint>,
}

impl Listener {
    pub fn open(listen: SocketAddr, identity: &Identity, clock: &Clock) -> anyhow::Result<Self> {
        let socket = endpoint::open(listen).with_context(|| format!("cannot open the enrollment port, UDP {listen}"))?;
        let config = server_config(identity, clock)?;
        let keys = MeshKeys::random()?;
        let ids = keys.connection_ids();
        let mut own = EndpointConfig::new(Arc::new(keys.reset()));
        own.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        let open = || {
            let socket = CountedSocket::over(socket::roomy(socket)?, ids, &Limits::default(), None);
            Ok::<_, io::Error>((
                Endpoint::new_with_abstract_socket(own, Some(config), socket.clone(), Arc::new(quinn::TokioRuntime))?,
                socket,
            ))
        };
        let (endpoint, socket) = open().with_context(|| format!("cannot open the enrollment port, UDP {listen}"))?;
        socket.serves();
        Ok(Self { endpoint, socket })
    }

    /// The coordinator's certificate was renewed: new connections see the new one.
    pub fn set_identity(&self, identity: &Identity, clock: &Clock) -> anyhow::Result<()> {
        self.endpoint.set_server_config(Some(server_config(identity, clock)?));
        Ok(())
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// What strangers sent since it was asked for the last time.
    pub fn knocks(&self) -> Knocks {
        self.socket.knocks()
    }

    /// The next one whose address is validated; everybody else gets a Retry, which costs us nothing to remember. Not so who comes from an
    /// address of one interface: he is on our own cable.
    pub async fn accept(&self) -> Option<Knock> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if incoming.remote_address_validated() || !can_answer_retry(incoming.remote_address()) {
                return Some(Knock { incoming });
            }
            // Fails only for an address that is validated.
            let _ = incoming.retry();
        }
    }

    /// Says good-bye to all and frees the port.
    pub async fn close(self) {
        self.endpoint.close(VarInt::from_u32(DONE), b"the enrollment port is closed");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Knock {
    pub fn source(&self) -> IpAddr {
        self.incoming.remote_address().ip().to_canonical()
    }

    /// Handshake and the one stream, which the other side opens.
    pub async fn admit(self) -> anyhow::Result<Channel> {
        let connection = self.incoming.accept()?.await?;
        let (send, recv) = connection.accept_bi().await?;
        Ok(Channel { connection, send, recv, _endpoint: None })
    }

    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

/// Connects to a candidate, from `source` if that is given. Ok: it proved to be a coordinator of the house whose root has this pin;
/// nothing was sent to it before.
pub async fn dial(source: Option<IpAddr>, candidate: SocketAddr, root_pin: [u8; 16], clock: &Clock) -> Result<Channel, DialError> {
    let local = |error: &dyn std::fmt::Display| DialError::Unreachable(format!("cannot dial {candidate}: {error}"));
    let any = if candidate.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let endpoint = Endpoint::client(SocketAddr::new(source.unwrap_or(any), 0)).map_err(|error| local(&error))?;
    let tls = tls::enroll_client(root_pin, Arc::new(clock.clone())).map_err(|error| local(&error))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| local(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    let name = tls::enroll_server_name();
    let connecting = endpoint.connect_with(config, candidate, &name.to_str()).map_err(|error| local(&error))?;
    let connection = connecting.await.map_err(|error| refusal(&error))?;
    let (send, recv) = connection.open_bi().await.map_err(|error| refusal(&error))?;
    Ok(Channel { connection, send, recv, _endpoint: Some(endpoint) })
}

impl Channel {
    pub async fn write(&mut self, message: &Message) -> anyhow::Result<()> {
        let bytes = frame::encode(message, ENROLL_LIMIT)?;
        self.send.write_all(&bytes).await?;
        Ok(())
    }

    /// The next frame of a type that we know. A stranger can make us skip a handful, not an endless stream.
    pub async fn read(&mut self) -> anyhow::Result<Message> {
        for _ in 0..4 {
            let mut bytes = [0; HEADER];
            self.recv.read_exact(&mut bytes).await?;
            let header = Header::parse(bytes, ENROLL_LIMIT)?;
            let mut payload = vec![0; header.length];
            self.recv.read_exact(&mut payload).await?;
            if let Some(message) = frame::decode(header, &payload)? {
                return Ok(message);
            }
        }
        bail!("too many messages of an unknown type")
    }

    /// 32 bytes that only the two ends of this very TLS session know.
    pub fn exporter(&self) -> anyhow::Result<[u8; 32]> {
        let mut exporter = [0; 32];
        self.connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .map_err(|_| anyhow!("the TLS session gives no keying material"))?;
        Ok(exporter)
    }

    /// The other side's certificates, verified in the handshake; empty for one that showed none.
    pub fn peer_certs(&self) -> Vec<CertificateDer<'static>> {
        self.connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .map(|certs| *certs)
            .unwrap_or_default()
    }

    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Bytes that no honest node sends.
    #[cfg(test)]
    pub(crate) async fn write_raw(&mut self, bytes: &[u8]) -> Result<(), quinn::WriteError> {
        self.send.write_all(bytes).await
    }

    /// Our last word: waits a little until the other side has it.
    pub async fn finish(mut self) {
        let _ = self.send.finish();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.send.stopped()).await;
        self.connection.close(VarInt::from_u32(DONE), b"done");
    }

    /// The other side has the last word: waits a little until it closes.
    pub async fn finished(mut self) {
        let _ = self.send.finish();
        let _ = tokio::time::timeout(Duration::from_secs(3), self.connection.closed()).await;
    }
}

fn server_config(identity: &Identity, clock: &Clock) -> anyhow::Result<quinn::ServerConfig> {
    let tls = tls::enroll_server(identity, Arc::new(clock.clone()) as Arc<dyn TimeProvider>)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut validation = quinn::ValidationTokenConfig::default();
    // Nobody comes back here often enough to be spared the Retry.
    validation.sent(0);
    config
        .transport_config(Arc::new(transport()))
        .validation_token_config(validation)
        .migration(false)
        .max_incoming(64)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(256 * 1024);
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(ALL_IN).ok())
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(16 * 1024))
        .receive_window(VarInt::from_u32(16 * 1024))
        .send_window(16 * 1024)
        .datagram_receive_buffer_size(None)
        .initial_rtt(Duration::from_millis(100));
    transport
}
