//! The camera role: obeys the state of the house, runs its detectors, reports what they do.

pub mod detector;
pub mod enrollment;
pub mod health;
