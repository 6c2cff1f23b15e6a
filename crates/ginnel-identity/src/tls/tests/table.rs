//! Rows of the table of attacks with certificates (`crates/ginnel/tests/attacks/c.tsv`) that other files of tests do not have.

use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{PeerIncompatible, PeerMisbehaved, SignatureAlgorithm, SignatureScheme};

use super::verify::OuterClients;
use super::*;

mod openssl;

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
