//! Every confusion of roles inside a session.

use super::*;

#[test]
fn inner_connects_the_client_and_the_agent_that_it_means() {
    let world = World::new();
    let leaf =
        world.inner(&world.identity(Role::Client), &world.identity(Role::Agent)).expect("accepted").expect("a leaf");
    assert_eq!(leaf.principal.to_string(), "spiffe://acme.example/client/one");
}

#[test]
fn inner_refuses_wrong_agents() {
    let world = World::new();
    let client = world.identity(Role::Client);
    let good = Profile::of(Role::Agent);
    let uri = |uri: &str| Profile { uris: vec![uri.to_owned()], ..good.clone() };
    let purposes = |purposes: Vec<Purpose>| Profile { purposes, ..good.clone() };
    let expired = Profile { not_after: NOW.cast_signed() - 1, ..good.clone() };
    let cases = [
        ("another agent", world.agent.issue(&uri("spiffe://acme.example/agent/two")), "Principal"),
        ("another trust domain", world.agent.issue(&uri("spiffe://evil.example/agent/one")), "Principal"),
        ("another role", world.agent.issue(&uri("spiffe://acme.example/client/one")), "Principal"),
        ("a client", world.identity(Role::Client), "InvalidPurpose"),
        ("a client for every purpose", world.for_every_purpose(Role::Client), "UnknownIssuer"),
        ("the server", world.identity(Role::Server), "InvalidPurpose"),
        ("the server for every purpose", world.for_every_purpose(Role::Server), "UnknownIssuer"),
        ("no purposes", world.agent.issue(&purposes(vec![])), "InvalidPurpose"),
        ("any purpose", world.agent.issue(&purposes(vec![Purpose::Any])), "InvalidPurpose"),
        ("serverAuth", world.agent.issue(&purposes(vec![Purpose::ServerAuth, Purpose::ClientAuth])), "InvalidPurpose"),
        (
            "initiator",
            world.agent.issue(&Profile { purposes: Profile::of(Role::Client).purposes, ..good.clone() }),
            "InvalidPurpose",
        ),
        ("expired", world.agent.issue(&expired), "Expired"),
        ("another root of the same name", Authority::new("agent CA").issue(&good), "BadSignature"),
    ];
    for (name, agent, words) in cases {
        let error = certificate_error(world.inner(&client, &agent));
        assert!(says(&error, words), "{name}: {error:?}");
    }
}

#[test]
fn inner_refuses_wrong_clients() {
    let world = World::new();
    let agent = world.identity(Role::Agent);
    let good = Profile::of(Role::Client);
    let uri = |uri: &str| Profile { uris: vec![uri.to_owned()], ..good.clone() };
    let purposes = |purposes: Vec<Purpose>| Profile { purposes, ..good.clone() };
    let responder = Purpose::Other(INNER_RESPONDER.to_vec());
    let expired = Profile { not_after: NOW.cast_signed() - 1, ..good.clone() };
    let cases = [
        ("another trust domain", world.client.issue(&uri("spiffe://evil.example/client/one")), "TrustDomain"),
        ("another role", world.client.issue(&uri("spiffe://acme.example/agent/one")), "Role"),
        ("an agent", world.identity(Role::Agent), "InvalidPurpose"),
        ("an agent for every purpose", world.for_every_purpose(Role::Agent), "UnknownIssuer"),
        ("the server", world.identity(Role::Server), "InvalidPurpose"),
        ("the server for every purpose", world.for_every_purpose(Role::Server), "UnknownIssuer"),
        ("no purposes", world.client.issue(&purposes(vec![])), "InvalidPurpose"),
        ("clientAuth only", world.client.issue(&purposes(vec![Purpose::ClientAuth])), "InvalidPurpose"),
        ("responder", world.client.issue(&purposes(vec![Purpose::ClientAuth, responder])), "InvalidPurpose"),
        ("expired", world.client.issue(&expired), "Expired"),
        ("another root of the same name", Authority::new("client CA").issue(&good), "BadSignature"),
    ];
    for (name, client, words) in cases {
        let error = certificate_error(world.inner(&client, &agent));
        assert!(says(&error, words), "{name}: {error:?}");
    }
    let mut anonymous = Arc::unwrap_or_clone(world.inner_client(&world.identity(Role::Client)));
    anonymous.client_auth_cert_resolver = Arc::new(CurrentIdentity::new());
    let error = handshake(&Arc::new(anonymous), &world.inner_server(&agent), inner_server_name(), NOW);
    assert_eq!(error.expect_err("refused"), Error::NoCertificatesPresented);
}

#[test]
fn inner_ends_belong_to_their_roles() {
    let world = World::new();
    let principal = |role: Role| world.identity(role).leaf().principal.clone();
    let agent_as_client = inner_client(world.agent.roots(), &principal(Role::Agent), &world.identity(Role::Agent));
    assert!(matches!(agent_as_client, Err(TlsError::Role { expected: Role::Client, found: Role::Agent })));
    let meant_a_server = inner_client(world.agent.roots(), &principal(Role::Server), &world.identity(Role::Client));
    assert!(matches!(meant_a_server, Err(TlsError::Role { expected: Role::Agent, found: Role::Server })));
    let client_as_server = inner_server(world.client.roots(), &world.identity(Role::Client));
    assert!(matches!(client_as_server, Err(TlsError::Role { expected: Role::Agent, found: Role::Client })));
}
