//! The rules of DMS3: who is home, what state holds, what nodes say to each other. No sockets, files, clocks, tasks or randomness.

#![forbid(unsafe_code)]

pub mod accounts;
pub mod alerting;
pub mod arming;
pub mod camera;
pub mod conduct;
pub mod coordinator;
pub mod dashboard;
pub mod enrollment;
pub mod event;
pub mod fault;
pub mod health;
#[cfg(test)]
mod histories;
pub mod id;
pub mod presence;
pub mod protocol;
pub mod request;
pub mod roster;
pub mod time;
pub mod why;
pub mod windows;
