//! What signs certificates.

use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use ginnel_core::evidence::Evidence;
use ginnel_core::principal::{Principal, Role, TrustDomain};
use ginnel_identity::evidence::encode;
use ginnel_identity::is_email;
use ginnel_identity::key::p256_point;
use ginnel_identity::trust::Roots;
use rustls_pki_types::{CertificateDer, ServerName};

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Whom it names.
    pub principal: Principal,
    /// The service account, or the server's own e-mail.
    pub email: String,
    /// The P-256 key that it is for, as a DER SubjectPublicKeyInfo.
    pub spki_der: Vec<u8>,
    /// DNS names and IP addresses under which a server is reached: at least one for a server, none for anybody else.
    pub server_names: Vec<String>,
    /// What it is given for; none for one that nobody enrolled for, such as an issuing server's own.
    pub evidence: Option<Evidence>,
    /// The end of the certificate that this one replaces, as whoever asks says; none for a first one. Only the order of those who wait
    /// depends on it.
    pub renews: Option<SystemTime>,
}

impl CertificateRequest {
    /// Checks what no issuer gives a certificate for.
    ///
    /// # Errors
    /// [`IssueError`] for the first thing that is wrong.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), IssueError> {
        if self.principal.trust_domain != *trust_domain {
            return Err(IssueError::TrustDomain { principal: self.principal.clone() });
        }
        if !is_email(&self.email) {
            return Err(IssueError::Email);
        }
        if p256_point(&self.spki_der).is_none() {
            return Err(IssueError::Key);
        }
        self.extension()?;
        let is_name = |name: &String| ServerName::try_from(name.as_str()).is_ok();
        let has_names = (self.principal.role == Role::Server) != self.server_names.is_empty();
        if has_names && self.server_names.iter().all(is_name) { Ok(()) } else { Err(IssueError::Names) }
    }

    /// The content of the extension [`ginnel_identity::oid::EVIDENCE`] that the certificate is to have, if any.
    ///
    /// # Errors
    /// [`IssueError::Evidence`].
    pub fn extension(&self) -> Result<Option<Vec<u8>>, IssueError> {
        self.evidence.as_ref().map(|evidence| encode(evidence).ok_or(IssueError::Evidence)).transpose()
    }
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf, then what leads to the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number in lower-case hexadecimal digits, as [`ginnel_identity::Leaf`] shows it.
    pub serial: String,
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The environment: the issuing CA has expired, or the clock cannot be right.
    #[error("the CA for the {role} role is not valid now")]
    Authority {
        /// Whose CA.
        role: Role,
    },
    /// The caller: the e-mail is none.
    #[error("the e-mail does not have the form name@domain")]
    Email,
    /// Us: what it is given for cannot be put into a certificate.
    #[error("what the certificate is given for has a name that is too long, or is not visible ASCII")]
    Evidence,
    /// The caller: the key is not P-256 in its usual spelling.
    #[error("the key is not a P-256 key")]
    Key,
    /// The caller: a server without a name, another role with one, or a name that is neither DNS name nor IP address.
    #[error("a server's certificate names DNS names and IP addresses, any other certificate none")]
    Names,
    /// The environment: more certificates are asked for than the issuer signs in time.
    #[error("too many certificates are asked for at once")]
    Overloaded {
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// Configuration: the issuer does not give this certificate to us, and will not if asked again.
    #[error("the issuer refused to sign the certificate")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// Us: the certificate could not be encoded or signed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// The caller: the principal belongs to another trust domain.
    #[error("{principal} is not of this issuer's trust domain")]
    TrustDomain {
        /// Which principal.
        principal: Principal,
    },
    /// The environment: the issuer cannot be reached, or did not answer in time.
    #[error("the issuer is not available")]
    Unavailable {
        /// When it is worth asking again, if the issuer knows.
        retry_after: Option<Duration>,
        /// What happened.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The issuer: what it signed is not what was asked for, and goes to nobody.
    #[error("the issuer's answer is not the certificate that was asked for")]
    Unusable(#[source] Box<dyn Error + Send + Sync>),
}

impl IssueError {
    /// The word in the audit log, in camelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Authority { .. } => "issuerExpired",
            Self::Email | Self::Evidence | Self::Key | Self::Names | Self::TrustDomain { .. } => "issuerRequest",
            Self::Overloaded { .. } => "issuerOverloaded",
            Self::Refused(_) => "issuerRefused",
            Self::Sign(_) => "issuerFailed",
            Self::Unavailable { .. } => "issuerUnavailable",
            Self::Unusable(_) => "issuerAnswer",
        }
    }

    /// When it is worth asking again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => Some(*retry_after),
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Authority { .. }
            | Self::Email
            | Self::Evidence
            | Self::Key
            | Self::Names
            | Self::Refused(_)
            | Self::Sign(_)
            | Self::TrustDomain { .. }
            | Self::Unusable(_) => None,
        }
    }
}

/// A certificate on its way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send + 'a>>;

/// Signs certificates with one CA per role.
pub trait Issuer: Send + Sync {
    /// Signs a certificate that is valid from now on.
    ///
    /// # Errors
    /// [`IssueError`]; nothing was issued then.
    fn issue<'a>(&'a self, request: &'a CertificateRequest, now: SystemTime) -> Issuing<'a>;

    /// The roots that verify the certificates of a role, as they are at the moment: asked whenever TLS settings are made.
    fn roots(&self, role: Role) -> Roots;

    /// Reads again what may have changed while the process runs, all of it or nothing, and says what is different.
    ///
    /// # Errors
    /// What is wrong; what was in use stays.
    fn reload(&self, _: SystemTime) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        Ok(Vec::new())
    }

    /// The files whose change asks for that.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}
