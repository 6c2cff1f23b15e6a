//! Tells clients of the live agents that they may use.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use ginnel_core::audit::{self, Event, Text};
use ginnel_core::cause::Cause;
use ginnel_core::id::InstanceId;
use ginnel_core::roster::Entry;
use ginnel_identity::certificate::Leaf;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_wire::hello::{Hello, RosterEntry};
use ginnel_wire::v1::client_link_server::ClientLink;
use ginnel_wire::v1::{self, RosterMessage, RosterRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::broker::Broker;
use crate::lease::Share;
use crate::open::Opening;

/// One client's connection.
pub(crate) struct ClientSeat {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: SocketAddr,
    pub(crate) client: audit::Client,
    pub(crate) closed: CancellationToken,
    leaf: Leaf,
    /// Set by the first message; nothing can be opened before.
    process: OnceLock<Process>,
}

struct Process {
    instance: InstanceId,
    share: Share,
}

impl ClientSeat {
    pub(crate) fn new(broker: Arc<Broker>, peer: SocketAddr, leaf: Leaf, closed: CancellationToken) -> Self {
        let client = audit::Client { principal: leaf.principal.clone(), email: Text::new(&leaf.email) };
        Self { broker, peer, client, closed, leaf, process: OnceLock::new() }
    }

    /// Cancelled when the lease of the client's process ended; `None` before its first message.
    pub(crate) fn expired(&self) -> Option<&CancellationToken> {
        self.process.get().map(|process| process.share.ended())
    }

    /// Takes a call that wants a session.
    pub(crate) fn open(self: &Arc<Self>, reader: FrameReader, writer: FrameWriter) {
        let opening = Opening::new(Arc::clone(self), reader, writer);
        self.broker.tasks.spawn(opening.run());
    }

    fn entries(&self) -> Vec<v1::RosterEntry> {
        let reach = self.broker.policy.reach(&self.client.principal.name);
        let links = self.broker.directory.links();
        let entries = links.into_iter().filter_map(|link| {
            let targets = reach.get(&link.agent.principal.name)?.clone();
            let agent = link.agent.principal.clone();
            let entry = Entry { agent: agent.name.clone(), instance: link.agent.instance, targets, draining: false };
            Some(RosterEntry { agent, entry }.into())
        });
        entries.collect()
    }

    fn client_up(&self, hello: &Hello) -> Event {
        Event::ClientUp {
            client: self.client.clone(),
            instance: hello.instance,
            peer: self.peer,
            version: Text::new(&hello.software_version),
            serial: Text::new(&self.leaf.serial),
        }
    }

    /// Sends the roster whenever it changes, until the stream ends; says why it did.
    async fn push(&self, out: &mpsc::Sender<Result<RosterMessage, Status>>, replaced: &CancellationToken) -> Cause {
        let Some(process) = self.process.get() else { return Cause::Internal };
        let mut changes = self.broker.directory.changes();
        let mut welcome = Some(self.broker.welcome());
        let mut sent = None;
        loop {
            changes.mark_unchanged();
            let entries = self.entries();
            if sent.as_ref() != Some(&entries) {
                sent = Some(entries.clone());
                if out.send(Ok(RosterMessage { welcome: welcome.take(), entries })).await.is_err() {
                    return Cause::Aborted;
                }
            }
            tokio::select! {
                biased;
                () = process.share.ended().cancelled() => {
                    self.closed.cancel();
                    return Cause::CertificateExpired;
                }
                () = self.closed.cancelled() => return Cause::Aborted,
                () = out.closed() => return Cause::Aborted,
                () = self.broker.shutdown.cancelled() => return Cause::ShuttingDown,
                () = replaced.cancelled() => return Cause::Finished,
                changed = changes.changed() => if changed.is_err() {
                    return Cause::Internal;
                },
            }
        }
    }
}

/// The calls of a client's connection that are not sessions.
pub(crate) struct ClientCalls(pub(crate) Arc<ClientSeat>);

#[tonic::async_trait]
impl ClientLink for ClientCalls {
    type RosterStream = ReceiverStream<Result<RosterMessage, Status>>;

    async fn roster(&self, request: Request<RosterRequest>) -> Result<Response<Self::RosterStream>, Status> {
        let hello = request.into_inner().hello.ok_or_else(|| Status::invalid_argument("no hello"))?;
        let hello = Hello::try_from(hello).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Self(seat) = self;
        let share = seat
            .broker
            .leases
            .join(&seat.leaf, hello.instance)
            .map_err(|_| Status::resource_exhausted("too many processes of this principal"))?;
        if seat.process.set(Process { instance: hello.instance, share }).is_err() {
            return Err(Status::failed_precondition("this connection has a roster already"));
        }
        seat.broker.note(seat.client_up(&hello));
        let replaced = seat.broker.rosters.join(&seat.client.principal, hello.instance);
        let (out, stream) = mpsc::channel(1);
        let tasks = seat.broker.tasks.clone();
        let seat = Arc::clone(seat);
        tasks.spawn(async move {
            let cause = seat.push(&out, &replaced).await;
            let (client, rosters) = (seat.client.clone(), &seat.broker.rosters);
            if let Some(Process { instance, .. }) = seat.process.get() {
                rosters.leave(&client.principal, *instance, &replaced);
                seat.broker.note(Event::ClientDown { client, instance: *instance, cause });
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
