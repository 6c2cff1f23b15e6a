//! Which link belongs to which agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ginnel_core::audit::{self, Timestamp};
use ginnel_core::denial::Shown;
use ginnel_core::id::{InstanceId, SessionId};
use ginnel_core::lanes::least_busy;
use ginnel_core::principal::Principal;
use ginnel_identity::certificate::Leaf;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_wire::hello::{EARLY_BYTES, Hello};
use ginnel_wire::v1::ServerMessage;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::bounds::Violations;

/// Looks up links. In memory for a single server; behind several of them another implementation tells which server holds a link.
pub(crate) trait Directory: Send + Sync {
    /// Takes a link in; it replaces an older one of the same process and lane.
    fn join(&self, link: Arc<AgentLink>);
    /// Takes a link out, unless another one has replaced it.
    fn leave(&self, link: &Arc<AgentLink>);
    /// The link of one process for its next session: the least busy one that takes dials. If none does, one that no longer does.
    fn find(&self, agent: &Principal, instance: InstanceId) -> Option<Arc<AgentLink>>;
    /// The first link of one process, which stands for the process.
    fn first(&self, agent: &Principal, instance: InstanceId) -> Option<Arc<AgentLink>>;
    /// Every process that has a link, ordered by agent and process.
    fn processes(&self) -> Vec<Process>;
    /// Counts the processes that came and went; wakes whoever waits for one.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Takes the links out that `is_out` says, so that nobody is offered or given them.
    fn leave_where(&self, is_out: &dyn Fn(&AgentLink) -> bool);
    /// Counts a change of what clients may use, other than of the links.
    fn rules_changed(&self);
}

/// One process of an agent, with at least one link.
pub(crate) struct Process {
    /// Its link with the lowest number: the first, unless that was lost and has not come back yet.
    pub(crate) link: Arc<AgentLink>,
    /// How many links it has.
    pub(crate) links: u64,
}

/// One control stream of an agent's process, on one of its connections.
pub(crate) struct AgentLink {
    /// Whose it is, as records tell it.
    pub(crate) agent: audit::Agent,
    /// Which of the connections of its process it is on.
    pub(crate) lane: u32,
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
    /// Cancelled when the key is gone that enrolled the process.
    pub(crate) refused: CancellationToken,
    /// Cancelled when another link of the same process took over.
    pub(crate) replaced: CancellationToken,
    awaited: Mutex<BTreeMap<SessionId, oneshot::Sender<Carrier>>>,
    sessions: AtomicUsize,
    violations: Violations,
}

/// A session's place on a link, which it leaves when this is dropped.
pub(crate) struct Occupied(Arc<AgentLink>);

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
    /// What of its certificate a denial may name.
    pub(crate) certificate: Arc<Shown>,
    /// Whether it takes the first bytes of a session with its dial.
    pub(crate) takes_early: bool,
}

impl Facts {
    pub(crate) fn new(leaf: &Leaf, certificate: Arc<Shown>, peer: SocketAddr, hello: &Hello) -> Self {
        Self {
            version: hello.software_version.clone(),
            peer,
            since: Timestamp::from(SystemTime::now()),
            serial: leaf.serial.clone(),
            not_after: leaf.not_after,
            certificate,
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
        lane: u32,
        facts: Facts,
        control: mpsc::Sender<ServerMessage>,
        closed: CancellationToken,
        expired: CancellationToken,
        refused: CancellationToken,
    ) -> Self {
        Self {
            agent,
            lane,
            facts,
            control,
            closed,
            gone: CancellationToken::new(),
            expired,
            refused,
            replaced: CancellationToken::new(),
            awaited: Mutex::default(),
            sessions: AtomicUsize::new(0),
            violations: Violations::default(),
        }
    }

    /// Whether it stands for its process.
    pub(crate) fn is_first(&self) -> bool {
        self.lane == 0
    }

    /// Puts down that the agent broke the protocol in a session of this link.
    pub(crate) fn broke_the_protocol(&self) {
        self.violations.count(&self.agent.principal, &self.closed);
    }

    /// Counts a session on the link.
    pub(crate) fn occupy(self: &Arc<Self>) -> Occupied {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Occupied(Arc::clone(self))
    }

    /// Makes the link expect `Carry` for this session.
    pub(crate) fn expect(self: &Arc<Self>, session: SessionId) -> Awaited {
        let (sender, carrier) = oneshot::channel();
        lock(&self.awaited).insert(session, sender);
        Awaited { link: Arc::clone(self), session, carrier }
    }

    /// Whether somebody still expects `Carry` for this session.
    pub(crate) fn awaits(&self, session: SessionId) -> bool {
        lock(&self.awaited).contains_key(&session)
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

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The directory of a single server.
pub(crate) struct InMemory {
    processes: Mutex<BTreeMap<(Principal, InstanceId), Lanes>>,
    changes: watch::Sender<u64>,
}

/// The links of one process, by lane; never empty.
type Lanes = BTreeMap<u32, Arc<AgentLink>>;

impl Default for InMemory {
    fn default() -> Self {
        Self { processes: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl InMemory {
    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Directory for InMemory {
    fn join(&self, link: Arc<AgentLink>) {
        let key = (link.agent.principal.clone(), link.agent.instance);
        let mut processes = lock(&self.processes);
        let lanes = processes.entry(key).or_default();
        let is_new = lanes.is_empty();
        if let Some(old) = lanes.insert(link.lane, link) {
            old.replaced.cancel();
        }
        drop(processes);
        if is_new {
            self.changed();
        }
    }

    fn leave(&self, link: &Arc<AgentLink>) {
        let key = (link.agent.principal.clone(), link.agent.instance);
        let mut processes = lock(&self.processes);
        let Some(lanes) = processes.get_mut(&key) else { return };
        if lanes.get(&link.lane).is_some_and(|held| Arc::ptr_eq(held, link)) {
            lanes.remove(&link.lane);
        }
        if lanes.is_empty() {
            processes.remove(&key);
            drop(processes);
            self.changed();
        }
    }

    fn find(&self, agent: &Principal, instance: InstanceId) -> Option<Arc<AgentLink>> {
        let processes = lock(&self.processes);
        let lanes = processes.get(&(agent.clone(), instance))?;
        let taking = lanes.values().filter(|link| !link.control.is_closed());
        let least = least_busy(taking, |link| (link.lane, link.sessions.load(Ordering::Relaxed)));
        least.or_else(|| lanes.values().next()).cloned()
    }

    fn first(&self, agent: &Principal, instance: InstanceId) -> Option<Arc<AgentLink>> {
        lock(&self.processes).get(&(agent.clone(), instance))?.get(&0).cloned()
    }

    fn processes(&self) -> Vec<Process> {
        let processes = lock(&self.processes);
        let process = |lanes: &Lanes| {
            let links = u64::try_from(lanes.len()).unwrap_or(u64::MAX);
            lanes.values().next().map(|link| Process { link: Arc::clone(link), links })
        };
        processes.values().filter_map(process).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn leave_where(&self, is_out: &dyn Fn(&AgentLink) -> bool) {
        let mut processes = lock(&self.processes);
        let before = processes.len();
        processes.retain(|_, lanes| {
            lanes.retain(|_, link| !is_out(link));
            !lanes.is_empty()
        });
        let fewer = processes.len() < before;
        drop(processes);
        if fewer {
            self.changed();
        }
    }

    fn rules_changed(&self) {
        self.changed();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps without half-done states: a panic elsewhere cannot have left one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A link, and what keeps it taking dials.
    pub(crate) fn lane(instance: u8, lane: u32) -> (Arc<AgentLink>, mpsc::Receiver<ServerMessage>) {
        let agent = audit::Agent {
            principal: "spiffe://acme.example/agent/acme".parse().unwrap(),
            email: audit::Text::new("agent@acme.example"),
            instance: InstanceId::from_bytes(&[instance; 16]).unwrap(),
        };
        let (control, messages) = mpsc::channel(1);
        let facts = Facts {
            version: "0.1.0".to_owned(),
            peer: "192.0.2.1:1".parse().unwrap(),
            since: Timestamp::from(SystemTime::UNIX_EPOCH),
            serial: "01".to_owned(),
            not_after: SystemTime::UNIX_EPOCH,
            certificate: Arc::new(Shown {
                principal: agent.principal.clone(),
                email: "agent@acme.example".to_owned(),
                serial: format!("{lane:02x}"),
                key: [0; 32],
                evidence: None,
                source: None,
            }),
            takes_early: true,
        };
        let (closed, expired) = (CancellationToken::new(), CancellationToken::new());
        (Arc::new(AgentLink::new(agent, lane, facts, control, closed, expired, CancellationToken::new())), messages)
    }

    fn link(instance: u8) -> Arc<AgentLink> {
        lane(instance, 0).0
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
        assert_eq!(directory.processes().len(), 2);
        directory.leave(&new);
        assert_eq!(directory.processes().len(), 1);
    }

    #[test]
    fn a_process_is_there_as_long_as_one_of_its_lanes_is() {
        let directory = InMemory::default();
        let changes = directory.changes();
        let lanes = [lane(1, 0), lane(1, 1), lane(1, 2)];
        for (link, _) in &lanes {
            directory.join(Arc::clone(link));
        }
        let agent = &lanes[0].0.agent;
        assert!(lanes.iter().all(|(link, _)| !link.replaced.is_cancelled()));
        let [process] = &directory.processes()[..] else { panic!("one process") };
        assert_eq!((process.links, process.link.lane), (3, 0));
        directory.leave(&lanes[0].0);
        assert!(directory.first(&agent.principal, agent.instance).is_none());
        assert_eq!(directory.processes()[0].link.lane, 1);
        assert_eq!(*changes.borrow(), 1, "clients hear of processes, not of lanes");
        directory.leave(&lanes[1].0);
        directory.leave(&lanes[2].0);
        assert!(directory.processes().is_empty());
        assert_eq!(*changes.borrow(), 2);
    }

    #[test]
    fn a_link_that_is_shut_out_is_gone_at_once_and_its_process_with_the_last() {
        let directory = InMemory::default();
        let changes = directory.changes();
        let lanes = [lane(1, 0), lane(1, 1), lane(2, 0)];
        for (link, _) in &lanes {
            directory.join(Arc::clone(link));
        }
        let agent = &lanes[0].0.agent;
        directory.leave_where(&|link| link.agent.instance == agent.instance && link.lane == 0);
        let found = directory.find(&agent.principal, agent.instance).unwrap();
        assert_eq!((found.lane, *changes.borrow()), (1, 2), "the other lane has another certificate");
        directory.leave_where(&|link| link.agent.instance == agent.instance);
        assert!(directory.find(&agent.principal, agent.instance).is_none());
        assert_eq!((directory.processes().len(), *changes.borrow()), (1, 3));
        // What it was for goes its way, and finds nothing to take out.
        directory.leave(&lanes[0].0);
        assert_eq!(directory.processes().len(), 1);
    }

    #[test]
    fn the_next_session_goes_to_the_least_busy_lane_that_takes_dials() {
        let directory = InMemory::default();
        let mut lanes = [lane(1, 0), lane(1, 1), lane(1, 2)];
        for (link, _) in &lanes {
            directory.join(Arc::clone(link));
        }
        let agent = lanes[0].0.agent.clone();
        let next = || directory.find(&agent.principal, agent.instance).unwrap();
        let mut sessions = Vec::new();
        for expected in [0, 1, 2, 0, 1, 2] {
            let link = next();
            assert_eq!(link.lane, expected);
            sessions.push(link.occupy());
        }
        drop(sessions.swap_remove(1));
        assert_eq!(next().lane, 1);
        // One that drains finishes what it has; when all of them do, one is still found, which says so.
        lanes[1].1.close();
        assert_eq!(next().lane, 0);
        lanes[0].1.close();
        lanes[2].1.close();
        assert!(next().control.is_closed());
    }
}
