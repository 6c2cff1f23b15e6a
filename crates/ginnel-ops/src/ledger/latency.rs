//! How long opening took, as a histogram.

use std::time::Duration;

use ginnel_core::status::{Bucket, Latency};

/// Upper ends of the buckets in milliseconds: from a session in one building to the longest that an application waits.
const BUCKETS_MS: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    count: u64,
    sum_micros: u64,
    buckets: [u64; BUCKETS_MS.len()],
}

impl Histogram {
    pub(super) fn add(&mut self, took: Duration) {
        self.count += 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros = self.sum_micros.saturating_add(micros);
        let at = BUCKETS_MS.iter().position(|&end| took <= Duration::from_millis(end));
        if let Some(bucket) = at.and_then(|at| self.buckets.get_mut(at)) {
            *bucket += 1;
        }
    }
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        let ends = BUCKETS_MS.iter().zip(&histogram.buckets);
        let buckets = ends.map(|(&up_to_millis, &count)| Bucket { up_to_millis, count }).collect();
        Self { count: histogram.count, sum_micros: histogram.sum_micros, buckets }
    }
}
