//! The agent's configuration.

use std::path::PathBuf;
use std::time::Duration;

use ginnel_core::allow::{Entry, ListedClient};
use ginnel_core::audit::LogFiles;
use ginnel_core::lanes::Bounds;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::renewal::Renewal;
use serde_json::json;

use super::{Admin, Credential, Upstream, loadable};
use crate::finding::Collector;
use crate::shape::{self, Fields, List, Located, LocatedShape, ObjectOr, located, object, object_or};

/// What an agent's owner says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// The server to attach to.
    pub server: Upstream,
    /// Who is believed.
    pub trust: AgentTrust,
    /// What it proves itself with.
    pub credential: Credential,
    /// The audience of enrolment tokens.
    pub enrolment_audience: String,
    /// When certificates are renewed.
    pub renewal: Renewal,
    /// What may be dialled, and for whom; the server cannot widen it.
    pub allow: Vec<Entry>,
    /// When a target is dialled, seen from the handshake with the client.
    pub dial: Dial,
    /// A list that is asked beside `allow` and decides nothing.
    pub observed: Option<Vec<Entry>>,
    /// Where the agent's own audit log is written, and how long its files are kept; without it there is none.
    pub audit: Option<LogFiles>,
    /// How many connections to the server that take new sessions there may be at once.
    pub connections: Bounds,
    /// The file in which denials are kept; without it they last until a restart.
    pub denials_file: Option<PathBuf>,
    /// How it is seen and controlled while it runs.
    pub admin: Admin,
    /// How long sessions may go on after the first signal to stop.
    pub shutdown_grace: Duration,
    /// Whether sessions are carried without inner TLS.
    pub danger_disable_inner_tls: bool,
}

/// When a target is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// While the handshake with the client runs.
    Early,
    /// Once the client has proved who it is.
    AfterHandshake,
}

/// The roots that an agent is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentTrust {
    /// The PEM file of the server's root.
    pub server: PathBuf,
    /// The PEM file of the clients' root.
    pub client: PathBuf,
}

loadable!(AgentConfig);

pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<AgentConfig> {
    let server = fields.field("server", "The server that this agent attaches to.").required(object(super::upstream));
    let trust =
        fields.field("trust", "Root certificates, as the server's owner hands them out.").required(object(trust));
    let credential =
        fields.field("credential", "How this agent proves who it is.").required(object(super::credential::declaration));
    let enrolment = fields.field("enrolment", "How certificates are asked for.").required(object(super::enrolment));
    let renewal = fields.field("renewal", "When certificates are renewed.").required(object(super::renewal));
    let word = Word::declared(fields);
    let connections = fields
        .field("connections", "How many connections to the server there are.")
        .required(object(super::connections));
    let denials = fields
        .field("denials", "What `ginnel revoke` denied, so that it outlives a restart.")
        .required(object(denials));
    let admin = super::admin(fields, "127.0.0.1:50052");
    let shutdown_grace = super::shutdown_grace(fields);
    let danger_disable_inner_tls =
        fields.field("dangerDisableInnerTls", super::DANGER_DISABLE_INNER_TLS).default("false", shape::flag());
    fields.check(|findings| word.check(danger_disable_inner_tls == Some(true), findings));
    let Word { allow, dial, observe, audit } = word;
    let (server, audience) = (server?, enrolment?);
    let unlocated = |entries: Vec<Located<Entry>>| entries.into_iter().map(|entry| entry.value).collect();
    Some(AgentConfig {
        enrolment_audience: super::audience_or_default(audience, &server.name),
        renewal: renewal?,
        server,
        trust: trust?,
        credential: credential?,
        allow: allow.map(unlocated)?,
        dial: dial.map_or(Dial::Early, |dial| dial.value),
        observed: observe.map(unlocated),
        audit: audit.map(|audit| audit.value),
        connections: connections?,
        denials_file: denials?,
        admin: admin?,
        shutdown_grace: shutdown_grace?,
        danger_disable_inner_tls: danger_disable_inner_tls?,
    })
}

/// What an agent's owner says of who may reach what, and of the record of it.
struct Word {
    allow: Option<Vec<Located<Entry>>>,
    dial: Option<Located<Dial>>,
    observe: Option<Vec<Located<Entry>>>,
    audit: Option<Located<LogFiles>>,
}

/// Why nothing that needs to know the client goes with inner TLS switched off.
const NOBODY_PROVES: &str =
    "without inner TLS there is only the server's word for who a client is: take this out, or dangerDisableInnerTls";

/// How to have a target open to everybody, or not.
const ONE_OR_THE_OTHER: &str = "take one of them out: an item is for every client unless it lists some";

impl Word {
    fn declared(fields: &mut Fields<'_, '_>) -> Self {
        let allow = fields
            .field(
                "allow",
                "What this agent may dial, as host:port; everything else is refused, whatever the server says. A host is a name, \
                 *.name for exactly one label more, an address or a network; a port is a number or a range such as 8000-8100. A list \
                 without items allows nothing. An item may say for which clients it is: they are judged by the certificate that they \
                 show to this agent, never by the server's word, and nothing is dialled before.",
            )
            .example(json!([
                "gitlab.acme.internal:443",
                {"target": "gitlab.acme.internal:22", "clients": ["frontend"]},
                "*.registry.acme.internal:443",
                "10.20.0.0/16:443",
            ]))
            .required(entries());
        let dial = fields
            .field(
                "dial",
                "When a target is dialled: early, while the handshake with the client runs, or afterHandshake, once the client has proved \
                 who it is, which costs a session one round trip to the client. Without it: early. An agent that lists clients or has an \
                 audit log waits in any case.",
            )
            .example_off("afterHandshake")
            .optional(located(shape::word(&[("early", Dial::Early), ("afterHandshake", Dial::AfterHandshake)])));
        let observe = fields
            .field(
                "observe",
                "A list to try out: sessions that it would refuse are written to the log and the audit log and counted, and go on. What is \
                 refused is what `allow` does not name, whatever stands here.",
            )
            .example_off(json!({"allow": [{"target": "gitlab.acme.internal:443", "clients": ["frontend"]}]}))
            .optional(object(observe));
        let audit = fields
            .field(
                "audit",
                "This agent's own record of who reached what. A session is on disk before its target gets a byte.",
            )
            .example_off(json!({"file": {"directory": "/var/lib/ginnel-agent/audit"}}))
            .optional(located(object(super::audit::log)));
        Self { allow, dial, observe, audit }
    }

    /// Looks at what the settings say about each other.
    fn check(&self, is_clear: bool, findings: &mut Collector) {
        let allow = self.allow.as_deref().unwrap_or_default();
        let observe = self.observe.as_deref().unwrap_or_default();
        let names_clients = |entry: &&Located<Entry>| entry.value.clients.is_some();
        for list in [allow, observe] {
            opened_to_everybody(list, findings);
        }
        if is_clear {
            for entry in allow.iter().chain(observe).filter(names_clients) {
                entry.report(findings, "lists clients, and dangerDisableInnerTls is set", NOBODY_PROVES.to_owned());
            }
            if let Some(dial) = self.dial.as_ref().filter(|dial| dial.value == Dial::AfterHandshake) {
                dial.report(
                    findings,
                    "waits for a handshake, and dangerDisableInnerTls is set",
                    NOBODY_PROVES.to_owned(),
                );
            }
            if let Some(audit) = &self.audit {
                audit.report(
                    findings,
                    "says who reached what, and dangerDisableInnerTls is set",
                    NOBODY_PROVES.to_owned(),
                );
            }
        }
        if let Some(dial) = self.dial.as_ref().filter(|dial| dial.value == Dial::Early) {
            let listing = allow.iter().find(names_clients).map(|entry| format!("{} lists clients", entry.path));
            if let Some(why) = listing.or(self.audit.as_ref().map(|_| "there is an audit log".to_owned())) {
                dial.report(
                    findings,
                    format!("cannot be early: {why}"),
                    "take it out: such an agent dials once the client has proved who it is".to_owned(),
                );
            }
        }
    }
}

/// Reports entries for some clients whose very target another entry opens to everybody: whoever wrote them meant something else.
fn opened_to_everybody(list: &[Located<Entry>], findings: &mut Collector) {
    let open: Vec<_> = list.iter().filter(|entry| entry.value.clients.is_none()).collect();
    for entry in list.iter().filter(|entry| entry.value.clients.is_some()) {
        if let Some(open) = open.iter().find(|open| open.value.target == entry.value.target) {
            let message = format!("{} is open to every client at {}", entry.value.target, open.place);
            entry.report(findings, message, ONE_OR_THE_OTHER.to_owned());
        }
    }
}

/// A list of what may be dialled.
fn entries() -> List<LocatedShape<ObjectOr<TargetPattern, Entry>>> {
    shape::list(located(object_or(shape::parsed(), Entry::from, entry)))
}

fn entry(fields: &mut Fields<'_, '_>) -> Option<Entry> {
    let target = fields.field("target", "What may be dialled, as host:port.").required(shape::parsed());
    let clients = fields
        .field(
            "clients",
            "For whom: names of clients, or principals such as spiffe://acme.example/client/frontend. Without it, for every client that \
             the root in trust.client vouches for.",
        )
        .optional(shape::list_of_some(located(shape::parsed::<ListedClient>())));
    fields.check(|findings| {
        let clients = clients.as_deref().unwrap_or_default();
        for (at, client) in clients.iter().enumerate() {
            if let Some(first) = clients[..at].iter().find(|first| first.value == client.value) {
                client.report(findings, format!("{} is already listed at {}", client.value, first.place), None);
            }
        }
    });
    let clients = clients.map(|clients| clients.into_iter().map(|client| client.value).collect());
    Some(Entry { target: target?, clients })
}

fn observe(fields: &mut Fields<'_, '_>) -> Option<Vec<Located<Entry>>> {
    fields.field("allow", "The list, written as `allow` is.").required(entries())
}

fn denials(fields: &mut Fields<'_, '_>) -> Option<Option<PathBuf>> {
    let file = fields
        .field(
            "file",
            "The file, which the agent writes anew with every denial; its directory must exist. Without it denials last until the \
             agent is restarted.",
        )
        .example_off("/var/lib/ginnel-agent/denials.jsonl")
        .optional(shape::file());
    Some(file)
}

fn trust(fields: &mut Fields<'_, '_>) -> Option<AgentTrust> {
    let server = fields
        .field("server", "PEM file of the root that signs the server's certificate.")
        .example("server-root.pem")
        .required(shape::file());
    let client = fields
        .field("client", "PEM file of the root that signs the clients' certificates.")
        .example("client-root.pem")
        .required(shape::file());
    Some(AgentTrust { server: server?, client: client? })
}
