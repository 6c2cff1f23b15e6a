//! Tokens that are verified by published keys: of service accounts at Google, of Google itself, and of OIDC issuers.

use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::key_set::{Finding, KeySet, KeySetId};

const UNIQUE_ID: &str = "100000000000000000001";
/// When the process started.
const STARTED: u64 = NOW - 3600;

const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";
const SUBJECT: &str = "system:serviceaccount:acme:agent";

/// Published sets, and what was asked of them.
struct Published {
    sets: Vec<(KeySetId, KeySet)>,
    asked: Mutex<Vec<(KeySetId, String)>>,
}

impl KeySource for Published {
    fn find<'a>(&'a self, set: &'a KeySetId, key_id: &'a str) -> Finding<'a> {
        self.asked.lock().expect("alive").push((set.clone(), key_id.to_owned()));
        let found = self.sets.iter().find(|(id, _)| id == set);
        let key = found.map_or(Err(NoKey::Unavailable), |(_, keys)| keys.find(key_id).cloned().ok_or(NoKey::Unknown));
        Box::pin(std::future::ready(key))
    }
}

/// The outcome of something that does not wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("waits"),
    }
}

/// A world in which the agent's keys are at Google, and which has an issuer of each binding.
struct Issued {
    enroller: Enroller,
    published: Published,
    issuer: Account,
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).expect("a set")
}

impl Issued {
    fn new() -> Self {
        Self::of(None)
    }

    /// The same, with the number of the agent's account if there is one.
    fn of(unique_id: Option<&str>) -> Self {
        let world = &*WORLD;
        let issuer = Account::new("issuer@acme.example");
        let at_google = Some(AccountKeys::AtGoogle { unique_id: unique_id.map(str::to_owned) });
        let agent = EnrolIdentity {
            principal: principal(Role::Agent, "one"),
            email: AGENT.to_owned(),
            keys: at_google,
            oidc: None,
        };
        let mut identities = vec![agent];
        let bindings = [("audience", Binding::Audience), ("cnf", Binding::Confirmation), ("bearer", Binding::Bearer)];
        let mut issuers = Vec::new();
        let mut sets = vec![
            (KeySetId::Account(AGENT.to_owned()), set(&[world.agent.jwk("g1")])),
            (KeySetId::Google, set(&[issuer.jwk("google")])),
        ];
        for (name, binding) in bindings {
            identities.push(EnrolIdentity {
                principal: principal(Role::Client, name),
                email: format!("{name}@acme.example"),
                keys: None,
                oidc: Some(OidcSubject {
                    issuer: name.to_owned(),
                    subject: SUBJECT.to_owned(),
                    email_is_checked: false,
                }),
            });
            let spelling = format!("{CLUSTER}/{name}");
            issuers.push(OidcIssuer { name: name.to_owned(), issuer: spelling, audience: None, binding });
            sets.push((KeySetId::Issuer(name.to_owned()), set(&[issuer.jwk("i1")])));
        }
        let enroller = Enroller::new(AUDIENCE.to_owned(), identities, issuers, at(NOW)).expect("an enroller");
        Self { enroller, published: Published { sets, asked: Mutex::default() }, issuer }
    }

    fn judge_at(&self, token: &str, now: u64) -> Result<Admitted, Denied> {
        at_once(self.enroller.verdict_at(token, &WORLD.csr, since(STARTED, now), &self.published))
    }

    fn judge(&self, token: &str) -> Result<Admitted, Denied> {
        self.judge_at(token, NOW)
    }

    fn asked(&self) -> usize {
        self.published.asked.lock().expect("alive").len()
    }

    /// A token of the service account, signed with this key and naming it so.
    fn own(&self, account: &Account, key_id: &str) -> String {
        let header = json!({"alg": "RS256", "kid": key_id, "typ": "JWT"});
        account.token(&header, &WORLD.agent.claims(&WORLD.key))
    }

    fn issued(&self, key_id: &str, claims: &Value) -> String {
        self.issuer.token(&json!({"alg": "RS256", "kid": key_id, "typ": "JWT"}), claims)
    }
}

fn bound_audience() -> String {
    format!("{AUDIENCE}?k={}", BASE64_URL_SAFE_NO_PAD.encode(WORLD.key.spki_sha256()))
}

/// Claims as Google's metadata server writes them.
fn id_token() -> Value {
    json!({
        "iss": GOOGLE_ISSUER, "aud": bound_audience(), "azp": UNIQUE_ID, "sub": UNIQUE_ID, "email": AGENT,
        "email_verified": true, "iat": NOW, "exp": NOW + 3600,
        "google": {"compute_engine": {"instance_id": "1"}},
    })
}

/// Claims as Kubernetes writes them.
fn projected(name: &str) -> Value {
    json!({
        "iss": format!("{CLUSTER}/{name}"), "aud": [AUDIENCE], "sub": SUBJECT, "iat": NOW, "nbf": NOW, "exp": NOW + 3607,
        "jti": "5a1b2c3d", "kubernetes.io": {
            "namespace": "acme", "pod": {"name": "agent-0", "uid": "1"}, "serviceaccount": {"name": "agent", "uid": "2"},
        },
    })
}

fn with(mut claims: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        claims[*name] = value.clone();
    }
    claims
}

#[test]
fn admits_a_token_of_a_key_at_google_and_names_the_key() {
    let issued = Issued::new();
    let admitted = issued.judge(&issued.own(&WORLD.agent, "g1")).expect("admitted");
    assert_eq!(admitted.evidence.proof, Proof::GoogleKey("g1".to_owned()));
    assert_eq!(admitted.evidence.proof.to_string(), "googleKey:g1");
    assert_eq!(admitted.principal, principal(Role::Agent, "one"));
    assert_eq!(admitted.evidence.verified_by, sha256(&WORLD.agent.spki_der));
}

#[test]
fn an_account_that_is_known_by_its_number_comes_with_id_tokens_alone() {
    let issued = Issued::of(Some(UNIQUE_ID));
    assert_eq!(
        issued.judge(&issued.own(&WORLD.agent, "g1")),
        Err(Denied::UnknownIdentity),
        "made again, with a new key"
    );
    assert_eq!(issued.asked(), 0);
    let admitted = issued.judge(&issued.issued("google", &id_token())).expect("admitted");
    assert_eq!(admitted.evidence.proof, Proof::GoogleIdToken { about: about(GOOGLE_ISSUER, UNIQUE_ID) });
    assert_eq!(admitted.evidence.verified_by, sha256(&issued.issuer.spki_der));
}

#[test]
fn refuses_tokens_of_keys_that_google_does_not_publish() {
    let issued = Issued::new();
    assert_eq!(issued.judge(&issued.own(&WORLD.agent, "g2")), Err(Denied::KeyId), "a deleted key");
    assert_eq!(issued.judge(&issued.own(&WORLD.client, "g1")), Err(Denied::Signature), "another account's key");
    let without = WORLD.agent.token(&json!({"alg": "RS256"}), &WORLD.agent.claims(&WORLD.key));
    assert_eq!(issued.judge(&without), Err(Denied::KeyId), "no key named");
    let nobody = Published { sets: Vec::new(), asked: Mutex::default() };
    let token = issued.own(&WORLD.agent, "g1");
    let verdict = at_once(issued.enroller.verdict_at(&token, &WORLD.csr, since(STARTED, NOW), &nobody));
    assert_eq!(verdict, Err(Denied::KeySource));
}

#[test]
fn asks_for_no_key_before_all_else_is_right() {
    let issued = Issued::new();
    let header = json!({"alg": "RS256", "kid": "g1"});
    let claims = |changes: &[(&str, Value)]| with(WORLD.agent.claims(&WORLD.key), changes);
    let other = "other@acme.iam.gserviceaccount.com";
    let cases = [
        ("unknown account", claims(&[("iss", json!(other)), ("sub", json!(other))]), Denied::UnknownIdentity),
        ("a path", claims(&[("iss", json!("a@b/../../x"))]), Denied::UnknownIdentity),
        ("a query", claims(&[("iss", json!("a@evil.com?x="))]), Denied::UnknownIdentity),
        ("a line end", claims(&[("iss", json!("a@b\r\nX: y"))]), Denied::UnknownIdentity),
        ("other audience", claims(&[("aud", json!("https://other.example/enrol"))]), Denied::Audience),
        ("expired", claims(&[("iat", json!(NOW - 400)), ("exp", json!(NOW - 100))]), Denied::Expired),
        ("bound to another key", claims(&[("cnf", json!({"spki#S256": "AAAA"}))]), Denied::Binding),
    ];
    for (name, claims, denied) in cases {
        assert_eq!(issued.judge(&WORLD.agent.token(&header, &claims)), Err(denied), "{name}");
    }
    let foreign = [
        (
            "unknown subject",
            with(projected("bearer"), &[("sub", json!("system:serviceaccount:acme:other"))]),
            Denied::UnknownIdentity,
        ),
        ("unknown e-mail", with(id_token(), &[("email", json!(other))]), Denied::UnknownIdentity),
        ("another issuer", with(projected("bearer"), &[("iss", json!("https://evil.example"))]), Denied::Malformed),
    ];
    for (name, claims, denied) in foreign {
        assert_eq!(issued.judge(&issued.issued("i1", &claims)), Err(denied), "{name}");
    }
    assert_eq!(issued.asked(), 0);
}

#[test]
fn admits_googles_id_token_that_is_bound_by_its_audience() {
    let issued = Issued::new();
    let admitted = issued.judge(&issued.issued("google", &id_token())).expect("admitted");
    assert_eq!(admitted.evidence.proof.to_string(), "googleIdToken");
    assert_eq!(admitted.principal, principal(Role::Agent, "one"));
}

#[test]
fn refuses_other_id_tokens_of_google() {
    let issued = Issued::of(Some(UNIQUE_ID));
    let other = format!("{AUDIENCE}?k={}", BASE64_URL_SAFE_NO_PAD.encode([7; 32]));
    let cases = [
        ("audience without key", "aud", json!(AUDIENCE), Denied::Audience),
        ("audience of another key", "aud", json!(other), Denied::Binding),
        ("audience with more", "aud", json!(format!("{}&x", bound_audience())), Denied::Binding),
        ("audience with padding", "aud", json!(format!("{}=", bound_audience())), Denied::Binding),
        ("another server's audience", "aud", json!(bound_audience().replace("tunnel", "other")), Denied::Audience),
        ("another client's audience", "aud", json!("32555940559.apps.googleusercontent.com"), Denied::Audience),
        ("two audiences", "aud", json!([bound_audience(), AUDIENCE]), Denied::Audience),
        ("no audience", "aud", Value::Null, Denied::Audience),
        ("another account of the same spelling", "sub", json!("100000000000000000002"), Denied::Subject),
        ("e-mail in another spelling", "email", json!(AGENT.to_uppercase()), Denied::UnknownIdentity),
        ("e-mail of a foreign project", "email", json!("agent@evil.iam.gserviceaccount.com"), Denied::UnknownIdentity),
        ("e-mail that was not verified", "email_verified", json!(false), Denied::Email),
        ("a word for verified", "email_verified", json!("true"), Denied::Email),
        ("an issuer without scheme", "iss", json!("accounts.google.com"), Denied::Malformed),
        ("an issuer with a slash", "iss", json!("https://accounts.google.com/"), Denied::Malformed),
        ("a homograph", "iss", json!("https://accounts.gооgle.com"), Denied::Malformed),
        ("eleven minutes old", "iat", json!(NOW - 660), Denied::Expired),
        ("from the future", "iat", json!(NOW + 61), Denied::NotYetValid),
        ("expired", "exp", json!(NOW - 61), Denied::Lifetime),
        ("a time in words", "exp", json!("never"), Denied::Malformed),
    ];
    for (name, claim, value, denied) in cases {
        let token = issued.issued("google", &with(id_token(), &[(claim, value)]));
        assert_eq!(issued.judge(&token), Err(denied), "{name}");
    }
    let mut without = id_token();
    without.as_object_mut().expect("an object").remove("email");
    assert_eq!(issued.judge(&issued.issued("google", &without)), Err(Denied::Email), "format=full was forgotten");
    assert_eq!(issued.judge(&issued.issued("i9", &id_token())), Err(Denied::KeyId), "an unknown key");
    let access = "ya29.a0AfH6SMBx-an-access-token";
    assert_eq!(issued.judge(access), Err(Denied::Malformed), "an access token");
}

#[test]
fn takes_each_issuers_tokens_by_its_binding() {
    let issued = Issued::new();
    let hash = BASE64_URL_SAFE_NO_PAD.encode(WORLD.key.spki_sha256());
    let cnf = json!({"spki#S256": hash});
    let cases = [
        ("audience", with(projected("audience"), &[("aud", json!([bound_audience()]))]), Ok("oidc:audience")),
        ("audience", projected("audience"), Err(Denied::Audience)),
        ("audience", with(projected("audience"), &[("cnf", cnf.clone())]), Err(Denied::Audience)),
        ("cnf", with(projected("cnf"), &[("cnf", cnf.clone())]), Ok("oidc:cnf")),
        ("cnf", projected("cnf"), Err(Denied::Binding)),
        ("cnf", with(projected("cnf"), &[("cnf", json!({"spki#S256": "AAAA"}))]), Err(Denied::Binding)),
        ("cnf", with(projected("cnf"), &[("cnf", cnf), ("aud", json!([bound_audience()]))]), Err(Denied::Audience)),
        ("bearer", projected("bearer"), Ok("bearer:bearer")),
        ("bearer", with(projected("bearer"), &[("aud", json!([AUDIENCE, CLUSTER]))]), Err(Denied::Audience)),
        ("bearer", with(projected("bearer"), &[("aud", json!([CLUSTER]))]), Err(Denied::Audience)),
        ("bearer", with(projected("bearer"), &[("aud", json!([]))]), Err(Denied::Audience)),
    ];
    for (name, claims, expected) in cases {
        let verdict = issued.judge(&issued.issued("i1", &claims)).map(|admitted| admitted.evidence.proof.to_string());
        assert_eq!(verdict.as_deref().map_err(|denied| *denied), expected, "{name}: {claims}");
    }
}

#[test]
fn a_proof_is_accepted_as_long_as_the_configuration_would_take_it_again() {
    let world = &*WORLD;
    let issuer =
        |binding| OidcIssuer { name: "cluster".to_owned(), issuer: CLUSTER.to_owned(), audience: None, binding };
    let enroller = |keys: Option<AccountKeys>, subject: Option<&str>, binding| {
        let oidc = |subject: &str| OidcSubject {
            issuer: "cluster".to_owned(),
            subject: subject.to_owned(),
            email_is_checked: false,
        };
        let oidc = subject.map(oidc);
        let identity = EnrolIdentity { principal: principal(Role::Agent, "one"), email: AGENT.to_owned(), keys, oidc };
        Enroller::new(AUDIENCE.to_owned(), vec![identity], vec![issuer(binding)], at(NOW)).expect("an enroller")
    };
    let at_google = |id: Option<&str>| Some(AccountKeys::AtGoogle { unique_id: id.map(str::to_owned) });
    let mine = held(vec![world.agent.public_key()]);
    let others = held(vec![world.client.public_key()]);
    let key = Evidence { proof: Proof::Key("a".to_owned()), verified_by: sha256(&world.agent.spki_der) };
    let of = |proof| Evidence { proof, verified_by: [7; 32] };
    let google_key = of(Proof::GoogleKey("g1".to_owned()));
    let id_token = of(Proof::GoogleIdToken { about: about(GOOGLE_ISSUER, UNIQUE_ID) });
    let subject = about(CLUSTER, SUBJECT);
    let oidc = of(Proof::Oidc { issuer: "cluster".to_owned(), about: subject });
    let bearer = of(Proof::Bearer { issuer: "cluster".to_owned(), about: subject });
    let other_name = of(Proof::Oidc { issuer: "other".to_owned(), about: subject });
    let all = [&key, &google_key, &id_token, &oidc, &bearer, &other_name];
    let (bound, unbound) = (Binding::Confirmation, Binding::Bearer);
    let cases = [
        ("a key in a file", enroller(mine.clone(), None, bound), vec![&key]),
        ("another key in the file", enroller(others, None, bound), vec![]),
        ("keys at Google", enroller(at_google(None), None, bound), vec![&google_key, &id_token]),
        ("an account by its number", enroller(at_google(Some(UNIQUE_ID)), None, bound), vec![&id_token]),
        ("another account of that e-mail", enroller(at_google(Some("2")), None, bound), vec![]),
        ("an issuer", enroller(None, Some(SUBJECT), bound), vec![&oidc]),
        ("an issuer of bearer tokens", enroller(None, Some(SUBJECT), unbound), vec![&bearer]),
        ("another subject", enroller(None, Some("other"), bound), vec![]),
        ("an issuer beside a key", enroller(mine, Some(SUBJECT), bound), vec![&key, &oidc]),
    ];
    for (name, enroller, accepted) in cases {
        let taken: Vec<_> = all.into_iter().filter(|evidence| enroller.accepts(AGENT, evidence)).collect();
        assert_eq!(taken, accepted, "{name}");
        assert!(all.iter().all(|evidence| !enroller.accepts("other@acme.example", evidence)), "{name}");
    }
}

#[test]
fn a_bearer_token_is_good_once_and_for_ten_minutes() {
    let issued = Issued::new();
    let token = issued.issued("i1", &projected("bearer"));
    assert!(issued.judge_at(&token, NOW + 600).is_ok());
    assert_eq!(issued.judge_at(&token, NOW + 600), Err(Denied::Replayed));
    let late = issued.issued("i1", &with(projected("bearer"), &[("jti", json!("later"))]));
    assert_eq!(issued.judge_at(&late, NOW + 601), Err(Denied::Expired));
}

#[test]
fn a_bearer_token_from_before_the_start_of_the_process_is_refused() {
    let issued = Issued::new();
    // Two hours ahead at the start, or right: the clock as it is at the verdict counts.
    for started in [STARTED, STARTED - 7200] {
        for (iat, expected) in [(started + 60, Err(Denied::BeforeStart)), (started + 61, Ok(()))] {
            let claims = with(projected("bearer"), &[("iat", json!(iat)), ("nbf", json!(iat))]);
            let token = issued.issued("i1", &claims);
            let moment = Moment { now: iat, ran: Duration::from_secs(iat - started) };
            let verdict = at_once(issued.enroller.verdict_at(&token, &WORLD.csr, moment, &issued.published));
            assert_eq!(verdict.map(|_| ()), expected);
        }
    }
}

#[test]
fn pins_the_algorithm_to_the_key() {
    let issued = Issued::new();
    let claims = projected("bearer");
    let token = issued.issuer.token(&json!({"alg": "ES256", "kid": "i1"}), &claims);
    assert_eq!(issued.judge(&token), Err(Denied::Algorithm));
    let own = WORLD.agent.token(&json!({"alg": "ES256", "kid": "g1"}), &WORLD.agent.claims(&WORLD.key));
    assert_eq!(issued.judge(&own), Err(Denied::Algorithm));
    let id = issued.issuer.token(&json!({"alg": "ES256", "kid": "google"}), &id_token());
    assert_eq!(issued.judge(&id), Err(Denied::Algorithm));
}

#[test]
fn a_claim_that_is_there_twice_is_refused_at_any_depth() {
    let issued = Issued::new();
    let header = json!({"alg": "RS256", "kid": "i1"}).to_string();
    let claims = projected("bearer").to_string();
    let doubled = [
        claims.replacen('{', r#"{"sub":"other","#, 1),
        claims.replacen(r#""namespace""#, r#""namespace":"x","namespace""#, 1),
    ];
    for claims in doubled {
        assert_eq!(issued.judge(&issued.issuer.signed(&header, &claims)), Err(Denied::Malformed), "{claims}");
    }
}

#[test]
fn headers_of_issuers_may_name_a_certificate_hash_and_an_access_token_and_nothing_else() {
    let issued = Issued::new();
    let cases = [
        (json!({"alg": "RS256", "kid": "i1", "x5t": "abc"}), None),
        (json!({"alg": "RS256", "kid": "i1", "typ": "at+jwt"}), None),
        (json!({"alg": "RS256", "kid": "i1", "typ": "dpop+jwt"}), Some(Denied::Header)),
        (json!({"alg": "RS256", "kid": "i1", "jku": "https://evil.example"}), Some(Denied::Header)),
        (json!({"alg": "RS256", "kid": "i1", "crit": ["exp"]}), Some(Denied::Header)),
    ];
    for (number, (header, denied)) in cases.into_iter().enumerate() {
        let claims = with(projected("bearer"), &[("jti", json!(number))]);
        assert_eq!(issued.judge(&issued.issuer.token(&header, &claims)).err(), denied, "{header}");
    }
}

#[test]
fn checks_the_e_mail_of_a_subject_where_that_is_asked_for() {
    let issuer = Account::new("issuer@acme.example");
    let email = "app@acme.example";
    let oidc = OidcSubject { issuer: "idp".to_owned(), subject: "42".to_owned(), email_is_checked: true };
    let identity = EnrolIdentity {
        principal: principal(Role::Client, "app"),
        email: email.to_owned(),
        keys: None,
        oidc: Some(oidc),
    };
    let idp = OidcIssuer {
        name: "idp".to_owned(),
        issuer: "https://idp.example".to_owned(),
        audience: Some("ginnel".to_owned()),
        binding: Binding::Bearer,
    };
    let enroller = Enroller::new(AUDIENCE.to_owned(), vec![identity], vec![idp], at(NOW)).expect("an enroller");
    let keys = set(&[issuer.jwk("i1")]);
    let published = Published { sets: vec![(KeySetId::Issuer("idp".to_owned()), keys)], asked: Mutex::default() };
    let cases = [
        (json!(email), json!(true), Ok(())),
        (json!(email), json!(false), Err(Denied::Email)),
        (json!(email), Value::Null, Err(Denied::Email)),
        (json!("other@acme.example"), json!(true), Err(Denied::Email)),
    ];
    for (email, verified, expected) in cases {
        let claims = json!({
            "iss": "https://idp.example", "aud": "ginnel", "sub": "42", "iat": NOW, "exp": NOW + 60, "email": email,
            "email_verified": verified,
        });
        let token = issuer.token(&json!({"alg": "RS256", "kid": "i1"}), &claims);
        let verdict = at_once(enroller.verdict_at(&token, &WORLD.csr, since(STARTED, NOW), &published));
        assert_eq!(verdict.map(|_| ()), expected, "{claims}");
    }
}

#[test]
fn refuses_issuers_and_subjects_that_contradict_each_other() {
    let issuer = |name: &str, issuer: &str| OidcIssuer {
        name: name.to_owned(),
        issuer: issuer.to_owned(),
        audience: None,
        binding: Binding::Bearer,
    };
    let subject = |name: &str, of: &str| EnrolIdentity {
        principal: principal(Role::Client, name),
        email: format!("{name}@acme.example"),
        keys: None,
        oidc: Some(OidcSubject { issuer: of.to_owned(), subject: "42".to_owned(), email_is_checked: false }),
    };
    let new = |identities, issuers| Enroller::new(AUDIENCE.to_owned(), identities, issuers, at(NOW)).map(|_| ());
    let duplicate = Err(EnrollerError::DuplicateIssuer { name: "b".to_owned() });
    assert_eq!(new(vec![], vec![issuer("a", "https://a"), issuer("b", "https://a")]), duplicate);
    assert_eq!(new(vec![], vec![issuer("b", "https://a"), issuer("b", "https://b")]), duplicate);
    assert_eq!(new(vec![], vec![issuer("b", GOOGLE_ISSUER)]), duplicate);
    let unknown = EnrollerError::UnknownIssuer { principal: principal(Role::Client, "x"), issuer: "b".to_owned() };
    assert_eq!(new(vec![subject("x", "b")], vec![issuer("a", "https://a")]), Err(unknown));
    let twice = EnrollerError::DuplicateSubject { principal: principal(Role::Client, "y") };
    assert_eq!(new(vec![subject("x", "a"), subject("y", "a")], vec![issuer("a", "https://a")]), Err(twice));
    let mut bare = subject("x", "a");
    bare.oidc = None;
    let none = EnrollerError::Keys { principal: principal(Role::Client, "x") };
    assert_eq!(new(vec![bare], vec![]), Err(none), "neither keys nor subject");
}
