//! What agents and clients do all day: enrol, connect, renew, reconnect; and more connections where load asks for them.
//!
//! Enrolment is never on the reconnect path: while the certificate is valid, a lost connection comes back with it. A renewal makes before
//! it breaks: the new connection is up before the old one is left to finish its sessions. A renewal that fails keeps the valid certificate
//! and is tried again. Deadlines are fixed on the monotonic clock when a certificate comes in, so that a jump of the wall clock ends
//! nothing.

use std::error::Error;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ginnel_core::backoff::Backoff;
use ginnel_core::cause::Cause;
use ginnel_core::lanes::Bounds;
use ginnel_core::renewal::{Renewal, retry_after};
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Identity;
use ginnel_identity::key::KeyPair;
use ginnel_identity::proof::{Credential, TokenError};
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::outer_client;
use ginnel_identity::trust::CurrentRoots;
use ginnel_wire::v1::EnrolRequest;
use ginnel_wire::v1::enrolment_client::EnrolmentClient;
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::connect::{ConnectError, Connection, Endpoint};

mod lane;
mod lanes;
mod presented;
mod progress;
mod pushback;

use self::lane::Work;
pub use self::lane::{Lane, Place};
use self::lanes::Lanes;
use self::presented::present;
pub use self::progress::Progress;
use self::pushback::pushback;

/// A whole enrolment, connection included.
const ENROL_WAIT: Duration = Duration::from_secs(15);

/// A new connection that is not up within this time has failed.
const UP_WAIT: Duration = Duration::from_secs(10);

/// A connection that held this long was a good one: the attempts after it start with short delays again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// No renewal comes sooner after the last one, whatever lifetime a certificate has by this machine's clock: the shortest that a server
/// can be told to give is two seconds.
const RENEW_FLOOR: Duration = Duration::from_secs(1);

/// How often a credential that has no unused token is asked again. Tokens in files are replaced every ten minutes at the soonest.
const TOKEN_POLL: Duration = Duration::from_secs(1);

/// How often the wall clock is asked whether the certificate in use is valid. The monotonic clock stands still while a machine is suspended, and
/// a wall clock that was wrong for a while may have left a certificate that nobody believes.
const CLOCK_LOOK: Duration = Duration::from_secs(2);

/// Times in a row that a certificate is turned away before another one is asked for. A server that stops does that once.
const TURNED_AWAY_MAX: u32 = 3;

/// Replaced connections that still finish their sessions. With a renewal every eight hours that is three weeks of history.
const RETIRED_MAX: usize = 64;

/// A link at work on one connection.
type Running = AbortOnDropHandle<Cause>;

/// Why a connection did not come up, for the log.
type Failure = Box<dyn Error + Send + Sync>;

/// Where to enrol and connect, and as whom.
pub struct Upstream {
    /// The server.
    pub endpoint: Endpoint,
    /// Who may answer there.
    pub server_roots: CurrentRoots,
    /// What proves the identity.
    pub credential: Credential,
    /// The audience of enrolment tokens.
    pub audience: String,
    /// When certificates are renewed.
    pub renewal: Renewal,
    /// Where it is put down how things stand.
    pub progress: Progress,
    /// How many connections that take new sessions there may be at once.
    pub connections: Bounds,
}

/// What an agent or client does on one connection.
pub trait Link: Clone + Send + Sync + 'static {
    /// Works on the connection until it is of no more use; reports on `up` once the first exchange is done. Sessions on it enter `lane`; once
    /// that is retired, it takes no new ones and comes to its end.
    fn run(
        self,
        connection: Connection,
        identity: Identity,
        lane: Lane,
        up: oneshot::Sender<()>,
    ) -> impl Future<Output = Cause> + Send + 'static;

    /// Whether the process is on its way out and wants no more connections.
    fn is_stopping(&self) -> bool;
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The key or configuration could not be made (us, configuration).
    #[error("could not prepare the enrolment")]
    Prepare(#[source] Box<dyn Error + Send + Sync>),
    /// The server could not be reached.
    #[error("could not reach the server to enrol")]
    Connect(#[from] ConnectError),
    /// The server refused, or cannot enrol now. Why somebody was refused it tells nobody but its own audit log.
    #[error("the server did not enrol (gRPC status {}); if it refused, its audit log says why", i32::from(.0.code()))]
    Refused(tonic::Status),
    /// What the server answered is no certificate for the key that was made.
    #[error("the server's answer is no usable certificate")]
    Certificate(#[source] Box<dyn Error + Send + Sync>),
    /// There is nothing to show the server (the environment; see [`TokenError`]).
    #[error("there is no token to enrol with")]
    Token(#[from] TokenError),
    /// Nothing came of it in time.
    #[error("the enrolment took longer than {} s", ENROL_WAIT.as_secs())]
    TimedOut,
}

/// The server was reached and did not want the link.
#[derive(Debug, thiserror::Error)]
#[error("the server closed the link before it was up")]
struct TurnedAway;

/// A certificate with its deadlines on the monotonic clock.
struct Admitted {
    identity: Identity,
    renewal: Due,
    expires: Instant,
}

/// When a certificate is renewed.
#[derive(Clone, Copy)]
struct Due {
    /// Not before this, whatever happens.
    earliest: Instant,
    at: Instant,
    /// Whether it is renewed at once when the wall clock says that it is not valid: so it is unless the clock said that from the first.
    is_by_the_clock: bool,
    /// Whether others may have the same moment in common: the start, or the end of an outage.
    is_first: bool,
}

impl Admitted {
    fn new(identity: Identity, renewal: Renewal, is_first: bool) -> Self {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let lifetime = identity.leaf().not_after.duration_since(clock).unwrap_or_default();
        let drawn = match is_first {
            true => renewal.first(lifetime, &mut SystemRandom),
            false => renewal.next(lifetime, &mut SystemRandom),
        };
        let renewal = Due {
            earliest: now + RENEW_FLOOR,
            at: now + drawn.max(RENEW_FLOOR),
            is_by_the_clock: identity.leaf().is_valid_at(clock),
            is_first: false,
        };
        Self { identity, renewal, expires: now + lifetime }
    }

    /// Puts the renewal off after it failed.
    fn put_off(&mut self, delay: Duration) {
        let now = Instant::now();
        let at = now + retry_after(delay, self.expires.saturating_duration_since(now));
        self.renewal = Due { earliest: at, at, is_first: true, ..self.renewal };
    }

    fn is_valid(&self) -> bool {
        Instant::now() < self.expires
    }

    /// Whether the wall clock says so too. It may be wrong; but the monotonic clock stands still while a machine is suspended.
    fn is_current(&self) -> bool {
        self.identity.leaf().is_valid_at(SystemTime::now())
    }
}

impl Due {
    /// Waits until it is time to renew `identity`.
    async fn come(self, identity: &Identity) {
        sleep_until(self.earliest).await;
        loop {
            let is_refuted = self.is_by_the_clock && !identity.leaf().is_valid_at(SystemTime::now());
            if is_refuted || Instant::now() >= self.at {
                return;
            }
            sleep_until(self.at.min(Instant::now() + CLOCK_LOOK)).await;
        }
    }
}

impl Upstream {
    /// Keeps a link up until the future is dropped.
    pub async fn keep<L: Link>(&self, link: L) {
        let mut backoff = Backoff::RECONNECT;
        let mut admitted: Option<Admitted> = None;
        let mut turned_away = 0;
        // Connections that were replaced and finish their sessions.
        let mut retired = JoinSet::new();
        let mut lanes = Lanes::new(self.connections, self.progress.load().clone());
        loop {
            if link.is_stopping() {
                // Replaced connections still finish their sessions; whoever drops this future ends that.
                while retired.join_next().await.is_some() {}
                return pending().await;
            }
            let mut told_to_wait = Duration::ZERO;
            match self.valid(admitted.take()).await {
                Err(error) => {
                    told_to_wait = pushback(&error);
                    tracing::warn!(error = %Chain(&error), "enrolment failed");
                    self.progress.disconnected(Some(Chain(&error).to_string()));
                }
                Ok(certificate) => match self.bring_up(&certificate, &link).await {
                    Err(error) => {
                        tracing::warn!(error = %Chain(&*error), "no connection to the server");
                        self.progress.disconnected(Some(Chain(&*error).to_string()));
                        turned_away = if error.is::<TurnedAway>() { turned_away + 1 } else { 0 };
                        // A certificate that does not connect and is not valid by the wall clock is not tried again, nor one that the server
                        // does not want: it may have been revoked, or its issuer's root be gone, and the next one be good.
                        let is_wanted = turned_away < TURNED_AWAY_MAX;
                        admitted = Some(certificate).filter(|certificate| is_wanted && certificate.is_current());
                    }
                    Ok(running) => {
                        let up = Instant::now();
                        turned_away = 0;
                        self.progress.connected();
                        admitted = Some(self.stay(certificate, running, &link, &mut retired, &mut lanes).await);
                        self.progress.disconnected(None);
                        if up.elapsed() > STABLE_AFTER {
                            backoff.reset();
                        }
                    }
                },
            }
            sleep(told_to_wait + backoff.next(&mut SystemRandom)).await;
        }
    }

    async fn valid(&self, admitted: Option<Admitted>) -> Result<Admitted, EnrolError> {
        match admitted {
            Some(admitted) if admitted.is_valid() => Ok(admitted),
            Some(_) | None => {
                self.unused_token(|why| self.progress.disconnected(Some(why))).await;
                self.enrol().await.map(|identity| Admitted::new(identity, self.renewal, true))
            }
        }
    }

    /// Stays connected, through renewals, until the connection in use is lost; gives the certificate in use back.
    async fn stay<L: Link>(
        &self,
        mut current: Admitted,
        mut running: Running,
        link: &L,
        retired: &mut JoinSet<()>,
        lanes: &mut Lanes,
    ) -> Admitted {
        let mut retry = Backoff::RECONNECT;
        loop {
            let connecting = AtomicBool::new(false);
            let (identity, due) = (current.identity.clone(), current.renewal);
            let mut is_over = false;
            let renewed = {
                let mut renewing = pin!(self.renew(link, &identity, due, retired.len(), &connecting));
                let mut tending = pin!(lanes.tend(self, &identity, link));
                loop {
                    tokio::select! {
                        ended = &mut running, if !is_over => {
                            is_over = true;
                            // The server ends the old link as soon as the new one is up, which may be heard first. But a connection that is
                            // lost while a certificate is still being waited for comes back at once, with the certificate that there is.
                            if !connecting.load(Ordering::Relaxed) {
                                let cause = ended.unwrap_or(Cause::Internal);
                                tracing::info!(%cause, "connection to the server ended");
                                return current;
                            }
                        }
                        Some(_) = retired.join_next() => {}
                        never = &mut tending, if !is_over => match never {},
                        renewed = &mut renewing => break renewed,
                    }
                }
            };
            match renewed {
                Ok((renewed, renewed_running)) => {
                    tracing::info!(serial = renewed.identity.leaf().serial, "certificate renewed");
                    let old = std::mem::replace(&mut running, renewed_running);
                    if !is_over {
                        retired.spawn(async move { drop(old.await) });
                    }
                    current = renewed;
                    retry.reset();
                }
                Err(error) if is_over => {
                    tracing::warn!(error = %Chain(&*error), "the connection was lost while it was being renewed");
                    return current;
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&*error), "renewal failed; the certificate stays in use");
                    self.progress.renewal_failed(Chain(&*error).to_string());
                    current.put_off(pushback(&*error) + retry.next(&mut SystemRandom));
                }
            }
        }
    }

    /// Gets the next certificate when it is time, and a connection that uses it; tells when it comes to the second.
    async fn renew<L: Link>(
        &self,
        link: &L,
        identity: &Identity,
        due: Due,
        retired: usize,
        connecting: &AtomicBool,
    ) -> Result<(Admitted, Running), Failure> {
        due.come(identity).await;
        if retired >= RETIRED_MAX {
            return Err("too many connections are still finishing their sessions".into());
        }
        self.unused_token(|why| self.progress.renewal_waits(why)).await;
        let renewed = Admitted::new(self.enrol().await?, self.renewal, due.is_first);
        connecting.store(true, Ordering::Relaxed);
        let running = self.bring_up(&renewed, link).await?;
        Ok((renewed, running))
    }

    async fn bring_up<L: Link>(&self, admitted: &Admitted, link: &L) -> Result<Running, Failure> {
        let tls = outer_client(&self.server_roots.now(), Some(&admitted.identity))?;
        let connection = self.endpoint.connect(tls).await?;
        let (up, is_up) = oneshot::channel();
        let lane = Lane::new(0, self.progress.load());
        let work = Arc::new(Work::begin(&lane));
        let (at_work, identity) = (Arc::clone(&work), admitted.identity.clone());
        let link = link.clone();
        let running = AbortOnDropHandle::new(tokio::spawn(async move {
            let _at_work = at_work;
            link.run(connection, identity, lane, up).await
        }));
        match timeout(UP_WAIT, is_up).await {
            Ok(Ok(())) => {
                work.up();
                self.progress.certified(&admitted.identity, admitted.expires);
                Ok(running)
            }
            Ok(Err(_)) => Err(TurnedAway.into()),
            Err(_) => Err("the server did not answer the first message in time".into()),
        }
    }

    /// Waits while the credential has only a token that was used, and tells so once: a server takes none twice.
    async fn unused_token(&self, tell: impl Fn(String)) {
        let mut is_told = false;
        while let Some(why) = self.credential.waits_for() {
            if !is_told {
                tracing::warn!(reason = %why, "no certificate can be asked for yet");
                tell(why.to_string());
                is_told = true;
            }
            sleep(TOKEN_POLL).await;
        }
    }

    /// Gets one certificate, for a key that is made for it.
    ///
    /// # Errors
    /// [`EnrolError`]; it takes a bounded time.
    pub async fn enrol(&self) -> Result<Identity, EnrolError> {
        timeout(ENROL_WAIT, self.enrol_once()).await.map_err(|_| EnrolError::TimedOut)?
    }

    async fn enrol_once(&self) -> Result<Identity, EnrolError> {
        let prepare = |error: Box<dyn Error + Send + Sync>| EnrolError::Prepare(error);
        let key = KeyPair::generate().map_err(|error| prepare(error.into()))?;
        let token = self.credential.token(&self.audience, key.spki_sha256(), SystemTime::now()).await?;
        let request = EnrolRequest {
            token: token.expose_secret().to_owned(),
            certificate_signing_request: key.csr().map_err(|error| prepare(error.into()))?,
            renews_until: self.progress.renews_until(),
        };
        let tls = outer_client(&self.server_roots.now(), None).map_err(|error| prepare(error.into()))?;
        let connection = self.endpoint.connect(tls).await?;
        let origin = connection.origin();
        let mut server = EnrolmentClient::with_origin(connection, origin);
        let answer = present(&self.credential, &token, server.enrol(request)).await;
        let answer = answer.map_err(EnrolError::Refused)?.into_inner();
        let chain = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
        let identity = Identity::new(chain, key).map_err(|error| EnrolError::Certificate(error.into()))?;
        let leaf = identity.leaf();
        let credential = self.credential.shown();
        tracing::info!(principal = %leaf.principal, serial = leaf.serial, credential, "enrolled");
        self.progress.proved(credential);
        Ok(identity)
    }
}
