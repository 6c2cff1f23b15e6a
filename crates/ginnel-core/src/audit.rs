//! The audit records: what is kept about every enrolment, link and session.
//!
//! A [`Record`] is one JSON object on one line, with its fields always in the same order and `v` saying which edition of the form it is
//! written in. Each record of a session repeats who, where to, by which rule and under which policy, so that one line alone answers who
//! reached what. Everything that a peer can choose freely goes through [`Text`].

use std::net::SocketAddr;

use serde::Serialize;

pub use self::entry::Entry;
pub use self::text::{TEXT_MAX, Text};
pub use self::timestamp::{NotATime, Timestamp};
use crate::cause::{Cause, Hop};
use crate::id::{InstanceId, RequestId};
use crate::principal::Principal;
use crate::target::Target;

mod entry;
mod text;
mod timestamp;

/// The edition of the form. It rises when a field changes its meaning; fields and events are added without it.
pub const VERSION: u32 = 1;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    v: u32,
    seq: u64,
    time: Timestamp,
    boot: InstanceId,
    #[serde(flatten)]
    event: Event,
}

impl Record {
    /// Puts an event on record as number `seq` of the log, at `time`, by the server process `boot`.
    pub fn new(seq: u64, time: Timestamp, boot: InstanceId, event: Event) -> Self {
        Self { v: VERSION, seq, time, boot, event }
    }
}

/// A client, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Who it is.
    #[serde(rename = "client")]
    pub principal: Principal,
    /// Its service account.
    #[serde(rename = "clientEmail")]
    pub email: Text,
}

/// An agent, as its certificate and the first message of its link name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agent {
    /// Who it is.
    #[serde(rename = "agent")]
    pub principal: Principal,
    /// Its service account.
    #[serde(rename = "agentEmail")]
    pub email: Text,
    /// Which of the processes that share this service account.
    #[serde(rename = "agentInstance")]
    pub instance: InstanceId,
}

/// What every record of a permitted session says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The request, as all logs call it.
    pub request_id: RequestId,
    /// Who asked.
    #[serde(flatten)]
    pub client: Client,
    /// Through whom.
    #[serde(flatten)]
    pub agent: Agent,
    /// Where to.
    pub target: Target,
    /// The socket address that the client's connection comes from.
    pub peer: SocketAddr,
    /// The rule that allowed it.
    pub rule: Text,
    /// The version of the policy that this rule stands in.
    pub policy: Text,
}

/// What came of an enrolment that was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Forwarded {
    /// The answer was passed back.
    Answered,
    /// The caller was refused.
    Refused,
    /// There was no answer: the process that enrols is away, too slow, or cannot issue.
    Unavailable,
}

impl Forwarded {
    /// The word that records and counters have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The server process started.
    Started {
        /// The software's version.
        version: Text,
        /// The version of the policy in force.
        policy: Text,
    },
    /// Rules or identities were changed while the server runs.
    Reloaded {
        /// The version of the policy in force from here on.
        policy: Text,
        /// What changed, in words.
        changed: Text,
    },
    /// Somebody, a key, a certificate or a rule was shut out over the admin socket; it is in force when this is written.
    Revoked {
        /// What kind of thing: `principal`, `email`, `key`, `serial` or `rule`.
        kind: Text,
        /// Which.
        subject: Text,
        /// Who asked for it.
        by: Text,
        /// Why, in that person's words.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<Text>,
        /// Connections that are closed for it.
        connections: u64,
        /// Sessions that were told to end for it.
        sessions: u64,
    },
    /// That was undone: what the configuration allows is allowed again.
    Unrevoked {
        /// What kind of thing.
        kind: Text,
        /// Which.
        subject: Text,
        /// Who asked for it.
        by: Text,
        /// Why, in that person's words.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<Text>,
    },
    /// Somebody enrolled and is about to be given this certificate.
    Enrolled {
        /// Whom the certificate names.
        principal: Principal,
        /// The service account that the token proved.
        email: Text,
        /// The certificate's serial number.
        serial: Text,
        /// Until when it is valid.
        not_after: Timestamp,
        /// Where the request came from.
        peer: SocketAddr,
        /// SHA-256 of the certified public key.
        #[serde(skip_serializing_if = "Option::is_none")]
        spki_sha256: Option<Text>,
        /// What proved it: a kind of token, and the key or the issuer. `bearer` stands for a token that was bound to nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        proof: Option<Text>,
        /// Whose request it was, if the peer says that it only passed it on: a relay's word, proved by nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        forwarded_for: Option<SocketAddr>,
    },
    /// An enrolment was refused. The caller is not told why; this record is.
    EnrolmentRefused {
        /// The verdict, in one word.
        reason: Text,
        /// The service account that the token claims, if it could be read; proved by nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        email: Option<Text>,
        /// Where the request came from.
        peer: SocketAddr,
        /// Whose request it was, if the peer says that it only passed it on: a relay's word, proved by nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        forwarded_for: Option<SocketAddr>,
    },
    /// An enrolment was passed on, unread, to the process that enrols. That process has the verdict on record.
    EnrolmentForwarded {
        /// Where the request came from.
        peer: SocketAddr,
        /// What came of it.
        outcome: Forwarded,
    },
    /// A certificate was issued without an enrolment: the server's own.
    CertificateIssued {
        /// Whom it names.
        principal: Principal,
        /// Its serial number.
        serial: Text,
        /// Until when it is valid.
        not_after: Timestamp,
        /// SHA-256 of the certified public key.
        #[serde(skip_serializing_if = "Option::is_none")]
        spki_sha256: Option<Text>,
    },
    /// An agent's link came up.
    LinkUp {
        /// Whose.
        #[serde(flatten)]
        agent: Agent,
        /// Where its connection comes from.
        peer: SocketAddr,
        /// The software's version, as the agent states it.
        version: Text,
        /// The serial number of its certificate.
        serial: Text,
    },
    /// An agent's link was lost or closed.
    LinkDown {
        /// Whose.
        #[serde(flatten)]
        agent: Agent,
        /// Why.
        cause: Cause,
    },
    /// A client connected and was sent its roster.
    ClientUp {
        /// Which.
        #[serde(flatten)]
        client: Client,
        /// Which of the processes that share this service account.
        #[serde(rename = "clientInstance")]
        instance: InstanceId,
        /// Where its connection comes from.
        peer: SocketAddr,
        /// The software's version, as the client states it.
        version: Text,
        /// The serial number of its certificate.
        serial: Text,
    },
    /// A client's connection was lost or closed.
    ClientDown {
        /// Which.
        #[serde(flatten)]
        client: Client,
        /// Which of the processes that share this service account.
        #[serde(rename = "clientInstance")]
        instance: InstanceId,
        /// Why.
        cause: Cause,
    },
    /// A principal came from a network that it was not known to come from.
    NewSource {
        /// Who.
        principal: Principal,
        /// The service account that its certificate names.
        email: Text,
        /// Where its connection comes from.
        peer: SocketAddr,
        /// The network that counts.
        source: Text,
        /// The serial number of its certificate.
        serial: Text,
        /// Networks that it was known to come from; 0 if it was never seen before.
        known: u64,
    },
    /// A process was turned away because its principal has as many as it may have.
    TooManyInstances {
        /// Whose.
        principal: Principal,
        /// The service account that its certificate names.
        email: Text,
        /// Which process.
        instance: InstanceId,
        /// Where its connection comes from.
        peer: SocketAddr,
        /// The serial number of its certificate.
        serial: Text,
        /// How many it may have.
        most: u64,
    },
    /// The policy allowed a session; written before the agent is asked to dial.
    Allowed {
        /// Which.
        #[serde(flatten)]
        session: Session,
    },
    /// The agent connected to the target.
    Connected {
        /// Which.
        #[serde(flatten)]
        session: Session,
        /// The address that was dialled.
        address: SocketAddr,
    },
    /// A session that was connected has ended.
    Ended {
        /// Which.
        #[serde(flatten)]
        session: Session,
        /// Bytes carried towards the target, as counted on the server.
        bytes_up: u64,
        /// Bytes carried towards the client, as counted on the server.
        bytes_down: u64,
        /// How long it lasted, from `allowed` on.
        duration_ms: u64,
        /// Who ended it.
        hop: Hop,
        /// Why.
        cause: Cause,
    },
    /// A session was refused, by the policy or later on its way.
    Refused {
        /// The request, as all logs call it.
        request_id: RequestId,
        /// Who asked.
        #[serde(flatten)]
        client: Client,
        /// Through whom, if it came to that.
        #[serde(flatten)]
        agent: Option<Agent>,
        /// Where to; as the client spelled it if it is no target.
        target: Text,
        /// The socket address that the client's connection comes from.
        peer: SocketAddr,
        /// Who said no.
        hop: Hop,
        /// Why.
        cause: Cause,
        /// The rule that would have allowed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<Text>,
        /// The version of the policy in force.
        policy: Text,
    },
    /// The log could not be written for so long that records of what happened had to be given up; the log itself says so.
    Gap {
        /// How many are missing here.
        records: u64,
    },
}

/// What a record is to the thing that it tells of, which decides what a log does with it when it cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Comes before the act, which must not happen unless this is on record.
    Permit,
    /// Somebody was told no. Anybody can cause any number of them.
    Refusal,
    /// Happened already, and cannot be undone by not being recorded.
    Fact,
}

impl Event {
    /// Every word that [`Self::word`] can give.
    pub const WORDS: &[&str] = &[
        "started",
        "reloaded",
        "revoked",
        "unrevoked",
        "enrolled",
        "enrolmentRefused",
        "enrolmentForwarded",
        "certificateIssued",
        "linkUp",
        "linkDown",
        "clientUp",
        "clientDown",
        "newSource",
        "tooManyInstances",
        "allowed",
        "connected",
        "ended",
        "refused",
        "gap",
    ];

    /// The word that the log has in `event`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Reloaded { .. } => "reloaded",
            Self::Revoked { .. } => "revoked",
            Self::Unrevoked { .. } => "unrevoked",
            Self::Enrolled { .. } => "enrolled",
            Self::EnrolmentRefused { .. } => "enrolmentRefused",
            Self::EnrolmentForwarded { .. } => "enrolmentForwarded",
            Self::CertificateIssued { .. } => "certificateIssued",
            Self::LinkUp { .. } => "linkUp",
            Self::LinkDown { .. } => "linkDown",
            Self::ClientUp { .. } => "clientUp",
            Self::ClientDown { .. } => "clientDown",
            Self::NewSource { .. } => "newSource",
            Self::TooManyInstances { .. } => "tooManyInstances",
            Self::Allowed { .. } => "allowed",
            Self::Connected { .. } => "connected",
            Self::Ended { .. } => "ended",
            Self::Refused { .. } => "refused",
            Self::Gap { .. } => "gap",
        }
    }

    /// What the record is to the thing that it tells of.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Started { .. } | Self::Enrolled { .. } | Self::CertificateIssued { .. } | Self::Allowed { .. } => {
                Kind::Permit
            }
            Self::EnrolmentRefused { .. } | Self::Refused { .. } | Self::TooManyInstances { .. } => Kind::Refusal,
            Self::EnrolmentForwarded { outcome, .. } => match outcome {
                Forwarded::Answered => Kind::Fact,
                Forwarded::Refused | Forwarded::Unavailable => Kind::Refusal,
            },
            Self::LinkUp { .. }
            | Self::LinkDown { .. }
            | Self::ClientUp { .. }
            | Self::ClientDown { .. }
            | Self::NewSource { .. }
            | Self::Connected { .. }
            | Self::Ended { .. }
            | Self::Reloaded { .. }
            | Self::Revoked { .. }
            | Self::Unrevoked { .. }
            | Self::Gap { .. } => Kind::Fact,
        }
    }
}

#[cfg(test)]
mod tests;
