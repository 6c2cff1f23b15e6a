//! How an agent or client stands with its server, for whoever asks the process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ginnel_core::audit::Timestamp;
use ginnel_core::status::{self, Renewals, Status};
use ginnel_identity::certificate::{Identity, Leaf};
use tokio::time::Instant;

use super::lane::Load;
use crate::connect::Endpoint;

/// What is known. Clones tell of the same process.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    state: Arc<Mutex<State>>,
    load: Load,
}

#[derive(Debug, Default)]
struct State {
    certificate: Option<(Leaf, Instant)>,
    /// What the newest certificate was asked for with.
    credential: Option<String>,
    renewals: Renewals,
    renewal_failure: Option<status::Failure>,
    connected: Option<Timestamp>,
    server_version: Option<String>,
    failure: Option<status::Failure>,
}

impl Progress {
    /// A certificate is in use; it ends at `expires` by the monotonic clock. One that comes back with another connection is not a renewal.
    pub fn certified(&self, identity: &Identity, expires: Instant) {
        let mut state = self.lock();
        if state.certificate.as_ref().is_some_and(|(leaf, _)| leaf.serial == identity.leaf().serial) {
            return;
        }
        state.certificate = Some((identity.leaf().clone(), expires));
        state.renewals.renewed += 1;
        state.renewal_failure = None;
    }

    pub(super) fn renewal_failed(&self, error: String) {
        let mut state = self.lock();
        state.renewals.failed += 1;
        state.renewal_failure = Some(failure(error));
    }

    /// A renewal has not begun, because there is nothing to ask with.
    pub(super) fn renewal_waits(&self, why: String) {
        self.lock().renewal_failure = Some(failure(why));
    }

    /// A certificate was had with this credential.
    pub(super) fn proved(&self, credential: String) {
        self.lock().credential = Some(credential);
    }

    pub(super) fn connected(&self) {
        let mut state = self.lock();
        state.connected = Some(now());
        state.failure = None;
    }

    pub(super) fn disconnected(&self, error: Option<String>) {
        let mut state = self.lock();
        state.connected = None;
        if let Some(error) = error {
            state.failure = Some(failure(error));
        }
    }

    /// Until when the last certificate that was in use is valid, in seconds since 1970; 0 if there was none.
    pub(super) fn renews_until(&self) -> u64 {
        let not_after = self.lock().certificate.as_ref().map(|(leaf, _)| leaf.not_after);
        let since = not_after.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_secs())
    }

    /// What its connections carry.
    pub(super) fn load(&self) -> &Load {
        &self.load
    }

    /// What the server said of its software.
    pub fn server_said(&self, version: &str) {
        self.lock().server_version = Some(version.to_owned());
    }

    /// Whether there is a connection that sessions can use.
    pub fn is_connected(&self) -> bool {
        self.lock().connected.is_some()
    }

    /// Writes what is known into a status.
    pub fn fill(&self, endpoint: &Endpoint, status: &mut Status) {
        let state = self.lock();
        status.certificate = state.certificate.as_ref().map(|(leaf, expires)| status::Certificate {
            serial: leaf.serial.clone(),
            not_after: Timestamp::from(leaf.not_after),
            remaining_seconds: expires.saturating_duration_since(Instant::now()).as_secs(),
            renewal_failure: state.renewal_failure.clone(),
            credential: state.credential.clone(),
            proof: None,
            verified_by: None,
        });
        status.principal = state.certificate.as_ref().map(|(leaf, _)| leaf.principal.to_string());
        status.renewals = state.renewals;
        status.server = Some(status::Upstream {
            address: endpoint.address(),
            name: endpoint.server_name.clone(),
            connected: state.connected.is_some(),
            connections: u64::try_from(self.load.lanes_up()).unwrap_or(u64::MAX),
            since: state.connected,
            version: state.server_version.clone(),
            failure: state.failure.clone(),
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(error: String) -> status::Failure {
    status::Failure { time: now(), error }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
