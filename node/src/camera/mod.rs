//! To come.

pub mod enrollment;
