//! A camera node: who runs what.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use dms3_core::camera::{Settings, SourceSettings};
use dms3_core::id::BootId;
use dms3_core::protocol::message::{DetectorReportV1, OutboxV1};
use dms3_pki::Identity;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::detector::{DetectorConfig, Hooks, Spawner, WatchOrder};
use self::driver::{Driver, Source};
use self::intake::Intake;
use self::outbox::{Place, Wire};
use self::uplink::UplinkContext;
use crate::clock::Clock;
use crate::config::{CameraConfig, Config};
use crate::control::Control;
use crate::hook::{self, HookSocket};
use crate::mesh::endpoint::Endpoint;
use crate::mesh::keys::MeshKeys;
use crate::services::Services;
use crate::spool;

pub mod detector;
mod driver;
pub mod enrollment;
pub mod health;
pub mod intake;
pub(crate) mod memory;
pub mod outbox;
pub mod uplink;

/// The place of one source's detector: what it is told, and where it says what it does.
#[derive(Debug)]
pub struct Post {
    pub config: DetectorConfig,
    pub orders: watch::Receiver<WatchOrder>,
    pub report: watch::Sender<DetectorReportV1>,
}

/// Starts every service of a camera node. Returns once the sockets are bound.
pub async fn start(
    config: &Config,
    own: &CameraConfig,
    identity: Identity,
    boot: BootId,
    clock: Clock,
    services: &mut Services,
) -> Result<()> {
    let spawner = Spawner::start().context("cannot start the thread that starts detectors")?;
    let program = std::env::current_exe().context("cannot find this program's own file, which Motion's hooks call")?;
    let hooks = Hooks { program, run_dir: config.run_dir.clone(), spool: own.spool_dir.clone() };
    let (detector_clock, state_dir) = (clock.clone(), config.state_dir.clone());
    let man = move |post: Post, stop| {
        let clock = detector_clock.clone();
        detector::run(post.config, post.orders, post.report, move || clock.now(), (state_dir.clone(), hooks.clone()), spawner.clone(), stop)
    };
    start_with(config, own, identity, boot, clock, services, man).await
}

/// As [`start`], with whatever `man` puts in the place of each detector.
pub async fn start_with<D>(
    config: &Config,
    own: &CameraConfig,
    identity: Identity,
    boot: BootId,
    clock: Clock,
    services: &mut Services,
    man: impl Fn(Post, CancellationToken) -> D,
) -> Result<()>
where
    D: Future<Output = Result<()>> + Send + 'static,
{
    let control = Control::bind(&config.control_socket()).await?;
    let keys = MeshKeys::load_or_create(&config.state_dir)?;
    // A camera only dials: any port will do.
    let mut from = config.mesh.listen;
    from.set_port(0);
    let endpoint = Endpoint::bind(from, &keys, config.mesh.limits)?;
    let stop = services.stop_token();

    let settings = Settings {
        sources: own
            .detectors
            .iter()
            .map(|detector| SourceSettings { name: detector.name.clone(), watch_in: detector.watch_in.clone() })
            .collect(),
        on_coordinator_lost: own.on_coordinator_lost.0,
    };
    let (memory, machine, effects) = memory::Memory::wake(&config.state_dir, settings, &identity, clock.now());

    let mut sources = Vec::new();
    for detector in &own.detectors {
        let (order, orders) = watch::channel(WatchOrder::default());
        let (report, reports) = watch::channel(detector::first_report(&detector.name, clock.now().at));
        services.vital("detector", man(Post { config: detector.clone(), orders, report }, stop.clone()));
        sources.push(Source { name: detector.name.clone(), order, reports });
    }

    let own_dir = |detector: &DetectorConfig| detector.own_media_dir(&config.state_dir);
    let media_dirs = own.detectors.iter().map(|detector| (detector.name.clone(), own_dir(detector))).collect();
    let first = own.detectors.first().map_or("cam", |detector| detector.name.as_str());
    let place = Place { state_dir: config.state_dir.clone(), config: own.outbox, first_source: first.to_owned(), clock: clock.clone() };
    // Opened by its service: a camera that was rebooted watches before a long outbox is read.
    let (kept, kept_in) = watch::channel(None);
    let hook = Arc::new(HookSocket::bind(&config.run_dir.join(hook::SOCKET))?);
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    let (inputs, inputs_in) = mpsc::channel(64);
    let (requests, requests_in) = mpsc::channel(16);
    let (ack, acks) = watch::channel(None);
    let (detectors, detectors_in) = watch::channel(dms3_core::protocol::message::DetectorsV1 { sources: Vec::new() });
    let (health, health_in) = watch::channel(None);
    let (link, link_in) = watch::channel(uplink::LinkStatus::default());
    let unknown = Arc::new(AtomicU64::new(0));
    let (held, held_in) = watch::channel(memory.held());
    let (carrier, link_up) = watch::channel(None);
    let (answers, answers_in) = mpsc::channel(64);
    let (counts, counts_in) = watch::channel(OutboxV1::default());
    if let Err(error) = spool::make(&own.spool_dir) {
        tracing::warn!(
            "hooks that are called while this node does not run have no place: cannot make {}: {error:#}",
            own.spool_dir.display()
        );
    }
    let intake = Intake::new(kept_in, clock.clone(), media_dirs, acks.clone(), own.spool_dir.clone());
    let identity_node = identity.node();
    tracing::info!("camera {} of house {}, its detectors: {}", identity_node.short(), identity.mesh(), names.join(", "));

    let driver = Driver {
        machine,
        memory,
        clock: clock.clone(),
        node: identity_node,
        sources,
        ack,
        detectors,
        held,
        link: link_in,
        outbox: counts_in.clone(),
    };
    services.vital("driver", driver.run(effects, inputs_in, requests_in, stop.clone()));
    services.vital(
        "uplink",
        uplink::run(
            UplinkContext {
                endpoint,
                identity,
                state_dir: config.state_dir.clone(),
                mesh: config.mesh.clone(),
                boot,
                inputs,
                acks,
                detectors: detectors_in,
                health: health_in,
                held: held_in,
                sources: own.detectors.iter().map(|detector| detector.name.clone()).collect(),
                status: link,
                unknown: unknown.clone(),
                clock: clock.clone(),
                carrier,
                answers,
            },
            stop.clone(),
        ),
    );
    // What is seen must not be lost: without these two a camera is none.
    let taken = intake.clone();
    services.vital("hook", hook.run(move |call, file| taken.clone().take(call, file), stop.clone()));
    let wire = Wire { link: link_up, answers: answers_in, counts };
    services.vital("outbox", outbox::run(place, kept, wire, stop.clone()));
    let behind = intake.clone();
    services.restarting("spool", move |stop| intake.clone().empty_spool(stop), |_| {});
    services.restarting("left behind", move |stop| behind.clone().look_behind(stop), |_| {});
    let control = Arc::new(control);
    services.restarting("control", move |stop| control.clone().run(requests.clone(), stop), |_| {});
    let (state_dir, health_clock) = (config.state_dir.clone(), clock.clone());
    services.restarting(
        "health",
        move |stop| {
            let (clock, unknown, counts) = (health_clock.clone(), unknown.clone(), counts_in.clone());
            let counted = move || (unknown.load(Ordering::Relaxed), *counts.borrow());
            health::run(health.clone(), move || clock.now(), state_dir.clone(), counted, stop)
        },
        |_| {},
    );
    services.restarting("clock", move |stop| clock.clone().keep(stop), |_| {});
    Ok(())
}

/// Whether this machine was paired.
pub fn is_enrolled(state_dir: &Path) -> Result<bool> {
    Ok(Identity::load(state_dir)?.is_some())
}
