//! End-to-end tests: real nodes as processes, on loopback or in networks of their own. One module per theme.

mod decoders;
mod units;
