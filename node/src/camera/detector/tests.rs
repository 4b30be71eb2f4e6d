//! Detectors as real processes: Motion itself where it is the point, a script in its place where it is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dms3_core::protocol::message::{DetectorPhase, DetectorReportV1};
use dms3_core::time::{Mono, Now, Timestamp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{DetectorConfig, Hooks, Look, Post, Spawner, WatchOrder, first_report, run};
use crate::clock::Clock;

mod faults;
mod motion;

/// Far more than anything here takes, for a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

/// What hooks say is no business of these tests.
fn hooks(run_dir: PathBuf) -> Hooks {
    Hooks { program: "/bin/true".into(), run_dir, spool: "/run/none".into() }
}

/// A source under test.
struct Source {
    dir: TempDir,
    orders: watch::Sender<WatchOrder>,
    report: watch::Receiver<DetectorReportV1>,
    looks: mpsc::Sender<Look>,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
    clock: Clock,
}

impl Source {
    /// Whose detector is a script; `$dir` in it is this test's directory, to which each start adds a line in `starts`.
    fn scripted(script: &str) -> Self {
        Self::scripted_with(script, "")
    }

    fn scripted_with(script: &str, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = write_script(dir.path(), script, config);
        Self::with(dir, &config)
    }

    fn with(dir: TempDir, config: &str) -> Self {
        let config: DetectorConfig = toml::from_str(config).unwrap();
        let clock = Clock::unkept();
        let (orders, order) = watch::channel(WatchOrder::default());
        let (reporter, report) = watch::channel(first_report(&config, Timestamp(0)));
        let (looks, looked) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        let time = clock.clone();
        let state = dir.path().join("state");
        running.spawn(run(
            Post { config, orders: order, report: reporter, looks: looked },
            move || time.now(),
            (state, hooks(dir.path().join("run"))),
            Spawner::start().unwrap(),
            stop.clone(),
        ));
        Self { dir, orders, report, looks, stop, running, clock }
    }

    fn told(&self, on: bool) {
        self.orders.send_replace(WatchOrder { on, decided: Some(self.clock.now().at) });
    }

    /// What somebody who looks sees.
    async fn seen(&self) -> Result<Vec<u8>, String> {
        let (answer, seen) = oneshot::channel();
        self.looks.send(Look { answer }).await.unwrap();
        tokio::time::timeout(LONG, seen).await.expect("an answer").expect("an answer")
    }

    /// Waits for a phase and gives what was said with it.
    async fn is(&mut self, phase: DetectorPhase) -> String {
        self.says(phase, "").await;
        self.report.borrow().detail.clone()
    }

    async fn says(&mut self, phase: DetectorPhase, words: &str) {
        let reached = self.report.wait_for(|report| report.phase == phase.to_wire() && report.detail.contains(words));
        let reached = tokio::time::timeout(LONG, async { reached.await.is_ok() }).await == Ok(true);
        assert!(reached, "never {} with {words:?}: {:?}", phase.words(), self.report.borrow());
    }

    /// The process ids of all starts so far, once there are `count`.
    async fn starts(&self, count: usize) -> Vec<u32> {
        let file = self.dir.path().join("starts");
        eventually("enough starts", || numbers(&file).len() >= count).await;
        numbers(&file)
    }

    /// The node stops; gives how long its detector took to be gone.
    async fn ends(mut self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        let end = tokio::time::timeout(LONG, self.running.join_next()).await.expect("never ends");
        end.unwrap().unwrap().unwrap();
        began.elapsed()
    }
}

/// A script that notes its start, in place of Motion; gives the source's config.
fn write_script(dir: &Path, script: &str, config: &str) -> String {
    let program = dir.join("detector.sh");
    let own = dir.join("own.conf");
    fs::write(&own, "log_level 6\n").unwrap();
    fs::write(&program, format!("#!/bin/sh\ndir={dir}\necho $$ >> $dir/starts\n{script}\n", dir = dir.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("command = [{program:?}]\nconfig = {own:?}\n{config}")
}

fn numbers(file: &Path) -> Vec<u32> {
    fs::read_to_string(file).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A zombie counts as dead.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Killed when the test ends, however it ends.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A clock for a process that has no state directory.
fn fixed_now() -> Now {
    Now { at: Timestamp(1), mono: Mono(1), trusted: true }
}
