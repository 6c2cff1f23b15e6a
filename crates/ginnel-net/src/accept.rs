//! The server's accept loop.
//!
//! TCP, then TLS within a deadline and a bound on handshakes under way, then HTTP/2. A connection without a client certificate may live
//! only as long as one enrolment takes. When accepting fails for want of descriptors the loop rests instead of spinning.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ginnel_core::limits::{
    ACCEPT_REST, CONNECTION_WINDOW, CONNECTIONS_MAX, ENROL_DEADLINE, HANDSHAKE_DEADLINE, HANDSHAKES_MAX,
    HEADER_LIST_MAX, PING_AFTER, SILENCE_MAX, STREAM_WINDOW, STREAMS_PER_CONNECTION_MAX,
};
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Leaf;
use ginnel_identity::tls::peer_leaf;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::connect::tune;
use crate::live::Live;

/// hyper gives a connection up when a ping is not answered within this time. Silence decides long before; see [`crate::live`].
const PING_ANSWER: Duration = Duration::from_secs(60);

/// A connection whose TLS handshake is done.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// The verified client certificate, if there was one.
    pub leaf: Option<Leaf>,
    /// Cancelled once the connection is gone; cancelling it closes the connection.
    pub closed: CancellationToken,
}

/// Decides what a connection may do.
pub trait Admit: Clone + Send + Sync + 'static {
    /// Answers the calls of one connection.
    type Service: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Send
        + 'static;

    /// The service for this peer; `None` closes the connection.
    fn admit(&self, peer: Peer) -> Option<Self::Service>;
}

/// When a server stops: first it accepts no more, later it closes what is open.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// Nothing is accepted any more.
    pub accepting: CancellationToken,
    /// Every connection is closed.
    pub connections: CancellationToken,
}

/// Accepts connections until the first of the `stops`, and is done when the last connection is gone.
pub async fn serve<A: Admit>(listener: TcpListener, tls: Arc<ServerConfig>, admit: A, stops: Stops) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let tasks = TaskTracker::new();
    while let Some((tcp, address, slot)) = next_connection(&listener, &connections, &stops.accepting).await {
        tune(&tcp);
        let (acceptor, admit, handshakes) = (acceptor.clone(), admit.clone(), Arc::clone(&handshakes));
        let closed = stops.connections.child_token();
        tasks.spawn(async move {
            let _slot = slot;
            let Some(stream) = handshake(tcp, address, acceptor, handshakes).await else { return };
            converse(stream, address, admit, closed).await;
        });
    }
    // Closed at once: whoever comes now is refused by the system instead of waiting for nothing.
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn next_connection(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let slot = Arc::clone(connections).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((tcp, address)) => return Some((tcp, address, slot)),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        next = next => next,
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
) -> Option<TlsStream<Live<TcpStream>>> {
    let live = Live::new(tcp, SILENCE_MAX);
    let attempt = async {
        let _slot = handshakes.acquire().await.map_err(io::Error::other)?;
        acceptor.accept(live).await
    };
    match timeout(HANDSHAKE_DEADLINE, attempt).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Some(stream),
        Ok(Ok(_)) => {
            tracing::debug!(peer = %address, "connection without HTTP/2");
            None
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %address, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(peer = %address, "TLS handshake took too long");
            None
        }
    }
}

async fn converse<A: Admit>(
    stream: TlsStream<Live<TcpStream>>,
    address: SocketAddr,
    admit: A,
    closed: CancellationToken,
) {
    let leaf = match peer_leaf(stream.get_ref().1.peer_certificates()) {
        Ok(leaf) => leaf,
        Err(error) => {
            tracing::warn!(peer = %address, error = %Chain(&error), "unreadable client certificate");
            return;
        }
    };
    let anonymous = leaf.is_none();
    let peer = Peer { address, leaf, closed: closed.clone() };
    let _on_close = closed.clone().drop_guard();
    let Some(service) = admit.admit(peer) else { return };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(if anonymous { u32::from(u16::MAX) } else { STREAM_WINDOW })
        .initial_connection_window_size(if anonymous { u32::from(u16::MAX) } else { CONNECTION_WINDOW })
        .max_concurrent_streams(if anonymous { 1 } else { STREAMS_PER_CONNECTION_MAX })
        .max_header_list_size(HEADER_LIST_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_ANSWER)
        .serve_connection(TokioIo::new(stream), service);
    let enrolled = async {
        if anonymous {
            tokio::time::sleep(ENROL_DEADLINE).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = closed.cancelled() => {}
        outcome = connection => if let Err(error) = outcome {
            tracing::debug!(peer = %address, error = %Chain(&error), "connection ended");
        },
        () = enrolled => tracing::debug!(peer = %address, "enrolment took too long"),
    }
}
