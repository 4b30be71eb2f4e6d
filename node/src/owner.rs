//! Commands of root write as the service's user, so that the service can read what it needs.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use nix::unistd::{Gid, Uid, getegid, geteuid, setegid, seteuid};

/// While it lives, root writes as the owner of the state directory, so that the service can read what it needs.
pub struct AsOwner {
    back: Option<(Uid, Gid)>,
}

impl AsOwner {
    pub fn of(dir: &Path) -> anyhow::Result<Self> {
        let owner = std::fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
        let me = geteuid();
        if owner.uid() == me.as_raw() {
            return Ok(Self { back: None });
        }
        ensure!(me.is_root(), "{} belongs to another user: run this with sudo", dir.display());
        let back = Some((me, getegid()));
        setegid(Gid::from_raw(owner.gid())).context("cannot take the group of the state directory")?;
        seteuid(Uid::from_raw(owner.uid())).context("cannot write as the owner of the state directory")?;
        Ok(Self { back })
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.back.take() {
            let _ = seteuid(uid);
            let _ = setegid(gid);
        }
    }
}
