//! What is said over D-Bus, as bytes (D-Bus Specification, "Type System" and "Message Protocol"): calls are written, answers and signals read.
//! Only what BlueZ is asked and says: a crate that knows all of it would be a tenth of this program.

/// More is nothing that BlueZ has to say: of each device near it tells about a kilobyte.
const MESSAGE_AT_MOST: usize = 1 << 20;
/// Bytes before the fields of a header.
const FIXED: usize = 16;
/// The specification's own limit is 64: 32 of arrays and 32 of structures.
const DEEPEST: u8 = 64;
/// Nobody is started only because we ask for him.
const NO_AUTO_START: u8 = 2;

/// A question. What it is asked with is either texts, or a list of settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) to: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) texts: &'a [&'a str],
    pub(crate) settings: Option<&'a [(&'a str, Value<'a>)]>,
}

/// What a variant holds, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(i16),
    Yes(bool),
    Other,
}

/// `a{sv}`
pub(crate) type Settings<'a> = Vec<(&'a str, Value<'a>)>;
/// `a{sa{sv}}`: the interfaces of an object with their properties.
pub(crate) type Interfaces<'a> = Vec<(&'a str, Settings<'a>)>;
/// `a{oa{sa{sv}}}`
pub(crate) type Objects<'a> = Vec<(&'a str, Interfaces<'a>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Answer,
    Refusal,
    Signal,
    /// Somebody asks us, which nobody has reason to.
    Other,
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// To which of our calls it is the answer.
    pub(crate) answers: Option<u32>,
    /// The bus writes it: nobody can claim to be another.
    pub(crate) sender: String,
    pub(crate) path: String,
    pub(crate) member: String,
    /// Of a refusal.
    pub(crate) error: String,
    signature: String,
    big_endian: bool,
    body: Vec<u8>,
}

impl Message {
    /// Its content, if it is of these types.
    pub(crate) fn content(&self, signature: &str) -> Option<Reader<'_>> {
        (self.signature == signature).then(|| Reader::new(&self.body, self.big_endian))
    }

    /// How much of it is kept.
    pub(super) fn length(&self) -> usize {
        self.body.len() + self.sender.len() + self.path.len() + self.member.len() + self.error.len()
    }

    /// What a refusal says in words.
    pub(crate) fn words(&self) -> String {
        let text = self.content("s").and_then(|mut content| content.text()).unwrap_or_default();
        format!("{} {text}", self.error).trim().to_owned()
    }
}

/// The first message of `bytes`, and its length. `None`: not all of it is there yet. An error: that is no D-Bus.
pub(crate) fn first(bytes: &[u8]) -> Result<Option<(Message, usize)>, &'static str> {
    let Some(&[order, kind, _, version, ..]) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let big_endian = match order {
        b'l' => false,
        b'B' => true,
        _ => return Err("it sends what is no message"),
    };
    if version != 1 {
        return Err("it speaks another version of D-Bus");
    }
    let mut head = Reader { at: 4, ..Reader::new(bytes, big_endian) };
    let (Some(body), Some(_serial), Some(fields)) = (head.u32(), head.u32(), head.u32()) else { return Ok(None) };
    let (body, fields) = (size(body), size(fields));
    if body.max(fields) > MESSAGE_AT_MOST {
        return Err("it sends more than BlueZ has to say");
    }
    let header = (FIXED + fields).next_multiple_of(8);
    let Some(whole) = bytes.get(..header + body) else { return Ok(None) };
    let mut message = Message {
        kind: match kind {
            2 => Kind::Answer,
            3 => Kind::Refusal,
            4 => Kind::Signal,
            _ => Kind::Other,
        },
        answers: None,
        sender: String::new(),
        path: String::new(),
        member: String::new(),
        error: String::new(),
        signature: String::new(),
        big_endian,
        body: whole[header..].to_vec(),
    };
    let mut reader = Reader { at: FIXED, ..Reader::new(&whole[..FIXED + fields], big_endian) };
    while reader.at < FIXED + fields {
        reader.field(&mut message).ok_or("it sends a header that cannot be read")?;
    }
    Ok(Some((message, header + body)))
}

/// The bytes of a call; `serial` is what its answer names.
pub(crate) fn call(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let mut body = Writer::default();
    for text in call.texts {
        body.text(text);
    }
    let mut signature = "s".repeat(call.texts.len());
    if let Some(settings) = call.settings {
        signature.push_str("a{sv}");
        body.array(|list| {
            for (key, value) in settings {
                list.align(8);
                list.text(key);
                list.variant(value);
            }
        });
    }
    let mut message = Writer(vec![b'l', 1, NO_AUTO_START, 1]);
    message.u32(length(body.0.len()));
    message.u32(serial);
    message.fields(&[(1, "o", call.path), (2, "s", call.interface), (3, "s", call.member), (6, "s", call.to), (8, "g", &signature)]);
    message.0.extend(body.0);
    message.0
}

/// What we write ourselves is short.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// No machine of ours has less than 32 bits.
fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, types: &str) {
        self.0.push(u8::try_from(types.len()).unwrap_or(u8::MAX));
        self.0.extend(types.as_bytes());
        self.0.push(0);
    }

    fn variant(&mut self, value: &Value<'_>) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Number(number) => {
                self.signature("n");
                self.align(2);
                self.0.extend(number.to_le_bytes());
            }
            Value::Yes(yes) => {
                self.signature("b");
                self.u32(u32::from(*yes));
            }
            Value::Other => {
                self.signature("s");
                self.text("");
            }
        }
    }

    /// The end of a header: the code of each field, its type, and what it says. Empty ones are left out.
    fn fields(&mut self, fields: &[(u8, &str, &str)]) {
        self.array(|list| {
            for (code, kind, text) in fields.iter().filter(|(.., text)| !text.is_empty()) {
                list.align(8);
                list.0.push(*code);
                list.signature(kind);
                if *kind == "g" { list.signature(text) } else { list.text(text) }
            }
        });
        self.align(8);
    }

    /// Of elements that begin at a multiple of eight, as structures do: what lies before the first does not count as the array's.
    fn array(&mut self, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len();
        self.align(8);
        let first = self.0.len();
        elements(self);
        let length = length(self.0.len() - first);
        self.0[at - 4..at].copy_from_slice(&length.to_le_bytes());
    }
}

/// Reads values one after the other. `None`: they are not there, or not what they should be; then nothing more can be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], big_endian: bool) -> Self {
        Self { bytes, at: 0, big_endian }
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()?;
        self.terminated(size(length))
    }

    pub(crate) fn settings(&mut self) -> Option<Settings<'a>> {
        self.dictionary(Self::value)
    }

    pub(crate) fn interfaces(&mut self) -> Option<Interfaces<'a>> {
        self.dictionary(Self::settings)
    }

    pub(crate) fn objects(&mut self) -> Option<Objects<'a>> {
        self.dictionary(Self::interfaces)
    }

    pub(crate) fn texts(&mut self) -> Option<Vec<&'a str>> {
        let end = self.array(4)?;
        let mut list = Vec::new();
        while self.at < end {
            list.push(self.text()?);
        }
        (self.at == end).then_some(list)
    }

    /// A variant.
    pub(crate) fn value(&mut self) -> Option<Value<'a>> {
        let kind = self.signature()?;
        Some(match kind {
            "s" | "o" => Value::Text(self.text()?),
            "n" => {
                self.align(2)?;
                let bytes = self.take(2)?.try_into().ok()?;
                Value::Number(if self.big_endian { i16::from_be_bytes(bytes) } else { i16::from_le_bytes(bytes) })
            }
            "b" => Value::Yes(self.u32()? != 0),
            other => {
                self.skip_one(other, DEEPEST)?;
                Value::Other
            }
        })
    }

    fn dictionary<T>(&mut self, value: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<(&'a str, T)>> {
        let end = self.array(8)?;
        let mut list = Vec::new();
        while self.at < end {
            self.align(8)?;
            let key = self.text()?;
            list.push((key, value(self)?));
        }
        (self.at == end).then_some(list)
    }

    /// One field of a header.
    fn field(&mut self, message: &mut Message) -> Option<()> {
        self.align(8)?;
        let code = *self.take(1)?.first()?;
        let kind = self.signature()?;
        match (code, kind) {
            (1, "o") => message.path = self.text()?.to_owned(),
            (3, "s") => message.member = self.text()?.to_owned(),
            (4, "s") => message.error = self.text()?.to_owned(),
            (5, "u") => message.answers = Some(self.u32()?),
            (7, "s") => message.sender = self.text()?.to_owned(),
            (8, "g") => message.signature = self.signature()?.to_owned(),
            _ => self.skip_one(kind, DEEPEST)?,
        }
        Some(())
    }

    /// Begins an array; where it ends.
    fn array(&mut self, alignment: usize) -> Option<usize> {
        let length = self.u32()?;
        self.align(alignment)?;
        let end = self.at.checked_add(size(length))?;
        (end <= self.bytes.len()).then_some(end)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = *self.take(1)?.first()?;
        self.terminated(length.into())
    }

    fn terminated(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.take(1)? == [0]).then_some(text)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let at = self.at.next_multiple_of(to);
        self.take(at - self.at).map(drop)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// Passes by a value of exactly these types.
    fn skip_one(&mut self, types: &str, depth: u8) -> Option<()> {
        self.skip(types.as_bytes(), depth)?.is_empty().then_some(())
    }

    /// Passes by a value of the first type; the types that follow.
    fn skip<'t>(&mut self, types: &'t [u8], depth: u8) -> Option<&'t [u8]> {
        let depth = depth.checked_sub(1)?;
        let (first, rest) = types.split_first()?;
        match first {
            b's' | b'o' => self.text().map(drop)?,
            b'g' => self.signature().map(drop)?,
            b'v' => {
                let kind = self.signature()?;
                self.skip_one(kind, depth)?;
            }
            b'a' => {
                // Whole, whatever is in it.
                self.at = self.array(alignment(*rest.first()?)?)?;
                return after(rest, depth);
            }
            b'(' | b'{' => {
                self.align(8)?;
                let mut inner = rest;
                while !matches!(inner.first()?, b')' | b'}') {
                    inner = self.skip(inner, depth)?;
                }
                return inner.get(1..);
            }
            number => {
                let width = alignment(*number)?;
                self.align(width)?;
                self.take(width)?;
            }
        }
        Some(rest)
    }
}

/// What follows the first type.
fn after(types: &[u8], depth: u8) -> Option<&[u8]> {
    let depth = depth.checked_sub(1)?;
    let (first, rest) = types.split_first()?;
    match first {
        b'a' => after(rest, depth),
        b'(' | b'{' => {
            let mut inner = rest;
            while !matches!(inner.first()?, b')' | b'}') {
                inner = after(inner, depth)?;
            }
            inner.get(1..)
        }
        _ => Some(rest),
    }
}

/// A number is as wide as its alignment.
fn alignment(kind: u8) -> Option<usize> {
    match kind {
        b'y' | b'g' | b'v' => Some(1),
        b'n' | b'q' => Some(2),
        b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a' => Some(4),
        b'x' | b't' | b'd' | b'(' | b'{' => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An advertisement as BlueZ tells it, with what else a device has.
    fn signal() -> Vec<u8> {
        let mut body = Writer::default();
        body.text("org.bluez.Device1");
        body.array(|list| {
            for (key, value) in [("RSSI", Value::Number(-61)), ("Alias", Value::Text("Anna's phone")), ("Paired", Value::Yes(true))] {
                list.align(8);
                list.text(key);
                list.variant(&value);
            }
            list.align(8);
            list.text("ManufacturerData");
            list.signature("a{qv}");
            list.array(|data| {
                data.align(8);
                data.0.extend([0x4c, 0]);
                data.signature("ay");
                data.u32(3);
                data.0.extend([1, 2, 3]);
            });
            list.align(8);
            list.text("Odd");
            list.signature("(yv)");
            list.align(8);
            list.0.push(7);
            list.signature("x");
            list.align(8);
            list.0.extend([0; 8]);
        });
        body.u32(0);
        let mut message = Writer(vec![b'l', 4, 1, 1]);
        message.u32(length(body.0.len()));
        message.u32(77);
        message.fields(&[
            (1, "o", "/org/bluez/hci0/dev_F1"),
            (2, "s", "org.freedesktop.DBus.Properties"),
            (3, "s", "PropertiesChanged"),
            (7, "s", ":1.5"),
            (8, "g", "sa{sv}as"),
        ]);
        message.0.extend(body.0);
        message.0
    }

    #[test]
    fn an_advertisement_is_read_whatever_else_it_says() {
        let mut bytes = signal();
        let length = bytes.len();
        bytes.extend([1, 2, 3]);
        let (message, taken) = first(&bytes).unwrap().unwrap();
        assert_eq!((message.kind, taken, message.answers), (Kind::Signal, length, None));
        assert_eq!((message.sender.as_str(), message.path.as_str()), (":1.5", "/org/bluez/hci0/dev_F1"));
        assert_eq!(message.member, "PropertiesChanged");
        assert!(message.content("sa{sv}").is_none(), "of other types");
        let mut content = message.content("sa{sv}as").unwrap();
        assert_eq!(content.text(), Some("org.bluez.Device1"));
        let settings = content.settings().unwrap();
        assert_eq!(
            settings,
            [
                ("RSSI", Value::Number(-61)),
                ("Alias", Value::Text("Anna's phone")),
                ("Paired", Value::Yes(true)),
                ("ManufacturerData", Value::Other),
                ("Odd", Value::Other),
            ]
        );
        assert_eq!(content.texts(), Some(Vec::new()));
    }

    #[test]
    fn a_message_that_is_not_all_there_is_waited_for() {
        let bytes = signal();
        for length in 0..bytes.len() {
            assert!(matches!(first(&bytes[..length]), Ok(None)), "{length} bytes");
        }
    }

    #[test]
    fn what_is_no_message_or_too_long_for_one_ends_the_connection() {
        let good = signal();
        for (at, byte) in [(0, b'x'), (3, 2), (7, 0x7f), (15, 0x7f)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(first(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn numbers_are_read_in_the_order_that_the_sender_has() {
        assert_eq!(Reader::new(&[0, 0, 0, 2, b'h', b'i', 0], true).text(), Some("hi"));
        assert_eq!(Reader::new(&[1, b'n', 0, 0, 0xff, 0xc3], true).value(), Some(Value::Number(-61)));
    }

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let settings = [("Transport", Value::Text("le")), ("RSSI", Value::Number(-80)), ("DuplicateData", Value::Yes(true))];
        let asked = Call {
            to: "org.bluez",
            path: "/org/bluez/hci0",
            interface: "org.bluez.Adapter1",
            member: "SetDiscoveryFilter",
            texts: &["one"],
            settings: Some(&settings),
        };
        let (message, _) = first(&call(&asked, 9)).unwrap().unwrap();
        assert_eq!((message.kind, message.path.as_str(), message.member.as_str()), (Kind::Other, asked.path, asked.member));
        let mut content = message.content("sa{sv}").unwrap();
        assert_eq!(content.text(), Some("one"));
        assert_eq!(content.settings().unwrap(), settings);
        let nothing = Call { texts: &[], settings: None, ..asked };
        let (message, _) = first(&call(&nothing, 10)).unwrap().unwrap();
        assert!(message.content("").is_some());
    }

    proptest! {
        #[test]
        fn whatever_a_bus_sends_is_read_or_refused(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
            big_endian in any::<bool>(),
        ) {
            drop(first(&noise));
            let mut bytes = signal();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(Some((message, _))) = first(&bytes) {
                let reader = || Reader::new(&message.body, message.big_endian);
                drop(reader().objects());
                drop(reader().interfaces());
                let mut reader = reader();
                drop(reader.text().and_then(|_| reader.settings()));
                drop(reader.texts());
            }
            let mut reader = Reader::new(&noise, big_endian);
            for types in ["a{sv}", "v", "(a(yv)ax)", "((((v))))", "aaaaai"] {
                _ = reader.skip_one(types, DEEPEST);
            }
        }
    }
}
