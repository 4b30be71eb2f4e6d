//! Motion as a child: the motion.conf that we write, what the user's own says of itself, and how it is started.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_pki::files::{PRIVATE, create_dir_private, write_atomic};

use super::config::{MotionConf, MotionConfig, PictureSource, WrittenConf, media_dir};
use super::config_file::check_hook_safe;
use super::leftover::Kin;
use super::process::Program;
use super::truth::{Senses, Tells, WARM_UP};
use super::webcontrol::{ReservedPort, Webcontrol};

/// Directories and files of one source.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `detector/NAME` in the state directory.
    dir: PathBuf,
    media: PathBuf,
    hooks: Hooks,
}

/// What Motion's hooks are to call.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// This program.
    pub program: PathBuf,
    pub run_dir: PathBuf,
    pub spool: PathBuf,
}

impl Hooks {
    /// The lines of motion.conf. A shell reads them, so every path in them must be one that it leaves alone.
    fn lines(&self) -> Result<Vec<(&'static str, String)>> {
        for path in [&self.program, &self.run_dir, &self.spool] {
            check_hook_safe(path).map_err(anyhow::Error::msg).context("Motion cannot tell this node what it sees")?;
        }
        let (program, run_dir, spool) = (self.program.display(), self.run_dir.display(), self.spool.display());
        let line = |what: &str, more: &str| {
            format!("{program} hook {what} --event %{{eventid}} --camera %$ {more}--run-dir {run_dir} --spool {spool}")
        };
        let file = "--kind %n --pixels %D --file \"%f\" ";
        Ok(vec![
            ("on_event_start", line("event-start", "")),
            ("on_picture_save", line("picture", file)),
            ("on_movie_end", line("movie", file)),
            ("on_event_end", line("event-end", "")),
            ("on_camera_lost", format!("{program} hook camera-lost --camera %$ --run-dir {run_dir} --spool {spool}")),
            ("on_camera_found", format!("{program} hook camera-found --camera %$ --run-dir {run_dir} --spool {spool}")),
        ])
    }
}

impl Places {
    pub(crate) fn new(state_dir: &Path, source: &str, hooks: Hooks) -> Self {
        Self { dir: state_dir.join("detector").join(source), media: media_dir(state_dir, source), hooks }
    }

    /// What is kept of the running child.
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("process")
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("motion.conf")
    }

    pub(crate) fn make(&self) -> Result<()> {
        Ok(create_dir_private(&self.dir)?)
    }
}

/// One start of Motion, all made ready: only exec is left to do.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) program: Program,
    pub(crate) senses: Senses,
    pub(crate) webcontrol: Option<Webcontrol>,
    /// The config file that must be there: without it Motion would take the system's own.
    pub(crate) conf: PathBuf,
    _port: Option<ReservedPort>,
}

/// The path that stands on Motion's command line.
pub(crate) fn conf_path(config: &MotionConfig, places: &Places) -> PathBuf {
    match &config.conf {
        MotionConf::Own(path) => path.clone(),
        MotionConf::Written(_) => places.conf(),
    }
}

/// Writes motion.conf or reads the user's, chooses a port, makes the directories.
pub(crate) fn make_ready(config: &MotionConfig, source: &str, places: &Places, kin: &Kin) -> Result<Ready> {
    places.make()?;
    let conf = conf_path(config, places);
    let (senses, webcontrol, port) = match &config.conf {
        MotionConf::Own(path) => {
            let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let own = OwnConf::read(&String::from_utf8_lossy(&text));
            (own.senses(), own.webcontrol(), None)
        }
        MotionConf::Written(written) => {
            let media = written.media_dir.clone().unwrap_or_else(|| places.media.clone());
            check_hook_safe(&media).map_err(anyhow::Error::msg).context("cannot keep pictures there: give another `media_dir`")?;
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(&media)
                .with_context(|| format!("cannot make the directory {} for pictures", media.display()))?;
            let port = ReservedPort::new()?;
            let login = format!("dms3:{:032x}", rand::random::<u128>());
            let text = conf_text(written, source, &media, &places.hooks.lines()?, port.port(), &login);
            write_atomic(&conf, text.as_bytes(), PRIVATE)?;
            (senses_of(written), Some(Webcontrol { port: port.port(), login: Some(login) }), Some(port))
        }
    };
    let mut command = config.command.clone();
    command.extend(["-n".to_owned(), "-c".to_owned(), conf.to_str().context("the path of motion.conf is not valid text")?.to_owned()]);
    // We read its log, so it must not be translated. This leaves times and numbers in the user's language.
    let env = BTreeMap::from([("LANGUAGE".to_owned(), "en".to_owned())]);
    Ok(Ready { program: Program { command, env, kin: kin.clone() }, senses, webcontrol, conf, _port: port })
}

/// Why it could not be started, and what to do.
pub(crate) fn spawn_error(config: &MotionConfig, error: &io::Error) -> String {
    let program = config.command.first().map(String::as_str).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound if program == "motion" => {
            "cannot start motion: not found; install it with `apt install motion` or set `command`".to_owned()
        }
        io::ErrorKind::NotFound => format!("cannot start {program}: not found; install it or set `command`"),
        io::ErrorKind::PermissionDenied => format!("cannot start {program}: not allowed; is it a program that this user may execute?"),
        _ => format!("cannot start {program}: {error}"),
    }
}

/// The pictures that our motion.conf makes Motion collect before it may show a movement.
const PRE_CAPTURE: u32 = 3;
const MINIMUM_MOTION_FRAMES: u32 = 2;

fn senses_of(conf: &WrittenConf) -> Senses {
    let number =
        |key: &str, default| conf.extra.iter().find(|(name, _)| name == key).map_or(default, |(_, value)| value.parse().unwrap_or(default));
    let frames = number("pre_capture", PRE_CAPTURE).saturating_add(number("minimum_motion_frames", MINIMUM_MOTION_FRAMES));
    Senses { webcontrol: Tells::Surely, log: true, warm_up: warm_up(frames, conf.framerate), picture: conf.picture.shown() }
}

fn warm_up(frames: u32, framerate: u32) -> Duration {
    WARM_UP + Duration::from_secs(u64::from(frames)) / framerate.clamp(2, 100)
}

/// The whole file, in the format of Motion 4.x: a key and its value on each line.
fn conf_text(conf: &WrittenConf, source: &str, media: &Path, hooks: &[(&str, String)], port: u16, login: &str) -> String {
    let mut text = "# Written by dms3-node at each start: change dms3.toml instead.\n".to_owned();
    let framerate = conf.framerate.to_string();
    let (picture, picture_value, params) = match &conf.picture {
        PictureSource::Device(path) => ("video_device", path.display().to_string(), None),
        // `capture_rate` also gives a video file its pace.
        PictureSource::Url(url) => ("netcam_url", url.clone(), Some(format!("capture_rate={framerate}"))),
    };
    let mut put = |key: &str, value: &str| {
        if !conf.extra.iter().any(|(name, _)| name == key) {
            let _ = writeln!(text, "{key} {value}");
        }
    };
    for (key, value) in [("daemon", "off"), ("setup_mode", "off"), ("native_language", "off"), ("log_level", "6"), ("log_type", "ALL")] {
        put(key, value);
    }
    put("camera_name", source);
    put(picture, &picture_value);
    if let Some(params) = params {
        put("netcam_params", &params);
    }
    put("width", &conf.width.to_string());
    put("height", &conf.height.to_string());
    put("framerate", &framerate);
    put("threshold", &conf.threshold.to_string());
    for (key, value) in [
        ("noise_tune", "on"),
        ("despeckle_filter", "EedDl"),
        ("minimum_motion_frames", &MINIMUM_MOTION_FRAMES.to_string()),
        ("event_gap", "3"),
        ("pre_capture", &PRE_CAPTURE.to_string()),
        ("post_capture", "5"),
        ("picture_output", "first"),
        ("picture_filename", "%v-%Y%m%d%H%M%S-%q"),
        ("movie_output", "on"),
        ("movie_codec", "mp4"),
        ("movie_filename", "%v-%Y%m%d%H%M%S"),
    ] {
        put(key, value);
    }
    for (key, value) in hooks {
        put(key, value);
    }
    put("target_dir", &media.display().to_string());
    put("webcontrol_port", &port.to_string());
    for (key, value) in [
        ("webcontrol_localhost", "on"),
        ("webcontrol_interface", "1"),
        ("webcontrol_parms", "0"),
        // Other users of this machine must not pause our Motion, nor lock us out by trying.
        ("webcontrol_auth_method", "1"),
        ("webcontrol_authentication", login),
        ("webcontrol_lock_attempts", "1000000"),
        ("stream_port", "0"),
    ] {
        put(key, value);
    }
    for (key, value) in &conf.extra {
        let _ = writeln!(text, "{key} {value}");
    }
    text
}

/// What the user's own motion.conf says that matters to us.
#[derive(Debug, Default)]
struct OwnConf {
    keys: BTreeMap<String, String>,
    cameras: bool,
}

impl OwnConf {
    fn read(text: &str) -> Self {
        let mut own = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let (key, value) = line.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((line, ""));
            let value = value.trim_start_matches(|c: char| c.is_whitespace() || c == '=').trim_matches(['"', '\'']);
            if key == "camera" || key == "camera_dir" {
                own.cameras = true;
            } else if !value.is_empty() {
                own.keys.insert(key.to_owned(), value.to_owned());
            }
        }
        own
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    fn number(&self, key: &str, default: u32) -> u32 {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// `None` without one, or if it speaks TLS or wants a digest: then we cannot ask.
    fn webcontrol(&self) -> Option<Webcontrol> {
        let port = self.get("webcontrol_port")?.parse().ok().filter(|port| *port != 0)?;
        let tls = matches!(self.get("webcontrol_tls"), Some("on" | "yes" | "1"));
        let login = match self.get("webcontrol_auth_method").unwrap_or("0") {
            "0" => None,
            "1" => Some(self.get("webcontrol_authentication")?.to_owned()),
            _ => return None,
        };
        (!tls).then_some(Webcontrol { port, login })
    }

    fn senses(&self) -> Senses {
        let frames = self.number("pre_capture", 0).saturating_add(self.number("minimum_motion_frames", 1));
        let picture = match (self.cameras, self.get("netcam_url"), self.get("video_device").or_else(|| self.get("videodevice"))) {
            (true, ..) => "one of its cameras".to_owned(),
            (false, Some(url), _) => PictureSource::Url(url.to_owned()).shown(),
            (false, None, Some(device)) => device.to_owned(),
            (false, None, None) => "its camera".to_owned(),
        };
        Senses {
            webcontrol: if self.webcontrol().is_some() { Tells::Perhaps } else { Tells::Nothing },
            // Several cameras speak in one log, and which of them is meant cannot be told.
            log: !self.cameras && self.get("log_file").is_none() && self.number("log_level", 6) >= 6,
            warm_up: warm_up(frames, self.number("framerate", 15)),
            picture,
        }
    }
}

/// Refuses to start on a config file that is gone: Motion would take /etc/motion/motion.conf instead.
pub(crate) fn check_conf(path: &Path) -> Result<()> {
    match fs::File::open(path) {
        Ok(file) if file.metadata().is_ok_and(|data| data.is_file()) => Ok(()),
        Ok(_) => bail!("{} is not a file", path.display()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::config::{Detector, DetectorConfig};
    use super::*;

    fn places(state_dir: &Path, source: &str) -> Places {
        let hooks = Hooks { program: "/usr/local/bin/dms3-node".into(), run_dir: "/run/dms3".into(), spool: "/var/spool/dms3".into() };
        Places::new(state_dir, source, hooks)
    }

    fn motion(text: &str) -> MotionConfig {
        let Detector::Motion(motion) = toml::from_str::<DetectorConfig>(text).unwrap().detector;
        motion
    }

    fn keys(path: &Path) -> BTreeMap<String, String> {
        OwnConf::read(&fs::read_to_string(path).unwrap()).keys
    }

    #[test]
    fn the_written_file_is_ours_alone_and_each_key_stands_once() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path(), "door");
        let config = motion("url = \"rtsp://me:pw@10.0.0.9/live\"\n[extra]\nevent_gap = 30\npre_capture = 10\ntext_left = \"my door\"");
        let ready = make_ready(&config, "door", &places, &Kin::new("x")).unwrap();
        assert_eq!(fs::metadata(&ready.conf).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&ready.conf).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("event_gap")).collect::<Vec<_>>(), ["event_gap 30"]);
        let keys = keys(&ready.conf);
        assert_eq!(keys["netcam_url"], "rtsp://me:pw@10.0.0.9/live");
        assert_eq!(keys["text_left"], "my door");
        assert_eq!(keys["daemon"], "off");
        assert_eq!(
            keys["on_picture_save"],
            "/usr/local/bin/dms3-node hook picture --event %{eventid} --camera %$ --kind %n --pixels %D --file \"%f\" --run-dir /run/dms3 --spool /var/spool/dms3"
        );
        assert_eq!(keys["webcontrol_localhost"], "on");
        assert_eq!(Path::new(&keys["target_dir"]), dir.path().join("media/door"));
        assert!(dir.path().join("media/door").is_dir());
        assert_eq!(ready.program.command, ["motion", "-n", "-c", ready.conf.to_str().unwrap()]);
        assert_eq!(ready.senses.picture, "rtsp://10.0.0.9/live");
        assert_eq!(ready.senses.warm_up, WARM_UP + Duration::from_millis(800));
        assert!(!format!("{ready:?}").contains(&keys["webcontrol_authentication"]));
    }

    #[test]
    fn the_users_own_file_is_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.conf");
        let text = "# mine\ndaemon on\nwebcontrol_port = 8080\n;framerate 3\nframerate 10\nvideo_device /dev/video4\n";
        fs::write(&path, text).unwrap();
        let config = motion(&format!("config = {path:?}"));
        let ready = make_ready(&config, "cam", &places(dir.path(), "cam"), &Kin::new("x")).unwrap();
        assert_eq!(ready.program.command[3], path.to_str().unwrap());
        assert_eq!(ready.webcontrol, Some(Webcontrol { port: 8080, login: None }));
        assert_eq!(ready.senses.picture, "/dev/video4");
        assert_eq!(ready.senses.warm_up, WARM_UP + Duration::from_millis(100));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn what_cannot_be_asked_of_a_users_motion_is_not_asked() {
        for text in ["", "webcontrol_port 0", "webcontrol_port 1\nwebcontrol_tls on", "webcontrol_port 1\nwebcontrol_auth_method 2"] {
            assert_eq!(OwnConf::read(text).webcontrol(), None, "{text}");
        }
        let login = OwnConf::read("webcontrol_port 1\nwebcontrol_auth_method 1\nwebcontrol_authentication a:b").webcontrol().unwrap();
        assert_eq!(login.login.as_deref(), Some("a:b"));
        assert!(!OwnConf::read("camera /etc/a.conf").senses().log);
        assert!(!OwnConf::read("log_file /tmp/x").senses().log);
        assert!(!OwnConf::read("log_level 4").senses().log);
    }

    #[test]
    fn a_users_file_that_is_gone_is_told_instead_of_another_one_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone.conf");
        let places = places(dir.path(), "cam");
        let error = make_ready(&motion(&format!("config = {path:?}")), "cam", &places, &Kin::new("x")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot read"), "{error:#}");
        assert!(check_conf(&path).is_err());
        assert!(check_conf(dir.path()).is_err());
    }

    #[test]
    fn a_state_directory_that_a_shell_would_split_needs_a_media_dir() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("my state");
        let error = make_ready(&motion(""), "cam", &places(&state, "cam"), &Kin::new("x")).unwrap_err();
        assert!(format!("{error:#}").contains("media_dir"), "{error:#}");
        let media = dir.path().join("media");
        make_ready(&motion(&format!("media_dir = {media:?}")), "cam", &places(&state, "cam"), &Kin::new("x")).unwrap();
    }
}
