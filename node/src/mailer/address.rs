//! An address of a mailbox, checked once: ASCII, and fit for every server.

use std::fmt;
use std::str::FromStr;

/// Where mail can be sent, such as `anna@example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub(super) lettre::Address);

impl Address {
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }

    /// What stands behind the @.
    pub fn domain(&self) -> &str {
        self.0.domain()
    }
}

/// RFC 5321, section 4.5.3.1.3: a path may have 256 octets, the angle brackets among them.
const LONGEST: usize = 254;

impl FromStr for Address {
    type Err = String;

    /// The error says what is allowed.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.is_ascii() {
            return Err(format!(
                "{text:?} has letters that not every server takes: write a domain in its xn-- form, and the rest in ASCII"
            ));
        }
        let plain = text.len() <= LONGEST && !text.contains(|c: char| c.is_ascii_control() || " \"<>,;".contains(c));
        match text.parse() {
            Ok(address) if plain => Ok(Self(address)),
            _ => Err(format!("{text:?} is no mail address: write one such as \"anna@example.org\"")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_an_address_is_one() {
        for good in ["anna@example.org", " anna+dms3@mail.example.org ", "a.b@localhost"] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good.trim());
        }
        let long = format!("{}@example.org", "a".repeat(250));
        for bad in ["", "anna", "@example.org", "anna@", "a b@example.org", "\"a b\"@example.org", "Anna <anna@example.org>", "a@b,c@d"] {
            assert!(bad.parse::<Address>().unwrap_err().contains("anna@example.org"), "{bad}");
        }
        for bad in ["änna@example.org", "anna@exämple.org", "anna@example.org\r\nRCPT TO:<x@y>", &long] {
            bad.parse::<Address>().unwrap_err();
        }
    }
}
