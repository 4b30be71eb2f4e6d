//! What the family is told, and when.

use super::*;

#[test]
fn the_first_picture_goes_out_at_once_and_once() {
    let mut house = House::new(house());
    assert!(house.sees(&event(1, "porch", 0)).is_empty());
    house.waits(1500);
    let effects = house.sees(&seen(1, "porch", 0));
    let [Effect::EventMail { movement, to, held_back: None }] = effects.as_slice() else { panic!("{effects:?}") };
    let expected =
        Movement { event: event(1, "", 0).id, source: "porch".to_owned(), started: Timestamp(T), changed: Some(7), picture: Some([1; 32]) };
    assert_eq!((movement, to.as_slice()), (&expected, ["family".to_owned()].as_slice()));
    let mut later = with(seen(1, "porch", 0), AttachmentKind::Picture, 9);
    later.ended = Some(Timestamp(T + 9000));
    assert!(house.sees(&later).is_empty());
    assert!(house.waits_secs(7200).is_empty());
}

#[test]
fn an_event_without_a_picture_is_told_after_ten_seconds_or_at_its_end() {
    let mut house = House::new(house());
    house.sees(&event(1, "porch", 0));
    assert_eq!(timed(&house.waits_secs(60)), ["10 mail 1"]);
    house.sees(&event(2, "garden", 0));
    let mut over = event(2, "garden", 0);
    over.ended = Some(Timestamp(T + 1));
    assert_eq!(shorts(&house.sees(&over)), ["mail 2"]);
}

#[test]
fn a_camera_tells_only_in_the_states_of_its_rule() {
    let mut house = House::new(rule("living room", Rule { states: vec![ArmState::Away], ..Rule::default() }));
    assert!(house.sees(&in_state(seen(1, "living room", 0), ArmState::Night)).is_empty());
    assert_eq!(shorts(&house.sees(&seen(2, "living room", 0))), ["mail 2"]);
    assert_eq!(shorts(&house.sees(&in_state(seen(3, "garden", 0), ArmState::Night))), ["mail 3"], "by default in all armed states");
}

#[test]
fn what_is_recorded_while_disarmed_is_not_mailed_whatever_the_rule_says() {
    let states = vec![ArmState::Disarmed, ArmState::Night, ArmState::Away];
    let mut house = House::new(rule("porch", Rule { states, ..Rule::default() }));
    assert!(house.sees(&in_state(seen(1, "porch", 0), ArmState::Disarmed)).is_empty());
    assert!(!house.policy.changed(), "nothing to remember");
    assert!(house.waits_secs(7200).is_empty());
}

#[test]
fn a_snapshot_is_never_mailed() {
    let mut house = House::new(house());
    assert!(house.sees(&of_kind(seen(1, "porch", 0), EventKind::Snapshot)).is_empty());
    assert!(house.waits_secs(7200).is_empty());
}

#[test]
fn a_camera_tells_only_in_its_hours_also_across_midnight() {
    let night = Hours { from: 22 * 60, to: 6 * 60 };
    let mut house = House::new(rule("street", Rule { hours: vec![night], cooldown: Duration::ZERO, ..Rule::default() }));
    for (n, minute, told) in [(1, 22 * 60, true), (2, 6 * 60, false), (3, 0, true), (4, 5 * 60 + 59, true), (5, 21 * 60 + 59, false)] {
        let effects = house.gets(Input::Event { event: &seen(n, "street", 0), minute });
        assert_eq!(effects.len(), usize::from(told), "{minute}");
    }
    let day = Hours { from: 480, to: 1200 };
    assert_eq!([479, 480, 1199, 1200].map(|minute| day.contain(minute)), [false, true, true, false]);
    assert!((0..1440).all(|minute| Hours { from: 300, to: 300 }.contain(minute)));
}

#[test]
fn a_camera_may_have_recipients_of_its_own() {
    let mut house = House::new(rule("flat", Rule { recipients: vec!["tenant".to_owned()], ..Rule::default() }));
    let effects = [house.sees(&seen(1, "flat", 0)), house.sees(&seen(2, "porch", 0)), house.sees(&clip(seen(1, "flat", 0)))].concat();
    assert_eq!(effects.iter().map(to).collect::<Vec<_>>(), [["tenant"], ["family"], ["tenant"]]);
    house.sees(&seen(3, "flat", 0));
    assert_eq!(to(&house.waits_secs(300)[0].1), ["tenant"]);
    let lost = house.sees(&of_kind(event(4, "flat", 0), EventKind::CameraLost));
    assert_eq!(lost.iter().map(to).collect::<Vec<_>>(), [["tenant"]]);
    assert_eq!(house.fault("disk").iter().map(to).collect::<Vec<_>>(), [["family"]]);
}

#[test]
fn what_comes_within_the_cooldown_is_one_digest_when_it_is_over() {
    let mut house = House::new(house());
    assert_eq!(shorts(&house.sees(&seen(1, "porch", 0))), ["mail 1"]);
    for n in 2..=16 {
        house.waits_secs(5);
        assert!(house.sees(&seen(n, "porch", u64::from(n) * 1000)).is_empty());
    }
    let told = house.waits_secs(120);
    assert_eq!(timed(&told), ["45 digest 2 3 4 5 6 7 8 9 10 11 12 13 +3"], "120 s after the mail");
    let Effect::Digest(digest) = &told[0].1 else { panic!() };
    assert_eq!((digest.first, digest.last, digest.by_cap), (Timestamp(T + 2000), Timestamp(T + 16_000), false));
    assert_eq!((digest.movements[0].changed, digest.movements[0].picture), (Some(7), Some([2; 32])));
    // The digest is a mail of this camera: the next one comes no sooner than a cooldown after it.
    assert!(house.sees(&seen(17, "porch", 0)).is_empty());
    assert_eq!(timed(&house.waits_secs(7200)), ["45 digest 17"]);
    assert_eq!(shorts(&house.sees(&seen(18, "porch", 0))), ["mail 18"]);
}

#[test]
fn a_picture_that_comes_late_still_comes_into_the_digest() {
    let mut house = House::new(house());
    house.sees(&seen(1, "porch", 0));
    house.sees(&event(2, "porch", 0));
    house.waits_secs(60);
    let mut grown = seen(2, "porch", 0);
    grown.changed = Some(44);
    house.sees(&grown);
    let told = house.waits_secs(60);
    let Effect::Digest(digest) = &told[0].1 else { panic!() };
    assert_eq!((digest.movements[0].changed, digest.movements[0].picture), (Some(44), Some([2; 32])));
}

#[test]
fn the_cooldown_of_one_camera_keeps_no_other_quiet() {
    let mut house = House::new(house());
    assert_eq!(shorts(&house.sees(&seen(1, "porch", 0))), ["mail 1"]);
    assert_eq!(shorts(&house.sees(&seen(2, "garden", 0))), ["mail 2"]);
}

#[test]
fn the_clip_follows_within_the_cooldown_and_once() {
    let mut house = House::new(house());
    house.sees(&seen(1, "porch", 0));
    house.waits_secs(20);
    let effects = house.sees(&clip(seen(1, "porch", 0)));
    let [Effect::ClipMail { event: id, source, clip: hash, length: 1000, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((id, source.as_str(), hash), (&event(1, "", 0).id, "porch", &[0xcc; 32]));
    assert!(house.sees(&clip(clip(seen(1, "porch", 0)))).is_empty());
    assert_eq!(shorts(&house.sees(&clip(seen(2, "garden", 0)))), ["mail 2", "clip 2"], "a camera that was away brings both at once");
}

#[test]
fn an_event_of_a_digest_has_no_clip_mail() {
    let mut house = House::new(house());
    house.sees(&seen(1, "porch", 0));
    house.sees(&seen(2, "porch", 0));
    house.sees(&clip(seen(2, "porch", 0)));
    assert_eq!(timed(&house.waits_secs(120)), ["120 digest 2"]);
    assert!(house.sees(&clip(seen(2, "porch", 0))).is_empty());
    assert!(house.waits_secs(7200).is_empty());
}

#[test]
fn clips_count_against_the_cap_and_wait_for_it() {
    let mut house = House::new(Settings { cap: 3, kept_for_faults: 0, ..house() });
    for n in 1..=3 {
        assert_eq!(house.sees(&seen(n, &format!("camera {n}"), 0)).len(), 1);
    }
    assert!(house.sees(&clip(seen(1, "camera 1", 0))).is_empty());
    assert_eq!(timed(&house.waits_secs(7200)), ["3600 clip 1"]);
}

#[test]
fn no_more_mails_than_the_cap_go_out_in_an_hour_and_one_digest_tells_what_it_held_back() {
    let mut house = House::new(Settings { kept_for_faults: 0, ..house() });
    for n in 1..=20 {
        assert_eq!(house.sees(&seen(n, &format!("camera {n}"), 0)).len(), 1, "{n}");
    }
    for n in 21..=40 {
        house.waits_secs(1);
        assert!(house.sees(&seen(n, &format!("camera {n}"), u64::from(n))).is_empty());
    }
    let told = house.waits_secs(7200);
    assert_eq!(timed(&told), ["3580 digest 21 22 23 24 25 26 27 28 29 30 31 32 +8"]);
    let Effect::Digest(digest) = &told[0].1 else { panic!() };
    assert!(digest.by_cap);
}

#[test]
fn the_next_mail_tells_how_many_the_cap_held_back() {
    let mut house = House::new(Settings { cap: 6, kept_for_faults: 2, ..house() });
    (1..=7).for_each(|n| drop(house.sees(&seen(n, &format!("camera {n}"), 0))));
    assert_eq!(house.told.len(), 4);
    let effects = house.fault("disk");
    assert_eq!(shorts(&effects), ["disk Began (3 before)"], "of the six, two are kept for faults");
    let Effect::FaultMail { held_back: Some(held_back), .. } = &effects[0] else { panic!() };
    assert_eq!(held_back.since, Timestamp(T));
    assert_eq!(shorts(&house.fault("outbox")), ["outbox Began"], "told once");
    assert!(house.waits_secs(7200).is_empty());
}

#[test]
fn a_mail_counts_only_what_its_readers_may_know() {
    let cameras = BTreeMap::from([("flat".to_owned(), Rule { recipients: vec!["tenant".to_owned()], ..Rule::default() })]);
    let mut house = House::new(Settings { cap: 2, kept_for_faults: 1, cameras, ..house() });
    house.sees(&seen(1, "porch", 0));
    house.sees(&seen(2, "flat", 0));
    assert_eq!(shorts(&house.fault("disk")), ["disk Began"], "the family is not told of the tenant's camera");
    let told = house.waits_secs(7200);
    assert_eq!(timed(&told), ["3600 digest 2"]);
    assert_eq!(to(&told[0].1), ["tenant"]);
}

#[test]
fn with_a_cap_of_none_nothing_is_mailed_and_nobody_wakes_for_it() {
    let mut house = House::new(Settings { cap: 0, ..house() });
    (1..=50).for_each(|n| drop(house.sees(&clip(seen(n, "porch", 0)))));
    house.fault("disk");
    assert!(house.waits_secs(86_400).is_empty());
    assert_eq!(house.policy.next_wake(house.now()), None);
}

#[test]
fn a_camera_that_is_lost_while_armed_is_told_and_so_is_its_return() {
    let mut house = House::new(house());
    house.sees(&seen(1, "porch", 0));
    let lost = of_kind(event(2, "porch", 1000), EventKind::CameraLost);
    let effects = house.sees(&lost);
    assert_eq!(shorts(&effects), ["camera-lost:porch Began"], "no cooldown holds it");
    let Effect::FaultMail { notices, .. } = &effects[0] else { panic!() };
    assert_eq!((notices[0].text.as_str(), notices[0].since), ("porch gives no picture any more.", Timestamp(T + 1000)));
    assert!(house.sees(&lost).is_empty(), "told again by a camera that did not hear us");
    let found = of_kind(in_state(event(3, "porch", 9000), ArmState::Disarmed), EventKind::CameraFound);
    assert_eq!(shorts(&house.sees(&found)), ["camera-lost:porch Over"]);
    assert!(house.sees(&found).is_empty());
    assert!(house.sees(&lost).is_empty());
}

#[test]
fn the_return_of_a_camera_that_was_lost_while_disarmed_is_not_told() {
    let mut house = House::new(house());
    assert!(house.sees(&of_kind(in_state(event(1, "porch", 0), ArmState::Disarmed), EventKind::CameraLost)).is_empty());
    assert!(house.sees(&of_kind(event(2, "porch", 9), EventKind::CameraFound)).is_empty());
}

#[test]
fn a_loss_and_its_end_are_told_rightly_in_whatever_order_they_come() {
    let mut house = House::new(house());
    let [lost, found] = [EventKind::CameraLost, EventKind::CameraFound].map(|kind| move |n, at| of_kind(event(n, "porch", at), kind));
    assert!(house.sees(&found(2, 2000)).is_empty());
    assert_eq!(shorts(&house.sees(&lost(1, 1000))), ["camera-lost:porch Began, camera-lost:porch Over"]);
    assert_eq!(shorts(&house.sees(&lost(3, 5000))), ["camera-lost:porch Began"]);
    assert!(house.sees(&found(4, 3000)).is_empty(), "the end of an earlier loss");
    assert_eq!(shorts(&house.sees(&lost(5, 8000))), ["camera-lost:porch Began"], "the end between was missed: never quiet about a loss");
}

#[test]
fn a_fault_is_told_when_it_begins_and_when_it_ends_and_not_between() {
    let mut house = House::new(house());
    assert!(house.fault_over("disk").is_empty(), "never began");
    let began = house.fault("disk");
    assert_eq!(shorts(&began), ["disk Began"]);
    house.waits_secs(600);
    assert!(house.fault("disk").is_empty());
    let effects = house.fault_over("disk");
    assert_eq!(shorts(&effects), ["disk Over"]);
    let Effect::FaultMail { notices, .. } = &effects[0] else { panic!() };
    let notice = &notices[0];
    assert_eq!((notice.text.as_str(), notice.since, notice.at), ("It is whole.", Timestamp(T), Timestamp(T + 600_000)));
    assert!(house.fault_over("disk").is_empty());
    assert!(house.waits_secs(7200).is_empty());
}

#[test]
fn a_fault_that_comes_and_goes_is_told_as_that_and_then_summed_up_hourly_until_it_is_calm() {
    let mut house = House::new(house());
    for _ in 0..10 {
        house.fault("porch lost");
        house.waits_secs(60);
        house.fault_over("porch lost");
        house.waits_secs(60);
    }
    let told: Vec<_> = house.told.iter().map(|(_, effect)| short(effect)).collect();
    let (began, over) = ("porch lost Began", "porch lost Over");
    assert_eq!(told, [began, over, began, over, began, over, "porch lost Flapping { begins: 4 }"]);
    assert_eq!(
        timed(&house.waits_secs(5000)),
        ["2760 porch lost Again { begins: 6, lasts: false }"],
        "an hour after it was told as flapping"
    );
    house.fault("porch lost");
    assert_eq!(timed(&house.waits_secs(2000)), ["1360 porch lost Again { begins: 1, lasts: true }"]);
    assert!(house.fault_over("porch lost").is_empty());
    assert_eq!(timed(&house.waits_secs(7200)), ["2960 porch lost Over"], "calm for an hour");
    assert_eq!(shorts(&house.fault("porch lost")), [began]);
}

#[test]
fn movement_cannot_use_up_the_mails_that_are_kept_for_faults() {
    let mut house = House::new(house());
    (1..=40).for_each(|n| drop(house.sees(&clip(seen(n, &format!("camera {n}"), 0)))));
    assert_eq!(house.told.len(), 15, "8 events, 7 clips");
    assert_eq!(shorts(&house.fault("camera 1 lost")), ["camera 1 lost Began (32 before)"]);
}

#[test]
fn faults_that_the_cap_held_back_are_told_together() {
    let mut house = House::new(Settings { cap: 2, kept_for_faults: 2, ..house() });
    ["a", "b", "c", "d"].iter().for_each(|key| drop(house.fault(key)));
    house.fault_over("c");
    assert_eq!(house.told.len(), 2);
    assert_eq!(timed(&house.waits_secs(7200)), ["3600 c Began, d Began, c Over"]);
}

#[test]
fn faults_for_which_there_is_no_room_are_counted() {
    let mut house = House::new(Settings { cap: 1, ..house() });
    for n in 0..100 {
        house.fault(&format!("fault {n}"));
    }
    assert_eq!(house.told.len(), 1);
    let told = house.waits_secs(3600);
    let [(_, Effect::FaultMail { notices, held_back: Some(held_back), .. })] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(1 + notices.len() as u32 + held_back.faults, 100);
}

#[test]
fn after_a_restart_a_fault_that_lasts_is_not_told_again_and_one_that_does_not_is_over() {
    let mut house = House::new(house());
    house.fault("disk");
    house.fault("porch lost");
    house.sees(&of_kind(event(1, "garden", 0), EventKind::CameraLost));
    house.crashes();
    assert!(house.fault("disk").is_empty());
    let told = house.waits_secs(7200);
    assert_eq!(timed(&told), ["600 porch lost Over"], "whoever reported it would have done so again");
    let Effect::FaultMail { notices, .. } = &told[0].1 else { panic!() };
    assert_eq!(notices[0].text, "Not seen again since a restart: It is broken.");
    assert_eq!(shorts(&house.fault("porch lost")), ["porch lost Began"], "and its next begin is told");
    assert_eq!(shorts(&house.sees(&of_kind(event(2, "garden", 9), EventKind::CameraFound))), ["camera-lost:garden Over"]);
}

#[test]
fn what_happened_once_is_told_once_and_never_called_over() {
    let mut house = House::new(house());
    let told = house.happens("token 1");
    assert_eq!(shorts(&told), ["token 1 Once"]);
    let Effect::FaultMail { notices, .. } = &told[0] else { panic!() };
    assert_eq!(notices[0].kind, FaultKind::TokenLocked { source: "10.0.0.9".to_owned() });
    house.crashes();
    assert!(house.waits_secs(7200).is_empty());
    house.reboots();
    assert!(house.waits_secs(7200).is_empty());
    assert!(house.fault_over("token 1").is_empty());
}

#[test]
fn a_thousand_things_that_happened_once_are_told_or_counted_and_leave_no_memory() {
    let mut house = House::new(house());
    house.waits_secs(1);
    for n in 0..1000 {
        house.happens(&format!("token {n}"));
    }
    house.waits_secs(7200);
    let told = house.told.iter().map(|(_, effect)| match effect {
        Effect::FaultMail { notices, held_back, .. } => notices.len() as u32 + held_back.map_or(0, |held_back| held_back.faults),
        _ => 0,
    });
    assert_eq!(told.sum::<u32>(), 1000);
    assert!(house.disk.len() < 300, "{}", house.disk.len());
    // A fault that lasts still finds its place.
    assert_eq!(shorts(&house.fault("disk")), ["disk Began"]);
}

#[test]
fn who_comes_home_is_not_mailed_his_own_picture() {
    let mut house = House::new(Settings { hold: Duration::from_secs(30), hold_in: vec![ArmState::Away], ..house() });
    house.sees(&seen(1, "street", 0));
    house.waits_secs(10);
    house.sees(&seen(2, "porch", 10_000));
    assert_eq!(timed(&house.waits_secs(25)), ["20 mail 1"], "held for 30 s, and nobody came");
    let (from, to) = (Timestamp(T + 5000), Timestamp(T + 35_000));
    assert_eq!(shorts(&house.gets(Input::Arrival { from, to })), ["arrived 2"]);
    assert_eq!(shorts(&house.sees(&seen(3, "hall", 30_000))), ["arrived 3"], "told late by its camera");
    assert!(house.sees(&seen(3, "hall", 30_000)).is_empty());
    assert!(house.sees(&clip(seen(2, "porch", 10_000))).is_empty());
    house.sees(&seen(4, "porch", 35_001));
    assert_eq!(timed(&house.waits_secs(7200)), ["30 mail 4"]);
}

#[test]
fn an_arrival_calls_off_what_waits_for_a_digest_too() {
    let mut house = House::new(house());
    (1..=4).for_each(|n| drop(house.sees(&seen(n, "porch", u64::from(n) * 1000))));
    assert_eq!(shorts(&house.gets(Input::Arrival { from: Timestamp(T + 3000), to: Timestamp(T + 9000) })), ["arrived 3 4"]);
    assert_eq!(timed(&house.waits_secs(7200)), ["120 digest 2"]);
}

#[test]
fn after_a_crash_nothing_is_forgotten_and_nothing_is_told_twice() {
    let mut house = House::new(house());
    house.sees(&seen(1, "porch", 0));
    house.sees(&seen(2, "porch", 0));
    house.sees(&event(3, "garden", 0));
    house.waits_secs(4);
    house.crashes();
    assert!(house.sees(&seen(1, "porch", 0)).is_empty());
    assert!(house.sees(&seen(2, "porch", 0)).is_empty());
    assert_eq!(shorts(&house.sees(&clip(seen(1, "porch", 0)))), ["clip 1"]);
    assert_eq!(timed(&house.waits_secs(7200)), ["6 mail 3", "116 digest 2"]);
}

#[test]
fn a_reboot_lengthens_what_is_waited_for_and_never_shortens_it() {
    let mut house = House::new(Settings { cap: 2, kept_for_faults: 0, ..house() });
    (1..=3).for_each(|n| drop(house.sees(&seen(n, &format!("camera {n}"), 0))));
    house.waits_secs(1800);
    house.reboots();
    assert_eq!(timed(&house.waits_secs(7200)), ["3600 digest 3"]);
}

#[test]
fn a_flood_is_counted_and_fills_no_memory() {
    let mut house = House::new(house());
    for n in 0..10_000 {
        house.sees(&seen(n, "porch", u64::from(n)));
        house.waits(6);
    }
    assert!(house.disk.len() < 8_000, "{}", house.disk.len());
    assert_eq!(timed(&house.waits_secs(7200)), ["60 digest 1 2 3 4 5 6 7 8 9 10 11 12 +9987"]);
}

#[test]
fn a_flood_without_pictures_is_counted_too() {
    let mut house = House::new(house());
    for n in 0..10_000 {
        house.sees(&event(n, "porch", u64::from(n)));
        house.waits(6);
    }
    house.waits_secs(7200);
    let told: u32 = house.told.iter().map(|(_, effect)| streams::events_in(effect)).sum();
    assert_eq!(told, 10_000, "{:?}", house.told);
    assert!(house.disk.len() < 12_000, "{}", house.disk.len());
}

#[test]
fn whatever_comes_the_memory_stays_small() {
    let mut house = House::new(house());
    for n in 0..6000_u32 {
        let source = format!("{:0>255}", n % 100);
        match n % 4 {
            0 => house.sees(&event(n, &source, 0)),
            1 => house.sees(&clip(seen(n, &source, 0))),
            2 => house.sees(&of_kind(event(n, &source, 0), [EventKind::CameraLost, EventKind::CameraFound][n as usize / 4 % 2])),
            _ => {
                let (camera, why) = ("ä".repeat(500), "ä".repeat(1000));
                let fault = Fault::new(format!("{n:0>500}"), FaultKind::DetectorFailed { camera, why }, "ä".repeat(1000));
                house.gets(if n % 8 == 3 { Input::Once(&fault) } else { Input::Fault(&fault) })
            }
        };
        house.waits(u64::from(n % 7) * 1000);
        let size = postcard::to_stdvec(house.policy.memory()).unwrap().len();
        assert!(size < 200_000, "{size}");
    }
}
