//! The client's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ginnel_core::lanes::Bounds;
use ginnel_core::limits::ROUTE_PATTERNS_MAX;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::principal::Name;
use ginnel_core::renewal::Renewal;
use ginnel_core::route::{Route, Routes};
use ginnel_core::target::Target;
use serde_json::json;

use super::{Admin, Credential, Upstream, loadable};
use crate::finding::{Collector, Place};
use crate::shape::{self, Fields, Located, located, object};

/// What the owner of a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The server to open sessions at.
    pub server: Upstream,
    /// Who is believed.
    pub trust: ClientTrust,
    /// What it proves itself with.
    pub credential: Credential,
    /// The audience of enrolment tokens.
    pub enrolment_audience: String,
    /// When certificates are renewed.
    pub renewal: Renewal,
    /// Where applications come in.
    pub listen: Listen,
    /// Which agents may serve which target, whatever the server offers.
    pub routes: Routes,
    /// How many connections to the server that take new sessions there may be at once.
    pub connections: Bounds,
    /// How it is seen and controlled while it runs.
    pub admin: Admin,
    /// How long sessions may go on after the first signal to stop.
    pub shutdown_grace: Duration,
    /// Whether sessions are carried without inner TLS.
    pub danger_disable_inner_tls: bool,
}

/// The roots that a client is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTrust {
    /// The PEM file of the server's root.
    pub server: PathBuf,
    /// The PEM file of the agents' root.
    pub agent: PathBuf,
}

/// The front ends of a client; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where HTTP CONNECT, plain HTTP and SOCKS5 are spoken.
    pub proxy: Option<SocketAddr>,
    /// Ports that lead to one target each.
    pub forwards: Vec<Forward>,
    /// Whether front ends may listen on other addresses than loopback.
    pub allow_non_loopback: bool,
}

/// A port that leads to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the application connects.
    pub listen: SocketAddr,
    /// Where it arrives.
    pub target: Target,
}

loadable!(ClientConfig);

pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<ClientConfig> {
    let server =
        fields.field("server", "The server that this client opens sessions at.").required(object(super::upstream));
    let trust =
        fields.field("trust", "Root certificates, as the server's owner hands them out.").required(object(trust));
    let credential = fields
        .field("credential", "How this client proves who it is.")
        .required(object(super::credential::declaration));
    let enrolment = fields.field("enrolment", "How certificates are asked for.").required(object(super::enrolment));
    let renewal = fields.field("renewal", "When certificates are renewed.").required(object(super::renewal));
    let front_ends =
        fields.field("listen", "Where applications come in: a proxy, forwards, or both.").required(object(listen));
    let routes = routes(fields);
    let connections = fields
        .field("connections", "How many connections to the server there are.")
        .required(object(super::connections));
    let admin = super::admin(fields, "127.0.0.1:50053");
    let shutdown_grace = super::shutdown_grace(fields);
    let danger_disable_inner_tls =
        fields.field("dangerDisableInnerTls", super::DANGER_DISABLE_INNER_TLS).default("false", shape::flag());
    fields.check(|findings| {
        if let Some(routes) = &routes {
            must_be_sound(routes, front_ends.as_ref(), danger_disable_inner_tls, findings);
        }
    });
    let (server, audience) = (server?, enrolment?);
    Some(ClientConfig {
        enrolment_audience: super::audience_or_default(audience, &server.name),
        renewal: renewal?,
        server,
        trust: trust?,
        credential: credential?,
        listen: front_ends?.listen?,
        routes: routes.map(RoutesRead::complete).unwrap_or_default(),
        connections: connections?,
        admin: admin?,
        shutdown_grace: shutdown_grace?,
        danger_disable_inner_tls: danger_disable_inner_tls?,
    })
}

fn trust(fields: &mut Fields<'_, '_>) -> Option<ClientTrust> {
    let server = fields
        .field("server", "PEM file of the root that signs the server's certificate.")
        .example("server-root.pem")
        .required(shape::file());
    let agent = fields
        .field("agent", "PEM file of the root that signs the agents' certificates.")
        .example("agent-root.pem")
        .required(shape::file());
    Some(ClientTrust { server: server?, agent: agent? })
}

/// The routes, if the file has any.
fn routes(fields: &mut Fields<'_, '_>) -> Option<RoutesRead> {
    let (mut before, mut after) = (0, 0);
    fields.check(|findings| before = findings.total());
    let routes = fields
        .field(
            "routes",
            "Which agents may serve which target, whatever the server offers: a session goes to no other, and what no route names is \
             refused. The agent proves who it is inside the session, where the server cannot change anything. Without routes every \
             agent that the server offers may serve.",
        )
        .example_off(json!([{"targets": ["gitlab.acme.internal:443", "gitlab.acme.internal:22"], "agents": ["acme"]}]))
        .optional(located(shape::list(object(route))));
    fields.check(|findings| after = findings.total());
    Some(RoutesRead { routes: routes?, is_whole: before == after })
}

/// Routes of which some may have been wrong.
struct RoutesRead {
    routes: Located<Vec<Route>>,
    is_whole: bool,
}

impl RoutesRead {
    fn complete(self) -> Routes {
        Routes::pinned(self.routes.value)
    }
}

fn route(fields: &mut Fields<'_, '_>) -> Option<Route> {
    let targets: Option<Vec<TargetPattern>> = fields
        .field(
            "targets",
            "What is served, as host:port. A host is a name, *.name for exactly one label more, an address or a network; a port is a \
             number or a range such as 8000-8100.",
        )
        .example_off(vec!["gitlab.acme.internal:443", "gitlab.acme.internal:22"])
        .required(shape::list_of_some(shape::parsed()));
    let agents: Option<Vec<Name>> = fields
        .field(
            "agents",
            "Names of agents, as their certificates have them behind /agent/. Where several routes name a target, the agents of all of \
             them may serve it.",
        )
        .example_off(vec!["acme"])
        .required(shape::list_of_some(shape::parsed()));
    Some(Route { targets: targets?, agents: BTreeSet::from_iter(agents?) })
}

/// Reports routes that would prove nothing, and front ends that they leave without a target.
fn must_be_sound(
    read: &RoutesRead,
    front_ends: Option<&ListenRead>,
    danger_disable_inner_tls: Option<bool>,
    findings: &mut Collector,
) {
    if danger_disable_inner_tls == Some(true) {
        let hint = "remove dangerDisableInnerTls, or the routes".to_owned();
        read.routes.report(findings, "mean nothing without inner TLS: it proves which agent serves", hint);
    }
    let length = |route: &Route| route.targets.len() + route.agents.len();
    let patterns: usize = read.routes.value.iter().map(length).sum();
    if patterns > ROUTE_PATTERNS_MAX {
        let message = format!("name {patterns} targets and agents in all, and {ROUTE_PATTERNS_MAX} is the most");
        read.routes.report(
            findings,
            message,
            "name networks, ranges of ports or *.name in place of single targets".to_owned(),
        );
    }
    // Of routes that cannot be read whole nobody knows what they were to name.
    if !read.is_whole {
        return;
    }
    let routes = Routes::pinned(read.routes.value.clone());
    for target in front_ends.iter().flat_map(|front_ends| &front_ends.leads_to) {
        if routes.permits_target(&target.value).is_err() {
            let message = format!("no route names {}, so that every connection would be refused", target.value);
            target.report(findings, message, "add it to the targets of a route".to_owned());
        }
    }
}

/// The front ends, and where they lead whatever else is wrong.
struct ListenRead {
    listen: Option<Listen>,
    leads_to: Vec<Located<Target>>,
}

fn listen(fields: &mut Fields<'_, '_>) -> Option<ListenRead> {
    let proxy = fields
        .field("proxy", "Address of the proxy, for HTTP CONNECT, plain HTTP and SOCKS5 on the same port.")
        .example("127.0.0.1:3128")
        .optional(located(super::socket_address()));
    let forwards = fields
        .field("forwards", "Ports that lead to one target each, for programs that know no proxy.")
        .example(serde_json::json!([{"listen": "127.0.0.1:2222", "target": "gitlab.acme.internal:22"}]))
        .optional(shape::list(object(forward)));
    let allow_non_loopback = fields
        .field(
            "allowNonLoopback",
            "Whether the addresses above may be other than loopback. Whoever reaches such an address uses the tunnel as this \
             client.",
        )
        .default("false", shape::flag());

    let no_forwards = !fields.has("forwards") || forwards.as_ref().is_some_and(Vec::is_empty);
    if !fields.has("proxy") && no_forwards {
        fields.report("needs proxy, forwards or both", "for example proxy: 127.0.0.1:3128".to_owned());
    }
    let addresses = || proxy.iter().chain(forwards.iter().flatten().filter_map(|forward| forward.listen.as_ref()));
    fields.check(|findings| {
        if allow_non_loopback == Some(false) {
            addresses().for_each(|address| must_be_loopback(address, findings));
        }
        must_differ(addresses(), findings);
    });

    let forwards = forwards.unwrap_or_default();
    let leads_to = forwards.iter().filter_map(|forward| forward.target.clone()).collect();
    let whole = |forward: ForwardRead| Some(Forward { listen: forward.listen?.value, target: forward.target?.value });
    let forwards = forwards.into_iter().map(whole).collect::<Option<_>>();
    let listen = forwards.zip(allow_non_loopback).map(|(forwards, allow_non_loopback)| Listen {
        proxy: proxy.map(|address| address.value),
        forwards,
        allow_non_loopback,
    });
    Some(ListenRead { listen, leads_to })
}

/// A forward in which anything may have been wrong, so that the rest of it is checked all the same.
struct ForwardRead {
    listen: Option<Located<SocketAddr>>,
    target: Option<Located<Target>>,
}

fn forward(fields: &mut Fields<'_, '_>) -> Option<ForwardRead> {
    let listen = fields
        .field("listen", "Where the application connects.")
        .example("127.0.0.1:2222")
        .required(located(super::socket_address()));
    let target = fields
        .field("target", "Where it arrives, as host:port in the customer's network.")
        .example("gitlab.acme.internal:22")
        .required(located(shape::parsed()));
    Some(ForwardRead { listen, target })
}

fn must_be_loopback(address: &Located<SocketAddr>, findings: &mut Collector) {
    if !address.value.ip().to_canonical().is_loopback() {
        let message =
            format!("{} is not a loopback address: whoever reaches it uses the tunnel as this client", address.value);
        let hint = "listen on 127.0.0.1 or [::1]; if this is meant, write allowNonLoopback: true in the section listen";
        address.report(findings, message, hint.to_owned());
    }
}

fn must_differ<'a>(addresses: impl Iterator<Item = &'a Located<SocketAddr>>, findings: &mut Collector) {
    let mut seen: BTreeMap<SocketAddr, &Place> = BTreeMap::new();
    // Port 0 asks the system for a free port, a different one each time.
    for address in addresses.filter(|address| address.value.port() != 0) {
        if let Some(first) = seen.get(&address.value) {
            address.report(findings, format!("{} is already used at {first}", address.value), None);
        } else {
            seen.insert(address.value, &address.place);
        }
    }
}
