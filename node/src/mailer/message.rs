//! What is to be said becomes a message as mail servers carry it. The clip is read while it is sent, never held in memory.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::HEXLOWER;
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use lettre::message::header::{ContentDisposition, ContentTransferEncoding, ContentType, HeaderName, HeaderValue, Headers};
use lettre::message::{Attachment, Mailbox, Mailboxes, MultiPart, MultiPartKind, SinglePart, header};
use ring::digest::{Context, SHA256};

use super::address::Address;
use super::config::MailConfig;
use chunks::Chunks;

mod chunks;

/// What is mailed. The same letter always becomes the same message.
#[derive(Debug)]
pub struct Letter {
    /// When it was written, for `Date`. Part of the identity of the message: it must not change when it is sent again.
    pub at: Timestamp,
    pub thread: Thread,
    /// What it tells of: two mails that say the same of two events are two, though no word of them differs.
    pub events: Vec<EventId>,
    /// All who get it, as the message says. Whom it is sent to is told to [`super::send`].
    pub to: Vec<Address>,
    pub subject: String,
    pub text: String,
    /// Empty: there is only the text.
    pub html: String,
    /// What the HTML shows by `cid:`.
    pub pictures: Vec<Inline>,
    pub clip: Option<Clip>,
}

/// Mails of one thread stand together in a mail program: one for each camera, and one for the house.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// The house's id, so that no two houses share a thread.
    pub house: String,
    /// The id of a camera, or a word.
    pub about: String,
}

#[derive(Debug)]
pub struct Inline {
    /// As the HTML names it: letters, digits, `.`, `_`, `-` and one `@`.
    pub cid: String,
    pub jpeg: Vec<u8>,
}

#[derive(Debug)]
pub struct Clip {
    /// As the reader's computer will call it. Any characters.
    pub name: String,
    /// Such as "video/mp4". What is neither video nor picture travels as "application/octet-stream".
    pub mime: String,
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    /// Opened at once; read while it is sent.
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// A message that is ready to be sent, as often as it takes.
#[derive(Debug)]
pub struct Message {
    id: String,
    /// All but the clip; the end too, if there is none.
    head: Vec<u8>,
    clip: Option<Tail>,
}

/// The clip, which comes last.
#[derive(Debug)]
struct Tail {
    content: Source,
    /// Bytes before they are encoded.
    len: u64,
    end: Vec<u8>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Vec<u8>),
}

/// The end of the year 9999, which has no later one that can be written.
const LAST_DATE: u64 = 253_402_300_799;

impl Message {
    /// Reads the clip once, for the Message-ID: not for a task that others wait for. Errors: no recipient, an impossible cid, a clip that
    /// cannot be read or is larger than `max_attachment`.
    pub fn new(letter: Letter, config: &MailConfig) -> Result<Self> {
        ensure!(!letter.to.is_empty(), "a mail to nobody");
        for picture in &letter.pictures {
            ensure!(is_cid(&picture.cid), "{:?} is no cid", picture.cid);
        }
        let mut print = fingerprint(&letter);
        let opened = letter.clip.map(|clip| opened(clip, config.max_attachment, &mut print)).transpose()?;
        let print = HEXLOWER.encode(&print.finish().as_ref()[..16]);
        let domain = config.from.domain();
        let id = format!("<{print}@{domain}>");

        let mut headers = Headers::new();
        headers.set(header::Date::new(UNIX_EPOCH + Duration::from_secs(letter.at.as_secs().min(LAST_DATE))));
        headers.set(header::From::from(Mailboxes::from(Mailbox::new(Some(one_line(&config.from_name)), config.from.0.clone()))));
        headers.set(header::To::from(letter.to.iter().map(|to| Mailbox::new(None, to.0.clone())).collect::<Mailboxes>()));
        headers.set(header::Subject::from(subject(&letter.subject)));
        headers.set(header::MessageId::from(id.clone()));
        let thread = letter.thread.id(domain);
        headers.set(header::InReplyTo::from(thread.clone()));
        headers.set(header::References::from(thread));
        headers.insert_raw(plain("List-Id", letter.thread.list()));
        headers.insert_raw(plain("Auto-Submitted", "auto-generated".into()));
        headers.insert_raw(plain("X-Auto-Response-Suppress", "All".into()));
        headers.set(header::MIME_VERSION_1_0);

        let words = words(letter.text, letter.html, letter.pictures, &print);
        let Some((name, mime, tail)) = opened else {
            let mut head = headers.to_string().into_bytes();
            head.extend(words);
            return Ok(Self { id, head, clip: None });
        };
        let boundary = format!("m-{print}");
        headers.set(multipart(MultiPartKind::Mixed, boundary.clone()).headers().get::<ContentType>().context("no content type")?);
        let mut part = Headers::new();
        part.set(mime);
        part.set(ContentDisposition::attachment(&name));
        part.set(ContentTransferEncoding::Base64);
        let mut head = format!("{headers}\r\n--{boundary}\r\n").into_bytes();
        head.extend(words);
        head.extend(format!("--{boundary}\r\n{part}\r\n").into_bytes());
        let end = format!("\r\n--{boundary}--\r\n").into_bytes();
        Ok(Self { id, head, clip: Some(Tail { end, ..tail }) })
    }

    /// The Message-ID, with its angle brackets: the same for the same letter, so that whoever gets one twice can tell.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Bytes on the way, to within a line.
    pub fn size(&self) -> u64 {
        let clip = self
            .clip
            .as_ref()
            .map_or(0, |clip| clip.len.div_ceil(chunks::LINE as u64) * chunks::ENCODED_LINE as u64 + clip.end.len() as u64);
        self.head.len() as u64 + clip
    }

    pub fn has_clip(&self) -> bool {
        self.clip.is_some()
    }

    /// All of it, piece by piece. `broken` is set if a clip cannot be read to its end.
    pub(super) fn chunks(&self, broken: Arc<AtomicBool>) -> Chunks<'_> {
        Chunks::new(self, broken)
    }
}

/// The text, and the HTML with its pictures; starts with headers.
fn words(text: String, html: String, pictures: Vec<Inline>, print: &str) -> Vec<u8> {
    let text = SinglePart::plain(text);
    let pictures: Vec<_> = pictures.into_iter().enumerate().map(|(nth, picture)| inline(nth, picture)).collect();
    if html.is_empty() {
        if pictures.is_empty() {
            return text.formatted();
        }
        let mixed = multipart(MultiPartKind::Mixed, format!("r-{print}")).singlepart(text);
        return pictures.into_iter().fold(mixed, MultiPart::singlepart).formatted();
    }
    let related = multipart(MultiPartKind::Related, format!("r-{print}")).singlepart(SinglePart::html(html));
    let related = pictures.into_iter().fold(related, MultiPart::singlepart);
    multipart(MultiPartKind::Alternative, format!("a-{print}")).singlepart(text).multipart(related).formatted()
}

fn inline(nth: usize, picture: Inline) -> SinglePart {
    let name = format!("picture-{}.jpg", nth + 1);
    Attachment::new_inline_with_name(picture.cid, name).body(picture.jpeg, mime("image", "jpeg"))
}

fn multipart(kind: MultiPartKind, boundary: String) -> MultiPart {
    MultiPart::builder().kind(kind).boundary(boundary).build()
}

impl Thread {
    /// The message that never was, to which all of the thread answer. (RFC 5322, section 3.6.4, asks for no more than an id.)
    fn id(&self, domain: &str) -> String {
        format!("<thread-{}@{domain}>", self.print())
    }

    /// RFC 2919, section 2: a list of a house that owns no domain is one below "localhost".
    fn list(&self) -> String {
        format!("<{}.dms3.localhost>", self.print())
    }

    fn print(&self) -> String {
        let mut print = Context::new(&SHA256);
        for part in [&self.house, &self.about] {
            add(&mut print, part.as_bytes());
        }
        HEXLOWER.encode(&print.finish().as_ref()[..8])
    }
}

/// All but the clip.
fn fingerprint(letter: &Letter) -> Context {
    let mut print = Context::new(&SHA256);
    add(&mut print, &letter.at.0.to_be_bytes());
    for text in [&letter.thread.house, &letter.thread.about, &letter.subject, &letter.text, &letter.html] {
        add(&mut print, text.as_bytes());
    }
    for event in &letter.events {
        add(&mut print, &event.0);
    }
    for picture in &letter.pictures {
        add(&mut print, picture.cid.as_bytes());
        add(&mut print, &picture.jpeg);
    }
    print
}

/// With its length, so that no two letters run together.
fn add(print: &mut Context, part: &[u8]) {
    print.update(&(part.len() as u64).to_be_bytes());
    print.update(part);
}

fn opened(clip: Clip, largest: u64, print: &mut Context) -> Result<(String, ContentType, Tail)> {
    let name = file_name(&clip.name);
    add(print, name.as_bytes());
    let too_large = |len: u64| format!("the clip {name:?} has {len} bytes, and max_attachment allows {largest}");
    let (content, len) = match clip.content {
        Content::Bytes(bytes) => {
            print.update(&bytes);
            let len = bytes.len() as u64;
            (Source::Bytes(bytes), len)
        }
        Content::File(path) => {
            let cannot = || format!("cannot read the clip {}", path.display());
            let mut file = File::open(&path).with_context(cannot)?;
            let facts = file.metadata().with_context(cannot)?;
            ensure!(facts.is_file(), "{}: it is no file", cannot());
            if facts.len() > largest {
                bail!(too_large(facts.len()));
            }
            let mut len = 0;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let got = file.read(&mut buffer).with_context(cannot)?;
                if got == 0 {
                    break;
                }
                len += got as u64;
                // It may have grown since.
                if len > largest {
                    bail!(too_large(len));
                }
                print.update(&buffer[..got]);
            }
            (Source::File(file), len)
        }
    };
    if len > largest {
        bail!(too_large(len));
    }
    Ok((name, clip_type(&clip.mime), Tail { content, len, end: Vec::new() }))
}

/// A camera that lies must not get a page or a program opened.
fn clip_type(mime_type: &str) -> ContentType {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-.+/".contains(c);
    let is_media = mime_type.split_once('/').is_some_and(|(kind, sub)| ["video", "image"].contains(&kind) && !sub.is_empty());
    let is_fine = is_media && mime_type != "image/svg+xml" && mime_type.chars().all(is_safe);
    let parsed = is_fine.then(|| ContentType::parse(mime_type).ok()).flatten();
    parsed.unwrap_or_else(|| mime("application", "octet-stream"))
}

fn mime(kind: &str, sub: &str) -> ContentType {
    // Both are written in this file and parse.
    ContentType::parse(&format!("{kind}/{sub}")).unwrap_or(ContentType::TEXT_PLAIN)
}

/// No path, nothing invisible, and short enough for every file system.
fn file_name(name: &str) -> String {
    const LONGEST: usize = 120;
    let name = one_line(name);
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default().trim_matches(['.', ' ']);
    let clean: String = name.chars().filter(|c| !"<>:\"|?*".contains(*c)).collect();
    // What is cut off stands before the ending, by which a computer knows what opens it.
    let count = clean.chars().count();
    let ending = clean.rfind('.').map_or("", |at| &clean[at..]);
    let cut = match (count > LONGEST, ending.chars().count()) {
        (true, end @ 1..=10) => clean.chars().take(LONGEST - end).chain(ending.chars()).collect(),
        (true, _) => clean.chars().take(LONGEST).collect(),
        (false, _) => clean,
    };
    if cut.is_empty() { "clip".to_owned() } else { cut }
}

/// A line of a message has 998 characters at most (RFC 5322, section 2.1.1), and a word cannot be folded.
fn subject(text: &str) -> String {
    one_line(text).chars().take(200).collect()
}

/// Header injection needs a line break, and a lie an invisible or turning character.
fn one_line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let bad = |c: char| c.is_control() || turns(c);
    let spaced: String = text.chars().map(|c| if bad(c) { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_cid(cid: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    cid.len() <= 200 && cid.split_once('@').is_some_and(|(left, right)| part(left) && part(right))
}

/// A header of printable ASCII that nobody else writes.
fn plain(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
