//! Builds the server from its configuration and runs it.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ginnel_config::{ServerConfig, ServerSection, Source};
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::budget::Budget;
use ginnel_core::id::InstanceId;
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_enrol::{EmbeddedIssuer, Enroller, Issuer};
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
use crate::own::{self, OwnCertificate};
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

fn while_doing<E: Into<Box<dyn Error + Send + Sync>>>(doing: impl Into<String>) -> impl FnOnce(E) -> StartError {
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
    server_name: String,
    renew_after: Duration,
    admin: Admin,
    grace: Duration,
}

impl Server {
    /// Opens the issuer, the audit log and the listeners, and makes the server's own certificate. `source` is where `config` comes from and
    /// is read again on a reload; without it there are none.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had.
    pub async fn start(
        config: ServerConfig,
        source: Option<(Source<ServerConfig>, Seen)>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let server_id = InstanceId::random(&mut SystemRandom);
        let server_name = config.server.name.to_string();
        let (source, read) = source.unzip();
        let read = read.map(|config_file| config_file.and(Seen::now(key_files(&config))));
        let enroller = enroller(&config, now)?;
        let issuer = &config.issuer;
        let directory = issuer.directory.as_path();
        let opened = EmbeddedIssuer::open(directory, &config.trust_domain, issuer.certificate_lifetime, now);
        let issuer = opened.map_err(while_doing(format!("opening the issuer in {}", directory.display())))?;
        let own = OwnCertificate::new(config.renewal);
        let trust = OuterTrust { agent: issuer.roots(Role::Agent), client: issuer.roots(Role::Client), server: None };
        let tls = outer_server(&own.current, trust).map_err(while_doing("setting TLS up"))?;
        let principal = own::principal(&config.trust_domain, &server_name);
        let (renew_after, issued) = own::renew(&issuer, &principal, &server_name, &own)
            .await
            .map_err(while_doing("making the server's own certificate"))?;
        let directory = config.audit_directory.as_path();
        let audit = AuditLog::open(directory, server_id)
            .map_err(while_doing(format!("opening the audit log in {}", directory.display())))?;
        let address = config.server.listen;
        let ServerSection { admin, shutdown_grace: grace, congestion_control, .. } = config.server.clone();
        let trust_domain = config.trust_domain.clone();
        let rules = Rules::new(config, enroller);
        let started = Event::Started { version: Text::new(software_version()), policy: rules.version.clone() };
        for event in [started, issued] {
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
            trust_domain,
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
            enrolments: Mutex::default(),
            own,
            issuer: Box::new(issuer),
            tasks: TaskTracker::new(),
            shutdown,
            cut: CancellationToken::new(),
            started: Timestamp::from(now),
        };
        Ok(Self { listener, address, tls, broker: Arc::new(broker), read, server_name, renew_after, admin, grace })
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
        let Self { listener, tls, broker, read, server_name, renew_after, address, admin, grace } = self;
        tracing::info!(listener = "server", %address, "listening");
        let files = read.and_then(|read| files(&broker, read));
        let beside = beside(admin, Arc::new(View(Arc::clone(&broker))), files, broker.shutdown.clone());
        let beside = AbortOnDropHandle::new(tokio::spawn(beside));
        let renewals = own::keep(Arc::clone(&broker), server_name, renew_after);
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
        let audit = broker.audit.clone();
        // Closing waits for the disk.
        match tokio::task::spawn_blocking(move || audit.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "the audit log did not close well"),
            Err(error) => tracing::error!(error = %Chain(&error), "the audit log could not be closed"),
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
    let identities = enrol_identities(config).map_err(|(doing, source)| StartError { doing, source })?;
    Enroller::new(config.enrolment_audience.clone(), identities, now).map_err(while_doing("reading the identities"))
}

fn epoch(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
