//! Sets of public keys, as Google and OIDC issuers publish them, and where they come from.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_identity::key::{p256_spki, sha256};
use ginnel_identity::pem;
use rustls_pki_types::pem::SectionKind;
use serde::Deserialize;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::public_key::PublicKey;
use crate::token::{Algorithm, is_published_key_id};

/// Keys of one set. Google publishes at most a dozen for an account; an issuer that changes its keys has a few.
pub const KEYS_PER_SET_MAX: usize = 64;

/// Bytes of a coordinate of a point on P-256.
const COORDINATE: usize = 32;

/// Which set of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySetId {
    /// The keys of the service account with this e-mail.
    Account(String),
    /// The keys that sign Google's ID tokens.
    Google,
    /// The keys of the OIDC issuer that the configuration calls so.
    Issuer(String),
}

/// A set of keys that was read.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<String, VerifyingKey>);

/// A key of a set.
#[derive(Clone)]
pub enum VerifyingKey {
    /// Verifies RS256.
    Rsa(PublicKey),
    /// Verifies ES256.
    P256(P256Key),
}

/// A P-256 key.
#[derive(Clone)]
pub struct P256Key {
    key: ParsedPublicKey,
    spki_sha256: [u8; 32],
}

/// Why a text is no set of keys. Whoever publishes it is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Two keys have one id.
    #[error("two keys have one id")]
    DuplicateId,
    /// Neither a JSON Web Key Set nor an object of certificates.
    #[error("neither a JSON Web Key Set nor an object of certificates")]
    Form,
    /// More keys than are taken.
    #[error("more than {KEYS_PER_SET_MAX} keys")]
    TooMany,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// The set is known and has no key of this id.
    Unknown,
    /// The set could not be had.
    Unavailable,
}

/// A key on its way.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Result<VerifyingKey, NoKey>> + Send + 'a>>;

/// Where the keys of sets come from.
pub trait KeySource: Send + Sync {
    /// The key that a set has under this id.
    fn find<'a>(&'a self, set: &'a KeySetId, key_id: &'a str) -> Finding<'a>;
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set in either form. Keys that cannot verify our tokens (other types, too weak, for other uses, without id) are passed over.
    ///
    /// # Errors
    /// [`KeySetError`] if it is no set.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        if let Ok(Jwks { keys }) = serde_json::from_slice(json) {
            return Self::collect(keys, |jwk| Ok(jwk.kid.clone().zip(jwk.key())));
        }
        let certificates: BTreeMap<String, String> = serde_json::from_slice(json).map_err(|_| KeySetError::Form)?;
        Self::collect(certificates, |(id, text)| Ok(key_of_certificate(text.as_bytes())?.map(|key| (id, key))))
    }

    fn collect<T>(
        published: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        read: impl Fn(T) -> Result<Option<(String, VerifyingKey)>, KeySetError>,
    ) -> Result<Self, KeySetError> {
        let published = published.into_iter();
        if published.len() > KEYS_PER_SET_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut keys = BTreeMap::new();
        for published in published {
            let Some((id, key)) = read(published)?.filter(|(id, _)| is_published_key_id(id)) else { continue };
            if keys.insert(id, key).is_some() {
                return Err(KeySetError::DuplicateId);
            }
        }
        Ok(Self(keys))
    }

    /// The key of this id.
    pub fn find(&self, key_id: &str) -> Option<&VerifyingKey> {
        self.0.get(key_id)
    }

    /// Whether it has no key that could verify a token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Jwk {
    fn key(&self) -> Option<VerifyingKey> {
        let is_for = |algorithm: &str| {
            self.alg.as_deref().is_none_or(|its| its == algorithm)
                && self.usage.as_deref().is_none_or(|its| its == "sig")
        };
        let number = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        match self.kty.as_str() {
            "RSA" if is_for("RS256") => {
                let key = PublicKey::from_numbers(&number(&self.n)?, &number(&self.e)?).ok()?;
                Some(VerifyingKey::Rsa(key))
            }
            "EC" if is_for("ES256") && self.crv.as_deref() == Some("P-256") => {
                let (x, y) = (number(&self.x)?, number(&self.y)?);
                if x.len() != COORDINATE || y.len() != COORDINATE {
                    return None;
                }
                let point = [&[4][..], &x, &y].concat();
                let spki_sha256 = sha256(&p256_spki(&point));
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
                Some(VerifyingKey::P256(P256Key { key, spki_sha256 }))
            }
            _ => None,
        }
    }
}

/// The key in a certificate, of which nothing else counts: the one who publishes the set says that it is good by publishing it. What is no
/// certificate is no part of a set either: an object of texts may also be an error that came with a good status.
fn key_of_certificate(pem: &[u8]) -> Result<Option<VerifyingKey>, KeySetError> {
    let der = pem::decode_one(pem, SectionKind::Certificate).ok_or(KeySetError::Form)?;
    let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| KeySetError::Form)?;
    if !rest.is_empty() {
        return Err(KeySetError::Form);
    }
    Ok(PublicKey::from_spki_der(certificate.public_key().raw).ok().map(VerifyingKey::Rsa))
}

impl VerifyingKey {
    /// The one algorithm that the key verifies.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
        }
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        match self {
            Self::Rsa(key) => key.spki_sha256(),
            Self::P256(key) => key.spki_sha256,
        }
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => key.verifies(message, signature),
            Self::P256(P256Key { key, .. }) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(key) => f.debug_tuple("Rsa").field(key).finish(),
            Self::P256(_) => f.write_str("P256"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Account;

    fn ids(json: &Value) -> Vec<String> {
        KeySet::parse(json.to_string().as_bytes()).expect("a set").ids().map(str::to_owned).collect()
    }

    #[test]
    fn passes_over_keys_that_cannot_verify_tokens() {
        let good = Account::new("a@b").jwk("good");
        let with = |name: &str, value: Value| {
            let mut jwk = good.clone();
            jwk["kid"] = json!("bad");
            jwk[name] = value;
            jwk
        };
        let weak = BASE64_URL_SAFE_NO_PAD.encode([0xc5; 128]);
        let cases = [
            ("another type", with("kty", json!("oct"))),
            ("another algorithm", with("alg", json!("RS384"))),
            ("for encryption", with("use", json!("enc"))),
            ("1024 bits", with("n", json!(weak))),
            ("exponent 1", with("e", json!("AQ"))),
            ("exponent 3", with("e", json!("Aw"))),
            ("no modulus", with("n", Value::Null)),
            ("no id", with("kid", Value::Null)),
            ("an id with a line end", with("kid", json!("a\nb"))),
            (
                "a point off the curve",
                json!({"kid": "bad", "kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)}),
            ),
            (
                "another curve",
                json!({"kid": "bad", "kty": "EC", "crv": "P-384", "x": "A".repeat(64), "y": "A".repeat(64)}),
            ),
        ];
        for (name, bad) in cases {
            assert_eq!(ids(&json!({"keys": [bad, good]})), ["good"], "{name}");
        }
    }

    #[test]
    fn a_key_is_known_by_its_subject_public_key_info() {
        let account = Account::new("a@b");
        let pair = ginnel_identity::KeyPair::generate().expect("a key");
        let point = ginnel_identity::key::p256_point(pair.spki_der()).expect("a point");
        let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (number(&point[1..33]), number(&point[33..]));
        let p256 = json!({"kid": "p", "kty": "EC", "crv": "P-256", "x": x, "y": y});
        let document = json!({"keys": [account.jwk("r"), p256]}).to_string();
        let set = KeySet::parse(document.as_bytes()).expect("a set");
        let hash = |id| set.find(id).expect("a key").spki_sha256();
        assert_eq!(hash("r"), sha256(&account.spki_der));
        assert_eq!(hash("p"), pair.spki_sha256());
    }

    #[test]
    fn refuses_what_is_no_set() {
        let good = Account::new("a@b").jwk("good");
        let cases = [
            ("", KeySetError::Form),
            ("{", KeySetError::Form),
            ("[]", KeySetError::Form),
            (r#"{"keys": 1}"#, KeySetError::Form),
            (r#"{"a": 1}"#, KeySetError::Form),
            (r#"{"error": "try again later"}"#, KeySetError::Form),
            (r#"{"a": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}"#, KeySetError::Form),
            ("<html>", KeySetError::Form),
        ];
        for (text, error) in cases {
            assert_eq!(KeySet::parse(text.as_bytes()).expect_err(text), error, "{text}");
        }
        let parse = |keys: Vec<Value>| KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).map(|_| ());
        assert_eq!(parse(vec![good.clone(); 2]), Err(KeySetError::DuplicateId));
        assert_eq!(parse(vec![good; KEYS_PER_SET_MAX + 1]), Err(KeySetError::TooMany));
    }
}
