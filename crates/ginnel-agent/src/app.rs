//! Builds the agent from its configuration and runs it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use ginnel_config::{AgentConfig, Source};
use ginnel_core::allow::AllowList;
use ginnel_core::audit::{Text, Timestamp};
use ginnel_core::budget::Budget;
use ginnel_core::id::InstanceId;
use ginnel_core::principal::Role;
use ginnel_identity::certificate::Identity;
use ginnel_identity::credential::{CredentialError, ServiceAccountKey};
use ginnel_identity::key::sha256;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{Responder, TlsError};
use ginnel_identity::trust::{Roots, TrustError};
use ginnel_net::congestion::{CongestionError, try_out};
use ginnel_net::connect::Endpoint;
use ginnel_net::inner::Handshakes;
use ginnel_net::proxy::{Proxy, ProxyFileError};
use ginnel_net::upstream::{Progress, Upstream};
use ginnel_ops::admin::{Admin, AdminError};
use ginnel_ops::beside::beside;
use ginnel_ops::ledger::Ledger;
use ginnel_ops::reload::{Files, InForce, Seen};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::link::AgentLink;
use crate::view::View;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process cannot be seen or controlled as asked (configuration, environment).
    #[error("opening the admin listeners")]
    Admin(#[from] AdminError),
    /// Connections cannot have the congestion control that they are to have (configuration, environment).
    #[error("choosing the congestion control")]
    Congestion(#[from] CongestionError),
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
    upstream: Arc<Upstream>,
    link: AgentLink,
    owner: Arc<Owner>,
    source: Option<(Source<AgentConfig>, Seen)>,
    admin: Admin,
    grace: Duration,
}

/// What every session of the agent needs.
pub(crate) struct Owner {
    pub(crate) instance: InstanceId,
    allow: RwLock<Arc<AllowList>>,
    /// One reload at a time: an older file must not come into force after a newer one.
    pub(crate) reloading: Mutex<()>,
    pub(crate) client_roots: Roots,
    /// Where the agent itself listens: nothing of it is a target.
    pub(crate) own_listeners: Vec<SocketAddr>,
    pub(crate) ledger: Ledger,
    pub(crate) in_force: InForce,
    pub(crate) progress: Progress,
    pub(crate) started: Timestamp,
    /// Whether the owner switched inner TLS off.
    pub(crate) inner_tls_disabled: bool,
    /// What answers with the newest certificate.
    responder: Mutex<Option<Arc<Responder>>>,
    pub(crate) handshakes: Handshakes,
}

impl Owner {
    /// The list in force.
    pub(crate) fn allow(&self) -> Arc<AllowList> {
        Arc::clone(&self.judging())
    }

    /// The list in force, which stays so until the guard is dropped: a verdict and its entry in the ledger are one step to whoever replaces
    /// the list.
    pub(crate) fn judging(&self) -> RwLockReadGuard<'_, Arc<AllowList>> {
        self.allow.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What answers inner handshakes with this certificate, which is the newest if it `is_first` connection that asks. What was kept under
    /// another one is forgotten.
    pub(crate) fn responder(&self, identity: &Identity, is_first: bool) -> Result<Arc<Responder>, TlsError> {
        let mut current = self.responder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = current.as_ref().filter(|responder| responder.is_of(identity)) {
            return Ok(Arc::clone(same));
        }
        let new = Arc::new(Responder::new(&self.client_roots, identity)?);
        if !is_first {
            // A further connection that comes up while the certificate is replaced: it is as good as retired, and answers in full.
            new.close();
            return Ok(new);
        }
        if let Some(old) = current.replace(Arc::clone(&new)) {
            // Sessions that still come by the old link are answered with the old certificate, in full.
            old.close();
        }
        Ok(new)
    }

    /// Puts another list into force. Nobody resumes a handshake from before.
    pub(crate) fn replace(&self, allow: Arc<AllowList>) {
        let (version, count) = (version(&allow), allow.patterns().len());
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = allow;
        if let Some(responder) = &*self.responder.lock().unwrap_or_else(PoisonError::into_inner) {
            responder.forget();
        }
        self.in_force.applied(version, count);
    }
}

/// A version that says the same of the same list in every agent; the order does not count.
fn version(allow: &AllowList) -> String {
    /// Hexadecimal digits of it, as of a policy's.
    const DIGITS: usize = 16;
    let patterns: BTreeSet<_> = allow.patterns().iter().map(ToString::to_string).collect();
    let text = patterns.into_iter().collect::<Vec<_>>().join("\n");
    let mut hex = Text::hex(&sha256(text.as_bytes())).as_str().to_owned();
    hex.truncate(DIGITS);
    hex
}

impl Agent {
    /// Reads the files that the configuration names and opens the admin listeners. `source` is where `config` comes from, with the state of the file before it was read; it is read again on
    /// a reload; without it there are none.
    ///
    /// # Errors
    /// [`StartError`] names the file or the listener.
    pub async fn start(config: AgentConfig, source: Option<(Source<AgentConfig>, Seen)>) -> Result<Self, StartError> {
        let progress = Progress::default();
        let admin = Admin::open(config.admin.listen, config.admin.socket.clone()).await?;
        let upstream = Upstream {
            endpoint: Endpoint {
                host: config.server.address.host().to_owned(),
                port: config.server.address.port(),
                server_name: config.server.name.to_string(),
                proxy: config.server.proxy().map(Proxy::read).transpose()?,
                congestion: config.server.congestion_control.clone(),
                budget: Budget::default(),
            },
            server_roots: Roots::read(&config.trust.server)?,
            credential: ServiceAccountKey::read(&config.credential)?,
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
        let allow = AllowList::new(config.allow);
        let owner = Owner {
            instance: InstanceId::random(&mut SystemRandom),
            in_force: InForce::new(version(&allow), allow.patterns().len()),
            allow: RwLock::new(Arc::new(allow)),
            reloading: Mutex::default(),
            own_listeners: admin.address().into_iter().collect(),
            ledger: Ledger::new(Role::Agent),
            progress,
            started: Timestamp::from(SystemTime::now()),
            client_roots: Roots::read(&config.trust.client)?,
            inner_tls_disabled: config.danger_disable_inner_tls,
            responder: Mutex::default(),
            handshakes: Handshakes::default(),
        };
        let (upstream, owner) = (Arc::new(upstream), Arc::new(owner));
        Ok(Self {
            upstream,
            link: AgentLink::new(Arc::clone(&owner)),
            owner,
            source,
            admin,
            grace: config.shutdown_grace,
        })
    }

    /// Where it can be asked, if anywhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// Keeps a link up until `shutdown`. Then it takes no more dials, lets sessions finish within the grace, and ends the rest with a reset.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { upstream, link, owner, source, admin, grace } = self;
        let (source, read) = source.unzip();
        let files = source.as_ref().zip(read).map(|(source, read)| {
            let file = source.path().to_owned();
            Files { read, named: Box::new(move || vec![file.clone()]) }
        });
        let view = Arc::new(View { owner, upstream: Arc::clone(&upstream), source, shutdown: shutdown.clone() });
        let beside = AbortOnDropHandle::new(tokio::spawn(beside(admin, view, files, shutdown.clone())));
        let draining = async {
            shutdown.cancelled().await;
            if timeout(grace, link.drain()).await.is_err() {
                tracing::warn!(grace_s = grace.as_secs(), "the grace is over: sessions are reset");
            }
        };
        tokio::select! {
            () = upstream.keep(link.clone()) => {}
            () = draining => {}
        }
        link.stop().await;
        beside.abort();
        // What is waited for is its last word; that it was aborted is no news.
        let _ = beside.await;
    }
}
