//! Tokens as a person at the coordinator handles them: made, listed, cancelled.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use dms3_core::enrollment::{DEFAULT_TTL, TTL, TokenRow, USES};
use dms3_core::id::TokenId;
use dms3_core::request::{NewToken, TokenRequest, TokenView};
use dms3_core::roster::check_name;
use dms3_core::time::Timestamp;
use dms3_pki::{Authority, Secret, TokenWord, token_key};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::coordinator::roster::Roster;
use crate::store::Store;

/// The coordinator's tokens. Clones share them; the enrollment service wakes at each change.
#[derive(Debug, Clone)]
pub struct Tokens {
    store: Store,
    authority: Arc<Authority>,
    roster: Roster,
    clock: Clock,
    changed: Arc<Notify>,
}

impl Tokens {
    pub fn new(store: Store, authority: Arc<Authority>, roster: Roster, clock: Clock) -> Self {
        Self { store, authority, roster, clock, changed: Arc::new(Notify::new()) }
    }

    pub async fn make(&self, request: TokenRequest) -> anyhow::Result<NewToken> {
        ensure!(
            self.clock.vouched_now().trusted,
            "the clock of this machine cannot be trusted, and a token carries the time: wait until NTP has set it, or set it yourself; if it is right, say so with `sudo dms3-node time accept`"
        );
        let now = self.clock.vouched_now().at;
        let (word, row) = new_token(&self.authority, request, now)?;
        self.store.insert_token(&row).await?;
        self.wake();
        let life = humantime::format_duration(row.expires_at.since(row.issued_at));
        tracing::info!("token {} made: {} use(s) within {life}", row.id, row.uses);
        Ok(NewToken { word: word.encode(), token: self.view(&row, now) })
    }

    /// The newest first.
    pub async fn list(&self) -> anyhow::Result<Vec<TokenView>> {
        let now = self.clock.announced();
        Ok(self.store.tokens().await?.iter().map(|row| self.view(row, now)).collect())
    }

    /// By its id, or by the first characters of it if only one token fits.
    pub async fn cancel(&self, id: &str) -> anyhow::Result<TokenView> {
        let wanted = id.trim().to_lowercase();
        let rows = self.store.tokens().await?;
        let fitting: Vec<TokenId> =
            rows.iter().map(|row| row.id).filter(|id| !wanted.is_empty() && id.to_string().starts_with(&wanted)).collect();
        let id = match fitting.as_slice() {
            [one] => *one,
            [] => bail!("there is no token {wanted:?}; see `dms3-node token list`"),
            _ => bail!("more than one token begins with {wanted:?}: write more of it"),
        };
        let now = self.clock.vouched_now().at;
        let row = self.store.cancel_token(id, now).await?;
        self.wake();
        tracing::info!("token {id} cancelled");
        Ok(self.view(&row, now))
    }

    /// Something else changed a token: a revocation cancels those that the node used.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn view(&self, row: &TokenRow, now: Timestamp) -> TokenView {
        TokenView {
            id: row.id.to_string(),
            name: row.name.clone(),
            issued_at: row.issued_at,
            expires_at: row.expires_at,
            uses: row.uses,
            used_by: row.used_by.iter().map(|node| self.roster.row(node).map_or_else(|| node.short(), |row| row.name)).collect(),
            standing: row.standing(now).to_owned(),
        }
    }
}

/// A token's word and what the coordinator keeps of it: the public half of a key that the secret yields.
fn new_token(authority: &Authority, request: TokenRequest, now: Timestamp) -> anyhow::Result<(TokenWord, TokenRow)> {
    let name = request.name.as_deref().map(check_name).transpose().map_err(anyhow::Error::msg)?;
    let ttl = request.ttl_secs.map_or(DEFAULT_TTL, Duration::from_secs);
    ensure!(TTL.contains(&ttl), "a token lives between 1 minute and 7 days");
    let uses = request.uses.unwrap_or(1);
    ensure!(USES.contains(&uses), "a token has between {} and {} uses", USES.start(), USES.end());
    ensure!(request.hints.len() <= dms3_pki::MAX_HINTS, "a token carries at most {} hints", dms3_pki::MAX_HINTS);
    let secret = Secret::generate()?;
    let word = TokenWord {
        issued_at: u32::try_from(now.as_secs())?,
        id: TokenId(rand::random()),
        root_pin: authority.root_pin()?,
        secret: secret.clone(),
        hints: request.hints,
    };
    let row = TokenRow {
        id: word.id,
        key: token_key(&secret)?.public(),
        name,
        issued_at: now,
        expires_at: now + ttl,
        uses,
        used_by: Vec::new(),
        stored_by: Vec::new(),
        bad_signatures: 0,
        cancelled: false,
    };
    Ok((word, row))
}
