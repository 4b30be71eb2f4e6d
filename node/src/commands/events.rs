//! `dms3-node events`: what the cameras saw; `events show` one of them, `events export` its pictures and clips.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::event::EventKind;
use dms3_core::id::EventId;

use super::ConfigArg;
use super::text::{age, clock_time, table};
use crate::clock;
use crate::config::Config;
use crate::config_text::Size;
use crate::control::ask;
use crate::store::events::MEDIA_DIR;
use crate::store::media::Media;
use dms3_core::event::{EventFilter, MOST, StoredAttachment, StoredEvent};
use dms3_core::request::{Answer, Request};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How far back, as in 24h or 30d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    since: Duration,
    /// Of this node, this source, or NODE/SOURCE
    #[arg(long)]
    camera: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All that is known of an event
    Show {
        id: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Copy the pictures and clips of an event into a directory
    Export { id: String, dir: PathBuf },
}

pub(super) async fn run(args: Args, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    match args.command {
        None => list(&config, args.since, args.camera, args.json).await,
        Some(Command::Show { id, json }) => show(&one(&config, &id).await?, json),
        Some(Command::Export { id, dir }) => export(&config, &one(&config, &id).await?, &dir),
    }
}

async fn list(config: &Config, since: Duration, camera: Option<String>, json: bool) -> Result<()> {
    let now = super::time_of_house(config).await;
    let mut events: Vec<StoredEvent> = Vec::new();
    loop {
        let before = events.last().map(StoredEvent::place);
        let filter = EventFilter { since: Some(now - since), camera: camera.clone(), limit: MOST, before, ..EventFilter::default() };
        let request = Request::Events { filter };
        let Answer::Events(page) = ask(&config.control_socket(), &request).await? else { bail!("the node gave an unexpected answer") };
        if page.is_empty() {
            break;
        }
        events.extend(page);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&events)?);
        return Ok(());
    }
    if events.is_empty() {
        println!("Nothing was seen within {}.", age(since));
        return Ok(());
    }
    let head = ["TIME", "CAMERA", "WHAT", "CHANGED", "FILES", "ID"].map(str::to_owned).to_vec();
    let rows = events.iter().map(|event| {
        vec![
            clock_time(event.began, now),
            camera_of(event),
            if event.arrival { "arrival".to_owned() } else { event.kind.words().to_owned() },
            event.changed.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %")),
            files(event),
            event.id.to_string(),
        ]
    });
    print!("{}", table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    Ok(())
}

/// The node's name alone where its only source says no more.
fn camera_of(event: &StoredEvent) -> String {
    if event.source == event.camera { event.camera.clone() } else { format!("{}/{}", event.camera, event.source) }
}

fn files(event: &StoredEvent) -> String {
    let here = event.attachments.iter().filter(|known| known.kept_at.is_some()).count();
    let all = event.attachments.len();
    match (here, all) {
        (_, 0) => "none".to_owned(),
        _ if here == all => format!("{all}"),
        _ => format!("{here} of {all}"),
    }
}

async fn one(config: &Config, id: &str) -> Result<StoredEvent> {
    let id = EventId::parse(id)?;
    match ask(&config.control_socket(), &Request::Event { id }).await? {
        Answer::Event(event) => Ok(*event),
        other => bail!("the node gave an unexpected answer: {other:?}"),
    }
}

fn show(event: &StoredEvent, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(event)?);
        return Ok(());
    }
    println!("{} {} at {}", event.id, event.kind.words(), camera_of(event));
    println!("  began     {}", clock::date_and_time(event.began));
    match event.ended {
        Some(ended) => println!("  lasted    {}", age(ended.since(event.started))),
        None => println!("  lasted    it goes on"),
    }
    if event.kind == EventKind::Movement {
        println!("  changed   {}", event.changed.map_or_else(|| "not known".to_owned(), |percent| format!("{percent} % of the picture")));
    }
    println!("  the camera was {}", event.state.words());
    if event.arrival {
        println!("  somebody came home right after that, so it was not mailed");
    }
    for (nth, known) in event.attachments.iter().enumerate() {
        let here = if known.kept_at.is_some() { "" } else { ", not here yet" };
        println!("  {}. {:?}, {}{here}", nth + 1, known.attachment.name, Size(known.attachment.length));
    }
    Ok(())
}

fn export(config: &Config, event: &StoredEvent, dir: &Path) -> Result<()> {
    let media = Media::at(&config.state_dir.join(MEDIA_DIR));
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut copied = 0;
    for (nth, known) in event.attachments.iter().enumerate() {
        if known.kept_at.is_none() {
            println!("{:?} is not here yet", known.attachment.name);
            continue;
        }
        let path = dir.join(file_name(event, nth, known));
        let mut from = media.get(&known.attachment.hash).with_context(|| format!("cannot read {:?}: use sudo", known.attachment.name))?;
        let mut to = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot write {}: is it there already?", path.display()))?;
        io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
        copied += 1;
    }
    ensure!(copied > 0, "this event has no picture and no clip here");
    Ok(())
}

/// Made by us: the camera's own name of the file is only asked for its ending.
fn file_name(event: &StoredEvent, nth: usize, known: &StoredAttachment) -> String {
    let ending = Path::new(&known.attachment.name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let ending = if (1..=5).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_alphanumeric()) { ending } else { "bin" };
    format!("{}-{}.{ending}", event.id, nth + 1)
}
