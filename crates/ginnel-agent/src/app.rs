//! Builds the agent from its configuration and runs it.

use std::sync::Arc;

use ginnel_config::AgentConfig;
use ginnel_core::allow::AllowList;
use ginnel_core::id::InstanceId;
use ginnel_identity::credential::{CredentialError, ServiceAccountKey};
use ginnel_identity::random::SystemRandom;
use ginnel_identity::trust::{Roots, TrustError};
use ginnel_net::connect::Endpoint;
use ginnel_net::proxy::{Proxy, ProxyFileError};
use ginnel_net::upstream::Upstream;
use tokio_util::sync::CancellationToken;

use crate::link::AgentLink;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The credential cannot be used (configuration).
    #[error("reading the credential")]
    Credential(#[from] CredentialError),
    /// What is needed for the proxy cannot be used (configuration).
    #[error("reading what the proxy needs")]
    Proxy(#[from] ProxyFileError),
    /// A root cannot be used (configuration).
    #[error("reading the trusted roots")]
    Trust(#[from] TrustError),
}

/// An agent that is ready to run.
pub struct Agent {
    upstream: Upstream,
    link: AgentLink,
}

/// What every session of the agent needs.
pub(crate) struct Owner {
    pub(crate) instance: InstanceId,
    pub(crate) allow: AllowList,
    pub(crate) client_roots: Roots,
    /// Whether the owner switched inner TLS off.
    pub(crate) inner_tls_disabled: bool,
}

impl Agent {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// [`StartError`] names the file.
    pub fn new(config: AgentConfig) -> Result<Self, StartError> {
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
        let owner = Owner {
            instance: InstanceId::random(&mut SystemRandom),
            allow: AllowList::new(config.allow),
            client_roots: Roots::read(&config.trust.client)?,
            inner_tls_disabled: config.danger_disable_inner_tls,
        };
        Ok(Self { upstream, link: AgentLink::new(Arc::new(owner)) })
    }

    /// Keeps a link up until `shutdown`; sessions then end with a reset.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.upstream.keep(self.link.clone()) => {}
            () = shutdown.cancelled() => {}
        }
        self.link.stop().await;
    }
}
