//! What a running process says of itself: the JSON that its admin listener gives and the commands read.
//!
//! Fields may be added; a reader passes over what it does not know, and takes what is missing as absent. Texts are as the process has
//! them: whoever prints them makes them fit for a terminal first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::{Checkpoint, Timestamp};
use crate::quota::Usage;

/// One process: `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `server`, `agent` or `client`.
    pub role: String,
    /// Who it is; `None` before its first certificate.
    pub principal: Option<String>,
    /// Which process.
    pub instance: String,
    /// The software's version.
    pub version: String,
    /// When this was said.
    pub time: Timestamp,
    /// When the process started.
    pub started: Timestamp,
    /// Whether it is on its way out: no new sessions, old ones may finish.
    pub draining: bool,
    /// Whether it could carry a session now.
    pub ready: bool,
    /// Why not, one sentence each.
    #[serde(default)]
    pub not_ready: Vec<String>,
    /// What of its configuration is in force.
    pub config: Config,
    /// Its own certificate.
    pub certificate: Option<Certificate>,
    /// Renewals of that certificate since the start.
    #[serde(default)]
    pub renewals: Renewals,
    /// Agents and clients: the server.
    pub server: Option<Upstream>,
    /// Servers: the agents' links. Clients: the agents on the roster.
    #[serde(default)]
    pub agents: Vec<Peer>,
    /// Servers: the connected clients.
    #[serde(default)]
    pub clients: Vec<Peer>,
    /// Sessions in numbers, since the start.
    pub sessions: Totals,
    /// From a request to success, for every session that was opened.
    #[serde(default)]
    pub opening: Latency,
    /// Refusals and ends by hop and cause, since the start.
    #[serde(default)]
    pub causes: Vec<Counted>,
    /// The last refusals, newest first.
    #[serde(default)]
    pub refusals: Vec<Request>,
    /// Agents and clients: inner handshakes since the start.
    pub inner_handshakes: Option<InnerHandshakes>,
    /// Servers: enrolments since the start.
    pub enrolments: Option<Enrolments>,
    /// Servers: how far bounds are used up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<Bound>,
    /// The audit log, of a process that writes one.
    pub audit: Option<Audit>,
    /// Clients: the routes; `None` if the server has the choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// Agents with a list under observation: what it would have refused.
    pub observation: Option<Observation>,
    /// Servers, agents and processes that enrol: denials in force, as `ginnel revoke --list` has them.
    pub denials: Option<u64>,
    /// Servers: what may be somebody who has no right to be here, since the start.
    pub signals: Option<Signals>,
}

/// What may be somebody with another's credentials, by the role of the principal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signals {
    /// Connections from networks that their principal was not known to come from, while it was known from others.
    pub new_sources: BTreeMap<String, u64>,
    /// Processes that were turned away because their principal has as many as it may have.
    pub too_many_instances: BTreeMap<String, u64>,
}

/// Renewals of a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewals {
    /// Those that gave a new certificate, the first enrolment included.
    pub renewed: u64,
    /// Those that did not.
    pub failed: u64,
}

/// Handshakes between client and agent that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerHandshakes {
    /// With the certificates of both.
    pub full: u64,
    /// With a ticket of an earlier one.
    pub resumed: u64,
}

/// Enrolments at a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolments {
    /// Certificates issued to agents and clients.
    pub issued: u64,
    /// Refusals by reason, as in audit records.
    pub refused: BTreeMap<String, u64>,
}

/// A bound of a server, as `docs/security/limits.md` explains it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// What it is on.
    pub name: String,
    /// What is used now, of all together; 0 for rates.
    pub used: u64,
    /// Most of that; 0 for rates, which differ from one to the other.
    pub most: u64,
    /// How often somebody was turned away at it, since the start.
    pub turned_away: u64,
}

impl Bound {
    /// A bound that is used up so far.
    pub fn new(name: &str, usage: Usage) -> Self {
        let Usage { taken, most, refused } = usage;
        Self { name: name.to_owned(), used: taken, most, turned_away: refused }
    }
}

/// How long something took, as a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// How often.
    pub count: u64,
    /// All of it together, in microseconds.
    pub sum_micros: u64,
    /// How often it took at most so long, and longer than the bucket before; what is beyond the last is in none.
    pub buckets: Vec<Bucket>,
}

/// One bucket of a [`Latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Its upper end.
    pub up_to_millis: u64,
    /// How many fell into it.
    pub count: u64,
}

/// What of a configuration is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The version of what can be reloaded: for a server the policy's, as in audit records; equal versions mean equal rules or lists.
    pub version: String,
    /// Rules of a server, targets of an agent, routes of a client.
    pub entries: u64,
    /// When it came into force.
    pub applied: Option<Timestamp>,
    /// Reloads that came into force, since the start.
    pub reloads: u64,
    /// Reloads that failed, since the start.
    pub failures: u64,
    /// Why the last reload failed, if it did: the last good configuration is in force.
    pub failure: Option<Failure>,
}

/// A route of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// What is served, as patterns.
    pub targets: Vec<String>,
    /// By which agents, by name.
    pub agents: Vec<String>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// When.
    pub time: Timestamp,
    /// What, in one or several lines.
    pub error: String,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its serial number.
    pub serial: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// What is left of its life, in seconds; 0 when it has expired.
    pub remaining_seconds: u64,
    /// Why the last renewal failed, if it did.
    pub renewal_failure: Option<Failure>,
    /// What it was asked for with, as far as the process that has it knows.
    #[serde(default)]
    pub credential: Option<String>,
    /// Of a connected process: what the certificate says that it was given for, as in the audit record of the enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Of a connected process: SHA-256 of the SubjectPublicKeyInfo of the key that verified that, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<String>,
}

/// The server, as an agent or client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// What is dialled.
    pub address: String,
    /// The name that its certificate must have.
    pub name: String,
    /// Whether there is a connection that sessions can use.
    pub connected: bool,
    /// How many connections there are that new sessions can use.
    #[serde(default)]
    pub connections: u64,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The server's software version, as it states it.
    pub version: Option<String>,
    /// Why the last attempt to enrol or connect failed, if it did.
    pub failure: Option<Failure>,
}

/// A connected process of an agent or client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Who.
    pub principal: String,
    /// Which process.
    pub instance: String,
    /// Its software version, as it states it.
    pub version: Option<String>,
    /// Where its first connection comes from.
    pub peer: Option<String>,
    /// How many connections it has that new sessions can use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Since when it is connected.
    pub since: Option<Timestamp>,
    /// Its certificate.
    pub certificate: Option<Certificate>,
    /// Its sessions at this moment.
    pub sessions: Option<u64>,
    /// Whether it is on its way out.
    pub draining: bool,
    /// On a client's roster, whether a route of the client names it; `None` without routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_route: Option<bool>,
    /// What it may be used for, on a client's roster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
}

/// Sessions in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Carried at this moment.
    pub live: u64,
    /// Opened since the start.
    pub opened: u64,
    /// Refused since the start.
    pub refused: u64,
    /// Ended since the start.
    pub ended: u64,
    /// Bytes towards targets, since the start.
    pub bytes_up: u64,
    /// Bytes towards applications, since the start.
    pub bytes_down: u64,
}

/// How often something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// `refused` or `ended`.
    pub event: String,
    /// Who said so.
    pub hop: String,
    /// Why.
    pub cause: String,
    /// How often.
    pub count: u64,
}

/// What a list that decides nothing has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// The version of the list; equal versions mean equal lists.
    pub version: String,
    /// Its entries.
    pub entries: u64,
    /// Sessions that were opened and that a list under observation would have refused, since the start, by the cause that it would have had.
    pub would_refuse: Vec<Observed>,
}

/// How often a list under observation would have refused a session for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Why.
    pub cause: String,
    /// How often.
    pub count: u64,
}

/// An audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Whether it can be written.
    pub healthy: bool,
    /// Records that wait to be written.
    pub waiting: u64,
    /// The newest signed record; kept elsewhere, it is an anchor that the log can be held to.
    pub checkpoint: Option<Checkpoint>,
    /// What takes them beyond the disk, if anything does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
}

/// What takes audit records beyond the disk, counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sink {
    /// Where they go.
    pub place: String,
    /// Records on disk that it has not taken yet.
    pub behind_records: u64,
    /// The age of the oldest of them in seconds; 0 if there is none.
    pub behind_seconds: u64,
    /// Entries that it has taken.
    pub delivered: u64,
    /// Those among them that stand for records which it does not take.
    pub replaced: u64,
    /// Records that it will never have: they were gone from the disk before it took them, or it takes them in no form.
    pub lost: u64,
    /// Attempts that failed, by kind.
    pub failures: BTreeMap<String, u64>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<Failure>,
}

/// One request of an application as this process saw it: an item of `/sessions` while it is carried, and of `/requests/ID` afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The request, as all logs call it.
    pub request_id: String,
    /// The process's role.
    pub role: String,
    /// Where it stands: `opening`, `carried`, `refused` or `ended`.
    pub state: String,
    /// When it came.
    pub since: Timestamp,
    /// When it was refused or ended.
    pub until: Option<Timestamp>,
    /// Who asked: the client's principal. On a client: the application's socket address.
    pub client: Option<String>,
    /// Through whom: the agent's principal.
    pub agent: Option<String>,
    /// Which process of that agent.
    pub agent_instance: Option<String>,
    /// Where to; as it was spelled if it is no target.
    pub target: String,
    /// The address that the agent dialled.
    pub address: Option<String>,
    /// The rule that allowed it.
    pub rule: Option<String>,
    /// On a client: the front end by which it came.
    pub front: Option<String>,
    /// Bytes towards the target.
    pub bytes_up: u64,
    /// Bytes towards the application.
    pub bytes_down: u64,
    /// Who refused or ended it.
    pub hop: Option<String>,
    /// Why.
    pub cause: Option<String>,
    /// Attempts that failed before, in order, as `hop: cause (agent)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<String>,
}

/// The answer of a policy test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The client's name.
    pub client: String,
    /// The target.
    pub target: String,
    /// Whether some rule allows it.
    pub allowed: bool,
    /// The rule that decides, the first that allows it.
    pub rule: Option<String>,
    /// From when on that rule allows nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Where that rule wants the client to come from; empty: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// The agents that may carry it, and whether each has a live link.
    #[serde(default)]
    pub agents: Vec<AgentReach>,
    /// If not allowed: the cause that a session is refused for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// If not allowed: the rule that comes nearest, and what in it does not fit, in a sentence.
    pub nearest: Option<String>,
    /// The version of the policy that was asked.
    pub policy: String,
}

/// An agent that may carry something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentReach {
    /// The agent's name.
    pub agent: String,
    /// Its live links.
    pub links: u64,
}

/// The answer to a demand to end sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSessions {
    /// How many were told to end.
    pub ended: u64,
}

/// Something that is denied: an item of `/denials`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denied {
    /// What kind of thing: `principal`, `email`, `key`, `serial`, `rule` or `target`.
    pub kind: String,
    /// Which.
    pub value: String,
    /// Since when.
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why, in that person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to a demand to deny something, or to undo that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    /// What kind of thing, as in [`Denied`].
    pub kind: String,
    /// Which.
    pub value: String,
    /// Whether it is denied from here on; `false` after it was undone.
    pub denied: bool,
    /// Whether that is different from before.
    pub changed: bool,
    /// When it came into force.
    pub effective: Timestamp,
    /// Connections that are closed.
    pub connections: u64,
    /// Sessions that were told to end.
    pub sessions: u64,
    /// Whether it outlives a restart of the process.
    pub lasting: bool,
    /// What else whoever asked should know, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}
