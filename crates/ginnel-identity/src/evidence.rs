//! How a certificate says what it was given for: a private extension, not critical, in DER.
//!
//! ```text
//! Evidence ::= SEQUENCE {
//!   kind        ENUMERATED { key(1), googleKey(2), googleIdToken(3), oidc(4), bearer(5) },
//!   name        UTF8String,     -- the key's id, or what the configuration calls the issuer; empty for googleIdToken
//!   about       OCTET STRING,   -- hash of issuer and subject, 32 bytes; empty for keys
//!   verifiedBy  OCTET STRING }  -- SHA-256 of the verifying key's SubjectPublicKeyInfo, 32 bytes
//! ```
//!
//! The form is closed: what would be written in another way, or says more, is malformed. A newer form has another identifier, so that older
//! programs pass it over.

use std::borrow::Cow;

use ginnel_core::evidence::{Evidence, Proof, is_name};
use x509_parser::asn1_rs::{Enumerated, FromDer as _, OctetString, Oid, Sequence, Utf8String};
use x509_parser::prelude::X509Certificate;

use crate::oid::EVIDENCE_DER;

const OCTET_STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;

/// The content of the extension; `None` if a name in it is none.
pub fn encode(evidence: &Evidence) -> Option<Vec<u8>> {
    let Evidence { proof, verified_by } = evidence;
    let (kind, name, about): (u8, &str, &[u8]) = match proof {
        Proof::Key(id) => (1, id, &[]),
        Proof::GoogleKey(id) => (2, id, &[]),
        Proof::GoogleIdToken { about } => (3, "", about),
        Proof::Oidc { issuer, about } => (4, issuer, about),
        Proof::Bearer { issuer, about } => (5, issuer, about),
    };
    if matches!(proof, Proof::GoogleIdToken { .. }) == is_name(name) {
        return None;
    }
    let parts = [
        element(ENUMERATED, &[kind])?,
        element(UTF8_STRING, name.as_bytes())?,
        element(OCTET_STRING, about)?,
        element(OCTET_STRING, verified_by)?,
    ];
    element(SEQUENCE, &parts.concat())
}

/// What [`encode`] gives for some evidence, and nothing else.
pub fn decode(der: &[u8]) -> Option<Evidence> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, kind) = Enumerated::from_der(&sequence.content).ok()?;
    let (rest, name) = Utf8String::from_der(rest).ok()?;
    let (rest, about) = OctetString::from_der(rest).ok()?;
    let (_, verified_by) = OctetString::from_der(rest).ok()?;
    let name = name.string();
    let about = || <[u8; 32]>::try_from(about.as_ref()).ok();
    let proof = match kind.0 {
        1 => Proof::Key(name),
        2 => Proof::GoogleKey(name),
        3 => Proof::GoogleIdToken { about: about()? },
        4 => Proof::Oidc { issuer: name, about: about()? },
        5 => Proof::Bearer { issuer: name, about: about()? },
        _ => return None,
    };
    let evidence = Evidence { proof, verified_by: verified_by.as_ref().try_into().ok()? };
    // One spelling, and nothing beside it.
    (encode(&evidence)? == der).then_some(evidence)
}

/// The extension of a certificate was not what it has to be.
#[derive(Debug)]
pub(crate) struct Malformed;

/// What a certificate says that it was given for; `None` if it does not.
pub(crate) fn of(certificate: &X509Certificate<'_>) -> Result<Option<Evidence>, Malformed> {
    let oid = Oid::new(Cow::Borrowed(EVIDENCE_DER));
    let extension = certificate.get_extension_unique(&oid).map_err(|_| Malformed)?;
    match extension {
        None => Ok(None),
        Some(extension) if extension.critical => Err(Malformed),
        Some(extension) => decode(extension.value).map(Some).ok_or(Malformed),
    }
}

/// An element of fewer than 256 bytes, which all are that are meant to be.
fn element(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(content.len()).ok()?;
    let head: &[u8] = if length < 0x80 { &[tag, length] } else { &[tag, 0x81, length] };
    Some([head, content].concat())
}

#[cfg(test)]
mod tests {
    use ginnel_core::evidence::NAME_MAX;

    use super::*;

    fn all() -> Vec<Evidence> {
        let (about, longest) = ([0xab; 32], "k".repeat(NAME_MAX));
        let proofs = [
            Proof::Key("a".to_owned()),
            Proof::GoogleKey(longest.clone()),
            Proof::GoogleIdToken { about },
            Proof::Oidc { issuer: "cluster".to_owned(), about },
            Proof::Bearer { issuer: longest, about },
        ];
        proofs.map(|proof| Evidence { proof, verified_by: [0xcd; 32] }).into()
    }

    #[test]
    fn reads_back_what_it_writes() {
        for evidence in all() {
            let der = encode(&evidence).expect("encoded");
            assert_eq!(decode(&der), Some(evidence), "{der:02x?}");
        }
    }

    #[test]
    fn writes_what_a_reader_of_the_documented_form_expects() {
        let evidence = Evidence { proof: Proof::GoogleKey("ab".to_owned()), verified_by: [7; 32] };
        let expected = [&b"\x30\x2b\x0a\x01\x02\x0c\x02ab\x04\x00\x04\x20"[..], &[7; 32]].concat();
        assert_eq!(encode(&evidence), Some(expected));
    }

    #[test]
    fn refuses_every_change_of_form() {
        for evidence in all() {
            let der = encode(&evidence).expect("encoded");
            for length in 0..der.len() {
                assert_eq!(decode(&der[..length]), None, "cut after {length}: {evidence:?}");
            }
            assert_eq!(decode(&[&der[..], &[0]].concat()), None, "more after it: {evidence:?}");
            for at in 0..der.len() {
                for bit in 0..8 {
                    let mut other = der.clone();
                    other[at] ^= 1 << bit;
                    // Another content is another evidence; what is taken has its one spelling.
                    let Some(read) = decode(&other) else { continue };
                    assert_ne!(read, evidence);
                    assert_eq!(encode(&read), Some(other));
                }
            }
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        for name in ["", " ", "a b", "a\n", "é", &"k".repeat(NAME_MAX + 1)] {
            let of = |proof| encode(&Evidence { proof, verified_by: [0; 32] });
            assert_eq!(of(Proof::Key(name.to_owned())), None, "{name:?}");
            assert_eq!(of(Proof::Oidc { issuer: name.to_owned(), about: [0; 32] }), None, "{name:?}");
        }
    }

    #[test]
    fn refuses_other_fields_than_the_kind_has() {
        let with = |kind: u8, name: &str, about: &[u8], verified_by: &[u8]| {
            let parts = [
                element(ENUMERATED, &[kind]),
                element(UTF8_STRING, name.as_bytes()),
                element(OCTET_STRING, about),
                element(OCTET_STRING, verified_by),
            ];
            decode(&element(SEQUENCE, &parts.map(Option::unwrap_or_default).concat()).unwrap_or_default())
        };
        assert!(with(1, "k", &[], &[0; 32]).is_some());
        let cases: [(u8, &str, &[u8], &[u8]); 9] = [
            (0, "k", &[], &[0; 32]),
            (6, "k", &[], &[0; 32]),
            (1, "k", &[0; 32], &[0; 32]),
            (2, "", &[], &[0; 32]),
            (3, "k", &[0; 32], &[0; 32]),
            (3, "", &[], &[0; 32]),
            (4, "k", &[0; 31], &[0; 32]),
            (5, "", &[0; 32], &[0; 32]),
            (1, "k", &[], &[0; 33]),
        ];
        for (kind, name, about, verified_by) in cases {
            assert_eq!(with(kind, name, about, verified_by), None, "{kind} {name:?} {about:?} {verified_by:?}");
        }
    }
}
