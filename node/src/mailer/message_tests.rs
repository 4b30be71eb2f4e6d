//! Messages, read by another parser than the hands that wrote them.

use mail_parser::{MessageParser, MimeHeaders as _, PartType};

use super::*;

const JPEG: &[u8] = b"\xff\xd8\xff\xe0 no picture, but bytes \0\r\n.\r\n\xff\xd9";

fn config(lines: &str) -> MailConfig {
    let text = format!("server = \"localhost\"\nfrom = \"dms3@example.org\"\nto = [\"anna@example.org\"]\n{lines}");
    MailConfig::new(toml::from_str(&text).unwrap(), std::path::Path::new("/")).unwrap().0
}

fn letter() -> Letter {
    Letter {
        at: Timestamp::from_secs(1_795_420_890),
        thread: Thread { house: "house".into(), about: "porch".into() },
        to: vec!["anna@example.org".parse().unwrap(), "ben@example.net".parse().unwrap()],
        subject: "DMS3: porch saw movement (5 %) at 08:01:30".into(),
        text: "porch saw movement.\n.\nA dot stood alone.\nFrom here on: grün.\n".into(),
        html: format!("<html><body>{}<img src=\"cid:p1@dms3\"></body></html>", "<p>grün</p>".repeat(300)),
        pictures: vec![Inline { cid: "p1@dms3".into(), jpeg: JPEG.to_vec() }],
        clip: None,
        events: vec![EventId([7; 16])],
    }
}

fn clip(name: &str, content: Content) -> Option<Clip> {
    Some(Clip { name: name.into(), mime: "video/mp4".into(), content })
}

fn bytes(letter: Letter) -> Vec<u8> {
    let message = Message::new(letter, &config("")).unwrap();
    let bytes: Vec<u8> = message.chunks(Arc::default()).flatten().collect();
    let size = message.size();
    assert!((size - 80..=size).contains(&(bytes.len() as u64)), "{} of {size}", bytes.len());
    bytes
}

/// What every message must be for every server: seven bits, short lines, CR and LF only together.
fn well_formed(bytes: &[u8]) {
    assert!(bytes.is_ascii());
    assert!(bytes.ends_with(b"\r\n"));
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        assert!(line.len() <= 999 && line.ends_with(b"\r"), "{} characters: {}", line.len(), String::from_utf8_lossy(&line[..40]));
        assert!(!line[..line.len() - 1].contains(&b'\r'));
    }
}

/// "multipart/alternative{text/plain text/html}"
fn shape(message: &mail_parser::Message<'_>, part: u32) -> String {
    let part = &message.parts[part as usize];
    let kind = part.content_type().map(|kind| format!("{}/{}", kind.c_type, kind.c_subtype.as_deref().unwrap_or_default()));
    match &part.body {
        PartType::Multipart(parts) => {
            format!("{}{{{}}}", kind.unwrap(), parts.iter().map(|part| shape(message, *part)).collect::<Vec<_>>().join(" "))
        }
        _ => kind.unwrap_or_default(),
    }
}

#[test]
fn a_mail_holds_text_page_picture_and_clip_each_in_its_place() {
    let sent = Letter { clip: clip("2026-11-23 08.01.mp4", Content::Bytes(vec![7; 100_000])), ..letter() };
    let bytes = bytes(sent);
    well_formed(&bytes);
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!(shape(&message, 0), "multipart/mixed{multipart/alternative{text/plain multipart/related{text/html image/jpeg}} video/mp4}");
    assert_eq!(message.subject(), Some("DMS3: porch saw movement (5 %) at 08:01:30"));
    assert_eq!(message.body_text(0).unwrap().replace('\r', "").trim_end(), letter().text.trim_end());
    assert_eq!(message.body_html(0).unwrap().trim_end(), letter().html);
    let [picture, video] = [0, 1].map(|nth| message.attachments().nth(nth).unwrap());
    assert_eq!((picture.contents(), picture.content_id()), (JPEG, Some("p1@dms3")));
    assert!(picture.content_disposition().unwrap().is_inline());
    assert_eq!((video.contents(), video.attachment_name()), (&[7; 100_000][..], Some("2026-11-23 08.01.mp4")));
    assert!(video.content_disposition().unwrap().is_attachment());
}

#[test]
fn a_mail_without_clip_page_or_picture_is_as_plain_as_it_can_be() {
    let shape_of = |letter| {
        let bytes = bytes(letter);
        well_formed(&bytes);
        shape(&MessageParser::default().parse(&bytes).unwrap(), 0)
    };
    assert_eq!(shape_of(letter()), "multipart/alternative{text/plain multipart/related{text/html image/jpeg}}");
    let bare = || Letter { html: String::new(), pictures: Vec::new(), ..letter() };
    assert_eq!(shape_of(bare()), "text/plain");
    assert_eq!(shape_of(Letter { html: String::new(), ..letter() }), "multipart/mixed{text/plain image/jpeg}");
    assert_eq!(shape_of(Letter { clip: clip("a.mp4", Content::Bytes(Vec::new())), ..bare() }), "multipart/mixed{text/plain video/mp4}");
}

#[test]
fn the_headers_say_who_when_and_to_which_thread_and_that_no_answer_is_wanted() {
    let bytes = bytes(letter());
    let message = MessageParser::default().parse(&bytes).unwrap();
    let raw = |name: &str| message.header_raw(name).unwrap().trim().to_owned();
    assert_eq!(raw("From"), "DMS3 <dms3@example.org>");
    assert_eq!(raw("To"), "anna@example.org, ben@example.net");
    assert_eq!(raw("Date"), "Mon, 23 Nov 2026 08:01:30 +0000");
    assert_eq!((raw("Auto-Submitted"), raw("X-Auto-Response-Suppress")), ("auto-generated".into(), "All".into()));
    assert_eq!(raw("MIME-Version"), "1.0");
    assert_eq!(raw("In-Reply-To"), raw("References"));
    assert!(raw("References").starts_with("<thread-") && raw("References").ends_with("@example.org>"));
    assert!(raw("List-Id").ends_with(".dms3.localhost>"));
    assert!(message.message_id().unwrap().ends_with("@example.org"));
}

#[test]
fn a_camera_has_one_thread_and_another_camera_or_house_another() {
    let thread = |house: &str, about: &str| Thread { house: house.into(), about: about.into() }.id("example.org");
    assert_eq!(thread("h", "porch"), thread("h", "porch"));
    let all = [thread("h", "porch"), thread("h", "garage"), thread("i", "porch"), thread("hp", "orch")];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    assert!(thread("h\r\nBcc: x@y", "<>").is_ascii());
}

#[test]
fn the_same_letter_is_the_same_message_to_the_last_byte_and_another_one_has_another_id() {
    let with_clip = |bytes: &[u8]| Letter { clip: clip("a.mp4", Content::Bytes(bytes.to_vec())), ..letter() };
    assert_eq!(bytes(with_clip(b"abc")), bytes(with_clip(b"abc")));
    let id = |letter| Message::new(letter, &config("")).unwrap().id().to_owned();
    // Whoever has it already is left out when it is sent again, which must not change it either.
    let others = [
        letter(),
        with_clip(b"abc"),
        with_clip(b"abd"),
        Letter { at: Timestamp::from_secs(1), ..letter() },
        Letter { subject: "other".into(), ..letter() },
        Letter { text: "other".into(), ..letter() },
        Letter { html: "other".into(), ..letter() },
        Letter { pictures: Vec::new(), ..letter() },
        Letter { events: vec![EventId([8; 16])], ..letter() },
    ];
    let ids: std::collections::BTreeSet<_> = others.into_iter().map(id).collect();
    assert_eq!(ids.len(), 9);
}

#[test]
fn a_clip_from_a_file_is_the_same_message_as_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip");
    let video: Vec<u8> = (0..200_003u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(&path, &video).unwrap();
    let from_file = bytes(Letter { clip: clip("a.mp4", Content::File(path.clone())), ..letter() });
    assert_eq!(from_file, bytes(Letter { clip: clip("a.mp4", Content::Bytes(video)), ..letter() }));

    // Deleted by retention while it waits: what was opened stays readable.
    let message = Message::new(Letter { clip: clip("a.mp4", Content::File(path.clone())), ..letter() }, &config("")).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(message.chunks(Arc::default()).flatten().collect::<Vec<u8>>(), from_file);
}

#[test]
fn a_clip_that_became_shorter_is_never_sent_as_if_it_were_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip");
    std::fs::write(&path, vec![1; 100_000]).unwrap();
    let message = Message::new(Letter { clip: clip("a.mp4", Content::File(path.clone())), ..letter() }, &config("")).unwrap();
    std::fs::write(&path, b"short").unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    message.chunks(broken.clone()).for_each(drop);
    assert!(broken.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn a_clip_that_is_too_large_or_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip");
    std::fs::write(&path, [0; 2_001]).unwrap();
    let config = config("max_attachment = \"2kB\"");
    for content in [Content::File(path), Content::Bytes(vec![0; 2_001])] {
        let why = Message::new(Letter { clip: clip("a.mp4", content), ..letter() }, &config).unwrap_err().to_string();
        assert!(why.contains("2001") && why.contains("max_attachment"), "{why}");
    }
    for path in [dir.path().to_owned(), dir.path().join("gone")] {
        Message::new(Letter { clip: clip("a.mp4", Content::File(path)), ..letter() }, &config).unwrap_err();
    }
}

#[test]
fn no_subject_and_no_file_name_can_write_a_header() {
    for evil in [
        "porch\r\nBcc: thief@example.net\r\n\r\nhello",
        "porch\nBcc: thief@example.net",
        "\u{202e}gpj.\u{2028}Bcc: x@y\0",
        "=?utf-8?q?=0D=0ABcc:_x@y?=",
        "\"; filename=\"evil.exe",
        &"ü<&\"\\👨‍👩‍👧;".repeat(200),
        &"x".repeat(5_000),
        "",
    ] {
        let sent = Letter { subject: evil.into(), clip: clip(&format!("{evil}.mp4"), Content::Bytes(vec![1])), ..letter() };
        let bytes = bytes(sent);
        well_formed(&bytes);
        let message = MessageParser::default().parse(&bytes).unwrap();
        assert_eq!(message.bcc(), None, "{evil}");
        assert!(shape(&message, 0).ends_with("video/mp4}"), "{evil}");
        assert_eq!(message.parts[0].headers().len(), 12, "{evil}: {:?}", message.parts[0].headers());
        if !evil.starts_with("=?") {
            assert_eq!(message.subject().unwrap_or_default(), subject(evil), "{evil}");
        }
        let name = message.attachments().last().unwrap().attachment_name().unwrap();
        assert_eq!(name, file_name(&format!("{evil}.mp4")), "{evil}");
    }
}

#[test]
fn a_file_name_keeps_its_words_and_loses_what_a_computer_would_stumble_over() {
    for (given, kept) in [
        ("Garten Süd 08:01.mp4", "Garten Süd 0801.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\clips\\a.mkv", "a.mkv"),
        (".hidden", "hidden"),
        ("a\u{202e}4pm.exe", "a 4pm.exe"),
        ("///", "clip"),
    ] {
        assert_eq!(file_name(given), kept);
    }
    let long = file_name(&format!("{}.mp4", "ü".repeat(500)));
    assert_eq!((long.chars().count(), long.ends_with("ü.mp4")), (120, true));
}

#[test]
fn a_clip_never_claims_to_be_a_page_or_a_program() {
    for (claimed, sent) in [
        ("video/x-matroska", "video/x-matroska"),
        ("image/jpeg", "image/jpeg"),
        ("image/svg+xml", "application/octet-stream"),
        ("text/html", "application/octet-stream"),
        ("video/mp4; x=\"\r\nBcc: a@b\"", "application/octet-stream"),
        ("video/", "application/octet-stream"),
        ("", "application/octet-stream"),
    ] {
        assert_eq!(header_text(&clip_type(claimed)), sent, "{claimed:?}");
    }
}

fn header_text(kind: &ContentType) -> String {
    let mut headers = Headers::new();
    headers.set(kind.clone());
    headers.get_raw("Content-Type").unwrap().to_owned()
}

#[test]
fn a_mad_clock_stops_no_mail() {
    for at in [0, u64::MAX] {
        well_formed(&bytes(Letter { at: Timestamp(at), ..letter() }));
    }
}

#[test]
fn a_mail_to_nobody_or_with_a_strange_cid_is_not_made() {
    assert!(Message::new(Letter { to: Vec::new(), ..letter() }, &config("")).is_err());
    for cid in ["", "p1", "p1@", "p1>\r\nX: y@z", "p 1@dms3", &format!("{}@b", "a".repeat(300))] {
        let pictures = vec![Inline { cid: cid.into(), jpeg: JPEG.to_vec() }];
        assert!(Message::new(Letter { pictures, ..letter() }, &config("")).is_err(), "{cid:?}");
    }
}
