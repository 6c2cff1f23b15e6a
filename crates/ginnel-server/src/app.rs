//! Builds the server from its configuration and runs it.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ginnel_config::{ServerConfig, ServerIssuer, ServerSection, Source};
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::budget::Budget;
use ginnel_core::id::InstanceId;
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_enrol::{Enroller, Issuer};
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{OuterTrust, outer_server};
use ginnel_net::accept::{Stops, serve};
use ginnel_net::congestion::choose;
use ginnel_ops::admin::Admin;
use ginnel_ops::audit::AuditLog;
use ginnel_ops::beside::beside;
use ginnel_ops::ledger::Ledger;
use ginnel_ops::reload::{Files, Seen};
use ginnel_wire::hello::software_version;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admit::Admission;
use crate::broker::{Broker, Rosters};
use crate::connections::Connections;
use crate::directory::InMemory;
use crate::enrol::{Admissible, Desk};
use crate::own::{self, OwnCertificate, Subject};
use crate::remote::{Enrolment, Remote};
use crate::rules::{InForceRules, Rules, enrol_identities, key_files};
use crate::view::View;

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

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
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
    /// Opens the audit log and the listeners, and lets the issuer sign the server's own certificate. Where another process enrols there is no
    /// issuer, and the certificate comes when that process answers. `source` is where `config` comes from and is read again on a reload;
    /// without it there are none.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had.
    pub async fn start(
        config: ServerConfig,
        issuer: Option<Arc<dyn Issuer>>,
        source: Option<(Source<ServerConfig>, Seen)>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let server_id = InstanceId::random(&mut SystemRandom);
        let subject =
            Subject { trust_domain: config.trust_domain.clone(), server_name: config.server.name.to_string() };
        let (source, read) = source.unzip();
        let read = read.map(|config_file| config_file.and(Seen::now(key_files(&config.identities))));
        let authority = Authority::new(&config, issuer, now)?;
        let own = OwnCertificate::default();
        let tls = outer_server(&own.current, authority.trust()).map_err(while_doing("setting TLS up"))?;
        let certificates = authority.certificates();
        let (renew_after, issued) = match &authority {
            Authority::Here(..) => {
                let made = certificates.renew(&subject, &own).await;
                let (renew_after, issued) = made.map_err(while_doing("making the server's own certificate"))?;
                (renew_after, Some(issued))
            }
            // It need not be there yet: whoever starts both need not start one before the other.
            Authority::Elsewhere(_) => (Duration::ZERO, None),
        };
        let directory = config.audit_directory.as_path();
        let audit = AuditLog::open(directory, server_id)
            .map_err(while_doing(format!("opening the audit log in {}", directory.display())))?;
        let address = config.server.listen;
        let ServerSection { admin, shutdown_grace: grace, congestion_control, .. } = config.server.clone();
        let enrolment = authority.enrolment(&config, &audit);
        let rules = Rules::new(config);
        let started = Event::Started { version: Text::new(software_version()), policy: rules.version.clone() };
        for event in [Some(started), issued].into_iter().flatten() {
            let recorded = async { audit.record(event)?.await };
            recorded.await.map_err(while_doing("writing to the audit log"))?;
        }
        let admin =
            Admin::open(admin.listen, admin.socket).await.map_err(while_doing("opening the admin listeners"))?;
        let listener = TcpListener::bind(address).await.map_err(while_doing(format!("listening on {address}")))?;
        if let Some(control) = &congestion_control {
            choose(&listener, control).map_err(while_doing("choosing the congestion control"))?;
        }
        let address = listener.local_addr().map_err(while_doing("asking for the address"))?;
        let broker = Broker {
            server_id,
            epoch: epoch(now),
            rules: InForceRules::new(rules),
            source,
            reloading: Mutex::default(),
            connections: Connections::default(),
            ledger: Ledger::new(Role::Server),
            budget: Budget::default(),
            directory: Box::new(InMemory::default()),
            leases: Arc::default(),
            rosters: Rosters::default(),
            audit,
            own,
            enrolment,
            tasks: TaskTracker::new(),
            shutdown,
            cut: CancellationToken::new(),
            started: Timestamp::from(now),
        };
        let broker = Arc::new(broker);
        Ok(Self { listener, address, tls, broker, read, certificates, subject, renew_after, admin, grace })
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
        let Self { listener, tls, broker, read, certificates, subject, renew_after, address, admin, grace } = self;
        tracing::info!(listener = "server", %address, "listening");
        let files = read.and_then(|read| files(&broker, read));
        let beside = beside(admin, Arc::new(View(Arc::clone(&broker))), files, broker.shutdown.clone());
        let beside = AbortOnDropHandle::new(tokio::spawn(beside));
        let note = |event| broker.note(event);
        let renewals = own::keep(&certificates, &subject, &broker.own, renew_after, note, broker.cut.clone());
        // Connections go when sessions have left their records, so they hang on a token of their own.
        let stops = Stops { accepting: broker.shutdown.clone(), connections: CancellationToken::new() };
        let serving = serve(listener, tls, Admission(Arc::clone(&broker)), stops.clone());
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
        beside.abort();
        // What is waited for is its last word; that it was aborted is no news.
        let _ = beside.await;
        close(broker.audit.clone()).await;
    }
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
    Here(Arc<dyn Issuer>, Box<Enroller>),
    Elsewhere(Arc<Remote>),
}

impl Authority {
    fn new(config: &ServerConfig, issuer: Option<Arc<dyn Issuer>>, now: SystemTime) -> Result<Self, StartError> {
        match (&config.issuer, issuer) {
            (ServerIssuer::Elsewhere(remote), _) => {
                let opened = Remote::open(remote, config);
                Ok(Self::Elsewhere(Arc::new(
                    opened.map_err(while_doing("reading what the enrolment elsewhere needs"))?,
                )))
            }
            (ServerIssuer::Here(_), Some(issuer)) => Ok(Self::Here(issuer, Box::new(enroller(config, now)?))),
            (ServerIssuer::Here(_), None) => Err(while_doing("starting to enrol")("there is no issuer")),
        }
    }

    /// Who is believed at the outer TLS, by the issuer's roots of the moment, or those that were given.
    fn trust(&self) -> OuterTrust {
        match self {
            Self::Here(issuer, _) => {
                OuterTrust { agent: issuer.roots(Role::Agent), client: issuer.roots(Role::Client), server: None }
            }
            Self::Elsewhere(remote) => remote.trust(),
        }
    }

    fn certificates(&self) -> own::Source {
        match self {
            Self::Here(issuer, _) => own::Source::Issuer(Arc::clone(issuer)),
            Self::Elsewhere(remote) => own::Source::Remote(Arc::clone(remote)),
        }
    }

    fn enrolment(self, config: &ServerConfig, audit: &AuditLog) -> Enrolment {
        match self {
            Self::Here(issuer, enroller) => {
                let admissible = Admissible::new(*enroller, &config.trust_domain, &config.identities);
                Enrolment::Here(Arc::new(Desk::new(issuer, admissible, audit.clone())))
            }
            Self::Elsewhere(remote) => Enrolment::Elsewhere(remote),
        }
    }
}

/// The configuration, and the keys that it names.
fn files(broker: &Arc<Broker>, read: Seen) -> Option<Files> {
    let path = broker.source.as_ref()?.path().to_owned();
    let broker = Arc::clone(broker);
    let named = move || std::iter::once(path.clone()).chain(broker.rules.now().files()).collect();
    Some(Files { read, named: Box::new(named) })
}

fn enroller(config: &ServerConfig, now: SystemTime) -> Result<Enroller, StartError> {
    let identities = enrol_identities(&config.trust_domain, &config.identities);
    let identities = identities.map_err(|(doing, source)| StartError { doing, source })?;
    Enroller::new(config.enrolment_audience.clone(), identities, now).map_err(while_doing("reading the identities"))
}

fn epoch(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
