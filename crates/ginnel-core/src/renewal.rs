//! When to renew a certificate.
//!
//! A fleet that started in one second asks for its certificates in one second, and must not do so again: the first renewal after that comes
//! anywhere in the time that there is for it, the later ones keep their distance and drift a little.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand_core::Rng;

use crate::backoff::draw_between;

/// The first renewal of a process comes no sooner than after this part of the usual time.
const FIRST_DIVISOR: u32 = 8;

/// Attempts at a renewal that fit into what is left of a lifetime, whatever the backoff says: an outage that ends before it must not be outlasted by
/// a wait.
const ATTEMPTS_LEFT: u32 = 8;

/// No wait is cut to less than this.
const RETRY_FLOOR: Duration = Duration::from_secs(1);

/// How long to wait after a failed renewal: as long as the backoff has `drawn`, if the certificate in use lives long enough. With one that has
/// expired there is nothing left to hurry for.
pub fn retry_after(drawn: Duration, left: Duration) -> Duration {
    match left {
        Duration::ZERO => drawn,
        left => drawn.min((left / ATTEMPTS_LEFT).max(RETRY_FLOOR)),
    }
}

/// A part of a whole, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Makes one of at most 100.
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }

    fn of(self, whole: Duration) -> Duration {
        // Divided first, because the whole may be the longest that there is; what that loses is far below a millisecond.
        (whole / 100) * u32::from(self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// The text is no whole percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part is written as a whole number of percent, such as 33%")]
pub struct InvalidPercent;

impl FromStr for Percent {
    type Err = InvalidPercent;

    fn from_str(text: &str) -> Result<Self, InvalidPercent> {
        let digits = text.strip_suffix('%').ok_or(InvalidPercent)?;
        let is_plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let number = if is_plain { digits.parse().ok() } else { None };
        number.and_then(Self::new).ok_or(InvalidPercent)
    }
}

/// After which part of its lifetime a certificate is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    at: Percent,
    jitter: Percent,
}

impl Renewal {
    /// The parts of a lifetime that can be chosen. Earlier is no renewal but a load; later leaves less than a quarter for a server that is
    /// away, with the most jitter that there can be.
    pub const AT: (Percent, Percent) = (Percent(10), Percent(60));

    /// The jitter that can be chosen, as a part of the time until the renewal.
    pub const JITTER: (Percent, Percent) = (Percent(0), Percent(25));

    /// A third, a tenth of that more or less: two thirds of the lifetime are left for a server that is away.
    pub const DEFAULT: Self = Self { at: Percent(33), jitter: Percent(10) };

    /// Renews after `at` of a lifetime, `jitter` of that more or less; `None` outside of [`Self::AT`] and [`Self::JITTER`].
    pub fn new(at: Percent, jitter: Percent) -> Option<Self> {
        let is_within = |value: Percent, (least, most): (Percent, Percent)| (least..=most).contains(&value);
        (is_within(at, Self::AT) && is_within(jitter, Self::JITTER)).then_some(Self { at, jitter })
    }

    /// Draws how long after its issue a certificate of this lifetime is renewed, if the one before it was renewed in time as well.
    pub fn next(&self, lifetime: Duration, rng: &mut impl Rng) -> Duration {
        let (least, most) = self.bounds(lifetime);
        draw_between(least, most, rng)
    }

    /// The same for a certificate that came at a moment which others may have had as well: at the start of the process, or when a server
    /// was back. From anywhere in the time that there is, so that they part.
    pub fn first(&self, lifetime: Duration, rng: &mut impl Rng) -> Duration {
        let (_, most) = self.bounds(lifetime);
        draw_between(self.at.of(lifetime) / FIRST_DIVISOR, most, rng)
    }

    fn bounds(&self, lifetime: Duration) -> (Duration, Duration) {
        let middle = self.at.of(lifetime);
        let jitter = self.jitter.of(middle);
        (middle - jitter, middle + jitter)
    }
}

impl Default for Renewal {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;
    use crate::backoff::tests::SplitMix;

    fn percent(text: &str) -> Percent {
        text.parse().unwrap()
    }

    #[test]
    fn percentages_have_one_spelling() {
        for text in ["0%", "1%", "33%", "100%"] {
            assert_eq!(percent(text).to_string(), text);
        }
        for text in ["", "%", "33", "101%", "256%", "1000%", "-1%", "+1%", "3.5%", " 3%", "3 %", "3%%"] {
            assert_eq!(text.parse::<Percent>(), Err(InvalidPercent), "{text}");
        }
    }

    #[test]
    fn leaves_a_quarter_of_the_lifetime_whatever_is_chosen() {
        let mut rng = SplitMix(3);
        let lifetimes = [1, 2, 3, 10, 3_600, 86_400].map(Duration::from_secs);
        for (at, jitter) in [("33%", "10%"), ("10%", "0%"), ("10%", "25%"), ("60%", "0%"), ("60%", "25%")] {
            let renewal = Renewal::new(percent(at), percent(jitter)).unwrap();
            for lifetime in lifetimes.into_iter().chain([Duration::from_millis(1), Duration::MAX]) {
                for _ in 0..1_000 {
                    let (first, next) = (renewal.first(lifetime, &mut rng), renewal.next(lifetime, &mut rng));
                    assert!(first.max(next) <= lifetime / 4 * 3, "{at} {jitter} {lifetime:?}: {first:?} {next:?}");
                    assert!(first >= lifetime / 100 && next >= lifetime / 100 * 7, "{at} {jitter} {lifetime:?}");
                }
            }
            assert_eq!(renewal.next(Duration::ZERO, &mut rng), Duration::ZERO);
        }
        for (at, jitter) in [("9%", "10%"), ("61%", "10%"), ("33%", "26%")] {
            assert_eq!(Renewal::new(percent(at), percent(jitter)), None);
        }
        assert_eq!(Renewal::new(percent("33%"), percent("10%")), Some(Renewal::DEFAULT));
    }

    #[test]
    fn waits_after_a_failure_no_longer_than_the_certificate_allows() {
        let seconds = Duration::from_secs;
        for (drawn, left, expected) in [(30, 86_400, 30), (30, 80, 10), (3, 80, 3), (30, 4, 1), (30, 0, 30)] {
            assert_eq!(retry_after(seconds(drawn), seconds(left)), seconds(expected), "{drawn} {left}");
        }
    }

    #[test]
    fn uses_the_whole_range_of_the_jitter() {
        let (mut rng, life) = (SplitMix(5), Duration::from_secs(100));
        let drawn: Vec<_> = (0..1_000).map(|_| Renewal::DEFAULT.next(life, &mut rng)).collect();
        let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!(*least >= Duration::from_millis(29_700) && *least < Duration::from_millis(29_750), "{least:?}");
        assert!(*most <= Duration::from_millis(36_300) && *most > Duration::from_millis(36_250), "{most:?}");
        let steady = Renewal::new(percent("50%"), percent("0%")).unwrap();
        assert_eq!(steady.next(life, &mut rng), Duration::from_secs(50));
    }

    /// How often the fleet renews in each unit of time, from the first renewal that everybody has had on.
    fn renewals(fleet: u64, lifetime: Duration, until: Duration, unit: Duration, rng: &mut SplitMix) -> Vec<u32> {
        let renewal = Renewal::DEFAULT;
        let unit_of = |at: Duration| usize::try_from(at.as_nanos() / unit.as_nanos()).unwrap();
        let mut counts = vec![0; unit_of(until)];
        // The whole fleet gets its first certificates within one second.
        let started = (0..fleet)
            .map(|index| Duration::from_secs(1) * u32::try_from(index).unwrap() / u32::try_from(fleet).unwrap());
        let mut due: BinaryHeap<_> = started.map(|at| Reverse(at + renewal.first(lifetime, rng))).collect();
        while let Some(Reverse(at)) = due.pop().filter(|Reverse(at)| *at < until) {
            counts[unit_of(at)] += 1;
            due.push(Reverse(at + renewal.next(lifetime, rng)));
        }
        counts
    }

    #[test]
    fn a_fleet_that_started_in_one_second_never_renews_in_step() {
        // What is asked in a unit of time is a matter of chance too: with a day's lifetime a fleet of 10,000 renews every third second, and
        // only minutes can be compared.
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        for (minutes, unit, seed) in
            [(30, second, 1), (30, second, 2), (60, second, 3), (24 * 60, minute, 4), (24 * 60, minute, 5)]
        {
            let lifetime = minutes * minute;
            let counts = renewals(10_000, lifetime, lifetime * 4, unit, &mut SplitMix(seed));
            let total: u32 = counts.iter().sum();
            assert!(total > 100_000, "{total}");
            let mean = f64::from(total) / counts.len() as f64;
            let most = counts.iter().max().copied().unwrap();
            assert!(f64::from(most) <= 3.0 * mean, "{minutes} min: {most} at once, {mean} in the mean");
        }
    }
}
