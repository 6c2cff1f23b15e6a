//! Google signs: IAM Credentials `signJwt`, by the official client.

use std::time::Duration;

use ginnel_identity::proof::is_token;
use google_cloud_auth::credentials::{Builder as AccessBuilder, Credentials};
use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::{Code, StatusDetails};
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::{Aip194Strict, RetryPolicyExt as _};
use google_cloud_iam_credentials_v1::client::IAMCredentials;
use secrecy::SecretString;

use super::AskError;

/// What an access token must be good for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Attempts of one call, for a connection that breaks or a server that is being replaced. Longer outages are for whoever asks.
const ATTEMPTS_MAX: u32 = 3;

/// Where the right to ask comes from.
#[derive(Debug)]
pub(super) enum Access {
    /// The application default credentials: what `GOOGLE_APPLICATION_CREDENTIALS` names, what gcloud has left for this user, else the
    /// metadata server.
    Default,
    /// The metadata server there, whatever else there is.
    #[cfg(test)]
    Metadata(String),
}

impl Access {
    fn credentials(&self) -> Result<Credentials, AskError> {
        let built = match self {
            Self::Default => AccessBuilder::default().with_scopes([SCOPE]).build(),
            #[cfg(test)]
            Self::Metadata(url) => {
                google_cloud_auth::credentials::mds::Builder::default().with_endpoint(url).with_scopes([SCOPE]).build()
            }
        };
        built.map_err(|error| AskError::NoAccess(error.into()))
    }
}

/// Has these claims signed with a key that Google keeps for the account `email`.
pub(super) async fn sign(
    access: &Access,
    email: &str,
    claims: String,
    endpoint: Option<&str>,
    attempt_wait: Duration,
) -> Result<SecretString, AskError> {
    let access = access.credentials()?;
    let mut builder = IAMCredentials::builder()
        .with_credentials(access)
        .with_attempt_timeout(attempt_wait)
        .with_retry_policy(Aip194Strict.with_attempt_limit(ATTEMPTS_MAX));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let client = builder.build().await.map_err(|error| AskError::NoAccess(error.into()))?;
    let answer = client
        .sign_jwt()
        .set_name(format!("projects/-/serviceAccounts/{email}"))
        .set_payload(claims)
        // A second signature over the same claims does no harm: only one of them is used.
        .with_idempotency(true)
        .send()
        .await
        .map_err(|error| classify(error, email))?;
    match is_token(&answer.signed_jwt) {
        true => Ok(SecretString::from(answer.signed_jwt)),
        false => Err(AskError::Unusable { whom: "the IAM Credentials API" }),
    }
}

fn classify(error: Error, email: &str) -> AskError {
    let reason = reason(&error);
    let code = error.status().map(|status| status.code);
    let http = error.http_status_code();
    if error.is_authentication() {
        return AskError::NoAccess(error.into());
    }
    if code == Some(Code::PermissionDenied) || (code.is_none() && http == Some(403)) {
        return match reason.as_deref() {
            Some("SERVICE_DISABLED") => AskError::Disabled(error.into()),
            Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT") => AskError::Scope(error.into()),
            Some(_) | None => AskError::Permission { account: email.to_owned(), source: error.into() },
        };
    }
    if code == Some(Code::NotFound) || (code.is_none() && http == Some(404)) {
        return AskError::NoAccount { account: email.to_owned() };
    }
    if code == Some(Code::ResourceExhausted) || http == Some(429) {
        return AskError::Quota(error.into());
    }
    let is_theirs = [Code::Unavailable, Code::Internal, Code::DeadlineExceeded, Code::Aborted, Code::Unknown];
    match code {
        Some(code) if !is_theirs.contains(&code) => AskError::Refused(error.into()),
        Some(_) | None => AskError::Unavailable(error.into()),
    }
}

/// The machine-readable reason, if Google gave one.
fn reason(error: &Error) -> Option<String> {
    error
        .status()?
        .details
        .iter()
        .find_map(|detail| if let StatusDetails::ErrorInfo(info) = detail { Some(info.reason.clone()) } else { None })
}
