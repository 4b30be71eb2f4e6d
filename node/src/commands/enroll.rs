//! `enroll`: makes this machine a camera of the house that a token names.

use std::fs;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use dms3_core::arming::ArmState;
use dms3_core::camera::OnLost;
use dms3_pki::{Identity, PkiError, TokenError, TokenWord, root_pin_of};
use nix::unistd::{Gid, chown, geteuid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::camera;
use crate::camera::enrollment::{Enrolled, Enrollment, Refused, enrol};
use crate::clock::Clock;
use crate::commands::ConfigArg;
use crate::config::{Config, Role, unit_of};
use crate::mesh::discovery;
use crate::owner::AsOwner;
use crate::store::STORE_FILE;

use self::choices::Choices;

mod choices;
#[cfg(test)]
mod tests;

/// UDP port of enrollment where nothing else is said.
const ENROLL_PORT: u16 = 47101;
/// Where a token may lie that was put onto an SD card.
const BOOT_TOKENS: [&str; 2] = ["/boot/firmware/dms3-token.txt", "/boot/dms3-token.txt"];
/// How long the running service looks for the coordinator of such a token before it looks after itself again.
const BOOT_PATIENCE: Duration = Duration::from_secs(10);
/// No token word is longer.
const WORD_LIMIT: u64 = 4096;
/// All that a camera needs in its config.
const CAMERA_CONFIG: &str =
    "# Written by `dms3-node enroll`. Every key and its default: the example camera.toml that comes with dms3-node.\nrole = \"camera\"\n";

#[derive(Debug, Default, clap::Args)]
pub struct EnrollArgs {
    /// The token, or "-" to read it from standard input. Without it: dms3-token.txt on the boot partition, else you are asked for it.
    /// Arguments are visible to every program of this machine: give only single-use tokens like this
    pub token: Option<String>,
    /// Read the token from this file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Use only a token on the boot partition; do nothing if there is none
    #[arg(long, conflicts_with_all = ["token", "token_file"])]
    pub boot: bool,
    /// Where the coordinator is, for networks without mDNS
    #[arg(long, value_name = "HOST[:PORT]")]
    pub coordinator: Option<String>,
    /// How long to look for the coordinator and wait for its answer
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Pair again although this machine is enrolled: in the same house, or in another one
    #[arg(long)]
    pub again: bool,
    /// When this camera watches: away (nobody home), night (people sleep), or both with a comma, as outdoors. On a terminal you are
    /// asked; without one: away
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = choices::parse_state)]
    pub watch_in: Vec<ArmState>,
    /// Disarmed, and the coordinator is gone: after which time it arms itself (15m), or hold. On a terminal you are asked; without one: 15m
    #[arg(long, value_name = "TIME|hold", value_parser = choices::parse_on_lost)]
    pub on_coordinator_lost: Option<OnLost>,
}

/// What the command needs to know of this machine.
#[derive(Debug)]
pub struct Machine {
    /// Written if it is missing.
    pub config: PathBuf,
    pub state_dir: PathBuf,
    /// The config's role.
    pub is_coordinator: bool,
    /// What `discovery` hears; `None`: mDNS is switched off.
    pub heard: Option<mpsc::Receiver<SocketAddr>>,
}

/// The command line's `enroll`. A machine without a config becomes a camera with the defaults.
pub async fn command(args: EnrollArgs, at: &ConfigArg) -> anyhow::Result<()> {
    let config = match at.config.exists() {
        true => at.load()?,
        false => Config::parse("role = \"camera\"", &at.config)?,
    };
    pair(args, &config).await
}

/// Pairs while mDNS listens for coordinators.
async fn pair(args: EnrollArgs, config: &Config) -> anyhow::Result<()> {
    let (send, heard) = mpsc::channel(16);
    let machine = Machine {
        config: config.path.clone(),
        state_dir: config.state_dir.clone(),
        is_coordinator: matches!(config.role, Role::Coordinator(_)),
        heard: Some(heard),
    };
    let listen = async {
        if let Err(error) = discovery::hear_enrolling(&config.mesh, send, CancellationToken::new()).await {
            eprintln!("Note: coordinators cannot be heard: {error:#}");
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        done = run(args, machine) => done,
        () = listen => bail!("nothing is heard any more"),
    }
}

/// A token that lies on the boot partition of a machine that is not paired is used, so that a flashed card needs nobody. True if it was.
/// Returns soon, to be called again; a token that was refused is not tried twice.
pub async fn from_boot_partition(config: &Config) -> bool {
    static REFUSED: Mutex<Option<String>> = Mutex::new(None);
    let refused = || REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(word) = boot_token(&BOOT_TOKENS.map(PathBuf::from)).and_then(|file| read_file(&file).ok()) else { return false };
    if refused().as_ref() == Some(&word) {
        return false;
    }
    let args = EnrollArgs { boot: true, timeout: BOOT_PATIENCE, ..EnrollArgs::default() };
    match pair(args, config).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("cannot pair with the token of the boot partition: {error:#}");
            if error.is::<Refused>() || error.is::<TokenError>() {
                *refused() = Some(word);
            }
            false
        }
    }
}

/// A token that lies where only root may write outlives its use by the service.
pub fn boot_token_is_left() -> bool {
    boot_token(&BOOT_TOKENS.map(PathBuf::from)).is_some()
}

pub async fn run(args: EnrollArgs, machine: Machine) -> anyhow::Result<()> {
    ensure!(
        !machine.is_coordinator && !machine.state_dir.join(STORE_FILE).exists(),
        "this is the coordinator of a house ({}): cameras enrol, it does not. For a camera on the same machine give it its own config: \
         `dms3-node enroll --config FILE`",
        machine.state_dir.display()
    );
    let Some(given) = read_token(&args, &BOOT_TOKENS.map(PathBuf::from))? else { return Ok(()) };
    let token = TokenWord::parse(&given.word)?;
    make_state_dir(&machine.state_dir)?;
    let before = Identity::load(&machine.state_dir)?.map(|identity| identity.mesh());
    let config = config_text(&machine.config)?;
    // Asked once, before anything is done: the service that waits reads the config again when it is paired.
    let ask = before.is_none() && !args.boot && std::io::stdin().is_terminal();
    let choices = Choices::make(&args, config.as_deref(), ask)?;
    if let Some(text) = &config
        && choices.write_into(&machine.config, text)?
    {
        println!("Wrote that into {}.", machine.config.display());
    }

    let outcome = {
        let _owner = AsOwner::of(&machine.state_dir)?;
        match already(&machine.state_dir, &token, args.again)? {
            Some(words) => words,
            None => {
                let enrolled = find_and_enrol(&args, &machine.state_dir, token, machine.heard).await?;
                if before.is_some_and(|before| before != enrolled.mesh) {
                    camera::memory::forget(&machine.state_dir)?;
                }
                tell(&enrolled, before.is_some(), &unit_of(&machine.config))
            }
        }
    };
    if write_config(&machine.config, &machine.state_dir, &choices)? {
        println!("Wrote {}.", machine.config.display());
    }
    if let Some(file) = &given.wipe {
        match wipe(file) {
            Ok(()) => println!("Wiped {}.", file.display()),
            // A single-use token is worthless by now; the pairing stands.
            Err(error) => eprintln!("Note: {error:#}"),
        }
    }
    println!("{outcome}");
    Ok(())
}

/// What to say of a machine that has an identity and is to keep it.
fn already(state_dir: &Path, token: &TokenWord, again: bool) -> anyhow::Result<Option<String>> {
    let Some(identity) = Identity::load(state_dir)? else { return Ok(None) };
    let same_house = root_pin_of(identity.bundle().root_der())? == token.root_pin;
    match (same_house, again) {
        (_, true) => Ok(None),
        (true, false) => Ok(Some(format!(
            "This machine is a camera of this house already (node {}). Nothing was changed; `--again` pairs it anew.",
            identity.node().short()
        ))),
        (false, false) => bail!(
            "this machine is a camera of another house ({}). Nothing was changed; `--again` moves it to the house of this token",
            identity.mesh()
        ),
    }
}

async fn find_and_enrol(
    args: &EnrollArgs,
    state_dir: &Path,
    token: TokenWord,
    heard: Option<mpsc::Receiver<SocketAddr>>,
) -> anyhow::Result<Enrolled> {
    let mut named = token.hints.clone();
    if let Some(coordinator) = &args.coordinator {
        named.splice(0..0, resolve(coordinator).await?);
    }
    let (send, candidates) = mpsc::channel(16);
    let hear = async move {
        for address in named {
            let _ = send.send(address).await;
        }
        if let Some(mut heard) = heard {
            while let Some(address) = heard.recv().await {
                let _ = send.send(address).await;
            }
        }
        drop(send);
        std::future::pending::<()>().await;
    };
    println!("Looking for the coordinator of this token…");
    let request = Enrollment {
        token,
        state_dir: state_dir.to_owned(),
        hostname: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default(),
        source: None,
        clock: Clock::open(state_dir),
        timeout: args.timeout,
    };
    tokio::select! {
        enrolled = enrol(request, candidates) => enrolled,
        () = hear => bail!("nothing is heard any more"),
    }
}

fn tell(enrolled: &Enrolled, again: bool, unit: &str) -> String {
    let next = if again {
        format!("If its service runs, restart it: sudo systemctl restart {unit}")
    } else {
        format!("Its service takes that up by itself; if it is not running yet: sudo systemctl enable --now {unit}")
    };
    let (node, mesh) = (enrolled.identity.node().short(), enrolled.mesh);
    format!("This machine is now the camera {:?} (node {node}) of house {mesh}.\n{next}", enrolled.name)
}

/// A token's text and the file to wipe once it was used.
struct Given {
    word: String,
    wipe: Option<PathBuf>,
}

/// `None`: only the boot partition was to be looked at, and there is none there.
fn read_token(args: &EnrollArgs, boot: &[PathBuf]) -> anyhow::Result<Option<Given>> {
    let plain = |word| Ok(Some(Given { word, wipe: None }));
    match (args.token.as_deref(), &args.token_file) {
        (Some("-"), _) => return plain(read_stdin()?),
        (Some(word), _) => {
            // The word does not say how many uses it has, so this cannot be refused here.
            eprintln!("Note: every program on this machine can read arguments. Never give a token with more than one use like this.");
            return plain(word.to_owned());
        }
        (None, Some(file)) => return plain(read_file(file)?),
        (None, None) => {}
    }
    if let Some(file) = boot_token(boot) {
        println!("Using the token in {}.", file.display());
        return Ok(Some(Given { word: read_file(&file)?, wipe: Some(file) }));
    }
    if args.boot {
        return Ok(None);
    }
    if !std::io::stdin().is_terminal() {
        return plain(read_stdin()?);
    }
    // Without an echo where the terminal can do that: the word opens the house's door for an hour.
    let word = rpassword::prompt_password("Token (it is not shown): ").or_else(|_| {
        print!("Token: ");
        std::io::stdout().flush()?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    plain(word.context("cannot read the token from the terminal")?)
}

fn boot_token(places: &[PathBuf]) -> Option<PathBuf> {
    places.iter().find(|file| file.is_file()).cloned()
}

fn read_stdin() -> anyhow::Result<String> {
    let mut word = String::new();
    std::io::stdin().take(WORD_LIMIT).read_to_string(&mut word).context("cannot read the token from standard input")?;
    Ok(word)
}

/// Editors of other systems put a byte order mark before the word.
fn read_file(file: &Path) -> anyhow::Result<String> {
    let mut word = String::new();
    fs::File::open(file)
        .and_then(|open| open.take(WORD_LIMIT).read_to_string(&mut word))
        .with_context(|| format!("cannot read the token from {}", file.display()))?;
    Ok(word.trim_start_matches('\u{feff}').to_owned())
}

/// Overwritten, then removed: an SD card goes from hand to hand.
fn wipe(file: &Path) -> anyhow::Result<()> {
    let wiped = || -> std::io::Result<()> {
        let length = usize::try_from(fs::metadata(file)?.len().min(WORD_LIMIT)).unwrap_or(0);
        let mut open = fs::OpenOptions::new().write(true).open(file)?;
        open.write_all(&vec![b'0'; length])?;
        open.sync_all()?;
        fs::remove_file(file)
    };
    wiped().with_context(|| format!("cannot wipe {}: remove it yourself, it holds the token", file.display()))
}

/// `HOST`, `HOST:PORT`, `1.2.3.4`, `fd00::1`, `[fd00::1]:47101`.
async fn resolve(coordinator: &str) -> anyhow::Result<Vec<SocketAddr>> {
    if let Ok(address) = coordinator.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(ip) = coordinator.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, ENROLL_PORT)]);
    }
    let (host, port) = match coordinator.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().with_context(|| format!("\"{port}\" in --coordinator {coordinator} is no port"))?),
        None => (coordinator, ENROLL_PORT),
    };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .with_context(|| format!("cannot find the address of {host}: give the coordinator's IP address instead"))?
        .collect();
    ensure!(!found.is_empty(), "{host} has no address: give the coordinator's IP address instead");
    Ok(found)
}

/// `None`: there is no config yet.
fn config_text(config: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(config) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", config.display())),
    }
}

fn make_state_dir(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        dms3_pki::files::create_dir_private(dir).context("if this is not your own directory, run it with sudo")?;
    }
    Ok(())
}

/// A camera's config if there is none; readable by the group of the state directory, which is the service's. True if it was written.
fn write_config(config: &Path, state_dir: &Path, choices: &Choices) -> anyhow::Result<bool> {
    let failed = || format!("cannot write {}", config.display());
    if let Some(parent) = config.parent() {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    if config.exists() {
        return Ok(false);
    }
    let mut text = CAMERA_CONFIG.to_owned();
    if state_dir != Path::new("/var/lib/dms3") {
        text.push_str(&format!("state_dir = {:?}\n", state_dir.display().to_string()));
    }
    text.push_str(&choices.sections());
    // Whole or not at all: with half a config the service would not start.
    match dms3_pki::files::write_new(config, text.as_bytes(), 0o640) {
        Err(PkiError::Exists(_)) => return Ok(false),
        written => written?,
    }
    if geteuid().is_root() {
        let group = fs::metadata(state_dir).with_context(failed)?.gid();
        chown(config, None, Some(Gid::from_raw(group))).with_context(failed)?;
    }
    Ok(true)
}
