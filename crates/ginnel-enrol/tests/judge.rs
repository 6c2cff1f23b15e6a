//! The verdict on mutated tokens beside that of PyJWT, which knows nothing of ours: whatever we admit, it takes as well, and whatever it takes
//! and we refuse, we refuse for a reason that we have beyond it.
//!
//! `GINNEL_JUDGED_TOKENS=10000` judges as many (the default is 1,000), `GINNEL_JUDGE_SEED` makes others of them.
#![cfg(test)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_enrol::{AccountKeys, Denied, EnrolIdentity, Enroller, PublicKey};
use ginnel_identity::{KeyPair, pem};
use serde_json::{Value, json};

const EMAIL: &str = "agent@acme.iam.gserviceaccount.com";
const AUDIENCE: &str = "https://tunnel.acme.example/enrol";

/// Reads one token a line and says on a line each whether it is good.
const JUDGE: &str = r#"
import sys, jwt
key = open(sys.argv[1]).read()
for line in sys.stdin:
    token = line.rstrip("\n")
    try:
        jwt.decode(token, key, algorithms=["RS256"], audience=sys.argv[2], issuer=sys.argv[3], leeway=60,
                   options={"require": ["exp", "iat", "iss", "sub", "aud", "jti"]})
        print("good")
    except Exception as error:
        print(type(error).__name__)
"#;

/// Splitmix64: the same tokens for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 1).unwrap_or_default() % most
    }
}

struct Signer {
    pair: RsaKeyPair,
    key: KeyPair,
    now: u64,
}

impl Signer {
    fn sign(&self, header: &str, claims: &str) -> String {
        let text = |part: &str| BASE64_URL_SAFE_NO_PAD.encode(part);
        let message = format!("{}.{}", text(header), text(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("signed");
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    fn claims(&self, number: usize) -> Value {
        json!({
            "iss": EMAIL, "sub": EMAIL, "aud": AUDIENCE, "iat": self.now - 100, "exp": self.now + 150,
            "jti": format!("{number:022}"), "cnf": {"spki#S256": BASE64_URL_SAFE_NO_PAD.encode(self.key.spki_sha256())},
        })
    }

    /// A token that is right but for one thing, or for nothing.
    fn token(&self, dice: &mut Dice, number: usize) -> String {
        let header = json!({"alg": "RS256", "typ": "JWT"}).to_string();
        let claims = self.claims(number);
        match dice.below(10) {
            0 => self.sign(&header, &claims.to_string()),
            1..=3 => self.sign(&header, &self.other_claims(claims, dice).to_string()),
            4 => self.sign(&other_header(dice), &claims.to_string()),
            5 => {
                let text = claims.to_string();
                let doubled = ["{\"iat\":1,", "{\"sub\":\"x\",", "{\"exp\":99999999999,", "{\"aud\":\"x\","];
                self.sign(&header, &text.replacen('{', doubled[dice.below(doubled.len())], 1))
            }
            _ => mutated(self.sign(&header, &claims.to_string()), dice),
        }
    }

    fn other_claims(&self, mut claims: Value, dice: &mut Dice) -> Value {
        let now = self.now;
        let names = ["iss", "sub", "aud", "iat", "exp", "nbf", "jti", "cnf", "extra"];
        let values = [
            json!(null),
            json!(""),
            json!(1),
            json!(-1),
            json!(1.5),
            json!(true),
            json!([]),
            json!({}),
            json!([AUDIENCE]),
            json!([AUDIENCE, "x"]),
            json!(AUDIENCE),
            json!(format!("{AUDIENCE}/")),
            json!(EMAIL),
            json!(now),
            json!(now - 400),
            json!(now + 30),
            json!(now + 400),
            json!(now.to_string()),
            json!(u64::MAX),
            json!("other"),
        ];
        let name = names[dice.below(names.len())];
        if dice.below(8) == 0 {
            claims.as_object_mut().expect("an object").remove(name);
        } else {
            claims[name] = values[dice.below(values.len())].clone();
        }
        claims
    }
}

fn other_header(dice: &mut Dice) -> String {
    let headers = [
        r#"{"alg":"none"}"#,
        r#"{"alg":"HS256","typ":"JWT"}"#,
        r#"{"alg":"RS384"}"#,
        r#"{"alg":"rs256"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"RS256","kid":"x"}"#,
        r#"{"alg":"RS256","kid":1}"#,
        r#"{"alg":"RS256","crit":["exp"]}"#,
        r#"{"alg":"RS256","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"RS256","jku":"https://evil.example"}"#,
        r#"{"alg":"RS256","typ":"at+jwt"}"#,
        r#"{"alg":"RS256","alg":"none"}"#,
        r#"{"typ":"JWT"}"#,
        r"[]",
        r"",
    ];
    headers[dice.below(headers.len())].to_owned()
}

/// The token with some bytes changed, left out, doubled or moved.
fn mutated(token: String, dice: &mut Dice) -> String {
    let mut bytes = token.into_bytes();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(5) {
            0 => bytes[at] = b"ABCz019-_.=+/ "[dice.below(14)],
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"Aa0_-.="[dice.below(7)]),
            3 => bytes.truncate(at.max(1)),
            _ => {
                let other = dice.below(bytes.len());
                bytes.swap(at, other);
            }
        }
    }
    String::from_utf8(bytes).expect("ASCII")
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_that_pyjwt_refuses_is_admitted() {
    let count = number("GINNEL_JUDGED_TOKENS", 1000);
    let mut dice = Dice(number("GINNEL_JUDGE_SEED", 1) as u64);
    let now = SystemTime::now();
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
    let public = pem::encode("PUBLIC KEY", der.as_ref()).to_string();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let signer = Signer { pair, key: KeyPair::generate().expect("a key"), now: seconds };
    let csr = signer.key.csr().expect("a request");
    let identity = EnrolIdentity {
        principal: "spiffe://acme.example/agent/acme".parse().expect("a principal"),
        email: EMAIL.to_owned(),
        keys: Some(AccountKeys::Held(vec![PublicKey::from_pem(public.as_bytes()).expect("a key")])),
        oidc: None,
    };
    let enroller = || {
        let started = now - std::time::Duration::from_secs(3600);
        Enroller::new(AUDIENCE.to_owned(), vec![identity.clone()], Vec::new(), started).expect("an enroller")
    };
    // A line of its own for each: what is no line for Python is none for us.
    let tokens: Vec<_> = (0..count).map(|number| signer.token(&mut dice, number)).collect();
    let theirs = judged(&public, &tokens);
    assert_eq!(theirs.len(), tokens.len());
    let enroller = enroller();
    let mut tally: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for (token, theirs) in tokens.iter().zip(&theirs) {
        let ours = enroller.claim(token, &csr, now).and_then(|claim| claim.admit(None));
        let is_good = theirs == "good";
        match &ours {
            Ok(_) => assert!(is_good, "admitted, and PyJWT says {theirs}: {token}"),
            // What we ask for beyond a good token: exact forms, one audience, a short life, an identity, a binding, an id that cannot be guessed.
            Err(denied) if is_good => assert!(
                matches!(
                    denied,
                    Denied::Algorithm
                        | Denied::Header
                        | Denied::Malformed
                        | Denied::Audience
                        | Denied::Lifetime
                        | Denied::Subject
                        | Denied::UnknownIdentity
                        | Denied::Binding
                        | Denied::TokenId
                        | Denied::NotYetValid
                        | Denied::BeforeStart
                ),
                "PyJWT takes it, and we say {denied}: {token}"
            ),
            Err(_) => {}
        }
        *tally
            .entry((ours.map_or_else(|denied| denied.to_string(), |_| "admitted".to_owned()), is_good))
            .or_default() += 1;
    }
    let of = |word: &str| tally.iter().filter(|((ours, _), _)| ours == word).map(|(_, count)| count).sum::<usize>();
    assert!(of("admitted") * 20 > count, "too few that are right: {tally:?}");
    assert!(of("signature") > 0 && of("malformed") > 0 && tally.len() > 8, "too few kinds: {tally:?}");
}

/// PyJWT's word on each token.
fn judged(public: &str, tokens: &[String]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, judge) = (directory.path().join("key.pem"), directory.path().join("judge.py"));
    std::fs::write(&key, public).expect("written");
    std::fs::write(&judge, JUDGE).expect("written");
    let mut python = Command::new("/usr/bin/python3")
        .arg(&judge)
        .arg(&key)
        .args([AUDIENCE, EMAIL])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 with PyJWT, which scripts/setup installs");
    let mut input = python.stdin.take().expect("piped");
    let lines = tokens.join("\n") + "\n";
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()).expect("read"));
    let output = python.wait_with_output().expect("ended");
    writing.join().expect("written");
    assert!(output.status.success(), "PyJWT is missing: scripts/setup installs it");
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}
