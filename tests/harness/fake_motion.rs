//! A detector that watches nothing: it writes down when it was started and asked to end, and runs until then.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::MjpegCamera;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The node takes the third line for Motion's own word that its loop runs.
const SCRIPT: &str = r#"#!/bin/sh
echo "start $$" >> "${TOLD:-@DIR@/told}"
echo "[0:motion] [NTC] [ALL] image_ring_resize: Resizing pre_capture buffer to 1 items" >&2
trap '@END@' TERM
while :; do sleep 0.2 & wait $!; done
"#;

const END: &str = r#"echo "stop $$" >> "@DIR@/told"; exit 0"#;

/// How a detector is made, or what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Make {
    #[default]
    Plain,
    /// Not there until [`FakeMotion::install`].
    Missing,
    /// Does not end when it is asked to.
    Stubborn,
    /// Behind a program that becomes it, as `libcamerify` does.
    Wrapped,
    /// Behind a program that starts it and waits.
    Forked,
}

#[derive(Debug)]
pub(crate) struct FakeMotion {
    dir: PathBuf,
    make: Make,
}

impl FakeMotion {
    pub(crate) fn new(dir: &Path, make: Make) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("fake.conf"), "# Nothing: the node asks no web control and writes no file.\n").unwrap();
        let fake = Self { dir: dir.to_owned(), make };
        if make != Make::Missing {
            fake.install();
        }
        fake
    }

    pub(crate) fn install(&self) {
        let end = if self.make == Make::Stubborn { "" } else { END };
        let script = SCRIPT.replace("@END@", end).replace("@DIR@", self.dir.to_str().unwrap());
        // Whole at once: somebody may be waiting for it.
        let new = self.dir.join("new");
        fs::write(&new, script).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, self.script()).unwrap();
    }

    /// From its next start on it shows what that camera sees.
    pub(crate) fn shows(&self, camera: &MjpegCamera) {
        fs::write(self.conf(), format!("stream_port {}\n", camera.port())).unwrap();
    }

    /// It dies, and cannot be started any more until [`Self::install`].
    pub(crate) fn breaks(&self) {
        fs::remove_file(self.script()).unwrap();
        let pid = self.running().expect("it runs");
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    }

    /// `[[camera.detector]]` of a camera that has it.
    pub(crate) fn section(&self) -> String {
        let command = match self.make {
            Make::Plain | Make::Missing | Make::Stubborn => self.script(),
            Make::Wrapped => self.wrapper("exec @REAL@ \"$@\""),
            Make::Forked => self.wrapper("@REAL@ \"$@\" & trap 'kill $!' TERM; wait $!; wait $!"),
        };
        let grace = if self.make == Make::Stubborn { 1 } else { 5 };
        format!("[[camera.detector]]\nname = \"cam\"\ncommand = [{command:?}]\nconfig = {:?}\nstop_grace = \"{grace}s\"\n", self.conf())
    }

    /// As the node starts it, but by somebody else: not counted, and none of the node's business.
    pub(crate) fn of_a_stranger(&self) -> Child {
        let mut command = Command::new(self.script());
        command.args(["-n", "-c"]).arg(self.conf()).env("TOLD", "/dev/null").stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// A program of its own, which `line` makes start the script.
    fn wrapper(&self, line: &str) -> PathBuf {
        let wrapper = self.dir.join("wrapper");
        fs::write(&wrapper, format!("#!/bin/sh\n{}\n", line.replace("@REAL@", self.script().to_str().unwrap()))).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        wrapper
    }

    fn script(&self) -> PathBuf {
        self.dir.join("fake-motion")
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("fake.conf")
    }

    /// Its process, if it runs now.
    pub(crate) fn running(&self) -> Option<u32> {
        self.told("start ").last()?.parse().ok().filter(|pid| self.is_ours(*pid))
    }

    fn is_ours(&self, pid: u32) -> bool {
        // A process that nobody buried yet has no command line.
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(self.dir.join("fake-motion").to_str().unwrap()))
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

/// The child of a wrapper outlives both where no unit ends all of them; nothing outlives a test.
impl Drop for FakeMotion {
    fn drop(&mut self) {
        for pid in self.told("start ").iter().filter_map(|pid| pid.parse().ok()).filter(|pid| self.is_ours(*pid)) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}
