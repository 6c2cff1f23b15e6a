//! The index of attacks: every row that the project says it survives names the test that shows it, and every such test exists.
//!
//! `attacks/*.tsv` has a line per row: its id, the test as `crate::test` or `—`, and a sentence: what is tried and what becomes of it, or why
//! the row does not apply.

// Clippy takes only #[test] functions for tests; this makes the functions that they use count as well.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What is tried, by table: tokens (A), requests to enrol (B), certificates and roles (C), TLS and HTTP/2 (D), frames (E), resources (F), agents (G),
/// destinations (H), sources (I), a hostile relay (J), revocation (K), the audit log (L), keys and host (M). Numbers that are not here were never given.
const ROWS: &[(char, &[u8])] = &[
    (
        'A',
        &[
            1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 23, 24, 30, 31, 32, 33, 34, 36, 37, 40,
            41, 42, 43, 45, 50,
        ],
    ),
    ('B', &[1, 3, 30, 36, 40, 41, 42]),
    ('C', &[1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 21, 22, 25, 26, 27, 28]),
    ('D', &[1, 2, 3, 4, 5, 6, 8, 10, 11]),
    ('E', &[1, 2, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21]),
    ('F', &[1, 2, 3, 5, 10, 11, 20, 22, 24, 25, 26, 27, 28, 29, 30]),
    ('G', &[1, 3, 4, 5, 6, 8]),
    ('H', &[1, 2, 4, 6, 7, 8, 10, 11, 13, 14, 15, 16, 17, 18, 19, 31, 33, 34, 35, 36]),
    ('I', &[1, 3, 4]),
    ('J', &[1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 13]),
    ('K', &[1, 3, 4, 6, 7, 8, 9]),
    ('L', &[1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 17]),
    ('M', &[1, 2, 3, 5, 7, 8]),
];

/// In place of a test, where a row does not apply.
const NONE: &str = "—";

/// One line of an index.
#[derive(Debug)]
struct Row {
    id: String,
    test: String,
    says: String,
}

#[test]
fn every_row_has_a_line_and_every_line_a_row() {
    let known: BTreeSet<String> = ROWS
        .iter()
        .flat_map(|(table, numbers)| numbers.iter().map(move |number| format!("{table}{number:02}")))
        .collect();
    let listed: BTreeSet<String> = rows().into_iter().map(|row| row.id).collect();
    let open: Vec<_> = known.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&known).collect();
    assert!(open.is_empty() && unknown.is_empty(), "rows without a line: {open:?}; lines without a row: {unknown:?}");
}

#[test]
fn every_line_names_a_test_that_runs_or_says_why_there_is_none() {
    let sources = sources();
    let mut wrong = Vec::new();
    for Row { id, test, says } in rows() {
        if says.split_whitespace().count() < 4 {
            wrong.push(format!("{id}: {says:?} says nothing"));
        }
        if test == NONE {
            continue;
        }
        let segments: Vec<&str> = test.split("::").collect();
        let (Some(source), Some(name)) = (segments.first().and_then(|name| sources.get(*name)), segments.last()) else {
            wrong.push(format!("{id}: {test} is in no crate of this workspace"));
            continue;
        };
        if !is_a_test_that_runs(source, name) {
            wrong.push(format!("{id}: there is no test {test}, or it is ignored"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_test_and_table_that_the_security_page_names_is_there() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    let sources = sources();
    let mut count = 0;
    for named in page.split('`').skip(1).step_by(2).filter(|word| word.contains("::")) {
        count += 1;
        let (package, name) = named.split_once("::").unwrap();
        let source = sources.get(package).unwrap_or_else(|| panic!("{named}"));
        assert!(is_a_test_that_runs(source, name), "there is no test {named}, or it is ignored");
    }
    assert!(count > 10, "the page names {count} tests");
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let letters = line.split("table ").skip(1).filter_map(|rest| rest.chars().next());
        for letter in letters.filter(char::is_ascii_uppercase) {
            assert!(ROWS.iter().any(|(table, _)| *table == letter), "there is no table {letter}: {line}");
        }
    }
}

#[test]
fn a_test_that_is_missing_misspelt_or_ignored_is_found() {
    let source = "#[test]\nfn runs() {\n}\n#[tokio::test]\n#[ignore = \"long\"]\nasync fn sleeps() {}\nfn helps() {}\n";
    assert!(is_a_test_that_runs(source, "runs"));
    for name in ["run", "runs_not", "sleeps", "helps"] {
        assert!(!is_a_test_that_runs(source, name), "{name}");
    }
}

/// Whether a source has this function under an attribute that makes it a test, and nothing keeps it from running.
fn is_a_test_that_runs(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let heads = [format!("fn {name}("), format!("async fn {name}(")];
    lines.iter().enumerate().filter(|(_, line)| heads.iter().any(|head| line.starts_with(head.as_str()))).any(
        |(at, _)| {
            let above: Vec<&&str> = lines[..at].iter().rev().take_while(|line| line.starts_with('#')).collect();
            above.iter().any(|line| line.ends_with("test]") || line.contains("::test("))
                && !above.iter().any(|line| line.starts_with("#[ignore"))
        },
    )
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        for line in std::fs::read_to_string(&path).unwrap().lines().filter(|line| !line.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [id, test, says] = fields[..] else { panic!("{}: {line:?} has no three fields", path.display()) };
            rows.push(Row { id: id.to_owned(), test: test.to_owned(), says: says.to_owned() });
        }
    }
    rows
}

/// The Rust sources of each crate, by its directory's name.
fn sources() -> BTreeMap<String, String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = BTreeMap::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        let path = entry.unwrap().path();
        let mut text = String::new();
        gather(&path, &mut text);
        sources.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), text);
    }
    sources
}

fn gather(directory: &PathBuf, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
            text.push('\n');
        }
    }
}
