//! Names that cannot be mixed up: nodes, meshes, boots, tokens.

use std::fmt;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

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
    fn a_text_of_the_wrong_length_or_alphabet_is_no_id() {
        for text in ["", "a", "0189", &"a".repeat(51), &"1".repeat(52), "ä"] {
            assert!(NodeId::parse(text).is_err(), "{text}");
            assert!(MeshId::parse(text).is_err(), "{text}");
            assert!(TokenId::parse(text).is_err(), "{text}");
        }
    }
}
