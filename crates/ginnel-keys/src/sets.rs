//! The sets of keys that a server knows of, and when they are fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ginnel_core::report::Chain;
use ginnel_enrol::key_set::Finding;
use ginnel_enrol::{KeySet, KeySetError, KeySetId, KeySource, NoKey, VerifyingKey};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use crate::fetch::{FETCH_WAIT, Fetch, FetchError, Http, HttpError};

#[cfg(test)]
mod tests;

/// How long keys count after they were fetched, if no later fetch succeeds: an outage of a day is survived, and a key that was taken away
/// during it is good for no longer.
pub const STALE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Longest time for which a set is not asked for again when the key is in it: how long a deleted key can still enrol; the last key of a set
/// for a rest longer.
pub const FRESH_MAX: Duration = Duration::from_secs(5 * 60);

/// The part of the fresh time that has to pass between two fetches of one set, whatever is asked for: 30 s of 5 minutes. So tokens with
/// made-up key ids cause one fetch in that time.
const REST_DIVISOR: u32 = 10;

/// Accounts whose keys are fetched. Each is a few kilobytes and a request every few minutes while it is connected.
pub const ACCOUNTS_MAX: usize = 4096;

/// How often sets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long a fetched set is not asked for again while the key is in it.
    pub fresh_for: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { fresh_for: FRESH_MAX }
    }
}

impl Timing {
    /// The rest between two fetches of one set.
    fn rest(self) -> Duration {
        self.fresh_for / REST_DIVISOR
    }
}

/// Where an OIDC issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerKeys {
    /// What the issuer is called here.
    pub name: String,
    /// What its tokens and its discovery document call it.
    pub issuer: String,
    /// Where its keys are; without it the discovery document says so.
    pub jwks_uri: Option<String>,
    /// The authorities of its server's certificate, if not the system's.
    pub ca_file: Option<PathBuf>,
}

/// Every set that may be asked for.
pub struct KeySets {
    timing: Timing,
    accounts_url: String,
    google: Arc<dyn Fetch>,
    sets: Mutex<BTreeMap<KeySetId, Arc<Set>>>,
}

/// One set.
struct Set {
    place: Place,
    fetch: Arc<dyn Fetch>,
    state: Mutex<State>,
    /// Held during a fetch.
    flight: Arc<tokio::sync::Mutex<()>>,
}

/// Where a set is.
enum Place {
    /// There, and if it is not there twice in a row, it is empty: so a service account ends that was deleted.
    Account(String),
    /// There.
    Url(String),
    /// Where the issuer's discovery document says.
    Discovered { issuer: String },
}

#[derive(Default)]
struct State {
    /// The last keys, and when they were fetched.
    keys: Option<(Arc<KeySet>, Instant)>,
    /// When they were asked for last, or the answer to that came.
    tried: Option<Instant>,
    /// Whether that succeeded.
    succeeded: bool,
    /// Whether the set was not there when it was asked for last, or had no key.
    absent: bool,
}

/// Why a set could not be had.
#[derive(Debug, thiserror::Error)]
enum SetError {
    #[error("the set has no key")]
    Empty,
    #[error("could not fetch the keys")]
    Fetch(#[from] FetchError),
    #[error("the keys are no set")]
    Form(#[from] KeySetError),
    #[error("the discovery document is none, or speaks of another issuer")]
    Discovery,
    #[error("the discovery document names keys at a place that is neither https nor loopback")]
    Place,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl KeySets {
    /// Knows Google's sets, those of these issuers, and of no account until [`Self::set_accounts`].
    ///
    /// # Errors
    /// [`HttpError`] if nothing could be fetched at all.
    pub fn new(
        timing: Timing,
        accounts_url: String,
        google_url: String,
        google_ca: Option<&std::path::Path>,
        issuers: Vec<IssuerKeys>,
    ) -> Result<Self, HttpError> {
        let google: Arc<dyn Fetch> = Arc::new(Http::new(google_ca)?);
        let mut sets = BTreeMap::new();
        sets.insert(KeySetId::Google, Set::new(Place::Url(google_url), Arc::clone(&google)));
        for IssuerKeys { name, issuer, jwks_uri, ca_file } in issuers {
            let place = jwks_uri.map_or(Place::Discovered { issuer }, Place::Url);
            let fetch = Arc::new(Http::new(ca_file.as_deref())?);
            sets.insert(KeySetId::Issuer(name), Set::new(place, fetch));
        }
        Ok(Self { timing, accounts_url, google, sets: Mutex::new(sets) })
    }

    /// From here on these are the accounts whose keys may be asked for; what is known of them stays known. Those beyond [`ACCOUNTS_MAX`] are
    /// left out.
    pub fn set_accounts(&self, accounts: &BTreeSet<String>) {
        let mut sets = self.sets();
        sets.retain(|id, _| match id {
            KeySetId::Account(email) => accounts.contains(email),
            KeySetId::Google | KeySetId::Issuer(_) => true,
        });
        if accounts.len() > ACCOUNTS_MAX {
            tracing::error!(accounts = accounts.len(), most = ACCOUNTS_MAX, "too many accounts with keys at Google");
        }
        for email in accounts.iter().take(ACCOUNTS_MAX) {
            sets.entry(KeySetId::Account(email.clone())).or_insert_with(|| {
                let base = self.accounts_url.trim_end_matches('/');
                Set::new(Place::Account(format!("{base}/{}", escaped(email))), Arc::clone(&self.google))
            });
        }
    }

    /// The keys that an account has at this moment, give or take the rest between two fetches, and when they were fetched; `None` if they cannot be
    /// had.
    pub async fn current(&self, account: &str) -> Option<(Arc<KeySet>, Instant)> {
        let set = self.set(&KeySetId::Account(account.to_owned()))?;
        set.refresh(self.timing.rest()).await;
        let state = set.state();
        state.succeeded.then(|| state.keys.clone())?
    }

    /// How often the keys of those who are connected should be looked at: well within the time that a fetched set counts as fresh.
    pub fn watch_every(&self) -> Duration {
        self.timing.fresh_for * 4 / 5
    }

    async fn key(&self, id: &KeySetId, key_id: &str) -> Result<VerifyingKey, NoKey> {
        let set = self.set(id).ok_or(NoKey::Unavailable)?;
        if let Some(key) = set.find(key_id, self.timing.fresh_for) {
            return Ok(key);
        }
        set.refresh(self.timing.rest()).await;
        let unknown = if set.state().succeeded { NoKey::Unknown } else { NoKey::Unavailable };
        set.find(key_id, STALE_MAX).ok_or(unknown)
    }

    fn set(&self, id: &KeySetId) -> Option<Arc<Set>> {
        self.sets().get(id).cloned()
    }

    fn sets(&self) -> MutexGuard<'_, BTreeMap<KeySetId, Arc<Set>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeySource for KeySets {
    fn find<'a>(&'a self, set: &'a KeySetId, key_id: &'a str) -> Finding<'a> {
        Box::pin(self.key(set, key_id))
    }
}

impl std::fmt::Debug for KeySets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySets").field("timing", &self.timing).finish_non_exhaustive()
    }
}

impl Set {
    fn new(place: Place, fetch: Arc<dyn Fetch>) -> Arc<Self> {
        Arc::new(Self { place, fetch, state: Mutex::default(), flight: Arc::default() })
    }

    /// The key of this id among keys of no greater age.
    fn find(&self, key_id: &str, age_max: Duration) -> Option<VerifyingKey> {
        let state = self.state();
        let (keys, fetched) = state.keys.as_ref()?;
        if fetched.elapsed() > age_max {
            return None;
        }
        keys.find(key_id).cloned()
    }

    /// Asks for the set, unless that was done less than `rest` ago. Whoever comes while it is asked for waits for the same answer.
    async fn refresh(self: &Arc<Self>, rest: Duration) {
        let flight = Arc::clone(&self.flight).lock_owned().await;
        {
            let mut state = self.state();
            if state.tried.is_some_and(|tried| tried.elapsed() < rest) {
                return;
            }
            state.tried = Some(Instant::now());
        }
        let set = Arc::clone(self);
        // A task of its own, bounded in time: somebody who asks and goes away again must not take the answer from everybody else.
        let fetching = tokio::spawn(async move {
            let _flight = flight;
            let outcome = timeout(FETCH_WAIT, set.fetch()).await;
            set.settle(outcome.unwrap_or_else(|_| Err(FetchError::TooSlow.into())));
        });
        // It does not panic; if it did, the set is as it was.
        let _ = fetching.await;
    }

    async fn fetch(&self) -> Result<KeySet, SetError> {
        let document = match &self.place {
            Place::Account(url) | Place::Url(url) => self.fetch.fetch(url).await?,
            Place::Discovered { issuer } => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                let document = self.fetch.fetch(&url).await?;
                let found: Discovery = serde_json::from_slice(&document).map_err(|_| SetError::Discovery)?;
                if found.issuer != *issuer {
                    return Err(SetError::Discovery);
                }
                if !is_safe(&found.jwks_uri) {
                    return Err(SetError::Place);
                }
                self.fetch.fetch(&found.jwks_uri).await?
            }
        };
        Ok(KeySet::parse(&document)?)
    }

    fn settle(&self, outcome: Result<KeySet, SetError>) {
        let mut state = self.state();
        // From the answer on: those who waited for it would else ask again at once after a slow one.
        state.tried = Some(Instant::now());
        let is_account = matches!(self.place, Place::Account(_));
        // One odd answer with a good status must not take good keys away any more than one that says that there are none.
        let outcome = outcome.and_then(|keys| if keys.is_empty() { Err(SetError::Empty) } else { Ok(keys) });
        let is_absent = match &outcome {
            Err(SetError::Empty) => true,
            Err(SetError::Fetch(FetchError::Absent)) => is_account,
            Err(SetError::Fetch(_) | SetError::Form(_) | SetError::Discovery | SetError::Place) | Ok(_) => false,
        };
        let outcome = match outcome {
            Err(_) if is_absent && state.absent => Ok(KeySet::default()),
            other => other,
        };
        state.absent = is_absent;
        state.succeeded = outcome.is_ok();
        match outcome {
            Ok(keys) => state.keys = Some((Arc::new(keys), Instant::now())),
            Err(error) => tracing::warn!(set = self.name(), error = %Chain(&error), "could not fetch public keys"),
        }
    }

    /// What logs call it: accounts are not named there.
    fn name(&self) -> &str {
        match &self.place {
            Place::Account(_) => "of a service account",
            Place::Url(url) => url,
            Place::Discovered { issuer } => issuer,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether keys may be fetched from there: nobody on the way can change them.
pub fn is_safe(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let is_loopback = match url.host_str() {
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback)
}

/// An e-mail as a part of a path.
fn escaped(email: &str) -> String {
    let mut path = String::with_capacity(email.len());
    for byte in email.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}
