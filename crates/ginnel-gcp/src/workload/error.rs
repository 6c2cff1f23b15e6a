//! What keeps Google from giving a token, and what to do about each.

use std::error::Error;

use ginnel_identity::credential::CredentialError;

use super::Method;

/// Why Google cannot be asked at all. All of it is ours.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The HTTP client could not be made.
    #[error("making the HTTP client for the metadata server")]
    Http(#[source] reqwest::Error),
    /// TLS could not be set up.
    #[error("setting up TLS")]
    Tls(#[source] rustls::Error),
}

/// Why there is no token from Google.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Neither way gave a token (environment).
    #[error("neither signJwt nor idToken gave a token; the second said: {also}")]
    Both {
        /// Why the first did not.
        #[source]
        refused: Box<Self>,
        /// Why the second did not.
        also: Box<Self>,
    },
    /// The claims could not be made (us, or the clock).
    #[error("making the claims")]
    Claims {
        /// Why not.
        #[source]
        source: CredentialError,
    },
    /// The IAM Credentials API is not switched on in the project (configuration).
    #[error("the IAM Credentials API is not enabled in the project")]
    Disabled(#[source] Boxed),
    /// The service account is not known to IAM, or not attached to this workload (configuration).
    #[error("there is no such service account here: {account}")]
    NoAccount {
        /// Which.
        account: String,
    },
    /// No credentials for Google (environment).
    #[error("no access token for Google can be had")]
    NoAccess(#[source] Boxed),
    /// There is no metadata server (environment).
    #[error("the metadata server does not answer at {host}")]
    NoMetadata {
        /// Where it was asked.
        host: String,
        /// Why not.
        #[source]
        source: Boxed,
    },
    /// What answers is not Google's metadata server (environment).
    #[error("what answers at {host} is not the metadata server: {problem}")]
    NotMetadata {
        /// Where it was asked.
        host: String,
        /// What is wrong with the answer.
        problem: &'static str,
    },
    /// The account may not sign (configuration).
    #[error("{account} may not be signed for (iam.serviceAccounts.signJwt)")]
    Permission {
        /// Whose token was to be signed.
        account: String,
        /// What Google said.
        #[source]
        source: Boxed,
    },
    /// Too many calls (environment).
    #[error("the quota of the IAM Credentials API is used up")]
    Quota(#[source] Boxed),
    /// Google said no for another reason (configuration).
    #[error("the IAM Credentials API refused")]
    Refused(#[source] Boxed),
    /// The access token of this machine is not good for the API (configuration).
    #[error("the access scopes of this machine do not reach to the IAM Credentials API")]
    Scope(#[source] Boxed),
    /// Nothing came in time (environment).
    #[error("Google did not sign within {} s", super::Waits::USUAL.sign.as_secs())]
    Slow,
    /// The metadata server answers with an error (environment).
    #[error("the metadata server answers with HTTP status {status}")]
    Status {
        /// Which.
        status: u16,
    },
    /// Google cannot be reached, or has a fault (environment).
    #[error("the IAM Credentials API cannot be reached, or has a fault")]
    Unavailable(#[source] Boxed),
    /// What Google answered is no token (environment).
    #[error("the answer of {whom} is no token")]
    Unusable {
        /// Who answered.
        whom: &'static str,
    },
}

pub(super) type Boxed = Box<dyn Error + Send + Sync>;

impl AskError {
    /// Whether what `method` answered is about the way and not about the moment, so that the other way is worth a try.
    pub(super) fn asks_for_the_other_way(&self, method: Method) -> bool {
        match self {
            Self::Disabled(_) | Self::Permission { .. } | Self::Scope(_) => method == Method::SignJwt,
            // An account without an ID token: the platform was changed under a running process.
            Self::NoAccount { .. } | Self::Status { .. } => method == Method::IdToken,
            Self::Both { .. }
            | Self::Claims { .. }
            | Self::NoAccess(_)
            | Self::NoMetadata { .. }
            | Self::NotMetadata { .. }
            | Self::Quota(_)
            | Self::Refused(_)
            | Self::Slow
            | Self::Unavailable(_)
            | Self::Unusable { .. } => false,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Both { refused, also } => format!("for signJwt: {}; or for idToken: {}", refused.advice(), also.advice()),
            Self::Claims { .. } => "set this machine's clock".to_owned(),
            Self::Disabled(_) => {
                "enable it: gcloud services enable iamcredentials.googleapis.com, in the service account's project".to_owned()
            }
            Self::NoAccount { account } => format!(
                "give the workload a service account, or correct credential.workloadIdentity.serviceAccount; {account} is not there"
            ),
            Self::NoAccess(_) => "run this on Google Cloud with a service account attached, or point GOOGLE_APPLICATION_CREDENTIALS at \
                 credentials that may be used"
                .to_owned(),
            Self::NoMetadata { .. } | Self::NotMetadata { .. } => {
                "workload identity works on Google Cloud (Compute Engine, GKE, Cloud Run): elsewhere use serviceAccountKeyFile or tokenFile. \
                 On Google, let this process reach 169.254.169.254 port 80; on GKE, switch Workload Identity Federation on"
                    .to_owned()
            }
            Self::Permission { account, .. } => format!(
                "let the account sign for itself: gcloud iam service-accounts add-iam-policy-binding {account} --member \
                 serviceAccount:{account} --role roles/iam.serviceAccountTokenCreator; or use method: idToken, which needs no permission"
            ),
            Self::Quota(_) => {
                "nothing: it is tried again, at longer and longer intervals. If it lasts, raise the quota of the IAM Credentials API".to_owned()
            }
            Self::Refused(_) => {
                "read what Google says; check credential.workloadIdentity.serviceAccount and endpoint".to_owned()
            }
            Self::Scope(_) => "give the virtual machine the access scope cloud-platform, or use method: idToken".to_owned(),
            Self::Slow | Self::Status { .. } | Self::Unavailable(_) => {
                "nothing: it is tried again. If it lasts, see Google's status page, and whether this network reaches \
                 iamcredentials.googleapis.com and the metadata server"
                    .to_owned()
            }
            Self::Unusable { .. } => "check what answers there: credential.workloadIdentity.endpoint, GCE_METADATA_HOST".to_owned(),
        }
    }
}
