//! A camera's uplink, as it meets coordinators and those who would like to be one.

use std::collections::BTreeSet;

use dms3_core::protocol::message::{DetectorReportV1, HelloV1, RejectV1, RenewedV1};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_pki::{Admission, Admit, sign_state};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::mesh::config::Limits;
use crate::mesh::dial::remembered;
use crate::mesh::discovery::Candidate;
use crate::mesh::keys::MeshKeys;
use crate::mesh::link::{Connection, Link, LinkError, close};
use crate::mesh::testing::{DAY, House, endpoint, eventually};
use dms3_core::protocol::frame::Message;

const PATIENCE: Duration = Duration::from_secs(20);

/// The real uplink, with its ends in our hands.
struct Camera {
    identity: Identity,
    state_dir: TempDir,
    inputs: mpsc::Receiver<Input>,
    acks: watch::Sender<Option<AckV1>>,
    detectors: watch::Sender<DetectorsV1>,
    _health: watch::Sender<Option<HealthV1>>,
    status: watch::Receiver<LinkStatus>,
    heard: Heard,
    tasks: JoinSet<Result<()>>,
}

impl Camera {
    fn start(house: &House, identity: Identity, peers: &[SocketAddr]) -> Self {
        let state_dir = house.state_dir(&identity);
        let (inputs_to, inputs) = mpsc::channel(1024);
        let (acks, acks_in) = watch::channel(None);
        let (detectors, detectors_in) = watch::channel(DetectorsV1 { sources: Vec::new() });
        let (health, health_in) = watch::channel(None);
        let (_, held) = watch::channel(Some(house.signed(6)));
        let (status_out, status) = watch::channel(LinkStatus::default());
        let context = UplinkContext {
            endpoint: endpoint(),
            identity: identity.clone(),
            state_dir: state_dir.path().to_owned(),
            mesh: MeshConfig { peers: peers.iter().map(SocketAddr::to_string).collect(), mdns: MdnsMode::Off, ..MeshConfig::default() },
            boot: BootId([1; 4]),
            inputs: inputs_to,
            acks: acks_in,
            detectors: detectors_in,
            health: health_in,
            held,
            sources: vec!["porch".to_owned()],
            status: status_out,
            clock: house.clock.clone(),
            unknown: Arc::default(),
            carrier: watch::Sender::new(None),
            answers: mpsc::channel(1).0,
            looks: mpsc::channel(1).0,
        };
        let heard = Heard::default();
        let mut uplink = Uplink::new(context, heard.clone()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { uplink.run().await });
        Self { identity, state_dir, inputs, acks, detectors, _health: health, status, heard, tasks }
    }

    async fn input(&mut self) -> Input {
        timeout(PATIENCE, self.inputs.recv()).await.expect("the rules are told").expect("the uplink runs")
    }

    fn hears(&self, house: &House, address: SocketAddr, boot: u8) {
        let (mesh, node) = (house.coordinator.mesh(), house.coordinator.node().short());
        self.heard.tell(vec![Candidate { address, mesh, node, boot: BootId([boot; 4]), enroll: None }]);
    }
}

/// Lets every certificate in that the handshake finds good.
#[derive(Debug)]
struct Everybody;

impl Admit for Everybody {
    fn admit(&self, _: &dms3_core::id::NodeId) -> Admission {
        Admission::Active(NodeRole::Camera)
    }
}

/// A coordinator's port that we make say what we want.
struct Port {
    endpoint: Endpoint,
    address: SocketAddr,
}

impl Port {
    fn of(house: &House) -> Self {
        Self::presenting(&house.coordinator, house, &MeshKeys::random().unwrap(), "127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn presenting(identity: &Identity, house: &House, keys: &MeshKeys, listen: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::bind(listen, keys, Limits::default())?;
        endpoint.serve(tls::mesh_server(identity, Arc::new(Everybody), Arc::new(house.clock.clone()))?)?;
        let address = endpoint.local_addr()?;
        Ok(Self { endpoint, address })
    }

    /// The next one who gets through the handshake, and its Hello.
    async fn met(&self) -> (Peer, HelloV1) {
        let met = async {
            loop {
                let Ok((connection, pass)) = Box::new(self.endpoint.accept().await.expect("open")).handshake().await else { continue };
                pass.authenticated();
                let Ok(link) = Link::accept(&connection, Arc::default()).await else { continue };
                let mut peer = Peer { connection, link };
                match peer.hear().await {
                    Message::Hello(hello) => return (peer, hello),
                    other => panic!("{other:?} is no Hello"),
                }
            }
        };
        timeout(PATIENCE, met).await.expect("the camera dials")
    }

    async fn linked(&self, house: &House, boot: u8) -> Peer {
        let (mut peer, _) = self.met().await;
        peer.say(Message::Welcome(house.welcome(boot))).await;
        peer
    }
}

struct Peer {
    connection: Connection,
    link: Link,
}

impl Peer {
    async fn say(&mut self, message: Message) {
        self.link.sender.send(&message).await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        timeout(PATIENCE, self.link.receiver.recv(&self.connection)).await.expect("it speaks").unwrap()
    }

    async fn close_code(&self) -> Option<CloseCode> {
        LinkError::Closed(timeout(PATIENCE, self.connection.closed()).await.expect("it closes")).close_code()
    }
}

#[tokio::test]
async fn a_camera_links_tells_what_it_does_and_hears_the_state() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let (mut peer, hello) = port.met().await;
    assert_eq!(
        (hello.mesh, hello.held.clone(), hello.sources.clone()),
        (house.coordinator.mesh(), Some(house.signed(6)), vec!["porch".to_owned()])
    );
    assert!(camera.inputs.try_recv().is_err(), "a handshake is no link yet");
    peer.say(Message::Welcome(house.welcome(2))).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(matches!(peer.hear().await, Message::Detectors(_)), "what the detectors do is told at once");

    peer.say(house.push(7)).await;
    let Input::State { signed, state, live: true, .. } = camera.input().await else { panic!("a live state") };
    assert_eq!((signed, state), (house.signed(7), house.state(7)));
    let ack = AckV1 { epoch: 1, rev: 7, sources: Vec::new(), held: None };
    camera.acks.send_replace(Some(ack.clone()));
    assert_eq!(peer.hear().await, Message::Ack(ack));
    let report = DetectorReportV1 { source: "porch".to_owned(), phase: 3, since: Timestamp(1), detail: String::new(), live: 1 };
    camera.detectors.send_replace(DetectorsV1 { sources: vec![report.clone()] });
    assert_eq!(peer.hear().await, Message::Detectors(DetectorsV1 { sources: vec![report] }));

    let status = camera.status.borrow().clone();
    assert_eq!(
        status,
        LinkStatus { linked: Some(port.address), name: Some("porch".to_owned()), trouble: None, revoked: false, farewell: false }
    );
    assert_eq!(remembered(camera.state_dir.path()), Some(port.address));
    close(&peer.connection, CloseCode::GoingDown);
    assert_eq!(camera.input().await, Input::LinkDown);
    eventually("it knows that its coordinator stopped on purpose", async || camera.status.borrow().farewell).await;
    assert_eq!(camera.tasks.len(), 1, "the uplink goes on");
}

#[tokio::test]
async fn a_link_that_is_over_leaves_no_task_behind() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let comes_and_goes = async |camera: &mut Camera| {
        let peer = port.linked(&house, 2).await;
        while camera.input().await != Input::LinkUp {}
        drop(peer);
        while camera.input().await != Input::LinkDown {}
    };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..10 {
        comes_and_goes(&mut camera).await;
    }
    let before = tasks();
    for _ in 0..50 {
        comes_and_goes(&mut camera).await;
    }
    eventually("as many tasks as before", async || tasks() <= before).await;
}

#[tokio::test]
async fn whoever_is_no_coordinator_of_our_house_is_passed_over_and_learns_nothing() {
    let (house, other) = (House::new(), House::new());
    let keys = MeshKeys::random().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let neighbour = Port::presenting(&other.coordinator, &other, &keys, any).unwrap();
    let posing = Port::presenting(&house.camera(), &house, &keys, any).unwrap();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let real = Port::of(&house);
    let peers = [neighbour.address, posing.address, silent.local_addr().unwrap(), real.address];
    let mut camera = Camera::start(&house, house.camera(), &peers);
    let met_rogue = async {
        tokio::select! {
            _ = neighbour.met() => "the neighbour's coordinator",
            _ = posing.met() => "a camera that poses as coordinator",
        }
    };
    let _peer = tokio::select! {
        rogue = met_rogue => panic!("{rogue} got a Hello"),
        peer = real.linked(&house, 2) => peer,
    };
    assert_eq!(camera.input().await, Input::LinkUp);
    assert_eq!(remembered(camera.state_dir.path()), Some(real.address));
}

#[tokio::test]
async fn a_refusal_is_no_link_and_is_told_in_words() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let (peer, _) = port.met().await;
    let reject = Message::Reject(RejectV1 { code: CloseCode::NotEnrolled as u16, detail: String::new() });
    peer.link.sender.last_word(&reject, CloseCode::NotEnrolled).await;
    eventually("the person can read why", async || camera.status.borrow().trouble.as_ref().is_some_and(|why| why.contains("not enrolled")))
        .await;
    assert!(camera.inputs.try_recv().is_err());
}

#[tokio::test]
async fn that_it_is_revoked_a_camera_believes_a_coordinator_of_its_house_and_nobody_else() {
    let (house, other) = (House::new(), House::new());
    let (stranger, real) = (Port::of(&other), Port::of(&house));
    let mut camera = Camera::start(&house, house.camera(), &[stranger.address]);
    let reject = Message::Reject(RejectV1 { code: CloseCode::Revoked as u16, detail: String::new() });
    // He would say so to whoever gets through his handshake. Nobody of this house does.
    let says_so = async {
        loop {
            let (peer, _) = stranger.met().await;
            peer.link.sender.last_word(&reject, CloseCode::Revoked).await;
        }
    };
    tokio::select! {
        () = says_so => {}
        () = eventually("he was passed over", async || camera.status.borrow().trouble.is_some()) => {}
    }
    assert!(!camera.status.borrow().revoked && !revocation::is_marked(camera.state_dir.path()));

    camera.hears(&house, real.address, 2);
    let (peer, _) = real.met().await;
    peer.link.sender.last_word(&reject, CloseCode::Revoked).await;
    eventually("it is believed", async || camera.status.borrow().revoked).await;
    assert!(revocation::is_marked(camera.state_dir.path()), "after a restart, too");
    // Who is let in again is not revoked.
    let _peer = real.linked(&house, 3).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(!camera.status.borrow().revoked && !revocation::is_marked(camera.state_dir.path()));
}

#[tokio::test]
async fn a_state_that_no_coordinator_signed_is_never_handed_on_as_one() {
    let house = House::new();
    let port = Port::of(&house);
    let identity = house.camera();
    let mut camera = Camera::start(&house, identity.clone(), &[port.address]);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    let push = |signed| Message::Push(dms3_core::protocol::message::PushV1 { signed, time: Timestamp(1) });
    let mut torn = house.signed(9);
    torn.payload[0] ^= 1;
    for signed in [sign_state(identity.key(), &house.state(9)).unwrap(), torn] {
        peer.say(push(signed)).await;
        assert!(matches!(camera.input().await, Input::Unreadable { .. }));
    }
    peer.link.sender.send_frame(&[0, 0, 0, 2, 0, 4, 1, 1, 0xff, 0xff]).await.unwrap();
    assert!(matches!(camera.input().await, Input::Unreadable { .. }), "not even a state that cannot be read");
    assert_eq!(peer.close_code().await, Some(CloseCode::Protocol));
}

#[tokio::test]
async fn a_camera_comes_back_at_once_when_its_coordinator_was_restarted() {
    let house = House::new();
    let keys = MeshKeys::random().unwrap();
    let before = Runtime::new().unwrap();
    let (address, mut peers) = {
        let _inside = before.enter();
        let port = Port::presenting(&house.coordinator, &house, &keys, "127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, mut tasks) = (port.address, JoinSet::new());
        let welcome = house.welcome(1);
        tasks.spawn(async move {
            let (mut peer, _) = port.met().await;
            peer.say(Message::Welcome(welcome)).await;
            std::future::pending::<(Peer, Port)>().await
        });
        (address, tasks)
    };
    let mut camera = Camera::start(&house, house.camera(), &[address]);
    assert_eq!(camera.input().await, Input::LinkUp);
    // As a power cut: nobody says good-bye.
    peers.detach_all();
    before.shutdown_background();
    let mut again = None;
    eventually("the port is free again", async || {
        again = Port::presenting(&house.coordinator, &house, &keys, address).ok();
        again.is_some()
    })
    .await;
    let restarted = Instant::now();
    // mDNS tells of the new boot; the camera asks on its link, and is told by a reset that it is gone.
    camera.hears(&house, address, 2);
    assert_eq!(camera.input().await, Input::LinkDown);
    let _peer = again.as_ref().unwrap().linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(restarted.elapsed() < Duration::from_secs(3), "{:?}", restarted.elapsed());
}

#[tokio::test]
async fn a_coordinator_that_came_back_elsewhere_is_found_before_the_old_link_times_out() {
    let house = House::new();
    let before = Runtime::new().unwrap();
    let (address, mut peers) = {
        let _inside = before.enter();
        let port = Port::of(&house);
        let (address, mut tasks) = (port.address, JoinSet::new());
        let welcome = house.welcome(1);
        tasks.spawn(async move {
            let (mut peer, _) = port.met().await;
            peer.say(Message::Welcome(welcome)).await;
            std::future::pending::<(Peer, Port)>().await
        });
        (address, tasks)
    };
    let mut camera = Camera::start(&house, house.camera(), &[address]);
    assert_eq!(camera.input().await, Input::LinkUp);
    peers.detach_all();
    before.shutdown_background();
    let elsewhere = Port::of(&house);
    let moved = Instant::now();
    camera.hears(&house, elsewhere.address, 2);
    assert_eq!(camera.input().await, Input::LinkDown);
    let _peer = elsewhere.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(moved.elapsed() < crate::mesh::endpoint::IDLE / 2, "{:?}", moved.elapsed());
}

#[tokio::test]
async fn a_rogue_that_advertises_our_coordinator_anew_does_not_end_the_link() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let mut peer = port.linked(&house, 1).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(matches!(peer.hear().await, Message::Detectors(_)));
    camera.hears(&house, "127.0.0.1:9".parse().unwrap(), 2);
    assert!(matches!(peer.hear().await, Message::Detectors(_)), "the link is asked");
    // It is asked again only after the first question was settled.
    let mut boots = 3..=u8::MAX;
    let again = loop {
        camera.hears(&house, "127.0.0.1:9".parse().unwrap(), boots.next().unwrap());
        if let Ok(said) = timeout(Duration::from_millis(50), peer.link.receiver.recv(&peer.connection)).await {
            break said.unwrap();
        }
    };
    assert!(matches!(again, Message::Detectors(_)));
    peer.say(house.push(7)).await;
    assert!(matches!(camera.input().await, Input::State { .. }), "and lives on");
}

#[tokio::test]
async fn fifty_rogues_do_not_keep_a_camera_from_its_coordinator() {
    let house = House::new();
    let silent: Vec<_> = (0..50).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut camera = Camera::start(&house, house.camera(), &[]);
    let (mesh, node) = (house.coordinator.mesh(), house.coordinator.node().short());
    let port = Port::of(&house);
    let rogue = |address| Candidate { address, mesh, node: node.clone(), boot: BootId([7; 4]), enroll: None };
    // Each from an address of its own, as on a real network.
    let rogues = silent.iter().zip(1..).map(|(socket, host): (_, u8)| {
        let mut address = socket.local_addr().unwrap();
        address.set_ip(std::net::IpAddr::from([127, 0, 1, host]));
        rogue(address)
    });
    camera.heard.tell(rogues.chain([rogue(port.address)]).collect());
    let started = Instant::now();
    let _peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_certificate_is_renewed_in_good_time_and_kept() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera_of(40 * DAY), &[port.address]);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    let csr = loop {
        match peer.hear().await {
            Message::Renew(renew) => break renew.csr,
            Message::Detectors(_) => {}
            other => panic!("{other:?} is no request for a certificate"),
        }
    };
    let now = house.clock.now().at;
    let chain = house.authority.issue_chain(&csr, NodeRole::Camera, &camera.identity.node(), now).unwrap();
    let foreign = house.camera();
    peer.say(Message::Renewed(RenewedV1 { chain: vec![foreign.leaf().to_vec(), foreign.issuing().to_vec()] })).await;
    peer.say(Message::Renewed(RenewedV1 { chain })).await;
    let kept = || Identity::load(camera.state_dir.path()).unwrap().unwrap();
    eventually("it is kept", async || kept().not_after() > camera.identity.not_after()).await;
    assert_eq!(kept().node(), camera.identity.node());
    let before: BTreeSet<_> = [camera.identity.leaf().to_vec()].into();
    close(&peer.connection, CloseCode::Resync);
    let (again, _) = port.met().await;
    assert!(!before.contains(crate::mesh::link::peer_certificates(&again.connection)[0].as_ref()), "and presented");
}

#[tokio::test]
async fn a_camera_that_cannot_write_its_new_certificate_stays_linked_and_presents_it() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera_of(40 * DAY), &[port.address]);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    // Its card was pulled.
    std::fs::remove_dir_all(camera.state_dir.path()).unwrap();
    let csr = loop {
        match peer.hear().await {
            Message::Renew(renew) => break renew.csr,
            Message::Detectors(_) => {}
            other => panic!("{other:?} is no request for a certificate"),
        }
    };
    let now = house.clock.now().at;
    let chain = house.authority.issue_chain(&csr, NodeRole::Camera, &camera.identity.node(), now).unwrap();
    peer.say(Message::Renewed(RenewedV1 { chain })).await;
    peer.say(house.push(7)).await;
    assert!(matches!(camera.input().await, Input::State { .. }), "the link is what it was");
    close(&peer.connection, CloseCode::Resync);
    let (again, _) = port.met().await;
    assert_ne!(camera.identity.leaf(), crate::mesh::link::peer_certificates(&again.connection)[0].as_ref());
    assert!(camera.tasks.try_join_next().is_none(), "it runs");
}

#[tokio::test]
async fn a_camera_that_lay_in_a_drawer_renews_first_and_links_then() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera_of(100 * DAY), &[port.address]);
    let (mut peer, _) = port.met().await;
    peer.say(Message::Welcome(dms3_core::protocol::message::WelcomeV1 { renew_only: true, ..house.welcome(2) })).await;
    let Message::Renew(renew) = peer.hear().await else { panic!("anything else would close the link") };
    let chain = house.authority.issue_chain(&renew.csr, NodeRole::Camera, &camera.identity.node(), house.clock.now().at).unwrap();
    peer.say(Message::Renewed(RenewedV1 { chain })).await;
    assert_eq!(peer.close_code().await, Some(CloseCode::Resync));
    assert!(camera.inputs.try_recv().is_err());
    let _peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
}

#[tokio::test]
async fn a_newer_bundle_is_kept_and_whoever_it_does_not_name_is_left() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    let bundle = |epoch, coordinators| dms3_core::protocol::message::BundleV1 {
        mesh: house.coordinator.mesh(),
        epoch,
        roots: vec![house.authority.root_der().to_vec()],
        coordinators,
    };
    let kept = || Identity::load(camera.state_dir.path()).unwrap().unwrap().bundle().epoch();
    let mut forged = house.authority.sign_bundle(&bundle(9, vec![camera.identity.node()])).unwrap();
    forged.signature[0] ^= 1;
    peer.say(Message::Bundle(forged)).await;
    peer.say(Message::Bundle(house.authority.sign_bundle(&bundle(2, vec![house.coordinator.node()])).unwrap())).await;
    eventually("the genuine one is kept", async || kept() == 2).await;
    peer.say(Message::Bundle(house.authority.sign_bundle(&bundle(3, vec![camera.identity.node()])).unwrap())).await;
    assert_eq!(peer.close_code().await, Some(CloseCode::NotACoordinator));
}

#[tokio::test]
async fn two_machines_with_one_identity_do_not_throw_each_other_out_all_the_time() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    close(&peer.connection, CloseCode::TakenOver);
    assert_eq!(camera.input().await, Input::LinkDown);
    let ended = Instant::now();
    let _peer = port.linked(&house, 2).await;
    assert!(ended.elapsed() >= TAKEN_OVER, "{:?}", ended.elapsed());
}

#[tokio::test]
async fn a_camera_keeps_the_time_of_a_welcome_and_never_that_of_a_push() {
    let house = House::new();
    house.clock.forget(house.clock.now().at - 10 * DAY);
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let welcomed = Timestamp(house.clock.now().at.0);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(house.clock.floor() >= welcomed, "the coordinator told it");
    // A coordinator whose clock is 200 days ahead writes leases by it; that is not the time.
    let time = welcomed + 200 * DAY;
    peer.say(Message::Push(dms3_core::protocol::message::PushV1 { signed: house.signed(7), time })).await;
    assert!(matches!(camera.input().await, Input::State { time: told, .. } if told == time), "the lease is measured by it");
    assert!(house.clock.floor() < welcomed + DAY);
}

fn bundle(house: &House, epoch: u64, coordinators: Vec<dms3_core::id::NodeId>) -> SignedBundleV1 {
    let roots = vec![house.authority.root_der().to_vec()];
    house
        .authority
        .sign_bundle(&dms3_core::protocol::message::BundleV1 { mesh: house.coordinator.mesh(), epoch, roots, coordinators })
        .unwrap()
}

#[tokio::test]
async fn a_welcome_whose_bundle_does_not_name_the_one_who_sent_it_makes_no_link() {
    let house = House::new();
    house.clock.forget(house.clock.now().at - 10 * DAY);
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let floor = house.clock.floor();
    let (mut peer, _) = port.met().await;
    let bundle = bundle(&house, 2, vec![camera.identity.node()]);
    peer.say(Message::Welcome(dms3_core::protocol::message::WelcomeV1 { bundle: Some(bundle), ..house.welcome(2) })).await;
    assert_eq!(peer.close_code().await, Some(CloseCode::NotACoordinator));
    let kept = Identity::load(camera.state_dir.path()).unwrap().unwrap();
    assert_eq!(kept.bundle().epoch(), 2, "the root's word is kept");
    assert!(camera.inputs.try_recv().is_err(), "and nothing of the one who handed it on");
    assert_eq!(remembered(camera.state_dir.path()), None);
    assert!(house.clock.floor().since(floor) < DAY);
}

#[tokio::test]
async fn whoever_answers_our_hello_with_anything_but_a_welcome_in_time_is_left() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let (silent, _) = port.met().await;
    let waited = Instant::now();
    assert_eq!(silent.close_code().await, Some(CloseCode::Timeout));
    assert!(waited.elapsed() > Duration::from_secs(4), "a busy coordinator has its time");
    let (mut hasty, _) = port.met().await;
    hasty.say(house.push(7)).await;
    assert_eq!(hasty.close_code().await, Some(CloseCode::Protocol));
    assert!(camera.inputs.try_recv().is_err(), "no state without a link");
    let _peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
}

#[tokio::test]
async fn a_camera_does_not_wait_for_one_who_died_after_the_handshake_when_another_is_there() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let (silent, _) = port.met().await;
    let waited = Instant::now();
    let _peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    assert!(waited.elapsed() < Duration::from_secs(3), "{:?}", waited.elapsed());
    assert_eq!(silent.close_code().await, Some(CloseCode::Spare), "whoever is silent is left");
}

#[tokio::test]
async fn a_coordinator_that_says_what_only_cameras_say_is_left() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    peer.say(Message::Detectors(DetectorsV1 { sources: Vec::new() })).await;
    assert_eq!(peer.close_code().await, Some(CloseCode::Protocol));
    assert_eq!(camera.input().await, Input::LinkDown);
}

#[tokio::test]
async fn a_camera_with_an_expired_certificate_takes_nothing_but_a_new_one() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera_of(100 * DAY), &[port.address]);
    let (mut peer, _) = port.met().await;
    peer.say(Message::Welcome(dms3_core::protocol::message::WelcomeV1 { renew_only: true, ..house.welcome(2) })).await;
    assert!(matches!(peer.hear().await, Message::Renew(_)));
    peer.say(house.push(7)).await;
    assert_eq!(peer.close_code().await, Some(CloseCode::Protocol));
    assert!(camera.inputs.try_recv().is_err());
}

#[tokio::test]
async fn a_push_that_cannot_be_read_arms_whatever_is_wrong_with_it() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera(), &[port.address]);
    for (what, frame) in [
        ("of version 2", &[0, 0, 0, 3, 0, 4, 2, 1, 1, 2, 3][..]),
        ("of nonsense", &[0, 0, 0, 3, 0, 4, 1, 1, 255, 255, 255]),
        ("of a gigabyte", &[64, 0, 0, 0, 0, 4, 1, 1]),
    ] {
        let mut peer = port.linked(&house, 2).await;
        assert_eq!(camera.input().await, Input::LinkUp, "{what}");
        peer.link.sender.send_frame(frame).await.unwrap();
        assert!(matches!(camera.input().await, Input::Unreadable { .. }), "{what}");
        assert_eq!(peer.close_code().await, Some(CloseCode::Protocol), "{what}");
        assert_eq!(camera.input().await, Input::LinkDown, "{what}");
    }
}

#[tokio::test]
async fn a_certificate_that_lasts_no_longer_than_ours_is_not_written() {
    let house = House::new();
    let port = Port::of(&house);
    let mut camera = Camera::start(&house, house.camera_of(40 * DAY), &[port.address]);
    let mut peer = port.linked(&house, 2).await;
    assert_eq!(camera.input().await, Input::LinkUp);
    let csr = camera.identity.key().csr().unwrap();
    let issued = |age| house.authority.issue_chain(&csr, NodeRole::Camera, &camera.identity.node(), house.clock.now().at - age).unwrap();
    let kept = || Identity::load(camera.state_dir.path()).unwrap().unwrap();
    peer.say(Message::Renewed(RenewedV1 { chain: issued(41 * DAY) })).await;
    peer.say(Message::Bundle(bundle(&house, 2, vec![house.coordinator.node()]))).await;
    eventually("it took what came after", async || kept().bundle().epoch() == 2).await;
    assert_eq!(kept().leaf(), camera.identity.leaf());
}

#[tokio::test]
async fn a_ring_of_another_house_is_not_listened_to() {
    let (house, other) = (House::new(), House::new());
    let (camera, heard) = (endpoint(), Heard::default());
    let bells = [(&other, endpoint()), (&house, endpoint())];
    let ours = async {
        let mut list = heard.subscribe();
        // A ring may get lost; ours comes last.
        while !list.borrow_and_update().iter().any(|one| one.mesh == house.coordinator.mesh()) {
            for (of, bell) in &bells {
                let coordinator = &of.coordinator;
                let said = crate::mesh::ring::ring(&coordinator.mesh(), &coordinator.node(), BootId([3; 4]));
                bell.ring(camera.local_addr().unwrap(), &said);
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = listen_for_rings(&camera, house.coordinator.mesh(), &heard) => {}
        ours = timeout(PATIENCE, ours) => ours.expect("ours is heard"),
    }
    assert_eq!(heard.subscribe().borrow().len(), 1);
}
