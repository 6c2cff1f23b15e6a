//! The log in real files: restarts, other files, old files, and what was done to them in between.

use std::fs::OpenOptions;
use std::io::Write;

use super::super::lines::old_files;
use super::super::verify::{Evidence, Log, Proof, verify};
use super::*;

/// A log in files of some 60 records each.
fn small(directory: &Path) -> LogFiles {
    LogFiles { rotate_size: 16 << 10, ..LogFiles::from(directory) }
}

async fn write(log: &AuditLog, count: usize) {
    for number in 0..count {
        log.record(permit(&number.to_string())).expect("accepted").await.expect("durable");
    }
}

fn verified(directory: &Path) -> Report {
    verify(&Log::Directory(directory.to_owned()), &Evidence::default()).expect("reads")
}

fn refused(directory: &Path) -> String {
    match AuditLog::open(directory, boot()) {
        Err(error @ AuditError::NotWhole { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn goes_on_in_another_file_and_the_chain_through_all_of_them() {
    let directory = tempfile::tempdir().expect("a directory");
    for _ in 0..2 {
        let log = AuditLog::open(small(directory.path()), boot()).expect("opens");
        write(&log, 100).await;
        log.close().expect("all is written");
    }
    let old = old_files(directory.path()).expect("lists");
    assert!(old.len() >= 3, "{old:?}");
    for (first_seq, path) in &old {
        let bytes = fs::read(path).expect("reads");
        let first: Entry =
            serde_json::from_slice(bytes.split(|&byte| byte == b'\n').next().unwrap()).expect("a record");
        assert_eq!((first.seq, first.event.as_str()), (*first_seq, "chapterBegun"));
        assert!(bytes.len() < 20 << 10, "{} bytes", bytes.len());
        assert_eq!(fs::metadata(path).expect("is there").permissions().mode() & 0o777, 0o600);
    }
    let report = verified(directory.path());
    assert_eq!((report.finding, report.proof, report.closed), (None, Proof::SecretKey, true));
    assert_eq!((report.first_seq, report.last_seq, report.records), (1, report.last_seq, report.last_seq));
    assert_eq!(report.chapters, old.len() as u64 + 2);
}

#[tokio::test]
async fn a_file_that_is_old_is_left_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = LogFiles { rotate_age: Duration::from_millis(50), ..LogFiles::from(directory.path()) };
    let log = AuditLog::open(files, boot()).expect("opens");
    write(&log, 1).await;
    let start = Instant::now();
    while old_files(directory.path()).expect("lists").is_empty() {
        assert!(start.elapsed() < PATIENCE, "it was not left");
        thread::yield_now();
    }
    log.close().expect("all is written");
    assert_eq!(verified(directory.path()).finding, None);
    assert_eq!(old_files(directory.path()).expect("lists").len(), 1, "an empty file is not left");
}

#[tokio::test]
async fn old_files_are_removed_by_size_and_the_log_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = LogFiles { keep_size: Some(40 << 10), ..small(directory.path()) };
    let log = AuditLog::open(files, boot()).expect("opens");
    write(&log, 400).await;
    log.close().expect("all is written");
    let old = old_files(directory.path()).expect("lists");
    assert!((1..=2).contains(&old.len()), "{old:?}");
    let report = verified(directory.path());
    assert_eq!(report.finding, None);
    assert_eq!(report.first_seq, old[0].0);
    assert!(report.notes.iter().any(|note| note.0.contains("were removed as the configuration wants")), "{report:?}");

    // An anchor of what is gone proves nothing of what is there.
    let anchor = directory.path().join("anchor");
    fs::write(&anchor, format!("{{\"seq\":2,\"hash\":\"{}\"}}", "0".repeat(64))).expect("writes");
    let evidence = Evidence { anchors: vec![anchor], ..Evidence::default() };
    let held = verify(&Log::Directory(directory.path().to_owned()), &evidence).expect("reads");
    assert_eq!(held.finding.expect("is found").wrong.as_str(), "anchor");

    // Whoever has only the public key follows the keys of the chapters that are gone.
    fs::remove_file(directory.path().join(KEY_NAME)).expect("removes");
    let public = verified(directory.path());
    assert_eq!((public.finding, public.proof), (None, Proof::PublicKey));
    fs::remove_file(directory.path().join("chapters.jsonl")).expect("removes");
    assert_eq!(verified(directory.path()).finding.expect("a gap").wrong.as_str(), "key");
}

/// A log of some files, closed.
async fn several(directory: &Path) -> Vec<(u64, PathBuf)> {
    let log = AuditLog::open(small(directory), boot()).expect("opens");
    write(&log, 200).await;
    log.close().expect("all is written");
    let old = old_files(directory).expect("lists");
    assert!(old.len() >= 3, "{old:?}");
    old
}

/// Lets a process look for old files as long as it finds some, and gives those that are there afterwards.
async fn looked_after(files: LogFiles, until: impl Fn(usize) -> bool) -> Vec<(u64, PathBuf)> {
    let directory = files.directory.clone();
    let log = AuditLog::open(files, boot()).expect("opens");
    // Each of these is a round; nothing is removed before the first record.
    let start = Instant::now();
    loop {
        write(&log, 1).await;
        if until(old_files(&directory).expect("lists").len()) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "they are still there");
    }
    log.close().expect("all is written");
    old_files(&directory).expect("lists")
}

#[tokio::test]
async fn old_files_are_removed_by_the_age_of_their_last_records() {
    let directory = tempfile::tempdir().expect("a directory");
    let old = several(directory.path()).await;
    // Whatever somebody makes of the files' own times.
    let past = std::time::SystemTime::UNIX_EPOCH;
    for (_, path) in &old {
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_modified(past)).expect("sets");
    }
    let keep = |keep_for| LogFiles { keep_for: Some(keep_for), ..LogFiles::from(directory.path()) };
    assert_eq!(looked_after(keep(Duration::from_secs(3600)), |_| true).await, old);
    // A number that the log has not got to makes no file one of its own, nor one that the last of them would have to lead to.
    let invented = directory.path().join("audit-999999999999.jsonl");
    fs::write(&invented, "").expect("writes");
    let left = looked_after(keep(Duration::from_nanos(1)), |count| count == 1).await;
    assert_eq!(left, [(999_999_999_999, invented.clone())]);
    fs::remove_file(invented).expect("removes");
    assert_eq!(verified(directory.path()).finding, None);
}

#[tokio::test]
async fn a_file_that_was_changed_is_never_removed_nor_makes_others_go() {
    type Change = fn(&Path, &[(u64, PathBuf)]);
    let forged: Change = |_, old| {
        let text = fs::read_to_string(&old[0].1).expect("reads").replacen("0.1.0", "6.6.6", 1);
        fs::write(&old[0].1, text).expect("writes");
    };
    let cut: Change = |_, old| {
        let text = fs::read_to_string(&old[0].1).expect("reads");
        let end = text.trim_end().rfind('\n').expect("lines") + 1;
        fs::write(&old[0].1, &text[..end]).expect("writes");
    };
    let stretched: Change = |_, old| {
        OpenOptions::new().write(true).open(&old[2].1).and_then(|file| file.set_len(1 << 40)).expect("stretches");
    };
    let invented: Change = |directory, _| {
        let file = fs::File::create(directory.join("audit-999999999999.jsonl")).expect("creates");
        file.set_len(1 << 40).expect("stretches");
    };
    let missing: Change = |_, old| fs::remove_file(&old[1].1).expect("removes");
    let age = (None, Some(Duration::from_nanos(1)));
    for (change, (keep_size, keep_for)) in [
        (forged, age),
        (cut, age),
        (missing, age),
        (stretched, (Some(1 << 20), None)),
        (invented, (Some(1 << 20), None)),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let old = several(directory.path()).await;
        change(directory.path(), &old);
        let before = old_files(directory.path()).expect("lists");
        let files = LogFiles { keep_size, keep_for, ..LogFiles::from(directory.path()) };
        assert_eq!(looked_after(files, |_| true).await, before);
    }
}

/// A process that is killed leaves what the kernel has of its last write, and all that was acknowledged before.
#[tokio::test]
async fn goes_on_after_any_cut_through_the_last_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    write(&log, 3).await;
    // The log is still open: what is copied here is what a killed process leaves.
    let files: Vec<_> = ["audit.jsonl", "chain.state", "chain.key", "chain.pub", "chapters.jsonl"]
        .map(|name| (name, fs::read(directory.path().join(name)).expect("reads")))
        .into();
    let content = &files[0].1;
    let last = content[..content.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("a line") + 1;
    for cut in (last..=content.len()).step_by(7).chain([content.len() - 1, content.len()]) {
        let copy = tempfile::tempdir().expect("a directory");
        for (name, bytes) in &files {
            fs::write(copy.path().join(name), bytes).expect("writes");
        }
        fs::write(copy.path().join(FILE_NAME), &content[..cut]).expect("writes");
        let before = verified(copy.path());
        assert_eq!((before.finding, before.closed), (None, false), "cut at {cut}");
        let log = AuditLog::open(copy.path(), boot()).expect("opens");
        write(&log, 1).await;
        log.close().expect("all is written");
        let after = verified(copy.path());
        assert_eq!((after.finding, after.chapters, after.closed), (None, 2, true), "cut at {cut}");
        let bytes = fs::read(copy.path().join(FILE_NAME)).expect("reads");
        assert!(bytes.starts_with(&content[..cut]), "nothing is taken away");
        let is_torn = (last + 1..content.len() - 1).contains(&cut);
        let told = after.notes.iter().any(|note| note.0.contains("bytes that a crash"));
        assert_eq!(told, is_torn, "cut at {cut}: {:?}", after.notes);
    }
}

#[tokio::test]
async fn a_crash_between_two_steps_of_a_new_chapter_harms_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("chain.state");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    let first = fs::read(&state).expect("reads");
    write(&log, 2).await;
    drop(log);
    // The first record of a chapter is on disk, the state after it is not.
    fs::write(&state, &first).expect("writes");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    write(&log, 1).await;
    drop(log);
    // A file was left for another, and that has nothing yet.
    fs::rename(directory.path().join(FILE_NAME), directory.path().join("audit-000000000001.jsonl")).expect("renames");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    write(&log, 1).await;
    drop(log);
    let report = verified(directory.path());
    assert_eq!((report.finding, report.chapters, report.files), (None, 3, 2));
}

/// Numbers of the chapters whose first lines are kept.
fn chapters_kept(directory: &Path) -> Vec<Option<u64>> {
    let text = fs::read_to_string(directory.join("chapters.jsonl")).expect("reads");
    text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()).map(|entry| entry.chapter).collect()
}

#[tokio::test]
async fn crashes_one_after_the_other_in_the_same_step_harm_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for _ in 0..3 {
        let log = AuditLog::open(directory.path(), boot()).expect("opens");
        let state = fs::read(path("chain.state")).expect("reads");
        let chapters = fs::read(path("chapters.jsonl")).unwrap_or_default();
        let before = fs::read(path(FILE_NAME)).expect("reads").len();
        write(&log, 1).await;
        drop(log);
        // Of all this only the first record of the chapter came to the disk, and a part of its line among those that are kept.
        let after = fs::read(path(FILE_NAME)).expect("reads");
        let begun = before + after[before..].iter().position(|&byte| byte == b'\n').expect("a line") + 1;
        fs::write(path(FILE_NAME), &after[..begun]).expect("writes");
        fs::write(path("chain.state"), state).expect("writes");
        fs::write(path("chapters.jsonl"), [&chapters[..], b"{\"v\":1,\"seq\""].concat()).expect("writes");
    }
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    write(&log, 1).await;
    log.close().expect("all is written");
    let report = verified(directory.path());
    assert_eq!((report.finding, report.chapters, report.closed), (None, 4, true));
    assert_eq!(chapters_kept(directory.path()), [Some(0), Some(1), Some(2), Some(3)]);
}

#[tokio::test]
async fn does_not_go_on_where_the_end_is_not_what_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    write(&log, 5).await;
    drop(log);
    let (whole, state) = (fs::read(path(FILE_NAME)).expect("reads"), fs::read(path("chain.state")).expect("reads"));
    let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();

    fs::write(path(FILE_NAME), lines[..4].concat()).expect("writes");
    assert!(refused(directory.path()).contains("cut off"));
    let edited = String::from_utf8(whole.clone()).expect("text").replacen("\"policy\":\"3\"", "\"policy\":\"8\"", 1);
    fs::write(path(FILE_NAME), edited).expect("writes");
    assert!(refused(directory.path()).contains("do not follow"));
    fs::write(path(FILE_NAME), &whole).expect("writes");
    fs::remove_file(path("chain.state")).expect("removes");
    assert!(refused(directory.path()).contains("chain.state"));
    fs::write(path("chain.state"), &state).expect("writes");
    for _ in 0..2 {
        drop(AuditLog::open(directory.path(), boot()).map(|log| log.record(permit("again"))).expect("opens"));
    }
    fs::write(path("chain.state"), &state).expect("writes");
    assert!(refused(directory.path()).contains("older copy"));

    let other = tempfile::tempdir().expect("a directory");
    fs::copy(path(KEY_NAME), other.path().join(KEY_NAME)).expect("copies");
    assert!(refused(other.path()).contains("another log"));
}

#[tokio::test]
async fn what_somebody_puts_in_the_place_of_the_file_is_not_written_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE_NAME);
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    write(&log, 1).await;
    fs::rename(&path, directory.path().join("moved")).expect("renames");
    fs::write(&path, "not ours\n").expect("writes");
    let refused = log.record(permit("a")).expect("accepted");
    assert!(matches!(refused.await, Err(AuditError::Unavailable)));
    assert_eq!(fs::read_to_string(&path).expect("reads"), "not ours\n");
    fs::remove_file(&path).expect("removes");
    recovered(&log).await;
    log.close().expect("all is written");
    // With the file that was moved away in its place again, nothing is missing.
    fs::rename(directory.path().join("moved"), directory.path().join("audit-000000000001.jsonl")).expect("renames");
    assert_eq!(verified(directory.path()).finding, None);
}

#[test]
fn a_file_that_cannot_be_made_durable_is_not_gone_on_with() {
    let (kept, gone) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let path = kept.path().join(FILE_NAME);
    let old = fs::File::create(&path).expect("creates");
    let mut file = file::LogFile::over(gone.path(), old, &path).expect("a lock");
    fs::remove_file(&path).expect("removes");
    drop(gone);
    assert!(file.replace().is_err(), "its directory cannot be synced");
    assert!(!path.exists() && !file.is_in_place().expect("a file"), "the writer tries again");
}

#[tokio::test]
async fn a_file_that_cannot_be_left_is_written_on() {
    let directory = tempfile::tempdir().expect("a directory");
    // The name that it would get is taken.
    fs::create_dir(directory.path().join("audit-000000000001.jsonl")).expect("creates");
    let log = AuditLog::open(small(directory.path()), boot()).expect("opens");
    write(&log, 200).await;
    assert!(log.healthy());
    log.close().expect("all is written");
    assert!(fs::metadata(directory.path().join(FILE_NAME)).expect("is there").len() > 32 << 10);
}

/// A log with one record, whose process was killed.
fn killed() -> tempfile::TempDir {
    let (directory, left) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(write(&log, 1));
    for name in [FILE_NAME, "chain.state", KEY_NAME, PUBLIC_NAME, "chapters.jsonl"] {
        fs::copy(directory.path().join(name), left.path().join(name)).expect("copies");
    }
    left
}

fn append(directory: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().append(true).open(directory.join(FILE_NAME));
    file.and_then(|mut file| file.write_all(bytes)).expect("writes");
}

#[test]
fn whole_records_without_a_seal_are_not_made_part_of_what_is_proved() {
    let record = r#"{"v":1,"seq":3,"time":"2026-11-22","boot":"b","event":"gap"}"#;
    for line in [record, "{\"seq\":99}\ngarbage"] {
        let directory = killed();
        append(directory.path(), line.as_bytes());
        assert!(refused(directory.path()).contains("have no seal"));
        // Nor in a file of their own.
        let name = directory.path().join(FILE_NAME);
        fs::rename(&name, directory.path().join("audit-000000000001.jsonl")).expect("renames");
        fs::write(&name, line).expect("writes");
        assert!(AuditLog::open(directory.path(), boot()).is_err());
    }
}

#[test]
fn what_counts_for_nothing_stays_what_it_was() {
    let directory = killed();
    append(directory.path(), b"{\"v\":1,\"seq\":3,\"ti");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    drop(log.record(permit("b")));
    drop(log);
    let path = directory.path().join(FILE_NAME);
    let whole = fs::read_to_string(&path).expect("reads");
    let report = verified(directory.path());
    assert_eq!(report.finding, None);
    let told = "19 bytes that a crash or a failed write left; record 3";
    assert!(report.notes.iter().any(|note| note.0.contains(told)), "{:?}", report.notes);
    // As long as what is there, once as a part of a record and once as something whole.
    for (other, wrong) in [("{\"v\":1,\"seq\":4,\"ti\n", "void"), ("{\"v\":1,\"seq\":3000}\n", "inserted")] {
        fs::write(&path, whole.replace("{\"v\":1,\"seq\":3,\"ti\n", other)).expect("writes");
        let finding = verified(directory.path()).finding.expect("is found");
        assert_eq!((finding.seq, finding.wrong.as_str()), (3, wrong), "{finding}");
    }
    assert_eq!(verify_content(Path::new(FILE_NAME), whole.as_bytes()).expect("reads").finding, None);
}
