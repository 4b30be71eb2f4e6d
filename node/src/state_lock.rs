//! One node for one state directory: two would fight over keys, store and detectors.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
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

/// A run of the node, written into its lock until it ends: what is found there at the next start was left by one that could not end.
#[derive(Debug)]
pub struct Running {
    lock: File,
    /// The last one was killed, or the power went.
    pub after_a_kill: bool,
}

impl Running {
    pub fn begin(lock: File) -> Self {
        let left = lock.metadata().is_ok_and(|found| found.len() > 0);
        // Where nothing can be written, nothing that is found is of the last run. Not flushed: power that goes in the first seconds may
        // leave no mark, and each start costs the card no more than this.
        let marked = lock.write_all_at(b"running\n", 0).is_ok();
        Self { lock, after_a_kill: left && marked }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It was written above, or never.
        let _ = self.lock.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_could_not_end_is_known_to_the_next_one_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || Running::begin(take(dir.path()).unwrap());
        let first = begin();
        assert!(!first.after_a_kill);
        assert!(take(dir.path()).is_err(), "one at a time");
        // As the system does it when a process is killed: the lock is let go, nothing is written.
        let Running { lock, .. } = &first;
        lock.unlock().unwrap();
        let second = begin();
        assert!(second.after_a_kill);
        drop(second);
        assert!(!begin().after_a_kill);
    }
}
