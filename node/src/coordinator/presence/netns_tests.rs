//! The sensors on a network of this machine's own: a switch, the coordinator, a phone and a laptop, each in its namespace.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use dms3_core::coordinator::Input;
use dms3_core::presence::{Device, MacAddr, Probe, Sensor, Urgency};
use nix::sched::{CloneFlags, setns};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::packet::{PacketSockets, Talk};
use super::senses::Senses;
use super::watch::Watch;
use super::{PresenceConfig, PresenceSensors, Sensing, arp, dhcp, look, mdns, ndp, run};
use crate::clock::Clock;
use crate::coordinator::phones::Phones;

const PHONE: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);
const LAPTOP: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 2]);
const PHONE_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 21);
const LAPTOP_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 22);
const PHONE_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x21);

/// A question on which it depends.
fn decide(device: &Device) -> Probe {
    Probe { device: device.clone(), urgency: Urgency::Deciding }
}

struct Lan {
    name: String,
}

impl Lan {
    /// None where it cannot be made, which is told; a failure in CI.
    fn make(test: &str) -> Option<Self> {
        let lan = Self::bare(test)?;
        for (space, ip) in [("home", "10.77.0.1".to_owned()), ("phone", PHONE_IP.to_string()), ("laptop", LAPTOP_IP.to_string())] {
            lan.ip_in(space, &format!("address add {ip}/24 dev eth0"));
        }
        lan.ip_in("home", "link set eth0 up");
        lan.ip_in("laptop", "link set eth0 up");
        Some(lan)
    }

    /// A network on which nobody has heard of IPv4, and that has no router.
    fn of_ipv6(test: &str) -> Option<Self> {
        let lan = Self::bare(test)?;
        for (space, ip) in [("home", "fe80::1"), ("phone", "fe80::21"), ("laptop", "fe80::22")] {
            // Known at once, where the kernel's own would be tried first.
            lan.ip_in(space, "link set eth0 addrgenmode none");
            lan.ip_in(space, &format!("address add {ip}/64 dev eth0 nodad"));
        }
        lan.ip_in("home", "link set eth0 up");
        lan.ip_in("laptop", "link set eth0 up");
        Some(lan)
    }

    /// Cables and nothing on them.
    fn bare(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "this test needs root, and CI must run it");
            eprintln!("SKIPPED: {test} needs root (network namespaces)");
            return None;
        }
        let lan = Self { name: format!("dms3-{}-{test}", std::process::id()) };
        for space in ["switch", "home", "phone", "laptop"] {
            lan.ip(&format!("netns add {}", lan.space(space)));
        }
        lan.ip_in("switch", "link add br0 type bridge");
        lan.ip_in("switch", "link set br0 up");
        for (space, mac) in [("home", "b8:27:eb:00:00:01".to_owned()), ("phone", PHONE.to_string()), ("laptop", LAPTOP.to_string())] {
            lan.ip_in("switch", &format!("link add {space} type veth peer name eth0 netns {}", lan.space(space)));
            lan.ip_in("switch", &format!("link set {space} master br0"));
            lan.ip_in("switch", &format!("link set {space} up"));
            lan.ip_in(space, &format!("link set eth0 address {mac}"));
        }
        Some(lan)
    }

    fn space(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    fn ip(&self, args: &str) {
        let done = Command::new("ip").args(args.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn ip_in(&self, space: &str, args: &str) {
        self.ip(&format!("-n {} {args}", self.space(space)));
    }

    /// A program there.
    fn runs_in(&self, space: &str, command: &str) {
        let done = Command::new("ip").args(["netns", "exec", &self.space(space), "sh", "-c", command]).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A socket there, where it stays.
    fn socket_in(&self, space: &str, at: &str) -> UdpSocket {
        let space = File::open(format!("/var/run/netns/{}", self.space(space))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(space, CloneFlags::CLONE_NEWNET).unwrap();
                UdpSocket::bind(at).unwrap()
            });
            thread.join().unwrap()
        })
    }

    /// Runs in the coordinator's namespace: on a thread of its own, for a thread never comes back.
    fn at_home<T: Send>(&self, body: impl AsyncFnOnce() -> T + Send) -> T {
        let space = File::open(format!("/var/run/netns/{}", self.space("home"))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(space, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), body()).await.expect("took more than a minute") })
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for space in ["home", "phone", "laptop", "switch"] {
            let _ = Command::new("ip").args(["netns", "del", &self.space(space)]).output();
        }
    }
}

/// Sensors that look for these devices, what they tell, and what they learn.
fn looking_for(devices: &[Device]) -> (PresenceSensors, mpsc::Receiver<Input>, mpsc::Receiver<(Device, IpAddr)>) {
    let ((inputs, told), (learned, kept)) = (mpsc::channel(256), mpsc::channel(64));
    let sensors = PresenceSensors {
        config: PresenceConfig::default(),
        phones: Phones::of(devices),
        known: Vec::new(),
        learned,
        probes: broadcast::channel(64).0,
        told: watch::Sender::default(),
        inputs,
        clock: Clock::unkept(),
    };
    (sensors, told, kept)
}

/// The next input that is `wanted`, and those before it.
async fn until(inputs: &mut mpsc::Receiver<Input>, wanted: impl Fn(&Input) -> bool) -> Vec<Input> {
    let mut before = Vec::new();
    loop {
        let input = inputs.recv().await.expect("the sensors ended");
        let found = wanted(&input);
        before.push(input);
        if found {
            return before;
        }
    }
}

fn is_sighting(input: &Input, of: &Device, by: Option<Sensor>) -> bool {
    matches!(input, Input::Sighting { device, sensor } if device == of && by.is_none_or(|by| by == *sensor))
}

#[test]
fn a_phone_that_comes_is_seen_answers_probes_and_is_silent_when_it_left() {
    let Some(lan) = Lan::make("come") else { return };
    let (phone, laptop) = (Device::Mac(PHONE), Device::Host(LAPTOP_IP.to_string()));
    lan.at_home(async || {
        let (sensors, mut inputs, mut learned) = looking_for(&[phone.clone(), laptop.clone()]);
        let probes = sensors.probes.clone();
        let stop = CancellationToken::new();
        let _stop_at_end = stop.clone().drop_guard();
        let scene = async {
            until(&mut inputs, |input| *input == Input::Blind(None)).await;
            // Nobody is asked where it is who left long ago: that would be the whole network again and again.
            probes.send(Probe { device: phone.clone(), urgency: Urgency::Lookout }).unwrap();
            until(&mut inputs, |input| *input == Input::Probed { device: phone.clone(), sent: false }).await;
            // Nobody knows where the phone is, so everybody is asked; only the laptop, which nobody asked for, answers.
            probes.send(decide(&phone)).unwrap();
            let probed = Input::Probed { device: phone.clone(), sent: true };
            let before = until(&mut inputs, |input| *input == probed).await;
            assert!(!before.iter().any(|input| is_sighting(input, &phone, None)), "{before:?}");

            lan.ip_in("phone", "link set eth0 up");
            let came =
                Command::new("ip").args(["netns", "exec", &lan.space("phone"), "bash", "-c", "echo > /dev/udp/10.77.0.1/9"]).status();
            assert!(came.unwrap().success());
            until(&mut inputs, |input| is_sighting(input, &phone, None)).await;
            while learned.recv().await.unwrap() != (phone.clone(), PHONE_IP.into()) {}
            probes.send(decide(&phone)).unwrap();
            until(&mut inputs, |input| *input == probed).await;
            until(&mut inputs, |input| is_sighting(input, &phone, Some(Sensor::ArpProbe))).await;

            lan.ip_in("phone", "link set eth0 down");
            for round in 0..10 {
                probes.send(decide(&phone)).unwrap();
                let mut between = until(&mut inputs, |input| *input == probed).await;
                // The laptop is asked later: had the phone answered, that would have come before.
                probes.send(decide(&laptop)).unwrap();
                between.extend(until(&mut inputs, |input| is_sighting(input, &laptop, Some(Sensor::ArpProbe))).await);
                // What was on its way when the phone left may still arrive in the first rounds.
                assert!(round < 4 || !between.iter().any(|input| is_sighting(input, &phone, None)), "{between:?}");
            }

            lan.ip_in("switch", "link set home down");
            until(&mut inputs, |input| matches!(input, Input::Blind(Some(why)) if why.contains("eth0"))).await;
            probes.send(decide(&phone)).unwrap();
            until(&mut inputs, |input| *input == Input::Probed { device: phone.clone(), sent: false }).await;
            lan.ip_in("switch", "link set home up");
            until(&mut inputs, |input| *input == Input::Blind(None)).await;
        };
        tokio::select! {
            () = scene => {}
            ended = run(sensors, stop) => panic!("the sensors ended: {ended:?}"),
        }
    });
}

/// The kernel holds who left for proven for up to 45 s more.
#[test]
fn a_phone_that_has_just_left_is_not_seen_because_the_coordinator_restarts() {
    let Some(lan) = Lan::make("held") else { return };
    let phone = Device::Mac(PHONE);
    lan.ip_in("home", &format!("neigh replace {PHONE_IP} lladdr {PHONE} dev eth0 nud reachable"));
    lan.at_home(async || {
        let (sensors, mut inputs, _learned) = looking_for(std::slice::from_ref(&phone));
        let probes = sensors.probes.clone();
        let stop = CancellationToken::new();
        let _stop_at_end = stop.clone().drop_guard();
        let scene = async {
            let mut all = until(&mut inputs, |input| *input == Input::Blind(None)).await;
            // Asked where the kernel held it to be; it does not answer.
            for _ in 0..3 {
                probes.send(decide(&phone)).unwrap();
                all.extend(until(&mut inputs, |input| *input == Input::Probed { device: phone.clone(), sent: true }).await);
            }
            assert!(!all.iter().any(|input| is_sighting(input, &phone, None)), "{all:?}");
        };
        tokio::select! {
            () = scene => {}
            ended = run(sensors, stop) => panic!("the sensors ended: {ended:?}"),
        }
    });
}

#[test]
fn one_look_finds_who_is_there_and_nobody_else() {
    let Some(lan) = Lan::make("look") else { return };
    lan.at_home(async || {
        // A link that was just set up is not through at once.
        let look = loop {
            match look("eth0", &[PHONE_IP, LAPTOP_IP]).await {
                Ok(look) if !look.answers.is_empty() => break look,
                _ => tokio::task::yield_now().await,
            }
        };
        assert!(look.sent);
        assert_eq!(look.answers.into_iter().collect::<Vec<_>>(), [(LAPTOP_IP, LAPTOP)]);
    });
}

/// The sensors at home, until the scene is over: it gets their inputs and the way to ask them.
async fn with_sensors(devices: &[Device], senses: Senses, scene: impl AsyncFnOnce(&mut mpsc::Receiver<Input>, &broadcast::Sender<Probe>)) {
    with_told(devices, senses, &watch::Sender::default(), scene).await;
}

/// As above, and they tell there what they have to say beside inputs.
async fn with_told(
    devices: &[Device],
    senses: Senses,
    told: &watch::Sender<Sensing>,
    scene: impl AsyncFnOnce(&mut mpsc::Receiver<Input>, &broadcast::Sender<Probe>),
) {
    let (sensors, mut inputs, _learned) = looking_for(devices);
    let sensors = PresenceSensors { told: told.clone(), ..sensors };
    let probes = sensors.probes.clone();
    let hears = probes.subscribe();
    tokio::select! {
        () = scene(&mut inputs, &probes) => {}
        ended = async { Watch::with(sensors, senses).await?.run(hears).await } => panic!("the sensors ended: {ended:?}"),
    }
}

async fn answer_to_a_probe(of: &Device, inputs: &mut mpsc::Receiver<Input>, probes: &broadcast::Sender<Probe>) -> bool {
    probes.send(decide(of)).unwrap();
    let answer = until(inputs, |input| matches!(input, Input::Probed { device, .. } if device == of)).await;
    matches!(answer.last(), Some(Input::Probed { sent: true, .. }))
}

#[test]
fn another_network_that_is_up_does_not_stand_in_for_the_phones_own() {
    let Some(lan) = Lan::make("two") else { return };
    let laptop = Device::Mac(LAPTOP);
    lan.ip_in("home", "link add eth1 type veth peer name eth2");
    lan.ip_in("home", "link set eth1 up");
    lan.ip_in("home", "link set eth2 up");
    lan.ip_in("home", "address add 10.78.0.1/24 dev eth1");
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        with_sensors(std::slice::from_ref(&laptop), senses, async |inputs, probes| {
            until(inputs, |input| is_sighting(input, &laptop, None)).await;
            lan.ip_in("switch", "link set home down");
            until(inputs, |input| matches!(input, Input::Blind(Some(why)) if why.contains("eth0"))).await;
            assert!(!answer_to_a_probe(&laptop, inputs, probes).await, "it cannot be asked where it is not");
            lan.ip_in("switch", "link set home up");
            until(inputs, |input| *input == Input::Blind(None)).await;
        })
        .await;
    });
}

#[test]
fn a_sweep_that_leaves_out_a_network_asked_nobody_whose_address_is_unknown() {
    let Some(lan) = Lan::make("wide") else { return };
    let phone = Device::Mac(PHONE);
    lan.ip_in("home", "address add 10.80.0.1/16 dev eth0");
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        with_sensors(std::slice::from_ref(&phone), senses, async |inputs, probes| {
            assert!(!answer_to_a_probe(&phone, inputs, probes).await, "it may be in the network that is too large to ask");
        })
        .await;
    });
}

#[test]
fn without_arp_a_device_that_the_kernel_believes_in_was_not_asked() {
    let Some(lan) = Lan::make("believed") else { return };
    let laptop = Device::Mac(LAPTOP);
    lan.at_home(async || {
        let senses = Senses::with_socket(Vec::new(), Err(std::io::Error::from_raw_os_error(libc::EPERM))).await.unwrap();
        with_sensors(std::slice::from_ref(&laptop), senses, async |inputs, probes| {
            until(inputs, |input| is_sighting(input, &laptop, None)).await;
            // The kernel has just heard it, and asks nobody for a while: twelve such probes must not prove that it left.
            for _ in 0..3 {
                assert!(!answer_to_a_probe(&laptop, inputs, probes).await);
            }
            lan.ip_in("laptop", "address flush dev eth0");
            lan.ip_in("home", "neighbour flush all");
            // Now the kernel asks, and nobody answers.
            while !answer_to_a_probe(&laptop, inputs, probes).await {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    });
}

/// The inputs until a question to the laptop is answered, which is asked after all that was asked before.
async fn until_the_laptop_answers(laptop: &Device, inputs: &mut mpsc::Receiver<Input>, probes: &broadcast::Sender<Probe>) -> Vec<Input> {
    probes.send(decide(laptop)).unwrap();
    let answers = |input: &Input| [Sensor::ArpProbe, Sensor::NdpProbe].iter().any(|by| is_sighting(input, laptop, Some(*by)));
    until(inputs, answers).await
}

#[test]
fn on_a_network_without_ipv4_a_phone_that_comes_is_seen_answers_probes_and_is_silent_when_it_left() {
    let Some(lan) = Lan::of_ipv6("six") else { return };
    let (phone, laptop) = (Device::Mac(PHONE), Device::Mac(LAPTOP));
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        let told = watch::Sender::default();
        with_told(&[phone.clone(), laptop.clone()], senses, &told, async |inputs, probes| {
            until(inputs, |input| *input == Input::Blind(None)).await;
            // Where it is nobody knows, and all addresses of IPv6 cannot be asked: that it is silent proves nothing.
            assert!(!answer_to_a_probe(&phone, inputs, probes).await);
            let is_missed =
                |told: &Sensing| told.troubles.iter().any(|words| words.contains(&PHONE.to_string()) && words.contains("not seen yet"));
            told.subscribe().wait_for(is_missed).await.unwrap();
            lan.ip_in("phone", "link set eth0 up");
            lan.runs_in("phone", "until ping -6 -c1 -W1 -I eth0 fe80::1; do :; done");
            until(inputs, |input| is_sighting(input, &phone, Some(Sensor::NdpHeard))).await;
            assert!(answer_to_a_probe(&phone, inputs, probes).await);
            until(inputs, |input| is_sighting(input, &phone, Some(Sensor::NdpProbe))).await;
            lan.runs_in("laptop", "until ping -6 -c1 -W1 -I eth0 fe80::1; do :; done");
            until_the_laptop_answers(&laptop, inputs, probes).await;
            // It is listened for, also through a switch that lets nothing through that nobody wants.
            while !std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap().contains("ff0200000000000000000001ff000021") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }

            lan.ip_in("phone", "link set eth0 down");
            for round in 0..10 {
                probes.send(decide(&phone)).unwrap();
                let probed = Input::Probed { device: phone.clone(), sent: true };
                let mut between = until(inputs, |input| *input == probed).await;
                between.extend(until_the_laptop_answers(&laptop, inputs, probes).await);
                // What was on its way when the phone left may still arrive in the first rounds.
                assert!(round < 4 || !between.iter().any(|input| is_sighting(input, &phone, None)), "{between:?}");
            }
            told.subscribe().wait_for(|told| !is_missed(told)).await.unwrap();
            let all = |told: &Sensing| told.frames.ns_direct >= 20 && told.frames.ns_multicast >= 20 && told.frames.mdns >= 10;
            told.subscribe().wait_for(all).await.unwrap();
            lan.ip_in("switch", "link set home down");
            until(inputs, |input| matches!(input, Input::Blind(Some(why)) if why.contains("eth0"))).await;
            assert!(!answer_to_a_probe(&phone, inputs, probes).await);
            lan.ip_in("switch", "link set home up");
            until(inputs, |input| *input == Input::Blind(None)).await;
        })
        .await;
        let frames = told.borrow().frames;
        assert_eq!((frames.arp_direct, frames.arp_broadcast), (0, 0));
    });
}

#[test]
fn a_phone_that_the_kernel_only_remembers_is_nobody() {
    let Some(lan) = Lan::of_ipv6("ghost") else { return };
    let phone = Device::Mac(PHONE);
    let remember = |state: &str| lan.ip_in("home", &format!("neigh replace {PHONE_IP6} lladdr {PHONE} dev eth0 nud {state}"));
    remember("stale");
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        with_sensors(std::slice::from_ref(&phone), senses, async |inputs, probes| {
            let mut all = until(inputs, |input| *input == Input::Blind(None)).await;
            for state in ["failed", "stale", "delay", "probe", "permanent", "noarp", "stale"] {
                remember(state);
                answer_to_a_probe(&phone, inputs, probes).await;
                while let Ok(input) = inputs.try_recv() {
                    all.push(input);
                }
            }
            assert!(!all.iter().any(|input| is_sighting(input, &phone, None)), "{all:?}");
            // That would have been heard.
            remember("reachable");
            until(inputs, |input| is_sighting(input, &phone, Some(Sensor::Neighbour))).await;
        })
        .await;
    });
}

#[test]
fn a_phone_without_arp_and_ipv4_is_asked_by_way_of_the_kernel() {
    let Some(lan) = Lan::of_ipv6("kernel") else { return };
    let phone = Device::Mac(PHONE);
    lan.ip_in("phone", "link set eth0 up");
    lan.at_home(async || {
        let senses = Senses::with_socket(Vec::new(), Err(std::io::Error::from_raw_os_error(libc::EPERM))).await.unwrap();
        with_sensors(std::slice::from_ref(&phone), senses, async |inputs, probes| {
            until(inputs, |input| *input == Input::Blind(None)).await;
            lan.runs_in("home", "until ping -6 -c1 -W1 -I eth0 fe80::21; do :; done");
            until(inputs, |input| is_sighting(input, &phone, Some(Sensor::Neighbour))).await;
            lan.ip_in("phone", "link set eth0 down");
            lan.ip_in("home", "-6 neighbour flush all");
            // Now the kernel asks, and nobody answers.
            while !answer_to_a_probe(&phone, inputs, probes).await {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    });
}

#[test]
fn a_phone_is_found_wherever_it_is_in_a_network_of_a_thousand_addresses() {
    let Some(lan) = Lan::bare("large") else { return };
    let phone = Device::Mac(PHONE);
    lan.ip_in("home", "address add 10.77.0.1/22 dev eth0");
    lan.ip_in("phone", "address add 10.77.3.200/22 dev eth0");
    // It says nothing when it joins.
    lan.ip_in("phone", "link set eth0 addrgenmode none");
    for space in ["home", "phone"] {
        lan.ip_in(space, "link set eth0 up");
    }
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        with_sensors(std::slice::from_ref(&phone), senses, async |inputs, probes| {
            until(inputs, |input| *input == Input::Blind(None)).await;
            // The cable of a link that was just set up may not be through for the first questions.
            while !until(inputs, |input| matches!(input, Input::Sighting { .. } | Input::Probed { .. }))
                .await
                .iter()
                .any(|input| is_sighting(input, &phone, Some(Sensor::ArpProbe)))
            {
                probes.send(decide(&phone)).unwrap();
            }
            assert!(answer_to_a_probe(&phone, inputs, probes).await);
        })
        .await;
    });
}

#[test]
fn a_phone_that_sleeps_is_woken_by_mdns_when_it_counts() {
    let Some(lan) = Lan::make("wake") else { return };
    let laptop = Device::Mac(LAPTOP);
    let hears = lan.socket_in("laptop", "0.0.0.0:5353");
    hears.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        with_sensors(std::slice::from_ref(&laptop), senses, async |inputs, probes| {
            until(inputs, |input| is_sighting(input, &laptop, None)).await;
            for urgency in [Urgency::Routine, Urgency::Lookout, Urgency::Deciding] {
                probes.send(Probe { device: laptop.clone(), urgency }).unwrap();
                until(inputs, |input| matches!(input, Input::Probed { sent: true, .. })).await;
            }
        })
        .await;
    });
    let mut packet = [0; 512];
    let (length, _) = hears.recv_from(&mut packet).unwrap();
    assert_eq!(packet[2..length], mdns::wake_up(0)[2..]);
    hears.set_nonblocking(true).unwrap();
    assert!(hears.recv_from(&mut packet).is_err(), "nobody is woken for less");
}

/// Answers the mDNS questions of one that looks for `name`, until the socket is closed.
fn answer_for(socket: &UdpSocket, name: &str, ip: Ipv4Addr) {
    let mut packet = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut packet).unwrap();
        let asked = &packet[..length];
        if asked[12..].starts_with(&mdns::where_is(0, name).unwrap()[12..]) {
            let mut answer = asked.to_vec();
            answer[2] = 0x84;
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4]);
            answer.extend(ip.octets());
            socket.send_to(&answer, from).unwrap();
            return;
        }
    }
}

#[test]
fn a_phone_whose_addresses_change_is_followed_by_its_name() {
    let Some(lan) = Lan::make("name") else { return };
    let phone = Device::Host("annas-iphone".into());
    lan.ip_in("phone", "link set eth0 up");
    let says = lan.socket_in("phone", "0.0.0.0:5353");
    says.join_multicast_v4(&mdns::GROUP4, &PHONE_IP).unwrap();
    says.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| answer_for(&says, "annas-iphone.local", PHONE_IP));
        lan.at_home(async || {
            let senses = Senses::open(Vec::new()).await.unwrap();
            with_sensors(std::slice::from_ref(&phone), senses, async |inputs, probes| {
                // By mDNS, which is asked as soon as it is looked for.
                while !answer_to_a_probe(&phone, inputs, probes).await {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                until(inputs, |input| is_sighting(input, &phone, Some(Sensor::ArpProbe))).await;
                // It makes up another MAC address, gets another address, and says so when it asks for that.
                lan.ip_in("phone", "link set eth0 down");
                lan.ip_in("phone", "link set eth0 address da:a1:19:00:00:01");
                lan.ip_in("phone", "address flush dev eth0");
                lan.ip_in("phone", "address add 10.77.0.99/24 dev eth0");
                lan.ip_in("phone", "link set eth0 up");
                let asks = lan.socket_in("phone", "0.0.0.0:68");
                asks.set_broadcast(true).unwrap();
                let question = dhcp::asks(MacAddr([0xda, 0xa1, 0x19, 0, 0, 1]), 3, "Annas-iPhone");
                let sent = async {
                    loop {
                        // Its cable may not be through yet.
                        drop(asks.send_to(&question[28..], "10.77.0.255:67"));
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                };
                tokio::select! {
                    () = sent => {}
                    _ = until(inputs, |input| is_sighting(input, &phone, Some(Sensor::DhcpHeard))) => {}
                }
                // And is asked at the address from which it speaks.
                lan.runs_in("phone", "until ping -c1 -W1 10.77.0.1; do :; done");
                loop {
                    probes.send(decide(&phone)).unwrap();
                    let inputs = until(inputs, |input| matches!(input, Input::Probed { .. } | Input::Sighting { .. })).await;
                    if inputs.iter().any(|input| is_sighting(input, &phone, Some(Sensor::ArpProbe))) {
                        break;
                    }
                }
            })
            .await;
        });
    });
}

#[test]
fn an_extender_with_several_machines_behind_it_is_told_and_is_nobodys_proof() {
    let Some(lan) = Lan::make("extender") else { return };
    let (laptop, by_address) = (Device::Mac(LAPTOP), Device::Host(LAPTOP_IP.to_string()));
    for n in 23..30 {
        lan.ip_in("laptop", &format!("address add 10.77.0.{n}/24 dev eth0"));
    }
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        let told: watch::Sender<Sensing> = watch::Sender::default();
        let mut hears = told.subscribe();
        with_told(&[laptop.clone(), by_address.clone()], senses, &told, async |inputs, probes| {
            // The first sweep finds all of them.
            hears.wait_for(|told| told.hosts_behind(LAPTOP) > 3).await.unwrap();
            let words = hears.borrow().troubles.clone();
            assert!(words.len() == 1 && words[0].contains(&LAPTOP.to_string()) && words[0].contains("extender"), "{words:?}");
            assert_eq!(hears.borrow().hosts_behind(PHONE), 1);
            while inputs.try_recv().is_ok() {}
            assert!(!answer_to_a_probe(&laptop, inputs, probes).await, "its silence would prove nothing either");
            // Who is known by an address is who has that.
            let mut all = Vec::new();
            for _ in 0..2 {
                probes.send(decide(&by_address)).unwrap();
                all.extend(until(inputs, |input| is_sighting(input, &by_address, Some(Sensor::ArpProbe))).await);
            }
            assert!(!all.iter().any(|input| is_sighting(input, &laptop, None)), "{all:?}");
        })
        .await;
    });
}

#[test]
fn a_question_on_which_it_depends_goes_to_every_address_and_a_routine_one_to_one() {
    let Some(lan) = Lan::make("loud") else { return };
    let phone = Device::Mac(PHONE);
    for space in ["home", "phone"] {
        lan.ip_in(space, "link set eth0 addrgenmode none");
    }
    lan.ip_in("home", "address add fe80::1/64 dev eth0 nodad");
    lan.ip_in("phone", "link set eth0 up");
    for ip in ["fe80::21", "fd77::21"] {
        lan.ip_in("phone", &format!("address add {ip}/64 dev eth0 nodad"));
    }
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        let told: watch::Sender<Sensing> = watch::Sender::default();
        let mut hears = told.subscribe();
        with_told(std::slice::from_ref(&phone), senses, &told, async |inputs, probes| {
            until(inputs, |input| *input == Input::Blind(None)).await;
            lan.runs_in("phone", "until ping -c1 -W1 10.77.0.1; do :; done");
            lan.runs_in("phone", "until ping -6 -c1 -W1 -I eth0 fe80::1; do :; done");
            // An advertisement of the other address.
            lan.runs_in("home", "ip -6 route add fd77::/64 dev eth0 && until ping -6 -c1 -W1 fd77::21; do :; done");
            let mut asked = async |urgency| {
                let before = hears.borrow_and_update().frames;
                probes.send(Probe { device: phone.clone(), urgency }).unwrap();
                until(inputs, |input| matches!(input, Input::Probed { sent: true, .. })).await;
                let after = hears.wait_for(|told| told.frames.total() > before.total()).await.unwrap().frames;
                (after.arp_direct - before.arp_direct, after.ns_direct - before.ns_direct, after.mdns - before.mdns)
            };
            while asked(Urgency::Deciding).await != (1, 2, 1) {}
            assert_eq!(asked(Urgency::Routine).await, (1, 0, 0));
            assert_eq!(asked(Urgency::Lookout).await, (0, 0, 0));
            assert_eq!(asked(Urgency::Deciding).await, (1, 2, 1));
        })
        .await;
    });
}

#[test]
fn a_machine_that_loses_its_ipv4_address_hears_half_and_says_so() {
    let Some(lan) = Lan::make("half") else { return };
    let laptop = Device::Mac(LAPTOP);
    lan.ip_in("home", "address add fe80::1/64 dev eth0 nodad");
    lan.at_home(async || {
        let senses = Senses::open(Vec::new()).await.unwrap();
        with_sensors(std::slice::from_ref(&laptop), senses, async |inputs, _| {
            until(inputs, |input| is_sighting(input, &laptop, None)).await;
            lan.ip_in("home", "-4 address flush dev eth0");
            until(inputs, |input| matches!(input, Input::Blind(Some(why)) if why.contains("eth0 lost its IPv4 address"))).await;
            lan.ip_in("home", "address add 10.77.0.1/24 dev eth0");
            until(inputs, |input| *input == Input::Blind(None)).await;
        })
        .await;
    });
}

#[test]
fn of_all_that_passes_only_what_tells_who_is_there_wakes_the_sensors() {
    let Some(lan) = Lan::make("filter") else { return };
    lan.ip_in("home", "address add fe80::1/64 dev eth0 nodad");
    lan.ip_in("laptop", "address add fe80::22/64 dev eth0 nodad");
    lan.at_home(async || {
        let sockets = PacketSockets::open().unwrap();
        lan.runs_in("laptop", "until ping -c3 -i0.01 -W1 10.77.0.1; do :; done");
        lan.runs_in("laptop", "until ping -6 -c3 -i0.01 -W1 -I eth0 fe80::1; do :; done");
        for port in [67, 68] {
            let other = lan.socket_in("laptop", "0.0.0.0:5000");
            other.send_to(b"hello", ("10.77.0.1", port)).unwrap();
        }
        let asks = lan.socket_in("laptop", "0.0.0.0:68");
        asks.send_to(b"hello", "10.77.0.1:5000").unwrap();
        asks.send_to(&dhcp::asks(LAPTOP, 1, "laptop")[28..], "10.77.0.1:67").unwrap();
        let mut packet = [0; 1024];
        let mut heard = [false, false];
        loop {
            let (talk, length, source) = sockets.receive(&mut packet).await.unwrap();
            let packet = &packet[..length];
            match talk {
                Talk::Arp => heard[0] |= arp::parse(packet, source.mac).is_some(),
                Talk::Ndp => {
                    assert!(ndp::parse(packet, source.mac).is_some(), "{packet:?}");
                    heard[1] = true;
                }
                Talk::Dhcp => {
                    assert!(dhcp::parse(packet, source.mac).is_some(), "{packet:?}");
                    break;
                }
            }
        }
        // In whatever order the sockets are looked at.
        while heard != [true, true] {
            match sockets.receive(&mut packet).await.unwrap() {
                (Talk::Arp, ..) => heard[0] = true,
                (Talk::Ndp, length, source) => heard[1] = ndp::parse(&packet[..length], source.mac).is_some(),
                (Talk::Dhcp, ..) => panic!("that was the only one"),
            }
        }
    });
}
