use std::fs;

use super::super::FILE_NAME;
use super::*;

/// Lines as `ginnel-core` writes them, and others.
const LOG: &str = r#"{"v":1,"seq":1,"time":"2026-11-22T01:00:00.000000Z","boot":"b0","event":"enrolled","principal":"spiffe://acme.example/agent/acme","email":"agent@p.example","serial":"0aff","notAfter":"2026-11-23T01:00:00.000000Z","peer":"203.0.113.20:51000"}
{"v":1,"seq":2,"time":"2026-11-22T02:00:00.000000Z","boot":"b0","event":"linkUp","agent":"spiffe://acme.example/agent/acme","agentEmail":"agent@p.example","agentInstance":"a1","peer":"203.0.113.20:51000","version":"0.1.0","serial":"0aff"}
{"v":1,"seq":3,"time":"2026-11-22T03:00:00.000000Z","boot":"b0","event":"ended","requestId":"11111111111111111111111111111111","client":"spiffe://acme.example/client/frontend","clientEmail":"frontend@p.example","agent":"spiffe://acme.example/agent/acme","agentEmail":"agent@p.example","agentInstance":"a1","target":"gitlab.acme.internal:443","peer":"10.0.0.9:40000","rule":"gitlab","policy":"5f3a","bytesUp":517,"bytesDown":4096,"durationMs":1250,"hop":"target","cause":"finished"}
{"v":1,"seq":4,"time":"2026-11-22T04:00:00.000000Z","boot":"b0","event":"refused","requestId":"22222222222222222222222222222222","client":"spiffe://acme.example/client/frontend","clientEmail":"frontend@p.example","target":"[fd00::1]:22","peer":"10.0.0.9:40000","hop":"server","cause":"notAllowed","policy":"5f3a"}
{"v":1,"seq":5,"time":"2026-11-22T05:00:00.000000Z","boot":"b0","event":"enrolmentRefused","reason":"signature","email":"acme@p.example","peer":"203.0.113.20:51000"}
{"v":2,"seq":6,"time":"2026-11-22T06:00:00.000000Z","boot":"b0","event":"resumed","requestId":"11111111111111111111111111111111","mac":[1,2]}
"#;

fn run(content: &[u8], filter: &Filter, json: bool) -> (Summary, String) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join(FILE_NAME), content).expect("writes");
    let mut out = Vec::new();
    let summary = show(&[directory.path().to_owned()], filter, json, &mut out).expect("reads");
    (summary, String::from_utf8(out).expect("UTF-8"))
}

#[test]
fn every_condition_of_a_filter_holds() {
    type Set = fn(&mut Filter, String);
    type Case<'a> = (&'a [(Set, &'a str)], &'a [u64]);
    let event: Set = |filter, text| filter.event = Some(text);
    let request: Set = |filter, text| filter.request = Some(text);
    let client: Set = |filter, text| filter.client = Some(text);
    let agent: Set = |filter, text| filter.agent = Some(text);
    let target: Set = |filter, text| filter.target = Some(text);
    let cause: Set = |filter, text| filter.cause = Some(text);
    let since: Set = |filter, text| filter.since = text.parse().ok();
    let until: Set = |filter, text| filter.until = text.parse().ok();
    let cases: &[Case<'_>] = &[
        (&[], &[1, 2, 3, 4, 5, 6]),
        (&[(event, "refused")], &[4]),
        (&[(event, "nothing")], &[]),
        (&[(request, "11111111111111111111111111111111")], &[3, 6]),
        (&[(client, "frontend")], &[3, 4]),
        (&[(client, "spiffe://acme.example/client/frontend")], &[3, 4]),
        (&[(client, "frontend@p.example")], &[3, 4]),
        (&[(client, "acme")], &[]),
        (&[(agent, "acme")], &[1, 2, 3]),
        (&[(agent, "agent@p.example")], &[1, 2, 3]),
        (&[(agent, "a1")], &[2, 3]),
        (&[(target, "gitlab.acme.internal:443")], &[3]),
        (&[(target, "GitLab.acme.internal")], &[3]),
        (&[(target, "acme.internal")], &[]),
        (&[(target, "fd00::1")], &[4]),
        (&[(cause, "notAllowed")], &[4]),
        (&[(cause, "signature")], &[5]),
        (&[(since, "2026-11-22T03:00:00Z"), (until, "2026-11-22T05:00:00Z")], &[3, 4]),
        (&[(until, "2026-11-22")], &[]),
        (&[(client, "frontend"), (event, "ended"), (agent, "acme")], &[3]),
        (&[(client, "frontend"), (cause, "signature")], &[]),
    ];
    for (conditions, expected) in cases {
        let mut filter = Filter::default();
        for (set, text) in *conditions {
            set(&mut filter, (*text).to_owned());
        }
        let (summary, out) = run(LOG.as_bytes(), &filter, true);
        let seqs: Vec<_> = out.lines().map(|line| serde_json::from_str::<Entry>(line).expect("a record").seq).collect();
        assert_eq!(seqs, *expected, "{filter:?}");
        assert_eq!((summary.shown, summary.read, summary.malformed), (expected.len() as u64, 6, 0));
    }
}

#[test]
fn json_is_the_very_lines() {
    assert_eq!(run(LOG.as_bytes(), &Filter::default(), true).1, LOG);
}

#[test]
fn people_see_who_reached_what_on_one_line() {
    let filter = Filter { event: Some("ended".to_owned()), ..Filter::default() };
    let expected = "2026-11-22T03:00:00.000000Z  ended             11111111111111111111111111111111  \
        frontend → acme → gitlab.acme.internal:443  up=517  down=4096  ms=1250  hop=target  cause=finished  \
        peer=10.0.0.9:40000  rule=gitlab  policy=5f3a\n";
    assert_eq!(run(LOG.as_bytes(), &filter, false).1, expected);
    assert_eq!(run(LOG.as_bytes(), &Filter::default(), false).1.lines().count(), 6);
}

#[test]
fn a_malformed_line_is_named_and_the_rest_is_shown() {
    let first = LOG.lines().next().expect("a line");
    let long = "x".repeat(LINE_MAX + 10);
    let content = [
        first.as_bytes(),
        b"",
        b"{\"v\":1,\"seq\":2,\"ti",
        b"\xff\xfe",
        long.as_bytes(),
        first.as_bytes(),
        &first.as_bytes()[..30],
    ]
    .join(&b'\n');
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("old.jsonl");
    fs::write(&path, content).expect("writes");
    let mut out = Vec::new();
    let summary = show(std::slice::from_ref(&path), &Filter::default(), false, &mut out).expect("reads");
    assert_eq!((summary.shown, summary.read, summary.malformed), (2, 2, 4));
    let places: Vec<_> = summary.places.iter().map(Place::to_string).collect();
    assert_eq!(places, [3, 4, 5, 7].map(|line| format!("{}:{line}", path.display())));
}

#[test]
fn a_record_without_a_seal_is_none_once_sealed_ones_have_come() {
    let lines: Vec<_> = LOG.lines().collect();
    let mut sealed = lines[1].strip_suffix('}').expect("a record").as_bytes().to_vec();
    let seal = format!(r#","hash":"{}","mac":"{}"}}"#, "0".repeat(64), "0".repeat(32));
    sealed.extend_from_slice(seal.as_bytes());
    let content = [lines[0].as_bytes(), &sealed, lines[2].as_bytes(), &sealed].join(&b'\n');
    let (summary, out) = run(&content, &Filter::default(), true);
    assert_eq!((summary.shown, summary.malformed, summary.places[0].line), (3, 1, 3));
    assert!(!out.contains("\"seq\":3"), "{out}");
    // Also in the next file of the same log.
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("audit-000000000001.jsonl"), sealed).expect("writes");
    fs::write(directory.path().join(FILE_NAME), lines[2]).expect("writes");
    let summary = show(&[directory.path().to_owned()], &Filter::default(), true, &mut Vec::new()).expect("reads");
    assert_eq!((summary.shown, summary.malformed), (1, 1));
}

#[test]
fn a_file_of_nothing_but_garbage_is_summed_up_in_bounded_memory() {
    let (summary, out) = run(&b"x\n".repeat(100_000), &Filter::default(), false);
    assert_eq!((summary.malformed, summary.places.len(), out.as_str()), (100_000, PLACES_MAX, ""));
}

#[test]
fn a_forged_record_moves_no_cursor() {
    let line = r#"{"v":1,"seq":1,"time":"2026-11-22T01:00:00Z","boot":"b","event":"\u001b[2J","requestId":"\n","client":"x/\u202e","target":"\u009b","cause":"\r\nforged"}"#;
    let (summary, out) = run(line.as_bytes(), &Filter::default(), false);
    assert_eq!(summary.shown, 1);
    assert_eq!(out.lines().count(), 1);
    assert!(!out.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{out:?}");
}

#[test]
fn files_come_in_the_order_they_were_named_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = ["b", "a"].map(|name| directory.path().join(name));
    for (seq, file) in files.iter().enumerate() {
        let line = format!(r#"{{"v":1,"seq":{seq},"time":"2026-11-22T01:00:00Z","boot":"b","event":"gap"}}"#);
        fs::write(file, line).expect("writes");
    }
    let mut out = Vec::new();
    let summary = show(&files, &Filter::default(), true, &mut out).expect("reads");
    assert_eq!(summary.shown, 2);
    let text = String::from_utf8(out).expect("UTF-8");
    assert!(text.find("\"seq\":0") < text.find("\"seq\":1"), "{text}");
}

#[test]
fn a_directory_stands_for_all_files_of_its_log_the_oldest_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let names = ["audit.jsonl", "audit-000000000010.jsonl", "audit-000000000009.jsonl", "denials.jsonl"];
    for (seq, name) in [11, 10, 9, 0].into_iter().zip(names) {
        let line = format!(r#"{{"v":1,"seq":{seq},"time":"2026-11-22T01:00:00Z","boot":"b","event":"gap"}}"#);
        fs::write(directory.path().join(name), line + "\n").expect("writes");
    }
    let mut out = Vec::new();
    show(&[directory.path().to_owned()], &Filter::default(), true, &mut out).expect("reads");
    let seq = |line: &[u8]| serde_json::from_slice::<Entry>(line).map(|entry| entry.seq).ok();
    let seqs: Vec<_> = out.split(|&byte| byte == b'\n').filter_map(seq).collect();
    assert_eq!(seqs, [9, 10, 11]);
    let mut lines = 0;
    each_line(directory.path(), |_| lines += 1).expect("reads");
    assert_eq!(lines, 3);
}

#[test]
fn says_which_file_cannot_be_read() {
    let missing = PathBuf::from("no/such/log.jsonl");
    let error =
        show(std::slice::from_ref(&missing), &Filter::default(), false, &mut Vec::new()).expect_err("is not there");
    assert!(matches!(error, ShowError::Read { path, .. } if path == missing));
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    struct Broken(ErrorKind);
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    fs::write(&path, LOG).expect("writes");
    let run = |kind| show(std::slice::from_ref(&path), &Filter::default(), true, &mut Broken(kind)).map(drop);
    assert!(run(ErrorKind::BrokenPipe).is_ok());
    assert!(matches!(run(ErrorKind::StorageFull), Err(ShowError::Write(_))));
}
