//! End-to-end tests: real nodes as processes, on loopback or in networks of their own. One module per theme.

// The whole crate is a test: what fails here fails loudly.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod architecture;
mod arming;
mod arrivals;
mod authority;
mod bluetooth;
mod browser;
mod cables;
mod cards;
mod cli;
mod clocks;
mod configs;
mod decoders;
mod devices;
mod events;
mod evil;
mod examples;
mod farewells;
mod faults;
mod floods;
mod harness;
mod impostors;
mod insiders;
mod ipv6;
mod looking;
mod mail;
mod motion;
mod networks;
mod page;
mod pairing;
mod panics;
mod phones;
mod powercuts;
mod presence;
mod reconnects;
mod sensing;
mod sounds;
mod strangers;
mod torn;
mod units;
