//! A packet socket that hears and says ARP on every interface. The one place of the sensors with unsafe code.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrLike, recvfrom, sendto};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// The protocol number as the kernel wants it: in network order.
const ETH_P_ARP: u16 = (libc::ETH_P_ARP as u16).to_be();

#[derive(Debug)]
pub(crate) struct ArpSocket(AsyncFd<Socket>);

/// From which interface and device a packet came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) interface: u32,
    pub(crate) mac: [u8; 6],
}

impl ArpSocket {
    /// Needs CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETH_P_ARP))))?;
        socket.set_nonblocking(true)?;
        Ok(Self(register(socket)?))
    }

    /// The next packet from Ethernet. Cancel safe.
    pub(crate) async fn receive(&self, packet: &mut [u8]) -> io::Result<(usize, Source)> {
        loop {
            let received = self
                .0
                .async_io(Interest::READABLE, |socket| recvfrom::<LinkAddr>(socket.as_raw_fd(), packet).map_err(io::Error::from))
                .await;
            match received {
                Ok((len, Some(from))) if from.hatype() == libc::ARPHRD_ETHER && from.halen() == 6 => {
                    let Some((interface, mac)) = u32::try_from(from.ifindex()).ok().zip(from.addr()) else { continue };
                    return Ok((len, Source { interface, mac }));
                }
                Ok(_) => {}
                // An interface went down: the socket goes on with the others.
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Never waits: a full queue is an error.
    pub(crate) fn send(&self, interface: u32, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
        sendto(self.0.as_raw_fd(), packet, &address(interface, to)?, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

#[allow(unsafe_code, reason = "tokio cannot know that a socket2 socket keeps its descriptor open")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the AsyncFd owns the socket, which owns its descriptor and gives the same one out until it is dropped.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

#[allow(unsafe_code, reason = "nix has no constructor for link-layer addresses")]
fn address(interface: u32, mac: [u8; 6]) -> io::Result<LinkAddr> {
    let no = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut sll_addr = [0; 8];
    sll_addr[..6].copy_from_slice(&mac);
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETH_P_ARP,
        sll_ifindex: i32::try_from(interface).map_err(|_| no())?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr,
    };
    let len = u32::try_from(size_of_val(&raw)).map_err(|_| no())?;
    // SAFETY: the pointer is to a whole sockaddr_ll that lives until after the call, and `len` is its size.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(len)) }.ok_or_else(no)
}
