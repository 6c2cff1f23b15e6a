//! What the throughput plot is drawn from: totals, looked at every few seconds.

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_core::audit::Timestamp;
use ginnel_core::status::Status;

/// How often a sample is taken.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Samples that are kept: ten minutes.
pub(super) const KEPT: usize = 121;

/// The totals at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) time: Timestamp,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) live: u64,
}

impl Sample {
    pub(super) fn of(status: &Status) -> Self {
        let totals = &status.sessions;
        Self { time: status.time, bytes_up: totals.bytes_up, bytes_down: totals.bytes_down, live: totals.live }
    }
}

/// The last samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<Sample>);

impl Samples {
    pub(super) fn add(&mut self, sample: Sample) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(super) fn all(&self) -> Vec<Sample> {
        self.0.iter().copied().collect()
    }
}
