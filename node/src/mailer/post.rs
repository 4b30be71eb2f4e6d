//! The post: brings what lies in the spool of mails to the mail server, for as long as it takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dms3_core::dashboard::MailView;
use dms3_core::id::EventId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::config::MailConfig;
use super::message::{Clip, Content, Inline, Letter, Message, Thread};
use super::smtp::{Outcome, send};
use crate::clock::Clock;
use crate::store::mails::{LetterV1, MailBox, Mails};
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
    pub mails: MailBox,
    /// Where clips lie.
    pub media: Media,
    pub clock: Clock,
    /// Names the house in threads.
    pub house: String,
    /// Changes when a mail was put into the spool.
    pub news: watch::Receiver<()>,
    pub counts: watch::Sender<MailView>,
    /// Hears of which events a server took a mail. Nobody waits for him: what he does not hear is mailed once more by somebody else.
    pub sent: Option<mpsc::Sender<Vec<EventId>>>,
    /// Why nothing is brought away, for people.
    pub trouble: watch::Sender<Option<String>>,
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
    let mailbox = post.mails.clone();
    let mails = mailbox.open().await?;
    post.trouble.send_replace(None);
    loop {
        post.news.mark_unchanged();
        let waiting = mails.waiting().await?;
        rests.retain(|id, _| waiting.contains(id));
        let now = Instant::now();
        let due = waiting.iter().rev().find(|id| rests.get(id).is_none_or(|rest| rest.until <= now)).copied();
        let counts = mails.counts().await?;
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
            tried = post.try_one(mails, id) => tried?,
        };
        match tried {
            // The server takes mail: what waits for it need not wait any longer.
            None => {
                rests.clear();
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
    async fn try_one(&self, mails: &Mails, id: i64) -> Result<Option<String>> {
        let Some(waiting) = mails.mail(id).await? else { return Ok(None) };
        let give_up = async |why: &str| {
            tracing::error!("a mail is given up: {why}");
            mails.give_up(id).await.map(|()| None)
        };
        let mut letter = match waiting.letter {
            Ok(letter) => letter,
            Err(why) => return give_up(&format!("it cannot be read ({why})")).await,
        };
        // A clock that jumps gives up nothing.
        if self.clock.certain().since(waiting.made_at) > GIVEN_UP_AFTER {
            return give_up(&format!("nobody took {:?} for 3 days", letter.subject)).await;
        }
        let mut open = Vec::new();
        for address in &waiting.open {
            match address.parse::<Address>() {
                Ok(address) => open.push(address),
                Err(error) => {
                    tracing::error!("{address:?} gets no mail: {error}");
                    mails.settled(id, address, true).await?;
                }
            }
        }
        if waiting.open.is_empty() {
            return give_up(&format!("{:?} is to nobody", letter.subject)).await;
        }
        if open.is_empty() {
            return Ok(None);
        }
        // A clip that was let go of meanwhile is no reason to keep the mail back.
        if letter.clip.as_ref().is_some_and(|clip| !self.media.has(&clip.hash)) {
            letter.drop_clip();
        }
        let mut made = self.message(&letter).await?;
        if let Err(error) = &made
            && letter.clip.is_some()
        {
            tracing::warn!("the mail {:?} goes without its clip: {error:#}", letter.subject);
            mails.without_clip(id, &letter).await?;
            letter.drop_clip();
            made = self.message(&letter).await?;
        }
        let message = match made {
            Ok(message) => message,
            Err(error) => return give_up(&format!("{:?} cannot be made ({error:#})", letter.subject)).await,
        };
        let had_clip = message.has_clip();
        let mut why = None;
        for (address, outcome) in open.iter().zip(send(&self.config, &message, &open).await) {
            match outcome {
                Outcome::Sent => {
                    mails.settled(id, &address.to_string(), false).await?;
                    if let Some(sent) = &self.sent {
                        drop(sent.try_send(letter.events.clone()));
                    }
                }
                Outcome::Never(said) => {
                    tracing::error!("the mail {:?} never reaches {address}: {said}", letter.subject);
                    mails.settled(id, &address.to_string(), true).await?;
                }
                Outcome::TooLarge(said) if had_clip => {
                    tracing::warn!("the mail {:?} goes without its clip: {said}", letter.subject);
                    mails.without_clip(id, &letter).await?;
                    why = Some(said);
                }
                Outcome::TooLarge(said) | Outcome::Later(said) => why = Some(said),
            }
        }
        match &why {
            Some(why) => mails.waits(id, why).await?,
            None => tracing::info!("mailed {:?}", letter.subject),
        }
        Ok(why)
    }

    /// The outer error is one of this machine.
    async fn message(&self, letter: &LetterV1) -> Result<Result<Message>> {
        let letter = self.letter(letter);
        let config = self.config.clone();
        Ok(tokio::task::spawn_blocking(move || Message::new(letter, &config)).await?)
    }

    fn letter(&self, kept: &LetterV1) -> Letter {
        let clip = kept.clip.as_ref().map(|clip| Clip {
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
            events: kept.events.clone(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use dms3_core::alerting::{AlertPolicy, Settings};
    use dms3_core::time::Timestamp;

    use super::*;
    use crate::mailer::config::MailFile;
    use crate::store::mails::ClipV1;

    /// Spool and pictures in `dir`, and nobody who listens.
    pub fn post(dir: &Path, config: MailConfig, clock: &Clock) -> Post {
        Post {
            config: Arc::new(config),
            mails: MailBox::new(dir.to_owned()),
            media: Media::open(&dir.join("media")).unwrap(),
            clock: clock.clone(),
            house: "house".to_owned(),
            news: watch::channel(()).1,
            counts: watch::Sender::new(MailView::default()),
            sent: None,
            trouble: watch::Sender::new(None),
        }
    }

    pub fn letter(at: Timestamp, about: &str, to: &[&str]) -> LetterV1 {
        LetterV1 {
            at,
            about: about.to_owned(),
            to: to.iter().map(|to| (*to).to_owned()).collect(),
            subject: about.to_owned(),
            text: "text".to_owned(),
            html: String::new(),
            pictures: Vec::new(),
            clip: None,
            events: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_mail_waits_for_three_days_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::alone();
        clock.accept().unwrap();
        let nobody = "server = \"127.0.0.1\"\nport = 1\nsecurity = \"none\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n";
        let (config, _) = MailConfig::new(toml::from_str::<MailFile>(nobody).unwrap(), Path::new("/")).unwrap();
        let post = post(dir.path(), config, &clock);
        let mails = post.mails.open().await.unwrap();
        let memory = AlertPolicy::new(Settings::default(), clock.now()).memory().clone();
        mails.save(&memory, &[letter(clock.now().at, "porch", &["b@example.org"])]).await.unwrap();
        let id = mails.waiting().await.unwrap()[0];
        for days in [29, 26_600, -20_000] {
            clock.set_ahead(days * 86_400_000);
            assert!(post.try_one(mails, id).await.unwrap().is_some(), "{days} days: it waits");
        }
        clock.set_ahead(0);
        clock.pass(GIVEN_UP_AFTER + Duration::from_secs(60));
        assert_eq!(post.try_one(mails, id).await.unwrap(), None);
        assert_eq!(mails.counts().await.unwrap().lost, 1, "and by days that passed it is given up");
    }

    #[tokio::test]
    async fn a_mail_that_cannot_be_made_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::unkept();
        let nobody = "server = \"127.0.0.1\"\nport = 1\nsecurity = \"none\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n";
        let text = format!("{nobody}max_attachment = \"10B\"");
        let (config, _) = MailConfig::new(toml::from_str::<MailFile>(&text).unwrap(), Path::new("/")).unwrap();
        let post = post(dir.path(), config, &clock);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"longer than ten bytes").unwrap();
        let hash = post.media.keep(&mut file, 1000).unwrap().hash;
        let clip = ClipV1 {
            name: "a.mp4".to_owned(),
            mime: "video/mp4".to_owned(),
            hash,
            text_without: "text without".to_owned(),
            html_without: String::new(),
        };
        let now = clock.now().at;
        let with_clip = LetterV1 { clip: Some(clip), ..letter(now, "porch", &["b@example.org"]) };
        let mut bad_picture = letter(now, "porch", &["b@example.org"]);
        bad_picture.pictures = vec![("no cid at all".to_owned(), vec![1])];
        let mails = post.mails.open().await.unwrap();
        let memory = AlertPolicy::new(Settings::default(), clock.now()).memory().clone();
        let letters = [with_clip, bad_picture, letter(now, "porch", &[])];
        mails.save(&memory, &letters).await.unwrap();
        let ids = mails.waiting().await.unwrap();
        // Since the clip was put in, `max_attachment` was made smaller.
        let why = post.try_one(mails, ids[0]).await.unwrap().expect("nobody takes it");
        assert!(why.contains("127.0.0.1"), "{why}");
        let kept = mails.mail(ids[0]).await.unwrap().unwrap().letter.unwrap();
        assert_eq!((kept.clip, kept.text.as_str()), (None, "text without"), "it goes without its clip, and says so");
        for id in &ids[1..] {
            assert_eq!(post.try_one(mails, *id).await.unwrap(), None);
        }
        assert_eq!(mails.waiting().await.unwrap(), [ids[0]]);
        assert_eq!(mails.counts().await.unwrap().lost, 2, "what is given up is counted");
    }
}
