//! The password of a mail account: where it lies, who may read it, and that nobody sees it.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use zeroize::Zeroizing;

/// A text that no log and no error shows; wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// For the one who must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(hidden)")
    }
}

/// Where a password lies. It is read for each mail, so that a new one counts at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// In dms3.toml itself.
    Written(Secret),
    /// Alone in a file.
    File(PathBuf),
    /// In systemd's directory of credentials for this service (`LoadCredential=`).
    Credential(String),
}

/// More is no password, but the wrong file.
const LONGEST: u64 = 1024;

impl Password {
    /// The file that holds it and nothing else.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Written(_) | Self::Credential(_) => None,
        }
    }

    /// An error names the file and what to do.
    pub fn read(&self) -> Result<Secret> {
        self.read_with(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())
    }

    fn read_with(&self, credentials: Option<&Path>) -> Result<Secret> {
        match self {
            Self::Written(secret) => Ok(secret.clone()),
            Self::File(path) => read(path).with_context(|| format!("cannot use password_file {} of [mail]", path.display())),
            Self::Credential(name) => {
                let dir = credentials.with_context(|| {
                    format!(
                        "password_credential = {name:?} of [mail] is given by systemd alone, and did not come: \
                         add LoadCredential={name}:/path/of/the/password by `systemctl edit`, and restart the node"
                    )
                })?;
                read(&dir.join(name)).with_context(|| {
                    format!("cannot use password_credential = {name:?} of [mail]: is the name that of LoadCredential= in the unit?")
                })
            }
        }
    }
}

fn read(path: &Path) -> Result<Secret> {
    // Without waiting for anybody to write, should it be a pipe.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            anyhow::Error::from(error).context("the user of the node (dms3) must be able to read it: sudo chown dms3, sudo chmod 600")
        }
        _ => error.into(),
    })?;
    let facts = file.metadata()?;
    ensure!(facts.is_file(), "it is no file");
    ensure!(
        facts.permissions().mode() & 0o007 == 0,
        "every user of this machine can use it: sudo chmod 600 {} (and change the password if somebody may have read it)",
        path.display()
    );
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= LONGEST, "it is longer than {LONGEST} bytes: it must hold the password and nothing else");
    // The reason of this error would show the text.
    let text = std::str::from_utf8(&bytes).ok().context("it is no text")?;
    check(text.trim_end_matches(['\r', '\n'])).map_err(anyhow::Error::msg)
}

/// A password that a mail server can be told.
pub(super) fn check(text: &str) -> Result<Secret, &'static str> {
    if text.is_empty() {
        return Err("the password is empty");
    }
    if text.contains(char::is_control) {
        return Err("the password has a line break or another control character: one line, the password alone");
    }
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mail");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(format!("{:?}", Password::Written(Secret::new("hunter2".into()))), "Written((hidden))");
    }

    #[test]
    fn a_password_file_is_read_without_its_line_end() {
        for mode in [0o600, 0o400, 0o640] {
            let (_dir, path) = written(b"hunter 2\r\n", mode);
            assert_eq!(Password::File(path).read().unwrap().reveal(), "hunter 2");
        }
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused_with_what_to_do() {
        let (_dir, path) = written(b"hunter2\n", 0o644);
        let why = format!("{:#}", Password::File(path.clone()).read().unwrap_err());
        assert!(why.contains("sudo chmod 600") && why.contains(path.to_str().unwrap()) && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn a_file_that_holds_no_password_is_refused_and_not_shown() {
        for (text, word) in [(&b"\n"[..], "empty"), (b"hunter2\nx\n", "line break"), (b"hunter2\xff", "text"), (&[b'h'; 2000], "longer")] {
            let (_dir, path) = written(text, 0o600);
            let why = format!("{:#}", Password::File(path).read().unwrap_err());
            assert!(why.contains(word) && why.contains("password_file") && !why.contains("hunter2"), "{why}");
        }
        let (dir, path) = written(b"", 0o600);
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [dir.path().to_owned(), pipe, path.with_extension("gone")] {
            Password::File(path).read().unwrap_err();
        }
    }

    #[test]
    fn a_credential_comes_from_systemd_or_it_is_said_how() {
        let (dir, _) = written(b"hunter2", 0o400);
        let credential = Password::Credential("mail".into());
        assert_eq!(credential.read_with(Some(dir.path())).unwrap().reveal(), "hunter2");
        let why = format!("{:#}", credential.read_with(None).unwrap_err());
        assert!(why.contains("LoadCredential=mail:"), "{why}");
        let why = format!("{:#}", Password::Credential("male".into()).read_with(Some(dir.path())).unwrap_err());
        assert!(why.contains("male") && why.contains("LoadCredential"), "{why}");
    }
}
