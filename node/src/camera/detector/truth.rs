//! What a running Motion really does, concluded from its log and its web control. Pure: time and facts come as arguments.
//!
//! Motion 4.5.1 answers within 0.2 s of its start and calls itself ACTIVE with "Connection OK" from then on, although it shows no movement
//! before about 4 s plus `pre_capture + minimum_motion_frames` pictures, and does not know yet whether a picture comes. So we say
//! *watching* when all of this holds:
//! - its loop runs (`image_ring_resize`, the first thing the loop logs; a camera that cannot be opened can delay it by 20 s),
//! - [`WARM_UP`] and those pictures have passed since,
//! - its web control says that detection is active and the connection is not lost,
//! - no line says that the picture was lost. A network camera that went away is told at once only by "Reconnecting with camera";
//!   the web control notices it after 31–41 s.
//!
//! Of a Motion with the user's own config and no web control we know less: it runs for [`ALIVE_IS_WATCHING`], and its log (if it still comes
//! to us) tells of no loss.

use std::time::Duration;

use dms3_core::protocol::message::DetectorPhase;
use tokio::time::Instant;

use super::port::Answer;
use super::process::without_prefix;

/// From the first line of Motion's loop until it can show a movement, without the pictures it collects first. Measured: 3.95–3.98 s
/// at 5, 10 and 15 pictures a second.
pub(crate) const WARM_UP: Duration = Duration::from_millis(4000);
/// A Motion that we cannot ask is believed to watch when it has run for so long.
const ALIVE_IS_WATCHING: Duration = Duration::from_secs(6);
/// So long nothing is said about a picture that does not come at first.
const FIRST_PICTURE_WITHIN: Duration = Duration::from_secs(15);
/// A video file that starts over and a network camera that drops one connection reconnect within milliseconds.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Nobody answers for so long: Motion hangs. Its own watchdog needs 30 s to restart a stuck thread.
const HANGS_AFTER: Duration = Duration::from_secs(40);

/// What can be known of this Motion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Senses {
    pub(crate) webcontrol: Tells,
    /// Its log comes to us, and is about one camera.
    pub(crate) log: bool,
    /// [`WARM_UP`] and the pictures it collects first.
    pub(crate) warm_up: Duration,
    /// Where its picture comes from, for people.
    pub(crate) picture: String,
}

/// Whether the web control answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tells {
    /// There is none that we could ask.
    Nothing,
    /// The user configured it.
    Perhaps,
    /// We configured it: if it does not answer, Motion does not work.
    Surely,
}

/// The conclusion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Is(DetectorPhase, String),
    /// It must be ended and started again.
    Hangs(String),
}

/// All that was seen of one run of Motion.
#[derive(Debug)]
pub(crate) struct Truth {
    senses: Senses,
    started: Instant,
    loop_began: Option<Instant>,
    /// The picture is gone until the log says that it is back.
    reconnecting: Option<Instant>,
    /// The picture is gone until the log or the web control says that it is back.
    lost: Option<Instant>,
    /// Why it could not open the picture, in its own words.
    complaint: Option<String>,
    answer: Option<(Instant, Answer)>,
}

impl Truth {
    pub(crate) fn new(senses: Senses, now: Instant) -> Self {
        Self { senses, started: now, loop_began: None, reconnecting: None, lost: None, complaint: None, answer: None }
    }

    /// A line of its log.
    pub(crate) fn heard(&mut self, line: &str, now: Instant) {
        if !self.senses.log {
            return;
        }
        let text = without_prefix(line);
        if text.starts_with("motion_init: Camera") && text.contains("started") {
            // Also after its own watchdog restarted the camera's thread.
            self.loop_began = None;
        } else if text.starts_with("image_ring_resize:") {
            self.loop_began.get_or_insert(now);
        } else if text.contains("Reconnecting with camera") {
            self.reconnecting.get_or_insert(now);
        } else if text.contains("Video signal re-acquired") || (text.starts_with("netcam") && text.ends_with("connected")) {
            self.reconnecting = None;
            self.lost = None;
            self.complaint = None;
        } else if ["Video signal lost", "Video device fatal error", "failed to open", "Could not fetch initial image"]
            .iter()
            .any(|words| text.contains(words))
        {
            self.lost = Some(now);
        } else if text.contains("Unable to open") || text.contains("Failed to open") {
            self.complaint = Some(text.to_owned());
        }
    }

    /// What its web control said; `None`: nothing.
    pub(crate) fn asked(&mut self, answer: Option<Answer>, now: Instant) {
        let Some(answer) = answer else { return };
        if answer == Answer::Detecting && self.lost.is_some_and(|lost| now.duration_since(lost) > Duration::from_secs(1)) {
            self.lost = None;
            self.complaint = None;
        }
        self.answer = Some((now, answer));
    }

    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        let age = now.duration_since(self.started);
        let phase = |phase| Verdict::Is(phase, String::new());
        let failed = |why: String| Verdict::Is(DetectorPhase::Failed, why);

        if let Some((at, _)) = self.answer
            && now.duration_since(at) > HANGS_AFTER
        {
            return Verdict::Hangs(format!("Motion hangs: it has not answered for {} seconds", HANGS_AFTER.as_secs()));
        }
        let answer = self.answer.map(|(_, answer)| answer);
        let reconnecting = self.reconnecting.is_some_and(|since| now.duration_since(since) > RECONNECT_WITHIN);
        if self.lost.is_some() || reconnecting || (answer == Some(Answer::NoPicture) && age > Duration::from_secs(2)) {
            return failed(self.no_picture());
        }
        if answer == Some(Answer::Paused) {
            return failed("Motion runs, but somebody paused its detection through its web control".to_owned());
        }
        let ready_at = match (self.senses.log, self.loop_began) {
            (true, Some(began)) => Some(began + self.senses.warm_up),
            // Its log may go elsewhere, or say less than we need: only what we configured ourselves is sure to speak.
            (true, None) if self.senses.webcontrol == Tells::Surely => None,
            _ => Some(self.started + self.senses.warm_up.max(ALIVE_IS_WATCHING)),
        };
        let Some(ready_at) = ready_at else {
            return if age < FIRST_PICTURE_WITHIN { phase(DetectorPhase::Starting) } else { failed(self.no_picture()) };
        };
        if now < ready_at {
            return phase(DetectorPhase::Starting);
        }
        match (self.senses.webcontrol, answer) {
            (Tells::Surely, None) if age < FIRST_PICTURE_WITHIN => phase(DetectorPhase::Starting),
            (Tells::Surely, None) if age < HANGS_AFTER => failed("Motion runs, but does not answer".to_owned()),
            (Tells::Surely, None) => Verdict::Hangs("Motion hangs: it has never answered".to_owned()),
            _ => phase(DetectorPhase::Watching),
        }
    }

    fn no_picture(&self) -> String {
        let from = &self.senses.picture;
        match &self.complaint {
            Some(complaint) => format!("Motion runs, but gets no picture from {from}: {complaint}"),
            None => format!("Motion runs, but gets no picture from {from}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Option<Answer> = Some(Answer::Detecting);

    struct Seen {
        truth: Truth,
        start: Instant,
    }

    impl Seen {
        fn new(webcontrol: Tells, log: bool) -> Self {
            let start = Instant::now();
            let senses = Senses { webcontrol, log, warm_up: WARM_UP, picture: "/dev/video0".to_owned() };
            Self { truth: Truth::new(senses, start), start }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn hears(&mut self, millis: u64, line: &str) {
            let at = self.at(millis);
            self.truth.heard(line, at);
        }

        fn asks(&mut self, millis: u64, answer: Option<Answer>) {
            let at = self.at(millis);
            self.truth.asked(answer, at);
        }

        /// The phase; for a hanging Motion `None`.
        fn is(&self, millis: u64) -> Option<DetectorPhase> {
            match self.truth.verdict(self.at(millis)) {
                Verdict::Is(phase, _) => Some(phase),
                Verdict::Hangs(_) => None,
            }
        }

        fn why(&self, millis: u64) -> String {
            match self.truth.verdict(self.at(millis)) {
                Verdict::Is(_, why) | Verdict::Hangs(why) => why,
            }
        }

        /// A Motion of ours that has watched since second 5.
        fn watching() -> Self {
            let mut seen = Self::new(Tells::Surely, true);
            seen.hears(150, "[1:ml1] [NTC] [ALL] motion_init: Camera 0 started: motion detection Enabled");
            seen.hears(170, "[1:ml1] [NTC] [ALL] image_ring_resize: Resizing pre_capture buffer to 5 items");
            seen.asks(1000, OK);
            assert_eq!(seen.is(5000), Some(DetectorPhase::Watching));
            seen
        }
    }

    #[test]
    fn a_motion_that_calls_itself_active_is_not_yet_able_to_detect() {
        let mut seen = Seen::new(Tells::Surely, true);
        seen.asks(300, OK);
        assert_eq!(seen.is(300), Some(DetectorPhase::Starting));
        seen.hears(400, "[1:ml1] [NTC] [ALL] image_ring_resize: Resizing pre_capture buffer to 5 items");
        assert_eq!(seen.is(4399), Some(DetectorPhase::Starting));
        assert_eq!(seen.is(4400), Some(DetectorPhase::Watching));
    }

    #[test]
    fn a_camera_that_cannot_be_opened_is_told_with_the_reason_and_watches_once_it_is_there() {
        let mut seen = Seen::new(Tells::Surely, true);
        seen.hears(150, "[1:ml1] [ALR] [VID] v4l2_device_open: Failed to open video device /dev/video0: No such file or directory");
        seen.hears(151, "[1:ml1] [ERR] [VID] vid_start: V4L2 device failed to open");
        seen.hears(152, "[1:ml1] [NTC] [ALL] image_ring_resize: Resizing pre_capture buffer to 1 items");
        seen.asks(1000, Some(Answer::NoPicture));
        assert_eq!(seen.is(5000), Some(DetectorPhase::Failed));
        assert!(seen.why(5000).contains("no picture from /dev/video0: v4l2_device_open: Failed to open"), "{}", seen.why(5000));
        seen.asks(11_000, OK);
        assert_eq!(seen.is(11_000), Some(DetectorPhase::Watching));
    }

    #[test]
    fn an_address_that_never_answers_is_told_although_motion_says_nothing() {
        let mut seen = Seen::new(Tells::Surely, true);
        seen.asks(14_000, OK);
        assert_eq!(seen.is(14_900), Some(DetectorPhase::Starting));
        assert_eq!(seen.is(15_000), Some(DetectorPhase::Failed));
    }

    #[test]
    fn a_network_camera_that_goes_away_is_told_long_before_motion_admits_it() {
        let mut seen = Seen::watching();
        seen.hears(60_000, "[2:nc2] [ERR] [NET] netcam_rtsp_handler_reconnect: norm: Reconnecting with camera....");
        seen.asks(64_000, OK);
        assert_eq!(seen.is(64_000), Some(DetectorPhase::Watching));
        seen.asks(66_000, OK);
        assert_eq!(seen.is(66_000), Some(DetectorPhase::Failed));
        seen.hears(70_000, "[2:nc2] [NTC] [NET] netcam_rtsp_connect: norm: Camera (door) connected");
        assert_eq!(seen.is(70_000), Some(DetectorPhase::Watching));
    }

    #[test]
    fn a_video_that_starts_over_is_no_loss() {
        let mut seen = Seen::watching();
        seen.hears(60_000, "[2:nc2] [ERR] [NET] netcam_rtsp_handler_reconnect: norm: Reconnecting with camera....");
        seen.hears(60_005, "[2:nc2] [NTC] [NET] netcam_rtsp_connect: norm: Camera ((null)) connected");
        seen.asks(69_000, OK);
        assert_eq!(seen.is(70_000), Some(DetectorPhase::Watching));
    }

    #[test]
    fn a_paused_detection_is_not_watching() {
        let mut seen = Seen::watching();
        seen.asks(60_000, Some(Answer::Paused));
        assert_eq!(seen.is(60_000), Some(DetectorPhase::Failed));
        seen.asks(61_000, OK);
        assert_eq!(seen.is(61_000), Some(DetectorPhase::Watching));
    }

    #[test]
    fn a_motion_that_stops_answering_hangs() {
        let mut seen = Seen::watching();
        seen.asks(30_000, None);
        assert_eq!(seen.is(40_000), Some(DetectorPhase::Watching));
        assert_eq!(seen.is(42_000), None);
        let never = {
            let mut seen = Seen::new(Tells::Surely, true);
            seen.hears(170, "image_ring_resize: x");
            seen
        };
        assert_eq!(never.is(10_000), Some(DetectorPhase::Starting));
        assert_eq!(never.is(20_000), Some(DetectorPhase::Failed));
        assert_eq!(never.is(60_000), None);
    }

    #[test]
    fn of_a_users_own_motion_without_web_control_life_is_all_we_know() {
        let seen = Seen::new(Tells::Nothing, false);
        assert_eq!(seen.is(5999), Some(DetectorPhase::Starting));
        assert_eq!(seen.is(6000), Some(DetectorPhase::Watching));
        let mut hearing = Seen::new(Tells::Perhaps, true);
        hearing.hears(100, "[1:ml1] [ERR] [VID] vid_start: V4L2 device failed to open");
        assert_eq!(hearing.is(7000), Some(DetectorPhase::Failed));
    }

    #[test]
    fn a_camera_thread_that_motion_restarted_warms_up_again() {
        let mut seen = Seen::watching();
        seen.hears(60_000, "[1:ml1] [NTC] [ALL] motion_init: Camera 0 started: motion detection Enabled");
        seen.asks(60_100, OK);
        seen.hears(60_200, "[1:ml1] [NTC] [ALL] image_ring_resize: Resizing pre_capture buffer to 5 items");
        assert_eq!(seen.is(61_000), Some(DetectorPhase::Starting));
        assert_eq!(seen.is(64_200), Some(DetectorPhase::Watching));
    }
}
