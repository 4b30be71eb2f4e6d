//! What people ask of a running node, and what it answers: over the control socket, and over the dashboard.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::accounts::Hidden;
use crate::arming::ArmState;
use crate::coordinator::{Command, Decision};
use crate::dashboard::{Dashboard, DetectorView, MailView};
use crate::event::{EventFilter, StoredEvent};
use crate::id::{EventId, NodeId};
use crate::presence::{Device, MacAddr};
use crate::protocol::message::OutboxV1;
use crate::time::Timestamp;

/// What a command asks of the running node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Status,
    Command(Command),
    TokenNew(TokenRequest),
    TokenList,
    TokenCancel {
        id: String,
    },
    Rename {
        node: String,
        name: String,
    },
    Revoke {
        node: String,
    },
    /// A person looked at what a node did: it is no longer marked.
    Clear {
        node: String,
    },
    Log {
        since: Timestamp,
    },
    /// The last decisions, at most so many; `until`: those that were made by then.
    LastDecisions {
        count: u32,
        until: Option<Timestamp>,
    },
    /// Coordinator only: when devices of people were heard.
    Signs {
        since: Timestamp,
    },
    /// A mail to try whether mail works.
    MailTest,
    /// Coordinator only: what the cameras saw, the newest first; a page of them.
    Events {
        filter: EventFilter,
    },
    Event {
        id: EventId,
    },
    /// How many events began between each of these moments and the next.
    EventDays {
        bounds: Vec<Timestamp>,
        /// As in [`EventFilter`]; `None`: of all.
        camera: Option<String>,
    },
    /// The events before and after that one.
    Neighbours {
        id: EventId,
    },
    /// How many events each node has.
    EventTotals,
    /// How many events this one has not seen.
    Unseen {
        who: String,
    },
    /// Somebody has seen these events; `None`: all that there are.
    MarkSeen {
        ids: Option<Vec<EventId>>,
        who: String,
    },
    DeleteEvent {
        id: EventId,
    },
    /// What a source of a camera sees now.
    Still {
        node: NodeId,
        source: String,
    },
    /// A set-up code for the dashboard; `reset`: its owners are removed before.
    WebCode {
        reset: bool,
    },
    /// Coordinator only: a person says that the machine's clock is right.
    TimeAccept,
    Forget {
        person: String,
    },
    /// Coordinator only: the device is that person's from now on, beside those of the config.
    Learn {
        person: String,
        device: Device,
    },
    /// A device that was learned is nobody's any more.
    Unlearn {
        device: Device,
    },
    /// A link by which one phone of that person may ask to be learned.
    HereLink {
        person: String,
    },
    /// What the phone at `address`, which opened a link, is told. `asks`: and it is to be learned.
    Here {
        word: Hidden,
        address: IpAddr,
        asks: bool,
    },
    /// A person's answer to a device that asks.
    Decide {
        person: String,
        mac: MacAddr,
        add: bool,
    },
    /// Camera only: stop the detectors by hand, or go on.
    Pause {
        secs: Option<u64>,
    },
}

/// What the node answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    House(Box<Dashboard>),
    Camera(Box<CameraStatus>),
    Token(Box<NewToken>),
    Tokens(Vec<TokenView>),
    Log(Log),
    Signs(Vec<Heard>),
    Events(Vec<StoredEvent>),
    Event(Box<StoredEvent>),
    /// One for each of [`Request::EventDays`] but the last, or for [`Request::Unseen`].
    Counts(Vec<u64>),
    Totals(Vec<(NodeId, u64)>),
    Neighbours {
        newer: Option<EventId>,
        older: Option<EventId>,
    },
    /// A JPEG.
    Still(Vec<u8>),
    /// A set-up code, shown once, with the page's address and the fingerprint of its certificate.
    WebCode(WebCode),
    HereLink {
        word: Hidden,
        until: Timestamp,
    },
    Here(Here),
    Done(String),
    Refused(String),
}

/// What was decided, and what happened to the authority of the house, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    pub decisions: Vec<Decision>,
    pub audit: Vec<AuditEntry>,
    /// Older rows were left out.
    pub cut: bool,
}

/// What the first visit to the dashboard takes.
#[derive(Clone, Serialize, Deserialize)]
pub struct WebCode {
    pub code: String,
    /// `https://house.local:8443/`; `None`: the page is not served now.
    pub address: Option<String>,
    /// SHA-256 of its certificate, as browsers show it.
    pub fingerprint: Option<String>,
}

impl std::fmt::Debug for WebCode {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("WebCode").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What a phone that opened a link is told: of itself, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    pub standing: HereStanding,
    /// As far as it is known.
    pub mac: Option<MacAddr>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HereStanding {
    /// It may ask.
    Ready,
    /// It cannot be learned: why, in words.
    Refused(String),
    Asked,
    Added,
    Declined,
    /// The link is over, used up by another phone, or never was one.
    Ended,
    /// Too many wrong links were opened from there: not before so many seconds.
    Wait(u64),
}

impl From<HereStanding> for Here {
    fn from(standing: HereStanding) -> Self {
        Self { standing, mac: None, addresses: Vec::new() }
    }
}

/// What a camera node says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CameraStatus {
    pub node: NodeId,
    pub name: Option<String>,
    /// The coordinator it is linked to: "address", or `None`.
    pub linked: Option<String>,
    /// Why not, in words.
    pub trouble: Option<String>,
    pub effective: ArmState,
    pub raised: bool,
    pub paused_secs: Option<u64>,
    pub epoch: Option<u32>,
    pub rev: Option<u64>,
    pub detectors: Vec<DetectorView>,
    pub clock_trusted: bool,
    pub outbox: OutboxV1,
    /// What waits of the mails that it sends by itself; `None`: it does not mail.
    pub mail: Option<MailView>,
    /// Why it mails nothing, in words.
    pub mail_troubles: Vec<String>,
    /// Why it cannot write down what holds, in words.
    pub disk_trouble: Option<String>,
    /// Why it plays no sound, in words.
    pub sound_trouble: Option<String>,
    pub revoked: bool,
}

/// What a person asks for with `token new`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub ttl_secs: Option<u64>,
    #[serde(default)]
    pub uses: Option<u32>,
    /// Where the enrollment port is, for networks without mDNS.
    #[serde(default)]
    pub hints: Vec<SocketAddr>,
}

/// A token as it is shown. The word is never part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    pub id: String,
    pub name: Option<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub uses: u32,
    /// Names of the nodes that used it.
    pub used_by: Vec<String>,
    /// "live", "used", "expired", "cancelled", "locked"
    pub standing: String,
}

/// The answer to `token new`. Shown once: nobody, not even the store, has the word afterwards.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    pub word: String,
    pub token: TokenView,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("token", &self.token).finish_non_exhaustive()
    }
}

/// What happened to the authority of this house.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditKind {
    Enrolled,
    Revoked,
    Renamed,
    TokenMade,
    TokenCancelled,
    TokenLocked,
    BadSignature,
    Forgotten,
    TimeAccepted,
    /// Two machines use the identity of a node.
    UsedTwice,
    Cleared,
    /// A device became a person's, or is it no more.
    DeviceLearned,
    DeviceForgotten,
}

impl AuditKind {
    const ALL: [Self; 13] = [
        Self::Enrolled,
        Self::Revoked,
        Self::Renamed,
        Self::TokenMade,
        Self::TokenCancelled,
        Self::TokenLocked,
        Self::BadSignature,
        Self::Forgotten,
        Self::TimeAccepted,
        Self::UsedTwice,
        Self::Cleared,
        Self::DeviceLearned,
        Self::DeviceForgotten,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Revoked => "revoked",
            Self::Renamed => "renamed",
            Self::TokenMade => "token-made",
            Self::TokenCancelled => "token-cancelled",
            Self::TokenLocked => "token-locked",
            Self::BadSignature => "bad-signature",
            Self::Forgotten => "forgotten",
            Self::TimeAccepted => "time-accepted",
            Self::UsedTwice => "used-twice",
            Self::Cleared => "cleared",
            Self::DeviceLearned => "device-learned",
            Self::DeviceForgotten => "device-forgotten",
        }
    }
}

impl std::str::FromStr for AuditKind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == text).ok_or(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub at: Timestamp,
    pub kind: AuditKind,
    pub node: Option<NodeId>,
    pub detail: String,
}

/// A time in which a device was heard again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    pub device: Device,
    pub first: Timestamp,
    pub last: Timestamp,
    /// How often.
    pub signs: u64,
}
