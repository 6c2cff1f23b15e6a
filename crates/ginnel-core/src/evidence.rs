//! What a certificate was given for: which proof, and which key verified it.
//!
//! It stands in the certificate itself, so that whoever verifies that one can say whether the proof would still be taken, without having been
//! there when it was given. Nothing in it is secret: ids of public keys, names that the operator chose, hashes.

use std::fmt;

/// Most bytes of a name in it: as long as the id of a key may be.
pub const NAME_MAX: usize = 128;

/// What an enrolment was proved by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// The kind of token.
    pub proof: Proof,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that verified it: one of the configuration, of Google, or of an issuer.
    pub verified_by: [u8; 32],
}

/// A kind of token, with what of it may cease to count.
///
/// What names somebody to an issuer is a hash ([`Self::GoogleIdToken`]`::about` and the like), because peers see each other's certificates: of
/// the issuer as its tokens call it, a zero byte, and the subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// A token of a key that the configuration names, with the id that we give such keys.
    Key(String),
    /// A token of a key that Google publishes for the account, with Google's id of the key.
    GoogleKey(String),
    /// An ID token of Google.
    GoogleIdToken {
        /// Which account: see [`Proof`].
        about: [u8; 32],
    },
    /// A token of an OIDC issuer, bound to the key.
    Oidc {
        /// What the configuration calls the issuer.
        issuer: String,
        /// Which subject: see [`Proof`].
        about: [u8; 32],
    },
    /// A token of an OIDC issuer that was bound to nothing.
    Bearer {
        /// What the configuration calls the issuer.
        issuer: String,
        /// Which subject: see [`Proof`].
        about: [u8; 32],
    },
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::GoogleKey(id) => write!(f, "googleKey:{id}"),
            Self::GoogleIdToken { .. } => f.write_str("googleIdToken"),
            Self::Oidc { issuer, .. } => write!(f, "oidc:{issuer}"),
            Self::Bearer { issuer, .. } => write!(f, "bearer:{issuer}"),
        }
    }
}

/// Whether a text can be a name in it: 1 to [`NAME_MAX`] visible ASCII characters.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
