//! How identities prove who they are: keys in files, keys at Google, tokens of OIDC issuers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ginnel_core::principal::Name;
use serde_json::json;

use crate::finding::{Collector, Place, suggestion};
use crate::shape::{self, Fields, Located, Text, located, object};

/// Shortest and longest time for which Google's keys are not asked for again. Seconds are for trials; more than five minutes would let
/// a key that was deleted at Google live on for longer than ten, which is promised.
const KEYS_FRESH_FOR: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What `keysFreshFor` means where nobody is connected.
const KEYS_FRESH_FOR_TEXT: &str = "How long fetched keys are not asked for again, from 1s to 5m. A tenth of it passes between two fetches of \
     one account's keys in any case.";

/// What it means at a server.
const KEYS_FRESH_FOR_TEXT_OF_SERVER: &str = "How long fetched keys are not asked for again, from 1s to 5m. A tenth of it passes between two \
     fetches of one account's keys in any case. Those who are connected are cut off within this time after their key was deleted; within \
     twice of it if they came after a start of this server that came after that.";

/// Who signs Google's ID tokens.
const GOOGLE_ISSUER: &str = "https://accounts.google.com";

/// The public keys that may sign a service account's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKeys {
    /// Those that Google has for the account at the moment.
    Google,
    /// Those in these PEM files; at least one.
    Files(Vec<PathBuf>),
}

/// Who an identity is to an OIDC issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSubject {
    /// The issuer's name in this configuration.
    pub issuer: String,
    /// The claim `sub` of its tokens.
    pub subject: String,
    /// Whether the claim `email` must be the identity's, and verified.
    pub check_email: bool,
}

/// What ties a token to the key that is certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenBinding {
    /// Its audience ends in `?k=` and the hash of the key.
    Audience,
    /// Its claim `cnf` names the hash of the key.
    Cnf,
    /// Nothing.
    Bearer,
}

/// An OIDC issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcIssuer {
    /// What it is called here.
    pub name: Name,
    /// What its tokens call it.
    pub issuer: String,
    /// The audience of its tokens, if it is not that of all enrolments.
    pub audience: Option<String>,
    /// Where its keys are, if that is not asked of its discovery document.
    pub jwks_uri: Option<String>,
    /// The authorities of its server's certificate, if not the system's.
    pub ca_file: Option<PathBuf>,
    /// What ties its tokens to the key that is certified.
    pub binding: TokenBinding,
}

/// Where Google's public keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleSection {
    /// Before a service account's e-mail: where its keys are.
    pub service_account_keys: String,
    /// Where the keys are that sign ID tokens.
    pub id_token_keys: String,
    /// The authorities of that server's certificate, if not the system's.
    pub ca_file: Option<PathBuf>,
    /// How long keys are not asked for again.
    pub keys_fresh_for: Duration,
}

/// `google` of a server, in which anything may have been wrong.
pub(super) struct GoogleRead {
    pub(super) section: Option<GoogleSection>,
    /// Where ID tokens' keys are, if the file says so.
    pub(super) id_token_keys: Option<Located<String>>,
    pub(super) watch_keys: Option<Located<bool>>,
}

/// `google` of the process that only enrols.
pub(super) fn google(fields: &mut Fields<'_, '_>) -> Option<GoogleSection> {
    read_google(fields, KEYS_FRESH_FOR_TEXT).0
}

/// `google` of a server, which may have Google's keys looked at although it does not enrol.
pub(super) fn google_of_server(fields: &mut Fields<'_, '_>) -> Option<GoogleRead> {
    let (section, id_token_keys) = read_google(fields, KEYS_FRESH_FOR_TEXT_OF_SERVER);
    let watch_keys = fields
        .field(
            "watchKeys",
            "Whether the keys at Google of those who are connected are looked at, so that a key that is deleted there cuts off whom it \
             enrolled. false is for a server beside issuer.enrolment that must not reach Google: a deleted key then only enrols nobody \
             any more.",
        )
        .default("true", located(shape::flag()));
    Some(GoogleRead { section, id_token_keys, watch_keys })
}

/// The settings that all have, and where ID tokens' keys are if the file says so.
fn read_google(
    fields: &mut Fields<'_, '_>,
    keys_fresh_for_text: &'static str,
) -> (Option<GoogleSection>, Option<Located<String>>) {
    let service_account_keys = fields
        .field(
            "serviceAccountKeys",
            "Where the public keys of service accounts are; the e-mail is added. Asked only for identities whose keys are at Google.",
        )
        .default("https://www.googleapis.com/service_accounts/v1/jwk/", url());
    let id_token_keys = fields
        .field("idTokenKeys", "Where the public keys are that sign Google's ID tokens; asked where enrolment is.")
        .default("https://www.googleapis.com/oauth2/v3/certs", located(url()));
    let ca_file = fields
        .field("caFile", "Authorities of the certificate of that server, in PEM. Without it: those of the system.")
        .example_off("google-ca.pem")
        .optional(shape::file());
    let keys_fresh_for = fields
        .field("keysFreshFor", keys_fresh_for_text)
        .default("5m", shape::duration(KEYS_FRESH_FOR.0, KEYS_FRESH_FOR.1));
    let given = id_token_keys.clone().filter(|_| fields.has("idTokenKeys"));
    let section = || {
        Some(GoogleSection {
            service_account_keys: service_account_keys?,
            id_token_keys: id_token_keys?.value,
            ca_file,
            keys_fresh_for: keys_fresh_for?,
        })
    };
    (section(), given)
}

/// An issuer in which anything may have been wrong.
pub(super) struct OidcIssuerRead {
    name: Option<Located<Name>>,
    issuer: Option<Located<String>>,
    audience: Option<String>,
    jwks_uri: Option<String>,
    ca_file: Option<PathBuf>,
    binding: Option<TokenBinding>,
}

impl OidcIssuerRead {
    /// The issuers of a file, which may name none.
    pub(super) fn all_complete(issuers: Option<Located<Vec<Self>>>) -> Option<Vec<OidcIssuer>> {
        issuers.into_iter().flat_map(|issuers| issuers.value).map(Self::complete).collect()
    }

    fn complete(self) -> Option<OidcIssuer> {
        Some(OidcIssuer {
            name: self.name?.value,
            issuer: self.issuer?.value,
            audience: self.audience,
            jwks_uri: self.jwks_uri,
            ca_file: self.ca_file,
            binding: self.binding?,
        })
    }
}

/// The OIDC issuers of a file.
pub(super) fn oidc_issuers(fields: &mut Fields<'_, '_>) -> Option<Located<Vec<OidcIssuerRead>>> {
    fields
        .field(
            "oidcIssuers",
            "OpenID Connect issuers whose tokens prove an identity: a Kubernetes cluster, an identity provider. Google is none of \
             them; publicKeys: google is enough.",
        )
        .example_off(json!([{
            "name": "cluster", "issuer": "https://kubernetes.default.svc.cluster.local", "binding": "bearer",
        }]))
        .optional(located(shape::list_of_some(object(oidc_issuer))))
}

pub(super) fn oidc_issuer(fields: &mut Fields<'_, '_>) -> Option<OidcIssuerRead> {
    let name = fields
        .field("name", "What identities call it: a-z, 0-9 and -.")
        .example("cluster")
        .required(located(shape::parsed()));
    let issuer = fields
        .field("issuer", "What its tokens call it in iss, letter by letter.")
        .example("https://kubernetes.default.svc.cluster.local")
        .required(located(url()));
    let audience = fields
        .field("audience", "The audience of its tokens. Without it: that of all enrolments.")
        .example_off("https://tunnel.acme.example/enrol")
        .optional(shape::line());
    let jwks_uri = fields
        .field(
            "jwksUri",
            "Where its keys are. Without it that is asked of issuer/.well-known/openid-configuration, which must name the same issuer.",
        )
        .example_off("https://kubernetes.default.svc.cluster.local/openid/v1/jwks")
        .optional(url());
    let ca_file = fields
        .field("caFile", "Authorities of the certificate of its server, in PEM. Without it: those of the system.")
        .example_off("cluster-ca.pem")
        .optional(shape::file());
    let binding = fields
        .field(
            "binding",
            "What ties a token to the key that is certified. audience: the token's one audience is the audience, ?k= and the SHA-256 of \
             the key in base64url. cnf: the claim cnf has it as spki#S256. bearer: nothing, so that whoever gets hold of the token \
             can use it, once and within ten minutes after it was made; the audit log says so.",
        )
        .example("audience")
        .required(shape::word(&[
            ("audience", TokenBinding::Audience),
            ("cnf", TokenBinding::Cnf),
            ("bearer", TokenBinding::Bearer),
        ]));
    Some(OidcIssuerRead { name, issuer, audience, jwks_uri, ca_file, binding })
}

/// A subject that was read whole, and may name an issuer that is not there.
pub(super) struct OidcSubjectRead {
    issuer: Located<String>,
    subject: Located<String>,
    check_email: bool,
}

impl OidcSubjectRead {
    pub(super) fn complete(self) -> OidcSubject {
        OidcSubject { issuer: self.issuer.value, subject: self.subject.value, check_email: self.check_email }
    }
}

pub(super) fn oidc_subject(fields: &mut Fields<'_, '_>) -> Option<OidcSubjectRead> {
    let issuer = fields
        .field("issuer", "The name of one of oidcIssuers.")
        .example_off("cluster")
        .required(located(shape::line()));
    let subject = fields
        .field(
            "subject",
            "The claim sub of its tokens, letter by letter; in Kubernetes system:serviceaccount:NAMESPACE:NAME.",
        )
        .example_off("system:serviceaccount:acme:agent")
        .required(located(shape::line()));
    let check_email = fields
        .field("checkEmail", "Whether the claim email must be this identity's, and email_verified true.")
        .default("false", shape::flag());
    Some(OidcSubjectRead { issuer: issuer?, subject: subject?, check_email: check_email? })
}

/// A numeric id, which is too long for a number of most programs and therefore a text.
pub(super) fn unique_id() -> Text<String> {
    shape::text_with(|text| match (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("a numeric id has digits only".to_owned()),
    })
}

/// A place to fetch from on whose way nobody can change anything.
fn url() -> Text<String> {
    const BYTES_MAX: usize = 1024;
    shape::text_with(|text| {
        let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'@' | b'#' | b'<' | b'>');
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let is_safe = scheme == "https" || (scheme == "http" && is_loopback);
        if is_safe && !host.is_empty() && text.len() <= BYTES_MAX && text.bytes().all(is_plain) {
            Ok(text.to_owned())
        } else {
            Err("a URL begins with https://, or with http:// and a loopback address".to_owned())
        }
    })
}

/// Checks issuers against each other, and subjects against issuers.
pub(super) fn check<'a>(
    issuers: &[OidcIssuerRead],
    subjects: impl Iterator<Item = &'a OidcSubjectRead>,
    findings: &mut Collector,
) {
    let mut names: BTreeMap<&str, &Place> = BTreeMap::new();
    let mut spellings: BTreeMap<&str, &Place> = BTreeMap::new();
    for issuer in issuers {
        if let Some(name) = &issuer.name {
            match names.get(name.value.as_str()) {
                Some(first) => {
                    name.report(findings, format!("an issuer named {} is already at {first}", name.value), None);
                }
                None => drop(names.insert(name.value.as_str(), &name.place)),
            }
        }
        if let Some(spelling) = &issuer.issuer {
            if spelling.value == GOOGLE_ISSUER {
                let hint = "identities with publicKeys: google may come with Google's ID tokens".to_owned();
                spelling.report(findings, "Google is known already", hint);
            }
            match spellings.get(spelling.value.as_str()) {
                Some(first) => spelling.report(findings, format!("this issuer is already at {first}"), None),
                None => drop(spellings.insert(&spelling.value, &spelling.place)),
            }
        }
    }
    let mut seen: BTreeMap<(&str, &str), &Place> = BTreeMap::new();
    for OidcSubjectRead { issuer, subject, .. } in subjects {
        if !names.contains_key(issuer.value.as_str()) && issuers.iter().all(|issuer| issuer.name.is_some()) {
            let hint = suggestion(&issuer.value, names.keys().copied()).map(|close| format!("did you mean {close}?"));
            issuer.report(findings, format!("none of oidcIssuers is named {}", issuer.value), hint);
        }
        match seen.get(&(issuer.value.as_str(), subject.value.as_str())) {
            Some(first) => subject.report(findings, format!("this subject is already at {first}"), None),
            None => drop(seen.insert((&issuer.value, &subject.value), &subject.place)),
        }
    }
}
