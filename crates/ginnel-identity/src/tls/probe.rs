//! Looks at who answers, for people who want to know why a connection does not come up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::verify::{Algorithms, ByName, only_tls13, tls13_signatures};
use super::{OUTER_ALPN, TlsError, by_name, client_builder, hardened_client, provider};
use crate::hex;
use crate::key::sha256;
use crate::trust::Roots;

/// Most certificates of a chain that are kept to be shown.
const CHAIN_MAX: usize = 8;

/// Most names of a certificate that are shown.
const NAMES_MAX: usize = 8;

/// A verifier that remembers what it was shown. Its verdicts are those of the ordinary one.
#[derive(Debug)]
pub struct Probe {
    algorithms: Algorithms,
    verifier: Arc<ByName>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

/// Sets up an agent's or client's end of the outer TLS without a certificate, and remembers who answered, accepted or not.
///
/// # Errors
/// [`TlsError`] if the roots cannot be used.
pub fn probing_client(server: &Roots) -> Result<(Arc<ClientConfig>, Arc<Probe>), TlsError> {
    let algorithms = Algorithms::new();
    let probe = Arc::new(Probe { algorithms, verifier: by_name(server)?, seen: Mutex::default() });
    let config = client_builder()?.dangerous().with_custom_certificate_verifier(probe.clone()).with_no_client_auth();
    Ok((Arc::new(hardened_client(config, OUTER_ALPN)), probe))
}

impl Probe {
    /// The certificates that were shown, leaf first; none if it did not come to that.
    pub fn presented(&self) -> Vec<CertificateDer<'static>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Probe {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).take(CHAIN_MAX);
        let chain = chain.map(|certificate| certificate.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    tls13_signatures!();
}

/// What any certificate says of itself, believed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for, as a distinguished name; often empty.
    pub subject: String,
    /// Who says to have signed it.
    pub issuer: String,
    /// Its DNS names and URIs.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// SHA-256 of the whole certificate in hexadecimal digits.
    pub sha256: String,
}

impl Facts {
    /// Reads a certificate; `None` if it is malformed.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
            GeneralName::RFC822Name(_)
            | GeneralName::IPAddress(_)
            | GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        });
        let moment = |seconds: i64| {
            let seconds = u64::try_from(seconds).ok()?;
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.take(NAMES_MAX).collect(),
            not_before: moment(certificate.validity().not_before.timestamp())?,
            not_after: moment(certificate.validity().not_after.timestamp())?,
            sha256: hex(&sha256(der)),
        })
    }
}

/// Whether one of the roots signed this chain, whatever the time is.
pub fn is_signed_by(chain: &[CertificateDer<'_>], roots: &Roots) -> bool {
    let Some((leaf, more)) = chain.split_first() else { return false };
    let (Some(facts), Ok(certificate)) = (Facts::read(leaf), EndEntityCert::try_from(leaf)) else { return false };
    let began = facts.not_before.duration_since(UNIX_EPOCH).unwrap_or_default();
    let algorithms = provider().signature_verification_algorithms.all;
    let at = UnixTime::since_unix_epoch(began);
    certificate.verify_for_usage(algorithms, roots.anchors(), more, at, KeyUsage::server_auth(), None, None).is_ok()
}

/// Whether a certificate is for this name.
pub fn is_for(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    EndEntityCert::try_from(leaf).is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
}
