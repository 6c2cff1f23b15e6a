//! Certificate requests: what of them is ignored, and what is refused.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_identity::KeyPair;
use rcgen::{CertificateParams, DnType, DnValue, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::json;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::*;

/// A request of another key or with other content, made by a library that is not ours.
fn foreign(algorithm: &'static rcgen::SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(&key).expect("a request").der().to_vec()
}

/// What becomes of a request that comes with a token bound to its own key.
fn judge_csr(csr: &[u8]) -> Result<Admitted, Denied> {
    let world = &*WORLD;
    let spki = Request::parse(csr).map(|request| request.spki_der().to_vec()).unwrap_or_default();
    let mut claims = world.agent.claims(&world.key);
    claims["cnf"] = json!({"spki#S256": BASE64_URL_SAFE_NO_PAD.encode(sha256(&spki))});
    world.enroller().held(&world.agent.token(&world.agent.header(), &claims), csr, at(NOW))
}

#[test]
fn ignores_the_subject_of_a_request() {
    let bmp = rcgen::string::BmpString::try_from("server".to_owned()).expect("a BMPString");
    let names = [
        DnValue::Utf8String("server\0x".to_owned()),
        DnValue::Utf8String("spiffe://acme.example/client/one".to_owned()),
        DnValue::Utf8String(String::new()),
        DnValue::BmpString(bmp),
        DnValue::Utf8String("x".repeat(64 * 1024)),
    ];
    for name in names {
        let csr = foreign(&rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.distinguished_name.push(DnType::CommonName, name.clone());
        });
        match judge_csr(&csr) {
            Ok(admitted) => assert_eq!(admitted.principal, principal(Role::Agent, "one")),
            Err(denied) => assert!(matches!(denied, Denied::Csr | Denied::Size), "{denied:?}"),
        }
    }
}

#[test]
fn refuses_requests_that_ask_for_something() {
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let dns = rcgen::SanType::DnsName("tunnel.acme.example".try_into().expect("ASCII"));
    let uri = rcgen::SanType::URI("spiffe://acme.example/server/one".try_into().expect("ASCII"));
    let name = |text: &str| text.try_into().expect("ASCII");
    let names = [
        rcgen::SanType::DnsName(name("*")),
        rcgen::SanType::DnsName(name("*.acme.example")),
        rcgen::SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        rcgen::SanType::OtherName((vec![1, 2, 3], "x".into())),
        rcgen::SanType::Rfc822Name(name("client@acme.example")),
        rcgen::SanType::URI(name("spiffe://acme.example/agent/two")),
    ];
    for san in names {
        assert_eq!(judge_csr(&foreign(p256, |params| params.subject_alt_names = vec![san])), Err(Denied::Csr));
    }
    let cases = [
        foreign(p256, |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0))),
        // Name constraints, which say that everything is permitted.
        foreign(p256, |params| {
            params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0])]
        }),
        foreign(p256, |params| params.subject_alt_names = vec![dns]),
        foreign(p256, |params| params.subject_alt_names = vec![uri]),
        foreign(p256, |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        foreign(p256, |params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]),
        foreign(p256, |params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Any]),
        foreign(p256, |params| {
            params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])]
        }),
    ];
    for (number, csr) in cases.iter().enumerate() {
        assert_eq!(judge_csr(csr), Err(Denied::Csr), "case {number}");
    }
}

#[test]
fn refuses_other_keys_and_other_bytes() {
    let world = &*WORLD;
    let trailing = [world.csr.as_slice(), &[0]].concat();
    // The point with one coordinate changed is on no curve; the same length keeps the request well-formed.
    let point = world.csr.windows(91).position(|window| window == world.key.spki_der()).expect("the key") + 27;
    let mut off_curve = world.csr.clone();
    off_curve[point] ^= 1;
    let mut compressed = world.csr.clone();
    compressed[point - 1] = 2;
    let cases = [
        ("P-384", foreign(&PKCS_ECDSA_P384_SHA384, |_| {}), Denied::Key),
        ("Ed25519", foreign(&PKCS_ED25519, |_| {}), Denied::Key),
        ("compressed", compressed, Denied::Key),
        ("not on the curve", off_curve, Denied::Possession),
        ("trailing bytes", trailing, Denied::Csr),
        ("cut short", world.csr[..world.csr.len() - 1].to_vec(), Denied::Csr),
        ("empty", Vec::new(), Denied::Csr),
        ("no DER", b"a request".to_vec(), Denied::Csr),
        ("a certificate's worth of nesting", [0x30, 0x80].repeat(1000), Denied::Csr),
    ];
    for (name, csr, expected) in cases {
        assert_eq!(judge_csr(&csr), Err(expected), "{name}");
    }
}

#[test]
fn refuses_requests_without_proof_of_possession() {
    let world = &*WORLD;
    // The victim's key in the request, the signature of another.
    let other = KeyPair::generate().expect("a key").csr().expect("a request");
    let body =
        |csr: &[u8]| csr.windows(91).position(|window| window.starts_with(&world.key.spki_der()[..26])).expect("a key");
    let mut stolen = other.clone();
    let at_key = body(&other);
    stolen[at_key..at_key + 91].copy_from_slice(world.key.spki_der());
    assert_eq!(judge_csr(&stolen), Err(Denied::Possession));
    // r and s of the signature set to zero, and to the order of the curve.
    let order = decode("_____wAAAAD__________7zm-q2nF56E87nKwvxjJVE").expect("base64url");
    for value in [vec![0], [&[0][..], &order].concat()] {
        let integer = [&[2, u8::try_from(value.len()).expect("short")][..], &value].concat();
        let numbers = integer.repeat(2);
        let signature = [&[0x30, u8::try_from(numbers.len()).expect("short")][..], &numbers].concat();
        assert_eq!(judge_csr(&with_signature(&world.csr, &signature)), Err(Denied::Possession));
    }
    assert_eq!(judge_csr(&with_signature(&world.csr, &[])), Err(Denied::Possession));
}

/// The same request with another signature.
fn with_signature(csr: &[u8], signature: &[u8]) -> Vec<u8> {
    let (_, parsed) = X509CertificationRequest::from_der(csr).expect("a request");
    let algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    let bits = [&[3, u8::try_from(signature.len() + 1).expect("short"), 0][..], signature].concat();
    let content = [parsed.certification_request_info.raw, algorithm, &bits].concat();
    [&[0x30, 0x82][..], &u16::try_from(content.len()).expect("short").to_be_bytes(), &content].concat()
}
