//! What cameras tell, twice, late, wrongly or with bad intent.

use super::*;

#[tokio::test]
async fn an_old_or_double_telling_changes_nothing_but_hears_what_is_missing() {
    let house = House::new().await;
    let first = with(movement(1, T0), AttachmentKind::Picture, b"one");
    let mut second = with(first.clone(), AttachmentKind::Picture, b"two");
    second.changed = Some(9);
    assert!(house.told(PORCH, &second, T0).await.fresh);
    house.arrives(&first, b"one", T0).await;
    let before = house.read(&second).await;
    for telling in [&first, &second, &Event { changed: Some(99), ..second.clone() }] {
        let kept = house.told(PORCH, telling, T0 + HOUR).await;
        assert_eq!(kept, Kept { fresh: false, missing: vec![hash_of(b"two")] });
        assert_eq!(house.read(&second).await, before);
    }
}

#[tokio::test]
async fn one_camera_cannot_touch_what_another_saw() {
    let house = House::new().await;
    let event = with(movement(1, T0), AttachmentKind::Picture, b"burglar");
    house.told(PORCH, &event, T0).await;
    house.arrives(&event, b"burglar", T0).await;
    let before = house.read(&event).await;
    let forged = Event { changed: Some(0), attachments: Vec::new(), rev: 99, ..event.clone() };
    let foreign = async || house.store.keep_event(&house.media, SHED, "shed-pi", &forged, T0, T0).await.unwrap_err();
    assert_eq!(foreign().await.downcast_ref(), Some(&ForeignEvent(event.id)));
    assert_eq!(house.read(&event).await, before);
    // Nor after it was removed.
    house.store.delete_event(event.id, T0).await.unwrap();
    assert_eq!(foreign().await.downcast_ref(), Some(&ForeignEvent(event.id)));
}

#[tokio::test]
async fn a_stolen_camera_takes_nothing_back_of_what_it_handed_over() {
    let house = House::new().await;
    let event = with(movement(1, T0), AttachmentKind::Picture, b"burglar");
    house.told(PORCH, &event, T0).await;
    house.arrives(&event, b"burglar", T0).await;
    // It tells of no pictures, then of other ones in their place.
    house.told(PORCH, &Event { attachments: Vec::new(), rev: 50, ..event.clone() }, T0).await;
    let other = with(movement(1, T0), AttachmentKind::Picture, b"a cat");
    assert_eq!(house.told(PORCH, &Event { rev: 51, ..other }, T0).await.missing, [hash_of(b"a cat")]);
    let hashes: Vec<_> = house.read(&event).await.attachments.iter().map(|one| (one.attachment.hash, one.kept_at.is_some())).collect();
    assert!(hashes.contains(&(hash_of(b"burglar"), true)) && hashes.len() == 2, "{hashes:?}");
    // It cannot fill the store with rows that way.
    let mut wild = movement(1, T0);
    for number in 0..ATTACHMENTS {
        wild = with(wild, AttachmentKind::Picture, &number.to_be_bytes());
    }
    assert!(EventV1::of(&wild, None).checked().is_ok());
    let error = house.store.keep_event(&house.media, PORCH, "porch-pi", &Event { rev: 999, ..wild }, T0, T0).await.unwrap_err();
    assert!(error.to_string().contains("202 attachments"), "{error:#}");
    assert_eq!(house.read(&event).await.attachments.len(), 2);
}

#[tokio::test]
async fn a_picture_that_is_here_already_is_not_sent_twice_and_one_that_is_gone_is_sent_again() {
    let house = House::new().await;
    let first = with(movement(1, T0), AttachmentKind::Picture, b"same");
    house.told(PORCH, &first, T0).await;
    house.arrives(&first, b"same", T0).await;
    let second = with(movement(2, T0), AttachmentKind::Picture, b"same");
    assert_eq!(house.told(SHED, &second, T0).await.missing, [] as [[u8; 32]; 0]);
    assert_eq!(house.store.event_counts(T0, T0).await.unwrap().bytes, 4, "it takes its room once");
    // It stays while one of the two needs it.
    let unneeded = house.store.delete_event(first.id, T0).await.unwrap();
    assert_eq!(unneeded, [] as [[u8; 32]; 0]);
    assert_eq!(house.store.discard(&house.media, &[hash_of(b"same")]).await.unwrap(), 0);
    assert!(house.media.has(&hash_of(b"same")));
    // A card that loses files.
    house.media.remove(&hash_of(b"same")).unwrap();
    assert_eq!(house.told(SHED, &second, T0).await.missing, [hash_of(b"same")]);
    assert_eq!((house.read(&second).await.size, house.read(&second).await.attachments[0].kept_at), (0, None));
    assert!(house.arrives(&second, b"same", T0).await);
    assert_eq!(house.read(&second).await.size, 4);
}

#[tokio::test]
async fn a_picture_counts_for_the_room_that_it_takes_and_not_for_what_its_camera_says() {
    let house = House::new().await;
    let mut event = with(movement(1, T0), AttachmentKind::Picture, b"small");
    house.told(PORCH, &event, T0).await;
    house.arrives(&event, b"small", T0).await;
    // Others' pictures would have to go for a content that is said to be huge.
    event = with(event, AttachmentKind::Picture, b"small");
    event.attachments[1].length = 1 << 40;
    house.told(PORCH, &event, T0).await;
    assert!(house.store.keep_attachment(&house.media, event.id, hash_of(b"small"), T0).await.unwrap());
    assert_eq!(house.store.event_counts(T0, T0).await.unwrap().bytes, 5);
    assert_eq!(house.read(&event).await.size, 5);
}

#[tokio::test]
async fn a_camera_whose_clock_is_ahead_does_not_stand_before_all_others_for_ever() {
    let house = House::new().await;
    let event = movement(1, T0 + 10_000 * HOUR);
    house.told(PORCH, &event, T0).await;
    let stored = house.read(&event).await;
    assert_eq!((stored.began, stored.started), (T0, event.started));
}

#[tokio::test]
async fn content_that_is_wanted_again_while_it_goes_is_either_here_or_missing() {
    let house = House::new().await;
    for round in 0..40_u8 {
        let first = with(movement(round, T0), AttachmentKind::Picture, b"same");
        house.told(PORCH, &first, T0).await;
        house.arrives(&first, b"same", T0).await;
        let unneeded = house.store.delete_event(first.id, T0).await.unwrap();
        let second = with(movement(100 + round, T0), AttachmentKind::Picture, b"same");
        let (_, kept) = tokio::join!(house.store.discard(&house.media, &unneeded), house.told(PORCH, &second, T0));
        assert_eq!(kept.missing.is_empty(), house.media.has(&hash_of(b"same")), "round {round}");
        let gone = house.store.delete_event(second.id, T0).await.unwrap();
        house.store.discard(&house.media, &gone).await.unwrap();
    }
    // What a crash left behind goes at the next start.
    house.write(b"nobody's");
    let found = house.media.list().unwrap();
    assert_eq!(house.store.discard(&house.media, &found).await.unwrap(), 1);
}

#[tokio::test]
async fn a_content_that_is_not_here_is_never_called_kept() {
    let house = House::new().await;
    let event = with(movement(1, T0), AttachmentKind::Picture, b"picture");
    let kept = async |hash| house.store.keep_attachment(&house.media, event.id, hash, T0).await.unwrap();
    assert!(!kept(hash_of(b"picture")).await, "nobody told of it");
    house.told(PORCH, &event, T0).await;
    assert!(!kept(hash_of(b"picture")).await, "it did not come");
    house.write(b"other");
    assert!(!kept(hash_of(b"other")).await, "it is not of this event");
    house.write(b"picture");
    assert!(kept(hash_of(b"picture")).await && kept(hash_of(b"picture")).await);
    // What another event only announced goes with the one that brought it, and is still missing there.
    let other = with(movement(2, T0), AttachmentKind::Picture, b"late");
    let first = with(movement(3, T0), AttachmentKind::Picture, b"late");
    house.told(SHED, &other, T0).await;
    house.told(PORCH, &first, T0).await;
    house.arrives(&first, b"late", T0).await;
    let unneeded = house.store.delete_event(first.id, T0).await.unwrap();
    assert_eq!(house.store.discard(&house.media, &unneeded).await.unwrap(), 1);
    assert_eq!(house.told(SHED, &other, T0).await.missing, [hash_of(b"late")]);
}

#[tokio::test]
async fn the_bytes_of_all_events_are_known_without_counting_them_anew() {
    use rand::seq::IndexedMutRandom as _;
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let house = House::new().await;
    let mut events: Vec<Event> = (0..6).map(|number| movement(number, T0)).collect();
    for step in 0..300_u64 {
        let event = events.choose_mut(&mut random).unwrap();
        // Few contents, so that many events share them.
        let bytes = vec![random.random_range(0..5_u8); 100];
        match random.random_range(0..10) {
            0..4 => *event = with(event.clone(), AttachmentKind::Picture, &bytes),
            4..7 => _ = house.arrives(event, &bytes, T0).await,
            7 => house.media.remove(&hash_of(&bytes)).unwrap(),
            8 => event.rev += 1,
            _ => {
                let unneeded = house.store.delete_event(event.id, T0).await.unwrap();
                house.store.discard(&house.media, &unneeded).await.unwrap();
                *event = movement(random.random(), T0 + Duration::from_secs(step));
            }
        }
        if event.attachments.len() < ATTACHMENTS {
            house.told(PORCH, event, T0).await;
        }
        assert_eq!(house.store.event_counts(T0, T0).await.unwrap().bytes, counted(&house.store).await, "after step {step}");
    }
    assert!(counted(&house.store).await > 0);
}
