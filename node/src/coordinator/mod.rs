//! A coordinator: who runs what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::coordinator::{Coordinator, Input, Settings};
use dms3_core::id::BootId;
use dms3_core::presence::Device;
use dms3_core::time::Timestamp;
use dms3_pki::{AUTHORITY_DIR, Authority, Identity};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::driver::Driver;
use self::enrollment::{EnrollmentContext, Tokens};
use self::peers::PeersContext;
use self::presence::PresenceSensors;
use self::roster::Roster;
use crate::clock::Clock;
use crate::config::{Config, CoordinatorConfig};
use crate::control::Control;
use crate::mesh::discovery::{self, Advert};
use crate::mesh::endpoint::Endpoint;
use crate::mesh::keys::MeshKeys;
use crate::services::Services;
use crate::store::{Keep, Store};

mod driver;
pub mod enrollment;
pub mod peers;
pub mod presence;
pub mod renewal;
mod requests;
pub mod roster;

/// Who was paired, renamed and revoked stays readable for so long.
const AUDIT_FOR: Duration = Duration::from_secs(365 * 86400);
/// How often old rows are dropped.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Starts every service of a coordinator. Returns once the sockets are bound.
pub async fn start(
    config: &Config,
    own: &CoordinatorConfig,
    identity: Identity,
    boot: BootId,
    clock: Clock,
    services: &mut Services,
) -> Result<()> {
    let store = Store::open(&config.state_dir).await?;
    let authority = Arc::new(Authority::open(&config.state_dir.join(AUTHORITY_DIR)).context("cannot open the house's authority")?);
    let roster = Roster::new(store.roster().await?);
    let now = clock.now();
    let known = store.known_addresses(now.at - own.sightings_for).await?;
    let remembered = store.memory().await?;
    let zone = jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned();
    let people = own.presence.people();
    let settings = Settings {
        mesh: identity.mesh(),
        me: identity.node(),
        zone,
        presence_enabled: own.presence.enabled,
        people: people.clone(),
        may_disarm_away: own.presence.presence_may_disarm.away_may(),
        may_disarm_night: own.presence.presence_may_disarm.night_may(),
        exit_delay: own.exit_delay,
        blind_alert_after: own.presence.blind_alert_after,
        arm_when_blind_after: own.presence.arm_when_blind_after,
    };
    let (machine, effects) = Coordinator::start(settings, remembered.map(|remembered| remembered.memory), now);

    let control = Control::bind(&config.control_socket()).await?;
    let keys = MeshKeys::load_or_create(&config.state_dir)?;
    let endpoint = Endpoint::bind(config.mesh.listen, &keys, config.mesh.limits)?;
    let listen = endpoint.local_addr().context("the mesh port has no address")?;
    let mesh_port = listen.port();
    tracing::info!("coordinator {} of house {} listens on UDP port {mesh_port}", identity.node().short(), identity.mesh());

    let (inputs, inputs_in) = mpsc::channel::<Input>(1024);
    let (requests, requests_in) = mpsc::channel(32);
    let (alerts, alerts_in) = mpsc::channel(64);
    let (state, state_in) = watch::channel(None);
    let (identity_out, identity_in) = watch::channel(identity.clone());
    let (enroll_port, enroll_port_in) = watch::channel(None);
    // Probes nobody takes (the sensors are starting again) are lost on purpose: the rules count only those that were sent.
    let (probes, _) = tokio::sync::broadcast::channel::<Device>(256);
    let stop = services.stop_token();
    let tokens = Tokens::new(store.clone(), authority.clone(), roster.clone(), clock.clone());

    let driver = Driver {
        machine,
        key: identity.key().clone(),
        store: store.clone(),
        clock: clock.clone(),
        roster: roster.clone(),
        state,
        probes: probes.clone(),
        tokens: tokens.clone(),
        notices: BTreeMap::new(),
    };
    services.vital("driver", driver.run(effects, inputs_in, requests_in, alerts_in, stop.clone()));
    services.vital(
        "peers",
        peers::run(
            PeersContext {
                endpoint,
                identity: identity_in.clone(),
                state: state_in,
                inputs: inputs.clone(),
                roster: roster.clone(),
                authority: authority.clone(),
                clock: clock.clone(),
                boot,
            },
            stop.clone(),
        ),
    );
    let control = Arc::new(control);
    services.restarting("control", move |stop| control.clone().run(requests.clone(), stop), |_| {});

    let renewal = (authority.clone(), config.state_dir.clone(), clock.clone());
    services.restarting(
        "renewal",
        move |stop| renewal::run(renewal.0.clone(), renewal.1.clone(), identity_out.clone(), renewal.2.clone(), stop),
        |_| {},
    );
    let enrollment = EnrollmentContext {
        store: store.clone(),
        authority,
        identity: identity_in.clone(),
        roster,
        tokens,
        clock: clock.clone(),
        listen: own.enroll_listen,
        mesh_port,
        advertise: enroll_port,
        alerts,
    };
    services.restarting("enrollment", move |stop| enrollment::run(enrollment.clone(), stop), |_| {});
    let advert = Advert { mesh: identity.mesh(), node: identity.node(), boot, listen, enroll: enroll_port_in };
    let mesh = config.mesh.clone();
    services.restarting(
        "discovery",
        move |stop| {
            let (mesh, advert) = (mesh.clone(), advert.clone());
            async move { discovery::advertise(&mesh, advert, stop).await }
        },
        |_| {},
    );
    let keeping = clock.clone();
    services.restarting("clock", move |stop| keeping.clone().keep(stop), |_| {});
    let (pruned, keep) = (store.clone(), Keep { decisions: own.decisions_for, sightings: own.sightings_for, audit: AUDIT_FOR });
    let prune_clock = clock.clone();
    services.restarting("pruning", move |stop| prune(pruned.clone(), keep, prune_clock.clone(), stop), |_| {});

    if own.presence.enabled {
        let (learned, learned_in) = mpsc::channel(64);
        let sensors = PresenceSensors {
            config: own.presence.clone(),
            devices: people.into_iter().flat_map(|person| person.devices).collect(),
            known: known.into_iter().map(|(device, address, _)| (device, address)).collect(),
            learned,
            probes,
            inputs: inputs.clone(),
            clock: clock.clone(),
        };
        services.restarting(
            "presence",
            move |stop| presence::run(sensors.clone(), stop),
            move |why| {
                if inputs.try_send(Input::Blind(Some(format!("the sensors failed: {why}")))).is_err() {
                    tracing::warn!("the driver is too busy to hear that the sensors failed");
                }
            },
        );
        let clock = clock.clone();
        let learned = Arc::new(Mutex::new(learned_in));
        services.restarting("addresses", move |stop| remember(store.clone(), learned.clone(), clock.clone(), stop), |_| {});
    } else {
        tracing::warn!("presence is switched off in the config: only people arm and disarm this house");
    }
    Ok(())
}

/// Keeps the addresses at which devices were seen, so that a restart knows where to probe.
async fn remember(
    store: Store,
    learned: Arc<Mutex<mpsc::Receiver<(Device, std::net::IpAddr)>>>,
    clock: Clock,
    stop: CancellationToken,
) -> Result<()> {
    let mut learned = learned.lock().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some((device, address)) = learned.recv() => {
                if let Err(error) = store.remember_address(&device, address, clock.now().at).await {
                    tracing::warn!("cannot remember the address of a device: {error:#}");
                }
            }
            else => {
                stop.cancelled().await;
                return Ok(());
            }
        }
    }
}

async fn prune(store: Store, keep: Keep, clock: Clock, stop: CancellationToken) -> Result<()> {
    loop {
        let now = clock.now();
        // A clock that is only a lower bound drops nothing that it should not: it is early, never late.
        store.prune(keep, Timestamp(now.at.0)).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PRUNE_EVERY) => {}
        }
    }
}
