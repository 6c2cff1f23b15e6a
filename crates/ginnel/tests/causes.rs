//! Keeps `docs/causes.md` in step with the vocabulary. `UPDATE_GOLDEN=1` writes it anew.
#![cfg(test)]
#![cfg(feature = "client")]

use std::fmt::Write;
use std::path::Path;

use ginnel_client::front::{reply, status};
use ginnel_core::cause::{Cause, Hop};

const HEAD: &str = "# Causes

Why a session was refused or ended is always one word of this list, and always with the *hop* that says so: `application`, `client`, `server`,
`agent` or `target`. The same two words stand in the answer to the application, in the logs of all three processes, in the audit log, in
`ginnel_sessions_refused_total{hop,cause}` and `ginnel_sessions_ended_total{hop,cause}`, in `ginnel status` and on the status page.
`ginnel explain REQUEST-ID` says for one request what this page says for all.

`finished` stands with the hop `application` everywhere, at the agent too: nobody broke anything, and which side ended last is no answer to a question.

Where an application sees them:

| it speaks | and is told |
|---|---|
| HTTP (`CONNECT` or plain) | the status below, the headers `Ginnel-Cause`, `Ginnel-Hop` and `Ginnel-Request-Id`, and a text with all of it |
| SOCKS5 | the reply code below; the client's log has the rest |
| a forward | a reset; the client's log has the rest |
| `ginnel connect` | cause, hop and request id on standard error |

A session that was opened can only end: its application sees an end of file (`finished`) or a reset (everything else).

What a person sees of each cause, the log line, the audit record and the metric, as the tests brought them about, is in
[causes.md of the process tests](../crates/ginnel/tests/it/golden/causes.md).

";

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| cause | meaning | HTTP | SOCKS5 |\n|---|---|---|---|\n");
    for &cause in Cause::ALL {
        let word = cause.as_str();
        let link = format!("[`{word}`](#{})", word.to_lowercase());
        // A session that finished was not refused.
        let answer = if cause == Cause::Finished {
            "– | –".to_owned()
        } else {
            format!("{} | {:#04x}", status(cause).as_u16(), reply(cause))
        };
        writeln!(page, "| {link} | {} | {answer} |", cause.sentence()).unwrap();
    }
    for &cause in Cause::ALL {
        let (word, sentence, mender, advice) = (cause.as_str(), cause.sentence(), cause.mender(), cause.advice());
        write!(page, "\n## {word}\n\n{sentence}\n\n- Who can mend it: {mender}.\n- What to do: {advice}\n").unwrap();
    }
    page
}

#[test]
fn the_documentation_has_every_cause_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/causes.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/causes.md is not fresh: run this test with UPDATE_GOLDEN=1");
    for hop in [Hop::Application, Hop::Client, Hop::Server, Hop::Agent, Hop::Target] {
        assert!(page.contains(&format!("`{hop}`")), "{hop}");
    }
}
