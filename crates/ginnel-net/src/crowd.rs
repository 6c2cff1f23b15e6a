//! How many sessions of one connection have bytes that wait for room on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ginnel_core::limits::{DATA_MAX, DATA_SHARED_MAX};

/// The sessions of one connection. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd(Arc<AtomicUsize>);

/// One session among them.
#[derive(Debug)]
pub(crate) struct Waiting {
    crowd: Crowd,
    waits: bool,
}

impl Crowd {
    /// A session that does not wait.
    pub(crate) fn enter(&self) -> Waiting {
        Waiting { crowd: self.clone(), waits: false }
    }
}

impl Waiting {
    /// Says whether it waits for room.
    pub(crate) fn set(&mut self, waits: bool) {
        if waits != self.waits {
            self.waits = waits;
            // Only the number counts, and one that is a moment old does no harm.
            if waits {
                self.crowd.0.fetch_add(1, Ordering::Relaxed);
            } else {
                self.crowd.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Most bytes of its next frame: few while others wait as well.
    pub(crate) fn data_max(&self) -> usize {
        let others = self.crowd.0.load(Ordering::Relaxed).saturating_sub(usize::from(self.waits));
        if others > 0 { DATA_SHARED_MAX } else { DATA_MAX }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_smaller_only_while_others_wait() {
        let crowd = Crowd::default();
        let (mut one, mut other) = (crowd.enter(), crowd.enter());
        let sizes = |one: &Waiting, other: &Waiting| (one.data_max(), other.data_max());
        assert_eq!(sizes(&one, &other), (DATA_MAX, DATA_MAX));
        one.set(true);
        one.set(true);
        assert_eq!(sizes(&one, &other), (DATA_MAX, DATA_SHARED_MAX));
        other.set(true);
        assert_eq!(sizes(&one, &other), (DATA_SHARED_MAX, DATA_SHARED_MAX));
        drop(one);
        assert_eq!(other.data_max(), DATA_MAX);
    }
}
