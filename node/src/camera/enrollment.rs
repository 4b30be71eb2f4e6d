//! Becomes a node of the house that a token names: finds its coordinator, proves the token, keeps nothing that is not verified.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use dms3_core::id::{MeshId, NodeId};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{BeginV1, DenyCode, GrantV1, StoredV1};
use dms3_core::roster::{NodeRole, check_name};
use dms3_core::time::Timestamp;
use dms3_pki::{Identity, KEY_FILE, NodeKey, TokenWord, TrustBundle, TrustedRoot, token_key};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::clock::Clock;
use crate::mesh::dial::{DialError, remember};
use crate::mesh::endpoint::canonical;
use crate::mesh::enrollment::{ALL_IN, Channel, dial};
use crate::mesh::near::Networks;

/// Candidates that are dialled at once, and how far apart the dials begin. Together with [`FIRST_PATIENCE`] fifty rogues that never
/// answer cost 13 s.
const AT_ONCE: usize = 8;
const APART: Duration = Duration::from_millis(250);
/// How long a candidate may take the first time; a lost packet is sent again after a second.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// And when its turn comes again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rest before a candidate's next turn.
const REST: Duration = Duration::from_secs(2);
/// Who is sent away because others pair right now may come again sooner than this; later only who came too often.
const CROWDED: Duration = Duration::from_secs(5);
/// A stranger may advertise thousands.
const REMEMBERED: usize = 256;

/// What a new node knows.
#[derive(Debug)]
pub struct Enrollment {
    pub token: TokenWord,
    /// Exists and is ours.
    pub state_dir: PathBuf,
    pub hostname: String,
    /// Our own address to dial from; `None`: whichever the system takes.
    pub source: Option<IpAddr>,
    pub clock: Clock,
    /// For all of it.
    pub timeout: Duration,
}

/// What it became.
#[derive(Debug)]
pub struct Enrolled {
    pub identity: Identity,
    /// The name that people know it by.
    pub name: String,
    pub mesh: MeshId,
    pub coordinator: NodeId,
    /// The mesh port of the coordinator that answered.
    pub address: SocketAddr,
}

/// The coordinator of this house said no, and will not change its mind.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.words())]
pub struct Refused(pub DenyCode);

/// How one coordinator's answer ended.
enum Answer {
    Enrolled(Box<Enrolled>),
    /// Come again.
    Busy(Duration),
    Denied(DenyCode),
    /// The connection broke: it may be tried again, nothing is lost.
    Lost(String),
}

/// Tries the candidates as they come (sooner ones first) until one proves to be the coordinator and answers. May be cut off at any point
/// and run again with the same token: the key is kept, and the coordinator gives the same key the same answer.
pub async fn enrol(request: Enrollment, candidates: mpsc::Receiver<SocketAddr>) -> anyhow::Result<Enrolled> {
    let deadline = Instant::now() + request.timeout;
    // Also a lower bound of time, for a Pi that woke up in 1970: the certificates that follow are judged by it.
    request.clock.raise(Timestamp::from_secs(u64::from(request.token.issued_at)));
    let key = Arc::new(own_key(&request)?);
    let mut search = Search::new(candidates);
    loop {
        let channel = match search.next(&request, deadline).await {
            Some(channel) => channel,
            None => bail!(search.explain(request.timeout)),
        };
        let candidate = channel.remote();
        tracing::info!("{candidate} is a coordinator of this house");
        match exchange(&request, &key, channel).await? {
            Answer::Enrolled(enrolled) => return Ok(*enrolled),
            Answer::Denied(code) => return Err(Refused(code).into()),
            Answer::Busy(wait) => {
                // Those who were sent away together do not come back together.
                let wait = wait.max(Duration::from_millis(100)).mul_f64(rand::random_range(1.0..1.5));
                if wait > CROWDED {
                    // Not others: this address has had its share.
                    println!("Too many attempts from this machine's address: again in {} s.", wait.as_secs());
                } else {
                    tracing::info!("{} (in {:.1} s)", DenyCode::Busy.words(), wait.as_secs_f64());
                }
                search.busy = true;
                search.rest(candidate, wait, None);
            }
            Answer::Lost(why) => {
                tracing::warn!("the connection with {candidate} broke: {why}; trying again");
                search.rest(candidate, Duration::from_millis(500), Some(why));
            }
        }
    }
}

/// The key that an earlier attempt left, or a new one, on disk before anybody hears of it.
fn own_key(request: &Enrollment) -> anyhow::Result<NodeKey> {
    let path = request.state_dir.join(KEY_FILE);
    if let Some(key) = NodeKey::load_if_there(&path)? {
        return Ok(key);
    }
    let key = NodeKey::generate()?;
    key.save_new(&path)?;
    Ok(key)
}

/// Whom we heard of, and whose turn it is.
struct Search {
    candidates: mpsc::Receiver<SocketAddr>,
    /// No more will come.
    exhausted: bool,
    known: BTreeMap<SocketAddr, Candidate>,
    order: u64,
    busy: bool,
}

struct Candidate {
    /// Who waits longest is next.
    turn: u64,
    not_before: Instant,
    dialling: bool,
    failures: u32,
    why: Option<String>,
    /// On a network of this machine.
    near: bool,
}

impl Search {
    fn new(candidates: mpsc::Receiver<SocketAddr>) -> Self {
        Self { candidates, exhausted: false, known: BTreeMap::new(), order: 0, busy: false }
    }

    /// The next channel to a coordinator of this house, `None` when the time is over.
    async fn next(&mut self, request: &Enrollment, deadline: Instant) -> Option<Channel> {
        let mut dials: JoinSet<(SocketAddr, Result<Channel, DialError>)> = JoinSet::new();
        let mut next_dial = Instant::now();
        let found = loop {
            let ready = self.ready().filter(|_| dials.len() < AT_ONCE);
            let wake = ready.map_or(deadline, |(_, from)| from.max(next_dial)).min(deadline);
            tokio::select! {
                biased;
                Some(ended) = dials.join_next() => match ended {
                    Ok((_, Ok(channel))) => break Some(channel),
                    Ok((candidate, Err(error))) => self.failed(candidate, &error),
                    Err(error) => tracing::error!("a dial failed: {error}"),
                },
                heard = self.candidates.recv(), if !self.exhausted => match heard {
                    Some(candidate) => self.heard(candidate),
                    None => self.exhausted = true,
                },
                () = sleep_until(wake) => {
                    if Instant::now() >= deadline {
                        break None;
                    }
                    let Some((candidate, _)) = ready else { continue };
                    next_dial = Instant::now() + APART;
                    let patience = self.begin(candidate);
                    let (source, pin, clock) = (request.source, request.token.root_pin, request.clock.clone());
                    dials.spawn(async move {
                        let result = timeout(patience, dial(source, candidate, pin, &clock)).await;
                        (candidate, result.unwrap_or_else(|_| Err(DialError::Unreachable("no answer".to_owned()))))
                    });
                }
            }
        };
        // The others are let go; their turn comes again if this one fails.
        for candidate in self.known.values_mut() {
            candidate.dialling = false;
        }
        found
    }

    fn heard(&mut self, address: SocketAddr) {
        if self.known.contains_key(&address) {
            return;
        }
        let near = Networks::read().has(address.ip());
        if self.known.len() >= REMEMBERED && !self.makes_room(near) {
            return;
        }
        tracing::debug!("candidate {address}");
        self.order += 1;
        let candidate = Candidate { turn: self.order, not_before: Instant::now(), dialling: false, failures: 0, why: None, near };
        self.known.insert(address, candidate);
    }

    /// For one more, near or not: the one goes that failed most, first of those that are not near. None that is near and was not tried yet,
    /// and none at all that would be worth more.
    fn makes_room(&mut self, near: bool) -> bool {
        let known = self.known.iter().filter(|(_, one)| !one.dialling && (one.failures > 0 || near && !one.near) && (near || !one.near));
        let least = known.max_by_key(|(_, one)| (!one.near, one.failures)).map(|(address, _)| *address);
        least.is_some_and(|address| self.known.remove(&address).is_some())
    }

    /// Whose turn is next, and from when on: who is near and was not tried yet, and then everybody in turn.
    fn ready(&self) -> Option<(SocketAddr, Instant)> {
        let now = Instant::now();
        let waiting = self.known.iter().filter(|(_, candidate)| !candidate.dialling);
        waiting
            .min_by_key(|(_, candidate)| (candidate.not_before.max(now), !candidate.near || candidate.failures > 0, candidate.turn))
            .map(|(address, candidate)| (*address, candidate.not_before))
    }

    fn begin(&mut self, address: SocketAddr) -> Duration {
        self.order += 1;
        match self.known.get_mut(&address) {
            Some(candidate) => {
                candidate.turn = self.order;
                candidate.dialling = true;
                if candidate.failures == 0 { FIRST_PATIENCE } else { PATIENCE }
            }
            None => PATIENCE,
        }
    }

    fn failed(&mut self, address: SocketAddr, error: &DialError) {
        if self.known.get(&address).is_some_and(|candidate| candidate.failures == 0) {
            match error {
                DialError::Rogue(why) => tracing::warn!("passed over a rogue coordinator at {address}: {why}"),
                DialError::Refused(why) | DialError::Unreachable(why) => tracing::info!("no coordinator at {address}: {why}"),
            }
        }
        self.rest(address, REST, Some(error.to_string()));
    }

    fn rest(&mut self, address: SocketAddr, rest: Duration, why: Option<String>) {
        if let Some(candidate) = self.known.get_mut(&address) {
            candidate.dialling = false;
            candidate.not_before = Instant::now() + rest;
            candidate.failures = candidate.failures.saturating_add(u32::from(why.is_some()));
            candidate.why = why.or(candidate.why.take());
        }
    }

    /// Why nobody let us in, and what to look at.
    fn explain(&self, waited: Duration) -> String {
        let waited = waited.as_secs();
        if self.busy {
            return format!(
                "the coordinator did not take this machine within {waited} s: it pairs others, or there were too many attempts from this address. \
                 Try again in a minute, and if that is no help, see in `dms3-node token list` there whether the word was used meanwhile \
                 (a used-up word closes the port)"
            );
        }
        if self.known.is_empty() {
            return format!(
                "no coordinator was heard within {waited} s. Check that:\n\
                 - `dms3-node token list` on the coordinator shows this token as live: a used-up word closes the port, and `token new` makes \
                 another one;\n\
                 - the coordinator runs;\n\
                 - this machine is on the same network (not on a guest or separate Wi-Fi);\n\
                 - no firewall blocks UDP 5353 (mDNS) and UDP 47101 (enrollment).\n\
                 Or say where it is: `dms3-node enroll --coordinator ADDRESS`"
            );
        }
        let mut lines: Vec<String> = self
            .known
            .iter()
            .map(|(address, candidate)| format!("- {address}: {}", candidate.why.as_deref().unwrap_or("not tried")))
            .collect();
        let more = lines.len().saturating_sub(8);
        lines.truncate(8);
        if more > 0 {
            lines.push(format!("- and {more} more"));
        }
        format!(
            "none of those who were heard or named within {waited} s is the coordinator that made this token:\n{}\n\
             Check that `dms3-node token list` on the coordinator shows this token as live (a used-up word closes the port), or say where it is: \
             `dms3-node enroll --coordinator ADDRESS`",
            lines.join("\n")
        )
    }
}

/// Steps 2 to 5 of the design, as the new node sees them. An error is a failure on this side, or an answer that must not be kept.
async fn exchange(request: &Enrollment, key: &Arc<NodeKey>, mut channel: Channel) -> anyhow::Result<Answer> {
    let csr = key.csr()?;
    let signature = token_key(&request.token.secret)?.sign_begin(&channel.exporter()?, &csr);
    let begin = BeginV1 {
        token: request.token.id,
        csr,
        hostname: request.hostname.chars().take(64).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        signature,
    };
    let answer = timeout(ALL_IN, async {
        // A coordinator that turns us away may have answered and closed before it heard all of this.
        let said = channel.write(&Message::Begin(begin)).await;
        match channel.read().await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(said.err().unwrap_or(error)),
        }
    });
    let grant = match answer.await {
        Ok(Ok(Message::Grant(grant))) => grant,
        Ok(Ok(Message::Deny(deny))) => {
            channel.finish().await;
            return match DenyCode::from_wire(deny.code) {
                Some(DenyCode::Busy) => Ok(Answer::Busy(Duration::from_millis(deny.retry_after.min(120_000).into()))),
                Some(code) => Ok(Answer::Denied(code)),
                None => {
                    bail!("the coordinator refused for a reason (code {}) that this version does not know: update this machine", deny.code)
                }
            };
        }
        Ok(Ok(_)) => bail!("the coordinator answered something else than Grant or Deny: are both nodes of the same version?"),
        Ok(Err(error)) => return Ok(Answer::Lost(format!("{error:#}"))),
        Err(_) => return Ok(Answer::Lost("no answer in time".to_owned())),
    };
    let enrolled = keep(request, key, &channel, *grant).context("the coordinator's answer is not kept")?;
    // From here on this node is enrolled, whether the coordinator hears that or not.
    if let Err(error) = channel.write(&Message::Stored(StoredV1 {})).await {
        tracing::warn!("could not tell the coordinator that all is stored: {error:#}");
    }
    channel.finished().await;
    Ok(Answer::Enrolled(Box::new(enrolled)))
}

/// Verifies all before anything is kept, then writes the identity.
fn keep(request: &Enrollment, key: &Arc<NodeKey>, channel: &Channel, grant: GrantV1) -> anyhow::Result<Enrolled> {
    let bundle = TrustBundle::verify(&grant.bundle, TrustedRoot::Pin(request.token.root_pin))?;
    let peer = dms3_pki::peer::peer_identity(&channel.peer_certs(), &bundle.mesh(), request.clock.announced())?;
    ensure!(bundle.is_coordinator(&peer.node), "the node that answered is not among the coordinators that the root signed");
    let Some(hint) = grant.coordinators.iter().find(|hint| hint.node == peer.node) else {
        bail!("the coordinator does not say on which port it is reached");
    };
    let name = check_name(&grant.name).map_err(anyhow::Error::msg)?;
    let mesh = bundle.mesh();
    // Checks that the leaf is for our key and this house, and that its chain ends at the bundle's root.
    let identity = Identity::new(key.clone(), grant.leaf, grant.issuing, bundle, request.clock.announced().max(grant.time))?;
    ensure!(identity.role() == NodeRole::Camera, "the coordinator made us something else than a camera");
    identity.store(&request.state_dir)?;
    request.clock.told(grant.time);
    if let Err(error) = request.clock.save() {
        tracing::warn!("{error:#}");
    }
    // With its scope, should it be link-local.
    let mut address = canonical(channel.remote());
    address.set_port(hint.port);
    if let Err(error) = remember(&request.state_dir, address) {
        tracing::warn!("cannot keep the address of the coordinator: {error:#}");
    }
    Ok(Enrolled { identity, name, mesh, coordinator: peer.node, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(nth: u32) -> SocketAddr {
        SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0b00_0000 + nth), 47101))
    }

    fn near(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 47101))
    }

    fn tried(search: &mut Search, address: SocketAddr) {
        search.begin(address);
        search.failed(address, &DialError::Unreachable("no answer".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_on_the_own_network_is_dialled_before_a_crowd_of_addresses_elsewhere_and_never_crowded_out() {
        let mut search = Search::new(mpsc::channel(1).1);
        (0..10_000).for_each(|nth| search.heard(far(nth)));
        assert_eq!(search.known.len(), REMEMBERED);
        search.heard(near(1));
        assert_eq!(search.ready().map(|(address, _)| address), Some(near(1)));
        tried(&mut search, near(1));
        (10_000..20_000).for_each(|nth| search.heard(far(nth)));
        assert!(search.known.contains_key(&near(1)) && search.known.len() == REMEMBERED);
        // One that was tried in vain waits its turn, and gets it.
        tokio::time::advance(REST).await;
        let mut turns = 0;
        while let Some((address, _)) = search.ready().filter(|(address, _)| *address != near(1)) {
            turns += 1;
            tried(&mut search, address);
        }
        assert_eq!(turns, REMEMBERED - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_on_the_own_network_makes_room_for_one_more_once_it_was_tried() {
        let mut search = Search::new(mpsc::channel(1).1);
        (0..REMEMBERED).for_each(|nth| search.heard(SocketAddr::from(([127, 0, 0, 1], 1000 + u16::try_from(nth).unwrap()))));
        search.heard(near(2));
        assert!(!search.known.contains_key(&near(2)), "none of them was tried yet");
        let (first, _) = search.ready().unwrap();
        tried(&mut search, first);
        search.heard(far(1));
        assert!(!search.known.contains_key(&far(1)), "one elsewhere is worth less");
        search.heard(near(2));
        assert!(search.known.contains_key(&near(2)) && !search.known.contains_key(&first));
    }

    #[tokio::test(start_paused = true)]
    async fn who_failed_most_makes_room_those_elsewhere_first_and_nobody_who_is_being_dialled() {
        let mut search = Search::new(mpsc::channel(1).1);
        let port = |nth: usize| SocketAddr::from(([127, 0, 0, 1], 1000 + u16::try_from(nth).unwrap()));
        search.heard(far(1));
        (1..REMEMBERED).for_each(|nth| search.heard(port(nth)));
        tried(&mut search, far(1));
        (0..3).for_each(|_| tried(&mut search, port(1)));
        (0..2).for_each(|_| tried(&mut search, port(2)));
        (0..4).for_each(|_| tried(&mut search, port(3)));
        search.begin(port(3));
        for (new, gone) in [(near(2), far(1)), (near(3), port(1)), (near(4), port(2))] {
            search.heard(new);
            assert!(search.known.contains_key(&new) && !search.known.contains_key(&gone), "{gone} goes first");
        }
        search.heard(near(5));
        assert!(!search.known.contains_key(&near(5)) && search.known.contains_key(&port(3)));
    }
}
