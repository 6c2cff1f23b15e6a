use std::collections::BTreeSet;
use std::thread;

use ginnel_core::route::Route;
use ginnel_ops::ledger::Begun;

use super::*;

const TARGET: &str = "git.acme.internal:443";

fn routes(agents: &[&str]) -> Routes {
    let agents: BTreeSet<_> = agents.iter().map(|agent| agent.parse().unwrap()).collect();
    Routes::pinned(vec![Route { targets: vec![TARGET.parse().unwrap()], agents }])
}

fn sessions() -> Sessions {
    Sessions {
        live: watch::Sender::new(None).subscribe(),
        lanes: Lanes::default(),
        routes: RwLock::new(Arc::new(routes(&["acme", "other"]))),
        inner_tls: true,
        handshakes: Handshakes::default(),
        ledger: Ledger::new(Role::Client),
        draining: CancellationToken::new(),
    }
}

/// A request of which nobody knows yet who is to serve it.
fn begun(sessions: &Sessions) -> Tracked {
    sessions.ledger.begin(Begun {
        request: RequestId::random(&mut SystemRandom),
        client: None,
        client_instance: None,
        from: None,
        target: TARGET.to_owned(),
        front: None,
    })
}

fn choice() -> Choice {
    let instance = InstanceId::from_bytes(&[1; 16]).unwrap();
    Choice { principal: "spiffe://acme.example/agent/other".parse().unwrap(), instance }
}

/// Enough for a thread to start on a machine that is busy.
const ENTERED_WITHIN: Duration = Duration::from_secs(30);

const NOT_ON_ROUTE: Refusal = Refusal { hop: Hop::Client, cause: Cause::NotOnRoute };

#[test]
fn a_choice_that_was_made_by_older_routes_is_refused() {
    let sessions = sessions();
    let tracked = begun(&sessions);
    // Of a request without a choice the routes know nothing but its target, which is still on one.
    assert_eq!(sessions.replace_routes(routes(&["acme"])), 0);
    assert_eq!(sessions.enter(&tracked, &TARGET.parse().unwrap(), &choice()), Err(NOT_ON_ROUTE));
}

#[test]
fn a_choice_is_in_the_book_before_the_routes_are_asked() {
    let (sessions, target, choice) = (sessions(), TARGET.parse().unwrap(), choice());
    let tracked = begun(&sessions);
    thread::scope(|scope| {
        // Nobody can ask the routes while they are being replaced.
        let mut replacing = sessions.routes.write().unwrap();
        let entering = scope.spawn(|| sessions.enter(&tracked, &target, &choice));
        let begun = Instant::now();
        let is_in_the_book = || sessions.ledger.of_agent(choice.instance) == 1;
        while !is_in_the_book() && begun.elapsed() < ENTERED_WITHIN {
            thread::yield_now();
        }
        let found = is_in_the_book();
        *replacing = Arc::new(routes(&["acme"]));
        drop(replacing);
        assert_eq!(entering.join().unwrap(), Err(NOT_ON_ROUTE));
        assert!(found, "a reload at this moment would have found nothing to end");
    });
}
