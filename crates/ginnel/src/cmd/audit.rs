//! `ginnel audit`.

use std::io::{BufWriter, Write, stderr, stdout};
use std::time::Duration;

use ginnel_core::audit::Event;
use ginnel_core::audit::compare::Scope;
use ginnel_ops::audit::compare::{Compared, Question, read_and_compare};
use ginnel_ops::audit::show::{Filter, Place, show};
use ginnel_ops::audit::verify::{Evidence, Log, Proof, Report, verify};

use super::{Failure, Outcome, print};
use crate::args::{Audit, Compare, Show, Verify};

pub(super) fn run(audit: Audit) -> Result<Outcome, Failure> {
    match audit {
        Audit::Show(args) => run_show(args),
        Audit::Verify(args) => run_verify(args),
        Audit::Compare(args) => run_compare(args),
    }
}

fn run_compare(args: Compare) -> Result<Outcome, Failure> {
    let Compare { one, other, json, agent, apart, since, until } = args;
    let (scope, apart) = (Scope { agent }, Duration::from_secs(apart));
    let compared = read_and_compare(&Question { one, other, scope, apart, since, until }).map_err(Failure::input)?;
    let Compared { comparison, malformed, places } = compared;
    print(&if json {
        serde_json::to_string_pretty(&comparison).map(|json| json + "\n").map_err(Failure::failed)?
    } else {
        comparison.to_string()
    })?;
    name_malformed(&places);
    Ok(if comparison.agrees() && malformed == 0 { Outcome::Yes } else { Outcome::No })
}

/// Says which lines are no records.
fn name_malformed(places: &[Place]) {
    let mut talk = stderr().lock();
    for place in places {
        // The exit code says it as well.
        let _ = writeln!(talk, "{place}: not an audit record");
    }
}

fn run_show(args: Show) -> Result<Outcome, Failure> {
    if let Some(event) = args.event.as_deref().filter(|event| !Event::WORDS.contains(event)) {
        return Err(Failure::input(format!("{event:?} is no event; the events are {}", Event::WORDS.join(", "))));
    }
    let filter = Filter {
        event: args.event,
        request: args.request,
        client: args.client,
        agent: args.agent,
        target: args.target,
        cause: args.cause,
        since: args.since,
        until: args.until,
    };
    let mut out = BufWriter::new(stdout().lock());
    let summary = show(&args.files, &filter, args.json, &mut out).map_err(Failure::input)?;
    out.flush().map_err(Failure::failed)?;
    name_malformed(&summary.places);
    let _ = writeln!(stderr().lock(), "{} of {} records shown", summary.shown, summary.read);
    Ok(if summary.malformed == 0 { Outcome::Yes } else { Outcome::No })
}

/// A directory is a log of its own; all files together are one.
fn run_verify(args: Verify) -> Result<Outcome, Failure> {
    let Verify { files, key, public_key: public, anchors, expect_at_least: at_least, json } = args;
    let (directories, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|path| path.is_dir());
    let mut logs: Vec<_> = directories.into_iter().map(Log::Directory).collect();
    if !files.is_empty() {
        logs.push(Log::Files(files));
    }
    let evidence = Evidence { key, public, anchors, at_least };
    if logs.len() > 1 && evidence != Evidence::default() {
        let hint = "keys and anchors are of one log: verify each log by itself";
        return Err(Failure::input(hint));
    }
    let mut is_whole = true;
    for log in &logs {
        let report = verify(log, &evidence).map_err(Failure::input)?;
        is_whole &= report.is_whole();
        let text = if json { serde_json::to_string(&report).map_err(Failure::failed)? + "\n" } else { told(&report) };
        print(&text)?;
    }
    Ok(if is_whole { Outcome::Yes } else { Outcome::No })
}

/// A report, for people.
fn told(report: &Report) -> String {
    let Report { records, first_seq, last_seq, files, chapters, .. } = report;
    let proof = match report.proof {
        Proof::SecretKey => "proved by the secret key",
        Proof::PublicKey => "proved by the public key, as far as it is signed",
        Proof::Itself => "proved by nothing but itself",
    };
    let files = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    let chapters = if *chapters == 1 { "1 chapter".to_owned() } else { format!("{chapters} chapters") };
    let extent = match records {
        0 => "no records".to_owned(),
        1 => format!("record {first_seq}"),
        _ => format!("records {first_seq} to {last_seq}"),
    };
    let mut text = match &report.finding {
        None => format!("whole: {extent} in {files} and {chapters}, {proof}\n"),
        Some(finding) => format!("NOT whole: {finding}\n  good before that: {extent} in {chapters}, {proof}\n"),
    };
    if let Some(checkpoint) = &report.checkpoint {
        text.push_str(&format!("  newest checkpoint: record {}, hash {}\n", checkpoint.seq, checkpoint.hash));
    }
    for note in &report.notes {
        text.push_str(&format!("  note: {note}\n"));
    }
    text
}
