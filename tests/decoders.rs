//! Replays the fuzzers' corpus: no input of a stranger, or of a camera that lies, brings a decoder down.

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

#[test]
fn no_name_of_a_file_of_the_corpus_brings_the_reader_of_times_down() {
    replay("name", properties::name);
}

#[test]
fn no_picture_of_the_corpus_brings_the_reader_of_sizes_down_or_takes_its_memory() {
    let before = peak_kib();
    replay("picture", properties::picture);
    let more = peak_kib() - before;
    assert!(more < 32 * 1024, "{more} KiB");
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
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
