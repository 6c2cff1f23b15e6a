//! Builds the server from its configuration and runs it.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use ginnel_config::ServerConfig;
use ginnel_core::audit::{Event, Text};
use ginnel_core::id::InstanceId;
use ginnel_core::policy::Policy;
use ginnel_core::principal::{Principal, Role};
use ginnel_core::report::Chain;
use ginnel_enrol::{EmbeddedIssuer, EnrolIdentity, Enroller, Issuer, PublicKey};
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{CurrentIdentity, OuterTrust, outer_server};
use ginnel_net::accept::{Stops, serve};
use ginnel_ops::audit::AuditLog;
use ginnel_wire::hello::software_version;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admit::Admission;
use crate::broker::{Broker, Rosters};
use crate::directory::InMemory;
use crate::own;

/// How long sessions may take to hear of a shutdown and to leave their records.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Hexadecimal digits of a policy's version.
const VERSION_DIGITS: usize = 16;

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
    server_name: String,
    current: CurrentIdentity,
    renew_after: Duration,
}

impl Server {
    /// Opens the issuer, the audit log and the listener, and makes the server's own certificate.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had.
    pub async fn start(config: ServerConfig, shutdown: CancellationToken) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let server_id = InstanceId::random(&mut SystemRandom);
        let server_name = config.server.name.to_string();
        let enroller = enroller(&config, now)?;
        let issuer = &config.issuer;
        let directory = issuer.directory.as_path();
        let opened = EmbeddedIssuer::open(directory, &config.trust_domain, issuer.certificate_lifetime, now);
        let issuer = opened.map_err(while_doing(format!("opening the issuer in {}", directory.display())))?;
        let current = CurrentIdentity::default();
        let trust = OuterTrust { agent: issuer.roots(Role::Agent), client: issuer.roots(Role::Client), server: None };
        let tls = outer_server(&current, trust).map_err(while_doing("setting TLS up"))?;
        let principal = own::principal(&config.trust_domain, &server_name);
        let (renew_after, issued) = own::renew(&issuer, &principal, &server_name, &current)
            .map_err(while_doing("making the server's own certificate"))?;
        let directory = config.audit_directory.as_path();
        let audit = AuditLog::open(directory, server_id)
            .map_err(while_doing(format!("opening the audit log in {}", directory.display())))?;
        let identities = config.identities.iter().map(|identity| {
            let (trust_domain, name) = (config.trust_domain.clone(), identity.name.clone());
            (Principal { trust_domain, role: identity.role, name }, identity.email.clone())
        });
        let identities = identities.collect();
        let policy = Policy::new(config.rules);
        let policy_version = version(&policy);
        let started = Event::Started { version: Text::new(software_version()), policy: policy_version.clone() };
        for event in [started, issued] {
            let recorded = async { audit.record(event)?.await };
            recorded.await.map_err(while_doing("writing to the audit log"))?;
        }
        let address = config.server.listen;
        let listener = TcpListener::bind(address).await.map_err(while_doing(format!("listening on {address}")))?;
        let address = listener.local_addr().map_err(while_doing("asking for the address"))?;
        let broker = Broker {
            server_id,
            epoch: epoch(now),
            trust_domain: config.trust_domain,
            identities,
            policy,
            policy_version,
            directory: Box::new(InMemory::default()),
            leases: Arc::default(),
            rosters: Rosters::default(),
            audit,
            enroller,
            issuer: Box::new(issuer),
            tasks: TaskTracker::new(),
            shutdown,
        };
        Ok(Self { listener, address, tls, broker: Arc::new(broker), server_name, current, renew_after })
    }

    /// The address that it listens on; tells the port where the configuration said 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then ends every session with a reset and closes the log.
    pub async fn run(self) {
        let Self { listener, tls, broker, server_name, current, renew_after, address } = self;
        tracing::info!(listener = "server", %address, "listening");
        let renewals = own::keep(Arc::clone(&broker), server_name, current, renew_after);
        // Connections go when sessions have left their records, so they hang on a token of their own.
        let stops = Stops { accepting: broker.shutdown.clone(), connections: CancellationToken::new() };
        let serving = serve(listener, tls, Admission(Arc::clone(&broker)), stops.clone());
        let stopping = async {
            broker.shutdown.cancelled().await;
            broker.tasks.close();
            if timeout(STOP_WAIT, broker.tasks.wait()).await.is_err() {
                tracing::warn!("not every session ended in time");
            }
            stops.connections.cancel();
        };
        tokio::join!(renewals, serving, stopping);
        let audit = broker.audit.clone();
        // Closing waits for the disk.
        match tokio::task::spawn_blocking(move || audit.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "the audit log did not close well"),
            Err(error) => tracing::error!(error = %Chain(&error), "the audit log could not be closed"),
        }
    }
}

fn enroller(config: &ServerConfig, now: SystemTime) -> Result<Enroller, StartError> {
    let mut identities = Vec::new();
    for identity in &config.identities {
        let mut keys = Vec::new();
        for path in &identity.public_keys {
            keys.push(
                PublicKey::read(path).map_err(while_doing(format!("reading the public key of {}", identity.name)))?,
            );
        }
        let principal =
            Principal { trust_domain: config.trust_domain.clone(), role: identity.role, name: identity.name.clone() };
        identities.push(EnrolIdentity { principal, email: identity.email.clone(), keys });
    }
    Enroller::new(config.enrolment_audience.clone(), identities, now).map_err(while_doing("reading the identities"))
}

/// A version that says the same of the same rules on every server.
fn version(policy: &Policy) -> Text {
    let hash = digest::digest(&digest::SHA256, policy.canonical_text().as_bytes());
    let hex = Text::hex(hash.as_ref());
    Text::new(&hex.as_str()[..VERSION_DIGITS.min(hex.as_str().len())])
}

fn epoch(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
