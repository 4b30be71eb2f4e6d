//! To come.

pub mod roster;
