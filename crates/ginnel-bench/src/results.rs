//! What was measured: figures by workload, way and round, and what failed.

use std::collections::BTreeMap;

use crate::stats::{Spread, ratio};
use crate::way::Way;
use crate::workload::{Figure, Metric, Workload};

/// Everything that a run has seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    rounds: usize,
    cells: BTreeMap<(Workload, Way), BTreeMap<usize, Vec<Figure>>>,
    /// Versions of the ways that take part, in their order.
    pub(crate) versions: BTreeMap<Way, String>,
    /// Ways that were wanted and cannot be had, with the reason.
    pub(crate) missing: BTreeMap<Way, String>,
    /// What a way could not do, in words.
    pub(crate) failures: Vec<Failure>,
}

/// Something that a way could not do.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Which way.
    pub(crate) way: Way,
    /// Doing what; nothing if it did not start.
    pub(crate) workload: Option<Workload>,
    /// In which round.
    pub(crate) round: usize,
    /// What happened.
    pub(crate) what: String,
}

impl Results {
    /// For so many rounds.
    pub(crate) fn new(rounds: usize) -> Self {
        Self { rounds, ..Self::default() }
    }

    /// Adds the figures of one workload in one round.
    pub(crate) fn put(&mut self, round: usize, way: Way, workload: Workload, figures: Vec<Figure>) {
        self.cells.entry((workload, way)).or_default().insert(round, figures);
    }

    /// The workloads that have any figure.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let has = |workload: &Workload| self.cells.keys().any(|(seen, _)| seen == workload);
        Workload::ALL.into_iter().filter(has).collect()
    }

    /// One figure by round, with gaps where it is missing.
    pub(crate) fn values(&self, workload: Workload, metric: Metric, way: Way) -> Vec<Option<f64>> {
        let figure = |round| self.figure(workload, metric, way, round).map(|figure| figure.value);
        (0..self.rounds).map(figure).collect()
    }

    /// Its median and spread.
    pub(crate) fn spread(&self, workload: Workload, metric: Metric, way: Way) -> Option<Spread> {
        Spread::of(self.values(workload, metric, way).into_iter().flatten())
    }

    /// Its ratio to that of another way, round by round.
    pub(crate) fn ratio(&self, workload: Workload, metric: Metric, way: Way, to: Way) -> Option<Spread> {
        ratio(&self.values(workload, metric, way), &self.values(workload, metric, to))
    }

    /// The medians of its processes.
    pub(crate) fn by_process(&self, workload: Workload, metric: Metric, way: Way) -> Vec<(&'static str, f64)> {
        let mut values: Vec<(&'static str, Vec<f64>)> = Vec::new();
        for figure in (0..self.rounds).filter_map(|round| self.figure(workload, metric, way, round)) {
            for (name, value) in &figure.by_process {
                match values.iter_mut().find(|(seen, _)| seen == name) {
                    Some((_, values)) => values.push(*value),
                    None => values.push((name, vec![*value])),
                }
            }
        }
        let median = |(name, values)| Spread::of(values).map(|spread| (name, spread.median));
        values.into_iter().filter_map(median).collect()
    }

    fn figure(&self, workload: Workload, metric: Metric, way: Way, round: usize) -> Option<&Figure> {
        self.cells.get(&(workload, way))?.get(&round)?.iter().find(|figure| figure.metric == metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_failed_is_a_gap_and_counts_in_no_ratio() {
        let mut results = Results::new(3);
        for (round, value) in [(0, 2.0), (2, 9.0)] {
            results.put(round, Way::Tunnel, Workload::Down1, vec![Figure::whole(Metric::Speed, value)]);
        }
        for (round, value) in [(0, 1.0), (1, 50.0), (2, 3.0)] {
            results.put(round, Way::Relay2, Workload::Down1, vec![Figure::whole(Metric::Speed, value)]);
        }
        assert_eq!(results.values(Workload::Down1, Metric::Speed, Way::Tunnel), [Some(2.0), None, Some(9.0)]);
        assert_eq!(results.ratio(Workload::Down1, Metric::Speed, Way::Tunnel, Way::Relay2).unwrap().median, 2.5);
        assert_eq!(results.spread(Workload::Down1, Metric::CpuPerGib, Way::Tunnel), None);
        assert_eq!(results.workloads(), [Workload::Down1]);
    }

    #[test]
    fn processes_have_medians_of_their_own() {
        let mut results = Results::new(3);
        for (round, value) in [1.0, 5.0, 2.0].into_iter().enumerate() {
            let figure = Figure::sum(Metric::CpuPerGib, vec![("client", value), ("server", 2.0 * value)]);
            results.put(round, Way::Tunnel, Workload::Up1, vec![figure]);
        }
        let medians = results.by_process(Workload::Up1, Metric::CpuPerGib, Way::Tunnel);
        assert_eq!(medians, [("client", 2.0), ("server", 4.0)]);
    }
}
