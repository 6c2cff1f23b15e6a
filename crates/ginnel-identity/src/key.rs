//! The fresh key that a certificate is for. It lives in memory only: nothing here can write, print or send it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::SignatureScheme;
use rustls::sign::{Signer, SigningKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;

/// Why a key could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Us: the cryptographic library could not make a key.
    #[error("cannot make a P-256 key")]
    Generate,
    /// Us: the cryptographic library could not sign the request.
    #[error("cannot sign the certificate request")]
    Request(#[source] rcgen::Error),
}

/// A P-256 key pair that was made in this process and never leaves it.
#[derive(Clone)]
pub struct KeyPair {
    pair: Arc<EcdsaKeyPair>,
    spki_der: Arc<[u8]>,
}

// rustls wants `Debug` of what signs; it is written by hand below. What is inside has no way out at all.
crate::never_implements!(KeyPair: fmt::Display, serde::Serialize);

impl KeyPair {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the cryptographic library fails.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        let spki_der = p256_spki(pair.public_key().as_ref()).into();
        Ok(Self { pair: Arc::new(pair), spki_der })
    }

    /// Makes the certificate request that `Enrol` takes: this public key and proof of its possession, with empty subject and no
    /// attributes, because the server believes nothing else.
    ///
    /// # Errors
    /// [`KeyError::Request`] if the cryptographic library fails.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(self).map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of [`Self::spki_der`]: what a token is bound to.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.spki_der)
    }

    /// The key as rustls signs with it.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        Arc::new(self.clone())
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.pair.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("spki_sha256", &crate::hex(&self.spki_sha256())).finish_non_exhaustive()
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).ok_or(rcgen::Error::RingUnspecified)
    }
}

impl SigningKey for KeyPair {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&Signer::scheme(self)).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&*self.spki_der))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl Signer for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signature(message).ok_or_else(|| rustls::Error::General("cannot sign".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// What stands before the point in the SubjectPublicKeyInfo of an uncompressed key on the named curve P-256.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Bytes of an uncompressed P-256 point.
const P256_POINT: usize = 65;

/// The SubjectPublicKeyInfo of a P-256 key with this uncompressed point.
pub fn p256_spki(point: &[u8]) -> Vec<u8> {
    [P256_SPKI_PREFIX.as_slice(), point].concat()
}

/// The uncompressed point of a P-256 SubjectPublicKeyInfo in its one DER spelling; `None` for every other key and every other spelling
/// (compressed, explicit parameters, trailing bytes). Whether the point lies on the curve is found out by using it.
pub fn p256_point(spki_der: &[u8]) -> Option<&[u8]> {
    let point = spki_der.strip_prefix(&P256_SPKI_PREFIX)?;
    (point.len() == P256_POINT && point[0] == 4).then_some(point)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The name of a signing key that we made (`kid`, `private_key_id`): 40 hexadecimal digits of the hash of its SubjectPublicKeyInfo, in
/// the form that Google's names have.
pub fn key_id(spki_der: &[u8]) -> String {
    crate::hex(&sha256(spki_der)[..20])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_prove_possession_and_ask_for_nothing() {
        let key = KeyPair::generate().expect("a key");
        let csr = key.csr().expect("a request");
        assert!(csr.windows(key.spki_der().len()).any(|window| window == key.spki_der()));
        assert!(csr.len() < 300, "{}", csr.len());
        assert!(p256_point(key.spki_der()).is_some());
        assert_ne!(KeyPair::generate().expect("a key").spki_sha256(), key.spki_sha256());
    }

    #[test]
    fn takes_one_spelling_of_a_key_only() {
        let key = KeyPair::generate().expect("a key");
        let good = key.spki_der().to_vec();
        let compressed = {
            let mut point = vec![2];
            point.extend(&good[27..59]);
            p256_spki(&point)
        };
        let infinity = p256_spki(&[0]);
        let trailing = [good.as_slice(), &[0]].concat();
        let mut other_curve = good.clone();
        other_curve[22] = 6;
        for bad in [compressed, infinity, trailing, other_curve, good[1..].to_vec(), Vec::new()] {
            assert_eq!(p256_point(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let key = KeyPair::generate().expect("a key");
        let text = format!("{key:?} {:?}", key.signing_key());
        assert!(text.contains("KeyPair") && !text.contains("EcdsaKeyPair"), "{text}");
    }
}
