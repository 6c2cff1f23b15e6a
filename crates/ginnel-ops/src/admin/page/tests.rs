use super::super::testing::{sessions, status};
use super::*;

#[test]
fn shows_what_people_look_for() {
    let page = render(&status(), &sessions(), &[]);
    for part in [
        "Ready: a session could be carried now",
        "server.yaml:31:7",
        "spiffe://acme.example/server/tunnel",
        "16 h 12 min left",
        "draining",
        "48 GB",
        "2 rules, version 8d2c1f0a9b3e4d55",
        "<td data-name=\"Cause\">notAllowed</td>",
        "href=\"/requests/9f8e7d6c5b4a39281706f5e4d3c2b1a0\"",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn what_comes_from_outside_is_inert() {
    let mut status = status();
    let hostile = "\"><script>alert('x')</script>&\u{1b}[2J";
    status.principal = Some(hostile.to_owned());
    status.ready = false;
    status.not_ready = vec![hostile.to_owned()];
    status.refusals[0].target = hostile.to_owned();
    status.refusals[0].request_id = hostile.to_owned();
    status.causes[0].cause = hostile.to_owned();
    let mut sessions = sessions();
    sessions[0].target = hostile.to_owned();
    sessions[0].client = Some(format!("spiffe://acme.example/client/{hostile}"));
    let page = render(&status, &sessions, &[]);
    assert!(!page.contains("<script") && !page.contains('\u{1b}'), "{page}");
    assert!(page.contains("&lt;script&gt;alert"), "shown, but as text");
}

#[test]
fn says_in_plain_words_that_it_is_not_ready() {
    let mut status = status();
    status.draining = true;
    status.ready = false;
    status.not_ready = vec!["it is shutting down".to_owned()];
    status.agents.clear();
    let page = render(&status, &[], &[]);
    for part in
        ["<title>NOT READY", "Draining: no new sessions", "<li>it is shutting down</li>", "No agent is connected."]
    {
        assert!(page.contains(part), "{part}");
    }
}
