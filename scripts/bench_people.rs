//! A week of signs of four people's phones, as the coordinator keeps it: what that takes of disk and memory, for `scripts/bench`.

use std::path::Path;

use anyhow::{Context as _, Result};
use dms3_core::presence::{Device, MacAddr};
use dms3_core::time::Timestamp;
use dms3_node::coordinator::sightings::{Sightings, WRITE_EVERY};
use dms3_node::store::{STORE_FILE, Store};

const PHONES: u8 = 4;
const DAY: u64 = 86_400;
/// A phone that is home says something each half a minute, but for one time in sixteen, when it sleeps so long that it seems gone: more often
/// than phones do, as each such silence is a row.
const SPEAKS_EVERY: u64 = 30;
const SLEEPS_FOR: u64 = 360;
const OUT: std::ops::Range<u64> = 28_800..64_800;

/// Writes a line: bytes that the file of the store grew by, of memory (kB) that the process did, and rows.
pub(crate) async fn week(dir: &Path) -> Result<()> {
    let size = || anyhow::Ok(std::fs::metadata(dir.join(STORE_FILE))?.len());
    Store::create(dir).await?.close().await;
    let (before, store) = (size()?, Store::open(dir).await?);
    let memory = resident_kib()?;
    let mut sightings = Sightings::default();
    let start = Timestamp::from_secs(1_795_000_000);
    let mut next = [0; PHONES as usize];
    // Of the same week each time.
    let mut chance: u32 = 1;
    for second in 0..7 * DAY {
        for (phone, due) in (0..PHONES).zip(&mut next) {
            if *due > second || OUT.contains(&(second % DAY)) {
                continue;
            }
            let at = start + std::time::Duration::from_secs(second);
            sightings.saw(&Device::Mac(MacAddr([0x24, 0xda, 0x9b, 0, 0, phone])), at);
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *due = second + if chance >> 28 == 0 { SLEEPS_FOR } else { SPEAKS_EVERY };
        }
        if second % WRITE_EVERY.as_secs() == 0 {
            store.heard(&sightings.take()).await?;
        }
    }
    let memory = resident_kib()?.saturating_sub(memory);
    let rows = store.heard_since(start).await?.len();
    store.close().await;
    crate::say(&format!("{} {memory} {rows}", size()?.saturating_sub(before)));
    Ok(())
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}
