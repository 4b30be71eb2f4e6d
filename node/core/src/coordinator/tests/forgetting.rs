//! A coordinator that forgot something, and what it writes down.

use super::*;

/// A state of the future that we signed and do not know of any more.
fn forgotten(house: &House, ahead: u64) -> StateV1 {
    let known = house.machine.state();
    StateV1 { rev: known.rev + ahead, reason: "forgotten".to_owned(), ..known.clone() }
}

#[test]
fn a_restored_backup_arms_the_house_past_all_that_was_forgotten_and_tells() {
    for ahead in [0, 1, 1000] {
        let mut house = House::with_anna_home().with_porch();
        let held = forgotten(&house, ahead);
        house.link(Some(held.clone()));
        let state = house.machine.state();
        assert_eq!((state.arm_state(), state.epoch), (Away, held.epoch + 1));
        assert!(state.rev > held.rev);
        assert_eq!(house.alerts, ["states-conflict"]);
        house.held(held);
        assert_eq!(house.alerts.len(), 1, "answered once");
    }
}

#[test]
fn what_a_camera_held_before_is_no_reason_to_arm() {
    let mut house = House::with_anna_home().with_porch();
    let current = house.machine.state().clone();
    house.link(Some(StateV1 { rev: current.rev - 1, ..current.clone() }));
    house.held(current.clone());
    house.held(StateV1 { mesh: MeshId([2; 10]), epoch: 9, ..current.clone() });
    assert_eq!(house.machine.state(), &current);
    assert!(house.alerts.is_empty());
}

#[test]
fn after_a_restored_backup_only_a_fresh_arrival_or_a_person_disarms() {
    let mut house = House::with_anna_home().with_porch();
    house.held(forgotten(&house, 5));
    house.seconds(100);
    assert_eq!(house.state(), Away, "Anna was home before");
    house.restart(0);
    house.comes(2);
    assert_eq!(house.state(), Away, "nobody knows that the house was empty");
    house.all_leave();
    house.comes(1);
    assert_eq!((house.state(), house.disk.restored), (Disarmed, false));

    house.held(forgotten(&house, 5));
    house.disarm(None);
    assert_eq!((house.state(), house.disk.restored), (Disarmed, false));
    assert_eq!(house.alerts.last().map(String::as_str), Some("over states-conflict"));
}

#[test]
fn at_the_end_of_all_numbers_the_house_is_armed_and_stays_so() {
    for (epoch, rev) in [(u32::MAX, u64::MAX), (u32::MAX, u64::MAX - 1), (u32::MAX - 1, u64::MAX), (5, u64::MAX)] {
        let mut house = House::with_anna_home().with_porch();
        house.held(StateV1 { epoch, rev, ..forgotten(&house, 0) });
        assert_eq!(house.state(), Away);
        let version = house.machine.state().version();
        assert!(version > (epoch, rev) || version == (u32::MAX, u64::MAX), "{version:?}");
        let (publications, held) = (house.publications, StateV1 { epoch, rev, ..forgotten(&house, 0) });
        (0..3).for_each(|_| house.held(held.clone()));
        assert!(house.publications <= publications + 1, "an answer to each answer would never end");
    }
    let mut house = House::with_anna_home();
    house.held(StateV1 { epoch: u32::MAX, rev: u64::MAX, ..forgotten(&house, 0) });
    for command in
        [Command::Disarm { until: None, stays: false }, Command::Auto, Command::Arm { state: Night, until: None, now: true, stays: false }]
    {
        house.command(command);
        house.seconds(3);
        assert_eq!(house.state(), Away);
    }
    assert!(house.dashboard().problems[0].contains("used up"));
}

#[test]
fn the_last_number_is_never_that_of_a_disarm() {
    let mut house = House::with_anna_home().with_porch();
    house.held(StateV1 { epoch: u32::MAX - 1, rev: u64::MAX - 4, ..forgotten(&house, 0) });
    let mut said = Vec::new();
    for _ in 0..6 {
        house.command(Command::Disarm { until: None, stays: false });
        let state = house.machine.state();
        said.push((u64::MAX - state.rev, state.arm_state()));
    }
    assert_eq!(said, [(2, Disarmed), (1, Disarmed), (0, Away), (0, Away), (0, Away), (0, Away)]);
    assert!(house.dashboard().problems[0].contains("used up"));
}

/// These bytes lie on the disks of coordinators. If this fails, append a version instead of changing.
#[test]
fn the_memory_of_a_coordinator_has_the_bytes_that_are_deployed() {
    let over = |state| Override {
        state,
        until: Some(Timestamp(1)),
        left: Some(2),
        by: "r".to_owned(),
        was_away: true,
        was_home: false,
        ends_by_presence: true,
    };
    let memory = MemoryV1 {
        state: StateV1 {
            mesh: MeshId([1; 10]),
            epoch: 2,
            rev: 3,
            state: 1,
            reason: "a".to_owned(),
            since: Timestamp(4),
            until: Some(Timestamp(5)),
            windows: Vec::new(),
            zone: "z".to_owned(),
        },
        reason: "b".to_owned(),
        over: Some(over(Disarmed)),
        pending: Some((over(Away), Timestamp(6))),
        by_presence: 3,
        restored: true,
        by_window: 2,
    };
    let bytes = crate::protocol::frame::to_bytes(&memory).unwrap();
    let frozen = "01010101010101010101020301016104010500017a01620100010101020172010001010201010102017201000106030102";
    assert_eq!(data_encoding::HEXLOWER.encode(&bytes), frozen);
}
