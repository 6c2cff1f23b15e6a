//! What the agent's own audit log is told of one session.
//!
//! The client is put down as its certificate of the inner handshake names it, and before that as what it is: the server's word. Every session
//! that was allowed leaves exactly one of `refused` or `ended`. What allows it is on disk before the target gets a byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ginnel_core::audit::{self, Event, Text};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::denial::Shown;
use ginnel_core::id::RequestId;
use ginnel_core::principal::Principal;
use ginnel_core::report::Chain;
use ginnel_core::target::Target;
use ginnel_core::traffic::Traffic;
use ginnel_net::carried::Answers;
use ginnel_ops::audit::{AuditLog, Durable};
use ginnel_wire::hello::Dial;
use tokio::time::timeout;

use crate::word::Lists;

/// How long a session waits for its records to be on disk. The disk has stopped if it takes longer, and whoever waits has little patience left
/// after a handshake, a lookup and a dial.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Puts events on record that have happened already: if that fails, the log itself refuses what comes next.
pub(crate) fn note(audit: &AuditLog, event: Event) {
    if let Err(error) = audit.record(event) {
        tracing::error!(error = %Chain(&error), "could not record an event");
    }
}

/// One session, as far as the log has been told of it. Dropping it puts it down as broken off.
pub(crate) struct Account {
    audit: AuditLog,
    since: Instant,
    order: Ordered,
    stage: Stage,
    /// The target's bytes.
    traffic: Traffic,
    /// Where the bytes are counted that the session takes with its encryption; known once the session was taken up.
    carried: Option<Answers>,
}

/// What the server said of the session, and through which agent it goes.
struct Ordered {
    request: RequestId,
    target: Target,
    client: Principal,
    agent: Arc<audit::Agent>,
    /// The version of the list that was in force.
    policy: Text,
}

/// How far it has come.
enum Stage {
    /// Nobody has proved anything.
    Claimed,
    /// This client asks.
    Proved(audit::Client),
    /// The list allows it.
    Allowed(audit::Session),
    /// The target is connected.
    Connected(audit::Session),
    /// Its last word is on record.
    Closed,
}

/// What has to be on disk before the session goes on.
#[must_use]
pub(crate) struct OnDisk(Durable);

impl OnDisk {
    /// Waits for the disk.
    pub(crate) async fn wait(self) -> Result<(), Refusal> {
        match timeout(DISK_WAIT, self.0).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(unavailable()),
        }
    }
}

fn unavailable() -> Refusal {
    Refusal::new(Hop::Agent, Cause::AuditUnavailable)
}

impl Account {
    /// An account of a dial that came for `agent` while the list of version `policy` was in force; `traffic` counts its bytes.
    pub(crate) fn new(
        audit: &AuditLog,
        agent: &Arc<audit::Agent>,
        order: &Dial,
        traffic: &Traffic,
        policy: &str,
    ) -> Box<Self> {
        let (request, target, client) = (order.request, order.target.clone(), order.client.clone());
        let order = Ordered { request, target, client, agent: Arc::clone(agent), policy: Text::new(policy) };
        let (audit, traffic, since) = (audit.clone(), traffic.clone(), Instant::now());
        Box::new(Self { audit, since, order, stage: Stage::Claimed, traffic, carried: None })
    }

    /// The session was taken up.
    pub(crate) fn counts(&mut self, carried: Answers) {
        self.carried = Some(carried);
    }

    /// The client has proved who it is.
    pub(crate) fn proved(&mut self, client: &Shown) {
        let (principal, email) = (client.principal.clone(), Text::new(&client.email));
        self.stage = Stage::Proved(audit::Client { principal, email });
    }

    /// The list allows the session; it may go on once that is on disk.
    ///
    /// # Errors
    /// The refusal, if it cannot be recorded.
    pub(crate) fn allowed(&mut self, lists: &Lists) -> Result<OnDisk, Refusal> {
        let Stage::Proved(client) = &self.stage else { return Err(Refusal::new(Hop::Agent, Cause::Internal)) };
        let Ordered { request, target, client: _, agent, policy: _ } = &self.order;
        let entry = lists.allow.entry_for(Some(&client.principal), target);
        let session = audit::Session {
            request_id: *request,
            client: client.clone(),
            agent: agent.as_ref().clone(),
            target: target.clone(),
            peer: None,
            rule: Text::new(entry.map(|entry| entry.target.to_string()).unwrap_or_default()),
            policy: Text::new(&lists.version),
        };
        let durable = self.audit.record(Event::Allowed { session: session.clone() });
        let durable = durable.map_err(|error| Refusal::new(Hop::Agent, error.cause()))?;
        self.stage = Stage::Allowed(session);
        Ok(OnDisk(durable))
    }

    /// The target is connected; its bytes may flow once that is on disk.
    ///
    /// # Errors
    /// The refusal, if it cannot be recorded.
    pub(crate) fn connected(&mut self, address: SocketAddr) -> Result<OnDisk, Refusal> {
        let Stage::Allowed(session) = &self.stage else { return Err(Refusal::new(Hop::Agent, Cause::Internal)) };
        let session = session.clone();
        let durable = self.audit.record(Event::Connected { session: session.clone(), address });
        let durable = durable.map_err(|_| unavailable())?;
        self.stage = Stage::Connected(session);
        Ok(OnDisk(durable))
    }

    /// A list that only observes would have refused it.
    pub(crate) fn would_refuse(&self, address: SocketAddr, cause: Cause, observed: &str) {
        if let Stage::Connected(session) = &self.stage {
            let (session, observed) = (session.clone(), Text::new(observed));
            note(&self.audit, Event::WouldRefuse { session, address, cause, observed });
        }
    }

    /// It came to nothing.
    pub(crate) fn refused(&mut self, Refusal { hop, cause }: Refusal) {
        let Ordered { request, target, client: claimed, agent, policy } = &self.order;
        let (client, client_claimed, rule, policy) = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Claimed => (None, Some(claimed.clone()), None, policy.clone()),
            Stage::Proved(client) => (Some(client), None, None, policy.clone()),
            Stage::Allowed(session) | Stage::Connected(session) => {
                (Some(session.client), None, Some(session.rule), session.policy)
            }
            Stage::Closed => return,
        };
        let event = Event::Refused {
            request_id: *request,
            client,
            client_claimed,
            agent: Some(agent.as_ref().clone()),
            target: Text::new(target),
            peer: None,
            hop,
            cause,
            rule,
            policy,
        };
        // A log that cannot be written says so itself; the refusal stands either way.
        let _ = self.audit.record(event);
    }

    /// It is over.
    pub(crate) fn ended(&mut self, hop: Hop, cause: Cause) {
        let session = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Connected(session) => session,
            Stage::Claimed | Stage::Proved(_) | Stage::Allowed(_) | Stage::Closed => return,
        };
        let (bytes_up, bytes_down) = self.traffic.bytes();
        let (carried_up, carried_down) = self.carried.as_ref().map(Answers::bytes).unzip();
        let duration_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let event = Event::Ended { session, bytes_up, bytes_down, carried_up, carried_down, duration_ms, hop, cause };
        note(&self.audit, event);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        match &self.stage {
            Stage::Connected(_) => self.ended(Hop::Agent, Cause::Aborted),
            Stage::Claimed | Stage::Proved(_) | Stage::Allowed(_) => {
                self.refused(Refusal::new(Hop::Agent, Cause::Aborted));
            }
            Stage::Closed => {}
        }
    }
}
