//! The document: what was measured, on what, how, and what that does not show.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use time::OffsetDateTime;

use crate::load::Effort;
use crate::plot::{self, Row};
use crate::results::{Failure, Results};
use crate::way::{NOT_TO_BE_HAD, Way};
use crate::workload::Workload;
use crate::{bars, table};

const HEAD: &str = "# Performance

Written by `cargo xtask bench`, which measures the tunnel and, in the same run, what people would use instead. All ways have the same load generator
before them and the same target behind them, everything on the loopback of one machine.

```sh
cargo xtask bench
```

`cargo xtask bench --quick` takes some minutes, writes nothing, and shows only that every way works; `--way NAME` and `--only WORKLOAD`, as often as
wanted, choose among them, and `--rounds N` says how often.

Quote the ratios. Absolute figures are those of this machine in this hour; a ratio compares two ways of the same round.

[What a session costs](session-cost.md) says where time and memory of a session go, and what a missed bar would need.
";

const LIMITS: &str = "## What this does not show

- A network. Loopback has no latency and no loss.
- Cores to spare. Load generator, target and all processes of a way share the machine, so speeds and rates are those of all of them
  together. CPU seconds are those of a way's processes alone and say more.
- Equal work. Relays neither encrypt nor authenticate. rathole and `ssh -R` have one encrypted leg where the tunnel has two, and rathole asks for no client
  certificate. HAProxy, nginx and stunnel dial from the entry to the last, so nothing of theirs lets an agent dial out. None of the peers encrypts from
  end to end, asks a policy or writes a record of each session.
- Peers at their best. They run as they come, but for what the table of ways says.
- CPU time below 10 ms, the kernel's clock: a figure under 0.2 s/GiB is good to some 5 %.
- Many agents, many clients, or days of work.
";

/// What a run is told about itself.
pub(crate) struct Run<'a> {
    /// How much was done.
    pub(crate) effort: &'a Effort,
    /// Whether it was only to see that it works.
    pub(crate) quick: bool,
    /// The congestion control, in words.
    pub(crate) congestion: &'a str,
    /// The load of the machine before it began.
    pub(crate) load_before: &'a str,
}

/// Writes the document. Its pictures are in the folder `pictures` beside it, as [`pictures`] names them.
pub(crate) fn document(run: &Run<'_>, results: &Results, pictures: &str) -> Result<String> {
    let mut text = HEAD.to_owned();
    machine(&mut text, run)?;
    ways(&mut text, results)?;
    how(&mut text, run)?;
    write!(
        text,
        "\n## What is to be reached\n\nRatios to the way that is named, median and spread over the rounds.\n\n{}",
        bars::table(results)?
    )?;
    writeln!(
        text,
        "\n## Figures\n\nEach cell is `median (min–max) ×ratio`, the ratio being the median over the rounds of figure by figure of *{}* in that round.",
        Way::BASE.title()
    )?;
    for workload in results.workloads() {
        write!(text, "\n### {}\n\n{}", workload.title(), table::of(results, workload)?)?;
        let name = workload.name();
        writeln!(text, "\n![{}]({pictures}/{name}.svg)", workload.title())?;
    }
    processes(&mut text, results)?;
    failures(&mut text, results)?;
    write!(text, "\n{LIMITS}")?;
    Ok(text)
}

/// The pictures: for each workload a name and what it draws.
pub(crate) fn pictures(results: &Results) -> Result<Vec<(String, String)>> {
    let draw = |workload: Workload| {
        let metric = *workload.metrics().first().context("a figure")?;
        let rows = results.versions.keys().filter_map(|way| {
            let spread = results.spread(workload, metric, *way)?;
            Some(Row { name: way.title(), spread, ours: way.is_tunnel() })
        });
        let title = format!("{}: {}", workload.title(), metric.title());
        Ok((format!("{}.svg", workload.name()), plot::svg(&title, &rows.collect::<Vec<_>>())?))
    };
    results.workloads().into_iter().map(draw).collect()
}

/// Writes document and pictures.
pub(crate) fn write(path: &Path, run: &Run<'_>, results: &Results) -> Result<()> {
    let folder = path.with_extension("");
    let name = folder.file_name().and_then(|name| name.to_str()).context("the name of the document")?;
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, picture) in pictures(results)? {
        fs::write(folder.join(&name), picture).with_context(|| format!("writing {name}"))?;
    }
    fs::write(path, document(run, results, name)?).with_context(|| format!("writing {}", path.display()))
}

fn ways(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\n## The ways\n\n| way | version | what it is |\n|---|---|---|")?;
    for (way, version) in &results.versions {
        writeln!(text, "| {} | {version} | {} |", way.title(), way.configuration())?;
    }
    writeln!(text, "\nNot measured:\n")?;
    for (way, reason) in &results.missing {
        writeln!(text, "- {}: {reason}", way.title())?;
    }
    for (name, reason) in NOT_TO_BE_HAD {
        writeln!(text, "- {name}: {reason}")?;
    }
    Ok(())
}

fn how(text: &mut String, run: &Run<'_>) -> Result<()> {
    let Effort { rounds, warm_up, window, sessions, idle: [few, many], rest } = run.effort;
    let quick = if run.quick { "**A quick run: the figures are worth nothing.**\n\n" } else { "" };
    writeln!(
        text,
        "\n## How\n\n{quick}{rounds} rounds; in each of them every way once, with fresh processes, one after the other and again from the start, so that what \
         else the machine does falls on all of them.\n\n\
         - **Bulk**: bytes at the receiving application during {window:?}, or as many times that as 64 MiB take, after {warm_up:?}; *down* is from the target to the driver.\n\
         - **CPU**: user and system time of the way's processes and their children; driver and target are not counted.\n\
         - **New sessions**: connect, 100 bytes there, 1 KiB back, close, for {window:?} or {sessions} of them.\n\
         - **Ping-pong**: 1 byte there and back for {window:?}, after 200 round trips that do not count.\n\
         - **Idle sessions**: growth of the resident memory of all processes, for each session, after one byte there and back and {rest:?} of rest; few are {few}, \
         many {many}."
    )?;
    Ok(())
}

fn processes(text: &mut String, results: &Results) -> Result<()> {
    writeln!(
        text,
        "\n### Process by process\n\nMedians.\n\n| workload | figure | way | processes |\n|---|---|---|---|"
    )?;
    for workload in results.workloads() {
        text.push_str(&table::by_process(results, workload)?);
    }
    Ok(())
}

fn failures(text: &mut String, results: &Results) -> Result<()> {
    if results.failures.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n### What failed\n")?;
    for Failure { way, workload, round, what } in &results.failures {
        let workload = workload.map_or("start", Workload::name);
        writeln!(text, "- {}, {workload}, round {}: {what}", way.title(), round + 1)?;
    }
    Ok(())
}

fn machine(text: &mut String, run: &Run<'_>) -> Result<()> {
    let today = OffsetDateTime::now_utc().date();
    let info = fs::read_to_string("/proc/cpuinfo").context("reading the CPU's name")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().context("counting cores")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's version")?;
    let memory = fs::read_to_string("/proc/meminfo").context("reading the size of memory")?;
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_ascii_whitespace().next()?.parse().ok())
        .context("no MemTotal")?;
    writeln!(
        text,
        "\n## The machine\n\n| | |\n|---|---|\n| date | {today} |\n| version | {} |\n| processor | {model}, {cores} cores |\n| memory | {} MiB |\n\
         | kernel | Linux {} |\n| congestion control | {} |\n| load before the run | {} |\n| build | release, thin LTO |",
        env!("CARGO_PKG_VERSION"),
        kib / 1024,
        kernel.trim(),
        run.congestion,
        run.load_before,
    )?;
    Ok(())
}

/// The load of the machine over the last minute: what else ran falls on the figures.
pub(crate) fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("reading the load")?;
    Ok(text.split_ascii_whitespace().next().context("a load")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Figure, Metric};

    fn results() -> Results {
        let mut results = Results::new(1);
        for (way, value) in [(Way::Relay2, 20.0), (Way::Tunnel, 30.0)] {
            results.versions.insert(way, "1.2".to_owned());
            results.put(0, way, Workload::Down1, vec![Figure::whole(Metric::CpuPerGib, value)]);
        }
        results.missing.insert(Way::Rathole, "rathole is not installed".to_owned());
        let what = "all of 7 sessions failed".to_owned();
        results.failures.push(Failure { way: Way::Tunnel, workload: Some(Workload::Up1), round: 0, what });
        results
    }

    fn run() -> Run<'static> {
        Run { effort: &Effort::QUICK, quick: true, congestion: "cubic", load_before: "0.01" }
    }

    #[test]
    fn the_document_names_what_was_measured_what_is_missing_and_what_failed() {
        let text = document(&run(), &results(), "performance").unwrap();
        for part in [
            "| **tunnel, end-to-end** | 30.0 (30.0–30.0) ×1.50 |",
            "- rathole, TLS: rathole is not installed",
            "- chisel: ",
            "- tunnel, end-to-end, up-1, round 1: all of 7 sessions failed",
            "| congestion control | cubic |",
            "![Bulk, one session down](performance/down-1.svg)",
            "worth nothing",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("### New sessions"), "a workload that nobody did: {text}");
    }

    #[test]
    fn every_picture_that_the_document_names_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("performance.md");
        write(&path, &run(), &results()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let named: Vec<&str> = text
            .split("![")
            .skip(1)
            .filter_map(|rest| rest.split_once("](")?.1.split_once(')'))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(named, ["performance/down-1.svg"]);
        assert!(named.iter().all(|name| dir.path().join(name).exists()));
    }
}
