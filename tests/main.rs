//! End-to-end tests: real nodes, real Motion, real networks.

mod decoders;
