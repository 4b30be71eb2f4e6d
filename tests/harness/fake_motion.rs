//! A detector that watches nothing: it writes down when it was started and asked to end, and runs until then.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The node takes the second line for Motion's own word that its loop runs.
const SCRIPT: &str = r#"#!/bin/sh
echo "start $$" >> "@DIR@/told"
echo "[0:motion] [NTC] [ALL] image_ring_resize: Resizing pre_capture buffer to 1 items" >&2
trap 'echo "stop $$" >> "@DIR@/told"; exit 0' TERM
while :; do sleep 0.2 & wait $!; done
"#;

#[derive(Debug)]
pub(crate) struct FakeMotion {
    dir: PathBuf,
}

impl FakeMotion {
    pub(crate) fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let script = dir.join("fake-motion");
        fs::write(&script, SCRIPT.replace("@DIR@", dir.to_str().unwrap())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("fake.conf"), "# Nothing: the node asks no web control and writes no file.\n").unwrap();
        Self { dir: dir.to_owned() }
    }

    /// `[[camera.detector]]` of a camera that has it.
    pub(crate) fn section(&self) -> String {
        let (script, conf) = (self.dir.join("fake-motion"), self.dir.join("fake.conf"));
        format!("[[camera.detector]]\nname = \"cam\"\ncommand = [{script:?}]\nconfig = {conf:?}\nstop_grace = \"5s\"\n")
    }

    /// Its process, if it runs now.
    pub(crate) fn running(&self) -> Option<u32> {
        let pid = self.told("start ").last()?.parse().ok()?;
        // A process that nobody buried yet has no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(self.dir.join("fake-motion").to_str().unwrap()).then_some(pid)
    }

    pub(crate) fn starts(&self) -> usize {
        self.told("start ").len()
    }

    /// How often it was asked to end and did.
    pub(crate) fn stops(&self) -> usize {
        self.told("stop ").len()
    }

    /// Counts from nothing again.
    pub(crate) fn forget(&self) {
        assert!(self.running().is_none(), "it runs: it would be lost");
        drop(fs::remove_file(self.dir.join("told")));
    }

    fn told(&self, word: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("told")).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
    }
}
