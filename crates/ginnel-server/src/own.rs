//! The server's own certificate, which it issues to itself and renews.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::backoff::Backoff;
use ginnel_core::principal::{Name, Principal, Role};
use ginnel_core::renewal::{Renewal, retry_after};
use ginnel_core::report::Chain;
use ginnel_core::status::{Failure, Renewals};
use ginnel_enrol::{CertificateRequest, IssueError, Issuer};
use ginnel_identity::certificate::Identity;
use ginnel_identity::key::KeyPair;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::CurrentIdentity;
use tokio::time::{Instant, sleep_until};

use crate::broker::Broker;

/// No renewal comes sooner after the last one; a third of the shortest lifetime that is accepted is about as long.
const RENEW_FLOOR: Duration = Duration::from_secs(1);

/// How often the wall clock is asked whether the certificate in use is valid. One that was issued while the clock was wrong is believed by nobody
/// once it is right again, and the monotonic clock stands still while a machine is suspended.
const CLOCK_LOOK: Duration = Duration::from_secs(2);

/// Why the server has no certificate of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    /// No key could be made, or the issuer's answer is unusable (us).
    #[error("could not make the server's own key or certificate")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The issuer refused (configuration, environment).
    #[error("could not issue the server's own certificate")]
    Issue(#[source] IssueError),
}

/// The server's own certificate, and how its renewals went.
#[derive(Debug, Default)]
pub(crate) struct OwnCertificate {
    pub(crate) current: CurrentIdentity,
    renewal: Renewal,
    state: Mutex<(Renewals, Option<Failure>)>,
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

    /// How renewals went, and why the last one failed, if it did.
    pub(crate) fn renewals(&self) -> (Renewals, Option<Failure>) {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Renewals, Option<Failure>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Issues a certificate for `server_name` and puts it to use; tells when to renew it.
pub(crate) async fn renew(
    issuer: &dyn Issuer,
    principal: &Principal,
    server_name: &str,
    own: &OwnCertificate,
) -> Result<(Duration, Event), OwnError> {
    let now = SystemTime::now();
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| OwnError::Identity(error);
    let key = KeyPair::generate().map_err(|error| unusable(error.into()))?;
    let request = CertificateRequest {
        principal: principal.clone(),
        // Names may have underscores, e-mails of service accounts may not.
        email: format!("server@{}", server_name.replace('_', "-")),
        spki_der: key.spki_der().to_vec(),
        server_names: vec![server_name.to_owned()],
    };
    let spki_sha256 = Some(Text::hex(&key.spki_sha256()));
    let issued = issuer.issue(&request, now).await.map_err(OwnError::Issue)?;
    let identity = Identity::new(issued.chain, key).map_err(|error| unusable(error.into()))?;
    let lifetime = issued.not_after.duration_since(now).unwrap_or_default();
    own.current.set(identity);
    own.renewed();
    let event = Event::CertificateIssued {
        principal: principal.clone(),
        serial: Text::new(issued.serial),
        not_after: Timestamp::from(issued.not_after),
        spki_sha256,
    };
    Ok((own.renewal.next(lifetime, &mut SystemRandom).max(RENEW_FLOOR), event))
}

/// The principal of a server: its name is the first label of `server.name`, which is a legal one.
pub(crate) fn principal(trust_domain: &ginnel_core::principal::TrustDomain, server_name: &str) -> Principal {
    let label = server_name.split('.').next().unwrap_or_default().replace('_', "-");
    let name: Result<Name, _> = label.trim_matches('-').parse();
    let fallback = || "server".parse();
    let name = name.or_else(|_| fallback());
    match name {
        Ok(name) => Principal { trust_domain: trust_domain.clone(), role: Role::Server, name },
        Err(_) => unreachable!("\"server\" is a name"),
    }
}

/// Renews until shutdown. The certificate in use stays until the next one is there.
pub(crate) async fn keep(broker: Arc<Broker>, server_name: String, first: Duration) {
    let principal = principal(&broker.trust_domain, &server_name);
    let mut retry = Backoff::RECONNECT;
    let mut wait = first;
    loop {
        // If the clock refuted it from the first, or a renewal by the clock has failed, the next one waits for its time.
        let is_by_the_clock = broker.own.is_valid_at(SystemTime::now());
        tokio::select! {
            () = broker.cut.cancelled() => return,
            () = come(Instant::now() + wait, &broker.own, is_by_the_clock) => {}
        }
        wait = match renew(broker.issuer.as_ref(), &principal, &server_name, &broker.own).await {
            Ok((next, event)) => {
                broker.note(event);
                retry.reset();
                next
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "could not renew the server's certificate");
                broker.own.failed(Chain(&error).to_string());
                retry_after(retry.next(&mut SystemRandom), broker.own.left(SystemTime::now()))
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
