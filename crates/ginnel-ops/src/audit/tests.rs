use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::task::Waker;
use std::time::{Duration, Instant};

use ginnel_core::audit::{Client, Entry, Text};
use ginnel_core::cause::{Cause, Hop};
use ginnel_core::id::RequestId;

use self::disk::{Disk, new_log};
use super::queue::{BACKLOG_MAX, GROUP_MAX, QUEUE_MAX, REFUSALS_MAX};
use super::verify::{Report, Wrong, verify_content};
use super::*;

mod disk;
mod files;

const PATIENCE: Duration = Duration::from_secs(30);

fn boot() -> InstanceId {
    InstanceId::from_bytes(&[7; 16]).expect("16 bytes")
}

fn permit(policy: &str) -> Event {
    Event::Started { version: Text::new("0.1.0"), policy: Text::new(policy) }
}

fn client() -> Client {
    let principal = "spiffe://acme.example/client/frontend".parse().expect("a principal");
    Client { principal, email: Text::new("frontend@p.iam.gserviceaccount.com") }
}

fn fact(cause: Cause) -> Event {
    Event::ClientDown { client: client(), instance: boot(), cause }
}

fn refusal() -> Event {
    Event::Refused {
        request_id: RequestId::from_bytes(&[1; 16]).expect("16 bytes"),
        client: Some(client()),
        client_claimed: None,
        agent: None,
        target: Text::new("x:1"),
        peer: "10.0.0.9:40000".parse().ok(),
        hop: Hop::Server,
        cause: Cause::NotAllowed,
        rule: None,
        policy: Text::new("5f3a"),
    }
}

/// What the chain itself has on record, which these tests do not count.
const OF_THE_CHAIN: [&str; 2] = ["chapterBegun", "checkpoint"];

/// Records as (number, word), and how many lines are none.
fn read(bytes: &[u8]) -> (Vec<(u64, String)>, usize) {
    let mut records = Vec::new();
    let mut others = 0;
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Entry>(line) {
            Ok(entry) if OF_THE_CHAIN.contains(&entry.event.as_str()) => {}
            Ok(entry) => records.push((entry.seq, entry.event)),
            Err(_) => others += 1,
        }
    }
    (records, others)
}

fn seqs(bytes: &[u8]) -> Vec<u64> {
    read(bytes).0.into_iter().map(|(seq, _)| seq).collect()
}

fn report(bytes: &[u8]) -> Report {
    verify_content(Path::new(FILE_NAME), bytes).expect("reads")
}

/// The log of a disk that has one record, so that its first chapter is there.
async fn begun(disk: &Disk) -> AuditLog {
    let log = disk.log();
    log.record(permit("first")).expect("accepted").await.expect("durable");
    log
}

fn poll(durable: &mut Durable) -> Poll<Result<(), AuditError>> {
    Pin::new(durable).poll(&mut Context::from_waker(Waker::noop()))
}

/// Retries a permit until the log takes it, as new sessions do.
async fn recovered(log: &AuditLog) {
    let start = Instant::now();
    loop {
        match log.record(permit("again")) {
            Ok(durable) => return durable.await.expect("durable"),
            Err(_) => assert!(start.elapsed() < PATIENCE, "never recovered"),
        }
        thread::yield_now();
    }
}

#[tokio::test]
async fn resolves_only_after_the_sync() {
    let disk = Disk::default();
    let log = begun(&disk).await;
    disk.set(|state| state.stopped = true);
    let mut durable = log.record(permit("a")).expect("accepted");
    disk.wait(|state| state.syncing);
    assert_eq!(seqs(&disk.state().bytes), [2, 3], "it is written");
    assert!(poll(&mut durable).is_pending(), "written is not durable");
    disk.set(|state| state.stopped = false);
    durable.await.expect("durable");
    assert!(disk.all_synced());
}

#[tokio::test]
async fn what_waits_for_a_sync_goes_out_as_one_group() {
    let disk = Disk::default();
    let log = begun(&disk).await;
    let syncs = disk.state().syncs;
    disk.set(|state| state.stopped = true);
    let second = log.record(permit("second")).expect("accepted");
    disk.wait(|state| state.syncing);
    let rest: Vec<_> = (0..GROUP_MAX).map(|_| log.record(permit("rest")).expect("accepted")).collect();
    disk.set(|state| state.stopped = false);
    second.await.expect("durable");
    for durable in rest {
        durable.await.expect("durable");
    }
    assert_eq!(disk.state().syncs, syncs + 2);
    assert_eq!(seqs(&disk.state().bytes).len(), GROUP_MAX + 2);
    assert_eq!(report(&disk.state().bytes).finding, None);
}

#[test]
fn a_thousand_concurrent_records_are_all_there_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    thread::scope(|scope| {
        for worker in 0..8 {
            let log = log.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                runtime.block_on(async {
                    let waiting: Vec<_> = (0..125)
                        .map(|number| log.record(permit(&format!("{worker}/{number}"))).expect("accepted"))
                        .collect();
                    for durable in waiting {
                        durable.await.expect("durable");
                    }
                });
            });
        }
    });
    let bytes = fs::read(directory.path().join(FILE_NAME)).expect("reads");
    assert_eq!(seqs(&bytes).len(), 1000);
    assert_eq!(report(&bytes).finding, None);
    let mut policies: Vec<_> = bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Entry>(line).ok()?.policy)
        .collect();
    policies.sort();
    policies.dedup();
    assert_eq!(policies.len(), 1000);
}

#[tokio::test]
async fn a_full_disk_refuses_permits_keeps_facts_and_recovers() {
    for append_only in [false, true] {
        let disk = Disk::default();
        let log = disk.log();
        log.record(permit("before")).expect("accepted").await.expect("durable");
        disk.set(|state| (state.room, state.append_only) = (Some(40), append_only));

        let unlucky = log.record(permit("unlucky")).expect("accepted");
        assert!(matches!(unlucky.await, Err(AuditError::Unavailable)));
        assert!(!log.healthy());
        assert!(matches!(log.record(permit("refused")), Err(AuditError::Unavailable)));
        assert!(matches!(log.record(fact(Cause::Aborted)), Err(AuditError::Unavailable)));
        let failures = disk.state().failures;
        disk.wait(|state| state.failures > failures);

        disk.set(|state| state.room = None);
        recovered(&log).await;
        assert!(log.healthy());
        log.close().expect("all is written");

        let bytes = disk.state().bytes.clone();
        let (records, others) = read(&bytes);
        let words: Vec<_> = records.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["started", "started", "clientDown", "started"], "{append_only}");
        assert!(if append_only { others > 0 } else { others == 0 }, "a fragment stays only where nothing can be cut");
        let report = report(&bytes);
        assert_eq!((report.finding, report.closed), (None, true));
    }
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_writes_all_of_it_again() {
    let disk = Disk::default();
    disk.set(|state| state.syncs_fail = true);
    let log = disk.log();
    let durable = log.record(permit("a")).expect("accepted");
    assert!(matches!(durable.await, Err(AuditError::Unavailable)));
    disk.wait(|state| state.failures >= 3);
    disk.set(|state| state.syncs_fail = false);
    recovered(&log).await;
    assert_eq!(seqs(&disk.state().bytes), [2, 3]);
}

#[tokio::test]
async fn nothing_is_written_in_a_chapter_whose_keys_may_still_lie_on_the_disk() {
    let disk = Disk::default();
    disk.set(|state| state.states_fail = true);
    let log = disk.log();
    let durable = log.record(permit("a")).expect("accepted");
    assert!(matches!(durable.await, Err(AuditError::Unavailable)));
    disk.wait(|state| state.failures >= 3);
    assert_eq!(seqs(&disk.state().bytes), [0; 0]);
    disk.set(|state| state.states_fail = false);
    recovered(&log).await;
    assert_eq!(seqs(&disk.state().bytes), [2, 3]);
    assert_eq!(disk.state().states, [1], "the chapter begins once");
    assert_eq!(report(&disk.state().bytes).finding, None);
}

#[tokio::test]
async fn a_log_whose_file_is_removed_goes_on_in_another_and_says_what_is_missing() {
    let disk = Disk::default();
    let log = begun(&disk).await;
    disk.set(|state| state.removed = true);
    log.record(permit("second")).expect("accepted").await.expect("durable");
    assert_eq!(seqs(&disk.state().bytes), [4]);
    disk.set(|state| state.stopped = true);
    let unlucky = log.record(permit("third")).expect("accepted");
    disk.wait(|state| state.syncing);
    disk.set(|state| (state.stopped, state.removed) = (false, true));
    assert!(matches!(unlucky.await, Err(AuditError::Unavailable)), "it went into a file that is gone");
    recovered(&log).await;
    assert_eq!(seqs(&disk.state().bytes), [6, 7]);
    log.close().expect("all is written");

    // With all files at hand nothing is missing, also where a write went on into one that had been moved.
    let state = disk.state();
    let files = [&state.moved[0][..], &state.moved[1], &state.bytes];
    assert_eq!(report(&files.concat()).finding, None);
    let missing = |files: &[&[u8]]| report(&files.concat()).finding.map(|finding| (finding.seq, finding.wrong));
    assert_eq!(missing(&[files[0], files[2]]), Some((3, Wrong::Removed)));
    assert_eq!(missing(&files[1..]), Some((1, Wrong::HeadCutOff)));
}

#[tokio::test]
async fn a_stopped_disk_overloads_in_bounded_memory_and_the_log_says_what_is_missing() {
    let disk = Disk::default();
    disk.set(|state| state.stopped = true);
    let log = disk.log();
    log.record(permit("in hand")).expect("accepted");
    disk.wait(|state| state.syncing);
    for _ in 1..QUEUE_MAX {
        log.record(permit("waiting")).expect("accepted");
    }
    assert!(matches!(log.record(permit("one too many")), Err(AuditError::Overloaded)));
    for _ in 0..3 {
        assert!(matches!(log.record(refusal()), Err(AuditError::Overloaded)));
    }
    // The gap took a place as well.
    for _ in QUEUE_MAX + 1..BACKLOG_MAX {
        log.record(fact(Cause::Aborted)).expect("facts have room of their own");
    }
    for _ in 0..1000 {
        assert!(matches!(log.record(fact(Cause::Aborted)), Err(AuditError::Overloaded)));
    }
    disk.set(|state| state.stopped = false);
    log.close().expect("all is written");

    let bytes = disk.state().bytes.clone();
    let (records, _) = read(&bytes);
    assert_eq!((records.len(), report(&bytes).finding), (BACKLOG_MAX + 1, None));
    assert_eq!(records[QUEUE_MAX].1, "gap");
    assert_eq!(records[BACKLOG_MAX].1, "gap");
    let gaps: Vec<_> = bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Entry>(line).ok())
        .filter(|entry| entry.event == "gap")
        .filter_map(|entry| entry.records)
        .collect();
    assert_eq!(gaps, [3, 1000]);
}

/// A flood of refusals, which anybody can cause: each is on record or counted there, and permits have room beside it.
#[test]
fn a_flood_of_refusals_is_counted_to_the_last_and_leaves_room_for_permits() {
    const FLOOD: usize = 100_000;
    const THREADS: usize = 4;
    let disk = Disk::default();
    disk.set(|state| state.stopped = true);
    let log = disk.log();
    let first = log.record(permit("in hand")).expect("accepted");
    disk.wait(|state| state.syncing);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..FLOOD / THREADS).for_each(|_| drop(log.record(refusal()))));
        }
    });
    let room = QUEUE_MAX - REFUSALS_MAX - 1;
    let permits: Vec<_> = (0..room).map(|_| log.record(permit("beside")).expect("has room")).collect();
    disk.set(|state| state.stopped = false);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for durable in permits.into_iter().chain([first]) {
            durable.await.expect("durable");
        }
    });
    log.close().expect("all is written");
    let bytes = disk.state().bytes.clone();
    let entries = || bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
    let written = entries().filter(|entry| entry.event == "refused").count();
    let counted: u64 = entries().filter(|entry| entry.event == "gap").filter_map(|entry| entry.records).sum();
    assert_eq!(written as u64 + counted, FLOOD as u64);
    assert_eq!(written, REFUSALS_MAX - 1, "what has room is kept");
    assert_eq!(report(&bytes).finding, None);
}

#[tokio::test]
async fn records_do_not_wait_until_many_old_files_are_removed() {
    let disk = Disk::default();
    disk.set(|state| (state.ancient, state.stopped) = ((1..=5).collect(), true));
    let files = LogFiles { keep_for: Some(Duration::from_secs(3600)), ..LogFiles::from(Path::new("nowhere")) };
    let log = disk.log_of(files);
    log.record(permit("in hand")).expect("accepted");
    disk.wait(|state| state.syncing);
    for _ in 0..3 * GROUP_MAX {
        log.record(permit("waiting")).expect("accepted");
    }
    disk.set(|state| state.stopped = false);
    log.close().expect("all is written");
    let (records, _) = read(&disk.state().bytes);
    let removals: Vec<_> =
        (0..).zip(&records).filter(|(_, (_, word))| word == "fileRemoved").map(|(at, _)| at).collect();
    let groups = [1, 2 + GROUP_MAX, 3 + 2 * GROUP_MAX, 4 + 3 * GROUP_MAX];
    assert_eq!(removals[..4], groups, "one after each group");
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_refuses_the_rest() {
    let disk = Disk::default();
    let log = disk.log();
    let durables: Vec<_> = (0..10).map(|_| log.record(fact(Cause::Finished)).expect("accepted")).collect();
    let clone = log.clone();
    clone.close().expect("all is written");
    assert!(disk.all_synced());
    assert_eq!(seqs(&disk.state().bytes).len(), 10);
    assert!(matches!(log.record(fact(Cause::Finished)), Err(AuditError::Closed)));
    assert!(!log.healthy());
    for durable in durables {
        durable.await.expect("durable");
    }
    log.close().expect("closing twice is closing");
}

#[tokio::test]
async fn closing_a_failed_log_says_so() {
    let disk = Disk::default();
    disk.set(|state| state.room = Some(0));
    let log = disk.log();
    let durable = log.record(permit("a")).expect("accepted");
    assert!(matches!(durable.await, Err(AuditError::Unavailable)));
    assert!(matches!(log.close(), Err(AuditError::Unavailable)));
    assert!(disk.state().bytes.iter().all(|&byte| byte == b'\n'));
}

#[test]
fn dropping_the_last_handle_writes_what_is_queued() {
    let disk = Disk::default();
    let log = disk.log();
    let (sent, received) = mpsc::channel();
    for clone in [log.clone(), log] {
        let sent = sent.clone();
        thread::spawn(move || {
            clone.record(fact(Cause::Finished)).map(drop).expect("accepted");
            drop(clone);
            sent.send(()).expect("somebody waits");
        });
    }
    for _ in 0..2 {
        received.recv_timeout(PATIENCE).expect("dropping ends");
    }
    assert_eq!(seqs(&disk.state().bytes), [2, 3]);
}

#[tokio::test]
async fn a_device_without_room_is_a_failed_log() {
    let device = Path::new("/dev/full");
    let Ok(full) = fs::OpenOptions::new().append(true).open(device) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let file = file::LogFile::over(directory.path(), full, device).expect("a lock");
    let writer = Writer::new(file, boot(), new_log(), directory.path().into(), Retry::default());
    let log = AuditLog::start(writer).expect("a thread");
    let durable = log.record(permit("a")).expect("accepted");
    assert!(matches!(durable.await, Err(AuditError::Unavailable)));
    assert!(!log.healthy());
    assert!(matches!(log.close(), Err(AuditError::Unavailable)));
}

#[tokio::test]
async fn a_restart_goes_on_with_the_next_number() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().join("deep/audit");
    for start in 0..3 {
        let log = AuditLog::open(&directory, boot()).expect("opens");
        for _ in 0..2 {
            log.record(permit(&start.to_string())).expect("accepted").await.expect("durable");
        }
    }
    let path = directory.join(FILE_NAME);
    let bytes = fs::read(&path).expect("reads");
    let report = report(&bytes);
    assert_eq!((seqs(&bytes).len(), report.chapters, report.finding, report.closed), (6, 3, None, true));
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
}

/// What was in the file, of a log from before there were chains; the number of the chain's first record; how many lines are no records once one
/// more was written.
#[tokio::test]
async fn opens_after_any_crash() {
    let line = |seq: u64| {
        format!(r#"{{"v":1,"seq":{seq},"time":"2026-11-22T01:56:13.000001Z","boot":"07","event":"started"}}"#)
    };
    let long = "x".repeat(5 << 20);
    let cases = [
        ("nothing", String::new(), Some((1, 0))),
        ("a whole log", format!("{}\n{}\n", line(1), line(2)), Some((3, 0))),
        ("a cut record", format!("{}\n{}", line(1), &line(2)[..20]), Some((2, 1))),
        ("a record without its line end", format!("{}\n{}", line(1), line(2)), Some((3, 0))),
        ("a cut first record", line(1)[..20].to_owned(), Some((1, 1))),
        ("an older fragment", format!("{}\n{}\n", line(8), &line(9)[..20]), Some((9, 1))),
        ("garbage before the records", format!("{long}\n{}\n", line(4)), Some((5, 1))),
        ("a newer version's record", line(5).replacen("\"v\":1", "\"v\":9", 1) + "\n", Some((6, 0))),
        ("something else", long.clone(), None),
        ("the last number there is", format!("{}\n", line(u64::MAX)), None),
    ];
    for (name, content, expected) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, &content).expect("writes");
        // The records are old, and would be left for another file.
        let age = Duration::from_secs(10 * 366 * 86_400);
        let files = LogFiles { rotate_age: age, ..LogFiles::from(directory.path()) };
        let log = match AuditLog::open(files, boot()) {
            Ok(log) => log,
            Err(error) => {
                assert!(expected.is_none() && matches!(error, AuditError::NotALog { .. }), "{name}: {error}");
                continue;
            }
        };
        log.record(permit("after")).expect("accepted").await.expect("durable");
        let bytes = fs::read(&path).expect("reads");
        assert!(bytes.starts_with(content.as_bytes()), "{name}: nothing is taken away");
        let (records, others) = read(&bytes);
        assert_eq!(records.last().map(|(seq, _)| (*seq - 1, others)), expected, "{name}");
    }
}

#[test]
fn one_log_has_one_writer() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = AuditLog::open(directory.path(), boot()).expect("opens");
    assert!(matches!(AuditLog::open(directory.path(), boot()), Err(AuditError::InUse { .. })));
    drop(log);
    AuditLog::open(directory.path(), boot()).expect("opens once the first is closed");
}

#[test]
fn says_why_it_cannot_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("writes");
    assert!(matches!(AuditLog::open(&file, boot()), Err(AuditError::Directory { .. })));
    fs::create_dir(directory.path().join(FILE_NAME)).expect("creates");
    assert!(matches!(AuditLog::open(directory.path(), boot()), Err(AuditError::Open { .. })));
}

/// However much of a record gets out before the disk fails: every acknowledged record is there, whole and in order.
#[tokio::test]
async fn nothing_acknowledged_is_lost_whatever_the_disk_does() {
    for append_only in [false, true] {
        let disk = Disk::default();
        disk.set(|state| state.append_only = append_only);
        let log = disk.log();
        let mut acknowledged = VecDeque::new();
        for round in 0..300_usize {
            disk.set(|state| (state.room, state.syncs_fail) = (Some(2 * round), round % 7 == 0));
            let name = round.to_string();
            match log.record(permit(&name)).expect("the log has recovered").await {
                Ok(()) => acknowledged.push_back(name),
                Err(_) => {
                    disk.set(|state| (state.room, state.syncs_fail) = (None, false));
                    recovered(&log).await;
                }
            }
        }
        disk.set(|state| (state.room, state.syncs_fail) = (None, false));
        log.close().expect("all is written");
        assert!(
            (100..200).contains(&acknowledged.len()),
            "some rounds have room, some have not: {}",
            acknowledged.len()
        );

        let bytes = disk.state().bytes.clone();
        let report = report(&bytes);
        assert_eq!((&report.finding, report.closed), (&None, true));
        assert!(append_only || read(&bytes).1 == 0, "no fragments");
        for line in bytes.split(|&byte| byte == b'\n') {
            let policy = serde_json::from_slice::<Entry>(line).ok().and_then(|entry| entry.policy);
            if policy.is_some() && policy.as_ref() == acknowledged.front() {
                acknowledged.pop_front();
            }
        }
        assert!(acknowledged.is_empty(), "lost: {acknowledged:?}");
    }
}
