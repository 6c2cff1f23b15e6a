//! Opens sessions: picks a live agent at random, verifies it, and moves to another as long as the application has not been told of
//! success.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{InstanceId, RequestId};
use ginnel_core::limits::{ATTEMPTS_MAX, OPEN_DEADLINE, REQUEST_DEADLINE, SERVER_WAIT};
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_core::route::Routes;
use ginnel_core::target::Target;
use ginnel_identity::random::SystemRandom;
use ginnel_net::carried::Carried;
use ginnel_net::connect::Connection;
use ginnel_net::inner::{Handshakes, Session, initiate};
use ginnel_ops::ledger::{Ledger, Parties, Tracked};
use ginnel_wire::frame::{Choice, Open, SessionFrame};
use ginnel_wire::inner::InnerHello;
use ginnel_wire::path;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::lanes::Lanes;
use crate::link::{ClientLink, Live};
use crate::open::Opener;

/// One attempt: the server gives an agent [`OPEN_DEADLINE`], and its word needs some time to come back.
const ATTEMPT_DEADLINE: Duration = OPEN_DEADLINE.saturating_add(Duration::from_secs(2));

/// Opens sessions over whatever connection is live.
pub(crate) struct Sessions {
    live: watch::Receiver<Option<Live>>,
    lanes: Lanes,
    routes: RwLock<Arc<Routes>>,
    inner_tls: bool,
    handshakes: Handshakes,
    ledger: Ledger,
    /// The client is on its way out and opens nothing any more.
    draining: CancellationToken,
}

impl Sessions {
    pub(crate) fn new(link: &ClientLink, routes: Routes, inner_tls: bool, draining: CancellationToken) -> Self {
        let (live, lanes, ledger) = (link.live(), link.lanes(), Ledger::new(Role::Client));
        let routes = RwLock::new(Arc::new(routes));
        Self { live, lanes, routes, inner_tls, handshakes: Handshakes::default(), ledger, draining }
    }

    /// The routes in force.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other routes into force and ends the sessions that they do not permit; gives how many these are.
    pub(crate) fn replace_routes(&self, routes: Routes) -> u64 {
        let routes = Arc::new(routes);
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&routes);
        self.ledger.end_where(|parties| objection(&routes, parties))
    }

    /// Whether agents prove who they are. That is decided once: sessions that are open could not change it.
    pub(crate) fn has_inner_tls(&self) -> bool {
        self.inner_tls
    }

    /// The inner handshakes so far.
    pub(crate) fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }

    /// The live connection; waits a little for one that is about to come back. One that came before `newer_than` does not count.
    async fn live(&self, newer_than: u64) -> Result<Live, Refusal> {
        let mut live = self.live.clone();
        let usable = |live: &Option<Live>| {
            live.as_ref().is_some_and(|live| live.connection.takes_sessions() && live.number() > newer_than)
        };
        let found = timeout(SERVER_WAIT, live.wait_for(usable)).await;
        let found = found.ok().and_then(|found| found.ok().and_then(|live| live.clone()));
        found.ok_or(Refusal::new(Hop::Client, Cause::ServerUnreachable))
    }

    async fn attempt(
        &self,
        live: &Live,
        connection: &Connection,
        request: RequestId,
        target: &Target,
        agent: Option<Choice>,
    ) -> Result<Session, Refusal> {
        let choice = agent.clone();
        let open = Open { request, target: target.to_string(), agent, inner_tls: self.inner_tls };
        let (reader, writer) = connection.call(path::OPEN);
        let carried = Carried::opening(SessionFrame::Open(open), reader, writer, connection.budget());
        let answers = carried.answers();
        let answered = async || {
            let address = answers.answer().await?;
            // The server compares the same: one that passes another address on is the one that lies.
            let fits = target.may_be_at(address);
            if fits { Ok(()) } else { Err(Refusal::new(Hop::Server, Cause::ProtocolError)) }
        };
        let Some(choice) = choice else {
            // Asked only for its reason. A server that opens a session to nobody would be given the application's bytes.
            answered().await?;
            return Err(Refusal::new(Hop::Client, Cause::PeerNotVerified));
        };
        if !self.inner_tls {
            answered().await?;
            return Ok(Session::Clear(carried));
        }
        let initiating =
            live.initiators.initiate(&choice.principal, choice.instance, Instant::now()).map_err(|error| {
                tracing::error!(error = %Chain(&error), "could not set inner TLS up");
                Refusal::new(Hop::Client, Cause::Internal)
            })?;
        let hello = InnerHello { request, target: target.clone() };
        let handshake = async {
            match initiate(carried, initiating, &hello).await {
                Ok(session) => {
                    self.handshakes.count(&session);
                    Ok(session)
                }
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "no inner session");
                    // If the session was refused, that is the reason; the answer tells.
                    answered().await?;
                    Err(error.lost().unwrap_or(Refusal::new(Hop::Client, Cause::PeerNotVerified)))
                }
            }
        };
        let (session, _) = tokio::try_join!(handshake, answered())?;
        Ok(session)
    }
}

impl Opener for Arc<Sessions> {
    type Tunnel = Session;

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    async fn open(
        &self,
        request: RequestId,
        target: Target,
        from: SocketAddr,
        tracked: &Tracked,
    ) -> Result<Session, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::new(Hop::Client, Cause::ShuttingDown));
        }
        tracing::debug!(%from, %target, "opening");
        let late = |_| Err(Refusal::new(Hop::Client, Cause::TimedOut));
        timeout(REQUEST_DEADLINE, self.try_agents(request, target, tracked)).await.unwrap_or_else(late)
    }
}

impl Sessions {
    async fn try_agents(&self, request: RequestId, target: Target, tracked: &Tracked) -> Result<Session, Refusal> {
        let mut tried: BTreeSet<InstanceId> = BTreeSet::new();
        // What the agents that were tried said, and what became of the server: after the latter the next connection begins anew.
        let (mut last, mut lost) = (None, None);
        let mut newer_than = 0;
        for attempt in 1..=ATTEMPTS_MAX {
            // Judged before the server is waited for: what is on no route waits for nothing, and the server does not hear of it.
            self.routes().permits_target(&target).map_err(not_on_route)?;
            let live = self.live(newer_than).await.map_err(|refusal| last.or(lost).unwrap_or(refusal))?;
            let chosen = self.choose(live, &target, &tried).await;
            let (live, choice) = chosen.map_err(|refusal| last.unwrap_or(refusal))?;
            if let (None, Some(refusal)) = (&choice, last) {
                return Err(refusal);
            }
            // Without a fitting entry the server is asked all the same: its word, and its record, say why there is none.
            let instance = choice.as_ref().map(|choice| choice.instance);
            if let Some(choice) = &choice {
                self.enter(tracked, &target, choice)?;
            }
            let (connection, place) = self.lanes.place(&live);
            let attempting = self.attempt(&live, &connection, request, &target, choice);
            let attempted = timeout(ATTEMPT_DEADLINE, attempting).await;
            match attempted.unwrap_or(Err(Refusal::new(Hop::Agent, Cause::TimedOut))) {
                Ok(session) => {
                    tracked.hold(place);
                    return Ok(session);
                }
                // A server on its way out has a successor, or will have one.
                Err(refusal) if refusal == Refusal::new(Hop::Server, Cause::ShuttingDown) => {
                    tracked.attempt_failed(refusal);
                    newer_than = live.number();
                    (last, lost) = (None, Some(refusal));
                }
                // A server that has just come back hears of its agents within seconds.
                Err(refusal)
                    if refusal.cause == Cause::NoLiveAgent && self.agent_comes(&live, &target).await.is_some() =>
                {
                    tracked.attempt_failed(refusal);
                    last = None;
                }
                Err(refusal) if refusal.another_agent_may_help() => {
                    tracing::debug!(attempt, hop = %refusal.hop, cause = %refusal.cause, "attempt failed");
                    tracked.attempt_failed(refusal);
                    // After the loss of the server the same agent is as good as any.
                    if refusal.cause == Cause::ServerLost {
                        (last, lost) = (None, Some(refusal));
                    } else {
                        tried.extend(instance);
                        last = Some(refusal);
                    }
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Err(last.or(lost).unwrap_or(Refusal::new(Hop::Client, Cause::Internal)))
    }

    /// Picks who is to serve, and gives the connection whose roster that is from; nobody if nobody is offered, which the server is to explain.
    async fn choose(
        &self,
        live: Live,
        target: &Target,
        tried: &BTreeSet<InstanceId>,
    ) -> Result<(Live, Option<Choice>), Refusal> {
        let choose = |live: &Live| {
            let chosen = live.roster.choose(target, &self.routes(), tried, &mut SystemRandom);
            let choice = |(agent, instance)| Choice { principal: live.agent(agent), instance };
            chosen.map(|chosen| chosen.map(choice)).map_err(not_on_route)
        };
        let refusal = match choose(&live) {
            Ok(choice) => return Ok((live, choice)),
            Err(refusal) => refusal,
        };
        // A server that has just come back may hear of the right agent a moment after the others. The choice is made from the very roster that was
        // waited for: the next one may be without that agent again.
        let live = self.agent_comes(&live, target).await.ok_or(refusal)?;
        let choice = choose(&live)?;
        Ok((live, choice))
    }

    /// Puts the choice into the book, unless the routes have come to object to it: routes that come later find it there, those that came before
    /// are asked here.
    fn enter(&self, tracked: &Tracked, target: &Target, choice: &Choice) -> Result<(), Refusal> {
        tracked.through(&choice.principal, Some(choice.instance), None);
        self.routes().permits(target, &choice.principal.name).map_err(not_on_route)
    }

    /// Waits for an agent for this target on a connection that is still young; what is live once one has come.
    async fn agent_comes(&self, live: &Live, target: &Target) -> Option<Live> {
        let left = SERVER_WAIT.saturating_sub(live.age());
        if left.is_zero() {
            return None;
        }
        let mut changing = self.live.clone();
        let serves = |live: &Option<Live>| {
            live.as_ref().is_some_and(|live| {
                let chosen = live.roster.choose(target, &self.routes(), &BTreeSet::new(), &mut SystemRandom);
                chosen.is_ok_and(|chosen| chosen.is_some())
            })
        };
        let found = timeout(left, changing.wait_for(serves)).await.ok()?.ok()?;
        found.clone()
    }
}

/// What routes have against a request between these, as far as it is known between whom it is.
fn objection(routes: &Routes, parties: &Parties) -> Option<Refusal> {
    let target = parties.target.as_ref()?;
    let judged = match &parties.agent {
        Some(agent) => routes.permits(target, &agent.name),
        None => routes.permits_target(target),
    };
    judged.err().map(not_on_route)
}

fn not_on_route(cause: Cause) -> Refusal {
    Refusal::new(Hop::Client, cause)
}

#[cfg(test)]
mod tests;
