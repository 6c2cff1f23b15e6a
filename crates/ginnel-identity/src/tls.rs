//! How the outer TLS (to and from the server) and the inner TLS (between client and agent) are set up.
//!
//! All of it is TLS 1.3 on aws-lc-rs with the hybrid X25519MLKEM768 first. There is no early data anywhere. No setting made here resumes by
//! itself: a resumed handshake skips the verifier and would let an expired or revoked certificate back in. Inner handshakes resume through
//! [`Initiators`] and [`Responder`] only, which verify again. Nothing logs secrets.
//!
//! | connection | who proves what | accepted |
//! |---|---|---|
//! | outer, enrolment alone | nothing | everybody |
//! | outer, server | client certificate optional | clientAuth, by the anchors of the role that its URI names |
//! | outer, client | `server.name` | serverAuth, by the anchors of the server |
//! | inner, client | the agent that was meant | inner-responder, by the anchors of the agents, URI equal |
//! | inner, agent | some client of the same trust domain | inner-initiator, by the anchors of the clients |

use std::sync::Arc;

use ginnel_core::principal::{Principal, Role};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::certificate::{CertificateError, Identity, Leaf};
use crate::trust::{CurrentRoots, Roots};

mod current;
mod probe;
mod proxy;
mod resume;
mod verify;

#[cfg(test)]
mod tests;

pub use current::{CurrentIdentity, CurrentTrust};
pub use probe::{Facts, Probe, is_for, is_signed_by, probing_client};
pub use proxy::proxy_client;
pub use resume::{Handshake, Initiating, Initiators, Responder, Responding, Verified};
pub use verify::{INTERMEDIATES_MAX, leads_to};

/// Application protocol of the outer TLS: HTTP/2, which carries gRPC.
pub const OUTER_ALPN: &[u8] = b"h2";

/// Application protocol of the inner TLS.
pub const INNER_ALPN: &[u8] = b"ginnel-e2e/1";

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Configuration: the name to verify is neither a DNS name nor an IP address.
    #[error("the server's name is neither a DNS name nor an IP address")]
    Name,
    /// Us: an identity or an expectation is of a role that has no place at this end.
    #[error("a {found} where there must be {expected}")]
    Role {
        /// Which role belongs here.
        expected: Role,
        /// Which role was given.
        found: Role,
    },
    /// Us: rustls does not accept the protocol version and the algorithms.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
    /// Configuration: the roots of the server are not usable.
    #[error("cannot use the roots of the server")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
}

/// Whose certificates a server accepts, by role.
#[derive(Clone, Debug)]
pub struct OuterTrust {
    /// Issuers of agents.
    pub agent: Roots,
    /// Issuers of clients.
    pub client: Roots,
    /// Issuers of other servers, if there are any.
    pub server: Option<Roots>,
}

/// Sets up the server's end of the outer TLS.
///
/// A client certificate is optional, because enrolment has none; one that is shown must be right, or the handshake fails. Who is at the
/// other end is what [`peer_leaf`] says. The certificate that the server shows is the one that `identity` holds at that moment; without one
/// every handshake fails. A [`CurrentTrust`] that is changed afterwards counts from the next handshake on.
///
/// # Errors
/// [`TlsError::Setup`] if rustls refuses the combination.
pub fn outer_server(identity: &CurrentIdentity, trust: impl Into<CurrentTrust>) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = verify::OuterClients::new(identity.clone(), trust.into());
    let builder =
        server_builder()?.with_client_cert_verifier(Arc::new(verifier)).with_cert_resolver(Arc::new(identity.clone()));
    Ok(Arc::new(hardened_server(builder, OUTER_ALPN)))
}

/// Sets up the end of a process that only enrols: nobody is asked for a certificate. The one that it shows is as with [`outer_server`].
///
/// # Errors
/// [`TlsError::Setup`] if rustls refuses the combination.
pub fn outer_server_for_strangers(identity: &CurrentIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = server_builder()?.with_no_client_auth().with_cert_resolver(Arc::new(identity.clone()));
    Ok(Arc::new(hardened_server(builder, OUTER_ALPN)))
}

/// Sets up an agent's or client's end of the outer TLS, with the identity that it has now; without one only enrolment is answered.
///
/// # Errors
/// [`TlsError`] if the roots cannot be used.
pub fn outer_client(server: &Roots, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = client_builder()?.dangerous().with_custom_certificate_verifier(by_name(server)?);
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(single(identity)),
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(hardened_client(config, OUTER_ALPN)))
}

/// Sets up a client's end of one inner TLS handshake, which is a full one: nobody but the agent `expected` is accepted.
///
/// No name is sent; pass [`inner_server_name`] where rustls asks for one.
///
/// # Errors
/// [`TlsError::Role`] unless `expected` is an agent and `identity` a client.
pub fn inner_client(
    agents: impl Into<CurrentRoots>,
    expected: &Principal,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, TlsError> {
    inner_client_parts(agents.into(), expected, identity).map(|(config, _)| Arc::new(config))
}

/// The same with the verifier, for whoever has to ask it again.
fn inner_client_parts(
    agents: CurrentRoots,
    expected: &Principal,
    identity: &Identity,
) -> Result<(ClientConfig, Arc<verify::InnerAgent>), TlsError> {
    must_be(Role::Agent, expected.role)?;
    must_be(Role::Client, identity.leaf().principal.role)?;
    let verifier = Arc::new(verify::InnerAgent::new(agents, expected.clone()));
    let mut config = ClientConfig::builder_with_provider(inner_provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(single(identity));
    config.enable_sni = false;
    Ok((hardened_client(config, INNER_ALPN), verifier))
}

/// Sets up an agent's end of inner TLS handshakes, which are full ones: clients of its own trust domain are accepted, and nobody without a certificate.
///
/// # Errors
/// [`TlsError::Role`] unless `identity` is an agent.
pub fn inner_server(clients: impl Into<CurrentRoots>, identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    inner_server_parts(clients.into(), identity).map(|(config, _)| Arc::new(config))
}

/// The same with the verifier, for whoever has to ask it again.
fn inner_server_parts(
    clients: CurrentRoots,
    identity: &Identity,
) -> Result<(ServerConfig, Arc<verify::InnerClients>), TlsError> {
    must_be(Role::Agent, identity.leaf().principal.role)?;
    let trust_domain = identity.leaf().principal.trust_domain.clone();
    let verifier = Arc::new(verify::InnerClients::new(clients, trust_domain));
    let config = ServerConfig::builder_with_provider(inner_provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
        .with_cert_resolver(single(identity));
    Ok((hardened_server(config, INNER_ALPN), verifier))
}

/// The name to give to rustls for inner TLS. It is neither sent nor compared: the certificate's URI is what counts.
pub fn inner_server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Reads `server.name`, a DNS name or IP address, as rustls takes it.
///
/// # Errors
/// [`TlsError::Name`] if it is neither.
pub fn server_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Name)
}

/// Reads whom the verified certificates of a connection name; `None` if the peer showed none.
///
/// Ask it of a finished handshake only: the certificate is not verified again.
///
/// # Errors
/// [`CertificateError`] if the first certificate is no leaf.
pub fn peer_leaf(certs: Option<&[CertificateDer<'_>]>) -> Result<Option<Leaf>, CertificateError> {
    certs.and_then(|certs| certs.first()).map(Leaf::parse).transpose()
}

fn provider() -> Arc<CryptoProvider> {
    // Spelled out, so that the order does not depend on which features other crates switch on.
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    Arc::new(CryptoProvider { kx_groups, ..default_provider() })
}

fn client_builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(TlsError::Setup)
}

fn server_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
    ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(TlsError::Setup)
}

/// The ordinary verifier: these roots, and the name that was meant.
fn ordinary(roots: &Roots) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let store = RootCertStore { roots: roots.anchors().to_vec() };
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build().map_err(TlsError::Verifier)
}

/// The same with the bound on chains that holds among ourselves.
fn by_name(roots: &Roots) -> Result<Arc<verify::ByName>, TlsError> {
    ordinary(roots).map(verify::ByName::new).map(Arc::new)
}

/// The same for inner TLS, whose handshakes are many. Their key schedule is a good part of them, and CPUs have SHA-256 built in, but not SHA-384.
fn inner_provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..(*provider()).clone() })
}

fn single(identity: &Identity) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(identity.certified()))
}

fn must_be(expected: Role, found: Role) -> Result<(), TlsError> {
    if found == expected { Ok(()) } else { Err(TlsError::Role { expected, found }) }
}

fn hardened_server(mut config: ServerConfig, alpn: &[u8]) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.key_log = Arc::new(rustls::NoKeyLog {});
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn hardened_client(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.key_log = Arc::new(rustls::NoKeyLog {});
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}
