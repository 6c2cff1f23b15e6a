//! Authorities and certificates of any shape, right and wrong, for the tests of this crate.

use std::sync::Arc;

use ginnel_core::principal::Role;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::certificate::Identity;
use crate::key::KeyPair;
use crate::oid::{INNER_INITIATOR, INNER_RESPONDER};
use crate::pem;
use crate::trust::Roots;

/// The moment at which all certificates of the tests are valid.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) struct Authority {
    name: String,
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let params = authority_params(name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { name: name.to_owned(), certificate, issuer: Arc::new(Issuer::new(params, key)) }
    }

    /// An authority that certifies other authorities, too.
    pub(crate) fn of_authorities(name: &str) -> Self {
        let mut params = authority_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { name: name.to_owned(), certificate, issuer: Arc::new(Issuer::new(params, key)) }
    }

    /// Another authority, which says of itself what this one says, key identifier included.
    pub(crate) fn impostor(&self) -> Self {
        let mut params = authority_params(&self.name);
        let (_, certificate) = X509Certificate::from_der(&self.certificate).expect("a certificate");
        let identifier = certificate.extensions().iter().find_map(|extension| {
            let ParsedExtension::SubjectKeyIdentifier(identifier) = extension.parsed_extension() else { return None };
            Some(identifier.0.to_vec())
        });
        params.key_identifier_method = KeyIdMethod::PreSpecified(identifier.expect("a key identifier"));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { name: self.name.clone(), certificate, issuer: Arc::new(Issuer::new(params, key)) }
    }

    /// The certificate of this authority's key, signed by `by`, for every purpose there is.
    pub(crate) fn vouched_for(&self, by: &Self) -> CertificateDer<'static> {
        let mut params = authority_params(&self.name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages =
            [Role::Server, Role::Agent, Role::Client].map(|role| Profile::of(role).purposes).concat();
        params.signed_by(self.issuer.key(), &by.issuer).expect("a certificate").der().clone()
    }

    /// A certificate of its own issued by this authority, leaf by its constraints, which then issues all the same.
    pub(crate) fn leaf_that_issues(&self, profile: &Profile, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = profile.params();
        params.distinguished_name = subject(name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        Self { name: name.to_owned(), certificate, issuer: Arc::new(Issuer::new(params, key)) }
    }

    pub(crate) fn pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate).to_string()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_der(vec![self.certificate.clone()]).expect("roots")
    }

    pub(crate) fn der(&self, profile: &Profile, key: &KeyPair) -> CertificateDer<'static> {
        profile.params().signed_by(key, &self.issuer).expect("a certificate").der().clone()
    }

    pub(crate) fn issue(&self, profile: &Profile) -> Identity {
        let key = KeyPair::generate().expect("a key");
        Identity::new(vec![self.der(profile, &key)], key).expect("an identity")
    }
}

/// Everything that can be wrong with a leaf.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) uris: Vec<String>,
    pub(crate) emails: Vec<String>,
    pub(crate) more_names: Vec<SanType>,
    pub(crate) subject: Option<String>,
    pub(crate) purposes: Vec<Purpose>,
    pub(crate) key_usages: Vec<KeyUsagePurpose>,
    pub(crate) is_ca: IsCa,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) serial: Vec<u8>,
    pub(crate) extensions: Vec<CustomExtension>,
}

impl Profile {
    pub(crate) fn of(role: Role) -> Self {
        let inner = |oid: &[u64]| Purpose::Other(oid.to_vec());
        let (purposes, more_names) = match role {
            Role::Server => {
                let dns = SanType::DnsName(ia5("tunnel.acme.example"));
                let ip = SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
                (vec![Purpose::ServerAuth, Purpose::ClientAuth], vec![dns, ip])
            }
            Role::Agent => (vec![Purpose::ClientAuth, inner(INNER_RESPONDER)], vec![]),
            Role::Client => (vec![Purpose::ClientAuth, inner(INNER_INITIATOR)], vec![]),
        };
        Self {
            uris: vec![format!("spiffe://acme.example/{role}/one")],
            emails: vec![format!("{role}@acme.example")],
            more_names,
            subject: None,
            purposes,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: IsCa::ExplicitNoCa,
            not_before: NOW.cast_signed() - 300,
            not_after: NOW.cast_signed() + 3600,
            serial: vec![0x0a, 0xbc],
            extensions: vec![],
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject.as_deref().map_or_else(DistinguishedName::new, subject);
        params.subject_alt_names.extend(self.emails.iter().map(|email| SanType::Rfc822Name(ia5(email))));
        params.subject_alt_names.extend(self.uris.iter().map(|uri| SanType::URI(ia5(uri))));
        params.subject_alt_names.extend(self.more_names.clone());
        params.extended_key_usages.clone_from(&self.purposes);
        params.key_usages.clone_from(&self.key_usages);
        params.is_ca = self.is_ca;
        params.not_before = OffsetDateTime::from_unix_timestamp(self.not_before).expect("a time");
        params.not_after = OffsetDateTime::from_unix_timestamp(self.not_after).expect("a time");
        params.serial_number = Some(SerialNumber::from_slice(&self.serial));
        params.custom_extensions.clone_from(&self.extensions);
        params.use_authority_key_identifier_extension = true;
        params
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).expect("ASCII")
}
