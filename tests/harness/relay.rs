//! A cable that breaks at a chosen moment: carries UDP between one machine and the enrollment port, and counts.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    cable: Arc<Cable>,
    _carrying: JoinSet<()>,
}

struct Cable {
    limit: AtomicUsize,
    /// Both directions together.
    carried: watch::Sender<usize>,
    /// Once it says so, nothing comes back any more.
    keeps: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    kept: watch::Sender<bool>,
}

impl fmt::Debug for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cable").field("limit", &self.limit).field("carried", &*self.carried.borrow()).finish_non_exhaustive()
    }
}

impl Relay {
    /// Dials on to `to` from `source`, as if the machine had that address. Carries `limit` datagrams; the later ones are lost.
    pub(crate) async fn open(to: SocketAddr, source: Ipv4Addr, limit: usize) -> Self {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let far = UdpSocket::bind((source, 0)).await.unwrap();
        far.connect(to).await.unwrap();
        let address = near.local_addr().unwrap();
        let cable = Arc::new(Cable {
            limit: limit.into(),
            carried: watch::Sender::new(0),
            keeps: OnceLock::new(),
            kept: watch::Sender::new(false),
        });
        let mut carrying = JoinSet::new();
        carrying.spawn(carry(near, far, cable.clone()));
        Self { address, cable, _carrying: carrying }
    }

    /// Waits until it has carried all that it may.
    pub(crate) async fn broke(&self) {
        let limit = self.cable.limit.load(Ordering::SeqCst);
        self.cable.carried.subscribe().wait_for(|carried| *carried >= limit).await.unwrap();
    }

    /// From now on it carries everything.
    pub(crate) fn mend(&self) {
        self.cable.limit.store(usize::MAX, Ordering::SeqCst);
    }

    /// Nothing that comes when `so` holds gets to the machine.
    pub(crate) fn keeps_back(&self, so: impl Fn() -> bool + Send + Sync + 'static) {
        assert!(self.cable.keeps.set(Box::new(so)).is_ok(), "asked once");
    }

    /// Waits until it kept something back.
    pub(crate) async fn kept(&self) {
        self.cable.kept.subscribe().wait_for(|kept| *kept).await.unwrap();
    }
}

async fn carry(near: UdpSocket, far: UdpSocket, cable: Arc<Cable>) {
    let (mut out, mut back) = ([0; 2048], [0; 2048]);
    let mut machine = None;
    loop {
        let broken = || *cable.carried.borrow() >= cable.limit.load(Ordering::SeqCst);
        // An error only says that nobody is there any more, or yet: a datagram that is lost.
        let sent = tokio::select! {
            Ok((length, from)) = near.recv_from(&mut out) => {
                machine = Some(from);
                if broken() { continue }
                far.send(&out[..length]).await
            }
            heard = far.recv(&mut back) => {
                let (Ok(length), Some(machine)) = (heard, machine) else { continue };
                if broken() { continue }
                if cable.keeps.get().is_some_and(|keeps| keeps()) {
                    cable.kept.send_replace(true);
                    continue;
                }
                near.send_to(&back[..length], machine).await
            }
        };
        drop(sent);
        cable.carried.send_modify(|count| *count += 1);
    }
}
