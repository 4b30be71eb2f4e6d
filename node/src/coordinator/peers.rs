//! The mesh port: lets nodes of the house in, one task for each link. A peer can end its own link and nothing else.

mod doorbells;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use dms3_core::coordinator::Input;
use dms3_core::id::{BootId, NodeId};
use dms3_core::protocol::frame::{self, CONTROL_LIMIT, FrameError, Message};
use dms3_core::protocol::message::{CloseCode, PushV1, SignedStateV1};
use dms3_core::time::Timestamp;
use dms3_pki::{Authority, Identity, tls};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::doorbells::Doorbells;
use super::events::Keeper;
use super::pace::{Lines, Pace};
use super::roster::Roster;
use super::stills::Stills;
use super::strangers::{self, Port, Strangers};
use crate::clock::Clock;
use crate::mesh::endpoint::Endpoint;
use crate::mesh::link::{ConnectionError, LinkError};
use crate::services::panic_words;

/// A push that was encoded this long ago still says the right time.
const FRESH: Duration = Duration::from_millis(100);
/// How often it is looked whether the time that Welcomes tell was set or became known.
const LOOK_AT_TIME: Duration = Duration::from_secs(60);
/// A node may be put out so often at once, and then once in this time: until then it is not let in.
const FAILURES: u32 = 20;
const FAILURE_EVERY: Duration = Duration::from_secs(10);
/// A time that moved by less is no news.
const TIME_MOVED: Duration = Duration::from_secs(120);

/// What the links of a coordinator need.
#[derive(Debug)]
pub struct PeersContext {
    pub endpoint: Endpoint,
    /// Ours; a renewed one is presented from then on.
    pub identity: watch::Receiver<Identity>,
    /// What to push, the latest one wins.
    pub state: watch::Receiver<Option<Arc<SignedStateV1>>>,
    pub inputs: mpsc::Sender<Input>,
    pub roster: Roster,
    /// A renewed issuing certificate is used from then on.
    pub authority: watch::Receiver<Arc<Authority>>,
    pub clock: Clock,
    pub boot: BootId,
    /// Where events go.
    pub keeper: Keeper,
    pub stills: Stills,
    /// What came to nothing, told.
    pub strangers: Arc<Strangers>,
    pub state_dir: PathBuf,
}

/// What all links share.
#[derive(Debug)]
struct Shared {
    context: PeersContext,
    links: Links,
    pushes: std::sync::Mutex<Option<Push>>,
    unknown_frames: Arc<AtomicU64>,
    confirmed: Confirmed,
    manners: std::sync::Mutex<HashMap<NodeId, Manners>>,
    doorbells: Doorbells,
    /// [`Clock::announced_offset`] that holds; links whose Welcome told another time are to dial again.
    told: watch::Sender<Duration>,
}

/// How a node was met lately, by all of its links.
#[derive(Debug, Default)]
struct Manners {
    /// Links that were ended for what it did, or that it did not wait for.
    failures: Pace,
    lines: Lines,
}

/// The version of the state that each node confirmed last: who comes back with less has lost its memory.
#[derive(Debug, Default)]
struct Confirmed(std::sync::Mutex<HashMap<NodeId, (u32, u64)>>);

/// One state, encoded once for all links.
#[derive(Debug)]
struct Push {
    state: Arc<SignedStateV1>,
    at: Timestamp,
    frame: Arc<[u8]>,
}

/// Which link of a node counts: the newest. One lock around the change and its telling, so that a LinkDown of an old link never follows
/// the LinkUp of the new one.
#[derive(Debug, Default)]
struct Links {
    current: Mutex<HashMap<NodeId, Current>>,
}

#[derive(Debug)]
struct Current {
    serial: u64,
    replaced: CancellationToken,
}

/// Runs until told to stop. An error means that the mesh port is gone.
pub async fn run(context: PeersContext, stop: CancellationToken) -> Result<()> {
    let endpoint = context.endpoint.clone();
    let mut identity = context.identity.clone();
    let present = identity.borrow_and_update().clone();
    serve(&context, &present)?;
    let told = watch::Sender::new(context.clock.announced_offset());
    let mut accepted = context.clock.accepted();
    let mut look_at_time = tokio::time::interval(LOOK_AT_TIME);
    let mut look_at_strangers = tokio::time::interval(strangers::LOOK);
    let shared = Arc::new(Shared {
        doorbells: Doorbells::load(&context.state_dir),
        context,
        links: Links::default(),
        pushes: std::sync::Mutex::new(None),
        unknown_frames: Arc::default(),
        confirmed: Confirmed::default(),
        manners: std::sync::Mutex::default(),
        told,
    });
    let mut sessions = JoinSet::new();
    let mut serials = HashMap::new();
    let mut serial = 0_u64;
    let mut ringing = std::pin::pin!(doorbells::run(&shared));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = &mut ringing => {}
            Ok(()) = identity.changed() => {
                let renewed = identity.borrow_and_update().clone();
                if let Err(error) = serve(&shared.context, &renewed) {
                    tracing::error!("the mesh port cannot present the renewed certificate and goes on with the old one: {error:#}");
                }
            }
            _ = look_at_time.tick() => {
                shared.look_at_time();
                shared.context.strangers.sum_up();
            }
            _ = look_at_strangers.tick() => shared.context.strangers.knocked(Port::Mesh, endpoint.knocks()),
            Ok(()) = accepted.changed() => shared.look_at_time(),
            arrival = endpoint.accept() => {
                let Some(arrival) = arrival else { bail!("the mesh port was closed") };
                serial += 1;
                let task = sessions.spawn(session::run(shared.clone(), Box::new(arrival), serial, stop.clone()));
                serials.insert(task.id(), serial);
            }
            Some(ended) = sessions.join_next_with_id() => {
                let (id, farewell) = match ended {
                    Ok((id, farewell)) => (id, farewell),
                    Err(error) => {
                        let id = error.id();
                        if let Ok(panic) = error.try_into_panic() {
                            tracing::error!("the task of a link panicked, only that link ended: {}", panic_words(panic.as_ref()));
                        }
                        (id, false)
                    }
                };
                if let Some(serial) = serials.remove(&id) {
                    shared.links.ended(serial, farewell, &shared.context.inputs).await;
                }
            }
        }
    }
    endpoint.close(CloseCode::GoingDown).await;
    sessions.shutdown().await;
    Ok(())
}

fn serve(context: &PeersContext, identity: &Identity) -> Result<()> {
    let time = Arc::new(context.clock.clone());
    let tls = tls::mesh_server(identity, Arc::new(context.roster.clone()), time)?;
    context.endpoint.serve(tls)
}

impl Shared {
    /// A Welcome tells the time once for the life of a link. If it was only what is proven then and is more now, links are made anew.
    fn look_at_time(&self) {
        let now = self.context.clock.announced_offset();
        self.told.send_if_modified(|told| {
            let moved = now.abs_diff(*told) > TIME_MOVED;
            if moved {
                *told = now;
            }
            moved
        });
    }

    /// The frame that pushes `state`. Its time is the one that `until` was written by, whatever it is worth: a lease is the difference.
    fn push(&self, state: &Arc<SignedStateV1>) -> Result<Arc<[u8]>, FrameError> {
        let now = self.context.clock.vouched_now().at;
        let mut pushes = self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pushes {
            Some(push) if Arc::ptr_eq(&push.state, state) && now.since(push.at) < FRESH => Ok(push.frame.clone()),
            _ => {
                let message = Message::Push(PushV1 { signed: SignedStateV1::clone(state), time: now });
                let frame: Arc<[u8]> = frame::encode(&message, CONTROL_LIMIT)?.into();
                *pushes = Some(Push { state: state.clone(), at: now, frame: frame.clone() });
                Ok(frame)
            }
        }
    }
}

impl Shared {
    fn manners<T>(&self, node: NodeId, of: impl FnOnce(&mut Manners) -> T) -> T {
        of(self.manners.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default())
    }

    /// What a line about this node is to end with; `None`: there were too many of them.
    fn line(&self, node: NodeId) -> Option<String> {
        self.manners(node, |manners| manners.lines.next(Instant::now()))
    }

    /// The link of the node is ended for `why`.
    fn put_out(&self, node: NodeId, why: &str) {
        self.context.keeper.offences().put_out(node, why);
        self.fell_short(node);
    }

    /// What the node came for it did not do.
    fn fell_short(&self, node: NodeId) {
        self.manners(node, |manners| manners.failures.next(FAILURES, FAILURE_EVERY, Instant::now()));
    }

    /// Whether it failed so often that it has to wait.
    fn is_in_disgrace(&self, node: NodeId) -> bool {
        self.manners(node, |manners| manners.failures.is_ahead(FAILURES, FAILURE_EVERY, Instant::now()))
    }

    /// A link of the node ended so: what is to be remembered of it.
    fn ended(&self, node: NodeId, error: &LinkError) {
        match error {
            LinkError::Frame(_) | LinkError::Unexpected(_) | LinkError::Closed(ConnectionError::TransportError(_)) => {
                self.put_out(node, &error.to_string());
            }
            // A weak network does that, too.
            LinkError::Timeout(why) => self.context.keeper.offences().limited(node, &format!("put out: {why}")),
            LinkError::Closed(_) | LinkError::Ours(_) | LinkError::Ended => {}
        }
    }
}

impl Confirmed {
    /// Only of what holds now: a liar's version is none.
    fn note(&self, node: NodeId, version: (u32, u64), latest: Option<(u32, u64)>) {
        if latest == Some(version) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node, version);
        }
    }

    /// What `node` confirmed, if it holds less now. Told once: what counts next is what it confirms next.
    fn lost(&self, node: NodeId, held: Option<(u32, u64)>) -> Option<(u32, u64)> {
        let mut confirmed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = confirmed.get(&node).copied().filter(|before| held.is_none_or(|held| held < *before))?;
        confirmed.remove(&node);
        Some(before)
    }
}

impl Links {
    /// A link of `node` is up and counts from now on. The token is cancelled when a newer one takes over.
    async fn up(&self, node: NodeId, serial: u64, input: Input, inputs: &mpsc::Sender<Input>) -> CancellationToken {
        let mut current = self.current.lock().await;
        let replaced = CancellationToken::new();
        if let Some(old) = current.insert(node, Current { serial, replaced: replaced.clone() }) {
            old.replaced.cancel();
        }
        // The driver is gone only when the node stops.
        let _ = inputs.send(input).await;
        replaced
    }

    async fn all(&self) -> HashSet<NodeId> {
        self.current.lock().await.keys().copied().collect()
    }

    async fn ended(&self, serial: u64, farewell: bool, inputs: &mpsc::Sender<Input>) {
        let mut current = self.current.lock().await;
        let Some(node) = current.iter().find(|(_, link)| link.serial == serial).map(|(node, _)| *node) else { return };
        current.remove(&node);
        if farewell {
            let _ = inputs.send(Input::Farewell { node }).await;
        }
        let _ = inputs.send(Input::LinkDown { node }).await;
    }
}
