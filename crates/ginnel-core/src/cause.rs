//! The closed vocabulary of why a session was refused or ended.
//!
//! The same word appears in proxy answers, logs, audit records and tests; nothing else may be compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::advice::Mender;

mod advice;

/// Which part of the path said no, or ended the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hop {
    /// The application itself.
    Application,
    /// The tunnel client beside the application.
    Client,
    /// The tunnel server.
    Server,
    /// The tunnel agent in the customer's network.
    Agent,
    /// The host that the application wanted to reach.
    Target,
}

impl Hop {
    /// The word used everywhere, in camelCase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Client => "client",
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Target => "target",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $word:literal;)+) => {
        /// Why a session was refused or ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Cause {
            /// Every cause, in the order of the definition.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word used everywhere, in camelCase.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The number on the wire; never reused.
            pub fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The cause with this number on the wire; [`Cause::Unknown`] for one that a newer peer may know.
            pub fn from_number(number: u32) -> Self {
                match number { $($number => Self::$variant,)+ _ => Self::Unknown }
            }

            /// One sentence for people.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

causes! {
    /// The peer named a cause that this version does not know.
    Unknown = 0, "unknown";
    /// Both applications finished and everything was delivered.
    Finished = 1, "finished";
    /// An application or target reset its connection.
    Reset = 2, "reset";
    /// The request could not be understood.
    Malformed = 3, "malformed";
    /// No rule of the server lets this client reach this target.
    NotAllowed = 4, "notAllowed";
    /// The agent's owner does not permit this: the allow-list does not name the target, or the client is shut out.
    NotOnAllowList = 5, "notOnAllowList";
    /// The target's address is of a kind that is never dialled unless it is listed as an address.
    AddressForbidden = 6, "addressForbidden";
    /// A rule allows this, but no agent that may carry it is connected.
    NoLiveAgent = 7, "noLiveAgent";
    /// The agent, or the connection to it, was lost.
    AgentLost = 8, "agentLost";
    /// The client has no connection to the server.
    ServerUnreachable = 9, "serverUnreachable";
    /// The connection between client and server was lost.
    ServerLost = 10, "serverLost";
    /// The target's name could not be resolved.
    NameNotResolved = 11, "nameNotResolved";
    /// The target refused the connection.
    ConnectionRefused = 12, "connectionRefused";
    /// The target could not be reached.
    TargetUnreachable = 13, "targetUnreachable";
    /// The target did not answer in time.
    TimedOut = 14, "timedOut";
    /// The other end of the session could not prove who it is.
    PeerNotVerified = 15, "peerNotVerified";
    /// The audit log cannot be written, so nothing new is allowed.
    AuditUnavailable = 16, "auditUnavailable";
    /// A bound on concurrent work was reached.
    Overloaded = 17, "overloaded";
    /// A peer broke the protocol.
    ProtocolError = 18, "protocolError";
    /// A stream or connection broke off without saying how it ended.
    Aborted = 19, "aborted";
    /// The certificate that the session depended on has expired.
    CertificateExpired = 20, "certificateExpired";
    /// The process is shutting down.
    ShuttingDown = 21, "shuttingDown";
    /// The enrolment token was refused.
    EnrolmentRefused = 22, "enrolmentRefused";
    /// Something inside this process failed.
    Internal = 23, "internal";
    /// The server's operator admits nobody with this certificate: the configuration does not name its holder, or it was revoked.
    NotAdmitted = 24, "notAdmitted";
    /// Somebody with control over a process on the way ended the session.
    EndedByOperator = 25, "endedByOperator";
    /// The rule that let this client reach this target has expired.
    RuleExpired = 26, "ruleExpired";
    /// The connection does not come from an address that the server's operator permits for this.
    SourceRefused = 27, "sourceRefused";
    /// No route of the client names this target together with an agent that the server offers for it.
    NotOnRoute = 28, "notOnRoute";
}

impl Cause {
    /// Whether a peer may give this to the server as its reason for refusing or resetting a session. The other words are the server's own,
    /// and a peer that uses one of them breaks the protocol.
    pub fn is_a_peers_word(self) -> bool {
        match self {
            Self::Unknown
            | Self::Reset
            | Self::NotOnAllowList
            | Self::NotOnRoute
            | Self::AddressForbidden
            | Self::NameNotResolved
            | Self::ConnectionRefused
            | Self::TargetUnreachable
            | Self::TimedOut
            | Self::PeerNotVerified
            | Self::AuditUnavailable
            | Self::Overloaded
            | Self::ProtocolError
            | Self::Aborted
            | Self::ShuttingDown
            | Self::Internal
            | Self::EndedByOperator => true,
            Self::Finished
            | Self::Malformed
            | Self::NotAllowed
            | Self::NoLiveAgent
            | Self::AgentLost
            | Self::ServerUnreachable
            | Self::ServerLost
            | Self::CertificateExpired
            | Self::EnrolmentRefused
            | Self::NotAdmitted
            | Self::RuleExpired
            | Self::SourceRefused => false,
        }
    }

    fn another_agent_may_help(self) -> bool {
        match self {
            Self::NotOnAllowList
            | Self::AddressForbidden
            | Self::AgentLost
            | Self::NameNotResolved
            | Self::ConnectionRefused
            | Self::TargetUnreachable
            | Self::TimedOut
            | Self::PeerNotVerified
            | Self::Aborted
            | Self::ShuttingDown
            | Self::Unknown
            | Self::ServerLost
            | Self::Internal
            | Self::ProtocolError
            | Self::Reset => true,
            Self::Finished
            | Self::Malformed
            | Self::NotAllowed
            | Self::NoLiveAgent
            | Self::ServerUnreachable
            | Self::AuditUnavailable
            | Self::CertificateExpired
            | Self::EnrolmentRefused
            | Self::NotAdmitted
            | Self::NotOnRoute
            | Self::Overloaded
            | Self::EndedByOperator
            | Self::RuleExpired
            | Self::SourceRefused => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no word of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cause")]
pub struct NotACause;

impl FromStr for Cause {
    type Err = NotACause;

    fn from_str(text: &str) -> Result<Self, NotACause> {
        Self::ALL.iter().copied().find(|cause| cause.as_str() == text).ok_or(NotACause)
    }
}

impl Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A session that was refused: by whom, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by the {hop}: {cause}")]
pub struct Refusal {
    /// Who said no.
    pub hop: Hop,
    /// Why.
    pub cause: Cause,
}

impl Refusal {
    /// A refusal by `hop` for `cause`.
    pub fn new(hop: Hop, cause: Cause) -> Self {
        Self { hop, cause }
    }

    /// What a client makes of a server's word: one that only the client itself can say breaks the protocol.
    ///
    /// Of the client a server knows what it sees of its connection: when the certificate expires, and that it broke the protocol or broke
    /// off. Anything else in the client's own name would be a lie in its log and in the answer to the application: a refusal by a route that
    /// permits this sends its operator to the wrong place.
    #[must_use]
    pub fn as_the_servers_word(self) -> Self {
        let sees = matches!(self.cause, Cause::CertificateExpired | Cause::ProtocolError | Cause::Aborted);
        let is_the_clients_own = self.cause == Cause::NotOnRoute || (self.hop == Hop::Client && !sees);
        if is_the_clients_own { Self::new(Hop::Server, Cause::ProtocolError) } else { self }
    }

    /// Whether another live agent may do better, so that a dial that failed this way moves on.
    ///
    /// A verdict of the server holds whichever agent is asked; everything that happened at or behind one agent, to its certificate, its own audit
    /// log or what it may carry, or is said of where it comes from or of its rules alone, does not.
    pub fn another_agent_may_help(self) -> bool {
        let is_about_one_agent = matches!(
            self.cause,
            Cause::AuditUnavailable
                | Cause::CertificateExpired
                | Cause::NotAdmitted
                | Cause::NotAllowed
                | Cause::Overloaded
                | Cause::RuleExpired
                | Cause::SourceRefused
        );
        self.cause.another_agent_may_help() || (self.hop == Hop::Agent && is_about_one_agent)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_and_numbers_are_unique_and_read_back() {
        let words: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        let numbers: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.number()).collect();
        assert_eq!((words.len(), numbers.len()), (Cause::ALL.len(), Cause::ALL.len()));
        for &cause in Cause::ALL {
            assert_eq!(Cause::from_number(cause.number()), cause);
            assert_eq!(cause.as_str().parse(), Ok(cause));
            assert!(cause.sentence().ends_with('.'), "{cause}");
        }
        assert_eq!(Cause::from_number(u32::MAX), Cause::Unknown);
    }

    #[test]
    fn what_a_client_says_of_itself_is_no_word_of_the_servers() {
        let lie = Refusal::new(Hop::Server, Cause::ProtocolError);
        for hop in [Hop::Application, Hop::Client, Hop::Server, Hop::Agent, Hop::Target] {
            assert_eq!(Refusal::new(hop, Cause::NotOnRoute).as_the_servers_word(), lie, "{hop}");
        }
        for &cause in Cause::ALL {
            let sees = [Cause::CertificateExpired, Cause::ProtocolError, Cause::Aborted].contains(&cause);
            let said = Refusal::new(Hop::Client, cause);
            assert_eq!(said.as_the_servers_word(), if sees { said } else { lie }, "{cause}");
            let of_agent = Refusal::new(Hop::Agent, cause);
            assert_eq!(of_agent.as_the_servers_word() == of_agent, cause != Cause::NotOnRoute, "{cause}");
        }
    }
}
