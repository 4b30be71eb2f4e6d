//! One UDP socket that dials and, once it has a TLS set-up, listens. Every limit of QUIC is set here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::protocol::message::CloseCode;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::config::Limits;
use super::discovery::Candidate;
use super::gate::{Gate, Pass, Verdict};
use super::keys::MeshKeys;
use super::ring::Bell;
use super::socket::{self, CountedSocket, Knocks};

/// A dead peer is known after this and the time to the next keep-alive: 16 s at most. Two keep-alives in a row may get lost.
pub const IDLE: Duration = Duration::from_secs(11);
/// Sent by the side that dialled. Each costs 157 bytes on Ethernet with its answer: 113 kB an hour.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// From the first packet of a handshake to its end.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes that wait for us to look at them, and bytes that each may bring.
const MAX_INCOMING: usize = 256;
const INCOMING_BUFFER: u64 = 16 * 1024;
/// Between two resets: a thousand cameras ask within some ten milliseconds.
const RESET_INTERVAL: Duration = Duration::from_micros(10);
/// What peers are told when we stop gets there, or it does not.
const FAREWELL: Duration = Duration::from_secs(1);

/// Clones share the socket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    gate: Gate,
    socket: Arc<CountedSocket>,
    bell: Arc<Bell>,
    rings: Arc<Mutex<mpsc::Receiver<Candidate>>>,
}

/// Somebody whom the gate let in; the handshake is still to be done.
#[derive(Debug)]
pub struct Arrival {
    incoming: quinn::Incoming,
    pass: Pass,
}

impl Endpoint {
    /// Opens the socket. Nobody is let in before [`Endpoint::serve`].
    pub fn bind(listen: SocketAddr, keys: &MeshKeys, limits: Limits) -> Result<Self> {
        let socket = open(listen).with_context(|| {
            format!("cannot use UDP {listen}: is another node running on this machine? Each needs its own port (`listen` in [mesh])")
        })?;
        let mut config = EndpointConfig::new(Arc::new(keys.reset()));
        let ids = keys.connection_ids();
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        // After a restart every camera of the house asks at once, and whoever is not answered then waits for seconds. A reset is smaller than
        // the packet that caused it, and only one with an id of ours, which nobody can make up, causes one.
        config.min_reset_interval(RESET_INTERVAL);
        let gate = Gate::new(limits);
        let (bell, rings) = Bell::over(socket::roomy(socket).context("cannot start QUIC")?);
        let socket = CountedSocket::over(bell.clone(), ids, &limits, Some(gate.clone()));
        let runtime = Arc::new(quinn::TokioRuntime);
        let quinn = quinn::Endpoint::new_with_abstract_socket(config, None, socket.clone(), runtime).context("cannot start QUIC")?;
        Ok(Self { quinn, gate, socket, bell, rings: Arc::new(Mutex::new(rings)) })
    }

    /// Lets peers in with this TLS set-up, from now on; links that are up stay.
    pub fn serve(&self, tls: Arc<rustls::ServerConfig>) -> Result<()> {
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        config
            .transport_config(Arc::new(transport(None)))
            .migration(true)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER * 64);
        self.quinn.set_server_config(Some(config));
        self.socket.serves();
        Ok(())
    }

    /// The next one at the gate; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Arrival> {
        loop {
            let incoming = self.quinn.accept().await?;
            let address = incoming.remote_address();
            let from = address.ip();
            match self.gate.knock(from, incoming.remote_address_validated(), Instant::now()) {
                Verdict::Enter(pass) => return Some(Arrival { incoming, pass }),
                // Fails only for one that has proved its address, and the gate does not ask those.
                Verdict::Retry if can_answer_retry(address) => drop(incoming.retry()),
                Verdict::Retry | Verdict::Refuse => {
                    tracing::debug!("{from} tries too often: refused");
                    incoming.refuse();
                }
            }
        }
    }

    /// Who is let in to a handshake.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// What strangers sent since it was asked for the last time.
    pub fn knocks(&self) -> Knocks {
        self.socket.knocks()
    }

    /// Begins a handshake with `to`.
    pub(crate) fn connect(&self, to: SocketAddr, name: &str, tls: Arc<rustls::ClientConfig>) -> Result<quinn::Connecting> {
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport(Some(KEEP_ALIVE))));
        Ok(self.quinn.connect_with(config, to, name)?)
    }

    /// Says [`super::ring::ring`] there.
    pub fn ring(&self, to: SocketAddr, ring: &[u8]) {
        if let Err(error) = self.bell.ring(to, ring) {
            tracing::debug!("nobody is reached at {to}: {error}");
        }
    }

    /// The next coordinator that says by itself where it is.
    pub async fn rung(&self) -> Candidate {
        match self.rings.lock().await.recv().await {
            Some(ring) => ring,
            // Not while the socket is open.
            None => std::future::pending().await,
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// Tells every peer that we go, and waits a little until they know.
    pub async fn close(&self, code: CloseCode) {
        self.quinn.close(VarInt::from_u32(code as u32), code.words().as_bytes());
        let _ = tokio::time::timeout(FAREWELL, self.quinn.wait_idle()).await;
    }
}

impl Arrival {
    pub fn from(&self) -> SocketAddr {
        canonical(self.incoming.remote_address())
    }

    /// Finishes the handshake. Whoever turns out to be an active node is told to the gate by its pass.
    pub async fn handshake(self: Box<Self>) -> Result<(quinn::Connection, Pass), quinn::ConnectionError> {
        let Self { incoming, pass } = *self;
        match tokio::time::timeout(HANDSHAKE, incoming.accept()?).await {
            Ok(connection) => Ok((connection?, pass)),
            Err(_) => Err(quinn::ConnectionError::TimedOut),
        }
    }
}

/// quinn writes an address without its interface (`%eth0`) into a Retry, and so takes the answer for one from elsewhere.
pub(super) fn can_answer_retry(address: SocketAddr) -> bool {
    !matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0)
}

/// As people write it: an IPv4 address as such, although the socket is of IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => SocketAddr::new(address.ip().to_canonical(), address.port()),
        _ => address,
    }
}

/// quinn's own limits are made for the internet; a camera needs little, and a hundred of them share a Pi.
fn transport(keep_alive: Option<Duration>) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    // The way through a home does not change: looked at again now and then only.
    mtu.interval(Duration::from_secs(6 * 3600));
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(keep_alive)
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        .stream_receive_window(VarInt::from_u32(64 * 1024))
        .receive_window(VarInt::from_u32(256 * 1024))
        .send_window(256 * 1024)
        .datagram_receive_buffer_size(None)
        // For cameras too: a coordinator says nothing that fills a packet, and would keep room for the longest one for each of them.
        .mtu_discovery_config(keep_alive.is_some().then_some(mtu))
        // Many packets in one system call: for cameras, whose clips are long. A coordinator says little, to many, and would hold room for
        // ten packets (14 kB) for each of them.
        .enable_segmentation_offload(keep_alive.is_some())
        // A home's network answers in milliseconds; with the internet's 333 ms a lost first packet costs a second.
        .initial_rtt(Duration::from_millis(100));
    transport
}

/// `[::]` takes IPv4 too; on a machine without IPv6 it means every IPv4 address.
pub(crate) fn open(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    match open_one(listen) {
        Err(error) if listen.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            tracing::info!("this machine has no IPv6: listening on IPv4 only");
            open_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))
        }
        opened => opened,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

fn open_one(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_node_on_the_same_port_is_told_what_to_do() {
        let keys = MeshKeys::random().unwrap();
        let first = Endpoint::bind("127.0.0.1:0".parse().unwrap(), &keys, Limits::default()).unwrap();
        let error = Endpoint::bind(first.local_addr().unwrap(), &keys, Limits::default()).unwrap_err();
        assert!(error.to_string().contains("Each needs its own port"), "{error}");
    }

    #[test]
    fn an_ipv4_address_is_shown_as_one() {
        let mapped = "[::ffff:192.168.1.2]:47100".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.168.1.2:47100");
        let scoped: SocketAddr = "[fe80::1%3]:47100".parse().unwrap();
        assert_eq!(canonical(scoped), scoped);
    }
}
