//! A house for tests: its authority, its coordinator, its cameras, all on loopback.

use std::sync::Arc;
use std::time::Duration;

use dms3_core::id::BootId;
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{HelloV1, PushV1, SignedStateV1, StateV1, WelcomeV1};
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow};
use dms3_core::time::Timestamp;
use dms3_pki::{AUTHORITY_DIR, Authority, Identity, KEY_FILE, NodeKey, sign_state};
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
