//! Mails to a real SMTP server (tests/harness/smtp_server.py), which works, or fails in every way that we know of.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dms3_core::alerting::{AlertPolicy, Settings};
use dms3_core::time::Timestamp;
use mail_parser::{MessageParser, MimeHeaders as _};
use server::{PASSWORD, Server, house, house_of};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::post::deliver;
use super::post::tests::{letter as kept_letter, post};
use super::*;
use crate::clock::{Clock, StandStill};

mod server;

/// As a camera sends it, and as it is mailed.
static PICTURE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let picture = image::RgbImage::from_pixel(1600, 900, image::Rgb([10, 200, 30]));
    let (mut png, mut file) = (std::io::Cursor::new(Vec::new()), tempfile::tempfile().unwrap());
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    file.write_all(&png.into_inner()).unwrap();
    file.rewind().unwrap();
    crate::picture::small(file, crate::picture::MAIL).unwrap().jpeg
});

fn letter(clip: Option<Content>) -> Letter {
    Letter {
        events: Vec::new(),
        at: Timestamp::from_secs(1_795_420_890),
        thread: Thread { house: "house".into(), about: "porch".into() },
        to: vec!["anna@example.org".parse().unwrap(), "ben@example.org".parse().unwrap()],
        subject: "DMS3: Gärtchen saw movement".into(),
        text: "Gärtchen saw movement.\n.\n..\nA dot stood alone.\n".into(),
        html: "<html><body><img src=\"cid:p1@dms3\">Gärtchen</body></html>".into(),
        pictures: vec![Inline { cid: "p1@dms3".into(), jpeg: PICTURE.clone() }],
        clip: clip.map(|content| Clip { name: "Gärtchen.mp4".into(), mime: "video/mp4".into(), content }),
    }
}

async fn mail(config: &MailConfig, clip: Option<Content>) -> Vec<Outcome> {
    let letter = letter(clip);
    let to = letter.to.clone();
    send(config, &Message::new(letter, config).unwrap(), &to).await
}

/// The reason why nobody has it yet: one for all, in which no secret stands.
async fn later(config: &MailConfig) -> String {
    let outcomes = mail(config, None).await;
    let [Outcome::Later(why), other] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(&Outcome::Later(why.clone()), other);
    assert!(!why.contains(PASSWORD) && !why.contains('\n'), "{why}");
    assert!(why.contains("localhost") || why.contains("127.0.0.1") || why.contains("[mail]"), "names the server: {why}");
    eprintln!("{why}");
    why.clone()
}

fn says(why: &str, words: &[&str]) {
    assert!(words.iter().all(|word| why.contains(word)), "{words:?} in: {why}");
}

#[tokio::test]
async fn a_mail_arrives_whole_by_starttls_or_tls_and_with_either_log_in() {
    for (options, security) in [(&[][..], "\"starttls\""), (&["--tls"], "\"tls\""), (&["--auth-mechanism", "LOGIN"], "\"starttls\"")] {
        let server = Server::start(options);
        let video: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
        let clip = server.path("clip");
        std::fs::write(&clip, &video).unwrap();
        let config = server.config(&[("security", security)]);
        assert_eq!(mail(&config, Some(Content::File(clip))).await, [Outcome::Sent, Outcome::Sent], "{options:?}");
        let (to, bytes) = server.got(1).unwrap();
        assert_eq!(to, ["anna@example.org", "ben@example.org"]);
        let message = MessageParser::default().parse(&bytes).unwrap();
        assert_eq!(message.subject(), Some("DMS3: Gärtchen saw movement"));
        assert_eq!(message.body_text(0).unwrap().replace('\r', "").trim_end(), letter(None).text.trim_end());
        let [picture, clip] = [0, 1].map(|nth| message.attachments().nth(nth).unwrap());
        assert_eq!(picture.content_id(), Some("p1@dms3"));
        let picture = image::load_from_memory(picture.contents()).unwrap();
        assert_eq!((picture.width(), picture.height()), (1280, 720));
        assert_eq!(clip.attachment_name(), Some("Gärtchen.mp4"));
        assert!(clip.contents() == video, "the clip is the same to the last byte");
    }
}

#[tokio::test]
async fn one_recipient_who_is_refused_keeps_the_mail_from_nobody_else() {
    let server = Server::start(&["--refuse", "anna@example.org"]);
    let outcomes = mail(&server.config(&[]), None).await;
    let [Outcome::Never(why), Outcome::Sent] = &outcomes[..] else { panic!("{outcomes:?}") };
    says(why, &["localhost", "anna@example.org", "550 \"5.1.1 no such user here\"", "to"]);
    assert_eq!(server.got(1).unwrap().0, ["ben@example.org"]);

    let server = Server::start(&["--refuse", "anna@example.org", "--refuse", "ben@example.org"]);
    let outcomes = mail(&server.config(&[]), None).await;
    assert!(matches!(&outcomes[..], [Outcome::Never(_), Outcome::Never(_)]), "{outcomes:?}");
    assert_eq!(server.got(1), None);
}

#[tokio::test]
async fn who_has_the_mail_does_not_get_it_again_when_it_is_sent_to_the_others() {
    let server = Server::start(&["--refuse", "ben@example.org", "--refuse-with", "452 4.2.2 mailbox is full"]);
    let outcomes = mail(&server.config(&[]), None).await;
    let [Outcome::Sent, Outcome::Later(why)] = &outcomes[..] else { panic!("{outcomes:?}") };
    says(why, &["ben@example.org", "mailbox is full"]);
    let first = server.got(1).unwrap();
    assert_eq!(first.0, ["anna@example.org"]);

    // Another server, where there is room: the same mail, to the one who lacks it.
    let server = Server::start(&[]);
    let config = server.config(&[]);
    let message = Message::new(letter(None), &config).unwrap();
    assert_eq!(send(&config, &message, &["ben@example.org".parse().unwrap()]).await, [Outcome::Sent]);
    let second = server.got(1).unwrap();
    assert_eq!(second.0, ["ben@example.org"]);
    assert_eq!(first.1, second.1, "Message-ID and all");
    assert_eq!(send(&config, &message, &[]).await, []);
}

#[tokio::test]
async fn what_a_person_can_mend_is_not_held_against_a_recipient() {
    for (reply, word) in [
        ("554 5.7.1 Relay access denied", "user, password"),
        ("530 Authentication required", "user, password"),
        ("552 5.2.2 over quota", "make room"),
    ] {
        let server = Server::start(&["--refuse", "anna@example.org", "--refuse-with", reply]);
        let outcomes = mail(&server.config(&[]), None).await;
        let [Outcome::Later(why), Outcome::Sent] = &outcomes[..] else { panic!("{outcomes:?}") };
        says(why, &[word]);
    }
    let server = Server::start(&["--refuse-sender"]);
    says(&later(&server.config(&[])).await, &["takes no mail from dms3@example.org", "550", "`from`"]);
}

#[tokio::test]
async fn a_server_that_is_busy_gets_the_mail_later_and_once() {
    let server = Server::start(&["--later", "2"]);
    let config = server.config(&[]);
    for _ in 0..2 {
        says(&later(&config).await, &["451 \"4.3.0 try again later\"", "It may later"]);
    }
    assert_eq!(mail(&config, None).await, [Outcome::Sent, Outcome::Sent]);
    assert!(server.got(3).is_some() && server.got(1).is_none() && server.got(2).is_none() && server.got(4).is_none());
}

#[tokio::test]
async fn a_mail_that_is_too_large_is_told_apart_from_one_that_is_not_wanted() {
    let server = Server::start(&["--max-size", "100000"]);
    let outcomes = mail(&server.config(&[]), Some(Content::Bytes(vec![0; 200_000]))).await;
    let [Outcome::TooLarge(why), Outcome::TooLarge(_)] = &outcomes[..] else { panic!("{outcomes:?}") };
    says(why, &["552", "max_attachment"]);
    assert_eq!(mail(&server.config(&[]), None).await, [Outcome::Sent, Outcome::Sent], "without the clip it fits");

    let server = Server::start(&["--data-reply", "554 5.7.1 looks like spam"]);
    says(&later(&server.config(&[])).await, &["554", "looks like spam", "another account"]);
}

#[tokio::test]
async fn a_hanging_server_is_left_in_time_wherever_it_hangs() {
    for (at, security) in
        [("greeting", "\"starttls\""), ("greeting", "\"tls\""), ("rcpt", "\"starttls\""), ("data", "\"starttls\""), ("end", "\"starttls\"")]
    {
        let server = Server::start(&["--hang", at]);
        let config = server.config(&[("security", security), ("timeout", "\"1s\"")]);
        let began = Instant::now();
        let why = later(&config).await;
        let took = began.elapsed();
        assert!(took < longest(&config) && took >= Duration::from_secs(1), "{at}: {took:?}");
        says(&why, &["no answer"]);
    }
}

fn longest(config: &MailConfig) -> Duration {
    smtp::longest(config, &Message::new(letter(None), config).unwrap())
}

#[tokio::test]
async fn a_server_that_stops_reading_in_the_middle_of_a_clip_is_left_in_time() {
    let server = Server::start(&["--hang", "body"]);
    let config = server.config(&[("timeout", "\"1s\"")]);
    let began = Instant::now();
    let outcomes = mail(&config, Some(Content::Bytes(vec![0; 14_000_000]))).await;
    let took = began.elapsed();
    assert!(matches!(&outcomes[..], [Outcome::Later(why), _] if why.contains("no answer")), "{outcomes:?}");
    assert!(took < Duration::from_secs(10), "not the quarter of an hour that a slow line may take: {took:?}");
}

#[tokio::test]
async fn half_a_clip_is_never_mailed_as_a_whole_one() {
    let server = Server::start(&[]);
    let (config, clip) = (server.config(&[]), server.path("clip"));
    std::fs::write(&clip, vec![1; 2_000_000]).unwrap();
    let letter = letter(Some(Content::File(clip.clone())));
    let to = letter.to.clone();
    let message = Message::new(letter, &config).unwrap();
    std::fs::File::options().write(true).open(&clip).unwrap().set_len(1_000_000).unwrap();
    let outcomes = send(&config, &message, &to).await;
    assert!(matches!(&outcomes[..], [Outcome::Later(why), _] if why.contains("clip cannot be read")), "{outcomes:?}");
    // Whatever is mailed next is the first that the server got.
    assert_eq!(mail(&config, None).await, [Outcome::Sent, Outcome::Sent]);
    assert!(server.got(1).is_some() && server.got(2).is_none());
}

#[tokio::test]
async fn a_slow_server_gets_its_mail_and_one_that_is_too_slow_is_left() {
    let server = Server::start(&["--slow", "0.1"]);
    assert_eq!(mail(&server.config(&[]), None).await, [Outcome::Sent, Outcome::Sent]);
    let server = Server::start(&["--slow", "3"]);
    says(&later(&server.config(&[("timeout", "\"1s\"")])).await, &["no answer for 1s", "Try again later"]);
}

#[tokio::test]
async fn a_connection_that_breaks_is_tried_again() {
    for (at, security) in [("greeting", "\"starttls\""), ("greeting", "\"tls\""), ("data", "\"starttls\""), ("end", "\"starttls\"")] {
        let mut server = Server::start(&["--close", at]);
        later(&server.config(&[("security", security)])).await;
        // It came as far as the test means it to.
        if at == "data" {
            assert!(std::iter::repeat_with(|| server.says()).take(6).any(|line| line == "closing"));
        }
    }
}

#[tokio::test]
async fn a_mail_that_is_taken_and_not_confirmed_is_recognised_when_it_comes_again() {
    let server = Server::start(&["--close", "end"]);
    let config = server.config(&[]);
    for _ in 0..2 {
        later(&config).await;
    }
    let id = |nth| MessageParser::default().parse(&server.got(nth).unwrap().1).unwrap().message_id().unwrap().to_owned();
    assert_eq!(id(1), id(2));
}

#[tokio::test]
async fn a_server_that_is_down_for_an_hour_is_asked_ever_less_often_and_gets_all_mails_when_it_is_back() {
    let server = Server::start(&[]);
    // The way to it, which ends at once while it is down.
    let way = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = way.local_addr().unwrap().port().to_string();
    let (is_down, tries, talks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (down, tried, talking, there) = (is_down.clone(), tries.clone(), talks.clone(), server.port);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut mails = JoinSet::new();
        loop {
            let (mut from, _) = way.accept().await.unwrap();
            if down.load(Ordering::SeqCst) {
                tried.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let mut to = TcpStream::connect(("127.0.0.1", there)).await.unwrap();
            let talking = talking.clone();
            talking.fetch_add(1, Ordering::SeqCst);
            mails.spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                talking.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::unkept();
    let post = post(dir.path(), server.config(&[("port", &port)]), &clock);
    let letters = ["porch", "garden"].map(|about| kept_letter(clock.now().at, about, &["anna@example.org"]));
    let memory = AlertPolicy::new(Settings::default(), clock.now()).memory().clone();
    post.mails.open().await.unwrap().save(&memory, &letters).await.unwrap();
    let (counts, stop) = (post.counts.subscribe(), CancellationToken::new());

    let time = StandStill::begin();
    let mut delivery = JoinSet::new();
    delivery.spawn(deliver(post, stop.clone()));
    let five_seconds = async || {
        tokio::time::advance(Duration::from_secs(5)).await;
        // What asks and answers meanwhile needs a moment that is real, and no more time than that.
        loop {
            spawn_blocking(|| std::thread::sleep(Duration::from_millis(3))).await.unwrap();
            if talks.load(Ordering::SeqCst) == 0 {
                break;
            }
        }
    };
    let mut of_quarters = Vec::new();
    for _ in 0..4 {
        let before = tries.load(Ordering::SeqCst);
        for _ in 0..180 {
            five_seconds().await;
        }
        of_quarters.push(tries.load(Ordering::SeqCst) - before);
    }
    assert!(of_quarters[0] >= 4 && of_quarters[0] <= 14 && of_quarters[1..].iter().all(|tries| *tries <= 4), "{of_quarters:?}");
    assert_eq!(counts.borrow().waiting, 2);
    is_down.store(false, Ordering::SeqCst);
    let mut waits = 0;
    while counts.borrow().waiting > 0 {
        five_seconds().await;
        waits += 5;
        assert!(waits <= 1900, "{:?} after half an hour", counts.borrow());
    }
    assert!(server.got(1).is_some() && server.got(2).is_some() && server.got(3).is_none(), "each of them, once");
    assert_eq!(counts.borrow().lost, 0);
    stop.cancel();
    delivery.join_next().await.unwrap().unwrap().unwrap();
    time.end().await;
}

#[tokio::test]
async fn a_log_in_that_is_refused_is_told_without_the_password_even_if_the_server_repeats_it() {
    let server = Server::start(&["--refuse-auth"]);
    let why = later(&server.config(&[])).await;
    says(&why, &["localhost", &server.port.to_string(), "535", "does not let \"dms3\" in", "(hidden)", "app password"]);

    let server = Server::start(&[]);
    says(&later(&server.config(&[("password_file", ""), ("password", "\"wrong\"")])).await, &["535", "user and password"]);
    let why = later(&server.config(&[("user", ""), ("password_file", "")])).await;
    says(&why, &["530", "`user`"]);
    let server = Server::with(house("localhost"), &[], true);
    says(&later(&server.config(&[])).await, &["offers no log-in"]);
}

#[tokio::test]
async fn a_password_file_that_is_not_safe_stops_mail_and_says_what_to_do() {
    let server = Server::start(&[]);
    std::fs::set_permissions(server.path("password"), std::fs::Permissions::from_mode(0o644)).unwrap();
    says(&later(&server.config(&[])).await, &["password_file", "sudo chmod 600"]);
    // Mended, it works at once.
    std::fs::set_permissions(server.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(mail(&server.config(&[]), None).await, [Outcome::Sent, Outcome::Sent]);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing() {
    // Another CA, one of the same name, the CAs of browsers, another name.
    let others = ["Ben's CA", "Anna's CA"].map(|issuer| house_of(issuer, "localhost"));
    let cas = others.each_ref().map(|dir| format!("{:?}", dir.path().join("ca.pem").to_str().unwrap()));
    for security in ["\"starttls\"", "\"tls\""] {
        let mut server = Server::start(if security == "\"tls\"" { &["--tls"] } else { &[] });
        for ca in &cas {
            says(&later(&server.config(&[("security", security), ("ca_file", ca)])).await, &["not issued by the CA in ca_file"]);
        }
        says(&later(&server.config(&[("security", security), ("ca_file", "")])).await, &["nobody known vouches", "ca_file"]);
        says(&later(&server.config(&[("security", security), ("server", "\"127.0.0.1\"")])).await, &["another name"]);
        assert_eq!(mail(&server.config(&[("security", security)]), None).await, [Outcome::Sent, Outcome::Sent]);
        assert_eq!(server.says(), "auth PLAIN dms3", "before that nobody tried to log in");
    }
}

#[tokio::test]
async fn a_server_without_starttls_gets_neither_password_nor_pictures() {
    for (options, tls) in [(&["--no-starttls"][..], true), (&[], false)] {
        let server = Server::with(house("localhost"), options, tls);
        says(&later(&server.config(&[])).await, &["no STARTTLS", "nothing was sent"]);
    }
}

#[tokio::test]
async fn nobody_on_the_way_can_answer_in_the_place_of_the_server() {
    let server = Server::start(&["--inject"]);
    says(&later(&server.config(&[])).await, &["TLS failed"]);
}

#[tokio::test]
async fn security_that_does_not_fit_the_port_is_told_as_such() {
    let server = Server::start(&[]);
    says(&later(&server.config(&[("security", "\"tls\"")])).await, &["TLS failed", "security"]);
    let server = Server::start(&["--tls"]);
    says(&later(&server.config(&[("timeout", "\"1s\"")])).await, &["localhost"]);
}

#[tokio::test]
async fn within_this_machine_mail_may_go_in_clear_text() {
    let server = Server::with(house("localhost"), &[], false);
    let none = [("security", "\"none\""), ("user", ""), ("password_file", "")];
    assert_eq!(mail(&server.config(&none), None).await, [Outcome::Sent, Outcome::Sent]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_what_to_look_at() {
    let server = Server::start(&[]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let why = later(&server.config(&[("port", &free.to_string())])).await;
    says(&why, &["localhost", &free.to_string(), "refused", "`port`"]);
    let config = server.config(&[("server", "\"no-such-host.invalid\"")]);
    let outcomes = mail(&config, None).await;
    assert!(matches!(&outcomes[..], [Outcome::Later(why), _] if why.contains("no-such-host.invalid")), "{outcomes:?}");
}
