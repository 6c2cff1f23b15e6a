//! How often somebody may do something: so many times in a second, and as many at once as a pause has saved up.
//!
//! Each time costs an interval, and whoever is further ahead of the clock than the saved pause has to wait. One instant says all of it, so
//! that nothing has to be filled up while nobody asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::limits::RATE_KEYS_MAX;

/// The same rate for everybody, each by itself.
#[derive(Debug)]
pub struct Rates<K> {
    interval: Duration,
    slack: Duration,
    /// Up to when everybody has used their time up. Who is not here has nothing used up.
    used: BTreeMap<K, Instant>,
    refused: u64,
}

impl<K: Ord + Clone> Rates<K> {
    /// So many times `per_second`, and `burst` times at once after a pause; both count as one at least.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, slack: interval * burst.max(1), used: BTreeMap::new(), refused: 0 }
    }

    /// Whether `who` may do it now; if so, it is counted.
    pub fn take(&mut self, who: &K, now: Instant) -> bool {
        if !self.may(who, now) {
            self.refused += 1;
            return false;
        }
        self.charge(who, now);
        true
    }

    /// Whether `who` may do it now, without counting it.
    pub fn may(&self, who: &K, now: Instant) -> bool {
        self.wait(who, now).is_zero()
    }

    /// How long `who` has to wait until it may.
    pub fn wait(&self, who: &K, now: Instant) -> Duration {
        let used = self.used.get(who).copied().unwrap_or(now).max(now);
        (used + self.interval).saturating_duration_since(now + self.slack)
    }

    /// Counts that `who` did it, whether it might or not: never more than what is saved up goes, so that it is forgiven as soon.
    pub fn charge(&mut self, who: &K, now: Instant) {
        let used = self.used.get(who).copied().unwrap_or(now).max(now) + self.interval;
        if !self.used.contains_key(who) {
            self.make_room(now);
        }
        self.used.insert(who.clone(), used.min(now + self.slack));
    }

    /// Takes back what was counted once.
    pub fn give_back(&mut self, who: &K) {
        if let Some(earlier) = self.used.get(who).and_then(|used| used.checked_sub(self.interval)) {
            self.used.insert(who.clone(), earlier);
        }
    }

    /// Counts a refusal that [`Self::may`] led to.
    pub fn refuse(&mut self) {
        self.refused += 1;
    }

    /// How often somebody was refused, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Forgets who has nothing used up; if nobody has, whoever has used up least loses that.
    fn make_room(&mut self, now: Instant) {
        if self.used.len() < RATE_KEYS_MAX {
            return;
        }
        self.used.retain(|_, used| *used > now);
        if self.used.len() >= RATE_KEYS_MAX {
            let least = self.used.iter().min_by_key(|(_, used)| **used).map(|(who, _)| who.clone());
            least.and_then(|who| self.used.remove(&who));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn times(rates: &mut Rates<u32>, who: u32, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| rates.take(&who, now)).count()
    }

    #[test]
    fn a_burst_and_then_so_many_in_a_second() {
        let (start, mut rates) = (start(), Rates::new(10, 30));
        assert_eq!(times(&mut rates, 1, start, 100), 30);
        assert_eq!(times(&mut rates, 1, start + Duration::from_secs(1), 100), 10);
        assert_eq!(times(&mut rates, 1, start + Duration::from_secs(60), 100), 30, "a pause saves up no more");
        assert_eq!(rates.refused(), 70 + 90 + 70);
    }

    #[test]
    fn one_who_is_refused_takes_nothing_from_another() {
        let (start, mut rates) = (start(), Rates::new(1, 1));
        assert_eq!(times(&mut rates, 1, start, 1000), 1);
        assert_eq!(times(&mut rates, 2, start, 1), 1);
        assert_eq!(rates.wait(&1, start), Duration::from_secs(1));
        assert_eq!(rates.wait(&3, start), Duration::ZERO);
    }

    #[test]
    fn what_is_given_back_was_never_counted() {
        let (start, mut rates) = (start(), Rates::new(1, 2));
        for _ in 0..1000 {
            assert!(rates.take(&1, start));
            rates.give_back(&1);
        }
        rates.give_back(&2);
        assert_eq!(times(&mut rates, 1, start, 100), 2);
    }

    #[test]
    fn what_is_charged_beyond_the_rate_is_forgiven_as_soon() {
        let (start, mut rates) = (start(), Rates::new(1, 10));
        for _ in 0..1000 {
            rates.charge(&1, start);
        }
        assert!(!rates.may(&1, start));
        assert!(rates.may(&1, start + Duration::from_secs(1)));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_whoever_used_up_most() {
        let (start, mut rates) = (start(), Rates::new(1, 1000));
        times(&mut rates, 0, start, 500);
        for who in 1..=u32::try_from(2 * RATE_KEYS_MAX).unwrap() {
            rates.charge(&who, start);
        }
        assert_eq!(rates.used.len(), RATE_KEYS_MAX);
        assert!(rates.used.contains_key(&0));
        rates.charge(&0, start + Duration::from_secs(3600));
        assert!(rates.used.len() <= RATE_KEYS_MAX);
        rates.charge(&u32::MAX, start + Duration::from_secs(3600));
        assert_eq!(rates.used.len(), 2, "who has nothing used up is forgotten");
    }
}
