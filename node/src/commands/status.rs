//! `dms3-node status`: what holds now, why, and whether every camera obeys.

use anyhow::{Result, bail};
use dms3_core::dashboard::Dashboard;
use dms3_core::presence::Presence;
use dms3_core::time::Timestamp;

use super::ConfigArg;
use super::text::{age, clock_time};
use crate::clock;
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
    println!("{} since {}: {}.{until} {}", house.state.words(), clock_time(house.since, now), house.reason, watching(house));
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
    if let Some(why) = &house.blind {
        println!("! Not known who is home: {why}.");
    }
    for note in &house.notes {
        println!("{note}");
    }
}

/// "2 of 2 watching.", or who does not.
pub(super) fn watching(house: &Dashboard) -> String {
    let detectors = house.nodes.iter().flat_map(|node| node.detectors.iter().map(move |detector| (node, detector)));
    let should: Vec<_> = detectors.filter(|(_, detector)| detector.should_watch).collect();
    if should.is_empty() {
        let cameras = house.nodes.iter().filter(|node| node.role == dms3_core::roster::NodeRole::Camera);
        let active = cameras.filter(|node| node.status == dms3_core::roster::NodeStatus::Active).count();
        return match (house.state.is_armed(), active) {
            (_, 0) => "No camera yet: pair one with `dms3-node token new`.".to_owned(),
            (true, _) => "No camera confirmed that it watches.".to_owned(),
            (false, _) => "No camera watches.".to_owned(),
        };
    }
    let watching = should.iter().filter(|(node, detector)| node.liveness == "online" && detector.phase == "watching").count();
    format!("{watching} of {} watching.", should.len())
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
}
