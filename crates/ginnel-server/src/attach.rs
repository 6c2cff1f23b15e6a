//! Agents' links: one control stream per agent process, and the calls with which it takes sessions up.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ginnel_core::audit::{self, Event, Text};
use ginnel_core::cause::Cause;
use ginnel_core::limits::CONTROL_QUEUE_MAX;
use ginnel_identity::certificate::Leaf;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::hello::Hello;
use ginnel_wire::v1::agent_link_server::AgentLink as AgentLinkCalls;
use ginnel_wire::v1::{AgentMessage, ServerMessage, agent_message, server_message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::broker::Broker;
use crate::directory::{AgentLink, Carrier};
use crate::lease::Share;

/// How long a stream may take to say its first message.
const FIRST_MESSAGE_WAIT: Duration = Duration::from_secs(5);

/// One agent's connection.
pub(crate) struct AgentSeat {
    broker: Arc<Broker>,
    peer: SocketAddr,
    leaf: Leaf,
    closed: CancellationToken,
    /// A connection has one link; sessions are taken up on the connection whose link they were announced on.
    link: OnceLock<Attached>,
}

/// A link and the connection's part in the lease, which lasts as long as the connection, whatever becomes of the link.
struct Attached {
    link: Arc<AgentLink>,
    _share: Share,
}

impl AgentSeat {
    pub(crate) fn new(broker: Arc<Broker>, peer: SocketAddr, leaf: Leaf, closed: CancellationToken) -> Self {
        Self { broker, peer, leaf, closed, link: OnceLock::new() }
    }

    /// Takes a call that wants to take a session up.
    pub(crate) fn carry(self: &Arc<Self>, mut reader: FrameReader, writer: FrameWriter) {
        let seat = Arc::clone(self);
        self.broker.tasks.spawn(async move {
            let first = timeout(FIRST_MESSAGE_WAIT, reader.next()).await;
            let Ok(Ok(Some(SessionFrame::Take(session)))) = first else {
                tracing::warn!(agent = %seat.leaf.principal, "an agent's call did not begin with Take");
                return;
            };
            let taken = seat
                .link
                .get()
                .is_some_and(|attached| attached.link.take_up(session, Carrier { reader, writer }).is_ok());
            if !taken {
                // The usual reason is a client that gave up meanwhile.
                tracing::debug!(agent = %seat.leaf.principal, "an agent took up a session that nobody awaits");
            }
        });
    }

    async fn link_up(&self, hello: Hello) -> Result<(Arc<AgentLink>, mpsc::Receiver<ServerMessage>), Status> {
        let share = self
            .broker
            .leases
            .join(&self.leaf, hello.instance)
            .map_err(|_| Status::resource_exhausted("too many processes of this principal"))?;
        let agent = audit::Agent {
            principal: self.leaf.principal.clone(),
            email: Text::new(&self.leaf.email),
            instance: hello.instance,
        };
        let (control, messages) = mpsc::channel(CONTROL_QUEUE_MAX);
        let link = AgentLink::new(agent.clone(), control, self.closed.clone(), share.ended().clone());
        let link = Arc::new(link);
        if self.link.set(Attached { link: Arc::clone(&link), _share: share }).is_err() {
            return Err(Status::failed_precondition("this connection has a link already"));
        }
        let event = Event::LinkUp {
            agent,
            peer: self.peer,
            version: Text::new(&hello.software_version),
            serial: Text::new(&self.leaf.serial),
        };
        let recorded = async { self.broker.audit.record(event)?.await };
        recorded.await.map_err(|_| Status::unavailable("the audit log cannot be written"))?;
        Ok((link, messages))
    }
}

#[tonic::async_trait]
impl AgentLinkCalls for AgentSeat {
    type AttachStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn attach(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut said = request.into_inner();
        let hello = first_message(&mut said).await?;
        let (link, messages) = self.link_up(hello).await?;
        let (out, stream) = mpsc::channel(1);
        let welcome = server_message::Kind::Welcome(self.broker.welcome());
        if out.try_send(Ok(ServerMessage { kind: Some(welcome) })).is_err() {
            return Err(Status::internal("the stream is full before it began"));
        }
        self.broker.directory.join(Arc::clone(&link));
        tracing::info!(agent = %link.agent.principal, instance = %link.agent.instance, "link up");
        let broker = Arc::clone(&self.broker);
        self.broker.tasks.spawn(async move {
            let cause = forward(&link, messages, &out, said, &broker.shutdown).await;
            broker.directory.leave(&link);
            tracing::info!(agent = %link.agent.principal, instance = %link.agent.instance, %cause, "link down");
            broker.note(Event::LinkDown { agent: link.agent.clone(), cause });
        });
        Ok(Response::new(ReceiverStream::new(stream)))
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
async fn forward(
    link: &AgentLink,
    mut messages: mpsc::Receiver<ServerMessage>,
    out: &mpsc::Sender<Result<ServerMessage, Status>>,
    mut said: Streaming<AgentMessage>,
    shutdown: &CancellationToken,
) -> Cause {
    let cause = loop {
        tokio::select! {
            biased;
            () = link.expired.cancelled() => break Cause::CertificateExpired,
            () = link.closed.cancelled() => break Cause::AgentLost,
            () = shutdown.cancelled() => break Cause::ShuttingDown,
            more = said.message() => match more {
                Ok(Some(AgentMessage { kind: None })) => {}
                Ok(Some(_)) => break Cause::ProtocolError,
                Ok(None) | Err(_) => break Cause::AgentLost,
            },
            message = messages.recv() => {
                let Some(message) = message else { break Cause::Internal };
                if out.send(Ok(message)).await.is_err() {
                    break Cause::AgentLost;
                }
            }
            () = link.replaced.cancelled() => break Cause::Finished,
        }
    };
    // Nothing that was queued may be lost when a link is replaced; whoever comes later finds the new one.
    messages.close();
    while cause == Cause::Finished
        && let Some(message) = messages.recv().await
    {
        if out.send(Ok(message)).await.is_err() {
            return Cause::AgentLost;
        }
    }
    if cause == Cause::CertificateExpired {
        link.closed.cancel();
    }
    cause
}
