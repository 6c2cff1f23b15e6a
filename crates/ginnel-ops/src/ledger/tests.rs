use ginnel_core::target::Target;

use super::*;

fn begun(number: u8, target: &str) -> Begun {
    Begun {
        request: RequestId::from_bytes(&[number; 16]).unwrap(),
        client: Some("spiffe://acme.example/client/frontend".parse().unwrap()),
        client_instance: InstanceId::from_bytes(&[9; 16]).ok(),
        from: None,
        target: target.to_owned(),
        front: None,
    }
}

fn agent() -> Principal {
    "spiffe://acme.example/agent/acme".parse().unwrap()
}

fn status(ledger: &Ledger) -> Status {
    let mut status: Status = serde_json::from_str(include_str!("../../tests/fixtures/status.json")).unwrap();
    ledger.fill(&mut status);
    status
}

#[test]
fn a_session_is_live_then_remembered_and_counted() {
    let ledger = Ledger::new(Role::Server);
    let tracked = ledger.begin(begun(1, "git.acme.internal:443"));
    let instance = InstanceId::from_bytes(&[3; 16]).unwrap();
    tracked.through(&agent(), Some(instance), Some("git"));
    tracked.carried("10.0.0.7:443".parse().ok());
    tracked.traffic().set(10, 20);
    let live = &ledger.live()[0];
    assert_eq!((live.state.as_str(), live.bytes_up, live.rule.as_deref()), ("carried", 10, Some("git")));
    assert_eq!((ledger.of_agent(instance), status(&ledger).sessions.live), (1, 1));
    tracked.ended(Hop::Target, Cause::Finished);
    let found = ledger.find(RequestId::from_bytes(&[1; 16]).unwrap()).unwrap();
    assert_eq!((found.state.as_str(), found.cause.as_deref(), found.bytes_down), ("ended", Some("finished"), 20));
    let totals = status(&ledger).sessions;
    assert_eq!((totals.live, totals.opened, totals.ended, totals.bytes_down), (0, 1, 1, 20));
    assert_eq!(status(&ledger).opening.count, 1);
}

#[test]
fn attempts_of_one_request_are_told_with_its_last_word() {
    let ledger = Ledger::new(Role::Server);
    let first = ledger.begin(begun(1, "git.acme.internal:443"));
    first.through(&agent(), None, None);
    first.refused(Refusal::new(Hop::Target, Cause::ConnectionRefused));
    ledger.begin(begun(1, "git.acme.internal:443")).refused(Refusal::new(Hop::Server, Cause::NoLiveAgent));
    let found = ledger.find(RequestId::from_bytes(&[1; 16]).unwrap()).unwrap();
    assert_eq!(found.cause.as_deref(), Some("noLiveAgent"));
    assert_eq!(found.attempts, ["target: connectionRefused (acme)"]);
}

#[tokio::test]
async fn only_who_is_meant_is_told_to_end_and_why() {
    let ledger = Ledger::new(Role::Server);
    let (one, other) = (ledger.begin(begun(1, "git.acme.internal:22")), ledger.begin(begun(2, "npm.acme.internal:22")));
    let why = Refusal::new(Hop::Server, Cause::EndedByOperator);
    assert_eq!(ledger.end(&Which::default(), why), 0, "nobody is meant");
    assert_eq!(ledger.end(&Which { target: Some("GIT.acme.internal".to_owned()), ..Which::default() }, why), 1);
    assert_eq!(one.stopped().await, why);
    assert!(!other.stop.token.is_cancelled());
    let no_longer = Refusal::new(Hop::Server, Cause::NotAllowed);
    let npm: Target = "npm.acme.internal:22".parse().unwrap();
    assert_eq!(ledger.end_where(|parties| (parties.target.as_ref() == Some(&npm)).then_some(no_longer)), 1);
    assert_eq!(other.stopped().await, no_longer);
    drop(other);
    let found = ledger.find(RequestId::from_bytes(&[2; 16]).unwrap()).unwrap();
    assert_eq!(found.cause.as_deref(), Some("notAllowed"), "also when nobody was left to say so");
}

#[test]
fn what_is_remembered_is_bounded() {
    let ledger = Ledger::new(Role::Client);
    for number in 0..u8::MAX {
        ledger.begin(begun(number, "a.internal:1")).refused(Refusal::new(Hop::Server, Cause::NotAllowed));
    }
    for _ in 0..PAST_MAX + 10 {
        let tracked = ledger.begin(begun(1, "a.internal:1"));
        tracked.carried(None);
        tracked.ended(Hop::Application, Cause::Finished);
    }
    let book = ledger.book();
    assert_eq!((book.past.len(), book.refusals.len(), book.live.len()), (PAST_MAX, REFUSALS_MAX, 0));
    drop(book);
    assert_eq!(status(&ledger).refusals[0].request_id, format!("{:032x}", u128::from_be_bytes([254; 16])));
}
