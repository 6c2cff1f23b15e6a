//! What operators write and ask: configurations, the audit log, questions to a running process.

use std::fmt::Debug;
use std::path::Path;
use std::sync::LazyLock;

use ginnel_config::finding::FINDINGS_MAX;
use ginnel_config::{AgentConfig, ClientConfig, Findings, Overrides, Place, ServerConfig};
use ginnel_core::audit::Entry;
use ginnel_core::audit::compare::{APART, Log, Scope, compare};
use ginnel_core::principal::Role;
use ginnel_ops::admin::{Question, fuzzing};
use ginnel_ops::audit::show::{Filter, Summary, show_lines};
use ginnel_ops::audit::verify::verify_content;

const FILE_NAME: &str = "ginnel.yaml";

/// Configurations of servers.
pub fn config_server(data: &[u8]) {
    configuration(data, ServerConfig::parse);
}

/// Configurations of agents.
pub fn config_agent(data: &[u8]) {
    configuration(data, AgentConfig::parse);
}

/// Configurations of clients.
pub fn config_client(data: &[u8]) {
    configuration(data, ClientConfig::parse);
}

type Parse<T> = fn(&str, &str, &Path, &Overrides) -> Result<T, Findings>;

fn configuration<T: Debug + PartialEq>(data: &[u8], parse: Parse<T>) {
    let Ok(text) = str::from_utf8(data) else { return };
    let read = || parse(text, FILE_NAME, Path::new("/etc/ginnel"), &Overrides::none());
    let outcome = read();
    assert_eq!(outcome, read(), "the same text means the same");
    if let Err(findings) = outcome {
        check_findings(text, &findings, false);
    }
}

/// One `path=value` on each line, over the client's example.
pub fn config_override(data: &[u8]) {
    static EXAMPLE: LazyLock<String> = LazyLock::new(|| ginnel_config::example(Role::Client));
    let Ok(text) = str::from_utf8(data) else { return };
    let overrides = Overrides::none().with_flags(text.lines());
    if let Err(findings) = ClientConfig::parse(&EXAMPLE, FILE_NAME, Path::new("/etc/ginnel"), &overrides) {
        check_findings(&EXAMPLE, &findings, true);
    }
}

/// Whatever is wrong is said, in one line, at a place that exists.
fn check_findings(text: &str, findings: &Findings, overridden: bool) {
    let kept = findings.iter().count();
    assert!((1..=FINDINGS_MAX).contains(&kept) && kept <= findings.total());
    let lines = text.lines().count().max(1);
    for finding in findings.iter() {
        assert_eq!(&*finding.file, FILE_NAME);
        assert!(!finding.message.is_empty() && !finding.message.contains(['\n', '\r', '\u{1b}']), "{finding:?}");
        match finding.place {
            Place::Whole => {}
            Place::Override(_) => assert!(overridden, "{finding:?}"),
            Place::File { line, column } => {
                // A text that ends too early is at fault just behind its last character.
                let (line, column) = (line as usize, column as usize);
                assert!((1..=lines + 1).contains(&line) && column >= 1, "{finding:?} in {lines} lines");
                let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
                assert!(column <= longest + 1, "{finding:?}, longest line {longest}");
            }
        }
    }
}

/// Audit logs: every line is shown, passed over, or counted as none of ours, and nothing of it reaches a terminal as it is.
pub fn audit_log(data: &[u8]) {
    let lines = data.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count() as u64;
    for json in [false, true] {
        let (mut out, mut summary) = (Vec::new(), Summary::default());
        show_lines(Path::new("audit.jsonl"), &mut &data[..], &Filter::default(), json, &mut out, &mut summary).unwrap();
        assert_eq!((summary.read + summary.malformed, summary.shown), (lines, summary.read));
        assert!(summary.places.iter().all(|place| place.line >= 1));
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count() as u64, summary.shown);
        let text = String::from_utf8(out).expect("what is shown is text");
        if !json {
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        }
    }
    let (mut out, mut summary) = (Vec::new(), Summary::default());
    let refused = Filter { event: Some("refused".to_owned()), ..Filter::default() };
    show_lines(Path::new("audit.jsonl"), &mut &data[..], &refused, false, &mut out, &mut summary).unwrap();
    assert!(summary.shown <= summary.read);
    compared(data);
}

/// Whatever is read as a log can be compared, and what is said of it moves no cursor.
fn compared(data: &[u8]) {
    let mut log = Log::default();
    for line in data.split(|&byte| byte == b'\n') {
        let entry = str::from_utf8(line).ok().and_then(|text| serde_json::from_str::<Entry>(text).ok());
        // What is of another side than the first session is refused, and the rest still makes a log.
        let _ = entry.map(|entry| log.add(entry));
    }
    let comparison = compare(&log, &log, &Scope::default(), APART);
    let text = comparison.to_string();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let listed = comparison.disagreements.len() as u64;
    assert_eq!(comparison.agrees(), listed == 0);
}

/// Audit logs that somebody may have changed: a verdict in bounded memory, and nothing is called whole whose first record begins no chapter.
pub fn audit_verify(data: &[u8]) {
    let report = verify_content(Path::new("audit.jsonl"), data).unwrap();
    let lines = data.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count() as u64;
    assert!(report.records <= lines && report.chapters <= lines, "{report:?}");
    assert_eq!(report.records > 0, report.chapters > 0, "{report:?}");
    if report.records > 0 {
        assert_eq!(report.last_seq - report.first_seq + 1, report.records);
        assert!(report.checkpoint.is_some_and(|signed| (report.first_seq..=report.last_seq).contains(&signed.seq)));
    }
    let text = serde_json::to_string(&report).expect("a report is written down");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Questions to a running process: nothing is asked without words, and never everything beside something.
pub fn admin_query(data: &[u8]) {
    let Ok(query) = str::from_utf8(data) else { return };
    if let Ok(Question::One { client, target, from }) = fuzzing::question(query) {
        assert!(client.len() + target.len() + from.map_or(0, |from| from.len()) <= query.len());
    }
    if let Ok(which) = fuzzing::which(query) {
        let parts = [&which.client, &which.agent, &which.target, &which.rule];
        let narrowed = which.request.is_some() || parts.iter().any(|part| part.is_some());
        assert!(narrowed != which.all, "{query:?} means {which:?}");
    }
}
