//! Names that cannot be mixed up: nodes, meshes, boots, tokens, events.

use std::fmt;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A text that should have been an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a {1}")]
pub struct NotAnId(pub String, pub &'static str);

/// SHA-256 of a node's public key (SPKI DER). Certificates come and go; the key, and so this, stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The first 8 characters, for people and advertisements. Never used to decide who somebody is.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }

    /// Reads the 52 characters that `Display` writes, either case.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let not = || NotAnId(text.to_owned(), "node id (52 letters and digits)");
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| not())?;
        Ok(Self(bytes.try_into().map_err(|_| not())?))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

/// First 10 bytes of SHA-256("dms3-mesh" ‖ first root's SPKI): which house this is. 16 characters as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshId(pub [u8; 10]);

impl MeshId {
    /// Reads the 16 characters that `Display` writes, either case.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let not = || NotAnId(text.to_owned(), "mesh id (16 letters and digits)");
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| not())?;
        Ok(Self(bytes.try_into().map_err(|_| not())?))
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshId({self})")
    }
}

/// Drawn at each start of a node, so that a restart can be told from a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId(pub [u8; 4]);

impl BootId {
    /// Reads the 8 hexadecimal digits that `Display` writes.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let not = || NotAnId(text.to_owned(), "boot id (8 hexadecimal digits)");
        let bytes = HEXLOWER.decode(text.to_ascii_lowercase().as_bytes()).map_err(|_| not())?;
        Ok(Self(bytes.try_into().map_err(|_| not())?))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// Names a token in lists, logs and requests. Not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 5]);

impl TokenId {
    /// Reads the 10 hexadecimal digits that `Display` writes.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let not = || NotAnId(text.to_owned(), "token id (10 hexadecimal digits)");
        let bytes = HEXLOWER.decode(text.to_ascii_lowercase().as_bytes()).map_err(|_| not())?;
        Ok(Self(bytes.try_into().map_err(|_| not())?))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// An event's name for its whole life, a ULID (github.com/ulid/spec): 48 bits of milliseconds since 1970, then 80 random ones. Ordered by
/// the time when it was made; 26 characters of Crockford's base32 as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub [u8; 16]);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_LENGTH: u32 = 26;

impl EventId {
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        // A time past the year 10889 has no room; it only orders.
        bytes[..6].copy_from_slice(&at.0.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// When it was made, by the clock of the node that made it.
    pub fn made_at(&self) -> Timestamp {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.0[..6]);
        Timestamp(u64::from_be_bytes(bytes))
    }

    /// Reads the 26 characters that `Display` writes, either case.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let not = || NotAnId(text.to_owned(), "event id (26 letters and digits)");
        if text.len() != ULID_LENGTH as usize {
            return Err(not());
        }
        let digit = |byte: u8| CROCKFORD.iter().position(|digit| *digit == byte.to_ascii_uppercase());
        let value = text.bytes().try_fold(0_u128, |sum, byte| sum.checked_mul(32)?.checked_add(u128::try_from(digit(byte)?).ok()?));
        Ok(Self(value.ok_or_else(not)?.to_be_bytes()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        for nth in (0..ULID_LENGTH).rev() {
            // Five bits are an index into 32 digits.
            let digit = CROCKFORD.get((value >> (5 * nth) & 31) as usize).copied().unwrap_or(b'0');
            fmt::Write::write_char(f, char::from(digit))?;
        }
        Ok(())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

impl Serialize for EventId {
    /// As text where people read it, as bytes on the wire.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_being_written_and_read_in_either_case() {
        let node = NodeId([0xa7; 32]);
        assert_eq!(NodeId::parse(&node.to_string().to_uppercase()).unwrap(), node);
        assert_eq!(node.to_string().len(), 52);
        let mesh = MeshId([3; 10]);
        assert_eq!(MeshId::parse(&mesh.to_string()).unwrap(), mesh);
        assert_eq!(mesh.to_string().len(), 16);
        let boot = BootId([0, 1, 0xfe, 0xff]);
        assert_eq!(BootId::parse(&boot.to_string()).unwrap(), boot);
        assert_eq!(TokenId::parse("0102030405").unwrap(), TokenId([1, 2, 3, 4, 5]));
    }

    #[test]
    fn events_are_ordered_by_their_time_and_named_as_ulids_are() {
        // The example of the specification: its time is 01ARYZ6S41.
        let text = "01ARYZ6S41TSV4RRFFQ69G5FAV";
        let id = EventId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(EventId::parse(&text.to_lowercase()).unwrap(), id);
        assert_eq!(id.0[..6], 1_469_918_176_385_u64.to_be_bytes()[2..]);
        let mut random = [0; 10];
        random.copy_from_slice(&id.0[6..]);
        assert_eq!(EventId::new(Timestamp(1_469_918_176_385), random), id);
        assert!(EventId::new(Timestamp(1), [0xff; 10]) < EventId::new(Timestamp(2), [0; 10]));
        assert_eq!(EventId::parse(&EventId([0xff; 16]).to_string()).unwrap(), EventId([0xff; 16]));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<EventId>(&format!("{text:?}")).unwrap(), id);
        for wrong in
            ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "01ARYZ6S41TSV4RRFFQ69G5FA", "01ARYZ6S41TSV4RRFFQ69G5FAU", "../../etc/passwd_________x"]
        {
            assert!(EventId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_of_the_wrong_length_or_alphabet_is_no_id() {
        for text in ["", "a", "0189", &"a".repeat(51), &"1".repeat(52), "ä"] {
            assert!(NodeId::parse(text).is_err(), "{text}");
            assert!(MeshId::parse(text).is_err(), "{text}");
            assert!(TokenId::parse(text).is_err(), "{text}");
        }
    }
}
