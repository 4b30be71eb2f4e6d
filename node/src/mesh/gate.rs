//! How many handshakes a stranger may cost us. An address is believed only once it is proven; an honest one is never shut out by
//! somebody who merely writes it on his packets.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Limits;
use super::near::{Networks, masked, within};

/// For how long a failed handshake counts.
const WINDOW: Duration = Duration::from_secs(10);
/// Addresses whose account is kept; beyond it every unproven address has to prove itself first.
const ACCOUNTS: usize = 4096;
/// Addresses from which an active node came, the latest ones.
const KNOWN: usize = 1024;
/// How long the networks of our own interfaces are believed to be the same.
const NETWORKS_FOR: Duration = Duration::from_secs(10);

/// Counts handshakes. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<Mutex<Inner>>,
    limits: Limits,
}

/// What to do with somebody who knocks.
#[derive(Debug)]
pub enum Verdict {
    Enter(Pass),
    /// Let it prove its address first: costs us nothing to remember.
    Retry,
    Refuse,
}

/// One handshake under way. Dropped without [`Pass::authenticated`], it counts as failed.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    account: Account,
    good: bool,
}

/// Proven and unproven packets of one address are counted apart: anybody can send the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Account {
    address: IpAddr,
    proven: bool,
}

#[derive(Debug, Default)]
struct Inner {
    under_way: u32,
    accounts: HashMap<Account, Count>,
    /// Latest last.
    known: VecDeque<IpAddr>,
    networks: Vec<(Ipv6Addr, u32)>,
    networks_read: Option<Instant>,
}

#[derive(Debug, Default)]
struct Count {
    under_way: u32,
    failed: VecDeque<Instant>,
}

impl Gate {
    pub fn new(limits: Limits) -> Self {
        Self { inner: Arc::default(), limits }
    }

    /// `proven`: the sender showed that it receives what is sent to `from`.
    pub fn knock(&self, from: IpAddr, proven: bool, now: Instant) -> Verdict {
        let mut inner = self.lock();
        let account = Account { address: inner.subject(from, now), proven };
        let limits = &self.limits;
        let open = if inner.known.contains(&account.address) { limits.handshakes } else { limits.handshakes - limits.reserve };
        // The half without proof, so that what is left over serves those who prove themselves.
        let (open, at_once, failures) = if proven {
            (open, limits.handshakes_per_address, limits.failures_per_address)
        } else {
            (open / 2, limits.handshakes_per_address.div_ceil(2), limits.failures_per_address.div_ceil(2))
        };
        let full = inner.under_way >= open || (!inner.accounts.contains_key(&account) && !inner.has_room(now));
        let count = inner.accounts.get(&account);
        let over = count.is_some_and(|count| count.under_way >= at_once || count.failures(now) >= failures as usize);
        if full || over {
            return if proven { Verdict::Refuse } else { Verdict::Retry };
        }
        inner.under_way += 1;
        inner.accounts.entry(account).or_default().under_way += 1;
        Verdict::Enter(Pass { gate: self.clone(), account, good: false })
    }

    /// An active node will come from this address, or came: it has its share of what is kept for such.
    pub fn expect(&self, address: IpAddr) {
        let mut inner = self.lock();
        let address = inner.subject(address, Instant::now());
        inner.remember(address);
    }

    /// Whether an active node came from this address lately.
    pub fn knows(&self, address: IpAddr) -> bool {
        let mut inner = self.lock();
        let address = inner.subject(address, Instant::now());
        inner.known.contains(&address)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// An active node of the house came from here.
    pub fn authenticated(mut self) {
        self.good = true;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.under_way = inner.under_way.saturating_sub(1);
        let good = self.good;
        if let Some(count) = inner.accounts.get_mut(&self.account) {
            count.under_way = count.under_way.saturating_sub(1);
            if !good {
                count.failed.push_back(Instant::now());
                if count.failed.len() > self.gate.limits.failures_per_address as usize {
                    count.failed.pop_front();
                }
            }
        }
        if good {
            inner.remember(self.account.address);
        }
    }
}

impl Count {
    fn failures(&self, now: Instant) -> usize {
        self.failed.iter().filter(|at| now.duration_since(**at) < WINDOW).count()
    }
}

impl Inner {
    fn remember(&mut self, address: IpAddr) {
        self.known.retain(|known| *known != address);
        self.known.push_back(address);
        if self.known.len() > KNOWN {
            self.known.pop_front();
        }
    }

    /// Who is meant by an address: itself on our own networks, else of IPv6 the /64, since one customer has that many addresses.
    fn subject(&mut self, from: IpAddr, now: Instant) -> IpAddr {
        let IpAddr::V6(from) = from.to_canonical() else { return from.to_canonical() };
        if self.networks_read.is_none_or(|at| now.duration_since(at) >= NETWORKS_FOR) {
            self.networks = Networks::read().of_ipv6();
            self.networks_read = Some(now);
        }
        let ours = from.is_unicast_link_local() || from.is_loopback() || self.networks.iter().any(|(net, bits)| within(from, *net, *bits));
        IpAddr::V6(if ours { from } else { masked(from, 64) })
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.accounts.len() >= ACCOUNTS {
            self.accounts.retain(|_, count| count.under_way > 0 || count.failures(now) > 0);
        }
        self.accounts.len() < ACCOUNTS
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LIMITS: Limits = Limits { handshakes: 12, reserve: 4, handshakes_per_address: 4, failures_per_address: 10 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(gate: &Gate, from: &str, proven: bool) -> Option<Pass> {
        match gate.knock(ip(from), proven, Instant::now()) {
            Verdict::Enter(pass) => Some(pass),
            Verdict::Retry => {
                assert!(!proven, "who has proved itself is not asked again");
                None
            }
            Verdict::Refuse => {
                assert!(proven, "who has not proved itself gets the chance to");
                None
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_four_handshakes_at_once_and_ten_failures_in_ten_seconds() {
        let gate = Gate::new(LIMITS);
        let at_once: Vec<_> = (0..5).map_while(|_| enter(&gate, "192.168.1.9", true)).collect();
        assert_eq!(at_once.len(), 4);
        drop(at_once);
        for _ in 4..10 {
            drop(enter(&gate, "192.168.1.9", true).unwrap());
        }
        assert!(enter(&gate, "192.168.1.9", true).is_none());
        assert!(enter(&gate, "192.168.1.10", true).is_some(), "a neighbour is not punished");
        tokio::time::advance(WINDOW).await;
        assert!(enter(&gate, "192.168.1.9", true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn links_that_succeed_are_not_counted_against_their_address() {
        let gate = Gate::new(LIMITS);
        for _ in 0..100 {
            enter(&gate, "10.0.0.1", true).unwrap().authenticated();
        }
        assert_eq!(gate.lock().known, [ip("10.0.0.1")], "it takes the room of one");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_writes_a_cameras_address_on_his_packets_does_not_shut_it_out() {
        let gate = Gate::new(LIMITS);
        let unproven: Vec<_> = (0..100).map_while(|_| enter(&gate, "192.168.1.9", false)).collect();
        assert_eq!(unproven.len(), 2);
        drop(unproven);
        assert_eq!((0..100).map_while(|_| enter(&gate, "192.168.1.9", false)).map(drop).count(), 3, "five failures in all");
        let at_once: Vec<_> = (0..100).map_while(|_| enter(&gate, "192.168.1.9", true)).collect();
        assert_eq!(at_once.len(), 4, "what others did in its name is not its own doing");
        drop(at_once);
        assert_eq!((0..100).map_while(|_| enter(&gate, "192.168.1.9", true)).map(drop).count(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_strangers_leaves_room_for_addresses_that_nodes_came_from() {
        let gate = Gate::new(LIMITS);
        enter(&gate, "192.168.1.9", true).unwrap().authenticated();
        let crowd: Vec<_> = (0..100).filter_map(|host| enter(&gate, &format!("10.1.1.{host}"), true)).collect();
        assert_eq!(crowd.len(), 8);
        assert!(enter(&gate, "10.9.9.9", true).is_none());
        assert!(enter(&gate, "10.9.9.9", false).is_none());
        let honest: Vec<_> = (0..5).map_while(|_| enter(&gate, "192.168.1.9", true)).collect();
        assert_eq!(honest.len(), 4);
        drop(honest);
        gate.expect("::ffff:192.168.1.10".parse().unwrap());
        assert!(enter(&gate, "192.168.1.10", true).is_some(), "whoever was just paired");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_with_many_addresses_fill_no_memory() {
        let gate = Gate::new(LIMITS);
        let addresses = || (1..3 * ACCOUNTS as u32).map(|number| Ipv4Addr::from_bits(number).to_string());
        let failed = addresses().filter_map(|address| enter(&gate, &address, true)).count();
        assert_eq!((failed, gate.lock().accounts.len()), (ACCOUNTS, ACCOUNTS));
        tokio::time::advance(WINDOW).await;
        for address in addresses() {
            enter(&gate, &address, true).expect("what is long ago counts no more").authenticated();
        }
        let inner = gate.lock();
        assert!(inner.accounts.len() <= ACCOUNTS && inner.known.len() == KNOWN, "{} {}", inner.accounts.len(), inner.known.len());
    }

    #[tokio::test(start_paused = true)]
    async fn one_foreign_ipv6_network_counts_as_one_address() {
        let gate = Gate::new(LIMITS);
        let passes: Vec<_> = (1..=6).filter_map(|host| enter(&gate, &format!("2001:db8:1:2::{host}"), true)).collect();
        assert_eq!(passes.len(), 4);
        assert!(enter(&gate, "2001:db8:1:3::1", true).is_some());
        drop(passes);
        let neighbours: Vec<_> = (1..=6).filter_map(|host| enter(&gate, &format!("fe80::{host}"), true)).collect();
        assert_eq!(neighbours.len(), 6, "on the own network each one counts for itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_proves_nothing_leaves_room_for_whoever_does() {
        let gate = Gate::new(LIMITS);
        let crowd: Vec<_> = (0..100).filter_map(|host| enter(&gate, &format!("10.1.1.{host}"), false)).collect();
        assert_eq!(crowd.len(), 4);
        assert!(enter(&gate, "10.9.9.9", true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_for_years_takes_no_more_memory_than_one_that_fails_today() {
        let gate = Gate::new(LIMITS);
        for _ in 0..100 {
            drop(enter(&gate, "192.168.1.9", true).unwrap());
            tokio::time::advance(WINDOW).await;
        }
        let failed: Vec<_> = gate.lock().accounts.values().map(|count| count.failed.len()).collect();
        assert_eq!(failed, [10]);
    }

    #[tokio::test(start_paused = true)]
    async fn which_networks_are_our_own_is_looked_at_again() {
        let gate = Gate::new(LIMITS);
        let as_one = || (1..=6).filter_map(|host| enter(&gate, &format!("2001:db8:1:2::{host}"), true)).collect::<Vec<_>>().len() == 4;
        {
            let mut inner = gate.lock();
            inner.networks = vec![("2001:db8:1:2::".parse().unwrap(), 64)];
            inner.networks_read = Some(Instant::now());
        }
        assert!(!as_one(), "neighbours");
        // Link-local ones are always that.
        gate.lock().networks = Vec::new();
        assert_eq!((1..=6).filter_map(|host| enter(&gate, &format!("fe80::{host}"), true)).collect::<Vec<_>>().len(), 6);
        gate.lock().networks = vec![("2001:db8:1:2::".parse().unwrap(), 64)];
        tokio::time::advance(NETWORKS_FOR).await;
        assert!(as_one(), "this machine is not there any more");
    }
}
