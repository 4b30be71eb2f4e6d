//! What presence and time decide.

use super::*;

#[test]
fn a_new_house_is_armed_until_somebody_is_known_to_be_home() {
    let mut house = House::new();
    assert_eq!((house.state(), house.reason().as_str()), (Away, "just set up: it is not known yet who is home"));
    assert_eq!(house.decisions.len(), 1);
    house.seconds(10);
    assert_eq!(house.state(), Away);
    house.comes(1);
    assert_eq!((house.state(), house.reason().as_str()), (Disarmed, "Anna is home"));
}

#[test]
fn the_last_to_leave_arms_the_house_and_the_first_to_come_disarms_it_at_once() {
    let mut house = House::with_anna_home();
    house.comes(2);
    house.near.remove(0);
    house.seconds(200);
    assert_eq!(house.state(), Disarmed, "Ben is home");
    house.all_leave();
    assert_eq!((house.state(), house.reason().as_str()), (Away, "everybody left"));
    house.comes(2);
    assert_eq!((house.state(), house.reason().as_str()), (Disarmed, "Ben came home"));
    let decision = house.decisions.last().unwrap();
    assert_eq!((decision.state, decision.rev), (Disarmed, house.machine.state().rev));
    assert_eq!(decision.evidence.iter().map(|person| person.presence).collect::<Vec<_>>(), [Presence::Away, Presence::Home]);
}

#[test]
fn only_whoever_comes_home_and_disarms_the_house_by_that_is_an_arrival() {
    let mut house = House::with_anna_home();
    assert_eq!(house.arrivals, 1, "a new house is armed, and Anna disarmed it");
    house.comes(2);
    assert_eq!(house.arrivals, 1, "it was disarmed already");
    house.all_leave();
    house.disarm(None);
    assert_eq!(house.arrivals, 1, "a person did that");
    house.arm(Night, None);
    house.comes(1);
    assert_eq!((house.state(), house.arrivals), (Night, 1), "nothing disarms the night");
    house.command(Command::Auto);
    house.all_leave();
    house.comes(1);
    assert_eq!((house.state(), house.arrivals), (Disarmed, 2));
}

#[test]
fn no_name_leaves_the_coordinator_with_the_state() {
    let mut house = House::with_anna_home();
    assert_eq!(house.machine.state().reason, "somebody is home");
    house.arm(Away, Some(2 * HOUR));
    assert_eq!((house.reason().as_str(), house.machine.state().reason.as_str()), ("armed by root for 2 h", "armed by hand for 2 h"));
}

#[test]
fn a_restart_keeps_the_state_and_its_number() {
    for armed in [true, false] {
        let mut house = House::with_anna_home();
        if armed {
            house.all_leave();
        }
        house.near.clear();
        let (before, rows) = (house.machine.state().clone(), house.decisions.len());
        house.restart(MINUTE);
        house.seconds(10);
        assert_eq!(house.machine.state(), &before);
        assert_eq!((house.dashboard().presence, house.decisions.len()), (Presence::Unknown, rows));
    }
}

#[test]
fn a_disarm_that_ran_out_while_the_coordinator_was_off_is_not_taken_up_again() {
    let mut house = House::with_anna_home();
    house.restart(11 * HOUR);
    assert_eq!(house.state(), Disarmed);
    let mut house = House::with_anna_home();
    house.restart(13 * HOUR);
    assert_eq!((house.state(), house.reason().as_str()), (Away, "the disarm ran out before anybody was seen at home"));
    house.comes(1);
    assert_eq!(house.state(), Disarmed);
}

#[test]
fn a_coordinator_that_is_restarted_all_the_time_and_sees_nobody_does_not_keep_the_house_disarmed() {
    let mut house = House::with_anna_home();
    house.near.clear();
    // Too short for anybody to be proven away.
    for _ in 0..13 * 60 {
        house.seconds(5);
        house.restart(MINUTE);
    }
    assert_eq!((house.state(), house.reason().as_str()), (Away, "the disarm ran out before anybody was seen at home"));
    house.comes(1);
    assert_eq!((house.state(), house.machine.state().until), (Disarmed, Some(house.now.at + LEASE)));
}

#[test]
fn a_disarm_is_renewed_before_half_of_it_is_over_and_that_is_no_decision() {
    let mut house = House::with_anna_home();
    let first = house.machine.state().clone();
    assert_eq!(first.until, Some(house.now.at + LEASE));
    let (rows, steps) = (house.decisions.len(), 6 * HOUR / (20 * SECOND));
    (0..steps).for_each(|_| house.pass(20 * SECOND));
    assert_eq!(house.machine.state(), &first, "exactly half is left");
    house.pass(20 * SECOND);
    let second = house.machine.state();
    assert_eq!((second.rev, second.until), (first.rev + 1, Some(house.now.at + LEASE)));
    assert_eq!((second.since, &second.reason), (first.since, &first.reason));
    assert_eq!(house.decisions.len(), rows);
}

#[test]
fn a_clock_that_is_set_wrong_lets_no_disarm_run_out_at_the_cameras() {
    for jump in [-1000 * HOUR as i64, -20 * HOUR as i64, 7 * HOUR as i64, 1000 * HOUR as i64] {
        let mut house = House::with_anna_home();
        house.now.at = Timestamp(house.now.at.0.saturating_add_signed(jump));
        house.pass(SECOND);
        assert_eq!(house.state(), Disarmed, "{jump}");
        assert_eq!(house.machine.state().until, Some(house.now.at + LEASE), "{jump}");
    }
    // So little that it matters to nobody.
    let mut house = House::with_anna_home();
    let before = house.publications;
    house.now.at.0 -= 5 * SECOND;
    house.pass(SECOND);
    assert_eq!(house.publications, before);
}

#[test]
fn where_presence_may_not_disarm_only_a_person_does() {
    let mut house = House::with(Settings { may_disarm_away: false, ..settings() });
    let note = |house: &House| house.dashboard().notes.concat();
    house.comes(1);
    assert_eq!(house.state(), Away);
    assert!(note(&house).contains("only a person disarms"), "the one who is home is told what to do");
    house.disarm(None);
    assert_eq!((house.state(), note(&house).as_str()), (Disarmed, ""));
    house.all_leave();
    assert_eq!((house.state(), house.reason().as_str(), note(&house).as_str()), (Away, "everybody left", ""));
    house.comes(1);
    assert_eq!(house.state(), Away);
    assert!(note(&house).contains("only a person disarms"));
    house.arm(Away, None);
    assert_eq!(note(&house), "", "that is what a person wants");
}

#[test]
fn a_house_where_nobody_looks_who_is_home_does_what_people_say() {
    let mut house = House::with(Settings { presence_enabled: false, people: Vec::new(), ..settings() });
    assert_eq!(house.state(), Away);
    house.handle(Input::Blind(Some("off".to_owned())));
    house.seconds(300);
    assert!(house.alerts.is_empty() && house.dashboard().problems.is_empty());
    house.disarm(None);
    house.arm(Away, Some(HOUR));
    house.pass(HOUR);
    assert_eq!(house.state(), Disarmed, "what was chosen before for no set time");
    house.restart(99 * HOUR);
    assert_eq!((house.state(), house.dashboard().presence), (Disarmed, Presence::Unknown));
    house.arm(Night, None);
    house.command(Command::Auto);
    assert_eq!(house.state(), Night);
}

#[test]
fn a_house_that_cannot_see_stays_as_it_is_and_tells() {
    let mut house = House::with_anna_home();
    house.near.clear();
    house.handle(Input::Blind(Some("the cable is out".to_owned())));
    house.seconds(119);
    assert!(house.alerts.is_empty());
    assert_eq!(house.dashboard().problems.len(), 1, "shown at once");
    house.seconds(600);
    assert_eq!((house.state(), house.alerts.as_slice()), (Disarmed, &["blind".to_owned()][..]));
    assert_eq!((house.dashboard().presence, house.dashboard().blind.as_deref()), (Presence::Unknown, Some("the cable is out")));
    house.handle(Input::Blind(None));
    assert_eq!(house.alerts, ["blind", "over blind"]);
}

#[test]
fn a_house_that_cannot_see_for_long_arms_if_its_people_want_that() {
    let mut house = House::with(Settings { arm_when_blind_after: Some(Duration::from_secs(600)), ..settings() });
    house.comes(1);
    house.near.clear();
    house.handle(Input::Blind(Some("the cable is out".to_owned())));
    house.seconds(599);
    assert_eq!(house.state(), Disarmed);
    house.seconds(1);
    assert_eq!(house.state(), Away);
    house.handle(Input::Blind(None));
    assert_eq!(house.state(), Away);
    house.comes(1);
    assert_eq!(house.state(), Disarmed, "Anna is seen again");
}
