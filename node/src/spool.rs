//! The spool: where hooks leave what was seen while the node does not run. A directory that members of the hook group may add to and not
//! read; the node empties it.
//!
//! An entry is `ID.json` (a [`Call`]) and, if it has a file, `ID.file`. The `.json` comes last and by renaming: where it is, all is.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dms3_core::id::EventId;
use rustix::fs::OFlags;

use crate::hook::{Call, LIMIT};

pub const DEFAULT: &str = "/var/spool/dms3";
/// What the node's user, a member of the group that owns the directory, can read (the directory hands its group on to its files).
const MODE: u32 = 0o640;
/// Nobody removes what another one left, and new files are of the directory's group.
const DIR_MODE: u32 = 0o3730;
const CALL: &str = "json";
const FILE: &str = "file";
const NEW: &str = "new";
const REFUSED: &str = "refused";
/// Whatever lies there, no more is held in memory: entries of a user, users, what hooks began.
const AT_ONCE: usize = 1000;
const USERS: usize = 16;
const BEGUN: usize = 10_000;
/// No hook writes for so long.
const AT_WORK: Duration = Duration::from_secs(3600);

/// Makes the directory, where an installation did not. Only its owner may read it; members of the hook group may add to it.
pub fn make(dir: &Path) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    if let Some(group) = crate::owner::group(crate::hook::GROUP) {
        nix::unistd::chown(dir, None, Some(group))?;
    }
    // After the change of its group, which takes bits away.
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE))?)
}

/// Writes an entry; it is on the disk when this returns.
pub fn leave(dir: &Path, id: EventId, call: &Call, file: Option<File>) -> Result<()> {
    let made = |name: &str| {
        let path = dir.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(MODE).open(&path).with_context(|| format!("cannot write {}", path.display()))
    };
    let (content_name, unfinished) = (format!("{id}.{FILE}"), format!("{id}.{NEW}"));
    let attempt = || -> Result<()> {
        if let Some(file) = file {
            let mut content = made(&content_name)?;
            // Whoever goes on writing to it keeps no hook for ever.
            let length = file.metadata().context("cannot see how long the file is")?.len();
            io::copy(&mut FromStart { file, at: 0 }.take(length), &mut content).context("cannot copy the file")?;
            content.sync_all()?;
        }
        let mut entry = made(&unfinished)?;
        io::Write::write_all(&mut entry, &serde_json::to_vec(call)?)?;
        entry.sync_all()?;
        fs::rename(dir.join(&unfinished), dir.join(format!("{id}.{CALL}")))?;
        // Who may not read a directory cannot flush it: the whole file system is.
        rustix::fs::syncfs(&entry)?;
        Ok(())
    };
    attempt().inspect_err(|_| {
        // A half entry would lie there for ever.
        let _ = fs::remove_file(dir.join(&content_name));
        let _ = fs::remove_file(dir.join(&unfinished));
    })
}

/// Reads a file from its beginning, wherever others are in it: a node that was handed the descriptor shares its place with the hook. One
/// that died in the midst of its copy left it at the end, and one that is only slow still reads.
struct FromStart {
    file: File,
    at: u64,
}

impl io::Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let more = self.file.read_at(buffer, self.at)?;
        self.at += more as u64;
        Ok(more)
    }
}

/// Entries to be taken next: of each user the oldest, and one of each in turn, so that nobody waits for all that another one left. Not more
/// than `AT_ONCE` of a user.
pub fn entries(dir: &Path) -> Result<Vec<EventId>> {
    let mut found: BTreeMap<u32, Vec<EventId>> = BTreeMap::new();
    let list = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    for entry in list {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let path = entry.path();
        // As hooks write it and as it is opened: an id may be read in other letters too.
        let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| path.extension().is_some_and(|ending| ending == CALL));
        let id = stem.and_then(|stem| EventId::parse(stem).ok().filter(|id| id.to_string() == stem));
        if let Some(id) = id
            && let Ok(data) = entry.metadata()
        {
            let user = if found.len() < USERS { data.uid() } else { u32::MAX };
            let own = found.entry(user).or_default();
            own.push(id);
            if own.len() == 2 * AT_ONCE {
                oldest(own);
            }
        }
    }
    found.values_mut().for_each(oldest);
    let most = found.values().map(Vec::len).max().unwrap_or(0);
    Ok((0..most).flat_map(|nth| found.values().filter_map(move |own| own.get(nth).copied())).collect())
}

/// How many entries wait; where nobody can look, none.
pub fn waiting(dir: &Path) -> u64 {
    let list = fs::read_dir(dir).into_iter().flatten().flatten();
    list.filter(|entry| entry.path().extension().is_some_and(|ending| ending == CALL)).count() as u64
}

fn oldest(entries: &mut Vec<EventId>) {
    entries.sort_unstable();
    entries.truncate(AT_ONCE);
}

/// What an entry holds. An error: it is none of ours, or was tampered with.
pub fn read(dir: &Path, id: EventId) -> Result<(Call, Option<File>)> {
    let mut text = Vec::new();
    open(&dir.join(format!("{id}.{CALL}")))?.take(LIMIT as u64 + 1).read_to_end(&mut text)?;
    ensure!(text.len() <= LIMIT, "it is too long");
    let call: Call = serde_json::from_slice(&text).context("it cannot be read")?;
    let file = call.file.is_some().then(|| open(&dir.join(format!("{id}.{FILE}")))).transpose()?;
    Ok((call, file))
}

pub fn remove(dir: &Path, id: EventId) -> Result<()> {
    for extension in [CALL, FILE] {
        let path = dir.join(format!("{id}.{extension}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What hooks began and did not end: they were killed, and nobody was told that it is kept.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// Since when each was seen, by a clock that does not jump: a hook that is at work must not look as if it were of last year.
    seen: HashMap<PathBuf, Instant>,
}

impl Unfinished {
    /// Removes what no hook can still be at work on.
    pub fn tidy(&mut self, dir: &Path, now: Instant) -> Result<()> {
        let list = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            list => list.with_context(|| format!("cannot read {}", dir.display()))?,
        };
        let mut seen = HashMap::new();
        for entry in list {
            let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
            let is_unfinished = match path.extension().and_then(|extension| extension.to_str()) {
                Some(NEW) => true,
                Some(FILE) => !path.with_extension(CALL).exists() && !path.with_extension(REFUSED).exists(),
                _ => false,
            };
            if !is_unfinished {
                continue;
            }
            let since = self.seen.get(&path).copied().unwrap_or(now);
            if now.duration_since(since) < AT_WORK {
                if seen.len() < BEGUN {
                    seen.insert(path, since);
                }
            } else {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        self.seen = seen;
        Ok(())
    }
}

/// Puts an entry aside that cannot be taken, so that it is neither lost nor tried for ever.
pub fn put_aside(dir: &Path, id: EventId) -> Result<PathBuf> {
    let aside = dir.join(format!("{id}.{REFUSED}"));
    fs::rename(dir.join(format!("{id}.{CALL}")), &aside).with_context(|| format!("cannot rename the entry to {}", aside.display()))?;
    Ok(aside)
}

/// A file that its writer made here: no link to one that he could not read.
fn open(path: &Path) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = || -> Result<File> {
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
        let data = file.metadata()?;
        ensure!(data.is_file(), "it is not a regular file");
        ensure!(data.nlink() == 1, "it has a second name");
        Ok(file)
    };
    opened().with_context(|| format!("cannot take {}", path.display()))
}

#[cfg(test)]
mod tests {
    use dms3_core::time::Timestamp;

    use super::*;

    #[test]
    fn of_each_user_the_oldest_are_taken_in_turn_whatever_another_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let leave = |at: u64, user: u32| {
            let id = EventId::new(Timestamp(at), rand::random());
            let path = dir.path().join(format!("{id}.{CALL}"));
            fs::write(&path, "x").unwrap();
            // Only root gives files away.
            std::os::unix::fs::chown(&path, Some(user), None).is_ok().then_some(id)
        };
        if leave(1, 54_321).is_none() {
            eprintln!("skipped: only root can");
            return;
        }
        for at in (2..2 * AT_ONCE as u64 + 100).rev() {
            leave(at, 54_321);
        }
        let late = [leave(1_000_000, 54_322), leave(1_000_001, 54_322)].map(Option::unwrap);
        let found = entries(dir.path()).unwrap();
        assert_eq!(found.len(), AT_ONCE + late.len());
        assert_eq!([found[1], found[3]], late, "nobody waits for the other");
        let first: Vec<_> = found.iter().filter(|id| !late.contains(id)).map(|id| id.made_at().0).collect();
        assert_eq!(first, (1..=AT_ONCE as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_name_that_no_hook_writes_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let ours = EventId::new(Timestamp(2), [0xab; 10]);
        let name = format!("{ours}.{CALL}");
        for other in [name.to_lowercase(), name.replace('.', "x."), format!("é{}", &name[2..])] {
            fs::write(dir.path().join(other), "{}").unwrap();
        }
        assert_eq!(entries(dir.path()).unwrap(), []);
        fs::write(dir.path().join(name), "{}").unwrap();
        assert_eq!(entries(dir.path()).unwrap(), [ours]);
    }

    #[test]
    fn of_a_file_that_grows_meanwhile_as_much_is_left_as_there_was() {
        let dir = tempfile::tempdir().unwrap();
        let call = Call {
            said: dms3_core::event::Said::Movie,
            event: None,
            camera: None,
            pixels: None,
            at: None,
            called: Timestamp(1),
            file: Some(b"a.mp4".to_vec()),
        };
        // Its length is 0, and whoever reads it gets more.
        for (path, length) in [("/proc/self/status", 0), ("/etc/passwd", fs::metadata("/etc/passwd").unwrap().len())] {
            let id = EventId::new(Timestamp(1), rand::random());
            leave(dir.path(), id, &call, Some(File::open(path).unwrap())).unwrap();
            let (_, file) = read(dir.path(), id).unwrap();
            assert_eq!(file.unwrap().metadata().unwrap().len(), length, "{path}");
        }
    }

    #[test]
    fn what_a_killed_hook_left_goes_and_what_one_is_writing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = |ending: &str| (0..3).map(|nth| dir.path().join(format!("{nth}.{ending}"))).collect::<Vec<_>>();
        // 0 is whole, 1 was put aside, of 2 there is a half.
        for path in [&names(FILE)[0], &names(CALL)[0], &names(FILE)[1], &names(REFUSED)[1], &names(FILE)[2], &names(NEW)[2]] {
            fs::write(path, "x").unwrap();
        }
        let (mut unfinished, began) = (Unfinished::default(), Instant::now());
        for after in [Duration::ZERO, AT_WORK - Duration::from_secs(1)] {
            unfinished.tidy(dir.path(), began + after).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
        }
        unfinished.tidy(dir.path(), began + AT_WORK).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
        assert!(!names(FILE)[2].exists() && !names(NEW)[2].exists());
    }
}
