//! Waits for a turn at a pool. The order is that of [`Turns`]; this wakes whoever is next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::turns::{Ticket, Turn, Turns};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The turns at one pool.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    turns: Turns,
    waiting: BTreeMap<Ticket, Arc<Notify>>,
}

impl State {
    fn wake_first(&self) {
        if let Some(wake) = self.turns.first().and_then(|first| self.waiting.get(&first)) {
            wake.notify_one();
        }
    }
}

/// A place that is given back when whoever waits gives up.
struct Place<'a> {
    queue: &'a Queue,
    ticket: Ticket,
    wake: Arc<Notify>,
}

impl Queue {
    pub(super) fn new(per_second: u32, wait_max: Duration) -> Self {
        let turns = Turns::new(per_second, wait_max, Instant::now().into_std());
        Self { state: Mutex::new(State { turns, waiting: BTreeMap::new() }) }
    }

    /// Waits for a turn until `by`.
    ///
    /// # Errors
    /// After how long it is worth asking again, if there is none in time.
    pub(super) async fn turn(&self, due: SystemTime, by: Instant) -> Result<(), Duration> {
        let place = self.join(due)?;
        loop {
            let now = Instant::now();
            let until = match self.state().turns.take(place.ticket, now.into_std()) {
                Turn::Now => return Ok(()),
                Turn::Gone => return Err(self.drained_after()),
                Turn::Behind => by,
                Turn::From(next) => by.min(Instant::from_std(next)),
            };
            if now >= by {
                return Err(self.drained_after());
            }
            tokio::select! {
                () = place.wake.notified() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// No turn before this time.
    pub(super) fn hold_off(&self, until: Instant) {
        self.state().turns.hold_off(until.into_std());
    }

    fn join(&self, due: SystemTime) -> Result<Place<'_>, Duration> {
        let mut state = self.state();
        let (ticket, pushed_out) = state.turns.join(due, Instant::now().into_std())?;
        if let Some(wake) = pushed_out.and_then(|ticket| state.waiting.remove(&ticket)) {
            wake.notify_one();
        }
        let wake = Arc::new(Notify::new());
        state.waiting.insert(ticket, Arc::clone(&wake));
        Ok(Place { queue: self, ticket, wake })
    }

    fn drained_after(&self) -> Duration {
        self.state().turns.drained_after(Instant::now().into_std())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.turns.leave(self.ticket);
        state.waiting.remove(&self.ticket);
        state.wake_first();
    }
}
