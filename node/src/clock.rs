//! The one reader of time. Trusted time is never before its floor; the floor is kept on disk, so that a reboot does not forget it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dms3_core::time::{Mono, Now, Timestamp};
use dms3_pki::TrustedTime;
use dms3_pki::files::write_atomic;
use nix::time::{ClockId, clock_gettime};
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the floor is written: what a node without a battery clock may lose at a power cut.
const SAVE_EVERY: Duration = Duration::from_secs(3600);
const FILE: &str = "clock";

/// When this binary was built: the first floor.
pub fn build_time() -> Timestamp {
    Timestamp::from_secs(env!("DMS3_BUILD_UNIX").parse().unwrap_or(0))
}

/// Cheap to clone; all clones are one clock.
#[derive(Debug, Clone)]
pub struct Clock {
    time: Arc<Mutex<TrustedTime>>,
    file: Option<PathBuf>,
    /// A person vouched for the machine's clock.
    accepted: watch::Sender<()>,
    /// Whether NTP steers the machine's clock.
    synchronised: fn() -> bool,
    /// By how much a test sets it.
    #[cfg(test)]
    shift: Arc<Shift>,
}

impl Clock {
    /// With the floor that `state_dir` remembers. A file that cannot be read as a time is told and counts as absent: the build time
    /// still is a floor.
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let kept = match std::fs::read_to_string(&file) {
            Ok(text) => read_floor(&text).ok_or_else(|| "it is damaged".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Timestamp(0)),
            Err(error) => Err(error.to_string()),
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!("{} does not hold a time ({error}): starting from the time this program was built", file.display());
            Timestamp(0)
        });
        Self::with_floor(kept.max(build_time()), Some(file))
    }

    /// Without a state directory: for commands that need no node.
    pub fn unkept() -> Self {
        Self::with_floor(build_time(), None)
    }

    fn with_floor(floor: Timestamp, file: Option<PathBuf>) -> Self {
        let time = Arc::new(Mutex::new(TrustedTime::new(floor, mono())));
        Self {
            time,
            file,
            accepted: watch::Sender::new(()),
            synchronised: is_synchronised,
            #[cfg(test)]
            shift: Arc::default(),
        }
    }

    /// The machine's clock and the one that nobody sets.
    #[cfg(not(test))]
    fn read(&self) -> (Timestamp, Mono) {
        (wall(), mono())
    }

    /// The time as this node knows it: whom a coordinator told it goes by that.
    pub fn now(&self) -> Now {
        let (wall, mono) = self.read();
        let (at, trusted, _ahead) = self.lock().now(wall, mono);
        Now { at, mono, trusted }
    }

    /// By [`Clock::now`], when that was which the machine's clock calls `at` (the name of a file, the call of a hook): so long ago as it says.
    pub fn dated(&self, at: Timestamp) -> Timestamp {
        let (wall, mono) = self.read();
        let now = self.lock().now(wall, mono).0;
        if at > wall { now + at.since(wall) } else { now - wall.since(at) }
    }

    /// Whether the machine's clock is so far ahead that it is not believed.
    pub fn is_ahead(&self) -> bool {
        let (wall, mono) = self.read();
        self.lock().now(wall, mono).2
    }

    /// Whether certificates may be dated by it: near what is proven, or synchronised by NTP and within reason (design, section 3).
    pub fn may_sign(&self) -> bool {
        let (wall, mono) = self.read();
        self.lock().may_sign(wall, mono, (self.synchronised)())
    }

    /// [`Clock::now`] as a coordinator sees it: a clock that must not date certificates is not trusted either, and dates nothing else.
    pub fn vouched_now(&self) -> Now {
        let (now, may_sign) = (self.now(), self.may_sign());
        Now { at: if may_sign { now.at } else { self.announced() }, trusted: now.trusted && may_sign, ..now }
    }

    /// The time by which certificates and tokens are judged on both roles, and which a coordinator tells others: while nobody vouches for
    /// the machine's clock it is the proven floor, because whoever hears it keeps it for good.
    pub fn announced(&self) -> Timestamp {
        let ((wall, mono), time) = (self.read(), self.lock());
        let floor = time.floor(mono);
        if time.may_sign(wall, mono, (self.synchronised)()) { wall.max(floor) } else { floor }
    }

    /// For what goes for good because it is old. A clock that somebody set wrong makes nothing old.
    pub fn certain(&self) -> Timestamp {
        let (wall, mono) = self.read();
        self.lock().certain(wall, mono, (self.synchronised)())
    }

    /// By how much [`Clock::announced`] is ahead of the time since boot: it changes only when the time is set or becomes known.
    pub fn announced_offset(&self) -> Duration {
        self.announced().since(Timestamp(self.read().1.0))
    }

    /// A person says that the machine's clock is right. Returns the time that is proven from now on. An error: a later one is already.
    pub fn accept(&self) -> Result<Timestamp> {
        let (wall, mono) = self.read();
        let mut time = self.lock();
        let floor = time.floor(mono);
        ensure!(
            wall >= floor,
            "this machine's clock says {}, and it is certain that it is at least {}: set the clock first",
            date_and_time(wall),
            date_and_time(floor)
        );
        time.accept(wall, mono);
        drop(time);
        self.accepted.send_replace(());
        Ok(wall)
    }

    /// Sees each [`Clock::accept`] from now on.
    pub fn accepted(&self) -> watch::Receiver<()> {
        self.accepted.subscribe()
    }

    /// A coordinator said so on an authenticated link: this is the time.
    pub fn told(&self, at: Timestamp) {
        self.lock().told(at, self.read().1);
    }

    /// A token was issued then: trusted time is not before this.
    pub fn raise(&self, to: Timestamp) {
        self.lock().raise(to, self.read().1);
    }

    /// As [`Clock::unkept`], on a machine that no time server reaches.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        Self { synchronised: || false, ..Self::unkept() }
    }

    /// As if nothing later than `floor` had been proven.
    #[cfg(test)]
    pub(crate) fn forget(&self, floor: Timestamp) {
        *self.lock() = TrustedTime::new(floor, self.read().1);
    }

    /// What is proven to have passed.
    #[cfg(test)]
    pub(crate) fn floor(&self) -> Timestamp {
        self.lock().floor(self.read().1)
    }

    /// On another machine: a clock of its own, with no later time proven than `floor`.
    #[cfg(test)]
    pub(crate) fn apart(floor: Timestamp) -> Self {
        let clock = Self::alone();
        clock.forget(floor);
        clock
    }

    /// As [`Clock::open`], on a machine that no time server reaches.
    #[cfg(test)]
    pub(crate) fn alone_at(state_dir: &Path) -> Self {
        Self { synchronised: || false, ..Self::open(state_dir) }
    }

    /// Of a story that begins then: it goes on only by [`Clock::pass`].
    #[cfg(test)]
    pub(crate) fn of_a_story(begins: Timestamp) -> Self {
        let shift = Arc::new(Shift { begins: Some((begins, mono())), ..Shift::default() });
        let clock = Self { shift, ..Self::alone() };
        clock.forget(begins);
        clock
    }

    /// From now on the machine's clock is so many milliseconds ahead of the real one.
    #[cfg(test)]
    pub(crate) fn set_ahead(&self, millis: i64) {
        self.shift.ahead.store(millis, std::sync::atomic::Ordering::Relaxed);
    }

    /// So much time passes, by every clock.
    #[cfg(test)]
    pub(crate) fn pass(&self, time: Duration) {
        self.shift.passed.fetch_add(u64::try_from(time.as_millis()).unwrap(), std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(test)]
    fn read(&self) -> (Timestamp, Mono) {
        use std::sync::atomic::Ordering::Relaxed;
        let passed = Duration::from_millis(self.shift.passed.load(Relaxed));
        let (wall, mono) = self.shift.begins.unwrap_or_else(|| (wall(), mono()));
        let wall = (wall + passed).0.saturating_add_signed(self.shift.ahead.load(Relaxed));
        (Timestamp(wall), mono + passed)
    }

    /// Writes the floor now.
    pub fn save(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let floor = self.lock().floor(self.read().1);
        write_atomic(file, floor_text(floor).as_bytes(), 0o600).with_context(|| format!("cannot keep the time in {}", file.display()))
    }

    /// Writes the floor every hour and at the end. Not vital: the node goes on without.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        loop {
            self.save()?;
            tokio::select! {
                () = stop.cancelled() => return self.save(),
                () = tokio::time::sleep(SAVE_EVERY) => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TrustedTime> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Certificates are judged by [`Clock::announced`]: by a clock that is wrong for a while no good one is expired.
impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.announced().0)))
    }
}

/// The file of the floor: seconds, and a checksum. Time that is proven is never taken back, so a digit that a dying card turned over would
/// end every certificate of the house.
fn floor_text(floor: Timestamp) -> String {
    let secs = floor.as_secs();
    let sum = ring::digest::digest(&ring::digest::SHA256, format!("dms3 clock {secs}").as_bytes());
    format!("{secs} {}\n", data_encoding::HEXLOWER.encode(&sum.as_ref()[..8]))
}

fn read_floor(text: &str) -> Option<Timestamp> {
    let floor = Timestamp::from_secs(text.split(' ').next()?.parse().ok()?);
    (floor_text(floor) == text).then_some(floor)
}

/// "24 November 2026", in this machine's zone.
pub fn date(at: Timestamp) -> String {
    calendar(at, "%-d %B %Y")
}

/// "24 November 2026 22:40", in this machine's zone.
pub fn date_and_time(at: Timestamp) -> String {
    calendar(at, "%-d %B %Y %H:%M")
}

/// Minutes since midnight, in this machine's zone; 0 for a time beyond every calendar.
pub fn minute_of_day(at: Timestamp) -> u16 {
    let minute = |at: jiff::Zoned| u16::try_from(i32::from(at.hour()) * 60 + i32::from(at.minute())).ok();
    zoned(at).and_then(minute).unwrap_or(0)
}

/// In this machine's zone, as `strftime` writes it.
pub fn calendar(at: Timestamp, format: &str) -> String {
    zoned(at).map_or_else(|| at.to_string(), |at| at.strftime(format).to_string())
}

fn zoned(at: Timestamp) -> Option<jiff::Zoned> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::system()))
}

/// The machine's clock, believed only within reason.
pub fn wall() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the one reader of time")]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Time since boot, sleep included. The kernel never refuses it; were it to, time would stand still and nothing would expire.
fn mono() -> Mono {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Mono(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Which boot of this machine this is, as the kernel names it; `None`: it does not say.
pub fn boot() -> Option<u128> {
    static BOOT: LazyLock<Option<u128>> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
    });
    *BOOT
}

/// Whether the kernel's clock is steered by NTP, as `adjtimex(2)` tells.
#[allow(unsafe_code, reason = "nix has no adjtimex")]
fn is_synchronised() -> bool {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: timex is plain integers, so all zeros is a value of it; with `modes` zero the kernel only fills it in.
    let (clock, state) = unsafe { (libc::adjtimex(state.as_mut_ptr()), state.assume_init()) };
    clock >= 0 && state.status & libc::STA_UNSYNC == 0
}

/// How a test sets a clock; the program that people run has none of it.
#[cfg(test)]
#[derive(Debug, Default)]
struct Shift {
    /// When both clocks stand still, but for what passed.
    begins: Option<(Timestamp, Mono)>,
    /// Of the machine's clock, milliseconds.
    ahead: std::sync::atomic::AtomicI64,
    /// What passed by both clocks, milliseconds.
    passed: std::sync::atomic::AtomicU64,
}

/// Tokio's time goes on when a test says so (`tokio::time::advance`), and by itself never: a thread is busy. For a runtime of one thread.
#[cfg(test)]
#[derive(Debug)]
pub struct StandStill {
    busy: std::sync::mpsc::Sender<()>,
    held: tokio::task::JoinHandle<()>,
}

#[cfg(test)]
impl StandStill {
    pub fn begin() -> Self {
        let (busy, until_dropped) = std::sync::mpsc::channel();
        let held = tokio::task::spawn_blocking(move || until_dropped.recv().unwrap_or_default());
        tokio::time::pause();
        Self { busy, held }
    }

    pub async fn end(self) {
        tokio::time::resume();
        drop(self.busy);
        self.held.await.unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_does_not_forget_the_time_that_the_coordinator_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = Timestamp(wall().0 + 10 * 24 * 3600 * 1000);
        let clock = Clock::open(dir.path());
        clock.raise(told);
        clock.save().unwrap();
        assert!(Clock::open(dir.path()).now().at.as_secs() >= told.as_secs());
    }

    #[test]
    fn a_torn_clock_file_is_not_a_reason_to_go_before_the_build() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clock"), b"\xff\x00").unwrap();
        assert!(Clock::open(dir.path()).now().at >= build_time());
    }

    #[test]
    fn a_digit_that_was_turned_over_ends_no_certificate_of_the_house() {
        let dir = tempfile::tempdir().unwrap();
        Clock::open(dir.path()).save().unwrap();
        let file = dir.path().join("clock");
        let kept = std::fs::read(&file).unwrap();
        for at in 0..kept.len() {
            let mut bytes = kept.clone();
            bytes[at] ^= 8;
            std::fs::write(&file, bytes).unwrap();
            assert!(Clock::open(dir.path()).floor().since(build_time()) < Duration::from_secs(60), "byte {at}");
        }
    }

    #[test]
    fn a_clock_far_from_what_is_proven_dates_no_certificate() {
        let clock = Clock::unkept();
        assert!(clock.may_sign());
        clock.forget(Timestamp(wall().0 - 500 * 86_400_000));
        assert!(!clock.may_sign());
    }

    #[test]
    fn what_the_machines_clock_dated_is_so_long_ago_as_it_says_however_wrong_it_is() {
        let clock = Clock::alone();
        let (now, minute) = (wall(), Duration::from_secs(60));
        assert_eq!(clock.dated(now - minute), now - minute, "a clock that is right says when it was");
        clock.told(now);
        for ahead in [5 * 3_600_000, -5 * 3_600_000, 26_600 * 86_400_000, -15_000 * 86_400_000] {
            clock.set_ahead(ahead);
            let by_machine = Timestamp(wall().0.saturating_add_signed(ahead));
            let dated = clock.dated(by_machine - minute);
            assert!((dated + minute).since(now) < minute && now.since(dated) < 2 * minute, "{ahead}: {dated} is not a minute before {now}");
        }
    }

    #[test]
    fn a_clock_that_nobody_vouches_for_is_told_to_nobody_until_a_person_does() {
        let clock = Clock::unkept();
        assert!(clock.announced() >= build_time() && clock.announced().since(wall()) < Duration::from_secs(1));
        let floor = Timestamp(wall().0 - 500 * 86_400_000);
        clock.forget(floor);
        assert!(!clock.vouched_now().trusted);
        assert!(clock.announced().since(floor) < Duration::from_secs(60), "only what is proven");
        let accepted = clock.accepted();
        let taken = clock.accept().unwrap();
        assert!(accepted.has_changed().unwrap() && clock.may_sign() && clock.vouched_now().trusted);
        assert!(clock.announced() >= taken && clock.floor() >= taken);
        let later = wall() + Duration::from_secs(3600);
        clock.raise(later);
        assert!(clock.accept().is_err() && clock.floor() >= later, "time that is proven is not taken back");
    }
}
