//! Lines about a request in logs: the audit log, and processes' own logs in either format.

use std::path::Path;

use ginnel_core::audit::{Entry, Timestamp};
use ginnel_core::id::RequestId;
use ginnel_ops::audit::show::{Seals, ShowError, each_line};
use serde_json::{Map, Value};

use super::story::{Found, Place, Story};

/// Fields of a log line that stand elsewhere in the story.
const TOLD: [&str; 4] = ["timestamp", "level", "message", "request"];

/// Adds what a file has about the request to the story; says whether it had anything.
pub(super) fn search(path: &Path, id: RequestId, story: &mut Story) -> Result<bool, ShowError> {
    let wanted = id.to_string();
    let source = path.display().to_string();
    let (mut any, mut seals) = (false, Seals::default());
    each_line(path, |line| {
        // Whoever can write a file of the audit log can put lines into it; what has no seal is told of nowhere.
        if !seals.allow(line) || memchr::memmem::find(line, wanted.as_bytes()).is_none() {
            return;
        }
        if let Some(found) = read(line, &wanted, &source) {
            any = true;
            story.find(found);
        }
    })?;
    Ok(any)
}

fn read(line: &[u8], wanted: &str, source: &str) -> Option<Found> {
    if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
        return (entry.request_id.as_deref() == Some(wanted)).then(|| of_audit(entry, source));
    }
    match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(fields)) => of_json(fields, wanted, source),
        // A line for people: what names the request tells of it.
        Ok(_) | Err(_) => Some(of_text(&String::from_utf8_lossy(line), source)),
    }
}

fn of_audit(entry: Entry, source: &str) -> Found {
    let fields = [
        ("rule", &entry.rule),
        ("policy", &entry.policy),
        ("agent", &entry.agent),
        ("address", &entry.address),
        ("hop", &entry.hop),
        ("cause", &entry.cause),
    ];
    let mut text = entry.event.clone();
    for (name, value) in fields {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    let numbers = [("up", entry.bytes_up), ("down", entry.bytes_down), ("ms", entry.duration_ms)];
    for (name, value) in numbers {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    // Every server says where a client came from, and no agent can.
    let is_agents = entry.peer.is_none() && entry.request_id.is_some();
    Found {
        place: if is_agents { Place::Agent } else { Place::Server },
        source: source.to_owned(),
        time: Some(entry.time),
        text,
        client: entry.client,
        target: entry.target,
        verdict: entry.hop.zip(entry.cause).map(|(hop, cause)| (entry.event, hop, cause)),
    }
}

fn of_json(fields: Map<String, Value>, wanted: &str, source: &str) -> Option<Found> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if text("request") != Some(wanted) {
        return None;
    }
    let message = text("message").unwrap_or_default();
    let mut words = message.to_owned();
    for (name, value) in &fields {
        if !TOLD.contains(&name.as_str()) && !is_module(name, value) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            words.push_str(&format!(" {name}={value}"));
        }
    }
    let verdict = text("hop").zip(text("cause")).filter(|_| matches!(message, "refused" | "ended"));
    Some(Found {
        place: Place::of_module(&fields),
        source: source.to_owned(),
        time: text("timestamp").and_then(|time| time.parse::<Timestamp>().ok()),
        text: words,
        client: text("client").map(str::to_owned),
        target: text("target").filter(|target| target.contains(':') && !target.contains("::")).map(str::to_owned),
        verdict: verdict.map(|(hop, cause)| (message.to_owned(), hop.to_owned(), cause.to_owned())),
    })
}

/// Where in the program a line was written: of no interest here.
fn is_module(name: &str, value: &Value) -> bool {
    matches!(name, "module" | "target") && value.as_str().is_some_and(|value| value.starts_with("ginnel"))
}

fn of_text(line: &str, source: &str) -> Found {
    let (first, _) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    Found {
        place: Place::of_text(line),
        source: source.to_owned(),
        time: first.parse().ok(),
        text: line.to_owned(),
        client: None,
        target: None,
        verdict: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn found(line: &str) -> Option<Found> {
        read(line.as_bytes(), ID, "log")
    }

    #[test]
    fn reads_every_kind_of_log() {
        let audit = format!(
            r#"{{"v":1,"seq":1,"time":"2026-11-24T12:00:00.000000Z","boot":"b","event":"refused","requestId":"{ID}","client":"spiffe://a.b/client/c","target":"x:1","peer":"10.0.0.9:1","hop":"server","cause":"notAllowed","policy":"p"}}"#
        );
        let of_agent = found(&audit.replace(r#""peer":"10.0.0.9:1","#, "")).unwrap();
        assert_eq!(of_agent.place, Place::Agent);
        let audit = found(&audit).unwrap();
        assert_eq!((audit.place, audit.text.as_str()), (Place::Server, "refused policy=p hop=server cause=notAllowed"));
        assert_eq!(audit.verdict.unwrap().2, "notAllowed");
        let json = format!(
            r#"{{"timestamp":"2026-11-24T12:00:00Z","level":"INFO","message":"ended","request":"{ID}","up":5,"hop":"target","cause":"reset","module":"ginnel_agent::session"}}"#
        );
        let json = found(&json).unwrap();
        assert_eq!((json.place, json.text.as_str()), (Place::Agent, "ended cause=reset hop=target up=5"));
        let human =
            found(&format!("2026-11-24T12:00:00Z  INFO ginnel_client::front::request: refused request={ID}")).unwrap();
        assert_eq!((human.place, human.time.is_some()), (Place::Client, true));
    }

    #[test]
    fn passes_over_lines_that_only_mention_the_id() {
        let other = format!(r#"{{"message":"x","request":"ffff","note":"{ID}"}}"#);
        assert!(found(&other).is_none());
    }
}
