//! The issuer that is Google Certificate Authority Service.
//!
//! Each role has a CA pool of its own, whose CAs are the roots of that role and of no other. What is above those CAs does not count, because it
//! may be above another role's as well. A certificate is asked for with everything spelled out
//! (key, names, usages, lifetime) rather than as a signing request, because a pool's issuance policy can only judge what is spelled out.
//! What comes back is held against what was asked for before anybody gets it.
//!
//! A pool signs so many certificates in a second; those who wait for one go in the order of [`ginnel_core::turns`]. One request has one id,
//! under which it is tried again when no answer came, so that it gets the certificate that was signed the first time.

use std::error::Error;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ginnel_core::backoff::Backoff;
use ginnel_core::limits::ISSUE_WAIT;
use ginnel_core::principal::{Role, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_core::turns::due;
use ginnel_enrol::{
    CertificateRequest, IssueError, Issued, Issuer, Issuing, WrongAnswer, check_answer, roots_are_apart,
};
use ginnel_identity::{Roots, SystemRandom};
use google_cloud_auth::credentials::Credentials;
use google_cloud_security_privateca_v1::client::CertificateAuthorityService;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

mod call;
mod queue;

#[cfg(test)]
mod tests;

use call::{CallError, Ids};
use queue::Queue;

/// How long a request may wait for its turn; what is left of [`ISSUE_WAIT`] is for a call that takes its time.
const TURN_WAIT: Duration = Duration::from_secs(8);

/// How often the roots of the pools are asked for: a CA that was added to a pool signs for it soon after.
const ROOTS_REFRESH: Duration = Duration::from_secs(3600);

/// Between tries of one request: the service asks for exponential backoff from a second on.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));

/// Nothing is sent to a pool for this long after it said that it was too much, if it did not say for how long.
const HOLD_OFF: Duration = Duration::from_secs(1);

/// The longest that the service may silence a pool for.
const HOLD_OFF_MAX: Duration = Duration::from_secs(30);

/// The CA pool of a role.
#[derive(Clone, Debug)]
pub struct Pool {
    /// `projects/P/locations/L/caPools/N`.
    pub name: String,
    /// The roots that are believed for the role, if not those that the pool names.
    pub pinned: Option<Roots>,
}

/// The tier of the pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Certificates have names and can be revoked.
    Enterprise,
    /// Certificates are not kept.
    DevOps,
}

impl Tier {
    /// Certificates in a second that one CA of the tier signs: Google's documented limits.
    fn per_second(self) -> u32 {
        match self {
            Self::Enterprise => 7,
            Self::DevOps => 25,
        }
    }
}

/// How the service is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain of all principals.
    pub trust_domain: TrustDomain,
    /// How long certificates hold.
    pub lifetime: Duration,
    /// The pool of servers.
    pub server: Pool,
    /// The pool of agents.
    pub agent: Pool,
    /// The pool of clients.
    pub client: Pool,
    /// The tier of the pools.
    pub tier: Tier,
    /// Where the service is called, if not at Google's own address.
    pub endpoint: Option<String>,
}

/// Why the service cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Configuration: an authority is trusted for two roles.
    #[error("one CA is the root of two roles; give each role a pool of its own, and pin no CA for two of them")]
    Apart,
    /// The environment: there are no credentials, or the endpoint is none.
    #[error(
        "cannot set up the client of Certificate Authority Service; are there credentials of Google's in the environment?"
    )]
    Client(#[source] Box<dyn Error + Send + Sync>),
    /// The environment or configuration: the roots of a pool could not be had.
    #[error("cannot get the roots of {pool}")]
    Roots {
        /// Which pool.
        pool: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Signs with the service.
#[derive(Debug)]
pub struct CasIssuer {
    inner: Arc<Inner>,
    refresh: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    lifetime: Duration,
    issue_wait: Duration,
    tier: Tier,
    service: CertificateAuthorityService,
    server: RolePool,
    agent: RolePool,
    client: RolePool,
}

#[derive(Debug)]
struct RolePool {
    name: String,
    is_pinned: bool,
    roots: RwLock<Roots>,
    queue: Queue,
}

impl CasIssuer {
    /// Opens the service with the credentials of Google's usual kinds that the process has, and asks for the roots of the pools.
    ///
    /// # Errors
    /// [`OpenError`] says what is missing.
    pub async fn open(settings: Settings) -> Result<Self, OpenError> {
        Self::open_with(settings, None, ISSUE_WAIT).await
    }

    async fn open_with(
        settings: Settings,
        credentials: Option<Credentials>,
        issue_wait: Duration,
    ) -> Result<Self, OpenError> {
        crate::provider::install();
        let mut builder = CertificateAuthorityService::builder();
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(credentials) = credentials {
            builder = builder.with_credentials(credentials);
        }
        let service = builder.build().await.map_err(|error| OpenError::Client(error.into()))?;
        let tier = settings.tier;
        let (server, agent, client) = tokio::try_join!(
            RolePool::open(&service, settings.server, tier),
            RolePool::open(&service, settings.agent, tier),
            RolePool::open(&service, settings.client, tier),
        )?;
        if !roots_are_apart([&server.now(), &agent.now(), &client.now()]) {
            return Err(OpenError::Apart);
        }
        let Settings { trust_domain, lifetime, .. } = settings;
        let inner = Arc::new(Inner { trust_domain, lifetime, issue_wait, tier, service, server, agent, client });
        let refresh = tokio::spawn(Arc::clone(&inner).keep_roots());
        Ok(Self { inner, refresh })
    }
}

impl Drop for CasIssuer {
    fn drop(&mut self) {
        self.refresh.abort();
    }
}

impl Issuer for CasIssuer {
    fn issue<'a>(&'a self, request: &'a CertificateRequest, now: SystemTime) -> Issuing<'a> {
        Box::pin(self.inner.issue(request, now))
    }

    fn roots(&self, role: Role) -> Roots {
        self.inner.pool(role).now()
    }
}

impl Inner {
    fn pool(&self, role: Role) -> &RolePool {
        match role {
            Role::Server => &self.server,
            Role::Agent => &self.agent,
            Role::Client => &self.client,
        }
    }

    async fn issue(&self, request: &CertificateRequest, now: SystemTime) -> Result<Issued, IssueError> {
        request.check(&self.trust_domain)?;
        let pool = self.pool(request.principal.role);
        let chain = self.signed(pool, request, now).await?;
        let issued = check_answer(request, chain, &pool.now(), self.lifetime, SystemTime::now());
        issued.map_err(|wrong: WrongAnswer| IssueError::Unusable(wrong.into()))
    }

    /// Has a certificate signed, however many tries it takes within the time that the caller has.
    async fn signed(
        &self,
        pool: &RolePool,
        request: &CertificateRequest,
        now: SystemTime,
    ) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, IssueError> {
        let deadline = Instant::now() + self.issue_wait;
        let due = due(request.renews, now);
        let ids = Ids::draw(request.principal.role, self.tier);
        let mut backoff = RETRY.clone();
        let mut failure: Option<CallError> = None;
        loop {
            let turn_by = deadline.min(Instant::now() + TURN_WAIT);
            if let Err(retry_after) = pool.queue.turn(due, turn_by).await {
                // Whoever was tried already did not fail for the others in the queue.
                return Err(failure.map_or(IssueError::Overloaded { retry_after }, |error| error.into_issue_error()));
            }
            let called = call::create(&self.service, &pool.name, request, self.lifetime, &ids);
            let error = match timeout_at(deadline, called).await {
                Ok(Ok(chain)) => return Ok(chain),
                Ok(Err(error)) => error,
                Err(_) => CallError::too_late(),
            };
            if !error.is_transient() {
                return Err(error.into_issue_error());
            }
            if error.is_exhausted() {
                let hold_off = error.retry_after().unwrap_or(HOLD_OFF).min(HOLD_OFF_MAX);
                pool.queue.hold_off(Instant::now() + hold_off);
            }
            let wait = backoff.next(&mut SystemRandom);
            tracing::warn!(error = %Chain(&error), request_id = ids.request, "no certificate from the service yet");
            if Instant::now() + wait >= deadline {
                return Err(error.into_issue_error());
            }
            failure = Some(error);
            sleep(wait).await;
        }
    }

    /// Asks for the roots again and again. What cannot be had, or would mix roles up, changes nothing.
    async fn keep_roots(self: Arc<Self>) {
        loop {
            sleep(ROOTS_REFRESH).await;
            if let Err(error) = self.refresh_roots().await {
                tracing::warn!(error = %Chain(&error), "the roots of the pools stay as they were");
            }
        }
    }

    async fn refresh_roots(&self) -> Result<(), OpenError> {
        let pools = [&self.server, &self.agent, &self.client];
        let mut fresh = Vec::with_capacity(pools.len());
        for pool in pools {
            fresh.push(if pool.is_pinned { pool.now() } else { fetch(&self.service, &pool.name).await? });
        }
        let [server, agent, client] = fresh.as_slice() else { return Ok(()) };
        if !roots_are_apart([server, agent, client]) {
            return Err(OpenError::Apart);
        }
        for (pool, roots) in pools.into_iter().zip(fresh) {
            if roots.certificates() != pool.now().certificates() {
                tracing::info!(pool = pool.name, ?roots, "the pool has other roots");
                *pool.roots.write().unwrap_or_else(PoisonError::into_inner) = roots;
            }
        }
        Ok(())
    }
}

impl RolePool {
    async fn open(service: &CertificateAuthorityService, pool: Pool, tier: Tier) -> Result<Self, OpenError> {
        let Pool { name, pinned } = pool;
        let is_pinned = pinned.is_some();
        let roots = match pinned {
            Some(roots) => roots,
            None => fetch(service, &name).await?,
        };
        let queue = Queue::new(tier.per_second(), TURN_WAIT);
        Ok(Self { name, is_pinned, roots: RwLock::new(roots), queue })
    }

    fn now(&self) -> Roots {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn fetch(service: &CertificateAuthorityService, pool: &str) -> Result<Roots, OpenError> {
    call::roots(service, pool).await.map_err(|source| OpenError::Roots { pool: pool.to_owned(), source })
}
