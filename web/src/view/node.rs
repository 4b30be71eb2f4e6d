//! Nodes as cards: how each machine is, the worst first.

use std::collections::HashMap;

use dms3_core::dashboard::{Dashboard, DetectorView, NodeView};
use dms3_core::id::NodeId;
use dms3_core::roster::{NodeRole, NodeStatus};
use serde::{Deserialize, Serialize};

use super::time::length;
use super::{Clock, Moment, capital};

/// From where on a machine is shown in yellow, and in red.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Degrees Celsius.
    pub celsius_warn: i32,
    pub celsius_bad: i32,
    /// Percent of the disk that is free.
    pub disk_warn: u64,
    pub disk_bad: u64,
    /// Silence of a node, in seconds, by our own clock; red is [`dms3_core::health::LOST_AFTER`] at the latest.
    pub silence_warn: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { celsius_warn: 70, celsius_bad: 80, disk_warn: 15, disk_bad: 5, silence_warn: 10 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Light {
    Ok,
    Warn,
    Bad,
    /// A person took it out of the house.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NodeCard {
    pub(crate) id: String,
    pub(crate) short: String,
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) light: Light,
    pub(crate) words: String,
    pub(crate) detectors: Vec<DetectorLine>,
    pub(crate) hostname: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) os: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) node_uptime: Option<String>,
    pub(crate) machine_uptime: Option<String>,
    pub(crate) events: u64,
    pub(crate) contact: Option<Moment>,
    pub(crate) address: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) cert_end: Option<Moment>,
    pub(crate) celsius: Option<i32>,
    /// `None`: the machine does not tell.
    pub(crate) undervoltage: Option<bool>,
    pub(crate) load: Option<String>,
    pub(crate) memory: Option<String>,
    pub(crate) disk: Option<Disk>,
    pub(crate) outbox: u64,
    pub(crate) spool: u64,
    pub(crate) clock_trusted: bool,
    pub(crate) paused: Option<&'static str>,
    /// What it did against the rules, for a person to look at.
    pub(crate) conduct: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DetectorLine {
    pub(crate) source: String,
    pub(crate) words: String,
    pub(crate) detail: String,
    pub(crate) bad: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    pub(crate) free: String,
    /// Until it is full, at this pace.
    pub(crate) days: Option<u64>,
    pub(crate) light: Light,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Reporting {
    pub(crate) n: usize,
    pub(crate) of: usize,
}

pub(crate) fn reporting(house: &Dashboard) -> Reporting {
    let cameras = house.nodes.iter().filter(|node| node.role == NodeRole::Camera && node.status == NodeStatus::Active);
    let online = cameras.clone().filter(|node| node.liveness == "online").count();
    Reporting { n: online, of: cameras.count() }
}

/// The coordinator first if so configured, then by name. Revoked nodes are not shown here: their events are.
pub(crate) fn cards(
    house: &Dashboard,
    events: &HashMap<NodeId, u64>,
    limits: &Limits,
    coordinator_first: bool,
    clock: &Clock,
) -> Vec<NodeCard> {
    let active = house.nodes.iter().filter(|node| node.status == NodeStatus::Active);
    let mut nodes: Vec<&NodeView> = active.collect();
    nodes.sort_by_key(|node| (coordinator_first && node.role != NodeRole::Coordinator, node.name.to_lowercase()));
    nodes.into_iter().map(|node| card(node, events.get(&node.node).copied().unwrap_or(0), limits, clock)).collect()
}

pub(crate) fn card(node: &NodeView, events: u64, limits: &Limits, clock: &Clock) -> NodeCard {
    let is_coordinator = node.role == NodeRole::Coordinator;
    let health = node.health.as_ref();
    let celsius = health.and_then(|health| health.cpu_millicelsius).map(|milli| milli / 1000);
    let disk = health.filter(|health| health.disk_total_mib > 0).map(|health| {
        let percent = health.disk_free_mib * 100 / health.disk_total_mib;
        let light = if percent < limits.disk_bad {
            Light::Bad
        } else if percent < limits.disk_warn {
            Light::Warn
        } else {
            Light::Ok
        };
        Disk { free: mebibytes(health.disk_free_mib), days: node.disk_days, light }
    });
    let heat = celsius.map_or(Light::Ok, |celsius| match celsius {
        _ if celsius >= limits.celsius_bad => Light::Bad,
        _ if celsius >= limits.celsius_warn => Light::Warn,
        _ => Light::Ok,
    });
    let detectors: Vec<_> = node.detectors.iter().map(|detector| line(detector, node)).collect();
    let (standing, mut words) = standing(node, &detectors, limits, clock);
    let undervoltage = health.and_then(|health| health.under_voltage);
    let power = if undervoltage == Some(true) { Light::Warn } else { Light::Ok };
    let (twice, hostile) = (node.twice.is_some(), node.blame.as_ref().is_some_and(|blame| blame.hostile));
    let trust = if twice || hostile { Light::Bad } else { Light::Ok };
    let light = [standing, heat, power, trust, disk.as_ref().map_or(Light::Ok, |disk| disk.light)].into_iter().max().unwrap_or(Light::Ok);
    // A sign that is not green says why.
    if standing == Light::Ok {
        let full = disk.as_ref().is_some_and(|disk| disk.light != Light::Ok);
        let causes = [
            (twice, "two machines use its identity"),
            (hostile, "it breaks the rules"),
            (full, "its disk is nearly full"),
            (heat != Light::Ok, "it is hot"),
            (power != Light::Ok, "its power is weak"),
        ];
        let causes: Vec<_> = causes.into_iter().filter_map(|(is, words)| is.then_some(words)).collect();
        let causes = causes.join(" and ");
        words = match words.as_str() {
            _ if causes.is_empty() => words,
            WELL => causes,
            _ => format!("{words}, but {causes}"),
        };
    }
    let clock_trusted = health.is_none_or(|health| health.clock_trusted);
    NodeCard {
        id: node.node.to_string(),
        short: node.node.short(),
        name: node.name.clone(),
        role: if is_coordinator { "coordinator" } else { "camera" },
        light: if clock_trusted { light } else { light.max(Light::Warn) },
        words,
        paused: node.detectors.iter().any(|one| one.phase == "paused by hand").then_some("Stopped by hand on the camera."),
        conduct: conduct(node, clock),
        detectors,
        hostname: node.hostname.clone(),
        platform: node.platform.clone(),
        os: node.os.clone(),
        kernel: node.kernel.clone(),
        node_uptime: health.map(|health| length(health.node_uptime)),
        machine_uptime: health.map(|health| length(health.machine_uptime)),
        events,
        // Of itself it always just heard.
        contact: node.last_contact.filter(|_| !is_coordinator).map(|at| clock.moment(at)),
        address: node.address.clone(),
        version: node.version.clone(),
        cert_end: node.cert_end.map(|at| clock.moment(at)),
        celsius,
        undervoltage,
        load: health.map(|health| format!("{}.{:02}", health.load_centi / 100, health.load_centi % 100)),
        memory: health.filter(|health| health.mem_total_kib > 0).map(|health| {
            let used = health.mem_total_kib.saturating_sub(health.mem_available_kib);
            format!("{} of {} MB used", used / 1024, health.mem_total_kib / 1024)
        }),
        disk,
        outbox: health.map_or(0, |health| health.outbox.waiting),
        spool: health.map_or(0, |health| health.spool),
        clock_trusted,
    }
}

fn conduct(node: &NodeView, clock: &Clock) -> Vec<String> {
    let twice = node.twice.as_ref().map(|twice| {
        let (since, one, other) = (clock.moment(twice.at).words, &twice.one, &twice.other);
        format!(
            "Two machines use its identity, since {since}: one at {one}, the other at {other}. Switch one of them off, then clear this. If nobody \
             copied its card, revoke it."
        )
    });
    let blame = node.blame.as_ref().map(|blame| {
        let often = if blame.count > 1 { format!(", {} times in all", blame.count) } else { String::new() };
        format!("{}: {}{often}.", capital(&clock.moment(blame.at).words), blame.why.trim_end_matches('.'))
    });
    twice.into_iter().chain(blame).collect()
}

/// Of a coordinator, whose page could not be seen otherwise.
const WELL: &str = "all is well";

fn standing(node: &NodeView, detectors: &[DetectorLine], limits: &Limits, clock: &Clock) -> (Light, String) {
    let since = node.last_contact.map(|at| format!(" since {}", clock.moment(at).words)).unwrap_or_default();
    match (node.status, node.role, node.liveness.as_str()) {
        (NodeStatus::Revoked, ..) => (Light::Gone, "out of the house".to_owned()),
        (_, NodeRole::Coordinator, _) => (Light::Ok, WELL.to_owned()),
        (_, _, "online") => match detectors.iter().find(|line| line.bad) {
            Some(line) => (Light::Bad, line.words.clone()),
            None => (Light::Ok, summary(detectors)),
        },
        (_, _, "never seen") => (Light::Warn, "never linked yet".to_owned()),
        (_, _, "late") => {
            let silent = node.last_contact.map_or(u64::MAX, |at| clock.now.since(at).as_secs());
            (if silent >= limits.silence_warn { Light::Warn } else { Light::Ok }, "not heard for a moment".to_owned())
        }
        _ => (Light::Bad, format!("lost{since}")),
    }
}

/// Of a camera whose detectors do as they should.
fn summary(detectors: &[DetectorLine]) -> String {
    let watching = detectors.iter().filter(|line| line.words == "watching").count();
    match (watching, detectors.len()) {
        (_, 0) => "no detector".to_owned(),
        // What is on its way says so.
        (0, _) => {
            detectors.iter().map(|line| &line.words).find(|words| *words != "resting").map_or_else(|| "resting".to_owned(), Clone::clone)
        }
        (some, all) if some == all => "watching".to_owned(),
        (some, all) => format!("{some} of {all} watching"),
    }
}

fn line(detector: &DetectorView, node: &NodeView) -> DetectorLine {
    let watches = detector.phase == "watching";
    let known = node.liveness == "online";
    let words = match (detector.should_watch, detector.phase.as_str()) {
        (false, "stopped") => "resting".to_owned(),
        (_, phase) => phase.to_owned(),
    };
    let bad = known && detector.should_watch && !watches && !matches!(detector.phase.as_str(), "starting" | "paused by hand");
    DetectorLine {
        source: detector.source.clone(),
        words: if bad { format!("not watching: {words}") } else { words },
        detail: capital(&detector.detail),
        bad,
    }
}

fn mebibytes(mib: u64) -> String {
    match mib {
        0..10_240 => format!("{mib} MB"),
        _ => format!("{} GB", mib / 1024),
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::conduct::{Blame, Twice};
    use serde_json::json;

    use super::super::time::berlin;
    use super::*;

    /// A camera that watches, on a machine like that.
    fn porch(milli_celsius: i32, disk_free: u64, under_voltage: bool) -> NodeView {
        let health = json!({
            "at": 0, "node_uptime": 1, "machine_uptime": 1, "cpu_millicelsius": milli_celsius, "load_centi": 5, "mem_total_kib": 1000,
            "mem_available_kib": 500, "disk_total_mib": 100, "disk_free_mib": disk_free, "unknown_frames": 0, "clock_trusted": true,
            "outbox": { "waiting": 2, "bytes": 0, "oldest": null, "lost": 0, "refused": 0 }, "mails": false,
            "under_voltage": under_voltage, "spool": 3,
        });
        let detector = json!({ "source": "cam", "should_watch": true, "phase": "watching", "since": 1, "detail": "" });
        let node = json!({
            "node": vec![1; 32], "name": "porch", "role": "camera", "status": "active", "liveness": "online", "address": null,
            "hostname": null, "version": null, "last_contact": 1, "applied": null, "current": true, "detectors": [detector], "ack_ms": null,
            "health": health,
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_sign_that_is_not_green_says_why() {
        let of = |milli, free, weak| {
            let card = card(&porch(milli, free, weak), 0, &Limits::default(), &berlin("2026-11-28T17:31:00Z"));
            (card.light, card.words)
        };
        assert_eq!(of(49_000, 50, false), (Light::Ok, "watching".to_owned()));
        assert_eq!(of(49_000, 10, false), (Light::Warn, "watching, but its disk is nearly full".to_owned()));
        assert_eq!(of(81_000, 50, true), (Light::Bad, "watching, but it is hot and its power is weak".to_owned()));
    }

    #[test]
    fn a_card_says_what_a_camera_did_and_is_red_if_that_is_bad() {
        let at = crate::view::time::at("2026-11-28T17:03:00Z");
        let of = |blame, twice| {
            let card = card(&NodeView { blame, twice, ..porch(49_000, 50, false) }, 0, &Limits::default(), &berlin("2026-11-28T17:31:00Z"));
            (card.light, card.words, card.conduct.join(" "))
        };
        let blame = |hostile| Some(Blame { why: "put out: it lies".to_owned(), at, count: 7, hostile });
        let twice = Some(Twice { at, one: "10.0.0.1".to_owned(), other: "10.0.0.2".to_owned() });
        let said = "Today 18:03: put out: it lies, 7 times in all.";
        assert_eq!(of(blame(false), None), (Light::Ok, "watching".to_owned(), said.to_owned()), "once is no reason to worry");
        assert_eq!(of(blame(true), None), (Light::Bad, "watching, but it breaks the rules".to_owned(), said.to_owned()));
        let (light, words, conduct) = of(None, twice);
        assert_eq!((light, words.as_str()), (Light::Bad, "watching, but two machines use its identity"));
        assert!(conduct.contains("since today 18:03: one at 10.0.0.1, the other at 10.0.0.2."), "{conduct}");
    }

    #[test]
    fn a_card_says_what_waits_and_whether_its_power_is_good() {
        let card = card(&porch(49_000, 50, false), 7, &Limits::default(), &berlin("2026-11-28T17:31:00Z"));
        assert_eq!((card.events, card.outbox, card.spool, card.undervoltage, card.celsius), (7, 2, 3, Some(false), Some(49)));
    }
}
