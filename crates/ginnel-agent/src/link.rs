//! The agent's control stream: says hello, takes dials, and can be asked for nothing else.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ginnel_core::audit::{self, Text};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{CONTROL_MESSAGE_MAX, DESCRIPTORS_RESERVED, SESSIONS_PER_AGENT_MAX};
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Identity;
use ginnel_identity::tls::Responder;
use ginnel_net::connect::Connection;
use ginnel_net::upstream::{Lane, Link};
use ginnel_ops::host;
use ginnel_ops::ledger::Begun;
use ginnel_wire::hello::{Dial, Hello, LANES, PROTOCOL_VERSIONS, is_spoken};
use ginnel_wire::v1::agent_link_client::AgentLinkClient;
use ginnel_wire::v1::{AgentMessage, ServerMessage, agent_message, server_message};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;

use crate::app::Owner;
use crate::session::{self, Caller};

/// How long sessions may take to reset their targets at the end.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Refusals for want of a session slot that are told at once.
const REFUSALS_MAX: usize = 64;

/// What the dials of one link are taken with.
struct Seat<'a> {
    connection: &'a Connection,
    /// Who this agent is.
    agent: Arc<audit::Agent>,
    responder: Arc<Responder>,
    lane: &'a Lane,
}

/// The agent's work on its connections.
#[derive(Clone)]
pub(crate) struct AgentLink {
    owner: Arc<Owner>,
    sessions: TaskTracker,
    /// Links that are up: draining waits until the server has ended each.
    links: TaskTracker,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// The process takes no more dials.
    draining: CancellationToken,
    /// What still runs is reset.
    stopping: CancellationToken,
}

impl AgentLink {
    pub(crate) fn new(owner: Arc<Owner>) -> Self {
        Self {
            owner,
            sessions: TaskTracker::new(),
            links: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(sessions_max(host::descriptors()))),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Takes no more dials and tells the server so; waits until every session has ended by itself.
    pub(crate) async fn drain(&self) {
        self.draining.cancel();
        self.links.close();
        self.links.wait().await;
        self.sessions.close();
        self.sessions.wait().await;
    }

    /// Ends every session with a reset.
    pub(crate) async fn stop(&self) {
        self.owner.ledger.end_where(|_| Some(Refusal::new(Hop::Agent, Cause::ShuttingDown)));
        self.sessions.close();
        // A session that does not end in time is dropped, and what is left of it ends with the process.
        if timeout(STOP_WAIT, self.sessions.wait()).await.is_err() {
            self.stopping.cancel();
            let _ = timeout(STOP_WAIT, self.sessions.wait()).await;
        }
    }

    fn take(&self, dial: Dial, seat: &Seat<'_>) {
        let mut slot = Arc::clone(&self.slots).try_acquire_owned().ok();
        let has_slot = slot.is_some();
        if !has_slot {
            // A refusal costs a call as well. Beyond these the server is left to its own deadline.
            slot = Arc::clone(&self.refusals).try_acquire_owned().ok();
            if slot.is_none() {
                return tracing::warn!(request = %dial.request, "overloaded: a dial goes unanswered");
            }
        }
        let Seat { connection, agent, responder, lane } = seat;
        let (owner, responder, agent) = (Arc::clone(&self.owner), Arc::clone(responder), Arc::clone(agent));
        let caller = Caller { owner, connection: (*connection).clone(), responder, agent };
        let tracked = self.owner.ledger.begin(Begun {
            request: dial.request,
            client: Some(dial.client.clone()),
            client_instance: None,
            from: None,
            target: dial.target.to_string(),
            front: None,
        });
        tracked.through(&seat.agent.principal, Some(self.owner.instance), None);
        let stopping = self.stopping.clone();
        let place = lane.enter();
        // Boxed, because what a task is made of stays in it a second time.
        let session = Box::pin(session::run(caller, dial, has_slot, tracked));
        self.sessions.spawn(async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = session => {}
            }
            drop((slot, place));
        });
    }

    /// Takes the dials of a link that is up, until it ends.
    async fn follow(
        &self,
        said: mpsc::Sender<AgentMessage>,
        mut heard: Streaming<ServerMessage>,
        seat: &Seat<'_>,
    ) -> Cause {
        let Seat { connection, lane, .. } = seat;
        // Holding `said` keeps the agent's half of the stream open; the server ends its half when a newer link took over. Dropping it says
        // that no more dials are taken; those that are on their way are answered until the server ends its half too.
        let mut said = Some(said);
        let mut going_away = pin!(connection.going_away());
        loop {
            let heard = tokio::select! {
                biased;
                () = self.draining.cancelled(), if said.is_some() => {
                    said = None;
                    continue;
                }
                () = lane.retired(), if said.is_some() => {
                    said = None;
                    continue;
                }
                heard = next(&mut heard) => heard,
                // No dial could be answered on it any more. Its sessions may go on.
                () = &mut going_away => break Cause::ServerLost,
            };
            match heard {
                Some(server_message::Kind::Dial(dial)) => match Dial::try_from(dial) {
                    Ok(dial) => self.take(dial, seat),
                    Err(error) => tracing::warn!(%error, "the server sent a malformed dial"),
                },
                Some(server_message::Kind::Welcome(_)) => break Cause::ProtocolError,
                None if said.is_none() => break Cause::ShuttingDown,
                None => break Cause::ServerLost,
            }
        }
    }
}

impl Link for AgentLink {
    async fn run(self, connection: Connection, identity: Identity, lane: Lane, up: oneshot::Sender<()>) -> Cause {
        let _running = self.links.token();
        let (said, messages) = mpsc::channel(1);
        let hello = agent_message::Kind::Hello(Hello::new(self.owner.instance, lane.number()).into());
        if said.try_send(AgentMessage { kind: Some(hello) }).is_err() {
            return Cause::Internal;
        }
        let mut client = AgentLinkClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(CONTROL_MESSAGE_MAX);
        let mut heard = match client.attach(ReceiverStream::new(messages)).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                let (code, reason) = (status.code(), status.message());
                if lane.is_first() {
                    tracing::warn!(?code, reason, "the server refused the link");
                } else {
                    tracing::debug!(?code, reason, lane = lane.number(), "the server refused a further link");
                }
                return Cause::ServerLost;
            }
        };
        let Some(server_message::Kind::Welcome(welcome)) = next(&mut heard).await else {
            return Cause::ProtocolError;
        };
        if !is_spoken(welcome.protocol_version) {
            let (version, spoken) = (welcome.protocol_version, PROTOCOL_VERSIONS);
            tracing::error!(version, ?spoken, "the server speaks another version of the protocol");
            return Cause::ProtocolError;
        }
        // The version is the server's own word, and may hold anything.
        let version = Text::new(&welcome.software_version);
        self.owner.progress.server_said(version.as_str());
        if lane.is_first() {
            lane.set_takes_further(welcome.capabilities.iter().any(|word| word == LANES));
            tracing::info!(instance = %self.owner.instance, server_version = %version, "link up");
        } else {
            tracing::debug!(lane = lane.number(), "further link up");
        }
        let responder = match self.owner.responder(&identity, lane.is_first()) {
            Ok(responder) => responder,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "could not set inner TLS up");
                return Cause::Internal;
            }
        };
        if up.send(()).is_err() {
            return Cause::Internal;
        }
        let leaf = identity.leaf();
        let (principal, email) = (leaf.principal.clone(), Text::new(&leaf.email));
        let agent = Arc::new(audit::Agent { principal, email, instance: self.owner.instance });
        let seat = Seat { connection: &connection, agent, responder, lane: &lane };
        self.follow(said, heard, &seat).await
    }

    fn is_stopping(&self) -> bool {
        self.draining.is_cancelled()
    }
}

/// Most sessions of a process that may have so many descriptors: each needs one.
fn sessions_max(descriptors: u64) -> usize {
    let rest = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX);
    SESSIONS_PER_AGENT_MAX.min(rest).max(1)
}

async fn next(heard: &mut Streaming<ServerMessage>) -> Option<server_message::Kind> {
    loop {
        match heard.message().await {
            // A message of a kind that a newer server knows was not negotiated, and is passed over.
            Ok(Some(ServerMessage { kind: None })) => {}
            Ok(Some(ServerMessage { kind: Some(kind) })) => return Some(kind),
            Ok(None) | Err(_) => return None,
        }
    }
}
