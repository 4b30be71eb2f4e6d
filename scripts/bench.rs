//! What `scripts/bench` runs beside the real nodes: a hundred cameras in one process, one look for phones, one disk, hooks.
//!
//! The cameras are the real ones (uplink, driver, memory on the disk); only in the place of Motion stands a recorder, which notes when
//! the order to watch came.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dms3_core::id::BootId;
use dms3_core::protocol::message::DetectorPhase;
use dms3_core::time::Timestamp;
use dms3_node::camera::enrollment::{Enrollment, enrol};
use dms3_node::camera::{self, Post};
use dms3_node::clock::{Clock, wall};
use dms3_node::config::{Config, Role};
use dms3_node::coordinator::presence::look;
use dms3_node::services::Services;
use dms3_pki::files::{create_dir_private, write_atomic};
use dms3_pki::{Identity, TokenWord};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[path = "bench_crowd.rs"]
mod crowd;
#[path = "bench_events.rs"]
mod events;
#[path = "bench_floods.rs"]
mod floods;
#[path = "bench_mqtt.rs"]
mod mqtt;
#[path = "bench_page.rs"]
mod page;
#[path = "bench_people.rs"]
mod people;
#[path = "bench_scale.rs"]
mod scale;

const USAGE: &str = "scripts/bench runs this: figures cameras DIR COUNT FIRST_ADDRESS MESH_ADDRESS ENROLL_ADDRESS <TOKEN | look INTERFACE FIRST COUNT TIMES | disk DIR TIMES";
/// Cameras that are paired at once.
const PAIRED_AT_ONCE: usize = 4;

/// An order that reached a camera's detector.
struct Order {
    camera: usize,
    on: bool,
    decided: Option<Timestamp>,
    at: Timestamp,
}

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    // What cargo itself adds.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("figures: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(run(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["cameras", dir, count, first, mesh, enroll] => {
            let (mesh, enroll) = (mesh.parse()?, enroll.parse()?);
            cameras(Path::new(dir), nth_addresses(first.parse()?, count.parse()?), mesh, enroll).await
        }
        ["look", interface, first, count, times] => looks(interface, first.parse()?, count.parse()?, times.parse()?).await,
        ["disk", dir, times] => disk(Path::new(dir), times.parse()?),
        ["hooks", node, run_dir, picture, times] => events::hooks(node, Path::new(run_dir), Path::new(picture), times.parse()?),
        ["house", state, nodes, count] => page::house(Path::new(state), nodes.parse()?, count.parse()?).await,
        ["page", base, authority, code, pid, times, pages, flips] => {
            let (times, pages, flips) = (times.parse()?, pages.parse()?, flips.parse()?);
            Box::pin(page::page(base, Path::new(authority), code, pid.parse()?, times, pages, flips)).await
        }
        ["open", base, authority, code, pages] => Box::pin(page::keep_open(base, Path::new(authority), code, pages.parse()?)).await,
        ["initials", path, count] => floods::initials(Path::new(path), count.parse()?).await,
        ["week", dir] => people::week(Path::new(dir)).await,
        ["scale", state, own, mesh, count] => Box::pin(scale::cameras(Path::new(state), own.parse()?, mesh.parse()?, count.parse()?)).await,
        ["subscribers", dir, broker] => Box::pin(mqtt::subscribers(Path::new(dir), broker)).await,
        ["publisher", dir, broker] => mqtt::publisher(Path::new(dir), broker).await,
        ["jpeg", path, bytes] => events::jpeg(Path::new(path), bytes.parse()?),
        _ => bail!(USAGE),
    }
}

fn nth_addresses(first: Ipv4Addr, count: u32) -> Vec<Ipv4Addr> {
    (0..count).map(|nth| Ipv4Addr::from(u32::from(first) + nth)).collect()
}

/// Pairs a camera at each address of this machine with the token on standard input, runs them, and writes a line for each order. What is
/// said then is done (see [`events::ask`]). Ends with standard input.
async fn cameras(dir: &Path, addresses: Vec<Ipv4Addr>, mesh: SocketAddr, enroll: SocketAddr) -> Result<()> {
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin());
    let mut word = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut word).await.context("no token")?;
    let word = Arc::new(word);
    let gate = Arc::new(Semaphore::new(PAIRED_AT_ONCE));
    let mut pairing = JoinSet::new();
    for (camera, own) in addresses.iter().copied().enumerate() {
        let (word, gate, state_dir) = (word.clone(), gate.clone(), dir.join(format!("{camera}")));
        pairing.spawn(async move {
            let _turn = gate.acquire().await?;
            pair(&word, state_dir, camera, own, enroll).await.with_context(|| format!("camera {camera} could not be paired"))
        });
    }
    while let Some(paired) = pairing.join_next().await {
        paired??;
    }
    say("paired");

    let (orders, mut heard) = mpsc::unbounded_channel();
    let mut services = Services::default();
    for (camera, own) in addresses.into_iter().enumerate() {
        start(dir, camera, own, mesh, orders.clone(), &mut services).await.with_context(|| format!("camera {camera}"))?;
    }
    say("running");
    let dir = dir.to_owned();
    services.vital("orders", async move {
        while let Some(Order { camera, on, decided, at }) = heard.recv().await {
            let decided = decided.map_or(0, |decided| decided.0);
            say(&format!("order {camera} {} {decided} {}", u8::from(on), at.0));
        }
        Ok(())
    });
    services
        .run(async move {
            let mut lines = tokio::io::AsyncBufReadExt::lines(lines);
            // Whatever ends the one who started us ends us.
            while let Ok(Some(line)) = lines.next_line().await {
                match events::ask(&dir, &line).await {
                    Ok(answer) => say(&answer),
                    Err(error) => eprintln!("figures: {line}: {error:#}"),
                }
            }
        })
        .await
}

async fn pair(word: &str, state_dir: PathBuf, camera: usize, own: Ipv4Addr, enroll: SocketAddr) -> Result<Identity> {
    create_dir_private(&state_dir)?;
    let (candidate, candidates) = mpsc::channel(1);
    candidate.send(enroll).await?;
    let request = Enrollment {
        token: TokenWord::parse(word)?,
        clock: Clock::open(&state_dir),
        state_dir,
        hostname: format!("bench-{camera}"),
        source: Some(own.into()),
        timeout: Duration::from_secs(60),
    };
    Ok(enrol(request, candidates).await?.identity)
}

async fn start(
    dir: &Path,
    camera: usize,
    own: Ipv4Addr,
    mesh: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    services: &mut Services,
) -> Result<()> {
    let state_dir = dir.join(format!("{camera}"));
    let text = format!(
        "role = \"camera\"\nstate_dir = {state_dir:?}\nrun_dir = {state_dir:?}\n[mesh]\nmdns = \"off\"\nlisten = \"{own}:0\"\npeers = [\"{mesh}\"]\n",
    );
    let config = Config::parse(&text, &state_dir.join("dms3.toml"))?;
    let Role::Camera(section) = &config.role else { bail!("not a camera") };
    let identity = Identity::load(&state_dir)?.context("not paired")?;
    let clock = Clock::open(&state_dir);
    let man = move |post, stop| record(post, camera, orders.clone(), stop);
    let boot = BootId(rand::random());
    Box::pin(camera::start_with(&config, section, identity, boot, clock, services, man)).await
}

/// Stands in the place of Motion.
async fn record(mut post: Post, camera: usize, orders: mpsc::UnboundedSender<Order>, stop: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = post.orders.changed() => changed?,
        }
        let at = wall();
        let order = *post.orders.borrow_and_update();
        orders.send(Order { camera, on: order.on, decided: order.decided, at })?;
        let phase = if order.on { DetectorPhase::Watching } else { DetectorPhase::Stopped };
        post.report.send_modify(|report| {
            report.phase = phase.to_wire();
            report.since = at;
        });
    }
}

/// The presence sensors' look for `count` addresses, `times` over: processor seconds for each.
async fn looks(interface: &str, first: Ipv4Addr, count: u32, times: u32) -> Result<()> {
    let addresses = nth_addresses(first, count);
    for _ in 0..times {
        let (before, began) = (processor_seconds()?, Instant::now());
        let seen = look(interface, &addresses).await?;
        let (cpu, wall) = (processor_seconds()? - before, began.elapsed().as_secs_f64());
        say(&format!("{{\"cpu_s\": {cpu}, \"wall_s\": {wall}, \"sent\": {}, \"answers\": {}}}", seen.sent, seen.answers.len()));
    }
    Ok(())
}

/// Of this process, all threads, user and system.
fn processor_seconds() -> Result<f64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?).as_secs_f64())
}

/// What a camera does with its disk before it obeys: milliseconds for each.
fn disk(dir: &Path, times: u32) -> Result<()> {
    for _ in 0..times {
        let began = Instant::now();
        write_atomic(&dir.join("figure"), &[0; 400], 0o600)?;
        say(&format!("{}", began.elapsed().as_secs_f64() * 1000.0));
    }
    Ok(())
}

/// A reader that is gone is seen at the end of standard input.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
