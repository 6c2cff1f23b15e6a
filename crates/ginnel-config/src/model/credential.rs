//! `credential` of agents and clients.

use std::path::PathBuf;

use ginnel_core::principal::is_email;

use crate::shape::{self, Fields, Text, object};

/// What an agent or client proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A service account's key, in this file.
    ServiceAccountKeyFile(PathBuf),
    /// A token that the platform keeps in this file.
    TokenFile(PathBuf),
    /// What Google vouches for.
    WorkloadIdentity(WorkloadIdentity),
}

/// How Google is asked for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// In which way; without it the one that works.
    pub method: Option<WorkloadMethod>,
    /// The service account's e-mail; without it that of the account that the workload runs as.
    pub service_account: Option<String>,
    /// Where the IAM Credentials API is; without it at Google.
    pub endpoint: Option<String>,
}

/// The two ways to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadMethod {
    /// Google signs our claims with a key of the service account.
    SignJwt,
    /// The metadata server gives an ID token.
    IdToken,
}

pub(super) fn declaration(fields: &mut Fields<'_, '_>) -> Option<Credential> {
    let key = fields
        .field(
            "serviceAccountKeyFile",
            "Service-account key, as Google or `ginnel credentials create` writes it. It signs the token that is exchanged for a \
             certificate and is never sent.",
        )
        .example("key.json")
        .choice(shape::file());
    let workload = fields
        .field(
            "workloadIdentity",
            "For workloads on Google Cloud, which need no key: Google vouches for the service account that they run as. {} is enough.",
        )
        .example_off(serde_json::json!({}))
        .choice(object(workload));
    let token = fields
        .field(
            "tokenFile",
            "File with a token that the platform keeps fresh, such as a projected Kubernetes service-account token whose audience is the \
             enrolment audience. It is read again for every certificate, and each token is good once.",
        )
        .example_off("/var/run/secrets/ginnel/token")
        .choice(shape::file());
    fields.exactly_one(&["serviceAccountKeyFile", "workloadIdentity", "tokenFile"]);
    let key = key.map(Credential::ServiceAccountKeyFile);
    let workload = workload.map(Credential::WorkloadIdentity);
    key.or(workload).or(token.map(Credential::TokenFile))
}

fn workload(fields: &mut Fields<'_, '_>) -> Option<WorkloadIdentity> {
    let method = fields
        .field(
            "method",
            "signJwt: the IAM Credentials API signs (the account needs iam.serviceAccounts.signJwt on itself, as in the role Service Account \
             Token Creator). idToken: the metadata server gives a Google-signed ID token. Without it: signJwt where it is permitted, else \
             idToken.",
        )
        .example_off("signJwt")
        .optional(shape::word(&[("signJwt", WorkloadMethod::SignJwt), ("idToken", WorkloadMethod::IdToken)]));
    let service_account = fields
        .field("serviceAccount", "The service account's e-mail. Without it: the one that the metadata server names.")
        .example_off("frontend@acme-project.iam.gserviceaccount.com")
        .optional(email());
    let endpoint = fields
        .field(
            "endpoint",
            "Where the IAM Credentials API is reached, if not at https://iamcredentials.googleapis.com: a private endpoint.",
        )
        .example_off("https://iamcredentials-psc.p.googleapis.com")
        .optional(super::issuer::endpoint());
    Some(WorkloadIdentity { method, service_account, endpoint })
}

fn email() -> Text<String> {
    shape::text_with(|text| match is_email(text) {
        true => Ok(text.to_owned()),
        false => Err("an e-mail has the form name@domain, in lower-case letters, digits and . _ + -".to_owned()),
    })
}
