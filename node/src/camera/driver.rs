//! Runs a camera's rules: inputs in, effects out, carried out in order. Save, then act.

use std::time::Duration;

use anyhow::Result;
use dms3_core::arming::ArmState;
use dms3_core::camera::{Camera, Effect, Input};
use dms3_core::dashboard::{DetectorView, MailView};
use dms3_core::id::NodeId;
use dms3_core::protocol::message::{AckV1, DetectorPhase, DetectorReportV1, DetectorsV1, LiveView, OutboxV1, SignedStateV1};
use dms3_core::time::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::detector::WatchOrder;
use super::memory::Memory;
use super::uplink::LinkStatus;
use crate::clock::Clock;
use crate::control::Asked;
use dms3_core::request::{Answer, CameraStatus, Request};

const TICK: Duration = Duration::from_millis(500);

/// One camera of this node, as the driver sees it.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) order: watch::Sender<WatchOrder>,
    pub(super) reports: watch::Receiver<DetectorReportV1>,
}

/// What this camera mails by itself.
pub(super) struct MailDesk {
    pub(super) counts: watch::Receiver<MailView>,
    /// Why no mail is made, or none is brought away.
    pub(super) troubles: [watch::Receiver<Option<String>>; 2],
    pub(super) tests: mpsc::Sender<()>,
}

pub(super) struct Driver {
    pub(super) machine: Camera,
    pub(super) memory: Memory,
    pub(super) clock: Clock,
    pub(super) node: NodeId,
    pub(super) sources: Vec<Source>,
    pub(super) ack: watch::Sender<Option<AckV1>>,
    pub(super) detectors: watch::Sender<DetectorsV1>,
    pub(super) held: watch::Sender<Option<SignedStateV1>>,
    pub(super) link: watch::Receiver<LinkStatus>,
    /// `None`: it does not mail.
    pub(super) mail: Option<MailDesk>,
    pub(super) outbox: watch::Receiver<OutboxV1>,
    /// Why the last write of the memory failed.
    pub(super) disk_trouble: Option<String>,
    /// Whether what it obeys is an armed state, for who plays sounds.
    pub(super) armed: watch::Sender<bool>,
    /// Why no sound is played.
    pub(super) soundless: watch::Receiver<Option<String>>,
}

impl Driver {
    pub(super) async fn run(
        mut self,
        effects: Vec<Effect>,
        mut inputs: mpsc::Receiver<Input>,
        mut requests: mpsc::Receiver<Asked>,
        stop: CancellationToken,
    ) -> Result<()> {
        self.carry_out(effects, None);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.report();
            let input = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {
                    crate::systemd::alive();
                    Input::Tick
                }
                Some(input) = inputs.recv() => input,
                Some(asked) = requests.recv() => {
                    self.answer(asked);
                    continue;
                }
                () = changed(&mut self.sources) => continue,
            };
            self.take(input);
        }
    }

    fn take(&mut self, input: Input) {
        let decided = match &input {
            Input::State { state, live: true, .. } => Some(state.since),
            _ => None,
        };
        let before = self.machine.effective();
        let effects = self.machine.handle(input, self.clock.now());
        self.carry_out(effects, decided);
        let after = self.machine.effective();
        if after != before {
            self.tell(after);
        }
    }

    fn tell(&self, effective: ArmState) {
        let reason = self.machine.state().map_or("", |state| state.reason.as_str());
        match self.machine.raised() {
            Some(_) => tracing::warn!("{}, raised by this camera itself", effective.words()),
            None => tracing::info!("{}: {reason}", effective.words()),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, decided: Option<Timestamp>) {
        let mut outcome = None;
        for effect in effects {
            match effect {
                Effect::Save(memory) => match tokio::task::block_in_place(|| self.memory.save(&memory)) {
                    Ok(()) => {
                        self.disk_trouble = None;
                        self.held.send_replace(memory.held);
                        outcome = self.machine.owes_save().then_some(Ok(()));
                    }
                    Err(error) => {
                        let why = format!("{error:#}");
                        self.disk_trouble = Some(why.clone());
                        outcome = Some(Err(why));
                        if !self.machine.effective().is_armed() {
                            break;
                        }
                    }
                },
                Effect::Watch { source, on } => {
                    for known in self.sources.iter().filter(|known| known.name == source) {
                        known.order.send_if_modified(|order| {
                            let changed = order.on != on;
                            // Only the first command that follows a decision is measured against it, not the restarts of a detector that died.
                            *order = WatchOrder { on, decided: if changed { decided } else { None } };
                            changed
                        });
                    }
                }
                Effect::Ack(ack) => {
                    self.ack.send_replace(Some(ack));
                }
                Effect::Alert { key, text } => tracing::warn!("alert {key}: {text}"),
            }
        }
        if let Some(outcome) = outcome {
            // Ends: what could not be saved leaves the camera armed, and then it is tried again after a while only.
            let effects = self.machine.handle(Input::Saved(outcome), self.clock.now());
            self.carry_out(effects, None);
        }
    }

    /// What holds, for who plays sounds, and what the detectors really do, for the coordinator. A detector that is stopped by hand says so.
    fn report(&mut self) {
        let armed = self.machine.effective().is_armed();
        self.armed.send_if_modified(|before| std::mem::replace(before, armed) != armed);
        let paused = self.machine.paused().is_some();
        let sources = self.sources.iter_mut().map(|source| {
            let mut report = source.reports.borrow_and_update().clone();
            if paused && report.phase == DetectorPhase::Stopped.to_wire() {
                report.phase = DetectorPhase::Paused.to_wire();
            }
            report
        });
        let report = DetectorsV1 { sources: sources.collect() };
        self.detectors.send_if_modified(|old| {
            let changed = *old != report;
            if changed {
                *old = report;
            }
            changed
        });
    }

    fn answer(&mut self, asked: Asked) {
        let answer = match asked.request {
            Request::Status => Answer::Camera(Box::new(self.status())),
            // A camera that watches nothing is what a burglar wants: not for everybody who may arm and disarm the house.
            Request::Pause { .. } if asked.uid != 0 => {
                Answer::Refused("only root may stop the detectors of this camera by hand, or let them go on: use sudo".to_owned())
            }
            Request::Pause { secs } => {
                tracing::warn!("{} {}", asked.by, if secs.is_some() { "stops the detectors by hand" } else { "ends the pause" });
                self.take(Input::Pause(secs.map(Duration::from_secs)));
                Answer::Done(match secs {
                    Some(_) => "The detectors of this camera are stopped by hand. `dms3-node resume` ends that early.".to_owned(),
                    None => "The detectors of this camera follow the house again.".to_owned(),
                })
            }
            Request::MailTest => match &self.mail {
                Some(_) if self.link.borrow().revoked => Answer::Refused("this node was revoked and mails nothing".to_owned()),
                Some(mail) => match mail.tests.try_send(()) {
                    Ok(()) => Answer::Done("A test mail is on its way.".to_owned()),
                    Err(_) => Answer::Refused("a test mail is on its way already".to_owned()),
                },
                None => Answer::Refused("this camera does not mail by itself: write the section [mail] into its config".to_owned()),
            },
            _ => Answer::Refused("this node is a camera: run this on the coordinator".to_owned()),
        };
        // Whoever asked may have gone away.
        drop(asked.answer.send(answer));
    }

    fn status(&self) -> CameraStatus {
        let link = self.link.borrow();
        let state = self.machine.state();
        let detectors = self.detectors.borrow();
        CameraStatus {
            node: self.node,
            name: link.name.clone(),
            linked: link.linked.map(|address| address.to_string()),
            trouble: link.trouble.clone(),
            effective: self.machine.effective(),
            raised: self.machine.raised().is_some(),
            paused_secs: self.machine.paused().map(|left| left.as_secs()),
            epoch: state.map(|state| state.epoch),
            rev: state.map(|state| state.rev),
            detectors: self
                .sources
                .iter()
                .zip(&detectors.sources)
                .map(|(source, report)| DetectorView {
                    source: report.source.clone(),
                    should_watch: source.order.borrow().on,
                    phase: DetectorPhase::from_wire(report.phase).words().to_owned(),
                    since: Some(report.since),
                    detail: report.detail.clone(),
                    live: LiveView::from_wire(report.live),
                })
                .collect(),
            clock_trusted: self.clock.now().trusted,
            outbox: *self.outbox.borrow(),
            mail: self.mail.as_ref().map(|mail| mail.counts.borrow().clone()),
            mail_troubles: self.mail.iter().flat_map(|mail| &mail.troubles).filter_map(|trouble| trouble.borrow().clone()).collect(),
            disk_trouble: self.disk_trouble.clone(),
            sound_trouble: self.soundless.borrow().clone(),
            revoked: link.revoked,
        }
    }
}

/// Ends when any detector has something new to report. A detector that is gone has ended its service, which is seen there.
async fn changed(sources: &mut [Source]) {
    let waiting = sources.iter_mut().map(|source| {
        Box::pin(async move {
            if source.reports.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    });
    futures_util::future::select_all(waiting).await;
}

#[cfg(test)]
mod tests {
    use dms3_core::camera::{OnLost, Settings, SourceSettings};
    use dms3_core::protocol::message::StateV1;
    use dms3_pki::sign_state;

    use super::*;
    use crate::mesh::testing::House;

    fn state(house: &House, rev: u64, state: ArmState) -> Input {
        let now = house.clock.now().at;
        let state = StateV1 { state: state.to_wire(), until: Some(now + Duration::from_secs(3600)), ..house.state(rev) };
        Input::State { signed: sign_state(house.coordinator.key(), &state).unwrap(), state, live: true, time: now }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_camera_that_cannot_remember_obeys_an_arming_and_no_disarm() {
        let (house, dir) = (House::new(), tempfile::tempdir().unwrap());
        let (identity, now) = (house.camera(), house.clock.now());
        let settings = || Settings {
            sources: vec![SourceSettings { name: "porch".to_owned(), watch_in: vec![ArmState::Away] }],
            on_coordinator_lost: OnLost::Hold,
        };
        let (memory, machine, effects) = Memory::wake(dir.path(), settings(), &identity, now);
        // Its directory is gone, as if the card had been pulled.
        let lost = || Memory::wake(&dir.path().join("gone"), settings(), &identity, now).0;
        let (order, orders) = watch::channel(WatchOrder::default());
        let (_report, reports) =
            watch::channel(super::super::detector::first_report(&super::super::detector::DetectorConfig::default(), now.at));
        let mut driver = Driver {
            machine,
            memory,
            clock: house.clock.clone(),
            node: identity.node(),
            sources: vec![Source { name: "porch".to_owned(), order, reports }],
            ack: watch::Sender::new(None),
            detectors: watch::Sender::new(DetectorsV1 { sources: Vec::new() }),
            held: watch::Sender::new(None),
            link: watch::channel(LinkStatus::default()).1,
            mail: None,
            outbox: watch::channel(OutboxV1::default()).1,
            disk_trouble: None,
            armed: watch::Sender::new(true),
            soundless: watch::channel(None).1,
        };
        driver.carry_out(effects, None);
        driver.take(Input::LinkUp);
        driver.take(state(&house, 1, ArmState::Disarmed));
        assert!(!orders.borrow().on, "with a disk it is obeyed");

        driver.memory = lost();
        driver.take(state(&house, 2, ArmState::Away));
        assert!(orders.borrow().on, "arming is");
        assert!(driver.machine.owes_save());
        driver.take(state(&house, 3, ArmState::Disarmed));
        assert!(orders.borrow().on, "disarming is not");
        assert_eq!(driver.machine.raised(), Some(ArmState::Away));
        assert!(driver.ack.borrow().as_ref().is_some_and(|ack| ack.sources[0].watch), "and the coordinator hears what it does");

        // The disk is back.
        driver.memory = Memory::wake(dir.path(), settings(), &identity, now).0;
        driver.take(state(&house, 4, ArmState::Disarmed));
        assert!(!orders.borrow().on && !driver.machine.owes_save());
    }
}
