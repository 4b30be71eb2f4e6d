//! "I am here": what a coordinator that began anew, or has another address, says to each of its nodes where it was last. The same hint as
//! an mDNS record, and worth no more, but it needs no multicast: one datagram on the socket of QUIC, which takes it for none of its own.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use dms3_core::id::{BootId, MeshId, NodeId};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::discovery::{Candidate, SHORT};
use super::endpoint::canonical;

/// No packet of QUIC begins so: of the first byte it sets one of the first two bits (RFC 9000, section 17), or, greased (RFC 9287), knows
/// the connection id that follows.
const MARK: &[u8; 11] = b"\0dms3 here\x01";
/// Those that wait to be looked at. Of more, none says anything new.
const WAITING: usize = 8;

/// What is said: the house, the coordinator, and which of its starts this is.
pub fn ring(mesh: &MeshId, node: &NodeId, boot: BootId) -> Vec<u8> {
    [&MARK[..], &mesh.0, node.short().as_bytes(), &boot.0].concat()
}

/// Where it came from is where the coordinator says it is.
fn read(bytes: &[u8], from: SocketAddr) -> Option<Candidate> {
    let (mesh, rest) = bytes.strip_prefix(MARK)?.split_first_chunk()?;
    let (node, boot) = rest.split_first_chunk::<SHORT>()?;
    let node = String::from_utf8(node.to_vec()).ok().filter(|node| node.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
    Some(Candidate { address: canonical(from), mesh: MeshId(*mesh), node, boot: BootId(boot.try_into().ok()?), enroll: None })
}

/// A socket on which rings are heard and said beside QUIC.
#[derive(Clone)]
pub(super) struct Bell {
    socket: Arc<dyn AsyncUdpSocket>,
    heard: mpsc::Sender<Candidate>,
}

impl Bell {
    pub(super) fn over(socket: Arc<dyn AsyncUdpSocket>) -> (Arc<Self>, mpsc::Receiver<Candidate>) {
        let (heard, rings) = mpsc::channel(WAITING);
        (Arc::new(Self { socket, heard }), rings)
    }

    /// Once: it may get lost, as any datagram.
    pub(super) fn ring(&self, to: SocketAddr, ring: &[u8]) -> io::Result<()> {
        let mapped = match (to.ip(), self.socket.local_addr()?) {
            (IpAddr::V4(ip), SocketAddr::V6(_)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        self.socket.try_send(&Transmit { destination: mapped, ecn: None, contents: ring, segment_size: None, src_ip: None })
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bell").field(&self.socket).finish()
    }
}

impl AsyncUdpSocket for Bell {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let count = ready!(self.socket.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(meta.iter()).take(count) {
            // The kernel may have put several datagrams of one sender together.
            for datagram in buf.get(..meta.len).unwrap_or_default().chunks(meta.stride.max(1)) {
                if let Some(ring) = read(datagram, meta.addr) {
                    drop(self.heard.try_send(ring));
                }
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::config::Limits;
    use crate::mesh::endpoint::Endpoint;
    use crate::mesh::keys::MeshKeys;
    use crate::mesh::testing::{Wire, handed_on};

    #[test]
    fn what_is_no_ring_is_none() {
        let from = "[::ffff:10.0.0.2]:47100".parse().unwrap();
        let good = ring(&MeshId([7; 10]), &NodeId([9; 32]), BootId([1, 2, 3, 4]));
        // These bytes are deployed. If this fails, give what is new another last byte of its mark.
        assert_eq!(good, [&b"\0dms3 here\x01"[..], &[7; 10], b"beeqscij", &[1, 2, 3, 4]].concat());
        let heard = read(&good, from).unwrap();
        assert_eq!((heard.address.to_string().as_str(), heard.mesh, heard.boot), ("10.0.0.2:47100", MeshId([7; 10]), BootId([1, 2, 3, 4])));
        assert_eq!((heard.node, heard.enroll), (NodeId([9; 32]).short(), None));
        for length in 0..good.len() {
            assert_eq!(read(&good[..length], from), None, "cut at {length}");
        }
        for nth in 0..MARK.len() {
            let mut other = good.clone();
            other[nth] ^= 0x40;
            assert_eq!(read(&other, from), None, "byte {nth} of the mark");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(read(&longer, from), None);
        let mut escape = good;
        escape[MARK.len() + 10] = 0x1b;
        assert_eq!(read(&escape, from), None, "it is shown on terminals");
    }

    #[tokio::test]
    async fn a_ring_is_heard_on_the_socket_of_quic_and_says_where_it_came_from() {
        let bind = |listen: &str| Endpoint::bind(listen.parse().unwrap(), &MeshKeys::random().unwrap(), Limits::default()).unwrap();
        let (coordinator, camera) = (bind("[::]:0"), bind("127.0.0.1:0"));
        let said = ring(&MeshId([7; 10]), &NodeId([9; 32]), BootId([1; 4]));
        let heard = async {
            loop {
                coordinator.ring(camera.local_addr().unwrap(), &said);
                if let Ok(heard) = tokio::time::timeout(std::time::Duration::from_millis(100), camera.rung()).await {
                    return heard;
                }
            }
        };
        let heard = tokio::time::timeout(std::time::Duration::from_secs(20), heard).await.expect("it is heard");
        assert_eq!(heard.address, SocketAddr::from(([127, 0, 0, 1], coordinator.local_addr().unwrap().port())));
    }

    #[test]
    fn of_rings_without_end_a_few_wait_and_quic_misses_nothing() {
        let wire = Arc::new(Wire::default());
        let (bell, rings) = Bell::over(wire.clone());
        let said = ring(&MeshId([7; 10]), &NodeId([9; 32]), BootId([1; 4]));
        wire.comes.lock().unwrap().push_back((said.repeat(100), said.len()));
        assert_eq!(handed_on(&*bell), said.repeat(100));
        assert_eq!(rings.len(), WAITING);
    }
}
