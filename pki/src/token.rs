//! The token word: all that a new node needs to find its house and to be let in, as one word that a double click selects.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError, UncheckedHrpstringError};
use bech32::{Bech32m, Hrp};
use dms3_core::id::TokenId;
use ring::hkdf;
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::{Zeroize, Zeroizing};

use crate::node_key::{sha256, verify};
use crate::{PkiError, random};

const HRP: Hrp = Hrp::parse_unchecked("dms3");
const VERSION: u8 = 1;
const HINT_V4: u8 = 0x01;
const HINT_V6: u8 = 0x02;
/// Version, issue time, token id, pin, secret.
const FIXED: usize = 1 + 4 + 5 + 16 + 16;
/// More addresses than a house has; keeps the word short enough for a QR.
pub const MAX_HINTS: usize = 8;

/// The 16 secret bytes of a token: shown once, wiped from memory, never in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn generate() -> Result<Self, PkiError> {
        Ok(Self(random()?))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a token word says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWord {
    /// Seconds since 1970; also a lower bound of time for a Pi without a clock.
    pub issued_at: u32,
    pub id: TokenId,
    /// First 16 bytes of SHA-256 of the root's SPKI.
    pub root_pin: [u8; 16],
    pub secret: Secret,
    /// Where the coordinator's enrollment port may be, for networks without mDNS.
    pub hints: Vec<SocketAddr>,
}

/// Why a text is no token, in words for the person who pasted it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("no token was given")]
    Empty,
    #[error("this is no DMS3 token: a token is one word that begins with \"dms31\"")]
    NotAToken,
    #[error("the token has a typing error or is incomplete: copy the whole word again")]
    Mistyped,
    #[error("this token was made by a newer version of dms3-node: update this machine first")]
    Newer,
    #[error("the token is malformed: make a new one with `dms3-node token new`")]
    Malformed,
}

impl TokenWord {
    /// The word, in lower case: 79 characters, 90 with one IPv4 hint. Whoever has it can enrol.
    pub fn encode(&self) -> String {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FIXED + 19 * self.hints.len()));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.issued_at.to_be_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.root_pin);
        bytes.extend_from_slice(&self.secret.0);
        for hint in self.hints.iter().take(MAX_HINTS) {
            match hint.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(HINT_V4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(HINT_V6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&hint.port().to_be_bytes());
        }
        // Fails only beyond 1023 characters; eight hints make 322.
        bech32::encode_lower::<Bech32m>(HRP, &bytes).unwrap_or_default()
    }

    /// Reads a word in either case; white space around and within it (a line break of a mail) does not matter.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let word: Zeroizing<String> = Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
        if word.is_empty() {
            return Err(TokenError::Empty);
        }
        if !word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("dms31")) {
            return Err(TokenError::NotAToken);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(&word).map_err(|error| match error {
            CheckedHrpstringError::Parse(UncheckedHrpstringError::Char(_)) | CheckedHrpstringError::Checksum(_) => TokenError::Mistyped,
            _ => TokenError::NotAToken,
        })?;
        if checked.hrp() != HRP {
            return Err(TokenError::NotAToken);
        }
        let bytes = Zeroizing::new(checked.byte_iter().collect::<Vec<u8>>());
        let token = Self::from_bytes(&bytes)?;
        // One token has one word: nothing may hide in the last bits.
        let canonical = Zeroizing::new(token.encode());
        if !canonical.eq_ignore_ascii_case(&word) {
            return Err(TokenError::Malformed);
        }
        Ok(token)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let mut rest = bytes;
        if take::<1>(&mut rest)? != [VERSION] {
            return Err(TokenError::Newer);
        }
        let issued_at = u32::from_be_bytes(take(&mut rest)?);
        let id = TokenId(take(&mut rest)?);
        let root_pin = take(&mut rest)?;
        let secret = Secret(take(&mut rest)?);
        let mut hints = Vec::new();
        while !rest.is_empty() {
            let ip: IpAddr = match take::<1>(&mut rest)? {
                [HINT_V4] => Ipv4Addr::from(take::<4>(&mut rest)?).into(),
                [HINT_V6] => Ipv6Addr::from(take::<16>(&mut rest)?).into(),
                _ => return Err(TokenError::Newer),
            };
            hints.push(SocketAddr::new(ip, u16::from_be_bytes(take(&mut rest)?)));
            if hints.len() > MAX_HINTS {
                return Err(TokenError::Malformed);
            }
        }
        Ok(Self { issued_at, id, root_pin, secret, hints })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(TokenError::Malformed)?;
    *rest = after;
    Ok(*taken)
}

/// The key pair that a token's secret yields. The coordinator keeps only its public half.
pub struct TokenKey(Ed25519KeyPair);

/// HKDF-SHA256 (no salt) of the secret with the label "dms3-enroll-v1" is the seed of an Ed25519 key.
pub fn token_key(secret: &Secret) -> Result<TokenKey, PkiError> {
    let mut seed = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(&secret.0)
        .expand(&[b"dms3-enroll-v1"], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(seed.as_mut()))
        .map_err(|_| PkiError::NoRandom)?;
    Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map(TokenKey).map_err(|_| PkiError::NoRandom)
}

impl TokenKey {
    /// The raw public key.
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// Binds a request to this TLS session (`exporter`: 32 bytes under the label [`EXPORTER_LABEL`]) and to this certificate request.
    pub fn sign_begin(&self, exporter: &[u8; 32], csr: &[u8]) -> Vec<u8> {
        self.0.sign(&begin_text(exporter, csr)).as_ref().to_vec()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// Label of the TLS exporter (empty context, 32 bytes) that a `Begin` is bound to.
pub const EXPORTER_LABEL: &[u8] = b"dms3-enroll";

/// Whether `signature` is the token key's over this session and this request.
pub fn verify_begin(public: &[u8; 32], exporter: &[u8; 32], csr: &[u8], signature: &[u8]) -> bool {
    verify(public, &begin_text(exporter, csr), signature)
}

fn begin_text(exporter: &[u8; 32], csr: &[u8]) -> Vec<u8> {
    [b"dms3 enroll".as_slice(), exporter, &sha256(csr)].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The vector of the design: tokens that were printed stay readable.
    const WORD: &str = "dms31q940mpkqqypqxpq9d6g290x2u8trp72s6mf6ljd73gqqzqsrqszsvpcgpy9qkrqdpc8s4936k5";

    fn token() -> TokenWord {
        let mut root_pin = [0; 16];
        root_pin.copy_from_slice(&sha256(b"root spki der")[..16]);
        TokenWord {
            issued_at: 1_795_000_000,
            id: TokenId([1, 2, 3, 4, 5]),
            root_pin,
            secret: Secret(std::array::from_fn(|i| i as u8)),
            hints: Vec::new(),
        }
    }

    #[test]
    fn the_word_of_the_design_is_written_and_read() {
        assert_eq!(token().encode(), WORD);
        assert_eq!(WORD.len(), 79);
        assert_eq!(TokenWord::parse(WORD).unwrap(), token());
    }

    #[test]
    fn either_case_and_white_space_do_not_matter_but_mixed_case_does() {
        assert_eq!(TokenWord::parse(&WORD.to_uppercase()).unwrap(), token());
        assert_eq!(TokenWord::parse(&format!("  {}\r\n {}\n", &WORD[..40], &WORD[40..])).unwrap(), token());
        let mixed = format!("{}{}", &WORD[..40], WORD[40..].to_uppercase());
        assert!(TokenWord::parse(&mixed).is_err());
    }

    #[test]
    fn hints_make_the_word_longer_and_come_back() {
        let mut token = token();
        token.hints = vec!["192.168.1.5:47101".parse().unwrap()];
        assert_eq!(token.encode().len(), 90);
        token.hints.push("[fd00::1]:47101".parse().unwrap());
        assert_eq!(TokenWord::parse(&token.encode()).unwrap(), token);
    }

    #[test]
    fn every_single_typing_error_is_found() {
        for at in 5..WORD.len() {
            for letter in b"qpzry9x8gf2tvdw0s3jn54khce6mua7l" {
                let mut typed = WORD.as_bytes().to_vec();
                if typed[at] == *letter {
                    continue;
                }
                typed[at] = *letter;
                let typed = String::from_utf8(typed).unwrap();
                assert_eq!(TokenWord::parse(&typed), Err(TokenError::Mistyped), "{typed}");
            }
        }
        assert_eq!(TokenWord::parse(&WORD[..78]), Err(TokenError::Mistyped));
    }

    #[test]
    fn what_is_no_token_is_told_apart_from_a_mistyped_one() {
        assert_eq!(TokenWord::parse(" \n"), Err(TokenError::Empty));
        for text in ["hello", "dms3", "bc1qqqqqqqqqqqqqqqqqqqq", "ä", "dms3ä1qqqqqqqq"] {
            assert_eq!(TokenWord::parse(text), Err(TokenError::NotAToken), "{text}");
        }
        assert_eq!(TokenWord::parse("dms31äqqqqqqqqqq"), Err(TokenError::Mistyped));
        assert_eq!(TokenWord::parse("dms31"), Err(TokenError::Mistyped));
    }

    fn word_of(bytes: &[u8]) -> String {
        bech32::encode_lower::<Bech32m>(HRP, bytes).unwrap()
    }

    #[test]
    fn a_token_of_another_version_or_with_unknown_hints_asks_for_an_update_and_a_cut_one_is_malformed() {
        let mut bytes = CheckedHrpstring::new::<Bech32m>(WORD).unwrap().byte_iter().collect::<Vec<u8>>();
        assert_eq!(TokenWord::parse(&word_of(&bytes[..41])), Err(TokenError::Malformed));
        bytes.push(0x09);
        assert_eq!(TokenWord::parse(&word_of(&bytes)), Err(TokenError::Newer));
        bytes[42] = HINT_V4;
        bytes.extend([192, 168, 1]);
        assert_eq!(TokenWord::parse(&word_of(&bytes)), Err(TokenError::Malformed));
        bytes[0] = 2;
        assert_eq!(TokenWord::parse(&word_of(&bytes)), Err(TokenError::Newer));
        let old = bech32::encode_lower::<bech32::Bech32>(HRP, &bytes[..42]).unwrap();
        assert_eq!(TokenWord::parse(&old), Err(TokenError::Mistyped), "bech32 without m");
    }

    #[test]
    fn nothing_hides_in_the_last_bits_of_a_word() {
        use bech32::primitives::iter::Fe32IterExt;
        let checked = CheckedHrpstring::new::<Bech32m>(WORD).unwrap();
        let mut letters = checked.fe32_iter::<std::vec::IntoIter<u8>>().collect::<Vec<_>>();
        let last = letters.pop().unwrap().to_u8() | 1;
        letters.push(bech32::Fe32::try_from(last).unwrap());
        let word = letters.into_iter().with_checksum::<Bech32m>(&HRP).chars().collect::<String>();
        assert_eq!(TokenWord::parse(&word), Err(TokenError::Malformed));
    }

    #[test]
    fn the_secret_is_never_printed() {
        let shown = format!("{:?} {:?}", token(), token_key(&token().secret).unwrap());
        assert!(shown.contains("Secret(…)") && !shown.contains("13, 14, 15"), "{shown}");
    }

    #[test]
    fn a_begin_is_bound_to_its_token_its_session_and_its_request() {
        let key = token_key(&token().secret).unwrap();
        let signature = key.sign_begin(&[7; 32], b"csr");
        assert!(verify_begin(&key.public(), &[7; 32], b"csr", &signature));
        assert!(!verify_begin(&key.public(), &[8; 32], b"csr", &signature), "another session");
        assert!(!verify_begin(&key.public(), &[7; 32], b"csR", &signature), "another request");
        let other = token_key(&Secret([9; 16])).unwrap();
        assert!(!verify_begin(&other.public(), &[7; 32], b"csr", &signature), "another token");
    }

    #[test]
    fn the_same_secret_yields_the_same_key_on_every_version() {
        let key = token_key(&token().secret).unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&key.public()), "b1f634102f32b7d8c2a3bc02610457178a53bb4c2b25fc1ddb043b8fc76c7839");
    }

    proptest! {
        #[test]
        fn every_token_comes_back_as_it_was(
            issued_at: u32, id: [u8; 5], root_pin: [u8; 16], secret: [u8; 16],
            v4 in proptest::collection::vec(any::<([u8; 4], u16)>(), 0..4), v6 in proptest::collection::vec(any::<([u8; 16], u16)>(), 0..4),
        ) {
            let hints = v4.into_iter().map(|(ip, port)| SocketAddr::from((ip, port)))
                .chain(v6.into_iter().map(|(ip, port)| SocketAddr::from((ip, port)))).collect();
            let token = TokenWord { issued_at, id: TokenId(id), root_pin, secret: Secret(secret), hints };
            prop_assert_eq!(TokenWord::parse(&token.encode()).unwrap(), token);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(dms31)?\\PC{0,120}") {
            let _ = TokenWord::parse(&text);
        }
    }
}
