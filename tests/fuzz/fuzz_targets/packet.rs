//! What mdns-sd reads of the network. It is not ours, but nobody else stands before it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mdns_sd::fuzz_api::parse_packet(bytes));
