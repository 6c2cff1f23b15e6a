//! The certificate request: a public key and proof of its possession, and nothing that is believed.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use ginnel_identity::key::p256_point;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use crate::verdict::Denied;

/// A request that was read, and whose proof is still to be checked.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    parsed: X509CertificationRequest<'a>,
}

impl<'a> Request<'a> {
    /// Reads a request. The subject is ignored; attributes are refused, because they can only ask for what is never given (names, key
    /// purposes, the right to issue), and who asks either is confused about the protocol or tries it on.
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Denied> {
        let (rest, parsed) = X509CertificationRequest::from_der(der).map_err(|_| Denied::Csr)?;
        let info = &parsed.certification_request_info;
        if !rest.is_empty() || info.version != X509Version::V1 || !info.attributes().is_empty() {
            return Err(Denied::Csr);
        }
        let request = Self { parsed };
        request.point()?;
        Ok(request)
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    pub(crate) fn spki_der(&self) -> &[u8] {
        self.parsed.certification_request_info.subject_pki.raw
    }

    /// Checks that whoever made the request has the private key.
    pub(crate) fn check_possession(&self) -> Result<(), Denied> {
        let algorithm = &self.parsed.signature_algorithm;
        let signature = &self.parsed.signature_value;
        let is_ecdsa = algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256 && algorithm.parameters.is_none();
        if !is_ecdsa || signature.unused_bits != 0 {
            return Err(Denied::Possession);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.point()?)
            .verify(self.parsed.certification_request_info.raw, &signature.data)
            .map_err(|_| Denied::Possession)
    }

    fn point(&self) -> Result<&[u8], Denied> {
        p256_point(self.spki_der()).ok_or(Denied::Key)
    }
}
