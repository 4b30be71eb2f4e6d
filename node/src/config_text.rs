//! What all sections of dms3.toml share: where a key stands, and how a time, an address and a size are written.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value that cannot work. Its line is found only when somebody has to be told, so that the sections stay plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where it stands: `coordinator.presence.person.1.away_after` is of the second person.
    pub key: String,
    /// What is wrong and what is allowed.
    pub why: String,
}

impl Wrong {
    pub fn new(key: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { key: key.into(), why: why.to_string() }
    }

    /// The same, seen from outside of the section.
    pub fn within(self, section: &str) -> Self {
        Self { key: format!("{section}.{}", self.key), ..self }
    }

    /// With the line of `text` where the key stands, or the section that lacks it.
    pub fn told(&self, text: &str) -> String {
        // What is not written at all is asked for by the role.
        match line_of(text, &self.key).or_else(|| line_of(text, "role")) {
            Some(line) => format!("line {line}: {self}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps: Vec<&str> = self.key.split('.').collect();
        let number = steps.last().and_then(|step| step.parse::<usize>().ok());
        steps.retain(|step| step.parse::<usize>().is_err());
        if let Some((key, section)) = steps.split_last() {
            if !section.is_empty() {
                write!(out, "[{}] ", section.join("."))?;
            }
            write!(out, "{key}")?;
        }
        if let Some(number) = number {
            write!(out, " number {}", number + 1)?;
        }
        write!(out, ": {}", self.why)
    }
}

/// What toml says of `text`, with the line that is wrong; but lines of `[mail]` may hold a password, and are not shown.
pub fn told(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or(text);
    let section = before.lines().rfind(|line| line.trim_start().starts_with('[')).unwrap_or_default();
    let line = text[before.rfind('\n').map_or(0, |end| end + 1)..].lines().next().unwrap_or_default();
    if [section, line].iter().any(|line| line.contains("mail") || line.contains("password")) {
        return format!("line {}: {}", before.matches('\n').count() + 1, error.message());
    }
    error.to_string().trim_end().to_owned()
}

/// The line, counted from 1, of `key` in `text`; if it is not written, of the innermost section around it that is.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let steps: Vec<&str> = key.split('.').collect();
    let at = place_in_table(document.get_ref(), &steps)?;
    Some(text.get(..at)?.matches('\n').count() + 1)
}

fn place_in_table(table: &DeTable<'_>, steps: &[&str]) -> Option<usize> {
    let (step, rest) = steps.split_first()?;
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == step)?;
    Some(place_in_value(value, rest).unwrap_or(name.span().start))
}

fn place_in_value(value: &Spanned<DeValue<'_>>, steps: &[&str]) -> Option<usize> {
    match value.get_ref() {
        DeValue::Table(table) => place_in_table(table, steps),
        DeValue::Array(items) => {
            let (step, rest) = steps.split_first()?;
            let item = items.get(step.parse::<usize>().ok()?)?;
            Some(place_in_value(item, rest).unwrap_or(item.span().start))
        }
        _ => None,
    }
}

/// `#[serde(deserialize_with = "time")]`
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Time)
}

/// The same for a key without which there is no such time.
pub fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}

struct Time;

impl Visitor<'_> for Time {
    type Value = Duration;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a time such as \"90s\", \"5m\" or \"2h\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// `#[serde(deserialize_with = "address")]`
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    deserializer.deserialize_str(Address)
}

struct Address;

impl Visitor<'_> for Address {
    type Value = SocketAddr;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an address with a port, such as \"0.0.0.0:47100\" or \"[::]:47100\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SocketAddr, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Bytes of "15MB", "500 kB" or "2 GiB": MB is a million, MiB is 1024 * 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write one such as \"15MB\" or \"500kB\"");
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// Bytes, written as "200MB" or "2GB" (powers of 1000, as disks are sold) or as "2GiB".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1000 => write!(out, "{} B", self.0),
            1000..1_000_000 => write!(out, "{} kB", self.0 / 1000),
            1_000_000..10_000_000_000 => write!(out, "{} MB", self.0 / 1_000_000),
            _ => write!(out, "{} GB", self.0 / 1_000_000_000),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a size such as \"200MB\" or \"2GB\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                size(text).map(Size).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let text =
            "role = \"x\"\n\n[a.b]\nkey = [\n  1,\n  2,\n]\n[[a.list]]\nname = 1\n[[a.list]]\nname = 2\n[c]\nd.e = 1\nf = { g = 1 }\n";
        for (key, line) in [
            ("role", 1),
            ("a.b", 3),
            ("a.b.key", 4),
            ("a.b.key.1", 6),
            ("a.b.missing", 3),
            ("a.list.0", 8),
            ("a.list.0.name", 9),
            ("a.list.1", 10),
            ("a.list.1.name", 11),
            ("a.list.1.missing", 10),
            ("c.d.e", 13),
            ("c.f.g", 14),
        ] {
            assert_eq!(line_of(text, key), Some(line), "{key}");
        }
        assert_eq!(line_of(text, "missing.key"), None);
        assert!(Wrong::new("missing.key", "give it").told(text).starts_with("line 1: [missing] key: give it"));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_section_and_key() {
        assert_eq!(Wrong::new("state_dir", "no").to_string(), "state_dir: no");
        assert_eq!(
            Wrong::new("away_after", "no").within("coordinator.presence.person.1").to_string(),
            "[coordinator.presence.person] away_after: no"
        );
        assert_eq!(Wrong::new("mesh.peers.1", "no").to_string(), "[mesh] peers number 2: no");
    }

    #[test]
    fn a_mistake_in_the_section_of_mail_is_told_without_its_line() {
        for text in [
            "[mail]\nserver = \"x\"\npasword = \"hunter2\"",
            "[mail]\n\npassword = \"hunter2",
            "[mail]\n\npassword = \"\"\"hunter2\nhunter2",
            "\n\nmail = { port = 1, password = \"hunter2\" }",
            "\n\nmail.password = \"hunter2\" x",
        ] {
            #[derive(serde::Deserialize, Debug)]
            #[serde(deny_unknown_fields)]
            struct File {
                #[expect(dead_code)]
                mail: Mail,
            }
            #[derive(serde::Deserialize, Debug)]
            #[serde(deny_unknown_fields)]
            struct Mail {
                #[expect(dead_code)]
                server: String,
            }
            let told = told(&toml::from_str::<File>(text).unwrap_err(), text);
            assert!(told.starts_with("line ") && !told.contains("hunter2"), "{text}: {told}");
        }
        let text = "role = 1\n[log]\nlevel = ";
        assert!(told(&toml::from_str::<toml::Table>(text).unwrap_err(), text).contains("3 | level = "), "others are shown");
    }

    #[test]
    fn a_size_is_read_as_people_write_it() {
        assert_eq!(Size(15_000_000).to_string(), "15 MB");
        assert_eq!(Size(12_000_000_000).to_string(), "12 GB");
        for (text, bytes) in [("15MB", 15_000_000), ("15 mb", 15_000_000), ("0B", 0), ("2KiB", 2048), ("1GB", 1_000_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "15", "MB", "-1MB", "1.5MB", "15 parsecs", "99999999999999GB"] {
            assert!(size(text).unwrap_err().contains("15MB"), "{text}");
        }
    }
}
