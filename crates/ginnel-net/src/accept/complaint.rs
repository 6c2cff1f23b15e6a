//! Log lines about what peers can cause at will: counted each time, written now and then.

use std::sync::{Mutex, PoisonError};

use ginnel_core::limits::TURNED_AWAY_LOG_EVERY;
use tokio::time::Instant;

/// Counts occurrences of one thing, and tells when they are due to be written about.
#[derive(Debug, Default)]
pub struct Complaint(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    since: u64,
    written: Option<Instant>,
}

impl Complaint {
    /// Counts one more; answers with how many there were since the last answer if it is time for a line.
    pub fn count(&self, now: Instant) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.since += 1;
        if counted.written.is_some_and(|written| now < written + TURNED_AWAY_LOG_EVERY) {
            return None;
        }
        counted.written = Some(now);
        Some(std::mem::take(&mut counted.since))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_at_once_and_then_seldom_and_forgets_none() {
        let complaint = Complaint::default();
        let start = Instant::now();
        let just_before = TURNED_AWAY_LOG_EVERY.checked_sub(Duration::from_millis(1)).unwrap();
        let cases =
            [(Duration::ZERO, Some(1)), (Duration::ZERO, None), (just_before, None), (TURNED_AWAY_LOG_EVERY, Some(3))];
        for (after, expected) in cases {
            assert_eq!(complaint.count(start + after), expected, "after {after:?}");
        }
    }
}
