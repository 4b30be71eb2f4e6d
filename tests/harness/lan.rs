//! A network of its own on this machine: a switch and hosts, each a network namespace with its own MAC and IP address.

use std::fs::File;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static LANS: AtomicU32 = AtomicU32::new(0);

/// Which addresses the machines of a network have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    Both,
    /// IPv6 of the network's own, and of the link.
    OnlyV6,
    /// Those that mean nothing without the interface.
    OnlyLinkLocal,
}

/// A switch with a router. Removed with everything on it when dropped.
#[derive(Debug)]
pub(crate) struct Lan {
    name: String,
    addresses: Addresses,
    hosts: Mutex<Vec<Host>>,
}

/// A machine on the network: a node's, or a phone.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) netns: String,
    pub(crate) mac: String,
    pub(crate) ip: String,
    pub(crate) ip6: String,
    switch: String,
    port: String,
}

impl Lan {
    /// With a router at .1, as every home has one.
    pub(crate) fn new() -> Self {
        Self::with(Addresses::Both)
    }

    pub(crate) fn with(addresses: Addresses) -> Self {
        let name = format!("dms3-{}-{}", std::process::id(), LANS.fetch_add(1, Ordering::Relaxed));
        let lan = Self { name, addresses, hosts: Mutex::new(Vec::new()) };
        let switch = lan.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        lan.host("router");
        lan
    }

    /// A new machine, its cable in.
    pub(crate) fn host(&self, name: &str) -> Host {
        let mut hosts = self.hosts.lock().unwrap();
        let number = hosts.len() + 1;
        let host = Host {
            netns: format!("{}-{name}", self.name),
            // Not of the locally administered kind: that would be a "private address".
            mac: format!("24:da:9b:00:00:{number:02x}"),
            ip: format!("192.168.77.{number}"),
            ip6: format!("fd77::{number:x}"),
            switch: self.switch(),
            port: format!("p{number}"),
        };
        let (netns, switch) = (host.netns.as_str(), host.switch.as_str());
        ip(&["netns", "add", netns]);
        hosts.push(host.clone());
        ip(&["-n", switch, "link", "add", &host.port, "type", "veth", "peer", "name", "eth0", "address", &host.mac, "netns", netns]);
        ip(&["-n", switch, "link", "set", &host.port, "master", "br0", "up"]);
        if self.addresses == Addresses::Both {
            ip(&["-n", netns, "addr", "add", &format!("{}/24", host.ip), "dev", "eth0"]);
        } else {
            // Known at once: the kernel's own would be "tentative" for two seconds.
            ip(&["-n", netns, "link", "set", "eth0", "addrgenmode", "none"]);
            ip(&["-n", netns, "addr", "add", &format!("fe80::{number:x}/64"), "dev", "eth0", "nodad"]);
        }
        if self.addresses != Addresses::OnlyLinkLocal {
            ip(&["-n", netns, "addr", "add", &format!("{}/64", host.ip6), "dev", "eth0", "nodad"]);
        }
        ip(&["-n", netns, "link", "set", "lo", "up"]);
        ip(&["-n", netns, "link", "set", "eth0", "up"]);
        if number > 1 && self.addresses == Addresses::Both {
            ip(&["-n", netns, "route", "add", "default", "via", "192.168.77.1"]);
        }
        host
    }

    /// One that was added.
    pub(crate) fn machine(&self, name: &str) -> Host {
        let netns = format!("{}-{name}", self.name);
        self.hosts.lock().unwrap().iter().find(|host| host.netns == netns).unwrap().clone()
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }
}

impl Host {
    /// Out of reach: a phone that was carried away, a camera whose cable was pulled. Its own side of the cable goes dark too.
    pub(crate) fn leaves(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "down"]);
    }

    pub(crate) fn returns(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "up"]);
    }

    /// From now on it sends no more than so much ("40mbit").
    pub(crate) fn is_slow(&self, rate: &str) {
        let limit = ["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms"];
        ip(&[&["netns", "exec", &self.netns], &limit[..]].concat());
    }

    /// A way from this machine's loopback to a port of the host's own, as long as the test runs.
    pub(crate) fn way_to(&self, port: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let way = listener.local_addr().unwrap();
        let netns = File::open(format!("/run/netns/{}", self.netns)).unwrap();
        std::thread::spawn(move || {
            // The threads that this one starts are in that network too.
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for visitor in listener.incoming() {
                let (visitor, Ok(inside)) = (visitor.unwrap(), TcpStream::connect(port)) else { continue };
                let pass = |mut from: TcpStream, mut to: TcpStream| {
                    std::thread::spawn(move || {
                        // Whoever went away needs no more.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    })
                };
                pass(visitor.try_clone().unwrap(), inside.try_clone().unwrap());
                pass(inside, visitor);
            }
        });
        way
    }

    /// Bytes that it ever sent.
    pub(crate) fn sent(&self) -> u64 {
        let said = ip(&["netns", "exec", &self.netns, "cat", "/sys/class/net/eth0/statistics/tx_bytes"]);
        said.trim().parse().unwrap()
    }

    /// Its lease ended, and it got another IPv4 address.
    pub(crate) fn moves_to(&self, ip4: &str) {
        ip(&["-n", &self.netns, "-4", "addr", "flush", "dev", "eth0"]);
        ip(&["-n", &self.netns, "addr", "add", &format!("{ip4}/24"), "dev", "eth0"]);
    }

    /// A phone that comes home says something, as every phone does.
    pub(crate) fn talks_to(&self, other: &Host) {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &self.netns, "ping", "-c1", "-W1", &other.ip]);
        // Whether it was answered is not the point.
        ping.output().unwrap();
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let hosts = self.hosts.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let names = hosts.iter().map(|host| host.netns.clone());
        for netns in names.chain([format!("{}-switch", self.name)]) {
            drop(Command::new("ip").args(["netns", "del", &netns]).output());
        }
    }
}

/// What it says.
fn ip(args: &[&str]) -> String {
    let out = Command::new("ip").args(args).output().expect("`ip` of iproute2");
    assert!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
