//! What goes, in which order, and what stays.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
/// Nothing goes by it.
const ALL: Policy = Policy { max_age: Duration::MAX, max_bytes: u64::MAX, keep_free_bytes: 0 };
const FREE: u64 = 1 << 40;

impl House {
    /// A movement of the day `day` with a picture of 1000 bytes.
    async fn saw(&self, number: u8, day: u32, seen: bool) -> EventId {
        let at = T0 + DAY * day;
        let picture = vec![number; 1000];
        let event = with(movement(number, at), AttachmentKind::Picture, &picture);
        self.told(PORCH, &event, at).await;
        assert!(self.arrives(&event, &picture, at).await);
        if seen {
            self.store.mark_seen(event.id, "Ann", at).await.unwrap();
        }
        event.id
    }

    /// What the coordinator does from time to time. `room`: bytes of the whole disk.
    async fn tidies(&self, policy: Policy, now: Timestamp, room: u64) -> Vec<(EventId, Why)> {
        let mut gone = Vec::new();
        loop {
            let used: u64 = self.media.list().unwrap().iter().filter_map(|hash| self.media.length(hash)).sum();
            let removed = self.store.retention(policy, now, room - used).await.unwrap();
            if removed.is_empty() {
                break;
            }
            for one in removed {
                self.store.discard(&self.media, &one.unneeded).await.unwrap();
                gone.push((one.event, one.why));
            }
        }
        gone
    }
}

#[tokio::test]
async fn what_is_older_than_it_is_kept_goes_and_the_rest_stays() {
    let house = House::new().await;
    let (old, seen) = (house.saw(1, 0, false).await, house.saw(2, 1, true).await);
    let young = house.saw(3, 5, true).await;
    let policy = Policy { max_age: 3 * DAY, ..ALL };
    assert_eq!(house.tidies(policy, T0 + 5 * DAY, FREE).await, [(old, Why::Age), (seen, Why::Age)]);
    assert_eq!(house.ids(&EventFilter::default()).await, [young]);
    assert_eq!(house.media.list().unwrap().len(), 1);
}

#[tokio::test]
async fn what_comes_after_a_month_without_a_link_is_not_gone_before_anybody_saw_it() {
    let house = House::new().await;
    let event = movement(1, T0);
    let now = T0 + 40 * DAY;
    house.told(PORCH, &event, now).await;
    let policy = Policy { max_age: 12 * HOUR, ..ALL };
    assert_eq!(house.tidies(policy, now + 23 * HOUR, FREE).await, []);
    assert_eq!(house.tidies(policy, now + 25 * HOUR, FREE).await, [(event.id, Why::Age)]);
}

#[tokio::test]
async fn where_room_is_wanted_what_was_seen_goes_first_and_what_just_came_goes_last() {
    let now = T0 + 9 * DAY;
    for (policy, room, why) in
        [(Policy { max_bytes: 1500, ..ALL }, FREE, Why::Size), (Policy { keep_free_bytes: 8500, ..ALL }, 10_000, Why::Space)]
    {
        let house = House::new().await;
        let today_unseen = house.saw(1, 9, false).await;
        let today_seen = house.saw(2, 9, true).await;
        let unseen = [house.saw(3, 0, false).await, house.saw(4, 3, false).await];
        let seen = [house.saw(5, 1, true).await, house.saw(6, 4, true).await];
        // It takes no room: its going would help nobody.
        let lost = Event { kind: EventKind::CameraLost, ..movement(7, T0) };
        house.told(PORCH, &lost, T0).await;
        let gone = house.tidies(policy, now, room).await;
        let expected = [seen[0], seen[1], unseen[0], unseen[1], today_seen].map(|id| (id, why));
        assert_eq!(gone, expected);
        assert_eq!(house.ids(&EventFilter::default()).await, [today_unseen, lost.id]);
        let told = house.store.removals(T0).await.unwrap();
        assert_eq!(told, [Removals { why, events: 5, bytes: 5000 }]);
    }
}

#[tokio::test]
async fn no_more_goes_than_room_is_wanted() {
    let house = House::new().await;
    for number in 0..10 {
        house.saw(number, u32::from(number), false).await;
    }
    let now = T0 + 20 * DAY;
    assert_eq!(house.tidies(ALL, now, 10_000).await, [], "a full disk of which nothing must be free");
    let policy = Policy { max_age: 18 * DAY, max_bytes: 6000, ..ALL };
    let whys: Vec<_> = house.tidies(policy, now, FREE).await.into_iter().map(|(_, why)| why).collect();
    assert_eq!(whys, [Why::Age, Why::Age, Why::Size, Why::Size]);
    let policy = Policy { keep_free_bytes: 4500, ..ALL };
    assert_eq!(house.tidies(policy, now, 10_000).await.len(), 1);
    assert_eq!(house.store.event_counts(now, now).await.unwrap().bytes, 5000);
}

#[tokio::test]
async fn many_old_events_go_a_few_at_a_time() {
    let house = House::new().await;
    for number in 0..50 {
        house.told(PORCH, &movement(number, T0), T0).await;
    }
    let policy = Policy { max_age: DAY, ..ALL };
    let mut batches = Vec::new();
    loop {
        let removed = house.store.retention(policy, T0 + 9 * DAY, FREE).await.unwrap();
        if removed.is_empty() {
            break;
        }
        batches.push(removed.len());
    }
    assert_eq!(batches, [16, 16, 16, 2]);
}

#[tokio::test]
async fn a_picture_of_two_events_goes_with_the_last_of_them() {
    let house = House::new().await;
    let mut events = Vec::new();
    for number in 0..2_u8 {
        let event = with(movement(number, T0 + DAY * u32::from(number)), AttachmentKind::Picture, b"same");
        house.told(PORCH, &event, event.started).await;
        house.arrives(&event, b"same", event.started).await;
        events.push(event);
    }
    let policy = Policy { max_age: 5 * DAY, ..ALL };
    assert_eq!(house.tidies(policy, T0 + 5 * DAY + HOUR, FREE).await, [(events[0].id, Why::Age)]);
    assert!(house.media.has(&hash_of(b"same")));
    assert_eq!(house.tidies(policy, T0 + 7 * DAY, FREE).await, [(events[1].id, Why::Age)]);
    assert!(!house.media.has(&hash_of(b"same")));
}
