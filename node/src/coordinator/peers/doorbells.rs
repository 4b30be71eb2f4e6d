//! Where the nodes of the house were last. A coordinator that begins anew, or whose addresses change, says there that it is here: a node whose
//! link is dead without its knowledge need not find that out by itself, nor by multicast, which does not get through everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dms3_core::id::NodeId;
use dms3_pki::{Admission, Admit as _};
use tokio::sync::Notify;
use tokio::time::{interval, sleep};

use super::Shared;
use crate::mesh::ring::ring;

/// Only a hint: what cannot be read of it is as good as nothing.
const FILE: &str = "last_nodes";
/// A ring may get lost: it is said again after these times.
const RINGS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];
/// A house full of cameras that comes back is kept in a few writes.
const TOGETHER: Duration = Duration::from_millis(200);
/// How often it is looked at our own addresses.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Doorbells {
    path: PathBuf,
    known: Mutex<Known>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Known {
    last: BTreeMap<NodeId, SocketAddr>,
    changed: bool,
}

impl Doorbells {
    pub(super) fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = |line: &str| {
            let (node, address) = line.split_once(' ')?;
            Some((NodeId::parse(node).ok()?, address.parse().ok()?))
        };
        Self { path, known: Mutex::new(Known { last: text.lines().filter_map(line).collect(), changed: false }), news: Notify::new() }
    }

    /// A link of `node` is up there, or has moved there.
    pub(super) fn note(&self, node: NodeId, address: SocketAddr) {
        let mut known = self.known();
        if known.last.insert(node, address) != Some(address) {
            known.changed = true;
            self.news.notify_one();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the next start.
    async fn keep(&self, is_active: impl Fn(&NodeId) -> bool) {
        let text: String = {
            let mut known = self.known();
            if !std::mem::take(&mut known.changed) {
                return;
            }
            known.last.retain(|node, _| is_active(node));
            known.last.iter().map(|(node, address)| format!("{node} {address}\n")).collect()
        };
        let path = self.path.clone();
        let kept =
            tokio::task::spawn_blocking(move || dms3_pki::files::write_atomic(&path, text.as_bytes(), dms3_pki::files::PRIVATE)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!("where the nodes are cannot be kept for the next start: {:#}", anyhow::Error::from(error));
        }
    }
}

/// For ever.
pub(super) async fn run(shared: &Shared) {
    let keep = async {
        loop {
            shared.doorbells.news.notified().await;
            sleep(TOGETHER).await;
            shared.doorbells.keep(|node| is_active(shared, node)).await;
        }
    };
    tokio::join!(keep, ring_when_it_is_time(shared));
}

async fn ring_when_it_is_time(shared: &Shared) {
    let mut addresses = own_addresses();
    // Whoever is linked knows already.
    ring_at(shared, false).await;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = own_addresses();
        if now != addresses {
            let list: Vec<_> = now.iter().map(IpAddr::to_string).collect();
            tracing::info!("the addresses of this machine changed, its nodes are told where it is: {}", list.join(", "));
            addresses = now;
            ring_at(shared, true).await;
        }
    }
}

async fn ring_at(shared: &Shared, linked_too: bool) {
    let identity = shared.context.identity.borrow().clone();
    let said = ring(&identity.mesh(), &identity.node(), shared.context.boot);
    for wait in RINGS {
        sleep(wait).await;
        let linked = if linked_too { std::collections::HashSet::new() } else { shared.links.all().await };
        let last = shared.doorbells.known().last.clone();
        for (_, address) in last.iter().filter(|(node, _)| !linked.contains(*node) && is_active(shared, node)) {
            shared.context.endpoint.ring(*address, &said);
        }
    }
}

fn is_active(shared: &Shared, node: &NodeId) -> bool {
    matches!(shared.context.roster.admit(node), Admission::Active(_))
}

/// Those at which others may reach this machine.
fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    interfaces.filter_map(address).filter(|ip| !ip.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_nodes_were_is_known_at_the_next_start_but_for_those_that_are_out() {
        let dir = tempfile::tempdir().unwrap();
        let (porch, hall) = (NodeId([1; 32]), NodeId([2; 32]));
        let address: SocketAddr = "[fe80::1%2]:4711".parse().unwrap();
        let bells = Doorbells::load(dir.path());
        bells.note(porch, "10.0.0.7:1".parse().unwrap());
        bells.note(porch, address);
        bells.note(hall, "10.0.0.8:1".parse().unwrap());
        bells.keep(|node| *node == porch).await;
        let again = Doorbells::load(dir.path());
        assert_eq!(again.known().last, BTreeMap::from([(porch, address)]));
        // A card that is written all day wears out.
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        bells.note(porch, address);
        bells.keep(|_| true).await;
        assert!(!dir.path().join(FILE).exists(), "nothing changed");

        let torn = format!("{porch} 10.0.0.7:1\nnonsense\n{hall} 10.0.0");
        std::fs::write(dir.path().join(FILE), torn).unwrap();
        assert_eq!(Doorbells::load(dir.path()).known().last.len(), 1);
    }
}
