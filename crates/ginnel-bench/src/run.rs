//! A run: every way in turn, round after round.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{self, Effort, Outcome, Subject};
use crate::process::{self, Started};
use crate::results::{Failure, Results};
use crate::way::{Ground, Running, Way};
use crate::workload::{Metric, Workload};

/// Between two workloads: what the first has left under way ends.
const SETTLE: Duration = Duration::from_millis(200);

/// The order in which workloads are done to one set of processes: what leaves nothing behind comes first.
const ORDER: [Workload; 8] = [
    Workload::Ping,
    Workload::Sessions1,
    Workload::Sessions64,
    Workload::Down1,
    Workload::Up1,
    Workload::Down16,
    Workload::Up16,
    Workload::PingBeside,
];

/// Measures the ways that can be had. What one cannot do is noted and does not end the run.
pub(crate) async fn run(ground: &Ground, ways: &[Way], workloads: &[Workload], effort: &Effort) -> Result<Results> {
    let mut results = Results::new(effort.rounds);
    for way in ways {
        match way.version(ground).await {
            Ok(version) => drop(results.versions.insert(*way, version)),
            Err(reason) => {
                eprintln!("missing: {}: {reason:#}", way.title());
                results.missing.insert(*way, format!("{reason:#}"));
            }
        }
    }
    let chosen = |workload: &Workload| workloads.contains(workload);
    let together: Vec<Workload> = ORDER.into_iter().filter(chosen).collect();
    // Buffers that work leaves behind would hide what idle sessions cost, so those have processes of their own.
    let alone: Vec<Workload> = [Workload::Idle].into_iter().filter(chosen).collect();
    for round in 0..effort.rounds {
        for way in results.versions.keys().copied().collect::<Vec<_>>() {
            eprintln!("round {} of {}: {}", round + 1, effort.rounds, way.title());
            for workloads in [&together, &alone] {
                one(ground, way, round, workloads, effort, &mut results).await;
            }
        }
    }
    Ok(results)
}

/// Does workloads to one way. One that fails may have left anything behind, so the next has fresh processes.
async fn one(ground: &Ground, way: Way, round: usize, workloads: &[Workload], effort: &Effort, results: &mut Results) {
    let mut place: Option<(Running, Started)> = None;
    for workload in workloads.iter().copied() {
        // Nothing lies between driver and target that could have memory of its own.
        if way == Way::Direct && workload == Workload::Idle {
            continue;
        }
        let fail = |results: &mut Results, workload: Option<Workload>, error: &anyhow::Error| {
            let what = format!("{error:#}");
            eprintln!("  failed: {}, {}: {what}", way.title(), workload.map_or("start", Workload::name));
            results.failures.push(Failure { way, workload, round, what });
        };
        let (running, host) = match place.take() {
            Some(place) => place,
            None => match start(ground, way).await {
                Ok(place) => place,
                Err(error) => return fail(results, None, &error),
            },
        };
        let subject = Subject { entrance: running.entrance, target: host.address, processes: &running.processes };
        match load::measure(subject, workload, effort).await {
            Ok(Outcome { mut figures, flaw }) => {
                if subject.processes.is_empty() {
                    figures.retain(|figure| !of_processes(figure.metric));
                }
                results.put(round, way, workload, figures);
                match flaw {
                    None => place = Some((running, host)),
                    Some(flaw) => fail(results, Some(workload), &anyhow::Error::msg(flaw)),
                }
            }
            Err(error) => fail(results, Some(workload), &error),
        }
        tokio::time::sleep(SETTLE).await;
    }
    if let Some((running, mut host)) = place
        && let Err(error) = running.finish().and_then(|()| host.daemon.check())
    {
        let what = format!("{error:#}");
        eprintln!("  failed: {}, end: {what}", way.title());
        results.failures.push(Failure { way, workload: None, round, what });
    }
}

/// A target of its own keeps connections that one way has left in the kernel from the next.
async fn start(ground: &Ground, way: Way) -> Result<(Running, Started)> {
    let far = &ground.topology.far;
    let host = process::start(far, "host", &["host", &far.ip.to_string()]).await?;
    let running = way.start(ground, host.address).await.with_context(|| way.title())?;
    Ok((running, host))
}

/// Whether a figure is of the way's processes, and says nothing where there are none.
fn of_processes(metric: Metric) -> bool {
    match metric {
        Metric::CpuPerGib | Metric::CpuPerSession | Metric::CpuPerPing | Metric::MemoryFew | Metric::MemoryMany => true,
        Metric::Speed
        | Metric::SessionRate
        | Metric::SessionP50
        | Metric::SessionP99
        | Metric::PingP50
        | Metric::PingP99 => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_place_in_the_order() {
        let missing: Vec<_> = Workload::ALL.into_iter().filter(|workload| !ORDER.contains(workload)).collect();
        assert_eq!(missing, [Workload::Idle]);
    }
}
