//! Workload identity: tokens for an agent or client that runs on Google Cloud and has no key.
//!
//! Google vouches for the service account in two ways. *signJwt*: the IAM Credentials API signs the same claims that a key file would sign here.
//! *idToken*: the metadata server gives an ID token; Google chooses its claims, all but the audience, which therefore carries the hash of the key
//! that the token is for. If the configuration names neither, signJwt is tried, and idToken where signJwt is not permitted; what gave a token is
//! tried first from then on.
//!
//! Nothing is kept between two tokens, neither connections nor access tokens: a certificate is asked for every few hours, and what is made
//! anew each time has nothing that an outage could leave broken.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_identity::proof::{Asked, Unanswered, Workload};
use secrecy::SecretString;

mod error;
mod metadata;
mod sign_jwt;

pub use error::{AskError, SetUpError};
pub use metadata::bound_audience;

use metadata::Metadata;
use sign_jwt::Access;

/// How long signing may take.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// One attempt of the call.
    attempt: Duration,
    /// All of it, with what is waited between attempts.
    sign: Duration,
}

impl Waits {
    /// Google answers an attempt within a tenth of that. Signing takes two round trips and at most two repetitions, before which up to 3 s are
    /// drawn. An enrolment as a whole has 15 s, of which the metadata server may take 2 s more and the tunnel's server needs some.
    const USUAL: Self = Self { attempt: Duration::from_secs(3), sign: Duration::from_secs(8) };
}

/// How to ask Google.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// In which way; without it the one that works.
    pub method: Option<Method>,
    /// The service account's e-mail; without it that of the account that the workload runs as.
    pub service_account: Option<String>,
    /// Where the IAM Credentials API is; without it at Google.
    pub endpoint: Option<String>,
}

/// The two ways to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The IAM Credentials API signs.
    SignJwt,
    /// The metadata server gives an ID token.
    IdToken,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SignJwt => "signJwt",
            Self::IdToken => "idToken",
        })
    }
}

/// Whom Google says that this process is.
#[derive(Debug)]
pub struct Google {
    settings: Settings,
    metadata: Metadata,
    access: Access,
    waits: Waits,
    worked: Mutex<Option<Worked>>,
}

/// How the last token was had.
#[derive(Clone, Debug)]
struct Worked {
    method: Method,
    /// Whose it is, if that was asked for.
    email: Option<String>,
    /// Why it was not had in the other way, if that was tried.
    instead: Option<String>,
}

impl Google {
    /// Prepares to ask, and asks nothing yet.
    ///
    /// # Errors
    /// [`SetUpError`] if the HTTP client cannot be made.
    pub fn new(settings: Settings) -> Result<Self, SetUpError> {
        crate::provider::install();
        let metadata = Metadata::of_this_machine()?;
        Ok(Self { settings, metadata, access: Access::Default, waits: Waits::USUAL, worked: Mutex::default() })
    }

    async fn ask(&self, audience: &str, spki_sha256: [u8; 32], now: SystemTime) -> Result<SecretString, AskError> {
        let worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|worked| worked.method);
        let first = self.settings.method.or(worked).unwrap_or(Method::SignJwt);
        let refused = match self.by(first, audience, spki_sha256, now).await {
            Err(error) if self.settings.method.is_none() && error.asks_for_the_other_way(first) => error,
            answer => return answer,
        };
        let second = match first {
            Method::SignJwt => Method::IdToken,
            Method::IdToken => Method::SignJwt,
        };
        tracing::info!(error = %ginnel_core::report::Chain(&refused), "{first} gives no token; trying {second}");
        match self.by(second, audience, spki_sha256, now).await {
            Ok(token) => {
                if let Some(worked) = &mut *self.worked.lock().unwrap_or_else(PoisonError::into_inner) {
                    worked.instead = Some(format!("{first}: {refused}"));
                }
                Ok(token)
            }
            Err(also) => Err(AskError::Both { refused: Box::new(refused), also: Box::new(also) }),
        }
    }

    async fn by(
        &self,
        method: Method,
        audience: &str,
        spki_sha256: [u8; 32],
        now: SystemTime,
    ) -> Result<SecretString, AskError> {
        let (token, email) = match method {
            Method::SignJwt => {
                let signing = self.sign(audience, spki_sha256, now);
                let (token, email) =
                    tokio::time::timeout(self.waits.sign, signing).await.map_err(|_| AskError::Slow)??;
                (token, Some(email))
            }
            Method::IdToken => {
                let account = self.settings.service_account.as_deref();
                let token = self.metadata.id_token(account, &bound_audience(audience, spki_sha256)).await?;
                (token, self.settings.service_account.clone())
            }
        };
        let mut worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let instead = worked.take().filter(|worked| worked.method == method).and_then(|worked| worked.instead);
        *worked = Some(Worked { method, email, instead });
        Ok(token)
    }

    async fn sign(
        &self,
        audience: &str,
        spki_sha256: [u8; 32],
        now: SystemTime,
    ) -> Result<(SecretString, String), AskError> {
        let email = match &self.settings.service_account {
            Some(email) => email.clone(),
            None => self.metadata.email().await?,
        };
        let claims = ginnel_identity::credential::token_claims(&email, audience, spki_sha256, now)
            .map_err(|source| AskError::Claims { source })?;
        let token =
            sign_jwt::sign(&self.access, &email, claims, self.settings.endpoint.as_deref(), self.waits.attempt).await?;
        Ok((token, email))
    }
}

impl Workload for Google {
    fn token<'a>(&'a self, audience: &'a str, spki_sha256: [u8; 32], now: SystemTime) -> Asked<'a> {
        Box::pin(async move {
            self.ask(audience, spki_sha256, now)
                .await
                .map_err(|error| Unanswered { advice: error.advice(), why: Box::new(error) })
        })
    }

    fn shown(&self) -> String {
        let worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (worked, self.settings.method) {
            (Some(Worked { method, email, instead }), _) => {
                let of = email.map(|email| format!(" of {email}")).unwrap_or_default();
                let instead = instead.map(|why| format!(" ({why})")).unwrap_or_default();
                format!("workload identity by {method}{of}{instead}")
            }
            (None, Some(method)) => format!("workload identity by {method}"),
            (None, None) => "workload identity by signJwt or idToken".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
