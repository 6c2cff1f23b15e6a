//! Whom a certificate names, and a certificate together with its key.
//!
//! [`Leaf::parse`] judges form only. Whether the certificate may be believed is decided by the verifiers of [`crate::tls`].

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_core::denial::Shown;
use ginnel_core::evidence::Evidence;
use ginnel_core::principal::{InvalidPrincipal, Principal, is_email};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

use crate::key::{KeyPair, sha256};
use crate::{evidence, hex};

/// RFC 5280, 4.1.2.2: conforming authorities use at most 20 octets.
const SERIAL_BYTES_MAX: usize = 20;

/// Why a certificate does not have the form of a leaf of Ginnel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Peer or issuer: the basic constraints do not say that this is no CA.
    #[error("the certificate may issue others")]
    Authority,
    /// Peer or issuer: there is not exactly one e-mail among the alternative names, or it is malformed.
    #[error("the certificate does not name exactly one e-mail")]
    Email,
    /// Us or issuer: there is no certificate at all.
    #[error("no certificate")]
    Empty,
    /// Peer or issuer: the extension that says what the certificate was given for is there twice, critical, or malformed.
    #[error("the certificate's extension that says what it was given for is malformed")]
    Evidence,
    /// Us: the certificate is for another key.
    #[error("the certificate is not for this key")]
    KeyMismatch,
    /// Peer or issuer: the key usage is not that of a leaf.
    #[error("the certificate's key usage is not digitalSignature alone")]
    KeyUsage,
    /// Peer: not a certificate in DER.
    #[error("the certificate is malformed")]
    Malformed,
    /// Peer or issuer: the alternative names are missing, malformed, of other kinds, or not critical although there is no subject.
    #[error("the certificate's alternative names are not those of a leaf")]
    Names,
    /// Peer or issuer: the one URI is no principal.
    #[error("the certificate's URI is no principal")]
    Principal(#[source] InvalidPrincipal),
    /// Peer or issuer: the serial number is not positive or too long.
    #[error("the certificate's serial number is not a positive number of at most 20 bytes")]
    Serial,
    /// Peer or issuer: there is not exactly one URI among the alternative names.
    #[error("the certificate does not name exactly one URI")]
    Uri,
    /// Peer or issuer: a date before 1970 or beyond what a clock can show.
    #[error("the certificate's validity is out of range")]
    Validity,
}

/// What a leaf certificate says.
///
/// The principal is the URI; the e-mail is what the issuer put beside it, and who uses it must compare it with the
/// configured one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Who.
    pub principal: Principal,
    /// The service account's e-mail.
    pub email: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity; the certificate is valid up to and including this second.
    pub not_after: SystemTime,
    /// Serial number in lower-case hexadecimal digits, without leading zero bytes.
    pub serial: String,
    /// SHA-256 of the whole certificate.
    pub sha256: [u8; 32],
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// What it was given for, if it says so.
    pub evidence: Option<Evidence>,
}

impl Leaf {
    /// Reads a leaf: exactly one URI, which is a principal; exactly one e-mail; no CA; key usage digitalSignature and nothing that signs
    /// certificates; alternative names critical if the subject is empty; what it was given for in its one form, or not at all.
    ///
    /// # Errors
    /// [`CertificateError`] for the first thing that is different.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        check_usage(&certificate)?;
        let (uri, email) = names(&certificate)?;
        let principal = uri.parse().map_err(CertificateError::Principal)?;
        let validity = certificate.validity();
        Ok(Self {
            principal,
            email: email.to_owned(),
            not_before: system_time(validity.not_before)?,
            not_after: system_time(validity.not_after)?,
            serial: serial(certificate.raw_serial())?,
            sha256: sha256(der),
            spki_sha256: sha256(certificate.public_key().raw),
            evidence: evidence::of(&certificate).map_err(|_| CertificateError::Evidence)?,
        })
    }

    /// What of it a denial may name.
    pub fn shown(&self) -> Shown {
        Shown {
            principal: self.principal.clone(),
            email: self.email.clone(),
            serial: self.serial.clone(),
            key: self.spki_sha256,
            evidence: self.evidence.clone(),
            source: None,
        }
    }

    /// The same on a connection from `source`.
    pub fn shown_from(&self, source: IpAddr) -> Shown {
        Shown { source: Some(source), ..self.shown() }
    }

    /// Whether the certificate is valid by a clock that says `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let constraints = certificate.basic_constraints().map_err(|_| CertificateError::Malformed)?;
    if constraints.is_none_or(|constraints| constraints.value.ca) {
        return Err(CertificateError::Authority);
    }
    let usage = certificate.key_usage().map_err(|_| CertificateError::Malformed)?.ok_or(CertificateError::KeyUsage)?;
    let usage_is_leaf = usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign();
    if usage_is_leaf { Ok(()) } else { Err(CertificateError::KeyUsage) }
}

fn names<'a>(certificate: &'a X509Certificate<'_>) -> Result<(&'a str, &'a str), CertificateError> {
    let names =
        certificate.subject_alternative_name().map_err(|_| CertificateError::Names)?.ok_or(CertificateError::Names)?;
    if certificate.subject().iter().next().is_none() && !names.critical {
        return Err(CertificateError::Names);
    }
    let (mut uri, mut email) = (None, None);
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(text) if uri.is_none() => uri = Some(*text),
            GeneralName::URI(_) => return Err(CertificateError::Uri),
            GeneralName::RFC822Name(text) if email.is_none() => email = Some(*text),
            GeneralName::RFC822Name(_) => return Err(CertificateError::Email),
            GeneralName::DNSName(_) | GeneralName::IPAddress(_) => {}
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => return Err(CertificateError::Names),
        }
    }
    let uri = uri.ok_or(CertificateError::Uri)?;
    let email = email.filter(|email| is_email(email)).ok_or(CertificateError::Email)?;
    Ok((uri, email))
}

fn system_time(time: ASN1Time) -> Result<SystemTime, CertificateError> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| CertificateError::Validity)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(CertificateError::Validity)
}

fn serial(raw: &[u8]) -> Result<String, CertificateError> {
    let negative = raw.first().is_none_or(|first| first & 0x80 != 0);
    let digits = raw.iter().position(|&byte| byte != 0).map(|start| &raw[start..]);
    match digits {
        Some(digits) if !negative && raw.len() <= SERIAL_BYTES_MAX => Ok(hex(digits)),
        Some(_) | None => Err(CertificateError::Serial),
    }
}

/// A certificate chain with its key: what this process proves itself with. Cloning is cheap.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    certified: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl Identity {
    /// Puts a chain, leaf first, and its key together.
    ///
    /// # Errors
    /// [`CertificateError`] if the chain is empty, its first certificate is no leaf, or the key is another one's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, CertificateError> {
        let leaf = Leaf::parse(chain.first().ok_or(CertificateError::Empty)?)?;
        let certified = CertifiedKey::new(chain, key.signing_key());
        certified.keys_match().map_err(|error| {
            let mismatch = matches!(error, rustls::Error::InconsistentKeys(_));
            if mismatch { CertificateError::KeyMismatch } else { CertificateError::Malformed }
        })?;
        Ok(Self(Arc::new(Inner { certified: Arc::new(certified), leaf })))
    }

    /// What the certificate says.
    pub fn leaf(&self) -> &Leaf {
        &self.0.leaf
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.0.certified.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("leaf", &self.0.leaf).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
