//! Ports that stay ours while nobody has them open: a coordinator that is restarted must find its own free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Below the range from which the system gives ports to others.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A port of 127.0.0.1. Other tests that look for one see that the TCP port of the same number is taken.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _reserved: TcpListener,
}

impl Port {
    pub(crate) fn free() -> Self {
        for _ in 0..1000 {
            let number = rand::random_range(RANGE);
            if let Ok(reserved) = TcpListener::bind((Ipv4Addr::LOCALHOST, number))
                && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok()
            {
                return Self { number, _reserved: reserved };
            }
        }
        panic!("no port is free");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

/// A TCP port of 127.0.0.1 that a node may listen on again and again. A socket that is bound to it and never listens keeps it from others.
#[derive(Debug)]
pub(crate) struct TcpPort {
    number: u16,
    _reserved: socket2::Socket,
}

impl TcpPort {
    pub(crate) fn free() -> Self {
        let reserved = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        reserved.set_reuse_address(true).unwrap();
        reserved.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let number = reserved.local_addr().unwrap().as_socket().unwrap().port();
        Self { number, _reserved: reserved }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
