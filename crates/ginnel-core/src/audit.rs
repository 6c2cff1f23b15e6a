//! The audit records: what is kept about every enrolment, link and session.
//!
//! A [`Record`] is one JSON object on one line, with its fields always in the same order and `v` saying which edition of the form it is
//! written in. Each record of a session repeats who, where to, by which rule and under which policy, so that one line alone answers who
//! reached what. Everything that a peer can choose freely goes through [`Text`]. On disk each line ends in its [`Seal`].
//!
//! A server and an agent write the same records of a session, each about what it knows: the server by which rule and from where, the agent by
//! which entry of its owner's list, with the client as its certificate of the inner handshake names it. [`compare`] holds one against the other.

use std::net::SocketAddr;

use serde::Serialize;

pub use self::entry::Entry;
pub use self::files::{LogFiles, OldFile, ROTATE_AGE, ROTATE_SIZE};
pub use self::seal::{Checkpoint, HASH_BYTES, Hash, Hex, MAC_BYTES, NO_HASH, NotHex, SIGNATURE_BYTES, Seal};
pub use self::text::{TEXT_MAX, Text};
pub use self::timestamp::{NotATime, Timestamp};
use crate::cause::{Cause, Hop};
use crate::id::{InstanceId, RequestId};
use crate::principal::Principal;
use crate::target::Target;

pub mod compare;
mod entry;
mod files;
mod seal;
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
    /// Puts an event on record as number `seq` of the log, at `time`, by the process `boot`.
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
    /// The socket address that the client's connection comes from. Every server says it, and no agent can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// The rule that allowed it; at an agent the target of the entry of its list.
    pub rule: Text,
    /// The version of the policy or list that this rule stands in.
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
    /// The process started.
    Started {
        /// The software's version.
        version: Text,
        /// The version of the policy or list in force.
        policy: Text,
    },
    /// Rules, identities or an agent's lists were changed while the process runs.
    Reloaded {
        /// The version of the policy or list in force from here on.
        policy: Text,
        /// What changed, in words.
        changed: Text,
    },
    /// Somebody, a key, a certificate or a rule was shut out over the admin socket; it is in force when this is written.
    Revoked {
        /// What kind of thing: `principal`, `email`, `key`, `serial`, `rule`, `target` or `all`.
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
        /// SHA-256 of the SubjectPublicKeyInfo of the key that verified the token: what a denial of that key names.
        #[serde(skip_serializing_if = "Option::is_none")]
        verified_by: Option<Text>,
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
    /// A connection was closed because of where it comes from, or because a load balancer did not say that.
    TurnedAway {
        /// Where it comes from: the address that a balancer gave, or that of the connection.
        peer: SocketAddr,
        /// Why.
        cause: Cause,
        /// Whom its certificate named, if it came to that.
        #[serde(skip_serializing_if = "Option::is_none")]
        principal: Option<Principal>,
        /// The serial number of that certificate.
        #[serde(skip_serializing_if = "Option::is_none")]
        serial: Option<Text>,
        /// How many others were turned away since the record before, and have none: strangers may come in any number.
        #[serde(skip_serializing_if = "Option::is_none")]
        unrecorded: Option<u64>,
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
        /// What its certificate was given for, if it says so: a kind of token, and the key or the issuer.
        #[serde(skip_serializing_if = "Option::is_none")]
        proof: Option<Text>,
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
        /// What its certificate was given for, if it says so: a kind of token, and the key or the issuer.
        #[serde(skip_serializing_if = "Option::is_none")]
        proof: Option<Text>,
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
        network: Text,
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
    /// The policy allowed a session; written before the agent is asked to dial. At an agent: its owner's list allowed it to a client that has
    /// proved who it is; written before the target is dialled.
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
        /// Bytes carried towards the target: at a server with the encryption around them, at an agent without.
        bytes_up: u64,
        /// Bytes carried towards the client, counted like those.
        bytes_down: u64,
        /// At an agent: bytes that came from the client with the encryption around them, as the server counts.
        #[serde(skip_serializing_if = "Option::is_none")]
        carried_up: Option<u64>,
        /// At an agent: bytes that were given to the server for the client, counted like those.
        #[serde(skip_serializing_if = "Option::is_none")]
        carried_down: Option<u64>,
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
        /// Who asked. Missing at an agent to which nobody has proved anything yet.
        #[serde(flatten)]
        client: Option<Client>,
        /// At such an agent: who asked according to the server; proved by nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_claimed: Option<Principal>,
        /// Through whom, if it came to that.
        #[serde(flatten)]
        agent: Option<Agent>,
        /// Where to; as the client spelled it if it is no target.
        target: Text,
        /// The socket address that the client's connection comes from. Every server says it, and no agent can.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<SocketAddr>,
        /// Who said no.
        hop: Hop,
        /// Why.
        cause: Cause,
        /// The rule that would have allowed it.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<Text>,
        /// The version of the policy or list in force.
        policy: Text,
    },
    /// At an agent: a session was opened that the list under observation would have refused. It goes on.
    WouldRefuse {
        /// Which.
        #[serde(flatten)]
        session: Session,
        /// The address that was dialled.
        address: SocketAddr,
        /// Why that list would have refused it.
        cause: Cause,
        /// The version of that list.
        observed: Text,
    },
    /// The log could not be written for so long that records of what happened had to be given up; the log itself says so.
    Gap {
        /// How many are missing here.
        records: u64,
    },
    /// A run of records with keys of its own begins: with a process, with a file, and after a failure of the disk that left something behind.
    /// Its record is signed.
    ChapterBegun {
        /// Which log.
        log: InstanceId,
        /// Which chapter, counted from zero.
        chapter: u64,
        /// The number of the record that it follows.
        after: u64,
        /// The hash of that record.
        after_hash: Hash,
        /// Bytes between that record and this one that count for nothing: what a crash or a failed write left.
        void: u64,
        /// The SHA-256 of those bytes, if there are any.
        #[serde(skip_serializing_if = "Option::is_none")]
        void_hash: Option<Hash>,
        /// What this chapter's signatures are verified with.
        key: Hash,
        /// What the next chapter's are.
        next_key: Hash,
    },
    /// A signature over everything so far.
    Checkpoint {
        /// Which log.
        log: InstanceId,
        /// In which chapter.
        chapter: u64,
        /// Records of the chain up to here, this one among them.
        records: u64,
        /// What the next chapter's signatures are verified with.
        next_key: Hash,
        /// Whether nothing follows in this chapter, because the process or the file ends.
        closing: bool,
    },
    /// An old file of the log is about to be removed, as the configuration wants.
    FileRemoved {
        /// Its name.
        file: Text,
        /// The number of its first record.
        first_seq: u64,
        /// The number of its last record.
        last_seq: u64,
        /// The hash of its last record, if it was sealed.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_hash: Option<Hash>,
        /// Its size.
        bytes: u64,
    },
}

/// What a record is to the thing that it tells of, which decides what a log does with it when it cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Comes before the act, which must not happen unless this is on record.
    Permit,
    /// Somebody was told no, or would have been. Anybody can cause any number of them.
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
        "turnedAway",
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
        "wouldRefuse",
        "gap",
        "chapterBegun",
        "checkpoint",
        "fileRemoved",
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
            Self::TurnedAway { .. } => "turnedAway",
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
            Self::WouldRefuse { .. } => "wouldRefuse",
            Self::Gap { .. } => "gap",
            Self::ChapterBegun { .. } => "chapterBegun",
            Self::Checkpoint { .. } => "checkpoint",
            Self::FileRemoved { .. } => "fileRemoved",
        }
    }

    /// What the record is to the thing that it tells of.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Started { .. } | Self::Enrolled { .. } | Self::CertificateIssued { .. } | Self::Allowed { .. } => {
                Kind::Permit
            }
            Self::EnrolmentRefused { .. }
            | Self::Refused { .. }
            | Self::TooManyInstances { .. }
            | Self::TurnedAway { .. }
            | Self::WouldRefuse { .. } => Kind::Refusal,
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
            | Self::Gap { .. }
            | Self::ChapterBegun { .. }
            | Self::Checkpoint { .. }
            | Self::FileRemoved { .. } => Kind::Fact,
        }
    }
}

#[cfg(test)]
mod tests;
