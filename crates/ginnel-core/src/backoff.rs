//! When to try again.
//!
//! Full jitter: thousands of agents that lost one server at the same moment come back spread over the whole delay,
//! not in step.

use std::time::Duration;

use rand_core::Rng;

/// Doublings after which the delay grows no further; any cap in use is reached long before.
const DOUBLINGS_MAX: u32 = 31;

/// The delays between attempts at one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// For connections to a server: half a second to begin with, so that a restart is hardly noticed; at most 30 s,
    /// so that ten thousand agents make a few hundred attempts a second and all are back within a minute.
    pub const RECONNECT: Self = Self::new(Duration::from_millis(500), Duration::from_secs(30));

    /// Delays of up to `base` at first, doubled with every failure, never more than `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// Draws the delay before the next attempt, from nothing to the bound that the failures so far have led to.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let bound = self.base.saturating_mul(1 << self.failures).min(self.cap);
        self.failures = (self.failures + 1).min(DOUBLINGS_MAX);
        draw_between(Duration::ZERO, bound, rng)
    }

    /// Begins anew; to be called when an attempt has proved itself, not when it was merely accepted.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Draws a duration from `least` to `most`, each as likely as any other. What lies more than some 584 years apart is
/// drawn as if it were that.
/// Draws between three quarters of a time and all of it, so that many who do something at that pace do not do it in step.
pub fn spread(most: Duration, rng: &mut impl Rng) -> Duration {
    draw_between(most / 4 * 3, most, rng)
}

pub(crate) fn draw_between(least: Duration, most: Duration, rng: &mut impl Rng) -> Duration {
    let span = most.saturating_sub(least).as_nanos();
    least + Duration::from_nanos(draw_up_to(u64::try_from(span).unwrap_or(u64::MAX), rng))
}

/// Draws a number from 0 to `last`, each as likely as any other.
///
/// Taking the high half of a product needs one draw; the bias is below `last` in 2^64, which nobody can see.
pub(crate) fn draw_up_to(last: u64, rng: &mut impl Rng) -> u64 {
    let product = u128::from(rng.next_u64()) * (u128::from(last) + 1);
    u64::try_from(product >> 64).unwrap_or(last)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use rand_core::TryRng;

    use super::*;

    /// A small generator with the same numbers in every run.
    pub(crate) struct SplitMix(pub(crate) u64);

    impl TryRng for SplitMix {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            self.try_next_u64().map(|number| u32::try_from(number >> 32).unwrap())
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Ok(mixed ^ (mixed >> 31))
        }

        fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
            for chunk in dst.chunks_mut(8) {
                let bytes = self.try_next_u64()?.to_le_bytes();
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            }
            Ok(())
        }
    }

    /// Always the greatest number, or always the least.
    struct Constant(u64);

    impl TryRng for Constant {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            Ok(u32::try_from(self.0 >> 32).unwrap())
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            Ok(self.0)
        }

        fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
            dst.fill(self.0.to_le_bytes()[0]);
            Ok(())
        }
    }

    #[test]
    fn bounds_double_up_to_the_cap_and_start_again_after_a_reset() {
        let mut backoff = Backoff::RECONNECT;
        let bounds = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].map(Duration::from_millis);
        assert_eq!(bounds.map(|_| backoff.next(&mut Constant(u64::MAX))), bounds);
        for _ in 0..1_000 {
            assert_eq!(backoff.next(&mut Constant(u64::MAX)), Duration::from_secs(30));
        }
        backoff.reset();
        assert_eq!(backoff.next(&mut Constant(u64::MAX)), Duration::from_millis(500));
    }

    #[test]
    fn jitter_is_full() {
        let (mut backoff, mut rng) = (Backoff::new(Duration::from_secs(10), Duration::from_secs(10)), SplitMix(1));
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let delay = backoff.next(&mut rng);
            tenths[usize::try_from(delay.as_secs()).unwrap().min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1_150).contains(count)), "{tenths:?}");
        assert_eq!(backoff.next(&mut Constant(0)), Duration::ZERO);
    }

    #[test]
    fn draws_reach_both_ends_and_never_beyond() {
        for last in [0, 1, 2, 1_000, u64::MAX] {
            assert_eq!(draw_up_to(last, &mut Constant(0)), 0);
            assert_eq!(draw_up_to(last, &mut Constant(u64::MAX)), last);
        }
        let mut rng = SplitMix(2);
        assert!((0..1_000).all(|_| draw_up_to(2, &mut rng) <= 2));
    }

    #[test]
    fn a_storm_of_agents_comes_back_spread_out() {
        let mut rng = SplitMix(9);
        let mut seconds = [0_u32; 31];
        for _ in 0..10_000 {
            let mut backoff = Backoff::RECONNECT;
            for _ in 0..8 {
                backoff.next(&mut rng);
            }
            seconds[usize::try_from(backoff.next(&mut rng).as_secs()).unwrap()] += 1;
        }
        assert!(seconds.iter().all(|&count| count < 500), "{seconds:?}");
    }
}
