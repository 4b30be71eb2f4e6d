//! What hooks hand over, or left in the spool, becomes part of an event in the outbox.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use dms3_core::arming::ArmState;
use dms3_core::event::{AttachmentKind, Event, Note, Said, changed_percent, time_in_name};
use dms3_core::id::EventId;
use dms3_core::protocol::events::NAME_LIMIT;
use dms3_core::protocol::message::AckV1;
use dms3_core::time::{Mono, Now, SinceBoot, Timestamp};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::outbox::{Kept, NewFile};
use crate::clock::{Clock, boot};
use crate::hook::{Answer, Call};
use crate::lines::Lines;
use crate::picture::size_of_picture;
use crate::spool;

/// How often the spool is looked into: it is filled only while this node does not run, or cannot write.
const LOOK: Duration = Duration::from_secs(5);
/// A node that starts reads its outbox first; a hook waits so long for that.
const OPENING: Duration = Duration::from_secs(3);
/// Of the eight threads that wait for disks.
const READ_AT_ONCE: usize = 6;
/// Lines a minute for what hooks hand over and is not as it should be.
const LINES: u32 = 10;
/// How often it is looked for files that no hook handed over, and how long nobody must have written to them.
const LOOK_BEHIND: Duration = Duration::from_secs(600);
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
const OPEN_AT_ONCE: usize = 100;
/// A time that is this much ahead of ours is a mistake.
const AHEAD: Duration = Duration::from_secs(86_400);

/// Takes calls of hooks. Clones are the same.
#[derive(Debug, Clone)]
pub struct Intake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` while the disk does not let it be opened.
    kept: watch::Receiver<Option<Kept>>,
    clock: Clock,
    /// Sources of this node, with the directory of those whose files are ours to remove once they are kept.
    sources: Vec<(String, Option<PathBuf>)>,
    /// What each source obeys.
    acks: watch::Receiver<Option<AckV1>>,
    spool: PathBuf,
    /// Files that are read at once: whoever hands over one that hangs must not take every thread that waits for disks.
    reading: Semaphore,
    without_size: Lines,
    not_kept: Lines,
}

impl Intake {
    pub fn new(
        kept: watch::Receiver<Option<Kept>>,
        clock: Clock,
        sources: Vec<(String, Option<PathBuf>)>,
        acks: watch::Receiver<Option<AckV1>>,
        spool: PathBuf,
    ) -> Self {
        let (without_size, not_kept) = (Lines::new(LINES), Lines::new(LINES));
        Self(Arc::new(Inner { kept, clock, sources, acks, spool, reading: Semaphore::new(READ_AT_ONCE), without_size, not_kept }))
    }

    /// For the hook socket.
    pub async fn take(self, call: Call, file: Option<File>) -> Answer {
        let said = call.said;
        match self.keep(call, file, true).await {
            Ok(event) => Answer::Kept { event: event.id },
            Err(error) => {
                match self.0.not_kept.next() {
                    Some(more) => tracing::error!("what a hook told ({said:?}) cannot be kept now: {error:#}{more}"),
                    None => tracing::debug!("what a hook told ({said:?}) cannot be kept now: {error:#}"),
                }
                Answer::Later { why: format!("{error:#}") }
            }
        }
    }

    /// Empties the spool, now and whenever something is in it.
    pub async fn empty_spool(self, stop: CancellationToken) -> Result<()> {
        let dir = self.0.spool.clone();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unfinished = spool::Unfinished::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = look.tick() => {}
            }
            unfinished.tidy(&dir, std::time::Instant::now())?;
            let mut taken = 0;
            for id in spool::entries(&dir)? {
                match spool::read(&dir, id) {
                    Ok((call, file)) => {
                        // What cannot be kept now stays, and what comes after it with it.
                        self.keep(call, file, false).await.context("what lies in the spool cannot be kept now")?;
                        spool::remove(&dir, id)?;
                        taken += 1;
                    }
                    Err(error) => match spool::put_aside(&dir, id) {
                        Ok(aside) => {
                            tracing::error!("an entry of the spool is not taken: {error:#}; it stays as {}", aside.display());
                            self.0.kept().await?.outbox.lost("spool", 1).await?;
                        }
                        // Somebody lies where it would lie. Those behind it have not done that.
                        Err(stays) => {
                            if let Some(more) = self.0.not_kept.next() {
                                tracing::error!("an entry of the spool is not taken: {error:#}; {stays:#}: remove it{more}");
                            }
                        }
                    },
                }
            }
            if taken > 0 {
                tracing::info!("took {taken} from the spool: hooks had left it there while this node was away, or too many came at once");
            }
        }
    }

    /// Takes files of our own Motion that no hook handed over: the node was killed with Motion in the middle of a movie, or there was no room.
    pub async fn look_behind(self, stop: CancellationToken) -> Result<()> {
        // Not at the start: what a hook is about to hand over is its business.
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_BEHIND, LOOK_BEHIND);
        let mut seen = Seen::new();
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = look.tick() => self.take_left_behind(LEFT_BEHIND, &mut seen).await?,
            }
        }
    }

    /// `seen`: what was there at the last look.
    async fn take_left_behind(&self, after: Duration, seen: &mut Seen) -> Result<()> {
        let longest = self.0.kept().await?.longest();
        let before = Arc::new(std::mem::take(seen));
        for (source, dir) in &self.0.sources {
            let Some(dir) = dir else { continue };
            let (listed, before) = (dir.clone(), before.clone());
            let (files, there) = tokio::task::spawn_blocking(move || left_behind(&listed, after, longest, &before)).await??;
            seen.extend(there);
            for (name, mut file) in files {
                let said = if size_of_picture(&mut file).is_ok() { Said::Picture } else { Said::Movie };
                tracing::info!("{source}: no hook handed over {:?}: it is taken now", clean_name(&name));
                let called = self.0.clock.now().at;
                let call = Call { said, event: None, camera: Some(source.clone()), pixels: None, at: None, called, file: Some(name) };
                self.keep(call, Some(file), true).await?;
            }
        }
        Ok(())
    }

    async fn keep(&self, call: Call, file: Option<File>, fresh: bool) -> Result<Event> {
        let inner = &self.0;
        let kept = inner.kept().await?;
        let source = inner.source(call.camera.as_deref());
        let state = inner.obeyed(&source);
        let name = call.file.as_deref().map(clean_name);
        let _turn = inner.reading.acquire().await?;
        let said = call.said;
        let kind = match said {
            Said::Movie => AttachmentKind::Clip,
            _ => AttachmentKind::Picture,
        };
        let mut changed = None;
        let mut at = None;
        let mut opened = None;
        if let (Some(file), Some(bytes)) = (file, &call.file) {
            let data = file.metadata().context("what kind of file it is")?;
            at = time_in_name(bytes).and_then(local_time).or_else(|| u64::try_from(data.mtime()).ok().map(Timestamp::from_secs));
            if kind == AttachmentKind::Picture {
                let mut looked_at = file.try_clone().context("cannot look at it")?;
                // A picture that brings its decoder down is one without a size, and kept like any other.
                let size =
                    tokio::task::spawn_blocking(move || size_of_picture(&mut looked_at)).await.map_err(anyhow::Error::from).flatten();
                match (size, call.pixels) {
                    (Ok((width, height)), Some(pixels)) => changed = changed_percent(pixels, width, height),
                    (Err(error), _) => {
                        let name = name.as_deref().unwrap_or_default();
                        if let Some(more) = inner.without_size.next() {
                            tracing::warn!("{source}: {name:?} has no size, so it is not known how much changed: {error:#}{more}");
                        }
                    }
                    _ => {}
                }
            }
            opened = Some((file, data.dev(), data.ino()));
        }
        let moment = inner.clock.now();
        let now = moment.at;
        let told = call.at.as_deref().and_then(time_of_argument);
        // Names, files and hooks go by the clock of this machine, which may not be that of the house.
        let by_machine = told.or(at).or((!fresh).then_some(call.called));
        let at = by_machine.map_or(now, |at| inner.clock.dated(at));
        let at = if at > now + AHEAD { now } else { at };
        let note =
            Note { said, key: call.event.clone().map(|key| cut(&key)), at, since_boot: since_boot(at, moment), changed, attachment: None };
        let id = EventId::new(now, rand::random());
        let Some((file, dev, ino)) = opened else {
            return Ok(kept.note(&source, state, id, note, None).await?.0);
        };
        let new = NewFile { file, kind, name: name.unwrap_or_default(), taken: at };
        let (event, has_file) = kept.note(&source, state, id, note, Some(new)).await?;
        // One that there was no room for, or that is too long, is the last copy.
        if has_file && let (Some(bytes), Some(dir)) = (&call.file, inner.own_dir(&source)) {
            remove_ours(dir, bytes, dev, ino);
        }
        Ok(event)
    }
}

impl Inner {
    async fn kept(&self) -> Result<Kept> {
        let mut kept = self.kept.clone();
        let opened = tokio::time::timeout(OPENING, kept.wait_for(Option::is_some)).await;
        opened.ok().and_then(|kept| kept.ok()?.clone()).context("the outbox cannot be opened yet")
    }

    /// The source that the detector means. One that this node does not know keeps its own name: a user's Motion with several cameras.
    fn source(&self, camera: Option<&str>) -> String {
        let first = || self.sources.first().map_or_else(|| "cam".to_owned(), |(name, _)| name.clone());
        match camera {
            Some(name) => {
                let name = cut(&name.chars().filter(|c| !c.is_control()).collect::<String>());
                if name.is_empty() { first() } else { name }
            }
            None => first(),
        }
    }

    /// What the source obeys now; armed as long as nobody knows.
    fn obeyed(&self, source: &str) -> ArmState {
        let acks = self.acks.borrow();
        let sources = acks.as_ref().map(|ack| ack.sources.as_slice()).unwrap_or_default();
        let named = sources.iter().find(|known| known.source == source);
        let strongest = || sources.iter().map(|known| ArmState::from_wire(known.effective)).max();
        named.map(|known| ArmState::from_wire(known.effective)).or_else(strongest).unwrap_or(ArmState::Away)
    }

    fn own_dir(&self, source: &str) -> Option<&Path> {
        self.sources.iter().find(|(name, _)| name == source)?.1.as_deref()
    }
}

/// Our own Motion's file is a second copy now. It is the very file that was handed over, or it stays.
fn remove_ours(dir: &Path, name: &[u8], dev: u64, ino: u64) {
    if name.contains(&b'/') {
        return;
    }
    let path = dir.join(std::ffi::OsStr::from_bytes(name));
    let is_it = std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file() && data.dev() == dev && data.ino() == ino);
    if is_it && let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!("cannot remove {} although it is kept: {error}", path.display());
    }
}

/// Open files with their names.
type Named = Vec<(Vec<u8>, File)>;
/// Files as they were at a look: how long, and when they were written to last.
type Seen = HashMap<PathBuf, (u64, Option<SystemTime>)>;

/// Files that nobody wrote to for so long, nor since the look `before` (a clock that jumps makes nothing old), and that are short enough to be
/// kept; and what is there now.
fn left_behind(dir: &Path, after: Duration, longest: u64, before: &Seen) -> Result<(Named, Seen)> {
    let (mut found, mut there) = (Vec::new(), Seen::new());
    let list = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((found, there)),
        list => list.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    for entry in list {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let is_left = |data: &std::fs::Metadata| {
            // In the future: a clock that was wrong says nothing of its age.
            let age = data.modified().ok().and_then(|at| at.elapsed().ok());
            data.is_file() && data.len() <= longest && age.is_some_and(|age| age >= after)
        };
        let Ok(data) = entry.metadata() else { continue };
        let now = (data.len(), data.modified().ok());
        there.insert(entry.path(), now);
        if is_left(&data)
            && before.get(&entry.path()) == Some(&now)
            // All of them are open: the others come the next time.
            && found.len() < OPEN_AT_ONCE
            && let Ok(file) = open_own(&entry.path())
        {
            found.push((entry.file_name().into_encoded_bytes(), file));
        }
    }
    Ok((found, there))
}

fn open_own(path: &Path) -> std::io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// For people; never used as a path.
#[doc(hidden)]
pub fn clean_name(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    cut(&text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>())
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(NAME_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Local time of this machine.
fn local_time(time: jiff::civil::DateTime) -> Option<Timestamp> {
    let zoned = time.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    u64::try_from(zoned.timestamp().as_millisecond()).ok().map(Timestamp)
}

/// A time by the clock of this machine as it is set now, by the one that nobody sets.
fn since_boot(at: Timestamp, now: Now) -> Option<SinceBoot> {
    let ago = u64::try_from(now.at.since(at).as_millis()).ok()?;
    let mono = Mono(now.mono.0.checked_sub(ago)?);
    Some(SinceBoot { boot: boot()?, mono })
}

/// Seconds since 1970, or local time. What is neither is no time.
#[doc(hidden)]
pub fn time_of_argument(text: &str) -> Option<Timestamp> {
    match text.parse::<u64>() {
        Ok(secs) if secs < 100_000_000_000 => Some(Timestamp::from_secs(secs)),
        _ => time_in_name(text.as_bytes()).and_then(local_time),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::outbox::OutboxConfig;
    use super::*;
    use crate::config_text::Size;

    /// An intake whose outbox takes no file longer than that, and the directory of its own Motion's files.
    async fn intake(max_file: u64) -> (tempfile::TempDir, Intake, PathBuf, Kept) {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let config = OutboxConfig { max_file: Size(max_file), keep_free: Size(0), ..OutboxConfig::default() };
        let kept = Kept::open(dir.path(), config, "cam", false, &clock).await.unwrap();
        let own = dir.path().join("media");
        fs::create_dir(&own).unwrap();
        let sources = vec![("cam".to_owned(), Some(own.clone()))];
        let intake = Intake::new(watch::channel(Some(kept.clone())).1, clock, sources, watch::channel(None).1, dir.path().join("spool"));
        (dir, intake, own, kept)
    }

    fn call(said: Said, name: &str) -> Call {
        Call {
            said,
            event: Some("7".to_owned()),
            camera: Some("cam".to_owned()),
            pixels: None,
            at: None,
            called: Timestamp(1),
            file: Some(name.as_bytes().to_vec()),
        }
    }

    #[tokio::test]
    async fn a_file_of_our_own_motion_goes_once_it_is_kept_and_stays_where_it_is_not() {
        let (_dir, intake, own, kept) = intake(1000).await;
        for (name, length, stays) in [("small.mp4", 1000, false), ("long.mp4", 1001, true)] {
            let path = own.join(name);
            fs::write(&path, vec![1; length]).unwrap();
            let answer = intake.clone().take(call(Said::Movie, name), Some(File::open(&path).unwrap())).await;
            assert!(matches!(answer, Answer::Kept { .. }), "{answer:?}");
            assert_eq!(path.exists(), stays, "{name}: the last copy of what was seen is not ours to remove");
        }
        let event = kept.outbox.untold(9).await.unwrap().remove(0);
        assert_eq!(event.attachments.len(), 1);
        assert_eq!(kept.outbox.counts().await.unwrap().lost, 1, "it is told that one is not kept");
    }

    #[tokio::test]
    async fn an_entry_that_can_be_neither_read_nor_put_aside_keeps_nobody_waiting() {
        let (dir, intake, _own, kept) = intake(1000).await;
        let spool = dir.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let [bad, good] = [1, 2].map(|at| EventId::new(Timestamp(at), [0; 10]));
        fs::write(spool.join(format!("{bad}.json")), "no call").unwrap();
        // Where it would be put aside somebody was before.
        fs::create_dir_all(spool.join(format!("{bad}.refused/full"))).unwrap();
        spool::leave(&spool, good, &Call { file: None, ..call(Said::EventStart, "") }, None).unwrap();
        let taken = async {
            while kept.outbox.untold(9).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ended = intake.empty_spool(CancellationToken::new()) => panic!("{ended:?}"),
            in_time = tokio::time::timeout(Duration::from_secs(60), taken) => in_time.expect("the other one is taken"),
        }
    }

    #[test]
    fn when_it_was_is_known_by_the_clock_that_nobody_sets_unless_the_machine_was_off_then() {
        let now = Now { at: Timestamp(1_000_000), mono: Mono(60_000), trusted: true };
        for (at, mono) in
            [(1_000_000, Some(60_000)), (999_000, Some(59_000)), (940_000, Some(0)), (939_999, None), (1_000_001, Some(60_000))]
        {
            let known = since_boot(Timestamp(at), now);
            assert_eq!(known.map(|known| known.mono.0), mono, "{at}");
            assert!(known.is_none_or(|known| Some(known.boot) == boot()));
        }
    }

    #[tokio::test]
    async fn what_no_hook_handed_over_is_taken_when_nobody_writes_to_it_any_more() {
        let (_dir, intake, own, kept) = intake(1000).await;
        let old = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (name, length, is_old) in [("old.mp4", 10, true), ("being-written.mp4", 10, false), ("long.mp4", 1001, true)] {
            let file = File::create(own.join(name)).unwrap();
            file.set_len(length).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        std::os::unix::fs::symlink("/etc/passwd", own.join("link")).unwrap();
        let mut seen = Seen::new();
        intake.take_left_behind(LEFT_BEHIND, &mut seen).await.unwrap();
        assert!(kept.outbox.untold(9).await.unwrap().is_empty(), "by a clock that jumped all would be old: it is looked twice");
        intake.take_left_behind(LEFT_BEHIND, &mut seen).await.unwrap();
        let events = kept.outbox.untold(9).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].attachments[0].name, "old.mp4");
        let left = |name: &str| own.join(name).exists();
        assert_eq!([left("old.mp4"), left("being-written.mp4"), left("long.mp4")], [false, true, true]);
    }

    #[tokio::test]
    async fn an_event_is_of_the_time_that_its_hook_names_then_its_files_name_then_its_file_and_else_of_the_call() {
        let (dir, intake, _own, _kept) = intake(1000).await;
        let written = Timestamp::from_secs(1_600_000_000);
        let local = |hour| local_time(jiff::civil::date(2023, 11, 14).at(hour, 13, 20, 0)).unwrap();
        let mut number = 0;
        let mut began = async |at: Option<&str>, name: Option<&str>| {
            let file = name.map(|name| {
                let path = dir.path().join(name);
                fs::write(&path, name).unwrap();
                let file = File::open(&path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(written.as_secs())).unwrap();
                file
            });
            number += 1;
            let call = Call {
                event: Some(number.to_string()),
                at: at.map(str::to_owned),
                called: Timestamp::from_secs(1_500_000_000),
                file: name.map(|name| name.as_bytes().to_vec()),
                ..call(if name.is_some() { Said::Picture } else { Said::EventStart }, "")
            };
            let event = intake.keep(call, file, false).await.unwrap();
            assert!(event.attachments.iter().all(|picture| picture.taken == event.started));
            event.started
        };
        let dated = Some("01-20231114221320-00.jpg");
        assert_eq!(began(Some("1700000001"), dated).await, Timestamp::from_secs(1_700_000_001));
        assert_eq!(began(Some("2023-11-14T21:13:20"), dated).await, local(21));
        assert_eq!(began(Some("no time"), dated).await, local(22));
        assert_eq!(began(None, dated).await, local(22));
        // The 14th month.
        assert_eq!(began(None, Some("01-20231414221320-00.jpg")).await, written);
        assert_eq!(began(None, Some("picture.jpg")).await, written);
        assert_eq!(began(None, None).await, Timestamp::from_secs(1_500_000_000), "when the hook was called");
        assert_eq!(began(Some("1700000001"), None).await, Timestamp::from_secs(1_700_000_001));

        let now = intake.0.clock.now().at;
        assert!(began(Some("95000000000"), None).await.since(now) < Duration::from_secs(60), "a time that is far ahead is a mistake");
        let own = Call { event: Some("of its own".to_owned()), ..call(Said::EventStart, "") };
        let fresh = intake.keep(own, None, true).await.unwrap().started;
        assert!(fresh.since(now) < Duration::from_secs(60) && fresh >= now, "{fresh:?}: a node that runs knows when it was called");
    }
}
