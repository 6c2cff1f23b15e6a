//! Tickets that must not be good, or not any more.

use super::*;

/// Who is believed in a handshake that resumes must be whom this verifier believes.
fn clients(roots: &Roots, trust_domain: &str) -> verify::InnerClients {
    verify::InnerClients::new(roots.into(), trust_domain.parse().expect("a trust domain"))
}

#[test]
fn a_ticket_is_good_once() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    let mut attempt = ends.begin(at);
    let hello = attempt.pair.client_says();
    attempt.pair.server_hears(&hello).expect("heard");
    attempt.finish().expect("verified");
    let kept = ends.responder.count();
    // Somebody in between says the same again.
    let mut again = ends.begin(at);
    again.pair.server_hears(&hello).expect("heard");
    assert_eq!(again.pair.server.handshake_kind(), Some(HandshakeKind::Full));
    assert!(again.pair.server.is_handshaking());
    drop(again);
    assert_eq!(ends.responder.count(), kept);
}

#[test]
fn a_ticket_in_other_hands_is_refused_and_gone() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    let mut attempt = ends.begin(at);
    let mut hello = attempt.pair.client_says();
    // The last bytes are the proof that whoever says this has the ticket's secret.
    *hello.last_mut().expect("a byte") ^= 1;
    let error = attempt.pair.server_hears(&hello).expect_err("refused");
    assert!(matches!(error, Error::PeerMisbehaved(rustls::PeerMisbehaved::IncorrectBinder)), "{error:?}");
    drop(attempt);
    assert_eq!(ends.responder.count(), usize::from(GIVEN_MAX) - 1);
    // The client has others.
    assert_eq!(ends.ride(at), Ok(Handshake::Resumed));
}

#[test]
fn a_certificate_that_expires_while_a_ticket_is_kept_is_refused() {
    for expiring in [Role::Client, Role::Agent] {
        let short = |role: Role| {
            let not_after = NOW.cast_signed() + if role == expiring { 4 } else { 3600 };
            Profile { not_after, ..Profile::of(role) }
        };
        let ends = Ends::with(&short(Role::Client), &short(Role::Agent));
        let at = Moment::first();
        assert_eq!(ends.ride(at), Ok(Handshake::Full));
        assert_eq!(ends.ride(at.plus(3)), Ok(Handshake::Resumed));
        // No ticket outlives it: there is a full handshake, which is refused.
        let later = at.plus(6);
        let error = certificate_error(ends.ride(later));
        assert!(matches!(error, Bad::ExpiredContext { .. }), "{expiring}: {error:?}");
        // The monotonic clock stood still meanwhile, as it does while a machine is suspended: the ticket is good, and what it stands for is not.
        assert_eq!(Ends::with(&short(Role::Client), &short(Role::Agent)).ride(at), Ok(Handshake::Full));
        let ends = Ends::with(&short(Role::Client), &short(Role::Agent));
        assert_eq!(ends.ride(at), Ok(Handshake::Full));
        let mut attempt = ends.begin(Moment { wall: NOW + 6, ..at });
        attempt.pair.tell_server().expect("heard");
        assert_eq!(attempt.pair.server.handshake_kind(), Some(HandshakeKind::Resumed));
        let error = certificate_error(attempt.finish().map(|done| done.client.handshake));
        assert!(matches!(error, Bad::ExpiredContext { .. }), "{expiring}: {error:?}");
        let kept = if expiring == Role::Client { ends.responder.count() } else { ends.initiators.count() };
        assert_eq!(kept, 0, "{expiring}");
    }
}

#[test]
fn the_agent_verifies_the_client_again_when_it_resumes() {
    type Case = (&'static str, fn(&World) -> Roots, &'static str, &'static str);
    let cases: [Case; 3] = [
        ("another issuer", |_| Authority::new("client CA").roots(), "acme.example", "BadSignature"),
        ("the issuer of another role", |world| world.agent.roots(), "acme.example", "UnknownIssuer"),
        ("another trust domain", |world| world.client.roots(), "other.example", "TrustDomain"),
    ];
    for (name, roots, trust_domain, words) in cases {
        let ends = Ends::new();
        let at = Moment::first();
        ends.ride(at).expect("verified");
        let mut attempt = ends.begin(at);
        attempt.responding.believe(clients(&roots(&ends.world), trust_domain));
        attempt.pair.tell_server().expect("heard");
        assert_eq!(attempt.pair.server.handshake_kind(), Some(HandshakeKind::Resumed), "{name}");
        let error = certificate_error(attempt.finish().map(|done| done.client.handshake));
        assert!(says(&error, words), "{name}: {error:?}");
        assert_eq!(ends.responder.count(), 0, "{name}");
        assert_eq!(ends.ride(at), Ok(Handshake::Full), "{name}");
    }
}

#[test]
fn the_client_verifies_the_agent_again_when_it_resumes() {
    type Case = (&'static str, fn(&World) -> verify::InnerAgent, &'static str);
    let cases: [Case; 3] = [
        (
            "another issuer",
            |_| verify::InnerAgent::new(Authority::new("agent CA").roots().into(), principal(Role::Agent)),
            "BadSignature",
        ),
        (
            "the issuer of another role",
            |world| verify::InnerAgent::new(world.client.roots().into(), principal(Role::Agent)),
            "UnknownIssuer",
        ),
        (
            "another agent",
            |world| {
                let two = "spiffe://acme.example/agent/two".parse().expect("a principal");
                verify::InnerAgent::new(world.agent.roots().into(), two)
            },
            "Principal",
        ),
    ];
    for (name, believed, words) in cases {
        let ends = Ends::new();
        let at = Moment::first();
        ends.ride(at).expect("verified");
        let mut attempt = ends.begin(at);
        attempt.initiating.believe(believed(&ends.world));
        attempt.pair.tell_server().expect("heard");
        assert_eq!(attempt.pair.server.handshake_kind(), Some(HandshakeKind::Resumed), "{name}");
        let error = certificate_error(attempt.finish().map(|done| done.client.handshake));
        assert!(says(&error, words), "{name}: {error:?}");
        assert_eq!(ends.initiators.count(), 0, "{name}");
        assert_eq!(ends.ride(at), Ok(Handshake::Full), "{name}");
    }
}

#[test]
fn a_ticket_is_good_for_the_client_that_the_server_names_only() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    let other = "spiffe://acme.example/client/two".parse().expect("a principal");
    let initiating = ends.initiators.initiate(&principal(Role::Agent), ends.instance, at.monotonic);
    let responding = ends.responder.respond(&other, at.monotonic);
    let mut attempt = Attempt::new(initiating.expect("an agent"), responding, at);
    attempt.pair.tell_server().expect("heard");
    assert_eq!(attempt.pair.server.handshake_kind(), Some(HandshakeKind::Full), "the ticket is another client's");
    let error = certificate_error(attempt.finish().map(|done| done.client.handshake));
    assert!(says(&error, "Principal"), "{error:?}");
}

#[test]
fn a_ticket_is_good_at_the_process_that_gave_it_only() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    // Another process of the same agent answers, as if it were the one that was picked.
    let other = Responder::new(ends.world.client.roots(), &ends.world.identity(Role::Agent)).expect("an agent's end");
    let done = ends.begin_at(&other, at).finish().expect("verified");
    assert_eq!(done.client.handshake, Handshake::Full);
    // Towards another process there are none to begin with.
    let instance = InstanceId::random(&mut SystemRandom);
    let initiating = ends.initiators.initiate(&principal(Role::Agent), instance, at.monotonic).expect("an agent");
    let responding = ends.responder.respond(&principal(Role::Client), at.monotonic);
    let done = Attempt::new(initiating, responding, at).finish().expect("verified");
    assert_eq!(done.client.handshake, Handshake::Full);
    // Another agent with the same key would not be believed either.
    let two = "spiffe://acme.example/agent/two".parse().expect("a principal");
    let initiating = ends.initiators.initiate(&two, ends.instance, at.monotonic).expect("an agent");
    let responding = ends.responder.respond(&principal(Role::Client), at.monotonic);
    let error = certificate_error(Attempt::new(initiating, responding, at).finish().map(|done| done.client.handshake));
    assert!(says(&error, "Principal"), "{error:?}");
}

#[test]
fn a_chain_of_resumptions_ends_an_hour_after_its_full_handshake() {
    let day = |role: Role| Profile { not_after: NOW.cast_signed() + 86_400, ..Profile::of(role) };
    let ends = Ends::with(&day(Role::Client), &day(Role::Agent));
    let at = Moment::first();
    let life = LIFE_MAX.as_secs();
    assert_eq!(ends.ride(at), Ok(Handshake::Full));
    for seconds in [life / 2, life - 2, life - 1] {
        assert_eq!(ends.ride(at.plus(seconds)), Ok(Handshake::Resumed), "{seconds}");
    }
    assert_eq!(ends.ride(at.plus(life)), Ok(Handshake::Full));
    assert_eq!(ends.ride(at.plus(life + 1)), Ok(Handshake::Resumed));
}

#[test]
fn the_agent_bounds_the_life_of_a_ticket_by_itself() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    // The client's clock stands still, and it offers what is too old.
    let initiating = ends.initiators.initiate(&principal(Role::Agent), ends.instance, at.monotonic);
    let late = at.monotonic + LIFE_MAX;
    let responding = ends.responder.respond(&principal(Role::Client), late);
    let done = Attempt::new(initiating.expect("an agent"), responding, at).finish().expect("verified");
    assert_eq!(done.client.handshake, Handshake::Full);
}
