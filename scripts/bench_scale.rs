//! Many cameras in one process for `scripts/bench`: of each the real mesh client (dial, link, messages, keep-alives) on a socket of its own.
//!
//! What stands behind it is light, as thousands of them share two cores and a disk with the coordinator: a camera keeps nothing and drives
//! nothing, it confirms at once what it is told. Of one state, which each camera checks on its own processor, the signature is checked once.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::id::BootId;
use dms3_core::protocol::frame::{self, CONTROL_LIMIT, Message};
use dms3_core::protocol::message::{
    AckV1, DetectorPhase, DetectorReportV1, DetectorsV1, HealthV1, HelloV1, LiveView, OutboxV1, PushV1, SignedStateV1, SourceAckV1, StateV1,
};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_node::clock::Clock;
use dms3_node::mesh::MeshConfig;
use dms3_node::mesh::config::Limits;
use dms3_node::mesh::dial::{Backoff, dial};
use dms3_node::mesh::discovery::{self, Heard};
use dms3_node::mesh::endpoint::Endpoint;
use dms3_node::mesh::keys::MeshKeys;
use dms3_node::mesh::link::{Connection, Link};
use dms3_pki::tls::{mesh_client, mesh_server_name};
use dms3_pki::{AUTHORITY_DIR, Authority, Identity, NodeKey, verify_state};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::crowd::{self, Told};

/// As the uplink.
const WELCOME: Duration = Duration::from_secs(5);
/// As the uplink: a coordinator of whom a new boot is heard must be heard itself in this time.
const PING: Duration = Duration::from_secs(1);
/// As the uplink: after a link that worked, spread over the cameras of a house.
const AT_ONCE: Duration = Duration::from_millis(250);
/// A coordinator reads no more than 20 messages a second of one node.
const BETWEEN_REPORTS: Duration = Duration::from_millis(55);
const SOURCE: &str = "cam";

/// What all of them share.
struct House {
    identities: Vec<Identity>,
    clock: Clock,
    own: Ipv4Addr,
    coordinator: SocketAddr,
    /// One of them listens for all.
    heard: Heard,
    /// The state that was checked last.
    checked: Mutex<Option<(SignedStateV1, StateV1)>>,
    /// So many keep-alives and health reports are to be sent, as fast as they go.
    day: watch::Receiver<(u32, u32)>,
}

/// Makes `count` cameras of the house in `state`, whose coordinator does not run: writes the id of each, then does what is said on standard
/// input (see [`crowd::run`]), and `day KEEP_ALIVES REPORTS`.
pub(crate) async fn cameras(state: &Path, own: Ipv4Addr, coordinator: SocketAddr, count: usize) -> Result<()> {
    let (day, days) = watch::channel((0, 0));
    let identities = identities(state, count)?;
    for identity in &identities {
        crate::say(&identity.node().0.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    let (clock, heard) = (Clock::unkept(), Heard::default());
    let house = Arc::new(House { identities, clock, own, coordinator, heard: heard.clone(), checked: Mutex::default(), day: days });
    let listening = async {
        // Not `mdns = "off"`: a coordinator that comes back is heard, as cameras hear it.
        discovery::browse(&MeshConfig::default(), &heard, CancellationToken::new()).await
    };
    let begin = |number, told| {
        let house = house.clone();
        async move { live(&house, number, &told).await }
    };
    tokio::select! {
        ended = listening => ended.context("no mDNS"),
        ended = crowd::run(begin, |words| match words {
            ["day", keep_alives, reports] => {
                day.send_replace((keep_alives.parse()?, reports.parse()?));
                Ok(())
            }
            _ => bail!("what is {words:?}?"),
        }) => ended,
    }
}

/// As pairing makes them, all at once.
fn identities(state: &Path, count: usize) -> Result<Vec<Identity>> {
    let authority = Authority::open(&state.join(AUTHORITY_DIR))?;
    let coordinator = Identity::load(state)?.context("that is no coordinator")?;
    let now = Clock::unkept().now().at;
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        let key = Arc::new(NodeKey::generate()?);
        let leaf = authority.issue(&key.csr()?, NodeRole::Camera, &key.id(), now)?;
        made.push(Identity::new(key, leaf, authority.issuing_der().to_vec(), coordinator.bundle().as_ref().clone(), now)?);
    }
    Ok(made)
}

async fn live(house: &House, number: usize, told: &mpsc::UnboundedSender<Told>) -> Result<()> {
    let identity = house.identities.get(number).context("so many were not made")?;
    let tls = mesh_client(identity, Arc::new(house.clock.clone()))?;
    let name = mesh_server_name(&identity.mesh()).to_str().into_owned();
    let endpoint = Endpoint::bind(SocketAddr::from((house.own, 0)), &MeshKeys::random()?, Limits::default())?;
    let (mut held, mut backoff) = (None, Backoff::default());
    loop {
        let met = async {
            let connection = dial(&endpoint, house.coordinator, &name, tls.clone()).await?;
            let (link, boot) = timeout(WELCOME, greet(house, identity, &connection, held.clone())).await??;
            anyhow::Ok((connection, link, boot))
        };
        match met.await {
            Ok((connection, link, boot)) => {
                backoff.reset();
                told.send(Told::Up(number))?;
                let ended = talk(house, number, &connection, link, boot, &mut held, told).await;
                told.send(Told::Down(number))?;
                tracing::debug!("camera {number}: {ended:?}");
                sleep(AT_ONCE.mul_f64(rand::random())).await;
            }
            Err(_) => sleep(backoff.wait()).await,
        }
    }
}

async fn greet(house: &House, identity: &Identity, connection: &Connection, held: Option<SignedStateV1>) -> Result<(Link, BootId)> {
    let mut link = Link::open(connection, Arc::default()).await?;
    let hello = HelloV1 {
        mesh: identity.mesh(),
        boot: BootId([1; 4]),
        hostname: "raspberrypi".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: "debian 12".to_owned(),
        platform: "linux aarch64".to_owned(),
        kernel: "6.12.47+rpt-rpi-v8".to_owned(),
        time: house.clock.now().at,
        held,
        bundle_epoch: identity.bundle().epoch(),
        sources: vec![SOURCE.to_owned()],
    };
    link.sender.send(&Message::Hello(hello)).await?;
    match link.receiver.recv(connection).await? {
        Message::Welcome(welcome) => Ok((link, welcome.boot)),
        other => bail!("no Welcome: {other:?}"),
    }
}

/// As `camera/uplink/session.rs`, until the link ends.
async fn talk(
    house: &House,
    number: usize,
    connection: &Connection,
    link: Link,
    boot: BootId,
    held: &mut Option<SignedStateV1>,
    told: &mpsc::UnboundedSender<Told>,
) -> Result<()> {
    let (mut sender, mut receiver) = (link.sender, link.receiver);
    let (mut list, mut day) = (house.heard.subscribe(), house.day.clone());
    day.mark_unchanged();
    let mesh = house.identities[number].mesh();
    let mut known = vec![boot];
    let mut on = false;
    // Of a coordinator that seems to be a new one: until when it is to be heard of, and how many packets came before.
    let mut doubt: Option<(Instant, u64)> = None;
    sender.send(&detectors(on, house.clock.now().at)).await?;
    loop {
        tokio::select! {
            message = receiver.recv(connection) => if let Message::Push(push) = message? {
                let bytes = frame::encode(&Message::Push(push.clone()), CONTROL_LIMIT)?.len();
                let PushV1 { signed, .. } = push;
                let state = house.check(number, &signed)?;
                told.send(Told::Applied {
                    what: format!("{}.{}", state.epoch, state.rev),
                    on: state.arm_state().is_armed(),
                    decided: state.since,
                    bytes,
                    at: crowd::now(),
                })?;
                *held = Some(signed);
                let source = SourceAckV1 { source: SOURCE.to_owned(), effective: state.state, watch: state.arm_state().is_armed() };
                sender.send(&Message::Ack(AckV1 { epoch: state.epoch, rev: state.rev, sources: vec![source], held: None })).await?;
                if on != state.arm_state().is_armed() {
                    on = !on;
                    sender.send(&detectors(on, house.clock.now().at)).await?;
                }
            },
            Ok(()) = list.changed() => {
                let latest = list.borrow_and_update().clone();
                for one in latest.iter().filter(|one| one.mesh == mesh && one.address == house.coordinator) {
                    if !known.contains(&one.boot) {
                        known.push(one.boot);
                        // A coordinator that forgot this link answers with a reset.
                        sender.send(&detectors(on, house.clock.now().at)).await?;
                        doubt = Some((Instant::now() + PING, connection.stats().udp_rx.datagrams));
                    }
                }
            }
            () = sleep_until(doubt.map_or_else(Instant::now, |(until, _)| until)), if doubt.is_some() => {
                ensure!(doubt.take().is_some_and(|(_, before)| before != connection.stats().udp_rx.datagrams), "it forgot this link");
            }
            Ok(()) = day.changed() => {
                let (keep_alives, reports) = *day.borrow_and_update();
                pass_a_day(house, connection, &mut sender, keep_alives, reports).await?;
                told.send(Told::Word("day"))?;
            }
        }
    }
}

/// As many packets and health reports as a day brings.
async fn pass_a_day(
    house: &House,
    connection: &Connection,
    sender: &mut dms3_node::mesh::link::Sender,
    keep_alives: u32,
    reports: u32,
) -> Result<()> {
    ensure!(reports > 0, "no day without reports");
    let share = keep_alives.div_ceil(reports);
    // Where receiving is allowed to go is told in a packet that is to be confirmed, as a keep-alive is.
    let mut window = 1_u32 << 20;
    for _ in 0..reports {
        for _ in 0..share {
            window += 1;
            connection.set_receive_window(window.into());
            sleep(BETWEEN_REPORTS / (share + 1)).await;
        }
        let at = house.clock.now().at;
        sender.send(&health(at)).await?;
        sleep(BETWEEN_REPORTS / (share + 1)).await;
    }
    Ok(())
}

impl House {
    fn check(&self, number: usize, signed: &SignedStateV1) -> Result<StateV1> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, state)) = &*checked
            && known == signed
        {
            return Ok(state.clone());
        }
        let identity = &self.identities[number];
        let state = verify_state(signed, &identity.mesh(), identity.bundle())?;
        *checked = Some((signed.clone(), state.clone()));
        Ok(state)
    }
}

fn detectors(on: bool, at: Timestamp) -> Message {
    let phase = if on { DetectorPhase::Watching } else { DetectorPhase::Stopped }.to_wire();
    let report = DetectorReportV1 { source: SOURCE.to_owned(), phase, since: at, detail: String::new(), live: LiveView::Never.to_wire() };
    Message::Detectors(DetectorsV1 { sources: vec![report] })
}

fn health(at: Timestamp) -> Message {
    Message::Health(HealthV1 {
        at,
        node_uptime: 1,
        machine_uptime: 1,
        cpu_millicelsius: Some(52_000),
        load_centi: 12,
        mem_total_kib: 1 << 20,
        mem_available_kib: 1 << 19,
        disk_total_mib: 30_000,
        disk_free_mib: 20_000,
        unknown_frames: 0,
        clock_trusted: true,
        outbox: OutboxV1::default(),
        mails: false,
        under_voltage: Some(false),
        spool: 0,
    })
}
