//! The throughput plot: an SVG drawing of the last minutes.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::samples::{EVERY, KEPT, Sample};

/// The drawing's own units; the page scales it.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 200.0;
/// Room for the words at the left and below.
const LEFT: f64 = 92.0;
const BELOW: f64 = 22.0;
const TOP: f64 = 10.0;

/// Lines across, the one at the bottom not counted.
const STEPS: u32 = 4;

/// A bit rate's span between two samples.
struct Rate {
    /// Seconds before the newest sample.
    ago: f64,
    up: f64,
    down: f64,
}

/// Draws bytes per second, both ways; `None` while there are no two samples.
pub(super) fn draw(samples: &[Sample]) -> Option<String> {
    let rates = rates(samples)?;
    let most = rates.iter().map(|rate| rate.up.max(rate.down)).fold(0.0, f64::max);
    let top = round_up(most);
    let span = EVERY.as_secs_f64() * count(KEPT - 1);
    let x = |ago: f64| WIDTH - (WIDTH - LEFT) * (ago / span).min(1.0);
    let y = |rate: f64| TOP + (HEIGHT - TOP - BELOW) * (1.0 - rate / top);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"plot-title\"><title id=\"plot-title\">Bytes per second \
         over the last ten minutes; at most {} </title>",
        bytes(most)
    );
    for step in 0..=STEPS {
        let rate = top * f64::from(step) / f64::from(STEPS);
        let at = y(rate);
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}/s</text>",
            LEFT - 8.0,
            at + 4.0,
            bytes(rate)
        );
    }
    for minutes in [10_u32, 5, 0] {
        let (word, anchor) =
            if minutes == 0 { ("now".to_owned(), "end") } else { (format!("{minutes} min ago"), "start") };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{word}</text>",
            x(f64::from(minutes) * 60.0),
            HEIGHT - 6.0
        );
    }
    for (class, rate_of) in [("down", (|rate| rate.down) as fn(&Rate) -> f64), ("up", |rate| rate.up)] {
        let points: Vec<_> = rates.iter().map(|rate| format!("{:.1},{:.1}", x(rate.ago), y(rate_of(rate)))).collect();
        let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
    }
    svg.push_str("</svg>");
    Some(svg)
}

fn rates(samples: &[Sample]) -> Option<Vec<Rate>> {
    let newest = SystemTime::from(samples.last()?.time);
    let since =
        |earlier: SystemTime, later: SystemTime| later.duration_since(earlier).unwrap_or(Duration::ZERO).as_secs_f64();
    let between = |pair: &[Sample]| {
        let [before, after] = pair else { return None };
        // A clock that was set back gives no rate.
        let seconds = Some(since(before.time.into(), after.time.into())).filter(|seconds| *seconds > 0.1)?;
        let rate = |before: u64, after: u64| whole(after.saturating_sub(before)) / seconds;
        Some(Rate {
            ago: since(after.time.into(), newest),
            up: rate(before.bytes_up, after.bytes_up),
            down: rate(before.bytes_down, after.bytes_down),
        })
    };
    let rates: Vec<_> = samples.windows(2).filter_map(between).collect();
    (!rates.is_empty()).then_some(rates)
}

/// The next of 1, 2, 5, 10 times a power of ten; 1 kB at least, so that an idle line lies at the bottom.
fn round_up(most: f64) -> f64 {
    let mut top = 1000.0;
    while top < most {
        for factor in [2.0, 2.5, 2.0] {
            top *= factor;
            if top >= most {
                break;
            }
        }
    }
    top
}

/// Bytes with a unit, as people read them.
pub(super) fn bytes(number: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = number;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    let text = format!("{value:.digits$}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), units[unit])
}

/// Exact up to 2^53, and a plot has less to show.
pub(super) fn whole(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    whole(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, up: u64, down: u64) -> Sample {
        let time = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + second)).into();
        Sample { time, bytes_up: up, bytes_down: down, live: 0 }
    }

    #[test]
    fn draws_rates_at_their_heights_and_times() {
        assert_eq!((draw(&[]), draw(&[sample(0, 0, 0)])), (None, None));
        let svg = draw(&[sample(0, 0, 0), sample(5, 5_000, 10_000), sample(10, 5_000, 20_000)]).unwrap();
        assert!(svg.contains("2 kB/s") && svg.contains("10 min ago"), "{svg}");
        assert!(svg.contains("<polyline class=\"down\" points=\"714.8,10.0 720.0,10.0\"/>"), "{svg}");
        assert!(svg.contains("<polyline class=\"up\" points=\"714.8,94.0 720.0,178.0\"/>"), "{svg}");
    }

    #[test]
    fn a_clock_that_was_set_back_draws_nothing_wild() {
        let svg = draw(&[sample(100, 0, 0), sample(0, 1 << 40, 0), sample(5, 1 << 40, 0)]).unwrap();
        assert!(svg.contains("1 kB/s") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn names_amounts_as_people_read_them() {
        let cases = [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "1 kB"),
            (1500.0, "1.5 kB"),
            (12_345_678.0, "12 MB"),
            (999_999.0, "1 MB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        assert_eq!([0.0, 1001.0, 2001.0, 5001.0, 40_000.0].map(round_up), [1e3, 2e3, 5e3, 1e4, 5e4]);
    }
}
