//! Every confusion of roles on the connection to a server.

use super::*;

#[test]
fn outer_knows_every_role_by_its_anchor() {
    let world = World::new();
    assert_eq!(world.outer(None), Ok(None));
    for role in [Role::Server, Role::Agent, Role::Client] {
        let leaf = world.outer(Some(&world.identity(role))).expect("accepted").expect("a leaf");
        assert_eq!(leaf.principal.role, role);
    }
}

#[test]
fn outer_refuses_a_role_that_the_anchor_does_not_certify() {
    let world = World::new();
    for issuer in [Role::Server, Role::Agent, Role::Client] {
        for claimed in [Role::Server, Role::Agent, Role::Client] {
            let identity = world.authority(issuer).issue(&Profile::of(claimed));
            let result = world.outer(Some(&identity));
            if issuer == claimed {
                assert!(result.is_ok(), "{issuer} {claimed}");
            } else {
                let error = certificate_error(result);
                assert!(says(&error, &format!("{:?}", Mismatch::Role)), "{issuer} {claimed}: {error:?}");
            }
        }
    }
}

#[test]
fn outer_without_server_anchors_knows_no_server() {
    let world = World::new();
    let current = CurrentIdentity::new();
    current.set(world.identity(Role::Server));
    let trust = OuterTrust { agent: world.agent.roots(), client: world.client.roots(), server: None };
    let server = outer_server(&current, trust).expect("a configuration");
    let client = outer_client(&world.server.roots(), Some(&world.identity(Role::Server))).expect("a configuration");
    assert_eq!(certificate_error(outer_with(&client, &server)), Bad::UnknownIssuer);
}

#[test]
fn outer_refuses_bad_client_certificates() {
    let world = World::new();
    let good = Profile::of(Role::Agent);
    let agent = |change: fn(&mut Profile)| {
        let mut profile = good.clone();
        change(&mut profile);
        world.agent.issue(&profile)
    };
    let now = NOW.cast_signed();
    let cases = [
        ("expired for a second", agent(|p| p.not_after = NOW.cast_signed() - 1), "Expired"),
        (
            "expired for an hour",
            agent(|p| (p.not_before, p.not_after) = (NOW.cast_signed() - 7200, NOW.cast_signed() - 3600)),
            "Expired",
        ),
        ("not valid yet", agent(|p| p.not_before = NOW.cast_signed() + 600), "NotValidYet"),
        (
            "ends before it starts",
            agent(|p| (p.not_before, p.not_after) = (p.not_after, p.not_before)),
            "InvalidCertValidity",
        ),
        ("no purposes", agent(|p| p.purposes.clear()), "InvalidPurpose"),
        ("any purpose", agent(|p| p.purposes = vec![Purpose::Any]), "InvalidPurpose"),
        ("serverAuth only", agent(|p| p.purposes = vec![Purpose::ServerAuth]), "InvalidPurpose"),
        ("another trust domain", agent(|p| p.uris = vec!["spiffe://evil.example/agent/one".to_owned()]), "TrustDomain"),
        ("wrong root of the same name", Authority::new("agent CA").issue(&good), "BadSignature"),
        ("unknown root", Authority::new("somebody").issue(&good), "UnknownIssuer"),
    ];
    for (name, identity, words) in cases {
        let error = certificate_error(world.outer(Some(&identity)));
        assert!(says(&error, words), "{name}: {error:?}");
    }
    let edge = Profile { not_before: now, not_after: now, ..good };
    assert!(world.outer(Some(&world.agent.issue(&edge))).is_ok(), "valid in its first and last second");
}

#[test]
fn outer_refuses_leaves_that_issue() {
    let world = World::new();
    let good = Profile::of(Role::Agent);
    let cases = [
        (rcgen::IsCa::ExplicitNoCa, "EndEntityUsedAsCa"),
        // The issuing CA says that nobody below it may issue, whatever a certificate of its own claims.
        (rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "PathLenConstraintViolated"),
    ];
    for (is_ca, words) in cases {
        let profile = Profile { is_ca, key_usages: vec![rcgen::KeyUsagePurpose::KeyCertSign], ..good.clone() };
        let middle = world.agent.leaf_that_issues(&profile, "middle");
        let key = KeyPair::generate().expect("a key");
        let error = certificate_error(world.outer_shown(vec![middle.der(&good, &key), middle.certificate], &key));
        assert!(says(&error, words), "{error:?}");
    }
}

#[test]
fn outer_refuses_long_chains_without_work() {
    let world = World::new();
    let key = KeyPair::generate().expect("a key");
    let mut chain = vec![world.agent.der(&Profile::of(Role::Agent), &key)];
    chain.extend(std::iter::repeat_n(world.agent.certificate.clone(), 5));
    let error = certificate_error(world.outer(Some(&Identity::new(chain, key).expect("an identity"))));
    assert!(says(&error, "Length"), "{error:?}");
}

#[test]
fn outer_refuses_a_proof_by_another_key() {
    let world = World::new();
    let chain = world.identity(Role::Agent).chain().to_vec();
    let error = certificate_error(world.outer_shown(chain, &KeyPair::generate().expect("a key")));
    assert_eq!(error, Bad::BadSignature);
}

#[test]
fn outer_refuses_critical_extensions_that_it_does_not_know() {
    let world = World::new();
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    for critical in [false, true] {
        extension.set_criticality(critical);
        let key = KeyPair::generate().expect("a key");
        let profile = Profile { extensions: vec![extension.clone()], ..Profile::of(Role::Agent) };
        let result = world.outer_shown(vec![world.agent.der(&profile, &key)], &key);
        if critical {
            let error = certificate_error(result);
            assert!(says(&error, "UnsupportedCriticalExtension"), "{error:?}");
        } else {
            assert!(result.is_ok());
        }
    }
}

#[test]
fn outer_client_accepts_the_server_alone() {
    let world = World::new();
    let client = outer_client(&world.server.roots(), None).expect("a configuration");
    for name in ["tunnel.acme.example", "127.0.0.1"] {
        let name = server_name(name).expect("a name");
        assert!(handshake(&client, &world.outer_server(), name, NOW).is_ok());
    }
    let name = server_name("other.acme.example").expect("a name");
    let error = certificate_error(handshake(&client, &world.outer_server(), name, NOW));
    assert!(matches!(error, Bad::NotValidForNameContext { .. }), "{error:?}");
    let with_names = Profile { uris: Profile::of(Role::Agent).uris, ..Profile::of(Role::Server) };
    let impostors = [
        ("an agent", world.identity(Role::Agent), "InvalidPurpose"),
        ("an agent for the server's purpose, with its name", world.agent.issue(&with_names), "UnknownIssuer"),
        ("a client", world.identity(Role::Client), "InvalidPurpose"),
        (
            "another root of the same name",
            Authority::new("server CA").issue(&Profile::of(Role::Server)),
            "BadSignature",
        ),
        (
            "a server's certificate without serverAuth",
            world.server.issue(&Profile { purposes: vec![Purpose::ClientAuth], ..Profile::of(Role::Server) }),
            "InvalidPurpose",
        ),
    ];
    for (name, identity, words) in impostors {
        let current = CurrentIdentity::new();
        current.set(identity);
        let trust = OuterTrust { agent: world.agent.roots(), client: world.client.roots(), server: None };
        let server = outer_server(&current, trust).expect("a configuration");
        let error = certificate_error(outer_with(&client, &server));
        assert!(says(&error, words), "{name}: {error:?}");
    }
}
