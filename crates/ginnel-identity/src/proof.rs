//! What an agent or client proves itself with when it asks for a certificate.
//!
//! Three things can: a service account's key, which signs the token here; a token that the platform keeps in a file; or the surroundings of
//! the process, which vouch for it when they are asked. The last one is a trait, because whoever can be asked lives in a crate of their own.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use crate::credential::{CredentialError, ServiceAccountKey};
use crate::file::{self, FileError};
use crate::key::sha256;

/// A server takes no token of more than 8 KiB; the rest is room for white space, and for a server that takes more.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What proves who this process is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A service account's key, which signs tokens here.
    Key(Arc<ServiceAccountKey>),
    /// A token in a file that the platform replaces, such as Kubernetes' projected one. It is bound to no key and good once.
    File(Arc<TokenFile>),
    /// What the surroundings of the process vouch for.
    Workload(Arc<dyn Workload>),
}

/// Whoever can be asked for a token of the service account that this process runs as.
pub trait Workload: fmt::Debug + Send + Sync {
    /// Asks for a token for `audience` that is bound to the key with this SubjectPublicKeyInfo hash. It takes a bounded time.
    fn token<'a>(&'a self, audience: &'a str, spki_sha256: [u8; 32], now: SystemTime) -> Asked<'a>;

    /// Who was asked and how, in a few words for people; what is not known before the first token is left out.
    fn shown(&self) -> String;
}

/// The answer of a [`Workload`], in the making.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<SecretString, Unanswered>> + Send + 'a>>;

/// Why there is no token from the surroundings.
#[derive(Debug)]
pub struct Unanswered {
    /// What went wrong.
    pub why: Box<dyn Error + Send + Sync>,
    /// What to do about it, in a sentence.
    pub advice: String,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The environment: the file of the token cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Us: the key could not sign.
    #[error(transparent)]
    Key(#[from] CredentialError),
    /// The environment: what the file holds is no token.
    #[error("{} holds no token: one line of three parts in base64url with a dot between them", path.display())]
    NoToken {
        /// Which file.
        path: PathBuf,
    },
    /// The environment: the file still holds a token that was used, and no server takes one twice.
    #[error("the token in {} was used already; waiting for another one in it", path.display())]
    Used {
        /// Which file.
        path: PathBuf,
    },
    /// The environment: the surroundings gave no token.
    #[error("workload identity gave no token ({advice})")]
    Workload {
        /// What to do about it.
        advice: String,
        /// What went wrong.
        #[source]
        why: Box<dyn Error + Send + Sync>,
    },
}

impl Credential {
    /// A key, read from its file.
    ///
    /// # Errors
    /// [`CredentialError`], which names the file and never holds content.
    pub fn read_key(path: &Path) -> Result<Self, CredentialError> {
        ServiceAccountKey::read(path).map(Self::from)
    }

    /// A token in this file, which need not be there yet.
    pub fn token_file(path: PathBuf) -> Self {
        Self::File(Arc::new(TokenFile { path, used: Mutex::default() }))
    }

    /// A token for `audience`, bound to the key with this SubjectPublicKeyInfo hash if the credential can do that. It takes a bounded time.
    ///
    /// # Errors
    /// [`TokenError`], which never holds a token.
    pub async fn token(
        &self,
        audience: &str,
        spki_sha256: [u8; 32],
        now: SystemTime,
    ) -> Result<SecretString, TokenError> {
        match self {
            Self::Key(key) => Ok(key.sign_token(audience, spki_sha256, now)?),
            Self::File(file) => file.token(),
            Self::Workload(workload) => workload
                .token(audience, spki_sha256, now)
                .await
                .map_err(|Unanswered { why, advice }| TokenError::Workload { advice, why }),
        }
    }

    /// Remembers that a server has taken this token, or may have.
    pub fn used(&self, token: &SecretString) {
        match self {
            Self::Key(_) | Self::Workload(_) => {}
            Self::File(file) => file.mark(token),
        }
    }

    /// What has to happen before there can be another token; `None` if one can be had.
    pub fn waits_for(&self) -> Option<TokenError> {
        match self {
            Self::Key(_) | Self::Workload(_) => None,
            Self::File(file) => file.token().err().filter(|error| matches!(error, TokenError::Used { .. })),
        }
    }

    /// What it is and whose, in a few words for people, without anything secret.
    pub fn shown(&self) -> String {
        match self {
            Self::Key(key) => format!("key {} of {}", key.key_id(), key.email()),
            Self::File(file) => format!("token in {}", file.path.display()),
            Self::Workload(workload) => workload.shown(),
        }
    }
}

impl From<ServiceAccountKey> for Credential {
    fn from(key: ServiceAccountKey) -> Self {
        Self::Key(Arc::new(key))
    }
}

/// A file that holds a token, read anew for each. It remembers which token was used last.
pub struct TokenFile {
    path: PathBuf,
    /// SHA-256 of it.
    used: Mutex<Option<[u8; 32]>>,
}

impl TokenFile {
    fn token(&self) -> Result<SecretString, TokenError> {
        let bytes = file::read_projected(&self.path, TOKEN_BYTES_MAX)?;
        let text = str::from_utf8(&bytes).ok().map(str::trim_ascii).filter(|text| is_token(text));
        let text = text.ok_or_else(|| TokenError::NoToken { path: self.path.clone() })?;
        if *self.used.lock().unwrap_or_else(PoisonError::into_inner) == Some(sha256(text.as_bytes())) {
            return Err(TokenError::Used { path: self.path.clone() });
        }
        Ok(SecretString::from(text))
    }

    fn mark(&self, token: &SecretString) {
        let hash = sha256(token.expose_secret().as_bytes());
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash);
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Whether a text has the form of a signed JWT.
pub fn is_token(text: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    text.len() <= TOKEN_BYTES_MAX && text.split('.').count() == 3 && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests;
