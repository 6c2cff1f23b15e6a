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

/// Counts who was turned away.
#[derive(Debug, Default)]
pub(crate) struct Doorkeeper(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    since: Option<Instant>,
    records: u32,
    unrecorded: u64,
}

impl Doorkeeper {
    /// The record of a connection that was turned away, unless there were too many of late. `shown` is its certificate, if it came to that.
    pub(crate) fn turned_away(&self, peer: SocketAddr, cause: Cause, shown: Option<&Shown>) -> Option<Event> {
        let unrecorded = self.count(Instant::now())?;
        Some(Event::TurnedAway {
            peer,
            cause,
            principal: shown.map(|shown| shown.principal.clone()),
            serial: shown.map(|shown| Text::new(&shown.serial)),
            unrecorded: Some(unrecorded).filter(|unrecorded| *unrecorded > 0),
        })
    }

    /// How many had no record before this one; `None` if this one has none.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.since.is_none_or(|since| now >= since + WINDOW) {
            counted.since = Some(now);
            counted.records = 0;
        }
        if counted.records >= RECORDS_MAX {
            counted.unrecorded += 1;
            return None;
        }
        counted.records += 1;
        Some(std::mem::take(&mut counted.unrecorded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_records_and_the_next_one_counts_the_rest() {
        let (doorkeeper, start) = (Doorkeeper::default(), Instant::now());
        let recorded = (0..1000).filter(|_| doorkeeper.count(start).is_some()).count();
        assert_eq!(recorded, RECORDS_MAX as usize);
        let later = start + WINDOW;
        assert_eq!(doorkeeper.count(later), Some(1000 - u64::from(RECORDS_MAX)));
        assert_eq!(doorkeeper.count(later), Some(0));
    }
}
