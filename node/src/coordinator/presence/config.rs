//! `[coordinator.presence]`: who lives here, what they carry, and how they are looked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use dms3_core::presence::{Device, MacAddr, Person};
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
        let mut warnings = Vec::new();
        let mut owners = HashMap::new();
        for (nth, person) in self.people.iter().enumerate() {
            self.check_person(nth, person, &mut owners, &mut warnings).map_err(|wrong| wrong.within(&format!("person.{nth}")))?;
        }
        if self.enabled && !self.people.iter().any(|person| person.counts) {
            return Err(Wrong::new(
                "person",
                "nobody counts, so nobody could be home: leave counts = false out for those whose phone tells whether the house is empty",
            ));
        }
        Ok(warnings)
    }

    fn check_person<'a>(
        &'a self,
        nth: usize,
        person: &'a PersonConfig,
        owners: &mut HashMap<Device, &'a str>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Wrong> {
        let name = check_name(&person.name).map_err(|why| Wrong::new("name", format!("person number {}: {why}", nth + 1)))?;
        if self.people[..nth].iter().any(|other| other.name.trim() == name) {
            return Err(Wrong::new("name", format!("two people are called {name:?}: each needs a name of their own")));
        }
        if person.devices.is_empty() {
            let why = format!("person {name:?} has no devices: without one nobody can tell whether they are home");
            return Err(Wrong::new("devices", why));
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
            let device = parse_device(text).map_err(|why| wrong(why.to_string()))?;
            match &device {
                Device::Mac(mac) if mac.is_private() => warnings.push(format!(
                    "person {name:?}: {mac} is a private address that the device made up and may change: switch off \"private Wi-Fi address\" \
                     (or \"randomised MAC\") for this network on the device and write the address that it has then"
                )),
                _ => {}
            }
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
                devices: person.devices.iter().filter_map(|text| parse_device(text).ok()).collect(),
                away_after: person.away_after,
                counts: person.counts,
            })
            .collect()
    }
}

fn within(key: &str, span: Duration, allowed: RangeInclusive<Duration>, what: &str) -> Result<(), Wrong> {
    if allowed.contains(&span) {
        return Ok(());
    }
    Err(Wrong::new(key, format!("it is {}; {what}", humantime::format_duration(span))))
}

/// A MAC address, an IPv4 address, a host name, or a Bluetooth address behind `bt:`.
fn parse_device(text: &str) -> Result<Device> {
    let text = text.trim();
    if let Some((kind, address)) = text.split_once(':')
        && kind.eq_ignore_ascii_case("bt")
    {
        return MacAddr::parse_bluetooth(address).map(Device::Bluetooth).map_err(anyhow::Error::msg);
    }
    // First, for `192.168.100.100` has twelve digits too.
    match text.parse() {
        Ok(IpAddr::V4(_)) => return Ok(Device::Host(text.to_owned())),
        Ok(IpAddr::V6(_)) => bail!("{text} is an IPv6 address, which phones change all the time: write the device's MAC address"),
        Err(_) => {}
    }
    match MacAddr::parse(text) {
        Ok(mac) => return Ok(Device::Mac(mac)),
        Err(error) if looks_like_mac(text) => bail!(error),
        Err(_) => {}
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last_is_word = name.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_alphabetic()));
    ensure!(
        name.len() <= 253 && name.split('.').all(label) && last_is_word,
        "{text:?} is no device: write its MAC address (24:da:9b:0d:53:8f), its IPv4 address, its host name, or its Bluetooth address \
         (bt:24:da:9b:0d:53:8f)"
    );
    Ok(Device::Host(name.to_ascii_lowercase()))
}

/// Nothing but a MAC address has colons, or that many pairs between dashes.
fn looks_like_mac(text: &str) -> bool {
    let pairs: Vec<_> = text.split('-').collect();
    text.contains(':') || (pairs.len() >= 4 && pairs.iter().all(|pair| pair.len() <= 2))
}

#[cfg(test)]
mod tests {
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
    fn what_cannot_work_is_refused_with_name_and_key() {
        for (text, words) in [
            ("[[person]]\nname = \"Anna\"", vec!["Anna", "no devices"]),
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
