//! TLS with an HTTP proxy that stands before the server.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use super::{TlsError, hardened_client, provider};
use crate::trust::Roots;

/// Application protocol spoken with a proxy: CONNECT is asked in HTTP/1.1.
const PROXY_ALPN: &[u8] = b"http/1.1";

/// Sets up TLS with a proxy whose certificate one of these roots has signed. Nothing is shown to it: the certificate of agents and
/// clients is for the server inside.
///
/// # Errors
/// [`TlsError`] if the roots cannot be used.
pub fn proxy_client(roots: &Roots) -> Result<Arc<ClientConfig>, TlsError> {
    let store = RootCertStore { roots: roots.anchors().to_vec() };
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build().map_err(TlsError::Verifier)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(hardened_client(config, PROXY_ALPN)))
}
