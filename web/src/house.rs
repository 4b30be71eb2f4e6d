//! What the page needs of the house that it shows: the node gives it, and nothing else.

use std::fs::File;
use std::io;
use std::sync::Arc;

use dms3_core::accounts::{Ask, Told};
use dms3_core::dashboard::Dashboard;
use dms3_core::request::{Answer, Request};
use tokio::sync::{mpsc, oneshot, watch};

/// A request of somebody who is signed in and may ask for that.
#[derive(Debug)]
pub struct HouseAsked {
    pub request: Request,
    /// For the log and the reason of the state: "Ann".
    pub by: String,
    pub answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
pub struct AccountAsked {
    pub ask: Ask,
    pub answer: oneshot::Sender<Told>,
}

/// Opens a content by its hash, or (`small`) its thumbnail.
pub type OpenMedia = Arc<dyn Fn(&[u8; 32], bool) -> io::Result<File> + Send + Sync>;

/// Clones are the same house.
#[derive(Clone)]
pub struct House {
    /// Whoever subscribes looks; `None` as long as nobody does.
    pub dashboard: watch::Sender<Option<Arc<Dashboard>>>,
    /// Counts up when events came or went, or were seen.
    pub events: watch::Receiver<u64>,
    /// Counts up when somebody may less than before.
    pub less: watch::Receiver<u64>,
    pub requests: mpsc::Sender<HouseAsked>,
    pub accounts: mpsc::Sender<AccountAsked>,
    pub media: OpenMedia,
}

impl std::fmt::Debug for House {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("House").finish_non_exhaustive()
    }
}

/// In words for whoever asked.
const STOPPING: &str = "the node is stopping, or too busy to answer";

impl House {
    pub async fn ask(&self, request: Request, by: &str) -> Answer {
        let (answer, answered) = oneshot::channel();
        let refused = || Answer::Refused(STOPPING.to_owned());
        match self.requests.send(HouseAsked { request, by: by.to_owned(), answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| refused()),
            Err(_) => refused(),
        }
    }

    pub async fn account(&self, ask: Ask) -> Told {
        let (answer, answered) = oneshot::channel();
        let refused = || Told::Refused { why: STOPPING.to_owned(), wait: None };
        match self.accounts.send(AccountAsked { ask, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| refused()),
            Err(_) => refused(),
        }
    }
}
