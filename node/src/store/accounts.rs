//! Who may sign in to the dashboard: accounts, their sessions, the set-up code.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dms3_core::accounts::{Account, Role, SESSION_IDLE, SESSION_LIFE, Session, Theme, Visit, Visitor, is_over};
use dms3_core::time::Timestamp;
use sqlx::sqlite::SqlitePool;
use sqlx::{Row as _, SqliteConnection};

use super::apart::{self, Kind, Ready};
use super::{begin, stamp, unstamp};

/// The file, in the coordinator's state directory.
pub const ACCOUNTS_FILE: &str = "accounts.db";
/// "DM3A".
const KIND: Kind = Kind { mark: 0x444D_3341, steps: &[("accounts", include_str!("migrations/accounts_0001.sql"))] };
/// A session's last use is written down no more often.
const TOUCH_EVERY: Duration = Duration::from_secs(300);
/// Of one account; the one that was not used for longest goes.
const SESSIONS: i64 = 20;
pub const ACCOUNTS: usize = 50;

/// Clones share it. What a method returned Ok for is on the disk.
#[derive(Debug, Clone)]
pub struct Accounts {
    pool: SqlitePool,
}

#[derive(Debug)]
pub struct Opened {
    pub accounts: Accounts,
    /// In words for people: what was there was damaged, and where it lies. Nobody can sign in before a new set-up.
    pub trouble: Option<String>,
}

/// What signing in is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub name: String,
    /// PHC form.
    pub password: String,
    /// Some session of this account lives that began at the visitor's address.
    pub from_here: bool,
}

impl Accounts {
    /// Opens the file in `dir`, or makes it. A damaged one is put aside: the page is not the house.
    pub async fn open(dir: &Path) -> anyhow::Result<Opened> {
        let Ready { pool, damaged, .. } = apart::open(&dir.join(ACCOUNTS_FILE), KIND).await?;
        let trouble = damaged.map(|(aside, error)| {
            format!(
                "The accounts of the dashboard cannot be read ({error:#}): they lie in {}. `sudo dms3-node web setup-code` begins anew.",
                aside.display()
            )
        });
        Ok(Opened { accounts: Self { pool }, trouble })
    }

    /// Writes everything back into the one file and lets it go.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub async fn has_owner(&self) -> anyhow::Result<bool> {
        let mut connection = self.pool.acquire().await.context("cannot read the accounts")?;
        Ok(owners(&mut connection).await? > 0)
    }

    /// The only set-up code from now on.
    pub async fn set_code(&self, hash: [u8; 32], expires_at: Timestamp) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        put_code(&mut tx, hash, expires_at).await?;
        tx.commit().await.context("cannot keep the set-up code")
    }

    /// Removes every owner with his sessions, so that the code makes a new one.
    pub async fn reset_owner(&self, hash: [u8; 32], expires_at: Timestamp) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        sqlx::query("DELETE FROM account WHERE role = $1").bind(Role::Owner.word()).execute(&mut *tx).await?;
        put_code(&mut tx, hash, expires_at).await?;
        tx.commit().await.context("cannot remove the owner")
    }

    /// Uses the code up and makes the first owner, in one transaction. False: the code is not that one, or its time is over, or an owner exists.
    pub async fn found(&self, code: [u8; 32], name: &str, password: &str, now: Timestamp) -> anyhow::Result<bool> {
        let mut tx = begin(&self.pool).await?;
        let used = sqlx::query("DELETE FROM code WHERE hash = $1 AND expires_at > $2")
            .bind(code.as_slice())
            .bind(stamp(now))
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if used == 0 || owners(&mut tx).await? > 0 {
            return Ok(false);
        }
        // Who was a member before may be the one who becomes owner.
        sqlx::query("DELETE FROM account WHERE folded = $1").bind(name.to_lowercase()).execute(&mut *tx).await?;
        insert(&mut tx, name, Role::Owner, password, now).await?;
        tx.commit().await.context("cannot make the owner's account")?;
        Ok(true)
    }

    pub async fn add(&self, name: &str, role: Role, password: &str, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM account").fetch_one(&mut *tx).await?;
        if count >= i64::try_from(ACCOUNTS)? {
            bail!("there are {ACCOUNTS} accounts already: remove one first");
        }
        let taken: i64 =
            sqlx::query_scalar("SELECT count(*) FROM account WHERE folded = $1").bind(name.to_lowercase()).fetch_one(&mut *tx).await?;
        if taken > 0 {
            bail!("there is an account {name:?} already");
        }
        insert(&mut tx, name, role, password, now).await?;
        tx.commit().await.context("cannot make the account")
    }

    /// By name, first owners.
    pub async fn list(&self) -> anyhow::Result<Vec<Account>> {
        let rows = sqlx::query(
            "SELECT name, role, (SELECT count(*) FROM session WHERE session.account = account.folded) AS sessions FROM account ORDER BY folded",
        )
        .fetch_all(&self.pool)
        .await
        .context("cannot read the accounts")?;
        let mut accounts = Vec::with_capacity(rows.len());
        for row in rows {
            accounts.push(Account {
                name: row.try_get("name")?,
                role: role(row.try_get("role")?),
                sessions: u64::try_from(row.try_get::<i64, _>("sessions")?)?,
            });
        }
        accounts.sort_by_key(|account| std::cmp::Reverse(account.role));
        Ok(accounts)
    }

    /// Refused, in words, if no owner would be left.
    pub async fn set_role(&self, name: &str, role: Role) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        let changed = sqlx::query("UPDATE account SET role = $2 WHERE folded = $1").bind(name.to_lowercase()).bind(role.word());
        if changed.execute(&mut *tx).await?.rows_affected() == 0 {
            bail!("there is no account {name:?}");
        }
        still_owned(&mut tx).await?;
        tx.commit().await.context("cannot change the role")
    }

    /// With all its sessions. Refused, in words, if no owner would be left.
    pub async fn remove(&self, name: &str) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        let removed = sqlx::query("DELETE FROM account WHERE folded = $1").bind(name.to_lowercase()).execute(&mut *tx).await?;
        if removed.rows_affected() == 0 {
            bail!("there is no account {name:?}");
        }
        still_owned(&mut tx).await?;
        tx.commit().await.context("cannot remove the account")
    }

    /// Ends every session but `keep`: whoever knew the old password is out.
    pub async fn set_password(&self, name: &str, password: &str, keep: i64) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        sqlx::query("UPDATE account SET password = $2 WHERE folded = $1")
            .bind(name.to_lowercase())
            .bind(password)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM session WHERE account = $1 AND id <> $2").bind(name.to_lowercase()).bind(keep).execute(&mut *tx).await?;
        tx.commit().await.context("cannot change the password")
    }

    pub async fn set_theme(&self, name: &str, theme: Theme) -> anyhow::Result<()> {
        sqlx::query("UPDATE account SET theme = $2 WHERE folded = $1")
            .bind(name.to_lowercase())
            .bind(theme.word())
            .execute(&self.pool)
            .await
            .context("cannot keep how the page looks")?;
        Ok(())
    }

    pub async fn known(&self, name: &str, visit: &Visit) -> anyhow::Result<Option<Known>> {
        let row = sqlx::query(
            "SELECT name, password, (SELECT count(*) FROM session WHERE session.account = account.folded AND address = $2) AS here
             FROM account WHERE folded = $1",
        )
        .bind(name.to_lowercase())
        .bind(visit.address.to_string())
        .fetch_optional(&self.pool)
        .await
        .context("cannot read the accounts")?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Known { name: row.try_get("name")?, password: row.try_get("password")?, from_here: row.try_get::<i64, _>("here")? > 0 }))
    }

    pub async fn begin_session(&self, name: &str, word: [u8; 32], visit: &Visit, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        sqlx::query("INSERT INTO session (word, account, address, agent, since, last_used) VALUES ($1, $2, $3, $4, $5, $5)")
            .bind(word.as_slice())
            .bind(name.to_lowercase())
            .bind(visit.address.to_string())
            .bind(visit.agent.as_str())
            .bind(stamp(now))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "DELETE FROM session WHERE account = $1 AND id NOT IN
             (SELECT id FROM session WHERE account = $1 ORDER BY last_used DESC, id DESC LIMIT $2)",
        )
        .bind(name.to_lowercase())
        .bind(SESSIONS)
        .execute(&mut *tx)
        .await?;
        tx.commit().await.context("cannot begin a session")
    }

    /// Whose session it is, if it is not over.
    pub async fn who(&self, word: [u8; 32], now: Timestamp) -> anyhow::Result<Option<Visitor>> {
        let row = sqlx::query(
            "SELECT session.id AS id, name, role, theme, since, last_used FROM session JOIN account ON account.folded = session.account
             WHERE word = $1",
        )
        .bind(word.as_slice())
        .fetch_optional(&self.pool)
        .await
        .context("cannot read the sessions")?;
        let Some(row) = row else { return Ok(None) };
        let session: i64 = row.try_get("id")?;
        let (since, last) = (unstamp(row.try_get("since")?), unstamp(row.try_get("last_used")?));
        if is_over(since, last, now) {
            self.end(session).await?;
            return Ok(None);
        }
        if now.since(last) >= TOUCH_EVERY {
            sqlx::query("UPDATE session SET last_used = $2 WHERE id = $1").bind(session).bind(stamp(now)).execute(&self.pool).await?;
        }
        let theme = Theme::from_word(row.try_get("theme")?);
        Ok(Some(Visitor { name: row.try_get("name")?, role: role(row.try_get("role")?), theme, session }))
    }

    pub async fn sessions(&self, name: &str) -> anyhow::Result<Vec<Session>> {
        let rows =
            sqlx::query("SELECT id, address, agent, since, last_used FROM session WHERE account = $1 ORDER BY last_used DESC, id DESC")
                .bind(name.to_lowercase())
                .fetch_all(&self.pool)
                .await
                .context("cannot read the sessions")?;
        rows.into_iter()
            .map(|row| {
                Ok(Session {
                    id: row.try_get("id")?,
                    address: row.try_get("address")?,
                    agent: row.try_get("agent")?,
                    since: unstamp(row.try_get("since")?),
                    last: unstamp(row.try_get("last_used")?),
                })
            })
            .collect()
    }

    /// A session of that account; of another one it is left alone.
    pub async fn end_session(&self, name: &str, id: i64) -> anyhow::Result<()> {
        sqlx::query("DELETE FROM session WHERE id = $1 AND account = $2")
            .bind(id)
            .bind(name.to_lowercase())
            .execute(&self.pool)
            .await
            .context("cannot end the session")?;
        Ok(())
    }

    pub async fn end_word(&self, word: [u8; 32]) -> anyhow::Result<()> {
        sqlx::query("DELETE FROM session WHERE word = $1")
            .bind(word.as_slice())
            .execute(&self.pool)
            .await
            .context("cannot end the session")?;
        Ok(())
    }

    /// Drops sessions and codes whose time is over.
    pub async fn prune(&self, now: Timestamp) -> anyhow::Result<()> {
        let mut tx = begin(&self.pool).await?;
        sqlx::query("DELETE FROM session WHERE since <= $1 OR last_used <= $2")
            .bind(stamp(now - SESSION_LIFE))
            .bind(stamp(now - SESSION_IDLE))
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM code WHERE expires_at <= $1").bind(stamp(now)).execute(&mut *tx).await?;
        tx.commit().await.context("cannot drop old sessions")
    }

    async fn end(&self, id: i64) -> anyhow::Result<()> {
        sqlx::query("DELETE FROM session WHERE id = $1").bind(id).execute(&self.pool).await.context("cannot end the session")?;
        Ok(())
    }
}

/// What cannot be read may the least.
fn role(word: &str) -> Role {
    word.parse().unwrap_or(Role::Viewer)
}

async fn owners(connection: &mut SqliteConnection) -> anyhow::Result<i64> {
    let count = sqlx::query_scalar("SELECT count(*) FROM account WHERE role = $1").bind(Role::Owner.word()).fetch_one(connection).await;
    count.context("cannot read the accounts")
}

async fn still_owned(connection: &mut SqliteConnection) -> anyhow::Result<()> {
    if owners(connection).await? == 0 {
        bail!("the house would have no owner: make another one first");
    }
    Ok(())
}

async fn put_code(connection: &mut SqliteConnection, hash: [u8; 32], expires_at: Timestamp) -> anyhow::Result<()> {
    sqlx::query("DELETE FROM code").execute(&mut *connection).await?;
    sqlx::query("INSERT INTO code (hash, expires_at) VALUES ($1, $2)")
        .bind(hash.as_slice())
        .bind(stamp(expires_at))
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, name: &str, role: Role, password: &str, now: Timestamp) -> anyhow::Result<()> {
    sqlx::query("INSERT INTO account (folded, name, role, password, theme, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(name.to_lowercase())
        .bind(name)
        .bind(role.word())
        .bind(password)
        .bind(Theme::default().word())
        .bind(stamp(now))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

    fn visit(address: &str) -> Visit {
        Visit { address: address.parse().unwrap(), agent: "a browser".to_owned() }
    }

    async fn opened() -> (tempfile::TempDir, Accounts) {
        let dir = tempfile::tempdir().unwrap();
        let opened = Accounts::open(dir.path()).await.unwrap();
        assert_eq!(opened.trouble, None);
        (dir, opened.accounts)
    }

    #[tokio::test]
    async fn a_house_gets_its_owner_by_the_code_once_and_members_by_him() {
        let (_dir, accounts) = opened().await;
        assert!(!accounts.found([1; 32], "Ann", "hash", NOW).await.unwrap(), "no code, no owner");
        accounts.set_code([1; 32], NOW + Duration::from_secs(10)).await.unwrap();
        accounts.set_code([2; 32], NOW + Duration::from_secs(10)).await.unwrap();
        assert!(!accounts.found([1; 32], "Ann", "hash", NOW).await.unwrap(), "only the last code counts");
        assert!(!accounts.found([2; 32], "Ann", "hash", NOW + Duration::from_secs(10)).await.unwrap(), "its time is over");
        assert!(!accounts.has_owner().await.unwrap());
        assert!(accounts.found([2; 32], "Ann", "hash", NOW).await.unwrap());
        accounts.set_code([3; 32], NOW + Duration::from_secs(10)).await.unwrap();
        assert!(!accounts.found([3; 32], "Eve", "hash", NOW).await.unwrap(), "an owner exists");

        accounts.add("Bob", Role::Member, "hash", NOW).await.unwrap();
        assert!(accounts.add("BOB", Role::Viewer, "hash", NOW).await.is_err());
        assert!(accounts.set_role("ann", Role::Member).await.unwrap_err().to_string().contains("no owner"));
        assert!(accounts.remove("Ann").await.is_err());
        accounts.set_role("bob", Role::Owner).await.unwrap();
        accounts.remove("Ann").await.unwrap();
        let list = accounts.list().await.unwrap();
        assert_eq!(list, [Account { name: "Bob".to_owned(), role: Role::Owner, sessions: 0 }]);
        accounts.reset_owner([4; 32], NOW + Duration::from_secs(10)).await.unwrap();
        assert!(accounts.list().await.unwrap().is_empty());
        assert!(accounts.found([4; 32], "Cleo", "hash", NOW).await.unwrap());
    }

    #[tokio::test]
    async fn a_session_is_somebodys_until_it_is_ended_or_its_time_is_over() {
        let (dir, accounts) = opened().await;
        accounts.set_code([1; 32], NOW + Duration::from_secs(10)).await.unwrap();
        assert!(accounts.found([1; 32], "Ann", "hash", NOW).await.unwrap());
        accounts.add("Bob", Role::Viewer, "hash", NOW).await.unwrap();
        for (name, word, address) in [("Ann", 1, "10.0.0.1"), ("ann", 2, "10.0.0.2"), ("Bob", 3, "10.0.0.3")] {
            accounts.begin_session(name, [word; 32], &visit(address), NOW).await.unwrap();
        }
        // Another process.
        accounts.close().await;
        let accounts = Accounts::open(dir.path()).await.unwrap().accounts;
        let who = async |word: u8, now| accounts.who([word; 32], now).await.unwrap();
        let ann = who(1, NOW).await.unwrap();
        assert_eq!((ann.name.as_str(), ann.role), ("Ann", Role::Owner));
        assert_eq!(who(9, NOW).await, None);
        assert!(accounts.known("ann", &visit("10.0.0.2")).await.unwrap().unwrap().from_here);
        assert!(!accounts.known("ann", &visit("10.0.0.3")).await.unwrap().unwrap().from_here);

        let bobs = who(3, NOW).await.unwrap().session;
        accounts.end_session("Ann", bobs).await.unwrap();
        assert!(who(3, NOW).await.is_some(), "nobody ends another one's");
        accounts.set_password("Ann", "new", ann.session).await.unwrap();
        assert!(who(1, NOW).await.is_some() && who(2, NOW).await.is_none());
        // Used now and then, it lives on, and some day it ends all the same.
        let day = Duration::from_secs(86_400);
        for days in (10..90).step_by(10) {
            assert!(who(1, NOW + day * days).await.is_some(), "{days}");
        }
        assert!(who(1, NOW + day * 90).await.is_none());
        assert!(who(3, NOW + day * 14).await.is_none() && who(3, NOW).await.is_none(), "over is over");
    }

    #[tokio::test]
    async fn somebody_with_many_browsers_loses_the_oldest_session() {
        let (_dir, accounts) = opened().await;
        accounts.set_code([1; 32], NOW + Duration::from_secs(10)).await.unwrap();
        assert!(accounts.found([1; 32], "Ann", "hash", NOW).await.unwrap());
        for word in 0..21 {
            accounts.begin_session("Ann", [word; 32], &visit("10.0.0.1"), NOW + Duration::from_secs(word.into())).await.unwrap();
        }
        let sessions = accounts.sessions("Ann").await.unwrap();
        assert_eq!(sessions.len(), 20);
        assert!(accounts.who([0; 32], NOW).await.unwrap().is_none() && accounts.who([20; 32], NOW).await.unwrap().is_some());
        accounts.prune(NOW + SESSION_IDLE + Duration::from_secs(10)).await.unwrap();
        assert_eq!(accounts.sessions("Ann").await.unwrap().len(), 10);
    }

    #[tokio::test]
    async fn damaged_accounts_are_put_aside_and_let_nobody_in() {
        let (dir, accounts) = opened().await;
        accounts.set_code([1; 32], NOW + Duration::from_secs(10)).await.unwrap();
        accounts.close().await;
        std::fs::write(dir.path().join(ACCOUNTS_FILE), vec![7; 8192]).unwrap();
        let opened = Accounts::open(dir.path()).await.unwrap();
        assert!(opened.trouble.unwrap().contains("accounts.damaged-1"));
        assert!(!opened.accounts.found([1; 32], "Eve", "hash", NOW).await.unwrap());
    }
}
