//! The client's end.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ginnel_core::id::InstanceId;
use ginnel_core::principal::{Principal, Role};
use rustls::client::{
    ClientSessionStore, Resumption, TicketRequest, Tls12ClientSessionValue, Tls12Resumption, Tls13ClientSessionValue,
};
use rustls::{ClientConfig, ClientConnection, Error, NamedGroup};
use rustls_pki_types::ServerName;

use super::stock::{Order, Stock, Ticket};
use super::{AGENTS_MAX, Handshake, Life, Verified, handshake, no_ticket, remaining, shown, wall_clock};
use crate::certificate::Identity;
use crate::tls::verify::InnerAgent;
use crate::tls::{TlsError, inner_client_parts, must_be};
use crate::trust::CurrentRoots;

/// Begins inner handshakes with one certificate of the client's, towards any agent.
pub struct Initiators {
    roots: CurrentRoots,
    identity: Identity,
    agents: Mutex<Agents>,
}

#[derive(Default)]
struct Agents {
    is_closed: bool,
    /// By process, because each has its own tickets.
    known: BTreeMap<(Principal, InstanceId), Agent>,
    /// Counts the handshakes, to tell who was used least recently.
    handshakes: u64,
}

/// One agent process. rustls resumes only with the very verifier and certificate that a ticket came with: both are in `config`.
struct Agent {
    config: Arc<ClientConfig>,
    verifier: Arc<InnerAgent>,
    stock: Arc<Stock>,
    used: u64,
}

/// One handshake that is to be begun.
#[derive(Debug)]
pub struct Initiating {
    config: Arc<ClientConfig>,
    verifier: Arc<InnerAgent>,
    kept: Arc<Kept>,
}

/// What rustls takes and leaves on one connection. It lives as long as that, because tickets may come at any time.
struct Kept {
    stock: Arc<Stock>,
    now: Instant,
    state: Mutex<State>,
}

struct State {
    order: Order,
    taken: Option<Life>,
    /// The agent's certificate and the life of its tickets, once they are verified.
    verified: Option<([u8; 32], Life)>,
}

impl Initiators {
    /// Sets it up for agents whose certificates these roots issue. Roots that change count from the next handshake on, resumed or not.
    ///
    /// # Errors
    /// [`TlsError::Role`] unless `identity` is a client.
    pub fn new(agents: impl Into<CurrentRoots>, identity: &Identity) -> Result<Self, TlsError> {
        must_be(Role::Client, identity.leaf().principal.role)?;
        Ok(Self { roots: agents.into(), identity: identity.clone(), agents: Mutex::default() })
    }

    /// Whether it shows this very certificate.
    pub fn is_of(&self, identity: &Identity) -> bool {
        self.identity.leaf().sha256 == identity.leaf().sha256
    }

    /// Sets one handshake up, which succeeds with `agent` only. `instance` says which of its processes is meant; it is not proved, and whoever
    /// answers in its place does not know its tickets.
    ///
    /// # Errors
    /// [`TlsError::Role`] unless `agent` is an agent.
    pub fn initiate(&self, agent: &Principal, instance: InstanceId, now: Instant) -> Result<Initiating, TlsError> {
        let mut agents = self.agents();
        let key = (agent.clone(), instance);
        agents.make_room_for(&key);
        agents.handshakes += 1;
        let (used, is_closed) = (agents.handshakes, agents.is_closed);
        let agent = match agents.known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Agent::new(&self.roots, agent, &self.identity, is_closed)?),
        };
        agent.used = used;
        Ok(agent.initiate(now))
    }

    /// Drops all tickets for good. It begins handshakes on, which are full ones.
    pub fn close(&self) {
        let mut agents = self.agents();
        agents.is_closed = true;
        agents.known.values().for_each(|agent| agent.stock.close());
    }

    /// How many tickets there are of all agents.
    #[cfg(test)]
    pub(in crate::tls) fn count(&self) -> usize {
        self.agents().known.values().map(|agent| agent.stock.count()).sum()
    }

    fn agents(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agents {
    fn make_room_for(&mut self, key: &(Principal, InstanceId)) {
        if self.known.len() < AGENTS_MAX || self.known.contains_key(key) {
            return;
        }
        let oldest = self.known.iter().min_by_key(|(_, agent)| agent.used).map(|(key, _)| key.clone());
        if let Some(agent) = oldest.and_then(|key| self.known.remove(&key)) {
            // Its sessions may still be given tickets.
            agent.stock.close();
        }
    }
}

impl Agent {
    fn new(roots: &CurrentRoots, agent: &Principal, identity: &Identity, is_closed: bool) -> Result<Self, TlsError> {
        let (config, verifier) = inner_client_parts(roots.clone(), agent, identity)?;
        let stock = Arc::new(Stock::default());
        if is_closed {
            stock.close();
        }
        Ok(Self { config: Arc::new(config), verifier, stock, used: 0 })
    }

    fn initiate(&self, now: Instant) -> Initiating {
        let order = self.stock.order();
        let state = Mutex::new(State { order, taken: None, verified: None });
        let kept = Arc::new(Kept { stock: Arc::clone(&self.stock), now, state });
        let mut config = (*self.config).clone();
        config.resumption = Resumption::store(Arc::clone(&kept) as Arc<dyn ClientSessionStore>)
            .tls12_resumption(Tls12Resumption::Disabled);
        config.send_ticket_request =
            Some(TicketRequest { new_session_count: order.asked, resumption_count: order.asked });
        Initiating { config: Arc::new(config), verifier: Arc::clone(&self.verifier), kept }
    }
}

impl Initiating {
    /// What to give to rustls, with the name of the inner server (`inner_server_name`).
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Verifies the agent of a finished handshake in full, whether its certificates were shown in this handshake or in an earlier one; the
    /// tickets that come on the connection are kept from then on. Before this, no byte of the connection may be believed.
    ///
    /// # Errors
    /// Why it is not the agent that was meant; then none of its tickets are kept.
    pub fn finish(self, connection: &ClientConnection) -> Result<Verified, Error> {
        let verified = self.verify(connection);
        if verified.is_err() {
            self.kept.stock.forget();
        }
        verified
    }

    /// Lets a test change the setting.
    #[cfg(test)]
    pub(in crate::tls) fn config_mut(&mut self) -> &mut ClientConfig {
        Arc::make_mut(&mut self.config)
    }

    /// Lets a test change what is believed.
    #[cfg(test)]
    pub(in crate::tls) fn believe(&mut self, verifier: InnerAgent) {
        self.verifier = Arc::new(verifier);
    }

    fn verify(&self, connection: &ClientConnection) -> Result<Verified, Error> {
        let handshake = handshake(connection)?;
        let (end_entity, intermediates) = shown(connection)?;
        let clock = wall_clock(&*self.config.time_provider)?;
        let leaf = self.verifier.verify(end_entity, intermediates, clock)?;
        let mut state = self.kept.state();
        let began = match handshake {
            Handshake::Full => {
                self.kept.stock.settle(leaf.sha256, state.order, state.taken.is_some());
                self.kept.now
            }
            Handshake::Resumed => state.taken.ok_or_else(no_ticket)?.began,
        };
        state.verified = Some((leaf.sha256, Life::new(began, self.kept.now, remaining(&leaf, clock))));
        drop(state);
        Ok(Verified { handshake, leaf })
    }
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Kept {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        // With a hint, one handshake in which the agent settled for less would make all later ones begin there.
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut state = self.state();
        self.stock.strike(&mut state.order, 1);
        if let Some((agent, life)) = state.verified {
            self.stock.put(agent, Ticket { value, life });
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.stock.take(self.now)?;
        self.state().taken = Some(ticket.life);
        Some(ticket.value)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stock.strike(&mut self.state().order, u8::MAX);
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("stock", &self.stock).finish_non_exhaustive()
    }
}

impl fmt::Debug for Initiators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiators").field("identity", &self.identity).finish_non_exhaustive()
    }
}
