//! What is known of the nodes, and which troubles people are told of.

use super::*;
use crate::fault::FaultKind;
use crate::protocol::message::OutboxV1;

fn porch(house: &House) -> crate::dashboard::NodeView {
    house.dashboard().nodes.into_iter().find(|node| node.node == PORCH).unwrap()
}

#[test]
fn the_coordinator_comes_first_and_a_camera_is_current_when_it_says_so() {
    let mut house = House::new().with_porch();
    assert_eq!(house.dashboard().nodes[0].node, ME);
    assert_eq!(porch(&house).liveness, "late");
    house.link(None);
    assert_eq!((porch(&house).liveness.as_str(), porch(&house).current), ("online", false));
    house.acks();
    assert!(porch(&house).current);
    house.comes(1);
    assert!(!porch(&house).current, "a newer state is on its way");
    house.now.mono.0 += 42;
    house.acks();
    assert_eq!((porch(&house).current, porch(&house).ack_ms), (true, Some(42)));
    house.handle(Input::LinkDown { node: PORCH });
    assert!(!porch(&house).current, "nobody knows what it does now");
    house.link(None);
    house.acks();
    assert_eq!(porch(&house).ack_ms, None, "it was away when that was decided");
}

#[test]
fn a_lost_camera_is_an_alert_while_armed() {
    let mut house = House::with_anna_home().with_porch();
    house.link(None);
    house.acks();
    house.handle(Input::LinkDown { node: PORCH });
    house.seconds(29);
    assert_eq!(porch(&house).liveness, "late");
    house.seconds(1);
    assert_eq!((porch(&house).liveness.as_str(), house.alerts.len()), ("lost", 0));
    assert_eq!(house.dashboard().problems, ["porch is lost: no contact for 30 s."]);
    house.arm(Away, None);
    assert_eq!(house.alerts, [format!("lost:{}", PORCH.short())], "it is lost when the house becomes armed");
    house.link(None);
    house.acks();
    assert_eq!(house.alerts.last().unwrap(), &format!("over lost:{}", PORCH.short()));
}

#[test]
fn a_camera_that_says_that_it_stops_has_a_minute_to_come_back() {
    let mut house = House::new().with_porch();
    let stops = |house: &mut House| {
        house.link(None);
        house.acks();
        house.reports(DetectorPhase::Watching);
        house.handle(Input::Farewell { node: PORCH });
        house.handle(Input::LinkDown { node: PORCH });
    };
    stops(&mut house);
    house.seconds(59);
    assert_eq!((porch(&house).liveness.as_str(), house.alerts.len()), ("late", 0), "an update takes no longer");
    stops(&mut house);
    house.seconds(60);
    assert_eq!(house.alerts, [format!("lost:{}", PORCH.short())]);
    assert_eq!(house.dashboard().problems, ["porch was stopped and has not come back for 60 s."]);
    // Its word counts once.
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Watching);
    house.handle(Input::LinkDown { node: PORCH });
    house.seconds(30);
    assert_eq!((house.alerts.len(), house.dashboard().problems[0].as_str()), (3, "porch is lost: no contact for 30 s."));
}

#[test]
fn what_one_camera_says_neither_ends_nor_repeats_the_trouble_of_another() {
    let shed = NodeId([2; 32]);
    let mut house = House::new();
    house.roster(&[
        (PORCH, NodeRole::Camera, NodeStatus::Active),
        (shed, NodeRole::Camera, NodeStatus::Active),
        (ME, NodeRole::Coordinator, NodeStatus::Active),
    ]);
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Watching);
    house.seconds(31);
    let lost = format!("lost:{}", shed.short());
    assert_eq!(house.alerts, std::slice::from_ref(&lost));
    house.acks();
    house.reports(DetectorPhase::Watching);
    assert_eq!(house.alerts.len(), 1, "the shed is as lost as before");
    house.reports(DetectorPhase::Failed);
    let failed = format!("detector:{}:porch", PORCH.short());
    assert_eq!(house.alerts, [lost.clone(), failed.clone()], "its own trouble is told at once");
    house.reports(DetectorPhase::Watching);
    assert_eq!(house.alerts, [lost, failed.clone(), format!("over {failed}")]);
}

#[test]
fn a_restarted_coordinator_gives_its_cameras_half_a_minute() {
    let mut house = House::new().with_porch();
    house.seconds(20);
    house.restart(0);
    let mut house = house.with_porch();
    house.seconds(29);
    assert!(house.alerts.is_empty());
    house.seconds(1);
    assert_eq!(house.alerts, [format!("lost:{}", PORCH.short())], "also one that it never saw");
}

#[test]
fn a_camera_that_was_paired_and_never_came_is_told_of_and_a_revoked_one_is_not() {
    let mut house = House::new();
    house.roster(&[]);
    house.seconds(100);
    let mut house = house.with_porch();
    assert_eq!(porch(&house).liveness, "never seen");
    house.seconds(29);
    assert!(house.alerts.is_empty());
    house.seconds(1);
    assert_eq!((house.alerts.len(), house.dashboard().problems[0].contains("never been seen")), (1, true));
    house.roster(&[(PORCH, NodeRole::Camera, NodeStatus::Revoked)]);
    assert_eq!(house.alerts.len(), 2);
    house.seconds(100);
    assert!(house.dashboard().problems.is_empty());
    assert_eq!(house.alerts.len(), 2);
}

#[test]
fn a_detector_that_should_watch_and_does_not_is_an_alert_until_it_does() {
    let mut house = House::new().with_porch();
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Starting);
    house.seconds(30);
    house.reports(DetectorPhase::Watching);
    house.seconds(300);
    assert!(house.alerts.is_empty());
    let key = format!("detector:{}:porch", PORCH.short());
    house.reports(DetectorPhase::Failed);
    assert_eq!(house.alerts, std::slice::from_ref(&key));
    for phase in [DetectorPhase::Starting, DetectorPhase::Failed] {
        house.reports(phase);
        assert_eq!(house.alerts.len(), 1, "trying again is no success");
    }
    house.reports(DetectorPhase::Watching);
    assert_eq!(house.alerts, [key.clone(), format!("over {key}")]);
    let view = porch(&house).detectors.remove(0);
    assert_eq!((view.should_watch, view.phase.as_str()), (true, "watching"));
}

#[test]
fn a_detector_that_hangs_while_it_starts_is_an_alert_and_a_disarmed_one_is_none() {
    let mut house = House::new().with_porch();
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Starting);
    house.seconds(61);
    assert_eq!(house.alerts.len(), 1);
    house.comes(1);
    house.acks();
    house.reports(DetectorPhase::Failed);
    house.seconds(100);
    assert_eq!(house.alerts.len(), 2, "only the end of the first");
    house.reports(DetectorPhase::Paused);
    assert_eq!(house.dashboard().problems, ["porch is stopped by hand (pause)."]);
}

#[test]
fn a_camera_that_armed_itself_is_told_of_if_it_stays_so() {
    let mut house = House::with_anna_home().with_porch();
    house.link(None);
    house.acks_as(Away);
    house.seconds(4);
    assert!(house.alerts.is_empty());
    house.seconds(1);
    assert_eq!(house.alerts, [format!("raised:{}", PORCH.short())]);
    house.acks();
    assert_eq!(house.alerts.len(), 2);
}

#[test]
fn a_connected_camera_that_does_not_confirm_is_shown_and_then_told_of() {
    let mut house = House::with_anna_home().with_porch();
    house.link(None);
    house.acks();
    house.arm(Away, None);
    house.seconds(5);
    assert_eq!((house.dashboard().problems.len(), house.alerts.len()), (1, 0));
    house.seconds(20);
    house.arm(Away, None);
    house.seconds(5);
    assert_eq!(house.alerts, [format!("unconfirmed:{}", PORCH.short())], "a newer state is no excuse");
    house.acks();
    assert_eq!((house.dashboard().problems.len(), house.alerts.len()), (0, 2));
}

#[test]
fn the_worst_comes_first() {
    let mut house = House::new().with_porch();
    house.link(None);
    house.acks();
    house.handle(Input::Blind(Some("the cable is out".to_owned())));
    house.now.trusted = false;
    house.reports(DetectorPhase::Failed);
    let problems = house.dashboard().problems;
    assert!(problems[0].starts_with("porch should watch") && problems[1].contains("cable") && problems[2].contains("clock"));
}

/// (how many should watch, who of them does not)
fn watch(house: &House) -> (usize, Vec<String>) {
    let dashboard = house.dashboard();
    let (should, missing) = dashboard.watch();
    (should, missing.iter().map(crate::dashboard::Missing::name).collect())
}

#[test]
fn a_camera_that_was_lost_while_disarmed_is_missed_when_the_house_is_armed() {
    let mut house = House::with_anna_home().with_porch();
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Stopped);
    house.handle(Input::LinkDown { node: PORCH });
    assert_eq!(watch(&house), (0, vec![]));
    house.arm(Away, None);
    assert_eq!(watch(&house), (1, vec!["porch".to_owned()]));
    house.link(None);
    assert_eq!(watch(&house), (1, vec!["porch".to_owned()]), "it has not said yet that it obeys");
    house.acks();
    house.reports(DetectorPhase::Watching);
    assert_eq!(watch(&house), (1, vec![]));
    house.roster(&[(PORCH, NodeRole::Camera, NodeStatus::Revoked)]);
    assert_eq!(watch(&house), (0, vec![]), "who is put out is not counted on");
}

#[test]
fn a_camera_that_a_restarted_coordinator_has_not_heard_of_is_missed_too() {
    let mut house = House::new().with_porch();
    house.restart(0);
    let mut house = house.with_porch();
    assert_eq!(watch(&house), (1, vec!["porch".to_owned()]));
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Watching);
    assert_eq!(watch(&house), (1, vec![]));
}

#[test]
fn a_camera_that_rests_at_night_is_not_missed_at_night() {
    let mut house = House::with_anna_home().with_porch();
    house.arm(Night, None);
    house.link(None);
    let (epoch, rev) = house.machine.state().version();
    let source = SourceAckV1 { source: "porch".to_owned(), effective: Night.to_wire(), watch: false };
    house.handle(Input::Ack { node: PORCH, ack: AckV1 { epoch, rev, sources: vec![source], held: None }, held: None });
    assert_eq!(watch(&house), (0, vec![]));
    house.handle(Input::LinkDown { node: PORCH });
    assert_eq!(watch(&house), (0, vec![]));
    house.arm(Away, None);
    assert_eq!(watch(&house).0, 1);
}

#[test]
fn a_camera_that_is_stopped_by_hand_is_missed_as_long_as_it_should_watch() {
    let mut house = House::new().with_porch();
    house.link(None);
    house.acks();
    let (epoch, rev) = house.machine.state().version();
    let source = SourceAckV1 { source: "porch".to_owned(), effective: Away.to_wire(), watch: false };
    house.handle(Input::Ack { node: PORCH, ack: AckV1 { epoch, rev, sources: vec![source], held: None }, held: None });
    house.reports(DetectorPhase::Paused);
    assert_eq!(watch(&house), (1, vec!["porch".to_owned()]));
}

#[test]
fn people_are_told_of_a_camera_that_is_stopped_by_hand_while_it_should_watch_and_when_that_is_over() {
    let mut house = House::with_anna_home().with_porch();
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Paused);
    house.seconds(1);
    assert_eq!(house.dashboard().problems, ["porch is stopped by hand (pause)."]);
    assert!(house.alerts.is_empty(), "a disarmed house needs it not: {:?}", house.alerts);
    let key = format!("paused:{}:porch", PORCH.short());
    for (nth, then) in [(1, "porch need not watch now; it is still stopped by hand."), (2, "porch is not stopped by hand any more.")] {
        house.arm(Away, None);
        house.acks();
        house.seconds(1);
        assert_eq!(house.alerts.iter().filter(|told| **told == key).count(), nth, "{:?}", house.alerts);
        let text = &house.faults.last().unwrap().text;
        assert!(text.starts_with("porch is stopped by hand: it does not watch, although the house is armed."), "{text}");
        assert!(house.dashboard().problems.contains(text));
        if nth == 1 {
            house.disarm(None);
            house.acks();
        } else {
            house.reports(DetectorPhase::Starting);
        }
        house.seconds(1);
        assert_eq!((house.alerts.last().unwrap(), house.ends.last().unwrap().as_str()), (&format!("over {key}"), then));
    }
}

/// What a machine says that lacks nothing.
fn well(house: &House) -> HealthV1 {
    HealthV1 {
        at: house.now.at,
        node_uptime: 1,
        machine_uptime: 1,
        cpu_millicelsius: Some(52_000),
        load_centi: 1,
        mem_total_kib: 1,
        mem_available_kib: 1,
        disk_total_mib: 30_000,
        disk_free_mib: 20_000,
        unknown_frames: 0,
        clock_trusted: true,
        outbox: OutboxV1::default(),
        mails: false,
        under_voltage: None,
        spool: 0,
    }
}

impl House {
    fn has_free(&mut self, node: NodeId, disk_free_mib: u64) {
        let report = HealthV1 { disk_free_mib, ..well(self) };
        self.handle(Input::Health { node, report });
    }

    /// Of the porch, which is linked: so many of its events wait, the oldest for so long.
    fn has_waiting(&mut self, waiting: u64, oldest: Duration) {
        let outbox = OutboxV1 { waiting, oldest: Some(self.now.at - oldest), ..OutboxV1::default() };
        let report = HealthV1 { outbox, ..well(self) };
        self.handle(Input::Health { node: PORCH, report });
    }
}

/// What happens, which fault is told of it, what ends it, and what is said of that.
type Case = (fn(&mut House), FaultKind, fn(&mut House), &'static str);

#[test]
fn each_fault_is_told_with_its_facts_when_it_begins_and_when_it_ends() {
    let camera = || "porch".to_owned();
    let cases: [Case; 9] = [
        (
            |house| {
                house.handle(Input::LinkDown { node: PORCH });
                house.seconds(30);
            },
            FaultKind::CameraLost { camera: camera() },
            |house| house.link(None),
            "porch is back.",
        ),
        (
            |house| house.reports(DetectorPhase::Failed),
            FaultKind::DetectorFailed { camera: camera(), why: "failed".to_owned() },
            |house| house.reports(DetectorPhase::Watching),
            "porch watches again.",
        ),
        (
            |house| house.reports(DetectorPhase::Failed),
            FaultKind::DetectorFailed { camera: camera(), why: "failed".to_owned() },
            |house| {
                house.disarm(None);
                house.acks();
            },
            "porch need not watch now.",
        ),
        (
            |house| house.has_free(PORCH, 199),
            FaultKind::DiskNearlyFull { node: camera(), free_mib: 199 },
            |house| {
                house.has_free(PORCH, 249);
                assert!(house.ends.is_empty(), "what comes and goes at the limit is one fault");
                house.has_free(PORCH, 250);
            },
            "porch: its disk has room again.",
        ),
        (
            |house| house.has_free(ME, 199),
            FaultKind::DiskNearlyFull { node: "node 9".to_owned(), free_mib: 199 },
            |house| house.has_free(ME, 250),
            "node 9: its disk has room again.",
        ),
        (
            |house| {
                house.has_free(ME, 700);
                house.handle(Input::DiskShort(true));
            },
            FaultKind::DiskNearlyFull { node: "node 9".to_owned(), free_mib: 700 },
            |house| house.handle(Input::DiskShort(false)),
            "node 9: its disk has room again.",
        ),
        (
            |house| house.has_waiting(3, Duration::from_secs(601)),
            FaultKind::OutboxStuck { camera: camera(), waiting: 3 },
            |house| house.has_waiting(2, Duration::from_secs(5)),
            "porch: its events get here again.",
        ),
        (
            |house| {
                let forgotten = StateV1 { rev: house.machine.state().rev + 9, ..house.machine.state().clone() };
                house.held(forgotten);
            },
            FaultKind::StateConflict,
            |house| house.disarm(None),
            "Decided anew: disarmed by root.",
        ),
        (|house| house.seconds(35), FaultKind::Unconfirmed { camera: camera() }, House::acks, "porch has confirmed."),
    ];
    for (nth, (begins, kind, ends, words)) in cases.into_iter().enumerate() {
        let mut house = House::new().with_porch();
        house.link(None);
        if !matches!(kind, FaultKind::Unconfirmed { .. }) {
            house.acks();
        }
        assert!(house.alerts.is_empty(), "number {nth}: {:?}", house.alerts);
        begins(&mut house);
        let told: Vec<_> = house.faults.iter().map(|fault| fault.kind.clone()).collect();
        assert_eq!(told, [kind], "number {nth}");
        assert!(house.dashboard().problems.contains(&house.faults[0].text), "number {nth}: status says what the mail says");
        ends(&mut house);
        house.seconds(1);
        assert_eq!(house.ends, [words], "number {nth}");
        let key = &house.faults[0].key;
        assert_eq!(house.alerts, [key.clone(), format!("over {key}")], "number {nth}");
    }
}

#[test]
fn the_coordinators_own_machine_is_looked_at_too() {
    let mut house = House::with_anna_home().with_porch();
    house.has_free(ME, 90);
    assert_eq!(house.dashboard().problems, ["node 9: disk nearly full (90 MB free)."]);
    assert_eq!(house.dashboard().nodes[0].health.as_ref().map(|health| health.disk_free_mib), Some(90));
    let report = HealthV1 { disk_total_mib: 0, disk_free_mib: 0, cpu_millicelsius: Some(85_000), clock_trusted: false, ..well(&house) };
    house.handle(Input::Health { node: ME, report });
    assert_eq!(house.dashboard().problems, ["node 9: its processor is at 85 °C."], "of a disk that cannot be read nothing is said");
    house.has_free(ME, 700);
    house.handle(Input::DiskShort(true));
    let problems = house.dashboard().problems;
    assert_eq!(problems, ["node 9: disk nearly full (700 MB free, less than is to stay free, and nothing is left that could go)."]);
}

#[test]
fn as_long_as_no_camera_mails_by_itself_it_is_said_that_nobody_would_tell() {
    let mut house = House::with_anna_home().with_porch();
    assert!(house.dashboard().notes.is_empty(), "of a house that nobody was heard of nothing is said");
    house.link(None);
    let mails = |house: &mut House, mails| {
        let report = HealthV1 { mails, ..well(house) };
        house.handle(Input::Health { node: PORCH, report });
        house.dashboard().notes
    };
    assert_eq!(mails(&mut house, false), [NOBODY_TELLS]);
    assert!(mails(&mut house, true).is_empty());
    house.handle(Input::LinkDown { node: PORCH });
    assert!(house.dashboard().notes.is_empty(), "it mails on without a link");
    mails(&mut house, false);
    house.roster(&[(PORCH, NodeRole::Camera, NodeStatus::Revoked)]);
    assert!(house.dashboard().notes.is_empty(), "who is put out is not counted on");
}

#[test]
fn what_a_camera_says_of_its_machine_is_shown_while_it_is_linked() {
    let mut house = House::with_anna_home().with_porch();
    house.link(None);
    house.acks();
    let well = well(&house);
    house.handle(Input::Health { node: PORCH, report: well.clone() });
    assert_eq!(house.dashboard().problems, Vec::<String>::new());
    let at = house.now.at;
    let outbox = OutboxV1 { waiting: 3, oldest: Some(at - Duration::from_secs(601)), lost: 2, refused: 1, ..OutboxV1::default() };
    let ill = HealthV1 { outbox, cpu_millicelsius: Some(85_100), disk_free_mib: 90, unknown_frames: 3, clock_trusted: false, ..well };
    house.handle(Input::Health { node: PORCH, report: ill.clone() });
    let problems = house.dashboard().problems;
    for words in [
        "porch: disk nearly full (90 MB free).",
        "3 of its events have not got here",
        "given up 2 pictures",
        "1 of its events could not",
        "clock is not to be trusted",
        "85 °C",
        "3 messages",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
    }
    assert_eq!(porch(&house).health, Some(ill));
    house.handle(Input::LinkDown { node: PORCH });
    assert_eq!(house.dashboard().problems, Vec::<String>::new(), "nobody knows how it is now");
}

#[test]
fn a_camera_whose_link_moved_is_shown_at_its_new_address() {
    let mut house = House::new().with_porch();
    house.link(None);
    house.handle(Input::Moved { node: PORCH, address: "10.0.0.9:5".to_owned() });
    assert_eq!(porch(&house).address.as_deref(), Some("10.0.0.9:5"));
}

#[test]
fn a_person_who_is_forgotten_is_named_no_more_and_the_state_stays() {
    let mut house = House::with_anna_home();
    let before = (house.state(), house.machine.state().version());
    assert!(house.dashboard().reason.contains("Anna"), "{}", house.dashboard().reason);
    house.handle(Input::Forget { person: "Anna".to_owned() });
    assert!(!house.dashboard().reason.contains("Anna"));
    assert!(!house.disk.reason.contains("Anna"), "it is saved at once");
    assert_eq!((house.state(), house.machine.state().version()), before);
}

#[test]
fn what_a_person_chose_holds_on_when_he_is_forgotten_and_its_end_does_not_name_him() {
    let mut house = House::with_anna_home();
    let until = Some(house.now.at + Duration::from_secs(60));
    let command = Command::Arm { state: Night, until, now: true, stays: false };
    house.handle(Input::Command { command, by: "Anna".to_owned() });
    house.handle(Input::Forget { person: "Anna".to_owned() });
    assert_eq!(house.state(), Night);
    assert!(!format!("{:?}", house.disk).contains("Anna"), "{:?}", house.disk);
    house.seconds(61);
    let reason = house.dashboard().reason;
    assert_eq!(house.state(), Disarmed, "{reason}");
    assert!(!reason.contains("Anna"), "{reason}");
}

#[test]
fn it_is_said_in_how_many_days_a_disk_is_full_once_enough_of_it_was_seen() {
    let mut house = House::new().with_porch();
    house.link(None);
    let free = |house: &mut House, hours: u64, mib: u64| {
        house.now.mono.0 += hours * 3_600_000;
        let report = HealthV1 { disk_total_mib: 100_000, disk_free_mib: mib, ..well(house) };
        house.handle(Input::Health { node: PORCH, report });
        porch(house).disk_days
    };
    assert_eq!(free(&mut house, 0, 60_000), None);
    assert_eq!(free(&mut house, 1, 59_000), None, "an hour is no pace");
    assert_eq!(free(&mut house, 23, 58_000), Some(29), "two gigabytes a day");
    assert_eq!(free(&mut house, 1, 90_000), None, "somebody tidied up");
    assert_eq!(free(&mut house, 24, 90_000), None, "it does not fill");
}

#[test]
fn a_certificate_is_shown_with_its_end_as_it_was_shown_or_renewed_last() {
    let mut house = House::new().with_porch();
    house.link(None);
    assert_eq!(porch(&house).cert_end, Some(Timestamp(0)));
    house.handle(Input::Certificate { node: PORCH, end: Timestamp(7) });
    house.handle(Input::Certificate { node: ME, end: Timestamp(8) });
    assert_eq!((porch(&house).cert_end, house.dashboard().nodes[0].cert_end), (Some(Timestamp(7)), Some(Timestamp(8))));
}
