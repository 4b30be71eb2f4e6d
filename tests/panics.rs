//! What fails inside a node fails alone: each service that the house can do without may panic, and whoever decides may not hang unseen.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dms3_core::arming::ArmState;
use dms3_core::presence::Presence;
use tokio::net::UnixDatagram;
use tokio::task::JoinSet;

use crate::events::{good, jpeg, picture};
use crate::harness::skip::cannot_make_networks;
use crate::harness::smtp::MailServer;
use crate::harness::{House, Lan, Node, Plan, eventually, within};

/// Services that are started again, of a house that has all there is.
const OF_A_COORDINATOR: [&str; 17] = [
    "events",
    "accounts",
    "page",
    "control",
    "sound",
    "renewal",
    "enrollment",
    "discovery",
    "clock",
    "health",
    "media",
    "pruning",
    "bluetooth",
    "presence",
    "addresses",
    "alerts",
    "mailer",
];
const OF_A_CAMERA: [&str; 10] =
    ["sound", "looks", "spool", "left behind", "control", "health", "clock", "alerts", "mailer", "mail secrets"];

const LINKED: &str = "linked to coordinator ";

/// What it says of a driver that lives.
const ALIVE: &str = "WATCHDOG=1";
/// A driver says it twice a second; the unit gives it 30 s.
const SILENT_FOR: Duration = Duration::from_secs(5);

#[test]
fn the_list_of_services_that_are_made_to_panic_is_whole() {
    for (file, list) in [("coordinator", &OF_A_COORDINATOR[..]), ("camera", &OF_A_CAMERA)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file).join("mod.rs");
        let text = fs::read_to_string(path).unwrap();
        let named = text.split("services.restarting(").skip(1).map(|rest| rest.split('"').nth(1).unwrap());
        assert_eq!(named.collect::<BTreeSet<_>>(), list.iter().copied().collect(), "services of a {file}");
    }
}

/// Anna is home, and has armed the house all the same. It has a page, would mail, and so would its camera; both play sounds. Bluetooth is
/// looked for in vain.
async fn house_with_all() -> House {
    let lan = Lan::new();
    let anna = lan.host("anna");
    let presence = format!(
        "[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"Anna\"\ndevices = [\"{}\", \"bt:24:da:9b:00:00:99\"]\n",
        anna.mac
    );
    let plan = Plan { presence: Some(presence), lan: Some(lan), web: Some(String::new()), ..Plan::default() };
    let mut house = House::planned(plan).await;
    house.add_camera("porch").await;
    // Nobody serves there.
    let server = MailServer::new();
    let porch = house.camera("porch");
    for node in [&house.coordinator, &porch.node] {
        node.configure(&server.section_kept_in(house.dir(), &node.name));
        let role = if node.name == "porch" { "camera" } else { "coordinator" };
        node.configure(&format!("[{role}.sound]\ncommand = [\"true\"]\n"));
        node.set_variable("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent".into());
        node.can_fail();
        node.restart().await;
    }
    house.answers().await;
    eventually("Anna is seen", async || {
        house.look().await.is_some_and(|house| house.people.iter().all(|person| person.presence == Presence::Home))
    })
    .await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

#[tokio::test]
async fn a_service_that_panics_is_started_again_and_told_and_the_house_goes_on() {
    if cannot_make_networks("a_service_that_panics_is_started_again_and_told_and_the_house_goes_on") {
        return;
    }
    let mut house = house_with_all().await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    good(picture(porch, "1", "5", &jpeg(house.dir(), b"1.jpg", 1)));
    house.has_events(1).await;
    // What makes small pictures is no service of its own: it goes on when the one that does it starts again.
    house.coordinator.fails_in("thumbnails", "panic");
    let held = || (porch.pid(), porch.lines_with(LINKED), porch.motion.starts());
    let held_before = held();
    for (node, services) in [(&house.coordinator, &OF_A_COORDINATOR[..]), (&porch.node, &OF_A_CAMERA)] {
        for service in services {
            node.fails_in(service, "panic");
            let told = [&format!("{service} stopped, starting again in 0.5 s: it panicked: a test wanted {service} to fail")[..]];
            eventually(&format!("{} tells that {service} panicked", node.name), async || node.line_with_all(&told)).await;
        }
    }
    eventually("it is told", async || house.coordinator.told("a picture has no thumbnail: it took too long, or brought its decoder down"))
        .await;

    let state_stays = async || house.look().await.is_none_or(|house| house.state == ArmState::Away);
    eventually("all is as it was", async || state_stays().await && house.does_agree(ArmState::Away).await).await;
    assert_eq!((house.standing().await.pid(), house.standing().await.version), (before.pid(), before.version));
    assert_eq!(held(), held_before, "the camera is on the link that it had, with the detector that it had");

    // And each of them works again: the page, events with their pictures, commands, presence, discovery and enrollment.
    eventually("the page is served", async || {
        house.look().await.is_some_and(|house| !house.problems.iter().any(|problem| problem.contains("The dashboard is not served")))
    })
    .await;
    assert_eq!(house.visitor().await.get("/set-up").await.status, 200);
    good(picture(porch, "2", "5", &jpeg(house.dir(), b"2.jpg", 2)));
    house.has_events(2).await;
    eventually("Anna is seen", async || {
        house.look().await.is_some_and(|house| house.people.iter().all(|person| person.presence == Presence::Home))
    })
    .await;
    house.add_camera("hall").await;
    house.agrees(ArmState::Away).await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
}

/// What a node tells systemd, which is this test.
struct Systemd {
    alive: Arc<AtomicUsize>,
    _hears: JoinSet<()>,
}

impl Systemd {
    /// From its next process on.
    fn of(node: &Node) -> Self {
        let path = node.run_dir().with_extension("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        node.set_variable("NOTIFY_SOCKET", path);
        let alive = Arc::new(AtomicUsize::new(0));
        let mut hears = JoinSet::new();
        let count = alive.clone();
        hears.spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes).await {
                let said = String::from_utf8_lossy(&bytes[..length]);
                count.fetch_add(said.lines().filter(|line| *line == ALIVE).count(), Ordering::Relaxed);
            }
        });
        Self { alive, _hears: hears }
    }

    fn heard(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_driver_that_hangs_says_no_more_that_it_lives_and_the_node_is_as_it_was_when_it_is_started_again() {
    let house = House::with_cameras(["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let porch = house.camera("porch");
    let before = house.standing().await;
    for node in [&house.coordinator, &porch.node] {
        node.can_fail();
        let systemd = Systemd::of(node);
        node.restart().await;
        let first = systemd.heard();
        eventually("it says that it lives", async || systemd.heard() >= first + 5).await;
        node.fails_in("driver", "hang");
        let mut last = (systemd.heard(), Instant::now());
        within(Duration::from_secs(60), "it says so no more", async || {
            let now = systemd.heard();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > SILENT_FOR
        })
        .await;
        node.pid();
        assert!(porch.motion.running().is_some(), "the camera watches on, whoever hangs");
        // As systemd does when it has not heard of it for WatchdogSec (config/dms3-node.service; scripts/soak systemd).
        node.sigkill().await;
        fs::remove_dir_all(node.run_dir().with_file_name("failpoints")).unwrap();
        node.start();
        house.answers().await;
        eventually("all is as it was", async || house.is_whole(ArmState::Away).await).await;
    }
    let now = house.standing().await;
    assert_eq!((now.version, now.state), (before.version, before.state));
}

#[tokio::test]
async fn a_driver_that_panics_ends_its_node_which_says_so_and_the_house_is_as_it_was_when_it_is_started_again() {
    let house = House::with_cameras(["porch", "hall"]).await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let porch = house.camera("porch");
    for node in [&house.coordinator, &porch.node] {
        node.can_fail();
        node.restart().await;
        house.answers().await;
        eventually("all is well", async || house.is_whole(ArmState::Away).await).await;
        node.fails_in("driver", "panic");
        node.fails().await;
        assert!(
            node.told("driver failed, and the node cannot do without it: it panicked: a test wanted driver to fail"),
            "{} says which of its services that was",
            node.name
        );
        node.start();
        house.answers().await;
        eventually("all is as it was", async || house.is_whole(ArmState::Away).await).await;
    }
    let now = house.standing().await;
    assert_eq!((now.version, now.state), (before.version, before.state));
}
