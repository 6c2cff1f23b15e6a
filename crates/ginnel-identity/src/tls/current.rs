//! The identity that a process has now, swapped at renewal, and whom a server believes now.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Identity;
use crate::tls::OuterTrust;

/// Holds the identity that new handshakes use; connections that exist keep theirs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CurrentIdentity(Arc<RwLock<Option<Identity>>>);

impl CurrentIdentity {
    /// Starts without an identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a new identity in place for all handshakes that begin from now on.
    pub fn set(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// The identity, if there is one yet.
    pub fn get(&self) -> Option<Identity> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.get().map(|identity| identity.certified())
    }
}

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for CurrentIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.get().is_some()
    }
}

/// Whose certificates a server accepts at this moment, changed with the issuer's roots. Clones share it.
#[derive(Clone, Debug)]
pub struct CurrentTrust(Arc<RwLock<OuterTrust>>);

impl CurrentTrust {
    /// Accepts by these roots from the next handshake on; connections that exist stay.
    pub fn set(&self, trust: OuterTrust) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = trust;
    }

    /// Whose are accepted.
    pub fn now(&self) -> OuterTrust {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<OuterTrust> for CurrentTrust {
    fn from(trust: OuterTrust) -> Self {
        Self(Arc::new(RwLock::new(trust)))
    }
}

impl From<&CurrentTrust> for CurrentTrust {
    fn from(shared: &CurrentTrust) -> Self {
        shared.clone()
    }
}
