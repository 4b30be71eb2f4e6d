//! Motion as a child: the motion.conf that we write, what the user's own says of itself, and how it is started.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dms3_core::protocol::message::LiveView;
use dms3_pki::files::{PRIVATE, create_dir_private, write_atomic};

use super::config::{MotionConf, MotionConfig, PictureSource, WrittenConf, media_dir};
use super::config_file::check_hook_safe;
use super::leftover::Kin;
use super::port::{MotionPort, ReservedPort};
use super::process::Program;
use super::truth::{Senses, Tells, WARM_UP};

/// Directories and files of one source.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `detector/NAME` in the state directory.
    dir: PathBuf,
    /// The same in the directory of the sockets, for what is written anew at each start: a card that lets nobody write any more keeps no
    /// detector from watching.
    run: PathBuf,
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
        let of = |dir: &Path| dir.join("detector").join(source);
        Self { dir: of(state_dir), run: of(&hooks.run_dir), media: media_dir(state_dir, source), hooks }
    }

    /// What is kept of the running child.
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("process")
    }

    /// What is kept of the running child that only shows.
    pub(crate) fn view_record(&self) -> PathBuf {
        self.dir.join("view-process")
    }

    fn conf(&self) -> PathBuf {
        self.run.join("motion.conf")
    }

    pub(crate) fn view_conf(&self) -> PathBuf {
        self.run.join("view.conf")
    }

    pub(crate) fn make_for_records(&self) -> Result<()> {
        Ok(create_dir_private(&self.dir)?)
    }

    fn make_for_configs(&self) -> Result<()> {
        Ok(create_dir_private(&self.run)?)
    }
}

/// One start of Motion, all made ready: only exec is left to do.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) program: Program,
    pub(crate) senses: Senses,
    pub(crate) webcontrol: Option<MotionPort>,
    /// Where its picture is to be seen.
    pub(crate) stream: Option<MotionPort>,
    /// The config file that must be there: without it Motion would take the system's own.
    pub(crate) conf: PathBuf,
    _ports: Vec<ReservedPort>,
}

/// A Motion that shows what the camera sees and does nothing else, made ready.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) program: Program,
    pub(crate) stream: MotionPort,
    _port: ReservedPort,
}

/// The path that stands on Motion's command line.
pub(crate) fn conf_path(config: &MotionConfig, places: &Places) -> PathBuf {
    match &config.conf {
        MotionConf::Own(path) => path.clone(),
        MotionConf::Written(_) => places.conf(),
    }
}

/// Writes motion.conf or reads the user's, chooses a port, makes the directories.
pub(crate) fn make_ready(config: &MotionConfig, live: LiveView, source: &str, places: &Places, kin: &Kin) -> Result<Ready> {
    places.make_for_configs()?;
    let conf = conf_path(config, places);
    let (senses, webcontrol, stream, ports) = match &config.conf {
        MotionConf::Own(path) => {
            let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let own = OwnConf::read(&String::from_utf8_lossy(&text));
            (own.senses(), own.port("webcontrol"), own.port("stream"), Vec::new())
        }
        MotionConf::Written(written) => {
            let media = written.media_dir.clone().unwrap_or_else(|| places.media.clone());
            check_hook_safe(&media).map_err(anyhow::Error::msg).context("cannot keep pictures there: give another `media_dir`")?;
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(&media)
                .with_context(|| format!("cannot make the directory {} for pictures", media.display()))?;
            let (port, stream) = (ReservedPort::new()?, ReservedPort::new()?);
            let login = new_login();
            let shows = (live != LiveView::Never).then(|| stream.port());
            let text = conf_text(written, source, &media, &places.hooks.lines()?, (port.port(), shows), &login);
            write_atomic(&conf, text.as_bytes(), PRIVATE)?;
            // Its stream may be the user's, in `extra`.
            let stream_port = OwnConf::read(&text).port("stream");
            (senses_of(written), Some(MotionPort { port: port.port(), login: Some(login) }), stream_port, vec![port, stream])
        }
    };
    let program = program(config, &conf, kin)?;
    Ok(Ready { program, senses, webcontrol, stream: stream.filter(|_| live != LiveView::Never), conf, _ports: ports })
}

/// Writes the config of a Motion that only shows.
pub(crate) fn make_view(config: &MotionConfig, written: &WrittenConf, source: &str, places: &Places, kin: &Kin) -> Result<View> {
    places.make_for_configs()?;
    let (port, login, conf) = (ReservedPort::new()?, new_login(), places.view_conf());
    write_atomic(&conf, view_text(written, source, port.port(), &login).as_bytes(), PRIVATE)?;
    Ok(View { program: program(config, &conf, kin)?, stream: MotionPort { port: port.port(), login: Some(login) }, _port: port })
}

fn program(config: &MotionConfig, conf: &Path, kin: &Kin) -> Result<Program> {
    let mut command = config.command.clone();
    command.extend(["-n".to_owned(), "-c".to_owned(), conf.to_str().context("the path of motion.conf is not valid text")?.to_owned()]);
    // We read its log, so it must not be translated. This leaves times and numbers in the user's language.
    let env = BTreeMap::from([("LANGUAGE".to_owned(), "en".to_owned())]);
    Ok(Program { command, env, kin: kin.clone() })
}

/// Other users of this machine must not rule our Motion, nor see what it sees.
fn new_login() -> String {
    format!("dms3:{:032x}", rand::random::<u128>())
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

const WRITTEN: &str = "# Written by dms3-node at each start: change dms3.toml instead.\n";

/// Where the picture comes from, and its measures.
fn picture_lines(conf: &WrittenConf) -> Vec<(&'static str, String)> {
    let framerate = conf.framerate.to_string();
    let mut lines = match &conf.picture {
        PictureSource::Device(path) => vec![("video_device", path.display().to_string())],
        // `capture_rate` also gives a video file its pace.
        PictureSource::Url(url) => vec![("netcam_url", url.clone()), ("netcam_params", format!("capture_rate={framerate}"))],
    };
    lines.extend([("width", conf.width.to_string()), ("height", conf.height.to_string()), ("framerate", framerate)]);
    lines
}

/// Where its picture is to be seen, by this node alone; it costs nothing while nobody looks.
fn stream_lines(port: Option<u16>, login: &str) -> Vec<(&'static str, String)> {
    let Some(port) = port else { return vec![("stream_port", "0".to_owned())] };
    vec![
        ("stream_port", port.to_string()),
        ("stream_localhost", "on".to_owned()),
        ("stream_auth_method", "1".to_owned()),
        ("stream_authentication", login.to_owned()),
        ("stream_quality", "70".to_owned()),
    ]
}

/// Keys of `extra` that say how the picture looks. All others would do something, and a Motion that only shows does nothing else.
const LOOKS: [&str; 10] = [
    "rotate",
    "flip_axis",
    "v4l2_palette",
    "video_params",
    "netcam_params",
    "netcam_userpass",
    "mask_privacy",
    "text_left",
    "text_right",
    "text_scale",
];

/// The whole file of a Motion that shows what its camera sees: it detects, records and calls nothing.
fn view_text(conf: &WrittenConf, source: &str, stream: u16, login: &str) -> String {
    let mut lines = BTreeMap::from(
        [
            ("daemon", "off"),
            ("setup_mode", "off"),
            ("native_language", "off"),
            ("log_level", "5"),
            ("pause", "on"),
            ("picture_output", "off"),
            ("movie_output", "off"),
            ("webcontrol_port", "0"),
        ]
        .map(|(key, value)| (key, value.to_owned())),
    );
    lines.insert("camera_name", source.to_owned());
    lines.extend(picture_lines(conf));
    lines.extend(stream_lines(Some(stream), login));
    for (key, value) in &conf.extra {
        if let Some(key) = LOOKS.iter().find(|known| *known == key) {
            lines.insert(key, value.clone());
        }
    }
    lines.into_iter().fold(WRITTEN.to_owned(), |text, (key, value)| format!("{text}{key} {value}\n"))
}

/// The whole file, in the format of Motion 4.x: a key and its value on each line.
fn conf_text(
    conf: &WrittenConf,
    source: &str,
    media: &Path,
    hooks: &[(&str, String)],
    (port, stream): (u16, Option<u16>),
    login: &str,
) -> String {
    let mut text = WRITTEN.to_owned();
    let users_stream = conf.extra.iter().any(|(name, _)| name == "stream_port");
    let mut put = |key: &str, value: &str| {
        if !conf.extra.iter().any(|(name, _)| name == key) {
            let _ = writeln!(text, "{key} {value}");
        }
    };
    for (key, value) in [("daemon", "off"), ("setup_mode", "off"), ("native_language", "off"), ("log_level", "6"), ("log_type", "ALL")] {
        put(key, value);
    }
    put("camera_name", source);
    for (key, value) in picture_lines(conf) {
        put(key, &value);
    }
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
    ] {
        put(key, value);
    }
    if !users_stream {
        for (key, value) in stream_lines(stream, login) {
            put(key, &value);
        }
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

    /// Of its "webcontrol" or its "stream". `None` without one, or if it speaks TLS or wants a digest: then we cannot ask.
    fn port(&self, of: &str) -> Option<MotionPort> {
        let get = |key: &str| self.get(&format!("{of}_{key}"));
        let port = get("port")?.parse().ok().filter(|port| *port != 0)?;
        let tls = matches!(get("tls"), Some("on" | "yes" | "1"));
        let login = match get("auth_method").unwrap_or("0") {
            "0" => None,
            "1" => Some(get("authentication")?.to_owned()),
            _ => return None,
        };
        (!tls).then_some(MotionPort { port, login })
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
            webcontrol: if self.port("webcontrol").is_some() { Tells::Perhaps } else { Tells::Nothing },
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
        Places { run: state_dir.join("run"), ..Places::new(state_dir, source, hooks) }
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
        let ready = make_ready(&config, LiveView::Watching, "door", &places, &Kin::new("x")).unwrap();
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
    fn a_motion_that_only_shows_is_told_nothing_that_records_or_calls() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path(), "door");
        let config = motion(
            "url = \"rtsp://10.0.0.9/live\"\nframerate = 5\n[extra]\nrotate = 180\nemulate_motion = true\nsnapshot_interval = 1\n\
             timelapse_interval = 1\non_motion_detected = \"rm x\"\nmovie_output = true\nstream_port = 8081\nstream_localhost = false\n\
             video_pipe = \"/dev/video9\"\nnetcam_high_url = \"rtsp://x\"",
        );
        let MotionConf::Written(written) = &config.conf else { panic!("written") };
        let view = make_view(&config, written, "door", &places, &Kin::new("x")).unwrap();
        let keys = keys(&places.view_conf());
        let port = view.stream.port.to_string();
        for (key, value) in [
            ("pause", "on"),
            ("picture_output", "off"),
            ("movie_output", "off"),
            ("stream_port", port.as_str()),
            ("stream_localhost", "on"),
            ("stream_auth_method", "1"),
            ("webcontrol_port", "0"),
            ("rotate", "180"),
            ("framerate", "5"),
        ] {
            assert_eq!(keys[key], value, "{key}");
        }
        for key in ["emulate_motion", "snapshot_interval", "timelapse_interval", "on_motion_detected", "video_pipe", "netcam_high_url"] {
            assert_eq!(keys.get(key), None);
        }
        assert_eq!(fs::metadata(places.view_conf()).unwrap().permissions().mode() & 0o777, 0o600);

        // The user's own stream stays as it is, and is asked; one that shows nothing has none.
        let ready = make_ready(&config, LiveView::Watching, "door", &places, &Kin::new("x")).unwrap();
        assert_eq!(ready.stream, Some(MotionPort { port: 8081, login: None }));
        let ready = make_ready(&motion(""), LiveView::Never, "door", &places, &Kin::new("x")).unwrap();
        assert_eq!((ready.stream, super::tests::keys(&ready.conf)["stream_port"].as_str()), (None, "0"));
    }

    #[test]
    fn the_users_own_file_is_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.conf");
        let text = "# mine\ndaemon on\nwebcontrol_port = 8080\n;framerate 3\nframerate 10\nvideo_device /dev/video4\n";
        fs::write(&path, text).unwrap();
        let config = motion(&format!("config = {path:?}"));
        let ready = make_ready(&config, LiveView::Watching, "cam", &places(dir.path(), "cam"), &Kin::new("x")).unwrap();
        assert_eq!(ready.program.command[3], path.to_str().unwrap());
        assert_eq!(ready.webcontrol, Some(MotionPort { port: 8080, login: None }));
        assert_eq!(ready.senses.picture, "/dev/video4");
        assert_eq!(ready.senses.warm_up, WARM_UP + Duration::from_millis(100));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn what_cannot_be_asked_of_a_users_motion_is_not_asked() {
        for text in ["", "webcontrol_port 0", "webcontrol_port 1\nwebcontrol_tls on", "webcontrol_port 1\nwebcontrol_auth_method 2"] {
            assert_eq!(OwnConf::read(text).port("webcontrol"), None, "{text}");
        }
        let login = OwnConf::read("webcontrol_port 1\nwebcontrol_auth_method 1\nwebcontrol_authentication a:b").port("webcontrol").unwrap();
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
        let error = make_ready(&motion(&format!("config = {path:?}")), LiveView::Watching, "cam", &places, &Kin::new("x")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot read"), "{error:#}");
        assert!(check_conf(&path).is_err());
        assert!(check_conf(dir.path()).is_err());
    }

    #[test]
    fn a_state_directory_that_a_shell_would_split_needs_a_media_dir() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("my state");
        let error = make_ready(&motion(""), LiveView::Watching, "cam", &places(&state, "cam"), &Kin::new("x")).unwrap_err();
        assert!(format!("{error:#}").contains("media_dir"), "{error:#}");
        let media = dir.path().join("media");
        make_ready(&motion(&format!("media_dir = {media:?}")), LiveView::Watching, "cam", &places(&state, "cam"), &Kin::new("x")).unwrap();
    }
}
