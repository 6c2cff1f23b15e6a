//! Bytes carried so far, counted where they are carried and read anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The two counters of one session. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    /// Says how many bytes went each way so far: towards the target, towards the application.
    pub fn set(&self, up: u64, down: u64) {
        self.0.up.store(up, Ordering::Relaxed);
        self.0.down.store(down, Ordering::Relaxed);
    }

    /// Bytes so far: towards the target, towards the application.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.up.load(Ordering::Relaxed), self.0.down.load(Ordering::Relaxed))
    }
}
