//! A plot of one figure: a horizontal bar for each way, with its spread, as SVG that follows the reader's light or dark page.

use std::fmt::Write as _;

use anyhow::Result;

use crate::stats::Spread;
use crate::table::short;

const WIDTH: f64 = 760.0;
const ROW: f64 = 26.0;
const TOP: f64 = 40.0;
/// Where bars begin, after the names.
const LEFT: f64 = 240.0;
/// Room for the number after the longest bar.
const RIGHT: f64 = 70.0;

const STYLE: &str = "<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .bar { fill: #9aa4ae; }
  .ours { fill: #0969da; }
  .spread { stroke: #1f2328; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .bar { fill: #656c76; }
    .ours { fill: #4493f8; }
    .spread { stroke: #e6edf3; }
  }
</style>";

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What stands before it.
    pub(crate) name: &'static str,
    /// How long it is.
    pub(crate) spread: Spread,
    /// Whether it is drawn as one of ours.
    pub(crate) ours: bool,
}

/// Draws the rows from top to bottom.
pub(crate) fn svg(title: &str, rows: &[Row]) -> Result<String> {
    let most = rows.iter().map(|row| row.spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| (value / most).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
    let height = TOP + ROW * rows.iter().map(|_| 1.0).sum::<f64>() + 8.0;
    let title = escape(title);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{title}\">\n{STYLE}\n<text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n"
    );
    let mut y = TOP;
    for Row { name, spread, ours } in rows {
        let class = if *ours { "ours" } else { "bar" };
        let middle = y + ROW / 2.0;
        let (length, from, to) = (scale(spread.median), LEFT + scale(spread.min), LEFT + scale(spread.max));
        writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"{class}\" x=\"{LEFT:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" rx=\"2\"/>\n\
             <line class=\"spread\" x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            middle + 4.5,
            escape(name),
            y + 4.0,
            ROW - 8.0,
            to.max(LEFT + length) + 8.0,
            middle + 4.5,
            short(spread.median),
        )?;
        y += ROW;
    }
    text.push_str("</svg>\n");
    Ok(text)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, median: f64, max: f64) -> Row {
        Row { name, spread: Spread { median, min: median, max }, ours: name == "us" }
    }

    #[test]
    fn the_largest_value_fills_the_width_and_the_others_their_share() {
        let text = svg("CPU < all", &[row("us", 2.0, 4.0), row("them", 4.0, 4.0)]).unwrap();
        assert!(text.contains("aria-label=\"CPU &lt; all\""), "{text}");
        assert!(text.contains("class=\"ours\" x=\"240.0\" y=\"44.0\" width=\"225.0\""), "{text}");
        assert!(text.contains("class=\"bar\" x=\"240.0\" y=\"70.0\" width=\"450.0\""), "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
    }

    #[test]
    fn nothing_to_draw_is_drawn_without_a_fault() {
        assert!(svg("empty", &[]).unwrap().ends_with("</svg>\n"));
        assert!(svg("zero", &[row("us", 0.0, 0.0)]).unwrap().contains("width=\"0.0\""));
    }
}
