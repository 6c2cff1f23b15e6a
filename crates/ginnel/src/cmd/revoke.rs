//! `ginnel revoke`: shuts somebody or something out, takes that back, or shows it.

use std::fmt::Write;

use ginnel_core::audit::Text;
use ginnel_core::denial::{self, Kind};
use ginnel_core::status::{Denied, Revoked};
use ginnel_ops::admin::client::{Door, escaped};
use http::StatusCode;

use super::ask::{order, read_text, refused};
use super::table::{NONE, Table, moment};
use super::{Failure, Outcome, print};
use crate::args::operate;

pub(super) async fn run(args: operate::Revoke) -> Result<Outcome, Failure> {
    let door = Door::Socket(args.socket.clone());
    if args.list {
        let text = read_text(&door, "/denials").await?;
        let denied: Vec<Denied> = serde_json::from_str(&text).map_err(Failure::failed)?;
        print(&if args.json { text } else { render(&denied) })?;
        return Ok(Outcome::Yes);
    }
    let reply = order(&door, &format!("/revoke?{}", query(&args))).await?;
    if reply.status != StatusCode::OK {
        return Err(refused(&door, reply.status, &reply.text));
    }
    let revoked: Revoked = serde_json::from_str(&reply.text).map_err(Failure::failed)?;
    print(&if args.json { reply.text } else { told(&revoked) })?;
    // Nothing to undo is a no; what was revoked already is revoked.
    Ok(if revoked.changed || revoked.denied { Outcome::Yes } else { Outcome::No })
}

fn query(args: &operate::Revoke) -> String {
    let named = [
        (Kind::Who, &args.who),
        (Kind::Key, &args.key),
        (Kind::Serial, &args.serial),
        (Kind::Rule, &args.rule),
        (Kind::Target, &args.target),
    ];
    let named = named.into_iter().filter_map(|(kind, value)| Some((kind.as_str(), value.as_deref()?)));
    let named = named.chain(args.all.then_some((Kind::All.as_str(), denial::ALL)));
    let reason = args.reason.as_deref().map(|reason| ("reason", reason));
    let undo = args.undo.then_some(("undo", "true"));
    let pairs = named.chain(reason).chain(undo).map(|(key, value)| format!("{key}={}", escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// What came of it, for people.
fn told(revoked: &Revoked) -> String {
    let Revoked { kind, value, denied, changed, effective, connections, sessions, lasting: _, notes } = revoked;
    let (what, since) = (format!("{} {}", Text::new(kind), Text::new(value)), effective);
    let mut text = match (denied, changed) {
        (true, true) => format!("revoked {what}, in force since {since}\n"),
        (true, false) => format!("{what} was revoked already, and still is\n"),
        (false, true) => format!("no longer revoked: {what}, since {since}\n"),
        (false, false) => format!("{what} was not revoked\n"),
    };
    let counted = |number: &u64, one: &str| match number {
        1 => format!("1 {one}"),
        more => format!("{more} {one}s"),
    };
    if *denied {
        let (connections, sessions) = (counted(connections, "connection"), counted(sessions, "session"));
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "ended: {connections}, {sessions}");
    }
    for note in notes {
        let _ = writeln!(text, "note: {}", Text::new(note));
    }
    text
}

/// The table of what is revoked.
fn render(denied: &[Denied]) -> String {
    if denied.is_empty() {
        return "nothing is revoked\n".to_owned();
    }
    let mut text = Table::new(&["KIND", "WHAT", "SINCE", "BY", "REASON"]);
    for Denied { kind, value, since, by, reason } in denied {
        text.row([kind, value, &moment(*since), by, reason.as_deref().unwrap_or(NONE)]);
    }
    text.text()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(words: &[&str]) -> Result<operate::Revoke, clap::Error> {
        let words = ["ginnel", "revoke", "--socket", "s"].iter().chain(words);
        let Command::Revoke(revoke) = Args::try_parse_from(words)?.command else { panic!("it says revoke") };
        Ok(revoke)
    }

    #[test]
    fn one_thing_is_named_and_reaches_the_process_as_it_was_spelled() {
        let cases: [(&[&str], &str); 6] = [
            (&["client/frontend"], "who=client%2Ffrontend"),
            (&["--serial", "0a:ff", "--reason", "lost & found"], "serial=0a%3Aff&reason=lost%20%26%20found"),
            (&["--key", "ab", "--undo"], "key=ab&undo=true"),
            (&["--rule", "gitlab"], "rule=gitlab"),
            (&["--target", "10.0.0.0/8:443"], "target=10.0.0.0%2F8%3A443"),
            (&["--all", "--reason", "stop"], "all=sessions&reason=stop"),
        ];
        for (words, expected) in cases {
            assert_eq!(query(&parse(words).unwrap()), expected, "{words:?}");
        }
        let wrong: [&[&str]; 5] =
            [&[], &["a", "--rule", "b"], &["--list", "--undo"], &["--list", "a"], &["--all", "client/a"]];
        for words in wrong {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn an_answer_says_what_ended_and_since_when() {
        let answer = Revoked {
            kind: "rule".to_owned(),
            value: "git\u{1b}".to_owned(),
            denied: true,
            changed: true,
            connections: 1,
            sessions: 2,
            notes: vec!["It is so.".to_owned()],
            ..Revoked::default()
        };
        let text = told(&answer);
        assert_eq!(
            text,
            "revoked rule git\\u{1b}, in force since 1970-01-01T00:00:00.000000Z\nended: 1 connection, 2 sessions\nnote: It is so.\n"
        );
    }
}
