//! One connection from an agent or client to a server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ginnel_core::budget::Budget;
use ginnel_core::congestion::CongestionControl;
use ginnel_core::limits::{CONNECT_DEADLINE, SILENCE_MAX, UNACKNOWLEDGED_MAX, UNSENT_MAX};
use ginnel_core::proxy::authority;
use ginnel_core::report::Chain;
use ginnel_wire::piece::Piece;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderValue, Method, Request, Response, Uri};
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::body::{FrameReader, FrameWriter};
use crate::congestion::choose;
use crate::crowd::Crowd;
use crate::http2::{self, keep_asking};
use crate::line::{Line, tcp};
use crate::live::Live;
use crate::messages::{Received, send};
use crate::proxy::{Proxy, ProxyError};

/// How often a link looks whether the server takes more sessions. Sessions look for themselves.
const GOING_AWAY_LOOK: Duration = Duration::from_secs(1);

/// Where a server is, and who it must be.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// The name that the server's certificate must have, whatever address is dialled.
    pub server_name: String,
    /// The HTTP proxy to go through, which resolves `host` itself.
    pub proxy: Option<Proxy>,
    /// The congestion control of connections, if not the system's own.
    pub congestion: Option<CongestionControl>,
    /// What the sessions of all connections may be granted beyond their first credit.
    pub budget: Budget,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's name is no DNS name or address (configuration).
    #[error("{0:?} is not a server name")]
    Name(String),
    /// There is no way through the proxy (configuration, environment, peer).
    #[error("could not reach {address} through the proxy")]
    Proxy {
        /// What was asked for.
        address: String,
        /// Why not.
        #[source]
        source: ProxyError,
    },
    /// The server could not be reached (environment).
    #[error("could not connect to {address}")]
    Tcp {
        /// What was dialled.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Whoever answers has a certificate of a trusted issuer for another name (configuration, peer).
    #[error("whoever answers at {address} is not {expected}: its certificate is for another name; check server.name")]
    WrongName {
        /// What was dialled.
        address: String,
        /// The name that was expected.
        expected: String,
    },
    /// Whoever answers has a certificate that no trusted root has issued (configuration, peer).
    #[error("whoever answers at {address} has no certificate of a trusted issuer; check trust.server")]
    UnknownIssuer {
        /// What was dialled.
        address: String,
    },
    /// The certificate of whoever answers is not valid at the time that this machine has (environment, peer).
    #[error(
        "the certificate of whoever answers at {address} {} by this machine's clock",
        if *has_expired { "has expired" } else { "is not yet valid" }
    )]
    WrongTime {
        /// What was dialled.
        address: String,
        /// Whether its time is over; otherwise it is still to come.
        has_expired: bool,
    },
    /// The TLS handshake failed otherwise: no TLS there, or a certificate is not accepted (peer, environment).
    #[error("TLS with {address} failed")]
    Tls {
        /// What was dialled.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// HTTP/2 could not be started (peer).
    #[error("HTTP/2 with {address} failed")]
    Http {
        /// What was dialled.
        address: String,
        /// Why.
        #[source]
        source: h2::Error,
    },
    /// Nothing came of it in time (environment).
    #[error("connecting to {address} took longer than {} s", CONNECT_DEADLINE.as_secs())]
    TimedOut {
        /// What was dialled.
        address: String,
    },
}

/// A connection to a server; cheap to clone. It closes by itself once the last clone is dropped and its last stream is done.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Piece>,
    origin: Uri,
    closed: CancellationToken,
    budget: Budget,
    crowd: Crowd,
}

impl Endpoint {
    /// Connects, with the certificate that `tls` holds if it holds one.
    ///
    /// # Errors
    /// [`ConnectError`]; the whole attempt is over within [`CONNECT_DEADLINE`].
    pub async fn connect(&self, tls: Arc<ClientConfig>) -> Result<Connection, ConnectError> {
        let attempt = self.attempt(tls);
        timeout(CONNECT_DEADLINE, attempt).await.map_err(|_| ConnectError::TimedOut { address: self.address() })?
    }

    /// What is dialled, host and port as in a URL.
    pub fn address(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Puts the mistakes that people make, and a wrong clock, into words of their own.
    pub(crate) fn tls_error(&self, source: std::io::Error) -> ConnectError {
        let address = self.address();
        let tls = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::InvalidCertificate(certificate)) = tls else {
            return ConnectError::Tls { address, source };
        };
        if matches!(certificate, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) {
            return ConnectError::WrongName { address, expected: self.server_name.clone() };
        }
        if *certificate == CertificateError::UnknownIssuer {
            return ConnectError::UnknownIssuer { address };
        }
        if matches!(certificate, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
            return ConnectError::WrongTime { address, has_expired: true };
        }
        if matches!(certificate, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
            return ConnectError::WrongTime { address, has_expired: false };
        }
        ConnectError::Tls { address, source }
    }

    pub(crate) async fn line(&self) -> Result<Line, ConnectError> {
        let line = self.bare_line().await?;
        if let Some(control) = &self.congestion
            && let Err(error) = choose(line.socket(), control)
        {
            // It could be chosen at the start of the process; a connection without it is better than none.
            tracing::warn!(error = %Chain(&error), "a connection has the system's own congestion control");
        }
        Ok(line)
    }

    async fn bare_line(&self) -> Result<Line, ConnectError> {
        let address = self.address();
        let Some(proxy) = &self.proxy else {
            let connected = tcp(&self.host, self.port).await;
            let connected = connected.map_err(|source| ConnectError::Tcp { address, source })?;
            return Ok(Line::Plain(Live::new(connected, SILENCE_MAX)));
        };
        let through = async {
            let mut line = proxy.reach().await?;
            proxy.ask(&mut line, &address).await?;
            Ok(line)
        };
        through.await.map_err(|source| ConnectError::Proxy { address: address.clone(), source })
    }

    async fn attempt(&self, tls: Arc<ClientConfig>) -> Result<Connection, ConnectError> {
        let address = self.address();
        let bad_name = || ConnectError::Name(self.server_name.clone());
        let name = ServerName::try_from(self.server_name.clone()).map_err(|_| bad_name())?;
        let host =
            if self.server_name.contains(':') { format!("[{}]", self.server_name) } else { self.server_name.clone() };
        let origin = Uri::builder().scheme("https").authority(host).path_and_query("/").build();
        let origin = origin.map_err(|_| bad_name())?;
        let stream = TlsConnector::from(tls).connect(name, self.line().await?).await;
        let stream = stream.map_err(|source| self.tls_error(source))?;
        let (requests, mut connection) =
            http2::client().handshake(stream).await.map_err(|source| ConnectError::Http { address, source })?;
        let asking = keep_asking(connection.ping_pong());
        let closed = CancellationToken::new();
        let on_close = closed.clone().drop_guard();
        // It ends when the last sender of requests is dropped and the last stream is done, or when the connection breaks.
        tokio::spawn(async move {
            let _on_close = on_close;
            tokio::select! {
                outcome = connection => if let Err(error) = outcome {
                    tracing::warn!(error = %Chain(&error), "the connection to the server broke");
                },
                () = asking => {}
            }
        });
        Ok(Connection { requests, origin, closed, budget: self.budget.for_connection(), crowd: Crowd::default() })
    }
}

/// Socket options that every connection of the tunnel has. Failing to set one costs latency, nothing else.
pub(crate) fn tune(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    let set = socket.set_tcp_nodelay(true).and_then(|()| bound_buffers(&socket));
    if let Err(error) = set {
        tracing::debug!(%error, "could not set a socket option");
    }
}

/// Bounds how much waits in the kernel, and for how long.
#[cfg(target_os = "linux")]
fn bound_buffers(socket: &socket2::SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(not(target_os = "linux"))]
fn bound_buffers(_: &socket2::SockRef<'_>) -> std::io::Result<()> {
    Ok(())
}

impl Connection {
    /// The URI that stands before every call's path.
    pub fn origin(&self) -> Uri {
        self.origin.clone()
    }

    /// What its sessions may be granted beyond their first credit.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Whether sessions can be put on it: it is there, and its peer has not said that it takes no more (HTTP/2's GOAWAY).
    pub fn takes_sessions(&self) -> bool {
        let asked = self.requests.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.is_closed() && !matches!(asked, Poll::Ready(Err(_)))
    }

    /// Resolves some time after the peer has said that it takes no more sessions; those that it has may go on.
    pub async fn going_away(&self) {
        // The library tells whoever asks, and wakes nobody.
        while self.takes_sessions() {
            sleep(GOING_AWAY_LOOK).await;
        }
    }

    /// Begins a call that carries bytes. What is written goes out before the response has come.
    pub fn call(&self, path: &'static str) -> (FrameReader, FrameWriter) {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        match self.requests.clone().send_request(request, false) {
            Ok((response, stream)) => (FrameReader::pending(response), FrameWriter::request(stream, &self.crowd)),
            Err(error) => (FrameReader::failed(error), FrameWriter::gone()),
        }
    }
}

impl tower_service::Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut requests = self.requests.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (response, stream) = requests.send_request(Request::from_parts(parts, ()), false)?;
            // It ends with the stream, which ends with the connection.
            tokio::spawn(send(body, stream));
            Ok(response.await?.map(|body| Body::new(Received(body))))
        })
    }
}

#[cfg(test)]
mod tests;
