//! Builds the server from its configuration and runs it.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ginnel_config::{GoogleSection, OidcIssuer, PerRole, ServerConfig, ServerIssuer, ServerSection, Source};
use ginnel_core::audit::{Event, LogFiles, Text, Timestamp};
use ginnel_core::congestion::CongestionControl;
use ginnel_core::denial::Denials;
use ginnel_core::id::InstanceId;
use ginnel_core::limits::Limits;
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_core::sink::Sink;
use ginnel_enrol::{Enroller, Issuer};
use ginnel_identity::proof::Credential;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{CurrentTrust, OuterTrust, outer_server};
use ginnel_keys::{KeySets, Timing};
use ginnel_net::accept::{Door, Stops, serve};
use ginnel_net::congestion::choose;
use ginnel_ops::admin::Admin;
use ginnel_ops::audit::AuditLog;
use ginnel_ops::audit::forward::Forwarding;
use ginnel_ops::beside::beside;
use ginnel_ops::denials::DenialFile;
use ginnel_ops::host;
use ginnel_ops::ledger::Ledger;
use ginnel_ops::networks::NetworkBook;
use ginnel_ops::reload::{Files, Seen};
use ginnel_wire::hello::software_version;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admit::Admission;
use crate::bounds::Bounds;
use crate::broker::{Broker, Rosters};
use crate::connections::Connections;
use crate::directory::InMemory;
use crate::doorkeeper::Doorkeeper;
use crate::enrol::{Admissible, Desk};
use crate::expiry;
use crate::keys::{self, AtGoogle};
use crate::lease::Leases;
use crate::own::{self, OwnCertificate, Subject};
use crate::remote::{Enrolment, Remote};
use crate::rules::{InForceRules, Rules, enrol_identities, key_files, oidc_issuers, sources};
use crate::view::View;

/// How often an issuer is asked whether its roots have changed: what it signs with a new one is refused for as long.
const ROOTS_LOOK: Duration = Duration::from_secs(5);

/// How long sessions may take to hear of a shutdown and to leave their records.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Why the server does not start: what it was doing, and the error beneath.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct StartError {
    doing: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

pub(crate) fn while_doing<E: Into<Box<dyn Error + Send + Sync>>>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> StartError {
    let doing = doing.into();
    move |source| StartError { doing, source: source.into() }
}

/// What certificates come from: what the configuration's `issuer` means, opened.
pub enum Certifier {
    /// The issuer of a server that enrols.
    Issuer(Arc<dyn Issuer>),
    /// What a server proves itself with where another process enrols.
    Enrolment(Credential),
}

impl Certifier {
    /// The files that the issuer reads.
    fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Issuer(issuer) => issuer.files(),
            Self::Enrolment(_) => Vec::new(),
        }
    }
}

/// The files of roots of a server that enrols nobody.
fn root_files(config: &ServerConfig) -> Vec<PathBuf> {
    match &config.issuer {
        ServerIssuer::Here(_) => Vec::new(),
        ServerIssuer::Elsewhere(remote) => {
            let PerRole { server, agent, client } = remote.trust.clone();
            vec![server, agent, client]
        }
    }
}

/// Takes up the roots that an issuer outside of this process has, as they change.
async fn keep_roots(broker: Arc<Broker>, desk: Arc<Desk>) {
    loop {
        sleep(ROOTS_LOOK).await;
        broker.take_roots(&desk.issuer);
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    broker: Arc<Broker>,
    /// How the files were before they were read.
    read: Option<Seen>,
    certificates: own::Source,
    subject: Subject,
    renew_after: Duration,
    admin: Admin,
    grace: Duration,
}

impl Server {
    /// Opens the audit log and the listeners, and lets the issuer sign the server's own certificate. Where another process enrols, the certificate
    /// comes when that process answers. `sink` is given what goes into the log, if there is one. `source` is where `config` comes from and is read again on a reload;
    /// without it there are none.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had.
    pub async fn start(
        config: ServerConfig,
        certifier: Certifier,
        sink: Option<Arc<dyn Sink>>,
        source: Option<(Source<ServerConfig>, Seen)>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let server_id = InstanceId::random(&mut SystemRandom);
        let subject =
            Subject { trust_domain: config.trust_domain.clone(), server_name: config.server.name.to_string() };
        let (source, read) = source.unzip();
        let named = key_files(&config.identities).into_iter().chain(certifier.files()).chain(root_files(&config));
        let read = read.map(|config_file| config_file.and(Seen::now(named)));
        let authority = Authority::new(&config, certifier, now)?;
        let own = OwnCertificate::new(config.renewal);
        let trust = CurrentTrust::from(authority.trust());
        let tls = outer_server(&own.current, &trust).map_err(while_doing("setting TLS up"))?;
        let certificates = authority.certificates();
        let made = certificates.begin(&subject, &own).await;
        let (renew_after, issued) = made.map_err(while_doing("making the server's own certificate"))?;
        let directory = config.audit.directory.as_path();
        let audit = open_log(&config.audit, server_id)?;
        let networks = NetworkBook::open(directory);
        let forwarding = sink.map(|sink| Forwarding::start(directory, sink, SystemRandom));
        let address = config.server.listen;
        let ServerSection { admin, shutdown_grace: grace, congestion_control, balancers, .. } = config.server.clone();
        let bounds = Bounds::new(&on_this_machine(&config.limits), host::memory(), Door { tls, balancers });
        let tasks = TaskTracker::new();
        let (denial_file, denials) =
            DenialFile::open(&config.denials_file()).map_err(while_doing("reading what is denied"))?;
        let denials = Arc::new(denials);
        let enrolment = authority.enrolment(&config, &audit, &denials, &tasks);
        let rules = Rules::new(config, enrolment.admissible(), denials);
        let started = Event::Started { version: Text::new(software_version()), policy: rules.version.clone() };
        for event in [Some(started), issued].into_iter().flatten() {
            let recorded = async { audit.record(event)?.await };
            recorded.await.map_err(while_doing("writing to the audit log"))?;
        }
        let admin =
            Admin::open(admin.listen, admin.socket).await.map_err(while_doing("opening the admin listeners"))?;
        let (listener, address) = listen(address, congestion_control.as_ref()).await?;
        let broker = Broker {
            server_id,
            epoch: epoch(now),
            rules: InForceRules::new(rules),
            source,
            reloading: Mutex::default(),
            denial_file,
            connections: Connections::new(bounds.gate.certified().clone()),
            doorkeeper: Doorkeeper::default(),
            ledger: Ledger::new(Role::Server),
            budget: bounds.credit(),
            directory: Box::new(InMemory::default()),
            leases: Arc::new(Leases::new(bounds.instances_each)),
            bounds,
            rosters: Rosters::default(),
            audit,
            forwarding,
            networks,
            signals: Mutex::default(),
            at_google: AtGoogle::default(),
            own,
            enrolment,
            trust,
            tasks,
            shutdown,
            cut: CancellationToken::new(),
            started: Timestamp::from(now),
        };
        let broker = Arc::new(broker);
        Ok(Self { listener, address, broker, read, certificates, subject, renew_after, admin, grace })
    }

    /// The address that it listens on; tells the port where the configuration said 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it can be asked, if anywhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// Serves until `shutdown`. Then it accepts nothing new, lets sessions finish within the grace, ends the rest with a reset, and closes
    /// the log.
    pub async fn run(self) {
        let Self { listener, broker, read, certificates, subject, renew_after, address, admin, grace } = self;
        tracing::info!(listener = "server", %address, "listening");
        let files = read.and_then(|read| files(&broker, read));
        let beside = beside(admin, Arc::new(View(Arc::clone(&broker))), files, broker.shutdown.clone());
        let beside = AbortOnDropHandle::new(tokio::spawn(beside));
        let expiry = AbortOnDropHandle::new(tokio::spawn(expiry::watch(Arc::clone(&broker))));
        let roots = match &broker.enrolment {
            Enrolment::Here(desk) => Some(tokio::spawn(keep_roots(Arc::clone(&broker), Arc::clone(desk)))),
            Enrolment::Elsewhere(_) => None,
        };
        let keys = broker.enrolment.keys();
        let watch = keys.map(|keys| tokio::spawn(keys::watch(Arc::clone(&broker), keys)));
        let watching = [roots, watch].map(|task| task.map(AbortOnDropHandle::new));
        let networks = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&broker.networks).keep()));
        let note = |event| broker.note(event);
        let renewals = own::keep(&certificates, &subject, &broker.own, renew_after, note, broker.cut.clone());
        // Connections go when sessions have left their records, so they hang on a token of their own.
        let stops = Stops { accepting: broker.shutdown.clone(), connections: CancellationToken::new() };
        let gate = Arc::clone(&broker.bounds.gate);
        let serving = serve(listener, gate, Admission(Arc::clone(&broker)), stops.clone());
        let stopping = async {
            broker.shutdown.cancelled().await;
            broker.tasks.close();
            if timeout(grace, broker.tasks.wait()).await.is_err() {
                let sessions = broker.ledger.live().len();
                tracing::warn!(sessions, grace_s = grace.as_secs(), "the grace is over: sessions are reset");
            }
            broker.cut.cancel();
            if timeout(STOP_WAIT, broker.tasks.wait()).await.is_err() {
                tracing::warn!("not every session ended in time");
            }
            stops.connections.cancel();
        };
        tokio::join!(renewals, serving, stopping);
        drop((watching, expiry, networks));
        beside.abort();
        // What is waited for is its last word; that it was aborted is no news.
        let _ = beside.await;
        broker.networks.write().await;
        close(broker.audit.clone()).await;
        if let Some(forwarding) = &broker.forwarding {
            forwarding.finish().await;
        }
    }
}

/// A listener whose connections have this congestion control, and where it is.
async fn listen(
    address: SocketAddr,
    control: Option<&CongestionControl>,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).await.map_err(while_doing(format!("listening on {address}")))?;
    if let Some(control) = control {
        choose(&listener, control).map_err(while_doing("choosing the congestion control"))?;
    }
    let address = listener.local_addr().map_err(while_doing("asking for the address"))?;
    Ok((listener, address))
}

/// The limits as far as the machine lets them hold.
fn on_this_machine(limits: &Limits) -> Limits {
    let descriptors = host::descriptors();
    let here = limits.clone().within_descriptors(descriptors);
    if here != *limits {
        let Limits { connections, pending, .. } = here;
        tracing::warn!(descriptors, connections, pending, "too few descriptors for as many connections as configured");
    }
    here
}

/// Who is believed at the outer TLS, by the issuer's roots of the moment.
pub(crate) fn outer_trust(issuer: &dyn Issuer) -> OuterTrust {
    OuterTrust { agent: issuer.roots(Role::Agent), client: issuer.roots(Role::Client), server: None }
}

/// Opens the log that a process writes.
pub(crate) fn open_log(files: &LogFiles, process: InstanceId) -> Result<AuditLog, StartError> {
    let doing = format!("opening the audit log in {}", files.directory.display());
    AuditLog::open(files.clone(), process).map_err(while_doing(doing))
}

/// Closes the audit log, which waits for the disk.
pub(crate) async fn close(audit: AuditLog) {
    match tokio::task::spawn_blocking(move || audit.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(error = %Chain(&error), "the audit log did not close well"),
        Err(error) => tracing::error!(error = %Chain(&error), "the audit log could not be closed"),
    }
}

/// Where certificates come from, before there is a log to write about it.
enum Authority {
    Here { issuer: Arc<dyn Issuer>, enroller: Box<Enroller>, keys: Arc<KeySets> },
    Elsewhere(Arc<Remote>),
}

impl Authority {
    fn new(config: &ServerConfig, certifier: Certifier, now: SystemTime) -> Result<Self, StartError> {
        match (&config.issuer, certifier) {
            (ServerIssuer::Elsewhere(remote), Certifier::Enrolment(credential)) => {
                let keys = config.watch_keys.then(|| key_sets(&config.google, &[])).transpose()?;
                if keys.is_none() {
                    tracing::warn!("keys that are deleted at Google cut nobody off here: google.watchKeys is false");
                }
                let opened = Remote::open(remote, config, credential, keys);
                Ok(Self::Elsewhere(Arc::new(
                    opened.map_err(while_doing("reading what the enrolment elsewhere needs"))?,
                )))
            }
            (ServerIssuer::Here(_), Certifier::Issuer(issuer)) => {
                // It was read before its files were looked at; what has changed in between is taken up here.
                issuer.reload(now).map_err(while_doing("reading the issuer again"))?;
                let keys = key_sets(&config.google, &config.oidc_issuers)?;
                Ok(Self::Here { issuer, enroller: Box::new(enroller(config, now)?), keys })
            }
            (ServerIssuer::Here(_), Certifier::Enrolment(_)) | (ServerIssuer::Elsewhere(_), Certifier::Issuer(_)) => {
                Err(while_doing("starting to enrol")("that is not what the configuration says"))
            }
        }
    }

    /// Who is believed at the outer TLS, by the issuer's roots of the moment, or those that were given.
    fn trust(&self) -> OuterTrust {
        match self {
            Self::Here { issuer, .. } => outer_trust(&**issuer),
            Self::Elsewhere(remote) => remote.trust(),
        }
    }

    fn certificates(&self) -> own::Source {
        match self {
            Self::Here { issuer, .. } => own::Source::Issuer(Arc::clone(issuer)),
            Self::Elsewhere(remote) => own::Source::Remote(Arc::clone(remote)),
        }
    }

    fn enrolment(
        self,
        config: &ServerConfig,
        audit: &AuditLog,
        denials: &Arc<Denials>,
        tasks: &TaskTracker,
    ) -> Enrolment {
        match self {
            Self::Here { issuer, enroller, keys } => {
                let admissible = Admissible::new(*enroller, &config.trust_domain, &config.identities, sources(config));
                Enrolment::Here(Arc::new(Desk::new(
                    issuer,
                    keys,
                    admissible,
                    Arc::clone(denials),
                    audit.clone(),
                    tasks.clone(),
                )))
            }
            Self::Elsewhere(remote) => Enrolment::Elsewhere(remote),
        }
    }
}

/// The configuration, the keys that it names, and what the issuer reads.
fn files(broker: &Arc<Broker>, read: Seen) -> Option<Files> {
    let path = broker.source.as_ref()?.path().to_owned();
    let broker = Arc::clone(broker);
    let rest = move || broker.rules.now().files().into_iter().chain(broker.enrolment.files());
    let named = move || std::iter::once(path.clone()).chain(rest()).collect();
    Some(Files { read, named: Box::new(named) })
}

fn enroller(config: &ServerConfig, now: SystemTime) -> Result<Enroller, StartError> {
    let identities = enrol_identities(&config.trust_domain, &config.identities);
    let identities = identities.map_err(|(doing, source)| StartError { doing, source })?;
    let (issuers, _) = oidc_issuers(&config.oidc_issuers);
    Enroller::new(config.enrolment_audience.clone(), identities, issuers, now)
        .map_err(while_doing("reading the identities"))
}

/// The key sets that may be asked for.
pub(crate) fn key_sets(google: &GoogleSection, issuers: &[OidcIssuer]) -> Result<Arc<KeySets>, StartError> {
    let GoogleSection { service_account_keys, id_token_keys, ca_file, keys_fresh_for } = google.clone();
    let (_, issuers) = oidc_issuers(issuers);
    let timing = Timing { fresh_for: keys_fresh_for };
    KeySets::new(timing, service_account_keys, id_token_keys, ca_file.as_deref(), issuers)
        .map(Arc::new)
        .map_err(while_doing("getting ready to fetch public keys"))
}

fn epoch(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
