use crate::audit::Event;

use super::*;

const BOOT: &str = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";

fn entry(line: &str) -> LogEntry {
    LogEntry::record(line.to_owned(), &serde_json::from_str(line).expect("a record"))
}

fn line(seq: u64, event: &str, rest: &str) -> String {
    format!(r#"{{"v":1,"seq":{seq},"time":"2026-11-22T01:56:13.000001Z","boot":"{BOOT}","event":"{event}"{rest}}}"#)
}

fn at(text: &str) -> SystemTime {
    text.parse::<Timestamp>().expect("a time").into()
}

#[test]
fn every_event_has_a_severity_and_no_other_word_has() {
    let given: Vec<_> = SEVERITIES.iter().map(|(word, _)| *word).collect();
    assert_eq!(given, Event::WORDS, "an event that is new needs a severity");
}

#[test]
fn an_operator_can_alert_by_severity_and_labels() {
    let cases = [
        (line(1, "allowed", ""), Severity::Info, ""),
        (
            line(1, "refused", r#","hop":"server","cause":"notAllowed""#),
            Severity::Warning,
            "cause=notAllowed hop=server",
        ),
        (line(1, "enrolmentRefused", r#","reason":"signature""#), Severity::Warning, "reason=signature"),
        (line(1, "revoked", r#","reason":"incident 12""#), Severity::Notice, "reason=incident 12"),
        (line(1, "ended", r#","hop":"agent","cause":"finished""#), Severity::Info, "cause=finished hop=agent"),
        (line(1, "ended", r#","cause":"protocolError""#), Severity::Warning, "cause=protocolError"),
        (
            line(1, "linkDown", r#","agent":"spiffe://a/agent/x","cause":"peerNotVerified""#),
            Severity::Warning,
            "agent=spiffe://a/agent/x cause=peerNotVerified",
        ),
        (line(1, "enrolmentForwarded", r#","outcome":"answered""#), Severity::Info, ""),
        (line(1, "enrolmentForwarded", r#","outcome":"unavailable""#), Severity::Warning, ""),
        (
            line(1, "newSource", r#","principal":"spiffe://a/client/x","known":0"#),
            Severity::Notice,
            "principal=spiffe://a/client/x",
        ),
        (
            line(1, "newSource", r#","principal":"spiffe://a/client/x","known":3"#),
            Severity::Warning,
            "principal=spiffe://a/client/x",
        ),
        (line(1, "tooManyInstances", ""), Severity::Warning, ""),
        (line(1, "gap", r#","records":3"#), Severity::Error, ""),
        (line(1, "ofALaterVersion", ""), Severity::Info, ""),
    ];
    for (line, severity, labels) in cases {
        let entry = entry(&line);
        assert_eq!(entry.severity, severity, "{line}");
        let shown = entry.labels.iter().filter(|(name, _)| **name != "event");
        let shown: Vec<_> = shown.map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown.join(" "), labels, "{line}");
        assert_eq!(entry.payload, Payload::Line(line));
    }
}

#[test]
fn an_id_is_that_of_the_record_and_sorts_as_records_do() {
    let ids = [2, 9, 10, 100].map(|seq| entry(&line(seq, "allowed", "")).insert_id);
    assert_eq!(ids[0], format!("{BOOT}-00000000000000000002"));
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(ids[0], entry(&line(2, "refused", "")).insert_id, "nothing but process and number counts");
    let hostile = line(2, "allowed", "").replace(BOOT, &format!("a/b\\u0000{}", "x".repeat(1000)));
    assert_eq!(entry(&hostile).insert_id.len(), BOOT_LENGTH_MAX + 21);
}

#[test]
fn a_trace_is_the_request_if_it_is_one() {
    let request = "11111111111111111111111111111111";
    let of = |id: &str| entry(&line(1, "allowed", &format!(r#","requestId":"{id}""#))).request;
    assert_eq!(of(request).as_deref(), Some(request));
    assert_eq!(of("../../etc"), None);
}

#[test]
fn what_the_sink_would_drop_for_its_time_comes_under_the_day_on_which_it_is_sent() {
    let own = "2026-11-22T01:56:13.000001Z";
    let cases = [
        ("2026-11-22T01:56:14Z", own, false),
        ("2026-12-20T23:00:00Z", own, false),
        // Older than a bucket stores.
        ("2026-12-21T23:00:00Z", "2026-12-21T00:00:00.000000Z", true),
        ("2027-12-21T23:00:00Z", "2027-12-21T00:00:00.000000Z", true),
        // From a clock that was a day ahead.
        ("2026-11-21T03:00:00Z", own, false),
        ("2026-11-20T23:00:00Z", "2026-11-20T00:00:00.000000Z", true),
    ];
    let mut entry = entry(&line(1, "allowed", ""));
    for (now, filed, restamped) in cases {
        entry.stamp(at(now));
        assert_eq!(entry.time.to_string(), filed, "{now}");
        assert_eq!(entry.labels.contains_key("restamped"), restamped, "{now}");
    }
}

#[test]
fn a_record_that_is_too_large_is_a_stub_from_the_beginning() {
    let large = line(7, "refused", &format!(r#","target":"{}""#, "x".repeat(ENTRY_BYTES_MAX)));
    let entry = entry(&large);
    assert_eq!(entry.insert_id, format!("{BOOT}-00000000000000000007"));
    assert_eq!(entry.labels, BTreeMap::from([("event", "refused".to_owned()), ("notTaken", "tooLarge".to_owned())]));
    assert!(entry.bytes() < 1024, "{} bytes", entry.bytes());
}

#[test]
fn says_what_is_missing_and_what_is_no_record() {
    let next: Entry = serde_json::from_str(&line(9, "allowed", "")).expect("a record");
    let missing = LogEntry::missing(5, &next);
    assert_eq!(missing.severity, Severity::Error);
    assert_eq!(missing.labels["event"], "recordsMissing");
    let Payload::Fields(fields) = &missing.payload else { panic!("fields") };
    let numbers = ["firstSeq", "lastSeq", "records"].map(|name| fields[name].clone());
    assert_eq!(numbers, [6, 8, 3].map(Field::Number));

    let mark = Mark { boot: BOOT.to_owned(), seq: 8, others: 1, ..Mark::default() };
    let other = LogEntry::other(&mark, b"{\"seq\":\xff\x1b[2J", 12);
    assert_eq!(other.severity, Severity::Warning);
    let Payload::Fields(fields) = &other.payload else { panic!("fields") };
    assert_eq!(fields["text"], Field::Text("{\"seq\":\u{fffd}\\u{1b}[2J".to_owned()));
    let second = LogEntry::other(&Mark { others: 2, ..mark }, b"", 0);
    assert_ne!(other.insert_id, second.insert_id, "two such lines in a row are two entries");
}
