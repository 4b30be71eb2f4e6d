//! Mail: what is to be said becomes a message, and a mail server takes it.

pub mod address;
pub mod config;
mod connect;
pub mod desk;
pub mod letters;
pub mod message;
pub mod post;
pub mod rules;
pub mod secret;
pub mod smtp;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use config::MailConfig;
pub use message::{Clip, Content, Inline, Letter, Message, Thread};
pub use smtp::{Outcome, send};
