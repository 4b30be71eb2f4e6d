//! Between the system's UDP socket and QUIC: counts what strangers send, and answers them no more often than the system can bear.
//!
//! Whatever is sent to an address of our own network that nobody has waits three seconds for the answer of ARP, in the send buffer of this
//! socket; once that is full, nothing goes out to cameras either. So nobody may make us answer without end to addresses that he makes up.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use quinn_proto::{ConnectionId, ConnectionIdGenerator as _, HashedConnectionIdGenerator};
use tokio::time::Instant;

use super::config::Limits;
use super::gate::Gate;

/// For so long an answer to nobody takes room (mcast_solicit times retrans_time of the kernel).
const PERIOD: Duration = Duration::from_secs(3);
/// Bytes that may wait for us, and to be sent: a moment without a processor loses nothing. The kernel gives twice as much, if it may.
const BUFFER: usize = 1 << 20;
/// Of QUIC (RFC 9000): the long header, the two bits of its type, and the datagram that a first packet must at least fill.
const LONG: u8 = 0x80;
const TYPE: u8 = 0x30;
const INITIAL: u8 = 0x00;
const RETRY: u8 = 0x30;
const VERSION: [u8; 4] = [0, 0, 0, 1];
const INITIAL_LEAST: usize = 1200;
/// Of our connection ids.
const ID: usize = 8;

/// The socket of one port.
pub(super) struct CountedSocket {
    system: Arc<dyn AsyncUdpSocket>,
    /// By which our own connection ids are known.
    ids: u64,
    /// Whether anybody may begin a handshake here.
    serves: AtomicBool,
    /// Whom nodes came from.
    gate: Option<Gate>,
    answers: Mutex<Answers>,
    begun: AtomicU64,
    unanswered: AtomicU64,
    strange: AtomicU64,
    last: Mutex<Option<IpAddr>>,
}

/// What came since it was asked for the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knocks {
    /// First packets of handshakes, honest ones among them.
    pub begun: u64,
    /// Answers that were not given.
    pub unanswered: u64,
    /// Neither of a handshake nor of a link.
    pub strange: u64,
    /// Whose address was on one of the latest: anybody may have written it there.
    pub from: Option<IpAddr>,
}

impl Knocks {
    pub fn and(self, more: Self) -> Self {
        Self {
            begun: self.begun + more.begun,
            unanswered: self.unanswered + more.unanswered,
            strange: self.strange + more.strange,
            from: more.from.or(self.from),
        }
    }
}

/// The system's socket, with room for a flood.
pub(super) fn roomy(socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let sizes = socket2::SockRef::from(&socket);
    // What the system does not allow is not needed on a quiet network.
    let _ = (sizes.set_recv_buffer_size(BUFFER), sizes.set_send_buffer_size(BUFFER));
    TokioRuntime.wrap_udp_socket(socket)
}

impl CountedSocket {
    /// `ids`: the key of our own connection ids.
    pub(super) fn over(system: Arc<dyn AsyncUdpSocket>, ids: u64, limits: &Limits, gate: Option<Gate>) -> Arc<Self> {
        Arc::new(Self {
            system,
            ids,
            serves: AtomicBool::new(false),
            gate,
            answers: Mutex::new(Answers::new(limits)),
            begun: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            last: Mutex::default(),
        })
    }

    pub(super) fn serves(&self) {
        self.serves.store(true, Ordering::Relaxed);
    }

    pub(super) fn knocks(&self) -> Knocks {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let from = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        Knocks { begun: take(&self.begun), unanswered: take(&self.unanswered), strange: take(&self.strange), from }
    }

    /// Whether QUIC is to see it.
    fn take(&self, datagram: &[u8], from: SocketAddr) -> bool {
        let (count, wanted) = match datagram {
            // Only this version is spoken; quinn would tell everybody so who says another.
            [first, version @ ..] if first & LONG != 0 => {
                let is_ours = version.starts_with(&VERSION);
                let begins = first & TYPE == INITIAL;
                if !is_ours || begins && !self.serves.load(Ordering::Relaxed) && !self.is_own(long_id(datagram)) {
                    (&self.strange, false)
                } else if begins && !self.is_own(long_id(datagram)) {
                    (&self.begun, true)
                } else {
                    return true;
                }
            }
            _ if self.is_own(datagram.get(1..=ID)) => return true,
            // By a packet like this one who was restarted tells that he knows nothing of a link.
            _ => (&self.strange, true),
        };
        count.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(from.ip().to_canonical());
        wanted
    }

    /// Whether we may have given out this connection id.
    fn is_own(&self, id: Option<&[u8]>) -> bool {
        id.is_some_and(|id| id.len() == ID && HashedConnectionIdGenerator::from_key(self.ids).validate(&ConnectionId::new(id)).is_ok())
    }
}

/// The connection id for which a packet with a long header is.
fn long_id(datagram: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*datagram.get(5)?);
    datagram.get(6..6 + length)
}

/// Whether it was said to somebody of whom nothing is known yet: come again and prove your address, speak another version, go away.
fn is_answer_to_anybody(datagram: &[u8]) -> bool {
    match datagram {
        [first, rest @ ..] if first & LONG != 0 => {
            let kind = first & TYPE;
            !rest.starts_with(&VERSION) || kind == RETRY || kind == INITIAL && datagram.len() < INITIAL_LEAST
        }
        _ => false,
    }
}

impl AsyncUdpSocket for CountedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.system.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if is_answer_to_anybody(transmit.contents) {
            let to = transmit.destination.ip().to_canonical();
            let is_known = self.gate.as_ref().is_some_and(|gate| gate.knows(to));
            if !self.answers.lock().unwrap_or_else(PoisonError::into_inner).may(to, is_known, Instant::now()) {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        self.system.try_send(transmit)
    }

    fn poll_recv(&self, context: &mut Context<'_>, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let count = ready!(self.system.poll_recv(context, buffers, meta))?;
        for (buffer, meta) in buffers.iter_mut().zip(meta.iter_mut()).take(count) {
            // The system may hand over many datagrams of one sender as one; only the last is shorter.
            let mut kept = 0;
            for start in (0..meta.len).step_by(meta.stride.max(1)) {
                let end = (start + meta.stride).min(meta.len);
                if self.take(&buffer[start..end], meta.addr) {
                    buffer.copy_within(start..end, kept);
                    kept += end - start;
                }
            }
            meta.len = kept;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.system.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.system.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.system.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.system.may_fragment()
    }
}

impl std::fmt::Debug for CountedSocket {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("CountedSocket").field("system", &self.system).finish_non_exhaustive()
    }
}

/// Answers to anybody within [`PERIOD`].
#[derive(Debug)]
struct Answers {
    /// To one address, so that whoever writes one address on all his packets leaves some to others.
    each: u32,
    /// To all addresses that no node came from. Each takes 0.8 kB of the send buffer, which has 200 kB on a small system.
    strangers: u32,
    since: Option<Instant>,
    given: HashMap<IpAddr, u32>,
    to_strangers: u32,
}

impl Answers {
    /// Who allows more handshakes has a house to which more may come at once.
    fn new(limits: &Limits) -> Self {
        let (each, strangers) = (limits.handshakes_per_address.saturating_mul(4), limits.handshakes.saturating_mul(2));
        Self { each, strangers, since: None, given: HashMap::new(), to_strangers: 0 }
    }

    fn may(&mut self, to: IpAddr, is_known: bool, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            (self.since, self.to_strangers) = (Some(now), 0);
            self.given.clear();
        }
        if self.given.get(&to).is_some_and(|given| *given >= self.each) || !is_known && self.to_strangers >= self.strangers {
            return false;
        }
        *self.given.entry(to).or_default() += 1;
        self.to_strangers += u32::from(!is_known);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::mesh::testing::{Wire, handed_on};

    #[tokio::test(start_paused = true)]
    async fn whoever_makes_up_addresses_is_answered_128_times_in_three_seconds_and_nodes_all_the_same() {
        let mut answers = Answers::new(&Limits::default());
        let mut may = |number, is_known| answers.may(Ipv4Addr::from_bits(number).into(), is_known, Instant::now());
        assert_eq!((0..100).filter(|_| may(1, false)).count(), 16, "one address leaves some to others");
        assert_eq!((2..10_000).filter(|number| may(*number, false)).count(), 112);
        assert_eq!((0..100).filter(|_| may(20_000, true)).count(), 16, "a node came from there");
        tokio::time::advance(PERIOD).await;
        assert!(may(1, false), "and then again");
    }

    #[tokio::test]
    async fn what_no_node_says_is_counted_and_another_version_is_not_heard() {
        let system = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        system.set_nonblocking(true).unwrap();
        let socket = CountedSocket::over(roomy(system).unwrap(), 7, &Limits::default(), None);
        let own = HashedConnectionIdGenerator::from_key(7).generate_cid();
        let from = SocketAddr::from(([10, 0, 0, 9], 1));
        let long = |first: u8, version: u8, id: &[u8]| [&[first, 0, 0, 0, version, 8][..], id, &[0; 1200]].concat();
        let takes = |datagram: &[u8]| socket.take(datagram, from);
        assert!(takes(&[&[0x40][..], &own, &[0; 30]].concat()) && takes(&long(0xc0, 1, &own)), "of a link or a handshake of ours");
        assert_eq!(socket.knocks(), Knocks::default());
        assert!(!takes(&long(0xc0, 1, b"12345678")), "nobody begins a handshake where nobody serves");
        socket.serves();
        assert!(takes(&long(0xc0, 1, b"12345678")));
        assert!(!takes(&long(0xc0, 2, b"12345678")) && !takes(&long(0xc0, 0, &own)) && !takes(&[0xc0]));
        assert!(takes(&[0x40; 40]), "it may be a stateless reset");
        let knocks = Knocks { begun: 1, unanswered: 0, strange: 5, from: Some(from.ip()) };
        assert_eq!((socket.knocks(), socket.knocks()), (knocks, Knocks::default()), "counted once");
    }

    #[test]
    fn answers_to_anybody_are_told_from_what_is_said_on_a_link() {
        let packet = |first: u8, version: u8, length: usize| {
            let mut packet = vec![0; length];
            (packet[0], packet[4]) = (first, version);
            packet
        };
        for (what, packet, answer) in [
            ("retry", packet(0xf0, 1, 100), true),
            ("another version, please", packet(0xc0, 0, 40), true),
            ("another version, please, with bits of its own", packet(0xe0, 0, 1300), true),
            ("go away", packet(0xc0, 1, 60), true),
            ("hello", packet(0xc0, 1, 1200), false),
            ("the rest of the hello", packet(0xe0, 1, 600), false),
            ("on a link", packet(0x40, 1, 60), false),
        ] {
            assert_eq!(is_answer_to_anybody(&packet), answer, "{what}");
        }
    }

    #[test]
    fn of_what_the_system_hands_over_together_quic_sees_what_it_is_to_see() {
        let wire = Arc::new(Wire::default());
        let socket = CountedSocket::over(wire.clone(), 7, &Limits::default(), None);
        let id = HashedConnectionIdGenerator::from_key(7).generate_cid();
        let ours = |length: usize, fill: u8| [&[0x40][..], &id, &vec![fill; length - 1 - ID]].concat();
        let other = [&[0xc0, 0, 0, 0, 2][..], &[0; 45]].concat();
        wire.comes.lock().unwrap().push_back(([ours(50, 1), other.clone(), ours(30, 2)].concat(), 50));
        wire.comes.lock().unwrap().push_back((other, 50));
        assert_eq!(handed_on(&*socket), [ours(50, 1), ours(30, 2)].concat());
        assert_eq!(handed_on(&*socket), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_to_anybody_goes_out_so_often_and_is_counted_and_where_a_node_came_from_all_of_it_does() {
        let (wire, gate) = (Arc::new(Wire::default()), Gate::new(Limits::default()));
        gate.expect([192, 168, 1, 9].into());
        let socket = CountedSocket::over(wire.clone(), 7, &Limits::default(), Some(gate));
        let retry = [&[0xf0, 0, 0, 0, 1][..], &[0; 95]].concat();
        let say = |to: [u8; 4]| {
            let destination = SocketAddr::from((to, 1));
            socket.try_send(&Transmit { destination, ecn: None, contents: &retry, segment_size: None, src_ip: None }).unwrap();
            wire.sent.lock().unwrap().len()
        };
        assert_eq!((0..200).fold(0, |_, last| say([10, 0, 0, last])), 128);
        assert_eq!((say([192, 168, 1, 9]), socket.knocks().unanswered), (129, 72));
    }
}
