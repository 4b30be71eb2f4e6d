//! The node: everything that touches sockets, files, clocks and tasks around the rules of `dms3-core`.

pub mod camera;
pub mod clock;
pub mod commands;
pub mod config;
pub mod config_text;
pub mod control;
pub mod coordinator;
#[cfg(debug_assertions)]
mod failpoint;
pub mod health;
pub mod hook;
pub mod lines;
pub mod log_tail;
pub mod mailer;
pub mod mesh;
pub mod owner;
pub mod picture;
pub mod services;
pub mod sound;
pub mod spool;
pub mod state_lock;
pub mod store;
#[cfg(test)]
mod stories;
pub mod systemd;
