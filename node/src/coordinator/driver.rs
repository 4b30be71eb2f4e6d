//! Runs the coordinator's rules: inputs in, effects out, carried out in order. Save, then publish.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use dms3_core::arming::ArmState;
use dms3_core::coordinator::{Coordinator, Decision, Effect, Input, MemoryV1};
use dms3_core::dashboard::{Dashboard, MailView};
use dms3_core::presence::Probe;
use dms3_core::protocol::message::SignedStateV1;
use dms3_core::roster::NodeRole;
use dms3_core::time::{Mono, Timestamp};
use dms3_pki::{Authority, NodeKey, sign_state};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accounts::Doors;
use super::alerts::{Faults, Word};
use super::enrollment::Tokens;
use super::events::Keeper;
use super::page::Served;
use super::phones::Phones;
use super::presence::Sensing;
use super::roster::Roster;
use super::sightings::{Sightings, WRITE_EVERY};
use crate::clock::Clock;
use crate::control::Asked;
use crate::store::Store;

/// What has no end of its own is shown for so long, and no more of it at once.
pub(super) const NOTICE_FOR: Duration = Duration::from_secs(86_400);
const NOTICES: usize = 20;
/// How often open pages hear of what is no new state.
const SHOW_EVERY: Duration = Duration::from_millis(450);
/// The rules never wait longer than this for time to pass.
const TICK: Duration = Duration::from_millis(500);

/// Decisions that may wait for the disk: the log is for people, and a coordinator that decides all day without a disk must not grow.
const DECISIONS_OWED: usize = 100;
/// How often a disk that took nothing is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

/// What could not be written.
#[derive(Debug)]
pub(super) struct Owed {
    memory: Box<MemoryV1>,
    decisions: Vec<Decision>,
    why: String,
    tried: Instant,
}

/// Where the driver tells what is to be mailed, and sees what became of it.
pub(super) struct MailDesk {
    pub(super) faults: watch::Sender<Faults>,
    pub(super) reason: watch::Sender<Option<String>>,
    pub(super) arrivals: watch::Sender<Option<(Timestamp, Timestamp)>>,
    pub(super) counts: watch::Receiver<MailView>,
    /// Why no mail is made, or none is brought away.
    pub(super) troubles: [watch::Receiver<Option<String>>; 2],
    pub(super) tests: mpsc::Sender<()>,
}

pub(super) struct Driver {
    pub(super) machine: Coordinator,
    pub(super) key: Arc<NodeKey>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) roster: Roster,
    pub(super) state: watch::Sender<Option<Arc<SignedStateV1>>>,
    pub(super) probes: broadcast::Sender<Probe>,
    /// What the sensors say beside their inputs.
    pub(super) sensing: watch::Receiver<Sensing>,
    /// Whose devices have addresses that may change, in words.
    pub(super) private_devices: Vec<String>,
    pub(super) tokens: Tokens,
    pub(super) authority: watch::Receiver<Arc<Authority>>,
    /// The memory that is on the disk.
    pub(super) kept: Option<MemoryV1>,
    pub(super) owed: Option<Owed>,
    /// What mails are made of; `None`: this house mails nothing.
    pub(super) mail: Option<MailDesk>,
    /// What services told people of (a locked token), by its key, and when: it has no end of its own.
    pub(super) notices: BTreeMap<String, (Mono, String)>,
    /// What services told people of and lasts, by its key.
    pub(super) lasting: BTreeMap<String, String>,
    pub(super) keeper: Keeper,
    /// What began so shortly before somebody came home is taken for that.
    pub(super) arrival_hold: Duration,
    /// When devices were heard, and when that was written last.
    pub(super) sightings: Sightings,
    pub(super) written_at: Instant,
    pub(super) phones: Phones,
    /// Devices that are to be learned, and what the network says against each.
    pub(super) learning: JoinSet<(Asked, Result<Option<String>>)>,
    /// Answers about events that are being looked up: no decision waits for a long list.
    pub(super) lookups: JoinSet<()>,
    /// What open pages show.
    pub(super) shown: watch::Sender<Option<Arc<Dashboard>>>,
    /// When that was made, and of which state.
    pub(super) shown_at: Option<(Instant, (u32, u64), bool)>,
    /// `None`: this house has no page.
    pub(super) doors: Option<Doors>,
    pub(super) served: watch::Receiver<Option<Served>>,
    /// Why the page is not served.
    pub(super) unserved: watch::Receiver<Option<String>>,
    /// Whether what was published last is an armed state, for who plays sounds.
    pub(super) armed: watch::Sender<bool>,
    /// Why no sound is played.
    pub(super) soundless: watch::Receiver<Option<String>>,
}

impl Driver {
    pub(super) async fn run(
        mut self,
        effects: Vec<Effect>,
        mut inputs: mpsc::Receiver<Input>,
        mut requests: mpsc::Receiver<Asked>,
        mut words: mpsc::Receiver<Word>,
        stop: CancellationToken,
    ) -> Result<()> {
        self.carry_out(effects).await?;
        let mut roster = self.roster.subscribe();
        let rows = roster.borrow_and_update().to_vec();
        self.take(Input::Roster(rows)).await?;
        let marks = self.store.marks().await?;
        self.take(Input::Marked(marks)).await?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.show();
            let input = tokio::select! {
                () = stop.cancelled() => {
                    self.write_sightings().await;
                    return Ok(());
                }
                _ = tick.tick() => {
                    crate::systemd::alive();
                    self.keep_again().await?;
                    if self.written_at.elapsed() >= WRITE_EVERY {
                        self.write_sightings().await;
                    }
                    for (node, offence) in self.keeper.offences().take() {
                        self.take(Input::Offended { node, offence }).await?;
                    }
                    Input::Tick
                }
                Some(input) = inputs.recv() => input,
                Some(asked) = requests.recv() => {
                    self.answer(asked).await?;
                    continue;
                }
                Some(looked_up) = self.lookups.join_next() => {
                    if let Err(error) = looked_up {
                        tracing::error!("looking up events failed: {error}");
                    }
                    continue;
                }
                Some(looked_at) = self.learning.join_next() => {
                    match looked_at {
                        Ok((asked, objection)) => self.learn(asked, objection).await?,
                        Err(error) => tracing::error!("looking at a device that is to be learned failed: {error}"),
                    }
                    continue;
                }
                Some(word) = words.recv() => {
                    self.hear(word);
                    continue;
                }
                Ok(()) = roster.changed() => Input::Roster(roster.borrow_and_update().to_vec()),
            };
            self.take(input).await?;
        }
    }

    /// For open pages: a state at once, what else changes a little later. Nothing is made if nobody looks.
    fn show(&mut self) {
        // Nobody looks; whoever looks next must not see what was.
        if self.shown.receiver_count() == 0 {
            self.shown_at = None;
            self.shown.send_if_modified(|shown| shown.take().is_some());
            return;
        }
        let state = self.machine.state();
        let of = ((state.epoch, state.rev), self.machine.is_arming());
        if self.shown_at.is_some_and(|(at, version, arming)| (version, arming) == of && at.elapsed() < SHOW_EVERY) {
            return;
        }
        self.shown_at = Some((Instant::now(), of.0, of.1));
        let mut house = self.house();
        // Of itself the coordinator always just heard, which is no news.
        house.nodes.iter_mut().filter(|node| node.role == NodeRole::Coordinator).for_each(|node| node.last_contact = None);
        // Nor is each question to a phone.
        house.frames = None;
        self.shown.send_if_modified(|shown| {
            let is_news = shown.as_deref() != Some(&house);
            if is_news {
                *shown = Some(Arc::new(house));
            }
            is_news
        });
    }

    /// What a service has to say to people.
    fn hear(&mut self, word: Word) {
        match word {
            Word::Once(fault) => {
                tracing::warn!("alert {}: {}", fault.key, fault.text);
                self.notices.insert(fault.key.clone(), (self.clock.now().mono, fault.text.clone()));
                // Each one costs an attacker ten tries at a live token; still nobody fills our memory.
                while self.notices.len() > NOTICES {
                    let oldest = self.notices.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone());
                    oldest.map(|key| self.notices.remove(&key));
                }
                self.mail_of(|faults| faults.happened(fault));
            }
            Word::Begins(fault) => {
                // A service that is started again and again says it each time.
                if self.lasting.insert(fault.key.clone(), fault.text.clone()).as_ref() != Some(&fault.text) {
                    tracing::warn!("alert {}: {}", fault.key, fault.text);
                }
                self.mail_of(|faults| faults.begins(fault));
            }
            Word::Ends { key, text } => {
                if self.lasting.remove(&key).is_some() {
                    tracing::info!("over {key}: {text}");
                }
                // The alerts may know of it since before a restart.
                self.mail_of(|faults| faults.ends(key, text));
            }
        }
    }

    /// What the cameras saw of whoever just came home needs no mail.
    fn arrived(&mut self) {
        let now = self.clock.vouched_now().at;
        let (first, last) = (now - self.arrival_hold, now);
        if self.arrival_hold.is_zero() {
            return;
        }
        if let Some(mail) = &self.mail {
            mail.arrivals.send_replace(Some((first, last)));
        }
        let keeper = self.keeper.clone();
        self.lookups.spawn(async move {
            if let Err(error) = keeper.arrival(first, last).await {
                tracing::warn!("{error:#}: what the cameras saw of it is not marked");
            }
        });
    }

    fn mail_of(&self, change: impl FnOnce(&mut Faults)) {
        if let Some(mail) = &self.mail {
            mail.faults.send_modify(change);
        }
    }

    pub(super) async fn take(&mut self, input: Input) -> Result<()> {
        if let Input::Sighting { device, .. } = &input {
            self.sightings.saw(device, self.clock.vouched_now().at);
        }
        let effects = self.machine.handle(input, self.clock.vouched_now());
        self.carry_out(effects).await
    }

    /// What was heard of devices since it was written last. People may look at it; nothing is decided by it.
    pub(super) async fn write_sightings(&mut self) {
        self.written_at = Instant::now();
        let due = self.sightings.take();
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.store.heard(&due).await {
            tracing::warn!("{error:#}: `dms3-node log --signs` will not show it");
        }
    }

    pub(super) async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::Publish { memory, decision } => {
                    let signed = sign_state(&self.key, &memory.state).context("cannot sign the state of the house")?;
                    let state = memory.state.arm_state();
                    if let Some(mail) = &self.mail {
                        let since = crate::clock::date_and_time(memory.state.since);
                        mail.reason.send_replace(state.is_armed().then(|| format!("{} since {since}: {}.", state.words(), memory.reason)));
                    }
                    if let Some(decision) = &decision {
                        tracing::info!("{} ({}.{}): {}", decision.state.words(), decision.epoch, decision.rev, memory.state.reason);
                    }
                    // A house must not stay disarmed for want of a disk; that it is disarmed must not be forgotten by a restart.
                    if self.keep(memory, signed.clone(), decision).await || state.is_armed() {
                        self.publish(signed, state);
                    }
                }
                Effect::Save { memory } => {
                    let signed = sign_state(&self.key, &memory.state).context("cannot sign the state of the house")?;
                    self.keep(memory, signed, None).await;
                }
                Effect::Mark { node, twice } => {
                    // It holds all the same; after a restart two that go on are found out again.
                    if let Err(error) = self.store.mark(node, &twice).await {
                        tracing::error!("{error:#}: a restart forgets it");
                    }
                }
                Effect::Probe(probe) => {
                    let device = probe.device.clone();
                    if self.probes.send(probe).is_err() {
                        // No sensor listens: say so, or the rules would wait for an answer to a question that nobody asked.
                        let effects = self.machine.handle(Input::Probed { device, sent: false }, self.clock.vouched_now());
                        Box::pin(self.carry_out(effects)).await?;
                    }
                }
                Effect::Alert(fault) => {
                    tracing::warn!("alert {}: {}", fault.key, fault.text);
                    self.mail_of(|faults| faults.begins(fault));
                }
                Effect::Arrived => self.arrived(),
                Effect::AlertOver { key, text } => {
                    tracing::info!("over {key}: {text}");
                    self.mail_of(|faults| faults.ends(key, text));
                }
            }
        }
        Ok(())
    }

    /// Writes what must survive a restart, and all decisions that could not be written before. Whether it is on the disk.
    async fn keep(&mut self, memory: Box<MemoryV1>, signed: SignedStateV1, decision: Option<Decision>) -> bool {
        let before = self.owed.take();
        let known = before.as_ref().map(|owed| owed.why.clone());
        let mut decisions = before.map(|owed| owed.decisions).unwrap_or_default();
        decisions.extend(decision);
        if self.kept.as_ref() == Some(&*memory) && decisions.is_empty() {
            return true;
        }
        let began = Instant::now();
        let Err(error) = self.store.save(&memory, &signed, &decisions, self.clock.vouched_now().at).await else {
            tracing::debug!(saved_us = began.elapsed().as_micros(), "{}.{} is on the disk", memory.state.epoch, memory.state.rev);
            self.kept = Some(*memory);
            return true;
        };
        decisions.truncate(DECISIONS_OWED);
        let why = format!("{error:#}");
        if known.as_ref() != Some(&why) {
            tracing::error!("what was decided cannot be written: {why}; arming goes on, disarming waits for the disk");
        }
        self.owed = Some(Owed { memory, decisions, why, tried: Instant::now() });
        false
    }

    /// The disk may have room again.
    async fn keep_again(&mut self) -> Result<()> {
        let Some(owed) = self.owed.take_if(|owed| owed.tried.elapsed() >= KEEP_AGAIN) else { return Ok(()) };
        let signed = sign_state(&self.key, &owed.memory.state).context("cannot sign the state of the house")?;
        let memory = owed.memory.clone();
        let state = memory.state.arm_state();
        self.owed = Some(owed);
        if self.keep(memory, signed.clone(), None).await {
            tracing::info!("the disk takes what is decided again");
            self.publish(signed, state);
        }
        Ok(())
    }

    fn publish(&self, signed: SignedStateV1, state: ArmState) {
        self.state.send_replace(Some(Arc::new(signed)));
        self.armed.send_replace(state.is_armed());
    }

    /// For people: what the disk keeps the house from.
    pub(super) fn trouble_with_disk(&self) -> Option<String> {
        let owed = self.owed.as_ref()?;
        Some(format!(
            "What is decided cannot be written to the disk of the coordinator ({}): the house can be armed, and is not disarmed before there is room.",
            owed.why
        ))
    }
}
