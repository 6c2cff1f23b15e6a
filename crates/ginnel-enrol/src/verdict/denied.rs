//! Why an enrolment was refused.

use std::fmt;

macro_rules! denied {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal;)+) => {
        /// Why an enrolment was refused: for the audit log. The caller is told the same words for all of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Denied {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Denied {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word in the audit log, in camelCase.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

denied! {
    /// The token is not signed by the algorithm that its key is for.
    Algorithm = "algorithm";
    /// The token is not for this server, or not for it alone.
    Audience = "audience";
    /// The token is older than the memory of used tokens.
    BeforeStart = "beforeStart";
    /// The token is bound to another key than the request's, or to none.
    Binding = "binding";
    /// So many tokens of this identity are remembered that no other can be.
    CacheFull = "cacheFull";
    /// The certificate request is malformed or asks for what it may not ask.
    Csr = "csr";
    /// The token's e-mail is not the identity's, or was not verified by the issuer.
    Email = "email";
    /// The token has expired, or is too old to be used.
    Expired = "expired";
    /// The token's header has other fields than it may have, or values that they cannot have.
    Header = "header";
    /// The request's key is not P-256, or not spelled in the one way.
    Key = "key";
    /// The token names no key, or one that its issuer does not publish.
    KeyId = "keyId";
    /// The issuer's keys cannot be had.
    KeySource = "keySource";
    /// The token is made to live longer than 300 s, or to end before it begins.
    Lifetime = "lifetime";
    /// The token does not have three parts, or its claims are missing, unknown, doubled or of other types.
    Malformed = "malformed";
    /// The token is from the future.
    NotYetValid = "notYetValid";
    /// The request is not signed by its own key.
    Possession = "possession";
    /// The token was used before.
    Replayed = "replayed";
    /// The identity, or one of the keys, was revoked.
    Revoked = "revoked";
    /// The token is not signed by a key of its service account or issuer.
    Signature = "signature";
    /// The token or the request is too large.
    Size = "size";
    /// The identity may not enrol from where the request comes.
    SourceRefused = "sourceRefused";
    /// The token speaks about another account than the one that signed it.
    Subject = "subject";
    /// The token's `jti` does not have 128 bits.
    TokenId = "tokenId";
    /// No identity has this service account, or this subject of an issuer.
    UnknownIdentity = "unknownIdentity";
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Denied {}
