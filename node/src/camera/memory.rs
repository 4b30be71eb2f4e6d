//! What a camera must not forget: one small file of two slots, written in turn, each with a checksum. What cannot be read makes the
//! camera armed.
//!
//! A state is on the disk before it is obeyed, so this write is part of the time that the house takes to arm. A slot is written in place:
//! one write and one flush of data, where a new file takes three and the journal of the file system. A crash in the middle of it spoils
//! the slot that was being written and not the other one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use dms3_core::arming::ArmState;
use dms3_core::camera::{Camera, Effect, MemoryV1, Settings};
use dms3_core::protocol::frame::{CONTROL_LIMIT, from_bytes, to_bytes};
use dms3_core::protocol::message::{SignedStateV1, StateV1};
use dms3_core::time::Now;
use dms3_pki::files::{PRIVATE, sync_parent};
use dms3_pki::{Identity, verify_state};
use ring::digest::{Context as Digest, SHA256};

const FILE: &str = "camera.state";
/// Tells the file and its version. A slot: mark, number of the write, length, checksum of those two and the payload, payload.
const MARK: &[u8; 8] = b"dms3cam1";
const SUM: usize = 32;
const HEAD: usize = MARK.len() + 8 + 4 + SUM;
/// Whatever fits into a frame of the mesh fits into a slot.
const SLOT: usize = HEAD + CONTROL_LIMIT;
const SLOTS: u64 = 2;

/// The file and what it holds.
pub(super) struct Memory {
    path: PathBuf,
    /// Opened by the first write.
    file: Option<File>,
    /// Writes so far; the next one goes to the slot of this number.
    written: u64,
    held: Option<SignedStateV1>,
}

/// What was found on the disk.
#[derive(Default)]
struct Found {
    memory: Option<(MemoryV1, Option<StateV1>)>,
    written: u64,
    /// Why a slot that was written once cannot be read.
    damage: Option<anyhow::Error>,
}

impl Memory {
    /// Reads the file and starts the rules with it.
    pub(super) fn wake(state_dir: &Path, settings: Settings, identity: &Identity, now: Now) -> (Self, Camera, Vec<Effect>) {
        let path = state_dir.join(FILE);
        let mut found = read(&path, identity).unwrap_or_else(|error| Found { damage: Some(error), ..Found::default() });
        let corrupt = found.damage.is_some() && found.memory.is_none();
        if let Some(error) = &found.damage {
            let aside = path.with_extension("corrupt");
            tracing::error!("this camera is armed, since its memory cannot be read: {error:#}; it is kept as {}", aside.display());
            match std::fs::rename(&path, &aside) {
                Ok(()) => found.written = 0,
                // What is written next must win over the slot that is whole, so it is counted on.
                Err(error) => tracing::warn!("cannot put {} aside: {error}", path.display()),
            }
            // One of the slots is whole. Whether it is the newer one nobody knows, and the other may have armed.
            if let Some((memory, _)) = &mut found.memory {
                memory.raised = ArmState::Away.to_wire();
            }
        }
        let held = found.memory.as_ref().and_then(|(memory, _)| memory.held.clone());
        let (machine, effects) = Camera::start(settings, found.memory, corrupt, now);
        (Self { path, file: None, written: found.written, held }, machine, effects)
    }

    /// Written, and on the disk, when this returns.
    pub(super) fn save(&mut self, memory: &MemoryV1) -> Result<()> {
        let payload = to_bytes(memory).map_err(anyhow::Error::msg)?;
        self.write(&payload).with_context(|| format!("cannot keep the state of the house in {}", self.path.display()))?;
        self.held.clone_from(&memory.held);
        Ok(())
    }

    fn write(&mut self, payload: &[u8]) -> Result<()> {
        ensure!(payload.len() <= SLOT - HEAD, "{} bytes are too many", payload.len());
        let length = u32::try_from(payload.len())?;
        let number = self.written + 1;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let made = !self.path.exists();
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(false).mode(PRIVATE).open(&self.path)?;
                if made {
                    sync_parent(&self.path)?;
                }
                self.file.insert(file)
            }
        };
        let mut slot = MARK.to_vec();
        slot.extend_from_slice(&number.to_be_bytes());
        slot.extend_from_slice(&length.to_be_bytes());
        slot.extend_from_slice(&sum(number, payload));
        slot.extend_from_slice(payload);
        // A failed flush may have lost what it should have written, and the next one says nothing of it: the file is opened anew.
        let result = file.write_all_at(&slot, number % SLOTS * SLOT as u64).and_then(|()| file.sync_data());
        match result {
            Ok(()) => self.written = number,
            Err(_) => self.file = None,
        }
        Ok(result?)
    }

    /// The signed state that is on the disk.
    pub(super) fn held(&self) -> Option<SignedStateV1> {
        self.held.clone()
    }
}

fn sum(number: u64, payload: &[u8]) -> [u8; SUM] {
    let mut digest = Digest::new(&SHA256);
    digest.update(&number.to_be_bytes());
    digest.update(payload);
    let mut sum = [0; SUM];
    sum.copy_from_slice(digest.finish().as_ref());
    sum
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

/// An error: nothing can be read although there is something.
fn read(path: &Path, identity: &Identity) -> Result<Found> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut found = Found::default();
    // Every write went to the other slot, so after the first one there are two.
    let mut blank = 0;
    for bytes in [bytes.get(..SLOT.min(bytes.len())), bytes.get(SLOT..)].map(Option::unwrap_or_default) {
        if bytes.iter().all(|byte| *byte == 0) {
            blank += 1;
            continue;
        }
        let slot = read_slot(bytes).and_then(|(number, memory)| Ok((number, state_of(&memory, identity)?, memory)));
        match slot.with_context(|| path.display().to_string()) {
            Ok((number, state, memory)) if number > found.written => {
                found.written = number;
                found.memory = Some((memory, state));
            }
            Ok(_) => {}
            Err(error) => found.damage = Some(error),
        }
    }
    if found.damage.is_none() && (blank == SLOTS || (blank > 0 && found.written > 1)) {
        found.damage = Some(anyhow!("{} was emptied", path.display()));
    }
    Ok(found)
}

fn read_slot(bytes: &[u8]) -> Result<(u64, MemoryV1)> {
    let parts = || {
        let rest = bytes.strip_prefix(MARK)?;
        let (number, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (claimed, rest) = rest.split_first_chunk::<SUM>()?;
        let payload = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        Some((u64::from_be_bytes(*number), claimed, payload))
    };
    let (number, claimed, payload) = parts().context("this is no memory of a camera, or it was cut off")?;
    ensure!(sum(number, payload) == *claimed, "it is damaged");
    Ok((number, from_bytes(payload).map_err(anyhow::Error::msg)?))
}

fn state_of(memory: &MemoryV1, identity: &Identity) -> Result<Option<StateV1>> {
    let held = memory.held.as_ref().map(|held| verify_state(held, &identity.mesh(), identity.bundle()).context("the state in it"));
    held.transpose()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dms3_core::camera::{Input, SourceSettings};
    use dms3_core::time::{Mono, Timestamp};

    use super::*;
    use crate::mesh::testing::House;

    fn settings() -> Settings {
        let sources = vec![SourceSettings { name: "porch".to_owned(), watch_in: vec![ArmState::Away] }];
        Settings { sources, on_coordinator_lost: dms3_core::camera::OnLost::Hold }
    }

    fn remembers(house: &House, rev: u64, armed: bool) -> MemoryV1 {
        let mut state = house.state(rev);
        if !armed {
            state.state = ArmState::Disarmed.to_wire();
            state.until = Some(state.since + Duration::from_secs(3600));
        }
        let held = Some(dms3_pki::sign_state(house.coordinator.key(), &state).unwrap());
        MemoryV1 { held, lease_left: if armed { 0 } else { 3_600_000 }, lost_for: 0, raised: 0, paused: None }
    }

    fn wake(dir: &Path, house: &House) -> (Memory, Camera) {
        let now = Now { at: Timestamp(2), mono: Mono(0), trusted: false };
        let (memory, camera, _) = Memory::wake(dir, settings(), &house.coordinator, now);
        (memory, camera)
    }

    fn rev(camera: &Camera) -> Option<u64> {
        camera.state().map(|state| state.rev)
    }

    #[test]
    fn what_was_saved_last_is_what_a_restart_finds() {
        let (house, dir) = (House::new(), tempfile::tempdir().unwrap());
        let (mut memory, camera) = wake(dir.path(), &house);
        assert_eq!((rev(&camera), camera.effective()), (None, ArmState::Away), "a camera that was never told anything is armed");
        for (at, armed) in [(6, true), (7, false), (8, true), (9, false)] {
            memory.save(&remembers(&house, at, armed)).unwrap();
            let (woken, camera) = wake(dir.path(), &house);
            assert_eq!((rev(&camera), camera.effective().is_armed(), camera.raised()), (Some(at), armed, None));
            assert_eq!(woken.held(), memory.held());
            memory = woken;
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(dir.path().join(FILE)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_disarm_is_not_believed_once_what_came_after_it_is_spoilt() {
        let house = House::new();
        let spoil = |what: &dyn Fn(&mut Vec<u8>)| {
            let dir = tempfile::tempdir().unwrap();
            let (mut memory, _) = wake(dir.path(), &house);
            memory.save(&remembers(&house, 6, true)).unwrap();
            memory.save(&remembers(&house, 7, false)).unwrap();
            memory.save(&remembers(&house, 8, true)).unwrap();
            let file = dir.path().join(FILE);
            let mut bytes = std::fs::read(&file).unwrap();
            what(&mut bytes);
            std::fs::write(&file, bytes).unwrap();
            let (mut memory, mut camera) = wake(dir.path(), &house);
            assert!(dir.path().join("camera.corrupt").exists(), "kept for whoever wants to know");
            assert_eq!(camera.effective(), ArmState::Away);
            // The next writes stand on whole ground again, and a coordinator that lives ends it.
            let now = Now { at: Timestamp(3), mono: Mono(10), trusted: false };
            let disarmed = remembers(&house, 9, false).held.unwrap();
            let state = verify_state(&disarmed, &house.coordinator.mesh(), house.coordinator.bundle()).unwrap();
            camera.handle(Input::LinkUp, now);
            for effect in camera.handle(Input::State { signed: disarmed, state, live: true, time: Timestamp(1) }, now) {
                if let Effect::Save(told) = effect {
                    memory.save(&told).unwrap();
                }
            }
            let (_, camera) = wake(dir.path(), &house);
            assert_eq!((rev(&camera), camera.effective()), (Some(9), ArmState::Disarmed));
        };
        // Slot 1 holds the third write, slot 0 the second one. A bit of the newer one; its end; all of it; the older one, too.
        spoil(&|bytes| bytes[SLOT + HEAD + 3] ^= 1);
        spoil(&|bytes| bytes.truncate(SLOT + HEAD + 10));
        spoil(&|bytes| bytes.truncate(SLOT));
        spoil(&|bytes| bytes[SLOT..].fill(0));
        spoil(&|bytes| bytes[SLOT + MARK.len() + 7] = 9);
        spoil(&|bytes| bytes[HEAD + 3] ^= 1);
        spoil(&|bytes| bytes.clear());
        spoil(&|bytes| bytes.fill(0));
    }

    #[test]
    fn a_spoilt_memory_that_cannot_be_put_aside_does_not_win_over_what_is_told_after_it() {
        let (house, dir) = (House::new(), tempfile::tempdir().unwrap());
        let (mut memory, _) = wake(dir.path(), &house);
        for (at, armed) in [(6, true), (7, false), (8, false)] {
            memory.save(&remembers(&house, at, armed)).unwrap();
        }
        let file = dir.path().join(FILE);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[SLOT + HEAD + 3] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        // Something is in the place where it would be kept.
        std::fs::create_dir_all(file.with_extension("corrupt").join("taken")).unwrap();
        let (mut memory, camera) = wake(dir.path(), &house);
        assert_eq!(camera.effective(), ArmState::Away);
        memory.save(&remembers(&house, 9, true)).unwrap();
        let (_, camera) = wake(dir.path(), &house);
        assert_eq!((rev(&camera), camera.effective()), (Some(9), ArmState::Away));
    }

    #[test]
    fn the_memory_of_another_house_is_none() {
        let (house, other, dir) = (House::new(), House::new(), tempfile::tempdir().unwrap());
        let (mut memory, _) = wake(dir.path(), &other);
        memory.save(&remembers(&other, 6, false)).unwrap();
        let (_, camera) = wake(dir.path(), &house);
        assert_eq!((rev(&camera), camera.effective()), (None, ArmState::Away));
    }
}
