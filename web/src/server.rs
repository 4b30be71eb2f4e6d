//! The port of the page: TLS, and limits on what one visitor may take of us.

use std::collections::HashMap;
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
use tokio_util::sync::CancellationToken;
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
    limits: Limits,
    app: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let handle = Handle::new();
    let stopping = async {
        stop.cancelled().await;
        handle.graceful_shutdown(Some(GRACE));
        std::future::pending::<()>().await
    };
    let door = Door { limits, inside: Arc::default() };
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
#[derive(Debug, Clone)]
struct Door {
    limits: Limits,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    from: HashMap<IpAddr, usize>,
}

impl Door {
    /// `None`: there are too many.
    fn enter(&self, address: IpAddr) -> Option<Ticket> {
        let address = network(address);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = inside.from.get(&address).copied().unwrap_or(0);
        if inside.all >= self.limits.connections || theirs >= self.limits.per_address {
            return None;
        }
        inside.all += 1;
        inside.from.insert(address, theirs + 1);
        Some(Ticket { inside: self.inside.clone(), address })
    }
}

/// Whoever holds it is inside.
#[derive(Debug)]
struct Ticket {
    inside: Arc<Mutex<Inside>>,
    address: IpAddr,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.all = inside.all.saturating_sub(1);
        match inside.from.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(inside.from.remove(&self.address)),
        }
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

/// A connection that is counted, and ends when nothing moves on it.
struct Guarded {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _ticket: Ticket,
}

impl Guarded {
    fn new(stream: TcpStream, ticket: Ticket) -> Self {
        Self { stream, idle: Box::pin(tokio::time::sleep(PATIENCE)), _ticket: ticket }
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

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_put_out_and_who_says_little_stays() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let door = Door { limits: Limits::default(), inside: Arc::default() };
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
        let door = Door { limits: Limits { connections: 5, per_address: 3 }, inside: Arc::default() };
        let enter = |address: &str| door.enter(address.parse().unwrap());
        let mut thief: Vec<_> = (0..5).filter_map(|nth| enter(&format!("2001:db8::{nth}"))).collect();
        assert_eq!(thief.len(), 3);
        let _ann = enter("192.168.1.5").unwrap();
        let _bob = enter("::ffff:192.168.1.5").unwrap();
        assert!(enter("192.168.1.6").is_none(), "the house is full");
        thief.pop();
        assert!(enter("2001:db8::9").is_some(), "and out again");
        drop(thief);
        assert_eq!(door.inside.lock().unwrap().from.len(), 1);
        assert_eq!(door.inside.lock().unwrap().all, 2);
    }
}
