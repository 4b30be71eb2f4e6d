//! One camera's detector: started and stopped as told, started again when it dies, and what it really does reported.

mod config;
mod config_file;
mod exec;
mod leftover;
mod motion;
mod port;
mod process;
#[cfg(test)]
mod tests;
mod truth;
mod view;
mod words;

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use dms3_core::protocol::message::{DetectorPhase, DetectorReportV1, LiveView};
use dms3_core::time::{Now, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use config::{Detector, DetectorConfig, MotionConf, MotionConfig, PictureSource, WrittenConf, check_together};
pub use config_file::DetectorFile;
pub use motion::Hooks;
pub use process::Spawner;
pub use view::Look;

use super::Post;
use leftover::{Kin, Record};
use motion::{Places, Ready};
use process::{Happening, Process};
use truth::{Truth, Verdict};
use view::Shown;

/// A detector that dies is started again after this, then twice as long, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Having watched for so long, the next death counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How often Motion is asked until it watches, and then.
const ASK_SOON: Duration = Duration::from_millis(500);
const ASK_LATER: Duration = Duration::from_secs(5);
/// A node that ends gives its detectors no more than this: systemd waits for the node only for its own time (`TimeoutStopSec`).
pub const STOP_WITH_NODE: Duration = Duration::from_secs(8);
/// What a crashed run left behind is killed, and that takes no longer.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(5);

/// What a source is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchOrder {
    pub on: bool,
    /// When the coordinator decided so, if that is known: for the log line that says how long it took.
    pub decided: Option<Timestamp>,
}

/// What is reported of a source before its detector has said anything.
pub fn first_report(config: &DetectorConfig, at: Timestamp) -> DetectorReportV1 {
    let (phase, live) = (DetectorPhase::Stopped.to_wire(), config.live.to_wire());
    DetectorReportV1 { source: config.name.clone(), phase, since: at, detail: String::new(), live }
}

/// Runs one source until `stop`; the latest order wins, and there is never more than one instance of its detector. Whatever goes wrong with
/// the detector is reported, not returned. Ends with the detector stopped: within [`STOP_WITH_NODE`], or its own grace if that is shorter.
///
/// `state_dir` is the node's; a source uses `detector/NAME` and `media/NAME` in it. `hooks` is what the detector calls. `spawner` is one for
/// the whole node.
pub async fn run(
    Post { config, orders, report, looks }: Post,
    now: impl Fn() -> Now + Send,
    (state_dir, hooks): (PathBuf, Hooks),
    spawner: Spawner,
    stop: CancellationToken,
) -> Result<()> {
    let Detector::Motion(motion_config) = &config.detector;
    let places = Places::new(&state_dir, &config.name, hooks);
    let kin = Kin::new(&motion::conf_path(motion_config, &places).to_string_lossy());
    let mut keeper = Keeper {
        config,
        orders: Orders { orders, closed: false },
        reporter: Reporter { report, now },
        looks,
        places,
        kin,
        spawner,
        stop,
        ready: None,
        answered: None,
        wait: FIRST_WAIT,
    };
    keeper.clean_up().await;
    // Ahead of time: when the order comes, only exec is left to do. A failure is told when it matters, and may be over by then.
    if let Err(error) = keeper.make_ready() {
        tracing::warn!(source = %keeper.config.name, "the detector cannot be made ready yet: {error:#}");
    }
    keeper.keep().await;
    Ok(())
}

/// The orders; a sender that is gone changes nothing, least of all to "off".
struct Orders {
    orders: watch::Receiver<WatchOrder>,
    closed: bool,
}

impl Orders {
    fn now(&mut self) -> WatchOrder {
        *self.orders.borrow_and_update()
    }

    /// Returns once `on` is as wanted; safe to cancel.
    async fn until(&mut self, on: bool) {
        if self.closed || self.orders.wait_for(|order| order.on == on).await.is_err() {
            self.closed = true;
            pending().await
        }
    }
}

struct Reporter<N> {
    report: watch::Sender<DetectorReportV1>,
    now: N,
}

impl<N: Fn() -> Now> Reporter<N> {
    fn at(&self) -> Timestamp {
        (self.now)().at
    }

    fn shows(&self, live: LiveView) {
        self.report.send_if_modified(|report| std::mem::replace(&mut report.live, live.to_wire()) != live.to_wire());
    }

    /// Told once, in the report and in one line of the log.
    fn is(&self, phase: DetectorPhase, detail: &str) {
        let at = self.at();
        self.report.send_if_modified(|report| {
            let changed = report.phase != phase.to_wire();
            let since = report.since;
            if changed {
                report.since = at;
            } else if report.detail == detail {
                return false;
            }
            report.phase = phase.to_wire();
            report.detail = detail.to_owned();
            let source = &report.source;
            match (phase, detail) {
                (DetectorPhase::Failed, _) => tracing::warn!(%source, "the detector does not watch: {detail}"),
                (DetectorPhase::Watching, "") => {
                    // The command comes at once, the eyes open later: how much later, people should know.
                    tracing::info!(%source, "the detector is watching, {:.1} s after its start", at.since(since).as_secs_f64());
                }
                (_, "") => tracing::info!(%source, "the detector is {}", phase.words()),
                (_, _) => tracing::info!(%source, "the detector is {}: {detail}", phase.words()),
            }
            true
        });
    }
}

/// How one run of the detector ended.
enum End {
    Disarmed,
    NodeStops,
    Died(String),
}

struct Keeper<N> {
    config: DetectorConfig,
    orders: Orders,
    reporter: Reporter<N>,
    /// Who wants to see what it sees.
    looks: mpsc::Receiver<Look>,
    places: Places,
    kin: Kin,
    spawner: Spawner,
    stop: CancellationToken,
    ready: Option<Ready>,
    /// The decision that the last command was measured against.
    answered: Option<Timestamp>,
    /// Before the next start.
    wait: Duration,
}

impl<N: Fn() -> Now + Send> Keeper<N> {
    async fn keep(&mut self) {
        let mut died = String::new();
        loop {
            if self.stop.is_cancelled() {
                return;
            }
            let order = self.orders.now();
            if !order.on {
                self.reporter.is(DetectorPhase::Stopped, "");
                self.wait = FIRST_WAIT;
                died.clear();
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = self.orders.until(true) => {}
                    Some(look) = self.looks.recv() => self.show(look).await,
                }
                continue;
            }
            match self.watch(order, &died).await {
                End::Disarmed => {}
                End::NodeStops => return,
                End::Died(why) => {
                    self.reporter.is(DetectorPhase::Failed, &why);
                    died = why;
                    let again = Instant::now() + self.wait;
                    loop {
                        tokio::select! {
                            () = self.stop.cancelled() => break,
                            () = self.orders.until(false) => break,
                            () = tokio::time::sleep_until(again) => break,
                            Some(look) = self.looks.recv() => look.refuse(&died),
                        }
                    }
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// One run of the detector, from its start to its end.
    async fn watch(&mut self, order: WatchOrder, died: &str) -> End {
        let mut process = match self.start(order).await {
            Ok(process) => process,
            Err(why) => return End::Died(why),
        };
        let again = if died.is_empty() { String::new() } else { format!("again, after this: {died}") };
        self.reporter.is(DetectorPhase::Starting, &again);
        self.record(process.pid()).await;
        let end = self.attend(&mut process, &again).await;
        let grace = match end {
            RunEnd::Ended(status) => return End::Died(format!("Motion {}", process.obituary(status).await)),
            RunEnd::NodeStops => self.config.stop_grace.min(STOP_WITH_NODE),
            RunEnd::Disarmed | RunEnd::Hangs(_) => self.config.stop_grace,
        };
        if matches!(end, RunEnd::Disarmed | RunEnd::NodeStops) {
            self.reporter.is(DetectorPhase::Stopping, "");
        }
        let source = &self.config.name;
        let began = Instant::now();
        // A node that stops does not wait longer for a detector that was already being stopped.
        let killed = tokio::select! {
            killed = process.stop(grace) => killed,
            () = stopped_and(&self.stop, STOP_WITH_NODE), if !matches!(end, RunEnd::NodeStops) => true,
        };
        let millis = began.elapsed().as_millis();
        if killed {
            tracing::warn!(%source, "the detector did not end by itself and was killed after {millis} ms: its last clip may be lost");
        } else {
            tracing::info!(%source, "the detector ended {millis} ms after it was asked to");
        }
        match end {
            RunEnd::Hangs(why) => End::Died(why),
            RunEnd::NodeStops => End::NodeStops,
            RunEnd::Disarmed | RunEnd::Ended(_) => End::Disarmed,
        }
    }

    /// The detector command, issued.
    async fn start(&mut self, order: WatchOrder) -> Result<Process, String> {
        let Detector::Motion(motion_config) = &self.config.detector;
        // The user may have changed his own file since; ours is rewritten only if somebody removed it.
        let outdated = match (&self.ready, &motion_config.conf) {
            (None, _) | (_, MotionConf::Own(_)) => true,
            (Some(ready), MotionConf::Written(_)) => motion::check_conf(&ready.conf).is_err(),
        };
        if outdated {
            self.make_ready().map_err(|error| format!("cannot start Motion: {error:#}"))?;
        }
        let Detector::Motion(motion_config) = &self.config.detector;
        let Some(ready) = &self.ready else { return Err("cannot start Motion: it was not made ready".to_owned()) };
        let process = self.spawner.spawn(&ready.program).await.map_err(|error| motion::spawn_error(motion_config, &error))?;
        let source = &self.config.name;
        // One that died and is started again is no answer to that decision.
        match order.decided.filter(|decided| self.answered.replace(*decided) != Some(*decided)) {
            Some(decided) => {
                let after_ms = u64::try_from(self.reporter.at().since(decided).as_millis()).unwrap_or(u64::MAX);
                tracing::info!(%source, pid = process.pid(), after_ms, "detector command issued");
            }
            None => tracing::info!(%source, pid = process.pid(), "detector command issued"),
        }
        Ok(process)
    }

    /// Hears and asks a running detector, and reports, until it ends or is to end.
    async fn attend(&mut self, process: &mut Process, again: &str) -> RunEnd {
        let Some(ready) = &self.ready else { return RunEnd::Hangs("Motion was not made ready".to_owned()) };
        let mut truth = Truth::new(ready.senses.clone(), Instant::now());
        let mut asked = JoinSet::new();
        let mut shown = Shown::default();
        let mut ask_at = Instant::now() + ASK_SOON;
        let mut watching_since: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return RunEnd::NodeStops,
                () = self.orders.until(false) => return RunEnd::Disarmed,
                happening = process.next() => match happening {
                    Happening::Said(line) => {
                        tracing::debug!(source = %self.config.name, "{line}");
                        truth.heard(&line, Instant::now());
                    }
                    Happening::Ended(Ok(status)) => return RunEnd::Ended(status),
                    Happening::Ended(Err(error)) => return RunEnd::Hangs(format!("Motion cannot be waited for: {error}")),
                },
                Some(look) = self.looks.recv() => match self.config.live {
                    LiveView::Never => look.refuse("no live picture, by its own config"),
                    _ => shown.show(ready.stream.as_ref(), look, Duration::ZERO),
                },
                Some(answer) = asked.join_next() => {
                    let answer: Option<Result<_>> = answer.ok();
                    truth.asked(answer.and_then(Result::ok), Instant::now());
                }
                () = tokio::time::sleep_until(ask_at) => {
                    ask_at = Instant::now() + if watching_since.is_some() { ASK_LATER } else { ASK_SOON };
                    if let Some(webcontrol) = &ready.webcontrol
                        && asked.is_empty()
                    {
                        asked.spawn(webcontrol.clone().ask());
                    }
                }
            }
            let now = Instant::now();
            match truth.verdict(now) {
                Verdict::Hangs(why) => {
                    self.reporter.is(DetectorPhase::Failed, &why);
                    return RunEnd::Hangs(why);
                }
                Verdict::Is(DetectorPhase::Watching, _) => {
                    self.reporter.is(DetectorPhase::Watching, "");
                    if now.duration_since(*watching_since.get_or_insert(now)) > HEALTHY_AFTER {
                        self.wait = FIRST_WAIT;
                    }
                }
                Verdict::Is(phase, detail) => {
                    watching_since = None;
                    ask_at = ask_at.min(now + ASK_SOON);
                    self.reporter.is(phase, if phase == DetectorPhase::Starting { again } else { &detail });
                }
            }
        }
    }

    fn make_ready(&mut self) -> Result<()> {
        let Detector::Motion(motion_config) = &self.config.detector;
        self.ready = None;
        let ready = motion::make_ready(motion_config, self.config.live, &self.config.name, &self.places, &self.kin)?;
        // The user's own motion.conf may have no stream.
        self.reporter.shows(if ready.stream.is_some() { self.config.live } else { LiveView::Never });
        self.ready = Some(ready);
        Ok(())
    }

    /// Ends what a crashed node left, and makes this run's own children findable before there is one.
    async fn clean_up(&self) {
        let source = &self.config.name;
        let file = self.places.record();
        let ended =
            leftover::clean_up(&file, CLEAN_UP_WITHIN).await + leftover::clean_up(&self.places.view_record(), CLEAN_UP_WITHIN).await;
        if ended > 0 {
            tracing::warn!(%source, "ended {ended} process(es) of this detector that outlived a crashed node");
        }
        let noted = self.places.make_for_records().and_then(|()| Record { kin: self.kin.clone(), child: None }.save(&file));
        if let Err(error) = noted {
            tracing::warn!(%source, "cannot note the detector's processes for a later clean-up: {error:#}");
        }
    }

    async fn record(&self, pid: u32) {
        let record = Record { kin: self.kin.clone(), child: leftover::child_record(pid) };
        note(&self.config.name, record, self.places.record()).await;
    }
}

/// Makes a child findable for a later run.
async fn note(source: &str, record: Record, file: PathBuf) {
    let saved = tokio::task::spawn_blocking(move || record.save(&file)).await;
    if let Ok(Err(error)) = saved {
        tracing::warn!(%source, "cannot note the detector's process for a later clean-up: {error:#}");
    }
}

/// Why attending a run ended.
enum RunEnd {
    Disarmed,
    NodeStops,
    Ended(std::process::ExitStatus),
    Hangs(String),
}

async fn stopped_and(stop: &CancellationToken, later: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(later).await;
}
