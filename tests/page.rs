//! The dashboard, as those who open it find it: the real coordinator over HTTPS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::protocol::events::{AttachmentV1, EventV1};
use dms3_core::protocol::frame::Message;
use dms3_core::protocol::message::HelloV1;
use dms3_node::clock::wall;
use dms3_node::mesh::transfer::send_event;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use reqwest::Method;

use crate::events::rogues::event;
use crate::events::{picture, said};
use crate::harness::{House, PASSWORD, Plan, Visitor, eventually, within};
use crate::insiders::Thief;
use crate::strangers::hello;

async fn house() -> House {
    House::planned(plan()).await
}

fn plan() -> Plan {
    Plan { web: Some(String::new()), ..Plan::default() }
}

/// Somebody whom the owner let in.
async fn guest(house: &House, owner: &Visitor, name: &str, role: &str) -> Visitor {
    let page = owner.submit("/accounts/add", &[("name", name), ("role", role), ("password", PASSWORD)]).await;
    assert_eq!(page.to, "/account", "{}", page.text);
    let visitor = house.visitor().await;
    let page = visitor.signs_in(name, PASSWORD).await;
    assert_eq!((page.status, page.to.as_str()), (303, "/"), "{}", page.text);
    visitor
}

#[tokio::test]
async fn the_first_visit_takes_the_code_and_makes_the_owner_and_nobody_learns_anything_before() {
    let house = house().await;
    let stranger = house.visitor().await;
    let first = stranger.get("/").await;
    assert_eq!((first.status, first.to.as_str(), first.text.as_str()), (303, "/set-up", ""));
    let set_up = async |code: &str, again: &str| {
        stranger.post("/set-up", &[("code", code), ("name", "Ann"), ("password", PASSWORD), ("again", again)]).await
    };
    assert!(set_up("0000-0000-0000", PASSWORD).await.has("This code is not right"));
    let code = house.setup_code().await;
    assert!(set_up(&code, "another one").await.has("The two passwords are not the same."));
    // As somebody types it from paper.
    let page = set_up(&code.replace('-', " ").to_lowercase(), PASSWORD).await;
    assert_eq!((page.status, page.to.as_str()), (303, "/"), "{}", page.text);
    let home = stranger.get("/").await;
    assert!(home.status == 200 && home.has("Armed · away") && home.has("Ann"), "{}", home.text);

    let late = house.visitor().await;
    assert_eq!(late.get("/set-up").await.to, "/sign-in");
    let refused = late.post("/set-up", &[("code", &code), ("name", "Eve"), ("password", PASSWORD), ("again", PASSWORD)]).await;
    assert!(refused.status == 403 && refused.has("This house has an owner already"), "{}", refused.text);
    let refused = house.coordinator.cli(&["web", "setup-code"]).await.bad();
    assert!(refused.contains("this house has an owner"), "{refused}");

    // Whoever forgot everything is root of the coordinator.
    let said = house.coordinator.cli(&["web", "reset-owner"]).await.good();
    assert!(said.contains("no owner any more") && said.contains(house.page_address().await.as_str()), "{said}");
    assert_eq!(stranger.get("/").await.to, "/set-up", "the old owner is out");
}

#[tokio::test]
async fn without_a_session_every_address_answers_nothing() {
    let house = house().await;
    let owner = house.owner().await;
    let home = owner.get("/").await;
    let stranger = house.visitor().await;
    let id = "01M8G6SRDTZMTB3GWKDC6X2ZYB";
    let hash = "0".repeat(64);
    let paths = [
        "/",
        "/updates",
        "/events",
        &format!("/events/{id}"),
        &format!("/events/{id}/file/{hash}"),
        "/cameras",
        "/nodes/add",
        "/phones",
        "/log",
        "/system",
        "/account",
        "/trust/ca.pem",
    ];
    for path in paths {
        let page = stranger.get(path).await;
        assert!(page.status == 303 && page.to.starts_with("/sign-in") && page.text.is_empty(), "{path}: {page:?}");
        let raw = stranger.ask(Method::GET, path, &[], String::new()).await;
        assert!(path == "/" || raw.status().as_u16() == 401, "{path}: {raw:?}");
    }
    for path in [
        "/arm",
        "/disarm",
        "/auto",
        "/sign-out",
        "/nodes/add",
        "/accounts/add",
        "/account/password",
        "/system/test-mail",
        "/phones/link",
        "/phones/answer",
        "/phones/forget",
    ] {
        assert_eq!(stranger.post(path, &[("csrf", home.csrf())]).await.status, 401, "{path}");
    }
    // Nor does a page that does not exist say that it does not.
    let missing = stranger.get("/no-such-page").await;
    assert!(missing.status == 404 && !missing.has("Ann"), "{missing:?}");
    let text = home.text.replace("&#x2f;", "/");
    let assets: Vec<&str> = text.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert!(assets.len() > 5, "{text}");
    for asset in assets {
        let answer = stranger.get(asset).await;
        assert_eq!(answer.status, 200, "{asset}");
        assert_eq!(answer.headers["cache-control"], "public, max-age=31536000, immutable");
    }
    assert_eq!(stranger.get("/assets/../../Cargo.toml").await.status, 404);
    for (name, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "same-origin")] {
        assert_eq!(home.headers[name], value);
    }
    assert!(home.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'; script-src 'self'"));
    assert_eq!(home.headers["cache-control"], "no-store");
    assert!(!home.headers.contains_key("strict-transport-security"));
    // A monitor of this machine.
    assert_eq!((stranger.get("/healthz").await.status, stranger.get("/healthz").await.text.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn a_member_arms_a_viewer_looks_and_only_an_owner_manages() {
    let house = house().await;
    let owner = house.owner().await;
    let (member, viewer) = (guest(&house, &owner, "Ben", "member").await, guest(&house, &owner, "Cleo", "viewer").await);
    for (visitor, may) in [(&owner, [true, true, true]), (&member, [true, true, false]), (&viewer, [true, false, false])] {
        let [sees, commands, manages] = may;
        let allowed = |page: &crate::harness::Page| page.status != 403;
        for path in ["/", "/events", "/cameras", "/log", "/system", "/account"] {
            assert_eq!(visitor.get(path).await.status == 200, sees, "{path}");
        }
        for path in ["/disarm", "/auto"] {
            assert_eq!(allowed(&visitor.submit(path, &[]).await), commands, "{path}");
        }
        assert_eq!(visitor.get("/nodes/add").await.status == 200, manages);
        assert_eq!(visitor.get("/phones").await.status == 200, manages);
        for path in [
            "/phones/link",
            "/phones/answer",
            "/phones/forget",
            "/nodes/add",
            "/nodes/x/rename",
            "/nodes/x/revoke",
            "/system/test-mail",
            "/accounts/nobody/role",
            "/accounts/nobody/remove",
        ] {
            assert_eq!(allowed(&visitor.submit(path, &[("role", "viewer")]).await), manages, "{path}");
        }
    }
    let refused = viewer.submit("/disarm", &[]).await;
    assert!(refused.has("Your account may not do this"), "{}", refused.text);
    assert!(!viewer.get("/").await.has("action=\"/disarm\""), "and no button says that he may");

    // A role counts at once, and the last owner stays.
    let page = owner.submit("/accounts/Ben/role", &[("role", "viewer")]).await;
    assert_eq!(page.to, "/account");
    assert_eq!(member.submit("/disarm", &[]).await.status, 403);
    owner.submit("/accounts/Ann/role", &[("role", "member")]).await;
    assert!(owner.get("/account").await.has("The house would have no owner"));
    owner.submit("/accounts/Cleo/remove", &[]).await;
    assert_eq!(viewer.get("/").await.to, "/sign-in");
}

#[tokio::test]
async fn armed_from_the_page_every_camera_watches_and_an_open_page_says_so() {
    let house = House::planned_with_cameras(plan(), ["porch"]).await;
    let owner = house.owner().await;
    let mut open = owner.watches("").await;
    open.hears("banner", "Disarmed").await;
    let page = owner.submit("/arm", &[("state", "away"), ("for", "2h"), ("now", "1"), ("back", "/")]).await;
    assert_eq!((page.status, page.to.as_str()), (303, "/"), "{}", page.text);
    open.hears("banner", "Armed · away").await;
    house.agrees(ArmState::Away).await;
    open.hears("confirm", "1 of 1</b> watching").await;
    let status = house.status().await;
    assert!(status.overridden && status.override_until.is_some());
    assert!(status.reason.contains("Ann"), "{}", status.reason);
    assert!(owner.get("/log").await.has("Ann"));
    owner.submit("/disarm", &[]).await;
    open.hears("banner", "Disarmed").await;
    house.agrees(ArmState::Disarmed).await;
    for nonsense in [&[("state", "disarmed")][..], &[("state", "")], &[("state", "away"), ("for", "3 days")]] {
        assert_eq!(owner.submit("/arm", nonsense).await.status, 400, "{nonsense:?}");
    }
    assert_eq!(house.status().await.state, ArmState::Disarmed);
}

#[tokio::test]
async fn a_hundred_open_pages_hear_what_is_decided_and_the_cameras_obey_all_the_same() {
    let plan = Plan { web: Some("connections_per_address = 200".to_owned()), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    let owner = house.owner().await;
    // All at once, as after a power cut.
    let mut open = futures_util::future::join_all((0..100).map(|_| owner.watches(""))).await;
    for page in &mut open {
        page.hears("banner", "Disarmed").await;
    }
    house.arm().await;
    house.agrees(ArmState::Away).await;
    for page in &mut open {
        page.hears("banner", "Armed · away").await;
    }
}

#[tokio::test]
async fn a_page_that_panics_harms_neither_the_house_nor_other_pages() {
    let house = House::planned_with_cameras(plan(), ["porch"]).await;
    let owner = house.owner().await;
    let mut open = owner.watches("").await;
    open.hears("banner", "Disarmed").await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    for _ in 0..20 {
        let page = owner.get("/debug/panic").await;
        assert!(page.status == 500 && page.has("The house goes on"), "{}", page.text);
    }
    house.is_unharmed_and_told(before, "making a page panicked: a test asked for it").await;
    assert_eq!(owner.get("/").await.status, 200);
    house.disarm().await;
    open.hears("banner", "Disarmed").await;
    assert_eq!(house.visitor().await.get("/debug/panic").await.to, "/sign-in?back=%2Fdebug%2Fpanic");
}

#[tokio::test]
async fn what_another_site_asks_for_in_somebodys_name_is_not_done() {
    let house = house().await;
    let owner = house.owner().await;
    let csrf = owner.get("/account").await.csrf().to_owned();
    let base = owner.base().to_owned();
    let other = "https://evil.example";
    let forged = [
        (vec![("origin", other), ("sec-fetch-site", "cross-site")], csrf.as_str()),
        (vec![("origin", other)], csrf.as_str()),
        (vec![("origin", "null")], csrf.as_str()),
        (vec![("sec-fetch-site", "same-site"), ("origin", base.as_str())], csrf.as_str()),
        (vec![("origin", base.as_str()), ("sec-fetch-site", "same-origin")], ""),
        (vec![("origin", base.as_str()), ("sec-fetch-site", "same-origin")], "a-guess"),
    ];
    let before = house.status().await;
    for (headers, csrf) in forged {
        let headers = [&headers[..], &[("content-type", "application/x-www-form-urlencoded")]].concat();
        let answer = owner.ask(Method::POST, "/disarm", &headers, format!("csrf={csrf}")).await;
        assert_eq!(answer.status().as_u16(), 403, "{headers:?} {csrf:?}");
    }
    let now = house.status().await;
    assert_eq!((now.rev, now.state), (before.rev, before.state));
    // Signed in by a stranger's page, as the stranger, somebody would show the stranger what he does.
    let headers = [("origin", other), ("content-type", "application/x-www-form-urlencoded")];
    let answer = owner.ask(Method::POST, "/sign-in", &headers, format!("name=Ann&password={PASSWORD}")).await;
    assert_eq!(answer.status().as_u16(), 403);
}

#[tokio::test]
async fn whoever_guesses_passwords_waits_is_told_of_and_locks_nobody_out() {
    let house = house().await;
    let owner = house.owner().await;
    let thief = house.visitor().await;
    for name in ["Ann", "nobody"] {
        let page = thief.signs_in(name, "wrong password").await;
        assert!(page.status == 403 && page.has("Name or password is wrong."), "{}", page.text);
    }
    let mut waits = false;
    // Each of our own tries waits as it is told to.
    within(Duration::from_secs(60), "the thief must wait", async || {
        let page = thief.signs_in("Ann", "wrong password").await;
        waits = page.status == 429 && page.has("Too many wrong tries");
        waits
    })
    .await;
    // The one address that both have here is slow for both; whoever is signed in notices nothing.
    assert_eq!(owner.get("/").await.status, 200);
    assert!(house.coordinator.told("a wrong name or password at the dashboard, from 127.0.0.1 (1 in a row)"));
    assert!(!house.coordinator.log().contains("wrong password\""), "what was tried is in no log");
    eventually("Ann comes in again after a while", async || {
        let again = house.visitor().await;
        again.signs_in("Ann", PASSWORD).await.status == 303
    })
    .await;
}

#[tokio::test]
async fn what_a_camera_saw_is_on_the_page_with_its_picture_until_somebody_deletes_it() {
    let house = House::planned_with_cameras(plan(), ["porch"]).await;
    let owner = house.owner().await;
    let mut open = owner.watches("").await;
    open.hears("events", "Nothing happened yet").await;
    let (porch, file) = (house.camera("porch"), house.dir().join("1-20261124080130-01.jpg"));
    image::RgbImage::from_pixel(640, 480, image::Rgb([90, 60, 200])).save(&file).unwrap();
    crate::events::good(said(porch, "event-start", "7"));
    crate::events::good(picture(porch, "7", "15360", &file));
    let event = house.has_events(1).await.remove(0);
    open.hears("events", "porch").await;
    let home = owner.get("/").await;
    let link = format!("/events/{}", event.id);
    assert!(home.has(&link), "{}", home.text);
    let page = owner.get(&link).await;
    assert!(page.status == 200 && page.has("<b>5 %</b>"), "{}", page.text);
    assert!(page.has("Why it was watching:") == event.state.is_armed(), "{}", page.text);
    let hash: String = event.attachments[0].attachment.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let url = format!("{link}/file/{hash}");
    assert!(page.has(&url.replace('/', "&#x2f;")) || page.has(&url), "{}", page.text);
    let bytes = std::fs::read(&file).unwrap();
    let whole = owner.ask(Method::GET, &url, &[], String::new()).await;
    assert_eq!((whole.status().as_u16(), whole.headers()["content-type"].to_str().unwrap()), (200, "image/jpeg"));
    assert_eq!(whole.bytes().await.unwrap(), bytes);
    let part = owner.ask(Method::GET, &url, &[("range", "bytes=10-19")], String::new()).await;
    assert_eq!(
        (part.status().as_u16(), part.headers()["content-range"].to_str().unwrap()),
        (206, format!("bytes 10-19/{}", bytes.len()).as_str())
    );
    assert_eq!(part.bytes().await.unwrap(), bytes[10..20]);
    for foreign in
        [format!("{link}/file/{}", "0".repeat(64)), format!("{link}/file/..%2f..%2fca%2froot.key"), format!("/events/x/file/{hash}")]
    {
        assert_eq!(owner.get(&foreign).await.status, 404, "{foreign}");
    }

    // A content that is there is no file of another event.
    let other = house.dir().join("2-20261124080230-01.jpg");
    image::RgbImage::from_pixel(640, 480, image::Rgb([9, 60, 20])).save(&other).unwrap();
    crate::events::good(said(porch, "event-start", "8"));
    crate::events::good(picture(porch, "8", "100", &other));
    let newer = house.has_events(2).await.remove(1);
    assert_eq!(owner.get(&format!("/events/{}/file/{hash}", newer.id)).await.status, 404);
    owner.submit(&format!("/events/{}/delete", newer.id), &[]).await;

    // Seen by one is not seen by the other.
    let ben = guest(&house, &owner, "Ben", "member").await;
    owner.submit(&format!("{link}/seen"), &[]).await;
    open.hears("events", "You have seen everything").await;
    assert!(ben.get("/").await.has(&link));
    assert_eq!(ben.submit(&format!("{link}/delete"), &[]).await.status, 403);
    owner.submit(&format!("{link}/delete"), &[]).await;
    assert_eq!(owner.get(&link).await.status, 404);
    assert_eq!(owner.ask(Method::GET, &url, &[], String::new()).await.status().as_u16(), 404);
    assert!(house.events().await.is_empty());
}

#[tokio::test]
async fn a_camera_is_paired_renamed_and_put_out_from_the_page() {
    let mut house = house().await;
    let owner = house.owner().await;
    let ben = guest(&house, &owner, "Ben", "member").await;
    owner.submit("/nodes/add", &[("name", "porch")]).await;
    let page = owner.get("/nodes/add").await;
    let word =
        page.text.split_whitespace().find_map(|text| text.split('>').nth(1).filter(|text| text.starts_with("dms31"))).expect("a word");
    let word = word.split('<').next().unwrap().to_owned();
    assert!(page.has("<svg") && page.has("sudo dms3-node enroll"));
    let mut open = owner.watches("?parts=state,pairing").await;
    open.hears("pairing", "Waiting for the camera").await;
    house.add_camera_by("porch", &word).await;
    open.hears("pairing", "is here, and obeys").await;
    assert!(!ben.get("/").await.has("dms31"), "nobody else sees the word");
    let id = house.node_of(house.camera("porch"));
    owner.submit(&format!("/nodes/{id}/rename"), &[("name", "<b>Haustür</b> 🚪")]).await;
    let home = owner.get("/").await;
    assert!(home.has("&lt;b&gt;Haustür&lt;&#x2f;b&gt; 🚪") && !home.has("<b>Haustür"), "{}", home.text);
    let node = owner.get(&format!("/nodes/{id}")).await;
    assert!(node.status == 200 && node.has("Revoke for good"), "{}", node.text);
    owner.submit(&format!("/nodes/{id}/revoke"), &[]).await;
    assert!(owner.get("/").await.has("is out of the house for good"));
    eventually("it is out", async || house.coordinator.told("revoked node")).await;
    assert_eq!(owner.get("/nodes/no-such-node").await.status, 404);
}

#[tokio::test]
async fn a_session_that_is_ended_closes_its_open_pages_and_one_that_lives_outlives_the_coordinator() {
    let house = house().await;
    let owner = house.owner().await;
    let phone = house.visitor().await;
    assert_eq!(phone.signs_in("Ann", PASSWORD).await.status, 303);
    let mut open = phone.watches("").await;
    open.hears("banner", "Armed").await;
    let account = owner.get("/account").await;
    let end = account.text.split('"').find(|text| text.contains("sessions") && text.ends_with("end")).expect("a session to end");
    owner.submit(&end.replace("&#x2f;", "/"), &[]).await;
    open.ends().await;
    assert_eq!(phone.get("/").await.to, "/sign-in");

    let changed = [("old", PASSWORD), ("password", "another long password"), ("again", "another long password")];
    assert_eq!(owner.submit("/account/password", &changed).await.to, "/account");
    house.coordinator.restart().await;
    house.answers().await;
    house.page_address().await;
    assert_eq!(owner.get("/").await.status, 200, "who was signed in still is");
    assert_eq!(phone.signs_in("Ann", PASSWORD).await.status, 403, "the old password is none");
}

#[tokio::test]
async fn whatever_a_stolen_camera_calls_itself_and_its_files_is_text_on_every_page() {
    let presence = "[coordinator.presence]\n[[coordinator.presence.person]]\nname = \"<i>Eve</i>\"\ndevices = [\"24:da:9b:00:00:09\"]\n";
    let house = House::planned_with_cameras(Plan { presence: Some(presence.to_owned()), ..plan() }, ["porch"]).await;
    let owner = house.owner().await;
    let porch = house.camera("porch");
    let node = house.node_of(porch);
    porch.stop().await;
    let thief = Thief::of(&house, porch);
    let (connection, mut link) = thief.connect().await;
    let script = || "<script>alert(1)</script>".to_owned();
    let hello = HelloV1 {
        hostname: script(),
        version: script(),
        os: script(),
        platform: script(),
        kernel: script(),
        sources: vec!["<b>cam</b>".to_owned(), "\" onload=\"alert(1)".to_owned()],
        ..hello(thief.identity.mesh())
    };
    link.sender.send(&Message::Hello(hello)).await.unwrap();
    let now = wall();
    let attachment = AttachmentV1 { kind: 1, name: "\"><img src=x onerror=alert(1)>.jpg".to_owned(), taken: now, length: 3, hash: [1; 32] };
    let event = EventV1 { source: "<b>cam</b>".to_owned(), ..event(vec![attachment]) };
    let id = event.id;
    send_event(&connection, event).await.unwrap();
    eventually("the event is there", async || owner.get(&format!("/events/{id}")).await.status == 200).await;
    let mut open = owner.watches("").await;
    open.hears("nodes", "porch").await;
    for path in ["/", "/events", &format!("/events/{id}"), "/cameras", &format!("/nodes/{node}"), "/log", "/system", "/nodes/add"] {
        let page = owner.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        for marked_up in ["<script>alert", "<i>Eve", "<b>cam", "<img src=x", "\" onload"] {
            assert!(!page.has(marked_up), "{marked_up} on {path}: {}", page.text);
        }
    }
    let home = owner.get(&format!("/nodes/{node}")).await;
    assert!(home.has("&lt;script&gt;alert(1)"), "{}", home.text);
    assert!(owner.get("/").await.has("&lt;i&gt;Eve"));
}

/// Speaks to the port itself.
fn raw(house_address: &str) -> TcpStream {
    let address = house_address.trim_start_matches("https://");
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream
}

#[tokio::test]
async fn strangers_who_hold_the_port_keep_nobody_from_the_page_and_change_nothing() {
    let house =
        House::planned_with_cameras(Plan { web: Some("connections_per_address = 40".to_owned()), ..Plan::default() }, ["porch"]).await;
    let owner = house.owner().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    let before = house.standing().await;
    let address = house.page_address().await;
    let mut idle: Vec<TcpStream> = (0..500).map(|_| raw(&address)).collect();
    // Garbage, and HTTP where TLS is spoken.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 4096]] {
        raw(&address).write_all(bytes).ok();
    }
    house.is_unharmed(before).await;
    // More than one address may have were closed at once; the rest goes by itself, since they say nothing.
    within(Duration::from_secs(40), "the page is there again", async || {
        let page = tokio::time::timeout(Duration::from_secs(2), owner_page(&owner)).await;
        matches!(page, Ok(Some(200)))
    })
    .await;
    let closed = idle.iter_mut().map(|stream| stream.read(&mut [0; 16])).filter(|read| matches!(read, Ok(0) | Err(_))).count();
    assert!(closed >= 460, "{closed} were closed");
    house.is_unharmed(before).await;
    for (path, headers) in [("/", vec![("x-long", "a".repeat(100_000))]), ("/sign-in", vec![])] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = "a".repeat(10 << 20);
        let answer = owner.try_ask(Method::POST, path, &headers, body).await;
        assert!(answer.is_none_or(|status| status >= 400), "{path}");
    }
    house.is_unharmed(before).await;
}

async fn owner_page(owner: &Visitor) -> Option<u16> {
    owner.try_ask(Method::GET, "/", &[("accept", "text/html")], String::new()).await
}

#[tokio::test]
async fn a_users_own_templates_are_shown_and_a_broken_one_is_named_and_ours_shown() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::planned(Plan { web: Some(format!("template_dir = {:?}", dir.path())), ..Plan::default() }).await;
    let pages = dir.path().join("ours");
    house.coordinator.cli(&["web", "templates", "export", pages.to_str().unwrap()]).await.good();
    let people = std::fs::read_to_string(pages.join("parts/people.html")).unwrap();
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    std::fs::write(dir.path().join("parts/people.html"), format!("<p>Wer da ist</p>{people}")).unwrap();
    std::fs::write(dir.path().join("parts/why.html"), "{{ no.such.thing }}").unwrap();
    let owner = house.owner().await;
    eventually("an edit counts, without a restart", async || owner.get("/").await.has("<p>Wer da ist</p>")).await;
    let home = owner.get("/").await;
    assert!(home.status == 200 && home.has("All decisions") && home.has("why.html cannot be used"), "{}", home.text);
    assert!(house.coordinator.told("why.html cannot be used"));
    let again = house.coordinator.cli(&["web", "templates", "export", pages.to_str().unwrap()]).await.bad();
    assert!(again.contains("is not empty"), "{again}");
}

#[tokio::test]
async fn the_certificate_that_phones_are_to_trust_is_given_out_by_page_and_command() {
    let house = house().await;
    let owner = house.owner().await;
    let page = owner.get("/trust/ca.pem").await;
    assert_eq!(page.headers["content-type"], "application/x-x509-ca-cert");
    assert!(page.text.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(house.coordinator.cli(&["ca", "export", "--web"]).await.good(), page.text);
    let file = house.dir().join("house.pem");
    let said = house.coordinator.cli(&["ca", "export", "--web", file.to_str().unwrap()]).await.good();
    for kind in ["iPhone", "Android", "Firefox"] {
        assert!(said.contains(kind), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), page.text);
    let refused = house.coordinator.cli(&["ca", "export", "--web", file.to_str().unwrap()]).await.bad();
    assert!(refused.contains("exists already"), "{refused}");
    assert!(owner.get("/system").await.has("Download the certificate"));
}

/// Of the user's own: for this machine, by nobody but himself.
fn own_certificate(dir: &Path, name: &str) -> (PathBuf, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let path = dir.join(format!("{name}.pem"));
    std::fs::write(&path, certificate.pem()).unwrap();
    (path, key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_of_the_users_own_is_shown_and_a_new_one_without_a_restart_and_a_broken_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let (shown, key) = (dir.path().join("shown.pem"), dir.path().join("shown.key"));
    let ((old, old_key), (new, new_key)) = (own_certificate(dir.path(), "old"), own_certificate(dir.path(), "new"));
    let shows = |certificate: &Path, its_key: &str| {
        std::fs::copy(certificate, &shown).unwrap();
        std::fs::write(&key, its_key).unwrap();
    };
    shows(&old, &old_key);
    let house = House::planned(Plan { web: Some(format!("certificate = {shown:?}\nkey = {key:?}")), ..Plan::default() }).await;
    let pid = house.coordinator.pid();
    let opens = async |trusted: &Path| house.visitor_who_trusts(trusted).await.try_ask(Method::GET, "/sign-in", &[], String::new()).await;
    assert!(opens(&old).await.is_some() && opens(&new).await.is_none());
    // It is looked at every half minute.
    let looked_at = Duration::from_secs(60);
    shows(&old, "no key at all");
    within(looked_at, "a broken one is told", async || house.coordinator.told("the one before stays")).await;
    assert!(opens(&old).await.is_some(), "and the one before is shown");
    shows(&new, &new_key);
    within(looked_at, "the new one is shown", async || opens(&new).await.is_some()).await;
    assert!(opens(&old).await.is_none());
    assert_eq!(house.coordinator.pid(), pid);
}
