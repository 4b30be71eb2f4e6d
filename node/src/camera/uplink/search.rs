//! Finds a coordinator that lets us in: the last address, the configured ones, what mDNS hears; several at a time, nobody twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::id::{BootId, NodeId};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{CloseCode, WelcomeV1};
use dms3_pki::peer::peer_identity;
use dms3_pki::tls::mesh_server_name;
use futures_util::future::{Either, select};
use rand::seq::SliceRandom as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Uplink, facts};
use crate::mesh::dial::{self, DIAL, DialError, dial};
use crate::mesh::endpoint::Endpoint;
use crate::mesh::link::{Connection, Link, LinkError, close, peer_certificates};

/// Dials under way, and how far apart they begin.
const AT_ONCE: usize = 8;
const APART: Duration = Duration::from_millis(250);
/// For an address that only mDNS knows: fifty rogues that never answer must not cost minutes.
const STRANGERS_PATIENCE: Duration = Duration::from_secs(2);
/// So many of them are dialled between two dials of those that are likely.
const STRANGERS_IN_A_ROW: usize = 6;
/// A coordinator that died in the middle of a handshake never goes on with it, not even when it is back: whoever is silent for so long is
/// dialled once more beside it.
const SILENT: Duration = Duration::from_millis(700);
/// From our Hello to its Welcome.
const WELCOME: Duration = Duration::from_secs(5);
/// The same trouble is told so often.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// New ones that wait for their turn, and those that are told from new ones.
const FRESH: usize = 64;
const SEEN: usize = 4096;
/// Of those who failed for one cause, so many are told by name.
const TOLD: usize = 3;
/// Where somebody always is being dialled (a crowd that never answers), what failed is told all the same after so long.
const TELL_WITHIN: Duration = Duration::from_secs(15);

/// A link that is up.
pub(super) struct Found {
    pub(super) connection: Connection,
    pub(super) link: Link,
    pub(super) coordinator: NodeId,
    pub(super) address: SocketAddr,
    pub(super) welcome: WelcomeV1,
}

/// Where somebody may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// Where a coordinator was, or where the config says.
    Named(String),
    Known(SocketAddr),
    Heard(SocketAddr),
}

/// Who is dialled next: by turns somebody of the round and somebody who was just heard, so that neither a crowd of new ones nor a long
/// round keeps the others waiting.
#[derive(Debug, Default)]
struct Turns {
    round: VecDeque<Place>,
    fresh: VecDeque<Place>,
    rounds_turn: bool,
}

type Dialled = (Place, Result<(SocketAddr, Spare), DialError>);

/// A connection that is not our link yet. If it never comes to be, because another one does, the other side is told so.
struct Spare(Option<Connection>);

/// Our Hello to somebody whose handshake is done, one at a time: a second one would take the link over from the first.
struct Greeting {
    place: Place,
    answer: Pin<Box<dyn Future<Output = Result<Found, DialError>> + Send>>,
    /// When it has been silent for long.
    silent_at: Instant,
    /// Was dialled once more, since it is silent.
    doubted: bool,
}

impl Uplink {
    /// Begins after `wait`, or as soon as mDNS hears somebody new. An error means that this node cannot dial at all.
    pub(super) async fn search(&mut self, wait: Duration) -> Result<Found> {
        let mut list = self.heard.subscribe();
        let mut seen: HashSet<(SocketAddr, BootId)> = list.borrow_and_update().iter().map(|one| (one.address, one.boot)).collect();
        self.heard.refresh();
        let mut dials: JoinSet<Dialled> = JoinSet::new();
        let mut under_way: HashMap<Place, usize> = HashMap::new();
        let mut failed: Vec<(Place, DialError)> = Vec::new();
        let mut ready: VecDeque<(Place, SocketAddr, Spare)> = VecDeque::new();
        let mut greeting: Option<Greeting> = None;
        let mut turns = Turns::default();
        let mut round_at = Instant::now() + wait;
        let mut dial_at = Instant::now();
        let mut tell_at = Instant::now() + TELL_WITHIN;
        loop {
            let silent_at = greeting.as_ref().filter(|greeting| !greeting.doubted).map(|greeting| greeting.silent_at);
            let wake = if turns.is_empty() { dial_at.max(round_at) } else { dial_at };
            tokio::select! {
                Ok(()) = list.changed() => {
                    let mesh = self.context.identity.mesh();
                    let latest = list.borrow_and_update().clone();
                    for one in latest.iter().filter(|one| one.mesh == mesh) {
                        if seen.insert((one.address, one.boot)) {
                            // It has just started or just come near: no reason to wait for the next round.
                            turns.fresh(one.address);
                        }
                    }
                    if seen.len() > SEEN {
                        seen.clear();
                    }
                }
                () = sleep_until(wake), if dials.len() < AT_ONCE => {
                    let now = Instant::now();
                    if turns.round.is_empty() && now >= round_at {
                        turns.round = self.places();
                        if turns.is_empty() {
                            self.tell_alone();
                        }
                    }
                    if let Some(place) = turns.next().filter(|place| !seen_often(&under_way, place)) {
                        *under_way.entry(place.clone()).or_default() += 1;
                        self.begin(&mut dials, place);
                        dial_at = now + APART;
                    }
                    if turns.round.is_empty() && now >= round_at {
                        round_at = now + self.backoff.wait().max(APART);
                    }
                }
                Some(dialled) = dials.join_next() => {
                    // A dial has no reason to panic; one that did is one that failed.
                    let Ok((place, result)) = dialled else { continue };
                    match result {
                        // It counts as under way until it has answered.
                        Ok((address, connection)) => ready.push_back((place, address, connection)),
                        Err(error) => {
                            is_over(&mut under_way, &place);
                            fail(&mut failed, place, error);
                        }
                    }
                }
                answer = answer_of(&mut greeting) => {
                    let Some(Greeting { place, .. }) = greeting.take() else { continue };
                    is_over(&mut under_way, &place);
                    match answer {
                        Ok(found) => return Ok(found),
                        Err(error) => fail(&mut failed, place, error),
                    }
                }
                () = sleep_until(silent_at.unwrap_or(dial_at)), if silent_at.is_some() => {
                    if let Some(greeting) = &mut greeting {
                        greeting.doubted = true;
                        self.begin(&mut dials, greeting.place.clone());
                        *under_way.entry(greeting.place.clone()).or_default() += 1;
                    }
                }
            }
            if greeting.as_ref().is_none_or(|greeting| Instant::now() >= greeting.silent_at)
                && let Some((place, address, connection)) = ready.pop_front()
            {
                // Whom it replaces is told so by the end of its connection, before the new Hello is said.
                if let Some(silent) = greeting.take() {
                    is_over(&mut under_way, &silent.place);
                    fail(&mut failed, silent.place, DialError::Unreachable("it did not answer our Hello".to_owned()));
                }
                let answer = Box::pin(self.hello(address, connection));
                greeting = Some(Greeting { place, answer, silent_at: Instant::now() + SILENT, doubted: false });
            }
            if greeting.is_none() && !failed.is_empty() && (dials.is_empty() || Instant::now() >= tell_at) {
                self.tell(&mut failed);
                tell_at = Instant::now() + TELL_WITHIN;
            }
        }
    }

    /// A round: who is most likely to be the one comes first; of strangers, each time another.
    fn places(&self) -> VecDeque<Place> {
        let mut places: Vec<Place> = Vec::new();
        places.extend(dial::remembered(&self.context.state_dir).map(Place::Known));
        places.extend(self.context.mesh.peers.iter().cloned().map(Place::Named));
        let (mesh, bundle) = (self.context.identity.mesh(), self.context.identity.bundle().clone());
        let claims = |node: &str| bundle.coordinators().iter().any(|coordinator| coordinator.short() == node);
        let list = self.heard.subscribe().borrow().clone();
        let mut heard: Vec<_> = list.iter().filter(|one| one.mesh == mesh && !places.contains(&Place::Known(one.address))).collect();
        heard.shuffle(&mut rand::rng());
        heard.sort_by_key(|one| !claims(&one.node));
        between(&places, &heard.into_iter().map(|one| Place::Heard(one.address)).collect::<Vec<_>>())
    }

    fn begin(&self, dials: &mut JoinSet<Dialled>, place: Place) {
        let (endpoint, tls) = (self.context.endpoint.clone(), self.tls.clone());
        let name = mesh_server_name(&self.context.identity.mesh()).to_str().into_owned();
        dials.spawn(async move {
            let result = async {
                let (addresses, patience) = match &place {
                    Place::Known(address) => (vec![*address], DIAL),
                    Place::Heard(address) => (vec![*address], STRANGERS_PATIENCE),
                    Place::Named(peer) => {
                        let resolved = dial::resolve(peer).await.map_err(|error| DialError::Unreachable(format!("{error:#}")))?;
                        (resolved, DIAL)
                    }
                };
                let mut last = DialError::Unreachable("it has no address".to_owned());
                for address in addresses {
                    match timeout(patience, dial_again(&endpoint, address, &name, &tls)).await {
                        Ok(Ok(connection)) => return Ok((address, connection)),
                        Ok(Err(error)) => last = error,
                        Err(_) => last = DialError::Unreachable("no answer".to_owned()),
                    }
                }
                Err(last)
            };
            let result = result.await;
            (place, result)
        });
    }

    /// Only a Welcome makes a link: that `dial` succeeded does not mean that *our* certificate was taken.
    fn hello(&self, address: SocketAddr, spare: Spare) -> impl Future<Output = Result<Found, DialError>> + Send + use<> {
        let hello = facts::hello(&self.context);
        let (status, state_dir) = (self.context.status.clone(), self.context.state_dir.clone());
        let (unknown, clock, mesh) = (self.context.unknown.clone(), self.context.clock.clone(), self.context.identity.mesh());
        async move {
            // Let go of before it answered, it is still a spare one.
            let connection = spare.connection()?;
            let met = timeout(WELCOME, async {
                let mut link = Link::open(&connection, unknown).await?;
                link.sender.send(&Message::Hello(hello)).await?;
                let answer = link.receiver.recv(&connection).await?;
                Ok::<_, LinkError>((link, answer))
            })
            .await;
            spare.keep();
            let peer = peer_identity(&peer_certificates(&connection), &mesh, clock.announced());
            // Who it is was checked in the handshake: a stranger cannot make us believe it.
            let revoked = match &met {
                Ok(Err(error)) => error.is_revocation(),
                Ok(Ok((_, Message::Reject(reject)))) => u32::from(reject.code) == CloseCode::Revoked as u32,
                _ => false,
            };
            if revoked {
                super::is_revoked(&status, &state_dir, true);
            }
            match (met, peer) {
                (Ok(Ok((link, Message::Welcome(welcome)))), Ok(peer)) => {
                    Ok(Found { connection, link, coordinator: peer.node, address, welcome })
                }
                (Ok(Ok((_, Message::Reject(reject)))), _) => {
                    let words = CloseCode::from_wire(u64::from(reject.code))
                        .map_or("for a reason that this version does not know", CloseCode::words);
                    Err(DialError::Refused(words.to_owned()))
                }
                (Ok(Ok(_)), _) => {
                    close(&connection, CloseCode::Protocol);
                    Err(DialError::Unreachable("it answered our Hello with something else".to_owned()))
                }
                (Ok(Err(LinkError::Closed(error))), _) => Err(dial::refusal(&error)),
                (Ok(Err(error)), _) => {
                    close(&connection, error.answer());
                    Err(DialError::Unreachable(error.to_string()))
                }
                (Err(_), _) => {
                    close(&connection, CloseCode::Timeout);
                    Err(DialError::Unreachable("it did not answer our Hello".to_owned()))
                }
            }
        }
    }

    fn tell_alone(&mut self) {
        self.say("no coordinator was heard and none is configured: is it on, and on this network?".to_owned(), false);
    }

    /// One line for all that failed, and again only if it changes or after a while.
    fn tell(&mut self, failed: &mut Vec<(Place, DialError)>) {
        let mut refused = None;
        let (mut rogues, mut silent) = (Vec::new(), Vec::new());
        for (place, error) in failed.drain(..) {
            match error {
                DialError::Refused(why) => refused = Some(format!("the coordinator at {place} does not let this node in: {why}")),
                DialError::Rogue(why) => rogues.push((why, place.to_string())),
                DialError::Unreachable(why) => silent.push((why, place.to_string())),
            }
        }
        if !rogues.is_empty() {
            tracing::info!("passed over those that are no coordinator of this house: {}", by_cause(rogues));
        }
        match refused {
            Some(refused) => self.say(refused, true),
            None if silent.is_empty() => self.say("nobody who answered is a coordinator of this house".to_owned(), false),
            None => self.say(format!("no coordinator is reached: {}", by_cause(silent)), false),
        }
    }

    fn say(&mut self, trouble: String, serious: bool) {
        let now = Instant::now();
        let repeated = self.said.as_ref().is_some_and(|(said, at)| *said == trouble && now.duration_since(*at) < TELL_EVERY);
        if !repeated {
            if serious {
                tracing::warn!("{trouble}; trying on");
            } else {
                tracing::info!("{trouble}; trying on");
            }
            self.said = Some((trouble.clone(), now));
        }
        self.context.status.send_if_modified(|status| {
            let changed = status.trouble.as_ref() != Some(&trouble);
            status.trouble = Some(trouble);
            changed
        });
    }
}

/// (cause, place), so told that a crowd of one kind hides no other: "no answer (192.168.1.7:47100, 192.168.1.8:47100)".
fn by_cause(failed: Vec<(String, String)>) -> String {
    let mut causes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (why, place) in failed {
        causes.entry(why).or_default().insert(place);
    }
    let told = causes.into_iter().map(|(why, places)| {
        let more = places.len().saturating_sub(TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let places: Vec<_> = places.into_iter().take(TOLD).collect();
        format!("{why} ({}{more})", places.join(", "))
    });
    told.collect::<Vec<_>>().join("; ")
}

/// [`dial`], and once more beside it if nobody answers soon.
async fn dial_again(endpoint: &Endpoint, to: SocketAddr, name: &str, tls: &Arc<rustls::ClientConfig>) -> Result<Spare, DialError> {
    let began = Instant::now();
    let attempt = async || dial(endpoint, to, name, tls.clone()).await.map(|connection| Spare(Some(connection)));
    let second = async {
        sleep(SILENT).await;
        attempt().await
    };
    let (first, second) = (std::pin::pin!(attempt()), std::pin::pin!(second));
    match select(first, second).await {
        Either::Left((Err(DialError::Unreachable(_)), second)) if began.elapsed() >= SILENT => second.await,
        Either::Left((result, _)) => result,
        Either::Right((Err(DialError::Unreachable(_)), first)) => first.await,
        Either::Right((result, _)) => result,
    }
}

/// The likely ones again and again among the strangers: one that comes back while a crowd is being dialled is met within seconds.
fn between(likely: &[Place], strangers: &[Place]) -> VecDeque<Place> {
    let mut round: VecDeque<Place> = likely.iter().cloned().collect();
    for (nth, some) in strangers.chunks(STRANGERS_IN_A_ROW).enumerate() {
        if nth > 0 {
            round.extend(likely.iter().cloned());
        }
        round.extend(some.iter().cloned());
    }
    round
}

impl Spare {
    /// Nobody asks after it was kept.
    fn connection(&self) -> Result<Connection, DialError> {
        self.0.clone().ok_or_else(|| DialError::Unreachable("it is in use already".to_owned()))
    }

    /// How it ends is said by whoever has it now.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            close(connection, CloseCode::Spare);
        }
    }
}

impl Turns {
    fn fresh(&mut self, address: SocketAddr) {
        if self.fresh.len() < FRESH {
            self.fresh.push_back(Place::Heard(address));
        }
    }

    fn next(&mut self) -> Option<Place> {
        self.rounds_turn = !self.rounds_turn;
        if self.rounds_turn {
            self.round.pop_front().or_else(|| self.fresh.pop_front())
        } else {
            self.fresh.pop_front().or_else(|| self.round.pop_front())
        }
    }

    fn is_empty(&self) -> bool {
        self.round.is_empty() && self.fresh.is_empty()
    }
}

/// Never, while there is none.
async fn answer_of(greeting: &mut Option<Greeting>) -> Result<Found, DialError> {
    match greeting {
        Some(greeting) => greeting.answer.as_mut().await,
        None => std::future::pending().await,
    }
}

fn fail(failed: &mut Vec<(Place, DialError)>, place: Place, error: DialError) {
    tracing::debug!("{place}: {error}");
    failed.retain(|(other, _)| *other != place);
    if failed.len() >= FRESH {
        failed.remove(0);
    }
    failed.push((place, error));
}

fn is_over(under_way: &mut HashMap<Place, usize>, place: &Place) {
    if let Some(count) = under_way.get_mut(place) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            under_way.remove(place);
        }
    }
}

/// The same place is dialled a second time only when it was heard anew, and not a third time.
fn seen_often(under_way: &HashMap<Place, usize>, place: &Place) -> bool {
    let limit = if matches!(place, Place::Heard(_)) { 2 } else { 1 };
    under_way.get(place).is_some_and(|count| *count >= limit)
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(peer) => f.write_str(peer),
            Self::Known(address) | Self::Heard(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_coordinator_was_is_dialled_again_and_again_while_a_crowd_is() {
        let known = Place::Known("10.0.0.2:47100".parse().unwrap());
        let crowd: Vec<Place> = (0..50).map(|last| Place::Heard(SocketAddr::from(([10, 0, 1, last], 47100)))).collect();
        let round = between(std::slice::from_ref(&known), &crowd);
        let turns: Vec<usize> = round.iter().enumerate().filter(|(_, place)| **place == known).map(|(turn, _)| turn).collect();
        assert_eq!(turns, (0..9).map(|nth| nth * 7).collect::<Vec<_>>());
        assert_eq!(round.len(), 50 + turns.len(), "nobody is left out");
        assert_eq!(between(std::slice::from_ref(&known), &[]), [known], "alone, once in a round");
    }

    #[test]
    fn a_crowd_that_fails_for_one_cause_hides_nobody_who_fails_for_another() {
        let silent = (10..60).rev().map(|last| ("no answer".to_owned(), format!("10.0.0.{last}:47100")));
        let rogue = ("of another house".to_owned(), "10.0.0.9:47100".to_owned());
        let again = ("no answer".to_owned(), "10.0.0.10:47100".to_owned());
        assert_eq!(
            by_cause(silent.chain([rogue, again]).collect()),
            "no answer (10.0.0.10:47100, 10.0.0.11:47100, 10.0.0.12:47100 and 47 more); of another house (10.0.0.9:47100)"
        );
    }

    #[test]
    fn a_crowd_that_is_heard_or_fails_fills_no_memory_and_takes_every_second_turn() {
        let (mut turns, mut failed) = (Turns::default(), Vec::new());
        let at = |nth: u16| SocketAddr::from(([10, 0, 0, 9], nth));
        turns.round.extend([Place::Known(at(1)), Place::Known(at(2))]);
        for nth in 0..1000 {
            turns.fresh(at(nth));
            fail(&mut failed, Place::Heard(at(nth)), DialError::Unreachable("no answer".to_owned()));
        }
        assert_eq!((turns.fresh.len(), failed.len()), (FRESH, FRESH));
        let first: Vec<_> = (0..4).filter_map(|_| turns.next()).collect();
        assert_eq!(first, [Place::Known(at(1)), Place::Heard(at(0)), Place::Known(at(2)), Place::Heard(at(1))]);
    }
}
