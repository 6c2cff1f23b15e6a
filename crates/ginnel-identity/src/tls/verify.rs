//! The verifiers that stock TLS does not have: by role, by private key purpose, by exact principal.

use std::sync::Arc;

use ginnel_core::principal::{Principal, Role, TrustDomain};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::Leaf;
use crate::oid::{CLIENT_AUTH_DER, INNER_INITIATOR_DER, INNER_RESPONDER_DER, SERVER_AUTH_DER};
use crate::tls::{CurrentIdentity, CurrentTrust, provider};
use crate::trust::{CurrentRoots, Roots};

mod proven;

use proven::Proven;

/// Certificates that a peer may send beside its leaf. The issuing CAs are the anchors, so that none is needed, and one leads from a new root
/// to the one that it replaces; the other is for an issuing CA below a root of somebody else's. Path building stays cheap.
pub const INTERMEDIATES_MAX: usize = 2;

/// Why a certificate that leads to an anchor is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    /// Its URI names another principal than was meant.
    #[error("the certificate is for another principal")]
    Principal,
    /// Its URI names another role than its issuer certifies.
    #[error("the certificate's role is not that of its issuer")]
    Role,
    /// Its URI lies in another trust domain.
    #[error("the certificate is of another trust domain")]
    TrustDomain,
    /// It came with more certificates than make sense.
    #[error("the certificate chain is too long")]
    Length,
}

/// The methods of a verifier, of either trait, that have nothing to do with whose certificate it is. Needs a field `algorithms`.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(only_tls13())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.algorithms.signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.schemes()
        }
    };
}

pub(super) use tls13_signatures;

/// The algorithms that signatures are verified with.
#[derive(Debug)]
pub(super) struct Algorithms {
    supported: WebPkiSupportedAlgorithms,
    /// The same, where the same certificates come again and again.
    proven: Vec<Proven>,
}

impl Algorithms {
    pub(super) fn new() -> Self {
        Self { supported: provider().signature_verification_algorithms, proven: Vec::new() }
    }

    /// Those of a verifier that is asked about the same few certificates for each session.
    fn remembering() -> Self {
        let supported = provider().signature_verification_algorithms;
        Self { supported, proven: Proven::all(&supported) }
    }

    /// Verifies that a leaf leads to one of the anchors, is valid now and names this key purpose; an absent list of purposes is not
    /// taken for all of them.
    fn path(
        &self,
        roots: &Roots,
        purpose: &'static [u8],
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        short_enough(intermediates)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(tls_error)?;
        let usage = KeyUsage::required(purpose);
        let proven: Vec<_> = self.proven.iter().map(|proven| proven as &dyn SignatureVerificationAlgorithm).collect();
        certificate
            .verify_for_usage(
                if proven.is_empty() { self.supported.all } else { &proven },
                roots.anchors(),
                intermediates,
                now,
                usage,
                None,
                Some(&|path| {
                    // webpki does not keep an anchor's own bound, so that a CA that may certify leaves only could be given a longer path.
                    let longest = roots.path_length_max(path.anchor());
                    let fits = longest.is_none_or(|longest| path.intermediate_certificates().count() <= longest);
                    if fits { Ok(()) } else { Err(webpki::Error::PathLenConstraintViolated) }
                }),
            )
            .map(|_| ())
            .map_err(tls_error)
    }

    pub(super) fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.supported)
    }

    pub(super) fn schemes(&self) -> Vec<SignatureScheme> {
        self.supported.supported_schemes()
    }
}

/// Verifies that a leaf leads to one of these roots and may be used for all that its role does: what every peer is going to ask of it.
///
/// # Errors
/// What the first of those peers would have against it.
pub fn leads_to(
    roots: &Roots,
    leaf: &CertificateDer<'_>,
    more: &[CertificateDer<'_>],
    role: Role,
    at: UnixTime,
) -> Result<(), Error> {
    let purposes: [&[u8]; 2] = match role {
        Role::Server => [SERVER_AUTH_DER, CLIENT_AUTH_DER],
        Role::Agent => [CLIENT_AUTH_DER, INNER_RESPONDER_DER],
        Role::Client => [CLIENT_AUTH_DER, INNER_INITIATOR_DER],
    };
    let algorithms = Algorithms::new();
    purposes.into_iter().try_for_each(|purpose| algorithms.path(roots, purpose, leaf, more, at))
}

/// Verifies who answers as the server: in the stock way, by the name that was meant.
#[derive(Debug)]
pub(super) struct ByName {
    ordinary: Arc<WebPkiServerVerifier>,
    algorithms: Algorithms,
}

impl ByName {
    pub(super) fn new(ordinary: Arc<WebPkiServerVerifier>) -> Self {
        Self { ordinary, algorithms: Algorithms::new() }
    }
}

impl ServerCertVerifier for ByName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        short_enough(intermediates)?;
        self.ordinary.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    tls13_signatures!();
}

/// Verifies who connects to a server: by the anchors of each role, which must be the role that the certificate's URI names.
#[derive(Debug)]
pub(super) struct OuterClients {
    algorithms: Algorithms,
    identity: CurrentIdentity,
    trust: CurrentTrust,
}

impl OuterClients {
    pub(super) fn new(identity: CurrentIdentity, trust: CurrentTrust) -> Self {
        Self { algorithms: Algorithms::new(), identity, trust }
    }

    fn verify(&self, leaf: &CertificateDer<'_>, more: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let trust = self.trust.now();
        let anchors = [
            (Role::Agent, Some(&trust.agent)),
            (Role::Client, Some(&trust.client)),
            (Role::Server, trust.server.as_ref()),
        ];
        let mut verified_as = Vec::new();
        let mut error = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for (role, roots) in anchors {
            let Some(roots) = roots else { continue };
            match self.algorithms.path(roots, CLIENT_AUTH_DER, leaf, more, now) {
                Ok(()) => verified_as.push(role),
                // What the right issuer's anchors have against it says more than that the others do not know it.
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(other) => error = other,
            }
        }
        if verified_as.is_empty() {
            return Err(error);
        }
        let leaf = parse(leaf)?;
        if !verified_as.contains(&leaf.principal.role) {
            return Err(refused(Mismatch::Role));
        }
        match self.identity.get() {
            Some(own) if own.leaf().principal.trust_domain != leaf.principal.trust_domain => {
                Err(refused(Mismatch::TrustDomain))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl ClientCertVerifier for OuterClients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

/// Verifies who opens a session at an agent: a client of the agent's own trust domain.
#[derive(Debug)]
pub(super) struct InnerClients {
    algorithms: Algorithms,
    clients: CurrentRoots,
    trust_domain: TrustDomain,
}

impl InnerClients {
    pub(super) fn new(clients: CurrentRoots, trust_domain: TrustDomain) -> Self {
        Self { algorithms: Algorithms::remembering(), clients, trust_domain }
    }

    /// What the certificate says, if it is that of such a client.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Leaf, Error> {
        self.algorithms.path(&self.clients.now(), INNER_INITIATOR_DER, end_entity, intermediates, now)?;
        let leaf = parse(end_entity)?;
        if leaf.principal.role != Role::Client {
            return Err(refused(Mismatch::Role));
        }
        if leaf.principal.trust_domain != self.trust_domain {
            return Err(refused(Mismatch::TrustDomain));
        }
        Ok(leaf)
    }
}

impl ClientCertVerifier for InnerClients {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

/// Verifies who answers a client inside a session: the one agent that was meant.
#[derive(Debug)]
pub(super) struct InnerAgent {
    algorithms: Algorithms,
    agents: CurrentRoots,
    expected: Principal,
}

impl InnerAgent {
    pub(super) fn new(agents: CurrentRoots, expected: Principal) -> Self {
        Self { algorithms: Algorithms::remembering(), agents, expected }
    }

    /// What the certificate says, if it is that of this agent.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Leaf, Error> {
        self.algorithms.path(&self.agents.now(), INNER_RESPONDER_DER, end_entity, intermediates, now)?;
        let leaf = parse(end_entity)?;
        if leaf.principal == self.expected { Ok(leaf) } else { Err(refused(Mismatch::Principal)) }
    }
}

impl ServerCertVerifier for InnerAgent {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|_| ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

fn short_enough(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.len() > INTERMEDIATES_MAX { Err(refused(Mismatch::Length)) } else { Ok(()) }
}

pub(super) fn parse(certificate: &CertificateDer<'_>) -> Result<Leaf, Error> {
    Leaf::parse(certificate).map_err(refused)
}

pub(super) fn only_tls13() -> Error {
    Error::General("only TLS 1.3 is spoken".to_owned())
}

pub(super) fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

fn tls_error(error: webpki::Error) -> Error {
    // The variants decide which alert the peer sees and what the log says; what has none of its own goes along as it is.
    if matches!(error, webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_)) {
        return CertificateError::BadEncoding.into();
    }
    if matches!(error, webpki::Error::InvalidSignatureForPublicKey) {
        return CertificateError::BadSignature.into();
    }
    if matches!(error, webpki::Error::RequiredEkuNotFoundContext(_)) {
        return CertificateError::InvalidPurpose.into();
    }
    if matches!(error, webpki::Error::UnknownIssuer) {
        return CertificateError::UnknownIssuer.into();
    }
    if let webpki::Error::CertExpired { time, not_after } = error {
        return CertificateError::ExpiredContext { time, not_after }.into();
    }
    if let webpki::Error::CertNotValidYet { time, not_before } = error {
        return CertificateError::NotValidYetContext { time, not_before }.into();
    }
    refused(error)
}
