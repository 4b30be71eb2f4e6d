//! The first screen: what holds, why, whether every camera obeys, who is home.

use dms3_core::arming::ArmState;
use dms3_core::coordinator::Decision;
use dms3_core::dashboard::{Dashboard, Missing};
use dms3_core::presence::Presence;
use dms3_core::roster::{NodeRole, NodeStatus};
use dms3_core::windows::Span;
use serde::Serialize;

use super::{Button, Clock, Moment, capital, state_name, state_word};

/// An override that ends within this time says so loudly.
const ENDING: u64 = 600;
/// A detector that should watch and does not is no trouble for so long.
const STARTS_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);
/// Colours for people without a picture.
const HUES: u32 = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Banner {
    pub(crate) state: &'static str,
    pub(crate) word: &'static str,
    pub(crate) symbol: &'static str,
    pub(crate) reason: String,
    pub(crate) since: Moment,
    pub(crate) until: Option<Moment>,
    pub(crate) overridden: bool,
    /// It ends within minutes.
    pub(crate) ending: bool,
    /// What comes after the override.
    pub(crate) then: Option<&'static str>,
    /// The window in force, or the next one.
    pub(crate) plan: Option<String>,
    pub(crate) pending: Option<Pending>,
    pub(crate) blind: Option<String>,
    pub(crate) presence: &'static str,
    pub(crate) button: Option<Button>,
    pub(crate) choices: Vec<Button>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Pending {
    pub(crate) word: &'static str,
    pub(crate) at: Moment,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Confirm {
    pub(crate) should: usize,
    pub(crate) watching: usize,
    /// On their way, which is no trouble yet.
    pub(crate) starting: usize,
    /// From the decision to the last camera's word.
    pub(crate) confirmed_ms: Option<u64>,
    pub(crate) missing: Vec<NotWatching>,
    pub(crate) problems: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// Where no camera has to watch.
    pub(crate) words: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NotWatching {
    pub(crate) name: String,
    pub(crate) since: Option<Moment>,
    pub(crate) why: String,
    pub(crate) todo: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PersonCard {
    pub(crate) name: String,
    pub(crate) initial: String,
    pub(crate) hue: u32,
    pub(crate) presence: &'static str,
    /// Whether the house knows a device of this person. Without one nothing can be known.
    pub(crate) known: bool,
    pub(crate) seen: Option<Moment>,
    pub(crate) device: Option<String>,
}

/// The state on every page but the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Pill {
    pub(crate) state: &'static str,
    pub(crate) word: &'static str,
    pub(crate) reason: String,
    pub(crate) trouble: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Why {
    pub(crate) at: Moment,
    pub(crate) state: &'static str,
    pub(crate) word: &'static str,
    pub(crate) reason: String,
}

pub(crate) fn banner(house: &Dashboard, clock: &Clock) -> Banner {
    let state = house.state;
    let pending = house.pending.map(|(state, at)| Pending { word: state_word(state), at: clock.second(at) });
    let ending = house.override_until.is_some_and(|until| until.since(clock.now).as_secs() < ENDING);
    let then = house.override_until.map(|_| match (state, house.presence) {
        (ArmState::Disarmed, Presence::Away) => "Then the house arms: nobody is home",
        (ArmState::Disarmed, _) => "Then the house decides again",
        (_, Presence::Home) => "Then the house disarms: somebody is home",
        (_, _) => "Then the house decides again",
    });
    let blind = house.blind.as_ref().map(|why| {
        format!(
            "Not known who is home: {}. The house stays as it is. Until that is mended, arm and disarm by hand.",
            why.trim_end_matches('.')
        )
    });
    Banner {
        state: state_name(state),
        word: state_word(state),
        symbol: match state {
            ArmState::Disarmed => "shield-off",
            ArmState::Night => "moon-star",
            ArmState::Away => "shield-check",
        },
        reason: capital(&house.reason),
        since: clock.moment(house.since),
        until: house.override_until.map(|until| clock.moment(until)),
        overridden: house.overridden,
        ending,
        then: then.filter(|_| house.overridden),
        plan: plan(house, clock),
        blind,
        // A house that looks for nobody does not wonder who is home.
        presence: if house.presence_enabled { presence_name(house.presence) } else { "home" },
        button: Some(button(state, pending.is_some())),
        choices: choices(state, pending.is_some(), house.overridden),
        pending,
    }
}

/// What is known of each person (true) and what each rule says, in words.
pub(crate) fn evidence(house: &Dashboard, clock: &Clock) -> Vec<(bool, String)> {
    let why = dms3_core::why::why(house, clock.now, false, &|at| clock.moment(at).words);
    why.people.into_iter().map(|text| (true, text)).chain(why.rules.into_iter().map(|text| (false, text))).collect()
}

fn plan(house: &Dashboard, clock: &Clock) -> Option<String> {
    let name = |span: &Span| match span.state {
        ArmState::Night => "the night",
        ArmState::Away => "away",
        ArmState::Disarmed => "no watch",
    };
    match (&house.window, &house.next_window) {
        (Some(window), _) => Some(format!("Window: {} until {}", name(window), clock.moment(window.until).words)),
        (None, Some(next)) => Some(format!("Next window: {} from {}", name(next), clock.moment(next.from).words)),
        (None, None) => None,
    }
}

fn button(state: ArmState, pending: bool) -> Button {
    match (state, pending) {
        // What holds goes on: to call off an arming must not disarm a house that is armed already.
        (ArmState::Disarmed, true) => Button { label: "Cancel", action: "/disarm", fields: vec![("for", "")] },
        (armed, true) => Button { label: "Cancel", action: "/arm", fields: vec![("state", state_name(armed)), ("for", ""), ("now", "1")] },
        (ArmState::Disarmed, false) => Button { label: "Arm", action: "/arm", fields: vec![("state", "away"), ("for", "")] },
        (_, false) => Button { label: "Disarm", action: "/disarm", fields: vec![("for", "")] },
    }
}

fn choices(state: ArmState, pending: bool, overridden: bool) -> Vec<Button> {
    let arm = |label, state, time, now: bool| {
        let mut fields = vec![("state", state), ("for", time)];
        fields.extend(now.then_some(("now", "1")));
        Button { label, action: "/arm", fields }
    };
    let disarm = |label, time| Button { label, action: "/disarm", fields: vec![("for", time)] };
    let stays = |mut button: Button| {
        button.fields.push(("stays", "1"));
        button
    };
    let vacation = stays(arm("Vacation: only a person disarms", "away", "", false));
    let guests = |label| stays(disarm(label, "4h"));
    let mut choices = match (state, pending) {
        (_, true) => vec![arm("Arm now, no time to leave", "away", "", true)],
        (ArmState::Disarmed, false) => vec![
            arm("Arm now, no time to leave", "away", "", true),
            arm("Arm for 2 hours", "away", "2h", false),
            arm("Arm for the night", "night", "", true),
            arm("Arm for the night, until the morning", "night", "morning", true),
            vacation,
            guests("Guests: stay disarmed for 4 hours"),
        ],
        (armed, false) => vec![
            disarm("Disarm for 1 hour", "1h"),
            disarm("Disarm for 2 hours", "2h"),
            disarm("Disarm until the morning", "morning"),
            guests("Guests: disarm for 4 hours, whoever leaves"),
            match armed {
                ArmState::Night => arm("Arm for away instead", "away", "", true),
                _ => arm("Arm for the night instead", "night", "", true),
            },
        ],
    };
    if overridden {
        choices.push(Button { label: "Let the house decide again", action: "/auto", fields: vec![] });
    }
    choices
}

pub(crate) fn confirm(house: &Dashboard, clock: &Clock) -> Confirm {
    let (should, missing) = house.watch();
    let cameras = house.nodes.iter().filter(|node| node.role == NodeRole::Camera && node.status == NodeStatus::Active);
    let cameras: Vec<_> = cameras.collect();
    let slowest = cameras.iter().filter(|camera| !camera.detectors.is_empty()).map(|camera| camera.ack_ms.filter(|_| camera.current));
    let confirmed_ms =
        slowest.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max()).filter(|_| missing.is_empty() && should > 0);
    let words = match (should, cameras.len()) {
        (1.., _) => None,
        (_, 0) => Some("There is no camera yet."),
        _ => Some("No camera has to watch now."),
    };
    let watching = should - missing.len();
    let (starting, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|one| is_starting(one, clock));
    let missing: Vec<_> = missing.iter().map(|one| not_watching(one, clock)).collect();
    // What is said of a camera above needs not be said twice.
    let said = |text: &String| missing.iter().any(|one| text.starts_with(&format!("{} ", one.name)));
    let problems = house.problems.iter().filter(|text| !said(text)).cloned().collect();
    Confirm { should, watching, starting: starting.len(), confirmed_ms, missing, problems, notes: house.notes.clone(), words }
}

/// Motion needs seconds from its start until it can see.
fn is_starting(one: &Missing<'_>, clock: &Clock) -> bool {
    let fresh = one.detector.since.is_some_and(|since| clock.now.since(since) < STARTS_WITHIN);
    one.node.liveness == "online" && matches!(one.detector.phase.as_str(), "starting" | "stopped" | "stopping") && fresh
}

fn not_watching(one: &Missing<'_>, clock: &Clock) -> NotWatching {
    let (node, detector) = (one.node, one.detector);
    let heard = node.last_contact.map(|at| clock.moment(at));
    let (since, why, todo) = match node.liveness.as_str() {
        "online" => {
            let detail = detector.detail.trim_end_matches('.');
            let why = if detail.is_empty() {
                format!("{}.", capital(&detector.phase))
            } else {
                format!("{}: {detail}.", capital(&detector.phase))
            };
            let todo = match detector.phase.as_str() {
                "failed" => Some("It is started again by itself. If this stays, look at its picture cable and at its log."),
                "paused by hand" => Some("On the camera, `sudo dms3-node resume` ends the pause."),
                _ => None,
            };
            (detector.since.map(|at| clock.moment(at)), why, todo)
        }
        "never seen" => (None, "It was paired, and never linked yet.".to_owned(), Some("Is it on, and in this network?")),
        _ => {
            let why = "The house has not heard from it. It may have no power or no network.".to_owned();
            (heard, why, Some("Look at its plug and its network."))
        }
    };
    NotWatching { name: one.name(), since, why, todo }
}

pub(crate) fn people(house: &Dashboard, clock: &Clock) -> Vec<PersonCard> {
    house
        .people
        .iter()
        .map(|person| PersonCard {
            name: person.name.clone(),
            initial: person.name.chars().next().map_or_else(String::new, |first| first.to_uppercase().collect()),
            hue: person.name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % HUES,
            presence: presence_name(person.presence),
            known: person.devices > 0,
            seen: person.last_seen.map(|at| clock.moment(at)),
            device: person.device.clone(),
        })
        .collect()
}

pub(crate) fn pill(house: &Dashboard) -> Pill {
    let (_, missing) = house.watch();
    Pill {
        state: state_name(house.state),
        word: state_word(house.state),
        reason: capital(&house.reason),
        trouble: !missing.is_empty() || !house.problems.is_empty(),
    }
}

pub(crate) fn why(decisions: &[Decision], clock: &Clock) -> Vec<Why> {
    let newest = decisions.iter().rev();
    newest
        .map(|decision| Why {
            at: clock.moment(decision.at),
            state: state_name(decision.state),
            word: state_word(decision.state),
            reason: capital(&decision.reason),
        })
        .collect()
}

pub(crate) fn presence_name(presence: Presence) -> &'static str {
    match presence {
        Presence::Home => "home",
        Presence::Away => "away",
        Presence::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use dms3_core::dashboard::{DetectorView, NodeView};
    use dms3_core::id::NodeId;
    use dms3_core::time::Timestamp;

    use super::*;
    use crate::view::time::{at, berlin};

    const NOW: &str = "2026-11-28T17:31:00Z";

    fn camera(name: &str, liveness: &str, phase: &str, since: Timestamp) -> NodeView {
        NodeView {
            node: NodeId([7; 32]),
            name: name.to_owned(),
            role: NodeRole::Camera,
            status: NodeStatus::Active,
            liveness: liveness.to_owned(),
            address: None,
            hostname: None,
            os: None,
            platform: None,
            kernel: None,
            version: None,
            last_contact: Some(at("2026-11-28T17:03:00Z")),
            applied: None,
            current: true,
            detectors: vec![DetectorView {
                source: name.to_owned(),
                should_watch: true,
                phase: phase.to_owned(),
                since: Some(since),
                detail: String::new(),
                live: dms3_core::protocol::message::LiveView::Watching,
            }],
            ack_ms: Some(412),
            health: None,
            disk_days: None,
            cert_end: None,
            blame: None,
            twice: None,
        }
    }

    fn house(nodes: Vec<NodeView>) -> Dashboard {
        Dashboard {
            state: ArmState::Away,
            epoch: 0,
            rev: 4,
            reason: "everybody left".to_owned(),
            since: at("2026-11-28T17:02:00Z"),
            override_until: None,
            overridden: false,
            window: None,
            next_window: None,
            pending: None,
            presence: Presence::Away,
            blind: None,
            presence_enabled: true,
            people: Vec::new(),
            nodes,
            problems: vec!["porch is lost: no contact for 28 min.".to_owned(), "2 mail(s) wait: refused".to_owned()],
            notes: Vec::new(),
            clock_trusted: true,
            mail: None,
            frames: None,
            devices: Vec::new(),
            phones: dms3_core::dashboard::Phones::default(),
        }
    }

    #[test]
    fn a_camera_that_just_starts_is_no_alarm_and_one_that_does_not_come_is() {
        let clock = berlin(NOW);
        let fresh = clock.now - std::time::Duration::from_secs(5);
        let starting = confirm(&house(vec![camera("porch", "online", "starting", fresh)]), &clock);
        assert_eq!((starting.should, starting.watching, starting.starting, starting.missing.len()), (1, 0, 1, 0));
        let late = confirm(&house(vec![camera("porch", "online", "starting", clock.now - STARTS_WITHIN)]), &clock);
        assert_eq!((late.starting, late.missing.len(), late.missing[0].why.as_str()), (0, 1, "Starting."));
        let failed = confirm(&house(vec![camera("porch", "online", "failed", fresh)]), &clock);
        assert_eq!((failed.starting, failed.missing.len()), (0, 1));
    }

    #[test]
    fn a_lost_camera_is_named_once_with_since_when_and_what_to_do() {
        let clock = berlin(NOW);
        let watches = camera("garden", "online", "watching", clock.now);
        let lost = confirm(&house(vec![watches.clone(), camera("porch", "lost", "watching", clock.now)]), &clock);
        assert_eq!((lost.should, lost.watching, lost.confirmed_ms), (2, 1, None));
        assert_eq!(lost.missing[0].since.as_ref().unwrap().words, "today 18:03");
        assert!(lost.missing[0].todo.is_some());
        assert_eq!(lost.problems, ["2 mail(s) wait: refused"], "what is said above is not said twice");
        let all = confirm(&house(vec![watches]), &clock);
        assert_eq!((all.watching, all.confirmed_ms, all.missing.len()), (1, Some(412), 0));
    }

    #[test]
    fn the_banner_says_what_holds_since_when_why_and_what_can_be_done() {
        let clock = berlin(NOW);
        let mut house = house(Vec::new());
        let said = banner(&house, &clock);
        assert_eq!((said.word, said.reason.as_str(), said.since.words.as_str()), ("Armed · away", "Everybody left", "today 18:02"));
        assert_eq!(said.button.unwrap().action, "/disarm");
        assert!(!said.choices.iter().any(|choice| choice.action == "/auto"), "nothing is overridden");
        (house.state, house.overridden, house.override_until) = (ArmState::Disarmed, true, Some(at("2026-11-28T17:35:00Z")));
        let said = banner(&house, &clock);
        assert_eq!(
            (said.ending, said.then, said.until.unwrap().words.as_str()),
            (true, Some("Then the house arms: nobody is home"), "today 18:35")
        );
        assert!(said.choices.iter().any(|choice| choice.action == "/auto"));
        house.pending = Some((ArmState::Away, at("2026-11-28T17:31:43Z")));
        let said = banner(&house, &clock);
        let button = said.button.unwrap();
        assert_eq!((button.label, button.action, said.pending.unwrap().at.words.as_str()), ("Cancel", "/disarm", "18:31:43"));
        house.state = ArmState::Night;
        let button = banner(&house, &clock).button.unwrap();
        assert_eq!((button.label, button.action, button.fields[0]), ("Cancel", "/arm", ("state", "night")), "it stays armed");
        house.blind = Some("the network cable is out".to_owned());
        assert!(banner(&house, &clock).blind.unwrap().starts_with("Not known who is home: the network cable is out."));
    }
}
