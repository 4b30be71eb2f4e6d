//! `dms3.toml` becomes a valid `Config`, or one error that names file, line, key and what is allowed.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::arming::{ArmState, LEASE};
use dms3_core::camera::OnLost;
use dms3_core::roster::check_name;
use serde::Deserialize;

use crate::camera::alerts::MailAfter;
use crate::camera::detector::{DetectorConfig, DetectorFile, check_together};
use crate::camera::outbox::OutboxConfig;
use crate::config_text::{Size, Wrong, address, optional_word, time, told, word};
use crate::coordinator::keeping::EventsConfig;
use crate::coordinator::page::WebConfig;
use crate::coordinator::presence::PresenceConfig;
use crate::coordinator::windows::{WindowConfig, windows};
use crate::mailer::MailConfig;
use crate::mailer::config::MailFile;
use crate::mesh::MeshConfig;
use crate::sound::SoundConfig;

/// Where the config lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/dms3/dms3.toml";

/// The service of the node whose config lies at `path`, as scripts/install names it: /etc/dms3-porch/dms3.toml is dms3-porch.
pub fn unit_of(path: &Path) -> String {
    let dir = path.parent().filter(|dir| dir.starts_with("/etc")).and_then(Path::file_name).and_then(|name| name.to_str());
    match dir {
        Some(name) if name != "dms3" => name.to_owned(),
        _ => "dms3-node".to_owned(),
    }
}

/// A config that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub log: LogConfig,
    pub mesh: MeshConfig,
    /// None: this node mails nothing.
    pub mail: Option<MailConfig>,
    pub role: Role,
    /// What works but deserves a second look.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum Role {
    Coordinator(Box<CoordinatorConfig>),
    Camera(Box<CameraConfig>),
}

impl Role {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Coordinator(_) => "coordinator",
            Self::Camera(_) => "camera",
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// error, warn, info or debug; `RUST_LOG` wins.
    #[serde(deserialize_with = "word")]
    pub level: LogLevel,
    /// "stderr", "stdout" or the path of a file.
    #[serde(deserialize_with = "word")]
    pub target: LogTarget,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info, target: LogTarget::Stderr }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl LogLevel {
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogTarget {
    Stderr,
    Stdout,
    File(PathBuf),
}

impl TryFrom<String> for LogTarget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "stderr" => Ok(Self::Stderr),
            "stdout" => Ok(Self::Stdout),
            path if path.starts_with('/') => Ok(Self::File(path.into())),
            other => Err(format!("\"{other}\" is no log target: write \"stderr\", \"stdout\" or the absolute path of a file")),
        }
    }
}

/// `[coordinator]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoordinatorConfig {
    /// The name of this node in lists.
    pub name: String,
    /// Time to leave after a person's arm command.
    #[serde(deserialize_with = "time")]
    pub exit_delay: Duration,
    /// What the cameras saw in so long before somebody came home is taken for that, and mails wait so long for it.
    #[serde(deserialize_with = "time")]
    pub arrival_hold: Duration,
    /// IANA name of the zone in which windows are read; that of the machine if absent.
    pub zone: Option<String>,
    #[serde(rename = "window")]
    pub windows: Vec<WindowConfig>,
    /// UDP address of the enrollment port, open only while a token lives.
    #[serde(deserialize_with = "address")]
    pub enroll_listen: SocketAddr,
    /// How long decisions and last addresses of devices are kept.
    #[serde(deserialize_with = "time")]
    pub decisions_for: Duration,
    #[serde(deserialize_with = "time")]
    pub sightings_for: Duration,
    pub presence: PresenceConfig,
    pub events: EventsConfig,
    pub sound: Option<SoundConfig>,
    /// `[web]`
    #[serde(skip)]
    pub web: WebConfig,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            name: "Coordinator".to_owned(),
            exit_delay: Duration::from_secs(60),
            arrival_hold: Duration::from_secs(30),
            zone: None,
            windows: Vec::new(),
            enroll_listen: SocketAddr::from(([0u16; 8], 47101)),
            decisions_for: Duration::from_secs(30 * 86400),
            sightings_for: Duration::from_secs(7 * 86400),
            presence: PresenceConfig::default(),
            events: EventsConfig::default(),
            sound: None,
            web: WebConfig::default(),
        }
    }
}

impl CoordinatorConfig {
    /// What serde cannot see; returns what works but badly.
    fn check(&mut self, mesh: &MeshConfig) -> Result<Vec<String>, Wrong> {
        self.name = check_name(&self.name).map_err(|why| Wrong::new("coordinator.name", why))?;
        if self.exit_delay > Duration::from_secs(3600) {
            return Err(Wrong::new("coordinator.exit_delay", "a house that arms so late is not armed: write 1h or less"));
        }
        if self.arrival_hold > LONGEST_HOLD {
            return Err(Wrong::new("coordinator.arrival_hold", "mails that wait so long come too late: write 5m or less"));
        }
        for (key, kept) in
            [("decisions_for", self.decisions_for), ("sightings_for", self.sightings_for), ("events.max_age", self.events.max_age)]
        {
            if !(SHORTEST_KEPT..=LONGEST_KEPT).contains(&kept) {
                let kept = humantime::format_duration(kept);
                return Err(Wrong::new(format!("coordinator.{key}"), format!("it is {kept}; write 1h to 3650d, such as 30d")));
            }
        }
        check_room("coordinator.events.max_size", self.events.max_size)?;
        if overlap(mesh.listen, self.enroll_listen) {
            // The one of the two that somebody wrote.
            let key = if self.enroll_listen == Self::default().enroll_listen { "mesh.listen" } else { "coordinator.enroll_listen" };
            let why = format!(
                "[mesh] listen ({}) and [coordinator] enroll_listen ({}) cannot be the same: give each a port of its own",
                mesh.listen, self.enroll_listen
            );
            return Err(Wrong::new(key, why));
        }
        windows(&self.windows, self.zone.as_deref())?;
        check_sound("coordinator", self.sound.as_ref())?;
        self.presence.validate().map_err(|wrong| wrong.within("coordinator.presence"))
    }
}

const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// Less tells nobody what happened last night; more is no time that anybody means.
const SHORTEST_KEPT: Duration = Duration::from_secs(3600);
const LONGEST_KEPT: Duration = Duration::from_secs(3650 * 86400);
/// A camera gives up nothing for an outage that a family may sleep through.
const SHORTEST_WAITING: Duration = Duration::from_secs(86_400);
/// Less has no room for one picture of a good camera.
const LEAST_ROOM: Size = Size(10_000_000);

fn check_sound(section: &str, sound: Option<&SoundConfig>) -> Result<(), Wrong> {
    sound.map_or(Ok(()), SoundConfig::check).map_err(|wrong| wrong.within(&format!("{section}.sound")))
}

fn check_room(key: &str, room: Size) -> Result<(), Wrong> {
    if room < LEAST_ROOM {
        return Err(Wrong::new(key, format!("{room} has no room for what a camera sees: write {LEAST_ROOM} or more")));
    }
    Ok(())
}

/// Whether only one of the two can be listened on. Port 0 is another one each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` takes the port of every IPv4 address too.
    let takes = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || takes(one, other) || takes(other, one))
}

/// `[camera]`
#[derive(Debug, Clone)]
pub struct CameraConfig {
    pub on_coordinator_lost: OnLostConfig,
    pub detectors: Vec<DetectorConfig>,
    /// Where hooks leave events while the node does not run.
    pub spool_dir: PathBuf,
    pub outbox: OutboxConfig,
    /// When a camera with `[mail]` mails what it saw by itself.
    pub mail_after: MailAfter,
    /// A camera with `[mail]` mails that the coordinator is gone after it missed it for so long.
    pub lost_alert_after: Duration,
    pub sound: Option<SoundConfig>,
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CameraFile {
    on_coordinator_lost: OnLostConfig,
    #[serde(rename = "detector")]
    detectors: Vec<DetectorFile>,
    spool_dir: Option<PathBuf>,
    outbox: OutboxConfig,
    #[serde(deserialize_with = "optional_word")]
    mail_after: Option<String>,
    #[serde(deserialize_with = "time")]
    lost_alert_after: Duration,
    sound: Option<SoundConfig>,
}

impl Default for CameraFile {
    fn default() -> Self {
        Self {
            on_coordinator_lost: OnLostConfig::default(),
            detectors: Vec::new(),
            spool_dir: None,
            outbox: OutboxConfig::default(),
            mail_after: None,
            lost_alert_after: LOST_ALERT_AFTER,
            sound: None,
        }
    }
}

impl TryFrom<CameraFile> for CameraConfig {
    type Error = Wrong;

    fn try_from(file: CameraFile) -> Result<Self, Wrong> {
        let mut detectors = Vec::new();
        for (nth, detector) in file.detectors.into_iter().enumerate() {
            detectors.push(DetectorConfig::try_from(detector).map_err(|wrong| wrong.within(&format!("camera.detector.{nth}")))?);
        }
        if detectors.is_empty() {
            detectors.push(DetectorConfig::default());
        }
        check_together(&detectors).map_err(|wrong| wrong.within("camera.detector"))?;
        let spool_dir = file.spool_dir.unwrap_or_else(|| crate::spool::DEFAULT.into());
        if !spool_dir.is_absolute() {
            return Err(Wrong::new("camera.spool_dir", format!("{} is not an absolute path", spool_dir.display())));
        }
        if !(Duration::from_secs(1)..=LONGEST_WAIT).contains(&file.lost_alert_after) {
            return Err(Wrong::new("camera.lost_alert_after", "write 1s to 1d, such as 2m"));
        }
        check_room("camera.outbox.max_size", file.outbox.max_size)?;
        check_room("camera.outbox.max_file", file.outbox.max_file)?;
        if !(SHORTEST_WAITING..=LONGEST_KEPT).contains(&file.outbox.max_age) {
            let age = humantime::format_duration(file.outbox.max_age);
            return Err(Wrong::new("camera.outbox.max_age", format!("it is {age}; write 1d to 3650d, such as 90d")));
        }
        check_sound("camera", file.sound.as_ref())?;
        let mail_after = file.mail_after.as_deref().map(mail_after).transpose().map_err(|why| Wrong::new("camera.mail_after", why))?;
        let mail_after = mail_after.unwrap_or_default();
        Ok(Self {
            on_coordinator_lost: file.on_coordinator_lost,
            detectors,
            spool_dir,
            outbox: file.outbox,
            mail_after,
            lost_alert_after: file.lost_alert_after,
            sound: file.sound,
        })
    }
}

/// Long enough for a coordinator to be updated and started again.
const LOST_ALERT_AFTER: Duration = Duration::from_secs(120);
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

fn mail_after(text: &str) -> Result<MailAfter, String> {
    if text == "always" {
        return Ok(MailAfter::Always);
    }
    let wait = humantime::parse_duration(text).ok().filter(|wait| (Duration::from_secs(1)..=LONGEST_WAIT).contains(wait));
    wait.map(MailAfter::Unacknowledged).ok_or_else(|| format!("{text:?} is no time: write \"always\" or 1s to 1d, such as \"30s\""))
}

/// What a disarmed camera does without a coordinator: `"hold"` or `{ arm_after = "15m", as = "away" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OnLostFile")]
pub struct OnLostConfig(pub OnLost);

/// A disarmed camera without a coordinator arms itself after this, unless somebody says otherwise.
pub const ARM_AFTER: Duration = Duration::from_secs(15 * 60);

impl Default for OnLostConfig {
    fn default() -> Self {
        Self(OnLost::ArmAfter { after: ARM_AFTER, state: ArmState::Away })
    }
}

/// At once would arm at every hiccup of the link; after [`LEASE`] the leave has ended anyway.
pub fn check_arm_after(after: Duration) -> Result<(), String> {
    let shortest = Duration::from_secs(1);
    if (shortest..=LEASE).contains(&after) {
        return Ok(());
    }
    Err(format!("arm_after = \"{}\" is not possible: write 1s to 12h, such as 15m", humantime::format_duration(after)))
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "write \"hold\" or { arm_after = \"15m\", as = \"away\" }")]
enum OnLostFile {
    Word(String),
    Arm(ArmAfterFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmAfterFile {
    #[serde(deserialize_with = "time")]
    arm_after: Duration,
    #[serde(rename = "as")]
    state: ArmState,
}

impl TryFrom<OnLostFile> for OnLostConfig {
    type Error = String;

    fn try_from(file: OnLostFile) -> Result<Self, String> {
        match file {
            OnLostFile::Word(word) if word == "hold" => Ok(Self(OnLost::Hold)),
            OnLostFile::Word(word) => Err(format!("\"{word}\": write \"hold\" or {{ arm_after = \"15m\", as = \"away\" }}")),
            OnLostFile::Arm(arm) if arm.state == ArmState::Disarmed => {
                Err("a camera that lost its coordinator cannot arm itself as \"disarmed\": write as = \"away\" or as = \"night\""
                    .to_owned())
            }
            OnLostFile::Arm(arm) => {
                check_arm_after(arm.arm_after)?;
                Ok(Self(OnLost::ArmAfter { after: arm.arm_after, state: arm.state }))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Coordinator,
    Camera,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(deserialize_with = "word")]
    role: RoleName,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default = "default_run_dir")]
    run_dir: PathBuf,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    mesh: MeshConfig,
    mail: Option<MailFile>,
    web: Option<WebConfig>,
    coordinator: Option<CoordinatorConfig>,
    camera: Option<CameraFile>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/dms3".into()
}

fn default_run_dir() -> PathBuf {
    "/run/dms3".into()
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let what_to_do = match error.kind() {
                ErrorKind::PermissionDenied => "use sudo, or become a member of the group dms3",
                _ => "another place: --config FILE; a first one: `dms3-node init` or `dms3-node enroll` write it",
            };
            anyhow::Error::from(error).context(format!("cannot read the config {} ({what_to_do})", path.display()))
        })?;
        Self::parse(&text, path)
    }

    /// Checks `text` as if it stood in `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let file: ConfigFile = toml::from_str(text)
            .map_err(|error| anyhow::Error::msg(told(&error, text)))
            .with_context(|| format!("{} is not valid", path.display()))?;
        Self::check(file, path)
            .map_err(|wrong| anyhow::Error::msg(wrong.told(text)))
            .with_context(|| format!("{} is not valid", path.display()))
    }

    fn check(file: ConfigFile, path: &Path) -> Result<Self, Wrong> {
        for (key, dir) in [("state_dir", &file.state_dir), ("run_dir", &file.run_dir)] {
            if !dir.is_absolute() {
                return Err(Wrong::new(key, format!("{dir:?} is no absolute path: write one that begins with /")));
            }
        }
        file.mesh.check().map_err(|wrong| wrong.within("mesh"))?;
        let mut warnings = Vec::new();
        let mail = file.mail.map(|mail| MailConfig::new(mail, path)).transpose().map_err(|wrong| wrong.within("mail"))?;
        let mail = mail.map(|(mail, notes)| {
            warnings.extend(notes);
            mail
        });
        let role = match (file.role, file.coordinator, file.camera) {
            (RoleName::Coordinator, config, None) => {
                let mut config = config.unwrap_or_default();
                config.web = file.web.unwrap_or_default();
                config.web.check().map_err(|wrong| wrong.within("web"))?;
                warnings.extend(config.check(&file.mesh)?);
                Role::Coordinator(Box::new(config))
            }
            (RoleName::Camera, None, config) => {
                if file.web.is_some() {
                    let why = "role is \"camera\": remove the section [web], the coordinator serves the dashboard";
                    return Err(Wrong::new("web", why));
                }
                let config = CameraConfig::try_from(config.unwrap_or_default())?;
                let unusual = config.mail_after != MailAfter::default() || config.lost_alert_after != LOST_ALERT_AFTER;
                if mail.is_none() && unusual {
                    warnings.push(
                        "[camera] mail_after and lost_alert_after have no effect without a section [mail]: this camera mails nothing"
                            .to_owned(),
                    );
                }
                Role::Camera(Box::new(config))
            }
            (RoleName::Coordinator, _, Some(_)) => {
                let why = "role is \"coordinator\": remove the section [camera] (one machine that is both runs two nodes with two configs)";
                return Err(Wrong::new("camera", why));
            }
            (RoleName::Camera, Some(_), _) => {
                let why = "role is \"camera\": remove the section [coordinator] (one machine that is both runs two nodes with two configs)";
                return Err(Wrong::new("coordinator", why));
            }
        };
        let (state_dir, run_dir) = (file.state_dir, file.run_dir);
        Ok(Self { path: path.to_owned(), state_dir, run_dir, log: file.log, mesh: file.mesh, mail, role, warnings })
    }

    /// What a command needs to be told of this node: nothing, or " --config FILE".
    pub fn option(&self) -> String {
        if self.path == Path::new(DEFAULT_PATH) { String::new() } else { format!(" --config {}", self.path.display()) }
    }

    /// The socket for `status`, `arm` and the like.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// None: this node plays no sound.
    pub fn sound(&self) -> Option<&SoundConfig> {
        let sound = match &self.role {
            Role::Coordinator(config) => config.sound.as_ref(),
            Role::Camera(config) => config.sound.as_ref(),
        };
        sound.filter(|sound| sound.enabled)
    }

    pub fn coordinator(&self) -> Result<&CoordinatorConfig> {
        match &self.role {
            Role::Coordinator(config) => Ok(config),
            Role::Camera(_) => bail!("{} says role = \"camera\": run this on the coordinator", self.path.display()),
        }
    }
}
