//! The form of tokens: algorithms, headers, parts, types and sizes.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{RSA_PKCS1_SHA384, RSA_PSS_SHA256};
use base64::Engine as _;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;

#[test]
fn refuses_other_algorithms() {
    let world = &*WORLD;
    let claims = world.agent.claims(&world.key).to_string();
    for alg in ["none", "None", "nOnE", "", "rs256", "RS384", "PS256", "ES256", "EdDSA", "HS256"] {
        let header = json!({"alg": alg, "typ": "JWT"}).to_string();
        let token = format!("{}.", unsigned(&header, &claims));
        assert_eq!(world.judge(&token), Err(Denied::Algorithm), "{alg} unsigned");
        assert_eq!(world.judge(&world.agent.signed(&header, &claims)), Err(Denied::Algorithm), "{alg}");
    }
    // The public key as secret of a symmetric signature.
    let pem = ginnel_identity::pem::encode("PUBLIC KEY", &world.agent.spki_der);
    for secret in [pem.as_bytes(), world.agent.spki_der.as_slice()] {
        for alg in ["HS256", "RS256"] {
            let token = unsigned(&json!({"alg": alg}).to_string(), &claims);
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), token.as_bytes());
            let token = format!("{token}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag));
            let expected = if alg == "RS256" { Denied::Signature } else { Denied::Algorithm };
            assert_eq!(world.judge(&token), Err(expected), "{alg}");
        }
    }
    // Another algorithm under the right name.
    for algorithm in [&RSA_PKCS1_SHA384 as &'static dyn aws_lc_rs::signature::RsaEncoding, &RSA_PSS_SHA256] {
        let token = world.agent.signed_by(algorithm, &world.agent.header().to_string(), &claims);
        assert_eq!(world.judge(&token), Err(Denied::Signature));
    }
}

#[test]
fn refuses_headers_with_anything_else() {
    let world = &*WORLD;
    assert!(world.with_header(&json!({"alg": "RS256"})).is_ok(), "kid and typ may be missing");
    assert!(world.with_header(&json!({"alg": "RS256", "kid": "another"})).is_ok(), "kid is a hint");
    let cases = [
        json!({"alg": "RS256", "kid": "../../../etc/passwd"}),
        json!({"alg": "RS256", "kid": "' OR 1=1"}),
        json!({"alg": "RS256", "kid": ""}),
        json!({"alg": "RS256", "kid": "k".repeat(200)}),
        json!({"alg": "RS256", "kid": 1}),
        json!({"alg": "RS256", "kid": null}),
        json!({"alg": "RS256", "typ": null}),
        json!({"alg": "RS256", "kid": "k".repeat(5000)}),
        json!({"alg": "RS256", "jwk": {"kty": "RSA"}}),
        json!({"alg": "RS256", "jku": "https://evil.example"}),
        json!({"alg": "RS256", "x5u": "https://evil.example"}),
        json!({"alg": "RS256", "x5c": []}),
        json!({"alg": "RS256", "crit": ["exp"], "exp": 1}),
        json!({"alg": "RS256", "typ": "at+jwt"}),
        json!({"alg": "RS256", "typ": "dpop+jwt"}),
        json!({"alg": "RS256", "cty": "JWT"}),
        json!({"typ": "JWT"}),
        json!({"alg": 256}),
        json!("RS256"),
    ];
    for header in cases {
        assert_eq!(world.with_header(&header), Err(Denied::Header), "{header}");
    }
    let doubled = world.agent.signed(r#"{"alg":"RS256","alg":"RS256"}"#, &world.agent.claims(&world.key).to_string());
    assert_eq!(world.judge(&doubled), Err(Denied::Header));
}

#[test]
fn refuses_other_forms() {
    let world = &*WORLD;
    let good = world.agent.good(&world.key);
    let claims = world.agent.claims(&world.key).to_string();
    let header = world.agent.header().to_string();
    let padded = good.split('.').map(|part| BASE64_URL_SAFE.encode(decode(part).expect("base64url")));
    let nested = format!("{}1{}", "[".repeat(2000), "]".repeat(2000));
    let cases = [
        ("empty", String::new()),
        ("two parts", good.rsplit_once('.').expect("parts").0.to_owned()),
        ("five parts", format!("{good}.a.b")),
        ("padded", padded.collect::<Vec<_>>().join(".")),
        ("not base64url", good.replace('.', "+.")),
        ("another spelling of the last byte", format!("{}B", &good[..good.len() - 1])),
        ("claims are no object", world.agent.signed(&header, "[]")),
        ("claims are nested deeply", world.agent.signed(&header, &nested)),
        ("a claim doubled", world.agent.signed(&header, &claims.replacen('{', r#"{"iat":1,"#, 1))),
        (
            "a claim doubled inside",
            world.agent.signed(&header, &claims.replacen("{\"spki", r#"{"spki#S256":"","spki"#, 1)),
        ),
        ("a claim that is nothing", world.agent.signed(&header, &claims.replacen('{', r#"{"nbf":null,"#, 1))),
        ("an unknown claim", world.agent.signed(&header, &claims.replacen('{', r#"{"admin":true,"#, 1))),
        (
            "no UTF-8",
            format!("{}.{}.AA", unsigned(&header, "").trim_end_matches('.'), BASE64_URL_SAFE_NO_PAD.encode([0xff])),
        ),
    ];
    for (name, token) in cases {
        assert_eq!(world.judge(&token), Err(Denied::Malformed), "{name}");
    }
}

#[test]
fn refuses_claims_of_other_types() {
    let world = &*WORLD;
    let cases = [
        ("exp", json!("never")),
        ("exp", json!(f64::from(u32::MAX))),
        ("exp", json!(-1)),
        ("exp", Value::Null),
        ("iat", json!(NOW.to_string())),
        ("iat", json!([NOW])),
        ("iat", Value::Null),
        ("nbf", json!("tomorrow")),
        ("nbf", json!((NOW + 86_400).to_string())),
        ("iss", json!([AGENT])),
        ("iss", Value::Null),
        ("sub", Value::Null),
        ("jti", json!(1)),
        ("jti", Value::Null),
        ("cnf", json!("x")),
        ("cnf", json!({})),
        ("cnf", json!({"jkt": "x"})),
        ("cnf", Value::Null),
    ];
    for (name, value) in cases {
        assert_eq!(world.with_claims(&[(name, value.clone())]), Err(Denied::Malformed), "{name}: {value}");
    }
}

#[test]
fn refuses_everything_too_large_first() {
    let world = &*WORLD;
    let good = world.agent.good(&world.key);
    for length in [8 * 1024 + 1, 1024 * 1024] {
        let token = format!("{good}{}", "A".repeat(length - good.len()));
        assert_eq!(world.judge(&token), Err(Denied::Size), "{length}");
    }
    assert_eq!(world.enroller().held(&good, &[0; CSR_BYTES_MAX + 1], at(NOW)), Err(Denied::Size));
    assert_eq!(world.with_claims(&[("aud", json!(vec!["x"; 100_000]))]), Err(Denied::Size));
}

#[test]
fn refuses_every_flipped_bit() {
    let world = &*WORLD;
    let enroller = world.enroller();
    let good = world.agent.good(&world.key);
    for index in 0..good.len() {
        for bit in 0..7 {
            let mut bytes = good.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            let bad = String::from_utf8(bytes).expect("ASCII");
            assert!(enroller.held(&bad, &world.csr, at(NOW)).is_err(), "bit {bit} of byte {index}");
        }
    }
    assert!(enroller.held(&good, &world.csr, at(NOW)).is_ok(), "refused tokens use nothing up");
}
