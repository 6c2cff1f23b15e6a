//! Certificates that are replaced, and reloads.

use super::*;

#[test]
fn a_new_certificate_of_the_agent_starts_with_a_full_handshake() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    let renewed = ends.world.identity(Role::Agent);
    assert!(!ends.responder.is_of(&renewed));
    let new = Responder::new(ends.world.client.roots(), &renewed).expect("an agent's end");
    assert!(new.is_of(&renewed));
    ends.responder.close();
    assert_eq!(ends.responder.count(), 0);
    let kinds = |responder: &Responder| {
        let kind = || ends.begin_at(responder, at).finish().expect("verified").client.handshake;
        [kind(), kind()]
    };
    assert_eq!(kinds(&new), [Handshake::Full, Handshake::Resumed]);
    // What still comes by the old link is answered, and leaves nothing.
    assert_eq!(kinds(&ends.responder), [Handshake::Full, Handshake::Full]);
    assert_eq!(
        (ends.responder.count(), ends.initiators.count()),
        (0, 0),
        "tickets under the other certificate are gone"
    );
    assert_eq!(kinds(&new), [Handshake::Full, Handshake::Resumed]);
}

#[test]
fn a_ticket_does_not_outlive_the_trust_in_its_issuer() {
    let world = World::new();
    let (client, agent) = (world.identity(Role::Client), world.identity(Role::Agent));
    for loses in [Role::Client, Role::Agent] {
        let (agents, clients) = (CurrentRoots::from(world.agent.roots()), CurrentRoots::from(world.client.roots()));
        let ends = Ends {
            initiators: Initiators::new(&agents, &client).expect("a client's end"),
            responder: Responder::new(&clients, &agent).expect("an agent's end"),
            instance: InstanceId::random(&mut SystemRandom),
            world: World::new(),
        };
        let at = Moment::first();
        assert_eq!(ends.ride(at), Ok(Handshake::Full));
        assert_eq!(ends.ride(at), Ok(Handshake::Resumed));
        // The file of roots changes, at the one end or the other.
        let next = Authority::new("the next").roots();
        let changed = if loses == Role::Client { &clients } else { &agents };
        changed.set(next);
        assert!(ends.ride(at).is_err(), "{loses} resumed");
        assert!(ends.ride(at).is_err(), "{loses} is not believed in a full handshake either");
        changed.set(if loses == Role::Client { world.client.roots() } else { world.agent.roots() });
        assert_eq!(ends.ride(at), Ok(Handshake::Full), "{loses} is believed again");
    }
}

#[test]
fn a_handshake_that_began_before_the_agents_certificate_was_replaced_leaves_nothing() {
    let ends = Ends::new();
    let at = Moment::first();
    let attempt = ends.begin(at);
    ends.responder.close();
    assert_eq!(attempt.finish().expect("verified").client.handshake, Handshake::Full);
    assert_eq!(ends.responder.count(), 0);
}

#[test]
fn a_new_certificate_of_the_client_starts_with_a_full_handshake() {
    let ends = Ends::new();
    let at = Moment::first();
    let open = ends.begin(at).finish().expect("verified");
    let under_way = ends.begin(at);
    let renewed = ends.world.identity(Role::Client);
    assert!(!ends.initiators.is_of(&renewed));
    ends.initiators.close();
    assert_eq!(ends.initiators.count(), 0);
    let new = Initiators::new(ends.world.agent.roots(), &renewed).expect("a client's end");
    assert!(new.is_of(&renewed));
    for expected in [Handshake::Full, Handshake::Resumed] {
        let initiating = new.initiate(&principal(Role::Agent), ends.instance, at.monotonic).expect("an agent");
        let responding = ends.responder.respond(&principal(Role::Client), at.monotonic);
        let done = Attempt::new(initiating, responding, at).finish().expect("verified");
        assert_eq!(done.client.handshake, expected);
        assert_eq!(done.client.leaf.sha256, renewed.leaf().sha256);
    }
    // What is under way with the old one leaves nothing, nor does what begins on the old connection.
    under_way.finish().expect("verified");
    assert_eq!(ends.ride(at), Ok(Handshake::Full));
    drop(open);
    assert_eq!(ends.initiators.count(), 0);
}

#[test]
fn a_reload_makes_the_next_handshake_a_full_one() {
    let ends = Ends::new();
    let at = Moment::first();
    for _ in 0..4 {
        ends.ride(at).expect("verified");
    }
    let under_way = ends.begin(at);
    ends.responder.forget();
    assert_eq!(ends.responder.count(), 0);
    assert_eq!(under_way.finish().expect("verified").client.handshake, Handshake::Full);
    assert_eq!(ends.responder.count(), 0, "it began before the reload");
    assert_eq!(ends.ride(at), Ok(Handshake::Full));
    // The tickets from before were thrown away after the first was offered in vain.
    assert_eq!(ends.ride(at), Ok(Handshake::Resumed));
}
