//! The document about long paths.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use ginnel_testkit::link::Shape;
use time::OffsetDateTime;

use super::way::Way;
use super::{CONGESTION, Effort, Figure};

const HEAD: &str = "# A long path

Written by `cargo xtask bench --wan`, which needs root. Application, client and server are in one network namespace, agent and target in another.
Between the two is a line: 1 Gbit/s in each direction with the headers of IP and TCP, half of the round trip as delay, a queue of one round trip's
worth that drops what comes when it is full, and losses of single packets by chance from a fixed seed. Direct TCP is the same application and the
same target on the same line. Every measurement has new processes on a new line. Where several sessions come at once, new processes have one connection
for all of them, and open more; sessions that come the second time find these (`connections` in the configuration says how many are there at least).
";

/// What the document calls a path.
pub(super) fn path(shape: &Shape) -> String {
    let loss = f64::from(shape.loss_ppm) / 10_000.0;
    format!("{} ms, {loss} % loss", shape.round_trip.as_millis())
}

/// Writes the document from the rounds of all ways.
pub(super) fn document(effort: &Effort, rounds: &[Vec<Vec<Figure>>; Way::ALL.len()]) -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's version")?;
    let buffers = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").context("reading the size of buffers")?;
    let send_max: u64 = buffers.split_ascii_whitespace().last().context("no size of buffers")?.parse()?;
    let cores = std::thread::available_parallelism().context("counting cores")?;
    let mut text = HEAD.to_owned();
    writeln!(
        text,
        "\n{}, Linux {}, {cores} cores, version {}. Congestion control {CONGESTION} everywhere; a socket's send buffer holds at most {} MiB. {}; \
         {} s of warm-up and {} s counted for bulk. A new session counts from the application's connection, \
         to the first answer of a target that is spoken to at once, or to the news that there is a connection: of the proxy through the tunnel, of the \
         kernel directly.\n",
        OffsetDateTime::now_utc().date(),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        send_max >> 20,
        match effort.rounds {
            1 => "One round".to_owned(),
            more => format!("Medians of {more} rounds, in brackets the extremes"),
        },
        effort.warm_up.as_secs_f64(),
        effort.window.as_secs_f64(),
    )?;
    let names: Vec<&str> = Way::ALL.into_iter().map(Way::name).collect();
    let (last, others) = names.split_last().context("a way")?;
    let ratios: Vec<String> = others.iter().map(|name| format!("{name} / {last}")).collect();
    let head: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(ratios).collect();
    writeln!(text, "| what | {} |\n|---|{}", head.join(" | "), "---|".repeat(head.len()))?;
    let first = rounds.first().and_then(|rounds| rounds.first()).context("a round")?;
    for (row, figure) in first.iter().enumerate() {
        let columns: Vec<Vec<f64>> = rounds.iter().map(|rounds| values(rounds, row)).collect();
        let medians: Vec<Option<f64>> = columns.iter().map(|values| median(values)).collect();
        let base = medians.last().copied().flatten();
        let ratio = |value: &Option<f64>| match (value, base) {
            (Some(value), Some(base)) if base > 0.0 => format!("{:.2}", value / base),
            (Some(_) | None, Some(_) | None) => "–".to_owned(),
        };
        let (_, others) = medians.split_last().context("a way")?;
        let cells: Vec<String> = columns.iter().map(|values| cell(values)).chain(others.iter().map(ratio)).collect();
        writeln!(text, "| {} | {} |", figure.name, cells.join(" | "))?;
    }
    Ok(text)
}

/// One row of all rounds, in order of size.
fn values(rounds: &[Vec<Figure>], row: usize) -> Vec<f64> {
    let mut values: Vec<f64> =
        rounds.iter().filter_map(|figures| figures.get(row)).filter_map(|figure| figure.value).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> Option<f64> {
    values.get(values.len() / 2).copied()
}

fn cell(values: &[f64]) -> String {
    match (values, median(values)) {
        ([], _) | (_, None) => "–".to_owned(),
        ([low, .., high], Some(median)) => format!("{median:.1} ({low:.1}–{high:.1})"),
        ([_], Some(median)) => format!("{median:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_medians_extremes_and_ratios() {
        let round = |value: f64| vec![Figure { name: "40 ms, 0 % loss: 1 down, MB/s".to_owned(), value: Some(value) }];
        let rounds = [vec![round(30.0), round(10.0), round(20.0)], vec![round(40.0), round(40.0), round(40.0)]];
        let text = document(&Effort::QUICK, &rounds).unwrap();
        assert!(text.contains("1 down, MB/s | 20.0 (10.0–30.0) | 40.0 (40.0–40.0) | 0.50 |"), "{text}");
    }

    #[test]
    fn a_figure_that_a_way_does_not_have_is_left_out() {
        let round = |value| vec![Figure { name: "a".to_owned(), value }];
        let text = document(&Effort::QUICK, &[vec![round(Some(1.0))], vec![round(None)]]).unwrap();
        assert!(text.contains("| a | 1.0 | – | – |"), "{text}");
    }
}
