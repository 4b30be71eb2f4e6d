//! `dms3-node presence learn`: finds somebody's phone by switching its Wi-Fi off and on, and teaches it to the house.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::presence::{Device, MacAddr, Sensor};
use dms3_core::request::{Answer, Request};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};
use tokio::time::Instant;

use crate::commands::ConfigArg;
use crate::config::Config;
use crate::control::ask;
use crate::coordinator::presence::senses::{Heard, Sensed, Senses};

/// After the last question of a sweep, answers are waited for so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A phone that comes back says something at once, or answers one of these.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Nobody waits for a phone for ever.
const GIVE_UP: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(super) struct LearnArgs {
    /// Whose phone it is, as the config calls them
    person: String,
    /// Its MAC address, or a Bluetooth address as in bt:24:da:9b:0d:53:8f, where it is known: nothing is asked
    #[arg(long, value_name = "ADDRESS", value_parser = Device::parse_address)]
    device: Option<Device>,
    /// Looks only on this interface, for example eth0
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ForgetArgs {
    /// The address of the phone, for example 24:da:9b:0d:53:8f, or bt:24:da:9b:0d:53:8f by Bluetooth
    #[arg(value_name = "ADDRESS", value_parser = Device::parse_address)]
    device: Device,
}

pub(super) async fn learn(args: LearnArgs, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    let presence = &config.coordinator()?.presence;
    let person = args.person.trim().to_owned();
    let names: Vec<String> = presence.people().into_iter().map(|known| known.name).collect();
    ensure!(names.contains(&person), "nobody called {person:?} lives here, by {}: {}", config.path.display(), names.join(", "));
    let device = match args.device {
        Some(device) => device,
        None => {
            let wanted = args.interface.map_or_else(|| presence.interfaces.clone(), |name| vec![name]);
            Device::Mac(Box::pin(find(&person, wanted)).await?)
        }
    };
    tell(&config, Request::Learn { person, device }).await
}

pub(super) async fn forget(args: ForgetArgs, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    tell(&config, Request::Unlearn { device: args.device }).await
}

async fn tell(config: &Config, request: Request) -> Result<()> {
    match ask(&config.control_socket(), &request).await? {
        Answer::Done(words) => println!("{words}"),
        other => bail!("the node gave an unexpected answer: {other:?}"),
    }
    Ok(())
}

/// Asks whoever sits here to switch the phone's Wi-Fi off and on, and which of those that came it is.
async fn find(person: &str, wanted: Vec<String>) -> Result<MacAddr> {
    let mut senses = Senses::open(wanted).await?;
    if let Some(why) = senses.handicap() {
        bail!("a phone cannot be looked for without the right to send and hear ARP ({why}): sudo dms3-node presence learn {person}");
    }
    let mut typed = BufReader::new(tokio::io::stdin()).lines();
    say(&format!("Switch the Wi-Fi of {person}'s phone off, wait until its symbol is gone, then press Enter: "))?;
    line(&mut typed).await?;
    let there = Box::pin(who_is_there(&mut senses)).await?;
    say(&format!(
        "{} devices are here without it. Now switch its Wi-Fi on again. What comes is shown here; type the number of the phone and press Enter.\n",
        there.len()
    ))?;
    Box::pin(which_came(&mut senses, &there, &mut typed)).await
}

/// Everybody who answers now. What the kernel still believes does not count: it may be the phone.
async fn who_is_there(senses: &mut Senses) -> Result<BTreeSet<MacAddr>> {
    let mut there = BTreeSet::new();
    ensure!(senses.sweep(), "the addresses of this network cannot be asked one by one: use --device with the address that the phone shows");
    let mut until = Instant::now() + GIVE_UP;
    while let Ok(sensed) = tokio::time::timeout_at(until, senses.next()).await {
        match sensed? {
            Sensed::Heard(heard) | Sensed::Named(heard, _) if heard.sensor != Sensor::Neighbour => {
                there.insert(heard.mac);
            }
            Sensed::Swept { .. } => until = Instant::now() + ANSWER_WITHIN,
            _ => {}
        }
    }
    Ok(there)
}

async fn which_came(senses: &mut Senses, there: &BTreeSet<MacAddr>, typed: &mut Lines<BufReader<Stdin>>) -> Result<MacAddr> {
    let mut came = Came::default();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let give_up = Instant::now() + GIVE_UP;
    loop {
        tokio::select! {
            // Not all networks can be asked: whoever comes says something.
            _ = sweep.tick() => {
                senses.sweep();
            }
            sensed = senses.next() => if let Sensed::Heard(heard) | Sensed::Named(heard, _) = sensed?
                && heard.sensor != Sensor::Neighbour
                && !there.contains(&heard.mac)
                && let Some(line) = came.heard(&heard)
            {
                say(&format!("{line}\n"))?;
            },
            line = line(typed) => match came.chosen(&line?) {
                Ok(mac) => return Ok(mac),
                Err(why) => say(&format!("{why}\n"))?,
            },
            () = tokio::time::sleep_until(give_up) => bail!("no phone was chosen"),
        }
    }
}

/// Cancel safe.
async fn line(typed: &mut Lines<BufReader<Stdin>>) -> Result<String> {
    typed.next_line().await?.context("nobody answers: run this at a terminal, or give --device with the address that the phone shows")
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Devices that came, in that order.
#[derive(Debug, Default)]
struct Came {
    order: VecDeque<MacAddr>,
    addresses: BTreeMap<MacAddr, BTreeSet<Ipv4Addr>>,
}

impl Came {
    /// The line that tells of it, if it is new or more is known of it.
    fn heard(&mut self, heard: &Heard) -> Option<String> {
        let is_new = !self.order.contains(&heard.mac);
        if is_new {
            self.order.push_back(heard.mac);
        }
        let addresses = self.addresses.entry(heard.mac).or_default();
        let grew = match heard.ip {
            Some(IpAddr::V4(ip)) => addresses.insert(ip),
            _ => false,
        };
        (is_new || grew).then(|| self.line(heard.mac))
    }

    fn line(&self, mac: MacAddr) -> String {
        let number = self.order.iter().position(|known| *known == mac).map_or(0, |place| place + 1);
        let addresses = self.addresses.get(&mac).into_iter().flatten();
        let words: Vec<String> = addresses.clone().map(Ipv4Addr::to_string).collect();
        let mut line = format!("{number:>3}  {mac}  {}", if words.is_empty() { "-".to_owned() } else { words.join(", ") });
        if mac.is_private() {
            line.push_str("  private address: the phone may make up another; \"fixed\" or \"off\" for this network is better");
        }
        if words.len() > 1 {
            line.push_str(&format!("  {} machines behind it (an extender?)", words.len()));
        }
        line
    }

    fn chosen(&self, typed: &str) -> Result<MacAddr, String> {
        let number: usize = typed.trim().parse().map_err(|_| "Type the number that stands before the phone.".to_owned())?;
        let place = number.checked_sub(1).and_then(|place| self.order.get(place));
        place.copied().ok_or_else(|| format!("There is no number {number} yet."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_numbered_and_told_with_what_is_odd_about_it() {
        let mut came = Came::default();
        let heard = |n: u8, first: u8, ip: Option<u8>| Heard {
            mac: MacAddr([first, 0xda, 0x9b, 0, 0, n]),
            ip: ip.map(|ip| IpAddr::from([192, 168, 1, ip])),
            sensor: Sensor::ArpHeard,
            interface: 2,
        };
        assert_eq!(came.heard(&heard(1, 0x24, None)).unwrap(), "  1  24:da:9b:00:00:01  -");
        assert_eq!(came.heard(&heard(1, 0x24, Some(20))).unwrap(), "  1  24:da:9b:00:00:01  192.168.1.20");
        assert_eq!(came.heard(&heard(1, 0x24, Some(20))), None);
        assert!(came.heard(&heard(2, 0xda, Some(30))).unwrap().contains("private address"));
        let extender = came.heard(&heard(1, 0x24, Some(21))).unwrap();
        assert!(extender.ends_with("2 machines behind it (an extender?)"), "{extender}");
        assert_eq!(came.chosen(" 2 ").unwrap(), MacAddr([0xda, 0xda, 0x9b, 0, 0, 2]));
        assert_eq!(came.chosen("3").unwrap_err(), "There is no number 3 yet.");
        for nonsense in ["0", "-1", "", "phone"] {
            came.chosen(nonsense).unwrap_err();
        }
    }
}
