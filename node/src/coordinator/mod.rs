//! A coordinator: who runs what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dms3_core::alerting::Settings as AlertSettings;
use dms3_core::arming::ArmState;
use dms3_core::coordinator::{Coordinator, Input, Settings};
use dms3_core::dashboard::{LearnedDevice, MailView};
use dms3_core::id::{BootId, EventId};
use dms3_core::presence::{Device, Person, Probe};
use dms3_core::time::Now;
use dms3_core::windows::Windows;
use dms3_pki::{AUTHORITY_DIR, Authority, Identity};
use dms3_web::templates::MAIL;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::accounts::Doors;
use self::alerts::{Alerts, Faults};
use self::driver::{Driver, MailDesk};
use self::enrollment::{EnrollmentContext, Tokens};
use self::events::{Keeper, News};
use self::page::{Kept, PageContext};
use self::peers::PeersContext;
use self::phones::Phones;
use self::presence::bluetooth::{self, Bluetooth};
use self::presence::{PresenceSensors, Sensing};
use self::renewal::Renewal;
use self::roster::Roster;
use self::sightings::Sightings;
use self::stills::Stills;
use self::strangers::Strangers;
use crate::clock::Clock;
use crate::config::{Config, CoordinatorConfig};
use crate::control::Control;
use crate::health::{self, Counted};
use crate::log_tail::LogTail;
use crate::mailer::desk::DeskContext;
use crate::mailer::letters::Writer;
use crate::mailer::post::{self, Post};
use crate::mesh::discovery::{self, Advert};
use crate::mesh::endpoint::Endpoint;
use crate::mesh::keys::MeshKeys;
use crate::services::Services;
use crate::sound::{self, Sound};
use crate::store::events::MEDIA_DIR;
use crate::store::mails::MailBox;
use crate::store::media::Media;
use crate::store::{Keep, STORE_FILE, Store};

pub mod accounts;
pub mod alerts;
mod driver;
pub mod enrollment;
pub mod events;
pub mod keeping;
pub mod offences;
mod pace;
pub mod page;
pub mod peers;
pub mod phones;
pub mod presence;
pub mod renewal;
mod requests;
pub mod roster;
pub mod sightings;
pub mod stills;
pub mod strangers;
pub mod windows;

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
    log: LogTail,
    services: &mut Services,
) -> Result<()> {
    let store = Store::open(&config.state_dir).await?;
    let authority_dir = config.state_dir.join(AUTHORITY_DIR);
    ensure!(
        authority_dir.exists(),
        "{} is missing: restore it from a backup; if `dms3-node init` was cut off before its end, run it again",
        authority_dir.display()
    );
    let authority = Arc::new(Authority::open(&authority_dir).context("cannot open the house's authority")?);
    // It is needed once in years: who learns then that it is damaged has lost every backup of it.
    let root_key = authority.check_root_key().err().map(|error| format!("{error}. It is looked at again when this node starts."));
    if let Some(trouble) = &root_key {
        tracing::error!("{trouble}");
    }
    let renewal = Renewal {
        authority: watch::Sender::new(authority.clone()),
        identity: watch::Sender::new(identity),
        state_dir: config.state_dir.clone(),
        clock: clock.clone(),
    };
    // Before anybody sees it: a camera obeys no coordinator whose certificate is expired.
    if let Err(error) = renewal.look(1.0) {
        tracing::error!("{error:#}");
    }
    let (authority_in, identity_in) = (renewal.authority.subscribe(), renewal.identity.subscribe());
    let identity = identity_in.borrow().clone();
    let own_identity = identity_in.clone();
    // What SQLite cannot see: a value that makes no sense.
    let unread = || format!("{} cannot be read", config.state_dir.join(STORE_FILE).display());
    let roster = Roster::new(store.roster().await.with_context(unread)?);
    // A disarm that is over by any clock is over: here the machine's own counts, whoever vouches for it.
    let now = Now { trusted: clock.vouched_now().trusted, ..clock.now() };
    let known = store.known_addresses(clock.certain() - own.sightings_for).await.with_context(unread)?;
    let remembered = store.memory().await.with_context(unread)?;
    let windows = windows::windows(&own.windows, own.zone.as_deref()).map_err(|wrong| anyhow!("{wrong}"))?;
    let mut people = own.presence.people();
    let mut learned = store.learned().await.with_context(unread)?;
    // What stands in the config by now counts as that.
    learned.retain(|learned| !people.iter().any(|person| person.devices.contains(&learned.device)));
    for LearnedDevice { person, device, .. } in &learned {
        match people.iter_mut().find(|known| known.name == *person) {
            Some(person) => person.devices.push(device.clone()),
            // Whoever comes back to the config has it again.
            None => tracing::warn!("the learned device {device} is of somebody whom the config does not name: it counts for nobody"),
        }
    }
    let phones = Phones::new(clock.clone(), own.presence.interfaces.clone(), learned);
    phones.belong_to(&people);
    let settings = settings(own, &identity, windows, people.clone());
    let kept = remembered.map(|remembered| remembered.memory);
    let (machine, effects) = Coordinator::start(settings, kept.clone(), now);

    let control = Control::bind(&config.control_socket()).await?;
    let keys = MeshKeys::load_or_create(&config.state_dir)?;
    let endpoint = Endpoint::bind(config.mesh.listen, &keys, config.mesh.limits)?;
    let listen = endpoint.local_addr().context("the mesh port has no address")?;
    let (mesh_port, mesh_gate) = (listen.port(), endpoint.gate());
    tracing::info!("coordinator {} of house {} listens on UDP port {mesh_port}", identity.node().short(), identity.mesh());

    let (inputs, inputs_in) = mpsc::channel::<Input>(1024);
    let (requests, requests_in) = mpsc::channel(32);
    let (words, words_in) = mpsc::channel(64);
    let (state, state_in) = watch::channel(None);
    let (enroll_port, enroll_port_in) = watch::channel(None);
    // Probes nobody takes (the sensors are starting again) are lost on purpose: the rules count only those that were sent.
    let (probes, _) = tokio::sync::broadcast::channel::<Probe>(256);
    let (sensed, sensing) = watch::channel(Sensing::default());
    let stop = services.stop_token();
    let tokens = Tokens::new(store.clone(), authority, roster.clone(), clock.clone());

    let ((ids, ids_in), (missed, missed_in)) = (mpsc::channel(256), watch::channel(()));
    let keeper = Keeper::new(config.state_dir.clone(), clock.clone(), config.mail.is_some().then_some(News { ids, missed }));
    let doors = Doors::new(config.state_dir.clone(), clock.clone(), words.clone());
    let shown = watch::Sender::new(None);
    let served = Arc::new(watch::Sender::new(None));
    let (unserved, unserved_in) = watch::channel(None);
    let (soundless, soundless_in) = watch::channel(None);
    // As it was before the start: what did not change is not told. A new house is armed.
    let (armed, armed_in) = watch::channel(kept.as_ref().is_none_or(|kept| kept.state.arm_state().is_armed()));
    let desk = mailing(config, own, &keeper, (ids_in, missed_in), &clock, &identity, services);
    let driver = Driver {
        machine,
        key: identity.key().clone(),
        store: store.clone(),
        clock: clock.clone(),
        roster: roster.clone(),
        state,
        probes: probes.clone(),
        sensing,
        private_devices: own.presence.private_devices(),
        tokens: tokens.clone(),
        authority: authority_in.clone(),
        kept,
        owed: None,
        mail: desk,
        notices: BTreeMap::new(),
        lasting: root_key.map(|trouble| ("root-key".to_owned(), trouble)).into_iter().collect(),
        keeper: keeper.clone(),
        arrival_hold: own.arrival_hold,
        sightings: Sightings::default(),
        written_at: Instant::now(),
        phones: phones.clone(),
        learning: JoinSet::new(),
        lookups: JoinSet::new(),
        shown: shown.clone(),
        shown_at: None,
        doors: own.web.enabled.then(|| doors.clone()),
        served: served.subscribe(),
        unserved: unserved_in,
        armed,
        soundless: soundless_in,
    };
    let stills = Stills::default();
    let strangers = Arc::new(Strangers::default());
    services.vital("driver", driver.run(effects, inputs_in, requests_in, words_in, stop.clone()));
    services.vital(
        "peers",
        peers::run(
            PeersContext {
                endpoint,
                identity: identity_in.clone(),
                state: state_in,
                inputs: inputs.clone(),
                roster: roster.clone(),
                authority: authority_in.clone(),
                clock: clock.clone(),
                boot,
                keeper: keeper.clone(),
                stills: stills.clone(),
                strangers: strangers.clone(),
                state_dir: config.state_dir.clone(),
            },
            stop.clone(),
        ),
    );
    let (kept, told) = (keeper.clone(), words.clone());
    services.restarting("events", move |stop| kept.clone().open(told.clone(), stop), |_| {});
    if own.web.enabled {
        let (accounts, asks) = mpsc::channel(64);
        let context = PageContext {
            config: own.web.clone(),
            kept: Kept {
                events: own.events,
                decisions: own.decisions_for,
                sightings: own.sightings_for,
                mail_to: config.mail.as_ref().map(|mail| mail.to.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            },
            log,
            state_dir: config.state_dir.clone(),
            clock: clock.clone(),
            dashboard: shown,
            keeper: keeper.clone(),
            stills,
            phones: phones.clone(),
            media: Media::at(&config.state_dir.join(MEDIA_DIR)),
            requests: requests.clone(),
            accounts,
            less: doors.changes(),
            served,
            strangers: strangers.clone(),
            unserved: unserved.clone(),
        };
        let asks = Arc::new(Mutex::new(asks));
        services.restarting("accounts", move |stop| doors.clone().run(asks.clone(), stop), |_| {});
        services.restarting(
            "page",
            move |stop| page::run(context.clone(), stop),
            move |why| drop(unserved.send_replace(Some(format!("The dashboard is not served: {why}.")))),
        );
    }
    let control = Arc::new(control);
    services.restarting("control", move |stop| control.clone().run(requests.clone(), stop), |_| {});

    if let Some(sound) = config.sound() {
        let sound = Sound::new(sound.clone(), armed_in, soundless);
        services.restarting("sound", move |stop| sound::run(sound.clone(), stop), |_| {});
    }
    let told = words.clone();
    let presence_words = words.clone();
    services.restarting("renewal", move |stop| renewal::run(renewal.clone(), told.clone(), stop), |_| {});
    let enrollment = EnrollmentContext {
        strangers,
        store: store.clone(),
        authority: authority_in,
        identity: identity_in,
        roster,
        tokens,
        clock: clock.clone(),
        listen: own.enroll_listen,
        mesh_port,
        mesh_gate,
        advertise: enroll_port,
        words,
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
    let (kept, kept_for, kept_clock) = (keeper.clone(), own.events, clock.clone());
    let (me, machine_inputs, machine_clock, state_dir) = (identity.node(), inputs.clone(), clock.clone(), config.state_dir.clone());
    services.restarting(
        "health",
        move |stop| {
            let (inputs, clock) = (machine_inputs.clone(), machine_clock.clone());
            // A driver that is too busy hears the next one.
            let own = own_identity.clone();
            let tell = move |report| {
                drop(inputs.try_send(Input::Health { node: me, report }));
                drop(inputs.try_send(Input::Certificate { node: me, end: own.borrow().not_after() }));
            };
            health::run(tell, move || clock.vouched_now(), state_dir.clone(), Counted::default, stop)
        },
        |_| {},
    );
    let kept_inputs = inputs.clone();
    services.restarting("media", move |stop| keeping::run(kept.clone(), kept_for, kept_clock.clone(), kept_inputs.clone(), stop), |_| {});
    services.restarting("pruning", move |stop| prune(pruned.clone(), keeper.clone(), keep, prune_clock.clone(), stop), |_| {});

    if own.presence.enabled {
        let bluetooth = Bluetooth {
            phones: phones.clone(),
            min_rssi: own.presence.bluetooth_min_rssi,
            probes: probes.clone(),
            inputs: inputs.clone(),
            words: presence_words,
            clock: clock.clone(),
        };
        services.restarting("bluetooth", move |stop| bluetooth::run(bluetooth.clone(), stop), |_| {});
        let (learned, learned_in) = mpsc::channel(64);
        let sensors = PresenceSensors {
            config: own.presence.clone(),
            phones,
            known: known.into_iter().map(|(device, address, _)| (device, address)).collect(),
            learned,
            probes,
            told: sensed,
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

/// Starts what decides of mails and what brings them away. Neither is vital: a house that cannot mail is watched all the same.
fn mailing(
    config: &Config,
    own: &CoordinatorConfig,
    keeper: &Keeper,
    (kept, missed): (mpsc::Receiver<EventId>, watch::Receiver<()>),
    clock: &Clock,
    identity: &Identity,
    services: &mut Services,
) -> Option<MailDesk> {
    let mail = config.mail.as_ref()?;
    let mails = MailBox::new(config.state_dir.clone());
    // Not made here: whoever opens the events must see whether it is new.
    let media = Media::at(&config.state_dir.join(MEDIA_DIR));
    let (faults, faults_in) = watch::channel(Faults::default());
    let ((reason, reason_in), (arrivals, arrivals_in)) = (watch::channel(None), watch::channel(None));
    let (post, news) = watch::channel(());
    let (tests, tests_in) = mpsc::channel(1);
    let (counts, counts_in) = watch::channel(MailView::default());
    let (unmade, unmade_in) = watch::channel(None);
    let (unsent, unsent_in) = watch::channel(None);
    let templates = MAIL.templates(mail.template_dir.clone());
    let may_disarm = own.presence.presence_may_disarm;
    let hold_in = [(ArmState::Away, may_disarm.away_may()), (ArmState::Night, may_disarm.night_may())];
    let hold_in = hold_in.into_iter().filter(|(_, may)| *may && own.presence.enabled).map(|(state, _)| state).collect();
    let desk = DeskContext {
        settings: AlertSettings { hold: own.arrival_hold, hold_in, ..mail.rules.clone() },
        mails: mails.clone(),
        writer: Writer::new(mail, templates, media.clone()),
        clock: clock.clone(),
        machine: crate::mailer::desk::machine().unwrap_or_else(|| "the coordinator".to_owned()),
        post,
    };
    let alerts = Alerts {
        desk,
        keeper: keeper.clone(),
        kept: Arc::new(Mutex::new(kept)),
        missed,
        faults: faults_in,
        heard: Arc::default(),
        reason: reason_in,
        arrivals: arrivals_in,
        tests: Arc::new(Mutex::new(tests_in)),
        trouble: unmade.clone(),
    };
    services.restarting(
        "alerts",
        move |stop| alerts::run(alerts.clone(), stop),
        move |why| drop(unmade.send_replace(Some(format!("Nobody is mailed what is seen or wrong: {why}.")))),
    );
    let bringer = Post {
        config: Arc::new(mail.clone()),
        mails,
        media: media.clone(),
        clock: clock.clone(),
        house: identity.mesh().to_string(),
        news,
        counts,
        sent: None,
        trouble: unsent.clone(),
    };
    services.restarting(
        "mailer",
        move |stop| post::deliver(bringer.clone(), stop),
        move |why| drop(unsent.send_replace(Some(format!("No mail is brought away: {why}.")))),
    );
    Some(MailDesk { faults, reason, arrivals, counts: counts_in, troubles: [unmade_in, unsent_in], tests })
}

/// What the rules know of the config.
fn settings(own: &CoordinatorConfig, identity: &Identity, windows: Windows, people: Vec<Person>) -> Settings {
    Settings {
        mesh: identity.mesh(),
        me: identity.node(),
        machine: health::facts(),
        windows,
        presence_enabled: own.presence.enabled,
        people,
        may_disarm_away: own.presence.presence_may_disarm.away_may(),
        may_disarm_night: own.presence.presence_may_disarm.night_may(),
        exit_delay: own.exit_delay,
        blind_alert_after: own.presence.blind_alert_after,
        arm_when_blind_after: own.presence.arm_when_blind_after,
    }
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
                if let Err(error) = store.remember_address(&device, address, clock.vouched_now().at).await {
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

async fn prune(store: Store, keeper: Keeper, keep: Keep, clock: Clock, stop: CancellationToken) -> Result<()> {
    loop {
        // A clock that jumps drops nothing.
        let now = clock.certain();
        store.prune(keep, now).await?;
        keeper.room().await?.events.prune(now - keep.decisions).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PRUNE_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::arming::ArmState;
    use dms3_core::coordinator::MemoryV1;
    use dms3_core::presence::Presence;
    use dms3_pki::{KEY_FILE, NodeKey};

    use super::*;
    use crate::config::Role;
    use crate::control::ask;
    use crate::mesh::testing::{DAY, eventually};
    use crate::store::events::EVENTS_FILE;
    use dms3_core::request::{Answer, Request};

    /// The state directory of a house that was founded so long ago, with a certificate of that age.
    async fn founded(age: Duration, clock: &Clock) -> (tempfile::TempDir, Config, Identity) {
        let dir = tempfile::tempdir().unwrap();
        let then = clock.now().at - age;
        let authority = Authority::create(&dir.path().join(AUTHORITY_DIR), then).unwrap();
        let key = Arc::new(NodeKey::generate().unwrap());
        key.save_new(&dir.path().join(KEY_FILE)).unwrap();
        let identity = authority.own_identity(key, then).unwrap();
        identity.store(dir.path()).unwrap();
        Store::create(dir.path()).await.unwrap().close().await;
        let text = format!(
            "role = \"coordinator\"\nstate_dir = {0:?}\nrun_dir = {0:?}\n[mesh]\nlisten = \"127.0.0.1:0\"\nmdns = \"off\"\n\
             [web]\nenabled = false\n[coordinator]\nenroll_listen = \"127.0.0.1:0\"\n[coordinator.presence]\nenabled = false\n",
            dir.path().display().to_string()
        );
        let config = Config::parse(&text, &dir.path().join("dms3.toml")).unwrap();
        (dir, config, identity)
    }

    async fn started(config: &Config, identity: Identity, clock: &Clock) -> Services {
        let Role::Coordinator(own) = &config.role else { panic!("a coordinator") };
        let mut services = Services::default();
        start(config, own, identity, BootId([1; 4]), clock.clone(), LogTail::default(), &mut services).await.unwrap();
        services
    }

    async fn status(config: &Config) -> dms3_core::dashboard::Dashboard {
        let mut house = None;
        eventually("it answers", async || {
            house = ask(&config.control_socket(), &Request::Status).await.ok();
            house.is_some()
        })
        .await;
        match house.unwrap() {
            Answer::House(house) => *house,
            other => panic!("{other:?}"),
        }
    }

    /// One thread: no service has run yet when `start` returns.
    #[tokio::test]
    async fn a_coordinator_that_was_off_for_too_long_renews_its_certificate_before_anybody_sees_it() {
        let clock = Clock::alone();
        let (dir, config, identity) = founded(100 * DAY, &clock).await;
        let _services = started(&config, identity, &clock).await;
        assert!(Identity::load(dir.path()).unwrap().unwrap().not_after() > clock.now().at + 89 * DAY);
    }

    #[tokio::test]
    async fn a_house_whose_certificates_will_end_says_when_and_what_to_do() {
        let clock = Clock::alone();
        let (dir, config, identity) = founded(1500 * DAY, &clock).await;
        let root = dir.path().join(AUTHORITY_DIR).join("root.key");
        std::fs::rename(&root, dir.path().join("away")).unwrap();
        let _services = started(&config, identity, &clock).await;
        let house = status(&config).await;
        assert!(house.problems.iter().any(|problem| problem.contains("dms3-node ca import-root")), "{:?}", house.problems);
        assert_eq!((house.notes, house.presence), (Vec::<String>::new(), Presence::Unknown));

        std::fs::rename(dir.path().join("away"), &root).unwrap();
        let house = status(&config).await;
        assert_eq!(house.problems, Vec::<String>::new());
        assert!(house.notes[0].contains("dms3-node ca export-root"), "{:?}", house.notes);
    }

    #[tokio::test]
    async fn a_house_that_cannot_mail_is_watched_all_the_same_and_says_so() {
        let clock = Clock::alone();
        let (dir, _, identity) = founded(DAY, &clock).await;
        let mail = "[mail]\nserver = \"127.0.0.1\"\nsecurity = \"none\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n";
        let text = format!(
            "role = \"coordinator\"\nstate_dir = {0:?}\nrun_dir = {0:?}\n[mesh]\nlisten = \"127.0.0.1:0\"\nmdns = \"off\"\n{mail}\
             [coordinator]\nenroll_listen = \"127.0.0.1:0\"\n[coordinator.presence]\nenabled = false\n",
            dir.path().display().to_string()
        );
        let config = Config::parse(&text, &dir.path().join("dms3.toml")).unwrap();
        // No database can be made there.
        std::fs::create_dir(dir.path().join("mail.db")).unwrap();
        let _services = started(&config, identity, &clock).await;
        eventually("it says so", async || {
            let problems = status(&config).await.problems;
            let says = |words: &str| problems.iter().any(|problem| problem.contains(words));
            says("Nobody is mailed what is seen") && says("No mail is brought away")
        })
        .await;
        std::fs::remove_dir(dir.path().join("mail.db")).unwrap();
        eventually("it mails again", async || status(&config).await.problems.is_empty()).await;
    }

    #[tokio::test]
    async fn a_house_whose_page_or_root_key_is_damaged_is_watched_all_the_same_and_says_so() {
        let clock = Clock::alone();
        let (dir, _, identity) = founded(DAY, &clock).await;
        let text = format!(
            "role = \"coordinator\"\nstate_dir = {0:?}\nrun_dir = {0:?}\n[mesh]\nlisten = \"127.0.0.1:0\"\nmdns = \"off\"\n\
             [web]\nlisten = \"127.0.0.1:0\"\n[coordinator]\nenroll_listen = \"127.0.0.1:0\"\n[coordinator.presence]\nenabled = false\n",
            dir.path().display().to_string()
        );
        let config = Config::parse(&text, &dir.path().join("dms3.toml")).unwrap();
        let web = dir.path().join("web");
        std::fs::create_dir(&web).unwrap();
        std::fs::write(web.join("ca.crt"), "torn").unwrap();
        dms3_pki::files::write_atomic(&dir.path().join(AUTHORITY_DIR).join("root.key"), b"torn", 0o600).unwrap();
        let _services = started(&config, identity, &clock).await;
        let says =
            async |words: &[&str]| status(&config).await.problems.iter().any(|problem| words.iter().all(|words| problem.contains(words)));
        eventually("it says so", async || says(&["The dashboard is not served: ", "web/ca.crt is damaged"]).await).await;
        assert!(says(&["ca/root.key is damaged", "Restore it from a backup"]).await);
        std::fs::remove_dir_all(web).unwrap();
        eventually("it is served", async || !says(&["The dashboard"]).await).await;
    }

    #[tokio::test]
    async fn a_clock_that_nobody_vouches_for_is_a_problem_until_a_person_accepts_it() {
        let clock = Clock::alone();
        let (_dir, config, identity) = founded(DAY, &clock).await;
        clock.forget(clock.now().at - 60 * DAY);
        let _services = started(&config, identity, &clock).await;
        let house = status(&config).await;
        assert!(!house.clock_trusted && house.problems.iter().any(|problem| problem.contains("dms3-node time accept")), "{house:?}");
        let Answer::Done(words) = ask(&config.control_socket(), &Request::TimeAccept).await.unwrap() else { panic!("done") };
        assert!(words.contains("taken as right"), "{words}");
        let house = status(&config).await;
        assert!(house.clock_trusted && house.problems.is_empty(), "{house:?}");
        let store = Store::open(&config.state_dir).await.unwrap();
        let audit = store.audit(clock.floor() - DAY).await.unwrap();
        assert!(audit.iter().any(|entry| entry.kind == dms3_core::request::AuditKind::TimeAccepted), "who did is written down: {audit:?}");
    }

    #[tokio::test]
    async fn a_disarm_that_is_over_by_the_machines_clock_is_over_although_nobody_vouches_for_that() {
        let clock = Clock::alone();
        let (dir, _, identity) = founded(DAY, &clock).await;
        let text = format!(
            "role = \"coordinator\"\nstate_dir = {0:?}\nrun_dir = {0:?}\n[mesh]\nlisten = \"127.0.0.1:0\"\nmdns = \"off\"\n[web]\nenabled = false\n\
             [coordinator]\nenroll_listen = \"127.0.0.1:0\"\n[coordinator.presence]\ninterfaces = [\"none\"]\n\
             [[coordinator.presence.person]]\nname = \"anna\"\ndevices = [\"24:da:9b:00:00:01\"]\n",
            dir.path().display().to_string()
        );
        let config = Config::parse(&text, &dir.path().join("dms3.toml")).unwrap();
        // It was switched off 40 days ago, and no time server is reached since.
        let then = clock.now().at - 40 * DAY;
        let state = dms3_core::protocol::message::StateV1 {
            mesh: identity.mesh(),
            epoch: 0,
            rev: 5,
            state: ArmState::Disarmed.to_wire(),
            reason: "anna is home".to_owned(),
            since: then,
            until: Some(then + Duration::from_secs(12 * 3600)),
            windows: Vec::new(),
            zone: "UTC".to_owned(),
        };
        let (reason, by_presence) = (state.reason.clone(), state.state);
        let signed = dms3_pki::sign_state(identity.key(), &state).unwrap();
        let memory = MemoryV1 { state, reason, over: None, pending: None, by_presence, restored: false, by_window: 0 };
        let store = Store::open(dir.path()).await.unwrap();
        store.save(&memory, &signed, &[], then).await.unwrap();
        store.close().await;
        clock.forget(then);
        let _services = started(&config, identity, &clock).await;
        assert_eq!(status(&config).await.state, ArmState::Away);
    }

    #[tokio::test]
    async fn a_house_whose_events_are_damaged_guards_all_the_same_and_says_so() {
        let clock = Clock::alone();
        let (dir, config, identity) = founded(DAY, &clock).await;
        std::fs::write(dir.path().join(EVENTS_FILE), vec![b'x'; 20_000]).unwrap();
        let _services = started(&config, identity, &clock).await;
        eventually("it is a problem", async || status(&config).await.problems.iter().any(|problem| problem.contains("events.damaged-1")))
            .await;
        let request = Request::Events { filter: dms3_core::event::EventFilter::default() };
        let Answer::Events(events) = ask(&config.control_socket(), &request).await.unwrap() else { panic!("events") };
        assert_eq!(events, []);
    }

    #[tokio::test]
    async fn nothing_is_dropped_by_a_clock_that_nobody_vouches_for() {
        let dir = tempfile::tempdir().unwrap();
        let (store, clock, stop) = (Store::create(dir.path()).await.unwrap(), Clock::alone(), CancellationToken::new());
        stop.cancel();
        let keep = Keep { audit: Duration::from_secs(30 * 86400), ..Keep::default() };
        let then = clock.now().at - Duration::from_secs(200 * 86400);
        store.time_accepted(then, "anna").await.unwrap();
        clock.forget(then);
        let keeper = Keeper::new(dir.path().to_owned(), clock.clone(), None);
        prune(store.clone(), keeper.clone(), keep, clock.clone(), stop.clone()).await.unwrap();
        assert_eq!(store.audit(then).await.unwrap().len(), 1);
        clock.accept().unwrap();
        prune(store.clone(), keeper, keep, clock, stop).await.unwrap();
        assert_eq!(store.audit(then).await.unwrap(), [], "and by one that a person vouches for it is");
    }
}
