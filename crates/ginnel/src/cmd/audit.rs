//! `ginnel audit`.

use std::io::{BufWriter, Write, stderr, stdout};
use std::time::Duration;

use ginnel_core::audit::Event;
use ginnel_core::audit::compare::Scope;
use ginnel_ops::audit::compare::{Compared, Question, read_and_compare};
use ginnel_ops::audit::show::{Filter, Place, show};

use super::{Failure, Outcome, print};
use crate::args::{Audit, Compare, Show};

pub(super) fn run(audit: Audit) -> Result<Outcome, Failure> {
    match audit {
        Audit::Show(args) => run_show(args),
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
