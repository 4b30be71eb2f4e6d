//! Finds our own children again, by a mark in their environment or by process id and start time, so that none outlives a crashed node and
//! a stranger's process is never touched.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use dms3_pki::files::{PRIVATE, write_atomic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often we look again whether what was killed is gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The environment variable that holds the mark. It survives exec, fork and new sessions, unlike everything else.
pub(crate) const MARK_VARIABLE: &str = "DMS3_DETECTOR";

/// By what the processes of one detector are known. Hooks, which Motion runs in sessions of their own, carry the mark too and are left
/// alone: they may be handing over the last clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kin {
    /// A random word that only processes which we started carry in their environment.
    mark: String,
    /// An argument that the detector itself has on its command line: the path of its config file.
    argument: String,
}

impl Kin {
    pub(crate) fn new(argument: &str) -> Self {
        Self { mark: format!("{:032x}", rand::random::<u128>()), argument: argument.to_owned() }
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// A text that is not one of our own words could match a stranger.
    fn is_valid(&self) -> bool {
        self.mark.len() == 32 && self.mark.bytes().all(|b| b.is_ascii_hexdigit()) && !self.argument.is_empty()
    }

    /// The living processes that are of the detector: in the process group of `leader`, or anywhere with its argument.
    pub(crate) fn alive(&self, leader: Option<u32>) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| self.has(*pid, leader)).collect()
    }

    /// SIGKILL to all of them, until none is left. True: there was one.
    pub(crate) async fn kill_all(&self, leader: Option<u32>, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut any = false;
        loop {
            let left = self.alive(leader);
            if left.is_empty() || Instant::now() > deadline {
                return any;
            }
            any = true;
            for pid in left {
                signal(pid, Signal::SIGKILL);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn has(&self, pid: u32, leader: Option<u32>) -> bool {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
        let wanted = format!("{MARK_VARIABLE}={}", self.mark);
        if !environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            return false;
        }
        let Some(stat) = stat(pid).filter(|stat| !stat.dead) else { return false };
        let arguments = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some(stat.group) == leader || arguments().split(|byte| *byte == 0).any(|argument| argument == self.argument.as_bytes())
    }
}

/// What is kept on disk about a source's child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) kin: Kin,
    /// The child of this node run, once there is one.
    pub(crate) child: Option<ChildRecord>,
}

/// A process id means nothing without the time at which that process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChildRecord {
    pub(crate) pid: u32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat, proc_pid_stat(5)).
    pub(crate) started: u64,
}

impl Record {
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        Ok(write_atomic(file, &serde_json::to_vec(self)?, PRIVATE)?)
    }

    /// `None` if there is none, or it cannot be read (then nothing is known to be ours, and nothing is touched).
    fn load(file: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        record.kin.is_valid().then_some(record)
    }
}

/// Notes the child that was just started.
pub(crate) fn child_record(pid: u32) -> Option<ChildRecord> {
    Some(ChildRecord { pid, started: stat(pid)?.started })
}

/// Ends what a crashed run of this node left behind, as its record tells. Gives the number of processes that were ended.
pub(crate) async fn clean_up(file: &Path, within: Duration) -> usize {
    let Some(record) = Record::load(file) else { return 0 };
    let leader = record.child.map(|child| child.pid);
    let mut left = record.kin.alive(leader);
    // A program with capabilities of its own does not show its environment: then id and start time tell.
    if let Some(child) = record.child
        && child_record(child.pid) == Some(child)
        && !left.contains(&child.pid)
    {
        left.push(child.pid);
        signal(child.pid, Signal::SIGKILL);
    }
    record.kin.kill_all(leader, within).await;
    left.len()
}

fn signal(pid: u32, what: Signal) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        let _ = kill(Pid::from_raw(pid), what);
    }
}

struct Stat {
    group: u32,
    started: u64,
    dead: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    // `state` is field 3, `pgrp` field 5, `starttime` field 22 (proc_pid_stat(5)).
    let group = fields.nth(1)?.parse().ok()?;
    Some(Stat { group, started: fields.nth(16)?.parse().ok()?, dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let me = child_record(std::process::id()).unwrap();
        assert_eq!(child_record(me.pid), Some(me));
        assert!(me.started > 0);
        assert_eq!(child_record(u32::MAX), None);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_ends_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("process");
        assert_eq!(clean_up(&file, Duration::ZERO).await, 0);
        let me = std::process::id();
        for text in [
            String::new(),
            "{".to_owned(),
            format!(r#"{{"kin":{{"mark":"","argument":"x"}},"child":{{"pid":{me},"started":1}}}}"#),
            format!(r#"{{"kin":{{"mark":"{}","argument":"x"}},"child":{{"pid":{me},"started":1}}}}"#, "0".repeat(32)),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(clean_up(&file, Duration::ZERO).await, 0);
        }
    }
}
