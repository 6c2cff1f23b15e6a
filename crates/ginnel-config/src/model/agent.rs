//! The agent's configuration.

use std::path::PathBuf;
use std::time::Duration;

use ginnel_core::lanes::Bounds;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::renewal::Renewal;

use super::{Admin, Credential, Upstream, loadable};
use crate::shape::{self, Fields, object};

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
    /// What may be dialled; the server cannot widen it.
    pub allow: Vec<TargetPattern>,
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
    let allow = fields
        .field(
            "allow",
            "What this agent may dial, as host:port; everything else is refused, whatever the server says. A host is a name, \
             *.name for exactly one label more, an address or a network; a port is a number or a range such as 8000-8100. A list \
             without items allows nothing.",
        )
        .example(vec!["gitlab.acme.internal:443", "gitlab.acme.internal:22", "*.registry.acme.internal:443", "10.20.0.0/16:443"])
        .required(shape::list(shape::parsed()));
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
    let (server, audience) = (server?, enrolment?);
    Some(AgentConfig {
        enrolment_audience: super::audience_or_default(audience, &server.name),
        renewal: renewal?,
        server,
        trust: trust?,
        credential: credential?,
        allow: allow?,
        connections: connections?,
        denials_file: denials?,
        admin: admin?,
        shutdown_grace: shutdown_grace?,
        danger_disable_inner_tls: danger_disable_inner_tls?,
    })
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
