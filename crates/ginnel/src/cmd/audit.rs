//! `ginnel audit`.

use std::io::{BufWriter, Write, stderr, stdout};

use ginnel_core::audit::Event;
use ginnel_ops::audit::show::{Filter, show};

use super::{Failure, Outcome};
use crate::args::{Audit, Show};

pub(super) fn run(audit: Audit) -> Result<Outcome, Failure> {
    match audit {
        Audit::Show(args) => run_show(args),
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
    let mut talk = stderr().lock();
    for place in &summary.places {
        // The exit code says it as well.
        let _ = writeln!(talk, "{place}: not an audit record");
    }
    let _ = writeln!(talk, "{} of {} records shown", summary.shown, summary.read);
    Ok(if summary.malformed == 0 { Outcome::Yes } else { Outcome::No })
}
