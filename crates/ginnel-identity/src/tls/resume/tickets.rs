//! The secrets of the tickets that an agent gave out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ginnel_core::principal::Principal;
use zeroize::Zeroizing;

use super::{Life, SWEEP_EVERY, TICKETS_MAX, TICKETS_PER_CLIENT_MAX};

/// What a ticket names: unguessable, and on the wire in the clear.
pub(super) type Id = Vec<u8>;

/// What rustls wants to have back for a ticket: a key, and the certificates that the client showed.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// All tickets of one certificate of the agent's, by client.
#[derive(Default)]
pub(super) struct Tickets(Mutex<State>);

#[derive(Default)]
struct State {
    /// Counts how often everything was forgotten: what began before that leaves nothing behind.
    epoch: u64,
    is_closed: bool,
    count: usize,
    swept: Option<Instant>,
    /// Oldest first.
    clients: BTreeMap<Principal, VecDeque<Ticket>>,
}

struct Ticket {
    id: Id,
    secret: Secret,
    life: Life,
}

crate::never_implements!(Ticket: fmt::Debug, serde::Serialize, Clone);

impl Tickets {
    /// The count of forgettings so far, for [`Self::put`]; `None` if nothing is kept any more.
    pub(super) fn epoch(&self) -> Option<u64> {
        let state = self.state();
        (!state.is_closed).then_some(state.epoch)
    }

    /// Gives what is kept for a ticket of this client, once.
    pub(super) fn take(&self, client: &Principal, id: &[u8], now: Instant) -> Option<(Secret, Life)> {
        let mut state = self.state();
        let tickets = state.clients.get_mut(client)?;
        // From the back: a client uses its newest ticket first.
        let at = tickets.iter().rposition(|ticket| ticket.id == id)?;
        let ticket = tickets.remove(at)?;
        if tickets.is_empty() {
            state.clients.remove(client);
        }
        state.count -= 1;
        (!ticket.life.is_over(now)).then_some((ticket.secret, ticket.life))
    }

    /// Keeps what a handshake left that began in `epoch`.
    pub(super) fn put(&self, client: &Principal, made: Vec<(Id, Secret)>, life: Life, epoch: u64, now: Instant) {
        let mut state = self.state();
        if state.is_closed || state.epoch != epoch || life.is_over(now) {
            return;
        }
        state.sweep(now);
        for (id, secret) in made {
            if state.clients.get(client).is_some_and(|tickets| tickets.len() >= TICKETS_PER_CLIENT_MAX) {
                state.drop_oldest_of(&client.clone());
            } else if state.count >= TICKETS_MAX {
                // Not the oldest of all: one busy client would push out everybody else's.
                let largest = state.clients.iter().max_by_key(|(_, tickets)| tickets.len());
                if let Some(largest) = largest.map(|(client, _)| client.clone()) {
                    state.drop_oldest_of(&largest);
                }
            }
            state.clients.entry(client.clone()).or_default().push_back(Ticket { id, secret, life });
            state.count += 1;
        }
    }

    /// Drops all tickets of one client.
    pub(super) fn forget_client(&self, client: &Principal) {
        let mut state = self.state();
        let dropped = state.clients.remove(client).map_or(0, |tickets| tickets.len());
        state.count -= dropped;
    }

    /// Drops everything; handshakes that are under way leave nothing.
    pub(super) fn forget(&self) {
        self.state().forget();
    }

    /// Drops everything, for good.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.forget();
        state.is_closed = true;
    }

    /// How many there are.
    #[cfg(test)]
    pub(in crate::tls) fn count(&self) -> usize {
        let state = self.state();
        assert_eq!(state.count, state.clients.values().map(VecDeque::len).sum::<usize>());
        state.count
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self) {
        self.epoch += 1;
        self.count = 0;
        self.clients.clear();
    }

    fn drop_oldest_of(&mut self, client: &Principal) {
        let Some(tickets) = self.clients.get_mut(client) else { return };
        if tickets.pop_front().is_some() {
            self.count -= 1;
        }
        if tickets.is_empty() {
            self.clients.remove(client);
        }
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.clients.retain(|_, tickets| {
            tickets.retain(|ticket| !ticket.life.is_over(now));
            !tickets.is_empty()
        });
        self.count = self.clients.values().map(VecDeque::len).sum();
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("count", &self.state().count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
