//! What the house says by mail: plain facts in; subject, plain text and HTML out. Putting them into an envelope is the mailer's.

use minijinja::value::Serde;
use minijinja::{Value, context};

use crate::templates::Templates;
pub use facts::{Around, Clip, ClipState, DigestMail, Ended, EventMail, FaultMail, HeldBack, Movement, Picture, TestMail, When};
pub use fault::Fault;
pub(crate) use line::one_line;
pub use line::{Cid, Line, Link, Name, Sentence};

mod facts;
mod fault;
mod line;
mod plain;
#[cfg(test)]
pub(crate) mod samples;

/// More pictures than this are counted, not shown.
pub const MAX_SHOWN: usize = 12;
/// Characters; RFC 5322 would fold what is longer, and no phone shows it.
pub const MAX_SUBJECT: usize = 200;

/// A mail that can be rendered.
#[derive(Debug, Clone)]
pub enum Mail {
    /// A camera saw movement.
    Event(EventMail),
    /// What a camera, or the house, saw since the last mail.
    Digest(DigestMail),
    /// Something is wrong, or good again.
    Fault(FaultMail),
    /// Mail works.
    Test(TestMail),
}

/// A mail ready to be put into its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line of at most [`MAX_SUBJECT`] characters, without control characters.
    pub subject: String,
    /// All that the HTML says, in lines of at most 72 columns (links may be longer).
    pub text: String,
    /// Shows its pictures by `cid:` and asks nobody else for anything. Empty only if our own template is broken: send the text alone then.
    pub html: String,
    /// One sentence for each template of the user that could not be used: for the log and the dashboard.
    pub complaints: Vec<String>,
}

impl Mail {
    /// Reads the user's templates, a few small files. Whatever they hold, a mail comes out: a file of theirs that fails is replaced by ours and complained about.
    pub fn render(&self, templates: &Templates) -> Rendered {
        let mut set = templates.read();
        let facts = self.facts();
        let [subject, text, html] = self.templates();
        let mut part = |name, facts: &Value| {
            set.render(name, facts).map_err(|error| set.complaints.push(format!("Our own template {name} is broken: {error:#}."))).ok()
        };
        let subject = part(subject, &facts).map(|subject| one_line(&subject, MAX_SUBJECT)).filter(|subject| !subject.is_empty());
        let subject = subject.unwrap_or_else(|| "DMS3: a message from your house".into());
        let facts = context! { subject => subject.as_str(), ..facts };
        // Better the bare facts than no mail; seen only if one of our own templates is broken.
        let text = part(text, &facts).unwrap_or_else(|| format!("{self:#?}"));
        let html = part(html, &facts).unwrap_or_default();
        Rendered { subject, text: plain::wrapped(&text), html, complaints: set.complaints }
    }

    fn templates(&self) -> [&'static str; 3] {
        match self {
            Self::Event(_) => ["event.subject.txt", "event.txt", "event.html"],
            Self::Digest(_) => ["digest.subject.txt", "digest.txt", "digest.html"],
            Self::Fault(_) => ["fault.subject.txt", "fault.txt", "fault.html"],
            Self::Test(_) => ["test.subject.txt", "test.txt", "test.html"],
        }
    }

    /// What templates see: the fields of the mail, and what is worked out here.
    fn facts(&self) -> Value {
        match self {
            Self::Event(mail) => {
                let shown = &mail.pictures[..mail.pictures.len().min(MAX_SHOWN)];
                context! {
                    pictures => Value::from(Serde(shown)),
                    rest => mail.pictures.len() - shown.len(),
                    ..Value::from(Serde(mail))
                }
            }
            Self::Digest(mail) => {
                let shown = &mail.movements[..mail.movements.len().min(MAX_SHOWN)];
                let count = mail.movements.len().max(mail.count as usize);
                context! {
                    count,
                    movements => Value::from(Serde(shown)),
                    rest => count - shown.len(),
                    ..Value::from(Serde(mail))
                }
            }
            Self::Fault(mail) => {
                let words = mail.fault.words();
                let headline = mail.ended.as_ref().map_or(&words.headline, |ended| &ended.how);
                context! { headline => headline.as_str(), what => words.what.as_str(), to_do => Value::from(Serde(words.to_do)), ..Value::from(Serde(mail)) }
            }
            Self::Test(mail) => Value::from(Serde(mail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::templates::MAIL;

    fn ours(mail: &Mail) -> Rendered {
        let rendered = mail.render(&MAIL.templates(None));
        assert_eq!(rendered.complaints, Vec::<String>::new());
        rendered
    }

    /// What a person sees: without head, preheader and comments; with alt texts and where links lead.
    fn visible(html: &str) -> String {
        let body = html.split_once("</div>").unwrap().1;
        let mut seen = String::new();
        for piece in body.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').unwrap();
            for attribute in [" alt=\"", " href=\""] {
                if let Some((_, rest)) = tag.split_once(attribute) {
                    seen += rest.split('"').next().unwrap();
                    seen.push(' ');
                }
            }
            // A word may go on in a span; all else ends it.
            if !tag.trim_start_matches('/').starts_with("span") {
                seen.push(' ');
            }
            seen += text;
        }
        let entities = [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#x27;", "'"), ("&#x2f;", "/"), ("&amp;", "&")];
        entities.iter().fold(seen, |text, (entity, character)| text.replace(entity, character))
    }

    fn words(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(|word| word.trim_matches([':', '.', ',', '-']).to_lowercase()).filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn plain_text_and_html_of_every_mail_say_the_same() {
        for (name, mail) in samples::all() {
            let mail = ours(&mail);
            let (text, html) = (words(&mail.text), words(&visible(&mail.html).replace("Open the dashboard", "Dashboard")));
            let only_html: Vec<_> = html.difference(&text).filter(|word| !["&#10003;", "&#10005;"].contains(&word.as_str())).collect();
            assert!(only_html.is_empty(), "{name}: only the HTML says {only_html:?}");
            // "porch saw movement at 8, 5 % of the picture changed" is a heading and two figures there; "Picture: ..." is one.
            let only_text: Vec<_> =
                text.difference(&html).filter(|word| !["at", "of", "the", "picture"].contains(&word.as_str())).collect();
            assert!(only_text.is_empty(), "{name}: only the text says {only_text:?}");
        }
    }

    #[test]
    fn every_mail_holds_all_that_it_was_given() {
        let all = samples::all();
        let says = |name: &str, facts: &[&str]| {
            let mail = ours(&all.iter().find(|(sample, _)| *sample == name).unwrap().1);
            let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            for fact in facts {
                assert!(flat(&mail.text).contains(fact), "{name}: the text does not say {fact}");
                assert!(flat(&visible(&mail.html)).contains(fact), "{name}: the HTML does not say {fact}");
            }
        };
        let usual = ["Monday 23 November 2026", "Europe/Berlin", "https://dms3.local:8443/e/42?a=1&b=2"];
        says("event", &usual);
        says(
            "event",
            &["porch saw movement", "08:01:30", "5 %", "near the middle", "Follows in this thread (12 s, 3.4 MB)", "left at 07:41."],
        );
        says("event-clip", &["Attached to this mail (2 min 3 s, 48 MB)."]);
        says(
            "event-burst",
            &["under 1 %", "Too large to attach (2 min 3 s, 48 MB). You can see it on the dashboard.", "And 3 more pictures"],
        );
        says("event-burst", &["porch sent this by itself", "3 alerts were held back since 07:00 by the hourly cap."]);
        says("event-at-home", &["It is kept at home.", "And 2 more pictures, kept at home."]);
        says("event-bare", &["porch saw movement", "No picture came"]);
        says("event-later", &["The clip of this movement is attached.", "2 min 3 s"]);
        says(
            "event-later-without",
            &[
                "The clip of this movement could not be attached.",
                "Not attached to this mail (2 min 3 s, 48 MB). As long as it is kept, you",
            ],
        );
        says("digest", &usual);
        says("digest", &["porch: 7 more in 10 minutes", "08:03:12", "7 % changed", "No picture"]);
        says("digest-house", &["31 more in 10 minutes", "garden gate", "And 19 more movements on the dashboard."]);
        says("digest-house", &["porch sent this by itself", "3 alerts were held back"]);
        says("fault-camera-lost", &usual);
        says(
            "fault-camera-lost",
            &["Problem", "porch is lost while the house is armed", "Since 18:03", "What you can do:", "its cable, the Wi-Fi."],
        );
        says("fault-detector", &["garage is not watching", "/dev/video0 is busy"]);
        says("fault-disk", &["The disk of garage is nearly full", "190 MB are free"]);
        says("fault-token", &["At 18:03", "Somebody at 192.168.1.77", "find out who is in it"]);
        says("fault-over", &["Over", "porch is back", "From 18:03", "until 18:41"]);
        says("fault-often", &["Problem", "Since 18:03", "It came 4 times within an hour."]);
        says("fault-often-over", &["Over", "until 18:41", "It came 7 more times."]);
        says("test", &["Mail works.", "coordinator sent this at 12:00:05"]);
    }

    #[test]
    fn the_subject_names_camera_share_and_time() {
        let subjects: Vec<_> = samples::all().iter().map(|(_, mail)| ours(mail).subject).collect();
        for subject in [
            "DMS3: porch saw movement (5 %) at 08:01:30",
            "DMS3: porch saw movement at 08:01:30",
            "DMS3: porch, 7 more in 10 minutes (until 08:12)",
            "DMS3: 31 more in 10 minutes (until 08:12)",
            "DMS3: porch is lost while the house is armed",
            "DMS3: porch is back",
            "DMS3: mail works",
        ] {
            assert!(subjects.iter().any(|is| is == subject), "{subject} is not among {subjects:#?}");
        }
    }

    #[test]
    fn a_count_of_zero_held_back_alerts_is_not_told() {
        let held_back = Some(HeldBack { count: 0, since: "07:00".into() });
        let mail = ours(&Mail::Event(EventMail { around: Around { held_back, ..Around::default() }, ..samples::event() }));
        assert!(!mail.text.contains("held back") && !mail.html.contains("held back"));
    }

    /// Mails of every kind in which all that comes from outside is `evil`.
    fn with_texts(evil: &str) -> Vec<Mail> {
        let name = || Name::from(evil);
        let sentence = || Sentence::from(evil);
        let when = || When { time: name(), day: name(), zone: name() };
        let picture = || Picture { cid: Cid::new("p@dms3").unwrap(), width: 0, height: u32::MAX, alt: sentence() };
        let held_back = Some(HeldBack { count: u32::MAX, since: name() });
        let dashboard = Link::new(&format!("https://dms3.local/{}", "a".repeat(900)));
        let around =
            || Around { note: Some(sentence()), why_armed: Some(sentence()), held_back: held_back.clone(), dashboard: dashboard.clone() };
        let movement = || Movement { camera: name(), time: name(), percent: Some(255), picture: Some(picture()) };
        let faults = [
            Fault::CameraLost { camera: name() },
            Fault::DetectorFailed { camera: name(), why: sentence() },
            Fault::NoPicture { camera: name() },
            Fault::Unconfirmed { camera: name() },
            Fault::ArmedItself { camera: name() },
            Fault::Blind { why: sentence() },
            Fault::DiskNearlyFull { node: name(), free_mib: u64::MAX },
            Fault::OutboxStuck { camera: name(), waiting: u64::MAX },
            Fault::TokenLocked { source: name() },
            Fault::IdentityTwice { camera: name(), one: name(), other: name() },
            Fault::PutOut { camera: name(), why: sentence() },
            Fault::StateConflict { what: sentence() },
            Fault::CoordinatorGone { told_by: name() },
            Fault::Other { headline: sentence(), what: sentence(), to_do: vec![sentence(); 9] },
        ];
        let mut mails: Vec<_> = [None, Some(Ended { how: sentence(), when: when() })]
            .iter()
            .flat_map(|ended| faults.iter().map(move |fault| (fault.clone(), ended.clone())))
            .map(|(fault, ended)| {
                Mail::Fault(FaultMail { fault, since: when(), once: false, often: Some(sentence()), ended, around: around() })
            })
            .collect();
        let pictures = std::iter::repeat_with(picture).take(500).collect();
        mails.push(Mail::Event(EventMail { camera: name(), when: when(), pictures, around: around(), ..samples::event() }));
        let movements = std::iter::repeat_with(movement).take(500).collect();
        let digest = DigestMail { camera: None, count: 3, span: name(), until: when(), movements, around: around() };
        mails.extend([Mail::Digest(DigestMail { camera: Some(name()), ..digest.clone() }), Mail::Digest(digest)]);
        mails.push(Mail::Test(TestMail { node: name(), when: when(), around: around() }));
        mails
    }

    #[test]
    fn a_camera_may_have_any_name_and_no_mail_is_harmed() {
        let evils = [
            "</td></table><script>alert(1)</script>".to_owned(),
            "\" onerror=\"alert(1)\" x='".into(),
            "{{ subject }}{% for x in range(9) %}".into(),
            "porch\r\nBcc: thief@example.net\r\n\r\nhello".into(),
            "\u{202e}hcrop\u{2066}\u{200f}\0\u{1b}[31m\u{7f}\u{85}\u{2028}".into(),
            "ü<&\"👨‍👩‍👧".repeat(1_500),
            "x".repeat(10_000),
            String::new(),
        ];
        for evil in &evils {
            for mail in with_texts(evil) {
                let mail = ours(&mail);
                assert!(mail.subject.chars().count() <= MAX_SUBJECT && !mail.subject.contains(char::is_control), "{:?}", mail.subject);
                for part in [&mail.subject, &mail.text, &mail.html] {
                    assert!(
                        !part.contains(|c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{2066}')
                    );
                }
                assert!(
                    !mail.html.contains("<script") && !mail.html.contains("onerror=\"") && !mail.html.contains("</td></table><"),
                    "{}",
                    mail.html
                );
                assert!(!mail.text.lines().any(|line| line.starts_with("Bcc:") && line.ends_with("net")), "{}", mail.text);
                for line in mail.text.lines() {
                    assert!(line.chars().count() <= 72 || line.starts_with("https://"), "{line}");
                }
                // Gmail cuts off what is longer than 102 kB, and with it the button.
                assert!(mail.html.len() < 100_000, "{} bytes", mail.html.len());
                assert!(mail.html.ends_with("</html>"));
            }
        }
    }

    #[test]
    fn no_mail_asks_anybody_for_anything() {
        for (name, mail) in samples::all() {
            let html = ours(&mail).html;
            let link = " href=\"https:&#x2f;&#x2f;dms3.local:8443&#x2f;e&#x2f;42?a=1&amp;b=2\"";
            let rest = html.replace(link, "");
            for call in ["http", "//", "url(", "@import", "<link", "<script", "<iframe", "<object", " href="] {
                assert!(!rest.contains(call), "{name} holds {call}");
            }
            for source in html.split(" src=\"").skip(1) {
                assert!(source.starts_with("cid:p"), "{name}: {source:.40}");
            }
        }
    }

    #[test]
    fn every_mail_can_be_read_in_light_and_in_dark_mode() {
        const PAIRS: [(&str, &str); 12] = [
            ("16191d", "ffffff"),
            ("545b64", "ffffff"),
            ("16191d", "e4e7ea"),
            ("5c3900", "fdf1dc"),
            ("ffffff", "16191d"),
            ("ffffff", "b3261e"),
            ("ffffff", "1f6b3a"),
            ("eceef0", "1a1e23"),
            ("a7afb8", "1a1e23"),
            ("eceef0", "262b31"),
            ("ffdf9e", "3a2a0c"),
            ("16191d", "eceef0"),
        ];
        /// Of edges and of the page around the card: nothing is written on them.
        const BARE: [&str; 6] = ["eef0f1", "0e1114", "dfe2e5", "343a41", "b26a00", "d9952b"];
        // WCAG 2.2, "relative luminance" and "contrast ratio".
        let luminance = |hex: &str| {
            let channel = |at: usize| {
                let value = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
                if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
        };
        for (text, ground) in PAIRS {
            let (a, b) = (luminance(text), luminance(ground));
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            assert!(contrast >= 4.5, "#{text} on #{ground}: {contrast:.1}");
        }
        for (name, mail) in samples::all() {
            let html = ours(&mail).html;
            for colour in html.split('#').skip(1).filter_map(|rest| rest.get(..6)).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            {
                let known = BARE.contains(&colour) || PAIRS.iter().any(|(text, ground)| [*text, *ground].contains(&colour));
                assert!(known, "{name}: nobody looked at #{colour}");
            }
            for tag in html.split_once("<body").unwrap().1.split('<') {
                let dark_text = [";color:#16191d", ";color:#545b64", ";color:#5c3900"].iter().any(|colour| tag.contains(colour));
                assert!(
                    !dark_text || ["text", "muted", "blank", "note"].iter().any(|class| tag.contains(class)),
                    "{name}: stays dark: {tag}"
                );
            }
        }
    }
}
