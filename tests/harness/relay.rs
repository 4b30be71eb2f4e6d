//! A cable that breaks at a chosen datagram: carries UDP between one machine and the enrollment port, and counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    /// Both directions together.
    carried: watch::Receiver<usize>,
    limit: Arc<AtomicUsize>,
    _carrying: JoinSet<()>,
}

impl Relay {
    /// Dials on to `to` from `source`, as if the machine had that address. Carries `limit` datagrams; the later ones are lost.
    pub(crate) async fn open(to: SocketAddr, source: Ipv4Addr, limit: usize) -> Self {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let far = UdpSocket::bind((source, 0)).await.unwrap();
        far.connect(to).await.unwrap();
        let address = near.local_addr().unwrap();
        let (count, carried) = watch::channel(0);
        let limit = Arc::new(AtomicUsize::new(limit));
        let mut carrying = JoinSet::new();
        carrying.spawn(carry(near, far, count, limit.clone()));
        Self { address, carried, limit, _carrying: carrying }
    }

    /// Waits until it has carried all that it may.
    pub(crate) async fn broke(&self) {
        let limit = self.limit.load(Ordering::SeqCst);
        self.carried.clone().wait_for(|carried| *carried >= limit).await.unwrap();
    }

    /// From now on it carries everything.
    pub(crate) fn mend(&self) {
        self.limit.store(usize::MAX, Ordering::SeqCst);
    }
}

async fn carry(near: UdpSocket, far: UdpSocket, count: watch::Sender<usize>, limit: Arc<AtomicUsize>) {
    let (mut out, mut back) = ([0; 2048], [0; 2048]);
    let mut machine = None;
    loop {
        // An error only says that nobody is there any more, or yet: a datagram that is lost.
        let sent = tokio::select! {
            Ok((length, from)) = near.recv_from(&mut out) => {
                machine = Some(from);
                if *count.borrow() >= limit.load(Ordering::SeqCst) { continue }
                far.send(&out[..length]).await
            }
            heard = far.recv(&mut back) => {
                let (Ok(length), Some(machine)) = (heard, machine) else { continue };
                if *count.borrow() >= limit.load(Ordering::SeqCst) { continue }
                near.send_to(&back[..length], machine).await
            }
        };
        drop(sent);
        count.send_modify(|count| *count += 1);
    }
}
