//! One-time tokens: issue, redeem, expire. The coordinator keeps only the public half of the key that the secret yields.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, TokenId};
use crate::protocol::message::DenyCode;
use crate::time::{Mono, Timestamp};

/// Uses that a token may have.
pub const USES: std::ops::RangeInclusive<u32> = 1..=100;
/// How long a token may live.
pub const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// So many wrong signatures lock a token for good.
pub const BAD_SIGNATURES: u32 = 10;
/// Enrollments that may run at once.
pub const AT_ONCE: usize = 8;
/// Enrollments that one source address may begin within [`PER_SOURCE_TIME`].
pub const PER_SOURCE: usize = 5;
pub const PER_SOURCE_TIME: Duration = Duration::from_secs(60);
/// A token that was made later than this from now was made by a clock that was wrong: it must not live for as long as that was ahead. What is
/// proven of the time may be an hour old after a power cut.
const AHEAD: Duration = Duration::from_secs(2 * 3600);
/// When all places are taken, come again after this.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// Source addresses that are remembered. A stranger with more of them finds all later ones busy, not our memory full.
const SOURCES: usize = 1024;

/// A token as the coordinator keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub id: TokenId,
    /// Raw Ed25519 public key derived from the secret.
    pub key: [u8; 32],
    /// Name for the node, if the person gave one.
    pub name: Option<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub uses: u32,
    pub used_by: Vec<NodeId>,
    /// Nodes that confirmed with `Stored`.
    pub stored_by: Vec<NodeId>,
    pub bad_signatures: u32,
    pub cancelled: bool,
}

/// A redeemed token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    /// A use was taken: roster row and audit row are to be written in the same transaction.
    Fresh,
    /// The same key again, as after a crash: the same answer, no further use.
    Again,
}

impl TokenRow {
    /// Whether its life goes on: not cancelled, expired or locked. Its uses may all be taken.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.cancelled && !self.is_locked() && now < self.expires_at && self.issued_at <= now + AHEAD
    }

    pub fn is_locked(&self) -> bool {
        self.bad_signatures >= BAD_SIGNATURES
    }

    /// Whether the enrollment port must be open for it: until each use is stored by its node, or its life ends.
    pub fn needs_port(&self, now: Timestamp) -> bool {
        self.is_live(now) && self.stored_by.len() < self.uses as usize
    }

    pub fn uses_left(&self) -> u32 {
        self.uses.saturating_sub(u32::try_from(self.used_by.len()).unwrap_or(u32::MAX))
    }

    /// One word for people.
    pub fn standing(&self, now: Timestamp) -> &'static str {
        if self.cancelled {
            "cancelled"
        } else if self.is_locked() {
            "locked"
        } else if self.uses_left() == 0 {
            "used"
        } else if !self.is_live(now) {
            "expired"
        } else {
            "live"
        }
    }

    /// One transaction: read the row, redeem, write it back (also after an error: wrong signatures count). `signature_ok`: whether the
    /// request of `node` is signed by this token's key; `revoked`: whether that node was revoked. Locked is first said for the signature that
    /// locked it.
    pub fn redeem(&mut self, node: NodeId, signature_ok: bool, revoked: bool, now: Timestamp) -> Result<Redeemed, DenyCode> {
        if self.is_locked() {
            return Err(DenyCode::Locked);
        }
        if !self.is_live(now) {
            return Err(DenyCode::Token);
        }
        if !signature_ok {
            self.bad_signatures = self.bad_signatures.saturating_add(1);
            return Err(if self.is_locked() { DenyCode::Locked } else { DenyCode::Token });
        }
        if revoked {
            return Err(DenyCode::Revoked);
        }
        if self.used_by.contains(&node) {
            return Ok(Redeemed::Again);
        }
        if self.used_by.len() >= self.uses as usize {
            return Err(DenyCode::Token);
        }
        self.used_by.push(node);
        Ok(Redeemed::Fresh)
    }

    /// The node has everything on disk. True if that was news.
    pub fn stored(&mut self, node: NodeId) -> bool {
        let news = self.used_by.contains(&node) && !self.stored_by.contains(&node);
        if news {
            self.stored_by.push(node);
        }
        news
    }
}

/// Who may begin an enrollment now: so many at once, and so many a minute from one address.
#[derive(Debug, Default)]
pub struct Limits {
    running: usize,
    begun: BTreeMap<IpAddr, Vec<Mono>>,
}

impl Limits {
    /// Takes a place, to be given back with [`Self::done`], or says how long to wait.
    pub fn begin(&mut self, source: IpAddr, now: Mono) -> Result<(), Duration> {
        let recent = |at: &Mono| now.since(*at) < PER_SOURCE_TIME;
        self.begun.retain(|_, begun| {
            begun.retain(recent);
            !begun.is_empty()
        });
        if self.running >= AT_ONCE {
            return Err(BUSY_RETRY);
        }
        if self.begun.len() >= SOURCES && !self.begun.contains_key(&source.to_canonical()) {
            return Err(PER_SOURCE_TIME);
        }
        let begun = self.begun.entry(source.to_canonical()).or_default();
        if let Some(oldest) = begun.first().filter(|_| begun.len() >= PER_SOURCE) {
            return Err(PER_SOURCE_TIME.saturating_sub(now.since(*oldest)));
        }
        begun.push(now);
        self.running += 1;
        Ok(())
    }

    /// An enrollment that began has ended, well or not.
    pub fn done(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn token(uses: u32) -> TokenRow {
        TokenRow {
            id: TokenId([1; 5]),
            key: [2; 32],
            name: None,
            issued_at: Timestamp(0),
            expires_at: Timestamp(2_000_000),
            uses,
            used_by: Vec::new(),
            stored_by: Vec::new(),
            bad_signatures: 0,
            cancelled: false,
        }
    }

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn a_token_made_by_a_clock_that_was_ahead_is_over_when_the_clock_is_right() {
        let issued_at = NOW + Duration::from_secs(20 * 86_400);
        let token = TokenRow { issued_at, expires_at: issued_at + DEFAULT_TTL, ..token(1) };
        assert!(token.is_live(issued_at) && !token.is_live(NOW) && !token.needs_port(NOW));
        assert!(token.is_live(issued_at - Duration::from_secs(3600)), "a power cut may cost an hour of what was proven");
    }

    #[test]
    fn a_token_pairs_one_camera_and_answers_it_again_after_a_crash() {
        let mut token = token(1);
        assert_eq!(token.redeem(node(1), true, false, NOW), Ok(Redeemed::Fresh));
        assert_eq!(token.redeem(node(2), true, false, NOW), Err(DenyCode::Token));
        assert_eq!(token.redeem(node(1), true, false, NOW), Ok(Redeemed::Again));
        assert_eq!(token.used_by, [node(1)]);
    }

    #[test]
    fn a_token_for_many_pairs_exactly_so_many() {
        let mut token = token(3);
        let fresh = (0..10).filter(|n| token.redeem(node(*n), true, false, NOW) == Ok(Redeemed::Fresh)).count();
        assert_eq!(fresh, 3);
    }

    #[test]
    fn a_token_of_the_past_or_cancelled_pairs_nobody_not_even_the_one_it_paired() {
        for end in [|token: &mut TokenRow| token.cancelled = true, |token: &mut TokenRow| token.expires_at = NOW] {
            let mut token = token(2);
            token.redeem(node(1), true, false, NOW).unwrap();
            end(&mut token);
            assert!(!token.is_live(NOW) && !token.needs_port(NOW));
            assert_eq!(token.redeem(node(1), true, false, NOW), Err(DenyCode::Token));
            assert_eq!(token.redeem(node(2), true, false, NOW), Err(DenyCode::Token));
        }
    }

    #[test]
    fn the_tenth_wrong_signature_locks_the_token_for_the_right_one_too() {
        let mut token = token(1);
        for _ in 0..9 {
            assert_eq!(token.redeem(node(1), false, false, NOW), Err(DenyCode::Token));
        }
        assert!(token.clone().redeem(node(1), true, false, NOW).is_ok());
        assert_eq!(token.redeem(node(1), false, false, NOW), Err(DenyCode::Locked));
        assert_eq!(token.redeem(node(1), true, false, NOW), Err(DenyCode::Locked));
        assert!(!token.needs_port(NOW) && token.used_by.is_empty());
    }

    #[test]
    fn a_revoked_camera_pairs_with_no_token_and_takes_no_use() {
        let mut token = token(2);
        assert_eq!(token.redeem(node(1), true, true, NOW), Err(DenyCode::Revoked));
        assert!(token.used_by.is_empty());
        token.redeem(node(2), true, false, NOW).unwrap();
        assert_eq!(token.redeem(node(2), true, true, NOW), Err(DenyCode::Revoked));
    }

    #[test]
    fn the_port_stays_open_until_each_use_is_on_its_cameras_disk() {
        let mut token = token(2);
        token.redeem(node(1), true, false, NOW).unwrap();
        assert!(token.stored(node(1)) && !token.stored(node(1)));
        assert!(!token.stored(node(3)), "a node that never redeemed it");
        assert!(token.needs_port(NOW));
        token.redeem(node(2), true, false, NOW).unwrap();
        assert!(token.needs_port(NOW), "the second has not confirmed");
        token.stored(node(2));
        assert!(!token.needs_port(NOW) && token.is_live(NOW));
    }

    #[test]
    fn eight_pair_at_once_and_five_a_minute_from_one_address() {
        let mut limits = Limits::default();
        let source = |n: u8| IpAddr::from([10, 0, 0, n]);
        for n in 0..8 {
            limits.begin(source(n), Mono(0)).unwrap();
        }
        assert_eq!(limits.begin(source(9), Mono(0)), Err(BUSY_RETRY));
        for _ in 0..8 {
            limits.done();
        }
        for _ in 0..4 {
            limits.begin(source(1), Mono(10_000)).unwrap();
            limits.done();
        }
        assert_eq!(limits.begin(source(1), Mono(20_000)), Err(Duration::from_secs(40)));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert!(limits.begin(mapped, Mono(20_000)).is_err(), "the same address in the other dress");
        assert_eq!(limits.begin(source(2), Mono(20_000)), Ok(()));
        limits.done();
        assert_eq!(limits.begin(source(1), Mono(60_000)), Ok(()));
    }

    #[test]
    fn a_stranger_with_many_addresses_does_not_fill_our_memory() {
        let mut limits = Limits::default();
        for n in 0..10_000_u32 {
            if limits.begin(IpAddr::from(n.to_be_bytes()), Mono(0)).is_ok() {
                limits.done();
            }
        }
        assert!(limits.begun.len() <= SOURCES);
    }
}
