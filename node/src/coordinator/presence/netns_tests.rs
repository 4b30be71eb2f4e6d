//! The sensors on a network of this machine's own: a switch, the coordinator, a phone and a laptop, each in its namespace.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use dms3_core::coordinator::Input;
use dms3_core::presence::{Device, MacAddr, Sensor};
use nix::sched::{CloneFlags, setns};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::senses::Senses;
use super::watch::Watch;
use super::{PresenceConfig, PresenceSensors, look, run};
use crate::clock::Clock;

const PHONE: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 1]);
const LAPTOP: MacAddr = MacAddr([0x24, 0xda, 0x9b, 0, 0, 2]);
const PHONE_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 21);
const LAPTOP_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 22);

struct Lan {
    name: String,
}

impl Lan {
    /// None where it cannot be made, which is told; a failure in CI.
    fn make(test: &str) -> Option<Self> {
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
        for (space, mac, ip) in [
            ("home", "b8:27:eb:00:00:01".to_owned(), "10.77.0.1".to_owned()),
            ("phone", PHONE.to_string(), PHONE_IP.to_string()),
            ("laptop", LAPTOP.to_string(), LAPTOP_IP.to_string()),
        ] {
            lan.ip_in("switch", &format!("link add {space} type veth peer name eth0 netns {}", lan.space(space)));
            lan.ip_in("switch", &format!("link set {space} master br0"));
            lan.ip_in("switch", &format!("link set {space} up"));
            lan.ip_in(space, &format!("link set eth0 address {mac}"));
            lan.ip_in(space, &format!("address add {ip}/24 dev eth0"));
        }
        lan.ip_in("home", "link set eth0 up");
        lan.ip_in("laptop", "link set eth0 up");
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
        let (inputs_out, mut inputs) = mpsc::channel(64);
        let (learned_out, mut learned) = mpsc::channel(64);
        let (probes, _) = broadcast::channel(64);
        let sensors = PresenceSensors {
            config: PresenceConfig::default(),
            devices: vec![phone.clone(), laptop.clone()],
            known: Vec::new(),
            learned: learned_out,
            probes: probes.clone(),
            inputs: inputs_out,
            clock: Clock::unkept(),
        };
        let stop = CancellationToken::new();
        let _stop_at_end = stop.clone().drop_guard();
        let scene = async {
            until(&mut inputs, |input| *input == Input::Blind(None)).await;
            // Nobody knows where the phone is, so everybody is asked; only the laptop, which nobody asked for, answers.
            probes.send(phone.clone()).unwrap();
            let probed = Input::Probed { device: phone.clone(), sent: true };
            let before = until(&mut inputs, |input| *input == probed).await;
            assert!(!before.iter().any(|input| is_sighting(input, &phone, None)), "{before:?}");

            lan.ip_in("phone", "link set eth0 up");
            let came =
                Command::new("ip").args(["netns", "exec", &lan.space("phone"), "bash", "-c", "echo > /dev/udp/10.77.0.1/9"]).status();
            assert!(came.unwrap().success());
            until(&mut inputs, |input| is_sighting(input, &phone, None)).await;
            while learned.recv().await.unwrap() != (phone.clone(), PHONE_IP.into()) {}
            probes.send(phone.clone()).unwrap();
            until(&mut inputs, |input| *input == probed).await;
            until(&mut inputs, |input| is_sighting(input, &phone, Some(Sensor::ArpProbe))).await;

            lan.ip_in("phone", "link set eth0 down");
            for round in 0..10 {
                probes.send(phone.clone()).unwrap();
                let mut between = until(&mut inputs, |input| *input == probed).await;
                // The laptop is asked later: had the phone answered, that would have come before.
                probes.send(laptop.clone()).unwrap();
                between.extend(until(&mut inputs, |input| is_sighting(input, &laptop, Some(Sensor::ArpProbe))).await);
                // What was on its way when the phone left may still arrive in the first rounds.
                assert!(round < 4 || !between.iter().any(|input| is_sighting(input, &phone, None)), "{between:?}");
            }

            lan.ip_in("switch", "link set home down");
            until(&mut inputs, |input| matches!(input, Input::Blind(Some(why)) if why.contains("eth0"))).await;
            probes.send(phone.clone()).unwrap();
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
        let (inputs_out, mut inputs) = mpsc::channel(64);
        let (learned, _learned) = mpsc::channel(64);
        let (probes, _) = broadcast::channel(64);
        let sensors = PresenceSensors {
            config: PresenceConfig::default(),
            devices: vec![phone.clone()],
            known: Vec::new(),
            learned,
            probes: probes.clone(),
            inputs: inputs_out,
            clock: Clock::unkept(),
        };
        let stop = CancellationToken::new();
        let _stop_at_end = stop.clone().drop_guard();
        let scene = async {
            let mut all = until(&mut inputs, |input| *input == Input::Blind(None)).await;
            // Asked where the kernel held it to be; it does not answer.
            for _ in 0..3 {
                probes.send(phone.clone()).unwrap();
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
async fn with_sensors(devices: &[Device], senses: Senses, scene: impl AsyncFnOnce(&mut mpsc::Receiver<Input>, &broadcast::Sender<Device>)) {
    let (inputs_out, mut inputs) = mpsc::channel(256);
    let (learned, _learned) = mpsc::channel(64);
    let (probes, _) = broadcast::channel(64);
    let sensors = PresenceSensors {
        config: PresenceConfig::default(),
        devices: devices.to_vec(),
        known: Vec::new(),
        learned,
        probes: probes.clone(),
        inputs: inputs_out,
        clock: Clock::unkept(),
    };
    let hears = probes.subscribe();
    tokio::select! {
        () = scene(&mut inputs, &probes) => {}
        ended = async { Watch::with(sensors, senses).await?.run(hears).await } => panic!("the sensors ended: {ended:?}"),
    }
}

async fn answer_to_a_probe(of: &Device, inputs: &mut mpsc::Receiver<Input>, probes: &broadcast::Sender<Device>) -> bool {
    probes.send(of.clone()).unwrap();
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
