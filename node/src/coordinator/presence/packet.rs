//! Packet sockets that hear and say what neighbours say of themselves, on every interface: ARP, neighbour discovery, and who asks for an
//! address. The one place of the sensors with unsafe code.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrLike, recvfrom, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// What is heard. Each has a socket of its own, behind a filter in the kernel: other packets wake nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    Arp,
    /// ICMPv6 of neighbour discovery (RFC 4861), from its IPv6 header on.
    Ndp,
    /// From a DHCP client to its server (RFC 2131), from its IPv4 header on.
    Dhcp,
}

impl Talk {
    fn protocol(self) -> u16 {
        // These constants are small.
        let ethertype = match self {
            Self::Arp => libc::ETH_P_ARP,
            Self::Ndp => libc::ETH_P_IPV6,
            Self::Dhcp => libc::ETH_P_IP,
        };
        ethertype as u16
    }

    fn filter(self) -> Vec<SockFilter> {
        use Step::{AfterIpv4, Byte, Half, Is, NoBits, Within};
        match self {
            Self::Arp => Vec::new(),
            // Next header ICMPv6; hop limit 255, which nobody beyond a router can send; router solicitation to neighbour advertisement.
            Self::Ndp => program(&[Byte(6), Is(58), Byte(7), Is(255), Byte(40), Within(133, 136)]),
            // UDP; no later fragment; from the client's port to the server's.
            Self::Dhcp => program(&[Byte(9), Is(17), Half(6), NoBits(0x1fff), AfterIpv4(0), Is(68), AfterIpv4(2), Is(67)]),
        }
    }
}

#[derive(Debug)]
pub(crate) struct PacketSockets {
    arp: AsyncFd<Socket>,
    ndp: AsyncFd<Socket>,
    dhcp: AsyncFd<Socket>,
}

/// The air of a network that a test makes up: what is said to it and what comes from it, as bytes.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Air {
    pub(super) heard: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<(Talk, Vec<u8>, Source)>>,
    pub(super) said: tokio::sync::mpsc::UnboundedSender<(Talk, [u8; 6], Vec<u8>)>,
}

/// From which interface and device a packet came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) interface: u32,
    pub(crate) mac: [u8; 6],
}

impl PacketSockets {
    /// Needs CAP_NET_RAW.
    pub(crate) fn open() -> io::Result<Self> {
        let open = |talk: Talk| {
            let protocol = talk.protocol().to_be();
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(protocol))))?;
            let filter = talk.filter();
            if !filter.is_empty() {
                // What came before it stood is read like anything else.
                socket.attach_filter(&filter)?;
            }
            socket.set_nonblocking(true)?;
            register(socket)
        };
        Ok(Self { arp: open(Talk::Arp)?, ndp: open(Talk::Ndp)?, dhcp: open(Talk::Dhcp)? })
    }

    /// The next packet from Ethernet. Cancel safe.
    pub(crate) async fn receive(&self, packet: &mut [u8]) -> io::Result<(Talk, usize, Source)> {
        loop {
            let (talk, ready) = tokio::select! {
                ready = self.arp.readable() => (Talk::Arp, ready?),
                ready = self.ndp.readable() => (Talk::Ndp, ready?),
                ready = self.dhcp.readable() => (Talk::Dhcp, ready?),
            };
            if let Some((len, source)) = taken(ready, packet)? {
                return Ok((talk, len, source));
            }
        }
    }

    /// Never waits: a full queue is an error.
    pub(crate) fn send(&self, talk: Talk, interface: u32, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
        let socket = match talk {
            Talk::Arp => &self.arp,
            Talk::Ndp => &self.ndp,
            Talk::Dhcp => &self.dhcp,
        };
        sendto(socket.as_raw_fd(), packet, &address(talk.protocol(), interface, to)?, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

/// `None`: nothing was there, or nothing of Ethernet.
fn taken(mut ready: AsyncFdReadyGuard<'_, Socket>, packet: &mut [u8]) -> io::Result<Option<(usize, Source)>> {
    match ready.try_io(|socket| recvfrom::<LinkAddr>(socket.as_raw_fd(), packet).map_err(io::Error::from)) {
        Err(_would_block) => Ok(None),
        Ok(Ok((len, Some(from)))) if from.hatype() == libc::ARPHRD_ETHER && from.halen() == 6 => {
            let source = u32::try_from(from.ifindex()).ok().zip(from.addr());
            Ok(source.map(|(interface, mac)| (len, Source { interface, mac })))
        }
        Ok(Ok(_)) => Ok(None),
        // An interface went down: the socket goes on with the others.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkDown => Ok(None),
        Ok(Err(error)) => Err(error),
    }
}

/// Of a program of the kernel's packet filter (linux/filter.h), which takes what passes every test. First what is looked at, ...
#[derive(Clone, Copy)]
enum Step {
    Byte(u32),
    Half(u32),
    /// So far behind the IPv4 header, however long that is.
    AfterIpv4(u32),
    // ...then what it must be.
    Is(u32),
    NoBits(u32),
    Within(u32, u32),
}

fn program(steps: &[Step]) -> Vec<SockFilter> {
    let [load_byte, load_half, load_header, load_half_after] = [0x30, 0x28, 0xb1, 0x48];
    let [if_equal, if_greater, if_at_least, if_bits, end] = [0x15, 0x25, 0x35, 0x45, 0x06];
    // (code, value, whether to refuse if it is so; `None`: nothing is decided)
    let codes: Vec<(u16, u32, Option<bool>)> = steps
        .iter()
        .flat_map(|step| match *step {
            Step::Byte(at) => vec![(load_byte, at, None)],
            Step::Half(at) => vec![(load_half, at, None)],
            Step::AfterIpv4(at) => vec![(load_header, 0, None), (load_half_after, at, None)],
            Step::Is(value) => vec![(if_equal, value, Some(false))],
            Step::NoBits(bits) => vec![(if_bits, bits, Some(true))],
            Step::Within(least, most) => vec![(if_at_least, least, Some(false)), (if_greater, most, Some(true))],
        })
        .collect();
    let count = codes.len();
    let mut program: Vec<SockFilter> = codes
        .into_iter()
        .enumerate()
        .map(|(nth, (code, value, refuses))| {
            // Behind the last step stands "take all of it", and behind that "refuse".
            let refuse = u8::try_from(count - nth).unwrap_or(u8::MAX);
            let (so, not_so) = match refuses {
                None => (0, 0),
                Some(true) => (refuse, 0),
                Some(false) => (0, refuse),
            };
            SockFilter::new(code, so, not_so, value)
        })
        .collect();
    program.extend([SockFilter::new(end, 0, 0, u32::MAX), SockFilter::new(end, 0, 0, 0)]);
    program
}

#[allow(unsafe_code, reason = "tokio cannot know that a socket2 socket keeps its descriptor open")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the AsyncFd owns the socket, which owns its descriptor and gives the same one out until it is dropped.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

#[allow(unsafe_code, reason = "nix has no constructor for link-layer addresses")]
fn address(protocol: u16, interface: u32, mac: [u8; 6]) -> io::Result<LinkAddr> {
    let no = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut sll_addr = [0; 8];
    sll_addr[..6].copy_from_slice(&mac);
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        // As the kernel wants it: in network order.
        sll_protocol: protocol.to_be(),
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
