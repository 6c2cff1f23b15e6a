//! How far a sender may go, and how that grows.

use crate::budget::Budget;
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX, CREDIT_STEP_DIVISOR};

/// Credit as its giver keeps it. What it was widened by goes back to the budget when it is dropped.
#[derive(Debug)]
pub struct Window {
    size: u64,
    limit: u64,
    budget: Budget,
}

impl Window {
    /// The window that both ends of a direction know without saying it.
    pub fn new(budget: Budget) -> Self {
        Self { size: CREDIT_INITIAL, limit: CREDIT_INITIAL, budget }
    }

    /// Offset up to which the sender may send.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that the sender may be ahead.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Widens it to `size`, unless that is more than [`CREDIT_MAX`] or than the budget has.
    pub fn widen(&mut self, size: u64) {
        let more = size.min(CREDIT_MAX).saturating_sub(self.size);
        if more > 0 && self.budget.draw(more) {
            self.size += more;
        }
    }

    /// Whether it is worth telling the sender of `limit`: a grant costs a frame, and must come before the sender has used up the last one.
    pub fn is_due(&self, limit: u64) -> bool {
        limit >= self.limit + self.size / CREDIT_STEP_DIVISOR
    }

    /// Moves the limit; never back.
    pub fn grant(&mut self, limit: u64) -> u64 {
        self.limit = self.limit.max(limit);
        self.limit
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.give_back(self.size - CREDIT_INITIAL);
    }
}
