//! Who can mend what a cause tells of, and how: what `ginnel explain` and the documentation say.

use std::fmt;

use super::Cause;

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mender {
    /// Whoever writes or runs the application.
    Application,
    /// The operator of the server and the clients, in the vendor's cloud.
    Operator,
    /// The owner of the agent, in the customer's network.
    AgentOwner,
    /// Nobody has to: it is how sessions end.
    Nobody,
}

impl Mender {
    /// Who that is, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "the application's engineers",
            Self::Operator => "the operator",
            Self::AgentOwner => "the agent's owner, in the customer's network",
            Self::Nobody => "nobody has to",
        }
    }
}

impl fmt::Display for Mender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Cause {
    /// Who can mend it.
    pub fn mender(self) -> Mender {
        match self {
            Self::Finished | Self::Reset => Mender::Nobody,
            Self::Malformed => Mender::Application,
            Self::NotOnAllowList
            | Self::AddressForbidden
            | Self::NameNotResolved
            | Self::ConnectionRefused
            | Self::TargetUnreachable
            | Self::TimedOut => Mender::AgentOwner,
            Self::Unknown
            | Self::NotAllowed
            | Self::NoLiveAgent
            | Self::AgentLost
            | Self::ServerUnreachable
            | Self::ServerLost
            | Self::PeerNotVerified
            | Self::AuditUnavailable
            | Self::Overloaded
            | Self::ProtocolError
            | Self::Aborted
            | Self::CertificateExpired
            | Self::ShuttingDown
            | Self::EnrolmentRefused
            | Self::Internal
            | Self::NotAdmitted
            | Self::NotOnRoute
            | Self::EndedByOperator
            | Self::RuleExpired
            | Self::SourceRefused => Mender::Operator,
        }
    }

    /// What to do about it, in a sentence or two.
    #[expect(clippy::too_many_lines, reason = "a table, one entry a cause")]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Unknown => {
                "One side is newer than the other: bring all parts to the same version, and look into the log of the hop that is named."
            }
            Self::Finished => "Nothing: both sides finished and everything arrived.",
            Self::Reset => {
                "Usually nothing: the application or the target broke its connection off. If it was not meant, look into the log of that program."
            }
            Self::Malformed => {
                "Ask for a target as host:port with a plain name or address. Through the proxy, use CONNECT or an http:// address in absolute form."
            }
            Self::NotAllowed => {
                "Ask `ginnel policy test CLIENT TARGET` at the server what comes nearest, and add a rule if the target is meant to be reached."
            }
            Self::NotOnAllowList => {
                "If the target is meant to be reached, add it to `allow` in the agent's configuration, or the client to the item's `clients`. `ginnel revoke --list` at the agent shows whom and what its owner shut out."
            }
            Self::AddressForbidden => {
                "The name leads to loopback, link-local or another special address, or to the agent itself. Mend the name, or list the address itself in `allow`."
            }
            Self::NoLiveAgent => {
                "Start an agent that the rule names, or find out why it is not connected: `ginnel check agent --config FILE` beside it."
            }
            Self::AgentLost => {
                "Look whether the agent was stopped or its network was cut; new sessions go to another live agent."
            }
            Self::ServerUnreachable => {
                "Run `ginnel check client --config FILE` beside the client: it says where the way to the server ends."
            }
            Self::ServerLost => {
                "Look whether the server was restarted or the network was cut; the client comes back by itself."
            }
            Self::NameNotResolved => {
                "Look the name up on the agent's machine: `ginnel check agent --config FILE --target HOST:PORT` does."
            }
            Self::ConnectionRefused => {
                "Nothing listens on that port, or a firewall says no: see whether the service runs and the port is right."
            }
            Self::TargetUnreachable => {
                "There is no way from the agent to that address: look at routes and firewalls on the agent's side, `ginnel check agent --config FILE --target HOST:PORT`."
            }
            Self::TimedOut => {
                "Whoever is named did not answer in time: a firewall that drops, or a host that is overloaded. `ginnel check` beside that hop shows how far it gets."
            }
            Self::PeerNotVerified => {
                "Client and agent do not trust each other's certificates: compare the roots in `trust` with those of the server's issuer, and `dangerDisableInnerTls` on both sides. If all of that is right, take it for an attack."
            }
            Self::AuditUnavailable => {
                "Make the audit log of the hop that is named writable again (disk full, permissions, broken disk): until then it allows nothing new."
            }
            Self::Overloaded => {
                "A bound was reached at the hop that is named: `ginnel status` shows how many sessions there are; spread them, or find out who opens so many. docs/security/limits.md has the bounds of a server and what moves them."
            }
            Self::ProtocolError => {
                "Bring all parts to the same version. If they are, look into the log of the hop that is named, and take it for an attack until it is explained."
            }
            Self::Aborted => {
                "A program on the way ended or was cut off in the middle: look into the log of the hop that is named."
            }
            Self::CertificateExpired => {
                "The part that is named could not renew its certificate: its log says why, and `ginnel check ROLE --config FILE` beside it shows which step fails."
            }
            Self::ShuttingDown => {
                "Nothing: a part was told to stop. Try again; another one, or its successor, takes over."
            }
            Self::EnrolmentRefused => {
                "The server's audit log has the reason in the record `enrolmentRefused`; `ginnel check ROLE --config FILE` shows the rest."
            }
            Self::Internal => "This is a mistake in Ginnel: report it with the log lines of the request.",
            Self::NotAdmitted => {
                "`ginnel revoke --list` at the server shows who was shut out, and the audit log by whom and why. If nobody was, add the identity to the server's `identities`. With the hop `agent` it is the agent's certificate that was not admitted."
            }
            Self::NotOnRoute => {
                "Ask `ginnel check client --config FILE --target HOST:PORT` beside the client: it names the agents on the routes and those that the server offers. Mend `routes` in the client's configuration, or start the agent that they name. If the routes are right and that agent is connected, take it for an attack."
            }
            Self::EndedByOperator => {
                "Nothing: somebody ended it on purpose, with `ginnel sessions end` at the hop that is named."
            }
            Self::RuleExpired => {
                "If the target is still meant to be reached, move `expires` of the rule and reload; `ginnel policy test CLIENT TARGET` at the server names the rule."
            }
            Self::SourceRefused => {
                "Find out why the connection comes from another network than expected: a new address of the network's exit, or a stolen key. `ginnel policy test CLIENT TARGET --from ADDRESS` names the rule that asks for it; otherwise it is `sourceRanges` of the identity or `server.allowedSourceRanges`. With the hop `agent` it is the agent's connection."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_advice_in_whole_sentences() {
        for &cause in Cause::ALL {
            let advice = cause.advice();
            assert!(advice.ends_with('.') && advice.len() > 20, "{cause}: {advice}");
        }
    }
}
