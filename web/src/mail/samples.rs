//! One mail of each kind in each of its variants: for the tests and for `examples/mails.rs`, which writes them where eyes can judge.

use super::*;

/// (name, mail)
pub(crate) fn all() -> Vec<(&'static str, Mail)> {
    let fault = |fault| FaultMail { fault, since: when("18:03"), once: false, often: None, ended: None, around: around() };
    let lost = || fault(Fault::CameraLost { camera: "porch".into() });
    let back = || Some(Ended { how: "porch is back".into(), when: when("18:41") });
    let porch = || Name::from("porch");
    vec![
        ("event", Mail::Event(event())),
        ("event-bare", Mail::Event(EventMail { percent: None, pictures: vec![], clip: None, around: Around::default(), ..event() })),
        (
            "event-burst",
            Mail::Event(EventMail { percent: Some(0), pictures: pictures(15), clip: clip(ClipState::TooLarge), around: full(), ..event() }),
        ),
        ("event-clip", Mail::Event(EventMail { pictures: pictures(4), clip: clip(ClipState::Attached), ..event() })),
        ("event-later", Mail::Event(EventMail { pictures: vec![], clip: clip(ClipState::Attached), ..event() })),
        ("event-later-without", Mail::Event(EventMail { pictures: vec![], clip: clip(ClipState::NotAttached), ..event() })),
        (
            "event-at-home",
            Mail::Event(EventMail { pictures: pictures(14), clip: clip(ClipState::TooLarge), around: Around::default(), ..event() }),
        ),
        ("event-soon", Mail::Event(EventMail { clip: Some(Clip { state: ClipState::Follows, seconds: None, bytes: None }), ..event() })),
        ("event-names", Mail::Event(EventMail { camera: "שער אחורי 🚪 behind the big garden house, left side".into(), ..event() })),
        ("digest", Mail::Digest(digest(Some(porch()), 7))),
        ("digest-house", Mail::Digest(DigestMail { around: full(), ..digest(None, 31) })),
        ("digest-bare", Mail::Digest(DigestMail { movements: vec![], around: Around::default(), ..digest(None, 2) })),
        ("fault-camera-lost", Mail::Fault(FaultMail { around: full(), ..lost() })),
        ("fault-no-picture", Mail::Fault(fault(Fault::NoPicture { camera: porch() }))),
        ("fault-unconfirmed", Mail::Fault(fault(Fault::Unconfirmed { camera: porch() }))),
        ("fault-armed-itself", Mail::Fault(fault(Fault::ArmedItself { camera: porch() }))),
        ("fault-blind", Mail::Fault(fault(Fault::Blind { why: "the network cable is out".into() }))),
        (
            "fault-detector",
            Mail::Fault(fault(Fault::DetectorFailed { camera: "garage".into(), why: "Motion stopped: /dev/video0 is busy".into() })),
        ),
        ("fault-disk", Mail::Fault(fault(Fault::DiskNearlyFull { node: "garage".into(), free_mib: 190 }))),
        ("fault-outbox", Mail::Fault(fault(Fault::OutboxStuck { camera: porch(), waiting: 5 }))),
        ("fault-token", Mail::Fault(FaultMail { once: true, ..fault(Fault::TokenLocked { source: "192.168.1.77".into() }) })),
        (
            "fault-twice",
            Mail::Fault(fault(Fault::IdentityTwice { camera: porch(), one: "192.168.1.21".into(), other: "192.168.1.77".into() })),
        ),
        (
            "fault-put-out",
            Mail::Fault(fault(Fault::PutOut { camera: porch(), why: "A frame of 66560 bytes where at most 65536 are allowed.".into() })),
        ),
        (
            "fault-conflict",
            Mail::Fault(fault(Fault::StateConflict {
                what: "A camera holds a newer state than the coordinator remembers (was a backup restored?). The house is armed until somebody comes home or decides.".into(),
            })),
        ),
        ("fault-coordinator", Mail::Fault(FaultMail { around: Around::default(), ..fault(Fault::CoordinatorGone { told_by: porch() }) })),
        (
            "fault-other",
            Mail::Fault(fault(Fault::Other {
                headline: "The clock is not trusted".into(),
                what: "It is 1970.".into(),
                to_do: vec!["Wait.".into()],
            })),
        ),
        ("fault-over", Mail::Fault(FaultMail { ended: back(), ..lost() })),
        ("fault-often", Mail::Fault(FaultMail { often: Some("It came 4 times within an hour.".into()), ..lost() })),
        ("fault-often-over", Mail::Fault(FaultMail { often: Some("It came 7 more times.".into()), ended: back(), ..lost() })),
        (
            "test",
            Mail::Test(TestMail { node: "coordinator".into(), when: when("12:00:05"), around: Around { why_armed: None, ..around() } }),
        ),
    ]
}

pub(crate) fn when(time: &str) -> When {
    When { time: time.into(), day: "Monday 23 November 2026".into(), zone: "Europe/Berlin".into() }
}

pub(crate) fn event() -> EventMail {
    EventMail {
        camera: "porch".into(),
        when: when("08:01:30"),
        percent: Some(5),
        pictures: pictures(1),
        clip: Some(Clip { state: ClipState::Follows, seconds: Some(12), bytes: Some(3_400_000) }),
        around: around(),
    }
}

pub(crate) fn digest(camera: Option<Name>, count: u32) -> DigestMail {
    let movements = (0..count.min(20)).map(|n| Movement {
        camera: camera.clone().unwrap_or_else(|| ["porch", "garage", "garden gate"][n as usize % 3].into()),
        time: format!("08:{:02}:12", n + 2).into(),
        percent: (n != 3).then_some(u8::try_from(n * 7 % 60).unwrap_or(0)),
        picture: (n != 4).then(|| picture(n)),
    });
    DigestMail { movements: movements.collect(), camera, count, span: "10 minutes".into(), until: when("08:12"), around: around() }
}

fn pictures(count: u32) -> Vec<Picture> {
    (0..count).map(picture).collect()
}

fn picture(n: u32) -> Picture {
    let alt = format!("The porch at 08:01:{:02}, with the movement near the middle", n + 30);
    Picture { cid: Cid::new(&format!("p{n}@dms3")).expect("a good id"), width: 1280, height: 720, alt: alt.into() }
}

fn clip(state: ClipState) -> Option<Clip> {
    Some(Clip { state, seconds: Some(123), bytes: Some(48_000_000) })
}

fn around() -> Around {
    Around {
        why_armed: Some("Everybody left at 07:41.".into()),
        dashboard: Link::new("https://dms3.local:8443/e/42?a=1&b=2"),
        ..Around::default()
    }
}

fn full() -> Around {
    let held_back = Some(HeldBack { count: 3, since: "07:00".into() });
    Around { note: Some("porch sent this by itself: the coordinator does not answer.".into()), held_back, ..around() }
}
