//! One node for one state directory: two would fight over keys, store and detectors.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Held for as long as it lives; a crash lets it go.
pub fn take(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    // A card that can only be read any more does not keep a camera from watching: a lock needs no write.
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .or_else(|_| File::open(&path))
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another dms3-node runs with the state directory {}: stop it first", state_dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
