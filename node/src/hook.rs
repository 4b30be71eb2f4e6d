//! The hook socket: a detector's hook hands over what was seen and the open file, and nothing else can be done here.
//!
//! One call a connection: `u32 length` (big endian), then [`Call`] as JSON, its first byte with the descriptor of the file if there is one.
//! The answer has the same shape. Whoever calls too often, or too many times at once, is told so before he is heard; his hook leaves it in the
//! spool (`guests`).

use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dms3_core::event::Said;
use dms3_core::id::EventId;
use dms3_core::time::Timestamp;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::guests::{Guests, Place};

mod guests;

/// Its name in `run_dir`.
pub const SOCKET: &str = "hook.sock";
/// Members may hand in events.
pub const GROUP: &str = "dms3-hook";
/// Longest call or answer, in bytes.
pub const LIMIT: usize = 16 * 1024;
/// A visitor says what he has to say in this time; a hook has nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a hook says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub said: Said,
    /// The detector's own name of the event.
    pub event: Option<String>,
    /// Its name of the camera.
    pub camera: Option<String>,
    /// Changed pixels.
    pub pixels: Option<u64>,
    /// When it happened, as the hook was told; local time as "2026-11-23T08:01:30", or seconds since 1970.
    pub at: Option<String>,
    /// When the hook was called, by the clock of this machine.
    pub called: Timestamp,
    /// Name of the file without its directory, whatever its bytes are; the descriptor comes with it.
    pub file: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is on the disk, as part of this event.
    Kept { event: EventId },
    /// Not now, or it was not understood (a hook of another version): the hook is to leave it in the spool.
    Later { why: String },
}

/// A socket that is bound.
#[derive(Debug)]
pub struct HookSocket {
    listener: UnixListener,
}

impl HookSocket {
    /// In the place of one that an earlier node left. That no other node lives here the control socket has seen.
    pub fn bind(path: &Path) -> Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the old socket {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(|| format!("cannot create the hook socket {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .with_context(|| format!("cannot protect {}", path.display()))?;
        // Without the group (no installation, a test) only root and our own user can come in: our Motion is of that user.
        if let Some(group) = crate::owner::group(GROUP)
            && let Err(error) = nix::unistd::chown(path, None, Some(group))
        {
            tracing::debug!("the hook socket stays with this user's own group: {error}");
        }
        Ok(Self { listener })
    }

    /// Serves until the stop; a visitor's fault ends only his own call.
    pub async fn run<F>(
        self: Arc<Self>,
        take: impl Fn(Call, Option<File>) -> F + Clone + Send + 'static,
        stop: CancellationToken,
    ) -> Result<()>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut visitors = JoinSet::new();
        let guests = Arc::new(Guests::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = visitors.join_next() => {}
                visitor = self.listener.accept() => match visitor {
                    Ok((stream, _)) => match guests.let_in(user_of(&stream)) {
                        Ok(place) => {
                            let take = take.clone();
                            visitors.spawn(async move {
                                if let Err(error) = converse(stream, take, &place).await {
                                    place.tell(&format!("a call of a hook came to nothing: {error:#}"));
                                }
                            });
                        }
                        Err(why) => turn_away(&stream, why),
                    },
                    Err(error) => {
                        tracing::warn!("the hook socket cannot take a visitor: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
            }
        }
        // What was begun is written down; whoever gets no answer leaves it in the spool.
        let _ = tokio::time::timeout(PATIENCE, async { while visitors.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

/// Whose process it is, as the kernel says; `None`: nobody knows any more.
fn user_of(stream: &UnixStream) -> Option<u32> {
    stream.peer_cred().ok().map(|peer| peer.uid())
}

/// Nobody waits for whom we turn away: his answer fits into an empty socket, or he does without.
fn turn_away(stream: &UnixStream, why: &str) {
    if let Ok(answer) = encode(&Answer::Later { why: why.to_owned() }) {
        let _ = stream.try_write(&answer);
    }
}

async fn converse<F: Future<Output = Answer>>(mut stream: UnixStream, take: impl Fn(Call, Option<File>) -> F, place: &Place) -> Result<()> {
    let answer = match tokio::time::timeout(PATIENCE, hear(&mut stream)).await {
        Ok(Ok((call, file))) => {
            let _turn = place.turn().await;
            take(call, file).await
        }
        Ok(Err(error)) => {
            let why = format!("{error:#}");
            place.tell(&format!("a hook said what cannot be understood: {why}"));
            Answer::Later { why }
        }
        Err(_) => bail!("it said nothing for {} s", PATIENCE.as_secs()),
    };
    let answer = encode(&answer)?;
    tokio::time::timeout(PATIENCE, stream.write_all(&answer)).await.context("it does not take its answer")?.context("sending the answer")
}

async fn hear(stream: &mut UnixStream) -> Result<(Call, Option<File>)> {
    let mut head = [0; 4];
    let (mut filled, mut descriptor) = (0, None);
    while filled < head.len() {
        let (more, came) =
            stream.async_io(Interest::READABLE, || receive(stream, &mut head[filled..])).await.context("reading the call")?;
        ensure!(more > 0, "the hook hung up");
        filled += more;
        descriptor = descriptor.or(came);
    }
    let length = u32::from_be_bytes(head) as usize;
    ensure!(length <= LIMIT, "a call of {length} bytes, where {LIMIT} are allowed");
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await.context("reading the call")?;
    let call: Call = serde_json::from_slice(&text).context("is the hook of another version than the node?")?;
    ensure!(call.file.is_some() == descriptor.is_some(), "a file and its name come together");
    if let Some(descriptor) = &descriptor {
        let file = rustix::fs::fstat(descriptor).context("what kind of file it is")?;
        ensure!(rustix::fs::FileType::from_raw_mode(file.st_mode) == rustix::fs::FileType::RegularFile, "only a regular file is taken");
        let flags = rustix::fs::fcntl_getfl(descriptor).context("how the file was opened")?;
        ensure!(!flags.contains(rustix::fs::OFlags::PATH), "the file was not opened for reading");
        ensure!(flags & rustix::fs::OFlags::RWMODE != rustix::fs::OFlags::WRONLY, "the file was not opened for reading");
    }
    Ok((call, descriptor.map(File::from)))
}

/// Some bytes, and the first descriptor that came with them; further ones are closed.
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptor = descriptors.next().and_then(|mut rights| rights.next());
    Ok((got.bytes, descriptor))
}

/// Length and JSON.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len())?;
    ensure!(text.len() <= LIMIT, "{length} bytes are too many");
    Ok([&length.to_be_bytes()[..], &text].concat())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{IoSlice, Read as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    /// Takes every call that it is given; ends with the set.
    fn serve(dir: &Path) -> JoinSet<Result<()>> {
        let socket = Arc::new(HookSocket::bind(&dir.join(SOCKET)).unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(socket.run(async |_, _| Answer::Kept { event: EventId([1; 16]) }, CancellationToken::new()));
        serving
    }

    /// What the node answers to these bytes, the first of them with this descriptor.
    fn answer(socket: &Path, bytes: &[u8], descriptor: Option<&OwnedFd>) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
        if let Some(descriptors) = &descriptors {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        assert_eq!(sendmsg(&stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap(), bytes.len());
        let mut answer = Vec::new();
        // It may hang up before it read all.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn a_call_is_taken_only_if_it_is_short_enough_and_its_file_is_one_that_the_hook_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let _serving = serve(dir.path());
        let picture = dir.path().join("a.jpg");
        std::fs::write(&picture, b"picture").unwrap();
        let call = |file: Option<&str>| {
            let file = file.map(|name| name.as_bytes().to_vec());
            encode(&Call { said: Said::Picture, event: None, camera: None, pixels: None, at: None, called: Timestamp(1), file }).unwrap()
        };
        let named = call(Some("a.jpg"));
        let too_long = u32::try_from(LIMIT + 1).unwrap().to_be_bytes().to_vec();
        let file = || OwnedFd::from(File::open(&picture).unwrap());
        let path_only = OpenOptions::new().read(true).custom_flags(OFlags::PATH.bits().cast_signed()).open(&picture).unwrap();
        let to_write = OpenOptions::new().write(true).open(&picture).unwrap();
        let (pipe, _end) = std::io::pipe().unwrap();
        for (what, bytes, descriptor, said) in [
            ("a picture", named.clone(), Some(file()), "kept"),
            ("words alone", call(None), None, "kept"),
            ("a name without a file", named.clone(), None, "a file and its name come together"),
            ("a file without a name", call(None), Some(file()), "a file and its name come together"),
            ("a directory", named.clone(), Some(File::open(dir.path()).unwrap().into()), "only a regular file"),
            ("a pipe", named.clone(), Some(pipe.into()), "only a regular file"),
            ("a device", named.clone(), Some(File::open("/dev/zero").unwrap().into()), "only a regular file"),
            ("a file that need not be readable", named.clone(), Some(path_only.into()), "not opened for reading"),
            ("a file to write to", named.clone(), Some(to_write.into()), "not opened for reading"),
            ("too long a call", too_long, None, "a call of 16385 bytes, where 16384 are allowed"),
            ("no call", b"\0\0\0\x02{}".to_vec(), None, "another version"),
        ] {
            let socket = dir.path().join(SOCKET);
            let answer = tokio::task::spawn_blocking(move || answer(&socket, &bytes, descriptor.as_ref())).await.unwrap();
            assert!(answer.contains(said), "{what}: {answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_who_does_not_say_what_he_came_for_holds_his_place_for_five_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let _serving = serve(dir.path());
        for begun in [&b""[..], b"\0", b"\0\0\0\x10{"] {
            let mut visitor = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
            visitor.write_all(begun).await.unwrap();
            let began = tokio::time::Instant::now();
            let ended = tokio::time::timeout(10 * PATIENCE, visitor.read(&mut [0; 1])).await.expect("he is sent away");
            assert_eq!((ended.unwrap(), began.elapsed().as_secs()), (0, PATIENCE.as_secs()), "{begun:?}");
        }
    }
}
