//! The server's configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ginnel_core::audit::{LogFiles, Timestamp};
use ginnel_core::congestion::CongestionControl;
use ginnel_core::limits::Limits;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::policy::Rule;
use ginnel_core::principal::{Name, Role, TrustDomain};
use ginnel_core::ranges::Ranges;
use ginnel_core::renewal::Renewal;
use ginnel_core::target::DnsName;
use serde_json::json;

use super::issuer::ServerIssuer;
use super::proof::{
    self, GoogleRead, GoogleSection, OidcIssuer, OidcIssuerRead, OidcSubject, OidcSubjectRead, PublicKeys,
};
use super::sources::{self, AllowedSources};
use super::{Admin, CloudLogging, loadable};
use crate::finding::{Collector, Place, suggestion};
use crate::shape::{self, Fields, Located, Text, located, object};

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
    /// Where certificates come from.
    pub issuer: ServerIssuer,
    /// Where Google's public keys come from.
    pub google: GoogleSection,
    /// Whether the keys at Google of those who are connected are looked at; always where the server enrols.
    pub watch_keys: bool,
    /// Whose tokens are taken beside those of service accounts. Names are unique.
    pub oidc_issuers: Vec<OidcIssuer>,
    /// The audience of enrolment tokens.
    pub enrolment_audience: String,
    /// When the server's own certificate is renewed.
    pub renewal: Renewal,
    /// Where the audit log is written, and how long its files are kept.
    pub audit: LogFiles,
    /// What is given its records as well.
    pub cloud_logging: Option<CloudLogging>,
    /// The file of denials, if it is not where [`Self::denials_file`] puts it.
    pub configured_denials: Option<PathBuf>,
    /// How much of everything there may be.
    pub limits: Limits,
}

impl ServerConfig {
    /// The file in which denials are kept.
    pub fn denials_file(&self) -> PathBuf {
        denials_file(self.configured_denials.as_deref(), &self.audit.directory)
    }
}

/// The file of denials: the one that was named, or one beside the audit log.
pub(super) fn denials_file(configured: Option<&Path>, audit_directory: &Path) -> PathBuf {
    configured.map_or_else(|| audit_directory.join("denials.jsonl"), Path::to_owned)
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
    /// Where agents and clients may come from.
    pub allowed_sources: AllowedSources,
    /// The load balancers whose word counts for where a connection comes from.
    pub balancers: Option<Ranges>,
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
    /// The role in the certificate: agent or client; server only where servers enrol.
    pub role: Role,
    /// The service account.
    pub email: String,
    /// The public keys that may sign its tokens, if it signs them and enrols here.
    pub public_keys: Option<PublicKeys>,
    /// The account's numeric id, if it comes with Google's ID tokens that name it, and with nothing else of Google's.
    pub unique_id: Option<String>,
    /// Who it is to an OIDC issuer, if it may come with tokens of one. Where it enrols, it has public keys or this.
    pub oidc: Option<OidcSubject>,
    /// DNS names and addresses that a server's certificate may carry; none for any other role.
    pub server_names: Vec<String>,
    /// Where it may come from, of what its role may; `None`: from all of that.
    pub source_ranges: Option<Ranges>,
}

impl Identity {
    /// The PEM files of its public keys.
    pub fn key_files(&self) -> &[PathBuf] {
        match &self.public_keys {
            Some(PublicKeys::Files(files)) => files,
            Some(PublicKeys::Google) | None => &[],
        }
    }
}

loadable!(ServerConfig);

pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<ServerConfig> {
    let trust_domain = trust_domain(fields);
    let server = fields.field("server", "The server itself.").required(object(server));
    let identities = fields
        .field("identities", "Who may enrol, and as what. Whoever is not listed here gets no certificate.")
        .example(example_identities())
        .required(shape::list(located(object(identity))));
    let rules = fields
        .field("rules", "Who may reach what, and through whom. What no rule allows is refused.")
        .example(json!([{
            "name": "gitlab", "clients": ["frontend"], "agents": ["acme"],
            "targets": ["gitlab.acme.internal:443", "gitlab.acme.internal:22"],
        }]))
        .required(shape::list(object(rule)));
    let issuer = fields.field("issuer", "What signs certificates.").required(located(object(super::issuer::of_server)));
    let google =
        fields.field("google", "Where Google's public keys come from.").required(object(proof::google_of_server));
    let oidc_issuers = proof::oidc_issuers(fields);
    let enrolment = fields.field("enrolment", "How certificates are asked for.").required(object(super::enrolment));
    let renewal =
        fields.field("renewal", "When the server's own certificate is renewed.").required(object(super::renewal));
    let audit = fields.field("audit", "The record of who reached what.").required(object(super::audit::log_and_sink));
    let denials = fields
        .field("denials", "What `ginnel revoke` denied, so that it outlives a restart.")
        .required(object(denials));
    let limits = fields
        .field("limits", "How much of everything there may be; a change takes a restart. Each bound and its reason: docs/security/limits.md.")
        .required(super::limits::section());

    fields.check(|findings| {
        if let (Some(server), Some(issuer)) = (&server, &issuer) {
            must_have_another_name(server, issuer, findings);
        }
        if let Some(identities) = &identities {
            check_identities(identities, findings);
            check_rules(rules.as_deref().unwrap_or_default(), identities, findings);
        }
        let identities_read = identities.as_deref().unwrap_or_default();
        match issuer.as_ref().map(|issuer| &issuer.value) {
            Some(ServerIssuer::Elsewhere(_)) => {
                must_judge_nobody(identities_read, google.as_ref(), oidc_issuers.as_ref(), findings);
            }
            Some(ServerIssuer::Here(_)) => {
                must_have_keys(identities_read, findings);
                must_watch_keys(google.as_ref(), findings);
            }
            // Which of the two is meant is not known, and there is a finding about that.
            None => {}
        }
        check_subjects(identities_read, oidc_issuers.as_ref(), findings);
    });

    let (server, audience, google, (audit, cloud_logging)) = (server?, enrolment?, google?, audit?);
    Some(ServerConfig {
        trust_domain: trust_domain?,
        enrolment_audience: super::audience_or_default(audience, &server.name),
        renewal: renewal?,
        server,
        identities: identities?.into_iter().map(|identity| identity.value.complete()).collect::<Option<_>>()?,
        rules: rules?.into_iter().map(RuleRead::complete).collect::<Option<_>>()?,
        issuer: issuer?.value,
        google: google.section?,
        watch_keys: google.watch_keys?.value,
        oidc_issuers: OidcIssuerRead::all_complete(oidc_issuers)?,
        audit,
        cloud_logging,
        configured_denials: denials?,
        limits: limits?,
    })
}

fn trust_domain(fields: &mut Fields<'_, '_>) -> Option<TrustDomain> {
    fields
        .field(
            "trustDomain",
            "The domain in every certificate: spiffe://<trustDomain>/<role>/<name>. A lower-case DNS name.",
        )
        .example("acme.example")
        .required(shape::parsed())
}

fn example_identities() -> serde_json::Value {
    json!([
        {
            "name": "acme", "role": "agent", "email": "agent@acme-project.iam.gserviceaccount.com",
            "publicKeys": ["agent.pub.pem"],
        },
        {
            "name": "frontend", "role": "client", "email": "frontend@acme-project.iam.gserviceaccount.com",
            "publicKeys": ["frontend.pub.pem"],
        },
    ])
}

pub(super) fn denials(fields: &mut Fields<'_, '_>) -> Option<Option<PathBuf>> {
    let file = fields
        .field(
            "file",
            "The file, which is written anew with every denial; its directory must exist. Without it: denials.jsonl in the \
             directory of the audit log.",
        )
        .example_off("/var/lib/ginnel/denials.jsonl")
        .optional(shape::file());
    Some(file)
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
    let allowed_sources = sources::allowed(fields);
    let balancers = sources::balancers(fields);
    let admin = super::admin(fields, "127.0.0.1:50051");
    let shutdown_grace = super::shutdown_grace(fields);
    Some(ServerSection {
        name: name?,
        listen: listen?,
        congestion_control,
        allowed_sources: allowed_sources?,
        balancers: balancers?,
        admin: admin?,
        shutdown_grace: shutdown_grace?,
    })
}

/// An identity in which anything may have been wrong, so that the rest of it is checked all the same.
pub(super) struct IdentityRead {
    pub(super) name: Option<Located<Name>>,
    pub(super) role: Option<Role>,
    pub(super) email: Option<Located<String>>,
    /// The settings among `publicKeys` and `oidc` that are there, right or wrong.
    pub(super) proofs: Vec<&'static str>,
    pub(super) public_keys: Option<PublicKeys>,
    pub(super) unique_id: Option<Located<String>>,
    pub(super) oidc: Option<OidcSubjectRead>,
    pub(super) server_names: Option<Vec<Located<String>>>,
    pub(super) source_ranges: Option<Ranges>,
}

impl IdentityRead {
    pub(super) fn complete(self) -> Option<Identity> {
        Some(Identity {
            name: self.name?.value,
            role: self.role?,
            email: self.email?.value,
            public_keys: self.public_keys,
            unique_id: self.unique_id.map(|id| id.value),
            oidc: self.oidc.map(OidcSubjectRead::complete),
            server_names: self.server_names.unwrap_or_default().into_iter().map(|name| name.value).collect(),
            source_ranges: self.source_ranges,
        })
    }
}

fn identity(fields: &mut Fields<'_, '_>) -> Option<IdentityRead> {
    Some(identity_of(fields, &[("agent", Role::Agent), ("client", Role::Client)]))
}

/// An identity that has one of these roles.
pub(super) fn identity_of(fields: &mut Fields<'_, '_>, roles: &'static [(&'static str, Role)]) -> IdentityRead {
    let name = fields
        .field("name", "The name in the certificate, which rules use: a-z, 0-9 and -.")
        .example("acme")
        .required(located(shape::parsed()));
    let role = fields.field("role", "The role in the certificate.").example("agent").required(shape::word(roles));
    let email = fields
        .field("email", "The service account, as its tokens name it. One account is one identity.")
        .example("agent@acme-project.iam.gserviceaccount.com")
        .required(located(email()));
    let public_keys = fields
        .field(
            "publicKeys",
            "PEM files of the public keys that may sign its tokens, more than one while keys are changed; or the word google: \
             the keys that Google has for the account at the moment, and Google's ID tokens about it. Where certificates are issued, \
             this or oidc is required; both are refused beside issuer.enrolment.",
        )
        .example(vec!["agent.pub.pem"])
        .optional(shape::word_or_list("google", shape::file()));
    let unique_id = fields
        .field(
            "uniqueId",
            "The account's numeric id at Google, so that an account that is deleted and made again is another one. With \
             publicKeys: google, nothing but Google's ID tokens is then taken, and they must name it: tokens that the account signs \
             itself are refused, because its keys are found by its e-mail.",
        )
        .example_off("100000000000000000001")
        .optional(located(proof::unique_id()));
    let oidc = fields
        .field("oidc", "Who it is to one of oidcIssuers: its tokens prove it, beside the public keys or without any.")
        .optional(object(proof::oidc_subject));
    let source_ranges = sources::of_identity(fields);
    let proofs = ["publicKeys", "oidc"].into_iter().filter(|name| fields.has(name)).collect();
    let public_keys = public_keys.map(|files| files.map_or(PublicKeys::Google, PublicKeys::Files));
    IdentityRead { name, role, email, proofs, public_keys, unique_id, oidc, server_names: None, source_ranges }
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
    expires: Option<Timestamp>,
    sources: Option<Ranges>,
}

impl RuleRead {
    fn complete(self) -> Option<Rule> {
        let names = |list: Vec<Located<Name>>| list.into_iter().map(|name| name.value).collect::<BTreeSet<_>>();
        Some(Rule {
            name: self.name?.value.to_string(),
            clients: names(self.clients?),
            agents: names(self.agents?),
            targets: self.targets?,
            expires: self.expires,
            sources: self.sources,
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
    let expires = fields
        .field(
            "expires",
            "The moment from which on the rule allows nothing, as 2030-01-31T18:00:00Z; a date alone is its beginning in UTC. Sessions \
             that only this rule allows end with it.",
        )
        .example_off("2030-01-31T18:00:00Z")
        .optional(shape::parsed());
    let sources = fields
        .field(
            "sources",
            "Addresses and networks from which the client's connection has to come for this rule to count. Without it: from anywhere.",
        )
        .example_off(vec!["10.0.0.0/8"])
        .optional(sources::ranges());
    Some(RuleRead { name, clients, agents, targets, expires, sources })
}

/// Reports identities that could not prove themselves.
pub(super) fn must_have_keys(identities: &[Located<IdentityRead>], findings: &mut Collector) {
    for identity in identities.iter().filter(|identity| identity.value.proofs.is_empty()) {
        identity.report(
            findings,
            "has no publicKeys",
            "say how it proves who it is: with publicKeys or oidc".to_owned(),
        );
    }
}

/// Reports keys that nobody would ask: who took one away would believe to have shut somebody out.
fn must_have_no_keys(identities: &[Located<IdentityRead>], findings: &mut Collector) {
    for identity in identities {
        for proof in &identity.value.proofs {
            let hint = "remove it here; proofs are in the configuration of the process that enrols".to_owned();
            let path = format!("{}.{proof}", identity.path);
            findings.report(&identity.place, path, "means nothing beside issuer.enrolment", hint);
        }
    }
}

/// Reports identities whose issuer there is not, and issuers that are wrong.
fn check_subjects(
    identities: &[Located<IdentityRead>],
    oidc_issuers: Option<&Located<Vec<OidcIssuerRead>>>,
    findings: &mut Collector,
) {
    let issuers = oidc_issuers.map(|issuers| issuers.value.as_slice()).unwrap_or_default();
    proof::check(issuers, identities.iter().filter_map(|identity| identity.value.oidc.as_ref()), findings);
}

/// Reports what a server that passes enrolments on says about whose tokens to believe. Whose keys are still at Google it may ask.
fn must_judge_nobody(
    identities: &[Located<IdentityRead>],
    google: Option<&GoogleRead>,
    oidc_issuers: Option<&Located<Vec<OidcIssuerRead>>>,
    findings: &mut Collector,
) {
    must_have_no_keys(identities, findings);
    let id_token_keys = google.and_then(|google| google.id_token_keys.as_ref());
    id_token_keys.into_iter().for_each(|keys| is_for_who_enrols(keys, findings));
    oidc_issuers.into_iter().for_each(|issuers| is_for_who_enrols(issuers, findings));
}

/// Reports a setting that says whom to believe at a server that asks nobody: who changes it there would believe to have changed something.
fn is_for_who_enrols<T>(setting: &Located<T>, findings: &mut Collector) {
    let hint = "remove it here; it belongs into the configuration of the process that enrols".to_owned();
    setting.report(findings, "means nothing beside issuer.enrolment", hint);
}

/// Reports that a server which enrols shall not look at keys: it asks Google for them in any case, so that nothing would be gained.
fn must_watch_keys(google: Option<&GoogleRead>, findings: &mut Collector) {
    let watch_keys = google.and_then(|google| google.watch_keys.as_ref());
    if let Some(watch_keys) = watch_keys.filter(|watch_keys| !watch_keys.value) {
        let hint =
            "remove it: a server that enrols reaches Google, or has no identities whose keys are there".to_owned();
        watch_keys.report(findings, "may be false only beside issuer.enrolment", hint);
    }
}

/// Neither may stand in for the other where names are checked.
fn must_have_another_name(server: &ServerSection, issuer: &Located<ServerIssuer>, findings: &mut Collector) {
    if let ServerIssuer::Elsewhere(remote) = &issuer.value
        && remote.name == server.name
    {
        let message = format!("{} is this server's own name", remote.name);
        let hint =
            "the process that enrols needs a name of its own, so that neither can stand in for the other".to_owned();
        findings.report(&issuer.place, format!("{}.enrolment.name", issuer.path), message, hint);
    }
}

pub(super) fn check_identities(identities: &[Located<IdentityRead>], findings: &mut Collector) {
    let mut names: BTreeMap<(Role, &Name), &Place> = BTreeMap::new();
    let mut emails: BTreeMap<&str, &Place> = BTreeMap::new();
    for identity in identities.iter().map(|identity| &identity.value) {
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
        check_unique_id(identity, findings);
    }
}

/// Reports an account's number that nobody would compare.
fn check_unique_id(identity: &IdentityRead, findings: &mut Collector) {
    let Some(id) = &identity.unique_id else { return };
    let is_compared = match &identity.public_keys {
        Some(PublicKeys::Google) => true,
        Some(PublicKeys::Files(_)) => false,
        // If they are there, they are wrong, and there is a finding about that.
        None => identity.proofs.contains(&"publicKeys"),
    };
    if !is_compared {
        let hint = "only Google's ID tokens name it; remove it, or have publicKeys: google".to_owned();
        id.report(findings, "means nothing without publicKeys: google", hint);
    }
}

fn check_rules(rules: &[RuleRead], identities: &[Located<IdentityRead>], findings: &mut Collector) {
    let clients = names_of(identities, Role::Client);
    let agents = names_of(identities, Role::Agent);
    // Not ordered: there may be 100,000 of them, which differ late.
    let mut names: HashMap<&Name, &Place> = HashMap::with_capacity(rules.len());
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
fn names_of(identities: &[Located<IdentityRead>], role: Role) -> Option<HashSet<&Name>> {
    let mut names = HashSet::new();
    let identities = identities.iter().map(|identity| &identity.value);
    for identity in identities.filter(|identity| identity.role.is_none_or(|its| its == role)) {
        names.insert(&identity.name.as_ref()?.value);
    }
    Some(names)
}

fn must_differ(names: &[Located<Name>], findings: &mut Collector) {
    if names.len() < 2 {
        return;
    }
    let mut seen: BTreeMap<&Name, &Place> = BTreeMap::new();
    for name in names {
        match seen.get(&name.value) {
            Some(first) => name.report(findings, format!("{} is already listed at {first}", name.value), None),
            None => drop(seen.insert(&name.value, &name.place)),
        }
    }
}

fn must_be_known(used: &[Located<Name>], known: &HashSet<&Name>, role: Role, findings: &mut Collector) {
    for name in used.iter().filter(|name| !known.contains(&name.value)) {
        // A close name takes a look at all of them, which is not worth it for a finding that is only counted.
        let candidates = known.iter().filter(|_| !findings.is_full()).map(|known| known.as_str());
        let hint = suggestion(name.value.as_str(), candidates).map(|close| format!("did you mean {close}?"));
        name.report(findings, format!("no identity with the role {role} is named {}", name.value), hint);
    }
}
