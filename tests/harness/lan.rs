//! A network of its own on this machine: a switch and hosts, each a network namespace with its own MAC and IP address.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static LANS: AtomicU32 = AtomicU32::new(0);

/// Which addresses the machines of a network have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    Both,
    /// Machines that have never heard of IPv6.
    OnlyV4,
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

    /// A machine, its cable in: a new one, unless it was added before.
    pub(crate) fn host(&self, name: &str) -> Host {
        self.host_at(name, &FIRST)
    }

    /// A new machine on the second network, which has no router.
    pub(crate) fn host_beyond(&self, name: &str) -> Host {
        self.host_at(name, &SECOND)
    }

    /// That machine gets a second cable, to the second network.
    pub(crate) fn joins_both(&self, host: &Host) {
        let (netns, switch, second) = (host.netns.as_str(), self.switch(), self.second(host));
        ip(&["-n", &switch, "link", "add", SECOND.bridge, "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", SECOND.bridge, "up"]);
        ip(&["-n", &switch, "link", "add", &second.port, "type", "veth", "peer", "name", "eth1", "netns", netns]);
        ip(&["-n", &switch, "link", "set", &second.port, "master", SECOND.bridge, "up"]);
        ip(&["-n", netns, "addr", "add", &format!("{}/24", second.ip), "dev", "eth1"]);
        ip(&["-n", netns, "addr", "add", &format!("{}/64", second.ip6), "dev", "eth1", "nodad"]);
        ip(&["-n", netns, "link", "set", "eth1", "up"]);
    }

    /// Its second cable.
    pub(crate) fn second(&self, host: &Host) -> Host {
        let number = host.port.trim_start_matches('p');
        let (ip, ip6) = (format!("{}.{number}", SECOND.v4), format!("{}::{number}", SECOND.v6));
        Host { ip, ip6, port: format!("q{number}"), ..host.clone() }
    }

    /// From now on nothing goes through that is for several machines, but for what makes neighbours known to each other.
    pub(crate) fn drops_multicast(&self) {
        set_rule(&self.switch(), "multicast", "ip daddr 224.0.0.0/4 drop");
        set_rule(&self.switch(), "multicast6", "ip6 daddr { ff02::fb, ff05::fb } drop");
    }

    /// All of what comes from or goes to `host` is on its way for `delay`; of a hundred frames `late` are overtaken, and `twice` come again.
    pub(crate) fn lengthens(&self, host: &Host, delay: std::time::Duration, late: u8, twice: u8) -> Wire {
        // A checksum that a card was to fill in is never filled in on this way.
        self.hosts.lock().unwrap().iter().for_each(Host::sends_single_frames);
        let (switch, port) = (self.switch(), host.port.as_str());
        let (near, far) = (format!("{port}n"), format!("{port}f"));
        ip(&["-n", &switch, "link", "add", &near, "type", "veth", "peer", "name", &far]);
        for end in [port, &near, &far] {
            ip(&["-n", &switch, "link", "set", end, "addrgenmode", "none"]);
        }
        ip(&["-n", &switch, "link", "set", port, "nomaster"]);
        ip(&["-n", &switch, "link", "set", &near, "up"]);
        ip(&["-n", &switch, "link", "set", &far, "master", "br0", "up"]);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/wire.py");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &switch, "python3"]).arg(script).args([port, &near]);
        command.args(["--delay", &delay.as_millis().to_string(), "--late", &late.to_string(), "--twice", &twice.to_string()]);
        Wire(helper(command))
    }

    fn host_at(&self, name: &str, network: &Network) -> Host {
        let mut hosts = self.hosts.lock().unwrap();
        let known = format!("{}-{name}", self.name);
        if let Some(host) = hosts.iter().find(|host| host.netns == known) {
            return host.clone();
        }
        let number = hosts.len() + 1;
        let host = Host {
            netns: known,
            // Not of the locally administered kind: that would be a "private address".
            mac: format!("24:da:9b:00:00:{number:02x}"),
            ip: format!("{}.{number}", network.v4),
            ip6: format!("{}::{number:x}", network.v6),
            switch: self.switch(),
            port: format!("p{number}"),
        };
        let (netns, switch) = (host.netns.as_str(), host.switch.as_str());
        ip(&["netns", "add", netns]);
        hosts.push(host.clone());
        ip(&["-n", switch, "link", "add", &host.port, "type", "veth", "peer", "name", "eth0", "address", &host.mac, "netns", netns]);
        ip(&["-n", switch, "link", "set", &host.port, "master", network.bridge, "up"]);
        if self.addresses == Addresses::OnlyV4 {
            run(&["ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        }
        if self.has_v4() {
            ip(&["-n", netns, "addr", "add", &format!("{}/24", host.ip), "dev", "eth0"]);
        } else {
            // Known at once: the kernel's own would be "tentative" for two seconds.
            ip(&["-n", netns, "link", "set", "eth0", "addrgenmode", "none"]);
            ip(&["-n", netns, "addr", "add", &format!("fe80::{number:x}/64"), "dev", "eth0", "nodad"]);
        }
        if matches!(self.addresses, Addresses::Both | Addresses::OnlyV6) {
            ip(&["-n", netns, "addr", "add", &format!("{}/64", host.ip6), "dev", "eth0", "nodad"]);
        }
        ip(&["-n", netns, "link", "set", "lo", "up"]);
        ip(&["-n", netns, "link", "set", "eth0", "up"]);
        if number > 1 && self.has_v4() && network.bridge == FIRST.bridge {
            ip(&["-n", netns, "route", "add", "default", "via", "192.168.77.1"]);
        }
        host
    }

    /// One that was added.
    pub(crate) fn machine(&self, name: &str) -> Host {
        let netns = format!("{}-{name}", self.name);
        self.hosts.lock().unwrap().iter().find(|host| host.netns == netns).unwrap().clone()
    }

    fn has_v4(&self) -> bool {
        matches!(self.addresses, Addresses::Both | Addresses::OnlyV4)
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

    /// Nor does it get more.
    pub(crate) fn is_slow_both_ways(&self, rate: &str) {
        self.is_slow(rate);
        let limit = ["tc", "qdisc", "add", "dev", &self.port, "root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms"];
        ip(&[&["netns", "exec", &self.switch], &limit[..]].concat());
    }

    /// So many of a hundred frames that it sends, and of those that are sent to it, get lost, whichever they are.
    pub(crate) fn loses(&self, sent: u8, got: u8) {
        self.sends_single_frames();
        for (way, at, percent) in [("sent", "iifname", sent), ("got", "oifname", got)] {
            let drops = match percent {
                0 => "accept".to_owned(),
                1..100 => format!("numgen random mod 100 < {percent} drop"),
                _ => "drop".to_owned(),
            };
            set_rule(&self.switch, &format!("{}-{way}", self.port), &format!("{at} {} {drops}", self.port));
        }
    }

    /// Nothing gets lost any more.
    pub(crate) fn loses_nothing(&self) {
        for way in ["sent", "got"] {
            nft(&self.switch, &["delete", "table", "bridge", &format!("{}-{way}", self.port)]);
        }
    }

    /// Longer packets do not get through, and nobody says so. Its own side does not know unless it is told.
    pub(crate) fn way_takes(&self, bytes: u16, and_it_knows: bool) {
        if and_it_knows {
            ip(&["-n", &self.netns, "link", "set", "eth0", "mtu", &bytes.to_string()]);
        }
        self.sends_single_frames();
        let long = format!("meta length > {bytes}");
        set_rule(&self.switch, &format!("{}-long", self.port), &format!("iifname {} {long} drop", self.port));
        set_rule(&self.switch, &format!("{}-longer", self.port), &format!("oifname {} {long} drop", self.port));
    }

    /// No card takes several together, or fills in checksums.
    fn sends_single_frames(&self) {
        run(&["ip", "netns", "exec", &self.netns, "ethtool", "-K", "eth0", "tx", "off", "gso", "off", "gro", "off"]);
    }

    /// What a DHCP client does when its lease ends and it gets the same address again.
    pub(crate) fn renews(&self) {
        self.moves_to(&self.ip);
    }

    /// A program there, which ends with the value.
    pub(crate) fn runs(&self, program: &str, args: &[&str]) -> Helper {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, program]).args(args);
        Helper::start(command)
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

    /// It answers for this address too.
    pub(crate) fn has_also(&self, ip4: &str) {
        ip(&["-n", &self.netns, "addr", "add", &format!("{ip4}/24"), "dev", "eth0"]);
    }

    /// A phone that made up another MAC address; its IPv4 address stays.
    pub(crate) fn takes_mac(&self, mac: &str) {
        ip(&["-n", &self.netns, "link", "set", "eth0", "address", mac]);
    }

    /// What its browser shows: the status, and the page, with whether it looks again by itself. `posts`: the form on it was sent.
    pub(crate) fn browses(&self, url: &str, authority: &Path, posts: bool) -> (u16, String) {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &self.netns, "curl", "--silent", "--show-error", "--max-time", "30", "--noproxy", "*"]);
        curl.args(["--write-out", "\nrefresh: %header{refresh}.\n%{http_code}", "--cacert"]).arg(authority);
        if posts {
            curl.args(["--data", ""]);
        }
        let out = curl.arg(url).output().unwrap();
        assert!(out.status.success(), "curl {url}: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let (page, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), page.replace("&#x27;", "'"))
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

/// One of the two networks of a switch.
struct Network {
    bridge: &'static str,
    v4: &'static str,
    v6: &'static str,
}

const FIRST: Network = Network { bridge: "br0", v4: "192.168.77", v6: "fd77" };
const SECOND: Network = Network { bridge: "br1", v4: "192.168.78", v6: "fd78" };

/// A cable on which things take their time.
#[derive(Debug)]
pub(crate) struct Wire(#[expect(dead_code, reason = "ends with the value")] Helper);

/// A process of the test's own.
#[derive(Debug)]
pub(crate) struct Helper(Child);

impl Helper {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// Whether it has not ended by itself.
    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// One that says "ready" when it is.
fn helper(mut command: Command) -> Helper {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready.trim(), "ready");
    Helper(child)
}

/// In a table of its own, so that it can be taken back.
fn set_rule(switch: &str, name: &str, rule: &str) {
    let text = format!(
        "add table bridge {name}\ndelete table bridge {name}\nadd table bridge {name}\n\
         add chain bridge {name} way {{ type filter hook forward priority 0 ; }}\nadd rule bridge {name} way {rule}"
    );
    nft(switch, &[&text]);
}

fn nft(switch: &str, args: &[&str]) {
    run(&[&["ip", "netns", "exec", switch, "nft"], args].concat());
}

fn run(words: &[&str]) {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr));
}

/// What it says.
fn ip(args: &[&str]) -> String {
    let out = Command::new("ip").args(args).output().expect("`ip` of iproute2");
    assert!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
