//! How this machine is: what a node says of itself at Hello, and every half minute after.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use dms3_core::health::Machine;
use dms3_core::protocol::message::{HealthV1, OutboxV1};
use dms3_core::time::{Mono, Now};
use nix::sys::statvfs::statvfs;
use tokio_util::sync::CancellationToken;

/// How often it is sampled (design 6).
const EVERY: Duration = Duration::from_secs(30);
/// Where a Pi, and most machines, tell the temperature of the processor, in thousandths of a degree Celsius.
const TEMPERATURE: &str = "sys/class/thermal/thermal_zone0/temp";
const MONITORS: &str = "sys/class/hwmon";
/// Longest fact in Hello, in characters: what a machine calls itself is not ours to trust.
const FACT_LIMIT: usize = 64;

/// What the files of the machine do not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// [`HealthV1::unknown_frames`].
    pub unknown_frames: u64,
    pub outbox: OutboxV1,
    /// [`HealthV1::mails`].
    pub mails: bool,
    /// [`HealthV1::spool`].
    pub spool: u64,
}

/// Samples at once and then every 30 s, until `stop`. What cannot be read is zero or absent: no health is no reason to fail.
pub async fn run(
    mut tell: impl FnMut(HealthV1) + Send,
    now: impl Fn() -> Now + Send,
    state_dir: PathBuf,
    counted: impl Fn() -> Counted + Send,
    stop: CancellationToken,
) -> Result<()> {
    let started = now().mono;
    loop {
        tell(sample(Path::new("/"), &state_dir, started, now(), counted()));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Read once, at the start.
pub fn facts() -> Machine {
    let names = nix::sys::utsname::uname().ok();
    let name = |part: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        names.as_ref().map_or_else(|| "unknown".to_owned(), |names| short(&part(names).to_string_lossy()))
    };
    Machine {
        hostname: name(|names| names.nodename()),
        os: os_of(&fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release")).unwrap_or_default()),
        platform: format!("{} {}", name(|names| names.sysname()).to_lowercase(), name(|names| names.machine())),
        kernel: name(|names| names.release()),
    }
}

/// os-release(5): ID and VERSION_ID, in lower case; without them what PRETTY_NAME says.
fn os_of(release: &str) -> String {
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches(['"', '\'']).to_lowercase()).filter(|text| !text.is_empty())
    };
    match (value("ID"), value("VERSION_ID")) {
        (Some(id), Some(version)) => short(&format!("{id} {version}")),
        (Some(id), None) => short(&id),
        (None, _) => value("PRETTY_NAME").map_or_else(|| "unknown".to_owned(), |name| short(&name)),
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(FACT_LIMIT).collect()
}

fn sample(root: &Path, state_dir: &Path, started: Mono, now: Now, counted: Counted) -> HealthV1 {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let memory = read("proc/meminfo");
    let (disk_total_mib, disk_free_mib) = disk_mib(state_dir).unwrap_or_default();
    HealthV1 {
        at: now.at,
        node_uptime: now.mono.since(started).as_secs(),
        machine_uptime: read("proc/uptime").split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        cpu_millicelsius: read(TEMPERATURE).trim().parse().ok(),
        load_centi: hundredths(read("proc/loadavg").split(' ').next().unwrap_or_default()),
        mem_total_kib: kib(&memory, "MemTotal:"),
        mem_available_kib: kib(&memory, "MemAvailable:"),
        disk_total_mib,
        disk_free_mib,
        unknown_frames: counted.unknown_frames,
        clock_trusted: now.trusted,
        outbox: counted.outbox,
        mails: counted.mails,
        under_voltage: under_voltage(root),
        spool: counted.spool,
    }
}

/// A Pi tells it by the alarm of its hardware monitor `rpi_volt` (drivers/hwmon/raspberrypi-hwmon.c in Linux): 1 while it is below 4.63 V.
fn under_voltage(root: &Path) -> Option<bool> {
    let monitors = fs::read_dir(root.join(MONITORS)).ok()?.flatten().map(|entry| entry.path());
    let mut volts = monitors.filter(|monitor| fs::read_to_string(monitor.join("name")).is_ok_and(|name| name.trim() == "rpi_volt"));
    let alarm = fs::read_to_string(volts.next()?.join("in0_lcrit_alarm")).ok()?;
    Some(alarm.trim() == "1")
}

/// proc_meminfo(5): "MemTotal:       16303428 kB".
fn kib(memory: &str, key: &str) -> u64 {
    let rest = memory.lines().find_map(|line| line.strip_prefix(key));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// proc_loadavg(5): "0.52".
fn hundredths(text: &str) -> u32 {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let part: u32 = format!("{part:0<2}").get(..2).and_then(|two| two.parse().ok()).unwrap_or(0);
    whole.parse::<u32>().unwrap_or(0).saturating_mul(100).saturating_add(part)
}

/// Total, and free for us rather than for root, of the file system that holds our state.
fn disk_mib(path: &Path) -> Option<(u64, u64)> {
    let disk = statvfs(path).ok()?;
    // The width of these fields depends on the platform.
    #[allow(clippy::unnecessary_cast)]
    let mib = |blocks: nix::libc::fsblkcnt_t| (blocks as u64).saturating_mul(disk.fragment_size() as u64) >> 20;
    Some((mib(disk.blocks()), mib(disk.blocks_available())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dms3_core::time::Timestamp;

    fn now() -> Now {
        Now { at: Timestamp(5), mono: Mono(90_000), trusted: true }
    }

    #[test]
    fn a_pi_is_told_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("proc/uptime", "350735.47 234388.90\n"),
            ("proc/loadavg", "1.07 0.80 0.50 1/80 4321\n"),
            ("proc/meminfo", "MemTotal:         437820 kB\nMemFree:  1 kB\nMemAvailable:     301234 kB\n"),
            (TEMPERATURE, "51540\n"),
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let health =
            sample(dir.path(), dir.path(), Mono(30_000), now(), Counted { unknown_frames: 7, mails: true, spool: 3, ..Counted::default() });
        assert_eq!((health.node_uptime, health.machine_uptime), (60, 350_735));
        assert_eq!((health.cpu_millicelsius, health.load_centi), (Some(51_540), 107));
        assert_eq!((health.mem_total_kib, health.mem_available_kib), (437_820, 301_234));
        assert!(health.disk_total_mib > 0 && health.disk_free_mib <= health.disk_total_mib);
        assert_eq!((health.unknown_frames, health.mails, health.at, health.clock_trusted), (7, true, Timestamp(5), true));
        assert_eq!((health.under_voltage, health.spool), (Some(true), 3));
        fs::write(dir.path().join("sys/class/hwmon/hwmon1/in0_lcrit_alarm"), "0\n").unwrap();
        assert_eq!(under_voltage(dir.path()), Some(false));
    }

    #[test]
    fn a_machine_that_tells_nothing_is_still_reported() {
        let dir = tempfile::tempdir().unwrap();
        let health = sample(dir.path(), &dir.path().join("none"), Mono(0), now(), Counted::default());
        assert_eq!((health.cpu_millicelsius, health.mem_total_kib, health.disk_total_mib, health.load_centi), (None, 0, 0, 0));
        assert_eq!(health.under_voltage, None);
    }

    #[test]
    fn the_system_is_named_with_its_version_if_it_has_one() {
        for (release, os) in [
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=\"12\"\n", "debian 12"),
            ("ID=arch\nVERSION_IDX=3\n", "arch"),
            ("PRETTY_NAME='My Own'\n", "my own"),
            ("", "unknown"),
        ] {
            assert_eq!(os_of(release), os);
        }
    }

    #[test]
    fn the_facts_of_this_machine_are_short_texts() {
        let facts = facts();
        assert!(facts.platform.starts_with("linux "), "{facts:?}");
        for fact in [facts.hostname, facts.os, facts.platform, facts.kernel] {
            assert!(!fact.is_empty() && fact.chars().count() <= 2 * FACT_LIMIT && !fact.contains('\n'));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn health_is_sampled_at_once_and_every_half_minute() {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let counted = || Counted { unknown_frames: 3, ..Counted::default() };
        let sampling = run(move |health| sender.send(health).unwrap(), now, "/".into(), counted, stop.clone());
        let reading = async {
            let began = tokio::time::Instant::now();
            for _ in 0..3 {
                assert_eq!(receiver.recv().await.unwrap().unknown_frames, 3);
            }
            assert_eq!(began.elapsed(), EVERY * 2);
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(sampling, reading);
        ended.unwrap();
    }
}
