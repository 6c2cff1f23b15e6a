use std::sync::LazyLock;

use ginnel_core::principal::Role;
use ginnel_identity::KeyPair;
use ginnel_identity::credential::ServiceAccountKey;
use ginnel_identity::key::sha256;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::csr::Request;
use crate::replay::{TOKENS_MAX, Taken};
use crate::testing::{AUDIENCE, Account, NOW, at, principal, unsigned};
use crate::token::decode;

const AGENT: &str = "agent@acme.iam.gserviceaccount.com";
const CLIENT: &str = "frontend@acme.iam.gserviceaccount.com";

mod issued;
mod requests;
mod tokens;

fn held(keys: Vec<PublicKey>) -> Option<AccountKeys> {
    Some(AccountKeys::Held(keys))
}

impl Enroller {
    /// The verdict on an identity whose keys are at hand, of a process that started at [`NOW`].
    fn held(&self, token: &str, csr_der: &[u8], now: SystemTime) -> Result<Admitted, Denied> {
        self.claim_at(token, csr_der, since(NOW, seconds(now)))?.admit(None)
    }
}

/// A moment of a process that started at this second, by a clock that is right all the time.
fn since(started: u64, now: u64) -> Moment {
    Moment { now, ran: Duration::from_secs(now.saturating_sub(started)) }
}

struct World {
    agent: Account,
    client: Account,
    key: KeyPair,
    csr: Vec<u8>,
}

/// Made once, because RSA keys take their time.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    let csr = key.csr().expect("a request");
    World { agent: Account::new(AGENT), client: Account::new(CLIENT), key, csr }
});

impl World {
    fn identities(&self) -> Vec<EnrolIdentity> {
        let identity = |role, account: &Account| EnrolIdentity {
            principal: principal(role, "one"),
            email: account.email.clone(),
            keys: held(vec![account.public_key()]),
            oidc: None,
        };
        vec![identity(Role::Agent, &self.agent), identity(Role::Client, &self.client)]
    }

    fn enroller(&self) -> Enroller {
        Enroller::new(AUDIENCE.to_owned(), self.identities(), Vec::new(), at(NOW)).expect("an enroller")
    }

    /// What becomes of the agent's token with some claims replaced; a null takes the claim away.
    fn with_claims(&self, changes: &[(&str, Value)]) -> Result<Admitted, Denied> {
        let mut claims = self.agent.claims(&self.key);
        for (name, value) in changes {
            if value.is_null() {
                claims.as_object_mut().expect("an object").remove(*name);
            } else {
                claims[*name] = value.clone();
            }
        }
        self.judge(&self.agent.token(&self.agent.header(), &claims))
    }

    /// What becomes of the agent's token with another header.
    fn with_header(&self, header: &Value) -> Result<Admitted, Denied> {
        self.judge(&self.agent.token(header, &self.agent.claims(&self.key)))
    }

    fn judge(&self, token: &str) -> Result<Admitted, Denied> {
        self.enroller().held(token, &self.csr, at(NOW))
    }
}

#[test]
fn admits_a_token_that_a_key_file_signs() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key.json");
    let public = ServiceAccountKey::create(AGENT, &path).expect("created");
    let account = ServiceAccountKey::read(&path).expect("read");
    let identity = EnrolIdentity {
        principal: principal(Role::Agent, "one"),
        email: AGENT.to_owned(),
        keys: held(vec![PublicKey::from_pem(public.as_bytes()).expect("a public key")]),
        oidc: None,
    };
    let enroller = Enroller::new(AUDIENCE.to_owned(), vec![identity], Vec::new(), at(NOW)).expect("an enroller");
    let key = KeyPair::generate().expect("a key");
    let token = account.sign_token(AUDIENCE, key.spki_sha256(), at(NOW)).expect("a token");
    let csr = key.csr().expect("a request");
    let admitted = enroller.held(token.expose_secret(), &csr, at(NOW)).expect("admitted");
    assert_eq!(admitted.principal, principal(Role::Agent, "one"));
    assert_eq!((admitted.email.as_str(), admitted.spki_der.as_slice()), (AGENT, key.spki_der()));
    assert_eq!(admitted.spki_sha256, key.spki_sha256());
    assert_eq!(admitted.evidence.proof, Proof::Key(account.key_id().to_owned()));
    assert!(enroller.accepts(AGENT, &admitted.evidence));
}

#[test]
fn the_role_comes_from_the_configured_identity() {
    let world = &*WORLD;
    let token = world.client.good(&world.key);
    assert_eq!(world.judge(&token).expect("admitted").principal, principal(Role::Client, "one"));
}

#[test]
fn refuses_signatures_of_others() {
    let world = &*WORLD;
    let claims = world.agent.claims(&world.key);
    assert_eq!(world.judge(&world.client.token(&world.client.header(), &claims)), Err(Denied::Signature));
    let stranger = Account::new(AGENT);
    assert_eq!(world.judge(&stranger.good(&world.key)), Err(Denied::Signature));
    for signature in ["", "AAAA"] {
        let token = format!("{}.{signature}", unsigned(&world.agent.header().to_string(), &claims.to_string()));
        assert_eq!(world.judge(&token), Err(Denied::Signature));
    }
}

#[test]
fn takes_any_of_an_identitys_keys() {
    let world = &*WORLD;
    let (old, new) = (Account::new(AGENT), &world.agent);
    let mut identities = world.identities();
    identities[0].keys = held(vec![old.public_key(), new.public_key()]);
    let enroller = Enroller::new(AUDIENCE.to_owned(), identities, Vec::new(), at(NOW)).expect("an enroller");
    for account in [&old, new] {
        assert!(enroller.held(&account.good(&world.key), &world.csr, at(NOW)).is_ok());
    }
}

#[test]
fn refuses_other_audiences() {
    let world = &*WORLD;
    let cases = [
        Value::Bool(false),
        json!(""),
        json!(1),
        json!({}),
        json!([AUDIENCE]),
        json!([AUDIENCE, "https://other.example/enrol"]),
        json!("https://other.example/enrol"),
        json!(format!("{AUDIENCE}/")),
        json!(format!("{AUDIENCE}?x")),
        json!(AUDIENCE.to_uppercase()),
        json!(AUDIENCE.replace("https", "http")),
        json!(AUDIENCE.replace(".example", ".example:443")),
        json!(AUDIENCE.trim_end_matches('l')),
        json!(format!(" {AUDIENCE}")),
    ];
    for value in cases {
        assert_eq!(world.with_claims(&[("aud", value.clone())]), Err(Denied::Audience), "{value}");
    }
    assert_eq!(world.with_claims(&[("aud", Value::Null)]), Err(Denied::Audience), "missing");
}

#[test]
fn refuses_unknown_and_other_accounts() {
    let world = &*WORLD;
    for email in [
        "",
        "other@acme.iam.gserviceaccount.com",
        "AGENT@acme.iam.gserviceaccount.com",
        "a@b/../../x",
        "a@evil.com?x=",
        "a@b\r\nX: y",
    ] {
        let result = world.with_claims(&[("iss", json!(email)), ("sub", json!(email))]);
        assert_eq!(result, Err(Denied::UnknownIdentity), "{email}");
    }
    assert_eq!(world.with_claims(&[("sub", json!(CLIENT))]), Err(Denied::Subject));
}

#[test]
fn keeps_to_the_time() {
    let world = &*WORLD;
    let times = |iat: u64, exp: u64| world.with_claims(&[("iat", json!(iat)), ("exp", json!(exp))]).map(|_| ());
    let cases = [
        ("for as long as allowed", times(NOW, NOW + 300), Ok(())),
        ("a second longer", times(NOW, NOW + 301), Err(Denied::Lifetime)),
        ("for years", times(NOW, NOW + 315_360_000), Err(Denied::Lifetime)),
        ("for no time", times(NOW, NOW), Err(Denied::Lifetime)),
        ("ends before it begins", times(NOW, NOW - 1), Err(Denied::Lifetime)),
        ("to the end of time", times(u64::MAX - 1, u64::MAX), Err(Denied::NotYetValid)),
        ("a clock that is ahead", times(NOW + 60, NOW + 300), Ok(())),
        ("from the future", times(NOW + 61, NOW + 300), Err(Denied::NotYetValid)),
        ("ended within the leeway", times(NOW - 300, NOW - 60), Ok(())),
        ("ended before", times(NOW - 300, NOW - 61), Err(Denied::Expired)),
        ("before the start of the process", times(NOW - 301, NOW - 60), Err(Denied::BeforeStart)),
    ];
    for (name, result, expected) in cases {
        assert_eq!(result, expected, "{name}");
    }
    assert_eq!(world.with_claims(&[("nbf", json!(NOW + 86_400))]), Err(Denied::NotYetValid));
    assert!(world.with_claims(&[("nbf", json!(NOW))]).is_ok());
    let good = world.agent.good(&world.key);
    assert_eq!(world.enroller().held(&good, &world.csr, UNIX_EPOCH - Duration::from_secs(1)), Err(Denied::NotYetValid));
}

#[test]
fn a_clock_that_was_ahead_at_the_start_and_is_put_right_refuses_nobody() {
    let world = &*WORLD;
    let token = |iat: u64| {
        let mut claims = world.agent.claims(&world.key);
        (claims["iat"], claims["exp"]) = (json!(iat), json!(iat + 300));
        world.agent.token(&world.agent.header(), &claims)
    };
    let judge = |iat, now, ran| {
        let moment = Moment { now, ran: Duration::from_secs(ran) };
        let enroller = world.enroller();
        enroller.claim_at(&token(iat), &world.csr, moment).and_then(|claim| claim.admit(None)).map(|_| ())
    };
    let behind = NOW - 7200;
    assert_eq!(judge(behind, behind, 60), Ok(()), "two hours ahead, put right after a minute");
    assert!(world.enroller().claim(&token(behind), &world.csr, at(behind)).is_ok(), "by the process's own count");
    assert_eq!(judge(behind - 240, behind, 0), Ok(()));
    assert_eq!(judge(behind - 301, behind, 0), Err(Denied::BeforeStart), "by the clock that is right");
}

#[test]
fn refuses_token_ids_that_can_be_guessed() {
    let world = &*WORLD;
    for id in [String::new(), "1".to_owned(), "a".repeat(21), "a".repeat(129), format!("{}\n", "a".repeat(22))] {
        assert_eq!(world.with_claims(&[("jti", json!(id))]), Err(Denied::TokenId), "{id}");
    }
    assert!(world.with_claims(&[("jti", json!("123e4567-e89b-42d3-a456-426614174000"))]).is_ok());
}

#[test]
fn a_token_serves_the_key_that_it_is_bound_to() {
    let world = &*WORLD;
    let thief = KeyPair::generate().expect("a key");
    let csr = thief.csr().expect("a request");
    let token = world.agent.good(&world.key);
    let enroller = world.enroller();
    assert_eq!(enroller.held(&token, &csr, at(NOW)), Err(Denied::Binding));
    for binding in ["", "x", "AAAA"] {
        assert_eq!(world.with_claims(&[("cnf", json!({"spki#S256": binding}))]), Err(Denied::Binding), "{binding}");
    }
    assert!(enroller.held(&token, &world.csr, at(NOW)).is_ok(), "the thief did not use it up");
}

#[test]
fn admits_a_token_once() {
    let world = &*WORLD;
    let enroller = world.enroller();
    let token = world.agent.good(&world.key);
    assert!(enroller.held(&token, &world.csr, at(NOW)).is_ok());
    for now in [NOW, NOW + 200, NOW + 360] {
        assert_eq!(enroller.held(&token, &world.csr, at(now)), Err(Denied::Replayed), "{now}");
    }
    assert_eq!(enroller.held(&token, &world.csr, at(NOW + 361)), Err(Denied::Expired));
    assert!(enroller.held(&world.agent.good(&world.key), &world.csr, at(NOW)).is_ok(), "another token of the same key");
}

#[test]
fn admits_a_token_once_of_a_thousand_at_the_same_time() {
    let world = &*WORLD;
    let enroller = world.enroller();
    let token = world.agent.good(&world.key);
    let threads = 8;
    let barrier = std::sync::Barrier::new(threads);
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let run = || {
            barrier.wait();
            (0..125).map(|_| enroller.held(&token, &world.csr, at(NOW)).map(|_| ())).collect::<Vec<_>>()
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a thread")).collect()
    });
    assert_eq!(verdicts.len(), 1000);
    assert_eq!(verdicts.iter().filter(|verdict| verdict.is_ok()).count(), 1);
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Err(Denied::Replayed)).count(), 999);
}

#[test]
fn a_full_memory_refuses_that_identity_alone_and_recovers() {
    let world = &*WORLD;
    let enroller = world.enroller();
    for number in 0..TOKENS_MAX {
        let taken = enroller.identities[AGENT].used.take(&number.to_string(), NOW + 360, NOW);
        assert_eq!(taken, Taken::First);
    }
    let token = world.agent.good(&world.key);
    assert_eq!(enroller.held(&token, &world.csr, at(NOW)), Err(Denied::CacheFull));
    assert!(enroller.held(&world.client.good(&world.key), &world.csr, at(NOW)).is_ok(), "another identity");
    let mut later = world.agent.claims(&world.key);
    (later["iat"], later["exp"]) = (json!(NOW + 361), json!(NOW + 600));
    let later = world.agent.token(&world.agent.header(), &later);
    assert!(enroller.held(&later, &world.csr, at(NOW + 361)).is_ok(), "recovered");
}

#[test]
fn a_token_stays_used_while_its_identity_is_taken_out_and_comes_back() {
    let world = &*WORLD;
    let before = world.enroller();
    let token = world.agent.good(&world.key);
    assert!(before.held(&token, &world.csr, at(NOW)).is_ok());
    let clients = || world.identities().split_off(1);
    let without = before.with_identities_at(clients(), since(NOW, NOW + 1)).expect("an enroller");
    // A verdict of those who do not know of the change yet.
    let late = world.agent.good(&world.key);
    assert!(before.held(&late, &world.csr, at(NOW + 1)).is_ok());
    let still_without = without.with_identities_at(clients(), since(NOW, NOW + 2)).expect("an enroller");
    assert_eq!(still_without.held(&token, &world.csr, at(NOW + 2)), Err(Denied::UnknownIdentity));
    let back = still_without.with_identities_at(world.identities(), since(NOW, NOW + 3)).expect("an enroller");
    for used in [&token, &late] {
        assert_eq!(back.held(used, &world.csr, at(NOW + 3)), Err(Denied::Replayed));
    }
    assert!(back.held(&world.agent.good(&world.key), &world.csr, at(NOW + 3)).is_ok(), "a token of its own");
}

#[test]
fn what_can_be_used_no_more_is_forgotten_after_its_identity() {
    let world = &*WORLD;
    let clients = || world.identities().split_off(1);
    let without = world.enroller().with_identities_at(clients(), since(NOW, NOW)).expect("an enroller");
    let later =
        |seconds| without.with_identities_at(clients(), since(NOW, NOW + seconds)).expect("an enroller").gone.len();
    assert_eq!((later(USABLE_SECONDS), later(USABLE_SECONDS + 1)), (1, 0));
}

#[test]
fn tokens_that_may_have_been_forgotten_are_refused() {
    let world = &*WORLD;
    let key = world.agent.public_key();
    let mut many = world.identities();
    let more = (0..=GONE_MAX).map(|number| EnrolIdentity {
        principal: principal(Role::Agent, &format!("more-{number}")),
        email: format!("more-{number}@acme.example"),
        keys: held(vec![key.clone()]),
        oidc: None,
    });
    many.extend(more);
    let crowded = world.enroller().with_identities_at(many, since(NOW, NOW)).expect("an enroller");
    let after = crowded.with_identities_at(world.identities(), since(NOW, NOW)).expect("an enroller");
    assert_eq!(after.gone.len(), GONE_MAX);
    let mut claims = world.agent.claims(&world.key);
    (claims["iat"], claims["exp"]) = (json!(NOW + 60), json!(NOW + 300));
    let verdict = after.held(&world.agent.token(&world.agent.header(), &claims), &world.csr, at(NOW));
    assert_eq!(verdict, Err(Denied::BeforeStart));
    (claims["iat"], claims["exp"]) = (json!(NOW + 61), json!(NOW + 300));
    let verdict = after.held(&world.agent.token(&world.agent.header(), &claims), &world.csr, at(NOW + 61));
    assert!(verdict.is_ok(), "{verdict:?}");
}

#[test]
fn refuses_identities_that_contradict_each_other() {
    let world = &*WORLD;
    let key = world.agent.public_key();
    let identity = |role, name, email: &str, keys| EnrolIdentity {
        principal: principal(role, name),
        email: email.to_owned(),
        keys: held(keys),
        oidc: None,
    };
    let one = identity(Role::Agent, "one", AGENT, vec![key.clone()]);
    let agent = principal(Role::Agent, "two");
    let cases = [
        (
            identity(Role::Client, "one", AGENT, vec![key.clone()]),
            EnrollerError::DuplicateEmail { email: AGENT.to_owned() },
        ),
        (one.clone(), EnrollerError::DuplicatePrincipal { principal: one.principal.clone() }),
        (identity(Role::Agent, "two", "nobody", vec![key.clone()]), EnrollerError::Email { principal: agent.clone() }),
        (identity(Role::Agent, "two", CLIENT, vec![]), EnrollerError::Keys { principal: agent.clone() }),
        (identity(Role::Agent, "two", CLIENT, vec![key; 9]), EnrollerError::Keys { principal: agent }),
    ];
    for (second, error) in cases {
        let result = Enroller::new(AUDIENCE.to_owned(), vec![one.clone(), second], Vec::new(), at(NOW));
        assert_eq!(result.expect_err("refused"), error);
    }
    assert_eq!(
        Enroller::new(String::new(), vec![one], Vec::new(), at(NOW)).expect_err("refused"),
        EnrollerError::Audience
    );
}

#[test]
fn words_of_refusals_are_unique() {
    let words: BTreeSet<_> = Denied::ALL.iter().map(|denied| denied.as_str()).collect();
    assert_eq!(words.len(), Denied::ALL.len());
    assert_eq!(Denied::NotYetValid.to_string(), "notYetValid");
}
