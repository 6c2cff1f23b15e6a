//! Tells clients of the live agents that they may use.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use ginnel_core::audit::{self, Event, Text};
use ginnel_core::budget::Budget;
use ginnel_core::cause::Cause;
use ginnel_core::denial::Shown;
use ginnel_core::id::InstanceId;
use ginnel_core::limits::{ROSTER_MESSAGE_MAX, ROSTER_PROCESSES_MAX};
use ginnel_core::policy::Source;
use ginnel_core::principal::Principal;
use ginnel_core::quota::Place;
use ginnel_core::store::Shelf;
use ginnel_identity::certificate::Leaf;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_net::call::Call;
use ginnel_wire::hello::{Hello, RosterEntry};
use ginnel_wire::v1::client_link_server::ClientLink;
use ginnel_wire::v1::{self, RosterMessage, RosterRequest};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::admit::{refused_hello, turn_away};
use crate::bounds::Violations;
use crate::broker::Broker;
use crate::connections::Registered;
use crate::directory::{Facts, Process as Listed};
use crate::lease::Share;
use crate::open::Opening;
use crate::signals::too_many_instances;

/// One client's connection.
pub(crate) struct ClientSeat {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: SocketAddr,
    pub(crate) client: audit::Client,
    pub(crate) closed: CancellationToken,
    pub(crate) leaf: Leaf,
    pub(crate) certificate: Arc<Shown>,
    /// What the sessions of this connection may have under way beyond their first credit.
    pub(crate) budget: Budget,
    /// What of them waits for this client.
    pub(crate) shelf: Shelf,
    violations: Violations,
    /// Set by the first message; nothing can be opened before.
    process: OnceLock<Process>,
    _registered: Registered,
}

struct Process {
    instance: InstanceId,
    /// Whether this is its first connection, which stands for it.
    is_first: bool,
    share: Share,
}

impl ClientSeat {
    pub(crate) fn new(broker: Arc<Broker>, peer: SocketAddr, leaf: Leaf, closed: CancellationToken) -> Self {
        let client = audit::Client { principal: leaf.principal.clone(), email: Text::new(&leaf.email) };
        let certificate = Arc::new(leaf.shown_from(peer.ip()));
        let registered = broker.connections.register(Arc::clone(&certificate), closed.clone());
        let budget = broker.budget.for_connection();
        let shelf = broker.bounds.waiting.shelf(&client.principal);
        Self {
            broker,
            peer,
            client,
            closed,
            leaf,
            certificate,
            budget,
            shelf,
            violations: Violations::default(),
            process: OnceLock::new(),
            _registered: registered,
        }
    }

    /// Puts down that the client broke the protocol in a session of this connection.
    pub(crate) fn broke_the_protocol(&self) {
        self.violations.count(&self.client.principal, &self.closed);
    }

    /// Closes the connection, on which somebody called for what another role may do.
    pub(crate) fn turn_away(&self) {
        turn_away(&self.broker, &self.leaf.principal, &self.closed);
    }

    /// Cancelled when the lease of the client's process ended; `None` before its first message.
    pub(crate) fn expired(&self) -> Option<&CancellationToken> {
        self.process.get().map(|process| process.share.ended())
    }

    /// Cancelled when the key is gone that enrolled the client's process; `None` before its first message.
    pub(crate) fn refused(&self) -> Option<&CancellationToken> {
        self.process.get().map(|process| process.share.refused())
    }

    /// Which process it is; `None` before its first message.
    pub(crate) fn instance(&self) -> Option<InstanceId> {
        self.process.get().map(|process| process.instance)
    }

    pub(crate) fn has_said_hello(&self) -> bool {
        self.process.get().is_some()
    }

    /// Takes a call up, unless this principal has too many or calls too often.
    pub(crate) fn hear(&self, call: Call) -> Option<(Call, Place<Principal>)> {
        self.broker.bounds.hear(&self.client.principal, call, &self.closed)
    }

    /// Takes a call that wants a session, and has its place until that is decided.
    pub(crate) fn open(self: &Arc<Self>, place: Place<Principal>, reader: FrameReader, writer: FrameWriter) {
        let opening = Opening::new(Arc::clone(self), place, reader, writer);
        self.broker.tasks.spawn(opening.run());
    }

    fn entries(&self) -> Vec<v1::RosterEntry> {
        let rules = self.broker.rules.now();
        let source = Source::Address(self.peer.ip());
        let mut reach = rules.policy.reach(&self.client.principal.name, source, rules.clock.now());
        let mut instances: BTreeMap<Principal, Vec<_>> = BTreeMap::new();
        let processes = self.broker.directory.processes().into_iter();
        // A link that comes up while its agent is shut out is there until its connection is closed.
        for Listed { link, .. } in processes.filter(|process| rules.admits(&process.link.facts.certificate)) {
            instances.entry(link.agent.principal.clone()).or_default().push((link.agent.instance, false));
        }
        let entries = instances.into_iter().filter_map(|(agent, instances)| {
            let targets = reach.remove(&agent.name)?;
            Some(RosterEntry { agent, targets, instances }.into())
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
            proof: self.leaf.evidence.as_ref().map(|evidence| Text::new(&evidence.proof)),
        }
    }

    /// Sends the roster whenever it changes, until the stream ends; says why it did. Beside the first connection it is empty, and said once.
    ///
    /// A client that does not read holds up nothing but its roster: every other reason to end is heard all the same.
    async fn push(&self, out: &mpsc::Sender<Result<RosterMessage, Status>>, replaced: &CancellationToken) -> Cause {
        let Some(process) = self.process.get() else { return Cause::Internal };
        let mut changes = self.broker.directory.changes();
        let mut welcome = Some(self.broker.welcome());
        let mut sent = None;
        let mut stale = true;
        loop {
            tokio::select! {
                biased;
                () = process.share.ended().cancelled() => {
                    self.closed.cancel();
                    return Cause::CertificateExpired;
                }
                () = process.share.refused().cancelled() => return Cause::NotAdmitted,
                () = self.closed.cancelled() => return Cause::Aborted,
                () = out.closed() => return Cause::Aborted,
                () = self.broker.shutdown.cancelled() => return Cause::ShuttingDown,
                () = replaced.cancelled() => return Cause::Finished,
                changed = changes.changed(), if process.is_first => match changed {
                    Ok(()) => stale = true,
                    Err(_) => return Cause::Internal,
                },
                room = out.reserve(), if stale => {
                    let Ok(room) = room else { return Cause::Aborted };
                    stale = false;
                    let entries = if process.is_first { self.entries() } else { Vec::new() };
                    if sent.as_ref() != Some(&entries) {
                        sent = Some(entries.clone());
                        room.send(bounded(RosterMessage { welcome: welcome.take(), entries }));
                    }
                }
            }
        }
    }
}

/// A roster that the client would not take must not cut it off without a word.
fn bounded(message: RosterMessage) -> Result<RosterMessage, Status> {
    let processes: usize = message.entries.iter().map(|entry| entry.instances.len()).sum();
    if processes > ROSTER_PROCESSES_MAX {
        tracing::error!(
            processes,
            allowed = ROSTER_PROCESSES_MAX,
            "there are more agent processes than a roster can hold"
        );
        return Err(Status::resource_exhausted("there are more agent processes than a roster can hold"));
    }
    let length = message.encoded_len();
    if length <= ROSTER_MESSAGE_MAX {
        return Ok(message);
    }
    tracing::error!(
        length,
        allowed = ROSTER_MESSAGE_MAX,
        "the rules give a client more targets than a roster can hold"
    );
    Err(Status::resource_exhausted("the rules give this client more targets than a roster can hold"))
}

/// The calls of a client's connection that are not sessions.
pub(crate) struct ClientCalls(pub(crate) Arc<ClientSeat>);

#[tonic::async_trait]
impl ClientLink for ClientCalls {
    type RosterStream = ReceiverStream<Result<RosterMessage, Status>>;

    async fn roster(&self, request: Request<RosterRequest>) -> Result<Response<Self::RosterStream>, Status> {
        if self.0.broker.shutdown.is_cancelled() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let Self(seat) = self;
        let hello = request.into_inner().hello.ok_or_else(|| Status::invalid_argument("no hello"));
        let hello =
            hello.and_then(|hello| Hello::try_from(hello).map_err(|error| Status::invalid_argument(error.to_string())));
        let hello = hello.inspect_err(|status| refused_hello(&seat.client.principal, status))?;
        if !hello.is_first() {
            let first = seat.broker.rosters.serial_of_first(&seat.client.principal, hello.instance);
            seat.broker.connections.may_be_further(&seat.leaf, first.as_deref())?;
        }
        let joined = seat.broker.leases.join(&seat.leaf, &seat.certificate, hello.instance, &seat.closed);
        let share = joined.map_err(|_| too_many_instances(&seat.broker, &seat.leaf, hello.instance, seat.peer))?;
        seat.broker.expect_at_google(&seat.certificate)?;
        let process = Process { instance: hello.instance, is_first: hello.is_first(), share };
        if seat.process.set(process).is_err() {
            return Err(Status::failed_precondition("this connection has a roster already"));
        }
        if hello.is_first() {
            seat.broker.note(seat.client_up(&hello));
        }
        let stream_held = seat.broker.rosters.join(
            &seat.client.principal,
            hello.instance,
            hello.lane,
            Facts::new(&seat.leaf, Arc::clone(&seat.certificate), seat.peer, &hello),
        );
        let (out, stream) = mpsc::channel(1);
        let tasks = seat.broker.tasks.clone();
        let seat = Arc::clone(seat);
        tasks.spawn(async move {
            let cause = seat.push(&out, &stream_held.replaced).await;
            let (client, rosters) = (seat.client.clone(), &seat.broker.rosters);
            if let Some(Process { instance, is_first, .. }) = seat.process.get() {
                rosters.leave(&client.principal, *instance, &stream_held);
                if *is_first {
                    seat.broker.note(Event::ClientDown { client, instance: *instance, cause });
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
