//! Credit that may be granted beyond what every session has from the start: bounded for a connection and for the whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{CREDIT_IN_ALL, CREDIT_PER_CONNECTION};

/// A number of bytes to draw on. Clones draw on the same.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Purse>);

impl Default for Budget {
    /// What one process has.
    fn default() -> Self {
        Self::new(CREDIT_IN_ALL)
    }
}

#[derive(Debug)]
struct Purse {
    left: AtomicU64,
    whole: Option<Budget>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Purse { left: AtomicU64::new(bytes), whole: None }))
    }

    /// What one connection has of it.
    pub fn for_connection(&self) -> Self {
        self.part(CREDIT_PER_CONNECTION)
    }

    /// A part of this budget: what is drawn on it counts for both.
    fn part(&self, bytes: u64) -> Self {
        Self(Arc::new(Purse { left: AtomicU64::new(bytes), whole: Some(self.clone()) }))
    }

    /// Draws so many bytes, all or none, and says whether it did.
    #[must_use]
    pub fn draw(&self, bytes: u64) -> bool {
        // Only the number counts; nothing else is ordered by it.
        // Of the whole nobody gets more than half of what is left, so that whoever draws most leaves something for the others.
        let share = |left: u64| if self.0.whole.is_none() { left / 2 } else { left };
        let take = |left: u64| left.checked_sub(bytes).filter(|_| bytes <= share(left));
        let drawn = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if drawn.is_err() {
            return false;
        }
        if self.0.whole.as_ref().is_none_or(|whole| whole.draw(bytes)) {
            return true;
        }
        self.0.left.fetch_add(bytes, Ordering::Relaxed);
        false
    }

    /// Gives back what was drawn.
    pub fn give_back(&self, bytes: u64) {
        self.0.left.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.0.whole {
            whole.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_draw_on_the_whole_and_give_back_to_it() {
        let whole = Budget::new(100);
        let (one, other) = (whole.part(60), whole.part(60));
        assert!(one.draw(50));
        assert!(!one.draw(20), "the part has 10 left");
        assert!(!other.draw(30), "that is more than half of the 50 that are left");
        assert!(other.draw(25) && other.draw(12), "a draw that failed took nothing");
        one.give_back(50);
        assert!(one.draw(30) && !one.draw(31) && other.draw(16) && !other.draw(8));
    }
}
