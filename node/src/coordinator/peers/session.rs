//! One link of a coordinator, from the handshake to its end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dms3_core::coordinator::Input;
use dms3_core::id::NodeId;
use dms3_core::protocol::frame::{self, HELLO_LIMIT, Message};
use dms3_core::protocol::message::{
    AckV1, CloseCode, DetectorsV1, HelloV1, LookV1, RejectV1, RenewV1, RenewedV1, SOURCES_LIMIT, SignedStateV1, StateV1, WelcomeV1,
};
use dms3_core::roster::RosterRow;
use dms3_core::time::Timestamp;
use dms3_pki::peer::{PeerIdentity, peer_identity};
use dms3_pki::{Admission, Admit, PkiError, own_state};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::coordinator::events::Keeper;
use crate::coordinator::stills::Stills;
use crate::mesh::endpoint::{Arrival, canonical};
use crate::mesh::gate::Pass;
use crate::mesh::link::{Connection, Link, LinkError, Receiver, Sender, close, peer_certificates};
use crate::mesh::transfer::{self, Arrived, RecvStream};

/// From the handshake to the first message.
const HELLO: Duration = Duration::from_secs(5);
/// An expired node says what it came for, and goes.
const RENEWAL: Duration = Duration::from_secs(10);
/// Messages that a node may send at once, and how often one more.
pub(super) const BURST: u32 = 100;
pub(super) const REFILL: Duration = Duration::from_millis(50);
/// How often it is noted that a node says more.
const TOLD_SLOW: Duration = Duration::from_secs(60);
/// A certificate is renewed no sooner than this after the last time on one link.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Streams of events and attachments that are read at once.
const ARRIVALS: usize = 16;
/// Longest text of a node about itself.
const TEXT_LIMIT: usize = 500;

/// Why we end a link.
#[derive(Debug)]
enum End {
    Link(LinkError),
    Ours(CloseCode, String),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// Until the link ends. Whether its node said that it stops.
pub(super) async fn run(shared: Arc<Shared>, arrival: Box<Arrival>, serial: u64, stop: CancellationToken) -> bool {
    let from = arrival.from();
    // What happens once is boxed and gone after it: there is one of these tasks for each camera, for as long as it is linked.
    let (connection, pass) = match Box::pin(arrival.handshake()).await {
        Ok(met) => met,
        Err(error) => {
            shared.context.strangers.refused(from, &error);
            return false;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            close(&connection, CloseCode::GoingDown);
            false
        }
        farewell = async {
            match Box::pin(meet(&shared, &connection, pass, from, serial)).await {
                Some(linked) => Box::pin(stay(&shared, &connection, linked)).await,
                None => false,
            }
        } => farewell,
    }
}

/// A link that is up.
struct Linked {
    peer: PeerIdentity,
    row: RosterRow,
    link: Link,
    roster: watch::Receiver<Arc<[RosterRow]>>,
    /// Changes with the time that is told.
    told: watch::Receiver<Duration>,
    /// Cancelled when a newer link of the node takes over.
    replaced: CancellationToken,
}

/// From the handshake to the link, if it comes to one.
async fn meet(shared: &Shared, connection: &Connection, pass: Pass, from: SocketAddr, serial: u64) -> Option<Box<Linked>> {
    let identity = shared.context.identity.borrow().clone();
    let now = shared.context.clock.announced();
    // Before the time is told, so that no news of it falls in between.
    let told = shared.told.subscribe();
    let peer = match peer_identity(&peer_certificates(connection), &identity.mesh(), now) {
        Ok(peer) => peer,
        Err(refusal) => {
            shared.context.strangers.turned_away(from, &refusal.to_string());
            close(connection, CloseCode::NotEnrolled);
            return None;
        }
    };
    if shared.is_in_disgrace(peer.node) {
        tracing::debug!("node {} at {from} failed too often: it has to wait", peer.node.short());
        close(connection, CloseCode::Busy);
        return None;
    }
    // Before it is asked whether the node is active, so that no revocation falls in between.
    let mut roster = shared.context.roster.subscribe();
    roster.mark_unchanged();
    let met = match timeout(HELLO, greeted(shared, connection)).await {
        Ok(Ok(met)) => met,
        // No fault; but who has its key may say so, too.
        Ok(Err(error)) if error.close_code() == Some(CloseCode::Spare) => {
            if let Some(more) = shared.line(peer.node) {
                tracing::info!("node {} at {from} said no Hello: it took another of its dials{more}", peer.node.short());
            }
            return None;
        }
        Ok(Err(error)) => {
            if let Some(more) = shared.line(peer.node) {
                let told = format!("node {} at {from} said no proper Hello: {error}{more}", peer.node.short());
                // A camera that was met by another of its dials gives up those that it still waits for.
                if error.is_wordless() { tracing::info!("{told}") } else { tracing::warn!("{told}") }
            }
            shared.ended(peer.node, &error);
            close(connection, error.answer());
            return None;
        }
        Err(_) => {
            if let Some(more) = shared.line(peer.node) {
                tracing::warn!("node {} at {from} said no Hello in {} s{more}", peer.node.short(), HELLO.as_secs());
            }
            shared.ended(peer.node, &LinkError::Timeout("it said no Hello"));
            close(connection, CloseCode::Timeout);
            return None;
        }
    };
    let (mut link, mut hello) = met;
    let row = match admitted(shared, &peer, &hello, identity.node()) {
        Ok(row) => row,
        Err((code, detail)) => {
            if let Some(more) = shared.line(peer.node) {
                tracing::warn!("node {} at {from} is not let in: {detail}{more}", peer.node.short());
            }
            if matches!(code, CloseCode::Protocol | CloseCode::WrongMesh) {
                shared.put_out(peer.node, &detail);
            }
            let reject = Message::Reject(RejectV1 { code: code as u16, detail });
            link.sender.last_word(&reject, code).await;
            return None;
        }
    };
    pass.authenticated();
    tidy_hello(&mut hello);

    let welcome = WelcomeV1 {
        boot: shared.context.boot,
        time: now,
        name: row.name.clone(),
        bundle: (hello.bundle_epoch < identity.bundle().epoch()).then(|| identity.bundle().signed().clone()),
        renew_only: peer.expired,
    };
    if let Err(error) = say_welcome(&mut link.sender, welcome).await {
        if let Some(more) = shared.line(peer.node) {
            tracing::info!("node {} at {from} went before its Welcome: {error}{more}", row.name);
        }
        shared.fell_short(peer.node);
        close(connection, error.answer());
        return None;
    }
    if peer.expired {
        renew_only(shared, connection, link, &row).await;
        return None;
    }

    let held = hello.held.as_ref().and_then(|held| own(shared, held));
    let is_current = hello.held.is_some() && hello.held.as_ref() == shared.context.state.borrow().as_deref();
    if !is_current && let Some((epoch, rev)) = shared.confirmed.lost(peer.node, held.as_ref().map(StateV1::version)) {
        let holds = held.as_ref().map_or("nothing".to_owned(), |held| format!("{}.{}", held.epoch, held.rev));
        tracing::warn!(
            "node {} forgot what it had confirmed (state {epoch}.{rev}; it holds {holds}): was a backup of it restored, or is its disk damaged \
             or full? It is told anew",
            row.name
        );
    }
    let up = Input::LinkUp { node: peer.node, address: from.to_string(), hello: Box::new(hello), held, cert_end: peer.not_after };
    if let Some(more) = shared.line(peer.node) {
        tracing::info!("node {} is linked from {from}{more}", row.name);
    }
    shared.doorbells.note(peer.node, from);
    let replaced = shared.links.up(peer.node, serial, up, &shared.context.inputs).await;
    Some(Box::new(Linked { peer, row, link, roster, told, replaced }))
}

/// Until the link ends. Whether its node said that it stops.
async fn stay(shared: &Shared, connection: &Connection, mut linked: Box<Linked>) -> bool {
    let Linked { peer, row, link, roster, told, replaced } = &mut *linked;
    let end = tokio::select! {
        biased;
        () = replaced.cancelled() => End::Ours(CloseCode::TakenOver, "a newer link of it took over".to_owned()),
        code = put_out(shared, roster, peer) => End::Ours(code, code.words().to_owned()),
        Ok(()) = told.changed() => End::Ours(CloseCode::Resync, "the time of this coordinator was set or became known".to_owned()),
        end = talk(shared, connection, link, row) => end,
    };
    let at = canonical(connection.remote_address());
    match end {
        End::Ours(code, why) => {
            close(connection, code);
            if let Some(more) = shared.line(row.node) {
                tracing::info!("the link of node {} at {at} was closed: {why}{more}", row.name);
            }
            if code == CloseCode::Protocol {
                shared.put_out(row.node, &why);
            }
            false
        }
        End::Link(error) => {
            close(connection, error.answer());
            if let Some(more) = shared.line(row.node) {
                tracing::info!("the link of node {} at {at} ended: {error}{more}", row.name);
            }
            shared.ended(row.node, &error);
            error.close_code() == Some(CloseCode::GoingDown)
        }
    }
}

async fn greeted(shared: &Shared, connection: &Connection) -> Result<(Link, HelloV1), LinkError> {
    let mut link = Link::accept(connection, shared.unknown_frames.clone()).await?;
    match link.receiver.recv(connection).await? {
        Message::Hello(hello) => Ok((link, hello)),
        _ => Err(LinkError::Unexpected("before its Hello")),
    }
}

/// The roster's row of a node that may link, or why not. Asked again although the handshake asked: a revocation may have come since.
fn admitted(shared: &Shared, peer: &PeerIdentity, hello: &HelloV1, me: NodeId) -> Result<RosterRow, (CloseCode, String)> {
    let mesh = shared.context.identity.borrow().mesh();
    if hello.mesh != mesh {
        return Err((CloseCode::WrongMesh, format!("it speaks of house {}, this is house {mesh}", hello.mesh)));
    }
    if peer.node == me {
        return Err((CloseCode::Protocol, "it uses the identity of this very coordinator".to_owned()));
    }
    let refused = |code: CloseCode| (code, code.words().to_owned());
    standing(shared, peer).map_err(refused)?;
    check_sources(hello.sources.iter()).map_err(|why| (CloseCode::Protocol, why))?;
    shared.context.roster.row(&peer.node).ok_or_else(|| refused(CloseCode::NotEnrolled))
}

/// Whether the roster has an active row for this node, of the role in its certificate.
fn standing(shared: &Shared, peer: &PeerIdentity) -> Result<(), CloseCode> {
    match shared.context.roster.admit(&peer.node) {
        Admission::Active(role) if role == peer.role => Ok(()),
        Admission::Revoked => Err(CloseCode::Revoked),
        Admission::Active(_) | Admission::Unknown => Err(CloseCode::NotEnrolled),
    }
}

/// The bundle goes along if the first frame has room for it, else right behind.
async fn say_welcome(sender: &mut Sender, mut welcome: WelcomeV1) -> Result<(), LinkError> {
    if frame::encode(&Message::Welcome(welcome.clone()), HELLO_LIMIT).is_ok() {
        return sender.send(&Message::Welcome(welcome)).await;
    }
    let bundle = welcome.bundle.take();
    sender.send(&Message::Welcome(welcome)).await?;
    match bundle {
        Some(bundle) => sender.send(&Message::Bundle(bundle)).await,
        None => Ok(()),
    }
}

/// A certificate that expired in a drawer: the roster pins its key, so it may have a new one, and nothing else.
async fn renew_only(shared: &Shared, connection: &Connection, mut link: Link, row: &RosterRow) {
    let result = timeout(RENEWAL, async {
        match link.receiver.recv(connection).await? {
            Message::Renew(renew) => {
                if renewed(shared, &mut link.sender, row, &renew).await?.is_none() {
                    return Ok(CloseCode::Busy);
                }
                // It closes once it has stored the certificate.
                let error = link.receiver.recv(connection).await.err();
                Ok(error.map_or(CloseCode::RenewOnly, |error| error.answer()))
            }
            _ => Ok(CloseCode::RenewOnly),
        }
    })
    .await;
    let code = match result {
        Ok(Ok(code)) => code,
        Ok(Err(End::Ours(code, why))) => {
            tracing::warn!("the expired certificate of node {} was not renewed: {why}", row.name);
            code
        }
        Ok(Err(End::Link(error))) => error.answer(),
        Err(_) => CloseCode::Timeout,
    };
    if code == CloseCode::RenewOnly {
        tracing::warn!("node {} has an expired certificate and asked for something else than a new one", row.name);
        shared.put_out(row.node, "its certificate is expired, and it asked for something else than a new one");
    }
    close(connection, code);
}

/// Returns when the node is not what it was in the roster.
async fn put_out(shared: &Shared, roster: &mut watch::Receiver<Arc<[RosterRow]>>, peer: &PeerIdentity) -> CloseCode {
    loop {
        if let Err(code) = standing(shared, peer) {
            return code;
        }
        if roster.changed().await.is_err() {
            return CloseCode::GoingDown;
        }
    }
}

/// Until the link ends. Whoever drops this closes the link: a frame may have been sent half. What is done about something is boxed, so that a
/// link that waits holds no room for it.
async fn talk(shared: &Shared, connection: &Connection, link: &mut Link, row: &RosterRow) -> End {
    let Link { sender, receiver } = link;
    let mut state = shared.context.state.clone();
    let mut identity = shared.context.identity.clone();
    let mut bundle_epoch = identity.borrow_and_update().bundle().epoch();
    state.mark_changed();
    let mut course = Course { budget: Budget::new(Instant::now()), slowed_at: None, renewed_at: None, at: connection.remote_address() };
    let mut arrivals = JoinSet::new();
    let wanted = shared.context.stills.linked(row.node);
    loop {
        let waits = course.budget.waits(Instant::now());
        if waits.is_some() && course.slowed_at.is_none_or(|at| at.elapsed() >= TOLD_SLOW) {
            course.slowed_at = Some(Instant::now());
            shared.context.keeper.offences().limited(row.node, "it says more than anybody has to say: it is read slowly");
        }
        let step = tokio::select! {
            // What is to be watched goes before what was seen.
            biased;
            Ok(()) = state.changed() => {
                let latest = state.borrow_and_update().clone();
                match latest {
                    Some(latest) => Box::pin(push(shared, sender, latest)).await,
                    None => Ok(()),
                }
            }
            Ok(()) = identity.changed() => {
                let bundle = identity.borrow_and_update().bundle().clone();
                if bundle.epoch() > bundle_epoch {
                    bundle_epoch = bundle.epoch();
                    Box::pin(say(sender, Message::Bundle(bundle.signed().clone()))).await
                } else {
                    Ok(())
                }
            }
            source = wanted.next() => Box::pin(say(sender, Message::Look(LookV1 { source }))).await,
            () = sleep_until(waits.unwrap_or_else(Instant::now)), if waits.is_some() => Ok(()),
            Some(arrived) = arrivals.join_next() => match arrived {
                Ok(Ok(Some(answer))) => Box::pin(say(sender, answer)).await,
                Ok(Ok(None)) => Ok(()),
                Ok(Err(error)) => Err(End::Link(error)),
                Err(error) => {
                    tracing::error!("taking an event of node {} panicked: {error}", row.name);
                    Ok(())
                }
            },
            stream = transfer::accept(connection), if arrivals.len() < ARRIVALS => match stream {
                Ok(stream) => {
                    arrivals.spawn(arrived(shared.context.keeper.clone(), shared.context.stills.clone(), connection.clone(), row.clone(), stream));
                    Ok(())
                }
                Err(error) => Err(End::Link(error)),
            },
            message = next(receiver, connection), if waits.is_none() => match message {
                Ok(message) => Box::pin(took(shared, connection, sender, row, &mut course, message)).await,
                Err(error) => Err(End::Link(error)),
            },
        };
        if let Err(end) = step {
            return end;
        }
    }
}

/// What a link remembers of its messages.
struct Course {
    budget: Budget,
    slowed_at: Option<Instant>,
    renewed_at: Option<Instant>,
    at: SocketAddr,
}

async fn next(receiver: &mut Receiver, connection: &Connection) -> Result<Box<Message>, LinkError> {
    receiver.recv(connection).await.map(Box::new)
}

async fn took(
    shared: &Shared,
    connection: &Connection,
    sender: &mut Sender,
    row: &RosterRow,
    course: &mut Course,
    message: Box<Message>,
) -> Result<(), End> {
    // The driver is gone only when the node stops, which the next message tells.
    if let Message::Renew(renew) = &*message {
        let now = Instant::now();
        if course.renewed_at.is_some_and(|at| now.duration_since(at) < RENEW_EVERY) {
            return Err(End::Ours(CloseCode::Protocol, "it asks for certificates too often".to_owned()));
        }
        course.renewed_at = Some(now);
        // Unanswered, it asks again in an hour, and stays linked: it is to hear whether the house is armed.
        if let Some(end) = renewed(shared, sender, row, renew).await? {
            let _ = shared.context.inputs.send(Input::Certificate { node: row.node, end }).await;
        }
        return Ok(());
    }
    course.budget.spend();
    let from = connection.remote_address();
    if from != course.at {
        course.at = from;
        shared.doorbells.note(row.node, canonical(from));
        let moved = Input::Moved { node: row.node, address: canonical(from).to_string() };
        let _ = shared.context.inputs.send(moved).await;
    }
    heard(shared, row.node, *message).await
}

/// What came on a stream of its own, and the answer to it.
async fn arrived(
    keeper: Keeper,
    stills: Stills,
    connection: Connection,
    row: RosterRow,
    stream: RecvStream,
) -> Result<Option<Message>, LinkError> {
    match transfer::read(&connection, stream).await? {
        Arrived::Event(event) => Ok(Some(keeper.event(&row, event).await)),
        Arrived::Bytes(head, body) => keeper.bytes(&row, head, body, &connection).await,
        Arrived::Still(head, body) => {
            if let Some(wrong) = stills.came(row.node, head, body, &connection).await? {
                keeper.offences().limited(row.node, &format!("its live picture is not shown: {wrong}"));
            }
            Ok(None)
        }
        Arrived::Unknown => Ok(None),
    }
}

async fn push(shared: &Shared, sender: &mut Sender, state: Arc<SignedStateV1>) -> Result<(), End> {
    let frame = shared.push(&state).map_err(LinkError::Frame)?;
    Ok(sender.send_frame(&frame).await?)
}

async fn say(sender: &mut Sender, message: Message) -> Result<(), End> {
    Ok(sender.send(&message).await?)
}

async fn heard(shared: &Shared, node: NodeId, message: Message) -> Result<(), End> {
    let input = match message {
        Message::Ack(mut ack) => {
            check_sources(ack.sources.iter().map(|source| &source.source)).map_err(|why| End::Ours(CloseCode::Protocol, why))?;
            tidy_ack(&mut ack);
            let held = ack.held.as_ref().and_then(|held| own(shared, held));
            shared.confirmed.note(node, (ack.epoch, ack.rev), latest_version(shared));
            Input::Ack { node, ack, held }
        }
        Message::Detectors(mut report) => {
            check_sources(report.sources.iter().map(|source| &source.source)).map_err(|why| End::Ours(CloseCode::Protocol, why))?;
            tidy_detectors(&mut report);
            Input::Detectors { node, report }
        }
        Message::Health(report) => Input::Health { node, report },
        _ => return Err(LinkError::Unexpected("on a link that is up").into()),
    };
    let gone = |_| End::Ours(CloseCode::GoingDown, "this node is stopping".to_owned());
    shared.context.inputs.send(input).await.map_err(gone)
}

/// A new certificate over the key that the roster pins, and when it ends. `None`: not now, and that is not the node's fault.
async fn renewed(shared: &Shared, sender: &mut Sender, row: &RosterRow, renew: &RenewV1) -> Result<Option<Timestamp>, End> {
    if !shared.context.clock.may_sign() {
        tracing::warn!(
            "the certificate of node {} is not renewed: this coordinator's clock is not vouched for (`dms3-node status`)",
            row.name
        );
        return Ok(None);
    }
    let authority = shared.context.authority.borrow().clone();
    match authority.issue_chain(&renew.csr, row.role, &row.node, shared.context.clock.announced()) {
        Ok(chain) => {
            let leaf: Vec<_> = chain.iter().take(1).map(|leaf| CertificateDer::from(leaf.as_slice())).collect();
            let new = peer_identity(&leaf, &authority.mesh(), shared.context.clock.announced());
            let new = new.map_err(|error| End::Ours(CloseCode::Internal, format!("its new certificate cannot be read: {error}")))?;
            sender.send(&Message::Renewed(RenewedV1 { chain })).await?;
            tracing::info!("renewed the certificate of node {}", row.name);
            Ok(Some(new.not_after))
        }
        Err(error @ PkiError::IssuingExpired) => {
            tracing::warn!("the certificate of node {} is not renewed: {error}", row.name);
            Ok(None)
        }
        Err(error) => Err(End::Ours(CloseCode::Internal, format!("its certificate cannot be renewed: {:#}", anyhow::Error::from(error)))),
    }
}

/// A state with our own valid signature: only that can tell us that we forgot something.
fn own(shared: &Shared, held: &SignedStateV1) -> Option<StateV1> {
    // The one that was pushed last is what all acknowledge, while others still wait for it: nothing is learned from checking that again.
    if shared.context.state.borrow().as_deref() == Some(held) {
        return None;
    }
    let identity = shared.context.identity.borrow();
    own_state(held, &identity.mesh(), identity.key())
}

/// Of the state that was published last.
fn latest_version(shared: &Shared) -> Option<(u32, u64)> {
    let state = shared.context.state.borrow().clone()?;
    frame::from_bytes::<StateV1>(&state.payload).ok().map(|state| state.version())
}

/// A node that floods us is read more slowly; what it sends waits at its side.
struct Budget {
    left: u32,
    refilled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BURST, refilled: now }
    }

    fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Until when nothing is to be read.
    fn waits(&mut self, now: Instant) -> Option<Instant> {
        let steps = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if let Ok(steps @ 1..) = u32::try_from(steps) {
            self.left = self.left.saturating_add(steps).min(BURST);
            self.refilled += REFILL * steps;
        }
        (self.left == 0).then(|| self.refilled + REFILL)
    }
}

/// Each camera that a node names is remembered: not any number of them, and none twice.
fn check_sources<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> Result<(), String> {
    if names.len() > SOURCES_LIMIT {
        return Err(format!("it names {} cameras, a node may have {SOURCES_LIMIT}", names.len()));
    }
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() || name.len() > TEXT_LIMIT || !seen.insert(name) {
            return Err("it names a camera twice, or by no name, or by one without end".to_owned());
        }
    }
    Ok(())
}

/// What a node says of itself is shown on terminals and pages: no control characters, no novels.
fn tidy(text: &mut String) {
    if text.chars().any(char::is_control) {
        text.retain(|c| !c.is_control());
    }
    if let Some((end, _)) = text.char_indices().nth(TEXT_LIMIT) {
        text.truncate(end);
    }
}

fn tidy_hello(hello: &mut HelloV1) {
    for text in [&mut hello.hostname, &mut hello.version, &mut hello.os, &mut hello.platform, &mut hello.kernel] {
        tidy(text);
    }
    hello.sources.iter_mut().for_each(tidy);
}

fn tidy_ack(ack: &mut AckV1) {
    for source in &mut ack.sources {
        tidy(&mut source.source);
    }
}

fn tidy_detectors(report: &mut DetectorsV1) {
    for source in &mut report.sources {
        tidy(&mut source.source);
        tidy(&mut source.detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stolen_camera_says_of_itself_cannot_write_to_our_terminal() {
        let mut text = format!("porch\u{1b}[2J\u{7}{}", "é".repeat(1000));
        tidy(&mut text);
        assert!(text.starts_with("porch[2Jé") && text.chars().count() == TEXT_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_floods_us_is_read_at_twenty_messages_a_second() {
        let mut budget = Budget::new(Instant::now());
        let start = Instant::now();
        for _ in 0..(BURST + 100) {
            while let Some(until) = budget.waits(Instant::now()) {
                sleep_until(until).await;
            }
            budget.spend();
        }
        assert_eq!(start.elapsed(), REFILL * 100);
        // Who was silent for an hour may say no more at once than anybody.
        tokio::time::advance(Duration::from_secs(3600)).await;
        let at_once = (0..BURST + 1).take_while(|_| {
            let waits = budget.waits(Instant::now()).is_some();
            budget.spend();
            !waits
        });
        assert_eq!(at_once.count(), BURST as usize);
    }
}
