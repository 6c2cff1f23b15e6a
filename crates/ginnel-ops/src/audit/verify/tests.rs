//! What is done to logs, and how it is named.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ginnel_core::audit::{Entry, Event, Hex, LogFiles, Text};
use ginnel_core::id::InstanceId;
use tempfile::TempDir;

use super::super::chain::void::Void;
use super::super::chain::{Chain, Position};
use super::super::{AuditLog, FILE_NAME};
use super::*;

mod boundaries;

/// Records in each chapter of [`Sample`], beside what the chain says of itself.
const RECORDS: usize = 6;

/// A log of three chapters in two files, all closed; records 1 to 24, 17 and later in the second file.
struct Sample(TempDir);

impl Sample {
    fn new() -> Self {
        let sample = Self(tempfile::tempdir().expect("a directory"));
        sample.grow();
        sample.grow();
        fs::rename(sample.path(FILE_NAME), sample.path("audit-000000000001.jsonl")).expect("renames");
        sample.grow();
        sample
    }

    /// Lets a process write one more chapter.
    fn grow(&self) {
        let boot = InstanceId::from_bytes(&[7; 16]).expect("16 bytes");
        // What has an old record is not left for another file here.
        let files = LogFiles { rotate_age: Duration::from_secs(10 * 366 * 86_400), ..LogFiles::from(self.0.path()) };
        let log = AuditLog::open(files, boot).expect("opens");
        for number in 0..RECORDS {
            drop(log.record(permit(number)).expect("accepted"));
        }
        log.close().expect("all is written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// All lines of both files, each with its end.
    fn lines(&self) -> Vec<String> {
        let text = |path: PathBuf| fs::read_to_string(path).expect("reads");
        let both = text(self.path("audit-000000000001.jsonl")) + &text(self.path(FILE_NAME));
        both.split_inclusive('\n').map(str::to_owned).collect()
    }

    /// Writes the lines back, 16 of them into the first file.
    fn put(&self, lines: &[String]) {
        let first = lines.len().min(16);
        fs::write(self.path("audit-000000000001.jsonl"), lines[..first].concat()).expect("writes");
        fs::write(self.path(FILE_NAME), lines[first..].concat()).expect("writes");
    }

    fn verify(&self, evidence: &Evidence) -> Report {
        verify(&Log::Directory(self.0.path().to_owned()), evidence).expect("reads")
    }

    /// Only what a reader without any key would know, and nothing that lies beside the log.
    fn files(&self) -> Log {
        Log::Files(vec![self.path("audit-000000000001.jsonl"), self.path(FILE_NAME)])
    }

    fn with_key(&self) -> Report {
        let evidence = Evidence { key: Some(self.path("chain.key")), ..Evidence::default() };
        verify(&self.files(), &evidence).expect("reads")
    }

    fn with_public_key(&self) -> Report {
        let evidence = Evidence { public: Some(self.path("chain.pub")), ..Evidence::default() };
        verify(&self.files(), &evidence).expect("reads")
    }
}

fn permit(policy: usize) -> Event {
    Event::Started { version: Text::new("0.1.0"), policy: Text::new(policy) }
}

/// A line with other content, whose hash and those after it were made anew by somebody who has no key.
fn resealed(lines: &mut [String], from: usize, change: impl Fn(&str) -> String) {
    let seal = |line: &str| Seal::split(line.trim_end().as_bytes()).expect("a seal").1;
    let mut before = if from == 0 { Hex([0; 32]) } else { seal(&lines[from - 1]).hash };
    for (index, line) in lines.iter_mut().enumerate().skip(from) {
        let changed = if index == from { change(line) } else { line.clone() };
        let (record, old) = Seal::split(changed.trim_end().as_bytes()).expect("a seal");
        let mut record = record.to_vec();
        let text = String::from_utf8(record.clone()).expect("text");
        if let Some(at) = text.find("\"afterHash\":\"") {
            record.splice(at + 13..at + 77, before.to_string().into_bytes());
        }
        let hash = running(&before, &record);
        Seal { hash, ..old }.append_to(&mut record);
        *line = String::from_utf8(record).expect("text") + "\n";
        before = hash;
    }
}

type Change = fn(&mut Vec<String>);

/// What is done to the lines, and what the holder of the secret key is told: the record, what was done, and the line (of the first file up to 16).
const CHANGES: &[(&str, Change, u64, Wrong, u64)] = &[
    ("edited", |lines| lines[4] = lines[4].replace("0.1.0", "0.2.0"), 5, Wrong::Edited, 5),
    ("edited time", |lines| lines[4] = lines[4].replacen("\"time\":\"2", "\"time\":\"1", 1), 5, Wrong::Edited, 5),
    ("a number edited", |lines| lines[4] = lines[4].replacen("\"seq\":5", "\"seq\":9", 1), 5, Wrong::Removed, 5),
    ("made no record", |lines| lines[4] = lines[4].replacen('{', "[", 1), 5, Wrong::Edited, 5),
    ("emptied", |lines| lines[4] = "\n".to_owned(), 5, Wrong::Edited, 5),
    ("edited and resealed", |lines| resealed(lines, 4, |line| line.replace("0.1.0", "0.2.0")), 5, Wrong::Edited, 5),
    ("a chapter edited", |lines| lines[8] = lines[8].replace("\"void\":0", "\"void\":1"), 9, Wrong::Edited, 9),
    ("a checkpoint edited", |lines| lines[7] = lines[7].replace("true", "false"), 8, Wrong::Edited, 8),
    (
        "a signature edited",
        |lines| {
            let at = lines[7].len() - 10;
            let other = if &lines[7][at..=at] == "0" { "1" } else { "0" };
            lines[7].replace_range(at..=at, other);
        },
        8,
        Wrong::Edited,
        8,
    ),
    ("a copy inserted", |lines| lines.insert(6, lines[3].clone()), 4, Wrong::Inserted, 7),
    ("a copy inserted at once", |lines| lines.insert(4, lines[3].clone()), 4, Wrong::Inserted, 5),
    (
        "an invention inserted",
        |lines| lines.insert(4, lines[3].replace("\"seq\":4", "\"seq\":5")),
        5,
        Wrong::Inserted,
        5,
    ),
    (
        "a far one inserted",
        |lines| lines.insert(4, lines[3].replace("\"seq\":4", "\"seq\":4000")),
        4000,
        Wrong::Inserted,
        5,
    ),
    (
        "one without a seal inserted",
        |lines| {
            lines.insert(4, "{\"v\":1,\"seq\":5,\"time\":\"2026-11-22\",\"boot\":\"b\",\"event\":\"gap\"}\n".to_owned())
        },
        5,
        Wrong::Inserted,
        5,
    ),
    ("a remark inserted", |lines| lines.insert(4, "# nothing to see\n".to_owned()), 5, Wrong::Inserted, 5),
    ("an empty line inserted", |lines| lines.insert(4, "\n".to_owned()), 5, Wrong::Inserted, 5),
    ("removed", |lines| drop(lines.remove(4)), 5, Wrong::Removed, 5),
    ("several removed", |lines| drop(lines.drain(4..7)), 5, Wrong::Removed, 5),
    (
        "removed and the rest resealed",
        |lines| {
            lines.remove(4);
            resealed(lines, 4, str::to_owned);
        },
        5,
        Wrong::Removed,
        5,
    ),
    ("a chapter removed", |lines| drop(lines.drain(8..16)), 9, Wrong::Removed, 9),
    ("the last of a chapter removed", |lines| drop(lines.remove(7)), 8, Wrong::Removed, 8),
    ("reordered", |lines| lines.swap(4, 5), 6, Wrong::Reordered, 5),
    ("far ones reordered", |lines| lines.swap(2, 6), 7, Wrong::Reordered, 3),
    ("the head cut off", |lines| drop(lines.drain(..3)), 4, Wrong::HeadCutOff, 1),
    ("the first chapter cut off", |lines| drop(lines.drain(..8)), 1, Wrong::HeadCutOff, 1),
];

#[test]
fn whoever_has_the_key_is_told_the_record_that_was_changed_and_how() {
    let sample = Sample::new();
    assert_eq!(sample.with_key().finding, None);
    for (name, change, seq, wrong, line) in CHANGES {
        let whole = sample.lines();
        let mut lines = whole.clone();
        change(&mut lines);
        sample.put(&lines);
        let finding = sample.with_key().finding.unwrap_or_else(|| panic!("{name}: not found"));
        assert_eq!((finding.seq, finding.wrong), (*seq, *wrong), "{name}: {finding}");
        assert_eq!(finding.place.as_ref().map(|place| place.line), Some(*line), "{name}: {finding}");
        assert_eq!(finding.place.expect("a place").file, sample.path("audit-000000000001.jsonl"), "{name}");
        sample.put(&whole);
    }
}

#[test]
fn whoever_has_the_public_key_finds_every_change_too() {
    let sample = Sample::new();
    assert_eq!(sample.with_public_key().finding, None);
    for (name, change, seq, wrong, _) in CHANGES {
        let whole = sample.lines();
        let mut lines = whole.clone();
        change(&mut lines);
        sample.put(&lines);
        let finding = sample.with_public_key().finding.unwrap_or_else(|| panic!("{name}: not found"));
        // Whoever made the hashes anew has no signature; and without the chapters in between no key is led to.
        let expected = match *name {
            "edited and resealed" | "a signature edited" => (2, Wrong::Rewritten),
            "the first chapter cut off" => (9, Wrong::Key),
            _ => (*seq, *wrong),
        };
        assert_eq!((finding.seq, finding.wrong), expected, "{name}: {finding}");
        sample.put(&whole);
    }
}

/// Every byte counts. The digits of a MAC are the only ones that a public key does not vouch for.
#[test]
fn no_byte_can_be_changed() {
    let sample = Sample::new();
    let whole = fs::read(sample.path(FILE_NAME)).expect("reads");
    let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    // The first record of a chapter, one in its midst, and the last.
    let mut start = 0;
    for (index, line) in lines.iter().enumerate() {
        if [0, 3, lines.len() - 1].contains(&index) {
            for at in (start..start + line.len() - 1).step_by(3) {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                fs::write(sample.path(FILE_NAME), &changed).expect("writes");
                assert!(sample.with_key().finding.is_some(), "byte {at} of line {index}");
            }
        }
        start += line.len();
    }
}

/// L07: somebody takes over the machine, has all that the process has at that moment, and writes a past of their own.
#[test]
fn the_keys_of_the_present_do_not_make_a_past() {
    let sample = Sample::new();
    let state = State::read(sample.0.path()).expect("reads").expect("is there");
    let lines = sample.lines();
    // All chapters anew, from the seed that lies there: it is that of chapter 3.
    let boot = InstanceId::from_bytes(&[7; 16]).expect("16 bytes");
    let mut forged = Vec::new();
    let mut next = State { chapter: 0, ..state };
    let mut last = Position { seq: 0, hash: Hex([0; 32]) };
    for chapter in 0..3 {
        let time = "2026-11-22".parse().expect("a time");
        let (mut chain, first, after) = Chain::begin(&next, last, &Void::default(), boot, time).expect("writable");
        forged.extend(first);
        for number in 0..RECORDS {
            let policy = if (chapter, number) == (1, 2) { 666 } else { number };
            chain.seal(time, permit(policy), &mut forged).expect("writable");
        }
        chain.seal(time, chain.checkpoint(true), &mut forged).expect("writable");
        (last, next) = (chain.last(), after);
    }
    let forged: Vec<_> = String::from_utf8(forged).expect("text").split_inclusive('\n').map(str::to_owned).collect();
    assert_eq!(forged.len(), lines.len());
    sample.put(&forged);
    for report in [sample.with_key(), sample.with_public_key()] {
        let finding = report.finding.expect("is found");
        assert_eq!((finding.seq, finding.wrong), (1, Wrong::Key), "{finding}");
    }
    // From the last genuine record on, the future can be forged: that is what a present key is.
    let genuine = 16;
    let mut mixed = lines[..genuine].to_vec();
    mixed.extend(forged[genuine..].iter().cloned());
    sample.put(&mixed);
    assert_eq!(sample.with_key().finding.expect("is found").seq, 17);
}

/// L08: log and state are put back together to what they were; only what was kept elsewhere knows better.
#[test]
fn an_older_copy_of_everything_is_found_by_what_was_kept_elsewhere() {
    let sample = Sample::new();
    let before: Vec<_> = fs::read_dir(sample.0.path())
        .expect("reads")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(path).expect("reads")))
        .collect();
    sample.grow();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let kept = elsewhere.path().join("anchor.jsonl");
    fs::write(&kept, sample.lines().last().expect("a line")).expect("writes");
    let evidence = Evidence { anchors: vec![kept], ..Evidence::default() };
    assert_eq!(sample.verify(&evidence).finding, None);

    before.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("writes"));
    assert_eq!(sample.verify(&Evidence::default()).finding, None, "by itself it is whole");
    let finding = sample.verify(&evidence).finding.expect("is found");
    assert_eq!((finding.seq, finding.wrong), (25, Wrong::CutOff), "{finding}");
    let at_least = Evidence { at_least: Some(30), ..Evidence::default() };
    assert_eq!(sample.verify(&at_least).finding.expect("is found").wrong, Wrong::CutOff);
    assert_eq!(sample.verify(&Evidence { at_least: Some(24), ..Evidence::default() }).finding, None);

    // The process goes on from there and gets past the anchor: another record has its number.
    sample.grow();
    let finding = sample.verify(&evidence).finding.expect("is found");
    assert_eq!((finding.seq, finding.wrong), (32, Wrong::Anchor), "{finding}");
}

/// L05: a log that was closed knows its end; one that was not has to be held to an anchor.
#[test]
fn a_tail_that_was_cut_off_is_missed() {
    let sample = Sample::new();
    let whole = sample.lines();
    for cut in 1..7 {
        sample.put(&whole[..whole.len() - cut]);
        let finding = sample.verify(&Evidence::default()).finding.expect("is found");
        assert_eq!((finding.seq, finding.wrong), (25 - cut as u64, Wrong::CutOff), "{finding}");
    }
    let anchor = sample.path("anchor.json");
    let last: Entry = serde_json::from_str(&whole[23]).expect("a record");
    let hash = Seal::split(whole[23].trim_end().as_bytes()).expect("a seal").1.hash;
    let status = format!("{{\n \"audit\": {{\"checkpoint\": {{\"seq\": {}, \"hash\": \"{hash}\"}}}}\n}}\n", last.seq);
    fs::write(&anchor, status).expect("writes");
    sample.put(&whole[..20]);
    let evidence = Evidence { anchors: vec![anchor], ..Evidence::default() };
    let finding = verify(&sample.files(), &evidence).expect("reads").finding.expect("is found");
    assert_eq!((finding.seq, finding.wrong), (21, Wrong::CutOff));
}

#[test]
fn one_file_alone_is_held_to_an_anchor_of_the_record_before_it() {
    let sample = Sample::new();
    let anchor = sample.path("anchor.jsonl");
    fs::write(&anchor, &sample.lines()[15]).expect("writes");
    let last = Log::Files(vec![sample.path(FILE_NAME)]);
    let alone = verify(&last, &Evidence::default()).expect("reads");
    assert_eq!(alone.finding.expect("is found").wrong, Wrong::HeadCutOff);
    let held = verify(&last, &Evidence { anchors: vec![anchor], ..Evidence::default() }).expect("reads");
    // The checkpoint names the key of the chapter that follows it.
    assert_eq!((held.finding, held.proof, held.first_seq), (None, Proof::PublicKey, 17));
}

#[test]
fn a_whole_log_with_other_keys_is_another_log() {
    let (sample, other) = (Sample::new(), Sample::new());
    let evidence = Evidence { key: Some(other.path("chain.key")), ..Evidence::default() };
    assert_eq!(sample.verify(&evidence).finding.expect("is found").wrong, Wrong::OtherLog);
    let evidence = Evidence { public: Some(other.path("chain.pub")), ..Evidence::default() };
    assert_eq!(sample.verify(&evidence).finding.expect("is found").wrong, Wrong::OtherLog);
    // Without any key nothing can be said against it, and that is said.
    let report = verify(&sample.files(), &Evidence::default()).expect("reads");
    assert_eq!((&report.finding, report.proof), (&None, Proof::Itself));
    assert!(report.notes.iter().any(|note| note.0.contains("no key was given")), "{report:?}");
}

#[test]
fn a_log_without_seals_proves_nothing() {
    let line =
        |seq: u64| format!("{{\"v\":1,\"seq\":{seq},\"time\":\"2026-11-22\",\"boot\":\"b\",\"event\":\"gap\"}}\n");
    let report = verify_content(Path::new("old.jsonl"), (line(1) + &line(2)).as_bytes()).expect("reads");
    assert_eq!(report.finding.expect("is found").wrong, Wrong::Unsealed);
    let empty = verify_content(Path::new("new.jsonl"), b"").expect("reads");
    assert_eq!((empty.finding, empty.records), (None, 0));

    // The chain of a log that is older than it begins after what is there, and says so.
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join(FILE_NAME), line(1) + &line(2)).expect("writes");
    let sample = Sample(directory);
    sample.grow();
    let report = sample.verify(&Evidence::default());
    assert_eq!((report.finding, report.first_seq), (None, 3));
    assert!(report.notes.iter().any(|note| note.0.contains("2 records from before the chain")), "{:?}", report.notes);
    // Nobody can claim that later.
    let whole = fs::read_to_string(sample.path(FILE_NAME)).expect("reads");
    fs::write(sample.path(FILE_NAME), line(1) + &line(2) + &line(3) + whole.split_once("\"gap\"}\n").expect("lines").1)
        .expect("writes");
    assert!(sample.verify(&Evidence::default()).finding.is_some());
}

#[test]
fn what_is_no_anchor_is_wrong_input() {
    let sample = Sample::new();
    let path = sample.path("anchor");
    for text in ["", "{}", "what is this", "{\"seq\":1,\"hash\":\"00\"}"] {
        fs::write(&path, text).expect("writes");
        let evidence = Evidence { anchors: vec![path.clone()], ..Evidence::default() };
        let error = verify(&sample.files(), &evidence).expect_err("is no anchor");
        assert!(matches!(error, VerifyError::Anchors { .. }), "{error}");
    }
    let evidence = Evidence { key: Some(path), ..Evidence::default() };
    assert!(matches!(verify(&sample.files(), &evidence), Err(VerifyError::Read { .. })));
}
