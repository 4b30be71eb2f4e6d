//! One child process: spawned from a thread that lives as long as the node, heard line by line, ended with its whole group.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::without_password;
use super::exec::confine;
use super::leftover::{Kin, MARK_VARIABLE};

/// How many last lines are kept, and how long one may be (bytes): a child that talks without end costs no memory.
const KEPT_LINES: usize = 20;
const LINE_LIMIT: usize = 1000;
/// How long the last words may take to arrive after the end.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(300);
/// How often we look whether processes that outlived their leader are gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After SIGKILL a process is gone at once, unless the kernel holds it (a camera driver that hangs).
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Set on top of our own environment.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) kin: Kin,
}

/// The thread that forks. The kernel kills a child when *the thread* that forked it ends, so tokio's own threads, which come and go,
/// must not. Cheap to clone; make one for the node and keep it for its life.
#[derive(Debug, Clone)]
pub struct Spawner {
    jobs: blocking::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    program: Program,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread; it ends with the last clone. Must be called inside a tokio runtime, which hears of ended children.
    pub fn start() -> Result<Self> {
        let (jobs, next) = blocking::channel::<Job>();
        let runtime = tokio::runtime::Handle::try_current().context("the spawner needs a tokio runtime")?;
        std::thread::Builder::new()
            .name("detector-spawner".to_owned())
            .spawn(move || {
                let _inside = runtime.enter();
                while let Ok(Job { program, reply }) = next.recv() {
                    // An unread reply drops the child, and that kills it.
                    let _ = reply.send(spawn(&program));
                }
            })
            .context("cannot start the thread that starts detectors")?;
        Ok(Self { jobs })
    }

    /// Ok once exec succeeded.
    pub(crate) async fn spawn(&self, program: &Program) -> io::Result<Process> {
        let (reply, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts detectors is gone");
        self.jobs.send(Job { program: program.clone(), reply }).map_err(|_| gone())?;
        let child = child.await.map_err(|_| gone())??;
        Process::of(child, program.kin.clone())
    }
}

fn spawn(program: &Program) -> io::Result<Child> {
    let (name, arguments) = program.command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .envs(&program.env)
        .env(MARK_VARIABLE, program.kin.mark())
        // Ours to systemd, not a child's: it could say READY=1 or feed the watchdog for us.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    confine(&mut command);
    command.spawn()
}

/// What a child does.
#[derive(Debug)]
pub(crate) enum Happening {
    /// One line on an output.
    Said(String),
    Ended(io::Result<ExitStatus>),
}

/// A running child. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
    kin: Kin,
    lines: mpsc::Receiver<String>,
    tail: Arc<Mutex<VecDeque<String>>>,
    readers: JoinSet<()>,
}

impl Process {
    fn of(mut child: Child, kin: Kin) -> io::Result<Self> {
        let pid = child.id().ok_or_else(|| io::Error::other("the child has no process id"))?;
        let (sender, lines) = mpsc::channel(64);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = JoinSet::new();
        if let Some(out) = child.stdout.take() {
            readers.spawn(read_lines(out, sender.clone(), tail.clone()));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(read_lines(err, sender, tail.clone()));
        }
        Ok(Self { child, pid, kin, lines, tail, readers })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it says or does next; safe to cancel.
    pub(crate) async fn next(&mut self) -> Happening {
        tokio::select! {
            Some(line) = self.lines.recv() => Happening::Said(line),
            status = self.child.wait() => Happening::Ended(status),
        }
    }

    /// After its end: how it ended and its last words, for people. What it left running is killed.
    pub(crate) async fn obituary(mut self, status: ExitStatus) -> String {
        self.sweep(Duration::ZERO).await;
        // The readers only keep what they read from here on; they end when the last holder of the pipes does.
        self.lines.close();
        let _ = tokio::time::timeout(LAST_WORDS_WITHIN, async { while self.readers.join_next().await.is_some() {} }).await;
        let how = how_it_ended(status);
        match last_words(&self.tail.lock().unwrap_or_else(PoisonError::into_inner)) {
            Some(words) => format!("{how}: {words}"),
            None => format!("{how} without a word"),
        }
    }

    /// SIGTERM to the group, SIGKILL after `grace`; returns when all of it is gone. True: it had to be killed.
    pub(crate) async fn stop(mut self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        // What it says now interests nobody, but its pipe must not fill up.
        self.lines.close();
        self.signal(Signal::SIGTERM);
        let mut killed = false;
        if tokio::time::timeout_at(deadline, self.child.wait()).await.is_err() {
            killed = true;
            self.signal(Signal::SIGKILL);
            if tokio::time::timeout(KILL_WITHIN, self.child.wait()).await.is_err() {
                tracing::error!(
                    "process {} does not end although it was killed: the kernel holds it, most likely in a driver of a camera",
                    self.pid
                );
            }
        }
        self.sweep(deadline.saturating_duration_since(Instant::now())).await || killed
    }

    /// The group exists, and so its number belongs to nobody else, as long as the leader is not reaped.
    fn signal(&self, signal: Signal) {
        if self.child.id().is_some()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for what the leader left behind (a wrapper that forks), which got SIGTERM with the group; kills it after `grace`. True: it
    /// had to be killed.
    async fn sweep(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline && !self.kin.alive(Some(self.pid)).is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.kin.kill_all(Some(self.pid), KILL_WITHIN).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Reads until the end, or until nobody listens and it ends; cuts what is too long for a line.
async fn read_lines(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<String>, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut buffer = [0u8; 4096];
    let mut line: Vec<u8> = Vec::new();
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for byte in &buffer[..read] {
            if *byte != b'\n' && line.len() < LINE_LIMIT {
                line.push(*byte);
                continue;
            }
            keep(&mut line, &to, &tail).await;
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
    keep(&mut line, &to, &tail).await;
}

async fn keep(line: &mut Vec<u8>, to: &mpsc::Sender<String>, tail: &Mutex<VecDeque<String>>) {
    let text: String = String::from_utf8_lossy(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.clear();
    let text = without_password(text.trim());
    if text.is_empty() {
        return;
    }
    {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == KEPT_LINES {
            tail.pop_front();
        }
        tail.push_back(text.clone());
    }
    let _ = to.send(text).await;
}

fn how_it_ended(status: ExitStatus) -> String {
    if let Some(code) = status.code() {
        return format!("ended with exit code {code}");
    }
    let number = status.signal().unwrap_or_default();
    match Signal::try_from(number) {
        Ok(signal) => format!("was ended by signal {number} ({signal})"),
        Err(_) => format!("was ended by signal {number}"),
    }
}

/// The last line that Motion marked as an error, else the last line.
fn last_words(tail: &VecDeque<String>) -> Option<String> {
    let serious = |line: &&String| ["[ERR]", "[CRT]", "[ALR]", "[EMG]"].iter().any(|level| line.contains(level));
    let line = tail.iter().rev().find(serious).or_else(|| tail.back())?;
    Some(without_prefix(line).to_owned())
}

/// Motion's lines begin with thread, level and type in brackets.
pub(crate) fn without_prefix(line: &str) -> &str {
    let mut rest = line;
    while rest.starts_with('[')
        && let Some((_, after)) = rest.split_once("] ")
    {
        rest = after;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_last_error_not_the_farewell() {
        let tail = VecDeque::from([
            "[0:motion] [NTC] [ALL] Started".to_owned(),
            "[1:ml1] [ERR] [VID] vid_start: V4L2 device failed to open".to_owned(),
            "[0:motion] [NTC] [ALL] main: Motion terminating".to_owned(),
        ]);
        assert_eq!(last_words(&tail).unwrap(), "vid_start: V4L2 device failed to open");
        assert_eq!(last_words(&VecDeque::from(["a".to_owned(), "b".to_owned()])).unwrap(), "b");
        assert_eq!(last_words(&VecDeque::new()), None);
    }

    #[tokio::test]
    async fn a_child_that_talks_without_end_costs_no_memory() {
        let (sender, mut lines) = mpsc::channel(64);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let text = [vec![b'x'; 2500], b"\n\n rtsp://a:b@c \xff\x1b\n".to_vec(), b"line\n".repeat(100), b"end".to_vec()].concat();
        let reading = read_lines(&text[..], sender, tail.clone());
        let hearing = async {
            let mut heard = Vec::new();
            while let Some(line) = lines.recv().await {
                heard.push(line);
            }
            heard
        };
        let ((), heard) = tokio::join!(reading, hearing);
        assert_eq!(heard[..4].iter().map(String::len).collect::<Vec<_>>(), [1000, 1000, 500, 12]);
        assert_eq!(heard[3], "rtsp://c \u{fffd}");
        assert_eq!(heard.len(), 3 + 1 + 100 + 1);
        assert_eq!(tail.lock().unwrap().len(), KEPT_LINES);
        assert_eq!(tail.lock().unwrap().back().unwrap(), "end");
    }
}
