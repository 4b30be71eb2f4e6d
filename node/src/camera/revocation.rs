//! A camera that was revoked keeps what it saw, mails nothing and deletes its mail secrets.

use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::uplink::LinkStatus;
use crate::store::mails::MailBox;

/// There while the coordinator that this node heard last said so.
const MARK: &str = "revoked";

/// Whether the last word that this node heard of a coordinator of its house was that it is revoked.
pub(super) fn is_marked(state_dir: &Path) -> bool {
    state_dir.join(MARK).exists()
}

/// Keeps that word over restarts.
pub(super) fn mark(state_dir: &Path, revoked: bool) {
    let path = state_dir.join(MARK);
    let marked = match revoked {
        true if path.exists() => Ok(()),
        true => dms3_pki::files::write_atomic(&path, b"", dms3_pki::files::PRIVATE).map_err(anyhow::Error::from),
        false => match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        },
    };
    if let Err(error) = marked {
        tracing::warn!("whether this node is revoked cannot be kept for the next start: {error:#}");
    }
}

/// Works as long as this node is one of its house, and again when it is once more.
pub(super) async fn unless_revoked<F: Future<Output = Result<()>>>(
    mut link: watch::Receiver<LinkStatus>,
    work: impl Fn(CancellationToken) -> F,
    stop: CancellationToken,
) -> Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            allowed = link.wait_for(|link| !link.revoked) => drop(allowed?),
        }
        tokio::select! {
            ended = work(stop.clone()) => return ended,
            revoked = link.wait_for(|link| link.revoked) => drop(revoked?),
        }
    }
}

/// Deletes what a revoked node must not have.
pub(super) async fn forget_secrets(
    mut link: watch::Receiver<LinkStatus>,
    mails: MailBox,
    password_file: Option<PathBuf>,
    stop: CancellationToken,
) -> Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            revoked = link.wait_for(|link| link.revoked) => drop(revoked?),
        }
        tracing::warn!("this node is revoked: it mails nothing any more, and what it knew of mail is deleted");
        // The password first: it is what others would use.
        match &password_file {
            Some(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("cannot delete the password of [mail] in {}, delete it by hand: {error}", path.display());
                }
                _ => {}
            },
            None => tracing::warn!("the password of [mail], if there is one, is not in a file of its own: delete it by hand"),
        }
        mails.open().await?.clear().await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            allowed = link.wait_for(|link| !link.revoked) => drop(allowed?),
        }
    }
}
