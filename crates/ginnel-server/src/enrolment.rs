//! The process that only enrols: it has the issuer and knows who may enrol, and carries nothing.
//!
//! Whoever carries sessions then holds no right to issue: it passes tokens on, and what it passes on is bound to keys that it does not have.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use ginnel_config::{EnrolmentConfig, Identity, Source};
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::id::InstanceId;
use ginnel_core::limits::{ENROL_DEADLINE, HANDSHAKE_DEADLINE, ISSUE_ANSWER_WAIT, ISSUE_WAIT, Limits};
use ginnel_core::report::Chain;
use ginnel_core::sink::Sink;
use ginnel_core::sources::Sources;
use ginnel_enrol::{Enroller, Issuer};
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::outer_server_for_strangers;
use ginnel_net::accept::{Admit, Door, Gate, NotAnnounced, Peer, Stops, serve};
use ginnel_ops::admin::Admin;
use ginnel_ops::audit::AuditLog;
use ginnel_ops::audit::forward::Forwarding;
use ginnel_ops::beside::beside;
use ginnel_ops::denials::DenialFile;
use ginnel_ops::host;
use ginnel_ops::ledger::Ledger;
use ginnel_ops::reload::{Files, InForce, Seen};
use ginnel_wire::hello::software_version;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::app::{StartError, close, key_sets, open_log, while_doing};
use crate::enrol::{Admissible, Desk, Enrol};
use crate::own::{self, OwnCertificate, Subject};
use crate::rules::{enrol_identities, key_files, oidc_issuers};
use crate::service::Calls;

use self::view::View;

mod revoke;
mod view;

/// How long enrolments may take to finish after the signal to stop: none lives longer.
const STOP_WAIT: Duration =
    HANDSHAKE_DEADLINE.saturating_add(ENROL_DEADLINE).saturating_add(ISSUE_WAIT).saturating_add(ISSUE_ANSWER_WAIT);

/// How long an issuer that was asked for somebody who has gone may take from then on, and its record. The unit's stop timeout is longer than both.
const RECORD_WAIT: Duration = ISSUE_WAIT.saturating_add(ISSUE_ANSWER_WAIT);

/// Hexadecimal digits of a version.
const VERSION_DIGITS: usize = 16;

/// A process that enrols and listens.
pub struct Enrolment {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    office: Arc<Office>,
    /// How the files were before they were read.
    read: Option<Seen>,
    renew_after: Duration,
    admin: Admin,
}

/// What every connection shares, and the admin listeners show.
struct Office {
    id: InstanceId,
    /// What the file said, as far as it is in force.
    config: RwLock<Arc<EnrolmentConfig>>,
    shown: InForce,
    source: Option<Source<EnrolmentConfig>>,
    /// One reload or revocation at a time: an older file must not come into force after a newer one.
    replacing: Mutex<()>,
    desk: Arc<Desk>,
    denial_file: DenialFile,
    own: OwnCertificate,
    audit: AuditLog,
    /// What takes the records of that log elsewhere as well.
    forwarding: Option<Forwarding>,
    /// Empty: it carries no session.
    ledger: Ledger,
    /// Enrolments whose issuer was asked.
    tasks: TaskTracker,
    shutdown: CancellationToken,
    started: Timestamp,
}

impl Office {
    fn config(&self) -> Arc<EnrolmentConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, event: Event) {
        if let Err(error) = self.audit.record(event) {
            tracing::error!(error = %Chain(&error), "could not record an event");
        }
    }
}

impl Enrolment {
    /// Opens the audit log and the listeners, and lets the issuer sign the process's own certificate. `sink` is given what goes into the log, if there is one. `source` is where `config` comes from
    /// and is read again on a reload; without it there are none.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had.
    pub async fn start(
        config: EnrolmentConfig,
        issuer: Arc<dyn Issuer>,
        sink: Option<Arc<dyn Sink>>,
        source: Option<(Source<EnrolmentConfig>, Seen)>,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let id = InstanceId::random(&mut SystemRandom);
        let (source, read) = source.unzip();
        let read = read.map(|config_file| config_file.and(Seen::now(key_files(&config.identities))));
        let read = read.map(|files| files.and(Seen::now(issuer.files())));
        // It was read before its files were looked at; what has changed in between is taken up here.
        issuer.reload(now).map_err(while_doing("reading the issuer again"))?;
        let admissible = admissible(&config, now)?;
        let keys = key_sets(&config.google, &config.oidc_issuers)?;
        let tasks = TaskTracker::new();
        let own = OwnCertificate::new(config.renewal);
        let tls = outer_server_for_strangers(&own.current).map_err(while_doing("setting TLS up"))?;
        let (renew_after, issued) = own::Source::Issuer(Arc::clone(&issuer))
            .renew(&subject(&config), &own)
            .await
            .map_err(while_doing("making the process's own certificate"))?;
        let directory = config.audit.directory.as_path();
        let audit = open_log(&config.audit, id)?;
        let forwarding = sink.map(|sink| Forwarding::start(directory, sink, SystemRandom));
        let (denial_file, denials) =
            DenialFile::open(&config.denials_file()).map_err(while_doing("reading what is denied"))?;
        let version = version(&config.identities);
        let started = Event::Started { version: Text::new(software_version()), policy: version.clone() };
        for event in [started, issued] {
            let recorded = async { audit.record(event)?.await };
            recorded.await.map_err(while_doing("writing to the audit log"))?;
        }
        let admin = Admin::open(config.server.admin.listen, config.server.admin.socket.clone());
        let admin = admin.await.map_err(while_doing("opening the admin listeners"))?;
        let address = config.server.listen;
        let listener = TcpListener::bind(address).await.map_err(while_doing(format!("listening on {address}")))?;
        let address = listener.local_addr().map_err(while_doing("asking for the address"))?;
        let office = Office {
            id,
            shown: InForce::new(version.as_str().to_owned(), config.identities.len()),
            config: RwLock::new(Arc::new(config)),
            source,
            replacing: Mutex::default(),
            desk: Arc::new(Desk::new(issuer, keys, admissible, Arc::new(denials), audit.clone(), tasks.clone())),
            denial_file,
            tasks,
            own,
            audit,
            forwarding,
            ledger: Ledger::new(ginnel_core::principal::Role::Server),
            shutdown,
            started: Timestamp::from(now),
        };
        Ok(Self { listener, address, tls, office: Arc::new(office), read, renew_after, admin })
    }

    /// The address that it listens on; tells the port where the configuration said 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it can be asked, if anywhere.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// Serves until the signal to stop. Then it accepts nothing new, lets enrolments finish, and closes the log.
    pub async fn run(self) {
        let Self { listener, address, tls, office, read, renew_after, admin } = self;
        tracing::info!(listener = "enrolment", %address, "listening");
        let files = read.and_then(|read| files(&office, read));
        let shutdown = office.shutdown.clone();
        let beside = beside(admin, Arc::new(View(Arc::clone(&office))), files, shutdown.clone());
        let beside = AbortOnDropHandle::new(tokio::spawn(beside));
        let stops = Stops { accepting: shutdown.clone(), connections: CancellationToken::new() };
        let door = Door { tls, balancers: None };
        let gate = Arc::new(Gate::new(door, &Limits::default().within_descriptors(host::descriptors())));
        let serving = serve(listener, gate, Reception(Arc::clone(&office.desk)), stops.clone());
        // An enrolment that is under way has what it needs: the certificate is not renewed any more.
        let (source, subject) = (own::Source::Issuer(Arc::clone(&office.desk.issuer)), subject(&office.config()));
        let renewals =
            own::keep(&source, &subject, &office.own, renew_after, |event| office.note(event), shutdown.clone());
        let cutting = async {
            shutdown.cancelled().await;
            sleep(STOP_WAIT).await;
            stops.connections.cancel();
        };
        let working = async { tokio::join!(renewals, serving) };
        tokio::select! {
            _ = working => {}
            () = async { cutting.await; std::future::pending().await } => {}
        }
        beside.abort();
        // What is waited for is its last word; that it was aborted is no news.
        let _ = beside.await;
        // What an issuer signs goes on record, also when the caller has gone.
        office.tasks.close();
        if timeout(RECORD_WAIT, office.tasks.wait()).await.is_err() {
            tracing::warn!("not every enrolment ended in time");
        }
        close(office.audit.clone()).await;
        if let Some(forwarding) = &office.forwarding {
            forwarding.finish().await;
        }
    }
}

/// Lets everybody ask for a certificate, and nobody for anything else.
#[derive(Clone)]
struct Reception(Arc<Desk>);

impl Admit for Reception {
    type Calls = Calls;

    /// Agents and clients come through a server, whose ranges they have passed.
    fn might_come_from(&self, _: IpAddr) -> bool {
        true
    }

    fn turned_away(&self, _: SocketAddr) {}

    fn not_announced(&self, _: SocketAddr, _: &NotAnnounced) {}

    fn admit(&self, peer: Peer) -> Option<Calls> {
        let Peer { address: peer, closed, admitted, leaf: _ } = peer;
        // Servers pass on what comes from everywhere: each counts failures by where they come from, here they would all count together.
        let enrol = Enrol { desk: Arc::clone(&self.0), peer, admitted, failures: None };
        Some(Calls::anonymous(enrol, closed))
    }
}

fn subject(config: &EnrolmentConfig) -> Subject {
    Subject { trust_domain: config.trust_domain.clone(), server_name: config.server.name.to_string() }
}

fn admissible(config: &EnrolmentConfig, now: SystemTime) -> Result<Admissible, StartError> {
    let EnrolmentConfig { trust_domain, identities, enrolment_audience, oidc_issuers: oidc_issuers_in_file, .. } =
        config;
    let enrol = enrol_identities(trust_domain, identities)
        .map_err(|(doing, source): (String, Box<dyn Error + Send + Sync>)| while_doing(doing)(source))?;
    let (issuers, _) = oidc_issuers(oidc_issuers_in_file);
    let enroller = Enroller::new(enrolment_audience.clone(), enrol, issuers, now);
    let enroller = enroller.map_err(while_doing("reading the identities"))?;
    Ok(Admissible::new(enroller, trust_domain, identities, sources(identities)))
}

/// Where servers may come from. Of agents and clients only the server knows.
fn sources(identities: &[Identity]) -> Sources {
    let identities = identities.iter();
    Sources::new([], identities.map(|identity| (identity.role, &identity.name, identity.source_ranges.as_ref())))
}

/// The configuration, and the keys that it names.
fn files(office: &Arc<Office>, read: Seen) -> Option<Files> {
    let path = office.source.as_ref()?.path().to_owned();
    let office = Arc::clone(office);
    let rest = move || key_files(&office.config().identities).into_iter().chain(office.desk.issuer.files());
    let named = move || std::iter::once(path.clone()).chain(rest()).collect();
    Some(Files { read, named: Box::new(named) })
}

/// A version that says the same of the same identities everywhere; their order does not count.
fn version(identities: &[Identity]) -> Text {
    let mut lines: Vec<_> = identities
        .iter()
        .map(|identity| {
            let Identity { name, role, email, public_keys, unique_id, oidc, server_names, source_ranges } = identity;
            let ranges = source_ranges.as_ref().map(ToString::to_string);
            format!(
                "{role} {name} {email} {public_keys:?} {unique_id:?} {oidc:?} {} {ranges:?}\n",
                server_names.join(",")
            )
        })
        .collect();
    lines.sort_unstable();
    let hash = digest::digest(&digest::SHA256, lines.concat().as_bytes());
    let hex = Text::hex(hash.as_ref());
    Text::new(&hex.as_str()[..VERSION_DIGITS.min(hex.as_str().len())])
}
