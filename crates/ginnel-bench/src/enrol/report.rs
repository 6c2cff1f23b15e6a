//! The document about enrolment.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use time::OffsetDateTime;

use super::load::{Bulk, Kind};
use super::{Effort, FLOOD, Round};

const HEAD: &str = "# What enrolment costs

Written by `cargo xtask bench --enrol`. One server with the embedded issuer and its audit log on disk, everything on the loopback of one machine, the
load from one process on the same cores. Tokens (RS256, 2048 bits) and certificate requests (P-256) are made before anything is counted, and each
of 32 connections is used for four seconds, one call after the other.
";

const LIMITS: &str = "What limits it: the load is made on the cores that are measured, and with client, agent and target of the sessions these are full; the two columns of
cores say what server and load have of them. Of the server's time for a certificate, what a refusal without a token costs (HTTP/2, TLS) is an eighth,
the RSA verification as much again, the proof of possession a third; the rest is the signature, the certificate's encoding and the record in the
audit log, which many enrolments share one write to disk for. The earlier a refusal falls, the less it costs, and the caller cannot tell one from
another.
";

/// Writes the document from all rounds.
pub(super) fn document(effort: &Effort, load_before: &str, rounds: &[Round]) -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's version")?;
    let cores = std::thread::available_parallelism().context("counting cores")?;
    let mut text = HEAD.to_owned();
    writeln!(
        text,
        "\n{}, Linux {}, {cores} cores, version {}, load before the run {load_before}. Medians of {} rounds, in brackets the extremes.\n",
        OffsetDateTime::now_utc().date(),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        effort.rounds,
    )?;
    writeln!(text, "| call | answers in a second | server's CPU time for one, µs |\n|---|---|---|")?;
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        let calls: Vec<_> = rounds.iter().filter_map(|round| round.calls.get(at)).collect();
        let rate = cell(calls.iter().map(|calls| calls.per_second));
        writeln!(text, "| {} | {rate} | {} |", kind.name(), cell(calls.iter().map(|calls| calls.server_us)))?;
    }
    writeln!(
        text,
        "\n| 8 sessions, as fast as bytes come | MB/s | bad signatures answered in a second | cores: server | cores: load |\n|---|---|---|---|---|"
    )?;
    for (at, what) in ["alone", "beside the flood"].into_iter().enumerate() {
        let of = |value: fn(&Bulk) -> f64| rounds.iter().filter_map(move |round| round.bulk.get(at).map(value));
        let answered = if at == 0 { "–".to_owned() } else { cell(rounds.iter().map(|round| round.flood)) };
        let cores = |value| fine(of(value));
        let speed = cell(of(|bulk| bulk.speed / 1e6));
        writeln!(
            text,
            "| {what} | {speed} | {answered} | {} | {} |",
            cores(|bulk| bulk.server),
            cores(|bulk| bulk.load)
        )?;
    }
    let ratio = cell(rounds.iter().map(|round| 100.0 * round.bulk[1].speed / round.bulk[0].speed.max(1.0)));
    writeln!(
        text,
        "\nBeside senders that want {FLOOD} bad signatures a second, and get as many answered as the table says, the sessions have {ratio} % of their speed.\n\n{LIMITS}"
    )?;
    Ok(text)
}

/// The median of small figures.
fn fine(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).map_or_else(|| "–".to_owned(), |median| format!("{median:.2}"))
}

/// The median, and the extremes where there are any.
fn cell(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(median), Some(most)) if values.len() > 1 => format!("{median:.0} ({least:.0}–{most:.0})"),
        (_, Some(median), _) => format!("{median:.0}"),
        (_, None, _) => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_the_median_and_the_extremes() {
        assert_eq!(cell([3.0, 1.0, 2.0].into_iter()), "2 (1–3)");
        assert_eq!(cell([3.0].into_iter()), "3");
        assert_eq!(cell([].into_iter()), "–");
    }
}
