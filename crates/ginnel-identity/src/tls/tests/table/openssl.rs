//! Certificates that OpenSSL makes or judges.

use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};

use super::*;
use crate::pem;

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
