//! Who may have a certificate, for which key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ginnel_core::evidence::{Evidence, Proof};
use ginnel_core::principal::Principal;
use ginnel_identity::credential::TOKEN_LIFETIME_SECONDS;
use ginnel_identity::is_email;
use ginnel_identity::key::sha256;

use crate::key_set::{KeySource, NoKey};
use crate::public_key::PublicKey;
use crate::replay::Used;

pub use self::claim::Claim;
pub use self::denied::Denied;

mod claim;
mod denied;
#[cfg(test)]
mod tests;

/// Most bytes of a certificate request. One that this program makes has less than 300.
pub const CSR_BYTES_MAX: usize = 4 * 1024;

/// Keys of one identity: two while one is being changed for the other, and room. Each may cost a signature check per call.
pub const KEYS_PER_IDENTITY_MAX: usize = 8;

/// How far clocks may differ.
const LEEWAY_SECONDS: u64 = 60;

/// How long an issuer's token can be used after it was made, however long it lives. Google's ID tokens hold for an hour, projected ones of
/// Kubernetes for longer; whoever enrols has just got one, or its kubelet renews it in this time.
pub const ISSUED_TOKEN_SECONDS: u64 = 600;

/// How long before the start of the process a token may have been signed. What was used before is forgotten with the process, so
/// tokens that are older than any that could still be on its way are refused.
const BEFORE_START_SECONDS: u64 = 300;

/// How long after its use a token would be taken once more if nobody remembered it: signed by a clock that is ahead, taken by one that is
/// behind.
const USABLE_SECONDS: u64 = LEEWAY_SECONDS + longer(TOKEN_LIFETIME_SECONDS, ISSUED_TOKEN_SECONDS) + LEEWAY_SECONDS;

/// Identities that are gone and whose tokens are still remembered: more than are taken out within minutes, and a few bytes each unless
/// they were busy.
const GONE_MAX: usize = 1024;

/// Who signs Google's ID tokens.
pub const GOOGLE_ISSUER: &str = "https://accounts.google.com";

const fn longer(one: u64, other: u64) -> u64 {
    if one > other { one } else { other }
}

/// Who may enrol.
#[derive(Clone, Debug)]
pub struct EnrolIdentity {
    /// Whom its certificates name.
    pub principal: Principal,
    /// The service account.
    pub email: String,
    /// The service account's keys, if it comes with their tokens.
    pub keys: Option<AccountKeys>,
    /// Who it is to an OIDC issuer, if it comes with tokens of one. It has keys or this.
    pub oidc: Option<OidcSubject>,
}

/// Keys of a service account.
#[derive(Clone, Debug)]
pub enum AccountKeys {
    /// These.
    Held(Vec<PublicKey>),
    /// Those that Google publishes for the account. Google's ID tokens about it, bound by their audience, count as well.
    AtGoogle {
        /// The account's numeric id. With it nothing but ID tokens that name it are taken: the keys of an account are found by its e-mail,
        /// which an account that is deleted and made again has as well.
        unique_id: Option<String>,
    },
}

/// Who an identity is to an OIDC issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSubject {
    /// The issuer's name among those that the enroller was given.
    pub issuer: String,
    /// The subject that the tokens must be about.
    pub subject: String,
    /// Whether they must also say that this identity's e-mail is theirs, and verified.
    pub email_is_checked: bool,
}

/// An OIDC issuer whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcIssuer {
    /// What it is called here.
    pub name: String,
    /// What its tokens call it: `iss`, byte by byte.
    pub issuer: String,
    /// The audience of its tokens, if it is not that of all enrolments.
    pub audience: Option<String>,
    /// What ties its tokens to the key that is certified.
    pub binding: Binding,
}

/// What ties a token to the key that is certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The token's audience ends in `?k=` and the key's hash.
    Audience,
    /// The token's claim `cnf` has the key's hash.
    Confirmation,
    /// Nothing: whoever has the token may use it, once.
    Bearer,
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
    /// Two identities are one subject of an issuer.
    #[error("the subject of {principal} belongs to more than one identity")]
    DuplicateSubject {
        /// Whose.
        principal: Principal,
    },
    /// Two issuers have one name or one spelling of themselves.
    #[error("the issuer {name} is defined more than once")]
    DuplicateIssuer {
        /// Which issuer.
        name: String,
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
    /// An identity names an issuer that is not there.
    #[error("{principal} names the issuer {issuer}, which is not defined")]
    UnknownIssuer {
        /// Whose.
        principal: Principal,
        /// Which issuer.
        issuer: String,
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
    /// What it was proved by, for the certificate and the audit log.
    pub evidence: Evidence,
}

/// Judges enrolments. It remembers used tokens for as long as they could be used, so every one of a process but the
/// first is made by [`Self::with_identities`].
#[derive(Debug)]
pub struct Enroller {
    audience: String,
    identities: BTreeMap<String, Known>,
    /// By what tokens call them.
    issuers: Arc<BTreeMap<String, OidcIssuer>>,
    /// The e-mail of each subject, by what its issuer's tokens call the issuer.
    subjects: BTreeMap<(String, String), String>,
    gone: BTreeMap<String, Gone>,
    /// When the process started, by the clock that nobody sets.
    started: Instant,
    /// How long it had run when something was forgotten for want of room.
    forgot: Option<Duration>,
}

/// The moment of a verdict.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// The second, by the clock that tokens go by.
    now: u64,
    /// How long the process has run, by the one that nobody sets.
    ran: Duration,
}

impl Moment {
    /// The second at which the process had run for so long, by the clock as it is set at this moment.
    fn second_of(self, ran: Duration) -> u64 {
        self.now.saturating_sub(self.ran.saturating_sub(ran).as_secs())
    }
}

#[derive(Debug)]
struct Known {
    principal: Principal,
    keys: Option<AccountKeys>,
    oidc: Option<OidcSubject>,
    used: Arc<Used>,
}

/// What is remembered of an identity that was taken out: it may come back while its tokens could be used.
#[derive(Clone, Debug)]
struct Gone {
    used: Arc<Used>,
    until: u64,
}

impl Enroller {
    /// Takes the audience that tokens must name, who may enrol, whose tokens count beside their own, and when the process started by the
    /// clock as it is at this moment. From here on that is counted by a clock that nobody sets: the other may be wrong, and be put right.
    ///
    /// # Errors
    /// [`EnrollerError`] for the first identity that cannot be used.
    pub fn new(
        audience: String,
        identities: Vec<EnrolIdentity>,
        issuers: Vec<OidcIssuer>,
        started: SystemTime,
    ) -> Result<Self, EnrollerError> {
        let mut by_spelling = BTreeMap::new();
        let mut names = BTreeSet::new();
        for issuer in issuers {
            let name = issuer.name.clone();
            let is_google = issuer.issuer == GOOGLE_ISSUER;
            if is_google || !names.insert(name.clone()) || by_spelling.insert(issuer.issuer.clone(), issuer).is_some() {
                return Err(EnrollerError::DuplicateIssuer { name });
            }
        }
        let ran = SystemTime::now().duration_since(started).unwrap_or(Duration::ZERO);
        let now = Instant::now();
        Self::of(audience, identities, Arc::new(by_spelling), now.checked_sub(ran).unwrap_or(now))
    }

    fn of(
        audience: String,
        identities: Vec<EnrolIdentity>,
        issuers: Arc<BTreeMap<String, OidcIssuer>>,
        started: Instant,
    ) -> Result<Self, EnrollerError> {
        if audience.is_empty() {
            return Err(EnrollerError::Audience);
        }
        let mut known = BTreeMap::new();
        let mut principals = BTreeSet::new();
        let mut subjects = BTreeMap::new();
        for EnrolIdentity { principal, email, keys, oidc } in identities {
            if !is_email(&email) {
                return Err(EnrollerError::Email { principal });
            }
            let keys_are_good = match &keys {
                Some(AccountKeys::Held(keys)) => (1..=KEYS_PER_IDENTITY_MAX).contains(&keys.len()),
                Some(AccountKeys::AtGoogle { .. }) => true,
                None => oidc.is_some(),
            };
            if !keys_are_good {
                return Err(EnrollerError::Keys { principal });
            }
            if let Some(OidcSubject { issuer: name, subject, .. }) = &oidc {
                let Some(issuer) = issuers.values().find(|issuer| issuer.name == *name) else {
                    return Err(EnrollerError::UnknownIssuer { principal, issuer: name.clone() });
                };
                if subjects.insert((issuer.issuer.clone(), subject.clone()), email.clone()).is_some() {
                    return Err(EnrollerError::DuplicateSubject { principal });
                }
            }
            if !principals.insert(principal.clone()) {
                return Err(EnrollerError::DuplicatePrincipal { principal });
            }
            if known.contains_key(&email) {
                return Err(EnrollerError::DuplicateEmail { email });
            }
            known.insert(email, Known { principal, keys, oidc, used: Arc::default() });
        }
        Ok(Self { audience, identities: known, issuers, subjects, gone: BTreeMap::new(), started, forgot: None })
    }

    /// The same with other identities. Tokens that were used before stay used, also those of an identity that is taken out and comes back.
    ///
    /// # Errors
    /// [`EnrollerError`] for the first identity that cannot be used.
    pub fn with_identities(&self, identities: Vec<EnrolIdentity>, now: SystemTime) -> Result<Self, EnrollerError> {
        self.with_identities_at(identities, self.moment(now))
    }

    fn with_identities_at(&self, identities: Vec<EnrolIdentity>, moment: Moment) -> Result<Self, EnrollerError> {
        let now = moment.now;
        let mut next = Self::of(self.audience.clone(), identities, Arc::clone(&self.issuers), self.started)?;
        next.forgot = self.forgot;
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
        next.bound_memory(moment.ran);
        Ok(next)
    }

    /// Whether a proof that was taken before would still be taken of this service account, as far as the configuration says: whether Google still
    /// has the key, or the account, is another question.
    pub fn accepts(&self, email: &str, evidence: &Evidence) -> bool {
        let Some(known) = self.identities.get(email) else { return false };
        match (&evidence.proof, &known.keys) {
            (Proof::Key(_), Some(AccountKeys::Held(keys))) => {
                keys.iter().any(|key| key.spki_sha256() == evidence.verified_by)
            }
            (Proof::GoogleKey(_), Some(AccountKeys::AtGoogle { unique_id })) => unique_id.is_none(),
            (Proof::GoogleIdToken { about: its }, Some(AccountKeys::AtGoogle { unique_id })) => {
                unique_id.as_ref().is_none_or(|id| about(GOOGLE_ISSUER, id) == *its)
            }
            (Proof::Oidc { issuer, about: its }, _) => {
                self.proves(known, issuer, its, &[Binding::Audience, Binding::Confirmation])
            }
            (Proof::Bearer { issuer, about: its }, _) => self.proves(known, issuer, its, &[Binding::Bearer]),
            (Proof::Key(_) | Proof::GoogleKey(_) | Proof::GoogleIdToken { .. }, Some(_) | None) => false,
        }
    }

    /// Whether an issuer of this name, by tokens bound in one of these ways, can say that somebody is this identity.
    fn proves(&self, known: &Known, name: &str, its: &[u8; 32], bindings: &[Binding]) -> bool {
        let Some(oidc) = known.oidc.as_ref().filter(|oidc| oidc.issuer == name) else { return false };
        let issuer = self.issuers.values().find(|issuer| issuer.name == name);
        issuer.is_some_and(|issuer| bindings.contains(&issuer.binding) && about(&issuer.issuer, &oidc.subject) == *its)
    }

    /// Forgets what there is no room for, and with it every token that could be among it: for a minute nobody enrols.
    fn bound_memory(&mut self, ran: Duration) {
        let Some(over) = self.gone.len().checked_sub(GONE_MAX).filter(|over| *over > 0) else { return };
        let mut ends: Vec<_> = self.gone.iter().map(|(email, gone)| (gone.until, email.clone())).collect();
        ends.sort_unstable();
        for (_, email) in ends.iter().take(over) {
            self.gone.remove(email);
        }
        self.forgot = Some(ran);
    }

    fn moment(&self, now: SystemTime) -> Moment {
        Moment { now: seconds(now), ran: self.started.elapsed() }
    }

    /// The first second at which a token may have been issued. It is counted back from the present each time: a clock that was ahead when the
    /// process started, and was put right, would otherwise make every token one from before the start.
    fn iat_min(&self, binding: Binding, moment: Moment) -> u64 {
        let after = |second: u64| second.saturating_add(LEEWAY_SECONDS).saturating_add(1);
        let started = moment.second_of(Duration::ZERO);
        let remembered = match binding {
            Binding::Audience | Binding::Confirmation => started.saturating_sub(BEFORE_START_SECONDS),
            // Nothing binds it to a key: not one that was used before may be used again.
            Binding::Bearer => after(started),
        };
        let forgot = self.forgot.map_or(0, |ran| after(moment.second_of(ran)));
        remembered.max(forgot)
    }

    /// Judges a token and the certificate request that came with it: first all that needs no key ([`Self::claim`]), then the signature by a key
    /// from `source` if the identity's keys are not at hand, and the rest ([`Claim::admit`]). A token that is admitted is used up.
    ///
    /// # Errors
    /// [`Denied`], for the audit log only.
    pub async fn verdict(
        &self,
        token: &str,
        csr_der: &[u8],
        now: SystemTime,
        source: &dyn KeySource,
    ) -> Result<Admitted, Denied> {
        self.verdict_at(token, csr_der, self.moment(now), source).await
    }

    async fn verdict_at(
        &self,
        token: &str,
        csr_der: &[u8],
        moment: Moment,
        source: &dyn KeySource,
    ) -> Result<Admitted, Denied> {
        let claim = self.claim_at(token, csr_der, moment)?;
        let Some((set, key_id)) = claim.wants() else { return claim.admit(None) };
        let key = source.find(set, key_id).await.map_err(|none| match none {
            NoKey::Unknown => Denied::KeyId,
            NoKey::Unavailable => Denied::KeySource,
        })?;
        claim.admit(Some(&key))
    }
}

/// Whom a token is about, as [`Proof`] has it. No issuer has a zero byte in its name, so that no two pairs read the same.
fn about(issuer: &str, subject: &str) -> [u8; 32] {
    sha256(&[issuer.as_bytes(), &[0], subject.as_bytes()].concat())
}

fn seconds(time: SystemTime) -> u64 {
    // A clock before 1970 reads as 1970: every token is then from the future.
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
