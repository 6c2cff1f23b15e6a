//! Service accounts and tokens of any shape, right and wrong, for the tests of this crate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaEncoding};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_core::principal::{Principal, Role};
use ginnel_identity::key::key_id;
use ginnel_identity::{KeyPair, pem};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as Parsed;

use crate::public_key::PublicKey;

/// The moment at which the tokens of the tests are made.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) const AUDIENCE: &str = "https://tunnel.acme.example/enrol";

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn principal(role: Role, name: &str) -> Principal {
    format!("spiffe://acme.example/{role}/{name}").parse().expect("a principal")
}

pub(crate) struct Account {
    pub(crate) email: String,
    pub(crate) spki_der: Vec<u8>,
    pair: RsaKeyPair,
}

impl Account {
    pub(crate) fn new(email: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        let spki_der = spki.as_ref().to_vec();
        Self { email: email.to_owned(), spki_der, pair }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_pem(pem::encode("PUBLIC KEY", &self.spki_der).as_bytes()).expect("a public key")
    }

    /// The public half as a JSON Web Key.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        let (_, spki) = SubjectPublicKeyInfo::from_der(&self.spki_der).expect("DER");
        let Ok(Parsed::RSA(rsa)) = spki.parsed() else { panic!("RSA") };
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes.strip_prefix(&[0]).unwrap_or(bytes));
        json!({"kid": id, "kty": "RSA", "alg": "RS256", "use": "sig", "n": text(rsa.modulus), "e": text(rsa.exponent)})
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "RS256", "kid": key_id(&self.spki_der), "typ": "JWT"})
    }

    /// Right claims for this key, with a `jti` of their own.
    pub(crate) fn claims(&self, key: &KeyPair) -> Value {
        let mut jti = [0; 16];
        aws_lc_rs::rand::fill(&mut jti).expect("random");
        json!({
            "iss": self.email, "sub": self.email, "aud": AUDIENCE, "iat": NOW, "exp": NOW + 300,
            "jti": BASE64_URL_SAFE_NO_PAD.encode(jti),
            "cnf": {"spki#S256": BASE64_URL_SAFE_NO_PAD.encode(key.spki_sha256())},
        })
    }

    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.signed(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn signed(&self, header: &str, claims: &str) -> String {
        self.signed_by(&RSA_PKCS1_SHA256, header, claims)
    }

    pub(crate) fn signed_by(&self, algorithm: &'static dyn RsaEncoding, header: &str, claims: &str) -> String {
        let token = unsigned(header, claims);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(algorithm, &SystemRandom::new(), token.as_bytes(), &mut signature).expect("signed");
        format!("{token}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// A right token for this key.
    pub(crate) fn good(&self, key: &KeyPair) -> String {
        self.token(&self.header(), &self.claims(key))
    }
}

pub(crate) fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims))
}
