//! TLS with an HTTP proxy that stands before the server.

use std::sync::Arc;

use rustls::ClientConfig;

use super::{TlsError, client_builder, hardened_client, ordinary};
use crate::trust::Roots;

/// Application protocol spoken with a proxy: CONNECT is asked in HTTP/1.1.
const PROXY_ALPN: &[u8] = b"http/1.1";

/// Sets up TLS with a proxy whose certificate one of these roots has signed. Nothing is shown to it: the certificate of agents and
/// clients is for the server inside.
///
/// # Errors
/// [`TlsError`] if the roots cannot be used.
pub fn proxy_client(roots: &Roots) -> Result<Arc<ClientConfig>, TlsError> {
    let config = client_builder()?.with_webpki_verifier(ordinary(roots)?).with_no_client_auth();
    Ok(Arc::new(hardened_client(config, PROXY_ALPN)))
}
