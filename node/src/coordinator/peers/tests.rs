//! A coordinator's mesh port, as honest and other nodes meet it.

use std::net::SocketAddr;

use dms3_core::protocol::message::{
    AckV1, DetectorReportV1, DetectorsV1, HealthV1, HelloV1, RenewV1, SOURCES_LIMIT, SourceAckV1, StateV1, WelcomeV1,
};
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow};
use dms3_pki::sign_state;
use dms3_pki::tls::mesh_server_name;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};

use super::*;
use crate::mesh::config::Limits;
use crate::mesh::dial::{DialError, dial, refusal};
use crate::mesh::keys::MeshKeys;
use crate::mesh::link::{Connection, Link, LinkError};
use crate::mesh::testing::{DAY, House, endpoint, eventually, row};

/// Long enough for a busy machine; no test waits that long when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// The real service, with its ends in our hands.
struct Coordinator {
    address: SocketAddr,
    inputs: mpsc::Receiver<Input>,
    roster: Roster,
    state: watch::Sender<Option<Arc<SignedStateV1>>>,
    identity: watch::Sender<Identity>,
    stop: CancellationToken,
    service: JoinSet<Result<()>>,
    offences: crate::coordinator::offences::Offences,
    state_dir: tempfile::TempDir,
}

impl Coordinator {
    fn start(house: &House, rows: Vec<RosterRow>) -> Self {
        Self::start_at(house, rows, "127.0.0.1:0".parse().unwrap(), &MeshKeys::random().unwrap()).unwrap()
    }

    fn start_at(house: &House, rows: Vec<RosterRow>, listen: SocketAddr, keys: &MeshKeys) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, house, rows, listen, keys)
    }

    fn start_in(state_dir: tempfile::TempDir, house: &House, rows: Vec<RosterRow>, listen: SocketAddr, keys: &MeshKeys) -> Result<Self> {
        let endpoint = Endpoint::bind(listen, keys, Limits::default())?;
        let address = endpoint.local_addr().unwrap();
        let (inputs_to, inputs) = mpsc::channel(1024);
        let (state, state_in) = watch::channel(None);
        let (identity, identity_in) = watch::channel(house.coordinator.clone());
        let (roster, stop) = (Roster::new(rows), CancellationToken::new());
        let keeper = keeper(house);
        let offences = keeper.offences().clone();
        let context = PeersContext {
            endpoint,
            identity: identity_in,
            state: state_in,
            inputs: inputs_to,
            roster: roster.clone(),
            authority: watch::Sender::new(house.authority.clone()).subscribe(),
            clock: house.clock.clone(),
            boot: BootId([9; 4]),
            keeper,
            stills: Stills::default(),
            strangers: Arc::default(),
            state_dir: state_dir.path().to_owned(),
        };
        let mut service = JoinSet::new();
        service.spawn(run(context, stop.clone()));
        Ok(Self { address, inputs, roster, state, identity, stop, service, offences, state_dir })
    }

    async fn input(&mut self) -> Input {
        timeout(PATIENCE, self.inputs.recv()).await.expect("the rules are told").expect("the service runs")
    }

    fn publish(&self, state: SignedStateV1) {
        self.state.send_replace(Some(Arc::new(state)));
    }
}

/// With events of its own.
fn keeper(house: &House) -> Keeper {
    Keeper::new(tempfile::tempdir().unwrap().keep(), house.clock.clone(), None)
}

/// A node that we make say what we want.
struct Node {
    connection: Connection,
    link: Link,
}

impl Node {
    async fn dial(house: &House, identity: &Identity, to: SocketAddr) -> Result<Self, DialError> {
        Self::dial_from(&endpoint(), house, identity, to).await
    }

    async fn dial_from(from: &Endpoint, house: &House, identity: &Identity, to: SocketAddr) -> Result<Self, DialError> {
        let tls = tls::mesh_client(identity, Arc::new(house.clock.clone())).unwrap();
        let name = mesh_server_name(&identity.mesh()).to_str().into_owned();
        let connection = dial(from, to, &name, tls).await?;
        let link = Link::open(&connection, Arc::default()).await.map_err(|error| DialError::Unreachable(error.to_string()))?;
        Ok(Self { connection, link })
    }

    async fn linked(house: &House, identity: &Identity, to: SocketAddr) -> Self {
        let mut node = Self::dial(house, identity, to).await.unwrap();
        node.greet(house.hello()).await.expect("a Welcome");
        node
    }

    async fn greet(&mut self, hello: HelloV1) -> Result<WelcomeV1, LinkError> {
        self.say(Message::Hello(hello)).await;
        match self.hear().await? {
            Message::Welcome(welcome) => Ok(welcome),
            Message::Reject(reject) => {
                assert!(!reject.detail.is_empty());
                Err(self.ended().await)
            }
            other => panic!("{other:?} is no answer to a Hello"),
        }
    }

    async fn say(&mut self, message: Message) {
        // A link that is closed under our hands is what some tests are about: they look at how it ended.
        let _ = self.link.sender.send(&message).await;
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = self.link.sender.send_frame(bytes).await;
    }

    async fn hear(&mut self) -> Result<Message, LinkError> {
        timeout(PATIENCE, self.link.receiver.recv(&self.connection)).await.expect("an answer")
    }

    async fn pushed(&mut self) -> StateV1 {
        match self.hear().await.unwrap() {
            Message::Push(push) => frame::from_bytes(&push.signed.payload).unwrap(),
            other => panic!("{other:?} is no state"),
        }
    }

    async fn ended(&self) -> LinkError {
        LinkError::Closed(timeout(PATIENCE, self.connection.closed()).await.expect("the link ends"))
    }

    async fn close_code(&self) -> Option<CloseCode> {
        self.ended().await.close_code()
    }
}

fn detectors() -> Message {
    Message::Detectors(DetectorsV1 { sources: Vec::new() })
}

#[tokio::test]
async fn a_camera_is_welcomed_gets_the_whole_state_and_is_heard() {
    let (house, other) = (House::new(), House::new());
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    coordinator.publish(house.signed(7));

    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let welcome = node.greet(HelloV1 { held: Some(house.signed(6)), hostname: "po\u{1b}rch".to_owned(), ..house.hello() }).await.unwrap();
    assert_eq!((welcome.name.as_str(), welcome.boot, welcome.renew_only), ("porch", BootId([9; 4]), false));
    assert_eq!(welcome.bundle, None, "it has that bundle already");
    assert_eq!(node.pushed().await, house.state(7));
    let Input::LinkUp { node: id, hello, held, .. } = coordinator.input().await else { panic!("a link is up") };
    assert_eq!((id, hello.hostname.as_str()), (porch.node(), "porch"), "no control characters");
    assert_eq!(held, Some(house.state(6)));

    let ack = AckV1 { epoch: 1, rev: 7, sources: Vec::new(), held: Some(sign_state(other.coordinator.key(), &house.state(99)).unwrap()) };
    node.say(Message::Ack(ack.clone())).await;
    assert_eq!(
        coordinator.input().await,
        Input::Ack { node: porch.node(), ack, held: None },
        "a state that another signed counts for nothing"
    );
    let told = DetectorReportV1 { detail: "no\u{1b}[2J picture".to_owned(), ..report("ca\u{7}m") };
    node.say(Message::Detectors(DetectorsV1 { sources: vec![told] })).await;
    let expected = DetectorsV1 { sources: vec![DetectorReportV1 { detail: "no[2J picture".to_owned(), ..report("cam") }] };
    assert_eq!(coordinator.input().await, Input::Detectors { node: porch.node(), report: expected });
    let source = |name: &str| SourceAckV1 { source: name.to_owned(), effective: 3, watch: true };
    node.say(Message::Ack(AckV1 { epoch: 1, rev: 7, sources: vec![source("ca\u{7}m")], held: None })).await;
    assert!(matches!(coordinator.input().await, Input::Ack { ack, .. } if ack.sources == [source("cam")]));

    coordinator.publish(house.signed(8));
    assert_eq!(node.pushed().await.rev, 8);
    node.connection.close(1_u32.into(), b"");
    assert_eq!(coordinator.input().await, Input::Farewell { node: porch.node() }, "it said that it stops");
    assert_eq!(coordinator.input().await, Input::LinkDown { node: porch.node() });
}

#[test]
fn who_comes_back_with_less_than_it_confirmed_has_forgotten_it_and_is_told_of_once() {
    let (porch, hall, confirmed) = (NodeId([1; 32]), NodeId([2; 32]), Confirmed::default());
    confirmed.note(porch, (1, 4), Some((1, 4)));
    assert_eq!(confirmed.lost(porch, Some((1, 4))), None);
    assert_eq!(confirmed.lost(hall, None), None, "it never confirmed anything");
    assert_eq!(confirmed.lost(porch, Some((1, 3))), Some((1, 4)));
    assert_eq!(confirmed.lost(porch, Some((1, 3))), None, "told once");
    confirmed.note(porch, (1, 5), Some((1, 5)));
    assert_eq!(confirmed.lost(porch, None), Some((1, 5)));
    // What a liar confirms, or one who lags behind, is not what holds.
    confirmed.note(hall, (9, 9), Some((1, 5)));
    confirmed.note(hall, (1, 4), Some((1, 5)));
    assert_eq!(confirmed.lost(hall, None), None);
}

#[tokio::test]
async fn a_revoked_camera_is_out_in_under_a_second_and_does_not_come_back() {
    let house = House::new();
    let (porch, shed) = (house.camera(), house.camera());
    let rows = |status| vec![row(&porch, "porch", status), row(&shed, "shed", NodeStatus::Active)];
    let coordinator = Coordinator::start(&house, rows(NodeStatus::Active));
    let node = Node::linked(&house, &porch, coordinator.address).await;
    let mut neighbour = Node::linked(&house, &shed, coordinator.address).await;

    let revoked = Instant::now();
    coordinator.roster.replace(rows(NodeStatus::Revoked));
    assert_eq!(node.close_code().await, Some(CloseCode::Revoked));
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());

    // connect() may be Ok before the server has looked at our certificate; the link is refused all the same.
    let error = match Node::dial(&house, &porch, coordinator.address).await {
        Err(error) => error,
        Ok(mut node) => match node.greet(house.hello()).await {
            Err(LinkError::Closed(error)) => refusal(&error),
            other => panic!("a revoked node got {other:?}"),
        },
    };
    assert!(matches!(&error, DialError::Refused(why) if why.contains("revoked")), "{error}");

    coordinator.publish(house.signed(1));
    assert_eq!(neighbour.pushed().await.rev, 1, "the others are not touched");
}

#[tokio::test]
async fn a_node_revoked_between_handshake_and_hello_is_not_let_in() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    // Its certificate has passed the handshake once the coordinator opens its flow control to us.
    eventually("the handshake is confirmed", async || node.connection.stats().frame_rx.handshake_done > 0).await;
    coordinator.roster.replace(vec![row(&porch, "porch", NodeStatus::Revoked)]);
    let error = node.greet(house.hello()).await.unwrap_err();
    assert_eq!(error.close_code(), Some(CloseCode::Revoked));
    assert!(coordinator.inputs.try_recv().is_err(), "the rules never heard of a link");
}

#[tokio::test]
async fn the_newest_link_of_a_camera_counts() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let old = Node::linked(&house, &porch, coordinator.address).await;
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    let mut new = Node::linked(&house, &porch, coordinator.address).await;
    assert_eq!(old.close_code().await, Some(CloseCode::TakenOver));
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    new.say(detectors()).await;
    assert!(matches!(coordinator.input().await, Input::Detectors { .. }), "the end of the old link is not the end of the link");
    drop(new);
    assert_eq!(coordinator.input().await, Input::LinkDown { node: porch.node() });
}

#[tokio::test]
async fn a_link_that_is_over_leaves_no_task_behind() {
    let house = House::new();
    let camera = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&camera, "porch", NodeStatus::Active)]);
    let from = endpoint();
    let comes_and_goes = async |coordinator: &mut Coordinator| {
        let mut node = Node::dial_from(&from, &house, &camera, coordinator.address).await.unwrap();
        node.greet(house.hello()).await.unwrap();
        drop(node);
        while !matches!(coordinator.input().await, Input::LinkDown { .. }) {}
    };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..10 {
        comes_and_goes(&mut coordinator).await;
    }
    let before = tasks();
    for _ in 0..100 {
        comes_and_goes(&mut coordinator).await;
    }
    // quinn keeps a connection that was closed for three round trips more.
    eventually("as many tasks as before", async || tasks() <= before).await;
}

#[tokio::test]
async fn a_frame_that_breaks_the_rules_ends_its_link_and_no_other() {
    let house = House::new();
    let (porch, shed) = (house.camera(), house.camera());
    let rows = vec![row(&porch, "porch", NodeStatus::Active), row(&shed, "shed", NodeStatus::Active)];
    let coordinator = Coordinator::start(&house, rows);
    let mut neighbour = Node::linked(&house, &shed, coordinator.address).await;
    for (what, bytes) in [
        ("announces 64 KiB and one", [&65_537_u32.to_be_bytes()[..], &[0, 6, 1, 0]].concat()),
        ("announces 4 GiB", [&u32::MAX.to_be_bytes()[..], &[0, 6, 1, 0]].concat()),
        ("is of an unknown type that must be understood", vec![0, 0, 0, 1, 0x77, 0x77, 1, 1, 0]),
        ("is no postcard", vec![0, 0, 0, 2, 0, 6, 1, 0, 0xff, 0xff]),
        ("has a tail", vec![0, 0, 0, 2, 0, 6, 1, 0, 0, 0]),
        ("is another Hello", frame::encode(&Message::Hello(house.hello()), CONTROL_LIMIT).unwrap()),
        ("poses as a coordinator's push", frame::encode(&house.push(5), CONTROL_LIMIT).unwrap()),
    ] {
        let mut node = Node::linked(&house, &porch, coordinator.address).await;
        node.say_bytes(&bytes).await;
        assert_eq!(node.close_code().await, Some(CloseCode::Protocol), "{what}");
    }
    let mut first = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    first.say_bytes(&[0, 0, 16, 1, 0, 1, 1, 1]).await;
    assert_eq!(first.close_code().await, Some(CloseCode::Protocol), "a first frame over 4 KiB");

    coordinator.publish(house.signed(1));
    assert_eq!(neighbour.pushed().await.rev, 1);
}

#[tokio::test]
async fn what_a_newer_camera_says_is_skipped_unless_it_must_be_understood_and_frames_may_come_in_crumbs() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    node.say_bytes(&[0, 0, 0, 3, 0x77, 0x77, 1, 0, 1, 2, 3]).await;
    for byte in frame::encode(&detectors(), CONTROL_LIMIT).unwrap() {
        node.say_bytes(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(coordinator.input().await, Input::Detectors { .. }));
}

#[tokio::test]
async fn garbage_and_early_goodbyes_do_not_disturb_the_port() {
    let house = House::new();
    let porch = house.camera();
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 8, 100, 1200, 1472, 9000] {
        for first in [0_u8, 0x40, 0xc0, 0xff] {
            let mut bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            stranger.send_to(&bytes, coordinator.address).unwrap();
        }
    }
    for _ in 0..3 {
        drop(Node::dial(&house, &porch, coordinator.address).await.unwrap());
    }
    Node::linked(&house, &porch, coordinator.address).await;
}

#[tokio::test]
async fn a_node_that_says_nothing_is_sent_away_and_never_was_a_link() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut silent = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    silent.say_bytes(&[0, 0, 0]).await;
    assert_eq!(silent.close_code().await, Some(CloseCode::Timeout));
    assert!(coordinator.inputs.try_recv().is_err());
}

#[tokio::test]
async fn a_stolen_camera_that_names_cameras_without_end_is_put_out() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let named = |n: usize| (0..n).map(|nth| DetectorReportV1 { source: format!("cam-{nth}"), ..report("cam") }).collect();
    let mut twice: Vec<DetectorReportV1> = named(2);
    twice[1].source = twice[0].source.clone();
    let lists = [named(SOURCES_LIMIT + 1), twice, vec![report("")], vec![report(&"cam".repeat(1000))]];
    for sources in lists {
        let mut evil = Node::linked(&house, &porch, coordinator.address).await;
        evil.say(Message::Detectors(DetectorsV1 { sources: sources.clone() })).await;
        assert_eq!(evil.close_code().await, Some(CloseCode::Protocol), "{} of them", sources.len());
        let mut evil = Node::linked(&house, &porch, coordinator.address).await;
        let sources = sources.into_iter().map(|report| SourceAckV1 { source: report.source, effective: 3, watch: true }).collect();
        evil.say(Message::Ack(AckV1 { epoch: 1, rev: 1, sources, held: None })).await;
        assert_eq!(evil.close_code().await, Some(CloseCode::Protocol));
    }
    let mut evil = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let sources = (0..=SOURCES_LIMIT).map(|nth| format!("cam-{nth}")).collect();
    assert_eq!(evil.greet(HelloV1 { sources, ..house.hello() }).await.unwrap_err().close_code(), Some(CloseCode::Protocol));
    let mut honest = Node::linked(&house, &porch, coordinator.address).await;
    honest.say(Message::Detectors(DetectorsV1 { sources: named(SOURCES_LIMIT) })).await;
    eventually(
        "an honest one with many cameras is heard",
        async || matches!(coordinator.inputs.try_recv(), Ok(Input::Detectors { report, .. }) if report.sources.len() == SOURCES_LIMIT),
    )
    .await;
}

fn report(source: &str) -> DetectorReportV1 {
    DetectorReportV1 { source: source.to_owned(), phase: 1, since: Timestamp(1), detail: String::new(), live: 1 }
}

#[tokio::test]
async fn strangers_and_neighbours_are_not_let_in() {
    let (house, other) = (House::new(), House::new());
    let (porch, unknown) = (house.camera(), house.camera());
    let foreign = other.camera();
    let coordinator =
        Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active), row(&foreign, "foreign", NodeStatus::Active)]);
    for (who, identity) in [("of the house and not in the roster", &unknown), ("of another house", &foreign)] {
        let outcome = match Node::dial(&house, identity, coordinator.address).await {
            Ok(mut node) => node.greet(house.hello()).await.map(|_| ()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        assert!(outcome.is_err(), "{who}");
    }
    let mut lost = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let error = lost.greet(HelloV1 { mesh: other.coordinator.mesh(), ..house.hello() }).await.unwrap_err();
    assert_eq!(error.close_code(), Some(CloseCode::WrongMesh));
}

#[tokio::test]
async fn an_address_whose_handshakes_fail_is_sent_away_and_its_neighbour_is_not() {
    let (house, other) = (House::new(), House::new());
    let (porch, foreign) = (house.camera(), other.camera());
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    eventually("the stranger is not even looked at", async || match Node::dial(&house, &foreign, coordinator.address).await {
        Err(error) => error.to_string() == CloseCode::Busy.words(),
        Ok(node) => {
            node.ended().await;
            false
        }
    })
    .await;
    let neighbour = Endpoint::bind("127.0.0.2:0".parse().unwrap(), &MeshKeys::random().unwrap(), Limits::default()).unwrap();
    let mut node = Node::dial_from(&neighbour, &house, &porch, coordinator.address).await.unwrap();
    node.greet(house.hello()).await.expect("a Welcome");
}

#[tokio::test]
async fn a_stolen_copy_of_the_coordinators_own_identity_is_no_node_of_the_house() {
    let house = House::new();
    let own = house.coordinator.clone();
    let mut coordinator = Coordinator::start(&house, vec![row(&own, "coordinator", NodeStatus::Active)]);
    let mut copy = Node::dial(&house, &own, coordinator.address).await.unwrap();
    assert_eq!(copy.greet(house.hello()).await.unwrap_err().close_code(), Some(CloseCode::Protocol));
    assert!(coordinator.inputs.try_recv().is_err());
}

#[tokio::test]
async fn the_roster_decides_the_role_not_the_certificate() {
    let house = House::new();
    let porch = house.camera();
    let enrolled = row(&porch, "porch", NodeStatus::Active);
    let coordinator = Coordinator::start(&house, vec![enrolled.clone()]);
    let mut early = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let linked = Node::linked(&house, &porch, coordinator.address).await;
    coordinator.roster.replace(vec![RosterRow { role: NodeRole::Coordinator, ..enrolled }]);
    assert_eq!(linked.close_code().await, Some(CloseCode::NotEnrolled));
    assert_eq!(early.greet(house.hello()).await.unwrap_err().close_code(), Some(CloseCode::NotEnrolled));
    let late = match Node::dial(&house, &porch, coordinator.address).await {
        Ok(mut node) => node.greet(house.hello()).await.is_ok(),
        Err(_) => false,
    };
    assert!(!late, "nor in a new handshake");
}

#[tokio::test]
async fn a_slow_camera_gets_the_latest_state_and_not_every_one() {
    const STATES: u64 = 2000;
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    for rev in 1..=STATES {
        let state = StateV1 { reason: "long ".repeat(200), ..house.state(rev) };
        coordinator.publish(sign_state(house.coordinator.key(), &state).unwrap());
        tokio::task::yield_now().await;
    }
    let mut revs = Vec::new();
    while revs.last() != Some(&STATES) {
        revs.push(node.pushed().await.rev);
    }
    assert!(revs.is_sorted(), "states never go back");
    assert!(revs.len() < 300, "{} of {STATES} states were queued", revs.len());
}

#[tokio::test]
async fn a_camera_knows_at_once_that_the_coordinator_was_restarted() {
    let house = House::new();
    let porch = house.camera();
    let rows = vec![row(&porch, "porch", NodeStatus::Active)];
    let keys = MeshKeys::random().unwrap();
    let before = Runtime::new().unwrap();
    let mut coordinator = {
        let _inside = before.enter();
        Coordinator::start_at(&house, rows.clone(), "127.0.0.1:0".parse().unwrap(), &keys).unwrap()
    };
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    let address = coordinator.address;
    // As a power cut: nobody says good-bye.
    coordinator.service.detach_all();
    before.shutdown_background();
    let mut again = None;
    eventually("the port is free again", async || {
        again = Coordinator::start_at(&house, rows.clone(), address, &keys).ok();
        again.is_some()
    })
    .await;
    let restarted = Instant::now();
    node.say(detectors()).await;
    assert!(node.ended().await.is_reset());
    assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
    Node::linked(&house, &porch, address).await;
}

#[tokio::test]
async fn a_camera_that_talks_without_end_is_read_slowly() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    let (began, slow) = (Instant::now(), 20);
    for _ in 0..super::session::BURST + slow {
        node.say(detectors()).await;
    }
    let mut heard = 0;
    while heard < super::session::BURST + slow {
        heard += u32::from(matches!(coordinator.inputs.recv().await, Some(Input::Detectors { .. })));
    }
    // Less one, since time passed before the first was read.
    assert!(began.elapsed() >= super::session::REFILL * (slow - 1), "{heard} of them in {:?}", began.elapsed());
}

#[tokio::test]
async fn an_expired_certificate_opens_the_door_to_its_renewal_and_to_nothing_else() {
    let house = House::new();
    let porch = house.camera_of(100 * DAY);
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    coordinator.publish(house.signed(1));

    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    assert!(node.greet(house.hello()).await.unwrap().renew_only);
    node.say(detectors()).await;
    assert_eq!(node.close_code().await, Some(CloseCode::RenewOnly));

    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    node.greet(house.hello()).await.unwrap();
    node.say(Message::Renew(RenewV1 { csr: porch.key().csr().unwrap() })).await;
    let Message::Renewed(renewed) = node.hear().await.unwrap() else { panic!("no state before the renewal") };
    let porch = porch.renewed(&renewed.chain, house.clock.now().at).unwrap();
    assert!(coordinator.inputs.try_recv().is_err(), "that was no link");
    Node::linked(&house, &porch, coordinator.address).await;
}

#[tokio::test]
async fn a_live_link_renews_its_own_certificate_and_no_other() {
    let house = House::new();
    let (porch, thief) = (house.camera_of(40 * DAY), house.camera());
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    node.say(Message::Renew(RenewV1 { csr: porch.key().csr().unwrap() })).await;
    let Message::Renewed(renewed) = node.hear().await.unwrap() else { panic!("not renewed") };
    let later = porch.renewed(&renewed.chain, house.clock.now().at).unwrap();
    assert!(later.not_after() > porch.not_after());

    let mut node = Node::linked(&house, &later, coordinator.address).await;
    node.say(Message::Renew(RenewV1 { csr: thief.key().csr().unwrap() })).await;
    assert_eq!(node.close_code().await, Some(CloseCode::Internal));
}

#[tokio::test]
async fn a_coordinator_whose_clock_nobody_vouches_for_links_its_cameras_tells_what_is_proven_and_renews_nothing() {
    let house = House::new();
    // Its clock is 200 days past all that is proven. By that clock the certificate of this camera ended long ago.
    let porch = house.camera_of(150 * DAY);
    let (wall, floor) = (house.clock.now().at, house.clock.now().at - 200 * DAY);
    house.clock.forget(floor);
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let welcome = node.greet(house.hello()).await.unwrap();
    assert!(welcome.time.since(floor) < DAY && !welcome.renew_only, "{welcome:?}");
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));

    // The question stays without an answer, and the camera linked: it is to hear whether the house is armed.
    node.say(Message::Renew(RenewV1 { csr: porch.key().csr().unwrap() })).await;
    node.say(detectors()).await;
    assert!(matches!(coordinator.input().await, Input::Detectors { .. }));
    coordinator.publish(house.signed(7));
    let Message::Push(push) = node.hear().await.unwrap() else { panic!("a certificate was signed") };
    assert!(push.time.since(floor) < DAY, "a lease is measured by the time that wrote it, and so is what a house decides");

    house.clock.accept().unwrap();
    assert_eq!(node.close_code().await, Some(CloseCode::Resync), "the time is known now");
    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let welcome = node.greet(house.hello()).await.unwrap();
    assert!(welcome.time >= wall && welcome.renew_only, "{welcome:?}");
    node.say(Message::Renew(RenewV1 { csr: porch.key().csr().unwrap() })).await;
    assert!(matches!(node.hear().await.unwrap(), Message::Renewed(_)));
}

#[tokio::test]
async fn an_expired_certificate_is_not_renewed_by_a_clock_that_nobody_vouches_for() {
    let house = House::new();
    // Too long in the drawer by that clock, and not by what is proven.
    let porch = house.camera_of(540 * DAY);
    house.clock.forget(house.clock.now().at - 200 * DAY);
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    assert!(node.greet(house.hello()).await.unwrap().renew_only);
    node.say(Message::Renew(RenewV1 { csr: porch.key().csr().unwrap() })).await;
    assert_eq!(node.close_code().await, Some(CloseCode::Busy));
}

#[tokio::test]
async fn a_camera_that_asks_for_certificates_all_the_time_is_sent_away() {
    let house = House::new();
    let porch = house.camera();
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    let renew = || Message::Renew(RenewV1 { csr: porch.key().csr().unwrap() });
    node.say(renew()).await;
    assert!(matches!(node.hear().await.unwrap(), Message::Renewed(_)));
    node.say(renew()).await;
    assert_eq!(node.close_code().await, Some(CloseCode::Protocol));
}

#[tokio::test]
async fn an_expired_node_that_does_not_say_what_it_came_for_is_sent_away() {
    let house = House::new();
    let porch = house.camera_of(100 * DAY);
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    assert!(node.greet(house.hello()).await.unwrap().renew_only);
    assert_eq!(node.close_code().await, Some(CloseCode::Timeout));
}

#[tokio::test]
async fn a_camera_that_takes_nothing_from_us_is_let_go_after_ten_seconds() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let node = Node::linked(&house, &porch, coordinator.address).await;
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    let began = Instant::now();
    let mut rev = 0;
    // It reads nothing; two of these fill its window.
    let closed = loop {
        rev += 1;
        let state = StateV1 { reason: "long ".repeat(10_000), ..house.state(rev) };
        coordinator.publish(sign_state(house.coordinator.key(), &state).unwrap());
        if let Ok(closed) = timeout(Duration::from_millis(100), node.connection.closed()).await {
            break LinkError::Closed(closed);
        }
        assert!(began.elapsed() < PATIENCE, "its link holds memory for ever");
    };
    assert_eq!(closed.close_code(), Some(CloseCode::Timeout));
    assert!(began.elapsed() > Duration::from_secs(9), "a slow network has its time");
    assert_eq!(coordinator.input().await, Input::LinkDown { node: porch.node() });
}

#[tokio::test]
async fn a_newer_bundle_reaches_the_cameras_that_are_linked() {
    let house = House::new();
    let porch = house.camera();
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    let bundle = dms3_core::protocol::message::BundleV1 {
        mesh: house.coordinator.mesh(),
        epoch: 2,
        roots: vec![house.authority.root_der().to_vec()],
        coordinators: vec![house.coordinator.node()],
    };
    let signed = house.authority.sign_bundle(&bundle).unwrap();
    coordinator.identity.send_replace(house.coordinator.with_bundle(&signed).unwrap().unwrap());
    assert_eq!(node.hear().await.unwrap(), Message::Bundle(signed));
    // A new certificate alone is no news for them.
    let renewed = house.authority.renew_own(&coordinator.identity.borrow(), house.clock.now().at + DAY).unwrap();
    coordinator.identity.send_replace(renewed);
    coordinator.publish(house.signed(1));
    assert_eq!(node.pushed().await.rev, 1);
}

#[tokio::test]
async fn a_renewed_coordinator_is_seen_by_new_links_and_keeps_the_old_ones() {
    let house = House::new();
    let porch = house.camera();
    let rows = vec![row(&porch, "porch", NodeStatus::Active), row(&house.camera(), "shed", NodeStatus::Active)];
    let coordinator = Coordinator::start(&house, rows);
    let mut old = Node::linked(&house, &porch, coordinator.address).await;
    let leaf = |node: &Node| crate::mesh::link::peer_certificates(&node.connection)[0].to_vec();
    let before = leaf(&old);
    let renewed = house.authority.renew_own(&house.coordinator, house.clock.now().at + DAY).unwrap();
    coordinator.identity.send_replace(renewed.clone());
    coordinator.publish(house.signed(3));
    assert_eq!(old.pushed().await.rev, 3);
    eventually("new links see the new certificate", async || {
        leaf(&Node::dial(&house, &porch, coordinator.address).await.unwrap()) != before
    })
    .await;
}

#[tokio::test]
async fn an_older_bundle_is_brought_up_to_date_with_the_welcome() {
    let house = House::new();
    let porch = house.camera();
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    let welcome = node.greet(HelloV1 { bundle_epoch: 0, ..house.hello() }).await.unwrap();
    assert_eq!(welcome.bundle.as_ref(), Some(house.coordinator.bundle().signed()));
}

#[tokio::test]
async fn a_coordinator_that_begins_anew_says_so_where_its_active_nodes_were_and_remembers_where_they_are() {
    let house = House::new();
    let (porch, hall, shed) = (house.camera(), house.camera(), house.camera());
    let rows =
        vec![row(&porch, "porch", NodeStatus::Active), row(&hall, "hall", NodeStatus::Active), row(&shed, "shed", NodeStatus::Revoked)];
    let [at_porch, at_shed] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let state_dir = tempfile::tempdir().unwrap();
    let line = |node: &Identity, at: &std::net::UdpSocket| format!("{} {}\n", node.node(), at.local_addr().unwrap());
    std::fs::write(state_dir.path().join("last_nodes"), line(&porch, &at_porch) + &line(&shed, &at_shed)).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let coordinator = Coordinator::start_in(state_dir, &house, rows, listen, &MeshKeys::random().unwrap()).unwrap();

    let said = crate::mesh::ring::ring(&house.coordinator.mesh(), &house.coordinator.node(), BootId([9; 4]));
    at_porch.set_nonblocking(true).unwrap();
    at_shed.set_nonblocking(true).unwrap();
    // Any of them may get lost.
    for nth in 1..=3 {
        let mut packet = [0; 100];
        eventually(&format!("ring {nth}"), async || at_porch.recv(&mut packet).is_ok()).await;
        assert_eq!(&packet[..said.len()], &said[..]);
    }
    assert!(at_shed.recv(&mut [0; 100]).is_err(), "who is out hears nothing");

    let _link = Node::linked(&house, &hall, coordinator.address).await;
    let path = coordinator.state_dir.path().join("last_nodes");
    let kept = async || std::fs::read_to_string(&path).unwrap();
    eventually("it is written down", async || kept().await.contains(&hall.node().to_string())).await;
    assert!(kept().await.contains(&line(&porch, &at_porch)) && !kept().await.contains(&shed.node().to_string()), "{}", kept().await);
}

#[tokio::test]
async fn what_a_node_does_against_the_rules_is_counted_and_what_a_weak_network_may_have_done_is_not() {
    let house = House::new();
    let porch = house.camera();
    let coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let told = async |words: &str| {
        let mut told = None;
        eventually(words, async || {
            told = coordinator.offences.take().remove(&porch.node());
            told.is_some()
        })
        .await;
        let told = told.unwrap();
        assert!(told.why.contains(words) && told.count == 1, "{told:?}");
        told.put_out
    };
    let mut lost = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    lost.greet(HelloV1 { mesh: dms3_core::id::MeshId([1; 10]), ..house.hello() }).await.unwrap_err();
    assert_eq!(told("it speaks of house").await, 1);
    let mut liar = Node::linked(&house, &porch, coordinator.address).await;
    liar.say(Message::Detectors(DetectorsV1 { sources: vec![report("")] })).await;
    assert_eq!(told("by no name").await, 1);
    let mut mad = Node::linked(&house, &porch, coordinator.address).await;
    mad.say_bytes(&[0xff; 100]).await;
    assert_eq!(told("put out: a frame of").await, 1);
    let mut slow = Node::dial(&house, &porch, coordinator.address).await.unwrap();
    slow.say_bytes(&[0, 0, 0]).await;
    assert_eq!(told("it said no Hello").await, 0);
}

#[tokio::test]
async fn a_state_that_is_pushed_again_says_the_time_of_now() {
    let house = House::new();
    let (porch, shed) = (house.camera(), house.camera());
    let rows = vec![row(&porch, "porch", NodeStatus::Active), row(&shed, "shed", NodeStatus::Active)];
    let coordinator = Coordinator::start(&house, rows);
    coordinator.publish(house.signed(1));
    let time = async |node: &Identity| match Node::linked(&house, node, coordinator.address).await.hear().await {
        Ok(Message::Push(push)) => push.time,
        other => panic!("{other:?} is no state"),
    };
    let first = time(&porch).await;
    eventually("the first push is old", async || house.clock.vouched_now().at.since(first) >= FRESH).await;
    // A lease is measured from there.
    assert!(time(&shed).await.since(first) >= FRESH);
}

#[tokio::test]
async fn a_coordinator_that_stops_says_so() {
    let house = House::new();
    let porch = house.camera();
    let mut coordinator = Coordinator::start(&house, vec![row(&porch, "porch", NodeStatus::Active)]);
    let mut node = Node::linked(&house, &porch, coordinator.address).await;
    let report = HealthV1 {
        at: dms3_core::time::Timestamp(1),
        node_uptime: 1,
        machine_uptime: 2,
        cpu_millicelsius: None,
        load_centi: 3,
        mem_total_kib: 4,
        mem_available_kib: 5,
        disk_total_mib: 6,
        disk_free_mib: 7,
        unknown_frames: 0,
        clock_trusted: true,
        outbox: dms3_core::protocol::message::OutboxV1::default(),
        mails: false,
        under_voltage: None,
        spool: 0,
    };
    node.say(Message::Health(report.clone())).await;
    assert!(matches!(coordinator.input().await, Input::LinkUp { .. }));
    assert_eq!(coordinator.input().await, Input::Health { node: porch.node(), report });
    coordinator.stop.cancel();
    assert_eq!(node.close_code().await, Some(CloseCode::GoingDown));
    assert!(coordinator.service.join_next().await.unwrap().unwrap().is_ok());
}
