//! `dms3-node nodes`: who is of the house, and what each one does.

use anyhow::{Result, bail};
use dms3_core::arming::ArmState;
use dms3_core::dashboard::NodeView;
use dms3_core::roster::{NodeRole, NodeStatus};
use dms3_core::time::Timestamp;

use super::ConfigArg;
use super::text::{age, table};
use crate::clock;
use crate::control::ask;
use dms3_core::request::{Answer, Request};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    let Answer::House(house) = ask(&config.control_socket(), &Request::Status).await? else {
        bail!("the node gave an unexpected answer");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&house.nodes)?);
        return Ok(());
    }
    let head = ["NAME", "ROLE", "LINK", "STATE", "DETECTORS", "CONTACT", "ADDRESS", "VERSION", "ID"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let now = house.now().unwrap_or_else(clock::wall);
    rows.extend(house.nodes.iter().map(|node| row(node, house.state, now)));
    print!("{}", table(&rows));
    for (name, blame) in house.nodes.iter().filter_map(|node| Some((&node.name, node.blame.as_ref()?))) {
        let often = if blame.count > 1 { format!(" ({} times in all)", blame.count) } else { String::new() };
        println!("  {name}, {} ago: {}{often}", age(clock::wall().since(blame.at)), blame.why);
    }
    for problem in &house.problems {
        println!("! {problem}");
    }
    Ok(())
}

fn row(node: &NodeView, state: ArmState, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let role = match node.role {
        NodeRole::Coordinator => "coordinator",
        NodeRole::Camera => "camera",
    };
    let link = if node.status == NodeStatus::Revoked { "revoked" } else { node.liveness.as_str() };
    let applied = match node.applied {
        Some((epoch, rev)) if node.current => format!("{} {epoch}.{rev}", state.words()),
        Some((epoch, rev)) => format!("{epoch}.{rev} (older)"),
        None => dash(),
    };
    let detectors: Vec<_> = node.detectors.iter().map(|detector| format!("{}: {}", detector.source, detector.phase)).collect();
    vec![
        node.name.clone(),
        role.to_owned(),
        link.to_owned(),
        applied,
        if detectors.is_empty() { dash() } else { detectors.join(", ") },
        node.last_contact.map_or_else(dash, |at| format!("{} ago", age(now.since(at)))),
        node.address.clone().unwrap_or_else(dash),
        node.version.clone().unwrap_or_else(dash),
        node.node.short(),
    ]
}
