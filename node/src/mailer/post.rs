//! The post: brings what lies in the spool of mails to the mail server, for as long as it takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dms3_core::dashboard::MailView;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::config::MailConfig;
use super::message::{Clip, Content, Inline, Letter, Message, Thread};
use super::smtp::{Outcome, send};
use crate::clock::Clock;
use crate::store::mails::{LetterV1, Mails, Waiting};
use crate::store::media::Media;

/// A mail that nobody took is tried again: at first soon, then less and less often.
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LAST_WAIT: Duration = Duration::from_secs(30 * 60);
/// Afterwards it is given up, and that is told.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3 * 86_400);
/// The same trouble is told so often in the log.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// What brings mails away.
#[derive(Debug, Clone)]
pub struct Post {
    pub config: Arc<MailConfig>,
    pub mails: Mails,
    /// Where clips lie.
    pub media: Media,
    pub clock: Clock,
    /// Names the house in threads.
    pub house: String,
    /// Changes when a mail was put into the spool.
    pub news: watch::Receiver<()>,
    pub counts: watch::Sender<MailView>,
}

/// When a mail is tried next, and how long it waited the last time.
#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    wait: Duration,
}

/// Until told to stop. Mails are tried one after the other: one that hangs holds the others up for its time-out only, and the newest goes
/// first, since what moves now matters more.
pub async fn deliver(mut post: Post, stop: CancellationToken) -> Result<()> {
    let mut rests: HashMap<i64, Rest> = HashMap::new();
    let mut told: Option<(String, Instant)> = None;
    loop {
        post.news.mark_unchanged();
        let waiting = post.mails.waiting().await?;
        rests.retain(|id, _| waiting.contains(id));
        let now = Instant::now();
        let due = waiting.iter().rev().find(|id| rests.get(id).is_none_or(|rest| rest.until <= now)).copied();
        let counts = post.mails.counts().await?;
        post.counts.send_if_modified(|known| {
            *known != counts && {
                known.clone_from(&counts);
                true
            }
        });
        let Some(id) = due else {
            let next = rests.values().map(|rest| rest.until).min();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = post.news.changed() => {}
                () = tokio::time::sleep_until(next.unwrap_or(now + LAST_WAIT)), if next.is_some() => {}
            }
            continue;
        };
        let tried = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            tried = post.try_one(id) => tried?,
        };
        match tried {
            None => {
                rests.remove(&id);
                told = None;
            }
            Some(why) => {
                let wait = rests.get(&id).map_or(FIRST_WAIT, |rest| (rest.wait * 2).min(LAST_WAIT));
                rests.insert(id, Rest { until: Instant::now() + wait, wait });
                // What keeps one back keeps all back: they are not each tried at once against a server that hangs.
                for other in &waiting {
                    let rest = rests.entry(*other).or_insert(Rest { until: now, wait: FIRST_WAIT });
                    rest.until = rest.until.max(Instant::now() + FIRST_WAIT);
                }
                if told.as_ref().is_none_or(|(text, at)| *text != why || at.elapsed() >= TELL_EVERY) {
                    tracing::warn!("{} mail(s) wait: {why}", counts.waiting);
                    told = Some((why, Instant::now()));
                }
            }
        }
    }
}

impl Post {
    /// `None`: nothing of it waits any more. Else why it does.
    async fn try_one(&self, id: i64) -> Result<Option<String>> {
        let Some(waiting) = self.mails.mail(id).await? else { return Ok(None) };
        if self.clock.now().at.since(waiting.made_at) > GIVEN_UP_AFTER {
            tracing::error!("nobody took the mail {:?} for 3 days: it is given up", waiting.letter.subject);
            self.mails.give_up(id).await?;
            return Ok(None);
        }
        let mut open = Vec::new();
        for address in &waiting.open {
            match address.parse::<Address>() {
                Ok(address) => open.push(address),
                Err(error) => {
                    tracing::error!("{address:?} gets no mail: {error}");
                    self.mails.settled(id, address, true).await?;
                }
            }
        }
        if open.is_empty() {
            return Ok(None);
        }
        let message = self.message(&waiting).await?;
        let had_clip = message.has_clip();
        let mut why = None;
        for (address, outcome) in open.iter().zip(send(&self.config, &message, &open).await) {
            match outcome {
                Outcome::Sent => self.mails.settled(id, &address.to_string(), false).await?,
                Outcome::Never(said) => {
                    tracing::error!("the mail {:?} never reaches {address}: {said}", waiting.letter.subject);
                    self.mails.settled(id, &address.to_string(), true).await?;
                }
                Outcome::TooLarge(said) if had_clip => {
                    tracing::warn!("the mail {:?} goes without its clip: {said}", waiting.letter.subject);
                    self.mails.without_clip(&waiting).await?;
                    why = Some(said);
                }
                Outcome::TooLarge(said) | Outcome::Later(said) => why = Some(said),
            }
        }
        match &why {
            Some(why) => self.mails.waits(id, why).await?,
            None => tracing::info!("mailed {:?}", waiting.letter.subject),
        }
        Ok(why)
    }

    async fn message(&self, waiting: &Waiting) -> Result<Message> {
        let letter = self.letter(&waiting.letter);
        let config = self.config.clone();
        tokio::task::spawn_blocking(move || Message::new(letter, &config)).await?.context("a mail cannot be made")
    }

    fn letter(&self, kept: &LetterV1) -> Letter {
        // A clip that was let go of meanwhile is no reason to keep the mail back.
        let clip = kept.clip.as_ref().filter(|clip| self.media.has(&clip.hash)).map(|clip| Clip {
            name: clip.name.clone(),
            mime: clip.mime.clone(),
            content: Content::File(self.media.path(&clip.hash)),
        });
        Letter {
            at: kept.at,
            thread: Thread { house: self.house.clone(), about: kept.about.clone() },
            to: kept.to.iter().filter_map(|address| address.parse().ok()).collect(),
            subject: kept.subject.clone(),
            text: kept.text.clone(),
            html: kept.html.clone(),
            pictures: kept.pictures.iter().map(|(cid, jpeg)| Inline { cid: cid.clone(), jpeg: jpeg.clone() }).collect(),
            clip,
        }
    }
}
