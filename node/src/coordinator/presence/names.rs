//! Sockets that ask for names by mDNS, and wake phones with a question. Need no right, and no other program's port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::SockRef;
use tokio::net::UdpSocket;

use super::links::Link;
use super::mdns;

/// RFC 6762, 11.
const TTL: u32 = 255;
/// An answer to us alone is small; what does not fit is cut.
const LARGEST: usize = 1500;

#[derive(Debug)]
pub(super) struct Names {
    id: u16,
    ipv4: Option<UdpSocket>,
    ipv6: Option<UdpSocket>,
}

impl Names {
    /// Of a kind that this machine does not have there is none.
    pub(super) async fn open() -> Self {
        let socket = async |ip: IpAddr| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((ip, 0)).await?;
            match ip {
                IpAddr::V4(_) => socket.set_multicast_ttl_v4(TTL)?,
                IpAddr::V6(_) => SockRef::from(&socket).set_multicast_hops_v6(TTL)?,
            }
            Ok(socket)
        };
        let (ipv4, ipv6) = (socket(Ipv4Addr::UNSPECIFIED.into()).await, socket(Ipv6Addr::UNSPECIFIED.into()).await);
        Self { id: rand::random(), ipv4: ipv4.ok(), ipv6: ipv6.ok() }
    }

    /// A machine that asks for no names.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { id: 0, ipv4: None, ipv6: None }
    }

    /// Asks everybody on these networks which addresses the name has. How many questions got out.
    pub(super) fn ask(&self, name: &str, links: &[Link]) -> u64 {
        let Some(question) = mdns::where_is(self.id, name) else { return 0 };
        let mut sent = 0;
        for link in links.iter().filter(|link| link.is_usable()) {
            if let (Some(socket), Some(subnet)) = (&self.ipv4, link.subnets.first())
                && SockRef::from(socket).set_multicast_if_v4(&subnet.own).is_ok()
            {
                sent += u64::from(socket.try_send_to(&question, (mdns::GROUP4, mdns::PORT).into()).is_ok());
            }
            if let (Some(socket), Some(_)) = (&self.ipv6, link.own_ip6()) {
                let group = SocketAddrV6::new(mdns::GROUP6, mdns::PORT, 0, link.index);
                sent += u64::from(socket.try_send_to(&question, group.into()).is_ok());
            }
        }
        sent
    }

    /// A question to one device, which wakes it. What it answers does not matter.
    pub(super) fn wake(&self, ip: IpAddr, links: &[Link]) -> u64 {
        let question = mdns::wake_up(self.id);
        let to = links.iter().filter(|link| link.is_usable() && link.reaches(ip, false));
        to.map(|link| u64::from(self.send(&question, ip, mdns::PORT, link).is_ok())).sum()
    }

    /// From now on the switch and our own card let through what is said to the group, which is how a phone says by IPv6 that it comes.
    pub(super) fn listen(&self, group: Ipv6Addr, link: u32) {
        if let Some(Err(error)) = self.ipv6.as_ref().map(|socket| socket.join_multicast_v6(&group, link)) {
            tracing::debug!("cannot listen to {group}: {error}");
        }
    }

    fn send(&self, packet: &[u8], ip: IpAddr, port: u16, link: &Link) -> io::Result<()> {
        let socket = if ip.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        socket.try_send_to(packet, on(link, ip, port)).map(drop)
    }

    /// What somebody answers, and who: names and their addresses. Cancel safe.
    pub(super) async fn answers(&self) -> io::Result<(IpAddr, Vec<(String, IpAddr)>)> {
        let mut packet = [0; LARGEST];
        loop {
            let ready = async |socket: &Option<UdpSocket>| match socket {
                Some(socket) => socket.readable().await,
                None => std::future::pending().await,
            };
            let socket = tokio::select! {
                is = ready(&self.ipv4) => is.map(|()| &self.ipv4)?,
                is = ready(&self.ipv6) => is.map(|()| &self.ipv6)?,
            };
            // An error of an earlier question (nobody listens there) is none of the next answer's.
            let Some(Ok((length, from))) = socket.as_ref().map(|socket| socket.try_recv_from(&mut packet)) else { continue };
            return Ok((from.ip(), mdns::addresses(self.id, &packet[..length])));
        }
    }
}

/// An address of the link means something on that link alone.
pub(super) fn on(link: &Link, ip: IpAddr, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, link.index).into(),
        _ => (ip, port).into(),
    }
}
