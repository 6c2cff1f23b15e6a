//! The listeners: an address for reading over HTTP, a Unix socket for control.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ginnel_core::limits::ACCEPT_REST;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower_service::Service;
use tracing::{debug, info, warn};

use super::answer::{Door, answer};
use super::samples;
use super::socket::{Socket, SocketError, caller};
use super::{Observed, Shared, health};

/// Connections at once on each listener. Scrapers, probes and a few people; more of them wait in the kernel's queue. Half of
/// [`DESCRIPTORS_RESERVED`](ginnel_core::limits::DESCRIPTORS_RESERVED) with both listeners full.
const CONNECTIONS_MAX: usize = 32;

/// How long a request's head may take, and how long a connection may be idle.
const HEAD_WAIT: Duration = Duration::from_secs(60);

/// How long a connection may live, so that readers who do not read cannot keep every place. Whoever watches comes back.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

/// Bytes of a request's head: far more than scrapers, probes and browsers send to an address without cookies of its own.
const HEAD_MAX: usize = 16 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 16;

/// Why a process cannot be seen or controlled.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on (configuration, environment).
    #[error("listening on {address} for admin")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be had (configuration, environment).
    #[error("opening adminSocket")]
    Socket(#[from] SocketError),
}

/// What shows a process, once it runs.
pub struct Admin {
    tcp: Option<(TcpListener, SocketAddr)>,
    socket: Option<Socket>,
}

impl Admin {
    /// Opens what is asked for.
    ///
    /// # Errors
    /// [`AdminError`] names what cannot be had.
    pub async fn open(address: Option<SocketAddr>, socket: Option<PathBuf>) -> Result<Self, AdminError> {
        let socket = socket.as_deref().map(Socket::bind).transpose()?;
        let Some(address) = address else { return Ok(Self { tcp: None, socket }) };
        let failed = |source| AdminError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { tcp: Some((listener, address)), socket })
    }

    /// Where it is read; tells the port where the configuration said 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, address)| *address)
    }

    /// Shows `observed` until `stop`. Dropping the future does the same.
    pub async fn run(self, observed: Arc<dyn Observed>, stop: CancellationToken) {
        let Self { tcp, socket } = self;
        if tcp.is_none() && socket.is_none() {
            return stop.cancelled().await;
        }
        if let Some((_, address)) = &tcp {
            info!(listener = "admin", %address, "listening");
        }
        let shared = Arc::new(Shared::new(observed));
        let serving = async {
            let address = tcp.as_ref().map(|(listener, _)| Listener::Tcp(listener));
            tokio::join!(
                accept(address, &shared),
                accept(socket.as_ref().map(Listener::Socket), &shared),
                sample(&shared)
            );
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = serving => {}
        }
    }
}

async fn sample(shared: &Shared) {
    let mut ticks = interval(samples::EVERY);
    loop {
        ticks.tick().await;
        shared.take_sample();
    }
}

/// A listener of either kind.
enum Listener<'a> {
    Tcp(&'a TcpListener),
    Socket(&'a Socket),
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Stream = Box<dyn Io>;

impl Listener<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "admin",
            Self::Socket(_) => "adminSocket",
        }
    }

    /// The next connection; `None` is somebody who may not come in.
    async fn next(&self) -> io::Result<Option<(Stream, Door)>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Some((Box::new(stream), Door::Address)))
            }
            Self::Socket(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let door = caller(&stream).map(|(pid, uid)| Door::Socket { pid, uid });
                Ok(door.map(|door| (Box::new(stream) as Stream, door)))
            }
        }
    }
}

/// Accepts and serves for ever, if there is such a listener. Dropping the future ends every connection.
async fn accept(listener: Option<Listener<'_>>, shared: &Arc<Shared>) {
    let Some(listener) = listener else { return };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.next().await {
            Ok(Some((stream, door))) => {
                failing = false;
                let shared = Arc::clone(shared);
                connections.spawn(async move {
                    if timeout(CONNECTION_LIFE, converse(stream, door, shared)).await.is_err() {
                        debug!("an admin connection has lived long enough");
                    }
                    drop(place);
                });
            }
            Ok(None) => warn!(listener = listener.name(), "somebody else's process was turned away"),
            Err(error) => {
                if !failing {
                    warn!(listener = listener.name(), %error, "cannot accept connections");
                }
                failing = true;
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn converse(stream: Stream, door: Door, shared: Arc<Shared>) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(HEAD_MAX);
    let head_max = u32::try_from(HEAD_MAX).unwrap_or(u32::MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(head_max);
    let health = health::service(Arc::clone(&shared.observed));
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, mut health) = (Arc::clone(&shared), health.clone());
        let answer: Pin<Box<dyn Future<Output = Result<_, Infallible>> + Send>> = Box::pin(async move {
            if door == Door::Address && request.uri().path().starts_with(health::PATH) {
                return health.call(request).await;
            }
            Ok(answer(&shared, door, &request).await.map(Body::new))
        });
        answer
    });
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "an admin connection failed");
    }
}
