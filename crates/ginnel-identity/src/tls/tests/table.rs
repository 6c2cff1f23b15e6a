//! Rows of the table of attacks with certificates (`crates/ginnel/tests/attacks/c.tsv`) that other files of tests do not have.

use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{PeerIncompatible, PeerMisbehaved, SignatureAlgorithm, SignatureScheme};

use super::verify::OuterClients;
use super::*;
use crate::pem;

/// The last second that a UTCTime can show, 2049-12-31T23:59:59Z, and the last of all, 9999-12-31T23:59:59Z.
const LAST_UTC_TIME: i64 = 2_524_607_999;
const LAST_TIME: i64 = 253_402_300_799;

impl World {
    fn verifier(&self) -> OuterClients {
        let trust = OuterTrust { agent: self.agent.roots(), client: self.client.roots(), server: None };
        OuterClients::new(CurrentIdentity::new(), trust.into())
    }

    /// The verdict on an agent's certificate at a second, without a handshake around it.
    fn verdict(&self, leaf: &CertificateDer<'_>, more: &[CertificateDer<'_>], now: u64) -> Result<(), Error> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        self.verifier().verify_client_cert(leaf, more, now).map(drop)
    }

    fn leaf(&self, change: impl FnOnce(&mut Profile)) -> CertificateDer<'static> {
        let mut profile = Profile::of(Role::Agent);
        change(&mut profile);
        self.agent.der(&profile, &KeyPair::generate().expect("a key"))
    }
}

#[test]
fn validity_counts_to_the_second_in_both_spellings_of_a_date() {
    let world = World::new();
    let now = NOW.cast_signed();
    let second = |second: i64| u64::try_from(second).expect("after 1970");
    // From, to, and seconds at which it is valid and is not.
    type Case<'a> = (i64, i64, &'a [i64], &'a [i64]);
    let cases: [Case<'_>; 6] = [
        (now - 300, now + 3600, &[now - 300, now - 240, now, now + 3600], &[now - 301, now + 3601, now + 7200]),
        (now, LAST_UTC_TIME, &[now, LAST_UTC_TIME], &[now - 1, LAST_UTC_TIME + 1]),
        (now, LAST_UTC_TIME + 1, &[LAST_UTC_TIME, LAST_UTC_TIME + 1], &[LAST_UTC_TIME + 2]),
        (LAST_UTC_TIME + 1, LAST_TIME, &[LAST_UTC_TIME + 1, LAST_TIME], &[LAST_UTC_TIME, LAST_TIME + 1]),
        (now + 600, now + 3600, &[now + 600], &[now, now + 599]),
        (now + 3600, now - 300, &[], &[now - 301, now - 300, now, now + 3600, now + 3601]),
    ];
    for (from, to, valid, invalid) in cases {
        let leaf = world.leaf(|profile| (profile.not_before, profile.not_after) = (from, to));
        for moment in valid {
            assert_eq!(world.verdict(&leaf, &[], second(*moment)), Ok(()), "{from}..{to} at {moment}");
        }
        for moment in invalid {
            let error = certificate_error(world.verdict(&leaf, &[], second(*moment)));
            let is_about_time = ["Expired", "NotValidYet", "InvalidCertValidity"].iter().any(|word| says(&error, word));
            assert!(is_about_time, "{from}..{to} at {moment}: {error:?}");
        }
    }
}

#[test]
fn an_authority_with_the_same_name_and_key_identifier_is_another() {
    let world = World::new();
    let impostor = world.agent.impostor();
    let key = KeyPair::generate().expect("a key");
    let leaf = impostor.der(&Profile::of(Role::Agent), &key);
    for more in [
        vec![],
        vec![impostor.certificate.clone()],
        vec![impostor.certificate.clone(), world.agent.certificate.clone()],
    ] {
        let chain = std::iter::once(leaf.clone()).chain(more).collect();
        let error = certificate_error(world.outer_shown(chain, &key));
        // Which of the ways that lead nowhere is told depends on what else came.
        assert!(matches!(error, Bad::BadSignature | Bad::InvalidPurpose), "{error:?}");
    }
}

#[test]
fn authorities_that_vouch_for_each_other_lead_nowhere() {
    let world = World::new();
    let (one, two) = (Authority::of_authorities("one"), Authority::of_authorities("two"));
    let key = KeyPair::generate().expect("a key");
    let leaf = one.der(&Profile::of(Role::Agent), &key);
    let (one_by_two, two_by_one) = (one.vouched_for(&two), two.vouched_for(&one));
    for more in [vec![&one_by_two, &two_by_one], vec![&two_by_one, &one_by_two], vec![&one_by_two, &one_by_two]] {
        let chain = std::iter::once(leaf.clone()).chain(more.into_iter().cloned()).collect();
        assert_eq!(certificate_error(world.outer_shown(chain, &key)), Bad::UnknownIssuer);
    }
    // The same two are a way if one of them is trusted and may vouch for another, and no way to an authority that may not.
    let may = OuterTrust { agent: two.roots(), client: world.client.roots(), server: None };
    let verifier = OuterClients::new(CurrentIdentity::new(), may.into());
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    for more in [vec![one_by_two.clone()], vec![one_by_two.clone(), two_by_one], vec![one_by_two.clone(), one_by_two]] {
        assert!(verifier.verify_client_cert(&leaf, &more, now).is_ok());
    }
    let leaves_alone = one.vouched_for(&world.agent);
    let error = certificate_error(world.outer_shown(vec![leaf, leaves_alone], &key));
    assert!(says(&error, "PathLenConstraintViolated"), "{error:?}");
}

#[test]
fn chains_are_short_at_every_end() {
    let world = World::new();
    let key = KeyPair::generate().expect("a key");
    let good = |role: Role| world.authority(role).der(&Profile::of(role), &key);
    // As many certificates of one and the same name as fit, each of which might be the issuer.
    let other = Authority::of_authorities("agent CA");
    let more: Vec<_> = (0..100).map(|_| other.vouched_for(&other)).collect();
    for (count, fits) in [(0, true), (2, true), (3, false), (100, false)] {
        let chain = |role| std::iter::once(good(role)).chain(more[..count].iter().cloned()).collect::<Vec<_>>();
        let outer = world.outer_shown(chain(Role::Agent), &key);
        let client = Identity::new(chain(Role::Client), key.clone()).expect("an identity");
        let agent = Identity::new(chain(Role::Agent), key.clone()).expect("an identity");
        let initiator = world.inner(&client, &world.identity(Role::Agent));
        let responder = world.inner(&world.identity(Role::Client), &agent);
        let current = CurrentIdentity::new();
        current.set(Identity::new(chain(Role::Server), key.clone()).expect("an identity"));
        let trust = OuterTrust { agent: world.agent.roots(), client: world.client.roots(), server: None };
        let server = outer_server(&current, trust).expect("a configuration");
        let server = outer_with(&outer_client(&world.server.roots(), None).expect("a configuration"), &server);
        for (end, result) in [("outer", outer), ("initiator", initiator), ("responder", responder), ("server", server)]
        {
            if fits {
                assert!(result.is_ok(), "{end} with {count} more: {result:?}");
            } else {
                assert!(says(&certificate_error(result), "Length"), "{end} with {count} more");
            }
        }
    }
    // Too large for a handshake message is refused before anything is verified.
    let large = world.leaf(|profile| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 2, 3, 4], [vec![4, 0x83, 1, 0, 0], vec![0; 1 << 16]].concat());
        extension.set_criticality(false);
        profile.extensions = vec![extension];
    });
    let error = world.outer_shown(vec![good(Role::Agent), large], &key).expect_err("refused");
    assert!(!matches!(error, Error::InvalidCertificate(_)), "{error:?}");
}

#[test]
fn names_that_are_no_names_of_a_leaf_are_refused() {
    let world = World::new();
    let names = |content: &[u8]| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec());
        extension.set_criticality(true);
        extension
    };
    let uri = b"\x86\x1fspiffe://acme.example/agent/one";
    let email = b"\x81\x12agent@acme.example";
    let sequence = |parts: &[&[u8]]| {
        let content = parts.concat();
        [&[0x30, u8::try_from(content.len()).expect("short")][..], &content].concat()
    };
    let good = sequence(&[uri, email]);
    let cases = [
        ("empty", sequence(&[]), false),
        ("nothing", Vec::new(), false),
        ("no sequence", b"\x04\x02hi".to_vec(), false),
        ("cut short", good[..good.len() - 1].to_vec(), false),
        ("trailing bytes", [&good[..], &[0]].concat(), false),
        ("e-mail alone", sequence(&[email]), false),
        ("URI alone", sequence(&[uri]), false),
        ("two URIs", sequence(&[uri, email, uri]), false),
        ("an unknown kind of name", sequence(&[uri, email, b"\x8f\x01x"]), false),
        ("NUL in the URI", sequence(&[b"\x86\x21spiffe://acme.example/agent/one\0x", email]), false),
        ("the right ones", good.clone(), true),
    ];
    for (name, content, accepted) in cases {
        let key = KeyPair::generate().expect("a key");
        let profile =
            Profile { uris: vec![], emails: vec![], extensions: vec![names(&content)], ..Profile::of(Role::Agent) };
        let result = world.outer_shown(vec![world.agent.der(&profile, &key)], &key);
        assert_eq!(result.is_ok(), accepted, "{name}: {result:?}");
    }
}

/// Signs with the right key, but not what is to be signed, or not in the way that it says.
#[derive(Clone, Debug)]
struct Wrong {
    key: KeyPair,
    says: SignatureScheme,
    flips: bool,
}

impl SigningKey for Wrong {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Wrong {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut message = message.to_vec();
        if self.flips {
            *message.last_mut().expect("a byte") ^= 1;
        }
        let signing = self.key.signing_key();
        let signer = signing.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("a scheme");
        signer.sign(&message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.says
    }
}

#[test]
fn a_proof_over_another_transcript_or_of_another_scheme_is_refused() {
    let world = World::new();
    let right = SignatureScheme::ECDSA_NISTP256_SHA256;
    let cases = [
        (right, false, true),
        (right, true, false),
        (SignatureScheme::ECDSA_NISTP384_SHA384, false, false),
        (SignatureScheme::ED25519, false, false),
        (SignatureScheme::RSA_PSS_SHA256, false, false),
        (SignatureScheme::RSA_PKCS1_SHA256, false, false),
        (SignatureScheme::ECDSA_SHA1_Legacy, false, false),
    ];
    for (says, flips, accepted) in cases {
        let key = KeyPair::generate().expect("a key");
        let chain = vec![world.agent.der(&Profile::of(Role::Agent), &key)];
        let config = outer_client(&world.server.roots(), Some(&world.identity(Role::Agent))).expect("a configuration");
        let mut config = Arc::unwrap_or_clone(config);
        let shown = CertifiedKey::new(chain, Arc::new(Wrong { key, says, flips }));
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        let result = outer_with(&Arc::new(config), &world.outer_server());
        match result {
            Ok(_) => assert!(accepted, "{says:?} {flips}"),
            Err(
                Error::InvalidCertificate(_)
                | Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)
                | Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon),
            ) => assert!(!accepted, "{says:?} {flips}"),
            Err(other) => panic!("{says:?} {flips}: {other:?}"),
        }
    }
}

/// OpenSSL at work in a directory.
struct OpenSsl(tempfile::TempDir);

impl OpenSsl {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new("openssl").args(arguments).current_dir(self.path()).output().expect("openssl");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }

    fn write(&self, name: &str, certificates: &[CertificateDer<'_>]) {
        let text: String = certificates.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
        std::fs::write(self.path().join(name), text).expect("written");
    }

    fn read(&self, name: &str) -> CertificateDer<'static> {
        let text = std::fs::read(self.path().join(name)).expect("read");
        pem::decode_one(&text, rustls_pki_types::pem::SectionKind::Certificate).expect("a certificate").into()
    }

    /// Its verdict on a TLS client's certificate at a second.
    fn verdict(&self, root: &CertificateDer<'_>, chain: &[CertificateDer<'_>], now: u64) -> Result<(), String> {
        self.write("root.pem", std::slice::from_ref(root));
        self.write("leaf.pem", &chain[..1]);
        self.write("more.pem", &chain[1..]);
        let now = now.to_string();
        let common = ["verify", "-x509_strict", "-purpose", "sslclient", "-auth_level", "2", "-attime", &now];
        let trusted = ["-no-CApath", "-no-CAstore", "-CAfile", "root.pem"];
        let more: &[&str] = if chain.len() > 1 { &["-untrusted", "more.pem"] } else { &[] };
        self.run(&[&common[..], &trusted, more, &["leaf.pem"]].concat())
    }
}

const LEAF_EXTENSIONS: &str = "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth
subjectAltName=critical,URI:spiffe://acme.example/agent/one,email:agent@acme.example
authorityKeyIdentifier=keyid
";

#[test]
fn weak_algorithms_and_odd_numbers_are_refused() {
    let openssl = OpenSsl::new();
    std::fs::write(openssl.path().join("leaf.ext"), LEAF_EXTENSIONS).expect("written");
    openssl.run(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "leaf.key"]).expect("a key");
    openssl.run(&["req", "-new", "-key", "leaf.key", "-subj", "/", "-out", "leaf.csr"]).expect("a request");
    let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let p192 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-192"];
    let explicit = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"];
    let rsa = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let rsa_1024 = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, bool);
    let cases: [Case<'_>; 12] = [
        ("P-256 with SHA-256", &p256, "-sha256", "4711", true),
        ("RSA-2048 with SHA-256", &rsa, "-sha256", "4711", true),
        ("P-256 with SHA-1", &p256, "-sha1", "4711", false),
        ("RSA-2048 with SHA-1", &rsa, "-sha1", "4711", false),
        ("RSA-2048 with MD5", &rsa, "-md5", "4711", false),
        ("RSA-1024", &rsa_1024, "-sha256", "4711", false),
        ("P-192", &p192, "-sha256", "4711", false),
        ("explicit parameters", &explicit, "-sha256", "4711", false),
        ("serial 0", &p256, "-sha256", "0", false),
        ("a negative serial", &p256, "-sha256", "-5", false),
        ("a serial of 20 bytes", &p256, "-sha256", "0x7102030405060708091011121314151617181920", true),
        (
            "a serial of 40 bytes",
            &p256,
            "-sha256",
            "0x01020304050607080910111213141516171819200102030405060708091011121314151617181920",
            false,
        ),
    ];
    for (name, key, digest, serial, accepted) in cases {
        openssl.run(&[&["genpkey", "-out", "ca.key"][..], key].concat()).expect(name);
        let root =
            ["req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=agent CA", "-days", "2", digest, "-out", "ca.pem"];
        let usage = ["-addext", "keyUsage=critical,keyCertSign"];
        openssl.run(&[&root[..], &usage].concat()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let sign = ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-extfile", "leaf.ext"];
        let rest = ["-days", "1", digest, "-set_serial", serial, "-out", "leaf.crt"];
        openssl.run(&[&sign[..], &rest].concat()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Ok(roots) = Roots::from_der(vec![openssl.read("ca.pem")]) else {
            assert!(!accepted, "{name}: the root was refused");
            continue;
        };
        let client = Authority::new("client CA").roots();
        let trust = OuterTrust { agent: roots, client, server: None };
        let verifier = OuterClients::new(CurrentIdentity::new(), trust.into());
        let verdict = verifier.verify_client_cert(&openssl.read("leaf.crt"), &[], UnixTime::now());
        assert_eq!(verdict.is_ok(), accepted, "{name}: {verdict:?}");
    }
}

/// What is different from a right leaf, whether OpenSSL accepts it, and whether we do.
type Shape<'a> = (&'a str, &'a dyn Fn(&mut Profile), bool, bool);

/// One thing that can be different from a right leaf.
type Change = fn(&mut Profile);

/// What is accepted is accepted by OpenSSL, too, and what it refuses is refused. That we refuse more is told by name.
#[test]
fn openssl_agrees_on_certificates_of_every_shape() {
    let world = World::new();
    let openssl = OpenSsl::new();
    let critical = |profile: &mut Profile, is_critical: bool| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(is_critical);
        profile.extensions.push(extension);
    };
    let cases: [Shape<'_>; 20] = [
        ("right", &|_| {}, true, true),
        ("expired", &|p| p.not_after = NOW.cast_signed() - 1, false, false),
        ("not valid yet", &|p| p.not_before = NOW.cast_signed() + 1, false, false),
        ("no end in sight", &|p| p.not_after = LAST_TIME, true, true),
        ("serverAuth alone", &|p| p.purposes = vec![Purpose::ServerAuth], false, false),
        ("codeSigning alone", &|p| p.purposes = vec![Purpose::CodeSigning], false, false),
        ("clientAuth and others", &|p| p.purposes.push(Purpose::CodeSigning), true, true),
        ("an unknown critical extension", &|p| critical(p, true), false, false),
        ("an unknown extension", &|p| critical(p, false), true, true),
        ("key usage that cannot sign", &|p| p.key_usages = vec![KeyUsagePurpose::CrlSign], false, false),
        // Where we are stricter.
        ("no purposes", &|p| p.purposes.clear(), true, false),
        ("any purpose", &|p| p.purposes = vec![Purpose::Any], false, false),
        ("keyEncipherment", &|p| p.key_usages.push(KeyUsagePurpose::KeyEncipherment), true, true),
        ("no key usage", &|p| p.key_usages.clear(), true, false),
        ("no URI", &|p| p.uris.clear(), true, false),
        ("no e-mail", &|p| p.emails.clear(), true, false),
        ("two URIs", &|p| p.uris.push("spiffe://acme.example/agent/two".to_owned()), true, false),
        ("another role", &|p| p.uris = vec!["spiffe://acme.example/client/one".to_owned()], true, false),
        ("a DNS name", &|p| p.more_names.push(SanType::DnsName("x.example".try_into().expect("ASCII"))), true, true),
        ("no basic constraints", &|p| p.is_ca = IsCa::NoCa, true, false),
    ];
    for (name, change, theirs, ours) in cases {
        let leaf = world.leaf(change);
        let (said, verdict) = (
            openssl.verdict(&world.agent.certificate, std::slice::from_ref(&leaf), NOW),
            world.verdict(&leaf, &[], NOW),
        );
        assert_eq!((said.is_ok(), verdict.is_ok()), (theirs, ours), "{name}: {said:?} {verdict:?}");
    }
    // Pairs of changes: nothing that is accepted here is refused there.
    let changes: [Change; 7] = [
        |p| p.not_after = LAST_TIME,
        |p| p.not_before = 0,
        |p| p.purposes.push(Purpose::ServerAuth),
        |p| p.subject = Some("a subject".to_owned()),
        |p| p.serial = vec![0x7f; 20],
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        |p| p.key_usages.push(KeyUsagePurpose::ContentCommitment),
    ];
    let mut accepted = 0;
    for (number, one) in changes.iter().enumerate() {
        for two in &changes[number..] {
            let leaf = world.leaf(|profile| {
                one(profile);
                two(profile);
            });
            if world.verdict(&leaf, &[], NOW).is_ok() {
                accepted += 1;
                let said = openssl.verdict(&world.agent.certificate, &[leaf], NOW);
                assert_eq!(said, Ok(()));
            }
        }
    }
    assert!(accepted > 10, "{accepted}");
}

#[test]
fn who_is_not_in_the_roots_of_a_connection_is_nobody_to_it() {
    // Whatever else the machine trusts is not asked: there is no other source of roots than those that are given.
    let world = World::new();
    let known_elsewhere = Authority::new("a public CA");
    let server = Profile::of(Role::Server);
    let current = CurrentIdentity::new();
    current.set(known_elsewhere.issue(&server));
    let trust = OuterTrust { agent: world.agent.roots(), client: world.client.roots(), server: None };
    let impostor = outer_server(&current, trust).expect("a configuration");
    let client = outer_client(&world.server.roots(), None).expect("a configuration");
    assert_eq!(certificate_error(outer_with(&client, &impostor)), Bad::UnknownIssuer);
    let issue = |role| known_elsewhere.issue(&Profile::of(role));
    assert_eq!(certificate_error(world.outer(Some(&issue(Role::Agent)))), Bad::UnknownIssuer);
    let inner = [
        world.inner(&issue(Role::Client), &world.identity(Role::Agent)),
        world.inner(&world.identity(Role::Client), &issue(Role::Agent)),
    ];
    for result in inner {
        assert_eq!(certificate_error(result), Bad::UnknownIssuer);
    }
}
