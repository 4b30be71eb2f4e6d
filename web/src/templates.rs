//! Our templates, and a user's in their place: file by file, and never so that a mail is lost by it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};
use serde::Serialize;

use crate::mail::one_line;

mod words;

/// A user's file that is larger is refused.
pub const MAX_FILE: u64 = 256 * 1024;
/// How deep templates may include and call each other. Ours go four deep.
const MAX_DEPTH: usize = 40;

/// Templates that belong together.
#[derive(Debug)]
pub struct Family {
    /// Each template by its name. A user's directory is asked for these names and no other, so no name can lead out of it.
    files: &'static [(&'static str, &'static str)],
    /// Work that one rendering may do.
    fuel: u64,
    /// Bytes that a template may make.
    longest: usize,
    /// Whether one that makes nothing is broken.
    must_speak: bool,
    /// What a template stands on: blamed after it.
    foundations: fn(&str) -> &'static [&'static str],
    /// What its templates may call.
    functions: fn(&mut Environment<'static>),
}

macro_rules! files {
    ($dir:literal: $($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../templates/", $dir, "/", $name)))),*] };
}

/// Of mails. Our longest takes 2 000 units of work; this much is over in a fraction of a second on the oldest Pi and can take 64 bytes a unit,
/// 6.4 MB. Gmail cuts a mail off after 102 kB, so nobody needs longer ones.
pub static MAIL: Family = Family {
    fuel: 100_000,
    longest: 1024 * 1024,
    must_speak: true,
    foundations: |name| if name.ends_with(".html") { &["words.txt", "frame.html"] } else { &["words.txt", "frame.txt"] },
    functions: |_| {},
    files: files!["mail":
    "frame.html",
    "frame.txt",
    "words.txt",
    "event.subject.txt",
    "event.txt",
    "event.html",
    "digest.subject.txt",
    "digest.txt",
    "digest.html",
    "fault.subject.txt",
    "fault.txt",
    "fault.html",
    "test.subject.txt",
    "test.txt",
    "test.html",
    ],
};

/// Of pages. The first screen with 50 nodes takes some 100 000 units of work.
pub static PAGE: Family = Family {
    fuel: 5_000_000,
    longest: 4 * 1024 * 1024,
    // A part may have nothing to say: how the first camera comes, once there is one.
    must_speak: false,
    foundations: |_| &["macros.html", "frame.html", "door.html"],
    functions: |env| {
        env.add_function("asset", asset);
        env.add_filter("commands", commands);
    },
    files: files!["page":
        "account.html",
        "cameras.html",
        "door.html",
        "error.html",
        "event.html",
        "events.html",
        "frame.html",
        "here.html",
        "home.html",
        "log.html",
        "macros.html",
        "node-add.html",
        "node.html",
        "parts/asking.html",
        "parts/banner.html",
        "parts/cameras.html",
        "parts/chart.html",
        "parts/confirm.html",
        "parts/events.html",
        "parts/first.html",
        "parts/node.html",
        "parts/nodes.html",
        "parts/pairing.html",
        "parts/people.html",
        "parts/state.html",
        "parts/token.html",
        "parts/why.html",
        "phones.html",
        "set-up.html",
        "sign-in.html",
        "system.html",
    ],
};

/// `{{ asset("app.css") }}`: where it is found.
fn asset(name: &str) -> Result<String, Error> {
    crate::assets::url(name).ok_or_else(|| Error::new(minijinja::ErrorKind::InvalidOperation, format!("there is no asset {name:?}")))
}

/// `{{ text|commands }}`: what stands between backticks is something to type.
fn commands(text: &str) -> Value {
    let mut html = String::with_capacity(text.len() + 16);
    for (nth, part) in text.split('`').enumerate() {
        let escaped = part.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#x27;");
        match nth % 2 {
            0 => html.push_str(&escaped),
            _ => html.push_str(&format!("<code>{escaped}</code>")),
        }
    }
    Value::from_safe_string(html)
}

/// Where templates come from.
#[derive(Debug, Clone)]
pub struct Templates {
    family: &'static Family,
    dir: Option<PathBuf>,
}

impl Family {
    /// The names of all templates that a user may replace.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.files.iter().map(|(name, _)| *name)
    }

    /// The text of one of ours, to start one's own from.
    pub fn ours(&self, name: &str) -> Option<&'static str> {
        self.files.iter().find(|(ours, _)| *ours == name).map(|(_, source)| *source)
    }

    /// `dir`: a user's own templates; a file there with the name of one of ours takes its place. `None`: only ours.
    pub fn templates(&'static self, dir: Option<PathBuf>) -> Templates {
        Templates { family: self, dir }
    }
}

impl Templates {
    /// `name` with `facts`, without a house behind it.
    pub fn render(&self, name: &'static str, facts: &impl Serialize) -> Result<String, Error> {
        self.read().render(name, &Value::from(Serde(facts)))
    }

    pub(crate) fn is_users(&self) -> bool {
        self.dir.is_some()
    }

    /// Reads the user's files anew, so that an edit counts from the next mail on and needs no restart.
    pub(crate) fn read(&self) -> Set {
        let family = self.family;
        let env = environment(family);
        let mut set = Set { family, env, users: BTreeSet::new(), read: BTreeMap::new(), dir: self.dir.clone(), complaints: Vec::new() };
        if let Some(dir) = &self.dir
            && let Err(error) = fs::read_dir(dir)
        {
            set.complaints.push(format!("The directory of your templates, {}, cannot be read ({error}); our own are used.", dir.display()));
        }
        for &(name, source) in family.files {
            set.add(name, source);
        }
        set
    }
}

/// The templates as they are now.
pub(crate) struct Set {
    family: &'static Family,
    env: Environment<'static>,
    /// Which of them are the user's.
    users: BTreeSet<&'static str>,
    /// The user's files as they were read, or why they were not.
    read: BTreeMap<&'static str, String>,
    dir: Option<PathBuf>,
    /// One sentence for each file of the user that cannot be used.
    pub(crate) complaints: Vec<String>,
}

impl Set {
    pub(crate) fn log_complaints(&self) {
        for complaint in &self.complaints {
            tracing::warn!("{complaint}");
        }
    }

    /// Whether they were made of the same files: one that failed meanwhile is not tried again before it is edited.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.read == other.read
    }

    /// Fails only if one of our own templates does, which is a fault of ours that the tests look for.
    pub(crate) fn render(&mut self, name: &'static str, facts: &Value) -> Result<String, Error> {
        loop {
            let error = match self.attempt(name, facts) {
                Ok(text) => return Ok(text),
                Err(error) => error,
            };
            // Each round puts at least one of the user's files aside, so this ends.
            let Some(culprit) = self.culprit(name, &error) else { return Err(error) };
            let source = self.env.get_template(culprit).map(|template| template.source().to_owned()).unwrap_or_default();
            self.complain(culprit, place(&error, culprit, &source), &reason(&error, self.family.longest));
            self.put_ours_back(culprit);
        }
    }

    pub(crate) fn attempt(&self, name: &str, facts: &Value) -> Result<String, Error> {
        let mut out = Capped { bytes: Vec::new(), longest: self.family.longest };
        self.env.get_template(name)?.render_captured_to(facts.clone(), &mut out)?;
        let text = String::from_utf8_lossy(&out.bytes).trim().to_owned();
        if text.is_empty() && self.family.must_speak {
            Err(Error::new(minijinja::ErrorKind::InvalidOperation, "it says nothing"))
        } else {
            Ok(text)
        }
    }

    /// Ours, or the user's if there is one that can be read and parsed.
    fn add(&mut self, name: &'static str, source: &'static str) {
        match self.dir.as_deref().map_or(Ok(None), |dir| read_user_file(dir, name)) {
            Ok(None) => {}
            Ok(Some(users)) => match self.env.add_template_owned(name, users.clone()) {
                Ok(()) => {
                    self.read.insert(name, users);
                    self.users.insert(name);
                    return;
                }
                Err(error) => {
                    self.complain(name, place(&error, name, &users), &reason(&error, self.family.longest));
                    self.read.insert(name, users);
                }
            },
            Err(why) => {
                self.complain(name, String::new(), &why.to_string());
                self.read.insert(name, why.to_string());
            }
        }
        if let Err(error) = self.env.add_template(name, source) {
            self.complaints.push(format!("Our own template {name} is broken: {error}."));
        }
    }

    fn put_ours_back(&mut self, name: &'static str) {
        self.users.remove(name);
        if let Some(source) = self.family.ours(name) {
            // Ours was parsed by the tests; if it fails all the same, the next rendering tells.
            let _ = self.env.add_template(name, source);
        }
    }

    /// The user's file that is to blame: where it happened; else the one that was asked for; else one that it stands on. No other takes part.
    fn culprit(&self, name: &str, error: &Error) -> Option<&'static str> {
        let mut suspects: Vec<&str> = errors(error).filter_map(Error::name).collect();
        suspects.reverse();
        suspects.push(name);
        suspects.extend((self.family.foundations)(name));
        suspects.into_iter().find_map(|name| self.users.get(name)).copied()
    }

    /// `place`: "line 3 ..." or nothing.
    fn complain(&mut self, name: &str, place: String, why: &str) {
        let path = self.dir.as_deref().unwrap_or(Path::new("")).join(name);
        let why = one_line(&format!("{place}{why}"), 300);
        let why = why.trim_end_matches('.');
        self.complaints.push(format!("Your template {} cannot be used ({why}); our own was used instead.", path.display()));
    }
}

fn environment(family: &Family) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(family.fuel));
    env.set_recursion_limit(MAX_DEPTH);
    // A line with nothing but a tag leaves no empty line in a plain text.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    words::add_to(&mut env);
    (family.functions)(&mut env);
    env
}

/// `None`: the user has no such file.
fn read_user_file(dir: &Path, name: &str) -> io::Result<Option<String>> {
    let refuse = |why: String| Err(io::Error::new(ErrorKind::InvalidData, why));
    let path = match dir.join(name).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !path.starts_with(dir.canonicalize()?) {
        return refuse("it is a link that leads out of the directory".into());
    }
    // Looked at before it is opened: opening a pipe waits for its other end for ever.
    if !path.metadata()?.is_file() {
        return refuse("it is not a file".into());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return refuse(format!("it is larger than {} KiB", MAX_FILE / 1024));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => refuse("it is not UTF-8".into()),
    }
}

/// An error and those that caused it, the outermost first.
fn errors(error: &Error) -> impl Iterator<Item = &Error> {
    std::iter::successors(Some(error), |&error| error.source().and_then(|source| source.downcast_ref()))
}

/// The line in `name` and what stands there, if the error says one.
fn place(error: &Error, name: &str, source: &str) -> String {
    let Some(line) = errors(error).filter(|error| error.name() == Some(name)).last().and_then(Error::line) else { return String::new() };
    let text = source.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    format!("line {line}, `{}`: ", one_line(text, 80))
}

fn reason(error: &Error, longest: usize) -> String {
    use minijinja::ErrorKind::{InvalidOperation, OutOfFuel, UndefinedError, WriteFailure};
    let error = errors(error).last().unwrap_or(error);
    match (error.kind(), error.detail()) {
        (OutOfFuel, _) => "it does not come to an end, or needs too much memory".into(),
        (WriteFailure, _) => format!("what it makes is longer than {} KiB", longest / 1024),
        (UndefinedError, None) => "it names something that does not exist".into(),
        (InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// A writer that refuses what is too much.
struct Capped {
    bytes: Vec<u8>,
    longest: usize,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.longest {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;
    use crate::mail::{Mail, Rendered, samples};

    fn event(templates: &Templates) -> Rendered {
        Mail::Event(samples::event()).render(templates)
    }

    fn house() -> (TempDir, Templates) {
        let dir = tempfile::tempdir().unwrap();
        let templates = MAIL.templates(Some(dir.path().to_owned()));
        (dir, templates)
    }

    fn with(name: &str, text: impl AsRef<[u8]>) -> Rendered {
        let (dir, templates) = house();
        fs::write(dir.path().join(name), text).unwrap();
        event(&templates)
    }

    /// The mail is ours, and one sentence says which file and why.
    fn falls_back(mail: &Rendered, name: &str, why: &str) {
        let ours = event(&MAIL.templates(None));
        assert_eq!((&mail.subject, &mail.text, &mail.html), (&ours.subject, &ours.text, &ours.html));
        assert_eq!(mail.complaints.len(), 1, "{:?}", mail.complaints);
        let complaint = &mail.complaints[0];
        assert!(complaint.contains(&format!("/{name} cannot be used (")) && complaint.contains(why), "{complaint}");
        assert!(complaint.ends_with("; our own was used instead."), "{complaint}");
    }

    #[test]
    fn a_users_template_replaces_just_its_file() {
        let ours = event(&MAIL.templates(None));
        let mail = with("event.txt", "Bewegung: {{ camera }} um {{ when.time }}");
        assert_eq!(mail.text, "Bewegung: porch um 08:01:30\n");
        assert_eq!((mail.subject, mail.html), (ours.subject.clone(), ours.html.clone()));
        assert_eq!(mail.complaints, [""; 0]);

        let mail = with("frame.txt", "{% block matter %}{% endblock %} -- the Smiths");
        assert!(mail.text.contains("porch saw movement") && mail.text.ends_with("-- the Smiths\n"), "{}", mail.text);
        assert_eq!(mail.html, ours.html);
    }

    #[test]
    fn a_users_page_is_escaped_and_a_users_subject_stays_one_line() {
        let (dir, templates) = house();
        fs::write(dir.path().join("test.html"), "<b>{{ node }}</b>").unwrap();
        fs::write(dir.path().join("test.subject.txt"), "{{ node }}\r\nBcc: thief@example.net\n").unwrap();
        let Some((_, Mail::Test(mail))) = samples::all().pop() else { panic!("the last sample is the test mail") };
        let mail = Mail::Test(crate::mail::TestMail { node: "<i>".into(), ..mail }).render(&templates);
        assert_eq!((mail.subject.as_str(), mail.html.as_str()), ("<i> Bcc: thief@example.net", "<b>&lt;i&gt;</b>"));
    }

    #[test]
    fn a_users_broken_template_falls_back_to_ours_and_says_so() {
        falls_back(&with("event.txt", "one\n{% if %}"), "event.txt", "line 2, `{% if %}`: syntax error");
        falls_back(
            &with("event.txt", "{{ camera }}\n\n{{ kamera }}"),
            "event.txt",
            "line 3, `{{ kamera }}`: it names something that does not exist",
        );
        falls_back(&with("event.html", "\n{{ camera.name.first }}"), "event.html", "line 2, ");
        falls_back(&with("event.subject.txt", "{{ camera|shout }}"), "event.subject.txt", "line 1, `{{ camera|shout }}`: unknown filter");
        falls_back(&with("event.txt", "{# nothing #}\n \n"), "event.txt", "it says nothing");
        falls_back(&with("event.txt", b"caf\xe9"), "event.txt", "it is not UTF-8");
        falls_back(&with("event.txt", vec![b'x'; 256 * 1024 + 1]), "event.txt", "larger than 256 KiB");
        // The mail was asked for by another name, which is ours and not to blame.
        falls_back(&with("frame.html", "\n{{ nobody }}"), "frame.html", "line 2, ");
        falls_back(
            &with("words.txt", "{% macro clip_words(clip, dashboard) %}\n\n{{ clip.colour }}{% endmacro %}"),
            "words.txt",
            "line 3, `{{ clip.colour }}",
        );
        falls_back(&with("words.txt", "no macros here"), "words.txt", "");
    }

    #[test]
    fn a_users_template_that_never_ends_or_grows_without_end_is_stopped() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        falls_back(&with("event.txt", loops), "event.txt", "does not come to an end");
        let doubled = format!("{{% set x = camera %}}{}", "{% set x = x ~ x %}".repeat(60));
        falls_back(&with("event.txt", doubled), "event.txt", "does not come to an end");
        falls_back(&with("event.txt", "{{ 'x' * 1000000000000 }}"), "event.txt", "");
        falls_back(
            &with("event.txt", format!("{{% for a in range(20) %}}{}{{% endfor %}}", "x".repeat(60_000))),
            "event.txt",
            "longer than 1024 KiB",
        );
        falls_back(&with("event.txt", "{% include 'event.txt' %}"), "event.txt", "recursion");
        falls_back(&with("event.txt", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), "event.txt", "recursion");
        falls_back(&with("event.txt", format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))), "event.txt", "recursion");
    }

    #[test]
    fn no_template_leads_out_of_the_users_directory() {
        let (dir, templates) = house();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        for name in ["../secret", "/etc/passwd", "secret", outside.path().join("secret").to_str().unwrap()] {
            fs::write(dir.path().join("event.txt"), format!("{{% include {name:?} %}}")).unwrap();
            falls_back(&event(&templates), "event.txt", "non-existing template");
        }
        fs::remove_file(dir.path().join("event.txt")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("event.txt")).unwrap();
        falls_back(&event(&templates), "event.txt", "leads out of the directory");
    }

    #[test]
    fn what_is_not_a_readable_file_is_complained_about_and_waits_for_nothing() {
        let (dir, templates) = house();
        let path = dir.path().join("event.html");
        fs::create_dir(&path).unwrap();
        falls_back(&event(&templates), "event.html", "it is not a file");
        fs::remove_dir(&path).unwrap();
        // Opening it would wait for somebody who writes.
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        falls_back(&event(&templates), "event.html", "it is not a file");
        fs::remove_file(&path).unwrap();
        symlink(&path, &path).unwrap();
        falls_back(&event(&templates), "event.html", "symbolic links");
        drop(dir);
        let mail = event(&templates);
        assert!(mail.complaints.len() == 1 && mail.complaints[0].contains("directory of your templates"), "{:?}", mail.complaints);
        assert_eq!(mail.html, event(&MAIL.templates(None)).html);
    }

    #[test]
    fn an_edit_counts_from_the_next_mail_on() {
        let (dir, templates) = house();
        let path = dir.path().join("event.subject.txt");
        for subject in ["one", "two"] {
            fs::write(&path, subject).unwrap();
            assert_eq!(event(&templates).subject, subject);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(event(&templates).subject, "DMS3: porch saw movement (5 %) at 08:01:30");
    }

    #[test]
    fn what_is_to_be_typed_is_marked_and_nothing_else_becomes_markup() {
        let said = commands("<b> run `sudo a & b` as \"root\"").to_string();
        assert_eq!(said, "&lt;b&gt; run <code>sudo a &amp; b</code> as &quot;root&quot;");
        assert_eq!(commands("half `open <i>").to_string(), "half <code>open &lt;i&gt;</code>");
    }

    #[test]
    fn each_of_our_templates_is_what_lies_in_the_directory() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/mail");
        let there: BTreeSet<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(there, MAIL.names().map(str::to_owned).collect());
        for name in MAIL.names() {
            environment(&MAIL).add_template(name, MAIL.ours(name).unwrap()).unwrap();
        }
    }
}
