//! Token verdicts and certificates: what only an enrolling server needs.
//!
//! [`Enroller::verdict`] says who may have a certificate for which key; an [`Issuer`] signs it. Role and name come from the identities that
//! the server was configured with, and from nowhere else: not from the token, the certificate request or the e-mail's spelling.
//!
//! Nothing here opens a socket or starts a task; the only I/O is the embedded issuer's directory. Keys that are published somewhere come
//! through a [`KeySource`].

pub mod embedded;
pub mod issuer;
pub mod key_set;
pub mod public_key;
pub mod verdict;

mod answer;
mod csr;
mod replay;
mod token;
mod unique;

#[cfg(test)]
mod testing;

pub use answer::{WrongAnswer, check_answer, roots_are_apart};
pub use embedded::{EmbeddedIssuer, OpenError};
pub use issuer::{CertificateRequest, IssueError, Issued, Issuer, Issuing};
pub use key_set::{KeySet, KeySetError, KeySetId, KeySource, NoKey, VerifyingKey};
pub use public_key::{PublicKey, PublicKeyError};
pub use verdict::{
    AccountKeys, Admitted, Binding, Claim, Denied, EnrolIdentity, Enroller, EnrollerError, GOOGLE_ISSUER, OidcIssuer,
    OidcSubject,
};
