//! Changes in DER (X.690) that leave it DER: a fuzzer that turns bytes hardly ever gets past the lengths.

use super::script::Script;

/// A value: its tag, and what it holds.
#[derive(Clone)]
struct Value {
    tag: u8,
    holds: Holds,
}

#[derive(Clone)]
enum Holds {
    Values(Vec<Value>),
    Bytes(Vec<u8>),
}

/// A key at work.
pub(super) type Signs<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const CONSTRUCTED: u8 = 0x20;

/// What is signed in `SEQUENCE { signed, algorithm, signature }` (a certificate, a request), changed as the script says: edits, each a place
/// (values counted from the outermost, in the order of their bytes), what to do there, and bytes for it. `sign`: who signs it again.
pub(super) fn forged(genuine: &[u8], script: Script<'_>, sign: Option<Signs<'_>>) -> Vec<u8> {
    let Some(mut values) = read(genuine) else { return genuine.to_vec() };
    edit_all(&mut values, script);
    if let (Some(sign), Some(Holds::Values(parts))) = (sign, values.first_mut().map(|whole| &mut whole.holds))
        && let [signed, .., signature] = parts.as_mut_slice()
    {
        let text = write(std::slice::from_ref(signed));
        *signature = Value { tag: BIT_STRING, holds: Holds::Bytes([&[0][..], &sign(&text)].concat()) };
    }
    write(&values)
}

fn edit_all(values: &mut Vec<Value>, mut script: Script<'_>) {
    while let Some([place, what]) = script.array() {
        let bytes = script.some().unwrap_or_default();
        edit(values, &mut usize::from(place), what, bytes);
    }
}

/// Whether the place was in here.
fn edit(values: &mut Vec<Value>, place: &mut usize, what: u8, bytes: &[u8]) -> bool {
    for at in 0..values.len() {
        if *place > 0 {
            *place -= 1;
            let Holds::Values(inner) = &mut values[at].holds else { continue };
            if edit(inner, place, what, bytes) {
                return true;
            }
            continue;
        }
        match what % 6 {
            0 => values[at].holds = Holds::Bytes(bytes.to_vec()),
            1 => values[at].tag = bytes.first().copied().unwrap_or_default(),
            2 => drop(values.remove(at)),
            3 => values.insert(at, values[at].clone()),
            4 => values.splice(at..at, read(bytes).unwrap_or_default()).for_each(drop),
            _ => {
                if let (Holds::Bytes(held), Some((from, new))) = (&mut values[at].holds, bytes.split_first()) {
                    held.iter_mut().skip(usize::from(*from)).zip(new).for_each(|(old, new)| *old = *new);
                }
            }
        }
        return true;
    }
    false
}

/// The values that take up all of the bytes.
fn read(mut bytes: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    while let [tag, first, after @ ..] = bytes {
        let (length, after) = match first {
            0..=0x7f => (usize::from(*first), after),
            0x81 => (usize::from(*after.first()?), &after[1..]),
            0x82 => (usize::from(u16::from_be_bytes(*after.first_chunk()?)), &after[2..]),
            _ => return None,
        };
        let (held, rest) = after.split_at_checked(length)?;
        // What extensions say lies in octets.
        let inner = (tag & CONSTRUCTED != 0 || *tag == OCTET_STRING).then(|| read(held)).flatten().filter(|inner| !inner.is_empty());
        values.push(Value { tag: *tag, holds: inner.map_or_else(|| Holds::Bytes(held.to_vec()), Holds::Values) });
        bytes = rest;
    }
    bytes.is_empty().then_some(values)
}

fn write(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        let held = match &value.holds {
            Holds::Values(inner) => write(inner),
            Holds::Bytes(held) => held.clone(),
        };
        bytes.push(value.tag);
        match held.len() {
            length @ 0..0x80 => bytes.push(length as u8),
            length @ 0x80..0x100 => bytes.extend([0x81, length as u8]),
            length => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        bytes.extend(held);
    }
    bytes
}
