//! What must hold for every input of a decoder. The fuzzers look for inputs where it does not; a plain test replays the corpus.

#![allow(clippy::expect_used, reason = "a fuzzer wants the panic")]

#[path = "properties/config.rs"]
mod config;
#[path = "properties/der.rs"]
mod der;
#[path = "properties/network.rs"]
mod network;
#[path = "properties/papers.rs"]
mod papers;
#[path = "properties/script.rs"]
mod script;
#[path = "properties/words.rs"]
mod words;

use dms3_core::event::{changed_percent, time_in_name};
use dms3_core::protocol::frame::{CONTROL_LIMIT, HEADER, Header, decode, encode, from_bytes};
use dms3_core::protocol::message::{BundleV1, StateV1};
use dms3_node::picture::size_of_head;
use dms3_pki::TokenWord;

pub(crate) use config::config;
pub(crate) use network::{network, of_bus, record};
pub(crate) use papers::{HOUSE, PASSPHRASE, certificate, export, request, signed};
pub(crate) use words::{call, visitor};

/// A header and what follows it, as a link reads them: never a panic, never more than the limit, and what is a message is encoded and
/// read back as the same message.
pub(crate) fn frame(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else { return };
    let Ok(header) = Header::parse(*header, CONTROL_LIMIT) else { return };
    assert!(header.length <= CONTROL_LIMIT);
    let payload = &payload[..payload.len().min(header.length)];
    if let Ok(Some(message)) = decode(header, payload) {
        let again = encode(&message, usize::MAX).expect("what was read can be written");
        let (head, body) = again.split_first_chunk::<HEADER>().expect("a frame has a header");
        let head = Header::parse(*head, usize::MAX).expect("our own header is valid");
        assert_eq!(decode(head, body).expect("our own frame is valid"), Some(message));
    }
}

/// The first two bytes choose the type and version, the rest is the payload; also what is signed and stored.
pub(crate) fn message(bytes: &[u8]) {
    let Some(([kind, version], payload)) = bytes.split_first_chunk::<2>() else { return };
    let header = Header { length: payload.len(), kind: u16::from(*kind), version: *version, flags: 0 };
    let _ = decode(header, payload);
    if let Ok(state) = from_bytes::<StateV1>(payload) {
        // Only the one byte is a disarm.
        assert_eq!(state.arm_state().is_armed(), state.state != 1);
    }
    let _ = from_bytes::<BundleV1>(payload);
}

/// A word that people type or paste: what is read is written as a word that means the same.
pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(word) = TokenWord::parse(text) {
        let again = TokenWord::parse(&word.encode()).expect("our own word is valid");
        assert_eq!((again.issued_at, again.id, again.root_pin, &again.hints), (word.issued_at, word.id, word.root_pin, &word.hints));
    }
}

/// What a detector calls its file, whatever its bytes are: a time that is found stands there in digits, is of Motion's century, and does not
/// depend on what stands before it.
pub(crate) fn name(bytes: &[u8]) {
    let found = time_in_name(bytes);
    assert_eq!(time_in_name(&[b"x", bytes].concat()), found);
    let Some(time) = found else { return };
    assert!((2000..2200).contains(&time.year()), "{time}");
    let digits = |separated: &str| format!("{}", time.strftime(separated)).into_bytes();
    let bare: Vec<u8> = bytes.iter().copied().filter(|byte| !b"-_:.T".contains(byte)).collect();
    let written = digits("%Y%m%d%H%M%S");
    assert!(bare.windows(written.len()).any(|part| part == written), "{time} does not stand there");
    for name in [digits("%Y%m%d%H%M%S-00.jpg"), digits("07-%Y%m%d%H%M%S.jpg"), digits("%Y-%m-%dT%H:%M:%S")] {
        assert_eq!(time_in_name(&name), Some(time));
    }
}

/// The first bytes of what a detector calls a picture: whatever its size is, no more than all of it changed.
pub(crate) fn picture(bytes: &[u8]) {
    let Ok((width, height)) = size_of_head(bytes) else { return };
    let whole = u64::from(width) * u64::from(height);
    for pixels in [0, 1, whole / 2, whole, u64::MAX] {
        let percent = changed_percent(pixels, width, height);
        assert_eq!(percent.is_none(), whole == 0);
        assert!(percent.is_none_or(|percent| percent <= 100 && (percent > 0) == (pixels > 0)), "{pixels} of {width}x{height}: {percent:?}");
    }
}
