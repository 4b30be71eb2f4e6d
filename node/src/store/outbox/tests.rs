use std::time::Duration;

use dms3_core::event::{Attachment, GAP, Said};
use dms3_core::time::{Mono, SinceBoot};

use super::*;

const T: Timestamp = Timestamp(1_795_000_000_000);

fn note(said: Said, key: &str, after: u64) -> Note {
    Note { said, key: Some(key.to_owned()), at: T + Duration::from_secs(after), since_boot: None, changed: None, attachment: None }
}

fn file(said: Said, key: &str, after: u64, number: u8, length: u64) -> Note {
    let kind = if said == Said::Movie { AttachmentKind::Clip } else { AttachmentKind::Picture };
    let attachment = Attachment { kind, name: format!("{number}"), taken: T, length, hash: [number; 32] };
    Note { attachment: Some(attachment), ..note(said, key, after) }
}

fn id(number: u8) -> EventId {
    EventId::new(T + Duration::from_secs(number.into()), [number; 10])
}

async fn outbox() -> (tempfile::TempDir, Outbox) {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path()).await.unwrap().outbox;
    (dir, outbox)
}

#[tokio::test]
async fn an_event_waits_until_the_coordinator_has_all_of_it_and_is_forgotten_then() {
    let (dir, outbox) = outbox().await;
    let began = Some(SinceBoot { boot: u128::MAX, mono: Mono(5) });
    outbox.note("porch", ArmState::Away, id(1), Note { since_boot: began, ..note(Said::EventStart, "7", 0) }).await.unwrap();
    let event = outbox.note("porch", ArmState::Night, id(2), file(Said::Picture, "7", 1, 5, 100)).await.unwrap();
    assert_eq!((event.id, event.rev, event.state), (id(1), 2, ArmState::Away), "the second note is of the same event");
    assert_eq!(event.started_since_boot, began);
    assert_eq!(outbox.untold(9).await.unwrap(), std::slice::from_ref(&event));
    assert!(outbox.missing(AttachmentKind::Picture, 9).await.unwrap().is_empty(), "the coordinator does not know of it yet");

    // A power cut.
    outbox.close().await;
    let outbox = Outbox::open(dir.path()).await.unwrap().outbox;
    outbox.kept(id(1), 2, &[[5; 32]]).await.unwrap();
    assert!(outbox.untold(9).await.unwrap().is_empty());
    let missing = outbox.missing(AttachmentKind::Picture, 9).await.unwrap();
    assert_eq!(missing, [Missing { event: id(1), hash: [5; 32], length: 100 }]);
    assert_eq!(
        outbox.counts().await.unwrap(),
        OutboxV1 { waiting: 1, bytes: 100, oldest: Some(T + Duration::from_secs(1)), ..OutboxV1::default() }
    );

    outbox.attachment_kept(id(1), [5; 32]).await.unwrap();
    assert_eq!(outbox.counts().await.unwrap().waiting, 0);
    let later = T + FORGOTTEN + Duration::from_secs(60);
    assert!(outbox.forget(later, Timestamp(0)).await.unwrap().is_empty(), "it is not over");
    assert!(outbox.end_silent(later).await.unwrap());
    assert_eq!(outbox.untold(9).await.unwrap().len(), 1, "its end is news");
    outbox.kept(id(1), 3, &[]).await.unwrap();
    assert_eq!(outbox.forget(later, Timestamp(0)).await.unwrap(), [[5; 32]]);
    assert_eq!(outbox.counts().await.unwrap(), OutboxV1::default());
    assert!(!outbox.needs([5; 32]).await.unwrap());
}

#[tokio::test]
async fn what_the_coordinator_says_of_an_older_telling_settles_no_newer_one() {
    let (_dir, outbox) = outbox().await;
    outbox.note("porch", ArmState::Away, id(1), note(Said::EventStart, "7", 0)).await.unwrap();
    outbox.note("porch", ArmState::Away, id(1), file(Said::Picture, "7", 1, 5, 100)).await.unwrap();
    outbox.kept(id(1), 1, &[]).await.unwrap();
    assert_eq!(outbox.untold(9).await.unwrap().len(), 1);
    outbox.kept(id(1), 9, &[]).await.unwrap();
    assert_eq!(outbox.untold(9).await.unwrap().len(), 1, "nor one that was never told");
    outbox.kept(id(1), 2, &[[5; 32]]).await.unwrap();
    assert_eq!(outbox.missing(AttachmentKind::Picture, 9).await.unwrap().len(), 1);
    // It found the content after all.
    outbox.kept(id(1), 2, &[]).await.unwrap();
    assert!(outbox.missing(AttachmentKind::Picture, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_moves_now_goes_before_what_moved_before() {
    let (_dir, outbox) = outbox().await;
    for number in 1..=3 {
        outbox.note("porch", ArmState::Away, id(number), file(Said::Picture, &number.to_string(), 0, number, 10)).await.unwrap();
        outbox.note("porch", ArmState::Away, id(number), file(Said::Movie, &number.to_string(), 0, 10 + number, 10)).await.unwrap();
    }
    let untold: Vec<_> = outbox.untold(2).await.unwrap().iter().map(|event| event.id).collect();
    assert_eq!(untold, [id(3), id(2)]);
    for number in 1..=3 {
        outbox.kept(id(number), 2, &[[number; 32], [10 + number; 32]]).await.unwrap();
    }
    let hashes = async |kind| outbox.missing(kind, 9).await.unwrap().iter().map(|missing| missing.hash[0]).collect::<Vec<_>>();
    assert_eq!(hashes(AttachmentKind::Picture).await, [3, 2, 1]);
    assert_eq!(hashes(AttachmentKind::Clip).await, [11, 12, 13]);
}

#[tokio::test]
async fn where_there_is_no_room_old_clips_are_given_up_before_pictures_and_it_is_counted() {
    let (_dir, outbox) = outbox().await;
    for number in 1..=3 {
        outbox.note("porch", ArmState::Away, id(number), file(Said::Picture, &number.to_string(), 0, number, 10)).await.unwrap();
        outbox.note("porch", ArmState::Away, id(number), file(Said::Movie, &number.to_string(), 0, 10 + number, 100)).await.unwrap();
    }
    // What the coordinator has costs nothing.
    outbox.attachment_kept(id(3), [3; 32]).await.unwrap();
    assert_eq!(outbox.give_up(5).await.unwrap(), [[3; 32]]);
    assert_eq!(outbox.counts().await.unwrap().lost, 0);
    assert_eq!(outbox.give_up(150).await.unwrap(), [[11; 32], [12; 32]]);
    assert_eq!(outbox.give_up(105).await.unwrap(), [[13; 32], [1; 32]]);
    let counts = outbox.counts().await.unwrap();
    assert_eq!((counts.lost, counts.bytes, counts.waiting), (4, 10, 3), "the events are told all the same");
}

#[tokio::test]
async fn a_content_that_two_events_share_stays_while_one_needs_it() {
    let (_dir, outbox) = outbox().await;
    for number in 1..=2 {
        outbox.note("porch", ArmState::Away, id(number), file(Said::Snapshot, &number.to_string(), 0, 9, 10)).await.unwrap();
    }
    outbox.kept(id(1), 1, &[]).await.unwrap();
    let later = T + 2 * FORGOTTEN;
    assert!(outbox.forget(later, Timestamp(0)).await.unwrap().is_empty());
    outbox.kept(id(2), 1, &[]).await.unwrap();
    assert_eq!(outbox.forget(later, Timestamp(0)).await.unwrap(), [[9; 32]]);
}

#[tokio::test]
async fn what_the_coordinator_refuses_stays_for_a_while_and_does_not_hold_up_others() {
    let (_dir, outbox) = outbox().await;
    outbox.note("porch", ArmState::Away, id(1), file(Said::Snapshot, "1", 0, 1, 10)).await.unwrap();
    outbox.refused(id(1), "no").await.unwrap();
    assert!(outbox.untold(9).await.unwrap().is_empty());
    assert_eq!(outbox.counts().await.unwrap().refused, 1);
    let later = T + 2 * FORGOTTEN;
    assert!(outbox.forget(later, T).await.unwrap().is_empty());
    assert_eq!(outbox.forget(later, later).await.unwrap(), [[1; 32]]);
}

#[tokio::test]
async fn an_outbox_that_is_damaged_is_put_aside_and_told_and_a_new_one_takes_its_place() {
    let (dir, outbox) = outbox().await;
    outbox.note("porch", ArmState::Away, id(1), note(Said::EventStart, "7", 0)).await.unwrap();
    outbox.close().await;
    let path = dir.path().join(OUTBOX_FILE);
    for nth in 1..=2 {
        let whole = std::fs::read(&path).unwrap();
        let damaged = if nth == 1 { vec![b'x'; 20_000] } else { whole[..whole.len() / 2].to_vec() };
        std::fs::write(&path, &damaged).unwrap();
        let opened = Outbox::open(dir.path()).await.unwrap();
        let (aside, error) = opened.damaged.unwrap();
        assert_eq!(std::fs::read(&aside).unwrap(), damaged, "{error:#}");
        assert_eq!(opened.outbox.counts().await.unwrap().lost, 1, "it is told");
        opened.outbox.note("porch", ArmState::Away, id(2), note(Said::EventStart, "8", 0)).await.unwrap();
        opened.outbox.close().await;
    }
}

#[tokio::test]
async fn what_lies_in_the_spool_although_it_was_kept_is_not_kept_twice() {
    let (_dir, outbox) = outbox().await;
    let snapshot = |after| Note { key: None, ..file(Said::Snapshot, "", after, 5, 10) };
    let first = outbox.note("porch", ArmState::Away, id(1), snapshot(0)).await.unwrap();
    for number in 2..20 {
        outbox.note("porch", ArmState::Away, id(number), Note { key: None, ..file(Said::Snapshot, "", 0, number + 9, 10) }).await.unwrap();
    }
    assert_eq!(outbox.note("porch", ArmState::Away, id(30), snapshot(0)).await.unwrap(), first);
    assert_eq!(outbox.note("yard", ArmState::Away, id(31), snapshot(0)).await.unwrap().id, id(31), "another camera saw it");
}

#[tokio::test]
async fn hooks_that_name_no_event_are_put_together_by_time() {
    let (_dir, outbox) = outbox().await;
    let unnamed = |after, number| Note { key: None, ..file(Said::Picture, "", after, number, 1) };
    let first = outbox.note("porch", ArmState::Away, id(1), unnamed(0, 1)).await.unwrap();
    let second = outbox.note("porch", ArmState::Away, id(2), unnamed(GAP.as_secs(), 2)).await.unwrap();
    let third = outbox.note("porch", ArmState::Away, id(3), unnamed(3 * GAP.as_secs(), 3)).await.unwrap();
    let elsewhere = outbox.note("yard", ArmState::Away, id(4), unnamed(3 * GAP.as_secs(), 3)).await.unwrap();
    assert_eq!([first.id, second.id, third.id, elsewhere.id], [id(1), id(1), id(3), id(4)]);
}

#[tokio::test]
async fn events_that_nobody_takes_fill_no_disk_and_when_they_are_gone_new_ones_are_taken() {
    let (dir, mut outbox) = outbox().await;
    outbox.take_no_more_than(400_000);
    let long = "x".repeat(2000);
    let mut kept = Vec::new();
    let error = loop {
        let id = EventId::new(T, rand::random());
        match outbox.note("porch", ArmState::Away, id, note(Said::EventEnd, &format!("{long}{}", kept.len()), 0)).await {
            Ok(event) => kept.push((event.id, event.rev)),
            Err(error) => break error,
        }
        assert!(kept.len() < 1000);
    };
    assert!(error.downcast_ref::<TooMany>().is_some() && kept.len() > 20, "{error:#}, {} kept", kept.len());
    for (id, rev) in kept {
        outbox.kept(id, rev, &[]).await.unwrap();
    }
    outbox.forget(T + FORGOTTEN + Duration::from_secs(1), Timestamp(0)).await.unwrap();
    outbox.note("porch", ArmState::Away, id(1), note(Said::EventStart, "7", 0)).await.unwrap();
    outbox.close().await;
    assert!(std::fs::metadata(dir.path().join(OUTBOX_FILE)).unwrap().len() < 500_000);
}
