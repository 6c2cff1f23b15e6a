//! `ginnel status`: what a running process says of itself.

use std::fmt::Write;
use std::time::Duration;

use ginnel_core::audit::{Checkpoint, Text};
use ginnel_core::status::{Bound, Certificate, Failure as Failed, Observation, Peer, Route, Sink, Status};

use super::ask::{read, read_text};
use super::table::{NONE, Table, between, bytes, moment, name_of, short, span};
use super::{Failure, Outcome, print};
use crate::args::operate;

/// Refusals that are shown; the process keeps some more.
const REFUSALS_SHOWN: usize = 10;

/// Routes of a client that are shown; `--json` has them all.
const ROUTES_SHOWN: usize = 10;

pub(super) async fn run(args: operate::Status) -> Result<Outcome, Failure> {
    let door = args.ask.door();
    if args.json {
        print(&read_text(&door, "/status").await?)?;
        return Ok(Outcome::Yes);
    }
    let status: Status = read(&door, "/status").await?;
    if args.ready {
        print(&readiness(&status))?;
        return Ok(if status.ready { Outcome::Yes } else { Outcome::No });
    }
    print(&render(&status))?;
    Ok(Outcome::Yes)
}

fn readiness(status: &Status) -> String {
    let mut text = String::from(if status.ready { "ready\n" } else { "not ready\n" });
    for reason in &status.not_ready {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "  {}", Text::new(reason));
    }
    text
}

/// The whole report.
pub(crate) fn render(status: &Status) -> String {
    let mut text = String::new();
    let who = status.principal.as_deref().unwrap_or("no certificate yet");
    let _ = writeln!(text, "{} {}", Text::new(&status.role), Text::new(who));
    let draining = if status.draining { ", draining: no new sessions" } else { "" };
    let _ = writeln!(text, "  {}{draining}", if status.ready { "ready" } else { "NOT READY" });
    for reason in &status.not_ready {
        let _ = writeln!(text, "    {}", Text::new(reason));
    }
    let up = between(status.started, status.time);
    let _ = writeln!(
        text,
        "  version {}, process {}, up for {up}",
        Text::new(&status.version),
        Text::new(&status.instance)
    );
    configuration(&mut text, status);
    certificate(&mut text, status);
    if let Some(server) = &status.server {
        let state = match server.since {
            Some(since) if server.connected => format!("connected for {}", between(since, status.time)),
            Some(_) | None => (if server.connected { "connected" } else { "not connected" }).to_owned(),
        };
        let version =
            server.version.as_deref().map(|version| format!(", version {}", Text::new(version))).unwrap_or_default();
        let _ =
            writeln!(text, "  server {} at {}: {state}{version}", Text::new(&server.name), Text::new(&server.address));
        failure(&mut text, "the last attempt failed", server.failure.as_ref());
    }
    if let Some(audit) = &status.audit {
        let state = if audit.healthy { "written" } else { "CANNOT BE WRITTEN: nothing new is allowed" };
        let _ = writeln!(text, "  audit log: {state}, {} records waiting", audit.waiting);
        if let Some(Checkpoint { seq, hash, time }) = audit.checkpoint {
            let _ = writeln!(text, "    checkpoint {} ago: record {seq}, hash {hash}", between(time, status.time));
        }
        if let Some(sink) = &audit.sink {
            audit_sink(&mut text, sink);
        }
    }
    bounds(&mut text, &status.bounds);
    let totals = &status.sessions;
    let _ = writeln!(
        text,
        "  sessions: {} now; since the start {} opened, {} refused, {} up, {} down",
        totals.live,
        totals.opened,
        totals.refused,
        bytes(totals.bytes_up),
        bytes(totals.bytes_down)
    );
    if matches!(status.role.as_str(), "server" | "client") {
        peers(&mut text, "agents", &status.agents, status);
    }
    if status.role == "server" {
        peers(&mut text, "clients", &status.clients, status);
    }
    causes(&mut text, status);
    refusals(&mut text, status);
    text
}

fn audit_sink(text: &mut String, sink: &Sink) {
    let behind = match sink.behind_records {
        0 => "nothing waits".to_owned(),
        records => {
            format!("{records} records wait on the disk, for {}", span(Duration::from_secs(sink.behind_seconds)))
        }
    };
    let _ = writeln!(text, "  audit sink {}: {behind}", Text::new(&sink.place));
    if sink.replaced > 0 {
        let _ = writeln!(text, "    {} records were not taken as they are; stubs stand for them", sink.replaced);
    }
    if sink.lost > 0 {
        let _ = writeln!(text, "    {} RECORDS ARE LOST to it; those that are still on the disk are whole", sink.lost);
    }
    failure(text, "the last attempt failed", sink.failure.as_ref());
}

fn configuration(text: &mut String, status: &Status) {
    let config = &status.config;
    let what = match status.role.as_str() {
        "server" => "policy",
        "agent" => "allow-list",
        "enrolment" => "may enrol",
        "client" => return routes(text, status),
        _ => return,
    };
    let entries = match (status.role.as_str(), config.entries) {
        ("server", 1) => "rule",
        ("server", _) => "rules",
        ("enrolment", 1) => "identity",
        ("enrolment", _) => "identities",
        (_, 1) => "entry",
        (_, _) => "entries",
    };
    let since = in_force(status);
    let _ = writeln!(text, "  {what}: {} {entries}, version {}{since}", config.entries, Text::new(&config.version));
    if let Some(Observation { version, entries, would_refuse }) = &status.observation {
        let (entry, version) = (if *entries == 1 { "entry" } else { "entries" }, Text::new(version));
        let counted: Vec<_> =
            would_refuse.iter().map(|seen| format!("{} {}", seen.count, Text::new(&seen.cause))).collect();
        let counted = if counted.is_empty() { "nothing".to_owned() } else { counted.join(", ") };
        let _ =
            writeln!(text, "  under observation: {entries} {entry}, version {version}; would have refused {counted}");
    }
    if let Some(denials @ 1..) = status.denials {
        let _ = writeln!(text, "  revoked: {denials}; `ginnel revoke --list` shows whom and what");
    }
    failure(text, "the last reload failed; what was in force before still is", config.failure.as_ref());
}

fn in_force(status: &Status) -> String {
    let applied = status.config.applied;
    applied.map(|applied| format!(", in force for {}", between(applied, status.time))).unwrap_or_default()
}

fn routes(text: &mut String, status: &Status) {
    match &status.routes {
        None => text.push_str("  routes: none; every agent that the server offers may serve\n"),
        Some(routes) => {
            let count = if routes.len() == 1 { "1 route".to_owned() } else { format!("{} routes", routes.len()) };
            let _ =
                writeln!(text, "  routes: {count}, version {}{}", Text::new(&status.config.version), in_force(status));
            for Route { targets, agents } in routes.iter().take(ROUTES_SHOWN) {
                let shown = |items: &[String]| {
                    items.iter().map(|item| Text::new(item).as_str().to_owned()).collect::<Vec<_>>().join(", ")
                };
                let _ = writeln!(text, "    {} through {}", shown(targets), shown(agents));
            }
            if let more @ 1.. = routes.len().saturating_sub(ROUTES_SHOWN) {
                let _ = writeln!(text, "    and {more} more");
            }
        }
    }
    failure(text, "the last reload failed; what was in force before still is", status.config.failure.as_ref());
}

/// The bounds at which somebody was turned away, or soon will be.
fn bounds(text: &mut String, bounds: &[Bound]) {
    let is_near = |bound: &Bound| bound.most > 0 && bound.used >= bound.most - bound.most / 5;
    for bound in bounds.iter().filter(|bound| bound.turned_away > 0 || is_near(bound)) {
        let Bound { name, used, most, turned_away } = bound;
        let filled = if *most > 0 { format!("{used} of {most} used, ") } else { String::new() };
        let _ = writeln!(text, "  bound {}: {filled}{turned_away} turned away since the start", Text::new(name));
    }
}

fn certificate(text: &mut String, status: &Status) {
    let Some(certificate) = &status.certificate else {
        return text.push_str("  certificate: none yet\n");
    };
    let _ = writeln!(text, "  certificate {}: {}", Text::new(&certificate.serial), life(certificate));
    if let Some(credential) = &certificate.credential {
        let _ = writeln!(text, "  proved with: {}", Text::new(credential));
    }
    failure(text, "the last renewal failed; the certificate stays in use", certificate.renewal_failure.as_ref());
}

fn life(certificate: &Certificate) -> String {
    match certificate.remaining_seconds {
        0 => format!("EXPIRED at {}", moment(certificate.not_after)),
        seconds => format!("{} left", span(Duration::from_secs(seconds))),
    }
}

fn failure(text: &mut String, what: &str, failure: Option<&Failed>) {
    let Some(Failed { time, error }) = failure else { return };
    let _ = writeln!(text, "    {what} ({}):", moment(*time));
    for line in error.lines() {
        let _ = writeln!(text, "      {}", Text::new(line));
    }
}

fn peers(text: &mut String, title: &str, peers: &[Peer], status: &Status) {
    if peers.is_empty() {
        let _ = writeln!(text, "\n{title}: none is connected");
        return;
    }
    let head = ["NAME", "PROCESS", "VERSION", "FROM", "SINCE", "CERTIFICATE", "PROVED BY", "SESSIONS", "STATE"];
    let mut table = Table::new(&head);
    for peer in peers {
        let proof = peer.certificate.as_ref().and_then(|certificate| certificate.proof.as_deref());
        table.row([
            name_of(&peer.principal),
            &short(&peer.instance),
            peer.version.as_deref().unwrap_or(NONE),
            peer.peer.as_deref().unwrap_or(NONE),
            &peer.since.map_or_else(|| NONE.to_owned(), |since| between(since, status.time)),
            &peer.certificate.as_ref().map_or_else(|| NONE.to_owned(), life),
            &proof.map_or_else(|| NONE.to_owned(), proved_by),
            &peer.sessions.map_or_else(|| NONE.to_owned(), |sessions| sessions.to_string()),
            match (peer.on_route, peer.draining) {
                (Some(false), _) => "on no route",
                (Some(true) | None, true) => "draining",
                (Some(true) | None, false) => "live",
            },
        ]);
    }
    let _ = write!(text, "\n{title}\n{}", table.text());
}

/// The kind of a proof, and what its key or issuer begins with: enough to tell two keys apart that are good at the same time.
fn proved_by(proof: &str) -> String {
    match proof.split_once(':') {
        Some((kind @ ("key" | "googleKey"), id)) => format!("{kind} {}", short(id)),
        Some((kind, issuer)) => format!("{kind} {issuer}"),
        None => proof.to_owned(),
    }
}

fn causes(text: &mut String, status: &Status) {
    let mut refused: Vec<_> = status.causes.iter().filter(|counted| counted.event == "refused").collect();
    if refused.is_empty() {
        return;
    }
    refused.sort_by_key(|counted| std::cmp::Reverse(counted.count));
    let mut table = Table::new(&["CAUSE", "BY", "COUNT"]);
    for counted in refused {
        table.row([&counted.cause, &counted.hop, &counted.count.to_string()]);
    }
    let _ = write!(text, "\nrefusals by cause\n{}", table.text());
}

fn refusals(text: &mut String, status: &Status) {
    if status.refusals.is_empty() {
        return;
    }
    let mut table = Table::new(&["TIME", "REQUEST", "WHO", "TARGET", "BY", "CAUSE"]);
    for request in status.refusals.iter().take(REFUSALS_SHOWN) {
        table.row([
            &moment(request.until.unwrap_or(request.since)),
            &request.request_id,
            name_of(request.client.as_deref().unwrap_or(NONE)),
            &request.target,
            request.hop.as_deref().unwrap_or(NONE),
            request.cause.as_deref().unwrap_or(NONE),
        ]);
    }
    let _ = write!(text, "\nlast refusals (ginnel explain REQUEST says more)\n{}", table.text());
}

#[cfg(test)]
mod tests {
    use ginnel_core::status::Observed;

    use super::*;

    fn fixture() -> Status {
        serde_json::from_str(include_str!("../../../ginnel-ops/tests/fixtures/status.json")).unwrap()
    }

    #[test]
    fn reads_as_the_golden_report() {
        let report = render(&fixture());
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cmd/golden/status.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &report).unwrap();
        }
        assert_eq!(report, std::fs::read_to_string(golden).unwrap_or_default());
    }

    #[test]
    fn a_client_shows_its_routes_or_that_it_has_none() {
        let routes = |routes: Option<Vec<Route>>| {
            let mut status = Status { role: "client".to_owned(), routes, ..fixture() };
            (status.clients, status.config.failure) = (Vec::new(), None);
            status.agents[1].on_route = Some(false);
            render(&status)
        };
        let none = routes(None);
        assert!(none.contains("\n  routes: none; every agent that the server offers may serve\n"), "{none}");
        let route = Route {
            targets: vec!["git.acme.internal:443".to_owned(), "\u{1b}[2J:1".to_owned()],
            agents: vec!["acme".to_owned(), "acme-2".to_owned()],
        };
        let some = routes(Some(vec![route; ROUTES_SHOWN + 2]));
        let head = "\n  routes: 12 routes, version 8d2c1f0a9b3e4d55, in force for 1 d 4 h\n";
        assert!(some.contains(head), "{some}");
        let line = "\n    git.acme.internal:443, \\u{1b}[2J:1 through acme, acme-2\n";
        assert_eq!((some.matches(line).count(), some.matches("\n    and 2 more\n").count()), (5, 1), "{some}");
        assert!(some.contains("on no route\n"), "{some}");
    }

    #[test]
    fn says_what_a_list_under_observation_would_have_refused() {
        let mut status = fixture();
        status.role = "agent".to_owned();
        let (version, entries) = ("91bc".to_owned(), 1);
        status.observation = Some(Observation { version, entries, would_refuse: Vec::new() });
        let line = "  under observation: 1 entry, version 91bc; would have refused ";
        assert!(render(&status).contains(&format!("{line}nothing\n")), "{}", render(&status));
        if let Some(observation) = &mut status.observation {
            observation.would_refuse = vec![Observed { cause: "notOnAllowList\u{1b}".to_owned(), count: 3 }];
        }
        assert!(render(&status).contains(&format!("{line}3 notOnAllowList\\u{{1b}}\n")), "{}", render(&status));
    }

    #[test]
    fn says_why_it_is_not_ready() {
        let mut status = fixture();
        status.ready = false;
        status.not_ready = vec!["no agent is connected\u{1b}[2J".to_owned()];
        assert_eq!(readiness(&status), "not ready\n  no agent is connected\\u{1b}[2J\n");
    }
}
