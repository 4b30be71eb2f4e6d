//! What mdns-sd reads of the network: it is not ours, but nobody stands before it. Without questions, since it leaves out those of a kind
//! that it does not know, and what it checks for its fuzzers counts them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    // RFC 1035, 4.1.1: how many questions.
    if let Some(questions) = bytes.get_mut(4..6) {
        questions.fill(0);
    }
    mdns_sd::fuzz_api::parse_packet(&bytes);
});
