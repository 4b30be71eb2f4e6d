//! `[[camera.detector]]`: one camera of this node and the program that watches its picture. Everything has a default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::protocol::message::{LiveView, SOURCES_LIMIT};
use serde::Deserialize;

use super::config_file::DetectorFile;
use crate::config_text::Wrong;

/// One camera of this node, valid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "DetectorFile")]
pub struct DetectorConfig {
    /// The source's name, unique in the node; also a directory name.
    pub name: String,
    /// The states in which it watches. Never empty, never disarmed.
    pub watch_in: Vec<ArmState>,
    /// What it gets to end by itself after SIGTERM (Motion finishes its clip in 2–3 s); then it is killed.
    pub stop_grace: Duration,
    /// When it may be looked at live.
    pub live: LiveView,
    pub detector: Detector,
}

impl DetectorConfig {
    /// Where our own motion.conf lets Motion put its files, if nobody chose another place: they are ours to remove once they are kept.
    pub fn own_media_dir(&self, state_dir: &Path) -> Option<PathBuf> {
        match &self.detector {
            Detector::Motion(MotionConfig { conf: MotionConf::Written(WrittenConf { media_dir: None, .. }), .. }) => {
                Some(media_dir(state_dir, &self.name))
            }
            Detector::Motion(_) => None,
        }
    }
}

/// `media/NAME` in the state directory.
pub(crate) fn media_dir(state_dir: &Path, source: &str) -> PathBuf {
    state_dir.join("media").join(source)
}

/// The program that watches. A closed set: a further kind is a further variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detector {
    Motion(MotionConfig),
}

/// Motion as our own child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MotionConfig {
    /// The program and its leading arguments; `-n -c FILE` is appended. No shell reads it.
    pub command: Vec<String>,
    pub conf: MotionConf,
}

/// Which motion.conf Motion gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MotionConf {
    /// The user's own, untouched.
    Own(PathBuf),
    /// We write one.
    Written(WrittenConf),
}

/// What we write into motion.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenConf {
    pub picture: PictureSource,
    pub width: u32,
    pub height: u32,
    /// Pictures a second.
    pub framerate: u32,
    /// Changed pixels that make a movement.
    pub threshold: u32,
    /// `None`: `media/NAME` in the state directory.
    pub media_dir: Option<PathBuf>,
    /// Further keys, in the order of their names; win over what we write.
    pub extra: Vec<(String, String)>,
}

/// Where the picture comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PictureSource {
    Device(PathBuf),
    Url(String),
}

impl PictureSource {
    /// For people and logs: without the password that a URL may hold.
    pub fn shown(&self) -> String {
        match self {
            Self::Device(path) => path.display().to_string(),
            Self::Url(url) => without_password(url),
        }
    }
}

impl Default for DetectorConfig {
    /// What a camera without any config has: Motion on the first video device, watching when everybody left.
    fn default() -> Self {
        Self {
            name: "cam".to_owned(),
            watch_in: vec![ArmState::Away],
            stop_grace: Duration::from_secs(10),
            live: LiveView::Watching,
            detector: Detector::Motion(MotionConfig::default()),
        }
    }
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self { command: vec!["motion".to_owned()], conf: MotionConf::Written(WrittenConf::default()) }
    }
}

impl Default for WrittenConf {
    fn default() -> Self {
        Self {
            picture: PictureSource::Device(PathBuf::from("/dev/video0")),
            width: 640,
            height: 480,
            framerate: 15,
            threshold: 1500,
            media_dir: None,
            extra: Vec::new(),
        }
    }
}

/// What must hold between the detectors of one node: names, devices and media directories are each used once. The later one is told.
pub fn check_together(detectors: &[DetectorConfig]) -> Result<(), Wrong> {
    if detectors.len() > SOURCES_LIMIT {
        let why = format!("these are {} detectors, one node may have {SOURCES_LIMIT}: share them out over more nodes", detectors.len());
        return Err(Wrong::new(format!("{SOURCES_LIMIT}.name"), why));
    }
    for (index, one) in detectors.iter().enumerate() {
        let wrong = |key: &str, why: String| Wrong::new(format!("{index}.{key}"), why);
        for other in &detectors[..index] {
            if one.name.to_lowercase() == other.name.to_lowercase() {
                return Err(wrong("name", format!("two detectors are named \"{}\": give each its own `name`", one.name)));
            }
            let (Detector::Motion(a), Detector::Motion(b)) = (&one.detector, &other.detector);
            match (&a.conf, &b.conf) {
                (MotionConf::Own(a), MotionConf::Own(b)) if a == b => {
                    let why = format!("\"{}\" and \"{}\" use the same file {}: give each its own", other.name, one.name, a.display());
                    return Err(wrong("config", why));
                }
                (MotionConf::Written(a), MotionConf::Written(b)) => {
                    if a.picture == b.picture && matches!(a.picture, PictureSource::Device(_)) {
                        let shown = a.picture.shown();
                        let why =
                            format!("\"{}\" and \"{}\" both watch {shown}: only one program can open a video device", other.name, one.name);
                        return Err(wrong("video", why));
                    }
                    if a.media_dir.is_some() && a.media_dir == b.media_dir {
                        let why = format!("\"{}\" and \"{}\" have the same `media_dir`: give each its own", other.name, one.name);
                        return Err(wrong("media_dir", why));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The same text without `user:password@` of any URL in it.
pub(crate) fn without_password(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let authority = after.find(|c: char| c.is_whitespace() || "/?#'\"".contains(c)).unwrap_or(after.len());
        // The last @ ends the user part: passwords with an @ of their own are common.
        rest = match after[..authority].rfind('@') {
            Some(end) => &after[end + 1..],
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        assert_eq!(without_password("no url"), "no url");
        assert_eq!(without_password("open rtsp://a:b@c/d: refused, http://e/f@g"), "open rtsp://c/d: refused, http://e/f@g");
    }

    #[test]
    fn two_cameras_of_a_node_never_share_a_name_a_device_or_a_directory() {
        let both = |a: &str, b: &str| check_together(&[toml::from_str(a).unwrap(), toml::from_str(b).unwrap()]);
        assert!(both("", "").is_err());
        assert!(both("name = \"Door\"\nurl = \"rtsp://a\"", "name = \"door\"").unwrap_err().why.contains("named"));
        assert!(both("name = \"a\"", "name = \"b\"").unwrap_err().why.contains("/dev/video0"));
        assert!(both("name = \"a\"\nconfig = \"/m.conf\"", "name = \"b\"\nconfig = \"/m.conf\"").is_err());
        assert!(both("name = \"a\"\nmedia_dir = \"/m\"", "name = \"b\"\nmedia_dir = \"/m\"\nvideo = \"/dev/video1\"").is_err());
        assert_eq!(both("name = \"a\"", "name = \"b\"\nvideo = \"/dev/video1\""), Ok(()));
    }
}
