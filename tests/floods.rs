//! Strangers who send without end: the house does what it should meanwhile, takes little memory, and says in a few lines what happens.
//!
//! Each flood goes on until all was seen, or for `DMS3_FLOOD` seconds where that is more (`scripts/soak floods`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::harness::rogue::{ENROLL, MESH, client};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{Host, House, Lan, Plan, Standing, eventually, within};
use crate::strangers::dials_enrollment;

/// Packets a second.
const RATE: u32 = 10_000;
/// What a flood may take of the coordinator's memory, in KiB, and of its log, in lines a minute.
const MEMORY: u64 = 20 * 1024;
const LINES: usize = 100;
/// Of nobody on this network, IPv4 and IPv6, and of nobody at all.
const NOBODY: &str = "192.168.77.100-250";
const NOBODY6: &str = "fd77::/64";

/// Somebody on the network who sends in others' names; he stops when this is dropped.
struct Flood(Child);

impl Flood {
    fn from(attacker: &Host, to: &Host, address: &str, port: u16, names: &str, packets: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/flood.py");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &attacker.netns, "python3"]).arg(script).args(["eth0", &to.mac, address]);
        command.args([&port.to_string(), names, packets, &RATE.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self(child)
    }

    /// Says what it reached: a machine that others use too gets less out.
    fn end(mut self, what: &str) {
        drop(self.0.stdin.take());
        let mut reached = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut reached).unwrap();
        assert!(self.0.wait().unwrap().success());
        eprintln!("{what}: {}", reached.trim());
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the coordinator had before.
struct Before {
    standing: Standing,
    memory: u64,
    descriptors: usize,
    links: usize,
    lines: usize,
    began: Instant,
}

impl Before {
    async fn of(house: &House) -> Self {
        let coordinator = &house.coordinator;
        // From now on VmHWM is the most since now (proc(5)).
        fs::write(format!("/proc/{}/clear_refs", coordinator.pid()), "5").unwrap();
        Self {
            standing: house.standing().await,
            memory: kib(coordinator.pid(), "VmRSS:"),
            descriptors: coordinator.descriptors(),
            links: coordinator.lines_with("is linked from"),
            lines: lines(house),
            began: Instant::now(),
        }
    }

    /// After it: `links` were made meanwhile, and no other link was lost.
    async fn holds(&self, house: &House, what: &str, links: usize) {
        let coordinator = &house.coordinator;
        let grown = kib(coordinator.pid(), "VmHWM:").saturating_sub(self.memory);
        let lines = lines(house) - self.lines;
        let minutes = (self.began.elapsed().as_secs() / 60) as usize + 1;
        eprintln!("{what}: {grown} KiB more at most, {lines} lines in {} s", self.began.elapsed().as_secs());
        assert!(grown < MEMORY, "{what}: it grew by {grown} KiB");
        assert!(lines <= LINES * minutes, "{what}: {lines} lines in its log");
        assert_eq!(coordinator.pid(), self.standing.pid());
        assert_eq!(coordinator.lines_with("is linked from") - self.links, links, "{what}: no camera lost its link");
        for camera in &house.cameras {
            assert_eq!(camera.lines_with("the link to the coordinator ended"), 0, "{what}: {}", camera.name);
        }
        eventually("no descriptor stays", async || coordinator.descriptors() <= self.descriptors + links).await;
    }
}

/// What the coordinator logged, but for what we tell it to do.
fn lines(house: &House) -> usize {
    let count = |words| house.coordinator.lines_with(words);
    count("") - count("by hand") - count("root asks: ")
}

/// A line of `/proc/<pid>/status`.
fn kib(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long a flood lasts at least.
fn at_least() -> Duration {
    let seconds = std::env::var("DMS3_FLOOD").ok().map_or(5, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// While it goes on, what is decided reaches every camera and is confirmed, again and again.
async fn obeys(house: &House) {
    let began = Instant::now();
    loop {
        house.arm().await;
        house.agrees(ArmState::Away).await;
        house.disarm().await;
        house.agrees(ArmState::Disarmed).await;
        if began.elapsed() >= at_least() {
            return;
        }
    }
}

/// A house on a network of its own, two cameras linked, and somebody else on the cable.
async fn house_with_an_attacker() -> (House, Host, Host) {
    let plan = Plan { lan: Some(Lan::new()), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch", "hall"]).await;
    let lan = house.plan.lan.as_ref().unwrap();
    let (attacker, coordinator) = (lan.host("attacker"), lan.machine("coordinator"));
    (house, attacker, coordinator)
}

/// First packets of so many handshakes, each with a connection id of its own, that were said to somebody else.
async fn first_packets(count: usize, alpn: &[u8], file: &Path) {
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client(alpn, None)).unwrap()));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let (mut firsts, mut packet) = (BTreeMap::new(), [0; 2048]);
    while firsts.len() < count {
        let dial = endpoint.connect_with(config.clone(), sink.local_addr().unwrap(), "coordinator.dms3.internal").unwrap();
        let length = sink.recv(&mut packet).await.unwrap();
        drop(dial);
        let id = packet[6..6 + usize::from(packet[5])].to_vec();
        firsts.entry(id).or_insert_with(|| [&(length as u16).to_be_bytes(), &packet[..length]].concat());
    }
    fs::write(file, firsts.into_values().flatten().collect::<Vec<u8>>()).unwrap();
}

#[tokio::test]
async fn ten_thousand_datagrams_of_garbage_a_second_at_both_ports_change_nothing() {
    if cannot_make_networks("ten_thousand_datagrams_of_garbage_a_second_at_both_ports_change_nothing") {
        return;
    }
    let (mut house, attacker, coordinator) = house_with_an_attacker().await;
    house.token(&["--uses", "2"]).await;
    let before = Before::of(&house).await;
    let names = format!("{NOBODY},{}", house.plan.lan.as_ref().unwrap().machine("porch").ip);
    let floods = [47100, 47101].map(|port| (port, Flood::from(&attacker, &coordinator, &coordinator.ip, port, &names, "garbage")));
    obeys(&house).await;
    house.add_camera("shed").await;
    obeys(&house).await;
    for port in ["mesh", "enrollment"] {
        eventually("a line says what happens", async || {
            house.coordinator.line_with_all(&[
                &format!("the {port} port is flooded: "),
                "packets of strangers",
                "the latest from 192.168.77.",
            ])
        })
        .await;
    }
    for (port, flood) in floods {
        flood.end(&format!("garbage at {port}"));
    }
    eventually("its end is told too", async || house.coordinator.told("the mesh port is no longer flooded: ")).await;
    before.holds(&house, "garbage", 1).await;
}

#[tokio::test]
async fn ten_thousand_handshakes_a_second_begun_in_others_names_keep_no_order_from_a_camera() {
    if cannot_make_networks("ten_thousand_handshakes_a_second_begun_in_others_names_keep_no_order_from_a_camera") {
        return;
    }
    let (mut house, attacker, coordinator) = house_with_an_attacker().await;
    let packets = house.dir().join("first-packets");
    first_packets(1000, MESH, &packets).await;
    let porch = house.plan.lan.as_ref().unwrap().machine("porch");
    let (nobody, all) = (format!("{NOBODY},10.9.0.1-250"), format!("{NOBODY},{}", porch.ip));
    for (what, names, address) in [
        ("nobody's names", nobody.as_str(), &coordinator.ip),
        ("a camera's name alone", porch.ip.as_str(), &coordinator.ip),
        ("names of a network that has more than anybody counts", NOBODY6, &coordinator.ip6),
    ] {
        let before = Before::of(&house).await;
        let flood = Flood::from(&attacker, &coordinator, address, 47100, names, packets.to_str().unwrap());
        obeys(&house).await;
        flood.end(what);
        eventually("its end is told", async || {
            house.coordinator.lines_with("the mesh port is flooded: ")
                == house.coordinator.lines_with("the mesh port is no longer flooded: ")
        })
        .await;
        before.holds(&house, what, 0).await;
        house.is_unharmed(Before::of(&house).await.standing).await;
    }
    assert!(house.coordinator.line_with_all(&["the mesh port is flooded: ", "of them begin a handshake", "answers were not given"]));
    if at_least() > Duration::from_secs(60) {
        assert!(house.coordinator.told("more of this kind in the last minute, the latest: "));
        assert!(house.coordinator.told("the mesh port is still flooded: "));
    }
    // A new camera pairs meanwhile, and is linked then or when it is over; one that was restarted comes back.
    let before = Before::of(&house).await;
    let flood = Flood::from(&attacker, &coordinator, &coordinator.ip, 47100, &all, packets.to_str().unwrap());
    house.add_camera("shed").await;
    house.camera("hall").sigkill().await;
    house.camera("hall").start();
    within(Duration::from_secs(60), "the camera that was restarted is back, in the flood", async || {
        house.camera("hall").camera_status().await.is_some_and(|status| status.linked.is_some())
    })
    .await;
    flood.end("pairing meanwhile");
    within(Duration::from_secs(60), "all of the house is disarmed", async || house.does_agree(ArmState::Disarmed).await).await;
    before.holds(&house, "pairing meanwhile", 2).await;
}

#[tokio::test]
async fn a_machine_that_pairs_while_the_enrollment_port_is_flooded_waits_and_is_paired() {
    if cannot_make_networks("a_machine_that_pairs_while_the_enrollment_port_is_flooded_waits_and_is_paired") {
        return;
    }
    let (mut house, attacker, coordinator) = house_with_an_attacker().await;
    let packets = house.dir().join("first-packets");
    first_packets(1000, ENROLL, &packets).await;
    let before = Before::of(&house).await;
    let word = house.token(&["--name", "shed"]).await;
    let shed = house.new_camera("shed");
    let flood = Flood::from(&attacker, &coordinator, &coordinator.ip, 47101, NOBODY, packets.to_str().unwrap());
    obeys(&house).await;
    let pairing = shed.spawn_cli(&["enroll", "-"], &word).await;
    obeys(&house).await;
    eventually("a line says what happens", async || house.coordinator.told("the enrollment port is flooded: ")).await;
    flood.end("first packets at the enrollment port");
    let said = tokio::time::timeout(Duration::from_secs(60), pairing.wait_with_output()).await.expect("pairing ends").unwrap();
    if !said.status.success() {
        // He was told to try again.
        eprintln!("{}", String::from_utf8_lossy(&said.stderr));
        shed.cli_with(&["enroll", "-"], &word).await.good();
    }
    shed.start();
    house.cameras.push(shed);
    house.agrees(ArmState::Disarmed).await;
    before.holds(&house, "first packets at the enrollment port", 1).await;
}

/// Carries each datagram between a client and the coordinator so late.
async fn slow_way(to: SocketAddr, source: Ipv4Addr, late: Duration, answered: Arc<AtomicUsize>) -> (SocketAddr, JoinSet<()>) {
    let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let far = Arc::new(UdpSocket::bind((source, 0)).await.unwrap());
    far.connect(to).await.unwrap();
    let way = near.local_addr().unwrap();
    let mut carrying = JoinSet::new();
    carrying.spawn(async move {
        let (mut out, mut back, mut client) = ([0; 2048], [0; 2048], None);
        let mut under_way = JoinSet::new();
        loop {
            let (socket, to, bytes) = tokio::select! {
                Ok((length, from)) = near.recv_from(&mut out) => {
                    client = Some(from);
                    (far.clone(), None, out[..length].to_vec())
                }
                Ok(length) = far.recv(&mut back) => {
                    answered.fetch_add(1, Ordering::SeqCst);
                    (near.clone(), client, back[..length].to_vec())
                }
                else => return,
            };
            under_way.spawn(async move {
                tokio::time::sleep(late).await;
                // Lost, where nobody is there any more.
                drop(match to {
                    Some(client) => socket.send_to(&bytes, client).await,
                    None => socket.send(&bytes).await,
                });
            });
        }
    });
    (way, carrying)
}

#[tokio::test]
async fn handshakes_that_go_on_slower_than_anybody_waits_keep_no_camera_out() {
    let house = House::with_cameras(["porch", "hall"]).await;
    let before = Before::of(&house).await;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client(MESH, None)).unwrap()));
    let (mut slow, answered) = (JoinSet::new(), Arc::<AtomicUsize>::default());
    for last in 1..=16 {
        let source = Ipv4Addr::new(127, 0, 9, last);
        let (way, carrying) = slow_way(house.mesh_port.address(), source, Duration::from_secs(6), answered.clone()).await;
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for _ in 0..4 {
            let connecting = endpoint.connect_with(config.clone(), way, "coordinator.dms3.internal").unwrap();
            slow.spawn(async move { drop(connecting.await) });
        }
        slow.spawn(async move { drop(carrying.join_all().await) });
    }
    eventually("they are under way", async || answered.load(Ordering::SeqCst) >= 64).await;
    let porch = house.camera("porch");
    porch.sigkill().await;
    porch.start();
    house.stands(before.standing).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    eventually("a line says why they were not let in", async || house.told_since(before.standing, "was not let in: no answer") > 0).await;
    slow.shutdown().await;
    before.holds(&house, "slow handshakes", 1).await;
}

#[tokio::test]
async fn whoever_takes_all_places_at_the_enrollment_port_and_says_nothing_is_waited_for_ten_seconds() {
    let mut house = House::with_cameras(["porch"]).await;
    house.token(&[]).await;
    // That which porch came in by is closed first, and refuses whoever knocks meanwhile.
    eventually("the port is open again", async || house.coordinator.lines_with(" is open") >= 2).await;
    let before = Before::of(&house).await;
    let mut silent = Vec::new();
    for last in 101..=108 {
        silent.push(dials_enrollment(house.enroll_port.address(), last).await);
    }
    house.add_camera("shed").await;
    house.agrees(ArmState::Disarmed).await;
    assert!(house.told_since(before.standing, "an enrollment from 127.0.0.1 was told to come again in ") > 0);
    assert!(house.told_since(before.standing, "took longer than 10 s and was ended") > 0);
    drop(silent);
    before.holds(&house, "silence at the enrollment port", 1).await;
}

/// Tries every port of a machine, TCP and UDP; says which answered.
const SCAN: &str = r#"
import select, socket, sys
answered = []
for port in range(1, 65536):
    tcp = socket.socket()
    tcp.settimeout(5)
    if tcp.connect_ex((sys.argv[1], port)) == 0:
        answered.append(f"tcp {port}")
    tcp.close()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 0))
for probe in (b"", b"\xc3\0\0\0\1\x08scanscan\0\0" + bytes(1200), b"\xca\xfe\xba\xbe\0\x08scanscan\x08scanscan" + bytes(1200)):
    for port in range(1, 65536):
        udp.sendto(probe, (sys.argv[1], port))
while select.select([udp], [], [], 1)[0]:
    answered.append(f"udp {udp.recvfrom(2048)[1][1]}")
print(answered)
"#;

#[tokio::test]
async fn whoever_tries_all_ports_of_the_house_hears_nothing_and_disturbs_nobody() {
    if cannot_make_networks("whoever_tries_all_ports_of_the_house_hears_nothing_and_disturbs_nobody") {
        return;
    }
    let (house, attacker, coordinator) = house_with_an_attacker().await;
    house.token(&[]).await;
    let before = Before::of(&house).await;
    let porch = house.plan.lan.as_ref().unwrap().machine("porch");
    for target in [&coordinator, &porch] {
        let mut scan = tokio::process::Command::new("ip");
        scan.args(["netns", "exec", &attacker.netns, "python3", "-c", SCAN, &target.ip]).kill_on_drop(true);
        let said = scan.output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "[]", "{}", String::from_utf8_lossy(&said.stderr));
    }
    house.arm().await;
    house.agrees(ArmState::Away).await;
    before.holds(&house, "a port scan", 0).await;
}

/// Speaks one version only, and trusts the house.
fn browser(authority: &Path, version: &'static rustls::SupportedProtocolVersion) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let browser = reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(reqwest::redirect::Policy::none()).no_proxy();
    browser.timeout(Duration::from_secs(30)).build().unwrap()
}

/// The first words of TLS in the version of that number, as an old browser says them.
fn old_hello(minor: u8) -> Vec<u8> {
    let body = [&[3, minor][..], &[7; 32], &[0], &[0, 6, 0xc0, 0x13, 0, 0x2f, 0, 0x35], &[1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, minor, 0, hello.len() as u8][..], &hello].concat()
}

#[tokio::test]
async fn the_page_speaks_tls_12_and_13_and_nothing_older_and_nothing_in_the_clear() {
    let house = House::planned(Plan { web: Some(String::new()), ..Plan::default() }).await;
    let base = house.page_address().await;
    let address: SocketAddr = base.trim_start_matches("https://").parse().unwrap();
    let before = Before::of(&house).await;
    let answer = |said: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(said).unwrap();
        let mut heard = Vec::new();
        // It may be cut off.
        drop(stream.read_to_end(&mut heard));
        heard
    };
    for (what, said) in [
        ("SSL 2", [&[0x80, 0x1c, 1, 0, 2, 0, 3, 0, 0, 0, 16, 1, 0, 0x80][..], &[7; 16]].concat()),
        ("SSL 3", old_hello(0)),
        ("TLS 1.0", old_hello(1)),
        ("TLS 1.1", old_hello(2)),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: house\r\n\r\n".to_vec()),
        ("garbage", vec![0xff; 500]),
    ] {
        let heard = answer(&said);
        // An alert (RFC 8446, section 6) is all that they get.
        assert!(heard.is_empty() || heard[0] == 21 && heard.len() == 7, "{what}: {heard:?}");
    }
    for version in [&TLS12, &TLS13] {
        let authority = house.coordinator.state_dir().join("web/ca.crt");
        let status = browser(&authority, version).get(format!("{base}/sign-in")).send().await.unwrap().status().as_u16();
        assert!([200, 303].contains(&status), "{version:?}: {status}");
    }
    before.holds(&house, "all versions of TLS", 0).await;
}

/// A thousand connections to a port from eight addresses that are made again when they are closed. Most say nothing; some say a byte of a TLS
/// hello now and then, some a line of a request that never ends. Goes on until its input is closed.
const THOUSAND: &str = r#"
import select, socket, ssl, sys, time
port = int(sys.argv[1])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
def connect(nth):
    visitor = socket.socket()
    visitor.settimeout(5)
    try:
        visitor.bind((f"127.0.0.{2 + nth % 8}", 0))
        visitor.connect(("127.0.0.1", port))
        if nth % 10 == 0:
            visitor = context.wrap_socket(visitor)
            visitor.sendall(b"GET / HTTP/1.1\r\nHost: house\r\n")
        elif nth % 10 == 1:
            visitor.sendall(b"\x16\x03\x01\x01\x00")
        visitor.setblocking(False)
    except OSError:
        visitor.close()
    return visitor
def is_closed(visitor, nth):
    try:
        if nth % 10 == 0:
            visitor.send(b"X-More: and more\r\n")
        elif nth % 10 == 1:
            visitor.send(b"\x01")
        return visitor.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
visitors = [connect(nth) for nth in range(1000)]
print("open", flush=True)
while not select.select([sys.stdin], [], [], 0.5)[0]:
    closed = [nth for nth, visitor in enumerate(visitors) if is_closed(visitor, nth)][:300]
    for nth in closed:
        visitors[nth].close()
        visitors[nth] = connect(nth)
"#;

#[tokio::test]
async fn a_thousand_connections_that_say_nothing_or_little_keep_nobody_from_the_page() {
    let house = House::planned_with_cameras(Plan { web: Some(String::new()), ..Plan::default() }, ["porch"]).await;
    let base = house.page_address().await;
    let owner = house.owner().await;
    let mut open = owner.watches("").await;
    open.hears("banner", "Disarmed").await;
    let before = Before::of(&house).await;
    let port = base.rsplit(':').next().unwrap();
    let mut crowd = Command::new("python3").args(["-c", THOUSAND, port]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(crowd.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "open\n");
    house.arm().await;
    open.hears("banner", "Armed · away").await;
    let began = Instant::now();
    while began.elapsed() < at_least().max(Duration::from_secs(20)) {
        // With a connection of his own, and on one that is there.
        assert_eq!(house.visitor().await.get("/sign-in").await.status, 200);
        assert_eq!(owner.get("/").await.status, 200);
    }
    house.agrees(ArmState::Away).await;
    for why in ["all places are taken", "others need a place"] {
        eventually(why, async || house.told_since(before.standing, why) > 0).await;
    }
    drop(crowd.stdin.take());
    assert!(crowd.wait().unwrap().success());
    // His own: one that he has now and one that he had then.
    eventually("all are gone", async || house.coordinator.descriptors() <= before.descriptors + 1).await;
    before.holds(&house, "a thousand connections", 0).await;
}
