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
        peer: Some(address("10.0.0.9:40000")),
        rule: Text::new("gitlab"),
        policy: Text::new("5f3a"),
    }
}

fn refused(agent: Option<Agent>, target: &str, cause: Cause, rule: Option<Text>) -> Event {
    let Session { request_id, client, peer, policy, .. } = session();
    let (client, target) = (Some(client), Text::new(target));
    let (client_claimed, hop) = (None, Hop::Server);
    Event::Refused { request_id, client, client_claimed, agent, target, peer, hop, cause, rule, policy }
}

/// What an agent's log says of the same session.
fn at_the_agent() -> Session {
    Session { peer: None, rule: Text::new("gitlab.acme.internal:443"), policy: Text::new("77aa"), ..session() }
}

/// What an agent has of a session that a server has too.
fn of_an_agent() -> Vec<Event> {
    let Session { request_id, client, target, policy, .. } = at_the_agent();
    let address = address("10.20.0.5:443");
    vec![
        Event::Allowed { session: at_the_agent() },
        Event::WouldRefuse {
            session: at_the_agent(),
            address,
            cause: Cause::NotOnAllowList,
            observed: Text::new("91bc"),
        },
        Event::Ended {
            session: at_the_agent(),
            bytes_up: 30,
            bytes_down: 4096,
            carried_up: Some(517),
            carried_down: Some(6002),
            duration_ms: 1249,
            hop: Hop::Application,
            cause: Cause::Finished,
        },
        Event::Refused {
            request_id,
            client: None,
            client_claimed: Some(client.principal),
            agent: Some(agent()),
            target: Text::new(target),
            peer: None,
            hop: Hop::Agent,
            cause: Cause::PeerNotVerified,
            rule: None,
            policy,
        },
    ]
}

fn ended() -> Event {
    Event::Ended {
        session: session(),
        bytes_up: 517,
        bytes_down: u64::MAX,
        carried_up: None,
        carried_down: None,
        duration_ms: 1250,
        hop: Hop::Target,
        cause: Cause::Finished,
    }
}

fn examples() -> Vec<Event> {
    let mut examples = of_identities();
    examples.extend(of_sessions());
    examples.extend(of_orders());
    examples.extend([turned_away(None, Some(17)), turned_away(Some(agent().principal), None)]);
    examples.extend(of_the_chain());
    examples.extend(of_an_agent());
    examples.extend(signals());
    examples
}

/// Who started, enrolled and came.
fn of_identities() -> Vec<Event> {
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
            verified_by: Some(Text::hex(&[0xce; 4])),
            forwarded_for: None,
        },
        Event::EnrolmentRefused {
            reason: Text::new("signature"),
            email: Some(agent().email),
            peer,
            forwarded_for: None,
        },
        Event::EnrolmentRefused { reason: Text::new("size"), email: None, peer, forwarded_for: Some(peer) },
        Event::LinkUp {
            agent: agent(),
            peer,
            version: version.clone(),
            serial: serial.clone(),
            proof: Some(Text::new("googleKey:abc")),
        },
        Event::ClientUp {
            client: client(),
            instance: instance(0xc1),
            peer: address("[fd00::9]:40000"),
            version,
            serial,
            proof: None,
        },
    ]
}

/// What became of sessions, and of those who carried them.
fn of_sessions() -> Vec<Event> {
    vec![
        Event::Allowed { session: session() },
        Event::Connected { session: session(), address: address("10.20.0.5:443") },
        ended(),
        refused(None, "evil.example\n:443", Cause::Malformed, None),
        refused(Some(agent()), "gitlab.acme.internal:443", Cause::AuditUnavailable, Some(Text::new("gitlab"))),
        Event::LinkDown { agent: agent(), cause: Cause::AgentLost },
        Event::ClientDown { client: client(), instance: instance(0xc1), cause: Cause::Aborted },
        Event::Gap { records: 3 },
        Event::Reloaded { policy: Text::new("6a4b"), changed: Text::new("rule git removed") },
    ]
}

/// What was passed on, and what an operator ordered.
fn of_orders() -> Vec<Event> {
    let peer = address("203.0.113.20:51000");
    vec![
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
    ]
}

/// What may be somebody with another's credentials.
fn signals() -> Vec<Event> {
    let peer = address("203.0.113.20:51000");
    vec![
        Event::NewSource {
            principal: client().principal,
            email: client().email,
            peer,
            network: Text::new("203.0.113.0/24"),
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

/// What the log says of itself.
fn of_the_chain() -> Vec<Event> {
    vec![
        Event::ChapterBegun {
            log: instance(0x10),
            chapter: 2,
            after: 21,
            after_hash: Hex([0xe1; 32]),
            void: 41,
            void_hash: Some(Hex([0xe5; 32])),
            key: Hex([0xe2; 32]),
            next_key: Hex([0xe3; 32]),
        },
        Event::Checkpoint { log: instance(0x10), chapter: 2, records: 23, next_key: Hex([0xe3; 32]), closing: true },
        Event::FileRemoved {
            file: Text::new("audit-000000000001.jsonl"),
            first_seq: 1,
            last_seq: 12,
            last_hash: Some(Hex([0xe4; 32])),
            bytes: 67_108_864,
        },
    ]
}

fn turned_away(principal: Option<Principal>, unrecorded: Option<u64>) -> Event {
    let serial = principal.is_some().then(|| Text::hex(&[0x0a, 0xff]));
    Event::TurnedAway {
        peer: address("203.0.113.20:51000"),
        cause: Cause::SourceRefused,
        principal,
        serial,
        unrecorded,
    }
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
            &entry.rule,
            &entry.policy,
        ];
        assert!(said.iter().all(|field| field.is_some()), "{line}");
        assert_ne!(entry.peer.is_some(), entry.policy.as_deref() == Some("77aa"), "{line}");
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

/// What a field of a record may be: text that was made fit for a log, a closed vocabulary, or a type with one spelling and a bound.
const FIELD_TYPES: &[&str] = &[
    "Agent",
    "Cause",
    "Client",
    "Event",
    "Forwarded",
    "Hash",
    "Hop",
    "InstanceId",
    "Option<Agent>",
    "Option<Client>",
    "Option<Hash>",
    "Option<Principal>",
    "Option<SocketAddr>",
    "Option<Text>",
    "Option<u64>",
    "Principal",
    "RequestId",
    "Session",
    "SocketAddr",
    "Target",
    "Text",
    "Timestamp",
    "bool",
    "u32",
    "u64",
];

/// Fields as (name, type) of everything that goes into a record.
fn fields(source: &str) -> Vec<(&str, &str)> {
    let from = source.find("/// One line of the log.").expect("the types of records");
    let until = source.find("/// What a record is to the thing").expect("their end");
    let field = |line| {
        let (name, kind) = str::trim(line).trim_start_matches("pub ").strip_suffix(',')?.split_once(": ")?;
        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then_some((name, kind))
    };
    source[from..until].lines().filter_map(field).collect()
}

#[test]
fn every_field_of_a_record_is_made_fit_or_of_a_closed_vocabulary() {
    let fields = fields(include_str!("../audit.rs"));
    assert!(fields.len() > 80 && fields.contains(&("target", "Text")), "the source was not read: {fields:?}");
    let open: Vec<_> = fields.iter().filter(|(_, kind)| !FIELD_TYPES.contains(kind)).collect();
    assert!(open.is_empty(), "fields that a peer may be able to fill with anything: {open:?}");
}

#[test]
fn every_text_of_every_record_is_short_and_visible() {
    fn texts<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
        match value {
            serde_json::Value::String(text) => found.push(text),
            serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
            serde_json::Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }
    for line in GOLDEN.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("a record");
        let mut found = Vec::new();
        texts(&record, &mut found);
        assert!(found.len() >= 3, "{line}");
        for text in found {
            assert!(text.len() <= TEXT_MAX && !text.chars().any(char::is_control), "{text:?}");
        }
    }
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
