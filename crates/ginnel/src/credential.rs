//! From what a configuration says of a credential to the credential: the one place that knows both Google and the roles.

use ginnel_config::{Credential as Setting, WorkloadIdentity};
use ginnel_identity::credential::CredentialError;
use ginnel_identity::proof::Credential;

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The key cannot be used (configuration).
    #[error("reading the credential")]
    Key(#[from] CredentialError),
    /// This build knows nothing of Google (environment).
    #[cfg(not(feature = "gcp"))]
    #[error(
        "this build has no Google: credential.workloadIdentity needs a ginnel that was built with the feature gcp; here \
         serviceAccountKeyFile and tokenFile work"
    )]
    NoGoogle,
    /// What talks to Google could not be set up (us).
    #[cfg(feature = "gcp")]
    #[error("setting up workload identity")]
    Workload(#[from] ginnel_gcp::workload::SetUpError),
}

/// Opens a credential. A key is read; a token is not, and Google is not asked, before there is something to prove.
pub(crate) fn open(setting: &Setting) -> Result<Credential, OpenError> {
    match setting {
        Setting::ServiceAccountKeyFile(path) => Ok(Credential::read_key(path)?),
        Setting::TokenFile(path) => Ok(Credential::token_file(path.clone())),
        Setting::WorkloadIdentity(workload) => workload_identity(workload),
    }
}

#[cfg(feature = "gcp")]
fn workload_identity(setting: &WorkloadIdentity) -> Result<Credential, OpenError> {
    use ginnel_config::WorkloadMethod;
    use ginnel_gcp::workload::{Google, Method, Settings};

    let settings = Settings {
        method: setting.method.map(|method| match method {
            WorkloadMethod::SignJwt => Method::SignJwt,
            WorkloadMethod::IdToken => Method::IdToken,
        }),
        service_account: setting.service_account.clone(),
        endpoint: setting.endpoint.clone(),
    };
    Ok(Credential::Workload(std::sync::Arc::new(Google::new(settings)?)))
}

#[cfg(not(feature = "gcp"))]
fn workload_identity(_: &WorkloadIdentity) -> Result<Credential, OpenError> {
    Err(OpenError::NoGoogle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_read_and_google_not_asked_before_there_is_something_to_prove() {
        let token = open(&Setting::TokenFile("/nowhere/token".into())).map(|credential| credential.shown());
        assert_eq!(token.ok().as_deref(), Some("token in /nowhere/token"));
        let google = open(&Setting::WorkloadIdentity(WorkloadIdentity::default())).map(|credential| credential.shown());
        #[cfg(feature = "gcp")]
        assert_eq!(google.ok().as_deref(), Some("workload identity by signJwt or idToken"));
        #[cfg(not(feature = "gcp"))]
        assert!(google.is_err_and(|error| error.to_string().starts_with("this build has no Google")));
    }

    #[test]
    fn a_key_is_read_at_once() {
        let error = open(&Setting::ServiceAccountKeyFile("/nowhere/key.json".into())).err();
        assert!(error.is_some_and(|error| matches!(error, OpenError::Key(_))));
    }
}
