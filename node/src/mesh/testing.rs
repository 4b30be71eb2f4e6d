//! A house for tests: its authority, its coordinator, its cameras, all on loopback.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dms3_core::id::BootId;
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{HelloV1, PushV1, SignedStateV1, StateV1, WelcomeV1};
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow};
use dms3_core::time::Timestamp;
use dms3_pki::{AUTHORITY_DIR, Authority, Identity, KEY_FILE, NodeKey, sign_state};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tempfile::TempDir;

use super::config::Limits;
use super::endpoint::Endpoint;
use super::keys::MeshKeys;
use crate::clock::Clock;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct House {
    /// The authority reads its root key there.
    _dir: TempDir,
    pub(crate) authority: Arc<Authority>,
    pub(crate) coordinator: Identity,
    pub(crate) clock: Clock,
}

impl House {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::alone();
        let now = clock.now().at;
        let authority = Authority::create(&dir.path().join(AUTHORITY_DIR), now).unwrap();
        let coordinator = authority.own_identity(Arc::new(NodeKey::generate().unwrap()), now).unwrap();
        Self { _dir: dir, authority: Arc::new(authority), coordinator, clock }
    }

    pub(crate) fn camera(&self) -> Identity {
        self.camera_of(Duration::ZERO)
    }

    /// With a certificate that was issued so long ago.
    pub(crate) fn camera_of(&self, age: Duration) -> Identity {
        self.node(Arc::new(NodeKey::generate().unwrap()), NodeRole::Camera, age)
    }

    fn node(&self, key: Arc<NodeKey>, role: NodeRole, age: Duration) -> Identity {
        let then = self.clock.now().at - age;
        let leaf = self.authority.issue(&key.csr().unwrap(), role, &key.id(), then).unwrap();
        let bundle = self.coordinator.bundle().as_ref().clone();
        Identity::new(key, leaf, self.authority.issuing_der().to_vec(), bundle, then).unwrap()
    }

    /// A state directory in which this identity lies, as pairing leaves it.
    pub(crate) fn state_dir(&self, identity: &Identity) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        identity.key().save_new(&dir.path().join(KEY_FILE)).unwrap();
        identity.store(dir.path()).unwrap();
        dir
    }

    pub(crate) fn state(&self, rev: u64) -> StateV1 {
        StateV1 {
            mesh: self.coordinator.mesh(),
            epoch: 1,
            rev,
            state: 3,
            reason: "a test".to_owned(),
            since: Timestamp(1),
            until: None,
            windows: Vec::new(),
            zone: "UTC".to_owned(),
        }
    }

    pub(crate) fn signed(&self, rev: u64) -> SignedStateV1 {
        sign_state(self.coordinator.key(), &self.state(rev)).unwrap()
    }

    pub(crate) fn push(&self, rev: u64) -> Message {
        Message::Push(PushV1 { signed: self.signed(rev), time: self.clock.now().at })
    }

    pub(crate) fn hello(&self) -> HelloV1 {
        HelloV1 {
            mesh: self.coordinator.mesh(),
            boot: BootId([1; 4]),
            hostname: "porch".to_owned(),
            version: "0.1.0".to_owned(),
            os: "debian 12".to_owned(),
            platform: "linux x86_64".to_owned(),
            kernel: "6".to_owned(),
            time: self.clock.now().at,
            held: None,
            bundle_epoch: self.coordinator.bundle().epoch(),
            sources: vec!["porch".to_owned()],
        }
    }

    pub(crate) fn welcome(&self, boot: u8) -> WelcomeV1 {
        WelcomeV1 { boot: BootId([boot; 4]), time: self.clock.now().at, name: "porch".to_owned(), bundle: None, renew_only: false }
    }
}

pub(crate) fn row(identity: &Identity, name: &str, status: NodeStatus) -> RosterRow {
    RosterRow {
        node: identity.node(),
        role: identity.role(),
        name: name.to_owned(),
        status,
        enrolled_at: Timestamp(0),
        revoked_at: None,
        token: None,
    }
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::bind("127.0.0.1:0".parse().unwrap(), &MeshKeys::random().unwrap(), Limits::default()).unwrap()
}

/// Waits for a fact, not for a time.
pub(crate) async fn eventually(what: &str, mut fact: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !fact().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

/// In place of the system's socket: hands over what it is given, and remembers to whom something was sent.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// As the system does: datagrams of one length, only the last is shorter, and that length.
    pub(crate) comes: Mutex<VecDeque<(Vec<u8>, usize)>>,
    pub(crate) sent: Mutex<Vec<SocketAddr>>,
}

impl AsyncUdpSocket for Wire {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        panic!("nothing waits for it")
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.sent.lock().unwrap().push(transmit.destination);
        Ok(())
    }

    fn poll_recv(&self, _: &mut Context<'_>, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let Some((bytes, stride)) = self.comes.lock().unwrap().pop_front() else { return Poll::Pending };
        buffers[0][..bytes.len()].copy_from_slice(&bytes);
        meta[0] = RecvMeta { addr: SocketAddr::from(([10, 0, 0, 9], 1)), len: bytes.len(), stride, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
    }
}

/// What a socket over a [`Wire`] hands on of what came.
pub(crate) fn handed_on(socket: &dyn AsyncUdpSocket) -> Vec<u8> {
    let (mut buffer, mut meta) = (vec![0; 64 * 1024], [RecvMeta::default()]);
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(socket.poll_recv(&mut context, &mut [IoSliceMut::new(&mut buffer)], &mut meta), Poll::Ready(Ok(1))));
    buffer.truncate(meta[0].len);
    buffer
}
