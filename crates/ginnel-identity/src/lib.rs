//! From a credential to a token, a certificate and TLS configurations: what agents, clients and servers all need to prove who they are.
//!
//! | module | question it answers |
//! |---|---|
//! | [`credential`] | which service account signs, in Google's key file format |
//! | [`proof`] | what an agent or client proves itself with: a key, a token in a file, what its surroundings vouch for |
//! | [`key`] | which fresh key a certificate is for |
//! | [`certificate`] | whom a certificate names |
//! | [`trust`] | which issuing CAs are believed |
//! | [`tls`] | how the outer and the inner TLS 1.3 are set up and verified |
//! | [`evidence`] | how a certificate says what it was given for |
//! | [`oid`] | the key purposes that keep the roles apart, and that extension |
//! | [`mod@file`], [`pem`] | how keys and certificates lie on disk |
//! | [`random`] | unguessable bytes |
//!
//! Nothing here opens a socket or starts a task; the only I/O is reading and creating files.

pub mod certificate;
pub mod credential;
pub mod evidence;
pub mod file;
pub mod key;
pub mod oid;
pub mod pem;
pub mod proof;
pub mod random;
mod secret;
pub mod tls;
pub mod trust;

#[cfg(test)]
mod testing;

pub use certificate::{CertificateError, Identity, Leaf};
pub use credential::{CredentialError, ServiceAccountKey};
pub use ginnel_core::principal::is_email;
pub use key::{KeyError, KeyPair};
pub use proof::{Credential, TokenError};
pub use random::SystemRandom;
pub use tls::{CurrentIdentity, CurrentTrust, OuterTrust, TlsError};
pub use trust::{CurrentRoots, Roots, TrustError};

/// Writes bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
