//! The server's own certificate, which it issues to itself or gets where it enrols, and renews.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::backoff::Backoff;
use ginnel_core::principal::{Name, Principal, Role, TrustDomain};
use ginnel_core::renewal::{Renewal, retry_after};
use ginnel_core::report::Chain;
use ginnel_core::status::{Certificate, Failure, Renewals};
use ginnel_enrol::{CertificateRequest, IssueError, Issuer};
use ginnel_identity::certificate::Identity;
use ginnel_identity::key::KeyPair;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::CurrentIdentity;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::remote::{CertifyError, Remote};

/// No renewal comes sooner after the last one: a third of the shortest lifetime that is accepted is about as long.
const RENEW_FLOOR: Duration = Duration::from_secs(1);

/// Failed renewals are tried again soon, and then at most so far apart: agents and clients wait for a server whose certificate has expired, and
/// servers are few.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

/// How often the wall clock is asked whether the certificate in use is valid. One that was issued while the clock was wrong is believed by nobody
/// once it is right again, and the monotonic clock stands still while a machine is suspended.
const CLOCK_LOOK: Duration = Duration::from_secs(2);

/// Why the server has no certificate of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    /// The process that enrols gave none (environment, configuration).
    #[error("could not get the server's own certificate")]
    Certify(#[from] CertifyError),
    /// No key could be made, or the issuer's answer is unusable (us).
    #[error("could not make the server's own key or certificate")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The issuer refused (configuration, environment).
    #[error("could not issue the server's own certificate")]
    Issue(#[source] IssueError),
}

/// Where the server's own certificate comes from.
pub(crate) enum Source {
    /// An issuer of its own.
    Issuer(Arc<dyn Issuer>),
    /// The process that enrols.
    Remote(Arc<Remote>),
}

/// Whom the certificate is for.
pub(crate) struct Subject {
    pub(crate) trust_domain: TrustDomain,
    /// The name under which it is reached.
    pub(crate) server_name: String,
}

/// The server's own certificate, and how its renewals went.
#[derive(Debug, Default)]
pub(crate) struct OwnCertificate {
    pub(crate) current: CurrentIdentity,
    renewal: Renewal,
    state: Mutex<(Renewals, Option<Failure>)>,
    /// It is to be renewed although it is not time.
    early: Notify,
}

impl OwnCertificate {
    /// None yet; the ones to come are renewed at `renewal`.
    pub(crate) fn new(renewal: Renewal) -> Self {
        Self { renewal, ..Self::default() }
    }

    fn is_valid_at(&self, now: SystemTime) -> bool {
        self.current.get().is_some_and(|identity| identity.leaf().is_valid_at(now))
    }

    /// How long the certificate in use is valid yet.
    fn left(&self, now: SystemTime) -> Duration {
        let identity = self.current.get();
        identity.and_then(|identity| identity.leaf().not_after.duration_since(now).ok()).unwrap_or_default()
    }

    fn renewed(&self) {
        let mut state = self.lock();
        state.0.renewed += 1;
        state.1 = None;
    }

    fn failed(&self, error: String) {
        let mut state = self.lock();
        state.0.failed += 1;
        state.1 = Some(Failure { time: Timestamp::from(SystemTime::now()), error });
    }

    /// Lets it be renewed at once, because its issuer's root is another.
    pub(crate) fn renew_soon(&self) {
        self.early.notify_one();
    }

    /// How renewals went, and why the last one failed, if it did.
    pub(crate) fn renewals(&self) -> (Renewals, Option<Failure>) {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Renewals, Option<Failure>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnCertificate {
    /// As a status shows it.
    pub(crate) fn shown(&self, now: SystemTime) -> Option<Certificate> {
        let identity = self.current.get()?;
        let leaf = identity.leaf();
        Some(Certificate {
            serial: leaf.serial.clone(),
            not_after: Timestamp::from(leaf.not_after),
            remaining_seconds: leaf.not_after.duration_since(now).unwrap_or_default().as_secs(),
            renewal_failure: self.renewals().1,
            credential: None,
            proof: None,
            verified_by: None,
        })
    }
}

impl Source {
    /// Gets the first certificate, if it comes from here. Another process that enrols need not be there yet: whoever starts both need not start
    /// one before the other.
    pub(crate) async fn begin(
        &self,
        subject: &Subject,
        own: &OwnCertificate,
    ) -> Result<(Duration, Option<Event>), OwnError> {
        match self {
            Self::Issuer(_) => self.renew(subject, own).await.map(|(renew_after, issued)| (renew_after, Some(issued))),
            Self::Remote(_) => Ok((Duration::ZERO, None)),
        }
    }

    /// Gets a certificate and puts it to use; tells when to renew it.
    pub(crate) async fn renew(&self, subject: &Subject, own: &OwnCertificate) -> Result<(Duration, Event), OwnError> {
        let (identity, spki_sha256) = match self {
            Self::Issuer(issuer) => issue(&**issuer, subject, own).await?,
            Self::Remote(remote) => (remote.certify(&subject.trust_domain, &subject.server_name).await?, None),
        };
        let leaf = identity.leaf();
        let event = Event::CertificateIssued {
            principal: leaf.principal.clone(),
            serial: Text::new(&leaf.serial),
            not_after: Timestamp::from(leaf.not_after),
            spki_sha256,
        };
        let lifetime = leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        own.current.set(identity);
        own.renewed();
        Ok((own.renewal.next(lifetime, &mut SystemRandom).max(RENEW_FLOOR), event))
    }
}

async fn issue(
    issuer: &dyn Issuer,
    subject: &Subject,
    own: &OwnCertificate,
) -> Result<(Identity, Option<Text>), OwnError> {
    let Subject { trust_domain, server_name } = subject;
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| OwnError::Identity(error);
    let key = KeyPair::generate().map_err(|error| unusable(error.into()))?;
    let request = CertificateRequest {
        principal: principal(trust_domain, server_name),
        // Names may have underscores, e-mails of service accounts may not.
        email: format!("server@{}", server_name.replace('_', "-")),
        spki_der: key.spki_der().to_vec(),
        server_names: vec![server_name.clone()],
        evidence: None,
        renews: own.current.get().map(|identity| identity.leaf().not_after),
    };
    let spki_sha256 = Text::hex(&key.spki_sha256());
    let issued = issuer.issue(&request, SystemTime::now()).await.map_err(OwnError::Issue)?;
    let identity = Identity::new(issued.chain, key).map_err(|error| unusable(error.into()))?;
    Ok((identity, Some(spki_sha256)))
}

/// The principal of a server: its name is the first label of `server.name`, which is a legal one.
pub(crate) fn principal(trust_domain: &TrustDomain, server_name: &str) -> Principal {
    let label = server_name.split('.').next().unwrap_or_default().replace('_', "-");
    let name: Result<Name, _> = label.trim_matches('-').parse();
    let fallback = || "server".parse();
    let name = name.or_else(|_| fallback());
    match name {
        Ok(name) => Principal { trust_domain: trust_domain.clone(), role: Role::Server, name },
        Err(_) => unreachable!("\"server\" is a name"),
    }
}

/// Renews until `stop`, for the first time after `first`. The certificate in use stays until the next one is there.
pub(crate) async fn keep(
    source: &Source,
    subject: &Subject,
    own: &OwnCertificate,
    first: Duration,
    note: impl Fn(Event),
    stop: CancellationToken,
) {
    let mut wait = first;
    let mut retry = RETRY;
    loop {
        // If the clock refuted it from the first, or a renewal by the clock has failed, the next one waits for its time.
        let is_by_the_clock = own.is_valid_at(SystemTime::now());
        tokio::select! {
            () = stop.cancelled() => return,
            () = come(Instant::now() + wait, own, is_by_the_clock) => {}
            () = own.early.notified() => {}
        }
        let renewed = tokio::select! {
            () = stop.cancelled() => return,
            renewed = source.renew(subject, own) => renewed,
        };
        wait = match renewed {
            Ok((next, event)) => {
                tracing::info!("the server's own certificate was renewed");
                note(event);
                retry.reset();
                next
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "could not renew the server's certificate");
                own.failed(Chain(&error).to_string());
                retry_after(retry.next(&mut SystemRandom), own.left(SystemTime::now()))
            }
        };
    }
}

/// Waits until `at`, or until the wall clock says that the certificate in use is not valid.
async fn come(at: Instant, own: &OwnCertificate, is_by_the_clock: bool) {
    while Instant::now() < at && (!is_by_the_clock || own.is_valid_at(SystemTime::now())) {
        sleep_until(at.min(Instant::now() + CLOCK_LOOK)).await;
    }
}
