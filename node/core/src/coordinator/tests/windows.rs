//! What windows ask for, beside people and presence.

use super::*;
use crate::protocol::message::WindowV1;

fn window(state: ArmState, from_hour: u16, to_hour: u16) -> WindowV1 {
    WindowV1 {
        state: state.to_wire(),
        days: crate::windows::ALL_DAYS,
        start: from_hour * 60,
        end: to_hour * 60,
        from_day: None,
        to_day: None,
    }
}

/// Anna is home; it is 17:00 there.
fn with(windows: Vec<WindowV1>) -> House {
    let mut house = House::with(Settings { windows: Windows::new(windows, "Europe/Berlin").unwrap(), ..settings() });
    house.comes(1);
    assert_eq!(house.state(), Disarmed);
    house
}

fn with_nights() -> House {
    with(vec![window(Night, 23, 6)])
}

/// Hours go by, and Anna's phone is heard.
fn hours(house: &mut House, n: u64) {
    (0..n * 120).for_each(|_| house.pass(MINUTE / 2));
}

#[test]
fn the_night_is_armed_with_people_at_home_and_over_in_the_morning() {
    let mut house = with_nights();
    assert_eq!(house.dashboard().next_window.map(|span| span.from), Some(house.now.at + Duration::from_secs(6 * 3600)));
    hours(&mut house, 6);
    assert_eq!((house.state(), house.reason().as_str()), (Night, "the window for the night began"));
    assert_eq!(house.dashboard().window.map(|span| span.until), Some(house.now.at + Duration::from_secs(7 * 3600)));
    hours(&mut house, 7);
    assert_eq!((house.state(), house.reason().as_str()), (Disarmed, "the window is over: somebody is home"));
}

#[test]
fn nobody_home_at_night_is_away_and_whoever_comes_then_leaves_the_night_armed() {
    let mut house = with_nights();
    hours(&mut house, 7);
    house.all_leave();
    assert_eq!(house.state(), Away);
    house.comes(1);
    assert_eq!((house.state(), house.reason().as_str()), (Night, "Anna came home"));
    house.all_leave();
    house.near.clear();
    (0..7 * 120).for_each(|_| house.pass(MINUTE / 2));
    assert_eq!(house.state(), Away, "its end disarms no empty house");
}

#[test]
fn a_person_overrules_a_window_and_its_end_ends_no_choice() {
    let mut house = with_nights();
    hours(&mut house, 6);
    house.disarm(None);
    assert_eq!(house.state(), Disarmed);
    hours(&mut house, 1);
    assert_eq!(house.state(), Disarmed);
    house.command(Command::Auto);
    assert_eq!(house.state(), Night);
    house.arm(Away, None);
    hours(&mut house, 7);
    assert_eq!(house.state(), Away);
}

#[test]
fn a_window_without_watch_disarms_an_empty_house_for_its_time_and_no_longer() {
    let mut house = with(vec![window(Disarmed, 19, 21)]);
    house.all_leave();
    assert_eq!(house.state(), Away);
    (0..4 * 60).for_each(|_| house.pass(MINUTE / 2));
    assert_eq!((house.state(), house.reason().as_str()), (Disarmed, "a window without watch began"));
    let ends = house.dashboard().window.unwrap().until;
    let lease = house.machine.state().until.unwrap();
    assert!(lease >= ends && lease <= ends + Duration::from_secs(10), "nor do cameras without us");
    (0..4 * 60).for_each(|_| house.pass(MINUTE / 2));
    assert_eq!((house.state(), house.reason().as_str()), (Away, "the window is over: nobody is home"));
}

#[test]
fn a_restart_at_night_without_the_time_is_no_morning_and_no_window_begins_by_a_clock_that_nobody_vouches_for() {
    let mut house = with_nights();
    hours(&mut house, 7);
    house.now.trusted = false;
    house.now.at.0 -= 9 * HOUR;
    house.restart(0);
    house.comes(1);
    assert_eq!(house.state(), Night, "it is afternoon, says the clock");
    house.now.at.0 += 9 * HOUR;
    house.now.trusted = true;
    house.pass(SECOND);
    assert_eq!(house.state(), Night);
    hours(&mut house, 6);
    assert_eq!(house.state(), Disarmed);
    house.now.trusted = false;
    hours(&mut house, 18);
    assert_eq!((house.state(), house.dashboard().next_window), (Disarmed, None));

    // One that would disarm is not remembered.
    let mut house = with(vec![window(Disarmed, 17, 21)]);
    house.all_leave();
    assert_eq!(house.state(), Disarmed);
    house.now.trusted = false;
    house.restart(0);
    house.seconds(80);
    assert_eq!(house.state(), Away);
}

#[test]
fn windows_that_are_new_in_the_config_reach_the_cameras_and_are_no_decision() {
    let mut house = with_nights();
    let (decisions, rev) = (house.decisions.len(), house.machine.state().rev);
    let windows = vec![window(Night, 22, 7)];
    house.settings.windows = Windows::new(windows.clone(), "America/New_York").unwrap();
    house.restart(0);
    let state = house.machine.state();
    assert_eq!((&state.windows, state.zone.as_str()), (&windows, "America/New_York"));
    assert!(state.rev > rev);
    assert_eq!((house.decisions.len(), house.state()), (decisions, Disarmed));
}
