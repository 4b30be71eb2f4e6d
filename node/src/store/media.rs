//! Pictures and clips: files found by the hash of their content, each one whole and on the disk before its name is there.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use data_encoding::HEXLOWER;
use dms3_pki::files::{PRIVATE, create_dir_private, sync_parent};
use ring::digest::{Context as Digest, SHA256};

use crate::picture;

/// Bytes at once.
const CHUNK: usize = 64 * 1024;
/// Bytes of a long file that may wait for the disk: whoever commits meanwhile (a decision of the house) may have to wait for all of them.
const UNSYNCED: u64 = 1 << 20;
/// Where what is not whole yet lies.
const PARTS: &str = "parts";
/// Ends the name of a thumbnail.
const THUMBNAIL: &str = ".thumb";

/// A directory of contents. Clones share it.
#[derive(Debug, Clone)]
pub struct Media {
    dir: PathBuf,
}

/// A content that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub hash: [u8; 32],
    /// Bytes.
    pub length: u64,
}

impl Media {
    /// Makes the directory, or takes it as it is; what an earlier process began to copy is removed.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        create_dir_private(dir)?;
        create_dir_private(&dir.join(PARTS))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// For who only reads there: nothing is made, and what is not there is found missing.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Copies what `from` holds from its beginning. On the disk when this returns; again: the same file. More than `limit` bytes are refused.
    pub fn keep(&self, from: &mut File, limit: u64) -> anyhow::Result<Content> {
        from.seek(SeekFrom::Start(0)).context("cannot read it from its beginning")?;
        let part = self.dir.join(PARTS).join(format!("copy-{:032x}", rand::random::<u128>()));
        let copied = copy(from, &part, limit);
        let content = match copied {
            Ok(content) => content,
            Err(error) => {
                let _ = fs::remove_file(&part);
                return Err(error);
            }
        };
        self.put(&part, &content.hash)?;
        Ok(content)
    }

    /// The file of a content, if it is there.
    pub fn get(&self, hash: &[u8; 32]) -> io::Result<File> {
        File::open(self.path(hash))
    }

    /// Whether its bytes are still those that came: cards forget.
    pub fn is_right(&self, hash: &[u8; 32]) -> io::Result<bool> {
        Ok(hash_of(&mut self.get(hash)?)? == *hash)
    }

    pub fn has(&self, hash: &[u8; 32]) -> bool {
        self.path(hash).exists()
    }

    /// Bytes of a content; `None`: it is not there.
    pub fn length(&self, hash: &[u8; 32]) -> Option<u64> {
        fs::metadata(self.path(hash)).ok().map(|data| data.len())
    }

    /// Removes a content that nobody needs, and its thumbnail. One that is gone already is no error.
    pub fn remove(&self, hash: &[u8; 32]) -> anyhow::Result<()> {
        // In this order a thumbnail that is being kept meanwhile sees that its content is gone.
        for path in [self.path(hash), self.thumbnail_path(hash)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps the thumbnail of a content beside it. On the disk when this returns; a content that is not there is an error.
    pub fn keep_thumbnail(&self, hash: &[u8; 32], bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.thumbnail_path(hash);
        let part = self.dir.join(PARTS).join(format!("thumb-{:032x}", rand::random::<u128>()));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        if let Err(error) = written() {
            let _ = fs::remove_file(&part);
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        if !self.has(hash) {
            let _ = fs::remove_file(&path);
            bail!("its content was removed");
        }
        Ok(sync_parent(&path)?)
    }

    /// Makes the thumbnail of a picture that is kept here. An error says why there is none. As slow as [`picture::small`].
    pub fn make_thumbnail(&self, hash: &[u8; 32]) -> anyhow::Result<()> {
        let file = self.get(hash).context("the picture cannot be opened")?;
        self.keep_thumbnail(hash, &picture::small(file, picture::THUMBNAIL)?.jpeg)
    }

    /// The thumbnail of a content, if there is one.
    pub fn thumbnail(&self, hash: &[u8; 32]) -> io::Result<File> {
        File::open(self.thumbnail_path(hash))
    }

    /// All contents that are there. One of which only the thumbnail is left (a crash in the midst of its removal) is among them.
    pub fn list(&self) -> anyhow::Result<Vec<[u8; 32]>> {
        let mut found = BTreeSet::new();
        for shelf in fs::read_dir(&self.dir).with_context(|| format!("cannot read {}", self.dir.display()))? {
            let shelf = shelf?.path();
            if shelf.file_name().is_some_and(|name| name == PARTS) || !shelf.is_dir() {
                continue;
            }
            for file in fs::read_dir(&shelf).with_context(|| format!("cannot read {}", shelf.display()))? {
                let name = file?.file_name();
                let name = name.as_encoded_bytes();
                let name = name.strip_suffix(THUMBNAIL.as_bytes()).unwrap_or(name);
                let hash: Option<[u8; 32]> = HEXLOWER.decode(name).ok().and_then(|hash| hash.try_into().ok());
                found.extend(hash);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Whether any content lies in the directory `dir`, which need not exist.
    pub(super) fn holds_any(dir: &Path) -> anyhow::Result<bool> {
        Ok(dir.exists() && !Self { dir: dir.to_owned() }.list()?.is_empty())
    }

    fn thumbnail_path(&self, hash: &[u8; 32]) -> PathBuf {
        super::beside(&self.path(hash), THUMBNAIL)
    }

    /// Where the content lies. The name is made of the hash alone.
    pub fn path(&self, hash: &[u8; 32]) -> PathBuf {
        let name = HEXLOWER.encode(hash);
        self.dir.join(&name[..2]).join(&name)
    }

    /// Removes what was begun and never finished, but for `keep`.
    pub fn tidy(&self, keep: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let parts = self.dir.join(PARTS);
        for entry in fs::read_dir(&parts).with_context(|| format!("cannot read {}", parts.display()))? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(&keep) {
                fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// Removes what was begun and not written to for so long: whoever brings it begins again. Returns how many there were.
    pub fn drop_stale(&self, untouched: Duration) -> anyhow::Result<usize> {
        let parts = self.dir.join(PARTS);
        let mut dropped = 0;
        for entry in fs::read_dir(&parts).with_context(|| format!("cannot read {}", parts.display()))? {
            let entry = entry?;
            // One that was finished meanwhile is no part any more; one of the future was just written.
            let written = entry.metadata().and_then(|facts| facts.modified());
            if !written.is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= untouched)) {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Ok(()) => dropped += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot remove {}", entry.path().display())),
            }
        }
        Ok(dropped)
    }

    /// Bytes that are free on its disk, for us rather than for root; `None`: nobody knows.
    pub fn free(&self) -> Option<u64> {
        let disk = nix::sys::statvfs::statvfs(&self.dir).ok()?;
        // The width of these fields depends on the platform.
        #[allow(clippy::unnecessary_cast)]
        let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
        Some(free)
    }

    fn put(&self, part: &Path, hash: &[u8; 32]) -> anyhow::Result<()> {
        let path = self.path(hash);
        let shelf = path.parent().context("a content lies on a shelf")?;
        if !shelf.exists() {
            create_dir_private(shelf)?;
        }
        fs::rename(part, &path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(sync_parent(&path)?)
    }
}

/// A content that arrives in pieces, perhaps over several links.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    written: u64,
    unsynced: u64,
}

impl Media {
    /// What is there of it; goes on from there. `name` is the name of the part, a hash or the like: letters and digits.
    pub fn part(&self, name: &str) -> anyhow::Result<Part> {
        ensure!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{name:?} is no name of a part");
        let path = self.dir.join(PARTS).join(name);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(PRIVATE)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let written = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        Ok(Part { file, path, written, unsynced: 0 })
    }

    /// How much of it is there.
    pub fn part_length(&self, name: &str) -> u64 {
        fs::metadata(self.dir.join(PARTS).join(name)).map_or(0, |data| data.len())
    }

    /// The part is whole: it is checked, and on the disk under its hash when this returns. One that is wrong is removed.
    pub fn finish(&self, mut part: Part, hash: &[u8; 32]) -> anyhow::Result<()> {
        let found = hash_of(&mut part.file).with_context(|| format!("cannot read {}", part.path.display()))?;
        if found != *hash {
            fs::remove_file(&part.path).with_context(|| format!("cannot remove {}", part.path.display()))?;
            return Err(WrongHash.into());
        }
        part.file.sync_data().with_context(|| format!("cannot write {}", part.path.display()))?;
        self.put(&part.path, hash)
    }
}

/// What arrived is not what was announced.
#[derive(Debug, thiserror::Error)]
#[error("its content does not have the hash that was announced")]
pub struct WrongHash;

impl Part {
    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn append(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.unsynced = self.unsynced.saturating_add(bytes.len() as u64);
        if self.unsynced >= UNSYNCED {
            self.unsynced = 0;
            self.file.sync_data().with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }
}

fn hash_of(file: &mut File) -> io::Result<[u8; 32]> {
    file.seek(SeekFrom::Start(0))?;
    let mut digest = Digest::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            more => digest.update(&chunk[..more]),
        }
    }
    Ok(sum(digest))
}

fn sum(digest: Digest) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

fn copy(from: &mut File, to: &Path, limit: u64) -> anyhow::Result<Content> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(PRIVATE).open(to).with_context(|| format!("cannot write {}", to.display()))?;
    let (mut digest, mut length, mut unsynced) = (Digest::new(&SHA256), 0_u64, 0_u64);
    let mut chunk = vec![0; CHUNK];
    loop {
        let more = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(more) => more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read it"),
        };
        length += more as u64;
        ensure!(length <= limit, "it is longer than {limit} bytes");
        digest.update(&chunk[..more]);
        file.write_all(&chunk[..more]).with_context(|| format!("cannot write {}", to.display()))?;
        unsynced += more as u64;
        if unsynced >= UNSYNCED {
            unsynced = 0;
            file.sync_data().with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    // With its length, which is all that must be there besides the bytes.
    file.sync_data().with_context(|| format!("cannot write {}", to.display()))?;
    Ok(Content { hash: sum(digest), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn what_is_kept_is_found_by_its_hash_and_twice_is_once() {
        let dir = tempfile::tempdir().unwrap();
        let media = Media::open(&dir.path().join("media")).unwrap();
        let bytes = vec![7; 3 * CHUNK + 5];
        let content = media.keep(&mut file_of(&bytes), 1 << 20).unwrap();
        assert_eq!(content.length, bytes.len() as u64);
        assert_eq!(media.keep(&mut file_of(&bytes), 1 << 20).unwrap(), content);
        let mut read = Vec::new();
        media.get(&content.hash).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
        assert_eq!(media.list().unwrap(), [content.hash]);
        media.remove(&content.hash).unwrap();
        media.remove(&content.hash).unwrap();
        assert!(!media.has(&content.hash) && media.list().unwrap().is_empty());
    }

    #[test]
    fn halves_go_once_nobody_writes_to_them_any_more_and_what_is_whole_stays() {
        let dir = tempfile::tempdir().unwrap();
        let media = Media::open(dir.path()).unwrap();
        let whole = media.keep(&mut file_of(b"whole"), 100).unwrap();
        let day = Duration::from_secs(86_400);
        for (name, ago) in [("left", day), ("going-on", day / 2)] {
            media.part(name).unwrap().append(b"half").unwrap();
            let file = File::options().append(true).open(dir.path().join(PARTS).join(name)).unwrap();
            file.set_modified(file.metadata().unwrap().modified().unwrap() - ago).unwrap();
        }
        let mut part = media.part("of-the-future").unwrap();
        part.append(b"half").unwrap();
        part.file.set_modified(part.file.metadata().unwrap().modified().unwrap() + day).unwrap();
        assert_eq!(media.drop_stale(day).unwrap(), 1);
        assert_eq!(media.drop_stale(day).unwrap(), 0);
        let lengths = ["left", "going-on", "of-the-future"].map(|name| media.part_length(name));
        assert_eq!(lengths, [0, 4, 4]);
        assert!(media.has(&whole.hash));
    }

    #[test]
    fn too_long_a_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let media = Media::open(dir.path()).unwrap();
        assert!(media.keep(&mut file_of(&[1; 101]), 100).is_err());
        assert_eq!(fs::read_dir(dir.path().join(PARTS)).unwrap().count(), 0);
        assert!(media.list().unwrap().is_empty());
    }

    #[test]
    fn a_content_that_comes_in_pieces_is_there_when_it_is_whole_and_right() {
        let dir = tempfile::tempdir().unwrap();
        let media = Media::open(dir.path()).unwrap();
        let content = media.keep(&mut file_of(b"hello world"), 100).unwrap();
        media.remove(&content.hash).unwrap();
        media.part("one").unwrap().append(b"hello ").unwrap();
        // Another link, another process.
        assert_eq!(media.part_length("one"), 6);
        let mut part = media.part("one").unwrap();
        assert_eq!(part.written(), 6);
        part.append(b"world").unwrap();
        media.finish(part, &content.hash).unwrap();
        assert!(media.has(&content.hash));

        let mut wrong = media.part("two").unwrap();
        wrong.append(b"hello").unwrap();
        let error = media.finish(wrong, &content.hash).unwrap_err();
        assert!(error.downcast_ref::<WrongHash>().is_some(), "{error:#}");
        assert_eq!(media.part_length("two"), 0, "it begins anew");
        assert!(media.part("../x").is_err());
    }
}
