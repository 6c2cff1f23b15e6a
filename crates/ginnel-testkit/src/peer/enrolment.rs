//! Enrolments that are made before they are sent, as they are or spoiled.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use ginnel_identity::credential::ServiceAccountKey;
use ginnel_identity::key::KeyPair;
use ginnel_wire::{path, v1};
use secrecy::ExposeSecret;

use super::Peer;
use crate::world::SERVER_NAME;

/// A token and a certificate request that can be sent as often as wanted.
#[derive(Clone)]
pub struct Enrolment(v1::EnrolRequest);

impl Enrolment {
    /// Makes a key, a request for its certificate and a token that is bound to it.
    ///
    /// # Errors
    /// If the key file cannot be used.
    pub fn new(key_file: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let credential = ServiceAccountKey::read(key_file)?;
        let audience = format!("https://{SERVER_NAME}/enrol");
        let token = credential.sign_token(&audience, key.spki_sha256(), SystemTime::now())?;
        let token = token.expose_secret().to_owned();
        Ok(Self(v1::EnrolRequest { token, certificate_signing_request: key.csr()?, renews_until: 0 }))
    }

    /// With a text in place of the token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.0.token);
        self
    }

    /// With another signature of the token, which nobody has made.
    #[must_use]
    pub fn with_bad_signature(mut self) -> Self {
        let at = self.0.token.len() - 10;
        let other = if self.0.token.as_bytes()[at] == b'A' { "B" } else { "A" };
        self.0.token.replace_range(at..=at, other);
        self
    }

    /// With the certificate request of another enrolment, to whose key the token is not bound.
    #[must_use]
    pub fn with_request_of(mut self, other: &Self) -> Self {
        self.0.certificate_signing_request.clone_from(&other.0.certificate_signing_request);
        self
    }

    /// With a certificate request whose key has not signed it.
    #[must_use]
    pub fn with_bad_request(mut self) -> Self {
        if let Some(last) = self.0.certificate_signing_request.last_mut() {
            *last ^= 1;
        }
        self
    }
}

impl Peer {
    /// Sends an enrolment, and tells the gRPC status of the answer.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn enrol(&self, enrolment: &Enrolment) -> Result<u32> {
        let mut call = self.call(path::ENROL).await?;
        call.say(&enrolment.0)?;
        call.end()?;
        call.status().await
    }
}
