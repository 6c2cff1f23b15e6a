//! Inner handshakes that resume an earlier one, and everything that must keep them from it.

use std::time::Instant;

use ginnel_core::id::InstanceId;

use super::*;
use crate::SystemRandom;
use crate::tls::resume::{AGENTS_MAX, GIVEN_MAX, LIFE_MAX, STOCK_MAX, TICKETS_PER_CLIENT_MAX};

mod cost;
mod refused;
mod replaced;
mod stores;

/// Both clocks, which go on together unless a test says otherwise.
#[derive(Clone, Copy)]
struct Moment {
    wall: u64,
    monotonic: Instant,
}

impl Moment {
    fn first() -> Self {
        Self { wall: NOW, monotonic: Instant::now() }
    }

    fn plus(self, seconds: u64) -> Self {
        Self { wall: self.wall + seconds, monotonic: self.monotonic + Duration::from_secs(seconds) }
    }
}

/// A client and an agent with one certificate each.
struct Ends {
    world: World,
    initiators: Initiators,
    responder: Responder,
    instance: InstanceId,
}

impl Ends {
    fn new() -> Self {
        Self::with(&Profile::of(Role::Client), &Profile::of(Role::Agent))
    }

    fn with(client: &Profile, agent: &Profile) -> Self {
        let world = World::new();
        let (client, agent) = (world.client.issue(client), world.agent.issue(agent));
        Self {
            initiators: Initiators::new(world.agent.roots(), &client).expect("a client's end"),
            responder: Responder::new(world.client.roots(), &agent).expect("an agent's end"),
            instance: InstanceId::random(&mut SystemRandom),
            world,
        }
    }

    fn begin(&self, at: Moment) -> Attempt {
        self.begin_at(&self.responder, at)
    }

    fn begin_at(&self, responder: &Responder, at: Moment) -> Attempt {
        let initiating = self.initiators.initiate(&principal(Role::Agent), self.instance, at.monotonic);
        Attempt::new(initiating.expect("an agent"), responder.respond(&principal(Role::Client), at.monotonic), at)
    }

    /// One whole session.
    fn ride(&self, at: Moment) -> Result<Handshake, Error> {
        self.begin(at).finish().map(|done| done.client.handshake)
    }
}

fn principal(role: Role) -> Principal {
    format!("spiffe://acme.example/{role}/one").parse().expect("a principal")
}

/// Both ends of one connection.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

impl Pair {
    /// What the client has to say.
    fn client_says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("written to memory");
        }
        bytes
    }

    fn server_says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut bytes).expect("written to memory");
        }
        bytes
    }

    fn server_hears(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.server.read_tls(&mut bytes).expect("read from memory");
            self.server.process_new_packets()?;
        }
        Ok(())
    }

    fn client_hears(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).expect("read from memory");
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    fn tell_server(&mut self) -> Result<(), Error> {
        let bytes = self.client_says();
        self.server_hears(&bytes)
    }

    fn tell_client(&mut self) -> Result<(), Error> {
        let bytes = self.server_says();
        self.client_hears(&bytes)
    }
}

/// A handshake that is under way.
struct Attempt {
    initiating: Initiating,
    responding: Responding,
    pair: Pair,
}

/// A handshake that both ends have verified.
struct Done {
    /// What the agent verified.
    client: Verified,
    /// What the client verified.
    agent: Verified,
    pair: Pair,
}

impl Attempt {
    fn new(mut initiating: Initiating, mut responding: Responding, at: Moment) -> Self {
        initiating.config_mut().time_provider = Arc::new(At(at.wall));
        responding.config_mut().time_provider = Arc::new(At(at.wall));
        let client = ClientConnection::new(initiating.config(), inner_server_name()).expect("a client");
        let server = ServerConnection::new(responding.config()).expect("a server");
        Self { initiating, responding, pair: Pair { client, server } }
    }

    /// As a session does it: the client verifies when its handshake is done, the agent when its own is; then the tickets arrive.
    fn finish(mut self) -> Result<Done, Error> {
        self.pair.tell_server()?;
        self.pair.tell_client()?;
        let agent = self.initiating.finish(&self.pair.client)?;
        self.pair.tell_server()?;
        let client = self.responding.finish(&self.pair.server)?;
        self.pair.tell_client()?;
        Ok(Done { client, agent, pair: self.pair })
    }
}

#[test]
fn a_second_handshake_resumes_the_first_with_a_fresh_key_exchange() {
    let ends = Ends::new();
    let at = Moment::first();
    for expected in [Handshake::Full, Handshake::Resumed, Handshake::Resumed] {
        let done = ends.begin(at).finish().expect("verified");
        assert_eq!((done.client.handshake, done.agent.handshake), (expected, expected));
        assert_eq!(done.client.leaf.principal, principal(Role::Client));
        assert_eq!(done.agent.leaf.principal, principal(Role::Agent));
        let (client, server) = (&done.pair.client, &done.pair.server);
        let group = client.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let suite = client.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!((client.alpn_protocol(), server.alpn_protocol()), (Some(INNER_ALPN), Some(INNER_ALPN)));
    }
}

#[test]
fn there_is_never_early_data() {
    let ends = Ends::new();
    let at = Moment::first();
    assert_eq!(ends.ride(at), Ok(Handshake::Full));
    let mut attempt = ends.begin(at);
    assert!(attempt.pair.client.early_data().is_none());
    attempt.pair.tell_server().expect("heard");
    assert!(attempt.pair.server.early_data().is_none());
    assert_eq!(attempt.finish().map(|done| done.client.handshake), Ok(Handshake::Resumed));
}

#[test]
fn many_sessions_at_once_resume() {
    let ends = Ends::new();
    let at = Moment::first();
    // A stock fills within a few sessions.
    for _ in 0..16 {
        ends.ride(at).expect("verified");
    }
    for _ in 0..3 {
        let attempts: Vec<_> = (0..64).map(|_| ends.begin(at)).collect();
        let done: Vec<_> = attempts.into_iter().map(|attempt| attempt.finish().expect("verified")).collect();
        let resumed = done.iter().filter(|done| done.client.handshake == Handshake::Resumed).count();
        assert_eq!(resumed, 64);
    }
    assert!(ends.initiators.count() > 64, "{}", ends.initiators.count());
    // Even when all begin before the first ticket is there, the next ones resume.
    let cold = Ends::new();
    let attempts: Vec<_> = (0..64).map(|_| cold.begin(at)).collect();
    attempts
        .into_iter()
        .for_each(|attempt| assert_eq!(attempt.finish().expect("verified").client.handshake, Handshake::Full));
    let attempts: Vec<_> = (0..64).map(|_| cold.begin(at)).collect();
    let resumed = |attempt: Attempt| attempt.finish().expect("verified").client.handshake == Handshake::Resumed;
    assert_eq!(attempts.into_iter().map(resumed).filter(|resumed| *resumed).count(), 64);
}

#[test]
fn the_first_flight_is_small() {
    /// With `Open` before it and the framing around it, a hello has to leave with the first segments of a new connection.
    const HELLO_MAX: usize = 2048;
    let ends = Ends::new();
    let at = Moment::first();
    let sizes = (0..2).map(|_| {
        let mut attempt = ends.begin(at);
        let hello = attempt.pair.client_says();
        attempt.pair.server_hears(&hello).expect("heard");
        assert!(attempt.pair.client_says().is_empty(), "the hello is all that the client has to say");
        attempt.finish().map(|done| done.client.handshake).expect("verified");
        hello.len()
    });
    let sizes: Vec<_> = sizes.collect();
    assert!(sizes.iter().all(|size| *size <= HELLO_MAX), "{sizes:?}");
}

#[test]
fn a_setting_without_the_stores_does_not_resume() {
    let ends = Ends::new();
    let world = &ends.world;
    let at = Moment::first();
    let agent = inner_server(world.client.roots(), &world.identity(Role::Agent)).expect("a configuration");
    for _ in 0..3 {
        let initiating = ends.initiators.initiate(&principal(Role::Agent), ends.instance, at.monotonic);
        let mut initiating = initiating.expect("an agent");
        initiating.config_mut().time_provider = Arc::new(At(at.wall));
        let done = handshake(&initiating.config(), &agent, inner_server_name(), at.wall).expect("accepted");
        assert_eq!(done.kind, Some(HandshakeKind::Full));
    }
}

#[test]
fn debug_of_the_ends_shows_no_secret() {
    let ends = Ends::new();
    let at = Moment::first();
    ends.ride(at).expect("verified");
    let attempt = ends.begin(at);
    let text = format!("{:?} {:?} {:?} {:?}", ends.responder, ends.initiators, attempt.initiating, attempt.responding);
    assert!(text.contains("Tickets { count: ") && text.contains("Stock { count: "), "{text}");
    for secret in ["EcdsaKeyPair", "master_secret", "value:", "Tls13ClientSessionValue"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
