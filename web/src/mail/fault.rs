//! What can be wrong with the house, and what the family can do about it.

use serde::Serialize;

use super::line::{Name, Sentence};

/// A fault that people are told of. Templates see the variant as `fault.kind` ("camera-lost") and its fields beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Fault {
    /// Nothing is heard of a camera while the house is armed.
    CameraLost { camera: Name },
    /// The node of a camera is there and gets no picture of it.
    NoPicture { camera: Name },
    /// A camera is connected and has not confirmed that the house is armed.
    Unconfirmed { camera: Name },
    /// A camera that should watch does not; `why` is what its detector said.
    DetectorFailed { camera: Name, why: Sentence },
    /// A camera watches although the house is not armed.
    ArmedItself { camera: Name },
    /// It cannot be seen who is home.
    Blind { why: Sentence },
    /// `free_mib`: on the disk of this node.
    DiskNearlyFull { node: Name, free_mib: u64 },
    /// Events wait on a camera and are not acknowledged.
    OutboxStuck { camera: Name, waiting: u64 },
    /// A pairing word was tried wrongly too often, last from this address.
    TokenLocked { source: Name },
    /// Somebody at this address tries passwords of the dashboard: so many wrong ones.
    PasswordsGuessed { source: Name, count: u32 },
    /// Two machines use the identity of this camera, at these addresses.
    IdentityTwice { camera: Name, one: Name, other: Name },
    /// It breaks the rules and was put out again and again; `why` is the last reason.
    PutOut { camera: Name, why: Sentence },
    /// A camera holds a newer state than the coordinator remembers; `what` says what holds now.
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
            Self::NoPicture { camera } => words(
                format!("{camera} gives no picture"),
                format!("Its detector runs and sees nothing: what happens in front of {camera} is not noticed."),
                &[
                    "Look whether the camera is plugged in and has power, and whether somebody covered or moved it.",
                    "You are told when it gives pictures again.",
                ],
            ),
            Self::Unconfirmed { camera } => words(
                format!("{camera} has not confirmed that the house is armed"),
                format!("{camera} is connected and does not say that it watches."),
                &["Ask `dms3-node status` whether it watches by now.", "If it does not, restart it: a camera that starts watches."],
            ),
            Self::ArmedItself { camera } => words(
                format!("{camera} armed itself"),
                "It watches although the house does not ask for it: it could not be sure that the house is disarmed.".into(),
                &["It goes back by itself as soon as it hears the coordinator well again.", "The log of the camera says what it missed."],
            ),
            Self::Blind { why } => words(
                "It cannot be seen who is home".into(),
                format!("The house will not arm by itself: {why}"),
                &["Arm it yourself when everybody leaves.", "Look whether the router runs and the coordinator is on the network."],
            ),
            Self::DetectorFailed { camera, why } => words(
                format!("{camera} is not watching"),
                format!("Its detector does not run: {why}"),
                &[
                    "It is started again by itself, more slowly each time; you are told when it watches again.",
                    "If it does not come back, look whether the camera is plugged in and nothing else uses it.",
                ],
            ),
            Self::DiskNearlyFull { node, free_mib } => words(
                format!("The disk of {node} is nearly full"),
                format!("{free_mib} MB are free. When it is full, {node} keeps no more pictures and clips."),
                &["Find out what takes the room, or keep pictures and clips for fewer days.", "Arming does not depend on it."],
            ),
            Self::OutboxStuck { camera, waiting } => words(
                format!("{} not reach the coordinator", count(*waiting, "event does", "events do")),
                format!("They wait on {camera} and are safe there."),
                &["Look whether the coordinator runs and its disk has room.", "They are sent by themselves as soon as it takes them."],
            ),
            Self::TokenLocked { source } => words(
                "A pairing word is locked".into(),
                format!("Somebody at {source} tried it with wrong secrets too often, and was not let in."),
                &[
                    "If you were pairing a camera, make a new word and try again.",
                    "If nobody was, somebody in your network tries to add a camera of theirs: find out who is in it.",
                ],
            ),
            Self::PasswordsGuessed { source, count } => words(
                "Somebody guesses passwords of the dashboard".into(),
                format!("{count} wrong ones came from {source}. Nobody got in, and each further try waits a minute."),
                &[
                    "If somebody of the family forgot a password, an owner gives a new one on the page of accounts.",
                    "If it was none of you, somebody is in your network: find out which machine has that address, and change the Wi-Fi's password.",
                ],
            ),
            Self::IdentityTwice { camera, one, other } => words(
                format!("Two machines say that they are {camera}"),
                format!("One is at {one}, the other at {other}. They throw each other out, and what {camera} should see may be missed."),
                &[
                    "If you copied its card: switch one of the two off, then press \"Clear\" on its page or run `dms3-node clear`.",
                    "If nobody did, somebody has a copy of its card: revoke it, which puts both out, and pair your camera anew.",
                ],
            ),
            Self::PutOut { camera, why } => words(
                format!("{camera} is put out again and again"),
                format!("What it sends breaks the rules, and its link is ended each time. The last reason: {why}"),
                &[
                    "Look whether it runs the same version of DMS3 as the coordinator, and restart it.",
                    "If that does not help, somebody may have taken it over: revoke it, and set its card up anew before you pair it again.",
                ],
            ),
            Self::StateConflict { what } => words(
                "The coordinator has forgotten a decision".into(),
                what.to_string(),
                &[
                    "Choose what is to hold: `dms3-node arm` or `dms3-node disarm`.",
                    "If nobody restored a backup, find out what happened to the coordinator and its disk.",
                ],
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
}

fn count(n: u64, one: &str, many: &str) -> String {
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
            Fault::NoPicture { camera: porch() },
            Fault::Unconfirmed { camera: porch() },
            Fault::DetectorFailed { camera: porch(), why: "no video".into() },
            Fault::ArmedItself { camera: porch() },
            Fault::Blind { why: "the cable is out".into() },
            Fault::DiskNearlyFull { node: porch(), free_mib: 0 },
            Fault::OutboxStuck { camera: porch(), waiting: 1 },
            Fault::TokenLocked { source: "10.0.0.9".into() },
            Fault::PasswordsGuessed { source: "10.0.0.9".into(), count: 10 },
            Fault::IdentityTwice { camera: porch(), one: "10.0.0.8".into(), other: "10.0.0.9".into() },
            Fault::PutOut { camera: porch(), why: "a message of 1 GB".into() },
            Fault::StateConflict { what: "the sensor says away, the button disarmed".into() },
            Fault::CoordinatorGone { told_by: porch() },
        ] {
            let words = fault.words();
            assert!(!words.to_do.is_empty(), "{fault:?}");
            assert!(!words.headline.as_str().ends_with('.') && words.headline.as_str().len() < 60, "{fault:?}");
            for sentence in words.to_do.iter().chain([&words.what]) {
                assert!(!sentence.as_str().ends_with('…'), "{fault:?} is cut: {sentence}");
            }
        }
    }
}
