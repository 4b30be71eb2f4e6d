//! One node: its directories, its config, its process and what it logs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use dms3_core::request::{Answer, CameraStatus, Request};
use dms3_node::control::ask;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::Terminal;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_dms3-node");
/// How long a node may take to end, detectors included.
const END_WITHIN: Duration = Duration::from_secs(20);

/// A node with directories of its own. Its process, if it has one, dies with it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    dir: PathBuf,
    netns: Option<String>,
    /// What libfaketime makes of its clock.
    clock: Mutex<Option<String>>,
    /// Further variables of its next process and commands.
    environment: Mutex<Vec<(&'static str, PathBuf)>>,
    /// Its process and commands are of this user; `None`: of ours.
    pub(crate) user: Option<u32>,
    child: Mutex<Option<Child>>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// What it printed; it must have succeeded.
    pub(crate) fn good(self) -> String {
        assert!(self.ok, "the command failed: {}{}", self.out, self.err);
        self.out
    }

    /// What it complained of; it must have failed.
    pub(crate) fn bad(self) -> String {
        assert!(!self.ok, "the command succeeded: {}{}", self.out, self.err);
        self.err
    }
}

impl Node {
    /// `sections`: the config after the role and the directories, which are this node's.
    pub(crate) fn new(parent: &Path, name: &str, role: &str, netns: Option<&str>, sections: &str) -> Self {
        let dir = parent.join(name);
        fs::create_dir_all(&dir).unwrap();
        let node = Self {
            name: name.to_owned(),
            dir,
            netns: netns.map(str::to_owned),
            clock: Mutex::new(None),
            environment: Mutex::default(),
            user: None,
            child: Mutex::new(None),
        };
        let (state, run) = (node.state_dir(), node.dir.join("run"));
        // Many houses stand on this machine, and the dashboard has a port of its own only where it is asked for.
        let web = if role == "coordinator" && !sections.contains("[web]") { "[web]\nenabled = false\n" } else { "" };
        fs::write(node.config(), format!("role = {role:?}\nstate_dir = {state:?}\nrun_dir = {run:?}\n{web}{sections}")).unwrap();
        node
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("dms3.toml")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn spool_dir(&self) -> PathBuf {
        self.dir.join("spool")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// From the next process on its clock is wrong: "+200d", or "@1970-01-01 00:05:00" at the start. `None`: right.
    pub(crate) fn set_clock(&self, clock: Option<&str>) {
        *self.clock.lock().unwrap() = clock.map(str::to_owned);
    }

    /// From the next process on, [`Node::jumps`] sets its clock under it; until then it is right.
    pub(crate) fn may_jump(&self) {
        self.jumps("+0");
    }

    /// Its clock is wrong by so much from now on, "+5h" or "-90", also under a process that runs.
    pub(crate) fn jumps(&self, by: &str) {
        let new = self.dir.join("faketime.new");
        fs::write(&new, by).unwrap();
        fs::rename(new, self.faketime()).unwrap();
    }

    fn faketime(&self) -> PathBuf {
        self.dir.join("faketime")
    }

    /// What libfaketime is told, for its processes and those of its detectors.
    pub(crate) fn clock_env(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let mut env = Vec::new();
        if self.faketime().exists() {
            env.extend([("FAKETIME_TIMESTAMP_FILE", self.faketime().into_os_string()), ("FAKETIME_NO_CACHE", "1".into())]);
        } else if let Some(clock) = &*self.clock.lock().unwrap() {
            env.push(("FAKETIME", clock.into()));
        }
        if !env.is_empty() {
            // Waiting must not be faked, or the runtime waits for ever.
            env.extend([("LD_PRELOAD", super::skip::libfaketime().unwrap().into_os_string()), ("DONT_FAKE_MONOTONIC", "1".into())]);
        }
        env
    }

    /// From the next process on it has this variable.
    pub(crate) fn set_variable(&self, name: &'static str, value: PathBuf) {
        self.environment.lock().unwrap().push((name, value));
    }

    /// From the next process on its services can be made to fail, see [`Self::fails_in`].
    pub(crate) fn can_fail(&self) {
        fs::create_dir_all(self.failpoints()).unwrap();
        self.set_variable("DMS3_FAILPOINTS", self.failpoints());
    }

    fn failpoints(&self) -> PathBuf {
        self.dir.join("failpoints")
    }

    /// One of its services panics ("panic") or waits for ever ("hang") at its next turn. In builds for tests only.
    pub(crate) fn fails_in(&self, service: &str, how: &str) {
        // Whole at once: it looks all the time.
        let (new, file) = (self.dir.join("failpoint"), self.failpoints().join(service));
        fs::write(&new, how).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// `dms3-node ARGS` with this node's config, in its network.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, BINARY]);
                command
            }
            None => Command::new(BINARY),
        };
        command.envs(self.clock_env());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.args(args).arg("--config").arg(self.config()).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").kill_on_drop(true);
        command.envs(self.environment.lock().unwrap().iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) async fn cli(&self, args: &[&str]) -> Said {
        self.cli_with(args, "").await
    }

    /// With `input` on standard input.
    pub(crate) async fn cli_with(&self, args: &[&str], input: &str) -> Said {
        let mut child = self.spawn_cli(args, input).await;
        let out = tokio::time::timeout(Duration::from_secs(150), async {
            drop(child.stdin.take());
            child.wait_with_output().await.unwrap()
        });
        let out = out.await.unwrap_or_else(|_| panic!("{args:?} did not end"));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { ok: out.status.success(), out: text(out.stdout), err: text(out.stderr) }
    }

    /// A command that has its input and runs.
    pub(crate) async fn spawn_cli(&self, args: &[&str], input: &str) -> Child {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that reads nothing has closed its end.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()).await);
        child
    }

    /// A command that a person types at a terminal.
    pub(crate) fn at_a_terminal(&self, args: &[&str]) -> Terminal {
        Terminal::with(&self.command(args))
    }

    /// Starts `dms3-node run`; what it logs is appended to its file.
    pub(crate) fn start(&self) {
        let mut child = self.child.lock().unwrap();
        assert!(child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        *child = Some(command.spawn().unwrap());
    }

    /// Whether it was started and not ended by the test.
    pub(crate) fn runs(&self) -> bool {
        self.child.lock().unwrap().is_some()
    }

    /// Of the running process. Panics if it ended by itself.
    pub(crate) fn pid(&self) -> u32 {
        let mut child = self.child.lock().unwrap();
        let child = child.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{} ended by itself: {status}", self.name);
        }
        child.id().unwrap()
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&self) {
        let status = self.end(Signal::SIGTERM).await;
        assert!(status.success(), "{} did not end well: {status}", self.name);
    }

    /// As a power cut would, but for the files that the system keeps for us.
    pub(crate) async fn sigkill(&self) {
        self.end(Signal::SIGKILL).await;
    }

    pub(crate) async fn restart(&self) {
        self.stop().await;
        self.start();
    }

    /// To its running process, which goes on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// From now on its process may have no descriptor above this number; those that it has stay.
    pub(crate) fn limit_descriptors(&self, most: u32) {
        let limit = format!("--nofile={most}:");
        let out = std::process::Command::new("prlimit").args(["--pid", &self.pid().to_string(), &limit]).output().unwrap();
        assert!(out.status.success(), "prlimit of util-linux: {out:?}");
    }

    /// How many its process has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Further lines of its config, read at the next start.
    pub(crate) fn configure(&self, more: &str) {
        let before = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), format!("{before}\n{more}")).unwrap();
    }

    async fn end(&self, signal: Signal) -> std::process::ExitStatus {
        let pid = self.pid();
        let mut child = self.child.lock().unwrap().take().unwrap();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
        match tokio::time::timeout(END_WITHIN, child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} did not end within {END_WITHIN:?} of {signal}", self.name),
        }
    }

    /// Whether its process ended by itself, which is to be a failure. Then it may be started again.
    pub(crate) fn has_failed(&self) -> bool {
        let mut child = self.child.lock().unwrap();
        let Some(status) = child.as_mut().and_then(|child| child.try_wait().unwrap()) else { return false };
        assert!(!status.success(), "{} ended as if all were well", self.name);
        *child = None;
        true
    }

    /// Waits until it ends by itself, which is to be a failure.
    pub(crate) async fn fails(&self) {
        let mut child = self.child.lock().unwrap().take().unwrap();
        match tokio::time::timeout(END_WITHIN, child.wait()).await {
            Ok(status) => assert!(!status.unwrap().success(), "{} ended as if all were well", self.name),
            Err(_) => panic!("{} runs, although it should not", self.name),
        }
    }

    pub(crate) async fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        ask(&self.dir.join("run/control.sock"), request).await
    }

    /// What a camera node says of itself; `None` while it does not answer.
    pub(crate) async fn camera_status(&self) -> Option<CameraStatus> {
        match self.ask(&Request::Status).await {
            Ok(Answer::Camera(status)) => Some(*status),
            _ => None,
        }
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// All that it logged, whatever process it was.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Whether a line that users see (not one for developers) holds `text`.
    pub(crate) fn told(&self, text: &str) -> bool {
        self.lines_with(text) > 0
    }

    pub(crate) fn lines_with(&self, text: &str) -> usize {
        self.log().lines().filter(|line| is_for_people(line) && line.contains(text)).count()
    }

    /// Whether one line for people holds all of them.
    pub(crate) fn line_with_all(&self, texts: &[&str]) -> bool {
        self.log().lines().any(|line| is_for_people(line) && texts.iter().all(|text| line.contains(text)))
    }
}

/// Not for developers.
pub(crate) fn is_for_people(line: &str) -> bool {
    !line.contains(" DEBUG ") && !line.contains(" TRACE ")
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log());
        }
        if let Some(mut child) = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            // A detector outlives nobody: its node's end is its own.
            drop(child.start_kill());
        }
    }
}
