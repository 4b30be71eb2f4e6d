//! `dms3-node log`: what was decided and why, and who was let in and put out. `forget` takes a person out of it.

use std::time::Duration;

use anyhow::{Result, bail};
use dms3_core::coordinator::Decision;
use dms3_core::presence::{Device, Presence};
use dms3_core::time::Timestamp;

use super::ConfigArg;
use super::text::{age, clock_time, table};
use crate::config::Config;
use crate::control::ask;
use dms3_core::request::AuditEntry;
use dms3_core::request::{Answer, Request};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How far back, as in 24h or 30d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    since: Duration,
    /// Instead, when the devices of people were heard (kept for 7 days, see `sightings_for`)
    #[arg(long)]
    signs: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    /// The name as it stands (or stood) in the config
    person: String,
}

pub(super) async fn run(args: Args, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    let now = super::time_of_house(&config).await;
    if args.signs {
        return signs(&args, &config, now).await;
    }
    let Answer::Log(log) = ask(&config.control_socket(), &Request::Log { since: now - args.since }).await? else {
        bail!("the node gave an unexpected answer")
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&log)?);
        return Ok(());
    }
    if log.cut {
        println!("(older rows are left out: they are more than fit)");
    }
    let mut lines: Vec<(Timestamp, String)> = log.decisions.iter().map(|decision| (decision.at, decided(decision))).collect();
    lines.extend(log.audit.iter().map(|entry| (entry.at, noted(entry))));
    lines.sort_by_key(|(at, _)| *at);
    if lines.is_empty() {
        println!("Nothing was decided and nobody was let in or put out within {}.", age(args.since));
    }
    for (at, line) in lines {
        println!("{}  {line}", clock_time(at, now));
    }
    Ok(())
}

/// "Anna  24:da:9b:0d:53:8f  07:12 to 08:40, 88 min, 176 signs"
async fn signs(args: &Args, config: &Config, now: Timestamp) -> Result<()> {
    let Answer::Signs(heard) = ask(&config.control_socket(), &Request::Signs { since: now - args.since }).await? else {
        bail!("the node gave an unexpected answer")
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&heard)?);
        return Ok(());
    }
    if heard.is_empty() {
        println!("No device of anybody was heard within {}.", age(args.since));
    }
    let people = config.coordinator()?.presence.people();
    let learned = match ask(&config.control_socket(), &Request::Status).await? {
        Answer::House(house) => house.phones.learned,
        _ => Vec::new(),
    };
    let owner = |device: &Device| {
        let of_config = people.iter().find(|person| person.devices.contains(device)).map(|person| person.name.as_str());
        let was_learned = || learned.iter().find(|known| known.device == *device).map(|known| known.person.as_str());
        of_config.or_else(was_learned).unwrap_or("?")
    };
    let rows = heard.iter().map(|span| {
        let time = format!("{} to {}", clock_time(span.first, now), clock_time(span.last, now));
        vec![owner(&span.device).to_owned(), span.device.to_string(), time, age(span.last.since(span.first)), span.signs.to_string()]
    });
    let head = ["PERSON", "DEVICE", "HEARD", "FOR", "SIGNS"].map(str::to_owned).to_vec();
    print!("{}", table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    Ok(())
}

pub(super) async fn forget(args: ForgetArgs, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    let person = args.person.trim().to_owned();
    match ask(&config.control_socket(), &Request::Forget { person }).await? {
        Answer::Done(words) => println!("{words}"),
        other => bail!("the node gave an unexpected answer: {other:?}"),
    }
    Ok(())
}

fn decided(decision: &Decision) -> String {
    let evidence = decision.evidence.iter().map(|person| {
        let presence = match person.presence {
            Presence::Home => "home",
            Presence::Away => "away",
            Presence::Unknown => "not known",
        };
        let seen = person.last_seen.map(|seen| format!(", last seen {} before", age(decision.at.since(seen)))).unwrap_or_default();
        let how =
            person.device.as_ref().zip(person.sensor).map(|(device, sensor)| format!(": {device} {}", sensor.words())).unwrap_or_default();
        format!("\n             {}: {presence}{seen}{how}", person.name)
    });
    format!("{}: {}{}", decision.state.words(), decision.reason, evidence.collect::<String>())
}

fn noted(entry: &AuditEntry) -> String {
    let node = entry.node.map(|node| format!(" {}", node.short())).unwrap_or_default();
    format!("{}{node}: {}", entry.kind.word(), entry.detail)
}
