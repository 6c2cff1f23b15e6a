//! Whose turn it is at something that takes only so many requests in a second.
//!
//! Turns come one interval apart, so that a service that counts per second never sees more than its rate, however it cuts the seconds. Those
//! who wait go in the order of when they need it, not of when they came: a certificate that is about to expire is renewed before one that has
//! hours left. So many may wait as get their turn within the longest wait; one more pushes out whoever has the most time left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

/// How soon somebody needs a certificate who has none: before everybody who can go on for longer than this with the one they have.
const FIRST_DUE: Duration = Duration::from_secs(60);

/// When somebody needs a certificate: at the end of the one that it renews, soon if there is none. What has expired already does not go before
/// what expires now, so that a false claim gains nothing over an honest one.
pub fn due(renews: Option<SystemTime>, now: SystemTime) -> SystemTime {
    renews.map_or(now + FIRST_DUE, |end| end.max(now))
}

/// A place in the order, made by [`Turns::join`]. The earlier it is due, the less it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    due: SystemTime,
    number: u64,
}

/// What the holder of a ticket does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Others go first.
    Behind,
    /// It is first, and may go at this time.
    From(Instant),
    /// The ticket is spent, given back or pushed out.
    Gone,
    /// It is its turn, and the ticket is spent.
    Now,
}

/// The order of those who wait.
#[derive(Debug)]
pub struct Turns {
    interval: Duration,
    waiting_max: usize,
    waiting: BTreeSet<Ticket>,
    next: Instant,
    number: u64,
}

impl Turns {
    /// So many turns in a second, and as many places as have their turn within `wait_max`.
    pub fn new(per_second: u32, wait_max: Duration, now: Instant) -> Self {
        let per_second = per_second.max(1);
        let interval = Duration::from_secs(1) / per_second;
        let waiting_max = usize::try_from(wait_max.as_nanos() / interval.as_nanos()).unwrap_or(usize::MAX).max(1);
        Self { interval, waiting_max, waiting: BTreeSet::new(), next: now, number: 0 }
    }

    /// Takes a place; also gives the ticket that was pushed out for it, if any.
    ///
    /// # Errors
    /// After how long it is worth asking again, if everybody who waits needs it sooner.
    pub fn join(&mut self, due: SystemTime, now: Instant) -> Result<(Ticket, Option<Ticket>), Duration> {
        let mut pushed_out = None;
        if self.waiting.len() >= self.waiting_max {
            if self.waiting.last().is_none_or(|last| last.due <= due) {
                return Err(self.drained_after(now));
            }
            pushed_out = self.waiting.pop_last();
        }
        let ticket = Ticket { due, number: self.number };
        self.number += 1;
        self.waiting.insert(ticket);
        Ok((ticket, pushed_out))
    }

    /// Asks whether it is the turn of a ticket, and takes it if so.
    pub fn take(&mut self, ticket: Ticket, now: Instant) -> Turn {
        if !self.waiting.contains(&ticket) {
            return Turn::Gone;
        }
        if self.first() != Some(ticket) {
            return Turn::Behind;
        }
        if now < self.next {
            return Turn::From(self.next);
        }
        self.waiting.remove(&ticket);
        self.next = now + self.interval;
        Turn::Now
    }

    /// Gives a ticket back; nothing happens if it is gone.
    pub fn leave(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// Whose turn is next.
    pub fn first(&self) -> Option<Ticket> {
        self.waiting.first().copied()
    }

    /// No turn before this time: the service said that it was too much.
    pub fn hold_off(&mut self, until: Instant) {
        self.next = self.next.max(until);
    }

    /// How long it takes until everybody who waits had a turn.
    pub fn drained_after(&self, now: Instant) -> Duration {
        let count = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.next.saturating_duration_since(now).saturating_add(self.interval.saturating_mul(count.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOMENT: Duration = Duration::from_nanos(1);

    #[expect(clippy::disallowed_methods, reason = "an instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_needed_first_goes_first() {
        let now = at(1_000_000);
        let needs = [
            ("expired", due(Some(at(5)), now)),
            ("renewal with 30 s left", due(Some(now + Duration::from_secs(30)), now)),
            ("first certificate", due(None, now)),
            ("renewal with 2 min left", due(Some(now + Duration::from_secs(120)), now)),
            ("renewal with 16 h left", due(Some(now + Duration::from_secs(57_600)), now)),
        ];
        assert!(needs.is_sorted_by_key(|(_, due)| *due), "{needs:?}");
        assert_eq!(due(Some(at(5)), now), now, "a claim gains nothing below the present");
    }

    #[test]
    fn turns_come_an_interval_apart_in_the_order_of_need() {
        let begin = start();
        let mut turns = Turns::new(10, Duration::from_secs(1), begin);
        let mut join = |due| turns.join(at(due), begin).unwrap().0;
        let (late, soon, same_but_later) = (join(30), join(10), join(10));
        assert_eq!(turns.take(late, begin), Turn::Behind);
        assert_eq!(turns.take(soon, begin), Turn::Now);
        assert_eq!(turns.take(soon, begin), Turn::Gone);
        let second = begin + Duration::from_millis(100);
        assert_eq!(turns.take(same_but_later, second - MOMENT), Turn::From(second));
        assert_eq!(turns.take(same_but_later, second), Turn::Now);
        turns.hold_off(second + Duration::from_secs(3));
        assert_eq!(turns.take(late, second), Turn::From(second + Duration::from_secs(3)));
        turns.leave(late);
        assert_eq!((turns.take(late, second), turns.first()), (Turn::Gone, None));
    }

    #[test]
    fn who_has_the_most_time_left_is_pushed_out_and_nobody_else() {
        let begin = start();
        let mut turns = Turns::new(4, Duration::from_secs(1), begin);
        let tickets: Vec<_> = (1..=4).map(|due| turns.join(at(due * 10), begin).unwrap().0).collect();
        assert_eq!(turns.join(at(40), begin), Err(Duration::from_millis(1250)), "nobody needs it less");
        let (urgent, pushed_out) = turns.join(at(5), begin).unwrap();
        assert_eq!((turns.first(), pushed_out), (Some(urgent), Some(tickets[3])));
        assert_eq!(turns.take(tickets[3], begin), Turn::Gone);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_never_more_places_than_the_wait(
            per_second in 1_u32..50,
            steps in proptest::collection::vec((0_u64..300, 0_u64..1_000), 1..300),
        ) {
            let wait_max = Duration::from_secs(2);
            let mut now = start();
            let mut turns = Turns::new(per_second, wait_max, now);
            let mut taken: Vec<Instant> = Vec::new();
            for (pause_ms, due) in steps {
                now += Duration::from_millis(pause_ms);
                let _ = turns.join(at(due), now);
                prop_assert!(turns.waiting.len() <= 2 * per_second as usize);
                let first = turns.first().unwrap();
                match turns.take(first, now) {
                    Turn::Now => taken.push(now),
                    Turn::From(next) => prop_assert!(next > now && next <= now + turns.interval),
                    Turn::Behind | Turn::Gone => prop_assert!(false, "the first is neither"),
                }
            }
            for pair in taken.windows(2) {
                prop_assert!(pair[1] - pair[0] >= turns.interval);
            }
        }
    }
}
