//! The two keys that let a restarted node tell its old peers at once that their links are gone.

use std::path::Path;

use anyhow::{Context, Result};
use dms3_pki::files::{PRIVATE, read_private, write_atomic};
use zeroize::Zeroizing;

const FILE: &str = "mesh.keys";
const RESET: usize = 64;
const LENGTH: usize = RESET + 8;

/// quinn sends a stateless reset after a restart only if *both* survive: the reset key, and the key by which it recognises its own
/// connection ids.
#[derive(Clone)]
pub struct MeshKeys {
    bytes: Zeroizing<[u8; LENGTH]>,
}

impl MeshKeys {
    /// Those of the state directory, made at the first start. A damaged file is told and replaced: it costs peers a few seconds, once.
    pub fn load_or_create(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        if let Some(kept) = read_private(&path)? {
            match <[u8; LENGTH]>::try_from(kept.as_slice()) {
                Ok(bytes) => return Ok(Self { bytes: Zeroizing::new(bytes) }),
                Err(_) => tracing::warn!("{} is damaged: made anew. Peers notice this restart a few seconds late", path.display()),
            }
        }
        let keys = Self::random()?;
        write_atomic(&path, keys.bytes.as_slice(), PRIVATE).context("the node's state directory must be writable")?;
        Ok(keys)
    }

    /// For an endpoint that nobody needs to recognise later.
    pub fn random() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, bytes.as_mut_slice()).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        Ok(Self { bytes })
    }

    pub(crate) fn reset(&self) -> ring::hmac::Key {
        ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.bytes[..RESET])
    }

    pub(crate) fn connection_ids(&self) -> u64 {
        self.bytes[RESET..].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
    }
}

impl std::fmt::Debug for MeshKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeshKeys")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_keys_survive_a_restart_and_others_cannot_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let first = MeshKeys::load_or_create(dir.path()).unwrap();
        let again = MeshKeys::load_or_create(dir.path()).unwrap();
        assert_eq!(first.bytes, again.bytes);
        assert_ne!(first.bytes, MeshKeys::random().unwrap().bytes);
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_key_file_does_not_keep_the_node_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        write_atomic(&dir.path().join(FILE), b"short", PRIVATE).unwrap();
        let made = MeshKeys::load_or_create(dir.path()).unwrap();
        assert_eq!(MeshKeys::load_or_create(dir.path()).unwrap().bytes, made.bytes);
    }
}
