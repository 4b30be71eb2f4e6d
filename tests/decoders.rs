//! Replays the fuzzers' corpus: no input of a stranger, or of a camera that lies, brings a decoder down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use dms3_core::id::{BootId, MeshId, NodeId};
use dms3_core::protocol::frame::{CONTROL_LIMIT, HEADER, Header, decode};
use dms3_node::mesh::discovery::{self, Advert, Heard};
use dms3_node::mesh::{MdnsMode, MeshConfig};
use dms3_pki::{TokenError, TokenWord};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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

/// The fuzzers find their way from what they are given: a message that is not there they hardly ever make up.
#[test]
fn every_message_is_in_the_corpus_as_it_is_sent() {
    // What is unknown and may be skipped is no error, whatever it holds.
    let is_known =
        |(kind, version): &(u16, u8)| decode(Header { length: 1, kind: *kind, version: *version, flags: 0 }, &[0xff]) != Ok(None);
    let known: BTreeSet<(u16, u8)> = (0..=u16::MAX).flat_map(|kind| (0..=8).map(move |version| (kind, version))).filter(is_known).collect();
    assert!(known.len() >= 21, "{known:?}");
    let reads = |header: Header, payload: &[u8]| matches!(decode(header, payload), Ok(Some(_))).then_some((header.kind, header.version));
    let of_frame = |bytes: &[u8]| {
        let (header, payload) = bytes.split_first_chunk::<HEADER>()?;
        reads(Header::parse(*header, CONTROL_LIMIT).ok()?, payload)
    };
    let of_message = |bytes: &[u8]| {
        let ([kind, version], payload) = bytes.split_first_chunk::<2>()?;
        reads(Header { length: payload.len(), kind: u16::from(*kind), version: *version, flags: 0 }, payload)
    };
    let frames: BTreeSet<_> = corpus("frame").values().filter_map(|bytes| of_frame(bytes)).collect();
    assert_eq!(known.difference(&frames).collect::<Vec<_>>(), Vec::<&(u16, u8)>::new(), "not in tests/fuzz/corpus/frame");
    let messages: BTreeSet<_> = corpus("message").values().filter_map(|bytes| of_message(bytes)).collect();
    assert_eq!(known.difference(&messages).collect::<Vec<_>>(), Vec::<&(u16, u8)>::new(), "not in tests/fuzz/corpus/message");
}

#[test]
fn a_token_of_every_kind_is_in_the_corpus() {
    let corpus = corpus("token");
    let read = |name: &str| TokenWord::parse(std::str::from_utf8(&corpus[name]).unwrap());
    for (name, ipv4, ipv6) in [("vector", 0, 0), ("hint-ipv4", 1, 0), ("hint-ipv6", 0, 1), ("hints-of-both", 1, 1), ("hints-eight", 0, 8)] {
        let hints = read(name).unwrap().hints;
        let of_ipv4 = hints.iter().filter(|hint| hint.is_ipv4()).count();
        assert_eq!((of_ipv4, hints.len() - of_ipv4), (ipv4, ipv6), "{name}");
    }
    for (name, why) in [
        ("other-version", TokenError::Newer),
        ("hint-unknown", TokenError::Newer),
        ("too-long", TokenError::Newer),
        ("too-short", TokenError::Malformed),
        ("nothing-in-it", TokenError::Malformed),
        ("hint-cut", TokenError::Malformed),
        ("hints-nine", TokenError::Malformed),
        ("hidden-bits", TokenError::Malformed),
        ("typing-error", TokenError::Mistyped),
        ("old-checksum", TokenError::Mistyped),
        ("other-prefix", TokenError::NotAToken),
    ] {
        assert_eq!(read(name).unwrap_err(), why, "{name}");
    }
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

#[test]
fn with_no_certificate_of_the_corpus_is_anybody_let_in_or_obeyed_who_is_not_of_the_house() {
    replay_cut("certificate", properties::certificate);
}

#[test]
fn for_no_request_of_the_corpus_is_more_signed_than_a_cameras_certificate_of_its_own_key() {
    replay_cut("request", properties::request);
}

#[test]
fn no_bundle_and_no_state_of_the_corpus_is_believed_unless_the_house_signed_it() {
    replay_cut("signed", properties::signed);
}

#[test]
fn out_of_no_export_of_the_corpus_comes_another_key_than_that_of_the_house() {
    let house = &*properties::HOUSE;
    let genuine = corpus("export")["whole"].clone();
    let key = dms3_pki::fuzzing::opened(&house.authority, genuine, properties::PASSPHRASE).unwrap();
    assert_eq!(key.public(), house.root.public(), "the corpus holds one that opens");
    replay_cut("export", properties::export);
}

#[test]
fn of_no_record_of_the_corpus_is_more_kept_than_can_be_dialled() {
    replay_cut("record", properties::record);
}

#[test]
fn nobody_is_near_because_a_frame_of_the_corpus_says_so_in_his_place() {
    replay("network", properties::network);
}

#[test]
fn no_message_of_the_bus_in_the_corpus_says_more_than_stands_there() {
    replay("bus", properties::of_bus);
}

#[test]
fn no_config_of_the_corpus_is_run_that_cannot_be_and_no_password_is_told() {
    replay_cut("config", properties::config);
}

#[test]
fn no_call_of_a_hook_of_the_corpus_is_more_than_it_says() {
    replay("call", properties::call);
}

#[test]
fn no_address_and_no_header_of_the_corpus_leads_to_another_site() {
    replay("visitor", properties::visitor);
}

/// What mdns-sd makes of packets only it sees; that its thread is still there everybody does.
#[tokio::test]
async fn no_packet_of_the_corpus_makes_anybody_deaf_for_the_coordinator() {
    // Free again when it is used, and nobody else's.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = MeshConfig { mdns: MdnsMode::Loopback, mdns_port: port, ..MeshConfig::default() };
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (heard, (_pairing, enroll)) = (Heard::default(), watch::channel(None));
    let advert = Advert {
        mesh: MeshId([7; 10]),
        node: NodeId([9; 32]),
        boot: BootId([1, 2, 3, 4]),
        listen: "127.0.0.1:47123".parse().unwrap(),
        enroll,
    };
    let mut list = heard.subscribe();
    let story = async {
        let first = CancellationToken::new();
        tokio::select! {
            ended = discovery::advertise(&config, advert.clone(), first.clone()) => panic!("{ended:?}"),
            it_is_heard = list.wait_for(|list| !list.is_empty()) => drop(it_is_heard.unwrap()),
        }
        for packet in corpus("packet").into_values() {
            stranger.send_to(&packet, ("224.0.0.251", port)).await.unwrap();
            stranger.send_to(&packet, ("127.0.0.1", port)).await.unwrap();
        }
        // After all of those, since a socket is read in order.
        let again = Advert { boot: BootId([5, 6, 7, 8]), ..advert.clone() };
        tokio::select! {
            ended = discovery::advertise(&config, again, CancellationToken::new()) => panic!("{ended:?}"),
            it_is_heard = list.wait_for(|list| list.iter().any(|one| one.boot == BootId([5, 6, 7, 8]))) => drop(it_is_heard.unwrap()),
        }
    };
    tokio::select! {
        ended = discovery::browse(&config, &heard, CancellationToken::new()) => panic!("it no longer listens: {ended:?}"),
        ended = tokio::time::timeout(Duration::from_secs(60), story) => ended.expect("the coordinator is heard"),
    }
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Names and contents of the files.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let files: BTreeMap<_, _> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    assert!(files.len() >= 3, "{} holds only {} files", dir.display(), files.len());
    files
}

/// Each file as it is and cut at some lengths; one that somebody made (a fuzzer calls what it finds by its hash) also cut at every length,
/// and with each of its first bits turned.
fn replay(target: &str, property: fn(&[u8])) {
    replay_cut(target, property);
    let is_found = |name: &str| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (_, bytes) in corpus(target).into_iter().filter(|(name, _)| !is_found(name)) {
        for cut in 0..bytes.len() {
            property(&bytes[..cut]);
        }
        for bit in 0..(bytes.len() * 8).min(4096) {
            let mut turned = bytes.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            property(&turned);
        }
    }
}

/// Each file as it is, and cut at some lengths: for what takes long.
fn replay_cut(target: &str, property: fn(&[u8])) {
    for bytes in corpus(target).into_values() {
        property(&bytes);
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 16) {
            property(&bytes[..cut]);
        }
    }
}
