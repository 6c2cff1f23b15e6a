//! The configuration of the process that only enrols.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ginnel_core::audit::LogFiles;
use ginnel_core::principal::{Role, TrustDomain};
use ginnel_core::renewal::Renewal;
use ginnel_core::target::DnsName;
use serde_json::json;

use super::issuer::IssuerSection;
use super::proof::{self, GoogleSection, OidcIssuer, OidcIssuerRead};
use super::server::{self, Identity, IdentityRead};
use super::{Admin, CloudLogging, loadable};
use crate::finding::Collector;
use crate::shape::{self, Fields, Located, Text, located, object};

/// What the operator of an enrolment process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// The domain of all principals that it certifies.
    pub trust_domain: TrustDomain,
    /// The process itself.
    pub server: EnrolmentSection,
    /// Who may enrol, and as what, servers included. Names are unique in a role, e-mails among all.
    pub identities: Vec<Identity>,
    /// What signs certificates.
    pub issuer: IssuerSection,
    /// Where Google's public keys come from.
    pub google: GoogleSection,
    /// Whose tokens are taken beside those of service accounts. Names are unique.
    pub oidc_issuers: Vec<OidcIssuer>,
    /// When its own certificate is renewed.
    pub renewal: Renewal,
    /// The audience of enrolment tokens.
    pub enrolment_audience: String,
    /// Where the audit log is written, and how long its files are kept.
    pub audit: LogFiles,
    /// What is given its records as well.
    pub cloud_logging: Option<CloudLogging>,
    /// The file of denials, if it is not where [`Self::denials_file`] puts it.
    pub configured_denials: Option<PathBuf>,
}

impl EnrolmentConfig {
    /// The file in which denials are kept.
    pub fn denials_file(&self) -> PathBuf {
        server::denials_file(self.configured_denials.as_deref(), &self.audit.directory)
    }
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentSection {
    /// The DNS name in its certificate, which no server has.
    pub name: DnsName,
    /// Where it accepts who enrols.
    pub listen: SocketAddr,
    /// How it is seen and controlled while it runs.
    pub admin: Admin,
}

loadable!(EnrolmentConfig);

pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<EnrolmentConfig> {
    let trust_domain = fields
        .field(
            "trustDomain",
            "The domain in every certificate: spiffe://<trustDomain>/<role>/<name>. A lower-case DNS name.",
        )
        .example("acme.example")
        .required(shape::parsed());
    let server = fields.field("server", "The process itself.").required(object(section));
    let identities = fields
        .field("identities", "Who may enrol, and as what. Whoever is not listed here gets no certificate.")
        .example(json!([
            {
                "name": "tunnel", "role": "server", "email": "tunnel@acme-project.iam.gserviceaccount.com",
                "publicKeys": ["tunnel.pub.pem"], "serverNames": ["tunnel.acme.example"],
            },
            {
                "name": "acme", "role": "agent", "email": "agent@acme-project.iam.gserviceaccount.com",
                "publicKeys": ["agent.pub.pem"],
            },
            {
                "name": "frontend", "role": "client", "email": "frontend@acme-project.iam.gserviceaccount.com",
                "publicKeys": ["frontend.pub.pem"],
            },
        ]))
        .required(shape::list(located(object(identity))));
    let issuer = fields.field("issuer", "What signs certificates.").required(object(super::issuer::declaration));
    let google = fields.field("google", "Where Google's public keys come from.").required(object(proof::google));
    let oidc_issuers = proof::oidc_issuers(fields);
    let enrolment = fields.field("enrolment", "How certificates are asked for.").required(object(enrolment));
    let renewal =
        fields.field("renewal", "When the certificate of this process is renewed.").required(object(super::renewal));
    let audit = fields
        .field("audit", "The record of who was given a certificate.")
        .required(object(super::audit::log_and_sink));
    let denials = fields
        .field("denials", "What `ginnel revoke` denied, so that it outlives a restart.")
        .required(object(server::denials));

    fields.check(|findings| {
        if let Some(identities) = &identities {
            server::check_identities(identities, findings);
            server::must_have_keys(identities, findings);
            check_servers(identities, server.as_ref(), findings);
        }
        let issuers = oidc_issuers.as_ref().map(|issuers| issuers.value.as_slice()).unwrap_or_default();
        let subjects = identities.iter().flatten().filter_map(|identity| identity.value.oidc.as_ref());
        proof::check(issuers, subjects, findings);
    });

    let (audit, cloud_logging) = audit?;
    Some(EnrolmentConfig {
        trust_domain: trust_domain?,
        server: server?,
        identities: identities?.into_iter().map(|identity| identity.value.complete()).collect::<Option<_>>()?,
        issuer: issuer?,
        google: google?,
        oidc_issuers: OidcIssuerRead::all_complete(oidc_issuers)?,
        renewal: renewal?,
        enrolment_audience: enrolment?,
        audit,
        cloud_logging,
        configured_denials: denials?,
    })
}

fn section(fields: &mut Fields<'_, '_>) -> Option<EnrolmentSection> {
    let name = fields
        .field(
            "name",
            "DNS name in the certificate of this process, which no server has: neither shall be taken for the other.",
        )
        .example("enrol.acme.example")
        .required(shape::parsed());
    let listen = fields
        .field(
            "listen",
            "Address and port for servers, and for whoever enrols without one. Only servers need to reach it.",
        )
        .example("0.0.0.0:50060")
        .required(super::socket_address());
    let admin = super::admin(fields, "127.0.0.1:50054");
    Some(EnrolmentSection { name: name?, listen: listen?, admin: admin? })
}

fn enrolment(fields: &mut Fields<'_, '_>) -> Option<String> {
    fields
        .field(
            "audience",
            "The audience of enrolment tokens: the name of the server that agents and clients dial, as https://NAME/enrol, unless \
             something else is set there.",
        )
        .example("https://tunnel.acme.example/enrol")
        .required(shape::line())
}

fn identity(fields: &mut Fields<'_, '_>) -> Option<IdentityRead> {
    const ROLES: &[(&str, Role)] = &[("server", Role::Server), ("agent", Role::Agent), ("client", Role::Client)];
    let read = server::identity_of(fields, ROLES);
    let server_names = fields
        .field(
            "serverNames",
            "DNS names and IP addresses that the certificate of a server may carry. Required for the role server, refused for others.",
        )
        .example_off(vec!["tunnel.acme.example"])
        .optional(shape::list_of_some(located(server_name())));
    let has_names = fields.has("serverNames");
    if let (Some(role @ (Role::Agent | Role::Client)), true) = (read.role, fields.has("sourceRanges")) {
        // They come through a server, whose address this process sees, and whose word about theirs proves nothing.
        let hint = "put it into the configuration of the server, which sees where they come from".to_owned();
        fields.report(format!("sourceRanges are here for the role server, not for the role {role}"), hint);
    }
    match read.role {
        Some(Role::Server) if !has_names => {
            let hint = "name what agents and clients have in server.name".to_owned();
            fields.report("an identity with the role server needs serverNames", hint);
        }
        Some(role @ (Role::Agent | Role::Client)) if has_names => {
            fields.report(format!("serverNames are for the role server, not for the role {role}"), None);
        }
        Some(_) | None => {}
    }
    Some(IdentityRead { server_names, ..read })
}

/// A DNS name or an IP address.
fn server_name() -> Text<String> {
    shape::text_with(|text| {
        let is_name = text.parse::<IpAddr>().is_ok() || text.parse::<DnsName>().is_ok();
        if is_name { Ok(text.to_owned()) } else { Err("a server's name is a DNS name or an IP address".to_owned()) }
    })
}

/// No server may look like the process that enrols.
fn check_servers(identities: &[Located<IdentityRead>], process: Option<&EnrolmentSection>, findings: &mut Collector) {
    let Some(process) = process else { return };
    let own = process.name.as_str();
    let label = own.split('.').next().unwrap_or_default();
    for identity in identities.iter().map(|identity| &identity.value).filter(|its| its.role == Some(Role::Server)) {
        let names = identity.server_names.iter().flatten();
        for name in names.filter(|name| name.value.eq_ignore_ascii_case(own)) {
            let hint = "give them different names, so that neither can stand in for the other".to_owned();
            name.report(findings, format!("{own} is the name of this process"), hint);
        }
        if let Some(name) = identity.name.as_ref().filter(|name| name.value.as_str() == label) {
            let message =
                format!("{label} is the name that this process has among servers: the first part of server.name");
            name.report(findings, message, None);
        }
    }
}
