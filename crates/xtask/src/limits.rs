//! The page of bounds: what `ginnel-core` has as constants with their reasons, as a table for people who do not read Rust.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is above this line in the page is written by hand.
const MARK: &str = "<!-- What follows is made from crates/ginnel-core/src/limits.rs by `cargo xtask limits`. -->";

/// One constant of the source.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    name: String,
    value: String,
    setting: Option<String>,
    reason: String,
}

/// Where the constants are.
pub fn source_file() -> PathBuf {
    root().join("crates/ginnel-core/src/limits.rs")
}

/// Where the page is.
pub fn page_file() -> PathBuf {
    root().join("docs/security/limits.md")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The page with the table that the source says; what was written by hand stays.
///
/// # Errors
/// If the page has no mark, or the source a constant without a reason.
pub fn page(kept: &str, source: &str) -> Result<String, Box<dyn Error>> {
    let (by_hand, _) = kept.split_once(MARK).ok_or("the page of bounds has lost its mark")?;
    let mut page = format!("{by_hand}{MARK}\n\n| bound | value | setting | why |\n|---|---|---|---|\n");
    for Bound { name, value, setting, reason } in bounds(source)? {
        let setting = setting.map_or_else(|| "–".to_owned(), |setting| format!("`{setting}`"));
        writeln!(page, "| `{name}` | {value} | {setting} | {reason} |")?;
    }
    Ok(page)
}

fn bounds(source: &str) -> Result<Vec<Bound>, Box<dyn Error>> {
    let (mut bounds, mut doc) = (Vec::new(), String::new());
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
            continue;
        }
        let doc = std::mem::take(&mut doc);
        let Some(rest) = line.strip_prefix("pub const ") else { continue };
        let mut rest = rest.to_owned();
        while !rest.ends_with(';') {
            rest.push(' ');
            rest.push_str(lines.next().ok_or("a constant without an end")?.trim());
        }
        let (name, rest) = rest.split_once(": ").ok_or("a constant without a type")?;
        let (_, expression) = rest.split_once(" = ").ok_or("a constant without a value")?;
        if doc.trim().is_empty() {
            return Err(format!("{name} has no reason").into());
        }
        let (reason, setting) = split_setting(doc.trim());
        let reason = without_links(&reason).replace('|', "\\|");
        let value = value(expression.trim_end_matches(';'));
        bounds.push(Bound { name: name.to_owned(), value, setting, reason });
    }
    Ok(bounds)
}

/// Takes `Setting: ...` off the end of a reason.
fn split_setting(doc: &str) -> (String, Option<String>) {
    match doc.rsplit_once(" Setting: `") {
        Some((reason, setting)) => (reason.to_owned(), Some(setting.trim_end_matches(['`', '.']).to_owned())),
        None => (doc.to_owned(), None),
    }
}

/// A link of rustdoc leads nowhere on a page: its text stays.
fn without_links(doc: &str) -> String {
    let mut text = String::new();
    let mut rest = doc;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        let after = after.strip_prefix('(').and_then(|target| target.split_once(')')).map_or(after, |(_, after)| after);
        text.push_str(before);
        text.push_str(&format!("`{name}`"));
        rest = after;
    }
    text.push_str(rest);
    text
}

/// How a value is written for people: a time with its unit, everything else as the source has it.
fn value(expression: &str) -> String {
    let unit = |constructor: &str, unit: &str| {
        let number = expression.strip_prefix(constructor)?.strip_suffix(')')?;
        number.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{number} {unit}"))
    };
    let time = unit("Duration::from_secs(", "s").or_else(|| unit("Duration::from_millis(", "ms"));
    time.unwrap_or_else(|| format!("`{expression}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_a_row_with_its_setting_and_reason() {
        let source = "/// Bytes of a [`Frame`](crate::Frame): some\n/// reason. Setting: `limits.frames`.\npub const FRAME_MAX: usize = 4 * 1024;\n\n\
                      /// A wait, see [`FRAME_MAX`].\npub const WAIT: Duration =\n    Duration::from_secs(5);\nconst OTHER: u8 = 1;\n";
        let kept = format!("# Limits\n\n{MARK}\nold\n");
        let page = page(&kept, source).unwrap();
        let rows: Vec<&str> = page.lines().skip(6).collect();
        assert_eq!(
            rows,
            [
                "| `FRAME_MAX` | `4 * 1024` | `limits.frames` | Bytes of a `Frame`: some reason. |",
                "| `WAIT` | 5 s | – | A wait, see `FRAME_MAX`. |",
            ]
        );
        assert!(page.starts_with("# Limits\n\n<!--") && !page.contains("old"));
    }

    #[test]
    fn a_constant_without_a_reason_and_a_page_without_its_mark_are_errors() {
        assert!(page(MARK, "pub const A: u8 = 1;\n").is_err());
        assert!(page("# Limits\n", "").is_err());
    }
}
