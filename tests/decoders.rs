//! Replays the fuzzers' corpus: no input of a stranger brings a decoder down.

use std::path::Path;

#[path = "fuzz/properties.rs"]
mod properties;

#[test]
fn no_frame_of_the_corpus_brings_the_decoder_down() {
    replay("frame", properties::frame);
}

#[test]
fn no_message_of_the_corpus_brings_the_decoder_down() {
    replay("message", properties::message);
}

#[test]
fn no_token_of_the_corpus_brings_the_decoder_down() {
    replay("token", properties::token);
}

/// Each file as it is, cut at every length, and with each of its first bits turned.
fn replay(target: &str, property: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        property(&bytes);
        for cut in 0..bytes.len() {
            property(&bytes[..cut]);
        }
        for bit in 0..(bytes.len() * 8).min(4096) {
            let mut turned = bytes.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            property(&turned);
        }
        files += 1;
    }
    assert!(files >= 3, "{} holds only {files} files", dir.display());
}
