//! What waits to be written, between the tasks that record and the thread that writes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ginnel_core::audit::{Checkpoint, Event, Kind};
use tokio::sync::oneshot;

use super::AuditError;

/// Records that may wait when another permit comes. At one sync in a millisecond, and a whole group with each, this is
/// gone within ten; more waiting means that the disk has stopped, and that asking for more only makes everybody wait longer.
pub(super) const QUEUE_MAX: usize = 4_096;

/// Records that may wait when another refusal comes, of which anybody can cause any number: half, so that a flood of them leaves room for
/// permits. What has none is counted in the log.
pub(super) const REFUSALS_MAX: usize = QUEUE_MAX / 2;

/// Records that may wait in all. The room above [`QUEUE_MAX`] is for the ends of what was begun before the disk stopped: some thousands
/// of sessions and links. A record takes less than 1 KiB, so all of them take less than 16 MiB.
pub(super) const BACKLOG_MAX: usize = 16_384;

/// Records in one group: as many as make a write of about 1 MiB.
pub(super) const GROUP_MAX: usize = 1_024;

/// A record that has its place in the order, but no number yet.
pub(super) struct Pending {
    pub(super) time: SystemTime,
    pub(super) event: Event,
    /// Sent to when the record is durable, dropped when it could not be written. A gap has nobody who waits for it.
    pub(super) done: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled when there is something new for the writer: a record, or the wish to close.
    news: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Pending>,
    /// Records that the writer has taken and not finished with.
    in_hand: usize,
    failed: bool,
    closing: bool,
    gave_up: bool,
    checkpoint: Option<Checkpoint>,
}

/// What the writer is to do next.
pub(super) enum Taken {
    /// Write these.
    Records(Vec<Pending>),
    /// Look after the log: the time has come that was said.
    Due,
    /// End: the log is closed and everything was taken.
    Closed,
}

impl Queue {
    pub(super) fn push(&self, event: Event) -> Result<oneshot::Receiver<()>, AuditError> {
        let kind = event.kind();
        let mut state = self.state();
        if state.closing {
            return Err(AuditError::Closed);
        }
        let room = match kind {
            Kind::Permit => QUEUE_MAX,
            Kind::Refusal => REFUSALS_MAX,
            Kind::Fact => BACKLOG_MAX,
        };
        let full = state.waiting.len() + state.in_hand >= room;
        let useless = state.failed && kind == Kind::Permit;
        let (done, written) = oneshot::channel();
        if !full && !useless {
            // The time is taken under the lock, so that it rises with the number as far as the clock allows.
            state.waiting.push_back(Pending { time: SystemTime::now(), event, done: Some(done) });
            self.news.notify_one();
        } else if kind != Kind::Permit {
            state.lose();
        }
        match (state.failed, full) {
            (true, _) => Err(AuditError::Unavailable),
            (false, true) => Err(AuditError::Overloaded),
            (false, false) => Ok(written),
        }
    }

    /// Waits for records, until `due`, and takes a group of them.
    pub(super) fn take(&self, due: Option<Instant>) -> Taken {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closing;
        let mut state = match due {
            None => self.news.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                self.news.wait_timeout_while(self.state(), left, idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let count = state.waiting.len().min(GROUP_MAX);
        state.in_hand = count;
        match (count, state.closing) {
            (0, true) => Taken::Closed,
            (0, false) => Taken::Due,
            (1.., _) => Taken::Records(state.waiting.drain(..count).collect()),
        }
    }

    /// The group in hand is durable.
    pub(super) fn written(&self) {
        let mut state = self.state();
        state.in_hand = 0;
        state.failed = false;
    }

    /// The group in hand could not be written yet.
    pub(super) fn fail(&self) {
        self.state().failed = true;
    }

    /// Waits until the next attempt is due; `false` when the log is being closed, and this is the last.
    pub(super) fn rest(&self, delay: Duration) -> bool {
        let open = |state: &mut State| !state.closing;
        let (state, _) =
            self.news.wait_timeout_while(self.state(), delay, open).unwrap_or_else(PoisonError::into_inner);
        !state.closing
    }

    /// Leaves everything unwritten that is; returns how many records that are.
    pub(super) fn give_up(&self) -> usize {
        let mut state = self.state();
        let left = state.in_hand + state.waiting.len();
        state.in_hand = 0;
        state.closing = true;
        state.gave_up |= left > 0;
        // Dropping the senders tells whoever waits.
        state.waiting.clear();
        left
    }

    pub(super) fn close(&self) {
        self.state().closing = true;
        self.news.notify_one();
    }

    pub(super) fn waiting(&self) -> u64 {
        let state = self.state();
        u64::try_from(state.waiting.len() + state.in_hand).unwrap_or(u64::MAX)
    }

    pub(super) fn healthy(&self) -> bool {
        let state = self.state();
        !state.failed && !state.closing
    }

    /// The newest signed record that is durable.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.state().checkpoint
    }

    pub(super) fn signed(&self, checkpoint: Checkpoint) {
        self.state().checkpoint = Some(checkpoint);
    }

    pub(super) fn gave_up(&self) -> bool {
        self.state().gave_up
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a record that there is no room for, at its place in the order.
    fn lose(&mut self) {
        if let Some(Pending { event: Event::Gap { records }, .. }) = self.waiting.back_mut() {
            *records += 1;
        } else {
            // At most one more than the bound: a second in a row is added to this one.
            self.waiting.push_back(Pending { time: SystemTime::now(), event: Event::Gap { records: 1 }, done: None });
        }
    }
}
