//! Who calls the hook socket, and how often: a member of the hook group that went mad, or was taken over, must not take all of it.
//!
//! Each user has a bucket of calls and so many places. What is over that is not heard; its hook leaves it in the spool, which the node empties
//! one by one. So a burst of an honest Motion costs nothing but time, and one that never ends fills no memory, log or queue of ours.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::lines::Lines;

/// Calls that a user may make at once. What a longer burst of an honest Motion has more (10 000 pictures are tested) goes through the spool.
const BURST: u32 = 1000;
/// Calls a second in the long run: about what the card of a small Pi writes, and more than a coordinator takes of one camera.
const A_SECOND: u32 = 50;
/// Conversations of one user, and of all others than root and the node's own user together: two descriptors each.
const OF_ONE: usize = 64;
const OF_OTHERS: usize = 128;
/// Calls of others that are taken at once. The outbox reads six files at once: two are left to our own Motion, whatever others hand over.
const TURNS_OF_OTHERS: usize = 4;
/// Lines a minute in the log for what one user does wrong.
const FAULTS: u32 = 10;
/// Users that are remembered while they do nothing.
const REMEMBERED: usize = 64;

const TOO_OFTEN: &str = "hooks of this user call too often";
const TOO_MANY: &str = "too many hooks of this user call at the same time";

#[derive(Debug)]
pub(super) struct Guests {
    /// The node's user.
    own: u32,
    users: Mutex<HashMap<u32, User>>,
    turns_of_others: Arc<Semaphore>,
}

#[derive(Debug)]
struct User {
    here: usize,
    /// Calls that he may still make, as of `since`.
    calls: f64,
    since: Instant,
    faults: Lines,
    turned_away: Lines,
}

/// One visitor's. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Guests>,
    user: u32,
}

impl Guests {
    pub(super) fn new() -> Self {
        let own = nix::unistd::geteuid().as_raw();
        Self { own, users: Mutex::default(), turns_of_others: Arc::new(Semaphore::new(TURNS_OF_OTHERS)) }
    }

    /// A place for a process of this user, or why there is none.
    pub(super) fn let_in(self: &Arc<Self>, user: Option<u32>) -> Result<Place, &'static str> {
        let now = Instant::now();
        // Whom nobody knows shares with all such.
        let user = user.unwrap_or(u32::MAX);
        let mut users = self.users();
        if users.len() > REMEMBERED {
            users.retain(|_, user| user.here > 0 || user.calls_at(now) < f64::from(BURST));
        }
        let others: usize = users.iter().filter(|(user, _)| self.is_other(**user)).map(|(_, user)| user.here).sum();
        let is_other = self.is_other(user);
        let guest = users.entry(user).or_insert_with(|| User::new(now));
        guest.calls = guest.calls_at(now);
        guest.since = now;
        let why = if guest.here >= OF_ONE || is_other && others >= OF_OTHERS {
            TOO_MANY
        } else if guest.calls < 1.0 {
            TOO_OFTEN
        } else {
            guest.here += 1;
            guest.calls -= 1.0;
            return Ok(Place { guests: self.clone(), user });
        };
        if let Some(more) = guest.turned_away.next() {
            tracing::warn!("{why} (user {user}): what they say waits in the spool{more}");
        }
        Err(why)
    }

    fn is_other(&self, user: u32) -> bool {
        user != 0 && user != self.own
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    fn new(now: Instant) -> Self {
        Self { here: 0, calls: f64::from(BURST), since: now, faults: Lines::new(FAULTS), turned_away: Lines::new(1) }
    }

    fn calls_at(&self, now: Instant) -> f64 {
        let more = now.duration_since(self.since).as_secs_f64() * f64::from(A_SECOND);
        (self.calls + more).min(BURST.into())
    }
}

impl Place {
    /// Waits until the call may be taken.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        if self.guests.is_other(self.user) { self.guests.turns_of_others.clone().acquire_owned().await.ok() } else { None }
    }

    /// Warns of what this visitor did.
    pub(super) fn tell(&self, what: &str) {
        match self.guests.users().get(&self.user).map_or(Some(String::new()), |user| user.faults.next()) {
            Some(more) => tracing::warn!("{what} (user {}){more}", self.user),
            None => tracing::debug!("{what}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(user) = self.guests.users().get_mut(&self.user) {
            user.here = user.here.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Of nobody here.
    const MOTION: u32 = 54_321;
    const OTHER: u32 = 54_322;

    #[tokio::test(start_paused = true)]
    async fn who_calls_without_end_is_heard_so_often_and_others_as_before() {
        let guests = Arc::new(Guests::new());
        let heard = |user| (0..10_000).filter(|_| guests.let_in(Some(user)).is_ok()).count();
        assert_eq!(heard(MOTION), 1000);
        assert_eq!(guests.let_in(Some(MOTION)).unwrap_err(), TOO_OFTEN);
        assert_eq!(heard(OTHER), 1000, "another one's bucket is his own");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(heard(MOTION), 100);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(heard(MOTION), 1000, "and no more is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_holds_his_own_places_and_our_motion_always_finds_one() {
        let guests = Arc::new(Guests::new());
        let stay = |user: u32| std::iter::from_fn(|| guests.let_in(Some(user)).ok()).collect::<Vec<_>>();
        let mut visitors = stay(MOTION);
        assert_eq!((visitors.len(), guests.let_in(Some(MOTION)).unwrap_err()), (OF_ONE, TOO_MANY));
        // A user that has many numbers.
        visitors.extend((OTHER..OTHER + 1000).flat_map(stay));
        assert_eq!(visitors.len(), OF_OTHERS);
        assert!(guests.let_in(Some(guests.own)).is_ok() && guests.let_in(Some(0)).is_ok());
        drop(visitors);
        assert!(guests.let_in(Some(MOTION)).is_ok());
        tokio::time::advance(Duration::from_secs(3600)).await;
        drop(guests.let_in(Some(MOTION)));
        assert!(guests.users().len() <= REMEMBERED, "who is gone is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_hand_over_leaves_turns_to_our_own() {
        let guests = Arc::new(Guests::new());
        let place = |user| guests.let_in(Some(user)).unwrap();
        let mut turns = Vec::new();
        for _ in 0..TURNS_OF_OTHERS {
            turns.push(place(MOTION).turn().await);
        }
        let (waits, own) = (place(OTHER), place(guests.own));
        assert!(tokio::time::timeout(Duration::from_secs(1), waits.turn()).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(1), own.turn()).await.is_ok());
        turns.pop();
        assert!(tokio::time::timeout(Duration::from_secs(1), waits.turn()).await.is_ok());
    }
}
