//! Whose files are: commands of root write as the service's user, so that the service can read what it needs; sockets are of our groups.

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

/// The group of that name in this machine's own file, where `scripts/install` makes ours.
///
/// The C library would ask whoever else may know groups (systemd, a directory in the network), and all that it loads for that stays in
/// memory: 0.4 MB.
pub fn group(name: &str) -> Option<Gid> {
    group_in(&std::fs::read_to_string("/etc/group").ok()?, name)
}

/// group(5): name, password, number, members.
fn group_in(file: &str, name: &str) -> Option<Gid> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let ours = fields.next() == Some(name);
        let number = fields.nth(1)?.parse().ok()?;
        ours.then(|| Gid::from_raw(number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name_whatever_else_is_in_the_file() {
        let file = "root:x:0:\ndms3-hook:x:993:dms3,anna\n\n# nothing\ndms3:!:994:ben\ndms3:x:7:\nhalf:x\nno:x:number:\n";
        assert_eq!(group_in(file, "dms3"), Some(Gid::from_raw(994)));
        assert_eq!(group_in(file, "dms3-hook"), Some(Gid::from_raw(993)));
        for name in ["dms", "half", "no", "", "anna"] {
            assert_eq!(group_in(file, name), None, "{name}");
        }
        assert_eq!(group("root"), Some(Gid::from_raw(0)));
    }
}
