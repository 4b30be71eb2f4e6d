//! To come.

pub mod duration;
pub mod enroll;
pub mod token;
