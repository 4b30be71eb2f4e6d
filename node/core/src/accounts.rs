//! Who may sign in to the dashboard, what each role may do there, and how often somebody may try.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{Mono, Timestamp};

/// A session that nobody used for so long is over.
pub const SESSION_IDLE: Duration = Duration::from_secs(14 * 86_400);
/// No session lives longer, however much it is used.
pub const SESSION_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Life of a set-up code.
pub const CODE_LIFE: Duration = Duration::from_secs(86_400);
/// Shortest password, in characters; there is no other rule (NIST SP 800-63B, 3.1.1.2: length, not kinds of characters).
pub const PASSWORD_LEAST: usize = 10;
/// Longest password, in bytes.
pub const PASSWORD_MOST: usize = 256;

/// What somebody is in this house. A greater one may all that a lesser one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Member,
    Owner,
}

/// What a page or a button needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// State, cameras, events and their pictures; one's own account.
    See,
    /// Who was where when (evidence in the decision log).
    SeeNames,
    /// Arm and disarm.
    Command,
    /// Nodes, accounts, mail, log; delete events.
    Manage,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Owner, Self::Member, Self::Viewer];

    pub fn may(self, act: Act) -> bool {
        match act {
            Act::See => true,
            Act::SeeNames | Act::Command => self >= Self::Member,
            Act::Manage => self == Self::Owner,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| format!("{text:?} is no role: owner, member or viewer"))
    }
}

/// How the page looks for somebody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    /// As the browser asks for.
    #[default]
    Auto,
    Light,
    Dark,
}

impl Theme {
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// What is unknown is as the browser asks for.
    pub fn from_word(word: &str) -> Self {
        match word {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::Auto,
        }
    }
}

/// A password, a code, the word of a session: never in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("(hidden)")
    }
}

/// Where somebody comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub address: IpAddr,
    /// What his browser says of itself; it may say anything.
    pub agent: String,
}

/// What the page asks of the keeper of accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Whether an owner exists: before that, only the set-up is there.
    Founded,
    SetUp {
        code: Hidden,
        name: String,
        password: Hidden,
        visit: Visit,
    },
    SignIn {
        name: String,
        password: Hidden,
        visit: Visit,
    },
    /// Whose session it is.
    Who {
        session: Hidden,
    },
    SignOut {
        session: Hidden,
    },
    Sessions {
        account: String,
    },
    EndSession {
        account: String,
        id: i64,
    },
    ChangePassword {
        account: String,
        old: Hidden,
        new: Hidden,
        session: i64,
        visit: Visit,
    },
    SetTheme {
        account: String,
        theme: Theme,
    },
    Accounts,
    Add {
        name: String,
        role: Role,
        password: Hidden,
        by: String,
    },
    SetRole {
        account: String,
        role: Role,
        by: String,
    },
    /// By an owner, for whoever forgot his.
    SetPassword {
        account: String,
        password: Hidden,
        by: String,
    },
    Remove {
        account: String,
        by: String,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Founded(bool),
    /// Signed in: the word of the new session.
    In(Hidden),
    Visitor(Visitor),
    /// No session, or none any more.
    Nobody,
    Sessions(Vec<Session>),
    Accounts(Vec<Account>),
    Done,
    /// In words for whoever asked. `wait`: not before so long.
    Refused {
        why: String,
        wait: Option<Duration>,
    },
}

/// Whoever is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    pub name: String,
    pub role: Role,
    pub theme: Theme,
    pub session: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: i64,
    pub address: String,
    pub agent: String,
    pub since: Timestamp,
    /// Last used, to within five minutes.
    pub last: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub role: Role,
    pub sessions: u64,
}

/// Whether a session that began and was used then is over.
pub fn is_over(since: Timestamp, last: Timestamp, now: Timestamp) -> bool {
    now.since(since) >= SESSION_LIFE || now.since(last) >= SESSION_IDLE
}

/// Refuses, in words, what is too short, too long, or the name itself.
pub fn check_password(password: &str, name: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_LEAST {
        return Err(format!("a password has at least {PASSWORD_LEAST} characters: a few words do well"));
    }
    if password.len() > PASSWORD_MOST {
        return Err(format!("a password has at most {PASSWORD_MOST} bytes"));
    }
    if password.to_lowercase() == name.to_lowercase() {
        return Err("the name is no password".to_owned());
    }
    Ok(())
}

/// A set-up code as it was typed: case, spaces and dashes do not matter, nor which of two like letters it was (Crockford's base32).
pub fn tidy_code(typed: &str) -> String {
    let kept = typed.chars().filter(char::is_ascii_alphanumeric).map(|c| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    });
    kept.collect()
}

/// Tries that cost nothing, from one address and at one account.
const FREE: u32 = 5;
const FREE_ACCOUNT: u32 = 10;
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// After so long without a failure all is forgotten.
const FORGET: Duration = Duration::from_secs(900);
/// Addresses and accounts that are remembered: a stranger may have many addresses.
const REMEMBERED: usize = 1024;

/// How often somebody may try to sign in. Slow, never a lock-out: whoever signed in to the account from where he is waits for nobody else's
/// failures.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: HashMap<Key, Failures>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Account(String),
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Mono,
}

impl Failures {
    /// Time from the last failure to the next try.
    fn pause(&self, free: u32) -> Duration {
        match self.count.checked_sub(free) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1 << over.min(6)).min(LONGEST),
        }
    }
}

impl Throttle {
    /// How long to wait before a try; `None`: now. `known`: the account was signed in to from this address before.
    pub fn wait(&self, address: IpAddr, account: &str, known: bool, now: Mono) -> Option<Duration> {
        let mut keys = vec![(Key::Address(network(address)), FREE)];
        if !known {
            keys.push((Key::Account(account.to_lowercase()), FREE_ACCOUNT));
        }
        let waits = keys.into_iter().filter_map(|(key, free)| {
            let failures = self.failures.get(&key)?;
            failures.pause(free).checked_sub(now.since(failures.last)).filter(|wait| !wait.is_zero())
        });
        waits.max()
    }

    /// A wrong password or code. How many of this address there are now.
    pub fn failed(&mut self, address: IpAddr, account: &str, now: Mono) -> u32 {
        self.failures.retain(|_, failures| now.since(failures.last) < FORGET);
        let mut count = 0;
        for key in [Key::Account(account.to_lowercase()), Key::Address(network(address))] {
            if self.failures.len() >= REMEMBERED && !self.failures.contains_key(&key) {
                let oldest = self.failures.iter().min_by_key(|(_, failures)| (failures.count, failures.last)).map(|(key, _)| key.clone());
                oldest.and_then(|oldest| self.failures.remove(&oldest));
            }
            let failures = self.failures.entry(key).or_insert(Failures { count: 0, last: now });
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
            count = failures.count;
        }
        count
    }

    /// The right one: what this address did wrong is forgiven.
    pub fn succeeded(&mut self, address: IpAddr) {
        self.failures.remove(&Key::Address(network(address)));
    }
}

/// Whoever has one IPv6 address has all of its /64; an IPv4 address that came in over a socket of both kinds is one.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => four.into(),
            None => IpAddr::from(std::net::Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(secs * 1000)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_viewer_sees_a_member_arms_an_owner_manages() {
        let may = |role: Role| [Act::See, Act::SeeNames, Act::Command, Act::Manage].map(|act| role.may(act));
        assert_eq!(may(Role::Viewer), [true, false, false, false]);
        assert_eq!(may(Role::Member), [true, true, true, false]);
        assert_eq!(may(Role::Owner), [true, true, true, true]);
        assert!(Role::ALL.iter().all(|role| role.word().parse() == Ok(*role)) && "admin".parse::<Role>().is_err());
    }

    #[test]
    fn whoever_guesses_waits_ever_longer_and_is_forgiven_after_a_quarter_of_an_hour() {
        let mut throttle = Throttle::default();
        let thief = address("192.168.1.66");
        for nth in 1..=5 {
            assert_eq!(throttle.wait(thief, "ann", false, at(0)), None);
            assert_eq!(throttle.failed(thief, "ann", at(0)), nth);
        }
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.wait(thief, "ann", false, at(now)), Some(Duration::from_secs(pause)));
            now += pause;
            assert_eq!(throttle.wait(thief, "ann", true, at(now)), None);
            throttle.failed(thief, "bob", at(now));
        }
        assert_eq!(throttle.wait(thief, "cleo", false, at(now + 60 + 900)), None);
        throttle.failed(address("192.168.1.67"), "cleo", at(now + 900));
        assert_eq!(throttle.wait(thief, "ann", false, at(now + 900)), None);
    }

    #[test]
    fn strangers_with_many_addresses_slow_each_other_and_never_who_was_here_before() {
        let mut throttle = Throttle::default();
        for nth in 0..200 {
            throttle.failed(address(&format!("10.0.1.{nth}")), "Ann", at(0));
        }
        let home = address("192.168.1.5");
        assert!(throttle.wait(address("10.9.9.9"), "ann", false, at(0)).is_some());
        assert_eq!(throttle.wait(home, "ann", true, at(0)), None);
        assert_eq!(throttle.wait(home, "bob", false, at(0)), None);
        // One who owns a whole network of addresses is one.
        for nth in 0..20 {
            throttle.failed(address(&format!("2001:db8::{nth}")), "bob", at(1));
        }
        assert!(throttle.wait(address("2001:db8::ffff"), "cleo", true, at(1)).is_some());
        assert_eq!(throttle.wait(address("2001:db8:0:1::1"), "cleo", true, at(1)), None);
    }

    #[test]
    fn what_strangers_do_takes_no_memory_and_makes_nobody_forgotten_who_did_worse() {
        let mut throttle = Throttle::default();
        let thief = address("192.168.1.66");
        for _ in 0..20 {
            throttle.failed(thief, "ann", at(0));
        }
        for nth in 0..5000_u32 {
            throttle.failed(IpAddr::from(nth.to_be_bytes()), &format!("name {nth}"), at(1));
        }
        assert!(throttle.failures.len() <= REMEMBERED);
        assert!(throttle.wait(thief, "ann", true, at(2)).is_some());
    }

    #[test]
    fn a_right_password_forgives_the_address_and_not_the_account() {
        let mut throttle = Throttle::default();
        let home = address("192.168.1.5");
        for _ in 0..12 {
            throttle.failed(home, "ann", at(0));
        }
        throttle.succeeded(home);
        assert_eq!(throttle.wait(home, "ann", true, at(0)), None);
        assert!(throttle.wait(home, "ann", false, at(0)).is_some());
    }

    #[test]
    fn a_session_ends_when_nobody_uses_it_and_in_any_case_some_day() {
        let (began, day) = (Timestamp::from_secs(1_795_000_000), Duration::from_secs(86_400));
        assert!(!is_over(began, began, began + SESSION_IDLE - Duration::from_secs(1)));
        assert!(is_over(began, began, began + SESSION_IDLE));
        assert!(!is_over(began, began + 89 * day, began + 89 * day));
        assert!(is_over(began, began + 90 * day, began + 90 * day));
    }

    #[test]
    fn passwords_are_long_and_not_the_name_and_never_in_a_log() {
        assert!(check_password("short", "ann").unwrap_err().contains("at least 10"));
        assert!(check_password("Annabella-Maria", "annabella-maria").is_err());
        assert!(check_password(&"x".repeat(257), "ann").is_err());
        check_password("älter als 10", "ann").unwrap();
        assert_eq!(format!("{:?}", Hidden("secret".to_owned())), "(hidden)");
        assert_eq!(tidy_code(" abcd-efgo il12 "), "ABCDEFG01112");
    }
}
