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
        let drawn = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
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
        let (one, other) = (whole.part(80), whole.part(80));
        assert!(one.draw(70));
        assert!(!one.draw(20), "the part has 10 left");
        assert!(!other.draw(40), "the whole has 30 left");
        assert!(other.draw(30), "a draw that failed took nothing");
        one.give_back(70);
        assert!(other.draw(50) && !other.draw(1) && one.draw(20) && !one.draw(1));
    }
}
