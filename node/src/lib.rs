//! The node: everything that touches sockets, files, clocks and tasks around the rules of `dms3-core`.

pub mod camera;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod coordinator;
pub mod mesh;
pub mod services;
pub mod store;
