//! The bounds of what is kept, and what is not kept at all.

use super::*;

/// A client process of this name.
fn another(ends: &Ends, name: &str) -> (Initiators, Principal) {
    let uri = format!("spiffe://acme.example/client/{name}");
    let identity = ends.world.client.issue(&Profile { uris: vec![uri], ..Profile::of(Role::Client) });
    let initiators = Initiators::new(ends.world.agent.roots(), &identity).expect("a client's end");
    (initiators, identity.leaf().principal.clone())
}

fn session(ends: &Ends, initiators: &Initiators, client: &Principal, at: Moment) -> Done {
    let initiating = initiators.initiate(&principal(Role::Agent), ends.instance, at.monotonic).expect("an agent");
    let responding = ends.responder.respond(client, at.monotonic);
    Attempt::new(initiating, responding, at).finish().expect("verified")
}

#[test]
fn a_stock_fills_to_its_bound_and_both_ends_agree() {
    let ends = Ends::new();
    let at = Moment::first();
    for number in 1..=64 {
        let done = ends.begin(at).finish().expect("verified");
        assert!(done.pair.client.tls13_tickets_received() <= u32::from(GIVEN_MAX));
        assert!(ends.initiators.count() <= STOCK_MAX);
        assert_eq!(ends.initiators.count(), ends.responder.count(), "after {number}");
    }
    assert_eq!(ends.initiators.count(), STOCK_MAX);
}

#[test]
fn an_agent_that_gives_without_measure_fills_no_more_than_the_stock() {
    let ends = Ends::new();
    let at = Moment::first();
    let mut attempt = ends.begin(at);
    let mut config = (*attempt.responding.config()).clone();
    config.max_tls13_tickets = 0;
    config.send_tls13_tickets = 4 * STOCK_MAX;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(1024);
    attempt.pair.server = ServerConnection::new(Arc::new(config)).expect("a server");
    let done = attempt.finish().expect("verified");
    assert!(done.pair.client.tls13_tickets_received() as usize == 4 * STOCK_MAX);
    assert_eq!(ends.initiators.count(), STOCK_MAX);
}

#[test]
fn a_client_that_asks_without_measure_gets_no_more_than_there_are_for_one_handshake() {
    let ends = Ends::new();
    let at = Moment::first();
    let mut attempt = ends.begin(at);
    attempt.initiating.config_mut().send_ticket_request =
        Some(rustls::client::TicketRequest { new_session_count: 255, resumption_count: 255 });
    attempt.pair.client = ClientConnection::new(attempt.initiating.config(), inner_server_name()).expect("a client");
    attempt.finish().expect("verified");
    assert_eq!(ends.responder.count(), usize::from(GIVEN_MAX));
}

#[test]
fn nothing_is_kept_of_a_handshake_that_was_not_verified() {
    let ends = Ends::new();
    let at = Moment::first();
    let mut attempt = ends.begin(at);
    for _ in 0..3 {
        attempt.pair.tell_server().expect("heard");
        attempt.pair.tell_client().expect("heard");
    }
    assert!(!attempt.pair.server.is_handshaking() && attempt.pair.client.tls13_tickets_received() > 0);
    assert_eq!((ends.responder.count(), ends.initiators.count()), (0, 0));
    drop(attempt);
    assert_eq!((ends.responder.count(), ends.initiators.count()), (0, 0));
    assert_eq!(ends.ride(at), Ok(Handshake::Full));
}

#[test]
fn an_agent_keeps_so_many_tickets_of_one_client() {
    let ends = Ends::new();
    let at = Moment::first();
    let (quiet, quiet_principal) = another(&ends, "quiet");
    session(&ends, &quiet, &quiet_principal, at);
    let of_quiet = usize::from(GIVEN_MAX);
    // As many processes of one client as it takes.
    let mut processes = Vec::new();
    while processes.len() * usize::from(GIVEN_MAX) <= TICKETS_PER_CLIENT_MAX + 64 {
        let (initiators, client) = another(&ends, "busy");
        session(&ends, &initiators, &client, at);
        processes.push((initiators, client));
    }
    assert_eq!(ends.responder.count(), TICKETS_PER_CLIENT_MAX + of_quiet);
    // The oldest made room, and only those.
    let (oldest, newest) = (&processes[0], &processes[processes.len() - 1]);
    assert_eq!(session(&ends, &oldest.0, &oldest.1, at).client.handshake, Handshake::Full);
    assert_eq!(session(&ends, &newest.0, &newest.1, at).client.handshake, Handshake::Resumed);
    assert_eq!(session(&ends, &quiet, &quiet_principal, at).client.handshake, Handshake::Resumed);
}

#[test]
fn a_client_remembers_so_many_agent_processes() {
    let ends = Ends::new();
    let at = Moment::first();
    let towards = |instance: InstanceId| {
        let initiating = ends.initiators.initiate(&principal(Role::Agent), instance, at.monotonic).expect("an agent");
        let responding = ends.responder.respond(&principal(Role::Client), at.monotonic);
        Attempt::new(initiating, responding, at).finish().expect("verified").client.handshake
    };
    let processes: Vec<_> = (0..=AGENTS_MAX).map(|_| InstanceId::random(&mut SystemRandom)).collect();
    for instance in &processes {
        assert_eq!(towards(*instance), Handshake::Full);
    }
    assert_eq!(ends.initiators.count(), AGENTS_MAX * usize::from(GIVEN_MAX));
    assert_eq!(towards(processes[0]), Handshake::Full, "it made room for the last");
    assert_eq!(towards(processes[AGENTS_MAX]), Handshake::Resumed);
}

#[test]
fn tickets_that_do_not_come_are_asked_for_again() {
    let ends = Ends::new();
    let at = Moment::first();
    // Sessions that are cut before the agent's tickets arrive.
    for _ in 0..2 * STOCK_MAX {
        drop(ends.begin(at));
    }
    ends.ride(at).expect("verified");
    assert_eq!(ends.initiators.count(), usize::from(GIVEN_MAX));
}
