//! A link that is up: takes the state, tells what became of it, renews the certificate.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use dms3_core::camera::Input;
use dms3_core::id::{BootId, NodeId};
use dms3_core::protocol::frame::{FrameError, Message};
use dms3_core::protocol::message::{CloseCode, PushV1, RenewV1, RenewedV1};
use dms3_pki::verify_state;
use tokio::time::{Instant, sleep_until, timeout};

use super::Uplink;
use super::search::Found;
use crate::mesh::dial;
use crate::mesh::link::{Connection, Link, LinkError, Sender, close};

/// An unanswered or refused renewal is tried again; there are two months left.
const RENEW_AGAIN: Duration = Duration::from_secs(3600);
/// A coordinator of whom a new boot is heard must be heard itself in this time.
const PING: Duration = Duration::from_secs(1);
/// A rogue that advertises a new boot all the time makes us send this seldom...
const PING_EVERY: Duration = Duration::from_secs(2);
/// ...but so many times at once, and once more for each such time: a coordinator may be killed again as soon as it is back.
const SPARE: u8 = 4;
const SPARE_EVERY: Duration = Duration::from_secs(10);
/// How long a coordinator may take to renew an expired certificate.
const RENEWAL: Duration = Duration::from_secs(10);
/// For each boot that is heard: the first answer may still be one of the old boot.
const ASKS: u8 = 3;
const KNOWN: usize = 64;
const RESTARTED: &str = "the coordinator was restarted and does not know this link any more";
const MOVED: &str = "the coordinator has another address and does not answer at the old one";
/// Message type of [`PushV1`].
const PUSH: u16 = 4;

/// Why we ended it, if we did.
enum Stop {
    Link(LinkError),
    Ours(CloseCode),
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl Uplink {
    /// Until the link ends; tells the rules of its beginning and end. An error is one of this machine (its disk).
    pub(super) async fn session(&mut self, found: Found) -> Result<LinkError> {
        let Found { connection, link, coordinator, address, welcome } = found;
        // First: whoever the root names no longer is not believed what the time is, nor dialled again.
        if let Some(bundle) = &welcome.bundle {
            self.take_bundle(bundle)?;
            if !self.context.identity.bundle().is_coordinator(&coordinator) {
                close(&connection, CloseCode::NotACoordinator);
                return Ok(LinkError::Ours(CloseCode::NotACoordinator));
            }
        }
        self.context.clock.told(welcome.time);
        self.backoff.reset();
        self.said = None;
        self.heard.keep(address);
        if let Err(error) = dial::remember(&self.context.state_dir, address) {
            tracing::warn!("the coordinator's address cannot be kept for the next start: {error:#}");
        }
        if welcome.renew_only {
            tracing::warn!("this node's certificate is expired: asking the coordinator at {address} for a new one");
            return self.renew_expired(&connection, link).await;
        }
        tracing::info!("linked to coordinator {} at {address}; it knows this node as {:?}", coordinator.short(), welcome.name);
        self.context.status.send_modify(|status| {
            status.linked = Some(address);
            status.name = Some(welcome.name.clone());
            status.trouble = None;
            status.farewell = false;
        });
        self.context.is_revoked(false);
        if let Err(error) = super::keep_name(&self.context.state_dir, &welcome.name) {
            tracing::warn!("this node's name cannot be kept for the next start: {error:#}");
        }
        self.heard.quiet(true);
        self.input(Input::LinkUp).await;
        self.context.carrier.send_replace(Some(connection.clone()));
        let talked = self.talk(&connection, link, coordinator, welcome.boot, address).await;
        self.context.carrier.send_replace(None);
        self.heard.quiet(false);
        self.input(Input::LinkDown).await;
        let error = match talked? {
            Stop::Link(error) => {
                close(&connection, error.answer());
                error
            }
            Stop::Ours(code) => {
                close(&connection, code);
                LinkError::Ours(code)
            }
        };
        Ok(error)
    }

    async fn talk(&mut self, connection: &Connection, link: Link, coordinator: NodeId, boot: BootId, address: SocketAddr) -> Result<Stop> {
        let (mut sender, mut receiver) = (link.sender, link.receiver);
        let (mut acks, mut detectors, mut health) =
            (self.context.acks.clone(), self.context.detectors.clone(), self.context.health.clone());
        let (mut list, mut rings) = (self.heard.subscribe(), self.heard.rings());
        // The state comes whole after every Welcome and is acknowledged then; what the detectors do is told now.
        acks.mark_unchanged();
        detectors.mark_changed();
        health.mark_changed();
        let mut renew_at = self.until_renewal();
        let mut doubt = Doubt::new(boot, address, Instant::now());
        loop {
            let step = tokio::select! {
                message = receiver.recv(connection) => match message {
                    Ok(message) => self.hear(message, &coordinator).await?,
                    Err(error) => {
                        if let LinkError::Frame(
                            FrameError::Unreadable { kind: PUSH, .. }
                            | FrameError::MustUnderstand { kind: PUSH, .. }
                            | FrameError::TooLong { kind: PUSH, .. },
                        ) = &error
                        {
                            self.input(Input::Unreadable { why: error.to_string() }).await;
                        }
                        Err(error.into())
                    }
                },
                Ok(()) = acks.changed() => {
                    let ack = acks.borrow_and_update().clone();
                    match ack {
                        Some(ack) => sender.send(&Message::Ack(ack)).await.map_err(Stop::Link),
                        None => Ok(()),
                    }
                }
                Ok(()) = detectors.changed() => {
                    let report = detectors.borrow_and_update().clone();
                    sender.send(&Message::Detectors(report)).await.map_err(Stop::Link)
                }
                Ok(()) = health.changed() => {
                    let report = health.borrow_and_update().clone();
                    match report {
                        Some(report) => sender.send(&Message::Health(report)).await.map_err(Stop::Link),
                        None => Ok(()),
                    }
                }
                () = sleep_until(renew_at) => {
                    renew_at = self.until_renewal().max(Instant::now() + RENEW_AGAIN);
                    self.ask_for_certificate(&mut sender).await
                }
                Ok(()) = list.changed() => {
                    let (mesh, node) = (self.context.identity.mesh(), coordinator.short());
                    let latest = list.borrow_and_update().clone();
                    let boots = latest.iter().filter(|one| one.mesh == mesh && one.node == node).map(|one| one.boot);
                    doubt.hear(boots, Instant::now(), connection.stats().udp_rx.datagrams);
                    Ok(())
                }
                Ok(()) = rings.changed() => {
                    let ring = rings.borrow_and_update().clone().filter(|ring| ring.node == coordinator.short());
                    if let Some(ring) = ring {
                        doubt.rung(ring.boot, ring.address, Instant::now(), connection.stats().udp_rx.datagrams);
                    }
                    Ok(())
                }
                () = sleep_until(doubt.ask_at), if doubt.asks() => {
                    tracing::debug!("the coordinator seems to be elsewhere or to have been restarted: asking it");
                    doubt.asked(Instant::now(), connection.stats().udp_rx.datagrams);
                    // Something to say that may be said at any time.
                    detectors.mark_changed();
                    Ok(())
                }
                () = sleep_until(doubt.settle_at), if doubt.waits() => {
                    if doubt.silent(connection.stats().udp_rx.datagrams) {
                        Err(LinkError::Timeout(doubt.why).into())
                    } else {
                        Ok(())
                    }
                }
            };
            if let Err(stop) = step {
                return Ok(stop);
            }
        }
    }

    /// The outer result is for this machine's own faults.
    async fn hear(&mut self, message: Message, coordinator: &NodeId) -> Result<Result<(), Stop>> {
        match message {
            Message::Push(push) => self.take_state(push).await,
            Message::Renewed(renewed) => self.take_certificate(&renewed)?,
            Message::Bundle(bundle) => {
                self.take_bundle(&bundle)?;
                if !self.context.identity.bundle().is_coordinator(coordinator) {
                    return Ok(Err(Stop::Ours(CloseCode::NotACoordinator)));
                }
            }
            // An outbox whose disk hangs must not keep the state of the house from being heard; what is lost here is asked anew.
            Message::EventKept(_) | Message::AttachmentKept(_) | Message::EventRefused(_) => drop(self.context.answers.try_send(message)),
            // Whoever looks asks again.
            Message::Look(look) => drop(self.context.looks.try_send(look)),
            _ => return Ok(Err(LinkError::Unexpected("on a link that is up").into())),
        }
        Ok(Ok(()))
    }

    /// It came over a live link with an authenticated coordinator; whether it says what holds, its signature tells.
    /// Its time only measures the lease against the clock that wrote `until`; what the time is, the Welcome said.
    async fn take_state(&mut self, push: PushV1) {
        let identity = &self.context.identity;
        let input = match verify_state(&push.signed, &identity.mesh(), identity.bundle()) {
            Ok(state) => Input::State { signed: push.signed, state, live: true, time: push.time },
            Err(error) => {
                tracing::warn!("the coordinator pushed a state that is not believed: {error}");
                Input::Unreadable { why: error.to_string() }
            }
        };
        self.input(input).await;
    }

    fn take_certificate(&mut self, renewed: &RenewedV1) -> Result<()> {
        match self.context.identity.renewed(&renewed.chain, self.context.clock.announced()) {
            // All end with the certificate that signed them: near its end a new one is no gain, and every hour a write.
            Ok(identity) if identity.not_after() <= self.context.identity.not_after() => {
                tracing::debug!("the renewed certificate lasts no longer than the one we have");
            }
            Ok(identity) => {
                self.become_identity(identity)?;
                self.jitter = rand::random_range(0.0..1.0);
                tracing::info!("this node's certificate was renewed");
            }
            Err(error) => tracing::warn!("the renewed certificate is of no use: {:#}", anyhow::Error::from(error)),
        }
        Ok(())
    }

    async fn ask_for_certificate(&self, sender: &mut Sender) -> Result<(), Stop> {
        // A timer cannot look further than a clock that may jump.
        if self.context.clock.now().at < self.context.identity.renew_at(self.jitter) {
            return Ok(());
        }
        match self.context.identity.key().csr() {
            Ok(csr) => Ok(sender.send(&Message::Renew(RenewV1 { csr })).await?),
            Err(error) => {
                tracing::warn!("no request for a new certificate can be made: {:#}", anyhow::Error::from(error));
                Ok(())
            }
        }
    }

    /// When to look whether the certificate is to be renewed: at most an hour from now.
    fn until_renewal(&self) -> Instant {
        let wait = self.context.identity.renew_at(self.jitter).since(self.context.clock.now().at);
        Instant::now() + wait.min(RENEW_AGAIN)
    }

    /// All that an expired certificate is good for. Afterwards we dial again, with the new one.
    async fn renew_expired(&mut self, connection: &Connection, mut link: Link) -> Result<LinkError> {
        let csr = self.context.identity.key().csr()?;
        let answer = timeout(RENEWAL, async {
            link.sender.send(&Message::Renew(RenewV1 { csr })).await?;
            link.receiver.recv(connection).await
        })
        .await;
        let (code, error) = match answer {
            Ok(Ok(Message::Renewed(renewed))) => {
                self.take_certificate(&renewed)?;
                (CloseCode::Resync, LinkError::Ours(CloseCode::Resync))
            }
            Ok(Ok(_)) => (CloseCode::Protocol, LinkError::Unexpected("where a renewed certificate was asked for")),
            Ok(Err(error)) => (error.answer(), error),
            Err(_) => (CloseCode::Timeout, LinkError::Timeout("the coordinator did not renew the expired certificate in time")),
        };
        close(connection, code);
        Ok(error)
    }

    async fn input(&self, input: Input) {
        // The driver is gone only when the node stops.
        let _ = self.context.inputs.send(input).await;
    }
}

/// Another boot of our coordinator was heard, or it said that it is elsewhere. It may be a rogue's word, so nothing but the link itself settles
/// it: something is said on it, and then something must be heard (a coordinator that was restarted at the same address answers with a reset).
struct Doubt {
    known: Vec<BootId>,
    places: Vec<(BootId, SocketAddr)>,
    /// What it means if nothing is heard.
    why: &'static str,
    left: u8,
    /// News that may be asked about at once.
    spare: u8,
    spare_at: Instant,
    ask_at: Instant,
    settle_at: Instant,
    /// Datagrams that had come when it was asked.
    received: Option<u64>,
}

impl Doubt {
    fn new(boot: BootId, address: SocketAddr, now: Instant) -> Self {
        Self {
            known: vec![boot],
            places: vec![(boot, address)],
            why: RESTARTED,
            left: 0,
            spare: SPARE,
            spare_at: now,
            ask_at: now,
            settle_at: now,
            received: None,
        }
    }

    /// `received`: datagrams that came so far.
    fn hear(&mut self, boots: impl Iterator<Item = BootId>, now: Instant, received: u64) {
        for boot in boots {
            if !self.known.contains(&boot) {
                self.known.push(boot);
                self.is_news(RESTARTED, now, received);
            }
        }
        if self.known.len() > KNOWN {
            self.known.drain(1..);
        }
    }

    /// It says by itself which of its starts this is, and where.
    fn rung(&mut self, boot: BootId, address: SocketAddr, now: Instant, received: u64) {
        // mDNS may have told of this start before.
        if !self.places.iter().any(|(known, _)| *known == boot) {
            self.places.push((boot, address));
            return self.hear(std::iter::once(boot), now, received);
        }
        if !self.places.contains(&(boot, address)) {
            self.places.push((boot, address));
            self.is_news(MOVED, now, received);
        }
        if self.places.len() > KNOWN {
            self.places.drain(1..);
        }
    }

    fn is_news(&mut self, why: &'static str, now: Instant, received: u64) {
        (self.why, self.left) = (why, ASKS);
        // What was asked before it was answered before it.
        self.received.take_if(|before| *before != received);
        let refilled = now.duration_since(self.spare_at).as_secs() / SPARE_EVERY.as_secs();
        if refilled > 0 {
            self.spare = self.spare.saturating_add(u8::try_from(refilled).unwrap_or(SPARE)).min(SPARE);
            self.spare_at = now;
        }
        if self.spare > 0 {
            self.spare -= 1;
            self.ask_at = now;
        }
    }

    fn asks(&self) -> bool {
        self.left > 0 && self.received.is_none()
    }

    fn asked(&mut self, now: Instant, received: u64) {
        self.left = self.left.saturating_sub(1);
        self.ask_at = now + PING_EVERY;
        self.settle_at = now + PING;
        self.received = Some(received);
    }

    fn waits(&self) -> bool {
        self.received.is_some()
    }

    fn silent(&mut self, received: u64) -> bool {
        self.received.take() == Some(received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTS: [BootId; 3] = [BootId([1; 4]), BootId([2; 4]), BootId([3; 4])];

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 47100))
    }

    #[test]
    fn each_restart_is_asked_about_at_once_and_a_rogues_stream_of_them_seldom() {
        let mut now = Instant::now();
        let mut doubt = Doubt::new(BOOTS[0], at(1), now);
        assert!(!doubt.asks());
        doubt.hear([BOOTS[1]].into_iter(), now, 10);
        assert!(doubt.asks() && doubt.ask_at <= now);
        doubt.asked(now, 10);
        // It was answered, and then came the next restart.
        now += Duration::from_millis(100);
        doubt.hear([BOOTS[2]].into_iter(), now, 11);
        assert!(doubt.asks() && doubt.ask_at <= now, "not after the rest of two seconds");
        doubt.asked(now, 11);
        assert!(doubt.silent(11), "nothing came: the link is dead");

        let mut asked = 0;
        for nth in 0..100_u8 {
            now += Duration::from_millis(100);
            doubt.hear([BootId([nth, 9, 9, 9])].into_iter(), now, 12 + u64::from(nth));
            if doubt.asks() && doubt.ask_at <= now {
                doubt.asked(now, 12 + u64::from(nth));
                asked += 1;
            }
        }
        assert!((5..10).contains(&asked), "{asked} questions in ten seconds");
    }

    #[test]
    fn a_coordinator_that_says_that_it_is_elsewhere_is_asked_at_the_old_place() {
        let now = Instant::now();
        let mut doubt = Doubt::new(BOOTS[0], at(1), now);
        doubt.rung(BOOTS[0], at(1), now, 10);
        assert!(!doubt.asks(), "that is where it is");
        doubt.rung(BOOTS[0], at(2), now, 10);
        assert_eq!((doubt.asks(), doubt.why), (true, MOVED));
        doubt.asked(now, 10);
        assert!(!doubt.silent(11), "it answers at the old one, too");
        doubt.rung(BOOTS[1], at(2), now, 11);
        assert_eq!(doubt.why, RESTARTED);
    }

    #[test]
    fn starts_and_places_that_a_rogue_makes_up_fill_no_memory() {
        let now = Instant::now();
        let mut doubt = Doubt::new(BOOTS[0], at(1), now);
        for nth in 0..1000_u16 {
            let [high, low] = nth.to_be_bytes();
            doubt.hear([BootId([high, low, 9, 9])].into_iter(), now, 10);
            doubt.rung(BOOTS[0], SocketAddr::from(([10, 1, high, low], 1)), now, 10);
        }
        assert!(doubt.known.len() <= KNOWN && doubt.places.len() <= KNOWN, "{} {}", doubt.known.len(), doubt.places.len());
        assert_eq!((doubt.known[0], doubt.places[0]), (BOOTS[0], (BOOTS[0], at(1))), "what was authenticated is known");
    }
}
