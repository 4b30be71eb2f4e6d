//! To come.

pub mod enrollment;
pub mod roster;
