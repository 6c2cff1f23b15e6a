//! When to renew a certificate.

use std::time::Duration;

use rand_core::Rng;

use crate::backoff::draw_between;

/// Share of the lifetime after which a certificate is renewed: two thirds are left for a server that is away.
const RENEW_AFTER_DIVISOR: u32 = 3;

/// The jitter either way is the renewal time divided by this, so that a fleet that started together does not stay
/// together.
const JITTER_DIVISOR: u32 = 10;

/// Draws how long after its issue a certificate of this lifetime is renewed: a third of the lifetime, a tenth of that
/// more or less.
pub fn renew_after(lifetime: Duration, rng: &mut impl Rng) -> Duration {
    let middle = lifetime / RENEW_AFTER_DIVISOR;
    let jitter = middle / JITTER_DIVISOR;
    draw_between(middle - jitter, middle + jitter, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::tests::SplitMix;

    #[test]
    fn renews_around_a_third_of_the_lifetime_and_never_after_half() {
        let mut rng = SplitMix(3);
        let lifetimes = [1, 2, 3, 10, 3_600, 86_400].map(Duration::from_secs);
        for lifetime in lifetimes.into_iter().chain([Duration::from_millis(1), Duration::from_nanos(7), Duration::MAX])
        {
            for _ in 0..1_000 {
                let after = renew_after(lifetime, &mut rng);
                assert!(after < lifetime / 2, "{lifetime:?}: {after:?}");
                assert!(after >= lifetime / 10 * 2, "{lifetime:?}: {after:?}");
            }
        }
        assert_eq!(renew_after(Duration::ZERO, &mut rng), Duration::ZERO);
    }

    #[test]
    fn uses_the_whole_range_of_the_jitter() {
        let mut rng = SplitMix(5);
        let drawn: Vec<_> = (0..1_000).map(|_| renew_after(Duration::from_secs(30), &mut rng)).collect();
        let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(9) && *least < Duration::from_millis(9_050), "{least:?}");
        assert!(*most <= Duration::from_secs(11) && *most > Duration::from_millis(10_950), "{most:?}");
    }
}
