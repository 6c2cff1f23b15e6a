//! What is done to a way, and the figures that come of it.

use anyhow::{Context, Result};

/// What is done to a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Workload {
    /// One session, the target sends.
    Down1,
    /// One session, the driver sends.
    Up1,
    /// Sixteen sessions, the target sends.
    Down16,
    /// Sixteen sessions, the driver sends.
    Up16,
    /// New sessions, one at a time.
    Sessions1,
    /// New sessions, 64 at once.
    Sessions64,
    /// One byte there and back, nothing else under way.
    Ping,
    /// The same beside a session that carries as much as it can.
    PingBeside,
    /// Sessions that are left alone.
    Idle,
}

impl Workload {
    /// All of them, in the order of the document.
    pub(crate) const ALL: [Self; 9] = [
        Self::Down1,
        Self::Up1,
        Self::Down16,
        Self::Up16,
        Self::Sessions1,
        Self::Sessions64,
        Self::Ping,
        Self::PingBeside,
        Self::Idle,
    ];

    /// Those that move bytes.
    pub(crate) const BULK: [Self; 4] = [Self::Down1, Self::Up1, Self::Down16, Self::Up16];

    /// What `--only` calls it, and what its plots are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Down1 => "down-1",
            Self::Up1 => "up-1",
            Self::Down16 => "down-16",
            Self::Up16 => "up-16",
            Self::Sessions1 => "sessions-1",
            Self::Sessions64 => "sessions-64",
            Self::Ping => "ping",
            Self::PingBeside => "ping-beside",
            Self::Idle => "idle",
        }
    }

    /// The heading of its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Down1 => "Bulk, one session down",
            Self::Up1 => "Bulk, one session up",
            Self::Down16 => "Bulk, 16 sessions down",
            Self::Up16 => "Bulk, 16 sessions up",
            Self::Sessions1 => "New sessions, one at a time",
            Self::Sessions64 => "New sessions, 64 at once",
            Self::Ping => "Ping-pong, alone",
            Self::PingBeside => "Ping-pong beside one bulk session down",
            Self::Idle => "Memory per idle session",
        }
    }

    /// The figures that it gives; the first is the one that is drawn.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Down1 | Self::Up1 | Self::Down16 | Self::Up16 => &[Metric::CpuPerGib, Metric::Speed],
            Self::Sessions1 | Self::Sessions64 => {
                &[Metric::SessionRate, Metric::SessionP50, Metric::SessionP99, Metric::CpuPerSession]
            }
            Self::Ping => &[Metric::PingP50, Metric::PingP99, Metric::CpuPerPing],
            Self::PingBeside => &[Metric::PingP50, Metric::PingP99],
            Self::Idle => &[Metric::MemoryMany, Metric::MemoryFew],
        }
    }

    /// Finds one by its name.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
            .with_context(|| format!("no workload {name:?}; there are {}", names()))
    }
}

/// A figure of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Bytes that arrived in a second.
    Speed,
    /// CPU time of the way's processes for a GiB that arrived.
    CpuPerGib,
    /// Sessions in a second.
    SessionRate,
    /// Median time of a session.
    SessionP50,
    /// 99th percentile of it.
    SessionP99,
    /// CPU time of the way's processes for a session.
    CpuPerSession,
    /// Median round trip.
    PingP50,
    /// 99th percentile of it.
    PingP99,
    /// CPU time of the way's processes for a round trip.
    CpuPerPing,
    /// Memory of a session where there are few.
    MemoryFew,
    /// Memory of a session where there are many.
    MemoryMany,
}

impl Metric {
    /// The head of its column, with the unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Speed => "MB/s",
            Self::CpuPerGib => "CPU s/GiB",
            Self::SessionRate => "sessions/s",
            Self::SessionP50 => "p50, ms",
            Self::SessionP99 => "p99, ms",
            Self::CpuPerSession => "CPU ms/session",
            Self::PingP50 => "p50, µs",
            Self::PingP99 => "p99, µs",
            Self::CpuPerPing => "CPU µs/round trip",
            Self::MemoryFew => "KiB, few sessions",
            Self::MemoryMany => "KiB, many sessions",
        }
    }

    /// Whether it is shown process by process as well.
    pub(crate) fn by_process(self) -> bool {
        match self {
            Self::CpuPerGib | Self::MemoryMany => true,
            Self::Speed
            | Self::SessionRate
            | Self::SessionP50
            | Self::SessionP99
            | Self::CpuPerSession
            | Self::PingP50
            | Self::PingP99
            | Self::CpuPerPing
            | Self::MemoryFew => false,
        }
    }
}

/// A figure of one round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// Which.
    pub(crate) metric: Metric,
    /// Its value for the way as a whole.
    pub(crate) value: f64,
    /// Its value for each process, where that has a meaning.
    pub(crate) by_process: Vec<(&'static str, f64)>,
}

impl Figure {
    /// A figure of a way as a whole.
    pub(crate) fn whole(metric: Metric, value: f64) -> Self {
        Self { metric, value, by_process: Vec::new() }
    }

    /// A figure that is the sum of those of its processes.
    pub(crate) fn sum(metric: Metric, by_process: Vec<(&'static str, f64)>) -> Self {
        Self { metric, value: by_process.iter().map(|(_, value)| value).sum(), by_process }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_found_by_its_name() {
        for workload in Workload::ALL {
            assert_eq!(Workload::parse(workload.name()).unwrap(), workload);
            assert!(!workload.metrics().is_empty());
        }
        assert!(Workload::parse("down").unwrap_err().to_string().contains("down-16"));
    }

    #[test]
    fn a_sum_is_that_of_its_processes() {
        let figure = Figure::sum(Metric::CpuPerGib, vec![("client", 1.5), ("server", 0.5)]);
        assert_eq!(figure.value, 2.0);
    }
}
