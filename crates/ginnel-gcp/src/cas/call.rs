//! The two calls to the service, and what their errors mean to us.

use std::error::Error;
use std::time::Duration;

use ginnel_core::id::RequestId;
use ginnel_core::principal::Role;
use ginnel_enrol::{CertificateRequest, IssueError};
use ginnel_identity::oid::{EVIDENCE, INNER_INITIATOR, INNER_RESPONDER};
use ginnel_identity::{Roots, SystemRandom, hex, pem};
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_security_privateca_v1::client::CertificateAuthorityService;
use google_cloud_security_privateca_v1::model::certificate_config::SubjectConfig;
use google_cloud_security_privateca_v1::model::key_usage::{ExtendedKeyUsageOptions, KeyUsageOptions};
use google_cloud_security_privateca_v1::model::public_key::KeyFormat;
use google_cloud_security_privateca_v1::model::x_509_parameters::CaOptions;
use google_cloud_security_privateca_v1::model::{
    Certificate, CertificateConfig, KeyUsage, ObjectId, PublicKey, Subject, SubjectAltNames, X509Extension,
    X509Parameters,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;

use super::Tier;
use crate::error::{is_transient_authentication, retry_after};

/// One try. The service signs within a second; a try that takes longer is lost, and the next one gets what it signed.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);

/// A certificate and its chain; more is no answer to what was asked.
const CHAIN_MAX: usize = 8;

/// The ids of one request, the same at every try.
#[derive(Debug)]
pub(super) struct Ids {
    /// The UUID by which the service knows a try again.
    pub(super) request: String,
    /// The name of the certificate; empty where there is none.
    certificate: String,
}

impl Ids {
    pub(super) fn draw(role: Role, tier: Tier) -> Self {
        let name = hex(&RequestId::random(&mut SystemRandom).to_bytes());
        let certificate = match tier {
            Tier::Enterprise => format!("ginnel-{role}-{name}"),
            Tier::DevOps => String::new(),
        };
        Self { request: uuid(RequestId::random(&mut SystemRandom).to_bytes()), certificate }
    }
}

/// Random bytes as a UUID of version 4 (RFC 9562, 5.4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Why a call had no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The environment: the service says that it was too much.
    #[error("the service has no capacity for it")]
    Exhausted {
        retry_after: Option<Duration>,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Configuration: the service does not do this for us.
    #[error("the service refused")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// The environment: no answer, or none that means anything.
    #[error("the service did not answer")]
    Unavailable {
        retry_after: Option<Duration>,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The service: its answer holds no certificates.
    #[error("the service's answer holds no certificates in PEM")]
    Unreadable,
}

impl CallError {
    pub(super) fn too_late() -> Self {
        Self::Unavailable { retry_after: None, source: "there was no answer in time".into() }
    }

    /// Whether the same request may be answered later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Exhausted { .. } | Self::Unavailable { .. } => true,
            Self::Refused(_) | Self::Unreadable => false,
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        match self {
            Self::Exhausted { .. } => true,
            Self::Refused(_) | Self::Unavailable { .. } | Self::Unreadable => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Exhausted { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Refused(_) | Self::Unreadable => None,
        }
    }

    pub(super) fn into_issue_error(self) -> IssueError {
        match self {
            Self::Exhausted { retry_after, source } | Self::Unavailable { retry_after, source } => {
                IssueError::Unavailable { retry_after, source }
            }
            Self::Refused(source) => IssueError::Refused(source),
            Self::Unreadable => IssueError::Unusable(Self::Unreadable.into()),
        }
    }
}

impl From<google_cloud_gax::error::Error> for CallError {
    fn from(error: google_cloud_gax::error::Error) -> Self {
        let code = error.status().map(|status| status.code);
        let http = error.http_status_code();
        let retry_after = retry_after(&error);
        let is_refused = match code {
            Some(Code::ResourceExhausted) => return Self::Exhausted { retry_after, source: error.into() },
            Some(code) => matches!(
                code,
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::PermissionDenied
                    | Code::FailedPrecondition
                    | Code::OutOfRange
                    | Code::Unimplemented
                    | Code::Unauthenticated
            ),
            None if http == Some(429) => return Self::Exhausted { retry_after, source: error.into() },
            None if error.is_authentication() => !is_transient_authentication(&error),
            None => {
                error.is_binding() || error.is_serialization() || http.is_some_and(|http| (400..500).contains(&http))
            }
        };
        let source = error.into();
        if is_refused { Self::Refused(source) } else { Self::Unavailable { retry_after, source } }
    }
}

/// Asks for a certificate, once.
pub(super) async fn create(
    service: &CertificateAuthorityService,
    pool: &str,
    request: &CertificateRequest,
    lifetime: Duration,
    ids: &Ids,
) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let call = service
        .create_certificate()
        .set_parent(pool)
        .set_certificate_id(&ids.certificate)
        .set_request_id(&ids.request)
        .set_certificate(certificate(request, lifetime)?)
        .with_retry_policy(NeverRetry)
        .with_attempt_timeout(ATTEMPT_WAIT);
    let signed = call.send().await?;
    let blocks = std::iter::once(&signed.pem_certificate).chain(&signed.pem_certificate_chain);
    decode(blocks.take(CHAIN_MAX)).ok_or(CallError::Unreadable)
}

/// Asks for the CAs of a pool, which are the first certificates of its chains: whatever is above them may be above other pools as well.
pub(super) async fn roots(
    service: &CertificateAuthorityService,
    pool: &str,
) -> Result<Roots, Box<dyn Error + Send + Sync>> {
    let call = service.fetch_ca_certs().set_ca_pool(pool).with_attempt_timeout(ATTEMPT_WAIT).with_idempotency(true);
    let answer = call.send().await?;
    let mut roots = decode(answer.ca_certs.iter().filter_map(|chain| chain.certificates.first()))
        .ok_or("the pool has no CA certificate; create and enable a CA in it")?;
    roots.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
    roots.dedup();
    Ok(Roots::from_der(roots)?)
}

/// Reads texts of one or more certificates each; `None` if there is none, or anything else.
fn decode<'a>(texts: impl Iterator<Item = &'a String>) -> Option<Vec<CertificateDer<'static>>> {
    let mut all = Vec::new();
    for text in texts {
        let blocks = pem::decode_all(text.as_bytes(), SectionKind::Certificate)?;
        all.extend(blocks.into_iter().map(CertificateDer::from));
    }
    if all.is_empty() { None } else { Some(all) }
}

/// What is asked for, spelled out.
fn certificate(request: &CertificateRequest, lifetime: Duration) -> Result<Certificate, CallError> {
    let extension = request.extension().map_err(|error| CallError::Refused(error.into()))?;
    let key = PublicKey::new().set_key(public_key(request)).set_format(KeyFormat::Pem);
    let config = CertificateConfig::new()
        .set_subject_config(
            SubjectConfig::new().set_subject(Subject::new()).set_subject_alt_name(alternative_names(request)),
        )
        .set_x509_config(
            X509Parameters::new()
                .set_key_usage(usage(request.principal.role))
                .set_ca_options(CaOptions::new().set_is_ca(false))
                .set_additional_extensions(extension.map(evidence)),
        )
        .set_public_key(key);
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    Ok(Certificate::new().set_lifetime(google_cloud_wkt::Duration::clamp(seconds, 0)).set_config(config))
}

/// The extension that says what the certificate is given for.
fn evidence(content: Vec<u8>) -> X509Extension {
    X509Extension::new().set_object_id(object_id(EVIDENCE)).set_critical(false).set_value(content)
}

fn object_id(oid: &[u64]) -> ObjectId {
    // No component is larger than what the service takes.
    let component = |part: &u64| i32::try_from(*part).unwrap_or(i32::MAX);
    ObjectId::new().set_object_id_path(oid.iter().map(component))
}

fn public_key(request: &CertificateRequest) -> Vec<u8> {
    pem::encode("PUBLIC KEY", &request.spki_der).as_bytes().to_vec()
}

fn alternative_names(request: &CertificateRequest) -> SubjectAltNames {
    let is_address = |name: &&String| name.parse::<std::net::IpAddr>().is_ok();
    let (addresses, names): (Vec<&String>, Vec<&String>) = request.server_names.iter().partition(is_address);
    SubjectAltNames::new()
        .set_email_addresses([request.email.as_str()])
        .set_uris([request.principal.to_string()])
        .set_dns_names(names)
        .set_ip_addresses(addresses)
}

fn usage(role: Role) -> KeyUsage {
    let (server_auth, inner) = match role {
        Role::Server => (true, None),
        Role::Agent => (false, Some(INNER_RESPONDER)),
        Role::Client => (false, Some(INNER_INITIATOR)),
    };
    KeyUsage::new()
        .set_base_key_usage(KeyUsageOptions::new().set_digital_signature(true))
        .set_extended_key_usage(ExtendedKeyUsageOptions::new().set_server_auth(server_auth).set_client_auth(true))
        .set_unknown_extended_key_usages(inner.map(object_id))
}
