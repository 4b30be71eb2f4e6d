//! What needs a person, worst first; each trouble that people are to be told of is told when it begins and when it ends.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::house::House;
use super::nodes::{Facts, Nodes};
use super::{Effect, Settings};
use crate::arming::ArmState;
use crate::conduct::Twice;
use crate::fault::{Fault, FaultKind};
use crate::health::Liveness;
use crate::id::NodeId;
use crate::presence::Presence;
use crate::roster::{NodeRole, NodeStatus, RosterRow};
use crate::time::{Now, duration_words};

/// A linked camera has this long to acknowledge before it is shown, and then as long as a lost one before people are told.
const ACK_WITHIN: Duration = Duration::from_secs(5);
/// A camera that obeys more than the state may be about to hear the confirmation.
const RAISED_FOR: Duration = Duration::from_secs(5);

/// What a linked camera holds for so long does not come by itself.
const STUCK_AFTER: Duration = Duration::from_secs(600);
/// A Pi slows itself down from here on.
const HOT_CELSIUS: i32 = 80;

/// One condition, named so that its end can be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Exhausted,
    Restored,
    Lost(NodeId),
    Unconfirmed(NodeId),
    Detector(NodeId, String),
    /// A detector that should watch is stopped by hand.
    Paused(NodeId, String),
    Blind,
    Raised(NodeId),
    /// Two machines use its identity.
    Twice(NodeId),
    /// It was put out again and again.
    Hostile(NodeId),
    /// Its disk is nearly full: a camera's or the coordinator's own.
    Disk(NodeId),
    /// It is linked, and what it saw does not get here.
    Stuck(NodeId),
    /// A device of this person comes and goes all the time.
    Restless(String),
    /// Shown, not told.
    Shown(u8, String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("states-used-up"),
            Self::Restored => f.write_str("states-conflict"),
            Self::Lost(node) => write!(f, "lost:{}", node.short()),
            Self::Unconfirmed(node) => write!(f, "unconfirmed:{}", node.short()),
            Self::Detector(node, source) => write!(f, "detector:{}:{source}", node.short()),
            Self::Paused(node, source) => write!(f, "paused:{}:{source}", node.short()),
            Self::Blind => f.write_str("blind"),
            Self::Raised(node) => write!(f, "raised:{}", node.short()),
            Self::Twice(node) => write!(f, "twice:{}", node.short()),
            Self::Hostile(node) => write!(f, "put-out:{}", node.short()),
            Self::Disk(node) => write!(f, "disk:{}", node.short()),
            Self::Stuck(node) => write!(f, "outbox:{}", node.short()),
            Self::Restless(person) => write!(f, "restless:{person}"),
            Self::Shown(_, what) => f.write_str(what),
        }
    }
}

#[derive(Debug)]
pub(super) struct Trouble {
    key: Key,
    kind: FaultKind,
    pub(super) text: String,
}

/// What people were told of and has not ended.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    told: BTreeSet<Key>,
}

impl Key {
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Lost(node)
            | Self::Unconfirmed(node)
            | Self::Detector(node, _)
            | Self::Paused(node, _)
            | Self::Raised(node)
            | Self::Disk(node)
            | Self::Stuck(node)
            | Self::Twice(node)
            | Self::Hostile(node) => Some(*node),
            Self::Exhausted | Self::Restored | Self::Blind | Self::Restless(_) | Self::Shown(..) => None,
        }
    }
}

impl Troubles {
    /// What to tell: of those that were looked for (see [`of`]), the troubles that began and those that ended.
    pub(super) fn changes(
        &mut self,
        only: Option<NodeId>,
        troubles: Vec<Trouble>,
        settings: &Settings,
        house: &House,
        nodes: &Nodes,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut now = BTreeSet::new();
        for Trouble { key, kind, text } in troubles {
            if matches!(key, Key::Shown(..)) {
                continue;
            }
            if !self.told.contains(&key) {
                effects.push(Effect::Alert(Fault::new(key.to_string(), kind, text)));
            }
            now.insert(key);
        }
        let looked_for = |key: &Key| only.is_none_or(|only| key.node().is_none_or(|node| node == only || node == settings.me));
        for key in self.told.difference(&now).filter(|key| looked_for(key)) {
            effects.push(Effect::AlertOver { key: key.to_string(), text: over_text(key, house, nodes) });
        }
        self.told.retain(|key| !looked_for(key));
        self.told.append(&mut now);
        effects
    }
}

/// What is wrong now, worst first: with the house and all nodes, or with the house and that one camera.
pub(super) fn of(only: Option<NodeId>, settings: &Settings, house: &House, nodes: &Nodes, now: Now) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    match only {
        None => nodes.active_cameras().for_each(|(row, facts)| of_camera(row, facts, house, now, &mut troubles)),
        Some(node) => nodes.active_camera(&node).into_iter().for_each(|(row, facts)| of_camera(row, facts, house, now, &mut troubles)),
    }
    of_house(settings, house, nodes, now, &mut troubles);
    troubles.sort_by_key(|trouble| rank(&trouble.key));
    troubles
}

fn of_house(settings: &Settings, house: &House, nodes: &Nodes, now: Now, troubles: &mut Vec<Trouble>) {
    let mut add = |key: Key, kind: FaultKind, text: String| troubles.push(Trouble { key, kind, text });
    if house.exhausted() {
        let text = "The numbers of states are used up: the house stays armed until it is set up anew.";
        add(Key::Exhausted, FaultKind::Other, text.to_owned());
    }
    if house.memory.restored {
        add(
            Key::Restored,
            FaultKind::StateConflict,
            "A camera holds a newer state than the coordinator remembers (was a backup restored?). The house is armed until somebody comes home or decides."
                .to_owned(),
        );
    }
    if let Some((row, facts)) = nodes.find(&settings.me) {
        for (key, kind, text) in machine_troubles(row, facts) {
            add(key, kind, text);
        }
    }
    if let Some((why, blind_for)) = house.tracker.blindness(now.mono).filter(|_| settings.presence_enabled) {
        let text = if house.presence == Presence::Home {
            format!("It cannot be seen who leaves ({why}): the house will not arm by itself.")
        } else {
            format!("It cannot be seen who is home ({why}): the house will not arm by itself.")
        };
        let key = if blind_for >= settings.blind_alert_after { Key::Blind } else { Key::Shown(4, "blind".to_owned()) };
        add(key, FaultKind::Blind { why: why.to_owned() }, text);
    }
    for (person, device) in house.tracker.restless(now.mono).filter(|_| settings.presence_enabled) {
        let text = format!(
            "{person}'s device {device} came and went more than three times in half an hour: does it sleep, or is its Wi-Fi weak? For a day it \
             is taken for gone only after 30 min of silence."
        );
        add(Key::Restless(person.to_owned()), FaultKind::Other, text);
    }
    if !now.trusted {
        let text = "The coordinator's clock is not to be trusted: no camera is paired and no certificate renewed. Let it reach a time server or set it; \
                    if it is right, say so with `sudo dms3-node time accept`."
            .to_owned();
        add(Key::Shown(6, "clock".to_owned()), FaultKind::Other, text);
    }
}

fn of_camera(row: &RosterRow, facts: &Facts, house: &House, now: Now, troubles: &mut Vec<Trouble>) {
    let mut add = |key: Key, kind: FaultKind, text: String| troubles.push(Trouble { key, kind, text });
    let armed = house.memory.state.arm_state().is_armed();
    let lost = facts.liveness(now.mono) == Liveness::Lost;
    if lost {
        let key = if armed { Key::Lost(row.node) } else { Key::Shown(7, format!("lost:{}", row.node.short())) };
        add(key, FaultKind::CameraLost { camera: row.name.clone() }, lost_text(row, facts, now));
    }
    if let Some(waited) = facts.owes_for(now.mono).filter(|waited| armed && *waited >= ACK_WITHIN) {
        let text = format!("{} is connected and has not confirmed that the house is armed.", row.name);
        let told = waited >= crate::health::LOST_AFTER;
        let key = if told { Key::Unconfirmed(row.node) } else { Key::Shown(1, format!("unconfirmed:{}", row.node.short())) };
        add(key, FaultKind::Unconfirmed { camera: row.name.clone() }, text);
    }
    for (name, source) in &facts.sources {
        if source.failing {
            let why = source.detail().trim_end_matches('.');
            let text = format!("{} should watch and does not: {why}.", source_name(row, name));
            let kind = FaultKind::DetectorFailed { camera: camera_name(row, facts, name), why: why.to_owned() };
            add(Key::Detector(row.node, name.clone()), kind, text);
        } else if source.is_paused() {
            let camera = source_name(row, name);
            if source.should_watch(house.memory.state.arm_state(), facts.is_current(house.memory.state.version())) {
                let text = format!(
                    "{camera} is stopped by hand: it does not watch, although the house is armed. On the camera, `sudo dms3-node resume` ends that."
                );
                add(Key::Paused(row.node, name.clone()), FaultKind::Other, text);
            } else {
                let text = format!("{camera} is stopped by hand (pause).");
                add(Key::Shown(5, format!("paused:{}:{name}", row.node.short())), FaultKind::Other, text);
            }
        }
    }
    for (key, kind, text) in conduct_troubles(row, facts).into_iter().chain(health_troubles(row, facts)) {
        add(key, kind, text);
    }
    if facts.raised_for(now.mono).is_some_and(|for_so_long| for_so_long >= RAISED_FOR) {
        let text = format!("{} armed itself, although the house is {}.", row.name, state_words(house));
        add(Key::Raised(row.node), FaultKind::ArmedItself { camera: row.name.clone() }, text);
    }
}

/// How a camera behaves, linked or not.
fn conduct_troubles(row: &RosterRow, facts: &Facts) -> Vec<(Key, FaultKind, String)> {
    let (camera, mut troubles) = (row.name.clone(), Vec::new());
    if let Some(Twice { one, other, .. }) = facts.conduct.twice() {
        let text = format!(
            "{camera}: two machines use its identity, at {one} and at {other} (was its card copied?). Switch one of them off and say so with \
             `dms3-node clear`, or put both out with `dms3-node revoke`."
        );
        let (one, other) = (one.clone(), other.clone());
        troubles.push((Key::Twice(row.node), FaultKind::IdentityTwice { camera: camera.clone(), one, other }, text));
    }
    if let Some(blame) = facts.conduct.blame().filter(|blame| blame.hostile) {
        let why = blame.why.trim_end_matches('.').to_owned();
        let text = format!("{camera}: it breaks the rules and is put out again and again, last because of this: {why}.");
        troubles.push((Key::Hostile(row.node), FaultKind::PutOut { camera, why }, text));
    }
    troubles
}

/// What a linked camera said that needs a person.
fn health_troubles(row: &RosterRow, facts: &Facts) -> Vec<(Key, FaultKind, String)> {
    let Some(health) = facts.health.as_ref().filter(|_| facts.linked) else { return Vec::new() };
    let mut troubles = machine_troubles(row, facts);
    let name = &row.name;
    let mut add = |what: &str, text: String| troubles.push((shown(what, row), FaultKind::Other, text));
    let outbox = &health.outbox;
    if outbox.refused > 0 {
        add("refused", format!("{name}: {} of its events could not be kept here: see the log.", outbox.refused));
    }
    if outbox.lost > 0 {
        let lost = outbox.lost;
        add("lost-files", format!("{name}: it has given up {lost} pictures, clips or reports for want of room or as damaged."));
    }
    if !health.clock_trusted {
        add("clock", format!("{name}: its clock is not to be trusted: let it reach a time server."));
    }
    if health.unknown_frames > 0 {
        let count = health.unknown_frames;
        add("version", format!("{name}: it does not know {count} messages of this coordinator: install the same version on both."));
    }
    if outbox.oldest.is_some_and(|oldest| health.at.since(oldest) >= STUCK_AFTER) {
        let waiting = outbox.waiting;
        let text = format!("{name}: {waiting} of its events have not got here for more than 10 minutes.");
        troubles.push((Key::Stuck(row.node), FaultKind::OutboxStuck { camera: name.clone(), waiting }, text));
    }
    troubles
}

/// What is wrong with the machine of a node, the coordinator's own included.
fn machine_troubles(row: &RosterRow, facts: &Facts) -> Vec<(Key, FaultKind, String)> {
    let mut troubles = Vec::new();
    let Some(health) = &facts.health else { return troubles };
    let name = &row.name;
    if facts.disk_low || facts.disk_short {
        let free_mib = health.disk_free_mib;
        let short = if facts.disk_short { ", less than is to stay free, and nothing is left that could go" } else { "" };
        let text = format!("{name}: disk nearly full ({free_mib} MB free{short}).");
        troubles.push((Key::Disk(row.node), FaultKind::DiskNearlyFull { node: name.clone(), free_mib }, text));
    }
    if let Some(celsius) = health.cpu_millicelsius.map(|milli| milli / 1000).filter(|celsius| *celsius >= HOT_CELSIUS) {
        troubles.push((shown("hot", row), FaultKind::Other, format!("{name}: its processor is at {celsius} °C.")));
    }
    troubles
}

fn shown(what: &str, row: &RosterRow) -> Key {
    Key::Shown(6, format!("{what}:{}", row.node.short()))
}

fn rank(key: &Key) -> u8 {
    match key {
        Key::Exhausted | Key::Restored => 0,
        Key::Lost(_) | Key::Unconfirmed(_) => 1,
        Key::Twice(_) | Key::Hostile(_) => 1,
        Key::Detector(..) | Key::Paused(..) => 2,
        Key::Raised(_) => 3,
        Key::Blind => 4,
        Key::Disk(_) | Key::Stuck(_) | Key::Restless(_) => 6,
        Key::Shown(rank, _) => *rank,
    }
}

fn lost_text(row: &RosterRow, facts: &Facts, now: Now) -> String {
    if facts.never_seen() {
        format!("{} has never been seen since it was paired.", row.name)
    } else if facts.farewell {
        format!("{} was stopped and has not come back for {}.", row.name, duration_words(facts.silence(now.mono)))
    } else {
        format!("{} is lost: no contact for {}.", row.name, duration_words(facts.silence(now.mono)))
    }
}

/// "porch", or "porch/garden" where one node drives several cameras or names one otherwise.
fn source_name(row: &RosterRow, source: &str) -> String {
    if row.name == source { row.name.clone() } else { format!("{}/{source}", row.name) }
}

/// As people call it: the node's name is enough where it has one camera.
fn camera_name(row: &RosterRow, facts: &Facts, source: &str) -> String {
    if facts.sources.len() == 1 { row.name.clone() } else { source_name(row, source) }
}

fn state_words(house: &House) -> &'static str {
    match house.memory.state.arm_state() {
        ArmState::Disarmed => "disarmed",
        ArmState::Night => "armed for the night only",
        ArmState::Away => "armed",
    }
}

fn over_text(key: &Key, house: &House, nodes: &Nodes) -> String {
    let of_node = |node: &NodeId, text: &dyn Fn(&RosterRow, &Facts) -> String| match nodes.find(node) {
        Some((row, facts)) if row.status == NodeStatus::Active => text(row, facts),
        Some((row, _)) => format!("{} was revoked.", row.name),
        None => "The node is no longer of this house.".to_owned(),
    };
    match key {
        Key::Exhausted => "States are numbered anew.".to_owned(),
        Key::Restored => format!("Decided anew: {}.", house.memory.reason),
        Key::Blind => "It can be seen again who is home.".to_owned(),
        Key::Lost(node) => of_node(node, &|row, facts| {
            if facts.linked { format!("{} is back.", row.name) } else { format!("The house is disarmed; {} is still lost.", row.name) }
        }),
        Key::Unconfirmed(node) => of_node(node, &|row, facts| {
            if facts.is_current(house.memory.state.version()) {
                format!("{} has confirmed.", row.name)
            } else if facts.linked {
                format!("The house is disarmed; {} has not confirmed that either.", row.name)
            } else {
                format!("{} is not connected any more.", row.name)
            }
        }),
        Key::Detector(node, source) => of_node(node, &|row, facts| {
            let name = camera_name(row, facts, source);
            match facts.sources.get(source) {
                Some(source) if source.watch => format!("{name} watches again."),
                Some(_) => format!("{name} need not watch now."),
                None => format!("{name} is no longer configured."),
            }
        }),
        Key::Paused(node, source) => of_node(node, &|row, facts| {
            let name = camera_name(row, facts, source);
            match facts.sources.get(source) {
                Some(source) if source.is_paused() => format!("{name} need not watch now; it is still stopped by hand."),
                Some(_) => format!("{name} is not stopped by hand any more."),
                None => format!("{name} is no longer configured."),
            }
        }),
        Key::Disk(node) => of_node(node, &|row, facts| match facts.linked || row.role == NodeRole::Coordinator {
            true => format!("{}: its disk has room again.", row.name),
            false => format!("{} is not connected any more.", row.name),
        }),
        Key::Stuck(node) => of_node(node, &|row, facts| match facts.linked {
            true => format!("{}: its events get here again.", row.name),
            false => format!("{} is not connected any more.", row.name),
        }),
        Key::Twice(node) => of_node(node, &|row, _| format!("{}: a person says that one machine uses its identity.", row.name)),
        Key::Hostile(node) => of_node(node, &|row, _| format!("{}: a person looked at it, or it kept to the rules for a day.", row.name)),
        Key::Raised(node) => of_node(node, &|row, _| format!("{} obeys the coordinator again.", row.name)),
        Key::Restless(person) => format!("{person}'s devices are taken for gone as usual again."),
        Key::Shown(..) => String::new(),
    }
}
