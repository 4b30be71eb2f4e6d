//! Identity of DMS3: the authority, node keys, certificates and who may present them, TLS set-ups, token words, trusted time.

#![forbid(unsafe_code)]

mod admission;
mod authority;
mod bundle;
mod chain;
mod error;
pub mod files;
#[cfg(test)]
mod forge;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod node_key;
pub mod peer;
mod pem;
mod profile;
mod root_export;
mod state;
pub mod tls;
mod token;
mod trusted_time;
mod web_authority;

pub use admission::{Admission, Admit};
pub use authority::{AUTHORITY_DIR, Authority, node_of_request};
pub use bundle::{TrustBundle, TrustedRoot};
pub use chain::{DRAWER, Refusal};
pub use error::PkiError;
pub use identity::{Identity, KEY_FILE};
pub use node_key::{NodeKey, node_id_of_public, verify};
pub use profile::{LEAF_LIFE, mesh_id_of_root, root_pin_of};
pub use root_export::PASSPHRASE_MIN;
pub use state::{StateError, own_state, sign_state, verify_state};
pub use token::{EXPORTER_LABEL, MAX_HINTS, Secret, TokenError, TokenKey, TokenWord, token_key, verify_begin};
pub use trusted_time::{FAR_AHEAD, TrustedTime, VOUCHING_NEEDED};
pub use web_authority::{WEB_DIR, WebAuthority, WebPapers};

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).map_err(|_| PkiError::NoRandom)?;
    Ok(bytes)
}
