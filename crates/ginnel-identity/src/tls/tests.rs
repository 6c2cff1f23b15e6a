use std::time::Duration;

use rcgen::{CustomExtension, ExtendedKeyUsagePurpose as Purpose};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError as Bad, ClientConnection, Connection, Error, HandshakeKind, NamedGroup, ServerConnection,
};
use rustls_pki_types::UnixTime;

use super::verify::Mismatch;
use super::*;
use crate::key::KeyPair;
use crate::oid::INNER_RESPONDER;
use crate::testing::{Authority, NOW, Profile};

mod inner;
mod outer;
mod resume;
mod table;

/// A clock that stands still.
#[derive(Debug)]
struct At(u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

struct World {
    server: Authority,
    agent: Authority,
    client: Authority,
}

impl World {
    fn new() -> Self {
        Self {
            server: Authority::new("server CA"),
            agent: Authority::new("agent CA"),
            client: Authority::new("client CA"),
        }
    }

    fn identity(&self, role: Role) -> Identity {
        self.authority(role).issue(&Profile::of(role))
    }

    /// Everything but the right issuer: what shows that path building alone keeps the roles apart.
    fn for_every_purpose(&self, role: Role) -> Identity {
        let purposes = [Role::Server, Role::Agent, Role::Client].map(|role| Profile::of(role).purposes).concat();
        self.authority(role).issue(&Profile { purposes, ..Profile::of(role) })
    }

    fn authority(&self, role: Role) -> &Authority {
        match role {
            Role::Server => &self.server,
            Role::Agent => &self.agent,
            Role::Client => &self.client,
        }
    }

    fn outer_server(&self) -> Arc<ServerConfig> {
        let current = CurrentIdentity::new();
        current.set(self.identity(Role::Server));
        let trust =
            OuterTrust { agent: self.agent.roots(), client: self.client.roots(), server: Some(self.server.roots()) };
        outer_server(&current, trust).expect("a configuration")
    }

    /// A handshake of the outer TLS in which the client shows `identity`.
    fn outer(&self, identity: Option<&Identity>) -> Result<Option<Leaf>, Error> {
        let client = outer_client(&self.server.roots(), identity).expect("a configuration");
        outer_with(&client, &self.outer_server())
    }

    /// The same with a chain and a key that need not belong together.
    fn outer_shown(&self, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Option<Leaf>, Error> {
        let config = outer_client(&self.server.roots(), Some(&self.identity(Role::Agent))).expect("a configuration");
        let mut config = Arc::unwrap_or_clone(config);
        let shown = rustls::sign::CertifiedKey::new(chain, key.signing_key());
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        outer_with(&Arc::new(config), &self.outer_server())
    }

    /// A handshake of the inner TLS between the two, in which the client means the agent `one`.
    fn inner(&self, client: &Identity, agent: &Identity) -> Result<Option<Leaf>, Error> {
        handshake(&self.inner_client(client), &self.inner_server(agent), inner_server_name(), NOW).map(|done| done.leaf)
    }

    fn inner_client(&self, identity: &Identity) -> Arc<ClientConfig> {
        // A right identity makes the configuration; what is shown is the one under test.
        let expected = "spiffe://acme.example/agent/one".parse().expect("a principal");
        let config =
            inner_client(self.agent.roots(), &expected, &self.identity(Role::Client)).expect("a configuration");
        let mut config = Arc::unwrap_or_clone(config);
        config.client_auth_cert_resolver = single(identity);
        Arc::new(config)
    }

    fn inner_server(&self, identity: &Identity) -> Arc<ServerConfig> {
        let config = inner_server(self.client.roots(), &self.identity(Role::Agent)).expect("a configuration");
        let mut config = Arc::unwrap_or_clone(config);
        config.cert_resolver = single(identity);
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Done {
    leaf: Option<Leaf>,
    kind: Option<HandshakeKind>,
    group: Option<NamedGroup>,
    alpn: Option<Vec<u8>>,
}

fn outer_with(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Option<Leaf>, Error> {
    let name = server_name("tunnel.acme.example").expect("a name");
    handshake(client, server, name, NOW).map(|done| done.leaf)
}

/// Runs a handshake in memory at a given second; gives what the server sees, or the first error of either end.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: ServerName<'static>,
    now: u64,
) -> Result<Done, Error> {
    let mut client = (**client).clone();
    client.time_provider = Arc::new(At(now));
    let mut server = (**server).clone();
    server.time_provider = Arc::new(At(now));
    let mut client = Connection::from(ClientConnection::new(Arc::new(client), name).expect("a client"));
    let mut server = ServerConnection::new(Arc::new(server)).map(Connection::from).expect("a server");
    // Both directions, several times: a handshake takes three flights, tickets would be a fourth.
    for _ in 0..4 {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Done {
        leaf: peer_leaf(server.peer_certificates()).expect("a leaf"),
        kind: client.handshake_kind(),
        group: client.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name),
        alpn: server.alpn_protocol().map(<[u8]>::to_vec),
    })
}

fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).expect("written to memory");
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("read from memory");
        to.process_new_packets()?;
    }
    Ok(())
}

fn certificate_error(result: Result<impl std::fmt::Debug, Error>) -> Bad {
    let error = result.expect_err("refused");
    let Error::InvalidCertificate(error) = error else { panic!("another error: {error:?}") };
    error
}

fn says(error: &Bad, words: &str) -> bool {
    format!("{error:?}").contains(words)
}

#[test]
fn every_handshake_is_full_hybrid_and_names_its_protocol() {
    let world = World::new();
    let outer = (
        outer_client(&world.server.roots(), Some(&world.identity(Role::Agent))).expect("a configuration"),
        world.outer_server(),
        server_name("tunnel.acme.example").expect("a name"),
        OUTER_ALPN,
    );
    let inner = (
        world.inner_client(&world.identity(Role::Client)),
        world.inner_server(&world.identity(Role::Agent)),
        inner_server_name(),
        INNER_ALPN,
    );
    for (mut client, server, name, alpn) in [outer, inner] {
        // A client that would like to resume, as one that is not ours may.
        Arc::make_mut(&mut client).resumption = Resumption::in_memory_sessions(16);
        for _ in 0..2 {
            let done = handshake(&client, &server, name.clone(), NOW).expect("accepted");
            assert_eq!(done.kind, Some(HandshakeKind::Full));
            assert_eq!(done.group, Some(NamedGroup::X25519MLKEM768));
            assert_eq!(done.alpn.as_deref(), Some(alpn));
        }
    }
}

#[test]
fn a_certificate_that_expired_meanwhile_is_refused_at_the_next_handshake() {
    let world = World::new();
    let server = world.outer_server();
    let short = Profile { not_after: NOW.cast_signed() + 4, ..Profile::of(Role::Agent) };
    let mut client = outer_client(&world.server.roots(), Some(&world.agent.issue(&short))).expect("a configuration");
    Arc::make_mut(&mut client).resumption = Resumption::in_memory_sessions(16);
    let name = server_name("tunnel.acme.example").expect("a name");
    assert!(handshake(&client, &server, name.clone(), NOW).is_ok());
    let error = certificate_error(handshake(&client, &server, name, NOW + 6));
    assert!(matches!(error, Bad::ExpiredContext { .. }), "{error:?}");
}

#[test]
fn the_server_shows_the_identity_that_it_has_at_that_moment() {
    let world = World::new();
    let current = CurrentIdentity::new();
    let trust = OuterTrust { agent: world.agent.roots(), client: world.client.roots(), server: None };
    let server = outer_server(&current, trust).expect("a configuration");
    let client = outer_client(&world.server.roots(), None).expect("a configuration");
    assert!(outer_with(&client, &server).is_err(), "no identity yet");
    current.set(world.server.issue(&Profile { not_after: NOW.cast_signed() - 1, ..Profile::of(Role::Server) }));
    assert!(matches!(certificate_error(outer_with(&client, &server)), Bad::ExpiredContext { .. }));
    current.clone().set(world.identity(Role::Server));
    assert!(outer_with(&client, &server).is_ok(), "renewed");
}

#[test]
fn debug_of_configurations_shows_no_key() {
    let world = World::new();
    let identity = world.identity(Role::Client);
    let current = CurrentIdentity::new();
    current.set(identity.clone());
    let outer = outer_client(&world.server.roots(), Some(&identity)).expect("a configuration");
    let text = format!("{current:?} {identity:?} {outer:?} {:?}", world.outer_server());
    assert!(text.contains("spki_sha256") && !text.contains("EcdsaKeyPair"), "{text}");
}
