//! The process that enrols, for a server that does not: where it certifies itself, and where it passes enrolments on to.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ginnel_config::{PerRole, RemoteIssuer, ServerConfig};
use ginnel_core::audit::Forwarded;
use ginnel_core::budget::Budget;
use ginnel_core::denial::Denials;
use ginnel_core::lanes::Bounds;
use ginnel_core::limits::{CONTROL_MESSAGE_MAX, ENROL_DEADLINE, ISSUE_ANSWER_WAIT, ISSUE_WAIT, PENDING_PER_SOURCE_MAX};
use ginnel_core::principal::{Role, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_core::status::Enrolments;
use ginnel_identity::certificate::Identity;
use ginnel_identity::proof::Credential;
use ginnel_identity::tls::{OuterTrust, TlsError, is_for, is_signed_by, outer_client, server_name};
use ginnel_identity::trust::{Roots, TrustError};
use ginnel_keys::KeySets;
use ginnel_net::connect::{ConnectError, Endpoint};
use ginnel_net::upstream::{EnrolError, Progress, Upstream};
use http::uri::PathAndQuery;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::{Request, Status};

use crate::enrol::Admissible;
use crate::forward::Unread;

/// How long an enrolment waits until it can be passed on: its caller's connection lives for [`ENROL_DEADLINE`] until then, and the answer that
/// there is no place has to get there before that.
const PLACE_WAIT: Duration = Duration::from_millis(4_500);

/// An enrolment that is passed on: the issuer elsewhere may take [`ISSUE_WAIT`]. The caller's connection lives for [`ISSUE_ANSWER_WAIT`] longer,
/// of which half is left for the last answer to get there. Whoever proves nothing where it is passed on does not last so long: the process
/// that enrols closes its connection after [`ENROL_DEADLINE`].
const PASS_WAIT: Duration = ISSUE_WAIT.saturating_add(Duration::from_millis(500));

/// Enrolments that are passed on at once, each on a connection of its own. Half of what the process that enrols takes from one source, so that
/// a second server beside this one, and the enrolments of both themselves, find a place. More wait, for [`PLACE_WAIT`].
const PASSED_AT_ONCE_MAX: usize = PENDING_PER_SOURCE_MAX / 2;

const _: () = assert!(PLACE_WAIT.as_millis() < ENROL_DEADLINE.as_millis());
const _: () = assert!(PASS_WAIT.as_millis() < ISSUE_WAIT.saturating_add(ISSUE_ANSWER_WAIT).as_millis());

/// Why the process that enrols cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// TLS cannot be set up (us, configuration).
    #[error("setting TLS up")]
    Tls(#[from] TlsError),
    /// A root cannot be used (configuration).
    #[error("reading the trusted roots")]
    Trust(#[from] TrustError),
}

/// Why this server got no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertifyError {
    /// There was no answer, or a refusal.
    #[error("could not enrol")]
    Enrol(#[from] EnrolError),
    /// The certificate is not for this server's name, so that nobody would take it (configuration of the process that enrols).
    #[error("the certificate is not for {0}; it must be one of the identity's serverNames where it enrols")]
    Name(String),
    /// The certificate is for somebody else (configuration).
    #[error("the certificate names {0}, which is no server of this trust domain")]
    Principal(String),
    /// The certificate does not lead to the roots that agents and clients are given (configuration).
    #[error("the certificate is not signed by the root in issuer.enrolment.trust.server")]
    Root,
}

/// The process that enrols, as a server knows it.
pub(crate) struct Remote {
    upstream: Upstream,
    /// Where the roots are, and those of agents and clients.
    roots: PerRole<PathBuf>,
    trust: RwLock<OuterTrust>,
    /// The public keys that Google publishes for those who are connected, unless the configuration says to leave them alone.
    keys: Option<Arc<KeySets>>,
    passing: Semaphore,
    counted: Mutex<Enrolments>,
}

impl Remote {
    /// Reads what the configuration names. Nothing is dialled. `keys` is where Google's keys are looked at, if anywhere.
    pub(crate) fn open(
        issuer: &RemoteIssuer,
        config: &ServerConfig,
        credential: Credential,
        keys: Option<Arc<KeySets>>,
    ) -> Result<Self, RemoteError> {
        let RemoteIssuer { address, name, trust, credential: _ } = issuer;
        let server_roots = Roots::read(&trust.server)?;
        let upstream = Upstream {
            endpoint: Endpoint {
                host: address.host().to_owned(),
                port: address.port(),
                server_name: name.to_string(),
                proxy: None,
                congestion: None,
                budget: Budget::default(),
            },
            server_roots: server_roots.into(),
            credential,
            audience: config.enrolment_audience.clone(),
            renewal: config.renewal,
            progress: Progress::default(),
            connections: Bounds::ONE,
        };
        let roots = trust.clone();
        let trust = OuterTrust { agent: Roots::read(&roots.agent)?, client: Roots::read(&roots.client)?, server: None };
        // Made once here, so that what is wrong with the roots shows at the start.
        outer_client(&upstream.server_roots.now(), None)?;
        let passing = Semaphore::new(PASSED_AT_ONCE_MAX);
        Ok(Self { upstream, roots, trust: RwLock::new(trust), keys, passing, counted: Mutex::default() })
    }

    /// Whose certificates are accepted.
    pub(crate) fn trust(&self) -> OuterTrust {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files of the roots.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let PerRole { server, agent, client } = &self.roots;
        vec![server.clone(), agent.clone(), client.clone()]
    }

    /// Reads the roots again, puts them into force, and says whose have changed.
    ///
    /// # Errors
    /// If one cannot be used; then all stay as they were.
    pub(crate) fn read_roots(&self) -> Result<Vec<String>, TrustError> {
        let PerRole { server, agent, client } = &self.roots;
        let next = OuterTrust { agent: Roots::read(agent)?, client: Roots::read(client)?, server: None };
        let server = Roots::read(server)?;
        let mut trust = self.trust.write().unwrap_or_else(PoisonError::into_inner);
        let differs = |a: &Roots, b: &Roots| a.certificates() != b.certificates();
        let changed = [
            ("server", self.upstream.server_roots.set(server)),
            ("agents", differs(&trust.agent, &next.agent)),
            ("clients", differs(&trust.client, &next.client)),
        ];
        *trust = next;
        let changed = changed.into_iter().filter(|(_, is_other)| *is_other);
        Ok(changed.map(|(whose, _)| format!("roots of the {whose} have changed")).collect())
    }

    /// Gets a certificate that agents and clients will take for this server's.
    pub(crate) async fn certify(&self, trust_domain: &TrustDomain, name: &str) -> Result<Identity, CertifyError> {
        let identity = self.upstream.enrol().await?;
        let principal = &identity.leaf().principal;
        if principal.role != Role::Server || principal.trust_domain != *trust_domain {
            return Err(CertifyError::Principal(principal.to_string()));
        }
        if !is_signed_by(identity.chain(), &self.upstream.server_roots.now()) {
            return Err(CertifyError::Root);
        }
        let leaf = identity.chain().first();
        if leaf.zip(server_name(name).ok()).is_none_or(|(leaf, name)| !is_for(leaf, &name)) {
            return Err(CertifyError::Name(name.to_owned()));
        }
        // The next request says until when this one holds.
        let left = identity.leaf().not_after.duration_since(SystemTime::now()).unwrap_or_default();
        self.upstream.progress.certified(&identity, Instant::now() + left);
        Ok(identity)
    }

    /// Passes one enrolment on. `is_passed_on` is cancelled once its turn has come, from when on the caller's connection has to stay for as
    /// long as an issuer may take.
    pub(crate) async fn pass(
        &self,
        request: Request<Bytes>,
        path: PathAndQuery,
        is_passed_on: &CancellationToken,
    ) -> Result<Bytes, Status> {
        let Ok(place) = timeout(PLACE_WAIT, self.passing.acquire()).await else {
            let (wait_ms, places) = (PLACE_WAIT.as_millis(), PASSED_AT_ONCE_MAX);
            tracing::warn!(wait_ms, places, "an enrolment was not passed on: others before it are not answered");
            return Err(Status::deadline_exceeded("no place"));
        };
        let _place = place.map_err(|_| Status::unavailable("stopping"))?;
        is_passed_on.cancel();
        timeout(PASS_WAIT, self.pass_once(request, path)).await.unwrap_or_else(|_| {
            let wait_ms = PASS_WAIT.as_millis();
            tracing::warn!(wait_ms, "an enrolment that was passed on was not answered in time");
            Err(Status::deadline_exceeded("no answer"))
        })
    }

    async fn pass_once(&self, request: Request<Bytes>, path: PathAndQuery) -> Result<Bytes, Status> {
        let unreachable = |error: &(dyn Error + 'static)| {
            tracing::warn!(error = %Chain(error), "could not pass an enrolment on");
            Status::unavailable("unreachable")
        };
        let connection = async {
            let tls = outer_client(&self.upstream.server_roots.now(), None).map_err(|error| unreachable(&error))?;
            self.upstream.endpoint.connect(tls).await.map_err(|error: ConnectError| unreachable(&error))
        };
        let connection = connection.await?;
        let origin = connection.origin();
        let mut grpc = Grpc::with_origin(connection, origin).max_decoding_message_size(CONTROL_MESSAGE_MAX);
        grpc.ready().await.map_err(|error| unreachable(&error))?;
        let answer = grpc.unary(request, path, Unread).await;
        if let Err(status) = &answer
            && status.code() != tonic::Code::Unauthenticated
        {
            tracing::warn!(code = i32::from(status.code()), "an enrolment that was passed on came to nothing");
        }
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) fn count(&self, outcome: Forwarded) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Forwarded::Answered => counted.issued += 1,
            Forwarded::Refused | Forwarded::Unavailable => {
                *counted.refused.entry(outcome.as_str().to_owned()).or_default() += 1;
            }
        }
    }

    /// What came of enrolments that were passed on.
    pub(crate) fn counted(&self) -> Enrolments {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a server gets certificates: its own, and others'.
#[derive(Clone)]
pub(crate) enum Enrolment {
    /// It enrols.
    Here(Arc<crate::enrol::Desk>),
    /// Another process does.
    Elsewhere(Arc<Remote>),
}

impl Enrolment {
    pub(crate) fn counted(&self) -> Enrolments {
        match self {
            Self::Here(desk) => desk.counted(),
            Self::Elsewhere(remote) => remote.counted(),
        }
    }

    /// Who may enrol here, if anybody.
    pub(crate) fn admissible(&self) -> Option<Arc<Admissible>> {
        match self {
            Self::Here(desk) => Some(desk.admissible()),
            Self::Elsewhere(_) => None,
        }
    }

    /// Where Google's keys are looked at, if anywhere.
    pub(crate) fn keys(&self) -> Option<Arc<KeySets>> {
        match self {
            Self::Here(desk) => Some(Arc::clone(&desk.keys)),
            Self::Elsewhere(remote) => remote.keys.clone(),
        }
    }

    /// Shuts these out of enrolment, where that is here.
    pub(crate) fn deny(&self, denials: &Arc<Denials>) {
        match self {
            Self::Here(desk) => desk.deny(Arc::clone(denials)),
            Self::Elsewhere(_) => {}
        }
    }

    /// The files that the issuer reads if it is here, or those of the roots.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Here(desk) => desk.issuer.files(),
            Self::Elsewhere(remote) => remote.files(),
        }
    }
}
