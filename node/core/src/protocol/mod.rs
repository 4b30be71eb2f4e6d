//! What nodes say to each other, and how it becomes bytes.

pub mod events;
pub mod frame;
pub mod message;

#[cfg(test)]
mod frozen;
