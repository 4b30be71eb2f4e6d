//! A crowd of clients for `scripts/bench`, cameras or subscribers: how many are linked, and when what was told reached them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use dms3_core::time::Timestamp;
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Clients begin so far apart, so that the first start is no flood. (That of a restart is what it is.)
const APART: Duration = Duration::from_micros(2500);

/// What one of the crowd tells.
pub(crate) enum Told {
    Up(usize),
    Down(usize),
    Applied {
        what: String,
        on: bool,
        decided: Timestamp,
        bytes: usize,
        at: f64,
    },
    /// A line when all said it.
    Word(&'static str),
}

/// Milliseconds since 1970, with their fractions.
#[expect(clippy::disallowed_methods, reason = "a broker has no clock of ours, and whole milliseconds are too coarse")]
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

/// Does what is said on standard input, until that ends. `start N`: that many run from now on. `again`: nobody counts as linked until he
/// links anew. What else is said is for `other`. Writes `linked N AT` when all that run are linked, and of each thing that reached all of
/// them a line `applied WHAT ON DECIDED BYTES P50 P99 LAST` (milliseconds since 1970).
pub(crate) async fn run<F>(begin: impl Fn(usize, mpsc::UnboundedSender<Told>) -> F, other: impl Fn(&[&str]) -> Result<()>) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut lines = BufReader::new(stdin()).lines();
    let mut running = JoinSet::new();
    let (mut wanted, mut linked) = (0, HashSet::new());
    let mut applied: HashMap<String, Vec<f64>> = HashMap::new();
    let mut words: HashMap<&str, usize> = HashMap::new();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                match line.split(' ').collect::<Vec<_>>().as_slice() {
                    ["start", count] => wanted = count.parse()?,
                    ["again"] => linked.clear(),
                    words => other(words)?,
                }
            }
            () = sleep(APART), if running.len() < wanted => {
                running.spawn(begin(running.len(), told.clone()));
            }
            Some(ended) = running.join_next() => {
                ended?.context("one of the crowd failed")?;
                bail!("one of the crowd ended");
            }
            Some(told) = heard.recv() => match told {
                Told::Up(number) => {
                    linked.insert(number);
                    if linked.len() == wanted {
                        crate::say(&format!("linked {wanted} {}", now()));
                    }
                }
                Told::Down(number) => {
                    linked.remove(&number);
                }
                Told::Word(word) => {
                    let count = words.entry(word).or_default();
                    *count += 1;
                    if *count == wanted {
                        crate::say(word);
                        words.remove(word);
                    }
                }
                Told::Applied { what, on, decided, bytes, at } => {
                    let all = applied.entry(what.clone()).or_default();
                    all.push(at);
                    if all.len() == wanted {
                        all.sort_by(f64::total_cmp);
                        let share = |part: usize| all[(all.len() * part).div_ceil(100).max(1) - 1];
                        crate::say(&format!(
                            "applied {what} {} {} {bytes} {} {} {}",
                            u8::from(on), decided.0, share(50), share(99), share(100)
                        ));
                        applied.remove(&what);
                    }
                }
            },
        }
    }
}
