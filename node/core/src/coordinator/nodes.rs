//! What the coordinator knows of each node: its link, what it acknowledged, what its detectors really do.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Settings;
use super::house::House;
use crate::arming::ArmState;
use crate::conduct::{Conduct, Offence, Twice};
use crate::dashboard::{DetectorView, NodeView};
use crate::health::{Liveness, Machine, liveness};
use crate::id::NodeId;
use crate::protocol::message::{AckV1, DetectorPhase, DetectorsV1, HealthV1, HelloV1, LiveView};
use crate::roster::{NodeRole, NodeStatus, RosterRow};
use crate::time::{Mono, Now, Timestamp};

/// A machine with less room than this soon keeps no more pictures...
const DISK_LOW_MIB: u64 = 200;
/// ...and has room again with so much.
const DISK_WELL_MIB: u64 = 250;
/// How fast a disk fills is judged by a time no longer and no shorter than this.
const DISK_PACE_OVER: Duration = Duration::from_secs(7 * 86_400);
const DISK_PACE_AFTER: Duration = Duration::from_secs(6 * 3600);
/// A detector that should watch may take this long to start before it counts as not watching.
const START_WITHIN: Duration = Duration::from_secs(60);

/// The roster with what is known of each node.
#[derive(Debug)]
pub(super) struct Nodes {
    rows: Vec<RosterRow>,
    /// Boxed, as all these maps hold room for more than is in them.
    facts: BTreeMap<NodeId, Box<Facts>>,
    started: Mono,
    /// The first roster was read: who comes later is new.
    read: bool,
}

#[derive(Debug)]
pub(super) struct Facts {
    /// Which one of the rows is its.
    row: Option<usize>,
    /// Since when we expect it: our start, or its enrollment.
    since: Mono,
    newcomer: bool,
    pub(super) linked: bool,
    /// Its last word was that it stops.
    pub(super) farewell: bool,
    /// Since when it has not held the state of now, as far as it said. States that follow each other are one wait.
    owes_since: Option<Mono>,
    last: Option<Mono>,
    last_contact: Option<Timestamp>,
    address: Option<String>,
    machine: Option<Machine>,
    version: Option<String>,
    applied: Option<(u32, u64)>,
    /// It was linked when the newest state was published, so that its acknowledgement can be timed.
    linked_at_publish: bool,
    ack_ms: Option<u64>,
    pub(super) sources: BTreeMap<String, Box<Source>>,
    /// Since when it obeys more than the state that it acknowledged.
    raised_since: Option<Mono>,
    pub(super) health: Option<HealthV1>,
    /// Its disk is nearly full.
    pub(super) disk_low: bool,
    /// What is to stay free on it is not, though nothing is left that could go. Only the coordinator knows that of itself.
    pub(super) disk_short: bool,
    /// What was free at the begin of the time by which it is judged how fast it fills.
    disk_then: Option<(Mono, u64)>,
    /// When its certificate ends.
    cert_end: Option<Timestamp>,
    pub(super) conduct: Conduct,
}

/// One camera of a node.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Whether it was told to watch, as it says.
    pub(super) watch: bool,
    report: Option<Report>,
    /// Whether it watches in a state, as its node said last.
    watches_in: BTreeMap<ArmState, bool>,
    idle_since: Option<Mono>,
    /// It should watch and does not. Ends when it watches, or no longer should.
    pub(super) failing: bool,
}

#[derive(Debug)]
struct Report {
    phase: DetectorPhase,
    since: Timestamp,
    detail: String,
    live: LiveView,
}

impl Nodes {
    pub(super) fn new(started: Mono) -> Self {
        Self { rows: Vec::new(), facts: BTreeMap::new(), started, read: false }
    }

    pub(super) fn roster(&mut self, rows: Vec<RosterRow>, mono: Mono) {
        let (since, newcomer) = if self.read { (mono, true) } else { (self.started, false) };
        self.facts.values_mut().for_each(|facts| facts.row = None);
        for (nth, row) in rows.iter().enumerate() {
            self.facts.entry(row.node).or_insert_with(|| Facts::new(since, newcomer)).row = Some(nth);
        }
        self.facts.retain(|node, facts| facts.linked || rows.iter().any(|row| row.node == *node));
        // Whom a person put out needs no further thought.
        for row in rows.iter().filter(|row| row.status == NodeStatus::Revoked) {
            self.cleared(row.node);
        }
        self.rows = rows;
        self.read = true;
    }

    /// What is to be kept of its identity, if it is news.
    pub(super) fn link_up(&mut self, node: NodeId, address: String, hello: &HelloV1, now: Now) -> Option<Twice> {
        let facts = self.heard(node, now);
        // A link that was taken over ends without a word.
        let took_over = std::mem::replace(&mut facts.linked, true);
        facts.farewell = false;
        let twice = facts.conduct.link_up(hello.boot, &address, took_over, now);
        facts.owes_since = Some(now.mono);
        facts.linked_at_publish = false;
        facts.address = Some(address);
        facts.machine = Some(Machine::of(hello));
        facts.version = Some(hello.version.clone());
        // What it holds now it will say when the state of now was pushed to it.
        facts.applied = None;
        facts.ack_ms = None;
        facts.raised_since = None;
        facts.sources.retain(|name, _| hello.sources.contains(name));
        for name in &hello.sources {
            facts.sources.entry(name.clone()).or_default();
        }
        twice
    }

    pub(super) fn link_down(&mut self, node: NodeId, now: Now) {
        self.heard(node, now).linked = false;
    }

    pub(super) fn farewell(&mut self, node: NodeId, now: Now) {
        self.heard(node, now).farewell = true;
    }

    pub(super) fn ack(&mut self, node: NodeId, ack: &AckV1, house: &House, now: Now) {
        let facts = self.heard(node, now);
        let state = &house.memory.state;
        let first = facts.applied != Some((ack.epoch, ack.rev));
        facts.applied = Some((ack.epoch, ack.rev));
        let current = state.version() == (ack.epoch, ack.rev);
        if current && first && facts.linked_at_publish {
            facts.ack_ms = u64::try_from(now.mono.since(house.published).as_millis()).ok();
        }
        facts.sources.retain(|name, _| ack.sources.iter().any(|source| source.source == *name));
        for source in &ack.sources {
            facts.sources.entry(source.source.clone()).or_default().told(ArmState::from_wire(source.effective), source.watch);
        }
        if current {
            facts.owes_since = None;
        }
        let raised = current && ack.sources.iter().any(|source| ArmState::from_wire(source.effective) != state.arm_state());
        facts.raised_since = if raised { facts.raised_since.or(Some(now.mono)) } else { None };
    }

    pub(super) fn detectors(&mut self, node: NodeId, report: DetectorsV1, now: Now) {
        let facts = self.heard(node, now);
        for source in report.sources {
            // It named its cameras at its Hello and with what it applied.
            let Some(known) = facts.sources.get_mut(&source.source) else { continue };
            let report = Report {
                phase: DetectorPhase::from_wire(source.phase),
                since: source.since,
                detail: source.detail,
                live: LiveView::from_wire(source.live),
            };
            known.reports(report);
        }
    }

    pub(super) fn health(&mut self, node: NodeId, report: HealthV1, now: Now) {
        let facts = self.heard(node, now);
        let enough = if facts.disk_low { DISK_WELL_MIB } else { DISK_LOW_MIB };
        // A machine that cannot tell says zero.
        facts.disk_low = report.disk_total_mib > 0 && report.disk_free_mib < enough;
        // What was tidied away begins a new time.
        let then = facts.disk_then.filter(|(at, free)| *free >= report.disk_free_mib && now.mono.since(*at) < DISK_PACE_OVER);
        facts.disk_then = Some(then.unwrap_or((now.mono, report.disk_free_mib)));
        facts.health = Some(report);
    }

    pub(super) fn certificate(&mut self, node: NodeId, end: Timestamp, now: Now) {
        self.heard(node, now).cert_end = Some(end);
    }

    pub(super) fn disk_short(&mut self, me: NodeId, short: bool, now: Now) {
        self.heard(me, now).disk_short = short;
    }

    /// Nobody would tell that the coordinator is gone: no camera that was heard of has mail of its own.
    pub(super) fn nobody_tells(&self) -> bool {
        let mut heard = self.active_cameras().filter_map(|(_, facts)| facts.health.as_ref()).peekable();
        heard.peek().is_some() && heard.all(|health| !health.mails)
    }

    /// A new state is on its way to every linked node.
    pub(super) fn published(&mut self, mono: Mono) {
        for facts in self.facts.values_mut() {
            facts.owes_since = facts.owes_since.or(Some(mono));
            facts.linked_at_publish = facts.linked;
            facts.ack_ms = None;
            facts.raised_since = None;
        }
    }

    pub(super) fn offended(&mut self, node: NodeId, offence: Offence, now: Now) {
        if let Some(facts) = self.facts.get_mut(&node) {
            facts.conduct.offended(offence, now);
        }
    }

    pub(super) fn marked(&mut self, marks: Vec<(NodeId, Twice)>) {
        for (node, twice) in marks {
            self.facts.entry(node).or_insert_with(|| Facts::new(self.started, false)).conduct.marked(twice);
        }
    }

    pub(super) fn cleared(&mut self, node: NodeId) {
        if let Some(facts) = self.facts.get_mut(&node) {
            facts.conduct.clear();
        }
    }

    /// Time passed: a detector that is still not watching fails, who behaved is forgiven. `only`: of this node.
    pub(super) fn look(&mut self, only: Option<NodeId>, mono: Mono) {
        match only {
            None => self.facts.values_mut().for_each(|facts| facts.look(mono)),
            Some(node) => self.facts.get_mut(&node).into_iter().for_each(|facts| facts.look(mono)),
        }
    }

    /// The cameras that the house counts on.
    pub(super) fn active_cameras(&self) -> impl Iterator<Item = (&RosterRow, &Facts)> {
        self.rows.iter().filter(|row| is_active_camera(row)).filter_map(|row| self.facts.get(&row.node).map(|facts| (row, &**facts)))
    }

    /// That node, if it is one of them.
    pub(super) fn active_camera(&self, node: &NodeId) -> Option<(&RosterRow, &Facts)> {
        self.find(node).filter(|(row, _)| is_active_camera(row))
    }

    pub(super) fn find(&self, node: &NodeId) -> Option<(&RosterRow, &Facts)> {
        let facts = self.facts.get(node)?;
        Some((self.rows.get(facts.row?)?, facts))
    }

    /// The coordinator first, then by name.
    pub(super) fn views(&self, settings: &Settings, house: &House, now: Now) -> Vec<NodeView> {
        let mut rows: Vec<&RosterRow> = self.rows.iter().collect();
        rows.sort_by_key(|row| (row.role != NodeRole::Coordinator, row.name.to_lowercase(), row.node));
        rows.into_iter().map(|row| self.view(row, settings, house, now)).collect()
    }

    fn view(&self, row: &RosterRow, settings: &Settings, house: &House, now: Now) -> NodeView {
        let mut view = NodeView {
            node: row.node,
            name: row.name.clone(),
            role: row.role,
            status: row.status,
            liveness: "never seen".to_owned(),
            address: None,
            hostname: None,
            os: None,
            platform: None,
            kernel: None,
            version: None,
            last_contact: None,
            applied: None,
            current: false,
            detectors: Vec::new(),
            ack_ms: None,
            health: None,
            disk_days: None,
            cert_end: None,
            blame: None,
            twice: None,
        };
        let version = house.memory.state.version();
        if row.node == settings.me {
            view.liveness = "online".to_owned();
            tell(&mut view, Some(&settings.machine));
            view.version = Some(env!("CARGO_PKG_VERSION").to_owned());
            view.last_contact = Some(now.at);
            view.applied = Some(version);
            view.current = true;
            let own = self.facts.get(&row.node);
            view.health = own.and_then(|facts| facts.health.clone());
            view.disk_days = own.and_then(|facts| facts.disk_days(now.mono));
            view.cert_end = own.and_then(|facts| facts.cert_end);
        } else if let Some(facts) = self.facts.get(&row.node) {
            view.liveness = facts.liveness_words(now.mono).to_owned();
            view.address.clone_from(&facts.address);
            tell(&mut view, facts.machine.as_ref());
            view.version.clone_from(&facts.version);
            view.last_contact = facts.last_contact;
            view.applied = facts.applied;
            view.current = facts.is_current(version);
            view.ack_ms = facts.ack_ms;
            view.health = facts.health.clone();
            view.disk_days = facts.disk_days(now.mono);
            view.cert_end = facts.cert_end;
            view.blame = facts.conduct.blame().cloned();
            view.twice = facts.conduct.twice().cloned();
            let (state, confirmed) = (house.memory.state.arm_state(), facts.is_current(version));
            view.detectors = facts.sources.iter().map(|(name, source)| source.view(name, state, confirmed)).collect();
            // A camera that was not heard of since we started has one at least, and nobody knows that it may rest.
            let unknown = row.role == NodeRole::Camera && row.status == NodeStatus::Active && view.detectors.is_empty();
            if unknown && !facts.linked && state.is_armed() {
                view.detectors.push(Source::default().view(&row.name, state, false));
            }
        }
        view
    }

    /// A link that moved with its node: it is heard from another address.
    pub(super) fn moved(&mut self, node: NodeId, address: String, now: Now) {
        self.heard(node, now).address = Some(address);
    }

    fn heard(&mut self, node: NodeId, now: Now) -> &mut Facts {
        let facts = self.facts.entry(node).or_insert_with(|| Facts::new(now.mono, true));
        facts.last = Some(now.mono);
        facts.last_contact = Some(now.at);
        facts
    }
}

fn is_active_camera(row: &RosterRow) -> bool {
    row.status == NodeStatus::Active && row.role == NodeRole::Camera
}

fn tell(view: &mut NodeView, machine: Option<&Machine>) {
    let of = |fact: fn(&Machine) -> &String| machine.map(fact).filter(|text| !text.is_empty()).cloned();
    view.hostname = of(|machine| &machine.hostname);
    view.os = of(|machine| &machine.os);
    view.platform = of(|machine| &machine.platform);
    view.kernel = of(|machine| &machine.kernel);
}

impl Facts {
    fn new(since: Mono, newcomer: bool) -> Box<Self> {
        Box::new(Self {
            row: None,
            since,
            newcomer,
            linked: false,
            farewell: false,
            owes_since: None,
            last: None,
            last_contact: None,
            address: None,
            machine: None,
            version: None,
            applied: None,
            linked_at_publish: false,
            ack_ms: None,
            sources: BTreeMap::new(),
            raised_since: None,
            health: None,
            disk_low: false,
            disk_short: false,
            disk_then: None,
            cert_end: None,
            conduct: Conduct::default(),
        })
    }

    fn look(&mut self, mono: Mono) {
        self.conduct.look(mono);
        if self.linked {
            self.sources.values_mut().for_each(|source| source.look(mono));
        }
    }

    pub(super) fn liveness(&self, mono: Mono) -> Liveness {
        liveness(self.linked, self.last, self.since, self.farewell, mono)
    }

    /// How long it has been silent.
    pub(super) fn silence(&self, mono: Mono) -> Duration {
        mono.since(self.last.unwrap_or(self.since))
    }

    pub(super) fn never_seen(&self) -> bool {
        self.last.is_none() && self.newcomer
    }

    /// Whether it holds, and said so, the state of that version.
    pub(super) fn is_current(&self, version: (u32, u64)) -> bool {
        self.linked && self.applied == Some(version)
    }

    /// How long it has been connected and owed us the acknowledgement of the state of now.
    pub(super) fn owes_for(&self, mono: Mono) -> Option<Duration> {
        self.owes_since.filter(|_| self.linked).map(|since| mono.since(since))
    }

    /// For how long it has obeyed more than the state that it acknowledged.
    pub(super) fn raised_for(&self, mono: Mono) -> Option<Duration> {
        self.raised_since.filter(|_| self.linked).map(|since| mono.since(since))
    }

    /// In how many days its disk is full, at the pace of the last week; `None`: it does not fill, or too little of it was seen.
    fn disk_days(&self, mono: Mono) -> Option<u64> {
        let ((at, then), now) = (self.disk_then?, self.health.as_ref()?.disk_free_mib);
        let (took, over) = (then.checked_sub(now).filter(|took| *took > 0)?, mono.since(at));
        if over < DISK_PACE_AFTER {
            return None;
        }
        Some(now.saturating_mul(over.as_secs()) / took / 86_400)
    }

    fn liveness_words(&self, mono: Mono) -> &'static str {
        match self.liveness(mono) {
            Liveness::Online => "online",
            _ if self.never_seen() => "never seen",
            Liveness::Late => "late",
            Liveness::Lost => "lost",
        }
    }
}

impl Source {
    pub(super) fn is_paused(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.phase == DetectorPhase::Paused)
    }

    /// Its last words.
    pub(super) fn detail(&self) -> &str {
        self.report.as_ref().map_or(
            "it does not report",
            |report| {
                if report.detail.is_empty() { report.phase.words() } else { &report.detail }
            },
        )
    }

    fn look(&mut self, mono: Mono) {
        let phase = self.report.as_ref().map(|report| report.phase);
        if !self.watch || phase == Some(DetectorPhase::Watching) {
            self.idle_since = None;
            self.failing = false;
        } else {
            let since = *self.idle_since.get_or_insert(mono);
            self.failing |= phase == Some(DetectorPhase::Failed) || mono.since(since) >= START_WITHIN;
        }
    }

    fn told(&mut self, effective: ArmState, watch: bool) {
        self.watch = watch;
        // One that is stopped by hand is told to rest in a state in which it should watch.
        if !self.is_paused() {
            self.watches_in.insert(effective, watch);
        }
    }

    fn reports(&mut self, report: Report) {
        self.report = Some(report);
        // Its node may have said so before it said why.
        if self.is_paused() {
            self.watches_in.clear();
        }
    }

    /// Without its word for that state it should: then it is missed rather than forgotten.
    pub(super) fn should_watch(&self, state: ArmState, confirmed: bool) -> bool {
        if confirmed && !self.is_paused() { self.watch } else { self.watches_in.get(&state).copied().unwrap_or(state.is_armed()) }
    }

    /// `confirmed`: its node has acknowledged the state of now.
    fn view(&self, name: &str, state: ArmState, confirmed: bool) -> DetectorView {
        DetectorView {
            source: name.to_owned(),
            should_watch: self.should_watch(state, confirmed),
            phase: self.report.as_ref().map_or("unknown", |report| report.phase.words()).to_owned(),
            since: self.report.as_ref().map(|report| report.since),
            detail: self.report.as_ref().map(|report| report.detail.clone()).unwrap_or_default(),
            live: self.report.as_ref().map(|report| report.live).unwrap_or_default(),
        }
    }
}
