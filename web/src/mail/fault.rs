//! What can be wrong with the house, and what the family can do about it.

use serde::Serialize;

use super::line::{Name, Sentence};

/// A fault that people are told of. Templates see the variant as `fault.kind` ("camera-lost") and its fields beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Fault {
    /// Nothing is heard of a camera while the house is armed.
    CameraLost { camera: Name },
    /// A camera that should watch does not; `why` is what its detector said.
    DetectorFailed { camera: Name, why: Sentence },
    /// `percent_left`: of the disk of this node.
    DiskNearlyFull { node: Name, percent_left: u8 },
    /// Events wait on a camera and are not acknowledged.
    OutboxStuck { camera: Name, waiting: u32 },
    /// A pairing word was tried wrongly too often.
    TokenLocked,
    /// Two sources disagree on whether the house is armed; `what` says which, and which one holds.
    StateConflict { what: Sentence },
    /// Told by a camera: the coordinator does not answer.
    CoordinatorGone { told_by: Name },
    /// What has no words of its own here.
    Other { headline: Sentence, what: Sentence, to_do: Vec<Sentence> },
}

/// A fault in words.
#[derive(Debug)]
pub(super) struct Words {
    /// A few words for the subject, without a full stop.
    pub(super) headline: Sentence,
    /// What it means for the house.
    pub(super) what: Sentence,
    /// One line for each thing to try, the likeliest first.
    pub(super) to_do: Vec<Sentence>,
}

impl Fault {
    pub(super) fn words(&self) -> Words {
        let words = |headline: String, what: String, to_do: &[&str]| Words {
            headline: headline.into(),
            what: what.into(),
            to_do: to_do.iter().map(|line| Sentence::from(*line)).collect(),
        };
        match self {
            Self::CameraLost { camera } => words(
                format!("{camera} is lost while the house is armed"),
                format!("Nothing is heard of {camera}. If it still has power it goes on watching, but what it sees does not arrive."),
                &[
                    "If you do not know of a reason, take this as seriously as movement: look at the other cameras.",
                    "Look whether it has power and network: its socket, its cable, the Wi-Fi.",
                ],
            ),
            Self::DetectorFailed { camera, why } => words(
                format!("{camera} is not watching"),
                format!("Its detector does not run: {why}"),
                &[
                    "It is started again by itself, more slowly each time; you are told when it watches again.",
                    "If it does not come back, look whether the camera is plugged in and nothing else uses it.",
                ],
            ),
            Self::DiskNearlyFull { node, percent_left } => words(
                format!("The disk of {node} is nearly full"),
                match percent_left {
                    0 => "Less than 1 % is left.".into(),
                    left => format!("{left} % is left."),
                },
                &["Make room, or keep pictures and clips for fewer days.", "Arming does not depend on it."],
            ),
            Self::OutboxStuck { camera, waiting } => words(
                format!("{} not reach the coordinator", count(*waiting, "event does", "events do")),
                format!("They wait on {camera} and are safe there."),
                &["Look whether the coordinator runs and its disk has room.", "They are sent by themselves as soon as it takes them."],
            ),
            Self::TokenLocked => words(
                "A pairing word is locked".into(),
                "It was tried wrongly too often. Nobody was let in.".into(),
                &[
                    "If you were pairing a camera, make a new word and try again.",
                    "If nobody was, somebody in your network tries to add a camera of theirs: find out who is in it.",
                ],
            ),
            Self::StateConflict { what } => words(
                "It is not clear whether the house is armed".into(),
                what.to_string(),
                &["Look at the dashboard and choose: arm or disarm. What you choose holds."],
            ),
            Self::CoordinatorGone { told_by } => words(
                "The coordinator does not answer".into(),
                format!(
                    "{told_by} tells this itself. The cameras go on as they last were told; only those with mail of their own can tell you."
                ),
                &["Look whether the coordinator has power and network.", "Pictures wait on the cameras until it is back."],
            ),
            Self::Other { headline, what, to_do } => Words { headline: headline.clone(), what: what.clone(), to_do: to_do.clone() },
        }
    }

    /// What is good again, for the mail that tells the end.
    pub(super) fn end(&self) -> Sentence {
        match self {
            Self::CameraLost { camera } => format!("{camera} is back"),
            Self::DetectorFailed { camera, .. } => format!("{camera} watches again"),
            Self::DiskNearlyFull { node, .. } => format!("The disk of {node} has room again"),
            Self::OutboxStuck { camera, .. } => format!("What waited on {camera} has arrived"),
            Self::TokenLocked => "No pairing word is locked any more".into(),
            Self::StateConflict { .. } => "It is clear again whether the house is armed".into(),
            Self::CoordinatorGone { .. } => "The coordinator answers again".into(),
            Self::Other { headline, .. } => format!("Over: {headline}"),
        }
        .into()
    }
}

fn count(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_says_what_the_family_can_do() {
        let porch = || Name::from("porch");
        for fault in [
            Fault::CameraLost { camera: porch() },
            Fault::DetectorFailed { camera: porch(), why: "no video".into() },
            Fault::DiskNearlyFull { node: porch(), percent_left: 0 },
            Fault::OutboxStuck { camera: porch(), waiting: 1 },
            Fault::TokenLocked,
            Fault::StateConflict { what: "the sensor says away, the button disarmed".into() },
            Fault::CoordinatorGone { told_by: porch() },
        ] {
            let words = fault.words();
            assert!(!words.to_do.is_empty(), "{fault:?}");
            assert!(!words.headline.as_str().ends_with('.') && words.headline.as_str().len() < 60, "{fault:?}");
            for sentence in words.to_do.iter().chain([&words.what]) {
                assert!(!sentence.as_str().ends_with('…'), "{fault:?} is cut: {sentence}");
            }
            assert_ne!(fault.end().as_str(), words.headline.as_str());
        }
    }
}
