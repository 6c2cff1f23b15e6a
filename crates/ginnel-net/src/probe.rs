//! The way to a server step by step, for people who want to know where it ends.

use std::io;
use std::net::SocketAddr;

use ginnel_core::limits::{CONNECT_DEADLINE, RESOLVE_DEADLINE};
use ginnel_identity::tls::{Facts, TlsError, is_for, is_signed_by, probing_client, server_name};
use ginnel_identity::trust::Roots;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::connect::{ConnectError, Endpoint};
use crate::line::tcp;
use crate::proxy::{Answer, Proxy, ProxyError};

/// Who answered when TLS was tried.
#[derive(Debug)]
pub struct Presented {
    /// The certificates, leaf first, as far as they can be read.
    pub chain: Vec<Facts>,
    /// Whether one of the trusted roots signed them, whatever the time is.
    pub is_trusted: bool,
    /// Whether the first is for the name that was expected.
    pub is_named: bool,
}

fn too_slow<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// What a name resolves to.
///
/// # Errors
/// What the system says, or that it says nothing in time.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    timeout(RESOLVE_DEADLINE, async { Ok(lookup_host((host, port)).await?.collect()) }).await.map_err(too_slow)?
}

/// Opens a TCP connection and closes it; gives the address that answered.
///
/// # Errors
/// What the system says, or that nothing came of it in time.
pub async fn reach(host: &str, port: u16) -> io::Result<SocketAddr> {
    timeout(CONNECT_DEADLINE, async { tcp(host, port).await?.peer_addr() }).await.map_err(too_slow)?
}

/// Asks the proxy for a way to the server.
///
/// # Errors
/// [`ProxyError`] of the step that failed.
pub async fn through(proxy: &Proxy, endpoint: &Endpoint) -> Result<Answer, ProxyError> {
    let asking = async {
        let mut line = proxy.reach().await?;
        proxy.ask(&mut line, &endpoint.address()).await
    };
    let late = |_| ProxyError::Silent { proxy: proxy.location().authority() };
    timeout(CONNECT_DEADLINE, asking).await.map_err(late)?
}

/// Speaks TLS with whoever answers, without a certificate of our own. Tells who that was, if it showed a certificate, and the verdict
/// that every other connection gets as well.
///
/// # Errors
/// [`TlsError`] if the roots or the name cannot be used.
pub async fn tls(
    endpoint: &Endpoint,
    roots: &Roots,
) -> Result<(Option<Presented>, Result<(), ConnectError>), TlsError> {
    let name = server_name(&endpoint.server_name)?;
    let (config, probe) = probing_client(roots)?;
    let handshake = async {
        let stream = TlsConnector::from(config).connect(name.clone(), endpoint.line().await?).await;
        stream.map(drop).map_err(|source| endpoint.tls_error(source))
    };
    let verdict = timeout(CONNECT_DEADLINE, handshake).await;
    let verdict = verdict.unwrap_or_else(|_| Err(ConnectError::TimedOut { address: endpoint.address() }));
    let chain = probe.presented();
    let presented = chain.first().map(|leaf| Presented {
        chain: chain.iter().filter_map(Facts::read).collect(),
        is_trusted: is_signed_by(&chain, roots),
        is_named: is_for(leaf, &name),
    });
    Ok((presented, verdict))
}
