//! `dms3-node presence`: which devices are on the network, so that a user finds the phone to write into the config.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, bail};
use dms3_core::presence::{Frames, MacAddr, Sensor};
use dms3_core::time::{Mono, Timestamp, duration_words};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use super::ConfigArg;
use crate::clock::Clock;
use crate::coordinator::presence::crowds::Crowds;
use crate::coordinator::presence::senses::{Heard, Sensed, Senses};
use crate::coordinator::presence::sight::Sight;

mod learn;

const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Shows the devices on the network, live; needs no config
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// One JSON object a line, for each device and for each new address of one; with --for, at the end each once more with its age_ms
    #[arg(long)]
    json: bool,
    /// Ends after this time, for example 10s; else at Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    /// Looks only on this interface, for example eth0
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// On the coordinator: teach the house a phone of somebody
    Learn(learn::LearnArgs),
    /// On the coordinator: a phone that the house was taught is nobody's any more
    Forget(learn::ForgetArgs),
}

pub async fn run(args: Args, config: &ConfigArg) -> Result<()> {
    match args.action {
        Some(Action::Learn(args)) => return learn::learn(args, config).await,
        Some(Action::Forget(args)) => return learn::forget(args, config).await,
        None => {}
    }
    let clock = Clock::unkept();
    let mut senses = Senses::open(args.interface.into_iter().collect()).await?;
    if let Some(Some(why)) = Sight::new(clock.now().mono).change(senses.links(), senses.wanted(), clock.now().mono) {
        bail!("there is nothing to look at: {why}");
    }
    if let Some(why) = senses.handicap() {
        eprintln!(
            "Without the right to send and hear ARP and neighbour discovery ({why}) devices are found only by way of the kernel, which is slower and may miss some. \
             For a full view: sudo dms3-node presence"
        );
    }
    let mut shown = Shown {
        clock,
        gateways: Vec::new(),
        has_ipv4: senses.links().iter().any(|link| link.has_ipv4()),
        devices: BTreeMap::new(),
        crowds: Crowds::default(),
        how: match args.json {
            true => How::Json,
            false if std::io::stdout().is_terminal() => How::Table,
            false => How::Lines,
        },
    };
    shown.gateways = gateways(&senses);
    match show(&mut senses, &mut shown, args.span).await {
        // Whoever read this has seen enough.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) => Ok(()),
        ended => ended,
    }
}

async fn show(senses: &mut Senses, shown: &mut Shown, span: Option<Duration>) -> Result<()> {
    let started = Instant::now();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut redraw = tokio::time::interval(Duration::from_secs(1));
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for held in senses.held().await? {
        shown.heard(held)?;
    }
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            () = async {
                match span {
                    Some(span) => tokio::time::sleep_until(started + span).await,
                    None => std::future::pending().await,
                }
            } => return shown.finish(senses.frames()),
            _ = sweep.tick() => {
                if !senses.sweep() && shown.has_ipv4 {
                    eprintln!("The addresses of this network cannot be asked one by one: devices show when they say something.");
                }
            }
            _ = redraw.tick() => shown.draw()?,
            sensed = senses.next() => match sensed? {
                Sensed::Heard(heard) | Sensed::Named(heard, _) => shown.heard(heard)?,
                Sensed::Links => shown.gateways = gateways(senses),
                Sensed::Swept { .. } | Sensed::Answers(_) => {}
            },
        }
    }
}

fn gateways(senses: &Senses) -> Vec<IpAddr> {
    senses.links().iter().flat_map(|link| [link.gateway.map(IpAddr::from), link.gateway6.map(IpAddr::from)]).flatten().collect()
}

enum How {
    Table,
    Lines,
    Json,
}

struct Shown {
    clock: Clock,
    how: How,
    gateways: Vec<IpAddr>,
    has_ipv4: bool,
    devices: BTreeMap<MacAddr, Row>,
    crowds: Crowds,
}

struct Row {
    ip: Option<Ipv4Addr>,
    /// The first that it had: others come and go.
    ip6: Option<Ipv6Addr>,
    sensor: Sensor,
    seen: Mono,
    at: Timestamp,
}

impl Shown {
    fn heard(&mut self, heard: Heard) -> Result<()> {
        let now = self.clock.now();
        let before = self.devices.get(&heard.mac).map(|row| (row.ip, row.ip6));
        let (mut ip, mut ip6) = before.unwrap_or_default();
        match heard.ip {
            Some(IpAddr::V4(said)) => {
                ip = Some(said);
                self.crowds.heard(heard.mac, said, now.mono);
            }
            Some(IpAddr::V6(said)) => ip6 = ip6.or(Some(said)),
            None => {}
        }
        self.devices.insert(heard.mac, Row { ip, ip6, sensor: heard.sensor, seen: now.mono, at: now.at });
        match self.how {
            _ if before == Some((ip, ip6)) => Ok(()),
            How::Table => self.draw(),
            How::Lines | How::Json => self.append(heard.mac),
        }
    }

    fn append(&self, mac: MacAddr) -> Result<()> {
        let Some(row) = self.devices.get(&mac) else { return Ok(()) };
        let mut out = std::io::stdout().lock();
        match self.how {
            How::Json => writeln!(out, "{}", self.object(mac, row))?,
            How::Lines | How::Table => writeln!(out, "{}", self.line(mac, row, ""))?,
        }
        Ok(out.flush()?)
    }

    /// All that was found, with the age of each sighting.
    fn finish(&self, frames: Frames) -> Result<()> {
        if matches!(self.how, How::Table) {
            return self.draw();
        }
        let now = self.clock.now().mono;
        let mut out = std::io::stdout().lock();
        if matches!(self.how, How::Lines) {
            writeln!(out, "\n{} devices in all:", self.devices.len())?;
        }
        for (mac, row) in &self.devices {
            let age = now.since(row.seen);
            if matches!(self.how, How::Json) {
                let mut object = self.object(*mac, row);
                object["age_ms"] = json!(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                writeln!(out, "{object}")?;
            } else {
                writeln!(out, "{}", self.line(*mac, row, &format!("{} ago", duration_words(age))))?;
            }
        }
        if matches!(self.how, How::Lines) {
            writeln!(out, "{} frames were sent to look for them.", frames.total())?;
        }
        Ok(out.flush()?)
    }

    fn object(&self, mac: MacAddr, row: &Row) -> serde_json::Value {
        json!({
            "mac": mac.to_string(),
            "ip": row.ip,
            "ip6": row.ip6,
            "machines_behind_it": self.crowds.hosts_behind(mac, self.clock.now().mono).max(1),
            "private_address": mac.is_private(),
            "gateway": self.is_gateway(row),
            "sensor": row.sensor,
            "seen_ms": row.at.0,
        })
    }

    /// The whole list anew, on a terminal.
    fn draw(&self) -> Result<()> {
        if !matches!(self.how, How::Table) {
            return Ok(());
        }
        let now = self.clock.now().mono;
        let mut rows: Vec<_> = self.devices.iter().collect();
        rows.sort_by_key(|(mac, row)| (row.ip.is_none(), row.ip, row.ip6, **mac));
        // Home, then clear what was there.
        let mut text = String::from("\x1b[H\x1b[J");
        text.push_str(&format!("{} devices on the network. To find a phone, switch its Wi-Fi off and on. Ctrl-C ends.\n\n", rows.len()));
        for (mac, row) in rows {
            let age = format!("{} ago", duration_words(now.since(row.seen)));
            text.push_str(&self.line(*mac, row, &age));
            text.push('\n');
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    fn line(&self, mac: MacAddr, row: &Row, age: &str) -> String {
        let ip = row.ip.map(IpAddr::from).or(row.ip6.map(IpAddr::from)).map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        let hosts = self.crowds.hosts_behind(mac, self.clock.now().mono);
        let crowd = format!("{hosts} machines behind it (an extender?): not to be written into the config");
        let mut notes = Vec::new();
        if hosts > 1 {
            notes.push(crowd.as_str());
        }
        if self.is_gateway(row) {
            notes.push("the gateway");
        }
        if mac.is_private() {
            notes.push("private address: switch that off for this network on the device");
        }
        let age = if age.is_empty() { String::new() } else { format!("{age:<12}") };
        format!("{mac}  {ip:<15}  {age}{:<24} {}", row.sensor.words(), notes.join("; ")).trim_end().to_owned()
    }

    fn is_gateway(&self, row: &Row) -> bool {
        let ips = [row.ip.map(IpAddr::from), row.ip6.map(IpAddr::from)];
        ips.iter().flatten().any(|ip| self.gateways.contains(ip))
    }
}
