use std::io::Write as _;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::event::{ATTACHMENTS, Attachment, EventCounts, EventFilter, EventKind, StoredEvent, Thumbnail};
use dms3_core::protocol::events::EventV1;
use ring::digest::{SHA256, digest};

use super::*;
use crate::store::Store;

mod retention;
mod tellings;

const T0: Timestamp = Timestamp::from_secs(1_795_000_000);
const PORCH: NodeId = NodeId([1; 32]);
const SHED: NodeId = NodeId([2; 32]);
const HOUR: Duration = Duration::from_secs(3600);

/// The coordinator's disk.
struct House {
    dir: tempfile::TempDir,
    store: Events,
    media: Media,
}

impl House {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let media = Media::open(&dir.path().join(MEDIA_DIR)).unwrap();
        Self { dir, store, media }
    }

    async fn told(&self, node: NodeId, event: &Event, now: Timestamp) -> Kept {
        self.store.keep_event(&self.media, node, "porch-pi", event, event.started, now).await.unwrap()
    }

    /// What the coordinator does when the bytes of an attachment came.
    async fn arrives(&self, event: &Event, bytes: &[u8], now: Timestamp) -> bool {
        self.write(bytes);
        self.store.keep_attachment(&self.media, event.id, hash_of(bytes), now).await.unwrap()
    }

    fn write(&self, bytes: &[u8]) {
        let hash = hash_of(bytes);
        let mut part = self.media.part(&data_encoding::HEXLOWER.encode(&hash)).unwrap();
        part.append(bytes).unwrap();
        self.media.finish(part, &hash).unwrap();
    }

    async fn read(&self, event: &Event) -> StoredEvent {
        self.store.event(event.id).await.unwrap().unwrap()
    }

    async fn ids(&self, filter: &EventFilter) -> Vec<EventId> {
        self.store.events(filter).await.unwrap().into_iter().map(|event| event.id).collect()
    }
}

async fn open(dir: &Path) -> Events {
    let opened = Events::open(dir).await.unwrap();
    assert_eq!(opened.trouble, None);
    opened.events
}

/// What all kept contents take, counted anew.
async fn counted(store: &Events) -> u64 {
    let sql = "SELECT coalesce(sum(length), 0) FROM (SELECT DISTINCT hash, length FROM attachment WHERE kept_at IS NOT NULL)";
    u64::try_from(sqlx::query_scalar::<_, i64>(sql).fetch_one(&store.pool).await.unwrap()).unwrap()
}

fn hash_of(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

/// A movement that began at `at`.
fn movement(number: u8, at: Timestamp) -> Event {
    Event {
        id: EventId::new(at, [number; 10]),
        source: "porch".to_owned(),
        kind: EventKind::Movement,
        started: at,
        started_since_boot: None,
        ended: None,
        changed: Some(7),
        state: ArmState::Away,
        attachments: Vec::new(),
        rev: 1,
        own_mail: dms3_core::event::OwnMail::None,
    }
}

/// The next telling: with one more attachment.
fn with(mut event: Event, kind: AttachmentKind, bytes: &[u8]) -> Event {
    let name = format!("{}.bin", event.attachments.len());
    event.attachments.push(Attachment { kind, name, taken: event.started, length: bytes.len() as u64, hash: hash_of(bytes) });
    event.rev += 1;
    event
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// All that the coordinator does with events, in the order of a day. It knows nothing of SQLite: it is there for every backend.
async fn story(store: &Events, media: &Media) {
    let (picture, clip) = (jpeg(640, 480), vec![7; 100_000]);
    let keep = async |node, name, event: &Event, age: u64, now: Timestamp| {
        store.keep_event(media, node, name, event, now - Duration::from_secs(age), now).await
    };

    // Something moves at the porch, whose clock is an hour slow. The picture is announced, lost on the way, announced again, and comes.
    let porch = with(movement(1, T0 - HOUR), AttachmentKind::Picture, &picture);
    let kept = keep(PORCH, "porch-pi", &porch, 2, T0).await.unwrap();
    assert_eq!(kept, Kept { fresh: true, missing: vec![hash_of(&picture)] });
    let kept = keep(PORCH, "porch-pi", &porch, 9, T0 + Duration::from_secs(7)).await.unwrap();
    assert_eq!(kept, Kept { fresh: false, missing: vec![hash_of(&picture)] });
    media.keep(&mut file_of(&picture), 1 << 30).unwrap();
    assert!(store.keep_attachment(media, porch.id, hash_of(&picture), T0 + Duration::from_secs(8)).await.unwrap());

    // A small picture is made of it.
    assert_eq!(store.without_thumbnail(9).await.unwrap(), [hash_of(&picture)]);
    media.make_thumbnail(&hash_of(&picture)).unwrap();
    store.thumbnail_tried(hash_of(&picture), true).await.unwrap();
    assert_eq!(store.without_thumbnail(9).await.unwrap(), [] as [[u8; 32]; 0]);

    // It ends, with a clip; the camera got another name meanwhile.
    let mut ended = with(porch.clone(), AttachmentKind::Clip, &clip);
    ended.ended = Some(porch.started + Duration::from_secs(30));
    let kept = keep(PORCH, "front door", &ended, 40, T0 + Duration::from_secs(38)).await.unwrap();
    assert_eq!(kept, Kept { fresh: false, missing: vec![hash_of(&clip)] });
    media.keep(&mut file_of(&clip), 1 << 30).unwrap();
    assert!(store.keep_attachment(media, porch.id, hash_of(&clip), T0 + Duration::from_secs(60)).await.unwrap());

    let stored = store.event(porch.id).await.unwrap().unwrap();
    assert_eq!((stored.node, stored.camera.as_str(), stored.source.as_str()), (PORCH, "porch-pi", "porch"));
    assert_eq!((stored.started, stored.ended, stored.rev), (ended.started, ended.ended, ended.rev));
    assert_eq!((stored.began, stored.received_at), (T0 - Duration::from_secs(2), T0));
    assert_eq!((stored.changed, stored.state, stored.kind), (Some(7), ArmState::Away, EventKind::Movement));
    assert_eq!(stored.size, (picture.len() + clip.len()) as u64);
    let attachments: Vec<_> = stored.attachments.iter().map(|one| one.attachment.clone()).collect();
    assert_eq!(attachments, ended.attachments);
    let marks: Vec<_> = stored.attachments.iter().map(|one| (one.kept_at, one.thumbnail)).collect();
    let after = |secs| Some(T0 + Duration::from_secs(secs));
    assert_eq!(marks, [(after(8), Thumbnail::Made), (after(60), Thumbnail::Impossible)]);
    let json = serde_json::to_string(&stored).unwrap();
    assert_eq!(serde_json::from_str::<StoredEvent>(&json).unwrap(), stored);

    // The shed's camera is lost a minute later.
    let lost = Event { kind: EventKind::CameraLost, source: "shed".to_owned(), ..movement(2, T0 + Duration::from_secs(60)) };
    assert!(keep(SHED, "shed-pi", &lost, 0, T0 + Duration::from_secs(60)).await.unwrap().fresh);
    let all = store.events(&EventFilter::default()).await.unwrap();
    assert_eq!(all.iter().map(|event| event.id).collect::<Vec<_>>(), [lost.id, porch.id]);
    let counts = store.event_counts(T0, T0 + HOUR).await.unwrap();
    assert_eq!(counts, EventCounts { today: 1, week: 2, all: 2, unseen: 2, bytes: stored.size });

    // Ann looks at it; Bob does not.
    store.mark_seen(porch.id, "Ann", T0 + HOUR).await.unwrap();
    store.mark_seen(porch.id, "Ann", T0 + 2 * HOUR).await.unwrap();
    assert_eq!(store.event(porch.id).await.unwrap().unwrap().seen_by, ["Ann"]);
    for (who, unseen) in [("Ann", 1), ("Bob", 2)] {
        let filter = EventFilter { unseen_by: Some(who.to_owned()), ..EventFilter::default() };
        assert_eq!(store.events(&filter).await.unwrap().len(), unseen, "{who}");
    }

    // She removes it. Its camera, which did not hear that, tells of it once more.
    let unneeded = store.delete_event(porch.id, T0 + 2 * HOUR).await.unwrap();
    assert_eq!(store.discard(media, &unneeded).await.unwrap(), 2);
    assert_eq!(media.list().unwrap(), [] as [[u8; 32]; 0]);
    assert!(media.thumbnail(&hash_of(&picture)).is_err());
    assert_eq!(store.delete_event(porch.id, T0 + 2 * HOUR).await.unwrap(), [] as [[u8; 32]; 0]);
    ended.rev += 1;
    let kept = keep(PORCH, "front door", &ended, 9000, T0 + 3 * HOUR).await.unwrap();
    assert_eq!(kept, Kept { fresh: false, missing: Vec::new() });
    assert!(!store.keep_attachment(media, porch.id, hash_of(&clip), T0 + 3 * HOUR).await.unwrap());
    assert!(store.was_removed(PORCH, porch.id).await.unwrap() && !store.was_removed(PORCH, lost.id).await.unwrap());
    assert_eq!(store.event(porch.id).await.unwrap(), None);

    // A month later the rest goes by itself, and all of it can be told for a while.
    let later = T0 + 31 * 24 * HOUR;
    let removed = store.retention(Policy::default(), later, u64::MAX).await.unwrap();
    assert_eq!(removed, [Removed { event: lost.id, why: Why::Age, unneeded: Vec::new() }]);
    assert_eq!(store.retention(Policy::default(), later, u64::MAX).await.unwrap(), []);
    assert_eq!(store.event_counts(later, later).await.unwrap(), EventCounts::default());
    let removals = store.removals(T0).await.unwrap();
    let one = |why, bytes| Removals { why, events: 1, bytes };
    assert_eq!(removals, [one(Why::Age, 0), one(Why::Person, stored.size)]);
    store.prune(T0 + 24 * HOUR).await.unwrap();
    assert_eq!(store.removals(T0).await.unwrap(), [one(Why::Age, 0)]);
}

fn file_of(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[tokio::test]
async fn what_cameras_saw_is_kept_shown_and_let_go() {
    let house = House::new().await;
    story(&house.store, &house.media).await;
}

#[tokio::test]
async fn a_house_of_the_version_before_events_gets_room_for_them_and_its_store_knows_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path()).await.unwrap().close().await;
    assert!(!dir.path().join(EVENTS_FILE).exists());
    open(dir.path()).await.close().await;
    std::fs::write(dir.path().join(EVENTS_FILE), b"no events").unwrap();
    Store::open(dir.path()).await.unwrap().close().await;
    assert_eq!(std::fs::read(dir.path().join(EVENTS_FILE)).unwrap(), b"no events");
}

#[tokio::test]
async fn events_that_are_damaged_are_put_aside_with_their_pictures_and_told() {
    let House { dir, store, media } = House::new().await;
    let event = with(movement(1, T0), AttachmentKind::Picture, b"picture");
    store.keep_event(&media, PORCH, "porch-pi", &event, T0, T0).await.unwrap();
    let content = media.keep(&mut file_of(b"picture"), 100).unwrap();
    store.close().await;
    let path = dir.path().join(EVENTS_FILE);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let Opened { events, trouble } = Events::open(dir.path()).await.unwrap();
    let trouble = trouble.unwrap();
    for name in ["events.damaged-1", "media.damaged-1"] {
        assert!(trouble.contains(name) && dir.path().join(name).exists(), "{name}: {trouble}");
    }
    assert_eq!(std::fs::read(dir.path().join("events.damaged-1")).unwrap(), whole[..whole.len() / 2]);
    let media = Media::open(&dir.path().join(MEDIA_DIR)).unwrap();
    assert!(!media.has(&content.hash));
    // The camera that has not heard that it was kept tells of it again.
    assert!(events.keep_event(&media, PORCH, "porch-pi", &event, T0, T0).await.unwrap().fresh);
    media.keep(&mut file_of(b"picture"), 100).unwrap();
    events.close().await;
    // Somebody removes it.
    std::fs::remove_file(&path).unwrap();
    let trouble = Events::open(dir.path()).await.unwrap().trouble.unwrap();
    assert!(trouble.contains("was missing") && trouble.contains("media.damaged-2"), "{trouble}");
    assert_eq!(Events::open(dir.path()).await.unwrap().trouble, None);
}

#[tokio::test]
async fn writes_that_wait_together_share_a_commit_and_one_that_fails_takes_no_other_with_it() {
    let house = House::new().await;
    let told = house.told(PORCH, &movement(0, T0), T0).await;
    assert!(told.fresh);
    let events: Vec<_> = (0..20_u8).map(|number| movement(number, T0)).collect();
    // The connection is busy, as it is while the disk is.
    let busy = house.store.begin().await.unwrap();
    let tellings = events.iter().map(|event| house.store.keep_event(&house.media, SHED, "shed-pi", event, T0, T0));
    let (kept, ()) = tokio::join!(futures_util::future::join_all(tellings), async {
        tokio::task::yield_now().await;
        drop(busy);
    });
    let foreign = kept[0].as_ref().unwrap_err();
    assert_eq!(foreign.downcast_ref(), Some(&ForeignEvent(events[0].id)));
    assert!(kept[1..].iter().all(|kept| kept.as_ref().is_ok_and(|kept| kept.fresh)), "{kept:?}");
    assert_eq!(house.ids(&EventFilter::default()).await.len(), 20);
    assert_eq!(house.read(&events[0]).await.node, PORCH);
}

#[tokio::test]
async fn what_was_kept_outlives_a_power_cut() {
    let House { dir, store, media } = House::new().await;
    let event = with(movement(1, T0), AttachmentKind::Picture, b"picture");
    store.keep_event(&media, PORCH, "porch-pi", &event, T0, T0).await.unwrap();
    drop(store);
    let house = House { store: open(dir.path()).await, dir, media };
    // The picture was on the disk, and the power went before that was written down: the next telling finds it.
    house.write(b"picture");
    assert_eq!(house.told(PORCH, &event, T0 + HOUR).await.missing, [] as [[u8; 32]; 0]);
    let stored = house.read(&event).await;
    assert_eq!((stored.attachments[0].kept_at, stored.size), (Some(T0 + HOUR), 7));
    drop(house.dir);
}

#[tokio::test]
async fn events_are_found_by_time_camera_kind_and_page() {
    let house = House::new().await;
    let mut events = Vec::new();
    for number in 0..6_u8 {
        // Two at a time began at the same moment.
        let mut event = movement(number, T0 + HOUR * u32::from(number / 2));
        if number % 2 == 1 {
            event.source = "garden".to_owned();
            event.kind = EventKind::Snapshot;
        }
        house.told(PORCH, &event, T0 + 9 * HOUR).await;
        events.push(event.id);
    }
    let newest_first: Vec<_> = events.iter().rev().copied().collect();
    assert_eq!(house.ids(&EventFilter::default()).await, newest_first);
    let window = EventFilter { since: Some(T0 + HOUR), until: Some(T0 + 2 * HOUR), ..EventFilter::default() };
    assert_eq!(house.ids(&window).await, [events[3], events[2]]);
    for (camera, found) in [("garden", 3), ("porch-pi", 6), ("porch-pi/garden", 3), ("porch-pi/attic", 0), ("gar", 0), ("%", 0)] {
        assert_eq!(house.ids(&EventFilter { camera: Some(camera.to_owned()), ..EventFilter::default() }).await.len(), found, "{camera}");
    }
    assert_eq!(house.ids(&EventFilter { kind: Some(EventKind::Snapshot), ..EventFilter::default() }).await.len(), 3);
    let counts = house.store.counts_between(&[T0, T0 + HOUR, T0 + 3 * HOUR], None).await.unwrap();
    assert_eq!(counts, [2, 4]);
    assert_eq!(house.store.counts_between(&[T0, T0 + HOUR, T0 + 3 * HOUR], Some("porch-pi/garden")).await.unwrap(), [1, 2]);
    for (nth, id) in newest_first.iter().enumerate() {
        let (newer, older) = house.store.neighbours(*id).await.unwrap();
        assert_eq!((newer, older), (nth.checked_sub(1).map(|nth| newest_first[nth]), newest_first.get(nth + 1).copied()));
    }
    assert_eq!(house.store.neighbours(EventId([9; 16])).await.unwrap(), (None, None));
    // Page by page, although the last of each page is removed before the next one is asked for.
    let (mut pages, mut before) = (Vec::new(), None);
    loop {
        let page = house.store.events(&EventFilter { limit: 2, before, ..EventFilter::default() }).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.place());
        house.store.delete_event(last.id, T0).await.unwrap();
        pages.extend(page.iter().map(|event| event.id));
    }
    assert_eq!(pages, newest_first);
}

#[tokio::test]
async fn what_began_right_before_somebody_came_home_is_an_arrival_also_if_it_is_told_later() {
    let house = House::new().await;
    let second = Duration::from_secs(1);
    let at = |secs: u32| T0 + second * secs;
    let before = movement(1, at(9));
    let first = movement(2, at(10));
    house.told(PORCH, &before, at(11)).await;
    house.told(PORCH, &first, at(11)).await;
    house.store.note_arrival(at(10), at(40)).await.unwrap();
    let (late, after) = (movement(3, at(40)), movement(4, at(41)));
    let disarmed = Event { state: ArmState::Disarmed, ..movement(5, at(20)) };
    let lost = Event { kind: EventKind::CameraLost, ..movement(6, at(20)) };
    for event in [&late, &after, &disarmed, &lost] {
        house.told(PORCH, event, at(90)).await;
    }
    let mut arrivals = Vec::new();
    for event in [&before, &first, &late, &after, &disarmed, &lost] {
        arrivals.push(house.read(event).await.arrival);
    }
    assert_eq!(arrivals, [false, true, true, false, false, false]);
    let listed: Vec<_> = house.store.events(&EventFilter::default()).await.unwrap();
    assert_eq!(listed.iter().filter(|event| event.arrival).map(|event| event.id).collect::<Vec<_>>(), [late.id, first.id]);
}
