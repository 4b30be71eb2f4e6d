//! What a camera does about what it is told, and about silence.

use super::*;
use crate::id::MeshId;
use ArmState::{Away, Disarmed, Night};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn state(rev: u64, state: ArmState) -> StateV1 {
    StateV1 {
        mesh: MeshId([1; 10]),
        epoch: 1,
        rev,
        state: state.to_wire(),
        reason: "because".to_owned(),
        since: Timestamp(0),
        until: None,
        windows: Vec::new(),
        zone: "UTC".to_owned(),
    }
}

fn signed(state: &StateV1) -> SignedStateV1 {
    SignedStateV1 { payload: crate::protocol::frame::to_bytes(state).unwrap(), signer: [0; 32], signature: Vec::new() }
}

/// A node with three cameras, its disk, and a clock that is turned by hand.
struct Node {
    settings: Settings,
    camera: Camera,
    disk: Option<(MemoryV1, Option<StateV1>)>,
    /// Nothing can be written.
    broken: bool,
    saves: usize,
    watching: Vec<(String, bool)>,
    last_ack: Option<AckV1>,
    alerts: Vec<String>,
    now: Now,
}

impl Node {
    fn new(on_coordinator_lost: OnLost) -> Self {
        let source = |name: &str, watch_in: &[ArmState]| SourceSettings { name: name.to_owned(), watch_in: watch_in.to_vec() };
        let settings =
            Settings { sources: vec![source("room", &[Away]), source("yard", &[Night, Away]), source("spare", &[])], on_coordinator_lost };
        let now = Now { at: Timestamp(1_000_000_000), mono: Mono(5_000), trusted: true };
        let (camera, effects) = Camera::start(settings.clone(), None, false, now);
        let mut node =
            Self { settings, camera, disk: None, broken: false, saves: 0, watching: Vec::new(), last_ack: None, alerts: Vec::new(), now };
        node.carry_out(effects);
        node
    }

    /// Linked and disarmed by a coordinator for 12 hours.
    fn disarmed(on_coordinator_lost: OnLost) -> Self {
        let mut node = Self::new(on_coordinator_lost);
        node.handle(Input::LinkUp);
        node.told(disarm(5, node.now.at, 12 * HOUR));
        assert_eq!(node.camera.effective(), Disarmed);
        node
    }

    fn handle(&mut self, input: Input) {
        let effects = self.camera.handle(input, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let saved = effects.iter().position(|effect| matches!(effect, Effect::Save(_)));
        let acted = effects.iter().position(|effect| matches!(effect, Effect::Watch { .. } | Effect::Ack(_)));
        assert!(saved.is_none() || acted.is_none() || saved < acted, "saved first: {effects:?}");
        let mut outcome = None;
        for effect in effects {
            match effect {
                Effect::Save(_) if self.broken => {
                    self.saves += 1;
                    outcome = Some(Err("no space".to_owned()));
                    if !self.camera.effective().is_armed() {
                        break;
                    }
                }
                Effect::Save(memory) => {
                    outcome = self.camera.owes_save().then_some(Ok(()));
                    let held = memory.held.as_ref().map(|held| crate::protocol::frame::from_bytes(&held.payload).unwrap());
                    self.disk = Some((*memory, held));
                    self.saves += 1;
                }
                Effect::Watch { source, on } => {
                    self.watching.retain(|(name, _)| *name != source);
                    self.watching.push((source, on));
                }
                Effect::Ack(ack) => self.last_ack = Some(ack),
                Effect::Alert { key, .. } => self.alerts.push(key),
            }
        }
        if let Some(outcome) = outcome {
            self.handle(Input::Saved(outcome));
        }
    }

    fn told(&mut self, state: StateV1) {
        let time = self.now.at;
        self.handle(Input::State { signed: signed(&state), state, live: true, time });
    }

    fn handed(&mut self, state: StateV1) {
        self.handle(Input::State { signed: signed(&state), state, live: false, time: Timestamp(0) });
    }

    fn pass(&mut self, millis: u64) {
        self.now.mono.0 += millis;
        self.now.at.0 += millis;
        self.handle(Input::Tick);
    }

    fn seconds(&mut self, n: u64) {
        (0..n).for_each(|_| self.pass(1000));
    }

    /// Off for a while; the stopwatch begins anew.
    fn restart(&mut self, off: u64) {
        self.now.at.0 += off;
        self.now.mono = Mono(7);
        let (camera, effects) = Camera::start(self.settings.clone(), self.disk.clone(), false, self.now);
        self.camera = camera;
        self.carry_out(effects);
    }

    fn watches(&self, source: &str) -> bool {
        self.watching.iter().any(|(name, on)| name == source && *on)
    }
}

fn disarm(rev: u64, at: Timestamp, lease: u64) -> StateV1 {
    StateV1 { until: Some(Timestamp(at.0 + lease)), ..state(rev, Disarmed) }
}

const HOLD: OnLost = OnLost::Hold;
const ARM: OnLost = OnLost::ArmAfter { after: Duration::from_secs(15 * 60), state: Away };

#[test]
fn a_camera_that_was_never_told_a_state_watches() {
    let node = Node::new(ARM);
    assert_eq!(node.camera.effective(), Away);
    assert!(node.watches("room") && node.watches("yard"));
}

#[test]
fn each_camera_watches_in_its_states_and_one_with_none_never() {
    let mut node = Node::new(ARM);
    node.handle(Input::LinkUp);
    for (n, now, room, yard) in [(1, Night, false, true), (2, Away, true, true)] {
        node.told(state(n, now));
        assert_eq!((node.watches("room"), node.watches("yard"), node.watches("spare")), (room, yard, false), "{now:?}");
    }
    node.told(disarm(3, node.now.at, HOUR));
    assert!(!node.watches("room") && !node.watches("yard"));
    let ack = node.last_ack.unwrap();
    assert_eq!((ack.epoch, ack.rev, ack.held), (1, 3, None));
    assert!(ack.sources.iter().all(|source| source.effective == 1 && !source.watch));
}

#[test]
fn only_a_greater_number_is_applied_and_an_older_one_is_answered_with_what_is_held() {
    let mut node = Node::new(ARM);
    node.handle(Input::LinkUp);
    node.told(state(5, Away));
    node.told(disarm(4, node.now.at, HOUR));
    assert_eq!(node.camera.effective(), Away);
    let ack = node.last_ack.clone().unwrap();
    assert_eq!(((ack.epoch, ack.rev), ack.held), ((1, 5), Some(signed(&state(5, Away)))));
    node.told(StateV1 { epoch: 0, ..disarm(9, node.now.at, HOUR) });
    assert_eq!(node.camera.effective(), Away, "an older epoch");
    node.told(StateV1 { epoch: 2, ..disarm(1, node.now.at, HOUR) });
    assert_eq!(node.camera.effective(), Disarmed, "a newer epoch");
}

#[test]
fn two_states_with_one_number_arm_the_camera_and_tell_the_coordinator() {
    let mut node = Node::disarmed(ARM);
    node.told(StateV1 { reason: "another".to_owned(), ..disarm(5, node.now.at, HOUR) });
    assert_eq!(node.camera.effective(), Away);
    assert_eq!(node.alerts, ["conflict"]);
    assert!(node.last_ack.as_ref().unwrap().held.is_some());
    node.told(disarm(6, node.now.at, HOUR));
    assert_eq!(node.camera.effective(), Disarmed, "a greater number settles it");
}

#[test]
fn what_is_handed_on_may_only_arm() {
    let mut node = Node::disarmed(ARM);
    node.handed(disarm(7, node.now.at, HOUR));
    assert_eq!(node.camera.state().unwrap().rev, 5, "a disarm handed on is nothing");
    node.handed(state(6, Away));
    assert_eq!(node.camera.effective(), Away);
    node.handed(state(7, Night));
    assert_eq!(node.camera.effective(), Away, "nothing is lowered");
    node.handed(state(5, Away));
    assert_eq!(node.camera.state().unwrap().rev, 6, "an older one is nothing");
    node.told(disarm(8, node.now.at, HOUR));
    assert_eq!(node.camera.effective(), Disarmed);
}

#[test]
fn what_is_handed_on_ends_no_raise() {
    let mut node = Node::disarmed(ARM);
    node.handle(Input::Unreadable { why: "garbage".to_owned() });
    node.handed(state(6, Away));
    assert_eq!(node.camera.raised(), Some(Away));
}

#[test]
fn a_disarm_is_measured_by_the_clock_that_wrote_it() {
    let mut node = Node::new(HOLD);
    node.handle(Input::LinkUp);
    let theirs = Timestamp(77 * HOUR);
    let state = disarm(1, theirs, 10 * MINUTE);
    node.handle(Input::State { signed: signed(&state), state, live: true, time: theirs });
    node.pass(10 * MINUTE - 1);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(1);
    assert_eq!(node.camera.effective(), Away, "it runs out even over a live link");
    assert_eq!(node.alerts, ["raised"]);
    assert!(node.watches("room"));
}

#[test]
fn a_disarm_lasts_12_hours_whatever_it_says_and_no_time_if_it_says_nothing() {
    let mut node = Node::new(HOLD);
    node.handle(Input::LinkUp);
    node.told(disarm(1, node.now.at, 999 * HOUR));
    node.pass(12 * HOUR - 1);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(1);
    assert_eq!(node.camera.effective(), Away);
    node.told(StateV1 { until: None, ..disarm(2, node.now.at, 0) });
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn a_confirmation_measures_the_disarm_anew_and_takes_a_raise_back() {
    let mut node = Node::disarmed(HOLD);
    let same = node.camera.state().unwrap().clone();
    node.pass(11 * HOUR);
    node.told(same.clone());
    node.pass(HOUR - 1);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(1);
    assert_eq!(node.camera.effective(), Away);
    node.told(same);
    assert_eq!(node.camera.effective(), Away, "its time is over, and the same again does not change that");
}

#[test]
fn a_reboot_renews_no_disarm() {
    let mut node = Node::disarmed(HOLD);
    node.handle(Input::LinkDown);
    node.pass(6 * HOUR);
    node.now.trusted = false;
    node.restart(0);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(6 * HOUR - 2 * MINUTE);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(2 * MINUTE);
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn a_camera_that_crashes_every_half_minute_uses_its_disarm_up_too() {
    let mut node = Node::disarmed(HOLD);
    node.now.trusted = false;
    let mut crashes = 0;
    while node.camera.effective() == Disarmed {
        node.seconds(9);
        node.restart(0);
        crashes += 1;
        assert!(crashes * 9_000 < 12 * HOUR, "it stretched the disarm");
    }
}

#[test]
fn a_camera_that_was_off_past_the_end_of_its_disarm_wakes_up_armed() {
    let mut node = Node::disarmed(HOLD);
    node.pass(MINUTE);
    node.restart(12 * HOUR);
    assert_eq!(node.camera.effective(), Away);
    let mut node = Node::disarmed(HOLD);
    node.now.trusted = false;
    node.restart(12 * HOUR);
    assert_eq!(node.camera.effective(), Disarmed, "a clock that is only a lower bound tells nothing of the time off");
}

#[test]
fn a_disarmed_camera_without_a_coordinator_arms_itself_after_its_time() {
    let mut node = Node::disarmed(ARM);
    node.handle(Input::LinkDown);
    node.pass(15 * MINUTE - 1);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(1);
    assert_eq!((node.camera.effective(), node.alerts.as_slice()), (Away, &["raised".to_owned()][..]));
    let ack = node.last_ack.clone().unwrap();
    assert!(ack.rev == 5 && ack.sources[0].effective == 3 && ack.sources[0].watch, "{ack:?}");
}

#[test]
fn a_silent_coordinator_at_the_other_end_of_a_link_is_lost_too() {
    let mut node = Node::disarmed(ARM);
    node.handle(Input::LinkDown);
    node.handle(Input::LinkUp);
    node.pass(15 * MINUTE);
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn a_camera_that_shall_arm_without_delay_obeys_a_coordinator_that_is_there() {
    let mut node = Node::disarmed(OnLost::ArmAfter { after: Duration::ZERO, state: Away });
    node.seconds(100);
    assert_eq!(node.camera.effective(), Disarmed);
    node.handle(Input::LinkDown);
    assert_eq!(node.camera.effective(), Away);
    let state = disarm(6, node.now.at, HOUR);
    node.told(state);
    assert_eq!(node.camera.effective(), Away, "what was said over a link that is gone");
}

#[test]
fn short_losses_do_not_add_up_and_reboots_do() {
    let mut node = Node::disarmed(ARM);
    for _ in 0..5 {
        node.handle(Input::LinkDown);
        node.pass(10 * MINUTE);
        node.handle(Input::LinkUp);
        node.told(node.camera.state().unwrap().clone());
        assert_eq!(node.camera.effective(), Disarmed);
    }
    node.handle(Input::LinkDown);
    for _ in 0..2 {
        node.seconds(7 * 60);
        node.restart(0);
        assert_eq!(node.camera.effective(), Disarmed);
    }
    node.seconds(60);
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn with_hold_a_lost_coordinator_changes_nothing_until_the_disarm_ends() {
    let mut node = Node::disarmed(HOLD);
    node.handle(Input::LinkDown);
    node.pass(12 * HOUR - 1);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(1);
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn a_lost_coordinator_never_lowers_an_armed_camera() {
    let mut node = Node::new(OnLost::ArmAfter { after: Duration::from_secs(60), state: Night });
    node.handle(Input::LinkUp);
    node.told(state(1, Away));
    node.handle(Input::LinkDown);
    node.pass(99 * HOUR);
    assert_eq!(node.camera.effective(), Away);
    assert!(node.alerts.is_empty());
    let mut node = Node::new(OnLost::ArmAfter { after: Duration::from_secs(60), state: Disarmed });
    node.handle(Input::LinkUp);
    node.told(disarm(1, node.now.at, HOUR));
    node.handle(Input::LinkDown);
    node.pass(MINUTE);
    assert_eq!(node.camera.effective(), Away, "a config that would not arm");
}

#[test]
fn a_raise_ends_by_the_word_of_a_coordinator_only() {
    let mut node = Node::disarmed(ARM);
    let same = node.camera.state().unwrap().clone();
    node.handle(Input::LinkDown);
    node.pass(15 * MINUTE);
    node.restart(MINUTE);
    assert_eq!(node.camera.effective(), Away, "it survives a restart");
    node.handle(Input::LinkUp);
    node.pass(1000);
    assert_eq!(node.camera.effective(), Away, "a link alone says nothing");
    node.told(state(4, Disarmed));
    assert_eq!(node.camera.effective(), Away, "an older state says nothing");
    node.told(same);
    assert_eq!(node.camera.effective(), Disarmed);
    assert!(!node.watches("yard"));
}

#[test]
fn a_weak_raise_grows_when_the_disarm_ends() {
    let mut node = Node::disarmed(OnLost::ArmAfter { after: Duration::from_secs(60), state: Night });
    node.handle(Input::LinkDown);
    node.pass(MINUTE);
    assert_eq!(node.camera.effective(), Night);
    node.pass(12 * HOUR);
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn a_state_that_cannot_be_read_or_is_not_known_arms() {
    let mut node = Node::disarmed(ARM);
    node.handle(Input::Unreadable { why: "bad signature".to_owned() });
    assert_eq!((node.camera.effective(), node.alerts.as_slice()), (Away, &["unreadable".to_owned()][..]));
    assert!(node.last_ack.as_ref().unwrap().held.is_some());
    node.handle(Input::Unreadable { why: "bad signature".to_owned() });
    assert_eq!(node.alerts.len(), 1, "told once");
    node.told(StateV1 { state: 77, ..disarm(6, node.now.at, HOUR) });
    assert_eq!(node.camera.effective(), Away, "a state of a later version");
    assert_eq!(node.alerts[1..], ["unknown-state"]);
    node.told(StateV1 { state: 0, ..disarm(7, node.now.at, HOUR) });
    assert_eq!(node.camera.effective(), Away, "a block of zeros");
}

#[test]
fn a_camera_that_cannot_read_its_memory_is_armed_until_it_is_told() {
    let settings = Node::new(ARM).settings;
    let now = Now { at: Timestamp(0), mono: Mono(0), trusted: false };
    let disk = Node::disarmed(ARM).disk.unwrap();
    for (memory, corrupt) in [(None, true), (Some(disk.clone()), true), (Some((disk.0, None)), false)] {
        let (mut camera, effects) = Camera::start(settings.clone(), memory, corrupt, now);
        assert_eq!(camera.effective(), Away);
        assert!(matches!(&effects[0], Effect::Save(memory) if memory.raised == 3), "{effects:?}");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Alert { key, .. } if key == "memory")));
        camera.handle(Input::LinkUp, now);
        let state = disarm(1, now.at, HOUR);
        camera.handle(Input::State { signed: signed(&state), state, live: true, time: now.at }, now);
        assert_eq!(camera.effective(), Disarmed);
    }
}

#[test]
fn a_pause_stops_the_detectors_and_not_the_state_and_ends_by_itself() {
    let mut node = Node::new(ARM);
    node.handle(Input::Pause(Some(Duration::from_secs(600))));
    assert_eq!(node.camera.effective(), Away);
    assert!(!node.watches("room") && !node.watches("yard"));
    let ack = node.last_ack.clone().unwrap();
    assert!(ack.sources.iter().all(|source| source.effective == 3 && !source.watch), "{ack:?}");
    node.restart(0);
    assert!(!node.watches("room"), "it survives a reboot");
    assert!(node.camera.paused().unwrap() <= Duration::from_secs(600));
    node.pass(9 * MINUTE);
    assert!(node.watches("room"), "a reboot renews no pause");
    node.handle(Input::Pause(Some(Duration::from_secs(600))));
    node.handle(Input::Pause(None));
    assert!(node.watches("room") && node.camera.paused().is_none());
}

#[test]
fn a_pause_ends_early_rather_than_late_when_the_clock_jumps() {
    let mut node = Node::new(ARM);
    node.handle(Input::Pause(Some(Duration::from_secs(600))));
    node.now.at.0 += 11 * MINUTE;
    node.pass(1);
    assert!(node.watches("room"));
    node.handle(Input::Pause(Some(Duration::from_secs(600))));
    node.now.at.0 -= 99 * HOUR;
    node.pass(10 * MINUTE);
    assert!(node.watches("room"));
    node.handle(Input::Pause(Some(Duration::MAX)));
    assert!(!node.watches("room"));
    node.pass(u64::MAX / 2);
    assert!(node.watches("room"), "no pause is endless, and none overflows anything");
}

#[test]
fn an_armed_camera_writes_nothing_and_a_disarmed_one_once_a_minute() {
    let mut node = Node::disarmed(ARM);
    let before = node.saves;
    node.seconds(600);
    assert_eq!(node.saves - before, 10);
    node.told(state(6, Away));
    let before = node.saves;
    node.seconds(600);
    assert_eq!(node.saves, before);
}

#[test]
fn an_arming_that_could_not_be_written_is_written_as_soon_as_the_disk_is_back() {
    let mut node = Node::disarmed(HOLD);
    node.broken = true;
    node.told(state(6, Away));
    assert!(node.watches("room"), "a disk that is full keeps nobody from watching");
    let before = node.saves;
    node.seconds(60);
    assert!((5..=6).contains(&(node.saves - before)), "it is tried again and again: {}", node.saves - before);
    assert_eq!(node.alerts, ["disk"], "and told once");
    node.broken = false;
    node.seconds(11);
    assert!(!node.camera.owes_save());
    node.restart(0);
    assert_eq!(node.camera.effective(), Away);
}

#[test]
fn a_disarm_that_cannot_be_written_is_none() {
    let mut node = Node::new(HOLD);
    node.handle(Input::LinkUp);
    node.broken = true;
    node.told(disarm(5, node.now.at, HOUR));
    assert!(node.watches("room") && node.watches("yard"));
    assert_eq!((node.camera.effective(), node.camera.raised()), (Away, Some(Away)));
    let ack = node.last_ack.clone().unwrap();
    assert!(ack.sources.iter().any(|source| source.watch), "the coordinator hears that it watches");
    // Told again, it is on the disk no more than before.
    let before = node.saves;
    node.pass(1);
    node.told(disarm(5, node.now.at, HOUR - 1));
    assert_eq!((node.camera.effective(), node.saves), (Away, before + 1), "it is tried, and not obeyed");
    assert!(node.watches("room") && node.watches("yard"));
    // A disk that breaks while the house is disarmed, at the next write of what is left of the lease.
    let mut node = Node::disarmed(HOLD);
    node.broken = true;
    node.seconds(90);
    assert_eq!(node.camera.effective(), Away);
    // A coordinator that goes on saying so is believed once the disk is back.
    node.broken = false;
    node.told(disarm(6, node.now.at, HOUR));
    assert_eq!(node.camera.effective(), Disarmed);
}

#[test]
fn a_pause_lasts_at_most_half_a_day_whoever_asks_and_whatever_the_disk_says() {
    let mut node = Node::new(HOLD);
    node.handle(Input::Pause(Some(Duration::from_secs(u64::MAX / 1000))));
    assert_eq!(node.camera.paused(), Some(PAUSE_LIMIT));
    node.disk.as_mut().unwrap().0.paused = Some((Timestamp(u64::MAX), u64::MAX));
    node.restart(0);
    assert!(node.camera.paused().unwrap() <= PAUSE_LIMIT);
    node.pass(12 * HOUR);
    assert!(node.watches("room"));
}

/// These bytes lie on the disks of cameras. If this fails, append a version instead of changing.
#[test]
fn the_memory_of_a_camera_has_the_bytes_that_are_deployed() {
    let memory = MemoryV1 {
        held: Some(SignedStateV1 { payload: vec![1, 2], signer: [0xaa; 32], signature: vec![3] }),
        lease_left: 300,
        lost_for: 5,
        raised: 3,
        paused: Some((Timestamp(6), 7)),
    };
    let bytes = crate::protocol::frame::to_bytes(&memory).unwrap();
    let frozen = "01020102aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0103ac020503010607";
    assert_eq!(data_encoding::HEXLOWER.encode(&bytes), frozen);
}

#[test]
fn nothing_on_the_disk_makes_a_disarm_longer_than_its_lease() {
    for trusted in [true, false] {
        let mut node = Node::disarmed(OnLost::Hold);
        // As a clock far ahead or a bug would leave it.
        let (memory, held) = node.disk.as_mut().unwrap();
        memory.lease_left = 1000 * HOUR;
        let mut far = disarm(5, node.now.at, 1000 * HOUR);
        far.epoch = 1;
        memory.held = Some(signed(&far));
        *held = Some(far);
        node.now.trusted = trusted;
        node.restart(0);
        node.pass(11 * HOUR);
        assert_eq!(node.camera.effective(), Disarmed);
        node.pass(HOUR);
        assert_eq!(node.camera.effective(), Away, "trusted: {trusted}");
    }
}

#[test]
fn a_lease_that_was_told_shorter_is_no_longer_after_a_crash() {
    let mut node = Node::disarmed(OnLost::Hold);
    // The coordinator's clock was set three hours ahead, and it says the same state once more.
    let state = disarm(5, node.now.at, 12 * HOUR);
    node.handle(Input::State { signed: signed(&state), state, live: true, time: Timestamp(node.now.at.0 + 3 * HOUR) });
    node.restart(0);
    node.pass(9 * HOUR - 2 * MINUTE);
    assert_eq!(node.camera.effective(), Disarmed);
    node.pass(2 * MINUTE);
    assert_eq!(node.camera.effective(), Away);
}

fn night_state(rev: u64, from_hour: u16, to_hour: u16, now: Timestamp) -> StateV1 {
    let (state, days) = (Night.to_wire(), crate::windows::ALL_DAYS);
    let window = crate::protocol::message::WindowV1 { state, days, start: from_hour * 60, end: to_hour * 60, from_day: None, to_day: None };
    StateV1 { windows: vec![window], ..disarm(rev, now, 12 * HOUR) }
}

#[test]
fn without_a_coordinator_a_window_of_the_house_raises_the_state_and_its_end_lowers_nothing() {
    let mut node = Node::disarmed(OnLost::Hold);
    // 1970-01-12 13:46 UTC.
    node.told(night_state(6, 15, 16, node.now.at));
    node.handle(Input::LinkDown);
    (0..70).for_each(|_| node.pass(MINUTE));
    assert_eq!(node.camera.effective(), Disarmed);
    (0..10).for_each(|_| node.pass(MINUTE));
    assert_eq!((node.camera.effective(), node.alerts.last().map(String::as_str)), (Night, Some("raised")));
    (0..120).for_each(|_| node.pass(MINUTE));
    assert_eq!(node.camera.effective(), Night);
    node.handle(Input::LinkUp);
    node.told(night_state(7, 15, 16, node.now.at));
    assert_eq!(node.camera.effective(), Disarmed);
}

#[test]
fn a_window_raises_nothing_while_a_coordinator_decides_nor_in_its_restart_nor_by_a_clock_that_may_be_wrong() {
    let mut node = Node::disarmed(OnLost::Hold);
    node.told(night_state(6, 13, 16, node.now.at));
    (0..10).for_each(|_| node.pass(MINUTE));
    assert_eq!(node.camera.effective(), Disarmed, "the coordinator knows of its window, and a person overruled it");
    node.handle(Input::LinkDown);
    node.pass(MINUTE);
    assert_eq!(node.camera.effective(), Disarmed, "it is only restarted");
    node.now.trusted = false;
    (0..10).for_each(|_| node.pass(MINUTE));
    assert_eq!(node.camera.effective(), Disarmed);
    node.now.trusted = true;
    node.pass(MINUTE);
    assert_eq!(node.camera.effective(), Night);
}
