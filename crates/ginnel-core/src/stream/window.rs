//! How far a sender may go, and how that grows.

use std::collections::VecDeque;

use crate::budget::Budget;
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX, CREDIT_STEP_DIVISOR};

/// Credit as its giver keeps it. What it was widened by goes back to the budget when it is dropped.
#[derive(Debug)]
pub struct Window {
    size: u64,
    limit: u64,
    /// Limits that the sender was told and has not passed, in order: a few, because each is a good part of a window beyond the one before.
    told: VecDeque<u64>,
    budget: Budget,
}

impl Window {
    /// The window that both ends of a direction know without saying it.
    pub fn new(budget: Budget) -> Self {
        Self { size: CREDIT_INITIAL, limit: CREDIT_INITIAL, told: VecDeque::from([CREDIT_INITIAL]), budget }
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
        if limit > self.limit {
            self.limit = limit;
            self.told.push_back(limit);
        }
        self.limit
    }

    /// Takes note that everything up to `end` has come.
    pub fn received(&mut self, end: u64) {
        while self.told.front().is_some_and(|&limit| limit < end) {
            self.told.pop_front();
        }
    }

    /// Whether what has come ends where a grant ended: if nothing of it waits, the sender does.
    pub fn is_used_up(&self, end: u64) -> bool {
        self.told.front() == Some(&end)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.give_back(self.size - CREDIT_INITIAL);
    }
}
