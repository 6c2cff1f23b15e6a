//! The public half of a service account's key, which verifies its tokens.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use ginnel_identity::file::{self, FileError};
use ginnel_identity::key::{key_id, sha256};
use ginnel_identity::pem;
use rustls_pki_types::pem::SectionKind;
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as Parsed;

/// A key of 4096 bits has 800 bytes in PEM.
const FILE_BYTES_MAX: usize = 16 * 1024;

/// Bits that are taken: below is weak, above makes every verification dear.
const BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The one public exponent that is taken. A small one invites forged paddings, a large one costs.
const EXPONENT: u64 = 65537;

/// Bytes of a modulus or exponent that are looked at.
const NUMBER_BYTES_MAX: usize = 1024;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The algorithm of an RSA key, with its empty parameters.
const RSA_ALGORITHM: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

/// Why a text is no public key that can verify tokens.
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// Configuration: the named file's content is wrong.
    #[error("{} holds no usable public key", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<PublicKeyError>,
    },
    /// Configuration: the public exponent is another one.
    #[error("the public exponent is not {EXPONENT}")]
    Exponent,
    /// The environment: the file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Configuration: not RSA, or malformed.
    #[error("not an RSA public key")]
    NotRsa,
    /// Configuration: not exactly one `PUBLIC KEY` block.
    #[error("there must be one PUBLIC KEY block in PEM, and nothing else")]
    Pem,
    /// Configuration: too few or too many bits.
    #[error("an RSA key has {} to {} bits", BITS.start(), BITS.end())]
    Size,
}

/// An RSA public key.
#[derive(Clone)]
pub struct PublicKey {
    key: ParsedPublicKey,
    id: String,
    spki_sha256: [u8; 32],
}

impl PublicKey {
    /// Reads the PEM file of [`Self::from_pem`].
    ///
    /// # Errors
    /// [`PublicKeyError`], which names the file.
    pub fn read(path: &Path) -> Result<Self, PublicKeyError> {
        let text = file::read_public(path, FILE_BYTES_MAX)?;
        Self::from_pem(&text)
            .map_err(|source| PublicKeyError::Content { path: path.to_owned(), source: Box::new(source) })
    }

    /// Takes a SubjectPublicKeyInfo in PEM, as `ginnel credentials create` and `openssl rsa -pubout` print it.
    ///
    /// # Errors
    /// [`PublicKeyError`] unless it is RSA with 2048 to 4096 bits and the exponent 65537.
    pub fn from_pem(text: &[u8]) -> Result<Self, PublicKeyError> {
        let der = pem::decode_one(text, SectionKind::PublicKey).ok_or(PublicKeyError::Pem)?;
        Self::from_spki_der(&der)
    }

    /// Takes modulus and exponent, as a JSON Web Key has them.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub(crate) fn from_numbers(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        // Longer ones are refused all the same, but a length has two bytes here.
        if modulus.len() > NUMBER_BYTES_MAX || exponent.len() > NUMBER_BYTES_MAX {
            return Err(PublicKeyError::Size);
        }
        let numbers = [integer(modulus), integer(exponent)].concat();
        let key = [&[0][..], &tlv(SEQUENCE, &numbers)].concat();
        Self::from_spki_der(&tlv(SEQUENCE, &[RSA_ALGORITHM, &tlv(BIT_STRING, &key)].concat()))
    }

    /// Takes a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub(crate) fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| PublicKeyError::NotRsa)?;
        if !rest.is_empty() || spki.algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
            return Err(PublicKeyError::NotRsa);
        }
        let Ok(Parsed::RSA(rsa)) = spki.parsed() else { return Err(PublicKeyError::NotRsa) };
        let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        if !BITS.contains(&bits) {
            return Err(PublicKeyError::Size);
        }
        if rsa.try_exponent().ok() != Some(EXPONENT) {
            return Err(PublicKeyError::Exponent);
        }
        let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).map_err(|_| PublicKeyError::NotRsa)?;
        Ok(Self { key, id: key_id(der), spki_sha256: sha256(der) })
    }

    /// The name that the key has if we made it; Google's keys have others.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }

    /// Whether this key signed the message, by RS256.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

/// An unsigned number in DER.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    tlv(
        INTEGER,
        &[&[0][..usize::from(bytes.get(start).is_none_or(|first| first & 0x80 != 0))], &bytes[start..]].concat(),
    )
}

/// Content of up to 65,535 bytes with tag and length, in the shortest spelling.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match (high, low) {
        (0, ..0x80) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        (_, _) => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    fn pem_of(der: &[u8]) -> String {
        pem::encode("PUBLIC KEY", der).to_string()
    }

    fn rsa(size: KeySize) -> Vec<u8> {
        let pair = KeyPair::generate(size).expect("a key");
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        der.as_ref().to_vec()
    }

    /// A SubjectPublicKeyInfo of any modulus and exponent.
    fn made_up(modulus_bytes: usize, exponent: &[u8]) -> Vec<u8> {
        fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
            let length = u16::try_from(content.len()).expect("short").to_be_bytes();
            [&[tag, 0x82][..], &length, content].concat()
        }
        let modulus = [&[0][..], &vec![0xc5; modulus_bytes]].concat();
        let key = tlv(0x30, &[tlv(2, &modulus), tlv(2, exponent)].concat());
        let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        tlv(0x30, &[&algorithm[..], &tlv(3, &[&[0][..], &key].concat())].concat())
    }

    #[test]
    fn takes_rsa_keys_of_usual_sizes() {
        let der = rsa(KeySize::Rsa2048);
        let key = PublicKey::from_pem(pem_of(&der).as_bytes()).expect("a key");
        assert_eq!(key.id(), key_id(&der));
        assert!(!key.verifies(b"message", b"signature"));
    }

    #[test]
    fn refuses_every_other_key() {
        let p256 = ginnel_identity::KeyPair::generate().expect("a key");
        let good = rsa(KeySize::Rsa2048);
        let trailing = [good.as_slice(), &[0]].concat();
        let cases = [
            ("no PEM", String::new(), "PEM"),
            ("a private key", pem::encode("PRIVATE KEY", &good).to_string(), "PEM"),
            ("two keys", pem_of(&good).repeat(2), "PEM"),
            ("P-256", pem_of(p256.spki_der()), "not an RSA"),
            ("trailing bytes", pem_of(&trailing), "not an RSA"),
            ("no DER", pem_of(b"key"), "not an RSA"),
            ("1024 bits", pem_of(&made_up(128, &[1, 0, 1])), "bits"),
            ("8192 bits", pem_of(&made_up(1024, &[1, 0, 1])), "bits"),
            ("16384 bits", pem_of(&made_up(2048, &[1, 0, 1])), "bits"),
            ("exponent 1", pem_of(&made_up(256, &[1])), "exponent"),
            ("exponent 3", pem_of(&made_up(256, &[3])), "exponent"),
            ("an exponent of 1024 bytes", pem_of(&made_up(256, &[5; 1024])), "exponent"),
        ];
        for (name, text, words) in cases {
            let error = PublicKey::from_pem(text.as_bytes()).expect_err(name);
            assert!(error.to_string().contains(words), "{name}: {error}");
        }
    }

    #[test]
    fn names_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.pub.pem");
        assert!(PublicKey::read(&path).expect_err("missing").to_string().contains("agent.pub.pem"));
        std::fs::write(&path, "nothing").expect("written");
        assert!(PublicKey::read(&path).expect_err("empty").to_string().contains("agent.pub.pem"));
    }
}
