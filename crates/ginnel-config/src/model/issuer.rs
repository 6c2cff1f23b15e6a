//! What signs certificates: exactly one kind of issuer.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ginnel_core::principal::Role;

use super::Credential;
use ginnel_core::target::DnsName;

use super::Address;
use crate::finding::Collector;
use crate::shape::{self, Fields, Located, located, object};

/// Shortest and longest lifetime of a certificate. Below two seconds a renewal cannot be finished in time; more than a
/// week would let somebody who was removed come back after a restart.
const CERTIFICATE_LIFETIME: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(7 * 24 * 3600));

/// What signs certificates, and for how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSection {
    /// Which kind of issuer.
    pub kind: IssuerKind,
    /// How long the certificates hold that it signs.
    pub certificate_lifetime: Duration,
}

/// The kinds of issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// Google Certificate Authority Service.
    Cas(CasIssuer),
    /// An authority of our own, in files.
    Embedded {
        /// Where it keeps its keys and certificates.
        directory: PathBuf,
    },
}

/// Where a server's certificates come from, its own and those of agents and clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIssuer {
    /// The server issues.
    Here(IssuerSection),
    /// Another process enrols, and the server passes enrolments on to it.
    Elsewhere(RemoteIssuer),
}

/// The process that enrols, as a server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteIssuer {
    /// What is dialled.
    pub address: Address,
    /// The name that its certificate must have, whatever address is dialled; another one than the server's own.
    pub name: DnsName,
    /// PEM files of the roots of all three roles.
    pub trust: PerRole<PathBuf>,
    /// What the server proves itself with.
    pub credential: Credential,
}

/// How Certificate Authority Service is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CasIssuer {
    /// The CA pool of each role; no two are the same.
    pub pools: PerRole<CaPool>,
    /// The tier of the pools.
    pub tier: CasTier,
    /// PEM files of roots that are believed in place of what the pools say of themselves.
    pub roots: PerRole<Option<PathBuf>>,
    /// Where the service is called, if not at Google's own address.
    pub endpoint: Option<String>,
}

/// One of something for each role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerRole<T> {
    /// That of the server.
    pub server: T,
    /// That of agents.
    pub agent: T,
    /// That of clients.
    pub client: T,
}

impl<T> PerRole<T> {
    /// That of one role.
    pub fn of(&self, role: Role) -> &T {
        match role {
            Role::Server => &self.server,
            Role::Agent => &self.agent,
            Role::Client => &self.client,
        }
    }
}

/// The tier of a CA pool, which is fixed when the pool is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CasTier {
    /// Certificates are named, listed and can be revoked; fewer are signed each second.
    Enterprise,
    /// Certificates are not kept, so that they can neither be listed nor revoked.
    DevOps,
}

/// The name of a CA pool: `projects/P/locations/L/caPools/N`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CaPool(String);

/// Why a text is no name of a CA pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a CA pool is written projects/PROJECT/locations/LOCATION/caPools/POOL")]
pub struct InvalidCaPool;

impl CaPool {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CaPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CaPool {
    type Err = InvalidCaPool;

    fn from_str(text: &str) -> Result<Self, InvalidCaPool> {
        // Google allows 63 characters in each; projects of organisations have a domain and a colon before their id.
        const PART_LENGTH_MAX: usize = 63;
        let is_part = |part: &str, others: &[u8]| {
            let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || others.contains(&b);
            (1..=PART_LENGTH_MAX).contains(&part.len()) && part.bytes().all(is_good)
        };
        let parts: Vec<_> = text.split('/').collect();
        let ["projects", project, "locations", location, "caPools", pool] = parts.as_slice() else {
            return Err(InvalidCaPool);
        };
        let is_name = is_part(project, b":.") && is_part(location, b"") && is_part(pool, b"_");
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidCaPool) }
    }
}

/// `issuer` of the process that only enrols.
pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<IssuerSection> {
    let kind = kind(fields);
    let certificate_lifetime = certificate_lifetime(fields);
    fields.exactly_one(&["embedded", "cas"]);
    Some(IssuerSection { kind: kind?, certificate_lifetime: certificate_lifetime?.value })
}

/// `issuer` of a server.
pub(crate) fn of_server(fields: &mut Fields<'_, '_>) -> Option<ServerIssuer> {
    let kind = kind(fields);
    let remote = fields
        .field(
            "enrolment",
            "Another process that enrols, `ginnel enrolment`. This server then holds no right to issue: it enrols there itself, \
             passes the enrolments of agents and clients on, and its identities have no publicKeys.",
        )
        .example_off(serde_json::json!({}))
        .choice(object(remote));
    let given = fields.has("certificateLifetime");
    let certificate_lifetime = certificate_lifetime(fields);
    fields.exactly_one(&["embedded", "cas", "enrolment"]);
    if let (Some(_), true, Some(lifetime)) = (&remote, given, &certificate_lifetime) {
        fields.check(|findings| {
            let message = "means nothing beside enrolment: the process that enrols says how long certificates hold";
            lifetime.report(findings, message, "remove it".to_owned());
        });
    }
    match (kind, remote) {
        (Some(kind), None) => {
            Some(ServerIssuer::Here(IssuerSection { kind, certificate_lifetime: certificate_lifetime?.value }))
        }
        (None, Some(remote)) => Some(ServerIssuer::Elsewhere(remote)),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn kind(fields: &mut Fields<'_, '_>) -> Option<IssuerKind> {
    let embedded = fields.field("embedded", "An authority of our own, in files.").choice(object(embedded));
    let cas = fields
        .field(
            "cas",
            "Google Certificate Authority Service. The process needs credentials of Google's usual kinds, and the right to ask \
             for certificates in each pool.",
        )
        .example_off(serde_json::json!({}))
        .choice(object(cas));
    embedded.map(|directory| IssuerKind::Embedded { directory }).or(cas.map(IssuerKind::Cas))
}

fn certificate_lifetime(fields: &mut Fields<'_, '_>) -> Option<Located<Duration>> {
    fields
        .field("certificateLifetime", "How long a certificate holds, from 2s to 7d. Renewal comes long before the end.")
        .default("24h", located(shape::duration(CERTIFICATE_LIFETIME.0, CERTIFICATE_LIFETIME.1)))
}

fn remote(fields: &mut Fields<'_, '_>) -> Option<RemoteIssuer> {
    let address = fields
        .field("address", "Host and port of the process that enrols: a name or an address.")
        .example("10.0.0.6:50060")
        .required(shape::parsed());
    let name = fields
        .field(
            "name",
            "The name that its certificate must have, whatever address is dialled; another one than this server's.",
        )
        .example("enrol.acme.example")
        .required(shape::parsed());
    let trust = fields
        .field("trust", "Root certificates, as the process that enrols has them. They are given, not asked for.")
        .required(object(remote_trust));
    let credential = fields
        .field("credential", "How this server proves who it is where it enrols.")
        .required(object(super::credential::declaration));
    Some(RemoteIssuer { address: address?, name: name?, trust: trust?, credential: credential? })
}

fn remote_trust(fields: &mut Fields<'_, '_>) -> Option<PerRole<PathBuf>> {
    let server = fields
        .field("server", "PEM file of the root that signs the certificates of servers and of the process that enrols.")
        .example("server-root.pem")
        .required(shape::file());
    let agent = fields
        .field("agent", "PEM file of the root that signs the agents' certificates.")
        .example("agent-root.pem")
        .required(shape::file());
    let client = fields
        .field("client", "PEM file of the root that signs the clients' certificates.")
        .example("client-root.pem")
        .required(shape::file());
    Some(PerRole { server: server?, agent: agent?, client: client? })
}

fn embedded(fields: &mut Fields<'_, '_>) -> Option<PathBuf> {
    fields
        .field(
            "directory",
            "Directory of the authority's keys, created at first start. The roots that agents and clients need are written \
             there as server-root.pem, agent-root.pem and client-root.pem.",
        )
        .example("/var/lib/ginnel/ca")
        .required(shape::file())
}

fn cas(fields: &mut Fields<'_, '_>) -> Option<CasIssuer> {
    let pools = fields
        .field("pools", "The CA pool of each role. No pool may serve two roles: a pool is what tells a role.")
        .required(object(pools));
    let tier = fields
        .field(
            "tier",
            "The tier that the pools were made with. It decides how many certificates are asked for in a second, and whether \
             they have names.",
        )
        .example("devops")
        .required(shape::word(&[("devops", CasTier::DevOps), ("enterprise", CasTier::Enterprise)]));
    let roots = fields
        .field(
            "roots",
            "PEM files of the CA certificates that are believed for each role. Without them, all CAs of the role's pool, as the \
             service names them. None may stand for two roles.",
        )
        .required(object(roots));
    let endpoint = fields
        .field(
            "endpoint",
            "Where the service is called, for Private Service Connect or a regional endpoint. Without it: Google's own address.",
        )
        .example_off("https://privateca.googleapis.com")
        .optional(endpoint());
    Some(CasIssuer { pools: pools?, tier: tier?, roots: roots?, endpoint })
}

fn pools(fields: &mut Fields<'_, '_>) -> Option<PerRole<CaPool>> {
    let server = fields
        .field("server", "Signs the certificates of servers.")
        .example("projects/acme/locations/europe-west1/caPools/ginnel-server")
        .required(located(shape::parsed::<CaPool>()));
    let agent = fields
        .field("agent", "Signs the certificates of agents.")
        .example("projects/acme/locations/europe-west1/caPools/ginnel-agent")
        .required(located(shape::parsed::<CaPool>()));
    let client = fields
        .field("client", "Signs the certificates of clients.")
        .example("projects/acme/locations/europe-west1/caPools/ginnel-client")
        .required(located(shape::parsed::<CaPool>()));
    let given: Vec<_> = [&server, &agent, &client].into_iter().flatten().collect();
    fields.check(|findings| pools_must_differ(&given, findings));
    Some(PerRole { server: server?.value, agent: agent?.value, client: client?.value })
}

fn pools_must_differ(given: &[&Located<CaPool>], findings: &mut Collector) {
    for (pool, before) in given.iter().zip(0..) {
        if let Some(first) = given.iter().take(before).find(|first| first.value == pool.value) {
            let hint = "make a pool for each role: a certificate's pool is what tells its role".to_owned();
            pool.report(findings, format!("{} is already used at {}", pool.value, first.place), hint);
        }
    }
}

fn roots(fields: &mut Fields<'_, '_>) -> Option<PerRole<Option<PathBuf>>> {
    let server = fields.field("server", "Those of servers.").example_off("server-root.pem").optional(shape::file());
    let agent = fields.field("agent", "Those of agents.").example_off("agent-root.pem").optional(shape::file());
    let client = fields.field("client", "Those of clients.").example_off("client-root.pem").optional(shape::file());
    Some(PerRole { server, agent, client })
}

/// An address as the clients of Google's services take it. Without TLS only on this machine, where a proxy of the operator may listen.
pub(super) fn endpoint() -> shape::Text<String> {
    shape::text_with(|text| {
        let uri = |rest: &str| {
            let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
            !rest.is_empty() && rest.bytes().all(is_good)
        };
        let is_loopback = |rest: &str| {
            let address: Option<std::net::SocketAddr> = rest.parse().ok();
            address.is_some_and(|address| address.ip().is_loopback())
        };
        let good = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => uri(rest),
            (None, Some(rest)) => is_loopback(rest),
            (None, None) => false,
        };
        let wrong =
            "an endpoint is written https://HOST or https://HOST:PORT; http:// only with an address of loopback";
        if good { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_have_one_spelling() {
        for good in
            ["projects/p-1/locations/europe-west1/caPools/Pool_1", "projects/acme.example:p/locations/l/caPools/x"]
        {
            assert_eq!(good.parse::<CaPool>().map(|pool| pool.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "pool",
            "projects/p/locations/l/caPools/",
            "projects/p/locations/l/caPools/x/",
            "/projects/p/locations/l/caPools/x",
            "projects/p/locations/l/capools/x",
            "projects/p/locations/l/caPools/x/certificateAuthorities/y",
            "projects/p/locations/../caPools/x",
            "projects/p/locations/l/caPools/x?y=z",
        ] {
            assert_eq!(bad.parse::<CaPool>(), Err(InvalidCaPool), "{bad}");
        }
    }
}
