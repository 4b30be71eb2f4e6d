//! Networks on which others speak mDNS: liars, crowds, talkers of nonsense, and a neighbour of good manners.

use std::path::Path;
use std::process::Command;

use dms3_core::arming::ArmState;

use super::{REACHED_WITHIN, house_on, lan, lives};
use crate::harness::skip::cannot_make_networks;
use crate::harness::{Helper, Host, House, Lan, eventually, within};

/// As long as all of it takes at most.
const SECONDS: u32 = 150;
/// What a node may say of it.
const LINES: usize = 100;

#[tokio::test]
async fn a_liar_a_crowd_and_nonsense_every_millisecond_keep_no_camera_from_its_coordinator() {
    if cannot_make_networks("networks") {
        return;
    }
    let mut house = house_on(Lan::new(), ["porch"]).await;
    let rogue = lan(&house).host("rogue");
    let identity = house.identity_of(&house.coordinator);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/liar.py");
    let (mesh, node, seconds) = (identity.mesh().to_string(), identity.node().short(), SECONDS.to_string());
    let before = house.standing().await;
    let logged = house.camera("porch").log().lines().count();
    let mut liar =
        rogue.runs("python3", &[script.to_str().unwrap(), "--mesh", &mesh, "--node", &node, "--at", &rogue.ip, "--seconds", &seconds]);
    // It is heard.
    let porch = house.camera("porch");
    eventually("porch hears it", async || porch.cli(&["discover", "--seconds", "2"]).await.good().contains(&format!("{}:47100", rogue.ip)))
        .await;

    lives(&house).await;
    house.add_camera("hall").await;
    within(REACHED_WITHIN, "one is paired in the midst of it", async || house.is_whole(ArmState::Disarmed).await).await;
    house.camera("porch").restart().await;
    within(REACHED_WITHIN, "one that is started finds its coordinator", async || house.is_whole(ArmState::Disarmed).await).await;
    house.coordinator.sigkill().await;
    for camera in &house.cameras {
        let crowd = ["no coordinator is reached: no answer (", ", 192.168.77.", " more)"];
        within(REACHED_WITHIN, "a line tells of the crowd", async || camera.line_with_all(&crowd)).await;
    }
    house.coordinator.start();
    house.answers().await;
    within(REACHED_WITHIN, "and all do when it was killed", async || house.is_whole(ArmState::Disarmed).await).await;
    lives(&house).await;
    assert!(liar.lives(), "it lies all the time");
    for camera in &house.cameras {
        let lines = camera.log().lines().count() - if camera.name == "porch" { logged } else { 0 };
        assert!(lines <= LINES, "{} lines of {}", lines, camera.name);
    }
    let lines = house.told_since(before, "");
    assert!(lines <= LINES, "{lines} lines of the coordinator");
    drop(liar);
    house.arm().await;
    house.agrees(ArmState::Away).await;
}

/// avahi with a bus of its own; its files lie where no other sees them.
fn avahi(host: &Host, dir: &Path) -> Helper {
    let bus = bus(host, dir);
    std::fs::write(
        dir.join(format!("{}.conf", host.netns)),
        format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>system</type><listen>{bus}</listen>\
             <auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/></policy></busconfig>\n"
        ),
    )
    .unwrap();
    let config = dir.join(format!("{}.avahi", host.netns));
    let name = host.netns.rsplit('-').next().unwrap();
    std::fs::write(&config, format!("[server]\nhost-name={name}\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=yes\n")).unwrap();
    let script = format!(
        "mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon && dbus-daemon --nofork --nopidfile --config-file={}/{}.conf & \
         while ! test -S {}/{}.bus; do sleep 0.1; done; exec avahi-daemon --no-drop-root --no-chroot --file={}",
        dir.display(),
        host.netns,
        dir.display(),
        host.netns,
        config.display()
    );
    let bus = format!("DBUS_SYSTEM_BUS_ADDRESS={bus}");
    // All of it ends with the first process.
    host.runs("env", &[&bus, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script])
}

fn bus(host: &Host, dir: &Path) -> String {
    format!("unix:path={}/{}.bus", dir.display(), host.netns)
}

/// What avahi on that host knows of our service.
fn browsed(host: &Host, dir: &Path) -> String {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &host.netns, "env", &format!("DBUS_SYSTEM_BUS_ADDRESS={}", bus(host, dir))]);
    let out = command.args(["timeout", "10", "avahi-browse", "-rtp", "_dms3._udp"]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Whether avahi on that host found our coordinator where it is.
fn finds(house: &House, host: &Host, dir: &Path) -> bool {
    let coordinator = lan(house).machine("coordinator").ip;
    browsed(host, dir).lines().any(|line| line.starts_with("=;") && line.contains(&format!(";{coordinator};47100;")))
}

#[tokio::test]
async fn a_house_lives_beside_avahi_on_the_same_machines_and_without_it() {
    if cannot_make_networks("networks") {
        return;
    }
    let lan = Lan::new();
    let dir = tempfile::tempdir().unwrap();
    let hosts = ["coordinator", "porch"].map(|name| lan.host(name));
    let mut avahis = hosts.each_ref().map(|host| avahi(host, dir.path()));
    for host in &hosts {
        let socket = dir.path().join(format!("{}.bus", host.netns));
        eventually("avahi is there", async || socket.exists() && !browsed(host, dir.path()).contains("Failed")).await;
    }
    let house = house_on(lan, ["porch"]).await;
    for host in &hosts {
        eventually(&format!("avahi finds it from {}", host.netns), async || finds(&house, host, dir.path())).await;
    }
    lives(&house).await;
    let before = house.standing().await;
    house.coordinator.sigkill().await;
    house.coordinator.start();
    house.answers().await;
    house.stands(before).await;
    house.camera("porch").restart().await;
    house.stands(before).await;
    for host in &hosts {
        eventually(&format!("avahi finds it from {} again", host.netns), async || finds(&house, host, dir.path())).await;
    }
    assert!(avahis.iter_mut().all(Helper::lives));
    drop(avahis);
    lives(&house).await;
    let before = house.standing().await;
    house.coordinator.restart().await;
    house.answers().await;
    house.camera("porch").restart().await;
    house.stands(before).await;
    lives(&house).await;
}
