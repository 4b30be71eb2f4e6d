//! Live pictures: asked of a camera while somebody looks, at most one a second whoever looks, and kept no longer than that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dms3_core::id::NodeId;
use dms3_core::protocol::message::{STILL_LIMIT, StillV1};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use crate::mesh::link::{Connection, LinkError};
use crate::mesh::transfer::Body;

/// A camera that is looked at is asked no more often, however many look.
const EVERY: Duration = Duration::from_millis(900);
/// A detector that must be started first needs a few seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A picture that nobody asked for again is dropped.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Somebody who comes back after so long is told of again in the log.
const LOOKS_ANEW: Duration = Duration::from_secs(300);
/// Who looks at what, in memory.
const LOOKERS: usize = 256;
/// Sources that a link was not yet asked for.
const ASKED: usize = 8;

/// A source of a node.
type Key = (NodeId, String);
type Seen = Result<Arc<[u8]>, String>;
/// When it was asked for, and what came.
type Last = Arc<tokio::sync::Mutex<Option<(Instant, Seen)>>>;

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Stills(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    links: Mutex<HashMap<NodeId, Arc<Asked>>>,
    /// Who waits for a picture that a camera was asked for.
    waiting: Mutex<HashMap<Key, oneshot::Sender<Seen>>>,
    /// The last picture, and a lock around its asking: all who look at once wait for one.
    shown: Mutex<HashMap<Key, Last>>,
    lookers: Mutex<HashMap<(String, Key), Instant>>,
}

/// What a link is to be asked for. Not a channel, of which each link would hold the room for many.
#[derive(Debug, Default)]
struct Asked {
    sources: Mutex<VecDeque<String>>,
    more: Notify,
}

/// Of a link, as long as it is up: the sources whose picture somebody wants.
#[derive(Debug)]
pub struct Wanted {
    asked: Arc<Asked>,
    node: NodeId,
    stills: Stills,
}

impl Asked {
    /// False: too much is asked of it already.
    fn ask(&self, source: &str) -> bool {
        let mut sources = lock(&self.sources);
        let has_room = sources.len() < ASKED;
        if has_room {
            sources.push_back(source.to_owned());
            self.more.notify_one();
        }
        has_room
    }
}

impl Wanted {
    /// The next one. May be dropped at any time and called again.
    pub async fn next(&self) -> String {
        loop {
            if let Some(source) = lock(&self.asked.sources).pop_front() {
                return source;
            }
            self.asked.more.notified().await;
        }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut links = lock(&self.stills.0.links);
        // A newer link of the node may have taken over.
        if links.get(&self.node).is_some_and(|asked| Arc::ptr_eq(asked, &self.asked)) {
            links.remove(&self.node);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stills {
    pub fn linked(&self, node: NodeId) -> Wanted {
        let asked = Arc::new(Asked::default());
        lock(&self.0.links).insert(node, asked.clone());
        Wanted { asked, node, stills: self.clone() }
    }

    /// What `source` of `node`, called `name`, sees now, or why that is not to be seen. `by` is told of in the log.
    pub async fn see(&self, node: NodeId, name: &str, source: String, by: &str) -> Seen {
        let key = (node, source);
        let shown = {
            let mut all = lock(&self.0.shown);
            // What nobody holds and is old; a picture of somebody's home lies nowhere for nothing.
            all.retain(|_, shown| {
                shown.try_lock().map_or(true, |shown| shown.as_ref().is_some_and(|(at, _)| at.elapsed() < KEPT_FOR))
                    || Arc::strong_count(shown) > 1
            });
            all.entry(key.clone()).or_default().clone()
        };
        let mut shown = shown.lock().await;
        if let Some((at, seen)) = &*shown
            && at.elapsed() < EVERY
        {
            return self.told(seen.clone(), key, name, by);
        }
        let began = Instant::now();
        let seen = self.ask(key.clone()).await;
        *shown = Some((began, seen.clone()));
        self.told(seen, key, name, by)
    }

    async fn ask(&self, key: Key) -> Seen {
        let Some(link) = lock(&self.0.links).get(&key.0).cloned() else { return Err("it is not linked".to_owned()) };
        let (wait, seen) = oneshot::channel();
        lock(&self.0.waiting).insert(key.clone(), wait);
        if !link.ask(&key.1) {
            lock(&self.0.waiting).remove(&key);
            return Err("its link is busy".to_owned());
        }
        match timeout(ANSWER_WITHIN, seen).await {
            Ok(Ok(seen)) => seen,
            _ => {
                lock(&self.0.waiting).remove(&key);
                Err("it did not answer in time: is it of an older version?".to_owned())
            }
        }
    }

    /// What came from a camera, and what was wrong with it. Of what nobody asked for nothing is read.
    pub async fn came(&self, node: NodeId, head: StillV1, mut body: Body, connection: &Connection) -> Result<Option<String>, LinkError> {
        let StillV1 { source, length, why } = head;
        let Some(wait) = lock(&self.0.waiting).remove(&(node, source)) else {
            body.stop();
            return Ok(None);
        };
        let seen = match length {
            0 => Err(tidy(&why)),
            _ if length > STILL_LIMIT => {
                body.stop();
                Err(format!("its picture is too large ({length} bytes)"))
            }
            // Dropped half read, its stream is stopped.
            _ => match read(&mut body, length, connection).await? {
                Ok(picture) => Ok(picture.into()),
                Err(why) => Err(why.to_owned()),
            },
        };
        let wrong = seen.clone().err().filter(|_| length > 0);
        // Whoever asked may have gone away.
        drop(wait.send(seen));
        Ok(wrong)
    }

    /// Who was shown something is told of once, not with each picture. Names of cameras that there are not fill neither log nor memory.
    fn told(&self, seen: Seen, key: Key, name: &str, by: &str) -> Seen {
        if seen.is_ok() {
            let mut lookers = lock(&self.0.lookers);
            if lookers.len() >= LOOKERS {
                lookers.retain(|_, last| last.elapsed() < LOOKS_ANEW);
            }
            if lookers.insert((by.to_owned(), key), Instant::now()).is_none_or(|last| last.elapsed() >= LOOKS_ANEW) {
                tracing::info!("{by} looks at camera {name} live");
            }
        }
        seen
    }
}

/// A JPEG of that length, and nothing else: it is shown as one.
async fn read(body: &mut Body, length: u32, connection: &Connection) -> Result<Result<Vec<u8>, &'static str>, LinkError> {
    let mut picture = Vec::new();
    while let Some(chunk) = body.chunk(connection).await? {
        picture.extend_from_slice(&chunk);
        if picture.len() > length as usize {
            return Ok(Err("its picture is longer than it said"));
        }
    }
    Ok(match picture {
        short if short.len() < length as usize => Err("its picture is shorter than it said"),
        picture if picture.starts_with(&[0xff, 0xd8, 0xff]) => Ok(picture),
        _ => Err("what it sent is no picture"),
    })
}

/// For people: one line, not too long.
fn tidy(why: &str) -> String {
    let text: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { "it shows no picture and does not say why".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    #[tokio::test(start_paused = true)]
    async fn a_camera_is_asked_once_a_second_however_many_look_and_what_it_saw_is_kept_no_longer() {
        let stills = Stills::default();
        let wanted = stills.linked(NODE);
        let see = |by: &'static str| stills.see(NODE, "porch", "cam".to_owned(), by);
        let mut looks: JoinSet<_> = ["Ann", "Ben", "Cleo"]
            .into_iter()
            .map(|by| {
                let stills = stills.clone();
                async move { stills.see(NODE, "porch", "cam".to_owned(), by).await }
            })
            .collect();
        assert_eq!(wanted.next().await, "cam");
        let answer = |seen: Seen| lock(&stills.0.waiting).remove(&(NODE, "cam".to_owned())).unwrap().send(seen).unwrap();
        answer(Ok(Arc::from([0xff, 0xd8].as_slice())));
        while let Some(seen) = looks.join_next().await {
            assert_eq!(seen.unwrap().as_deref(), Ok([0xff, 0xd8].as_slice()));
        }
        assert!(lock(&wanted.asked.sources).is_empty(), "nobody asked again");
        tokio::time::advance(EVERY).await;
        let again = async {
            assert_eq!(wanted.next().await, "cam");
            answer(Err("off".to_owned()));
        };
        assert_eq!(tokio::join!(see("Ann"), again).0, Err("off".to_owned()));
        assert_eq!(lock(&stills.0.lookers).len(), 3);
        // Another camera is looked at later: of the first nothing is left.
        tokio::time::advance(KEPT_FOR).await;
        assert!(stills.see(NodeId([2; 32]), "yard", "cam".to_owned(), "Dan").await.is_err());
        assert_eq!(lock(&stills.0.lookers).len(), 3, "who saw nothing is nobody who looked");
        assert!(!lock(&stills.0.shown).contains_key(&(NODE, "cam".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_or_is_not_linked_says_so_in_time() {
        let stills = Stills::default();
        let see = async || stills.see(NODE, "porch", "cam".to_owned(), "Ann").await;
        assert_eq!(see().await, Err("it is not linked".to_owned()));
        tokio::time::advance(EVERY).await;
        let (wanted, newer) = (stills.linked(NODE), stills.linked(NODE));
        drop(wanted);
        let asked = Instant::now();
        assert!(see().await.unwrap_err().contains("did not answer in time"), "the newer link is asked");
        assert_eq!(asked.elapsed(), ANSWER_WITHIN);
        assert!(lock(&stills.0.waiting).is_empty());
        drop(newer);
        assert!(lock(&stills.0.links).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_cameras_that_there_are_not_fills_no_memory() {
        let stills = Stills::default();
        let wanted = stills.linked(NODE);
        assert_eq!((0..100).filter(|nth| wanted.asked.ask(&format!("cam-{nth}"))).count(), ASKED);
        for nth in 0..2 * LOOKERS {
            let key = (NODE, format!("cam-{nth}"));
            stills.told(Ok(Arc::from([0xff].as_slice())), key, "porch", "Ann").unwrap();
            tokio::time::advance(LOOKS_ANEW / u32::try_from(LOOKERS / 2).unwrap()).await;
        }
        assert!(lock(&stills.0.lookers).len() <= LOOKERS, "{}", lock(&stills.0.lookers).len());
    }
}
