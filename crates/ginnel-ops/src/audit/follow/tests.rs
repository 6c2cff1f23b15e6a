use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;

use ginnel_core::sink::{Field, Payload};
use tempfile::TempDir;

use super::super::FILE_NAME;
use super::super::lines::LINE_MAX;
use super::*;

/// A log whose files a test rotates.
pub(in crate::audit) struct Log {
    directory: TempDir,
    boot: String,
    seq: u64,
    rotations: u64,
}

/// Files that were rotated are named so that they sort by age.
pub(in crate::audit) fn rotated(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort_by_key(|path| (path.ends_with(FILE_NAME), path.clone()));
    Ok(files)
}

impl Log {
    pub(in crate::audit) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, boot: "b0".to_owned(), seq: 0, rotations: 0 }
    }

    pub(in crate::audit) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, text: &str) {
        let path = self.path().join(FILE_NAME);
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opens");
        file.write_all(text.as_bytes()).expect("writes");
    }

    fn line(&self, seq: u64) -> String {
        let boot = &self.boot;
        format!(
            "{{\"v\":1,\"seq\":{seq},\"time\":\"2026-11-22T01:56:13Z\",\"boot\":\"{boot}\",\"event\":\"allowed\"}}\n"
        )
    }

    pub(in crate::audit) fn append(&mut self, count: u64) {
        for _ in 0..count {
            self.seq += 1;
            self.write(&self.line(self.seq));
        }
    }

    fn rotate(&mut self) {
        self.rotations += 1;
        let to = format!("audit-{:03}.jsonl", self.rotations);
        fs::rename(self.path().join(FILE_NAME), self.path().join(to)).expect("renames");
        self.write("");
    }

    /// Removes what there is, as retention does with what is too old.
    pub(in crate::audit) fn lose_all(&mut self) {
        self.rotate();
        self.remove_oldest();
    }

    fn remove_oldest(&self) {
        fs::remove_file(&rotated(self.path()).expect("lists")[0]).expect("removes");
    }

    /// A process that starts anew.
    fn restart(&mut self, boot: &str) {
        boot.clone_into(&mut self.boot);
    }

    fn follow(&self, mark: Option<Mark>) -> Follower {
        Follower::new(self.path().to_owned(), rotated, mark)
    }
}

/// What was given: numbers of records, or what else it was.
fn said(read: &Read) -> Vec<String> {
    let word = |entry: &LogEntry| match (&entry.payload, entry.labels["event"].as_str()) {
        (Payload::Fields(fields), "recordsMissing") => format!("missing {}", number(fields, "records")),
        (Payload::Fields(fields), "notARecord") => format!("other {}", number(fields, "bytes")),
        (_, _) => entry.insert_id.trim_start_matches(|c: char| c != '-').trim_start_matches(['-', '0']).to_owned(),
    };
    read.entries.iter().map(|(entry, _)| word(entry)).collect()
}

fn number(fields: &BTreeMap<&'static str, Field>, name: &str) -> u64 {
    match fields[name] {
        Field::Number(number) => number,
        Field::Text(_) => panic!("{name} is no number"),
    }
}

fn all(follower: &mut Follower) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        let read = follower.read(3).expect("reads");
        if read.entries.is_empty() {
            return words;
        }
        words.extend(said(&read));
    }
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn gives_what_comes_from_file_to_file() {
    let mut log = Log::new();
    let mut follower = log.follow(None);
    assert!(all(&mut follower).is_empty(), "there is no file yet");
    log.append(5);
    assert_eq!(all(&mut follower), numbers(1..=5));
    assert!(all(&mut follower).is_empty());
    // A line counts when its end is there.
    log.write(log.line(6).trim_end());
    assert!(all(&mut follower).is_empty());
    log.write("\n");
    log.seq = 6;
    log.append(1);
    log.rotate();
    log.append(2);
    log.rotate();
    log.rotate();
    log.append(1);
    assert_eq!(all(&mut follower), numbers(6..=10));
    log.append(1);
    assert_eq!(all(&mut follower), numbers(11..=11));
}

/// Something that happens to a log between two looks.
type Change = fn(&mut Log);

/// What happens, and what comes behind the mark then, which stands at record 5 of 8.
const CHANGES: [(&str, Change, &[&str]); 9] = [
    ("nothing happened", |_| {}, &["6", "7", "8"]),
    (
        "the file was rotated",
        |log| {
            log.rotate();
            log.append(1)
        },
        &["6", "7", "8", "9"],
    ),
    (
        "another process writes",
        |log| {
            log.restart("b1");
            log.append(1)
        },
        &["6", "7", "8", "9"],
    ),
    (
        "the files before it were removed",
        |log| {
            log.rotate();
            log.remove_oldest()
        },
        &["6", "7", "8"],
    ),
    (
        "its own file was removed",
        |log| {
            log.rotate();
            log.append(2);
            log.remove_oldest();
            log.remove_oldest()
        },
        &["missing 3", "9", "10"],
    ),
    (
        "its own file was removed, and nothing behind it",
        |log| {
            log.rotate();
            log.remove_oldest();
            log.remove_oldest();
            log.append(1)
        },
        &["missing 3", "9"],
    ),
    (
        "lines were put before it",
        |log| {
            let path = log.path().join(FILE_NAME);
            let text = format!("#\n{}", fs::read_to_string(&path).expect("reads"));
            fs::write(&path, text).expect("writes");
        },
        &["6", "7", "8"],
    ),
    (
        "the log was put back to an earlier state",
        |log| {
            let path = log.path().join(FILE_NAME);
            fs::write(&path, log.line(4)).expect("writes");
            log.seq = 4;
            log.restart("b1");
            log.append(2);
        },
        &["5", "6"],
    ),
    (
        "it is another log",
        |log| {
            for path in rotated(log.path()).expect("lists") {
                fs::remove_file(path).expect("removes");
            }
            log.seq = 0;
            log.restart("b1");
            log.append(6);
        },
        &["1", "2", "3", "4", "5", "6"],
    ),
];

#[test]
fn goes_on_behind_its_mark_wherever_that_stands_by_then() {
    for (name, change, expected) in CHANGES {
        let mut log = Log::new();
        log.append(3);
        log.rotate();
        log.append(5);
        let mark = log.follow(None).read(5).expect("reads").entries.last().expect("some").1.clone();
        assert_eq!(mark.seq, 5);
        change(&mut log);
        assert_eq!(all(&mut log.follow(Some(mark))), expected, "{name}");
    }
}

thread_local! {
    static CANNOT_LIST: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn listed_if_possible(directory: &Path) -> io::Result<Vec<PathBuf>> {
    if CANNOT_LIST.get() { Err(io::Error::other("no descriptors")) } else { rotated(directory) }
}

#[test]
fn what_was_read_before_something_went_wrong_is_given() {
    let mut log = Log::new();
    let mut follower = Follower::new(log.path().to_owned(), listed_if_possible, None);
    log.append(2);
    assert_eq!(all(&mut follower), numbers(1..=2));
    log.append(3);
    CANNOT_LIST.set(true);
    assert_eq!(said(&follower.read(100).expect("what there is")), numbers(3..=5));
    assert!(follower.read(100).is_err(), "that is said as well");
    CANNOT_LIST.set(false);
    log.append(1);
    assert_eq!(all(&mut follower), numbers(6..=6));
}

#[test]
fn says_what_is_missing_and_what_is_no_record() {
    let mut log = Log::new();
    log.append(1);
    log.write("\ngarbage\n");
    log.write(&format!("{}\n", "x".repeat(3 * LINE_MAX)));
    log.write("{\"v\":1,\"seq\":\n");
    log.append(1);
    log.seq += 3;
    log.append(1);
    let long = format!("other {}", 3 * LINE_MAX);
    let expected = ["1", "other 7", &long, "other 13", "2", "missing 3", "6"];
    assert_eq!(all(&mut log.follow(None)), expected);

    // From every mark it goes on with the rest, and with no line twice.
    for upto in 1..expected.len() {
        let read = log.follow(None).read(upto).expect("reads");
        let (given, mark) = (said(&read).len(), read.entries.last().expect("some").1.clone());
        // A gap has no mark of its own: it is said again, under the same id.
        let again = expected[..given].iter().rev().take_while(|word| word.starts_with("missing")).count();
        assert_eq!(all(&mut log.follow(Some(mark))), expected[given - again..], "from {upto}");
    }
    // A log that begins with what is no record.
    let log = Log::new();
    log.write("garbage\n");
    let mark = log.follow(None).read(1).expect("reads").entries[0].1.clone();
    log.write("more\n");
    assert_eq!(all(&mut log.follow(Some(mark))), ["other 4"]);
}

#[test]
fn what_has_no_end_in_a_file_that_is_over_is_given() {
    let mut log = Log::new();
    log.append(1);
    log.write("{\"v\":1,");
    log.rotate();
    log.append(1);
    assert_eq!(all(&mut log.follow(None)), ["1", "other 7", "2"]);
}

#[test]
fn what_the_writer_takes_back_and_writes_again_is_not_lost() {
    let mut log = Log::new();
    log.append(2);
    let mut follower = log.follow(None);
    let whole = fs::metadata(log.path().join(FILE_NAME)).expect("is there").len();
    log.append(1);
    log.write(&log.line(4)[..10]);
    assert_eq!(all(&mut follower), numbers(1..=3));
    let file = OpenOptions::new().write(true).open(log.path().join(FILE_NAME)).expect("opens");
    file.set_len(whole).expect("cuts");
    assert!(all(&mut follower).is_empty());
    log.seq = 2;
    log.append(3);
    let again = all(&mut follower);
    assert_eq!(again, numbers(3..=5), "the one that was given comes again, under the same id");
}

#[test]
fn knows_the_number_of_the_last_record() {
    let mut log = Log::new();
    assert_eq!(newest(log.path(), rotated).expect("reads"), None);
    log.append(3);
    log.write("torn");
    assert_eq!(newest(log.path(), rotated).expect("reads"), Some(3));
}

/// Numbers from a seed: which step comes next.
struct Steps(u64);

impl Steps {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[test]
fn through_any_order_of_writing_rotation_removal_and_restarts_nothing_is_unaccounted_for() {
    for seed in 0..200 {
        let mut steps = Steps(seed);
        let mut log = Log::new();
        log.append(1);
        let mut follower = log.follow(None);
        let (mut last, mut kept, mut boots) = (0, None::<Mark>, 0);
        for step in 0..60 {
            match steps.next(8) {
                0..=2 => log.append(steps.next(6)),
                3 => log.rotate(),
                4 if rotated(log.path()).expect("lists").len() > 2 => log.remove_oldest(),
                4 => {}
                5 => {
                    boots += 1;
                    log.restart(&format!("b{boots}"));
                }
                6 => follower = log.follow(kept.clone()),
                _ => {
                    let read = follower.read(usize::try_from(steps.next(5)).expect("few") + 1).expect("reads");
                    if let Some(begun) = read.begun.clone() {
                        last = begun.seq;
                        kept = Some(begun);
                    }
                    for (word, (entry, mark)) in said(&read).iter().zip(&read.entries) {
                        if let Some(missing) = word.strip_prefix("missing ") {
                            last += missing.parse::<u64>().expect("a number");
                        } else {
                            let seq: u64 = word.parse().expect("a record");
                            assert_eq!(seq, last + 1, "seed {seed}, step {step}: {}", entry.insert_id);
                            last = seq;
                            kept = Some(mark.clone());
                        }
                    }
                }
            }
        }
        // What is missing shows with the next record.
        log.append(1);
        let rest = all(&mut follower);
        let end = rest.iter().fold(last, |last, word| match word.strip_prefix("missing ") {
            Some(missing) => last + missing.parse::<u64>().expect("a number"),
            None => word.parse().expect("a record"),
        });
        assert_eq!(end, log.seq, "seed {seed}");
    }
}
