//! `dms3-node status`: what holds now, why, and whether every camera obeys.

use std::io::IsTerminal as _;

use anyhow::{Result, bail};
use dms3_core::dashboard::{Dashboard, Missing};
use dms3_core::presence::Presence;
use dms3_core::roster::{NodeRole, NodeStatus};
use dms3_core::time::Timestamp;

use super::ConfigArg;
use super::text::{age, clock_time};
use crate::clock;
use crate::config_text::Size;
use crate::control::{Answer, CameraStatus, Request, ask};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, config: &ConfigArg) -> Result<()> {
    match ask(&config.load()?.control_socket(), &Request::Status).await? {
        Answer::House(house) if args.json => println!("{}", serde_json::to_string_pretty(&house)?),
        Answer::Camera(camera) if args.json => println!("{}", serde_json::to_string_pretty(&camera)?),
        Answer::House(house) => print_house(&house, clock::wall()),
        Answer::Camera(camera) => print_camera(&camera),
        other => bail!("the node gave an unexpected answer: {other:?}"),
    }
    Ok(())
}

pub(super) fn print_house(house: &Dashboard, now: Timestamp) {
    let until = house.override_until.map(|until| format!(" Until {}.", clock_time(until, now))).unwrap_or_default();
    println!(
        "{} since {}: {}.{until} {}",
        house.state.words(),
        clock_time(house.since, now),
        house.reason,
        watching(house, now, std::io::stdout().is_terminal())
    );
    if let Some((state, at)) = house.pending {
        println!("{} in {} s: leave now.", state.words(), at.since(now).as_secs());
    }
    for problem in &house.problems {
        println!("! {problem}");
    }
    for person in &house.people {
        let seen = person.last_seen.map(|seen| format!(", last seen {} ago", age(now.since(seen)))).unwrap_or_default();
        let presence = match person.presence {
            Presence::Home => "home",
            Presence::Away => "away",
            Presence::Unknown => "not known yet",
        };
        println!("  {}: {presence}{seen}", person.name);
    }
    for note in &house.notes {
        println!("{note}");
    }
}

/// "2 of 2 watching.", or who does not and why.
pub(super) fn watching(house: &Dashboard, now: Timestamp, colours: bool) -> String {
    let (should, missing) = house.watch();
    if should == 0 {
        let cameras = house.nodes.iter().filter(|node| node.role == NodeRole::Camera);
        let active = cameras.filter(|node| node.status == NodeStatus::Active).count();
        return match (house.state.is_armed(), active) {
            (_, 0) => "No camera yet: pair one with `dms3-node token new`.".to_owned(),
            (true, _) => "No camera is to watch.".to_owned(),
            (false, _) => "No camera watches.".to_owned(),
        };
    }
    let count = format!("{} of {should} watching", should - missing.len());
    if missing.is_empty() {
        return format!("{count}.");
    }
    let names: Vec<_> = missing.iter().map(|one| format!("{}: {}", one.name(), why(one, now))).collect();
    let text = format!("{count} ({}).", names.join("; "));
    if colours { format!("\x1b[31m{text}\x1b[0m") } else { text }
}

/// Why it is not seen to watch.
fn why(one: &Missing<'_>, now: Timestamp) -> String {
    match (one.node.liveness.as_str(), one.node.last_contact) {
        ("online", _) if one.detector.detail.is_empty() => one.detector.phase.clone(),
        ("online", _) => format!("{}, {}", one.detector.phase, one.detector.detail.trim_end_matches('.')),
        ("never seen", _) => "never linked yet".to_owned(),
        (_, Some(last)) => format!("not linked since {}", clock_time(last, now)),
        (_, None) => "not linked since the coordinator started".to_owned(),
    }
}

fn print_camera(camera: &CameraStatus) {
    let name = camera.name.clone().unwrap_or_else(|| camera.node.short());
    let link = match (&camera.linked, &camera.trouble) {
        (Some(address), _) => format!("linked to the coordinator at {address}"),
        (None, Some(trouble)) => format!("no coordinator: {trouble}"),
        (None, None) => "no coordinator yet".to_owned(),
    };
    let own = if camera.raised { " (raised by this camera itself)" } else { "" };
    println!("{name}: {}{own}; {link}.", camera.effective.words());
    if let Some(secs) = camera.paused_secs {
        println!("! Stopped by hand for another {}: `dms3-node resume` ends that.", age(std::time::Duration::from_secs(secs)));
    }
    for detector in &camera.detectors {
        let detail = if detector.detail.is_empty() { String::new() } else { format!(": {}", detector.detail) };
        println!("  {}: {}{detail}", detector.source, detector.phase);
    }
    let outbox = &camera.outbox;
    if outbox.waiting > 0 {
        println!("  {} events wait for the coordinator ({} of pictures and clips).", outbox.waiting, Size(outbox.bytes));
    }
    if camera.revoked {
        println!("! A person revoked this node: it keeps what it saw, and mails nothing.");
    }
    if let Some(mail) = &camera.mail
        && mail.waiting > 0
    {
        let why = mail.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        println!("! {} mail(s) wait{why}.", mail.waiting);
    }
    for trouble in &camera.mail_troubles {
        println!("! {trouble}");
    }
    if outbox.lost > 0 {
        println!("! {} pictures, clips or reports were given up for want of room or as damaged.", outbox.lost);
    }
}
