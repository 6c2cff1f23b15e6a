//! One enrolment under judgement: all that can be said before a key is needed, and all that is said with it. No I/O in either.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_core::evidence::{Evidence, Proof};
use ginnel_identity::credential::TOKEN_LIFETIME_SECONDS;
use ginnel_identity::key::sha256;
use serde_json::Value;

use super::{
    AccountKeys, Admitted, Binding, CSR_BYTES_MAX, Denied, Enroller, GOOGLE_ISSUER, ISSUED_TOKEN_SECONDS, Known,
    LEEWAY_SECONDS, Moment, about,
};
use crate::csr::Request;
use crate::key_set::{KeySetId, VerifyingKey};
use crate::public_key::PublicKey;
use crate::replay::Taken;
use crate::token::{Algorithm, Claims, ForeignClaims, Token, decode};

/// A `jti` has 128 bits: 22 characters in base64url, more in other spellings.
const TOKEN_ID_CHARACTERS: std::ops::RangeInclusive<usize> = 22..=128;

/// An enrolment of which only the key's word is missing. Nothing that it says is proved yet.
#[derive(Debug)]
pub struct Claim<'a> {
    known: &'a Known,
    email: String,
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: Option<String>,
    signer: Signer<'a>,
    request: Request<'a>,
    /// What is remembered of the token, so that it is good once.
    once: String,
    /// The second until which that has to be.
    until: u64,
    now: u64,
}

/// Who has to have signed.
#[derive(Debug)]
enum Signer<'a> {
    Keys(&'a [PublicKey]),
    Set(KeySetId, Kind),
}

/// What a token is that a key of a set has signed.
#[derive(Clone, Debug)]
enum Kind {
    GoogleKey,
    Other(Proof),
}

/// What the claims of a token came to.
struct Judged<'a> {
    email: &'a str,
    known: &'a Known,
    signer: Signer<'a>,
    once: String,
    until: u64,
}

impl Enroller {
    /// Judges all of a token and its certificate request that needs no key.
    ///
    /// # Errors
    /// [`Denied`], for the audit log only.
    pub fn claim<'a>(&'a self, token: &'a str, csr_der: &'a [u8], now: SystemTime) -> Result<Claim<'a>, Denied> {
        self.claim_at(token, csr_der, self.moment(now))
    }

    pub(super) fn claim_at<'a>(
        &'a self,
        token: &'a str,
        csr_der: &'a [u8],
        moment: Moment,
    ) -> Result<Claim<'a>, Denied> {
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(Denied::Size);
        }
        let token = Token::parse(token)?;
        let issuer = token.issuer()?;
        let request = || Request::parse(csr_der);
        let (judged, request) = if issuer == GOOGLE_ISSUER || self.issuers.contains_key(&issuer) {
            let claims = token.foreign_claims()?;
            let (judged, binding, audience) = self.foreign(&issuer, &claims, &token)?;
            self.check_foreign_times(&claims, binding, moment)?;
            let request = request()?;
            check_binding(binding, &claims, audience, &sha256(request.spki_der()))?;
            (judged, request)
        } else {
            let claims = token.claims()?;
            let judged = self.own(&claims, token.header.algorithm)?;
            self.check_claims(&claims, moment)?;
            let request = request()?;
            if decode(&claims.cnf.spki_sha256).map_err(|_| Denied::Binding)? != sha256(request.spki_der()) {
                return Err(Denied::Binding);
            }
            (judged, request)
        };
        let Judged { email, known, signer, once, until } = judged;
        let Token { signed, signature, header, .. } = token;
        if matches!(signer, Signer::Set(..)) && header.key_id.is_none() {
            return Err(Denied::KeyId);
        }
        let (algorithm, key_id) = (header.algorithm, header.key_id);
        let email = email.to_owned();
        let now = moment.now;
        Ok(Claim { known, email, signed, signature, algorithm, key_id, signer, request, once, until, now })
    }

    /// The identity of a token that a service account signed itself.
    fn own<'a>(&'a self, claims: &Claims, algorithm: Algorithm) -> Result<Judged<'a>, Denied> {
        let (email, known) = self.identities.get_key_value(&claims.iss).ok_or(Denied::UnknownIdentity)?;
        let signer = match &known.keys {
            Some(AccountKeys::Held(keys)) => Signer::Keys(keys),
            Some(AccountKeys::AtGoogle { unique_id: None }) => {
                Signer::Set(KeySetId::Account(email.clone()), Kind::GoogleKey)
            }
            // Keys are published by e-mail, so that these do not say which account of that e-mail has signed.
            Some(AccountKeys::AtGoogle { unique_id: Some(_) }) | None => return Err(Denied::UnknownIdentity),
        };
        if algorithm != Algorithm::Rs256 {
            return Err(Denied::Algorithm);
        }
        let until = claims.exp.saturating_add(LEEWAY_SECONDS);
        Ok(Judged { email, known, signer, once: claims.jti.clone(), until })
    }

    /// The identity of an issuer's token, how the token is to be bound, and the audience to which that applies.
    fn foreign<'a>(
        &'a self,
        issuer: &str,
        claims: &ForeignClaims,
        token: &Token<'_>,
    ) -> Result<(Judged<'a>, Binding, &'a str), Denied> {
        // Not the `jti`, which not all have; and not the signature, of which ECDSA has two for one message.
        let once = BASE64_URL_SAFE_NO_PAD.encode(sha256(token.signed.as_bytes()));
        let until = claims.iat.saturating_add(ISSUED_TOKEN_SECONDS);
        let Some(issuer) = self.issuers.get(issuer) else {
            let (email, known) = self.google_account(claims)?;
            if token.header.algorithm != Algorithm::Rs256 {
                return Err(Denied::Algorithm);
            }
            let proof = Proof::GoogleIdToken { about: about(GOOGLE_ISSUER, &claims.sub) };
            let signer = Signer::Set(KeySetId::Google, Kind::Other(proof));
            return Ok((Judged { email, known, signer, once, until }, Binding::Audience, &self.audience));
        };
        let subject = (issuer.issuer.clone(), claims.sub.clone());
        let email = self.subjects.get(&subject).ok_or(Denied::UnknownIdentity)?;
        let (email, known) = self.identities.get_key_value(email).ok_or(Denied::UnknownIdentity)?;
        let is_checked = known.oidc.as_ref().is_some_and(|oidc| oidc.email_is_checked);
        if is_checked && (claims.email.as_ref() != Some(email) || !claims.email_is_verified) {
            return Err(Denied::Email);
        }
        let name = issuer.name.clone();
        let about = about(&issuer.issuer, &claims.sub);
        let proof = match issuer.binding {
            Binding::Audience | Binding::Confirmation => Proof::Oidc { issuer: name.clone(), about },
            Binding::Bearer => Proof::Bearer { issuer: name.clone(), about },
        };
        let signer = Signer::Set(KeySetId::Issuer(name), Kind::Other(proof));
        let audience = issuer.audience.as_deref().unwrap_or(&self.audience);
        Ok((Judged { email, known, signer, once, until }, issuer.binding, audience))
    }

    /// The identity that an ID token of Google names.
    fn google_account(&self, claims: &ForeignClaims) -> Result<(&str, &Known), Denied> {
        let email = claims.email.as_deref().ok_or(Denied::Email)?;
        let (email, known) = self.identities.get_key_value(email).ok_or(Denied::UnknownIdentity)?;
        match &known.keys {
            Some(AccountKeys::AtGoogle { unique_id: Some(id) }) if *id != claims.sub => Err(Denied::Subject),
            Some(AccountKeys::AtGoogle { .. }) if !claims.email_is_verified => Err(Denied::Email),
            Some(AccountKeys::AtGoogle { .. }) => Ok((email, known)),
            Some(AccountKeys::Held(_)) | None => Err(Denied::UnknownIdentity),
        }
    }

    fn check_claims(&self, claims: &Claims, moment: Moment) -> Result<(), Denied> {
        if claims.sub != claims.iss {
            return Err(Denied::Subject);
        }
        if claims.aud.as_ref().and_then(Value::as_str) != Some(self.audience.as_str()) {
            return Err(Denied::Audience);
        }
        if claims.exp <= claims.iat || claims.exp - claims.iat > TOKEN_LIFETIME_SECONDS {
            return Err(Denied::Lifetime);
        }
        check_times(claims.iat, claims.nbf, claims.exp, moment.now)?;
        if claims.iat < self.iat_min(Binding::Confirmation, moment) {
            return Err(Denied::BeforeStart);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if !TOKEN_ID_CHARACTERS.contains(&claims.jti.len()) || !claims.jti.bytes().all(plain) {
            return Err(Denied::TokenId);
        }
        Ok(())
    }

    fn check_foreign_times(&self, claims: &ForeignClaims, binding: Binding, moment: Moment) -> Result<(), Denied> {
        if claims.exp <= claims.iat {
            return Err(Denied::Lifetime);
        }
        check_times(claims.iat, claims.nbf, claims.exp, moment.now)?;
        if claims.iat.saturating_add(ISSUED_TOKEN_SECONDS) < moment.now {
            return Err(Denied::Expired);
        }
        if claims.iat < self.iat_min(binding, moment) { Err(Denied::BeforeStart) } else { Ok(()) }
    }
}

fn check_times(iat: u64, nbf: Option<u64>, exp: u64, now: u64) -> Result<(), Denied> {
    let latest = now.saturating_add(LEEWAY_SECONDS);
    if iat > latest || nbf.is_some_and(|nbf| nbf > latest) {
        return Err(Denied::NotYetValid);
    }
    if exp.saturating_add(LEEWAY_SECONDS) < now {
        return Err(Denied::Expired);
    }
    Ok(())
}

fn check_binding(binding: Binding, claims: &ForeignClaims, audience: &str, spki: &[u8; 32]) -> Result<(), Denied> {
    let said = claims.audience().ok_or(Denied::Audience)?;
    let hash = BASE64_URL_SAFE_NO_PAD.encode(spki);
    match binding {
        Binding::Audience => {
            let bound_to = said.strip_prefix(audience).and_then(|rest| rest.strip_prefix("?k="));
            match bound_to.ok_or(Denied::Audience)? {
                its if its == hash => Ok(()),
                _ => Err(Denied::Binding),
            }
        }
        Binding::Confirmation | Binding::Bearer if said != audience => Err(Denied::Audience),
        Binding::Confirmation if claims.spki_sha256.as_ref() != Some(&hash) => Err(Denied::Binding),
        Binding::Confirmation | Binding::Bearer => Ok(()),
    }
}

impl Claim<'_> {
    /// The set and the id of the key that has to have signed, unless the identity's keys are at hand.
    pub fn wants(&self) -> Option<(&KeySetId, &str)> {
        match &self.signer {
            Signer::Keys(_) => None,
            Signer::Set(set, _) => Some((set, self.key_id.as_deref()?)),
        }
    }

    /// Judges the rest, with the key that was wanted. A token that is admitted is used up.
    ///
    /// # Errors
    /// [`Denied`], for the audit log only.
    pub fn admit(self, key: Option<&VerifyingKey>) -> Result<Admitted, Denied> {
        let evidence = self.evidence(key)?;
        self.request.check_possession()?;
        // Last, so that nobody but the holder of token and key can use the token up.
        match self.known.used.take(&self.once, self.until, self.now) {
            Taken::First => {}
            Taken::Again => return Err(Denied::Replayed),
            Taken::Full => return Err(Denied::CacheFull),
        }
        let spki_der = self.request.spki_der().to_vec();
        Ok(Admitted {
            principal: self.known.principal.clone(),
            email: self.email,
            spki_sha256: sha256(&spki_der),
            spki_der,
            evidence,
        })
    }

    /// What proves it.
    fn evidence(&self, key: Option<&VerifyingKey>) -> Result<Evidence, Denied> {
        let message = self.signed.as_bytes();
        match &self.signer {
            Signer::Keys(keys) => {
                let signed_by = signed_by(keys, message, &self.signature, self.key_id.as_deref());
                let signed_by = signed_by.ok_or(Denied::Signature)?;
                let proof = Proof::Key(signed_by.id().to_owned());
                Ok(Evidence { proof, verified_by: signed_by.spki_sha256() })
            }
            Signer::Set(_, kind) => {
                let key = key.ok_or(Denied::KeySource)?;
                if key.algorithm() != self.algorithm {
                    return Err(Denied::Algorithm);
                }
                if !key.verifies(message, &self.signature) {
                    return Err(Denied::Signature);
                }
                let proof = match kind {
                    Kind::GoogleKey => Proof::GoogleKey(self.key_id.clone().unwrap_or_default()),
                    Kind::Other(proof) => proof.clone(),
                };
                Ok(Evidence { proof, verified_by: key.spki_sha256() })
            }
        }
    }
}

/// The key that signed the message, if one did; the one that the token names is tried first, and proves nothing by that.
fn signed_by<'k>(
    keys: &'k [PublicKey],
    message: &[u8],
    signature: &[u8],
    key_id: Option<&str>,
) -> Option<&'k PublicKey> {
    let named = |key: &&PublicKey| Some(key.id()) == key_id;
    let first = keys.iter().filter(named);
    let rest = keys.iter().filter(|key| !named(key));
    first.chain(rest).find(|key| key.verifies(message, signature))
}
