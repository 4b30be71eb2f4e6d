//! Files that must be whole or absent, and that nobody else may read.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::PkiError;

/// Mode of keys.
pub const PRIVATE: u32 = 0o600;
/// Mode of directories that hold them.
pub const PRIVATE_DIR: u32 = 0o700;

/// Replaces `path` by `bytes`: after a crash at any moment it holds the old bytes or the new ones, whole.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let temporary = write_temporary(path, bytes, mode)?;
    fs::rename(&temporary, path).map_err(PkiError::file("replace", path))?;
    sync_parent(path)
}

/// Writes `path` whole; never over something that is there.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let temporary = write_temporary(path, bytes, mode)?;
    // A hard link fails if the name is taken, which a rename does not.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(PkiError::file("remove", &temporary))?;
    match linked {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(PkiError::Exists(path.to_owned())),
        Err(error) => Err(PkiError::file("write", path)(error)),
    }
}

/// As [`write_new`], also on a file system that knows neither links nor modes (a USB stick); a power cut may leave a part of the file.
pub fn write_new_anywhere(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(PkiError::Exists(path.to_owned())),
        Err(error) => return Err(PkiError::file("write", path)(error)),
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path);
        PkiError::file("write", path)(error)
    })?;
    sync_parent(path)
}

/// Makes a directory, and those above it, that only its owner may enter. One that is there stays as it is.
pub fn create_dir_private(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path).map_err(PkiError::file("create the directory", path))?;
    sync_parent(path)
}

/// Reads a secret; refuses one that others than its owner could have read. `None` if there is no such file.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PkiError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PkiError::file("read", path)(error)),
    };
    let mode = file.metadata().map_err(PkiError::file("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::KeyReadable { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.read_to_end(&mut bytes).map_err(PkiError::file("read", path))?;
    Ok(Some(bytes))
}

/// Makes a rename, link or removal in the directory of `path` survive a power cut.
pub fn sync_parent(path: &Path) -> Result<(), PkiError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(PkiError::file("sync the directory", parent))
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, PkiError> {
    let temporary = temporary_name(path)?;
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // The umask may have taken bits away that `mode` asks for.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    attempt().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        PkiError::file("write", path)(error)
    })?;
    Ok(temporary)
}

/// Beside the file (a rename must not cross file systems) and never the same twice.
fn temporary_name(path: &Path) -> Result<PathBuf, PkiError> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", data_encoding::HEXLOWER.encode(&crate::random::<8>()?)));
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_asked_for_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_atomic(&path, b"old", 0o644).unwrap();
        write_atomic(&path, b"new", PRIVATE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_is_never_written_over_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, b"first", PRIVATE).unwrap();
        assert!(matches!(write_new(&path, b"second", PRIVATE), Err(PkiError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_the_message_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, b"secret", PRIVATE).unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap().as_slice(), b"secret");
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err();
            assert!(matches!(error, PkiError::KeyReadable { .. }), "{mode:o}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert!(read_private(&dir.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn directories_of_keys_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_dir_private(&path).unwrap();
        for made in [&path, &dir.path().join("a")] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
        create_dir_private(&path).unwrap();
    }
}
