use std::net::IpAddr;

use dms3_core::arming::ArmState;
use dms3_core::conduct::Twice;
use dms3_core::coordinator::{Decision, MemoryV1};
use dms3_core::dashboard::{LearnedDevice, PersonView};
use dms3_core::enrollment::{BAD_SIGNATURES, DEFAULT_TTL, Redeemed, TokenRow};
use dms3_core::id::{MeshId, NodeId, TokenId};
use dms3_core::presence::{Device, MacAddr, Presence, Sensor};
use dms3_core::protocol::message::{DenyCode, SignedStateV1, StateV1};
use dms3_core::request::AuditKind;
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow};

use super::*;

const T0: Timestamp = Timestamp::from_secs(1_795_000_000);
const HOUSE: NodeId = NodeId([9; 32]);
const PORCH: NodeId = NodeId([1; 32]);
const SHED: NodeId = NodeId([2; 32]);

fn coordinator() -> RosterRow {
    RosterRow {
        node: HOUSE,
        role: NodeRole::Coordinator,
        name: "house".to_owned(),
        status: NodeStatus::Active,
        enrolled_at: T0,
        revoked_at: None,
        token: None,
    }
}

fn token(byte: u8, uses: u32) -> TokenRow {
    TokenRow {
        id: TokenId([byte; 5]),
        key: [7; 32],
        name: None,
        issued_at: T0,
        expires_at: T0 + DEFAULT_TTL,
        uses,
        used_by: Vec::new(),
        stored_by: Vec::new(),
        bad_signatures: 0,
        cancelled: false,
    }
}

fn memory(rev: u64, state: ArmState) -> (MemoryV1, SignedStateV1) {
    let state = StateV1 {
        mesh: MeshId([3; 10]),
        epoch: 1,
        rev,
        state: state.to_wire(),
        reason: "everybody left".to_owned(),
        since: T0,
        until: None,
        windows: Vec::new(),
        zone: "Europe/Berlin".to_owned(),
    };
    let memory = MemoryV1 {
        by_presence: state.state,
        state,
        reason: "Ann left".to_owned(),
        over: None,
        pending: None,
        restored: false,
        by_window: 0,
    };
    (memory, SignedStateV1 { payload: vec![1, 2, 3], signer: [4; 32], signature: vec![5; 64] })
}

fn decision(rev: u64, at: Timestamp, reason: &str) -> Decision {
    let seen = |name: &str| PersonView {
        name: name.to_owned(),
        presence: Presence::Home,
        last_seen: Some(at),
        device: Some("24:da:9b:0d:53:8f".to_owned()),
        sensor: Some(Sensor::ArpProbe),
        devices: 1,
        away_secs: 300,
        counts: true,
    };
    Decision { at, epoch: 1, rev, state: ArmState::Disarmed, reason: reason.to_owned(), evidence: vec![seen("Ann"), seen("Bob")] }
}

fn granted(redemption: Redemption) -> (Redeemed, RosterRow) {
    match redemption {
        Redemption::Granted(redeemed, row) => (redeemed, row),
        denied @ Redemption::Denied { .. } => panic!("{denied:?}"),
    }
}

fn denied(redemption: &Redemption) -> DenyCode {
    match redemption {
        Redemption::Denied { code, .. } => *code,
        granted @ Redemption::Granted(..) => panic!("{granted:?}"),
    }
}

#[tokio::test]
async fn the_story_of_a_house_is_kept_through_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    assert_eq!(store.memory().await.unwrap(), None);
    store.add_node(&coordinator()).await.unwrap();

    // Two cameras by one token; the second has the same host name.
    store.insert_token(&token(1, 2)).await.unwrap();
    let (redeemed, porch) = granted(store.redeem(TokenId([1; 5]), PORCH, true, "raspberrypi", T0).await.unwrap());
    assert_eq!((redeemed, porch.name.as_str()), (Redeemed::Fresh, "raspberrypi"));
    let (redeemed, again) = granted(store.redeem(TokenId([1; 5]), PORCH, true, "other", T0).await.unwrap());
    assert_eq!((redeemed, &again), (Redeemed::Again, &porch));
    let (_, shed) = granted(store.redeem(TokenId([1; 5]), SHED, true, "raspberrypi", T0).await.unwrap());
    assert_eq!(shed.name, "raspberrypi 2");
    assert_eq!(denied(&store.redeem(TokenId([1; 5]), NodeId([3; 32]), true, "x", T0).await.unwrap()), DenyCode::Token);
    store.stored(TokenId([1; 5]), PORCH, T0).await.unwrap();
    store.stored(TokenId([1; 5]), PORCH, T0).await.unwrap();
    assert_eq!(store.token(TokenId([1; 5])).await.unwrap().unwrap().stored_by, [PORCH]);

    // Names.
    assert_eq!(store.rename(SHED, " shed ", T0).await.unwrap().name, "shed");
    assert!(store.rename(PORCH, "Shed", T0).await.is_err());
    assert!(store.rename(NodeId([3; 32]), "nobody", T0).await.is_err());

    // State and decisions.
    let (first, signed) = memory(7, ArmState::Away);
    store.save(&first, &signed, &[decision(7, T0, "Ann left, Annabel stayed")], T0).await.unwrap();
    let (second, signed) = memory(8, ArmState::Disarmed);
    store.save(&second, &signed, &[], T0).await.unwrap();

    // Where phones were.
    let phone = Device::Mac(MacAddr::parse("24:da:9b:0d:53:8f").unwrap());
    let tablet = Device::Host("tablet.lan".to_owned());
    let address: IpAddr = "192.168.1.20".parse().unwrap();
    store.remember_address(&phone, "192.168.1.19".parse().unwrap(), T0).await.unwrap();
    store.remember_address(&phone, address, T0 + Duration::from_secs(1)).await.unwrap();
    store.remember_address(&tablet, "fe80::1".parse().unwrap(), T0).await.unwrap();

    // A power cut: nothing is closed.
    drop(store);
    let store = Store::open(dir.path()).await.unwrap();
    let rows = store.roster().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["raspberrypi", "shed", "house"]);
    let remembered = store.memory().await.unwrap().unwrap();
    assert_eq!((remembered.memory, remembered.signed, remembered.saved_at), (second, signed, T0));
    assert_eq!(store.decisions(T0).await.unwrap(), [decision(7, T0, "Ann left, Annabel stayed")]);
    assert_eq!(store.last_decisions(3, Some(T0)).await.unwrap(), store.decisions(T0).await.unwrap());
    assert!(store.last_decisions(0, None).await.unwrap().is_empty());
    assert!(store.last_decisions(3, Some(T0 - Duration::from_millis(1))).await.unwrap().is_empty());
    assert_eq!(
        store.known_addresses(T0).await.unwrap(),
        [(phone.clone(), address, T0 + Duration::from_secs(1)), (tablet.clone(), "fe80::1".parse().unwrap(), T0)]
    );

    // Somebody moves out.
    assert_eq!(store.forget("Ann", std::slice::from_ref(&phone), T0).await.unwrap(), 2);
    let log = store.decisions(T0).await.unwrap();
    assert_eq!(log[0].reason, "somebody left, Annabel stayed");
    assert_eq!(log[0].evidence.iter().map(|view| view.name.as_str()).collect::<Vec<_>>(), ["Bob"]);
    assert_eq!(store.known_addresses(T0).await.unwrap().len(), 1);

    // A camera is stolen: it is out, with every token that it could come back by.
    let revocation = store.revoke(SHED, T0).await.unwrap();
    assert_eq!((revocation.row.status, revocation.cancelled), (NodeStatus::Revoked, vec![TokenId([1; 5])]));
    assert_eq!(store.revoke(SHED, T0).await.unwrap().cancelled, []);
    assert!(store.revoke(HOUSE, T0).await.is_err(), "the coordinator cannot put itself out");
    assert_eq!(denied(&store.redeem(TokenId([1; 5]), PORCH, true, "x", T0).await.unwrap()), DenyCode::Token);
    store.insert_token(&token(2, 1)).await.unwrap();
    assert_eq!(denied(&store.redeem(TokenId([2; 5]), SHED, true, "x", T0).await.unwrap()), DenyCode::Revoked);
    // An honest camera that is paired again keeps its name.
    let (_, porch) = granted(store.redeem(TokenId([2; 5]), PORCH, true, "x", T0).await.unwrap());
    assert_eq!((porch.name.as_str(), porch.token), ("raspberrypi", Some(TokenId([2; 5]))));

    // Tokens end.
    store.insert_token(&token(3, 1)).await.unwrap();
    assert!(store.cancel_token(TokenId([3; 5]), T0).await.unwrap().cancelled);
    assert!(store.cancel_token(TokenId([8; 5]), T0).await.is_err());
    assert_eq!(denied(&store.redeem(TokenId([3; 5]), PORCH, true, "x", T0).await.unwrap()), DenyCode::Token);
    assert_eq!(store.tokens().await.unwrap().len(), 3);

    // Time passes.
    let later = T0 + Duration::from_secs(8 * 86_400);
    store.prune(Keep::default(), later).await.unwrap();
    assert_eq!(store.known_addresses(T0).await.unwrap(), []);
    assert_eq!(store.decisions(T0).await.unwrap().len(), 1);
    store.prune(Keep::default(), T0 + Duration::from_secs(31 * 86_400)).await.unwrap();
    assert_eq!(store.decisions(T0).await.unwrap(), []);
    store.prune(Keep::default(), T0 + Duration::from_secs(400 * 86_400)).await.unwrap();
    assert_eq!(store.tokens().await.unwrap(), []);
    let rows = store.roster().await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.status == NodeStatus::Revoked).count(), 1, "a revocation lasts");
}

#[tokio::test]
async fn what_happens_to_the_authority_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    store.insert_token(&token(1, 1)).await.unwrap();
    for attempt in 1..=BAD_SIGNATURES + 2 {
        let redemption = store.redeem(TokenId([1; 5]), PORCH, false, "x", T0).await.unwrap();
        let Redemption::Denied { code, locked_now } = redemption else { panic!("let in without the secret") };
        assert_eq!(locked_now, attempt == BAD_SIGNATURES, "attempt {attempt}");
        assert_eq!(code == DenyCode::Locked, attempt >= BAD_SIGNATURES, "attempt {attempt}");
    }
    assert_eq!(denied(&store.redeem(TokenId([1; 5]), PORCH, true, "x", T0).await.unwrap()), DenyCode::Locked);
    assert_eq!(store.roster().await.unwrap(), []);
    let kinds: Vec<AuditKind> = store.audit(T0).await.unwrap().into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds.first(), Some(&AuditKind::TokenMade));
    assert_eq!(kinds.iter().filter(|kind| **kind == AuditKind::BadSignature).count(), 10);
    assert_eq!(kinds.last(), Some(&AuditKind::TokenLocked));
}

#[tokio::test]
async fn that_two_machines_use_an_identity_is_kept_until_a_person_clears_or_revokes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).await.unwrap();
    store.add_node(&RosterRow { node: PORCH, role: NodeRole::Camera, name: "porch".to_owned(), ..coordinator() }).await.unwrap();
    let twice = Twice { at: T0, one: "10.0.0.1".to_owned(), other: "10.0.0.2".to_owned() };
    for person in ["clears", "revokes"] {
        store.mark(PORCH, &twice).await.unwrap();
        store.mark(PORCH, &twice).await.unwrap();
        store.close().await;
        store = Store::open(dir.path()).await.unwrap();
        assert_eq!(store.marks().await.unwrap(), [(PORCH, twice.clone())]);
        match person {
            "clears" => store.clear(PORCH, "anna", T0).await.unwrap(),
            _ => drop(store.revoke(PORCH, T0).await.unwrap()),
        }
        assert_eq!(store.marks().await.unwrap(), [], "{person}");
    }
    store.mark(PORCH, &twice).await.unwrap();
    assert_eq!(store.marks().await.unwrap(), [], "who is out needs no mark");
    assert!(store.clear(SHED, "anna", T0).await.is_err());
    let told: Vec<_> = store.audit(T0).await.unwrap().into_iter().map(|entry| (entry.kind, entry.detail)).collect();
    assert_eq!(told[1], (AuditKind::UsedTwice, "porch at 10.0.0.1 and at 10.0.0.2".to_owned()));
    assert!(told.contains(&(AuditKind::Cleared, "porch by anna".to_owned())), "{told:?}");
}

#[tokio::test]
async fn what_the_house_learned_is_kept_through_a_restart_until_it_or_its_person_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    let device = |person: &str, n| LearnedDevice {
        person: person.to_owned(),
        device: Device::Mac(MacAddr([0xda, 0, 0, 0, 0, n])),
        at: T0,
        by: "root".to_owned(),
    };
    let [anna, ben] = [device("Anna", 1), device("Ben", 3)];
    let annas = LearnedDevice { device: Device::Bluetooth(MacAddr([0xda, 0, 0, 0, 0, 2])), ..device("Anna", 2) };
    for one in [&anna, &annas, &ben] {
        store.learn(one).await.unwrap();
    }
    let error = store.learn(&device("Ben", 1)).await.unwrap_err();
    assert!(error.to_string().contains("da:00:00:00:00:01"), "{error:#}");
    store.close().await;
    let store = Store::open(dir.path()).await.unwrap();
    assert_eq!(store.learned().await.unwrap(), [annas.clone(), anna.clone(), ben.clone()]);
    assert_eq!(store.unlearn(&anna.device, "Ann", T0).await.unwrap().as_deref(), Some("Anna"));
    assert_eq!(store.unlearn(&anna.device, "Ann", T0).await.unwrap(), None);
    let said: Vec<_> = store.audit(T0).await.unwrap().into_iter().map(|entry| (entry.kind, entry.detail)).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(said[0], (AuditKind::DeviceLearned, "Anna: da:00:00:00:00:01, by root".to_owned()));
    assert_eq!(said[3], (AuditKind::DeviceForgotten, "Anna: da:00:00:00:00:01, by Ann".to_owned()));

    store.forget("Anna", &[], T0).await.unwrap();
    assert_eq!(store.learned().await.unwrap(), [ben]);
    let said: Vec<_> = store.audit(T0).await.unwrap().into_iter().map(|entry| entry.detail).collect();
    assert!(said.iter().all(|detail| !detail.contains("Anna") && !detail.contains("da:00:00:00:00:02")), "{said:?}");
    assert!(said.contains(&"Ben: da:00:00:00:00:03, by root".to_owned()), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_nodes_at_once_exactly_one_wins_a_single_use_token() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    // A second process' worth of connection: the database itself must hold this, not our pool.
    let other = Store::open(dir.path()).await.unwrap();
    store.insert_token(&token(1, 1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for byte in 10..30 {
        let store = if byte % 2 == 0 { store.clone() } else { other.clone() };
        tasks.spawn(async move { store.redeem(TokenId([1; 5]), NodeId([byte; 32]), true, "pi", T0).await.unwrap() });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|one| matches!(one, Redemption::Granted(..))).count(), 1);
    assert_eq!(store.roster().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_enrollment_that_is_cut_off_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    store.insert_token(&token(1, 1)).await.unwrap();
    for polls in 0..40 {
        // Dropped after so many polls: wherever that is, all of it happened or nothing did.
        let mut redeem = Box::pin(store.redeem(TokenId([1; 5]), PORCH, true, "pi", T0));
        for _ in 0..polls {
            let outcome = tokio::select! { biased; outcome = &mut redeem => Some(outcome), () = tokio::task::yield_now() => None };
            if outcome.is_some() {
                break;
            }
        }
        drop(redeem);
        let used = store.token(TokenId([1; 5])).await.unwrap().unwrap().used_by.len();
        assert_eq!(used, store.roster().await.unwrap().len(), "after {polls} polls");
    }
}

#[tokio::test]
async fn a_store_is_made_once_and_only_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    store.add_node(&coordinator()).await.unwrap();
    let error = Store::create(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error:#}");
    assert_eq!(store.roster().await.unwrap(), [coordinator()]);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_missing_emptied_foreign_or_damaged_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    let error = Store::open(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("store.db is missing"), "{error:#}");
    assert!(!path.exists());

    let store = Store::create(dir.path()).await.unwrap();
    for byte in 0..60 {
        store.insert_token(&token(byte, 1)).await.unwrap();
    }
    store.close().await;
    let good = std::fs::read(&path).unwrap();
    let mut torn = good.clone();
    for byte in torn.iter_mut().skip(4096).take(8192) {
        *byte = 0xa5;
    }
    // A page of rows alone, which nobody reads at the start.
    let mut last = good.clone();
    for byte in last.iter_mut().rev().take(4096) {
        *byte = 0xa5;
    }
    let mut foreign = good.clone();
    foreign[68..72].fill(0);
    let short = good[..good.len() / 2].to_vec();
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("zeros", vec![0; 8192]),
        ("text", b"hello".repeat(2000)),
        ("torn", torn),
        ("last page", last),
        ("foreign", foreign),
        ("short", short),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(dir.path()).await.err().unwrap_or_else(|| panic!("{what} was opened"));
        assert!(error.to_string().contains("is damaged or no store"), "{what}: {error:#}");
        assert!(error.to_string().contains("restore it from a backup"), "{what}: {error:#}");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(Store::open(dir.path()).await.unwrap().tokens().await.unwrap().len(), 60);
}

#[tokio::test]
async fn a_flipped_bit_in_the_memory_of_the_house_is_no_disarm() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    let (memory, signed) = memory(7, ArmState::Away);
    store.save(&memory, &signed, &[], T0).await.unwrap();
    let bytes: Vec<u8> = sqlx::query_scalar("SELECT memory FROM memory").fetch_one(&store.pool).await.unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        sqlx::query("UPDATE memory SET memory = $1").bind(flipped).execute(&store.pool).await.unwrap();
        assert!(store.memory().await.is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         VALUES (999, 'later', '2030-01-01', 1, x'00', 0)",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    store.close().await;
    let error = Store::open(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error:#}");
}

/// A journal that is damaged is dropped without a word.
#[tokio::test]
async fn who_was_revoked_stays_so_without_the_journal_too() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::create(dir.path()).await.unwrap();
    store.add_node(&coordinator()).await.unwrap();
    let token = token(1, 2);
    store.insert_token(&token).await.unwrap();
    for node in [PORCH, SHED] {
        store.redeem(token.id, node, true, "pi", T0).await.unwrap();
    }
    store.revoke(SHED, T0).await.unwrap();
    // While the house lives: nothing was closed.
    std::fs::copy(dir.path().join(STORE_FILE), other.path().join(STORE_FILE)).unwrap();
    let roster = Store::open(other.path()).await.unwrap().roster().await.unwrap();
    assert_eq!(roster.iter().find(|row| row.node == SHED).map(|row| row.status), Some(NodeStatus::Revoked), "{roster:?}");
    assert!(roster.iter().any(|row| row.node == PORCH && row.status == NodeStatus::Active));
}

#[tokio::test]
async fn a_wrong_bit_in_the_key_of_a_node_puts_nobody_out_of_the_house() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).await.unwrap();
    store.add_node(&coordinator()).await.unwrap();
    store.close().await;
    let file = dir.path().join(STORE_FILE);
    let whole = std::fs::read(&file).unwrap();
    let places: Vec<_> = whole.windows(32).enumerate().filter(|(_, bytes)| *bytes == HOUSE.0).map(|(at, _)| at).collect();
    assert!(places.len() >= 2, "in the table and in its index: {places:?}");
    for at in &places[..2] {
        let mut bytes = whole.clone();
        bytes[at + 7] ^= 4;
        std::fs::write(&file, bytes).unwrap();
        let why = format!("{:#}", Store::open(dir.path()).await.unwrap_err());
        assert!(why.contains("store.db is damaged") && why.contains("restore it from a backup"), "{why}");
    }
    std::fs::write(&file, whole).unwrap();
    Store::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_bit_in_the_list_of_what_a_file_went_through_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path()).await.unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET checksum = X'00'").execute(&store.pool).await.unwrap();
    store.close().await;
    let why = format!("{:#}", Store::open(dir.path()).await.unwrap_err());
    assert!(why.contains("store.db is damaged") && why.contains("restore it from a backup"), "{why}");
}

#[test]
fn a_disk_without_room_is_known_by_whatever_sqlite_says_of_it() {
    for words in ["(code: 13) database or disk is full", "error returned from database: (code: 4874) disk I/O error"] {
        assert!(is_full(&anyhow::anyhow!(words).context("cannot write to the store")), "{words}");
    }
    assert!(!is_full(&anyhow::anyhow!("error returned from database: (code: 778) disk I/O error")));
}
