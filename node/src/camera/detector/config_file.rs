//! The section `[[camera.detector]]` as it is written, and the checks that make it valid.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::protocol::message::LiveView;
use dms3_core::roster::NAME_LIMIT;
use serde::Deserialize;

use super::config::{Detector, DetectorConfig, MotionConf, MotionConfig, PictureSource, WrittenConf};
use super::words::split_words;
use crate::config_text::{Wrong, optional_number, optional_word, optional_words};

/// Longest time that a detector may take to end; after it, it is killed.
const LONGEST_GRACE: Duration = Duration::from_secs(60);

/// Keys of motion.conf that are ours to write: with another value, Motion would not watch, or we could not tell whether it does.
const OURS: &[(&str, &str)] = &[
    ("camera", "write one [[camera.detector]] for each camera, or your own file as `config`"),
    ("camera_dir", "write one [[camera.detector]] for each camera, or your own file as `config`"),
    ("camera_id", "the node asks Motion about camera 0"),
    ("camera_name", "write it as `name`"),
    ("daemon", "the node keeps Motion in the foreground"),
    ("framerate", "write it as `framerate` of the detector itself"),
    ("height", "write it as `height` of the detector itself"),
    ("log_file", "the node reads Motion's log"),
    ("log_level", "the node reads Motion's log"),
    ("log_type", "the node reads Motion's log"),
    ("native_language", "the node reads Motion's log"),
    ("netcam_url", "write it as `url`"),
    ("pause", "a paused Motion sees nothing; the node starts and stops it"),
    ("pid_file", "the node keeps Motion in the foreground"),
    ("process_id_file", "the node keeps Motion in the foreground"),
    ("quiet", "the node reads Motion's log"),
    ("setup_mode", "a Motion in set-up mode records nothing"),
    ("target_dir", "write it as `media_dir`"),
    ("threshold", "write it as `threshold` of the detector itself"),
    ("video_device", "write it as `video`"),
    ("videodevice", "write it as `video`"),
    ("width", "write it as `width` of the detector itself"),
];

/// What Motion's `netcam_url` takes.
const URL_SCHEMES: &[&str] = &["rtsp", "rtmp", "http", "https", "mjpeg", "mjpg", "jpeg", "ftp", "file", "v4l2"];

/// The section as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorFile {
    name: Option<String>,
    #[serde(default, deserialize_with = "optional_word")]
    kind: Option<Kind>,
    #[serde(default, deserialize_with = "optional_words")]
    watch_in: Option<Vec<ArmState>>,
    #[serde(default, deserialize_with = "optional_word")]
    stop_grace: Option<String>,
    #[serde(default, deserialize_with = "optional_word")]
    live: Option<LiveView>,
    command: Option<CommandFile>,
    config: Option<PathBuf>,
    video: Option<PathBuf>,
    url: Option<String>,
    #[serde(default, deserialize_with = "optional_number::<64, 7680, _, _>")]
    width: Option<u32>,
    #[serde(default, deserialize_with = "optional_number::<64, 7680, _, _>")]
    height: Option<u32>,
    #[serde(default, deserialize_with = "optional_number::<2, 100, _, _>")]
    framerate: Option<u32>,
    #[serde(default, deserialize_with = "optional_number::<1, 2_147_483_647, _, _>")]
    threshold: Option<u32>,
    media_dir: Option<PathBuf>,
    extra: Option<BTreeMap<String, ExtraValue>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Motion,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a list of words such as [\"libcamerify\", \"motion\"], or one string")]
enum CommandFile {
    Words(Vec<String>),
    Line(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string, a whole number, or true or false")]
enum ExtraValue {
    Switch(bool),
    Number(i64),
    Text(String),
}

impl TryFrom<DetectorFile> for DetectorConfig {
    type Error = Wrong;

    fn try_from(file: DetectorFile) -> Result<Self, Wrong> {
        let default = Self::default();
        let Kind::Motion = file.kind.unwrap_or(Kind::Motion);
        Ok(Self {
            name: match &file.name {
                Some(name) => check_source_name(name).map_err(of("name"))?,
                None => default.name,
            },
            watch_in: match &file.watch_in {
                Some(states) => check_watch_in(states).map_err(of("watch_in"))?,
                None => default.watch_in,
            },
            stop_grace: match &file.stop_grace {
                Some(text) => check_grace(text).map_err(of("stop_grace"))?,
                None => default.stop_grace,
            },
            live: match file.live {
                Some(LiveView::Always) if file.config.is_some() => {
                    let why = "`config` is your own motion.conf, and what is started while nothing is to be watched must record nothing: \
                               describe the camera by `video` or `url` instead, or write \"watching\"";
                    return Err(Wrong::new("live", why));
                }
                live => live.unwrap_or(default.live),
            },
            detector: Detector::Motion(MotionConfig::try_from(file)?),
        })
    }
}

impl TryFrom<DetectorFile> for MotionConfig {
    type Error = Wrong;

    fn try_from(mut file: DetectorFile) -> Result<Self, Wrong> {
        let command = match file.command.take() {
            Some(CommandFile::Words(words)) => words,
            Some(CommandFile::Line(line)) => split_words(&line).map_err(|why| Wrong::new("command", why))?,
            None => Self::default().command,
        };
        check_command(&command).map_err(of("command"))?;
        let conf = if let Some(path) = file.config.take() {
            let written = [
                ("video", file.video.is_some()),
                ("url", file.url.is_some()),
                ("width", file.width.is_some()),
                ("height", file.height.is_some()),
                ("framerate", file.framerate.is_some()),
                ("threshold", file.threshold.is_some()),
                ("media_dir", file.media_dir.is_some()),
                ("extra", file.extra.is_some()),
            ];
            if let Some((key, _)) = written.iter().find(|(_, given)| *given) {
                let why = format!("`config` is your own motion.conf, so `{key}` must stand in there: remove one of the two");
                return Err(Wrong::new(*key, why));
            }
            check_path("config", &path).map_err(of("config"))?;
            MotionConf::Own(path)
        } else {
            MotionConf::Written(WrittenConf::try_from(file)?)
        };
        Ok(Self { command, conf })
    }
}

impl TryFrom<DetectorFile> for WrittenConf {
    type Error = Wrong;

    fn try_from(file: DetectorFile) -> Result<Self, Wrong> {
        let default = Self::default();
        let picture = match (file.video, file.url) {
            (Some(_), Some(_)) => return Err(Wrong::new("url", "`video` and `url` are both given: a detector watches one picture")),
            (Some(path), None) => {
                check_path("video", &path).map_err(of("video"))?;
                PictureSource::Device(path)
            }
            (None, Some(url)) => PictureSource::Url(check_url(url).map_err(of("url"))?),
            (None, None) => default.picture,
        };
        if let Some(path) = &file.media_dir {
            check_path("media_dir", path).and_then(|()| check_hook_safe(path)).map_err(of("media_dir"))?;
        }
        Ok(Self {
            picture,
            width: side("width", file.width, default.width).map_err(of("width"))?,
            height: side("height", file.height, default.height).map_err(of("height"))?,
            framerate: file.framerate.unwrap_or(default.framerate),
            threshold: file.threshold.unwrap_or(default.threshold),
            media_dir: file.media_dir,
            extra: file.extra.unwrap_or_default().into_iter().map(check_extra).collect::<Result<_, _>>().map_err(of("extra"))?,
        })
    }
}

/// Says of which key of the section a complaint is.
fn of(key: &'static str) -> impl Fn(String) -> Wrong {
    move |why| Wrong::new(key, why)
}

/// A directory name that also survives a shell: letters of any script, digits, `-`, `_` and `.`.
fn check_source_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.chars().count() > NAME_LIMIT {
        return Err(format!("`name` must have 1 to {NAME_LIMIT} characters"));
    }
    if text.len() > 200 || !text.chars().all(allowed) || text.starts_with(['.', '-']) {
        return Err(format!(
            "`name` {text:?} is not possible: use letters, digits, `-`, `_` and `.`, such as \"front-door\" (it names a directory too)"
        ));
    }
    Ok(text.to_owned())
}

fn check_watch_in(states: &[ArmState]) -> Result<Vec<ArmState>, String> {
    if states.is_empty() {
        return Err(
            "`watch_in` is empty, so this camera would never watch: use [\"away\"] or [\"night\", \"away\"], or remove the detector"
                .to_owned(),
        );
    }
    if states.contains(&ArmState::Disarmed) {
        return Err("`watch_in` holds \"disarmed\": use [\"away\"] or [\"night\", \"away\"]".to_owned());
    }
    let mut states = states.to_vec();
    states.sort_unstable();
    states.dedup();
    Ok(states)
}

fn check_grace(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`stop_grace` is {text:?}: use a time from \"1s\" to \"{}s\"", LONGEST_GRACE.as_secs());
    let time: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    let time = Duration::try_from(time).map_err(|_| wrong())?;
    if time < Duration::from_secs(1) || time > LONGEST_GRACE {
        return Err(wrong());
    }
    Ok(time)
}

fn check_command(command: &[String]) -> Result<(), String> {
    let Some(program) = command.first() else {
        return Err("`command` is empty: use [\"motion\"], or leave it out".to_owned());
    };
    if program.is_empty() || command.iter().any(|word| word.contains('\0')) {
        return Err("`command` must begin with a program and hold no null characters".to_owned());
    }
    if program.contains('/') && !Path::new(program).is_absolute() {
        return Err(format!("`command` begins with {program:?}: give a whole path that begins with /, or only a name"));
    }
    if let Some(word) = command[1..].iter().find(|word| ["-c", "-b", "-m"].contains(&word.as_str())) {
        let instead = match word.as_str() {
            "-c" => "write your motion.conf as `config`",
            "-b" => "the node keeps Motion in the foreground",
            _ => "a paused Motion sees nothing",
        };
        return Err(format!("`command` holds {word}: leave it out, {instead}"));
    }
    Ok(())
}

fn check_path(key: &str, path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err(format!("`{key}` is {path:?}: give a whole path that begins with /"));
    }
    if path.to_string_lossy().chars().any(|c| c.is_control() || c == '"') {
        return Err(format!("`{key}` {path:?} holds a quote or a control character: rename it"));
    }
    Ok(())
}

/// Motion hands the names of files below this path to hooks through `sh`, where a space splits and a `$` runs.
pub(crate) fn check_hook_safe(path: &Path) -> Result<(), String> {
    let text = path.to_string_lossy();
    match text.chars().find(|c| !is_hook_safe(*c)) {
        Some(c) => {
            Err(format!("{path:?} holds {c:?}: Motion hands file names to a shell, so use letters, digits and any of / - _ . + @ ,"))
        }
        None => Ok(()),
    }
}

fn is_hook_safe(c: char) -> bool {
    c.is_alphanumeric() || "/-_.+@,".contains(c)
}

fn check_url(url: String) -> Result<String, String> {
    // A URL can hold a password: it is not repeated in the message.
    let scheme = url.split_once("://").filter(|(_, rest)| !rest.is_empty()).map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !scheme.is_some_and(|scheme| URL_SCHEMES.contains(&scheme.as_str())) {
        return Err(format!("`url` must begin with one of {}, each followed by ://", URL_SCHEMES.join(", ")));
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'\\".contains(c)) {
        return Err("`url` holds a space, quote, backslash or control character: write those as %20 and the like".to_owned());
    }
    Ok(url)
}

fn side(key: &str, given: Option<u32>, default: u32) -> Result<u32, String> {
    let value = given.unwrap_or(default);
    if !value.is_multiple_of(8) {
        return Err(format!("`{key}` is {value}: Motion needs a multiple of 8"));
    }
    Ok(value)
}

fn check_extra((key, value): (String, ExtraValue)) -> Result<(String, String), String> {
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Err(format!("`extra` holds the key {key:?}: keys of motion.conf are small letters, digits and _"));
    }
    if let Some((_, instead)) = OURS.iter().find(|(ours, _)| *ours == key) {
        return Err(format!("`extra` holds `{key}`: leave it out, {instead}"));
    }
    if key.starts_with("webcontrol_") {
        return Err(format!("`extra` holds `{key}`: leave it out, the node asks Motion through its web control"));
    }
    let value = match value {
        ExtraValue::Switch(true) => "on".to_owned(),
        ExtraValue::Switch(false) => "off".to_owned(),
        ExtraValue::Number(number) => number.to_string(),
        ExtraValue::Text(text) => text,
    };
    if value.trim() != value || value.len() > 1000 || value.chars().any(char::is_control) {
        return Err(format!("`extra.{key}` has a line break, a space at an end, or more than 1000 bytes"));
    }
    // Motion's own file name formats (%Y, %{eventid}) are fine, a shell's are not.
    if key.ends_with("_filename")
        && let Some(c) = value.chars().find(|c| !is_hook_safe(*c) && !"%{}:".contains(*c))
    {
        return Err(format!("`extra.{key}` holds {c:?}: Motion hands file names to a shell, so leave it out"));
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DetectorConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    fn written(text: &str) -> WrittenConf {
        let Detector::Motion(MotionConfig { conf: MotionConf::Written(conf), .. }) = read(text).unwrap().detector else {
            panic!("not written by us");
        };
        conf
    }

    #[test]
    fn a_camera_needs_no_config_at_all() {
        assert_eq!(read("").unwrap(), DetectorConfig::default());
        assert_eq!(read("kind = \"motion\"").unwrap(), DetectorConfig::default());
    }

    #[test]
    fn a_wrapper_is_one_string_or_a_list_of_words() {
        for text in ["command = \"libcamerify motion\"", "command = [\"libcamerify\", \"motion\"]"] {
            let Detector::Motion(motion) = read(text).unwrap().detector;
            assert_eq!(motion.command, ["libcamerify", "motion"]);
        }
    }

    #[test]
    fn every_source_of_a_picture_can_be_chosen() {
        assert_eq!(written("video = \"/dev/video2\"").picture, PictureSource::Device("/dev/video2".into()));
        let door = written("url = \"rtsp://me:s3cr@t@10.0.0.9/live\"").picture;
        assert_eq!(door.shown(), "rtsp://10.0.0.9/live");
        let all = written("width = 320\nheight = 240\nframerate = 5\nthreshold = 900\n[extra]\nevent_gap = 30\nmovie_output = false");
        assert_eq!((all.width, all.height, all.framerate, all.threshold), (320, 240, 5, 900));
        assert_eq!(all.extra, [("event_gap".to_owned(), "30".to_owned()), ("movie_output".to_owned(), "off".to_owned())]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_key_and_what_is_allowed() {
        for (text, words) in [
            ("nmae = \"x\"", "nmae"),
            ("kind = \"emotion\"", "emotion"),
            ("name = \"\"", "1 to 40"),
            ("name = \"front door\"", "front-door"),
            ("name = \"it's\"", "letters"),
            ("name = \"../etc\"", "letters"),
            ("name = \"$(reboot)\"", "letters"),
            ("name = \"a\\nb\"", "letters"),
            ("watch_in = []", "never watch"),
            ("watch_in = [\"disarmed\"]", "disarmed"),
            ("watch_in = [\"evening\"]", "evening"),
            ("stop_grace = \"0s\"", "stop_grace"),
            ("stop_grace = \"2 hours\"", "60s"),
            ("stop_grace = \"soon\"", "stop_grace"),
            ("live = \"sometimes\"", "never"),
            ("live = \"always\"\nconfig = \"/m.conf\"", "your own motion.conf"),
            ("command = []", "empty"),
            ("command = \"\"", "empty"),
            ("command = \"bin/motion\"", "whole path"),
            ("command = \"motion; reboot\"", "shell"),
            ("command = \"motion -c /etc/motion/motion.conf\"", "`config`"),
            ("command = [\"motion\", \"-b\"]", "foreground"),
            ("command = 5", "list of words"),
            ("video = \"video0\"", "whole path"),
            ("url = \"10.0.0.9\"", "rtsp"),
            ("url = \"rtsp://a b\"", "space"),
            ("url = \"rtsp://a\\nnetcam_url x\"", "control"),
            ("video = \"/dev/video0\"\nurl = \"rtsp://a\"", "both"),
            ("config = \"/a.conf\"\nwidth = 640", "`width`"),
            ("config = \"a.conf\"", "whole path"),
            ("width = 100", "multiple of 8"),
            ("width = 8", "64 to 7680"),
            ("framerate = 1", "2 to 100"),
            ("threshold = 0", "1 to 2147483647"),
            ("threshold = \"many\"", "1 to 2147483647"),
            ("media_dir = \"/media/my pictures\"", "media_dir"),
            ("media_dir = \"/media/$(reboot)\"", "shell"),
            ("extra = { daemon = true }", "foreground"),
            ("extra = { webcontrol_port = 8080 }", "web control"),
            ("extra = { text_left = \"a\\ndaemon on\" }", "line break"),
            ("extra = { \"a b\" = 1 }", "small letters"),
            ("extra = { movie_filename = \"$(id)\" }", "shell"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_saying_its_password_again() {
        let error = read("url = \"rtsp://me:hunter2@a b\"").unwrap_err();
        assert!(!error.lines().last().unwrap().contains("hunter2"), "{error}");
    }
}
