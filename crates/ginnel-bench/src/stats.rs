//! The arithmetic of figures: percentiles of one round, medians and spreads over rounds, ratios round by round.

use std::time::Duration;

/// The time below which a share, in per cent, of the times lies; a time that was measured, or nothing if none was.
pub(crate) fn percentile(times: &mut [Duration], share: usize) -> Option<Duration> {
    times.sort_unstable();
    times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied()
}

/// A median with its smallest and largest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The middle value, the mean of the middle two if there are two.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Nothing if there is no value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

/// Figure by base of the same round, the median and spread of that over the rounds that have both.
///
/// Rounds are compared one by one because the machine is not equally fast in all of them.
pub(crate) fn ratio(figure: &[Option<f64>], base: &[Option<f64>]) -> Option<Spread> {
    let both = figure.iter().zip(base).filter_map(|(figure, base)| Some(((*figure)?, (*base)?)));
    // A base of nothing is a figure below what the clock resolves, and a ratio to it says nothing.
    Spread::of(both.filter(|(_, base)| *base > 0.0).map(|(figure, base)| figure / base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times.clone(), 50), Some(Duration::from_millis(51)));
        assert_eq!(percentile(&mut times.clone(), 99), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&mut [], 50), None);
    }

    #[test]
    fn a_spread_is_of_the_middle_and_the_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 200.0]), Some(Spread { median: 3.0, min: 1.0, max: 200.0 }));
        assert_eq!(Spread::of([4.0, 2.0]), Some(Spread { median: 3.0, min: 2.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round was on a machine of half the speed; the way costs twice the base in each.
        let figure = [Some(2.0), Some(4.0), None, Some(9.0)];
        let base = [Some(1.0), Some(2.0), Some(7.0), None];
        assert_eq!(ratio(&figure, &base), Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
        assert_eq!(ratio(&[], &[]), None);
    }
}
