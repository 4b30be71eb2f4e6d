//! Mails that wait for a mail server: on the disk before an alert counts as told, gone when every recipient's server has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use dms3_core::alerting::MemoryV2;
use dms3_core::dashboard::MailView;
use dms3_core::id::EventId;
use dms3_core::protocol::frame::{from_bytes, to_bytes};
use dms3_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, SqlitePool};
use tokio::sync::OnceCell;

use super::apart::{self, Kind, Ready};
use super::{begin, stamp, unstamp};

/// The file, in the node's state directory.
pub const MAILS_FILE: &str = "mail.db";
/// "DM3M".
const KIND: Kind = Kind { mark: 0x444D_334D, steps: STEPS };
const STEPS: &[(&str, &str)] =
    &[("mails", include_str!("migrations/mails_0001.sql")), ("caught up", include_str!("migrations/mails_0002.sql"))];
/// Of a letter.
const VERSION: i64 = 1;
/// Of the memory.
const MEMORY_VERSION: i64 = 2;
/// Bytes of all waiting mails; above it pictures stay behind.
pub const CAP: u64 = 200_000_000;

/// Clones share it. What a method returned Ok for is on the disk.
#[derive(Debug, Clone)]
pub struct Mails {
    pool: SqlitePool,
}

/// A mail as it was written; it is sent just so, however often it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterV1 {
    pub at: Timestamp,
    /// Mails about the same stand together.
    pub about: String,
    pub to: Vec<String>,
    pub subject: String,
    pub text: String,
    pub html: String,
    /// (cid, JPEG)
    pub pictures: Vec<(String, Vec<u8>)>,
    pub clip: Option<ClipV1>,
    /// What it tells of, as far as it is shown.
    pub events: Vec<EventId>,
}

impl LetterV1 {
    /// What it says without what takes room: its text says all of it.
    pub fn shed(&mut self) {
        self.drop_clip();
        self.html.clear();
        self.pictures.clear();
    }

    /// The same mail without its clip, in the words for that.
    pub fn drop_clip(&mut self) {
        if let Some(clip) = self.clip.take() {
            self.text = clip.text_without;
            self.html = clip.html_without;
        }
    }
}

/// A clip stays where media are kept; a mail whose clip was let go of meanwhile, or that no server takes with it, goes without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipV1 {
    pub name: String,
    pub mime: String,
    pub hash: [u8; 32],
    /// What the mail says without it.
    pub text_without: String,
    pub html_without: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub id: i64,
    pub made_at: Timestamp,
    /// An error says why it cannot be read.
    pub letter: Result<LetterV1, String>,
    /// Those who do not have it yet.
    pub open: Vec<String>,
}

/// The spool of a node, opened when it is first asked for and again until that succeeds: a house that cannot mail is watched all the same.
/// Clones share it.
#[derive(Debug, Clone)]
pub struct MailBox {
    dir: PathBuf,
    opened: Arc<OnceCell<Mails>>,
}

impl MailBox {
    pub fn new(state_dir: PathBuf) -> Self {
        Self { dir: state_dir, opened: Arc::default() }
    }

    pub async fn open(&self) -> anyhow::Result<&Mails> {
        let open = async || {
            let (mails, damaged) = Mails::open(&self.dir).await.context("cannot open the spool of mails")?;
            if let Some((aside, error)) = damaged {
                tracing::error!("{error:#}; it is kept as {}, and the mails in it are not sent", aside.display());
            }
            Ok(mails)
        };
        self.opened.get_or_try_init(open).await
    }
}

impl Mails {
    /// Opens the spool of mails or makes it. A damaged one is put aside (its new name and why), and a new one takes its place.
    pub async fn open(dir: &Path) -> anyhow::Result<(Self, Option<(PathBuf, anyhow::Error)>)> {
        let Ready { pool, damaged, .. } = apart::open(&dir.join(MAILS_FILE), KIND).await?;
        let mails = Self { pool };
        if damaged.is_some() {
            mails.lost("damage").await?;
        }
        Ok((mails, damaged))
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// What the rules of alerts remember; `None`: nothing yet.
    pub async fn memory(&self) -> anyhow::Result<Option<MemoryV2>> {
        let row = sqlx::query("SELECT version, body FROM memory WHERE id = 1").fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (version, body): (i64, Vec<u8>) = (row.try_get("version")?, row.try_get("body")?);
        ensure!(version >= MEMORY_VERSION, "the memory of the alerts is of an earlier version ({version}) and is let go of");
        ensure!(version == MEMORY_VERSION, "the memory of the alerts has version {version}: install the newer version of dms3-node again");
        Ok(Some(from_bytes(&body).map_err(|why| anyhow!("the memory of the alerts cannot be read: {why}"))?))
    }

    /// The letters that the rules asked for, and what they remember of it: all or nothing.
    pub async fn save(&self, memory: &MemoryV2, letters: &[LetterV1]) -> anyhow::Result<()> {
        let memory = to_bytes(memory).map_err(|why| anyhow!("cannot encode the memory of the alerts: {why}"))?;
        let mut tx = begin(&self.pool).await?;
        sqlx::query(
            "INSERT INTO memory (id, version, body) VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body",
        )
        .bind(MEMORY_VERSION)
        .bind(memory)
        .execute(&mut *tx)
        .await?;
        for letter in letters {
            let body = to_bytes(letter).map_err(|why| anyhow!("cannot encode a mail: {why}"))?;
            let mail: i64 = sqlx::query_scalar("INSERT INTO mail (made_at, version, body) VALUES ($1, $2, $3) RETURNING id")
                .bind(stamp(letter.at))
                .bind(VERSION)
                .bind(body)
                .fetch_one(&mut *tx)
                .await?;
            for address in &letter.to {
                sqlx::query("INSERT INTO recipient (mail, address) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                    .bind(mail)
                    .bind(address)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await.context("cannot write to the spool of mails")
    }

    /// Until when the rules of alerts know all that was received; `None`: nobody noted it yet.
    pub async fn caught_up(&self) -> anyhow::Result<Option<Timestamp>> {
        let at: Option<i64> = sqlx::query_scalar("SELECT at FROM caught_up WHERE id = 1").fetch_optional(&self.pool).await?;
        Ok(at.map(unstamp))
    }

    pub async fn note_caught_up(&self, at: Timestamp) -> anyhow::Result<()> {
        let put = "INSERT INTO caught_up (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at";
        sqlx::query(put).bind(stamp(at)).execute(&self.pool).await.context("cannot write to the spool of mails")?;
        Ok(())
    }

    /// Bytes of all that waits.
    pub async fn size(&self) -> anyhow::Result<u64> {
        let size: Option<i64> = sqlx::query_scalar("SELECT sum(length(body)) FROM mail").fetch_one(&self.pool).await?;
        Ok(u64::try_from(size.unwrap_or(0)).unwrap_or(0))
    }

    /// Names of the mails that wait, the oldest first.
    pub async fn waiting(&self) -> anyhow::Result<Vec<i64>> {
        Ok(sqlx::query_scalar("SELECT id FROM mail ORDER BY id").fetch_all(&self.pool).await?)
    }

    /// `None`: it is gone.
    pub async fn mail(&self, id: i64) -> anyhow::Result<Option<Waiting>> {
        let row = sqlx::query("SELECT made_at, version, body FROM mail WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let (version, body): (i64, Vec<u8>) = (row.try_get("version")?, row.try_get("body")?);
        let letter = match version {
            VERSION => from_bytes(&body),
            newer => Err(format!("it is of version {newer}")),
        };
        let open =
            sqlx::query_scalar("SELECT address FROM recipient WHERE mail = $1 ORDER BY address").bind(id).fetch_all(&self.pool).await?;
        Ok(Some(Waiting { id, made_at: unstamp(row.try_get("made_at")?), letter, open }))
    }

    /// This recipient has it, or never will (`lost`). With its last recipient the mail goes.
    pub async fn settled(&self, id: i64, address: &str, lost: bool) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        sqlx::query("DELETE FROM recipient WHERE mail = $1 AND address = $2").bind(id).bind(address).execute(&mut *tx).await?;
        if lost {
            count(&mut tx, "recipient").await?;
        }
        sqlx::query("DELETE FROM mail WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM recipient WHERE mail = $1)")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await.context("cannot write to the spool of mails")
    }

    /// It waits on, and why.
    pub async fn waits(&self, id: i64, why: &str) -> anyhow::Result<()> {
        sqlx::query("UPDATE mail SET why = $2 WHERE id = $1").bind(id).bind(why).execute(&self.pool).await?;
        Ok(())
    }

    /// The same mail without its clip, which no server takes.
    pub async fn without_clip(&self, id: i64, letter: &LetterV1) -> anyhow::Result<()> {
        let mut letter = letter.clone();
        letter.drop_clip();
        let body = to_bytes(&letter).map_err(|why| anyhow!("cannot encode a mail: {why}"))?;
        sqlx::query("UPDATE mail SET body = $2 WHERE id = $1").bind(id).bind(body).execute(&self.pool).await?;
        Ok(())
    }

    /// Nothing that waits is to be sent any more.
    pub async fn clear(&self) -> anyhow::Result<()> {
        sqlx::query("DELETE FROM mail").execute(&self.pool).await.context("cannot empty the spool of mails")?;
        Ok(())
    }

    /// Nobody took it for too long, or it cannot be sent as it is.
    pub async fn give_up(&self, id: i64) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        sqlx::query("DELETE FROM mail WHERE id = $1").bind(id).execute(&mut *tx).await?;
        count(&mut tx, "late").await?;
        tx.commit().await.context("cannot write to the spool of mails")
    }

    /// How many wait, and why.
    pub async fn counts(&self) -> anyhow::Result<MailView> {
        let row = sqlx::query("SELECT count(*) AS waiting, min(made_at) AS oldest FROM mail").fetch_one(&self.pool).await?;
        let (waiting, oldest): (i64, Option<i64>) = (row.try_get("waiting")?, row.try_get("oldest")?);
        let why: Option<Option<String>> =
            sqlx::query_scalar("SELECT why FROM mail WHERE why IS NOT NULL ORDER BY id LIMIT 1").fetch_optional(&self.pool).await?;
        let lost: Option<i64> = sqlx::query_scalar("SELECT sum(count) FROM loss").fetch_one(&self.pool).await?;
        Ok(MailView {
            waiting: u64::try_from(waiting).unwrap_or(0),
            oldest: oldest.map(unstamp),
            why: why.flatten(),
            lost: u64::try_from(lost.unwrap_or(0)).unwrap_or(0),
        })
    }

    async fn lost(&self, what: &str) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        count(&mut tx, what).await?;
        tx.commit().await.context("cannot write to the spool of mails")
    }
}

async fn count(connection: &mut sqlx::SqliteConnection, what: &str) -> anyhow::Result<()> {
    sqlx::query("INSERT INTO loss (what, count) VALUES ($1, 1) ON CONFLICT (what) DO UPDATE SET count = loss.count + 1")
        .bind(what)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use dms3_core::alerting::{AlertPolicy, Settings};
    use dms3_core::time::{Mono, Now};

    use super::*;

    fn letter(number: u64) -> LetterV1 {
        LetterV1 {
            at: Timestamp(number),
            about: "porch".to_owned(),
            to: vec!["ann@example.org".to_owned(), "bob@example.org".to_owned()],
            subject: format!("number {number}"),
            text: "text".to_owned(),
            html: String::new(),
            pictures: vec![("p@x".to_owned(), vec![1, 2, 3])],
            clip: Some(ClipV1 {
                name: "a.mp4".to_owned(),
                mime: "video/mp4".to_owned(),
                hash: [1; 32],
                text_without: "text without".to_owned(),
                html_without: "html without".to_owned(),
            }),
            events: Vec::new(),
        }
    }

    fn memory() -> MemoryV2 {
        AlertPolicy::new(Settings::default(), Now { at: Timestamp(1), mono: Mono(1), trusted: true }).memory().clone()
    }

    #[tokio::test]
    async fn a_mail_waits_for_each_of_its_recipients_and_survives_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let (mails, _) = Mails::open(dir.path()).await.unwrap();
        assert_eq!(mails.memory().await.unwrap(), None);
        mails.save(&memory(), &[letter(1), letter(2)]).await.unwrap();
        mails.close().await;
        let (mails, damaged) = Mails::open(dir.path()).await.unwrap();
        assert!(damaged.is_none());
        assert_eq!(mails.memory().await.unwrap(), Some(memory()));
        let waiting = mails.waiting().await.unwrap();
        let first = mails.mail(waiting[0]).await.unwrap().unwrap();
        assert_eq!((first.letter.as_ref(), first.open.len()), (Ok(&letter(1)), 2));
        mails.settled(first.id, "ann@example.org", false).await.unwrap();
        assert_eq!(mails.mail(first.id).await.unwrap().unwrap().open, ["bob@example.org"]);
        mails.waits(first.id, "the server hangs").await.unwrap();
        let counts = mails.counts().await.unwrap();
        assert_eq!(
            (counts.waiting, counts.oldest, counts.why.as_deref(), counts.lost),
            (2, Some(Timestamp(1)), Some("the server hangs"), 0)
        );
        mails.settled(first.id, "bob@example.org", true).await.unwrap();
        assert_eq!(mails.mail(first.id).await.unwrap(), None);
        let second = mails.mail(waiting[1]).await.unwrap().unwrap();
        mails.without_clip(second.id, &second.letter.unwrap()).await.unwrap();
        let without = mails.mail(second.id).await.unwrap().unwrap().letter.unwrap();
        assert_eq!((without.clip, without.text.as_str(), without.html.as_str()), (None, "text without", "html without"));
        mails.give_up(second.id).await.unwrap();
        assert_eq!(mails.counts().await.unwrap(), MailView { lost: 2, ..MailView::default() });
    }

    #[tokio::test]
    async fn a_memory_of_another_version_is_not_read_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (mails, _) = Mails::open(dir.path()).await.unwrap();
        for (version, words) in [(1, "earlier version (1) and is let go of"), (9, "install the newer version")] {
            mails.save(&memory(), &[]).await.unwrap();
            sqlx::query("UPDATE memory SET version = $1").bind(version).execute(&mails.pool).await.unwrap();
            let why = mails.memory().await.unwrap_err().to_string();
            assert!(why.contains(words), "{why}");
        }
    }

    #[tokio::test]
    async fn a_damaged_spool_is_put_aside_and_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MAILS_FILE), vec![b'x'; 20_000]).unwrap();
        let (mails, damaged) = Mails::open(dir.path()).await.unwrap();
        assert!(damaged.unwrap().0.exists());
        assert_eq!(mails.counts().await.unwrap().lost, 1);
        mails.save(&memory(), &[letter(1)]).await.unwrap();
    }
}
