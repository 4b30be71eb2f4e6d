//! `dms3-node run`: the daemon.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::id::BootId;
use dms3_pki::Identity;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::ConfigArg;
use crate::clock::{Clock, build_time, wall};
use crate::config::{Config, LogConfig, LogTarget, Role};
use crate::control::{Asked, Control};
use crate::log_tail::LogTail;
use crate::services::Services;
use crate::state_lock::Running;
use crate::{camera, coordinator, systemd};
use dms3_core::request::Answer;

/// How often a camera that is not paired looks whether it was.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(at: &ConfigArg) -> Result<()> {
    let config = at.load()?;
    let tail = LogTail::default();
    start_log(&config.log, tail.clone())?;
    tracing::info!("dms3-node {} starts as {} with {}", env!("CARGO_PKG_VERSION"), config.role.word(), config.path.display());
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let shutdown = shutdown()?;
    tokio::pin!(shutdown);
    let clock = Clock::open(&config.state_dir);
    if wall() < build_time() {
        tracing::warn!(
            "this machine's clock is before the time this program was built: it counts from there until a coordinator or NTP tells"
        );
    }
    let (identity, config) = match identity(&config)? {
        Some(identity) => (identity, config),
        None => match until_paired(&config, shutdown.as_mut()).await? {
            // What `enroll` was told is in the config since then.
            Some(identity) => (identity, at.load()?),
            None => return Ok(()),
        },
    };
    let running = Running::begin(crate::state_lock::take(&config.state_dir)?);
    if running.after_a_kill {
        tracing::warn!("the last run of this node could not end: it was killed, or the power went; it goes on with what is on its disk");
    }
    let boot = BootId(rand::random());
    let mut services = Services::default();
    let start = async {
        match &config.role {
            Role::Coordinator(own) => coordinator::start(&config, own, identity, boot, clock, tail, &mut services).await,
            Role::Camera(own) => camera::start(&config, own, identity, boot, clock, &mut services).await,
        }
    };
    Box::pin(start).await?;
    systemd::ready(&format!("running as {}", config.role.word()));
    let result = services.run(shutdown).await;
    systemd::stopping();
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    result
}

fn identity(config: &Config) -> Result<Option<Identity>> {
    Identity::load(&config.state_dir).context("cannot read this node's identity")
}

/// A camera that is not paired waits for it and says so to whoever asks, so that `enroll` is all a user has to do.
async fn until_paired(config: &Config, shutdown: std::pin::Pin<&mut impl Future<Output = ()>>) -> Result<Option<Identity>> {
    if let Role::Coordinator(_) = config.role {
        bail!("this coordinator has no house yet: make one with `sudo dms3-node init`");
    }
    let to_do = format!(
        "this camera is not paired: run `sudo dms3-node enroll{}` here and paste the word that `sudo dms3-node token new` shows on the coordinator",
        config.option()
    );
    let control = Control::bind(&config.control_socket()).await?;
    let (requests, mut asked) = mpsc::channel::<Asked>(4);
    tracing::warn!("{to_do}");
    systemd::ready(&to_do);
    let waiting = async {
        loop {
            if super::enroll::from_boot_partition(config).await {
                tracing::info!("paired with the token of the boot partition");
                if super::enroll::boot_token_is_left() && systemd::is_there() {
                    // The service may not write there; what runs before it starts may.
                    tracing::info!("starting again, so that the token on the boot partition is wiped");
                    return Ok(None);
                }
            }
            if let Some(identity) = identity(config)? {
                return Ok(Some(identity));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            systemd::alive();
        }
    };
    let answering = async {
        while let Some(asked) = asked.recv().await {
            // Whoever asked may have gone away.
            drop(asked.answer.send(Answer::Refused(to_do.clone())));
        }
    };
    tokio::select! {
        () = shutdown => Ok(None),
        found = waiting => found,
        ended = Arc::new(control).run(requests, CancellationToken::new()) => ended.and(Ok(None)),
        () = answering => Ok(None),
    }
}

/// Ends at SIGTERM or SIGINT. Both are caught before anything else starts.
fn shutdown() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// `RUST_LOG` wins over the config. mdns-sd repeats itself at info and below; netlink-proto warns of each answer that came in parts;
/// QUIC and TLS warn of whatever a stranger sends, as often as he likes.
fn start_log(config: &LogConfig, tail: LogTail) -> Result<()> {
    let (origin, text) = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => ("RUST_LOG", text),
        _ => (
            "[log] level",
            format!("{},mdns_sd=off,netlink_proto=error,quinn=error,quinn_proto=off,rustls=error,sqlx=warn", config.level.word()),
        ),
    };
    let filter = text
        .parse::<Targets>()
        .with_context(|| format!("{origin} cannot be read: write a level (error, warn, info, debug), and target=level, with commas"))?;
    match &config.target {
        LogTarget::Stderr => subscribe(filter, tail, std::io::stderr, std::io::IsTerminal::is_terminal(&std::io::stderr())),
        LogTarget::Stdout => subscribe(filter, tail, std::io::stdout, std::io::IsTerminal::is_terminal(&std::io::stdout())),
        LogTarget::File(path) => subscribe(filter, tail, open_log(path)?, false),
    }
    Ok(())
}

fn open_log(path: &Path) -> Result<std::sync::Mutex<std::fs::File>> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path);
    Ok(std::sync::Mutex::new(file.with_context(|| {
        format!(
            "cannot open the log file {}: its directory must be there and this user's to write in, or set another target in [log]",
            path.display()
        )
    })?))
}

fn subscribe<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(filter: Targets, tail: LogTail, to: W, colours: bool) {
    let lines = tracing_subscriber::fmt::layer().with_writer(to).with_ansi(colours).with_target(false);
    let last = tracing_subscriber::fmt::layer().with_writer(tail).with_ansi(false).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).with(last).init();
}
