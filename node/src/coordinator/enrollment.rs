//! Lets new nodes in: one word, one transaction, one answer. The port is open only while a token needs it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use dms3_core::enrollment::{AT_ONCE, Limits, Redeemed};
use dms3_core::fault::{Fault, FaultKind};
use dms3_core::id::NodeId;
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::{BeginV1, CoordinatorHintV1, DenyCode, DenyV1, GrantV1};
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use dms3_pki::{Authority, Identity, node_of_request, verify_begin};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::coordinator::alerts::Word;
use crate::coordinator::roster::Roster;
use crate::coordinator::strangers::{LOOK, Port, Strangers};
use crate::mesh::enrollment::{ALL_IN, Channel, Knock, Listener};
use crate::mesh::gate::Gate;
use crate::store::{Redemption, Store};

mod tokens;

pub use tokens::Tokens;

/// Characters that are shown of what a refused machine calls itself.
const HOST_SHOWN: usize = 64;
/// Connections beyond the places that are told to come again; more than that are refused unheard.
const TURNED_AWAY_AT_ONCE: usize = 24;
/// How long one of them is listened to.
const TURNED_AWAY_IN: Duration = Duration::from_secs(3);
/// A token's end is noticed at the latest then.
const RECHECK: Duration = Duration::from_secs(30);

/// All that the service needs.
#[derive(Debug, Clone)]
pub struct EnrollmentContext {
    pub store: Store,
    pub authority: watch::Receiver<Arc<Authority>>,
    pub identity: watch::Receiver<Identity>,
    pub roster: Roster,
    pub tokens: Tokens,
    pub clock: Clock,
    pub listen: SocketAddr,
    /// Where a new node dials next.
    pub mesh_port: u16,
    pub mesh_gate: Gate,
    /// The port while it is open, for the advertisement.
    pub advertise: watch::Sender<Option<u16>>,
    /// What people are told.
    pub words: mpsc::Sender<Word>,
    /// What came to nothing, told.
    pub strangers: Arc<Strangers>,
}

/// Opens and closes the port as the tokens ask, until `stop`.
pub async fn run(context: EnrollmentContext, stop: CancellationToken) -> anyhow::Result<()> {
    // However this ends, the advertisement ends with it.
    let _closed = scopeguard(&context.advertise);
    loop {
        if needed_until(&context).await?.is_some() {
            let listener = open(&context).await?;
            let port = listener.local_addr()?.port();
            tracing::info!("enrollment port {port} is open");
            context.advertise.send_replace(Some(port));
            let served = serve(&context, &listener, &stop).await;
            context.advertise.send_replace(None);
            listener.close().await;
            tracing::info!("enrollment port {port} is closed");
            served?;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = context.tokens.changed() => {}
        }
    }
}

/// When the last token that needs the port ends; `None`: nothing needs it.
async fn needed_until(context: &EnrollmentContext) -> anyhow::Result<Option<Timestamp>> {
    // By the proven time: a token whose end only a doubtful clock knows keeps the port open, and who comes is told why he must wait.
    let now = context.clock.announced();
    let tokens = context.store.tokens().await?;
    Ok(tokens.iter().filter(|token| token.needs_port(now)).map(|token| token.expires_at).max())
}

/// The socket of the last time may need a moment to go.
async fn open(context: &EnrollmentContext) -> anyhow::Result<Listener> {
    let identity = context.identity.borrow().clone();
    for _ in 0..10 {
        match Listener::open(context.listen, &identity, &context.clock) {
            Err(error) if is_in_use(&error) => tokio::time::sleep(Duration::from_millis(100)).await,
            other => return other,
        }
    }
    Listener::open(context.listen, &identity, &context.clock)
        .context("does another program use this port? `[coordinator] enroll_listen` in the config moves ours")
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Until no token needs the port.
async fn serve(context: &EnrollmentContext, listener: &Listener, stop: &CancellationToken) -> anyhow::Result<()> {
    let limits = Arc::new(Mutex::new(Limits::default()));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
    let mut exchanges = JoinSet::new();
    let mut look_at_strangers = tokio::time::interval(LOOK);
    let mut identity = context.identity.clone();
    identity.mark_unchanged();
    loop {
        let Some(until) = needed_until(context).await? else { break };
        let left = until.since(context.clock.announced()).min(RECHECK);
        let recheck = tokio::time::sleep(left);
        tokio::pin!(recheck);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = &mut recheck => break,
                _ = look_at_strangers.tick() => context.strangers.knocked(Port::Enrollment, listener.knocks()),
                () = context.tokens.changed() => break,
                Ok(()) = identity.changed() => listener.set_identity(&identity.borrow_and_update().clone(), &context.clock)?,
                Some(ended) = exchanges.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("an enrollment failed: {error}");
                    }
                }
                knock = listener.accept() => match knock {
                    Some(knock) => receive(context, knock, &limits, &turned_away, &mut exchanges),
                    None => bail!("the enrollment port closed by itself"),
                },
            }
        }
    }
    // What already began may come to its end: the last `Stored` of a token was just written down by one of these.
    let _ = tokio::time::timeout(Duration::from_secs(1), async { while exchanges.join_next().await.is_some() {} }).await;
    Ok(())
}

/// A place, or the word to come again, or nothing.
fn receive(
    context: &EnrollmentContext,
    knock: Knock,
    limits: &Arc<Mutex<Limits>>,
    turned_away: &Arc<Semaphore>,
    exchanges: &mut JoinSet<()>,
) {
    let source = knock.source();
    let place = lock(limits).begin(source, context.clock.now().mono);
    match place {
        Ok(()) => {
            let place = Place(limits.clone());
            let context = context.clone();
            exchanges.spawn(async move {
                match tokio::time::timeout(ALL_IN, enrol(&context, knock)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => context.strangers.enrollment(&format!("an enrollment from {source} ended: {error:#}")),
                    Err(_) => {
                        let seconds = ALL_IN.as_secs();
                        context.strangers.enrollment(&format!("an enrollment from {source} took longer than {seconds} s and was ended"));
                    }
                }
                drop(place);
            });
        }
        Err(wait) => {
            let Ok(permit) = turned_away.clone().try_acquire_owned() else {
                tracing::debug!("refused an enrollment from {source}: too many at once");
                return knock.refuse();
            };
            let seconds = wait.as_secs_f32().ceil();
            context.strangers.busy(&format!("an enrollment from {source} was told to come again in {seconds} s"));
            exchanges.spawn(async move {
                let _ = tokio::time::timeout(TURNED_AWAY_IN, async {
                    if let Ok(mut channel) = knock.admit().await {
                        let _ = deny(&mut channel, DenyCode::Busy, wait).await;
                        channel.finish().await;
                    }
                })
                .await;
                drop(permit);
            });
        }
    }
}

/// Steps 2 to 5 of the design, as the coordinator sees them.
async fn enrol(context: &EnrollmentContext, knock: Knock) -> anyhow::Result<()> {
    let source = knock.source();
    let mut channel = knock.admit().await?;
    let (begin, node) = match channel.read().await {
        Ok(Message::Begin(begin)) => match node_of_request(&begin.csr) {
            Ok(node) => (begin, node),
            Err(error) => {
                refuse(channel, DenyCode::Malformed).await;
                return Err(error).context("its certificate request is malformed");
            }
        },
        Ok(_) => {
            refuse(channel, DenyCode::Malformed).await;
            bail!("it did not begin with Begin");
        }
        Err(error) => {
            refuse(channel, DenyCode::Malformed).await;
            return Err(error.context("its first message cannot be read"));
        }
    };
    match decide(context, &channel, &begin, node, source).await {
        Ok(Ok(grant)) => {
            channel.write(&Message::Grant(Box::new(grant))).await.context("it did not take its certificate")?;
            match channel.read().await.context("it did not say that it stored its certificate (it may come again with the same token)")? {
                Message::Stored(_) => {}
                _ => bail!("it said something else than Stored"),
            }
            context.store.stored(begin.token, node, context.clock.vouched_now().at).await?;
            context.mesh_gate.expect(source);
            channel.finish().await;
            context.tokens.wake();
            Ok(())
        }
        Ok(Err(code)) => {
            let host: String = begin.hostname.chars().filter(|c| !c.is_control()).take(HOST_SHOWN).collect();
            let what = format!("refused {} ({host:?}) at {source} with token {}: {}", node.short(), begin.token, cause(code));
            context.strangers.enrollment(&what);
            refuse(channel, code).await;
            Ok(())
        }
        Err(error) => {
            refuse(channel, DenyCode::Internal).await;
            Err(error)
        }
    }
}

/// The answer. What is granted is in the store, and in the roster that the mesh port asks, before it is said.
async fn decide(
    context: &EnrollmentContext,
    channel: &Channel,
    begin: &BeginV1,
    node: NodeId,
    source: IpAddr,
) -> anyhow::Result<Result<GrantV1, DenyCode>> {
    if !context.clock.may_sign() {
        return Ok(Err(DenyCode::Clock));
    }
    let now = context.clock.announced();
    let Some(token) = context.store.token(begin.token).await? else { return Ok(Err(DenyCode::Token)) };
    let signature_ok = verify_begin(&token.key, &channel.exporter()?, &begin.csr, &begin.signature);
    let (redeemed, row) = match context.store.redeem(begin.token, node, signature_ok, &begin.hostname, now).await? {
        Redemption::Granted(redeemed, row) => (redeemed, row),
        Redemption::Denied { code, locked_now } => {
            if locked_now {
                let text =
                    format!("Enrollment token {} was locked: somebody at {source} tried it with wrong secrets. Make a new one.", token.id);
                tracing::error!("{text}");
                let kind = FaultKind::TokenLocked { source: source.to_string() };
                let fault = Fault::new(format!("token-locked-{}", token.id), kind, text);
                if context.words.try_send(Word::Once(fault)).is_err() {
                    tracing::error!("the alert about a locked token could not be handed on");
                }
                context.tokens.wake();
            }
            return Ok(Err(code));
        }
    };
    context.roster.refresh(&context.store).await?;
    let authority = context.authority.borrow().clone();
    let leaf = authority.issue(&begin.csr, NodeRole::Camera, &node, now)?;
    let identity = context.identity.borrow().clone();
    match redeemed {
        Redeemed::Fresh => {
            tracing::info!("enrolled {:?} ({}) from {source} with token {}", row.name, node.short(), token.id);
            let wished = token.name.as_deref().unwrap_or(&begin.hostname);
            let numbered = row.name.strip_prefix(wished).is_some_and(|number| number.starts_with(' '));
            // Who was known before keeps the name it had.
            if numbered && row.enrolled_at == now {
                tracing::info!(
                    "another node is called {wished:?}, so this one is {:?}: `dms3-node rename` gives it a better name",
                    row.name
                );
            }
        }
        Redeemed::Again => tracing::info!("{:?} ({}) at {source} asked again with token {}", row.name, node.short(), token.id),
    }
    Ok(Ok(GrantV1 {
        leaf,
        issuing: authority.issuing_der().to_vec(),
        bundle: identity.bundle().signed().clone(),
        coordinators: vec![CoordinatorHintV1 { node: identity.node(), port: context.mesh_port }],
        time: now,
        name: row.name,
    }))
}

/// For our log, where the other side's words would be the wrong ones.
fn cause(code: DenyCode) -> &'static str {
    match code {
        DenyCode::Token => "its proof of the secret is wrong, or the token is used up, expired, cancelled or not ours",
        DenyCode::Locked => "the token is locked",
        DenyCode::Revoked => "the node was revoked",
        DenyCode::Clock => "nobody vouches for this machine's clock, so nothing is signed",
        DenyCode::Malformed => "its request cannot be used",
        DenyCode::Busy => "others pair right now",
        DenyCode::Internal => "it could not be stored",
    }
}

async fn refuse(mut channel: Channel, code: DenyCode) {
    let _ = deny(&mut channel, code, Duration::ZERO).await;
    channel.finish().await;
}

async fn deny(channel: &mut Channel, code: DenyCode, retry_after: Duration) -> anyhow::Result<()> {
    let retry_after = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    channel.write(&Message::Deny(DenyV1 { code: code as u16, retry_after })).await
}

/// One of the places, given back when dropped, however the enrollment ended.
struct Place(Arc<Mutex<Limits>>);

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0).done();
    }
}

fn lock(limits: &Mutex<Limits>) -> std::sync::MutexGuard<'_, Limits> {
    limits.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the advertisement of the port when dropped.
fn scopeguard(advertise: &watch::Sender<Option<u16>>) -> impl Drop + use<> {
    struct Closed(watch::Sender<Option<u16>>);
    impl Drop for Closed {
        fn drop(&mut self) {
            self.0.send_replace(None);
        }
    }
    Closed(advertise.clone())
}

const _: () = assert!(TURNED_AWAY_AT_ONCE > AT_ONCE, "whoever is turned away is told so, in the common case");
