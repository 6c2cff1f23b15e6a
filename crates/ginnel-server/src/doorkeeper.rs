//! Records of connections that were turned away because of where they come from.
//!
//! Anybody can open connections, in any number. So only so many of them are on record each by itself, and the next record says how many are not.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ginnel_core::audit::{Event, Text};
use ginnel_core::cause::Cause;
use ginnel_core::denial::Shown;
use tokio::time::Instant;

/// Records in one [`WINDOW`]: whoever tries addresses by hand is on record with each, and a flood writes some kilobytes a second.
const RECORDS_MAX: u32 = 20;

/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts who was turned away. Those who showed a certificate are counted by themselves, so that no flood of others hides a stolen one.
#[derive(Debug, Default)]
pub(crate) struct Doorkeeper {
    unknown: Mutex<Counted>,
    certified: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    since: Option<Instant>,
    records: u32,
    unrecorded: u64,
}

impl Doorkeeper {
    /// The record of a connection that was turned away, unless there were too many of late. `shown` is its certificate, if it came to that.
    pub(crate) fn turned_away(&self, peer: SocketAddr, cause: Cause, shown: Option<&Shown>) -> Option<Event> {
        let counted = if shown.is_some() { &self.certified } else { &self.unknown };
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        let unrecorded = counted.count(Instant::now())?;
        Some(Event::TurnedAway {
            peer,
            cause,
            principal: shown.map(|shown| shown.principal.clone()),
            serial: shown.map(|shown| Text::new(&shown.serial)),
            unrecorded: Some(unrecorded).filter(|unrecorded| *unrecorded > 0),
        })
    }
}

impl Counted {
    /// How many had no record before this one; `None` if this one has none.
    fn count(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            self.since = Some(now);
            self.records = 0;
        }
        if self.records >= RECORDS_MAX {
            self.unrecorded += 1;
            return None;
        }
        self.records += 1;
        Some(std::mem::take(&mut self.unrecorded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_records_and_the_next_one_counts_the_rest() {
        let (mut counted, start) = (Counted::default(), Instant::now());
        let recorded = (0..1000).filter(|_| counted.count(start).is_some()).count();
        assert_eq!(recorded, RECORDS_MAX as usize);
        let later = start + WINDOW;
        assert_eq!(counted.count(later), Some(1000 - u64::from(RECORDS_MAX)));
        assert_eq!(counted.count(later), Some(0));
    }
}
