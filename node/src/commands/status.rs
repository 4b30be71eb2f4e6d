//! `dms3-node status`: what holds now, why, and whether every camera obeys.

use std::io::IsTerminal as _;

use anyhow::{Result, bail};
use dms3_core::dashboard::{Dashboard, Missing};
use dms3_core::presence::{Frames, Presence};
use dms3_core::roster::{NodeRole, NodeStatus};
use dms3_core::time::Timestamp;

use super::ConfigArg;
use super::text::{age, clock_time};
use crate::clock;
use crate::config_text::Size;
use crate::control::ask;
use dms3_core::request::{Answer, CameraStatus, Request};

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
        Answer::House(house) => print_house(&house),
        Answer::Camera(camera) => print_camera(&camera),
        other => bail!("the node gave an unexpected answer: {other:?}"),
    }
    Ok(())
}

/// `dms3-node why`.
pub(super) async fn why(config: &ConfigArg) -> Result<()> {
    let house = match ask(&config.load()?.control_socket(), &Request::Status).await? {
        Answer::House(house) => house,
        Answer::Camera(camera) => {
            print_camera(&camera);
            return Ok(());
        }
        other => bail!("the node gave an unexpected answer: {other:?}"),
    };
    let now = house.now().unwrap_or_else(clock::wall);
    let why = dms3_core::why::why(&house, now, true, &|at| clock_time(at, now));
    println!("{}", why.sentence);
    for line in why.people.iter().chain(&why.rules) {
        println!("  {line}");
    }
    Ok(())
}

pub(super) fn print_house(house: &Dashboard) {
    let now = house.now().unwrap_or_else(clock::wall);
    print!("{}", house_text(house, now, std::io::stdout().is_terminal()));
}

/// The first line says what holds, since when, why, and who watches; then what is wrong, who is home, and what is good to know.
fn house_text(house: &Dashboard, now: Timestamp, colours: bool) -> String {
    let until = house.override_until.map(|until| format!(" Until {}.", clock_time(until, now))).unwrap_or_default();
    let mut lines = vec![format!(
        "{} since {}: {}.{until} {}",
        house.state.words(),
        clock_time(house.since, now),
        house.reason,
        watching(house, now, colours)
    )];
    if let Some((state, at)) = house.pending {
        lines.push(format!("{} in {} s: leave now.", state.words(), at.since(now).as_secs()));
    }
    lines.extend(house.problems.iter().map(|problem| format!("! {problem}")));
    for person in &house.people {
        let seen = person.last_seen.map(|seen| format!(", last seen {} ago", age(now.since(seen)))).unwrap_or_default();
        let presence = match person.presence {
            Presence::Home => "home",
            Presence::Away => "away",
            Presence::Unknown if person.devices == 0 => "not known, for want of a device",
            Presence::Unknown => "not known yet",
        };
        let counts = if person.counts { "" } else { " (does not count)" };
        lines.push(format!("  {}: {presence}{counts}{seen}", person.name));
    }
    lines.extend_from_slice(&house.devices);
    lines.extend(house.frames.filter(|frames| frames.total() > 0).map(|frames| frames_text(&frames)));
    lines.extend_from_slice(&house.notes);
    lines.join("\n") + "\n"
}

/// What looking for people costs the network, and their phones' batteries.
fn frames_text(frames: &Frames) -> String {
    format!("Looking for them took {} frames since the coordinator started: {}.", frames.total(), frames.words())
}

/// "2 of 2 watching.", or who does not and why.
fn watching(house: &Dashboard, now: Timestamp, colours: bool) -> String {
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
    let names: Vec<_> = missing.iter().map(|one| format!("{}: {}", one.name(), reason(one, now))).collect();
    let text = format!("{count} ({}).", names.join("; "));
    if colours { format!("\x1b[31m{text}\x1b[0m") } else { text }
}

/// Why it is not seen to watch.
fn reason(one: &Missing<'_>, now: Timestamp) -> String {
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
    if let Some(why) = &camera.disk_trouble {
        println!(
            "! What holds cannot be written to the disk of this camera ({why}): it can be armed, and is not disarmed before there is room."
        );
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
    for trouble in camera.mail_troubles.iter().chain(&camera.sound_trouble) {
        println!("! {trouble}");
    }
    if outbox.lost > 0 {
        println!("! {} pictures, clips or reports were given up for want of room or as damaged.", outbox.lost);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dms3_core::arming::ArmState;
    use dms3_core::dashboard::{DetectorView, NodeView, PersonView};
    use dms3_core::id::NodeId;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    fn ago(secs: u64) -> Timestamp {
        NOW - Duration::from_secs(secs)
    }

    fn camera(name: &str, liveness: &str, phase: &str) -> NodeView {
        let detector = DetectorView {
            source: "cam".to_owned(),
            should_watch: phase != "off",
            phase: phase.to_owned(),
            since: None,
            detail: String::new(),
            live: dms3_core::protocol::message::LiveView::Never,
        };
        NodeView {
            node: NodeId([1; 32]),
            name: name.to_owned(),
            role: NodeRole::Camera,
            status: NodeStatus::Active,
            liveness: liveness.to_owned(),
            address: None,
            hostname: None,
            disk_days: None,
            cert_end: None,
            blame: None,
            twice: None,
            os: None,
            platform: None,
            kernel: None,
            version: None,
            last_contact: Some(ago(60)),
            applied: None,
            current: true,
            detectors: vec![detector],
            ack_ms: None,
            health: None,
        }
    }

    fn person(name: &str, presence: Presence, last_seen: Option<Timestamp>) -> PersonView {
        PersonView { name: name.to_owned(), presence, counts: true, last_seen, device: None, sensor: None, devices: 1, away_secs: 300 }
    }

    /// Everybody left a quarter of an hour ago, and one camera is gone.
    fn empty_house() -> Dashboard {
        Dashboard {
            presence_enabled: true,
            state: ArmState::Away,
            epoch: 0,
            rev: 3,
            reason: "everybody left".to_owned(),
            since: ago(900),
            override_until: None,
            overridden: false,
            window: None,
            next_window: None,
            pending: None,
            presence: Presence::Away,
            blind: None,
            people: vec![person("Anna", Presence::Away, Some(ago(1200))), person("Ben", Presence::Unknown, None)],
            nodes: vec![camera("garden", "lost", "watching"), camera("porch", "online", "watching")],
            problems: vec!["garden is lost.".to_owned()],
            notes: vec!["The root key is here.".to_owned()],
            clock_trusted: true,
            mail: None,
            frames: None,
            devices: Vec::new(),
            phones: dms3_core::dashboard::Phones::default(),
        }
    }

    #[test]
    fn the_first_screen_says_what_holds_why_who_is_home_and_which_cameras_confirmed() {
        let (since, gone) = (clock_time(ago(900), NOW), clock_time(ago(60), NOW));
        let expected = format!(
            "Armed (away) since {since}: everybody left. 1 of 2 watching (garden: not linked since {gone}).\n! garden is lost.\n  \
             Anna: away, last seen 20 min ago\n  Ben: not known yet\nThe root key is here.\n"
        );
        assert_eq!(house_text(&empty_house(), NOW, false), expected);
        let red = house_text(&empty_house(), NOW, true);
        assert!(red.contains(&format!("\x1b[31m1 of 2 watching (garden: not linked since {gone}).\x1b[0m\n")), "{red:?}");
    }

    #[test]
    fn what_looking_for_people_costs_and_what_is_wrong_with_their_devices_is_said() {
        let house = Dashboard {
            people: vec![PersonView { counts: false, ..person("Tablet", Presence::Home, None) }],
            frames: Some(Frames { arp_direct: 40, arp_broadcast: 300, ns_direct: 2, ns_multicast: 1, mdns: 0, datagrams: 0 }),
            devices: vec!["Anna's device is an extender.".to_owned()],
            ..empty_house()
        };
        let text = house_text(&house, NOW, false);
        let expected = "  Tablet: home (does not count)\nAnna's device is an extender.\n\
             Looking for them took 343 frames since the coordinator started: 340 ARP (300 of them to all), 3 NDP (1 to groups).\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_choice_says_when_it_ends_and_an_exit_delay_how_long_it_lasts() {
        let house = Dashboard {
            state: ArmState::Disarmed,
            reason: "disarmed by anna for 2h".to_owned(),
            override_until: Some(NOW + Duration::from_secs(6300)),
            pending: Some((ArmState::Away, NOW + Duration::from_secs(42))),
            people: vec![person("Anna", Presence::Home, Some(NOW))],
            nodes: vec![camera("porch", "online", "off")],
            problems: Vec::new(),
            notes: Vec::new(),
            ..empty_house()
        };
        let (since, until) = (clock_time(ago(900), NOW), clock_time(NOW + Duration::from_secs(6300), NOW));
        let expected = format!(
            "Disarmed since {since}: disarmed by anna for 2h. Until {until}. No camera watches.\nArmed (away) in 42 s: leave now.\n  \
             Anna: home, last seen 0 s ago\n"
        );
        assert_eq!(house_text(&house, NOW, true), expected);
    }
}
