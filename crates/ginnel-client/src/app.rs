//! Builds the client from its configuration and runs it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ginnel_config::{ClientConfig, Source};
use ginnel_core::audit::Timestamp;
use ginnel_core::budget::Budget;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::InstanceId;
use ginnel_core::target::Target;
use ginnel_identity::proof::Credential;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::trust::{RootsFile, TrustError};
use ginnel_net::accept::Stops;
use ginnel_net::congestion::{CongestionError, try_out};
use ginnel_net::connect::Endpoint;
use ginnel_net::proxy::{Proxy, ProxyFileError};
use ginnel_net::upstream::{Progress, Upstream};
use ginnel_ops::admin::{Admin, AdminError};
use ginnel_ops::beside::beside;
use ginnel_ops::reload::{Files, InForce, Seen};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::front::{serve_forward, serve_proxy};
use crate::link::ClientLink;
use crate::open::Opener;
use crate::routes;
use crate::sessions::Sessions;
use crate::view::{Reloadable, View};

/// How long connections may take to be reset at the end.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Why the client does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process cannot be seen or controlled as asked (configuration, environment).
    #[error("opening the admin listeners")]
    Admin(#[from] AdminError),
    /// Connections cannot have the congestion control that they are to have (configuration, environment).
    #[error("choosing the congestion control")]
    Congestion(#[from] CongestionError),
    /// An address cannot be listened on (configuration, environment).
    #[error("listening on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What is needed for the proxy cannot be used (configuration).
    #[error("reading what the proxy needs")]
    Proxy(#[from] ProxyFileError),
    /// A root cannot be used (configuration).
    #[error("reading the trusted roots")]
    Trust(#[from] TrustError),
}

/// A client that listens.
pub struct Client {
    upstream: Arc<Upstream>,
    link: ClientLink,
    sessions: Arc<Sessions>,
    draining: CancellationToken,
    source: Option<(Source<ClientConfig>, Seen)>,
    server_roots: RootsFile,
    agent_roots: RootsFile,
    admin: Admin,
    grace: Duration,
    started: Timestamp,
    proxy: Option<(TcpListener, SocketAddr)>,
    forwards: Vec<(TcpListener, SocketAddr, Target)>,
}

impl Client {
    /// Reads the files that the configuration names, and listens. `credential` is the one that the configuration means. `source` is where
    /// `config` comes from, with the state of the file before it was read; a reload reads it again and says whether it is right. Routes and
    /// roots are taken up; nothing else of a client's configuration changes while it runs.
    ///
    /// # Errors
    /// [`StartError`] names the file or address.
    pub async fn start(
        config: ClientConfig,
        credential: Credential,
        source: Option<(Source<ClientConfig>, Seen)>,
    ) -> Result<Self, StartError> {
        let admin = Admin::open(config.admin.listen, config.admin.socket.clone()).await?;
        let trust = [config.trust.server.clone(), config.trust.agent.clone()];
        let source = source.map(|(source, config_file)| (source, config_file.and(Seen::now(trust))));
        let server_roots = RootsFile::open(&config.trust.server)?;
        let agent_roots = RootsFile::open(&config.trust.agent)?;
        let (progress, draining) = (Progress::default(), CancellationToken::new());
        let upstream = Upstream {
            endpoint: Endpoint {
                host: config.server.address.host().to_owned(),
                port: config.server.address.port(),
                server_name: config.server.name.to_string(),
                proxy: config.server.proxy().map(Proxy::read).transpose()?,
                congestion: config.server.congestion_control.clone(),
                budget: Budget::default(),
            },
            server_roots: server_roots.roots().clone(),
            credential,
            audience: config.enrolment_audience,
            renewal: config.renewal,
            progress: progress.clone(),
            connections: config.connections,
        };
        if let Some(control) = &upstream.endpoint.congestion {
            try_out(control)?;
        }
        if config.danger_disable_inner_tls {
            tracing::warn!("inner TLS is switched off: the server can read what sessions carry");
        }
        let agents = agent_roots.roots().clone();
        let link = ClientLink::new(InstanceId::random(&mut SystemRandom), agents, draining.clone(), progress);
        let inner_tls = !config.danger_disable_inner_tls;
        let sessions = Arc::new(Sessions::new(&link, config.routes, inner_tls, draining.clone()));
        let mut proxy = None;
        if let Some(address) = config.listen.proxy {
            proxy = Some(listen(address).await?);
        }
        let mut forwards = Vec::new();
        for forward in config.listen.forwards {
            let (listener, address) = listen(forward.listen).await?;
            forwards.push((listener, address, forward.target));
        }
        let started = Timestamp::from(SystemTime::now());
        Ok(Self {
            upstream: Arc::new(upstream),
            link,
            sessions,
            draining,
            source,
            server_roots,
            agent_roots,
            admin,
            grace: config.shutdown_grace,
            started,
            proxy,
            forwards,
        })
    }

    /// Where it can be asked, if anywhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// The address of the proxy listener; tells the port where the configuration said 0.
    pub fn proxy_address(&self) -> Option<SocketAddr> {
        self.proxy.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `shutdown`. Then it accepts nothing new, lets sessions finish within the grace, and ends the rest with a reset.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { upstream, link, sessions, draining, source, server_roots, agent_roots, .. } = self;
        let Self { admin, grace, started, proxy, forwards, .. } = self;
        let (source, read) = source.unzip();
        let config_file = source.as_ref().map(|source| source.path().to_owned());
        let routes = sessions.routes();
        let reloadable = Arc::new(Reloadable {
            source,
            server_roots,
            agent_roots,
            sessions: Arc::clone(&sessions),
            in_force: InForce::new(routes::version(&routes), routes.entries().map_or(0, <[_]>::len)),
            reloading: Mutex::default(),
        });
        let view = Arc::new(View {
            upstream: Arc::clone(&upstream),
            sessions: Arc::clone(&sessions),
            live: link.live(),
            instance: link.instance(),
            files: Arc::clone(&reloadable),
            draining: draining.clone(),
            started,
        });
        let files = config_file.zip(read).map(|(file, read)| {
            let named = move || vec![file.clone(), reloadable.server_roots.path(), reloadable.agent_roots.path()];
            Files { read, named: Box::new(named) }
        });
        let beside = AbortOnDropHandle::new(tokio::spawn(beside(admin, view, files, shutdown.clone())));
        let stops = Stops { accepting: draining.clone(), connections: CancellationToken::new() };
        let mut fronts = JoinSet::new();
        if let Some((listener, address)) = proxy {
            tracing::info!(listener = "proxy", %address, "listening");
            fronts.spawn(serve_proxy(listener, Arc::clone(&sessions), stops.clone()));
        }
        for (listener, address, target) in forwards {
            tracing::info!(listener = "forward", %address, "listening");
            let sessions = Arc::clone(&sessions);
            fronts.spawn(serve_forward(listener, target, sessions, stops.clone()));
        }
        let ending = async {
            shutdown.cancelled().await;
            draining.cancel();
            if timeout(grace, done(&mut fronts)).await.is_err() {
                tracing::warn!(grace_s = grace.as_secs(), "the grace is over: sessions are reset");
                sessions.ledger().end_where(|_| Some(Refusal::new(Hop::Client, Cause::ShuttingDown)));
                let _ = timeout(STOP_WAIT, done(&mut fronts)).await;
            }
            stops.connections.cancel();
            // A connection that does not end in time ends with the process.
            let _ = timeout(STOP_WAIT, done(&mut fronts)).await;
        };
        tokio::select! {
            () = upstream.keep(link) => {}
            () = ending => {}
        }
        beside.abort();
        // What is waited for is its last word; that it was aborted is no news.
        let _ = beside.await;
    }
}

async fn done(fronts: &mut JoinSet<()>) {
    while fronts.join_next().await.is_some() {}
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listening = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listening.await.map_err(|source| StartError::Listen { address, source })
}
