//! Commands of a person to the house: arm, disarm, auto, rename, revoke, pause.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dms3_core::arming::ArmState;
use dms3_core::camera::PAUSE_LIMIT;
use dms3_core::coordinator::Command;
use dms3_core::dashboard::Dashboard;
use dms3_core::roster::NodeRole;
use dms3_core::time::Timestamp;
use jiff::tz::TimeZone;

use super::ConfigArg;
use super::status::print_house;
use crate::control::ask;
use dms3_core::request::{Answer, Request};

/// A person who armed the house is told once the cameras confirmed, or after this.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(1500);

#[derive(Debug, clap::Args)]
pub(crate) struct ArmArgs {
    /// For how long, as in 2h or 90m
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "until")]
    span: Option<Duration>,
    /// Until when, as in 07:00 (the next time it is so late)
    #[arg(long, value_name = "HH:MM")]
    until: Option<jiff::civil::Time>,
    /// For the night, with people at home: no arrival ends it
    #[arg(long)]
    night: bool,
    /// For a vacation: whoever comes or goes, until a person disarms
    #[arg(long, conflicts_with = "night")]
    vacation: bool,
    /// At once, without the exit delay
    #[arg(long)]
    now: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DisarmArgs {
    /// For how long, as in 2h or 90m; without it until a person decides or the last person leaves
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "until")]
    span: Option<Duration>,
    /// Until when, as in 07:00 (the next time it is so late)
    #[arg(long, value_name = "HH:MM")]
    until: Option<jiff::civil::Time>,
    /// For guests, whom nobody knows: it stays disarmed for that time though everybody left
    #[arg(long)]
    guests: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// Its name, its id or the first letters of the id
    node: String,
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// Its name, its id or the first letters of the id
    node: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClearArgs {
    /// Its name, its id or the first letters of the id
    node: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// For how long, as in 2h (at most 12h)
    #[arg(value_name = "TIME", value_parser = humantime::parse_duration)]
    span: Duration,
}

pub(super) async fn arm(args: ArmArgs, config: &ConfigArg) -> Result<()> {
    let state = if args.night { ArmState::Night } else { ArmState::Away };
    let until = end(args.span, args.until, config).await?;
    command(config, Command::Arm { state, until, now: args.now, stays: args.vacation }).await
}

pub(super) async fn disarm(args: DisarmArgs, config: &ConfigArg) -> Result<()> {
    let until = end(args.span, args.until, config).await?;
    if args.guests && until.is_none() {
        bail!("how long do your guests stay? Say --until 23:00 or --for 4h");
    }
    command(config, Command::Disarm { until, stays: args.guests }).await
}

pub(super) async fn auto(config: &ConfigArg) -> Result<()> {
    command(config, Command::Auto).await
}

pub(super) async fn rename(args: RenameArgs, config: &ConfigArg) -> Result<()> {
    tell(config, Request::Rename { node: args.node, name: args.name }).await
}

pub(super) async fn revoke(args: RevokeArgs, config: &ConfigArg) -> Result<()> {
    tell(config, Request::Revoke { node: args.node }).await
}

pub(super) async fn clear(args: ClearArgs, config: &ConfigArg) -> Result<()> {
    tell(config, Request::Clear { node: args.node }).await
}

pub(super) async fn pause(args: PauseArgs, config: &ConfigArg) -> Result<()> {
    if args.span > PAUSE_LIMIT || args.span.is_zero() {
        bail!("a pause lasts at most 12h, so that it cannot be forgotten");
    }
    tell(config, Request::Pause { secs: Some(args.span.as_secs().max(1)) }).await
}

pub(super) async fn resume(config: &ConfigArg) -> Result<()> {
    tell(config, Request::Pause { secs: None }).await
}

async fn command(config: &ConfigArg, command: Command) -> Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    let mut request = Request::Command(command);
    let asked = Instant::now();
    loop {
        let Answer::House(house) = ask(&config.control_socket(), &request).await? else { bail!("the node gave an unexpected answer") };
        if asked.elapsed() > CONFIRMED_WITHIN || confirmed(&house) {
            print_house(&house);
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        request = Request::Status;
    }
}

/// Whether every camera that is linked has said that it obeys the state of now.
fn confirmed(house: &Dashboard) -> bool {
    let mut cameras = house.nodes.iter().filter(|node| node.role == NodeRole::Camera && node.liveness == "online");
    cameras.all(|node| node.current)
}

async fn tell(config: &ConfigArg, request: Request) -> Result<()> {
    match ask(&config.load()?.control_socket(), &request).await? {
        Answer::Done(words) => println!("{words}"),
        other => bail!("the node gave an unexpected answer: {other:?}"),
    }
    Ok(())
}

/// When it ends, by the time of the house and this machine's zone: by a clock that is years ahead, "for 2 h" would be for years.
async fn end(span: Option<Duration>, until: Option<jiff::civil::Time>, config: &ConfigArg) -> Result<Option<Timestamp>> {
    if span.is_none() && until.is_none() {
        return Ok(None);
    }
    let now = super::time_of_house(&config.load()?).await;
    if let Some(span) = span {
        return Ok(Some(now + span));
    }
    let Some(until) = until else { return Ok(None) };
    let now = jiff::Timestamp::from_millisecond(i64::try_from(now.0)?)?.to_zoned(TimeZone::system());
    Ok(Some(next(until, &now)?))
}

/// The next time that it is `until`, after `now`.
fn next(until: jiff::civil::Time, now: &jiff::Zoned) -> Result<Timestamp> {
    let mut day = now.date();
    loop {
        let at = day.to_datetime(until).to_zoned(now.time_zone().clone()).context("this day has no such time")?;
        if at > *now {
            return Ok(Timestamp(u64::try_from(at.timestamp().as_millisecond())?));
        }
        day = day.tomorrow()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_seven_is_this_morning_before_seven_and_tomorrow_after() {
        let at = |text: &str| text.parse::<jiff::Zoned>().unwrap();
        let ms = |text: &str| Timestamp(u64::try_from(at(text).timestamp().as_millisecond()).unwrap());
        let seven = jiff::civil::time(7, 0, 0, 0);
        assert_eq!(next(seven, &at("2026-11-23T06:00[UTC]")).unwrap(), ms("2026-11-23T07:00[UTC]"));
        assert_eq!(next(seven, &at("2026-11-23T07:00[UTC]")).unwrap(), ms("2026-11-24T07:00[UTC]"));
    }
}
