//! Certificate Authority Service over HTTP and JSON, as its official client speaks it: `google/cloud/security/privateca/v1/service.proto`.
//!
//! Pools have real CAs, an issuance policy, a tier and a quota. A request that comes again under its id gets the certificate that was signed the
//! first time. [`Fault`]s come up one at a time, in the order in which a test put them there.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

mod authority;
mod http;
mod sign;

use authority::Authority;
use http::{Answer, Request};

/// What the client must show: the token that [`Cas::credentials`] lead to.
const TOKEN: &str = "ya29.fake-access-token";

/// The tier of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Certificates have names, which the caller gives.
    Enterprise,
    /// Certificates have none.
    DevOps,
}

/// What a pool is like.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its tier.
    pub tier: Tier,
    /// The longest lifetime that its policy allows.
    pub lifetime_max: Duration,
    /// What every URI must begin with, by its policy.
    pub uri_prefix: String,
    /// What its policy lets through of extensions that its requests spell out as object identifiers (`passthrough_extensions`): of others it
    /// says nothing and leaves them out. Without it, it lets through what comes.
    pub extensions: Option<Vec<Vec<u64>>>,
    /// Whether a subordinate CA signs, below the root.
    pub is_subordinate: bool,
    /// Whether whoever calls may ask for certificates.
    pub is_permitted: bool,
    /// Certificates in a second.
    pub quota: usize,
    /// The pool that it shares its CA with.
    pub same_as: Option<String>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            tier: Tier::DevOps,
            lifetime_max: Duration::from_secs(7 * 24 * 3600),
            uri_prefix: "spiffe://".to_owned(),
            extensions: None,
            is_subordinate: false,
            is_permitted: true,
            quota: 25,
            same_as: None,
        }
    }
}

/// What goes wrong at a request for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing, but it takes this long.
    Delay(Duration),
    /// `RESOURCE_EXHAUSTED`, and when to come again.
    Exhausted(Duration),
    /// The certificate says that it was given for something else.
    OtherEvidence,
    /// The certificate is for a key of the service's own.
    OtherKey,
    /// The certificate has a life of ten years.
    OtherLife,
    /// The certificate names another principal.
    OtherName,
    /// The certificate may be used for more than was asked.
    OtherPurposes,
    /// The certificate is signed by a CA that is none of the pool's.
    OtherRoot,
    /// The certificate is signed, and the connection closed without an answer.
    SignedWithoutAnswer,
    /// `UNAVAILABLE`.
    Unavailable,
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// By which pool.
    pub pool: String,
    /// The name that it was given, without the pool's.
    pub id: String,
    /// The id of the request.
    pub request_id: String,
    /// Its serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// Its e-mail.
    pub email: String,
    /// Itself, in PEM.
    pub pem: String,
}

/// The service.
#[derive(Debug)]
pub struct Cas {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    pools: BTreeMap<String, (Pool, Authority)>,
    faults: VecDeque<Fault>,
    answers: BTreeMap<(String, String), Value>,
    signed: Vec<Signed>,
    /// Every request for a certificate: to which pool, when.
    calls: Vec<(String, Instant)>,
    is_down: bool,
}

impl Cas {
    /// Starts the service without pools.
    ///
    /// # Errors
    /// If it cannot listen on loopback.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let answer = move |request: Request| {
            let state = Arc::clone(&shared);
            async move { answered(&state, request).await }
        };
        let serving = tokio::spawn(http::serve(listener, answer)).abort_handle();
        Ok(Self { address, state, serving })
    }

    /// Where it is called.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Application default credentials of the kind `authorized_user`, whose tokens the service itself gives out.
    pub fn credentials(&self) -> Value {
        json!({
            "type": "authorized_user", "client_id": "test", "client_secret": "test", "refresh_token": "test",
            "token_uri": format!("{}/token", self.endpoint()),
        })
    }

    /// Writes [`Self::credentials`] into a directory, for `GOOGLE_APPLICATION_CREDENTIALS`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn credentials_file(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("application_default_credentials.json");
        std::fs::write(&path, self.credentials().to_string())?;
        Ok(path)
    }

    /// Makes a pool with a CA.
    ///
    /// # Errors
    /// If the CA cannot be made.
    pub fn add_pool(&self, name: &str, pool: Pool) -> Result<()> {
        let mut state = self.state();
        let shared = pool.same_as.as_ref().map(|other| state.pools.get(other).context("no such pool")).transpose()?;
        let authority = match shared {
            Some((_, authority)) => authority.clone(),
            None => Authority::new(name, pool.is_subordinate)?,
        };
        state.pools.insert(name.to_owned(), (pool, authority));
        Ok(())
    }

    /// Makes pools for the roles, as `projects/acme/locations/europe-west1/caPools/ROLE`, and gives their names by role.
    ///
    /// # Errors
    /// If a CA cannot be made.
    pub fn add_pools(&self, pool: &Pool) -> Result<BTreeMap<String, String>> {
        let named = ["server", "agent", "client"].map(|role| {
            let name = format!("projects/acme/locations/europe-west1/caPools/{role}");
            self.add_pool(&name, pool.clone())?;
            Ok((role.to_owned(), name))
        });
        named.into_iter().collect()
    }

    /// Changes a pool.
    pub fn change_pool(&self, name: &str, change: impl FnOnce(&mut Pool)) {
        if let Some((pool, _)) = self.state().pools.get_mut(name) {
            change(pool);
        }
    }

    /// The CA of a pool in PEM, which is what peers are given as a root.
    ///
    /// # Errors
    /// If there is no such pool.
    pub fn root(&self, pool: &str) -> Result<String> {
        Ok(self.state().pools.get(pool).context("no such pool")?.1.chain()[0].clone())
    }

    /// Lets the next requests for certificates go wrong, one after the other.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Answers everything with `UNAVAILABLE`, or nothing any more.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// What was signed so far.
    pub fn signed(&self) -> Vec<Signed> {
        self.state().signed.clone()
    }

    /// When a pool was asked for certificates, in order.
    pub fn calls(&self, pool: &str) -> Vec<Instant> {
        self.state().calls.iter().filter(|(asked, _)| asked == pool).map(|(_, at)| *at).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Cas {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answered(state: &Mutex<State>, request: Request) -> Answer {
    if (request.method.as_str(), request.path.as_str()) == ("POST", "/token") {
        return Answer::ok(&json!({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}));
    }
    if lock(state).is_down {
        return error(503, "UNAVAILABLE", "the service is currently unavailable", None);
    }
    if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return error(401, "UNAUTHENTICATED", "request had invalid authentication credentials", None);
    }
    let path = request.path.strip_prefix("/v1/").unwrap_or_default().to_owned();
    match (request.method.as_str(), path.strip_suffix(":fetchCaCerts"), path.strip_suffix("/certificates")) {
        ("POST", Some(pool), _) => roots(&lock(state), pool),
        ("POST", None, Some(pool)) => create(state, pool, &request).await,
        _ => error(404, "NOT_FOUND", "no such method", None),
    }
}

fn roots(state: &State, pool: &str) -> Answer {
    match state.pools.get(pool) {
        Some((_, authority)) => Answer::ok(&json!({"caCerts": [{"certificates": authority.chain()}]})),
        None => error(404, "NOT_FOUND", &format!("Resource '{pool}' was not found"), None),
    }
}

async fn create(state: &Mutex<State>, pool: &str, request: &Request) -> Answer {
    let fault = {
        let mut state = lock(state);
        state.calls.push((pool.to_owned(), Instant::now()));
        state.faults.pop_front()
    };
    match fault {
        Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Exhausted(after)) => {
            return error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Certificates'", Some(after));
        }
        Some(Fault::Unavailable) => return error(503, "UNAVAILABLE", "the service is currently unavailable", None),
        Some(
            Fault::OtherEvidence
            | Fault::OtherKey
            | Fault::OtherLife
            | Fault::OtherName
            | Fault::OtherPurposes
            | Fault::OtherRoot
            | Fault::SignedWithoutAnswer,
        )
        | None => {}
    }
    let answer = lock(state).sign(pool, request, fault);
    match (answer, fault) {
        (Ok(_), Some(Fault::SignedWithoutAnswer)) => Answer::None,
        (Ok(certificate), _) => Answer::ok(&certificate),
        (Err(refused), _) => refused,
    }
}

/// An error in the form that Google's interfaces have.
fn error(code: u16, status: &str, message: &str, retry_after: Option<Duration>) -> Answer {
    let details = retry_after.map(|after| {
        let delay = format!("{}.{:03}s", after.as_secs(), after.subsec_millis());
        json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    });
    let details: Vec<_> = details.into_iter().collect();
    Answer::Json(
        code,
        json!({"error": {"code": code, "message": message, "status": status, "details": details}}).to_string(),
    )
}
