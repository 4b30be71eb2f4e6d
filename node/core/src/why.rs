//! Why the house is as it is: one sentence, the evidence of each person, and what each rule says, the strongest first.

use crate::arming::ArmState;
use crate::dashboard::{Dashboard, PersonView};
use crate::presence::{AWAY_PROBES, Presence};
use crate::time::{Timestamp, duration_words};

/// In words for anybody in the house.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// "Armed since 14:03: everybody left."
    pub sentence: String,
    /// One for each person, in the order of the config.
    pub people: Vec<String>,
    /// A person's choice, windows, presence: the first that asks for something decides. Of windows and presence the stronger.
    pub rules: Vec<String>,
}

/// `clock`: a moment as people read it there, "14:03" or "Mon 23 Nov 14:03". `to_the_minute`: with what changes while nothing happens.
pub fn why(house: &Dashboard, now: Timestamp, to_the_minute: bool, clock: &dyn Fn(Timestamp) -> String) -> Why {
    let sentence = format!("{} since {}: {}.", house.state.words(), clock(house.since), house.reason);
    Why {
        sentence,
        people: house.people.iter().map(|one| person(one, house, now, to_the_minute, clock)).collect(),
        rules: rules(house, now, clock),
    }
}

fn person(one: &PersonView, house: &Dashboard, now: Timestamp, to_the_minute: bool, clock: &dyn Fn(Timestamp) -> String) -> String {
    let name = &one.name;
    let sign = match (one.last_seen, &one.device, one.sensor) {
        (Some(seen), Some(device), Some(sensor)) => format!("at {} {device} {}", clock(seen), sensor.words()),
        (Some(seen), ..) => format!("there was a sign at {}", clock(seen)),
        (None, ..) => "there was no sign since the coordinator started".to_owned(),
    };
    let away_after = duration_words(std::time::Duration::from_secs(one.away_secs));
    match one.presence {
        Presence::Home if !to_the_minute => {
            format!("{name} is home: {} is near.", one.device.as_deref().unwrap_or("a device"))
        }
        Presence::Home => {
            let silent = one.last_seen.map_or(0, |seen| now.since(seen).as_secs());
            let left = if silent < 60 {
                String::new()
            } else {
                format!("; away only after {away_after} of silence and {AWAY_PROBES} questions without an answer")
            };
            format!("{name} is home: {sign}{left}.")
        }
        Presence::Away => format!("{name} is away: {sign}; then {away_after} of silence and {AWAY_PROBES} questions without an answer."),
        Presence::Unknown if one.devices == 0 => {
            let so = if one.counts { "; so the others' leaving does not arm it" } else { "" };
            format!("{name}: nobody can tell, for the house knows no device of {name} yet{so}.")
        }
        Presence::Unknown if house.blind.is_some() => format!("{name}: not known, since nobody can be seen now; {sign}."),
        Presence::Unknown => format!("{name}: not known yet; {sign}."),
    }
}

fn rules(house: &Dashboard, now: Timestamp, clock: &dyn Fn(Timestamp) -> String) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some((state, at)) = house.pending {
        rules.push(format!("A person asked for it: {} in {} s.", lower(state), at.since(now).as_secs()));
    }
    rules.push(match (house.overridden, house.override_until) {
        (true, Some(until)) => format!("By hand: a person chose it, until {}. That goes before all else.", clock(until)),
        (true, None) => "By hand: a person chose it. That goes before all else.".to_owned(),
        (false, _) => "By hand: nobody chose anything, so windows and presence decide.".to_owned(),
    });
    rules.push(match (&house.window, &house.next_window) {
        (Some(window), _) if window.state.is_armed() => {
            format!("Window: until {} it asks for {} at least.", clock(window.until), lower(window.state))
        }
        (Some(window), _) => format!("Window: until {} nobody is to watch, whoever is away.", clock(window.until)),
        (None, Some(next)) => format!("Window: none now; the next one ({}) begins at {}.", lower(next.state), clock(next.from)),
        (None, None) => "Window: none.".to_owned(),
    });
    rules.push(match (house.presence_enabled, house.presence, &house.blind) {
        (false, ..) => "Presence: this house looks for nobody, by its config.".to_owned(),
        (true, _, Some(why)) => format!("Presence: not known ({}), so what it said before stays.", why.trim_end_matches('.')),
        (true, Presence::Home, None) => "Presence: somebody is home.".to_owned(),
        (true, Presence::Away, None) => "Presence: nobody is home, which asks for armed.".to_owned(),
        (true, Presence::Unknown, None) => "Presence: not known yet, so what it said before stays.".to_owned(),
    });
    rules
}

fn lower(state: ArmState) -> String {
    state.words().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::presence::Sensor;
    use crate::windows::Span;

    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    fn ago(secs: u64) -> Timestamp {
        NOW - Duration::from_secs(secs)
    }

    /// Anna left half an hour ago; of Ben nothing is known yet.
    fn house() -> Dashboard {
        let person = |name: &str, presence, last_seen: Option<Timestamp>| PersonView {
            name: name.to_owned(),
            presence,
            counts: true,
            last_seen,
            device: last_seen.map(|_| format!("{name}'s phone")),
            sensor: last_seen.map(|_| Sensor::ArpProbe),
            devices: 1,
            away_secs: 300,
        };
        Dashboard {
            state: ArmState::Away,
            epoch: 0,
            rev: 3,
            reason: "everybody left".to_owned(),
            since: ago(1500),
            override_until: None,
            overridden: false,
            window: None,
            next_window: None,
            pending: None,
            presence: Presence::Away,
            blind: None,
            presence_enabled: true,
            people: vec![person("Anna", Presence::Away, Some(ago(1800))), person("Ben", Presence::Unknown, None)],
            nodes: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
            clock_trusted: true,
            mail: None,
            devices: Vec::new(),
            frames: None,
            phones: crate::dashboard::Phones::default(),
        }
    }

    /// Moments as seconds before now.
    fn of(house: &Dashboard) -> Why {
        why(house, NOW, true, &|at| {
            if at <= NOW { format!("-{}", NOW.since(at).as_secs()) } else { format!("+{}", at.since(NOW).as_secs()) }
        })
    }

    #[test]
    fn one_sentence_says_what_holds_and_the_lines_below_it_what_is_known_of_each_person() {
        let told = of(&house());
        assert_eq!(told.sentence, "Armed (away) since -1500: everybody left.");
        assert_eq!(
            told.people,
            [
                "Anna is away: at -1800 Anna's phone answered a probe; then 5 min of silence and 12 questions without an answer.",
                "Ben: not known yet; there was no sign since the coordinator started."
            ]
        );
        assert_eq!(
            told.rules,
            [
                "By hand: nobody chose anything, so windows and presence decide.",
                "Window: none.",
                "Presence: nobody is home, which asks for armed."
            ]
        );
    }

    #[test]
    fn of_whom_no_device_is_known_it_is_said_what_that_means() {
        let mut house = house();
        house.people[1].devices = 0;
        assert_eq!(
            of(&house).people[1],
            "Ben: nobody can tell, for the house knows no device of Ben yet; so the others' leaving does not arm it."
        );
        house.people[1].counts = false;
        assert_eq!(of(&house).people[1], "Ben: nobody can tell, for the house knows no device of Ben yet.");
    }

    #[test]
    fn each_rule_that_has_a_say_is_named_with_its_end() {
        let night = Span { state: ArmState::Night, from: ago(60), until: NOW + Duration::from_secs(600) };
        let by_hand = Dashboard {
            overridden: true,
            override_until: Some(NOW + Duration::from_secs(60)),
            window: Some(night),
            presence: Presence::Unknown,
            blind: Some("eth0 has no connection.".to_owned()),
            pending: Some((ArmState::Away, NOW + Duration::from_secs(30))),
            ..house()
        };
        assert_eq!(
            of(&by_hand).rules,
            [
                "A person asked for it: armed (away) in 30 s.",
                "By hand: a person chose it, until +60. That goes before all else.",
                "Window: until +600 it asks for armed (night) at least.",
                "Presence: not known (eth0 has no connection), so what it said before stays."
            ]
        );
        let nobody = Span { state: ArmState::Disarmed, ..night };
        assert_eq!(of(&Dashboard { window: Some(nobody), ..house() }).rules[1], "Window: until +600 nobody is to watch, whoever is away.");
        assert_eq!(
            of(&Dashboard { next_window: Some(night), ..house() }).rules[1],
            "Window: none now; the next one (armed (night)) begins at -60."
        );
        assert_eq!(of(&Dashboard { presence_enabled: false, ..house() }).rules[2], "Presence: this house looks for nobody, by its config.");
    }

    #[test]
    fn what_a_page_shows_changes_only_when_something_happens() {
        let mut home = house();
        home.people[0].presence = Presence::Home;
        let page = |house: &Dashboard, now| why(house, now, false, &|at| at.0.to_string());
        let before = page(&home, NOW);
        home.people[0].last_seen = Some(NOW);
        home.people[0].sensor = Some(Sensor::Neighbour);
        assert_eq!(page(&home, NOW + Duration::from_secs(90)), before);
        assert_eq!(before.people[0], "Anna is home: Anna's phone is near.");
    }
}
