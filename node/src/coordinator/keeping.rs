//! Keeps the room of events: what is too old or too much goes, pictures get their thumbnails, what a crash left is swept away.

use std::time::Duration;

use anyhow::Result;
use dms3_core::coordinator::Input;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::events::Keeper;
use crate::clock::Clock;
use crate::config_text::{Size, time};
use crate::store::events::Policy;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// What a camera began to bring and did not go on with for so long goes: a camera that is gone for good must not fill the disk with halves.
const STALE: Duration = Duration::from_secs(86_400);
/// How often halves are looked for.
const SWEEP: Duration = Duration::from_secs(3600);
/// Thumbnails that are made before it is looked at the room again.
const THUMBNAILS: u32 = 50;
/// Between them: in a flood the disk and the processor are for what comes in, and thumbnails come later.
const BREATH: Duration = Duration::from_secs(2);
/// A picture that takes longer gets none; its thread goes on until it is done.
const THUMBNAIL_WITHIN: Duration = Duration::from_secs(20);

/// `[coordinator.events]`: how long what the cameras saw stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// What began longer ago goes, whether somebody saw it or not.
    #[serde(deserialize_with = "time")]
    pub max_age: Duration,
    /// Pictures and clips take no more than this: the oldest that were seen go first, then the oldest.
    pub max_size: Size,
    /// Room on the disk that is left to others.
    pub keep_free: Size,
}

impl Default for EventsConfig {
    fn default() -> Self {
        let Policy { max_age, max_bytes, keep_free_bytes } = Policy::default();
        Self { max_age, max_size: Size(max_bytes), keep_free: Size(keep_free_bytes) }
    }
}

/// Until told to stop. The rules hear (`inputs`) whether the room on the disk that is left to others can be.
pub async fn run(keeper: Keeper, config: EventsConfig, clock: Clock, inputs: mpsc::Sender<Input>, stop: CancellationToken) -> Result<()> {
    let room = keeper.room().await?;
    let media = room.media.clone();
    let all = tokio::task::spawn_blocking(move || media.list()).await??;
    let swept = room.events.discard(&room.media, &all).await?;
    if swept > 0 {
        tracing::info!("removed {swept} pictures and clips of which no event knows: a crash had left them");
    }
    let policy = Policy { max_age: config.max_age, max_bytes: config.max_size.0, keep_free_bytes: config.keep_free.0 };
    let mut swept: Option<Instant> = None;
    let mut told = None;
    loop {
        if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            swept = Some(Instant::now());
            let media = room.media.clone();
            let halves = tokio::task::spawn_blocking(move || media.drop_stale(STALE)).await??;
            if halves > 0 {
                tracing::info!("removed {halves} halves of pictures and clips with which no camera went on for a day");
            }
        }
        let short = keep(&keeper, policy, &clock, &stop).await?;
        if told.replace(short) != Some(short) {
            // The driver is gone only when the node stops.
            drop(inputs.send(Input::DiskShort(short)).await);
        }
        let more = thumbnails(&keeper, &stop).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(if more { BREATH } else { LOOK }) => {}
        }
    }
}

/// In small batches, so that nobody who keeps an event waits long. Whether less is free on the disk in the end than is to be.
async fn keep(keeper: &Keeper, policy: Policy, clock: &Clock, stop: &CancellationToken) -> Result<bool> {
    let room = keeper.room().await?;
    let (mut gone, mut why, mut short) = (0, None, false);
    while !stop.is_cancelled() {
        let free = room.media.free().unwrap_or(u64::MAX);
        short = free < policy.keep_free_bytes;
        // A clock that jumps makes nothing old.
        let removed = room.events.retention(policy, clock.certain(), free).await?;
        let Some(first) = removed.first() else { break };
        why = Some(first.why);
        gone += removed.len();
        for event in &removed {
            room.events.discard(&room.media, &event.unneeded).await?;
        }
    }
    if let Some(why) = why {
        tracing::info!("removed {gone} events with their pictures and clips ({})", why.word());
        keeper.changed();
    }
    Ok(short)
}

/// Whether there are more to be made.
async fn thumbnails(keeper: &Keeper, stop: &CancellationToken) -> Result<bool> {
    let room = keeper.room().await?;
    let wanting = room.events.without_thumbnail(THUMBNAILS).await?;
    for hash in &wanting {
        if stop.is_cancelled() {
            return Ok(false);
        }
        let (media, own) = (room.media.clone(), *hash);
        let make = move || {
            #[cfg(debug_assertions)]
            crate::failpoint::here("thumbnails");
            media.make_thumbnail(&own)
        };
        let made = match tokio::time::timeout(THUMBNAIL_WITHIN, tokio::task::spawn_blocking(make)).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(error))) => {
                tracing::debug!("a picture has no thumbnail: {error:#}");
                false
            }
            // It panicked, or takes for ever.
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("a picture has no thumbnail: it took too long, or brought its decoder down");
                false
            }
        };
        room.events.thumbnail_tried(*hash, made).await?;
    }
    if !wanting.is_empty() {
        keeper.changed();
    }
    Ok(wanting.len() == THUMBNAILS as usize)
}
