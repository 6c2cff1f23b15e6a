//! Builds the client from its configuration and runs it.

use std::net::SocketAddr;
use std::sync::Arc;

use ginnel_config::ClientConfig;
use ginnel_core::id::InstanceId;
use ginnel_core::target::Target;
use ginnel_identity::credential::{CredentialError, ServiceAccountKey};
use ginnel_identity::random::SystemRandom;
use ginnel_identity::trust::{Roots, TrustError};
use ginnel_net::connect::Endpoint;
use ginnel_net::proxy::{Proxy, ProxyFileError};
use ginnel_net::upstream::Upstream;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::front::{serve_forward, serve_proxy};
use crate::link::ClientLink;
use crate::sessions::Sessions;

/// Why the client does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The credential cannot be used (configuration).
    #[error("reading the credential")]
    Credential(#[from] CredentialError),
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
    upstream: Upstream,
    link: ClientLink,
    sessions: Sessions,
    proxy: Option<(TcpListener, SocketAddr)>,
    forwards: Vec<(TcpListener, SocketAddr, Target)>,
}

impl Client {
    /// Reads the files that the configuration names, and listens.
    ///
    /// # Errors
    /// [`StartError`] names the file or address.
    pub async fn start(config: ClientConfig) -> Result<Self, StartError> {
        let upstream = Upstream {
            endpoint: Endpoint {
                host: config.server.address.host().to_owned(),
                port: config.server.address.port(),
                server_name: config.server.name.to_string(),
                proxy: config.server.proxy().map(Proxy::read).transpose()?,
            },
            server_roots: Roots::read(&config.trust.server)?,
            credential: ServiceAccountKey::read(&config.credential)?,
            audience: config.enrolment_audience,
        };
        if config.danger_disable_inner_tls {
            tracing::warn!("inner TLS is switched off: the server can read what sessions carry");
        }
        let agent_roots = Roots::read(&config.trust.agent)?;
        let link = ClientLink::new(InstanceId::random(&mut SystemRandom));
        let sessions = Sessions::new(link.live(), agent_roots, !config.danger_disable_inner_tls);
        let mut proxy = None;
        if let Some(address) = config.listen.proxy {
            proxy = Some(listen(address).await?);
        }
        let mut forwards = Vec::new();
        for forward in config.listen.forwards {
            let (listener, address) = listen(forward.listen).await?;
            forwards.push((listener, address, forward.target));
        }
        Ok(Self { upstream, link, sessions, proxy, forwards })
    }

    /// The address of the proxy listener; tells the port where the configuration said 0.
    pub fn proxy_address(&self) -> Option<SocketAddr> {
        self.proxy.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `shutdown`; sessions then end with a reset.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { upstream, link, sessions, proxy, forwards } = self;
        let sessions = Arc::new(sessions);
        let mut fronts = JoinSet::new();
        if let Some((listener, address)) = proxy {
            tracing::info!(listener = "proxy", %address, "listening");
            fronts.spawn(serve_proxy(listener, Arc::clone(&sessions), shutdown.clone().cancelled_owned()));
        }
        for (listener, address, target) in forwards {
            tracing::info!(listener = "forward", %address, "listening");
            let sessions = Arc::clone(&sessions);
            fronts.spawn(serve_forward(listener, target, sessions, shutdown.clone().cancelled_owned()));
        }
        tokio::select! {
            () = upstream.keep(link) => {}
            () = shutdown.cancelled() => {}
        }
        while fronts.join_next().await.is_some() {}
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listening = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listening.await.map_err(|source| StartError::Listen { address, source })
}
