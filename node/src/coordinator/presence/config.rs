//! `[coordinator.presence]`: who lives here, what they carry, and how they are looked for.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use dms3_core::presence::{Device, Person};
use dms3_core::roster::check_name;
use serde::Deserialize;

use crate::config_text::{Wrong, number, optional_time, time, word};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceConfig {
    /// False: the explicit manual-only house.
    pub enabled: bool,
    #[serde(rename = "person")]
    pub people: Vec<PersonConfig>,
    /// Empty: every Ethernet or Wi-Fi interface with an address, but for those of containers and virtual machines.
    pub interfaces: Vec<String>,
    /// After this time every address of the own networks is asked for whoever is missed, and then more and more rarely.
    #[serde(deserialize_with = "time")]
    pub sweep: Duration,
    /// A Bluetooth device that is heard weaker than this (dBm) is not at home but somewhere near it.
    #[serde(deserialize_with = "number::<-110, -20, _, _>")]
    pub bluetooth_min_rssi: i16,
    pub presence_may_disarm: PresenceMayDisarm,
    #[serde(deserialize_with = "time")]
    pub blind_alert_after: Duration,
    #[serde(deserialize_with = "optional_time")]
    pub arm_when_blind_after: Option<Duration>,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            people: Vec::new(),
            interfaces: Vec::new(),
            sweep: Duration::from_secs(60),
            bluetooth_min_rssi: -80,
            presence_may_disarm: PresenceMayDisarm::default(),
            blind_alert_after: Duration::from_secs(120),
            arm_when_blind_after: None,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonConfig {
    pub name: String,
    #[serde(default)]
    pub devices: Vec<String>,
    #[serde(deserialize_with = "time", default = "away_after")]
    pub away_after: Duration,
    /// False: shown, and neither holds the house open nor disarms it.
    #[serde(default = "counts")]
    pub counts: bool,
}

fn counts() -> bool {
    true
}

fn away_after() -> Duration {
    Duration::from_secs(300)
}

/// From which armed state somebody's coming home may disarm.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceMayDisarm {
    #[serde(deserialize_with = "word")]
    pub away: MayDisarm,
    #[serde(deserialize_with = "word")]
    pub night: MayDisarm,
}

impl Default for PresenceMayDisarm {
    fn default() -> Self {
        Self { away: MayDisarm::Always, night: MayDisarm::Never }
    }
}

impl PresenceMayDisarm {
    pub fn away_may(&self) -> bool {
        self.away == MayDisarm::Always
    }

    pub fn night_may(&self) -> bool {
        self.night == MayDisarm::Always
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MayDisarm {
    Always,
    Never,
}

impl PresenceConfig {
    /// Refuses what cannot work; returns what works but badly.
    pub fn validate(&self) -> Result<Vec<String>, Wrong> {
        if self.enabled && self.people.is_empty() {
            return Err(Wrong::new(
                "person",
                "nobody lives here: add a [[coordinator.presence.person]] with a name and devices (`dms3-node presence` shows the devices that are near), \
                 or write enabled = false for a house that only people arm and disarm",
            ));
        }
        within("sweep", self.sweep, Duration::from_secs(5)..=DAY, "write 5s or more, and a day at most")?;
        for (key, span) in [("blind_alert_after", Some(self.blind_alert_after)), ("arm_when_blind_after", self.arm_when_blind_after)] {
            if let Some(span) = span {
                within(key, span, Duration::from_secs(10)..=7 * DAY, "write 10s or more, and a week at most")?;
            }
        }
        if let Some(nth) = self.interfaces.iter().position(|name| name.trim().is_empty()) {
            return Err(Wrong::new(format!("interfaces.{nth}"), "the name is empty: write names like \"eth0\""));
        }
        let mut owners = HashMap::new();
        for (nth, person) in self.people.iter().enumerate() {
            self.check_person(nth, person, &mut owners).map_err(|wrong| wrong.within(&format!("person.{nth}")))?;
        }
        if self.enabled && !self.people.iter().any(|person| person.counts) {
            return Err(Wrong::new(
                "person",
                "nobody counts, so nobody could be home: leave counts = false out for those whose phone tells whether the house is empty",
            ));
        }
        let people = self.people();
        Ok(self.private_devices().into_iter().chain(without_devices(&people)).collect())
    }

    /// Whose devices have addresses that they may change, in words.
    pub fn private_devices(&self) -> Vec<String> {
        let words = |person: &Person| {
            let private = person.devices.iter().filter(|device| device.is_private());
            let words = private.map(|device| {
                format!(
                    "person {:?}: {device} is a private address that the device made up and may change: switch off \"private Wi-Fi address\" \
                     (or \"randomised MAC\") for this network on the device and write the address that it has then",
                    person.name
                )
            });
            words.collect::<Vec<_>>()
        };
        self.people().iter().flat_map(words).collect()
    }

    fn check_person<'a>(&'a self, nth: usize, person: &'a PersonConfig, owners: &mut HashMap<Device, &'a str>) -> Result<(), Wrong> {
        let name = check_name(&person.name).map_err(|why| Wrong::new("name", format!("person number {}: {why}", nth + 1)))?;
        if self.people[..nth].iter().any(|other| other.name.trim() == name) {
            return Err(Wrong::new("name", format!("two people are called {name:?}: each needs a name of their own")));
        }
        within(
            "away_after",
            person.away_after,
            Duration::from_secs(5)..=DAY,
            "write 5s or more (5m suits phones that sleep), a day at most",
        )
        .map_err(|wrong| Wrong { why: format!("person {name:?}: {}", wrong.why), ..wrong })?;
        for (at, text) in person.devices.iter().enumerate() {
            let wrong = |why: String| Wrong::new(format!("devices.{at}"), format!("person {name:?}: {why}"));
            let device = Device::parse(text).map_err(wrong)?;
            if let Some(owner) = owners.insert(device, &person.name) {
                return Err(wrong(if owner == person.name {
                    format!("{text:?} stands there twice")
                } else {
                    format!("{text:?} is a device of {owner:?} too: it can tell about one person only")
                }));
            }
        }
        Ok(())
    }

    /// The people of a config that was validated.
    pub fn people(&self) -> Vec<Person> {
        self.people
            .iter()
            .map(|person| Person {
                name: person.name.trim().to_owned(),
                devices: person.devices.iter().filter_map(|text| Device::parse(text).ok()).collect(),
                away_after: person.away_after,
                counts: person.counts,
            })
            .collect()
    }
}

/// Who has no device that is known. Such a person is never home, which would disarm, and never away, which would arm a house with him in it.
pub fn without_devices(people: &[Person]) -> impl Iterator<Item = String> {
    people.iter().filter(|person| person.devices.is_empty()).map(|Person { name, counts, .. }| {
        let so = if *counts { ", and the house does not arm by itself when the others leave" } else { "" };
        format!(
            "person {name:?} has no device yet, so nobody can tell whether {name} is home{so}: add one by `sudo dms3-node presence learn {name}` \
             on the coordinator, or by \"Add a phone\" on the dashboard"
        )
    })
}

fn within(key: &str, span: Duration, allowed: RangeInclusive<Duration>, what: &str) -> Result<(), Wrong> {
    if allowed.contains(&span) {
        return Ok(());
    }
    Err(Wrong::new(key, format!("it is {}; {what}", humantime::format_duration(span))))
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use dms3_core::presence::MacAddr;

    use super::*;

    fn check(text: &str) -> Result<Vec<String>> {
        toml::from_str::<PresenceConfig>(text)?.validate().map_err(|wrong| anyhow::anyhow!("{wrong}"))
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", check(text).unwrap_err())
    }

    #[test]
    fn a_family_is_read_with_every_way_to_write_a_device() {
        let text = r#"
            interfaces = ["eth0"]
            sweep = "90s"
            presence_may_disarm = { night = "always" }
            [[person]]
            name = "Anna"
            devices = ["24-DA-9B-0D-53-8F", "anna-phone.lan"]
            [[person]]
            name = "Ben"
            devices = ["24da.9b0d.5390", "192.168.100.100", "BT:F1-DA-9B-0D-53-90"]
            away_after = "10m"
            [[person]]
            name = "Tablet"
            devices = ["kids-tablet.local"]
            counts = false
        "#;
        assert_eq!(check(text).unwrap(), Vec::<String>::new());
        let config: PresenceConfig = toml::from_str(text).unwrap();
        assert!(config.presence_may_disarm.away_may() && config.presence_may_disarm.night_may());
        assert_eq!((config.blind_alert_after, config.arm_when_blind_after), (Duration::from_secs(120), None));
        let people = config.people();
        assert_eq!(people[0].away_after, Duration::from_secs(300));
        assert_eq!(people[0].devices, [Device::Mac(MacAddr([0x24, 0xda, 0x9b, 0x0d, 0x53, 0x8f])), Device::Host("anna-phone.lan".into())]);
        assert_eq!(people[1].devices[1], Device::Host("192.168.100.100".into()));
        assert_eq!(people[1].devices[2], Device::Bluetooth(MacAddr([0xf1, 0xda, 0x9b, 0x0d, 0x53, 0x90])), "made up: no group");
        assert_eq!(people[1].away_after, Duration::from_secs(600));
        assert_eq!(people.iter().map(|person| person.counts).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(config.bluetooth_min_rssi, -80);
    }

    #[test]
    fn coming_home_ends_away_but_not_night_unless_somebody_says_so() {
        let default = PresenceConfig::default().presence_may_disarm;
        assert!(default.away_may() && !default.night_may());
    }

    #[test]
    fn a_house_of_nobody_must_say_that_it_is_manual() {
        assert!(refusal("").contains("enabled = false"));
        assert!(check("enabled = false").is_ok());
    }

    #[test]
    fn a_private_address_works_but_the_user_is_told_to_switch_it_off() {
        let warnings = check("[[person]]\nname = \"Anna\"\ndevices = [\"da:a1:19:00:00:01\"]").unwrap();
        assert!(warnings[0].contains("Anna") && warnings[0].contains("private"), "{warnings:?}");
    }

    #[test]
    fn whoever_has_no_device_yet_may_live_here_and_it_is_said_what_that_means_and_how_one_is_added() {
        for devices in ["devices = []", ""] {
            let warnings =
                check(&format!("[[person]]\nname = \"Anna\"\n{devices}\n[[person]]\nname = \"Ben\"\ndevices = [\"phone\"]")).unwrap();
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            for words in ["\"Anna\" has no device yet", "does not arm by itself", "`sudo dms3-node presence learn Anna`", "\"Add a phone\""]
            {
                assert!(warnings[0].contains(words), "{warnings:?}");
            }
        }
        let warnings = check("[[person]]\nname = \"Anna\"\ndevices = [\"phone\"]\n[[person]]\nname = \"Tablet\"\ncounts = false").unwrap();
        assert!(warnings[0].contains("\"Tablet\" has no device yet") && !warnings[0].contains("arm by itself"), "{warnings:?}");
    }

    #[test]
    fn what_cannot_work_is_refused_with_name_and_key() {
        for (text, words) in [
            ("[[person]]\nname = \"Anna\"\ndevices = [\"24:da:9b:0d:53\"]", vec!["Anna", "devices", "24:da:9b:0d:53", "MAC"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"24-da-9b-0d-53-8g\"]", vec!["Anna", "devices", "MAC"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"ff:ff:ff:ff:ff:ff\"]", vec!["Anna", "group"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"fe80::1\"]", vec!["Anna", "IPv6"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"192.168.1.300\"]", vec!["Anna", "192.168.1.300"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"\"]", vec!["Anna", "no device"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"bt:24:da:9b:0d:53\"]", vec!["Anna", "Bluetooth", "bt:24:da"]),
            ("bluetooth_min_rssi = 80", vec!["80", "-110", "-20"]),
            ("[[person]]\nname = \" \"\ndevices = [\"phone\"]", vec!["number 1", "name"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"phone\", \"PHONE\"]", vec!["Anna", "twice"]),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"phone\"]\naway_after = \"4s\"", vec!["Anna", "away_after"]),
            (
                "[[person]]\nname = \"Anna\"\ndevices = [\"24:da:9b:0d:53:8f\"]\n[[person]]\nname = \"Ben\"\ndevices = [\"24-DA-9B-0D-53-8F\"]",
                vec!["Anna", "Ben", "one person"],
            ),
            ("[[person]]\nname = \"Anna\"\ndevices = [\"a\"]\n[[person]]\nname = \"Anna\"\ndevices = [\"b\"]", vec!["two people", "Anna"]),
            ("sweep = \"1s\"\n[[person]]\nname = \"Anna\"\ndevices = [\"a\"]", vec!["sweep"]),
            ("sweeps = \"1s\"", vec!["sweeps"]),
            ("[[person]]\nname = \"Tablet\"\ndevices = [\"a\"]\ncounts = false", vec!["person", "nobody counts"]),
        ] {
            let refusal = refusal(text);
            for word in words {
                assert!(refusal.contains(word), "{text}: {refusal}");
            }
        }
    }
}
