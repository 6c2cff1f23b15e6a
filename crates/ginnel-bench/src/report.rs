//! The document: what was measured, on what, and what that does not show.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use time::OffsetDateTime;

use crate::load::{Effort, Figure, Figures};
use crate::way::Way;

const HEAD: &str = "# Performance

Written by `cargo xtask bench`, which measures the tunnel and, in the same run, a plain relay: two processes that copy bytes between TCP
connections, with buffers of 64 KiB, and do nothing else. Both ways have the same load generator before them and the same target behind them, everything on the
loopback of one machine.

```sh
cargo xtask bench
```

`cargo xtask bench --quick` takes some seconds, writes nothing, and shows only that the measurement works.
";

const LIMITS: &str = "## What this does not show

- A network. Loopback has no latency and no loss; a session through the tunnel needs more round trips to open than one through a relay.
- Cores to spare. Load generator, target and all processes of a way share the machine, so speeds and rates are those of all of them
  together. CPU seconds are each process's own and say more.
- Equal work. The relay neither encrypts nor authenticates, asks no policy and writes no record; the tunnel encrypts every byte twice
  between client and server, and again between server and agent. The ratio says what that costs.
- Other programs of the kind.
- Many agents, many clients, or days of work.
";

/// Writes the document from the rounds of all ways.
pub(crate) fn document(effort: &Effort, quick: bool, rounds: &[Vec<Figures>; Way::ALL.len()]) -> Result<String> {
    let medians: Vec<Figures> = rounds.iter().map(|rounds| median_of(rounds)).collect::<Result<_>>()?;
    let mut text = HEAD.to_owned();
    machine(&mut text)?;
    let quick = if quick { "A quick run: the figures are worth nothing.\n\n" } else { "" };
    writeln!(
        text,
        "\n## Figures\n\n{quick}Medians of {} rounds, each with fresh processes, the ways in turn. {} MiB in each direction, {} sessions one at a \
         time, {} with 64 at once, {} round trips, {} idle sessions. A new session counts from the connection to the first byte that came \
         back from the target; CPU time is user and system together, memory is the proportional set size.\n",
        effort.rounds,
        effort.bytes >> 20,
        effort.sessions,
        effort.sessions_many,
        effort.pings,
        effort.idle,
    )?;
    compared(&mut text, &medians)?;
    writeln!(text, "\nOf these, each process:\n\n| what | process | value |\n|---|---|---|")?;
    for (way, figures) in Way::ALL.into_iter().zip(&medians) {
        for Figure { name, process, value } in figures {
            if let Some(process) = process {
                writeln!(text, "| {name} | {}: {process} | {} |", way.name(), short(*value))?;
            }
        }
    }
    write!(text, "\n{LIMITS}")?;
    Ok(text)
}

fn compared(text: &mut String, medians: &[Figures]) -> Result<()> {
    let names: Vec<&str> = Way::ALL.into_iter().map(Way::name).collect();
    let (last, others) = names.split_last().context("a way")?;
    let ratios: Vec<String> = others.iter().map(|name| format!("{name} / {last}")).collect();
    let head: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(ratios).collect();
    writeln!(text, "| what | {} |\n|---|{}", head.join(" | "), "---|".repeat(head.len()))?;
    let whole = |figures: &Figures| -> Vec<(&'static str, f64)> {
        figures.iter().filter(|figure| figure.process.is_none()).map(|figure| (figure.name, figure.value)).collect()
    };
    let columns: Vec<_> = medians.iter().map(whole).collect();
    for (row, (name, _)) in columns.first().context("a way")?.iter().enumerate() {
        let values: Vec<f64> = columns.iter().filter_map(|column| column.get(row)).map(|(_, value)| *value).collect();
        let (base, others) = values.split_last().context("a value")?;
        // The relay's figure can be next to nothing, and a ratio to that says nothing.
        let ratio = |value: &f64| if *base > 0.0 { format!("{:.2}", value / base) } else { "–".to_owned() };
        let cells: Vec<String> = values.iter().map(|value| short(*value)).chain(others.iter().map(ratio)).collect();
        writeln!(text, "| {name} | {} |", cells.join(" | "))?;
    }
    Ok(())
}

/// The median of each figure over the rounds.
fn median_of(rounds: &[Figures]) -> Result<Figures> {
    let first = rounds.first().context("a round")?;
    let median = |(place, figure): (usize, &Figure)| {
        let mut values: Vec<f64> =
            rounds.iter().filter_map(|figures| figures.get(place)).map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        let value = values.get(values.len() / 2).copied().context("a value")?;
        Ok(Figure { value, ..figure.clone() })
    };
    first.iter().enumerate().map(median).collect()
}

/// Three figures that matter, or whole numbers.
fn short(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn machine(text: &mut String) -> Result<()> {
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
         | kernel | Linux {} |\n| build | release, thin LTO |",
        env!("CARGO_PKG_VERSION"),
        kib / 1024,
        kernel.trim(),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(value: f64) -> Figures {
        vec![
            Figure { name: "speed", process: None, value },
            Figure { name: "speed", process: Some("one"), value: 2.0 * value },
        ]
    }

    #[test]
    fn medians_are_taken_figure_by_figure() {
        let median = median_of(&[round(3.0), round(1.0), round(200.0)]).unwrap();
        assert_eq!((median[0].value, median[1].value), (3.0, 6.0));
        assert!(median_of(&[]).is_err());
    }

    #[test]
    fn the_document_has_ratios_for_whole_ways_and_values_for_processes() {
        let text = document(&Effort::QUICK, true, &[vec![round(30.0)], vec![round(20.0)]]).unwrap();
        assert!(text.contains("| speed | 30.0 | 20.0 | 1.50 |"), "{text}");
        assert!(text.contains("| speed | tunnel: one | 60.0 |"), "{text}");
        assert!(text.contains("worth nothing"), "{text}");
    }
}
