//! `hook` and `mail`: what a detector's hook runs. Hands over and ends; no runtime, no config, since Motion waits for nobody.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use dms3_core::event::Said;
use dms3_core::id::EventId;
use rustix::fs::OFlags;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendmsg, socket_with,
};

use crate::clock::wall;
use crate::hook::{Answer, Call, LIMIT, SOCKET, encode};
use crate::spool;

/// A node that is alive answers in milliseconds; one whose disk is slow gets this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a hook ends with (sysexits.h).
const USAGE: u8 = 64;
const NO_INPUT: u8 = 66;
const NOT_KEPT: u8 = 75;

/// Hand over what a detector saw (the detector's hooks run this)
///
/// Ends with 0 only when the event is on the disk of this machine: taken by the node, or, if it does not run or is called too often, left in
/// the spool, which it reads later. 64: wrong arguments. 66: there is no such file, or not one that is taken. 75: nothing could be written.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    what: What,
    /// The detector's own name of the event (Motion: %{eventid})
    #[arg(long, allow_hyphen_values = true)]
    event: Option<String>,
    /// Name of the camera, as in the node's config (Motion: %$)
    #[arg(long, allow_hyphen_values = true)]
    camera: Option<String>,
    /// Motion's kind of file (%n): 2 is a snapshot
    #[arg(long)]
    kind: Option<u32>,
    /// Changed pixels (Motion: %D)
    #[arg(long, allow_hyphen_values = true)]
    pixels: Option<String>,
    /// The picture or movie (Motion: "%f")
    #[arg(long, allow_hyphen_values = true)]
    file: Option<PathBuf>,
    /// When it was: seconds since 1970 (Motion: %s) or local time as 2026-11-23T08:01:30
    #[arg(long)]
    at: Option<String>,
    #[command(flatten)]
    places: Places,
}

/// Where the node of this machine is reached.
#[derive(Debug, Clone, clap::Args)]
struct Places {
    /// The node's `run_dir`
    #[arg(long, value_name = "DIR", default_value = "/run/dms3")]
    run_dir: PathBuf,
    /// Where events wait while the node does not run
    #[arg(long, value_name = "DIR", default_value = spool::DEFAULT)]
    spool: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    EventStart,
    Picture,
    Movie,
    EventEnd,
    CameraLost,
    CameraFound,
}

const MAIL_HELP: &str = "\
Hand over a picture or movie of Motion, as the Go program did; the line in motion.conf is:
  on_picture_save dms3-node mail -pixels=%D -filename=%f    (or dms3mail -pixels=%D -filename=%f)

  -pixels    changed pixels (%D)
  -filename  the picture or movie (%f)
  -run-dir   the node's `run_dir` [/run/dms3]
  -spool     where it waits while the node does not run [/var/spool/dms3]

It ends as `dms3-node hook` does, which hands over more (`dms3-node hook --help`). `dms3-node mail test` sends a mail to try the mail server.";

/// Motion's number of a snapshot.
const SNAPSHOT: u32 = 2;

/// Runs the command, if these arguments are one of a hook; else `None`. Before everything else: no runtime is started for it.
pub fn early(arguments: &[OsString]) -> Option<ExitCode> {
    let called_as = arguments.first().map(Path::new).and_then(Path::file_name)?;
    let first = arguments.get(1).map(OsString::as_os_str);
    if called_as == "dms3mail" {
        return Some(end(mail(arguments.get(1..).unwrap_or_default())));
    }
    match first.and_then(OsStr::to_str) {
        // The other word of that name is a command for people.
        Some("mail") if arguments.get(2).is_some_and(|word| word == "test") => None,
        Some("mail") => Some(end(mail(arguments.get(2..).unwrap_or_default()))),
        Some("hook") => {
            #[derive(Parser)]
            #[command(name = "dms3-node hook", version)]
            struct Alone {
                #[command(flatten)]
                args: Args,
            }
            let words = std::iter::once(OsString::from("dms3-node hook")).chain(arguments.iter().skip(2).cloned());
            match Alone::try_parse_from(words) {
                Ok(Alone { args }) => Some(end(run(args))),
                Err(error) => {
                    let _ = error.print();
                    Some(if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS })
                }
            }
        }
        _ => None,
    }
}

/// For people and Motion's log: which command failed, why, and what to do.
fn end(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("dms3-node: {error:#}");
    match error.downcast_ref::<Code>() {
        Some(code) => code.0.into(),
        None => NOT_KEPT.into(),
    }
}

/// With what the hook ends.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.words())]
struct Code(u8);

impl Code {
    fn words(&self) -> &'static str {
        match self.0 {
            USAGE => "wrong arguments (see `dms3-node hook --help`)",
            NO_INPUT => "the file was not taken",
            _ => "nothing was kept",
        }
    }
}

fn run(args: Args) -> Result<()> {
    let said = match args.what {
        What::EventStart => Said::EventStart,
        What::Picture if args.kind == Some(SNAPSHOT) => Said::Snapshot,
        What::Picture => Said::Picture,
        What::Movie => Said::Movie,
        What::EventEnd => Said::EventEnd,
        What::CameraLost => Said::CameraLost,
        What::CameraFound => Said::CameraFound,
    };
    if matches!(args.what, What::Picture | What::Movie) && args.file.is_none() {
        return Err(anyhow!("a picture or movie needs --file").context(Code(USAGE)));
    }
    let pixels = args.pixels.as_deref().map(|pixels| number(pixels, "--pixels")).transpose()?;
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    hand_over(said, text(args.event), text(args.camera), pixels, text(args.at), args.file.as_deref(), &args.places)
}

/// The Go program's line: `-pixels=%D -filename=%f`, in any order, with one dash or two, the value also as the next word.
fn mail(arguments: &[OsString]) -> Result<()> {
    if let [word] = arguments
        && ["--help", "-help", "-h"].iter().any(|help| word == help)
    {
        println!("{MAIL_HELP}");
        return Ok(());
    }
    let (mut pixels, mut file) = (None, None);
    let mut places = Places { run_dir: "/run/dms3".into(), spool: spool::DEFAULT.into() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        let Some(option) = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")) else {
            return Err(wrong_mail(word));
        };
        let (name, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (&option[..at], OsStr::from_bytes(&option[at + 1..]).to_owned()),
            None => (option, words.next().cloned().ok_or_else(|| wrong_mail(word))?),
        };
        match name {
            b"pixels" => {
                let text = value.to_str().ok_or_else(|| wrong_mail(&value))?;
                pixels = Some(text.parse().map_err(|_| wrong_mail(&value))?);
            }
            b"filename" => file = Some(PathBuf::from(value)),
            b"run-dir" => places.run_dir = value.into(),
            b"spool" => places.spool = value.into(),
            _ => return Err(wrong_mail(word)),
        }
    }
    let (Some(pixels), Some(file)) = (pixels, file) else {
        return Err(wrong_mail(OsStr::new("")));
    };
    let said = if is_movie(&file) { Said::Movie } else { Said::Picture };
    hand_over(said, None, None, Some(pixels), None, Some(&file), &places)
}

fn wrong_mail(word: &OsStr) -> anyhow::Error {
    let found = if word.is_empty() { "both are needed".to_owned() } else { format!("cannot use {}", word.display()) };
    anyhow!("{found}; the line in motion.conf is: on_picture_save dms3-node mail -pixels=%D -filename=%f").context(Code(USAGE))
}

fn number(text: &str, name: &str) -> Result<u64> {
    text.parse().map_err(|_| anyhow!("{name} {text:?} is no number of pixels").context(Code(USAGE)))
}

/// What Motion names a movie (`movie_container`).
fn is_movie(file: &Path) -> bool {
    let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    ["mp4", "mkv", "avi", "mov", "webm", "flv", "mpg", "mpeg", "swf", "ogg", "m4v"].contains(&extension.as_str())
}

fn hand_over(
    said: Said,
    event: Option<String>,
    camera: Option<String>,
    pixels: Option<u64>,
    at: Option<String>,
    path: Option<&Path>,
    places: &Places,
) -> Result<()> {
    let file = path.map(open).transpose()?;
    let name = path.and_then(Path::file_name).map(|name| name.as_bytes().to_vec());
    let call = Call { said, event, camera, pixels, at, called: wall(), file: name };
    let (frame, socket) = (encode(&call).context(Code(USAGE))?, places.run_dir.join(SOCKET));
    let why = match ask(&socket, &frame, file.as_ref()) {
        Ok(Answer::Kept { .. }) => return Ok(()),
        // A node of another version than this hook (an upgrade) takes it from the spool when it was started anew.
        Ok(Answer::Later { why }) => anyhow!(why),
        Err(error) => error,
    };
    let id = EventId::new(call.called, rand::random());
    spool::leave(&places.spool, id, &call, file)
        .with_context(|| {
            format!("the node did not take it ({}: {why:#}) and it cannot be left in {}", socket.display(), places.spool.display())
        })
        .context(Code(NOT_KEPT))
}

/// Only a regular file that this user can read, and not through a link: whoever can make a link in the directory of pictures must not send
/// other files to people.
fn open(path: &Path) -> Result<File> {
    let taken = || -> Result<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).map_err(|error| {
            if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                anyhow!("it is a symbolic link")
            } else {
                error.into()
            }
        })?;
        ensure!(file.metadata()?.is_file(), "it is not a regular file");
        Ok(file)
    };
    taken().with_context(|| format!("cannot take {}", path.display())).context(Code(NO_INPUT))
}

/// A node that hangs takes nobody in, and its queue may be full: who waited for a place in it would wait for ever.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn ask(socket: &Path, frame: &[u8], file: Option<&File>) -> Result<Answer> {
    let mut stream = connect(socket).context("no node answers")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = file.map(|file| [file.as_fd()]);
    if let Some(descriptors) = &descriptors {
        ensure!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "no room for the descriptor");
    }
    let sent = sendmsg(&stream, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL).map_err(io::Error::from).context("asking")?;
    stream.write_all(frame.get(sent..).unwrap_or_default()).context("asking")?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).context("no answer")?;
    let length = u32::from_be_bytes(head) as usize;
    ensure!(length <= LIMIT, "an answer of {length} bytes");
    let mut text = vec![0; length];
    stream.read_exact(&mut text).context("no answer")?;
    serde_json::from_slice(&text).context("is the node of another version than this hook?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_does_not_wait_for_a_place_in_the_queue_of_a_node_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET);
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10);
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_a_node_of_another_version_does_not_understand_waits_in_the_spool() {
        for answer in [&encode(&Answer::Later { why: "what is this?".to_owned() }).unwrap()[..], b"\0\0\0\x02{}", b""] {
            let dir = tempfile::tempdir().unwrap();
            let places = Places { run_dir: dir.path().to_owned(), spool: dir.path().to_owned() };
            let listener = std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap();
            let answer = answer.to_vec();
            let node = std::thread::spawn(move || {
                let (mut visitor, _) = listener.accept().unwrap();
                visitor.read_exact(&mut [0; 4]).unwrap();
                visitor.write_all(&answer).unwrap();
            });
            hand_over(Said::EventStart, Some("7".to_owned()), None, None, None, None, &places).unwrap();
            node.join().unwrap();
            assert_eq!(spool::entries(dir.path()).unwrap().len(), 1);
        }
    }
}
