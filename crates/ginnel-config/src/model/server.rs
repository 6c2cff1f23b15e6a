//! The server's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ginnel_core::congestion::CongestionControl;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::policy::Rule;
use ginnel_core::principal::{Name, Role, TrustDomain};
use ginnel_core::renewal::Renewal;
use ginnel_core::target::DnsName;
use serde_json::json;

use super::{Admin, loadable};
use crate::finding::{Collector, Place, suggestion};
use crate::shape::{self, Fields, Located, Text, located, object};

/// Shortest and longest lifetime of a certificate. Below two seconds a renewal cannot be finished in time; more than a
/// week would let somebody who was removed come back after a restart.
const CERTIFICATE_LIFETIME: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(7 * 24 * 3600));

/// What the operator of a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The domain of all principals that this server certifies.
    pub trust_domain: TrustDomain,
    /// The server itself.
    pub server: ServerSection,
    /// Who may enrol, and as what. Names are unique in a role, e-mails among all.
    pub identities: Vec<Identity>,
    /// Who may reach what through whom. Names are unique; clients and agents are among the identities.
    pub rules: Vec<Rule>,
    /// What signs certificates.
    pub issuer: IssuerSection,
    /// The audience of enrolment tokens.
    pub enrolment_audience: String,
    /// When the server's own certificate is renewed.
    pub renewal: Renewal,
    /// Where the audit log is written.
    pub audit_directory: PathBuf,
}

/// The server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSection {
    /// The DNS name in its certificate.
    pub name: DnsName,
    /// Where it accepts agents and clients.
    pub listen: SocketAddr,
    /// The congestion control of what it accepts, if not the system's own.
    pub congestion_control: Option<CongestionControl>,
    /// How it is seen and controlled while it runs.
    pub admin: Admin,
    /// How long sessions may go on after the first signal to stop.
    pub shutdown_grace: Duration,
}

/// Somebody who may enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name in the certificate.
    pub name: Name,
    /// The role in the certificate: agent or client.
    pub role: Role,
    /// The service account.
    pub email: String,
    /// PEM files of the public keys that may sign its tokens; at least one.
    pub public_keys: Vec<PathBuf>,
}

/// The embedded issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSection {
    /// Where it keeps its keys and certificates.
    pub directory: PathBuf,
    /// How long the certificates hold that it signs.
    pub certificate_lifetime: Duration,
}

loadable!(ServerConfig);

pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<ServerConfig> {
    let trust_domain = fields
        .field(
            "trustDomain",
            "The domain in every certificate: spiffe://<trustDomain>/<role>/<name>. A lower-case DNS name.",
        )
        .example("acme.example")
        .required(shape::parsed());
    let server = fields.field("server", "The server itself.").required(object(server));
    let identities = fields
        .field("identities", "Who may enrol, and as what. Whoever is not listed here gets no certificate.")
        .example(json!([
            {
                "name": "acme", "role": "agent", "email": "agent@acme-project.iam.gserviceaccount.com",
                "publicKeys": ["agent.pub.pem"],
            },
            {
                "name": "frontend", "role": "client", "email": "frontend@acme-project.iam.gserviceaccount.com",
                "publicKeys": ["frontend.pub.pem"],
            },
        ]))
        .required(shape::list(object(identity)));
    let rules = fields
        .field("rules", "Who may reach what, and through whom. What no rule allows is refused.")
        .example(json!([{
            "name": "gitlab", "clients": ["frontend"], "agents": ["acme"],
            "targets": ["gitlab.acme.internal:443", "gitlab.acme.internal:22"],
        }]))
        .required(shape::list(object(rule)));
    let issuer = fields.field("issuer", "What signs certificates.").required(object(issuer));
    let enrolment = fields.field("enrolment", "How certificates are asked for.").required(object(super::enrolment));
    let renewal =
        fields.field("renewal", "When the server's own certificate is renewed.").required(object(super::renewal));
    let audit = fields.field("audit", "The record of who reached what.").required(object(audit));

    fields.check(|findings| {
        if let Some(identities) = &identities {
            check_identities(identities, findings);
            check_rules(rules.as_deref().unwrap_or_default(), identities, findings);
        }
    });

    let (server, audience) = (server?, enrolment?);
    Some(ServerConfig {
        trust_domain: trust_domain?,
        enrolment_audience: super::audience_or_default(audience, &server.name),
        renewal: renewal?,
        server,
        identities: identities?.into_iter().map(IdentityRead::complete).collect::<Option<_>>()?,
        rules: rules?.into_iter().map(RuleRead::complete).collect::<Option<_>>()?,
        issuer: issuer?,
        audit_directory: audit?,
    })
}

fn server(fields: &mut Fields<'_, '_>) -> Option<ServerSection> {
    let name = fields
        .field(
            "name",
            "DNS name in the server's certificate. Agents and clients insist on it, whatever address they dial.",
        )
        .example("tunnel.acme.example")
        .required(shape::parsed());
    let listen = fields
        .field("listen", "Address and port for agents and clients; one port carries everything.")
        .example("0.0.0.0:50050")
        .required(super::socket_address());
    let congestion_control = super::congestion_control(fields);
    let admin = super::admin(fields, "127.0.0.1:50051");
    let shutdown_grace = super::shutdown_grace(fields);
    Some(ServerSection {
        name: name?,
        listen: listen?,
        congestion_control,
        admin: admin?,
        shutdown_grace: shutdown_grace?,
    })
}

fn issuer(fields: &mut Fields<'_, '_>) -> Option<IssuerSection> {
    let directory =
        fields.field("embedded", "An authority of our own, in files.").required(object(directory_of_issuer));
    let certificate_lifetime = fields
        .field("certificateLifetime", "How long a certificate holds, from 2s to 7d. Renewal comes long before the end.")
        .default("24h", shape::duration(CERTIFICATE_LIFETIME.0, CERTIFICATE_LIFETIME.1));
    Some(IssuerSection { directory: directory?, certificate_lifetime: certificate_lifetime? })
}

fn directory_of_issuer(fields: &mut Fields<'_, '_>) -> Option<PathBuf> {
    fields
        .field(
            "directory",
            "Directory of the authority's keys, created at first start. The roots that agents and clients need are written \
             there as server-root.pem, agent-root.pem and client-root.pem.",
        )
        .example("/var/lib/ginnel/ca")
        .required(shape::file())
}

fn audit(fields: &mut Fields<'_, '_>) -> Option<PathBuf> {
    fields.field("file", "JSON lines in files.").required(object(directory_of_audit))
}

fn directory_of_audit(fields: &mut Fields<'_, '_>) -> Option<PathBuf> {
    fields
        .field(
            "directory",
            "Directory of the log, created at first start. While it cannot be written, new sessions are refused.",
        )
        .example("/var/lib/ginnel/audit")
        .required(shape::file())
}

/// An identity in which anything may have been wrong, so that the rest of it is checked all the same.
struct IdentityRead {
    name: Option<Located<Name>>,
    role: Option<Role>,
    email: Option<Located<String>>,
    public_keys: Option<Vec<PathBuf>>,
}

impl IdentityRead {
    fn complete(self) -> Option<Identity> {
        Some(Identity {
            name: self.name?.value,
            role: self.role?,
            email: self.email?.value,
            public_keys: self.public_keys?,
        })
    }
}

fn identity(fields: &mut Fields<'_, '_>) -> Option<IdentityRead> {
    let name = fields
        .field("name", "The name in the certificate, which rules use: a-z, 0-9 and -.")
        .example("acme")
        .required(located(shape::parsed()));
    let role = fields
        .field("role", "The role in the certificate.")
        .example("agent")
        .required(shape::word(&[("agent", Role::Agent), ("client", Role::Client)]));
    let email = fields
        .field("email", "The service account, as its tokens name it. One account is one identity.")
        .example("agent@acme-project.iam.gserviceaccount.com")
        .required(located(email()));
    let public_keys = fields
        .field(
            "publicKeys",
            "PEM files of the public keys that may sign its tokens; more than one while keys are changed.",
        )
        .example(vec!["agent.pub.pem"])
        .required(shape::list_of_some(shape::file()));
    Some(IdentityRead { name, role, email, public_keys })
}

/// An e-mail address as service accounts have them: compared byte by byte, so only one spelling is taken.
fn email() -> Text<String> {
    // RFC 5321 and 5322 allow 254 characters.
    const LENGTH_MAX: usize = 254;
    shape::text_with(|text| {
        let is_good = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !matches!(b, b'"' | b'\\' | b'/');
        let well_formed = text
            .split_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
        if well_formed && text.len() <= LENGTH_MAX && text.bytes().all(is_good) {
            Ok(text.to_owned())
        } else {
            Err("an e-mail is written name@domain in lower case".to_owned())
        }
    })
}

/// A rule in which anything may have been wrong.
struct RuleRead {
    name: Option<Located<Name>>,
    clients: Option<Vec<Located<Name>>>,
    agents: Option<Vec<Located<Name>>>,
    targets: Option<Vec<TargetPattern>>,
}

impl RuleRead {
    fn complete(self) -> Option<Rule> {
        let names = |list: Vec<Located<Name>>| list.into_iter().map(|name| name.value).collect::<BTreeSet<_>>();
        Some(Rule {
            name: self.name?.value.to_string(),
            clients: names(self.clients?),
            agents: names(self.agents?),
            targets: self.targets?,
        })
    }
}

fn rule(fields: &mut Fields<'_, '_>) -> Option<RuleRead> {
    let name = fields
        .field("name", "The name that audit records give for what the rule allowed: a-z, 0-9 and -.")
        .example("gitlab")
        .required(located(shape::parsed()));
    let clients = fields
        .field("clients", "Names of identities with the role client.")
        .example(vec!["frontend"])
        .required(shape::list_of_some(located(shape::parsed())));
    let agents = fields
        .field("agents", "Names of identities with the role agent; a session goes through any of them that is there.")
        .example(vec!["acme"])
        .required(shape::list_of_some(located(shape::parsed())));
    let targets = fields
        .field(
            "targets",
            "What may be reached, as host:port. A host is a name, *.name for exactly one label more, an address or a network; a \
             port is a number or a range such as 8000-8100. The agent's own list counts as well.",
        )
        .example(vec!["gitlab.acme.internal:443"])
        .required(shape::list_of_some(shape::parsed()));
    Some(RuleRead { name, clients, agents, targets })
}

fn check_identities(identities: &[IdentityRead], findings: &mut Collector) {
    let mut names: BTreeMap<(Role, &Name), &Place> = BTreeMap::new();
    let mut emails: BTreeMap<&str, &Place> = BTreeMap::new();
    for identity in identities {
        if let (Some(role), Some(name)) = (identity.role, &identity.name) {
            match names.get(&(role, &name.value)) {
                Some(first) => {
                    let message =
                        format!("an identity named {} with the role {role} is already at {first}", name.value);
                    name.report(findings, message, None);
                }
                None => drop(names.insert((role, &name.value), &name.place)),
            }
        }
        if let Some(email) = &identity.email {
            match emails.get(email.value.as_str()) {
                Some(first) => {
                    let hint = "every identity needs a service account of its own".to_owned();
                    email.report(findings, format!("{} is already used at {first}", email.value), hint);
                }
                None => drop(emails.insert(&email.value, &email.place)),
            }
        }
    }
}

fn check_rules(rules: &[RuleRead], identities: &[IdentityRead], findings: &mut Collector) {
    let clients = names_of(identities, Role::Client);
    let agents = names_of(identities, Role::Agent);
    let mut names: BTreeMap<&Name, &Place> = BTreeMap::new();
    for rule in rules {
        if let Some(name) = &rule.name {
            match names.get(&name.value) {
                Some(first) => {
                    name.report(findings, format!("a rule named {} is already at {first}", name.value), None)
                }
                None => drop(names.insert(&name.value, &name.place)),
            }
        }
        for (used, known, role) in [(&rule.clients, &clients, Role::Client), (&rule.agents, &agents, Role::Agent)] {
            let used = used.as_deref().unwrap_or_default();
            must_differ(used, findings);
            if let Some(known) = known {
                must_be_known(used, known, role, findings);
            }
        }
    }
}

/// The names in a role; none if some identity could not be read that may have one of them.
fn names_of(identities: &[IdentityRead], role: Role) -> Option<BTreeSet<&Name>> {
    let mut names = BTreeSet::new();
    for identity in identities.iter().filter(|identity| identity.role.is_none_or(|its| its == role)) {
        names.insert(&identity.name.as_ref()?.value);
    }
    Some(names)
}

fn must_differ(names: &[Located<Name>], findings: &mut Collector) {
    let mut seen: BTreeMap<&Name, &Place> = BTreeMap::new();
    for name in names {
        match seen.get(&name.value) {
            Some(first) => name.report(findings, format!("{} is already listed at {first}", name.value), None),
            None => drop(seen.insert(&name.value, &name.place)),
        }
    }
}

fn must_be_known(used: &[Located<Name>], known: &BTreeSet<&Name>, role: Role, findings: &mut Collector) {
    for name in used.iter().filter(|name| !known.contains(&name.value)) {
        // A close name takes a look at all of them, which is not worth it for a finding that is only counted.
        let candidates = known.iter().filter(|_| !findings.is_full()).map(|known| known.as_str());
        let hint = suggestion(name.value.as_str(), candidates).map(|close| format!("did you mean {close}?"));
        name.report(findings, format!("no identity with the role {role} is named {}", name.value), hint);
    }
}
