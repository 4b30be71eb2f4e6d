//! The enrollment port and a new node, both real, on loopback.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dms3_core::fault::FaultKind;
use dms3_core::id::{NodeId, TokenId};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{BeginV1, BundleV1, CoordinatorHintV1, DenyCode, DenyV1, GrantV1, StoredV1};
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow};
use dms3_core::time::Timestamp;
use dms3_pki::{Authority, Identity, KEY_FILE, NodeKey, TokenWord, node_of_request, token_key};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::camera::enrollment::{Enrolled, Enrollment, enrol};
use crate::clock::Clock;
use crate::coordinator::alerts::Word;
use crate::coordinator::enrollment::{self, EnrollmentContext, Tokens};
use crate::coordinator::roster::Roster;
use crate::mesh::config::Limits;
use crate::mesh::dial::{DialError, remembered};
use crate::mesh::enrollment::{Channel, Listener, dial};
use crate::mesh::gate::Gate;
use crate::store::{Redemption, Store};
use dms3_core::request::TokenRequest;

use super::{EnrollArgs, Machine, read_token, resolve, run, wipe};

const MESH_PORT: u16 = 4242;

/// A coordinator's enrollment, without the rest of it.
struct House {
    store: Store,
    roster: Roster,
    tokens: Tokens,
    clock: Clock,
    authority: Arc<Authority>,
    identity: watch::Sender<Identity>,
    port: watch::Receiver<Option<u16>>,
    words: mpsc::Receiver<Word>,
    mesh_gate: Gate,
    _stop: DropGuard,
    _tasks: JoinSet<anyhow::Result<()>>,
    _dir: TempDir,
}

impl House {
    async fn found() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::open(dir.path());
        let now = clock.now().at;
        let authority = Arc::new(Authority::create(&dir.path().join("ca"), now).unwrap());
        let identity = authority.own_identity(Arc::new(NodeKey::generate().unwrap()), now).unwrap();
        let store = Store::create(dir.path()).await.unwrap();
        let row = RosterRow {
            node: identity.node(),
            role: NodeRole::Coordinator,
            name: "house".to_owned(),
            status: NodeStatus::Active,
            enrolled_at: now,
            revoked_at: None,
            token: None,
        };
        store.add_node(&row).await.unwrap();
        let roster = Roster::new(store.roster().await.unwrap());
        let tokens = Tokens::new(store.clone(), authority.clone(), roster.clone(), clock.clone());
        let (advertise, port) = watch::channel(None);
        let identity = watch::Sender::new(identity);
        let (word, words) = mpsc::channel(8);
        let mesh_gate = Gate::new(Limits::default());
        let context = EnrollmentContext {
            strangers: Arc::default(),
            store: store.clone(),
            authority: watch::Sender::new(authority.clone()).subscribe(),
            identity: identity.subscribe(),
            roster: roster.clone(),
            tokens: tokens.clone(),
            clock: clock.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            mesh_port: MESH_PORT,
            mesh_gate: mesh_gate.clone(),
            advertise,
            words: word,
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(enrollment::run(context, stop.clone()));
        Self {
            store,
            roster,
            tokens,
            clock,
            authority,
            identity,
            port,
            words,
            mesh_gate,
            _stop: stop.drop_guard(),
            _tasks: tasks,
            _dir: dir,
        }
    }

    async fn token(&self, uses: u32) -> TokenWord {
        let request = TokenRequest { uses: Some(uses), ..TokenRequest::default() };
        let new = self.tokens.make(request).await.unwrap();
        TokenWord::parse(&new.word).unwrap()
    }

    /// Where the port is, once it is open.
    async fn address(&self) -> SocketAddr {
        let mut port = self.port.clone();
        let port = tokio::time::timeout(Duration::from_secs(10), port.wait_for(Option::is_some)).await.unwrap().unwrap().unwrap();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    async fn port_closes(&self) {
        let mut port = self.port.clone();
        tokio::time::timeout(Duration::from_secs(10), port.wait_for(Option::is_none)).await.expect("the port closes").unwrap();
    }

    async fn cameras(&self) -> Vec<RosterRow> {
        self.store.roster().await.unwrap().into_iter().filter(|row| row.role == NodeRole::Camera).collect()
    }
}

/// Another coordinator at a port of its own that stays open.
struct Rogue {
    house: House,
    address: SocketAddr,
}

impl Rogue {
    async fn appears() -> Self {
        let house = House::found().await;
        house.token(5).await;
        let address = house.address().await;
        Self { house, address }
    }
}

fn new_node(dir: &Path, token: &TokenWord) -> Enrollment {
    Enrollment {
        token: token.clone(),
        state_dir: dir.to_owned(),
        hostname: "raspberrypi".to_owned(),
        source: None,
        clock: Clock::open(dir),
        timeout: Duration::from_secs(20),
    }
}

async fn candidates(addresses: &[SocketAddr]) -> mpsc::Receiver<SocketAddr> {
    let (heard, candidates) = mpsc::channel(64);
    for address in addresses {
        heard.send(*address).await.unwrap();
    }
    candidates
}

async fn pair(dir: &Path, token: &TokenWord, addresses: &[SocketAddr]) -> anyhow::Result<Enrolled> {
    enrol(new_node(dir, token), candidates(addresses).await).await
}

/// One attempt step by step, so that a test can do each of them wrong.
struct Attempt {
    channel: Channel,
    key: NodeKey,
}

impl Attempt {
    async fn from(source: IpAddr, house: SocketAddr, token: &TokenWord) -> Self {
        let channel = dial(Some(source), house, token.root_pin, &Clock::unkept()).await.unwrap();
        Self { channel, key: NodeKey::generate().unwrap() }
    }

    fn begin(&self, token: &TokenWord) -> BeginV1 {
        let csr = self.key.csr().unwrap();
        let signature = token_key(&token.secret).unwrap().sign_begin(&self.channel.exporter().unwrap(), &csr);
        BeginV1 { token: token.id, csr, hostname: "raspberrypi".to_owned(), version: "0.1.0".to_owned(), signature }
    }

    async fn say(&mut self, begin: BeginV1) -> Result<NodeId, DenyCode> {
        self.ask(begin).await.map_err(|deny| DenyCode::from_wire(deny.code).unwrap())
    }

    async fn ask(&mut self, begin: BeginV1) -> Result<NodeId, DenyV1> {
        self.channel.write(&Message::Begin(begin)).await.unwrap();
        match self.channel.read().await.unwrap() {
            Message::Grant(_) => Ok(self.key.id()),
            Message::Deny(deny) => Err(deny),
            other => panic!("{other:?}"),
        }
    }
}

fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

#[tokio::test]
async fn one_word_makes_a_node_of_the_house_and_the_port_closes_behind_it() {
    let house = House::found().await;
    assert_eq!(*house.port.borrow(), None, "without a token the port is closed");
    let token = house.token(1).await;
    let dir = tempfile::tempdir().unwrap();
    let mut links = house.roster.subscribe();
    links.mark_unchanged();
    let enrolled = pair(dir.path(), &token, &[house.address().await]).await.unwrap();
    assert_eq!(enrolled.name, "raspberrypi");
    assert_eq!(enrolled.mesh, house.authority.mesh());
    assert_eq!(enrolled.address, SocketAddr::from(([127, 0, 0, 1], MESH_PORT)));
    assert_eq!(remembered(dir.path()), Some(enrolled.address), "it dials there first, with or without mDNS");

    let identity = Identity::load(dir.path()).unwrap().expect("the identity is on disk");
    assert_eq!(identity.node(), enrolled.identity.node());
    assert_eq!(identity.role(), NodeRole::Camera);
    let rows = house.cameras().await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].node, rows[0].status, rows[0].token), (identity.node(), NodeStatus::Active, Some(token.id)));
    assert!(links.has_changed().unwrap(), "the mesh port knows the new node at once");
    assert_eq!(house.roster.row(&identity.node()), Some(rows[0].clone()));
    house.port_closes().await;
    assert_eq!(house.store.token(token.id).await.unwrap().unwrap().stored_by, [identity.node()]);
    assert!(house.mesh_gate.knows(loopback(1)), "the mesh port keeps a place for it, whoever else comes");
}

#[tokio::test]
async fn a_node_cut_off_anywhere_pairs_with_the_same_token_and_key_the_next_time() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let dir = tempfile::tempdir().unwrap();
    // Begin was answered, the answer was lost, from four addresses: a use is taken once.
    for last in 2..6 {
        let mut attempt = Attempt::from(loopback(last), address, &token).await;
        if let Ok(key) = NodeKey::load(&dir.path().join(KEY_FILE)) {
            attempt.key = key;
        } else {
            attempt.key.save_new(&dir.path().join(KEY_FILE)).unwrap();
        }
        let begin = attempt.begin(&token);
        attempt.say(begin).await.unwrap();
    }
    assert_eq!(Identity::load(dir.path()).unwrap().map(|identity| identity.node()), None);
    let enrolled = pair(dir.path(), &token, &[address]).await.unwrap();
    let rows = house.cameras().await;
    assert_eq!(rows.iter().map(|row| row.node).collect::<Vec<_>>(), [enrolled.identity.node()]);
    assert_eq!(enrolled.name, "raspberrypi", "the first answer's name");
    house.port_closes().await;
}

#[tokio::test]
async fn a_node_killed_at_any_moment_can_be_paired_again() {
    let house = House::found().await;
    for milliseconds in [0, 1, 2, 4, 6, 8, 10, 14, 20, 30, 50] {
        let token = house.token(1).await;
        let dir = tempfile::tempdir().unwrap();
        let address = house.address().await;
        // The time only spreads where it is cut; whatever it hits must do.
        let cut = tokio::time::timeout(Duration::from_millis(milliseconds), async {
            enrol_from(loopback(u8::try_from(milliseconds).unwrap() + 10), dir.path(), &token, address).await
        });
        let _ = cut.await;
        if Identity::load(dir.path()).unwrap().is_none() {
            enrol_from(loopback(u8::try_from(milliseconds).unwrap() + 100), dir.path(), &token, address).await.unwrap();
        }
        let node = Identity::load(dir.path()).unwrap().unwrap().node();
        let used = house.store.token(token.id).await.unwrap().unwrap().used_by;
        assert_eq!(used, [node], "cut after {milliseconds} ms");
        house.tokens.cancel(&token.id.to_string()).await.unwrap();
        house.port_closes().await;
    }
    let names: HashSet<String> = house.cameras().await.into_iter().map(|row| row.name).collect();
    assert_eq!(names.len(), 11, "each one has its own name: {names:?}");
}

/// The real enrollment, dialled from a loopback address of its own.
async fn enrol_from(source: IpAddr, dir: &Path, token: &TokenWord, house: SocketAddr) -> anyhow::Result<Enrolled> {
    let node = Enrollment { source: Some(source), ..new_node(dir, token) };
    enrol(node, candidates(&[house]).await).await
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer_and_another_key_gets_none() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let mut first = Attempt::from(loopback(2), address, &token).await;
    let begin = first.begin(&token);
    let node = first.say(begin).await.unwrap();
    let mut again = Attempt::from(loopback(3), address, &token).await;
    again.key = first.key;
    let begin = again.begin(&token);
    assert_eq!(again.say(begin).await, Ok(node));
    let mut other = Attempt::from(loopback(4), address, &token).await;
    let begin = other.begin(&token);
    assert_eq!(other.say(begin).await, Err(DenyCode::Token));
    assert_eq!(house.cameras().await.len(), 1);
}

#[tokio::test]
async fn a_begin_heard_on_one_connection_is_worth_nothing_on_another() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let victim = Attempt::from(loopback(2), address, &token).await;
    let begin = victim.begin(&token);
    let mut thief = Attempt::from(loopback(3), address, &token).await;
    assert_eq!(thief.say(begin).await, Err(DenyCode::Token));
    assert_eq!(house.cameras().await, []);
}

#[tokio::test]
async fn a_request_that_is_not_signed_by_its_own_key_is_refused() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let mut attempt = Attempt::from(loopback(2), address, &token).await;
    let mut begin = attempt.begin(&token);
    let last = begin.csr.len() - 1;
    begin.csr[last] ^= 1;
    begin.signature = token_key(&token.secret).unwrap().sign_begin(&attempt.channel.exporter().unwrap(), &begin.csr);
    assert_eq!(attempt.say(begin).await, Err(DenyCode::Malformed));
    assert_eq!(house.cameras().await, []);
}

#[tokio::test]
async fn ten_wrong_signatures_lock_a_token_and_tell_people_once() {
    let mut house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    for attempt in 1..=10_u8 {
        let mut guesser = Attempt::from(loopback(attempt + 1), address, &token).await;
        let mut begin = guesser.begin(&token);
        begin.signature[0] ^= 1;
        let expected = if attempt < 10 { DenyCode::Token } else { DenyCode::Locked };
        assert_eq!(guesser.say(begin).await, Err(expected), "attempt {attempt}");
    }
    let Word::Once(fault) = house.words.recv().await.unwrap() else { panic!("it has no end") };
    assert!(fault.key.contains(&token.id.to_string()) && fault.text.contains("was locked"), "{fault:?}");
    assert_eq!(fault.kind, FaultKind::TokenLocked { source: "127.0.0.11".to_owned() });
    house.port_closes().await;
    assert!(house.words.try_recv().is_err(), "once");
    assert_eq!(house.cameras().await, []);
}

#[tokio::test]
async fn of_thirty_nodes_with_one_token_exactly_one_gets_in() {
    let house = House::found().await;
    let token = house.token(1).await;
    // Keeps the port open behind the winner, so that every loser is told why.
    house.token(1).await;
    let address = house.address().await;
    let mut nodes = JoinSet::new();
    for last in 2..32 {
        let token = token.clone();
        nodes.spawn(async move {
            let dir = tempfile::tempdir().unwrap();
            let result = enrol_from(loopback(last), dir.path(), &token, address).await;
            let stored = Identity::load(dir.path()).unwrap().is_some();
            assert_eq!(result.is_ok(), stored);
            result.map(|_| ()).map_err(|error| error.to_string())
        });
    }
    let results = nodes.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(
        results.iter().filter_map(|result| result.as_ref().err()).collect::<HashSet<_>>(),
        HashSet::from([&DenyCode::Token.words().to_owned()])
    );
    assert_eq!(house.cameras().await.len(), 1);
}

#[tokio::test]
async fn eight_pair_at_once_and_the_ninth_is_told_to_come_again() {
    let house = House::found().await;
    let token = house.token(20).await;
    let address = house.address().await;
    let mut slow = Vec::new();
    for last in 2..10 {
        slow.push(Attempt::from(loopback(last), address, &token).await);
    }
    let mut ninth = Attempt::from(loopback(10), address, &token).await;
    let begin = ninth.begin(&token);
    let deny = ninth.ask(begin).await.unwrap_err();
    assert_eq!(DenyCode::from_wire(deny.code), Some(DenyCode::Busy));
    assert!(deny.retry_after > 0);
    // A place becomes free, and the ninth gets it without anybody's help.
    slow.pop();
    let dir = tempfile::tempdir().unwrap();
    enrol_from(loopback(10), dir.path(), &token, address).await.unwrap();
}

#[tokio::test]
async fn one_address_begins_five_enrollments_a_minute() {
    let house = House::found().await;
    let token = house.token(20).await;
    let address = house.address().await;
    for _ in 0..5 {
        let mut attempt = Attempt::from(loopback(2), address, &token).await;
        let begin = attempt.begin(&token);
        attempt.say(begin).await.unwrap();
        attempt.channel.write(&Message::Stored(StoredV1 {})).await.unwrap();
        attempt.channel.finished().await;
    }
    let mut sixth = Attempt::from(loopback(2), address, &token).await;
    let begin = sixth.begin(&token);
    let deny = sixth.ask(begin).await.unwrap_err();
    assert_eq!(DenyCode::from_wire(deny.code), Some(DenyCode::Busy));
    assert!(deny.retry_after > 30_000, "{deny:?}");
    let mut another = Attempt::from(loopback(3), address, &token).await;
    let begin = another.begin(&token);
    assert!(another.say(begin).await.is_ok(), "others are not held up");
}

#[tokio::test]
async fn rogue_coordinators_are_passed_over_and_get_nothing() {
    let house = House::found().await;
    let rogue = Rogue::appears().await;
    let token = house.token(1).await;
    let error = dial(None, rogue.address, token.root_pin, &Clock::unkept()).await.unwrap_err();
    assert!(matches!(&error, DialError::Rogue(why) if why.contains("another house")), "{error}");
    // A socket that never answers, a rogue, then the real one.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let enrolled =
        pair(dir.path(), &token, &[silent.local_addr().unwrap(), rogue.address, rogue.address, house.address().await]).await.unwrap();
    assert_eq!(enrolled.mesh, house.authority.mesh());
    assert_eq!(rogue.house.cameras().await, []);
    assert!(rogue.house.store.tokens().await.unwrap().iter().all(|token| token.bad_signatures == 0), "it did not even hear a Begin");
}

#[tokio::test]
async fn a_token_of_another_house_says_who_was_heard_and_keeps_nothing() {
    let house = House::found().await;
    house.token(1).await;
    let other = House::found().await;
    let token = other.token(1).await;
    let dir = tempfile::tempdir().unwrap();
    let mut node = new_node(dir.path(), &token);
    node.timeout = Duration::from_millis(700);
    let address = house.address().await;
    let error = enrol(node, candidates(&[address]).await).await.unwrap_err().to_string();
    assert!(error.contains("none of those") && error.contains(&address.to_string()) && error.contains("another house"), "{error}");
    assert!(Identity::load(dir.path()).unwrap().is_none());
}

#[tokio::test]
async fn nobody_heard_says_what_to_check() {
    let house = House::found().await;
    let token = house.token(1).await;
    let dir = tempfile::tempdir().unwrap();
    let mut node = new_node(dir.path(), &token);
    node.timeout = Duration::from_millis(200);
    let error = enrol(node, candidates(&[]).await).await.unwrap_err().to_string();
    assert!(error.contains("no coordinator was heard") && error.contains("--coordinator"), "{error}");
}

#[tokio::test]
async fn a_cancelled_or_unknown_token_is_refused_while_another_keeps_the_port_open() {
    let house = House::found().await;
    let cancelled = house.token(1).await;
    let live = house.token(1).await;
    house.tokens.cancel(&cancelled.id.to_string()[..6]).await.unwrap();
    let mut unknown = live.clone();
    unknown.id = TokenId([0; 5]);
    let address = house.address().await;
    for token in [cancelled, unknown] {
        let dir = tempfile::tempdir().unwrap();
        let error = pair(dir.path(), &token, &[address]).await.unwrap_err().to_string();
        assert_eq!(error, DenyCode::Token.words());
        assert!(Identity::load(dir.path()).unwrap().is_none());
    }
    house.tokens.cancel(&live.id.to_string()).await.unwrap();
    house.port_closes().await;
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let house = House::found().await;
    let request = TokenRequest { ttl_secs: Some(60), ..TokenRequest::default() };
    let new = house.tokens.make(request).await.unwrap();
    let token = TokenWord::parse(&new.word).unwrap();
    let address = house.address().await;
    let mut attempt = Attempt::from(loopback(2), address, &token).await;
    let later = house.clock.now().at + Duration::from_secs(61);
    house.clock.raise(later);
    let begin = attempt.begin(&token);
    assert_eq!(attempt.say(begin).await, Err(DenyCode::Token));
    house.tokens.wake();
    house.port_closes().await;
}

#[tokio::test]
async fn a_revoked_node_is_not_let_in_again_even_by_the_token_that_it_used() {
    let house = House::found().await;
    let token = house.token(5).await;
    let dir = tempfile::tempdir().unwrap();
    let address = house.address().await;
    let enrolled = pair(dir.path(), &token, &[address]).await.unwrap();
    let revocation = house.store.revoke(enrolled.identity.node(), house.clock.now().at).await.unwrap();
    assert_eq!(revocation.cancelled, [token.id]);
    house.roster.refresh(&house.store).await.unwrap();
    house.tokens.wake();
    house.port_closes().await;
    // Another token opens the port again: the stolen key is known, and so is the stolen token.
    let fresh = house.token(5).await;
    let address = house.address().await;
    let error = enrol_from(loopback(2), dir.path(), &fresh, address).await.unwrap_err().to_string();
    assert_eq!(error, DenyCode::Revoked.words());
    let elsewhere = tempfile::tempdir().unwrap();
    let error = enrol_from(loopback(3), elsewhere.path(), &token, address).await.unwrap_err().to_string();
    assert_eq!(error, DenyCode::Token.words());
    assert_eq!(house.cameras().await.len(), 1);
}

#[tokio::test]
async fn a_coordinator_that_the_root_did_not_name_is_not_obeyed() {
    let house = House::found().await;
    // A real issuing key, a real certificate, the real root: and a bundle in which the root names somebody else.
    let stolen = house.identity.borrow().clone();
    let bundle = BundleV1 {
        mesh: house.authority.mesh(),
        epoch: 2,
        roots: vec![house.authority.root_der().to_vec()],
        coordinators: vec![NodeKey::generate().unwrap().id()],
    };
    let unnamed = stolen.with_bundle(&house.authority.sign_bundle(&bundle).unwrap()).unwrap().unwrap();
    house.identity.send_replace(unnamed);
    let token = house.token(1).await;
    let dir = tempfile::tempdir().unwrap();
    let error = format!("{:#}", pair(dir.path(), &token, &[house.address().await]).await.unwrap_err());
    assert!(error.contains("not among the coordinators that the root signed"), "{error}");
    assert!(Identity::load(dir.path()).unwrap().is_none(), "nothing is kept");
}

#[tokio::test]
async fn a_coordinator_that_does_not_trust_its_clock_makes_no_token_and_signs_nothing() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let mut attempt = Attempt::from(loopback(2), address, &token).await;
    let begin = attempt.begin(&token);
    // The machine's clock is 500 days past all that is proven.
    house.clock.forget(Timestamp(house.clock.now().at.0 - 500 * 86_400_000));
    assert_eq!(attempt.say(begin).await, Err(DenyCode::Clock));
    assert!(house.tokens.make(TokenRequest::default()).await.is_err());
    assert_eq!(house.cameras().await, []);
}

#[tokio::test]
async fn a_clock_before_what_is_proven_makes_no_token() {
    let house = House::found().await;
    house.clock.raise(house.clock.now().at + Duration::from_secs(86_400));
    let error = house.tokens.make(TokenRequest::default()).await.unwrap_err().to_string();
    assert!(error.contains("clock"), "{error}");
}

#[tokio::test]
async fn whoever_did_not_prove_his_address_gets_a_retry() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let between = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let clock = Clock::unkept();
    let first_answer = async {
        let mut bytes = [0; 2048];
        let (length, _) = between.recv_from(&mut bytes).await.unwrap();
        between.send_to(&bytes[..length], address).await.unwrap();
        while between.recv_from(&mut bytes).await.unwrap().1 != address {}
        bytes[0]
    };
    tokio::select! {
        // RFC 9000, section 17.2.5: long header, type 3.
        byte = first_answer => assert_eq!(byte & 0xf0, 0xf0, "{byte:#x} is no Retry"),
        _ = dial(None, between.local_addr().unwrap(), token.root_pin, &clock) => panic!("nobody passed the answer on"),
    }
}

#[tokio::test]
async fn a_node_that_dribbles_is_ended_after_ten_seconds() {
    let house = House::found().await;
    let token = house.token(1).await;
    let mut attempt = Attempt::from(loopback(2), house.address().await, &token).await;
    let began = tokio::time::Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    attempt.channel.write_raw(&[0, 0, 16, 0, 0, 64, 1, 1]).await.unwrap();
    while attempt.channel.write_raw(&[0]).await.is_ok() {
        pace.tick().await;
        assert!(began.elapsed() < Duration::from_secs(15), "it is still listened to");
    }
    assert!(began.elapsed() > Duration::from_secs(8), "an honest slow node has its time");
}

#[tokio::test]
async fn noise_on_the_port_hurts_nobody() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 20, 600, 1200, 1400] {
        socket.send_to(&vec![0xc3; length], address).unwrap();
    }
    // A frame that is too long, one of the wrong kind, one that is cut off.
    let mut attempt = Attempt::from(loopback(2), address, &token).await;
    attempt.channel.write_raw(&[0, 1, 0, 0, 0, 64, 1, 1]).await.unwrap();
    assert!(matches!(attempt.channel.read().await, Ok(Message::Deny(deny)) if deny.code == DenyCode::Malformed as u16));
    let mut attempt = Attempt::from(loopback(3), address, &token).await;
    attempt.channel.write(&Message::Stored(StoredV1 {})).await.unwrap();
    assert!(matches!(attempt.channel.read().await, Ok(Message::Deny(deny)) if deny.code == DenyCode::Malformed as u16));
    let mut attempt = Attempt::from(loopback(4), address, &token).await;
    attempt.channel.write_raw(&[0, 0, 1, 0, 0, 64, 1, 1, 5, 5]).await.unwrap();
    drop(attempt);
    let dir = tempfile::tempdir().unwrap();
    enrol_from(loopback(5), dir.path(), &token, address).await.unwrap();
}

fn args(token: &str) -> EnrollArgs {
    EnrollArgs { token: Some(token.to_owned()), timeout: Duration::from_secs(20), ..EnrollArgs::default() }
}

fn machine(dir: &Path, heard: &[SocketAddr]) -> Machine {
    let (send, receive) = mpsc::channel(8);
    for address in heard {
        send.try_send(*address).unwrap();
    }
    Machine { config: dir.join("etc/dms3.toml"), state_dir: dir.join("state"), is_coordinator: false, heard: Some(receive) }
}

#[tokio::test]
async fn the_command_pairs_once_writes_a_config_and_moves_house_only_when_told_to() {
    use std::os::unix::fs::PermissionsExt as _;
    let (house, other) = (House::found().await, House::found().await);
    let (word, elsewhere) = (house.token(2).await.encode(), other.token(1).await.encode());
    let here = [other.address().await, house.address().await];
    let dir = tempfile::tempdir().unwrap();
    let load = || Identity::load(&dir.path().join("state")).unwrap().unwrap();

    run(args(&word), machine(dir.path(), &here)).await.unwrap();
    let first = load();
    assert_eq!(first.mesh(), house.authority.mesh());
    let config = dir.path().join("etc/dms3.toml");
    assert!(std::fs::read_to_string(&config).unwrap().contains("role = \"camera\"\n"));
    assert_eq!(config.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(dir.path().join("state").metadata().unwrap().permissions().mode() & 0o777, 0o700);

    std::fs::write(&config, "mine").unwrap();
    run(args(&word), machine(dir.path(), &here)).await.expect("again is no error");
    assert_eq!(load().leaf(), first.leaf());
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "mine");

    let error = run(args(&elsewhere), machine(dir.path(), &here)).await.unwrap_err().to_string();
    assert!(error.contains("another house") && error.contains("--again"), "{error}");
    assert_eq!(load().leaf(), first.leaf());

    let memory = dir.path().join("state/camera.state");
    std::fs::write(&memory, "of the first house").unwrap();
    run(EnrollArgs { again: true, ..args(&elsewhere) }, machine(dir.path(), &here)).await.unwrap();
    assert_eq!(load().mesh(), other.authority.mesh());
    assert_eq!(load().node(), first.node(), "the key is the node");
    assert!(!memory.exists(), "what the other house said is forgotten");
}

#[tokio::test]
async fn a_coordinator_named_by_hand_needs_no_discovery() {
    let house = House::found().await;
    let word = house.token(1).await.encode();
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Some(format!("localhost:{}", house.address().await.port()));
    let alone = Machine { heard: None, ..machine(dir.path(), &[]) };
    run(EnrollArgs { coordinator, ..args(&word) }, alone).await.unwrap();
    assert_eq!(house.cameras().await.len(), 1);
}

#[tokio::test]
async fn a_hint_in_the_token_needs_no_discovery() {
    let house = House::found().await;
    house.token(1).await;
    let hints = vec![house.address().await];
    let new = house.tokens.make(TokenRequest { hints, ..TokenRequest::default() }).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    run(args(&new.word), Machine { heard: None, ..machine(dir.path(), &[]) }).await.unwrap();
    assert_eq!(house.cameras().await.len(), 1);
}

#[tokio::test]
async fn a_mistyped_token_and_a_coordinator_are_refused_before_anything_is_done() {
    let house = House::found().await;
    let word = house.token(1).await.encode();
    let dir = tempfile::tempdir().unwrap();
    let wrong = if &word[40..41] == "q" { "p" } else { "q" };
    let mistyped = format!("{}{wrong}{}", &word[..40], &word[41..]);
    let error = run(args(&mistyped), machine(dir.path(), &[])).await.unwrap_err().to_string();
    assert!(error.contains("typing error"), "{error}");
    assert!(!dir.path().join("state").exists());
    let coordinator = Machine { is_coordinator: true, ..machine(dir.path(), &[]) };
    let error = run(args(&word), coordinator).await.unwrap_err().to_string();
    assert!(error.contains("this is the coordinator"), "{error}");
}

#[test]
fn a_token_on_the_boot_partition_is_found_and_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dms3-token.txt");
    std::fs::write(&file, "\u{feff}DMS31Q94\r\n").unwrap();
    let none = EnrollArgs { token: None, ..args("") };
    let given = read_token(&none, &[dir.path().join("absent"), file.clone()]).unwrap().unwrap();
    assert_eq!(given.word.trim(), "DMS31Q94");
    assert_eq!(given.wipe.as_ref(), Some(&file));
    let again = std::fs::File::open(&file).unwrap();
    wipe(&file).unwrap();
    assert!(!file.exists());
    assert_eq!(std::io::read_to_string(again).unwrap(), "0".repeat(13), "what lies on the card is not the word");
    // A file that the user named is his.
    std::fs::write(&file, "word").unwrap();
    let named = EnrollArgs { token: None, token_file: Some(file), ..args("") };
    assert!(read_token(&named, &[]).unwrap().unwrap().wipe.is_none());
    let boot = EnrollArgs { token: None, boot: true, ..args("") };
    assert!(read_token(&boot, &[dir.path().join("absent")]).unwrap().is_none(), "the service asks nobody");
}

#[tokio::test]
async fn an_address_may_be_written_in_any_usual_way() {
    for (text, address) in [
        ("192.168.1.5", "192.168.1.5:47101"),
        ("192.168.1.5:9", "192.168.1.5:9"),
        ("fd00::1", "[fd00::1]:47101"),
        ("[fd00::1]", "[fd00::1]:47101"),
        ("[fd00::1]:9", "[fd00::1]:9"),
    ] {
        assert_eq!(resolve(text).await.unwrap(), [address.parse().unwrap()], "{text}");
    }
    assert!(resolve("localhost:port").await.is_err());
}

/// What a node makes of a grant that a coordinator of its house got wrong, and where it would have kept it.
async fn granted(house: &House, change: impl FnOnce(&mut GrantV1, NodeId, &[u8])) -> (anyhow::Result<Enrolled>, bool, Clock, TempDir) {
    let token = house.token(1).await;
    let coordinator = house.identity.borrow().clone();
    let listener = Listener::open("127.0.0.1:0".parse().unwrap(), &coordinator, &house.clock).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = async {
        let mut channel = listener.accept().await.unwrap().admit().await.unwrap();
        let Message::Begin(begin) = channel.read().await.unwrap() else { panic!("no Begin") };
        let node = node_of_request(&begin.csr).unwrap();
        let now = house.clock.now().at;
        let mut grant = GrantV1 {
            leaf: house.authority.issue(&begin.csr, NodeRole::Camera, &node, now).unwrap(),
            issuing: house.authority.issuing_der().to_vec(),
            bundle: coordinator.bundle().signed().clone(),
            coordinators: vec![CoordinatorHintV1 { node: coordinator.node(), port: MESH_PORT }],
            time: now + Duration::from_secs(20 * 86_400),
            name: "porch".to_owned(),
        };
        change(&mut grant, node, &begin.csr);
        channel.write(&Message::Grant(Box::new(grant))).await.unwrap();
        let stored = matches!(channel.read().await, Ok(Message::Stored(_)));
        channel.finish().await;
        stored
    };
    let dir = tempfile::tempdir().unwrap();
    let node = new_node(dir.path(), &token);
    let clock = node.clock.clone();
    let (enrolled, stored) = tokio::join!(enrol(node, candidates(&[address]).await), answer);
    (enrolled, stored, clock, dir)
}

#[tokio::test]
async fn of_an_answer_that_does_not_fit_in_every_part_nothing_is_kept() {
    let house = House::found().await;
    let soon = house.clock.now().at + Duration::from_secs(86_400);
    let coordinator = house.identity.borrow().node();
    let as_coordinator = |grant: &mut GrantV1, node: NodeId, csr: &[u8]| {
        // Even if the root itself named it.
        let roots = vec![house.authority.root_der().to_vec()];
        let bundle = BundleV1 { mesh: house.authority.mesh(), epoch: 2, roots, coordinators: vec![coordinator, node] };
        grant.bundle = house.authority.sign_bundle(&bundle).unwrap();
        grant.leaf = house.authority.issue(csr, NodeRole::Coordinator, &node, house.clock.now().at).unwrap();
    };
    type Change<'a> = Box<dyn FnOnce(&mut GrantV1, NodeId, &[u8]) + 'a>;
    let wrong: [(&str, Change<'_>); 5] = [
        ("port", Box::new(|grant, _, _| grant.coordinators.clear())),
        ("port", Box::new(|grant, node, _| grant.coordinators[0].node = node)),
        ("name", Box::new(|grant, _, _| grant.name = "po\u{1b}[2Jrch".to_owned())),
        ("name", Box::new(|grant, _, _| grant.name.clear())),
        ("something else than a camera", Box::new(as_coordinator)),
    ];
    for (what, change) in wrong {
        let (enrolled, stored, clock, dir) = granted(&house, change).await;
        let error = format!("{:#}", enrolled.unwrap_err());
        assert!(error.contains("not kept") && error.contains(what), "{what}: {error}");
        assert!(!stored, "{what}");
        assert!(Identity::load(dir.path()).unwrap().is_none(), "{what}");
        assert_eq!(remembered(dir.path()), None, "{what}");
        assert!(clock.floor() < soon, "{what}: not even the time");
        assert!(!dir.path().join("clock").exists(), "{what}");
    }
    let (enrolled, stored, clock, dir) = granted(&house, |_, _, _| ()).await;
    assert_eq!(enrolled.unwrap().name, "porch");
    assert!(stored && clock.floor() > soon && remembered(dir.path()).is_some());
}

#[tokio::test]
async fn the_coordinators_own_key_uses_no_token_up() {
    let house = House::found().await;
    let token = house.token(1).await;
    let own = house.identity.borrow().node();
    let came = house.store.redeem(token.id, own, true, "house", house.clock.now().at).await.unwrap();
    assert_eq!(came, Redemption::Denied { code: DenyCode::Malformed, locked_now: false });
    assert_eq!(house.store.token(token.id).await.unwrap().unwrap().used_by, []);
    assert_eq!(house.cameras().await, []);
}

#[tokio::test]
async fn only_the_word_that_it_is_stored_ends_a_use_of_a_token() {
    let house = House::found().await;
    let token = house.token(1).await;
    let address = house.address().await;
    let mut attempt = Attempt::from(loopback(2), address, &token).await;
    let begin = attempt.begin(&token);
    attempt.say(begin.clone()).await.unwrap();
    attempt.channel.write(&Message::Begin(begin)).await.unwrap();
    assert!(attempt.channel.read().await.is_err(), "it is not talked to any more");
    let row = house.store.token(token.id).await.unwrap().unwrap();
    assert_eq!((row.used_by, row.stored_by), (vec![attempt.key.id()], vec![]));
    let mut again = Attempt::from(loopback(3), house.address().await, &token).await;
    again.key = attempt.key;
    let begin = again.begin(&token);
    again.say(begin).await.expect("it comes again, and the port is open for it");
}
