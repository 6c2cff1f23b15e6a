//! What one principal or source may have of the server, and how often, so that whoever uses that up takes nothing from others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ginnel_core::budget::Budget;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{
    CREDIT_IN_ALL, ENOUGH_FACTOR, FAILED_ENROLMENTS_BURST_SECONDS, Limits, OPENS_BURST_SECONDS, UNDECIDED_MAX,
    UNDECIDED_PER_PRINCIPAL_MAX, UNHEARD_FACTOR, VIOLATIONS_MAX,
};
use ginnel_core::network::Network;
use ginnel_core::principal::Principal;
use ginnel_core::quota::{Place, Quota, Usage};
use ginnel_core::rate::Rates;
use ginnel_core::status::Bound;
use ginnel_core::store::Store;
use ginnel_net::accept::{Door, Gate};
use ginnel_net::call::Call;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lease::Leases;

/// What the server says when a bound of its own, or of the client's, is reached.
pub(crate) const OVERLOADED: Refusal = Refusal { hop: Hop::Server, cause: Cause::Overloaded };

/// The bounds of one server.
pub(crate) struct Bounds {
    /// What connections have to pass.
    pub(crate) gate: Arc<Gate>,
    /// Enrolments that failed.
    pub(crate) failures: Arc<Failures>,
    /// Most processes of one principal.
    pub(crate) instances_each: usize,
    /// Calls that have not said yet what they want.
    undecided: Quota<Principal>,
    /// Sessions, counted for their clients and for their agents.
    of_clients: Quota<Principal>,
    of_agents: Quota<Principal>,
    /// The same through each agent, counted for their clients: one client must not use up an agent that others use as well.
    through: Mutex<BTreeMap<Principal, Quota<Principal>>>,
    through_refused: AtomicU64,
    /// Most sessions of one agent.
    each: u64,
    /// Bytes of sessions that nobody takes.
    pub(crate) waiting: Store,
    rates: Mutex<CallRates>,
}

/// How often a principal may call.
struct CallRates {
    /// For a session, with success.
    opens: Rates<Principal>,
    /// For anything, and be heard.
    calls: Rates<Principal>,
    /// For anything, and keep the connection.
    patience: Rates<Principal>,
}

impl Bounds {
    /// The bounds that the limits mean for a process that may use so much memory, as far as that is known.
    pub(crate) fn new(limits: &Limits, memory: Option<u64>, door: Door) -> Self {
        let sessions = || Quota::new(limits.sessions_per_principal, limits.sessions);
        let rates = |factor: u32| {
            let per_second = limits.opens_per_second.saturating_mul(factor);
            Rates::new(per_second, per_second.saturating_mul(OPENS_BURST_SECONDS))
        };
        Self {
            gate: Arc::new(Gate::new(door, limits)),
            failures: Arc::new(Failures::new(limits.failed_enrolments_per_second)),
            instances_each: limits.instances_per_principal,
            undecided: Quota::new(UNDECIDED_PER_PRINCIPAL_MAX, UNDECIDED_MAX),
            of_clients: sessions(),
            of_agents: sessions(),
            through: Mutex::default(),
            through_refused: AtomicU64::new(0),
            each: limits.sessions_per_principal,
            waiting: Store::new(limits.waiting_bytes(memory)),
            rates: Mutex::new(CallRates {
                opens: rates(1),
                calls: rates(UNHEARD_FACTOR),
                patience: rates(ENOUGH_FACTOR),
            }),
        }
    }

    /// Takes a call up, with the place that it has until it is decided what becomes of it. A principal that has too many, or calls too often, is
    /// turned away; if it goes on with that, its connection is `closed`.
    pub(crate) fn hear(
        &self,
        who: &Principal,
        call: Call,
        closed: &CancellationToken,
    ) -> Option<(Call, Place<Principal>)> {
        let now = Instant::now().into_std();
        let mut rates = self.rates();
        let has_had_enough = !rates.patience.take(who, now);
        let is_heard = !has_had_enough && rates.calls.take(who, now);
        drop(rates);
        let place = if is_heard { self.undecided.take(who) } else { None };
        if let Some(place) = place {
            return Some((call, place));
        }
        if has_had_enough && !closed.is_cancelled() {
            tracing::warn!(principal = %who, cause = %Cause::Overloaded, "called far too often: the connection is closed");
            closed.cancel();
        }
        call.turn_away(OVERLOADED);
        None
    }

    /// An agent's call was one that the server waits for, however many clients are behind it: it counts for their rates, not for the agent's.
    pub(crate) fn was_awaited(&self, agent: &Principal) {
        let mut rates = self.rates();
        rates.calls.give_back(agent);
        rates.patience.give_back(agent);
    }

    /// What all sessions together may have under way beyond their first credit: a quarter of what may wait.
    pub(crate) fn credit(&self) -> Budget {
        Budget::new(CREDIT_IN_ALL.min(self.waiting.usage().most / 4))
    }

    /// Whether a client may ask for one more session at this moment.
    pub(crate) fn may_open(&self, client: &Principal) -> bool {
        self.rates().opens.take(client, Instant::now().into_std())
    }

    /// A place for one more session of a client.
    pub(crate) fn of_client(&self, client: &Principal) -> Option<Place<Principal>> {
        self.of_clients.take(client)
    }

    /// Places for one more session of a client through an agent.
    pub(crate) fn of_agent(&self, agent: &Principal, client: &Principal) -> Option<[Place<Principal>; 2]> {
        // As many of them as the configuration has agents.
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        let through = through.entry(agent.clone()).or_insert_with(|| Quota::new(self.each, self.each)).clone();
        let of_agent = self.of_agents.take(agent)?;
        let place = through.take(client);
        if place.is_none() {
            self.through_refused.fetch_add(1, Ordering::Relaxed);
        }
        Some([of_agent, place?])
    }

    /// How far everything is used up, together with the places at the gate.
    pub(crate) fn shown(&self, leases: &Leases) -> Vec<Bound> {
        let rates = self.rates();
        let (opens, calls) = (rates.opens.refused(), rates.calls.refused() + rates.patience.refused());
        drop(rates);
        let mut of_agents = self.of_agents.usage();
        of_agents.refused += self.through_refused.load(Ordering::Relaxed);
        let rate = |refused| Usage { taken: 0, most: 0, refused };
        let shown = [
            ("pending", self.gate.pending()),
            ("connections", self.gate.certified().usage()),
            ("instances", leases.usage()),
            ("undecided", self.undecided.usage()),
            ("clientSessions", self.of_clients.usage()),
            ("agentSessions", of_agents),
            ("waitingBytes", self.waiting.usage()),
            ("opensPerSecond", rate(opens)),
            ("callsPerSecond", rate(calls)),
            ("failedEnrolmentsPerSecond", rate(self.failures.refused())),
        ];
        shown.into_iter().map(|(name, usage)| Bound::new(name, usage)).collect()
    }

    fn rates(&self) -> MutexGuard<'_, CallRates> {
        // Counters alone: a panic elsewhere cannot have left half of a change that matters.
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a peer has broken the protocol in the sessions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Violations(AtomicU32);

impl Violations {
    /// One more session that `who` broke; the last of many closes the connection.
    pub(crate) fn count(&self, who: &Principal, closed: &CancellationToken) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        if before + 1 == VIOLATIONS_MAX {
            tracing::warn!(principal = %who, cause = %Cause::ProtocolError, "broke the protocol again and again: the connection is closed");
            closed.cancel();
        }
    }
}

/// Failed enrolments by source. Whoever has made too many waits, right or wrong, before anything that costs is done for them.
pub(crate) struct Failures(Mutex<Rates<Network>>);

impl Failures {
    /// So many in a second from each source, over the time.
    pub(crate) fn new(per_second: u32) -> Self {
        Self(Mutex::new(Rates::new(per_second, per_second.saturating_mul(FAILED_ENROLMENTS_BURST_SECONDS))))
    }

    /// How long nobody from this source is listened to; `None` if they are.
    pub(crate) fn wait(&self, source: Network) -> Option<Duration> {
        let mut rates = self.rates();
        let wait = rates.wait(&source, Instant::now().into_std());
        if wait.is_zero() {
            return None;
        }
        rates.refuse();
        Some(wait)
    }

    /// One more failed.
    pub(crate) fn charge(&self, source: Network) {
        self.rates().charge(&source, Instant::now().into_std());
    }

    fn refused(&self) -> u64 {
        self.rates().refused()
    }

    fn rates(&self) -> MutexGuard<'_, Rates<Network>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ginnel_core::limits::FAILED_ENROLMENTS_PER_SECOND;
    use ginnel_identity::tls::{CurrentIdentity, outer_server_for_strangers};

    use super::*;

    fn bounds(limits: &Limits) -> Bounds {
        let own = CurrentIdentity::new();
        let tls = outer_server_for_strangers(&own).unwrap();
        Bounds::new(limits, None, Door { tls, balancers: None })
    }

    fn client(name: &str) -> Principal {
        format!("spiffe://acme.example/client/{name}").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_too_often_waits_and_no_other() {
        let bounds = bounds(&Limits { opens_per_second: 10, ..Limits::default() });
        let opened = |name: &str| (0..1000).filter(|_| bounds.may_open(&client(name))).count();
        let burst = usize::try_from(10 * OPENS_BURST_SECONDS).unwrap();
        assert_eq!((opened("one"), opened("other")), (burst, burst));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(opened("one"), 10);
    }

    #[test]
    fn one_client_does_not_use_up_an_agent_that_others_use() {
        let bounds = bounds(&Limits { sessions_per_principal: 8, ..Limits::default() });
        let agent = "spiffe://acme.example/agent/acme".parse().unwrap();
        let fill = |name: &str| std::iter::from_fn(|| bounds.of_agent(&agent, &client(name))).collect::<Vec<_>>();
        let (one, other) = (fill("one"), fill("other"));
        assert_eq!((one.len(), other.len()), (4, 2));
        drop(one);
        assert!(bounds.of_agent(&agent, &client("other")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_too_often_waits_and_no_other() {
        let failures = Failures::new(FAILED_ENROLMENTS_PER_SECOND);
        let source = |text: &str| Network::of(text.parse().unwrap());
        let (one, other) = (source("192.0.2.1"), source("198.51.100.1"));
        for _ in 0..FAILED_ENROLMENTS_PER_SECOND * FAILED_ENROLMENTS_BURST_SECONDS {
            assert_eq!(failures.wait(one), None);
            failures.charge(one);
        }
        let wait = failures.wait(one).unwrap();
        assert!(wait <= Duration::from_secs(1) / FAILED_ENROLMENTS_PER_SECOND, "{wait:?}");
        assert_eq!((failures.wait(other), failures.refused()), (None, 1));
        tokio::time::sleep(wait).await;
        assert_eq!(failures.wait(one), None);
    }
}
