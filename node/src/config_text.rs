//! What all sections of dms3.toml share: where a key stands, and how a time, an address and a size are written.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer as _, Unexpected, Visitor};
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

/// What toml says of `text`, as [`Wrong`] says it. The line itself is not shown, since it may hold a password.
pub fn told(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let line = line_at(text, at);
    let (document, _) = DeTable::parse_recoverable(text);
    let key = key_in_table(document.get_ref(), at).or_else(|| {
        // What cannot be read has no place: the last key before it in its line.
        let keys = keys_of(document.get_ref());
        let before = keys.into_iter().filter(|(start, _)| *start <= at && line_at(text, *start) == line);
        before.max_by_key(|(start, _)| *start).map(|(_, key)| key)
    });
    // What is missing outside of all sections has no place either, and must not seem to be of the first key.
    let of_the_file = error.span().is_none_or(|span| span.end == 0);
    let Some(key) = key.filter(|_| !of_the_file) else { return format!("line {line}: {}", error.message()) };
    let mut why = in_words(error.message(), &key);
    if may_hold_password(&key) || why.contains("://") {
        why = without_text(&why);
    }
    format!("line {line}: {}", Wrong { key, why })
}

/// What serde says of types and ranges, in the words of people who write the file.
fn in_words(message: &str, key: &str) -> String {
    if message == "invalid type: map, expected a sequence" {
        let section: Vec<&str> = key.split('.').filter(|step| step.parse::<usize>().is_err()).collect();
        return format!("there may be several: write [[{}]] for each", section.join("."));
    }
    for (theirs, ours) in [
        ("expected a boolean", "true or false"),
        ("expected a sequence", "a list, such as [\"...\", \"...\"]"),
        ("expected a string", "a text between quotes"),
        ("expected path string", "a path between quotes"),
        ("expected a map", "a section"),
        ("expected struct ", "a section"),
    ] {
        if let Some((what, _)) = message.split_once(theirs) {
            return format!("{what}expected {ours}");
        }
    }
    message.to_owned()
}

/// In `[mail]` people put it under wrong names too.
fn may_hold_password(key: &str) -> bool {
    key.split('.').next() == Some("mail") || ["password", "url"].iter().any(|word| key.contains(word))
}

/// The same, but for a text that serde repeats.
fn without_text(message: &str) -> String {
    let Some((before, rest)) = message.split_once("string \"") else { return message.to_owned() };
    let mut escaped = false;
    let end = rest.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    format!("{before}a text{}", end.and_then(|end| rest.get(end + 1..)).unwrap_or_default())
}

/// The line, counted from 1, of a place in `text`.
fn line_at(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).matches('\n').count() + 1
}

/// The innermost key that stands at this place, or whose value does.
fn key_in_table(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let inner = key_in_value(value, at);
        let is_here = || name.span().contains(&at) || value.span().contains(&at);
        let own = name.get_ref();
        inner.map(|inner| format!("{own}.{inner}")).or_else(|| is_here().then(|| own.to_string()))
    })
}

fn key_in_value(value: &Spanned<DeValue<'_>>, at: usize) -> Option<String> {
    match value.get_ref() {
        DeValue::Table(table) => key_in_table(table, at),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(nth, item)| {
            let inner = key_in_value(item, at);
            inner.map(|inner| format!("{nth}.{inner}")).or_else(|| item.span().contains(&at).then(|| nth.to_string()))
        }),
        _ => None,
    }
}

/// Where each key stands.
fn keys_of(table: &DeTable<'_>) -> Vec<(usize, String)> {
    let mut keys = Vec::new();
    for (name, value) in table {
        let own = name.get_ref();
        keys.push((name.span().start, own.to_string()));
        keys.extend(keys_of_value(value).into_iter().map(|(start, inner)| (start, format!("{own}.{inner}"))));
    }
    keys
}

fn keys_of_value(value: &Spanned<DeValue<'_>>) -> Vec<(usize, String)> {
    match value.get_ref() {
        DeValue::Table(table) => keys_of(table),
        DeValue::Array(items) => {
            let of_item = |(nth, item)| keys_of_value(item).into_iter().map(move |(start, inner)| (start, format!("{nth}.{inner}")));
            items.iter().enumerate().flat_map(of_item).collect()
        }
        _ => Vec::new(),
    }
}

/// The line, counted from 1, of `key` in `text`; if it is not written, of the innermost section around it that is.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let steps: Vec<&str> = key.split('.').collect();
    Some(line_at(text, place_in_table(document.get_ref(), &steps)?))
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

/// `#[serde(deserialize_with = "number::<1, 65535, _, _>")]`: both ends are allowed.
pub fn number<'de, const MIN: i64, const MAX: i64, T: TryFrom<i64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let number = deserializer.deserialize_i64(Number::<MIN, MAX>)?;
    T::try_from(number).map_err(|_| Error::invalid_value(Unexpected::Signed(number), &Number::<MIN, MAX>))
}

/// The same for a key that has another default.
pub fn optional_number<'de, const MIN: i64, const MAX: i64, T: TryFrom<i64>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    number::<MIN, MAX, T, D>(deserializer).map(Some)
}

struct Number<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Visitor<'_> for Number<MIN, MAX> {
    type Value = i64;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a whole number, {MIN} to {MAX}")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
        if (MIN..=MAX).contains(&number) { Ok(number) } else { Err(E::invalid_value(Unexpected::Signed(number), &self)) }
    }
}

/// `#[serde(deserialize_with = "word")]`: whatever is written is read as a word, so that `mdns = false` is told which words there are, and
/// `mail_after = 5` what its own check allows.
pub fn word<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Word::deserialize(deserializer).map(|Word(word)| word)
}

/// The same for a key that has another default.
pub fn optional_word<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    word(deserializer).map(Some)
}

/// The same for a list of words.
pub fn optional_words<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let words = Vec::<Word<T>>::deserialize(deserializer)?;
    Ok(Some(words.into_iter().map(|Word(word)| word).collect()))
}

struct Word<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Within the visitor, so that an error has the place of this word.
        deserializer.deserialize_any(WordVisitor(PhantomData)).map(Self)
    }
}

struct WordVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a word between quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::deserialize(text.to_owned().into_deserializer())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
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
    fn a_mistake_is_told_with_its_key_and_without_the_password_that_may_stand_there() {
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[expect(dead_code)]
            mail: Mail,
            #[expect(dead_code)]
            url: Option<u8>,
        }
        #[derive(serde::Deserialize, Debug)]
        #[serde(deny_unknown_fields)]
        struct Mail {
            #[expect(dead_code)]
            server: String,
            #[expect(dead_code)]
            port: Option<u16>,
            #[expect(dead_code)]
            on: Option<bool>,
            #[expect(dead_code)]
            to: Option<Vec<String>>,
            #[expect(dead_code)]
            #[serde(default, deserialize_with = "optional_time")]
            timeout: Option<Duration>,
        }
        for (text, words) in [
            (
                "[mail]\nserver = \"x\"\npasword = \"hunter2\"",
                "line 3: [mail] pasword: unknown field `pasword`, expected one of `server`, ",
            ),
            ("[mail]\n\npassword = \"hunter2", "line 3: [mail] password: "),
            ("[mail]\n\npassword = hunter2", "line 3: [mail] password: "),
            ("[mail]\n\npassword = \"\"\"hunter2\nhunter2", "line "),
            ("\n\nmail = { port = 1, password = \"hunter2\" }", "line 3: [mail] password: "),
            ("\n\nmail.password = \"hunter2\" x", "line 3: [mail] password: "),
            ("mail = \"hunter2\"", "line 1: mail: invalid type: a text, expected a section"),
            ("[mail]\nserver = [\"hunter2\"]", "line 2: [mail] server: invalid type: sequence, expected a text between quotes"),
            ("[mail]\nport = \"hunter2\"", "line 2: [mail] port: invalid type: a text, expected u16"),
            ("[mail]\non = \"a\\\\\\\"hunter2\"", "line 2: [mail] on: invalid type: a text, expected true or false"),
            ("[mail]\nto = \"hunter2\"", "line 2: [mail] to: invalid type: a text, expected a list"),
            ("[mail]\nto = [\n\"a\",\n5]", "line 4: [mail] to number 2: invalid type: integer `5`, expected a text between quotes"),
            ("[mail]\ntimeout = \"hunter2\"", "line 2: [mail] timeout: invalid value: a text, expected a time such as \"90s\""),
            ("url = \"rtsp://me:hunter2@x\"\n[mail]\nserver = \"x\"", "line 1: url: invalid type: a text, expected u8"),
            ("url = \"rtsp://me:hunter2@x", "line 1: url: "),
            ("[mail]\n[[mail.to]]\nx = 1", "line 2: [mail] to number 1: invalid type: map, expected a text"),
            ("[mail]\n[mail.to]\nx = 1", "line 2: [mail] to: there may be several: write [[mail.to]] for each"),
            ("[mail]", "line 1: mail: missing field `server`"),
            ("", "line 1: missing field `mail`"),
            ("url = 1", "line 1: missing field `mail`"),
            ("[mail]\nserver", "line 2: "),
        ] {
            let told = told(&toml::from_str::<File>(text).unwrap_err(), text);
            assert!(told.starts_with(words) && !told.contains("hunter2"), "{text}: {told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }

    #[test]
    fn a_number_or_a_word_that_cannot_be_is_told_with_those_that_can() {
        #[derive(serde::Deserialize, Debug, PartialEq)]
        #[serde(rename_all = "lowercase")]
        enum Colour {
            Red,
            Blue,
        }
        #[derive(serde::Deserialize, Debug, Default)]
        #[serde(default)]
        struct File {
            #[serde(deserialize_with = "number::<2, 300, _, _>")]
            number: u8,
            #[serde(deserialize_with = "optional_word")]
            colour: Option<Colour>,
            #[serde(deserialize_with = "optional_words")]
            colours: Option<Vec<Colour>>,
        }
        let file: File = toml::from_str("number = 2\ncolour = \"red\"\ncolours = [\"red\", \"blue\"]").unwrap();
        assert_eq!((file.number, file.colour, file.colours), (2, Some(Colour::Red), Some(vec![Colour::Red, Colour::Blue])));
        for (text, words) in [
            ("number = 1", "line 1: number: invalid value: integer `1`, expected a whole number, 2 to 300"),
            ("number = 300", "line 1: number: invalid value: integer `300`, expected a whole number, 2 to 300"),
            (
                "number = 99999999999999999999",
                "line 1: number: invalid type: integer `99999999999999999999` as i128, expected a whole number, 2 to 300",
            ),
            ("number = 2.5", "line 1: number: invalid type: floating point `2.5`, expected a whole number, 2 to 300"),
            ("number = \"2\"", "line 1: number: invalid type: string \"2\", expected a whole number, 2 to 300"),
            ("colour = true", "line 1: colour: unknown variant `true`, expected `red` or `blue`"),
            ("colour = [1]", "line 1: colour: invalid type: sequence, expected a word between quotes"),
            ("colours = [\"red\",\n5,\n]", "line 2: colours number 2: unknown variant `5`, expected `red` or `blue`"),
            ("colours = \"red\"", "line 1: colours: invalid type: string \"red\", expected a list"),
        ] {
            let told = told(&toml::from_str::<File>(text).unwrap_err(), text);
            assert!(told.starts_with(words), "{text}: {told}");
        }
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
