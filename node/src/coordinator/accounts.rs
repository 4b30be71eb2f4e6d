//! Keeps the dashboard's doors: who signs in, whose session it is, who may be added.

use std::path::PathBuf;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use dms3_core::accounts::{Ask, CODE_LIFE, Hidden, Throttle, Told, Visit, check_password, tidy_code};
use dms3_core::fault::{Fault, FaultKind};
use dms3_core::roster::check_name;
use dms3_core::time::Timestamp;
use dms3_web::house::AccountAsked;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{Mutex, OnceCell, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::alerts::Word;
use crate::clock::Clock;
use crate::store::accounts::Accounts;

/// Questions that are answered at once: others wait, but sign-ins above it are told to come again.
const AT_ONCE: usize = 64;
/// Passwords that are judged at once: each takes 19 MiB while it is.
const JUDGED_AT_ONCE: usize = 2;
/// Failures of one address after which people are told.
const TOLD_AFTER: u32 = 10;
/// What nobody's password is, so that a name that does not exist takes as long as one that does.
const NOBODYS: &str = "nobody has this password";
/// Old sessions are dropped so often.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// Letters of a set-up code, five bits each (Crockford's base32): sixty bits are nothing that is guessed in a day.
const CODE_LETTERS: usize = 12;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Opened when it is first asked for and again until that succeeds: a house whose page has no accounts is watched all the same.
#[derive(Clone)]
pub struct Doors {
    dir: PathBuf,
    clock: Clock,
    words: mpsc::Sender<Word>,
    opened: Arc<OnceCell<Accounts>>,
    throttle: Arc<PlainMutex<Throttle>>,
    judges: Arc<Semaphore>,
    nobody: Arc<OnceCell<String>>,
    /// Counts up whenever somebody may less than before: open pages look again.
    changed: watch::Sender<u64>,
}

impl Doors {
    pub fn new(dir: PathBuf, clock: Clock, words: mpsc::Sender<Word>) -> Self {
        Self {
            dir,
            clock,
            words,
            opened: Arc::default(),
            throttle: Arc::default(),
            judges: Arc::new(Semaphore::new(JUDGED_AT_ONCE)),
            nobody: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Answers the page. Restarted after a fault; the asker of a lost question hears that.
    pub async fn run(self, asks: Arc<Mutex<mpsc::Receiver<AccountAsked>>>, stop: CancellationToken) -> Result<()> {
        let mut asks = asks.lock().await;
        let (mut answering, mut judging) = (JoinSet::new(), JoinSet::new());
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        let see = |done| {
            if let Err(error) = done {
                tracing::error!("a question of the dashboard failed: {error}");
            }
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(done) = answering.join_next() => see(done),
                Some(done) = judging.join_next() => see(done),
                _ = prune.tick() => {
                    self.accounts().await?.prune(self.clock.certain()).await?;
                }
                // Whoever is in waits for his turn; strangers with passwords are sent away before they are in his way.
                Some(asked) = asks.recv(), if answering.len() < AT_ONCE => {
                    let judges = matches!(asked.ask, Ask::SetUp { .. } | Ask::SignIn { .. } | Ask::ChangePassword { .. });
                    if judges && judging.len() >= AT_ONCE {
                        let wait = Some(Duration::from_secs(2));
                        drop(asked.answer.send(Told::Refused { why: "too many sign in at once: try again in a moment".to_owned(), wait }));
                        continue;
                    }
                    let doors = self.clone();
                    let tasks = if judges { &mut judging } else { &mut answering };
                    tasks.spawn(async move {
                        let told = match doors.answer(asked.ask).await {
                            Ok(told) => told,
                            Err(error) => Told::Refused { why: format!("{error:#}"), wait: None },
                        };
                        // Whoever asked may have gone away.
                        drop(asked.answer.send(told));
                    });
                }
            }
        }
    }

    async fn accounts(&self) -> Result<&Accounts> {
        let open = async || {
            let opened = Accounts::open(&self.dir).await?;
            if let Some(trouble) = opened.trouble {
                let fault = Fault::new("accounts", FaultKind::Other, trouble);
                if self.words.try_send(Word::Once(fault)).is_err() {
                    tracing::error!("the accounts of the dashboard were damaged and put aside");
                }
            }
            anyhow::Ok(opened.accounts)
        };
        self.opened.get_or_try_init(open).await
    }

    async fn answer(&self, ask: Ask) -> Result<Told> {
        let accounts = self.accounts().await?;
        // Sessions and codes live by the time that is certain: a clock that jumps puts nobody out, and none lives longer for it.
        let now = self.clock.certain();
        Ok(match ask {
            Ask::Founded => Told::Founded(accounts.has_owner().await?),
            Ask::SetUp { code, name, password, visit } => self.set_up(accounts, &code, &name, &password, &visit).await?,
            Ask::SignIn { name, password, visit } => self.sign_in(accounts, &name, &password, &visit).await?,
            Ask::Who { session } => match accounts.who(hash(session.0.as_bytes()), now).await? {
                Some(visitor) => Told::Visitor(visitor),
                None => Told::Nobody,
            },
            Ask::SignOut { session } => {
                accounts.end_word(hash(session.0.as_bytes())).await?;
                self.less();
                Told::Done
            }
            Ask::Sessions { account } => Told::Sessions(accounts.sessions(&account).await?),
            Ask::EndSession { account, id } => {
                accounts.end_session(&account, id).await?;
                self.less();
                Told::Done
            }
            Ask::ChangePassword { account, old, new, session, visit } => {
                check_password(&new.0, &account).map_err(anyhow::Error::msg)?;
                // Whoever found an open page must not get around the pauses here.
                match self.judged(accounts, &account, &old, &visit).await? {
                    Judged::Right(_) => {}
                    Judged::Wrong => bail!("the old password is not that"),
                    Judged::Wait(wait) => return Ok(must_wait(wait)),
                }
                accounts.set_password(&account, &self.hashed(new).await?, session).await?;
                tracing::info!("{account} has a new password for the dashboard; other sessions of this account are over");
                self.less();
                Told::Done
            }
            Ask::SetTheme { account, theme } => {
                accounts.set_theme(&account, theme).await?;
                Told::Done
            }
            Ask::Accounts => Told::Accounts(accounts.list().await?),
            Ask::Add { name, role, password, by } => {
                let name = check_name(&name).map_err(anyhow::Error::msg)?;
                check_password(&password.0, &name).map_err(anyhow::Error::msg)?;
                accounts.add(&name, role, &self.hashed(password).await?, now).await?;
                tracing::info!("{by} let {name:?} in to the dashboard as {}", role.word());
                Told::Done
            }
            Ask::SetRole { account, role, by } => {
                accounts.set_role(&account, role).await?;
                tracing::info!("{by} made {account:?} {} of the dashboard", role.word());
                self.less();
                Told::Done
            }
            Ask::SetPassword { account, password, by } => {
                check_password(&password.0, &account).map_err(anyhow::Error::msg)?;
                accounts.set_password(&account, &self.hashed(password).await?, NO_SESSION).await?;
                tracing::info!("{by} gave {account:?} a new password for the dashboard; sessions of this account are over");
                self.less();
                Told::Done
            }
            Ask::Remove { account, by } => {
                accounts.remove(&account).await?;
                tracing::info!("{by} took the dashboard from {account:?}");
                self.less();
                Told::Done
            }
        })
    }

    fn less(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn set_up(&self, accounts: &Accounts, code: &Hidden, name: &str, password: &Hidden, visit: &Visit) -> Result<Told> {
        if accounts.has_owner().await? {
            bail!("this house has an owner already: sign in, or run `sudo dms3-node web reset-owner` on the coordinator");
        }
        let name = check_name(name).map_err(anyhow::Error::msg)?;
        check_password(&password.0, &name).map_err(anyhow::Error::msg)?;
        if let Some(wait) = self.wait(visit, SET_UP, false) {
            return Ok(must_wait(wait));
        }
        let hashed = self.hashed(password.clone()).await?;
        if !accounts.found(hash_of_code(&code.0), &name, &hashed, self.clock.certain()).await? {
            self.failed(visit, SET_UP, "a wrong set-up code");
            bail!("this code is not right, or its time is over: `sudo dms3-node web setup-code` on the coordinator makes a new one");
        }
        tracing::warn!("{name:?} is the owner of the dashboard from now on (set up from {})", visit.address);
        self.begin(accounts, &name, visit).await
    }

    async fn sign_in(&self, accounts: &Accounts, name: &str, password: &Hidden, visit: &Visit) -> Result<Told> {
        match self.judged(accounts, name, password, visit).await? {
            Judged::Right(name) => {
                tracing::info!("{name:?} signed in to the dashboard from {}", visit.address);
                self.begin(accounts, &name, visit).await
            }
            Judged::Wrong => bail!("name or password is wrong"),
            Judged::Wait(wait) => Ok(must_wait(wait)),
        }
    }

    async fn judged(&self, accounts: &Accounts, name: &str, password: &Hidden, visit: &Visit) -> Result<Judged> {
        let name = name.trim();
        let known = accounts.known(name, visit).await?;
        let from_here = known.as_ref().is_some_and(|known| known.from_here);
        if let Some(wait) = self.wait(visit, name, from_here) {
            return Ok(Judged::Wait(wait));
        }
        let (name, phc) = match known {
            Some(known) => (Some(known.name), known.password),
            None => (None, self.nobody.get_or_try_init(|| self.hashed(Hidden(NOBODYS.to_owned()))).await?.clone()),
        };
        let right = self.fits(password.clone(), phc).await?;
        match name {
            Some(name) if right => {
                self.throttle.lock().unwrap_or_else(PoisonError::into_inner).succeeded(visit.address);
                Ok(Judged::Right(name))
            }
            name => {
                self.failed(visit, name.as_deref().unwrap_or_default(), "a wrong name or password");
                Ok(Judged::Wrong)
            }
        }
    }

    fn wait(&self, visit: &Visit, account: &str, known: bool) -> Option<Duration> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).wait(visit.address, account, known, self.clock.now().mono)
    }

    /// What was tried is not in the log: a password is easily typed where the name belongs.
    fn failed(&self, visit: &Visit, account: &str, what: &str) {
        let now = self.clock.now().mono;
        let count = self.throttle.lock().unwrap_or_else(PoisonError::into_inner).failed(visit.address, account, now);
        tracing::warn!("{what} at the dashboard, from {} ({count} in a row)", visit.address);
        if count == TOLD_AFTER {
            let text = format!(
                "Somebody tries passwords at the dashboard: {count} wrong ones from {}. Nobody got in; each further try waits a minute.",
                visit.address
            );
            let kind = FaultKind::PasswordsGuessed { source: visit.address.to_string(), count };
            let fault = Fault::new(format!("guesses/{}", visit.address), kind, text);
            if self.words.try_send(Word::Once(fault)).is_err() {
                tracing::warn!("the driver is too busy to hear that somebody tries passwords");
            }
        }
    }

    async fn begin(&self, accounts: &Accounts, name: &str, visit: &Visit) -> Result<Told> {
        let word = data_encoding::BASE64URL_NOPAD.encode(&random::<32>()?);
        accounts.begin_session(name, hash(word.as_bytes()), visit, self.clock.certain()).await?;
        Ok(Told::In(Hidden(word)))
    }

    async fn hashed(&self, password: Hidden) -> Result<String> {
        let _judge = self.judges.acquire().await?;
        let salt = random::<16>()?;
        tokio::task::spawn_blocking(move || {
            let salt = SaltString::encode_b64(&salt).map_err(|error| anyhow::anyhow!("cannot make a salt: {error}"))?;
            let hash = hasher()?.hash_password(password.0.as_bytes(), &salt);
            Ok(hash.map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?.to_string())
        })
        .await?
    }

    async fn fits(&self, password: Hidden, phc: String) -> Result<bool> {
        if password.0.len() > dms3_core::accounts::PASSWORD_MOST {
            return Ok(false);
        }
        let _judge = self.judges.acquire().await?;
        tokio::task::spawn_blocking(move || {
            let hash = PasswordHash::new(&phc).map_err(|error| anyhow::anyhow!("the stored password cannot be read: {error}"))?;
            Ok(hasher()?.verify_password(password.0.as_bytes(), &hash).is_ok())
        })
        .await?
    }
}

enum Judged {
    /// The name as it is written in the accounts.
    Right(String),
    Wrong,
    Wait(Duration),
}

/// No session is kept.
const NO_SESSION: i64 = -1;
/// No name may be empty, so it is nobody's.
const SET_UP: &str = "";

fn must_wait(wait: Duration) -> Told {
    Told::Refused { why: format!("too many wrong tries: wait {} s and try again", wait.as_secs().max(1)), wait: Some(wait) }
}

/// A new set-up code, which is shown once: only its hash is kept. Refused if an owner exists.
pub async fn new_code(accounts: &Accounts, now: Timestamp) -> Result<String> {
    ensure!(
        !accounts.has_owner().await?,
        "this house has an owner: he signs in and lets others in. If his password is lost, `sudo dms3-node web reset-owner` removes him"
    );
    let code = make_code()?;
    accounts.set_code(hash_of_code(&code), now + CODE_LIFE).await?;
    Ok(code)
}

/// As [`new_code`], after every owner was removed.
pub async fn reset_owner(accounts: &Accounts, now: Timestamp) -> Result<String> {
    let code = make_code()?;
    accounts.reset_owner(hash_of_code(&code), now + CODE_LIFE).await?;
    Ok(code)
}

impl Doors {
    /// For the control socket.
    pub async fn code(&self, reset: bool) -> Result<String> {
        let (accounts, now) = (self.accounts().await?, self.clock.certain());
        if !reset {
            return new_code(accounts, now).await;
        }
        let code = reset_owner(accounts, now).await?;
        self.less();
        Ok(code)
    }
}

/// "7K3M-Q9TX-0ABC"
fn make_code() -> Result<String> {
    let letters = random::<CODE_LETTERS>()?.map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    let groups: Vec<String> = letters.chunks(4).map(|group| group.iter().collect()).collect();
    Ok(groups.join("-"))
}

fn hash_of_code(code: &str) -> [u8; 32] {
    hash(tidy_code(code).as_bytes())
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    hash
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no random numbers")?;
    Ok(bytes)
}

/// argon2id as OWASP's password storage page asks for at least: 19 MiB, two rounds.
fn hasher() -> Result<Argon2<'static>> {
    let params = Params::new(19 * 1024, 2, 1, None).map_err(|error| anyhow::anyhow!("argon2 cannot be set up: {error}"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_set_up_code_lives_for_a_day_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::alone();
        clock.accept().unwrap();
        let doors = Doors::new(dir.path().to_owned(), clock.clone(), mpsc::channel(9).0);
        let visit = Visit { address: "127.0.0.1".parse().unwrap(), agent: "a browser".to_owned() };
        let accounts = doors.accounts().await.unwrap();
        let found =
            async |code: &str| doors.set_up(accounts, &Hidden(code.to_owned()), "Ann", &Hidden("correct horse".to_owned()), &visit).await;
        clock.set_ahead(29 * 86_400_000);
        let code = doors.code(false).await.unwrap();
        clock.set_ahead(0);
        clock.pass(CODE_LIFE + Duration::from_secs(60));
        let why = found(&code).await.expect_err("made by a clock that was ahead, it lives no longer").to_string();
        assert!(why.contains("its time is over"), "{why}");

        let code = doors.code(false).await.unwrap();
        clock.set_ahead(29 * 86_400_000);
        assert!(matches!(found(&code).await, Ok(Told::In(_))), "nor shorter");
    }
}
