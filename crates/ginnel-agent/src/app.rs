//! Builds the agent from its configuration and runs it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use ginnel_config::{AgentConfig, Source};
use ginnel_core::audit::{Event, LogFiles, Text, Timestamp};
use ginnel_core::budget::Budget;
use ginnel_core::denial::Denials;
use ginnel_core::id::InstanceId;
use ginnel_core::principal::{Role, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Identity;
use ginnel_identity::proof::Credential;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{Responder, TlsError};
use ginnel_identity::trust::{RootsFile, TrustError};
use ginnel_net::congestion::{CongestionError, try_out};
use ginnel_net::connect::Endpoint;
use ginnel_net::inner::Handshakes;
use ginnel_net::proxy::{Proxy, ProxyFileError};
use ginnel_net::upstream::{Progress, Upstream};
use ginnel_ops::admin::{Admin, AdminError};
use ginnel_ops::audit::{AuditError, AuditLog};
use ginnel_ops::beside::beside;
use ginnel_ops::denials::{DenialFile, DenialsError};
use ginnel_ops::ledger::Ledger;
use ginnel_ops::reload::{Files, InForce, Seen};
use ginnel_wire::hello::software_version;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::account;
use crate::link::AgentLink;
use crate::view::View;
use crate::word::{Lists, Observations, Word};

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process cannot be seen or controlled as asked (configuration, environment).
    #[error("opening the admin listeners")]
    Admin(#[from] AdminError),
    /// The agent's own audit log cannot be written (configuration, environment).
    #[error("opening the audit log")]
    Audit(#[from] AuditError),
    /// Connections cannot have the congestion control that they are to have (configuration, environment).
    #[error("choosing the congestion control")]
    Congestion(#[from] CongestionError),
    /// What was denied cannot be read (configuration, environment).
    #[error("reading what is denied")]
    Denials(#[from] DenialsError),
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
    lists: RwLock<Lists>,
    /// One revocation at a time: the file must not say less than what is in force.
    pub(crate) revoking: Mutex<()>,
    /// Where denials are kept, if they are to outlive the process.
    pub(crate) denial_file: Option<DenialFile>,
    /// The domain of the agent's own certificate, once it has had one.
    trust_domain: OnceLock<TrustDomain>,
    /// One reload at a time: an older file must not come into force after a newer one.
    pub(crate) reloading: Mutex<()>,
    pub(crate) server_roots: RootsFile,
    pub(crate) client_roots: RootsFile,
    /// Where the agent itself listens: nothing of it is a target.
    pub(crate) own_listeners: Vec<SocketAddr>,
    pub(crate) ledger: Ledger,
    pub(crate) in_force: InForce,
    pub(crate) progress: Progress,
    pub(crate) started: Timestamp,
    /// Whether the owner switched inner TLS off.
    pub(crate) inner_tls_disabled: bool,
    /// The agent's own record, if its owner wants one.
    pub(crate) audit: Option<AuditLog>,
    /// What the list under observation would have refused.
    pub(crate) observations: Observations,
    /// What answers with the newest certificate.
    responder: Mutex<Option<Arc<Responder>>>,
    pub(crate) handshakes: Handshakes,
}

impl Owner {
    /// Everything in force.
    pub(crate) fn lists(&self) -> Lists {
        self.judging().clone()
    }

    /// Everything in force, which stays so until the guard is dropped: a verdict and its entry in the ledger are one step to whoever replaces
    /// it.
    pub(crate) fn judging(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts on record what has happened, where there is a record.
    pub(crate) fn note(&self, event: Event) {
        if let Some(audit) = &self.audit {
            account::note(audit, event);
        }
    }

    /// The domain of the agent's own certificate, once it has had one.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.get()
    }

    /// What answers inner handshakes with this certificate, which is the newest if it `is_first` connection that asks. What was kept under
    /// another one is forgotten.
    pub(crate) fn responder(&self, identity: &Identity, is_first: bool) -> Result<Arc<Responder>, TlsError> {
        self.trust_domain.get_or_init(|| identity.leaf().principal.trust_domain.clone());
        let mut current = self.responder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = current.as_ref().filter(|responder| responder.is_of(identity)) {
            return Ok(Arc::clone(same));
        }
        let new = Arc::new(Responder::new(self.client_roots.roots(), identity)?);
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

    /// Puts other lists into force. What is denied stays denied, and nobody resumes a handshake from before.
    pub(crate) fn replace(&self, word: Word) {
        let lists = self.change(|lists| Lists::new(Arc::new(word), Arc::clone(&lists.denials)));
        self.in_force.applied(lists.version.as_ref().to_owned(), lists.allow.entries().len());
    }

    /// Puts other denials into force. Nobody resumes a handshake from before.
    pub(crate) fn deny(&self, denials: Arc<Denials>) {
        let lists = self.change(|lists| Lists::new(Arc::clone(&lists.word), denials));
        self.in_force.changed(lists.version.as_ref().to_owned(), lists.allow.entries().len());
    }

    fn change(&self, change: impl FnOnce(&Lists) -> Lists) -> Lists {
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        *lists = change(&lists);
        let changed = lists.clone();
        drop(lists);
        if let Some(responder) = &*self.responder.lock().unwrap_or_else(PoisonError::into_inner) {
            responder.forget();
        }
        changed
    }
}

/// Where the server is, and the way there.
fn endpoint(server: &ginnel_config::Upstream) -> Result<Endpoint, StartError> {
    Ok(Endpoint {
        host: server.address.host().to_owned(),
        port: server.address.port(),
        server_name: server.name.to_string(),
        proxy: server.proxy().map(Proxy::read).transpose()?,
        congestion: server.congestion_control.clone(),
        budget: Budget::default(),
    })
}

/// Opens the owner's record and puts the start into it.
async fn open_audit(files: LogFiles, instance: InstanceId, lists: &Lists) -> Result<AuditLog, AuditError> {
    let audit = AuditLog::open(files, instance)?;
    let started = Event::Started { version: Text::new(software_version()), policy: Text::new(&lists.version) };
    audit.record(started)?.await?;
    Ok(audit)
}

/// Closes the record, which waits for the disk.
async fn close(audit: AuditLog) {
    match tokio::task::spawn_blocking(move || audit.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(error = %Chain(&error), "the audit log did not close well"),
        Err(error) => tracing::error!(error = %Chain(&error), "the audit log could not be closed"),
    }
}

impl Agent {
    /// Reads the files that the configuration names and opens the admin listeners. `credential` is the one that the configuration means. `source` is where `config` comes from, with the state of the file before it was read; it is read again on
    /// a reload; without it there are none.
    ///
    /// # Errors
    /// [`StartError`] names the file or the listener.
    pub async fn start(
        config: AgentConfig,
        credential: Credential,
        source: Option<(Source<AgentConfig>, Seen)>,
    ) -> Result<Self, StartError> {
        let (progress, word) = (Progress::default(), Arc::new(Word::of(&config)));
        let admin = Admin::open(config.admin.listen, config.admin.socket.clone()).await?;
        let trust = [config.trust.server.clone(), config.trust.client.clone()];
        let source = source.map(|(source, config_file)| (source, config_file.and(Seen::now(trust))));
        let server_roots = RootsFile::open(&config.trust.server)?;
        let client_roots = RootsFile::open(&config.trust.client)?;
        let upstream = Upstream {
            endpoint: endpoint(&config.server)?,
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
        let (denial_file, denials) = match &config.denials_file {
            Some(path) => {
                let (file, denials) = DenialFile::open(path)?;
                (Some(file), denials)
            }
            None => (None, Denials::default()),
        };
        let lists = Lists::new(word, Arc::new(denials));
        let instance = InstanceId::random(&mut SystemRandom);
        let audit = match config.audit {
            Some(files) => Some(open_audit(files, instance, &lists).await?),
            None => None,
        };
        let owner = Owner {
            instance,
            in_force: InForce::new(lists.version.as_ref().to_owned(), lists.allow.entries().len()),
            lists: RwLock::new(lists),
            audit,
            observations: Observations::default(),
            revoking: Mutex::default(),
            denial_file,
            trust_domain: OnceLock::new(),
            reloading: Mutex::default(),
            own_listeners: admin.address().into_iter().collect(),
            ledger: Ledger::new(Role::Agent),
            progress,
            started: Timestamp::from(SystemTime::now()),
            server_roots,
            client_roots,
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
        let audit = owner.audit.clone();
        let (source, read) = source.unzip();
        let files = source.as_ref().zip(read).map(|(source, read)| {
            let (file, owner) = (source.path().to_owned(), Arc::clone(&owner));
            Files {
                read,
                named: Box::new(move || vec![file.clone(), owner.server_roots.path(), owner.client_roots.path()]),
            }
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
        if let Some(audit) = audit {
            close(audit).await;
        }
    }
}
