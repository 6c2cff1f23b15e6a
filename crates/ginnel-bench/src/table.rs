//! Tables of figures, as Markdown.

use std::fmt::Write as _;

use anyhow::Result;

use crate::results::Results;
use crate::stats::Spread;
use crate::way::Way;
use crate::workload::{Metric, Workload};

/// Three figures that matter, or whole numbers.
pub(crate) fn short(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// One workload: a row for each way that was tried, a column for each figure.
pub(crate) fn of(results: &Results, workload: Workload) -> Result<String> {
    let metrics = workload.metrics();
    let heads: Vec<&str> = metrics.iter().map(|metric| metric.title()).collect();
    let mut text = format!("| way | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for way in results.versions.keys() {
        let cells: Vec<String> = metrics.iter().map(|metric| cell(results, workload, *metric, *way)).collect();
        let name = if way.is_tunnel() { format!("**{}**", way.title()) } else { way.title().to_owned() };
        writeln!(text, "| {name} | {} |", cells.join(" | "))?;
    }
    Ok(text)
}

/// `median (min–max) ×ratio`, the ratio being that to the base way.
fn cell(results: &Results, workload: Workload, metric: Metric, way: Way) -> String {
    let Some(Spread { median, min, max }) = results.spread(workload, metric, way) else { return "–".to_owned() };
    let mut text = format!("{} ({}–{})", short(median), short(min), short(max));
    if let Some(ratio) = results.ratio(workload, metric, way, Way::BASE) {
        text.push_str(&format!(" ×{:.2}", ratio.median));
    }
    text
}

/// The figures that are shown process by process.
pub(crate) fn by_process(results: &Results, workload: Workload) -> Result<String> {
    let mut text = String::new();
    for metric in workload.metrics().iter().filter(|metric| metric.by_process()) {
        for way in results.versions.keys() {
            let parts = results.by_process(workload, *metric, *way);
            if parts.is_empty() {
                continue;
            }
            let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
            writeln!(text, "| {} | {} | {} | {} |", workload.name(), metric.title(), way.title(), parts.join(", "))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Figure;

    #[test]
    fn a_row_has_medians_spreads_and_ratios_and_a_dash_for_what_is_missing() {
        let mut results = Results::new(2);
        results.versions = Way::ALL.into_iter().map(|way| (way, String::new())).collect();
        for (round, value) in [(0, 1.0), (1, 2.0)] {
            let cpu = |value| vec![Figure::sum(Metric::CpuPerGib, vec![("first", value)])];
            results.put(round, Way::BASE, Workload::Up1, cpu(value));
            results.put(round, Way::Tunnel, Workload::Up1, cpu(4.0 * value));
        }
        let text = of(&results, Workload::Up1).unwrap();
        assert!(text.starts_with("| way | CPU s/GiB | MB/s |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("| **tunnel, end-to-end** | 6.00 (4.00–8.00) ×4.00 | – |"), "{text}");
        assert!(text.contains("| HAProxy chain | – | – |"), "{text}");
        let text = by_process(&results, Workload::Up1).unwrap();
        assert!(text.contains("| up-1 | CPU s/GiB | tunnel, end-to-end | first 6.00 |"), "{text}");
    }

    #[test]
    fn numbers_show_what_they_are_worth() {
        assert_eq!([0.123, 12.34, 1234.5].map(short), ["0.12", "12.3", "1234"]);
    }
}
