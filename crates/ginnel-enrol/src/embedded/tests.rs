use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use ginnel_core::evidence::{Evidence, Proof};
use ginnel_identity::tls::{
    CurrentIdentity, OuterTrust, inner_client, inner_server, inner_server_name, outer_client, outer_server, server_name,
};
use ginnel_identity::{Identity, KeyPair, Leaf};
use rustls::{ClientConnection, Connection, ServerConnection};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::*;
use crate::testing::{NOW, at, principal};

mod rotation;

const DAY: Duration = Duration::from_secs(24 * 3600);
const ROLES: [Role; 3] = [Role::Server, Role::Agent, Role::Client];

struct World {
    _parent: tempfile::TempDir,
    directory: PathBuf,
}

impl World {
    fn new() -> Self {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("state").join("ca");
        Self { _parent: parent, directory }
    }

    fn open(&self, now: u64) -> Result<EmbeddedIssuer, OpenError> {
        EmbeddedIssuer::open(&self.directory, &"acme.example".parse().expect("a domain"), DAY, at(now))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).expect("metadata").permissions().mode() & 0o7777
    }
}

fn request(role: Role, key: &KeyPair) -> CertificateRequest {
    let names = match role {
        Role::Server => vec!["tunnel.acme.example".to_owned(), "203.0.113.7".to_owned(), "2001:db8::7".to_owned()],
        Role::Agent | Role::Client => vec![],
    };
    CertificateRequest {
        renews: None,
        evidence: None,
        principal: principal(role, "one"),
        email: format!("{role}@acme.example"),
        spki_der: key.spki_der().to_vec(),
        server_names: names,
    }
}

fn identity(issuer: &EmbeddedIssuer, role: Role, now: SystemTime) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let issued = issuer.sign(&request(role, &key), now).expect("issued");
    Identity::new(issued.chain, key).expect("an identity")
}

#[test]
fn makes_the_directory_once() {
    let world = World::new();
    let first = world.open(NOW).expect("opened");
    assert_eq!(world.mode(""), 0o700);
    for role in ROLES {
        assert_eq!(world.mode(&format!("{role}-ca.key.pem")), 0o600);
        assert_eq!(world.mode(&format!("{role}-root.pem")), 0o644);
        let file = Roots::read(&world.path(&format!("{role}-root.pem"))).expect("roots");
        assert_eq!(file.certificates(), first.roots(role).certificates());
    }
    let again = world.open(NOW + 1000).expect("opened again");
    for role in ROLES {
        assert_eq!(again.roots(role).certificates(), first.roots(role).certificates());
    }
    assert_ne!(first.roots(Role::Agent).certificates(), first.roots(Role::Client).certificates());
    let left: Vec<_> =
        fs::read_dir(&world.directory).expect("entries").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 10, "three keys, three roots, three records, the lock: {left:?}");
}

#[test]
fn roots_are_cas_for_leaves_and_for_the_root_that_follows() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    for role in ROLES {
        let roots = issuer.roots(role);
        let (_, root) = X509Certificate::from_der(&roots.certificates()[0]).expect("a certificate");
        let constraints = root.basic_constraints().expect("well-formed").expect("constraints");
        assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint == Some(1));
        let usage = root.key_usage().expect("well-formed").expect("usage");
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        let years =
            (root.validity().not_after.timestamp() - root.validity().not_before.timestamp()) / (365 * 24 * 3600);
        assert_eq!(years, 10);
    }
}

#[test]
fn issues_leaves_of_the_documented_profile() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    for role in ROLES {
        let key = KeyPair::generate().expect("a key");
        let issued = issuer.sign(&request(role, &key), at(NOW)).expect("issued");
        let leaf = Leaf::parse(&issued.chain[0]).expect("a leaf");
        assert_eq!(leaf.principal, principal(role, "one"));
        assert_eq!((leaf.email.as_str(), &leaf.serial), (format!("{role}@acme.example").as_str(), &issued.serial));
        assert_eq!((leaf.not_before, leaf.not_after), (at(NOW - 300), at(NOW + 24 * 3600)));
        assert_eq!((issued.not_after, issued.serial.len()), (leaf.not_after, 32));
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).expect("a certificate");
        assert_eq!(certificate.public_key().raw, key.spki_der());
        assert_eq!(certificate.subject().iter().count(), 0);
        let names = certificate.subject_alternative_name().expect("well-formed").expect("names");
        assert!(names.critical);
        let usage = certificate.key_usage().expect("well-formed").expect("usage");
        assert!(usage.critical);
        assert_eq!(usage.value.flags, 1, "digitalSignature alone");
        let purposes = certificate.extended_key_usage().expect("well-formed").expect("purposes").value;
        assert!(purposes.client_auth && !purposes.any);
        assert_eq!(purposes.server_auth, role == Role::Server);
        let other: Vec<String> = purposes.other.iter().map(ToString::to_string).collect();
        let oid = |components: &[u64]| components.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
        let expected = match role {
            Role::Server => vec![],
            Role::Agent => vec![oid(INNER_RESPONDER)],
            Role::Client => vec![oid(INNER_INITIATOR)],
        };
        assert_eq!(other, expected);
        let addresses = names
            .value
            .general_names
            .iter()
            .filter(|name| matches!(name, GeneralName::IPAddress(_) | GeneralName::DNSName(_)));
        assert_eq!(addresses.count(), if role == Role::Server { 3 } else { 0 });
    }
}

#[test]
fn a_leaf_says_what_it_was_given_for_if_it_was_given_for_something() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    let key = KeyPair::generate().expect("a key");
    let evidence = |name: &str| Evidence { proof: Proof::GoogleKey(name.to_owned()), verified_by: [7; 32] };
    for given in [None, Some(evidence("one"))] {
        let request = CertificateRequest { evidence: given.clone(), ..request(Role::Agent, &key) };
        let issued = issuer.sign(&request, at(NOW)).expect("issued");
        assert_eq!(Leaf::parse(&issued.chain[0]).expect("a leaf").evidence, given);
    }
    let request = CertificateRequest { evidence: Some(evidence("a b")), ..request(Role::Agent, &key) };
    assert!(matches!(issuer.sign(&request, at(NOW)), Err(IssueError::Evidence)));
}

#[test]
fn clips_leaves_to_the_ca_and_refuses_outside() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    let end = NOW + AUTHORITY_LIFETIME.as_secs();
    let key = KeyPair::generate().expect("a key");
    let issue = |now| issuer.sign(&request(Role::Agent, &key), at(now));
    assert_eq!(issue(end - 3600).expect("issued").not_after, at(end));
    assert!(matches!(issue(end), Err(IssueError::Authority { role: Role::Agent })));
    assert!(matches!(issue(end + 1), Err(IssueError::Authority { .. })));
    assert!(matches!(issue(NOW - 3600), Err(IssueError::Authority { .. })));
    let leaf = Leaf::parse(&issue(NOW - 200).expect("issued").chain[0]).expect("a leaf");
    assert_eq!(leaf.not_before, at(NOW - 300));
}

#[test]
fn issues_certificates_of_seconds() {
    let world = World::new();
    let domain = "acme.example".parse().expect("a domain");
    let lifetime = Duration::from_secs(3);
    let issuer = EmbeddedIssuer::open(&world.directory, &domain, lifetime, at(NOW)).expect("opened");
    assert_eq!(identity(&issuer, Role::Agent, at(NOW)).leaf().not_after, at(NOW + 3));
    let none = EmbeddedIssuer::open(&world.directory, &domain, Duration::from_millis(999), at(NOW));
    assert!(matches!(none, Err(OpenError::Lifetime)));
}

#[test]
fn refuses_requests_that_make_no_sense() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    let key = KeyPair::generate().expect("a key");
    let good = |role| request(role, &key);
    let other_domain = "spiffe://evil.example/agent/one".parse().expect("a principal");
    let names = |names: &[&str]| CertificateRequest {
        server_names: names.iter().map(ToString::to_string).collect(),
        ..good(Role::Server)
    };
    let agent_with_name = CertificateRequest { server_names: vec!["x.example".to_owned()], ..good(Role::Agent) };
    let cases = [
        (CertificateRequest { principal: other_domain, ..good(Role::Agent) }, "trust domain"),
        (CertificateRequest { email: "nobody".to_owned(), ..good(Role::Agent) }, "e-mail"),
        (CertificateRequest { spki_der: vec![0x30], ..good(Role::Agent) }, "P-256"),
        (agent_with_name, "names"),
        (names(&[]), "names"),
        (names(&["*.acme.example"]), "names"),
        (names(&["not a name"]), "names"),
    ];
    for (request, words) in cases {
        let error = issuer.sign(&request, at(NOW)).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn finishes_an_interrupted_first_start() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let key = fs::read(world.path("server-ca.key.pem")).expect("read");
    // Before the last key was written: no root is there, and a file was left unfinished.
    for role in ROLES {
        fs::remove_file(world.path(&format!("{role}-root.pem"))).expect("removed");
        fs::remove_file(world.path(&format!("{role}-ca.json"))).expect("removed");
    }
    fs::remove_file(world.path("client-ca.key.pem")).expect("removed");
    fs::write(world.path("client-ca.key.pem.unfinished"), "half").expect("written");
    world.open(NOW).expect("finished");
    assert_eq!(fs::read(world.path("server-ca.key.pem")).expect("read"), key, "what was there is kept");
    assert!(!world.path("client-ca.key.pem.unfinished").exists());
}

#[test]
fn makes_a_lost_root_again_from_its_key() {
    let world = World::new();
    let now = clock();
    let before = world.open(now).expect("opened");
    fs::remove_file(world.path("agent-root.pem")).expect("removed");
    let after = world.open(now + 5).expect("opened");
    assert_eq!(after.roots(Role::Agent).certificates(), before.roots(Role::Agent).certificates(), "it is written down");
    for name in ["agent-root.pem", "agent-ca.json"] {
        fs::remove_file(world.path(name)).expect("removed");
    }
    let after = world.open(now + 10).expect("opened");
    assert_ne!(after.roots(Role::Agent).certificates(), before.roots(Role::Agent).certificates());
    // Whoever trusts either root accepts the certificates of both.
    for (trusted, issuer) in [(&before, &after), (&after, &before)] {
        let agent = identity(issuer, Role::Agent, at(now));
        assert_eq!(outer(trusted, &identity(trusted, Role::Server, at(now)), &agent, "203.0.113.7"), Ok(()));
    }
}

#[test]
fn never_replaces_a_key_that_may_be_trusted() {
    let world = World::new();
    world.open(NOW).expect("opened");
    fs::remove_file(world.path("agent-ca.key.pem")).expect("removed");
    let error = world.open(NOW).expect_err("refused");
    assert!(matches!(&error, OpenError::KeyMissing { path } if path.ends_with("agent-ca.key.pem")), "{error}");
    assert!(!world.path("agent-ca.key.pem").exists());
}

#[test]
fn refuses_what_does_not_belong_together() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let other_domain =
        EmbeddedIssuer::open(&world.directory, &"other.example".parse().expect("a domain"), DAY, at(NOW));
    assert!(matches!(other_domain, Err(OpenError::TrustDomain { .. })));
    let good = fs::read(world.path("agent-root.pem")).expect("read");
    fs::copy(world.path("client-root.pem"), world.path("agent-root.pem")).expect("copied");
    assert!(matches!(world.open(NOW), Err(OpenError::Mismatch { .. })));
    fs::write(world.path("agent-root.pem"), "nothing").expect("written");
    assert!(matches!(world.open(NOW), Err(OpenError::Root(_))));
    fs::write(world.path("agent-root.pem"), good).expect("written");
    let key = fs::read(world.path("agent-ca.key.pem")).expect("read");
    fs::write(world.path("agent-ca.key.pem"), "nothing").expect("written");
    let error = world.open(NOW).expect_err("refused");
    assert!(matches!(&error, OpenError::Key { .. }), "{error}");
    fs::write(world.path("agent-ca.key.pem"), key).expect("written");
    assert!(world.open(NOW).is_ok());
}

#[test]
fn refuses_open_modes_and_other_things() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let set = |name: &str, mode| fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).expect("set");
    set("agent-ca.key.pem", 0o640);
    let error = world.open(NOW).expect_err("refused").to_string();
    assert!(error.contains("agent-ca.key.pem") && error.contains("chmod 600"), "{error}");
    set("agent-ca.key.pem", 0o600);
    set("", 0o750);
    let error = world.open(NOW).expect_err("refused").to_string();
    assert!(error.contains("chmod 700"), "{error}");
    set("", 0o700);
    assert!(world.open(NOW).is_ok());
    let file = world.path("agent-root.pem");
    let error =
        EmbeddedIssuer::open(&file, &"acme.example".parse().expect("a domain"), DAY, at(NOW)).expect_err("refused");
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error:?}");
}

#[test]
fn lets_one_process_in_at_a_time() {
    let world = World::new();
    world.open(NOW).expect("opened");
    let held = fs::File::open(world.path("lock")).expect("a lock");
    held.lock().expect("locked");
    assert!(matches!(world.open(NOW), Err(OpenError::Busy { .. })));
    drop(held);
    assert!(world.open(NOW).is_ok());
}

#[test]
fn debug_shows_no_key() {
    let world = World::new();
    let issuer = world.open(NOW).expect("opened");
    let text = format!("{issuer:?}");
    assert!(text.contains("acme.example") && !text.contains("Ecdsa"), "{text}");
}

#[test]
fn its_certificates_work_where_they_belong_and_nowhere_else() {
    let world = World::new();
    let now = clock();
    let issuer = world.open(now).expect("opened");
    let [server, agent, client] = ROLES.map(|role| identity(&issuer, role, at(now)));
    for shown in [&server, &agent, &client] {
        for name in ["tunnel.acme.example", "203.0.113.7", "2001:db8::7"] {
            assert_eq!(outer(&issuer, &server, shown, name), Ok(()));
            let as_server = outer(&issuer, shown, &client, name);
            assert_eq!(as_server.is_ok(), shown.leaf().principal.role == Role::Server, "{name}: {as_server:?}");
        }
    }
    assert_eq!(inner_by(&ROLES.map(|role| issuer.roots(role)), &agent, &client), Ok(()));
}

/// The real time, for tests with handshakes.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A handshake of the outer TLS, in which both ends trust this issuer.
fn outer(issuer: &EmbeddedIssuer, server: &Identity, client: &Identity, name: &str) -> Result<(), rustls::Error> {
    outer_by(&ROLES.map(|role| issuer.roots(role)), server, client, name)
}

/// The same by these roots of server, agent and client.
fn outer_by(roots: &[Roots; 3], server: &Identity, client: &Identity, name: &str) -> Result<(), rustls::Error> {
    let [of_server, of_agent, of_client] = roots.clone();
    let trust = OuterTrust { agent: of_agent, client: of_client, server: Some(of_server.clone()) };
    let current = CurrentIdentity::new();
    current.set(server.clone());
    let accepts = outer_server(&current, trust).expect("a configuration");
    let config = outer_client(&of_server, Some(client)).expect("a configuration");
    let client = ClientConnection::new(config, server_name(name).expect("a name")).expect("a client");
    handshake(client.into(), ServerConnection::new(accepts).expect("a server").into())
}

/// A handshake of the inner TLS by these roots.
fn inner_by(roots: &[Roots; 3], agent: &Identity, client: &Identity) -> Result<(), rustls::Error> {
    let [_, of_agent, of_client] = roots;
    let config = inner_client(of_agent, &agent.leaf().principal, client).expect("a configuration");
    let accepts = inner_server(of_client, agent).expect("a configuration");
    let initiator = ClientConnection::new(config, inner_server_name()).expect("a client");
    handshake(initiator.into(), ServerConnection::new(accepts).expect("a server").into())
}

fn handshake(mut client: Connection, mut server: Connection) -> Result<(), rustls::Error> {
    for _ in 0..4 {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
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
