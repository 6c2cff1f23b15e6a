//! What the project has set itself to reach, as ratios within one run, and whether this run reached it.

use std::fmt::Write as _;

use anyhow::Result;

use crate::results::Results;
use crate::stats::Spread;
use crate::table::short;
use crate::way::Way;
use crate::workload::{Metric, Workload};

/// On which side of the bar a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    AtMost,
    AtLeast,
}

impl Side {
    fn met(self, figure: f64, bar: f64) -> bool {
        match self {
            Self::AtMost => figure <= bar,
            Self::AtLeast => figure >= bar,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::AtMost => "≤",
            Self::AtLeast => "≥",
        }
    }
}

/// One bar, for the tunnel without and with encryption from end to end.
struct Bar {
    what: &'static str,
    metric: Metric,
    /// Where there are several, each of them has to meet it.
    workloads: &'static [Workload],
    /// A ratio to this way, or the figure itself.
    to: Option<Way>,
    side: Side,
    outer: f64,
    inner: f64,
}

const CPU: &str = "CPU s/GiB, all processes";
const RATE: &str = "new sessions/s, 64 at once";

const fn cpu(to: Way, outer: f64, inner: f64) -> Bar {
    let to = Some(to);
    Bar { what: CPU, metric: Metric::CpuPerGib, workloads: &Workload::BULK, to, side: Side::AtMost, outer, inner }
}

const fn rate(to: Way, outer: f64, inner: f64) -> Bar {
    let (to, workloads) = (Some(to), &[Workload::Sessions64]);
    Bar { what: RATE, metric: Metric::SessionRate, workloads, to, side: Side::AtLeast, outer, inner }
}

const fn ping(
    what: &'static str,
    metric: Metric,
    workload: &'static [Workload],
    to: Way,
    outer: f64,
    inner: f64,
) -> Bar {
    Bar { what, metric, workloads: workload, to: Some(to), side: Side::AtMost, outer, inner }
}

const BARS: [Bar; 14] = [
    cpu(Way::Relay3, 2.1, 2.7),
    cpu(Way::TlsPerSession, 1.15, 1.45),
    cpu(Way::Haproxy, 0.70, 0.95),
    cpu(Way::Nginx, 0.80, 1.05),
    cpu(Way::Stunnel, 0.60, 0.80),
    cpu(Way::Rathole, 0.90, 1.25),
    rate(Way::Relay2, 0.90, 0.25),
    rate(Way::Rathole, 12.0, 3.5),
    rate(Way::Haproxy, 14.0, 4.0),
    rate(Way::SshR, 1.2, 0.35),
    ping("ping-pong p50", Metric::PingP50, &[Workload::Ping], Way::Relay2, 1.5, 1.6),
    ping("ping-pong p99", Metric::PingP99, &[Workload::Ping], Way::Relay2, 1.6, 1.7),
    ping("ping-pong p50 beside one bulk session", Metric::PingP50, &[Workload::PingBeside], Way::Rathole, 2.0, 2.0),
    Bar {
        what: "KiB per idle session, three processes, many sessions",
        metric: Metric::MemoryMany,
        workloads: &[Workload::Idle],
        to: None,
        side: Side::AtMost,
        outer: 12.0,
        inner: 45.0,
    },
];

/// The table of bars: a figure that this run did not take is said to be open.
pub(crate) fn table(results: &Results) -> Result<String> {
    let mut text = String::from(
        "| figure | to | workload | bar, without end-to-end | measured | | bar, with end-to-end | measured | |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for bar in &BARS {
        let Bar { what, to, side, .. } = bar;
        let sign = side.sign();
        for workload in bar.workloads {
            let to = to.map_or("–", Way::title);
            let [outer, inner] = [(Way::TunnelOuter, bar.outer), (Way::Tunnel, bar.inner)].map(|(way, limit)| {
                let [measured, verdict] = judge(bar, figure(results, bar, *workload, way), limit);
                format!("{sign} {limit} | {measured} | {verdict}")
            });
            writeln!(text, "| {what} | {to} | {} | {outer} | {inner} |", workload.name())?;
        }
    }
    Ok(text)
}

fn figure(results: &Results, bar: &Bar, workload: Workload, way: Way) -> Option<Spread> {
    match bar.to {
        Some(to) => results.ratio(workload, bar.metric, way, to),
        None => results.spread(workload, bar.metric, way),
    }
}

fn judge(bar: &Bar, figure: Option<Spread>, limit: f64) -> [String; 2] {
    match figure {
        None => ["–", "open"].map(str::to_owned),
        Some(spread) => {
            let measured = format!("{} ({}–{})", short(spread.median), short(spread.min), short(spread.max));
            let verdict = if bar.side.met(spread.median, limit) { "met" } else { "**not met**" };
            [measured, verdict.to_owned()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Figure;

    fn results(tunnel: f64) -> Results {
        let mut results = Results::new(1);
        for (way, value) in [(Way::Tunnel, tunnel), (Way::Relay3, 1.0)] {
            results.put(0, way, Workload::Down1, vec![Figure::whole(Metric::CpuPerGib, value)]);
        }
        results
    }

    fn row(results: &Results) -> String {
        let text = table(results).unwrap();
        text.lines().find(|line| line.contains("plain relay, 3 hops | down-1")).unwrap().to_owned()
    }

    #[test]
    fn a_bar_is_met_on_its_own_side_only() {
        assert!(row(&results(2.7)).ends_with("| ≤ 2.1 | – | open | ≤ 2.7 | 2.70 (2.70–2.70) | met |"));
        assert!(row(&results(2.71)).ends_with("| 2.71 (2.71–2.71) | **not met** |"));
        assert!(Side::AtLeast.met(1.0, 0.9) && !Side::AtLeast.met(0.8, 0.9));
    }

    #[test]
    fn every_bar_of_every_workload_has_a_row() {
        let rows: usize = BARS.iter().map(|bar| bar.workloads.len()).sum();
        assert_eq!(table(&Results::new(1)).unwrap().lines().count(), 2 + rows);
    }
}
