//! The book of requests: what is carried now, what was refused or ended lately, and the numbers since the start.
//!
//! Every role keeps one. It is also where sessions are told to end while they run: by an operator, or because what allowed them is gone.
//! What is kept is bounded: live requests by the bounds on sessions, past ones by constants in this file.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use ginnel_core::audit::Timestamp;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::denial::Shown;
use ginnel_core::id::{InstanceId, RequestId};
use ginnel_core::principal::{Principal, Role};
use ginnel_core::status::{Counted, Latency, Request, Status, Totals};
use ginnel_core::traffic::Traffic;

use self::latency::Histogram;
pub use self::live::Parties;
use self::live::{Live, Stop};
use crate::admin::Which;

mod latency;
mod live;
#[cfg(test)]
mod tests;
mod which;

/// Requests that are remembered after they ended. Some 600 bytes each; whoever wants to know more of the past reads the audit log.
const PAST_MAX: usize = 2048;

/// Refusals that are remembered whatever else has ended since.
const REFUSALS_MAX: usize = 64;

/// Failed attempts that are kept of one request; a client makes fewer.
const ATTEMPTS_MAX: usize = 16;

/// The book. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    role: Role,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    /// In the order in which they began.
    live: BTreeMap<u64, Box<Live>>,
    /// Newest last.
    past: VecDeque<(RequestId, Request)>,
    refusals: VecDeque<(RequestId, Request)>,
    causes: BTreeMap<(bool, Hop, Cause), u64>,
    opened: u64,
    bytes: (u64, u64),
    opening: Histogram,
}

/// A request as it comes in.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its id.
    pub request: RequestId,
    /// The client, on servers and agents.
    pub client: Option<Principal>,
    /// Which process of that client.
    pub client_instance: Option<InstanceId>,
    /// Where the application comes from, on clients.
    pub from: Option<SocketAddr>,
    /// The target, as it was spelled.
    pub target: String,
    /// The front end by which it came, on clients.
    pub front: Option<&'static str>,
}

/// A request under way. Whatever becomes of it is put down here; dropping it puts it down as broken off.
#[derive(Debug)]
pub struct Tracked {
    ledger: Ledger,
    number: u64,
    traffic: Traffic,
    stop: Arc<Stop>,
    /// What the request holds until it is over.
    held: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Ledger {
    /// An empty book of a process of this role.
    pub fn new(role: Role) -> Self {
        Self(Arc::new(Shared { role, book: Mutex::default() }))
    }

    /// Puts a request down.
    pub fn begin(&self, begun: Begun) -> Tracked {
        let Begun { request, client, client_instance, from, target, front } = begun;
        let (traffic, stop) = (Traffic::default(), Arc::<Stop>::default());
        let live = Box::new(Live {
            id: request,
            came: now(),
            since: Instant::now(),
            from,
            front,
            parties: Parties { client, target: target.parse().ok(), ..Parties::default() },
            spelled: target,
            client_instance,
            agent_instance: None,
            rule: None,
            is_carried: false,
            attempts: Vec::new(),
            traffic: traffic.clone(),
            stop: Arc::clone(&stop),
        });
        let mut book = self.book();
        let number = book.next;
        book.next += 1;
        book.live.insert(number, live);
        drop(book);
        Tracked { ledger: self.clone(), number, traffic, stop, held: Mutex::default() }
    }

    /// What is under way, oldest first.
    pub fn live(&self) -> Vec<Request> {
        self.book().live.values().map(|live| live.seen(self.0.role)).collect()
    }

    /// One request. What the same request tried before stands in its attempts.
    pub fn find(&self, id: RequestId) -> Option<Request> {
        let book = self.book();
        let past = book.refusals.iter().chain(book.past.iter()).filter(|(known, _)| *known == id);
        let mut found: Vec<Request> = past.map(|(_, request)| request.clone()).collect();
        found.extend(book.live.values().filter(|live| live.id == id).map(|live| live.seen(self.0.role)));
        drop(book);
        found.sort_by_key(|request| request.since);
        found.dedup();
        let mut last = found.pop()?;
        let before = found.iter().map(as_attempt);
        last.attempts = before.chain(std::mem::take(&mut last.attempts)).take(ATTEMPTS_MAX).collect();
        Some(last)
    }

    /// Tells the requests that fit to end for this reason; gives how many were told.
    pub fn end(&self, which: &Which, why: Refusal) -> u64 {
        self.stop(|live| which.means(&live.seen(self.0.role)).then_some(why))
    }

    /// Tells the requests to end for which `judge` has a reason; gives how many were told.
    pub fn end_where(&self, judge: impl Fn(&Parties) -> Option<Refusal>) -> u64 {
        self.stop(|live| judge(&live.parties))
    }

    /// How many [`Self::end_where`] would tell that nobody has told yet.
    pub fn count_where(&self, judge: impl Fn(&Parties) -> Option<Refusal>) -> u64 {
        self.count(|live| live.stop.why.get().is_none() && judge(&live.parties).is_some())
    }

    fn stop(&self, judge: impl Fn(&Live) -> Option<Refusal>) -> u64 {
        let book = self.book();
        let mut told = 0;
        for live in book.live.values() {
            if let Some(why) = judge(live) {
                // The first reason stays, and counts.
                told += u64::from(live.stop.why.set(why).is_ok());
                live.stop.token.cancel();
            }
        }
        told
    }

    /// How many requests one process of an agent has.
    pub fn of_agent(&self, instance: InstanceId) -> u64 {
        self.count(|live| live.agent_instance == Some(instance))
    }

    /// How many requests one process of a client has.
    pub fn of_client(&self, instance: InstanceId) -> u64 {
        self.count(|live| live.client_instance == Some(instance))
    }

    fn count(&self, is: impl Fn(&Live) -> bool) -> u64 {
        self.book().live.values().map(|live| u64::from(is(live))).sum()
    }

    /// Writes what the book knows into a status: sessions, times, causes and refusals.
    pub fn fill(&self, status: &mut Status) {
        let book = self.book();
        let mut totals = Totals { opened: book.opened, ..Totals::default() };
        (totals.bytes_up, totals.bytes_down) = book.bytes;
        for live in book.live.values() {
            let (up, down) = live.traffic.bytes();
            totals.live += u64::from(live.is_carried);
            totals.bytes_up += up;
            totals.bytes_down += down;
        }
        for ((is_end, ..), count) in &book.causes {
            *(if *is_end { &mut totals.ended } else { &mut totals.refused }) += count;
        }
        let counted = book.causes.iter().map(|((is_end, hop, cause), count)| Counted {
            event: (if *is_end { "ended" } else { "refused" }).to_owned(),
            hop: hop.to_string(),
            cause: cause.to_string(),
            count: *count,
        });
        status.sessions = totals;
        status.causes = counted.collect();
        status.opening = Latency::from(&book.opening);
        status.refusals = book.refusals.iter().rev().map(|(_, request)| request.clone()).collect();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_hop(&self) -> Hop {
        match self.0.role {
            Role::Server => Hop::Server,
            Role::Agent => Hop::Agent,
            Role::Client => Hop::Client,
        }
    }
}

impl Tracked {
    /// Counts the bytes.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Keeps something, such as a place on a connection, until the request is over and this is dropped.
    pub fn hold(&self, what: impl Any + Send) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(what));
    }

    /// Says through whom it goes, and by which rule.
    pub fn through(&self, agent: &Principal, instance: Option<InstanceId>, rule: Option<&str>) {
        self.change(|live| {
            live.parties.agent = Some(agent.clone());
            live.agent_instance = instance;
            live.rule = rule.map(str::to_owned);
        });
    }

    /// Says with which certificate the client came, before anything is decided by it.
    pub fn client_showed(&self, certificate: Arc<Shown>) {
        self.change(|live| live.parties.client_certificate = Some(certificate));
    }

    /// Says with which certificate the agent came, before anything is decided by it.
    pub fn agent_showed(&self, certificate: Arc<Shown>) {
        self.change(|live| live.parties.agent_certificate = Some(certificate));
    }

    /// Puts a failed attempt down; the request goes on.
    pub fn attempt_failed(&self, why: Refusal) {
        let role = self.ledger.0.role;
        self.change(|live| {
            if live.attempts.len() < ATTEMPTS_MAX {
                let (hop, cause) = (Some(why.hop.to_string()), Some(why.cause.to_string()));
                let refused = Request { hop, cause, ..live.seen(role) };
                live.attempts.push(as_attempt(&refused));
            }
        });
    }

    /// The address of the target that was connected to, before anything is carried.
    pub fn dialled(&self, address: SocketAddr) {
        self.change(|live| live.parties.address = Some(address));
    }

    /// The target answered at this address, if it is known: bytes are carried.
    pub fn carried(&self, address: Option<SocketAddr>) {
        let mut book = self.ledger.book();
        let Some(live) = book.live.get_mut(&self.number) else { return };
        live.is_carried = true;
        live.parties.address = address;
        let took = live.since.elapsed();
        book.opened += 1;
        book.opening.add(took);
    }

    /// Resolves when the session was told to end, with the reason. Never does otherwise.
    pub fn stopped(&self) -> impl Future<Output = Refusal> + Send + 'static {
        let (stop, own) = (Arc::clone(&self.stop), self.ledger.own_hop());
        async move {
            stop.token.cancelled().await;
            stop.why.get().copied().unwrap_or(Refusal::new(own, Cause::Internal))
        }
    }

    /// The reason for which the session was told to end, if it was.
    pub fn told(&self) -> Option<Refusal> {
        self.stop.why.get().copied()
    }

    /// It came to nothing.
    pub fn refused(&self, why: Refusal) {
        self.close(why);
    }

    /// It is over.
    pub fn ended(&self, hop: Hop, cause: Cause) {
        self.close(Refusal::new(hop, cause));
    }

    fn change(&self, change: impl FnOnce(&mut Live)) {
        if let Some(live) = self.ledger.book().live.get_mut(&self.number) {
            change(live);
        }
    }

    /// The first word counts.
    fn close(&self, Refusal { hop, cause }: Refusal) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut book = self.ledger.book();
        let Some(live) = book.live.remove(&self.number) else { return };
        let was_carried = live.is_carried;
        let (up, down) = live.traffic.bytes();
        book.bytes.0 += up;
        book.bytes.1 += down;
        *book.causes.entry((was_carried, hop, cause)).or_default() += 1;
        let seen = Request {
            state: (if was_carried { "ended" } else { "refused" }).to_owned(),
            until: Some(now()),
            hop: Some(hop.to_string()),
            cause: Some(cause.to_string()),
            ..live.seen(self.ledger.0.role)
        };
        // A refusal that makes room among the last ones is still remembered among the rest.
        let past = if was_carried {
            Some((live.id, seen))
        } else {
            book.refusals.push_back((live.id, seen));
            if book.refusals.len() > REFUSALS_MAX { book.refusals.pop_front() } else { None }
        };
        book.past.extend(past);
        if book.past.len() > PAST_MAX {
            book.past.pop_front();
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let why = self.told().unwrap_or(match self.ledger.0.role {
            // What gives a client's request up is the application that leaves.
            Role::Client => Refusal::new(Hop::Application, Cause::Reset),
            Role::Server | Role::Agent => Refusal::new(self.ledger.own_hop(), Cause::Aborted),
        });
        self.close(why);
    }
}

fn as_attempt(request: &Request) -> String {
    let hop = request.hop.as_deref().unwrap_or("-");
    let cause = request.cause.as_deref().unwrap_or("-");
    match &request.agent {
        Some(agent) => format!("{hop}: {cause} ({})", agent.rsplit('/').next().unwrap_or(agent)),
        None => format!("{hop}: {cause}"),
    }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
