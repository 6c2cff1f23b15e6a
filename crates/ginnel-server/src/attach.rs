//! Agents' links: one control stream per agent process, and the calls with which it takes sessions up.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ginnel_core::audit::{self, Event, Text};
use ginnel_core::cause::Cause;
use ginnel_core::denial::Shown;
use ginnel_core::limits::CONTROL_QUEUE_MAX;
use ginnel_core::principal::Principal;
use ginnel_core::quota::Place;
use ginnel_identity::certificate::Leaf;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_net::call::Call;
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::hello::Hello;
use ginnel_wire::v1::agent_link_server::AgentLink as AgentLinkCalls;
use ginnel_wire::v1::{AgentMessage, ServerMessage, agent_message, server_message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::admit::{refused_hello, turn_away};
use crate::broker::Broker;
use crate::connections::Registered;
use crate::directory::{AgentLink, Carrier, Facts};
use crate::lease::Share;
use crate::orders::Orders;
use crate::signals::too_many_instances;

/// How long a stream may take to say its first message.
const FIRST_MESSAGE_WAIT: Duration = Duration::from_secs(5);

/// One agent's connection.
pub(crate) struct AgentSeat {
    broker: Arc<Broker>,
    peer: SocketAddr,
    leaf: Leaf,
    pub(crate) certificate: Arc<Shown>,
    closed: CancellationToken,
    /// A connection has one link; sessions are taken up on the connection whose link they were announced on.
    link: OnceLock<Attached>,
    _registered: Registered,
}

/// A link and the connection's part in the lease, which lasts as long as the connection, whatever becomes of the link.
struct Attached {
    link: Arc<AgentLink>,
    _share: Share,
}

impl AgentSeat {
    pub(crate) fn new(broker: Arc<Broker>, peer: SocketAddr, leaf: Leaf, closed: CancellationToken) -> Self {
        let certificate = Arc::new(leaf.shown_from(peer.ip()));
        let registered = broker.connections.register(Arc::clone(&certificate), closed.clone());
        Self { broker, peer, leaf, certificate, closed, link: OnceLock::new(), _registered: registered }
    }

    pub(crate) fn has_said_hello(&self) -> bool {
        self.link.get().is_some()
    }

    /// Closes the connection, on which somebody called for what another role may do.
    pub(crate) fn turn_away(&self) {
        turn_away(&self.broker, &self.leaf.principal, &self.closed);
    }

    /// Takes a call up, unless this principal has too many or calls too often.
    pub(crate) fn hear(&self, call: Call) -> Option<(Call, Place<Principal>)> {
        self.broker.bounds.hear(&self.leaf.principal, call, &self.closed)
    }

    /// Takes a call that wants to take a session up, and has its place until it has said which.
    pub(crate) fn carry(self: &Arc<Self>, place: Place<Principal>, mut reader: FrameReader, writer: FrameWriter) {
        let seat = Arc::clone(self);
        self.broker.tasks.spawn(async move {
            let first = timeout(FIRST_MESSAGE_WAIT, reader.next()).await;
            drop(place);
            let Ok(Ok(Some(SessionFrame::Take(session)))) = first else {
                tracing::warn!(agent = %seat.leaf.principal, "an agent's call did not begin with Take");
                return;
            };
            let taken =
                seat.link.get().is_some_and(|attached| attached.link.take_up(session, Carrier { reader, writer }));
            if taken {
                seat.broker.bounds.was_awaited(&seat.leaf.principal);
            } else {
                // The usual reason is a client that gave up meanwhile.
                tracing::debug!(agent = %seat.leaf.principal, "an agent took up a session that nobody awaits");
            }
        });
    }

    /// Makes the connection's link, with its part in the lease.
    fn link(&self, hello: &Hello) -> Result<(Arc<AgentLink>, mpsc::Receiver<ServerMessage>), Status> {
        if !hello.is_first() {
            let first = self.broker.directory.first(&self.leaf.principal, hello.instance);
            let serial = first.map(|first| first.facts.serial.clone());
            self.broker.connections.may_be_further(&self.leaf, serial.as_deref())?;
        }
        let joined = self.broker.leases.join(&self.leaf, &self.certificate, hello.instance, &self.closed);
        let share = joined.map_err(|_| too_many_instances(&self.broker, &self.leaf, hello.instance, self.peer))?;
        self.broker.expect_at_google(&self.certificate)?;
        let agent = audit::Agent {
            principal: self.leaf.principal.clone(),
            email: Text::new(&self.leaf.email),
            instance: hello.instance,
        };
        let (control, messages) = mpsc::channel(CONTROL_QUEUE_MAX);
        let facts = Facts::new(&self.leaf, Arc::clone(&self.certificate), self.peer, hello);
        let link = Arc::new(AgentLink::new(
            agent,
            hello.lane,
            facts,
            control,
            self.closed.clone(),
            share.ended().clone(),
            share.refused().clone(),
        ));
        match self.link.set(Attached { link: Arc::clone(&link), _share: share }) {
            Ok(()) => Ok((link, messages)),
            Err(_) => Err(Status::failed_precondition("this connection has a link already")),
        }
    }

    /// The record of a first link. A further one has the certificate that is on record with the first, and none of its own.
    fn link_up(&self, link: &AgentLink, hello: &Hello) -> Option<Event> {
        link.is_first().then(|| Event::LinkUp {
            agent: link.agent.clone(),
            peer: self.peer,
            version: Text::new(&hello.software_version),
            serial: Text::new(&self.leaf.serial),
            proof: self.leaf.evidence.as_ref().map(|evidence| Text::new(&evidence.proof)),
        })
    }
}

/// Everything that a link does, from its record of coming up to that of going down.
struct Attachment {
    broker: Arc<Broker>,
    link: Arc<AgentLink>,
    messages: mpsc::Receiver<ServerMessage>,
    said: Streaming<AgentMessage>,
    out: mpsc::Sender<Result<ServerMessage, Status>>,
}

impl Attachment {
    async fn run(self, link_up: Option<Event>) {
        let Self { broker, link, messages, said, out } = self;
        let recorded = async {
            match link_up {
                Some(link_up) => broker.audit.record(link_up)?.await,
                None => Ok(()),
            }
        };
        if recorded.await.is_err() {
            // Nobody reads this if the agent is gone already.
            let _ = out.send(Err(Status::unavailable("the audit log cannot be written"))).await;
            link.closed.cancel();
            return;
        }
        let welcome = server_message::Kind::Welcome(broker.welcome());
        let welcome = ServerMessage { kind: Some(welcome) };
        broker.directory.join(Arc::clone(&link));
        let audit::Agent { principal, instance, .. } = &link.agent;
        if link.is_first() {
            tracing::info!(agent = %principal, %instance, "link up");
        } else {
            tracing::debug!(agent = %principal, %instance, lane = link.lane, "further link up");
        }
        let cause = forward(&link, welcome, messages, &out, said, &broker).await;
        broker.directory.leave(&link);
        // An agent that takes no more, or a server on its way out, still finishes what was begun.
        if !matches!(cause, Cause::Finished | Cause::ShuttingDown) {
            link.gone.cancel();
        }
        if matches!(cause, Cause::CertificateExpired | Cause::ProtocolError) {
            link.closed.cancel();
        }
        if link.is_first() {
            tracing::info!(agent = %principal, %instance, %cause, "link down");
            broker.note(Event::LinkDown { agent: link.agent.clone(), cause });
        } else {
            tracing::debug!(agent = %principal, %instance, lane = link.lane, %cause, "further link down");
        }
    }
}

#[tonic::async_trait]
impl AgentLinkCalls for AgentSeat {
    type AttachStream = Orders;

    async fn attach(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        if self.broker.shutdown.is_cancelled() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let mut said = request.into_inner();
        let hello = first_message(&mut said).await.inspect_err(|status| refused_hello(&self.leaf.principal, status))?;
        let (link, messages) = self.link(&hello)?;
        let link_up = self.link_up(&link, &hello);
        let (out, messages_out) = mpsc::channel(1);
        let orders = Orders::new(messages_out, Arc::clone(&link));
        // A task of its own from here on: this call is dropped when the agent cancels it, and what came up has to go down on record.
        let attachment = Attachment { broker: Arc::clone(&self.broker), link, messages, said, out };
        self.broker.tasks.spawn(attachment.run(link_up));
        Ok(Response::new(orders))
    }
}

async fn first_message(said: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    let message = timeout(FIRST_MESSAGE_WAIT, said.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello"))??
        .ok_or_else(|| Status::invalid_argument("no hello"))?;
    let Some(agent_message::Kind::Hello(hello)) = message.kind else {
        return Err(Status::invalid_argument("the first message is not a hello"));
    };
    Hello::try_from(hello).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Passes messages on until the link ends, and says why it did: [`Cause::Finished`] when another link of the process replaced it.
///
/// An agent that does not read its messages holds up nothing but them: every other reason to end is heard all the same.
async fn forward(
    link: &AgentLink,
    welcome: ServerMessage,
    mut messages: mpsc::Receiver<ServerMessage>,
    out: &mpsc::Sender<Result<ServerMessage, Status>>,
    mut said: Streaming<AgentMessage>,
    broker: &Broker,
) -> Cause {
    let mut unsent = Some(welcome);
    let mut agent_has_ended = false;
    loop {
        tokio::select! {
            biased;
            () = link.expired.cancelled() => return Cause::CertificateExpired,
            () = link.refused.cancelled() => return Cause::NotAdmitted,
            () = link.closed.cancelled() => return Cause::AgentLost,
            () = broker.cut.cancelled() => return Cause::ShuttingDown,
            more = said.message(), if !agent_has_ended => match more {
                Ok(Some(AgentMessage { kind: None })) => {}
                Ok(Some(_)) => return Cause::ProtocolError,
                // An agent that ends its half takes no more dials; those that are on their way it still answers.
                Ok(None) => {
                    agent_has_ended = true;
                    messages.close();
                }
                Err(_) => return Cause::AgentLost,
            },
            room = out.reserve(), if unsent.is_some() => match (room, unsent.take()) {
                (Ok(room), Some(message)) => room.send(Ok(message)),
                (Ok(_), None) => {}
                (Err(_), _) => return Cause::AgentLost,
            },
            // Closed and empty only after the arm below: whoever comes later finds the link that replaced this one.
            message = messages.recv(), if unsent.is_none() => match message {
                Some(message) => unsent = Some(message),
                None if link.replaced.is_cancelled() => return Cause::Finished,
                None => return Cause::ShuttingDown,
            },
            () = link.replaced.cancelled(), if !messages.is_closed() => messages.close(),
            () = broker.shutdown.cancelled(), if !messages.is_closed() => messages.close(),
        }
    }
}
