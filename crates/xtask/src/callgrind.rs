//! Instruction counts of the hot paths, as valgrind counts them, compared with those that are checked in.
//!
//! They do not depend on how busy the machine is, so that a path that got dearer shows where a clock would not tell. They do depend on the compiler,
//! which is pinned, and a little on the C library.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Repetitions of a path in the two runs whose difference counts: the first is warm-up and what starting costs.
const REPETITIONS: [u64; 2] = [100, 1_100];

/// By how many per cent a count may grow unnoticed: the next version of a C library may copy a little differently.
const TOLERANCE: u64 = 3;

const HEAD: &str = "# Instructions of one repetition of each path in hot.rs. `cargo xtask callgrind` compares, `cargo xtask callgrind --record` writes.\n";

/// Counts by the name of the path.
pub type Counts = BTreeMap<String, u64>;

/// Where the counts are checked in.
pub fn recorded_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ginnel-wire/benches/hot.instructions")
}

/// Counts the instructions of every path of the built bench.
///
/// # Errors
/// If valgrind is missing, or a path fails.
pub fn count(bench: &Path) -> Result<Counts, Box<dyn Error>> {
    let listed = said(Command::new(bench).arg("list"))?.0;
    let mut counts = Counts::new();
    for name in listed.lines() {
        let [few, many] = REPETITIONS.map(|repetitions| instructions(bench, name, repetitions));
        let [first, second] = REPETITIONS;
        counts.insert(name.to_owned(), (many? - few?) / (second - first));
    }
    Ok(counts)
}

fn instructions(bench: &Path, name: &str, repetitions: u64) -> Result<u64, Box<dyn Error>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let (_, talk) = said(valgrind.arg(bench).args(["repeat", name, &repetitions.to_string()]))?;
    collected(&talk).ok_or_else(|| format!("valgrind did not say how much it collected: {talk}").into())
}

fn said(command: &mut Command) -> Result<(String, String), Box<dyn Error>> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        Ok((stdout, stderr))
    } else {
        Err(format!("{command:?}: {}\n{stderr}", output.status).into())
    }
}

/// `==PID== Collected : N`, in valgrind's own words.
fn collected(talk: &str) -> Option<u64> {
    talk.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

/// The path of the program that cargo has built, from its messages in JSON.
pub fn executable(messages: &str) -> Option<PathBuf> {
    let line =
        messages.lines().find(|line| line.contains("\"kind\":[\"bench\"]") && line.contains("\"executable\":\""))?;
    let (_, rest) = line.split_once("\"executable\":\"")?;
    Some(PathBuf::from(rest.split_once('"')?.0))
}

/// The checked-in form of counts.
pub fn text(counts: &Counts) -> String {
    let mut text = HEAD.to_owned();
    for (name, count) in counts {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name} {count}");
    }
    text
}

/// Reads the checked-in form.
///
/// # Errors
/// Shows the line that is not a name and a number.
pub fn parse(text: &str) -> Result<Counts, Box<dyn Error>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    lines.map(|line| entry(line).ok_or_else(|| format!("not a name and a number: {line}").into())).collect()
}

/// What a comparison says: a line for each path, and whether any of them got dearer or is not recorded.
pub fn compare(recorded: &Counts, counted: &Counts) -> (String, bool) {
    let (mut text, mut worse) = (String::new(), false);
    for (name, count) in counted {
        let verdict = match recorded.get(name) {
            None => {
                worse = true;
                "is not recorded".to_owned()
            }
            Some(before) if *count * 100 > before * (100 + TOLERANCE) => {
                worse = true;
                format!("was {before}: DEARER")
            }
            Some(before) if *count * (100 + TOLERANCE) < before * 100 => format!("was {before}: cheaper, record it"),
            Some(before) => format!("was {before}: as before"),
        };
        let _ = writeln!(text, "{name:24} {count:>10}  {verdict}");
    }
    for name in recorded.keys().filter(|name| !counted.contains_key(*name)) {
        worse = true;
        let _ = writeln!(text, "{name:24} is recorded and was not counted");
    }
    (text, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn counts_survive_being_written() {
        let some = counts(&[("stream/100-bytes", 420), ("policy/allowed", 7)]);
        assert_eq!(parse(&text(&some)).unwrap(), some);
        assert!(parse("stream 12 13").is_err());
    }

    #[test]
    fn only_what_got_dearer_beyond_the_tolerance_is_worse() {
        let recorded = counts(&[("path", 1_000)]);
        for (count, worse, word) in [(1_030, false, "as before"), (1_031, true, "DEARER"), (900, false, "cheaper")] {
            let (text, found) = compare(&recorded, &counts(&[("path", count)]));
            assert_eq!(found, worse, "{text}");
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_path_on_one_side_only_is_worse() {
        assert!(compare(&Counts::new(), &counts(&[("new", 1)])).1);
        assert!(compare(&counts(&[("old", 1)]), &Counts::new()).1);
    }

    #[test]
    fn what_the_tools_say_is_read() {
        assert_eq!(collected("==9== \n==9== Collected : 123456\n==9== \n"), Some(123_456));
        assert_eq!(collected("==9== Events    : Ir\n"), None);
        let messages = "{\"target\":{\"kind\":[\"lib\"]},\"executable\":null}\n{\"target\":{\"kind\":[\"bench\"]},\"executable\":\"/t/hot-1\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/hot-1")));
        assert_eq!(executable(""), None);
    }
}
