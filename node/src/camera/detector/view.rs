//! What a source sees now, for somebody who looks: from the running detector, or, where its config says `live = "always"`, from a Motion of its
//! own that only shows, for as long as somebody looks.

use std::time::Duration;

use dms3_core::protocol::message::LiveView;
use dms3_core::time::Now;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::config::{Detector, MotionConf};
use super::leftover::{Kin, Record, child_record};
use super::motion;
use super::port::MotionPort;
use super::process::Happening;
use super::{Keeper, note};

/// One that only shows is ended when nobody has looked for so long.
const NOBODY_LOOKS: Duration = Duration::from_secs(15);
/// A Motion that was just started has a picture after a second or three.
const FIRST_PICTURE_WITHIN: Duration = Duration::from_secs(7);
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Pictures of a source that are fetched at once.
const AT_ONCE: usize = 4;

/// Somebody wants to see what a source sees now.
#[derive(Debug)]
pub struct Look {
    pub answer: oneshot::Sender<Result<Vec<u8>, String>>,
}

impl Look {
    pub(super) fn refuse(self, why: &str) {
        // Whoever asked may have gone away.
        drop(self.answer.send(Err(why.to_owned())));
    }
}

/// Fetches what a running Motion sees. Dropped, it fetches no more.
#[derive(Default)]
pub(super) struct Shown(JoinSet<()>);

impl Shown {
    /// `patience`: it may have been started just now.
    pub(super) fn show(&mut self, stream: Option<&MotionPort>, look: Look, patience: Duration) {
        let Some(stream) = stream.cloned() else {
            return look.refuse("no live picture: its own motion.conf has no stream_port that this node can ask");
        };
        while self.0.try_join_next().is_some() {}
        if self.0.len() >= AT_ONCE {
            return look.refuse("too many look at once");
        }
        self.0.spawn(async move {
            let until = Instant::now() + patience;
            let seen = loop {
                match stream.clone().picture().await {
                    Err(_) if Instant::now() < until => sleep(ASK_AGAIN).await,
                    seen => break seen,
                }
            };
            // Whoever asked may have gone away.
            drop(look.answer.send(seen.map_err(|error| format!("no picture: {error:#}"))));
        });
    }
}

impl<N: Fn() -> Now + Send> Keeper<N> {
    /// Somebody looks while nothing is to be watched. Ends when nobody has looked for a while, and at once when something is to be watched.
    pub(super) async fn show(&mut self, look: Look) {
        let Detector::Motion(motion_config) = &self.config.detector;
        let (LiveView::Always, MotionConf::Written(written)) = (self.config.live, &motion_config.conf) else {
            return look.refuse("it is off while it does not watch");
        };
        let source = &self.config.name;
        // Of its own: what a crashed node left is found by it.
        let kin = Kin::new(&self.places.view_conf().to_string_lossy());
        let record = self.places.view_record();
        let ready = match motion::make_view(motion_config, written, source, &self.places, &kin) {
            Ok(ready) => ready,
            Err(error) => return look.refuse(&format!("cannot start Motion: {error:#}")),
        };
        note(source, Record { kin: kin.clone(), child: None }, record.clone()).await;
        let mut process = match self.spawner.spawn(&ready.program).await {
            Ok(process) => process,
            Err(error) => return look.refuse(&motion::spawn_error(motion_config, &error)),
        };
        note(source, Record { kin, child: child_record(process.pid()) }, record).await;
        tracing::info!(%source, "somebody looks at this camera while it does not watch: it shows its picture and records nothing");
        let mut shown = Shown::default();
        let mut until = Instant::now() + NOBODY_LOOKS;
        shown.show(Some(&ready.stream), look, FIRST_PICTURE_WITHIN);
        loop {
            tokio::select! {
                // What is to be watched goes first.
                biased;
                () = self.stop.cancelled() => break,
                () = self.orders.until(true) => break,
                () = sleep_until(until) => break,
                happening = process.next() => match happening {
                    Happening::Said(line) => tracing::debug!(%source, "{line}"),
                    Happening::Ended(Ok(status)) => {
                        let why = process.obituary(status).await;
                        tracing::warn!(%source, "the Motion that shows the picture {why}");
                        return;
                    }
                    Happening::Ended(Err(error)) => {
                        tracing::warn!(%source, "the Motion that shows the picture cannot be waited for: {error}");
                        break;
                    }
                },
                Some(look) = self.looks.recv() => {
                    until = Instant::now() + NOBODY_LOOKS;
                    shown.show(Some(&ready.stream), look, FIRST_PICTURE_WITHIN);
                }
            }
        }
        // It has nothing to finish, and the detector may wait for its camera.
        process.stop(Duration::ZERO).await;
        tracing::info!(%source, "nobody looks at this camera any more");
    }
}
