//! Who may have a certificate, for which key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_core::principal::Principal;
use ginnel_identity::credential::TOKEN_LIFETIME_SECONDS;
use ginnel_identity::is_email;
use ginnel_identity::key::sha256;
use serde_json::Value;

use crate::csr::Request;
use crate::public_key::PublicKey;
use crate::replay::{Taken, Used};
use crate::token::{Claims, Token, decode};

#[cfg(test)]
mod tests;

/// Most bytes of a certificate request. One that this program makes has less than 300.
pub const CSR_BYTES_MAX: usize = 4 * 1024;

/// Keys of one identity: two while one is being changed for the other, and room. Each may cost a signature check per call.
pub const KEYS_PER_IDENTITY_MAX: usize = 8;

/// How far clocks may differ.
const LEEWAY_SECONDS: u64 = 60;

/// How long before the start of the process a token may have been signed. What was used before is forgotten with the process, so
/// tokens that are older than any that could still be on its way are refused.
const BEFORE_START_SECONDS: u64 = 300;

/// How long after its use a token would be taken once more if nobody remembered it: signed by a clock that is ahead, taken by one that is
/// behind.
const USABLE_SECONDS: u64 = LEEWAY_SECONDS + TOKEN_LIFETIME_SECONDS + LEEWAY_SECONDS;

/// Identities that are gone and whose tokens are still remembered: more than are taken out within minutes, and a few bytes each unless
/// they were busy.
const GONE_MAX: usize = 1024;

/// A `jti` has 128 bits: 22 characters in base64url, more in other spellings.
const TOKEN_ID_CHARACTERS: std::ops::RangeInclusive<usize> = 22..=128;

/// Who may enrol.
#[derive(Clone, Debug)]
pub struct EnrolIdentity {
    /// Whom its certificates name.
    pub principal: Principal,
    /// The service account.
    pub email: String,
    /// The service account's keys.
    pub keys: Vec<PublicKey>,
}

/// Why identities cannot be used. All of it is configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrollerError {
    /// There is no audience, so that tokens could not be told from another server's.
    #[error("the enrolment audience is empty")]
    Audience,
    /// Two identities have one service account: its role would be a matter of order.
    #[error("{email} belongs to more than one identity")]
    DuplicateEmail {
        /// Which service account.
        email: String,
    },
    /// Two identities have one role and name.
    #[error("{principal} is defined more than once")]
    DuplicatePrincipal {
        /// Which principal.
        principal: Principal,
    },
    /// A service account is none.
    #[error("{principal} has no e-mail of the form name@domain")]
    Email {
        /// Whose.
        principal: Principal,
    },
    /// An identity has no key, or too many.
    #[error("{principal} must have 1 to {KEYS_PER_IDENTITY_MAX} keys")]
    Keys {
        /// Whose.
        principal: Principal,
    },
}

/// An enrolment that may have its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Whom the certificate names.
    pub principal: Principal,
    /// The service account.
    pub email: String,
    /// The key that the certificate is for.
    pub spki_der: Vec<u8>,
    /// SHA-256 of `spki_der`.
    pub spki_sha256: [u8; 32],
    /// The token's `jti`, for the audit log.
    pub token_id: String,
}

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
    /// The token is not signed by RS256.
    Algorithm = "algorithm";
    /// The token is not for this server, or not for it alone.
    Audience = "audience";
    /// The token is older than the memory of used tokens.
    BeforeStart = "beforeStart";
    /// The token is bound to another key than the request's.
    Binding = "binding";
    /// So many tokens of this identity are remembered that no other can be.
    CacheFull = "cacheFull";
    /// The certificate request is malformed or asks for what it may not ask.
    Csr = "csr";
    /// The token has expired.
    Expired = "expired";
    /// The token's header has other fields than `alg`, `kid` and `typ`, or values that they cannot have.
    Header = "header";
    /// The request's key is not P-256, or not spelled in the one way.
    Key = "key";
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
    /// The token is not signed by a key of its service account.
    Signature = "signature";
    /// The token or the request is too large.
    Size = "size";
    /// The token speaks about another account than the one that signed it.
    Subject = "subject";
    /// The token's `jti` does not have 128 bits.
    TokenId = "tokenId";
    /// No identity has this service account.
    UnknownIdentity = "unknownIdentity";
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Denied {}

/// Judges enrolments. It remembers used tokens for as long as they could be used, so every one of a process but the
/// first is made by [`Self::with_identities`].
#[derive(Debug)]
pub struct Enroller {
    audience: String,
    identities: BTreeMap<String, Known>,
    gone: BTreeMap<String, Gone>,
    iat_min: u64,
}

#[derive(Debug)]
struct Known {
    principal: Principal,
    keys: Vec<PublicKey>,
    used: Arc<Used>,
}

/// What is remembered of an identity that was taken out: it may come back while its tokens could be used.
#[derive(Clone, Debug)]
struct Gone {
    used: Arc<Used>,
    until: u64,
}

impl Enroller {
    /// Takes the audience that tokens must name, who may enrol, and when the process started.
    ///
    /// # Errors
    /// [`EnrollerError`] for the first identity that cannot be used.
    pub fn new(audience: String, identities: Vec<EnrolIdentity>, started: SystemTime) -> Result<Self, EnrollerError> {
        if audience.is_empty() {
            return Err(EnrollerError::Audience);
        }
        let mut known = BTreeMap::new();
        let mut principals = BTreeSet::new();
        for EnrolIdentity { principal, email, keys } in identities {
            if !is_email(&email) {
                return Err(EnrollerError::Email { principal });
            }
            if !(1..=KEYS_PER_IDENTITY_MAX).contains(&keys.len()) {
                return Err(EnrollerError::Keys { principal });
            }
            if !principals.insert(principal.clone()) {
                return Err(EnrollerError::DuplicatePrincipal { principal });
            }
            if known.contains_key(&email) {
                return Err(EnrollerError::DuplicateEmail { email });
            }
            known.insert(email, Known { principal, keys, used: Arc::default() });
        }
        let iat_min = seconds(started).saturating_sub(BEFORE_START_SECONDS);
        Ok(Self { audience, identities: known, gone: BTreeMap::new(), iat_min })
    }

    /// The same with other identities. Tokens that were used before stay used, also those of an identity that is taken out and comes back.
    ///
    /// # Errors
    /// [`EnrollerError`] for the first identity that cannot be used.
    pub fn with_identities(&self, identities: Vec<EnrolIdentity>, now: SystemTime) -> Result<Self, EnrollerError> {
        let now = seconds(now);
        let mut next = Self::new(self.audience.clone(), identities, UNIX_EPOCH)?;
        next.iat_min = self.iat_min;
        let gone = self.gone.iter().filter(|(_, gone)| gone.until >= now);
        next.gone = gone.map(|(email, gone)| (email.clone(), gone.clone())).collect();
        // Also where nothing is remembered: a verdict may be on its way.
        let until = now.saturating_add(USABLE_SECONDS);
        let before = self.identities.iter();
        next.gone.extend(before.map(|(email, known)| (email.clone(), Gone { used: Arc::clone(&known.used), until })));
        for (email, known) in &mut next.identities {
            if let Some(before) = next.gone.remove(email) {
                known.used = before.used;
            }
        }
        next.bound_memory(now);
        Ok(next)
    }

    /// Forgets what there is no room for, and with it every token that could be among it: for a minute nobody enrols.
    fn bound_memory(&mut self, now: u64) {
        let Some(over) = self.gone.len().checked_sub(GONE_MAX).filter(|over| *over > 0) else { return };
        let mut ends: Vec<_> = self.gone.iter().map(|(email, gone)| (gone.until, email.clone())).collect();
        ends.sort_unstable();
        for (_, email) in ends.iter().take(over) {
            self.gone.remove(email);
        }
        self.iat_min = self.iat_min.max(now.saturating_add(LEEWAY_SECONDS).saturating_add(1));
    }

    /// Judges a token and the certificate request that came with it, cheap checks first. A token that is admitted is used up.
    ///
    /// # Errors
    /// [`Denied`], for the audit log only.
    pub fn verdict(&self, token: &str, csr_der: &[u8], now: SystemTime) -> Result<Admitted, Denied> {
        let now = seconds(now);
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(Denied::Size);
        }
        let Token { signed, signature, key_id, claims } = Token::parse(token)?;
        let known = self.identities.get(&claims.iss).ok_or(Denied::UnknownIdentity)?;
        if !known.signed(signed, &signature, key_id.as_deref()) {
            return Err(Denied::Signature);
        }
        self.check_claims(&claims, now)?;
        let request = Request::parse(csr_der)?;
        let spki_sha256 = sha256(request.spki_der());
        if decode(&claims.cnf.spki_sha256).map_err(|_| Denied::Binding)? != spki_sha256 {
            return Err(Denied::Binding);
        }
        request.check_possession()?;
        // Last, so that nobody but the holder of token and key can use the token up.
        match known.used.take(&claims.jti, claims.exp.saturating_add(LEEWAY_SECONDS), now) {
            Taken::First => {}
            Taken::Again => return Err(Denied::Replayed),
            Taken::Full => return Err(Denied::CacheFull),
        }
        Ok(Admitted {
            principal: known.principal.clone(),
            email: claims.iss,
            spki_der: request.spki_der().to_vec(),
            spki_sha256,
            token_id: claims.jti,
        })
    }

    fn check_claims(&self, claims: &Claims, now: u64) -> Result<(), Denied> {
        if claims.sub != claims.iss {
            return Err(Denied::Subject);
        }
        if claims.aud.as_ref().and_then(Value::as_str) != Some(self.audience.as_str()) {
            return Err(Denied::Audience);
        }
        if claims.exp <= claims.iat || claims.exp - claims.iat > TOKEN_LIFETIME_SECONDS {
            return Err(Denied::Lifetime);
        }
        let latest = now.saturating_add(LEEWAY_SECONDS);
        if claims.iat > latest || claims.nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Denied::NotYetValid);
        }
        if claims.exp.saturating_add(LEEWAY_SECONDS) < now {
            return Err(Denied::Expired);
        }
        if claims.iat < self.iat_min {
            return Err(Denied::BeforeStart);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if !TOKEN_ID_CHARACTERS.contains(&claims.jti.len()) || !claims.jti.bytes().all(plain) {
            return Err(Denied::TokenId);
        }
        Ok(())
    }
}

impl Known {
    /// Whether one of the identity's keys signed the message; the one that the token names is tried first, and proves nothing by that.
    fn signed(&self, message: &str, signature: &[u8], key_id: Option<&str>) -> bool {
        let named = |key: &&PublicKey| Some(key.id()) == key_id;
        let first = self.keys.iter().filter(named);
        let rest = self.keys.iter().filter(|key| !named(key));
        first.chain(rest).any(|key| key.verifies(message.as_bytes(), signature))
    }
}

fn seconds(time: SystemTime) -> u64 {
    // A clock before 1970 reads as 1970: every token is then from the future.
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
