//! What is remembered and told of a camera that does not behave.

use super::*;
use crate::fault::FaultKind;

fn porch(house: &House) -> crate::dashboard::NodeView {
    house.dashboard().nodes.into_iter().find(|node| node.node == PORCH).unwrap()
}

impl House {
    /// Two machines throw each other out, as fast as they do.
    fn is_fought_over(&mut self) {
        for nth in 0..6_u8 {
            let machine = nth % 2;
            self.link_of(machine + 1, &format!("10.0.0.{machine}:5"), None);
            self.acks();
            self.reports(DetectorPhase::Watching);
            self.seconds(10);
        }
    }

    fn offends(&mut self, why: &str, put_out: u32) {
        self.handle(Input::Offended { node: PORCH, offence: Offence { why: why.to_owned(), count: 1, put_out } });
    }
}

#[test]
fn an_identity_that_two_machines_use_is_told_once_and_marked_until_a_person_clears_it() {
    let mut house = House::new().with_porch();
    let before = house.machine.state().clone();
    house.is_fought_over();
    let key = format!("twice:{}", PORCH.short());
    assert_eq!(house.alerts, std::slice::from_ref(&key));
    let FaultKind::IdentityTwice { camera, one, other } = &house.faults[0].kind else { panic!("{:?}", house.faults) };
    assert_eq!((camera.as_str(), one.as_str(), other.as_str()), ("porch", "10.0.0.1", "10.0.0.0"));
    let marks = house.marks.clone();
    assert_eq!((marks.len(), porch(&house).twice), (1, Some(marks[0].1.clone())));
    assert_eq!(porch(&house).liveness, "online", "the newest link counts all the same");
    assert_eq!((house.machine.state(), house.publications), (&before, 1), "that changes nothing of what holds");

    // It goes on, is restarted, days go by: it is one trouble.
    house.is_fought_over();
    house.restart(0);
    house.handle(Input::Marked(marks));
    let mut house = house.with_porch();
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Watching);
    house.pass(48 * HOUR);
    assert!(
        porch(&house).twice.is_some()
            && house.dashboard().problems[0].contains("two machines use its identity, at 10.0.0.1 and at 10.0.0.0")
    );
    assert_eq!(house.alerts, [key.clone(), key.clone()], "whoever was restarted says again what lasts");
    assert_eq!(house.marks.len(), 1);

    house.handle(Input::Cleared { node: PORCH });
    assert_eq!((house.alerts.last().unwrap(), porch(&house).twice), (&format!("over {key}"), None));
    assert_eq!(house.ends, ["porch: a person says that one machine uses its identity."]);
    house.is_fought_over();
    assert_eq!(house.marks.len(), 2, "they are two again");
    house.roster(&[(PORCH, NodeRole::Camera, NodeStatus::Revoked)]);
    assert_eq!((house.ends.last().unwrap().as_str(), porch(&house).twice), ("porch was revoked.", None));
}

#[test]
fn a_camera_that_is_put_out_again_and_again_is_one_alert_and_its_view_says_why() {
    let mut house = House::new().with_porch();
    house.link(None);
    house.acks();
    house.reports(DetectorPhase::Watching);
    for nth in 0..3 {
        house.offends(&format!("lie {nth}"), 1);
    }
    let blame = porch(&house).blame.unwrap();
    assert_eq!((blame.why.as_str(), blame.count, blame.hostile, house.alerts.len()), ("lie 2", 3, false, 0));
    for _ in 0..100 {
        house.offends("the last lie.", 1);
        house.seconds(1);
    }
    let key = format!("put-out:{}", PORCH.short());
    assert_eq!(house.alerts, std::slice::from_ref(&key));
    assert!(
        house.dashboard().problems.iter().any(|text| text.starts_with("porch: it breaks the rules")),
        "{:?}",
        house.dashboard().problems
    );
    house.pass(25 * HOUR);
    assert_eq!((house.alerts.last().unwrap(), porch(&house).blame), (&format!("over {key}"), None));
    // Of a node that nobody knows nothing is remembered.
    house.handle(Input::Offended { node: NodeId([7; 32]), offence: Offence { why: String::new(), count: 1, put_out: 9 } });
    assert_eq!(house.alerts.len(), 2);
}
