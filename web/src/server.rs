//! The port of the page: TLS, and limits on what one visitor may take of us.

use std::collections::{BTreeMap, HashMap};
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use dms3_core::accounts::network;
use hyper_util::rt::TokioTimer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use zeroize::Zeroizing;

/// A connection that says nothing for so long before or between its requests is closed.
const PATIENCE: Duration = Duration::from_secs(15);
/// One on which nothing moves for so long is closed, whatever it has said before.
const IDLE: Duration = Duration::from_secs(60);
/// Of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests at once on one connection.
const STREAMS: u32 = 64;
/// Bytes of all headers of a request.
const HEADERS: u32 = 16 * 1024;
/// How long a stop waits for answers that are being given.
const GRACE: Duration = Duration::from_secs(1);

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    /// From one address (an IPv6 network of 64 bits counts as one).
    pub per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, per_address: 128 }
    }
}

/// Is told whose connection was closed because there are too many, and why.
pub type Closed = Arc<dyn Fn(IpAddr, &'static str) + Send + Sync>;

/// What browsers are shown. The key is PKCS #8 in DER.
#[derive(Clone)]
pub struct Papers {
    /// The leaf first.
    pub chain: Vec<Vec<u8>>,
    pub key: Zeroizing<Vec<u8>>,
    /// SHA-256 of the leaf, as browsers show it.
    pub fingerprint: String,
}

impl std::fmt::Debug for Papers {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Papers").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Papers {
    fn config(&self) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::try_from(self.key.to_vec()).map_err(|why| rustls::Error::General(why.to_owned()))?;
        let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Serves until the stop. `papers`: `None` is plain HTTP, for a proxy on the same machine; else each change counts from the next connection on.
pub(crate) async fn serve(
    listener: TcpListener,
    papers: Option<watch::Receiver<Papers>>,
    (limits, closed): (Limits, Closed),
    app: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let handle = Handle::new();
    let stopping = async {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(GRACE));
        std::future::pending::<()>().await
    };
    let door = Door { limits, closed, inside: Arc::default() };
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let Some(mut papers) = papers else {
        let mut server = axum_server::from_tcp(listener)?.handle(handle.clone()).acceptor(door);
        set_limits(&mut server);
        return tokio::select! {
            ended = server.serve(service) => ended,
            () = stopping => Ok(()),
        };
    };
    let first = papers.borrow_and_update().config().map_err(io::Error::other)?;
    let config = RustlsConfig::from_config(first);
    let acceptor = RustlsAcceptor::new(config.clone()).handshake_timeout(HANDSHAKE).acceptor(door);
    let mut server = axum_server::from_tcp(listener)?.handle(handle.clone()).acceptor(acceptor);
    set_limits(&mut server);
    let reloading = async {
        while papers.changed().await.is_ok() {
            match papers.borrow_and_update().config() {
                Ok(new) => config.reload_from_config(new),
                Err(error) => tracing::warn!("the new certificate of the dashboard cannot be used ({error}); the one before stays"),
            }
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        ended = server.serve(service) => ended,
        () = stopping => Ok(()),
        () = reloading => Ok(()),
    }
}

fn set_limits<A>(server: &mut Server<SocketAddr, A>) {
    let builder = server.http_builder();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 * 1024).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        // A page and its pictures are small; a clip is read as fast as it is shown.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .max_send_buf_size(256 * 1024);
}

/// Counts who is inside.
#[derive(Clone)]
struct Door {
    limits: Limits,
    closed: Closed,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    /// By their age.
    seats: BTreeMap<u64, Seat>,
    from: HashMap<IpAddr, usize>,
}

struct Seat {
    address: IpAddr,
    /// Cancelled when somebody else needs it.
    given_up: CancellationToken,
}

impl Door {
    /// `None`: there are too many. Where all seats are taken, whoever has fewer than another gets the oldest of that one's: an address that
    /// nobody else has finds a place, however many others hold all they can.
    fn enter(&self, peer: IpAddr) -> Option<Ticket> {
        let address = network(peer);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = inside.from.get(&address).copied().unwrap_or(0);
        if theirs >= self.limits.per_address {
            (self.closed)(peer, "this address has as many as one may (connections_per_address)");
            return None;
        }
        if inside.seats.len() >= self.limits.connections {
            let most = inside.from.iter().max_by_key(|(_, count)| **count).map(|(address, count)| (*address, *count));
            let Some((greediest, _)) = most.filter(|(_, count)| *count > theirs + 1) else {
                (self.closed)(peer, "all places are taken (connections)");
                return None;
            };
            let oldest = inside.seats.iter().find(|(_, seat)| seat.address == greediest).map(|(serial, _)| *serial);
            if let Some(seat) = oldest.and_then(|oldest| inside.leave(oldest)) {
                seat.given_up.cancel();
                (self.closed)(greediest, "others need a place, and no address has more of them");
            }
        }
        let serial = inside.next;
        inside.next += 1;
        let given_up = CancellationToken::new();
        inside.from.insert(address, theirs + 1);
        inside.seats.insert(serial, Seat { address, given_up: given_up.clone() });
        Some(Ticket { inside: self.inside.clone(), serial, given_up })
    }
}

impl Inside {
    fn leave(&mut self, serial: u64) -> Option<Seat> {
        let seat = self.seats.remove(&serial)?;
        match self.from.get_mut(&seat.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.from.remove(&seat.address)),
        }
        Some(seat)
    }
}

/// Whoever holds it is inside.
struct Ticket {
    inside: Arc<Mutex<Inside>>,
    serial: u64,
    given_up: CancellationToken,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).leave(self.serial);
    }
}

impl<S> Accept<TcpStream, S> for Door {
    type Stream = Guarded;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Guarded, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let entered = stream.peer_addr().and_then(|peer| {
            let ticket = self.enter(peer.ip()).ok_or_else(|| io::Error::other("too many connections to the dashboard"))?;
            stream.set_nodelay(true)?;
            Ok((Guarded::new(stream, ticket), service))
        });
        std::future::ready(entered)
    }
}

/// A connection that is counted, and ends when nothing moves on it or somebody else needs its place.
struct Guarded {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    _ticket: Ticket,
}

impl Guarded {
    fn new(stream: TcpStream, ticket: Ticket) -> Self {
        let given_up = Box::pin(ticket.given_up.clone().cancelled_owned());
        Self { stream, idle: Box::pin(tokio::time::sleep(PATIENCE)), given_up, _ticket: ticket }
    }

    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE);
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                if buffer.filled().len() > before {
                    self.moved();
                }
                Poll::Ready(read)
            }
            Poll::Pending if self.given_up.as_mut().poll(context).is_ready() => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            // What is written to an open page counts too: it is heard of every few seconds.
            Poll::Pending => self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.moved();
        }
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.moved();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(connections: usize, per_address: usize) -> Door {
        Door { limits: Limits { connections, per_address }, closed: Arc::new(|_, _| {}), inside: Arc::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_put_out_and_who_says_little_stays() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let door = door(512, 128);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let mut guarded = Guarded::new(stream, door.enter(peer.ip()).unwrap());
        let began = Instant::now();
        client.write_all(b"a").await.unwrap();
        assert_eq!(guarded.read_u8().await.unwrap(), b'a');
        let heard = Instant::now();
        assert_eq!(guarded.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(heard.elapsed() >= IDLE && began.elapsed() < IDLE + PATIENCE, "{:?}", heard.elapsed());
        let _mute = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let mut mute = Guarded::new(stream, door.enter(peer.ip()).unwrap());
        let began = Instant::now();
        assert_eq!(mute.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < IDLE, "who never said anything: {:?}", began.elapsed());
        let (stream, peer) = {
            let _other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            listener.accept().await.unwrap()
        };
        let mut silent = Guarded::new(stream, door.enter(peer.ip()).unwrap());
        // Its other side is closed: that is an end, not a time-out.
        assert_eq!(silent.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn one_address_never_fills_the_house_and_who_leaves_makes_room() {
        let door = door(5, 3);
        let enter = |address: &str| door.enter(address.parse().unwrap());
        let mut thief: Vec<_> = (0..5).filter_map(|nth| enter(&format!("2001:db8::{nth}"))).collect();
        assert_eq!(thief.len(), 3);
        thief.pop();
        assert!(enter("2001:db8::9").is_some(), "and out again");
        let _ann = enter("192.168.1.5").unwrap();
        let _bob = enter("::ffff:192.168.1.5").unwrap();
        drop(thief);
        let inside = door.inside.lock().unwrap();
        assert_eq!((inside.from.len(), inside.seats.len()), (1, 2));
    }

    #[tokio::test]
    async fn who_fills_the_house_from_many_addresses_makes_room_for_one_that_has_none() {
        use tokio::io::AsyncReadExt as _;
        let door = door(6, 4);
        let enter = |address: &str| door.enter(address.parse().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut oldest = Guarded::new(stream, enter("10.0.0.1").unwrap());
        let mut others: Vec<_> = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.2"].map(|address| enter(address).unwrap()).into();
        let ann = enter("192.168.1.5").expect("the house is full, and she finds a place");
        let first = if oldest._ticket.given_up.is_cancelled() { "10.0.0.1" } else { "10.0.0.2" };
        let bob = enter("192.168.1.5").expect("one of the other's");
        assert!(enter("192.168.1.5").is_none() && enter(first).is_none(), "everybody has as many now");
        assert_eq!(oldest.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(!ann.given_up.is_cancelled() && !bob.given_up.is_cancelled());
        drop(oldest);
        others.retain(|ticket| !ticket.given_up.is_cancelled());
        assert_eq!((others.len(), door.inside.lock().unwrap().seats.len()), (4, 6), "each is counted once");
    }
}
