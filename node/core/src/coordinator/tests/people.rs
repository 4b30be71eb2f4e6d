//! What people decide, and what ends it.

use super::*;

#[test]
fn an_arm_command_leaves_time_to_go() {
    let mut house = House::with_anna_home();
    house.command(Command::Arm { state: Away, until: None, now: false, stays: false });
    assert_eq!(house.dashboard().pending, Some((Away, house.now.at + Duration::from_secs(60))));
    house.seconds(30);
    house.command(Command::Arm { state: Away, until: None, now: false, stays: false });
    house.restart(0);
    assert_eq!(house.state(), Disarmed);
    house.seconds(29);
    assert_eq!(house.state(), Disarmed);
    house.seconds(1);
    assert_eq!((house.state(), house.reason().as_str()), (Away, "armed by root"));
    assert_eq!(house.dashboard().pending, None);
}

#[test]
fn only_arming_more_takes_time_and_not_the_night_nor_an_order_for_now() {
    for (state, now) in [(Away, true), (Night, false)] {
        let mut house = House::with_anna_home();
        house.command(Command::Arm { state, until: None, now, stays: false });
        assert_eq!(house.state(), state);
    }
    let mut house = House::new();
    house.command(Command::Arm { state: Away, until: None, now: false, stays: false });
    assert!(house.dashboard().overridden && house.dashboard().pending.is_none(), "it was armed already");
}

#[test]
fn a_change_of_mind_ends_the_exit_delay() {
    for command in [Command::Disarm { until: None, stays: false }, Command::Auto] {
        let mut house = House::with_anna_home();
        house.command(Command::Arm { state: Away, until: None, now: false, stays: false });
        house.command(command);
        house.seconds(120);
        assert_eq!((house.state(), house.disk.pending.is_none()), (Disarmed, true));
    }
}

#[test]
fn an_arming_ends_by_an_arrival_only_after_the_house_was_empty() {
    let mut house = House::with_anna_home();
    house.arm(Away, None);
    house.comes(2);
    house.seconds(100);
    assert_eq!(house.state(), Away, "they are still at home");
    house.all_leave();
    house.restart(MINUTE);
    house.comes(1);
    assert_eq!((house.state(), house.dashboard().overridden), (Disarmed, false));
}

#[test]
fn an_arming_for_the_night_does_not_end_by_an_arrival() {
    let mut house = House::with_anna_home();
    house.arm(Night, Some(8 * HOUR));
    house.all_leave();
    house.comes(1);
    assert_eq!(house.state(), Night);
    assert_eq!(house.machine.state().until, Some(house.dashboard().override_until.unwrap()));
    for _ in 0..8 * 60 {
        house.pass(MINUTE / 2);
        house.pass(MINUTE / 2);
    }
    assert_eq!(house.state(), Disarmed, "its time is over");
    assert!(house.reason().starts_with("the time chosen by root is over"));
}

#[test]
fn silence_and_blindness_end_no_choice() {
    for (state, then) in [(Disarmed, Disarmed), (Away, Away)] {
        let mut house = House::with_anna_home();
        if state == Disarmed {
            house.disarm(None)
        } else {
            house.arm(Away, None)
        }
        house.handle(Input::Blind(Some("the cable is out".to_owned())));
        house.near.clear();
        house.seconds(400);
        assert_eq!((house.state(), house.dashboard().overridden), (then, true));
    }
}

#[test]
fn a_disarm_ends_when_the_last_person_leaves_and_not_for_a_guest() {
    let mut house = House::with_anna_home();
    house.disarm(None);
    house.seconds(100);
    assert!(house.dashboard().overridden);
    house.restart(0);
    house.all_leave();
    assert_eq!((house.state(), house.reason().as_str()), (Away, "nobody is home"));

    house.disarm(None);
    house.seconds(600);
    assert_eq!(house.state(), Disarmed, "a guest whom nobody knows");
    house.comes(1);
    house.all_leave();
    assert_eq!((house.state(), house.reason().as_str()), (Away, "everybody left"));
}

#[test]
fn a_disarm_for_a_time_is_a_lease_for_that_time_and_then_the_house_decides() {
    let mut house = House::new();
    house.seconds(80);
    house.disarm(Some(2 * HOUR));
    let until = house.machine.state().until.unwrap();
    assert!(until >= house.now.at + Duration::from_secs(2 * 3600) && until <= house.now.at + Duration::from_secs(2 * 3600 + 10));
    let before = house.publications;
    (0..119).for_each(|_| house.pass(MINUTE));
    assert_eq!((house.state(), house.publications), (Disarmed, before), "there is nothing to renew");
    house.pass(MINUTE);
    assert_eq!(house.state(), Away);
}

#[test]
fn a_clock_that_jumps_ahead_ends_no_arming_early() {
    for trusted in [true, false] {
        let mut house = House::with_anna_home();
        house.arm(Away, Some(2 * HOUR));
        (0..60).for_each(|_| house.pass(MINUTE));
        (house.now.at.0, house.now.trusted) = (house.now.at.0 + 99 * HOUR, trusted);
        house.restart(0);
        (0..59).for_each(|_| house.pass(MINUTE));
        assert_eq!(house.state(), Away);
        house.pass(MINUTE);
        house.pass(MINUTE);
        house.comes(1);
        assert_eq!(house.state(), Disarmed, "it ends by its stopwatch");
    }
}

#[test]
fn a_clock_that_jumps_back_keeps_an_arming_and_ends_a_disarm_by_the_stopwatch() {
    let mut house = House::with_anna_home();
    house.arm(Away, Some(2 * HOUR));
    house.now.at.0 -= HOUR;
    house.pass(2 * HOUR);
    assert_eq!(house.state(), Away, "the person said: until then");
    house.pass(HOUR);
    house.comes(1);
    assert_eq!(house.state(), Disarmed);

    let mut house = House::new();
    house.seconds(80);
    house.disarm(Some(2 * HOUR));
    house.now.at.0 -= 99 * HOUR;
    house.pass(SECOND);
    assert!(house.machine.state().until.unwrap() <= house.now.at + Duration::from_secs(2 * 3600 + 10), "nor at the cameras any longer");
    house.pass(2 * HOUR);
    assert_eq!(house.state(), Away);
}

#[test]
fn a_clock_that_jumps_ahead_makes_no_disarm_longer_than_the_person_said() {
    let mut house = House::new();
    house.seconds(80);
    house.disarm(Some(2 * HOUR));
    let until = house.machine.state().until;
    house.now.at.0 += HOUR;
    house.pass(SECOND);
    assert_eq!((house.state(), house.machine.state().until), (Disarmed, until));
}

#[test]
fn a_machine_that_crashes_every_half_minute_does_not_stretch_a_disarm() {
    let mut house = House::new();
    house.seconds(80);
    house.disarm(Some(10 * MINUTE));
    house.now.trusted = false;
    let mut ran = 0;
    while house.state() == Disarmed && house.dashboard().overridden {
        house.now.at.0 -= 29 * SECOND;
        house.pass(29 * SECOND);
        house.restart(0);
        ran += 29;
        assert!(ran < 700, "it stretched the disarm");
    }
}

#[test]
fn what_cannot_be_obeyed_changes_nothing_and_says_why() {
    let mut house = House::with_anna_home();
    let past = Some(house.now.at);
    for command in [
        Command::Arm { state: Disarmed, until: None, now: true, stays: false },
        Command::Arm { state: Away, until: past, now: true, stays: false },
        Command::Disarm { until: past, stays: false },
    ] {
        command.check(house.now).unwrap_err();
        let before = house.disk.clone();
        house.command(command);
        assert_eq!(house.disk, before);
    }
}

#[test]
fn a_phone_that_the_house_learns_changes_nothing_before_it_is_heard_and_one_that_it_forgets_disarms_nothing() {
    let mut house = House::new();
    house.all_leave();
    let before = house.machine.state().version();
    house.handle(Input::Learned { person: "Anna".to_owned(), device: phone(7) });
    house.handle(Input::Learned { person: "Ben".to_owned(), device: phone(7) });
    assert_eq!((house.state(), house.machine.state().version()), (Away, before));
    assert_eq!((house.machine.owner_of(&phone(7)), house.machine.devices_of("Anna").len()), (Some("Anna"), 2));
    house.comes(7);
    assert_eq!((house.state(), house.reason().as_str()), (Disarmed, "Anna is home"));
    house.near.clear();
    house.handle(Input::Unlearned { device: phone(7) });
    house.seconds(10);
    assert_eq!(house.state(), Disarmed, "that a phone is forgotten sends nobody away");
    house.all_leave();
    house.comes(7);
    assert_eq!((house.state(), house.machine.owner_of(&phone(7))), (Away, None));
}

#[test]
fn somebody_of_whom_no_device_is_known_disarms_nothing_and_is_not_taken_to_have_left() {
    let mut settings = settings();
    settings.people[0].devices.clear();
    let mut house = House::with(settings);
    let before = house.machine.state().version();
    house.seconds(400);
    assert_eq!((house.state(), house.machine.state().version()), (Away, before), "nobody was seen");
    house.comes(2);
    assert_eq!((house.state(), house.reason().as_str()), (Disarmed, "Ben is home"));
    house.near.clear();
    house.seconds(100);
    let shown = house.dashboard();
    let people: Vec<_> = shown.people.iter().map(|one| (one.presence, one.devices)).collect();
    assert_eq!(people, [(Presence::Unknown, 0), (Presence::Away, 1)]);
    assert_eq!((shown.presence, house.state()), (Presence::Unknown, Disarmed), "Anna may be at home");
    // Nor does it stay so for good: a house of which nobody knows anything is armed in the end, and says why.
    (0..24 * 60).for_each(|_| house.pass(MINUTE / 2));
    assert_eq!((house.state(), house.reason().as_str()), (Away, "the disarm ran out before anybody was seen at home"));
    house.handle(Input::Learned { person: "Anna".to_owned(), device: phone(7) });
    assert_eq!((house.state(), house.dashboard().people[0].devices), (Away, 1));
    house.comes(2);
    house.all_leave();
    assert_eq!((house.state(), house.reason().as_str()), (Away, "everybody left"));
}
