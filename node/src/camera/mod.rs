//! A camera node: who runs what.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use dms3_core::camera::{Settings, SourceSettings};
use dms3_core::dashboard::MailView;
use dms3_core::id::BootId;
use dms3_core::protocol::message::{DetectorReportV1, OutboxV1, SignedStateV1};
use dms3_pki::Identity;
use dms3_web::templates::MAIL;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::alerts::{Alerts, MailAfter};
use self::detector::{DetectorConfig, Hooks, Look, Spawner, WatchOrder};
use self::driver::{Driver, MailDesk, Source};
use self::intake::Intake;
use self::outbox::{Place, Wire};
use self::uplink::{LinkStatus, UplinkContext};
use crate::clock::Clock;
use crate::config::{CameraConfig, Config};
use crate::control::Control;
use crate::health::{self, Counted};
use crate::hook::{self, HookSocket};
use crate::mailer::MailConfig;
use crate::mailer::desk::{self, DeskContext};
use crate::mailer::letters::Writer;
use crate::mailer::post;
use crate::mesh::endpoint::Endpoint;
use crate::mesh::keys::MeshKeys;
use crate::services::Services;
use crate::sound::{self, Sound};
use crate::spool;
use crate::store::mails::MailBox;
use crate::store::media::Media;

pub mod alerts;
pub mod detector;
mod driver;
pub mod enrollment;
pub mod intake;
mod looks;
pub(crate) mod memory;
pub mod outbox;
mod revocation;
pub mod uplink;

/// The place of one source's detector: what it is told, and where it says what it does.
#[derive(Debug)]
pub struct Post {
    pub config: DetectorConfig,
    pub orders: watch::Receiver<WatchOrder>,
    pub report: watch::Sender<DetectorReportV1>,
    /// Who wants to see what it sees.
    pub looks: mpsc::Receiver<Look>,
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
        detector::run(post, move || clock.now(), (state_dir.clone(), hooks.clone()), spawner.clone(), stop)
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
    let mut looked_at = HashMap::new();
    for detector in &own.detectors {
        let (order, orders) = watch::channel(WatchOrder::default());
        let (report, reports) = watch::channel(detector::first_report(detector, clock.now().at));
        let (look, looks) = mpsc::channel(2);
        looked_at.insert(detector.name.clone(), look);
        services.vital("detector", man(Post { config: detector.clone(), orders, report, looks }, stop.clone()));
        sources.push(Source { name: detector.name.clone(), order, reports });
    }

    let own_dir = |detector: &DetectorConfig| detector.own_media_dir(&config.state_dir);
    let media_dirs = own.detectors.iter().map(|detector| (detector.name.clone(), own_dir(detector))).collect();
    let mails_all = config.mail.is_some() && own.mail_after == MailAfter::Always;
    let first = own.detectors.first().map_or("cam", |detector| detector.name.as_str());
    let place =
        Place { state_dir: config.state_dir.clone(), config: own.outbox, first_source: first.to_owned(), mails_all, clock: clock.clone() };
    // Opened by its service: a camera that was rebooted watches before a long outbox is read.
    let (kept, kept_in) = watch::channel(None);
    let hook = Arc::new(HookSocket::bind(&config.run_dir.join(hook::SOCKET))?);
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    let (inputs, inputs_in) = mpsc::channel(64);
    let (requests, requests_in) = mpsc::channel(16);
    let (ack, acks) = watch::channel(None);
    let (detectors, detectors_in) = watch::channel(dms3_core::protocol::message::DetectorsV1 { sources: Vec::new() });
    let (health, health_in) = watch::channel(None);
    let (link, link_in) = watch::channel(uplink::LinkStatus {
        name: uplink::known_name(&config.state_dir),
        revoked: revocation::is_marked(&config.state_dir),
        ..uplink::LinkStatus::default()
    });
    let unknown = Arc::new(AtomicU64::new(0));
    let (held, held_in) = watch::channel(memory.held());
    let (carrier, link_up) = watch::channel(None);
    let (answers, answers_in) = mpsc::channel(64);
    let (looks, looks_in) = mpsc::channel(16);
    let lookers = looks::Looks {
        asked: Arc::new(Mutex::new(looks_in)),
        sources: Arc::new(looked_at),
        reports: detectors_in.clone(),
        link: link_up.clone(),
    };
    let (counts, counts_in) = watch::channel(OutboxV1::default());
    if let Err(error) = spool::make(&own.spool_dir) {
        tracing::warn!(
            "hooks that are called while this node does not run have no place: cannot make {}: {error:#}",
            own.spool_dir.display()
        );
    }
    let intake = Intake::new(kept_in.clone(), clock.clone(), media_dirs, acks.clone(), own.spool_dir.clone());
    let identity_node = identity.node();
    tracing::info!("camera {} of house {}, its detectors: {}", identity_node.short(), identity.mesh(), names.join(", "));

    let mail = config.mail.as_ref().map(|mail| {
        let wires = MailWires { kept: kept_in.clone(), link: link_in.clone(), held: held_in.clone() };
        mailing(config, own, mail, identity.mesh().to_string(), &clock, wires, services)
    });
    let ((armed, armed_in), (soundless, soundless_in)) = (watch::channel(machine.effective().is_armed()), watch::channel(None));
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
        mail,
        outbox: counts_in.clone(),
        disk_trouble: None,
        armed,
        soundless: soundless_in,
    };
    if let Some(sound) = config.sound() {
        let sound = Sound::new(sound.clone(), armed_in, soundless);
        services.restarting("sound", move |stop| sound::run(sound.clone(), stop), |_| {});
    }
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
                looks,
            },
            stop.clone(),
        ),
    );
    // What is seen must not be lost: without these two a camera is none.
    let taken = intake.clone();
    services.vital("hook", hook.run(move |call, file| taken.clone().take(call, file), stop.clone()));
    let wire = Wire { link: link_up, answers: answers_in, counts };
    services.vital("outbox", outbox::run(place, kept, wire, stop.clone()));
    services.restarting("looks", move |stop| lookers.clone().run(stop), |_| {});
    let behind = intake.clone();
    services.restarting("spool", move |stop| intake.clone().empty_spool(stop), |_| {});
    services.restarting("left behind", move |stop| behind.clone().look_behind(stop), |_| {});
    let control = Arc::new(control);
    services.restarting("control", move |stop| control.clone().run(requests.clone(), stop), |_| {});
    let (state_dir, health_clock, mails) = (config.state_dir.clone(), clock.clone(), config.mail.is_some());
    let spool_dir = own.spool_dir.clone();
    services.restarting(
        "health",
        move |stop| {
            let (health, clock, unknown, counts) = (health.clone(), health_clock.clone(), unknown.clone(), counts_in.clone());
            let spool_dir = spool_dir.clone();
            let counted = move || Counted {
                unknown_frames: unknown.load(Ordering::Relaxed),
                outbox: *counts.borrow(),
                mails,
                spool: spool::waiting(&spool_dir),
            };
            let tell = move |report| {
                health.send_replace(Some(report));
            };
            health::run(tell, move || clock.now(), state_dir.clone(), counted, stop)
        },
        |_| {},
    );
    services.restarting("clock", move |stop| clock.clone().keep(stop), |_| {});
    Ok(())
}

/// What binds the mails of a camera to all else.
struct MailWires {
    kept: watch::Receiver<Option<outbox::Kept>>,
    link: watch::Receiver<LinkStatus>,
    held: watch::Receiver<Option<SignedStateV1>>,
}

/// Starts what mails by itself. None of it is vital: a camera that cannot mail watches all the same.
fn mailing(
    config: &Config,
    own: &CameraConfig,
    mail: &MailConfig,
    house: String,
    clock: &Clock,
    wires: MailWires,
    services: &mut Services,
) -> MailDesk {
    let MailWires { kept, link, held } = wires;
    let mails = MailBox::new(config.state_dir.clone());
    let media = Media::at(&config.state_dir.join(outbox::MEDIA_DIR));
    let (post, news) = watch::channel(());
    let (tests, tests_in) = mpsc::channel(1);
    let (sent, sent_in) = mpsc::channel(64);
    let (counts, counts_in) = watch::channel(MailView::default());
    let (unmade, unmade_in) = watch::channel(None);
    let (unsent, unsent_in) = watch::channel(None);
    let alerts = Alerts {
        desk: DeskContext {
            settings: mail.rules.clone(),
            mails: mails.clone(),
            writer: Writer::new(mail, MAIL.templates(mail.template_dir.clone()), media.clone()),
            clock: clock.clone(),
            machine: desk::machine().unwrap_or_else(|| "a camera".to_owned()),
            post,
        },
        after: own.mail_after,
        lost_after: own.lost_alert_after,
        kept,
        link: link.clone(),
        held,
        tests: Arc::new(Mutex::new(tests_in)),
        sent: Arc::new(Mutex::new(sent_in)),
        trouble: unmade.clone(),
    };
    let allowed = link.clone();
    services.restarting(
        "alerts",
        move |stop| {
            let alerts = alerts.clone();
            revocation::unless_revoked(allowed.clone(), move |stop| alerts::run(alerts.clone(), stop), stop)
        },
        move |why| drop(unmade.send_replace(Some(format!("This camera mails nothing: {why}.")))),
    );
    let bringer = post::Post {
        config: Arc::new(mail.clone()),
        mails: mails.clone(),
        media,
        clock: clock.clone(),
        house,
        news,
        counts,
        sent: Some(sent),
        trouble: unsent.clone(),
    };
    let allowed = link.clone();
    services.restarting(
        "mailer",
        move |stop| {
            let bringer = bringer.clone();
            revocation::unless_revoked(allowed.clone(), move |stop| post::deliver(bringer.clone(), stop), stop)
        },
        move |why| drop(unsent.send_replace(Some(format!("No mail is brought away: {why}.")))),
    );
    let password_file = mail.login.as_ref().and_then(|login| login.password.file());
    services.restarting(
        "mail secrets",
        move |stop| revocation::forget_secrets(link.clone(), mails.clone(), password_file.clone(), stop),
        |_| {},
    );
    MailDesk { counts: counts_in, troubles: [unmade_in, unsent_in], tests }
}

/// Whether this machine was paired.
pub fn is_enrolled(state_dir: &Path) -> Result<bool> {
    Ok(Identity::load(state_dir)?.is_some())
}
