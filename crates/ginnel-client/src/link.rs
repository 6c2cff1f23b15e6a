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
use ginnel_identity::trust::Roots;
use ginnel_net::connect::Connection;
use ginnel_net::upstream::{Link, Progress};
use ginnel_wire::frame::WireError;
use ginnel_wire::hello::{Hello, RosterEntry};
use ginnel_wire::v1::client_link_client::ClientLinkClient;
use ginnel_wire::v1::{RosterMessage, RosterRequest};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What sessions are opened with, as long as it is the newest.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) identity: Identity,
    /// What begins inner handshakes with that certificate.
    pub(crate) initiators: Arc<Initiators>,
    pub(crate) roster: Roster,
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
    agent_roots: Roots,
    live: watch::Sender<Option<Live>>,
    /// What begins inner handshakes with the newest certificate; it outlives the connections that use it.
    initiators: Arc<Mutex<Option<Arc<Initiators>>>>,
    /// Connections so far: a number is never used again, so that a late word of an old connection cannot pass for a newer one's.
    numbers: Arc<AtomicU64>,
    draining: CancellationToken,
    progress: Progress,
}

impl ClientLink {
    pub(crate) fn new(
        instance: InstanceId,
        agent_roots: Roots,
        draining: CancellationToken,
        progress: Progress,
    ) -> Self {
        let live = watch::Sender::new(None);
        Self { instance, agent_roots, live, initiators: Arc::default(), numbers: Arc::default(), draining, progress }
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.instance
    }

    /// What is live; `None` while there is no connection.
    pub(crate) fn live(&self) -> watch::Receiver<Option<Live>> {
        self.live.subscribe()
    }

    /// Puts a new connection to use; gives its number.
    fn begin(&self, connection: Connection, identity: Identity, roster: Roster) -> Result<u64, TlsError> {
        let initiators = self.initiators(&identity)?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = Instant::now();
        self.live.send_replace(Some(Live { connection, identity, initiators, roster, number, since }));
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

impl Link for ClientLink {
    async fn run(self, connection: Connection, identity: Identity, up: oneshot::Sender<()>) -> Cause {
        let mut client = ClientLinkClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(ROSTER_MESSAGE_MAX);
        let request = RosterRequest { hello: Some(Hello::new(self.instance).into()) };
        let mut heard = match client.roster(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                tracing::warn!(code = ?status.code(), reason = status.message(), "the server refused the roster");
                return Cause::ServerLost;
            }
        };
        let mut up = Some(up);
        let mut number = 0;
        let cause = loop {
            let message = match heard.message().await {
                Ok(Some(message)) => message,
                Ok(None) => break Cause::ServerLost,
                Err(status) => {
                    tracing::warn!(code = ?status.code(), reason = status.message(), "the roster broke off");
                    break Cause::ServerLost;
                }
            };
            if let Some(welcome) = &message.welcome {
                // The server's own word, which may hold anything.
                self.progress.server_said(Text::new(&welcome.software_version).as_str());
            }
            let roster = match roster(message) {
                Ok(roster) => roster,
                Err(error) => {
                    tracing::warn!(%error, "the server sent a malformed roster");
                    break Cause::ProtocolError;
                }
            };
            tracing::info!(agents = roster.entries().len(), "roster received");
            match up.take() {
                Some(up) => {
                    number = match self.begin(connection.clone(), identity.clone(), roster) {
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
                        live.roster = roster;
                    }
                }),
            }
        };
        self.change(number, |live| *live = None);
        cause
    }

    fn is_stopping(&self) -> bool {
        self.draining.is_cancelled()
    }
}

/// Reads a roster.
pub(crate) fn roster(message: RosterMessage) -> Result<Roster, WireError> {
    let entries: Result<Vec<_>, _> = message.entries.into_iter().map(RosterEntry::try_from).collect();
    entries.map(|entries| Roster::new(entries.into_iter().flat_map(RosterEntry::into_entries).collect()))
}
