use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::*;

/// One line for every event, as the log has it; what the documentation of the log quotes.
const GOLDEN: &str = include_str!("records.jsonl");

fn principal(text: &str) -> Principal {
    text.parse().expect("a principal")
}

fn id(digit: u8) -> [u8; 16] {
    [digit; 16]
}

fn instance(digit: u8) -> InstanceId {
    InstanceId::from_bytes(&id(digit)).expect("16 bytes")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn agent() -> Agent {
    let email = Text::new("agent@p.iam.gserviceaccount.com");
    Agent { principal: principal("spiffe://acme.example/agent/acme"), email, instance: instance(0xa1) }
}

fn client() -> Client {
    let email = Text::new("frontend@p.iam.gserviceaccount.com");
    Client { principal: principal("spiffe://acme.example/client/frontend"), email }
}

fn session() -> Session {
    Session {
        request_id: RequestId::from_bytes(&id(0x11)).expect("16 bytes"),
        client: client(),
        agent: agent(),
        target: "gitlab.acme.internal:443".parse().expect("a target"),
        peer: address("10.0.0.9:40000"),
        rule: Text::new("gitlab"),
        policy: Text::new("5f3a"),
    }
}

fn refused(agent: Option<Agent>, target: &str, cause: Cause, rule: Option<Text>) -> Event {
    let Session { request_id, client, peer, policy, .. } = session();
    Event::Refused { request_id, client, agent, target: Text::new(target), peer, hop: Hop::Server, cause, rule, policy }
}

fn examples() -> Vec<Event> {
    let version = Text::new("0.1.0");
    let serial = Text::hex(&[0x0a, 0xff]);
    let not_after = time("2026-11-23T01:56:13Z");
    let peer = address("203.0.113.20:51000");
    let spki_sha256 = Some(Text::hex(&[0xcd; 4]));
    vec![
        Event::Started { version: version.clone(), policy: Text::new("5f3a") },
        Event::CertificateIssued {
            principal: principal("spiffe://acme.example/server/tunnel"),
            serial: serial.clone(),
            not_after,
            spki_sha256: None,
        },
        Event::Enrolled {
            principal: agent().principal,
            email: agent().email,
            serial: serial.clone(),
            not_after,
            peer,
            spki_sha256,
            proof: Some(Text::new("googleKey:abc")),
            forwarded_for: None,
        },
        Event::EnrolmentRefused {
            reason: Text::new("signature"),
            email: Some(agent().email),
            peer,
            forwarded_for: None,
        },
        Event::EnrolmentRefused { reason: Text::new("size"), email: None, peer, forwarded_for: Some(peer) },
        Event::LinkUp { agent: agent(), peer, version: version.clone(), serial: serial.clone() },
        Event::ClientUp {
            client: client(),
            instance: instance(0xc1),
            peer: address("[fd00::9]:40000"),
            version,
            serial,
        },
        Event::Allowed { session: session() },
        Event::Connected { session: session(), address: address("10.20.0.5:443") },
        Event::Ended {
            session: session(),
            bytes_up: 517,
            bytes_down: u64::MAX,
            duration_ms: 1250,
            hop: Hop::Target,
            cause: Cause::Finished,
        },
        refused(None, "evil.example\n:443", Cause::Malformed, None),
        refused(Some(agent()), "gitlab.acme.internal:443", Cause::AuditUnavailable, Some(Text::new("gitlab"))),
        Event::LinkDown { agent: agent(), cause: Cause::AgentLost },
        Event::ClientDown { client: client(), instance: instance(0xc1), cause: Cause::Aborted },
        Event::Gap { records: 3 },
        Event::Reloaded { policy: Text::new("6a4b"), changed: Text::new("rule git removed") },
        Event::EnrolmentForwarded { peer, outcome: Forwarded::Answered },
        Event::Revoked {
            kind: Text::new("principal"),
            subject: Text::new(client().principal),
            by: Text::new("uid 0, pid 4711"),
            reason: Some(Text::new("incident 12")),
            connections: 2,
            sessions: 31,
        },
        Event::Unrevoked {
            kind: Text::new("serial"),
            subject: Text::new("0aff"),
            by: Text::new("uid 0, pid 4712"),
            reason: None,
        },
        Event::NewSource {
            principal: client().principal,
            email: client().email,
            peer,
            source: Text::new("203.0.113.0/24"),
            serial: Text::hex(&[0x0a, 0xff]),
            known: 2,
        },
        Event::TooManyInstances {
            principal: client().principal,
            email: client().email,
            instance: instance(0xc1),
            peer,
            serial: Text::hex(&[0x0a, 0xff]),
            most: 256,
        },
    ]
}

fn records() -> Vec<Record> {
    let start = SystemTime::from(time("2026-11-22T01:56:13.000001Z"));
    (1..)
        .zip(examples())
        .map(|(seq, event)| Record::new(seq, (start + Duration::from_secs(seq)).into(), instance(0xb0), event))
        .collect()
}

#[test]
fn every_event_is_written_as_the_golden_file_shows() {
    let written: Vec<_> = records().iter().map(|record| serde_json::to_string(record).expect("serialises")).collect();
    assert!(written.iter().eq(GOLDEN.lines()), "what is written:\n{}\n", written.join("\n"));
}

#[test]
fn every_event_has_an_example_and_its_word() {
    let words: BTreeSet<_> = examples().iter().map(Event::word).collect();
    assert_eq!(words, Event::WORDS.iter().copied().collect());
    for (event, line) in examples().iter().zip(GOLDEN.lines()) {
        let entry: Entry = serde_json::from_str(line).expect("a record");
        assert_eq!(entry.event, event.word());
    }
}

#[test]
fn only_what_comes_before_the_act_is_a_permit() {
    let permits: BTreeSet<_> =
        examples().iter().filter(|event| event.kind() == Kind::Permit).map(Event::word).collect();
    assert_eq!(permits, BTreeSet::from(["allowed", "certificateIssued", "enrolled", "started"]));
}

#[test]
fn one_line_of_a_session_says_who_reached_what() {
    for line in GOLDEN.lines() {
        let entry: Entry = serde_json::from_str(line).expect("a record");
        if !["allowed", "connected", "ended"].contains(&entry.event.as_str()) {
            continue;
        }
        let said = [
            &entry.request_id,
            &entry.client,
            &entry.client_email,
            &entry.agent,
            &entry.agent_email,
            &entry.agent_instance,
            &entry.target,
            &entry.peer,
            &entry.rule,
            &entry.policy,
        ];
        assert!(said.iter().all(|field| field.is_some()), "{line}");
    }
}

#[test]
fn hostile_text_stays_on_one_line_and_within_its_bound() {
    let hostile = format!("a\r\n{{\"event\":\"allowed\"}}\u{202e}\u{1b}[2J{}", "\0".repeat(1 << 20));
    let event = refused(None, &hostile, Cause::Malformed, None);
    let line = serde_json::to_string(&Record::new(1, time("2026-11-22"), instance(1), event)).expect("serialises");
    assert!(line.len() < 2048, "{} bytes", line.len());
    assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line}");
    let entry: Entry = serde_json::from_str(&line).expect("a record");
    assert_eq!(entry.event, "refused");
    assert!(entry.target.expect("a target").starts_with(r#"a\u{d}\u{a}{"event":"allowed"}\u{202e}\u{1b}[2J"#));
}

#[test]
fn reads_records_of_a_newer_version() {
    let line = r#"{"v":2,"seq":9,"time":"2026-11-22T01:56:13.000001Z","boot":"x","event":"resumed","cause":"brandNew","mac":[1]}"#;
    let entry: Entry = serde_json::from_str(line).expect("a record");
    assert_eq!((entry.v, entry.event.as_str(), entry.cause.as_deref()), (2, "resumed", Some("brandNew")));
}

#[test]
fn refuses_lines_that_are_no_records() {
    let cases = [
        "",
        "{}",
        "[]",
        r#"{"v":1,"seq":-1,"time":"2026-11-22T01:56:13Z","boot":"x","event":"gap"}"#,
        r#"{"v":1,"seq":1,"time":"yesterday","boot":"x","event":"gap"}"#,
        r#"{"v":1,"seq":1,"time":"2026-11-22T01:56:13Z","boot":"x","event":"gap","event":"ended"}"#,
        r#"{"v":1,"seq":1,"time":"2026-11-22T01:56:13Z","boot":"x","event":"ended","bytesUp":"many"}"#,
    ];
    for line in cases {
        assert!(serde_json::from_str::<Entry>(line).is_err(), "{line}");
    }
}
