//! What can go wrong with keys, certificates and their files: what failed and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::chain::Refusal;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} exists already: it is not overwritten. Remove it yourself if it is really no longer needed", .0.display())]
    Exists(PathBuf),
    #[error("{} may be read by others (mode {mode:03o}): it is not used. Run `chmod 600 {0}` and think about who could have copied it", path.display())]
    KeyReadable { path: PathBuf, mode: u32 },
    #[error("{} is damaged: {why}. Restore it from a backup", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("the system gives no random numbers")]
    NoRandom,
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("the root key is not on this machine: bring it back with `dms3-node ca import-root FILE`")]
    RootAway,
    #[error(
        "the certificate that signs all others of this house has ended: bring the root key back with `dms3-node ca import-root FILE`, and it is renewed"
    )]
    IssuingExpired,
    #[error("a trust bundle of another house, or with a wrong signature: {0}")]
    Bundle(&'static str),
    #[error("the certificate does not fit: {0}")]
    Refused(#[from] Refusal),
    #[error("the certificate is for another key than this node's")]
    ForeignLeaf,
    #[error("the passphrase needs at least {0} characters")]
    PassphraseShort(usize),
    #[error("{} holds no exported root key, or is damaged: {why}", path.display())]
    NotAnExport { path: PathBuf, why: &'static str },
    #[error("wrong passphrase, or the file is damaged")]
    WrongPassphrase,
    #[error("the file holds the root key of another house")]
    ForeignRoot,
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("cannot write the value as bytes: {0}")]
    Encoding(String),
}

impl PkiError {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    pub(crate) fn damaged(path: &Path, why: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_string() }
    }
}
