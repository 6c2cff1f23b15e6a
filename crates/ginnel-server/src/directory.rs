//! Which link belongs to which agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ginnel_core::audit::{self, Timestamp};
use ginnel_core::id::{InstanceId, SessionId};
use ginnel_core::principal::Principal;
use ginnel_identity::certificate::Leaf;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_wire::hello::{EARLY_BYTES, Hello};
use ginnel_wire::v1::ServerMessage;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Looks up links. In memory for a single server; behind several of them another implementation tells which server holds a link.
pub(crate) trait Directory: Send + Sync {
    /// Takes a link in; it replaces an older one of the same process.
    fn join(&self, link: Arc<AgentLink>);
    /// Takes a link out, unless another one has replaced it.
    fn leave(&self, link: &Arc<AgentLink>);
    /// The link of one process.
    fn find(&self, agent: &Principal, instance: InstanceId) -> Option<Arc<AgentLink>>;
    /// Every link, ordered by agent and process.
    fn links(&self) -> Vec<Arc<AgentLink>>;
    /// Counts the changes; wakes whoever waits for one.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Counts a change of what clients may use, other than of the links.
    fn rules_changed(&self);
}

/// One agent's control stream.
pub(crate) struct AgentLink {
    /// Whose it is, as records tell it.
    pub(crate) agent: audit::Agent,
    /// What is known of its process.
    pub(crate) facts: Facts,
    /// Messages for the agent.
    pub(crate) control: mpsc::Sender<ServerMessage>,
    /// Cancelled when the connection is gone; cancelling it closes the connection.
    pub(crate) closed: CancellationToken,
    /// Cancelled when the link is of no more use, unless another one has taken over what it was asked for.
    pub(crate) gone: CancellationToken,
    /// Cancelled when the lease of the process ended.
    pub(crate) expired: CancellationToken,
    /// Cancelled when another link of the same process took over.
    pub(crate) replaced: CancellationToken,
    awaited: Mutex<BTreeMap<SessionId, oneshot::Sender<Carrier>>>,
}

/// What is known of a connected process, for whoever asks the server.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Its software version, as it states it.
    pub(crate) version: String,
    /// Where its connection comes from.
    pub(crate) peer: SocketAddr,
    pub(crate) since: Timestamp,
    pub(crate) serial: String,
    pub(crate) not_after: SystemTime,
    /// Whether it takes the first bytes of a session with its dial.
    pub(crate) takes_early: bool,
}

impl Facts {
    pub(crate) fn new(leaf: &Leaf, peer: SocketAddr, hello: &Hello) -> Self {
        Self {
            version: hello.software_version.clone(),
            peer,
            since: Timestamp::from(SystemTime::now()),
            serial: leaf.serial.clone(),
            not_after: leaf.not_after,
            takes_early: hello.capabilities.iter().any(|capability| capability == EARLY_BYTES),
        }
    }
}

/// The two bodies of the call with which an agent takes a session up.
pub(crate) struct Carrier {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
}

/// A session that waits for its agent; giving up takes it off the link.
pub(crate) struct Awaited {
    link: Arc<AgentLink>,
    session: SessionId,
    pub(crate) carrier: oneshot::Receiver<Carrier>,
}

impl AgentLink {
    pub(crate) fn new(
        agent: audit::Agent,
        facts: Facts,
        control: mpsc::Sender<ServerMessage>,
        closed: CancellationToken,
        expired: CancellationToken,
    ) -> Self {
        Self {
            agent,
            facts,
            control,
            closed,
            gone: CancellationToken::new(),
            expired,
            replaced: CancellationToken::new(),
            awaited: Mutex::default(),
        }
    }

    /// Makes the link expect `Carry` for this session.
    pub(crate) fn expect(self: &Arc<Self>, session: SessionId) -> Awaited {
        let (sender, carrier) = oneshot::channel();
        lock(&self.awaited).insert(session, sender);
        Awaited { link: Arc::clone(self), session, carrier }
    }

    /// Hands the call over to whoever expects it; `false` if nobody does.
    pub(crate) fn take_up(&self, session: SessionId, carrier: Carrier) -> bool {
        let expecting = lock(&self.awaited).remove(&session);
        expecting.is_some_and(|expecting| expecting.send(carrier).is_ok())
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.link.awaited).remove(&self.session);
    }
}

/// The directory of a single server.
pub(crate) struct InMemory {
    links: Mutex<BTreeMap<(Principal, InstanceId), Arc<AgentLink>>>,
    changes: watch::Sender<u64>,
}

impl Default for InMemory {
    fn default() -> Self {
        Self { links: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Directory for InMemory {
    fn join(&self, link: Arc<AgentLink>) {
        let key = (link.agent.principal.clone(), link.agent.instance);
        if let Some(old) = lock(&self.links).insert(key, link) {
            old.replaced.cancel();
        }
        self.changes.send_modify(|count| *count += 1);
    }

    fn leave(&self, link: &Arc<AgentLink>) {
        let key = (link.agent.principal.clone(), link.agent.instance);
        let mut links = lock(&self.links);
        if links.get(&key).is_some_and(|held| Arc::ptr_eq(held, link)) {
            links.remove(&key);
            drop(links);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn find(&self, agent: &Principal, instance: InstanceId) -> Option<Arc<AgentLink>> {
        lock(&self.links).get(&(agent.clone(), instance)).cloned()
    }

    fn links(&self) -> Vec<Arc<AgentLink>> {
        lock(&self.links).values().cloned().collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn rules_changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps without half-done states: a panic elsewhere cannot have left one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(instance: u8) -> Arc<AgentLink> {
        let agent = audit::Agent {
            principal: "spiffe://acme.example/agent/acme".parse().unwrap(),
            email: audit::Text::new("agent@acme.example"),
            instance: InstanceId::from_bytes(&[instance; 16]).unwrap(),
        };
        let (control, _) = mpsc::channel(1);
        let facts = Facts {
            version: "0.1.0".to_owned(),
            peer: "192.0.2.1:1".parse().unwrap(),
            since: Timestamp::from(SystemTime::UNIX_EPOCH),
            serial: "01".to_owned(),
            not_after: SystemTime::UNIX_EPOCH,
            takes_early: true,
        };
        Arc::new(AgentLink::new(agent, facts, control, CancellationToken::new(), CancellationToken::new()))
    }

    #[test]
    fn a_newer_link_of_a_process_replaces_the_older_one_and_outlives_it() {
        let directory = InMemory::default();
        let (old, new, other) = (link(1), link(1), link(2));
        for link in [&old, &other, &new] {
            directory.join(Arc::clone(link));
        }
        assert!(old.replaced.is_cancelled() && !new.replaced.is_cancelled());
        directory.leave(&old);
        let found = directory.find(&new.agent.principal, new.agent.instance).unwrap();
        assert!(Arc::ptr_eq(&found, &new));
        assert_eq!(directory.links().len(), 2);
        directory.leave(&new);
        assert_eq!(directory.links().len(), 1);
    }
}
