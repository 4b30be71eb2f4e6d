//! What was seen and what is wrong reaches the family by mail, whatever the mail server does.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use dms3_core::arming::ArmState;
use dms3_core::event::EventKind;
use dms3_core::protocol::message::DenyCode;
use dms3_node::clock::{calendar, wall};
use dms3_pki::{NodeKey, TokenWord};
use image::ImageFormat;
use mail_parser::{Message, MessageParser, MimeHeaders as _, PartType};

use crate::events::{good, jpeg, picture, said, sized_jpeg};
use crate::faults::SmallDisk;
use crate::harness::skip::cannot_make_networks;
use crate::harness::smtp::{MailServer, header};
use crate::harness::{House, Plan, eventually, within};
use crate::strangers::{answer, begin, denied};

/// An armed house that mails.
pub(crate) async fn mailing_house(server: &MailServer, more: &str) -> House {
    let house = House::with_cameras(["porch"]).await;
    house.coordinator.configure(&server.section(more));
    house.coordinator.restart().await;
    house.answers().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

/// "multipart/alternative{text/plain text/html}"
fn shape(mail: &Message<'_>, part: u32) -> String {
    let part = &mail.parts[part as usize];
    let kind = part.content_type().unwrap();
    let kind = format!("{}/{}", kind.c_type, kind.c_subtype.as_deref().unwrap_or_default());
    match &part.body {
        PartType::Multipart(parts) => {
            format!("{kind}{{{}}}", parts.iter().map(|part| shape(mail, *part)).collect::<Vec<_>>().join(" "))
        }
        _ => kind,
    }
}

/// Width and height of the pictures that its page shows: those that came with it, each by its id.
fn pictures_in(mail: &Message<'_>) -> Vec<(u32, u32)> {
    let page = mail.body_html(0).unwrap();
    let shown: Vec<_> = page.split("\"cid:").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let came: Vec<_> = mail.attachments().filter(|part| part.content_id().is_some()).collect();
    assert_eq!(shown, came.iter().map(|part| part.content_id().unwrap()).collect::<Vec<_>>());
    let decoded = came.iter().map(|part| image::load_from_memory_with_format(part.contents(), ImageFormat::Jpeg).unwrap());
    decoded.map(|picture| (picture.width(), picture.height())).collect()
}

/// What every mail has, for the programs that sort and show it. Returns the id of its thread.
fn is_well_made(mail: &Message<'_>) -> String {
    let raw = |name: &str| mail.header_raw(name).unwrap_or_else(|| panic!("no {name}")).trim().to_owned();
    assert_eq!(raw("From"), "DMS3 <dms3@example.org>");
    assert_eq!(raw("To"), "anna@example.org, ben@example.org");
    assert_eq!(raw("Auto-Submitted"), "auto-generated");
    assert!(raw("List-Id").starts_with('<') && raw("List-Id").ends_with(".dms3.localhost>"));
    assert!(raw("Message-ID").ends_with("@example.org>"));
    let age = wall().as_secs().cast_signed() - mail.date().unwrap().to_timestamp();
    assert!((0..60).contains(&age), "{age} s old");
    assert_eq!(raw("In-Reply-To"), raw("References"));
    assert_ne!(raw("References"), raw("Message-ID"));
    let page = mail.body_html(0).unwrap();
    for dark in ["<meta name=\"color-scheme\" content=\"light dark\">", "@media (prefers-color-scheme: dark) {"] {
        assert!(page.contains(dark), "no {dark} in {page}");
    }
    raw("References")
}

/// Its text, on one line.
fn text_of(mail: &Message<'_>) -> String {
    let text = mail.body_text(0).unwrap();
    for of_pages in ["<", "&nbsp;", "cid:"] {
        assert!(!text.contains(of_pages), "{of_pages} in {text}");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_moves_is_mailed_with_its_picture_then_its_clip_in_the_same_thread_and_the_rest_as_one_digest() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "cooldown = \"3s\"").await;
    let porch = house.camera("porch");
    let clip = house.dir().join("01-20261123080130.mp4");
    std::fs::write(&clip, vec![9; 50_000]).unwrap();
    good(said(porch, "event-start", "1"));
    // 5 % of it.
    good(picture(porch, "1", "103680", &sized_jpeg(house.dir(), b"1.jpg", 1, 1920, 1080)));
    let first = server.has(1).await.remove(0);
    let time = calendar(house.has_events(1).await[0].began, "%H:%M:%S");
    let first = MessageParser::default().parse(first.as_bytes()).unwrap();
    assert_eq!(shape(&first, 0), "multipart/alternative{text/plain multipart/related{text/html image/jpeg}}");
    assert_eq!(first.subject().unwrap(), format!("DMS3: porch saw movement (5 %) at {time}"));
    assert_eq!(pictures_in(&first), [(1280, 720)]);
    let thread = is_well_made(&first);
    let text = text_of(&first);
    assert!(text.starts_with(&format!("porch saw movement at {time}: 5 % of the picture changed.")), "{text}");
    assert!(text.contains("Picture: What porch saw") && text.contains("Clip: Follows in this thread"), "{text}");
    // What comes within the cooldown waits for a digest.
    for nth in 2..=4 {
        good(said(porch, "event-start", &nth.to_string()));
        let file = sized_jpeg(house.dir(), format!("{nth}.jpg").as_bytes(), nth, 640, 360);
        good(picture(porch, &nth.to_string(), "2304", &file));
        good(said(porch, "event-end", &nth.to_string()));
    }
    let movie = ["movie", "--event", "1", "--camera", "cam", "--file", clip.to_str().unwrap()];
    good(crate::events::hook(porch, &movie.map(std::ffi::OsStr::new)));
    let mails = server.has(3).await;
    let mails: Vec<_> = mails.iter().map(|mail| MessageParser::default().parse(mail.as_bytes()).unwrap()).collect();
    for mail in &mails {
        assert_eq!(is_well_made(mail), thread, "of one camera, in one thread");
    }
    let with_clip = mails.iter().find(|mail| shape(mail, 0).starts_with("multipart/mixed")).expect("the clip came");
    assert_eq!(shape(with_clip, 0), "multipart/mixed{multipart/alternative{text/plain multipart/related{text/html}} video/mp4}");
    assert_eq!(with_clip.subject(), first.subject());
    let video = with_clip.attachments().next().unwrap();
    assert_eq!((video.contents(), video.attachment_name()), (&[9; 50_000][..], Some("01-20261123080130.mp4")));
    assert!(text_of(with_clip).contains("Clip: Attached to this mail"));
    let digest = mails.iter().find(|mail| mail.subject().unwrap().contains("3 more")).expect("a digest of the rest");
    let pictures = "image/jpeg image/jpeg image/jpeg";
    assert_eq!(shape(digest, 0), format!("multipart/alternative{{text/plain multipart/related{{text/html {pictures}}}}}"));
    assert_eq!(pictures_in(digest), [(320, 180); 3], "small ones");
    assert!(text_of(digest).starts_with("porch: 3 more in a minute"), "{}", text_of(digest));
    let ids: BTreeSet<_> = mails.iter().map(|mail| mail.message_id().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    eventually("nothing waits", async || house.status().await.mail.is_some_and(|mail| mail.waiting == 0)).await;
}

#[tokio::test]
async fn a_snapshot_is_kept_as_one_and_not_mailed() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "cooldown = \"0s\"").await;
    let porch = house.camera("porch");
    let file = jpeg(house.dir(), b"snapshot.jpg", 1);
    let snapshot = ["picture", "--kind", "2", "--event", "1", "--camera", "cam", "--pixels", "450", "--file", file.to_str().unwrap()];
    good(crate::events::hook(porch, &snapshot.map(std::ffi::OsStr::new)));
    assert_eq!(house.has_events(1).await[0].kind, EventKind::Snapshot);
    assert!(house.coordinator.cli(&["events", "--json", "--since", "1000d"]).await.good().contains("\"kind\": \"snapshot\""));
    // Of the same name, and told to the rules of mails later.
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 2)));
    let events = house.has_events(2).await;
    assert_eq!(events.iter().filter(|event| event.kind == EventKind::Movement).count(), 1, "{events:?}");
    server.has(1).await;
    eventually("nothing waits", async || house.status().await.mail.is_some_and(|mail| mail.waiting == 0)).await;
    let mails = server.has(1).await;
    assert!(header(&mails[0], "Subject").unwrap().contains("saw movement"));
}

#[tokio::test]
async fn a_clip_that_the_mail_server_finds_too_large_stays_at_home_and_its_mail_says_so() {
    let mut server = MailServer::new();
    server.start(&["--max-size", "60000"]);
    let house = mailing_house(&server, "").await;
    let porch = house.camera("porch");
    let clip = house.dir().join("01-20261123080130.mp4");
    std::fs::write(&clip, vec![9; 60_000]).unwrap();
    good(said(porch, "event-start", "1"));
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    server.has(1).await;
    let movie = ["movie", "--event", "1", "--camera", "cam", "--file", clip.to_str().unwrap()];
    good(crate::events::hook(porch, &movie.map(std::ffi::OsStr::new)));
    let mails = server.has(2).await;
    let mail = MessageParser::default().parse(mails[1].as_bytes()).unwrap();
    assert_eq!(mail.attachment_count(), 0);
    for text in [mail.body_text(0).unwrap(), mail.body_html(0).unwrap()] {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("Not attached to this mail") && !words.contains("is attached"), "{text}");
    }
    eventually("nothing waits", async || house.status().await.mail.is_some_and(|mail| mail.waiting == 0)).await;
}

#[tokio::test]
async fn a_mail_server_that_is_away_costs_no_mail_and_status_says_how_many_wait_and_why() {
    let mut server = MailServer::new();
    let house = mailing_house(&server, "").await;
    let porch = house.camera("porch");
    good(said(porch, "event-start", "1"));
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    eventually("status names it", async || {
        house.coordinator.cli(&["status"]).await.good().contains("! 1 mail(s) wait: mail server 127.0.0.2")
    })
    .await;
    let why = house.coordinator.cli(&["mail", "test"]).await.bad();
    assert!(why.contains("2 mail(s) wait and are tried again: mail server 127.0.0.2"), "{why}");
    // Nor does a crash.
    house.coordinator.sigkill().await;
    server.start(&["--refuse", "ben@example.org"]);
    house.coordinator.start();
    house.answers().await;
    server.has(2).await;
    eventually("nothing waits", async || house.status().await.mail.is_some_and(|mail| mail.waiting == 0)).await;
    assert!(house.coordinator.line_with_all(&["never reaches ben@example.org", "550"]), "one who is refused holds up nobody");
    let said = house.coordinator.cli(&["mail", "test"]).await.good();
    assert!(said.contains("The mail server took it."), "{said}");
}

#[tokio::test]
async fn a_camera_that_is_lost_while_the_house_is_armed_is_mailed_and_so_is_its_return() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "").await;
    let porch = house.camera("porch");
    porch.sigkill().await;
    crate::harness::within(std::time::Duration::from_secs(70), "a mail says so", async || !server.mails().is_empty()).await;
    let lost = server.has(1).await.remove(0);
    assert_eq!(header(&lost, "Subject").unwrap(), "DMS3: porch is lost while the house is armed");
    porch.start();
    assert_eq!(subjects(&server.has(2).await)[1], "DMS3: porch is back");
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn what_is_seen_in_a_disarmed_house_is_kept_and_not_mailed() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "").await;
    house.disarm().await;
    house.agrees(ArmState::Disarmed).await;
    let porch = house.camera("porch");
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    eventually("it is kept", async || house.coordinator.cli(&["events"]).await.good().contains("porch")).await;
    let said = house.coordinator.cli(&["mail", "test"]).await.good();
    assert!(said.contains("took it"), "{said}");
    assert_eq!(server.has(1).await.len(), 1, "the test mail only");
}

/// An armed house with a camera that mails by itself, and so does the coordinator.
async fn house_with_a_mailing_camera(server: &MailServer, camera: &str) -> House {
    let plan = Plan { camera: camera.to_owned(), ..Plan::default() };
    let house = House::planned_with_cameras(plan, ["porch"]).await;
    for node in [&house.coordinator, &**house.camera("porch")] {
        let password = node.config().with_file_name("password");
        node.configure(&server.section_with(&password, ""));
        node.restart().await;
    }
    house.answers().await;
    house.arm().await;
    house.agrees(ArmState::Away).await;
    house
}

/// Its plain text, in one line.
fn words(mail: &str) -> String {
    let mail = mail_parser::MessageParser::default().parse(mail.as_bytes()).unwrap();
    mail.body_text(0).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn subjects(mails: &[String]) -> Vec<String> {
    mails.iter().filter_map(|mail| header(mail, "Subject")).collect()
}

#[tokio::test]
async fn a_camera_with_mail_of_its_own_mails_while_the_coordinator_is_gone_and_nobody_mails_it_again() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = house_with_a_mailing_camera(&server, "mail_after = \"1s\"\nlost_alert_after = \"3s\"").await;
    let porch = house.camera("porch");
    house.coordinator.sigkill().await;
    good(said(porch, "event-start", "1"));
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    good(said(porch, "event-end", "1"));
    let mails = server.has(2).await;
    let told = subjects(&mails);
    assert!(told.iter().any(|subject| subject.starts_with("DMS3: porch saw movement (5 %) at ")), "{told:?}");
    assert!(told.iter().any(|subject| subject == "DMS3: The coordinator does not answer"), "{told:?}");
    for mail in &mails {
        let words = words(mail);
        let why = if words.contains("saw movement") {
            // "does not answer", or "has not confirmed" as long as the dead link is not noticed.
            "Please note: porch sent this by itself: the coordinator "
        } else {
            "porch tells this itself."
        };
        assert!(words.contains(why), "{words}");
    }
    assert!(mails.iter().any(|mail| mail.contains("image/jpeg")), "with its picture");

    house.coordinator.start();
    house.answers().await;
    eventually("it hears that it was mailed", async || {
        let said = house.coordinator.cli(&["events", "--json", "--since", "1000d"]).await.good();
        said.contains("\"own_mail\": \"sent\"")
    })
    .await;
    let told = subjects(&server.has(3).await);
    assert_eq!(told[2], "DMS3: porch hears the coordinator again", "its return is told: {told:?}");
    // Nor need anybody be warned that nobody would tell.
    eventually("the porch says that it mails", async || house.view("porch").await.is_some_and(|view| view.health.is_some())).await;
    assert!(house.status().await.notes.iter().all(|note| !note.contains("Nobody would tell")));
    // Whatever the coordinator had to mail would have gone before this one.
    house.coordinator.cli(&["mail", "test"]).await.good();
    server.has(4).await;
}

#[tokio::test]
async fn a_camera_that_always_mails_mails_alone() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = house_with_a_mailing_camera(&server, "mail_after = \"always\"").await;
    let porch = house.camera("porch");
    good(said(porch, "event-start", "1"));
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    server.has(1).await;
    eventually("the coordinator hears that it was mailed", async || {
        house.coordinator.cli(&["events", "--json", "--since", "1000d"]).await.good().contains("\"own_mail\": \"sent\"")
    })
    .await;
    house.coordinator.cli(&["mail", "test"]).await.good();
    porch.cli(&["mail", "test"]).await.good();
    server.has(3).await;
}

#[tokio::test]
async fn a_revoked_camera_keeps_what_it_saw_and_mails_nothing_and_its_password_is_gone() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = house_with_a_mailing_camera(&server, "mail_after = \"1s\"").await;
    let porch = house.camera("porch");
    house.coordinator.cli(&["revoke", "porch"]).await.good();
    eventually("its password is gone", async || !porch.config().with_file_name("password").exists()).await;
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    let refused = porch.cli(&["mail", "test"]).await.bad();
    assert!(refused.contains("revoked"), "{refused}");
    // Nor after a restart.
    porch.restart().await;
    eventually("it says so", async || porch.camera_status().await.is_some_and(|status| status.revoked)).await;
    assert!(porch.cli(&["status"]).await.good().contains("A person revoked this node"));
    porch.cli(&["mail", "test"]).await.bad();
    // What waits is counted twice a second.
    eventually("the evidence stays", async || porch.camera_status().await.is_some_and(|status| status.outbox.waiting == 1)).await;
    house.coordinator.cli(&["mail", "test"]).await.good();
    server.has(1).await;
}

#[tokio::test]
async fn a_clip_that_is_larger_than_the_config_allows_stays_at_home_and_its_mail_says_how_long_it_is() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "max_attachment = \"50 kB\"\ndashboard_url = \"https://dms3.local\"").await;
    let porch = house.camera("porch");
    let clip = house.dir().join("01-20261123080130.mp4");
    std::fs::write(&clip, vec![9; 51_000]).unwrap();
    good(said(porch, "event-start", "1"));
    good(picture(porch, "1", "450", &jpeg(house.dir(), b"1.jpg", 1)));
    server.has(1).await;
    good(said(porch, "event-end", "1"));
    let movie = ["movie", "--event", "1", "--camera", "cam", "--file", clip.to_str().unwrap()];
    good(crate::events::hook(porch, &movie.map(std::ffi::OsStr::new)));
    let mails = server.has(2).await;
    assert!(!mails[1].contains("video/mp4"));
    let said = house.coordinator.cli(&["events", "--json", "--since", "1000d"]).await.good();
    let event = serde_json::from_str::<Vec<dms3_core::event::StoredEvent>>(&said).unwrap().remove(0);
    let seconds = event.ended.unwrap().since(event.began).as_millis().div_ceil(1000).max(1);
    let told = words(&mails[1]);
    let words = format!("Too large to attach ({seconds} s, 51 kB). You can see it on the dashboard.");
    assert!(told.contains(&words) && told.contains("https://dms3.local"), "{words}: {told}");
}

#[tokio::test]
async fn a_detector_that_dies_while_the_house_is_armed_is_mailed_and_so_is_its_return() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "").await;
    let porch = house.camera("porch");
    eventually("it watches", async || {
        house.view("porch").await.is_some_and(|view| view.detectors.iter().all(|detector| detector.phase == "watching"))
    })
    .await;
    porch.motion.breaks();
    let mails = server.has(1).await;
    assert_eq!(subjects(&mails), ["DMS3: porch is not watching"]);
    let told = words(&mails[0]);
    assert!(told.contains("Its detector does not run: Motion was ended by signal 9 (SIGKILL)"), "{told}");
    assert!(told.contains("Since ") && told.contains("you are told when it watches again"), "{told}");
    porch.motion.install();
    let mails = server.has(2).await;
    assert_eq!(subjects(&mails)[1], "DMS3: porch watches again");
    let over = words(&mails[1]);
    assert!(over.starts_with("Over: porch watches again From ") && over.contains(" until "), "{over}");
    house.agrees(ArmState::Away).await;
}

#[tokio::test]
async fn a_locked_pairing_word_is_mailed_once_and_never_called_over() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = mailing_house(&server, "").await;
    let word = TokenWord::parse(&house.token(&[]).await).unwrap();
    let (to, key) = (house.enroll_port.address(), NodeKey::generate().unwrap());
    for nth in 1..=10 {
        let denial = answer(to, 180 + nth, word.root_pin, |_| begin(&word, &key, vec![7; 64])).await;
        assert_eq!(denied(&denial), Some(if nth < 10 { DenyCode::Token } else { DenyCode::Locked }), "number {nth}");
    }
    let mails = server.has(1).await;
    assert_eq!(subjects(&mails), ["DMS3: A pairing word is locked"]);
    let told = words(&mails[0]);
    assert!(told.contains(" At ") && told.contains("Somebody at 127.0.0.190 tried it with wrong secrets"), "{told}");
    // Stopped before it noted that the server took it, it would rightly send the same mail again.
    eventually("no mail waits", async || house.look().await.is_some_and(|house| house.mail.is_some_and(|mail| mail.waiting == 0))).await;
    house.coordinator.restart().await;
    house.answers().await;
    // Whatever the coordinator had to mail would have gone before this one. Later than ten minutes after a restart nothing more is said
    // either: dms3-core looks at that, as it can turn the clock.
    house.coordinator.cli(&["mail", "test"]).await.good();
    server.has(2).await;
}

#[tokio::test]
async fn a_disk_of_the_coordinator_that_is_nearly_full_is_shown_and_mailed_and_so_is_its_end() {
    if cannot_make_networks("a_disk_of_the_coordinator_that_is_nearly_full_is_shown_and_mailed_and_so_is_its_end") {
        return;
    }
    let mut server = MailServer::new();
    server.start(&[]);
    let house = House::with_cameras(["porch"]).await;
    house.coordinator.stop().await;
    let disk = house.coordinator.state_dir();
    let _small = SmallDisk::under(&disk);
    house.coordinator.configure(&server.section("[coordinator.events]\nkeep_free = \"0 MB\""));
    house.coordinator.start();
    house.answers().await;
    let mails = server.has(1).await;
    let name = house.look().await.unwrap().nodes[0].name.clone();
    assert_eq!(subjects(&mails), [format!("DMS3: The disk of {name} is nearly full")]);
    let told = words(&mails[0]);
    assert!(told.contains("MB are free. When it is full,"), "{told}");
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains(&format!("! {name}: disk nearly full (")), "{said}");
    // No camera mails by itself: people hear what that means.
    eventually("status says that nobody would tell", async || {
        house.coordinator.cli(&["status"]).await.good().contains("Nobody would tell that the coordinator is gone")
    })
    .await;
    let grown = Command::new("mount").args(["-o", "remount,size=1g"]).arg(&disk).output().unwrap();
    assert!(grown.status.success(), "{}", String::from_utf8_lossy(&grown.stderr));
    within(Duration::from_secs(40), "its end is mailed", async || server.mails().len() == 2).await;
    assert_eq!(subjects(&server.mails())[1], format!("DMS3: {name}: its disk has room again"));
    assert!(house.look().await.unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_coordinator_that_cannot_leave_free_what_it_is_to_leave_mails_that_too() {
    let mut server = MailServer::new();
    server.start(&[]);
    let house = House::with_cameras(["porch"]).await;
    house.coordinator.configure(&server.section("[coordinator.events]\nkeep_free = \"900000 GB\""));
    house.coordinator.restart().await;
    house.answers().await;
    let mails = server.has(1).await;
    assert!(subjects(&mails)[0].ends_with(" is nearly full"), "{mails:?}");
    let said = house.coordinator.cli(&["status"]).await.good();
    assert!(said.contains("less than is to stay free, and nothing is left that could go"), "{said}");
}
