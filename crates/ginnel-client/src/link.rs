//! The connection to the server and the roster that comes on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ginnel_core::audit::Text;
use ginnel_core::cause::Cause;
use ginnel_core::id::InstanceId;
use ginnel_core::limits::ROSTER_MESSAGE_MAX;
use ginnel_core::principal::Principal;
use ginnel_core::report::Chain;
use ginnel_core::roster::Roster;
use ginnel_identity::certificate::Identity;
use ginnel_identity::tls::{Initiators, TlsError};
use ginnel_identity::trust::CurrentRoots;
use ginnel_net::connect::Connection;
use ginnel_net::upstream::{Lane, Link, Progress};
use ginnel_wire::frame::WireError;
use ginnel_wire::hello::{Hello, LANES, PROTOCOL_VERSIONS, RosterEntry, is_spoken};
use ginnel_wire::v1::client_link_client::ClientLinkClient;
use ginnel_wire::v1::{RosterMessage, RosterRequest, Welcome};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::lanes::Lanes;

/// What sessions are opened with, as long as it is the newest.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) identity: Identity,
    /// What begins inner handshakes with that certificate.
    pub(crate) initiators: Arc<Initiators>,
    /// Shared, because every session looks at it and a long one is not to be copied for each.
    pub(crate) roster: Arc<Roster>,
    /// How the connection is used.
    pub(crate) lane: Lane,
    /// The id of the server at its other end.
    pub(crate) server: Vec<u8>,
    /// Counts the connections of this process.
    number: u64,
    since: Instant,
}

impl Live {
    /// Counts the connections of this process; a later one has a greater number, and the first has 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How long this connection has been in use.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The principal of an agent with this name: agents live in the client's own trust domain, whatever a roster may say.
    pub(crate) fn agent(&self, name: &ginnel_core::principal::Name) -> Principal {
        Principal {
            trust_domain: self.identity.leaf().principal.trust_domain.clone(),
            role: ginnel_core::principal::Role::Agent,
            name: name.clone(),
        }
    }
}

/// The client's work on its connections.
#[derive(Clone)]
pub(crate) struct ClientLink {
    instance: InstanceId,
    agent_roots: CurrentRoots,
    live: watch::Sender<Option<Live>>,
    /// What begins inner handshakes with the newest certificate; it outlives the connections that use it.
    initiators: Arc<Mutex<Option<Arc<Initiators>>>>,
    /// Connections so far: a number is never used again, so that a late word of an old connection cannot pass for a newer one's.
    numbers: Arc<AtomicU64>,
    draining: CancellationToken,
    progress: Progress,
    lanes: Lanes,
}

impl ClientLink {
    pub(crate) fn new(
        instance: InstanceId,
        agent_roots: CurrentRoots,
        draining: CancellationToken,
        progress: Progress,
    ) -> Self {
        let (initiators, numbers, lanes) = (Arc::default(), Arc::default(), Lanes::default());
        let live = watch::Sender::new(None);
        Self { instance, agent_roots, live, initiators, numbers, draining, progress, lanes }
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.instance
    }

    /// What is live; `None` while there is no connection.
    pub(crate) fn live(&self) -> watch::Receiver<Option<Live>> {
        self.live.subscribe()
    }

    /// The connections beside the live one.
    pub(crate) fn lanes(&self) -> Lanes {
        self.lanes.clone()
    }

    /// Puts a new connection to use; gives its number.
    fn begin(&self, first: First, roster: Roster, server: Vec<u8>) -> Result<u64, TlsError> {
        let First { connection, identity, lane } = first;
        let initiators = self.initiators(&identity)?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = Instant::now();
        let roster = Arc::new(roster);
        let live = Live { connection, identity, initiators, roster, lane, server, number, since };
        self.live.send_replace(Some(live));
        Ok(number)
    }

    /// What begins inner handshakes with this certificate, which is the newest. What was kept under another one is forgotten.
    fn initiators(&self, identity: &Identity) -> Result<Arc<Initiators>, TlsError> {
        let mut current = self.initiators.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = current.as_ref().filter(|initiators| initiators.is_of(identity)) {
            return Ok(Arc::clone(same));
        }
        let new = Arc::new(Initiators::new(&self.agent_roots, identity)?);
        if let Some(old) = current.replace(Arc::clone(&new)) {
            old.close();
        }
        Ok(new)
    }

    /// Changes what is live, unless a newer connection has taken over.
    fn change(&self, number: u64, change: impl FnOnce(&mut Option<Live>)) {
        self.live.send_if_modified(|live| {
            let mine = live.as_ref().is_some_and(|live| live.number == number);
            if mine {
                change(live);
            }
            mine
        });
    }
}

/// What a first connection consists of.
#[derive(Clone)]
struct First {
    connection: Connection,
    identity: Identity,
    lane: Lane,
}

impl ClientLink {
    /// Asks for the roster, which begins every connection.
    async fn ask(&self, connection: &Connection, lane: &Lane) -> Option<Streaming<RosterMessage>> {
        let mut client = ClientLinkClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(ROSTER_MESSAGE_MAX);
        let request = RosterRequest { hello: Some(Hello::new(self.instance, lane.number()).into()) };
        match client.roster(request).await {
            Ok(response) => Some(response.into_inner()),
            Err(status) => {
                let (code, reason) = (status.code(), status.message());
                if lane.is_first() {
                    tracing::warn!(?code, reason, "the server refused the roster");
                } else {
                    tracing::debug!(?code, reason, lane = lane.number(), "the server refused a further connection");
                }
                None
            }
        }
    }

    /// Follows the roster on the first connection.
    async fn follow(&self, first: First, mut heard: Streaming<RosterMessage>, up: oneshot::Sender<()>) -> Cause {
        let mut up = Some(up);
        let mut number = 0;
        let cause = loop {
            let message = tokio::select! {
                biased;
                message = heard.message() => message,
                // Its sessions may go on; for others there has to be a new connection.
                () = first.connection.going_away() => break Cause::ServerLost,
            };
            let mut message = match message {
                Ok(Some(message)) => message,
                Ok(None) => break Cause::ServerLost,
                Err(status) => {
                    tracing::warn!(code = ?status.code(), reason = status.message(), "the roster broke off");
                    break Cause::ServerLost;
                }
            };
            let welcome = message.welcome.take();
            if up.is_some() && !self.is_welcome(welcome.as_ref(), &first.lane) {
                break Cause::ProtocolError;
            }
            let roster = match roster(message) {
                Ok(roster) => roster,
                Err(error) => {
                    tracing::warn!(%error, "the server sent a malformed roster");
                    break Cause::ProtocolError;
                }
            };
            tracing::info!(agents = roster.processes(), "roster received");
            match up.take() {
                Some(up) => {
                    let server = welcome.map(|welcome| welcome.server_id).unwrap_or_default();
                    number = match self.begin(first.clone(), roster, server) {
                        Ok(number) => number,
                        Err(error) => {
                            tracing::error!(error = %Chain(&error), "could not set inner TLS up");
                            break Cause::Internal;
                        }
                    };
                    if up.send(()).is_err() {
                        break Cause::Internal;
                    }
                }
                None => self.change(number, |live| {
                    if let Some(live) = live {
                        live.roster = Arc::new(roster);
                    }
                }),
            }
        };
        self.change(number, |live| *live = None);
        cause
    }

    /// Hears who answers, on the first connection; whether this software carries on with that.
    fn is_welcome(&self, welcome: Option<&Welcome>, lane: &Lane) -> bool {
        let Some(welcome) = welcome else {
            tracing::error!("the server did not say who it is");
            return false;
        };
        if !speaks(welcome) {
            return false;
        }
        // The server's own word, which may hold anything.
        self.progress.server_said(Text::new(&welcome.software_version).as_str());
        lane.set_takes_further(welcome.capabilities.iter().any(|word| word == LANES));
        true
    }

    /// Stays on a connection beside the first until it is retired or the server ends it.
    async fn stay(
        &self,
        connection: Connection,
        lane: Lane,
        mut heard: Streaming<RosterMessage>,
        up: oneshot::Sender<()>,
    ) -> Cause {
        let Ok(Some(RosterMessage { welcome: Some(welcome), .. })) = heard.message().await else {
            return Cause::ProtocolError;
        };
        // Nothing ties it to the first connection but the server's word, which may be another server's or have changed.
        if !speaks(&welcome) {
            return Cause::ProtocolError;
        }
        if up.send(()).is_err() {
            return Cause::Internal;
        }
        let going_away = connection.clone();
        self.lanes.join(lane.clone(), connection, welcome.server_id);
        let cause = loop {
            tokio::select! {
                biased;
                () = lane.retired() => break Cause::Finished,
                () = going_away.going_away() => break Cause::ServerLost,
                // Nothing else is said here; what a newer server says is passed over.
                message = heard.message() => if !matches!(message, Ok(Some(_))) {
                    break Cause::ServerLost;
                },
            }
        };
        self.lanes.leave(&lane);
        cause
    }
}

impl Link for ClientLink {
    async fn run(self, connection: Connection, identity: Identity, lane: Lane, up: oneshot::Sender<()>) -> Cause {
        let Some(heard) = self.ask(&connection, &lane).await else { return Cause::ServerLost };
        if lane.is_first() {
            self.follow(First { connection, identity, lane }, heard, up).await
        } else {
            self.stay(connection, lane, heard, up).await
        }
    }

    fn is_stopping(&self) -> bool {
        self.draining.is_cancelled()
    }
}

/// Whether the server's version of the protocol is one that this software carries on with.
fn speaks(welcome: &Welcome) -> bool {
    let (version, spoken) = (welcome.protocol_version, PROTOCOL_VERSIONS);
    let is_one = is_spoken(version);
    if !is_one {
        tracing::error!(version, ?spoken, "the server speaks another version of the protocol");
    }
    is_one
}

/// Reads a roster.
pub(crate) fn roster(message: RosterMessage) -> Result<Roster, WireError> {
    let entries: Result<Vec<_>, _> = message.entries.into_iter().map(RosterEntry::try_from).collect();
    let entries = entries?.into_iter().map(RosterEntry::into_entry).collect();
    Roster::new(entries).map_err(|_| WireError::Field("roster.entries"))
}
