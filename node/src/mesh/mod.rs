//! How nodes find and reach each other: endpoint (one UDP socket), link (one peer), dial (from here), discovery (mDNS), and the enrollment
//! port beside them. It knows peers, not roles.

pub mod config;
pub mod dial;
pub mod discovery;
pub mod endpoint;
pub mod enrollment;
pub mod gate;
pub mod keys;
pub mod link;
pub mod near;
pub mod ring;
pub mod socket;
#[cfg(test)]
pub(crate) mod testing;
pub mod transfer;

pub use config::{MdnsMode, MeshConfig};
