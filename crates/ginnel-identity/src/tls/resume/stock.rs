//! The tickets that a client has of one agent process.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::client::Tls13ClientSessionValue;

use super::{GIVEN_MAX, Life, STOCK_MAX};

/// What a handshake may take from, and what its tickets go to.
#[derive(Default)]
pub(super) struct Stock(Mutex<State>);

#[derive(Default)]
struct State {
    is_closed: bool,
    /// The agent's certificate that all of it goes back to.
    agent: Option<[u8; 32]>,
    /// Counts how often it was emptied.
    generation: u64,
    /// Oldest first.
    tickets: VecDeque<Ticket>,
    /// Tickets that handshakes under way have asked for.
    asked: usize,
}

/// One ticket, with the secret that it stands for.
pub(super) struct Ticket {
    pub(super) value: Tls13ClientSessionValue,
    pub(super) life: Life,
}

/// What a handshake may expect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    generation: u64,
    /// Tickets that it asks for and has not been given.
    pub(super) asked: u8,
}

impl Stock {
    /// Begins a handshake, which asks for as many tickets as are missing.
    pub(super) fn order(&self) -> Order {
        let mut state = self.state();
        // The handshake will take one; without that one, so many are there or on their way.
        let there = (state.tickets.len() + state.asked).saturating_sub(1);
        let missing = u8::try_from(STOCK_MAX.saturating_sub(there)).unwrap_or(u8::MAX);
        let asked = if state.is_closed { 0 } else { missing.clamp(1, GIVEN_MAX) };
        state.asked += usize::from(asked);
        Order { generation: state.generation, asked }
    }

    /// So many of the tickets that a handshake asked for have come, or will not come.
    pub(super) fn strike(&self, order: &mut Order, count: u8) {
        let struck = count.min(order.asked);
        order.asked -= struck;
        let mut state = self.state();
        if state.generation == order.generation {
            state.asked = state.asked.saturating_sub(usize::from(struck));
        }
    }

    /// The newest ticket, which the agent most likely still knows. It is good once.
    pub(super) fn take(&self, now: Instant) -> Option<Ticket> {
        let mut state = self.state();
        while let Some(ticket) = state.tickets.pop_back() {
            if !ticket.life.is_over(now) {
                return Some(ticket);
            }
        }
        None
    }

    /// A full handshake verified the agent with this certificate. What goes back to another one is worthless; and if a ticket was offered in
    /// vain, so are the others that were there.
    pub(super) fn settle(&self, agent: [u8; 32], order: Order, offered: bool) {
        let mut state = self.state();
        let in_vain = offered && state.generation == order.generation;
        if state.agent != Some(agent) || in_vain {
            state.empty();
            state.agent = Some(agent);
        }
    }

    /// Keeps a ticket that goes back to this certificate of the agent's.
    pub(super) fn put(&self, agent: [u8; 32], ticket: Ticket) {
        let mut state = self.state();
        if state.is_closed || state.agent != Some(agent) {
            return;
        }
        if state.tickets.len() >= STOCK_MAX {
            state.tickets.pop_front();
        }
        state.tickets.push_back(ticket);
    }

    /// Drops everything.
    pub(super) fn forget(&self) {
        self.state().empty();
    }

    /// Drops everything, for good.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.empty();
        state.is_closed = true;
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.state().tickets.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn empty(&mut self) {
        self.generation += 1;
        self.agent = None;
        self.tickets.clear();
        self.asked = 0;
    }
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stock").field("count", &self.count()).finish_non_exhaustive()
    }
}
