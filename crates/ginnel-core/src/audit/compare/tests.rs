use super::*;
use crate::audit::Entry;

const REQUEST: &str = "11111111111111111111111111111111";
const OTHER: &str = "22222222222222222222222222222222";
const INSTANCE: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
const ELSEWHERE: &str = "a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2";
const SERVER: &str = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";

/// One line of a log, at a second of one hour.
fn line(second: u32, boot: &str, event: &str, rest: &str) -> String {
    let (minute, second) = (second / 60, second % 60);
    let rest = if rest.is_empty() { String::new() } else { format!(",{rest}") };
    format!(
        r#"{{"v":1,"seq":1,"time":"2026-11-22T10:{minute:02}:{second:02}.000000Z","boot":"{boot}","event":"{event}"{rest}}}"#
    )
}

/// What every record of a session says.
fn session(request: &str, instance: &str) -> String {
    format!(
        r#""requestId":"{request}","client":"spiffe://acme.example/client/frontend","clientEmail":"frontend@p.example","agent":"spiffe://acme.example/agent/acme","agentEmail":"agent@p.example","agentInstance":"{instance}","target":"gitlab.acme.internal:443""#
    )
}

/// The server's records of one session.
fn by_vendor(at: u32, request: &str, instance: &str, end: &str) -> Vec<String> {
    let who = format!(r#"{},"peer":"10.0.0.9:40000","rule":"gitlab","policy":"5f3a""#, session(request, instance));
    vec![
        line(at, SERVER, "allowed", &who),
        line(at + 1, SERVER, "connected", &format!(r#"{who},"address":"10.20.0.5:443""#)),
        line(at + 10, SERVER, "ended", &format!("{who},{end}")),
    ]
}

/// The agent's records of the same.
fn by_customer(at: u32, request: &str, instance: &str, end: &str) -> Vec<String> {
    let who = format!(r#"{},"rule":"gitlab.acme.internal:443","policy":"77aa""#, session(request, instance));
    vec![
        line(at, instance, "allowed", &who),
        line(at, instance, "connected", &format!(r#"{who},"address":"10.20.0.5:443""#)),
        line(at + 9, instance, "ended", &format!("{who},{end}")),
    ]
}

const FINISHED: &str = r#""bytesUp":517,"bytesDown":6002,"durationMs":1250,"hop":"application","cause":"finished""#;
const FINISHED_HERE: &str = r#""bytesUp":30,"bytesDown":4096,"carriedUp":517,"carriedDown":6002,"durationMs":1249,"hop":"application","cause":"finished""#;

fn log(lines: &[String]) -> Log {
    let mut log = Log::default();
    log.begin_file();
    for line in lines {
        let entry: Entry = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        log.add(entry).expect("one side's records");
    }
    log
}

/// Records before and after everything else, so that nothing lies beyond the ends of a log.
fn framed(boot: &str, lines: Vec<String>) -> Vec<String> {
    let frame = |second| line(second, boot, "started", r#""version":"0.1.0","policy":"x""#);
    [frame(0)].into_iter().chain(lines).chain([frame(3599)]).collect()
}

fn compared(vendor: Vec<String>, customer: Vec<String>) -> Comparison {
    let (vendor, customer) = (log(&framed(SERVER, vendor)), log(&framed(INSTANCE, customer)));
    compare(&vendor, &customer, &Scope::default(), APART)
}

/// What differs about the only session, as `what: vendor | customer`.
fn differing(vendor: Vec<String>, customer: Vec<String>) -> Vec<String> {
    let comparison = compared(vendor, customer);
    let differences = comparison.disagreements.iter().flat_map(|found| &found.differences);
    differences.map(|found| format!("{}: {} | {}", found.what, found.vendor, found.customer)).collect()
}

fn replaced(lines: Vec<String>, from: &str, to: &str) -> Vec<String> {
    assert!(lines.iter().any(|line| line.contains(from)), "{from}");
    lines.into_iter().map(|line| line.replace(from, to)).collect()
}

#[test]
fn two_honest_logs_agree() {
    let comparison =
        compared(by_vendor(100, REQUEST, INSTANCE, FINISHED), by_customer(101, REQUEST, INSTANCE, FINISHED_HERE));
    assert!(comparison.agrees(), "{comparison}");
    assert_eq!((comparison.agree, comparison.excused, comparison.clock_ahead_ms), (1, Excused::default(), Some(1000)));
    assert_eq!(comparison.agents, ["spiffe://acme.example/agent/acme"]);
}

#[test]
fn every_field_that_both_have_must_be_the_same() {
    let vendor = || by_vendor(100, REQUEST, INSTANCE, FINISHED);
    let customer = || by_customer(101, REQUEST, INSTANCE, FINISHED_HERE);
    let cases = [
        (
            "client/frontend",
            "client/other",
            "client: spiffe://acme.example/client/frontend | spiffe://acme.example/client/other",
        ),
        ("frontend@p.example", "other@p.example", "clientEmail: frontend@p.example | other@p.example"),
        (
            "gitlab.acme.internal:443\",\"rule",
            "db.acme.internal:5432\",\"rule",
            "target: gitlab.acme.internal:443 | db.acme.internal:5432",
        ),
        ("10.20.0.5:443", "10.20.0.6:443", "address: 10.20.0.5:443 | 10.20.0.6:443"),
        ("\"carriedUp\":517", "\"carriedUp\":516", "bytesUp: 517 | 516"),
        ("\"carriedDown\":6002", "\"carriedDown\":6003", "bytesDown: 6002 | 6003"),
        ("10:01:41", "10:02:41", "begin: 2026-11-22T10:01:40.000000Z | 2026-11-22T10:02:41.000000Z"),
        ("10:01:50", "10:02:50", "end: 2026-11-22T10:01:50.000000Z | 2026-11-22T10:02:50.000000Z"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(differing(vendor(), replaced(customer(), from, to)), [expected]);
    }
}

/// How a session ended, by both: hop and cause of each, whether it was refused, and whether the two can both be true.
#[test]
fn each_side_may_speak_of_itself_and_neither_of_the_other() {
    let cases = [
        ("application finished", "application finished", true),
        ("application reset", "application reset", true),
        ("target reset", "target reset", true),
        // Both ended it in the same moment.
        ("application reset", "target reset", true),
        ("server endedByOperator", "agent notOnAllowList", true),
        // Something happened on one side after the other had seen the clean end.
        ("application finished", "target reset", true),
        ("application reset", "application finished", true),
        // The way between them was lost.
        ("agent agentLost", "agent serverLost", true),
        ("server shuttingDown", "agent serverLost", true),
        ("agent agentLost", "application finished", true),
        // One says of the other what that one does not say.
        ("agent endedByOperator", "application finished", false),
        ("target reset", "application finished", false),
        ("application finished", "server notAdmitted", false),
        ("application finished", "application reset", false),
        ("target reset", "application reset", false),
        ("agent endedByOperator", "agent notOnAllowList", false),
    ];
    for (of_vendor, of_customer, can_be) in cases {
        let end = |said: &str, bytes: &str| {
            let (hop, cause) = said.split_once(' ').expect("a hop and a cause");
            format!(r#"{bytes},"durationMs":1,"hop":"{hop}","cause":"{cause}""#)
        };
        let vendor = end(of_vendor, r#""bytesUp":517,"bytesDown":6002"#);
        let customer = end(of_customer, r#""bytesUp":30,"bytesDown":40,"carriedUp":517,"carriedDown":6002"#);
        let found =
            differing(by_vendor(100, REQUEST, INSTANCE, &vendor), by_customer(101, REQUEST, INSTANCE, &customer));
        let expected = format!("outcome: ended {of_vendor} | ended {of_customer}");
        assert_eq!(found, if can_be { Vec::new() } else { vec![expected] }, "{of_vendor} | {of_customer}");
    }
}

fn refused(of: Vec<String>, hop: &str, cause: &str) -> Vec<String> {
    let first = of[0].replace("\"allowed\"", "\"refused\"");
    let said = first.trim_end_matches('}');
    let second = said.replace("10:01:4", "10:01:5");
    vec![of[0].clone(), format!(r#"{second},"hop":"{hop}","cause":"{cause}"}}"#)]
}

#[test]
fn a_refusal_has_to_be_the_word_of_whoever_it_names() {
    let vendor = |hop: &str, cause: &str| refused(by_vendor(100, REQUEST, INSTANCE, FINISHED), hop, cause);
    let customer = |hop: &str, cause: &str| refused(by_customer(101, REQUEST, INSTANCE, FINISHED_HERE), hop, cause);
    let cases = [
        (("agent", "notOnAllowList"), ("agent", "notOnAllowList"), true),
        (("target", "connectionRefused"), ("target", "connectionRefused"), true),
        // Each gave up for a reason of its own.
        (("application", "reset"), ("target", "connectionRefused"), true),
        (("agent", "timedOut"), ("client", "timedOut"), true),
        (("agent", "notOnAllowList"), ("target", "connectionRefused"), false),
    ];
    for ((hop, cause), (their_hop, their_cause), can_be) in cases {
        let found = differing(vendor(hop, cause), customer(their_hop, their_cause));
        assert_eq!(found.is_empty(), can_be, "{hop} {cause} | {their_hop} {their_cause}: {found:?}");
    }
    // A session that the vendor calls refused must not have carried anything towards the target.
    let carried = by_customer(101, REQUEST, INSTANCE, FINISHED_HERE);
    let found = differing(vendor("application", "reset"), carried.clone());
    assert_eq!(found, ["outcome: refused application reset | ended application finished"]);
    let silent = replaced(carried, "\"bytesUp\":30", "\"bytesUp\":0");
    assert_eq!(differing(vendor("application", "reset"), silent), Vec::<String>::new());
    let found = differing(by_vendor(100, REQUEST, INSTANCE, FINISHED), customer("agent", "notOnAllowList"));
    assert_eq!(
        found,
        ["address: 10.20.0.5:443 | nothing", "outcome: ended application finished | refused agent notOnAllowList"]
    );
}

#[test]
fn bytes_of_a_session_that_was_cut_may_be_under_way_within_a_bound() {
    let end = |up: u64, down: u64, carried: Option<(u64, u64)>| {
        let carried = carried.map(|(up, down)| format!(r#","carriedUp":{up},"carriedDown":{down}"#));
        let carried = carried.unwrap_or_default();
        format!(r#""bytesUp":{up},"bytesDown":{down}{carried},"durationMs":1,"hop":"application","cause":"reset""#)
    };
    let found = |vendor: (u64, u64), customer: (u64, u64)| {
        let vendor = by_vendor(100, REQUEST, INSTANCE, &end(vendor.0, vendor.1, None));
        differing(vendor, by_customer(101, REQUEST, INSTANCE, &end(0, 0, Some(customer)))).len()
    };
    let much = crate::limits::CREDIT_MAX;
    assert_eq!(found((500, 500), (500, 500)), 0);
    assert_eq!(found((500, 500), (400, 600)), 0);
    assert_eq!(found((400, 500), (500, 500)), 1, "the agent got more than the server passed on");
    assert_eq!(found((500, 600), (500, 500)), 1, "the client got more than the agent gave");
    assert_eq!((found((much, 0), (0, much)), found((much + 1, 0), (0, 0)), found((0, 0), (0, much + 1))), (0, 1, 1));
}

#[test]
fn a_session_that_one_log_lacks_is_told_from_one_that_it_cannot_have() {
    let vendor = by_vendor(100, REQUEST, INSTANCE, FINISHED);
    let customer = by_customer(101, REQUEST, INSTANCE, FINISHED_HERE);
    let kinds = |comparison: Comparison| comparison.disagreements.iter().map(|found| found.kind).collect::<Vec<_>>();
    let of_another = by_customer(200, OTHER, INSTANCE, FINISHED_HERE);
    assert_eq!(
        kinds(compared([vendor.clone(), by_vendor(199, OTHER, INSTANCE, FINISHED)].concat(), customer.clone())),
        [Kind::OnlyVendor]
    );
    assert_eq!(kinds(compared(vendor.clone(), [customer.clone(), of_another].concat())), [Kind::OnlyCustomer]);
    // A process of the same agent whose log was not given.
    let elsewhere = by_vendor(199, OTHER, ELSEWHERE, FINISHED);
    assert_eq!(kinds(compared([vendor.clone(), elsewhere].concat(), customer.clone())), [Kind::NoLog]);
    // Another customer's agent is nobody's business here.
    let others = replaced(by_vendor(199, OTHER, ELSEWHERE, FINISHED), "agent/acme", "agent/bolt");
    assert_eq!(kinds(compared([vendor.clone(), others].concat(), customer.clone())), []);
    // The logs do not reach as far as the other.
    let short = compare(&log(&vendor), &log(&framed(INSTANCE, Vec::new())), &Scope::default(), APART);
    assert_eq!(kinds(short), [Kind::OnlyVendor]);
    let beyond = compare(
        &log(&framed(SERVER, vendor.clone())),
        &log(&by_customer(1000, OTHER, INSTANCE, FINISHED_HERE)),
        &Scope::default(),
        APART,
    );
    assert_eq!((beyond.disagree, beyond.excused.beyond_customer), (1, 1), "{beyond}");
    let beyond = compare(
        &log(&vendor),
        &log(&framed(INSTANCE, by_customer(1000, OTHER, INSTANCE, FINISHED_HERE))),
        &Scope::default(),
        APART,
    );
    assert_eq!((beyond.disagree, beyond.excused.beyond_vendor), (1, 1), "{beyond}");
}

#[test]
fn a_session_that_the_agent_carried_was_not_refused_by_it_nor_before_it_gave_much() {
    let vendor = |hop: &str, cause: &str| refused(by_vendor(100, REQUEST, INSTANCE, FINISHED), hop, cause);
    let customer = |up: u64, down: u64| {
        let end = format!(
            r#""bytesUp":{up},"bytesDown":{down},"carriedUp":{up},"carriedDown":{down},"durationMs":1,"hop":"application","cause":"reset""#
        );
        by_customer(101, REQUEST, INSTANCE, &end)
    };
    let much = crate::limits::CREDIT_MAX;
    for (word, bytes, can_be) in [
        (("application", "reset"), (0, 0), true),
        (("application", "reset"), (0, much), true),
        (("application", "reset"), (0, much + 1), false),
        (("application", "reset"), (1, 0), false),
        (("agent", "notOnAllowList"), (0, 0), false),
        (("agent", "timedOut"), (0, 0), true),
    ] {
        let found = differing(vendor(word.0, word.1), customer(bytes.0, bytes.1));
        assert_eq!(found.is_empty(), can_be, "{word:?} {bytes:?}: {found:?}");
    }
}

#[test]
fn what_the_server_refused_alone_is_not_missed_in_the_agents_log() {
    let vendor = |hop: &str, cause: &str| refused(by_vendor(100, REQUEST, INSTANCE, FINISHED), hop, cause);
    let anchor = by_customer(300, OTHER, INSTANCE, FINISHED_HERE);
    let also = by_vendor(300, OTHER, INSTANCE, FINISHED);
    for (hop, cause, is_missed) in [
        ("server", "agentLost", false),
        ("agent", "timedOut", false),
        ("agent", "overloaded", false),
        ("server", "auditUnavailable", false),
        ("agent", "notOnAllowList", true),
        ("target", "connectionRefused", true),
    ] {
        let comparison = compared([vendor(hop, cause), also.clone()].concat(), anchor.clone());
        assert_eq!(
            (comparison.disagree, comparison.excused.unheard),
            (u64::from(is_missed), u64::from(!is_missed)),
            "{hop} {cause}"
        );
    }
    // The same request came to the same process again: it is the second that has a counterpart.
    let again = [vendor("server", "agentLost"), by_vendor(130, REQUEST, INSTANCE, FINISHED)].concat();
    let comparison = compared(again, by_customer(131, REQUEST, INSTANCE, FINISHED_HERE));
    assert_eq!((comparison.agree, comparison.disagree, comparison.excused.unheard), (1, 0, 1), "{comparison}");
}

#[test]
fn a_process_that_was_cut_off_owes_no_end_and_one_that_goes_on_does() {
    let vendor = by_vendor(
        100,
        REQUEST,
        INSTANCE,
        r#""bytesUp":1,"bytesDown":1,"durationMs":1,"hop":"agent","cause":"agentLost""#,
    );
    let mut customer = by_customer(101, REQUEST, INSTANCE, FINISHED_HERE);
    customer.pop();
    let started = |second, boot: &str| line(second, boot, "started", r#""version":"0.1.0","policy":"x""#);
    let vendor = log(&framed(SERVER, vendor));
    let compared = |rest: &[String]| compare(&vendor, &log(&[&customer, rest].concat()), &Scope::default(), APART);
    let killed = compared(&[started(120, ELSEWHERE), started(3000, ELSEWHERE)]);
    assert_eq!((killed.disagree, killed.excused.cut_off), (0, 1), "{killed}");
    let went_on = compared(&[line(3000, INSTANCE, "reloaded", r#""policy":"x","changed":"y""#)]);
    assert_eq!((went_on.disagree, went_on.excused.cut_off), (1, 0), "{went_on}");
    let open = compared(&[]);
    assert_eq!((open.disagree, open.excused.cut_off), (0, 0), "{open}");
}

#[test]
fn logs_that_are_no_two_sides_are_told() {
    let mut mixed = log(&by_vendor(100, REQUEST, INSTANCE, FINISHED));
    assert_eq!(mixed.whose(), Some(Whose::Vendor));
    let other: Entry = serde_json::from_str(&by_customer(1, OTHER, INSTANCE, FINISHED_HERE)[0]).expect("a record");
    assert_eq!(mixed.add(other), Err(LogError::Mixed));
    assert_eq!(log(&by_customer(1, OTHER, INSTANCE, FINISHED_HERE)).whose(), Some(Whose::Customer));
    assert_eq!(log(&framed(SERVER, Vec::new())).whose(), None);
}

#[test]
fn only_the_first_disagreements_are_listed_and_all_are_counted() {
    let requests = (0..LISTED_MAX + 5).map(|number| format!("{number:032x}"));
    let customer: Vec<_> =
        requests.rev().flat_map(|request| by_customer(100, &request, INSTANCE, FINISHED_HERE)).collect();
    let comparison = compared(Vec::new(), customer);
    assert_eq!((comparison.disagree, comparison.disagreements.len()), (1005, LISTED_MAX));
    assert_eq!(comparison.disagreements[0].request_id, format!("{:032x}", 0));
    assert!(comparison.to_string().contains("\nand 5 more\n"));
}

/// What people read.
#[test]
fn reads_as_the_golden_reports() {
    let vendor = || by_vendor(100, REQUEST, INSTANCE, FINISHED);
    let customer = || by_customer(101, REQUEST, INSTANCE, FINISHED_HERE);
    let lied = replaced(customer(), "\"carriedUp\":517", "\"carriedUp\":600");
    let lied = replaced(lied, "client/frontend", "client/\\u001b[2Jother");
    let gap = line(50, INSTANCE, "gap", r#""records":3"#);
    let alone = refused(by_vendor(100, "33333333333333333333333333333333", INSTANCE, FINISHED), "server", "agentLost");
    let more = [by_vendor(200, OTHER, INSTANCE, FINISHED), by_vendor(210, OTHER, ELSEWHERE, FINISHED), alone].concat();
    let unknown = by_customer(300, "44444444444444444444444444444444", INSTANCE, FINISHED_HERE);
    let cases = [
        (compared(vendor(), customer()), include_str!("golden/agree.txt")),
        (compared(Vec::new(), Vec::new()), include_str!("golden/nothing.txt")),
        (compared([vendor(), more].concat(), [vec![gap], lied, unknown].concat()), include_str!("golden/disagree.txt")),
    ];
    let written: Vec<_> = cases.iter().map(|(comparison, _)| comparison.to_string()).collect();
    let golden: Vec<_> = cases.iter().map(|(_, golden)| (*golden).to_owned()).collect();
    assert!(written == golden, "what is written:\n{}", written.join("\n--------\n"));
}
