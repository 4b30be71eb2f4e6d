//! What a camera must not forget: one small file with a checksum. One that cannot be read is put aside, and the camera is armed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use dms3_core::camera::{Camera, Effect, MemoryV1, Settings};
use dms3_core::protocol::frame::{from_bytes, to_bytes};
use dms3_core::protocol::message::{SignedStateV1, StateV1};
use dms3_core::time::Now;
use dms3_pki::files::write_atomic;
use dms3_pki::{Identity, verify_state};
use ring::digest::{SHA256, digest};

const FILE: &str = "camera.state";
/// Tells the file and its version.
const MARK: &[u8; 8] = b"dms3cam1";
const SUM: usize = 32;

/// The file and what it holds.
pub(super) struct Memory {
    file: PathBuf,
    held: Option<SignedStateV1>,
}

impl Memory {
    /// Reads the file and starts the rules with it.
    pub(super) fn wake(state_dir: &Path, settings: Settings, identity: &Identity, now: Now) -> (Self, Camera, Vec<Effect>) {
        let file = state_dir.join(FILE);
        let (memory, corrupt) = match read(&file, identity) {
            Ok(memory) => (memory, false),
            Err(error) => {
                let aside = file.with_extension("corrupt");
                tracing::error!("this camera is armed, since its memory cannot be read: {error:#}; it is kept as {}", aside.display());
                if let Err(error) = std::fs::rename(&file, &aside) {
                    tracing::warn!("cannot put {} aside: {error}", file.display());
                }
                (None, true)
            }
        };
        let held = memory.as_ref().and_then(|(memory, _)| memory.held.clone());
        let (machine, effects) = Camera::start(settings, memory, corrupt, now);
        (Self { file, held }, machine, effects)
    }

    /// Written, and on the disk, when this returns.
    pub(super) fn save(&mut self, memory: &MemoryV1) -> Result<()> {
        let payload = to_bytes(memory).map_err(anyhow::Error::msg)?;
        let mut bytes = MARK.to_vec();
        bytes.extend_from_slice(digest(&SHA256, &payload).as_ref());
        bytes.extend_from_slice(&payload);
        write_atomic(&self.file, &bytes, 0o600)
            .with_context(|| format!("cannot keep the state of the house in {}", self.file.display()))?;
        self.held.clone_from(&memory.held);
        Ok(())
    }

    /// The signed state that is on the disk.
    pub(super) fn held(&self) -> Option<SignedStateV1> {
        self.held.clone()
    }
}

/// What another house said means nothing in this one: the camera starts anew there, armed.
pub(crate) fn forget(state_dir: &Path) -> Result<()> {
    let file = state_dir.join(FILE);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// `None`: there is no file, this camera was never told a state.
fn read(file: &Path, identity: &Identity) -> Result<Option<(MemoryV1, Option<StateV1>)>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let Some((sum, payload)) = bytes.strip_prefix(MARK).and_then(|rest| rest.split_at_checked(SUM)) else {
        bail!("{} is no memory of a camera, or was cut off", file.display());
    };
    if digest(&SHA256, payload).as_ref() != sum {
        bail!("{} is damaged", file.display());
    }
    let memory: MemoryV1 = from_bytes(payload).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
    let state = match &memory.held {
        Some(held) => {
            Some(verify_state(held, &identity.mesh(), identity.bundle()).with_context(|| format!("the state in {}", file.display()))?)
        }
        None => None,
    };
    Ok(Some((memory, state)))
}
