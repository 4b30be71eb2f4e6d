//! Long stories of one house in one process: its real services and certificates, and clocks that the test sets.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::accounts::{Role as Right, Visit};
use dms3_core::arming::ArmState;
use dms3_core::coordinator::{Command, Input};
use dms3_core::dashboard::Dashboard;
use dms3_core::event::{Event, EventFilter, EventKind, OwnMail};
use dms3_core::id::{BootId, EventId};
use dms3_core::protocol::message::DetectorsV1;
use dms3_core::request::{Answer, AuditKind, CameraStatus, Request};
use dms3_core::roster::NodeStatus;
use dms3_core::time::Timestamp;
use dms3_pki::{AUTHORITY_DIR, Authority, Identity, KEY_FILE, NodeKey};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::camera;
use crate::camera::uplink::{self, LinkStatus, UplinkContext};
use crate::clock::{Clock, StandStill};
use crate::config::{Config, Role};
use crate::control::ask;
use crate::coordinator;
use crate::coordinator::events::Keeper;
use crate::coordinator::peers::{self, PeersContext};
use crate::coordinator::renewal::{self, Renewal};
use crate::coordinator::roster::Roster;
use crate::coordinator::stills::Stills;
use crate::log_tail::LogTail;
use crate::mesh::testing::{DAY, House, endpoint, eventually, row};
use crate::mesh::{MdnsMode, MeshConfig};
use crate::services::Services;
use crate::store::Store;
use crate::store::accounts::Accounts;
use crate::store::events::{Events, MEDIA_DIR};
use crate::store::media::Media;

/// As time passes: a link on which nothing moves lives longer, ...
const STEP: Duration = Duration::from_millis(2500);
/// ...and what was heard is acknowledged sooner.
const ACKNOWLEDGED: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3600);

/// An hour of all that waits, with what is said on the way.
async fn an_hour_passes(clocks: [&Clock; 2]) {
    let mut left = HOUR;
    while !left.is_zero() {
        let step = STEP.min(left);
        left -= step;
        for part in [step - ACKNOWLEDGED, ACKNOWLEDGED] {
            tokio::time::advance(part).await;
            clocks.iter().for_each(|clock| clock.pass(part));
            // What asks and answers meanwhile needs a moment that is real.
            for _ in 0..6 {
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn for_half_a_year_both_roles_renew_their_certificates_again_and_again_and_the_link_stays() {
    let house = House::new();
    let (own_clock, cameras_clock) = (house.clock.clone(), Clock::apart(house.clock.announced()));
    let own_dir = house.state_dir(&house.coordinator);
    let porch = house.camera();
    let dir = house.state_dir(&porch);
    let (stop, mut services) = (CancellationToken::new(), JoinSet::<Result<()>>::new());

    let (authority, identity) = (watch::Sender::new(house.authority.clone()), watch::Sender::new(house.coordinator.clone()));
    let port = endpoint();
    let address = port.local_addr().unwrap();
    let (inputs, mut told) = mpsc::channel(1024);
    let (_state, state) = watch::channel(Some(Arc::new(house.signed(1))));
    let media = tempfile::tempdir().unwrap();
    let context = PeersContext {
        endpoint: port,
        identity: identity.subscribe(),
        state,
        inputs,
        roster: Roster::new(vec![row(&porch, "porch", NodeStatus::Active)]),
        authority: authority.subscribe(),
        clock: own_clock.clone(),
        boot: BootId([9; 4]),
        keeper: Keeper::new(media.path().to_owned(), own_clock.clone(), None),
        stills: Stills::default(),
        strangers: Arc::default(),
        state_dir: own_dir.path().to_owned(),
    };
    services.spawn(peers::run(context, stop.clone()));
    let renewal = Renewal {
        authority: authority.clone(),
        identity: identity.clone(),
        state_dir: own_dir.path().to_owned(),
        clock: own_clock.clone(),
    };
    services.spawn(renewal::run(renewal, mpsc::channel(1).0, stop.clone()));

    let (inputs, mut heard) = mpsc::channel(1024);
    let (_acks, acks) = watch::channel(None);
    let (_detectors, detectors) = watch::channel(DetectorsV1 { sources: Vec::new() });
    let (_health, health) = watch::channel(None);
    let (_held, held) = watch::channel(None);
    let (status, link) = watch::channel(LinkStatus::default());
    let context = UplinkContext {
        endpoint: endpoint(),
        identity: porch.clone(),
        state_dir: dir.path().to_owned(),
        mesh: MeshConfig { peers: vec![address.to_string()], mdns: MdnsMode::Off, ..MeshConfig::default() },
        boot: BootId([1; 4]),
        inputs,
        acks,
        detectors,
        health,
        held,
        sources: vec!["porch".to_owned()],
        status,
        clock: cameras_clock.clone(),
        unknown: Arc::default(),
        carrier: watch::Sender::new(None),
        answers: mpsc::channel(1).0,
        looks: mpsc::channel(1).0,
    };
    services.spawn(uplink::run(context, stop.clone()));
    eventually("they are linked", async || link.borrow().linked.is_some()).await;

    let time = StandStill::begin();
    let own_leaf = || Identity::load(own_dir.path()).unwrap().unwrap();
    let cameras_leaf = || Identity::load(dir.path()).unwrap().unwrap();
    let (mut own_leafs, mut cameras_leafs) = (vec![own_leaf().not_after()], vec![cameras_leaf().not_after()]);
    for days in (15..=180).step_by(15) {
        [&own_clock, &cameras_clock].iter().for_each(|clock| clock.pass(15 * DAY - HOUR));
        an_hour_passes([&own_clock, &cameras_clock]).await;
        for (who, leafs, end) in
            [("the coordinator", &mut own_leafs, own_leaf().not_after()), ("the camera", &mut cameras_leafs, cameras_leaf().not_after())]
        {
            assert!(end.since(own_clock.announced()) > 20 * DAY, "{who} has too little left after {days} days");
            if leafs.last() != Some(&end) {
                leafs.push(end);
            }
        }
    }
    // A third of 90 days, and a tenth of that sooner or later; looked at every 15 days.
    for leafs in [&own_leafs, &cameras_leafs] {
        assert!((4..=8).contains(&leafs.len()), "{leafs:?}");
    }
    assert_eq!(own_leaf().leaf(), identity.borrow().leaf());
    let (mut ups, mut certificates) = (0, Vec::new());
    while let Ok(input) = told.try_recv() {
        match input {
            Input::LinkUp { .. } => ups += 1,
            Input::Certificate { end, .. } => certificates.push(end),
            Input::LinkDown { .. } => panic!("the link ended"),
            _ => {}
        }
    }
    assert_eq!(ups, 1);
    assert_eq!(certificates, cameras_leafs[1..], "the rules know each");

    // What they began with is long expired: only with what they have now can they meet anew, and neither was restarted.
    assert!(own_leafs[0] < own_clock.announced() && cameras_leafs[0] < own_clock.announced());
    own_clock.set_ahead(10 * 60_000);
    an_hour_passes([&own_clock, &cameras_clock]).await;
    time.end().await;
    eventually("they meet anew", async || link.borrow().linked.is_some() && told.len() >= 2).await;
    assert!(matches!(told.try_recv(), Ok(Input::LinkDown { .. })), "links are made anew when the time was set");
    let end = std::iter::from_fn(|| told.try_recv().ok()).find_map(|input| match input {
        Input::LinkUp { cert_end, .. } => Some(cert_end),
        _ => None,
    });
    assert_eq!(end.as_ref(), cameras_leafs.last());
    assert!(std::iter::from_fn(|| heard.try_recv().ok()).filter(|input| *input == dms3_core::camera::Input::LinkUp).count() >= 2);
    assert!(cameras_clock.now().at.since(own_clock.announced()) < HOUR);
    stop.cancel();
    while let Some(ended) = services.join_next().await {
        ended.unwrap().unwrap();
    }
}

/// A coordinator and one camera, paired long ago, each with a machine and a clock of its own.
struct Two {
    coordinator: (TempDir, Config, Clock),
    porch: (TempDir, Config, Clock),
}

impl Two {
    async fn found() -> Self {
        let (own_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Clock::alone().now().at;
        let authority = Authority::create(&own_dir.path().join(AUTHORITY_DIR), now).unwrap();
        let key = Arc::new(NodeKey::generate().unwrap());
        key.save_new(&own_dir.path().join(KEY_FILE)).unwrap();
        let own = authority.own_identity(key, now).unwrap();
        own.store(own_dir.path()).unwrap();
        let key = Arc::new(NodeKey::generate().unwrap());
        key.save_new(&dir.path().join(KEY_FILE)).unwrap();
        let leaf = authority.issue(&key.csr().unwrap(), dms3_core::roster::NodeRole::Camera, &key.id(), now).unwrap();
        let bundle = own.bundle().as_ref().clone();
        let porch = Identity::new(key, leaf, authority.issuing_der().to_vec(), bundle, now).unwrap();
        porch.store(dir.path()).unwrap();
        let store = Store::create(own_dir.path()).await.unwrap();
        for (identity, name) in [(&own, "house"), (&porch, "porch")] {
            store.add_node(&row(identity, name, NodeStatus::Active)).await.unwrap();
        }
        // It stays for a year.
        store.time_accepted(now - 360 * DAY, "anna").await.unwrap();
        store.close().await;
        let mdns = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mesh = format!("[mesh]\nlisten = \"127.0.0.1:0\"\nmdns = \"loopback\"\nmdns_port = {mdns}\n");
        let config = |role: &str, dir: &Path, sections: &str| {
            let text = format!("role = {role:?}\nstate_dir = {0:?}\nrun_dir = {0:?}\n{mesh}{sections}", dir.display().to_string());
            Config::parse(&text, &dir.join("dms3.toml")).unwrap()
        };
        let sections = "[web]\nlisten = \"127.0.0.1:0\"\n[coordinator]\nenroll_listen = \"127.0.0.1:0\"\ndecisions_for = \"30d\"\n\
                        [coordinator.presence]\nenabled = false\n";
        let own_config = config("coordinator", own_dir.path(), sections);
        let spool = dir.path().join("spool");
        let sections = format!("[camera]\nspool_dir = {spool:?}\n");
        let config = config("camera", dir.path(), &sections);
        let (own_clock, clock) = (Clock::alone_at(own_dir.path()), Clock::alone_at(dir.path()));
        for clock in [&own_clock, &clock] {
            clock.accept().unwrap();
        }
        Self { coordinator: (own_dir, own_config, own_clock), porch: (dir, config, clock) }
    }

    async fn coordinator_runs(&self) -> Services {
        let (dir, config, clock) = &self.coordinator;
        let Role::Coordinator(own) = &config.role else { panic!("a coordinator") };
        let (identity, mut services) = (Identity::load(dir.path()).unwrap().unwrap(), Services::default());
        coordinator::start(config, own, identity, BootId(rand::random()), clock.clone(), LogTail::default(), &mut services).await.unwrap();
        services
    }

    async fn porch_runs(&self) -> Services {
        let (dir, config, clock) = &self.porch;
        let Role::Camera(own) = &config.role else { panic!("a camera") };
        let (identity, mut services) = (Identity::load(dir.path()).unwrap().unwrap(), Services::default());
        let man = |post: camera::Post, stop: CancellationToken| async move {
            stop.cancelled().await;
            drop(post);
            Ok(())
        };
        camera::start_with(config, own, identity, BootId(rand::random()), clock.clone(), &mut services, man).await.unwrap();
        services
    }

    async fn asked(&self, request: Request) -> Option<Dashboard> {
        match ask(&self.coordinator.1.control_socket(), &request).await {
            Ok(Answer::House(house)) => Some(*house),
            _ => None,
        }
    }

    async fn porch(&self) -> Option<CameraStatus> {
        match ask(&self.porch.1.control_socket(), &Request::Status).await {
            Ok(Answer::Camera(camera)) => Some(*camera),
            _ => None,
        }
    }

    async fn agree(&self, state: ArmState) {
        eventually("the camera does as the house says", async || {
            let (house, porch) = (self.asked(Request::Status).await, self.porch().await);
            house.is_some_and(|house| house.state == state && house.nodes.iter().all(|node| node.current))
                && porch.is_some_and(|porch| porch.effective == state && !porch.raised)
        })
        .await;
    }

    async fn chooses(&self, state: ArmState) {
        let command = match state {
            ArmState::Disarmed => Command::Disarm { until: None, stays: false },
            state => Command::Arm { state, until: None, now: true, stays: false },
        };
        self.asked(Request::Command(command)).await.expect("it is obeyed");
        self.agree(state).await;
    }
}

async fn ends(services: Services) {
    services.run(std::future::ready(())).await.unwrap();
}

/// What was seen so long ago.
fn movement(at: Timestamp, number: u8) -> Event {
    Event {
        id: EventId::new(at, [number; 10]),
        source: "porch".to_owned(),
        kind: EventKind::Movement,
        started: at,
        started_since_boot: None,
        ended: Some(at),
        changed: Some(7),
        state: ArmState::Away,
        attachments: Vec::new(),
        rev: 1,
        own_mail: OwnMail::None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hours_in_2099_cost_a_house_nothing_and_it_needs_nobody_when_the_clock_is_right_again() {
    let two = Two::found().await;
    let (dir, _, clock) = &two.coordinator;
    let now = clock.now().at;
    // The oldest evidence that is kept has an hour to live yet.
    let (events, media) = (Events::open(dir.path()).await.unwrap().events, Media::open(&dir.path().join(MEDIA_DIR)).unwrap());
    let porch = Identity::load(two.porch.0.path()).unwrap().unwrap().node();
    for (number, at) in [(1, now - 30 * DAY + 6 * HOUR), (2, now - DAY)] {
        events.keep_event(&media, porch, "porch", &movement(at, number), at, at).await.unwrap();
    }
    events.close().await;
    let accounts = Accounts::open(dir.path()).await.unwrap().accounts;
    accounts.add("Ann", Right::Owner, "hash", now).await.unwrap();
    let visit = Visit { address: "127.0.0.1".parse().unwrap(), agent: "a browser".to_owned() };
    accounts.begin_session("Ann", [1; 32], &visit, now - 13 * DAY).await.unwrap();
    accounts.close().await;

    let porch = two.porch_runs().await;
    let mut house = two.coordinator_runs().await;
    two.chooses(ArmState::Disarmed).await;
    let epoch = two.asked(Request::Status).await.unwrap().epoch;
    // First a clock that could be right for all that anybody knows, then one that cannot.
    for ahead in [29 * DAY, 26_600 * DAY] {
        clock.set_ahead(i64::try_from(ahead.as_millis()).unwrap());
        two.chooses(ArmState::Away).await;
        // Each service looks when it starts.
        ends(house).await;
        house = two.coordinator_runs().await;
        two.agree(ArmState::Away).await;
        for clock in [&two.coordinator.2, &two.porch.2] {
            clock.pass(2 * HOUR);
        }
        two.chooses(ArmState::Disarmed).await;
        ends(house).await;
        house = two.coordinator_runs().await;
        two.agree(ArmState::Disarmed).await;
        let seen = two.asked(Request::Status).await.unwrap();
        let doubted = seen.problems.iter().any(|problem| problem.contains("dms3-node time accept"));
        assert_eq!(doubted, ahead > 30 * DAY, "{:?}", seen.problems);
        assert!(seen.since.since(clock.announced()) < HOUR && clock.announced().since(seen.since) < HOUR, "{seen:?}");

        clock.set_ahead(0);
        ends(house).await;
        house = two.coordinator_runs().await;
        two.agree(ArmState::Disarmed).await;
        let seen = two.asked(Request::Status).await.unwrap();
        assert_eq!((seen.problems, seen.epoch, seen.clock_trusted), (Vec::new(), epoch, true));
        // The camera heard a wrong time, and then the right one.
        let (house, porch) = (two.coordinator.2.now().at, two.porch.2.now().at);
        assert!(porch.since(house).max(house.since(porch)) < Duration::from_secs(180), "{house} {porch}");
    }
    let Answer::Events(kept) =
        ask(&two.coordinator.1.control_socket(), &Request::Events { filter: EventFilter { limit: 9, ..EventFilter::default() } })
            .await
            .unwrap()
    else {
        panic!("events")
    };
    assert_eq!(kept.len(), 2, "no evidence is old by a clock that is wrong");
    ends(house).await;
    ends(porch).await;
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.roster().await.unwrap().len(), 2);
    let noted = store.audit(Timestamp(0)).await.unwrap();
    assert!(noted.iter().any(|entry| entry.kind == AuditKind::TimeAccepted), "nor is what was noted");
    let accounts = Accounts::open(dir.path()).await.unwrap().accounts;
    assert!(accounts.who([1; 32], clock.certain()).await.unwrap().is_some(), "who was signed in still is");
}
