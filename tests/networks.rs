//! Networks as families have them: of every kind of address, bad ones, cut ones, crowded ones. In each of them a house does what it is for.

mod addresses;
mod bad;
mod crowds;
mod cuts;
mod restarts;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dms3_core::arming::ArmState;

use crate::events::{good, jpeg, picture};
use crate::harness::{House, Lan, Plan, within};

/// Long enough for the worst network here and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A camera that was out of reach is linked again so soon: what it waits between two attempts at most, and one attempt.
const REACHED_WITHIN: Duration = Duration::from_secs(45);

const LINK_ENDED: &str = "the link to the coordinator ended: ";
const NO_ANSWER: &str = "the link to the coordinator ended: no answer";

/// Disarmed, nobody's phone; the cameras paired with nothing but a word.
async fn house_on<const N: usize>(lan: Lan, names: [&str; N]) -> House {
    House::planned_with_cameras(Plan { lan: Some(lan), ..Plan::default() }, names).await
}

fn lan(house: &House) -> &Lan {
    house.plan.lan.as_ref().unwrap()
}

/// What a house is for: an arming and a disarming reach every camera and are confirmed, and what each camera saw comes with its picture, once.
async fn lives(house: &House) {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    house.arm().await;
    within(PATIENCE, "the arming reaches every camera and is confirmed", async || house.does_agree(ArmState::Away).await).await;
    let before = house.events().await.len();
    for camera in &house.cameras {
        let nth = SEEN.fetch_add(1, Ordering::Relaxed);
        let file = jpeg(house.dir(), format!("{nth}.jpg").as_bytes(), u8::try_from(nth).unwrap());
        good(picture(camera, &nth.to_string(), "450", &file));
    }
    house.disarm().await;
    within(PATIENCE, "so does the disarming", async || house.does_agree(ArmState::Disarmed).await).await;
    let wanted = before + house.cameras.len();
    within(PATIENCE, "what was seen is in the store, whole", async || {
        let events = house.events().await;
        events.len() >= wanted && events.iter().all(|event| event.attachments.len() == 1 && event.attachments[0].kept_at.is_some())
    })
    .await;
    within(PATIENCE, "the cameras know", async || {
        for camera in &house.cameras {
            if camera.camera_status().await.is_none_or(|status| status.outbox.waiting > 0) {
                return false;
            }
        }
        true
    })
    .await;
    let mut names: Vec<_> = house.events().await.iter().map(|event| event.attachments[0].attachment.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), house.events().await.len()), (wanted, wanted), "each came once");
}
