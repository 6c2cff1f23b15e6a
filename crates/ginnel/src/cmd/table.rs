//! Text for people: tables, spans of time, amounts.

use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Text, Timestamp};

/// Characters of a cell; more of them are cut, so that one odd value does not push the others off the screen.
const CELL_MAX: usize = 64;

/// Stands where there is nothing to say.
pub(crate) const NONE: &str = "-";

/// Columns of text under a head.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// Adds a row. Whatever a cell holds, it is made fit for a terminal.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.iter().map(|cell| fitted(cell)).collect());
    }

    /// The table, each line indented by two spaces.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str("  ");
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn fitted(cell: &str) -> String {
    let text = Text::new(cell);
    let text = text.as_str();
    if text.is_empty() {
        return NONE.to_owned();
    }
    if text.chars().count() <= CELL_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(CELL_MAX - 1).collect();
    cut.push('…');
    cut
}

/// The name in a principal's URI, or whatever else stands there.
pub(crate) fn name_of(principal: &str) -> &str {
    principal.rsplit('/').next().unwrap_or(principal)
}

/// The first digits of an id: enough to tell processes apart.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// The time between two moments, in its two largest units.
pub(crate) fn between(since: Timestamp, until: Timestamp) -> String {
    span(SystemTime::from(until).duration_since(since.into()).unwrap_or_default())
}

/// A span of time in its two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Bytes with a unit, as people read them.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number;
    let mut rest = 0;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        if value < 1000 {
            return if unit == "B" || value >= 10 || rest == 0 {
                format!("{value} {unit}")
            } else {
                format!("{value}.{rest} {unit}")
            };
        }
        rest = value % 1000 / 100;
        value /= 1000;
    }
    format!("{value} EB")
}

/// A moment to the second.
pub(crate) fn moment(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_moves_the_cursor() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a\u{1b}[2J\nb", "1"]);
        table.row(["", &"x".repeat(100)]);
        let text = table.text();
        assert_eq!(text.lines().count(), 3, "{text:?}");
        assert!(!text.contains('\u{1b}') && text.contains("  NAME") && text.contains("…\n"), "{text:?}");
        let starts: Vec<_> = text.lines().map(|line| line.rfind("  ")).collect();
        assert_eq!(starts[0], starts[1], "{text}");
    }

    #[test]
    fn amounts_and_spans_have_two_figures_at_most() {
        let amounts =
            [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (12_345_678, "12 MB"), (u64::MAX, "18 EB")];
        for (number, text) in amounts {
            assert_eq!(bytes(number), text);
        }
        let spans = [(0, "0 s"), (61, "1 min 1 s"), (25_920, "7 h 12 min"), (90_061, "1 d 1 h")];
        for (seconds, text) in spans {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
